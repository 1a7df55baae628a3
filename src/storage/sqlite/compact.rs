//! Forgetting history, a bounded step at a time.
//!
//! Each row names the one that it superseded. So to compact to revision C the writer only walks over the rows written
//! since the last compaction, up to C, and deletes their predecessors, and deletions older than C themselves. Reads
//! and watches below C are refused from the moment that C is announced, before the first row goes.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::oneshot;
use tokio::time::Instant;

use base::{Clock, Shutdown, SystemClock};

use super::desk::Desk;
use super::rows::{blob, last_id, revision_of, row_id};
use super::schema::{set_meta, sql};
use super::state::Shared;
use super::writer::{Command, Writer};
use crate::store::{Revision, StoreError};

/// Rows looked at in one step.
const STEP_ROWS: i64 = 1000;
/// Bytes of free pages given back to the file system in one step.
const STEP_BYTES: i64 = 1024 * 1024;
/// Bytes of free pages that are left for new rows.
const FREE_BYTES_MAX: i64 = 4 * 1024 * 1024;
const COMPACT: &str = "compact";

/// How far the writer has come.
pub(super) struct Compaction {
    /// Everything that was superseded up to here goes, or has gone, from disk, or nothing was.
    target: i64,
    /// The first row to look at next.
    cursor: i64,
    rows: bool,
    vacuum: bool,
    /// When the rows that are to go began to.
    began: Instant,
    waiting: Vec<oneshot::Sender<Result<(), StoreError>>>,
}

impl Compaction {
    /// Goes on where the last run stopped.
    pub(super) fn resume(target: i64, cursor: i64) -> Self {
        let rows = cursor > 0 && cursor <= last_id(target);
        Self { target, cursor, rows, vacuum: false, began: Instant::now(), waiting: Vec::new() }
    }

    /// Whether a step would find work.
    pub(super) fn pending(&self) -> bool {
        self.rows || self.vacuum
    }

    /// Tells `reply` when the rows are gone.
    pub(super) fn tell(&mut self, reply: oneshot::Sender<Result<(), StoreError>>) {
        if self.rows {
            self.waiting.push(reply);
        } else {
            // A caller that has gone does not want to know.
            drop(reply.send(Ok(())));
        }
    }

    /// Leaves the rest to the next compaction and lets those who wait try again; says whether there was any.
    pub(super) fn postpone(&mut self) -> bool {
        let pending = self.pending();
        self.rows = false;
        self.vacuum = false;
        for reply in self.waiting.drain(..) {
            drop(reply.send(Err(StoreError::Timeout)));
        }
        pending
    }
}

/// Announces that history before `revision` is gone.
pub(super) fn begin(writer: &mut Writer, revision: i64, keep_quiet: bool) -> Result<(), StoreError> {
    let shared = writer.shared.clone();
    if revision > writer.revision {
        return Err(StoreError::FutureRevision);
    }
    if revision <= shared.compacted() {
        return Err(StoreError::Compacted { compact_revision: Revision(shared.compacted()) });
    }
    if !keep_quiet || work_on_disk(&writer.conn, writer.compaction.target, revision)? {
        let cursor = writer.compaction.cursor;
        writer.transaction(|writer| {
            set_meta(&writer.conn, "compacted", revision)?;
            set_meta(&writer.conn, "cursor", cursor.max(1))
        })?;
        writer.compaction.cursor = cursor.max(1);
        if !writer.compaction.rows {
            writer.compaction.began = Instant::now();
        }
        writer.compaction.rows = true;
    }
    // Also without work, so that the next call need not look for it in the same rows again.
    writer.compaction.target = revision;
    shared.compacted.store(revision, Ordering::Release);
    shared.ephemeral.compact(revision);
    Ok(())
}

fn work_on_disk(conn: &Connection, after: i64, to: i64) -> Result<bool, StoreError> {
    conn.prepare_cached("SELECT EXISTS(SELECT 1 FROM rev WHERE id > ? AND id <= ? AND (prev <> 0 OR version = 0))")
        .and_then(|mut statement| statement.query_row((last_id(after), last_id(to)), |row| row.get(0)))
        .map_err(sql(COMPACT))
}

/// Does a bounded part of what is left.
pub(super) fn step(writer: &mut Writer) -> Result<(), StoreError> {
    if writer.compaction.rows {
        return step_rows(writer);
    }
    if writer.compaction.vacuum {
        return step_vacuum(writer);
    }
    Ok(())
}

fn step_rows(writer: &mut Writer) -> Result<(), StoreError> {
    let (target, cursor) = (writer.compaction.target, writer.compaction.cursor);
    let began = Instant::now();
    let (next, gone) = writer.transaction(|writer| {
        let (next, gone) = delete_superseded(&writer.conn, cursor, target).map_err(sql(COMPACT))?;
        set_meta(&writer.conn, "cursor", next.unwrap_or(row_id(target, 0)))?;
        Ok((next, gone))
    })?;
    writer.shared.metrics.compaction_step(began.elapsed(), gone);
    match next {
        Some(next) => writer.compaction.cursor = next,
        None => {
            // Deletions of the target's own revision are kept for watchers that begin there; the next round takes
            // them.
            writer.compaction.cursor = row_id(target, 0);
            writer.compaction.rows = false;
            writer.compaction.vacuum = true;
            writer.shared.metrics.compaction(writer.compaction.began.elapsed(), SystemClock.now().as_second());
            for reply in writer.compaction.waiting.drain(..) {
                drop(reply.send(Ok(())));
            }
        }
    }
    Ok(())
}

/// Looks at rows from `cursor` on; answers with the next row to look at, `None` at the end, and how many rows went.
fn delete_superseded(conn: &Connection, cursor: i64, target: i64) -> rusqlite::Result<(Option<i64>, u64)> {
    let mut look =
        conn.prepare_cached("SELECT id, version, prev, key FROM rev WHERE id >= ? AND id <= ? ORDER BY id LIMIT ?")?;
    let mut rows = look.query((cursor, last_id(target), STEP_ROWS))?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let (id, version, prev): (i64, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
        found.push((id, prev, if version == 0 { Some(blob(row, 3)?) } else { None }));
    }
    drop(rows);
    let mut delete = conn.prepare_cached("DELETE FROM rev WHERE id = ?")?;
    let mut forget = conn.prepare_cached("DELETE FROM live WHERE key = ? AND id = ?")?;
    let mut gone = 0;
    for (id, prev, deleted) in &found {
        if *prev != 0 {
            gone += delete.execute([prev])?;
        }
        if let Some(key) = deleted
            && revision_of(*id) < target
        {
            gone += delete.execute([id])?;
            forget.execute((&key[..], id))?;
        }
    }
    let full = found.len() as i64 == STEP_ROWS;
    Ok((found.last().filter(|_| full).map(|(id, ..)| id + 1), gone as u64))
}

fn step_vacuum(writer: &mut Writer) -> Result<(), StoreError> {
    let pragma = |name: &str| writer.conn.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let look = || Ok((pragma("freelist_count")?, pragma("page_count")?, pragma("page_size")?.max(1)));
    let (free, pages, page) = look().map_err(sql("look for free pages"))?;
    // A database whose keys change needs free pages again soon: give back only what is far too much.
    if free <= (FREE_BYTES_MAX / page).max(pages / 4) {
        writer.compaction.vacuum = false;
        return Ok(());
    }
    let step = (STEP_BYTES / page).max(1);
    let run = || -> rusqlite::Result<()> {
        let mut statement = writer.conn.prepare(&format!("PRAGMA incremental_vacuum({step})"))?;
        let mut rows = statement.query([])?;
        while rows.next()?.is_some() {}
        Ok(())
    };
    run().map_err(sql("give free pages back"))?;
    writer.shared.metrics.gave_back(step.min(free).unsigned_abs());
    Ok(())
}

/// Writes the database anew and folds the log into it.
pub(super) fn defragment(writer: &mut Writer) -> Result<(), StoreError> {
    writer.folding.forget_room();
    writer
        .conn
        .execute_batch("VACUUM")
        .and_then(|()| writer.conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())))
        .map_err(sql("defragment"))
}

/// How much history is kept: what is older than `history`, or more than `revisions` back, goes.
pub(super) struct Keep {
    pub history: Option<Duration>,
    pub revisions: Option<i64>,
}

/// Returns when more than `keep` and a tenth have been written since `start` and the last compaction.
async fn overflow(shared: &Shared, keep: Option<i64>, start: i64) {
    let Some(keep) = keep else { return std::future::pending().await };
    let base = start.max(shared.compacted());
    let mut revision = shared.revision.subscribe();
    // The sender lives as long as `shared`.
    drop(revision.wait_for(|newest| newest - base > keep + keep / 10).await);
}

/// Compacts as `keep` says; sleeps while nothing is written.
pub(super) async fn keep_history(shared: Arc<Shared>, desk: Weak<Desk>, keep: Keep, shutdown: Shutdown) {
    let start = shared.current();
    let history = keep.history.unwrap_or(Duration::MAX);
    let mut revision = shared.revision.subscribe();
    // When the store was at which revision.
    let mut marks: VecDeque<(Instant, i64)> = VecDeque::new();
    let interval = (history / 5).clamp(Duration::from_secs(1), Duration::from_secs(24 * 3600));
    loop {
        let wait = async {
            match marks.front() {
                None => revision.changed().await.is_ok(),
                Some(_) => {
                    tokio::time::sleep(interval).await;
                    true
                }
            }
        };
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            more = wait => if !more { return },
            () = overflow(&shared, keep.revisions, start) => {}
        }
        let now = Instant::now();
        let current = *revision.borrow_and_update();
        if marks.back().is_none_or(|(_, marked)| *marked < current) {
            marks.push_back((now, current));
        }
        let mut target = None;
        while marks.front().is_some_and(|(at, _)| now.duration_since(*at) >= history) {
            target = marks.pop_front().map(|(_, revision)| revision);
        }
        if let Some(keep) = keep.revisions {
            let oldest = current - keep;
            target = target.max((oldest > start.max(shared.compacted())).then_some(oldest));
        }
        let Some(target) = target.filter(|target| *target > shared.compacted()) else { continue };
        let (reply, answer) = oneshot::channel();
        let command = Command::Compact { revision: Revision(target), wait: false, keep_quiet: true, reply };
        let Some(desk) = desk.upgrade() else { return };
        if desk.leave(command).await.is_err() {
            return;
        }
        drop(desk);
        match answer.await {
            Ok(Ok(()) | Err(StoreError::Compacted { .. })) => {
                tracing::debug!(revision = target, "compacted");
            }
            Ok(Err(error)) => tracing::warn!(error = %base::chain(&error), "could not compact"),
            Err(_) => return,
        }
    }
}
