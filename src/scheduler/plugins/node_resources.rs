//! `NodeResourcesFit` with the least-allocated score, and `NodeResourcesBalancedAllocation`.

use client::k8s_openapi::api::core::v1::Pod;

use crate::cache::NodeInfo;
use crate::framework::{ClusterEvent, MAX_SCORE, Plugin, Rejection, Snapshot};
use crate::resources::{self, CPU, MEMORY, Resources};

pub(super) struct Fit;
pub(super) struct BalancedAllocation;

impl Plugin for Fit {
    fn name(&self) -> &'static str {
        "NodeResourcesFit"
    }

    fn filter(&self, pod: &Pod, node: &NodeInfo, _: &Snapshot) -> Result<(), Rejection> {
        let mut reasons = Vec::new();
        if i64::try_from(node.pods.len()).unwrap_or(i64::MAX) + 1 > node.pods_allowed() {
            reasons.push("Too many pods".to_owned());
        }
        let mut unresolvable = false;
        for (name, asked) in resources::requests(pod).iter() {
            let (allocatable, used) = (node.allocatable.get(name), node.requested.get(name));
            if asked > 0 && asked > allocatable - used {
                reasons.push(format!("Insufficient {name}"));
                // No eviction makes the node larger.
                unresolvable |= asked > allocatable;
            }
        }
        if reasons.is_empty() { Ok(()) } else { Err(Rejection { reasons, unresolvable }) }
    }

    fn score(&self, pod: &Pod, node: &NodeInfo, _: &Snapshot) -> i64 {
        let asked = resources::nonzero_requests(pod);
        let shares: Vec<i64> = [CPU, MEMORY]
            .into_iter()
            .filter(|name| node.allocatable.get(name) > 0)
            .map(|name| {
                let capacity = node.allocatable.get(name);
                let used = node.nonzero_requested.get(name).saturating_add(asked.get(name));
                if used > capacity { 0 } else { scaled(capacity - used, capacity) }
            })
            .collect();
        if shares.is_empty() { 0 } else { shares.iter().sum::<i64>() / i64::try_from(shares.len()).unwrap_or(1) }
    }

    fn weight(&self) -> i64 {
        1
    }

    fn wakes_on(&self, event: ClusterEvent) -> bool {
        matches!(event, ClusterEvent::PodRemoved | ClusterEvent::NodeAdded | ClusterEvent::NodeChanged)
    }
}

impl Plugin for BalancedAllocation {
    fn name(&self) -> &'static str {
        "NodeResourcesBalancedAllocation"
    }

    /// 100 when CPU and memory would be used to the same fraction, less the further they are apart.
    fn score(&self, pod: &Pod, node: &NodeInfo, _: &Snapshot) -> i64 {
        let asked = resources::requests(pod);
        if asked == Resources::default() {
            return 0;
        }
        let fractions: Vec<f64> = [CPU, MEMORY]
            .into_iter()
            .filter(|name| node.allocatable.get(name) > 0)
            .map(|name| {
                let used = node.requested.get(name).saturating_add(asked.get(name));
                (used as f64 / node.allocatable.get(name) as f64).min(1.0)
            })
            .collect();
        let deviation = match fractions.as_slice() {
            [cpu, memory] => (cpu - memory).abs() / 2.0,
            _ => 0.0,
        };
        ((1.0 - deviation) * MAX_SCORE as f64) as i64
    }

    fn weight(&self) -> i64 {
        1
    }

    fn wakes_on(&self, _: ClusterEvent) -> bool {
        false
    }
}

/// `part` of `whole` on the score's scale without overflow.
fn scaled(part: i64, whole: i64) -> i64 {
    i64::try_from(i128::from(part) * i128::from(MAX_SCORE) / i128::from(whole)).unwrap_or(MAX_SCORE)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use client::k8s_openapi::api::core::v1::Node;
    use serde_json::json;

    use super::*;
    use crate::cache::Cache;

    fn node(used_cpu: &str) -> Arc<NodeInfo> {
        let mut cache = Cache::default();
        let node: Node = serde_json::from_value(json!({
            "metadata": {"name": "a"},
            "status": {"allocatable": {"cpu": "2", "memory": "4Gi", "pods": "2"}},
        }))
        .unwrap();
        cache.set_node(&Arc::new(node));
        cache.place("other", "a", &Arc::new(pod(used_cpu)));
        cache.snapshot().remove(0)
    }

    fn pod(cpu: &str) -> Pod {
        let spec = json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]});
        serde_json::from_value(json!({"metadata": {}, "spec": spec})).unwrap()
    }

    #[test]
    fn a_pod_must_fit_beside_those_that_run() {
        assert_eq!(Fit.filter(&pod("1"), &node("1"), &[]), Ok(()));
        assert_eq!(Fit.filter(&pod("1500m"), &node("1"), &[]), Err(Rejection::new("Insufficient cpu")));
        assert_eq!(Fit.filter(&pod("3"), &node("1"), &[]), Err(Rejection::unresolvable("Insufficient cpu")));
    }

    #[test]
    fn the_emptier_node_scores_higher() {
        assert!(Fit.score(&pod("100m"), &node("100m"), &[]) > Fit.score(&pod("100m"), &node("1"), &[]));
    }
}
