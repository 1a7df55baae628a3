//! `x-kubernetes-list-type` set and map: no item twice (apiextensions-apiserver `schema/listtype`).

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::{ListKind, Structural};
use crate::field::{Error, ErrorList, Path};

/// Items that repeat others in lists that are sets or maps.
pub fn validate(object: &Value, schema: &Structural) -> ErrorList {
    let mut errors = ErrorList::new();
    if schema.any(&|s| matches!(s.list, Some(ListKind::Set | ListKind::Map))) {
        check(object, schema, &Path::default(), &mut errors);
    }
    errors
}

fn check(value: &Value, schema: &Structural, path: &Path, errors: &mut ErrorList) {
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                if let Some(additional) = schema.additional_schema() {
                    check(value, additional, &path.key(name), errors);
                }
                if let Some(property) = schema.property(name) {
                    check(value, property, &path.child(name), errors);
                }
            }
        }
        Value::Array(items) => {
            match schema.list {
                Some(ListKind::Set) => {
                    for index in repeated(items.iter().map(ToString::to_string)) {
                        errors.push(Error::duplicate(path.index(index), items[index].clone()));
                    }
                }
                Some(ListKind::Map) => keyed(items, schema, path, errors),
                Some(ListKind::Atomic) | None => {}
            }
            if let Some(schema) = &schema.items {
                for (index, value) in items.iter().enumerate() {
                    check(value, schema, &path.index(index), errors);
                }
            }
        }
        _ => {}
    }
}

/// Indexes of the first repetition of each item that is there more than once.
fn repeated(items: impl Iterator<Item = String>) -> Vec<usize> {
    let mut seen: HashMap<String, usize> = HashMap::new();
    let mut found = Vec::new();
    for (index, item) in items.enumerate() {
        let times = seen.entry(item).or_default();
        *times += 1;
        if *times == 2 {
            found.push(index);
        }
    }
    found
}

fn keyed(items: &[Value], schema: &Structural, path: &Path, errors: &mut ErrorList) {
    for (index, item) in items.iter().enumerate() {
        if !item.is_object() && !item.is_null() {
            let text = "must be an object for an array of list-type map";
            errors.push(Error::invalid(path.index(index), item.clone(), text));
            return;
        }
    }
    let key = |item: &Value| -> Value {
        let members = schema.list_map_keys.iter().filter_map(|k| Some((k.to_string(), item.get(&**k)?.clone())));
        Value::Object(members.collect::<Map<_, _>>())
    };
    for index in repeated(items.iter().map(|item| key(item).to_string())) {
        errors.push(Error::duplicate(path.index(index), key(&items[index])));
    }
}
