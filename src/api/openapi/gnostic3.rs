//! The protobuf form of a version 3 document (gnostic's `OpenAPIv3.proto`), which kubectl asks for before it writes.

use serde_json::Value;

use super::gnostic::{any, extensions, members, named, strings};
use crate::codec::protobuf::Forward;

/// Encodes a version 3 document.
pub fn encode(document: &Value) -> Vec<u8> {
    let mut out = Forward::default();
    out.text(1, document["openapi"].as_str());
    out.message(2, |out| {
        out.text(1, document["info"]["title"].as_str());
        out.text(2, document["info"]["description"].as_str());
        out.text(5, document["info"]["version"].as_str());
    });
    out.message(4, |out| {
        for (path, item) in members(&document["paths"]) {
            out.message(1, |out| named(out, path, |out| path_item(out, item)));
        }
    });
    let components = &document["components"];
    out.message(5, |out| {
        out.message(1, |out| {
            for (name, definition) in members(&components["schemas"]) {
                out.message(1, |out| named(out, name, |out| schema_or_reference(out, definition)));
            }
        });
        if components["securitySchemes"].is_object() {
            out.message(7, |out| {
                for (name, scheme) in members(&components["securitySchemes"]) {
                    out.message(1, |out| named(out, name, |out| out.message(1, |out| security_scheme(out, scheme))));
                }
            });
        }
    });
    for requirement in document["security"].as_array().into_iter().flatten() {
        out.message(6, |out| {
            for (name, _) in members(requirement) {
                out.message(1, |out| named(out, name, |_| {}));
            }
        });
    }
    extensions(&mut out, 9, document.as_object());
    out.finish()
}

fn security_scheme(out: &mut Forward, scheme: &Value) {
    for (number, key) in [(1, "type"), (2, "description"), (3, "name"), (4, "in")] {
        out.text(number, scheme[key].as_str());
    }
}

fn path_item(out: &mut Forward, item: &Value) {
    out.text(3, item["description"].as_str());
    let methods = [(4, "get"), (5, "put"), (6, "post"), (7, "delete"), (8, "options"), (9, "head"), (10, "patch")];
    for (number, method) in methods {
        if let Some(found) = item.get(method) {
            out.message(number, |out| operation(out, found));
        }
    }
    parameters(out, 13, &item["parameters"]);
    extensions(out, 14, item.as_object());
}

fn operation(out: &mut Forward, value: &Value) {
    strings(out, 1, &value["tags"]);
    out.text(2, value["summary"].as_str());
    out.text(3, value["description"].as_str());
    out.text(5, value["operationId"].as_str());
    parameters(out, 6, &value["parameters"]);
    let body = &value["requestBody"];
    if body.is_object() {
        out.message(7, |out| {
            out.message(1, |out| {
                out.text(1, body["description"].as_str());
                content(out, 2, body);
                out.flag(3, body["required"].as_bool().unwrap_or(false));
            });
        });
    }
    out.message(8, |out| {
        for (code, found) in members(&value["responses"]) {
            let response = |out: &mut Forward| {
                out.message(1, |out| {
                    out.text(1, found["description"].as_str());
                    content(out, 3, found);
                });
            };
            match code {
                "default" => out.message(1, response),
                code => out.message(2, |out| named(out, code, response)),
            }
        }
    });
    out.flag(10, value["deprecated"].as_bool().unwrap_or(false));
    extensions(out, 13, value.as_object());
}

fn content(out: &mut Forward, number: u32, holder: &Value) {
    if !holder["content"].is_object() {
        return;
    }
    out.message(number, |out| {
        for (media_type, value) in members(&holder["content"]) {
            out.message(1, |out| {
                named(out, media_type, |out| {
                    if let Some(inner) = value.get("schema") {
                        out.message(1, |out| schema_or_reference(out, inner));
                    }
                });
            });
        }
    });
}

fn parameters(out: &mut Forward, number: u32, list: &Value) {
    for parameter in list.as_array().into_iter().flatten() {
        out.message(number, |out| {
            if let Some(reference) = parameter["$ref"].as_str() {
                out.message(2, |out| out.text(1, Some(reference)));
                return;
            }
            out.message(1, |out| {
                out.text(1, parameter["name"].as_str());
                out.text(2, parameter["in"].as_str());
                out.text(3, parameter["description"].as_str());
                out.flag(4, parameter["required"].as_bool().unwrap_or(false));
                if let Some(inner) = parameter.get("schema") {
                    out.message(10, |out| schema_or_reference(out, inner));
                }
                extensions(out, 14, parameter.as_object());
            });
        });
    }
}

fn schema_or_reference(out: &mut Forward, value: &Value) {
    match value["$ref"].as_str() {
        Some(reference) => out.message(2, |out| out.text(1, Some(reference))),
        None => out.message(1, |out| schema(out, value)),
    }
}

fn schema(out: &mut Forward, value: &Value) {
    out.flag(1, value["nullable"].as_bool().unwrap_or(false));
    out.text(9, value["title"].as_str());
    out.double(10, value["multipleOf"].as_f64());
    out.double(11, value["maximum"].as_f64());
    out.flag(12, value["exclusiveMaximum"].as_bool().unwrap_or(false));
    out.double(13, value["minimum"].as_f64());
    out.flag(14, value["exclusiveMinimum"].as_bool().unwrap_or(false));
    for (number, key) in [(15, "maxLength"), (16, "minLength")] {
        out.integer(number, value[key].as_i64());
    }
    out.text(17, value["pattern"].as_str());
    for (number, key) in [(18, "maxItems"), (19, "minItems")] {
        out.integer(number, value[key].as_i64());
    }
    out.flag(20, value["uniqueItems"].as_bool().unwrap_or(false));
    for (number, key) in [(21, "maxProperties"), (22, "minProperties")] {
        out.integer(number, value[key].as_i64());
    }
    strings(out, 23, &value["required"]);
    for item in value["enum"].as_array().into_iter().flatten() {
        out.message(24, |out| any(out, item));
    }
    out.text(25, value["type"].as_str());
    for (number, key) in [(26, "allOf"), (27, "oneOf"), (28, "anyOf")] {
        for inner in value[key].as_array().into_iter().flatten() {
            out.message(number, |out| schema_or_reference(out, inner));
        }
    }
    if value["not"].is_object() {
        out.message(29, |out| schema(out, &value["not"]));
    }
    if let Some(items) = value.get("items") {
        out.message(30, |out| out.message(1, |out| schema_or_reference(out, items)));
    }
    if value["properties"].is_object() {
        out.message(31, |out| {
            for (name, property) in members(&value["properties"]) {
                out.message(1, |out| named(out, name, |out| schema_or_reference(out, property)));
            }
        });
    }
    match value.get("additionalProperties") {
        Some(Value::Bool(allowed)) => out.message(32, |out| out.flag(2, *allowed)),
        Some(inner @ Value::Object(_)) => out.message(32, |out| out.message(1, |out| schema_or_reference(out, inner))),
        _ => {}
    }
    // Only these have a form.
    match value.get("default") {
        Some(Value::Number(number)) => out.message(33, |out| out.double(1, number.as_f64())),
        Some(Value::Bool(flag)) => out.message(33, |out| out.flag(2, *flag)),
        Some(Value::String(text)) => out.message(33, |out| out.text(3, Some(text))),
        _ => {}
    }
    out.text(34, value["description"].as_str());
    out.text(35, value["format"].as_str());
    extensions(out, 36, value.as_object());
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_document_has_its_protobuf_form() {
        let document = json!({
            "openapi": "3.0.0", "info": {"title": "T", "version": "v"},
            "paths": {"/p": {"get": {"operationId": "o", "responses": {"200": {"description": "OK"}}}}},
            "components": {"schemas": {"A": {"type": "object", "properties": {"b": {"$ref": "#/components/schemas/B"}}}}},
        });
        let got = encode(&document);
        assert!(got.starts_with(b"\x0a\x053.0.0\x12\x06\x0a\x01T\x2a\x01v"));
        let text = String::from_utf8_lossy(&got);
        assert!(text.contains("#/components/schemas/B") && text.contains("/p") && text.contains("200"));
    }
}
