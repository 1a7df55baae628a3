//! `NodeAffinity`: `spec.nodeSelector` and `spec.affinity.nodeAffinity`.

use client::k8s_openapi::api::core::v1::{Node, NodeSelectorRequirement, NodeSelectorTerm, Pod};

use crate::cache::NodeInfo;
use crate::framework::{ClusterEvent, Plugin, Rejection, Snapshot, scale};

pub(super) struct NodeAffinity;

impl Plugin for NodeAffinity {
    fn name(&self) -> &'static str {
        "NodeAffinity"
    }

    fn filter(&self, pod: &Pod, info: &NodeInfo, _: &Snapshot) -> Result<(), Rejection> {
        let Some(node) = &info.node else { return Ok(()) };
        if matches_required(pod, node) {
            Ok(())
        } else {
            Err(Rejection::unresolvable("node(s) didn't match Pod's node affinity/selector"))
        }
    }

    fn score(&self, pod: &Pod, info: &NodeInfo, _: &Snapshot) -> i64 {
        let Some(node) = &info.node else { return 0 };
        let affinity = pod.spec.as_ref().and_then(|s| s.affinity.as_ref()).and_then(|a| a.node_affinity.as_ref());
        affinity
            .and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref())
            .into_iter()
            .flatten()
            .filter(|preferred| matches_preference(&preferred.preference, node))
            .map(|preferred| i64::from(preferred.weight))
            .sum()
    }

    fn normalize(&self, scores: &mut [i64]) {
        scale(scores, false);
    }

    fn weight(&self) -> i64 {
        2
    }

    fn wakes_on(&self, event: ClusterEvent) -> bool {
        matches!(event, ClusterEvent::NodeAdded | ClusterEvent::NodeChanged)
    }
}

/// Whether the node has what the pod must have (upstream `nodeaffinity.GetRequiredNodeAffinity`).
pub(crate) fn matches_required(pod: &Pod, node: &Node) -> bool {
    let Some(spec) = &pod.spec else { return true };
    let labels = node.metadata.labels.clone().unwrap_or_default();
    if spec.node_selector.iter().flatten().any(|(key, value)| labels.get(key) != Some(value)) {
        return false;
    }
    let required = spec
        .affinity
        .as_ref()
        .and_then(|a| a.node_affinity.as_ref())
        .and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    required.is_none_or(|selector| selector.node_selector_terms.iter().any(|term| matches_term(term, node)))
}

/// An empty term matches nothing as a requirement (`nodeaffinity.isEmptyNodeSelectorTerm`).
fn matches_term(term: &NodeSelectorTerm, node: &Node) -> bool {
    let empty = |list: &Option<Vec<NodeSelectorRequirement>>| list.as_ref().is_none_or(Vec::is_empty);
    !(empty(&term.match_expressions) && empty(&term.match_fields)) && matches_preference(term, node)
}

fn matches_preference(term: &NodeSelectorTerm, node: &Node) -> bool {
    let labels = node.metadata.labels.as_ref();
    let by_label = |r: &NodeSelectorRequirement| matches(r, labels.and_then(|l| l.get(&r.key)).map(String::as_str));
    let by_field = |r: &NodeSelectorRequirement| {
        // `metadata.name` is the only field there is.
        matches(r, node.metadata.name.as_deref().filter(|_| r.key == "metadata.name"))
    };
    term.match_expressions.iter().flatten().all(by_label) && term.match_fields.iter().flatten().all(by_field)
}

fn matches(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let listed = |v: &str| values.iter().any(|wanted| wanted == v);
    let compare = |holds: fn(&i64, &i64) -> bool| match (value, values) {
        (Some(value), [bound]) => {
            matches!((value.parse::<i64>(), bound.parse::<i64>()), (Ok(v), Ok(b)) if holds(&v, &b))
        }
        _ => false,
    };
    match requirement.operator.as_str() {
        "In" => value.is_some_and(listed),
        "NotIn" => !value.is_some_and(listed),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compare(i64::gt),
        "Lt" => compare(i64::lt),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(spec: serde_json::Value, expected: bool) {
        let node: Node = serde_json::from_value(json!({
            "metadata": {"name": "box", "labels": {"disk": "ssd", "cores": "8"}},
        }))
        .unwrap();
        let pod: Pod = serde_json::from_value(json!({"metadata": {}, "spec": spec})).unwrap();
        assert_eq!(matches_required(&pod, &node), expected, "{spec}");
    }

    fn required(terms: serde_json::Value) -> serde_json::Value {
        json!({"containers": [], "affinity": {"nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms},
        }}})
    }

    fn expression(key: &str, operator: &str, values: &[&str]) -> serde_json::Value {
        json!([{"matchExpressions": [{"key": key, "operator": operator, "values": values}]}])
    }

    #[test]
    fn selectors_and_terms_match_labels() {
        check(json!({"containers": []}), true);
        check(json!({"containers": [], "nodeSelector": {"disk": "ssd"}}), true);
        check(json!({"containers": [], "nodeSelector": {"disk": "hdd"}}), false);
        check(required(expression("disk", "In", &["hdd", "ssd"])), true);
        check(required(expression("disk", "NotIn", &["ssd"])), false);
        check(required(expression("gpu", "DoesNotExist", &[])), true);
        check(required(expression("cores", "Gt", &["4"])), true);
        check(required(expression("cores", "Lt", &["4"])), false);
    }

    #[test]
    fn terms_are_alternatives_and_an_empty_one_matches_nothing() {
        check(required(json!([{}])), false);
        check(
            required(json!([{}, {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["box"]}]}])),
            true,
        );
    }
}
