//! What the writer, the readers and the callers of one store share.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicI64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::ephemeral::Ephemeral;
use super::lease::Leases;
use super::metrics::Metrics;
use super::options::SqliteOptions;
use super::recover::{Identity, Recovered};
use crate::hub::Hub;
use crate::store::{KeyRange, Revision, StoreError};

/// Counts kept for lists that were cut short.
const COUNTS_MAX: usize = 64;

pub(super) struct Shared {
    pub options: SqliteOptions,
    pub hub: Hub,
    pub ephemeral: Ephemeral,
    pub leases: Leases,
    pub identity: Identity,
    pub metrics: Metrics,
    /// The newest revision that reads may see. Set after the commit, before the watchers are told.
    pub revision: watch::Sender<i64>,
    /// History before this revision is gone. Set before the first row of it is deleted.
    pub compacted: AtomicI64,
    /// Cancelled when the writer has failed for good: the disk did not keep what it was told to keep.
    pub failed: CancellationToken,
    /// Cancelled when everything is on disk and the files are closed.
    pub stopped: CancellationToken,
    counts: Mutex<VecDeque<Remaining>>,
}

/// How many keys were left after a list that was cut short.
struct Remaining {
    revision: i64,
    range: KeyRange,
    count: u64,
}

impl Shared {
    pub(super) fn new(options: SqliteOptions, state: Recovered) -> Self {
        Self {
            options,
            hub: Hub::new(Revision(state.revision)),
            ephemeral: state.ephemeral,
            leases: state.leases,
            identity: state.identity,
            metrics: Metrics::default(),
            revision: watch::Sender::new(state.revision),
            compacted: AtomicI64::new(state.compacted),
            failed: CancellationToken::new(),
            stopped: CancellationToken::new(),
            counts: Mutex::new(VecDeque::new()),
        }
    }

    pub(super) fn current(&self) -> i64 {
        *self.revision.borrow()
    }

    pub(super) fn compacted(&self) -> i64 {
        self.compacted.load(Ordering::Acquire)
    }

    /// Whether history of this range may have been lost with an earlier process's memory.
    pub(super) fn touches_lost(&self, range: &KeyRange) -> bool {
        self.ephemeral.overlaps(range)
    }

    /// Whether a read at `revision` can be answered; `lost`: the range had keys in an earlier process's memory.
    pub(super) fn check_revision(&self, revision: Revision, newest: i64, lost: bool) -> Result<(), StoreError> {
        if revision.0 > newest {
            return Err(StoreError::FutureRevision);
        }
        let oldest = self.oldest(lost);
        if revision.0 < oldest {
            return Err(StoreError::Compacted { compact_revision: Revision(oldest) });
        }
        Ok(())
    }

    /// The oldest revision whose state is still known.
    pub(super) fn oldest(&self, lost: bool) -> i64 {
        let compacted = self.compacted();
        if lost { compacted.max(self.ephemeral.floor) } else { compacted }
    }

    /// The first revision from which all events are still known. Of keys in memory the state survives an orderly stop,
    /// the events that led to it do not.
    pub(super) fn oldest_events(&self, lost: bool) -> i64 {
        let compacted = self.compacted();
        if lost && self.ephemeral.floor > 0 { compacted.max(self.ephemeral.floor + 1) } else { compacted }
    }

    /// Remembers that `count` keys follow `last` up to the end of `range`: the next page of the same list then need
    /// not count them again.
    pub(super) fn remember_count(&self, revision: i64, range: &KeyRange, last: &[u8], count: u64) {
        let mut start = Vec::with_capacity(last.len() + 1);
        start.extend_from_slice(last);
        start.push(0);
        let range = KeyRange { start: Bytes::from(start), end: range.end.clone() };
        let mut counts = self.counts.lock();
        if counts.len() == COUNTS_MAX {
            counts.pop_front();
        }
        counts.push_back(Remaining { revision, range, count });
    }

    /// The count that [`Self::remember_count`] left for this range.
    pub(super) fn known_count(&self, revision: i64, range: &KeyRange) -> Option<u64> {
        let counts = self.counts.lock();
        counts.iter().rev().find(|entry| entry.revision == revision && entry.range == *range).map(|entry| entry.count)
    }
}
