//! PersistentVolumes.

use api::Object;
use api::field::{Error, ErrorList, Path};
use serde_json::Value;

use crate::checks::{one_of, one_of_if_set, subdomain};
use crate::columns::{age, name, string, string_or, text, wide};
use crate::define::Extra;
use crate::json::{Json, amount, child, dig, existing, fill, restore, same};
use crate::podspec::affinity::node_selector;
use crate::rules::Rules;
use crate::timestamp;

use super::claim::{ACCESS_MODES, access_modes, class};

/// Kinds of volume and what each cannot do without.
const SOURCES: &[(&str, &[&str])] = &[
    ("hostPath", &["path"]),
    ("gcePersistentDisk", &["pdName"]),
    ("awsElasticBlockStore", &["volumeID"]),
    ("glusterfs", &["endpoints", "path"]),
    ("flocker", &[]),
    ("nfs", &["server", "path"]),
    ("rbd", &["image"]),
    ("quobyte", &["registry", "volume"]),
    ("cephfs", &[]),
    ("iscsi", &["targetPortal", "iqn"]),
    ("cinder", &["volumeID"]),
    ("fc", &[]),
    ("flexVolume", &["driver"]),
    ("azureFile", &["secretName", "shareName"]),
    ("vsphereVolume", &["volumePath"]),
    ("photonPersistentDisk", &["pdID"]),
    ("portworxVolume", &["volumeID"]),
    ("azureDisk", &["diskName", "diskURI"]),
    ("scaleIO", &["gateway", "system", "volumeName"]),
    ("local", &["path"]),
    ("storageos", &[]),
    ("csi", &["driver", "volumeHandle"]),
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
            let given =
                dig(object, &["status", "lastPhaseTransitionTime"]) != dig(old, &["status", "lastPhaseTransitionTime"]);
            if phase(object) != phase(old) && !given {
                object.set(&["status", "lastPhaseTransitionTime"], timestamp(ctx.now));
            }
        },
        validate,
        validate_update: Some(validate_update),
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
        fill(spec, "volumeMode", "Filesystem");
        if let Some(path) = existing(spec, "hostPath")
            && !path.has("type")
        {
            path.insert("type".to_owned(), "".into());
        }
    }
}

/// `ValidatePersistentVolumeSpec`.
fn validate(object: &Object) -> ErrorList {
    let mut errors = ErrorList::new();
    let (spec, at) = (object.at("spec"), Path::new("spec"));
    if spec.count("accessModes") == 0 {
        errors.push(Error::required(at.child("accessModes"), ""));
    }
    let (mut exclusive, mut others) = (false, false);
    for mode in spec.list("accessModes") {
        let mode = mode.as_str().unwrap_or_default();
        match mode {
            "ReadWriteOncePod" => exclusive = true,
            mode if ACCESS_MODES.contains(&mode) => others = true,
            mode => errors.push(Error::not_supported(at.child("accessModes"), mode, ACCESS_MODES)),
        }
    }
    if exclusive && others {
        let text = "may not use ReadWriteOncePod with other access modes";
        errors.push(Error::forbidden(at.child("accessModes"), text));
    }
    let capacity = spec.at("capacity");
    if spec.count("capacity") == 0 {
        errors.push(Error::required(at.child("capacity"), ""));
    }
    if !capacity.has("storage") || spec.count("capacity") > 1 {
        errors.push(Error::not_supported(at.child("capacity"), capacity.clone(), &["storage"]));
    }
    for (name, value) in spec.entries("capacity") {
        let (at, amount) = (at.child("capacity").key(name), amount(value));
        if amount.sign() < 0 {
            errors.push(Error::invalid(at.clone(), amount.value(), "must be a valid resource quantity"));
        }
        if amount.sign() <= 0 {
            errors.push(Error::invalid(at, value.clone(), "must be greater than zero"));
        }
    }
    let policies = &["Delete", "Recycle", "Retain"];
    let policy = spec.text("persistentVolumeReclaimPolicy");
    one_of(&mut errors, at.child("persistentVolumeReclaimPolicy"), policy, policies);
    if spec.has("nodeAffinity") {
        let at = at.child("nodeAffinity").child("required");
        let required = spec.at("nodeAffinity").at("required");
        if required.is_null() {
            errors.push(Error::required(at, "must specify required node constraints"));
        } else {
            node_selector(&mut errors, &at, required);
        }
    }
    source(&mut errors, &at, spec);
    if policy == "Recycle" && spec.at("hostPath").text("path") == "/" {
        let text = "may not be 'recycle' for a hostPath mount of '/'";
        errors.push(Error::forbidden(at.child("persistentVolumeReclaimPolicy"), text));
    }
    let storage_class = spec.text("storageClassName");
    if !storage_class.is_empty() {
        subdomain(&mut errors, &at.child("storageClassName"), storage_class);
    }
    one_of_if_set(&mut errors, at.child("volumeMode"), spec.at("volumeMode"), &["Block", "Filesystem"]);
    errors
}

fn source(errors: &mut ErrorList, at: &Path, spec: &Value) {
    let mut seen = 0;
    for (kind, required) in SOURCES {
        if !spec.has(kind) {
            continue;
        }
        seen += 1;
        if seen > 1 {
            errors.push(Error::forbidden(at.child(kind), "may not specify more than 1 volume type"));
            continue;
        }
        for member in *required {
            if spec.at(kind).count(member) == 0 {
                errors.push(Error::required(at.child(kind).child(member), ""));
            }
        }
        if *kind == "local" && !spec.has("nodeAffinity") {
            let text = "Local volume requires node affinity";
            errors.push(Error::required(at.child("nodeAffinity"), text));
        }
    }
    if seen == 0 {
        errors.push(Error::required(at.clone(), "must specify a volume type"));
    }
}

/// `ValidatePersistentVolumeUpdate`: a volume's source stays.
fn validate_update(object: &Object, old: &Object) -> ErrorList {
    let mut errors = validate(object);
    let (new, before) = (object.at("spec"), old.at("spec"));
    let sources = |spec: &Value| {
        let mut map = serde_json::Map::new();
        for (kind, _) in SOURCES {
            restore(&mut map, kind, spec);
        }
        if let Some(csi) = map.get_mut("csi").and_then(Value::as_object_mut) {
            // Where secrets for expansion are may be told later.
            csi.remove("controllerExpandSecretRef");
            csi.remove("nodeExpandSecretRef");
        }
        Value::Object(map)
    };
    if !same(&sources(new), &sources(before)) {
        let text = "spec.persistentvolumesource is immutable after creation";
        errors.push(Error::forbidden(Path::new("spec").child("persistentvolumesource"), text));
    }
    crate::checks::immutable(
        &mut errors,
        Path::new("spec").child("volumeMode"),
        new.at("volumeMode"),
        before.at("volumeMode"),
    );
    errors
}
