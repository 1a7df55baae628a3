//! Reads of single keys as they are now.
//!
//! They take a few microseconds each, less than it takes to wake a thread for them. So they wait in one queue, and one
//! blocking thread answers them one after the other until the queue is empty; those that have come in the meantime
//! share a snapshot. A snapshot is never older than the newest revision at the time when the last of its reads came.
//! While the queue is empty no thread waits for it: the next caller begins the work.
//!
//! The queue is bounded; when it is full, callers wait.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use rusqlite::Connection;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use super::pool::{Readers, snapshot};
use super::rows::{Row, View, last_id};
use super::state::Shared;
use crate::store::{KeyValue, Revision, StoreError};

/// Reads that may wait.
const QUEUE_LEN: usize = 1024;
/// Reads that share a snapshot at most.
const BATCH_LEN: usize = 64;

/// The key, if it exists, and the store's newest revision when it was looked at.
pub(super) type Answer = Result<(Option<KeyValue>, Revision), StoreError>;

/// One read.
struct Point {
    key: Bytes,
    /// The value is not wanted.
    key_only: bool,
    /// Dropped without an answer if there was no connection to read on: the caller may try otherwise.
    reply: oneshot::Sender<Answer>,
}

/// The queue of reads.
pub(super) struct Points {
    queue: mpsc::Sender<Point>,
    /// The other end, while nobody works on it.
    idle: Mutex<Option<mpsc::Receiver<Point>>>,
    shared: Arc<Shared>,
    readers: Arc<Readers>,
    runtime: Handle,
}

impl Points {
    pub(super) fn new(shared: Arc<Shared>, readers: Arc<Readers>) -> Arc<Self> {
        let (queue, asked) = mpsc::channel(QUEUE_LEN);
        Arc::new(Self { queue, idle: Mutex::new(Some(asked)), shared, readers, runtime: Handle::current() })
    }

    /// Reads a key; waits while the queue is full. `None`: the caller may try otherwise.
    pub(super) async fn read(self: &Arc<Self>, key: Bytes, key_only: bool) -> Option<Answer> {
        let (reply, answer) = oneshot::channel();
        self.queue.send(Point { key, key_only, reply }).await.ok()?;
        // Not in the condition below: the lock would be held all along.
        let asked = self.idle.lock().take();
        if let Some(asked) = asked {
            let points = self.clone();
            match self.readers.permit_at_once() {
                Some(permit) => drop(self.runtime.spawn_blocking(move || points.work(asked, permit))),
                None => drop(self.runtime.spawn(async move {
                    // After the shutdown the queue goes with this.
                    let Ok(permit) = points.readers.permit().await else { return };
                    let runtime = points.runtime.clone();
                    drop(runtime.spawn_blocking(move || points.work(asked, permit)));
                })),
            }
        }
        answer.await.ok()
    }

    /// Answers all that wait. Blocks.
    fn work(&self, mut asked: mpsc::Receiver<Point>, _permit: OwnedSemaphorePermit) {
        let mut batch = Vec::with_capacity(BATCH_LEN);
        loop {
            let work = self.readers.lend(|conn| {
                loop {
                    while batch.len() < BATCH_LEN
                        && let Ok(point) = asked.try_recv()
                    {
                        batch.push(point);
                    }
                    if batch.is_empty() || self.readers.closed() {
                        return Ok(());
                    }
                    answer(conn, &self.shared, &mut batch)?;
                }
            });
            if let Err(error) = work {
                // The callers try by themselves and tell if they fail too.
                tracing::debug!(error = %base::chain(&error), "could not read single keys together");
                batch.clear();
            }
            let mut idle = self.idle.lock();
            // What came after the last look and before the lock; who asks later finds the queue idle.
            match asked.try_recv() {
                Ok(point) if !self.readers.closed() => batch.push(point),
                _ => {
                    *idle = Some(asked);
                    return;
                }
            }
        }
    }
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
