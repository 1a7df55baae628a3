//! What etcd serves over plain HTTP: `/health`, `/livez`, `/readyz`, `/version` and `/metrics`
//! (server/etcdserver/api/etcdhttp).

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::status::QUOTA_BYTES;
use super::{Service, VERSION};
use crate::sqlite::Page;
use crate::store::Store;

/// Adds the pages to the routes of the gRPC services.
pub(super) fn routes(service: Service, grpc: Router) -> Router {
    let pages = Router::new()
        .route("/health", get(health))
        .route("/livez", get(|| async { "ok" }))
        .route("/readyz", get(readyz))
        .route("/version", get(version))
        .route("/metrics", get(metrics))
        .with_state(service);
    grpc.merge(pages)
}

fn json(status: StatusCode, text: String) -> Response {
    let mut response = (status, text).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

async fn health(State(service): State<Service>) -> Response {
    let reason = match service.alarms.list(0).first() {
        Some(&super::alarms::NOSPACE) => "ALARM NOSPACE",
        Some(_) => "ALARM CORRUPT",
        None if service.shutdown.is_cancelled() => "STOPPING",
        None => return json(StatusCode::OK, r#"{"health":"true","reason":""}"#.to_owned()),
    };
    json(StatusCode::SERVICE_UNAVAILABLE, format!(r#"{{"health":"false","reason":"{reason}"}}"#))
}

async fn readyz(State(service): State<Service>) -> Response {
    if service.shutdown.is_cancelled() {
        return (StatusCode::SERVICE_UNAVAILABLE, "stopping").into_response();
    }
    "ok".into_response()
}

async fn version() -> Response {
    let text = format!(r#"{{"etcdserver":"{VERSION}","etcdcluster":"3.6.0","storage":"3.6.0"}}"#);
    json(StatusCode::OK, text)
}

async fn metrics(State(service): State<Service>) -> Response {
    let mut text = String::new();
    let mut page = Page(&mut text);
    page.gauge("etcd_server_has_leader", "Whether there is a leader: always.", 1);
    page.gauge("etcd_server_is_leader", "Whether this member leads: always.", 1);
    let quota = service.store.options().bytes_max.unwrap_or(QUOTA_BYTES);
    page.gauge("etcd_server_quota_backend_bytes", "Bytes that the database may have.", quota);
    if let Err(error) = service.store.metrics(&mut text).await {
        return (StatusCode::SERVICE_UNAVAILABLE, base::chain(&error).to_string()).into_response();
    }
    let mut response = text.into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; version=0.0.4"));
    response
}
