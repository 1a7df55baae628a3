//! `/metrics` with upstream's names (apiserver `endpoints/metrics`, `storage/etcd3/metrics`).

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use api::GroupResource;
use base::Histograms;
use parking_lot::Mutex;

use crate::request::RequestInfo;
use crate::respond::{self, Response};
use crate::server::ApiServer;

/// Upper bounds of `apiserver_request_duration_seconds`.
const BUCKETS: [f64; 23] = [
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0,
    45.0, 60.0,
];

/// What the server counts.
#[derive(Default)]
pub struct Metrics {
    requests: Mutex<BTreeMap<Kind, Counts>>,
    admission: Mutex<Admissions>,
    started: Mutex<Option<f64>>,
}

/// How long admission takes: whole phases, and each plugin (`admission/metrics/metrics.go`).
struct Admissions {
    steps: Histograms<Admitted>,
    controllers: Histograms<Admitted>,
}

impl Default for Admissions {
    fn default() -> Self {
        Self { steps: Histograms::new(ADMISSION_BUCKETS), controllers: Histograms::new(ADMISSION_BUCKETS) }
    }
}

/// Up to 2.5 seconds.
const ADMISSION_BUCKETS: &[f64] = &[0.005, 0.025, 0.1, 0.5, 1.0, 2.5];

/// What admission is told apart by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Admitted {
    /// Of the plugin; `None` for a whole phase.
    pub name: Option<&'static str>,
    /// `CREATE` …
    pub operation: &'static str,
    pub rejected: bool,
    /// `admit` or `validate`.
    pub phase: &'static str,
}

impl std::fmt::Display for Admitted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(name) = self.name {
            write!(f, "name=\"{name}\",")?;
        }
        let Self { operation, rejected, phase, .. } = self;
        write!(f, "operation=\"{operation}\",rejected=\"{rejected}\",type=\"{phase}\"")
    }
}

/// Labels of a request but its code.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Kind {
    verb: String,
    group: String,
    version: String,
    resource: String,
    subresource: String,
    scope: &'static str,
    dry_run: bool,
}

#[derive(Default)]
struct Counts {
    codes: BTreeMap<u16, u64>,
    buckets: [u64; BUCKETS.len()],
    count: u64,
    sum: f64,
    /// Running now, for watches and connections.
    open: i64,
}

/// A long-running request; its end is counted when dropped.
pub struct Open {
    server: Arc<ApiServer>,
    kind: Kind,
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Some(counts) = self.server.metrics.requests.lock().get_mut(&self.kind) {
            counts.open -= 1;
        }
    }
}

impl Kind {
    fn of(info: &RequestInfo, dry_run: bool) -> Self {
        let scope = match (info.is_resource, info.name.is_empty(), info.namespace.is_empty()) {
            (false, ..) => "",
            (true, false, _) => "resource",
            (true, true, false) => "namespace",
            (true, true, true) => "cluster",
        };
        // Anything may be asked for: only what is a resource gets labels of its own.
        let text = |t: &str| if info.is_resource { t.to_owned() } else { String::new() };
        let verb = match info.verb.as_str() {
            "create" => "POST",
            "get" => "GET",
            "list" => "LIST",
            "watch" => "WATCH",
            "update" => "PUT",
            "patch" => "PATCH",
            "delete" => "DELETE",
            "deletecollection" => "DELETECOLLECTION",
            "proxy" => "CONNECT",
            _ => "other",
        };
        Self {
            verb: verb.to_owned(),
            group: text(&info.group),
            version: text(&info.version),
            resource: text(&info.resource),
            subresource: if info.is_resource { text(&info.subresource) } else { known_path(&info.path).to_owned() },
            scope,
            dry_run,
        }
    }

    fn labels(&self) -> String {
        format!(
            "component=\"apiserver\",dry_run=\"{}\",group=\"{}\",resource=\"{}\",scope=\"{}\",subresource=\"{}\",verb=\"{}\",version=\"{}\"",
            if self.dry_run { "All" } else { "" },
            self.group,
            self.resource,
            self.scope,
            self.subresource,
            self.verb,
            self.version
        )
    }
}

fn known_path(path: &str) -> &'static str {
    ["/healthz", "/livez", "/readyz", "/metrics", "/version", "/openapi/v2", "/openapi/v3", "/apis", "/api"]
        .into_iter()
        .find(|p| path.starts_with(p))
        .unwrap_or("")
}

impl Metrics {
    /// Counts an answered request. Requests for resources that do not exist are not told apart.
    pub fn answered(&self, info: &RequestInfo, dry_run: bool, code: u16, took: Duration) {
        let mut kind = Kind::of(info, dry_run);
        if code == 404 && info.is_resource && info.name.is_empty() {
            kind = Kind {
                group: String::new(),
                version: String::new(),
                resource: String::new(),
                subresource: String::new(),
                ..kind
            };
        }
        let seconds = took.as_secs_f64();
        let mut requests = self.requests.lock();
        let counts = requests.entry(kind).or_default();
        *counts.codes.entry(code).or_default() += 1;
        counts.count += 1;
        counts.sum += seconds;
        if let Some(bucket) = BUCKETS.iter().position(|b| seconds <= *b) {
            counts.buckets[bucket] += 1;
        }
    }

    /// When the process began.
    pub fn started(&self) -> jiff::Timestamp {
        let seconds = self.started.lock().unwrap_or_default();
        jiff::Timestamp::from_second(seconds as i64).unwrap_or_default()
    }

    /// A plugin, or all of them together, had a request before it.
    pub fn admitted(&self, what: Admitted, took: Duration) {
        let mut admission = self.admission.lock();
        if what.name.is_some() {
            admission.controllers.observe(what, took)
        } else {
            admission.steps.observe(what, took)
        }
    }

    /// Remembers when the process began, in seconds since the epoch.
    pub fn set_start(&self, seconds: f64) {
        *self.started.lock() = Some(seconds);
    }
}

/// Counts a long-running request while the result lives.
pub fn open(server: &Arc<ApiServer>, info: &RequestInfo) -> Open {
    let kind = Kind::of(info, false);
    server.metrics.requests.lock().entry(kind.clone()).or_default().open += 1;
    Open { server: Arc::clone(server), kind }
}

/// The exposition text.
pub async fn serve(server: &ApiServer) -> Response {
    let mut text = String::with_capacity(16 << 10);
    // Writing to a string cannot fail.
    let _ = write(server, &mut text);
    server.admission.load().iter().for_each(|plugin| plugin.metrics(&mut text));
    let store = &server.objects.store;
    // Upstream leaves out the size of a datastore that does not tell it (storage/etcd3/metrics `CollectWithStability`).
    if let Ok((size, _)) = store.size().await {
        let name = "apiserver_storage_size_bytes";
        let help = "[STABLE] Size of the storage database file physically allocated in bytes.";
        let _ = head(&mut text, name, "gauge", help);
        let _ = writeln!(text, "{name}{{storage_cluster_id=\"etcd-0\"}} {size}");
    }
    if let Err(error) = store.metrics(&mut text).await {
        tracing::warn!(error = %base::chain(&error), "cannot read the numbers of the storage");
    }
    respond::bytes(200, "text/plain; version=0.0.4; charset=utf-8; escaping=underscores", text)
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) -> std::fmt::Result {
    writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}")
}

fn write(server: &ApiServer, out: &mut String) -> std::fmt::Result {
    {
        let requests = server.metrics.requests.lock();
        let name = "apiserver_request_total";
        head(
            out,
            name,
            "counter",
            "[STABLE] Counter of apiserver requests broken out for each verb, dry run value, group, version, resource, scope, component, and HTTP response code.",
        )?;
        for (kind, counts) in requests.iter() {
            for (code, count) in &counts.codes {
                writeln!(out, "{name}{{code=\"{code}\",{}}} {count}", kind.labels())?;
            }
        }
        let name = "apiserver_request_duration_seconds";
        head(
            out,
            name,
            "histogram",
            "[STABLE] Response latency distribution in seconds for each verb, dry run value, group, version, resource, subresource, scope and component.",
        )?;
        for (kind, counts) in requests.iter().filter(|(_, c)| c.count > 0) {
            let labels = kind.labels();
            let mut total = 0;
            for (bound, count) in BUCKETS.iter().zip(counts.buckets) {
                total += count;
                writeln!(out, "{name}_bucket{{{labels},le=\"{bound}\"}} {total}")?;
            }
            writeln!(out, "{name}_bucket{{{labels},le=\"+Inf\"}} {}", counts.count)?;
            writeln!(out, "{name}_sum{{{labels}}} {}\n{name}_count{{{labels}}} {}", counts.sum, counts.count)?;
        }
        let name = "apiserver_longrunning_requests";
        head(
            out,
            name,
            "gauge",
            "[STABLE] Gauge of all active long-running apiserver requests broken out by verb, group, version, resource, scope and component.",
        )?;
        for (kind, counts) in requests.iter().filter(|(_, c)| c.open > 0) {
            writeln!(out, "{name}{{{}}} {}", kind.labels(), counts.open)?;
        }
    }
    {
        let admission = server.metrics.admission.lock();
        admission.steps.write(
            out,
            "apiserver_admission_step_admission_duration_seconds",
            "[STABLE] Admission sub-step latency histogram in seconds, broken out for each operation and API resource and step type (validate or admit).",
        );
        admission.controllers.write(
            out,
            "apiserver_admission_controller_admission_duration_seconds",
            "[STABLE] Admission controller latency histogram in seconds, identified by name and broken out for each operation and API resource and type (validate or admit).",
        );
    }
    let name = "apiserver_current_inflight_requests";
    head(
        out,
        name,
        "gauge",
        "[STABLE] Maximal number of currently used inflight request limit of this apiserver per request kind in last second.",
    )?;
    let (reads, writes) = (&server.in_flight.reads, &server.in_flight.writes);
    writeln!(out, "{name}{{request_kind=\"mutating\"}} {}", writes.load(Ordering::Relaxed))?;
    writeln!(out, "{name}{{request_kind=\"readOnly\"}} {}", reads.load(Ordering::Relaxed))?;
    let name = "apiserver_storage_objects";
    head(out, name, "gauge", "[STABLE] Number of stored objects at the time of last check split by kind.")?;
    let mut seen: BTreeMap<String, (GroupResource, usize)> = BTreeMap::new();
    for served in &server.table.load().all {
        if let Some(stored) = served.stored.as_ref().filter(|s| s.cache.is_started()) {
            let count = stored.cache.count();
            seen.entry(stored.cache.prefix.clone()).or_insert_with(|| (served.resource.clone(), count));
        }
    }
    for (resource, count) in seen.values() {
        writeln!(out, "{name}{{resource=\"{resource}\"}} {count}")?;
    }
    head(
        out,
        "kubernetes_build_info",
        "gauge",
        "[ALPHA] A metric with a constant '1' value labeled by major, minor, git version.",
    )?;
    writeln!(
        out,
        "kubernetes_build_info{{git_version=\"{}\",major=\"1\",minor=\"37\"}} 1",
        crate::health::GIT_VERSION
    )?;
    server.aggregator.metrics(out)?;
    server.flow.write_metrics(out)?;
    process(server, out)
}

/// The process collector's figures, as far as the system tells them.
fn process(server: &ApiServer, out: &mut String) -> std::fmt::Result {
    // When the server began is known better than the system tells it.
    for figure in storage::process::figures().iter().filter(|figure| figure.name != "process_start_time_seconds") {
        head(out, figure.name, figure.kind, figure.help)?;
        writeln!(out, "{} {}", figure.name, figure.value)?;
    }
    if let Some(started) = *server.metrics.started.lock() {
        head(out, "process_start_time_seconds", "gauge", "Start time of the process since unix epoch in seconds.")?;
        writeln!(out, "process_start_time_seconds {started}")?;
    }
    Ok(())
}
