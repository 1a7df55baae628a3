//! Whether a schema is structural (apiextensions-apiserver `schema/validation.go`, `schema/complete.go`).

use api::field::{Error, ErrorList, Path};
use api::structural::pattern;
use serde_json::Value;

use crate::json::Json;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Root,
    Item,
    Field,
}

/// Problems of a schema, sorted by their texts.
pub(super) fn validate(schema: &Value, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    invariants(schema, Level::Root, path, &mut errors);
    checks_complete(schema, Some(schema), path, path, &mut errors);
    errors.sort_by_key(ToString::to_string);
    errors
}

fn extension<'s>(schema: &'s Value, name: &str) -> &'s Value {
    schema.at(&format!("x-kubernetes-{name}"))
}

fn flag(schema: &Value, name: &str) -> bool {
    extension(schema, name).as_bool().unwrap_or(false)
}

/// `validateStructuralInvariants`.
fn invariants(schema: &Value, level: Level, path: &Path, errors: &mut ErrorList) {
    let ty = schema.text("type");
    let at_type = || path.child("type");
    if ty == "array" && !schema.has("items") {
        errors.push(Error::required(path.child("items"), "must be specified"));
    }
    if schema.at("items").is_object() {
        invariants(schema.at("items"), Level::Item, &path.child("items"), errors);
    }
    for (name, property) in schema.entries("properties") {
        invariants(property, Level::Field, &path.child("properties").key(name), errors);
    }
    let embedded = flag(schema, "embedded-resource");
    let preserves = flag(schema, "preserve-unknown-fields");
    if schema.has("additionalProperties") {
        let at = path.child("additionalProperties");
        if level == Level::Root {
            errors.push(Error::forbidden(at.clone(), "must not be used at the root"));
        }
        if schema.at("additionalProperties").is_object() {
            invariants(schema.at("additionalProperties"), Level::Field, &at, errors);
        }
    }
    let int_or_string = flag(schema, "int-or-string");
    for (name, set) in [("preserve-unknown-fields", preserves), ("embedded-resource", embedded)] {
        if int_or_string && set {
            let at = path.child(&format!("x-kubernetes-{name}"));
            errors.push(Error::invalid(at, true, "must be false if x-kubernetes-int-or-string is true"));
        }
    }
    let skip_any = is_int_or_string_pattern(schema.list("anyOf"));
    let skip_first = schema.list("allOf").first().is_some_and(|first| is_int_or_string_pattern(first.list("anyOf")));
    value_checks(schema, (skip_any, skip_first), path, errors);
    let object_text = "must be object if x-kubernetes-embedded-resource is true";
    if embedded && ty != "object" {
        errors.push(match ty {
            "" => Error::required(at_type(), object_text),
            ty => Error::invalid(at_type(), ty, object_text),
        });
    } else if ty.is_empty() && !int_or_string && !preserves {
        let text = match level {
            Level::Root => "must not be empty at the root",
            Level::Item => "must not be empty for specified array items",
            Level::Field => "must not be empty for specified object fields",
        };
        errors.push(Error::required(at_type(), text));
    }
    if embedded && schema.has("additionalProperties") {
        let text = "must not be used if x-kubernetes-embedded-resource is set";
        errors.push(Error::forbidden(path.child("additionalProperties"), text));
    }
    if level == Level::Root && !ty.is_empty() && ty != "object" {
        errors.push(Error::invalid(at_type(), ty, "must be object at the root"));
    }
    let resource = level == Level::Root || embedded;
    let properties = schema.at("properties");
    for name in ["kind", "apiVersion"] {
        let property = properties.at(name);
        if resource && !property.is_null() && property.text("type") != "string" {
            let at = path.child("properties").key(name).child("type");
            errors.push(Error::invalid(at, property.text("type"), "must be string"));
        }
    }
    let metadata = properties.at("metadata");
    if !metadata.is_null() {
        let at = path.child("properties").key("metadata");
        if resource && metadata.text("type") != "object" {
            errors.push(Error::invalid(at.child("type"), metadata.text("type"), "must be object"));
        }
        if level == Level::Root && !only_restricts_names(metadata) {
            let text =
                "must not specify anything other than name and generateName, but metadata is implicitly specified";
            errors.push(Error::forbidden(at, text));
        }
    }
    if embedded && !preserves && schema.count("properties") == 0 {
        let text = "must not be empty if x-kubernetes-embedded-resource is true without \
                    x-kubernetes-preserve-unknown-fields";
        errors.push(Error::required(path.child("properties"), text));
    }
}

/// Whether a schema of metadata has nothing but names.
fn only_restricts_names(metadata: &Value) -> bool {
    let names = metadata.entries("properties").all(|(name, _)| matches!(name, "name" | "generateName"));
    names
        && metadata.as_object().is_some_and(|map| {
            map.iter().all(|(key, value)| matches!(key.as_str(), "type" | "default" | "properties") || is_zero(value))
        })
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(b) => !b,
        Value::String(s) => s.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Number(_) => false,
    }
}

/// `anyOf: [{type: integer}, {type: string}]`.
fn is_int_or_string_pattern(any_of: &[Value]) -> bool {
    let only = |schema: &Value, ty: &str| {
        schema.as_object().is_some_and(|m| m.iter().all(|(k, v)| k == "type" || is_zero(v)))
            && schema.text("type") == ty
    };
    matches!(any_of, [first, second] if only(first, "integer") && only(second, "string"))
}

/// `validateValueValidation`.
fn value_checks(schema: &Value, (skip_any, skip_first): (bool, bool), path: &Path, errors: &mut ErrorList) {
    if !skip_any {
        for (index, nested) in schema.list("anyOf").iter().enumerate() {
            nested_checks(nested, false, false, &path.child("anyOf").index(index), errors);
        }
    }
    for (index, nested) in schema.list("allOf").iter().enumerate() {
        let skip = skip_first && index == 0;
        nested_checks(nested, skip, false, &path.child("allOf").index(index), errors);
    }
    for (index, nested) in schema.list("oneOf").iter().enumerate() {
        nested_checks(nested, false, false, &path.child("oneOf").index(index), errors);
    }
    if schema.at("not").is_object() {
        nested_checks(schema.at("not"), false, false, &path.child("not"), errors);
    }
    let wanted = schema.text("pattern");
    if !wanted.is_empty()
        && let Err(why) = pattern::compile(wanted)
    {
        let text = format!("must be a valid regular expression, but isn't: {why}");
        errors.push(Error::invalid(path.child("pattern"), wanted, text));
    }
}

/// `validateNestedValueValidation`: below a junctor there is nothing but value validation.
fn nested_checks(schema: &Value, skip_any: bool, skip_first: bool, path: &Path, errors: &mut ErrorList) {
    value_checks(schema, (skip_any, skip_first), path, errors);
    if schema.at("items").is_object() {
        nested_checks(schema.at("items"), false, false, &path.child("items"), errors);
    }
    for (name, property) in schema.entries("properties") {
        nested_checks(property, false, false, &path.child("properties").key(name), errors);
    }
    let forbidden = [
        (schema.text("type").is_empty(), "type", "must be empty to be structural"),
        (!schema.has("additionalProperties"), "additionalProperties", "must be undefined to be structural"),
        (!schema.has("default"), "default", "must be undefined to be structural"),
        (schema.text("title").is_empty(), "title", "must be empty to be structural"),
        (schema.text("description").is_empty(), "description", "must be empty to be structural"),
        (!schema.flag("nullable"), "nullable", "must be false to be structural"),
    ];
    for (good, name, text) in forbidden {
        if !good {
            errors.push(Error::forbidden(path.child(name), text));
        }
    }
    let extensions = [
        (!flag(schema, "preserve-unknown-fields"), "preserve-unknown-fields", "must be false to be structural"),
        (!flag(schema, "embedded-resource"), "embedded-resource", "must be false to be structural"),
        (!flag(schema, "int-or-string"), "int-or-string", "must be false to be structural"),
        (is_zero(extension(schema, "list-map-keys")), "list-map-keys", "must be empty to be structural"),
        (extension(schema, "list-type").is_null(), "list-type", "must be undefined to be structural"),
        (extension(schema, "map-type").is_null(), "map-type", "must be undefined to be structural"),
        (is_zero(extension(schema, "validations")), "validations", "must be empty to be structural"),
    ];
    for (good, name, text) in extensions {
        if !good {
            errors.push(Error::forbidden(path.child(&format!("x-kubernetes-{name}")), text));
        }
    }
    if schema.at("properties").has("metadata") {
        let at = path.child("properties").key("metadata");
        errors.push(Error::forbidden(at, "must not be specified in a nested context"));
    }
}

/// `validateValueValidationCompleteness`: what junctors mention stands in the structure too.
fn checks_complete(schema: &Value, structure: Option<&Value>, at: &Path, from: &Path, errors: &mut ErrorList) {
    let mut nested = |nested: &Value, from: Path| nested_complete(nested, structure, at, &from, errors);
    if schema.at("not").is_object() {
        nested(schema.at("not"), from.child("not"));
    }
    for junctor in ["allOf", "anyOf", "oneOf"] {
        for (index, one) in schema.list(junctor).iter().enumerate() {
            nested(one, from.child(junctor).index(index));
        }
    }
}

fn nested_complete(schema: &Value, structure: Option<&Value>, at: &Path, from: &Path, errors: &mut ErrorList) {
    let Some(structure) = structure else {
        errors.push(Error::required(at.clone(), format!("because it is defined in {from}")));
        return;
    };
    checks_complete(schema, Some(structure), at, from, errors);
    if schema.at("items").is_object() {
        let items = Some(structure.at("items")).filter(|i| i.is_object());
        nested_complete(schema.at("items"), items, &at.child("items"), &from.child("items"), errors);
    }
    for (name, property) in schema.entries("properties") {
        let (at, from) = (at.child("properties").key(name), from.child("properties").key(name));
        let known = Some(structure.at("properties").at(name)).filter(|p| p.is_object());
        nested_complete(property, known, &at, &from, errors);
    }
}
