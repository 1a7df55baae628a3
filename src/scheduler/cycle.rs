//! One decision: filter, score, choose, and preempt if nothing fits. Pure: everything it looks at comes in
//! (upstream `schedule_one.go`, `schedulingAlgorithm`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::cache::NodeInfo;
use crate::framework::{Check, Code, Plugin, Prepared, Rejection, World};
use crate::nominator::Nominator;
use crate::pod_info::PodInfo;
use crate::preemption;

/// Fewer nodes than this are always looked at all (`minFeasibleNodesToFind`).
const FEASIBLE_LEAST: usize = 100;
/// And at least this percentage of more (`minFeasibleNodesPercentageToFind`).
const PERCENTAGE_LEAST: usize = 5;

/// What a decision is about.
#[derive(Clone, Copy)]
pub struct Input<'a> {
    pub pod: &'a Arc<PodInfo>,
    pub world: World<'a>,
    pub nominator: &'a Nominator,
    pub plugins: &'a [&'a dyn Plugin],
    /// Where among the nodes the search starts, so that all get their turn.
    pub start: usize,
    /// Decides between equals: any number.
    pub tie: usize,
}

/// Where a pod goes, or why it goes nowhere.
#[derive(Debug)]
pub enum Decision {
    Node {
        name: String,
        /// How many nodes were looked at.
        evaluated: usize,
    },
    Rejected(Rejected),
    /// It could not be decided: tried again later.
    Failed(String),
}

/// A pod that fits nowhere now.
#[derive(Debug)]
pub struct Rejected {
    /// As `FailedScheduling` says it.
    pub message: String,
    /// Plugins that rejected.
    pub plugins: BTreeSet<&'static str>,
    pub nomination: Nomination,
    /// To be evicted from the nominated node, most important first.
    pub victims: Vec<Arc<PodInfo>>,
}

/// What becomes of `status.nominatedNodeName`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Nomination {
    Keep,
    Clear,
    Node(String),
}

/// Why no node does.
#[derive(Debug, Default)]
pub struct Diagnosis {
    /// How many nodes there are.
    pub nodes: usize,
    /// Said before any node was looked at.
    pub before: Option<String>,
    pub rejections: BTreeMap<String, Rejection>,
    /// Of nodes that are not in `rejections`.
    pub absent: Option<Rejection>,
    pub plugins: BTreeSet<&'static str>,
    /// What preemption said.
    pub after: String,
}

impl Diagnosis {
    /// As upstream's `FitError` words it: `0/2 nodes are available: 1 Insufficient cpu, 1 node(s) were unschedulable.`
    pub fn message(&self) -> String {
        let mut message = format!("0/{} nodes are available:", self.nodes);
        if let Some(before) = &self.before {
            message.push_str(&format!(" {before}."));
        } else {
            let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
            for reason in self.rejections.values().flat_map(|rejection| &rejection.reasons) {
                *counts.entry(reason).or_default() += 1;
            }
            let absent = self.nodes.saturating_sub(self.rejections.len());
            for reason in self.absent.iter().flat_map(|rejection| &rejection.reasons).filter(|_| absent > 0) {
                *counts.entry(reason).or_default() += absent;
            }
            let mut reasons: Vec<String> = counts.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
            reasons.sort();
            if !reasons.is_empty() {
                message.push_str(&format!(" {}.", reasons.join(", ")));
            }
        }
        if !self.after.is_empty() {
            message.push_str(&format!(" {}", self.after));
        }
        message
    }

    /// How a node was rejected.
    pub fn code(&self, node: &str) -> Option<Code> {
        self.rejections.get(node).or(self.absent.as_ref()).map(|rejection| rejection.code)
    }
}

/// The checks of all plugins that have something to say about a pod.
#[derive(Default)]
pub struct Filters {
    checks: Vec<(&'static str, Box<dyn Check>)>,
}

impl Clone for Filters {
    fn clone(&self) -> Self {
        Self { checks: self.checks.iter().map(|(name, check)| (*name, check.boxed())).collect() }
    }
}

impl Filters {
    /// The first rejection of a node, with the plugin that made it.
    pub fn run(&self, node: &NodeInfo) -> Result<(), (&'static str, Rejection)> {
        self.checks.iter().try_for_each(|(name, check)| check.check(node).map_err(|why| (*name, why)))
    }

    /// [`Filters::run`] with the pods of at least the same priority that were promised the node, and without them
    /// (`RunFilterPluginsWithNominatedPods`).
    pub fn run_with_nominated(
        &self,
        pod: &PodInfo,
        node: &NodeInfo,
        nominator: &Nominator,
    ) -> Result<(), (&'static str, Rejection)> {
        let promised: Vec<_> =
            nominator.on(node.name()).iter().filter(|p| p.priority >= pod.priority && p.uid != pod.uid).collect();
        if !promised.is_empty() {
            let (mut filters, mut crowded) = (self.clone(), node.clone());
            for other in promised {
                filters.add(&mut crowded, other);
            }
            filters.run(&crowded)?;
        }
        self.run(node)
    }

    pub fn add(&mut self, node: &mut NodeInfo, pod: &Arc<PodInfo>) {
        node.add(pod.clone());
        self.checks.iter_mut().for_each(|(_, check)| check.add_pod(pod, node));
    }

    pub fn remove(&mut self, node: &mut NodeInfo, pod: &PodInfo) {
        node.remove(&pod.uid);
        self.checks.iter_mut().for_each(|(_, check)| check.remove_pod(pod, node));
    }
}

/// Chooses a node, or says why there is none and who would have to go.
pub fn decide(input: &Input<'_>) -> Decision {
    let nodes = input.world.snapshot.nodes();
    if nodes.is_empty() {
        return Decision::Rejected(Rejected {
            message: "no nodes available to schedule pods".to_owned(),
            plugins: BTreeSet::from([crate::queue::ANY]),
            nomination: Nomination::Clear,
            victims: Vec::new(),
        });
    }
    let mut diagnosis = Diagnosis { nodes: nodes.len(), ..Diagnosis::default() };
    let mut feasible = Vec::new();
    let filters = match prepare(input, &mut diagnosis) {
        Ok((filters, only)) => {
            match find(input, &filters, only.as_ref(), &mut diagnosis) {
                Ok(found) => feasible = found,
                Err(error) => return Decision::Failed(error),
            }
            filters
        }
        Err(rejection) if rejection.code == Code::Error => return Decision::Failed(rejection.reasons.join(", ")),
        Err(rejection) => {
            diagnosis.before = Some(rejection.reasons.join(", "));
            diagnosis.absent = Some(rejection);
            Filters::default()
        }
    };
    let evaluated = feasible.len() + diagnosis.rejections.len();
    match feasible.as_slice() {
        [] => Decision::Rejected(reject(input, &filters, diagnosis)),
        [only] => Decision::Node { name: only.name().to_owned(), evaluated },
        _ => Decision::Node { name: best(input, &feasible), evaluated },
    }
}

fn prepare(input: &Input<'_>, diagnosis: &mut Diagnosis) -> Result<(Filters, Option<BTreeSet<String>>), Rejection> {
    let mut filters = Filters::default();
    let mut only: Option<BTreeSet<String>> = None;
    let mut narrowing = Vec::new();
    for plugin in input.plugins {
        match plugin.prepare(input.pod, input.world) {
            Prepared::Skip => {}
            Prepared::Check(check) => filters.checks.push((plugin.name(), check)),
            Prepared::Only(names, check) => {
                filters.checks.push((plugin.name(), check));
                narrowing.push(plugin.name());
                only = Some(only.map_or(names.clone(), |held| held.intersection(&names).cloned().collect()));
            }
            Prepared::Rejected(rejection) => {
                diagnosis.plugins.insert(plugin.name());
                return Err(rejection);
            }
        }
    }
    if only.is_some() {
        let reason = format!("node(s) didn't satisfy plugin(s) [{}]", narrowing.join(" "));
        diagnosis.absent = Some(Rejection::unresolvable(reason));
        diagnosis.plugins.extend(narrowing);
    }
    Ok((filters, only))
}

/// Nodes that pass (`findNodesThatFitPod`): the promised one alone if it does.
fn find(
    input: &Input<'_>,
    filters: &Filters,
    only: Option<&BTreeSet<String>>,
    diagnosis: &mut Diagnosis,
) -> Result<Vec<Arc<NodeInfo>>, String> {
    let snapshot = input.world.snapshot;
    if let Some(promised) = input.pod.nominated_node().and_then(|name| snapshot.get(name)) {
        let found = pass(input, filters, std::slice::from_ref(promised), diagnosis)?;
        if !found.is_empty() {
            return Ok(found);
        }
    }
    match only {
        Some(names) => {
            let nodes: Vec<Arc<NodeInfo>> = names.iter().filter_map(|name| snapshot.get(name)).cloned().collect();
            pass(input, filters, &nodes, diagnosis)
        }
        None => pass(input, filters, snapshot.nodes(), diagnosis),
    }
}

fn pass(
    input: &Input<'_>,
    filters: &Filters,
    nodes: &[Arc<NodeInfo>],
    diagnosis: &mut Diagnosis,
) -> Result<Vec<Arc<NodeInfo>>, String> {
    let enough = enough(nodes.len());
    let mut passed = Vec::with_capacity(enough);
    for at in 0..nodes.len() {
        let node = &nodes[(input.start + at) % nodes.len()];
        match filters.run_with_nominated(input.pod, node, input.nominator) {
            Ok(()) => {
                passed.push(node.clone());
                if passed.len() >= enough {
                    break;
                }
            }
            Err((plugin, rejection)) if rejection.code == Code::Error => {
                return Err(format!("running \"{plugin}\" filter plugin: {}", rejection.reasons.join(", ")));
            }
            Err((plugin, rejection)) => {
                diagnosis.plugins.insert(plugin);
                diagnosis.rejections.insert(node.name().to_owned(), rejection);
            }
        }
    }
    Ok(passed)
}

/// How many nodes that pass are enough to choose among (`numFeasibleNodesToFind`).
fn enough(nodes: usize) -> usize {
    if nodes < FEASIBLE_LEAST {
        return nodes;
    }
    let percentage = 50_usize.saturating_sub(nodes / 125).max(PERCENTAGE_LEAST);
    (nodes * percentage / 100).max(FEASIBLE_LEAST)
}

fn best(input: &Input<'_>, nodes: &[Arc<NodeInfo>]) -> String {
    let mut totals = vec![0_i64; nodes.len()];
    for plugin in input.plugins.iter().filter(|p| p.weight() > 0) {
        let Some(scorer) = plugin.scorer(input.pod, nodes, input.world) else { continue };
        let mut scores: Vec<i64> = nodes.iter().map(|node| scorer.score(node)).collect();
        scorer.normalize(nodes, &mut scores);
        for (total, score) in totals.iter_mut().zip(scores) {
            *total += score * plugin.weight();
        }
    }
    let top = totals.iter().copied().max().unwrap_or_default();
    let winners: Vec<_> = nodes.iter().zip(&totals).filter(|(_, total)| **total == top).collect();
    winners.get(input.tie % winners.len().max(1)).map(|(node, _)| node.name().to_owned()).unwrap_or_default()
}

fn reject(input: &Input<'_>, filters: &Filters, mut diagnosis: Diagnosis) -> Rejected {
    let preemption = preemption::evaluate(input, filters, &diagnosis);
    diagnosis.after = format!("preemption: {}", preemption.message);
    Rejected {
        message: diagnosis.message(),
        plugins: diagnosis.plugins,
        nomination: preemption.nomination,
        victims: preemption.victims,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use client::k8s_openapi::api::core::v1::Node;
    use serde_json::{Value, json};

    use super::*;
    use crate::cache::{Cache, Snapshot};
    use crate::listers::Listers;
    use crate::plugins::ALL;

    pub(crate) fn snapshot(nodes: &[Value], running: &[(&str, Arc<PodInfo>)]) -> Snapshot {
        let (mut cache, mut snapshot) = (Cache::default(), Snapshot::default());
        for node in nodes {
            let node: Node = serde_json::from_value(node.clone()).unwrap();
            cache.set_node(&Arc::new(node));
        }
        running.iter().for_each(|(node, pod)| cache.place(node, pod.clone()));
        cache.update(&mut snapshot);
        snapshot
    }

    pub(crate) fn node(name: &str, cpu: &str, cordoned: bool) -> Value {
        json!({
            "metadata": {"name": name},
            "spec": {"unschedulable": cordoned},
            "status": {"allocatable": {"cpu": cpu, "memory": "4Gi", "pods": "110"}},
        })
    }

    pub(crate) fn pod(uid: &str, cpu: &str, more: Value) -> Arc<PodInfo> {
        let mut spec = json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]});
        spec.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
        let metadata = json!({"name": uid, "namespace": "n", "uid": uid, "labels": {"app": uid}});
        Arc::new(PodInfo::new(Arc::new(serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap())))
    }

    pub(crate) fn run(pod: &Arc<PodInfo>, snapshot: &Snapshot, listers: Listers, tie: usize) -> Decision {
        let (listers, nominator) = (Arc::new(listers), Nominator::default());
        let world = World { snapshot, listers: &listers };
        decide(&Input { pod, world, nominator: &nominator, plugins: ALL, start: 0, tie })
    }

    fn chosen(pod: &Arc<PodInfo>, snapshot: &Snapshot, tie: usize) -> String {
        match run(pod, snapshot, Listers::fake(), tie) {
            Decision::Node { name, .. } => name,
            other => panic!("{other:?}"),
        }
    }

    fn message(pod: &Arc<PodInfo>, snapshot: &Snapshot) -> String {
        match run(pod, snapshot, Listers::fake(), 0) {
            Decision::Rejected(rejected) => rejected.message,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_larger_node_wins() {
        let snapshot = snapshot(&[node("small", "1", false), node("large", "8", false)], &[]);
        assert_eq!(chosen(&pod("p", "500m", json!({})), &snapshot, 0), "large");
    }

    #[test]
    fn equal_nodes_take_turns() {
        let snapshot = snapshot(&[node("a", "1", false), node("b", "1", false)], &[]);
        let pod = pod("p", "1m", json!({}));
        assert_ne!(chosen(&pod, &snapshot, 0), chosen(&pod, &snapshot, 1));
    }

    #[test]
    fn a_pod_that_fits_nowhere_is_told_why() {
        let two = snapshot(&[node("a", "1", false), node("b", "8", true)], &[]);
        let pod = pod("p", "2", json!({}));
        let expected = "0/2 nodes are available: 1 Insufficient cpu, 1 node(s) were unschedulable. preemption: 0/2 \
                        nodes are available: 2 Preemption is not helpful for scheduling.";
        assert_eq!(message(&pod, &two), expected);
        assert_eq!(message(&pod, &snapshot(&[], &[])), "no nodes available to schedule pods");
    }

    #[test]
    fn a_full_node_without_lesser_pods_offers_no_victims() {
        let snapshot = snapshot(&[node("a", "1", false)], &[("a", pod("r", "1", json!({})))]);
        let expected = "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 No \
                        preemption victims found for incoming pod.";
        assert_eq!(message(&pod("p", "1", json!({})), &snapshot), expected);
    }

    #[test]
    fn what_is_wrong_before_any_node_is_said_once() {
        let snapshot = snapshot(&[node("a", "1", false), node("b", "1", false)], &[]);
        let volumes = json!({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]});
        let expected = "0/2 nodes are available: persistentvolumeclaim \"c\" not found. preemption: 0/2 nodes are \
                        available: 2 Preemption is not helpful for scheduling.";
        assert_eq!(message(&pod("p", "1m", volumes), &snapshot), expected);
    }

    #[test]
    fn a_pod_that_names_its_node_is_told_about_the_others_together() {
        let snapshot = snapshot(&[node("a", "1", false), node("b", "1", false), node("c", "1", false)], &[]);
        let field = json!({"key": "metadata.name", "operator": "In", "values": ["a"]});
        let affinity = json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{"matchFields": [field]}],
        }}}});
        let expected = "0/3 nodes are available: 1 Insufficient cpu, 2 node(s) didn't satisfy plugin(s) [NodeAffinity]. \
                        preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling.";
        assert_eq!(message(&pod("p", "2", affinity), &snapshot), expected);
    }

    #[test]
    fn enough_nodes_end_the_search_in_large_clusters() {
        let check = |nodes: usize, expected: usize| assert_eq!(enough(nodes), expected, "{nodes}");
        check(1, 1);
        check(99, 99);
        check(150, 100);
        check(1000, 420);
        check(6000, 300);
    }
}
