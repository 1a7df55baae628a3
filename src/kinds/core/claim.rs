//! PersistentVolumeClaims.

use api::Object;
use api::field::{Error, ErrorList, Path};
use serde_json::Value;

use crate::checks::{invalid_all, label_selector, one_of_if_set, subdomain};
use crate::columns::{age, name, string, string_or, text, wide};
use crate::define::Extra;
use crate::json::{Json, Members, amount, child, dig, existing, fill, same};
use crate::rules::Rules;

pub(super) const ACCESS_MODES: &[&str] = &["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];

pub(super) fn extra() -> Extra {
    let rules = Rules {
        default,
        create: |_, object| {
            object.set(&["status"], serde_json::json!({"phase": "Pending"}));
            if let Some(spec) = existing(&mut object.0, "spec") {
                data_sources(spec);
            }
        },
        validate: |object| {
            let mut errors = ErrorList::new();
            spec(&mut errors, &Path::new("spec"), object.at("spec"));
            errors
        },
        validate_update: Some(validate_update),
        warnings: |object, _| {
            let mut out = Vec::new();
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

/// The class by the old annotation or by the field.
pub(super) fn class(object: &Object) -> &str {
    object
        .annotation("volume.beta.kubernetes.io/storage-class")
        .or_else(|| dig(object, &["spec", "storageClassName"]).as_str())
        .unwrap_or_default()
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
fn data_sources(spec: &mut Members) {
    // Sources in other namespaces are behind a gate that is off (`CrossNamespaceVolumeDataSource`).
    if spec.at("dataSourceRef").count("namespace") > 0 {
        spec.remove("dataSourceRef");
    }
    let source = spec.at("dataSource");
    let known = matches!(
        (source.text("apiGroup"), source.text("kind")),
        ("", "PersistentVolumeClaim") | ("snapshot.storage.k8s.io", "VolumeSnapshot")
    );
    if !known && !spec.has("dataSourceRef") {
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
    let Some(mut munged) = new.as_object().cloned() else { return errors };
    if before.count("volumeName") == 0 {
        munged.remove("volumeName");
    }
    if !before.has("storageClassName") && before.count("volumeName") == 0 || class(old) == class(object) {
        crate::json::restore(&mut munged, "storageClassName", before);
    }
    let is_bound = dig(object, &["status", "phase"]).as_str() == Some("Bound");
    let (size, old_size) = (
        amount(new.at("resources").at("requests").at("storage")),
        amount(before.at("resources").at("requests").at("storage")),
    );
    if is_bound {
        crate::json::restore(&mut munged, "volumeAttributesClassName", before);
        if size < old_size && size < amount(dig(object, &["status", "capacity", "storage"])) {
            let at = at.child("resources").child("requests").child("storage");
            errors.push(Error::forbidden(at, "field can not be less than status.capacity"));
        }
        crate::json::restore(&mut munged, "resources", before);
    }
    let mut compare = before.clone();
    if let Some(map) = compare.as_object_mut()
        && before.count("volumeName") == 0
    {
        map.remove("volumeName");
    }
    if !same(&Value::Object(munged), &compare) {
        let text = "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound \
            claims";
        errors.push(Error::forbidden(at, text));
    }
    errors
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
        data_sources(&mut spec);
        assert!(spec.is_empty(), "{spec:?}");
    }
}
