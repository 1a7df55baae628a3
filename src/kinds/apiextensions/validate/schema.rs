//! Problems of a schema in a definition (`ValidateCustomResourceDefinitionOpenAPISchema`, `ValidateDefaults`).

use api::field::{Error, ErrorList, Path};
use api::structural::rules::{self, Rules};
use api::structural::{Additional, Structural, Ty, embedded, prune, values};
use serde_json::{Map, Value};

use super::Options;
use crate::facts;
use crate::json::Json;

const TYPES: &[&str] = &["array", "boolean", "integer", "number", "object", "string"];
const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// Every schema that a schema holds, itself first (`SchemaHas`).
pub(super) fn any(schema: &Value, test: &dyn Fn(&Value) -> bool) -> bool {
    if !schema.is_object() {
        return false;
    }
    if test(schema) {
        return true;
    }
    let one = ["items", "not", "additionalProperties", "additionalItems"];
    let many = ["allOf", "anyOf", "oneOf", "items"];
    let named = ["properties", "patternProperties", "definitions", "dependencies"];
    one.iter().any(|m| any(schema.at(m), test))
        || many.iter().any(|m| schema.list(m).iter().any(|s| any(s, test)))
        || named.iter().any(|m| schema.entries(m).any(|(_, s)| any(s, test)))
}

/// What a place in a schema inherits from those above.
#[derive(Clone)]
struct Place {
    /// Why defaults are forbidden here.
    no_defaults: Option<String>,
    in_metadata: bool,
}

/// Problems of a schema but for its structure.
pub(super) fn open_api(schema: &Value, path: &Path, options: &Options) -> ErrorList {
    let mut errors = ErrorList::new();
    walk(schema, path, &Place { no_defaults: None, in_metadata: false }, true, options, &mut errors);
    errors
}

/// `specStandardValidatorV3.validate`.
fn standard(schema: &Value, path: &Path, place: &Place, options: &Options, errors: &mut ErrorList) {
    let ty = schema.text("type");
    if options.valid_types && !ty.is_empty() && !TYPES.contains(&ty) {
        errors.push(Error::not_supported(path.child("type"), ty, TYPES));
    }
    if schema.has("default")
        && let Some(why) = &place.no_defaults
    {
        errors.push(Error::forbidden(path.child("default"), format!("must not be set {why}")));
    }
    let unsupported = [
        (!schema.text("id").is_empty(), "id"),
        (schema.has("additionalItems"), "additionalItems"),
        (schema.count("patternProperties") > 0, "patternProperties"),
        (schema.count("definitions") > 0, "definitions"),
        (schema.has("dependencies"), "dependencies"),
        (schema.has("$ref"), "$ref"),
    ];
    for (found, name) in unsupported {
        if found {
            errors.push(Error::forbidden(path.child(name), format!("{name} is not supported")));
        }
    }
    if ty == "null" {
        let text = "type cannot be set to null, use nullable as an alternative";
        errors.push(Error::forbidden(path.child("type"), text));
    }
    if !schema.list("items").is_empty() {
        errors.push(Error::forbidden(path.child("items"), "items must be a schema object and not an array"));
    }
    if place.in_metadata && schema.flag("x-kubernetes-embedded-resource") {
        let at = path.child("x-kubernetes-embedded-resource");
        errors.push(Error::forbidden(at, "must not be used inside of resource meta"));
    }
}

fn walk(schema: &Value, path: &Path, place: &Place, root: bool, options: &Options, errors: &mut ErrorList) {
    if !schema.is_object() {
        return;
    }
    standard(schema, path, place, options, errors);
    if schema.flag("uniqueItems") {
        let text = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
        errors.push(Error::forbidden(path.child("uniqueItems"), text));
    }
    let additional = schema.at("additionalProperties");
    if !additional.is_null() {
        let at = path.child("additionalProperties");
        if schema.count("properties") > 0 && additional.as_bool() != Some(true) {
            let text = "additionalProperties and properties are mutual exclusive";
            errors.push(Error::forbidden(at.clone(), text));
        }
        let inner = Place {
            no_defaults: if place.in_metadata {
                Some("inside additionalProperties applying to object metadata".to_owned())
            } else {
                place.no_defaults.clone()
            },
            ..place.clone()
        };
        walk(additional, &at, &inner, false, options, errors);
    }
    for (name, property) in schema.entries("properties") {
        let mut inner = place.clone();
        if (root || schema.flag("x-kubernetes-embedded-resource")) && matches!(name, "metadata" | "kind" | "apiVersion")
        {
            inner.in_metadata = true;
            if root {
                inner.no_defaults = Some(format!("in top-level {name}"));
            }
        }
        walk(property, &path.child("properties").key(name), &inner, false, options, errors);
    }
    walk(schema.at("not"), &path.child("not"), place, false, options, errors);
    for junctor in ["allOf", "oneOf", "anyOf"] {
        for (index, nested) in schema.list(junctor).iter().enumerate() {
            walk(nested, &path.child(junctor).index(index), place, false, options, errors);
        }
    }
    for (name, nested) in schema.entries("definitions") {
        walk(nested, &path.child("definitions").key(name), place, false, options, errors);
    }
    walk(schema.at("items"), &path.child("items"), place, false, options, errors);
    for (index, nested) in schema.list("items").iter().enumerate() {
        walk(nested, &path.child("items").index(index), place, false, options, errors);
    }
    for (name, nested) in schema.entries("dependencies") {
        walk(nested, &path.child("dependencies").key(name), place, false, options, errors);
    }
    extensions(schema, path, options, errors);
    rule_forms(schema, path, errors);
}

fn extensions(schema: &Value, path: &Path, options: &Options, errors: &mut ErrorList) {
    let ty = schema.text("type");
    if schema.at("x-kubernetes-preserve-unknown-fields").as_bool() == Some(false) {
        let at = path.child("x-kubernetes-preserve-unknown-fields");
        errors.push(Error::invalid(at, false, "must be true or undefined"));
    }
    let mut wants_type = |name: &str, wanted: &str| {
        let text = format!("must be {wanted} if {name} is specified");
        match ty {
            ty if ty == wanted => return true,
            "" => errors.push(Error::required(path.child("type"), text)),
            ty => errors.push(Error::invalid(path.child("type"), ty, text)),
        }
        false
    };
    let map_type = schema.at("x-kubernetes-map-type").as_str();
    if map_type.is_some() {
        wants_type("x-kubernetes-map-type", "object");
    }
    let list_type = schema.at("x-kubernetes-list-type").as_str();
    let is_list = list_type.is_some() && wants_type("x-kubernetes-list-type", "array");
    if let Some(found) = map_type.filter(|t| !matches!(*t, "atomic" | "granular")) {
        errors.push(Error::not_supported(path.child("x-kubernetes-map-type"), found, &["atomic", "granular"]));
    }
    let items = schema.at("items");
    if is_list && options.atomic_sets && list_type == Some("set") && items.is_object() {
        let text = "must be atomic as item of a list with x-kubernetes-list-type=set";
        let item_list = items.at("x-kubernetes-list-type");
        match items.text("type") {
            "array" if item_list.as_str().is_some_and(|t| t != "atomic") => {
                let at = path.child("items").child("x-kubernetes-list-type");
                errors.push(Error::invalid(at, item_list.clone(), text));
            }
            "object" if items.text("x-kubernetes-map-type") != "atomic" => {
                let at = path.child("items").child("x-kubernetes-map-type");
                errors.push(Error::invalid(at, item_list.clone(), text));
            }
            _ => {}
        }
    }
    if let Some(found) = list_type.filter(|t| !matches!(*t, "atomic" | "set" | "map")) {
        errors.push(Error::not_supported(path.child("x-kubernetes-list-type"), found, &["atomic", "set", "map"]));
    }
    map_keys(schema, list_type, path, errors);
    if options.map_keys {
        errors.extend(nullable_keys(schema, path));
    }
}

fn map_keys(schema: &Value, list_type: Option<&str>, path: &Path, errors: &mut ErrorList) {
    let keys = schema.list("x-kubernetes-list-map-keys");
    if !keys.is_empty() {
        let text = "must be map if x-kubernetes-list-map-keys is non-empty";
        let at = path.child("x-kubernetes-list-type");
        match list_type {
            None => errors.push(Error::required(at, text)),
            Some("map") => {}
            Some(other) => errors.push(Error::invalid(at, other, text)),
        }
    }
    if list_type != Some("map") {
        return;
    }
    let at_keys = path.child("x-kubernetes-list-map-keys");
    if keys.is_empty() {
        errors.push(Error::required(at_keys.clone(), "must not be empty if x-kubernetes-list-type is map"));
    }
    let items = schema.at("items");
    let at_items = path.child("items");
    match items {
        Value::Null => {
            errors.push(Error::required(at_items, "must have a schema if x-kubernetes-list-type is map"));
        }
        Value::Object(_) if items.text("type") != "object" => {
            let text = "must be object if parent array's x-kubernetes-list-type is map";
            errors.push(Error::invalid(at_items.child("type"), items.text("type"), text));
        }
        Value::Object(_) => {
            let mut seen: Vec<&str> = Vec::new();
            for key in keys.iter().filter_map(Value::as_str) {
                let property = items.at("properties").at(key);
                if property.is_null() {
                    let text = "entries must all be names of item properties";
                    errors.push(Error::invalid(at_keys.clone(), Value::from(keys.to_vec()), text));
                } else if matches!(property.text("type"), "array" | "object") {
                    let text = "must be a scalar type if parent array's x-kubernetes-list-type is map";
                    let at = at_items.child("properties").key(key).child("type");
                    errors.push(Error::invalid(at, items.text("type"), text));
                }
                if seen.contains(&key) {
                    let text = "must not contain duplicate entries";
                    errors.push(Error::invalid(at_keys.clone(), Value::from(keys.to_vec()), text));
                }
                seen.push(key);
            }
        }
        other => {
            let text = "must only have a single schema if x-kubernetes-list-type is map";
            errors.push(Error::invalid(at_items, other.clone(), text));
        }
    }
}

/// `validateMapListKeysMapSet`.
pub(super) fn nullable_keys(schema: &Value, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    let items = schema.at("items");
    let list_type = schema.text("x-kubernetes-list-type");
    if !items.is_object() || !matches!(list_type, "set" | "map") {
        return errors;
    }
    let at = path.child("items");
    if items.flag("nullable") {
        let text = format!("cannot be nullable when x-kubernetes-list-type is {list_type}");
        errors.push(Error::forbidden(at.child("nullable"), text));
    }
    if list_type == "map" {
        for key in schema.list("x-kubernetes-list-map-keys").iter().filter_map(Value::as_str) {
            let property = items.at("properties").at(key);
            if property.is_null() {
                continue;
            }
            let at = at.child("properties").key(key);
            let required = items.list("required").iter().any(|r| r.as_str() == Some(key));
            if !required && !property.has("default") {
                let text = "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required \
                            property";
                errors.push(Error::required(at.child("default"), text));
            }
            if property.flag("nullable") {
                let text = "this property is in x-kubernetes-list-map-keys, so it cannot be nullable";
                errors.push(Error::forbidden(at.child("nullable"), text));
            }
        }
    }
    errors
}

/// The form of the rules of `x-kubernetes-validations`; see `expressions` for what they say.
fn rule_forms(schema: &Value, path: &Path, errors: &mut ErrorList) {
    const REASONS: &[&str] = &["FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"];
    let has_lines = |text: &str| text.contains(['\n', '\r']);
    for (index, rule) in schema.list("x-kubernetes-validations").iter().enumerate() {
        let at = path.child("x-kubernetes-validations").index(index);
        let (text, message) = (rule.text("rule"), rule.text("message"));
        let (trimmed, trimmed_message) = (text.trim(), message.trim());
        if trimmed.is_empty() {
            errors.push(Error::required(at.child("rule"), "rule is not specified"));
        } else if !message.is_empty() && trimmed_message.is_empty() {
            errors.push(Error::invalid(at.child("message"), message, "must be non-empty if specified"));
        } else if has_lines(trimmed_message) {
            errors.push(Error::invalid(at.child("message"), message, "must not contain line breaks"));
        } else if has_lines(trimmed) && trimmed_message.is_empty() {
            let text = "message must be specified if rule contains line breaks";
            errors.push(Error::required(at.child("message"), text));
        }
        let expression = rule.text("messageExpression");
        if !expression.is_empty() && expression.trim().is_empty() {
            let text = "messageExpression must be non-empty if specified";
            errors.push(Error::required(at.child("messageExpression"), text));
        }
        if let Some(reason) = rule.at("reason").as_str().filter(|r| !REASONS.contains(r)) {
            errors.push(Error::not_supported(at.child("reason"), reason, REASONS));
        }
        let field = rule.text("fieldPath");
        if !field.is_empty() {
            if field.trim().is_empty() {
                errors.push(Error::invalid(at.child("fieldPath"), field, "must be non-empty if specified"));
            }
            if has_lines(field) {
                errors.push(Error::invalid(at.child("fieldPath"), field, "must not contain line breaks"));
            }
            if rules::field_path(&Structural::parse(schema), field, true).is_err() {
                errors.push(Error::invalid(at.child("fieldPath"), field, "must be a valid path"));
            }
        }
    }
}

/// `ValidateDefaults`: defaults fit their own schema and hold nothing unknown.
pub(super) fn defaults(json: &Value, path: &Path, pruned: bool) -> ErrorList {
    let mut errors = ErrorList::new();
    // A default of the whole is one of a resource.
    let schema = Structural { embedded: true, ..Structural::parse(json) };
    default_of((&schema, Some(json)), path, (true, false), pruned, &mut errors);
    errors
}

fn default_of(
    (schema, json): (&Structural, Option<&Value>),
    path: &Path,
    (root, in_meta): (bool, bool),
    pruned: bool,
    errors: &mut ErrorList,
) {
    let in_meta = in_meta && !schema.embedded;
    if let Some(default) = &schema.default {
        let at = path.child("default");
        let mut value = (**default).clone();
        if pruned && !in_meta {
            if schema.embedded {
                prune::prune(&mut value, Some(schema));
            } else {
                prune::prune_inside(&mut value, schema);
            }
            if value != **default {
                errors.push(Error::invalid(at.clone(), (**default).clone(), "must not have unknown fields"));
            }
        }
        let mut problems = ErrorList::new();
        if let Some(meta) = facts::schema(META) {
            let mut holder = Value::Object(Map::from_iter([("default".to_owned(), (**default).clone())]));
            let wrapped = wrap(schema);
            if let Err(mut error) = embedded::coerce(&mut holder, Some(&wrapped), &meta, false) {
                error.path = path.child(&error.path.to_string());
                problems.push(error);
            } else {
                for mut error in embedded::validate(&holder, Some(&wrapped), &meta) {
                    error.path = path.child(&error.path.to_string());
                    problems.push(error);
                }
            }
        }
        if problems.is_empty() {
            problems = values::validate(default, &loose(schema), &at);
            if problems.is_empty()
                && let Some(rules) = json.and_then(|json| Rules::compile(schema, json, root))
            {
                // As an object that has always had it, and as a new one.
                problems = rules.validate(default, Some(default), false, &at).errors;
                if problems.is_empty() {
                    problems = rules.validate(default, None, false, &at).errors;
                }
            }
        }
        errors.extend(problems);
    }
    if let Some(items) = &schema.items {
        let json = json.map(|json| json.at("items"));
        default_of((items, json), &path.child("items"), (false, in_meta), pruned, errors);
    }
    for (name, property) in &schema.properties {
        let meta = in_meta || ((root || schema.embedded) && matches!(&**name, "metadata" | "apiVersion" | "kind"));
        let json = json.map(|json| json.at("properties").at(name));
        default_of((property, json), &path.child("properties").key(name), (false, meta), pruned, errors);
    }
}

/// The schema by which defaults are validated: upstream loses there that something is an integer or a string.
fn loose(schema: &Structural) -> Structural {
    let mut loose = schema.clone();
    loose.int_or_string = false;
    for (_, property) in &mut loose.properties {
        *property = self::loose(property);
    }
    if let Some(items) = &mut loose.items {
        **items = self::loose(items);
    }
    if let Additional::Schema(values) = &mut loose.additional {
        **values = self::loose(values);
    }
    loose
}

/// What `NewStructural` refuses, anywhere in a schema (`validateUnsupportedFields`).
pub(super) fn unsupported(schema: &Value) -> Option<&'static str> {
    let found = std::cell::Cell::new(None);
    any(schema, &|s| {
        let text = |name: &str| !s.text(name).is_empty();
        let kinds = [
            (text("id"), "id"),
            (text("$schema"), "schema"),
            (text("$ref"), "$ref"),
            (s.count("patternProperties") > 0, "patternProperties"),
            (s.count("dependencies") > 0, "dependencies"),
            (s.has("additionalItems"), "additionalItems"),
            (s.count("definitions") > 0, "definitions"),
        ];
        found.set(kinds.into_iter().find(|(set, _)| *set).map(|(_, name)| name));
        found.get().is_some()
    });
    found.get()
}

/// The schema of an object with one member, `default`.
fn wrap(schema: &Structural) -> Structural {
    let properties = vec![("default".into(), schema.clone())];
    Structural { ty: Ty::Object, properties: properties.into(), ..Structural::default() }
}
