//! What the writer, the readers and the callers of one store share.

use std::sync::atomic::{AtomicI64, Ordering};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::counts::Counts;
use super::ephemeral::Ephemeral;
use super::lease::Leases;
use super::metrics::Metrics;
use super::options::SqliteOptions;
use super::recover::{Identity, Recovered};
use crate::hub::Hub;
use crate::store::{Event, KeyRange, Revision, StoreError};

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
    pub counts: Counts,
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
            counts: Counts::new(state.revision),
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

    /// Lets readers see everything up to `revision`, whose changes are `events`.
    pub(super) fn advance(&self, revision: Revision, events: &[Event]) {
        self.counts.changing(revision.0, events);
        self.revision.send_replace(revision.0);
    }
}
