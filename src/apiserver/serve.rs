//! The listener: TLS, HTTP/1.1 with upgrades and HTTP/2, client certificates.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use base::{Backoff, Shutdown};
use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustls::pki_types::CertificateDer;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use crate::auth::ConnectionIdentity;
use crate::auth::front_proxy::FrontProxy;
use crate::server::ApiService;

/// A handshake that takes longer is given up.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Upstream's `ReadHeaderTimeout`.
const HEADER_TIMEOUT: Duration = Duration::from_secs(32);
/// How long open requests may take after shutdown was asked for.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// Upstream's `MaxConcurrentStreams`.
const STREAMS_MAX: u32 = 250;
const PING_INTERVAL: Duration = Duration::from_secs(30);
/// First byte of a TLS handshake record.
const HANDSHAKE_RECORD: u8 = 0x16;

/// TLS of a listener.
#[derive(Clone)]
pub struct Tls {
    /// Offers `h2` and `http/1.1` and asks for client certificates.
    pub config: Arc<rustls::ServerConfig>,
    /// What client certificates are checked against.
    pub client_authority: CertificateDer<'static>,
    /// Whose word is taken for who asks; `None`: nobody's.
    pub front_proxy: Option<FrontProxy>,
}

/// Serves connections until `shutdown`, then lets open requests end. Returns when all connections are closed.
pub async fn listen(listener: TcpListener, tls: Tls, service: ApiService, shutdown: Shutdown) {
    let acceptor = TlsAcceptor::from(Arc::clone(&tls.config));
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .keep_alive_interval(PING_INTERVAL)
        .adaptive_window(true);
    let builder = Arc::new(builder);
    let connections = TaskTracker::new();
    let mut backoff = Backoff::new(Duration::from_millis(5), Duration::from_secs(1));
    loop {
        let accepted = tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                backoff.reset();
                let connection = Connection {
                    acceptor: acceptor.clone(),
                    builder: Arc::clone(&builder),
                    authority: tls.client_authority.clone(),
                    proxies: tls.front_proxy.clone(),
                    service: service.clone(),
                    shutdown: shutdown.clone(),
                };
                connections.spawn(async move {
                    if let Err(error) = connection.serve(stream).await {
                        tracing::debug!(%peer, error = %error, "connection ended with an error");
                    }
                });
            }
            Err(error) => {
                // Out of descriptors or a connection that went before it was accepted: neither is the end.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(backoff.step()).await;
            }
        }
    }
    connections.close();
    if tokio::time::timeout(DRAIN_TIMEOUT, connections.wait()).await.is_err() {
        tracing::info!(connections = connections.len(), "closing connections with requests under way");
    }
}

struct Connection {
    acceptor: TlsAcceptor,
    builder: Arc<auto::Builder<TokioExecutor>>,
    authority: CertificateDer<'static>,
    proxies: Option<FrontProxy>,
    service: ApiService,
    shutdown: Shutdown,
}

impl Connection {
    async fn serve(self, mut stream: TcpStream) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        stream.set_nodelay(true)?;
        let mut first = [0u8];
        let handshake = async {
            if stream.peek(&mut first).await? == 1 && first[0] != HANDSHAKE_RECORD {
                let answer = b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";
                stream.write_all(answer).await?;
                return Ok(None);
            }
            self.acceptor.accept(stream).await.map(Some)
        };
        let accepted = tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await?;
        let Some(stream) = accepted? else { return Ok(()) };
        let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let identity = ConnectionIdentity::from_chain(chain, &self.authority, self.proxies.as_ref());
        let service = self.service;
        let answer = service_fn(move |request: Request<Incoming>| {
            let service = service.clone();
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(identity.clone());
            async move { service.oneshot(request).await }
        });
        let connection = self.builder.serve_connection_with_upgrades(TokioIo::new(stream), answer);
        let mut connection = std::pin::pin!(connection);
        tokio::select! {
            biased;
            () = self.shutdown.cancelled() => {
                connection.as_mut().graceful_shutdown();
                tokio::time::timeout(DRAIN_TIMEOUT, connection).await?
            }
            done = connection.as_mut() => done,
        }
    }
}
