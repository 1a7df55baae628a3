//! Validation of volumes and of how containers mount them.

use std::collections::{BTreeMap, BTreeSet};

use api::field::{Error, ErrorList, Path};
use serde_json::Value;

use crate::checks::{descending_path, invalid_all, label_name};
use crate::json::{Json, amount};
use crate::signers;

use super::container::field_ref;
use super::volume_source::{self, Of};

const FILE_MODE: &str = "must be a number between 0 and 0777 (octal), both inclusive";

/// The kinds of volume, in the order that upstream looks for them, and the fields that those of pods alone cannot do
/// without.
const KINDS: &[(&str, &[&str])] = &[
    ("emptyDir", &[]),
    ("hostPath", &[]),
    ("gitRepo", &[]),
    ("gcePersistentDisk", &[]),
    ("awsElasticBlockStore", &[]),
    ("secret", &["secretName"]),
    ("nfs", &[]),
    ("iscsi", &[]),
    ("glusterfs", &[]),
    ("flocker", &[]),
    ("persistentVolumeClaim", &["claimName"]),
    ("rbd", &[]),
    ("cinder", &[]),
    ("cephfs", &[]),
    ("quobyte", &[]),
    ("downwardAPI", &[]),
    ("fc", &[]),
    ("flexVolume", &[]),
    ("configMap", &["name"]),
    ("azureFile", &[]),
    ("vsphereVolume", &[]),
    ("photonPersistentDisk", &[]),
    ("portworxVolume", &[]),
    ("azureDisk", &[]),
    ("storageos", &[]),
    ("projected", &[]),
    ("scaleIO", &[]),
    ("csi", &[]),
    ("ephemeral", &[]),
    ("image", &["reference"]),
];

/// Valid volumes by name, for the checks of mounts.
pub(crate) type Volumes<'v> = BTreeMap<&'v str, &'v Value>;

/// `ValidateVolumes`. `pod_name` is empty for templates.
pub(crate) fn volumes<'v>(errors: &mut ErrorList, path: &Path, list: &'v [Value], pod_name: &str) -> Volumes<'v> {
    let mut good = Volumes::new();
    for (i, volume) in list.iter().enumerate() {
        let at = path.index(i);
        let before = errors.len();
        source(errors, &at, volume, pod_name);
        let name = volume.text("name");
        if name.is_empty() {
            errors.push(Error::required(at.child("name"), ""));
        } else {
            label_name(errors, &at.child("name"), name);
        }
        if good.contains_key(name) {
            errors.push(Error::duplicate(at.child("name"), name));
        }
        if errors.len() == before {
            good.insert(name, volume);
        }
        let claim = volume.at("persistentVolumeClaim").text("claimName");
        let made_for_pod =
            |other: &Value| other.has("ephemeral") && format!("{pod_name}-{}", other.text("name")) == claim;
        if !pod_name.is_empty() && !claim.is_empty() && list.iter().any(made_for_pod) {
            errors.push(Error::invalid(
                at.child("persistentVolumeClaim").child("claimName"),
                claim,
                "must not reference a PVC that gets created for an ephemeral volume",
            ));
        }
    }
    good
}

fn source(errors: &mut ErrorList, path: &Path, volume: &Value, pod_name: &str) {
    let mut seen = 0;
    for (kind, required) in KINDS {
        if !volume.has(kind) {
            continue;
        }
        seen += 1;
        if seen > 1 {
            errors.push(Error::forbidden(volume_source::second(path, kind), volume_source::MORE_THAN_ONE));
            continue;
        }
        let (at, body) = (path.child(kind), volume.at(kind));
        volume_source::source(errors, path, kind, body, Of::Pod);
        for name in *required {
            if body.text(name).is_empty() {
                errors.push(Error::required(at.child(name), ""));
            }
        }
        special(errors, &at, kind, body);
        let name = volume.text("name");
        if *kind == "ephemeral" && !pod_name.is_empty() && !name.is_empty() {
            let claim = format!("{pod_name}-{name}");
            for text in api::validation::dns1123_subdomain(&claim, false) {
                errors.push(Error::invalid(path.child("name"), name, format!("PVC name {claim:?}: {text}")));
            }
        }
        if *kind == "iscsi" && body.has("initiatorName") {
            let (name, portal) = (volume.text("name"), body.text("targetPortal"));
            if name.len() + 1 + portal.len() > 64 {
                let text = "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if \
                    iscsi.initiatorName is specified.";
                errors.push(Error::invalid(path.child("name"), name, text));
            }
        }
    }
    if seen == 0 {
        errors.push(Error::required(path.clone(), "must specify a volume type"));
    }
}

fn special(errors: &mut ErrorList, at: &Path, kind: &str, body: &Value) {
    match kind {
        "emptyDir" => {
            if amount(body.at("sizeLimit")).sign() < 0 {
                let text = "SizeLimit field must be a valid resource quantity";
                errors.push(Error::forbidden(at.child("sizeLimit"), text));
            }
        }
        "secret" | "configMap" => {
            mode(errors, at.child("defaultMode"), body.at("defaultMode"));
            for (i, item) in body.list("items").iter().enumerate() {
                key_to_path(errors, &at.child("items").index(i), item);
            }
        }
        "downwardAPI" => {
            mode(errors, at.child("defaultMode"), body.at("defaultMode"));
            for item in body.list("items") {
                downward_file(errors, at, item);
            }
        }
        "projected" => {
            mode(errors, at.child("defaultMode"), body.at("defaultMode"));
            projected(errors, at, body);
        }
        "ephemeral" => {
            if !body.has("volumeClaimTemplate") {
                errors.push(Error::required(at.child("volumeClaimTemplate"), ""));
            } else {
                let (spec, metadata) =
                    (body.at("volumeClaimTemplate").at("spec"), body.at("volumeClaimTemplate").at("metadata"));
                let meta_at = at.child("volumeClaimTemplate").child("metadata");
                crate::checks::template_meta(errors, &meta_at, metadata);
                crate::core::claim::spec(errors, &at.child("volumeClaimTemplate").child("spec"), spec);
            }
        }
        "image" => {
            if body.has("pullPolicy") && !matches!(body.text("pullPolicy"), "Always" | "IfNotPresent" | "Never") {
                let supported = &["Always", "IfNotPresent", "Never"];
                errors.push(Error::not_supported(at.child("pullPolicy"), body.text("pullPolicy"), supported));
            }
        }
        _ => {}
    }
}

fn mode(errors: &mut ErrorList, path: Path, value: &Value) {
    if let Some(mode) = value.as_i64()
        && !(0..=0o777).contains(&mode)
    {
        errors.push(Error::invalid(path, mode, FILE_MODE));
    }
}

fn key_to_path(errors: &mut ErrorList, path: &Path, item: &Value) {
    if item.text("key").is_empty() {
        errors.push(Error::required(path.child("key"), ""));
    }
    if item.text("path").is_empty() {
        errors.push(Error::required(path.child("path"), ""));
    }
    non_reserved(errors, &path.child("path"), item.text("path"));
    mode(errors, path.child("mode"), item.at("mode"));
}

/// `ValidateLocalNonReservedPath`.
fn non_reserved(errors: &mut ErrorList, path: &Path, value: &str) {
    descending_path(errors, path, value);
    if value.starts_with("..") && !value.starts_with("../") {
        errors.push(Error::invalid(path.clone(), value, "must not start with '..'"));
    }
}

const DOWNWARD_FIELDS: &[&str] =
    &["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];

fn downward_file(errors: &mut ErrorList, path: &Path, item: &Value) {
    if item.text("path").is_empty() {
        errors.push(Error::required(path.child("path"), ""));
    }
    non_reserved(errors, &path.child("path"), item.text("path"));
    if item.has("fieldRef") {
        field_ref(errors, &path.child("fieldRef"), item.at("fieldRef"), DOWNWARD_FIELDS);
        if item.has("resourceFieldRef") {
            let text = "fieldRef and resourceFieldRef can not be specified simultaneously";
            errors.push(Error::invalid(path.clone(), "resource", text));
        }
    } else if item.has("resourceFieldRef") {
        super::container::resource_ref(errors, &path.child("resourceFieldRef"), item.at("resourceFieldRef"), true);
    } else {
        errors.push(Error::required(path.clone(), "one of fieldRef and resourceFieldRef is required"));
    }
    mode(errors, path.child("mode"), item.at("mode"));
}

fn projected(errors: &mut ErrorList, path: &Path, body: &Value) {
    let mut paths: BTreeSet<&str> = BTreeSet::new();
    for (i, source) in body.list("sources").iter().enumerate() {
        let at = path.child("sources").index(i);
        let mut seen = 0;
        for kind in ["secret", "configMap"] {
            if !source.has(kind) {
                continue;
            }
            seen += 1;
            let (at, part) = (at.child(kind), source.at(kind));
            if part.text("name").is_empty() {
                errors.push(Error::required(at.child("name"), ""));
            }
            for (j, item) in part.list("items").iter().enumerate() {
                key_to_path(errors, &at.child("items").index(j), item);
                let file = item.text("path");
                if !file.is_empty() && !paths.insert(file) {
                    errors.push(Error::invalid(path.clone(), part.text("name"), "conflicting duplicate paths"));
                }
            }
        }
        if source.has("downwardAPI") {
            seen += 1;
            for item in source.at("downwardAPI").list("items") {
                downward_file(errors, &at.child("downwardAPI"), item);
                let file = item.text("path");
                if !file.is_empty() && !paths.insert(file) {
                    errors.push(Error::invalid(path.clone(), file, "conflicting duplicate paths"));
                }
            }
        }
        if source.has("serviceAccountToken") {
            seen += 1;
            token(errors, path, &at.child("serviceAccountToken"), source.at("serviceAccountToken"));
        }
        for kind in ["clusterTrustBundle", "podCertificate"] {
            seen += usize::from(source.has(kind));
        }
        if source.has("clusterTrustBundle") {
            let (at, part) = (at.child("clusterTrustBundle"), source.at("clusterTrustBundle"));
            signers::bundle_projection(errors, &at, part);
            if part.text("path").is_empty() {
                errors.push(Error::required(at.child("path"), ""));
            }
            non_reserved(errors, &at.child("path"), part.text("path"));
            if !paths.insert(part.text("path")) {
                errors.push(Error::invalid(path.clone(), part.text("path"), "conflicting duplicate paths"));
            }
        }
        if source.has("podCertificate") {
            let (at, part) = (at.child("podCertificate"), source.at("podCertificate"));
            signers::pod_certificate(errors, &at, part);
            let mut named = 0;
            for field in ["credentialBundlePath", "keyPath", "certificateChainPath"] {
                let file = part.text(field);
                if file.is_empty() {
                    continue;
                }
                named += 1;
                non_reserved(errors, &at.child(field), file);
                if !paths.insert(file) {
                    errors.push(Error::invalid(path.clone(), file, "conflicting duplicate paths"));
                }
            }
            if named == 0 {
                let text = "specify at least one of credentialBundlePath, keyPath, and certificateChainPath";
                errors.push(Error::required(at, text));
            }
        }
        if seen > 1 {
            errors.push(Error::forbidden(at, "may not specify more than 1 volume type per source"));
        }
    }
}

fn token(errors: &mut ErrorList, path: &Path, at: &Path, token: &Value) {
    let expiry = at.child("expirationSeconds");
    match token.int("expirationSeconds") {
        None => errors.push(Error::required(expiry, "")),
        Some(seconds) if seconds < 600 => {
            errors.push(Error::invalid(expiry, seconds, "may not specify a duration less than 10 minutes"));
        }
        Some(seconds) if seconds > 1 << 32 => {
            errors.push(Error::invalid(expiry, seconds, "may not specify a duration larger than 2^32 seconds"));
        }
        Some(_) => {}
    }
    if token.text("path").is_empty() {
        errors.push(Error::required(path.child("path"), ""));
    } else {
        non_reserved(errors, &path.child("path"), token.text("path"));
    }
}

/// `ValidateVolumeMounts`.
pub(crate) fn mounts(errors: &mut ErrorList, path: &Path, container: &Value, volumes: &Volumes<'_>) {
    let devices = container.list("volumeDevices");
    let mut points: BTreeSet<&str> = BTreeSet::new();
    for (i, mount) in container.list("volumeMounts").iter().enumerate() {
        let at = path.index(i);
        let (name, point) = (mount.text("name"), mount.text("mountPath"));
        if name.is_empty() {
            errors.push(Error::required(at.child("name"), ""));
        }
        if !volumes.contains_key(name) {
            errors.push(Error::not_found(at.child("name"), name));
        }
        if point.is_empty() {
            errors.push(Error::required(at.child("mountPath"), ""));
        }
        if !points.insert(point) {
            errors.push(Error::invalid(at.child("mountPath"), point, "must be unique"));
        }
        if devices.iter().any(|d| d.text("name") == name) {
            errors.push(Error::invalid(at.child("name"), name, "must not already exist in volumeDevices"));
        }
        if devices.iter().any(|d| d.text("devicePath") == point) {
            let text = "must not already exist as a path in volumeDevices";
            errors.push(Error::invalid(at.child("mountPath"), point, text));
        }
        let (sub, expr) = (mount.text("subPath"), mount.text("subPathExpr"));
        if !sub.is_empty() {
            descending_path(errors, &path.child("subPath"), sub);
        }
        if !expr.is_empty() {
            if !sub.is_empty() {
                let text = "subPathExpr and subPath are mutually exclusive";
                errors.push(Error::invalid(at.child("subPathExpr"), expr, text));
            }
            descending_path(errors, &path.child("subPathExpr"), expr);
        }
        propagation(errors, path, mount, container.at("securityContext").flag("privileged"));
    }
}

fn propagation(errors: &mut ErrorList, path: &Path, mount: &Value, privileged: bool) {
    if mount.has("mountPropagation") {
        let (at, value) = (path.child("mountPropagation"), mount.text("mountPropagation"));
        let supported = &["Bidirectional", "HostToContainer", "None"];
        if !supported.contains(&value) {
            errors.push(Error::not_supported(at.clone(), value, supported));
        }
        if value == "Bidirectional" && !privileged {
            let text = "Bidirectional mount propagation is available only to privileged containers";
            errors.push(Error::forbidden(at, text));
        }
    }
    if mount.has("recursiveReadOnly") {
        let at = path.child("recursiveReadOnly");
        match mount.text("recursiveReadOnly") {
            "Disabled" => {}
            "Enabled" | "IfPossible" => {
                if !mount.flag("readOnly") {
                    errors.push(Error::forbidden(at.clone(), "may only be specified when readOnly is true"));
                }
                if !matches!(mount.text("mountPropagation"), "" | "None") {
                    let text = "may only be specified when mountPropagation is None or not specified";
                    errors.push(Error::forbidden(at, text));
                }
            }
            other => errors.push(Error::not_supported(at, other, &["Disabled", "Enabled", "IfPossible"])),
        }
    }
}

/// `ValidateVolumeDevices`.
pub(crate) fn devices(errors: &mut ErrorList, path: &Path, container: &Value, volumes: &Volumes<'_>) {
    let mounts = container.list("volumeMounts");
    let (mut names, mut paths) = (BTreeSet::new(), BTreeSet::new());
    for (i, device) in container.list("volumeDevices").iter().enumerate() {
        let at = path.index(i);
        let (name, file) = (device.text("name"), device.text("devicePath"));
        if name.is_empty() {
            errors.push(Error::required(at.child("name"), ""));
        } else if !names.insert(name) {
            errors.push(Error::invalid(at.child("name"), name, "must be unique"));
        }
        match volumes.get(name) {
            None => errors.push(Error::not_found(at.child("name"), name)),
            Some(volume) if !volume.has("persistentVolumeClaim") && !volume.has("ephemeral") => {
                let text = "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode";
                errors.push(Error::invalid(at.child("name"), name, text));
            }
            Some(_) => {}
        }
        if file.is_empty() {
            errors.push(Error::required(at.child("devicePath"), ""));
        }
        if !paths.insert(file) {
            errors.push(Error::invalid(at.child("devicePath"), file, "must be unique"));
        }
        if file.split('/').any(|part| part == "..") {
            errors.push(Error::invalid(at.child("devicePath"), file, "can not contain backsteps ('..')"));
        }
        if mounts.iter().any(|m| m.text("name") == name) {
            errors.push(Error::invalid(at.child("name"), name, "must not already exist in volumeMounts"));
        }
        if mounts.iter().any(|m| m.text("mountPath") == file) {
            let text = "must not already exist as a path in volumeMounts";
            errors.push(Error::invalid(at.child("devicePath"), file, text));
        }
    }
}

/// A name checked as a subdomain, for references by name.
pub(crate) fn reference_name(errors: &mut ErrorList, path: &Path, name: &str) {
    if name.is_empty() {
        errors.push(Error::required(path.clone(), ""));
    } else {
        invalid_all(errors, path, name, api::validation::dns1123_subdomain(name, true));
    }
}
