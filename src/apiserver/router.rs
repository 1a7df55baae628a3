//! The one handler of all requests. Routes are data (kinds come and go), so it is a fallback over everything.

use std::sync::Arc;

use api::Status;
use axum::body::Body;
use http::{Method, Request};

use crate::aggregate;
use crate::discovery;
use crate::filters::{self, Call};
use crate::health;
use crate::respond::{self, Response};
use crate::served;
use crate::server::ApiServer;
use crate::verbs;

/// Answers a request.
pub async fn handle(server: Arc<ApiServer>, request: Request<Body>) -> Response {
    if let Some(refused) = expects_what_nobody_does(&request) {
        return refused;
    }
    filters::audited::serve(server, request).await
}

/// Go's HTTP/1 server's answer to an expectation other than `100-continue`.
fn expects_what_nobody_does(request: &Request<Body>) -> Option<Response> {
    let expected = request.headers().get(http::header::EXPECT).filter(|_| request.version() < http::Version::HTTP_2)?;
    let known = |part: &str| part.trim().eq_ignore_ascii_case("100-continue");
    if expected.is_empty() || expected.to_str().is_ok_and(|text| text.split(',').any(known)) {
        return None;
    }
    let mut response = Response::new(Body::empty());
    *response.status_mut() = http::StatusCode::EXPECTATION_FAILED;
    response.headers_mut().insert(http::header::CONNECTION, http::HeaderValue::from_static("close"));
    Some(response)
}

/// After the filters: to a verb, or to one of the server's own documents.
pub async fn dispatch(server: &Arc<ApiServer>, call: Call) -> Response {
    if let Some(remote) = server.aggregator.route(&call.info.path) {
        return aggregate::proxy::serve(server, call, &remote).await;
    }
    let path = call.info.path.clone();
    // Upstream's mux does not take such a path for the one without the empty parts.
    if path.contains("//") && call.info.rest.is_empty() {
        return unknown(server, &call);
    }
    if call.info.is_resource {
        return verbs::serve(server, call).await;
    }
    // What upstream's router of resources serves takes one method; the rest of its documents never looks at it.
    let refused = || {
        let status = served::method_not_allowed();
        respond::refuse(server, &call.parts.headers, &call.query, &status)
    };
    let is_get = call.parts.method == Method::GET;
    let trimmed = path.strip_suffix('/').unwrap_or(&path);
    if let Some((_, document)) = server.documents.iter().find(|(at, _)| *at == trimmed) {
        if !is_get {
            return refused();
        }
        let kind = if trimmed.ends_with("/jwks") { "application/jwk-set+json" } else { crate::negotiate::JSON };
        let mut response = respond::bytes(200, kind, document.to_string());
        let public = http::HeaderValue::from_static("public, max-age=3600");
        response.headers_mut().insert(http::header::CACHE_CONTROL, public);
        return response;
    }
    if path.len() > 1 && path != trimmed && !path.starts_with("/api") && trimmed != "/version" {
        if path.starts_with("/openapi/v3/") {
            return openapi_missing();
        }
        return respond::page_not_found();
    }
    if trimmed == "/version" && !is_get {
        return refused();
    }
    let parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty()).collect();
    let offered = discovery::offered(&parts);
    match parts.as_slice() {
        ["healthz" | "livez" | "readyz", ..] => health::serve(server, &call, &parts).await,
        ["version"] if !discovery::is_offered(&call, offered) => {
            let status = discovery::not_offered(offered);
            respond::refuse(server, &call.parts.headers, &call.query, &status)
        }
        ["version"] => health::version(),
        ["metrics", "slis"] => {
            let mut text = String::new();
            server.metrics.health.write(&mut text);
            server.metrics.write_start(&mut text);
            crate::compress::figures(&call.parts.headers, crate::metrics::figures(&call.parts.headers, text))
        }
        ["metrics"] => {
            let figures = crate::metrics::serve(server, &call.parts.headers).await;
            crate::compress::figures(&call.parts.headers, figures)
        }
        // Upstream serves the profiles of Go's runtime here.
        ["debug", "pprof", ..] => respond::text(501, "this server has no profiles in pprof's form\n"),
        ["debug", "api_priority_and_fairness", page] => {
            server.flow.debug(page, &call.query, server.clock.now()).unwrap_or_else(respond::page_not_found)
        }
        ["openapi", "v3", ..] => crate::openapi::serve(server, &call, &parts).await.unwrap_or_else(openapi_missing),
        ["openapi", ..] => crate::openapi::serve(server, &call, &parts).await.unwrap_or_else(respond::page_not_found),
        [page @ ("statusz" | "flagz")] => crate::zpages::serve(server, &call, page),
        [] | ["index.html"] => {
            let paths = serde_json::json!({"paths": paths(server)});
            respond::raw_json(200, &paths)
        }
        _ => match discovered(server, &call, &parts).await {
            None => unknown(server, &call),
            Some(_) if !is_get && is_routed_document(server, &parts) => refused(),
            Some(_) if is_routed_document(server, &parts) && !discovery::is_offered(&call, offered) => {
                let status = discovery::not_offered(offered);
                respond::refuse(server, &call.parts.headers, &call.query, &status)
            }
            Some(response) => response,
        },
    }
}

async fn discovered(server: &ApiServer, call: &Call, parts: &[&str]) -> Option<Response> {
    if parts.first() == Some(&"apis") {
        server.settling.written().await;
    }
    discovery::serve(server, call, parts)
}

/// What upstream's OpenAPI service says of a document that it does not have: nothing.
fn openapi_missing() -> Response {
    let mut response = respond::bytes(404, crate::negotiate::JSON, Body::empty());
    response.headers_mut().remove(http::header::CONTENT_TYPE);
    response
}

/// The answer to a path that names nothing: below the built-in groups upstream's router of resources says it, elsewhere its
/// mux (apiserver `server/handler.go` `director`).
pub(crate) fn unknown(server: &ApiServer, call: &Call) -> Response {
    let mut parts = call.info.path.split('/').skip(1);
    let routed = match parts.next() {
        Some("api") => true,
        Some("apis") => parts.next().is_some_and(|group| is_built_in(server, group)),
        _ => false,
    };
    if routed {
        return respond::refuse(server, &call.parts.headers, &call.query, &Status::page_not_found());
    }
    respond::page_not_found()
}

fn is_built_in(server: &ApiServer, group: &str) -> bool {
    server.table.load().all.iter().any(|served| served.def.gvk.group == group && served.def.custom.is_none())
}

/// Whether a discovery document is served by the router of resources, not by the aggregator or for definitions.
fn is_routed_document(server: &ApiServer, parts: &[&str]) -> bool {
    match parts {
        ["api", ..] => true,
        ["apis", group, _version] => is_built_in(server, group),
        _ => false,
    }
}

/// `/`: what else there is (apiserver `server/routes/index.go`).
pub(crate) fn paths(server: &ApiServer) -> Vec<String> {
    let mut paths: Vec<String> = [
        "/api",
        "/api/v1",
        "/apis",
        "/apis/",
        "/flagz",
        "/healthz",
        "/livez",
        "/metrics",
        "/openapi/v2",
        "/openapi/v3",
        "/readyz",
        "/statusz",
        "/version",
    ]
    .map(ToOwned::to_owned)
    .to_vec();
    paths.extend(server.documents.iter().map(|(path, _)| path.clone()));
    paths.push("/openapi/v3/".to_owned());
    for (endpoint, check) in health::checks(server) {
        paths.push(format!("/{endpoint}/{check}"));
    }
    for served in &server.table.load().all {
        let gvk = &served.def.gvk;
        if !gvk.group.is_empty() {
            paths.push(format!("/apis/{}", gvk.group));
            paths.push(format!("/apis/{}/{}", gvk.group, gvk.version));
        }
    }
    for remote in server.aggregator.snapshot().all() {
        paths.push(format!("/apis/{}", remote.group));
        paths.push(remote.path());
    }
    paths.sort();
    paths.dedup();
    paths
}
