//! Where work waits for the writer.
//!
//! No thread waits for it: whoever leaves work while the writer rests has it begin on a blocking thread, and there it
//! goes on until nothing is left. So a lone write passes through two hands, the caller's and the writer's, and an idle
//! store has no thread.
//!
//! The queue is bounded; when it is full, callers wait.

use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use base::Shutdown;

use super::state::Shared;
use super::writer::{Command, Writer};
use crate::store::StoreError;

/// Commands in one batch.
const BATCH_LEN: usize = 512;

/// The writer's queue.
pub(super) struct Desk {
    commands: mpsc::Sender<Command>,
    shared: Arc<Shared>,
    runtime: Handle,
    state: Mutex<State>,
    /// Cancelled when nobody is left who could give orders.
    abandoned: CancellationToken,
}

/// The writer with its queue.
struct Seat {
    writer: Writer,
    commands: mpsc::Receiver<Command>,
}

enum State {
    Resting(Box<Seat>),
    Working,
    /// Still at work, to be handed over after the present batch.
    Leaving(oneshot::Sender<Box<Seat>>),
    Gone,
}

impl Desk {
    /// A desk for `queue_len` commands.
    pub(super) fn new(writer: Writer, queue_len: usize) -> Arc<Self> {
        let (commands, queue) = mpsc::channel(queue_len.max(1));
        let shared = writer.shared.clone();
        let state = Mutex::new(State::Resting(Box::new(Seat { writer, commands: queue })));
        Arc::new(Self { commands, shared, runtime: Handle::current(), state, abandoned: CancellationToken::new() })
    }

    /// Leaves a command; waits while the queue is full.
    pub(super) async fn leave(self: &Arc<Self>, command: Command) -> Result<(), StoreError> {
        self.commands.send(command).await.map_err(|_| StoreError::Stopped)?;
        self.start();
        Ok(())
    }

    /// Commands that wait.
    pub(super) fn waiting(&self) -> usize {
        self.commands.max_capacity() - self.commands.capacity()
    }

    /// There is something to do: the writer begins, unless it is at work.
    fn start(self: &Arc<Self>) {
        let mut state = self.state.lock();
        match std::mem::replace(&mut *state, State::Working) {
            State::Resting(seat) => {
                drop(state);
                let desk = self.clone();
                drop(self.runtime.spawn_blocking(move || work(&desk, seat)));
            }
            other => *state = other,
        }
    }

    /// Says that nobody will give orders any more.
    pub(super) fn abandon(&self) {
        self.abandoned.cancel();
    }

    /// The writer rests if nothing is left, or leaves if it is to.
    fn pause(&self, mut seat: Box<Seat>, idle: bool) -> Option<(Box<Seat>, Option<Command>)> {
        let mut state = self.state.lock();
        match std::mem::replace(&mut *state, State::Gone) {
            State::Leaving(successor) => {
                // One that does not wait any more has died with the runtime.
                drop(successor.send(seat));
                return None;
            }
            other => *state = other,
        }
        if !idle {
            return Some((seat, None));
        }
        // What was left after the last look and before the lock; who leaves more finds the writer resting.
        if let Ok(command) = seat.commands.try_recv() {
            return Some((seat, Some(command)));
        }
        if seat.writer.folding.finished() {
            return Some((seat, None));
        }
        *state = State::Resting(seat);
        None
    }

    /// The writer, when it has ended what it is at.
    async fn dismiss(&self) -> Option<Box<Seat>> {
        let (successor, seat) = oneshot::channel();
        {
            let mut state = self.state.lock();
            match std::mem::replace(&mut *state, State::Gone) {
                State::Resting(seat) => return Some(seat),
                State::Working => *state = State::Leaving(successor),
                State::Leaving(_) | State::Gone => return None,
            }
        }
        seat.await.ok()
    }
}

/// Works until nothing is left. Blocks.
fn work(desk: &Arc<Desk>, mut seat: Box<Seat>) {
    let alarm = Alarm(desk);
    let mut batch = Vec::new();
    loop {
        gather(&mut seat.commands, &mut batch);
        let folded = seat.writer.folding.take_finished();
        let idle = batch.is_empty() && !folded && !seat.writer.compaction.pending();
        if !idle {
            seat.writer.step(std::mem::take(&mut batch), folded);
            let again: Weak<Desk> = Arc::downgrade(desk);
            seat.writer.folding.start(&desk.runtime, move || {
                if let Some(desk) = again.upgrade() {
                    desk.start();
                }
            });
        }
        match desk.pause(seat, idle) {
            Some((back, more)) => {
                seat = back;
                batch.extend(more);
            }
            None => break,
        }
    }
    std::mem::forget(alarm);
}

/// Stops the store when the writer dies of a panic.
struct Alarm<'a>(&'a Desk);

impl Drop for Alarm<'_> {
    fn drop(&mut self) {
        tracing::error!("storage writer died");
        // Who waits for the writer to leave waits no longer.
        *self.0.state.lock() = State::Gone;
        self.0.shared.failed.cancel();
    }
}

/// Takes what waits. Under load it then lets those go first who are about to write too: a commit costs much the same
/// for few as for many.
fn gather(commands: &mut mpsc::Receiver<Command>, batch: &mut Vec<Command>) {
    take(commands, batch);
    if batch.len() > 1 {
        std::thread::yield_now();
        take(commands, batch);
    }
}

fn take(commands: &mut mpsc::Receiver<Command>, batch: &mut Vec<Command>) {
    while batch.len() < BATCH_LEN {
        match commands.try_recv() {
            Ok(command) => batch.push(command),
            Err(_) => return,
        }
    }
}

/// Waits for the shutdown, or for the end of everyone who could give orders, or for a disk that fails; then answers
/// what waits and closes the database.
pub(super) async fn close_at_end(desk: Arc<Desk>, shutdown: Shutdown) {
    let shared = desk.shared.clone();
    tokio::select! {
        biased;
        () = shutdown.cancelled() => {}
        () = shared.failed.cancelled() => {}
        () = desk.abandoned.cancelled() => {}
    }
    if let Some(seat) = desk.dismiss().await {
        let Seat { mut writer, mut commands } = *seat;
        commands.close();
        let mut rest = Vec::new();
        while let Some(command) = commands.recv().await {
            rest.push(command);
        }
        writer.folding.join().await;
        let ended = tokio::task::spawn_blocking(move || writer.stop(rest)).await;
        if let Err(error) = ended {
            tracing::error!(error = %base::chain(&error), "storage writer died while stopping");
        }
    }
    shared.hub.close();
    shared.stopped.cancel();
}
