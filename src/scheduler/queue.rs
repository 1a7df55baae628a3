//! Pods that wait for a node (upstream `pkg/scheduler/backend/queue`).
//!
//! A pod is active (to be tried now, highest priority first), backing off (tried lately) or unschedulable (nothing has
//! changed that could help). Events move it on; time does, too, but seldom. A plain state machine: the time comes in as
//! an argument and [`Queue::next_deadline`] says when to look again.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use client::k8s_openapi::api::core::v1::Pod;
use tokio::time::Instant;

use crate::framework::ClusterEvent;
use crate::plugins;

const BACKOFF_INITIAL: Duration = Duration::from_secs(1);
const BACKOFF_MOST: Duration = Duration::from_secs(10);
/// A pod that no event has woken is tried again after this long (upstream's flush interval).
const UNSCHEDULABLE_MOST: Duration = Duration::from_secs(5 * 60);

/// A waiting pod.
#[derive(Debug, Clone)]
pub struct Waiting {
    pub pod: Arc<Pod>,
    /// Tries so far.
    pub attempts: u32,
    state: State,
    /// Order of arrival, among pods of one priority.
    sequence: u64,
    /// Names of the plugins that rejected it last.
    rejected_by: BTreeSet<&'static str>,
    /// An event came while the pod was being tried: it must not be put aside.
    woken: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Gated,
    Active,
    BackingOff(Instant),
    Unschedulable {
        since: Instant,
        backoff_until: Instant,
    },
    /// Handed out by [`Queue::pop`].
    InFlight,
}

/// All waiting pods by uid.
#[derive(Debug, Default)]
pub struct Queue {
    pods: HashMap<String, Waiting>,
    /// Priority (high first), then arrival.
    active: BTreeSet<(Reverse<i32>, u64, String)>,
    sequence: u64,
}

impl Queue {
    /// A pod without a node appeared or changed.
    pub fn update(&mut self, uid: &str, pod: Arc<Pod>, now: Instant) {
        let gated = plugins::is_gated(&pod);
        if let Some(waiting) = self.pods.get(uid).cloned() {
            let spec_changed = waiting.pod.spec != pod.spec || waiting.pod.metadata.labels != pod.metadata.labels;
            if let Some(held) = self.pods.get_mut(uid) {
                held.pod = pod;
                held.woken |= spec_changed;
            }
            match waiting.state {
                State::Gated if !gated => self.activate(uid),
                // Its own change may have made it fit.
                State::Unschedulable { backoff_until, .. } if spec_changed => self.retry(uid, backoff_until, now),
                _ => {}
            }
            return;
        }
        self.sequence += 1;
        let waiting = Waiting {
            pod,
            attempts: 0,
            state: State::Gated,
            sequence: self.sequence,
            rejected_by: BTreeSet::new(),
            woken: false,
        };
        self.pods.insert(uid.to_owned(), waiting);
        if !gated {
            self.activate(uid);
        }
    }

    /// The pod got a node, ended or was deleted.
    pub fn remove(&mut self, uid: &str) {
        if let Some(waiting) = self.pods.remove(uid) {
            self.active.remove(&order(uid, &waiting));
        }
    }

    /// The next pod to try. It stays known until [`Queue::remove`] or [`Queue::put_back`].
    pub fn pop(&mut self, now: Instant) -> Option<(String, Waiting)> {
        self.advance(now);
        let (_, _, uid) = self.active.pop_first()?;
        let waiting = self.pods.get_mut(&uid)?;
        waiting.state = State::InFlight;
        waiting.woken = false;
        waiting.attempts += 1;
        Some((uid, waiting.clone()))
    }

    /// The try failed: by `rejected_by` if no node does, or by an error if that is empty.
    pub fn put_back(&mut self, uid: &str, rejected_by: BTreeSet<&'static str>, now: Instant) {
        let Some(waiting) = self.pods.get_mut(uid) else { return };
        let backoff_until = now + backoff(waiting.attempts);
        let retry = waiting.woken || rejected_by.is_empty();
        waiting.rejected_by = rejected_by;
        waiting.state =
            if retry { State::BackingOff(backoff_until) } else { State::Unschedulable { since: now, backoff_until } };
    }

    /// Wakes the pods that `event` may help.
    pub fn wake(&mut self, event: ClusterEvent, now: Instant) {
        let mut woken = Vec::new();
        for (uid, waiting) in &mut self.pods {
            match waiting.state {
                State::InFlight => waiting.woken = true,
                State::Unschedulable { backoff_until, .. }
                    if plugins::ALL.iter().any(|p| waiting.rejected_by.contains(p.name()) && p.wakes_on(event)) =>
                {
                    woken.push((uid.clone(), backoff_until));
                }
                _ => {}
            }
        }
        for (uid, backoff_until) in woken {
            self.retry(&uid, backoff_until, now);
        }
    }

    /// When [`Queue::pop`] may have something that it has not now, without an event.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.pods.values().filter_map(Waiting::deadline).min()
    }

    fn advance(&mut self, now: Instant) {
        let due: Vec<String> = self
            .pods
            .iter()
            .filter(|(_, waiting)| waiting.deadline().is_some_and(|deadline| deadline <= now))
            .map(|(uid, _)| uid.clone())
            .collect();
        for uid in due {
            self.activate(&uid);
        }
    }

    fn retry(&mut self, uid: &str, backoff_until: Instant, now: Instant) {
        if backoff_until <= now {
            self.activate(uid);
        } else if let Some(waiting) = self.pods.get_mut(uid) {
            waiting.state = State::BackingOff(backoff_until);
        }
    }

    fn activate(&mut self, uid: &str) {
        let Some(waiting) = self.pods.get_mut(uid) else { return };
        waiting.state = State::Active;
        self.active.insert(order(uid, waiting));
    }
}

impl Waiting {
    fn deadline(&self) -> Option<Instant> {
        match self.state {
            State::BackingOff(until) => Some(until),
            State::Unschedulable { since, .. } => Some(since + UNSCHEDULABLE_MOST),
            State::Gated | State::Active | State::InFlight => None,
        }
    }
}

fn order(uid: &str, waiting: &Waiting) -> (Reverse<i32>, u64, String) {
    let priority = waiting.pod.spec.as_ref().and_then(|s| s.priority).unwrap_or_default();
    (Reverse(priority), waiting.sequence, uid.to_owned())
}

fn backoff(attempts: u32) -> Duration {
    BACKOFF_INITIAL.saturating_mul(1 << attempts.saturating_sub(1).min(8)).min(BACKOFF_MOST)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(priority: i32) -> Arc<Pod> {
        let spec = json!({"containers": [], "priority": priority});
        Arc::new(serde_json::from_value(json!({"metadata": {}, "spec": spec})).unwrap())
    }

    fn popped(queue: &mut Queue, now: Instant) -> Option<String> {
        queue.pop(now).map(|(uid, _)| uid)
    }

    #[test]
    fn higher_priority_goes_first_then_arrival() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.update("a", pod(0), now);
        queue.update("b", pod(10), now);
        queue.update("c", pod(0), now);
        assert_eq!(popped(&mut queue, now).as_deref(), Some("b"));
        assert_eq!(popped(&mut queue, now).as_deref(), Some("a"));
        assert_eq!(popped(&mut queue, now).as_deref(), Some("c"));
        assert_eq!(popped(&mut queue, now), None);
    }

    #[test]
    fn a_rejected_pod_waits_for_an_event_that_may_help_and_for_its_backoff() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.update("a", pod(0), now);
        assert!(queue.pop(now).is_some());
        queue.put_back("a", BTreeSet::from(["NodeResourcesFit"]), now);
        queue.wake(ClusterEvent::PodPlaced, now);
        assert_eq!(popped(&mut queue, now + BACKOFF_MOST), None, "a placed pod frees nothing");
        queue.wake(ClusterEvent::PodRemoved, now);
        assert_eq!(popped(&mut queue, now), None, "still backing off");
        assert_eq!(queue.next_deadline(), Some(now + BACKOFF_INITIAL));
        assert_eq!(popped(&mut queue, now + BACKOFF_INITIAL).as_deref(), Some("a"));
    }

    #[test]
    fn an_event_during_the_try_is_not_lost() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.update("a", pod(0), now);
        assert!(queue.pop(now).is_some());
        queue.wake(ClusterEvent::NodeAdded, now);
        queue.put_back("a", BTreeSet::from(["NodeResourcesFit"]), now);
        assert_eq!(popped(&mut queue, now + BACKOFF_INITIAL).as_deref(), Some("a"));
    }

    #[test]
    fn a_forgotten_pod_is_tried_again_in_the_end() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.update("a", pod(0), now);
        assert!(queue.pop(now).is_some());
        queue.put_back("a", BTreeSet::from(["NodeAffinity"]), now);
        assert_eq!(popped(&mut queue, now + UNSCHEDULABLE_MOST).as_deref(), Some("a"));
    }

    #[test]
    fn a_removed_pod_is_not_handed_out() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.update("a", pod(0), now);
        queue.remove("a");
        assert_eq!(popped(&mut queue, now), None);
        queue.put_back("a", BTreeSet::new(), now);
        assert_eq!(queue.next_deadline(), None);
    }
}
