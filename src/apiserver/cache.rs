//! The watch cache: every object of one storage prefix as bytes, and the recent changes, fed by one store watch.
//!
//! Reads are consistent without a round trip: a store answers a write only after it has handed the event to its
//! watchers, so whoever reads first takes what waits in the feed's queue (under the same lock), and then has seen every
//! acknowledged write. The feed task does the same when nobody reads.
//!
//! Invariants: `entries` and `unreadable` together are exact as of `revision`; `ring` holds every change after `oldest`; watchers get every
//! matching change after they registered or are closed. No lock is held across an await.

pub mod entry;
mod feed;
mod queue;
pub mod splice;
pub(crate) mod stats;
pub mod unreadable;
pub mod view;
pub mod watcher;

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;
use std::task::Waker;

use api::Status;
use base::Shutdown;
use parking_lot::Mutex;
use storage::{EventKind, Messages, Revision, Store, WatchMessage};
use tokio::sync::{OnceCell, mpsc, watch};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::errors;
use entry::{Change, Entry};
use stats::Stats;
use unreadable::{Unreadable, UnreadableKeys};
use view::Selection;
use watcher::{Slot, Watcher};

/// Recent changes kept for watches that resume: at most this many …
pub(crate) const RING_CHANGES_MAX: usize = 2048;
/// … and, beyond the first hundred, at most so many bytes of replaced objects.
const RING_BYTES_MAX: usize = 2 << 20;
const RING_CHANGES_MIN: usize = 100;

/// The cache of one storage prefix. Starts on first use.
pub struct Cache {
    /// Storage prefix, with a slash at its end.
    pub prefix: String,
    store: Arc<dyn Store>,
    tasks: TaskTracker,
    shutdown: Shutdown,
    started: OnceCell<()>,
    state: Mutex<State>,
    /// Newest revision applied; -1 until the first list is in.
    progress: watch::Sender<i64>,
    pub(crate) stats: Stats,
}

#[derive(Default)]
struct State {
    queue: Option<Messages>,
    /// The feed task, waiting for messages.
    feed: Option<Waker>,
    /// A list is in and `revision` can be resumed from.
    synced: bool,
    /// What the store has acknowledged is in `queue` or applied.
    live: bool,
    revision: i64,
    /// Changes up to here were in the first list.
    floor: i64,
    /// Revision of the newest change of this prefix itself.
    changed: i64,
    entries: BTreeMap<Box<str>, Arc<Entry>>,
    /// Keys whose values cannot be read. Nobody watches while there are any.
    unreadable: UnreadableKeys,
    /// Size of all entries.
    entries_bytes: usize,
    ring: VecDeque<Arc<Change>>,
    ring_bytes: usize,
    oldest: i64,
    watchers: BTreeMap<u64, Slot>,
    next_watcher: u64,
}

/// What a list found.
pub struct Listing {
    pub entries: Vec<Arc<Entry>>,
    pub revision: i64,
    /// Matching keys that were left out by the limit, if that is known.
    pub remaining: Option<usize>,
    /// There is more after the last entry.
    pub more: bool,
}

/// Where a watch begins.
pub enum WatchStart {
    /// With the objects there are, as additions.
    Existing,
    /// After a revision.
    After(i64),
    /// With whatever comes next.
    Now,
}

impl Cache {
    pub fn new(prefix: &str, store: Arc<dyn Store>, tasks: TaskTracker, shutdown: Shutdown) -> Arc<Self> {
        Arc::new(Self {
            prefix: prefix.to_owned(),
            store,
            tasks,
            shutdown,
            started: OnceCell::new(),
            state: Mutex::default(),
            progress: watch::channel(-1).0,
            stats: Stats::default(),
        })
    }

    /// Starts the feed if nobody has, and waits for its first list.
    pub async fn ready(self: &Arc<Self>) -> Result<(), Status> {
        self.started
            .get_or_init(|| async {
                let feed = Arc::clone(self);
                self.tasks.spawn(async move { feed.run().await });
            })
            .await;
        if *self.progress.borrow() >= 0 {
            return Ok(());
        }
        let mut progress = self.progress.subscribe();
        tokio::select! {
            biased;
            () = self.shutdown.cancelled() => Err(errors::stopping()),
            seen = progress.wait_for(|r| *r >= 0) => seen.map(|_| ()).map_err(|_| errors::stopping()),
        }
    }

    /// Makes the cache show every write acknowledged before this call. Returns its revision.
    pub async fn fresh(self: &Arc<Self>) -> Result<i64, Status> {
        self.ready().await?;
        let newest = self.store.revision().await.map_err(errors::store)?;
        {
            let mut state = self.state.lock();
            self.drain(&mut state);
            if state.queue.is_some() && state.live {
                // The store has handed over every event up to `newest`.
                state.revision = state.revision.max(newest.0);
                return Ok(state.revision);
            }
        }
        self.store.request_progress().await.map_err(errors::store)?;
        self.wait_for(newest.0).await
    }

    /// Waits until the cache has reached `revision` (upstream's `waitUntilFreshAndBlock`, 3 s).
    pub async fn not_older_than(self: &Arc<Self>, revision: i64) -> Result<i64, Status> {
        self.ready().await?;
        let now = *self.progress.borrow();
        if now >= revision {
            return Ok(now);
        }
        let now = self.fresh().await?;
        if now >= revision {
            return Ok(now);
        }
        self.wait_for(revision).await.map_err(|_| errors::too_large_resource_version(revision, now))
    }

    async fn wait_for(&self, revision: i64) -> Result<i64, Status> {
        let began = Instant::now();
        let seen = self.wait_until(revision).await;
        self.stats.waited(began.elapsed());
        seen
    }

    async fn wait_until(&self, revision: i64) -> Result<i64, Status> {
        let mut progress = self.progress.subscribe();
        let wait = progress.wait_for(|r| *r >= revision);
        tokio::select! {
            biased;
            () = self.shutdown.cancelled() => Err(errors::stopping()),
            seen = tokio::time::timeout(std::time::Duration::from_secs(3), wait) => match seen {
                Ok(Ok(revision)) => Ok(*revision),
                _ => Err(errors::too_large_resource_version(revision, *self.progress.borrow())),
            }
        }
    }

    /// Ends the feed and all watches: the resource is no longer served.
    pub fn close(&self) {
        self.shutdown.cancel();
    }

    /// Ends all watches and forgets other encodings: the resource's definition has changed.
    pub fn begin_anew(&self) {
        let mut state = self.state.lock();
        state.watchers.clear();
        state.entries.values().for_each(|entry| entry.forget_encodings());
    }

    /// The object at a key, as of the last [`Cache::fresh`] or later.
    pub fn get(&self, key: &str) -> Option<Arc<Entry>> {
        self.state.lock().entries.get(key).cloned()
    }

    /// Why the value at a key cannot be read, if there is one and it cannot.
    pub fn unreadable(&self, key: &str) -> Option<Unreadable> {
        self.state.lock().unreadable.get(key).cloned()
    }

    /// Fails where a list of the selection would leave out what cannot be read.
    pub fn check_readable(&self, selection: &Selection) -> Result<(), Status> {
        let state = self.state.lock();
        if state.unreadable.is_empty() {
            return Ok(());
        }
        if let Some(key) = selection.single_key() {
            return match state.unreadable.get(key.as_str()) {
                Some(found) => Err(found.not_readable(&format!("{}{key}", self.prefix))),
                None => Ok(()),
            };
        }
        let (part, resource) = (selection.key_prefix(), selection.resource());
        let failed = unreadable::failed_list(&state.unreadable, &self.prefix, &part, &resource);
        failed.map_or(Ok(()), Err)
    }

    /// Number of objects, for metrics; 0 before first use.
    pub fn count(&self) -> usize {
        self.state.lock().entries.len()
    }

    /// Number of objects and their size in bytes; nothing before first use.
    pub fn size(&self) -> (usize, usize) {
        let state = self.state.lock();
        (state.entries.len(), state.entries_bytes)
    }

    /// Revision up to which it is exact; 0 before first use.
    pub fn revision(&self) -> i64 {
        self.state.lock().revision
    }

    /// Number of watchers.
    pub fn watchers(&self) -> usize {
        self.state.lock().watchers.len()
    }

    /// Whether anybody has used the cache.
    pub fn is_started(&self) -> bool {
        self.started.initialized()
    }

    /// Revision of the newest change under this prefix, as far as the cache has got.
    pub fn newest_change(&self) -> i64 {
        self.state.lock().changed
    }

    /// Objects that match, in key order, from the key `start` (inclusive, without the prefix) on.
    pub fn list(&self, selection: &Selection, start: &str, limit: usize) -> Listing {
        let lists = &self.stats.lists;
        lists.total.add(1);
        let state = self.state.lock();
        let revision = state.revision;
        if let Some(key) = selection.single_key() {
            let found = state.entries.get(key.as_str()).filter(|e| selection.matches(e));
            lists.fetched.add(1);
            lists.evaluated.add(1);
            lists.returned.add(usize::from(found.is_some()));
            return Listing { entries: found.cloned().into_iter().collect(), revision, remaining: None, more: false };
        }
        let prefix = selection.key_prefix();
        let from = if start > prefix.as_str() { start } else { prefix.as_str() };
        let mut range =
            state.entries.range::<str, _>((Bound::Included(from), Bound::Unbounded)).take_while(|(key, _)| {
                // Keys of other namespaces sort outside the prefix.
                key.starts_with(prefix.as_str())
            });
        let mut entries = Vec::new();
        let mut more = false;
        let mut fetched = 0;
        for (_, entry) in range.by_ref() {
            fetched += 1;
            if !selection.matches(entry) {
                continue;
            }
            if limit > 0 && entries.len() == limit {
                more = true;
                break;
            }
            entries.push(Arc::clone(entry));
        }
        // Upstream knows the rest only when nothing is filtered.
        let remaining = (more && !selection.is_filtered()).then(|| range.count() + 1);
        lists.fetched.add(fetched);
        lists.evaluated.add(if selection.is_filtered() { fetched } else { 0 });
        lists.returned.add(entries.len());
        Listing { entries, revision, remaining, more }
    }

    /// Registers a watcher. `bookmark` adds the end-of-initial-events mark after existing objects.
    pub fn watch(&self, selection: Selection, start: &WatchStart) -> Result<Watcher, Status> {
        let mut state = self.state.lock();
        self.drain(&mut state);
        let mut initial = VecDeque::new();
        match start {
            WatchStart::Existing => {
                let prefix = selection.key_prefix();
                let range = state.entries.range::<str, _>((Bound::Included(prefix.as_str()), Bound::Unbounded));
                for (_, entry) in range.take_while(|(key, _)| key.starts_with(prefix.as_str())) {
                    if selection.matches(entry) {
                        initial.push_back(watcher::Event {
                            kind: watcher::EventKind::Added,
                            entry: Arc::clone(entry),
                            previous: None,
                        });
                    }
                }
            }
            WatchStart::After(revision) => {
                if *revision < state.oldest {
                    return Err(errors::too_old_resource_version(*revision, state.oldest));
                }
                let first = state.ring.partition_point(|c| c.revision <= *revision);
                initial.extend(state.ring.range(first..).filter_map(|c| watcher::Event::of(c, &selection)));
            }
            WatchStart::Now => {}
        }
        self.stats.initial.add(initial.len());
        let (sender, receiver) = queue::queue(initial);
        let id = state.next_watcher;
        state.next_watcher += 1;
        state.watchers.insert(id, Slot { selection, sender });
        Ok(Watcher { receiver, revision: state.revision })
    }

    /// The revision that a bookmark may tell this watcher; `None` while changes wait in its queue.
    pub fn bookmark_revision(&self, watcher: &Watcher) -> Option<i64> {
        let mut state = self.state.lock();
        self.drain(&mut state);
        watcher.receiver.is_empty().then_some(state.revision)
    }

    /// Applies what waits in the feed's queue.
    fn drain(&self, state: &mut State) {
        while let Some(queue) = state.queue.as_mut() {
            match queue.try_recv() {
                Ok(message) => self.apply(state, message),
                Err(mpsc::error::TryRecvError::Empty) => break,
                Err(mpsc::error::TryRecvError::Disconnected) => state.end_feed(),
            }
        }
    }

    fn apply(&self, state: &mut State, message: WatchMessage) {
        match message {
            WatchMessage::Events { revision, events } => {
                self.stats.received.add(events.len());
                for event in events.iter() {
                    self.apply_event(state, event);
                }
                state.revision = state.revision.max(revision.0);
            }
            WatchMessage::Progress(revision) => {
                state.live = true;
                state.revision = state.revision.max(revision.0);
            }
            WatchMessage::Compacted(_) => {
                state.synced = false;
                state.end_feed();
            }
            // The feed task begins again from the last revision it saw.
            WatchMessage::Lagged => state.end_feed(),
        }
        self.announce(state.revision);
    }

    fn announce(&self, revision: i64) {
        self.progress.send_if_modified(|p| {
            let moved = *p < revision;
            *p = revision.max(*p);
            moved
        });
    }

    fn apply_event(&self, state: &mut State, event: &storage::Event) {
        let revision = event.kv.mod_revision.0;
        if revision <= state.floor {
            return;
        }
        let Some(key) = event.kv.key.strip_prefix(self.prefix.as_bytes()).and_then(|k| std::str::from_utf8(k).ok())
        else {
            return;
        };
        state.unreadable.remove(key);
        let previous = state.entries.get(key).cloned();
        let change = match event.kind {
            EventKind::Delete => {
                let Some(previous) = previous else { return };
                state.entries.remove(key);
                state.entries_bytes -= previous.size();
                let entry = Arc::new(previous.at(revision));
                Change { revision, entry, previous: Some(previous), deleted: true }
            }
            EventKind::Put => {
                let Some(entry) = Entry::new(key, &event.kv.value, revision) else {
                    let unreadable = Unreadable::undecodable(revision, &event.kv.value);
                    self.tell_unreadable(key, &unreadable);
                    state.hide(key, unreadable);
                    return;
                };
                let entry = Arc::new(entry);
                state.entries_bytes += entry.size();
                if let Some(gone) = state.entries.insert(key.into(), Arc::clone(&entry)) {
                    state.entries_bytes -= gone.size();
                }
                Change { revision, entry, previous, deleted: false }
            }
        };
        state.changed = revision;
        self.stats.dispatched.add(1);
        self.stats.terminated.add(state.dispatch(&change));
        state.remember(Arc::new(change));
    }
}

impl State {
    /// Notes that a value cannot be read. Watchers would miss the object: they begin anew, and are told why.
    fn hide(&mut self, key: &str, unreadable: Unreadable) {
        if let Some(gone) = self.entries.remove(key) {
            self.entries_bytes -= gone.size();
        }
        self.changed = unreadable.revision;
        self.unreadable.insert(key.into(), unreadable);
        self.watchers.clear();
    }

    /// Lets go of the store's watch and tells the feed task.
    fn end_feed(&mut self) {
        self.queue = None;
        if let Some(feed) = self.feed.take() {
            feed.wake();
        }
    }

    /// Hands a change to the watchers it concerns; one whose queue is full is dropped, which ends its stream. How many
    /// were.
    fn dispatch(&mut self, change: &Change) -> usize {
        let mut cut = 0;
        self.watchers.retain(|_, slot| match watcher::Event::of(change, &slot.selection) {
            None => !slot.sender.is_closed(),
            Some(event) => {
                let kept = slot.sender.send(event);
                cut += usize::from(!kept && slot.sender.was_cut());
                kept
            }
        });
        cut
    }

    fn remember(&mut self, change: Arc<Change>) {
        self.ring_bytes += change.entry.size();
        self.ring.push_back(change);
        while self.ring.len() > RING_CHANGES_MAX
            || (self.ring_bytes > RING_BYTES_MAX && self.ring.len() > RING_CHANGES_MIN)
        {
            let Some(gone) = self.ring.pop_front() else { break };
            self.ring_bytes -= gone.entry.size();
            self.oldest = gone.revision;
        }
    }

    fn install(&mut self, entries: BTreeMap<Box<str>, Arc<Entry>>, unreadable: UnreadableKeys, revision: Revision) {
        let revisions = entries.values().map(|e| e.revision).chain(unreadable.values().map(|u| u.revision));
        self.changed = revisions.max().unwrap_or_default();
        self.unreadable = unreadable;
        self.entries_bytes = entries.values().map(|e| e.size()).sum();
        self.entries = entries;
        self.revision = revision.0;
        self.oldest = revision.0;
        self.floor = revision.0;
        self.ring.clear();
        self.ring_bytes = 0;
        // What they missed cannot be told any more; their clients list again.
        self.watchers.clear();
    }
}
