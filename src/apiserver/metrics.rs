//! `/metrics` with upstream's names (apiserver `endpoints/metrics`, `storage/etcd3/metrics`).

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use base::Histograms;
use http::{HeaderMap, HeaderValue};
use parking_lot::Mutex;

use crate::auth::tokens::ServiceAccountTokens;
use crate::respond::{self, Response};
use crate::server::ApiServer;

pub(crate) mod caches;
mod exposition;
pub(crate) mod health;
pub(crate) mod histogram;
pub(crate) mod identity;
pub mod reloads;
pub(crate) mod requests;

/// What the server counts.
#[derive(Default)]
pub struct Metrics {
    pub(crate) requests: requests::Requests,
    pub(crate) identities: identity::Identities,
    pub(crate) health: health::Checked,
    admission: Mutex<Admissions>,
    started: Mutex<Option<f64>>,
    handshake_errors: AtomicU64,
    reloads: OnceLock<Arc<reloads::Reloads>>,
    tokens: OnceLock<Arc<ServiceAccountTokens>>,
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

impl Metrics {
    /// When the process began.
    pub(crate) fn write_start(&self, out: &mut String) {
        if let Some(started) = *self.started.lock() {
            let help = "Start time of the process since unix epoch in seconds.";
            // Writing to a string cannot fail.
            let _ = head(out, "process_start_time_seconds", "gauge", help);
            let _ = writeln!(out, "process_start_time_seconds {started}");
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

    /// Tells of configuration files and of service account tokens, too. The first time counts.
    pub fn tell_of(&self, reloads: Arc<reloads::Reloads>, tokens: Arc<ServiceAccountTokens>) {
        if self.reloads.set(reloads).is_err() || self.tokens.set(tokens).is_err() {
            tracing::error!("counts were given twice; the first ones stay");
        }
    }

    /// A connection ended before its handshake did.
    pub fn handshake_failed(&self) {
        self.handshake_errors.fetch_add(1, Ordering::Relaxed);
    }

    /// Remembers when the process began, in seconds since the epoch.
    pub fn set_start(&self, seconds: f64) {
        *self.started.lock() = Some(seconds);
    }
}

/// The figures, in the form that the client takes.
pub async fn serve(server: &ApiServer, headers: &HeaderMap) -> Response {
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
    let mut response = figures(headers, text);
    if let Some(started) = *server.metrics.started.lock() {
        response.headers_mut().insert("process-start-time-unix", HeaderValue::from(started as i64));
    }
    response
}

/// Figures in the form that the client asks for.
pub(crate) fn figures(headers: &HeaderMap, text: String) -> Response {
    match exposition::wants_protobuf(headers) {
        true => respond::bytes(200, exposition::PROTOBUF, exposition::protobuf(&text)),
        false => respond::bytes(200, exposition::TEXT, text),
    }
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) -> std::fmt::Result {
    writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}")
}

fn write(server: &ApiServer, out: &mut String) -> std::fmt::Result {
    server.metrics.requests.write(out)?;
    server.metrics.identities.write(out)?;
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
    caches::write(server, out)?;
    head(
        out,
        "kubernetes_build_info",
        "gauge",
        "[ALPHA] A metric with a constant '1' value labeled by major, minor, git version.",
    )?;
    writeln!(out, "kubernetes_build_info{{{}}} 1", crate::health::build_labels())?;
    let name = "version_info";
    let help = "[ALPHA] Provides the compatibility version info of the component. The component label is the name of the component, usually kube, but is relevant for aggregated-apiservers.";
    head(out, name, "gauge", help)?;
    writeln!(out, "{name}{{binary=\"1.37.0\",component=\"kube\",emulation=\"1.37\",min_compat=\"1.36\"}} 1")?;
    let name = "apiserver_tls_handshake_errors_total";
    head(out, name, "counter", "[ALPHA] Number of requests dropped with 'TLS handshake error from' error")?;
    writeln!(out, "{name} {}", server.metrics.handshake_errors.load(Ordering::Relaxed))?;
    if let Some(audit) = server.audit.get() {
        audit.write_metrics(out)?;
    }
    server.decisions.write(out)?;
    if let Some(tokens) = server.metrics.tokens.get() {
        tokens.metrics(out);
    }
    if let Some(reloads) = server.metrics.reloads.get() {
        reloads.write(out)?;
    }
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
    server.metrics.write_start(out);
    Ok(())
}
