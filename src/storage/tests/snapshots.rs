//! Snapshots: made of a running store, put back into a file and into a cluster, and restores that are interrupted.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use base::Shutdown;
use bytes::Bytes;
use storage::snapshot::{Record, SnapshotHeader, SnapshotWriter, is_half_restored, restore_into, save};
use storage::sqlite::restore;
use storage::{
    Compare, CompareResult, CompareTarget, EtcdOptions, EtcdStore, KeyRange, KeyValue, LeaseId, Op, Put, RangeOptions,
    Revision, SqliteOptions, SqliteStore, Store, StoreError, Txn, WatchMessage, WatchOptions,
};

#[path = "contract/etcd_process.rs"]
mod etcd_process;

fn options() -> SqliteOptions {
    SqliteOptions { ephemeral_prefixes: vec!["/e/".into()], history: None, ..SqliteOptions::default() }
}

async fn open(path: &Path) -> (Arc<SqliteStore>, Shutdown) {
    let shutdown = Shutdown::new();
    (SqliteStore::open(path, options(), shutdown.clone()).await.unwrap(), shutdown)
}

async fn close(store: Arc<SqliteStore>, shutdown: Shutdown) {
    shutdown.cancel();
    store.closed().await;
}

async fn put(store: &dyn Store, key: &str, value: &str, lease: LeaseId) {
    let put = Put { key: key.to_owned().into(), value: value.to_owned().into(), lease, ..Put::default() };
    store.txn(Txn { success: vec![Op::Put(put)], ..Txn::default() }).await.unwrap();
}

async fn fill(store: &dyn Store) {
    let lease = store.lease_grant(LeaseId(77), 900).await.unwrap().id;
    for n in 0..1200 {
        put(store, &format!("/d/{n}"), &format!("value {n}"), LeaseId(0)).await;
    }
    for n in 0..300 {
        put(store, &format!("/d/{}", n * 3), "changed", LeaseId(0)).await;
    }
    put(store, "/d/leased", "v", lease).await;
    let several = ["/d/m1", "/e/m2", "/d/m3", "/e/m4"].map(|key| Op::Put(Put { key: key.into(), ..Put::default() }));
    store.txn(Txn { success: several.into(), ..Txn::default() }).await.unwrap();
}

async fn everything(store: &dyn Store) -> Vec<KeyValue> {
    store.range(KeyRange::prefix("/"), RangeOptions::default()).await.unwrap().kvs
}

fn contents(kvs: Vec<KeyValue>) -> BTreeMap<Bytes, Bytes> {
    kvs.into_iter().map(|kv| (kv.key, kv.value)).collect()
}

fn one(key: &'static str, value: &'static str) -> BTreeMap<Bytes, Bytes> {
    BTreeMap::from([(key.into(), value.into())])
}

#[tokio::test]
async fn a_database_comes_back_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let (path, snapshot) = (dir.path().join("db"), dir.path().join("snap"));
    let (store, shutdown) = open(&path).await;
    fill(&*store).await;
    let wanted = everything(&*store).await;
    let saved = save(&*store, &snapshot, "sqlite", 1).await.unwrap();
    assert_eq!((saved.keys, saved.revision), (wanted.len() as u64, store.revision().await.unwrap()));
    put(&*store, "/d/later", "x", LeaseId(0)).await;
    let newest = store.revision().await.unwrap();
    let held = restore(&path, &snapshot, &options().ephemeral_prefixes, Some(newest), "old");
    assert!(held.is_err(), "a database in use was replaced");
    close(store, shutdown).await;

    let done = restore(&path, &snapshot, &options().ephemeral_prefixes, Some(newest), "old").unwrap();
    assert_eq!((done.keys, done.revision), (saved.keys, newest));
    let (store, shutdown) = open(&path).await;
    assert!(everything(&*store).await == wanted);
    assert_eq!(store.lease_status(LeaseId(77), true).await.unwrap().keys.len(), 1);
    put(&*store, "/e/m2", "again", LeaseId(0)).await;
    assert_eq!(store.revision().await.unwrap(), Revision(newest.0 + 1));
    close(store, shutdown).await;
    // What was there before still is.
    let (old, shutdown) = open(&done.replaced.unwrap()).await;
    assert_eq!(everything(&*old).await.len(), wanted.len() + 1);
    close(old, shutdown).await;
}

#[tokio::test]
async fn an_interrupted_restore_has_happened_or_not() {
    let dir = tempfile::tempdir().unwrap();
    let (path, snapshot) = (dir.path().join("db"), dir.path().join("snap"));
    let (store, shutdown) = open(&path).await;
    put(&*store, "/d/a", "old", LeaseId(0)).await;
    save(&*store, &snapshot, "sqlite", 1).await.unwrap();
    put(&*store, "/d/a", "new", LeaseId(0)).await;
    close(store, shutdown).await;
    // Built, but no mark: nothing has happened.
    let built = dir.path().join("other");
    restore(&built, &snapshot, &[], None, "old").unwrap();
    std::fs::copy(&built, dir.path().join("db.restored")).unwrap();
    let (store, shutdown) = open(&path).await;
    assert_eq!(contents(everything(&*store).await), one("/d/a", "new"));
    close(store, shutdown).await;
    // With the mark, and the old file moved away already: the next start ends the work.
    std::fs::write(dir.path().join("db.restore"), dir.path().join("db.kept").to_string_lossy().as_bytes()).unwrap();
    std::fs::rename(&path, dir.path().join("db.kept")).unwrap();
    let (store, shutdown) = open(&path).await;
    assert_eq!(contents(everything(&*store).await), one("/d/a", "old"));
    close(store, shutdown).await;
    assert!(!dir.path().join("db.restore").exists() && !dir.path().join("db.restored").exists());
}

#[tokio::test]
async fn a_cluster_takes_a_snapshot_and_gives_it_back() {
    let dir = tempfile::tempdir().unwrap();
    let Some(server) = etcd_process::EtcdProcess::start(dir.path()).await else { return };
    let (path, snapshot) = (dir.path().join("db"), dir.path().join("snap"));
    let (store, shutdown) = open(&path).await;
    fill(&*store).await;
    let wanted = contents(everything(&*store).await);
    let saved = save(&*store, &snapshot, "sqlite", 1).await.unwrap();
    close(store, shutdown).await;

    let stop = Shutdown::new();
    let etcd = EtcdStore::open(cluster(&server), stop.clone()).await.unwrap();
    put(&*etcd, "/d/stray", "goes", LeaseId(0)).await;
    stop.cancel();
    etcd.closed().await;
    restore_into(cluster(&server), &snapshot, |_| {}).await.unwrap();
    let stop = Shutdown::new();
    let etcd = EtcdStore::open(cluster(&server), stop.clone()).await.unwrap();
    assert!(!is_half_restored(&*etcd).await.unwrap());
    assert!(contents(everything(&*etcd).await) == wanted);
    assert!(etcd.revision().await.unwrap() > saved.revision, "revisions went back");
    assert_eq!(etcd.lease_status(LeaseId(77), true).await.unwrap().keys.len(), 1);

    let back = dir.path().join("back");
    let again = save(&*etcd, &back, "etcd", 2).await.unwrap();
    assert_eq!(again.keys, saved.keys);
    stop.cancel();
    etcd.closed().await;
    restore(&path, &back, &options().ephemeral_prefixes, None, "old").unwrap();
    let (store, shutdown) = open(&path).await;
    assert!(contents(everything(&*store).await) == wanted);
    close(store, shutdown).await;
}

fn cluster(server: &etcd_process::EtcdProcess) -> EtcdOptions {
    EtcdOptions { history: None, ..EtcdOptions::new(vec![server.endpoint.clone()], None) }
}

const NEWEST: i64 = 5_000_000;

/// A snapshot at a revision that a new cluster would take minutes to reach.
fn write_snapshot(path: &Path, revision: i64, value: &'static str) {
    let header = SnapshotHeader { revision, created: 1, engine: "sqlite".to_owned() };
    let mut writer = SnapshotWriter::create(path, &header).unwrap();
    for number in 0..300 {
        writer
            .write(&Record::Key(KeyValue {
                key: format!("/d/{number:03}").into(),
                value: value.into(),
                create_revision: Revision(number + 2),
                mod_revision: Revision(revision - number),
                version: 1,
                lease: LeaseId(0),
            }))
            .unwrap();
    }
    writer.finish().unwrap();
}

#[tokio::test]
async fn revisions_of_a_cluster_go_on_above_those_that_clients_know() {
    let dir = tempfile::tempdir().unwrap();
    let Some(server) = etcd_process::EtcdProcess::start(dir.path()).await else { return };
    let snapshot = dir.path().join("snap");
    write_snapshot(&snapshot, NEWEST, "first");
    let done = restore_into(cluster(&server), &snapshot, |_| {}).await.unwrap();
    assert!(done.keys == 300 && done.revision.0 > NEWEST && done.revision.0 < NEWEST + 100, "{done:?}");

    let stop = Shutdown::new();
    let etcd = EtcdStore::open(cluster(&server), stop.clone()).await.unwrap();
    assert_eq!(etcd.revision().await.unwrap(), done.revision);
    let kvs = everything(&*etcd).await;
    assert!(kvs.len() == 300 && kvs.iter().all(|kv| kv.mod_revision.0 > NEWEST && kv.value == "first"));
    // Those written last stay the newest.
    assert!(kvs[0].mod_revision > kvs[299].mod_revision);
    // Clients that come back from before must begin anew.
    for old in [7, NEWEST, done.revision.0 - 1] {
        let options = RangeOptions { revision: Revision(old), ..RangeOptions::default() };
        let read = etcd.range(KeyRange::prefix("/"), options).await;
        assert!(matches!(read, Err(StoreError::Compacted { .. })), "{old}: {read:?}");
        let options = WatchOptions { start: Revision(old), prev_kv: false };
        let mut watch = etcd.watch(KeyRange::prefix("/"), options).await.unwrap();
        assert!(matches!(watch.messages.recv().await, Some(WatchMessage::Compacted(_))), "{old}");
    }
    revisions_are_of_one_kind(&*etcd).await;
    let before = etcd.revision().await.unwrap();
    stop.cancel();
    etcd.closed().await;

    // As if interrupted: once more, and with an older snapshot, whose revisions must not come again either.
    write_snapshot(&snapshot, NEWEST / 2, "second");
    let done = restore_into(cluster(&server), &snapshot, |_| {}).await.unwrap();
    assert!(done.revision > before, "{done:?} {before:?}");
    let stop = Shutdown::new();
    let etcd = EtcdStore::open(cluster(&server), stop.clone()).await.unwrap();
    let kvs = everything(&*etcd).await;
    assert!(kvs.len() == 300 && kvs.iter().all(|kv| kv.mod_revision > before && kv.value == "second"));
    // A snapshot of it is about the keys only.
    let again = save(&*etcd, &snapshot, "etcd", 2).await.unwrap();
    assert_eq!(again.keys, 300);
    stop.cancel();
    etcd.closed().await;
}

/// Reads, conditions, watches and compaction name the same revisions.
async fn revisions_are_of_one_kind(store: &dyn Store) {
    let now = store.revision().await.unwrap().0;
    let all = KeyRange::prefix("/d/");
    let options = |start| WatchOptions { start: Revision(start), prev_kv: false };
    let mut live = store.watch(all.clone(), options(0)).await.unwrap();
    assert_eq!(live.revision.0, now);
    put(store, "/d/more", "1", LeaseId(0)).await;
    put(store, "/d/more", "2", LeaseId(0)).await;
    let mut past = store.watch(all.clone(), options(now + 2)).await.unwrap();
    for (watch, first) in [(&mut live, now + 1), (&mut past, now + 2)] {
        for wanted in first..=now + 2 {
            match watch.messages.recv().await {
                Some(WatchMessage::Events { revision, events }) => {
                    assert_eq!((revision.0, events[0].kv.mod_revision.0), (wanted, wanted));
                    assert_eq!(events[0].kv.create_revision.0, now + 1);
                }
                other => panic!("{other:?}"),
            }
        }
    }
    let read = async |revision: i64| {
        let options = RangeOptions { revision: Revision(revision), ..RangeOptions::default() };
        store.range(KeyRange::key("/d/more"), options).await
    };
    let past = read(now + 1).await.unwrap();
    assert_eq!((past.revision.0, &past.kvs[0].value[..]), (now + 2, &b"1"[..]));
    assert!(matches!(read(now + 3).await, Err(StoreError::FutureRevision)));
    let compare = |target, result| Compare { range: KeyRange::key("/d/more"), target, result };
    for (condition, wanted) in [
        (compare(CompareTarget::Mod(Revision(now + 2)), CompareResult::Equal), true),
        (compare(CompareTarget::Mod(Revision(2)), CompareResult::Equal), false),
        (compare(CompareTarget::Create(Revision(now + 1)), CompareResult::Equal), true),
        (compare(CompareTarget::Create(Revision(0)), CompareResult::Greater), true),
        (compare(CompareTarget::Mod(Revision(now)), CompareResult::Less), false),
    ] {
        let txn = Txn { compare: vec![condition.clone()], ..Txn::default() };
        assert_eq!(store.txn(txn).await.unwrap().succeeded, wanted, "{condition:?}");
    }
    store.compact(Revision(now + 2)).await.unwrap();
    assert!(matches!(read(now + 1).await, Err(StoreError::Compacted { .. })));
    assert!(matches!(store.compact(Revision(now + 1)).await, Err(StoreError::Compacted { .. })));
    assert_eq!(read(now + 2).await.unwrap().count, 1);
}

#[tokio::test]
async fn a_damaged_file_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let (store, shutdown) = open(&path).await;
    fill(&*store).await;
    close(store, shutdown).await;
    let mut bytes = std::fs::read(&path).unwrap();
    let length = bytes.len();
    bytes[4096..length.min(60_000)].fill(0xa5);
    std::fs::write(&path, &bytes).unwrap();
    // As after a crash: only then is the whole file looked at.
    let error = SqliteStore::open(&path, options(), Shutdown::new()).await.err().expect("the damage went unnoticed");
    let found = storage::sqlite::OpenError::of(&error);
    assert!(matches!(found, Some(storage::sqlite::OpenError::Damaged { .. })), "{error:?}");
}

/// What `etcdctl snapshot save` writes.
async fn save_etcd(server: &etcd_process::EtcdProcess, path: &Path) {
    let mut client = etcd_client::Client::connect([&server.endpoint], None).await.unwrap();
    let mut stream = client.snapshot().await.unwrap();
    let mut bytes = Vec::new();
    while let Some(part) = stream.message().await.unwrap() {
        bytes.extend_from_slice(part.blob());
    }
    std::fs::write(path, bytes).unwrap();
}

#[tokio::test]
async fn a_snapshot_of_a_real_etcd_is_put_back() {
    let dir = tempfile::tempdir().unwrap();
    let Some(server) = etcd_process::EtcdProcess::start(dir.path()).await else { return };
    let stop = Shutdown::new();
    let etcd = EtcdStore::open(cluster(&server), stop.clone()).await.unwrap();
    fill(&*etcd).await;
    put(&*etcd, "/d/large", &"x".repeat(1_000_000), LeaseId(0)).await;
    for n in 0..200 {
        let delete = Op::Delete { range: KeyRange::key(format!("/d/{n}")), prev_kv: false };
        etcd.txn(Txn { success: vec![delete], ..Txn::default() }).await.unwrap();
        if n == 100 {
            etcd.compact(etcd.revision().await.unwrap()).await.unwrap();
        }
    }
    put(&*etcd, "/d/7", "again", LeaseId(0)).await;
    let (wanted, revision) = (everything(&*etcd).await, etcd.revision().await.unwrap());
    stop.cancel();
    etcd.closed().await;

    let (path, snapshot) = (dir.path().join("db"), dir.path().join("etcd-snapshot"));
    save_etcd(&server, &snapshot).await;
    let done = restore(&path, &snapshot, &options().ephemeral_prefixes, Some(Revision(0)), "old").unwrap();
    assert_eq!((done.keys, done.revision), (wanted.len() as u64, revision));
    let (store, shutdown) = open(&path).await;
    assert_eq!(everything(&*store).await, wanted);
    let lease = store.lease_status(LeaseId(77), true).await.unwrap();
    assert_eq!((lease.granted_ttl, &lease.keys[..]), (900, &[Bytes::from("/d/leased")][..]));
    close(store, shutdown).await;

    // A cluster that went on from another datastore's revisions says so in its snapshots too.
    let high = dir.path().join("high");
    write_snapshot(&high, NEWEST, "first");
    let moved = restore_into(cluster(&server), &high, |_| {}).await.unwrap();
    save_etcd(&server, &snapshot).await;
    let done = restore(&path, &snapshot, &[], Some(Revision(0)), "older").unwrap();
    assert_eq!((done.keys, done.revision), (300, moved.revision));
    let (store, shutdown) = open(&path).await;
    assert!(everything(&*store).await.iter().all(|kv| kv.mod_revision.0 > NEWEST && kv.value == "first"));
    close(store, shutdown).await;
}
