//! Short reads and writes of JSON trees, for code that works on objects without typed structs.
//!
//! Reads tolerate absent and ill-typed members (they read as empty): the schema has checked shape before any kind sees
//! an object. An explicit `null` reads as absent, as it does in Go.

use api::Object;
use api::quantity::{Format, Quantity};
use serde_json::{Map, Value};

/// What an absent member reads as.
pub(crate) static NULL: Value = Value::Null;

/// A JSON object's members.
pub(crate) type Members = Map<String, Value>;

/// Reads.
pub(crate) trait Json {
    /// The member `key`, or null.
    fn at(&self, key: &str) -> &Value;

    /// Whether the member is there and not null.
    fn has(&self, key: &str) -> bool {
        !self.at(key).is_null()
    }

    /// The string member `key`, or the empty string.
    fn text(&self, key: &str) -> &str {
        self.at(key).as_str().unwrap_or_default()
    }

    /// The integer member `key`.
    fn int(&self, key: &str) -> Option<i64> {
        self.at(key).as_i64()
    }

    /// The boolean member `key`; absent is false.
    fn flag(&self, key: &str) -> bool {
        self.at(key).as_bool().unwrap_or_default()
    }

    /// The items of the list member `key`.
    fn list(&self, key: &str) -> &[Value] {
        self.at(key).as_array().map_or(&[], Vec::as_slice)
    }

    /// The members of the object member `key`, in key order.
    fn entries(&self, key: &str) -> Box<dyn Iterator<Item = (&str, &Value)> + '_> {
        match self.at(key).as_object() {
            Some(map) => Box::new(map.iter().map(|(k, v)| (k.as_str(), v))),
            None => Box::new(std::iter::empty()),
        }
    }

    /// How many items or members the member `key` has.
    fn count(&self, key: &str) -> usize {
        match self.at(key) {
            Value::Array(items) => items.len(),
            Value::Object(map) => map.len(),
            Value::String(text) => text.len(),
            _ => 0,
        }
    }
}

impl Json for Value {
    fn at(&self, key: &str) -> &Value {
        self.as_object().and_then(|map| map.get(key)).unwrap_or(&NULL)
    }
}

impl Json for Members {
    fn at(&self, key: &str) -> &Value {
        self.get(key).unwrap_or(&NULL)
    }
}

impl Json for Object {
    fn at(&self, key: &str) -> &Value {
        self.0.get(key).unwrap_or(&NULL)
    }
}

/// The value at a path of member names, or null.
pub(crate) fn dig<'v>(root: &'v impl Json, path: &[&str]) -> &'v Value {
    match path.split_first() {
        None => &NULL,
        Some((first, rest)) => rest.iter().fold(root.at(first), |value, name| value.at(name)),
    }
}

/// Sets `key` unless it is there and not null or empty text.
pub(crate) fn fill(map: &mut Members, key: &str, value: impl Into<Value>) {
    let vacant = match map.get(key) {
        None | Some(Value::Null) => true,
        Some(Value::String(text)) => text.is_empty(),
        Some(_) => false,
    };
    if vacant {
        map.insert(key.to_owned(), value.into());
    }
}

/// Sets `key` unless it is there, as Go has it for pointers: an empty text is there.
pub(crate) fn absent(map: &mut Members, key: &str, value: impl Into<Value>) {
    if !map.has(key) {
        map.insert(key.to_owned(), value.into());
    }
}

/// Sets `key` unless it is there and a number other than zero.
pub(crate) fn fill_zero(map: &mut Members, key: &str, value: i64) {
    if map.get(key).and_then(Value::as_i64).unwrap_or_default() == 0 {
        map.insert(key.to_owned(), value.into());
    }
}

/// The object member `key`, made if it is absent or null. `None` if something else is there.
pub(crate) fn child<'m>(map: &'m mut Members, key: &str) -> Option<&'m mut Members> {
    if !map.at(key).is_object() {
        if map.has(key) {
            return None;
        }
        map.insert(key.to_owned(), Value::Object(Map::new()));
    }
    existing(map, key)
}

/// The object member `key`, if it is there.
pub(crate) fn existing<'m>(map: &'m mut Members, key: &str) -> Option<&'m mut Members> {
    map.get_mut(key).and_then(Value::as_object_mut)
}

/// The object at a path of member names, if it is there.
pub(crate) fn existing_at<'m>(map: &'m mut Members, path: &[&str]) -> Option<&'m mut Members> {
    path.iter().try_fold(map, |map, name| existing(map, name))
}

/// The object items of the list member `key`.
pub(crate) fn items_mut<'m>(map: &'m mut Members, key: &str) -> impl Iterator<Item = &'m mut Members> {
    map.get_mut(key).and_then(Value::as_array_mut).into_iter().flatten().filter_map(Value::as_object_mut)
}

/// Copies the member `key` from `from`, or removes it if it is absent there.
pub(crate) fn restore(map: &mut Members, key: &str, from: &impl Json) {
    let value = from.at(key);
    if value.is_null() {
        map.remove(key);
    } else {
        map.insert(key.to_owned(), value.clone());
    }
}

/// A quantity; absent and ill-formed ones (which the schema has reported) read as zero.
pub(crate) fn amount(value: &Value) -> Quantity {
    Quantity::from_json(value).and_then(Result::ok).unwrap_or_else(|| Quantity::new(0, Format::DecimalSi))
}

/// Equality as Go's `apiequality.Semantic.DeepEqual` has it for decoded objects: an absent member equals null and empty
/// lists and objects.
pub(crate) fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            a.iter().all(|(key, value)| same(value, b.at(key)))
                && b.iter().all(|(key, value)| a.contains_key(key) || is_empty(value))
        }
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (a, b) => a == b || (is_empty(a) && is_empty(b)),
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.values().all(is_empty),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn absent_and_empty_are_the_same() {
        assert!(same(&json!({"a": 1, "b": []}), &json!({"a": 1})));
        assert!(same(&json!({"a": {"b": {}}}), &json!({})));
        assert!(!same(&json!({"a": 1}), &json!({"a": 2})));
        assert!(!same(&json!({"a": ""}), &json!({"a": "x"})));
    }

    #[test]
    fn fill_leaves_what_is_set() {
        let mut map = json!({"a": "x", "b": "", "c": null}).as_object().unwrap().clone();
        for key in ["a", "b", "c", "d"] {
            fill(&mut map, key, "new");
        }
        assert_eq!(Value::Object(map), json!({"a": "x", "b": "new", "c": "new", "d": "new"}));
    }
}
