//! What mutating policies do to objects: apply configurations and JSON patches (apiserver
//! `admission/plugin/policy/mutating/patch`).

use api::apply::FieldManager;
use api::cel::Value;
use api::schema::{Field, ListType, Type, TypeId, Types};
use api::services::{Kinds, ServedKind};
use api::{GroupVersion, Gvk, Object};
use serde_json::{Map, Value as Json, json};

use super::expressions::member;

/// Under which the merge is made; no trace of it stays.
const MANAGER: &str = "mutating-admission-policy";

/// Merges what an `applyConfiguration` expression made into the object. Ownership of fields does not change.
///
/// # Errors
/// Upstream's text.
pub(crate) fn apply(value: &Value, object: &Object, kinds: &dyn Kinds) -> Result<Object, String> {
    check_names(value, "Object").map_err(|why| format!("type mismatch: {why}"))?;
    let gvk = GroupVersion::parse(object.api_version())
        .map(|version| Gvk::new(version.group, version.version, object.kind()))
        .ok_or_else(|| "error applying patch: the object has no version".to_owned())?;
    let served = kinds.kind(&gvk).ok_or_else(|| {
        format!(
            "Resource kind {gvk} not found. There can be a delay between when CustomResourceDefinitions are created and when they are available."
        )
    })?;
    let patch = value.to_json().map_err(|ty| format!("invalid return type: {ty}"))?;
    let Some(mut patch) = Object::from_value(patch) else {
        return Err("invalid return type: not an object".to_owned());
    };
    patch.set_gvk(&gvk);
    let mut atomics = Vec::new();
    find_atomics(&served.schema.types, served.schema.root, &patch.0, "", &mut atomics);
    if !atomics.is_empty() {
        let list = atomics.join(", ");
        return Err(format!(
            "error applying patch: invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: {list}"
        ));
    }
    merge(&served, &gvk, object, &patch).map_err(|why| format!("error applying patch: {why}"))
}

fn merge(served: &ServedKind, gvk: &Gvk, object: &Object, patch: &Object) -> Result<Object, String> {
    let manager = FieldManager {
        schema: &served.schema,
        gvk,
        subresource: "",
        reset: &[],
        resets_versions: true,
        versions: &api::apply::OneVersion,
        keeps_nulls: false,
        now: jiff::Timestamp::UNIX_EPOCH,
    };
    let mut live = object.clone();
    let owners = live.remove(&["metadata", "managedFields"]);
    let mut merged = manager.apply(Some(&live), patch, MANAGER, true).map_err(|status| {
        // Policies say in words of their own that a patch has fields that the type has not.
        match status.message.strip_prefix("failed to create typed patch object (").and_then(|m| m.split_once("): ")) {
            Some((_, problems)) => format!("failed to convert patch object to typed object: {problems}"),
            None => status.message,
        }
    })?;
    merged.remove(&["metadata", "managedFields"]);
    if let Some(owners) = owners {
        merged.set(&["metadata", "managedFields"], owners);
    }
    Ok(merged)
}

/// `CheckTypeNamesMatchFieldPathNames`: `Object.spec{…}` may stand at `spec` only.
fn check_names(value: &Value, path: &str) -> Result<(), String> {
    match value {
        Value::Struct(made) => {
            if *made.name != *path {
                return Err(format!(
                    "unexpected type name {:?}, expected {path:?}, which matches field name path from root Object type",
                    &*made.name
                ));
            }
            made.fields.iter().try_for_each(|(name, value)| check_names(value, &format!("{path}.{name}")))
        }
        Value::List(items) => items.iter().try_for_each(|item| check_names(item, path)),
        Value::Map(entries) => entries.values().try_for_each(|item| check_names(item, path)),
        _ => Ok(()),
    }
}

/// The paths of everything in a patch that server-side apply would replace as a whole.
fn find_atomics(types: &Types, id: TypeId, patch: &Map<String, Json>, path: &str, found: &mut Vec<String>) {
    let def = types.def(id);
    for (name, value) in patch {
        let Some(field) = def.field(name) else { continue };
        let path = format!("{path}.{name}");
        if is_atomic(types, field, value) {
            found.push(path.clone());
        }
        descend(types, &field.ty, value, &path, found);
    }
}

fn is_atomic(types: &Types, field: &Field, value: &Json) -> bool {
    match (&field.ty, value) {
        (Type::List(_), Json::Array(_)) => field.list == ListType::Atomic,
        (Type::Map(_), Json::Object(_)) => field.atomic,
        (Type::Struct(id), Json::Object(_)) => field.atomic || (types.def(*id).atomic && !field.granular),
        _ => false,
    }
}

fn descend(types: &Types, ty: &Type, value: &Json, path: &str, found: &mut Vec<String>) {
    match (ty, value) {
        (Type::Struct(id), Json::Object(members)) => find_atomics(types, *id, members, path, found),
        (Type::List(item), Json::Array(items)) => {
            items.iter().for_each(|value| descend(types, item, value, path, found));
        }
        (Type::Map(item), Json::Object(members)) => {
            members.iter().for_each(|(key, value)| descend(types, item, value, &format!("{path}.{key}"), found));
        }
        _ => {}
    }
}

/// Applies the operations that a `jsonPatch` expression made. A `test` that does not hold leaves the object as it is.
///
/// # Errors
/// Upstream's text.
pub(crate) fn json(operations: &[Value], object: &Object) -> Result<Object, String> {
    let mut document = Json::Object(object.0.clone());
    for operation in operations {
        let text = |name: &str| match member(operation, name) {
            Some(Value::String(text)) => text.to_string(),
            _ => String::new(),
        };
        let (op, path, from) = (text("op"), text("path"), text("from"));
        let mut entry = json!({"op": op, "path": path});
        if !from.is_empty() {
            entry["from"] = from.into();
        }
        if let Some(value) = member(operation, "value") {
            entry["value"] = value.to_json().map_err(|ty| {
                format!("JSONPath valueExpression evaluated to a type that could not marshal to JSON: {ty}")
            })?;
        }
        match api::patch::apply_operations(document, &[entry]) {
            Ok(changed) => document = changed,
            Err(_) if op == "test" => return Ok(object.clone()),
            Err(why) => return Err(format!("JSON Patch: {why}")),
        }
    }
    Object::from_value(document).ok_or_else(|| "JSON Patch: the result is no object".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::cel::{Bindings, Budget, policy};

    fn made(expression: &str) -> Value {
        let declarations = policy::Declarations { mutations: true, ..Default::default() };
        let program = policy::compile(&policy::env(declarations, &[]), expression, &[]).expect("it compiles");
        program.evaluate(&Bindings::new(), &mut Budget::new(1_000_000)).expect("a value")
    }

    #[test]
    fn json_patches_are_made_of_expressions() {
        let object = Object::from_value(json!({"metadata": {"labels": {"a": "b"}}})).expect("an object");
        let check = |expression: &str, want: Json| {
            let Value::List(operations) = made(expression) else { panic!("no list") };
            let got = json(&operations, &object).map_or_else(Json::from, Object::into_value);
            assert_eq!(got, want, "{expression}");
        };
        check(
            "[JSONPatch{op: 'add', path: '/metadata/labels/' + jsonpatch.escapeKey('x/y'), value: 'z'}]",
            json!({"metadata": {"labels": {"a": "b", "x/y": "z"}}}),
        );
        check(
            "[JSONPatch{op: 'test', path: '/metadata/labels/a', value: 'no'}, JSONPatch{op: 'remove', path: '/metadata'}]",
            json!({"metadata": {"labels": {"a": "b"}}}),
        );
        check(
            "[JSONPatch{op: 'add', path: '/spec', value: Object.spec{replicas: 3}}]",
            json!({"metadata": {"labels": {"a": "b"}}, "spec": {"replicas": 3}}),
        );
    }

    #[test]
    fn types_of_objects_are_their_places() {
        let check = |expression: &str, good: bool| assert_eq!(check_names(&made(expression), "Object").is_ok(), good);
        check("Object{spec: Object.spec{replicas: 1}}", true);
        check("Object{spec: Object.wrong{replicas: 1}}", false);
        check("Object{spec: Object.spec{containers: [Object.spec.containers{name: 'a'}]}}", true);
    }
}
