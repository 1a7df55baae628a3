//! `storage.k8s.io`.

use api::Object;
use api::field::{Error, ErrorList, Path};
use serde_json::Value;

use crate::checks::{immutable, one_of_if_set, subdomain};
use crate::columns::{age, column, generic, integer, name, name_as, string, string_or, text};
use crate::define::Extra;
use crate::json::{Json, dig, existing, fill};
use crate::rules::Rules;

/// What is special about a kind of this group.
pub(crate) fn extra(kind: &str) -> Option<Extra> {
    Some(match kind {
        "CSIDriver" => driver(),
        "CSINode" => {
            let rules = Rules { unconditional_update: false, ..Rules::GENERIC };
            Extra::new(rules, vec![name(), integer("Drivers", |o, _| o.at("spec").count("drivers").into()), age()])
        }
        "CSIStorageCapacity" => {
            let rules = Rules { unconditional_update: false, ..Rules::GENERIC };
            // Upstream has a printer for it that its store does not use.
            Extra::new(rules, generic())
        }
        "StorageClass" => class(),
        "VolumeAttachment" => attachment(),
        "VolumeAttributesClass" => {
            let rules = Rules {
                validate: |object| {
                    let mut errors = ErrorList::new();
                    subdomain(&mut errors, &Path::new("driverName"), object.text("driverName"));
                    errors
                },
                validate_update: Some(|object, old| {
                    let mut errors = ErrorList::new();
                    for member in ["driverName", "parameters"] {
                        immutable(&mut errors, Path::new(member), object.at(member), old.at(member));
                    }
                    errors
                }),
                ..Rules::GENERIC
            };
            Extra::new(rules, vec![name(), text("DriverName", |o, _| string(o, &["driverName"])), age()])
        }
        _ => return None,
    })
}

fn class() -> Extra {
    let rules = Rules {
        default: |object| {
            fill(&mut object.0, "reclaimPolicy", "Delete");
            fill(&mut object.0, "volumeBindingMode", "Immediate");
        },
        validate: |object| {
            let mut errors = ErrorList::new();
            if object.count("provisioner") == 0 {
                errors.push(Error::required(Path::new("provisioner"), ""));
            }
            one_of_if_set(&mut errors, Path::new("reclaimPolicy"), object.at("reclaimPolicy"), &["Delete", "Retain"]);
            one_of_if_set(
                &mut errors,
                Path::new("volumeBindingMode"),
                object.at("volumeBindingMode"),
                &["Immediate", "WaitForFirstConsumer"],
            );
            errors
        },
        validate_update: Some(|object, old| {
            let mut errors = ErrorList::new();
            let changed = |member: &str| !crate::json::same(object.at(member), old.at(member));
            if changed("parameters") {
                errors.push(Error::forbidden(Path::new("parameters"), "updates to parameters are forbidden."));
            }
            if changed("provisioner") {
                errors.push(Error::forbidden(Path::new("provisioner"), "updates to provisioner are forbidden."));
            }
            if changed("reclaimPolicy") {
                errors.push(Error::forbidden(Path::new("reclaimPolicy"), "updates to reclaimPolicy are forbidden."));
            }
            immutable(
                &mut errors,
                Path::new("volumeBindingMode"),
                object.at("volumeBindingMode"),
                old.at("volumeBindingMode"),
            );
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

fn driver() -> Extra {
    let rules = Rules {
        default: |object| {
            let Some(spec) = existing(&mut object.0, "spec") else { return };
            fill(spec, "attachRequired", true);
            for member in ["podInfoOnMount", "storageCapacity", "requiresRepublish", "seLinuxMount"] {
                fill(spec, member, false);
            }
            fill(spec, "preventPodSchedulingIfMissing", false);
            fill(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
            if spec.count("volumeLifecycleModes") == 0 {
                spec.insert("volumeLifecycleModes".to_owned(), vec![Value::from("Persistent")].into());
            }
        },
        validate: |object| {
            let mut errors = ErrorList::new();
            let at = Path::new("spec");
            one_of_if_set(
                &mut errors,
                at.child("fsGroupPolicy"),
                object.at("spec").at("fsGroupPolicy"),
                &["ReadWriteOnceWithFSType", "File", "None"],
            );
            for mode in object.array(&["spec", "volumeLifecycleModes"]) {
                let supported = &["Persistent", "Ephemeral"];
                one_of_if_set(&mut errors, at.child("volumeLifecycleModes"), mode, supported);
            }
            errors
        },
        validate_update: Some(|object, old| {
            let mut errors = ErrorList::new();
            for member in ["attachRequired", "volumeLifecycleModes"] {
                let at = Path::new("spec").child(member);
                immutable(&mut errors, at, object.at("spec").at(member), old.at("spec").at(member));
            }
            errors
        }),
        unconditional_update: false,
        ..Rules::GENERIC
    };
    fn flag(object: &Object, member: &str, otherwise: bool) -> Value {
        object.at("spec").at(member).as_bool().unwrap_or(otherwise).into()
    }
    let columns = vec![
        name(),
        column("AttachRequired", "boolean", "", "", 0, |o, _| flag(o, "attachRequired", true)),
        column("PodInfoOnMount", "boolean", "", "", 0, |o, _| flag(o, "podInfoOnMount", false)),
        column("StorageCapacity", "boolean", "", "", 0, |o, _| flag(o, "storageCapacity", false)),
        text("TokenRequests", |o, _| {
            if !o.at("spec").has("tokenRequests") {
                return "<unset>".into();
            }
            let audiences = o.array(&["spec", "tokenRequests"]).iter().map(|t| t.text("audience"));
            audiences.collect::<Vec<_>>().join(",").into()
        }),
        column("RequiresRepublish", "boolean", "", "", 0, |o, _| flag(o, "requiresRepublish", false)),
        text("Modes", |o, _| {
            let modes = o.array(&["spec", "volumeLifecycleModes"]).iter().filter_map(Value::as_str);
            let text = modes.collect::<Vec<_>>().join(",");
            if text.is_empty() { "<none>".into() } else { text.into() }
        }),
        age(),
    ];
    Extra::new(rules, columns)
}

fn attachment() -> Extra {
    let rules = Rules {
        validate_update: Some(|object, old| {
            let mut errors = ErrorList::new();
            immutable(&mut errors, Path::new("spec"), object.at("spec"), old.at("spec"));
            errors
        }),
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
