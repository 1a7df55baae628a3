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
    if let Some(operation) = operations.iter().find(|operation| !operation.is_object()) {
        return Err(undecodable(operation, "handlers.jsonPatchOp"));
    }
    // Clients are not told why.
    apply_operations(document, operations).map_err(|_| unprocessable())
}

/// Applies operations in order.
///
/// # Errors
/// Why one does not apply, in the words of upstream's library (`evanphx/json-patch` v4).
pub fn apply_operations(mut document: Value, operations: &[Value]) -> Result<Value, String> {
    let none = Map::new();
    for operation in operations {
        apply(&mut document, operation.as_object().unwrap_or(&none))?;
    }
    Ok(document)
}

const MISSING: &str = "missing value";

/// A member that must be text; `wrapped` by what the operation says of its absence.
fn text<'o>(operation: &'o Map<String, Value>, name: &str, wrapped: &str) -> Result<&'o str, String> {
    operation.get(name).and_then(Value::as_str).ok_or_else(|| wrapped.to_owned())
}

fn apply(document: &mut Value, operation: &Map<String, Value>) -> Result<(), String> {
    let value = operation.get("value");
    let given = || value.cloned().unwrap_or(Value::Null);
    let path = |wrapped: &str| text(operation, "path", wrapped);
    let from = |op: &str| {
        let why = format!("{op} operation failed to decode from: operation, missing from field: {MISSING}");
        text(operation, "from", &why)
    };
    match operation.get("op").and_then(Value::as_str) {
        Some("add") => {
            let path = path(&format!("add operation failed to decode path: {MISSING}"))?;
            let missing = || format!("add operation does not apply: doc is missing path: \"{path}\": {MISSING}");
            let (container, key) = find(document, path).ok_or_else(missing)?;
            add(container, key, given()).map_err(|why| format!("error in add for path: '{path}': {why}"))
        }
        Some("remove") => {
            let path = path(&format!("remove operation failed to decode path: {MISSING}"))?;
            let missing = || format!("remove operation does not apply: doc is missing path: \"{path}\": {MISSING}");
            let (container, key) = find(document, path).ok_or_else(missing)?;
            let removed = remove(container, &key);
            removed.map(drop).map_err(|why| format!("error in remove for path: '{path}': {why}"))
        }
        Some("replace") => {
            let why = format!("replace operation failed to decode path: operation missing path field: {MISSING}");
            let path = path(&why)?;
            if path.is_empty() {
                if !value.is_some_and(|v| v.is_object() || v.is_array()) {
                    return Err("replace operation value must be object or array".to_owned());
                }
                *document = given();
                return Ok(());
            }
            let missing =
                |what: &str| format!("replace operation does not apply: doc is missing {what}: {path}: {MISSING}");
            let (container, key) = find(document, path).ok_or_else(|| missing("path"))?;
            match container {
                Value::Object(map) => drop(map.insert(key, given())),
                Value::Array(items) => {
                    let index = index(&key, items.len()).map_err(|_| missing("key"))?;
                    *items.get_mut(index).ok_or_else(|| missing("key"))? = given();
                }
                _ => return Err(missing("path")),
            }
            Ok(())
        }
        Some("move") => {
            let from = from("move")?;
            let missing = || format!("move operation does not apply: doc is missing from path: {from}: {MISSING}");
            let (container, key) = find(document, from).ok_or_else(missing)?;
            let moved = remove(container, &key).map_err(|why| format!("error in move for path: '{key}': {why}"))?;
            let why = format!("move operation failed to decode path: operation missing path field: {MISSING}");
            let path = path(&why)?;
            let missing =
                || format!("move operation does not apply: doc is missing destination path: {path}: {MISSING}");
            let (container, key) = find(document, path).ok_or_else(missing)?;
            add(container, key, moved).map_err(|why| format!("error in move for path: '{path}': {why}"))
        }
        Some("copy") => {
            let from = from("copy")?;
            let missing = || format!("copy operation does not apply: doc is missing from path: {from}: {MISSING}");
            let (container, key) = find(document, from).ok_or_else(missing)?;
            let found = member(container, &key).map_err(|why| format!("error in copy for from: '{from}': {why}"))?;
            let copied = found.cloned().unwrap_or(Value::Null);
            let path = path(&format!("copy operation failed to decode path: {MISSING}"))?;
            let missing =
                || format!("copy operation does not apply: doc is missing destination path: {path}: {MISSING}");
            let (container, key) = find(document, path).ok_or_else(missing)?;
            add(container, key, copied).map_err(|why| format!("error while adding value during copy: {why}"))
        }
        Some("test") => {
            let why = format!("test operation failed to decode path: operation missing path field: {MISSING}");
            let path = path(&why)?;
            let found = if path.is_empty() {
                Some(&*document)
            } else {
                let missing = || format!("test operation does not apply: is missing path: {path}: {MISSING}");
                let (container, key) = find(document, path).ok_or_else(missing)?;
                member(container, &key).map_err(|why| format!("error in test for path: '{path}': {why}"))?
            };
            let same = equal(found.unwrap_or(&Value::Null), value.unwrap_or(&Value::Null));
            if same { Ok(()) } else { Err(format!("testing value {path} failed: test failed")) }
        }
        other => Err(format!("Unexpected kind: {}", other.unwrap_or("unknown"))),
    }
}

/// The container that a path's last part is a member of, and that part.
fn find<'a>(document: &'a mut Value, path: &str) -> Option<(&'a mut Value, String)> {
    let mut parts: Vec<String> = path.split('/').skip(1).map(|p| p.replace("~1", "/").replace("~0", "~")).collect();
    let key = parts.pop()?;
    let mut container = document;
    for part in parts {
        container = match container {
            Value::Object(map) => map.get_mut(&part)?,
            Value::Array(items) => {
                let index = index(&part, items.len()).ok()?;
                items.get_mut(index)?
            }
            _ => return None,
        };
    }
    (container.is_object() || container.is_array()).then_some((container, key))
}

/// A value; `None` for a missing member of an object.
fn member<'a>(container: &'a Value, key: &str) -> Result<Option<&'a Value>, String> {
    match container {
        Value::Object(map) => Ok(map.get(key)),
        Value::Array(items) => {
            let at = index(key, items.len())?;
            items.get(at).map(Some).ok_or_else(|| invalid_index(key))
        }
        _ => Err(MISSING.to_owned()),
    }
}

fn invalid_index(key: &str) -> String {
    format!("Unable to access invalid index: {key}: invalid index referenced")
}

/// A position in a list of this length; negative ones count from its end.
fn index(key: &str, length: usize) -> Result<usize, String> {
    let number: i64 = key.parse().map_err(|_| format!("strconv.Atoi: parsing {key:?}: invalid syntax"))?;
    let length = i64::try_from(length).map_err(|_| invalid_index(key))?;
    let index = if number < 0 { number.saturating_add(length) } else { number };
    usize::try_from(index).map_err(|_| invalid_index(key))
}

fn add(container: &mut Value, key: String, value: Value) -> Result<(), String> {
    match container {
        Value::Object(map) => drop(map.insert(key, value)),
        Value::Array(items) if key == "-" => items.push(value),
        Value::Array(items) => {
            let index = index(&key, items.len() + 1).map_err(|why| match why.starts_with("strconv") {
                true => format!("value was not a proper array index: '{key}': {why}"),
                false => why,
            })?;
            if index > items.len() {
                return Err(invalid_index(&key));
            }
            items.insert(index, value);
        }
        _ => return Err(MISSING.to_owned()),
    }
    Ok(())
}

fn remove(container: &mut Value, key: &str) -> Result<Value, String> {
    match container {
        Value::Object(map) => {
            map.remove(key).ok_or_else(|| format!("Unable to remove nonexistent key: {key}: {MISSING}"))
        }
        Value::Array(items) => {
            let index = index(key, items.len())?;
            if index < items.len() { Ok(items.remove(index)) } else { Err(invalid_index(key)) }
        }
        _ => Err(MISSING.to_owned()),
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
