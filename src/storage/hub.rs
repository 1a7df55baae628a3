//! Who watches what: hands every committed revision to the watchers of its keys.
//!
//! A watcher here is *live*: it has been given everything up to the hub's revision. Watchers that begin in the past
//! are brought up to date by their engine and then attached. Events of one revision travel in one message, and
//! watchers of the same range share it. Publishing never waits: a watcher whose queue is full ends with `Lagged`.
//!
//! The one lock is held for the time of a publish or an attach and never across an await.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::store::{Event, KeyRange, Revision, WatchMessage};

/// The live watchers of one store.
pub struct Hub {
    state: Mutex<State>,
    /// Events handed to watchers so far, each as often as there were watchers for it.
    events: AtomicU64,
}

struct State {
    /// Everything up to here has been published.
    revision: i64,
    /// Watchers of single keys, apart so that many of them cost nothing while other keys change.
    keys: HashMap<Bytes, [Group; 2]>,
    ranges: HashMap<KeyRange, [Group; 2]>,
    /// Watchers attached since the last sweep of those whose receiver has gone.
    attached: usize,
    /// Watchers left by that sweep.
    swept: usize,
}

/// Watchers of the same keys; the second of a pair wants `prev`.
type Group = Vec<Watcher>;

struct Watcher {
    sender: mpsc::Sender<WatchMessage>,
    /// First revision wanted; may lie in the future.
    from: i64,
    /// The last revision told.
    told: i64,
}

/// What an attach came to.
pub enum Attach {
    /// The watcher is live from the hub's revision, given here, on.
    Done(Revision),
    /// The hub has moved on: bring the watcher up to this revision and try again.
    Behind(Revision, mpsc::Sender<WatchMessage>),
}

impl Hub {
    /// A hub of a store whose newest revision is `revision`.
    pub fn new(revision: Revision) -> Self {
        Self {
            state: Mutex::new(State {
                revision: revision.0,
                keys: HashMap::new(),
                ranges: HashMap::new(),
                attached: 0,
                swept: 0,
            }),
            events: AtomicU64::new(0),
        }
    }

    /// The newest published revision.
    pub fn revision(&self) -> Revision {
        Revision(self.state.lock().revision)
    }

    /// Makes a watcher live that wants events from `from` on. `seen`: it has been given everything up to this revision,
    /// `None`: it wants nothing older than now.
    pub fn attach(
        &self,
        range: &KeyRange,
        prev_kv: bool,
        from: Revision,
        seen: Option<Revision>,
        sender: mpsc::Sender<WatchMessage>,
    ) -> Attach {
        let mut state = self.state.lock();
        let revision = Revision(state.revision);
        if seen.is_some_and(|seen| seen < revision) {
            return Attach::Behind(revision, sender);
        }
        state.sweep();
        let watcher = Watcher { sender, from: from.0, told: 0 };
        let groups = match range.end {
            None => state.keys.entry(range.start.clone()).or_default(),
            Some(_) => state.ranges.entry(range.clone()).or_default(),
        };
        groups[usize::from(prev_kv)].push(watcher);
        state.attached += 1;
        Attach::Done(revision)
    }

    /// Hands out the events of a revision, the next one after all that were published.
    pub fn publish(&self, revision: Revision, events: Vec<Event>) {
        let mut state = self.state.lock();
        state.revision = revision.0;
        let batch = Batch::new(revision, events);
        let mut told = 0;
        if !state.keys.is_empty() {
            for (at, event) in batch.events[1].iter().enumerate() {
                let Some(groups) = state.keys.get_mut(&event.kv.key) else { continue };
                groups.iter_mut().enumerate().for_each(|(with_prev, group)| {
                    let mut message = None;
                    told += tell(group, revision.0, || batch.one(with_prev, at, &mut message));
                });
                if groups.iter().all(Vec::is_empty) {
                    state.keys.remove(&event.kv.key);
                }
            }
        }
        state.ranges.retain(|range, groups| {
            let matches = batch.events[1].iter().filter(|event| range.contains(&event.kv.key)).count();
            if matches > 0 {
                for (with_prev, group) in groups.iter_mut().enumerate() {
                    let mut message = None;
                    told += matches * tell(group, revision.0, || batch.some(with_prev, range, matches, &mut message));
                }
            }
            groups.iter().any(|group| !group.is_empty())
        });
        self.handed_over(told);
    }

    /// Counts events that a watcher was given.
    pub fn handed_over(&self, events: usize) {
        self.events.fetch_add(events as u64, Ordering::Relaxed);
    }

    /// Events given to watchers so far, each as often as there were watchers for it.
    pub fn events(&self) -> u64 {
        self.events.load(Ordering::Relaxed)
    }

    /// Messages that wait to be taken by live watchers, each with the events of a revision.
    pub fn waiting(&self) -> usize {
        let state = self.state.lock();
        let watchers = state.keys.values().chain(state.ranges.values()).flatten().flatten();
        watchers.map(|Watcher { sender, .. }| sender.max_capacity() - sender.capacity()).sum()
    }

    /// Tells every live watcher that it is up to date, unless its last message said so.
    pub fn progress(&self) {
        let mut state = self.state.lock();
        let revision = state.revision;
        let State { keys, ranges, .. } = &mut *state;
        for group in keys.values_mut().chain(ranges.values_mut()).flatten() {
            group.retain_mut(|watcher| {
                if watcher.told == revision {
                    return !watcher.sender.is_closed();
                }
                watcher.send(revision, WatchMessage::Progress(Revision(revision)))
            });
        }
    }

    /// Ends every watch, and goes on from `revision`.
    pub fn reset(&self, revision: Revision) {
        self.close();
        self.state.lock().revision = revision.0;
    }

    /// Ends every watch; the receivers see the end of their channel.
    pub fn close(&self) {
        let mut state = self.state.lock();
        state.keys.clear();
        state.ranges.clear();
    }

    /// Live watchers.
    pub fn watchers(&self) -> usize {
        self.state.lock().count()
    }
}

impl State {
    fn count(&self) -> usize {
        self.keys.values().chain(self.ranges.values()).flatten().map(Vec::len).sum()
    }

    /// A watcher that nobody listens to is noticed when one of its keys changes; those whose keys never change are
    /// looked for here, after as many attaches as there were watchers, so that the cost per attach stays constant.
    fn sweep(&mut self) {
        if self.attached <= self.swept.max(64) {
            return;
        }
        let keep = |groups: &mut [Group; 2]| {
            groups.iter_mut().for_each(|group| group.retain(|watcher| !watcher.sender.is_closed()));
            groups.iter().any(|group| !group.is_empty())
        };
        self.keys.retain(|_, groups| keep(groups));
        self.ranges.retain(|_, groups| keep(groups));
        self.attached = 0;
        self.swept = self.count();
    }
}

impl Watcher {
    /// Says whether the watcher lives on. The last place in the queue is kept for the word that it was too slow.
    fn send(&mut self, revision: i64, message: WatchMessage) -> bool {
        let message = if self.sender.capacity() > 1 { message } else { WatchMessage::Lagged };
        let lagged = matches!(message, WatchMessage::Lagged);
        self.told = revision;
        self.sender.try_send(message).is_ok() && !lagged
    }
}

/// Answers with how many were told.
fn tell(group: &mut Group, revision: i64, mut message: impl FnMut() -> WatchMessage) -> usize {
    let mut told = 0;
    group.retain_mut(|watcher| {
        if watcher.from > revision {
            return true;
        }
        let sent = watcher.send(revision, message());
        told += usize::from(sent);
        sent
    });
    told
}

/// The events of one revision, without and with `prev`, copied no more often than needed.
struct Batch {
    revision: Revision,
    events: [Arc<[Event]>; 2],
}

impl Batch {
    fn new(revision: Revision, events: Vec<Event>) -> Self {
        let with: Arc<[Event]> = events.into();
        let without = if with.iter().any(|event| event.prev.is_some()) {
            with.iter().map(|event| Event { prev: None, ..event.clone() }).collect()
        } else {
            with.clone()
        };
        Self { revision, events: [without, with] }
    }

    fn one(&self, with_prev: usize, at: usize, made: &mut Option<Arc<[Event]>>) -> WatchMessage {
        let all = &self.events[with_prev];
        let events =
            made.get_or_insert_with(|| if all.len() == 1 { all.clone() } else { Arc::from([all[at].clone()]) });
        WatchMessage::Events { revision: self.revision, events: events.clone() }
    }

    fn some(
        &self,
        with_prev: usize,
        range: &KeyRange,
        matches: usize,
        made: &mut Option<Arc<[Event]>>,
    ) -> WatchMessage {
        let all = &self.events[with_prev];
        let events = made.get_or_insert_with(|| {
            if matches == all.len() {
                return all.clone();
            }
            all.iter().filter(|event| range.contains(&event.kv.key)).cloned().collect()
        });
        WatchMessage::Events { revision: self.revision, events: events.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{EventKind, KeyValue, LeaseId};

    fn event(key: &str, revision: i64) -> Event {
        let kv = KeyValue {
            key: Bytes::copy_from_slice(key.as_bytes()),
            value: Bytes::from_static(b"v"),
            create_revision: Revision(revision),
            mod_revision: Revision(revision),
            version: 1,
            lease: LeaseId(0),
        };
        Event { kind: EventKind::Put, kv: kv.clone(), prev: Some(kv) }
    }

    fn watch(hub: &Hub, range: KeyRange, prev_kv: bool, queue: usize) -> mpsc::Receiver<WatchMessage> {
        let (sender, receiver) = mpsc::channel(queue);
        assert!(matches!(hub.attach(&range, prev_kv, Revision(0), None, sender), Attach::Done(_)));
        receiver
    }

    fn keys(message: WatchMessage) -> String {
        match message {
            WatchMessage::Events { events, .. } => events
                .iter()
                .map(|event| String::from_utf8_lossy(&event.kv.key).into_owned())
                .collect::<Vec<_>>()
                .join(","),
            WatchMessage::Progress(revision) => format!("progress {}", revision.0),
            WatchMessage::Compacted(_) => "compacted".to_owned(),
            WatchMessage::Lagged => "lagged".to_owned(),
        }
    }

    #[test]
    fn watchers_get_their_keys_and_share_batches() {
        let hub = Hub::new(Revision(1));
        let mut all = watch(&hub, KeyRange::prefix(""), true, 8);
        let mut again = watch(&hub, KeyRange::prefix(""), true, 8);
        let mut some = watch(&hub, KeyRange::prefix("/a/"), false, 8);
        let mut single = watch(&hub, KeyRange::key("/b"), false, 8);
        hub.publish(Revision(2), vec![event("/a/1", 2), event("/b", 2)]);
        assert_eq!((hub.events(), hub.waiting()), (6, 4));
        let (first, second) = (all.try_recv().unwrap(), again.try_recv().unwrap());
        match (&first, &second) {
            (WatchMessage::Events { events: a, .. }, WatchMessage::Events { events: b, .. }) => {
                assert!(Arc::ptr_eq(a, b));
                assert!(a[0].prev.is_some());
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(keys(first), "/a/1,/b");
        match some.try_recv().unwrap() {
            WatchMessage::Events { events, .. } => assert!(events.len() == 1 && events[0].prev.is_none()),
            other => panic!("{other:?}"),
        }
        assert_eq!(keys(single.try_recv().unwrap()), "/b");
    }

    #[test]
    fn slow_watcher_is_told_and_dropped() {
        let hub = Hub::new(Revision(1));
        let mut slow = watch(&hub, KeyRange::prefix(""), false, 3);
        for revision in 2..9 {
            hub.publish(Revision(revision), vec![event("/a", revision)]);
        }
        assert_eq!(keys(slow.try_recv().unwrap()), "/a");
        assert_eq!(keys(slow.try_recv().unwrap()), "/a");
        assert_eq!(keys(slow.try_recv().unwrap()), "lagged");
        assert!(matches!(slow.try_recv(), Err(mpsc::error::TryRecvError::Disconnected)));
        assert_eq!(hub.watchers(), 0);
    }

    #[test]
    fn attaching_behind_is_refused() {
        let hub = Hub::new(Revision(7));
        let (sender, _receiver) = mpsc::channel(4);
        let range = KeyRange::prefix("");
        let Attach::Behind(revision, sender) = hub.attach(&range, false, Revision(3), Some(Revision(6)), sender) else {
            panic!("attached behind");
        };
        assert_eq!(revision, Revision(7));
        assert!(matches!(hub.attach(&range, false, Revision(3), Some(Revision(7)), sender), Attach::Done(_)));
    }

    #[test]
    fn progress_follows_quiet_and_future_watchers_wait() {
        let hub = Hub::new(Revision(1));
        let mut quiet = watch(&hub, KeyRange::prefix("/q/"), false, 8);
        let (sender, mut future) = mpsc::channel(8);
        assert!(matches!(hub.attach(&KeyRange::key("/a"), false, Revision(3), None, sender), Attach::Done(_)));
        hub.publish(Revision(2), vec![event("/a", 2)]);
        hub.progress();
        hub.progress();
        assert_eq!(keys(quiet.try_recv().unwrap()), "progress 2");
        assert!(quiet.try_recv().is_err());
        assert_eq!(keys(future.try_recv().unwrap()), "progress 2");
        hub.publish(Revision(3), vec![event("/a", 3)]);
        assert_eq!(keys(future.try_recv().unwrap()), "/a");
    }
}
