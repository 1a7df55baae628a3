//! Fan-out of runtime events to bounded receivers.
//!
//! A receiver that falls behind loses events but always learns of it: one place in its queue is kept back for
//! [`RuntimeEvent::Resync`], which it reads after the events that still fitted.

use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::contract::RuntimeEvent;

/// Events a receiver may be behind by before it is told to look at everything.
pub const QUEUE_LENGTH: usize = 256;

/// Publishes each event to every receiver.
#[derive(Default)]
pub struct EventHub {
    subscribers: Mutex<Vec<Subscriber>>,
}

struct Subscriber {
    sender: mpsc::Sender<RuntimeEvent>,
    /// The place kept back for `Resync`; `None` while one waits to be read.
    reserve: Option<mpsc::OwnedPermit<RuntimeEvent>>,
}

impl EventHub {
    /// A receiver of everything published from now on.
    pub fn subscribe(&self) -> mpsc::Receiver<RuntimeEvent> {
        let (sender, receiver) = mpsc::channel(QUEUE_LENGTH + 1);
        let reserve = sender.clone().try_reserve_owned().ok();
        self.subscribers.lock().push(Subscriber { sender, reserve });
        receiver
    }

    /// Hands `event` to every receiver without waiting; forgets receivers that are gone.
    pub fn publish(&self, event: &RuntimeEvent) {
        self.subscribers.lock().retain_mut(|subscriber| subscriber.offer(event));
    }
}

impl Subscriber {
    /// False when the receiver is gone.
    fn offer(&mut self, event: &RuntimeEvent) -> bool {
        if self.sender.is_closed() {
            return false;
        }
        if self.reserve.is_none() {
            match self.sender.clone().try_reserve_owned() {
                Ok(permit) => self.reserve = Some(permit),
                // Still full, so the Resync sent earlier is unread and covers this event too.
                Err(_) => return true,
            }
        }
        if self.sender.try_send(event.clone()).is_err()
            && let Some(permit) = self.reserve.take()
        {
            permit.send(RuntimeEvent::Resync);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::ContainerId;

    fn started(n: usize) -> RuntimeEvent {
        RuntimeEvent::Started(ContainerId(n.to_string()))
    }

    #[test]
    fn a_slow_receiver_reads_what_fitted_and_then_resync() {
        let hub = EventHub::default();
        let mut receiver = hub.subscribe();
        for n in 0..QUEUE_LENGTH + 10 {
            hub.publish(&started(n));
        }
        for n in 0..QUEUE_LENGTH {
            assert_eq!(receiver.try_recv(), Ok(started(n)));
        }
        assert_eq!(receiver.try_recv(), Ok(RuntimeEvent::Resync));
        assert!(receiver.try_recv().is_err());
        hub.publish(&started(7));
        assert_eq!(receiver.try_recv(), Ok(started(7)));
    }

    #[test]
    fn a_gone_receiver_is_forgotten() {
        let hub = EventHub::default();
        drop(hub.subscribe());
        hub.publish(&started(1));
        assert!(hub.subscribers.lock().is_empty());
    }
}
