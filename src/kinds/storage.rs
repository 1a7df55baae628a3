//! `storage.k8s.io`.

mod csi;

use api::Object;
use api::field::{Error, ErrorList, Path};
use serde_json::Value;

use crate::checks::{
    csi_driver_name, driver_name, immutable_hidden, invalid_all, node_name, one_of_if_set, qualified_name, subdomain,
};
use crate::columns::{age, column, name, name_as, string, string_or, text};
use crate::core::volume;
use crate::define::Extra;
use crate::json::{Json, dig};
use crate::rules::Rules;

/// Most parameters of a class (`maxProvisionerParameterLen`), and the most bytes in them.
const PARAMETERS_MAX: usize = 512;
const PARAMETER_BYTES_MAX: usize = 256 * 1024;

/// What is special about a kind of this group.
pub(crate) fn extra(kind: &str) -> Option<Extra> {
    Some(match kind {
        "CSIDriver" => csi::driver(),
        "CSINode" => csi::node(),
        "CSIStorageCapacity" => csi::capacity(),
        "StorageClass" => class(),
        "VolumeAttachment" => attachment(),
        "VolumeAttributesClass" => attributes(),
        _ => return None,
    })
}

fn class() -> Extra {
    let rules = Rules {
        default: |object| {
            for (member, value) in [("reclaimPolicy", "Delete"), ("volumeBindingMode", "Immediate")] {
                // An empty text is not nil, and stays.
                if !object.has(member) {
                    object.0.insert(member.to_owned(), value.into());
                }
            }
        },
        validate: class_rules,
        validate_update: Some(|object, old| {
            let mut errors = class_rules(object);
            for member in ["provisioner", "parameters", "reclaimPolicy", "volumeBindingMode"] {
                immutable_hidden(&mut errors, Path::new(member), object.at(member), old.at(member));
            }
            errors
        }),
        ..Rules::GENERIC
    };
    let columns = vec![
        // Upstream marks only one of several default classes; one object alone cannot tell which.
        name_as(|o, _| if is_default(o) { format!("{} (default)", o.name()).into() } else { o.name().into() }),
        text("Provisioner", |o, _| string(o, &["provisioner"])),
        text("ReclaimPolicy", |o, _| string_or(o, &["reclaimPolicy"], "Delete")),
        text("VolumeBindingMode", |o, _| string_or(o, &["volumeBindingMode"], "Immediate")),
        text("AllowVolumeExpansion", |o, _| o.flag("allowVolumeExpansion").into()),
        age(),
    ];
    Extra::new(rules, columns)
}

fn is_default(object: &Object) -> bool {
    ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"]
        .iter()
        .any(|key| object.annotation(key) == Some("true"))
}

/// `ValidateStorageClass`.
fn class_rules(object: &Object) -> ErrorList {
    let mut errors = ErrorList::new();
    provisioner(&mut errors, &Path::new("provisioner"), object.text("provisioner"));
    parameters(&mut errors, object, true);
    let policy = object.at("reclaimPolicy");
    if policy.as_str() != Some("") {
        one_of_if_set(&mut errors, Path::new("reclaimPolicy"), policy, &["Delete", "Retain"]);
    }
    let modes = &["Immediate", "WaitForFirstConsumer"];
    one_of_if_set(&mut errors, Path::new("volumeBindingMode"), object.at("volumeBindingMode"), modes);
    topologies(&mut errors, &Path::new("allowedTopologies"), object.array(&["allowedTopologies"]));
    errors
}

/// `validateProvisioner`.
fn provisioner(errors: &mut ErrorList, at: &Path, name: &str) {
    if name.is_empty() {
        errors.push(Error::required(at.clone(), ""));
        return;
    }
    let name = name.to_lowercase();
    invalid_all(errors, at, &name, qualified_name(&name));
}

/// `validateParameters`.
fn parameters(errors: &mut ErrorList, object: &Object, may_be_empty: bool) {
    let at = Path::new("parameters");
    if object.count("parameters") > PARAMETERS_MAX {
        errors.push(Error::too_long(at, PARAMETERS_MAX));
        return;
    }
    let mut bytes = 0;
    for (key, value) in object.entries("parameters") {
        if key.is_empty() {
            errors.push(Error::invalid(at.clone(), key, "field can not be empty."));
        }
        bytes += key.len() + value.as_str().unwrap_or_default().len();
    }
    if bytes > PARAMETER_BYTES_MAX {
        errors.push(Error::too_long(at.clone(), PARAMETER_BYTES_MAX));
    }
    if !may_be_empty && object.count("parameters") == 0 {
        errors.push(Error::required(at, "must contain at least one key/value pair"));
    }
}

/// `validateAllowedTopologies`.
fn topologies(errors: &mut ErrorList, at: &Path, terms: &[Value]) {
    let mut seen: Vec<Vec<(&str, Vec<&str>)>> = Vec::new();
    for (i, term) in terms.iter().enumerate() {
        let at = at.index(i).child("matchLabelExpressions");
        let mut known: Vec<(&str, Vec<&str>)> = Vec::new();
        for (j, requirement) in term.list("matchLabelExpressions").iter().enumerate() {
            let (at, key) = (at.index(j), requirement.text("key"));
            let mut values: Vec<&str> = Vec::new();
            if requirement.count("values") == 0 {
                errors.push(Error::required(at.child("values"), ""));
            }
            for (k, value) in requirement.list("values").iter().enumerate() {
                let value = value.as_str().unwrap_or_default();
                if values.contains(&value) {
                    errors.push(Error::duplicate(at.child("values").index(k), value));
                } else {
                    values.push(value);
                }
            }
            invalid_all(errors, &at.child("key"), key, qualified_name(key));
            values.sort_unstable();
            match known.iter_mut().find(|(k, _)| *k == key) {
                Some(entry) => {
                    errors.push(Error::duplicate(at.child("key"), key));
                    entry.1 = values;
                }
                None => known.push((key, values)),
            }
        }
        known.sort();
        // Upstream compares with one empty map for each term, too: a term without requirements is always a duplicate.
        let empty = if known.is_empty() { terms.len() } else { 0 };
        for _ in 0..empty + seen.iter().filter(|s| **s == known).count() {
            errors.push(Error::duplicate(at.clone(), ""));
        }
        seen.push(known);
    }
}

fn attributes() -> Extra {
    fn validate(object: &Object) -> ErrorList {
        let mut errors = ErrorList::new();
        provisioner(&mut errors, &Path::new("driverName"), object.text("driverName"));
        parameters(&mut errors, object, false);
        errors
    }
    let rules = Rules {
        validate,
        validate_update: Some(|object, old| {
            let mut errors = ErrorList::new();
            for member in ["driverName", "parameters"] {
                if !crate::json::same(object.at(member), old.at(member)) {
                    errors.push(Error::forbidden(Path::new(member), format!("updates to {member} are forbidden.")));
                }
            }
            errors.extend(validate(object));
            errors
        }),
        ..Rules::GENERIC
    };
    Extra::new(rules, vec![name(), text("DriverName", |o, _| string(o, &["driverName"])), age()])
}

fn attachment() -> Extra {
    let rules = Rules {
        validate: |object| {
            let mut errors = attached(object);
            // Declarative validation, which only creations go through, speaks last.
            driver_name(&mut errors, &Path::new("spec").child("attacher"), object.at("spec").text("attacher"));
            errors
        },
        validate_update: Some(|object, old| {
            let mut errors = ErrorList::new();
            csi_driver_name(&mut errors, &Path::new("spec").child("attacher"), object.at("spec").text("attacher"));
            errors.extend(attached(object));
            spec_immutable(&mut errors, object, old);
            errors
        }),
        validate_status: |object, old| {
            let mut errors = ErrorList::new();
            csi_driver_name(&mut errors, &Path::new("spec").child("attacher"), object.at("spec").text("attacher"));
            errors.extend(attached(object));
            spec_immutable(&mut errors, object, old);
            errors
        },
        unconditional_update: false,
        ..Rules::GENERIC
    };
    let columns = vec![
        name(),
        column("Attacher", "string", "name", "", 0, |o, _| string(o, &["spec", "attacher"])),
        text("PV", |o, _| string(o, &["spec", "source", "persistentVolumeName"])),
        text("Node", |o, _| string(o, &["spec", "nodeName"])),
        column("Attached", "boolean", "", "", 0, |o, _| {
            dig(o, &["status", "attached"]).as_bool().unwrap_or_default().into()
        }),
        age(),
    ];
    Extra::new(rules, columns)
}

fn spec_immutable(errors: &mut ErrorList, object: &Object, old: &Object) {
    if !crate::printed::equal("storage.VolumeAttachmentSpec", object.at("spec"), old.at("spec")) {
        errors.push(Error::invalid(Path::new("spec"), Value::Null, crate::checks::IMMUTABLE));
    }
}

/// `ValidateVolumeAttachment`, but for the driver's name.
fn attached(object: &Object) -> ErrorList {
    let mut errors = ErrorList::new();
    let (spec, at) = (object.at("spec"), Path::new("spec"));
    let (source, from) = (spec.at("source"), at.child("source"));
    let both = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
    match (source.has("inlineVolumeSpec"), source.has("persistentVolumeName")) {
        (false, false) => errors.push(Error::required(from.clone(), both)),
        (true, true) => errors.push(Error::forbidden(from.clone(), both)),
        (false, true) => {
            if source.count("persistentVolumeName") == 0 {
                let text = "must specify non empty persistentVolumeName";
                errors.push(Error::required(from.child("persistentVolumeName"), text));
            }
        }
        (true, false) => volume::inline(&mut errors, &from.child("inlineVolumeSpec"), source.at("inlineVolumeSpec")),
    }
    node_name(&mut errors, &at.child("nodeName"), spec.text("nodeName"));
    attachment_status(&mut errors, object.at("status"));
    if let Some(name) = source.at("persistentVolumeName").as_str() {
        subdomain(&mut errors, &from.child("persistentVolumeName"), name);
    }
    errors
}

fn attachment_status(errors: &mut ErrorList, status: &Value) {
    const METADATA_MAX: usize = 256 * 1024;
    const MESSAGE_MAX: usize = 1024;
    let at = Path::new("status");
    let bytes: usize =
        status.entries("attachmentMetadata").map(|(k, v)| k.len() + v.as_str().unwrap_or_default().len()).sum();
    if bytes > METADATA_MAX {
        errors.push(Error::too_long(at.child("attachmentMetadata"), METADATA_MAX));
    }
    for member in ["attachError", "detachError"] {
        let (problem, at) = (status.at(member), at.child(member));
        if problem.count("message") > MESSAGE_MAX {
            errors.push(Error::too_long(at.child("message"), MESSAGE_MAX));
        }
        if let Some(code) = problem.int("errorCode")
            && code < 0
        {
            let text = api::validation::inclusive_range_error(0, i64::from(i32::MAX));
            errors.push(Error::invalid(at.child("errorCode"), code, text));
        }
    }
}
