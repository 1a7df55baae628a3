//! Version 2 from version 3, by kube-openapi's conversion read backwards.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

/// Collects the documents of all groups into one.
#[derive(Default)]
pub struct Merger {
    paths: Map<String, Value>,
    definitions: Map<String, Value>,
}

const GVK: &str = "x-kubernetes-group-version-kind";

impl Merger {
    pub fn add(&mut self, mut v3: Value) {
        if let Value::Object(paths) = v3["paths"].take() {
            self.paths.extend(paths.into_iter().map(|(path, item)| (path, path_item(item))));
        }
        if let Value::Object(schemas) = v3["components"]["schemas"].take() {
            for (name, mut schema) in schemas {
                convert(&mut schema);
                // Types of meta/v1 are kinds of every group: their lists of kinds grow.
                if let Some(before) = self.definitions.get(&name).and_then(|d| d.get(GVK)?.as_array().cloned()) {
                    let mut kinds = before;
                    let more = schema[GVK].as_array().cloned().unwrap_or_default();
                    kinds.extend(more.into_iter().filter(|k| !kinds.contains(k)).collect::<Vec<_>>());
                    schema[GVK] = kinds.into();
                }
                self.definitions.insert(name, schema);
            }
        }
    }

    /// Puts a definition that is of version 2 but for its references.
    pub fn replace(&mut self, name: String, mut schema: Value) {
        references(&mut schema);
        self.definitions.insert(name, schema);
    }

    /// Paths, and the definitions of these names.
    pub fn into_parts(mut self, names: &BTreeSet<String>) -> (Map<String, Value>, Map<String, Value>) {
        let definitions = names.iter().filter_map(|name| self.definitions.remove_entry(name)).collect();
        (self.paths, definitions)
    }

    pub fn finish(self) -> Value {
        json!({
            "swagger": "2.0",
            "info": {"title": "Kubernetes", "version": super::documents::VERSION},
            "paths": self.paths,
            "definitions": self.definitions,
            "securityDefinitions": {"BearerToken": {
                "type": "apiKey", "description": "Bearer Token authentication",
                "name": "authorization", "in": "header"
            }},
            "security": [{"BearerToken": []}],
        })
    }
}

/// Rewrites references, and takes them out of the `allOf` around them.
fn references(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            if let Some(reference) =
                map.get("allOf").and_then(|all| all.get(0)).and_then(|one| one.get("$ref")).cloned()
            {
                map.remove("allOf");
                map.insert("$ref".to_owned(), reference);
            }
            if let Some(Value::String(reference)) = map.get_mut("$ref") {
                *reference = reference.replace("#/components/schemas/", "#/definitions/");
            }
            map.values_mut().for_each(references);
        }
        Value::Array(items) => items.iter_mut().for_each(references),
        _ => {}
    }
}

/// Rewrites a schema in place: references, and what version 2 does not have.
fn convert(schema: &mut Value) {
    let Some(map) = schema.as_object_mut() else { return };
    for gone in ["default", "nullable"] {
        map.remove(gone);
    }
    if let Some(Value::Array(one_of)) = map.remove("oneOf")
        && !map.contains_key("type")
        && one_of.iter().any(|s| s["type"] == "string")
    {
        map.insert("type".to_owned(), "string".into());
    }
    for gone in ["anyOf", "not"] {
        map.remove(gone);
    }
    if let Some(Value::Array(all)) = map.remove("allOf")
        && let Some(reference) = all.iter().find_map(|s| s.get("$ref"))
    {
        map.insert("$ref".to_owned(), reference.clone());
    }
    if let Some(Value::String(reference)) = map.get_mut("$ref") {
        *reference = reference.replace("#/components/schemas/", "#/definitions/");
    }
    for nested in ["items", "additionalProperties"] {
        if let Some(inner) = map.get_mut(nested) {
            convert(inner);
        }
    }
    if let Some(Value::Object(properties)) = map.get_mut("properties") {
        properties.values_mut().for_each(convert);
    }
}

fn path_item(item: Value) -> Value {
    let Value::Object(item) = item else { return item };
    item.into_iter()
        .map(|(key, value)| {
            let value = if key == "parameters" { parameters(value) } else { operation(value) };
            (key, value)
        })
        .collect()
}

fn parameters(list: Value) -> Value {
    let Value::Array(list) = list else { return list };
    list.into_iter()
        .map(|mut parameter| {
            if let Value::Object(schema) = parameter["schema"].take()
                && let Some(map) = parameter.as_object_mut()
            {
                map.remove("schema");
                map.extend(schema);
            }
            parameter
        })
        .collect()
}

fn operation(mut operation: Value) -> Value {
    let mut list = match parameters(operation["parameters"].take()) {
        Value::Array(list) => list,
        _ => Vec::new(),
    };
    let mut consumes = json!(["*/*"]);
    if let Value::Object(body) = operation["requestBody"].take() {
        let content = body.get("content").and_then(Value::as_object);
        let mut schema = content.and_then(|c| c.values().next()).map(|m| m["schema"].clone()).unwrap_or_default();
        convert(&mut schema);
        consumes = content.into_iter().flatten().map(|(media, _)| Value::from(media.as_str())).collect();
        let mut parameter = json!({"name": "body", "in": "body", "schema": schema});
        if body.get("required") == Some(&Value::Bool(true)) {
            parameter["required"] = true.into();
        }
        list.insert(0, parameter);
    }
    let mut produces = Value::Array(Vec::new());
    if let Value::Object(responses) = &mut operation["responses"] {
        for response in responses.values_mut() {
            if let Value::Object(content) = response["content"].take() {
                produces = content.keys().map(|m| Value::from(m.as_str())).collect();
                if let Some(mut media) = content.into_iter().next().map(|(_, m)| m) {
                    let mut schema = media["schema"].take();
                    convert(&mut schema);
                    response["schema"] = schema;
                }
            }
            if let Some(map) = response.as_object_mut() {
                map.remove("content");
            }
        }
    }
    if let Some(map) = operation.as_object_mut() {
        map.remove("requestBody");
        map.remove("parameters");
        if !list.is_empty() {
            map.insert("parameters".to_owned(), list.into());
        }
        map.insert("consumes".to_owned(), consumes);
        map.insert("produces".to_owned(), produces);
        map.insert("schemes".to_owned(), json!(["https"]));
    }
    operation
}
