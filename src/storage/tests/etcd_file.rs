//! The store as a file of etcd's storage engine: what is in it, and that it comes back.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;

use base::Shutdown;
use bytes::Bytes;
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;
use sha2::{Digest, Sha256};
use storage::bolt::Reader;
use storage::snapshot::{Record, SnapshotError, SnapshotReader};
use storage::sqlite::restore;
use storage::{KeyRange, KeyValue, LeaseId, Op, Put, RangeOptions, Revision, SqliteOptions, SqliteStore, Store, Txn};

/// What a client does.
#[derive(Debug, Clone)]
enum Step {
    Put(u8, u16, bool),
    /// Several keys at one revision.
    PutMany(Vec<u8>),
    Delete(u8),
    Grant,
    Compact(u8),
    /// The store is stopped and opened again.
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (any::<u8>(), 0_u16..6000, any::<bool>()).prop_map(|(key, len, leased)| Step::Put(key, len, leased)),
        2 => prop::collection::btree_set(any::<u8>(), 1..6).prop_map(|keys| Step::PutMany(keys.into_iter().collect())),
        4 => any::<u8>().prop_map(Step::Delete),
        1 => Just(Step::Grant),
        1 => any::<u8>().prop_map(Step::Compact),
        1 => Just(Step::Restart),
    ]
}

/// Some keys are in memory only.
fn key(number: u8) -> Bytes {
    let folder = if number.is_multiple_of(4) { "e" } else { "d" };
    format!("/{folder}/{}", number % 40).into()
}

fn options() -> SqliteOptions {
    SqliteOptions { ephemeral_prefixes: vec!["/e/".into()], history: None, ..SqliteOptions::default() }
}

async fn open(path: &Path) -> (Arc<SqliteStore>, Shutdown) {
    let shutdown = Shutdown::new();
    (SqliteStore::open(path, options(), shutdown.clone()).await.unwrap(), shutdown)
}

async fn write(store: &dyn Store, ops: Vec<Op>) {
    store.txn(Txn { success: ops, ..Txn::default() }).await.unwrap();
}

fn put(key: Bytes, value: Vec<u8>, lease: LeaseId) -> Op {
    Op::Put(Put { key, value: value.into(), lease, ..Put::default() })
}

async fn everything(store: &dyn Store, revision: i64) -> Vec<KeyValue> {
    let options = RangeOptions { revision: Revision(revision), ..RangeOptions::default() };
    store.range(KeyRange::prefix(""), options).await.unwrap().kvs
}

/// The file with its hash at its end, as a client saves it.
async fn save(store: &SqliteStore, path: &Path) {
    let (mut pages, length) = store.etcd_file().await.unwrap();
    let mut bytes = Vec::new();
    pages.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes.len() as u64, length);
    let hash = Sha256::digest(&bytes);
    bytes.extend_from_slice(&hash);
    File::create(path).unwrap().write_all(&bytes).unwrap();
}

/// Revision and number within it of every version in the file, whether it is a deletion, and the key.
fn versions(path: &Path) -> Vec<(i64, i64, bool)> {
    let length = std::fs::metadata(path).unwrap().len() - 32;
    let reader = Reader::open(File::open(path).unwrap(), length).unwrap();
    let mut cursor = reader.cursor(&reader.bucket(b"key").unwrap().unwrap());
    let mut found = Vec::new();
    while let Some((at, _)) = cursor.next_entry().unwrap() {
        let number = |from: usize| i64::from_be_bytes(at[from..from + 8].try_into().unwrap());
        found.push((number(0), number(9), at.len() == 18));
    }
    found
}

fn revision_in(path: &Path, name: &[u8]) -> Option<i64> {
    let length = std::fs::metadata(path).unwrap().len() - 32;
    let reader = Reader::open(File::open(path).unwrap(), length).unwrap();
    let mut cursor = reader.cursor(&reader.bucket(b"meta").unwrap().unwrap());
    while let Some((key, value)) = cursor.next_entry().unwrap() {
        if key == name {
            return Some(i64::from_be_bytes(value[..8].try_into().unwrap()));
        }
    }
    None
}

async fn run(steps: Vec<Step>, dir: &Path) -> TestCaseResult {
    let (database, file) = (dir.join("db"), dir.join("snapshot"));
    let (mut store, mut shutdown) = open(&database).await;
    let mut lease = LeaseId(0);
    for step in steps {
        match step {
            Step::Put(number, len, leased) => {
                let lease = if leased { lease } else { LeaseId(0) };
                write(&*store, vec![put(key(number), vec![number; len.into()], lease)]).await;
            }
            Step::PutMany(numbers) => {
                let keys: BTreeMap<Bytes, u8> = numbers.into_iter().map(|number| (key(number), number)).collect();
                write(&*store, keys.into_iter().map(|(key, n)| put(key, vec![n], LeaseId(0))).collect()).await;
            }
            Step::Delete(number) => {
                write(&*store, vec![Op::Delete { range: KeyRange::key(key(number)), prev_kv: false }]).await;
            }
            Step::Grant => lease = store.lease_grant(LeaseId(0), 1000).await.unwrap().id,
            Step::Compact(back) => {
                let target = Revision(store.revision().await.unwrap().0 - i64::from(back % 20));
                if target > store.compacted() {
                    // Some with work left, some without.
                    if back % 2 == 0 {
                        store.compact(target).await.unwrap();
                    } else {
                        store.compact_physical(target).await.unwrap();
                    }
                }
            }
            Step::Restart => {
                shutdown.cancel();
                store.closed().await;
                (store, shutdown) = open(&database).await;
            }
        }
    }
    let newest = store.revision().await.unwrap();
    let wanted = everything(&*store, 0).await;
    save(&store, &file).await;

    // Every revision that the file says is kept looks the same in it and in the store.
    let found = versions(&file);
    prop_assert!(found.windows(2).all(|pair| pair[0] < pair[1]));
    let compacted = revision_in(&file, b"scheduledCompactRev").unwrap_or(0);
    prop_assert!(compacted >= store.compacted().0 && compacted <= newest.0);
    prop_assert!(revision_in(&file, b"finishedCompactRev").is_none_or(|finished| finished == compacted));
    let last = found.last().map_or(1, |(revision, ..)| *revision).max(compacted);
    prop_assert_eq!(last, newest.0);
    for revision in compacted.max(1)..=newest.0 {
        for kv in everything(&*store, revision).await {
            prop_assert!(found.iter().any(|(main, _, deleted)| *main == kv.mod_revision.0 && !deleted));
        }
    }

    let mut reader = SnapshotReader::open_checked(&file).unwrap();
    prop_assert_eq!(reader.header().revision, newest.0);
    let (mut kvs, mut leases) = (Vec::new(), Vec::new());
    while let Some(record) = reader.next_record().unwrap() {
        match record {
            Record::Key(kv) => kvs.push(kv),
            Record::Lease(id, ttl) => leases.push((id, ttl)),
        }
    }
    prop_assert!(kvs.windows(2).all(|pair| pair[0].mod_revision <= pair[1].mod_revision));
    kvs.sort_by(|a, b| a.key.cmp(&b.key));
    prop_assert_eq!(&kvs, &wanted);
    let mut granted = store.leases().await.unwrap();
    granted.sort();
    prop_assert_eq!(leases, granted.into_iter().map(|id| (id, 1000)).collect::<Vec<_>>());
    shutdown.cancel();
    store.closed().await;

    // And it becomes a database again.
    let other = dir.join("other");
    let restored = restore(&other, &file, &options().ephemeral_prefixes, Some(Revision(0)), "old").unwrap();
    prop_assert_eq!((restored.keys, restored.revision), (wanted.len() as u64, newest));
    let (store, shutdown) = open(&other).await;
    prop_assert_eq!(everything(&*store, 0).await, wanted);
    shutdown.cancel();
    store.closed().await;
    Ok(())
}

proptest! {
    // Each case writes files.
    #![proptest_config(ProptestConfig {
        cases: ProptestConfig::default().cases / 10,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_file_holds_what_the_store_holds(steps in prop::collection::vec(step(), 0..160)) {
        let dir = tempfile::tempdir().unwrap();
        tokio::runtime::Runtime::new().unwrap().block_on(run(steps, dir.path()))?;
    }
}

#[tokio::test]
async fn a_file_is_of_one_moment_while_others_write() {
    let dir = tempfile::tempdir().unwrap();
    let (store, shutdown) = open(&dir.path().join("db")).await;
    for n in 0..400_u16 {
        write(&*store, vec![put(key(n as u8), vec![0; 900], LeaseId(0))]).await;
    }
    let writing = {
        let store = store.clone();
        tokio::spawn(async move {
            for n in 0..600_u16 {
                // Always two keys at once, with one value.
                let value = n.to_be_bytes().to_vec();
                let pair = ["/d/first", "/e/second"].map(|key| put(key.into(), value.clone(), LeaseId(0)));
                write(&*store, pair.into()).await;
                if n % 50 == 49 {
                    store.compact(store.revision().await.unwrap()).await.unwrap();
                }
            }
        })
    };
    let mut files = 0;
    while !writing.is_finished() {
        let file = dir.path().join(format!("snapshot-{files}"));
        save(&store, &file).await;
        let mut reader = SnapshotReader::open_checked(&file).unwrap();
        let mut pair = Vec::new();
        while let Some(record) = reader.next_record().unwrap() {
            let Record::Key(kv) = record else { continue };
            if matches!(&kv.key[..], b"/d/first" | b"/e/second") {
                pair.push((kv.value, kv.mod_revision));
            }
        }
        assert!(pair.is_empty() || (pair.len() == 2 && pair[0] == pair[1]), "{pair:?}");
        std::fs::remove_file(&file).unwrap();
        files += 1;
    }
    writing.await.unwrap();
    assert!(files > 0);
    shutdown.cancel();
    store.closed().await;
}

#[tokio::test]
async fn a_changed_file_and_one_without_a_hash_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (store, shutdown) = open(&dir.path().join("db")).await;
    for n in 0..50 {
        write(&*store, vec![put(key(n), vec![n; 300], LeaseId(0))]).await;
    }
    let file = dir.path().join("snapshot");
    save(&store, &file).await;
    let whole = std::fs::read(&file).unwrap();
    for at in (0..whole.len()).step_by(501) {
        let mut torn = whole.clone();
        torn[at] ^= 1;
        std::fs::write(&file, &torn).unwrap();
        assert!(SnapshotReader::open_checked(&file).is_err(), "a changed byte at {at} went unnoticed");
    }
    std::fs::write(&file, &whole[..whole.len() - 32]).unwrap();
    assert!(matches!(SnapshotReader::open_checked(&file), Err(SnapshotError::NoHash { .. })));
    std::fs::write(&file, b"something else").unwrap();
    assert!(matches!(SnapshotReader::open_checked(&file), Err(SnapshotError::Foreign { .. })));
    shutdown.cancel();
    store.closed().await;
}
