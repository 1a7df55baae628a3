//! Taints, conditions and rates of nodes (`node_lifecycle_controller.go`). Pure.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use client::Resource;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, NodeCondition, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{is_ready, ready_condition};
use crate::taints::{self, NO_EXECUTE, NO_SCHEDULE, NOT_READY, UNREACHABLE, UNSCHEDULABLE};

const EXCLUDED: &str = "node.kubernetes.io/exclude-disruption";
/// A zone of fewer nodes is not tainted at all when most of them are ill (`--large-cluster-size-threshold`).
const LARGE: usize = 50;
/// `--unhealthy-zone-threshold`, in hundredths.
const UNHEALTHY_PERCENT: usize = 55;
/// Seconds between taints: `--node-eviction-rate` 0.1, `--secondary-node-eviction-rate` 0.01.
const INTERVAL: SignedDuration = SignedDuration::from_secs(10);
const SECONDARY_INTERVAL: SignedDuration = SignedDuration::from_secs(100);
/// When to look again at a node that may not be tainted now.
const RECHECK: Duration = Duration::from_secs(5);

/// Conditions, the status in which they taint, and the taint.
const BY_CONDITION: [(&str, &str, &str); 6] = [
    ("Ready", "False", NOT_READY),
    ("Ready", "Unknown", UNREACHABLE),
    ("MemoryPressure", "True", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
    ("NetworkUnavailable", "True", "node.kubernetes.io/network-unavailable"),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
];

/// Conditions that a kubelet reports and that become unknown with it.
const KUBELET_CONDITIONS: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

const LABELS: [(&str, &str); 2] =
    [("kubernetes.io/os", "beta.kubernetes.io/os"), ("kubernetes.io/arch", "beta.kubernetes.io/arch")];

/// The NoExecute taint that a node's Ready condition calls for.
pub(super) fn no_execute_taint(node: &Node) -> Option<&'static str> {
    match ready_condition(node)?.status.as_str() {
        "False" => Some(NOT_READY),
        "Unknown" => Some(UNREACHABLE),
        _ => None,
    }
}

pub(super) fn has_no_execute(node: &Node) -> bool {
    taints::of(node).iter().any(|t| t.effect == NO_EXECUTE && is_readiness(&t.key))
}

fn is_readiness(key: &str) -> bool {
    key == NOT_READY || key == UNREACHABLE
}

/// The node's taints as they should be; `None` if they are.
pub(super) fn taints(node: &Node, execute: Option<&str>, now: Timestamp) -> Option<Vec<Taint>> {
    let conditions = node.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    let mut wanted: Vec<(&str, &str)> = BY_CONDITION
        .iter()
        .filter(|(kind, status, _)| conditions.iter().any(|c| c.type_ == *kind && c.status == *status))
        .map(|(_, _, key)| (*key, NO_SCHEDULE))
        .collect();
    if node.spec.as_ref().and_then(|s| s.unschedulable) == Some(true) {
        wanted.push((UNSCHEDULABLE, NO_SCHEDULE));
    }
    wanted.extend(execute.map(|key| (key, NO_EXECUTE)));
    let is_ours = |taint: &Taint| match taint.effect.as_str() {
        NO_SCHEDULE => taint.key == UNSCHEDULABLE || BY_CONDITION.iter().any(|(_, _, key)| *key == taint.key),
        NO_EXECUTE => is_readiness(&taint.key),
        _ => false,
    };
    let current = taints::of(node);
    let mut taints: Vec<Taint> = current
        .iter()
        .filter(|t| !is_ours(t) || wanted.contains(&(t.key.as_str(), t.effect.as_str())))
        .cloned()
        .collect();
    for (key, effect) in wanted {
        if !taints.iter().any(|t| t.key == key && t.effect == effect) {
            taints.push(Taint {
                key: key.to_owned(),
                effect: effect.to_owned(),
                value: None,
                time_added: Some(Time(now)),
            });
        }
    }
    (taints != current).then_some(taints)
}

/// Makes the kubelet's conditions unknown; false if they are.
pub(super) fn set_unknown(node: &mut Node, now: Timestamp) -> bool {
    let created = node.metadata.creation_timestamp.clone();
    let conditions = node.status.get_or_insert_default().conditions.get_or_insert_default();
    let mut changed = false;
    for kind in KUBELET_CONDITIONS {
        match conditions.iter_mut().find(|c| c.type_ == kind) {
            None => {
                conditions.push(NodeCondition {
                    type_: kind.to_owned(),
                    status: "Unknown".to_owned(),
                    reason: Some("NodeStatusNeverUpdated".to_owned()),
                    message: Some("Kubelet never posted node status.".to_owned()),
                    last_heartbeat_time: created.clone(),
                    last_transition_time: Some(Time(now)),
                });
                changed = true;
            }
            Some(condition) if condition.status != "Unknown" => {
                condition.status = "Unknown".to_owned();
                condition.reason = Some("NodeStatusUnknown".to_owned());
                condition.message = Some("Kubelet stopped posting node status.".to_owned());
                condition.last_transition_time = Some(Time(now));
                changed = true;
            }
            Some(_) => {}
        }
    }
    changed
}

/// Labels to add or correct.
pub(super) fn missing_labels(node: &Node) -> BTreeMap<&'static str, String> {
    LABELS
        .iter()
        .filter_map(|(stable, beta)| {
            let value = node.label(stable)?;
            (node.label(beta) != Some(value)).then(|| (*beta, value.to_owned()))
        })
        .collect()
}

/// Region and zone (`nodetopology.GetZoneKey`).
pub(super) fn zone(node: &Node) -> String {
    let label = |key: &str| node.label(key).unwrap_or_default().to_owned();
    format!("{}:\0:{}", label("topology.kubernetes.io/region"), label("topology.kubernetes.io/zone"))
}

/// How ill a zone is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ZoneState {
    Normal,
    Partial,
    Full,
}

/// The state and size of each zone (`ComputeZoneState`).
pub(super) fn zone_states(nodes: &[Arc<Node>]) -> HashMap<String, (ZoneState, usize)> {
    let mut counts: HashMap<String, (usize, usize)> = HashMap::new();
    for node in nodes.iter().filter(|n| n.label(EXCLUDED).is_none()) {
        let (ready, ill) = counts.entry(zone(node)).or_default();
        *(if is_ready(node) { ready } else { ill }) += 1;
    }
    counts
        .into_iter()
        .map(|(zone, (ready, ill))| {
            let state = if ready == 0 && ill > 0 {
                ZoneState::Full
            } else if ill > 2 && ill * 100 >= UNHEALTHY_PERCENT * (ill + ready) {
                ZoneState::Partial
            } else {
                ZoneState::Normal
            };
            (zone, (state, ready + ill))
        })
        .collect()
}

/// When the last node of a zone was tainted.
#[derive(Debug, Default)]
pub(super) struct Rate {
    last: Option<Timestamp>,
}

impl Rate {
    /// `None`: taint now. Otherwise when to ask again.
    pub(super) fn take(&mut self, state: ZoneState, size: usize, now: Timestamp) -> Option<Duration> {
        let interval = match state {
            ZoneState::Normal | ZoneState::Full => INTERVAL,
            ZoneState::Partial if size > LARGE => SECONDARY_INTERVAL,
            ZoneState::Partial => return Some(RECHECK),
        };
        let left = self.last.map_or(SignedDuration::ZERO, |last| interval - now.duration_since(last));
        if left <= SignedDuration::ZERO {
            self.last = Some(now);
            return None;
        }
        Some(Duration::try_from(left).unwrap_or(RECHECK))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn node(ready: &str, taints: serde_json::Value) -> Node {
        serde_json::from_value(json!({
            "metadata": {"name": "n"}, "spec": {"taints": taints},
            "status": {"conditions": [{"type": "Ready", "status": ready}]},
        }))
        .unwrap()
    }

    fn keys(taints: &[Taint]) -> Vec<(String, String)> {
        taints.iter().map(|t| (t.key.clone(), t.effect.clone())).collect()
    }

    #[test]
    fn conditions_become_taints_and_others_stay() {
        let now = Timestamp::UNIX_EPOCH;
        let ill = node("False", json!([{"key": "mine", "effect": "NoSchedule"}]));
        let wanted = taints(&ill, no_execute_taint(&ill), now).unwrap();
        let pair = |k: &str, e: &str| (k.to_owned(), e.to_owned());
        assert_eq!(
            keys(&wanted),
            [pair("mine", NO_SCHEDULE), pair(NOT_READY, NO_SCHEDULE), pair(NOT_READY, NO_EXECUTE)]
        );
        let well = node("True", serde_json::to_value(&wanted).unwrap());
        assert_eq!(keys(&taints(&well, None, now).unwrap()), [pair("mine", NO_SCHEDULE)]);
        assert_eq!(taints(&node("True", json!([])), None, now), None);
    }

    #[test]
    fn a_silent_node_becomes_unknown_once() {
        let mut silent = node("True", json!([]));
        assert!(set_unknown(&mut silent, Timestamp::UNIX_EPOCH));
        assert!(!set_unknown(&mut silent, Timestamp::MAX));
        let ready = ready_condition(&silent).unwrap();
        assert_eq!((ready.status.as_str(), ready.reason.as_deref()), ("Unknown", Some("NodeStatusUnknown")));
        assert_eq!(silent.status.unwrap().conditions.unwrap().len(), 4);
    }

    #[test]
    fn zones_are_normal_partly_or_fully_disrupted() {
        let check = |ready: usize, ill: usize, expected: ZoneState| {
            let of =
                |status: &str, count: usize| (0..count).map(|_| Arc::new(node(status, json!([])))).collect::<Vec<_>>();
            let mut nodes = of("True", ready);
            nodes.extend(of("Unknown", ill));
            assert_eq!(zone_states(&nodes).into_values().next().unwrap(), (expected, ready + ill), "{ready} {ill}");
        };
        check(1, 0, ZoneState::Normal);
        check(0, 1, ZoneState::Full);
        check(1, 2, ZoneState::Normal);
        check(2, 3, ZoneState::Partial);
    }

    #[test]
    fn tainting_is_paced() {
        let mut rate = Rate::default();
        let at = |s: i64| Timestamp::from_second(s).unwrap();
        assert_eq!(rate.take(ZoneState::Normal, 3, at(0)), None);
        assert_eq!(rate.take(ZoneState::Normal, 3, at(4)), Some(Duration::from_secs(6)));
        assert_eq!(rate.take(ZoneState::Normal, 3, at(10)), None);
        assert!(rate.take(ZoneState::Partial, 3, at(100)).is_some());
        assert_eq!(rate.take(ZoneState::Partial, 51, at(200)), None);
    }
}
