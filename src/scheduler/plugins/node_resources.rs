//! `NodeResourcesFit` with the least-allocated score, and `NodeResourcesBalancedAllocation`.

use std::sync::Arc;

use client::k8s_openapi::api::core::v1::{Node, Pod};

use crate::cache::NodeInfo;
use crate::framework::{Change, Check, ClusterEvent, Code, MAX_SCORE, Plugin, Prepared, Rejection, Scorer, World};
use crate::listers::Listers;
use crate::pod_info::PodInfo;
use crate::resources::{self, CPU, MEMORY};

pub(super) struct Fit;
pub(super) struct BalancedAllocation;

#[derive(Clone)]
struct Fits(Arc<PodInfo>);

struct LeastAllocated(Arc<PodInfo>);

struct Balanced(Arc<PodInfo>);

impl Plugin for Fit {
    fn name(&self) -> &'static str {
        "NodeResourcesFit"
    }

    fn prepare(&self, pod: &Arc<PodInfo>, _: World<'_>) -> Prepared {
        Prepared::Check(Box::new(Fits(pod.clone())))
    }

    fn scorer(&self, pod: &Arc<PodInfo>, _: &[Arc<NodeInfo>], _: World<'_>) -> Option<Box<dyn Scorer>> {
        Some(Box::new(LeastAllocated(pod.clone())))
    }

    fn weight(&self) -> i64 {
        1
    }

    fn wakes(&self, pod: &Pod, event: &ClusterEvent, _: &Listers) -> bool {
        match event {
            ClusterEvent::AssignedPod(Change::Deleted(_)) => true,
            ClusterEvent::AssignedPod(Change::Updated { old, new }) => released(pod, old, new),
            ClusterEvent::Node(change) => change.now().is_some_and(|new| {
                fits(&PodInfo::new(Arc::new(pod.clone())), &NodeInfo::new(new.clone())).is_ok()
                    && change.old().is_none_or(|old| grew(pod, old, new))
            }),
            ClusterEvent::TargetPod { old, new } => {
                let (old, new) = (resources::requests(old).exact, resources::requests(new).exact);
                old.iter().any(|(name, amount)| new.get(name) < amount)
            }
            _ => false,
        }
    }
}

impl Check for Fits {
    fn check(&self, node: &NodeInfo) -> Result<(), Rejection> {
        fits(&self.0, node)
    }

    fn boxed(&self) -> Box<dyn Check> {
        Box::new(self.clone())
    }
}

/// `fitsRequest`: every reason is told, not only the first.
fn fits(pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
    let mut reasons = Vec::new();
    if i64::try_from(node.pods.len()).unwrap_or(i64::MAX) + 1 > node.allocatable.pods {
        reasons.push("Too many pods".to_owned());
    }
    let mut code = Code::Unschedulable;
    for (name, asked) in pod.requests.exact.iter() {
        if asked <= 0 {
            continue;
        }
        let allocatable = node.allocatable.get(name);
        if asked > allocatable - node.requested.get(name) {
            reasons.push(format!("Insufficient {name}"));
            // No eviction makes the node larger.
            if asked > allocatable {
                code = Code::Unresolvable;
            }
        }
    }
    if reasons.is_empty() { Ok(()) } else { Err(Rejection { reasons, code }) }
}

/// Whether a running pod now takes less of something that the waiting one asks for
/// (`haveEnoughRelevantResourcesDecreased`).
fn released(waiting: &Pod, old: &Pod, new: &Pod) -> bool {
    if old.spec == new.spec && old.status == new.status {
        return false;
    }
    let (old, new) = (resources::requests(old).exact, resources::requests(new).exact);
    resources::requests(waiting).exact.iter().any(|(name, asked)| asked > 0 && new.get(name) < old.get(name))
}

/// `haveAnyRequestedResourcesIncreased`.
fn grew(pod: &Pod, old: &Arc<Node>, new: &Arc<Node>) -> bool {
    let (old, new) = (NodeInfo::new(old.clone()).allocatable, NodeInfo::new(new.clone()).allocatable);
    new.pods > old.pods
        || resources::requests(pod).exact.iter().any(|(name, asked)| asked > 0 && new.get(name) > old.get(name))
}

impl Scorer for LeastAllocated {
    fn score(&self, node: &NodeInfo) -> i64 {
        let (mut sum, mut counted) = (0, 0);
        for name in [CPU, MEMORY] {
            let capacity = node.allocatable.get(name);
            if capacity <= 0 {
                continue;
            }
            let used = node.nonzero_requested.get(name).saturating_add(self.0.requests.nonzero.get(name));
            sum += if used > capacity { 0 } else { scaled(capacity - used, capacity) };
            counted += 1;
        }
        if counted == 0 { 0 } else { sum / counted }
    }
}

impl Plugin for BalancedAllocation {
    fn name(&self) -> &'static str {
        "NodeResourcesBalancedAllocation"
    }

    fn scorer(&self, pod: &Arc<PodInfo>, _: &[Arc<NodeInfo>], _: World<'_>) -> Option<Box<dyn Scorer>> {
        // A pod that asks for neither CPU nor memory balances nothing (`isBestEffortPod`).
        let asked = &pod.requests.exact;
        if asked.milli_cpu == 0 && asked.memory == 0 { None } else { Some(Box::new(Balanced(pod.clone()))) }
    }

    fn weight(&self) -> i64 {
        1
    }

    fn wakes(&self, _: &Pod, _: &ClusterEvent, _: &Listers) -> bool {
        false
    }
}

impl Scorer for Balanced {
    /// By how much the pod brings CPU and memory nearer to the same fraction (`balancedResourceScorer`).
    fn score(&self, node: &NodeInfo) -> i64 {
        let asked = &self.0.requests.exact;
        let with = balance(node, |name| node.requested.get(name).saturating_add(asked.get(name)));
        let without = balance(node, |name| node.requested.get(name));
        MAX_SCORE / 2 + (MAX_SCORE / 2 + with - without) / 2
    }
}

/// 100 when CPU and memory are used to the same fraction, less the further they are apart.
fn balance(node: &NodeInfo, used: impl Fn(&str) -> i64) -> i64 {
    let fraction = |name: &str| {
        let capacity = node.allocatable.get(name);
        (capacity != 0).then(|| (used(name) as f64 / capacity as f64).min(1.0))
    };
    let deviation = match (fraction(CPU), fraction(MEMORY)) {
        (Some(cpu), Some(memory)) => (cpu - memory).abs() / 2.0,
        _ => 0.0,
    };
    ((1.0 - deviation) * MAX_SCORE as f64) as i64
}

/// `part` of `whole` on the score's scale without overflow.
fn scaled(part: i64, whole: i64) -> i64 {
    i64::try_from(i128::from(part) * i128::from(MAX_SCORE) / i128::from(whole)).unwrap_or(MAX_SCORE)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node(used_cpu: &str) -> NodeInfo {
        let node = json!({
            "metadata": {"name": "a"},
            "status": {"allocatable": {"cpu": "2", "memory": "4Gi", "pods": "2"}},
        });
        let mut info = NodeInfo::new(Arc::new(serde_json::from_value(node).unwrap()));
        info.add(pod(used_cpu));
        info
    }

    fn pod(cpu: &str) -> Arc<PodInfo> {
        let spec = json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]});
        let pod = serde_json::from_value(json!({"metadata": {}, "spec": spec})).unwrap();
        Arc::new(PodInfo::new(Arc::new(pod)))
    }

    #[test]
    fn a_pod_must_fit_beside_those_that_run() {
        assert_eq!(fits(&pod("1"), &node("1")), Ok(()));
        assert_eq!(fits(&pod("1500m"), &node("1")), Err(Rejection::new("Insufficient cpu")));
        assert_eq!(fits(&pod("3"), &node("1")), Err(Rejection::unresolvable("Insufficient cpu")));
    }

    #[test]
    fn the_emptier_node_scores_higher() {
        let score = |used: &str| LeastAllocated(pod("100m")).score(&node(used));
        assert!(score("100m") > score("1"));
    }
}
