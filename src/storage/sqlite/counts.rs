//! How many keys ranges have, so that a page of a list need not count again what the page before has counted.
//!
//! A count holds from the revision that it was made at for as long as keys are only changed, none added or removed.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicI64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;

use crate::store::{Event, EventKind, KeyRange};

/// Counts that are kept.
const COUNTS_MAX: usize = 128;

pub(super) struct Counts {
    /// The newest revision that added or removed a key.
    shape: AtomicI64,
    kept: Mutex<VecDeque<Counted>>,
}

struct Counted {
    revision: i64,
    range: KeyRange,
    count: u64,
}

impl Counts {
    /// Of a store that is at `revision`.
    pub(super) fn new(revision: i64) -> Self {
        Self { shape: AtomicI64::new(revision), kept: Mutex::new(VecDeque::new()) }
    }

    /// To be called before a revision is published.
    pub(super) fn changing(&self, revision: i64, events: &[Event]) {
        if events.iter().any(|event| event.kind == EventKind::Delete || event.kv.version == 1) {
            self.shape.store(revision, Ordering::Release);
        }
    }

    /// Remembers that `range` had `count` keys at `revision`.
    pub(super) fn remember(&self, revision: i64, range: KeyRange, count: u64) {
        let mut kept = self.kept.lock();
        if let Some(entry) = kept.iter_mut().find(|entry| entry.range == range) {
            *entry = Counted { revision, range, count };
            return;
        }
        if kept.len() == COUNTS_MAX {
            kept.pop_front();
        }
        kept.push_back(Counted { revision, range, count });
    }

    /// The count of a range at a published revision, if it is known.
    pub(super) fn known(&self, revision: i64, range: &KeyRange) -> Option<u64> {
        let shape = self.shape.load(Ordering::Acquire);
        let kept = self.kept.lock();
        let same = |then: i64| then == revision || then.min(revision) >= shape;
        kept.iter().find(|entry| entry.range == *range && same(entry.revision)).map(|entry| entry.count)
    }
}

/// What of `range` follows the key `last`.
pub(super) fn rest(range: &KeyRange, last: &[u8]) -> KeyRange {
    let mut start = Vec::with_capacity(last.len() + 1);
    start.extend_from_slice(last);
    start.push(0);
    KeyRange { start: Bytes::from(start), end: range.end.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{KeyValue, LeaseId, Revision};

    fn event(kind: EventKind, version: i64) -> Event {
        let kv = KeyValue {
            key: Bytes::from("/a"),
            value: Bytes::new(),
            create_revision: Revision(1),
            mod_revision: Revision(2),
            version,
            lease: LeaseId(0),
        };
        Event { kind, kv, prev: None }
    }

    #[test]
    fn a_count_holds_while_keys_are_only_changed() {
        let range = KeyRange::prefix("/");
        let counts = Counts::new(10);
        counts.remember(10, range.clone(), 7);
        counts.changing(11, &[event(EventKind::Put, 2)]);
        let check = |revision: i64, known: Option<u64>| {
            assert_eq!(counts.known(revision, &range), known, "at {revision}");
        };
        check(10, Some(7));
        check(11, Some(7));
        check(9, None);
        counts.changing(12, &[event(EventKind::Put, 3), event(EventKind::Put, 1)]);
        check(12, None);
        check(11, None);
        check(10, Some(7));
        counts.remember(12, range.clone(), 8);
        counts.changing(13, &[event(EventKind::Delete, 0)]);
        check(12, Some(8));
        check(13, None);
        assert_eq!(counts.known(12, &KeyRange::prefix("/a")), None);
    }

    #[test]
    fn the_rest_of_a_range_begins_behind_the_last_key() {
        let range = rest(&KeyRange::prefix("/a/"), b"/a/b");
        assert!(!range.contains(b"/a/b") && range.contains(b"/a/b\0") && range.contains(b"/a/c"));
        assert!(!range.contains(b"/b"));
    }
}
