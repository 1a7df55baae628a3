//! The protobuf form of a version 2 document (gnostic's `OpenAPIv2.proto`), the only one that some clients ask for.

use serde_json::{Map, Value};

use crate::codec::protobuf::Forward;

/// Encodes a version 2 document.
pub fn encode(document: &Value) -> Vec<u8> {
    let mut out = Forward::default();
    out.text(1, document["swagger"].as_str());
    out.message(2, |out| {
        out.text(1, document["info"]["title"].as_str());
        out.text(2, document["info"]["version"].as_str());
    });
    out.message(8, |out| {
        for (path, item) in members(&document["paths"]) {
            out.message(2, |out| named(out, path, |out| path_item(out, item)));
        }
    });
    out.message(9, |out| {
        for (name, definition) in members(&document["definitions"]) {
            out.message(1, |out| named(out, name, |out| schema(out, definition)));
        }
    });
    out.message(10, |out| {
        for (name, parameter) in members(&document["parameters"]) {
            out.message(1, |out| named(out, name, |out| self::parameter(out, parameter)));
        }
    });
    for requirement in document["security"].as_array().into_iter().flatten() {
        out.message(12, |out| {
            for (name, _) in members(requirement) {
                out.message(1, |out| named(out, name, |_| {}));
            }
        });
    }
    out.message(13, |out| {
        for (name, definition) in members(&document["securityDefinitions"]) {
            out.message(1, |out| {
                named(out, name, |out| {
                    out.message(2, |out| {
                        for (number, key) in [(1, "type"), (2, "name"), (3, "in"), (4, "description")] {
                            out.text(number, definition[key].as_str());
                        }
                    });
                });
            });
        }
    });
    out.finish()
}

/// More paths and definitions of a document, to stand after it: a message that comes twice is merged.
pub fn encode_more(paths: &Map<String, Value>, definitions: &Map<String, Value>) -> Vec<u8> {
    let mut out = Forward::default();
    out.message(8, |out| {
        for (path, item) in paths {
            out.message(2, |out| named(out, path, |out| path_item(out, item)));
        }
    });
    out.message(9, |out| {
        for (name, definition) in definitions {
            out.message(1, |out| named(out, name, |out| schema(out, definition)));
        }
    });
    out.finish()
}

pub(super) fn members(value: &Value) -> impl Iterator<Item = (&str, &Value)> {
    value.as_object().into_iter().flatten().map(|(k, v)| (k.as_str(), v))
}

pub(super) fn strings(out: &mut Forward, number: u32, value: &Value) {
    for item in value.as_array().into_iter().flatten() {
        out.text(number, item.as_str());
    }
}

/// `Named…`: name = 1, value = 2.
pub(super) fn named(out: &mut Forward, name: &str, value: impl FnOnce(&mut Forward)) {
    out.text(1, Some(name));
    out.message(2, value);
}

/// `Any`: the YAML (here JSON, which is YAML) of a value.
pub(super) fn any(out: &mut Forward, value: &Value) {
    out.text(2, Some(&value.to_string()));
}

pub(super) fn extensions(out: &mut Forward, number: u32, map: Option<&Map<String, Value>>) {
    for (name, value) in map.into_iter().flatten().filter(|(name, _)| name.starts_with("x-")) {
        out.message(number, |out| named(out, name, |out| any(out, value)));
    }
}

fn path_item(out: &mut Forward, item: &Value) {
    let methods = [(2, "get"), (3, "put"), (4, "post"), (5, "delete"), (6, "options"), (7, "head"), (8, "patch")];
    for (number, method) in methods {
        if let Some(found) = item.get(method) {
            out.message(number, |out| operation(out, found));
        }
    }
    parameters(out, 9, &item["parameters"]);
}

fn operation(out: &mut Forward, value: &Value) {
    strings(out, 1, &value["tags"]);
    out.text(3, value["description"].as_str());
    out.text(5, value["operationId"].as_str());
    strings(out, 6, &value["produces"]);
    strings(out, 7, &value["consumes"]);
    parameters(out, 8, &value["parameters"]);
    out.message(9, |out| {
        for (code, found) in members(&value["responses"]) {
            out.message(1, |out| {
                named(out, code, |out| {
                    out.message(1, |out| {
                        out.text(1, found["description"].as_str());
                        if let Some(inner) = found.get("schema") {
                            out.message(2, |out| out.message(1, |out| schema(out, inner)));
                        }
                    });
                });
            });
        }
    });
    strings(out, 10, &value["schemes"]);
    extensions(out, 13, value.as_object());
}

fn parameters(out: &mut Forward, number: u32, list: &Value) {
    for parameter in list.as_array().into_iter().flatten() {
        out.message(number, |out| match parameter["$ref"].as_str() {
            Some(reference) => out.message(2, |out| out.text(1, Some(reference))),
            None => out.message(1, |out| self::parameter(out, parameter)),
        });
    }
}

fn parameter(out: &mut Forward, value: &Value) {
    let (name, description) = (value["name"].as_str(), value["description"].as_str());
    let place = value["in"].as_str();
    let required = value["required"].as_bool().unwrap_or(false);
    match place {
        Some("body") => out.message(1, |out| {
            out.text(1, description);
            out.text(2, name);
            out.text(3, place);
            out.flag(4, required);
            out.message(5, |out| schema(out, &value["schema"]));
        }),
        Some("path") => out.message(2, |out| {
            out.message(4, |out| {
                out.flag(1, required);
                out.text(2, place);
                out.text(3, description);
                out.text(4, name);
                out.text(5, value["type"].as_str());
                out.flag(18, value["uniqueItems"].as_bool().unwrap_or(false));
            });
        }),
        _ => out.message(2, |out| {
            out.message(3, |out| {
                out.flag(1, required);
                out.text(2, place);
                out.text(3, description);
                out.text(4, name);
                out.text(6, value["type"].as_str());
                out.flag(20, value["uniqueItems"].as_bool().unwrap_or(false));
            });
        }),
    }
}

fn schema(out: &mut Forward, value: &Value) {
    out.text(1, value["$ref"].as_str());
    out.text(2, value["format"].as_str());
    out.text(3, value["title"].as_str());
    out.text(4, value["description"].as_str());
    if let Some(default) = value.get("default") {
        out.message(5, |out| any(out, default));
    }
    for (number, key) in [(6, "multipleOf"), (7, "maximum"), (9, "minimum")] {
        out.double(number, value[key].as_f64());
    }
    out.flag(8, value["exclusiveMaximum"].as_bool().unwrap_or(false));
    out.flag(10, value["exclusiveMinimum"].as_bool().unwrap_or(false));
    for (number, key) in [(11, "maxLength"), (12, "minLength")] {
        out.integer(number, value[key].as_i64());
    }
    out.text(13, value["pattern"].as_str());
    for (number, key) in [(14, "maxItems"), (15, "minItems")] {
        out.integer(number, value[key].as_i64());
    }
    out.flag(16, value["uniqueItems"].as_bool().unwrap_or(false));
    for (number, key) in [(17, "maxProperties"), (18, "minProperties")] {
        out.integer(number, value[key].as_i64());
    }
    strings(out, 19, &value["required"]);
    for item in value["enum"].as_array().into_iter().flatten() {
        out.message(20, |out| any(out, item));
    }
    match value.get("additionalProperties") {
        Some(Value::Bool(allowed)) => out.message(21, |out| out.flag(2, *allowed)),
        Some(inner @ Value::Object(_)) => out.message(21, |out| out.message(1, |out| schema(out, inner))),
        _ => {}
    }
    if let Some(ty) = value["type"].as_str() {
        out.message(22, |out| out.text(1, Some(ty)));
    }
    if let Some(items) = value.get("items") {
        out.message(23, |out| out.message(1, |out| schema(out, items)));
    }
    if value["properties"].is_object() {
        out.message(25, |out| {
            for (name, property) in members(&value["properties"]) {
                out.message(1, |out| named(out, name, |out| schema(out, property)));
            }
        });
    }
    extensions(out, 31, value.as_object());
}
