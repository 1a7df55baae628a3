//! Rules of `metadata` that all kinds share (apimachinery `api/validation/objectmeta.go`), and owner references.

use serde_json::{Value, json};

use crate::field::{Error, ErrorList, Path};
use crate::names::GroupVersion;
use crate::object::Object;
use crate::validation;

/// All annotations of an object together, keys and values.
pub const ANNOTATIONS_BYTES_MAX: usize = 256 * 1024;
const FIELD_MANAGER_BYTES_MAX: usize = 128;
const SUBRESOURCE_BYTES_MAX: usize = 256;

pub const FINALIZER_ORPHAN: &str = "orphan";
pub const FINALIZER_FOREGROUND: &str = "foregroundDeletion";

/// Problems of the metadata of a new object. `name_rule` is the kind's (its second argument says that the text is a
/// `generateName`); `path` is usually `metadata`.
pub fn validate_object_meta(
    object: &Object,
    namespaced: bool,
    name_rule: &dyn Fn(&str, bool) -> Vec<String>,
    path: &Path,
) -> ErrorList {
    let mut errors = ErrorList::new();
    let generate = object.str(&["metadata", "generateName"]).unwrap_or_default();
    if !generate.is_empty() {
        let problems = name_rule(generate, true);
        errors.extend(problems.into_iter().map(|p| Error::invalid(path.child("generateName"), generate, p)));
    }
    let name = object.name();
    if name.is_empty() {
        errors.push(Error::required(path.child("name"), "name or generateName is required"));
    } else {
        errors.extend(name_rule(name, false).into_iter().map(|p| Error::invalid(path.child("name"), name, p)));
    }
    let namespace = object.namespace();
    let at = path.child("namespace");
    if !namespaced {
        if !namespace.is_empty() {
            errors.push(Error::forbidden(at, "not allowed on this type"));
        }
    } else if namespace.is_empty() {
        errors.push(Error::required(at, ""));
    } else {
        let problems = validation::dns1123_label(namespace, false);
        errors.extend(problems.into_iter().map(|p| Error::invalid(at.clone(), namespace, p)));
    }
    errors.extend(validation::nonnegative(object.generation(), path.child("generation")));
    errors.extend(common(object, path));
    let finalizers = object.array(&["metadata", "finalizers"]);
    errors.extend(validate_finalizers(finalizers, &path.child("finalizers")));
    errors.extend(validate_managed_fields(object, &path.child("managedFields")));
    errors
}

/// Problems of a change of metadata. The new object must carry a resourceVersion (the caller fills it in for
/// unconditional updates).
pub fn validate_object_meta_update(new: &Object, old: &Object, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    if old.is_deleting() {
        let mut extra: Vec<&str> = new.finalizers().filter(|f| !old.finalizers().any(|o| o == *f)).collect();
        extra.sort_unstable();
        extra.dedup();
        if !extra.is_empty() {
            let list: Vec<String> = extra.iter().map(|f| format!("{f:?}")).collect();
            let detail = format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                list.join(", ")
            );
            errors.push(Error::forbidden(path.child("finalizers"), detail));
        }
    }
    if new.resource_version().is_empty() {
        errors.push(Error::invalid(path.child("resourceVersion"), "", "must be specified for an update"));
    }
    errors.extend(validation::nonnegative(new.generation(), path.child("generation")));
    if new.generation() < old.generation() {
        errors.push(Error::invalid(path.child("generation"), new.generation(), "must not be decremented"));
    }
    for name in ["name", "namespace", "uid"] {
        let value = |o: &Object| Value::from(o.str(&["metadata", name]).unwrap_or_default());
        let (new, old) = (value(new), value(old));
        if new != old {
            errors.push(Error::invalid(path.child(name), new, validation::IMMUTABLE));
        }
    }
    for name in ["creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        let (new, old) = (new.get(&["metadata", name]), old.get(&["metadata", name]));
        errors.extend(validation::immutable(new, old, path.child(name)));
    }
    errors.extend(common(new, path));
    errors.extend(validate_managed_fields(new, &path.child("managedFields")));
    errors
}

/// Labels, annotations and owner references.
fn common(object: &Object, path: &Path) -> ErrorList {
    let mut errors = validation::labels(object.get(&["metadata", "labels"]), &path.child("labels"));
    let annotations = object.get(&["metadata", "annotations"]);
    errors.extend(validate_annotations(annotations, &path.child("annotations")));
    let owners = object.array(&["metadata", "ownerReferences"]);
    errors.extend(validate_owner_references(owners, &path.child("ownerReferences")));
    errors
}

/// Keys as label keys but in any case, and the total size.
pub fn validate_annotations(annotations: Option<&Value>, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    let mut bytes = 0;
    for (key, value) in annotations.and_then(Value::as_object).into_iter().flatten() {
        let problems = validation::label_key(&key.to_lowercase());
        errors.extend(problems.into_iter().map(|p| Error::invalid(path.clone(), key.as_str(), p)));
        bytes += key.len() + value.as_str().map_or(0, str::len);
    }
    if bytes > ANNOTATIONS_BYTES_MAX {
        errors.push(Error::too_long(path.clone(), ANNOTATIONS_BYTES_MAX));
    }
    errors
}

/// Owner references as Go prints them: in the order of the struct's fields.
fn in_go_order(owners: &[Value]) -> String {
    const ORDER: [&str; 6] = ["apiVersion", "kind", "name", "uid", "controller", "blockOwnerDeletion"];
    let member = |owner: &Value, name: &str| {
        let value = owner.get(name).filter(|value| !value.is_null());
        let needed = ORDER[..4].contains(&name).then(|| "\"\"".to_owned());
        value.map(ToString::to_string).or(needed).map(|text| format!("\"{name}\":{text}"))
    };
    let one = |owner: &Value| {
        let members: Vec<String> = ORDER.iter().filter_map(|name| member(owner, name)).collect();
        format!("{{{}}}", members.join(","))
    };
    format!("[{}]", owners.iter().map(one).collect::<Vec<_>>().join(","))
}

/// Every reference complete, at most one a controller.
pub fn validate_owner_references(owners: &[Value], path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    let mut controller: Option<String> = None;
    for (i, owner) in owners.iter().enumerate() {
        let at = path.index(i);
        let text = |name: &str| owner.get(name).and_then(Value::as_str).unwrap_or_default();
        let api_version = text("apiVersion");
        if api_version.is_empty() {
            errors.push(Error::required(at.child("apiVersion"), "must not be empty"));
        } else if GroupVersion::read(api_version).is_none() {
            let detail = "must be <group>/<version> or <version>";
            errors.push(Error::invalid(at.child("apiVersion"), api_version, detail));
        }
        for name in ["kind", "name", "uid"] {
            if text(name).is_empty() {
                errors.push(Error::required(at.child(name), "must not be empty"));
            }
        }
        if api_version == "v1" && text("kind") == "Event" {
            let detail = "/v1, Kind=Event is disallowed from being an owner";
            errors.push(Error::invalid(at, owner.clone(), detail));
        }
        if owner.get("controller").and_then(Value::as_bool).unwrap_or_default() {
            let this = format!("{}/{}", text("kind"), text("name"));
            match &controller {
                None => controller = Some(this),
                Some(first) => {
                    let detail = format!(
                        "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {this}"
                    );
                    errors.push(Error::invalid(path.clone(), owners.to_vec(), detail).showing(in_go_order(owners)));
                }
            }
        }
    }
    errors
}

/// Names of finalizers, and that orphaning and foreground deletion are not both asked for.
pub fn validate_finalizers(finalizers: &[Value], path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    let names = || finalizers.iter().filter_map(Value::as_str);
    for name in names() {
        errors.extend(validation::label_key(name).into_iter().map(|p| Error::invalid(path.clone(), name, p)));
    }
    if names().any(|n| n == FINALIZER_ORPHAN) && names().any(|n| n == FINALIZER_FOREGROUND) {
        let detail = format!("finalizer {FINALIZER_ORPHAN} and {FINALIZER_FOREGROUND} cannot be both set");
        errors.push(Error::invalid(path.clone(), finalizers.to_vec(), detail));
    }
    errors
}

/// Problems of the `fieldManager` of a request or entry.
pub fn validate_field_manager(manager: &str, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    if manager.len() > FIELD_MANAGER_BYTES_MAX {
        errors.push(Error::too_long(path.clone(), FIELD_MANAGER_BYTES_MAX));
    }
    for (i, c) in manager.char_indices().filter(|(_, c)| c.is_control() || (c.is_whitespace() && *c != ' ')) {
        // Go's %#U: the code point, and the character where it can be shown.
        let detail = format!("invalid character U+{:04X} (at position {i})", u32::from(c));
        errors.push(Error::invalid(path.clone(), manager, detail));
    }
    errors
}

fn validate_managed_fields(object: &Object, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    for (i, entry) in object.array(&["metadata", "managedFields"]).iter().enumerate() {
        let at = path.index(i);
        let text = |name: &str| entry.get(name).and_then(Value::as_str).unwrap_or_default();
        match text("operation") {
            "" => errors.push(Error::required(at.child("operation"), "must not be empty")),
            "Apply" | "Update" => {}
            other => errors.push(Error::not_supported(at.child("operation"), other, &["Apply", "Update"])),
        }
        if !matches!(text("fieldsType"), "" | "FieldsV1") {
            errors.push(Error::invalid(at.child("fieldsType"), text("fieldsType"), "must be `FieldsV1`"));
        }
        errors.extend(validate_field_manager(text("manager"), &at.child("manager")));
        if text("subresource").len() > SUBRESOURCE_BYTES_MAX {
            errors.push(Error::too_long(at.child("subresource"), SUBRESOURCE_BYTES_MAX));
        }
    }
    errors
}

/// A reference to `owner`; with `controller` the one that manages the object, blocking the owner's foreground deletion
/// (`metav1.NewControllerRef`).
pub fn owner_reference(owner: &Object, controller: bool) -> Value {
    let mut reference = json!({
        "apiVersion": owner.api_version(), "kind": owner.kind(), "name": owner.name(), "uid": owner.uid(),
    });
    if controller {
        reference["controller"] = true.into();
        reference["blockOwnerDeletion"] = true.into();
    }
    reference
}

/// The reference to the object's controller.
pub fn controller_of(object: &Object) -> Option<&Value> {
    let owners = object.array(&["metadata", "ownerReferences"]);
    owners.iter().find(|o| o.get("controller").and_then(Value::as_bool).unwrap_or_default())
}

/// Whether `owner` is the controller of `object`.
pub fn is_controlled_by(object: &Object, owner: &Object) -> bool {
    controller_of(object).and_then(|o| o.get("uid")?.as_str()) == Some(owner.uid())
}

/// Drops repeats among owner references; returns the uids that were repeated
/// (`dedupOwnerReferences`). Two are repeats only if all their members are equal.
pub fn dedup_owner_references(object: &mut Object) -> Vec<String> {
    let Some(Value::Array(owners)) = object.get_mut(&["metadata", "ownerReferences"]) else { return Vec::new() };
    let mut kept: Vec<Value> = Vec::with_capacity(owners.len());
    let mut repeated = Vec::new();
    for owner in owners.drain(..) {
        if kept.contains(&owner) {
            let uid = owner.get("uid").and_then(Value::as_str).unwrap_or_default().to_owned();
            if !repeated.contains(&uid) {
                repeated.push(uid);
            }
        } else {
            kept.push(owner);
        }
    }
    *owners = kept;
    repeated
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(metadata: Value) -> Object {
        Object::from_value(json!({"metadata": metadata})).unwrap()
    }

    fn check_new(metadata: Value, expected: &[&str]) {
        let rule = |name: &str, prefix| validation::dns1123_subdomain(name, prefix);
        let errors = validate_object_meta(&object(metadata), true, &rule, &Path::new("metadata"));
        let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(texts.len(), expected.len(), "{texts:?}");
        for (text, start) in texts.iter().zip(expected) {
            assert!(text.starts_with(start), "{text} is not {start}");
        }
    }

    #[test]
    fn new_objects() {
        check_new(json!({"name": "a", "namespace": "b"}), &[]);
        check_new(
            json!({}),
            &["metadata.name: Required value: name or generateName is required", "metadata.namespace: Required value"],
        );
        check_new(
            json!({"name": "A", "namespace": "b.c", "labels": {"/": "x y"}, "annotations": {"A/B": "", "Ok.x/Y": ""}}),
            &[
                "metadata.name: Invalid value: \"A\": a lowercase RFC 1123 subdomain",
                "metadata.namespace: Invalid value: \"b.c\": must not contain dots",
                "metadata.labels: Invalid value: \"/\": prefix part must be non-empty",
                "metadata.labels: Invalid value: \"/\": name part must be non-empty",
                "metadata.labels: Invalid value: \"/\": name part must consist",
                "metadata.labels: Invalid value: \"x y\": a valid label",
            ],
        );
        check_new(
            json!({"name": "a", "namespace": "b", "annotations": {"big": "x".repeat(ANNOTATIONS_BYTES_MAX)}}),
            &["metadata.annotations: Too long: may not be more than 262144 bytes"],
        );
        let owner =
            |name: &str| json!({"apiVersion": "v1", "kind": "Pod", "name": name, "uid": "u", "controller": true});
        check_new(
            json!({"name": "a", "namespace": "b", "ownerReferences": [owner("x"), owner("y"), {"apiVersion": "a/b/c"}]}),
            &[
                "metadata.ownerReferences: Invalid value: [{",
                "metadata.ownerReferences[2].apiVersion: Invalid value: \"a/b/c\": must be <group>/<version> or <version>",
                "metadata.ownerReferences[2].kind: Required value",
                "metadata.ownerReferences[2].name: Required value",
                "metadata.ownerReferences[2].uid: Required value",
            ],
        );
    }

    #[test]
    fn changes() {
        let old =
            object(json!({"name": "a", "uid": "1", "generation": 2, "deletionTimestamp": "t", "resourceVersion": "1"}));
        let new = object(json!({"name": "b", "uid": "1", "generation": 1, "finalizers": ["x/y"]}));
        let errors = validate_object_meta_update(&new, &old, &Path::new("metadata"));
        let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new \
                 finalizers []string{\"x/y\"}",
                "metadata.resourceVersion: Invalid value: \"\": must be specified for an update",
                "metadata.generation: Invalid value: 1: must not be decremented",
                "metadata.name: Invalid value: \"b\": field is immutable",
                "metadata.deletionTimestamp: Invalid value: null: field is immutable",
            ]
        );
    }

    #[test]
    fn repeated_owners_go() {
        let owner = json!({"apiVersion": "v1", "kind": "Pod", "name": "a", "uid": "u"});
        let mut object = object(json!({"ownerReferences": [owner, owner]}));
        assert_eq!(dedup_owner_references(&mut object), ["u"]);
        assert_eq!(object.array(&["metadata", "ownerReferences"]).len(), 1);
    }
}
