//! The SQLite engine: etcd's model in one file, in process.
//!
//! One writer owns the write connection and commits in groups; reads run on a few read connections as of the newest
//! published revision and never wait for the writer; watches are served by the [`Hub`](crate::hub::Hub). Only this
//! process may have the database open.
//!
//! Queues: the writer's (`SqliteOptions::queue_len` and `queue_bytes`; callers wait when it is full), that of the reads
//! of single keys (`points::QUEUE_LEN`; callers wait), and one for each watch (`SqliteOptions::watch_queue_len`; the
//! watch ends with `Lagged` when it is full).
//!
//! When the store is idle nothing runs and nothing is written.

mod apply;
mod backup;
mod check;
mod checkpoint;
mod compact;
mod counts;
mod desk;
mod ephemeral;
mod etcd_file;
mod etcd_form;
mod expiry;
mod hash;
mod history;
mod lease;
mod metrics;
mod options;
mod points;
mod pool;
mod recover;
mod restore;
mod rows;
mod schema;
mod state;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use rusqlite::Connection;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::task::TaskTracker;

use base::Shutdown;

pub use hash::KvHash;
pub use lease::TTL_MAX;
pub(crate) use metrics::Page;
pub use options::SqliteOptions;
pub use recover::Identity;
pub use restore::{Restored, restore};
pub use schema::OpenError;

use crate::hub::Attach;
use crate::store::{
    KeyRange, LeaseId, LeaseStatus, RangeOptions, RangeResult, Revision, Store, StoreError, Txn, TxnResult, Watch,
    WatchMessage, WatchOptions,
};
use desk::Desk;
use points::Points;
use pool::Readers;
use rows::{View, last_id};
use state::Shared;
use writer::{Command, TxnCommand, Writer};

/// Bytes that one permit of the queue's room stands for.
const ROOM_UNIT: usize = 1024;

/// A [`Store`] in an SQLite database.
pub struct SqliteStore {
    shared: Arc<Shared>,
    readers: Arc<Readers>,
    desk: Arc<Desk>,
    points: Arc<Points>,
    room: Arc<Semaphore>,
    tasks: TaskTracker,
    shutdown: Shutdown,
    path: PathBuf,
}

impl SqliteStore {
    /// Opens or creates the database at `path` and starts its tasks on the current runtime. After `shutdown` no new
    /// work is taken, what waits is answered, what was in memory only is written, and then [`Self::closed`] returns.
    pub async fn open(path: &Path, options: SqliteOptions, shutdown: Shutdown) -> Result<Arc<Self>, StoreError> {
        let open_path = path.to_owned();
        let (queue_len, queue_bytes) = (options.queue_len, options.queue_bytes);
        let (history, revisions) = (options.history, options.history_revisions);
        let readers = Readers::new(path.to_owned(), options.readers);
        let opening = tokio::task::spawn_blocking(move || {
            open_writer(&open_path, options).map_err(|error| schema::while_opening(error, &open_path))
        });
        let (writer, unchecked) = opening
            .await
            .map_err(|error| StoreError::Engine { step: "open the database", source: Box::new(error) })??;
        let shared = writer.shared.clone();
        let desk = Desk::new(writer, queue_len);
        let tasks = TaskTracker::new();
        tasks.spawn(expiry::expire(shared.clone(), Arc::downgrade(&desk), shutdown.clone()));
        if history.is_some() || revisions.is_some() {
            let keep = compact::Keep { history, revisions };
            tasks.spawn(compact::keep_history(shared.clone(), Arc::downgrade(&desk), keep, shutdown.clone()));
        }
        if unchecked {
            tasks.spawn(check_in_use(shared.clone(), readers.clone(), path.to_owned()));
        }
        let points = Points::new(shared.clone(), readers.clone());
        let (closing, stopping) = (readers.clone(), shutdown.clone());
        tasks.spawn(async move {
            stopping.cancelled().await;
            closing.close();
        });
        tasks.spawn(desk::close_at_end(desk.clone(), shutdown.clone()));
        tasks.close();
        let room = Arc::new(Semaphore::new((queue_bytes / ROOM_UNIT).max(1)));
        Ok(Arc::new(Self { shared, readers, desk, points, room, tasks, shutdown, path: path.to_owned() }))
    }

    /// Returns when the store has stopped and its files are closed.
    pub async fn closed(&self) {
        self.shared.stopped.cancelled().await;
        self.tasks.wait().await;
    }

    /// Returns when the disk has failed: the store does not answer writes any more and the process should end.
    pub async fn failed(&self) {
        self.shared.failed.cancelled().await;
    }

    /// Where the database is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where its write-ahead log is.
    fn log_path(&self) -> PathBuf {
        let mut log = self.path.clone().into_os_string();
        log.push("-wal");
        log.into()
    }

    /// The numbers that this database keeps for its life.
    pub fn identity(&self) -> Identity {
        self.shared.identity
    }

    /// The settings that the store was opened with.
    pub fn options(&self) -> &SqliteOptions {
        &self.shared.options
    }

    /// History before this revision is gone.
    pub fn compacted(&self) -> Revision {
        Revision(self.shared.compacted())
    }

    /// Watches that are up to date.
    pub fn watchers(&self) -> usize {
        self.shared.hub.watchers()
    }

    /// Writes that the disk did not take, or that came when the store took none any more.
    pub fn failed_writes(&self) -> u64 {
        self.shared.metrics.failures()
    }

    /// Commands that wait for the writer.
    pub fn waiting_writes(&self) -> usize {
        self.desk.waiting()
    }

    /// As [`Store::compact`], and returns when the rows are gone from the database.
    pub async fn compact_physical(&self, revision: Revision) -> Result<(), StoreError> {
        self.ask(|reply| Command::Compact { revision, wait: true, keep_quiet: false, reply }).await
    }

    /// Writes the database anew without its free pages. Writes wait meanwhile.
    pub async fn defragment(&self) -> Result<(), StoreError> {
        self.ask(|reply| Command::Defragment { reply }).await
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Command,
    ) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.desk.leave(command(reply)).await?;
        answer.await.map_err(|_| StoreError::Stopped)?
    }

    async fn range_at(&self, range: &KeyRange, options: &RangeOptions, at: i64) -> Result<RangeResult, StoreError> {
        let revision = if options.revision.0 > 0 { options.revision } else { Revision(at) };
        let lost = self.shared.touches_lost(range);
        if options.revision.0 > 0 {
            self.shared.check_revision(revision, at, lost)?;
        }
        let read = if self.shared.ephemeral.covers_all(range) {
            (self.shared.ephemeral.read(range, options, revision.0, Revision(at)), None)
        } else {
            let (shared, range, options) = (self.shared.clone(), range.clone(), options.clone());
            let read = self.readers.read(move |conn: &Connection| {
                let view = View { conn, ephemeral: &shared.ephemeral, bound: last_id(revision.0) };
                let known = shared.counts.known(revision.0, &range);
                apply::read_range(&view, &range, &options, Revision(at), known).map(|result| (result, known))
            });
            read.await?
        };
        let (result, known) = read;
        // Looked at after the read: rows are deleted only after this number has been raised. The newest state, on the
        // other hand, was complete when this process started.
        let oldest = if options.revision.0 > 0 { self.shared.oldest(lost) } else { self.shared.compacted() };
        if revision.0 < oldest {
            return Err(StoreError::Compacted { compact_revision: Revision(oldest) });
        }
        if result.more
            && let Some(last) = result.kvs.last()
        {
            let left = result.count - result.kvs.len() as u64;
            self.shared.counts.remember(revision.0, counts::rest(range, &last.key), left);
            if known.is_none() {
                self.shared.counts.remember(revision.0, range.clone(), result.count);
            }
        }
        Ok(result)
    }

    /// One key as it is now; `None`: ask otherwise.
    async fn point(&self, range: &KeyRange, options: &RangeOptions) -> Option<Result<RangeResult, StoreError>> {
        let key_only = options.keys_only || options.count_only;
        let (kv, revision) = match self.points.read(range.start.clone(), key_only).await? {
            Ok(found) => found,
            Err(error) => return Some(Err(error)),
        };
        let compacted = self.shared.compacted();
        if revision.0 < compacted {
            return Some(Err(StoreError::Compacted { compact_revision: Revision(compacted) }));
        }
        let count = kv.is_some() as u64;
        let kvs = if options.count_only { Vec::new() } else { kv.into_iter().collect() };
        Some(Ok(RangeResult { kvs, count, more: false, revision }))
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        self.desk.abandon();
    }
}

/// Checks the whole database while it is in use. If it is damaged, the next start is told and this one ends.
async fn check_in_use(shared: Arc<Shared>, readers: Arc<Readers>, path: PathBuf) {
    let checked = path.clone();
    let result = readers.read(move |conn| schema::quick_check(conn, &checked)).await;
    match result {
        Ok(()) => tracing::info!("the database is whole"),
        Err(StoreError::Stopped) => {}
        Err(error) => match OpenError::of(&error) {
            Some(OpenError::Damaged { report, .. }) => {
                tracing::error!(error = %base::chain(&error), "the database is damaged: storage stops");
                if let Err(error) = restore::condemn(&path, report) {
                    tracing::error!(%error, "could not leave word of the damage for the next start");
                }
                shared.failed.cancel();
            }
            _ => tracing::warn!(error = %base::chain(&error), "could not check the database"),
        },
    }
}

/// The writer, and whether the database is still to be checked.
fn open_writer(path: &Path, options: SqliteOptions) -> Result<(Writer, bool), StoreError> {
    let mut opened = schema::open(path, &options)?;
    let folding = checkpoint::Folding::new(&mut opened.conn, path, options.wal_bytes)?;
    let state = recover::recover(&opened.conn, path, &options.ephemeral_prefixes)?;
    tracing::info!(path = %path.display(), revision = state.revision, "opened the database");
    backup::remove_stale_copies(path);
    let (revision, compaction) = (state.revision, compact::Compaction::resume(state.compacted, state.cursor));
    let unchecked = state.unchecked;
    let shared = Arc::new(Shared::new(options, state));
    let writer =
        Writer { conn: opened.conn, shared, revision, ceiling: revision, compaction, folding, lock: opened.lock };
    Ok((writer, unchecked))
}

#[async_trait]
impl Store for SqliteStore {
    async fn range(&self, range: KeyRange, options: RangeOptions) -> Result<RangeResult, StoreError> {
        self.shared.metrics.range();
        let one = range.end.is_none() && options.revision.0 <= 0 && !self.shared.ephemeral.covers(&range.start);
        loop {
            let at_once = if one { self.point(&range, &options).await } else { None };
            let result = match at_once {
                Some(result) => result,
                None => self.range_at(&range, &options, self.shared.current()).await,
            };
            match result {
                // The newest state was compacted while it was read: there is a newer one.
                Err(StoreError::Compacted { .. }) if options.revision.0 <= 0 => continue,
                result => return result,
            }
        }
    }

    async fn txn(&self, txn: Txn) -> Result<TxnResult, StoreError> {
        check::check_txn(&txn, &self.shared.options)?;
        let units = (check::size(&txn) / ROOM_UNIT + 1).min((self.shared.options.queue_bytes / ROOM_UNIT).max(1));
        let room = self.room.clone().acquire_many_owned(units as u32).await.map_err(|_| StoreError::Stopped)?;
        self.ask(|reply| Command::Txn(TxnCommand { txn, reply, _room: room })).await
    }

    async fn watch(&self, range: KeyRange, options: WatchOptions) -> Result<Watch, StoreError> {
        if self.shutdown.is_cancelled() {
            return Err(StoreError::Stopped);
        }
        // One place of the queue is kept for the word that the watcher was too slow.
        let (sender, messages) = mpsc::channel::<WatchMessage>(self.shared.options.watch_queue_len.max(1) + 1);
        let seen = (options.start.0 > 0).then_some(Revision(options.start.0 - 1));
        match self.shared.hub.attach(&range, options.prev_kv, options.start, seen, sender) {
            Attach::Done(revision) => Ok(Watch { messages: messages.into(), revision }),
            Attach::Behind(revision, sender) => {
                let (shared, readers) = (self.shared.clone(), self.readers.clone());
                self.tasks.spawn(history::catch_up(shared, readers, range, options, sender, self.shutdown.clone()));
                Ok(Watch { messages: messages.into(), revision })
            }
        }
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        Ok(Revision(self.shared.current()))
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.ask(|reply| Command::Compact { revision, wait: false, keep_quiet: false, reply }).await
    }

    async fn request_progress(&self) -> Result<(), StoreError> {
        self.shared.hub.progress();
        Ok(())
    }

    async fn lease_grant(&self, id: LeaseId, ttl: i64) -> Result<LeaseStatus, StoreError> {
        let status = self.shared.leases.grant(id, ttl)?;
        if self.shared.options.leases_on_disk
            && let Err(error) = self.ask(|reply| Command::KeepLease { id: status.id, reply }).await
        {
            self.shared.leases.remove(status.id);
            return Err(error);
        }
        Ok(status)
    }

    async fn lease_revoke(&self, id: LeaseId) -> Result<(), StoreError> {
        self.ask(|reply| Command::Revoke { id, due_only: false, reply }).await.map(|_| ())
    }

    async fn lease_keep_alive(&self, id: LeaseId) -> Result<i64, StoreError> {
        self.shared.leases.keep_alive(id)
    }

    async fn lease_status(&self, id: LeaseId, keys: bool) -> Result<LeaseStatus, StoreError> {
        Ok(self.shared.leases.status(id, keys))
    }

    async fn leases(&self) -> Result<Vec<LeaseId>, StoreError> {
        Ok(self.shared.leases.list())
    }

    async fn size(&self) -> Result<(u64, u64), StoreError> {
        let log = self.log_path();
        self.readers
            .read(move |conn| {
                let pragma = |name: &str| {
                    conn.pragma_query_value(None, name, |row| row.get::<_, i64>(0))
                        .map(|number| number.max(0) as u64)
                        .map_err(schema::sql("read the size of the database"))
                };
                let page = pragma("page_size")?;
                let (pages, free) = (pragma("page_count")?, pragma("freelist_count")?);
                // Without a log there is nothing to add.
                let log = std::fs::metadata(&log).map_or(0, |log| log.len());
                Ok((pages * page + log, (pages - free.min(pages)) * page))
            })
            .await
    }

    async fn metrics(&self, page: &mut String) -> Result<(), StoreError> {
        metrics::write(self, page).await
    }
}
