//! What a client still sends when its request has been answered.
//!
//! An answer may come before the whole body has been read: 401, 405, 413. If the server then closes the connection,
//! the kernel resets it for the bytes that nobody read, and the client loses the answer. So a bounded rest of the body
//! is read and thrown away, as Go's `net/http` does (`server.go` `maxPostHandlerReadBytes`); a connection with a longer
//! rest is closed, and lingers ([`super::linger`]).

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;

/// Go's `maxPostHandlerReadBytes`.
const REST_BYTES_MAX: usize = 256 << 10;
/// A client that sends its rest slower than this is not waited for.
const REST_WITHIN: Duration = Duration::from_millis(500);

/// Where rests of bodies are read: tasks of the listener.
#[derive(Clone)]
pub(super) struct Rests {
    pub tasks: TaskTracker,
    pub runtime: Handle,
}

/// A request's body. When it is dropped before its end, its rest is read.
pub(super) struct Remainder {
    /// `None` at its end.
    body: Option<Incoming>,
    rests: Rests,
    /// The client waits to be told to send the body (`Expect: 100-continue`); it will not be.
    expects: bool,
    /// The rest is too long, so the connection ends with the answer.
    cut: Arc<AtomicBool>,
}

impl Remainder {
    /// The second result says, when the request has been answered, whether the connection ends with it.
    pub fn new(body: Incoming, expects: bool, rests: Rests) -> (Self, Arc<AtomicBool>) {
        let cut = Arc::new(AtomicBool::new(false));
        let body = (!body.is_end_stream()).then_some(body);
        (Self { body, rests, expects, cut: Arc::clone(&cut) }, cut)
    }
}

impl Body for Remainder {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let frame = ready!(Pin::new(body).poll_frame(context));
        match frame {
            Some(Ok(_)) => self.expects = false,
            Some(Err(_)) | None => self.body = None,
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

impl Drop for Remainder {
    fn drop(&mut self) {
        let Some(body) = self.body.take().filter(|body| !body.is_end_stream()) else { return };
        if self.expects || body.size_hint().lower() > REST_BYTES_MAX as u64 {
            self.cut.store(true, Ordering::Relaxed);
            return;
        }
        self.rests.tasks.spawn_on(drain(body), &self.rests.runtime);
    }
}

/// Reads a bounded rest. Whether it was all shows when `body` is dropped: hyper then closes the connection or goes on.
async fn drain(mut body: Incoming) {
    let reading = async {
        let mut left = REST_BYTES_MAX;
        while let Some(Ok(frame)) = body.frame().await {
            let Some(rest) = left.checked_sub(frame.data_ref().map_or(0, Bytes::len)) else { return };
            left = rest;
        }
    };
    // Out of time or at the end: the connection shows which.
    let _late = tokio::time::timeout(REST_WITHIN, reading).await;
}
