//! What a watch cache counts, for `/metrics`. Reading and counting take no locks but where somebody waited anyway.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::metrics::histogram::Histogram;

/// Upper bounds of `apiserver_watch_cache_initialization_duration_seconds`.
const INITIALIZATIONS: &[f64] = &[0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 180.0, 600.0];
/// … of `apiserver_watch_cache_read_wait_seconds`.
const WAITS: &[f64] = &[0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0];
/// … of `apiserver_watch_events_sizes`, in bytes.
const SIZES: [u64; 8] = [1 << 10, 2 << 10, 4 << 10, 8 << 10, 16 << 10, 32 << 10, 64 << 10, 128 << 10];

/// A number that only grows.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    pub fn add(&self, more: usize) {
        self.0.fetch_add(more as u64, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Lists from one place.
#[derive(Debug, Default)]
pub(crate) struct Lists {
    pub total: Count,
    /// Objects that were looked at.
    pub fetched: Count,
    /// … and held against selectors.
    pub evaluated: Count,
    pub returned: Count,
}

/// The counts of one cache.
pub(crate) struct Stats {
    /// Events that the store sent.
    pub received: Count,
    /// Events that were offered to watchers.
    pub dispatched: Count,
    /// Watchers that were too slow.
    pub terminated: Count,
    /// Objects that watches began with.
    pub initial: Count,
    pub consistent: Count,
    pub consistent_failed: Count,
    /// Lists from memory.
    pub lists: Lists,
    /// Lists from the store's history.
    pub history: Lists,
    pub initializations: Mutex<Histogram>,
    pub waits: Mutex<Histogram>,
}

impl Default for Stats {
    fn default() -> Self {
        Self {
            received: Count::default(),
            dispatched: Count::default(),
            terminated: Count::default(),
            initial: Count::default(),
            consistent: Count::default(),
            consistent_failed: Count::default(),
            lists: Lists::default(),
            history: Lists::default(),
            initializations: Mutex::new(Histogram::new(INITIALIZATIONS)),
            waits: Mutex::new(Histogram::new(WAITS)),
        }
    }
}

impl Stats {
    /// The first list, or a new one, is in.
    pub fn initialized(&self, took: Duration) {
        self.initializations.lock().observe(took.as_secs_f64());
    }

    /// Somebody waited for the cache.
    pub fn waited(&self, time: Duration) {
        self.waits.lock().observe(time.as_secs_f64());
    }
}

/// Events that watchers of one served version were sent.
#[derive(Debug, Default)]
pub(crate) struct Sent {
    pub total: Count,
    bytes: Count,
    buckets: [Count; SIZES.len()],
}

impl Sent {
    pub fn event(&self, bytes: usize) {
        self.total.add(1);
        self.bytes.add(bytes);
        let at = SIZES.partition_point(|bound| *bound < bytes as u64);
        if let Some(bucket) = self.buckets.get(at) {
            bucket.add(1);
        }
    }

    /// Appends the histogram of sizes.
    pub fn write(&self, out: &mut String, name: &str, labels: &str) -> std::fmt::Result {
        use std::fmt::Write;
        let mut total = 0;
        for (bound, count) in SIZES.iter().zip(&self.buckets) {
            total += count.get();
            writeln!(out, "{name}_bucket{{{labels},le=\"{bound}\"}} {total}")?;
        }
        let count = self.total.get();
        writeln!(out, "{name}_bucket{{{labels},le=\"+Inf\"}} {count}")?;
        writeln!(out, "{name}_sum{{{labels}}} {}\n{name}_count{{{labels}}} {count}", self.bytes.get())
    }
}
