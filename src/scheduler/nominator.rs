//! Pods that were promised a node while their victims still end (upstream `backend/queue/nominator.go`).

use std::collections::HashMap;
use std::sync::Arc;

use crate::pod_info::PodInfo;

/// Promised nodes by pod and pods by node. Cheap to clone: a decision takes a copy along.
#[derive(Debug, Clone, Default)]
pub struct Nominator {
    by_node: HashMap<String, Vec<Arc<PodInfo>>>,
    node_of: HashMap<Arc<str>, String>,
}

impl Nominator {
    /// Promises the node, instead of any other.
    pub fn nominate(&mut self, pod: Arc<PodInfo>, node: &str) {
        self.remove(&pod.uid);
        self.node_of.insert(pod.uid.clone(), node.to_owned());
        self.by_node.entry(node.to_owned()).or_default().push(pod);
    }

    pub fn remove(&mut self, uid: &str) {
        let Some(node) = self.node_of.remove(uid) else { return };
        if let Some(pods) = self.by_node.get_mut(&node) {
            pods.retain(|pod| *pod.uid != *uid);
            if pods.is_empty() {
                self.by_node.remove(&node);
            }
        }
    }

    /// A waiting pod changed. A promise that only this process knows of (its write is on the way) is kept.
    pub fn update(&mut self, old: Option<&PodInfo>, new: Arc<PodInfo>) {
        match new.nominated_node().map(str::to_owned) {
            Some(node) => self.nominate(new, &node),
            None if old.is_none_or(|old| old.nominated_node().is_none()) => {
                if let Some(node) = self.node_of.get(&new.uid).cloned() {
                    self.nominate(new, &node);
                }
            }
            None => self.remove(&new.uid),
        }
    }

    pub fn on(&self, node: &str) -> &[Arc<PodInfo>] {
        self.by_node.get(node).map(Vec::as_slice).unwrap_or_default()
    }

    pub fn is_empty(&self) -> bool {
        self.node_of.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(nominated: &str) -> Arc<PodInfo> {
        let pod = json!({
            "metadata": {"uid": "u"}, "spec": {"containers": []}, "status": {"nominatedNodeName": nominated},
        });
        Arc::new(PodInfo::new(Arc::new(serde_json::from_value(pod).unwrap())))
    }

    #[test]
    fn a_promise_outlives_updates_that_do_not_know_of_it_and_ends_when_it_is_withdrawn() {
        let mut nominator = Nominator::default();
        nominator.nominate(pod(""), "a");
        nominator.update(Some(&pod("")), pod(""));
        assert_eq!(nominator.on("a").len(), 1);
        nominator.update(Some(&pod("")), pod("b"));
        assert!(nominator.on("a").is_empty());
        assert_eq!(nominator.on("b").len(), 1);
        nominator.update(Some(&pod("b")), pod(""));
        assert!(nominator.is_empty());
    }
}
