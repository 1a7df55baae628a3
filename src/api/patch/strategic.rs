//! Strategic merge patch (apimachinery `util/strategicpatch`): lists merge by key, and directives in the patch say what
//! plain merging cannot.

use serde_json::{Map, Value};

use super::{go_value, unprocessable};
use crate::object::Object;
use crate::schema::{Field, PatchStrategy, Schema, Type, Types};
use crate::status::Status;

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_PREFIX: &str = "$deleteFromPrimitiveList";
const ORDER_PREFIX: &str = "$setElementOrder";

type Members = Map<String, Value>;

/// Applies a strategic merge patch; `schema` is the kind's own.
pub fn strategic(schema: &Schema, original: Object, patch: Object) -> Result<Object, Status> {
    let at = Place { types: &schema.types, ty: Some(Type::Struct(schema.root)) };
    merge_map(original.0, patch.0, &at).map(Object)
}

/// What the schema says of the value being merged.
#[derive(Clone)]
struct Place<'a> {
    types: &'a Types,
    /// `None` where there is no structure.
    ty: Option<Type>,
}

/// What the schema says of a member.
struct Meta<'a> {
    place: Place<'a>,
    strategy: PatchStrategy,
    merge_key: String,
}

impl<'a> Place<'a> {
    /// Go's kind of the type, as its error texts name it.
    fn kind(&self) -> &'static str {
        match &self.ty {
            Some(Type::Map(_)) => "map",
            Some(Type::List(_)) => "slice",
            Some(Type::String) => "string",
            Some(Type::Bool) => "bool",
            Some(Type::Int32) => "int32",
            Some(Type::Int64) => "int64",
            Some(Type::Double) => "float64",
            None => "interface",
            Some(_) => "struct",
        }
    }

    /// `LookupPatchMetadataForStruct`.
    fn member(&self, key: &str) -> Result<Meta<'a>, Status> {
        let Some(Type::Struct(id)) = &self.ty else {
            let kind = self.kind();
            return Err(plain(format!("merging an object in json but data type is not struct, instead is: {kind}")));
        };
        let def = self.types.def(*id);
        let Some(Field { ty, patch, patch_merge_key, .. }) = def.field(key) else {
            let name = def.name.rsplit('.').next().unwrap_or_default();
            return Err(plain(format!("unable to find api field in struct {name} for the json field {key:?}")));
        };
        Ok(Meta {
            place: Place { types: self.types, ty: Some(ty.clone()) },
            strategy: *patch,
            merge_key: patch_merge_key.as_deref().unwrap_or_default().to_owned(),
        })
    }

    /// `LookupPatchMetadataForSlice`: the place is an item's.
    fn list_member(&self, key: &str) -> Result<Meta<'a>, Status> {
        let mut meta = self.member(key)?;
        meta.place.ty = match meta.place.ty {
            Some(Type::List(item)) if matches!(*item, Type::List(_)) => {
                return Err(plain("unexpected slice of slice"));
            }
            Some(Type::List(item)) => Some(*item),
            _ => return Err(plain(format!("expected slice or array type, but got: {}", self.kind()))),
        };
        Ok(meta)
    }
}

/// An error that upstream answers with 500 and no reason.
fn plain(text: impl Into<String>) -> Status {
    Status::new(500, "", text)
}

fn bad_order() -> Status {
    Status::bad_request("invalid patch format of setElementOrder list")
}

fn bad_retain_keys() -> Status {
    Status::bad_request("invalid patch format of retainKeys")
}

fn no_merge_key(map: &Value, key: &str) -> Status {
    plain(format!("map: {} does not contain declared merge key: {key}", go_value(map)))
}

fn wrong_type(expected: &str, actual: &Value) -> Status {
    let actual = match actual {
        Value::Null => "%!s(<nil>)",
        Value::Bool(_) => "bool",
        Value::Number(n) if n.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    };
    plain(format!("expected a {expected}, but received a {actual}"))
}

fn merge_map(mut original: Members, mut patch: Members, at: &Place<'_>) -> Result<Members, Status> {
    if let Some(directive) = patch.get(PATCH) {
        return match directive.as_str() {
            Some("replace") => {
                patch.remove(PATCH);
                Ok(patch)
            }
            Some("delete") => Ok(Members::new()),
            _ => {
                let directive = go_value(directive);
                Err(plain(format!("unknown patch type: {directive} in map: {}", go_value(&Value::Object(patch)))))
            }
        };
    }
    retain_keys(&mut original, &mut patch)?;
    set_element_order(&mut original, &mut patch, at)?;
    for (key, value) in patch {
        let deletes = key.starts_with(DELETE_PREFIX);
        let key = if deletes {
            match key.split_once('/') {
                Some((DELETE_PREFIX, name)) => name.to_owned(),
                _ => return Err(Status::bad_request("invalid patch format of primitive list")),
            }
        } else {
            key
        };
        if value.is_null() {
            original.remove(&key);
            continue;
        }
        let merged = match (original.remove(&key), value) {
            (Some(Value::Object(current)), Value::Object(change)) => {
                let meta = at.member(&key)?;
                // A struct or map is merged unless its strategy says replace.
                Some(Value::Object(if meta.strategy.replace {
                    change
                } else {
                    merge_map(current, change, &meta.place)?
                }))
            }
            (Some(Value::Array(current)), Value::Array(change)) => {
                let meta = at.list_member(&key)?;
                Some(Value::Array(if meta.strategy.merge || deletes {
                    merge_list(current, change, &meta.place, &meta.merge_key, deletes)?
                } else {
                    change
                }))
            }
            (current, _) if deletes => current,
            (_, value) => without_directives(without_nulls(value)),
        };
        if let Some(merged) = merged {
            original.insert(key, merged);
        }
    }
    Ok(original)
}

/// `$retainKeys`: members of the original that it does not name go.
fn retain_keys(original: &mut Members, patch: &mut Members) -> Result<(), Status> {
    let Some(keys) = patch.remove(RETAIN_KEYS) else { return Ok(()) };
    let Value::Array(keys) = keys else { return Err(bad_retain_keys()) };
    let named = |key: &str| keys.iter().any(|k| k.as_str() == Some(key));
    for (key, value) in patch.iter() {
        if !value.is_null() && !key.starts_with(DELETE_PREFIX) && !key.starts_with(ORDER_PREFIX) && !named(key) {
            return Err(bad_retain_keys());
        }
    }
    original.retain(|key, _| named(key));
    Ok(())
}

/// `$setElementOrder/NAME`: merges the list here and now, and puts it in this order.
fn set_element_order(original: &mut Members, patch: &mut Members, at: &Place<'_>) -> Result<(), Status> {
    let directives: Vec<String> = patch.keys().filter(|k| k.starts_with(ORDER_PREFIX)).cloned().collect();
    for directive in directives {
        let order = match patch.remove(&directive) {
            Some(Value::Array(order)) => order,
            other => return Err(wrong_type("[]interface {}", &other.unwrap_or_default())),
        };
        let Some((ORDER_PREFIX, key)) = directive.split_once('/') else { return Err(bad_order()) };
        let list = |members: &Members| match members.get(key) {
            None => Ok(None),
            Some(Value::Array(items)) => Ok(Some(items.clone())),
            Some(other) => Err(wrong_type("[]interface {}", other)),
        };
        let (current, change) = (list(original)?, list(patch)?);
        let meta = at.list_member(key)?;
        let merge_key = meta.merge_key.as_str();
        check_order(change.as_deref().unwrap_or_default(), &order, merge_key)?;
        let before = match (&current, &change) {
            (Some(current), Some(change)) if meta.strategy.merge => server_order(current, change, merge_key),
            _ => current.clone().unwrap_or_default(),
        };
        let merged = match (current, change.clone()) {
            (Some(current), None) => current,
            (None, Some(change)) => match without_directives(Value::Array(change)) {
                Some(Value::Array(items)) => items,
                _ => continue,
            },
            (Some(current), Some(change)) if meta.strategy.merge => {
                merge_list(current, change, &meta.place, merge_key, false)?
            }
            (Some(_), Some(change)) => change,
            (None, None) => continue,
        };
        let maps = item_kind(&[&before, change.as_deref().unwrap_or_default()])? == "object";
        let (from_patch, from_server) = partition(merged, &order, merge_key)?;
        let ordered = in_order(from_patch, from_server, &order, &before, if maps { merge_key } else { "" })?;
        original.insert(key.to_owned(), Value::Array(ordered));
        patch.remove(key);
    }
    Ok(())
}

/// The order in which the server is taken to have had the items. Upstream deletes and appends in the list it compares
/// with afterwards: new items stand in the places that deletions left free at its end.
fn server_order(current: &[Value], change: &[Value], merge_key: &str) -> Vec<Value> {
    let key = |item: &Value| item.get(merge_key).cloned();
    let gone: Vec<_> = change.iter().filter(|c| c.get(PATCH).is_some_and(|d| d == "delete")).map(key).collect();
    let replaces = change.iter().any(|c| c.get(PATCH).is_some_and(|d| d == "replace"));
    if merge_key.is_empty() || gone.is_empty() || replaces {
        return current.to_vec();
    }
    let mut order: Vec<Value> = current.iter().filter(|item| !gone.contains(&key(item))).cloned().collect();
    let free = current.len() - order.len();
    let is_new = |c: &&Value| c.get(PATCH).is_none() && !order.iter().any(|item| key(item) == key(c));
    let new: Vec<Value> = change.iter().filter(is_new).take(free).cloned().collect();
    order.extend(new);
    order
}

/// The patch's items must stand in the order that the directive gives.
fn check_order(change: &[Value], order: &[Value], merge_key: &str) -> Result<(), Status> {
    if change.is_empty() || order.is_empty() {
        return Ok(());
    }
    let is_deletion = |item: &&Value| item.get(PATCH).is_some_and(|d| d == "delete");
    let mut kept = change.iter().filter(|item| merge_key.is_empty() || !is_deletion(item)).peekable();
    let mut places = order.iter().peekable();
    while let (Some(next), Some(place)) = (kept.peek(), places.peek()) {
        if next.get(PATCH).is_some() {
            kept.next();
            continue;
        }
        if same_key(next, place, merge_key)? {
            kept.next();
        }
        places.next();
    }
    if kept.peek().is_none() {
        return Ok(());
    }
    let (change, order) = (go_value(&Value::from(change)), go_value(&Value::from(order)));
    Err(plain(format!("The order in patch list:\n{change}\n doesn't match {ORDER_PREFIX} list:\n{order}\n")))
}

fn same_key(left: &Value, right: &Value, merge_key: &str) -> Result<bool, Status> {
    if merge_key.is_empty() {
        return Ok(left == right);
    }
    Ok(key_of(left, merge_key)? == key_of(right, merge_key)?)
}

fn key_of<'v>(item: &'v Value, merge_key: &str) -> Result<&'v Value, Status> {
    let Value::Object(map) = item else { return Err(wrong_type("map[string]interface {}", item)) };
    map.get(merge_key).ok_or_else(|| no_merge_key(item, merge_key))
}

/// The common JSON type of all items; lists in lists and mixtures are refused.
fn item_kind(lists: &[&[Value]]) -> Result<&'static str, Status> {
    let mut kind = None;
    for item in lists.iter().copied().flatten() {
        let this = super::go_json_type(item);
        if kind.is_none() && this == "array" {
            return Err(unprocessable());
        }
        if *kind.get_or_insert(this) != this {
            let all: Vec<String> = lists.iter().map(|l| go_value(&Value::from(*l))).collect();
            return Err(plain(format!("list element types are not identical: [{}]", all.join(" "))));
        }
    }
    kind.ok_or_else(|| plain("no elements in any of the given slices"))
}

fn merge_list(
    mut original: Vec<Value>,
    patch: Vec<Value>,
    item: &Place<'_>,
    merge_key: &str,
    deletes: bool,
) -> Result<Vec<Value>, Status> {
    if original.is_empty() && patch.is_empty() {
        return Ok(original);
    }
    if item_kind(&[&original, &patch])? != "object" {
        if deletes {
            original.retain(|v| !patch.contains(v));
            return Ok(original);
        }
        let mut merged: Vec<Value> = Vec::with_capacity(original.len() + patch.len());
        for value in original.iter().chain(&patch) {
            if !merged.contains(value) {
                merged.push(value.clone());
            }
        }
        let (from_patch, from_server) = partition(merged, &patch, "")?;
        return in_order(from_patch, from_server, &patch, &original, "");
    }
    if merge_key.is_empty() {
        return Err(plain(format!("cannot merge lists without merge key for {}", item.kind())));
    }
    let (original, patch) = item_directives(original, patch, merge_key)?;
    let mut merged = original.clone();
    for change in patch.iter().cloned() {
        let key = key_of(&change, merge_key)?.clone();
        let Value::Object(members) = change else { continue };
        let found = merged.iter_mut().find(|v| v.get(merge_key) == Some(&key));
        match found {
            Some(slot) => {
                if let Value::Object(current) = slot.take() {
                    *slot = Value::Object(merge_map(current, members, item)?);
                }
            }
            None => merged.push(Value::Object(members)),
        }
    }
    let (from_patch, from_server) = partition(merged, &patch, merge_key)?;
    in_order(from_patch, from_server, &patch, &original, merge_key)
}

/// Carries out `$patch` items; returns what is left of the original and the patch's other items.
fn item_directives(
    mut original: Vec<Value>,
    patch: Vec<Value>,
    merge_key: &str,
) -> Result<(Vec<Value>, Vec<Value>), Status> {
    let mut rest = Vec::new();
    let mut replace = false;
    for item in patch {
        match item.get(PATCH) {
            None => rest.push(item),
            Some(directive) => match directive.as_str() {
                Some("delete") => {
                    let key = key_of(&item, merge_key)?;
                    original.retain(|v| v.get(merge_key) != Some(key));
                }
                Some("replace") => replace = true,
                Some("merge") => return Err(plain("merging lists cannot yet be specified in the patch")),
                _ => {
                    let directive = go_value(directive);
                    return Err(plain(format!("unknown patch type: {directive} in map: {}", go_value(&item))));
                }
            },
        }
    }
    // Upstream then appends nothing to the list that replaces.
    if replace { Ok((rest, Vec::new())) } else { Ok((original, rest)) }
}

/// Items that the second list names, and the others.
fn partition(items: Vec<Value>, by: &[Value], merge_key: &str) -> Result<(Vec<Value>, Vec<Value>), Status> {
    let (mut named, mut others) = (Vec::new(), Vec::new());
    for item in items {
        let found = if merge_key.is_empty() {
            by.contains(&item)
        } else {
            let key = key_of(&item, merge_key)?;
            by.iter().any(|v| v.get(merge_key) == Some(key))
        };
        if found { named.push(item) } else { others.push(item) }
    }
    Ok((named, others))
}

/// `normalizeElementOrder`: the patch's items in `order`, the server's in the order they had, woven together so that
/// relative order among items that the server knew is kept.
fn in_order(
    mut from_patch: Vec<Value>,
    mut from_server: Vec<Value>,
    order: &[Value],
    server_order: &[Value],
    merge_key: &str,
) -> Result<Vec<Value>, Status> {
    let rank = |item: &Value, list: &[Value]| {
        let found = if merge_key.is_empty() {
            list.iter().position(|v| v == item)
        } else {
            item.get(merge_key).and_then(|key| list.iter().position(|v| v.get(merge_key) == Some(key)))
        };
        found.unwrap_or(usize::MAX)
    };
    from_patch.sort_by_key(|item| rank(item, order));
    from_server.sort_by_key(|item| rank(item, server_order));
    let mut woven = Vec::with_capacity(from_patch.len() + from_server.len());
    let (mut patched, mut served) = (from_patch.into_iter().peekable(), from_server.into_iter().peekable());
    loop {
        let server_first = match (patched.peek(), served.peek()) {
            (None, None) => return Ok(woven),
            (Some(_), None) => false,
            (None, Some(_)) => true,
            (Some(p), Some(s)) => {
                let (p, s) = (rank(p, server_order), rank(s, server_order));
                // An item new to the server goes first.
                p != usize::MAX && s < p
            }
        };
        woven.extend(if server_first { served.next() } else { patched.next() });
    }
}

/// The value without directives; `None` if it is one itself.
fn without_directives(value: Value) -> Option<Value> {
    match value {
        Value::Object(map) if map.contains_key(PATCH) => None,
        Value::Object(map) => {
            Some(map.into_iter().filter_map(|(k, v)| Some((k, without_directives(v)?))).collect::<Members>().into())
        }
        Value::Array(items) => Some(Value::Array(items.into_iter().filter_map(without_directives).collect())),
        other => Some(other),
    }
}

fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(map) => map
            .into_iter()
            .filter(|(_, v)| !v.is_null())
            .map(|(k, v)| (k, without_nulls(v)))
            .collect::<Members>()
            .into(),
        Value::Array(items) => items.into_iter().map(without_nulls).collect(),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::{StructDef, TypeId};
    use serde_json::json as j;
    use std::sync::Arc;

    fn field(name: &'static str, ty: Type, merge: bool, key: Option<&'static str>) -> Field {
        Field {
            name: name.into(),
            ty,
            patch: PatchStrategy { merge, ..PatchStrategy::default() },
            patch_merge_key: key.map(Into::into),
            ..Field::default()
        }
    }

    /// Root: `name`, `simple` and `merging` lists of strings, `items` merged by name, `plain` items replaced, `labels`,
    /// `child` of the same type.
    fn schema() -> Schema {
        let list = |ty| Type::List(Box::new(ty));
        let root = Type::Struct(TypeId(0));
        let fields = vec![
            field("name", Type::String, false, None),
            field("value", Type::Int32, false, None),
            field("simple", list(Type::String), false, None),
            field("merging", list(Type::String), true, None),
            field("items", list(root.clone()), true, Some("name")),
            field("plain", list(root.clone()), false, None),
            field("labels", Type::Map(Box::new(Type::String)), false, None),
            field("child", root, false, None),
        ];
        let types = Types::new(vec![StructDef { name: "Item".into(), fields, ..StructDef::default() }]);
        Schema { types: Arc::new(types), root: TypeId(0) }
    }

    fn run(original: Value, patch: Value) -> Result<Value, String> {
        let object = |v| Object::from_value(v).unwrap();
        strategic(&schema(), object(original), object(patch)).map(Object::into_value).map_err(|s| s.message)
    }

    fn check(original: Value, patch: Value, expected: Value) {
        assert_eq!(run(original, patch.clone()), Ok(expected), "{patch}");
    }

    #[test]
    fn maps_merge_and_nulls_delete() {
        check(j!({"name": "a", "value": 1}), j!({"value": 2}), j!({"name": "a", "value": 2}));
        check(j!({"name": "a", "value": 1}), j!({"value": null, "labels": null}), j!({"name": "a"}));
        check(
            j!({"labels": {"a": "1", "b": "2"}}),
            j!({"labels": {"b": null, "c": "3"}}),
            j!({"labels": {"a": "1", "c": "3"}}),
        );
        check(j!({}), j!({"child": {"name": null, "value": 1}}), j!({"child": {"value": 1}}));
        check(
            j!({"child": {"name": "a"}}),
            j!({"child": {"$patch": "replace", "value": 1}}),
            j!({"child": {"value": 1}}),
        );
        check(j!({"child": {"name": "a"}}), j!({"child": {"$patch": "delete"}}), j!({"child": {}}));
        check(j!({"name": "a"}), j!({"$patch": "replace", "value": 1}), j!({"value": 1}));
        check(j!({}), j!({"child": {"$patch": "delete"}}), j!({}));
    }

    #[test]
    fn lists_without_strategy_are_replaced() {
        check(j!({"simple": ["a"]}), j!({"simple": ["b"]}), j!({"simple": ["b"]}));
        check(j!({"plain": [{"name": "a"}]}), j!({"plain": [{"name": "b"}]}), j!({"plain": [{"name": "b"}]}));
    }

    #[test]
    fn lists_of_scalars_merge() {
        check(j!({"merging": ["a", "b"]}), j!({"merging": ["c", "a"]}), j!({"merging": ["c", "a", "b"]}));
        check(
            j!({"merging": ["a", "b", "c"]}),
            j!({"$deleteFromPrimitiveList/merging": ["b"]}),
            j!({"merging": ["a", "c"]}),
        );
        check(
            j!({"merging": ["a", "b", "c"]}),
            j!({"$deleteFromPrimitiveList/merging": ["a"], "merging": ["d"], "$setElementOrder/merging": ["d", "c", "b"]}),
            j!({"merging": ["d", "c", "b"]}),
        );
    }

    #[test]
    fn lists_of_objects_merge_by_key() {
        check(
            j!({"items": [{"name": "a", "value": 1}, {"name": "b", "value": 2}]}),
            j!({"items": [{"name": "b", "value": 3}, {"name": "c"}]}),
            j!({"items": [{"name": "a", "value": 1}, {"name": "b", "value": 3}, {"name": "c"}]}),
        );
        check(
            j!({"items": [{"name": "a"}, {"name": "b"}]}),
            j!({"items": [{"name": "a", "$patch": "delete"}]}),
            j!({"items": [{"name": "b"}]}),
        );
        check(
            j!({"items": [{"name": "a"}, {"name": "b"}]}),
            j!({"items": [{"name": "c"}, {"$patch": "replace"}]}),
            j!({"items": [{"name": "c"}]}),
        );
        check(
            j!({"items": [{"name": "a", "merging": ["x"]}]}),
            j!({"items": [{"name": "a", "merging": ["y"], "value": null}]}),
            j!({"items": [{"name": "a", "merging": ["y", "x"]}]}),
        );
        check(j!({}), j!({"items": [{"name": "a", "$patch": "delete"}]}), j!({"items": []}));
    }

    #[test]
    fn the_order_directive_orders() {
        let order = |names: &[&str]| -> Value { names.iter().map(|n| j!({"name": n})).collect() };
        check(
            j!({"items": order(&["a", "b", "c"])}),
            j!({"$setElementOrder/items": order(&["c", "a"])}),
            j!({"items": order(&["b", "c", "a"])}),
        );
        check(
            j!({"items": order(&["server", "a"])}),
            j!({"$setElementOrder/items": order(&["b", "a"]), "items": [{"name": "b", "value": 1}]}),
            j!({"items": [{"name": "b", "value": 1}, {"name": "server"}, {"name": "a"}]}),
        );
        check(
            j!({"items": order(&["a", "b"])}),
            j!({"$setElementOrder/items": order(&["b"]), "items": [{"name": "a", "$patch": "delete"}]}),
            j!({"items": order(&["b"])}),
        );
        let wrong =
            run(j!({"items": order(&["a"])}), j!({"$setElementOrder/items": order(&["a"]), "items": [{"name": "z"}]}));
        assert!(wrong.unwrap_err().starts_with("The order in patch list:\n[map[name:z]]\n doesn't match"));
    }

    #[test]
    fn retained_keys_are_all_that_stays() {
        check(
            j!({"child": {"name": "a", "value": 1}}),
            j!({"child": {"$retainKeys": ["labels"], "labels": {"x": "y"}}}),
            j!({"child": {"labels": {"x": "y"}}}),
        );
        let wrong = run(j!({"child": {}}), j!({"child": {"$retainKeys": ["labels"], "value": 1}}));
        assert_eq!(wrong.unwrap_err(), "invalid patch format of retainKeys");
    }

    #[test]
    fn refuses_with_upstreams_texts() {
        for (original, patch, text) in [
            (
                j!({"items": [{"name": "a"}]}),
                j!({"items": [{"value": 1}]}),
                "map: map[value:1] does not contain declared merge key: name",
            ),
            (
                j!({"child": {}}),
                j!({"child": {"$patch": "merge"}}),
                "unknown patch type: merge in map: map[$patch:merge]",
            ),
            (j!({"x": {}}), j!({"x": {}}), "unable to find api field in struct Item for the json field \"x\""),
            (j!({"merging": ["a"]}), j!({"merging": [1]}), "list element types are not identical: [[a] [1]]"),
        ] {
            assert_eq!(run(original, patch), Err(text.to_owned()));
        }
    }
}
