//! Counts calls and their messages as etcd's server does (go-grpc-prometheus' names, and
//! server/etcdserver/api/v3rpc/metrics.go).

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::middleware::Next;
use axum::response::Response;
use base::grpc::CODES;
use bytes::Bytes;
use http_body::{Frame, SizeHint};

use crate::sqlite::Page;

const CANCELED: usize = 1;
const UNKNOWN: usize = 2;
/// A message is preceded by a byte of flags and its length in four.
const PREFIX_BYTES: usize = 5;

/// Services with their methods; those with a type are streams.
const SERVICES: [(&str, &[(&str, &str)]); 6] = [
    ("etcdserverpb.KV", &[("Range", ""), ("Put", ""), ("DeleteRange", ""), ("Txn", ""), ("Compact", "")]),
    ("etcdserverpb.Watch", &[("Watch", "bidi_stream")]),
    (
        "etcdserverpb.Lease",
        &[
            ("LeaseGrant", ""),
            ("LeaseRevoke", ""),
            ("LeaseKeepAlive", "bidi_stream"),
            ("LeaseTimeToLive", ""),
            ("LeaseLeases", ""),
        ],
    ),
    (
        "etcdserverpb.Cluster",
        &[("MemberAdd", ""), ("MemberRemove", ""), ("MemberUpdate", ""), ("MemberList", ""), ("MemberPromote", "")],
    ),
    (
        "etcdserverpb.Maintenance",
        &[
            ("Alarm", ""),
            ("Status", ""),
            ("Defragment", ""),
            ("Hash", ""),
            ("HashKV", ""),
            ("Snapshot", "server_stream"),
            ("MoveLeader", ""),
            ("Downgrade", ""),
        ],
    ),
    ("grpc.health.v1.Health", &[("Check", ""), ("Watch", "server_stream")]),
];

/// The counters of every method.
#[derive(Debug)]
pub(super) struct Calls {
    methods: Vec<Method>,
    received_bytes: AtomicU64,
    sent_bytes: AtomicU64,
}

#[derive(Debug)]
struct Method {
    service: &'static str,
    name: &'static str,
    kind: &'static str,
    started: AtomicU64,
    received: AtomicU64,
    sent: AtomicU64,
    handled: [AtomicU64; CODES.len()],
}

impl Default for Calls {
    fn default() -> Self {
        let methods = SERVICES.iter().flat_map(|(service, methods)| {
            methods.iter().map(|(name, kind)| Method {
                service,
                name,
                kind: if kind.is_empty() { "unary" } else { kind },
                started: AtomicU64::default(),
                received: AtomicU64::default(),
                sent: AtomicU64::default(),
                handled: Default::default(),
            })
        });
        Self { methods: methods.collect(), received_bytes: AtomicU64::default(), sent_bytes: AtomicU64::default() }
    }
}

impl Calls {
    fn find(&self, path: &str) -> Option<usize> {
        let (service, name) = path.strip_prefix('/')?.split_once('/')?;
        self.methods.iter().position(|method| method.name == name && method.service == service)
    }

    /// Watch streams that are open.
    fn watch_streams(&self) -> u64 {
        let watches = self.methods.iter().filter(|method| method.service == "etcdserverpb.Watch");
        let open = watches.map(|method| {
            let ended: u64 = method.handled.iter().map(|count| count.load(Ordering::Relaxed)).sum();
            method.started.load(Ordering::Relaxed).saturating_sub(ended)
        });
        open.sum()
    }

    /// Appends the counters to a page. Codes that no call ended with are left out.
    pub(super) fn write(&self, page: &mut Page<'_>) {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let labels = |method: &Method| {
            format!("grpc_method=\"{}\",grpc_service=\"{}\",grpc_type=\"{}\"", method.name, method.service, method.kind)
        };
        page.head("grpc_server_started_total", "counter", "Calls that began.");
        for method in &self.methods {
            page.sample("grpc_server_started_total", &labels(method), count(&method.started));
        }
        page.head("grpc_server_handled_total", "counter", "Calls that ended, by their code.");
        for method in &self.methods {
            for (code, handled) in CODES.iter().zip(&method.handled).filter(|(_, handled)| count(handled) > 0) {
                let labels = format!("grpc_code=\"{code}\",{}", labels(method));
                page.sample("grpc_server_handled_total", &labels, count(handled));
            }
        }
        page.head("grpc_server_msg_received_total", "counter", "Messages from clients.");
        for method in &self.methods {
            page.sample("grpc_server_msg_received_total", &labels(method), count(&method.received));
        }
        page.head("grpc_server_msg_sent_total", "counter", "Messages to clients.");
        for method in &self.methods {
            page.sample("grpc_server_msg_sent_total", &labels(method), count(&method.sent));
        }
        let (received, sent) = (count(&self.received_bytes), count(&self.sent_bytes));
        page.counter("etcd_network_client_grpc_received_bytes_total", "Bytes of messages from clients.", received);
        page.counter("etcd_network_client_grpc_sent_bytes_total", "Bytes of messages to clients.", sent);
        page.gauge("etcd_debugging_mvcc_watch_stream_total", "Open streams of watches.", self.watch_streams());
    }
}

/// Counts a request on its way, if it is a call.
pub(super) async fn count(State(calls): State<Arc<Calls>>, request: Request, next: Next) -> Response {
    let Some(method) = calls.find(request.uri().path()) else { return next.run(request).await };
    calls.methods[method].started.fetch_add(1, Ordering::Relaxed);
    let request = request.map(|body| Body::new(Counted::new(body, calls.clone(), method, None)));
    let mut end = End { calls: calls.clone(), method, told: false };
    let response = next.run(request).await;
    // An answer without messages has its code in the head.
    if response.headers().contains_key("grpc-status") {
        end.tell(code(response.headers()));
    }
    response.map(|body| Body::new(Counted::new(body, calls, method, Some(end))))
}

fn code(headers: &HeaderMap) -> usize {
    let code = headers.get("grpc-status").and_then(|code| code.to_str().ok()?.parse().ok());
    code.filter(|code| *code < CODES.len()).unwrap_or(UNKNOWN)
}

/// Counts how a call ended, once. One that is dropped was cancelled by its client.
struct End {
    calls: Arc<Calls>,
    method: usize,
    told: bool,
}

impl End {
    fn tell(&mut self, code: usize) {
        if !std::mem::replace(&mut self.told, true) {
            self.calls.methods[self.method].handled[code].fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Drop for End {
    fn drop(&mut self) {
        self.tell(CANCELED);
    }
}

/// A body whose messages are counted.
struct Counted {
    inner: Body,
    calls: Arc<Calls>,
    method: usize,
    messages: Messages,
    /// Of an answer.
    end: Option<End>,
}

impl Counted {
    fn new(inner: Body, calls: Arc<Calls>, method: usize, end: Option<End>) -> Self {
        Self { inner, calls, method, messages: Messages::default(), end }
    }
}

impl http_body::Body for Counted {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        let Self { calls, method, messages, end, .. } = &mut *self;
        match &frame {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    let (whole, bytes) = messages.take(data);
                    let Method { received, sent, .. } = &calls.methods[*method];
                    let (counter, total) = match end {
                        Some(_) => (sent, &calls.sent_bytes),
                        None => (received, &calls.received_bytes),
                    };
                    counter.fetch_add(whole, Ordering::Relaxed);
                    total.fetch_add(bytes, Ordering::Relaxed);
                }
                if let (Some(end), Some(trailers)) = (end, frame.trailers_ref()) {
                    end.tell(code(trailers));
                }
            }
            Some(Err(_)) | None => {
                if let Some(end) = end {
                    end.tell(UNKNOWN);
                }
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// Finds messages in the pieces of a body.
#[derive(Debug, Default)]
struct Messages {
    prefix: [u8; PREFIX_BYTES],
    /// Bytes of the prefix that have come.
    prefix_len: usize,
    /// Bytes of the message that have yet to come.
    left: usize,
}

impl Messages {
    /// Messages that begin in this piece, and the bytes of messages in it.
    fn take(&mut self, mut piece: &[u8]) -> (u64, u64) {
        let (mut whole, mut bytes) = (0, 0);
        while !piece.is_empty() {
            if self.left > 0 {
                let here = self.left.min(piece.len());
                (self.left, piece) = (self.left - here, &piece[here..]);
                bytes += here as u64;
                continue;
            }
            let here = (PREFIX_BYTES - self.prefix_len).min(piece.len());
            self.prefix[self.prefix_len..self.prefix_len + here].copy_from_slice(&piece[..here]);
            self.prefix_len += here;
            piece = &piece[here..];
            if self.prefix_len == PREFIX_BYTES {
                let [_, length @ ..] = self.prefix;
                (self.prefix_len, self.left) = (0, u32::from_be_bytes(length) as usize);
                whole += 1;
            }
        }
        (whole, bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_found_in_pieces_of_any_size() {
        let mut stream = Vec::new();
        for length in [0_usize, 3, 300, 0, 1] {
            stream.push(0);
            stream.extend_from_slice(&(length as u32).to_be_bytes());
            stream.extend_from_slice(&vec![7; length]);
        }
        for size in [1, 2, 5, 7, 64, stream.len()] {
            let mut messages = Messages::default();
            let found = stream.chunks(size).map(|piece| messages.take(piece));
            let total = found.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
            assert_eq!(total, (5, 304), "pieces of {size}");
        }
    }

    #[test]
    fn a_call_ends_once() {
        let calls = Arc::new(Calls::default());
        let put = calls.find("/etcdserverpb.KV/Put").unwrap();
        assert_eq!(calls.find("/metrics"), None);
        let mut end = End { calls: calls.clone(), method: put, told: false };
        end.tell(0);
        drop(end);
        drop(End { calls: calls.clone(), method: put, told: false });
        let mut text = String::new();
        calls.write(&mut Page(&mut text));
        let line = |code: &str| {
            format!(
                "grpc_code=\"{code}\",grpc_method=\"Put\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"}} 1\n"
            )
        };
        assert!(text.contains(&line("OK")) && text.contains(&line("Canceled")), "{text}");
    }
}
