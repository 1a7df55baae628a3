//! ReplicationControllers.

use api::Object;
use api::field::{Error, ErrorList, Path};
use api::kind::Propagation;
use serde_json::{Value, json};

use crate::apps::replica_set;
use crate::checks::non_negative;
use crate::columns::{age, container_images, container_names, field, integer, labels, name, number, wide};
use crate::define::Extra;
use crate::json::{Json, dig, existing, fill};
use crate::podspec::{defaults, validate, warnings};
use crate::rules::Rules;

pub(super) fn extra() -> Extra {
    let rules = Rules {
        default,
        validate: |object| {
            let mut errors = ErrorList::new();
            spec(&mut errors, &Path::new("spec"), object.at("spec"));
            errors
        },
        validate_status: |object, _| {
            let mut errors = ErrorList::new();
            replica_set::status(&mut errors, object);
            errors
        },
        // The core group's controllers leave their pods by default.
        propagation: Propagation::Orphan,
        // Declarative validation looks at the name alone.
        name: |name, prefix| if prefix { Vec::new() } else { api::validation::long_name(name) },
        warnings: |object, old| {
            // Upstream hands over the two templates of a change the wrong way round, so it tells of the old one.
            let Some(old) = old else {
                let mut out = warnings::host_name(object, None);
                out.extend(warnings::template(object, None, &["spec", "template"]));
                return out;
            };
            warnings::template(old, Some(object), &["spec", "template"])
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
        wide("Selector", |o, _| labels(dig(o, &["spec", "selector"]))),
    ];
    Extra::new(rules, columns)
        .with_generation()
        .with_scale(&["spec", "selector"])
        .with_fields(vec![field("status.replicas", |o| number(o, &["status", "replicas"]).to_string())])
}

/// `SetDefaults_ReplicationController`: labels and selector follow the template.
fn default(object: &mut Object) {
    let template = dig(object, &["spec", "template", "metadata", "labels"]).clone();
    if template.as_object().is_some_and(|l| !l.is_empty()) {
        if object.at("spec").count("selector") == 0 {
            object.set(&["spec", "selector"], template.clone());
        }
        if object.at("metadata").count("labels") == 0 {
            object.set(&["metadata", "labels"], template);
        }
    }
    if let Some(spec) = existing(&mut object.0, "spec") {
        fill(spec, "replicas", 1);
        defaults::template(spec, "template");
    }
}

fn spec(errors: &mut ErrorList, at: &Path, spec: &Value) {
    non_negative(errors, at.child("minReadySeconds"), spec.at("minReadySeconds"));
    if spec.count("selector") == 0 {
        errors.push(Error::required(at.child("selector"), ""));
    }
    non_negative(errors, at.child("replicas"), spec.at("replicas"));
    if spec.at("template").is_null() {
        errors.push(Error::required(at.child("template"), ""));
        return;
    }
    let mut as_selector = spec.clone();
    as_selector["selector"] = json!({"matchLabels": spec.at("selector")});
    validate::template_for(errors, &at.child("template"), &as_selector, "ReplicationController");
}
