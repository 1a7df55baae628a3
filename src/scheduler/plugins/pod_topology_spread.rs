//! `PodTopologySpread`: pods evenly over zones, nodes or any other topology (upstream `plugins/podtopologyspread`).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use api::selector::LabelSelector;
use client::k8s_openapi::api::core::v1::{Node, Pod, TopologySpreadConstraint};
use client::{Resource, controller_of};

use super::node_affinity::matches_required;
use super::taint_toleration::{repels, tolerations};
use crate::cache::NodeInfo;
use crate::framework::{Change, Check, ClusterEvent, MAX_SCORE, Plugin, Prepared, Rejection, Scorer, World};
use crate::labels::{self, Labels};
use crate::listers::Listers;
use crate::pod_info::{PodInfo, assigned_node, nominated_node};

pub(super) struct PodTopologySpread;

const HOSTNAME: &str = "kubernetes.io/hostname";
const ZONE: &str = "topology.kubernetes.io/zone";

/// What pods without constraints of their own prefer (`systemDefaultConstraints`).
const SYSTEM_DEFAULTS: [(&str, i64); 2] = [(HOSTNAME, 3), (ZONE, 5)];

/// A constraint with its selector checked.
#[derive(Clone, Debug)]
struct Constraint {
    max_skew: i64,
    topology_key: String,
    selector: LabelSelector,
    min_domains: usize,
    honor_affinity: bool,
    honor_taints: bool,
}

impl Constraint {
    /// `filterTopologySpreadConstraints`, of one.
    fn new(constraint: &TopologySpreadConstraint, own: Option<&Labels>) -> Self {
        let mut selector = labels::selector(constraint.label_selector.as_ref());
        let keys = constraint.match_label_keys.iter().flatten();
        let merged: Labels = keys.filter_map(|key| Some((key.clone(), own?.get(key)?.clone()))).collect();
        if !merged.is_empty() {
            selector = labels::and(&labels::from_labels(&merged), &selector);
        }
        Self {
            max_skew: i64::from(constraint.max_skew),
            topology_key: constraint.topology_key.clone(),
            selector,
            min_domains: constraint.min_domains.and_then(|n| usize::try_from(n).ok()).unwrap_or(1),
            honor_affinity: constraint.node_affinity_policy.as_deref().unwrap_or("Honor") == "Honor",
            honor_taints: constraint.node_taints_policy.as_deref() == Some("Honor"),
        }
    }

    /// Whether pods on the node count (`matchNodeInclusionPolicies`).
    fn counts(&self, pod: &Pod, node: &Node) -> bool {
        (!self.honor_affinity || matches_required(pod, node)) && (!self.honor_taints || !repels(node, pod))
    }

    fn matches(&self, labels: Option<&Labels>) -> bool {
        labels::matches(&self.selector, labels)
    }

    /// How many of the node's pods it means (`countPodsMatchSelector`).
    fn count_on(&self, node: &NodeInfo, namespace: &str) -> i64 {
        if self.selector.is_empty() {
            return 0;
        }
        let meant = |p: &&Arc<PodInfo>| {
            p.pod.metadata.deletion_timestamp.is_none() && p.namespace() == namespace && self.matches(p.labels())
        };
        i64::try_from(node.pods.iter().filter(meant).count()).unwrap_or(i64::MAX)
    }
}

fn own_constraints(pod: &Pod) -> &[TopologySpreadConstraint] {
    pod.spec.as_ref().and_then(|s| s.topology_spread_constraints.as_deref()).unwrap_or_default()
}

fn constraints(pod: &Pod, when: &str) -> Vec<Constraint> {
    let own = own_constraints(pod).iter().filter(|c| c.when_unsatisfiable == when);
    own.map(|c| Constraint::new(c, pod.metadata.labels.as_ref())).collect()
}

/// The constraints that must hold. The system's defaults are preferences only.
fn hard(pod: &Pod) -> Vec<Constraint> {
    constraints(pod, "DoNotSchedule")
}

fn soft(pod: &Pod, listers: &Listers) -> Vec<Constraint> {
    if !own_constraints(pod).is_empty() {
        return constraints(pod, "ScheduleAnyway");
    }
    let selector = default_selector(pod, listers);
    if selector.is_empty() {
        return Vec::new();
    }
    let of = |(key, max_skew): (&str, i64)| Constraint {
        max_skew,
        topology_key: key.to_owned(),
        selector: selector.clone(),
        min_domains: 1,
        honor_affinity: true,
        honor_taints: false,
    };
    SYSTEM_DEFAULTS.into_iter().map(of).collect()
}

/// The selector of the services and the controller that the pod belongs to (`helper.DefaultSelector`).
fn default_selector(pod: &Pod, listers: &Listers) -> LabelSelector {
    let mut merged = Labels::new();
    for service in listers.services.namespace(pod.namespace()) {
        let Some(selector) = service.spec.as_ref().and_then(|s| s.selector.as_ref()) else { continue };
        if labels::matches(&labels::from_labels(selector), pod.metadata.labels.as_ref()) {
            merged.extend(selector.clone());
        }
    }
    let Some(owner) = controller_of(&pod.metadata) else { return labels::from_labels(&merged) };
    let namespace = pod.namespace();
    let of_owner = match (owner.api_version.as_str(), owner.kind.as_str()) {
        ("v1", "ReplicationController") => {
            let found = listers.replication_controllers.get(namespace, &owner.name);
            merged.extend(found.and_then(|rc| rc.spec.as_ref()?.selector.clone()).unwrap_or_default());
            None
        }
        ("apps/v1", "ReplicaSet") => {
            let found = listers.replica_sets.get(namespace, &owner.name);
            found.map(|rs| labels::selector(Some(&rs.spec.selector)))
        }
        ("apps/v1", "StatefulSet") => {
            let found = listers.stateful_sets.get(namespace, &owner.name);
            found.map(|set| labels::selector(Some(&set.spec.selector)))
        }
        _ => None,
    };
    let of_services = labels::from_labels(&merged);
    of_owner.map_or_else(|| of_services.clone(), |selector| labels::and(&of_services, &selector))
}

fn has_keys<'a>(node: Option<&Labels>, constraints: impl IntoIterator<Item = &'a Constraint>) -> bool {
    constraints.into_iter().all(|c| node.is_some_and(|labels| labels.contains_key(&c.topology_key)))
}

/// Matching pods by topology value, one map a constraint.
#[derive(Clone)]
struct Spread {
    pod: Arc<PodInfo>,
    constraints: Arc<Vec<Constraint>>,
    counts: Vec<HashMap<String, i64>>,
    /// The smallest count of each map; worked out again when pods are tried out.
    least: Vec<i64>,
}

impl Spread {
    fn new(pod: &Arc<PodInfo>, constraints: Vec<Constraint>, nodes: &[Arc<NodeInfo>]) -> Self {
        let mut counts: Vec<HashMap<String, i64>> = vec![HashMap::new(); constraints.len()];
        for info in nodes {
            let Some(node) = info.node.as_ref().filter(|_| has_keys(info.labels(), &constraints)) else { continue };
            for (constraint, counts) in constraints.iter().zip(&mut counts) {
                let Some(value) = info.label(&constraint.topology_key) else { continue };
                if constraint.counts(&pod.pod, node) {
                    *counts.entry(value.to_owned()).or_default() += constraint.count_on(info, pod.namespace());
                }
            }
        }
        let least = counts.iter().map(least).collect();
        Self { pod: pod.clone(), constraints: Arc::new(constraints), counts, least }
    }

    fn shift(&mut self, moved: &PodInfo, info: &NodeInfo, by: i64) {
        let Some(node) = &info.node else { return };
        if moved.namespace() != self.pod.namespace() || !has_keys(info.labels(), &*self.constraints) {
            return;
        }
        for (at, constraint) in self.constraints.iter().enumerate() {
            let Some(value) = info.label(&constraint.topology_key) else { continue };
            if constraint.matches(moved.labels()) && constraint.counts(&self.pod.pod, node) {
                *self.counts[at].entry(value.to_owned()).or_default() += by;
                self.least[at] = least(&self.counts[at]);
            }
        }
    }
}

fn least(counts: &HashMap<String, i64>) -> i64 {
    counts.values().copied().min().unwrap_or(i64::from(i32::MAX))
}

impl Check for Spread {
    fn check(&self, node: &NodeInfo) -> Result<(), Rejection> {
        for (at, constraint) in self.constraints.iter().enumerate() {
            let Some(value) = node.label(&constraint.topology_key) else {
                let reason = "node(s) didn't match pod topology spread constraints (missing required label)";
                return Err(Rejection::unresolvable(reason));
            };
            let least = if self.counts[at].len() < constraint.min_domains { 0 } else { self.least[at] };
            let own = i64::from(constraint.matches(self.pod.labels()));
            let here = self.counts[at].get(value).copied().unwrap_or_default();
            if here + own - least > constraint.max_skew {
                return Err(Rejection::new("node(s) didn't match pod topology spread constraints"));
            }
        }
        Ok(())
    }

    fn add_pod(&mut self, pod: &PodInfo, node: &NodeInfo) {
        self.shift(pod, node, 1);
    }

    fn remove_pod(&mut self, pod: &PodInfo, node: &NodeInfo) {
        self.shift(pod, node, -1);
    }

    fn boxed(&self) -> Box<dyn Check> {
        Box::new(self.clone())
    }
}

struct Evenness {
    namespace: String,
    constraints: Vec<Constraint>,
    /// Nodes without all topologies, which are not scored.
    ignored: HashSet<String>,
    /// Matching pods by topology value, for all but the hostname.
    counts: Vec<HashMap<String, i64>>,
    /// So that a topology of many values weighs no less than one of few.
    weights: Vec<f64>,
}

impl Evenness {
    /// `initPreScoreState` and `PreScore`.
    fn new(pod: &Arc<PodInfo>, constraints: Vec<Constraint>, nodes: &[Arc<NodeInfo>], all: &[Arc<NodeInfo>]) -> Self {
        // A node without a zone may still be spread over by its name, if nobody asked for zones.
        let require_all = !own_constraints(&pod.pod).is_empty();
        let mut ignored = HashSet::new();
        let mut counts: Vec<HashMap<String, i64>> = vec![HashMap::new(); constraints.len()];
        for info in nodes {
            if require_all && !has_keys(info.labels(), &constraints) {
                ignored.insert(info.name().to_owned());
                continue;
            }
            for (constraint, counts) in constraints.iter().zip(&mut counts) {
                if constraint.topology_key != HOSTNAME {
                    let value = info.label(&constraint.topology_key).unwrap_or_default();
                    counts.entry(value.to_owned()).or_default();
                }
            }
        }
        let size = |(constraint, counts): (&Constraint, &HashMap<String, i64>)| {
            let values = if constraint.topology_key == HOSTNAME { nodes.len() - ignored.len() } else { counts.len() };
            ((values + 2) as f64).ln()
        };
        let weights = constraints.iter().zip(&counts).map(size).collect();
        if counts.iter().any(|counts| !counts.is_empty()) {
            for info in all {
                let Some(node) = &info.node else { continue };
                if require_all && !has_keys(info.labels(), &constraints) {
                    continue;
                }
                for (constraint, counts) in constraints.iter().zip(&mut counts) {
                    let value = info.label(&constraint.topology_key).unwrap_or_default();
                    if let Some(count) = counts.get_mut(value)
                        && constraint.counts(&pod.pod, node)
                    {
                        *count += constraint.count_on(info, pod.namespace());
                    }
                }
            }
        }
        Self { namespace: pod.namespace().to_owned(), constraints, ignored, counts, weights }
    }
}

impl Scorer for Evenness {
    fn score(&self, node: &NodeInfo) -> i64 {
        if self.ignored.contains(node.name()) {
            return 0;
        }
        let mut score = 0.0;
        for (at, constraint) in self.constraints.iter().enumerate() {
            let Some(value) = node.label(&constraint.topology_key) else { continue };
            let count = if constraint.topology_key == HOSTNAME {
                constraint.count_on(node, &self.namespace)
            } else {
                self.counts[at].get(value).copied().unwrap_or_default()
            };
            score += count as f64 * self.weights[at] + (constraint.max_skew - 1) as f64;
        }
        score.round() as i64
    }

    fn normalize(&self, nodes: &[Arc<NodeInfo>], scores: &mut [i64]) {
        let ignored: Vec<bool> = nodes.iter().map(|node| self.ignored.contains(node.name())).collect();
        let counted = || scores.iter().zip(&ignored).filter(|(_, ignored)| !**ignored).map(|(score, _)| *score);
        let least = counted().min().unwrap_or_default();
        let most = counted().max().unwrap_or_default().max(0);
        for (score, ignored) in scores.iter_mut().zip(ignored) {
            *score = match (ignored, most) {
                (true, _) => 0,
                (false, 0) => MAX_SCORE,
                (false, most) => MAX_SCORE * (most + least - *score) / most,
            };
        }
    }
}

impl Plugin for PodTopologySpread {
    fn name(&self) -> &'static str {
        "PodTopologySpread"
    }

    fn prepare(&self, pod: &Arc<PodInfo>, world: World<'_>) -> Prepared {
        let constraints = hard(&pod.pod);
        if constraints.is_empty() {
            return Prepared::Skip;
        }
        Prepared::Check(Box::new(Spread::new(pod, constraints, world.snapshot.nodes())))
    }

    fn scorer(&self, pod: &Arc<PodInfo>, nodes: &[Arc<NodeInfo>], world: World<'_>) -> Option<Box<dyn Scorer>> {
        let constraints = soft(&pod.pod, world.listers);
        if constraints.is_empty() {
            return None;
        }
        Some(Box::new(Evenness::new(pod, constraints, nodes, world.snapshot.nodes())))
    }

    fn weight(&self) -> i64 {
        2
    }

    fn wakes(&self, pod: &Pod, event: &ClusterEvent, _: &Listers) -> bool {
        match event {
            ClusterEvent::AssignedPod(change) => wakes_on_pod(pod, change),
            ClusterEvent::TargetPod { old, new } => {
                let constraints = hard(pod);
                tolerations(old) != tolerations(new) && constraints.iter().any(|c| c.honor_taints)
                    || relabelled(&constraints, old, new)
            }
            ClusterEvent::Node(change) => wakes_on_node(pod, change),
            _ => false,
        }
    }
}

fn relabelled(constraints: &[Constraint], old: &Pod, new: &Pod) -> bool {
    let (old, new) = (old.metadata.labels.as_ref(), new.metadata.labels.as_ref());
    old != new && constraints.iter().any(|c| c.matches(old) != c.matches(new))
}

/// `isSchedulableAfterAssignedPodChange`.
fn wakes_on_pod(pod: &Pod, change: &Change<Pod>) -> bool {
    let involved = |other: &Arc<Pod>| {
        (assigned_node(other).is_some() || nominated_node(other).is_some()) && other.namespace() == pod.namespace()
    };
    if !change.old().is_none_or(involved) || !change.now().is_none_or(involved) {
        return false;
    }
    let constraints = hard(pod);
    match change {
        Change::Updated { old, new } => relabelled(&constraints, old, new),
        Change::Added(other) | Change::Deleted(other) => {
            constraints.iter().any(|c| c.matches(other.metadata.labels.as_ref()))
        }
    }
}

/// `isSchedulableAfterNodeChange`.
fn wakes_on_node(pod: &Pod, change: &Change<Node>) -> bool {
    let constraints = hard(pod);
    let concerned = |node: &Arc<Node>| has_keys(node.metadata.labels.as_ref(), &constraints);
    let taints = |node: &Arc<Node>| node.spec.as_ref().and_then(|s| s.taints.clone());
    match change {
        Change::Updated { old, new } => {
            concerned(old) != concerned(new)
                || concerned(new)
                    && (constraints.iter().any(|c| old.label(&c.topology_key) != new.label(&c.topology_key))
                        || taints(old) != taints(new))
        }
        Change::Added(node) | Change::Deleted(node) => concerned(node),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::cache::{Cache, Snapshot};

    fn pod(uid: &str, constraints: Value) -> Arc<PodInfo> {
        let metadata = json!({"name": uid, "namespace": "n", "uid": uid, "labels": {"app": "web"}});
        let pod = json!({"metadata": metadata, "spec": {"containers": [], "topologySpreadConstraints": constraints}});
        Arc::new(PodInfo::new(Arc::new(serde_json::from_value(pod).unwrap())))
    }

    fn spread(more: Value) -> Value {
        let mut constraint = json!({
            "maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": {"matchLabels": {"app": "web"}},
        });
        constraint.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!([constraint])
    }

    fn world(pods_on: &[&str]) -> Snapshot {
        let (mut cache, mut snapshot) = (Cache::default(), Snapshot::default());
        for (name, zone) in [("a1", "a"), ("b1", "b"), ("c1", "")] {
            let labels = if zone.is_empty() { json!({}) } else { json!({"zone": zone}) };
            let taints = if zone == "b" { json!([{"key": "k", "effect": "NoSchedule"}]) } else { json!([]) };
            let node = json!({"metadata": {"name": name, "labels": labels}, "spec": {"taints": taints}});
            cache.set_node(&Arc::new(serde_json::from_value(node).unwrap()));
        }
        for (at, node) in pods_on.iter().enumerate() {
            cache.place(node, pod(&format!("r{at}"), json!([])));
        }
        cache.update(&mut snapshot);
        snapshot
    }

    fn check(constraints: Value, pods_on: &[&str], expected: &[&str]) {
        let snapshot = world(pods_on);
        let listers = Arc::new(Listers::fake());
        let world = World { snapshot: &snapshot, listers: &listers };
        let Prepared::Check(check) = PodTopologySpread.prepare(&pod("p", constraints.clone()), world) else { panic!() };
        let mut fits: Vec<&str> =
            snapshot.nodes().iter().filter(|node| check.check(node).is_ok()).map(|node| node.name()).collect();
        fits.sort_unstable();
        assert_eq!(fits, expected, "{constraints}");
    }

    #[test]
    fn skew_is_kept_within_bounds_over_zones() {
        check(spread(json!({})), &[], &["a1", "b1"]);
        check(spread(json!({})), &["a1"], &["b1"]);
        check(spread(json!({"maxSkew": 2})), &["a1"], &["a1", "b1"]);
        check(spread(json!({"minDomains": 3})), &["a1", "b1"], &[]);
        check(spread(json!({"nodeTaintsPolicy": "Honor"})), &["a1", "a1"], &["a1", "b1"]);
    }

    #[test]
    fn preferences_favour_the_emptier_zone() {
        let snapshot = world(&["a1", "a1", "b1"]);
        let listers = Arc::new(Listers::fake());
        let world = World { snapshot: &snapshot, listers: &listers };
        let pod = pod("p", spread(json!({"whenUnsatisfiable": "ScheduleAnyway"})));
        let scorer = PodTopologySpread.scorer(&pod, snapshot.nodes(), world).unwrap();
        let mut scores: Vec<i64> = snapshot.nodes().iter().map(|node| scorer.score(node)).collect();
        scorer.normalize(snapshot.nodes(), &mut scores);
        let score = |name: &str| scores[snapshot.nodes().iter().position(|n| n.name() == name).unwrap()];
        assert!(score("b1") > score("a1"));
        assert_eq!(score("c1"), 0, "without the topology");
    }

    #[test]
    fn pods_of_a_service_spread_by_default() {
        let snapshot = world(&[]);
        let listers = Arc::new(Listers::fake());
        let world = World { snapshot: &snapshot, listers: &listers };
        assert!(PodTopologySpread.scorer(&pod("p", json!([])), snapshot.nodes(), world).is_none());
        let service = json!({"metadata": {"name": "s", "namespace": "n"}, "spec": {"selector": {"app": "web"}}});
        listers.services.put(serde_json::from_value(service).unwrap());
        assert!(PodTopologySpread.scorer(&pod("p", json!([])), snapshot.nodes(), world).is_some());
    }
}
