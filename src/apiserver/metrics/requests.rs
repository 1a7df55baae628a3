//! Requests as clients see them: how many, how long, how large (apiserver `endpoints/metrics/metrics.go`).
//!
//! A request is counted when it has come to a handler, as upstream does, and when its answer has been sent. Labels are
//! names of what is served: what authentication, authorisation or the router turn away has no series here, so nobody can
//! make series by asking for what does not exist.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use api::UserInfo;
use axum::body::Body;
use bytes::Bytes;
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use http_body::{Body as _, Frame, SizeHint};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::head;
use super::histogram::Histogram;
use crate::query::Query;
use crate::request::RequestInfo;
use crate::respond::Response;
use crate::server::ApiServer;

/// Upper bounds of `apiserver_request_duration_seconds`.
const DURATIONS: &[f64] = &[
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0,
    45.0, 60.0,
];
/// … of `apiserver_request_sli_duration_seconds`.
const SLI: &[f64] =
    &[0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0];
/// … of `apiserver_watch_list_duration_seconds`.
const WATCH_LISTS: &[f64] = &[
    0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0,
    90.0, 120.0, 180.0, 300.0,
];
const SIZES: &[f64] = &[1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9];
const BODIES: &[f64] = &[
    5e4, 15e4, 25e4, 35e4, 45e4, 55e4, 65e4, 75e4, 85e4, 95e4, 105e4, 115e4, 125e4, 135e4, 145e4, 155e4, 165e4, 175e4,
    185e4, 195e4, 205e4, 215e4, 225e4, 235e4, 245e4, 255e4, 265e4, 275e4, 285e4, 295e4, 305e4,
];
/// Subresources that are connections (`validConnectRequests`).
const CONNECTIONS: [&str; 5] = ["log", "exec", "portforward", "attach", "proxy"];

/// Labels of a request but its code.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Kind {
    verb: &'static str,
    group: String,
    version: String,
    resource: String,
    /// Or the path of a document.
    subresource: String,
    scope: &'static str,
    component: &'static str,
    dry_run: &'static str,
}

impl Kind {
    /// `None`: for what is asked there is no handler that upstream counts.
    pub fn of(server: &ApiServer, info: &RequestInfo, query: &Query, headers: &HeaderMap) -> Option<Self> {
        if !info.is_resource {
            return Self::of_document(info);
        }
        let table = server.table.load();
        let served = table.find(&info.group, &info.version, &info.resource)?;
        if !info.subresource.is_empty() {
            served.def.subresource(&info.subresource)?;
        }
        let applies =
            || headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes() == b"application/apply-patch+yaml");
        // `cleanVerb`.
        let verb = match info.verb.as_str() {
            _ if CONNECTIONS.contains(&info.subresource.as_str()) => "CONNECT",
            "create" => "POST",
            "get" => "GET",
            "list" if query.flag("watch") => "WATCH",
            "list" => "LIST",
            "watch" => "WATCH",
            "update" => "PUT",
            "patch" if applies() => "APPLY",
            "patch" => "PATCH",
            "delete" | "deletecollection" => "DELETE",
            "proxy" => "CONNECT",
            _ => "other",
        };
        Some(Self {
            verb,
            group: info.group.clone(),
            version: info.version.clone(),
            resource: info.resource.clone(),
            subresource: info.subresource.clone(),
            // `CleanScope`.
            scope: match (info.name.is_empty() && info.verb != "create", info.namespace.is_empty()) {
                (false, _) => "resource",
                (true, false) => "namespace",
                (true, true) => "cluster",
            },
            component: "apiserver",
            dry_run: match query.all("dryRun").next() {
                None => "",
                Some(_) if query.all("dryRun").all(|value| value == "All") => "All",
                Some(_) => "invalid",
            },
        })
    }

    fn of_document(info: &RequestInfo) -> Option<Self> {
        let (subresource, component) = match info.path.as_str() {
            "/healthz" | "/livez" | "/readyz" => (info.path.as_str(), ""),
            "/openapi/v3" => ("openapi/v3", ""),
            path if path.starts_with("/openapi/v3/") => ("openapi/v3/", ""),
            "/api" => ("api", "apiserver"),
            "/apis" => ("apis", "apiserver"),
            _ => return None,
        };
        Some(Self {
            verb: if matches!(info.verb.as_str(), "get" | "head") { "GET" } else { "other" },
            group: String::new(),
            version: String::new(),
            resource: String::new(),
            subresource: subresource.to_owned(),
            scope: "",
            component,
            dry_run: "",
        })
    }

    fn labels(&self) -> String {
        let Self { verb, group, version, resource, subresource, scope, component, dry_run } = self;
        format!(
            "component=\"{component}\",dry_run=\"{dry_run}\",group=\"{group}\",resource=\"{resource}\",scope=\"{scope}\",subresource=\"{subresource}\",verb=\"{verb}\",version=\"{version}\""
        )
    }

    /// Without `dry_run`.
    fn plain(&self) -> String {
        let Self { verb, group, version, resource, subresource, scope, component, .. } = self;
        format!(
            "component=\"{component}\",group=\"{group}\",resource=\"{resource}\",scope=\"{scope}\",subresource=\"{subresource}\",verb=\"{verb}\",version=\"{version}\""
        )
    }
}

struct Counts {
    codes: BTreeMap<u16, u64>,
    /// Ended by the server before their time, by code.
    terminated: BTreeMap<u16, u64>,
    /// Given up by the client.
    aborted: u64,
    durations: Histogram,
    sli: Histogram,
    sizes: Histogram,
    /// Running now, for watches and connections.
    open: i64,
    /// Of the server's own components.
    own: u64,
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            codes: BTreeMap::new(),
            terminated: BTreeMap::new(),
            aborted: 0,
            durations: Histogram::new(DURATIONS),
            sli: Histogram::new(SLI),
            sizes: Histogram::new(SIZES),
            open: 0,
            own: 0,
        }
    }
}

/// What is counted of requests.
#[derive(Default)]
pub(crate) struct Requests {
    kinds: Mutex<BTreeMap<Kind, Counts>>,
    /// By group, resource and verb.
    bodies: Mutex<BTreeMap<(String, String, String), Histogram>>,
    /// By group, version, resource and scope.
    watch_lists: Mutex<BTreeMap<(String, String, String, &'static str), Histogram>>,
    validations: Mutex<BTreeMap<&'static str, Histogram>>,
}

impl Requests {
    /// A request found no seats (`RecordDroppedRequest`).
    pub fn turned_away(&self, kind: Kind) {
        let mut kinds = self.kinds.lock();
        let counts = kinds.entry(kind).or_default();
        *counts.codes.entry(429).or_default() += 1;
        *counts.terminated.entry(429).or_default() += 1;
    }

    /// A body was read.
    pub fn body(&self, info: &RequestInfo, bytes: usize) {
        let key = (info.group.clone(), info.resource.clone(), info.verb.clone());
        let mut bodies = self.bodies.lock();
        bodies.entry(key).or_insert_with(|| Histogram::new(BODIES)).observe(bytes as f64);
    }

    /// A watch has told everything that there was when it began.
    pub fn watch_list(&self, served: &crate::served::Served, scope: &'static str, took: Duration) {
        let gvk = &served.def.gvk;
        let key = (gvk.group.clone(), gvk.version.clone(), served.def.resource.clone(), scope);
        let mut lists = self.watch_lists.lock();
        lists.entry(key).or_insert_with(|| Histogram::new(WATCH_LISTS)).observe(took.as_secs_f64());
    }

    /// Appends what requests have.
    pub fn write(&self, out: &mut String) -> std::fmt::Result {
        let kinds = self.kinds.lock();
        self.write_totals(&kinds, out)?;
        let name = "apiserver_request_duration_seconds";
        head(
            out,
            name,
            "histogram",
            "[STABLE] Response latency distribution in seconds for each verb, dry run value, group, version, resource, subresource, scope and component.",
        )?;
        for (kind, counts) in kinds.iter().filter(|(_, c)| c.durations.count > 0) {
            counts.durations.write(out, name, &kind.labels())?;
        }
        let name = "apiserver_request_sli_duration_seconds";
        head(
            out,
            name,
            "histogram",
            "[ALPHA] Response latency distribution (not counting webhook duration and priority & fairness queue wait times) in seconds for each verb, group, version, resource, subresource, scope and component.",
        )?;
        for (kind, counts) in kinds.iter().filter(|(_, c)| c.sli.count > 0) {
            counts.sli.write(out, name, &kind.plain())?;
        }
        let name = "apiserver_response_sizes";
        head(
            out,
            name,
            "histogram",
            "[STABLE] Response size distribution in bytes for each group, version, verb, resource, subresource, scope and component.",
        )?;
        for (kind, counts) in kinds.iter().filter(|(_, c)| c.sizes.count > 0) {
            counts.sizes.write(out, name, &kind.plain())?;
        }
        drop(kinds);
        self.write_others(out)
    }

    fn write_totals(&self, kinds: &BTreeMap<Kind, Counts>, out: &mut String) -> std::fmt::Result {
        let name = "apiserver_request_total";
        head(
            out,
            name,
            "counter",
            "[STABLE] Counter of apiserver requests broken out for each verb, dry run value, group, version, resource, scope, component, and HTTP response code.",
        )?;
        for (kind, counts) in kinds {
            for (code, count) in &counts.codes {
                writeln!(out, "{name}{{code=\"{code}\",{}}} {count}", kind.labels())?;
            }
        }
        let name = "apiserver_request_terminations_total";
        head(out, name, "counter", "[ALPHA] Number of requests which apiserver terminated in self-defense.")?;
        for (kind, counts) in kinds {
            for (code, count) in &counts.terminated {
                writeln!(out, "{name}{{code=\"{code}\",{}}} {count}", kind.plain())?;
            }
        }
        let name = "apiserver_request_aborts_total";
        head(
            out,
            name,
            "counter",
            "[ALPHA] Number of requests which apiserver aborted possibly due to a timeout, for each group, version, verb, resource, subresource and scope",
        )?;
        for (kind, counts) in kinds.iter().filter(|(_, c)| c.aborted > 0) {
            let Kind { verb, group, version, resource, subresource, scope, .. } = kind;
            writeln!(
                out,
                "{name}{{group=\"{group}\",resource=\"{resource}\",scope=\"{scope}\",subresource=\"{subresource}\",verb=\"{verb}\",version=\"{version}\"}} {}",
                counts.aborted
            )?;
        }
        let name = "apiserver_selfrequest_total";
        head(
            out,
            name,
            "counter",
            "[ALPHA] Counter of apiserver self-requests broken out for each verb, API resource and subresource.",
        )?;
        // Versions, scopes and dry runs are not told apart.
        let mut own: BTreeMap<(&str, &str, &str, &str), u64> = BTreeMap::new();
        for (kind, counts) in kinds.iter().filter(|(_, c)| c.own > 0) {
            *own.entry((&kind.group, &kind.resource, &kind.subresource, kind.verb)).or_default() += counts.own;
        }
        for ((group, resource, subresource, verb), count) in own {
            writeln!(
                out,
                "{name}{{group=\"{group}\",resource=\"{resource}\",subresource=\"{subresource}\",verb=\"{verb}\"}} {count}"
            )?;
        }
        let name = "apiserver_longrunning_requests";
        head(
            out,
            name,
            "gauge",
            "[STABLE] Gauge of all active long-running apiserver requests broken out by verb, group, version, resource, scope and component.",
        )?;
        for (kind, counts) in kinds.iter().filter(|(_, c)| c.open > 0) {
            writeln!(out, "{name}{{{}}} {}", kind.plain(), counts.open)?;
        }
        Ok(())
    }

    fn write_others(&self, out: &mut String) -> std::fmt::Result {
        let name = "apiserver_request_body_size_bytes";
        head(out, name, "histogram", "[ALPHA] Apiserver request body size in bytes broken out by resource and verb.")?;
        for ((group, resource, verb), sizes) in self.bodies.lock().iter() {
            sizes.write(out, name, &format!("group=\"{group}\",resource=\"{resource}\",verb=\"{verb}\""))?;
        }
        let name = "apiserver_watch_list_duration_seconds";
        head(
            out,
            name,
            "histogram",
            "[BETA] Response latency distribution in seconds for watch list requests broken by group, version, resource and scope.",
        )?;
        for ((group, version, resource, scope), took) in self.watch_lists.lock().iter() {
            let labels = format!("group=\"{group}\",resource=\"{resource}\",scope=\"{scope}\",version=\"{version}\"");
            took.write(out, name, &labels)?;
        }
        let name = "field_validation_request_duration_seconds";
        head(
            out,
            name,
            "histogram",
            "[ALPHA] Response latency distribution in seconds for each field validation value",
        )?;
        for (value, took) in self.validations.lock().iter() {
            took.write(out, name, &format!("field_validation=\"{value}\""))?;
        }
        Ok(())
    }
}

/// How far a request has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Not at its handler: it is not counted.
    Filters,
    Handler,
    Answered(u16),
}

/// A request that will be counted: when its answer has been sent or given up.
pub(crate) struct Counting {
    server: Arc<ApiServer>,
    kind: Kind,
    stage: Stage,
    began: Instant,
    /// Time that the server is not to blame for: in queues, in webhooks.
    elsewhere: Duration,
    bytes: u64,
    own: bool,
    validation: &'static str,
}

impl Counting {
    pub fn new(server: &Arc<ApiServer>, kind: Kind, began: Instant, user: &UserInfo, query: &Query) -> Self {
        // `cleanFieldValidation`.
        let validation = match query.get("fieldValidation").unwrap_or_default() {
            "" => "",
            "Ignore" => "Ignore",
            "Warn" => "Warn",
            "Strict" => "Strict",
            _ => "invalid",
        };
        Self {
            server: Arc::clone(server),
            kind,
            stage: Stage::Filters,
            began,
            elsewhere: Duration::ZERO,
            bytes: 0,
            own: user.name == "system:apiserver",
            validation,
        }
    }

    /// Time that does not count for the service level.
    pub fn spent_elsewhere(&mut self, time: Duration) {
        self.elsewhere += time;
    }

    /// The handler begins.
    pub fn begin(&mut self) {
        self.stage = Stage::Handler;
    }

    /// The server ended it before its time.
    pub fn terminated(&self, code: u16) {
        let mut kinds = self.server.metrics.requests.kinds.lock();
        *kinds.entry(self.kind.clone()).or_default().terminated.entry(code).or_default() += 1;
    }

    /// It is open for long; counted so while the result lives.
    pub fn long_running(&self) -> Open {
        self.server.metrics.requests.kinds.lock().entry(self.kind.clone()).or_default().open += 1;
        Open { server: Arc::clone(&self.server), kind: self.kind.clone() }
    }

    /// Follows the answer until it has been sent.
    pub fn answered(mut self, response: Response) -> Response {
        self.stage = Stage::Answered(response.status().as_u16());
        if let Some(size) = response.body().size_hint().exact() {
            self.bytes = size;
            return response;
        }
        response.map(|body| Body::new(Sent { body, counting: self }))
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        if self.stage == Stage::Filters {
            return;
        }
        let seconds = self.began.elapsed().as_secs_f64();
        let metrics = &self.server.metrics.requests;
        let mut kinds = metrics.kinds.lock();
        let counts = kinds.entry(self.kind.clone()).or_default();
        let Stage::Answered(code) = self.stage else {
            if std::thread::panicking() {
                *counts.terminated.entry(500).or_default() += 1;
            } else {
                counts.aborted += 1;
            }
            return;
        };
        *counts.codes.entry(code).or_default() += 1;
        counts.own += u64::from(self.own);
        counts.durations.observe(seconds);
        if self.kind.dry_run.is_empty() {
            counts.sli.observe((seconds - self.elsewhere.as_secs_f64()).max(0.0));
        }
        if matches!(self.kind.verb, "GET" | "LIST") {
            counts.sizes.observe(self.bytes as f64);
        }
        drop(kinds);
        if self.kind.component == "apiserver" {
            let mut validations = metrics.validations.lock();
            validations.entry(self.validation).or_insert_with(|| Histogram::new(SLI)).observe(seconds);
        }
    }
}

/// A body whose request is counted at its end.
struct Sent {
    body: Body,
    counting: Counting,
}

impl http_body::Body for Sent {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if let Some(Ok(frame)) = &frame {
            self.counting.bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A long-running request; its end is counted when dropped.
pub(crate) struct Open {
    server: Arc<ApiServer>,
    kind: Kind,
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Some(counts) = self.server.metrics.requests.kinds.lock().get_mut(&self.kind) {
            counts.open -= 1;
        }
    }
}

tokio::task_local! {
    static HOOKS: Arc<Hooks>;
}

/// Time in which at least one webhook of a request was being called.
#[derive(Default)]
pub(crate) struct Hooks(Mutex<Calls>);

#[derive(Default)]
struct Calls {
    running: usize,
    since: Option<Instant>,
    total: Duration,
}

impl Hooks {
    /// Runs a request's handler; also tells how long its webhooks took.
    pub async fn around<F: Future>(handler: F) -> (F::Output, Duration) {
        let hooks = Arc::new(Self::default());
        let answer = HOOKS.scope(Arc::clone(&hooks), handler).await;
        let total = hooks.0.lock().total;
        (answer, total)
    }

    /// A webhook is being called while the result lives; nothing outside of a request.
    pub fn calling() -> Option<Calling> {
        let hooks = HOOKS.try_with(Arc::clone).ok()?;
        let mut calls = hooks.0.lock();
        calls.running += 1;
        calls.since.get_or_insert_with(Instant::now);
        drop(calls);
        Some(Calling(hooks))
    }
}

/// See [`Hooks::calling`].
pub(crate) struct Calling(Arc<Hooks>);

impl Drop for Calling {
    fn drop(&mut self) {
        let mut calls = self.0.0.lock();
        calls.running -= 1;
        if calls.running == 0
            && let Some(since) = calls.since.take()
        {
            calls.total += since.elapsed();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn webhooks_at_the_same_time_count_once() {
        let call = |seconds| async move {
            let _calling = Hooks::calling();
            tokio::time::sleep(Duration::from_secs(seconds)).await;
        };
        let ((), took) = Hooks::around(async {
            tokio::join!(call(2), call(5));
            tokio::time::sleep(Duration::from_secs(10)).await;
            call(1).await;
        })
        .await;
        assert_eq!(took.as_secs(), 6);
        assert!(Hooks::calling().is_none());
    }
}
