//! PersistentVolumeClaims.

use api::Object;
use api::field::{Error, ErrorList, Path};
use serde_json::Value;

use crate::checks::{IMMUTABLE, immutable, invalid_all, label_selector, one_of_if_set, subdomain};
use crate::columns::{age, name, string, string_or, text, wide};
use crate::define::Extra;
use crate::json::{Json, Members, amount, child, dig, existing, fill, restore, same};
use crate::printed;
use crate::rules::Rules;

pub(super) const ACCESS_MODES: &[&str] = &["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];

pub(super) fn extra() -> Extra {
    let rules = Rules {
        default,
        create: |_, object| {
            object.set(&["status"], serde_json::json!({"phase": "Pending"}));
            if let Some(spec) = existing(&mut object.0, "spec") {
                data_sources(spec, false);
            }
        },
        validate: |object| {
            let mut errors = ErrorList::new();
            spec(&mut errors, &Path::new("spec"), object.at("spec"));
            errors
        },
        update: |_, object, old| {
            if let Some(spec) = existing(&mut object.0, "spec") {
                data_sources(spec, old.at("spec").has("dataSource"));
            }
        },
        // `CSIVolumeHealth` is off.
        status_update: |_, object, _| drop(object.remove(&["status", "healthStatus"])),
        validate_update: Some(validate_update),
        validate_status: |object, _| validate_status(object),
        warnings: |object, _| {
            let mut out = Vec::new();
            if object.annotation(CLASS).is_some() {
                let text = "deprecated since v1.8; use \"storageClassName\" attribute instead";
                out.push(format!("metadata.annotations[{CLASS}]: {text}"));
            }
            crate::podspec::warnings::claim(&mut out, &Path::new("spec"), object.at("spec"));
            out
        },
        ..Rules::GENERIC
    };
    let columns = vec![
        name(),
        text("Status", |o, _| if o.is_deleting() { "Terminating".into() } else { string(o, &["status", "phase"]) }),
        text("Volume", |o, _| string(o, &["spec", "volumeName"])),
        text(
            "Capacity",
            |o, _| if bound(o) { string_or(o, &["status", "capacity", "storage"], "0") } else { "".into() },
        ),
        text("Access Modes", |o, _| {
            if bound(o) { access_modes(o.at("status").list("accessModes")).into() } else { "".into() }
        }),
        text("StorageClass", |o, _| class(o).into()),
        text("VolumeAttributesClass", |o, _| string_or(o, &["spec", "volumeAttributesClassName"], "<unset>")),
        age(),
        wide("VolumeMode", |o, _| string_or(o, &["spec", "volumeMode"], "<unset>")),
    ];
    Extra::new(rules, columns)
}

fn bound(object: &Object) -> bool {
    object.at("spec").count("volumeName") > 0
}

const CLASS: &str = "volume.beta.kubernetes.io/storage-class";

/// The class by the old annotation or by the field.
pub(super) fn class(object: &Object) -> &str {
    object.annotation(CLASS).or_else(|| dig(object, &["spec", "storageClassName"]).as_str()).unwrap_or_default()
}

/// `GetAccessModesAsString`.
pub(super) fn access_modes(modes: &[Value]) -> String {
    [("ReadWriteOnce", "RWO"), ("ReadOnlyMany", "ROX"), ("ReadWriteMany", "RWX"), ("ReadWriteOncePod", "RWOP")]
        .iter()
        .filter(|(mode, _)| modes.iter().any(|m| m.as_str() == Some(mode)))
        .map(|(_, short)| *short)
        .collect::<Vec<_>>()
        .join(",")
}

fn default(object: &mut Object) {
    if let Some(status) = child(&mut object.0, "status") {
        fill(status, "phase", "Pending");
    }
    if let Some(spec) = existing(&mut object.0, "spec") {
        spec_defaults(spec);
    }
}

/// `SetDefaults_PersistentVolumeClaimSpec`.
pub(crate) fn spec_defaults(spec: &mut Members) {
    if !spec.has("volumeMode") {
        spec.insert("volumeMode".to_owned(), "Filesystem".into());
    }
}

/// `DropDisabledFields` and `NormalizeDataSources`: the old field knows claims and snapshots only, and the two agree.
fn data_sources(spec: &mut Members, in_use: bool) {
    // Sources in other namespaces are behind a gate that is off (`CrossNamespaceVolumeDataSource`).
    if !in_use && spec.at("dataSourceRef").count("namespace") > 0 {
        spec.remove("dataSourceRef");
    }
    let source = spec.at("dataSource");
    let known = matches!(
        (source.text("apiGroup"), source.text("kind")),
        ("", "PersistentVolumeClaim") | ("snapshot.storage.k8s.io", "VolumeSnapshot")
    );
    if !in_use && !known && !spec.has("dataSourceRef") {
        spec.remove("dataSource");
    }
    let (source, reference) = (spec.at("dataSource").clone(), spec.at("dataSourceRef").clone());
    if source.is_null() && reference.is_object() && reference.count("namespace") == 0 {
        spec.insert("dataSource".to_owned(), reference);
    } else if reference.is_null() && source.is_object() {
        spec.insert("dataSourceRef".to_owned(), source);
    }
}

/// `ValidatePersistentVolumeClaimSpec`.
pub(crate) fn spec(errors: &mut ErrorList, path: &Path, spec: &Value) {
    let modes = spec.list("accessModes");
    if modes.is_empty() {
        errors.push(Error::required(path.child("accessModes"), "at least 1 access mode is required"));
    }
    label_selector(errors, &path.child("selector"), spec.at("selector"));
    let (mut exclusive, mut others) = (false, false);
    for mode in modes {
        let mode = mode.as_str().unwrap_or_default();
        match mode {
            "ReadWriteOncePod" => exclusive = true,
            mode if ACCESS_MODES.contains(&mode) => others = true,
            mode => errors.push(Error::not_supported(path.child("accessModes"), mode, ACCESS_MODES)),
        }
    }
    if exclusive && others {
        let text = "may not use ReadWriteOncePod with other access modes";
        errors.push(Error::forbidden(path.child("accessModes"), text));
    }
    let requests = spec.at("resources").at("requests");
    let at = path.child("resources").key("storage");
    if !requests.has("storage") {
        errors.push(Error::required(at, ""));
    } else if amount(requests.at("storage")).sign() <= 0 {
        let text = "must be greater than zero";
        errors.push(Error::invalid(at, requests.at("storage").clone(), text));
    }
    let storage_class = spec.text("storageClassName");
    if !storage_class.is_empty() {
        subdomain(errors, &path.child("storageClassName"), storage_class);
    }
    one_of_if_set(errors, path.child("volumeMode"), spec.at("volumeMode"), &["Block", "Filesystem"]);
    let attributes = spec.text("volumeAttributesClassName");
    if !attributes.is_empty() {
        subdomain(errors, &path.child("volumeAttributesClassName"), attributes);
    }
    for member in ["dataSource", "dataSourceRef"] {
        let source = spec.at(member);
        if source.is_null() {
            continue;
        }
        let at = path.child(member);
        for part in ["name", "kind"] {
            if source.count(part) == 0 {
                errors.push(Error::required(at.child(part), ""));
            }
        }
        if source.count("apiGroup") == 0 && source.text("kind") != "PersistentVolumeClaim" {
            let text = "must be 'PersistentVolumeClaim' when referencing the default apiGroup";
            errors.push(Error::invalid(at.clone(), source.text("kind"), text));
        }
        if member == "dataSourceRef" && source.count("namespace") > 0 {
            let namespace = source.text("namespace");
            invalid_all(errors, &at.child("namespace"), namespace, api::validation::dns1123_label(namespace, false));
        }
    }
    let (source, reference) = (spec.at("dataSource"), spec.at("dataSourceRef"));
    if !source.is_object() || !reference.is_object() {
        return;
    }
    let text = if reference.count("namespace") > 0 {
        "may not be specified when dataSourceRef.namespace is specified"
    } else if ["apiGroup", "kind", "name"].iter().any(|part| source.text(part) != reference.text(part)) {
        "must match dataSourceRef"
    } else {
        return;
    };
    // The value that upstream gives is a path of its own, which prints as an empty object.
    errors.push(Error::invalid(path.clone(), serde_json::json!({}), text));
}

/// `ValidatePersistentVolumeClaimUpdate`: only growth, a late class and the volume's name.
fn validate_update(object: &Object, old: &Object) -> ErrorList {
    let mut errors = ErrorList::new();
    let at = Path::new("spec");
    spec(&mut errors, &at, object.at("spec"));
    let (new, before) = (object.at("spec"), old.at("spec"));
    let (Some(mut munged), Some(mut compare)) = (new.as_object().cloned(), before.as_object().cloned()) else {
        return errors;
    };
    if before.count("volumeName") == 0 {
        restore(&mut compare, "volumeName", new);
    }
    class_update(&mut errors, &mut munged, object, old);
    let requests = ["resources", "requests", "storage"];
    let (size, old_size) = (amount(dig(new, &requests)), amount(dig(before, &requests)));
    let status = object.at("status");
    if status.text("phase") == "Bound" {
        if let Some(amounts) = existing(&mut munged, "resources").and_then(|r| existing(r, "requests")) {
            restore(amounts, "storage", before.at("resources").at("requests"));
        }
        restore(&mut munged, "volumeAttributesClassName", before);
    }
    let (munged, compare) = (Value::Object(munged), Value::Object(compare));
    if !printed::equal("core.PersistentVolumeClaimSpec", &munged, &compare) {
        let changes = printed::changes("core.PersistentVolumeClaimSpec", &compare, &munged);
        let text = format!(
            "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound \
             claims\n{changes}"
        );
        errors.push(Error::forbidden(at.clone(), text));
    }
    if size < old_size && size <= amount(dig(old, &["status", "capacity", "storage"])) {
        let at = at.child("resources").child("requests").child("storage");
        errors.push(Error::forbidden(at, "field can not be less than status.capacity"));
    }
    immutable(&mut errors, Path::new("volumeMode"), new.at("volumeMode"), before.at("volumeMode"));
    let name = "volumeAttributesClassName";
    if !same(new.at(name), before.at(name)) && old.at("status").has("currentVolumeAttributesClassName") {
        let at = at.child(name);
        let what = if !new.has(name) {
            "nil"
        } else if new.text(name).is_empty() {
            "empty string"
        } else {
            return errors;
        };
        let text = format!("update to {what} is forbidden when status.currentVolumeAttributesClassName is not nil");
        errors.push(Error::forbidden(at, text));
    }
    errors
}

/// `ValidatePersistentVolumeClaimStatusUpdate`.
fn validate_status(object: &Object) -> ErrorList {
    const RESIZES: [&str; 5] = [
        "ControllerResizeInProgress",
        "ControllerResizeInfeasible",
        "NodeResizeInProgress",
        "NodeResizeInfeasible",
        "NodeResizePending",
    ];
    let mut errors = ErrorList::new();
    let (status, at) = (object.at("status"), Path::new("status"));
    let basic = |errors: &mut ErrorList, at: Path, value: &Value| {
        let amount = amount(value);
        let bad = amount.sign() < 0;
        if bad {
            errors.push(Error::invalid(at, amount.value(), "must be a valid resource quantity"));
        }
        bad
    };
    for (name, value) in status.entries("capacity") {
        basic(&mut errors, at.child("capacity").key(name), value);
    }
    let path = at.child("allocatedResourceStatuses");
    for (name, value) in status.entries("allocatedResourceStatuses") {
        resource_key(&mut errors, &path, name);
        if !RESIZES.contains(&value.as_str().unwrap_or_default()) {
            let mut supported = RESIZES;
            supported.sort_unstable();
            errors.push(Error::not_supported(path.clone(), name, &supported));
        }
    }
    let path = at.child("allocatedResources");
    for (name, value) in status.entries("allocatedResources") {
        if resource_key(&mut errors, &path, name) && !basic(&mut errors, path.key(name), value) {
            crate::podspec::resources::quantity(&mut errors, &path.key(name), "storage", value);
        }
    }
    errors
}

/// `validatePersistentVolumeClaimResourceKey`: of Kubernetes' own resources only storage.
fn resource_key(errors: &mut ErrorList, at: &Path, name: &str) -> bool {
    let texts = api::validation::label_key(name);
    if !texts.is_empty() {
        invalid_all(errors, at, name, texts);
        return false;
    }
    let own = !name.contains('/') || name.starts_with("kubernetes.io/");
    if own && name != "storage" {
        errors.push(Error::not_supported(at.clone(), name, &["storage"]));
        return false;
    }
    true
}

/// How a claim that got its class late, or by the old annotation, comes to the field.
fn class_update(errors: &mut ErrorList, munged: &mut Members, object: &Object, old: &Object) {
    let (annotation, old_annotation) = (object.annotation(CLASS), old.annotation(CLASS));
    let name = dig(object, &["spec", "storageClassName"]).as_str();
    let had_name = dig(old, &["spec", "storageClassName"]).is_string();
    let from_annotation = old_annotation.is_some()
        && !had_name
        && name == old_annotation
        && (annotation.is_none() || annotation == old_annotation);
    if from_annotation {
        munged.remove("storageClassName");
        return;
    }
    if annotation.unwrap_or_default() != old_annotation.unwrap_or_default() {
        let at = Path::new("metadata").child("annotations").child(CLASS);
        errors.push(Error::invalid(at, annotation.unwrap_or_default(), IMMUTABLE));
    }
    if name.is_some() && !had_name && (old_annotation.is_none() || old_annotation == name) {
        restore(munged, "storageClassName", old.at("spec"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn texts(errors: ErrorList) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn data_sources_agree() {
        let source = |name: &str| json!({"kind": "PersistentVolumeClaim", "name": name});
        let check = |reference: Value, expected: &[&str]| {
            let mut errors = ErrorList::new();
            let object = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}},
                "dataSource": source("a"), "dataSourceRef": reference});
            spec(&mut errors, &Path::new("spec"), &object);
            assert_eq!(texts(errors), expected);
        };
        check(source("a"), &[]);
        check(source("b"), &["spec: Invalid value: {}: must match dataSourceRef"]);
        let mut elsewhere = source("a");
        elsewhere["namespace"] = "other".into();
        check(elsewhere, &["spec: Invalid value: {}: may not be specified when dataSourceRef.namespace is specified"]);
    }

    #[test]
    fn sources_in_other_namespaces_are_dropped() {
        let value = json!({"dataSourceRef": {"kind": "PersistentVolumeClaim", "name": "a", "namespace": "other"}});
        let mut spec = value.as_object().cloned().unwrap();
        data_sources(&mut spec, false);
        assert!(spec.is_empty(), "{spec:?}");
    }
}
