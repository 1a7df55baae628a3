//! `TaintToleration`: nodes repel pods that do not tolerate their taints.

use client::k8s_openapi::api::core::v1::{Pod, Taint, Toleration};

use crate::cache::NodeInfo;
use crate::framework::{ClusterEvent, Plugin, Rejection, Snapshot, scale};

pub(super) struct TaintToleration;

impl Plugin for TaintToleration {
    fn name(&self) -> &'static str {
        "TaintToleration"
    }

    fn filter(&self, pod: &Pod, node: &NodeInfo, _: &Snapshot) -> Result<(), Rejection> {
        let repelled = taints(node)
            .iter()
            .find(|taint| matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute") && !tolerates(pod, taint));
        match repelled {
            None => Ok(()),
            Some(_) => Err(Rejection::unresolvable("node(s) had untolerated taint(s)")),
        }
    }

    fn score(&self, pod: &Pod, node: &NodeInfo, _: &Snapshot) -> i64 {
        let soft = taints(node).iter().filter(|t| t.effect == "PreferNoSchedule" && !tolerates(pod, t)).count();
        i64::try_from(soft).unwrap_or(i64::MAX)
    }

    fn normalize(&self, scores: &mut [i64]) {
        scale(scores, true);
    }

    fn weight(&self) -> i64 {
        3
    }

    fn wakes_on(&self, event: ClusterEvent) -> bool {
        matches!(event, ClusterEvent::NodeAdded | ClusterEvent::NodeChanged)
    }
}

fn taints(node: &NodeInfo) -> &[Taint] {
    node.node.as_ref().and_then(|n| n.spec.as_ref()).and_then(|s| s.taints.as_deref()).unwrap_or_default()
}

/// Whether one of the pod's tolerations covers the taint (`v1.Toleration.ToleratesTaint`).
pub(super) fn tolerates(pod: &Pod, taint: &Taint) -> bool {
    let tolerations = pod.spec.as_ref().and_then(|s| s.tolerations.as_deref()).unwrap_or_default();
    tolerations.iter().any(|toleration| covers(toleration, taint))
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
