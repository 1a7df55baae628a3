//! Deployments.

use api::Object;
use api::field::{Error, ErrorList, Path};
use serde_json::Value;

use crate::checks::{
    at_most_100_percent, count_or_percent, immutable_as, int_or_percent, non_negative, not_decremented,
};
use crate::columns::{age, container_images, container_names, name, number, selector_text, text, wide};
use crate::define::Extra;
use crate::json::{Json, absent, child, dig, existing, fill, same};
use crate::podspec::{defaults, validate, warnings};
use crate::printed::{LABEL_SELECTOR, Printed};
use crate::rules::Rules;

pub(super) fn extra() -> Extra {
    let rules = Rules {
        default,
        // Annotations count too: they come to the replica sets.
        update: |_, object, old| {
            if !same(object.at("metadata").at("annotations"), old.at("metadata").at("annotations")) {
                object.set(&["metadata", "generation"], old.generation() + 1);
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
        validate_status: |object, old| {
            let mut errors = ErrorList::new();
            counts(&mut errors, object);
            not_decremented(&mut errors, object, old);
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
        text("Ready", |o, _| {
            let count = |path: &[&str]| dig(o, path).as_i64().unwrap_or_default();
            format!("{}/{}", count(&["status", "readyReplicas"]), count(&["spec", "replicas"])).into()
        }),
        text("Up-to-date", |o, _| number(o, &["status", "updatedReplicas"])),
        text("Available", |o, _| number(o, &["status", "availableReplicas"])),
        age(),
        wide("Containers", |o, _| container_names(dig(o, &["spec", "template", "spec"]))),
        wide("Images", |o, _| container_images(dig(o, &["spec", "template", "spec"]))),
        wide("Selector", |o, _| selector_text(dig(o, &["spec", "selector"])).into()),
    ];
    Extra::new(rules, columns).with_generation().with_scale(&["spec", "selector"])
}

/// `SetDefaults_Deployment`.
fn default(object: &mut Object) {
    let Some(spec) = existing(&mut object.0, "spec") else { return };
    fill(spec, "replicas", 1);
    if let Some(strategy) = child(spec, "strategy") {
        fill(strategy, "type", "RollingUpdate");
        if strategy.text("type") == "RollingUpdate"
            && let Some(rolling) = child(strategy, "rollingUpdate")
        {
            absent(rolling, "maxUnavailable", "25%");
            absent(rolling, "maxSurge", "25%");
        }
    }
    fill(spec, "revisionHistoryLimit", 10);
    fill(spec, "progressDeadlineSeconds", 600);
    defaults::template(spec, "template");
}

fn spec(errors: &mut ErrorList, at: &Path, spec: &Value) {
    non_negative(errors, at.child("replicas"), spec.at("replicas"));
    validate::selector_and_template(errors, at, spec);
    strategy(errors, &at.child("strategy"), spec.at("strategy"));
    non_negative(errors, at.child("minReadySeconds"), spec.at("minReadySeconds"));
    non_negative(errors, at.child("revisionHistoryLimit"), spec.at("revisionHistoryLimit"));
    if let Some(deadline) = spec.int("progressDeadlineSeconds") {
        let at = at.child("progressDeadlineSeconds");
        non_negative(errors, at.clone(), spec.at("progressDeadlineSeconds"));
        if deadline <= spec.int("minReadySeconds").unwrap_or_default() {
            errors.push(Error::invalid(at, deadline, "must be greater than minReadySeconds"));
        }
    }
}

fn strategy(errors: &mut ErrorList, at: &Path, strategy: &Value) {
    let rolling = strategy.at("rollingUpdate");
    match strategy.text("type") {
        "Recreate" => {
            if !rolling.is_null() {
                let text = "may not be specified when strategy `type` is 'Recreate'";
                errors.push(Error::forbidden(at.child("rollingUpdate"), text));
            }
        }
        "RollingUpdate" if rolling.is_null() => {
            let text = "this should be defaulted and never be nil";
            errors.push(Error::required(at.child("rollingUpdate"), text));
        }
        "RollingUpdate" => {
            let at = at.child("rollingUpdate");
            for member in ["maxUnavailable", "maxSurge"] {
                int_or_percent(errors, at.child(member), rolling.at(member));
            }
            let none = |member: &str| count_or_percent(rolling.at(member)) == 0;
            if none("maxUnavailable") && none("maxSurge") {
                let value = rolling.at("maxUnavailable").clone();
                let text = "may not be 0 when `maxSurge` is 0";
                errors.push(Error::invalid(at.child("maxUnavailable"), value, text));
            }
            at_most_100_percent(errors, at.child("maxUnavailable"), rolling.at("maxUnavailable"));
        }
        "" => errors.push(Error::required(at.child("type"), "")),
        _ => {
            let supported = &["Recreate", "RollingUpdate"];
            errors
                .push(Error::not_supported(at.clone(), strategy.clone(), supported).printed("apps.DeploymentStrategy"));
        }
    }
}

/// Counts in a status (`ValidateDeploymentStatus`).
fn counts(errors: &mut ErrorList, object: &Object) {
    let (status, at) = (object.at("status"), Path::new("status"));
    for member in [
        "observedGeneration",
        "replicas",
        "updatedReplicas",
        "readyReplicas",
        "availableReplicas",
        "unavailableReplicas",
        "collisionCount",
        "terminatingReplicas",
    ] {
        non_negative(errors, at.child(member), status.at(member));
    }
    let count = |member: &str| status.int(member).unwrap_or_default();
    let mut more = |member: &str, than: &str| {
        if count(member) > count(than) {
            let text = format!("cannot be greater than {}", if than == "replicas" { "status.replicas" } else { than });
            errors.push(Error::invalid(at.child(member), count(member), text));
        }
    };
    more("updatedReplicas", "replicas");
    more("readyReplicas", "replicas");
    more("availableReplicas", "replicas");
    more("availableReplicas", "readyReplicas");
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn deployment(spec: Value) -> Object {
        let mut object = Object::from_value(json!({"metadata": {"name": "d"}, "spec": spec})).unwrap();
        default(&mut object);
        object
    }

    #[test]
    fn problems_read_as_upstream() {
        let check = |value: Value, want: &[&str]| {
            let mut errors = ErrorList::new();
            spec(&mut errors, &Path::new("spec"), deployment(value).at("spec"));
            let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
            assert_eq!(texts, want);
        };
        let template =
            json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
        check(json!({"selector": {"matchLabels": {"a": "b"}}, "template": template}), &[]);
        check(
            json!({"selector": {"matchLabels": {"a": "c"}}, "template": template}),
            &[
                "spec.template.metadata.labels: Invalid value: {\"a\":\"b\"}: `selector` does not match template `labels`",
            ],
        );
        check(
            json!({"template": template}),
            &[
                "spec.selector: Required value",
                "spec.template.metadata.labels: Invalid value: {\"a\":\"b\"}: `selector` does not match template `labels`",
            ],
        );
        check(
            json!({"selector": {"matchLabels": {"a": "b"}}, "template": template,
                "strategy": {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": "0%"}}}),
            &["spec.strategy.rollingUpdate.maxUnavailable: Invalid value: \"0%\": may not be 0 when `maxSurge` is 0"],
        );
    }

    #[test]
    fn defaults_are_upstreams() {
        let object = deployment(json!({"template": {"spec": {}}}));
        assert_eq!(object.i64(&["spec", "replicas"]), Some(1));
        assert_eq!(
            *dig(&object, &["spec", "strategy"]),
            json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}})
        );
        assert_eq!(object.str(&["spec", "template", "spec", "restartPolicy"]), Some("Always"));
    }
}
