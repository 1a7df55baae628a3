//! A day of a typical node's writes, replayed fast under a clock of its own: the database stays small, what is written
//! to the disk is bounded, and a day without changes writes nothing.
//!
//! The writes are those that an API server makes for one node with thirty pods: heartbeats and leader leases every few
//! seconds, a rollout every hour, a CronJob every five minutes, events with their hour to live. Prints the figures.
//! `STORAGE_DAY_HOURS` is how much of the day is replayed: 24 for the figures in the README.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base::Shutdown;
use storage::{KeyRange, LeaseId, Op, Put, SqliteOptions, SqliteStore, Store, Txn};
use tokio::time::Instant;

const HOUR: u64 = 3600;
const MB: f64 = 1024.0 * 1024.0;

/// One server's storage, with what its clients do to it.
struct Node {
    store: Arc<SqliteStore>,
    writes: u64,
    /// Of the events that were made last, as an API server shares one lease among the events of a minute.
    lease: (u64, LeaseId),
    events: u64,
}

impl Node {
    async fn txn(&mut self, op: Op) {
        self.store.txn(Txn { success: vec![op], ..Txn::default() }).await.unwrap();
        self.writes += 1;
    }

    async fn put(&mut self, key: String, bytes: usize, lease: LeaseId) {
        let put = Put { key: key.into(), value: vec![b'x'; bytes].into(), lease, ..Put::default() };
        self.txn(Op::Put(put)).await;
    }

    async fn delete(&mut self, key: String) {
        self.txn(Op::Delete { range: KeyRange::key(key), prev_kv: false }).await;
    }

    /// Node, leader election of scheduler and controllers.
    async fn heartbeats(&mut self, second: u64) {
        if second.is_multiple_of(10) {
            self.put("/registry/leases/kube-node-lease/node".to_owned(), 500, LeaseId(0)).await;
        }
        if second.is_multiple_of(2) {
            for name in ["kube-scheduler", "kube-controller-manager"] {
                self.put(format!("/registry/leases/kube-system/{name}"), 500, LeaseId(0)).await;
            }
        }
    }

    async fn event(&mut self, second: u64) {
        if self.lease.0 != second / 60 + 1 {
            let granted = self.store.lease_grant(LeaseId(0), HOUR as i64 + 60).await.unwrap();
            self.lease = (second / 60 + 1, granted.id);
        }
        self.events += 1;
        self.put(format!("/registry/events/default/event-{}", self.events), 900, self.lease.1).await;
    }

    /// A pod from its creation to its readiness, or to its end and removal.
    async fn pod(&mut self, name: &str, second: u64, ends: bool) {
        for _ in 0..if ends { 6 } else { 5 } {
            self.put(format!("/registry/pods/default/{name}"), 4000, LeaseId(0)).await;
        }
        for _ in 0..4 {
            self.event(second).await;
        }
        if ends {
            self.delete(format!("/registry/pods/default/{name}")).await;
        }
    }

    /// What happens besides heartbeats.
    async fn work(&mut self, second: u64) {
        if second.is_multiple_of(300) {
            let run = second / 300;
            for _ in 0..4 {
                self.put(format!("/registry/jobs/default/job-{run}"), 2000, LeaseId(0)).await;
            }
            self.put("/registry/cronjobs/default/job".to_owned(), 1500, LeaseId(0)).await;
            self.pod(&format!("job-{run}"), second, true).await;
            if run >= 3 {
                self.delete(format!("/registry/jobs/default/job-{}", run - 3)).await;
            }
        }
        if second % HOUR == 1800 {
            let rollout = second / HOUR;
            for pod in 0..10 {
                self.put(format!("/registry/deployments/default/app-{}", rollout % 3), 2500, LeaseId(0)).await;
                self.put(
                    format!("/registry/replicasets/default/app-{}-{}", rollout % 3, rollout % 10),
                    2500,
                    LeaseId(0),
                )
                .await;
                self.put(format!("/registry/endpointslices/default/app-{}", rollout % 3), 3000, LeaseId(0)).await;
                self.pod(&format!("app-{}-{pod}", rollout % 3), second, false).await;
            }
            self.put("/registry/minions/node".to_owned(), 8000, LeaseId(0)).await;
        }
    }
}

/// Bytes of the files of a folder.
fn size(folder: &Path) -> u64 {
    std::fs::read_dir(folder).unwrap().flatten().map(|entry| entry.metadata().map_or(0, |meta| meta.len())).sum()
}

/// Bytes that this process has had the kernel write to disks.
fn written() -> u64 {
    let text = std::fs::read_to_string("/proc/self/io").unwrap_or_default();
    text.lines().find_map(|line| line.strip_prefix("write_bytes: ")?.parse().ok()).unwrap_or(0)
}

#[tokio::test(start_paused = true)]
async fn a_day_of_a_node_leaves_a_small_file() {
    let hours = std::env::var("STORAGE_DAY_HOURS").ok().and_then(|text| text.parse().ok()).unwrap_or(2_u64);
    let dir = tempfile::tempdir().unwrap();
    let options = SqliteOptions { ephemeral_prefixes: vec!["/registry/leases/".into()], ..SqliteOptions::default() };
    let shutdown = Shutdown::new();
    let store = SqliteStore::open(&dir.path().join("db"), options, shutdown.clone()).await.unwrap();
    let mut node = Node { store, writes: 0, lease: (0, LeaseId(0)), events: 0 };
    let began = Instant::now();
    let (mut most, before) = (0, written());
    for second in 0..hours * HOUR {
        node.heartbeats(second).await;
        node.work(second).await;
        if second.is_multiple_of(60) {
            most = most.max(size(dir.path()));
        }
        tokio::time::sleep_until(began + Duration::from_secs(second + 1)).await;
    }
    let (busy, busy_bytes) = (node.writes, written() - before);

    // History goes within its five minutes, events within their hour; after that nothing has a reason to be written.
    for second in hours * HOUR..(hours + 2) * HOUR {
        node.heartbeats(second).await;
        tokio::time::sleep_until(began + Duration::from_secs(second + 1)).await;
    }
    let (idle_from, idle_before) = (node.writes, written());
    for second in (hours + 2) * HOUR..(2 * hours + 2) * HOUR {
        node.heartbeats(second).await;
        tokio::time::sleep_until(began + Duration::from_secs(second + 1)).await;
    }
    let (idle, idle_bytes) = (node.writes - idle_from, written() - idle_before);
    let (file, in_use) = node.store.size().await.unwrap();
    println!(
        "{hours} hours of {busy} writes: {:.1} MB written, never more than {:.1} MB of files; then as many idle ones of {idle} \
         heartbeats: {idle_bytes} bytes written; {:.1} MB of files, {:.1} MB in use",
        busy_bytes as f64 / MB,
        most as f64 / MB,
        file as f64 / MB,
        in_use as f64 / MB
    );
    assert!((most as f64) < 64.0 * MB, "the files grew to {most} bytes");
    // Each write costs a few pages in the log, which are folded into the file later.
    assert!((busy_bytes as f64) < hours as f64 * 20.0 * MB, "{busy_bytes} bytes were written");
    assert!(idle_bytes < 64 * 1024, "an idle day wrote {idle_bytes} bytes");
    shutdown.cancel();
    node.store.closed().await;
}
