//! One decision: filter, score, choose. Pure: everything it looks at comes in (upstream `schedule_one.go`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use client::k8s_openapi::api::core::v1::Pod;

use crate::cache::NodeInfo;
use crate::framework::{Plugin, Rejection};

/// Where a pod goes, or why it goes nowhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    Node(String),
    Unschedulable(Diagnosis),
}

/// Why no node does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Diagnosis {
    pub nodes: usize,
    /// How many nodes gave each reason.
    pub reasons: BTreeMap<String, usize>,
    /// Plugins that rejected.
    pub plugins: BTreeSet<&'static str>,
    /// Nodes that might do if lower pods were evicted.
    pub candidates: Vec<String>,
}

impl Diagnosis {
    /// As upstream's `FitError` words it: `0/2 nodes are available: 1 Insufficient cpu, 1 node(s) were unschedulable.`
    pub fn message(&self) -> String {
        if self.nodes == 0 {
            return "no nodes available to schedule pods".to_owned();
        }
        let mut reasons: Vec<String> = self.reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        reasons.sort();
        format!("0/{} nodes are available: {}.", self.nodes, reasons.join(", "))
    }
}

/// Chooses a node. `tie` decides between equals: any number.
pub fn decide(pod: &Pod, snapshot: &[Arc<NodeInfo>], plugins: &[&dyn Plugin], tie: usize) -> Decision {
    let mut diagnosis = Diagnosis { nodes: snapshot.len(), ..Diagnosis::default() };
    let mut feasible = Vec::new();
    for node in snapshot {
        match filter(pod, node, snapshot, plugins) {
            Ok(()) => feasible.push(node),
            Err((plugin, rejection)) => {
                diagnosis.plugins.insert(plugin);
                for reason in rejection.reasons {
                    *diagnosis.reasons.entry(reason).or_default() += 1;
                }
                if !rejection.unresolvable {
                    diagnosis.candidates.push(node.name().to_owned());
                }
            }
        }
    }
    match feasible.as_slice() {
        [] => Decision::Unschedulable(diagnosis),
        [only] => Decision::Node(only.name().to_owned()),
        several => Decision::Node(best(pod, several, snapshot, plugins, tie)),
    }
}

/// The first rejection of a node, with the plugin that made it.
pub fn filter(
    pod: &Pod,
    node: &NodeInfo,
    snapshot: &[Arc<NodeInfo>],
    plugins: &[&dyn Plugin],
) -> Result<(), (&'static str, Rejection)> {
    plugins.iter().try_for_each(|plugin| plugin.filter(pod, node, snapshot).map_err(|why| (plugin.name(), why)))
}

fn best(
    pod: &Pod,
    nodes: &[&Arc<NodeInfo>],
    snapshot: &[Arc<NodeInfo>],
    plugins: &[&dyn Plugin],
    tie: usize,
) -> String {
    let mut totals = vec![0_i64; nodes.len()];
    for plugin in plugins.iter().filter(|p| p.weight() > 0) {
        let mut scores: Vec<i64> = nodes.iter().map(|node| plugin.score(pod, node, snapshot)).collect();
        plugin.normalize(&mut scores);
        for (total, score) in totals.iter_mut().zip(scores) {
            *total += score * plugin.weight();
        }
    }
    let top = totals.iter().copied().max().unwrap_or_default();
    let winners: Vec<_> = nodes.iter().zip(&totals).filter(|(_, total)| **total == top).collect();
    winners.get(tie % winners.len().max(1)).map(|(node, _)| node.name().to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use client::k8s_openapi::api::core::v1::Node;
    use serde_json::{Value, json};

    use super::*;
    use crate::cache::Cache;
    use crate::plugins::ALL;

    fn nodes(nodes: &[Value]) -> Vec<Arc<NodeInfo>> {
        let mut cache = Cache::default();
        for node in nodes {
            let node: Node = serde_json::from_value(node.clone()).unwrap();
            cache.set_node(&Arc::new(node));
        }
        cache.snapshot()
    }

    fn node(name: &str, cpu: &str, cordoned: bool) -> Value {
        json!({
            "metadata": {"name": name},
            "spec": {"unschedulable": cordoned},
            "status": {"allocatable": {"cpu": cpu, "memory": "4Gi", "pods": "110"}},
        })
    }

    fn pod(cpu: &str) -> Pod {
        let spec = json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]});
        serde_json::from_value(json!({"metadata": {}, "spec": spec})).unwrap()
    }

    #[test]
    fn the_larger_node_wins() {
        let snapshot = nodes(&[node("small", "1", false), node("large", "8", false)]);
        assert_eq!(decide(&pod("500m"), &snapshot, ALL, 0), Decision::Node("large".into()));
    }

    #[test]
    fn equal_nodes_take_turns() {
        let snapshot = nodes(&[node("a", "1", false), node("b", "1", false)]);
        assert_ne!(decide(&pod("1m"), &snapshot, ALL, 0), decide(&pod("1m"), &snapshot, ALL, 1));
    }

    #[test]
    fn a_pod_that_fits_nowhere_is_told_why() {
        let snapshot = nodes(&[node("a", "1", false), node("b", "8", true)]);
        let Decision::Unschedulable(diagnosis) = decide(&pod("2"), &snapshot, ALL, 0) else { panic!() };
        assert_eq!(diagnosis.message(), "0/2 nodes are available: 1 Insufficient cpu, 1 node(s) were unschedulable.");
        assert!(diagnosis.candidates.is_empty());
        let Decision::Unschedulable(diagnosis) = decide(&pod("2"), &[], ALL, 0) else { panic!() };
        assert_eq!(diagnosis.message(), "no nodes available to schedule pods");
    }
}
