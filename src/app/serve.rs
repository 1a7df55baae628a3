//! The HTTPS listener in front of the API server.

use std::sync::Arc;
use std::time::Duration;

use apiserver::ApiService;
use apiserver::auth::ConnectionIdentity;
use base::Shutdown;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustls_pki_types::CertificateDer;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;
use tower::Service;

/// Connections served at once; more wait in the kernel's backlog.
const CONNECTIONS_MAX: usize = 8192;
/// How long a client may take for its handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Streams of one HTTP/2 connection (Go's default, which upstream keeps).
const STREAMS_MAX: u32 = 250;

/// Serves until `shutdown`, then lets requests under way finish.
pub async fn listen(
    listener: TcpListener,
    tls: TlsAcceptor,
    authority: CertificateDer<'static>,
    service: ApiService,
    shutdown: Shutdown,
) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let connections = TaskTracker::new();
    let authority = Arc::new(authority);
    loop {
        let accepted = tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            accepted = async {
                // The semaphore is never closed; a place is waited for before a connection is taken.
                let place = places.clone().acquire_owned().await;
                (place, listener.accept().await)
            } => accepted,
        };
        match accepted {
            (Ok(place), Ok((stream, peer))) => {
                let (tls, authority, service) = (tls.clone(), authority.clone(), service.clone());
                let shutdown = shutdown.clone();
                connections.spawn(async move {
                    if let Err(error) = serve(stream, tls, &authority, service, shutdown).await {
                        tracing::debug!(%peer, error, "connection ended");
                    }
                    drop(place);
                });
            }
            (_, Err(error)) => {
                // Out of file descriptors, most likely: taking the next one at once would spin.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            (Err(_), _) => break,
        }
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

async fn serve(
    stream: TcpStream,
    tls: TlsAcceptor,
    authority: &CertificateDer<'static>,
    service: ApiService,
    shutdown: Shutdown,
) -> Result<(), String> {
    stream.set_nodelay(true).map_err(|e| e.to_string())?;
    let peer = stream.peer_addr().map_err(|e| e.to_string())?;
    let stream = tokio::time::timeout(HANDSHAKE, tls.accept(stream))
        .await
        .map_err(|_| "the TLS handshake took too long".to_owned())?
        .map_err(|e| e.to_string())?;
    let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let identity = ConnectionIdentity::from_chain(chain, authority);
    let handler = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(identity.clone());
        request.extensions_mut().insert(axum::extract::ConnectInfo(peer));
        let mut service = service.clone();
        async move { service.call(request).await }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(30));
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .keep_alive_interval(Some(Duration::from_secs(45)))
        .keep_alive_timeout(Duration::from_secs(30));
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), handler);
    tokio::pin!(connection);
    let result = tokio::select! {
        biased;
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
        result = connection.as_mut() => result,
    };
    result.map_err(|e| e.to_string())
}
