//! A process that is killed in the middle of writing: after the next start every acknowledged write is there, whole,
//! and revisions go on above every one that was ever told.
//!
//! The test starts itself again as the writing process. `STORAGE_CRASH_ROUNDS` lengthens the run.

#[path = "durability/load.rs"]
mod load;

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base::Shutdown;
use load::{Told, WRITERS, examine, options, write};
use storage::SqliteStore;

const CHILD: &str = "STORAGE_CRASH_DATABASE";

/// The writing process: tells each acknowledged write on its standard output, until it is killed.
#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn write_for_ever(path: &Path) {
    let store = SqliteStore::open(path, options(), Shutdown::new()).await.unwrap();
    let tasks: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let store = store.clone();
            tokio::spawn(async move {
                let tell = |Told { revision, key, number }| {
                    let key = key.as_deref().unwrap_or("-");
                    writeln!(std::io::stdout().lock(), "{revision} {key} {number}").is_ok()
                };
                write(&store, writer, tell).await;
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
    let rounds: usize = std::env::var("STORAGE_CRASH_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(4);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let (mut newest, mut acknowledged) = (0, 0);
    for round in 0..rounds {
        // The kill comes while the next writes are under way: at another place every round.
        let told = run_and_kill(&path, 100 + round * 7919 % 700);
        acknowledged += told.len();
        newest = examine_kept(&path, &told, newest);
    }
    println!("{rounds} kills, {acknowledged} acknowledged writes kept, revision {newest}");
}

#[tokio::main(flavor = "current_thread")]
async fn examine_kept(path: &Path, told: &[Told], newest: i64) -> i64 {
    examine(path, told, newest).await
}

/// Lets the writing process tell `count` writes, kills it, and returns everything that it told.
fn run_and_kill(path: &Path, count: usize) -> Vec<Told> {
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
        told.push(Told { revision, key: (key != "-").then(|| key.to_owned()), number });
        if told.len() == count {
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    told
}
