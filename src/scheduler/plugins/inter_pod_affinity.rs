//! `InterPodAffinity`: pods near to, or far from, other pods (upstream `plugins/interpodaffinity`).

use std::collections::HashMap;
use std::sync::Arc;

use api::selector::LabelSelector;
use client::Resource;
use client::k8s_openapi::api::core::v1::{Node, Pod};

use crate::cache::NodeInfo;
use crate::framework::{Change, Check, ClusterEvent, MAX_SCORE, Plugin, Prepared, Rejection, Scorer, World};
use crate::labels::{self, Labels};
use crate::listers::Listers;
use crate::pod_info::{AffinityTerm, PodInfo, WeightedTerm, assigned_node, nominated_node};

pub(super) struct InterPodAffinity;

/// What the required affinity of a running pod adds to the score (`HardPodAffinityWeight`'s default).
const HARD_WEIGHT: i64 = 1;

/// By topology key and value.
type Counts = HashMap<(String, String), i64>;

/// How many running pods match terms, by the topology they are in. Kept up to date while pods are tried out.
#[derive(Clone)]
struct Required {
    pod: Arc<PodInfo>,
    namespace_labels: Option<Labels>,
    affinity: Vec<AffinityTerm>,
    anti_affinity: Vec<AffinityTerm>,
    /// Running pods whose anti-affinity the pod would hurt.
    existing_anti_affinity: Counts,
    affinity_counts: Counts,
    anti_affinity_counts: Counts,
}

impl Plugin for InterPodAffinity {
    fn name(&self) -> &'static str {
        "InterPodAffinity"
    }

    fn prepare(&self, pod: &Arc<PodInfo>, world: World<'_>) -> Prepared {
        let merged = |terms: &[AffinityTerm]| terms.iter().map(|t| with_namespaces(t, world.listers)).collect();
        let mut state = Required {
            namespace_labels: namespace_labels(pod.namespace(), world.listers),
            affinity: merged(&pod.required_affinity),
            anti_affinity: merged(&pod.required_anti_affinity),
            existing_anti_affinity: Counts::new(),
            affinity_counts: Counts::new(),
            anti_affinity_counts: Counts::new(),
            pod: pod.clone(),
        };
        for node in world.snapshot.with_required_anti_affinity() {
            for running in &node.pods {
                state.count_existing(running, node, 1);
            }
        }
        if state.affinity.is_empty() && state.anti_affinity.is_empty() {
            if state.existing_anti_affinity.is_empty() {
                return Prepared::Skip;
            }
        } else {
            for node in world.snapshot.nodes() {
                for running in &node.pods {
                    state.count_incoming(running, node, 1);
                }
            }
        }
        Prepared::Check(Box::new(state))
    }

    fn scorer(&self, pod: &Arc<PodInfo>, _: &[Arc<NodeInfo>], world: World<'_>) -> Option<Box<dyn Scorer>> {
        let merged = |terms: &[WeightedTerm]| -> Vec<WeightedTerm> {
            let one =
                |t: &WeightedTerm| WeightedTerm { weight: t.weight, term: with_namespaces(&t.term, world.listers) };
            terms.iter().map(one).collect()
        };
        let mut preferences = Preferences {
            wants: merged(&pod.preferred_affinity),
            avoids: merged(&pod.preferred_anti_affinity),
            namespace_labels: namespace_labels(pod.namespace(), world.listers),
            pod: &pod.pod,
            scores: HashMap::new(),
        };
        // Without preferences of its own, only pods with preferences count.
        if preferences.wants.is_empty() && preferences.avoids.is_empty() {
            for node in world.snapshot.with_affinity() {
                node.pods.iter().filter(|p| p.has_affinity()).for_each(|p| preferences.count(p, node));
            }
        } else {
            for node in world.snapshot.nodes() {
                node.pods.iter().for_each(|p| preferences.count(p, node));
            }
        }
        let scores = preferences.scores;
        if scores.is_empty() { None } else { Some(Box::new(Topologies(scores))) }
    }

    fn weight(&self) -> i64 {
        2
    }

    fn wakes(&self, pod: &Pod, event: &ClusterEvent, _: &Listers) -> bool {
        match event {
            ClusterEvent::AssignedPod(change) => wakes_on_pod(pod, change),
            ClusterEvent::TargetPod { old, new } => old.metadata.labels != new.metadata.labels,
            ClusterEvent::Node(change) => wakes_on_node(pod, change),
            _ => false,
        }
    }
}

impl Required {
    fn count_existing(&mut self, running: &PodInfo, node: &NodeInfo, by: i64) {
        for term in &running.required_anti_affinity {
            if term.matches(&self.pod.pod, self.namespace_labels.as_ref()) {
                count(&mut self.existing_anti_affinity, node, &term.topology_key, by);
            }
        }
    }

    fn count_incoming(&mut self, running: &PodInfo, node: &NodeInfo, by: i64) {
        if matches_all(&self.affinity, &running.pod) {
            for term in &self.affinity {
                count(&mut self.affinity_counts, node, &term.topology_key, by);
            }
        }
        for term in &self.anti_affinity {
            if term.matches(&running.pod, None) {
                count(&mut self.anti_affinity_counts, node, &term.topology_key, by);
            }
        }
    }

    /// Every term has a matching pod in the node's topology; or none has anywhere and the pod is the first of a group
    /// that wants to be together (`nodeTopologyMatchesAffinity`).
    fn satisfies_affinity(&self, node: &NodeInfo) -> bool {
        let mut all_there = true;
        for term in &self.affinity {
            let Some(value) = node.label(&term.topology_key) else { return false };
            all_there &= held(&self.affinity_counts, &term.topology_key, value) > 0;
        }
        all_there || self.affinity_counts.is_empty() && matches_all(&self.affinity, &self.pod.pod)
    }

    fn satisfies_anti_affinity(&self, node: &NodeInfo) -> bool {
        self.anti_affinity.iter().all(|term| {
            node.label(&term.topology_key)
                .is_none_or(|value| held(&self.anti_affinity_counts, &term.topology_key, value) <= 0)
        })
    }

    fn satisfies_existing(&self, node: &NodeInfo) -> bool {
        self.existing_anti_affinity.is_empty()
            || node
                .labels()
                .into_iter()
                .flatten()
                .all(|(key, value)| held(&self.existing_anti_affinity, key, value) <= 0)
    }
}

impl Check for Required {
    fn check(&self, node: &NodeInfo) -> Result<(), Rejection> {
        if !self.satisfies_affinity(node) {
            return Err(Rejection::unresolvable("node(s) didn't match pod affinity rules"));
        }
        if !self.satisfies_anti_affinity(node) {
            return Err(Rejection::new("node(s) didn't match pod anti-affinity rules"));
        }
        if !self.satisfies_existing(node) {
            return Err(Rejection::new("node(s) didn't satisfy existing pods anti-affinity rules"));
        }
        Ok(())
    }

    fn add_pod(&mut self, pod: &PodInfo, node: &NodeInfo) {
        self.count_existing(pod, node, 1);
        self.count_incoming(pod, node, 1);
    }

    fn remove_pod(&mut self, pod: &PodInfo, node: &NodeInfo) {
        self.count_existing(pod, node, -1);
        self.count_incoming(pod, node, -1);
    }

    fn boxed(&self) -> Box<dyn Check> {
        Box::new(self.clone())
    }
}

fn held(counts: &Counts, key: &str, value: &str) -> i64 {
    if counts.is_empty() {
        return 0;
    }
    counts.get(&(key.to_owned(), value.to_owned())).copied().unwrap_or_default()
}

fn count(counts: &mut Counts, node: &NodeInfo, key: &str, by: i64) {
    let Some(value) = node.label(key) else { return };
    let pair = (key.to_owned(), value.to_owned());
    let held = counts.entry(pair.clone()).or_default();
    *held += by;
    if *held == 0 {
        counts.remove(&pair);
    }
}

fn matches_all(terms: &[AffinityTerm], pod: &Pod) -> bool {
    !terms.is_empty() && terms.iter().all(|term| term.matches(pod, None))
}

fn matches_any(terms: &[AffinityTerm], pod: &Pod) -> bool {
    terms.iter().any(|term| term.matches(pod, None))
}

fn namespace_labels(namespace: &str, listers: &Listers) -> Option<Labels> {
    listers.namespaces.get("", namespace).and_then(|n| n.metadata.labels.clone())
}

/// The term with the namespaces that its selector finds now (`mergeAffinityTermNamespacesIfNotEmpty`).
fn with_namespaces(term: &AffinityTerm, listers: &Listers) -> AffinityTerm {
    let mut term = term.clone();
    if term.namespace_selector.is_empty() || term.namespace_selector.is_nothing() {
        return term;
    }
    let selected = listers.namespaces.list();
    let selected = selected.iter().filter(|n| labels::matches(&term.namespace_selector, n.metadata.labels.as_ref()));
    term.namespaces.extend(selected.map(|n| n.name().to_owned()));
    term.namespace_selector = LabelSelector::nothing();
    term
}

/// Sums of weights by topology, while they are gathered.
struct Preferences<'a> {
    wants: Vec<WeightedTerm>,
    avoids: Vec<WeightedTerm>,
    namespace_labels: Option<Labels>,
    pod: &'a Pod,
    scores: HashMap<String, HashMap<String, i64>>,
}

impl Preferences<'_> {
    /// `processExistingPod`.
    fn count(&mut self, running: &PodInfo, node: &NodeInfo) {
        let Self { wants, avoids, namespace_labels, pod, scores } = self;
        let mut add = |term: &AffinityTerm, matches: bool, weight: i64| {
            let Some(value) = node.label(&term.topology_key).filter(|_| matches) else { return };
            let of_key = scores.entry(term.topology_key.clone()).or_default();
            *of_key.entry(value.to_owned()).or_default() += weight;
        };
        for (terms, sign) in [(&*wants, 1), (&*avoids, -1)] {
            terms.iter().for_each(|t| add(&t.term, t.term.matches(&running.pod, None), t.weight * sign));
        }
        let ours = namespace_labels.as_ref();
        running.required_affinity.iter().for_each(|t| add(t, t.matches(pod, ours), HARD_WEIGHT));
        for (terms, sign) in [(&running.preferred_affinity, 1), (&running.preferred_anti_affinity, -1)] {
            terms.iter().for_each(|t| add(&t.term, t.term.matches(pod, ours), t.weight * sign));
        }
    }
}

/// Scores by topology key and value.
struct Topologies(HashMap<String, HashMap<String, i64>>);

impl Scorer for Topologies {
    fn score(&self, node: &NodeInfo) -> i64 {
        let of = |(key, values): (&String, &HashMap<String, i64>)| {
            node.label(key).and_then(|value| values.get(value)).copied().unwrap_or_default()
        };
        self.0.iter().map(of).sum()
    }

    fn normalize(&self, _: &[Arc<NodeInfo>], scores: &mut [i64]) {
        let (Some(least), Some(most)) = (scores.iter().copied().min(), scores.iter().copied().max()) else { return };
        for score in scores {
            let span = most - least;
            let part = if span > 0 { (*score - least) as f64 / span as f64 } else { 0.0 };
            *score = (MAX_SCORE as f64 * part) as i64;
        }
    }
}

/// `isSchedulableAfterAssignedPodChange`.
fn wakes_on_pod(pod: &Pod, change: &Change<Pod>) -> bool {
    let placed = |p: &Arc<Pod>| assigned_node(p).is_some() || nominated_node(p).is_some();
    if !change.now().is_none_or(placed) || !change.old().is_none_or(placed) {
        return false;
    }
    let waiting = PodInfo::new(Arc::new(pod.clone()));
    let (wants, avoids) = (&waiting.required_affinity, &waiting.required_anti_affinity);
    match change {
        Change::Updated { old, new } => {
            !matches_all(wants, old) && matches_all(wants, new) || matches_any(avoids, old) && !matches_any(avoids, new)
        }
        Change::Added(new) => matches_all(wants, new),
        Change::Deleted(old) => {
            matches_any(avoids, old) || matches_any(&PodInfo::new(old.clone()).required_anti_affinity, pod)
        }
    }
}

/// `isSchedulableAfterNodeChange`.
fn wakes_on_node(pod: &Pod, change: &Change<Node>) -> bool {
    let Some(new) = change.now() else { return false };
    let waiting = PodInfo::new(Arc::new(pod.clone()));
    let wanted = waiting.required_affinity.iter().any(|term| match change.old() {
        None => new.label(&term.topology_key).is_some(),
        Some(old) => {
            let now = new.label(&term.topology_key);
            now.is_some() && now != old.label(&term.topology_key)
        }
    });
    wanted
        || waiting.required_anti_affinity.iter().any(|term| match change.old() {
            None => true,
            Some(old) => {
                let before = old.label(&term.topology_key);
                before.is_some() && before != new.label(&term.topology_key)
            }
        })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::cache::{Cache, Snapshot};

    fn pod(uid: &str, app: &str, affinity: Value) -> Arc<PodInfo> {
        let metadata = json!({"name": uid, "namespace": "n", "uid": uid, "labels": {"app": app}});
        let pod = json!({"metadata": metadata, "spec": {"containers": [], "affinity": affinity}});
        Arc::new(PodInfo::new(Arc::new(serde_json::from_value(pod).unwrap())))
    }

    fn term(app: &str, key: &str) -> Value {
        json!({"labelSelector": {"matchLabels": {"app": app}}, "topologyKey": key})
    }

    fn required(kind: &str, app: &str, key: &str) -> Value {
        json!({kind: {"requiredDuringSchedulingIgnoredDuringExecution": [term(app, key)]}})
    }

    fn world(running: &[(&str, Arc<PodInfo>)]) -> Snapshot {
        let (mut cache, mut snapshot) = (Cache::default(), Snapshot::default());
        for (name, zone) in [("a1", "a"), ("a2", "a"), ("b1", "b")] {
            let labels = json!({"host": name, "zone": zone});
            let node: Node = serde_json::from_value(json!({"metadata": {"name": name, "labels": labels}})).unwrap();
            cache.set_node(&Arc::new(node));
        }
        running.iter().for_each(|(node, pod)| cache.place(node, pod.clone()));
        cache.update(&mut snapshot);
        snapshot
    }

    /// Which nodes take the pod.
    fn check(pod: &Arc<PodInfo>, running: &[(&str, Arc<PodInfo>)], expected: &[&str]) {
        let snapshot = world(running);
        let listers = Arc::new(Listers::fake());
        let prepared = InterPodAffinity.prepare(pod, World { snapshot: &snapshot, listers: &listers });
        let mut fits: Vec<&str> = snapshot
            .nodes()
            .iter()
            .filter(|node| match &prepared {
                Prepared::Check(check) => check.check(node).is_ok(),
                _ => true,
            })
            .map(|node| node.name())
            .collect();
        fits.sort_unstable();
        assert_eq!(fits, expected);
    }

    #[test]
    fn required_terms_count_by_topology() {
        let web = || pod("w", "web", Value::Null);
        check(&pod("p", "x", required("podAffinity", "web", "zone")), &[("a1", web())], &["a1", "a2"]);
        check(&pod("p", "x", required("podAffinity", "web", "host")), &[("a1", web())], &["a1"]);
        check(&pod("p", "x", required("podAntiAffinity", "web", "zone")), &[("a1", web())], &["b1"]);
        check(&pod("p", "x", required("podAffinity", "web", "zone")), &[], &[]);
    }

    #[test]
    fn the_first_of_a_group_may_go_anywhere_that_has_the_topology() {
        check(&pod("p", "web", required("podAffinity", "web", "zone")), &[], &["a1", "a2", "b1"]);
        check(&pod("p", "web", required("podAffinity", "web", "rack")), &[], &[]);
    }

    #[test]
    fn running_pods_keep_others_away() {
        let shy = pod("s", "web", required("podAntiAffinity", "x", "zone"));
        check(&pod("p", "x", Value::Null), &[("b1", shy.clone())], &["a1", "a2"]);
        check(&pod("p", "y", Value::Null), &[("b1", shy)], &["a1", "a2", "b1"]);
    }

    #[test]
    fn preferences_score_by_topology() {
        let snapshot = world(&[("a1", pod("w", "web", Value::Null))]);
        let listers = Arc::new(Listers::fake());
        let wants = json!({"podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": 7, "podAffinityTerm": term("web", "zone")},
        ]}});
        let world = World { snapshot: &snapshot, listers: &listers };
        let scorer = InterPodAffinity.scorer(&pod("p", "x", wants), snapshot.nodes(), world).unwrap();
        let mut scores: Vec<i64> = snapshot.nodes().iter().map(|node| scorer.score(node)).collect();
        scorer.normalize(snapshot.nodes(), &mut scores);
        let by_name: Vec<(&str, i64)> = snapshot.nodes().iter().map(|n| n.name()).zip(scores).collect();
        assert_eq!(by_name, [("a1", 100), ("a2", 100), ("b1", 0)]);
    }

    #[test]
    fn a_waiting_pod_wakes_for_pods_and_nodes_that_its_terms_mean() {
        let listers = Listers::fake();
        let waiting = pod("p", "x", required("podAffinity", "web", "zone"));
        let placed = |app: &str| {
            let mut pod = (*pod("w", app, Value::Null).pod).clone();
            pod.spec.as_mut().unwrap().node_name = Some("a1".into());
            ClusterEvent::AssignedPod(Change::Added(Arc::new(pod)))
        };
        assert!(InterPodAffinity.wakes(&waiting.pod, &placed("web"), &listers));
        assert!(!InterPodAffinity.wakes(&waiting.pod, &placed("db"), &listers));
    }
}
