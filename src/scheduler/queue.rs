//! Pods that wait for a node (upstream `pkg/scheduler/backend/queue`).
//!
//! A pod is active (to be tried now, highest priority first), backing off (tried lately) or unschedulable (nothing has
//! changed that could help). Events move it on; time does, too, but seldom. A plain state machine: the time comes in as
//! an argument and [`Queue::next_deadline`] says when to look again.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::framework::ClusterEvent;
use crate::listers::Listers;
use crate::plugins;
use crate::pod_info::PodInfo;

const BACKOFF_INITIAL: Duration = Duration::from_secs(1);
const BACKOFF_MOST: Duration = Duration::from_secs(10);
/// A pod that no event has woken is tried again after this long (upstream's flush interval).
const UNSCHEDULABLE_MOST: Duration = Duration::from_secs(5 * 60);

/// Stands for a plugin that every event satisfies.
pub const ANY: &str = "*";

/// A waiting pod.
#[derive(Debug, Clone)]
struct Waiting {
    pod: Arc<PodInfo>,
    /// Tries so far.
    attempts: u32,
    state: State,
    /// Order of arrival, or of the last try, among pods of one priority.
    sequence: u64,
    backoff_until: Instant,
    /// Names of the plugins that rejected it last.
    rejected_by: BTreeSet<&'static str>,
    /// Something came that may help while the pod could not be tried.
    woken: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Gated,
    Active,
    /// Until `backoff_until`, or until there is nothing else to do.
    BackingOff,
    /// As `BackingOff` after a failure that says nothing about the pod: the time is kept.
    Failed,
    /// Until an event, or this moment.
    Unschedulable(Instant),
    /// Handed out by [`Queue::pop`].
    InFlight,
}

/// All waiting pods by uid.
#[derive(Debug, Default)]
pub struct Queue {
    pods: HashMap<Arc<str>, Waiting>,
    /// Priority (high first), then arrival.
    active: BTreeSet<(Reverse<i32>, u64, Arc<str>)>,
    backing_off: BTreeSet<(Instant, Arc<str>)>,
    failed: BTreeSet<(Instant, Arc<str>)>,
    unschedulable: BTreeSet<(Instant, Arc<str>)>,
    sequence: u64,
    /// The pod that is being decided about, and what happened since then.
    deciding: Option<Arc<str>>,
    missed: Vec<ClusterEvent>,
    /// Pods whose victims are being evicted.
    preempting: HashSet<Arc<str>>,
}

impl Queue {
    /// A pod without a node appeared or changed. Returns what was known of it.
    pub fn update(&mut self, pod: Arc<PodInfo>, now: Instant, listers: &Listers) -> Option<Arc<PodInfo>> {
        let gated = plugins::is_gated(&pod.pod);
        let uid = pod.uid.clone();
        let Some(held) = self.pods.get_mut(&uid) else {
            self.sequence += 1;
            let waiting = Waiting {
                pod,
                attempts: 0,
                state: State::Gated,
                sequence: self.sequence,
                backoff_until: now,
                rejected_by: BTreeSet::new(),
                woken: false,
            };
            self.pods.insert(uid.clone(), waiting);
            if !gated {
                self.activate(&uid);
            }
            return None;
        };
        let old = std::mem::replace(&mut held.pod, pod.clone());
        let event = ClusterEvent::TargetPod { old: old.pod.clone(), new: pod.pod.clone() };
        let (state, sequence) = (held.state, held.sequence);
        match state {
            State::Gated if !gated => self.activate(&uid),
            State::Active if old.priority != pod.priority => {
                self.active.remove(&(Reverse(old.priority), sequence, uid.clone()));
                self.activate(&uid);
            }
            // Its own change may have made it fit.
            State::Unschedulable(_) if helps(&self.pods[&uid], &event, listers) => self.retry(&uid, now),
            State::InFlight if self.deciding.as_ref() == Some(&uid) => self.missed.push(event),
            _ => {}
        }
        Some(old)
    }

    /// The pod got a node, ended or was deleted.
    pub fn remove(&mut self, uid: &str) {
        self.unfile(uid);
        self.pods.remove(uid);
        self.preempting.remove(uid);
        if self.deciding.as_deref() == Some(uid) {
            self.deciding = None;
        }
    }

    pub fn contains(&self, uid: &str) -> bool {
        self.pods.contains_key(uid)
    }

    /// How many pods wait.
    pub fn len(&self) -> usize {
        self.pods.len()
    }

    pub fn is_empty(&self) -> bool {
        self.pods.is_empty()
    }

    /// The next pod to try. It stays known until [`Queue::remove`] or [`Queue::put_back`]. With nothing else to do, a
    /// pod need not back off to the end (`SchedulerPopFromBackoffQ`).
    pub fn pop(&mut self, now: Instant) -> Option<Arc<PodInfo>> {
        self.advance(now);
        let uid = match self.active.pop_first() {
            Some((_, _, uid)) => uid,
            None => self.backing_off.pop_first()?.1,
        };
        let waiting = self.pods.get_mut(&uid)?;
        waiting.state = State::InFlight;
        waiting.woken = false;
        waiting.attempts += 1;
        self.missed.clear();
        self.deciding = Some(uid);
        Some(waiting.pod.clone())
    }

    /// A node was found; the pod is being bound. False if it went away meanwhile.
    pub fn decided(&mut self, uid: &str) -> bool {
        self.missed.clear();
        self.deciding.take().as_deref() == Some(uid)
    }

    /// The try failed: by `rejected_by` if no node does, or by an error if that is empty.
    pub fn put_back(&mut self, uid: &str, rejected_by: BTreeSet<&'static str>, now: Instant, listers: &Listers) {
        let missed = std::mem::take(&mut self.missed);
        if self.deciding.as_deref() == Some(uid) {
            self.deciding = None;
        }
        self.unfile(uid);
        let Some((uid, waiting)) = self.pods.get_key_value(uid) else { return };
        let uid = uid.clone();
        let failed = rejected_by.is_empty();
        let mut waiting = waiting.clone();
        self.sequence += 1;
        waiting.sequence = self.sequence;
        waiting.backoff_until = now + backoff(waiting.attempts);
        waiting.rejected_by = rejected_by;
        let woken = waiting.woken || missed.iter().any(|event| helps(&waiting, event, listers));
        waiting.woken = false;
        waiting.state = State::Unschedulable(now + UNSCHEDULABLE_MOST);
        self.unschedulable.insert((now + UNSCHEDULABLE_MOST, uid.clone()));
        let until = waiting.backoff_until;
        self.pods.insert(uid.clone(), waiting);
        if failed {
            self.file(&uid, State::Failed);
            self.failed.insert((until, uid));
        } else if woken {
            self.retry(&uid, now);
        }
    }

    /// Wakes the pods that `event` may help.
    pub fn wake(&mut self, event: &ClusterEvent, now: Instant, listers: &Listers) {
        if self.deciding.is_some() {
            self.missed.push(event.clone());
        }
        let waiting = self.unschedulable.iter().filter(|(_, uid)| {
            self.pods.get(uid).is_some_and(|waiting| !waiting.woken && helps(waiting, event, listers))
        });
        let woken: Vec<Arc<str>> = waiting.map(|(_, uid)| uid.clone()).collect();
        woken.iter().for_each(|uid| self.retry(uid, now));
    }

    /// Wakes every pod: what happened is not known.
    pub fn wake_all(&mut self, now: Instant) {
        if let Some(waiting) = self.deciding.as_ref().and_then(|uid| self.pods.get_mut(uid)) {
            waiting.woken = true;
        }
        let all: Vec<Arc<str>> = self.unschedulable.iter().map(|(_, uid)| uid.clone()).collect();
        all.iter().for_each(|uid| self.retry(uid, now));
    }

    /// The pod is not tried until its victims are evicted: [`Queue::preempted`].
    pub fn preempting(&mut self, uid: &Arc<str>) {
        self.preempting.insert(uid.clone());
    }

    /// The victims are told to end, or that failed: then the pod is tried again at once.
    pub fn preempted(&mut self, uid: &str, failed: bool, now: Instant) {
        self.preempting.remove(uid);
        let Some((uid, waiting)) = self.pods.get_key_value(uid) else { return };
        let uid = uid.clone();
        if matches!(waiting.state, State::Unschedulable(_)) {
            if failed {
                self.unfile(&uid);
                self.activate(&uid);
            } else if waiting.woken {
                self.retry(&uid, now);
            }
        }
    }

    /// When [`Queue::pop`] may have something that it has not now, without an event.
    pub fn next_deadline(&self) -> Option<Instant> {
        let first = |set: &BTreeSet<(Instant, Arc<str>)>| set.first().map(|(at, _)| *at);
        [first(&self.failed), first(&self.unschedulable), first(&self.backing_off)].into_iter().flatten().min()
    }

    fn advance(&mut self, now: Instant) {
        for set in [&mut self.backing_off, &mut self.failed, &mut self.unschedulable] {
            while set.first().is_some_and(|(at, _)| *at <= now)
                && let Some((_, uid)) = set.pop_first()
            {
                if let Some(waiting) = self.pods.get_mut(&uid) {
                    waiting.state = State::Active;
                    self.active.insert(order(&uid, waiting));
                }
            }
        }
    }

    /// An unschedulable pod is worth another try when its backoff is over.
    fn retry(&mut self, uid: &Arc<str>, now: Instant) {
        let Some(waiting) = self.pods.get_mut(uid) else { return };
        if self.preempting.contains(uid) {
            waiting.woken = true;
            return;
        }
        waiting.woken = false;
        let until = waiting.backoff_until;
        self.unfile(uid);
        if until <= now {
            self.activate(uid);
        } else {
            self.file(uid, State::BackingOff);
            self.backing_off.insert((until, uid.clone()));
        }
    }

    fn activate(&mut self, uid: &Arc<str>) {
        let Some(waiting) = self.pods.get_mut(uid) else { return };
        waiting.state = State::Active;
        self.active.insert(order(uid, waiting));
    }

    fn file(&mut self, uid: &str, state: State) {
        self.unfile(uid);
        if let Some(waiting) = self.pods.get_mut(uid) {
            waiting.state = state;
        }
    }

    /// Takes the pod out of the set that its state keeps it in.
    fn unfile(&mut self, uid: &str) {
        let Some((uid, waiting)) = self.pods.get_key_value(uid) else { return };
        match waiting.state {
            State::Active => _ = self.active.remove(&order(uid, waiting)),
            State::BackingOff => _ = self.backing_off.remove(&(waiting.backoff_until, uid.clone())),
            State::Failed => _ = self.failed.remove(&(waiting.backoff_until, uid.clone())),
            State::Unschedulable(until) => _ = self.unschedulable.remove(&(until, uid.clone())),
            State::Gated | State::InFlight => {}
        }
    }
}

/// Whether one of the plugins that rejected the pod thinks that the event helps.
fn helps(waiting: &Waiting, event: &ClusterEvent, listers: &Listers) -> bool {
    waiting.rejected_by.contains(ANY)
        || plugins::ALL
            .iter()
            .any(|p| waiting.rejected_by.contains(p.name()) && p.wakes(&waiting.pod.pod, event, listers))
}

fn order(uid: &Arc<str>, waiting: &Waiting) -> (Reverse<i32>, u64, Arc<str>) {
    (Reverse(waiting.pod.priority), waiting.sequence, uid.clone())
}

fn backoff(attempts: u32) -> Duration {
    BACKOFF_INITIAL.saturating_mul(1 << attempts.saturating_sub(1).min(8)).min(BACKOFF_MOST)
}

#[cfg(test)]
mod tests {
    use client::k8s_openapi::api::core::v1::Pod;
    use serde_json::json;

    use super::*;
    use crate::framework::Change;

    fn pod(uid: &str, priority: i32) -> Arc<PodInfo> {
        let spec = json!({"containers": [], "priority": priority, "nodeName": ""});
        let pod = serde_json::from_value(json!({"metadata": {"uid": uid, "name": uid}, "spec": spec})).unwrap();
        Arc::new(PodInfo::new(Arc::new(pod)))
    }

    fn other() -> Arc<Pod> {
        let pod = json!({"metadata": {"name": "other"}, "spec": {"containers": [], "nodeName": "a"}});
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    fn added() -> ClusterEvent {
        ClusterEvent::AssignedPod(Change::Added(other()))
    }

    fn deleted() -> ClusterEvent {
        ClusterEvent::AssignedPod(Change::Deleted(other()))
    }

    struct Rig {
        queue: Queue,
        listers: Listers,
        now: Instant,
    }

    impl Rig {
        fn new(pods: &[(&str, i32)]) -> Self {
            let mut rig = Self { queue: Queue::default(), listers: Listers::fake(), now: Instant::now() };
            for (uid, priority) in pods {
                rig.queue.update(pod(uid, *priority), rig.now, &rig.listers);
            }
            rig
        }

        fn pop(&mut self) -> Option<String> {
            self.queue.pop(self.now).map(|pod| pod.uid.to_string())
        }

        fn reject(&mut self, uid: &str, plugins: &[&'static str]) {
            self.queue.put_back(uid, plugins.iter().copied().collect(), self.now, &self.listers);
        }

        fn wake(&mut self, event: &ClusterEvent) {
            self.queue.wake(event, self.now, &self.listers);
        }
    }

    #[test]
    fn higher_priority_goes_first_then_arrival() {
        let mut rig = Rig::new(&[("a", 0), ("b", 10), ("c", 0)]);
        assert_eq!(
            [rig.pop(), rig.pop(), rig.pop(), rig.pop()],
            [Some("b".into()), Some("a".into()), Some("c".into()), None]
        );
    }

    #[test]
    fn a_rejected_pod_waits_for_an_event_that_may_help() {
        let mut rig = Rig::new(&[("a", 0)]);
        assert!(rig.pop().is_some());
        rig.reject("a", &["NodeResourcesFit"]);
        rig.wake(&added());
        rig.now += BACKOFF_MOST;
        assert_eq!(rig.pop(), None, "a placed pod frees nothing");
        rig.wake(&deleted());
        assert_eq!(rig.pop().as_deref(), Some("a"));
    }

    #[test]
    fn a_pod_that_backs_off_lets_others_go_first() {
        let mut rig = Rig::new(&[("a", 5), ("b", 0)]);
        assert_eq!(rig.pop().as_deref(), Some("a"));
        rig.reject("a", &["NodeResourcesFit"]);
        rig.wake(&deleted());
        assert_eq!(rig.queue.next_deadline(), Some(rig.now + BACKOFF_INITIAL));
        assert_eq!(rig.pop().as_deref(), Some("b"));
        assert_eq!(rig.pop().as_deref(), Some("a"), "nothing else to do");
    }

    #[test]
    fn a_failure_backs_off_to_the_end() {
        let mut rig = Rig::new(&[("a", 0)]);
        assert!(rig.pop().is_some());
        rig.reject("a", &[]);
        assert_eq!(rig.pop(), None);
        rig.now += BACKOFF_INITIAL;
        assert_eq!(rig.pop().as_deref(), Some("a"));
    }

    #[test]
    fn an_event_during_the_try_is_not_lost() {
        let mut rig = Rig::new(&[("a", 0)]);
        assert!(rig.pop().is_some());
        rig.wake(&deleted());
        rig.reject("a", &["NodeResourcesFit"]);
        assert_eq!(rig.pop().as_deref(), Some("a"));
    }

    #[test]
    fn a_preemptor_waits_until_its_victims_are_told() {
        let mut rig = Rig::new(&[("a", 0)]);
        assert!(rig.pop().is_some());
        rig.reject("a", &["NodeResourcesFit"]);
        rig.queue.preempting(&"a".into());
        rig.wake(&deleted());
        assert_eq!(rig.pop(), None);
        rig.queue.preempted("a", false, rig.now);
        assert_eq!(rig.pop().as_deref(), Some("a"));
    }

    #[test]
    fn a_forgotten_pod_is_tried_again_in_the_end() {
        let mut rig = Rig::new(&[("a", 0)]);
        assert!(rig.pop().is_some());
        rig.reject("a", &["NodeAffinity"]);
        rig.now += UNSCHEDULABLE_MOST;
        assert_eq!(rig.pop().as_deref(), Some("a"));
    }

    #[test]
    fn a_removed_pod_is_not_handed_out() {
        let mut rig = Rig::new(&[("a", 0)]);
        rig.queue.remove("a");
        assert_eq!(rig.pop(), None);
        rig.reject("a", &[]);
        assert_eq!(rig.queue.next_deadline(), None);
    }
}
