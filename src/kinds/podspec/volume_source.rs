//! Validation of the kinds of volume that pods and PersistentVolumes have in common (upstream's
//! `pkg/apis/core/validation`, `validate…VolumeSource` and `validate…PersistentVolumeSource`).

use std::sync::LazyLock;

use api::field::{Error, ErrorList, Path};
use api::validation::in_range;
use regex::Regex;
use serde_json::Value;

use crate::checks::{csi_driver_name, descending_path, label_name, no_backsteps, subdomain};
use crate::json::Json;

pub(crate) const MORE_THAN_ONE: &str = "may not specify more than 1 volume type";

/// The fields that a kind of volume cannot do without, for those that need no more than that.
const REQUIRED: &[(&str, &[&str])] = &[
    ("glusterfs", &["endpoints", "path"]),
    ("rbd", &["monitors", "image"]),
    ("cephfs", &["monitors"]),
    ("cinder", &["volumeID"]),
    ("flexVolume", &["driver"]),
    ("azureFile", &["secretName", "shareName"]),
    ("vsphereVolume", &["volumePath"]),
    ("photonPersistentDisk", &["pdID"]),
    ("portworxVolume", &["volumeID"]),
    ("azureDisk", &["diskName", "diskURI"]),
    ("scaleIO", &["gateway", "system", "volumeName"]),
    ("gcePersistentDisk", &["pdName"]),
    ("awsElasticBlockStore", &["volumeID"]),
    ("gitRepo", &["repository"]),
];

const HOST_PATHS: &[&str] =
    &["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];

/// Which object has the volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Of<'n> {
    Pod,
    /// A PersistentVolume of this name.
    PersistentVolume(&'n str),
}

/// What upstream calls the second kind of a volume that may have only one.
pub(crate) fn second(at: &Path, kind: &str) -> Path {
    match kind {
        "cephfs" => at.child("cephFS"),
        "downwardAPI" => at.child("downwarAPI"),
        kind => at.child(kind),
    }
}

/// Checks the body of a volume of a kind; `at` is the volume.
pub(crate) fn source(errors: &mut ErrorList, at: &Path, kind: &str, body: &Value, of: Of<'_>) {
    let at = at.child(if kind == "gcePersistentDisk" { "persistentDisk" } else { kind });
    if let Some((_, required)) = REQUIRED.iter().find(|(known, _)| *known == kind) {
        for member in *required {
            if body.count(member) == 0 {
                errors.push(Error::required(at.child(member), ""));
            }
        }
    }
    let of_volume = of != Of::Pod;
    match kind {
        "hostPath" => host_path(errors, &at, body),
        "gitRepo" => descending_path(errors, &at.child("directory"), body.text("directory")),
        "gcePersistentDisk" | "awsElasticBlockStore" => {
            let partition = body.int("partition").unwrap_or_default();
            if !(0..=255).contains(&partition) {
                errors.push(Error::invalid(
                    at.child("partition"),
                    partition,
                    api::validation::inclusive_range_error(1, 255),
                ));
            }
        }
        "nfs" => {
            for member in ["server", "path"] {
                if body.count(member) == 0 {
                    errors.push(Error::required(at.child(member), ""));
                }
            }
            if !body.text("path").starts_with('/') {
                errors.push(Error::invalid(at.child("path"), body.text("path"), "must be an absolute path"));
            }
        }
        "iscsi" => iscsi(errors, &at, body, of),
        "fc" => fibre_channel(errors, &at, body),
        "quobyte" => quobyte(errors, &at, body),
        "flocker" => flocker(errors, &at, body),
        "glusterfs" if of_volume => {
            if let Some(namespace) = body.at("endpointsNamespace").as_str() {
                let at = at.child("endpointsNamespace");
                if namespace.is_empty() {
                    let text = "if the endpointnamespace is set, it must be a valid namespace name";
                    errors.push(Error::invalid(at, "", text));
                } else {
                    label_name(errors, &at, namespace);
                }
            }
        }
        "cinder" => secret(errors, &at, body, of_volume),
        "flexVolume" => flex_options(errors, &at, body),
        "azureFile" if of_volume => {
            if body.at("secretNamespace").as_str() == Some("") {
                errors.push(Error::required(at.child("secretNamespace"), ""));
            }
        }
        "azureDisk" => azure_disk(errors, &at, body),
        "storageos" => {
            match body.text("volumeName") {
                "" => errors.push(Error::required(at.child("volumeName"), "")),
                name => label_name(errors, &at.child("volumeName"), name),
            }
            match body.text("volumeNamespace") {
                "" => {}
                name => label_name(errors, &at.child("volumeNamespace"), name),
            }
            secret(errors, &at, body, of_volume);
        }
        "local" => match body.text("path") {
            "" => errors.push(Error::required(at.child("path"), "")),
            path => no_backsteps(errors, &at.child("path"), path),
        },
        "csi" if of_volume => csi(errors, &at, body),
        "csi" => {
            csi_driver_name(errors, &at.child("driver"), body.text("driver"));
            if body.has("nodePublishSecretRef") {
                match body.at("nodePublishSecretRef").text("name") {
                    "" => errors.push(Error::required(at.child("nodePublishSecretRef").child("name"), "")),
                    name => subdomain(errors, &at.child("name"), name),
                }
            }
        }
        _ => {}
    }
}

fn host_path(errors: &mut ErrorList, at: &Path, body: &Value) {
    if body.count("path") == 0 {
        errors.push(Error::required(at.child("path"), ""));
        return;
    }
    no_backsteps(errors, &at.child("path"), body.text("path"));
    if !HOST_PATHS.contains(&body.text("type")) {
        errors.push(Error::not_supported(at.child("type"), body.text("type"), HOST_PATHS));
    }
}

/// Whether this is the name of an iSCSI node in one of the three formats.
fn is_iscsi_name(name: &str) -> bool {
    // The expressions are upstream's, which anchors only the end of the first.
    static NAMES: LazyLock<Option<[Regex; 3]>> = LazyLock::new(|| {
        let compile = |text: &str| Regex::new(text).ok();
        Some([
            compile(r"iqn\.\d{4}-\d{2}\.([[:alnum:]\-.]+)(:[^,;*&$|\s]+)$")?,
            compile(r"^eui.[[:alnum:]]{16}$")?,
            compile(r"^naa.[[:alnum:]]{32}$")?,
        ])
    });
    let at = match name.get(..3) {
        Some("iqn") => 0,
        Some("eui") => 1,
        Some("naa") => 2,
        _ => return false,
    };
    NAMES.as_ref().is_some_and(|names| names[at].is_match(name))
}

fn iscsi(errors: &mut ErrorList, at: &Path, body: &Value, of: Of<'_>) {
    let of_volume = of != Of::Pod;
    let portal = body.text("targetPortal");
    if portal.is_empty() {
        errors.push(Error::required(at.child("targetPortal"), ""));
    }
    if let Of::PersistentVolume(name) = of
        && body.has("initiatorName")
        && name.len() + 1 + portal.len() > 64
    {
        let text = "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if \
            iscsi.initiatorName is specified.";
        errors.push(Error::invalid(at.child("targetportal"), portal, text));
    }
    match body.text("iqn") {
        "" => errors.push(Error::required(at.child("iqn"), "")),
        name => iscsi_name(errors, at.child("iqn"), name, of_volume),
    }
    let lun = body.int("lun").unwrap_or_default();
    invalid_number(errors, at.child("lun"), lun);
    let chap = body.flag("chapAuthDiscovery") || body.flag("chapAuthSession");
    if chap && !body.has("secretRef") {
        errors.push(Error::required(at.child("secretRef"), ""));
    }
    if of_volume && body.has("secretRef") && body.at("secretRef").count("name") == 0 {
        errors.push(Error::required(at.child("secretRef").child("name"), ""));
    }
    if let Some(name) = body.at("initiatorName").as_str() {
        iscsi_name(errors, at.child("initiatorname"), name, of_volume);
    }
}

fn iscsi_name(errors: &mut ErrorList, at: Path, name: &str, of_volume: bool) {
    let known = ["iqn", "eui", "naa"].iter().any(|p| name.starts_with(p));
    if !known && !of_volume {
        errors.push(Error::invalid(at, name, "must be valid format starting with iqn, eui, or naa"));
    } else if !is_iscsi_name(name) {
        errors.push(Error::invalid(at, name, "must be valid format"));
    }
}

/// A logical unit's number.
fn invalid_number(errors: &mut ErrorList, at: Path, number: i64) {
    errors.extend(in_range(number, 0, 255).into_iter().map(|text| Error::invalid(at.clone(), number, text)));
}

fn fibre_channel(errors: &mut ErrorList, at: &Path, body: &Value) {
    let (names, ids) = (body.count("targetWWNs"), body.count("wwids"));
    if names == 0 && ids == 0 {
        let text = "must specify either targetWWNs or wwids, but not both";
        errors.push(Error::required(at.child("targetWWNs"), text));
    }
    if names > 0 && ids > 0 {
        let text = "targetWWNs and wwids can not be specified simultaneously";
        errors.push(Error::invalid(at.child("targetWWNs"), body.at("targetWWNs").clone(), text));
    }
    if names > 0 {
        match body.int("lun") {
            None => errors.push(Error::required(at.child("lun"), "lun is required if targetWWNs is specified")),
            Some(lun) => invalid_number(errors, at.child("lun"), lun),
        }
    }
}

fn quobyte(errors: &mut ErrorList, at: &Path, body: &Value) {
    const PAIRS: &str = "must be a host:port pair or multiple pairs separated by commas";
    let registry = body.text("registry");
    if registry.is_empty() {
        errors.push(Error::required(at.child("registry"), PAIRS));
    } else if body.count("tenant") >= 65 {
        let text = "must be a UUID and may not exceed a length of 64 characters";
        errors.push(Error::required(at.child("tenant"), text));
    } else {
        for pair in registry.split(',') {
            if !is_host_port(pair) {
                errors.push(Error::invalid(at.child("registry"), registry, PAIRS));
            }
        }
    }
    if body.count("volume") == 0 {
        errors.push(Error::required(at.child("volume"), ""));
    }
}

/// Whether Go's `net.SplitHostPort` takes it.
fn is_host_port(pair: &str) -> bool {
    let Some((host, port)) = pair.rsplit_once(':') else { return false };
    let inner = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    let plain = inner.unwrap_or(host);
    !port.contains(['[', ']']) && !plain.contains(['[', ']']) && (inner.is_some() || !plain.contains(':'))
}

fn flocker(errors: &mut ErrorList, at: &Path, body: &Value) {
    let (name, id) = (body.text("datasetName"), body.text("datasetUUID"));
    if name.is_empty() && id.is_empty() {
        errors.push(Error::required(at.clone(), "one of datasetName and datasetUUID is required"));
    }
    if !name.is_empty() && !id.is_empty() {
        let text = "datasetName and datasetUUID can not be specified simultaneously";
        errors.push(Error::invalid(at.clone(), "resource", text));
    }
    if name.contains('/') {
        errors.push(Error::invalid(at.child("datasetName"), name, "must not contain '/'"));
    }
}

/// The Secret that a volume names, if it names one.
fn secret(errors: &mut ErrorList, at: &Path, body: &Value, with_namespace: bool) {
    if !body.has("secretRef") {
        return;
    }
    let members: &[&str] = if with_namespace { &["name", "namespace"] } else { &["name"] };
    for member in members {
        if body.at("secretRef").count(member) == 0 {
            errors.push(Error::required(at.child("secretRef").child(member), ""));
        }
    }
}

fn flex_options(errors: &mut ErrorList, at: &Path, body: &Value) {
    for (key, _) in body.entries("options") {
        let domain = format!(".{}", key.split('/').next().unwrap_or_default().to_lowercase());
        if domain.ends_with(".kubernetes.io") || domain.ends_with(".k8s.io") {
            let text = "kubernetes.io and k8s.io namespaces are reserved";
            errors.push(Error::invalid(at.child("options").key(key), key, text));
        }
    }
}

fn azure_disk(errors: &mut ErrorList, at: &Path, body: &Value) {
    for (member, known) in
        [("cachingMode", ["None", "ReadOnly", "ReadWrite"]), ("kind", ["Dedicated", "Managed", "Shared"])]
    {
        crate::checks::one_of_if_set(errors, at.child(member), body.at(member), &known);
    }
    let uri = body.text("diskURI");
    let (start, form) = match body.at("kind").as_str() {
        Some("Managed") => (
            "/subscriptions/",
            "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}",
        ),
        Some(_) => ("https://", "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd"),
        None => return,
    };
    if !uri.starts_with(start) {
        errors.push(Error::not_supported(at.child("diskURI"), uri, &[form]));
    }
}

/// `validateCSIPersistentVolumeSource`.
fn csi(errors: &mut ErrorList, at: &Path, body: &Value) {
    csi_driver_name(errors, &at.child("driver"), body.text("driver"));
    if body.count("volumeHandle") == 0 {
        errors.push(Error::required(at.child("volumeHandle"), ""));
    }
    for member in
        ["controllerPublishSecretRef", "controllerExpandSecretRef", "nodePublishSecretRef", "nodeExpandSecretRef"]
    {
        if !body.has(member) {
            continue;
        }
        let (at, reference) = (at.child(member), body.at(member));
        match reference.text("name") {
            "" => errors.push(Error::required(at.child("name"), "")),
            name => subdomain(errors, &at.child("name"), name),
        }
        match reference.text("namespace") {
            "" => errors.push(Error::required(at.child("namespace"), "")),
            name => label_name(errors, &at.child("namespace"), name),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn bodies_are_checked_as_upstream_does() {
        let check = |of: Of<'_>, kind: &str, body: Value, want: &[&str]| {
            let mut errors = ErrorList::new();
            source(&mut errors, &Path::new("v"), kind, &body, of);
            let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
            assert_eq!(texts, want, "{kind} {body}");
        };
        check(
            Of::Pod,
            "nfs",
            json!({"server": "s", "path": "x"}),
            &["v.nfs.path: Invalid value: \"x\": must be an absolute path"],
        );
        check(Of::Pod, "gcePersistentDisk", json!({}), &["v.persistentDisk.pdName: Required value"]);
        check(
            Of::Pod,
            "iscsi",
            json!({"targetPortal": "p", "iqn": "iqn.2015-02.example.com:test", "lun": 256}),
            &["v.iscsi.lun: Invalid value: 256: must be between 0 and 255, inclusive"],
        );
        check(
            Of::PersistentVolume("v"),
            "iscsi",
            json!({"targetPortal": "p", "iqn": "x", "lun": 1}),
            &["v.iscsi.iqn: Invalid value: \"x\": must be valid format"],
        );
        check(Of::Pod, "quobyte", json!({"registry": "[::1]:2,a:1", "volume": "v"}), &[]);
        check(
            Of::Pod,
            "flexVolume",
            json!({"driver": "d", "options": {"a.K8s.io/x": "y"}}),
            &[
                "v.flexVolume.options[a.K8s.io/x]: Invalid value: \"a.K8s.io/x\": kubernetes.io and k8s.io namespaces are reserved",
            ],
        );
    }
}
