//! Reads of single keys as they are now.
//!
//! They take a few microseconds each, less than it takes to wake a thread for them. So they wait in one queue, and one
//! blocking thread answers them one after the other until the queue is empty; those that have come in the meantime
//! share a snapshot. A snapshot is never older than the newest revision at the time when the last of its reads came.
//!
//! The queue is bounded; when it is full, callers wait.

use std::sync::Arc;

use bytes::Bytes;
use rusqlite::Connection;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use base::Shutdown;

use super::pool::{Readers, snapshot};
use super::rows::{Row, View, last_id};
use super::state::Shared;
use crate::store::{KeyValue, Revision, StoreError};

/// Reads that may wait.
pub(super) const QUEUE_LEN: usize = 1024;
/// Reads that share a snapshot at most.
const BATCH_LEN: usize = 64;

/// The key, if it exists, and the store's newest revision when it was looked at.
pub(super) type Answer = Result<(Option<KeyValue>, Revision), StoreError>;

/// One read.
pub(super) struct Point {
    pub key: Bytes,
    /// The value is not wanted.
    pub key_only: bool,
    /// Dropped without an answer if there was no connection to read on: the caller may try otherwise.
    pub reply: oneshot::Sender<Answer>,
}

/// Answers reads until the shutdown.
pub(super) async fn serve(
    shared: Arc<Shared>,
    readers: Arc<Readers>,
    mut queue: mpsc::Receiver<Point>,
    shutdown: Shutdown,
) {
    loop {
        let first = tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            first = queue.recv() => match first {
                Some(first) => first,
                None => return,
            },
        };
        let Ok(permit) = readers.permit().await else { return };
        let (shared, readers) = (shared.clone(), readers.clone());
        match tokio::task::spawn_blocking(move || drain(&shared, &readers, first, queue, permit)).await {
            Ok(back) => queue = back,
            Err(error) => {
                // From now on each caller reads by itself.
                tracing::error!(error = %base::chain(&error), "the reader of single keys died");
                return;
            }
        }
    }
}

/// Answers `first` and all that wait; gives the queue back. Blocks.
fn drain(
    shared: &Shared,
    readers: &Readers,
    first: Point,
    mut queue: mpsc::Receiver<Point>,
    _permit: OwnedSemaphorePermit,
) -> mpsc::Receiver<Point> {
    let mut batch = Vec::with_capacity(BATCH_LEN);
    batch.push(first);
    let work = readers.lend(|conn| {
        while !batch.is_empty() && !readers.closed() {
            while batch.len() < BATCH_LEN
                && let Ok(point) = queue.try_recv()
            {
                batch.push(point);
            }
            answer(conn, shared, &mut batch)?;
            batch.extend(queue.try_recv().ok());
        }
        Ok(())
    });
    if let Err(error) = work {
        // The callers try by themselves and tell if they fail too.
        tracing::debug!(error = %base::chain(&error), "could not read single keys together");
    }
    queue
}

fn answer(conn: &Connection, shared: &Shared, batch: &mut Vec<Point>) -> Result<(), StoreError> {
    // After all of the batch have come, and before the snapshot is taken.
    let at = shared.current();
    snapshot(conn, |conn| {
        let view = View { conn, ephemeral: &shared.ephemeral, bound: last_id(at) };
        for Point { key, key_only, reply } in batch.drain(..) {
            let read = view.newest_row(&key, key_only).map(|row| (row.and_then(Row::alive), Revision(at)));
            // A caller that has gone does not want to know.
            drop(reply.send(read));
        }
        Ok(())
    })
}
