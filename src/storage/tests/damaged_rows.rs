//! Rows that something else than the store has changed, in a database whose pages are whole: every read, watch and write
//! ends, with what is there or with an error, and none of them panics. `STORAGE_DAMAGED_ROUNDS` lengthens the run.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base::Shutdown;
use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use storage::{
    Compare, CompareResult, CompareTarget, KeyRange, LeaseId, Op, Put, RangeOptions, Revision, SqliteOptions,
    SqliteStore, Store, Txn, WatchOptions,
};

const KEYS: usize = 5;
const NUMBERS: [i64; 8] = [0, 1, -1, i64::MAX, i64::MIN, 1 << 20, (1 << 20) * 12, 1 << 62];

fn key(n: usize) -> Bytes {
    format!("/k/{}", n % KEYS).into()
}

async fn open(path: &Path) -> Option<(Arc<SqliteStore>, Shutdown)> {
    let shutdown = Shutdown::new();
    let prefixes = vec![Bytes::from_static(b"/k/3")];
    let options = SqliteOptions { history: None, ephemeral_prefixes: prefixes, ..SqliteOptions::default() };
    match SqliteStore::open(path, options, shutdown.clone()).await {
        Ok(store) => Some((store, shutdown)),
        Err(error) => {
            println!("refused: {}", base::chain(&error));
            None
        }
    }
}

async fn fill(store: &SqliteStore) {
    store.lease_grant(LeaseId(7), 600).await.unwrap();
    for n in 0..30 {
        let lease = LeaseId(if n % 4 == 0 { 7 } else { 0 });
        let put = Put { key: key(n), value: vec![b'x'; n].into(), lease, ..Put::default() };
        store.txn(Txn { success: vec![Op::Put(put)], ..Txn::default() }).await.unwrap();
    }
    let gone = Op::Delete { range: KeyRange::key(key(1)), prev_kv: false };
    store.txn(Txn { success: vec![gone], ..Txn::default() }).await.unwrap();
}

/// Changes some rows; answers with what it did.
fn damage(path: &Path, rng: &mut StdRng) -> String {
    let conn = rusqlite::Connection::open(path).unwrap();
    let mut done = Vec::new();
    for _ in 0..rng.random_range(1..4) {
        let (table, column) = [
            ("rev", "create_rev"),
            ("rev", "version"),
            ("rev", "lease"),
            ("rev", "prev"),
            ("rev", "id"),
            ("rev", "key"),
            ("live", "id"),
            ("live", "version"),
            ("live", "key"),
            ("lease", "ttl"),
            ("meta", "value"),
            ("ephemeral", "id"),
            ("ephemeral", "version"),
        ][rng.random_range(0..13)];
        let value = match column {
            "key" => format!("x'{:02x}'", rng.random::<u8>()),
            _ => NUMBERS[rng.random_range(0..NUMBERS.len())].to_string(),
        };
        let order = rng.random_range(0..40);
        let which = if table == "meta" || table == "live" || table == "ephemeral" {
            let name = if table == "meta" { "name" } else { "key" };
            format!("{name} IN (SELECT {name} FROM {table} LIMIT 2 OFFSET {})", order % 5)
        } else {
            format!("id IN (SELECT id FROM {table} LIMIT 2 OFFSET {order})")
        };
        let text = format!("UPDATE OR IGNORE {table} SET {column} = {value} WHERE {which}");
        conn.execute_batch(&text).unwrap();
        done.push(text);
    }
    done.join("; ")
}

/// Asks for everything that can be asked for. Errors are answers.
async fn use_all(store: &SqliteStore) {
    for revision in 0..40 {
        let options = RangeOptions { revision: Revision(revision), limit: 3, ..RangeOptions::default() };
        for range in [KeyRange::prefix("/"), KeyRange::prefix(""), KeyRange::key(key(revision as usize))] {
            drop(store.range(range.clone(), options.clone()).await);
            drop(store.range(range, RangeOptions { count_only: true, ..options.clone() }).await);
        }
    }
    for start in [1, 2, 20] {
        let options = WatchOptions { start: Revision(start), prev_kv: true };
        if let Ok(mut watch) = store.watch(KeyRange::prefix("/"), options).await {
            drop(tokio::time::timeout(Duration::from_millis(20), watch.messages.recv()).await);
        }
    }
    for n in 0..KEYS {
        let compare =
            Compare { range: KeyRange::key(key(n)), target: CompareTarget::Version(2), result: CompareResult::Less };
        let put = Op::Put(Put { key: key(n), value: "new".into(), prev_kv: true, ..Put::default() });
        drop(store.txn(Txn { compare: vec![compare], success: vec![put], failure: Vec::new() }).await);
    }
    drop(store.lease_status(LeaseId(7), true).await);
    drop(store.lease_revoke(LeaseId(7)).await);
    let newest = store.revision().await.unwrap();
    drop(store.compact_physical(Revision(newest.0 - 5)).await);
    drop(store.size().await);
    drop(store.metrics(&mut String::new()).await);
    let all = Op::Delete { range: KeyRange::prefix("/"), prev_kv: true };
    drop(store.txn(Txn { success: vec![all], ..Txn::default() }).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strange_rows_do_no_harm() {
    let panics = Arc::new(AtomicUsize::new(0));
    let (seen, earlier) = (panics.clone(), std::panic::take_hook());
    std::panic::set_hook(Box::new(move |panic| {
        seen.fetch_add(1, Ordering::SeqCst);
        earlier(panic);
    }));
    let rounds: usize = std::env::var("STORAGE_DAMAGED_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(40);
    let dir = tempfile::tempdir().unwrap();
    let whole = dir.path().join("whole");
    let (store, shutdown) = open(&whole).await.unwrap();
    fill(&store).await;
    shutdown.cancel();
    store.closed().await;
    let mut refused = 0;
    for round in 0..rounds {
        let mut rng = StdRng::seed_from_u64(round as u64);
        let path = dir.path().join(format!("{round}"));
        std::fs::copy(&whole, &path).unwrap();
        let done = damage(&path, &mut rng);
        println!("round {round}: {done}");
        let used = async {
            let Some((store, shutdown)) = open(&path).await else { return false };
            use_all(&store).await;
            shutdown.cancel();
            store.closed().await;
            true
        };
        let used = tokio::time::timeout(Duration::from_secs(60), used).await;
        refused += usize::from(!used.unwrap_or_else(|_| panic!("it hangs after {done}")));
        assert_eq!(panics.load(Ordering::SeqCst), 0, "a panic after {done}");
        std::fs::remove_file(&path).unwrap();
    }
    println!("{rounds} damaged databases, {refused} refused at the start");
}
