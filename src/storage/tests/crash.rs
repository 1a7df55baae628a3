//! A process that is killed in the middle of writing: after the next start every acknowledged write is there, whole,
//! and revisions go on above every one that was ever told.
//!
//! The test starts itself again as the writing process. `STORAGE_CRASH_ROUNDS` lengthens the run.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base::Shutdown;
use storage::{
    KeyRange, LeaseId, Op, Put, RangeOptions, Revision, SqliteOptions, SqliteStore, Store, Txn, WatchMessage,
    WatchOptions,
};

const CHILD: &str = "STORAGE_CRASH_DATABASE";
const WRITERS: u64 = 8;

fn options() -> SqliteOptions {
    SqliteOptions {
        ephemeral_prefixes: vec!["/e/".into()],
        // Small enough that checkpoints and compactions are killed too.
        wal_bytes: 64 * 1024,
        history: None,
        ..SqliteOptions::default()
    }
}

fn put(key: String, value: String) -> Op {
    Op::Put(Put { key: key.into(), value: value.into(), ..Put::default() })
}

/// The writing process: tells each acknowledged write on its standard output, until it is killed.
#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn write_for_ever(path: &Path) {
    let store = SqliteStore::open(path, options(), Shutdown::new()).await.unwrap();
    let lease = store.lease_grant(LeaseId(7), 100_000).await.map_or(LeaseId(7), |lease| lease.id);
    let tasks: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let store = store.clone();
            tokio::spawn(async move {
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
                        let leased = Put { key: "/d/leased".into(), lease, ..Put::default() };
                        ops = vec![Op::Put(leased)];
                    }
                    let durable = number % 7 != 0 && number != 3;
                    let revision = store.txn(Txn { success: ops, ..Txn::default() }).await.unwrap().revision.0;
                    if number % 50 == 49 && writer == 0 {
                        // Whoever else compacted further makes this one superfluous.
                        drop(store.compact(Revision(revision - 40)).await);
                    }
                    let mut out = std::io::stdout().lock();
                    let key = if durable { key.as_str() } else { "-" };
                    writeln!(out, "{revision} {key} {number}").unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}

#[test]
fn nothing_acknowledged_is_lost_when_the_process_is_killed() {
    if let Some(path) = std::env::var_os(CHILD) {
        write_for_ever(&PathBuf::from(path));
        return;
    }
    let rounds = std::env::var("STORAGE_CRASH_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(4);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let mut newest = 0;
    for round in 0..rounds {
        let told = run_and_kill(&path, 150 + 130 * round);
        newest = told.iter().map(|(revision, ..)| *revision).max().unwrap().max(newest);
        newest = examine(&path, &told, newest);
    }
}

/// Lets the writing process tell `count` writes, kills it, and returns everything that it told.
fn run_and_kill(path: &Path, count: usize) -> Vec<(i64, String, u64)> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "nothing_acknowledged_is_lost_when_the_process_is_killed", "--nocapture"])
        .env(CHILD, path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut told = Vec::new();
    for line in lines {
        let line = line.unwrap();
        let mut words = line.split(' ');
        let (Some(Ok(revision)), Some(key), Some(Ok(number)), None) =
            (words.next().map(str::parse), words.next(), words.next().map(str::parse), words.next())
        else {
            // The harness' own words, or a line that the kill cut short.
            continue;
        };
        told.push((revision, key.to_owned(), number));
        if told.len() == count {
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    told
}

/// Checks the database as the next start finds it; returns its newest revision.
#[tokio::main(flavor = "current_thread")]
async fn examine(path: &Path, told: &[(i64, String, u64)], newest: i64) -> i64 {
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
    for (revision, key, number) in told.iter().filter(|(_, key, _)| key != "-") {
        let (found_revision, found_number) = found[key];
        assert!(found_revision >= *revision && found_number >= *number, "{key}: {number} at {revision} was lost");
        assert_eq!(found[key], found[&format!("{key}/twin")], "{key}: half a transaction");
    }
    assert!(!all.kvs.iter().any(|kv| kv.key.starts_with(b"/e/")), "memory came back from the dead");
    assert_eq!(store.lease_status(LeaseId(7), true).await.unwrap().keys, ["/d/leased"]);

    history_is_whole(&store, &found, revision).await;
    let put = Txn { success: vec![put("/d/after".to_owned(), "0".to_owned())], ..Txn::default() };
    assert_eq!(store.txn(put).await.unwrap().revision.0, revision.0 + 1);
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
                    last.insert(String::from_utf8_lossy(&event.kv.key).into_owned(), revision.0);
                }
            }
            other => panic!("{other:?}"),
        }
    }
    for (key, (revision, _)) in found.iter().filter(|(_, (revision, _))| *revision >= start.0) {
        assert_eq!(last.get(key), Some(revision), "{key}");
    }
}
