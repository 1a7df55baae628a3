//! Validation of HorizontalPodAutoscalers (upstream's `pkg/apis/autoscaling/validation`).

use api::Object;
use api::field::{Error, ErrorList, Path};
use serde_json::Value;

use crate::checks::{label_name, non_negative, one_of_if_set, segment};
use crate::json::{Json, amount};
use crate::podspec::resources::container_resource_name;

/// The types of metrics with the members that have their sources, in the order that upstream looks at them.
const SOURCES: [(&str, &str); 5] = [
    ("Object", "object"),
    ("External", "external"),
    ("Pods", "pods"),
    ("Resource", "resource"),
    ("ContainerResource", "containerResource"),
];
const TYPES: &[&str] = &["ContainerResource", "External", "Object", "Pods", "Resource"];
/// `MaxStabilizationWindowSeconds` and `MaxPeriodSeconds`.
const WINDOW_SECONDS_MAX: i64 = 3600;
const PERIOD_SECONDS_MAX: i64 = 1800;

/// `validateHorizontalPodAutoscalerSpec` of a v2 object.
pub(super) fn validate(object: &Object) -> ErrorList {
    let mut errors = ErrorList::new();
    let (spec, at) = (object.at("spec"), Path::new("spec"));
    let (low, high) = (spec.int("minReplicas"), spec.int("maxReplicas").unwrap_or_default());
    if low.is_some_and(|low| high < low) {
        let text = "must be greater than or equal to `minReplicas`";
        errors.push(Error::invalid(at.child("maxReplicas"), high, text));
    }
    reference(&mut errors, &at.child("scaleTargetRef"), spec.at("scaleTargetRef"), false);
    let metrics = spec.list("metrics");
    for (i, metric) in metrics.iter().enumerate() {
        self::metric(&mut errors, &at.child("metrics").index(i), metric);
    }
    if low == Some(0) && !metrics.iter().any(|m| matches!(m.text("type"), "Object" | "External")) {
        let text = "must specify at least one Object or External metric to support scaling to zero replicas";
        errors.push(Error::forbidden(at.child("metrics"), text));
    }
    for direction in ["scaleUp", "scaleDown"] {
        let rules = spec.at("behavior").at(direction);
        if rules.is_object() {
            scaling(&mut errors, &at.child("behavior").child(direction), rules);
        }
    }
    // Declarative validation, which upstream asks afterwards.
    if let Some(low) = low
        && low < 0
    {
        errors.push(Error::invalid(at.child("minReplicas"), low, "must be greater than or equal to 0"));
    }
    if high == 0 {
        errors.push(Error::required(at.child("maxReplicas"), ""));
    } else if high < 0 {
        errors.push(Error::invalid(at.child("maxReplicas"), high, "must be greater than or equal to 1"));
    }
    errors
}

/// `ValidateHorizontalPodAutoscalerStatusUpdate`.
pub(super) fn status(object: &Object) -> ErrorList {
    let mut errors = ErrorList::new();
    let (status, at) = (object.at("status"), Path::new("status"));
    for (i, condition) in status.list("conditions").iter().enumerate() {
        let at = at.child("conditions").index(i).child("observedGeneration");
        non_negative(&mut errors, at, condition.at("observedGeneration"));
    }
    for member in ["currentReplicas", "desiredReplicas"] {
        non_negative(&mut errors, at.child(member), status.at(member));
    }
    errors
}

/// `ValidateCrossVersionObjectReference`. A described object may be of the core group.
fn reference(errors: &mut ErrorList, at: &Path, reference: &Value, described: bool) {
    for member in ["kind", "name"] {
        segment(errors, &at.child(member), reference.text(member), true);
    }
    let version = reference.text("apiVersion");
    let problem = match version.split_once('/') {
        Some((_, rest)) if rest.contains('/') => Some(format!("unexpected GroupVersion string: {version}")),
        Some((group, _)) if !group.is_empty() => None,
        _ if described || reference.text("kind") == "ReplicationController" => None,
        _ => Some("apiVersion must specify API group".to_owned()),
    };
    if let Some(problem) = problem {
        errors.push(Error::invalid(at.child("apiVersion"), version, problem));
    }
}

/// `validateScalingRules`.
fn scaling(errors: &mut ErrorList, at: &Path, rules: &Value) {
    if let Some(seconds) = rules.int("stabilizationWindowSeconds") {
        let at = at.child("stabilizationWindowSeconds");
        if seconds < 0 {
            errors.push(Error::invalid(at, seconds, "must be greater than or equal to zero"));
        } else if seconds > WINDOW_SECONDS_MAX {
            errors.push(Error::invalid(at, seconds, format!("must be less than or equal to {WINDOW_SECONDS_MAX}")));
        }
    }
    one_of_if_set(errors, at.child("selectPolicy"), rules.at("selectPolicy"), &["Disabled", "Max", "Min"]);
    let policies = at.child("policies");
    if rules.count("policies") == 0 {
        errors.push(Error::required(policies.clone(), "must specify at least one Policy"));
    }
    for (i, policy) in rules.list("policies").iter().enumerate() {
        let (at, kind) = (policies.index(i), policy.text("type"));
        if !matches!(kind, "Pods" | "Percent") {
            errors.push(Error::not_supported(at.child("type"), kind, &["Percent", "Pods"]));
        }
        for member in ["value", "periodSeconds"] {
            let value = policy.int(member).unwrap_or_default();
            if value <= 0 {
                errors.push(Error::invalid(at.child(member), value, "must be greater than zero"));
            }
        }
        let period = policy.int("periodSeconds").unwrap_or_default();
        if period > PERIOD_SECONDS_MAX {
            let text = format!("must be less than or equal to {PERIOD_SECONDS_MAX}");
            errors.push(Error::invalid(at.child("periodSeconds"), period, text));
        }
    }
    if amount(rules.at("tolerance")).sign() < 0 {
        let text = "must be greater than or equal to 0";
        errors.push(Error::invalid(at.child("tolerance"), rules.at("tolerance").clone(), text));
    }
}

/// `validateMetricSpec`.
fn metric(errors: &mut ErrorList, at: &Path, metric: &Value) {
    let kind = metric.text("type");
    if kind.is_empty() {
        errors.push(Error::required(at.child("type"), "must specify a metric source type"));
    }
    if !TYPES.contains(&kind) {
        errors.push(Error::not_supported(at.child("type"), kind, TYPES));
    }
    let given: Vec<&str> = SOURCES.iter().map(|(_, member)| *member).filter(|m| metric.has(m)).collect();
    if let Some(member) = given.first() {
        source(errors, &at.child(member), member, metric.at(member));
    }
    let expected = SOURCES.iter().find(|(known, _)| *known == kind).map(|(_, member)| *member);
    match expected {
        Some(member) if !metric.has(member) => {
            errors.push(Error::required(at.child(member), "must populate information for the given metric source"));
        }
        Some(_) => {}
        None => errors.push(Error::not_supported(at.child("type"), kind, TYPES)),
    }
    if given.len() != 1 {
        for member in given.iter().filter(|m| Some(**m) != expected) {
            errors.push(Error::forbidden(at.child(member), "must populate the given metric source only"));
        }
    }
}

fn source(errors: &mut ErrorList, at: &Path, member: &str, body: &Value) {
    let (target, to) = (body.at("target"), at.child("target"));
    match member {
        "object" => {
            reference(errors, &at.child("describedObject"), body.at("describedObject"), true);
            identifier(errors, &at.child("metric"), body.at("metric"));
        }
        "external" | "pods" => identifier(errors, &at.child("metric"), body.at("metric")),
        _ => {
            let name = body.text("name");
            if name.is_empty() {
                errors.push(Error::required(at.child("name"), "must specify a resource name"));
            } else if member == "containerResource" {
                container_resource_name(errors, &at.child("name"), name);
            }
            if member == "containerResource" {
                match body.text("container") {
                    "" => errors.push(Error::required(at.child("container"), "must specify a container")),
                    container => label_name(errors, &at.child("container"), container),
                }
            }
        }
    }
    self::target(errors, &to, target);
    let (value, average, percent) = (target.has("value"), target.has("averageValue"), target.has("averageUtilization"));
    match member {
        "object" if !value && !average => {
            errors.push(Error::required(to.child("averageValue"), "must set either a target value or averageValue"));
        }
        "external" if !value && !average => {
            let text = "must set either a target value for metric or a per-pod target";
            errors.push(Error::required(to.child("averageValue"), text));
        }
        "external" if value && average => {
            let text = "may not set both a target value for metric and a per-pod target";
            errors.push(Error::forbidden(to.child("value"), text));
        }
        "pods" if !average => {
            errors.push(Error::required(to.child("averageValue"), "must specify a positive target averageValue"));
        }
        "resource" | "containerResource" if !percent && !average => {
            let text = "must set either a target raw value or a target utilization";
            errors.push(Error::required(to.child("averageUtilization"), text));
        }
        "resource" | "containerResource" if percent && average => {
            let text = "may not set both a target raw value and a target utilization";
            errors.push(Error::forbidden(to.child("averageValue"), text));
        }
        _ => {}
    }
}

fn identifier(errors: &mut ErrorList, at: &Path, metric: &Value) {
    match metric.text("name") {
        "" => errors.push(Error::required(at.child("name"), "must specify a metric name")),
        name => segment(errors, &at.child("name"), name, true),
    }
}

/// `validateMetricTarget`.
fn target(errors: &mut ErrorList, at: &Path, target: &Value) {
    let kind = target.text("type");
    if kind.is_empty() {
        errors.push(Error::required(at.child("type"), "must specify a metric target type"));
    }
    if !matches!(kind, "Utilization" | "Value" | "AverageValue") {
        let text = "must be either Utilization, Value, or AverageValue";
        errors.push(Error::invalid(at.child("type"), kind, text));
    }
    for member in ["value", "averageValue"] {
        if target.has(member) && amount(target.at(member)).sign() <= 0 {
            errors.push(Error::invalid(at.child(member), target.at(member).clone(), "must be positive"));
        }
    }
    if let Some(percent) = target.int("averageUtilization")
        && percent < 1
    {
        errors.push(Error::invalid(at.child("averageUtilization"), percent, "must be greater than 0"));
    }
}
