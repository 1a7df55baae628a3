//! What the engine tells of itself in the format of Prometheus.

use std::collections::HashMap;

use base::Shutdown;
use storage::{
    KeyRange, LeaseId, Op, Put, RangeOptions, Revision, SqliteOptions, SqliteStore, Store, Txn, WatchMessage,
    WatchOptions,
};

/// Every sample of the page by its name with labels.
fn samples(page: &str) -> HashMap<String, f64> {
    let line = |line: &str| {
        let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line}"));
        (name.to_owned(), value.parse().unwrap_or_else(|_| panic!("{line}")))
    };
    page.lines().filter(|text| !text.starts_with('#')).map(line).collect()
}

#[tokio::test]
async fn compactions_commits_and_sizes_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let shutdown = Shutdown::new();
    let options = SqliteOptions { history: None, ..SqliteOptions::default() };
    let store = SqliteStore::open(&dir.path().join("db"), options, shutdown.clone()).await.unwrap();
    let put = |key: String| Op::Put(Put { key: key.into(), value: vec![b'x'; 100].into(), ..Put::default() });
    let writes = (0..600).map(|n| store.txn(Txn { success: vec![put(format!("/k/{}", n % 7))], ..Txn::default() }));
    futures::future::try_join_all(writes).await.unwrap();
    let delete = Op::Delete { range: KeyRange::key("/k/0"), prev_kv: false };
    let newest = store.txn(Txn { success: vec![delete], ..Txn::default() }).await.unwrap().revision;
    store.range(KeyRange::prefix("/k/"), RangeOptions::default()).await.unwrap();
    let lease = store.lease_grant(LeaseId(0), 60).await.unwrap().id;
    store.lease_grant(LeaseId(9), 60).await.unwrap();
    store.lease_keep_alive(lease).await.unwrap();
    store.lease_revoke(LeaseId(9)).await.unwrap();
    let options = WatchOptions { start: Revision(newest.0 - 2), ..WatchOptions::default() };
    let mut watch = store.watch(KeyRange::prefix("/k/"), options).await.unwrap();
    let past = watch.messages.recv().await;
    assert!(matches!(&past, Some(WatchMessage::Events { events, .. }) if events.len() == 3), "{past:?}");

    let mut page = String::new();
    store.metrics(&mut page).await.unwrap();
    let before = samples(&page);
    assert_eq!(before["etcd_debugging_mvcc_db_compaction_keys_total"], 0.0);
    assert_eq!(before["etcd_debugging_mvcc_db_compaction_last"], 0.0);
    assert_eq!(before["etcd_debugging_mvcc_keys_total"], 6.0);
    let newest = store.txn(Txn { success: vec![put("/k/new".to_owned())], ..Txn::default() }).await.unwrap().revision;
    store.compact_physical(Revision(newest.0 - 100)).await.unwrap();
    page.clear();
    store.metrics(&mut page).await.unwrap();
    let after = samples(&page);
    let check = |name: &str, wanted: f64| assert_eq!(after[name], wanted, "{name} in {page}");
    check("etcd_mvcc_put_total", 601.0);
    check("etcd_mvcc_delete_total", 1.0);
    check("etcd_mvcc_txn_total", 602.0);
    check("etcd_mvcc_range_total", 1.0);
    check("etcd_debugging_mvcc_current_revision", newest.0 as f64);
    check("etcd_debugging_mvcc_compact_revision", (newest.0 - 100) as f64);
    check("etcd_debugging_lease_total", 1.0);
    check("etcd_debugging_mvcc_watcher_total", 1.0);
    check("etcd_debugging_mvcc_slow_watcher_total", 0.0);
    check("etcd_debugging_mvcc_events_total", 4.0);
    check("etcd_debugging_mvcc_pending_events_total", 1.0);
    check("etcd_debugging_mvcc_keys_total", 7.0);
    check("etcd_debugging_lease_granted_total", 2.0);
    check("etcd_debugging_lease_renewed_total", 1.0);
    check("etcd_debugging_lease_revoked_total", 1.0);
    check("etcd_debugging_lease_ttl_total_bucket{le=\"32\"}", 0.0);
    check("etcd_debugging_lease_ttl_total_bucket{le=\"64\"}", 2.0);
    // Every version that another has superseded up to there.
    check("etcd_debugging_mvcc_db_compaction_keys_total", 495.0);
    check("etcd_debugging_mvcc_db_compaction_total_duration_milliseconds_count", 1.0);
    assert!(after["etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds_count"] >= 1.0);
    assert!(after["etcd_debugging_mvcc_db_compaction_last"] > 1.7e9);
    // Writers that wait together share a commit.
    let commits = after["skiff_storage_commit_transactions_count"];
    assert!((3.0..602.0).contains(&commits), "{commits}");
    assert_eq!(after["skiff_storage_commit_transactions_sum"], 602.0);
    assert!(after["etcd_disk_backend_commit_duration_seconds_count"] >= commits);
    assert!(after["skiff_storage_wal_size_bytes"] > 0.0);
    assert!(after["etcd_mvcc_db_total_size_in_bytes"] >= after["etcd_mvcc_db_total_size_in_use_in_bytes"]);
    // Each name has a kind, and buckets add up.
    let last = after["etcd_disk_backend_commit_duration_seconds_bucket{le=\"+Inf\"}"];
    assert_eq!(last, after["etcd_disk_backend_commit_duration_seconds_count"]);
    for name in after.keys() {
        let family = name.split('{').next().unwrap();
        let family = ["_bucket", "_sum", "_count"].iter().find_map(|end| family.strip_suffix(end)).unwrap_or(family);
        assert!(page.contains(&format!("# TYPE {family} ")), "{name}");
    }
    shutdown.cancel();
    store.closed().await;
}
