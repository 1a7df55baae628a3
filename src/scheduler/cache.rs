//! What runs where: nodes with the pods that are bound to them, or assumed to be while a binding is on its way
//! (upstream `pkg/scheduler/backend/cache`).

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use client::k8s_openapi::api::core::v1::{Node, Pod};

use crate::resources::{self, PODS, Resources};

/// A node as plugins see it.
#[derive(Debug, Clone, Default)]
pub struct NodeInfo {
    /// `None` while only pods name it: such a node takes no pods.
    pub node: Option<Arc<Node>>,
    pub allocatable: Resources,
    pub requested: Resources,
    /// As `requested`, with defaults for those who ask for nothing.
    pub nonzero_requested: Resources,
    /// By uid.
    pub pods: HashMap<String, Arc<Pod>>,
}

impl NodeInfo {
    pub fn name(&self) -> &str {
        self.node.as_ref().and_then(|n| n.metadata.name.as_deref()).unwrap_or_default()
    }

    fn add(&mut self, uid: &str, pod: &Arc<Pod>) {
        self.remove(uid);
        self.requested.add(&resources::requests(pod));
        self.nonzero_requested.add(&resources::nonzero_requests(pod));
        self.pods.insert(uid.to_owned(), pod.clone());
    }

    fn remove(&mut self, uid: &str) {
        if let Some(pod) = self.pods.remove(uid) {
            self.requested.sub(&resources::requests(&pod));
            self.nonzero_requested.sub(&resources::nonzero_requests(&pod));
        }
    }

    /// The same node without some of its pods: what preemption tries out.
    pub fn without(&self, uids: &[&str]) -> Self {
        let mut copy = self.clone();
        for uid in uids {
            copy.remove(uid);
        }
        copy
    }

    /// How many pods the node takes.
    pub fn pods_allowed(&self) -> i64 {
        self.allocatable.get(PODS)
    }
}

/// All nodes, in the order of their names.
#[derive(Debug, Default)]
pub struct Cache {
    nodes: BTreeMap<String, Arc<NodeInfo>>,
    /// Node of each pod, by the pod's uid.
    placed: HashMap<String, String>,
}

impl Cache {
    pub fn set_node(&mut self, node: &Arc<Node>) {
        let Some(name) = node.metadata.name.clone() else { return };
        let info = Arc::make_mut(self.nodes.entry(name).or_default());
        let status = node.status.as_ref();
        info.allocatable = Resources::from_list(status.and_then(|s| s.allocatable.as_ref().or(s.capacity.as_ref())));
        info.node = Some(node.clone());
    }

    pub fn remove_node(&mut self, name: &str) {
        let Some(info) = self.nodes.get_mut(name) else { return };
        if info.pods.is_empty() {
            self.nodes.remove(name);
        } else {
            Arc::make_mut(info).node = None;
        }
    }

    /// Puts a pod on a node, bound or assumed; moves it if it was elsewhere.
    pub fn place(&mut self, uid: &str, node: &str, pod: &Arc<Pod>) {
        if self.placed.get(uid).is_some_and(|old| old != node) {
            self.forget(uid);
        }
        self.placed.insert(uid.to_owned(), node.to_owned());
        Arc::make_mut(self.nodes.entry(node.to_owned()).or_default()).add(uid, pod);
    }

    /// Takes a pod away: it ended, was deleted, or its binding failed.
    pub fn forget(&mut self, uid: &str) {
        let Some(name) = self.placed.remove(uid) else { return };
        let Some(info) = self.nodes.get_mut(&name) else { return };
        Arc::make_mut(info).remove(uid);
        if info.node.is_none() && info.pods.is_empty() {
            self.nodes.remove(&name);
        }
    }

    pub fn holds(&self, uid: &str) -> bool {
        self.placed.contains_key(uid)
    }

    /// A consistent view, cheap because nodes are shared.
    pub fn snapshot(&self) -> Vec<Arc<NodeInfo>> {
        self.nodes.values().filter(|info| info.node.is_some()).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::resources::CPU;

    fn pod(cpu: &str) -> Arc<Pod> {
        let spec = json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]});
        Arc::new(serde_json::from_value(json!({"metadata": {}, "spec": spec})).unwrap())
    }

    fn node(name: &str) -> Arc<Node> {
        let node = json!({"metadata": {"name": name}, "status": {"allocatable": {"cpu": "4", "pods": "110"}}});
        Arc::new(serde_json::from_value(node).unwrap())
    }

    #[test]
    fn a_pod_counts_once_however_often_it_is_seen() {
        let mut cache = Cache::default();
        cache.set_node(&node("a"));
        cache.place("u", "a", &pod("1"));
        cache.place("u", "a", &pod("2"));
        assert_eq!(cache.snapshot()[0].requested.get(CPU), 2000);
        cache.forget("u");
        assert_eq!(cache.snapshot()[0].requested.get(CPU), 0);
    }

    #[test]
    fn a_node_without_its_object_is_not_offered() {
        let mut cache = Cache::default();
        cache.place("u", "a", &pod("1"));
        assert!(cache.snapshot().is_empty());
        cache.set_node(&node("a"));
        assert_eq!(cache.snapshot()[0].requested.get(CPU), 1000);
        cache.remove_node("a");
        assert!(cache.snapshot().is_empty());
        cache.forget("u");
        assert!(cache.nodes.is_empty());
    }
}
