//! What requests may take (the flags of apiserver `server/options/server_run_options.go`), and how a server stops taking
//! them: not ready first, then no new requests, then no watches.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use base::Shutdown;
use http::header::{CONNECTION, RETRY_AFTER};
use http::{HeaderMap, HeaderValue};
use tokio::time::Instant;

use crate::respond::{self, Response};

/// What requests may take.
#[derive(Debug, Clone)]
pub struct Limits {
    /// `--max-requests-inflight`; with the next one, the seats that flow control divides.
    pub reads_in_flight: usize,
    /// `--max-mutating-requests-inflight`.
    pub writes_in_flight: usize,
    /// `--request-timeout`: how long a request that is no watch, log or connection may take.
    pub request_timeout: Duration,
    /// `--min-request-timeout`: watches without a time of their own end after this to twice this.
    pub watch_timeout_min: Duration,
    /// `--http2-max-streams-per-connection`.
    pub streams_max: u32,
    /// `--goaway-chance`: how likely a request sends its HTTP/2 client to another connection, and so to another server.
    pub goaway_chance: f64,
}

impl Default for Limits {
    /// kube-apiserver's.
    fn default() -> Self {
        Self {
            reads_in_flight: 400,
            writes_in_flight: 200,
            request_timeout: Duration::from_secs(60),
            watch_timeout_min: Duration::from_secs(1800),
            streams_max: 100,
            goaway_chance: 0.0,
        }
    }
}

/// In the extensions of a response: the connection ends when its open requests have ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LastOfConnection;

/// How far a server has come in stopping.
#[derive(Default)]
pub(crate) struct Stopping {
    /// `/readyz` says so.
    announced: AtomicBool,
    /// New requests are sent away.
    refusing: AtomicBool,
    /// Watches end, at this many a second.
    draining: Shutdown,
    rate: AtomicU32,
    drained: AtomicU32,
}

/// Watches that end in a second, at least (upstream's floor in `genericapiserver.go`).
const DRAINED_A_SECOND_MIN: u32 = 200;
/// `pathPrefixesExemptFromRetryAfter`.
const SERVED_TO_THE_END: [&str; 4] = ["/readyz", "/livez", "/healthz", "/metrics"];

impl Stopping {
    pub fn announce(&self) {
        self.announced.store(true, Ordering::Relaxed);
    }

    pub fn is_announced(&self) -> bool {
        self.announced.load(Ordering::Relaxed)
    }

    /// From now on [`Stopping::refusal`] refuses.
    pub fn refuse(&self) {
        self.refusing.store(true, Ordering::Relaxed);
    }

    /// The answer to a request that came too late (`WithRetryAfter`).
    pub fn refusal(&self, path: &str, headers: &HeaderMap) -> Option<Response> {
        if !self.refusing.load(Ordering::Relaxed) || SERVED_TO_THE_END.iter().any(|known| path.starts_with(known)) {
            return None;
        }
        let agent = headers.get(http::header::USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or_default();
        if agent.starts_with("kube-apiserver/") {
            return None;
        }
        let mut response = respond::text(429, "The apiserver is shutting down, please try again later.\n");
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("5"));
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        response.extensions_mut().insert(LastOfConnection);
        Some(response)
    }

    /// Lets `watches` end within about `grace`, one after the other, so that their clients do not all come to another
    /// server at once.
    pub fn drain(&self, watches: usize, grace: Duration) {
        let wanted = (watches as f64 / grace.as_secs_f64().max(0.001)).ceil();
        self.rate.store((wanted as u32).max(DRAINED_A_SECOND_MIN), Ordering::Relaxed);
        self.draining.cancel();
    }

    /// Completes when watches are to end.
    pub fn draining(&self) -> Shutdown {
        self.draining.clone()
    }

    /// When the watch that asks is to end.
    pub fn turn(&self) -> Instant {
        let before = self.drained.fetch_add(1, Ordering::Relaxed);
        let rate = self.rate.load(Ordering::Relaxed).max(1);
        Instant::now() + Duration::from_secs_f64(f64::from(before) / f64::from(rate))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn late_requests_are_sent_away_and_probes_answered() {
        let stopping = Stopping::default();
        let headers = HeaderMap::new();
        assert!(stopping.refusal("/api", &headers).is_none());
        stopping.refuse();
        let refusal = stopping.refusal("/api/v1/pods", &headers).unwrap();
        let header = |name: &str| refusal.headers().get(name).and_then(|v| v.to_str().ok());
        assert_eq!(
            (refusal.status().as_u16(), header("retry-after"), header("connection")),
            (429, Some("5"), Some("close"))
        );
        assert!(stopping.refusal("/readyz/etcd", &headers).is_none());
        let own =
            HeaderMap::from_iter([(http::header::USER_AGENT, HeaderValue::from_static("kube-apiserver/v1.37.0"))]);
        assert!(stopping.refusal("/api", &own).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn watches_end_one_after_the_other() {
        let check = |watches: usize, grace: u64, last_ms: u128| {
            let stopping = Stopping::default();
            stopping.drain(watches, Duration::from_secs(grace));
            assert!(stopping.draining().is_cancelled());
            let turns: Vec<Instant> = (0..watches).map(|_| stopping.turn()).collect();
            assert_eq!(turns.last().map(|at| (*at - Instant::now()).as_millis()), Some(last_ms));
        };
        check(3, 10, 10);
        check(5001, 10, 9_980);
    }
}
