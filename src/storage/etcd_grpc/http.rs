//! What etcd serves over plain HTTP: `/health`, `/livez`, `/readyz`, `/version` and `/metrics`
//! (server/etcdserver/api/etcdhttp).

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::calls::count;
use super::maintenance::CLUSTER_VERSION;
use super::status::QUOTA_BYTES;
use super::{Service, VERSION};
use crate::process;
use crate::sqlite::Page;
use crate::store::{Revision, Store};

/// Adds the pages to the routes of the gRPC services.
pub(super) fn routes(service: Service, grpc: Router) -> Router {
    let calls = service.calls.clone();
    let pages = Router::new()
        .route("/health", get(health))
        .route("/livez", get(|| async { "ok" }))
        .route("/readyz", get(readyz))
        .route("/version", get(version))
        .route("/metrics", get(metrics))
        .with_state(service);
    grpc.layer(axum::middleware::from_fn_with_state(calls, count)).merge(pages)
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
    page.head("etcd_server_version", "gauge", "The version whose interface this is.");
    page.sample("etcd_server_version", &format!("server_version=\"{VERSION}\""), 1);
    page.head("etcd_cluster_version", "gauge", "The version of the cluster of this one member.");
    page.sample("etcd_cluster_version", &format!("cluster_version=\"{CLUSTER_VERSION}\""), 1);
    let id = service.store.identity().member;
    page.head("etcd_server_id", "gauge", "The member's id, in hexadecimal.");
    page.sample("etcd_server_id", &format!("server_id=\"{id:x}\""), 1);
    page.gauge("etcd_server_has_leader", "Whether there is a leader: always.", 1);
    page.gauge("etcd_server_is_leader", "Whether this member leads: always.", 1);
    page.gauge("etcd_server_is_learner", "Whether this member has no vote: never.", 0);
    page.counter("etcd_server_leader_changes_seen_total", "Leaders there have been: this one.", 1);
    // There is no raft: what is told as committed and applied is a revision, as in the member's status.
    let Revision(revision) = match service.store.revision().await {
        Ok(revision) => revision,
        Err(error) => return (StatusCode::SERVICE_UNAVAILABLE, base::chain(&error).to_string()).into_response(),
    };
    page.gauge("etcd_server_proposals_committed_total", "The newest revision that is on disk.", revision);
    page.gauge("etcd_server_proposals_applied_total", "The newest revision that reads see.", revision);
    let waiting = service.store.waiting_writes();
    page.gauge("etcd_server_proposals_pending", "Writes that wait for the writer.", waiting);
    let failed = service.store.failed_writes();
    page.counter("etcd_server_proposals_failed_total", "Writes that the store could not take.", failed);
    let quota = service.store.options().bytes_max.unwrap_or(QUOTA_BYTES);
    page.gauge("etcd_server_quota_backend_bytes", "Bytes that the database may have.", quota);
    service.calls.write(&mut page);
    for process::Figure { name, kind, help, value } in process::figures() {
        page.head(name, kind, help);
        page.sample(name, "", value);
    }
    if let Err(error) = service.store.metrics(&mut text).await {
        return (StatusCode::SERVICE_UNAVAILABLE, base::chain(&error).to_string()).into_response();
    }
    let mut response = text.into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; version=0.0.4"));
    response
}
