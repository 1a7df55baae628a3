//! Namespaces.

use std::sync::Arc;

use api::Object;
use api::field::{Error, ErrorList, Path};
use api::kind::{RequestContext, Strategy, SubresourceKind};
use serde_json::{Value, json};

use crate::checks::{invalid_all, qualified_name};
use crate::columns::{age, field, name, string, text};
use crate::define::Extra;
use crate::json::{child, dig, fill, restore};
use crate::rules::Rules;

const KUBERNETES: &str = "kubernetes";

pub(super) fn extra() -> Extra {
    let rules = Rules {
        default,
        create,
        update: |_, object, old| {
            let finalizers = dig(old, &["spec", "finalizers"]).clone();
            object.set(&["spec", "finalizers"], finalizers);
        },
        validate: |object| {
            let mut errors = ErrorList::new();
            finalizers(&mut errors, object, false);
            errors
        },
        validate_update: Some(|_, _| ErrorList::new()),
        validate_status,
        name: api::validation::dns1123_label,
        finalizers: spec_finalizers,
        deletes_itself: true,
        deletes_unreadable: false,
        deletion: start_deletion,
        ..Rules::GENERIC
    };
    let columns = vec![name(), text("Status", |o, _| string(o, &["status", "phase"])), age()];
    let phase = field("status.phase", |o| dig(o, &["status", "phase"]).as_str().unwrap_or_default().to_owned());
    Extra::new(rules, columns)
        .with_fields(vec![phase])
        .with_subresource("finalize", SubresourceKind::View(Arc::new(Finalize)))
}

/// `SetDefaults_Namespace` and `SetDefaults_NamespaceStatus`.
fn default(object: &mut Object) {
    named(object);
    if let Some(status) = child(&mut object.0, "status") {
        fill(status, "phase", "Active");
    }
}

fn named(object: &mut Object) {
    let name = object.name().to_owned();
    if !name.is_empty() {
        object.set(&["metadata", "labels", "kubernetes.io/metadata.name"], name);
    }
}

/// A new namespace is active and has the `kubernetes` finalizer (`PrepareForCreate`).
fn create(_: &RequestContext<'_>, object: &mut Object) {
    object.set(&["status"], json!({"phase": "Active"}));
    // Of a name that was generated defaults knew nothing (`Canonicalize`, of valid objects only).
    if api::validation::dns1123_label(object.name(), false).is_empty() {
        named(object);
    }
    let mut list = object.array(&["spec", "finalizers"]).to_vec();
    if !list.iter().any(|f| f.as_str() == Some(KUBERNETES)) {
        list.push(KUBERNETES.into());
        object.set(&["spec", "finalizers"], list);
    }
}

/// A namespace that is being deleted says so at once (`REST.Delete` of namespaces).
fn start_deletion(object: &mut Object) {
    object.set(&["status", "phase"], "Terminating");
}

fn spec_finalizers(object: &Object) -> Vec<&str> {
    object.array(&["spec", "finalizers"]).iter().filter_map(Value::as_str).collect()
}

fn finalizers(errors: &mut ErrorList, object: &Object, indexed: bool) {
    for (index, name) in object.array(&["spec", "finalizers"]).iter().enumerate() {
        let at = Path::new("spec").child("finalizers");
        let at = if indexed { at.index(index) } else { at };
        let name = name.as_str().unwrap_or_default();
        invalid_all(errors, &at, name, qualified_name(name));
        if !name.contains('/') && !matches!(name, KUBERNETES | "orphan" | "foregroundDeletion") {
            let text = "name is neither a standard finalizer name nor is it fully qualified";
            errors.push(Error::invalid(at.clone(), name, text));
        }
    }
}

/// The phase says whether the namespace is going (`ValidateNamespaceStatusUpdate`).
fn validate_status(object: &Object, _: &Object) -> ErrorList {
    let phase = dig(object, &["status", "phase"]).as_str().unwrap_or_default();
    let at = Path::new("status").child("Phase");
    let mut errors = ErrorList::new();
    if object.is_deleting() && phase != "Terminating" {
        let text = "may only be 'Terminating' if `deletionTimestamp` is not empty";
        errors.push(Error::invalid(at, phase, text));
    } else if !object.is_deleting() && phase != "Active" {
        errors.push(Error::invalid(at, phase, "may only be 'Active' if `deletionTimestamp` is empty"));
    }
    errors
}

/// The `finalize` subresource changes `spec.finalizers` and nothing else.
struct Finalize;

impl Strategy for Finalize {
    fn default(&self, object: &mut Object) {
        default(object);
    }

    fn prepare_for_update(&self, _: &RequestContext<'_>, object: &mut Object, old: &Object) {
        restore(&mut object.0, "status", old);
        let wanted = dig(object, &["spec", "finalizers"]).clone();
        restore(&mut object.0, "spec", old);
        if wanted.is_null() {
            object.remove(&["spec", "finalizers"]);
        } else {
            object.set(&["spec", "finalizers"], wanted);
        }
    }

    fn validate_update(&self, _: &RequestContext<'_>, object: &Object, _: &Object) -> ErrorList {
        let mut errors = ErrorList::new();
        finalizers(&mut errors, object, true);
        errors
    }

    fn validate_name(&self, name: &str, prefix: bool) -> Vec<String> {
        api::validation::dns1123_label(name, prefix)
    }

    fn extra_finalizers<'a>(&self, object: &'a Object) -> Vec<&'a str> {
        spec_finalizers(object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_label_and_phase() {
        let mut object = Object::from_value(json!({"metadata": {"name": "a"}})).unwrap();
        default(&mut object);
        assert_eq!(object.label("kubernetes.io/metadata.name"), Some("a"));
        assert_eq!(object.str(&["status", "phase"]), Some("Active"));
    }
}
