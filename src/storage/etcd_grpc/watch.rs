//! The Watch service (etcd server/etcdserver/api/v3rpc/watch.go): many watches on one stream.
//!
//! One task owns a stream. It takes requests and the messages of all its watches and writes answers in order; while
//! the client does not read, it does not take messages, and a watch whose queue fills meanwhile is begun again after
//! the last revision that was sent. So a slow client is late but misses nothing, as with etcd.

use std::collections::HashMap;
use std::pin::Pin;
use std::time::Duration;

use etcd_client::EventType;
use etcd_client::proto::{PbEvent, PbWatchRequest, PbWatchRequestUnion, PbWatchResponse, PbWatchService};
use futures::{Stream, StreamExt};
use prost::Message;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::StreamMap;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming, async_trait};

use super::errors::status;
use super::{OVERHEAD_BYTES, Service, key_range, key_value};
use crate::store::{
    Event, EventKind, KeyRange, Messages, Revision, Store, StoreError, Watch, WatchMessage, WatchOptions,
};

/// How often a quiet watch that asked for it is told how far it is (etcd `progressReportInterval`).
const PROGRESS_INTERVAL: Duration = Duration::from_secs(600);
/// Answers that may wait for the client.
const ANSWERS: usize = 16;
/// etcd `clientv3.InvalidWatchID`: no watch, or all of them.
const NO_WATCH: i64 = -1;

#[async_trait]
impl PbWatchService for Service {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<PbWatchResponse, Status>> + Send>>;

    async fn watch(&self, request: Request<Streaming<PbWatchRequest>>) -> Result<Response<Self::WatchStream>, Status> {
        let (answers, receiver) = mpsc::channel(ANSWERS);
        let session = Session {
            service: self.clone(),
            answers,
            watches: HashMap::new(),
            messages: StreamMap::new(),
            next_id: 0,
            progress_wanted: None,
            report_at: None,
        };
        // The stream of answers drives the session: when the client goes, both end.
        let running = futures::stream::once(session.run(request.into_inner())).filter_map(|()| async { None });
        let merged = futures::stream::select(ReceiverStream::new(receiver), running);
        Ok(Response::new(merged.boxed()))
    }
}

/// A stream's watches.
struct Session {
    service: Service,
    answers: mpsc::Sender<Result<PbWatchResponse, Status>>,
    watches: HashMap<i64, Watcher>,
    messages: StreamMap<i64, Messages>,
    next_id: i64,
    /// The client asked to be told when all watches have come to this revision.
    progress_wanted: Option<Revision>,
    /// When quiet watches are told how far they are.
    report_at: Option<Instant>,
}

struct Watcher {
    range: KeyRange,
    prev_kv: bool,
    fragment: bool,
    no_put: bool,
    no_delete: bool,
    /// Wants to be told how far it is when it is quiet.
    progress_notify: bool,
    /// Nothing was sent since the last report.
    quiet: bool,
    report_due: bool,
    /// Everything up to here has been sent.
    seen: Revision,
}

/// The client has gone.
struct Gone;

impl Session {
    async fn run(mut self, mut requests: Streaming<PbWatchRequest>) {
        let shutdown = self.service.shutdown.clone();
        let mut more_requests = true;
        loop {
            let report = async {
                match self.report_at {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let handled = tokio::select! {
                biased;
                () = shutdown.cancelled() => {
                    // A client that has gone does not want to know.
                    drop(self.answers.send(Err(status(StoreError::Stopped))).await);
                    return;
                }
                request = requests.message(), if more_requests => match request {
                    Ok(Some(request)) => self.request(request).await,
                    // A client that asks for nothing more still listens.
                    Ok(None) => {
                        more_requests = false;
                        Ok(())
                    }
                    Err(_) => return,
                },
                Some((id, message)) = self.messages.next() => self.message(id, message).await,
                () = report => self.report().await,
            };
            if handled.is_err() {
                return;
            }
        }
    }

    async fn send(&self, answer: PbWatchResponse) -> Result<(), Gone> {
        self.answers.send(Ok(answer)).await.map_err(|_| Gone)
    }

    fn answer(&self, watch_id: i64, revision: Revision) -> PbWatchResponse {
        PbWatchResponse { header: self.service.header(revision), watch_id, ..PbWatchResponse::default() }
    }

    async fn now(&self) -> Result<Revision, Gone> {
        self.service.store.revision().await.map_err(|_| Gone)
    }

    async fn request(&mut self, request: PbWatchRequest) -> Result<(), Gone> {
        match request.request_union {
            Some(PbWatchRequestUnion::CreateRequest(create)) => {
                let key = if create.key.is_empty() { vec![0] } else { create.key };
                let watcher = Watcher {
                    range: key_range(key, create.range_end),
                    prev_kv: create.prev_kv,
                    fragment: create.fragment,
                    no_put: create.filters.contains(&0),
                    no_delete: create.filters.contains(&1),
                    progress_notify: create.progress_notify,
                    quiet: true,
                    report_due: false,
                    seen: Revision(0),
                };
                self.create(create.watch_id, create.start_revision, watcher).await
            }
            Some(PbWatchRequestUnion::CancelRequest(cancel)) => self.cancel(cancel.watch_id).await,
            Some(PbWatchRequestUnion::ProgressRequest(_)) => {
                self.progress_wanted = Some(self.now().await?);
                self.service.store.request_progress().await.map_err(|_| Gone)?;
                self.progress().await
            }
            None => Ok(()),
        }
    }

    async fn create(&mut self, id: i64, start: i64, mut watcher: Watcher) -> Result<(), Gone> {
        if start < 0 {
            return self.refuse("etcdserver: mvcc: required revision has been compacted").await;
        }
        if let Some(end) = &watcher.range.end
            && !end.is_empty()
            && *end <= watcher.range.start
        {
            return self.refuse("mvcc: watcher range is empty").await;
        }
        let id = match id {
            0 => {
                while self.watches.contains_key(&self.next_id) {
                    self.next_id += 1;
                }
                self.next_id += 1;
                self.next_id - 1
            }
            id if self.watches.contains_key(&id) => {
                return self.refuse("mvcc: duplicate watch ID provided on the WatchStream").await;
            }
            id => id,
        };
        let options = WatchOptions { start: Revision(start), prev_kv: watcher.prev_kv };
        let watch = match self.service.store.watch(watcher.range.clone(), options).await {
            Ok(watch) => watch,
            Err(error) => return self.refuse(status(error).message()).await,
        };
        // A watch of the past has seen nothing yet; any other is up to date.
        watcher.seen = if start > 0 { Revision(start - 1).min(watch.revision) } else { watch.revision };
        if watcher.progress_notify && self.report_at.is_none() {
            self.report_at = Some(Instant::now() + PROGRESS_INTERVAL);
        }
        let answer = self.answer(id, watch.revision);
        self.messages.insert(id, watch.messages);
        self.watches.insert(id, watcher);
        self.send(PbWatchResponse { created: true, ..answer }).await
    }

    async fn refuse(&self, reason: &str) -> Result<(), Gone> {
        let answer = self.answer(NO_WATCH, self.now().await?);
        let cancel_reason = reason.to_owned();
        self.send(PbWatchResponse { created: true, canceled: true, cancel_reason, ..answer }).await
    }

    async fn cancel(&mut self, id: i64) -> Result<(), Gone> {
        if self.watches.remove(&id).is_none() {
            return Ok(());
        }
        self.messages.remove(&id);
        let answer = self.answer(id, self.now().await?);
        self.send(PbWatchResponse { canceled: true, ..answer }).await?;
        self.progress().await
    }

    async fn message(&mut self, id: i64, message: WatchMessage) -> Result<(), Gone> {
        let Some(watcher) = self.watches.get_mut(&id) else { return Ok(()) };
        match message {
            WatchMessage::Events { revision, events } => {
                watcher.seen = revision;
                let wanted: Vec<PbEvent> = events.iter().filter(|event| watcher.wants(event)).map(event).collect();
                if !wanted.is_empty() {
                    watcher.quiet = false;
                    let fragment = watcher.fragment;
                    let answer = PbWatchResponse { events: wanted, ..self.answer(id, revision) };
                    self.send_events(answer, fragment).await?;
                }
                self.progress().await
            }
            WatchMessage::Progress(revision) => {
                watcher.seen = watcher.seen.max(revision);
                if std::mem::take(&mut watcher.report_due) {
                    self.send(self.answer(id, revision)).await?;
                }
                self.progress().await
            }
            WatchMessage::Compacted(revision) => {
                self.watches.remove(&id);
                self.messages.remove(&id);
                let answer = self.answer(id, self.now().await?);
                self.send(PbWatchResponse { canceled: true, compact_revision: revision.0, ..answer }).await?;
                self.progress().await
            }
            WatchMessage::Lagged => self.resume(id).await,
        }
    }

    /// Begins a watch that was too slow again after what was sent.
    async fn resume(&mut self, id: i64) -> Result<(), Gone> {
        let Some(watcher) = self.watches.get(&id) else { return Ok(()) };
        let options = WatchOptions { start: Revision(watcher.seen.0 + 1), prev_kv: watcher.prev_kv };
        let Watch { messages, .. } =
            self.service.store.watch(watcher.range.clone(), options).await.map_err(|_| Gone)?;
        self.messages.insert(id, messages);
        Ok(())
    }

    /// Sends the events whole, or, if the client takes fragments, in messages of about a request's size.
    async fn send_events(&self, mut answer: PbWatchResponse, fragment: bool) -> Result<(), Gone> {
        let limit = self.service.store.options().request_bytes_max + OVERHEAD_BYTES;
        if !fragment || answer.events.len() < 2 || answer.encoded_len() < limit {
            return self.send(answer).await;
        }
        let mut events = std::mem::take(&mut answer.events).into_iter().peekable();
        while events.peek().is_some() {
            let mut part = PbWatchResponse { fragment: true, ..answer.clone() };
            let mut size = part.encoded_len();
            while let Some(event) = events.peek() {
                // A tag and a length go before each event.
                size += event.encoded_len() + 8;
                if size >= limit && !part.events.is_empty() {
                    break;
                }
                part.events.extend(events.next());
            }
            part.fragment = events.peek().is_some();
            self.send(part).await?;
        }
        Ok(())
    }

    /// Answers a request for progress once every watch of the stream has come as far as it had to.
    async fn progress(&mut self) -> Result<(), Gone> {
        let Some(wanted) = self.progress_wanted else { return Ok(()) };
        if self.watches.is_empty() || self.watches.values().any(|watcher| watcher.seen < wanted) {
            return Ok(());
        }
        self.progress_wanted = None;
        self.send(self.answer(NO_WATCH, wanted)).await
    }

    /// Tells quiet watches how far they are.
    async fn report(&mut self) -> Result<(), Gone> {
        let revision = self.now().await?;
        let mut told = Vec::new();
        let mut more = false;
        for (id, watcher) in &mut self.watches {
            if !watcher.progress_notify {
                continue;
            }
            more = true;
            if std::mem::replace(&mut watcher.quiet, true) {
                watcher.report_due = watcher.seen < revision;
                if !watcher.report_due {
                    told.push(*id);
                }
            }
        }
        self.report_at = more.then(|| Instant::now() + PROGRESS_INTERVAL);
        for id in told {
            self.send(self.answer(id, revision)).await?;
        }
        self.service.store.request_progress().await.map_err(|_| Gone)
    }
}

impl Watcher {
    fn wants(&self, event: &Event) -> bool {
        match event.kind {
            EventKind::Put => !self.no_put,
            EventKind::Delete => !self.no_delete,
        }
    }
}

fn event(event: &Event) -> PbEvent {
    let kind = match event.kind {
        EventKind::Put => EventType::Put,
        EventKind::Delete => EventType::Delete,
    };
    PbEvent { r#type: kind as i32, kv: Some(key_value(event.kv.clone())), prev_kv: event.prev.clone().map(key_value) }
}
