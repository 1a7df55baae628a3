//! The servers of `healthCheckNodePort`: they tell load balancers whether this node has endpoints of a Service with
//! `externalTrafficPolicy: Local` (kube-proxy's `pkg/proxy/healthcheck/service_health.go`).

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use base::{Backoff, Shutdown};
use http::{HeaderName, HeaderValue, StatusCode, header};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

use crate::services::Health;

const WEIGHT: HeaderName = HeaderName::from_static("x-load-balancing-endpoint-weight");

/// The servers that run, one for each port. They end when this is dropped.
#[derive(Default)]
pub struct HealthServers {
    tasks: JoinSet<()>,
    running: BTreeMap<u16, (watch::Sender<Health>, AbortHandle)>,
}

impl HealthServers {
    /// Starts what is new, stops what is gone, and tells the others what to say from now on.
    pub fn set(&mut self, wanted: &BTreeMap<u16, Health>, shutdown: &Shutdown) {
        self.running.retain(|port, (_, task)| {
            let stays = wanted.contains_key(port);
            if !stays {
                task.abort();
            }
            stays
        });
        while self.tasks.try_join_next().is_some() {}
        for (port, health) in wanted {
            if let Some((said, _)) = self.running.get(port) {
                said.send_if_modified(|said| std::mem::replace(said, health.clone()) != *health);
                continue;
            }
            let (say, said) = watch::channel(health.clone());
            let task = self.tasks.spawn(serve(*port, said, shutdown.clone()));
            self.running.insert(*port, (say, task));
        }
    }
}

/// Listens on every address of the node until `shutdown`.
async fn serve(port: u16, said: watch::Receiver<Health>, shutdown: Shutdown) {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(30));
    let listener = loop {
        match TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await {
            Ok(listener) => break listener,
            Err(error) => {
                tracing::warn!(port, %error, "cannot listen for a Service's health checks; trying again");
                tokio::select! {
                    biased;
                    () = shutdown.cancelled() => return,
                    () = tokio::time::sleep(backoff.step()) => {}
                }
            }
        }
    };
    let app = Router::new().fallback(move || {
        let answer = answer(&said.borrow());
        async move { answer }
    });
    let stop = shutdown.clone();
    let served = axum::serve(listener, app).with_graceful_shutdown(async move { stop.cancelled().await });
    // Connections that stay open must not keep the process.
    let ended = tokio::select! {
        biased;
        () = shutdown.cancelled() => return,
        ended = served => ended,
    };
    if let Err(error) = ended {
        tracing::warn!(port, %error, "the server of a Service's health checks has ended");
    }
}

fn answer(health: &Health) -> Response {
    let Health { namespace, name, local_endpoints } = health;
    let body = format!(
        "{{\n\t\"service\": {{\n\t\t\"namespace\": \"{namespace}\",\n\t\t\"name\": \"{name}\"\n\t}},\n\t\"localEndpoints\": \
         {local_endpoints},\n\t\"serviceProxyHealthy\": true\n}}"
    );
    let mut response = Response::new(Body::from(body));
    if *local_endpoints == 0 {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(WEIGHT, HeaderValue::from(*local_endpoints));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_without_endpoints_is_not_to_be_used() {
        let check = |local_endpoints, expected: u16| {
            let response = answer(&Health { namespace: "n".into(), name: "s".into(), local_endpoints });
            assert_eq!(response.status(), expected);
            assert_eq!(response.headers()[WEIGHT], local_endpoints.to_string());
        };
        check(0, 503);
        check(2, 200);
    }
}
