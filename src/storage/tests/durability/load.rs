//! Writers that tell what was acknowledged to them, and the check of a database that was cut off in the middle: every
//! acknowledged write is there, whole, and revisions go on above every one that was ever told.

use std::collections::HashMap;
use std::path::Path;

use base::Shutdown;
use storage::{
    KeyRange, LeaseId, Op, Put, RangeOptions, Revision, SqliteOptions, SqliteStore, Store, StoreError, Txn,
    WatchMessage, WatchOptions,
};

pub const WRITERS: u64 = 8;

pub fn options() -> SqliteOptions {
    SqliteOptions {
        ephemeral_prefixes: vec!["/e/".into()],
        // Small enough that checkpoints and compactions are cut off too.
        wal_bytes: 64 * 1024,
        history: None,
        ..SqliteOptions::default()
    }
}

/// An acknowledged write.
#[derive(Debug, Clone)]
pub struct Told {
    pub revision: i64,
    /// `None`: it went to memory only.
    pub key: Option<String>,
    pub number: u64,
}

fn put(key: String, value: String) -> Op {
    Op::Put(Put { key: key.into(), value: value.into(), ..Put::default() })
}

/// Writes until the store stops or `tell` says no more. Every durable write is of two keys with the same value.
pub async fn write(store: &SqliteStore, writer: u64, mut tell: impl FnMut(Told) -> bool) {
    let lease = LeaseId(7);
    // Whichever writer comes first grants it; the others and later runs find it.
    drop(store.lease_grant(lease, 100_000).await);
    for number in 0_u64.. {
        let key = format!("/d/{writer}/{}", number % 10);
        let value = format!("{number:0500}");
        let mut ops = vec![put(key.clone(), value.clone()), put(format!("{key}/twin"), value.clone())];
        if number % 5 == 0 {
            ops.push(put(format!("/e/{writer}"), value));
        }
        if number % 7 == 0 {
            ops = vec![put(format!("/e/{writer}"), "only in memory".to_owned())];
        }
        if number == 3 {
            ops = vec![Op::Put(Put { key: "/d/leased".into(), lease, ..Put::default() })];
        }
        let durable = number % 7 != 0 && number != 3;
        let revision = match store.txn(Txn { success: ops, ..Txn::default() }).await {
            Ok(result) => result.revision.0,
            Err(StoreError::Stopped) => return,
            Err(error) => panic!("{error:?}"),
        };
        if !tell(Told { revision, key: durable.then_some(key), number }) {
            return;
        }
        if number % 50 == 49 && writer == 0 {
            // Whoever else compacted further makes this one superfluous.
            drop(store.compact(Revision(revision - 40)).await);
        }
    }
}

/// Checks the database as the next start finds it; returns its newest revision.
pub async fn examine(path: &Path, told: &[Told], newest: i64) -> i64 {
    let newest = told.iter().map(|told| told.revision).fold(newest, i64::max);
    let shutdown = Shutdown::new();
    let store = SqliteStore::open(path, options(), shutdown.clone()).await.unwrap();
    let revision = store.revision().await.unwrap();
    assert!(revision.0 >= newest, "{} went back behind {newest}", revision.0);

    let all = store.range(KeyRange::prefix("/"), RangeOptions::default()).await.unwrap();
    let found: HashMap<String, (i64, u64)> = all
        .kvs
        .iter()
        .filter(|kv| kv.key.starts_with(b"/d/") && kv.key != "/d/leased")
        .map(|kv| {
            let number = String::from_utf8_lossy(&kv.value).parse().unwrap();
            (String::from_utf8_lossy(&kv.key).into_owned(), (kv.mod_revision.0, number))
        })
        .collect();
    for Told { revision, key, number } in told {
        let Some(key) = key else { continue };
        let (found_revision, found_number) = *found.get(key).unwrap_or_else(|| panic!("{key} was lost"));
        assert!(found_revision >= *revision && found_number >= *number, "{key}: {number} at {revision} was lost");
    }
    for (key, found_last) in found.iter().filter(|(key, _)| !key.ends_with("/twin")) {
        assert_eq!(Some(found_last), found.get(&format!("{key}/twin")), "{key}: half a transaction");
    }
    assert!(!all.kvs.iter().any(|kv| kv.key.starts_with(b"/e/")), "memory came back from the dead");
    if all.kvs.iter().any(|kv| kv.key == "/d/leased") {
        assert_eq!(store.lease_status(LeaseId(7), true).await.unwrap().keys, ["/d/leased"]);
    }

    history_is_whole(&store, &found, revision).await;
    let after = Txn { success: vec![put("/d/after".to_owned(), "0".to_owned())], ..Txn::default() };
    assert_eq!(store.txn(after).await.unwrap().revision.0, revision.0 + 1);
    let delete = Op::Delete { range: KeyRange::key("/d/after"), prev_kv: false };
    let newest = store.txn(Txn { success: vec![delete], ..Txn::default() }).await.unwrap().revision.0;
    shutdown.cancel();
    store.closed().await;
    newest
}

/// What the history since the compaction says last about each key is what the key is.
async fn history_is_whole(store: &SqliteStore, found: &HashMap<String, (i64, u64)>, until: Revision) {
    let start = Revision(store.compacted().0.max(1));
    let options = WatchOptions { start, prev_kv: false };
    let mut watch = store.watch(KeyRange::prefix("/d/"), options).await.unwrap();
    let mut last = HashMap::new();
    let newest = found.values().map(|(revision, _)| *revision).max().unwrap_or(0);
    let mut seen = Revision(0);
    while seen.0 < newest {
        match watch.messages.recv().await.unwrap() {
            WatchMessage::Events { revision, events } => {
                assert!(revision > seen && revision <= until);
                seen = revision;
                for event in events.iter() {
                    last.insert(String::from_utf8_lossy(&event.kv.key).into_owned(), event.kv.mod_revision.0);
                }
            }
            other => panic!("{other:?}"),
        }
    }
    for (key, (revision, _)) in found.iter().filter(|(_, (revision, _))| *revision >= start.0) {
        assert_eq!(last.get(key), Some(revision), "{key}");
    }
}
