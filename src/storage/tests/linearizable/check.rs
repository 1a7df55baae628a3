//! The check of Wing and Gong with Lowe's memory of states seen ("Testing for linearizability", 2017), for one register:
//! histories are cut by key first, which is allowed because linearizability is local.

use std::collections::HashSet;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// What was asked of a key and seen of it; values are numbers, 0: no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    Write {
        new: u64,
    },
    Read {
        found: u64,
    },
    /// Writes `new` if the key is `known`; `found` is what it was.
    Swap {
        known: u64,
        new: u64,
        found: u64,
    },
    Delete {
        found: u64,
    },
}

/// An operation with the moments of its call and its answer; without an answer it may have happened or not, at any time
/// from then on.
#[derive(Debug, Clone, Copy)]
pub struct Call {
    pub operation: Operation,
    pub called: usize,
    pub answered: Option<usize>,
}

impl Call {
    /// The state after the operation, if it can take effect in `state` and see what it saw.
    fn apply(&self, state: u64) -> Option<u64> {
        let answered = self.answered.is_some();
        match self.operation {
            Operation::Write { new } => Some(new),
            Operation::Read { found } => (!answered || found == state).then_some(state),
            Operation::Swap { known, new, found } => {
                if answered && found != state {
                    return None;
                }
                Some(if state == known { new } else { state })
            }
            Operation::Delete { found } => (!answered || found == state).then_some(0),
        }
    }

    fn writes(&self) -> Option<u64> {
        match self.operation {
            Operation::Write { new } | Operation::Swap { new, .. } => Some(new),
            Operation::Read { .. } | Operation::Delete { .. } => None,
        }
    }

    fn found(&self) -> Option<u64> {
        match self.operation {
            Operation::Write { .. } => None,
            Operation::Read { found } | Operation::Swap { found, .. } | Operation::Delete { found } => Some(found),
        }
    }
}

/// Whether some order of the operations explains what was seen. Each value must be written at most once.
pub fn linearizable(calls: &[Call]) -> bool {
    // A write without an answer whose value nobody ever saw explains nothing: it need not have happened. Deletions
    // without an answer may explain a missing key and stay.
    let seen: HashSet<u64> = calls.iter().filter(|call| call.answered.is_some()).filter_map(Call::found).collect();
    let useful = |call: &&Call| {
        call.answered.is_some()
            || match call.operation {
                Operation::Read { .. } => false,
                Operation::Delete { .. } => true,
                _ => call.writes().is_some_and(|new| seen.contains(&new)),
            }
    };
    let mut calls: Vec<Call> = calls.iter().filter(useful).copied().collect();
    calls.sort_by_key(|call| call.called);
    let mut rng = StdRng::seed_from_u64(calls.len() as u64);
    let marks = calls.iter().map(|_| rng.random()).collect();
    Search { calls: &calls, done: vec![false; calls.len()], marks, set: 0, visited: HashSet::new() }.run()
}

struct Search<'a> {
    calls: &'a [Call],
    done: Vec<bool>,
    /// A random number for each operation; a set of operations is told by theirs together, which two sets of any
    /// history that is ever checked do not share.
    marks: Vec<u128>,
    /// The operations that have taken effect.
    set: u128,
    /// Sets of operations that have taken effect, with the state after them, that were tried.
    visited: HashSet<(u128, u64)>,
}

impl Search<'_> {
    fn run(&mut self) -> bool {
        // A stack instead of recursion: (operation that took effect, state before it).
        let mut path: Vec<(usize, u64)> = Vec::new();
        let (mut state, mut next) = (0, 0);
        loop {
            let first = self.done.iter().position(|done| !done).unwrap_or(self.calls.len());
            if self.calls[first..].iter().zip(&self.done[first..]).all(|(call, done)| *done || call.answered.is_none())
            {
                return true;
            }
            match self.candidate(first, next, state) {
                Some((at, after)) => {
                    if self.visited.insert((self.set ^ self.marks[at], after)) {
                        path.push((at, state));
                        self.toggle(at);
                        (state, next) = (after, 0);
                    } else {
                        next = at + 1;
                    }
                }
                None => {
                    let Some((at, before)) = path.pop() else { return false };
                    self.toggle(at);
                    (state, next) = (before, at + 1);
                }
            }
        }
    }

    /// The next operation from `next` on that may come now: nothing that is still to come was answered before it was
    /// called.
    fn candidate(&self, first: usize, next: usize, state: u64) -> Option<(usize, u64)> {
        let mut deadline = usize::MAX;
        for at in first..self.calls.len() {
            let call = &self.calls[at];
            if self.done[at] {
                continue;
            }
            if call.called > deadline {
                return None;
            }
            if at >= next
                && let Some(after) = call.apply(state)
            {
                return Some((at, after));
            }
            deadline = deadline.min(call.answered.unwrap_or(usize::MAX));
        }
        None
    }

    fn toggle(&mut self, at: usize) {
        self.done[at] = !self.done[at];
        self.set ^= self.marks[at];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_orders_that_exist_from_those_that_do_not() {
        let check = |calls: &[(Operation, usize, usize)], wanted: bool| {
            let calls: Vec<Call> = calls
                .iter()
                .map(|(operation, called, answered)| Call {
                    operation: *operation,
                    called: *called,
                    answered: (*answered > 0).then_some(*answered),
                })
                .collect();
            assert_eq!(linearizable(&calls), wanted, "{calls:?}");
        };
        let write = |new| Operation::Write { new };
        let read = |found| Operation::Read { found };
        check(&[(write(1), 1, 2), (read(1), 3, 4)], true);
        check(&[(write(1), 1, 2), (read(0), 3, 4)], false);
        // While a write is under way both may be seen, but not first the new and then the old.
        check(&[(write(1), 1, 6), (read(0), 2, 3), (read(1), 4, 5)], true);
        check(&[(write(1), 1, 6), (read(1), 2, 3), (read(0), 4, 5)], false);
        // Without an answer it may have happened, late even, or not.
        check(&[(write(1), 1, 0), (read(0), 2, 3), (read(1), 4, 5)], true);
        check(&[(write(1), 1, 0), (read(0), 2, 3)], true);
        check(&[(write(1), 1, 0), (read(1), 2, 3), (read(0), 4, 5)], false);
        let swap = |known, new, found| Operation::Swap { known, new, found };
        check(&[(write(1), 1, 2), (swap(1, 2, 1), 3, 4), (read(2), 5, 6)], true);
        check(&[(write(1), 1, 2), (swap(1, 2, 1), 3, 4), (swap(1, 3, 1), 5, 6)], false);
        check(&[(write(1), 1, 2), (Operation::Delete { found: 1 }, 3, 4), (read(0), 5, 6)], true);
        check(&[(write(1), 1, 2), (Operation::Delete { found: 0 }, 3, 4)], false);
    }
}
