//! What etcd serves over plain HTTP: `/health`, `/livez`, `/readyz`, `/version` and `/metrics`
//! (server/etcdserver/api/etcdhttp).

use std::fmt::Write;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::{Service, VERSION};
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

/// A number in the text format of Prometheus.
fn gauge(page: &mut String, name: &str, help: &str, value: impl std::fmt::Display) {
    // Writing to a string does not fail.
    let _ = writeln!(page, "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}");
}

async fn metrics(State(service): State<Service>) -> Response {
    let store = &service.store;
    let (size, in_use) = match store.size().await {
        Ok(sizes) => sizes,
        Err(error) => return (StatusCode::SERVICE_UNAVAILABLE, base::chain(&error).to_string()).into_response(),
    };
    let mut page = String::new();
    gauge(&mut page, "etcd_server_has_leader", "Whether there is a leader: always.", 1);
    gauge(&mut page, "etcd_server_is_leader", "Whether this member leads: always.", 1);
    gauge(&mut page, "etcd_mvcc_db_total_size_in_bytes", "Bytes of the database on disk.", size);
    gauge(&mut page, "etcd_mvcc_db_total_size_in_use_in_bytes", "Bytes of the database in use.", in_use);
    if let Ok(revision) = store.revision().await {
        gauge(&mut page, "etcd_debugging_mvcc_current_revision", "The newest revision.", revision.0);
    }
    let compacted = store.compacted().0;
    gauge(&mut page, "etcd_debugging_mvcc_compact_revision", "History before this revision is gone.", compacted);
    gauge(&mut page, "etcd_debugging_mvcc_watcher_total", "Watches that are up to date.", store.watchers());
    if let Ok(leases) = store.leases().await {
        gauge(&mut page, "etcd_debugging_lease_total", "Leases.", leases.len());
    }
    let mut response = page.into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; version=0.0.4"));
    response
}
