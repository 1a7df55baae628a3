//! Flags of what requests may take and of how the server ends. Names, meanings and defaults are kube-apiserver's.

use std::time::Duration;

use apiserver::Limits;
use clap::Args;

use super::access::parse_duration;

#[derive(Debug, Clone, Args)]
pub struct ServingOptions {
    /// Requests that read and run at the same time; with the next flag, the seats that priority levels share.
    #[arg(long, env = "SKIFF_MAX_REQUESTS_INFLIGHT", default_value_t = 400)]
    pub max_requests_inflight: usize,
    /// Requests that write and run at the same time.
    #[arg(long, env = "SKIFF_MAX_MUTATING_REQUESTS_INFLIGHT", default_value_t = 200)]
    pub max_mutating_requests_inflight: usize,
    /// How long a request that is no watch, log or connection may take.
    #[arg(long, env = "SKIFF_REQUEST_TIMEOUT", default_value = "1m", value_parser = positive)]
    pub request_timeout: Duration,
    /// Seconds after which a watch without a time of its own ends, at the earliest.
    #[arg(long, env = "SKIFF_MIN_REQUEST_TIMEOUT", default_value_t = 1800)]
    pub min_request_timeout: u64,
    /// Requests at the same time on one HTTP/2 connection; 0: 100.
    #[arg(long, env = "SKIFF_HTTP2_MAX_STREAMS_PER_CONNECTION", default_value_t = 0)]
    pub http2_max_streams_per_connection: u32,
    /// How likely a request sends its HTTP/2 client to another connection, up to 0.02: for servers behind a balancer.
    #[arg(long, env = "SKIFF_GOAWAY_CHANCE", default_value_t = 0.0, value_parser = chance)]
    pub goaway_chance: f64,
    /// How long everything is served after the server was told to stop, while /readyz says that it will.
    #[arg(long, env = "SKIFF_SHUTDOWN_DELAY_DURATION", default_value = "0s", value_parser = parse_duration)]
    pub shutdown_delay_duration: Duration,
    /// Answers requests that come after that delay with 429 and Retry-After until all others have ended.
    #[arg(long, env = "SKIFF_SHUTDOWN_SEND_RETRY_AFTER")]
    pub shutdown_send_retry_after: bool,
    /// Time over which watches are ended one after the other; 0: all at once.
    #[arg(
        long,
        env = "SKIFF_SHUTDOWN_WATCH_TERMINATION_GRACE_PERIOD",
        default_value = "0s",
        value_parser = parse_duration
    )]
    pub shutdown_watch_termination_grace_period: Duration,
}

impl ServingOptions {
    pub fn limits(&self) -> Limits {
        let default = Limits::default();
        let streams = self.http2_max_streams_per_connection;
        Limits {
            reads_in_flight: self.max_requests_inflight,
            writes_in_flight: self.max_mutating_requests_inflight,
            request_timeout: self.request_timeout,
            watch_timeout_min: Duration::from_secs(self.min_request_timeout),
            streams_max: if streams == 0 { default.streams_max } else { streams },
            goaway_chance: self.goaway_chance,
        }
    }
}

fn positive(text: &str) -> Result<Duration, String> {
    parse_duration(text).and_then(|time| if time.is_zero() { Err("must be more than 0".to_owned()) } else { Ok(time) })
}

fn chance(text: &str) -> Result<f64, String> {
    let chance: f64 = text.parse().map_err(|e| format!("must be a number: {e}"))?;
    if (0.0..=0.02).contains(&chance) {
        Ok(chance)
    } else {
        Err("can not be less than 0 or greater than 0.02".to_owned())
    }
}
