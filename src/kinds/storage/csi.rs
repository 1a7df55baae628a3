//! `storage.k8s.io`: what CSI drivers tell of themselves, of nodes and of free space.

use api::Object;
use api::field::{Error, ErrorList, Path};
use serde_json::Value;

use crate::checks::{
    csi_driver_name, immutable, immutable_as, invalid_all, label_selector, non_negative, one_of_if_set,
};
use crate::checks::{qualified_name, subdomain};
use crate::columns::{age, column, generic, integer, name, text};
use crate::define::Extra;
use crate::json::{Json, amount, existing, fill, same};
use crate::printed::{LABEL_SELECTOR, Printed};
use crate::rules::Rules;

const NO_SECRETS: &str = "spec.serviceAccountTokenInSecrets is unset; if supported by this CSI driver, set to true to \
    prevent possible logging of tokens in volume attributes";

/// `CSIDriver`.
pub(super) fn driver() -> Extra {
    let rules = Rules {
        default: |object| {
            let Some(spec) = existing(&mut object.0, "spec") else { return };
            fill(spec, "attachRequired", true);
            for member in ["podInfoOnMount", "storageCapacity", "requiresRepublish", "seLinuxMount"] {
                fill(spec, member, false);
            }
            fill(spec, "preventPodSchedulingIfMissing", false);
            if !spec.has("fsGroupPolicy") {
                spec.insert("fsGroupPolicy".to_owned(), "ReadWriteOnceWithFSType".into());
            }
            if spec.count("volumeLifecycleModes") == 0 {
                spec.insert("volumeLifecycleModes".to_owned(), vec![Value::from("Persistent")].into());
            }
        },
        validate: |object| driver_spec(object.at("spec")),
        validate_update: Some(|object, old| {
            let (spec, before, at) = (object.at("spec"), old.at("spec"), Path::new("spec"));
            let mut errors = driver_spec(spec);
            for (member, shown) in
                [("attachRequired", "attachedRequired"), ("volumeLifecycleModes", "volumeLifecycleModes")]
            {
                immutable(&mut errors, at.child(shown), spec.at(member), before.at(member));
            }
            errors
        }),
        warnings: |object, old| {
            let (spec, before) = (object.at("spec"), old.map(|o| o.at("spec").at("tokenRequests")));
            let changed = before.is_none_or(|before| !same(before, spec.at("tokenRequests")));
            let warn = changed && spec.count("tokenRequests") > 0 && !spec.has("serviceAccountTokenInSecrets");
            if warn { vec![NO_SECRETS.to_owned()] } else { Vec::new() }
        },
        // Not from creation on, but with the first change.
        update: |_, object, old| {
            let generation = old.generation() + i64::from(!same(object.at("spec"), old.at("spec")));
            if generation > 0 {
                object.set(&["metadata", "generation"], generation);
            }
        },
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

/// `validateCSIDriverSpec`.
fn driver_spec(spec: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let at = Path::new("spec");
    let policies = &["File", "None", "ReadWriteOnceWithFSType"];
    one_of_if_set(&mut errors, at.child("fsGroupPolicy"), spec.at("fsGroupPolicy"), policies);
    let mut audiences: Vec<&str> = Vec::new();
    for (i, request) in spec.list("tokenRequests").iter().enumerate() {
        let (at, audience) = (at.child("tokenRequests").index(i), request.text("audience"));
        if audiences.contains(&audience) {
            errors.push(Error::duplicate(at.child("audience"), audience));
            continue;
        }
        audiences.push(audience);
        let at = at.child("expirationSeconds");
        match request.int("expirationSeconds") {
            Some(seconds) if seconds < 600 => {
                errors.push(Error::invalid(at, seconds, "may not specify a duration less than 10 minutes"));
            }
            Some(seconds) if seconds > 1 << 32 => {
                errors.push(Error::invalid(at, seconds, "may not specify a duration larger than 2^32 seconds"));
            }
            _ => {}
        }
    }
    for mode in spec.list("volumeLifecycleModes") {
        one_of_if_set(&mut errors, at.child("volumeLifecycleModes"), mode, &["Persistent", "Ephemeral"]);
    }
    if let Some(seconds) = spec.int("nodeAllocatableUpdatePeriodSeconds")
        && seconds < 10
    {
        let at = at.child("nodeAllocatableUpdatePeriodSeconds");
        errors.push(Error::invalid(at, seconds, "must be greater than or equal to 10 seconds"));
    }
    if spec.has("serviceAccountTokenInSecrets") && spec.count("tokenRequests") == 0 {
        let at = at.child("serviceAccountTokenInSecrets");
        let text = "serviceAccountTokenInSecrets is set but no tokenRequests are specified";
        errors.push(Error::invalid(at, spec.at("serviceAccountTokenInSecrets").clone(), text));
    }
    errors
}

/// `CSINode`.
pub(super) fn node() -> Extra {
    let rules = Rules {
        validate: |object| node_spec(object.at("spec")),
        validate_update: Some(|object, old| {
            let mut errors = node_spec(object.at("spec"));
            let at = Path::new("spec").child("drivers");
            for before in old.at("spec").list("drivers") {
                for driver in object.at("spec").list("drivers") {
                    let changed = ["name", "nodeID", "topologyKeys"].iter().any(|m| !same(driver.at(m), before.at(m)));
                    if driver.text("name") == before.text("name") && changed {
                        let mut fixed = driver.clone();
                        if let Some(fixed) = fixed.as_object_mut() {
                            // What may change is left out of the comparison and its text.
                            fixed.remove("allocatable");
                        }
                        let error = Error::invalid(at.clone(), fixed, crate::checks::IMMUTABLE);
                        errors.push(error.printed("storage.CSINodeDriver"));
                    }
                }
            }
            errors
        }),
        // `CSIVolumeHealth` is off (`dropDisabledCSINodeFields`).
        status_update: |_, object, old| {
            if old.at("status").count("storageHealth") == 0 {
                object.remove(&["status", "storageHealth"]);
            }
        },
        unconditional_update: false,
        ..Rules::GENERIC
    };
    Extra::new(rules, vec![name(), integer("Drivers", |o, _| o.at("spec").count("drivers").into()), age()])
}

/// `validateCSINodeDrivers`.
fn node_spec(spec: &Value) -> ErrorList {
    const NODE_ID_MAX: usize = 256;
    let mut errors = ErrorList::new();
    let mut names: Vec<&str> = Vec::new();
    for (i, driver) in spec.list("drivers").iter().enumerate() {
        let (at, name, id) = (Path::new("spec").child("drivers").index(i), driver.text("name"), driver.text("nodeID"));
        csi_driver_name(&mut errors, &at.child("name"), name);
        if id.is_empty() {
            errors.push(Error::required(at.child("nodeID"), ""));
        }
        if id.len() > NODE_ID_MAX {
            errors.push(Error::invalid(at.child("nodeID"), id, format!("must be {NODE_ID_MAX} characters or less")));
        }
        non_negative(&mut errors, at.child("allocatable").child("count"), driver.at("allocatable").at("count"));
        if names.contains(&name) {
            errors.push(Error::duplicate(at.child("name"), name));
        }
        names.push(name);
        let mut keys: Vec<&str> = Vec::new();
        for key in driver.list("topologyKeys") {
            let key = key.as_str().unwrap_or_default();
            if key.is_empty() {
                errors.push(Error::required(at.clone(), key));
            }
            if keys.contains(&key) {
                errors.push(Error::duplicate(at.clone(), key));
            }
            keys.push(key);
            invalid_all(&mut errors, &at, key, qualified_name(key));
        }
    }
    errors
}

/// `ValidateCSIStorageCapacity`.
fn free_space(object: &Object) -> ErrorList {
    let mut errors = ErrorList::new();
    label_selector(&mut errors, &Path::new("nodeTopology"), object.at("nodeTopology"));
    subdomain(&mut errors, &Path::new("storageClassName"), object.text("storageClassName"));
    let size = object.at("capacity");
    if amount(size).sign() < 0 {
        errors.push(Error::invalid(Path::new("capacity"), size.clone(), "must be greater than or equal to 0"));
    }
    errors
}

/// `CSIStorageCapacity`. Upstream has a printer for it that its store does not use.
pub(super) fn capacity() -> Extra {
    let rules = Rules {
        validate: free_space,
        validate_update: Some(|object, old| {
            let mut errors = free_space(object);
            for (member, ty) in [("nodeTopology", LABEL_SELECTOR), ("storageClassName", "string")] {
                immutable_as(&mut errors, Path::new(member), ty, object.at(member), old.at(member));
            }
            errors
        }),
        unconditional_update: false,
        ..Rules::GENERIC
    };
    Extra::new(rules, generic())
}
