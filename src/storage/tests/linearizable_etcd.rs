//! Concurrent clients of the engine on an etcd cluster whose members are killed one after the other: what they saw must
//! have an order (linearizability), revisions must be in that order, and a watch must have told every acknowledged write
//! once. `STORAGE_LINEARIZABLE_ROUNDS` lengthens the run. Needs etcd's binary; says so and passes without it.

#[path = "linearizable/check.rs"]
mod check;
#[path = "linearizable/clients.rs"]
mod clients;
#[path = "contract/etcd_process.rs"]
#[allow(dead_code, reason = "other tests use one member")]
mod etcd_process;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use base::Shutdown;
use clients::{CLIENTS, History, client};
use etcd_process::{binary, free_port};
use parking_lot::Mutex;
use storage::{EtcdOptions, EtcdStore, KeyRange, Revision, Store, WatchMessage, WatchOptions};
use tokio::sync::watch;

const MEMBERS: usize = 3;
/// Answers between a kill and what comes next.
const ANSWERS: usize = 150;

/// Three members; they end with the value.
struct Cluster {
    binary: PathBuf,
    dir: PathBuf,
    clients: Vec<String>,
    peers: Vec<String>,
    running: Vec<Option<Child>>,
}

impl Cluster {
    fn start(binary: PathBuf, dir: &Path) -> Self {
        let url = |_| format!("http://127.0.0.1:{}", free_port());
        let (clients, peers) = ((0..MEMBERS).map(url).collect(), (0..MEMBERS).map(url).collect());
        let mut cluster =
            Self { binary, dir: dir.to_owned(), clients, peers, running: (0..MEMBERS).map(|_| None).collect() };
        (0..MEMBERS).for_each(|member| cluster.run(member));
        cluster
    }

    fn run(&mut self, member: usize) {
        let name = |member: usize| format!("m{member}");
        let all: Vec<String> =
            self.peers.iter().enumerate().map(|(member, peer)| format!("{}={peer}", name(member))).collect();
        let child = Command::new(&self.binary)
            .args(["--name", &name(member), "--log-level", "error", "--unsafe-no-fsync"])
            .args(["--heartbeat-interval", "50", "--election-timeout", "500"])
            .arg("--data-dir")
            .arg(self.dir.join(name(member)))
            .args(["--listen-client-urls", &self.clients[member], "--advertise-client-urls", &self.clients[member]])
            .args(["--listen-peer-urls", &self.peers[member], "--initial-advertise-peer-urls", &self.peers[member]])
            .args(["--initial-cluster", &all.join(",")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self.running[member] = Some(child);
    }

    fn kill(&mut self, member: usize) {
        if let Some(mut child) = self.running[member].take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        (0..MEMBERS).for_each(|member| self.kill(member));
    }
}

/// Revisions that a watch of everything tells, until the store stops.
async fn follow(store: Arc<EtcdStore>, start: Revision, told: Arc<Mutex<Vec<i64>>>) {
    let options = WatchOptions { start, prev_kv: false };
    let mut watch = store.watch(KeyRange::prefix("/k/"), options).await.unwrap();
    while let Some(message) = watch.messages.recv().await {
        match message {
            WatchMessage::Events { events, .. } => {
                told.lock().extend(events.iter().map(|event| event.kv.mod_revision.0));
            }
            WatchMessage::Progress(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_clients_see_is_linearizable_while_members_die() {
    let Some(binary) = binary() else { return };
    let rounds: usize = std::env::var("STORAGE_LINEARIZABLE_ROUNDS").ok().and_then(|t| t.parse().ok()).unwrap_or(3);
    let dir = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start(binary, dir.path());
    let stop = Shutdown::new();
    let options = EtcdOptions { history: None, ..EtcdOptions::new(cluster.clients.clone(), None) };
    let store = EtcdStore::open(options, stop.clone()).await.unwrap();
    let start = Revision(store.revision().await.unwrap().0 + 1);
    let told: Arc<Mutex<Vec<i64>>> = Arc::default();
    let following = tokio::spawn(follow(store.clone(), start, told.clone()));

    let history: Arc<Mutex<History>> = Arc::default();
    let (answers, mut heard) = watch::channel(0_usize);
    let (answers, go_on, unknown) = (Arc::new(answers), Arc::new(AtomicBool::new(true)), Arc::new(AtomicUsize::new(0)));
    let tasks: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let (store, history, answers) = (store.clone(), history.clone(), answers.clone());
            let (go_on, unknown) = (go_on.clone(), unknown.clone());
            tokio::spawn(async move {
                let tell = |line: String| {
                    let mut history = history.lock();
                    history.line(&line).unwrap_or_else(|| panic!("{line}"));
                    answers.send_replace(history.answers);
                };
                let refused = |_| {
                    unknown.fetch_add(1, Ordering::Relaxed);
                    if go_on.load(Ordering::Relaxed) { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
                };
                client(&*store, 1, number, tell, refused).await;
            })
        })
        .collect();
    let mut wanted = 0;
    for round in 0..rounds {
        for killed in [false, true] {
            if killed {
                cluster.kill(round % MEMBERS);
            }
            wanted = (*heard.borrow()).max(wanted) + ANSWERS;
            heard.wait_for(|answers| *answers >= wanted).await.unwrap();
        }
        cluster.run(round % MEMBERS);
    }
    wanted = *heard.borrow() + ANSWERS;
    heard.wait_for(|answers| *answers >= wanted).await.unwrap();
    // Calls that are cut off here may have happened or not, like those that a dead member did not answer.
    go_on.store(false, Ordering::Relaxed);
    tasks.iter().for_each(|task| task.abort());
    for task in tasks {
        drop(task.await);
    }

    let newest = store.revision().await.unwrap();
    stop.cancel();
    store.closed().await;
    following.await.unwrap();
    let told = told.lock().clone();
    assert!(told.is_sorted_by(|before, after| before < after), "a revision was told twice or out of order");
    let mut history = std::mem::take(&mut *history.lock());
    history.killed();
    let missed: Vec<_> = history
        .writes
        .iter()
        .map(|(.., revision)| *revision)
        .filter(|revision| told.binary_search(revision).is_err())
        .collect();
    assert!(missed.is_empty(), "acknowledged writes were not told to the watch: {missed:?} of {newest:?}");
    let operations = history.examine();
    let unknown = unknown.load(Ordering::Relaxed);
    println!("{operations} operations over {rounds} deaths of members are linearizable, {unknown} without an answer");
}
