//! Metadata of custom resources and of the objects embedded in them (apiextensions-apiserver `schema/objectmeta`).

use serde_json::{Map, Value};

use super::{Structural, Trail, is_meta_field};
use crate::codec;
use crate::field::{Error, ErrorList, Path};
use crate::names::GroupVersion;
use crate::object::Object;
use crate::schema::Schema;
use crate::validation;

/// Brings `metadata` of an object into the form that Go prints, dropping what `ObjectMeta` does not have. `prefix` is
/// the way to the object. With `lenient`, members that cannot be read are dropped instead of refused.
///
/// # Errors
/// Go's text for a member of the wrong type.
pub fn coerce_metadata(
    object: &mut Map<String, Value>,
    meta: &Schema,
    prefix: &str,
    lenient: bool,
) -> Result<Vec<String>, String> {
    let Some(found) = object.get("metadata") else { return Ok(Vec::new()) };
    let at = if prefix.is_empty() { "metadata".to_owned() } else { format!("{prefix}.metadata") };
    let members = match found {
        Value::Null => Map::new(),
        Value::Object(members) => members.clone(),
        other => {
            let word = match other {
                Value::Bool(_) => "bool",
                Value::Number(_) => "number",
                Value::String(_) => "string",
                _ => "array",
            };
            return Err(format!("json: cannot unmarshal {word} into Go value of type v1.ObjectMeta"));
        }
    };
    let (map, unknown) = match codec::conform_members(meta, &members) {
        Ok(conformed) => conformed,
        Err(error) if !lenient => return Err(error),
        Err(_) => {
            let mut kept = Map::new();
            for (name, value) in members {
                let one = Map::from_iter([(name, value)]);
                if let Ok((good, _)) = codec::conform_members(meta, &one) {
                    kept.extend(good);
                }
            }
            (kept, Vec::new())
        }
    };
    object.insert("metadata".to_owned(), Value::Object(map));
    Ok(unknown.into_iter().map(|field| format!("{at}.{field}")).collect())
}

/// Checks `apiVersion` and `kind` of embedded objects and coerces their metadata. The root is not looked at.
///
/// # Errors
/// The first member of the wrong type, unless `lenient`, which drops them.
pub fn coerce(
    object: &mut Value,
    schema: Option<&Structural>,
    meta: &Schema,
    lenient: bool,
) -> Result<Vec<String>, Error> {
    let Some(schema) = schema.filter(|s| s.any(&|s| s.embedded)) else { return Ok(Vec::new()) };
    let mut walk = Coercer { meta, lenient, trail: Trail::default(), unknown: Vec::new() };
    walk.coerce(object, schema, &Path::default(), true)?;
    walk.unknown.sort_unstable();
    Ok(walk.unknown)
}

struct Coercer<'a> {
    meta: &'a Schema,
    lenient: bool,
    trail: Trail,
    unknown: Vec<String>,
}

impl Coercer<'_> {
    fn coerce(&mut self, value: &mut Value, schema: &Structural, path: &Path, root: bool) -> Result<(), Error> {
        match value {
            Value::Object(map) => {
                if schema.embedded && !root {
                    self.object(map, path)?;
                }
                for (name, value) in map {
                    let here = self.trail.key(name);
                    if let Some(property) = schema.property(name) {
                        self.coerce(value, property, &path.child(name), false)?;
                    } else if let Some(additional) = schema.additional_schema() {
                        self.coerce(value, additional, &path.key(name), false)?;
                    }
                    self.trail.back(here);
                }
            }
            Value::Array(items) => {
                let Some(schema) = schema.items.as_deref() else { return Ok(()) };
                for (index, value) in items.iter_mut().enumerate() {
                    let here = self.trail.index(index);
                    self.coerce(value, schema, &path.index(index), false)?;
                    self.trail.back(here);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn object(&mut self, map: &mut Map<String, Value>, path: &Path) -> Result<(), Error> {
        for name in ["apiVersion", "kind"] {
            match map.get(name) {
                None | Some(Value::String(_)) => {}
                Some(_) if self.lenient => drop(map.remove(name)),
                Some(other) => return Err(Error::invalid(path.child(name), other.clone(), "must be a string")),
            }
        }
        match coerce_metadata(map, self.meta, self.trail.text(), self.lenient) {
            Ok(unknown) => self.unknown.extend(unknown),
            Err(_) if self.lenient => {}
            Err(text) => {
                let value = map.get("metadata").cloned().unwrap_or_default();
                return Err(Error::invalid(path.child("metadata"), value, text));
            }
        }
        if let Some(Value::Object(metadata)) = map.get_mut("metadata")
            && metadata.get("creationTimestamp").is_some_and(Value::is_null)
        {
            metadata.remove("creationTimestamp");
        }
        Ok(())
    }
}

/// Problems of embedded objects: they need a kind and a version, and good metadata. The root is not looked at.
pub fn validate(object: &Value, schema: Option<&Structural>, meta: &Schema) -> ErrorList {
    let mut errors = ErrorList::new();
    if let Some(schema) = schema.filter(|s| s.any(&|s| s.embedded)) {
        check(object, schema, meta, &Path::default(), &mut errors);
    }
    errors
}

fn check(value: &Value, schema: &Structural, meta: &Schema, path: &Path, errors: &mut ErrorList) {
    match value {
        Value::Object(map) => {
            if schema.embedded {
                check_object(map, meta, path, errors);
            }
            for (name, value) in map {
                if let Some(property) = schema.property(name) {
                    check(value, property, meta, &path.child(name), errors);
                } else if let Some(additional) = schema.additional_schema() {
                    check(value, additional, meta, &path.key(name), errors);
                }
            }
        }
        Value::Array(items) => {
            let Some(schema) = schema.items.as_deref() else { return };
            for (index, value) in items.iter().enumerate() {
                check(value, schema, meta, &path.index(index), errors);
            }
        }
        _ => {}
    }
}

/// `validateEmbeddedResource`.
fn check_object(map: &Map<String, Value>, meta: &Schema, path: &Path, errors: &mut ErrorList) {
    for name in ["apiVersion", "kind"] {
        if !map.contains_key(name) {
            errors.push(Error::required(path.child(name), ""));
        }
    }
    for (name, value) in map.iter().filter(|(name, _)| is_meta_field(name)) {
        let at = path.child(name);
        match (name.as_str(), value) {
            ("metadata", _) => {
                let mut one = Map::from_iter([("metadata".to_owned(), value.clone())]);
                if let Err(text) = coerce_metadata(&mut one, meta, "", false) {
                    errors.push(Error::invalid(at, value.clone(), text));
                    continue;
                }
                let mut object = Object(one);
                if object.name().is_empty() {
                    // There must be a name; embedded objects need none.
                    object.set(&["metadata", "name"], "fakename");
                }
                let namespaced = !object.namespace().is_empty();
                let rule = |name: &str, prefix: bool| validation::path_segment(name, prefix);
                errors.extend(crate::meta::validate_object_meta(&object, namespaced, &rule, &at));
            }
            (_, Value::String(text)) if text.is_empty() => {
                errors.push(Error::invalid(at, "", "must not be empty"));
            }
            ("apiVersion", Value::String(text)) => {
                if GroupVersion::parse(text).is_none() {
                    let detail = format!("unexpected GroupVersion string: {text}");
                    errors.push(Error::invalid(at, text.as_str(), detail));
                }
            }
            (_, Value::String(text)) => {
                let problems = validation::dns1035_label(&text.to_lowercase(), false);
                if !problems.is_empty() {
                    let detail = format!("may have mixed case, but should otherwise match: {}", problems.join(","));
                    errors.push(Error::invalid(at, text.as_str(), detail));
                }
            }
            _ => errors.push(Error::invalid(at, value.clone(), "must be a string")),
        }
    }
}
