//! Two places where connections are served: a thread of its own that accepts, shakes hands and answers health checks, and
//! the runtime where everything else happens.
//!
//! A health check has to be answered while every worker of the runtime has a queue of lists to encode before it: a late
//! answer gets the whole server killed by whoever asks. So a connection begins at the front, and moves to the runtime,
//! socket and all, with its first request that is no health check. What waits at the front is therefore always short.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;

use hyper::rt::Executor;
use parking_lot::Mutex;
use tokio::runtime::Handle;

use super::activity::{Until, bounded};

/// Where connections are served.
#[derive(Clone)]
pub struct Lanes {
    /// Accepts, shakes hands, answers health checks.
    pub front: Handle,
    /// Everything else.
    pub main: Handle,
}

impl Lanes {
    /// Both on the runtime of the caller.
    pub fn one() -> Self {
        Self { front: Handle::current(), main: Handle::current() }
    }

    fn is_one(&self) -> bool {
        self.front.id() == self.main.id()
    }
}

/// Whether a request is answered at the front: a health check.
pub(super) fn is_light(path: &str) -> bool {
    ["/healthz", "/livez", "/readyz"]
        .iter()
        .any(|known| path.strip_prefix(known).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
}

/// Where one connection is.
pub(super) struct Place {
    lanes: Lanes,
    /// A request came that does not belong to the front.
    wanted: AtomicBool,
    moved: AtomicBool,
}

impl Place {
    pub fn new(lanes: Lanes) -> Arc<Self> {
        let moved = AtomicBool::new(lanes.is_one());
        Arc::new(Self { lanes, wanted: AtomicBool::new(false), moved })
    }

    pub fn ask_to_move(&self) {
        self.wanted.store(true, Ordering::Release);
    }

    fn has_to_move(&self) -> bool {
        self.wanted.load(Ordering::Acquire) && !self.has_moved()
    }

    pub fn has_moved(&self) -> bool {
        self.moved.load(Ordering::Acquire)
    }

    /// Runs a connection at the front until it ends (`Some`) or has to move: then it is for [`Place::move_to_main`].
    pub async fn at_front<C: Future>(&self, mut connection: Pin<&mut C>) -> Option<C::Output> {
        std::future::poll_fn(|context| match connection.as_mut().poll(context) {
            Poll::Ready(ended) => Poll::Ready(Some(ended)),
            Poll::Pending if self.has_to_move() => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        })
        .await
    }

    /// From now on the connection is polled by the runtime.
    pub fn move_to_main(&self) -> &Handle {
        self.moved.store(true, Ordering::Release);
        &self.lanes.main
    }

    /// Completes where heavy requests may run. Whoever moves the connection polls it again, so nothing is to be woken.
    pub async fn settled(&self) {
        std::future::poll_fn(|_| if self.has_moved() { Poll::Ready(()) } else { Poll::Pending }).await;
    }
}

/// What the next stream of an HTTP/2 connection is: hyper hands over its future right after it has asked the service.
pub(super) struct Next {
    pub light: bool,
    pub until: Until,
}

/// Spawns the streams of one HTTP/2 connection where they belong.
#[derive(Clone)]
pub(super) struct Streams {
    lanes: Lanes,
    next: Arc<Mutex<Option<Next>>>,
}

impl Streams {
    pub fn new(lanes: Lanes) -> Self {
        Self { lanes, next: Arc::default() }
    }

    pub fn expect(&self, next: Next) {
        *self.next.lock() = Some(next);
    }
}

impl<F> Executor<F> for Streams
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, stream: F) {
        let next = self.next.lock().take();
        match next {
            Some(next) if next.light => drop(self.lanes.front.spawn(bounded(stream, next.until))),
            Some(next) => drop(self.lanes.main.spawn(bounded(stream, next.until))),
            None => drop(self.lanes.main.spawn(stream)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_health_checks_are_light() {
        let check = |path: &str, want: bool| assert_eq!(is_light(path), want, "{path}");
        check("/healthz", true);
        check("/livez/ping", true);
        check("/readyz", true);
        check("/readyzz", false);
        check("/api/v1/namespaces/healthz/pods", false);
        check("/metrics", false);
        check("", false);
    }
}
