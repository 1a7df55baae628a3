//! The bounded queue between the cache and one watcher.
//!
//! A watcher that does not take its events in time is cut off: its stream ends and its client begins again from the last
//! event that it got. What waited is dropped at that moment, not when the client goes: a client that never reads again
//! must not hold the objects of the past in memory.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::watcher::Event;

/// Events that may wait …
const EVENTS_MAX: usize = 1024;
/// … and, beyond the first few, the bytes of their objects.
const BYTES_MAX: usize = 8 << 20;
const EVENTS_MIN: usize = 100;

struct Shared {
    state: Mutex<State>,
    /// Something has been added, or the queue has ended.
    more: Notify,
}

#[derive(Default)]
struct State {
    /// What there was when the watch began; taken before `events`.
    initial: VecDeque<Event>,
    events: VecDeque<Event>,
    bytes: usize,
    /// Nothing is added any more.
    ended: bool,
    /// … because the watcher was too slow.
    cut: bool,
    /// Nobody takes anything any more.
    abandoned: bool,
}

/// The cache's end. The queue ends when it is dropped; what waits is still taken.
pub(super) struct Sender(Arc<Shared>);

/// The watcher's end.
pub struct Receiver(Arc<Shared>);

/// `initial` waits in it from the beginning, and is not counted against its limits.
pub(super) fn queue(initial: VecDeque<Event>) -> (Sender, Receiver) {
    let state = State { initial, ..State::default() };
    let shared = Arc::new(Shared { state: Mutex::new(state), more: Notify::new() });
    (Sender(Arc::clone(&shared)), Receiver(shared))
}

impl Sender {
    /// `false`: the watcher was too slow or has gone, and its queue has ended.
    pub fn send(&self, event: Event) -> bool {
        let mut state = self.0.state.lock();
        if state.abandoned || state.ended {
            return false;
        }
        state.bytes += event.entry.size();
        state.events.push_back(event);
        let waiting = state.events.len();
        if waiting > EVENTS_MAX || (state.bytes > BYTES_MAX && waiting > EVENTS_MIN) {
            state.ended = true;
            state.cut = true;
            let dropped = state.empty();
            drop(state);
            self.0.more.notify_one();
            drop(dropped);
            return false;
        }
        drop(state);
        self.0.more.notify_one();
        true
    }

    /// Whether the watcher was too slow.
    pub fn was_cut(&self) -> bool {
        self.0.state.lock().cut
    }

    pub fn is_closed(&self) -> bool {
        self.0.state.lock().abandoned
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.0.state.lock().ended = true;
        self.0.more.notify_one();
    }
}

impl Receiver {
    /// The next event; `None` when the queue has ended. May be cancelled without loss.
    pub async fn recv(&mut self) -> Option<Event> {
        loop {
            {
                let mut state = self.0.state.lock();
                if let Some(event) = state.take() {
                    return Some(event);
                }
                if state.ended {
                    return None;
                }
            }
            // A notification that came since is kept.
            self.0.more.notified().await;
        }
    }

    /// The next of the initial events, at most so many.
    pub fn take_initial(&mut self, most: usize) -> VecDeque<Event> {
        let mut state = self.0.state.lock();
        let most = most.min(state.initial.len());
        let rest = state.initial.split_off(most);
        std::mem::replace(&mut state.initial, rest)
    }

    /// Whether the watcher was too slow: what waited is gone.
    pub fn was_cut(&self) -> bool {
        self.0.state.lock().cut
    }

    /// The next event if there is one.
    pub fn try_recv(&mut self) -> Option<Event> {
        self.0.state.lock().take()
    }

    pub fn is_empty(&self) -> bool {
        let state = self.0.state.lock();
        state.initial.is_empty() && state.events.is_empty()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.abandoned = true;
        let dropped = state.empty();
        drop(state);
        drop(dropped);
    }
}

impl State {
    fn empty(&mut self) -> [VecDeque<Event>; 2] {
        [std::mem::take(&mut self.initial), std::mem::take(&mut self.events)]
    }

    fn take(&mut self) -> Option<Event> {
        let event = self.events.pop_front()?;
        self.bytes = self.bytes.saturating_sub(event.entry.size());
        Some(event)
    }
}

#[cfg(test)]
mod tests {
    use super::super::entry::Entry;
    use super::super::watcher::EventKind;
    use super::*;

    fn event(size: usize) -> Event {
        let json = format!("{{\"metadata\":{{\"name\":\"a\"}},\"data\":\"{}\"}}", "x".repeat(size));
        Event { kind: EventKind::Added, entry: Arc::new(Entry::new("a", json.as_bytes(), 1).unwrap()), previous: None }
    }

    #[tokio::test]
    async fn events_are_taken_in_order_and_the_end_comes_last() {
        let (sender, mut receiver) = queue(VecDeque::new());
        assert!(sender.send(event(1)));
        assert!(sender.send(event(2)));
        assert!(!receiver.is_empty());
        drop(sender);
        let first = receiver.recv().await.unwrap().entry.size();
        assert_eq!(receiver.try_recv().unwrap().entry.size(), first + 1);
        assert!(receiver.recv().await.is_none());
    }

    #[tokio::test]
    async fn a_waiting_receiver_is_told() {
        let (sender, mut receiver) = queue(VecDeque::new());
        let waiting = tokio::spawn(async move { receiver.recv().await.is_some() });
        tokio::task::yield_now().await;
        assert!(sender.send(event(1)));
        assert!(waiting.await.unwrap());
        assert!(sender.is_closed());
        assert!(!sender.send(event(1)));
    }

    #[tokio::test]
    async fn initial_events_are_taken_in_parts_and_go_with_the_rest() {
        let initial: VecDeque<Event> = (0..5).map(|_| event(1)).collect();
        let held: Vec<Arc<Entry>> = initial.iter().map(|e| Arc::clone(&e.entry)).collect();
        let (sender, mut receiver) = queue(initial);
        assert_eq!(receiver.take_initial(2).len(), 2);
        assert!(!receiver.is_empty());
        assert!((0..=EVENTS_MAX).any(|_| !sender.send(event(1))), "the queue has no end");
        assert!(held.iter().all(|entry| Arc::strong_count(entry) == 1), "the queue still holds objects");
        assert!(receiver.take_initial(10).is_empty() && receiver.was_cut() && receiver.recv().await.is_none());
    }

    #[tokio::test]
    async fn a_slow_watcher_is_cut_off_and_holds_nothing() {
        let check = async |size: usize, most: usize| {
            let (sender, mut receiver) = queue(VecDeque::new());
            let entry = event(size);
            let sent = (0..2 * most).take_while(|_| {
                sender.send(Event { kind: entry.kind, entry: Arc::clone(&entry.entry), previous: None })
            });
            assert_eq!(sent.count(), most);
            assert_eq!(Arc::strong_count(&entry.entry), 1, "the queue still holds objects");
            assert!(receiver.recv().await.is_none());
        };
        check(10, EVENTS_MAX).await;
        // Large objects: by their bytes, but not before a burst that is usual.
        check(BYTES_MAX / 200, 199).await;
        check(BYTES_MAX, EVENTS_MIN).await;
    }
}
