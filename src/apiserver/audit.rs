//! Audit: what was asked, by whom, and what came of it (apiserver `pkg/audit`, `endpoints/filters/audit.go`).
//!
//! A request that the policy gives the level `None` has no recorder and costs the walk over the rules. Every queue here
//! is bounded; a full one drops events and counts them, except in the strict mode, where the request fails.

mod batch;
pub mod event;
mod file;
pub mod policy;
mod sink;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use api::services::AuthorizationAttributes;
use api::{Object, UserInfo};
use base::SharedClock;
use http::request::Parts;
use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::auth::ConnectionIdentity;
pub use batch::{BatchOptions, Mode, Throttle};
use event::{AuthenticationMetadata, Event, ObjectReference, ResponseStatus, User};
pub use file::{FileOptions, Format};
use policy::{Level, Policy, Stage};
use sink::Sink;
pub use sink::TruncateOptions;

/// Longer ones are cut.
const USER_AGENT_MAX: usize = 1024;

/// Why auditing cannot start.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    #[error("cannot {step} {path}")]
    File {
        step: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("loading audit policy file: {why}")]
    Policy { why: String },
    #[error("initializing audit webhook")]
    Webhook(#[source] crate::remote::RemoteError),
}

/// The address that a request came from. An extension of every request from a socket.
#[derive(Debug, Clone, Copy)]
pub struct PeerAddress(pub IpAddr);

/// What auditing does, as kube-apiserver's `--audit-*` flags say it.
#[derive(Debug, Clone, Default)]
pub struct AuditOptions {
    pub policy_file: PathBuf,
    /// The log; `None`: none is written.
    pub log: Option<(FileOptions, BatchOptions, TruncateOptions)>,
    /// The webhook; `None`: none is called.
    pub webhook: Option<(WebhookOptions, BatchOptions, TruncateOptions)>,
}

/// Where events are sent.
#[derive(Debug, Clone)]
pub struct WebhookOptions {
    /// A kubeconfig.
    pub config_file: PathBuf,
    /// Time to wait after the first failed attempt.
    pub initial_backoff: Duration,
}

/// The policy and where events go.
pub struct Audit {
    policy: Policy,
    sinks: Vec<Sink>,
    clock: SharedClock,
    /// Events that were handed to the sinks.
    told: AtomicU64,
    /// Requests that failed because a strict sink did.
    rejected: AtomicU64,
}

impl Audit {
    /// Reads the policy and starts the sinks' tasks, which end with `shutdown` after what they hold is written.
    ///
    /// # Errors
    /// See [`AuditError`].
    pub fn start(
        options: &AuditOptions,
        clock: SharedClock,
        tasks: &mut tokio::task::JoinSet<()>,
        shutdown: &base::Shutdown,
    ) -> Result<Arc<Self>, AuditError> {
        let path = &options.policy_file;
        let text = std::fs::read_to_string(path).map_err(|source| AuditError::File {
            step: "read the audit policy",
            path: path.clone(),
            source,
        })?;
        let policy = Policy::parse(&text)?;
        let mut sinks = Vec::new();
        if let Some((file, batch, truncate)) = &options.log {
            let writer = file::Writer::open(file, clock.clone())?;
            sinks.push(Sink::log(writer, file.format, *batch, *truncate, tasks, shutdown));
        }
        if let Some((webhook, batch, truncate)) = &options.webhook {
            let remote = crate::remote::Remote::load(&webhook.config_file).map_err(AuditError::Webhook)?;
            let backoff = webhook.initial_backoff;
            sinks.push(Sink::webhook(Arc::new(remote), backoff, *batch, *truncate, tasks, shutdown));
        }
        Ok(Arc::new(Self { policy, sinks, clock, told: AtomicU64::new(0), rejected: AtomicU64::new(0) }))
    }

    /// Appends what was counted (apiserver `audit/metrics.go`).
    pub(crate) fn write_metrics(&self, out: &mut String) -> std::fmt::Result {
        let counters = [
            ("event_total", "Counter of audit events generated and sent to the audit backend.", &self.told),
            (
                "requests_rejected_total",
                "Counter of apiserver requests rejected due to an error in audit logging backend.",
                &self.rejected,
            ),
        ];
        for (name, help, count) in counters {
            let name = format!("apiserver_audit_{name}");
            let count = count.load(Ordering::Relaxed);
            writeln!(out, "# HELP {name} [ALPHA] {help}\n# TYPE {name} counter\n{name} {count}")?;
        }
        let name = "apiserver_audit_error_total";
        let help = "Counter of audit events that failed to be audited properly. Plugin identifies the plugin affected by the error.";
        writeln!(out, "# HELP {name} [ALPHA] {help}\n# TYPE {name} counter")?;
        for sink in &self.sinks {
            writeln!(out, "{name}{{plugin=\"{}\"}} {}", sink.name(), sink.dropped())?;
        }
        Ok(())
    }

    /// Begins to record a request; `None` if the policy says not to. `user` is `None` if nobody was authenticated.
    pub fn begin(
        self: &Arc<Self>,
        audit_id: &str,
        parts: &Parts,
        user: Option<&UserInfo>,
        request: &AuthorizationAttributes,
        received: Timestamp,
    ) -> Option<Recorder> {
        let verdict = self.policy.evaluate(user, request);
        if verdict.level == Level::None || self.sinks.is_empty() {
            return None;
        }
        let event = Event {
            kind: "Event",
            api_version: "audit.k8s.io/v1",
            level: verdict.level,
            audit_id: audit_id.to_owned(),
            stage: Stage::RequestReceived,
            request_uri: parts.uri.path_and_query().map_or_else(String::new, ToString::to_string),
            verb: request.verb.clone(),
            user: user.map(User::from).unwrap_or_default(),
            impersonated_user: None,
            authentication_metadata: None,
            source_ips: source_ips(parts),
            user_agent: user_agent(parts),
            object_ref: request.is_resource.then(|| request.into()),
            response_status: None,
            request_object: None,
            response_object: None,
            request_received_timestamp: received,
            stage_timestamp: received,
            annotations: BTreeMap::new(),
        };
        let omitted = verdict.omit_stages.concat();
        let record = Record {
            audit: Arc::clone(self),
            omitted,
            omit_managed_fields: verdict.omit_managed_fields,
            answer: None,
            event,
        };
        Some(Recorder { level: verdict.level, record: Arc::new(Mutex::new(record)) })
    }
}

struct Record {
    audit: Arc<Audit>,
    omitted: Vec<Stage>,
    omit_managed_fields: bool,
    /// The answer as a document, if it is sent in another form.
    answer: Option<Value>,
    event: Event,
}

/// The event of one request, as it grows.
#[derive(Clone)]
pub struct Recorder {
    level: Level,
    record: Arc<Mutex<Record>>,
}

impl Recorder {
    pub fn level(&self) -> Level {
        self.level
    }

    /// Whether the bodies of answers are wanted.
    pub fn wants_response(&self) -> bool {
        self.level >= Level::RequestResponse
    }

    /// Tells the sinks that the request has come to this stage. `false`: a sink that must not lose events could not take
    /// it, and the request must fail.
    pub async fn reach(&self, stage: Stage, annotations: Vec<(String, String)>) -> bool {
        let Some((audit, event)) = self.prepare(stage, annotations) else { return true };
        let mut kept = true;
        for sink in &audit.sinks {
            kept &= sink.process(&event).await;
        }
        if !kept {
            audit.rejected.fetch_add(1, Ordering::Relaxed);
        }
        kept
    }

    /// [`Self::reach`] where nobody can wait: at the end of a body.
    pub fn reach_now(&self, stage: Stage, annotations: Vec<(String, String)>) {
        let Some((audit, event)) = self.prepare(stage, annotations) else { return };
        audit.sinks.iter().for_each(|sink| sink.process_now(&event));
    }

    fn prepare(&self, stage: Stage, annotations: Vec<(String, String)>) -> Option<(Arc<Audit>, Event)> {
        let mut record = self.record.lock();
        if record.omitted.contains(&stage) {
            return None;
        }
        record.event.stage = stage;
        if stage != Stage::RequestReceived {
            record.event.stage_timestamp = record.audit.clock.now();
        }
        record.event.annotations.extend(annotations);
        record.audit.told.fetch_add(1, Ordering::Relaxed);
        Some((Arc::clone(&record.audit), record.event.clone()))
    }

    /// Whom the request acts as. `constraint` is the verb that constrained impersonation was allowed by, if it was.
    pub fn impersonated(&self, user: &UserInfo, constraint: &str) {
        let event = &mut self.record.lock().event;
        event.impersonated_user = Some(user.into());
        if !constraint.is_empty() {
            event.authentication_metadata =
                Some(AuthenticationMetadata { impersonation_constraint: constraint.to_owned() });
        }
    }

    /// The decoded body of a request (`LogRequestObject`).
    pub fn request_object(&self, object: &Object) {
        let mut record = self.record.lock();
        let level = self.level;
        let reference = record.event.object_ref.get_or_insert_with(ObjectReference::default);
        let fill = |field: &mut String, value: &str| {
            if field.is_empty() {
                value.clone_into(field);
            }
        };
        fill(&mut reference.namespace, object.namespace());
        fill(&mut reference.name, object.name());
        fill(&mut reference.uid, object.uid());
        fill(&mut reference.resource_version, object.resource_version());
        if level >= Level::Request {
            let document = Value::Object(object.0.clone());
            let document = if record.omit_managed_fields { event::without_managed_fields(document) } else { document };
            record.event.request_object = raw(&document);
        }
    }

    /// A patch as it was sent, read as JSON (`LogRequestPatch`).
    pub fn request_patch(&self, patch: &Value) {
        if self.level >= Level::Request {
            self.record.lock().event.request_object = raw(patch);
        }
    }

    /// The answer: its code, and its document if it was read.
    pub fn responded(&self, code: u16, document: Option<Value>) {
        let mut record = self.record.lock();
        let document = document.or_else(|| record.answer.take());
        let mut status = match &document {
            Some(document) if document.get("kind").and_then(Value::as_str) == Some("Status") => {
                ResponseStatus::of(document)
            }
            _ => record.event.response_status.take().unwrap_or_default(),
        };
        status.code = code;
        record.event.response_status = Some(status);
        if let Some(document) = document.filter(|_| self.level >= Level::RequestResponse) {
            let document = if record.omit_managed_fields { event::without_managed_fields(document) } else { document };
            record.event.response_object = raw(&document);
        }
    }

    /// The answer's document, where what is sent is no text.
    pub fn answer(&self, document: Value) {
        self.record.lock().answer = Some(document);
    }

    /// A status of the server's own making.
    pub fn failed(&self, code: u16, message: String) {
        let status = match code {
            500 => ResponseStatus {
                status: "Failure".to_owned(),
                reason: "InternalError".to_owned(),
                message,
                code,
                ..ResponseStatus::default()
            },
            _ => ResponseStatus { message, code, ..ResponseStatus::default() },
        };
        self.record.lock().event.response_status = Some(status);
    }
}

fn raw(document: &Value) -> Option<Box<RawValue>> {
    serde_json::value::to_raw_value(document).ok()
}

fn user_agent(parts: &Parts) -> String {
    let text = parts.headers.get(http::header::USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    match text.char_indices().nth(USER_AGENT_MAX) {
        Some((end, _)) => format!("{}...TRUNCATED", &text[..end]),
        None => text.to_owned(),
    }
}

/// `utilnet.SourceIPs`: what proxies say, then who is connected.
fn source_ips(parts: &Parts) -> Vec<String> {
    let text = |name: &str| parts.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let mut all: Vec<IpAddr> =
        text("x-forwarded-for").split(',').filter_map(|address| address.trim().parse().ok()).collect();
    if let Ok(address) = text("x-real-ip").parse::<IpAddr>()
        && !all.contains(&address)
    {
        all.push(address);
    }
    let peer = parts.extensions.get::<PeerAddress>().map_or(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), |peer| peer.0);
    if all.last() != Some(&peer) {
        all.push(peer);
    }
    all.iter().map(ToString::to_string).collect()
}

/// `getAuthMethods`: what a request that failed to authenticate had tried.
pub fn attempted(parts: &Parts) -> String {
    let header = parts.headers.get(http::header::AUTHORIZATION).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let scheme = header.trim().split_once(' ').map(|(scheme, _)| scheme.to_ascii_lowercase());
    let mut tried = Vec::new();
    match scheme.as_deref() {
        Some("basic") => tried.push("basic"),
        Some("bearer") => tried.push("bearer"),
        _ => {}
    }
    if parts.extensions.get::<ConnectionIdentity>().is_some_and(ConnectionIdentity::was_refused) {
        tried.push("x509");
    }
    match tried.as_slice() {
        [] => "Authentication failed, no credentials provided".to_owned(),
        tried => format!("Authentication failed, attempted: {}", tried.join(", ")),
    }
}
