//! Where events go, and what happens when that is slow.
//!
//! Each sink has one bounded queue and one task that owns the file or the webhook. In the modes `blocking` and
//! `blocking-strict` a request waits until its event is written; in the mode `batch` an event that finds the queue full
//! is dropped and counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use base::Shutdown;
use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::batch::{self, BatchOptions, Mode};
use super::event::Event;
use super::file::{Format, Writer};
use crate::remote::Remote;

/// Waiting requests of the modes without a buffer.
const BLOCKING_QUEUE: usize = 1024;

/// What is done with events that are too large (`plugin/pkg/audit/truncate`).
#[derive(Debug, Clone, Copy)]
pub struct TruncateOptions {
    pub enabled: bool,
    /// Bytes of a batch; larger ones are split.
    pub batch_size_max: usize,
    /// Bytes of an event; a larger one loses its bodies, or is dropped.
    pub event_size_max: usize,
}

impl Default for TruncateOptions {
    fn default() -> Self {
        Self { enabled: false, batch_size_max: 10 << 20, event_size_max: 100 << 10 }
    }
}

/// An event on its way.
pub(super) struct Item {
    pub text: Bytes,
    /// Told whether it was written.
    pub done: Option<oneshot::Sender<bool>>,
}

/// One destination.
pub(super) struct Sink {
    name: &'static str,
    queue: mpsc::Sender<Item>,
    mode: Mode,
    format: Format,
    truncate: TruncateOptions,
    dropped: AtomicU64,
}

impl Sink {
    pub fn log(
        writer: Writer,
        format: Format,
        batch: BatchOptions,
        truncate: TruncateOptions,
        tasks: &mut JoinSet<()>,
        shutdown: &Shutdown,
    ) -> Self {
        let (sink, receiver) = Self::new("log", format, batch, truncate);
        tasks.spawn(batch::write(receiver, writer, shutdown.clone()));
        sink
    }

    pub fn webhook(
        remote: Arc<Remote>,
        initial_backoff: Duration,
        batch: BatchOptions,
        truncate: TruncateOptions,
        tasks: &mut JoinSet<()>,
        shutdown: &Shutdown,
    ) -> Self {
        let (sink, receiver) = Self::new("webhook", Format::Json, batch, truncate);
        let size_max = truncate.enabled.then_some(truncate.batch_size_max);
        let sender = batch::WebhookSender { remote, initial_backoff, options: batch, size_max };
        tasks.spawn(sender.run(receiver, shutdown.clone()));
        sink
    }

    fn new(
        name: &'static str,
        format: Format,
        batch: BatchOptions,
        truncate: TruncateOptions,
    ) -> (Self, mpsc::Receiver<Item>) {
        let size = if batch.mode == Mode::Batch { batch.buffer_size } else { BLOCKING_QUEUE };
        let (queue, receiver) = mpsc::channel(size.max(1));
        let dropped = AtomicU64::new(0);
        (Self { name, queue, mode: batch.mode, format, truncate, dropped }, receiver)
    }

    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Events that were lost.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Hands an event over; `false` if it was lost and must not be.
    pub async fn process(&self, event: &Event) -> bool {
        let Some(text) = self.encode(event) else { return self.mode != Mode::BlockingStrict };
        if self.mode == Mode::Batch {
            self.offer(Item { text, done: None });
            return true;
        }
        let (done, written) = oneshot::channel();
        let sent = self.queue.send(Item { text, done: Some(done) }).await.is_ok();
        let written = sent && written.await.unwrap_or(false);
        if !written {
            self.lost();
        }
        written || self.mode != Mode::BlockingStrict
    }

    /// Hands an event over without waiting.
    pub fn process_now(&self, event: &Event) {
        if let Some(text) = self.encode(event) {
            self.offer(Item { text, done: None });
        }
    }

    fn offer(&self, item: Item) {
        if self.queue.try_send(item).is_err() {
            self.lost();
        }
    }

    /// Counts a lost event; the log has the first of each power of two.
    fn lost(&self) {
        let dropped = self.dropped.fetch_add(1, Ordering::Relaxed) + 1;
        if dropped.is_power_of_two() {
            tracing::error!(sink = self.name, dropped, "audit events were lost");
        }
    }

    fn encode(&self, event: &Event) -> Option<Bytes> {
        let text = self.write(event)?;
        if !self.truncate.enabled || text.len() <= self.truncate.event_size_max {
            return Some(text);
        }
        let mut event = event.clone();
        event.request_object = None;
        event.response_object = None;
        event.annotations.insert("audit.k8s.io/truncated".to_owned(), "true".to_owned());
        let text = self.write(&event)?;
        if text.len() > self.truncate.event_size_max {
            self.lost();
            return None;
        }
        Some(text)
    }

    fn write(&self, event: &Event) -> Option<Bytes> {
        if self.format == Format::Legacy {
            return Some(event.legacy().into());
        }
        match serde_json::to_vec(event) {
            Ok(text) => Some(text.into()),
            Err(error) => {
                tracing::error!(sink = self.name, %error, "cannot encode an audit event");
                None
            }
        }
    }
}
