//! The stages of a request as auditing sees them (apiserver `endpoints/filters/{audit,authn_audit}.go`).
//!
//! The event of the request that runs is at hand in its task: code that makes or changes what is told need not be handed
//! it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use api::{Status, UserInfo};
use axum::body::Body;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderValue, Request};
use http_body_util::BodyExt;
use jiff::Timestamp;
use serde_json::Value;

use super::{Warnings, attributes, audit_id};
use crate::audit::policy::Stage;
use crate::audit::{Recorder, attempted};
use crate::request::RequestInfo;
use crate::respond::{self, Response};
use crate::server::ApiServer;

tokio::task_local! {
    static CURRENT: Arc<Slot>;
}

/// What is told of one request; empty until it is known that something is.
#[derive(Default)]
struct Slot {
    record: OnceLock<Record>,
    panicked: AtomicBool,
}

struct Record {
    recorder: Recorder,
    warnings: Warnings,
    long_running: bool,
    verb: String,
}

/// Answers a request and tells of it.
pub async fn serve(server: Arc<ApiServer>, mut request: Request<Body>) -> Response {
    if server.audit.get().is_none() {
        return super::chain(server, request).await;
    }
    // The same id in the event and in the answer.
    if let Ok(id) = HeaderValue::from_str(&audit_id(request.headers())) {
        request.headers_mut().insert("audit-id", id);
    }
    let slot = Arc::new(Slot::default());
    let response = CURRENT.scope(Arc::clone(&slot), super::chain(server, request)).await;
    match slot.record.get() {
        None => response,
        Some(record) if slot.panicked.load(Ordering::Relaxed) => {
            record.recorder.failed(500, "APIServer panic'd: look in the logs for details".to_owned());
            record.recorder.reach(Stage::Panic, record.warnings.annotations()).await;
            response
        }
        Some(record) => record.answered(response).await,
    }
}

/// The event of the request that runs in this task, if it is audited.
pub fn recorder() -> Option<Recorder> {
    CURRENT.try_with(|slot| slot.record.get().map(|record| record.recorder.clone())).ok().flatten()
}

/// Tells what the authoriser said. No decision: it failed.
pub fn decided(decision: &str, reason: &str) {
    let note = |slot: &Arc<Slot>| {
        let Some(record) = slot.record.get() else { return };
        let named = |key: &str, text: &str| (format!("authorization.k8s.io/{key}"), text.to_owned());
        let mut all = vec![named("reason", reason)];
        all.extend(Some(named("decision", decision)).filter(|_| !decision.is_empty()));
        record.warnings.annotate(all);
    };
    // Outside of a request nothing is told.
    let _absent = CURRENT.try_with(note);
}

/// Annotates the event of the request that runs in this task; the first value of a key stays.
pub fn annotate(key: &str, value: &str) {
    let note = |slot: &Arc<Slot>| {
        if let Some(record) = slot.record.get() {
            record.warnings.annotate(vec![(key.to_owned(), value.to_owned())]);
        }
    };
    // Outside of a request nothing is told.
    let _absent = CURRENT.try_with(note);
}

/// Notices that the handler of a request panics.
pub struct Fence;

impl Drop for Fence {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _absent = CURRENT.try_with(|slot| slot.panicked.store(true, Ordering::Relaxed));
        }
    }
}

/// A request that has come in.
pub struct Arrived<'a> {
    pub info: &'a RequestInfo,
    pub received: Timestamp,
    pub long_running: bool,
    pub warnings: &'a Warnings,
}

/// Begins to record an authenticated request.
///
/// # Errors
/// The log must not lose events and could not take this one.
pub async fn begin(server: &ApiServer, arrived: Arrived<'_>, parts: &mut Parts, user: &UserInfo) -> Result<(), Status> {
    let Some(audit) = server.audit.get() else { return Ok(()) };
    let Arrived { info, received, long_running, warnings } = arrived;
    let id = audit_id(&parts.headers);
    let Some(recorder) = audit.begin(&id, parts, Some(user), &attributes(info), received) else { return Ok(()) };
    if recorder.wants_response() {
        // The event holds the answer as text.
        parts.headers.remove(ACCEPT_ENCODING);
    }
    if !recorder.reach(Stage::RequestReceived, Vec::new()).await {
        return Err(Status::internal("failed to store audit event"));
    }
    let record = Record { recorder, warnings: warnings.clone(), long_running, verb: info.verb.clone() };
    // A request is recorded once.
    let _absent = CURRENT.try_with(|slot| slot.record.set(record).is_ok());
    Ok(())
}

/// Tells of a request that failed to authenticate.
pub async fn refused(server: &ApiServer, info: &RequestInfo, parts: &Parts, received: Timestamp, status: &Status) {
    let code = status.code;
    let Some(audit) = server.audit.get() else { return };
    let id = audit_id(&parts.headers);
    if let Some(recorder) = audit.begin(&id, parts, None, &attributes(info), received) {
        recorder.failed(code, attempted(parts));
        // The answer's `Status` takes the place of that (`AuditContext.LogResponseObject`).
        recorder.responded(code, Some(status.to_value()));
        recorder.reach(Stage::ResponseStarted, Vec::new()).await;
    }
}

impl Record {
    /// Tells of the answer. A long answer has two stages; the second is reached when its body ends or is given up.
    async fn answered(&self, response: Response) -> Response {
        let code = response.status().as_u16();
        // Only a `Status` is told at every level, and those are failures and answers to deletions.
        let deletes = matches!(self.verb.as_str(), "delete" | "deletecollection");
        let reads_body = code >= 400 || (!self.long_running && (self.recorder.wants_response() || deletes));
        let (response, document) = if reads_body { read(response).await } else { (response, None) };
        self.recorder.responded(code, document);
        if !self.long_running {
            self.recorder.reach(Stage::ResponseComplete, self.warnings.annotations()).await;
            return response;
        }
        self.recorder.reach(Stage::ResponseStarted, self.warnings.annotations()).await;
        let end = End { recorder: self.recorder.clone(), warnings: self.warnings.clone() };
        respond::keep(response, end)
    }
}

/// Reaches the last stage when it is dropped with the body.
struct End {
    recorder: Recorder,
    warnings: Warnings,
}

impl Drop for End {
    fn drop(&mut self) {
        self.recorder.reach_now(Stage::ResponseComplete, self.warnings.annotations());
    }
}

/// The response with its body in memory, and the body's document if it is text.
async fn read(response: Response) -> (Response, Option<Value>) {
    let (parts, body) = response.into_parts();
    let bytes = match body.collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => {
            // The client learns of it as it would have: the body ends in the middle.
            let failed = futures::stream::iter([Err::<bytes::Bytes, _>(error)]);
            return (Response::from_parts(parts, Body::from_stream(failed)), None);
        }
    };
    let media_type = parts.headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let document = if parts.headers.contains_key(CONTENT_ENCODING) {
        None
    } else if media_type.contains("json") {
        serde_json::from_slice(&bytes).ok()
    } else if media_type.contains("yaml") {
        std::str::from_utf8(&bytes).ok().and_then(|text| serde_saphyr::from_str(text).ok())
    } else {
        None
    };
    (Response::from_parts(parts, Body::from(bytes)), document)
}
