//! JSON patch (RFC 6902) as upstream's library applies it: indices may be negative, `replace` and `test` of a missing
//! member of an object see a null.

use serde_json::{Map, Value};

use super::{equal, go_json_type, unprocessable};
use crate::status::Status;

/// Upstream's `maxJSONPatchOperations`.
pub const MAX_OPERATIONS: usize = 10_000;

/// Applies a JSON patch. A patch that is no list of operations is a `BadRequest`, too many operations are
/// `RequestEntityTooLarge`, an operation that does not apply is `Invalid`.
pub fn json(document: Value, patch: &Value) -> Result<Value, Status> {
    let undecodable = |what: &Value, go_type: &str| {
        let text = format!(
            "error decoding patch: json: cannot unmarshal {} into Go value of type {go_type}",
            go_json_type(what)
        );
        Status::bad_request(text)
    };
    let operations = match patch {
        Value::Array(operations) => operations.as_slice(),
        Value::Null => &[],
        other => return Err(undecodable(other, "[]handlers.jsonPatchOp")),
    };
    if operations.len() > MAX_OPERATIONS {
        let text = format!(
            "Request entity too large: The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {}",
            operations.len()
        );
        return Err(Status::too_large(text));
    }
    let mut document = document;
    for operation in operations {
        let Value::Object(operation) = operation else {
            return Err(undecodable(operation, "handlers.jsonPatchOp"));
        };
        apply(&mut document, operation).map_err(|Inapplicable| unprocessable())?;
    }
    Ok(document)
}

/// An operation that does not apply; upstream does not tell clients why.
struct Inapplicable;

fn apply(document: &mut Value, operation: &Map<String, Value>) -> Result<(), Inapplicable> {
    let text = |name: &str| operation.get(name).and_then(Value::as_str).ok_or(Inapplicable);
    let value = operation.get("value");
    let given = || value.cloned().unwrap_or(Value::Null);
    match operation.get("op").and_then(Value::as_str) {
        Some("add") => add(document, text("path")?, given()),
        Some("remove") => remove(document, text("path")?).map(drop),
        Some("replace") => {
            let path = text("path")?;
            if path.is_empty() {
                if !value.is_some_and(|v| v.is_object() || v.is_array()) {
                    return Err(Inapplicable);
                }
                *document = given();
                return Ok(());
            }
            let (container, key) = find(document, path)?;
            match container {
                Value::Object(map) => drop(map.insert(key, given())),
                Value::Array(items) => {
                    let index = index(&key, items.len())?;
                    *items.get_mut(index).ok_or(Inapplicable)? = given();
                }
                _ => return Err(Inapplicable),
            }
            Ok(())
        }
        Some("move") => {
            let moved = remove(document, text("from")?)?;
            add(document, text("path")?, moved)
        }
        Some("copy") => {
            let copied = lookup(document, text("from")?)?.cloned().unwrap_or(Value::Null);
            add(document, text("path")?, copied)
        }
        Some("test") => {
            let path = text("path")?;
            let found = if path.is_empty() { Some(&*document) } else { lookup(document, path)? };
            let same = equal(found.unwrap_or(&Value::Null), value.unwrap_or(&Value::Null));
            if same { Ok(()) } else { Err(Inapplicable) }
        }
        _ => Err(Inapplicable),
    }
}

fn parts(path: &str) -> Result<(Vec<String>, String), Inapplicable> {
    let mut parts: Vec<String> = path.split('/').skip(1).map(|p| p.replace("~1", "/").replace("~0", "~")).collect();
    let key = parts.pop().ok_or(Inapplicable)?;
    Ok((parts, key))
}

/// The container that a path's last part is a member of, and that part.
fn find<'a>(document: &'a mut Value, path: &str) -> Result<(&'a mut Value, String), Inapplicable> {
    let (parents, key) = parts(path)?;
    let mut container = document;
    for part in parents {
        container = match container {
            Value::Object(map) => map.get_mut(&part).ok_or(Inapplicable)?,
            Value::Array(items) => {
                let index = index(&part, items.len())?;
                items.get_mut(index).ok_or(Inapplicable)?
            }
            _ => return Err(Inapplicable),
        };
    }
    Ok((container, key))
}

/// A value; `None` for a missing member of an object.
fn lookup<'a>(document: &'a mut Value, path: &str) -> Result<Option<&'a Value>, Inapplicable> {
    let (container, key) = find(document, path)?;
    match container {
        Value::Object(map) => Ok(map.get(&key)),
        Value::Array(items) => {
            let index = index(&key, items.len())?;
            items.get(index).map(Some).ok_or(Inapplicable)
        }
        _ => Err(Inapplicable),
    }
}

/// A position in a list of this length; negative ones count from its end.
fn index(key: &str, length: usize) -> Result<usize, Inapplicable> {
    let number: i64 = key.parse().map_err(|_| Inapplicable)?;
    let length = i64::try_from(length).map_err(|_| Inapplicable)?;
    let index = if number < 0 { number.checked_add(length).ok_or(Inapplicable)? } else { number };
    usize::try_from(index).map_err(|_| Inapplicable)
}

fn add(document: &mut Value, path: &str, value: Value) -> Result<(), Inapplicable> {
    let (container, key) = find(document, path)?;
    match container {
        Value::Object(map) => drop(map.insert(key, value)),
        Value::Array(items) if key == "-" => items.push(value),
        Value::Array(items) => {
            let index = index(&key, items.len() + 1)?;
            if index > items.len() {
                return Err(Inapplicable);
            }
            items.insert(index, value);
        }
        _ => return Err(Inapplicable),
    }
    Ok(())
}

fn remove(document: &mut Value, path: &str) -> Result<Value, Inapplicable> {
    let (container, key) = find(document, path)?;
    match container {
        Value::Object(map) => map.remove(&key).ok_or(Inapplicable),
        Value::Array(items) => {
            let index = index(&key, items.len())?;
            if index < items.len() { Ok(items.remove(index)) } else { Err(Inapplicable) }
        }
        _ => Err(Inapplicable),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json as j;

    fn check(document: Value, patch: Value, expected: Result<Value, u16>) {
        let result = json(document, &patch).map_err(|s| s.code);
        assert_eq!(result, expected, "{patch}");
    }

    #[test]
    fn applies_operations_in_order() {
        check(j!({}), j!([{"op": "add", "path": "/a", "value": 1}]), Ok(j!({"a": 1})));
        check(j!({"a": [1, 3]}), j!([{"op": "add", "path": "/a/1", "value": 2}]), Ok(j!({"a": [1, 2, 3]})));
        check(j!({"a": [1]}), j!([{"op": "add", "path": "/a/-", "value": 2}]), Ok(j!({"a": [1, 2]})));
        check(j!({"a": [1, 2]}), j!([{"op": "remove", "path": "/a/-1"}]), Ok(j!({"a": [1]})));
        check(j!({"a": {"x/y": 1}}), j!([{"op": "remove", "path": "/a/x~1y"}]), Ok(j!({"a": {}})));
        check(j!({"a": 1}), j!([{"op": "replace", "path": "/b", "value": 2}]), Ok(j!({"a": 1, "b": 2})));
        check(j!({"a": 1}), j!([{"op": "move", "from": "/a", "path": "/b"}]), Ok(j!({"b": 1})));
        check(j!({"a": [1]}), j!([{"op": "copy", "from": "/a", "path": "/b"}]), Ok(j!({"a": [1], "b": [1]})));
        check(j!({"a": 1}), j!([{"op": "test", "path": "/a", "value": 1.0}]), Ok(j!({"a": 1})));
        check(j!({}), j!([{"op": "test", "path": "/a", "value": null}]), Ok(j!({})));
    }

    #[test]
    fn what_does_not_apply_is_invalid() {
        for patch in [
            j!([{"op": "remove", "path": "/missing"}]),
            j!([{"op": "add", "path": "/missing/x", "value": 1}]),
            j!([{"op": "test", "path": "/a", "value": 2}]),
            j!([{"op": "shrink", "path": "/a"}]),
            j!([{"op": "add", "value": 2}]),
            j!([{"op": "replace", "path": "/list/7", "value": 2}]),
            j!([{"op": "add", "path": "/list/2", "value": 2}]),
        ] {
            check(j!({"a": 1, "list": [1]}), patch, Err(422));
        }
    }

    #[test]
    fn what_is_no_patch_is_a_bad_request() {
        let error = json(j!({}), &j!({"op": "add"})).unwrap_err();
        assert_eq!(
            error.message,
            "error decoding patch: json: cannot unmarshal object into Go value of type []handlers.jsonPatchOp"
        );
        let many = Value::from(vec![j!({"op": "add", "path": "/a", "value": 1}); MAX_OPERATIONS + 1]);
        check(j!({}), many, Err(413));
    }
}
