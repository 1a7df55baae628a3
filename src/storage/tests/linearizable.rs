//! Concurrent clients whose server is killed again and again: what they saw must have an order in which each operation
//! takes effect at one moment between its call and its answer (linearizability), and revisions must be in that order.
//!
//! The clients run in a process of their own with the store and tell each call and each answer on the standard output,
//! until they are killed; calls without an answer may have happened or not. `STORAGE_LINEARIZABLE_ROUNDS` lengthens the
//! run.

#[path = "linearizable/check.rs"]
mod check;

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base::Shutdown;
use check::{Call, Operation, linearizable};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use storage::{
    Compare, CompareResult, CompareTarget, KeyRange, KeyValue, Op, OpResult, Put, RangeOptions, SqliteOptions,
    SqliteStore, Store, Txn, TxnResult,
};

const CHILD: &str = "STORAGE_LINEARIZABLE_DATABASE";
const RUN: &str = "STORAGE_LINEARIZABLE_RUN";
const CLIENTS: u64 = 6;
const KEYS: u64 = 4;

fn options() -> SqliteOptions {
    SqliteOptions { wal_bytes: 64 * 1024, history: None, ..SqliteOptions::default() }
}

/// A line is written at once, so that the order of lines is the order of what they tell.
fn tell(line: String) {
    writeln!(std::io::stdout().lock(), "{line}").unwrap();
}

fn value(kv: Option<&KeyValue>) -> u64 {
    kv.map_or(0, |kv| String::from_utf8_lossy(&kv.value).parse().unwrap())
}

fn read(result: &TxnResult) -> u64 {
    match result.results.last() {
        Some(OpResult::Range(range)) => value(range.kvs.first()),
        other => panic!("{other:?}"),
    }
}

/// One client: calls and answers, each with the client's number. Every value is written at most once.
async fn client(store: &SqliteStore, run: u64, client: u64) {
    let mut rng = StdRng::seed_from_u64(run * 100 + client);
    let mut seen = [0; KEYS as usize];
    for number in 0_u64.. {
        let at = rng.random_range(0..KEYS);
        let key = format!("/k/{at}");
        let new = (run << 40) | (client << 32) | (number + 1);
        let put = Op::Put(Put { key: key.clone().into(), value: new.to_string().into(), ..Put::default() });
        let get = Op::Range { range: KeyRange::key(key.clone()), options: RangeOptions::default() };
        let known = &mut seen[at as usize];
        match rng.random_range(0..10) {
            0..3 => {
                tell(format!("call {client} {at} write {new}"));
                let result = store.txn(Txn { success: vec![put], ..Txn::default() }).await.unwrap();
                *known = new;
                tell(format!("answer {client} {} 0", result.revision.0));
            }
            3..6 => {
                tell(format!("call {client} {at} read"));
                let result = store.range(KeyRange::key(key), RangeOptions::default()).await.unwrap();
                *known = value(result.kvs.first());
                tell(format!("answer {client} 0 {known}"));
            }
            6..9 => {
                tell(format!("call {client} {at} swap {known} {new}"));
                let target = match *known {
                    0 => CompareTarget::Version(0),
                    known => CompareTarget::Value(known.to_string().into()),
                };
                let compare = Compare { range: KeyRange::key(key), target, result: CompareResult::Equal };
                let txn = Txn { compare: vec![compare], success: vec![put], failure: vec![get] };
                let result = store.txn(txn).await.unwrap();
                let (revision, found) = if result.succeeded { (result.revision.0, *known) } else { (0, read(&result)) };
                *known = if result.succeeded { new } else { found };
                tell(format!("answer {client} {revision} {found}"));
            }
            _ => {
                tell(format!("call {client} {at} delete"));
                let delete = Op::Delete { range: KeyRange::key(key), prev_kv: true };
                let result = store.txn(Txn { success: vec![delete], ..Txn::default() }).await.unwrap();
                let (revision, found) = match &result.results[0] {
                    OpResult::Delete { prev, .. } if prev.is_empty() => (0, 0),
                    OpResult::Delete { prev, .. } => (result.revision.0, value(prev.first())),
                    other => panic!("{other:?}"),
                };
                *known = 0;
                tell(format!("answer {client} {revision} {found}"));
            }
        }
    }
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn run_clients(path: &Path, run: u64) {
    let store = SqliteStore::open(path, options(), Shutdown::new()).await.unwrap();
    let tasks: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let store = store.clone();
            tokio::spawn(async move { client(&store, run, number).await })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}

/// Everything that was told over all runs, with time counted in lines.
#[derive(Default)]
struct History {
    lines: usize,
    /// By key; a call's place is kept until its answer.
    keys: HashMap<u64, Vec<Call>>,
    open: HashMap<u64, (u64, usize)>,
    /// Calls, answers and revisions of writes.
    writes: Vec<(usize, usize, i64)>,
}

impl History {
    fn line(&mut self, line: &str) -> Option<()> {
        let mut words = line.split(' ');
        let what = words.next()?;
        let mut number = || words.next()?.parse::<u64>().ok();
        self.lines += 1;
        let client = number()?;
        if what == "call" {
            let key = number()?;
            let operation = match line.split(' ').nth(3)? {
                "write" => Operation::Write { new: line.split(' ').nth(4)?.parse().ok()? },
                "read" => Operation::Read { found: 0 },
                "swap" => {
                    let (known, new) = (line.split(' ').nth(4)?.parse().ok()?, line.split(' ').nth(5)?.parse().ok()?);
                    Operation::Swap { known, new, found: known }
                }
                "delete" => Operation::Delete { found: 0 },
                _ => return None,
            };
            let calls = self.keys.entry(key).or_default();
            calls.push(Call { operation, called: self.lines, answered: None });
            self.open.insert(client, (key, calls.len() - 1));
        } else if what == "answer" {
            let (revision, value) = (number()?, number()?);
            let (key, at) = self.open.remove(&client)?;
            let call = &mut self.keys.get_mut(&key)?[at];
            call.answered = Some(self.lines);
            match &mut call.operation {
                Operation::Read { found } | Operation::Delete { found } => *found = value,
                Operation::Swap { found, .. } => *found = value,
                Operation::Write { .. } => {}
            }
            if revision > 0 {
                self.writes.push((call.called, self.lines, revision as i64));
            }
        }
        Some(())
    }

    /// The clients are dead: what has no answer by now gets none.
    fn killed(&mut self) {
        self.open.clear();
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
    let mut operations = 0;
    for (key, calls) in &history.keys {
        operations += calls.len();
        assert!(linearizable(calls), "no order of the operations on key {key} explains what was seen");
    }
    // Revisions are in the order of time: a write that was called after another was answered has a higher one.
    let mut by_answer = history.writes.clone();
    by_answer.sort_by_key(|(_, answered, _)| *answered);
    let mut by_call = history.writes;
    by_call.sort_by_key(|(called, ..)| *called);
    let (mut before, mut newest) = (by_answer.iter().peekable(), 0);
    for (called, _, revision) in by_call {
        while let Some((.., earlier)) = before.next_if(|(_, answered, _)| *answered < called) {
            newest = newest.max(*earlier);
        }
        assert!(revision > newest, "revision {revision} was given out after {newest}");
    }
    println!("{operations} operations over {rounds} kills are linearizable");
}
