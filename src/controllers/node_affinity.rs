//! Whether a pod's required node affinity fits a node (`component-helpers/scheduling/corev1/nodeaffinity`). Pure.

use client::Resource;
use k8s_openapi::api::core::v1::{Node, NodeSelectorRequirement, NodeSelectorTerm, PodSpec};

/// Node selector and required node affinity.
pub(crate) fn fits(spec: &PodSpec, node: &Node) -> bool {
    let selector = spec.node_selector.iter().flatten();
    for (key, value) in selector {
        if node.label(key) != Some(value.as_str()) {
            return false;
        }
    }
    let required = spec
        .affinity
        .as_ref()
        .and_then(|a| a.node_affinity.as_ref())
        .and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    required.is_none_or(|required| required.node_selector_terms.iter().any(|term| term_fits(term, node)))
}

/// An empty term fits nothing.
fn term_fits(term: &NodeSelectorTerm, node: &Node) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    expressions.iter().all(|e| requirement_fits(e, node.label(&e.key)))
        && fields.iter().all(|f| f.key == "metadata.name" && requirement_fits(f, Some(node.name())))
}

fn requirement_fits(requirement: &NodeSelectorRequirement, actual: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let number = |text: &str| text.parse::<i64>().ok();
    let compare = |less: bool| {
        let wanted = values.first().and_then(|v| number(v));
        match (actual.and_then(number), wanted) {
            (Some(actual), Some(wanted)) => {
                if less {
                    actual < wanted
                } else {
                    actual > wanted
                }
            }
            _ => false,
        }
    };
    match requirement.operator.as_str() {
        "In" => actual.is_some_and(|a| values.iter().any(|v| v == a)),
        "NotIn" => actual.is_none_or(|a| values.iter().all(|v| v != a)),
        "Exists" => actual.is_some(),
        "DoesNotExist" => actual.is_none(),
        "Gt" => compare(false),
        "Lt" => compare(true),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn selectors_and_terms_match_labels_and_names() {
        let node: Node =
            serde_json::from_value(json!({"metadata": {"name": "n", "labels": {"zone": "a", "cpus": "8"}}})).unwrap();
        let check = |spec: serde_json::Value, expected: bool| {
            let mut spec = spec;
            spec["containers"] = json!([]);
            let spec: PodSpec = serde_json::from_value(spec).unwrap();
            assert_eq!(fits(&spec, &node), expected, "{spec:?}");
        };
        let required = |term: serde_json::Value| json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}}});
        check(json!({}), true);
        check(json!({"nodeSelector": {"zone": "b"}}), false);
        check(required(json!({"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]})), true);
        check(required(json!({"matchExpressions": [{"key": "cpus", "operator": "Gt", "values": ["8"]}]})), false);
        check(required(json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["m"]}]})), false);
        check(required(json!({})), false);
    }
}
