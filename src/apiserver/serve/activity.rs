//! How long a client may take: to send the head of a request, to take an answer, to leave its connection unused.
//!
//! Times are upstream's: `ReadHeaderTimeout` and `IdleTimeout` of apiserver `server/secure_serving.go`, and the time of
//! the request itself for its answer (`server/filters/timeout.go` aborts what is not sent by then).

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Upstream's `ReadHeaderTimeout`.
const HEADER_TIMEOUT: Duration = Duration::from_secs(32);
/// Upstream's `IdleTimeout`.
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);

/// When an answer must have been sent; empty: whenever. Set when the answer begins.
pub(super) type Until = Arc<OnceLock<Instant>>;

/// In the extensions of a response: when it must have been sent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SendBy(pub Instant);

/// What happens on one connection.
pub(super) struct Activity {
    state: Mutex<State>,
    /// What [`Activity::expired`] waits for may be nearer now.
    changed: Notify,
}

struct State {
    /// Requests whose answers have not been sent.
    open: usize,
    /// Since when there are none.
    idle_since: Instant,
    /// Since when a head is being sent (HTTP/1 only).
    head_since: Option<Instant>,
    /// When the answer that is being sent must be out (HTTP/1 only: there is one at a time).
    send_by: Option<Instant>,
    /// See [`Activity::leave`].
    leaving: bool,
    /// Whoever waits wants to know when there are no open requests any more.
    waits_for_end: bool,
}

/// Why a connection is not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expired {
    /// Nothing was asked for long: it ends in order.
    Idle,
    /// The client does not take its answer: it is cut.
    Late,
    /// The client should open another one: no new requests are taken.
    Leaving,
}

impl Activity {
    /// Of a connection that begins now.
    pub fn new(is_http1: bool) -> Arc<Self> {
        let now = Instant::now();
        let state = State {
            open: 0,
            idle_since: now,
            head_since: is_http1.then_some(now),
            send_by: None,
            leaving: false,
            waits_for_end: false,
        };
        Arc::new(Self { state: Mutex::new(state), changed: Notify::new() })
    }

    /// A request is there. It is open while the result lives.
    pub fn begin(self: &Arc<Self>) -> Open {
        let mut state = self.state.lock();
        state.open += 1;
        state.head_since = None;
        Open(Arc::clone(self))
    }

    /// Bytes of an HTTP/1 client came.
    pub fn bytes_came(&self) {
        let mut state = self.state.lock();
        if state.open == 0 && state.head_since.is_none() {
            state.head_since = Some(Instant::now());
        }
    }

    /// When the head that is being sent must be there.
    pub fn head_deadline(&self) -> Option<Instant> {
        self.state.lock().head_since.map(|since| since + HEADER_TIMEOUT)
    }

    /// The open request of an HTTP/1 connection must be answered by then.
    pub fn send_by(&self, at: Instant) {
        self.state.lock().send_by = Some(at);
        self.changed.notify_one();
    }

    /// The connection takes no new requests.
    pub fn leave(&self) {
        self.state.lock().leaving = true;
        self.changed.notify_one();
    }

    /// Completes when there is no open request. Nobody may wait in [`Activity::expired`] at the same time.
    pub async fn quiet(&self) {
        loop {
            {
                let mut state = self.state.lock();
                if state.open == 0 {
                    return;
                }
                state.waits_for_end = true;
            }
            self.changed.notified().await;
        }
    }

    /// Completes when the connection should end.
    pub async fn expired(&self) -> Expired {
        loop {
            let (until, expired) = {
                let mut state = self.state.lock();
                if state.leaving {
                    return Expired::Leaving;
                }
                state.waits_for_end = state.open > 0;
                match (state.send_by, state.open) {
                    (Some(at), _) => (Some(at), Expired::Late),
                    (None, 0) => (Some(state.idle_since + IDLE_TIMEOUT), Expired::Idle),
                    (None, _) => (None, Expired::Idle),
                }
            };
            let Some(until) = until else {
                self.changed.notified().await;
                continue;
            };
            if until <= Instant::now() {
                return expired;
            }
            tokio::select! {
                biased;
                () = self.changed.notified() => {}
                () = tokio::time::sleep_until(until) => {}
            }
        }
    }
}

/// An open request.
pub(super) struct Open(Arc<Activity>);

impl Drop for Open {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.open -= 1;
        if state.open > 0 {
            return;
        }
        state.idle_since = Instant::now();
        state.send_by = None;
        if std::mem::take(&mut state.waits_for_end) {
            drop(state);
            self.0.changed.notify_one();
        }
    }
}

/// The body of an answer: its request is open until it has been handed on.
pub(super) struct Sent {
    pub body: Body,
    pub _open: Open,
}

impl http_body::Body for Sent {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Poll::Ready(ready!(Pin::new(&mut self.body).poll_frame(context)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Runs a stream of HTTP/2 until its answer has been sent or is late: dropped, it is reset.
pub(super) async fn bounded(stream: impl Future, until: Until) {
    let mut stream = pin!(stream);
    let deadline = poll_fn(|context| match (stream.as_mut().poll(context), until.get()) {
        (Poll::Ready(_), _) => Poll::Ready(None),
        (Poll::Pending, Some(at)) => Poll::Ready(Some(*at)),
        (Poll::Pending, None) => Poll::Pending,
    });
    if let Some(at) = deadline.await
        && tokio::time::timeout_at(at, stream).await.is_err()
    {
        tracing::debug!("an answer was not taken in time");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn lasts(activity: &Activity) -> (u64, Expired) {
        let began = Instant::now();
        let expired = activity.expired().await;
        (began.elapsed().as_secs(), expired)
    }

    #[tokio::test(start_paused = true)]
    async fn an_unused_connection_ends_after_a_while() {
        let activity = Activity::new(false);
        assert_eq!(lasts(&activity).await, (90, Expired::Idle));
        let open = activity.begin();
        let watched = Arc::clone(&activity);
        let ended = tokio::spawn(async move { lasts(&watched).await });
        tokio::time::sleep(Duration::from_secs(1000)).await;
        assert!(!ended.is_finished(), "a watch is no idle connection");
        drop(open);
        assert_eq!(ended.await.unwrap(), (1090, Expired::Idle));
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_quiet_when_its_last_request_ends() {
        let activity = Activity::new(false);
        activity.quiet().await;
        let (one, two) = (activity.begin(), activity.begin());
        let waiting = Arc::clone(&activity);
        let quiet = tokio::spawn(async move { waiting.quiet().await });
        tokio::time::sleep(Duration::from_secs(1)).await;
        drop(one);
        activity.send_by(Instant::now());
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(!quiet.is_finished());
        drop(two);
        quiet.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_has_to_be_taken() {
        let activity = Activity::new(true);
        let open = activity.begin();
        activity.send_by(Instant::now() + Duration::from_secs(60));
        assert_eq!(lasts(&activity).await, (60, Expired::Late));
        drop(open);
        assert_eq!(lasts(&activity).await, (90, Expired::Idle), "the deadline went with its request");
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_has_its_time_from_its_first_byte() {
        let activity = Activity::new(true);
        let began = Instant::now();
        assert_eq!(activity.head_deadline(), Some(began + HEADER_TIMEOUT), "the first one from the beginning");
        drop(activity.begin());
        assert_eq!(activity.head_deadline(), None);
        tokio::time::advance(Duration::from_secs(50)).await;
        activity.bytes_came();
        tokio::time::advance(Duration::from_secs(5)).await;
        activity.bytes_came();
        assert_eq!(activity.head_deadline(), Some(began + Duration::from_secs(50) + HEADER_TIMEOUT));
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_is_given_up_when_its_answer_is_late() {
        let until = Until::default();
        let began = Instant::now();
        let answer = Arc::clone(&until);
        let stream = async move {
            tokio::time::sleep(Duration::from_secs(5)).await;
            answer.set(began + Duration::from_secs(60)).unwrap();
            std::future::pending::<()>().await;
        };
        bounded(stream, until).await;
        assert_eq!(began.elapsed().as_secs(), 60);
    }
}
