//! What a request holds of its level: a place in a queue, then seats. Dropped, it gives back what it holds, however its
//! request ended.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Refusal;
use crate::flow::estimate::Work;
use crate::flow::rules::Schema;

/// A place in a queue, or seats.
pub(crate) struct Ticket {
    pub(super) schema: Arc<Schema>,
    pub(super) id: u64,
    pub(super) work: Work,
    pub(super) began: Instant,
    pub(super) is_watch: bool,
    pub(super) writes: bool,
    /// It is counted among the running.
    pub(super) running: bool,
    pub(super) timed_out: bool,
}

impl Ticket {
    /// The request waited long enough.
    pub fn time_out(mut self) {
        self.timed_out = true;
    }

    /// The request is on: it waited in its queue since it was asked for.
    pub fn go_on(&mut self) {
        self.count_running(Some(self.began.elapsed()));
    }

    pub(super) fn count_running(&mut self, waited: Option<Duration>) {
        self.running = true;
        self.schema.counters.runs(&self.work, waited, self.writes);
    }

    pub fn schema(&self) -> &Arc<Schema> {
        &self.schema
    }

    pub(super) fn forget(&mut self) {
        self.id = u64::MAX;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.id == u64::MAX {
            return;
        }
        let level = Arc::clone(&self.schema.level);
        let now = Instant::now();
        let mut state = level.state.lock();
        state.advance(now);
        let Some(about) = state.finish(self.id, now) else {
            // It still waited: the client went away, or its time was over.
            state.withdraw(self.id);
            state.totals.rejected += 1;
            let refusal = if self.timed_out { Refusal::TimeOut } else { Refusal::Cancelled };
            if self.timed_out {
                state.totals.timed_out += 1;
            } else {
                state.totals.cancelled += 1;
            }
            state.dispatch();
            drop(state);
            self.schema.counters.gave_up(refusal, &self.work, now - self.began, self.writes);
            return;
        };
        let took = about.started.map_or(Duration::ZERO, |started| now - started);
        // Only within a runtime can the rest be waited for; without one the server is ending.
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) if !about.work.additional.is_zero() => {
                drop(state);
                let later = Arc::clone(&level);
                let additional = about.work.additional;
                runtime.spawn(async move {
                    tokio::time::sleep(additional).await;
                    let mut state = later.state.lock();
                    state.advance(Instant::now());
                    state.release(&about);
                });
            }
            _ => {
                state.release(&about);
                drop(state);
            }
        }
        if !self.running {
            // It was let run when its client had just gone.
            self.count_running(Some(now - self.began));
        }
        self.schema.counters.finished(&self.work, took, self.is_watch, self.writes);
    }
}
