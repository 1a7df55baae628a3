//! The behaviour that every engine of the store must show, run against the SQLite engine and, where its binary is found
//! (`ETCD`, or the conformance kit's), against a real etcd.

use std::collections::VecDeque;
use std::sync::Arc;

use base::Shutdown;
use bytes::Bytes;
use storage::{
    Compare, CompareResult, CompareTarget, EtcdOptions, EtcdStore, Event, EventKind, KeyRange, LeaseId, Op, OpResult,
    Put, RangeOptions, RangeResult, Revision, SqliteOptions, SqliteStore, Store, StoreError, Txn, TxnResult, Watch,
    WatchMessage, WatchOptions,
};

#[path = "contract/etcd_process.rs"]
mod etcd_process;

use etcd_process::EtcdProcess;

struct Bench<S = SqliteStore> {
    dir: tempfile::TempDir,
    shutdown: Shutdown,
    store: Arc<S>,
    /// The server behind the engine, if it has one.
    _server: Option<EtcdProcess>,
}

fn options() -> SqliteOptions {
    SqliteOptions { ephemeral_prefixes: vec!["/e/".into()], history: None, ..SqliteOptions::default() }
}

/// Runs each test on both engines.
macro_rules! on_both_engines {
    ($($test:ident)*) => {
        mod sqlite {
            $(#[tokio::test]
            async fn $test() {
                super::$test(super::Bench::new().await).await;
            })*
        }
        mod etcd {
            $(#[tokio::test]
            async fn $test() {
                if let Some(bench) = super::Bench::on_etcd().await {
                    super::$test(bench).await;
                }
            })*
        }
    };
}

on_both_engines! {
    keys_have_revisions_and_versions
    the_past_can_be_read
    pages_count_what_is_left
    transactions_compare_and_choose
    transactions_are_one_revision_and_all_or_nothing
    concurrent_writers_get_a_revision_each
    watches_begin_anywhere_without_gap_or_repeat
    acknowledged_writes_have_been_told
    compaction_forgets_the_past_only
    leases_end_with_their_keys
    a_stopped_store_says_so
}

impl Bench<EtcdStore> {
    /// `None`, with a word why, where there is no etcd.
    async fn on_etcd() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let server = EtcdProcess::start(dir.path()).await?;
        let shutdown = Shutdown::new();
        let options = EtcdOptions { history: None, ..EtcdOptions::new(vec![server.endpoint.clone()], None) };
        let store = EtcdStore::open(options, shutdown.clone()).await.unwrap();
        Some(Self { dir, shutdown, store, _server: Some(server) })
    }
}

impl Bench {
    async fn new() -> Self {
        Self::with(options()).await
    }

    async fn with(options: SqliteOptions) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let shutdown = Shutdown::new();
        let store = SqliteStore::open(&dir.path().join("db"), options, shutdown.clone()).await.unwrap();
        Self { dir, shutdown, store, _server: None }
    }

    async fn restart(self) -> Self {
        self.shutdown.cancel();
        self.store.closed().await;
        drop(self.store);
        let shutdown = Shutdown::new();
        let store = SqliteStore::open(&self.dir.path().join("db"), options(), shutdown.clone()).await.unwrap();
        Self { dir: self.dir, shutdown, store, _server: None }
    }
}

impl<S: Store + 'static> Bench<S> {
    async fn put(&self, key: &str, value: &str) -> i64 {
        self.txn(vec![put(key, value)]).await.revision.0
    }

    async fn delete(&self, range: KeyRange) -> u64 {
        match self.txn(vec![Op::Delete { range, prev_kv: false }]).await.results.remove(0) {
            OpResult::Delete { deleted, .. } => deleted,
            other => panic!("{other:?}"),
        }
    }

    async fn txn(&self, success: Vec<Op>) -> TxnResult {
        self.store.txn(Txn { success, ..Txn::default() }).await.unwrap()
    }

    async fn refused(&self, success: Vec<Op>) -> StoreError {
        self.store.txn(Txn { success, ..Txn::default() }).await.unwrap_err()
    }

    async fn range(&self, prefix: &str, revision: i64, limit: usize) -> Result<RangeResult, StoreError> {
        let options = RangeOptions { revision: Revision(revision), limit, ..RangeOptions::default() };
        self.store.range(KeyRange::prefix(prefix.to_owned()), options).await
    }

    async fn list(&self, prefix: &str, revision: i64) -> String {
        show(&self.range(prefix, revision, 0).await.unwrap())
    }

    async fn watch(&self, prefix: &str, start: i64) -> Watching {
        let options = WatchOptions { start: Revision(start), prev_kv: true };
        let watch = self.store.watch(KeyRange::prefix(prefix.to_owned()), options).await.unwrap();
        Watching { watch, waiting: VecDeque::new() }
    }

    async fn plain_watch(&self, prefix: &str, start: i64) -> Watching {
        let options = WatchOptions { start: Revision(start), prev_kv: false };
        let watch = self.store.watch(KeyRange::prefix(prefix.to_owned()), options).await.unwrap();
        Watching { watch, waiting: VecDeque::new() }
    }
}

fn text(bytes: &Bytes) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn show(result: &RangeResult) -> String {
    result.kvs.iter().map(|kv| format!("{}={}", text(&kv.key), text(&kv.value))).collect::<Vec<_>>().join(" ")
}

fn put(key: &str, value: &str) -> Op {
    Op::Put(Put { key: key.to_owned().into(), value: value.to_owned().into(), ..Put::default() })
}

fn leased(key: &str, lease: LeaseId) -> Op {
    Op::Put(Put { key: key.to_owned().into(), value: "v".into(), lease, ..Put::default() })
}

struct Watching {
    watch: Watch,
    /// Revisions of a batch that were not looked at yet.
    waiting: VecDeque<String>,
}

/// The next message or revision as text: `revision:+key=value(previous)` or `-key(previous)`.
async fn next(watching: &mut Watching) -> String {
    if let Some(text) = watching.waiting.pop_front() {
        return text;
    }
    match watching.watch.messages.recv().await {
        None => "end".to_owned(),
        Some(WatchMessage::Progress(revision)) => format!("progress {}", revision.0),
        Some(WatchMessage::Compacted(revision)) => format!("compacted {}", revision.0),
        Some(WatchMessage::Lagged) => "lagged".to_owned(),
        Some(WatchMessage::Events { revision, events }) => {
            assert!(events.last().unwrap().kv.mod_revision <= revision);
            let revisions = events.chunk_by(|a, b| a.kv.mod_revision == b.kv.mod_revision);
            watching.waiting = revisions.map(show_events).collect();
            watching.waiting.pop_front().unwrap()
        }
    }
}

fn show_events(events: &[Event]) -> String {
    let texts: Vec<_> = events
        .iter()
        .map(|event| {
            let prev = event.prev.as_ref().map(|kv| format!("({})", text(&kv.value))).unwrap_or_default();
            match event.kind {
                EventKind::Put => format!("+{}={}{prev}", text(&event.kv.key), text(&event.kv.value)),
                EventKind::Delete => format!("-{}{prev}", text(&event.kv.key)),
            }
        })
        .collect();
    format!("{}:{}", events[0].kv.mod_revision.0, texts.join(","))
}

async fn keys_have_revisions_and_versions<S: Store + 'static>(bench: Bench<S>) {
    assert_eq!(bench.store.revision().await.unwrap(), Revision(1));
    for prefix in ["/d/", "/e/"] {
        let key = format!("{prefix}a");
        let created = bench.put(&key, "1").await;
        let changed = bench.put(&key, "2").await;
        assert_eq!(changed, created + 1);
        let kv = bench.range(&key, 0, 0).await.unwrap().kvs.remove(0);
        assert_eq!((kv.create_revision.0, kv.mod_revision.0, kv.version), (created, changed, 2));
        assert_eq!(bench.delete(KeyRange::key(key.clone())).await, 1);
        assert_eq!(bench.delete(KeyRange::key(key.clone())).await, 0);
        bench.put(&key, "3").await;
        let kv = bench.range(&key, 0, 0).await.unwrap().kvs.remove(0);
        assert_eq!((kv.create_revision.0, kv.version), (changed + 2, 1));
    }
}

async fn the_past_can_be_read<S: Store + 'static>(bench: Bench<S>) {
    bench.put("/d/a", "1").await; // 2
    bench.put("/e/a", "2").await; // 3
    bench.txn(vec![put("/d/a", "3"), put("/e/a", "4"), put("/d/b", "5")]).await; // 4
    bench.delete(KeyRange::prefix("/")).await; // 5
    bench.put("/d/a", "6").await; // 6
    let check = |revision: i64, wanted: &'static str| {
        let bench = &bench;
        async move {
            assert_eq!(bench.list("/", revision).await, wanted, "{revision}");
            let count = RangeOptions { revision: Revision(revision), count_only: true, ..RangeOptions::default() };
            let counted = bench.store.range(KeyRange::prefix("/"), count).await.unwrap();
            assert_eq!(counted.count as usize, wanted.split_whitespace().count(), "{revision}");
        }
    };
    check(1, "").await;
    check(2, "/d/a=1").await;
    check(3, "/d/a=1 /e/a=2").await;
    check(4, "/d/a=3 /d/b=5 /e/a=4").await;
    check(5, "").await;
    check(6, "/d/a=6").await;
    check(0, "/d/a=6").await;
    assert!(matches!(bench.range("/", 7, 0).await, Err(StoreError::FutureRevision)));
}

async fn pages_count_what_is_left<S: Store + 'static>(bench: Bench<S>) {
    for n in 0..10 {
        bench.put(&format!("/d/{n}"), "v").await;
    }
    bench.put("/e/x", "v").await;
    let first = bench.range("/", 0, 4).await.unwrap();
    assert_eq!((first.kvs.len(), first.count, first.more), (4, 11, true));
    bench.put("/d/5a", "later").await;
    bench.delete(KeyRange::key("/d/9")).await;
    let rest = KeyRange { start: "/d/3\0".into(), end: KeyRange::prefix("/").end };
    let options = RangeOptions { revision: first.revision, limit: 4, ..RangeOptions::default() };
    let second = bench.store.range(rest, options).await.unwrap();
    assert_eq!((second.count, second.more), (7, true));
    assert_eq!(show(&second), "/d/4=v /d/5=v /d/6=v /d/7=v");
    let whole = RangeOptions { keys_only: true, ..RangeOptions::default() };
    let keys = bench.store.range(KeyRange::prefix("/d/"), whole).await.unwrap();
    assert!(keys.count == 10 && !keys.more && keys.kvs.iter().all(|kv| kv.value.is_empty()));
    let empty = bench.store.range(KeyRange { start: "/z".into(), end: Some("/a".into()) }, RangeOptions::default());
    assert_eq!(empty.await.unwrap().count, 0);
}

async fn transactions_compare_and_choose<S: Store + 'static>(bench: Bench<S>) {
    bench.put("/d/a", "1").await;
    let check = |target: CompareTarget, result: CompareResult, key: &'static str, wanted: bool| {
        let bench = &bench;
        async move {
            let compare = Compare { range: KeyRange::key(key), target: target.clone(), result };
            let txn = Txn { compare: vec![compare], ..Txn::default() };
            assert_eq!(bench.store.txn(txn).await.unwrap().succeeded, wanted, "{key} {result:?} {target:?}");
        }
    };
    use CompareResult::{Equal, Greater, Less, NotEqual};
    check(CompareTarget::Mod(Revision(2)), Equal, "/d/a", true).await;
    check(CompareTarget::Mod(Revision(0)), Equal, "/d/none", true).await;
    check(CompareTarget::Mod(Revision(1)), Greater, "/d/a", true).await;
    check(CompareTarget::Create(Revision(2)), NotEqual, "/d/a", false).await;
    check(CompareTarget::Version(2), Less, "/d/a", true).await;
    check(CompareTarget::Value("1".into()), Equal, "/d/a", true).await;
    check(CompareTarget::Value("".into()), Equal, "/d/none", false).await;
    check(CompareTarget::Value("x".into()), NotEqual, "/d/none", false).await;
    check(CompareTarget::Lease(LeaseId(0)), Equal, "/d/a", true).await;
    let all = Compare { range: KeyRange::prefix("/d/"), target: CompareTarget::Version(1), result: Equal };
    bench.put("/d/b", "1").await;
    let one = || Txn { compare: vec![all.clone()], success: vec![put("/d/b", "2")], ..Txn::default() };
    assert!(bench.store.txn(one()).await.unwrap().succeeded);
    assert!(!bench.store.txn(one()).await.unwrap().succeeded);
}

async fn transactions_are_one_revision_and_all_or_nothing<S: Store + 'static>(bench: Bench<S>) {
    let mut watch = bench.watch("/", 0).await;
    let inner = Txn {
        compare: vec![Compare {
            range: KeyRange::key("/d/a"),
            target: CompareTarget::Version(1),
            result: CompareResult::Equal,
        }],
        success: vec![put("/d/b", "2")],
        failure: vec![put("/d/c", "3")],
    };
    let read = Op::Range { range: KeyRange::prefix("/"), options: RangeOptions::default() };
    let result = bench.txn(vec![put("/d/a", "1"), put("/e/a", "1"), Op::Txn(Box::new(inner)), read]).await;
    assert_eq!(result.revision, Revision(2));
    match &result.results[3] {
        // The inner condition was looked at before the outer writes.
        OpResult::Range(range) => assert_eq!(show(range), "/d/a=1 /d/c=3 /e/a=1"),
        other => panic!("{other:?}"),
    }
    assert_eq!(next(&mut watch).await, "2:+/d/a=1,+/e/a=1,+/d/c=3");

    let missing = Op::Put(Put { key: "/d/none".into(), ignore_value: true, ..Put::default() });
    let error = bench.refused(vec![put("/d/a", "9"), put("/e/a", "9"), missing]).await;
    assert!(matches!(error, StoreError::KeyNotFound));
    assert_eq!(bench.list("/", 0).await, "/d/a=1 /d/c=3 /e/a=1");
    assert_eq!(bench.put("/d/z", "1").await, 3);
    let none = bench.txn(vec![Op::Delete { range: KeyRange::key("/none"), prev_kv: true }]).await;
    assert_eq!(none.revision, Revision(3));
    assert!(matches!(bench.refused(vec![leased("/d/a", LeaseId(7))]).await, StoreError::LeaseNotFound));
}

async fn concurrent_writers_get_a_revision_each<S: Store + 'static>(bench: Bench<S>) {
    let mut watch = bench.watch("/", 0).await;
    let tasks: Vec<_> = (0..200)
        .map(|n| {
            let store = bench.store.clone();
            tokio::spawn(async move {
                let ops = vec![put(&format!("/d/{n}"), "v")];
                // Every tenth is refused and must not spoil its batch.
                let ops = if n % 10 == 0 { vec![ops[0].clone(), leased("/d/x", LeaseId(5))] } else { ops };
                store.txn(Txn { success: ops, ..Txn::default() }).await.map(|result| result.revision.0)
            })
        })
        .collect();
    let mut revisions = Vec::new();
    for task in tasks {
        revisions.extend(task.await.unwrap().ok());
    }
    revisions.sort_unstable();
    assert_eq!(revisions, (2..182).collect::<Vec<_>>());
    for revision in 2..182 {
        assert!(next(&mut watch).await.starts_with(&format!("{revision}:+/d/")));
    }
    assert_eq!(bench.range("/d/", 0, 0).await.unwrap().count, 180);
}

async fn watches_begin_anywhere_without_gap_or_repeat<S: Store + 'static>(bench: Bench<S>) {
    bench.put("/d/a", "1").await; // 2
    bench.put("/e/a", "2").await; // 3
    bench.txn(vec![put("/d/a", "3"), put("/x", "3"), put("/e/a", "4")]).await; // 4
    bench.delete(KeyRange::prefix("/d/")).await; // 5
    let mut all = bench.watch("/", 2).await;
    let mut durable = bench.watch("/d/", 3).await;
    let mut future = bench.watch("/", 7).await;
    let mut plain = bench.plain_watch("/", 2).await;
    let mut plain_future = bench.plain_watch("/", 7).await;
    bench.put("/d/a", "5").await; // 6
    bench.put("/d/b", "6").await; // 7
    assert_eq!(next(&mut all).await, "2:+/d/a=1");
    assert_eq!(next(&mut all).await, "3:+/e/a=2");
    assert_eq!(next(&mut all).await, "4:+/d/a=3(1),+/x=3,+/e/a=4(2)");
    assert_eq!(next(&mut all).await, "5:-/d/a(3)");
    assert_eq!(next(&mut all).await, "6:+/d/a=5");
    assert_eq!(next(&mut durable).await, "4:+/d/a=3(1)");
    assert_eq!(next(&mut durable).await, "5:-/d/a(3)");
    assert_eq!(next(&mut durable).await, "6:+/d/a=5");
    assert_eq!(next(&mut future).await, "7:+/d/b=6");
    assert_eq!(next(&mut plain_future).await, "7:+/d/b=6");
    for wanted in ["2:+/d/a=1", "3:+/e/a=2", "4:+/d/a=3,+/x=3,+/e/a=4", "5:-/d/a", "6:+/d/a=5", "7:+/d/b=6"] {
        assert_eq!(next(&mut plain).await, wanted);
    }
    bench.put("/z", "7").await;
    assert_eq!(next(&mut durable).await, "7:+/d/b=6");
    bench.store.request_progress().await.unwrap();
    assert_eq!(next(&mut durable).await, "progress 8");
}

/// Whoever has the answer to a write, or the newest revision, has been handed every event up to it.
async fn acknowledged_writes_have_been_told<S: Store + 'static>(bench: Bench<S>) {
    let mut watch = bench.plain_watch("/d/", 0).await;
    let mut exact = bench.plain_watch("/d/a", 0).await;
    for n in 2..40 {
        assert_eq!(bench.put("/d/a", &n.to_string()).await, n);
        let wanted = format!("{n}:+/d/a={n}");
        for watch in [&mut watch, &mut exact] {
            match watch.watch.messages.try_recv() {
                Ok(WatchMessage::Events { revision, .. }) => assert_eq!(revision.0, n),
                other => panic!("{wanted}: {other:?}"),
            }
        }
        assert_eq!(bench.store.revision().await.unwrap().0, n);
    }
    bench.put("/x", "1").await;
    bench.store.request_progress().await.unwrap();
    assert_eq!(next(&mut watch).await, "progress 40");
    // A watch that begins in the past joins those and is told as they are.
    let mut late = bench.plain_watch("/d/", 30).await;
    for n in 30..40 {
        assert_eq!(next(&mut late).await, format!("{n}:+/d/a={n}"));
    }
    bench.put("/d/b", "1").await;
    assert_eq!(next(&mut late).await, "41:+/d/b=1");
}

async fn leases_end_with_their_keys<S: Store + 'static>(bench: Bench<S>) {
    let lease = bench.store.lease_grant(LeaseId(42), 600).await.unwrap();
    assert_eq!((lease.id, lease.ttl), (LeaseId(42), 600));
    assert!(matches!(bench.store.lease_grant(LeaseId(42), 600).await, Err(StoreError::LeaseExists)));
    assert_eq!(bench.store.lease_keep_alive(LeaseId(42)).await.unwrap(), 600);
    assert!(matches!(bench.store.lease_keep_alive(LeaseId(43)).await, Err(StoreError::LeaseNotFound)));
    bench.txn(vec![leased("/d/a", lease.id), leased("/e/a", lease.id), put("/d/b", "free")]).await;
    let status = bench.store.lease_status(lease.id, true).await.unwrap();
    assert_eq!((status.granted_ttl, status.keys.len()), (600, 2));
    assert_eq!(bench.store.leases().await.unwrap(), [lease.id]);
    let mut watch = bench.plain_watch("/", 0).await;
    bench.store.lease_revoke(lease.id).await.unwrap();
    assert_eq!(next(&mut watch).await, "3:-/d/a,-/e/a");
    assert!(matches!(bench.store.lease_revoke(lease.id).await, Err(StoreError::LeaseNotFound)));
    assert_eq!(bench.store.lease_status(lease.id, false).await.unwrap().ttl, -1);
    assert_eq!(bench.list("/", 0).await, "/d/b=free");
}

#[tokio::test]
async fn slow_watches_end_lagged() {
    let bench = Bench::with(SqliteOptions { watch_queue_len: 4, ..options() }).await;
    let mut watch = bench.watch("/", 0).await;
    for n in 0..10 {
        bench.put("/d/a", &n.to_string()).await;
    }
    for n in 0..4 {
        assert!(next(&mut watch).await.starts_with(&format!("{}:", n + 2)));
    }
    assert_eq!(next(&mut watch).await, "lagged");
    assert_eq!(next(&mut watch).await, "end");
    // A watch that reads history is waited for instead.
    let mut history = bench.watch("/", 2).await;
    for n in 0..10 {
        assert!(next(&mut history).await.starts_with(&format!("{}:", n + 2)));
    }
}

async fn compaction_forgets_the_past_only<S: Store + 'static>(bench: Bench<S>) {
    for prefix in ["/d/", "/e/"] {
        for n in 0..5 {
            bench.put(&format!("{prefix}a"), &n.to_string()).await; // 2..6, 9..13
        }
        bench.put(&format!("{prefix}b"), "b").await; // 7, 14
        bench.delete(KeyRange::key(format!("{prefix}b"))).await; // 8, 15
    }
    let before = bench.list("/", 11).await;
    bench.store.compact(Revision(8)).await.unwrap();
    assert!(matches!(bench.range("/", 7, 0).await, Err(StoreError::Compacted { compact_revision: Revision(8) })));
    assert_eq!(bench.list("/", 8).await, "/d/a=4");
    assert_eq!(bench.list("/", 11).await, before);
    let mut watch = bench.watch("/", 7).await;
    assert_eq!(next(&mut watch).await, "compacted 8");
    assert_eq!(next(&mut watch).await, "end");
    let mut watch = bench.plain_watch("/", 8).await;
    assert_eq!(next(&mut watch).await, "8:-/d/b");
    assert!(matches!(bench.store.compact(Revision(8)).await, Err(StoreError::Compacted { .. })));
    assert!(matches!(bench.store.compact(Revision(99)).await, Err(StoreError::FutureRevision)));
    bench.put("/d/a", "5").await; // 16
    bench.store.compact(Revision(16)).await.unwrap();
    assert_eq!(bench.list("/", 0).await, "/d/a=5 /e/a=4");
}

#[tokio::test]
async fn compaction_is_for_ever() {
    let bench = Bench::new().await;
    bench.txn(vec![put("/d/a", "5"), put("/e/a", "4")]).await;
    for n in 0..13 {
        bench.put("/d/b", &n.to_string()).await;
    }
    bench.delete(KeyRange::key("/d/b")).await; // 16
    bench.store.compact_physical(Revision(16)).await.unwrap();
    let bench = bench.restart().await;
    assert_eq!(bench.list("/", 0).await, "/d/a=5 /e/a=4");
    assert!(matches!(bench.range("/d", 15, 0).await, Err(StoreError::Compacted { .. })));
    assert_eq!(bench.put("/d/b", "again").await, 17);
}

#[tokio::test]
async fn an_orderly_stop_keeps_everything() {
    let bench = Bench::new().await;
    bench.put("/d/a", "1").await;
    bench.put("/e/a", "2").await;
    let lease = bench.store.lease_grant(LeaseId(0), 600).await.unwrap().id;
    bench.txn(vec![leased("/e/l", lease), leased("/d/l", lease)]).await;
    let mut watch = bench.watch("/", 0).await;
    let bench = bench.restart().await;
    assert_eq!(next(&mut watch).await, "end");
    assert_eq!(bench.list("/", 0).await, "/d/a=1 /d/l=v /e/a=2 /e/l=v");
    let status = bench.store.lease_status(lease, true).await.unwrap();
    assert_eq!((status.granted_ttl, status.keys.len()), (600, 2));
    let kv = bench.range("/e/a", 0, 0).await.unwrap().kvs.remove(0);
    assert_eq!((kv.mod_revision.0, kv.version), (3, 1));
    assert_eq!(bench.put("/e/a", "3").await, 5);
    // History of memory ends with the process; that of the disk does not.
    let mut lost = bench.watch("/", 3).await;
    assert_eq!(next(&mut lost).await, "compacted 5");
    let mut kept = bench.watch("/d/", 2).await;
    assert_eq!(next(&mut kept).await, "2:+/d/a=1");
}

#[tokio::test(start_paused = true)]
async fn leases_take_their_keys_along() {
    let bench = Bench::new().await;
    let mut watch = bench.watch("/", 0).await;
    let lease = bench.store.lease_grant(LeaseId(42), 10).await.unwrap();
    assert_eq!((lease.id, lease.ttl), (LeaseId(42), 10));
    assert!(matches!(bench.store.lease_grant(LeaseId(42), 10).await, Err(StoreError::LeaseExists)));
    bench.txn(vec![leased("/d/a", lease.id), leased("/e/a", lease.id), leased("/d/b", lease.id)]).await; // 2
    bench.put("/d/b", "free").await; // 3
    next(&mut watch).await;
    next(&mut watch).await;
    tokio::time::advance(std::time::Duration::from_secs(8)).await;
    assert_eq!(bench.store.lease_status(lease.id, true).await.unwrap().ttl, 2);
    assert_eq!(bench.store.lease_keep_alive(lease.id).await.unwrap(), 10);
    tokio::time::advance(std::time::Duration::from_secs(8)).await;
    assert_eq!(bench.store.lease_status(lease.id, true).await.unwrap().keys.len(), 2);
    assert_eq!(next(&mut watch).await, "4:-/d/a(v),-/e/a(v)");
    assert_eq!(bench.store.lease_status(lease.id, false).await.unwrap().ttl, -1);
    assert!(matches!(bench.store.lease_keep_alive(lease.id).await, Err(StoreError::LeaseNotFound)));
    assert_eq!(bench.list("/", 0).await, "/d/b=free");

    let other = bench.store.lease_grant(LeaseId(0), 100).await.unwrap().id;
    bench.txn(vec![leased("/d/c", other)]).await;
    assert_eq!(bench.store.leases().await.unwrap(), [other]);
    bench.store.lease_revoke(other).await.unwrap();
    assert!(matches!(bench.store.lease_revoke(other).await, Err(StoreError::LeaseNotFound)));
    assert_eq!(bench.list("/", 0).await, "/d/b=free");
}

#[tokio::test(start_paused = true)]
async fn history_is_kept_for_its_time() {
    let bench = Bench::with(SqliteOptions { history: Some(std::time::Duration::from_secs(300)), ..options() }).await;
    bench.put("/d/a", "1").await;
    bench.put("/d/a", "2").await;
    tokio::time::sleep(std::time::Duration::from_secs(120)).await;
    assert_eq!(bench.store.compacted(), Revision(0));
    bench.put("/d/a", "3").await;
    tokio::time::sleep(std::time::Duration::from_secs(280)).await;
    assert_eq!(bench.store.compacted(), Revision(3));
    tokio::time::sleep(std::time::Duration::from_secs(3600)).await;
    assert_eq!(bench.store.compacted(), Revision(4));
    assert_eq!(bench.list("/", 0).await, "/d/a=3");
}

#[tokio::test(start_paused = true)]
async fn history_is_bounded_by_count() {
    let bench = Bench::with(SqliteOptions { history_revisions: Some(100), ..options() }).await;
    for n in 0..150 {
        bench.put("/d/a", &n.to_string()).await;
    }
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    let compacted = bench.store.compacted().0;
    assert!((12..=51).contains(&compacted), "{compacted}");
    assert_eq!(bench.list("/", 0).await, "/d/a=149");
}

#[tokio::test]
async fn writes_in_memory_leave_the_disk_alone() {
    let bench = Bench::new().await;
    bench.put("/d/a", "1").await;
    bench.put("/e/a", "1").await;
    let content = |name: &str| std::fs::read(bench.dir.path().join(name)).unwrap();
    let before = (content("db"), content("db-wal"));
    for n in 0..50 {
        bench.put("/e/a", &n.to_string()).await;
    }
    assert!((content("db"), content("db-wal")) == before, "something went to the disk");
}

#[tokio::test]
async fn a_full_disk_is_survived() {
    let bench = Bench::with(SqliteOptions { bytes_max: Some(512 * 1024), ..options() }).await;
    let large = "x".repeat(20_000);
    let mut written = 0;
    let error = loop {
        match bench.store.txn(Txn { success: vec![put("/d/a", &large)], ..Txn::default() }).await {
            Ok(result) => written = result.revision.0,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, StoreError::DiskFull) && error.retryable(), "{error:?}");
    // What fails has not happened; what needs no disk goes on, also together with what does.
    assert_eq!(bench.store.revision().await.unwrap().0, written);
    let tasks: Vec<_> = (0..20)
        .map(|n| {
            let (store, large) = (bench.store.clone(), large.clone());
            let op = if n % 2 == 0 { put(&format!("/e/{n}"), "v") } else { put("/d/b", &large) };
            tokio::spawn(async move { store.txn(Txn { success: vec![op], ..Txn::default() }).await.is_ok() })
        })
        .collect();
    for (n, task) in tasks.into_iter().enumerate() {
        assert_eq!(task.await.unwrap(), n % 2 == 0, "{n}");
    }
    assert_eq!(bench.range("/e/", 0, 0).await.unwrap().count, 10);
    assert_eq!(bench.range("/d/", 0, 0).await.unwrap().kvs[0].mod_revision.0, written);
    bench.store.compact_physical(bench.store.revision().await.unwrap()).await.unwrap();
    assert_eq!(bench.put("/d/a", &large).await, written + 11);
    let bench = bench.restart().await;
    assert_eq!(bench.range("/", 0, 0).await.unwrap().count, 11);
}

#[tokio::test]
async fn a_backup_is_a_store() {
    let bench = Bench::new().await;
    bench.put("/d/a", "1").await;
    bench.put("/e/a", "2").await;
    let target = bench.dir.path().join("copy");
    bench.store.backup(&target).await.unwrap();
    let wanted = bench.store.fingerprint(Revision(0)).await.unwrap();
    let shutdown = Shutdown::new();
    let copy = SqliteStore::open(&target, options(), shutdown.clone()).await.unwrap();
    // Revisions that the original may have told since the copy was made are not told again.
    assert!(copy.revision().await.unwrap() >= Revision(3));
    assert_eq!(copy.fingerprint(Revision(0)).await.unwrap().0, wanted.0);
    assert!(bench.store.backup(&target).await.is_err(), "a backup must not overwrite");
    assert!(target.exists());
    shutdown.cancel();
    copy.closed().await;
}

async fn a_stopped_store_says_so<S: Store + 'static>(bench: Bench<S>) {
    let mut watch = bench.plain_watch("/", 0).await;
    bench.shutdown.cancel();
    assert_eq!(next(&mut watch).await, "end");
    assert!(matches!(bench.refused(vec![put("/d/a", "1")]).await, StoreError::Stopped));
    assert!(matches!(bench.range("/", 0, 0).await, Err(StoreError::Stopped)));
}

#[tokio::test]
async fn what_is_wrong_with_a_file_is_said() {
    let check = |prepare: fn(&std::path::Path), wanted: &'static str| async move {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        prepare(&path);
        let error = SqliteStore::open(&path, options(), Shutdown::new())
            .await
            .err()
            .map(|error| base::chain(&error).to_string());
        assert!(error.as_deref().is_some_and(|error| error.contains(wanted)), "{error:?}");
    };
    check(|path| std::fs::write(path, vec![b'x'; 9000]).unwrap(), "is not a database of this program").await;
    check(|path| std::fs::create_dir(path).unwrap(), "cannot use").await;
    let bench = Bench::new().await;
    let again = SqliteStore::open(bench.store.path(), options(), Shutdown::new()).await.err().unwrap();
    assert!(base::chain(&again).to_string().contains("is in use by another process"));
}
