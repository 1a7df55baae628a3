//! The listener: TLS, HTTP/1.1 with upgrades and HTTP/2, client certificates.
//!
//! What a client can make the server hold is bounded: streams a connection, bytes of a body that wait to be read, bytes
//! of an answer that wait to be sent. Limits are upstream's where it has them (apiserver `server/secure_serving.go`).

mod activity;
mod gate;
mod lanes;
mod linger;
mod remainder;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::body::Body;
use base::{Backoff, Shutdown};
use http::header::{CONNECTION, EXPECT};
use http::{HeaderValue, Request, StatusCode, Version};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustls::pki_types::CertificateDer;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use crate::auth::ConnectionIdentity;
use crate::auth::front_proxy::FrontProxy;
use crate::limits::LastOfConnection;
use crate::server::ApiService;
use activity::{Activity, Expired, Sent, Until};
use gate::Gate;
use lanes::{Next, Place, Streams};
use linger::{Lingering, Socket};
use remainder::{Remainder, Rests};

pub(crate) use activity::SendBy;
pub use lanes::Lanes;

/// A handshake that takes longer is given up.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection without open requests may take to end after shutdown was asked for: what was sent last must
/// reach the client. Open requests have the time that requests have (upstream's `ShutdownTimeout`).
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
/// Upstream's `resourceBody99Percentile`: what one stream may send before it is read.
const STREAM_WINDOW: u32 = 256 << 10;
/// HTTP/2 knows no larger window.
const WINDOW_MAX: u32 = (1 << 31) - 1;
/// Upstream's `MaxHeaderBytes`.
const HEADERS_BYTES_MAX: u32 = 1 << 20;
/// Bytes of one stream's answer that may wait for a client that does not read, beyond the piece that is under way.
const STREAM_SEND_BYTES_MAX: usize = 64 << 10;
/// The same for a connection of HTTP/1.1, where it bounds the headers of requests too.
const HTTP1_BUFFER_BYTES_MAX: usize = 128 << 10;
const PING_INTERVAL: Duration = Duration::from_secs(30);
/// Bytes that may wait in the kernel for a client that does not read, beyond those on their way: without a bound it takes
/// megabytes for each.
const UNSENT_BYTES_MAX: u32 = 128 << 10;
/// Upstream's `defaultKeepAlivePeriod`: a client that vanished is noticed although nothing is sent.
const KEEP_ALIVE: Duration = Duration::from_secs(180);
/// Streams that a client has reset and nobody has seen yet: more end the connection, as with a "rapid reset".
const RESET_STREAMS_MAX: usize = 20;
/// Streams of one connection that were reset for what the client did wrong; more end it.
const FAULTY_STREAMS_MAX: usize = 1024;
/// Answers below this size are gone once they are written.
const SMALL_ANSWER: u64 = 16 << 10;
/// Of the thread that answers health checks, above the others of the process: it has little to do, and at once (setpriority(2)).
const FRONT_PRIORITY: i32 = -10;
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
///
/// Connections begin on a thread of their own, see [`Lanes`]; the caller's runtime does the rest.
pub async fn listen(listener: TcpListener, tls: Tls, service: ApiService, shutdown: Shutdown) {
    let main = Handle::current();
    let (ended, end) = oneshot::channel::<()>();
    let listener = match listener.into_std() {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "cannot hand over the listening socket"),
    };
    let serve = move || {
        // Zero is the thread that asks. Without the right to it the front takes its turn among the workers.
        if let Err(error) = rustix::process::setpriority_process(None, FRONT_PRIORITY) {
            tracing::debug!(%error, "health checks get no priority");
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let lanes = Lanes { front: runtime.handle().clone(), main };
        runtime.block_on(async {
            listen_on(TcpListener::from_std(listener)?, tls, service, shutdown, lanes).await;
            drop(ended);
            std::io::Result::Ok(())
        })
    };
    let thread = std::thread::Builder::new().name("front".to_owned()).spawn(move || {
        if let Err(error) = serve() {
            tracing::error!(%error, "cannot serve connections");
        }
    });
    match thread {
        // Nothing is sent: it ends.
        Ok(_) => drop(end.await),
        Err(error) => tracing::error!(%error, "cannot start the thread that accepts connections"),
    }
}

/// [`listen`] on given runtimes; called on the front one.
pub async fn listen_on(listener: TcpListener, tls: Tls, service: ApiService, shutdown: Shutdown, lanes: Lanes) {
    let acceptor = TlsAcceptor::from(Arc::clone(&tls.config));
    let (connections, gate) = (TaskTracker::new(), Gate::default());
    let rests = Rests { tasks: connections.clone(), runtime: lanes.main.clone() };
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
                    gate: gate.clone(),
                    authority: tls.client_authority.clone(),
                    proxies: tls.front_proxy.clone(),
                    service: service.for_peer(peer.ip()),
                    rests: rests.clone(),
                    lanes: lanes.clone(),
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
    drop(listener);
    connections.close();
    // Each gives itself that long; timers that they made here must not end before them.
    let within = drain_within(&service) + Duration::from_secs(1);
    if tokio::time::timeout(within, connections.wait()).await.is_err() {
        tracing::info!(connections = connections.len(), "closing connections with requests under way");
    }
}

/// How long requests that are open when shutdown is asked for may take.
fn drain_within(service: &ApiService) -> Duration {
    service.limits().request_timeout.max(DRAIN_TIMEOUT)
}

fn builder(streams: Streams, streams_max: u32) -> auto::Builder<Streams> {
    let mut builder = auto::Builder::new(streams);
    // Heads and idle connections are timed by `activity`: hyper has one time for both.
    builder.http1().timer(TokioTimer::new()).header_read_timeout(None).max_buf_size(HTTP1_BUFFER_BYTES_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(streams_max)
        .max_pending_accept_reset_streams(RESET_STREAMS_MAX)
        .max_local_error_reset_streams(FAULTY_STREAMS_MAX)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(STREAM_WINDOW.saturating_mul(streams_max).min(WINDOW_MAX))
        .max_frame_size(STREAM_WINDOW)
        .max_header_list_size(HEADERS_BYTES_MAX)
        .max_send_buf_size(STREAM_SEND_BYTES_MAX)
        .keep_alive_interval(PING_INTERVAL);
    builder
}

type ConnectionError = Box<dyn std::error::Error + Send + Sync>;

struct Connection {
    acceptor: TlsAcceptor,
    gate: Gate,
    authority: CertificateDer<'static>,
    proxies: Option<FrontProxy>,
    service: ApiService,
    rests: Rests,
    lanes: Lanes,
    shutdown: Shutdown,
}

impl Connection {
    async fn serve(self, mut stream: TcpStream) -> Result<(), ConnectionError> {
        stream.set_nodelay(true)?;
        let socket = SockRef::from(&stream);
        socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEP_ALIVE))?;
        socket.set_tcp_notsent_lowat(UNSENT_BYTES_MAX)?;
        let mut first = [0u8];
        let handshake = async {
            if stream.peek(&mut first).await? == 1 && first[0] != HANDSHAKE_RECORD {
                let answer = b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";
                stream.write_all(answer).await?;
                return Ok(None);
            }
            let shake = async {
                let stream = self.acceptor.accept(Socket::new(stream)).await?;
                let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
                let identity = ConnectionIdentity::from_chain(chain, &self.authority, self.proxies.as_ref());
                Ok(Some((stream, identity)))
            };
            self.gate.pass(shake).await
        };
        let accepted = tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await;
        let accepted: std::io::Result<_> = accepted.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()));
        let Some((stream, identity)) = accepted.inspect_err(|_| self.service.handshake_failed())? else {
            self.service.handshake_failed();
            return Ok(());
        };
        let place = Place::new(self.lanes.clone());
        let tasks = self.rests.tasks.clone();
        let mut talk = Box::pin(self.talk(stream, identity, Arc::clone(&place)));
        match place.at_front(talk.as_mut()).await {
            Some(ended) => ended,
            None => {
                let rest = async move {
                    if let Err(error) = talk.await {
                        tracing::debug!(error = %error, "connection ended with an error");
                    }
                };
                tasks.spawn_on(rest, place.move_to_main());
                Ok(())
            }
        }
    }

    /// Everything after the handshake.
    async fn talk(
        self,
        stream: TlsStream<Socket>,
        identity: ConnectionIdentity,
        place: Arc<Place>,
    ) -> Result<(), ConnectionError> {
        let speaks_http1 = stream.get_ref().1.alpn_protocol() != Some(b"h2");
        let activity = Activity::new(speaks_http1);
        let tunnel = Arc::new(AtomicBool::new(false));
        let heads = speaks_http1.then(|| Arc::clone(&activity));
        let stream = Lingering::new(stream, Arc::clone(&tunnel), Arc::clone(&place), heads);
        let streams = Streams::new(self.lanes);
        let limits = self.service.limits().clone();
        let drain = drain_within(&self.service);
        let builder = builder(streams.clone(), limits.streams_max);
        let (service, rests, used) = (self.service, self.rests, Arc::clone(&activity));
        let answer = service_fn(move |request: Request<Incoming>| {
            let (service, tunnel, place, activity) =
                (service.clone(), Arc::clone(&tunnel), Arc::clone(&place), Arc::clone(&used));
            let open = activity.begin();
            if request.version() == Version::HTTP_2 && rand::random::<f64>() < limits.goaway_chance {
                activity.leave();
            }
            let (parts, body) = request.into_parts();
            let is_http1 = parts.version <= Version::HTTP_11;
            let light = lanes::is_light(parts.uri.path());
            if !light {
                place.ask_to_move();
            }
            let until = Until::default();
            if !is_http1 {
                streams.expect(Next { light, until: Arc::clone(&until) });
            }
            let (body, cut) = Remainder::new(body, parts.headers.contains_key(EXPECT), rests.clone());
            let mut request = Request::from_parts(parts, Body::new(body));
            request.extensions_mut().insert(identity.clone());
            async move {
                if is_http1 && !light {
                    place.settled().await;
                }
                let mut response = service.oneshot(request).await?;
                if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                    tunnel.store(true, Ordering::Relaxed);
                } else if is_http1 && cut.load(Ordering::Relaxed) {
                    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                }
                if response.extensions_mut().remove::<LastOfConnection>().is_some() {
                    activity.leave();
                }
                let is_small = response.body().size_hint().upper().is_some_and(|size| size < SMALL_ANSWER);
                match response.extensions_mut().remove::<SendBy>() {
                    Some(SendBy(at)) if is_http1 && !is_small => activity.send_by(at),
                    // Nobody else sets it.
                    Some(SendBy(at)) if !is_http1 => drop(until.set(at)),
                    _ => {}
                }
                Ok::<_, std::convert::Infallible>(response.map(|body| Sent { body, _open: open }))
            }
        });
        let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), answer);
        let mut connection = std::pin::pin!(connection);
        let mut leaving = false;
        loop {
            tokio::select! {
                biased;
                () = self.shutdown.cancelled() => break,
                done = connection.as_mut() => return done,
                expired = activity.expired(), if !leaving => match expired {
                    Expired::Idle => break,
                    Expired::Late => {
                        tracing::debug!("an answer was not taken in time");
                        return Ok(());
                    }
                    Expired::Leaving => {
                        // What is open, a watch too, goes on as long as it likes.
                        leaving = true;
                        connection.as_mut().graceful_shutdown();
                    }
                }
            }
        }
        connection.as_mut().graceful_shutdown();
        let quiet = async {
            activity.quiet().await;
            tokio::time::sleep(DRAIN_TIMEOUT).await;
        };
        tokio::select! {
            biased;
            done = connection => done,
            () = quiet => Ok(()),
            () = tokio::time::sleep(drain) => {
                tracing::debug!("a request did not end before the server");
                Ok(())
            }
        }
    }
}
