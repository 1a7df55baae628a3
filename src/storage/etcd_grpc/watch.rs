//! The Watch service (etcd server/etcdserver/api/v3rpc/watch.go): many watches on one stream.
//!
//! The stream of answers drives everything: while the client does not read, nothing is taken from the watches, and a
//! watch whose queue fills meanwhile is begun again after the last revision that was sent. So a slow client is late but
//! misses nothing, as with etcd. When the client goes, the stream is dropped and its watches with it.

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{AbortHandle, Abortable, SelectAll, abortable};
use futures::{Stream, StreamExt, stream};
use prost::Message;
use tokio::time::Instant;
use tonic::{Request, Response, Status, Streaming, async_trait};

use super::errors::status;
use super::pb::event::EventType;
use super::pb::watch_request::RequestUnion;
use super::pb::watch_server::Watch;
use super::pb::{self, WatchCreateRequest, WatchRequest, WatchResponse};
use super::{OVERHEAD_BYTES, Service, key_range, key_value};
use crate::store::{Event, EventKind, KeyRange, Messages, Revision, Store, StoreError, WatchMessage, WatchOptions};

/// How often a quiet watch that asked for it is told how far it is (etcd `progressReportInterval`).
const PROGRESS_INTERVAL: Duration = Duration::from_secs(600);
/// etcd `clientv3.InvalidWatchID`: no watch, or all of them.
const NO_WATCH: i64 = -1;

#[async_trait]
impl Watch for Service {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<WatchResponse, Status>> + Send>>;

    async fn watch(&self, request: Request<Streaming<WatchRequest>>) -> Result<Response<Self::WatchStream>, Status> {
        let session = Session {
            service: self.clone(),
            requests: Some(request.into_inner()),
            answers: VecDeque::new(),
            watches: HashMap::new(),
            messages: SelectAll::new(),
            next_id: 0,
            begun: 0,
            progress_wanted: None,
            report_at: None,
        };
        let answers = stream::unfold(Some(session), |session| async move {
            let mut session = session?;
            match session.next().await {
                Ok(answer) => Some((Ok(answer), Some(session))),
                Err(Over::Gone) => None,
                Err(Over::Stopped) => Some((Err(status(StoreError::Stopped)), None)),
            }
        });
        Ok(Response::new(answers.boxed()))
    }
}

/// Why a stream ends.
enum Over {
    /// The client has gone.
    Gone,
    /// The server stops.
    Stopped,
}

/// A stream's watches.
struct Session {
    service: Service,
    /// `None` when the client asks for nothing more; it still listens.
    requests: Option<Streaming<WatchRequest>>,
    /// Answers that are ready; messages are taken only when there are none.
    answers: VecDeque<WatchResponse>,
    watches: HashMap<i64, Watcher>,
    messages: SelectAll<Abortable<Numbered>>,
    next_id: i64,
    /// Watches begun so far: tells a watch's messages from those of an earlier one with the same number.
    begun: u64,
    /// The client asked to be told when all watches have come to this revision.
    progress_wanted: Option<Revision>,
    /// When quiet watches are told how far they are.
    report_at: Option<Instant>,
}

/// The messages of one watch with its numbers.
struct Numbered {
    id: i64,
    begun: u64,
    messages: Messages,
}

impl Stream for Numbered {
    type Item = (i64, u64, WatchMessage);

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let message = ready!(self.messages.poll_recv(cx));
        Poll::Ready(message.map(|message| (self.id, self.begun, message)))
    }
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
    /// First revision wanted, 0: from then on.
    start: Revision,
    /// Everything up to here has been sent.
    seen: Revision,
    begun: u64,
    abort: AbortHandle,
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.abort.abort();
    }
}

impl Session {
    async fn next(&mut self) -> Result<WatchResponse, Over> {
        let shutdown = self.service.shutdown.clone();
        loop {
            if let Some(answer) = self.answers.pop_front() {
                return Ok(answer);
            }
            let report_at = self.report_at;
            let report = async {
                match report_at {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let requests = &mut self.requests;
            let request = async {
                match requests {
                    Some(requests) => requests.message().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return Err(Over::Stopped),
                request = request => match request {
                    Ok(Some(request)) => self.request(request).await?,
                    Ok(None) => self.requests = None,
                    Err(_) => return Err(Over::Gone),
                },
                Some((id, begun, message)) = self.messages.next() => self.message(id, begun, message).await?,
                () = report => self.report().await?,
            }
        }
    }

    fn answer(&self, watch_id: i64, revision: Revision) -> WatchResponse {
        WatchResponse { header: self.service.header(revision), watch_id, ..WatchResponse::default() }
    }

    async fn now(&self) -> Result<Revision, Over> {
        self.service.store.revision().await.map_err(|_| Over::Stopped)
    }

    async fn request(&mut self, request: WatchRequest) -> Result<(), Over> {
        match request.request_union {
            Some(RequestUnion::CreateRequest(create)) => self.create(create).await,
            Some(RequestUnion::CancelRequest(cancel)) => self.cancel(cancel.watch_id).await,
            Some(RequestUnion::ProgressRequest(_)) => {
                let now = self.now().await?;
                // etcd `progressIfSync` tells nothing while a watch waits for a revision to come.
                if self.watches.is_empty() || self.watches.values().any(|watcher| watcher.start > now) {
                    return Ok(());
                }
                self.progress_wanted = Some(now);
                self.service.store.request_progress().await.map_err(|_| Over::Stopped)?;
                self.progress();
                Ok(())
            }
            None => Ok(()),
        }
    }

    async fn create(&mut self, create: WatchCreateRequest) -> Result<(), Over> {
        let WatchCreateRequest { start_revision: start, watch_id, .. } = create;
        if start < 0 {
            return self.refuse("etcdserver: mvcc: required revision has been compacted").await;
        }
        let key = if create.key.is_empty() { Bytes::from_static(&[0]) } else { create.key };
        let range = key_range(&key, &create.range_end);
        if let Some(end) = &range.end
            && !end.is_empty()
            && *end <= range.start
        {
            return self.refuse("mvcc: watcher range is empty").await;
        }
        let id = match watch_id {
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
        let options = WatchOptions { start: Revision(start), prev_kv: create.prev_kv };
        let watch = match self.service.store.watch(range.clone(), options).await {
            Ok(watch) => watch,
            Err(error) => return self.refuse(status(error).message()).await,
        };
        let (begun, abort) = self.listen(id, watch.messages);
        let watcher = Watcher {
            range,
            prev_kv: create.prev_kv,
            fragment: create.fragment,
            no_put: create.filters.contains(&0),
            no_delete: create.filters.contains(&1),
            progress_notify: create.progress_notify,
            quiet: true,
            report_due: false,
            start: Revision(start),
            // A watch of the past has seen nothing yet; any other is up to date.
            seen: if start > 0 { Revision(start - 1).min(watch.revision) } else { watch.revision },
            begun,
            abort,
        };
        if watcher.progress_notify && self.report_at.is_none() {
            self.report_at = Some(Instant::now() + PROGRESS_INTERVAL);
        }
        self.watches.insert(id, watcher);
        let answer = self.answer(id, watch.revision);
        self.answers.push_back(WatchResponse { created: true, ..answer });
        Ok(())
    }

    fn listen(&mut self, id: i64, messages: Messages) -> (u64, AbortHandle) {
        self.begun += 1;
        let (messages, abort) = abortable(Numbered { id, begun: self.begun, messages });
        self.messages.push(messages);
        (self.begun, abort)
    }

    async fn refuse(&mut self, reason: &str) -> Result<(), Over> {
        let answer = self.answer(NO_WATCH, self.now().await?);
        let cancel_reason = reason.to_owned();
        self.answers.push_back(WatchResponse { created: true, canceled: true, cancel_reason, ..answer });
        Ok(())
    }

    async fn cancel(&mut self, id: i64) -> Result<(), Over> {
        if self.watches.remove(&id).is_none() {
            return Ok(());
        }
        let answer = self.answer(id, self.now().await?);
        self.answers.push_back(WatchResponse { canceled: true, ..answer });
        self.progress();
        Ok(())
    }

    async fn message(&mut self, id: i64, begun: u64, message: WatchMessage) -> Result<(), Over> {
        let Some(watcher) = self.watches.get_mut(&id).filter(|watcher| watcher.begun == begun) else { return Ok(()) };
        match message {
            WatchMessage::Events { revision, events } => {
                watcher.seen = revision;
                let wanted: Vec<pb::Event> = events.iter().filter(|event| watcher.wants(event)).map(event).collect();
                if !wanted.is_empty() {
                    watcher.quiet = false;
                    let fragment = watcher.fragment;
                    let answer = WatchResponse { events: wanted, ..self.answer(id, revision) };
                    self.push_events(answer, fragment);
                }
            }
            WatchMessage::Progress(revision) => {
                watcher.seen = watcher.seen.max(revision);
                if std::mem::take(&mut watcher.report_due) {
                    let answer = self.answer(id, revision);
                    self.answers.push_back(answer);
                }
            }
            WatchMessage::Compacted(revision) => {
                self.watches.remove(&id);
                let answer = self.answer(id, Revision(0));
                self.answers.push_back(WatchResponse { canceled: true, compact_revision: revision.0, ..answer });
            }
            WatchMessage::Lagged => return self.resume(id).await,
        }
        self.progress();
        Ok(())
    }

    /// Begins a watch that was too slow again after what was sent.
    async fn resume(&mut self, id: i64) -> Result<(), Over> {
        let Some(watcher) = self.watches.get(&id) else { return Ok(()) };
        let options = WatchOptions { start: Revision(watcher.seen.0 + 1), prev_kv: watcher.prev_kv };
        let watch = self.service.store.watch(watcher.range.clone(), options).await.map_err(|_| Over::Stopped)?;
        let (begun, abort) = self.listen(id, watch.messages);
        if let Some(watcher) = self.watches.get_mut(&id) {
            watcher.begun = begun;
            watcher.abort = abort;
        }
        Ok(())
    }

    /// Sends the events whole, or, if the client takes fragments, in messages of about a request's size.
    fn push_events(&mut self, mut answer: WatchResponse, fragment: bool) {
        let limit = self.service.store.options().request_bytes_max + OVERHEAD_BYTES;
        if !fragment || answer.events.len() < 2 || answer.encoded_len() < limit {
            self.answers.push_back(answer);
            return;
        }
        let mut events = std::mem::take(&mut answer.events).into_iter().peekable();
        while events.peek().is_some() {
            let mut part = WatchResponse { fragment: true, ..answer.clone() };
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
            self.answers.push_back(part);
        }
    }

    /// Answers a request for progress once every watch of the stream has come as far as it had to.
    fn progress(&mut self) {
        let Some(wanted) = self.progress_wanted else { return };
        if self.watches.values().any(|watcher| watcher.seen < wanted) {
            return;
        }
        self.progress_wanted = None;
        if !self.watches.is_empty() {
            let answer = self.answer(NO_WATCH, wanted);
            self.answers.push_back(answer);
        }
    }

    /// Tells quiet watches how far they are.
    async fn report(&mut self) -> Result<(), Over> {
        let revision = self.now().await?;
        let mut told = Vec::new();
        let mut more = false;
        for (id, watcher) in &mut self.watches {
            if !watcher.progress_notify {
                continue;
            }
            more = true;
            if std::mem::replace(&mut watcher.quiet, true) && watcher.start <= revision {
                watcher.report_due = watcher.seen < revision;
                if !watcher.report_due {
                    told.push(*id);
                }
            }
        }
        self.report_at = more.then(|| Instant::now() + PROGRESS_INTERVAL);
        for id in told {
            let answer = self.answer(id, revision);
            self.answers.push_back(answer);
        }
        self.service.store.request_progress().await.map_err(|_| Over::Stopped)
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

fn event(event: &Event) -> pb::Event {
    let kind = match event.kind {
        EventKind::Put => EventType::Put,
        EventKind::Delete => EventType::Delete,
    };
    // A deleted key is all that etcd says of it, but for when.
    pb::Event { r#type: kind as i32, kv: Some(key_value(event.kv.clone())), prev_kv: event.prev.clone().map(key_value) }
}
