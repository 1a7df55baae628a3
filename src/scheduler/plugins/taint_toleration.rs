//! `TaintToleration`: nodes repel pods that do not tolerate their taints.

use std::sync::Arc;

use client::k8s_openapi::api::core::v1::{Node, Pod, Taint, Toleration};

use crate::cache::NodeInfo;
use crate::framework::{Check, ClusterEvent, Plugin, Prepared, Rejection, Scorer, World, scale};
use crate::listers::Listers;
use crate::pod_info::PodInfo;

pub(super) struct TaintToleration;

#[derive(Clone)]
struct Tolerant(Arc<PodInfo>);

impl Plugin for TaintToleration {
    fn name(&self) -> &'static str {
        "TaintToleration"
    }

    fn prepare(&self, pod: &Arc<PodInfo>, _: World<'_>) -> Prepared {
        Prepared::Check(Box::new(Tolerant(pod.clone())))
    }

    fn scorer(&self, pod: &Arc<PodInfo>, _: &[Arc<NodeInfo>], _: World<'_>) -> Option<Box<dyn Scorer>> {
        Some(Box::new(Tolerant(pod.clone())))
    }

    fn weight(&self) -> i64 {
        3
    }

    fn wakes(&self, pod: &Pod, event: &ClusterEvent, _: &Listers) -> bool {
        match event {
            ClusterEvent::Node(change) => {
                change.now().is_some_and(|new| !repels(new, pod)) && change.old().is_none_or(|old| repels(old, pod))
            }
            ClusterEvent::TargetPod { old, new } => tolerations(old).len() != tolerations(new).len(),
            _ => false,
        }
    }
}

impl Check for Tolerant {
    fn check(&self, node: &NodeInfo) -> Result<(), Rejection> {
        match node.node.as_deref().is_some_and(|node| repels(node, &self.0.pod)) {
            false => Ok(()),
            true => Err(Rejection::unresolvable("node(s) had untolerated taint(s)")),
        }
    }

    fn boxed(&self) -> Box<dyn Check> {
        Box::new(self.clone())
    }
}

impl Scorer for Tolerant {
    fn score(&self, node: &NodeInfo) -> i64 {
        let Some(node) = &node.node else { return 0 };
        let soft = taints(node).iter().filter(|t| t.effect == "PreferNoSchedule" && !tolerates(&self.0.pod, t)).count();
        i64::try_from(soft).unwrap_or(i64::MAX)
    }

    fn normalize(&self, _: &[Arc<NodeInfo>], scores: &mut [i64]) {
        scale(scores, true);
    }
}

fn taints(node: &Node) -> &[Taint] {
    node.spec.as_ref().and_then(|s| s.taints.as_deref()).unwrap_or_default()
}

/// Whether a taint keeps the pod away (`v1helper.FindMatchingUntoleratedTaint` over `DoNotScheduleTaintsFilterFunc`).
pub(super) fn repels(node: &Node, pod: &Pod) -> bool {
    taints(node)
        .iter()
        .any(|taint| matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute") && !tolerates(pod, taint))
}

pub(super) fn tolerations(pod: &Pod) -> &[Toleration] {
    pod.spec.as_ref().and_then(|s| s.tolerations.as_deref()).unwrap_or_default()
}

/// Whether one of the pod's tolerations covers the taint (`v1.Toleration.ToleratesTaint`).
pub(super) fn tolerates(pod: &Pod, taint: &Taint) -> bool {
    tolerations(pod).iter().any(|toleration| covers(toleration, taint))
}

fn covers(toleration: &Toleration, taint: &Taint) -> bool {
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    let (effect, key) = (text(&toleration.effect), text(&toleration.key));
    if !effect.is_empty() && effect != taint.effect || !key.is_empty() && key != taint.key {
        return false;
    }
    let (wanted, held) = (text(&toleration.value), text(&taint.value));
    match toleration.operator.as_deref().unwrap_or_default() {
        "" | "Equal" => wanted == held,
        "Exists" => true,
        "Lt" => numbers(&held, &wanted).is_some_and(|(held, wanted)| held < wanted),
        "Gt" => numbers(&held, &wanted).is_some_and(|(held, wanted)| held > wanted),
        _ => false,
    }
}

fn numbers(a: &str, b: &str) -> Option<(i64, i64)> {
    Some((a.parse().ok()?, b.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(toleration: serde_json::Value, taint: serde_json::Value, expected: bool) {
        let covered = covers(
            &serde_json::from_value(toleration.clone()).unwrap(),
            &serde_json::from_value(taint.clone()).unwrap(),
        );
        assert_eq!(covered, expected, "{toleration} {taint}");
    }

    #[test]
    fn tolerations_cover_taints_as_upstream_says() {
        let taint = json!({"key": "k", "value": "v", "effect": "NoSchedule"});
        check(json!({"key": "k", "value": "v"}), taint.clone(), true);
        check(json!({"key": "k", "value": "w"}), taint.clone(), false);
        check(json!({"key": "k", "operator": "Exists"}), taint.clone(), true);
        check(json!({"operator": "Exists"}), taint.clone(), true);
        check(json!({"operator": "Exists", "effect": "NoExecute"}), taint.clone(), false);
        check(json!({"key": "other", "operator": "Exists"}), taint, false);
    }
}
