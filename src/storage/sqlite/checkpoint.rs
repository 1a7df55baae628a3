//! Folding the write-ahead log into the database beside the writer.
//!
//! A checkpoint of a full log takes as long as hundreds of commits. So a connection of its own does most of it while
//! the writer goes on, and the writer itself folds only what came in the meantime; after that its next commit begins
//! the log anew. Runs only when the log has grown by [`SqliteOptions::wal_bytes`](super::SqliteOptions), or by three
//! times the size of a larger database: folding writes each page of the database at most once, so it then writes at most
//! a third of what the log has. An idle store has nothing to fold.
//!
//! The log is made longer ahead of the commits, with zeros: a sync of bytes that the file has already is one write to
//! the disk, while one that makes it longer also waits for the file system's own journal (measured with 12 KB at a
//! time: 466 against 205 syncs a second). SQLite takes zeros behind the last frame for the end of the log.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rusqlite::{Connection, OpenFlags};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::schema::sql;
use crate::store::StoreError;

/// Bytes in a page of the kernel's cache of files.
const CACHE_PAGE: u64 = 4096;
/// Rounds beside the writer; each leaves what was written during the one before.
const ROUNDS: usize = 3;
/// How many times the size of the database the log may have before it is folded.
const TIMES_DATABASE: u64 = 3;
/// How many times [`SqliteOptions::wal_bytes`](super::SqliteOptions) it may have, whatever the size of the database.
/// The start reads the whole log: with 8 a database of 1 GB and its log of 209 MB opened in 1.3 s on a busy machine.
const MOST_TIMES: u64 = 4;
/// Bytes of a rest that the writer folds quickly itself.
const REST_BYTES: u64 = 512 * 1024;
const STEP: &str = "fold the log into the database";
/// The log's header, and what stands before the page in each frame (SQLite's file format, 4.1).
const LOG_HEADER: u64 = 32;
const FRAME_HEADER: u64 = 24;
/// Bytes that there is room for before a commit; a larger one makes the file longer itself.
const ROOM_BYTES: u64 = 256 * 1024;
/// By how much the log is made longer at a time: by half its length, between these. Each time the next sync takes longer,
/// so a log that grows is soon long enough, and one that is hardly used stays short.
const LEAST_STEP: u64 = 1024 * 1024;
const MOST_STEP: u64 = 8 * 1024 * 1024;
static ZEROS: [u8; CACHE_PAGE as usize] = [0; CACHE_PAGE as usize];

/// When to fold, and the work beside the writer if it is under way.
pub(super) struct Folding {
    path: PathBuf,
    page_bytes: u64,
    /// The least by which the log grows before it is folded, in bytes.
    wal_bytes: u64,
    /// Frames in the log after the last commit.
    frames: Arc<AtomicUsize>,
    limit: usize,
    /// Frames in the log when it was folded last.
    folded: usize,
    beside: Option<oneshot::Receiver<Result<(), StoreError>>>,
    room: Room,
}

/// The log's file, for making it longer. Closing it costs SQLite no lock: the locks of a log are in its index.
struct Room {
    path: PathBuf,
    /// The most by which the log is made longer at a time.
    most_step: u64,
    log: Option<File>,
    /// Length of the log that there is no need to ask for again.
    known: u64,
}

impl Room {
    /// Makes the log longer if a commit after its first `used` bytes could reach its end.
    fn ahead_of(&mut self, used: u64) -> io::Result<()> {
        let needed = used + ROOM_BYTES;
        if needed <= self.known {
            return Ok(());
        }
        let log = match &self.log {
            Some(log) => log,
            None => match OpenOptions::new().write(true).open(&self.path) {
                Ok(log) => self.log.insert(log),
                // The first commit makes it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                Err(error) => return Err(error),
            },
        };
        let length = log.metadata()?.len();
        self.known = length;
        if needed <= length {
            return Ok(());
        }
        // In whole steps, so that the file grows as seldom as it can.
        let longer = needed.max(length + (length / 2).clamp(LEAST_STEP, MOST_STEP).min(self.most_step));
        // A page at a time: Linux keeps what is written at once in one piece of its cache, and counts the whole piece as
        // written whenever a commit changes a part of it.
        let mut at = length;
        while at < longer {
            let end = longer.min((at / CACHE_PAGE + 1) * CACHE_PAGE);
            let zeros = &ZEROS[..usize::try_from(end - at).unwrap_or(ZEROS.len())];
            if let Err(error) = log.write_all_at(zeros, at) {
                // What is left of a full disk is for the commits.
                log.set_len(length)?;
                return Err(error);
            }
            at = end;
        }
        self.known = longer;
        Ok(())
    }
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
        let page: i64 = conn.pragma_query_value(None, "page_size", |row| row.get(0)).map_err(sql(STEP))?;
        let page_bytes = page.unsigned_abs().max(1);
        let limit = set_limit(conn, page_bytes, wal_bytes)?;
        let mut log = path.as_os_str().to_owned();
        log.push("-wal");
        let room = Room { path: log.into(), most_step: (wal_bytes / 2).max(ROOM_BYTES), log: None, known: 0 };
        Ok(Self { path: path.to_owned(), page_bytes, wal_bytes, frames, limit, folded: 0, beside: None, room })
    }

    /// To be called before a commit. That there is no room is no failure: the commit finds out itself.
    pub(super) fn make_room(&mut self) {
        let frames = self.frames.load(Ordering::Relaxed) as u64;
        if let Err(error) = self.room.ahead_of(LOG_HEADER + frames * (FRAME_HEADER + self.page_bytes)) {
            tracing::debug!(%error, "could not make the log longer ahead of the commits");
        }
    }

    /// To be called when something else than a commit may have made the log shorter.
    pub(super) fn forget_room(&mut self) {
        self.room.known = 0;
    }

    /// Starts the work beside the writer if the log has grown enough; `ended` is called when it has ended.
    pub(super) fn start(&mut self, runtime: &Handle, ended: impl FnOnce() + Send + 'static) {
        let frames = self.frames.load(Ordering::Relaxed);
        if frames < self.folded {
            self.folded = 0;
        }
        if self.beside.is_none() && frames - self.folded >= self.limit {
            let (path, rest) = (self.path.clone(), REST_BYTES / self.page_bytes);
            let (sender, beside) = oneshot::channel();
            self.beside = Some(beside);
            drop(runtime.spawn_blocking(move || {
                // A writer that has gone does not want to know.
                drop(sender.send(fold_beside(&path, rest)));
                ended();
            }));
        }
    }

    /// Whether the work beside the writer is done and only waits to be noticed.
    pub(super) fn finished(&self) -> bool {
        self.beside.as_ref().is_some_and(|beside| !beside.is_empty())
    }

    /// Notices the end of the work beside the writer; says whether there was one.
    pub(super) fn take_finished(&mut self) -> bool {
        let Some(beside) = &mut self.beside else { return false };
        match beside.try_recv() {
            Err(oneshot::error::TryRecvError::Empty) => return false,
            Err(oneshot::error::TryRecvError::Closed) => tracing::error!("the work beside the writer died"),
            Ok(result) => told(result),
        }
        self.beside = None;
        true
    }

    /// Waits for the work beside the writer, if there is any.
    pub(super) async fn join(&mut self) {
        if let Some(beside) = self.beside.take()
            && let Ok(result) = beside.await
        {
            told(result);
        }
    }

    /// Folds the rest, on the writer's connection between two commits.
    pub(super) fn fold_rest(&mut self, conn: &Connection) {
        match passive(conn).and_then(|_| set_limit(conn, self.page_bytes, self.wal_bytes)) {
            Ok(limit) => self.limit = limit,
            Err(error) => {
                tracing::warn!(error = %base::chain(&error), "could not fold the log into the database");
            }
        }
        self.folded = self.frames.load(Ordering::Relaxed);
    }
}

/// After an error the log stays as it is and the next commits try again.
fn told(result: Result<(), StoreError>) {
    if let Err(error) = result {
        tracing::warn!(error = %base::chain(&error), "could not fold the log into the database");
    }
}

/// By how many frames the log may grow, for the size that the database has now. A log twice as large is cut back when
/// it begins anew.
fn set_limit(conn: &Connection, page_bytes: u64, wal_bytes: u64) -> Result<usize, StoreError> {
    let pages: i64 = conn.pragma_query_value(None, "page_count", |row| row.get(0)).map_err(sql(STEP))?;
    let most = wal_bytes.saturating_mul(MOST_TIMES);
    let limit = pages.unsigned_abs().saturating_mul(TIMES_DATABASE * page_bytes).clamp(wal_bytes, most);
    let cut = i64::try_from(limit.saturating_mul(2)).unwrap_or(i64::MAX);
    // Answers with the limit in force.
    conn.query_row(&format!("PRAGMA journal_size_limit = {cut}"), [], |_| Ok(())).map_err(sql(STEP))?;
    Ok(usize::try_from(limit / page_bytes).unwrap_or(usize::MAX).max(1))
}

/// `rest`: frames that may be left.
fn fold_beside(path: &Path, rest: u64) -> Result<(), StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags).map_err(sql(STEP))?;
    for _ in 0..ROUNDS {
        if passive(&conn)?.unsigned_abs() <= rest {
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
