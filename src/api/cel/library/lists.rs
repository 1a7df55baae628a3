//! Lists: cel-go's extensions in version 3, sets, and Kubernetes' own list functions.

use std::cmp::Ordering;
use std::sync::Arc;

use super::bounded;
use crate::cel::error::EvalError;
use crate::cel::eval::Result;
use crate::cel::value::Value;

pub(super) fn call(name: &str, args: &[Value]) -> Option<Result> {
    Some(match (name, args) {
        ("isSorted", [Value::List(items)]) => sorted(items),
        ("sum", [Value::List(items)]) => sum(items),
        ("min", [Value::List(items)]) => extreme("min", items, Ordering::Greater),
        ("max", [Value::List(items)]) => extreme("max", items, Ordering::Less),
        ("indexOf", [Value::List(items), item]) => {
            Ok(Value::Int(items.iter().position(|i| i.equals(item)).map_or(-1, |at| at as i64)))
        }
        ("lastIndexOf", [Value::List(items), item]) => {
            Ok(Value::Int(items.iter().rposition(|i| i.equals(item)).map_or(-1, |at| at as i64)))
        }
        ("includes", [Value::List(items), item]) => Ok(Value::Bool(items.iter().any(|i| i.equals(item)))),
        ("includes", [value, item]) => Ok(Value::Bool(value.equals(item))),
        ("sets.contains", [Value::List(a), Value::List(b)]) => Ok(Value::Bool(contains(a, b))),
        ("sets.equivalent", [Value::List(a), Value::List(b)]) => Ok(Value::Bool(contains(a, b) && contains(b, a))),
        ("sets.intersects", [Value::List(a), Value::List(b)]) => {
            Ok(Value::Bool(a.iter().any(|x| b.iter().any(|y| x.equals(y)))))
        }
        ("slice", [Value::List(items), Value::Int(from), Value::Int(to)]) => slice(items, *from, *to),
        ("flatten", [Value::List(items)]) => flatten(items, 1),
        ("flatten", [Value::List(items), Value::Int(depth)]) => {
            if *depth < 0 {
                return Some(Err(EvalError::new("level must be non-negative")));
            }
            flatten(items, *depth)
        }
        ("sort", [Value::List(items)]) => sort_by(items, items),
        ("@sortByAssociatedKeys", [Value::List(items), Value::List(keys)]) => sort_by(items, keys),
        ("lists.range", [Value::Int(end)]) if *end < 0 => {
            Err(EvalError::new(format!("lists.range: size must be non-negative, got {end}")))
        }
        ("lists.range", [Value::Int(end)]) => {
            let count = usize::try_from(*end).unwrap_or(0);
            match bounded(count.saturating_mul(size_of::<Value>())) {
                Ok(()) => Ok((0..*end).map(Value::Int).collect::<Vec<_>>().into()),
                Err(error) => Err(error),
            }
        }
        ("reverse", [Value::List(items)]) => Ok(items.iter().rev().cloned().collect::<Vec<_>>().into()),
        ("distinct", [Value::List(items)]) => Ok(distinct(items)),
        ("first", [Value::List(items)]) => Ok(Value::Optional(items.first().cloned().map(Arc::new))),
        ("last", [Value::List(items)]) => Ok(Value::Optional(items.last().cloned().map(Arc::new))),
        ("optional.unwrap" | "unwrapOpt", [Value::List(items)]) => {
            let mut present = Vec::new();
            for item in items.iter() {
                match item {
                    Value::Optional(inner) => present.extend(inner.as_deref().cloned()),
                    _ => return Some(Err(EvalError::no_such_overload())),
                }
            }
            Ok(present.into())
        }
        _ => return None,
    })
}

fn sorted(items: &[Value]) -> Result {
    for pair in items.windows(2) {
        match pair[0].compare(&pair[1]) {
            Some(Ordering::Greater) => return Ok(Value::Bool(false)),
            Some(_) => {}
            None => return Err(EvalError::no_such_overload()),
        }
    }
    Ok(Value::Bool(true))
}

fn sum(items: &[Value]) -> Result {
    let mut items = items.iter();
    let Some(first) = items.next() else { return Ok(Value::Int(0)) };
    items.try_fold(first.clone(), |sum, item| {
        super::standard::call("_+_", &[sum, item.clone()]).unwrap_or_else(|| Err(EvalError::no_such_overload()))
    })
}

fn extreme(name: &str, items: &[Value], replace: Ordering) -> Result {
    let mut items = items.iter();
    let Some(mut best) = items.next() else { return Err(EvalError::new(format!("{name} called on empty list"))) };
    for item in items {
        match best.compare(item) {
            Some(order) if order == replace => best = item,
            Some(_) => {}
            None => return Err(EvalError::no_such_overload()),
        }
    }
    Ok(best.clone())
}

/// Whether every item of `part` is in `whole`.
fn contains(whole: &[Value], part: &[Value]) -> bool {
    part.iter().all(|item| whole.iter().any(|other| other.equals(item)))
}

fn slice(items: &[Value], from: i64, to: i64) -> Result {
    if from < 0 || to < 0 {
        return Err(EvalError::new(format!("cannot slice({from}, {to}), negative indexes not supported")));
    }
    if from > to {
        return Err(EvalError::new(format!(
            "cannot slice({from}, {to}), start index must be less than or equal to end index"
        )));
    }
    match items.get(from as usize..to as usize) {
        Some(part) => Ok(part.to_vec().into()),
        None => Err(EvalError::new(format!("cannot slice({from}, {to}), list is length {}", items.len()))),
    }
}

/// Flattens so many levels. Nested lists are values that exist, so the result is no larger than they are.
fn flatten(items: &[Value], depth: i64) -> Result {
    let mut out = Vec::new();
    let mut open: Vec<(&Value, i64)> = items.iter().rev().map(|item| (item, depth)).collect();
    while let Some((item, depth)) = open.pop() {
        match item {
            Value::List(inner) if depth > 0 => open.extend(inner.iter().rev().map(|item| (item, depth - 1))),
            other => out.push(other.clone()),
        }
        bounded(out.len() * size_of::<Value>())?;
    }
    Ok(out.into())
}

fn sort_by(items: &[Value], keys: &[Value]) -> Result {
    if items.len() != keys.len() {
        return Err(EvalError::new(format!(
            "@sortByAssociatedKeys() expected a list of the same size as the associated keys list, but got {} and {} elements respectively",
            items.len(),
            keys.len()
        )));
    }
    let Some(first) = keys.first() else { return Ok(Vec::new().into()) };
    if keys.iter().any(|key| key.compare(first).is_none() || key.type_name() != first.type_name()) {
        return Err(EvalError::new("list elements must have the same type"));
    }
    let mut order: Vec<usize> = (0..items.len()).collect();
    order.sort_by(|a, b| keys[*a].compare(&keys[*b]).unwrap_or(Ordering::Equal));
    Ok(order.into_iter().map(|i| items[i].clone()).collect::<Vec<_>>().into())
}

fn distinct(items: &[Value]) -> Value {
    let mut seen = std::collections::HashSet::new();
    let mut out: Vec<Value> = Vec::new();
    for item in items {
        // Keys are found at once; other values are compared one by one.
        let fresh = match crate::cel::value::Key::from_value(item) {
            Some(key) => seen.insert(key),
            None => !out.iter().any(|known| known.equals(item)),
        };
        if fresh {
            out.push(item.clone());
        }
    }
    out.into()
}
