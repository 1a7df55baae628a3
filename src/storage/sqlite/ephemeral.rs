//! Keys that live in memory only: heartbeats and leader leases, which would keep an idle disk busy.
//!
//! They share the store's sequence of revisions, their history can be watched and compacted like any other, and
//! nothing of them touches the disk before an orderly stop.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;

use bytes::Bytes;
use parking_lot::RwLock;

use super::rows::{Row, last_id, revision_of, row_id};
use crate::store::{KeyRange, KeyValue, RangeOptions, RangeResult, Revision};

/// The keys under the ephemeral prefixes, with their history since the last compaction.
pub(super) struct Ephemeral {
    prefixes: Vec<KeyRange>,
    /// History before this revision is gone: what was written before the last start has no versions any more.
    pub floor: i64,
    state: RwLock<State>,
}

#[derive(Default)]
struct State {
    /// Versions of each key, oldest first.
    keys: BTreeMap<Bytes, VecDeque<Row>>,
    /// Which key each row number belongs to.
    log: BTreeMap<i64, Bytes>,
}

impl Ephemeral {
    pub(super) fn new(prefixes: &[Bytes], floor: i64, kept: Vec<Row>) -> Self {
        let prefixes = prefixes.iter().cloned().map(KeyRange::prefix).collect();
        let mut state = State::default();
        for row in kept {
            state.push(row);
        }
        Self { prefixes, floor, state: RwLock::new(state) }
    }

    pub(super) fn covers(&self, key: &[u8]) -> bool {
        self.prefixes.iter().any(|prefix| prefix.contains(key))
    }

    /// Every key of the range is ephemeral.
    pub(super) fn covers_all(&self, range: &KeyRange) -> bool {
        match &range.end {
            None => self.covers(&range.start),
            Some(end) => self.prefixes.iter().any(|prefix| {
                let Some(prefix_end) = &prefix.end else { return false };
                prefix.contains(&range.start) && (prefix_end.is_empty() || (!end.is_empty() && end <= prefix_end))
            }),
        }
    }

    /// Some key of the range may be ephemeral.
    pub(super) fn overlaps(&self, range: &KeyRange) -> bool {
        match &range.end {
            None => self.covers(&range.start),
            Some(end) => self.prefixes.iter().any(|prefix| {
                let prefix_end = prefix.end.as_deref().unwrap_or_default();
                (end.is_empty() || *end > prefix.start) && (prefix_end.is_empty() || *range.start < *prefix_end)
            }),
        }
    }

    /// Adds a version, newer than all others. The value is copied: it may be part of a larger buffer.
    pub(super) fn push(&self, mut row: Row) {
        row.kv.value = Bytes::copy_from_slice(&row.kv.value);
        self.state.write().push(row);
    }

    /// Takes back every version of `revision` and later.
    pub(super) fn rollback(&self, revision: i64) {
        let mut state = self.state.write();
        let undone = state.log.split_off(&row_id(revision, 0));
        for (id, key) in undone {
            if let Some(versions) = state.keys.get_mut(&key) {
                versions.retain(|row| row.id != id);
                if versions.is_empty() {
                    state.keys.remove(&key);
                }
            }
        }
    }

    pub(super) fn newest(&self, key: &[u8], bound: i64) -> Option<Row> {
        as_of(self.state.read().keys.get(key)?, bound).cloned()
    }

    pub(super) fn range(&self, range: &KeyRange, wanted: usize, keys_only: bool, bound: i64) -> Vec<KeyValue> {
        let state = self.state.read();
        let found = state.alive(range, bound).take(wanted);
        found
            .map(|row| {
                let mut kv = row.kv.clone();
                if keys_only {
                    kv.value = Bytes::new();
                }
                kv
            })
            .collect()
    }

    pub(super) fn count(&self, range: &KeyRange, bound: i64) -> u64 {
        if !self.overlaps(range) {
            return 0;
        }
        self.state.read().alive(range, bound).count() as u64
    }

    /// A whole range read, of a range of which [`Self::covers_all`] holds.
    pub(super) fn read(&self, range: &KeyRange, options: &RangeOptions, at: i64, newest: Revision) -> RangeResult {
        let bound = last_id(at);
        if options.count_only {
            return RangeResult { kvs: Vec::new(), count: self.count(range, bound), more: false, revision: newest };
        }
        let wanted = if options.limit == 0 { usize::MAX } else { options.limit + 1 };
        let mut kvs = self.range(range, wanted, options.keys_only, bound);
        let more = kvs.len() == wanted;
        if more {
            kvs.truncate(options.limit);
        }
        let count = if more { self.count(range, bound) } else { kvs.len() as u64 };
        RangeResult { kvs, count, more, revision: newest }
    }

    /// Rows numbered `first` to `last` of a range, with the key's value before if it existed.
    pub(super) fn history(&self, range: &KeyRange, first: i64, last: i64) -> Vec<(Row, Option<KeyValue>)> {
        let mut history = Vec::new();
        if first > last {
            return history;
        }
        let state = self.state.read();
        for (id, key) in state.log.range(first..=last) {
            if !range.contains(key) {
                continue;
            }
            let Some(versions) = state.keys.get(key) else { continue };
            let Ok(at) = versions.binary_search_by_key(id, |row| row.id) else { continue };
            let prev = at.checked_sub(1).and_then(|before| versions[before].clone().alive());
            history.push((versions[at].clone(), prev));
        }
        history
    }

    /// Every version that is kept up to the row number `bound`, in the order of writing.
    pub(super) fn versions(&self, bound: i64) -> Vec<Row> {
        let state = self.state.read();
        let mut rows: Vec<Row> = state.keys.values().flatten().filter(|row| row.id <= bound).cloned().collect();
        drop(state);
        rows.sort_by_key(|row| row.id);
        rows
    }

    /// Forgets versions that were superseded at or before `revision`.
    pub(super) fn compact(&self, revision: i64) {
        let mut state = self.state.write();
        let kept = state.log.split_off(&row_id(revision, 0));
        let gone = std::mem::replace(&mut state.log, kept);
        for key in gone.into_values() {
            let Some(versions) = state.keys.get_mut(&key) else { continue };
            let newest = versions.iter().rposition(|row| row.id <= last_id(revision)).unwrap_or(0);
            versions.drain(..newest);
            if versions.front().is_some_and(|row| row.kv.version == 0 && revision_of(row.id) < revision) {
                versions.pop_front();
            }
            if versions.is_empty() {
                state.keys.remove(&key);
            }
        }
    }

    /// Every key as it is now, for an orderly stop.
    pub(super) fn dump(&self) -> Vec<Row> {
        self.dump_as_of(i64::MAX)
    }

    /// Every key as of a row number.
    pub(super) fn dump_as_of(&self, bound: i64) -> Vec<Row> {
        let state = self.state.read();
        let rows = state.keys.values().filter_map(|versions| as_of(versions, bound));
        rows.filter(|row| row.kv.version > 0).cloned().collect()
    }

    /// Leases and the keys that carry them.
    pub(super) fn leased(&self) -> Vec<(i64, Bytes)> {
        self.dump().into_iter().filter(|row| row.kv.lease.0 != 0).map(|row| (row.kv.lease.0, row.kv.key)).collect()
    }
}

impl State {
    fn push(&mut self, row: Row) {
        self.log.insert(row.id, row.kv.key.clone());
        self.keys.entry(row.kv.key.clone()).or_default().push_back(row);
    }

    fn alive<'a>(&'a self, range: &'a KeyRange, bound: i64) -> impl Iterator<Item = &'a Row> {
        let start = Bound::Included(range.start.clone());
        let end = match &range.end {
            None => Bound::Included(range.start.clone()),
            Some(end) if end.is_empty() => Bound::Unbounded,
            // An end before the start is an empty range, which BTreeMap would not accept.
            Some(end) if *end <= range.start => Bound::Excluded(range.start.clone()),
            Some(end) => Bound::Excluded(end.clone()),
        };
        let empty = matches!(&end, Bound::Excluded(end) if *end == range.start);
        let keys = (!empty).then(|| self.keys.range::<Bytes, _>((start, end)));
        keys.into_iter()
            .flatten()
            .filter_map(move |(_, versions)| as_of(versions, bound).filter(|row| row.kv.version > 0))
    }
}

fn as_of(versions: &VecDeque<Row>, bound: i64) -> Option<&Row> {
    versions.iter().rev().find(|row| row.id <= bound)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::LeaseId;

    fn row(revision: i64, key: &str, version: i64) -> Row {
        Row {
            id: row_id(revision, 0),
            kv: KeyValue {
                key: Bytes::copy_from_slice(key.as_bytes()),
                value: Bytes::from(format!("v{revision}")),
                create_revision: Revision(1),
                mod_revision: Revision(revision),
                version,
                lease: LeaseId(0),
            },
            prev: 0,
        }
    }

    fn keys(rows: &Ephemeral, bound: i64) -> Vec<String> {
        rows.range(&KeyRange::prefix("/e/"), usize::MAX, false, last_id(bound))
            .iter()
            .map(|kv| format!("{}={}", String::from_utf8_lossy(&kv.key), String::from_utf8_lossy(&kv.value)))
            .collect()
    }

    #[test]
    fn reads_as_of_a_revision_until_it_is_compacted() {
        let rows = Ephemeral::new(&[Bytes::from("/e/")], 0, Vec::new());
        rows.push(row(2, "/e/a", 1));
        rows.push(row(3, "/e/b", 1));
        rows.push(row(4, "/e/a", 2));
        rows.push(row(5, "/e/b", 0));
        assert_eq!(keys(&rows, 3), ["/e/a=v2", "/e/b=v3"]);
        assert_eq!(keys(&rows, 5), ["/e/a=v4"]);
        rows.compact(4);
        assert_eq!(keys(&rows, 4), ["/e/a=v4", "/e/b=v3"]);
        rows.compact(6);
        assert_eq!(keys(&rows, 6), ["/e/a=v4"]);
        assert_eq!(rows.dump().len(), 1);
    }

    #[test]
    fn rollback_leaves_no_trace() {
        let rows = Ephemeral::new(&[Bytes::from("/e/")], 0, Vec::new());
        rows.push(row(2, "/e/a", 1));
        rows.push(row(3, "/e/a", 2));
        rows.push(row(4, "/e/b", 1));
        rows.rollback(3);
        assert_eq!(keys(&rows, 9), ["/e/a=v2"]);
    }

    #[test]
    fn knows_which_ranges_are_its_own() {
        let rows = Ephemeral::new(&[Bytes::from("/e/")], 0, Vec::new());
        let check = |range: KeyRange, all: bool, some: bool| {
            assert_eq!((rows.covers_all(&range), rows.overlaps(&range)), (all, some), "{range:?}");
        };
        check(KeyRange::prefix("/e/"), true, true);
        check(KeyRange::prefix("/e/x"), true, true);
        check(KeyRange::prefix("/"), false, true);
        check(KeyRange::prefix(""), false, true);
        check(KeyRange::prefix("/f/"), false, false);
        check(KeyRange::key("/e/a"), true, true);
        check(KeyRange::key("/f"), false, false);
        check(KeyRange { start: "/a".into(), end: Some("/e/".into()) }, false, false);
    }
}
