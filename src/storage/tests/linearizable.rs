//! Concurrent clients whose server is killed again and again: what they saw must have an order in which each operation
//! takes effect at one moment between its call and its answer (linearizability), and revisions must be in that order.
//!
//! The clients run in a process of their own with the store and tell each call and each answer on the standard output,
//! until they are killed; calls without an answer may have happened or not. `STORAGE_LINEARIZABLE_ROUNDS` lengthens the
//! run.

#[path = "linearizable/check.rs"]
mod check;
#[path = "linearizable/clients.rs"]
mod clients;

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base::Shutdown;
use clients::{CLIENTS, History, client};
use storage::{SqliteOptions, SqliteStore};

const CHILD: &str = "STORAGE_LINEARIZABLE_DATABASE";
const RUN: &str = "STORAGE_LINEARIZABLE_RUN";

fn options() -> SqliteOptions {
    SqliteOptions { wal_bytes: 64 * 1024, history: None, ..SqliteOptions::default() }
}

/// A line is written at once, so that the order of lines is the order of what they tell.
fn tell(line: String) {
    writeln!(std::io::stdout().lock(), "{line}").unwrap();
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn run_clients(path: &Path, run: u64) {
    let store = SqliteStore::open(path, options(), Shutdown::new()).await.unwrap();
    let tasks: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let store = store.clone();
            tokio::spawn(async move { client(&*store, run, number, tell, |error| panic!("{error:?}")).await })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}

/// Lets the clients tell `count` lines, kills them, and notes what they told.
fn run_and_kill(path: &Path, run: u64, count: usize, history: &mut History) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "what_clients_see_is_linearizable_over_kills", "--nocapture"])
        .env(CHILD, path)
        .env(RUN, run.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut told = 0;
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while lines.read_line(&mut line).unwrap() > 0 {
        // The last line may be cut short by the kill.
        if line.ends_with('\n') && (line.starts_with("call ") || line.starts_with("answer ")) {
            history.line(line.trim_end()).unwrap_or_else(|| panic!("{line}"));
            told += 1;
            if told == count {
                child.kill().unwrap();
            }
        }
        line.clear();
    }
    child.wait().unwrap();
    history.killed();
}

#[test]
fn what_clients_see_is_linearizable_over_kills() {
    if let (Some(path), Ok(run)) = (std::env::var_os(CHILD), std::env::var(RUN)) {
        run_clients(&PathBuf::from(path), run.parse().unwrap());
        return;
    }
    let rounds: u64 = std::env::var("STORAGE_LINEARIZABLE_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(4);
    let dir = tempfile::tempdir().unwrap();
    let mut history = History::default();
    for run in 0..rounds {
        run_and_kill(&dir.path().join("db"), run + 1, 150 + (run as usize * 7919) % 400, &mut history);
    }
    let operations = history.examine();
    println!("{operations} operations over {rounds} kills are linearizable");
}
