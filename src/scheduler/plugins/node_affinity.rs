//! `NodeAffinity`: `spec.nodeSelector` and `spec.affinity.nodeAffinity`.

use std::collections::BTreeSet;
use std::sync::Arc;

use client::k8s_openapi::api::core::v1::{
    Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PreferredSchedulingTerm,
};

use crate::cache::NodeInfo;
use crate::framework::{Check, ClusterEvent, Plugin, Prepared, Rejection, Scorer, World, scale};
use crate::listers::Listers;
use crate::pod_info::PodInfo;

pub(super) struct NodeAffinity;

#[derive(Clone)]
struct Required(Arc<PodInfo>);

struct Preferred(Arc<PodInfo>);

impl Plugin for NodeAffinity {
    fn name(&self) -> &'static str {
        "NodeAffinity"
    }

    fn prepare(&self, pod: &Arc<PodInfo>, _: World<'_>) -> Prepared {
        let required = required(&pod.pod);
        let selects = pod.pod.spec.as_ref().and_then(|s| s.node_selector.as_ref()).is_some_and(|s| !s.is_empty());
        if required.is_none() && !selects {
            return Prepared::Skip;
        }
        let check = Box::new(Required(pod.clone()));
        match required.and_then(named_nodes) {
            Some(names) if names.is_empty() => {
                Prepared::Rejected(Rejection::unresolvable("pod affinity terms conflict"))
            }
            Some(names) => Prepared::Only(names, check),
            None => Prepared::Check(check),
        }
    }

    fn scorer(&self, pod: &Arc<PodInfo>, _: &[Arc<NodeInfo>], _: World<'_>) -> Option<Box<dyn Scorer>> {
        if preferred(&pod.pod).is_empty() { None } else { Some(Box::new(Preferred(pod.clone()))) }
    }

    fn weight(&self) -> i64 {
        2
    }

    fn wakes(&self, pod: &Pod, event: &ClusterEvent, _: &Listers) -> bool {
        let ClusterEvent::Node(change) = event else { return false };
        change.now().is_some_and(|new| matches_required(pod, new))
            && change.old().is_none_or(|old| !matches_required(pod, old))
    }
}

impl Check for Required {
    fn check(&self, info: &NodeInfo) -> Result<(), Rejection> {
        if info.node.as_ref().is_none_or(|node| matches_required(&self.0.pod, node)) {
            return Ok(());
        }
        Err(Rejection::unresolvable("node(s) didn't match Pod's node affinity/selector"))
    }

    fn boxed(&self) -> Box<dyn Check> {
        Box::new(self.clone())
    }
}

impl Scorer for Preferred {
    fn score(&self, info: &NodeInfo) -> i64 {
        let Some(node) = &info.node else { return 0 };
        preferred(&self.0.pod)
            .iter()
            .filter(|preferred| matches_preference(&preferred.preference, node))
            .map(|preferred| i64::from(preferred.weight))
            .sum()
    }

    fn normalize(&self, _: &[Arc<NodeInfo>], scores: &mut [i64]) {
        scale(scores, false);
    }
}

fn required(pod: &Pod) -> Option<&NodeSelector> {
    let affinity = pod.spec.as_ref()?.affinity.as_ref()?.node_affinity.as_ref()?;
    affinity.required_during_scheduling_ignored_during_execution.as_ref()
}

fn preferred(pod: &Pod) -> &[PreferredSchedulingTerm] {
    let affinity = pod.spec.as_ref().and_then(|s| s.affinity.as_ref()).and_then(|a| a.node_affinity.as_ref());
    affinity.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_deref()).unwrap_or_default()
}

/// The nodes that every term names; `None` if one term leaves it open (`NodeAffinity.PreFilter`).
fn named_nodes(selector: &NodeSelector) -> Option<BTreeSet<String>> {
    let mut all = BTreeSet::new();
    for term in &selector.node_selector_terms {
        let mut named: Option<BTreeSet<String>> = None;
        for field in term.match_fields.iter().flatten().filter(|f| f.key == "metadata.name" && f.operator == "In") {
            let values: BTreeSet<String> = field.values.iter().flatten().cloned().collect();
            named = Some(named.map_or(values.clone(), |held| held.intersection(&values).cloned().collect()));
        }
        all.append(&mut named?);
    }
    if selector.node_selector_terms.is_empty() { None } else { Some(all) }
}

/// Whether the node has what the pod must have (upstream `nodeaffinity.GetRequiredNodeAffinity`).
pub(crate) fn matches_required(pod: &Pod, node: &Node) -> bool {
    let Some(spec) = &pod.spec else { return true };
    let label = |key: &String| node.metadata.labels.as_ref().and_then(|labels| labels.get(key));
    if spec.node_selector.iter().flatten().any(|(key, value)| label(key) != Some(value)) {
        return false;
    }
    required(pod).is_none_or(|selector| matches_selector(selector, node))
}

/// Whether one of the terms matches.
pub(crate) fn matches_selector(selector: &NodeSelector, node: &Node) -> bool {
    selector.node_selector_terms.iter().any(|term| matches_term(term, node))
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
