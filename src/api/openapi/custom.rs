//! The definitions of custom resources (apiextensions-apiserver `controller/openapi/builder` and
//! `controller/openapi/v2`): a CRD's own schema with what every object has, in version 2 without what kubectl cannot read.

use serde_json::{Map, Value, json};

use super::META;
use super::schemas::{gvk, reference};
use crate::custom::Definition;
use crate::names::Gvk;

/// One version of a CRD, as documents describe it.
#[derive(Clone)]
pub struct Custom {
    pub definition: std::sync::Arc<Definition>,
    pub gvk: Gvk,
    pub list_kind: String,
    pub plural: String,
    /// Paths of the fields that field selectors may name.
    pub selectable: Vec<String>,
}

impl std::fmt::Debug for Custom {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Custom").field("gvk", &self.gvk).finish_non_exhaustive()
    }
}

const API_VERSION: &str = "apiVersion defines the versioned schema of this representation of an object. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources";
const KIND: &str = "kind is a string value representing the type of this object. In CamelCase. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds";
const METADATA: &str = "Standard object's metadata. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata";
const LIST_METADATA: &str = "Standard list metadata. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds";

/// Descriptions of `apiVersion` and `kind` of every object.
pub(super) struct TypeMeta<'a> {
    pub api_version: &'a str,
    pub kind: &'a str,
}

impl Custom {
    /// `gvkToModelName`: the group backwards, version and kind.
    pub fn name(&self) -> String {
        self.model(&self.gvk.kind)
    }

    pub(super) fn list_name(&self) -> String {
        self.model(&self.list_kind)
    }

    fn model(&self, kind: &str) -> String {
        let group: Vec<&str> = self.gvk.group.rsplit('.').collect();
        format!("{}.{}.{kind}", group.join("."), self.gvk.version)
    }

    /// The definition of the kind; `v2` in the older form.
    pub(super) fn schema(&self, meta: &TypeMeta<'_>, v2: bool) -> Value {
        let own = self.definition.raw_schema(&self.gvk.version);
        let open = |schema: &Value| {
            self.definition.preserve_all || schema["x-kubernetes-preserve-unknown-fields"].as_bool() == Some(true)
        };
        let mut schema = match own {
            Some(schema) if !(v2 && open(&schema)) => {
                let mut schema = plain(&schema, true);
                if v2 {
                    to_v2(&mut schema);
                }
                set(&mut schema, "metadata", with_text(object_meta("ObjectMeta"), METADATA));
                set(&mut schema, "apiVersion", json!({"type": "string", "description": meta.api_version}));
                set(&mut schema, "kind", json!({"type": "string", "description": meta.kind}));
                embed(&mut schema, v2);
                schema
            }
            // kubectl would take more to say that there is nothing else.
            _ => json!({"type": "object"}),
        };
        schema["x-kubernetes-group-version-kind"] = json!([gvk(&self.gvk)]);
        self.add_selectable(&mut schema);
        schema
    }

    pub(super) fn list_schema(&self, meta: &TypeMeta<'_>) -> Value {
        let (kind, plural) = (&self.gvk.kind, &self.plural);
        let list = Gvk { kind: self.list_kind.clone(), ..self.gvk.clone() };
        let items = format!(
            "List of {plural}. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md"
        );
        let mut schema = json!({
            "description": format!("{} is a list of {kind}", self.list_kind),
            "type": "object",
            "required": ["items"],
            "properties": {
                "apiVersion": {"type": "string", "description": meta.api_version},
                "kind": {"type": "string", "description": meta.kind},
                "metadata": with_text(object_meta("ListMeta"), LIST_METADATA),
                "items": {"type": "array", "description": items, "items": reference(&self.name())},
            },
            "x-kubernetes-group-version-kind": [gvk(&list)],
        });
        self.add_selectable(&mut schema);
        schema
    }

    fn add_selectable(&self, schema: &mut Value) {
        if !self.selectable.is_empty() {
            let fields = self.selectable.iter().map(|path| json!({"fieldPath": path}));
            schema["x-kubernetes-selectable-fields"] = fields.collect();
        }
    }
}

fn object_meta(kind: &str) -> Value {
    json!({"allOf": [reference(&format!("{META}.{kind}"))]})
}

fn with_text(mut schema: Value, text: &str) -> Value {
    schema["description"] = text.into();
    schema
}

fn set(schema: &mut Value, name: &str, property: Value) {
    if !schema["properties"].is_object() {
        schema["properties"] = json!({});
    }
    schema["properties"][name] = property;
}

/// `ToKubeOpenAPI`: the members that structural schemas have; in the structure (not below junctors) int-or-strings say
/// so in OpenAPI's own words too (`Unfold`).
fn plain(schema: &Value, structure: bool) -> Value {
    let Some(map) = schema.as_object() else { return json!({}) };
    let mut out = Map::new();
    for (name, value) in map {
        let value = match name.as_str() {
            "properties" => {
                let members = value.as_object().into_iter().flatten();
                Value::Object(members.map(|(name, schema)| (name.clone(), plain(schema, structure))).collect())
            }
            "items" | "additionalProperties" if value.is_object() => plain(value, structure),
            "not" => plain(value, false),
            "allOf" | "anyOf" | "oneOf" => {
                value.as_array().into_iter().flatten().map(|schema| plain(schema, false)).collect()
            }
            "id" | "$schema" | "$ref" | "patternProperties" | "dependencies" | "definitions" | "additionalItems" => {
                continue;
            }
            "exclusiveMaximum" | "exclusiveMinimum" | "uniqueItems" | "nullable" if value == &Value::Bool(false) => {
                continue;
            }
            _ => value.clone(),
        };
        out.insert(name.clone(), value);
    }
    if structure && out.get("x-kubernetes-int-or-string") == Some(&Value::Bool(true)) {
        let both = json!([{"type": "integer"}, {"type": "string"}]);
        let first = out.get("allOf").and_then(|all| all.get(0)).and_then(|first| first.get("anyOf")).cloned();
        if out.get("anyOf") != Some(&both) && first.as_ref() != Some(&both) {
            if out.contains_key("anyOf") {
                let mut all = vec![json!({"anyOf": both})];
                all.extend(out.get("allOf").and_then(Value::as_array).into_iter().flatten().cloned());
                out.insert("allOf".to_owned(), all.into());
            } else {
                out.insert("anyOf".to_owned(), both);
            }
        }
    }
    Value::Object(out)
}

/// `ToStructuralOpenAPIV2`, and without defaults, which upstream's controller takes out of every definition of version 2
/// (kube-openapi `handler.PruneDefaults`).
fn to_v2(schema: &mut Value) {
    let Some(map) = schema.as_object_mut() else { return };
    for member in ["allOf", "oneOf", "anyOf", "not", "default"] {
        map.remove(member);
    }
    let open = map.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true));
    let nullable = map.remove("nullable") == Some(Value::Bool(true));
    let ty = map.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
    if nullable || open {
        map.remove("items");
        map.remove("properties");
    }
    if nullable || (ty == "array" && !map.contains_key("items")) || (open && ty == "object") {
        map.remove("type");
    }
    let is_nullable = |schema: &Value| schema["nullable"].as_bool() == Some(true);
    let optional: Vec<String> = map
        .get("properties")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .filter(|(_, schema)| is_nullable(schema))
        .map(|(name, _)| name.clone())
        .collect();
    if map.get("additionalProperties").is_some_and(is_nullable) {
        map.remove("required");
    }
    if let Some(Value::Array(required)) = map.get_mut("required") {
        required.retain(|name| !optional.iter().any(|o| name == o));
        if required.is_empty() {
            map.remove("required");
        }
    }
    for nested in ["items", "additionalProperties"] {
        if let Some(inner) = map.get_mut(nested) {
            to_v2(inner);
        }
    }
    if let Some(Value::Object(properties)) = map.get_mut("properties") {
        properties.values_mut().for_each(to_v2);
    }
}

/// `addEmbeddedProperties`.
fn embed(schema: &mut Value, v2: bool) {
    let Some(map) = schema.as_object_mut() else { return };
    if let Some(Value::Object(properties)) = map.get_mut("properties") {
        properties.values_mut().for_each(|property| embed(property, v2));
    }
    for nested in ["items", "additionalProperties"] {
        if let Some(inner) = map.get_mut(nested) {
            embed(inner, v2);
        }
    }
    let has = |name: &str| map.get(name) == Some(&Value::Bool(true));
    if !has("x-kubernetes-embedded-resource") || (v2 && has("x-kubernetes-preserve-unknown-fields")) {
        return;
    }
    let mut required: Vec<Value> = map.get("required").and_then(Value::as_array).cloned().unwrap_or_default();
    for name in ["kind", "apiVersion"] {
        if !required.iter().any(|r| r == name) {
            required.push(name.into());
        }
    }
    map.insert("required".to_owned(), required.into());
    set(schema, "apiVersion", json!({"type": "string", "description": API_VERSION}));
    set(schema, "kind", json!({"type": "string", "description": KIND}));
    set(schema, "metadata", with_text(object_meta("ObjectMeta"), METADATA));
}

/// What upstream's builder for definitions says otherwise of operations (apiextensions `controller/openapi/builder`): the forms
/// of custom resources, no creation by patches, and lists whose deletion takes the parameters of lists.
pub(super) fn adapt(item: &mut Map<String, Value>, list: &[Value]) {
    for operation in item.values_mut() {
        match operation["x-kubernetes-action"].as_str().unwrap_or_default() {
            "patch" => {
                operation["responses"].as_object_mut().map(|responses| responses.remove("201"));
            }
            "deletecollection" => {
                operation.as_object_mut().map(|operation| operation.remove("requestBody"));
                let path = operation["parameters"].as_array().into_iter().flatten().filter(|p| p["in"] == "path");
                let path: Vec<Value> = path.cloned().collect();
                let common = path.into_iter().chain(list.iter().filter(|p| p["in"] != "path").cloned());
                operation["parameters"] = common.collect();
            }
            _ => {}
        }
        forms(operation);
    }
}

fn forms(value: &mut Value) {
    match value {
        Value::Object(map) => {
            if let Some(Value::Object(content)) = map.get_mut("content") {
                content.retain(|media, _| {
                    !media.contains("protobuf")
                        && !media.contains("stream=watch")
                        && !media.starts_with("application/strategic")
                });
                if let Some(any) = content.remove("*/*") {
                    content.insert("application/json".to_owned(), any.clone());
                    content.insert("application/yaml".to_owned(), any);
                }
            }
            map.values_mut().for_each(forms);
        }
        Value::Array(items) => items.iter_mut().for_each(forms),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_2_leaves_out_what_kubectl_cannot_read() {
        let mut schema = json!({"type": "object", "required": ["a", "b"], "properties": {
            "a": {"type": "string", "nullable": true},
            "b": {"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {"c": {"type": "string"}}},
            "l": {"type": "array", "x-kubernetes-preserve-unknown-fields": true, "items": {"type": "string"}},
            "i": {"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]},
            "d": {"type": "array", "default": [], "items": {"type": "object", "properties": {
                "default": {"type": "integer", "default": 3}}}},
        }});
        to_v2(&mut schema);
        let want = json!({"type": "object", "required": ["b"], "properties": {
            "a": {},
            "b": {"x-kubernetes-preserve-unknown-fields": true},
            "l": {"x-kubernetes-preserve-unknown-fields": true},
            "i": {"x-kubernetes-int-or-string": true},
            "d": {"type": "array", "items": {"type": "object", "properties": {"default": {"type": "integer"}}}},
        }});
        assert_eq!(schema, want);
    }

    #[test]
    fn int_or_strings_say_so_in_both_ways() {
        let schema = plain(&json!({"properties": {"p": {"x-kubernetes-int-or-string": true, "pattern": "x"}}}), true);
        let want = json!({"x-kubernetes-int-or-string": true, "pattern": "x",
            "anyOf": [{"type": "integer"}, {"type": "string"}]});
        assert_eq!(schema["properties"]["p"], want);
    }
}
