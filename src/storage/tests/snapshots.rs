//! Snapshots: made of a running store, put back into a file and into a cluster, and restores that are interrupted.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use base::Shutdown;
use bytes::Bytes;
use storage::snapshot::{is_half_restored, restore_into, save};
use storage::sqlite::restore;
use storage::{
    EtcdOptions, EtcdStore, KeyRange, KeyValue, LeaseId, Op, Put, RangeOptions, Revision, SqliteOptions, SqliteStore,
    Store, Txn,
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
    let etcd = EtcdStore::open(EtcdOptions::new(vec![server.endpoint.clone()], None), stop.clone()).await.unwrap();
    put(&*etcd, "/d/stray", "goes", LeaseId(0)).await;
    restore_into(&*etcd, &snapshot, |_| {}).await.unwrap();
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
