//! DaemonSets.

use std::num::IntErrorKind;

use api::Object;
use api::field::{Error, ErrorList, Path};
use serde_json::Value;

use crate::checks::{
    at_most_100_percent, count_or_percent, immutable_as, int_or_percent, is_selector, label_selector, non_negative,
    not_decremented, selector_matches, selects_everything,
};
use crate::columns::{age, container_images, container_names, integer, labels, name, number, selector, text, wide};
use crate::define::Extra;
use crate::json::{Json, absent, child, dig, existing, fill};
use crate::podspec::{defaults, validate, warnings};
use crate::printed::{LABEL_SELECTOR, Printed};
use crate::rules::Rules;

/// Where apps/v1 keeps what older versions had as `spec.templateGeneration`.
const GENERATION: &str = "deprecated.daemonset.template.generation";

/// `Convert_v1_DaemonSet_To_apps_DaemonSet` reads the annotation into a field.
fn unconvertible(object: &Object) -> Option<String> {
    let text = object.annotation(GENERATION)?;
    let why = match text.parse::<i64>().err()?.kind() {
        IntErrorKind::PosOverflow | IntErrorKind::NegOverflow => "value out of range",
        _ => "invalid syntax",
    };
    Some(format!("strconv.ParseInt: parsing {text:?}: {why}"))
}

pub(super) fn extra() -> Extra {
    let rules = Rules {
        default,
        hidden_annotations: &[GENERATION],
        unconvertible,
        create: |_, object| {
            let given = object.annotation(GENERATION).and_then(|g| g.parse::<i64>().ok()).unwrap_or_default();
            object.set(&["metadata", "annotations", GENERATION], given.max(1).to_string());
        },
        update: |_, object, old| {
            let before = old.annotation(GENERATION).and_then(|g| g.parse::<i64>().ok()).unwrap_or_default();
            let (new, before_it) = (dig(object, &["spec", "template"]), dig(old, &["spec", "template"]));
            let changed = !crate::printed::equal("core.PodTemplateSpec", new, before_it);
            object.set(&["metadata", "annotations", GENERATION], (before + i64::from(changed)).to_string());
        },
        validate: |object| {
            let mut errors = ErrorList::new();
            spec(&mut errors, &Path::new("spec"), object.at("spec"));
            errors
        },
        validate_update: Some(|object, old| {
            let mut errors = ErrorList::new();
            let at = Path::new("spec");
            immutable_as(
                &mut errors,
                at.child("selector"),
                LABEL_SELECTOR,
                dig(object, &["spec", "selector"]),
                dig(old, &["spec", "selector"]),
            );
            spec(&mut errors, &at, object.at("spec"));
            errors
        }),
        validate_status: |object, old| {
            let mut errors = ErrorList::new();
            for member in [
                "currentNumberScheduled",
                "numberMisscheduled",
                "desiredNumberScheduled",
                "numberReady",
                "observedGeneration",
                "updatedNumberScheduled",
                "numberAvailable",
                "numberUnavailable",
                "collisionCount",
            ] {
                non_negative(&mut errors, Path::new("status").child(member), object.at("status").at(member));
            }
            not_decremented(&mut errors, object, old);
            errors
        },
        warnings: |object, old| warnings::template(object, old, &["spec", "template"]),
        ..Rules::GENERIC
    };
    let columns = vec![
        name(),
        integer("Desired", |o, _| number(o, &["status", "desiredNumberScheduled"])),
        integer("Current", |o, _| number(o, &["status", "currentNumberScheduled"])),
        integer("Ready", |o, _| number(o, &["status", "numberReady"])),
        integer("Up-to-date", |o, _| number(o, &["status", "updatedNumberScheduled"])),
        integer("Available", |o, _| number(o, &["status", "numberAvailable"])),
        text("Node Selector", |o, _| labels(dig(o, &["spec", "template", "spec", "nodeSelector"]))),
        age(),
        wide("Containers", |o, _| container_names(dig(o, &["spec", "template", "spec"]))),
        wide("Images", |o, _| container_images(dig(o, &["spec", "template", "spec"]))),
        wide("Selector", |o, _| selector(dig(o, &["spec", "selector"]))),
    ];
    Extra::new(rules, columns).with_generation()
}

/// `SetDefaults_DaemonSet`, and the annotation that the conversion from apps/v1 always makes.
fn default(object: &mut Object) {
    if object.annotation(GENERATION).is_none() {
        object.set(&["metadata", "annotations", GENERATION], "0");
    }
    let Some(spec) = existing(&mut object.0, "spec") else { return };
    if let Some(strategy) = child(spec, "updateStrategy") {
        fill(strategy, "type", "RollingUpdate");
        if strategy.text("type") == "RollingUpdate"
            && let Some(rolling) = child(strategy, "rollingUpdate")
        {
            absent(rolling, "maxUnavailable", 1);
            absent(rolling, "maxSurge", 0);
        }
    }
    fill(spec, "revisionHistoryLimit", 10);
    defaults::template(spec, "template");
}

/// `ValidateDaemonSetSpec`.
fn spec(errors: &mut ErrorList, at: &Path, spec: &Value) {
    let selector = spec.at("selector");
    let template = spec.at("template");
    let labels = template.at("metadata").at("labels");
    // No selector selects nothing.
    if selector.is_null() || is_selector(selector) && !selector_matches(selector, labels) {
        let at = at.child("template").child("metadata").child("labels");
        errors.push(Error::invalid(at, labels.clone(), "`selector` does not match template `labels`"));
    }
    if !selector.is_null() {
        label_selector(errors, &at.child("selector"), selector);
        if selects_everything(selector) {
            let text = "empty selector is invalid for daemonset";
            errors.push(Error::invalid(at.child("selector"), selector.clone(), text).printed(LABEL_SELECTOR));
        }
    }
    validate::template(errors, &at.child("template"), template);
    validate::runs_for_ever(errors, &at.child("template"), template, "DaemonSet");
    non_negative(errors, at.child("minReadySeconds"), spec.at("minReadySeconds"));
    strategy(errors, &at.child("updateStrategy"), spec.at("updateStrategy"));
    non_negative(errors, at.child("revisionHistoryLimit"), spec.at("revisionHistoryLimit"));
}

fn strategy(errors: &mut ErrorList, at: &Path, strategy: &Value) {
    match strategy.text("type") {
        "OnDelete" => {}
        "RollingUpdate" => {
            let (at, rolling) = (at.child("rollingUpdate"), strategy.at("rollingUpdate"));
            if rolling.is_null() {
                errors.push(Error::required(at, ""));
                return;
            }
            let (unavailable, surge) = (rolling.at("maxUnavailable"), rolling.at("maxSurge"));
            int_or_percent(errors, at.child("maxUnavailable"), unavailable);
            int_or_percent(errors, at.child("maxSurge"), surge);
            at_most_100_percent(errors, at.child("maxUnavailable"), unavailable);
            at_most_100_percent(errors, at.child("maxSurge"), surge);
            let some = |value: &Value| count_or_percent(value) != 0;
            match (some(unavailable), some(surge)) {
                (true, true) => {
                    let text = "may not be set when maxUnavailable is non-zero";
                    errors.push(Error::invalid(at.child("maxSurge"), surge.clone(), text));
                }
                (false, false) => {
                    errors.push(Error::required(at.child("maxUnavailable"), "cannot be 0 when maxSurge is 0"));
                }
                _ => {}
            }
        }
        _ => {
            let supported = &["RollingUpdate", "OnDelete"];
            errors.push(
                Error::not_supported(at.clone(), strategy.clone(), supported).printed("apps.DaemonSetUpdateStrategy"),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn generations_that_are_no_numbers_cannot_be_converted() {
        let check = |generation: &str, want: Option<&str>| {
            let object = json!({"metadata": {"annotations": {GENERATION: generation}}});
            let found = unconvertible(&Object::from_value(object).unwrap_or_default());
            assert_eq!(found.as_deref(), want, "{generation}");
        };
        check("5", None);
        check("-05", None);
        check("a", Some("strconv.ParseInt: parsing \"a\": invalid syntax"));
        check("", Some("strconv.ParseInt: parsing \"\": invalid syntax"));
        let large = "9223372036854775808";
        check(large, Some("strconv.ParseInt: parsing \"9223372036854775808\": value out of range"));
    }
}
