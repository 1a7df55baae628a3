//! Lists of values: how equality and sums of them depend on what the schema says of their elements.

use std::collections::{HashMap, HashSet};
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use super::error::EvalError;
use super::value::{Key, Value};

/// What tells a list's elements apart (`x-kubernetes-list-type`).
#[derive(Debug, Clone, Default)]
pub enum ListKind {
    /// Their places.
    #[default]
    Atomic,
    /// Themselves: the order does not count.
    Set,
    /// These fields, by their escaped names: the order does not count.
    Map(Arc<[Arc<str>]>),
}

/// See [`Value::List`].
#[derive(Debug, Clone, Default)]
pub struct List {
    pub items: Vec<Value>,
    pub kind: ListKind,
}

impl Deref for List {
    type Target = Vec<Value>;

    fn deref(&self) -> &Vec<Value> {
        &self.items
    }
}

impl DerefMut for List {
    fn deref_mut(&mut self) -> &mut Vec<Value> {
        &mut self.items
    }
}

impl From<Vec<Value>> for List {
    fn from(items: Vec<Value>) -> Self {
        Self { items, kind: ListKind::Atomic }
    }
}

impl List {
    /// Equality by the kind of the first of the two (apiserver `cel/common/valuesunstructured.go`).
    pub(super) fn equals(&self, other: &Self) -> bool {
        if self.len() != other.len() {
            return false;
        }
        match &self.kind {
            ListKind::Atomic => self.iter().zip(other.iter()).all(|(a, b)| a.equals(b)),
            ListKind::Set => {
                let all: HashSet<String> = self.iter().map(element_key).collect();
                let seen: HashSet<String> = other.iter().map(element_key).collect();
                all == seen
            }
            ListKind::Map(keys) => {
                let mut seen = HashSet::new();
                other.iter().all(|item| {
                    let key = map_key(item, keys);
                    let same = self.iter().rev().find(|own| map_key(own, keys) == key);
                    seen.insert(key);
                    same.is_some_and(|own| own.equals(item))
                }) && seen.len() == self.iter().map(|own| map_key(own, keys)).collect::<HashSet<_>>().len()
            }
        }
    }

    /// `a + b`: elements of a set are there once, those of a map that both have are the second's.
    ///
    /// # Errors
    /// A set has an element that is no scalar.
    pub(super) fn sum(a: &Self, b: &Self) -> Result<Self, EvalError> {
        let mut items = a.items.clone();
        match &a.kind {
            ListKind::Atomic => items.extend(b.iter().cloned()),
            ListKind::Set => {
                if items.iter().chain(b.iter()).any(|item| matches!(item, Value::List(_) | Value::Map(_))) {
                    return Err(EvalError::new("listSet operations are only supported on lists of scalar values"));
                }
                let mut seen: HashSet<String> = items.iter().map(element_key).collect();
                items.extend(b.iter().filter(|item| seen.insert(element_key(item))).cloned());
            }
            ListKind::Map(keys) => {
                let places: HashMap<String, usize> =
                    items.iter().enumerate().map(|(at, item)| (map_key(item, keys), at)).collect();
                for item in b.iter() {
                    match places.get(&map_key(item, keys)) {
                        Some(at) => items[*at] = item.clone(),
                        None => items.push(item.clone()),
                    }
                }
            }
        }
        Ok(Self { items, kind: a.kind.clone() })
    }
}

/// What tells a scalar from others, with its type.
fn element_key(item: &Value) -> String {
    format!("{} {}", item.type_name(), super::library::text::shown(item))
}

/// The key fields of an element.
fn map_key(item: &Value, keys: &[Arc<str>]) -> String {
    let Value::Map(entries) = item else { return String::new() };
    let mut out = String::new();
    for key in keys {
        match entries.get(&Key::String(Arc::clone(key))) {
            Some(value) => out.push_str(&crate::codec::go_quote(&element_key(value))),
            None => out.push('-'),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn list(json: &serde_json::Value, kind: ListKind) -> List {
        let items = json.as_array().into_iter().flatten().map(Value::from_json).collect();
        List { items, kind }
    }

    #[test]
    fn sets_have_no_order() {
        let (a, b) = (list(&json!(["x", "y"]), ListKind::Set), list(&json!(["y", "x"]), ListKind::Set));
        assert!(a.equals(&b));
        assert!(!list(&json!(["x", "y"]), ListKind::Atomic).equals(&b));
        assert!(!a.equals(&list(&json!(["x", "x"]), ListKind::Set)));
        assert_eq!(List::sum(&a, &list(&json!(["z", "x"]), ListKind::Atomic)).unwrap().len(), 3);
    }

    #[test]
    fn elements_with_keys_are_found_by_them() {
        let kind = || ListKind::Map(["k".into()].into());
        let a = list(&json!([{"k": "a", "v": 1}, {"k": "b", "v": 2}]), kind());
        assert!(a.equals(&list(&json!([{"k": "b", "v": 2}, {"k": "a", "v": 1}]), kind())));
        assert!(!a.equals(&list(&json!([{"k": "b", "v": 2}, {"k": "a", "v": 3}]), kind())));
        let sum = List::sum(&a, &list(&json!([{"k": "b", "v": 9}, {"k": "c"}]), kind())).unwrap();
        let want = list(&json!([{"k": "a", "v": 1}, {"k": "b", "v": 9}, {"k": "c"}]), ListKind::Atomic);
        assert!(want.equals(&sum));
    }
}
