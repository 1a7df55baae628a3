//! ReplicaSets.

use api::Object;
use api::field::{Error, ErrorList, Path};
use serde_json::Value;

use crate::checks::{immutable_as, is_selector, label_selector, non_negative, selects_everything};
use crate::columns::{age, container_images, container_names, integer, name, number, selector, wide};
use crate::define::Extra;
use crate::json::{Json, dig, existing, fill};
use crate::podspec::{defaults, validate, warnings};
use crate::printed::{LABEL_SELECTOR, Printed};
use crate::rules::Rules;

pub(super) fn extra() -> Extra {
    let rules = Rules {
        default: |object| {
            if let Some(spec) = existing(&mut object.0, "spec") {
                fill(spec, "replicas", 1);
                defaults::template(spec, "template");
            }
        },
        validate: |object| {
            let mut errors = ErrorList::new();
            spec(&mut errors, &Path::new("spec"), object.at("spec"));
            errors
        },
        validate_update: Some(|object, old| {
            let mut errors = ErrorList::new();
            let at = Path::new("spec");
            spec(&mut errors, &at, object.at("spec"));
            immutable_as(
                &mut errors,
                at.child("selector"),
                LABEL_SELECTOR,
                dig(object, &["spec", "selector"]),
                dig(old, &["spec", "selector"]),
            );
            errors
        }),
        validate_status: |object, _| {
            let mut errors = ErrorList::new();
            status(&mut errors, object);
            errors
        },
        warnings: |object, old| {
            let mut out = warnings::host_name(object, old);
            out.extend(warnings::template(object, old, &["spec", "template"]));
            out
        },
        ..Rules::GENERIC
    };
    let columns = vec![
        name(),
        integer("Desired", |o, _| number(o, &["spec", "replicas"])),
        integer("Current", |o, _| number(o, &["status", "replicas"])),
        integer("Ready", |o, _| number(o, &["status", "readyReplicas"])),
        age(),
        wide("Containers", |o, _| container_names(dig(o, &["spec", "template", "spec"]))),
        wide("Images", |o, _| container_images(dig(o, &["spec", "template", "spec"]))),
        wide("Selector", |o, _| selector(dig(o, &["spec", "selector"]))),
    ];
    Extra::new(rules, columns).with_generation().with_scale(&["spec", "selector"])
}

fn spec(errors: &mut ErrorList, at: &Path, spec: &Value) {
    non_negative(errors, at.child("replicas"), spec.at("replicas"));
    non_negative(errors, at.child("minReadySeconds"), spec.at("minReadySeconds"));
    let selector = spec.at("selector");
    if selector.is_null() {
        errors.push(Error::required(at.child("selector"), ""));
    } else {
        label_selector(errors, &at.child("selector"), selector);
        if selects_everything(selector) {
            let text = "empty selector is invalid for deployment";
            errors.push(Error::invalid(at.child("selector"), selector.clone(), text).printed(LABEL_SELECTOR));
        }
    }
    if is_selector(selector) {
        validate::template_for(errors, &at.child("template"), spec, "ReplicaSet");
    } else {
        let error = Error::invalid(at.child("selector"), selector.clone(), "invalid label selector");
        errors.push(error.printed(LABEL_SELECTOR));
    }
}

/// `ValidateReplicaSetStatus`, the same for ReplicationControllers.
pub(crate) fn status(errors: &mut ErrorList, object: &Object) {
    let (status, at) = (object.at("status"), Path::new("status"));
    for member in [
        "replicas",
        "fullyLabeledReplicas",
        "readyReplicas",
        "availableReplicas",
        "terminatingReplicas",
        "observedGeneration",
    ] {
        non_negative(errors, at.child(member), status.at(member));
    }
    let count = |member: &str| status.int(member).unwrap_or_default();
    for (member, than) in [
        ("fullyLabeledReplicas", "replicas"),
        ("readyReplicas", "replicas"),
        ("availableReplicas", "replicas"),
        ("availableReplicas", "readyReplicas"),
    ] {
        if count(member) > count(than) {
            let text = format!("cannot be greater than {}", if than == "replicas" { "status.replicas" } else { than });
            errors.push(Error::invalid(at.child(member), count(member), text));
        }
    }
}
