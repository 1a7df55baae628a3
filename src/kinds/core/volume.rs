//! PersistentVolumes.

use api::Object;
use api::field::{Error, ErrorList, Path};
use serde_json::Value;

use crate::checks::{one_of, one_of_if_set, subdomain};
use crate::columns::{age, name, string, string_or, text, wide};
use crate::define::Extra;
use crate::json::{Json, amount, child, dig, existing, fill, restore};
use crate::podspec::affinity::node_selector;
use crate::podspec::volume_source::{self, Of};
use crate::printed::Printed;
use crate::rules::Rules;
use crate::timestamp;

use super::claim::{ACCESS_MODES, access_modes, class};

/// The kinds of volume, in the order that upstream looks for them.
const SOURCES: &[&str] = &[
    "hostPath",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "glusterfs",
    "flocker",
    "nfs",
    "rbd",
    "quobyte",
    "cephfs",
    "iscsi",
    "cinder",
    "fc",
    "flexVolume",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "scaleIO",
    "local",
    "storageos",
    "csi",
];

pub(super) fn extra() -> Extra {
    let rules = Rules {
        default,
        create: |ctx, object| {
            let now = timestamp(ctx.now);
            object.set(&["status"], serde_json::json!({"phase": "Pending", "lastPhaseTransitionTime": now}));
        },
        status_update: |ctx, object, old| {
            let phase = |o: &Object| o.at("status").text("phase").to_owned();
            let (time, before) =
                (object.at("status").at("lastPhaseTransitionTime"), old.at("status").at("lastPhaseTransitionTime"));
            let given = !time.is_null() && time != before;
            if phase(object) != phase(old) && !given {
                object.set(&["status", "lastPhaseTransitionTime"], timestamp(ctx.now));
            } else if phase(object) == phase(old) && !object.at("status").has("lastPhaseTransitionTime") {
                let since = dig(old, &["status", "lastPhaseTransitionTime"]).clone();
                if !since.is_null() {
                    object.set(&["status", "lastPhaseTransitionTime"], since);
                }
            }
        },
        validate,
        validate_update: Some(validate_update),
        warnings: |object, _| warnings(object.at("spec")),
        ..Rules::GENERIC
    };
    let columns = vec![
        name(),
        text("Capacity", |o, _| match o.at("spec").at("capacity").at("storage") {
            Value::Null => "0".into(),
            value => value.clone(),
        }),
        text("Access Modes", |o, _| access_modes(o.at("spec").list("accessModes")).into()),
        text("Reclaim Policy", |o, _| string(o, &["spec", "persistentVolumeReclaimPolicy"])),
        text("Status", |o, _| if o.is_deleting() { "Terminating".into() } else { string(o, &["status", "phase"]) }),
        text("Claim", |o, _| {
            let claim = o.at("spec").at("claimRef");
            if claim.is_null() {
                "".into()
            } else {
                format!("{}/{}", claim.text("namespace"), claim.text("name")).into()
            }
        }),
        text("StorageClass", |o, _| class(o).into()),
        text("VolumeAttributesClass", |o, _| string_or(o, &["spec", "volumeAttributesClassName"], "<unset>")),
        text("Reason", |o, _| string(o, &["status", "reason"])),
        age(),
        wide("VolumeMode", |o, _| string_or(o, &["spec", "volumeMode"], "<unset>")),
    ];
    Extra::new(rules, columns)
}

fn default(object: &mut Object) {
    if let Some(status) = child(&mut object.0, "status") {
        fill(status, "phase", "Pending");
    }
    if let Some(spec) = existing(&mut object.0, "spec") {
        fill(spec, "persistentVolumeReclaimPolicy", "Retain");
        if !spec.has("volumeMode") {
            spec.insert("volumeMode".to_owned(), "Filesystem".into());
        }
        if let Some(path) = existing(spec, "hostPath")
            && !path.has("type")
        {
            path.insert("type".to_owned(), "".into());
        }
    }
}

fn validate(object: &Object) -> ErrorList {
    let mut errors = ErrorList::new();
    spec(&mut errors, &Path::new("spec"), object.at("spec"), Some(object.name()));
    errors
}

/// `ValidatePersistentVolumeSpec` of a volume that is part of another object.
pub(crate) fn inline(errors: &mut ErrorList, at: &Path, body: &Value) {
    spec(errors, at, body, None);
}

/// `ValidatePersistentVolumeSpec`; `name` is the volume's, which one in another object does not have.
fn spec(errors: &mut ErrorList, at: &Path, spec: &Value, name: Option<&str>) {
    const INLINE: &str = "may not be specified in the context of inline volumes";
    let inline = name.is_none();
    if inline {
        for member in ["claimRef", "capacity"] {
            if spec.has(member) {
                errors.push(Error::forbidden(at.child(member), INLINE));
            }
        }
        if !spec.has("csi") {
            errors.push(Error::required(at.child("csi"), "has to be specified in the context of inline volumes"));
        }
    }
    modes(errors, &at.child("accessModes"), spec);
    if !inline {
        capacity(errors, &at.child("capacity"), spec.at("capacity"));
    }
    let policy = spec.text("persistentVolumeReclaimPolicy");
    let policy_at = at.child("persistentVolumeReclaimPolicy");
    if !policy.is_empty() && inline {
        if policy != "Retain" {
            errors.push(Error::forbidden(policy_at.clone(), "may only be Retain in the context of inline volumes"));
        }
    } else if !policy.is_empty() {
        one_of(errors, policy_at.clone(), policy, &["Delete", "Recycle", "Retain"]);
    }
    if spec.has("nodeAffinity") {
        let (required, affinity) = (spec.at("nodeAffinity").at("required"), at.child("nodeAffinity"));
        if inline {
            errors.push(Error::forbidden(affinity, INLINE));
        } else if required.is_null() {
            errors.push(Error::required(affinity.child("required"), "must specify required node constraints"));
        } else {
            node_selector(errors, &affinity.child("required"), required);
        }
    }
    source(errors, at, spec, name.unwrap_or_default());
    if policy == "Recycle" && is_root(spec.at("hostPath").text("path")) {
        errors.push(Error::forbidden(policy_at, "may not be 'recycle' for a hostPath mount of '/'"));
    }
    let class = spec.text("storageClassName");
    if !class.is_empty() && inline {
        errors.push(Error::forbidden(at.child("storageClassName"), INLINE));
    } else if !class.is_empty() {
        subdomain(errors, &at.child("storageClassName"), class);
    }
    if !inline {
        one_of_if_set(errors, at.child("volumeMode"), spec.at("volumeMode"), &["Block", "Filesystem"]);
    } else if spec.has("volumeMode") && spec.text("volumeMode") != "Filesystem" {
        let text = "may not specify volumeMode other than Filesystem in the context of inline volumes";
        errors.push(Error::forbidden(at.child("volumeMode"), text));
    }
    if let Some(class) = spec.at("volumeAttributesClassName").as_str() {
        let class_at = at.child("volumeAttributesClassName");
        if class.is_empty() {
            errors.push(Error::required(class_at, "an empty string is disallowed"));
        } else {
            subdomain(errors, &class_at, class);
        }
        if !spec.has("csi") {
            let text = "has to be specified when using volumeAttributesClassName";
            errors.push(Error::required(at.child("csi"), text));
        }
    }
}

/// Whether Go's `path.Clean` makes `/` of a path.
fn is_root(path: &str) -> bool {
    let mut depth = 0_usize;
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => depth = depth.saturating_sub(1),
            _ => depth += 1,
        }
    }
    path.starts_with('/') && depth == 0
}

fn modes(errors: &mut ErrorList, at: &Path, spec: &Value) {
    if spec.count("accessModes") == 0 {
        errors.push(Error::required(at.clone(), ""));
    }
    let (mut exclusive, mut others) = (false, false);
    for mode in spec.list("accessModes") {
        match mode.as_str().unwrap_or_default() {
            "ReadWriteOncePod" => exclusive = true,
            mode if ACCESS_MODES.contains(&mode) => others = true,
            mode => errors.push(Error::not_supported(at.clone(), mode, ACCESS_MODES)),
        }
    }
    if exclusive && others {
        errors.push(Error::forbidden(at.clone(), "may not use ReadWriteOncePod with other access modes"));
    }
}

fn capacity(errors: &mut ErrorList, at: &Path, capacity: &Value) {
    let known = capacity.as_object().filter(|c| !c.is_empty());
    if known.is_none() {
        errors.push(Error::required(at.clone(), ""));
    }
    if !capacity.has("storage") || known.is_some_and(|c| c.len() > 1) {
        // As Go prints a map: a nil one as null.
        errors.push(Error::not_supported(at.clone(), capacity.clone(), &["storage"]));
    }
    for (name, value) in known.into_iter().flatten() {
        let (at, amount) = (at.key(name), amount(value));
        if amount.sign() < 0 {
            errors.push(Error::invalid(at.clone(), amount.value(), "must be a valid resource quantity"));
        }
        if amount.sign() <= 0 {
            errors.push(Error::invalid(at, value.clone(), "must be greater than zero"));
        }
    }
}

fn source(errors: &mut ErrorList, at: &Path, spec: &Value, name: &str) {
    let mut seen = 0;
    for kind in SOURCES.iter().filter(|kind| spec.has(kind)) {
        seen += 1;
        // Upstream forgets to ask it of flexible volumes.
        if seen > 1 && *kind != "flexVolume" {
            errors.push(Error::forbidden(volume_source::second(at, kind), volume_source::MORE_THAN_ONE));
            continue;
        }
        volume_source::source(errors, at, kind, spec.at(kind), Of::PersistentVolume(name));
        if *kind == "local" && !spec.has("nodeAffinity") {
            errors.push(Error::required(at.child("nodeAffinity"), "Local volume requires node affinity"));
        }
    }
    if seen == 0 {
        errors.push(Error::required(at.clone(), "must specify a volume type"));
    }
}

/// `GetWarningsForPersistentVolume`.
fn warnings(spec: &Value) -> Vec<String> {
    let mut out = Vec::new();
    let at = Path::new("spec");
    if spec.text("persistentVolumeReclaimPolicy") == "Recycle" {
        let text = "The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic \
            provisioning.";
        out.push(format!("{}: {text}", at.child("persistentVolumeReclaimPolicy")));
    }
    let required = at.child("nodeAffinity").child("required").child("nodeSelectorTerms");
    for (i, term) in spec.at("nodeAffinity").at("required").list("nodeSelectorTerms").iter().enumerate() {
        crate::podspec::warnings::node_term(&mut out, &required.index(i), term, false);
    }
    for (member, shown, text) in [
        ("cephfs", "cephfs", "deprecated in v1.28, non-functional in v1.31+"),
        ("photonPersistentDisk", "photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
        ("scaleIO", "scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
        ("storageos", "storageOS", "deprecated in v1.22, non-functional in v1.25+"),
        ("glusterfs", "glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
        ("rbd", "rbd", "deprecated in v1.28, non-functional in v1.31+"),
    ] {
        if spec.has(member) {
            out.push(format!("{}: {text}", at.child(shown)));
        }
    }
    out
}

/// Labels of the beta, with those that took their places.
const STABLE: [(&str, &str); 5] = [
    ("failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone"),
    ("failure-domain.beta.kubernetes.io/region", "topology.kubernetes.io/region"),
    ("beta.kubernetes.io/os", "kubernetes.io/os"),
    ("beta.kubernetes.io/arch", "kubernetes.io/arch"),
    ("beta.kubernetes.io/instance-type", "node.kubernetes.io/instance-type"),
];

/// Whether nothing but keys of the beta changed to stable ones. A key that upstream knows no other for may be emptied:
/// what it finds in its map is an empty text.
fn same_affinity(new: &Value, old: &Value) -> bool {
    let mut old = old.clone();
    let new_terms = new.at("required").list("nodeSelectorTerms");
    let terms = old.get_mut("required").and_then(|r| r.get_mut("nodeSelectorTerms")).and_then(Value::as_array_mut);
    for (term, new) in terms.into_iter().flatten().zip(new_terms) {
        for list in ["matchExpressions", "matchFields"] {
            let requirements = term.get_mut(list).and_then(Value::as_array_mut);
            for (requirement, new) in requirements.into_iter().flatten().zip(new.list(list)) {
                let stable = STABLE.iter().find(|(beta, _)| *beta == requirement.text("key")).map_or("", |(_, ga)| *ga);
                if new.text("key") == stable {
                    requirement["key"] = stable.into();
                }
            }
        }
    }
    crate::printed::equal("*core.VolumeNodeAffinity", new, &old)
}

/// `ValidatePersistentVolumeUpdate`: a volume's source stays.
fn validate_update(object: &Object, old: &Object) -> ErrorList {
    let mut errors = validate(object);
    let (new, before) = (object.at("spec"), old.at("spec"));
    let sources = |spec: &Value| {
        let mut map = serde_json::Map::new();
        for kind in SOURCES {
            restore(&mut map, kind, spec);
        }
        // Where the secret for expansion is may be told later, but not changed.
        if before.has("csi")
            && !before.at("csi").has("controllerExpandSecretRef")
            && let Some(csi) = map.get_mut("csi").and_then(Value::as_object_mut)
        {
            csi.remove("controllerExpandSecretRef");
        }
        Value::Object(map)
    };
    let (source, old_source) = (sources(new), sources(before));
    if !crate::printed::equal("core.PersistentVolumeSource", &source, &old_source) {
        let changes = crate::printed::changes("core.PersistentVolumeSource", &old_source, &source);
        let text = format!("spec.persistentvolumesource is immutable after creation\n{changes}");
        errors.push(Error::forbidden(Path::new("spec").child("persistentvolumesource"), text));
    }
    crate::checks::immutable(&mut errors, Path::new("volumeMode"), new.at("volumeMode"), before.at("volumeMode"));
    if before.has("nodeAffinity") && !same_affinity(new.at("nodeAffinity"), before.at("nodeAffinity")) {
        let text = "field is immutable, except for updating from beta label to GA";
        let error = Error::invalid(Path::new("nodeAffinity"), new.at("nodeAffinity").clone(), text);
        errors.push(error.printed("*core.VolumeNodeAffinity"));
    }
    if before.has("volumeAttributesClassName") && !new.has("volumeAttributesClassName") {
        let at = Path::new("spec").child("volumeAttributesClassName");
        errors.push(Error::forbidden(at, "update from non-nil value to nil is forbidden"));
    }
    errors
}
