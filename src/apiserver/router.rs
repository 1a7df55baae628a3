//! The one handler of all requests. Routes are data (kinds come and go), so it is a fallback over everything.

use std::sync::Arc;

use api::Status;
use axum::body::Body;
use http::{Method, Request};

use crate::aggregate;
use crate::discovery;
use crate::filters::{self, Call};
use crate::health;
use crate::negotiate::Accept;
use crate::respond::{self, Response};
use crate::server::ApiServer;
use crate::verbs;

/// Answers a request.
pub async fn handle(server: Arc<ApiServer>, request: Request<Body>) -> Response {
    filters::audited::serve(server, request).await
}

/// After the filters: to a verb, or to one of the server's own documents.
pub async fn dispatch(server: &Arc<ApiServer>, call: Call) -> Response {
    if let Some(remote) = server.aggregator.route(&call.info.path) {
        return aggregate::proxy::serve(server, call, &remote).await;
    }
    if call.info.is_resource {
        return verbs::serve(server, call).await;
    }
    if !matches!(call.parts.method, Method::GET | Method::HEAD) {
        let status =
            Status::new(405, "MethodNotAllowed", "the server does not allow this method on the requested resource");
        return respond::failure(&status, Accept::JSON);
    }
    let path = call.info.path.clone();
    if let Some((_, document)) = server.documents.iter().find(|(at, _)| *at == path) {
        return respond::bytes(200, crate::negotiate::JSON, document.to_string());
    }
    let parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty()).collect();
    match parts.as_slice() {
        ["healthz" | "livez" | "readyz", ..] => health::serve(server, &call, &parts).await,
        ["version"] => health::version(),
        ["metrics"] => crate::metrics::serve(server).await,
        // Upstream serves the profiles of Go's runtime here.
        ["debug", "pprof", ..] => respond::text(501, "this server has no profiles in pprof's form\n"),
        ["debug", "api_priority_and_fairness", page] => {
            server.flow.debug(page, &call.query, server.clock.now()).unwrap_or_else(respond::page_not_found)
        }
        ["openapi", ..] => crate::openapi::serve(server, &call, &parts).await.unwrap_or_else(respond::page_not_found),
        [page @ ("statusz" | "flagz")] => crate::zpages::serve(server, &call, page),
        [] => {
            let paths = serde_json::json!({"paths": paths(server)});
            respond::bytes(200, crate::negotiate::JSON, paths.to_string())
        }
        _ => discovery::serve(server, &call, &parts).unwrap_or_else(respond::page_not_found),
    }
}

/// `/`: what else there is (apiserver `server/routes/index.go`).
pub(crate) fn paths(server: &ApiServer) -> Vec<String> {
    let mut paths: Vec<String> = [
        "/api",
        "/api/v1",
        "/apis",
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
