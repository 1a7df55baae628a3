//! Version 2 documents of other servers: the part that is wanted, its place in ours, and its version 3 form
//! (kube-openapi `pkg/aggregator`, `pkg/openapiconv`).

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

const DEFINITIONS: &str = "#/definitions/";
const METHODS: [&str; 7] = ["get", "put", "post", "delete", "options", "head", "patch"];

fn members<'v>(document: &'v Value, member: &str) -> impl Iterator<Item = (&'v String, &'v Value)> {
    document.get(member).and_then(Value::as_object).into_iter().flatten()
}

/// Calls `then` with every reference in the tree.
fn references(value: &Value, then: &mut impl FnMut(&str)) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                match value.as_str().filter(|_| key == "$ref").and_then(|r| r.strip_prefix(DEFINITIONS)) {
                    Some(name) => then(name),
                    None => references(value, then),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, then)),
        _ => {}
    }
}

/// Replaces every reference in the tree by what `to` makes of its name.
fn rewrite(value: &mut Value, to: &impl Fn(&str) -> String) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let name = value.as_str().filter(|_| key == "$ref").and_then(|r| r.strip_prefix(DEFINITIONS));
                match name.map(to) {
                    Some(replaced) => *value = replaced.into(),
                    None => rewrite(value, to),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| rewrite(item, to)),
        _ => {}
    }
}

/// The paths below `prefix`, and the definitions that they need (`FilterSpecByPathsWithoutSideEffects`).
pub fn part_of(document: &Value, prefix: &str) -> Value {
    let paths: Map<String, Value> = members(document, "paths")
        .filter(|(path, _)| path.starts_with(prefix) || **path == prefix.trim_end_matches('/'))
        .map(|(path, item)| (path.clone(), item.clone()))
        .collect();
    let mut paths = Value::Object(paths);
    inline(&mut paths, document.get("parameters").and_then(Value::as_object));
    let known = document.get("definitions").and_then(Value::as_object);
    let mut wanted = BTreeSet::new();
    let mut waiting = Vec::new();
    references(&paths, &mut |name| waiting.push(name.to_owned()));
    while let Some(name) = waiting.pop() {
        if let Some(definition) = known.and_then(|k| k.get(&name))
            && wanted.insert(name)
        {
            references(definition, &mut |name| waiting.push(name.to_owned()));
        }
    }
    let definitions: Map<String, Value> =
        wanted.into_iter().filter_map(|name| Some((name.clone(), known?.get(&name)?.clone()))).collect();
    json!({"paths": paths, "definitions": definitions})
}

/// Puts shared parameters where they are referred to.
fn inline(value: &mut Value, shared: Option<&Map<String, Value>>) {
    match value {
        Value::Object(map) => {
            let name = map.get("$ref").and_then(Value::as_str).and_then(|r| r.strip_prefix("#/parameters/"));
            match name.and_then(|name| shared?.get(name)) {
                Some(parameter) => *value = parameter.clone(),
                None => map.values_mut().for_each(|value| inline(value, shared)),
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| inline(item, shared)),
        _ => {}
    }
}

/// Adds another server's part to a document. A definition of the same name that differs gets a name of its own
/// (`MergeSpecsIgnorePathConflictRenamingDefinitionsAndParameters`).
pub fn merge(document: &mut Value, part: &Value) {
    let names: BTreeMap<String, String> = {
        let held = document.get("definitions").and_then(Value::as_object);
        let taken = |name: &str| held.is_some_and(|h| h.contains_key(name));
        let new_name = |name: &String, definition: &Value| {
            let same = |name: &str| held.and_then(|h| h.get(name)).is_some_and(|h| same_but_kinds(h, definition));
            if !taken(name) || same(name) {
                return name.clone();
            }
            let mut number = 2;
            loop {
                let candidate = format!("{name}_v{number}");
                if !taken(&candidate) || same(&candidate) {
                    return candidate;
                }
                number += 1;
            }
        };
        members(part, "definitions").map(|(name, value)| (name.clone(), new_name(name, value))).collect()
    };
    let to = |name: &str| format!("{DEFINITIONS}{}", names.get(name).map_or(name, String::as_str));
    for (name, definition) in members(part, "definitions") {
        let new = names.get(name).unwrap_or(name);
        if let Some(held) = document["definitions"].as_object_mut()
            && !held.contains_key(new)
        {
            let mut definition = definition.clone();
            rewrite(&mut definition, &to);
            held.insert(new.clone(), definition);
        }
    }
    for (path, item) in members(part, "paths") {
        if let Some(held) = document["paths"].as_object_mut()
            && !held.contains_key(path)
        {
            let mut item = item.clone();
            rewrite(&mut item, &to);
            held.insert(path.clone(), item);
        }
    }
}

/// Whether two definitions differ in nothing but the kinds that they are said to be.
fn same_but_kinds(a: &Value, b: &Value) -> bool {
    let (Some(a), Some(b)) = (a.as_object(), b.as_object()) else { return a == b };
    let rest = |map: &Map<String, Value>| map.keys().filter(|k| *k != "x-kubernetes-group-version-kind").count();
    rest(a) == rest(b)
        && a.iter().all(|(key, value)| key == "x-kubernetes-group-version-kind" || b.get(key) == Some(value))
}

/// The version 3 form of a part (`ConvertV2ToV3`).
pub fn to_v3(part: &Value) -> Value {
    let schemas: Map<String, Value> =
        members(part, "definitions").map(|(name, value)| (name.clone(), converted(value))).collect();
    let paths: Map<String, Value> =
        members(part, "paths").map(|(path, item)| (path.clone(), path_item(item))).collect();
    json!({
        "openapi": "3.0.0", "info": {"title": "Kubernetes", "version": "unversioned"}, "paths": paths,
        "components": {"schemas": schemas},
    })
}

fn converted(schema: &Value) -> Value {
    let mut schema = schema.clone();
    rewrite(&mut schema, &|name| format!("#/components/schemas/{name}"));
    schema
}

fn path_item(item: &Value) -> Value {
    let mut out = Map::new();
    for (key, value) in item.as_object().into_iter().flatten() {
        let value = match key.as_str() {
            "parameters" => parameters(value),
            method if METHODS.contains(&method) => operation(value),
            _ => value.clone(),
        };
        out.insert(key.clone(), value);
    }
    out.into()
}

/// All but the body, which is no parameter any more.
fn parameters(list: &Value) -> Value {
    let list = list.as_array().into_iter().flatten();
    let others = list.filter(|p| p["in"] != "body" && p["in"] != "formData");
    others
        .map(|parameter| {
            let (mut out, mut schema) = (Map::new(), Map::new());
            for (key, value) in parameter.as_object().into_iter().flatten() {
                match key.as_str() {
                    "name" | "in" | "description" | "required" | "allowEmptyValue" => {
                        out.insert(key.clone(), value.clone())
                    }
                    key if key.starts_with("x-") => out.insert(key.to_owned(), value.clone()),
                    key => schema.insert(key.to_owned(), value.clone()),
                };
            }
            out.insert("schema".to_owned(), converted(&Value::Object(schema)));
            Value::Object(out)
        })
        .collect()
}

fn media_types(operation: &Value, member: &str) -> Vec<String> {
    let named: Vec<String> =
        operation[member].as_array().into_iter().flatten().filter_map(Value::as_str).map(ToOwned::to_owned).collect();
    if named.is_empty() { vec!["application/json".to_owned()] } else { named }
}

fn content(types: &[String], schema: &Value) -> Value {
    let schema = converted(schema);
    types.iter().map(|name| (name.clone(), json!({"schema": schema}))).collect::<Map<_, _>>().into()
}

fn operation(operation: &Value) -> Value {
    let mut out = Map::new();
    for (key, value) in operation.as_object().into_iter().flatten() {
        match key.as_str() {
            "parameters" => {
                out.insert(key.clone(), parameters(value));
                let body = value.as_array().into_iter().flatten().find(|p| p["in"] == "body");
                if let Some(body) = body {
                    let mut request = json!({"content": content(&media_types(operation, "consumes"), &body["schema"])});
                    for member in ["description", "required"] {
                        if let Some(value) = body.get(member) {
                            request[member] = value.clone();
                        }
                    }
                    out.insert("requestBody".to_owned(), request);
                }
            }
            "responses" => {
                let types = media_types(operation, "produces");
                let converted = |response: &Value| {
                    let mut new = json!({"description": response["description"]});
                    if let Some(schema) = response.get("schema") {
                        new["content"] = content(&types, schema);
                    }
                    new
                };
                let all: Map<String, Value> = value
                    .as_object()
                    .into_iter()
                    .flatten()
                    .map(|(code, response)| (code.clone(), converted(response)))
                    .collect();
                out.insert(key.clone(), all.into());
            }
            "consumes" | "produces" | "schemes" => {}
            _ => {
                out.insert(key.clone(), value.clone());
            }
        }
    }
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn other() -> Value {
        json!({
            "paths": {
                "/apis/a.io/v1/xs": {"post": {
                    "consumes": ["application/yaml"],
                    "parameters": [
                        {"in": "body", "name": "body", "required": true, "schema": {"$ref": "#/definitions/X"}},
                        {"in": "query", "name": "q", "type": "string"},
                    ],
                    "responses": {"200": {"description": "OK", "schema": {"$ref": "#/definitions/X"}}},
                }},
                "/apis/b.io/v1/ys": {"get": {"responses": {"200": {"schema": {"$ref": "#/definitions/Y"}}}}},
            },
            "definitions": {
                "X": {"properties": {"m": {"$ref": "#/definitions/Meta"}}}, "Y": {}, "Meta": {"type": "object"},
            },
        })
    }

    #[test]
    fn a_part_has_its_paths_and_what_they_need() {
        let part = part_of(&other(), "/apis/a.io/v1/");
        let names = |member: &str| members(&part, member).map(|(k, _)| k.clone()).collect::<Vec<_>>();
        assert_eq!(names("paths"), ["/apis/a.io/v1/xs"]);
        assert_eq!(names("definitions"), ["Meta", "X"]);
    }

    #[test]
    fn a_definition_that_differs_gets_another_name() {
        let mut document = json!({"paths": {}, "definitions": {"Meta": {"type": "string"}}});
        merge(&mut document, &part_of(&other(), "/apis/a.io/v1/"));
        assert_eq!(document["definitions"]["Meta"], json!({"type": "string"}));
        assert_eq!(document["definitions"]["Meta_v2"], json!({"type": "object"}));
        assert_eq!(document["definitions"]["X"]["properties"]["m"]["$ref"], "#/definitions/Meta_v2");
        let mut same = json!({"paths": {}, "definitions": {
            "Meta": {"type": "object", "x-kubernetes-group-version-kind": []},
        }});
        merge(&mut same, &part_of(&other(), "/apis/a.io/v1/"));
        assert_eq!(same["definitions"]["X"]["properties"]["m"]["$ref"], "#/definitions/Meta");
    }

    #[test]
    fn a_part_has_a_version_3_form() {
        let document = to_v3(&part_of(&other(), "/apis/a.io/v1/"));
        let post = &document["paths"]["/apis/a.io/v1/xs"]["post"];
        let reference = json!({"schema": {"$ref": "#/components/schemas/X"}});
        assert_eq!(post["requestBody"], json!({"required": true, "content": {"application/yaml": reference}}));
        assert_eq!(post["parameters"], json!([{"in": "query", "name": "q", "schema": {"type": "string"}}]));
        assert_eq!(post["responses"]["200"]["content"], json!({"application/json": reference}));
        let property = &document["components"]["schemas"]["X"]["properties"]["m"]["$ref"];
        assert_eq!(property, "#/components/schemas/Meta");
    }
}
