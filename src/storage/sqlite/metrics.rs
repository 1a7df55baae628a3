//! What the engine counts, told under etcd's names where etcd has the number (server/storage/mvcc/metrics.go,
//! server/storage/backend/metrics.go).

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::SqliteStore;
use crate::store::{Event, EventKind, KeyRange, RangeOptions, Revision, Store, StoreError};

/// etcd's bounds of `backend_commit_duration_seconds`.
const COMMIT_SECONDS: [f64; 14] =
    [0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192];
/// etcd's bounds of `db_compaction_pause_duration_milliseconds`.
const PAUSE_MS: [f64; 13] = [1., 2., 4., 8., 16., 32., 64., 128., 256., 512., 1024., 2048., 4096.];
/// etcd's bounds of `db_compaction_total_duration_milliseconds`.
const COMPACTION_MS: [f64; 14] =
    [100., 200., 400., 800., 1600., 3200., 6400., 12800., 25600., 51200., 102400., 204800., 409600., 819200.];
const BATCH: [f64; 10] = [1., 2., 4., 8., 16., 32., 64., 128., 256., 512.];

/// The counters of one store.
pub(super) struct Metrics {
    commit_seconds: Histogram,
    batch: Histogram,
    compaction_pause_ms: Histogram,
    compaction_ms: Histogram,
    compaction_last: AtomicI64,
    compacted_keys: AtomicU64,
    pages_given_back: AtomicU64,
    ranges: AtomicU64,
    puts: AtomicU64,
    deletes: AtomicU64,
    txns: AtomicU64,
    put_bytes: AtomicU64,
    failed: AtomicU64,
    behind: Arc<AtomicI64>,
    keys: Mutex<Keys>,
}

/// How many keys there are.
#[derive(Default)]
struct Keys {
    /// Everything up to this revision is in `added`.
    revision: i64,
    /// Keys added less keys removed since the start.
    added: i64,
    /// Keys at the start, once they have been counted.
    before: Option<i64>,
}

/// A watch that is being brought up to date, for as long as this is kept.
pub(super) struct Behind(Arc<AtomicI64>);

impl Drop for Behind {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            commit_seconds: Histogram::new(&COMMIT_SECONDS),
            batch: Histogram::new(&BATCH),
            compaction_pause_ms: Histogram::new(&PAUSE_MS),
            compaction_ms: Histogram::new(&COMPACTION_MS),
            compaction_last: AtomicI64::new(0),
            compacted_keys: AtomicU64::new(0),
            pages_given_back: AtomicU64::new(0),
            ranges: AtomicU64::new(0),
            puts: AtomicU64::new(0),
            deletes: AtomicU64::new(0),
            txns: AtomicU64::new(0),
            put_bytes: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            behind: Arc::default(),
            keys: Mutex::default(),
        }
    }
}

impl Metrics {
    /// A commit to disk, with its sync.
    pub(super) fn committed(&self, took: Duration) {
        self.commit_seconds.observe(took.as_secs_f64());
    }

    /// Transactions that shared a commit.
    pub(super) fn batch(&self, transactions: usize) {
        self.batch.observe(transactions as f64);
        self.txns.fetch_add(transactions as u64, Ordering::Relaxed);
    }

    pub(super) fn range(&self) {
        self.ranges.fetch_add(1, Ordering::Relaxed);
    }

    /// A write that the disk did not take, or the store did not take any more.
    pub(super) fn failed(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
    }

    /// Writes that failed so far.
    pub(super) fn failures(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    /// A watch begins in the past.
    pub(super) fn watch_behind(&self) -> Behind {
        self.behind.fetch_add(1, Ordering::Relaxed);
        Behind(self.behind.clone())
    }

    /// The changes of one revision, to be called when readers may see them.
    pub(super) fn changed(&self, revision: i64, events: &[Event]) {
        let mut keys = self.keys.lock();
        keys.revision = revision;
        for event in events {
            match (event.kind, event.kv.version) {
                (EventKind::Put, 1) => keys.added += 1,
                (EventKind::Put, _) => {}
                (EventKind::Delete, _) => keys.added -= 1,
            }
        }
        drop(keys);
        for event in events {
            match event.kind {
                EventKind::Put => {
                    self.puts.fetch_add(1, Ordering::Relaxed);
                    let bytes = event.kv.key.len() + event.kv.value.len();
                    self.put_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
                }
                EventKind::Delete => {
                    self.deletes.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }

    /// The number of keys, if those at the start have been counted; otherwise the revision to count them at, 0: the newest.
    fn keys(&self) -> Result<i64, (i64, i64)> {
        let keys = self.keys.lock();
        keys.before.map(|before| before + keys.added).ok_or((keys.revision, keys.added))
    }

    /// One step of compaction, which writers waited for.
    pub(super) fn compaction_step(&self, took: Duration, keys: u64) {
        self.compaction_pause_ms.observe(took.as_secs_f64() * 1000.0);
        self.compacted_keys.fetch_add(keys, Ordering::Relaxed);
    }

    /// A whole compaction; `now`: seconds since 1970.
    pub(super) fn compaction(&self, took: Duration, now: i64) {
        self.compaction_ms.observe(took.as_secs_f64() * 1000.0);
        self.compaction_last.store(now, Ordering::Relaxed);
    }

    pub(super) fn gave_back(&self, pages: u64) {
        self.pages_given_back.fetch_add(pages, Ordering::Relaxed);
    }

    fn write(&self, page: &mut Page<'_>) {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        page.counter("etcd_mvcc_range_total", "Ranges read.", count(&self.ranges));
        page.counter("etcd_mvcc_put_total", "Keys put.", count(&self.puts));
        page.counter("etcd_mvcc_delete_total", "Keys deleted.", count(&self.deletes));
        page.counter("etcd_mvcc_txn_total", "Transactions.", count(&self.txns));
        page.gauge("etcd_debugging_mvcc_total_put_size_in_bytes", "Bytes put.", count(&self.put_bytes));
        page.histogram(
            "etcd_disk_backend_commit_duration_seconds",
            "Time of commits to disk, each with its sync.",
            &self.commit_seconds,
        );
        // The write-ahead log is synced once in every commit, and that is what a commit takes.
        page.histogram(
            "etcd_disk_wal_fsync_duration_seconds",
            "Time of commits to the write-ahead log, each with its sync.",
            &self.commit_seconds,
        );
        page.histogram("skiff_storage_commit_transactions", "Transactions that shared a commit.", &self.batch);
        page.histogram(
            "etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds",
            "Time of the steps of compactions, which writes wait for.",
            &self.compaction_pause_ms,
        );
        page.histogram(
            "etcd_debugging_mvcc_db_compaction_total_duration_milliseconds",
            "Time of whole compactions.",
            &self.compaction_ms,
        );
        let last = self.compaction_last.load(Ordering::Relaxed);
        page.gauge("etcd_debugging_mvcc_db_compaction_last", "When the last compaction ended, in Unix time.", last);
        let keys = count(&self.compacted_keys);
        page.counter(
            "etcd_debugging_mvcc_db_compaction_keys_total",
            "Versions of keys that compactions removed.",
            keys,
        );
        let pages = count(&self.pages_given_back);
        page.counter("skiff_storage_vacuumed_pages_total", "Pages given back to the file system.", pages);
    }
}

/// Values counted by size.
pub(super) struct Histogram {
    bounds: &'static [f64],
    state: Mutex<Observed>,
}

#[derive(Clone, Default)]
struct Observed {
    buckets: Vec<u64>,
    count: u64,
    sum: f64,
}

impl Histogram {
    pub(super) fn new(bounds: &'static [f64]) -> Self {
        Self { bounds, state: Mutex::new(Observed { buckets: vec![0; bounds.len()], ..Observed::default() }) }
    }

    pub(super) fn observe(&self, value: f64) {
        let mut state = self.state.lock();
        state.count += 1;
        state.sum += value;
        if let Some(at) = self.bounds.iter().position(|bound| value <= *bound) {
            state.buckets[at] += 1;
        }
    }
}

/// Text in the format of Prometheus. Writing to a string does not fail.
pub(crate) struct Page<'a>(pub &'a mut String);

impl Page<'_> {
    /// What comes before the samples of a name.
    pub(crate) fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// One sample of a name, with its labels if it has any.
    pub(crate) fn sample(&mut self, name: &str, labels: &str, value: impl std::fmt::Display) {
        let (open, close) = if labels.is_empty() { ("", "") } else { ("{", "}") };
        let _ = writeln!(self.0, "{name}{open}{labels}{close} {value}");
    }

    /// A number that goes up and down.
    pub(crate) fn gauge(&mut self, name: &str, help: &str, value: impl std::fmt::Display) {
        self.head(name, "gauge", help);
        let _ = writeln!(self.0, "{name} {value}");
    }

    /// A number that only grows.
    pub(crate) fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.head(name, "counter", help);
        let _ = writeln!(self.0, "{name} {value}");
    }

    pub(super) fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) {
        self.head(name, "histogram", help);
        let Observed { buckets, count, sum } = histogram.state.lock().clone();
        let mut total = 0;
        for (bound, bucket) in histogram.bounds.iter().zip(buckets) {
            total += bucket;
            let _ = writeln!(self.0, "{name}_bucket{{le=\"{bound}\"}} {total}");
        }
        let _ = writeln!(self.0, "{name}_bucket{{le=\"+Inf\"}} {count}\n{name}_sum {sum}\n{name}_count {count}");
    }
}

/// Everything about `store`.
pub(super) async fn write(store: &SqliteStore, text: &mut String) -> Result<(), StoreError> {
    let (size, in_use) = store.size().await?;
    let keys = count_keys(store).await?;
    let mut page = Page(text);
    page.gauge("etcd_mvcc_db_total_size_in_bytes", "Bytes of the database and its log on disk.", size);
    page.gauge("etcd_mvcc_db_total_size_in_use_in_bytes", "Bytes of the database in use.", in_use);
    // Without a log there is nothing to tell the size of.
    let log = std::fs::metadata(store.log_path()).map_or(0, |log| log.len());
    page.gauge("skiff_storage_wal_size_bytes", "Bytes of the write-ahead log on disk.", log);
    page.gauge("etcd_debugging_mvcc_current_revision", "The newest revision.", store.shared.current());
    let Revision(compacted) = store.compacted();
    page.gauge("etcd_debugging_mvcc_compact_revision", "History before this revision is gone.", compacted);
    page.gauge("etcd_debugging_mvcc_watcher_total", "Watches that are up to date.", store.watchers());
    let metrics = &store.shared.metrics;
    let (behind, events) = (metrics.behind.load(Ordering::Relaxed), store.shared.hub.events());
    page.gauge("etcd_debugging_mvcc_slow_watcher_total", "Watches that are being brought up to date.", behind);
    page.counter("etcd_debugging_mvcc_events_total", "Events given to watches.", events);
    let waiting = store.shared.hub.waiting();
    page.gauge("etcd_debugging_mvcc_pending_events_total", "Revisions that wait to be taken by watches.", waiting);
    page.gauge("etcd_debugging_mvcc_keys_total", "Keys.", keys);
    store.shared.leases.write(&mut page);
    metrics.write(&mut page);
    Ok(())
}

/// How many keys there are: counted once, and from then on by what is added and removed.
async fn count_keys(store: &SqliteStore) -> Result<i64, StoreError> {
    let metrics = &store.shared.metrics;
    loop {
        let (revision, added) = match metrics.keys() {
            Ok(keys) => return Ok(keys),
            Err(at) => at,
        };
        let options = RangeOptions { revision: Revision(revision), count_only: true, ..RangeOptions::default() };
        let counted = match store.range_at(&KeyRange::prefix(""), &options, store.shared.current()).await {
            Ok(found) => found.count as i64,
            // There are newer revisions to count them at.
            Err(StoreError::Compacted { .. }) => continue,
            Err(error) => return Err(error),
        };
        let mut keys = metrics.keys.lock();
        // What was written between the question and the answer may be in the newest state or not.
        if revision > 0 || keys.revision == 0 {
            keys.before = Some(counted - added);
            return Ok(counted);
        }
    }
}
