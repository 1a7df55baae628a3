//! HorizontalPodAutoscalers as v1 shows them: a CPU target, and the rest of v2 in annotations
//! (`pkg/apis/autoscaling/v1/conversion.go`).

use api::kind::Conversion;
use api::{Object, Status};
use serde_json::{Value, json};

use crate::json::{Json, absent, dig, existing, fill};

/// Metrics beyond the CPU target, in v1's form.
const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";

/// What upstream fills in where v1 has no target at all.
const DEFAULT_CPU: i64 = 80;

pub(super) struct V1;

impl Conversion for V1 {
    fn to_stored(&self, object: Object) -> Result<Object, Status> {
        Ok(to_v2(object))
    }

    fn from_stored(&self, object: Object) -> Result<Object, Status> {
        Ok(to_v1(object))
    }
}

/// Every annotation that stands for a field of v2.
pub(super) const ALL: [&str; 4] = [METRICS, CURRENT, BEHAVIOR, CONDITIONS];

/// Keeps what annotations say of the status, which only the status's writers change.
pub(super) fn keep_status(object: &mut Object, old: &Object) {
    keep(object, Some(old), &[CURRENT, CONDITIONS]);
}

/// Keeps what annotations say of the spec, which the status's writers do not change.
pub(super) fn keep_spec(object: &mut Object, old: &Object) {
    keep(object, Some(old), &[METRICS, BEHAVIOR]);
}

/// Drops what annotations say of the status.
pub(super) fn drop_status(object: &mut Object) {
    keep(object, None, &[CURRENT, CONDITIONS]);
}

fn keep(object: &mut Object, old: Option<&Object>, keys: &[&str]) {
    for key in keys {
        match old.and_then(|old| old.annotation(key)) {
            Some(text) => object.set(&["metadata", "annotations", key], text),
            None => drop(object.remove(&["metadata", "annotations", key])),
        }
    }
    if object.at("metadata").count("annotations") == 0 {
        object.remove(&["metadata", "annotations"]);
    }
}

/// The autoscaler as v2 whichever version it is in, for the table.
pub(super) fn as_v2(object: &Object) -> Object {
    let is_v2 = object.at("spec").has("metrics") || object.api_version() == "autoscaling/v2";
    if is_v2 { object.clone() } else { to_v2(object.clone()) }
}

fn annotation(object: &Object, key: &str) -> Value {
    object.annotation(key).and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

fn to_v2(mut object: Object) -> Object {
    let mut metrics: Vec<Value> = match annotation(&object, METRICS) {
        Value::Array(list) => list.iter().map(|m| metric(m, false)).collect(),
        _ => Vec::new(),
    };
    match object.remove(&["spec", "targetCPUUtilizationPercentage"]).and_then(|v| v.as_i64()) {
        Some(percent) => metrics.push(cpu(percent)),
        None if metrics.is_empty() => metrics.push(cpu(DEFAULT_CPU)),
        None => {}
    }
    object.set(&["spec", "metrics"], metrics);
    let behavior = annotation(&object, BEHAVIOR);
    let behavior = lower_case(behavior);
    // One that says nothing is none.
    if behavior.has("scaleUp") || behavior.has("scaleDown") {
        object.set(&["spec", "behavior"], behavior);
    }
    let utilization = object.remove(&["status", "currentCPUUtilizationPercentage"]);
    match annotation(&object, CURRENT) {
        Value::Array(list) => {
            let list: Vec<Value> = list.iter().map(|m| metric_status(m, false)).collect();
            object.set(&["status", "currentMetrics"], list);
        }
        _ => {
            if let Some(percent) = utilization {
                let current = json!({"averageUtilization": percent});
                let list = json!([{"type": "Resource", "resource": {"name": "cpu", "current": current}}]);
                object.set(&["status", "currentMetrics"], list);
            }
        }
    }
    if let conditions @ Value::Array(_) = annotation(&object, CONDITIONS) {
        object.set(&["status", "conditions"], conditions);
    }
    // As Go prints v2's status.
    if let Some(status) = existing(&mut object.0, "status") {
        fill(status, "currentMetrics", Value::Null);
        if status.int("currentReplicas") == Some(0) {
            status.remove("currentReplicas");
        }
    }
    for key in [METRICS, CURRENT, BEHAVIOR, CONDITIONS] {
        object.remove(&["metadata", "annotations", key]);
    }
    if object.at("metadata").count("annotations") == 0 {
        object.remove(&["metadata", "annotations"]);
    }
    object
}

fn cpu(percent: i64) -> Value {
    json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": percent}}})
}

fn is_cpu_target(metric: &Value) -> bool {
    let resource = metric.at("resource");
    metric.text("type") == "Resource"
        && resource.text("name") == "cpu"
        && resource.at("target").has("averageUtilization")
}

fn to_v1(mut object: Object) -> Object {
    let metrics = object.remove(&["spec", "metrics"]).unwrap_or_default();
    let list = metrics.as_array().map_or(&[] as &[Value], Vec::as_slice);
    if let Some(metric) = list.iter().find(|m| is_cpu_target(m)) {
        let percent = dig(metric, &["resource", "target", "averageUtilization"]).clone();
        object.set(&["spec", "targetCPUUtilizationPercentage"], percent);
    }
    let others: Vec<Value> = list.iter().filter(|m| !is_cpu_target(m)).map(|m| metric(m, true)).collect();
    let save = |object: &mut Object, key: &str, value: Value| {
        object.set(&["metadata", "annotations", key], go_text(&value));
    };
    if !others.is_empty() {
        save(&mut object, METRICS, others.into());
    }
    if let Some(behavior) = object.remove(&["spec", "behavior"]) {
        object.set(&["metadata", "annotations", BEHAVIOR], behavior_text(&behavior));
    }
    if let Some(Value::Array(current)) = object.remove(&["status", "currentMetrics"])
        && !current.is_empty()
    {
        let resource = current.iter().find(|m| m.text("type") == "Resource" && m.at("resource").text("name") == "cpu");
        if let Some(percent) = resource.and_then(|m| dig(m, &["resource", "current"]).int("averageUtilization")) {
            object.set(&["status", "currentCPUUtilizationPercentage"], percent);
        }
        let list: Vec<Value> = current.iter().map(|m| metric_status(m, true)).collect();
        save(&mut object, CURRENT, list.into());
    }
    if let Some(status) = existing(&mut object.0, "status") {
        // Which v1 prints even if it is zero.
        absent(status, "currentReplicas", 0);
    }
    if let Some(conditions @ Value::Array(_)) = object.remove(&["status", "conditions"])
        && conditions != json!([])
    {
        save(&mut object, CONDITIONS, conditions);
    }
    object
}

/// Members of v1's metrics, their statuses and of conditions, in the order of Go's structs.
const ORDER: &[&str] = &[
    "type",
    "object",
    "pods",
    "resource",
    "containerResource",
    "external",
    "target",
    "metricName",
    "metricSelector",
    "kind",
    "name",
    "apiVersion",
    "targetValue",
    "currentValue",
    "targetAverageUtilization",
    "currentAverageUtilization",
    "targetAverageValue",
    "currentAverageValue",
    "container",
    "selector",
    "averageValue",
    "status",
    "lastTransitionTime",
    "reason",
    "message",
    "matchLabels",
    "matchExpressions",
    "key",
    "operator",
    "values",
];

/// JSON as Go prints the structs of these annotations.
fn go_text(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let place = |name: &str| ORDER.iter().position(|n| *n == name).unwrap_or(ORDER.len());
            let mut members: Vec<(&String, &Value)> = map.iter().collect();
            members.sort_by_key(|(name, _)| place(name));
            let members: Vec<String> = members
                .iter()
                .map(|(name, value)| format!("{}:{}", Value::from(name.as_str()), go_text(value)))
                .collect();
            format!("{{{}}}", members.join(","))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(go_text).collect::<Vec<_>>().join(",")),
        other => other.to_string(),
    }
}

/// The behavior as Go prints its internal type, whose members have no JSON names.
fn behavior_text(behavior: &Value) -> String {
    let policy = |p: &Value| {
        format!("{{\"Type\":{},\"Value\":{},\"PeriodSeconds\":{}}}", p.at("type"), p.at("value"), p.at("periodSeconds"))
    };
    let rules = |rules: &Value| {
        if rules.is_null() {
            return "null".to_owned();
        }
        let policies = match rules.at("policies").as_array() {
            Some(list) => format!("[{}]", list.iter().map(policy).collect::<Vec<_>>().join(",")),
            None => "null".to_owned(),
        };
        format!(
            "{{\"StabilizationWindowSeconds\":{},\"SelectPolicy\":{},\"Policies\":{policies},\"Tolerance\":{}}}",
            rules.at("stabilizationWindowSeconds"),
            rules.at("selectPolicy"),
            rules.at("tolerance")
        )
    };
    format!("{{\"ScaleUp\":{},\"ScaleDown\":{}}}", rules(behavior.at("scaleUp")), rules(behavior.at("scaleDown")))
}

/// Upstream writes the behavior from a type without JSON names, so capitals are read as well.
fn lower_case(value: Value) -> Value {
    match value {
        Value::Object(map) => map
            .into_iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(key, value)| {
                let mut chars = key.chars();
                let key = chars.next().map(|c| c.to_ascii_lowercase().to_string() + chars.as_str()).unwrap_or_default();
                (key, lower_case(value))
            })
            .collect::<serde_json::Map<_, _>>()
            .into(),
        Value::Array(items) => items.into_iter().map(lower_case).collect(),
        other => other,
    }
}

fn put(target: &mut Value, name: &str, value: &Value) {
    if !value.is_null() {
        target[name] = value.clone();
    }
}

/// A metric's source between the two forms.
fn metric(from: &Value, to_v1: bool) -> Value {
    let kind = from.text("type");
    let member = super::source_member(kind);
    let source = from.at(member);
    let target = source.at("target");
    let mut out = json!({});
    match (kind, to_v1) {
        ("Resource" | "ContainerResource", true) => {
            put(&mut out, "name", source.at("name"));
            put(&mut out, "container", source.at("container"));
            put(&mut out, "targetAverageUtilization", target.at("averageUtilization"));
            put(&mut out, "targetAverageValue", target.at("averageValue"));
        }
        ("Resource" | "ContainerResource", false) => {
            put(&mut out, "name", source.at("name"));
            put(&mut out, "container", source.at("container"));
            let kind = if source.has("targetAverageUtilization") { "Utilization" } else { "AverageValue" };
            let mut target = json!({"type": kind});
            put(&mut target, "averageUtilization", source.at("targetAverageUtilization"));
            put(&mut target, "averageValue", source.at("targetAverageValue"));
            out["target"] = target;
        }
        ("Object", true) => {
            put(&mut out, "target", source.at("describedObject"));
            identify(&mut out, source, "metricName", "selector");
            put(&mut out, "targetValue", target.at("value"));
            put(&mut out, "averageValue", target.at("averageValue"));
        }
        ("Object", false) => {
            put(&mut out, "describedObject", target);
            let kind = if source.has("averageValue") { "AverageValue" } else { "Value" };
            let mut goal = json!({"type": kind});
            put(&mut goal, "value", source.at("targetValue"));
            put(&mut goal, "averageValue", source.at("averageValue"));
            out["target"] = goal;
            out["metric"] = identifier(source, "metricName", "selector");
        }
        ("Pods", true) => {
            identify(&mut out, source, "metricName", "selector");
            put(&mut out, "targetAverageValue", target.at("averageValue"));
        }
        ("Pods", false) => {
            let mut goal = json!({"type": "AverageValue"});
            put(&mut goal, "averageValue", source.at("targetAverageValue"));
            out["target"] = goal;
            out["metric"] = identifier(source, "metricName", "selector");
        }
        (_, true) => {
            identify(&mut out, source, "metricName", "metricSelector");
            put(&mut out, "targetValue", target.at("value"));
            put(&mut out, "targetAverageValue", target.at("averageValue"));
        }
        (_, false) => {
            let kind = if source.has("targetValue") { "Value" } else { "AverageValue" };
            let mut goal = json!({"type": kind});
            put(&mut goal, "value", source.at("targetValue"));
            put(&mut goal, "averageValue", source.at("targetAverageValue"));
            out["target"] = goal;
            out["metric"] = identifier(source, "metricName", "metricSelector");
        }
    }
    json!({"type": kind, member: out})
}

/// A metric's present value between the two forms.
fn metric_status(from: &Value, to_v1: bool) -> Value {
    let kind = from.text("type");
    let member = super::source_member(kind);
    let source = from.at(member);
    let current = source.at("current");
    let mut out = json!({});
    for name in ["name", "container"] {
        put(&mut out, name, source.at(name));
    }
    let average = if kind == "Object" { "averageValue" } else { "currentAverageValue" };
    let selector = if kind == "External" { "metricSelector" } else { "selector" };
    if to_v1 {
        put(&mut out, "target", source.at("describedObject"));
        put(&mut out, "currentAverageUtilization", current.at("averageUtilization"));
        put(&mut out, average, current.at("averageValue"));
        put(&mut out, "currentValue", current.at("value"));
        identify(&mut out, source, "metricName", selector);
        zero_amount(&mut out, kind);
    } else {
        put(&mut out, "describedObject", source.at("target"));
        let mut now = json!({});
        put(&mut now, "averageUtilization", source.at("currentAverageUtilization"));
        put(&mut now, "averageValue", source.at(average));
        put(&mut now, "value", source.at("currentValue"));
        if matches!(kind, "Object" | "External") && !source.has("currentValue") {
            now["value"] = "0".into();
        }
        if matches!(kind, "Resource" | "ContainerResource" | "Pods") && !source.has(average) {
            now["averageValue"] = "0".into();
        }
        out["current"] = now;
        if source.has("metricName") {
            out["metric"] = identifier(source, "metricName", selector);
        }
    }
    json!({"type": kind, member: out})
}

/// Amounts that v1 has no pointer to are always there.
fn zero_amount(out: &mut Value, kind: &str) {
    let name = match kind {
        "Object" | "External" => "currentValue",
        _ => "currentAverageValue",
    };
    if !out.has(name) {
        out[name] = "0".into();
    }
}

fn identify(out: &mut Value, source: &Value, name: &str, selector: &str) {
    put(out, name, source.at("metric").at("name"));
    put(out, selector, source.at("metric").at("selector"));
}

fn identifier(source: &Value, name: &str, selector: &str) -> Value {
    let mut metric = json!({});
    put(&mut metric, "name", source.at(name));
    put(&mut metric, "selector", source.at(selector));
    metric
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn v1_comes_back_as_it_was() {
        let v1 = Object::from_value(json!({"metadata": {"name": "h"},
            "spec": {"maxReplicas": 3, "targetCPUUtilizationPercentage": 50}, "status": {"currentReplicas": 0}}))
        .unwrap();
        let stored = to_v2(v1.clone());
        assert_eq!(
            dig(&stored, &["spec", "metrics"])[0]["resource"]["target"],
            json!({"type": "Utilization", "averageUtilization": 50})
        );
        assert_eq!(to_v1(stored), v1);
    }

    #[test]
    fn v2_comes_back_as_it_was() {
        let v2 = Object::from_value(json!({"metadata": {"name": "h"}, "spec": {"maxReplicas": 3, "metrics": [
            {"type": "Pods", "pods": {"metric": {"name": "q"}, "target": {"type": "AverageValue", "averageValue": "5"}}},
            {"type": "External", "external": {"metric": {"name": "e"}, "target": {"type": "Value", "value": "1"}}},
            {"type": "Object", "object": {"describedObject": {"kind": "Service", "name": "s"}, "metric": {"name": "o"},
                "target": {"type": "Value", "value": "7"}}},
            cpu(60)],
            "behavior": {"scaleDown": {"selectPolicy": "Min"}}}, "status": {"currentMetrics": null,
            "conditions": [{"type": "AbleToScale"}]}}))
        .unwrap();
        assert_eq!(to_v2(to_v1(v2.clone())), v2);
    }
}
