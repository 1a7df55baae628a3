//! `autoscaling`: HorizontalPodAutoscalers, kept as v2.

mod v1;
mod validate;

use std::sync::Arc;

use api::Object;
use api::kind::Column;
use serde_json::{Value, json};

use crate::columns::{age, name, number, text};
use crate::define::Extra;
use crate::json::{Json, Members, absent, child, dig, existing, fill};
use crate::rules::Rules;

use validate::{status, validate};

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
            // Annotations are the status, which creators do not write, or the spec, which status writers do not.
            create: |_, object| v1::drop_status(object),
            update: |_, object, old| v1::keep_status(object, old),
            status_update: |_, object, old| v1::keep_spec(object, old),
            hidden_annotations: &v1::ALL,
            // What a v1 object says in v2 is what upstream checks.
            validate: |object| validate(&v1::as_v2(object)),
            validate_status: |object, _| status(object),
            ..Rules::GENERIC
        };
        let mut extra = Extra::new(rules, columns()).with_generation();
        extra.conversion = Some(Arc::new(v1::V1));
        return Some(extra);
    }
    Some(
        Extra::new(
            Rules { default, validate, validate_status: |object, _| status(object), ..Rules::GENERIC },
            columns(),
        )
        .with_generation(),
    )
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
        absent(up, "selectPolicy", "Max");
        fill(
            up,
            "policies",
            json!([{"type": "Pods", "value": 4, "periodSeconds": 15}, {"type": "Percent", "value": 100, "periodSeconds": 15}]),
        );
    }
    if let Some(down) = child(behavior, "scaleDown") {
        absent(down, "selectPolicy", "Max");
        fill(down, "policies", json!([{"type": "Percent", "value": 100, "periodSeconds": 15}]));
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
    // Where a metric is told without its value Go prints a pointer that is nil.
    let amount = |value: &Value| match value {
        Value::Null if status.has(member) => "<nil>".to_owned(),
        Value::Null => "<unknown>".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let average = target.has("averageValue");
    let average_value = || match current.at("averageValue") {
        Value::Null if matches!(kind, "External" | "Object") => "<unknown>".to_owned(),
        value => amount(value),
    };
    match kind {
        "External" | "Object" if average => {
            format!("{}/{} (avg)", average_value(), amount(target.at("averageValue")))
        }
        "External" | "Object" => format!("{}/{}", amount(current.at("value")), amount(target.at("value"))),
        "Pods" => format!("{}/{}", average_value(), amount(target.at("averageValue"))),
        "Resource" | "ContainerResource" => {
            let name = spec.at(member).text("name");
            if average {
                return format!("{name}: {}/{}", average_value(), amount(target.at("averageValue")));
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
        assert!(validate(&object).is_empty());
    }

    #[test]
    fn a_metric_that_is_told_without_its_value_has_none() {
        let check = |kind: &str, target: Value, status: Value, want: &str| {
            let member = source_member(kind);
            let spec = json!({"type": kind, member: {"name": "cpu", "target": target}});
            assert_eq!(super::target(&spec, &json!({"type": kind, member: status})), want);
        };
        let (average, value) = (json!({"averageValue": "5"}), json!({"value": "5"}));
        check("ContainerResource", average.clone(), json!({}), "cpu: <nil>/5");
        check("ContainerResource", average.clone(), Value::Null, "cpu: <unknown>/5");
        check("Pods", average.clone(), json!({"current": average}), "5/5");
        check("External", average, json!({}), "<unknown>/5 (avg)");
        check("External", value, json!({}), "<nil>/5");
    }
}
