//! What every request passes before its verb, in one order: panic fence, request id, identity, impersonation, flow,
//! authorisation, timeout.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use api::services::{AuthorizationAttributes, Decision};
use api::{GroupResource, Status, UserInfo};
use async_trait::async_trait;
use axum::body::Body;
use futures::FutureExt;
use http::request::Parts;
use http::{HeaderValue, Method, Request};
use http_body::Body as _;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::auth::ConnectionIdentity;
use crate::flow::{self, Arrival};
use crate::metrics::identity::Filter;
use crate::metrics::requests::{Counting, Hooks, Kind};
use crate::negotiate::Accept;
use crate::query::Query;
use crate::request::RequestInfo;
use crate::respond::{self, Response};
use crate::router;
use crate::serve::SendBy;
use crate::server::ApiServer;

pub mod deadline;
pub mod impersonation;

pub mod audited;

/// Who makes a request that came over the wire.
#[async_trait]
pub trait Authenticate: Send + Sync {
    /// The user, or the failure to answer with; a request without credentials is [`UserInfo::anonymous`] or an error, as
    /// the implementation is configured.
    async fn authenticate(&self, parts: &Parts) -> Result<UserInfo, Status>;
}

/// A request on its way to its verb.
pub struct Call {
    pub info: Arc<RequestInfo>,
    pub query: Query,
    pub user: UserInfo,
    pub parts: Parts,
    /// Taken once; behind a lock only because bodies are not `Sync`.
    pub body: Mutex<Body>,
    pub warnings: Warnings,
}

/// Texts for `Warning` headers, and the annotations of the request's audit event.
#[derive(Clone, Default)]
pub struct Warnings(Arc<Mutex<Vec<String>>>, Arc<Mutex<Vec<(String, String)>>>);

/// Texts of more characters together are cut …
const WARNINGS_MAX: usize = 4 << 10;
/// … each to this many.
const WARNING_MAX: usize = 256;

impl Warnings {
    /// Adds a text once.
    pub fn add(&self, text: impl Into<String>) {
        let text = text.into();
        let mut all = self.0.lock();
        if !all.contains(&text) {
            all.push(text);
        }
    }

    pub fn extend(&self, texts: impl IntoIterator<Item = String>) {
        texts.into_iter().for_each(|t| self.add(t));
    }

    /// The texts so far.
    pub fn texts(&self) -> Vec<String> {
        self.0.lock().clone()
    }

    /// Adds annotations to the audit event; the first value of a key stays.
    pub fn annotate(&self, annotations: Vec<(String, String)>) {
        let mut all = self.1.lock();
        for (key, value) in annotations {
            if all.iter().all(|(known, _)| *known != key) {
                all.push((key, value));
            }
        }
    }

    /// The annotations of the request's audit event so far.
    pub fn annotations(&self) -> Vec<(String, String)> {
        self.1.lock().clone()
    }

    fn write(&self, response: &mut Response) {
        for line in headers(&self.0.lock()) {
            if let Ok(value) = HeaderValue::from_bytes(line.as_bytes()) {
                response.headers_mut().append(http::header::WARNING, value);
            }
        }
    }
}

impl api::kind::Warn for Warnings {
    fn warn(&self, text: String) {
        self.add(text);
    }
}

/// The `Warning` headers of some texts (`recorder.AddWarning` of apiserver `endpoints/filters/warning.go`): all of them
/// whole, or, if they are too long together, each cut, until there is no more room.
fn headers(texts: &[String]) -> Vec<String> {
    let texts = || texts.iter().filter(|text| !text.is_empty());
    let size = |text: &String| text.chars().count();
    let truncating = texts().map(size).sum::<usize>() > WARNINGS_MAX;
    let (mut written, mut lines) = (0, Vec::new());
    for text in texts() {
        if truncating && written >= WARNINGS_MAX {
            break;
        }
        // Control characters cannot stand in a header (`NewWarningHeader`).
        if text.chars().any(char::is_control) {
            continue;
        }
        let shown: String = text.chars().take(if truncating { WARNING_MAX } else { usize::MAX }).collect();
        written += size(&shown);
        let quoted: String =
            shown.chars().flat_map(|c| if matches!(c, '"' | '\\') { vec!['\\', c] } else { vec![c] }).collect();
        lines.push(format!("299 - \"{quoted}\""));
    }
    lines
}

/// Runs a request through the chain.
pub async fn chain(server: Arc<ApiServer>, request: Request<Body>) -> Response {
    let audit_id = audit_id(request.headers());
    let method = request.method().clone();
    let query = Query::parse(request.uri().query().unwrap_or_default());
    let warnings = Warnings::default();
    let mut response = match RequestInfo::parse(&method, request.uri().path(), &query) {
        Err(why) => {
            let why = format!("failed to create RequestInfo: {why}, {}", whole(request.uri()));
            let mut response = internal_error(request.uri(), &why);
            // Upstream's filter of this header comes after.
            response.headers_mut().remove(http::header::CACHE_CONTROL);
            response
        }
        Ok(info) => {
            let info = Arc::new(info);
            let run = fenced(Arc::clone(&server), request, Arc::clone(&info), query.clone(), warnings.clone());
            AssertUnwindSafe(run).catch_unwind().await.unwrap_or_else(|_| {
                tracing::error!(%method, path = info.path, audit_id, "request handler panicked");
                let status = Status::internal("This request caused apiserver to panic. Look in the logs for details.");
                respond::failure(&status, Accept::JSON)
            })
        }
    };
    if method == Method::HEAD {
        response = without_body(response);
    }
    warnings.write(&mut response);
    if let Ok(value) = HeaderValue::from_str(&audit_id) {
        response.headers_mut().insert("audit-id", value);
    }
    response
}

/// The answer to HEAD: it has the length of what GET would get. HTTP/2 connections break over a body.
fn without_body(response: Response) -> Response {
    let (mut parts, body) = response.into_parts();
    if let Some(size) = body.size_hint().exact() {
        parts.headers.entry(http::header::CONTENT_LENGTH).or_insert_with(|| HeaderValue::from(size));
    }
    Response::from_parts(parts, Body::empty())
}

/// The client's `Audit-ID` if it sent a sensible one, else a new one.
fn audit_id(headers: &http::HeaderMap) -> String {
    let sent = headers.get("audit-id").and_then(|v| v.to_str().ok()).filter(|v| !v.is_empty() && v.len() <= 64);
    sent.map_or_else(|| uuid::Uuid::new_v4().to_string(), ToOwned::to_owned)
}

async fn fenced(
    server: Arc<ApiServer>,
    request: Request<Body>,
    info: Arc<RequestInfo>,
    query: Query,
    warnings: Warnings,
) -> Response {
    let began = Instant::now();
    let (mut parts, body) = request.into_parts();
    let _fence = audited::Fence;
    let user = match identify(&server, &info, &query, &mut parts, &warnings).await {
        Ok(user) => user,
        Err(status) => {
            let mut response = respond::refuse(&server, &parts.headers, &query, &status);
            // Bad headers of an impersonation, too: what is refused before the verb is (`RespondWithError`).
            if matches!(status.code, 400 | 403) {
                response.headers_mut().insert("x-content-type-options", HeaderValue::from_static("nosniff"));
            }
            return response;
        }
    };
    let long_running = is_long_running(&info, &query);
    let mutating = !matches!(parts.method, Method::GET | Method::HEAD | Method::OPTIONS);
    let _place = (!long_running).then(|| server.in_flight.enter(mutating));
    let timeout = match deadline::of(&query, server.limits.request_timeout) {
        _ if long_running => None,
        Ok(timeout) => Some(timeout),
        Err(status) => return respond::refuse(&server, &parts.headers, &query, &status),
    };
    let is_watch = matches!(info.verb.as_str(), "watch");
    let kind = Kind::of(&server, &info, &query, &parts.headers);
    let came = Instant::now();
    let ticket = if long_running && !is_watch {
        None
    } else {
        let arrival = Arrival { info: &info, query: &query, user: &user, is_watch, timeout };
        let asked = Instant::now();
        let admitted = flow::admit(&server, arrival).await;
        server.metrics.identities.passed(Filter::Flow, asked.elapsed());
        match admitted {
            Ok(ticket) => ticket,
            Err(response) => {
                kind.into_iter().for_each(|kind| server.metrics.requests.turned_away(kind));
                return response;
            }
        }
    };
    let queued = came.elapsed();
    let counting = kind.map(|kind| {
        let mut counting = Counting::new(&server, kind, began, &user, &query);
        counting.spent_elsewhere(queued);
        counting
    });
    let call = Call { info, query, user, parts, body: Mutex::new(body), warnings };
    let mut response = served(&server, call, timeout, counting).await;
    if let Some(timeout) = timeout {
        response.extensions_mut().insert(SendBy(began + timeout));
    }
    if let Some(ticket) = ticket {
        flow::mark(&mut response, ticket.schema());
        // What is made while it is sent keeps its seats until it is sent; a watch needs them for its beginning only.
        if !is_watch && response.body().size_hint().exact().is_none() {
            return respond::keep(response, ticket);
        }
    }
    response
}

/// After flow control: authorisation, and the verb within its time. No time is as much as it likes.
async fn served(
    server: &Arc<ApiServer>,
    call: Call,
    timeout: Option<Duration>,
    mut counting: Option<Counting>,
) -> Response {
    if let Err(refusal) = authorise(server, &call.user, &call.info).await {
        let mut response = match refusal {
            Refusal::Forbidden(status) => respond::refuse(server, &call.parts.headers, &call.query, &status),
            Refusal::Failed(why) => internal_error(&call.parts.uri, &why),
        };
        response.headers_mut().insert("x-content-type-options", HeaderValue::from_static("nosniff"));
        return response;
    }
    if let Some(counting) = &mut counting {
        counting.begin();
    }
    let Some(timeout) = timeout else {
        let open = counting.as_ref().map(Counting::long_running);
        let response = router::dispatch(server, call).await;
        let response = match counting {
            Some(counting) => counting.answered(response),
            None => response,
        };
        // The request is open as long as its body is being sent.
        return respond::keep(response, open);
    };
    let (answer, hooks) = Hooks::around(tokio::time::timeout(timeout, router::dispatch(server, call))).await;
    let late = answer.is_err();
    let response = answer.unwrap_or_else(|_| {
        respond::failure(&Status::timeout("request did not complete within the allotted timeout", 0), Accept::JSON)
    });
    let Some(mut counting) = counting else { return response };
    counting.spent_elsewhere(hooks);
    if late {
        counting.terminated(response.status().as_u16());
    }
    counting.answered(response)
}

async fn identify(
    server: &ApiServer,
    info: &RequestInfo,
    query: &Query,
    parts: &mut Parts,
    warnings: &Warnings,
) -> Result<UserInfo, Status> {
    let received = server.clock.now();
    // Extensions cannot come from a socket: whoever put a user there is this process.
    let user = match parts.extensions.get::<UserInfo>() {
        Some(user) => user.clone(),
        None => match authenticate(server, parts, warnings).await {
            Ok(user) => user,
            Err(status) => {
                audited::refused(server, info, parts, received, &status).await;
                return Err(status);
            }
        },
    };
    let long_running = is_long_running(info, query);
    let began = Instant::now();
    audited::begin(server, audited::Arrived { info, received, long_running, warnings }, parts, &user).await?;
    server.metrics.identities.passed(Filter::Audit, began.elapsed());
    parts.headers.remove(http::header::AUTHORIZATION);
    crate::auth::front_proxy::clear(&mut parts.headers);
    let began = Instant::now();
    let user = impersonation::apply(server, user, info, parts).await;
    server.metrics.identities.passed(Filter::Impersonation, began.elapsed());
    user
}

/// Who asks over the wire.
async fn authenticate(server: &ApiServer, parts: &Parts, warnings: &Warnings) -> Result<UserInfo, Status> {
    let began = Instant::now();
    let found = server.authenticator.authenticate(parts).await;
    let took = began.elapsed();
    if found.as_ref().map_or(true, |user| user.name == "system:anonymous")
        && crate::auth::authenticate::is_token_after_spaces(&parts.headers)
    {
        warnings.add("the provided Authorization header contains extra space before the bearer token, and is ignored");
    }
    let user = found.as_ref().ok();
    let now = server.clock.now().as_second();
    let certificate = parts.extensions.get::<ConnectionIdentity>().filter(|identity| identity.user(now) == user);
    let expires = user.and(certificate).and_then(|identity| identity.expires_in(now));
    server.metrics.identities.authenticated(user.map(|user| user.name.as_str()), expires, took);
    server.metrics.identities.passed(Filter::Authentication, took);
    found
}

fn whole(uri: &http::Uri) -> &str {
    uri.path_and_query().map_or("/", |uri| uri.as_str())
}

/// `responsewriters.InternalError`: no Status.
fn internal_error(uri: &http::Uri, why: &str) -> Response {
    let text = format!("Internal Server Error: {:?}: {why}\n", whole(uri));
    respond::text(500, text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;"))
}

/// Why a request goes no further than its authorisation.
pub enum Refusal {
    /// Upstream's `ForbiddenStatusError`.
    Forbidden(Status),
    /// Nobody allows it, and somebody could not be asked.
    Failed(String),
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Forbidden(status) => status,
            Refusal::Failed(why) => Self::internal(why),
        }
    }
}

/// Whether the user may do this.
pub async fn authorise(server: &ApiServer, user: &UserInfo, info: &RequestInfo) -> Result<(), Refusal> {
    let asked = attributes(info);
    let began = Instant::now();
    let (decision, error) = server.authorizer.authorize_or_fail(user, &asked).await;
    let result = match (&decision, &error) {
        (Decision::Allow { .. }, _) => "allowed",
        (_, Some(_)) => "error",
        (Decision::NoOpinion { .. }, None) => "no-opinion",
        (Decision::Deny { .. }, None) => "denied",
    };
    server.metrics.identities.authorized(result, began.elapsed());
    server.metrics.identities.passed(Filter::Authorization, began.elapsed());
    if decision.allowed() {
        audited::decided("allow", decision.reason());
        return Ok(());
    }
    if let Some(error) = error {
        audited::decided("", "internal error");
        return Err(Refusal::Failed(error));
    }
    audited::decided("forbid", decision.reason());
    Err(Refusal::Forbidden(forbidden(user, &asked, decision.reason())))
}

/// What a request asks the authoriser.
fn attributes(info: &RequestInfo) -> AuthorizationAttributes {
    AuthorizationAttributes {
        verb: info.verb.clone(),
        is_resource: info.is_resource,
        group: info.group.clone(),
        version: info.version.clone(),
        resource: info.resource.clone(),
        subresource: info.subresource.clone(),
        namespace: info.namespace.clone(),
        name: info.name.clone(),
        path: info.path.clone(),
        field_selector: info.field_selector.clone(),
        label_selector: info.label_selector.clone(),
    }
}

/// [`authorise`] for a question of the caller's own.
pub async fn check(server: &ApiServer, user: &UserInfo, attributes: &AuthorizationAttributes) -> Result<(), Status> {
    let decision = server.authorizer.authorize(user, attributes).await;
    if decision.allowed() {
        return Ok(());
    }
    Err(forbidden(user, attributes, decision.reason()))
}

/// `responsewriters.ForbiddenStatusError`.
fn forbidden(user: &UserInfo, attributes: &AuthorizationAttributes, reason: &str) -> Status {
    let mut message = attributes.refusal(user);
    if !reason.is_empty() {
        message += &format!(": {reason}");
    }
    let resource = GroupResource::new(attributes.group.clone(), attributes.resource.clone());
    Status::forbidden(&resource, &attributes.name, message)
}

/// Watches, logs and connections (upstream's `BasicLongRunningRequestCheck`).
fn is_long_running(info: &RequestInfo, query: &Query) -> bool {
    if !info.is_resource {
        return info.path.starts_with("/debug/pprof/");
    }
    matches!(info.verb.as_str(), "watch" | "proxy")
        || matches!(info.subresource.as_str(), "attach" | "exec" | "proxy" | "log" | "portforward")
        || (info.verb == "list" && query.flag("watch"))
}
