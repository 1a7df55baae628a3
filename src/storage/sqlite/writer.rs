//! The one owner of the write connection.
//!
//! All transactions that wait share one SQLite transaction and one fsync. A transaction that is refused leaves no
//! trace in it; if the disk refuses the whole batch, its transactions are tried again one by one, so that only those
//! that need the disk fail. After the commit: revision, leases, watchers, replies, in this order.
//!
//! Between batches the writer does one bounded step of compaction if there is any to do.

use std::fs::File;
use std::sync::Arc;

use rusqlite::Connection;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::Instant;

use super::apply::{Apply, Outcome};
use super::checkpoint::Folding;
use super::compact::Compaction;
use super::schema::{set_meta, sql};
use super::state::Shared;
use crate::store::{Event, LeaseId, Revision, StoreError, Txn, TxnResult};

/// Revisions reserved on disk at a time for writes that go to memory only.
const RESERVE: i64 = 1 << 20;

/// Work for the writer.
pub(super) enum Command {
    Txn(TxnCommand),
    /// Ends a lease and deletes its keys; with `due_only`, if its time is over.
    Revoke {
        id: LeaseId,
        due_only: bool,
        reply: oneshot::Sender<Result<Revision, StoreError>>,
    },
    /// Writes a lease to disk.
    KeepLease {
        id: LeaseId,
        reply: oneshot::Sender<Result<(), StoreError>>,
    },
    /// `wait`: answer when the rows are gone. `keep_quiet`: write nothing if nothing on disk is to be forgotten.
    Compact {
        revision: Revision,
        wait: bool,
        keep_quiet: bool,
        reply: oneshot::Sender<Result<(), StoreError>>,
    },
    /// Writes the database anew without its free pages.
    Defragment {
        reply: oneshot::Sender<Result<(), StoreError>>,
    },
}

pub(super) struct TxnCommand {
    pub txn: Txn,
    pub reply: oneshot::Sender<Result<TxnResult, StoreError>>,
    /// The room that the request takes in the queue.
    pub _room: OwnedSemaphorePermit,
}

pub(super) struct Writer {
    pub conn: Connection,
    pub shared: Arc<Shared>,
    /// The newest revision given out.
    pub revision: i64,
    /// Up to here revisions may be given to writes in memory without a word on disk.
    pub ceiling: i64,
    pub compaction: Compaction,
    pub folding: Folding,
    pub lock: File,
}

/// What a batch came to.
struct Done {
    outcomes: Vec<Result<TxnResult, StoreError>>,
    published: Vec<(Revision, Vec<Event>)>,
}

impl Writer {
    /// Does what is asked, and a bounded part of what compaction has left. `folded`: the log has just been folded but
    /// for a rest.
    pub(super) fn step(&mut self, commands: Vec<Command>, folded: bool) {
        if folded {
            self.folding.fold_rest(&self.conn);
        }
        self.commands(commands);
        if let Err(error) = super::compact::step(self)
            && self.compaction.postpone()
        {
            tracing::warn!(error = %base::chain(&error), "compaction stopped");
        }
    }

    /// Does what is still asked and closes the database.
    pub(super) fn stop(mut self, rest: Vec<Command>) {
        self.commands(rest);
        if self.shared.failed.is_cancelled() {
            return;
        }
        if let Err(error) = self.put_to_rest() {
            tracing::error!(error = %base::chain(&error), "could not write the last state to disk");
        }
        let Self { conn, lock, .. } = self;
        if let Err((_, error)) = conn.close() {
            tracing::error!(%error, "could not close the database");
        }
        drop(lock);
    }

    fn commands(&mut self, commands: Vec<Command>) {
        let mut txns = Vec::new();
        for command in commands {
            if let Command::Txn(txn) = command {
                txns.push(txn);
                continue;
            }
            self.commit(std::mem::take(&mut txns));
            self.control(command);
        }
        self.commit(txns);
    }

    fn control(&mut self, command: Command) {
        match command {
            Command::Txn(txn) => self.commit(vec![txn]),
            // A caller that has gone does not want to know.
            Command::Revoke { id, due_only, reply } => drop(reply.send(self.revoke(id, due_only))),
            Command::KeepLease { id, reply } => drop(reply.send(self.keep_lease(id))),
            Command::Compact { revision, wait, keep_quiet, reply } => {
                match super::compact::begin(self, revision.0, keep_quiet) {
                    Ok(()) if wait => self.compaction.tell(reply),
                    result => drop(reply.send(result)),
                }
            }
            Command::Defragment { reply } => drop(reply.send(super::compact::defragment(self))),
        }
    }

    fn commit(&mut self, batch: Vec<TxnCommand>) {
        if batch.is_empty() {
            return;
        }
        match self.run_batch(&batch) {
            Ok(done) => {
                self.shared.metrics.batch(batch.len());
                self.publish(done.published);
                for (command, outcome) in batch.into_iter().zip(done.outcomes) {
                    // A caller that has gone does not want to know.
                    drop(command.reply.send(outcome));
                }
            }
            Err(error) if batch.len() == 1 || self.shared.failed.is_cancelled() => {
                let mut error = Some(error);
                for command in batch {
                    self.shared.metrics.failed();
                    drop(command.reply.send(Err(error.take().unwrap_or(StoreError::Stopped))));
                }
            }
            Err(_) => batch.into_iter().for_each(|command| self.commit(vec![command])),
        }
    }

    /// Runs and commits a batch. After an error nothing of it has happened.
    fn run_batch(&mut self, batch: &[TxnCommand]) -> Result<Done, StoreError> {
        if self.shared.failed.is_cancelled() {
            return Err(StoreError::Stopped);
        }
        let first = self.revision + 1;
        let mut open = false;
        let mut ephemeral = false;
        let mut leases = Vec::new();
        let mut done = Done { outcomes: Vec::with_capacity(batch.len()), published: Vec::new() };
        for command in batch {
            let guarded = command.txn.success.len().max(command.txn.failure.len()) > 1
                || command.txn.success.iter().chain(&command.txn.failure).any(|op| matches!(op, crate::Op::Txn(_)));
            let (outcome, result) = self.apply(&mut open, guarded, |apply| apply.txn(&command.txn));
            match result {
                Ok(result) => {
                    ephemeral |= outcome.ephemeral;
                    leases.extend(outcome.leases);
                    if !outcome.events.is_empty() {
                        self.revision += 1;
                        done.published.push((Revision(self.revision), outcome.events));
                    }
                    done.outcomes.push(Ok(result));
                }
                Err(error @ (StoreError::Engine { .. } | StoreError::DiskFull)) => {
                    self.abandon(open, first);
                    return Err(error);
                }
                Err(error) => done.outcomes.push(Err(error)),
            }
        }
        self.finish(open, ephemeral, first)?;
        leases.into_iter().for_each(|lease| self.shared.leases.persisted(lease));
        Ok(done)
    }

    /// Applies one transaction; if it is refused, takes back what it did.
    fn apply<T>(
        &self,
        open: &mut bool,
        guarded: bool,
        work: impl FnOnce(&mut Apply<'_>) -> Result<T, StoreError>,
    ) -> (Outcome, Result<T, StoreError>) {
        let revision = self.revision + 1;
        let outcome = Outcome::default();
        let mut apply = Apply { conn: &self.conn, shared: &self.shared, revision, open, guarded, outcome };
        let mut result = work(&mut apply);
        let outcome = apply.outcome;
        if result.is_err() && outcome.ephemeral {
            self.shared.ephemeral.rollback(revision);
        }
        if outcome.savepoint {
            let end = if result.is_ok() { "RELEASE one" } else { "ROLLBACK TO one; RELEASE one" };
            if let Err(error) = self.conn.execute_batch(end).map_err(sql("end a transaction")) {
                result = result.and(Err(error));
            }
        } else if result.is_err() && outcome.durable {
            // Without a savepoint only its single write can have failed, and that one is a matter of the disk.
            debug_assert!(matches!(result, Err(StoreError::Engine { .. } | StoreError::DiskFull)));
        }
        (outcome, result)
    }

    fn finish(&mut self, mut open: bool, ephemeral: bool, first: i64) -> Result<(), StoreError> {
        let mut ceiling = self.ceiling;
        if ephemeral && self.revision > self.ceiling {
            ceiling = self.revision + RESERVE;
            let reserved = begin(&self.conn, &mut open).and_then(|()| set_meta(&self.conn, "ceiling", ceiling));
            if let Err(error) = reserved {
                self.abandon(open, first);
                return Err(error);
            }
        }
        if open {
            self.end(first)?;
        }
        self.ceiling = ceiling;
        Ok(())
    }

    /// Commits. When the disk does not take it although it is not full, what a later start will find is unknown: the
    /// store then stops for good.
    fn end(&mut self, first: i64) -> Result<(), StoreError> {
        let began = Instant::now();
        self.folding.make_room();
        let ended = self.conn.prepare_cached("COMMIT").and_then(|mut statement| statement.execute([]));
        match ended.map_err(sql("commit")) {
            Ok(_) => {
                self.shared.metrics.committed(began.elapsed());
                Ok(())
            }
            Err(error) => {
                self.abandon(true, first);
                if !error.retryable() {
                    tracing::error!(error = %base::chain(&error), "the disk failed: storage stops");
                    self.shared.failed.cancel();
                }
                Err(error)
            }
        }
    }

    /// Takes back everything from revision `first` on.
    fn abandon(&mut self, open: bool, first: i64) {
        self.shared.ephemeral.rollback(first);
        self.revision = first - 1;
        // SQLite has already rolled back after some errors.
        if open
            && !self.conn.is_autocommit()
            && let Err(error) = self.conn.execute_batch("ROLLBACK")
        {
            tracing::error!(%error, "could not roll back: storage stops");
            self.shared.failed.cancel();
        }
    }

    fn publish(&self, published: Vec<(Revision, Vec<Event>)>) {
        for (revision, events) in published {
            self.shared.leases.apply(&events);
            self.shared.advance(revision, &events);
            self.shared.metrics.changed(revision.0, &events);
            self.shared.hub.publish(revision, events);
        }
    }

    fn revoke(&mut self, id: LeaseId, due_only: bool) -> Result<Revision, StoreError> {
        if self.shared.failed.is_cancelled() {
            return Err(StoreError::Stopped);
        }
        let Some((keys, persisted)) = self.shared.leases.revocable(id, due_only) else {
            return Err(StoreError::LeaseNotFound);
        };
        let first = self.revision + 1;
        let mut open = false;
        let (outcome, result) = self.apply(&mut open, false, |apply| {
            apply.delete_keys(&keys)?;
            if persisted {
                apply.begin()?;
                apply
                    .conn
                    .prepare_cached("DELETE FROM lease WHERE id = ?")
                    .and_then(|mut statement| statement.execute([id.0]))
                    .map_err(sql("end a lease"))?;
            }
            Ok(())
        });
        if let Err(error) = result {
            self.abandon(open, first);
            return Err(error);
        }
        if !outcome.events.is_empty() {
            self.revision = first;
        }
        self.finish(open, outcome.ephemeral, first)?;
        self.shared.leases.remove(id);
        if !outcome.events.is_empty() {
            self.publish(vec![(Revision(first), outcome.events)]);
        }
        Ok(Revision(self.revision))
    }

    fn keep_lease(&mut self, id: LeaseId) -> Result<(), StoreError> {
        // It may have been revoked in the meantime.
        let Some(ttl) = self.shared.leases.unpersisted_ttl(id) else { return Ok(()) };
        self.transaction(|writer| super::apply::insert_lease(&writer.conn, id, ttl))?;
        self.shared.leases.persisted(id);
        Ok(())
    }

    /// Runs `work` in a transaction of its own.
    pub(super) fn transaction<T>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let first = self.revision + 1;
        let mut open = false;
        begin(&self.conn, &mut open)?;
        match work(self) {
            Ok(value) => {
                self.end(first)?;
                Ok(value)
            }
            Err(error) => {
                self.abandon(open, first);
                Err(error)
            }
        }
    }

    /// Writes what was in memory only, and folds the log into the database.
    fn put_to_rest(&mut self) -> Result<(), StoreError> {
        let revision = self.revision;
        let rows = self.shared.ephemeral.dump();
        let leases = self.shared.leases.unpersisted();
        self.transaction(|writer| {
            super::recover::save(&writer.conn, &rows, &leases)?;
            set_meta(&writer.conn, "ceiling", revision)?;
            set_meta(&writer.conn, "clean", 1)
        })?;
        self.conn
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
            .map_err(sql("fold the log into the database"))
    }
}

fn begin(conn: &Connection, open: &mut bool) -> Result<(), StoreError> {
    if !*open {
        conn.prepare_cached("BEGIN IMMEDIATE")
            .and_then(|mut statement| statement.execute([]))
            .map_err(sql("begin to write"))?;
        *open = true;
    }
    Ok(())
}
