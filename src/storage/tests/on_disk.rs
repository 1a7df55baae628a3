//! The switch that keeps everything on disk, and databases that are opened with it and without it in turn.

use std::path::Path;
use std::sync::Arc;

use base::Shutdown;
use storage::{
    KeyRange, KeyValue, LeaseId, Op, Put, RangeOptions, Revision, SqliteOptions, SqliteStore, Store, StoreError, Txn,
};

fn in_memory() -> SqliteOptions {
    SqliteOptions { ephemeral_prefixes: vec!["/e/".into()], history: None, ..SqliteOptions::default() }
}

fn all_on_disk() -> SqliteOptions {
    SqliteOptions { leases_on_disk: true, history: None, ..SqliteOptions::default() }
}

async fn open(path: &Path, options: SqliteOptions) -> (Arc<SqliteStore>, Shutdown) {
    let shutdown = Shutdown::new();
    (SqliteStore::open(path, options, shutdown.clone()).await.unwrap(), shutdown)
}

async fn close((store, shutdown): (Arc<SqliteStore>, Shutdown)) {
    shutdown.cancel();
    store.closed().await;
}

async fn put(store: &SqliteStore, key: &'static str, value: &'static str, lease: i64) {
    let put = Put { key: key.into(), value: value.into(), lease: LeaseId(lease), ..Put::default() };
    store.txn(Txn { success: vec![Op::Put(put)], ..Txn::default() }).await.unwrap();
}

async fn get(store: &SqliteStore, key: &'static str) -> Option<KeyValue> {
    store.range(KeyRange::key(key), RangeOptions::default()).await.unwrap().kvs.pop()
}

/// What a crash at this moment would leave, in another folder.
fn as_after_a_crash(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for name in ["db", "db-wal"] {
        std::fs::copy(from.join(name), to.join(name)).unwrap();
    }
}

#[tokio::test]
async fn with_everything_on_disk_a_crash_loses_no_heartbeat_and_no_lease() {
    let dir = tempfile::tempdir().unwrap();
    let crashed = dir.path().join("crashed");
    let running = open(&dir.path().join("db"), all_on_disk()).await;
    let store = &running.0;
    store.lease_grant(LeaseId(5), 600).await.unwrap();
    store.lease_grant(LeaseId(6), 600).await.unwrap();
    store.lease_revoke(LeaseId(6)).await.unwrap();
    put(store, "/e/heartbeat", "1", 5).await;
    put(store, "/e/heartbeat", "2", 5).await;
    as_after_a_crash(dir.path(), &crashed);
    let newest = store.revision().await.unwrap();
    close(running).await;

    let after = open(&crashed.join("db"), all_on_disk()).await;
    assert_eq!(after.0.revision().await.unwrap(), newest);
    assert_eq!(get(&after.0, "/e/heartbeat").await.unwrap().value, "2");
    assert_eq!(after.0.leases().await.unwrap(), [LeaseId(5)]);
    assert_eq!(after.0.lease_status(LeaseId(5), true).await.unwrap().keys, ["/e/heartbeat"]);
    close(after).await;
}

#[tokio::test]
async fn keys_move_when_the_switch_is_turned() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let running = open(&path, in_memory()).await;
    running.0.lease_grant(LeaseId(5), 600).await.unwrap();
    put(&running.0, "/e/a", "1", 0).await;
    put(&running.0, "/e/a", "2", 5).await;
    put(&running.0, "/d/b", "1", 0).await;
    let wanted = get(&running.0, "/e/a").await.unwrap();
    close(running).await;

    // To the disk: as it was, and from now on safe from crashes.
    let running = open(&path, all_on_disk()).await;
    assert_eq!(get(&running.0, "/e/a").await.unwrap(), wanted);
    assert_eq!(running.0.lease_status(LeaseId(5), true).await.unwrap().keys, ["/e/a"]);
    let crashed = dir.path().join("crashed");
    as_after_a_crash(dir.path(), &crashed);
    let after = open(&crashed.join("db"), all_on_disk()).await;
    assert_eq!(get(&after.0, "/e/a").await.unwrap(), wanted);
    close(after).await;
    put(&running.0, "/e/a", "3", 5).await;
    put(&running.0, "/e/gone", "1", 0).await;
    let delete = Op::Delete { range: KeyRange::key("/e/gone"), prev_kv: false };
    running.0.txn(Txn { success: vec![delete], ..Txn::default() }).await.unwrap();
    let wanted = get(&running.0, "/e/a").await.unwrap();
    assert_eq!(wanted.version, 3);
    let newest = running.0.revision().await.unwrap();
    close(running).await;

    // And back to memory, where its history before is gone.
    let running = open(&path, in_memory()).await;
    let all = running.0.range(KeyRange::prefix("/"), RangeOptions::default()).await.unwrap();
    assert_eq!((all.count, all.revision), (2, newest));
    assert_eq!(all.kvs[1], wanted);
    assert_eq!(running.0.lease_status(LeaseId(5), true).await.unwrap().keys, ["/e/a"]);
    let before = RangeOptions { revision: Revision(newest.0 - 1), ..RangeOptions::default() };
    let read = running.0.range(KeyRange::key("/e/a"), before).await;
    assert!(matches!(read, Err(StoreError::Compacted { .. })), "{read:?}");
    let content = |name: &str| std::fs::read(dir.path().join(name)).unwrap();
    put(&running.0, "/e/a", "4", 5).await;
    let before = (content("db"), content("db-wal"));
    put(&running.0, "/e/a", "5", 5).await;
    assert!((content("db"), content("db-wal")) == before, "a heartbeat went to the disk");
    running.0.compact_physical(running.0.revision().await.unwrap()).await.unwrap();
    assert_eq!(get(&running.0, "/e/a").await.unwrap().version, 5);
    close(running).await;
    let running = open(&path, in_memory()).await;
    assert_eq!(get(&running.0, "/e/a").await.unwrap().value, "5");
    assert_eq!(get(&running.0, "/e/gone").await, None);
    close(running).await;
}

#[tokio::test]
async fn the_log_is_longer_than_what_is_in_it_and_grows_in_steps() {
    let dir = tempfile::tempdir().unwrap();
    let (path, crashed) = (dir.path().join("db"), dir.path().join("crashed"));
    let running = open(&path, all_on_disk()).await;
    put(&running.0, "/a", "1", 0).await;
    let size = || std::fs::metadata(dir.path().join("db-wal")).unwrap().len();
    let first = size();
    assert!(first >= 1024 * 1024, "{first}");
    for _ in 0..20 {
        put(&running.0, "/a", "more", 0).await;
    }
    assert_eq!(size(), first);
    let big: &str = "x".repeat(900_000).leak();
    put(&running.0, "/b", big, 0).await;
    put(&running.0, "/a", "last", 0).await;
    assert!(size() > first);
    as_after_a_crash(dir.path(), &crashed);
    close(running).await;

    let running = open(&crashed.join("db"), all_on_disk()).await;
    assert_eq!(get(&running.0, "/a").await.unwrap().value, "last");
    assert_eq!(get(&running.0, "/b").await.unwrap().value, big);
    close(running).await;
}
