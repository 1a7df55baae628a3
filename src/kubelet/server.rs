//! The node agent's HTTPS server (port 10250): logs, exec, attach, port-forward, statistics (upstream
//! `kubelet/server/server.go`).

mod auth;
mod content;
mod metrics;
mod port_forward;
mod remote;
mod stats;
mod websocket;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use base::Backoff;
use http::{Method, StatusCode, header};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use rustls_pki_types::CertificateDer;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::context::Context;
use auth::Auth;

/// Connections served at a time; more wait to be accepted.
const MAX_CONNECTIONS: usize = 2000;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// What the server's handlers share.
struct Shared {
    ctx: Arc<Context>,
    auth: Auth,
}

/// The certificate that the peer showed, if any.
#[derive(Clone)]
struct Peer(Option<Arc<CertificateDer<'static>>>);

/// Serves until cancelled; without a serving certificate, does nothing.
pub async fn run(ctx: &Arc<Context>) {
    let Some(tls) = ctx.config.tls.clone() else {
        return ctx.shutdown.cancelled().await;
    };
    let listener = bind(ctx.config.listen).await;
    let acceptor = tokio_rustls::TlsAcceptor::from(tls);
    let shared = Arc::new(Shared { ctx: ctx.clone(), auth: Auth::default() });
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // No descriptors left, or the peer is gone already.
                tracing::debug!(error = %error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let (acceptor, shared, stop) = (acceptor.clone(), shared.clone(), ctx.shutdown.clone());
        ctx.tasks.spawn(async move {
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = serve(acceptor, shared, stream) => {}
            }
            drop(place);
        });
    }
}

async fn bind(address: SocketAddr) -> TcpListener {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => return listener,
            Err(error) => {
                tracing::error!(%address, error = %error, "cannot listen: logs and exec will not work");
                tokio::time::sleep(backoff.step()).await;
            }
        }
    }
}

async fn serve(acceptor: tokio_rustls::TlsAcceptor, shared: Arc<Shared>, stream: TcpStream) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(error = %error, "cannot set TCP_NODELAY");
    }
    let tls = match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
        Ok(Ok(tls)) => tls,
        Ok(Err(error)) => return tracing::debug!(error = %error, "TLS handshake failed"),
        Err(_) => return,
    };
    let certificate = tls.get_ref().1.peer_certificates().and_then(|c| c.first()).map(|c| c.clone().into_owned());
    let peer = Peer(certificate.map(Arc::new));
    let router = Router::new().fallback(move |mut request: Request| {
        request.extensions_mut().insert(peer.clone());
        let shared = shared.clone();
        async move { handle(shared, request).await }
    });
    let service = TowerToHyperService::new(router);
    let builder = auto::Builder::new(TokioExecutor::new());
    if let Err(error) = builder.serve_connection_with_upgrades(TokioIo::new(tls), service).await {
        tracing::debug!(error, "connection ended");
    }
}

/// A plain-text answer.
fn text(status: StatusCode, message: impl Into<String>) -> Response {
    let mut response = Response::new(Body::from(message.into()));
    *response.status_mut() = status;
    let plain = header::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    response
}

fn json_bytes(bytes: Vec<u8>) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], bytes).into_response()
}

async fn handle(shared: Arc<Shared>, request: Request) -> Response {
    let peer = request.extensions().get::<Peer>().and_then(|p| p.0.clone());
    if let Err(refused) = shared.auth.check(&shared.ctx, peer.as_deref(), auth::Asked::of(&request)).await {
        return refused;
    }
    route(&shared.ctx, request).await
}

async fn route(ctx: &Arc<Context>, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    let parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty()).collect();
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    match parts.as_slice() {
        ["healthz" | "healthz/ping" | "healthz/syncloop"] | ["healthz", ..] if reads => text(StatusCode::OK, "ok"),
        ["pods"] if reads => content::pods(ctx),
        ["runningpods"] if reads => content::running_pods(ctx),
        ["containerLogs", namespace, pod, container] if reads => {
            content::logs(ctx, namespace, pod, container, request.uri().query().unwrap_or_default()).await
        }
        ["exec", namespace, pod, container] => {
            remote::exec(ctx, remote::Place { namespace, pod, uid: None, container }, request).await
        }
        ["exec", namespace, pod, uid, container] => {
            remote::exec(ctx, remote::Place { namespace, pod, uid: Some(uid), container }, request).await
        }
        ["attach", namespace, pod, container] => {
            remote::attach(ctx, remote::Place { namespace, pod, uid: None, container }, request).await
        }
        ["attach", namespace, pod, uid, container] => {
            remote::attach(ctx, remote::Place { namespace, pod, uid: Some(uid), container }, request).await
        }
        ["run", namespace, pod, container] => {
            remote::run(ctx, remote::Place { namespace, pod, uid: None, container }, request.uri()).await
        }
        ["run", namespace, pod, uid, container] => {
            remote::run(ctx, remote::Place { namespace, pod, uid: Some(uid), container }, request.uri()).await
        }
        ["portForward", namespace, pod] | ["portForward", namespace, pod, _] => {
            port_forward::handle(ctx, namespace, pod, request).await
        }
        ["stats", "summary"] if reads || request.method() == Method::POST => stats::summary(ctx).await,
        ["metrics"] if reads => metrics::own(ctx),
        ["metrics", "resource"] if reads => metrics::resource(ctx).await,
        ["metrics", "probes"] if reads => metrics::probes(ctx),
        ["metrics", "cadvisor"] if reads => metrics::cadvisor(ctx).await,
        _ => text(StatusCode::NOT_FOUND, "404 page not found\n"),
    }
}

/// Values of a query parameter, decoded.
fn query(query: &str, name: &str) -> Vec<String> {
    query
        .split('&')
        .filter_map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (base::percent_decode(key, true) == name).then(|| base::percent_decode(value, true))
        })
        .collect()
}

fn flag(text: &str, name: &str) -> bool {
    query(text, name).first().is_some_and(|v| matches!(v.as_str(), "1" | "true" | "True" | "t"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_decoded() {
        let text = "command=sh&command=-c&command=echo+%22a%20b%22&tty=1&input=true";
        assert_eq!(query(text, "command"), ["sh", "-c", "echo \"a b\""]);
        assert!(flag(text, "tty") && flag(text, "input") && !flag(text, "output"));
    }
}
