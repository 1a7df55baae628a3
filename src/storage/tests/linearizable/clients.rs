//! Clients that tell each call and each answer, and the history that is made of what they tell.

use std::collections::HashMap;
use std::ops::ControlFlow;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use storage::{
    Compare, CompareResult, CompareTarget, KeyRange, KeyValue, Op, OpResult, Put, RangeOptions, Store, StoreError, Txn,
    TxnResult,
};

use super::check::{Call, Operation, linearizable};

pub const CLIENTS: u64 = 6;
const KEYS: u64 = 4;

fn value(kv: Option<&KeyValue>) -> u64 {
    kv.map_or(0, |kv| String::from_utf8_lossy(&kv.value).parse().unwrap())
}

fn read(result: &TxnResult) -> u64 {
    match result.results.last() {
        Some(OpResult::Range(range)) => value(range.kvs.first()),
        other => panic!("{other:?}"),
    }
}

/// One client: calls and answers, each with the client's number. Every value is written at most once. `refused` says
/// whether to go on after an error, when it is not known whether the call took effect.
pub async fn client(
    store: &dyn Store,
    run: u64,
    client: u64,
    tell: impl Fn(String) + Sync,
    refused: impl Fn(StoreError) -> ControlFlow<()> + Sync,
) {
    let mut rng = StdRng::seed_from_u64(run * 100 + client);
    let mut seen = [0; KEYS as usize];
    for number in 0_u64.. {
        let at = rng.random_range(0..KEYS);
        let new = (run << 40) | (client << 32) | (number + 1);
        let known = &mut seen[at as usize];
        let step = Step { store, key: format!("/k/{at}"), new, known: *known };
        let call = match rng.random_range(0..10) {
            0..3 => {
                tell(format!("call {client} {at} write {new}"));
                step.write().await
            }
            3..6 => {
                tell(format!("call {client} {at} read"));
                step.read().await
            }
            6..9 => {
                tell(format!("call {client} {at} swap {known} {new}"));
                step.swap().await
            }
            _ => {
                tell(format!("call {client} {at} delete"));
                step.delete().await
            }
        };
        match call {
            Ok(Answer { revision, found, now }) => {
                *known = now;
                tell(format!("answer {client} {revision} {found}"));
            }
            Err(error) => {
                if refused(error).is_break() {
                    return;
                }
            }
        }
    }
}

/// What a call came to: the revision of its write or 0, the value that it found, and the value after it.
struct Answer {
    revision: i64,
    found: u64,
    now: u64,
}

struct Step<'a> {
    store: &'a dyn Store,
    key: String,
    new: u64,
    known: u64,
}

impl Step<'_> {
    fn range(&self) -> KeyRange {
        KeyRange::key(self.key.clone())
    }

    fn put(&self) -> Op {
        Op::Put(Put { key: self.key.clone().into(), value: self.new.to_string().into(), ..Put::default() })
    }

    async fn write(&self) -> Result<Answer, StoreError> {
        let result = self.store.txn(Txn { success: vec![self.put()], ..Txn::default() }).await?;
        Ok(Answer { revision: result.revision.0, found: 0, now: self.new })
    }

    async fn read(&self) -> Result<Answer, StoreError> {
        let result = self.store.range(self.range(), RangeOptions::default()).await?;
        let found = value(result.kvs.first());
        Ok(Answer { revision: 0, found, now: found })
    }

    async fn swap(&self) -> Result<Answer, StoreError> {
        let target = match self.known {
            0 => CompareTarget::Version(0),
            known => CompareTarget::Value(known.to_string().into()),
        };
        let compare = Compare { range: self.range(), target, result: CompareResult::Equal };
        let get = Op::Range { range: self.range(), options: RangeOptions::default() };
        let txn = Txn { compare: vec![compare], success: vec![self.put()], failure: vec![get] };
        let result = self.store.txn(txn).await?;
        Ok(match result.succeeded {
            true => Answer { revision: result.revision.0, found: self.known, now: self.new },
            false => Answer { revision: 0, found: read(&result), now: read(&result) },
        })
    }

    async fn delete(&self) -> Result<Answer, StoreError> {
        let delete = Op::Delete { range: self.range(), prev_kv: true };
        let result = self.store.txn(Txn { success: vec![delete], ..Txn::default() }).await?;
        Ok(match &result.results[0] {
            OpResult::Delete { prev, .. } if prev.is_empty() => Answer { revision: 0, found: 0, now: 0 },
            OpResult::Delete { prev, .. } => Answer { revision: result.revision.0, found: value(prev.first()), now: 0 },
            other => panic!("{other:?}"),
        })
    }
}

/// Everything that was told over all runs, with time counted in lines.
#[derive(Default)]
pub struct History {
    lines: usize,
    /// Answers among the lines.
    pub answers: usize,
    /// By key; a call's place is kept until its answer.
    keys: HashMap<u64, Vec<Call>>,
    open: HashMap<u64, (u64, usize)>,
    /// Calls, answers and revisions of writes.
    pub writes: Vec<(usize, usize, i64)>,
}

impl History {
    /// Takes one line; `None` if it is none of ours.
    pub fn line(&mut self, line: &str) -> Option<()> {
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
            self.answers += 1;
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
    pub fn killed(&mut self) {
        self.open.clear();
    }

    /// Checks that what was seen has an order, and that revisions are in the order of time; answers with how many
    /// operations there were.
    pub fn examine(self) -> usize {
        let mut operations = 0;
        for (key, calls) in &self.keys {
            operations += calls.len();
            assert!(linearizable(calls), "no order of the operations on key {key} explains what was seen");
        }
        // A write that was called after another was answered has a higher revision.
        let mut by_answer = self.writes.clone();
        by_answer.sort_by_key(|(_, answered, _)| *answered);
        let mut by_call = self.writes;
        by_call.sort_by_key(|(called, ..)| *called);
        let (mut before, mut newest) = (by_answer.iter().peekable(), 0);
        for (called, _, revision) in by_call {
            while let Some((.., earlier)) = before.next_if(|(_, answered, _)| *answered < called) {
                newest = newest.max(*earlier);
            }
            assert!(revision > newest, "revision {revision} was given out after {newest}");
        }
        operations
    }
}
