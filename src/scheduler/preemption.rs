//! Who would have to go so that a pod fits (upstream `framework/preemption` and `plugins/defaultpreemption`). Pure.

use std::cmp::Reverse;
use std::sync::Arc;

use client::Resource;
use client::k8s_openapi::api::policy::v1::PodDisruptionBudget;

use crate::cache::NodeInfo;
use crate::cycle::{Diagnosis, Filters, Input, Nomination};
use crate::framework::{Code, Rejection};
use crate::labels;
use crate::pod_info::PodInfo;

/// The least number of nodes that are tried (`MinCandidateNodesAbsolute`), and the least percentage of many.
const CANDIDATES_LEAST: usize = 100;
const CANDIDATES_PERCENTAGE: usize = 10;

/// What preemption would do.
#[derive(Debug)]
pub struct Preemption {
    pub nomination: Nomination,
    /// On the nominated node, most important first.
    pub victims: Vec<Arc<PodInfo>>,
    pub message: String,
}

/// A node where evicting helps.
struct Candidate {
    node: String,
    victims: Vec<Arc<PodInfo>>,
    /// How many of them a disruption budget protects.
    violations: usize,
}

/// Chooses a node and its victims (`Evaluator.evaluate`).
pub fn evaluate(input: &Input<'_>, filters: &Filters, diagnosis: &Diagnosis) -> Preemption {
    if let Some(reason) = ineligible(input, diagnosis) {
        return Preemption { nomination: Nomination::Keep, victims: Vec::new(), message: reason.to_owned() };
    }
    let snapshot = input.world.snapshot;
    let potential: Vec<&Arc<NodeInfo>> = diagnosis
        .rejections
        .iter()
        .filter(|(_, rejection)| rejection.code == Code::Unschedulable)
        .filter_map(|(name, _)| snapshot.get(name))
        .collect();
    let mut said = Diagnosis {
        nodes: snapshot.len(),
        absent: Some(Rejection::unresolvable("Preemption is not helpful for scheduling")),
        ..Diagnosis::default()
    };
    let candidates = candidates(input, filters, &potential, &mut said);
    match choose(candidates) {
        Some(chosen) => Preemption {
            message: format!(
                "found a potential placement for pod on node {}, preempting {} victims",
                chosen.node,
                chosen.victims.len()
            ),
            nomination: Nomination::Node(chosen.node),
            victims: chosen.victims,
        },
        None => Preemption { nomination: Nomination::Clear, victims: Vec::new(), message: said.message() },
    }
}

/// Why the pod may not preempt at all (`PodEligibleToPreemptOthers`).
fn ineligible(input: &Input<'_>, diagnosis: &Diagnosis) -> Option<&'static str> {
    let pod = input.pod;
    if pod.pod.spec.as_ref().and_then(|s| s.preemption_policy.as_deref()) == Some("Never") {
        return Some("not eligible due to preemptionPolicy=Never.");
    }
    let nominated = pod.nominated_node()?;
    if diagnosis.code(nominated) == Some(Code::Unresolvable) {
        return None;
    }
    let waits = |victim: &&Arc<PodInfo>| victim.priority < pod.priority && ends_for_another(victim);
    let node = input.world.snapshot.get(nominated)?;
    node.pods.iter().find(waits).map(|_| "not eligible due to a terminating pod on the nominated node.")
}

/// `PodTerminatingByPreemption`.
fn ends_for_another(pod: &PodInfo) -> bool {
    let conditions = pod.pod.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    pod.pod.is_deleting()
        && conditions.iter().any(|c| {
            c.type_ == "DisruptionTarget" && c.status == "True" && c.reason.as_deref() == Some("PreemptionByScheduler")
        })
}

/// Tries the nodes, from somewhere in the middle, until there are enough (`DryRunPreemption`).
fn candidates(
    input: &Input<'_>,
    filters: &Filters,
    potential: &[&Arc<NodeInfo>],
    said: &mut Diagnosis,
) -> Vec<Candidate> {
    let budgets = input.world.listers.budgets.list();
    let enough = (potential.len() * CANDIDATES_PERCENTAGE / 100).max(CANDIDATES_LEAST).min(potential.len());
    let (mut clean, mut violating) = (Vec::new(), Vec::new());
    for at in 0..potential.len() {
        let node = potential[(input.tie + at) % potential.len()];
        match victims_on(input, filters, node, &budgets) {
            Ok(candidate) if candidate.violations == 0 => clean.push(candidate),
            Ok(candidate) => violating.push(candidate),
            Err(rejection) => {
                said.rejections.insert(node.name().to_owned(), rejection);
            }
        }
        if !clean.is_empty() && clean.len() + violating.len() >= enough {
            break;
        }
    }
    clean.append(&mut violating);
    clean
}

/// The fewest and least important pods that must leave the node (`SelectVictimsOnNode`): all lesser ones are taken away,
/// then given back one by one, the most important first, as long as the pod still fits.
fn victims_on(
    input: &Input<'_>,
    filters: &Filters,
    node: &NodeInfo,
    budgets: &[Arc<PodDisruptionBudget>],
) -> Result<Candidate, Rejection> {
    let mut lesser: Vec<Arc<PodInfo>> =
        node.pods.iter().filter(|other| other.priority < input.pod.priority).cloned().collect();
    if lesser.is_empty() {
        return Err(Rejection::unresolvable("No preemption victims found for incoming pod"));
    }
    let (mut filters, mut emptied) = (filters.clone(), node.clone());
    for victim in &lesser {
        filters.remove(&mut emptied, victim);
    }
    let fits = |filters: &Filters, node: &NodeInfo| filters.run_with_nominated(input.pod, node, input.nominator);
    fits(&filters, &emptied).map_err(|(_, rejection)| rejection)?;
    lesser.sort_by_key(importance);
    let (protected, free) = by_budget(lesser, budgets);
    let (mut victims, mut violations) = (Vec::new(), 0);
    for (pod, protected) in protected.into_iter().map(|p| (p, true)).chain(free.into_iter().map(|p| (p, false))) {
        filters.add(&mut emptied, &pod);
        if fits(&filters, &emptied).is_err() {
            filters.remove(&mut emptied, &pod);
            violations += usize::from(protected);
            victims.push(pod);
        }
    }
    victims.sort_by_key(importance);
    if victims.is_empty() {
        let text = format!("expected at least one victim pod on node \"{}\"", node.name());
        return Err(Rejection { reasons: vec![text], code: Code::Error });
    }
    Ok(Candidate { node: node.name().to_owned(), victims, violations })
}

/// Orders the most important first: priority, then who started earlier (`MoreImportantVictim`).
fn importance(pod: &Arc<PodInfo>) -> (Reverse<i32>, i128) {
    (Reverse(pod.priority), started(pod))
}

/// Nanoseconds; a pod that has not started counts as starting now.
fn started(pod: &PodInfo) -> i128 {
    let time = pod.pod.status.as_ref().and_then(|s| s.start_time.as_ref());
    time.map_or(i128::MAX, |time| time.0.as_nanosecond())
}

/// Those whose eviction breaks a disruption budget, and the others (`FilterVictimsWithPDBViolation`).
fn by_budget(pods: Vec<Arc<PodInfo>>, budgets: &[Arc<PodDisruptionBudget>]) -> (Vec<Arc<PodInfo>>, Vec<Arc<PodInfo>>) {
    let mut left: Vec<i32> =
        budgets.iter().map(|b| b.status.as_ref().and_then(|s| s.disruptions_allowed).unwrap_or_default()).collect();
    let selectors: Vec<_> =
        budgets.iter().map(|b| labels::selector(b.spec.as_ref().and_then(|s| s.selector.as_ref()))).collect();
    pods.into_iter().partition(|pod| {
        let labelled = pod.labels().is_some_and(|labels| !labels.is_empty());
        for (at, budget) in budgets.iter().enumerate() {
            let disrupted = budget.status.as_ref().and_then(|s| s.disrupted_pods.as_ref());
            let matches = labelled
                && budget.namespace() == pod.namespace()
                && !selectors[at].is_empty()
                && labels::matches(&selectors[at], pod.labels())
                && !disrupted.is_some_and(|disrupted| disrupted.contains_key(pod.pod.name()));
            if matches {
                left[at] -= 1;
                if left[at] < 0 {
                    return true;
                }
            }
        }
        false
    })
}

/// The node where it hurts least (`pickOneNodeForPreemption`): fewest broken budgets, least important highest victim,
/// smallest sum of priorities, fewest victims, youngest among the highest.
fn choose(candidates: Vec<Candidate>) -> Option<Candidate> {
    candidates.into_iter().min_by_key(|candidate| {
        let highest = candidate.victims.iter().map(|v| v.priority).max().unwrap_or_default();
        let sum: i64 = candidate.victims.iter().map(|v| i64::from(v.priority) + i64::from(i32::MAX) + 1).sum();
        let oldest = candidate.victims.iter().filter(|v| v.priority == highest).map(|v| started(v)).min();
        (candidate.violations, highest, sum, candidate.victims.len(), Reverse(oldest))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::cycle::tests::{node, pod, run, snapshot};
    use crate::cycle::{Decision, Rejected};
    use crate::listers::Listers;

    fn running(uid: &str, cpu: &str, priority: i32, started: &str) -> Arc<PodInfo> {
        let mut info = (*pod(uid, cpu, json!({"priority": priority}))).clone();
        let mut object = (*info.pod).clone();
        object.status = serde_json::from_value(json!({"startTime": format!("2026-01-01T00:00:{started}Z")})).unwrap();
        info.pod = Arc::new(object);
        Arc::new(info)
    }

    fn rejected(pod: &Arc<PodInfo>, nodes: &[Value], on: &[(&str, Arc<PodInfo>)], listers: Listers) -> Rejected {
        match run(pod, &snapshot(nodes, on), listers, 0) {
            Decision::Rejected(rejected) => rejected,
            other => panic!("{other:?}"),
        }
    }

    fn victims(rejected: &Rejected) -> Vec<&str> {
        rejected.victims.iter().map(|victim| &*victim.uid).collect()
    }

    #[test]
    fn the_least_important_pods_that_make_room_must_go() {
        let on = [
            ("a", running("old", "1", 0, "01")),
            ("a", running("new", "1", 0, "02")),
            ("a", running("top", "1", 5, "03")),
        ];
        let preemptor = pod("p", "1", json!({"priority": 10}));
        let rejected = rejected(&preemptor, &[node("a", "3", false)], &on, Listers::fake());
        assert_eq!(victims(&rejected), ["new"]);
        assert_eq!(rejected.nomination, Nomination::Node("a".into()));
        let expected = "0/1 nodes are available: 1 Insufficient cpu. preemption: found a potential placement for pod on \
                        node a, preempting 1 victims";
        assert_eq!(rejected.message, expected);
    }

    #[test]
    fn the_node_with_the_least_important_victims_is_chosen() {
        let on = [("a", running("five", "1", 5, "01")), ("b", running("three", "1", 3, "01"))];
        let preemptor = pod("p", "1", json!({"priority": 10}));
        let nodes = [node("a", "1", false), node("b", "1", false)];
        assert_eq!(victims(&rejected(&preemptor, &nodes, &on, Listers::fake())), ["three"]);
    }

    #[test]
    fn a_pod_under_a_budget_goes_last() {
        let listers = Listers::fake();
        let budget = json!({
            "metadata": {"name": "b", "namespace": "n"},
            "spec": {"selector": {"matchLabels": {"app": "new"}}},
            "status": {"disruptionsAllowed": 0, "currentHealthy": 1, "desiredHealthy": 1, "expectedPods": 1},
        });
        listers.budgets.put(serde_json::from_value(budget).unwrap());
        let on = [("a", running("old", "1", 0, "01")), ("a", running("new", "1", 0, "02"))];
        let preemptor = pod("p", "1", json!({"priority": 10}));
        assert_eq!(victims(&rejected(&preemptor, &[node("a", "2", false)], &on, listers)), ["old"]);
    }

    #[test]
    fn a_pod_that_never_preempts_waits() {
        let on = [("a", running("r", "1", 0, "01"))];
        let preemptor = pod("p", "1", json!({"priority": 10, "preemptionPolicy": "Never"}));
        let rejected = rejected(&preemptor, &[node("a", "1", false)], &on, Listers::fake());
        assert_eq!(rejected.nomination, Nomination::Keep);
        assert!(rejected.message.ends_with("preemption: not eligible due to preemptionPolicy=Never."));
    }

    #[test]
    fn equal_priority_is_no_victim() {
        let on = [("a", running("r", "1", 10, "01"))];
        let preemptor = pod("p", "1", json!({"priority": 10}));
        let rejected = rejected(&preemptor, &[node("a", "1", false)], &on, Listers::fake());
        assert!(rejected.victims.is_empty());
        assert_eq!(rejected.nomination, Nomination::Clear);
    }
}
