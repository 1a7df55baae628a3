//! Version 2 from version 3, by kube-openapi's conversion read backwards.

use std::collections::BTreeSet;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE;
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
        share(&mut self.paths);
        let definitions = names.iter().filter_map(|name| self.definitions.remove_entry(name)).collect();
        (self.paths, definitions)
    }

    pub fn finish(mut self) -> Value {
        let parameters = share(&mut self.paths);
        json!({
            "swagger": "2.0",
            "parameters": parameters,
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

/// Media types in the order of upstream's routes.
const ORDER: &[&str] = &[
    "text/plain",
    "application/json",
    "application/yaml",
    "application/vnd.kubernetes.protobuf",
    "application/json;stream=watch",
    "application/vnd.kubernetes.protobuf;stream=watch",
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];

fn in_order(content: &Map<String, Value>) -> Value {
    let mut media: Vec<&str> = content.keys().map(String::as_str).collect();
    media.sort_by_key(|m| ORDER.iter().position(|o| o == m).unwrap_or(ORDER.len()));
    media.into_iter().collect()
}

/// Replaces parameters that many operations have by references, and returns them by name (kube-openapi
/// `shareParameters`).
fn share(paths: &mut Map<String, Value>) -> Map<String, Value> {
    let mut shared = Map::new();
    let mut each = |list: &mut Value| {
        for parameter in list.as_array_mut().into_iter().flatten() {
            if let Some(name) = shared_name(parameter) {
                let reference = json!({"$ref": format!("#/parameters/{name}")});
                shared.insert(name, std::mem::replace(parameter, reference));
            }
        }
    };
    for item in paths.values_mut().filter_map(Value::as_object_mut) {
        for (key, value) in item.iter_mut() {
            if key == "parameters" {
                each(value);
            } else if let Some(list) = value.get_mut("parameters") {
                each(list);
            }
        }
    }
    shared
}

/// The name under which a parameter is shared: with a hash of its JSON as Go prints it. `None` for what differs from kind
/// to kind, and for what old kubectls look for in operations.
fn shared_name(parameter: &Value) -> Option<String> {
    let (name, place) = (parameter.get("name")?.as_str()?, parameter.get("in")?.as_str()?);
    let reference = parameter.pointer("/schema/$ref").and_then(Value::as_str).unwrap_or_default();
    let own = match place {
        "body" => !reference.starts_with("#/definitions/io.k8s.apimachinery"),
        _ => matches!((place, name), (_, "name") | ("query", "fieldValidation" | "dryRun")),
    };
    if own {
        return None;
    }
    let members: &[&str] = if place == "body" {
        &["name", "in", "required", "schema"]
    } else {
        &["uniqueItems", "type", "description", "name", "in", "required"]
    };
    let told = members.iter().filter_map(|m| Some(format!("\"{m}\":{}", go_json(parameter.get(*m)?))));
    let text = format!("{{{}}}", told.collect::<Vec<_>>().join(","));
    // FNV-1, 64 bits.
    let hash = text
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| hash.wrapping_mul(0x0000_0100_0000_01b3) ^ u64::from(byte));
    Some(format!("{name}-{}", URL_SAFE.encode(&hash.to_be_bytes()[..6])))
}

/// JSON with the escapes of Go's encoder.
fn go_json(value: &Value) -> String {
    value.to_string().replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026")
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
    let mut is_resource = operation.get("x-kubernetes-action").is_some();
    // Of these nobody says what they take.
    let takes_nothing = operation["operationId"]
        .as_str()
        .is_some_and(|id| id.ends_with("OpenIDKeyset") || id.ends_with("OpenIDConfiguration"));
    if let Value::Object(body) = operation["requestBody"].take() {
        let content = body.get("content").and_then(Value::as_object);
        let mut schema = content.and_then(|c| c.values().next()).map(|m| m["schema"].clone()).unwrap_or_default();
        convert(&mut schema);
        consumes = content.map_or(Value::Null, in_order);
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
                produces = in_order(&content);
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
        // The documents of discovery take what they give, and so does what only reads custom resources.
        is_resource &= consumes != json!(["*/*"]) || produces != json!(["application/json", "application/yaml"]);
        if !takes_nothing {
            map.insert("consumes".to_owned(), if is_resource { consumes } else { produces.clone() });
        }
        map.insert("produces".to_owned(), produces);
        map.insert("schemes".to_owned(), json!(["https"]));
    }
    operation
}
