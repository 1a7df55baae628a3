//! Watch: frames the cache's changes for one client (apiserver `endpoints/handlers/watch.go`).

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use api::Status;
use axum::body::Body;
use base::Shutdown;
use bytes::{BufMut, Bytes, BytesMut};
use rand::Rng;
use serde_json::{Value, json};
use tokio::time::{Instant, Sleep};

use super::read::ListOptions;
use crate::cache::entry::Entry;
use crate::cache::view::Selection;
use crate::cache::watcher::{Event, Watcher};
use crate::cache::{Cache, WatchStart};
use crate::negotiate::{Accept, Format, Shape};
use crate::respond::{self, Response};
use crate::served::{Served, Stored};
use crate::server::ApiServer;
use crate::table::{IncludeObject, Table};

/// How often a client that wants bookmarks gets one.
const BOOKMARK_INTERVAL: Duration = Duration::from_secs(60);
/// Existing objects that are converted together. Those that are converted here, without a webhook, are taken in smaller
/// parts: until they are sent a slow client holds them in memory.
const PREPARED: usize = 500;
const TAKEN: usize = 32;
/// A watch may ask for any number of seconds; what is longer than a year is a year, which can be reckoned with.
const LONGEST_SECONDS: u64 = 366 * 24 * 60 * 60;
/// What waits is sent together up to this many bytes.
const BATCH: usize = 32 << 10;

/// One client's stream of frames.
pub struct Frames {
    server: Arc<ApiServer>,
    served: Arc<Served>,
    stored: Stored,
    cache: Arc<Cache>,
    watcher: Watcher,
    /// Those of the initial events that have been taken and not yet told.
    initial: VecDeque<Event>,
    /// There may be more of them.
    more_initial: bool,
    /// What is looked at only after the conversion by a webhook.
    narrow: Option<Selection>,
    accept: Accept,
    include: IncludeObject,
    shutdown: Shutdown,
    draining: Shutdown,
    /// It is known when the watch ends for a server that stops.
    drains: bool,
    bookmarks: bool,
    /// The bookmark that ends the initial events is still to come.
    initial_mark: bool,
    last_bookmark: i64,
    bookmark_at: std::pin::Pin<Box<Sleep>>,
    end_at: std::pin::Pin<Box<Sleep>>,
    columns_sent: bool,
    done: bool,
    /// Changes up to here are known to the client: it may ask from a version that is yet to come.
    after: i64,
    began: Instant,
    scope: &'static str,
}

/// Registers the watch. An error before the first byte is an ordinary answer, but for an expired version, which upstream
/// reports as an `ERROR` event of a stream that is otherwise fine.
pub async fn open(
    server: &Arc<ApiServer>,
    served: &Arc<Served>,
    stored: &Stored,
    accept: Accept,
    include: IncludeObject,
    options: &ListOptions,
) -> Result<Result<Frames, Status>, Status> {
    let cache = &stored.cache;
    // The storage says this here, not the handler, so nobody makes a bad request of it.
    let revision = options.revision().map_err(|status| super::read::of_storage(&status))?;
    let initial = options.send_initial_events == Some(true);
    let start = match (options.send_initial_events, revision) {
        (Some(true), Some(version)) if version > 0 => {
            // What goes wrong from here on is told as an event (`Cacher.Watch`).
            if let Err(status) = cache.not_older_than(version).await {
                return Ok(Err(status));
            }
            WatchStart::Existing
        }
        (Some(true) | None, None) => {
            cache.fresh().await?;
            WatchStart::Existing
        }
        (Some(true) | None, Some(0)) => {
            cache.ready().await?;
            WatchStart::Existing
        }
        (Some(false), None | Some(0)) => {
            cache.fresh().await?;
            WatchStart::Now
        }
        (_, Some(version)) => {
            cache.fresh().await?;
            WatchStart::After(version)
        }
    };
    cache.check_readable(&options.selection)?;
    let broad = options.selection.before_conversion();
    let narrow = broad.is_some().then(|| options.selection.clone());
    let watcher = match cache.watch(broad.unwrap_or_else(|| options.selection.clone()), &start) {
        Ok(watcher) => watcher,
        Err(status) => return Ok(Err(status)),
    };
    let seconds = options.timeout_seconds.and_then(|s| u64::try_from(s).ok()).filter(|s| *s > 0);
    let seconds = seconds.map(|seconds| seconds.min(LONGEST_SECONDS));
    let timeout = seconds.map_or_else(
        || server.limits.watch_timeout_min.mul_f64(1.0 + rand::rng().random::<f64>()),
        Duration::from_secs,
    );
    let now = Instant::now();
    Ok(Ok(Frames {
        server: Arc::clone(server),
        served: Arc::clone(served),
        stored: stored.clone(),
        cache: Arc::clone(cache),
        last_bookmark: watcher.revision,
        watcher,
        initial: VecDeque::new(),
        more_initial: true,
        narrow,
        accept,
        include,
        shutdown: server.shutdown.clone(),
        draining: server.stopping.draining(),
        drains: false,
        bookmarks: options.allow_bookmarks,
        initial_mark: initial && options.allow_bookmarks,
        bookmark_at: Box::pin(tokio::time::sleep_until(now + BOOKMARK_INTERVAL)),
        end_at: Box::pin(tokio::time::sleep_until(now + timeout)),
        columns_sent: false,
        done: false,
        after: match start {
            WatchStart::After(version) => version,
            WatchStart::Existing | WatchStart::Now => 0,
        },
        began: now,
        // `CleanListScope`.
        scope: match (options.selection.name.is_empty(), options.selection.namespace.is_empty()) {
            (false, _) => "resource",
            (true, false) => "namespace",
            (true, true) => "cluster",
        },
    }))
}

impl Frames {
    /// The next frames; `None` ends the stream. Several changes come together if they wait.
    pub async fn next(&mut self) -> Option<Bytes> {
        if self.done {
            return None;
        }
        let mut out = BytesMut::new();
        // A client that takes what there is slower than its watch lasts does not get more of it.
        while out.len() < BATCH && (self.more_initial || !self.initial.is_empty()) {
            if self.end_at.deadline() <= Instant::now() {
                self.done = true;
                return (!out.is_empty()).then(|| out.freeze());
            }
            let Some(event) = self.initial.pop_front() else {
                if !self.take_initial().await {
                    self.done = true;
                    return None;
                }
                continue;
            };
            self.tell(&mut out, event).await;
        }
        if self.initial.is_empty() && !self.more_initial && std::mem::take(&mut self.initial_mark) {
            let revision = self.watcher.revision;
            self.server.metrics.requests.watch_list(&self.served, self.scope, self.began.elapsed());
            self.push_bookmark(&mut out, revision, true);
        }
        if !out.is_empty() {
            return Some(out.freeze());
        }
        loop {
            tokio::select! {
                biased;
                () = self.shutdown.cancelled() => return None,
                () = self.draining.cancelled(), if !self.drains => {
                    self.drains = true;
                    let turn = self.server.stopping.turn().min(self.end_at.deadline());
                    self.end_at.as_mut().reset(turn);
                }
                event = self.watcher.receiver.recv() => {
                    let Some(event) = event else {
                        self.done = true;
                        return None;
                    };
                    self.tell(&mut out, event).await;
                    while out.len() < BATCH && let Some(event) = self.watcher.receiver.try_recv() {
                        self.tell(&mut out, event).await;
                    }
                    if out.is_empty() {
                        continue;
                    }
                    return Some(out.freeze());
                }
                () = &mut self.end_at => {
                    self.done = true;
                    return None;
                }
                () = &mut self.bookmark_at, if self.bookmarks => {
                    self.bookmark_at.as_mut().reset(Instant::now() + BOOKMARK_INTERVAL);
                    if let Some(revision) = self.cache.bookmark_revision(&self.watcher)
                        && revision > self.last_bookmark
                    {
                        self.last_bookmark = revision;
                        self.push_bookmark(&mut out, revision, false);
                        return Some(out.freeze());
                    }
                }
            }
        }
    }

    /// Takes the next of the initial events; `false`: the watch was cut off, and what it told is not everything.
    async fn take_initial(&mut self) -> bool {
        let webhook = self.served.def.custom.as_ref().is_some_and(|c| c.has_webhook());
        self.initial = self.watcher.receiver.take_initial(if webhook { PREPARED } else { TAKEN });
        self.more_initial = !self.initial.is_empty();
        if !self.more_initial && self.watcher.receiver.was_cut() {
            return false;
        }
        if webhook {
            let entries: Vec<Arc<Entry>> = self.initial.iter().map(|e| Arc::clone(&e.entry)).collect();
            // What cannot be converted is told event by event.
            let _ = self.stored.view.prepare(&entries).await;
        }
        true
    }

    /// Frames an event, if it is one in the version that is asked for. What cannot be converted is told as an error.
    async fn tell(&mut self, out: &mut BytesMut, event: Event) {
        let _ = self.stored.view.prepare(std::slice::from_ref(&event.entry)).await;
        let Some(narrow) = &self.narrow else { return self.push(out, event.kind.as_str(), &event.entry) };
        if let Some(previous) = &event.previous {
            let _ = self.stored.view.prepare(std::slice::from_ref(previous)).await;
        }
        let Some(event) = event.narrowed(narrow) else { return };
        let _ = self.stored.view.prepare(std::slice::from_ref(&event.entry)).await;
        self.push(out, event.kind.as_str(), &event.entry);
    }

    fn push(&mut self, out: &mut BytesMut, kind: &str, entry: &Entry) {
        if entry.revision <= self.after {
            return;
        }
        let framed = match self.accept.shape {
            Shape::Object => self.stored.view.json(entry),
            Shape::PartialMetadata | Shape::PartialMetadataList => {
                respond::partial_metadata(&self.stored, entry, self.accept.beta)
            }
            Shape::Table => self.stored.view.object(entry).and_then(|object| {
                let mut table = self.table();
                let version = object.resource_version().to_owned();
                table.push(object);
                serde_json::to_vec(&table.finish(json!({"resourceVersion": version})))
                    .map(Bytes::from)
                    .map_err(Status::internal)
            }),
        };
        let framed = match (framed, self.accept.format) {
            (Ok(_), Format::Protobuf) if self.accept.shape == Shape::Object => {
                respond::protobuf_document(&self.served, &self.stored, entry)
            }
            (Ok(json), Format::Protobuf) if self.accept.shape != Shape::Table => serde_json::from_slice(&json)
                .map_err(Status::internal)
                .and_then(|value| crate::codec::protobuf_any(&self.served.def, &value)),
            (framed, _) => framed,
        };
        match framed {
            Ok(object) => self.frame(out, kind, &object),
            Err(status) => self.fail(out, &status),
        }
    }

    fn table(&mut self) -> Table {
        let def = Arc::clone(&self.served.def);
        let mut table = Table::new(def, self.accept.meta_version(), self.include, self.server.clock.now());
        table.with_columns = !std::mem::replace(&mut self.columns_sent, true);
        table
    }

    fn push_bookmark(&mut self, out: &mut BytesMut, revision: i64, initial: bool) {
        let mut metadata = json!({"resourceVersion": revision.to_string()});
        if initial {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let gvk = &self.served.def.gvk;
        let value = match self.accept.shape {
            Shape::Object => json!({"kind": gvk.kind, "apiVersion": gvk.api_version(), "metadata": metadata}),
            Shape::PartialMetadata | Shape::PartialMetadataList => json!({
                "kind": "PartialObjectMetadata", "apiVersion": self.accept.meta_version(), "metadata": metadata,
            }),
            Shape::Table => {
                let object = json!({"kind": gvk.kind, "apiVersion": gvk.api_version(), "metadata": metadata});
                let mut table = self.table();
                table.push(api::Object::from_value(object).unwrap_or_default());
                table.finish(json!({"resourceVersion": revision.to_string()}))
            }
        };
        self.push_value(out, "BOOKMARK", &value);
    }

    fn push_value(&self, out: &mut BytesMut, kind: &str, value: &Value) {
        if self.accept.format == Format::Protobuf {
            match crate::codec::protobuf_any(&self.served.def, value) {
                Ok(object) => self.frame(out, kind, &object),
                Err(status) => tracing::error!(error = %status, "cannot encode a watch event"),
            }
            return;
        }
        // A value always serialises.
        self.frame(out, kind, &serde_json::to_vec(value).unwrap_or_default());
    }

    fn frame(&self, out: &mut BytesMut, kind: &str, object: &[u8]) {
        self.served.sent.event(object.len());
        match self.accept.format {
            Format::Protobuf => crate::codec::push_watch_frame(out, kind, object),
            Format::Json | Format::Yaml => {
                out.put_slice(b"{\"type\":\"");
                out.put_slice(kind.as_bytes());
                out.put_slice(b"\",\"object\":");
                out.put_slice(object);
                out.put_slice(b"}\n");
            }
        }
    }

    fn fail(&mut self, out: &mut BytesMut, status: &Status) {
        self.push_value(out, "ERROR", &status.to_value());
        self.done = true;
    }
}

/// The media type of a stream of frames.
pub fn media_type(accept: Accept) -> &'static str {
    match accept.format {
        Format::Protobuf => "application/vnd.kubernetes.protobuf;stream=watch",
        // Upstream's JSON watch says no more than this.
        Format::Json | Format::Yaml => "application/json",
    }
}

/// The response of a watch over plain HTTP.
pub fn respond(opened: Result<Frames, Status>, accept: Accept, served: &Served) -> Response {
    let frames = match opened {
        Ok(frames) => frames,
        Err(status) => return error_event(&status, accept, served),
    };
    let stream = futures::stream::unfold(frames, |mut frames| async move {
        let bytes = frames.next().await?;
        Some((Ok::<_, std::convert::Infallible>(bytes), frames))
    });
    respond::bytes(200, media_type(accept), Body::from_stream(stream))
}

fn error_event(status: &Status, accept: Accept, served: &Served) -> Response {
    if accept.format == Format::Protobuf {
        let mut out = BytesMut::new();
        return match crate::codec::protobuf_any(&served.def, &status.to_value()) {
            Ok(object) => {
                crate::codec::push_watch_frame(&mut out, "ERROR", &object);
                respond::bytes(200, media_type(accept), out.freeze())
            }
            Err(status) => respond::failure(&status, Accept::JSON),
        };
    }
    let mut line = json!({"type": "ERROR", "object": status.to_value()}).to_string();
    line.push('\n');
    respond::bytes(200, media_type(accept), line)
}
