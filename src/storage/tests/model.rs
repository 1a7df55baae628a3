//! Random operations on the SQLite engine and on a model that keeps every state in memory: both must agree on every
//! answer, and every watch must deliver what the model says, without gap or repeat.
//!
//! Some steps are bursts of several clients at once; their revisions say in which order they took effect, and the model
//! must agree with that order.
//!
//! `STORAGE_MODEL_OPERATIONS` lengthens the run (in runs of 2,000 with a database each); `STORAGE_MODEL_FIRST` is the
//! seed of the first.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use base::Shutdown;
use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use storage::{
    Compare, CompareResult, CompareTarget, Event, EventKind, KeyRange, KeyValue, LeaseId, Op, OpResult, Put,
    RangeOptions, Revision, SqliteOptions, SqliteStore, Store, StoreError, Txn, Watch, WatchMessage, WatchOptions,
};

type State = BTreeMap<Bytes, KeyValue>;

/// Every state and every event since the first revision.
struct Model {
    /// State after each revision; the index is the revision.
    states: Vec<State>,
    events: Vec<Vec<Event>>,
    compacted: i64,
    /// History of keys in memory before this revision ended with a restart.
    floor: i64,
    leases: BTreeSet<i64>,
}

fn ephemeral(range: &KeyRange) -> bool {
    let own = KeyRange::prefix("/e/");
    match (&range.end, &own.end) {
        (None, _) => own.contains(&range.start),
        (Some(end), Some(own_end)) => (end.is_empty() || *end > own.start) && range.start < *own_end,
        (Some(_), None) => true,
    }
}

impl Model {
    fn new() -> Self {
        Self {
            states: vec![State::new(), State::new()],
            events: vec![Vec::new(), Vec::new()],
            compacted: 0,
            floor: 0,
            leases: BTreeSet::new(),
        }
    }

    fn revision(&self) -> i64 {
        self.states.len() as i64 - 1
    }

    fn now(&self) -> &State {
        &self.states[self.states.len() - 1]
    }

    fn oldest(&self, range: &KeyRange) -> i64 {
        if ephemeral(range) { self.compacted.max(self.floor) } else { self.compacted }
    }

    /// What a list of operations does; `None` if it is refused.
    fn apply(&mut self, ops: &[Op]) -> Option<()> {
        let mut state = self.now().clone();
        let revision = self.revision() + 1;
        let mut events = Vec::new();
        for op in ops {
            match op {
                Op::Put(put) => {
                    if put.lease.0 != 0 && !self.leases.contains(&put.lease.0) {
                        return None;
                    }
                    let prev = state.get(&put.key).cloned();
                    let kv = KeyValue {
                        key: put.key.clone(),
                        value: put.value.clone(),
                        create_revision: prev.as_ref().map_or(Revision(revision), |prev| prev.create_revision),
                        mod_revision: Revision(revision),
                        version: prev.as_ref().map_or(1, |prev| prev.version + 1),
                        lease: put.lease,
                    };
                    state.insert(put.key.clone(), kv.clone());
                    events.push(Event { kind: EventKind::Put, kv, prev });
                }
                Op::Delete { range, .. } => {
                    let keys: Vec<Bytes> = state.keys().filter(|key| range.contains(key)).cloned().collect();
                    for key in keys {
                        let prev = state.remove(&key);
                        events.push(Event { kind: EventKind::Delete, kv: deleted(key, revision), prev });
                    }
                }
                other => panic!("{other:?}"),
            }
        }
        if !events.is_empty() {
            self.states.push(state);
            self.events.push(events);
        }
        Some(())
    }

    fn expected(&self, range: &KeyRange, start: i64) -> Vec<(i64, Vec<Event>)> {
        (start..=self.revision())
            .filter_map(|revision| {
                let events: Vec<Event> = self.events[revision as usize]
                    .iter()
                    .filter(|event| range.contains(&event.kv.key))
                    .cloned()
                    .collect();
                (!events.is_empty()).then_some((revision, events))
            })
            .collect()
    }
}

fn deleted(key: Bytes, revision: i64) -> KeyValue {
    KeyValue {
        key,
        value: Bytes::new(),
        create_revision: Revision(0),
        mod_revision: Revision(revision),
        version: 0,
        lease: LeaseId(0),
    }
}

/// A watch with what it has delivered.
struct Watching {
    watch: Watch,
    range: KeyRange,
    start: i64,
    got: Vec<(i64, Vec<Event>)>,
    /// The watch began in a past that is gone.
    cut: bool,
    /// It is known to have caught up.
    live: bool,
}

impl Watching {
    /// Takes messages until `count` revisions have come.
    async fn take(&mut self, count: usize) {
        while self.got.len() < count {
            match self.watch.messages.recv().await {
                Some(WatchMessage::Events { events, .. }) => {
                    let revisions = events.chunk_by(|a, b| a.kv.mod_revision == b.kv.mod_revision);
                    self.got.extend(revisions.map(|events| (events[0].kv.mod_revision.0, events.to_vec())));
                }
                Some(WatchMessage::Progress(_)) => self.live = true,
                other => panic!("{other:?} after {:?}", self.got.last()),
            }
        }
    }

    /// Returns when the watch has caught up: it has delivered the newest revision or tells of progress.
    async fn settle(&mut self, store: &SqliteStore, newest: i64) {
        while !self.live && self.got.last().is_none_or(|(revision, _)| *revision < newest) {
            store.request_progress().await.unwrap();
            match self.watch.messages.try_recv() {
                Ok(WatchMessage::Progress(_)) => self.live = true,
                Ok(other) => panic!("{other:?}"),
                Err(_) => tokio::task::yield_now().await,
            }
        }
        while let Ok(message) = self.watch.messages.try_recv() {
            assert!(matches!(message, WatchMessage::Progress(_)), "{message:?}");
        }
    }
}

struct Run {
    rng: StdRng,
    model: Model,
    store: Arc<SqliteStore>,
    shutdown: Shutdown,
    path: PathBuf,
    watches: Vec<Watching>,
    seed: u64,
    operations: u64,
}

fn options() -> SqliteOptions {
    SqliteOptions {
        ephemeral_prefixes: vec!["/e/".into()],
        history: None,
        watch_queue_len: 100_000,
        ..SqliteOptions::default()
    }
}

impl Run {
    fn key(&mut self) -> Bytes {
        let prefix = ["/a/", "/b/", "/e/"][self.rng.random_range(0..3)];
        format!("{prefix}{}", self.rng.random_range(0..6)).into()
    }

    fn range(&mut self) -> KeyRange {
        match self.rng.random_range(0..6) {
            0 => KeyRange::prefix("/"),
            1 => KeyRange::prefix("/a/"),
            2 => KeyRange::prefix("/e/"),
            3 => KeyRange { start: self.key(), end: Some(Bytes::new()) },
            4 => KeyRange { start: self.key(), end: Some(self.key()) },
            _ => KeyRange::key(self.key()),
        }
    }

    fn put(&mut self) -> Put {
        let lease = match self.rng.random_range(0..6) {
            0 => self.model.leases.first().copied().unwrap_or(0),
            1 if self.rng.random_bool(0.2) => 999_999,
            _ => 0,
        };
        let size = if self.rng.random_bool(0.1) { 6000 } else { 6 };
        let value = format!("{:0size$}", self.rng.random_range(0..10_000));
        Put { key: self.key(), value: value.into(), lease: LeaseId(lease), ..Put::default() }
    }

    fn ops(&mut self) -> Vec<Op> {
        let mut ops = Vec::new();
        let mut taken = BTreeSet::new();
        for _ in 0..self.rng.random_range(1..4) {
            let put = self.put();
            if taken.insert(put.key.clone()) {
                ops.push(Op::Put(put));
            }
        }
        if self.rng.random_bool(0.25) {
            let range = self.range();
            if !taken.iter().any(|key| range.contains(key)) {
                ops.push(Op::Delete { range, prev_kv: false });
            } else if self.rng.random_bool(0.5) {
                ops = vec![Op::Delete { range, prev_kv: false }];
            }
        }
        ops
    }

    async fn step(&mut self) {
        match self.rng.random_range(0..100) {
            0..5 => self.burst().await,
            5..45 => self.write().await,
            45..70 => self.read().await,
            70..82 => self.watch().await,
            82..86 => self.grant().await,
            86..90 => self.revoke().await,
            90..97 => self.compact().await,
            97..99 => self.drain().await,
            _ => self.restart().await,
        }
        self.operations += 1;
    }

    /// Several clients write at once, each one key if another is as the client believes, else another key.
    async fn burst(&mut self) {
        let clients = self.rng.random_range(2..9);
        let txns: Vec<Txn> = (0..clients)
            .map(|_| {
                let key = self.key();
                let mod_revision = self.model.now().get(&key).map_or(Revision(0), |kv| kv.mod_revision);
                let (target, result) = (CompareTarget::Mod(mod_revision), CompareResult::Equal);
                let compare = Compare { range: KeyRange::key(key), target, result };
                let put = |run: &mut Self| Op::Put(Put { lease: LeaseId(0), ..run.put() });
                Txn { compare: vec![compare], success: vec![put(self)], failure: vec![put(self)] }
            })
            .collect();
        let calls = txns.into_iter().map(|txn| {
            let store = self.store.clone();
            tokio::spawn(async move { (store.txn(txn.clone()).await.unwrap(), txn) })
        });
        let mut done = Vec::new();
        for call in calls.collect::<Vec<_>>() {
            done.push(call.await.unwrap());
        }
        done.sort_by_key(|(result, _)| result.revision);
        for (result, txn) in done {
            let CompareTarget::Mod(believed) = txn.compare[0].target else { panic!("{txn:?}") };
            let key = &txn.compare[0].range.start;
            let holds = self.model.now().get(key).map_or(Revision(0), |kv| kv.mod_revision) == believed;
            assert_eq!(result.succeeded, holds, "seed {} {txn:?}", self.seed);
            self.model.apply(if holds { &txn.success } else { &txn.failure }).unwrap();
            assert_eq!(result.revision.0, self.model.revision(), "seed {}", self.seed);
        }
        self.operations += clients;
    }

    async fn write(&mut self) {
        let (success, failure) = (self.ops(), self.ops());
        let key = self.key();
        let mod_revision = self.model.now().get(&key).map_or(0, |kv| kv.mod_revision.0);
        let guess = if self.rng.random_bool(0.7) { mod_revision } else { mod_revision + 1 };
        let compare = Compare {
            range: KeyRange::key(key),
            target: CompareTarget::Mod(Revision(guess)),
            result: CompareResult::Equal,
        };
        let holds = guess == mod_revision;
        let ops = if holds { success.clone() } else { failure.clone() };
        let result = self.store.txn(Txn { compare: vec![compare], success, failure }).await;
        match self.model.apply(&ops) {
            Some(()) => {
                let result = result.unwrap();
                assert_eq!(result.succeeded, holds, "seed {}", self.seed);
                assert_eq!(result.revision.0, self.model.revision(), "seed {}", self.seed);
                assert!(result.results.iter().all(|result| !matches!(result, OpResult::Range(_))));
            }
            None => assert!(matches!(result, Err(StoreError::LeaseNotFound)), "seed {}", self.seed),
        }
    }

    async fn read(&mut self) {
        let range = self.range();
        let newest = self.model.revision();
        let revision = match self.rng.random_range(0..3) {
            0 => 0,
            _ => self.rng.random_range((newest - 30).max(1)..=newest + 1),
        };
        let limit = if self.rng.random_bool(0.5) { 0 } else { self.rng.random_range(1..8) };
        let read = RangeOptions {
            revision: Revision(revision),
            limit,
            count_only: self.rng.random_bool(0.1),
            keys_only: self.rng.random_bool(0.2),
        };
        let result = self.store.range(range.clone(), read.clone()).await;
        let context = format!("seed {} {range:?} {read:?}", self.seed);
        if revision > newest {
            assert!(matches!(result, Err(StoreError::FutureRevision)), "{context}");
            return;
        }
        if revision != 0 && revision < self.model.oldest(&range) {
            assert!(matches!(result, Err(StoreError::Compacted { .. })), "{context} {result:?}");
            return;
        }
        let result = result.unwrap_or_else(|error| panic!("{context}: {error}"));
        let at = if revision == 0 { newest } else { revision };
        let all: Vec<&KeyValue> =
            self.model.states[at as usize].values().filter(|kv| range.contains(&kv.key)).collect();
        assert_eq!(result.count as usize, all.len(), "{context}");
        assert_eq!(result.revision.0, newest, "{context}");
        if read.count_only {
            return;
        }
        let wanted = if limit == 0 { all.len() } else { limit.min(all.len()) };
        assert_eq!(result.more, wanted < all.len(), "{context}");
        let expected: Vec<KeyValue> = all[..wanted]
            .iter()
            .map(|kv| {
                let mut kv = (*kv).clone();
                if read.keys_only {
                    kv.value = Bytes::new();
                }
                kv
            })
            .collect();
        assert_eq!(result.kvs, expected, "{context}");
    }

    async fn watch(&mut self) {
        let range = self.range();
        let newest = self.model.revision();
        let start = match self.rng.random_range(0..4) {
            0 => 0,
            1 => newest + self.rng.random_range(1..10),
            _ => self.rng.random_range((newest - 40).max(1)..=newest),
        };
        let options = WatchOptions { start: Revision(start), prev_kv: true };
        let watch = self.store.watch(range.clone(), options).await.unwrap();
        assert_eq!(watch.revision.0, newest);
        let first = if start == 0 { newest + 1 } else { start };
        let lost = ephemeral(&range) && self.model.floor > 0 && start <= self.model.floor;
        let cut = start > 0 && start <= newest && (lost || start < self.model.compacted);
        self.watches.push(Watching { watch, range, start: first, got: Vec::new(), cut, live: false });
    }

    async fn grant(&mut self) {
        let id = self.rng.random_range(1..20);
        let granted = self.store.lease_grant(LeaseId(id), 10_000).await;
        if self.model.leases.insert(id) {
            assert_eq!(granted.unwrap().id.0, id);
        } else {
            assert!(matches!(granted, Err(StoreError::LeaseExists)));
        }
    }

    async fn revoke(&mut self) {
        let id = self.rng.random_range(1..20);
        let revoked = self.store.lease_revoke(LeaseId(id)).await;
        if !self.model.leases.remove(&id) {
            assert!(matches!(revoked, Err(StoreError::LeaseNotFound)));
            return;
        }
        revoked.unwrap();
        let keys: Vec<Op> = self
            .model
            .now()
            .values()
            .filter(|kv| kv.lease.0 == id)
            .map(|kv| Op::Delete { range: KeyRange::key(kv.key.clone()), prev_kv: false })
            .collect();
        self.model.apply(&keys).unwrap();
    }

    async fn compact(&mut self) {
        let newest = self.model.revision();
        let to = self.rng.random_range((newest - 20).max(1)..=newest + 1);
        // Watches that are still reading history may be cut off from now on: let them come up to date first.
        self.drain().await;
        let compacted = if self.rng.random_bool(0.5) {
            self.store.compact_physical(Revision(to)).await
        } else {
            self.store.compact(Revision(to)).await
        };
        if to > newest {
            assert!(matches!(compacted, Err(StoreError::FutureRevision)), "seed {}", self.seed);
        } else if to <= self.model.compacted {
            assert!(matches!(compacted, Err(StoreError::Compacted { .. })), "seed {}", self.seed);
        } else {
            compacted.unwrap();
            self.model.compacted = to;
        }
    }

    /// Every watch is up to date and has delivered what it had to.
    async fn drain(&mut self) {
        let mut kept = Vec::new();
        for mut watching in std::mem::take(&mut self.watches) {
            if watching.cut {
                let message = watching.watch.messages.recv().await;
                assert!(matches!(message, Some(WatchMessage::Compacted(_))), "seed {} {message:?}", self.seed);
                assert!(watching.watch.messages.recv().await.is_none());
                continue;
            }
            let expected = self.model.expected(&watching.range, watching.start);
            watching.take(expected.len()).await;
            watching.settle(&self.store, self.model.revision()).await;
            let strip = |events: &[(i64, Vec<Event>)]| -> Vec<(i64, Vec<Event>)> {
                events
                    .iter()
                    .map(|(revision, events)| {
                        let events = events
                            .iter()
                            .map(|event| {
                                // The value before may have been compacted away before the watch began.
                                let compacted = *revision <= self.model.compacted;
                                let prev = event.prev.clone().filter(|_| !compacted);
                                Event { prev, ..event.clone() }
                            })
                            .collect();
                        (*revision, events)
                    })
                    .collect()
            };
            let (got, wanted) = (strip(&watching.got), strip(&expected));
            let different = got.iter().zip(&wanted).find(|(got, wanted)| got != wanted);
            assert_eq!(different, None, "seed {} {:?}", self.seed, watching.range);
            assert_eq!(got.len(), wanted.len(), "seed {} {:?}", self.seed, watching.range);
            kept.push(watching);
        }
        kept.truncate(20);
        self.watches = kept;
    }

    async fn restart(&mut self) {
        self.drain().await;
        self.shutdown.cancel();
        self.store.closed().await;
        for mut watching in self.watches.drain(..) {
            while let Some(message) = watching.watch.messages.recv().await {
                assert!(matches!(message, WatchMessage::Progress(_)), "{message:?}");
            }
        }
        self.shutdown = Shutdown::new();
        self.store = SqliteStore::open(&self.path, options(), self.shutdown.clone()).await.unwrap();
        assert_eq!(self.store.revision().await.unwrap().0, self.model.revision(), "seed {}", self.seed);
        self.model.floor = self.model.revision();
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn engine_agrees_with_the_model() {
    let (mut seed, mut left) = (number("STORAGE_MODEL_FIRST", 0), number("STORAGE_MODEL_OPERATIONS", 2400));
    let run_operations = left.div_ceil(6).min(2000);
    while left > 0 {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        let shutdown = Shutdown::new();
        let store = SqliteStore::open(&path, options(), shutdown.clone()).await.unwrap();
        let rng = StdRng::seed_from_u64(seed);
        let model = Model::new();
        let mut run = Run { rng, model, store, shutdown, path, watches: Vec::new(), seed, operations: 0 };
        while run.operations < run_operations.min(left) {
            run.step().await;
        }
        run.drain().await;
        run.restart().await;
        run.read().await;
        run.shutdown.cancel();
        run.store.closed().await;
        left = left.saturating_sub(run.operations);
        seed += 1;
    }
}
