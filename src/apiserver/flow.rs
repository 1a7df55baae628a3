//! API priority and fairness (apiserver `util/flowcontrol`, `server/filters/priority-and-fairness.go`).
//!
//! Each request is classified by the FlowSchemas, takes seats of its schema's priority level for as long as it runs, and
//! waits in one of the level's queues if there are none. Objects are followed by one task ([`run`]), which makes a new
//! [`Config`] of them; requests read the newest. Without contention a request costs a walk over the schemas and two short
//! locked sections.

mod config;
mod debug;
mod dropped;
mod estimate;
mod level;
mod metrics;
mod rules;
mod share;
mod timing;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api::UserInfo;
use arc_swap::ArcSwap;
use http::header::RETRY_AFTER;
use http::{HeaderName, HeaderValue};
use parking_lot::Mutex;

use crate::limits::Limits;
use crate::query::Query;
use crate::request::RequestInfo;
use crate::respond::{self, Response};
use crate::server::ApiServer;
use level::{Asked, Level, Refusal, Running};
use metrics::{Counters, LevelFigures};
use rules::Schema;
use share::Demand;
use timing::Kinds;

pub use config::run;
pub(crate) use level::Ticket;

/// A request waits no longer, whatever its own time.
const WAIT_MAX: Duration = Duration::from_secs(60);
const SCHEMA_HEADER: HeaderName = HeaderName::from_static("x-kubernetes-pf-flowschema-uid");
const LEVEL_HEADER: HeaderName = HeaderName::from_static("x-kubernetes-pf-prioritylevel-uid");

/// The flow control of one server.
pub(crate) struct Flow {
    config: ArcSwap<Config>,
    /// Seats of the whole server.
    seats: usize,
    /// By schema and level, kept over changes of the objects.
    counters: Mutex<BTreeMap<(String, String), Arc<Counters>>>,
    borrowing: Mutex<Borrowing>,
    kinds: Arc<Kinds>,
}

/// What the last adjustment of limits found.
#[derive(Default)]
struct Borrowing {
    fair: f64,
    /// Demand and target by level.
    levels: BTreeMap<String, (Demand, f64)>,
}

/// What the objects say.
struct Config {
    /// In the order in which they are tried; the last one takes everything.
    schemas: Vec<Arc<Schema>>,
    levels: BTreeMap<String, HeldLevel>,
    /// Nominal seats of all levels together.
    nominal: usize,
}

/// A level with what its object says of its size.
#[derive(Clone)]
struct HeldLevel {
    level: Arc<Level>,
    uid: Arc<str>,
    shares: f64,
    lendable_percent: f64,
    borrowing_percent: Option<f64>,
    leaving: bool,
}

impl Flow {
    /// Knows the mandatory objects until the stored ones are read.
    pub fn new(limits: &Limits) -> Self {
        let seats = limits.reads_in_flight + limits.writes_in_flight;
        let flow = Self {
            config: ArcSwap::from_pointee(Config { schemas: Vec::new(), levels: BTreeMap::new(), nominal: 0 }),
            seats,
            counters: Mutex::default(),
            borrowing: Mutex::default(),
            kinds: Arc::default(),
        };
        flow.digest(&[], &[]);
        flow
    }

    fn counters(&self, schema: &str, level: &str) -> Arc<Counters> {
        let mut counters = self.counters.lock();
        let new = || Arc::new(Counters::new(Arc::clone(&self.kinds)));
        Arc::clone(counters.entry((schema.to_owned(), level.to_owned())).or_insert_with(new))
    }

    fn classify(&self, info: &RequestInfo, user: &UserInfo) -> Option<Arc<Schema>> {
        let config = self.config.load();
        let found = config.schemas.iter().find(|schema| schema.matches(info, user)).or_else(|| config.schemas.last());
        found.cloned()
    }

    /// `apiserver_flowcontrol_*`.
    pub fn write_metrics(&self, out: &mut String) -> std::fmt::Result {
        let config = self.config.load();
        let borrowing = self.borrowing.lock();
        let figures = |(name, held): (&String, &HeldLevel)| {
            let limits = held.level.limits();
            let (demand, target) = borrowing.levels.get(name).copied().unwrap_or_default();
            LevelFigures {
                name: name.clone(),
                figures: vec![
                    ("nominal_limit_seats", limits.nominal as f64),
                    ("lower_limit_seats", limits.lower as f64),
                    ("upper_limit_seats", limits.upper as f64),
                    ("current_limit_seats", limits.current as f64),
                    ("demand_seats_high_watermark", demand.high),
                    ("demand_seats_average", demand.average),
                    ("demand_seats_stdev", demand.deviation),
                    ("demand_seats_smoothed", demand.smoothed),
                    ("target_seats", target),
                    ("current_r", held.level.virtual_now()),
                ],
                times: held.level.times(),
            }
        };
        let levels: Vec<LevelFigures> = config.levels.iter().map(figures).collect();
        let counters = self.counters.lock();
        let all: Vec<(String, String, Arc<Counters>)> =
            counters.iter().map(|((s, l), c)| (s.clone(), l.clone(), Arc::clone(c))).collect();
        drop(counters);
        metrics::write(out, &levels, borrowing.fair, &all)?;
        self.kinds.write(out)
    }

    /// A debug page by its name.
    pub fn debug(&self, page: &str, query: &Query, now: jiff::Timestamp) -> Option<Response> {
        debug::serve(&self.config.load(), page, query, now)
    }
}

/// A request as flow control sees it.
pub(crate) struct Arrival<'r> {
    pub info: &'r Arc<RequestInfo>,
    pub query: &'r Query,
    pub user: &'r UserInfo,
    pub is_watch: bool,
    /// How long the request may take in all; `None`: as long as it likes.
    pub timeout: Option<Duration>,
}

/// Gets seats for a request, at once or after a while. The failure is the answer to it.
pub(crate) async fn admit(server: &ApiServer, arrival: Arrival<'_>) -> Result<Option<Ticket>, Response> {
    let Arrival { info, query, user, is_watch, timeout } = arrival;
    // There is always a schema that takes everything.
    let Some(schema) = server.flow.classify(info, user) else { return Ok(None) };
    let (work, watchers) = estimate::estimate(server, info, query, schema.level.work_max());
    schema.counters.estimated(&work, watchers);
    let flow = schema.distinguisher(info, user);
    let about = Running {
        queue: None,
        work,
        schema: Arc::clone(&schema.name),
        flow: flow.into(),
        user: user.name.as_str().into(),
        info: Arc::clone(info),
        arrived: server.clock.now(),
        started: None,
    };
    let hash = mix(base::hash::fnv64a(schema.name.as_bytes()) ^ base::hash::fnv64a(flow.as_bytes()).rotate_left(32));
    let refusal = match Level::ask(&schema, about, hash, is_watch) {
        Asked::Running(ticket) => return Ok(Some(ticket)),
        Asked::Refused(refusal) => {
            schema.counters.refused(refusal);
            refusal
        }
        Asked::Waiting(mut ticket, go) => {
            let wait = timeout.unwrap_or(WAIT_MAX).min(4 * WAIT_MAX) / 4;
            match tokio::time::timeout(wait, go).await {
                Ok(Ok(())) => {
                    ticket.go_on();
                    return Ok(Some(ticket));
                }
                _ => {
                    ticket.time_out();
                    Refusal::TimeOut
                }
            }
        }
    };
    let seconds = schema.level.drop_request(server.clock.now().as_second());
    tracing::debug!(
        schema = %schema.name,
        level = %schema.level.name,
        user = user.name,
        reason = refusal.reason(),
        "a request was turned away"
    );
    let mut response = respond::text(429, "Too many requests, please try again later.\n");
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    mark(&mut response, &schema);
    Err(response)
}

/// Says which flow the request was taken for (`setResponseHeaders`).
pub(crate) fn mark(response: &mut Response, schema: &Schema) {
    for (name, uid) in [(LEVEL_HEADER, &schema.level_uid), (SCHEMA_HEADER, &schema.uid)] {
        if let Ok(value) = HeaderValue::from_str(uid) {
            response.headers_mut().insert(name, value);
        }
    }
}

/// Spreads a hash over all bits (the finaliser of SplitMix64).
fn mix(mut hash: u64) -> u64 {
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests;
