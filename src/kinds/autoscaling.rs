//! `autoscaling`: HorizontalPodAutoscalers, kept as v2.

mod v1;

use std::sync::Arc;

use api::Object;
use api::field::{Error, ErrorList, Path};
use api::kind::Column;
use serde_json::{Value, json};

use crate::checks::one_of_if_set;
use crate::columns::{age, name, number, text};
use crate::define::Extra;
use crate::json::{Json, Members, child, dig, existing, fill};
use crate::rules::Rules;

/// Metrics that a table shows.
const SHOWN: usize = 2;

/// What is special about a kind of this group.
pub(crate) fn extra(kind: &str, version: &str) -> Option<Extra> {
    if kind != "HorizontalPodAutoscaler" {
        return None;
    }
    if version == "v1" {
        let rules = Rules {
            default: |object| {
                if let Some(spec) = existing(&mut object.0, "spec") {
                    fill(spec, "minReplicas", 1);
                }
            },
            validate,
            ..Rules::GENERIC
        };
        let mut extra = Extra::new(rules, columns()).with_generation();
        extra.conversion = Some(Arc::new(v1::V1));
        return Some(extra);
    }
    Some(Extra::new(Rules { default, validate, ..Rules::GENERIC }, columns()).with_generation())
}

fn columns() -> Vec<Column> {
    vec![
        name(),
        text("Reference", |o, _| {
            let target = dig(o, &["spec", "scaleTargetRef"]);
            format!("{}/{}", target.text("kind"), target.text("name")).into()
        }),
        text("Targets", |o, _| targets(&v1::as_v2(o)).into()),
        text("MinPods", |o, _| match o.at("spec").int("minReplicas") {
            Some(count) => count.to_string().into(),
            None => "<unset>".into(),
        }),
        text("MaxPods", |o, _| number(o, &["spec", "maxReplicas"])),
        text("Replicas", |o, _| number(o, &["status", "currentReplicas"])),
        age(),
    ]
}

/// `SetDefaults_HorizontalPodAutoscaler` of v2.
fn default(object: &mut Object) {
    let Some(spec) = existing(&mut object.0, "spec") else { return };
    fill(spec, "minReplicas", 1);
    if spec.count("metrics") == 0 {
        spec.insert(
            "metrics".to_owned(),
            json!([{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}}]),
        );
    }
    if let Some(behavior) = existing(spec, "behavior") {
        behavior_defaults(behavior);
    }
}

fn behavior_defaults(behavior: &mut Members) {
    if let Some(up) = child(behavior, "scaleUp") {
        fill(up, "stabilizationWindowSeconds", 0);
        fill(up, "selectPolicy", "Max");
        fill(
            up,
            "policies",
            json!([{"type": "Pods", "value": 4, "periodSeconds": 15}, {"type": "Percent", "value": 100, "periodSeconds": 15}]),
        );
    }
    if let Some(down) = child(behavior, "scaleDown") {
        fill(down, "selectPolicy", "Max");
        fill(down, "policies", json!([{"type": "Percent", "value": 100, "periodSeconds": 15}]));
    }
}

/// The core of `validateHorizontalPodAutoscalerSpec`.
fn validate(object: &Object) -> ErrorList {
    let mut errors = ErrorList::new();
    let (spec, at) = (object.at("spec"), Path::new("spec"));
    let metrics = spec.list("metrics");
    let (low, high) = (spec.int("minReplicas"), spec.int("maxReplicas").unwrap_or_default());
    if let Some(low) = low
        && low < 0
    {
        errors.push(Error::invalid(at.child("minReplicas"), low, "must be greater than or equal to 0"));
    }
    if high == 0 {
        errors.push(Error::required(at.child("maxReplicas"), ""));
    } else if high < 0 {
        errors.push(Error::invalid(at.child("maxReplicas"), high, "must be greater than 0"));
    }
    if low.is_some_and(|low| high < low) {
        let text = "must be greater than or equal to `minReplicas`";
        errors.push(Error::invalid(at.child("maxReplicas"), high, text));
    }
    for member in ["kind", "name"] {
        if spec.at("scaleTargetRef").count(member) == 0 {
            errors.push(Error::required(at.child("scaleTargetRef").child(member), ""));
        }
    }
    let target = spec.at("scaleTargetRef");
    let group = target.text("apiVersion").split_once('/').map_or("", |(group, _)| group);
    if group.is_empty() && target.text("kind") != "ReplicationController" {
        let at = at.child("scaleTargetRef").child("apiVersion");
        errors.push(Error::invalid(at, target.text("apiVersion"), "apiVersion must specify API group"));
    }
    for (i, metric) in metrics.iter().enumerate() {
        self::metric(&mut errors, &at.child("metrics").index(i), metric);
    }
    if low == Some(0) && !metrics.iter().any(|m| matches!(m.text("type"), "Object" | "External")) {
        let text = "must specify at least one Object or External metric to support scaling to zero replicas";
        errors.push(Error::forbidden(at.child("metrics"), text));
    }
    for direction in ["scaleUp", "scaleDown"] {
        let rules = spec.at("behavior").at(direction);
        let at = at.child("behavior").child(direction);
        one_of_if_set(&mut errors, at.child("selectPolicy"), rules.at("selectPolicy"), &["Disabled", "Max", "Min"]);
        for (i, policy) in rules.list("policies").iter().enumerate() {
            let at = at.child("policies").index(i);
            one_of_if_set(&mut errors, at.child("type"), policy.at("type"), &["Percent", "Pods"]);
            for member in ["value", "periodSeconds"] {
                let value = policy.int(member).unwrap_or_default();
                if value <= 0 {
                    errors.push(Error::invalid(at.child(member), value, "must be greater than zero"));
                }
            }
        }
    }
    errors
}

fn metric(errors: &mut ErrorList, at: &Path, metric: &Value) {
    let kinds = ["ContainerResource", "External", "Object", "Pods", "Resource"];
    let kind = metric.text("type");
    if kind.is_empty() {
        errors.push(Error::required(at.child("type"), "must specify a metric source type"));
        return;
    }
    if !kinds.contains(&kind) {
        errors.push(Error::not_supported(at.child("type"), kind, &kinds));
        return;
    }
    let member = source_member(kind);
    let source = metric.at(member);
    if source.is_null() {
        let text = "must populate information for the given metric source";
        errors.push(Error::required(at.child(member), text));
        return;
    }
    let at = at.child(member);
    if matches!(kind, "Resource" | "ContainerResource") && source.count("name") == 0 {
        errors.push(Error::required(at.child("name"), "must specify a resource name"));
    }
    if let Some(percent) = source.at("target").int("averageUtilization")
        && percent < 1
    {
        let at = at.child("target").child("averageUtilization");
        errors.push(Error::invalid(at, percent, "must be greater than 0"));
    }
    if kind == "Object" && source.at("describedObject").count("name") == 0 {
        errors.push(Error::required(at.child("describedObject").child("name"), ""));
    }
}

/// Where a metric of this type has its source.
fn source_member(kind: &str) -> &'static str {
    match kind {
        "Resource" => "resource",
        "ContainerResource" => "containerResource",
        "Pods" => "pods",
        "Object" => "object",
        _ => "external",
    }
}

/// `formatHPAMetrics`.
fn targets(object: &Object) -> String {
    let metrics = object.array(&["spec", "metrics"]);
    if metrics.is_empty() {
        return "<none>".to_owned();
    }
    let statuses = object.array(&["status", "currentMetrics"]);
    let texts: Vec<String> = metrics
        .iter()
        .enumerate()
        .take(SHOWN)
        .map(|(i, spec)| target(spec, statuses.get(i).unwrap_or(&crate::json::NULL)))
        .collect();
    let text = texts.join(", ");
    if metrics.len() > SHOWN { format!("{text} + {} more...", metrics.len() - SHOWN) } else { text }
}

fn target(spec: &Value, status: &Value) -> String {
    let kind = spec.text("type");
    let member = source_member(kind);
    let (target, current) = (spec.at(member).at("target"), status.at(member).at("current"));
    let amount = |value: &Value| match value {
        Value::Null => "<unknown>".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let average = target.has("averageValue");
    match kind {
        "External" | "Object" if average => {
            format!("{}/{} (avg)", amount(current.at("averageValue")), amount(target.at("averageValue")))
        }
        "External" | "Object" => format!("{}/{}", amount(current.at("value")), amount(target.at("value"))),
        "Pods" => format!("{}/{}", amount(current.at("averageValue")), amount(target.at("averageValue"))),
        "Resource" | "ContainerResource" => {
            let name = spec.at(member).text("name");
            if average {
                return format!("{name}: {}/{}", amount(current.at("averageValue")), amount(target.at("averageValue")));
            }
            let percent = |value: &Value, otherwise: &str| match value.int("averageUtilization") {
                Some(percent) => format!("{percent}%"),
                None => otherwise.to_owned(),
            };
            format!("{name}: {}/{}", percent(current, "<unknown>"), percent(target, "<auto>"))
        }
        _ => "<unknown type>".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_shown_as_upstream_does() {
        let mut object = Object::from_value(
            json!({"spec": {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"},
            "maxReplicas": 3}}),
        )
        .unwrap();
        default(&mut object);
        assert_eq!(targets(&object), "cpu: <unknown>/80%");
        assert_eq!(validate(&object), ErrorList::new());
    }
}
