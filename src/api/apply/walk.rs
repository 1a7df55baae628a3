//! Walks over values along the schema: validating, listing paths, comparing, merging and removing
//! (structured-merge-diff `typed`).

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::place::{Kind, Leaf, Place};
use super::set::{Element, FieldSet};
use crate::patch::equal;

/// Checks that a value has the schema's shape; texts with paths, as upstream words them.
pub(super) fn validate(at: Place<'_>, value: &Value, duplicates_allowed: bool) -> Vec<String> {
    let mut problems = Vec::new();
    check(at.with_all_parts(), value, duplicates_allowed, &mut String::new(), &mut problems);
    problems
}

fn check(at: Place<'_>, value: &Value, duplicates: bool, path: &mut String, problems: &mut Vec<String>) {
    if value.is_null() {
        return;
    }
    match at.for_value(value) {
        Kind::Leaf(leaf) => {
            let expected = match leaf {
                Leaf::String if !value.is_string() => "expected string, got ",
                Leaf::Number if !value.is_number() => "expected numeric (int or float), got ",
                Leaf::Bool if !value.is_boolean() => "expected boolean, got ",
                Leaf::Scalar if value.is_object() || value.is_array() => "expected any scalar, got ",
                Leaf::List if !value.is_array() => "expected list, got ",
                Leaf::Map if !value.is_object() => "expected map, got ",
                _ => return,
            };
            problem(problems, path, format!("{expected}{}", shown(value, leaf)));
        }
        Kind::Items(item) => {
            let Value::Array(items) = value else {
                return problem(problems, path, format!("expected list, got {}", shown(value, Leaf::List)));
            };
            for (i, child) in items.iter().enumerate() {
                descend(at.item(item), child, duplicates, path, &format!("[{i}]"), problems);
            }
        }
        Kind::Set(item) | Kind::Keyed(_, item) => {
            let Value::Array(items) = value else {
                return problem(problems, path, format!("expected list, got {}", shown(value, Leaf::List)));
            };
            let mut seen = BTreeSet::new();
            for (i, child) in items.iter().enumerate() {
                let element = match at.list_element(child) {
                    Ok(element) => element,
                    Err(text) => return problem(problems, path, format!("element {i}: {text}")),
                };
                if !seen.insert(element.clone()) && !duplicates {
                    problem(problems, path, format!("duplicate entries for key {element}"));
                }
                descend(at.item(item), child, duplicates, path, &element.to_string(), problems);
            }
        }
        Kind::Struct(_) | Kind::Map(_) | Kind::Deduced => {
            let Value::Object(members) = value else {
                return problem(problems, path, format!("expected map, got {}", shown(value, Leaf::Map)));
            };
            for (name, child) in members {
                match at.member(name) {
                    None => {
                        problems.push(format!("{path}.{name}: field not declared in schema"));
                        // Upstream looks at no further member (in Go's random order).
                        return;
                    }
                    Some(place) => descend(place, child, duplicates, path, &format!(".{name}"), problems),
                }
            }
        }
    }
}

fn problem(problems: &mut Vec<String>, path: &str, text: String) {
    problems.push(if path.is_empty() { text } else { format!("{path}: {text}") });
}

fn descend(at: Place<'_>, value: &Value, duplicates: bool, path: &mut String, step: &str, problems: &mut Vec<String>) {
    let length = path.len();
    path.push_str(step);
    check(at, value, duplicates, path, problems);
    path.truncate(length);
}

/// A wrong value as upstream's formats show it: `%T` for numbers, `%#v` for strings, `%v` otherwise.
fn shown(value: &Value, wanted: Leaf) -> String {
    match (value, wanted) {
        (Value::String(_), Leaf::Number) => "string".to_owned(),
        (Value::Bool(_), Leaf::Number) => "bool".to_owned(),
        (Value::Object(_), Leaf::Number) => "map[string]interface {}".to_owned(),
        (Value::Array(_), Leaf::Number) => "[]interface {}".to_owned(),
        (value, Leaf::String) => format!("&value.valueUnstructured{{Value:{}}}", go_syntax(value)),
        (value, _) => format!("&{{{}}}", crate::patch::go_value(value)),
    }
}

/// A value as Go writes it down (`%#v`).
fn go_syntax(value: &Value) -> String {
    let joined = |parts: Vec<String>| parts.join(", ");
    match value {
        Value::Null => "interface {}(nil)".to_owned(),
        Value::String(text) => format!("{text:?}"),
        Value::Array(items) => format!("[]interface {{}}{{{}}}", joined(items.iter().map(go_syntax).collect())),
        Value::Object(members) => {
            let members = members.iter().map(|(key, value)| format!("{key:?}:{}", go_syntax(value)));
            format!("map[string]interface {{}}{{{}}}", joined(members.collect()))
        }
        other => other.to_string(),
    }
}

/// Every leaf and every list item that a value mentions (`ToFieldSet`).
pub(super) fn field_set(at: Place<'_>, value: &Value) -> FieldSet {
    let mut set = FieldSet::default();
    list_paths(at, value, &mut Vec::new(), &mut set);
    set
}

fn list_paths(at: Place<'_>, value: &Value, path: &mut Vec<Element>, set: &mut FieldSet) {
    match (at.for_value(value), value) {
        (Kind::Leaf(_), _) => set.insert(path),
        (Kind::Set(item) | Kind::Keyed(_, item), Value::Array(items)) => {
            let elements: Vec<Option<Element>> = items.iter().map(|i| at.list_element(i).ok()).collect();
            for (child, element) in items.iter().zip(&elements) {
                let Some(element) = element else { continue };
                path.push(element.clone());
                // Of items that are there twice, only the item as a whole has an owner.
                let repeated = elements.iter().filter(|e| e.as_ref() == Some(element)).count() > 1;
                if !repeated {
                    list_paths(at.item(item), child, path, set);
                }
                set.insert(path);
                path.pop();
            }
        }
        (Kind::Struct(_) | Kind::Map(_) | Kind::Deduced, Value::Object(members)) => {
            for (name, child) in members {
                let place = at.member(name).unwrap_or(at.deduced());
                path.push(Element::field(name));
                list_paths(place, child, path, set);
                let empty = child.is_null() || child.as_object().is_some_and(Map::is_empty);
                if empty || !at.declares(name) {
                    set.insert(path);
                }
                path.pop();
            }
        }
        _ => {}
    }
}

/// What changed between two values.
#[derive(Debug, Default, Clone)]
pub(super) struct Comparison {
    pub(super) removed: FieldSet,
    pub(super) modified: FieldSet,
    pub(super) added: FieldSet,
    /// A list that changed has an item without its key: upstream cannot read such an object.
    pub(super) unreadable: bool,
}

impl Comparison {
    /// Without the given paths and all under them.
    pub(super) fn without(self, paths: &FieldSet) -> Self {
        if paths.is_empty() {
            return self;
        }
        Self {
            removed: self.removed.recursive_difference(paths),
            modified: self.modified.recursive_difference(paths),
            added: self.added.recursive_difference(paths),
            unreadable: self.unreadable,
        }
    }
}

/// Compares two objects; `at` is the root.
pub(super) fn compare(at: Place<'_>, old: &Map<String, Value>, new: &Map<String, Value>) -> Comparison {
    let mut comparison = Comparison::default();
    compare_maps(at, Some(old), Some(new), &mut Vec::new(), &mut comparison);
    comparison
}

fn compare_at(at: Place<'_>, old: Option<&Value>, new: Option<&Value>, path: &mut Vec<Element>, out: &mut Comparison) {
    if let (Some(old), Some(new)) = (old, new)
        && old == new
    {
        return;
    }
    let kind = match (old, new) {
        (Some(old), None) => at.for_value(old),
        // Of an unknown type null is a map without members (`deduceAtom` leaves it open, `handleAtom` takes maps first).
        (Some(Value::Object(_)), Some(Value::Null)) if matches!(at.kind, Kind::Deduced) => Kind::Deduced,
        (_, Some(new)) => at.for_value(new),
        (None, None) => return,
    };
    let mut leaf = true;
    // A value that changed from a map to something else loses what was under it; one that became a map is modified too.
    match (at.kind, kind, old, new) {
        (Kind::Deduced, Kind::Leaf(_), Some(Value::Object(old)), _) => compare_maps(at, Some(old), None, path, out),
        (Kind::Deduced, Kind::Deduced, Some(old), Some(_)) if !old.is_object() => {
            out.modified.insert(path);
        }
        _ => {}
    }
    match kind {
        Kind::Set(item) | Kind::Keyed(_, item) if !(is_empty(old) && is_empty(new)) => {
            leaf = false;
            compare_lists(at, at.item(item), (list(old), list(new)), path, out);
        }
        Kind::Struct(_) | Kind::Map(_) | Kind::Deduced if !(is_empty(old) && is_empty(new)) => {
            leaf = false;
            compare_maps(at, old.and_then(Value::as_object), new.and_then(Value::as_object), path, out);
        }
        _ => {}
    }
    match (old, new) {
        (None, _) => out.added.insert(path),
        (_, None) => out.removed.insert(path),
        (Some(old), Some(new)) if leaf && !equal(old, new) => out.modified.insert(path),
        _ => {}
    }
}

/// Absent, null, or without parts; also what is no container at all.
fn is_empty(value: Option<&Value>) -> bool {
    match value {
        Some(Value::Array(items)) => items.is_empty(),
        Some(Value::Object(members)) => members.is_empty(),
        _ => true,
    }
}

fn list(value: Option<&Value>) -> &[Value] {
    value.and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn compare_maps(
    at: Place<'_>,
    old: Option<&Map<String, Value>>,
    new: Option<&Map<String, Value>>,
    path: &mut Vec<Element>,
    out: &mut Comparison,
) {
    let names: BTreeSet<&String> = old.into_iter().chain(new).flat_map(Map::keys).collect();
    for name in names {
        let place = at.member(name).unwrap_or(at.deduced());
        path.push(Element::field(name));
        compare_at(place, old.and_then(|m| m.get(name)), new.and_then(|m| m.get(name)), path, out);
        path.pop();
    }
}

fn compare_lists(
    at: Place<'_>,
    item: Place<'_>,
    (old, new): (&[Value], &[Value]),
    path: &mut Vec<Element>,
    out: &mut Comparison,
) {
    let mut all: BTreeMap<Element, (Vec<&Value>, Vec<&Value>)> = BTreeMap::new();
    for value in old {
        match at.list_element(value) {
            Ok(element) => all.entry(element).or_default().0.push(value),
            Err(_) => out.unreadable = true,
        }
    }
    for value in new {
        match at.list_element(value) {
            Ok(element) => all.entry(element).or_default().1.push(value),
            Err(_) => out.unreadable = true,
        }
    }
    for (element, (old, new)) in all {
        path.push(element);
        match (old.as_slice(), new.as_slice()) {
            ([] | [_], [] | [_]) => compare_at(item, old.first().copied(), new.first().copied(), path, out),
            ([_, _, ..], [_, _, ..]) => {
                if old.len() != new.len() || old.iter().zip(&new).any(|(a, b)| !equal(a, b)) {
                    out.modified.insert(path);
                }
            }
            ([_, _, ..], _) => {
                if let Some(new) = new.first() {
                    compare_at(item, None, Some(new), path, out);
                }
                out.removed.insert(path);
            }
            _ => {
                if let Some(old) = old.first() {
                    compare_at(item, Some(old), None, path, out);
                }
                out.added.insert(path);
            }
        }
        path.pop();
    }
}

/// `old` with what `new` mentions put over it. Nothing is removed.
pub(super) fn merge(at: Place<'_>, old: &Value, new: &Value) -> Result<Value, String> {
    Ok(merge_at(at, Some(old), Some(new))?.unwrap_or_else(|| Value::Object(Map::new())))
}

fn merge_at(at: Place<'_>, old: Option<&Value>, new: Option<&Value>) -> Result<Option<Value>, String> {
    let kind = match (old, new) {
        (Some(old), None) => at.for_value(old),
        (_, Some(new)) => at.for_value(new),
        (None, None) => return Ok(None),
    };
    match kind {
        Kind::Set(item) | Kind::Keyed(_, item) if !(is_empty(old) && is_empty(new)) => {
            let merged = merge_lists(at, at.item(item), list(old), list(new))?;
            Ok((!merged.is_empty()).then_some(Value::Array(merged)))
        }
        Kind::Struct(_) | Kind::Map(_) | Kind::Deduced if !(is_empty(old) && is_empty(new)) => {
            let (old, new) = (old.and_then(Value::as_object), new.and_then(Value::as_object));
            let names: BTreeSet<&String> = old.into_iter().chain(new).flat_map(Map::keys).collect();
            let mut merged = Map::new();
            for name in names {
                let place = at.member(name).unwrap_or(at.deduced());
                let value = merge_at(place, old.and_then(|m| m.get(name)), new.and_then(|m| m.get(name)))
                    .map_err(|e| format!(".{name}{}{e}", if e.starts_with(['.', '[']) { "" } else { ": " }))?;
                if let Some(value) = value {
                    merged.insert(name.clone(), value);
                }
            }
            Ok((!merged.is_empty()).then_some(Value::Object(merged)))
        }
        _ => Ok(new.or(old).cloned()),
    }
}

/// Items in the order of `new` where it names them, the others where `old` had them
/// (`mergingWalker.visitListItems`).
fn merge_lists(at: Place<'_>, item: Place<'_>, old: &[Value], new: &[Value]) -> Result<Vec<Value>, String> {
    let elements = |items: &[Value]| -> Result<Vec<Element>, String> {
        items.iter().enumerate().map(|(i, v)| at.list_element(v).map_err(|e| format!("element {i}: {e}"))).collect()
    };
    let (old_elements, new_elements) = (elements(old)?, elements(new)?);
    // An element that is there twice is not merged with the new item: `None`.
    let mut olds: BTreeMap<&Element, Option<&Value>> = BTreeMap::new();
    for (element, value) in old_elements.iter().zip(old) {
        olds.entry(element).and_modify(|v| *v = None).or_insert(Some(value));
    }
    let mut news: BTreeMap<&Element, &Value> = BTreeMap::new();
    for (element, value) in new_elements.iter().zip(new) {
        if news.insert(element, value).is_some() {
            return Err(format!("duplicate entries for key {element}"));
        }
    }
    let mut shared = new_elements.iter().filter(|e| olds.contains_key(e));
    let mut next_shared = shared.next();
    let mut taken: BTreeSet<&Element> = BTreeSet::new();
    let mut out = Vec::with_capacity(old.len().max(new.len()));
    let (mut l, mut r) = (0, 0);
    while l < old.len() || r < new.len() {
        if let (Some(left), Some(right)) = (old_elements.get(l), new_elements.get(r)) {
            if left == right {
                taken.insert(left);
                out.extend(merge_at(item, olds.get(left).copied().flatten(), news.get(left).copied())?);
                (l, r) = (l + 1, r + 1);
                next_shared = shared.next();
                continue;
            }
            if news.contains_key(left) && next_shared.is_some_and(|next| next != left) {
                // Shared, but another is due first.
                l += 1;
                continue;
            }
        }
        if let (Some(left), Some(value)) = (old_elements.get(l), old.get(l)) {
            if !news.contains_key(left) {
                out.extend(merge_at(item, Some(value), None)?);
                l += 1;
                continue;
            }
            if taken.contains(left) {
                l += 1;
            }
        }
        if let Some(right) = new_elements.get(r) {
            taken.insert(right);
            out.extend(merge_at(item, olds.get(right).copied().flatten(), news.get(right).copied())?);
            r += 1;
            if next_shared == Some(right) {
                next_shared = shared.next();
            }
        }
    }
    Ok(out)
}

/// The value without the members and items of the set. Leaves inside go only with their path.
pub(super) fn remove(at: Place<'_>, value: &Value, gone: &FieldSet) -> Value {
    remove_at(at, value, gone).unwrap_or_else(|| Value::Object(Map::new()))
}

/// `None` where upstream's walker leaves nil: containers that end up (or were) empty, and atomic ones.
fn remove_at(at: Place<'_>, value: &Value, gone: &FieldSet) -> Option<Value> {
    match (at.for_value(value), value) {
        (Kind::Leaf(_), Value::Object(_) | Value::Array(_)) => None,
        (Kind::Leaf(_), scalar) => Some(scalar.clone()),
        (Kind::Set(item) | Kind::Keyed(_, item), Value::Array(items)) => {
            let mut kept = Vec::with_capacity(items.len());
            for child in items {
                match at.list_element(child) {
                    Ok(element) if gone.has_member(&element) => {}
                    Ok(element) => match gone.under(&element) {
                        Some(under) => kept.push(remove_at(at.item(item), child, under).unwrap_or_default()),
                        None => kept.push(child.clone()),
                    },
                    Err(_) => kept.push(child.clone()),
                }
            }
            (!kept.is_empty()).then_some(Value::Array(kept))
        }
        (Kind::Struct(_) | Kind::Map(_) | Kind::Deduced, Value::Object(members)) => {
            let mut kept = Map::new();
            for (name, child) in members {
                let element = Element::field(name);
                if gone.has_member(&element) {
                    continue;
                }
                let child = match gone.under(&element) {
                    Some(under) => {
                        let place = at.member(name).unwrap_or(at.deduced());
                        remove_at(place, child, under).unwrap_or_default()
                    }
                    None => child.clone(),
                };
                kept.insert(name.clone(), child);
            }
            (!kept.is_empty()).then_some(Value::Object(kept))
        }
        _ => None,
    }
}

/// The set with every declared member on the way a member too (`EnsureNamedFieldsAreMembers`).
pub(super) fn with_named_fields(at: Option<Place<'_>>, set: &FieldSet) -> FieldSet {
    set.map_nodes(&|element, member, children| {
        let place = match (element.field_name(), at) {
            (Some(name), Some(at)) => at.member(name),
            (None, Some(at)) => match at.kind {
                Kind::Keyed(_, item) => Some(at.item(item)),
                _ => None,
            },
            (_, None) => None,
        };
        let named =
            !children.is_empty() && element.field_name().is_some_and(|name| at.is_some_and(|at| at.declares(name)));
        (member || named, with_named_fields(place, children))
    })
}

/// Makes a set that was written by an earlier schema one of this schema: who owns parts of what has one owner as a whole
/// now owns all of it (`ReconcileFieldSetWithSchema`).
pub(super) fn reconcile(at: Place<'_>, set: &mut FieldSet) {
    set.each(&mut |element, member, children| {
        let place = match (element.field_name(), at.kind) {
            (Some(name), _) => at.member(name),
            (None, Kind::Keyed(_, item) | Kind::Set(item)) => Some(at.item(item)),
            (None, _) => None,
        };
        let Some(place) = place.filter(|_| !children.is_empty()) else { return };
        match place.kind {
            Kind::Leaf(Leaf::List | Leaf::Map | Leaf::Any) => (*member, *children) = (true, FieldSet::default()),
            Kind::Leaf(_) | Kind::Deduced => {}
            _ => reconcile(place, children),
        }
    });
}
