//! The one handler of all requests. Routes are data (kinds come and go), so it is a fallback over everything.

use std::sync::Arc;

use api::Status;
use axum::body::Body;
use http::{Method, Request};

use crate::filters::{self, Call};
use crate::health;
use crate::negotiate::Accept;
use crate::respond::{self, Response};
use crate::server::ApiServer;
use crate::verbs;

/// Answers a request.
pub async fn handle(server: Arc<ApiServer>, request: Request<Body>) -> Response {
    filters::chain(server, request).await
}

/// After the filters: to a verb, or to one of the server's own documents.
pub async fn dispatch(server: &Arc<ApiServer>, call: Call) -> Response {
    if call.info.is_resource {
        return verbs::serve(server, call).await;
    }
    if !matches!(call.parts.method, Method::GET | Method::HEAD) {
        let status =
            Status::new(405, "MethodNotAllowed", "the server does not allow this method on the requested resource");
        return respond::failure(&status, Accept::JSON);
    }
    let path = call.info.path.clone();
    let parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty()).collect();
    match parts.as_slice() {
        ["healthz" | "livez" | "readyz", ..] => health::serve(server, &call, &parts).await,
        ["version"] => health::version(),
        _ => respond::page_not_found(),
    }
}
