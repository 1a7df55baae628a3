//! A queue of keys for reconcilers (client-go `util/workqueue`).
//!
//! A key is in the queue at most once; a key that is added while a worker has it comes back when the worker is done;
//! no two workers ever have the same key. The queue is bounded by the number of distinct keys.

use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

/// The first delay of a key that failed (client-go `DefaultTypedControllerRateLimiter`).
const BASE_DELAY: Duration = Duration::from_millis(5);
const MAX_DELAY: Duration = Duration::from_secs(1000);

/// See the module. Clones share one queue.
pub struct WorkQueue<T> {
    inner: Arc<Inner<T>>,
}

impl<T> Clone for WorkQueue<T> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

struct Inner<T> {
    state: Mutex<State<T>>,
    wake: Notify,
    base_delay: Duration,
    max_delay: Duration,
}

struct State<T> {
    ready: VecDeque<T>,
    /// Keys that need work: in `ready`, or waiting for their worker to be done.
    dirty: HashSet<T>,
    processing: HashSet<T>,
    delayed: BinaryHeap<Delayed<T>>,
    /// When each delayed key is due; an entry of `delayed` that disagrees was superseded by an earlier one.
    due: HashMap<T, Instant>,
    failures: HashMap<T, u32>,
    closed: bool,
}

struct Delayed<T> {
    at: Instant,
    key: T,
}

impl<T> PartialEq for Delayed<T> {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}
impl<T> Eq for Delayed<T> {}
impl<T> PartialOrd for Delayed<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl<T> Ord for Delayed<T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        // Reversed: the heap's greatest is the one due first.
        other.at.cmp(&self.at)
    }
}

impl<T: Clone + Eq + Hash> Default for WorkQueue<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Clone + Eq + Hash> WorkQueue<T> {
    /// A queue with client-go's default back-off: 5 ms doubling up to 1000 s.
    pub fn new() -> Self {
        Self::with_backoff(BASE_DELAY, MAX_DELAY)
    }

    /// A queue whose back-off doubles from `base_delay` up to `max_delay`.
    pub fn with_backoff(base_delay: Duration, max_delay: Duration) -> Self {
        let state = State {
            ready: VecDeque::new(),
            dirty: HashSet::new(),
            processing: HashSet::new(),
            delayed: BinaryHeap::new(),
            due: HashMap::new(),
            failures: HashMap::new(),
            closed: false,
        };
        Self { inner: Arc::new(Inner { state: Mutex::new(state), wake: Notify::new(), base_delay, max_delay }) }
    }

    /// Marks a key as needing work.
    pub fn add(&self, key: T) {
        let mut state = self.inner.state.lock();
        if state.add(key) {
            drop(state);
            self.inner.wake.notify_one();
        }
    }

    /// Adds a key after a delay; of several delays for one key the shortest counts.
    pub fn add_after(&self, key: T, delay: Duration) {
        if delay.is_zero() {
            return self.add(key);
        }
        let at = Instant::now() + delay;
        let mut state = self.inner.state.lock();
        if state.closed || state.due.get(&key).is_some_and(|due| *due <= at) {
            return;
        }
        state.due.insert(key.clone(), at);
        let first = state.delayed.peek().is_none_or(|head| at < head.at);
        state.delayed.push(Delayed { at, key });
        drop(state);
        if first {
            // A waiting worker sleeps until the earliest delay: let one look again.
            self.inner.wake.notify_one();
        }
    }

    /// Adds a key after a delay that doubles with each call until [`WorkQueue::forget`].
    pub fn add_rate_limited(&self, key: T) {
        let delay = {
            let mut state = self.inner.state.lock();
            let failures = state.failures.entry(key.clone()).or_insert(0);
            let delay = self.inner.base_delay.saturating_mul(1_u32.checked_shl(*failures).unwrap_or(u32::MAX));
            *failures = failures.saturating_add(1);
            delay.min(self.inner.max_delay)
        };
        self.add_after(key, delay);
    }

    /// How many times in a row the key was rate limited.
    pub fn failures(&self, key: &T) -> u32 {
        self.inner.state.lock().failures.get(key).copied().unwrap_or(0)
    }

    /// The key succeeded (or was given up): its next failure waits for the shortest delay again.
    pub fn forget(&self, key: &T) {
        self.inner.state.lock().failures.remove(key);
    }

    /// The worker has finished with a key that [`WorkQueue::get`] gave it.
    pub fn done(&self, key: &T) {
        let mut state = self.inner.state.lock();
        state.processing.remove(key);
        if state.dirty.contains(key) {
            state.ready.push_back(key.clone());
            drop(state);
            self.inner.wake.notify_one();
        }
    }

    /// The next key; `None` once the queue was shut down. The worker must call [`WorkQueue::done`].
    pub async fn get(&self) -> Option<T> {
        loop {
            let notified = self.inner.wake.notified();
            tokio::pin!(notified);
            notified.as_mut().enable();
            let next_due = {
                let mut state = self.inner.state.lock();
                state.promote(Instant::now());
                if let Some(key) = state.ready.pop_front() {
                    state.dirty.remove(&key);
                    state.processing.insert(key.clone());
                    let pass_on = !state.ready.is_empty();
                    drop(state);
                    if pass_on {
                        // Keys that became due together came with one wake-up: hand it on.
                        self.inner.wake.notify_one();
                    }
                    return Some(key);
                }
                if state.closed {
                    return None;
                }
                state.delayed.peek().map(|head| head.at)
            };
            match next_due {
                Some(at) => {
                    tokio::select! {
                        biased;
                        () = &mut notified => {}
                        () = tokio::time::sleep_until(at) => {}
                    }
                }
                None => notified.await,
            }
        }
    }

    /// Number of keys that are ready for a worker.
    pub fn len(&self) -> usize {
        self.inner.state.lock().ready.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Ends the queue: what is ready is still given out, delayed keys are dropped, waiting workers return.
    pub fn shutdown(&self) {
        let mut state = self.inner.state.lock();
        state.closed = true;
        state.delayed.clear();
        state.due.clear();
        drop(state);
        self.inner.wake.notify_waiters();
    }
}

impl<T: Clone + Eq + Hash> State<T> {
    /// True if a worker should be woken.
    fn add(&mut self, key: T) -> bool {
        if self.closed || !self.dirty.insert(key.clone()) {
            return false;
        }
        if self.processing.contains(&key) {
            return false;
        }
        self.ready.push_back(key);
        true
    }

    /// Makes ready what is due.
    fn promote(&mut self, now: Instant) {
        while self.delayed.peek().is_some_and(|head| head.at <= now) {
            let Some(Delayed { at, key }) = self.delayed.pop() else { break };
            if self.due.get(&key) == Some(&at) {
                self.due.remove(&key);
                self.add(key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_key_is_queued_once_and_comes_back_if_added_while_processing() {
        let queue = WorkQueue::new();
        queue.add("a");
        queue.add("a");
        assert_eq!(queue.len(), 1);
        assert_eq!(queue.get().await, Some("a"));
        queue.add("a");
        assert!(queue.is_empty(), "its worker has it");
        queue.done(&"a");
        assert_eq!(queue.get().await, Some("a"));
        queue.done(&"a");
        assert!(queue.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn delayed_keys_come_when_due_and_the_shortest_delay_counts() {
        let queue = WorkQueue::new();
        let start = Instant::now();
        queue.add_after("late", Duration::from_secs(10));
        queue.add_after("late", Duration::from_secs(3));
        queue.add_after("late", Duration::from_secs(20));
        queue.add_after("early", Duration::from_secs(1));
        assert_eq!(queue.get().await, Some("early"));
        assert_eq!(start.elapsed(), Duration::from_secs(1));
        assert_eq!(queue.get().await, Some("late"));
        assert_eq!(start.elapsed(), Duration::from_secs(3));
        queue.done(&"late");
        queue.shutdown();
        assert_eq!(queue.get().await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_shorter_delay_wakes_a_worker_that_waits_for_a_longer_one() {
        let queue = WorkQueue::new();
        queue.add_after("slow", Duration::from_secs(100));
        let worker = tokio::spawn({
            let queue = queue.clone();
            async move { queue.get().await }
        });
        tokio::task::yield_now().await;
        let start = Instant::now();
        queue.add_after("fast", Duration::from_secs(1));
        assert_eq!(worker.await.unwrap(), Some("fast"));
        assert_eq!(start.elapsed(), Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn failures_back_off_exponentially_until_forgotten() {
        let queue = WorkQueue::new();
        for expected in [5, 10, 20, 40] {
            let start = Instant::now();
            queue.add_rate_limited("a");
            assert_eq!(queue.get().await, Some("a"));
            queue.done(&"a");
            assert_eq!(start.elapsed(), Duration::from_millis(expected));
        }
        assert_eq!(queue.failures(&"a"), 4);
        queue.forget(&"a");
        assert_eq!(queue.failures(&"a"), 0);
    }

    #[tokio::test]
    async fn shutdown_gives_out_what_is_ready_then_ends() {
        let queue = WorkQueue::new();
        queue.add(1);
        queue.shutdown();
        queue.add(2);
        assert_eq!(queue.get().await, Some(1));
        assert_eq!(queue.get().await, None);
    }
}
