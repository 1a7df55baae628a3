//! Which nodes should have a pod, and which pods should go (`daemon/daemon_controller.go`, `daemon/update.go`). Pure.

use std::collections::HashSet;
use std::sync::Arc;

use client::Resource;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetStatus};
use k8s_openapi::api::core::v1::{
    Affinity, Node, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec, Toleration,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::ByNode;
use crate::history::REVISION_HASH;
use crate::taints::{self, NO_EXECUTE, NO_SCHEDULE, NOT_READY, UNREACHABLE, UNSCHEDULABLE};
use crate::{intstr, node_affinity, pods};

const GENERATION: &str = "deprecated.daemonset.template.generation";
const GENERATION_LABEL: &str = "pod-template-generation";

/// What one pass does.
#[derive(Default)]
pub(super) struct Placement {
    /// Nodes that need a pod.
    pub create: Vec<String>,
    pub delete: Vec<Arc<Pod>>,
    /// Pods that ended by themselves and are to be replaced; whether they failed.
    pub ended: Vec<(Arc<Pod>, bool)>,
}

/// The node that a pod is on, or that its affinity names (`GetTargetNodeName`).
pub(super) fn target_node(pod: &Pod) -> String {
    let name = pods::node(pod);
    if !name.is_empty() {
        return name.to_owned();
    }
    let terms = pod
        .spec
        .as_ref()
        .and_then(|s| s.affinity.as_ref()?.node_affinity.as_ref())
        .and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref())
        .map(|r| r.node_selector_terms.as_slice())
        .unwrap_or_default();
    terms
        .iter()
        .flat_map(|term| term.match_fields.iter().flatten())
        .find(|field| field.key == "metadata.name" && field.operator == "In")
        .and_then(|field| field.values.as_ref()?.first().cloned())
        .unwrap_or_default()
}

pub(super) fn by_node(pods: &[Arc<Pod>]) -> ByNode {
    let mut by_node = ByNode::new();
    for pod in pods.iter().filter(|pod| !(pods::is_terminal(pod) && pod.is_deleting())) {
        by_node.entry(target_node(pod)).or_default().push(Arc::clone(pod));
    }
    by_node
}

/// Whether a node should get a pod, and whether one that is there may stay (`NodeShouldRunDaemonPod`).
fn should_run(set: &DaemonSet, node: &Node) -> (bool, bool) {
    let Some(spec) = set.spec.template.spec.as_ref() else { return (false, false) };
    if spec.node_name.as_deref().is_some_and(|name| !name.is_empty() && name != node.name()) {
        return (false, false);
    }
    if !node_affinity::fits(spec, node) {
        return (false, false);
    }
    let tolerations = tolerations(spec);
    let untolerated = |effects: &[&str]| {
        taints::of(node)
            .iter()
            .filter(|taint| effects.contains(&taint.effect.as_str()))
            .any(|taint| !tolerations.iter().any(|t| taints::tolerates(t, taint)))
    };
    if untolerated(&[NO_EXECUTE, NO_SCHEDULE]) {
        return (false, !untolerated(&[NO_EXECUTE]));
    }
    (true, true)
}

/// The template's tolerations and those that every daemon has (`AddOrUpdateDaemonPodTolerations`).
fn tolerations(spec: &PodSpec) -> Vec<Toleration> {
    let mut tolerations = spec.tolerations.clone().unwrap_or_default();
    let mut add = |key: &str, effect: &str| {
        let wanted = Toleration {
            key: Some(key.to_owned()),
            operator: Some("Exists".to_owned()),
            effect: Some(effect.to_owned()),
            ..Default::default()
        };
        match tolerations
            .iter_mut()
            .find(|t| t.key == wanted.key && t.effect == wanted.effect && t.operator == wanted.operator)
        {
            Some(existing) => *existing = wanted,
            None => tolerations.push(wanted),
        }
    };
    add(NOT_READY, NO_EXECUTE);
    add(UNREACHABLE, NO_EXECUTE);
    add("node.kubernetes.io/disk-pressure", NO_SCHEDULE);
    add("node.kubernetes.io/memory-pressure", NO_SCHEDULE);
    add("node.kubernetes.io/pid-pressure", NO_SCHEDULE);
    add(UNSCHEDULABLE, NO_SCHEDULE);
    if spec.host_network == Some(true) {
        add("node.kubernetes.io/network-unavailable", NO_SCHEDULE);
    }
    tolerations
}

fn strategy(set: &DaemonSet) -> (Option<&str>, Option<&IntOrString>, Option<&IntOrString>) {
    let strategy = set.spec.update_strategy.as_ref();
    let rolling = strategy.and_then(|s| s.rolling_update.as_ref());
    (
        strategy.and_then(|s| s.type_.as_deref()),
        rolling.and_then(|r| r.max_surge.as_ref()),
        rolling.and_then(|r| r.max_unavailable.as_ref()),
    )
}

pub(super) fn is_rolling(set: &DaemonSet) -> bool {
    strategy(set).0 != Some("OnDelete")
}

/// Pods above and below one a node that an update may have, out of `desired` nodes.
fn limits(set: &DaemonSet, desired: usize) -> (usize, usize) {
    if !is_rolling(set) {
        return (0, 0);
    }
    let total = i32::try_from(desired).unwrap_or(i32::MAX);
    let (_, surge, unavailable) = strategy(set);
    let scaled = |value: Option<&IntOrString>, default: i32| {
        let number = value.map_or(Some(default), |v| intstr::scaled(v, total, true)).unwrap_or(default);
        usize::try_from(number).unwrap_or(0)
    };
    match (scaled(surge, 0), scaled(unavailable, 1)) {
        (0, 0) => (0, 1),
        limits => limits,
    }
}

fn allows_surge(set: &DaemonSet) -> bool {
    limits(set, 100).0 > 0
}

fn is_updated(set: &DaemonSet, pod: &Pod, hash: &str) -> bool {
    let generation = set.annotation(GENERATION);
    let by_generation = generation.is_some() && pod.label(GENERATION_LABEL) == generation;
    by_generation || pod.label(REVISION_HASH) == Some(hash)
}

/// Scheduled ones first, then the oldest.
fn by_age(pods: &mut [Arc<Pod>]) {
    pods.sort_by(|a, b| {
        pods::node(a)
            .is_empty()
            .cmp(&pods::node(b).is_empty())
            .then_with(|| a.metadata.creation_timestamp.cmp(&b.metadata.creation_timestamp))
            .then_with(|| a.name().cmp(b.name()))
    });
}

/// `podsShouldBeOnNode`, for every node.
pub(super) fn placement(
    set: &DaemonSet,
    hash: &str,
    nodes: &[Arc<Node>],
    by_node: &ByNode,
    now: Timestamp,
) -> Placement {
    let mut plan = Placement::default();
    let surge = allows_surge(set);
    for node in nodes {
        let (run, stay) = should_run(set, node);
        let there = by_node.get(node.name());
        match there {
            None if run => plan.create.push(node.name().to_owned()),
            None => {}
            Some(pods) if !stay => plan.delete.extend(pods.iter().filter(|p| !p.is_deleting()).cloned()),
            Some(pods) => on_node(set, hash, run, surge, node.name(), pods, now, &mut plan),
        }
    }
    let known: HashSet<&str> = nodes.iter().map(|n| n.name()).collect();
    for (_, pods) in by_node.iter().filter(|(node, _)| !known.contains(node.as_str())) {
        // Meant for a node that is gone; those that ran there are the pod collector's.
        plan.delete.extend(pods.iter().filter(|p| pods::node(p).is_empty() && !p.is_deleting()).cloned());
    }
    plan
}

fn on_node(
    set: &DaemonSet,
    hash: &str,
    run: bool,
    surge: bool,
    node: &str,
    pods: &[Arc<Pod>],
    now: Timestamp,
    plan: &mut Placement,
) {
    let mut running = Vec::new();
    for pod in pods.iter().filter(|p| !p.is_deleting()) {
        match pods::phase(pod) {
            "Failed" => plan.ended.push((Arc::clone(pod), true)),
            "Succeeded" => plan.ended.push((Arc::clone(pod), false)),
            _ => running.push(Arc::clone(pod)),
        }
    }
    by_age(&mut running);
    if !surge {
        plan.delete.extend(running.into_iter().skip(1));
        return;
    }
    if running.is_empty() && run {
        plan.create.push(node.to_owned());
    }
    if running.len() <= 1 {
        return;
    }
    let (mut new, mut old) = (None, None);
    for pod in running {
        let slot = if pod.label(REVISION_HASH) == Some(hash) { &mut new } else { &mut old };
        match slot {
            None => *slot = Some(pod),
            Some(_) => plan.delete.push(pod),
        }
    }
    if let (Some(new), Some(old)) = (new, old) {
        let available = pods::is_available(&new, set.spec.min_ready_seconds.unwrap_or(0), now);
        if !pods::is_ready(&old) || available {
            plan.delete.push(old);
        }
    }
}

/// The new and the old pod on a node; `None` if there are several of a kind.
fn new_and_old<'p>(
    set: &DaemonSet,
    hash: &str,
    pods: &'p [Arc<Pod>],
) -> Option<(Option<&'p Arc<Pod>>, Option<&'p Arc<Pod>>)> {
    let (mut new, mut old) = (None, None);
    for pod in pods.iter().filter(|p| !p.is_deleting()) {
        let slot = if is_updated(set, pod, hash) { &mut new } else { &mut old };
        if slot.replace(pod).is_some() {
            return None;
        }
    }
    Some((new, old))
}

/// `rollingUpdate`.
pub(super) fn rolling_update(
    set: &DaemonSet,
    hash: &str,
    nodes: &[Arc<Node>],
    by_node: &ByNode,
    now: Timestamp,
) -> Placement {
    let running: HashSet<&str> = nodes.iter().filter(|n| should_run(set, n).0).map(|n| n.name()).collect();
    let (max_surge, max_unavailable) = limits(set, running.len());
    let available = |pod: &Pod| pods::is_available(pod, set.spec.min_ready_seconds.unwrap_or(0), now);
    let mut plan = Placement::default();
    if max_surge == 0 {
        let (mut unavailable, mut candidates) = (0, Vec::new());
        for pods in by_node.values() {
            match new_and_old(set, hash, pods) {
                None | Some((None, None) | (Some(_), Some(_))) => unavailable += 1,
                Some((Some(new), None)) => unavailable += usize::from(!available(new)),
                Some((None, Some(old))) if !available(old) => {
                    // It serves nobody: it can be replaced at once.
                    plan.delete.push(Arc::clone(old));
                    unavailable += 1;
                }
                Some((None, Some(old))) => candidates.push(Arc::clone(old)),
            }
        }
        candidates.truncate(max_unavailable.saturating_sub(unavailable));
        plan.delete.append(&mut candidates);
        return plan;
    }
    let (mut surging, mut serving) = (0, 0);
    let (mut candidates, mut misplaced) = (Vec::new(), Vec::new());
    for (node, pods) in by_node {
        let Some((new, old)) = new_and_old(set, hash, pods) else {
            surging += 1;
            continue;
        };
        serving += usize::from(old.or(new).is_some_and(|pod| available(pod)));
        let fits = running.contains(node.as_str());
        match (new, old) {
            (_, None) => {}
            (None, Some(old)) if !available(old) => {
                if fits {
                    plan.create.push(node.clone());
                } else {
                    plan.delete.push(Arc::clone(old));
                }
            }
            (None, Some(old)) if !fits => misplaced.push(Arc::clone(old)),
            (None, Some(_)) => candidates.push(node.clone()),
            (Some(new), Some(old)) if available(new) => plan.delete.push(Arc::clone(old)),
            (Some(_), Some(_)) => surging += 1,
        }
    }
    misplaced.truncate(usize::saturating_sub(serving, running.len()));
    plan.delete.append(&mut misplaced);
    candidates.truncate(max_surge.saturating_sub(surging));
    plan.create.append(&mut candidates);
    plan
}

/// The pod of a set for a node.
pub(super) fn pod_for(set: &DaemonSet, hash: &str, node: &str, owner: OwnerReference) -> Pod {
    let mut pod = pods::from_template(&set.spec.template, set.namespace(), set.name(), owner);
    let labels = pod.metadata.labels.get_or_insert_default();
    if let Some(generation) = set.annotation(GENERATION) {
        labels.insert(GENERATION_LABEL.to_owned(), generation.to_owned());
    }
    labels.insert(REVISION_HASH.to_owned(), hash.to_owned());
    if let Some(spec) = &mut pod.spec {
        spec.tolerations = Some(tolerations(spec));
        pin(spec, node);
    }
    pod
}

/// Requires the node by name instead of whatever node was required (`ReplaceDaemonSetPodNodeNameNodeAffinity`).
fn pin(spec: &mut PodSpec, node: &str) {
    let affinity: &mut Affinity = spec.affinity.get_or_insert_default();
    let affinity: &mut NodeAffinity = affinity.node_affinity.get_or_insert_default();
    affinity.required_during_scheduling_ignored_during_execution = Some(NodeSelector {
        node_selector_terms: vec![NodeSelectorTerm {
            match_fields: Some(vec![NodeSelectorRequirement {
                key: "metadata.name".to_owned(),
                operator: "In".to_owned(),
                values: Some(vec![node.to_owned()]),
            }]),
            match_expressions: None,
        }],
    });
}

/// `updateDaemonSetStatus`.
pub(super) fn status(
    set: &DaemonSet,
    hash: &str,
    nodes: &[Arc<Node>],
    by_node: &ByNode,
    now: Timestamp,
) -> DaemonSetStatus {
    let (mut desired, mut current, mut misscheduled) = (0, 0, 0);
    let (mut ready, mut available, mut updated) = (0, 0, 0);
    for node in nodes {
        let there = by_node.get(node.name());
        if !should_run(set, node).0 {
            misscheduled += i32::from(there.is_some());
            continue;
        }
        desired += 1;
        let Some(there) = there else { continue };
        current += 1;
        let mut pods = there.clone();
        by_age(&mut pods);
        let Some(pod) = pods.first() else { continue };
        ready += i32::from(pods::is_ready(pod));
        available += i32::from(pods::is_available(pod, set.spec.min_ready_seconds.unwrap_or(0), now));
        updated += i32::from(is_updated(set, pod, hash));
    }
    let before = set.status.as_ref();
    DaemonSetStatus {
        observed_generation: set.metadata.generation,
        desired_number_scheduled: desired,
        current_number_scheduled: current,
        number_misscheduled: misscheduled,
        number_ready: ready,
        updated_number_scheduled: Some(updated).filter(|n| *n != 0),
        number_available: Some(available).filter(|n| *n != 0),
        number_unavailable: Some(desired - available).filter(|n| *n != 0),
        collision_count: before.and_then(|s| s.collision_count),
        conditions: before.and_then(|s| s.conditions.clone()),
    }
}

/// What of a status the controller computes.
pub(super) fn numbers(status: &DaemonSetStatus) -> [i64; 9] {
    let number = |n: Option<i32>| i64::from(n.unwrap_or(0));
    [
        status.observed_generation.unwrap_or(0),
        i64::from(status.desired_number_scheduled),
        i64::from(status.current_number_scheduled),
        i64::from(status.number_misscheduled),
        i64::from(status.number_ready),
        number(status.updated_number_scheduled),
        number(status.number_available),
        number(status.number_unavailable),
        number(status.collision_count),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn set() -> DaemonSet {
        serde_json::from_value(json!({
            "metadata": {"name": "d", "namespace": "n", "uid": "u"},
            "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": []}},
                "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1}}},
        }))
        .unwrap()
    }

    fn node(name: &str, taints: serde_json::Value) -> Arc<Node> {
        Arc::new(serde_json::from_value(json!({"metadata": {"name": name}, "spec": {"taints": taints}})).unwrap())
    }

    fn pod(name: &str, node: &str, hash: &str, ready: bool) -> Arc<Pod> {
        Arc::new(
            serde_json::from_value(json!({
                "metadata": {"name": name, "namespace": "n", "labels": {"controller-revision-hash": hash}},
                "spec": {"nodeName": node, "containers": []},
                "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]},
            }))
            .unwrap(),
        )
    }

    #[test]
    fn every_fitting_node_gets_one_pod() {
        let nodes = [
            node("plain", json!([])),
            node("cordoned", json!([{"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}])),
            node("special", json!([{"key": "x", "effect": "NoSchedule"}])),
        ];
        let plan = placement(&set(), "h", &nodes, &ByNode::new(), Timestamp::UNIX_EPOCH);
        assert_eq!(plan.create, ["plain", "cordoned"]);
        let made = pod_for(&set(), "h", "plain", OwnerReference::default());
        assert_eq!(target_node(&made), "plain");
        let extra =
            by_node(&[pod("a", "plain", "h", true), pod("b", "plain", "h", true), pod("c", "special", "h", true)]);
        let plan = placement(&set(), "h", &nodes, &extra, Timestamp::UNIX_EPOCH);
        assert_eq!(plan.create, ["cordoned"]);
        assert_eq!(
            plan.delete.iter().map(|p| p.name()).collect::<Vec<_>>(),
            ["b"],
            "one may stay where none would start"
        );
        let status = status(&set(), "h", &nodes, &extra, Timestamp::UNIX_EPOCH);
        assert_eq!(
            (status.desired_number_scheduled, status.current_number_scheduled, status.number_misscheduled),
            (2, 1, 1)
        );
    }

    #[test]
    fn an_update_replaces_idle_pods_at_once_and_serving_ones_within_the_limit() {
        let nodes = [node("a", json!([])), node("b", json!([])), node("c", json!([]))];
        let check = |pods: &[Arc<Pod>], expected: &[&str]| {
            let plan = rolling_update(&set(), "new", &nodes, &by_node(pods), Timestamp::UNIX_EPOCH);
            assert_eq!(plan.delete.iter().map(|p| p.name()).collect::<Vec<_>>(), expected);
        };
        check(&[pod("a", "a", "old", true), pod("b", "b", "old", true), pod("c", "c", "old", true)], &["a"]);
        check(&[pod("a", "a", "new", false), pod("b", "b", "old", true)], &[]);
        check(&[pod("a", "a", "new", true), pod("b", "b", "old", true)], &["b"]);
        check(&[pod("a", "a", "old", false), pod("b", "b", "old", true)], &["a"]);
    }
}
