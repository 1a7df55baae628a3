//! Folding the write-ahead log into the database beside the writer.
//!
//! A checkpoint of a full log takes as long as hundreds of commits. So a connection of its own does most of it while
//! the writer goes on, and the writer itself folds only what came in the meantime; after that its next commit begins
//! the log anew. Runs only when the log has grown by [`SqliteOptions::wal_bytes`](super::SqliteOptions): an idle store
//! has nothing to fold.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rusqlite::{Connection, OpenFlags};
use tokio::task::JoinHandle;

use super::schema::sql;
use crate::store::StoreError;

/// Bytes in a page, and so in a frame of the log but for its header.
const PAGE_BYTES: u64 = 4096;
/// Rounds beside the writer; each leaves what was written during the one before.
const ROUNDS: usize = 3;
/// A rest that the writer folds quickly itself.
const REST_FRAMES: i64 = 128;
const STEP: &str = "fold the log into the database";

/// When to fold, and the work beside the writer if it is under way.
pub(super) struct Folding {
    path: PathBuf,
    /// Frames in the log after the last commit.
    frames: Arc<AtomicUsize>,
    limit: usize,
    /// Frames in the log when it was folded last.
    folded: usize,
    beside: Option<JoinHandle<Result<(), StoreError>>>,
}

impl Folding {
    /// Takes over from SQLite's own checkpoints on the writer's connection.
    pub(super) fn new(conn: &mut Connection, path: &Path, wal_bytes: u64) -> Result<Self, StoreError> {
        let frames = Arc::new(AtomicUsize::new(0));
        let counted = frames.clone();
        conn.wal_hook(Some(move |_: &mut _, pages| {
            counted.store(usize::try_from(pages).unwrap_or(0), Ordering::Relaxed);
            Ok(())
        }))
        .map_err(sql("watch the size of the log"))?;
        let limit = usize::try_from(wal_bytes / PAGE_BYTES).unwrap_or(usize::MAX).max(1);
        Ok(Self { path: path.to_owned(), frames, limit, folded: 0, beside: None })
    }

    /// Starts the work beside the writer if the log has grown enough.
    pub(super) fn start(&mut self) {
        let frames = self.frames.load(Ordering::Relaxed);
        if frames < self.folded {
            self.folded = 0;
        }
        if self.beside.is_none() && frames - self.folded >= self.limit {
            let path = self.path.clone();
            self.beside = Some(tokio::task::spawn_blocking(move || fold_beside(&path)));
        }
    }

    /// Returns when the work beside the writer has ended; never if there is none.
    pub(super) async fn ended(&mut self) {
        let Some(beside) = &mut self.beside else { return std::future::pending().await };
        let result = beside.await;
        self.beside = None;
        let error = match result {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error,
            Err(error) => StoreError::Engine { step: STEP, source: Box::new(error) },
        };
        // The log stays as it is and the next commits try again.
        tracing::warn!(error = %base::chain(&error), "could not fold the log into the database");
    }

    /// Whether the work beside the writer is done and only waits to be noticed.
    pub(super) fn finished(&self) -> bool {
        self.beside.as_ref().is_some_and(JoinHandle::is_finished)
    }

    /// Waits for the work beside the writer, if there is any.
    pub(super) async fn join(&mut self) {
        if self.beside.is_some() {
            self.ended().await;
        }
    }

    /// Folds the rest, on the writer's connection between two commits.
    pub(super) fn fold_rest(&mut self, conn: &Connection) {
        if let Err(error) = passive(conn) {
            tracing::warn!(error = %base::chain(&error), "could not fold the log into the database");
        }
        self.folded = self.frames.load(Ordering::Relaxed);
    }
}

fn fold_beside(path: &Path) -> Result<(), StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags).map_err(sql(STEP))?;
    for _ in 0..ROUNDS {
        if passive(&conn)? <= REST_FRAMES {
            break;
        }
    }
    Ok(())
}

/// Folds what no reader needs any more; answers with the frames that were written meanwhile.
fn passive(conn: &Connection) -> Result<i64, StoreError> {
    let checkpoint = || conn.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| Ok((row.get(1)?, row.get(2)?)));
    let (frames, folded): (i64, i64) = checkpoint().map_err(sql(STEP))?;
    Ok(frames - folded)
}
