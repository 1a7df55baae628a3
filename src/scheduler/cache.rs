//! What runs where: nodes with the pods that are bound to them, or assumed to be while a binding is on its way
//! (upstream `pkg/scheduler/backend/cache`).
//!
//! Decisions look at a [`Snapshot`], which [`Cache::update`] brings up to date by the nodes that changed only.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use client::k8s_openapi::api::core::v1::Node;

use crate::labels::Labels;
use crate::pod_info::PodInfo;
use crate::resources::Resources;

/// A node as plugins see it.
#[derive(Debug, Clone, Default)]
pub struct NodeInfo {
    /// `None` while only pods name it: such a node takes no pods.
    pub node: Option<Arc<Node>>,
    pub allocatable: Arc<Resources>,
    pub requested: Resources,
    /// As `requested`, with defaults for those who ask for nothing.
    pub nonzero_requested: Resources,
    pub pods: Vec<Arc<PodInfo>>,
    /// Bytes by image name.
    pub images: Arc<HashMap<String, i64>>,
    /// How many pods have terms of affinity or anti-affinity, required or preferred.
    with_affinity: usize,
    with_required_anti_affinity: usize,
}

impl NodeInfo {
    pub fn new(node: Arc<Node>) -> Self {
        let mut info = Self::default();
        info.set_node(node);
        info
    }

    pub fn name(&self) -> &str {
        self.node.as_ref().and_then(|n| n.metadata.name.as_deref()).unwrap_or_default()
    }

    pub fn labels(&self) -> Option<&Labels> {
        self.node.as_ref().and_then(|n| n.metadata.labels.as_ref())
    }

    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels().and_then(|labels| labels.get(key)).map(String::as_str)
    }

    fn set_node(&mut self, node: Arc<Node>) {
        let status = node.status.as_ref();
        self.allocatable = Arc::new(Resources::from_list(status.and_then(|s| s.allocatable.as_ref())));
        let images = status.and_then(|s| s.images.as_deref()).unwrap_or_default();
        let sized = |image: &client::k8s_openapi::api::core::v1::ContainerImage| {
            let size = image.size_bytes.unwrap_or_default();
            image.names.iter().flatten().map(move |name| (name.clone(), size)).collect::<Vec<_>>()
        };
        self.images = Arc::new(images.iter().flat_map(sized).collect());
        self.node = Some(node);
    }

    /// Adds a pod that is not there yet.
    pub fn add(&mut self, pod: Arc<PodInfo>) {
        self.requested.add(&pod.requests.exact);
        self.nonzero_requested.add(&pod.requests.nonzero);
        self.with_affinity += usize::from(pod.has_affinity());
        self.with_required_anti_affinity += usize::from(pod.has_required_anti_affinity());
        self.pods.push(pod);
    }

    pub fn remove(&mut self, uid: &str) {
        let Some(at) = self.pods.iter().position(|pod| *pod.uid == *uid) else { return };
        let pod = self.pods.swap_remove(at);
        self.requested.sub(&pod.requests.exact);
        self.nonzero_requested.sub(&pod.requests.nonzero);
        self.with_affinity -= usize::from(pod.has_affinity());
        self.with_required_anti_affinity -= usize::from(pod.has_required_anti_affinity());
    }

    /// The zone that nodes are interleaved by (`utilnode.GetZoneKey`).
    fn zone(&self) -> (String, String) {
        let either = |new: &str, old: &str| self.label(new).or_else(|| self.label(old)).unwrap_or_default().to_owned();
        (
            either("topology.kubernetes.io/region", "failure-domain.beta.kubernetes.io/region"),
            either("topology.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/zone"),
        )
    }
}

/// A consistent view of all nodes that exist.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    nodes: Vec<Arc<NodeInfo>>,
    index: HashMap<String, usize>,
    with_affinity: BTreeSet<usize>,
    with_required_anti_affinity: BTreeSet<usize>,
    /// How many nodes hold each image.
    image_nodes: Arc<HashMap<String, usize>>,
}

impl Snapshot {
    /// Zones take turns, so that a search that stops early has seen all of them.
    pub fn nodes(&self) -> &[Arc<NodeInfo>] {
        &self.nodes
    }

    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    pub fn get(&self, name: &str) -> Option<&Arc<NodeInfo>> {
        self.index.get(name).and_then(|at| self.nodes.get(*at))
    }

    /// Nodes with pods that have any affinity or anti-affinity.
    pub fn with_affinity(&self) -> impl Iterator<Item = &Arc<NodeInfo>> {
        self.with_affinity.iter().filter_map(|at| self.nodes.get(*at))
    }

    /// Nodes with pods that require anti-affinity.
    pub fn with_required_anti_affinity(&self) -> impl Iterator<Item = &Arc<NodeInfo>> {
        self.with_required_anti_affinity.iter().filter_map(|at| self.nodes.get(*at))
    }

    pub fn nodes_with_image(&self, image: &str) -> usize {
        self.image_nodes.get(image).copied().unwrap_or_default()
    }

    fn note(&mut self, at: usize) {
        let info = &self.nodes[at];
        let (any, anti) = (info.with_affinity > 0, info.with_required_anti_affinity > 0);
        for (set, member) in [(&mut self.with_affinity, any), (&mut self.with_required_anti_affinity, anti)] {
            if member {
                set.insert(at);
            } else {
                set.remove(&at);
            }
        }
    }
}

/// All nodes by name.
#[derive(Debug, Default)]
pub struct Cache {
    nodes: HashMap<String, Arc<NodeInfo>>,
    /// Node of each pod, by the pod's uid.
    placed: HashMap<Arc<str>, String>,
    /// Placed by a decision whose binding the API has not shown yet.
    assumed: HashSet<Arc<str>>,
    /// Changed since the last [`Cache::update`].
    dirty: HashSet<String>,
    /// A node came, went or moved to another zone since then.
    reordered: bool,
    image_nodes: Arc<HashMap<String, usize>>,
}

impl Cache {
    pub fn set_node(&mut self, node: &Arc<Node>) {
        let Some(name) = node.metadata.name.clone() else { return };
        let info = Arc::make_mut(self.nodes.entry(name.clone()).or_default());
        let (existed, zone, images) = (info.node.is_some(), info.zone(), info.images.clone());
        info.set_node(node.clone());
        self.reordered |= !existed || zone != info.zone();
        let held = info.images.clone();
        self.count_images(&images, &held);
        self.dirty.insert(name);
    }

    pub fn remove_node(&mut self, name: &str) {
        let Some(info) = self.nodes.get_mut(name) else { return };
        let images = info.images.clone();
        if info.pods.is_empty() {
            self.nodes.remove(name);
        } else {
            let info = Arc::make_mut(info);
            info.node = None;
            info.images = Arc::default();
        }
        self.count_images(&images, &HashMap::new());
        self.reordered = true;
    }

    pub fn node_names(&self) -> Vec<String> {
        self.nodes.iter().filter(|(_, info)| info.node.is_some()).map(|(name, _)| name.clone()).collect()
    }

    fn count_images(&mut self, old: &HashMap<String, i64>, new: &HashMap<String, i64>) {
        if old.len() == new.len() && old.keys().all(|name| new.contains_key(name)) {
            return;
        }
        let counts = Arc::make_mut(&mut self.image_nodes);
        for name in old.keys() {
            if let Some(count) = counts.get_mut(name) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(name);
                }
            }
        }
        for name in new.keys() {
            *counts.entry(name.clone()).or_default() += 1;
        }
    }

    /// Puts a pod on a node where the API shows it; moves it if it was elsewhere.
    pub fn place(&mut self, node: &str, pod: Arc<PodInfo>) {
        self.assumed.remove(&pod.uid);
        self.put(node, pod);
    }

    /// Puts a pod on a node while its binding is on the way.
    pub fn assume(&mut self, node: &str, pod: Arc<PodInfo>) {
        self.assumed.insert(pod.uid.clone());
        self.put(node, pod);
    }

    fn put(&mut self, node: &str, pod: Arc<PodInfo>) {
        self.take(&pod.uid);
        self.placed.insert(pod.uid.clone(), node.to_owned());
        Arc::make_mut(self.nodes.entry(node.to_owned()).or_default()).add(pod);
        self.dirty.insert(node.to_owned());
    }

    /// Takes a pod away: it ended, was deleted, or its binding failed. Whether it was there.
    pub fn forget(&mut self, uid: &str) -> bool {
        self.assumed.remove(uid);
        self.take(uid)
    }

    fn take(&mut self, uid: &str) -> bool {
        let Some(name) = self.placed.remove(uid) else { return false };
        if let Some(info) = self.nodes.get_mut(&name) {
            let info = Arc::make_mut(info);
            info.remove(uid);
            if info.node.is_none() && info.pods.is_empty() {
                self.nodes.remove(&name);
            }
        }
        self.dirty.insert(name);
        true
    }

    pub fn holds(&self, uid: &str) -> bool {
        self.placed.contains_key(uid)
    }

    pub fn is_assumed(&self, uid: &str) -> bool {
        self.assumed.contains(uid)
    }

    /// Brings a snapshot up to date.
    pub fn update(&mut self, snapshot: &mut Snapshot) {
        snapshot.image_nodes = self.image_nodes.clone();
        if std::mem::take(&mut self.reordered) {
            self.dirty.clear();
            snapshot.nodes = self.interleaved();
            snapshot.index = snapshot.nodes.iter().enumerate().map(|(at, info)| (info.name().to_owned(), at)).collect();
            snapshot.with_affinity.clear();
            snapshot.with_required_anti_affinity.clear();
            (0..snapshot.nodes.len()).for_each(|at| snapshot.note(at));
            return;
        }
        for name in self.dirty.drain() {
            let (Some(info), Some(at)) = (self.nodes.get(&name), snapshot.index.get(&name).copied()) else { continue };
            snapshot.nodes[at] = info.clone();
            snapshot.note(at);
        }
    }

    /// One node of each zone in turn (`nodeTree.list`).
    fn interleaved(&self) -> Vec<Arc<NodeInfo>> {
        let mut zones: BTreeMap<(String, String), VecDeque<&Arc<NodeInfo>>> = BTreeMap::new();
        let mut named: Vec<_> = self.nodes.iter().filter(|(_, info)| info.node.is_some()).collect();
        named.sort_unstable_by_key(|(name, _)| *name);
        for (_, info) in named {
            zones.entry(info.zone()).or_default().push_back(info);
        }
        let mut list = Vec::with_capacity(self.nodes.len());
        while !zones.is_empty() {
            zones.retain(|_, left| {
                list.extend(left.pop_front().cloned());
                !left.is_empty()
            });
        }
        list
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::resources::CPU;

    fn pod(cpu: &str) -> Arc<PodInfo> {
        let spec = json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]});
        let pod = serde_json::from_value(json!({"metadata": {"uid": "u"}, "spec": spec})).unwrap();
        Arc::new(PodInfo::new(Arc::new(pod)))
    }

    fn node(name: &str, zone: &str) -> Arc<Node> {
        let labels = json!({"topology.kubernetes.io/zone": zone});
        let status = json!({"allocatable": {"cpu": "4", "pods": "110"}});
        Arc::new(
            serde_json::from_value(json!({"metadata": {"name": name, "labels": labels}, "status": status})).unwrap(),
        )
    }

    #[test]
    fn a_pod_counts_once_however_often_it_is_seen() {
        let (mut cache, mut snapshot) = (Cache::default(), Snapshot::default());
        cache.set_node(&node("a", "z"));
        cache.assume("a", pod("1"));
        cache.place("a", pod("2"));
        cache.update(&mut snapshot);
        assert_eq!(snapshot.nodes()[0].requested.get(CPU), 2000);
        assert!(!cache.is_assumed("u"));
        cache.forget("u");
        cache.update(&mut snapshot);
        assert_eq!(snapshot.nodes()[0].requested.get(CPU), 0);
    }

    #[test]
    fn a_node_without_its_object_is_not_offered() {
        let (mut cache, mut snapshot) = (Cache::default(), Snapshot::default());
        cache.place("a", pod("1"));
        cache.update(&mut snapshot);
        assert!(snapshot.is_empty());
        cache.set_node(&node("a", "z"));
        cache.update(&mut snapshot);
        assert_eq!(snapshot.nodes()[0].requested.get(CPU), 1000);
        cache.remove_node("a");
        cache.update(&mut snapshot);
        assert!(snapshot.is_empty());
        cache.forget("u");
        assert!(cache.nodes.is_empty());
    }

    #[test]
    fn zones_take_turns() {
        let (mut cache, mut snapshot) = (Cache::default(), Snapshot::default());
        for (name, zone) in [("a", "x"), ("b", "x"), ("c", "y")] {
            cache.set_node(&node(name, zone));
        }
        cache.update(&mut snapshot);
        let order: Vec<&str> = snapshot.nodes().iter().map(|info| info.name()).collect();
        assert_eq!(order, ["a", "c", "b"]);
    }
}
