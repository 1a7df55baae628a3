//! The tasks behind the queues: writing to the log, and posting batches to the webhook
//! (`plugin/pkg/audit/{buffered,webhook}`).

use std::sync::Arc;
use std::time::Duration;

use base::{Backoff, Shutdown};
use bytes::{BufMut, Bytes, BytesMut};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::file::Writer;
use super::sink::Item;
use crate::remote::Remote;

/// Attempts to post a batch (`webhook.DefaultRetryBackoffWithInitialDelay`).
const ATTEMPTS: u32 = 5;
/// A webhook that takes longer has not taken the batch.
const POST_TIMEOUT: Duration = Duration::from_secs(30);
/// Batches that are being posted at the same time.
const POSTS_MAX: usize = 15;
/// How long posting goes on after shutdown was asked for.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// Whether requests wait for their events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Events are buffered and written later.
    Batch,
    /// A request waits; it goes on when its event could not be written.
    Blocking,
    /// A request waits, and fails when the event of its arrival could not be written.
    BlockingStrict,
}

/// How events are collected.
#[derive(Debug, Clone, Copy)]
pub struct BatchOptions {
    pub mode: Mode,
    /// Events that wait; more are dropped.
    pub buffer_size: usize,
    /// Events of a batch.
    pub size_max: usize,
    /// How long a batch may stay short of that.
    pub wait_max: Duration,
    pub throttle: Option<Throttle>,
}

/// How often batches are sent.
#[derive(Debug, Clone, Copy)]
pub struct Throttle {
    /// Batches a second.
    pub rate: f32,
    /// Batches at once after a quiet time.
    pub burst: u32,
}

impl Throttle {
    /// The bucket when nothing has been taken.
    #[allow(clippy::cast_precision_loss, reason = "bursts are far below 2^24")]
    fn full(&self) -> f32 {
        self.burst as f32
    }
}

impl BatchOptions {
    /// Upstream's defaults for the log.
    pub fn log() -> Self {
        Self { mode: Mode::Blocking, buffer_size: 10_000, size_max: 1, wait_max: Duration::ZERO, throttle: None }
    }

    /// Upstream's defaults for the webhook.
    pub fn webhook() -> Self {
        Self {
            mode: Mode::Batch,
            buffer_size: 10_000,
            size_max: 400,
            wait_max: Duration::from_secs(30),
            throttle: Some(Throttle { rate: 10.0, burst: 15 }),
        }
    }
}

/// Writes events to the log until `shutdown`, then what is left.
pub(super) async fn write(mut queue: mpsc::Receiver<Item>, mut writer: Writer, shutdown: Shutdown) {
    /// Events written in one go; more would only delay the first.
    const AT_ONCE: usize = 256;
    let mut items = Vec::new();
    loop {
        let taken = tokio::select! {
            biased;
            taken = queue.recv_many(&mut items, AT_ONCE) => taken,
            () = shutdown.cancelled() => {
                queue.close();
                queue.recv_many(&mut items, AT_ONCE).await
            }
        };
        if taken == 0 {
            return;
        }
        let batch = std::mem::take(&mut items);
        let written = tokio::task::spawn_blocking(move || {
            let lines: Vec<Bytes> = batch.iter().map(|item| item.text.clone()).collect();
            let kept = writer.write(&lines);
            (writer, batch, kept)
        });
        let Ok((back, batch, kept)) = written.await else {
            tracing::error!("the writer of the audit log panicked; no more events are written");
            return;
        };
        writer = back;
        for done in batch.into_iter().filter_map(|item| item.done) {
            // A request that was given up does not wait any more.
            let _gone = done.send(kept);
        }
    }
}

/// Posts batches.
pub(super) struct WebhookSender {
    pub remote: Arc<Remote>,
    pub initial_backoff: Duration,
    pub options: BatchOptions,
    /// Bytes of a batch.
    pub size_max: Option<usize>,
}

impl WebhookSender {
    pub async fn run(self, mut queue: mpsc::Receiver<Item>, shutdown: Shutdown) {
        let mut posts = JoinSet::new();
        let mut bucket = self.options.throttle.map(Bucket::new);
        loop {
            let batch = tokio::select! {
                biased;
                () = shutdown.cancelled() => {
                    queue.close();
                    self.collect(&mut queue, &shutdown).await
                }
                batch = self.collect(&mut queue, &shutdown) => batch,
            };
            if batch.is_empty() {
                break;
            }
            if let Some(bucket) = &mut bucket {
                bucket.take().await;
            }
            for part in self.split(batch) {
                while posts.len() >= POSTS_MAX {
                    posts.join_next().await;
                }
                while posts.try_join_next().is_some() {}
                posts.spawn(post(Arc::clone(&self.remote), part, self.initial_backoff, shutdown.clone()));
            }
        }
        let rest = async { while posts.join_next().await.is_some() {} };
        if tokio::time::timeout(DRAIN_TIMEOUT, rest).await.is_err() {
            tracing::warn!("the audit webhook did not take its last events in time");
        }
    }

    /// A batch: it is closed when it is full, when its time is over, or on shutdown; empty when the queue has ended.
    async fn collect(&self, queue: &mut mpsc::Receiver<Item>, shutdown: &Shutdown) -> Vec<Item> {
        let size_max = if self.options.mode == Mode::Batch { self.options.size_max } else { 1 };
        let mut batch = Vec::new();
        let Some(first) = queue.recv().await else { return batch };
        batch.push(first);
        let end = Instant::now() + self.options.wait_max;
        while batch.len() < size_max {
            tokio::select! {
                biased;
                item = queue.recv() => match item {
                    Some(item) => batch.push(item),
                    None => break,
                },
                () = shutdown.cancelled() => break,
                () = tokio::time::sleep_until(end) => break,
            }
        }
        batch
    }

    /// Parts of a batch that are not too large together.
    fn split(&self, batch: Vec<Item>) -> Vec<Vec<Item>> {
        let Some(size_max) = self.size_max else { return vec![batch] };
        let (mut parts, mut part, mut size) = (Vec::new(), Vec::new(), 0);
        for item in batch {
            if !part.is_empty() && size + item.text.len() > size_max {
                parts.push(std::mem::take(&mut part));
                size = 0;
            }
            size += item.text.len();
            part.push(item);
        }
        parts.push(part);
        parts
    }
}

async fn post(remote: Arc<Remote>, batch: Vec<Item>, initial_backoff: Duration, shutdown: Shutdown) {
    let body = list(&batch);
    let mut backoff = Backoff::new(initial_backoff, initial_backoff * 10).with_jitter(0.2);
    let mut kept = false;
    for attempt in 1..=ATTEMPTS {
        match remote.post(body.clone(), POST_TIMEOUT).await {
            Ok(_) => {
                kept = true;
                break;
            }
            Err(error) if attempt == ATTEMPTS || shutdown.is_cancelled() => {
                tracing::error!(events = batch.len(), error = %base::chain(&error), "audit events were lost");
                break;
            }
            Err(error) => tracing::debug!(error = %base::chain(&error), "the audit webhook failed; trying again"),
        }
        tokio::select! {
            biased;
            () = shutdown.cancelled() => {}
            () = tokio::time::sleep(backoff.step()) => {}
        }
    }
    for done in batch.into_iter().filter_map(|item| item.done) {
        let _gone = done.send(kept);
    }
}

/// How an event's text begins.
const TYPE: &[u8] = br#"{"kind":"Event","apiVersion":"audit.k8s.io/v1","#;

/// An `EventList`.
fn list(batch: &[Item]) -> Bytes {
    let mut body = BytesMut::new();
    body.put_slice(br#"{"kind":"EventList","apiVersion":"audit.k8s.io/v1","metadata":{},"items":["#);
    for (index, item) in batch.iter().enumerate() {
        if index > 0 {
            body.put_u8(b',');
        }
        // Items of a list do not say what they are.
        match item.text.strip_prefix(TYPE) {
            Some(rest) => {
                body.put_u8(b'{');
                body.put_slice(rest);
            }
            None => body.put_slice(&item.text),
        }
    }
    body.put_slice(b"]}");
    body.freeze()
}

/// A token bucket.
struct Bucket {
    throttle: Throttle,
    tokens: f32,
    filled: Instant,
}

impl Bucket {
    fn new(throttle: Throttle) -> Self {
        Self { tokens: throttle.full(), throttle, filled: Instant::now() }
    }

    async fn take(&mut self) {
        loop {
            let now = Instant::now();
            let refilled = self.tokens + (now - self.filled).as_secs_f32() * self.throttle.rate;
            self.tokens = refilled.min(self.throttle.full());
            self.filled = now;
            if self.tokens >= 1.0 {
                self.tokens -= 1.0;
                return;
            }
            let missing = (1.0 - self.tokens) / self.throttle.rate.max(f32::EPSILON);
            tokio::time::sleep(Duration::try_from_secs_f32(missing).unwrap_or(Duration::from_secs(1))).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(text: &'static str) -> Item {
        Item { text: Bytes::from_static(text.as_bytes()), done: None }
    }

    #[test]
    fn a_batch_is_a_list_of_events() {
        let event = r#"{"kind":"Event","apiVersion":"audit.k8s.io/v1","a":1}"#;
        let text = String::from_utf8(list(&[item(event), item("{}")]).to_vec()).unwrap();
        assert!(text.ends_with("\"items\":[{\"a\":1},{}]}"), "{text}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap()["kind"], "EventList");
    }

    #[tokio::test(start_paused = true)]
    async fn batches_are_throttled_after_a_burst() {
        let mut bucket = Bucket::new(Throttle { rate: 10.0, burst: 2 });
        let began = Instant::now();
        bucket.take().await;
        bucket.take().await;
        assert!(began.elapsed() < Duration::from_millis(10));
        bucket.take().await;
        assert!(began.elapsed() >= Duration::from_millis(90));
    }
}
