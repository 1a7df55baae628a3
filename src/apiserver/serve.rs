//! The listener: TLS, HTTP/1.1 with upgrades and HTTP/2, client certificates.
//!
//! What a client can make the server hold is bounded: streams a connection, bytes of a body that wait to be read, bytes
//! of an answer that wait to be sent. Limits are upstream's where it has them (apiserver `server/secure_serving.go`).

mod linger;
mod remainder;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::body::Body;
use base::{Backoff, Shutdown};
use http::header::{CONNECTION, EXPECT};
use http::{HeaderValue, Request, StatusCode, Version};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustls::pki_types::CertificateDer;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use crate::auth::ConnectionIdentity;
use crate::auth::front_proxy::FrontProxy;
use crate::server::ApiService;
use linger::Lingering;
use remainder::{Remainder, Rests};

/// A handshake that takes longer is given up.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Upstream's `ReadHeaderTimeout`.
const HEADER_TIMEOUT: Duration = Duration::from_secs(32);
/// How long open requests may take after shutdown was asked for.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
/// Upstream's `MaxConcurrentStreams`, where `--http2-max-streams-per-connection` says nothing.
const STREAMS_MAX: u32 = 100;
/// Upstream's `resourceBody99Percentile`: what one stream may send before it is read.
const STREAM_WINDOW: u32 = 256 << 10;
/// Upstream's `MaxHeaderBytes`.
const HEADERS_BYTES_MAX: u32 = 1 << 20;
/// Bytes of one stream's answer that may wait for a client that does not read, beyond the piece that is under way.
const STREAM_SEND_BYTES_MAX: usize = 64 << 10;
/// The same for a connection of HTTP/1.1, where it bounds the headers of requests too.
const HTTP1_BUFFER_BYTES_MAX: usize = 128 << 10;
const PING_INTERVAL: Duration = Duration::from_secs(30);
/// Upstream's `defaultKeepAlivePeriod`: a client that vanished is noticed although nothing is sent.
const KEEP_ALIVE: Duration = Duration::from_secs(180);
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
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).max_buf_size(HTTP1_BUFFER_BYTES_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(STREAM_WINDOW * STREAMS_MAX)
        .max_frame_size(STREAM_WINDOW)
        .max_header_list_size(HEADERS_BYTES_MAX)
        .max_send_buf_size(STREAM_SEND_BYTES_MAX)
        .keep_alive_interval(PING_INTERVAL);
    let builder = Arc::new(builder);
    let connections = TaskTracker::new();
    let rests = Rests { tasks: connections.clone(), runtime: Handle::current() };
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
                let service = service.for_peer(peer.ip());
                let connection = Connection {
                    acceptor: acceptor.clone(),
                    builder: Arc::clone(&builder),
                    authority: tls.client_authority.clone(),
                    proxies: tls.front_proxy.clone(),
                    service: service.clone(),
                    rests: rests.clone(),
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
    rests: Rests,
    shutdown: Shutdown,
}

impl Connection {
    async fn serve(self, mut stream: TcpStream) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        stream.set_nodelay(true)?;
        SockRef::from(&stream).set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEP_ALIVE))?;
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
        let (service, rests) = (self.service, self.rests);
        let tunnel = Arc::new(AtomicBool::new(false));
        let stream = Lingering::new(stream, Arc::clone(&tunnel));
        let answer = service_fn(move |request: Request<Incoming>| {
            let (service, tunnel) = (service.clone(), Arc::clone(&tunnel));
            let (parts, body) = request.into_parts();
            let is_http1 = parts.version <= Version::HTTP_11;
            let (body, cut) = Remainder::new(body, parts.headers.contains_key(EXPECT), rests.clone());
            let mut request = Request::from_parts(parts, Body::new(body));
            request.extensions_mut().insert(identity.clone());
            async move {
                let mut response = service.oneshot(request).await?;
                if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                    tunnel.store(true, Ordering::Relaxed);
                } else if is_http1 && cut.load(Ordering::Relaxed) {
                    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                }
                Ok::<_, std::convert::Infallible>(response)
            }
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
