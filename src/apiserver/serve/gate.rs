//! One handshake at a time, and the newest ones not last.
//!
//! A handshake is a millisecond of arithmetic, twice. When a thousand clients come at once, everything else at the front
//! would wait behind theirs, and so would the handshake of whoever asks for the server's health. So a handshake takes a
//! turn for each step; between two turns whatever else is ready runs; and every other turn goes to the connection that
//! waits the shortest, the others to the one that waits the longest.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// Gives out turns.
#[derive(Clone, Default)]
pub(super) struct Gate(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    busy: bool,
    waiting: VecDeque<oneshot::Sender<Turn>>,
    newest_next: bool,
}

/// The turn; the next one's when dropped. Empty if it went to nobody.
struct Turn(Option<Gate>);

impl Drop for Turn {
    fn drop(&mut self) {
        let Some(gate) = self.0.take() else { return };
        loop {
            let mut state = gate.0.lock();
            state.newest_next = !state.newest_next;
            let next = if state.newest_next { state.waiting.pop_back() } else { state.waiting.pop_front() };
            let Some(next) = next else {
                state.busy = false;
                return;
            };
            drop(state);
            // Whoever has gone meanwhile does not take it.
            match next.send(Turn(Some(gate.clone()))) {
                Ok(()) => return,
                Err(mut turn) => turn.0 = None,
            }
        }
    }
}

impl Gate {
    /// Polls a future only in its turns.
    pub fn pass<F: Future>(&self, future: F) -> Passing<F> {
        Passing { gate: self.clone(), future: Box::pin(future), waiting: None }
    }

    fn turn(&self) -> Result<Turn, oneshot::Receiver<Turn>> {
        let mut state = self.0.lock();
        if !state.busy {
            state.busy = true;
            return Ok(Turn(Some(self.clone())));
        }
        let (sender, receiver) = oneshot::channel();
        state.waiting.push_back(sender);
        Err(receiver)
    }
}

/// See [`Gate::pass`].
pub(super) struct Passing<F> {
    gate: Gate,
    future: Pin<Box<F>>,
    waiting: Option<oneshot::Receiver<Turn>>,
}

impl<F: Future> Future for Passing<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.get_mut();
        let turn = match this.waiting.take() {
            None => this.gate.turn(),
            Some(waiting) => Err(waiting),
        };
        let turn = match turn {
            Ok(turn) => turn,
            Err(mut waiting) => match Pin::new(&mut waiting).poll(context) {
                Poll::Pending => {
                    this.waiting = Some(waiting);
                    return Poll::Pending;
                }
                Poll::Ready(Ok(turn)) => turn,
                // The gate lives as long as this does, and keeps whoever waits.
                Poll::Ready(Err(_)) => return Poll::Pending,
            },
        };
        let polled = this.future.as_mut().poll(context);
        drop(turn);
        polled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A step of a handshake that says when it ran.
    fn step(gate: &Gate, seen: &Arc<Mutex<Vec<u32>>>, name: u32) -> tokio::task::JoinHandle<()> {
        let seen = Arc::clone(seen);
        tokio::spawn(gate.pass(async move { seen.lock().push(name) }))
    }

    #[tokio::test]
    async fn the_newest_and_the_oldest_take_turns_and_others_run_between() {
        let (gate, seen) = (Gate::default(), Arc::new(Mutex::new(Vec::new())));
        let first = gate.turn().ok();
        let steps: Vec<_> = (1..=4).map(|name| step(&gate, &seen, name)).collect();
        tokio::task::yield_now().await;
        drop(first);
        let other = Arc::clone(&seen);
        tokio::spawn(async move { other.lock().push(0) }).await.unwrap();
        for step in steps {
            step.await.unwrap();
        }
        assert_eq!(*seen.lock(), [4, 0, 1, 3, 2]);
    }

    #[tokio::test]
    async fn a_turn_of_somebody_who_has_gone_is_the_next_ones() {
        let (gate, seen) = (Gate::default(), Arc::new(Mutex::new(Vec::new())));
        let first = gate.turn().ok();
        let steps: Vec<_> = (1..=3).map(|name| step(&gate, &seen, name)).collect();
        tokio::task::yield_now().await;
        steps[2].abort();
        tokio::task::yield_now().await;
        drop(first);
        for step in steps {
            let _aborted = step.await;
        }
        assert_eq!(*seen.lock(), [1, 2]);
        assert!(gate.turn().is_ok(), "a turn was lost");
    }
}
