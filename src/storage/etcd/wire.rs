//! Calls to the members of an etcd cluster: one connection each, opened when first needed, and failing over between
//! them.
//!
//! A call goes to the member that answered last. When that one does not answer, or has no leader, the next is asked:
//! calls that change nothing are repeated, calls that write only if it is certain that they did not arrive.

use std::error::Error;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use arc_swap::ArcSwap;
use base::Backoff;
use http::Uri;
use http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use prost::Message;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tonic::client::Grpc;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status, Streaming};
use tonic_prost::ProstCodec;
use tower::service_fn;

/// How long a connection may take to come about.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);
/// How long one member may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// How long a call is tried on all members together.
const CALL_WITHIN: Duration = Duration::from_secs(15);
/// A connection with calls under way that is silent for the sum of these is given up (etcd allows a ping every 5 s).
const PING_EVERY: Duration = Duration::from_secs(5);
const PING_WITHIN: Duration = Duration::from_secs(4);
/// Room for whole lists: etcd's client sets no limit either (`clientv3` `defaultMaxCallRecvMsgSize`).
const ANSWER_BYTES_MAX: usize = i32::MAX as usize;

/// What is wrong with the address of a member.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    #[error("no endpoint of the datastore is given")]
    None,
    #[error("{endpoint:?} is no endpoint of a datastore: give https://host:port or http://host:port")]
    Invalid { endpoint: String },
    #[error("{endpoint} needs the certificate of an authority to trust (--datastore-cafile)")]
    Authority { endpoint: String },
}

/// A member could not be reached; the call has not been sent.
#[derive(Debug, thiserror::Error)]
#[error("cannot reach {endpoint}")]
pub struct NotConnected {
    pub endpoint: String,
    #[source]
    pub source: io::Error,
}

/// What a call does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    /// May be repeated.
    Reads,
    /// Is repeated only if it has certainly not arrived.
    Writes,
}

/// Why a call was not answered.
#[derive(Debug)]
pub(super) enum CallError {
    /// The member's answer.
    Refused(Status),
    /// Nobody answered; what the call was to do may have happened or not.
    NoAnswer(Status),
}

/// The members of a cluster as a client sees them. They are numbered; a number that was taken before the members changed
/// means some member.
pub(super) struct Members {
    tls: Option<Arc<rustls::ClientConfig>>,
    /// Never empty.
    members: ArcSwap<Vec<Arc<Member>>>,
    /// The one to ask first.
    current: AtomicUsize,
}

struct Member {
    endpoint: String,
    channel: Channel,
    /// Why the member ended the last connection before it answered anything; empty if it did not.
    refusal: Refusal,
}

impl Members {
    /// `endpoints` as `https://host:port` or `http://host:port`; `tls` for the former.
    pub(super) fn new(endpoints: &[String], tls: Option<&Arc<rustls::ClientConfig>>) -> Result<Self, EndpointError> {
        let members = Self::make(endpoints, tls, &[])?;
        Ok(Self { tls: tls.cloned(), members: ArcSwap::from_pointee(members), current: AtomicUsize::new(0) })
    }

    /// Connections of `known` members are kept.
    fn make(
        endpoints: &[String],
        tls: Option<&Arc<rustls::ClientConfig>>,
        known: &[Arc<Member>],
    ) -> Result<Vec<Arc<Member>>, EndpointError> {
        if endpoints.is_empty() {
            return Err(EndpointError::None);
        }
        let member = |endpoint: &String| match known.iter().find(|member| member.endpoint == *endpoint) {
            Some(member) => Ok(Arc::clone(member)),
            None => Member::new(endpoint, tls).map(Arc::new),
        };
        endpoints.iter().map(member).collect()
    }

    /// From now on these are the members; whether they are others than before.
    pub(super) fn replace(&self, endpoints: &[String]) -> Result<bool, EndpointError> {
        let known = self.members.load_full();
        if known.iter().map(|member| &member.endpoint).eq(endpoints) {
            return Ok(false);
        }
        let members = Self::make(endpoints, self.tls.as_ref(), &known)?;
        let asked = &known[self.current() % known.len()].endpoint;
        let current = members.iter().position(|member| member.endpoint == *asked).unwrap_or(0);
        self.members.store(Arc::new(members));
        self.current.store(current, Ordering::Relaxed);
        Ok(true)
    }

    pub(super) fn len(&self) -> usize {
        self.members.load().len()
    }

    fn member(&self, member: usize) -> Arc<Member> {
        let members = self.members.load();
        Arc::clone(&members[member % members.len()])
    }

    pub(super) fn endpoint(&self, member: usize) -> String {
        self.member(member).endpoint.clone()
    }

    /// The member to ask first.
    pub(super) fn current(&self) -> usize {
        self.current.load(Ordering::Relaxed)
    }

    /// Another than `failed` is to be asked first from now on.
    pub(super) fn leave(&self, failed: usize) {
        let next = (failed + 1) % self.len();
        // Somebody else may have left it already.
        let _left = self.current.compare_exchange(failed, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Calls `path` on whichever member answers.
    pub(super) async fn call<A, B>(&self, path: &'static str, effect: Effect, request: A) -> Result<B, CallError>
    where
        A: Message + Clone + Send + Sync + 'static,
        B: Message + Default + Send + Sync + 'static,
    {
        let deadline = Instant::now() + CALL_WITHIN;
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_millis(500)).with_jitter(0.2);
        let mut tried = 0;
        loop {
            let member = self.current();
            let status = match self.call_member(member, path, request.clone()).await {
                Ok(answer) => return Ok(answer),
                Err(status) => status,
            };
            let fate = fate(&status);
            if fate == Fate::Answered {
                return Err(CallError::Refused(status));
            }
            self.leave(member);
            tried += 1;
            let again = fate == Fate::NotArrived || effect == Effect::Reads;
            if !again || Instant::now() >= deadline {
                return Err(CallError::NoAnswer(status));
            }
            if tried % self.len() == 0 {
                tokio::time::sleep(backoff.step()).await;
            }
        }
    }

    /// Calls `path` on one member.
    pub(super) async fn call_member<A, B>(&self, member: usize, path: &'static str, request: A) -> Result<B, Status>
    where
        A: Message + Send + Sync + 'static,
        B: Message + Default + Send + Sync + 'static,
    {
        let mut grpc = self.grpc(member);
        let call = async {
            grpc.ready().await.map_err(|error| Status::from_error(error.into()))?;
            grpc.unary(with_leader(request), PathAndQuery::from_static(path), ProstCodec::<A, B>::default()).await
        };
        match tokio::time::timeout(ANSWER_WITHIN, call).await {
            Ok(answer) => answer.map(tonic::Response::into_inner).map_err(|status| self.explain(member, status)),
            Err(_) => Err(Status::deadline_exceeded(format!("{} did not answer in time", self.endpoint(member)))),
        }
    }

    /// A member that does not accept our certificate says so only after the handshake, to whoever reads next: tonic
    /// knows nothing of it.
    fn explain(&self, member: usize, status: Status) -> Status {
        let member = self.member(member);
        let refusal = if fate(&status) == Fate::Answered { None } else { member.refusal.lock().take() };
        let Some(alert) = refusal else { return status };
        let why = match alert {
            rustls::AlertDescription::CertificateRequired => {
                "it asks for a client certificate (--datastore-certfile, --datastore-keyfile)".to_owned()
            }
            other => format!("it refuses the client certificate: {other:?}"),
        };
        let source = io::Error::new(io::ErrorKind::InvalidData, why);
        Status::from_error(Box::new(NotConnected { endpoint: member.endpoint.clone(), source }))
    }

    /// Opens a stream in both directions to one member.
    pub(super) async fn stream<A, B>(
        &self,
        member: usize,
        path: &'static str,
        requests: impl futures::Stream<Item = A> + Send + 'static,
    ) -> Result<Streaming<B>, Status>
    where
        A: Message + Send + Sync + 'static,
        B: Message + Default + Send + Sync + 'static,
    {
        let mut grpc = self.grpc(member);
        let call = async {
            grpc.ready().await.map_err(|error| Status::from_error(error.into()))?;
            let request = with_leader(requests);
            grpc.streaming(request, PathAndQuery::from_static(path), ProstCodec::<A, B>::default()).await
        };
        match tokio::time::timeout(ANSWER_WITHIN, call).await {
            Ok(answer) => answer.map(tonic::Response::into_inner),
            Err(_) => Err(Status::deadline_exceeded(format!("{} did not answer in time", self.endpoint(member)))),
        }
    }

    fn grpc(&self, member: usize) -> Grpc<Channel> {
        Grpc::new(self.member(member).channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }
}

/// A member without a leader is to say so instead of answering from what it remembers (etcd `WithRequireLeader`).
fn with_leader<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
    request
}

/// What became of a call that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// The member's own answer, which another would give too.
    Answered,
    /// It has certainly not been carried out.
    NotArrived,
    /// It may have been.
    Unknown,
}

fn fate(status: &Status) -> Fate {
    if not_connected(status).is_some() {
        return Fate::NotArrived;
    }
    match status.code() {
        // etcd api/v3rpc/rpctypes/error.go: these are said before anything is proposed.
        Code::Unavailable if matches!(status.message(), "etcdserver: no leader" | "etcdserver: server stopped") => {
            Fate::NotArrived
        }
        Code::ResourceExhausted if status.message() == "etcdserver: too many requests" => Fate::NotArrived,
        // A change of members that would cost the cluster its quorum; it stays so until a member is well.
        Code::Unavailable if status.message() == "etcdserver: unhealthy cluster" => Fate::Answered,
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => Fate::Unknown,
        // A learner does not serve; another member does.
        Code::FailedPrecondition if status.message().contains("rpc not supported for learner") => Fate::NotArrived,
        // hyper's word for a connection that ended in the middle.
        Code::Unknown | Code::Internal if !status.message().starts_with("etcdserver:") => Fate::Unknown,
        _ => Fate::Answered,
    }
}

/// The failure to connect that is behind a status.
pub(super) fn not_connected(status: &Status) -> Option<&NotConnected> {
    let mut error = status.source();
    while let Some(cause) = error {
        if let Some(found) = cause.downcast_ref::<NotConnected>() {
            return Some(found);
        }
        error = cause.source();
    }
    None
}

/// A member's answer in its own words.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Answered(String);

/// A status as one sentence: gRPC's own text repeats every cause in Rust's words.
pub(super) fn plain(status: Status) -> Box<dyn Error + Send + Sync> {
    match not_connected(&status) {
        Some(NotConnected { endpoint, source }) => {
            let source = io::Error::new(source.kind(), source.to_string());
            Box::new(NotConnected { endpoint: endpoint.clone(), source })
        }
        None if status.message().is_empty() => Box::new(Answered(status.code().to_string())),
        None => Box::new(Answered(status.message().to_owned())),
    }
}

impl Member {
    fn new(endpoint: &str, tls: Option<&Arc<rustls::ClientConfig>>) -> Result<Self, EndpointError> {
        let invalid = || EndpointError::Invalid { endpoint: endpoint.to_owned() };
        let uri: Uri = endpoint.parse().map_err(|_| invalid())?;
        let (Some(host), Some(port)) = (uri.host(), uri.port_u16()) else { return Err(invalid()) };
        let host = host.trim_matches(['[', ']']).to_owned();
        let tls = match uri.scheme_str() {
            Some("http") => None,
            Some("https") => {
                let name = ServerName::try_from(host.clone()).map_err(|_| invalid())?;
                let config = tls.ok_or_else(|| EndpointError::Authority { endpoint: endpoint.to_owned() })?;
                Some((TlsConnector::from(config.clone()), name))
            }
            _ => return Err(invalid()),
        };
        // TLS is the connector's matter; for tonic every connection is a plain one.
        let authority = uri.authority().ok_or_else(invalid)?;
        let target = Endpoint::from_shared(format!("http://{authority}"))
            .map_err(|_| invalid())?
            .http2_keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_WITHIN)
            .initial_stream_window_size(1024 * 1024)
            .initial_connection_window_size(4 * 1024 * 1024);
        let named = endpoint.to_owned();
        let refusal = Refusal::default();
        let noticed = Arc::clone(&refusal);
        let channel = target.connect_with_connector_lazy(service_fn(move |_: Uri| {
            let (named, host, tls) = (named.clone(), host.clone(), tls.clone());
            let noticed = Arc::clone(&noticed);
            async move {
                let connected = tokio::time::timeout(CONNECT_WITHIN, connect(&host, port, tls, noticed)).await;
                let connected = connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
                connected.map(TokioIo::new).map_err(|source| NotConnected { endpoint: named, source })
            }
        }));
        Ok(Self { endpoint: endpoint.to_owned(), channel, refusal })
    }
}

async fn connect(
    host: &str,
    port: u16,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    refusal: Refusal,
) -> io::Result<Connection> {
    let stream = TcpStream::connect((host, port)).await?;
    stream.set_nodelay(true)?;
    Ok(match tls {
        None => Connection::Plain(stream),
        Some((connector, name)) => {
            Connection::Tls { stream: Box::new(connector.connect(name, stream).await?), refusal, failed: None }
        }
    })
}

/// Whether the alert ends a handshake, before any call can have been taken.
fn is_about_certificates(alert: &rustls::AlertDescription) -> bool {
    use rustls::AlertDescription::{
        AccessDenied, BadCertificate, CertificateExpired, CertificateRequired, CertificateRevoked, CertificateUnknown,
        UnknownCA, UnsupportedCertificate,
    };
    matches!(
        alert,
        AccessDenied
            | BadCertificate
            | CertificateExpired
            | CertificateRequired
            | CertificateRevoked
            | CertificateUnknown
            | UnknownCA
            | UnsupportedCertificate
    )
}

/// With or without TLS.
enum Connection {
    Plain(TcpStream),
    Tls { stream: Box<TlsConnection>, refusal: Refusal, failed: Option<io::Error> },
}

/// Where a connection leaves the alert that ended it.
type Refusal = Arc<Mutex<Option<rustls::AlertDescription>>>;

type TlsConnection = tokio_rustls::client::TlsStream<TcpStream>;

/// Reads from a TLS connection; an alert about certificates is kept.
fn read_noting(
    stream: &mut TlsConnection,
    refusal: &Refusal,
    cx: &mut Context<'_>,
    buf: &mut ReadBuf<'_>,
) -> Poll<io::Result<()>> {
    let read = Pin::new(stream).poll_read(cx, buf);
    if let Poll::Ready(Err(error)) = &read
        && let Some(rustls::Error::AlertReceived(alert)) =
            error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>())
    {
        *refusal.lock() = Some(*alert).filter(is_about_certificates);
    }
    read
}

/// Tells how a write ended, after looking for the alert behind one that failed: the member may have closed the connection,
/// and have said why before that, before anybody read. Nothing of it will be read otherwise. While the runtime does not
/// know yet that there is something to read, or that nothing will come, the failure is kept in `failed`.
fn after_write<T>(
    stream: &mut TlsConnection,
    refusal: &Refusal,
    failed: &mut Option<io::Error>,
    cx: &mut Context<'_>,
    write: impl FnOnce(Pin<&mut TlsConnection>, &mut Context<'_>) -> Poll<io::Result<T>>,
) -> Poll<io::Result<T>> {
    if failed.is_none() {
        match write(Pin::new(stream), cx) {
            Poll::Ready(Err(error)) => *failed = Some(error),
            other => return other,
        }
    }
    let mut scratch = [0; 4096];
    loop {
        let mut buf = ReadBuf::new(&mut scratch);
        match read_noting(stream, refusal, cx, &mut buf) {
            Poll::Ready(Ok(())) if !buf.filled().is_empty() => {}
            Poll::Ready(_) => break,
            Poll::Pending => return Poll::Pending,
        }
    }
    Poll::Ready(Err(failed.take().unwrap_or_else(|| io::ErrorKind::BrokenPipe.into())))
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls { stream, refusal, .. } => read_noting(stream, refusal, cx, buf),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls { stream, refusal, failed } => {
                after_write(stream, refusal, failed, cx, |stream, cx| stream.poll_write(cx, buf))
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls { stream, refusal, failed } => {
                after_write(stream, refusal, failed, cx, |stream, cx| stream.poll_flush(cx))
            }
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls { stream, .. } => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_checked() {
        let check = |endpoint: &str, wanted: &str| {
            let error = Members::new(&[endpoint.to_owned()], None).err().map(|e| e.to_string()).unwrap_or_default();
            assert!(error.contains(wanted) && error.is_empty() == wanted.is_empty(), "{endpoint}: {error}");
        };
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let _inside = runtime.enter();
        check("http://127.0.0.1:2379", "");
        check("http://[::1]:2379", "");
        check("https://127.0.0.1:2379", "--datastore-cafile");
        check("127.0.0.1:2379", "is no endpoint");
        check("postgres://host:1", "is no endpoint");
        check("http://host", "is no endpoint");
    }

    #[tokio::test]
    async fn members_may_change() {
        let of = |names: &[&str]| names.iter().map(|name| format!("http://{name}:1")).collect::<Vec<_>>();
        let members = Members::new(&of(&["a", "b"]), None).unwrap();
        members.leave(0);
        let kept = members.member(1);
        assert!(members.replace(&of(&["c", "a", "b"])).unwrap());
        assert!(!members.replace(&of(&["c", "a", "b"])).unwrap());
        assert_eq!(members.endpoint(members.current()), "http://b:1");
        assert!(Arc::ptr_eq(&kept, &members.member(2)), "its connection was dropped");
        members.replace(&of(&["c"])).unwrap();
        assert_eq!((members.current(), members.endpoint(7).as_str()), (0, "http://c:1"));
        assert!(members.replace(&[]).is_err());
        assert!(members.replace(&["nonsense".to_owned()]).is_err());
        assert_eq!(members.len(), 1);
    }

    #[test]
    fn errors_are_one_sentence() {
        let source = io::Error::new(io::ErrorKind::InvalidData, "invalid peer certificate: UnknownIssuer");
        let error = NotConnected { endpoint: "https://a:1".to_owned(), source };
        let text = base::chain(&*plain(Status::from_error(Box::new(error)))).to_string();
        assert_eq!(text, "cannot reach https://a:1: invalid peer certificate: UnknownIssuer");
        let text = plain(Status::unavailable("etcdserver: no leader")).to_string();
        assert_eq!(text, "etcdserver: no leader");
    }

    #[test]
    fn only_what_certainly_did_not_arrive_is_repeated() {
        let check = |status: Status, wanted: Fate| assert_eq!(fate(&status), wanted, "{status:?}");
        check(Status::unavailable("etcdserver: no leader"), Fate::NotArrived);
        check(Status::unavailable("etcdserver: request timed out"), Fate::Unknown);
        check(Status::unavailable("etcdserver: leader changed"), Fate::Unknown);
        check(Status::unavailable("etcdserver: unhealthy cluster"), Fate::Answered);
        check(Status::unknown("h2 protocol error: error reading a body from connection"), Fate::Unknown);
        check(Status::out_of_range("etcdserver: mvcc: required revision has been compacted"), Fate::Answered);
        let source = io::ErrorKind::ConnectionRefused.into();
        let error = NotConnected { endpoint: "http://a:1".to_owned(), source };
        check(Status::from_error(Box::new(error)), Fate::NotArrived);
    }

    /// A server that wants a certificate of its own authority, and a client that has none.
    fn demanding() -> (Arc<rustls::ServerConfig>, Arc<rustls::ClientConfig>) {
        use rcgen::{CertificateParams, KeyPair};
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let key = KeyPair::generate().unwrap();
        let cert = CertificateParams::new(vec!["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(cert.der().clone()).unwrap();
        let roots = Arc::new(roots);
        let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone());
        let server = rustls::ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier.build().unwrap())
            .with_single_cert(vec![cert.der().clone()], key.serialize_der().try_into().unwrap())
            .unwrap();
        let client = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        (Arc::new(server), Arc::new(client))
    }

    #[tokio::test]
    async fn a_refusal_is_read_even_if_the_connection_is_found_closed_by_a_write() {
        use tokio::io::AsyncWriteExt;
        let (server, client) = demanding();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let refusing = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            tokio_rustls::TlsAcceptor::from(server).accept(stream).await.map(drop)
        });
        let refusal = Refusal::default();
        let tls = (TlsConnector::from(client), ServerName::try_from("localhost").unwrap());
        let mut connection = connect("127.0.0.1", port, Some(tls), refusal.clone()).await.unwrap();
        assert!(refusing.await.unwrap().is_err(), "the server took a client without a certificate");
        // Nobody reads. The first writes may still go into the socket.
        while connection.write_all(b"call").await.is_ok() && connection.flush().await.is_ok() {
            tokio::task::yield_now().await;
        }
        assert_eq!(*refusal.lock(), Some(rustls::AlertDescription::CertificateRequired));
    }

    #[tokio::test]
    async fn every_call_that_is_refused_for_its_certificate_says_so() {
        let (server, client) = demanding();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("https://localhost:{}", listener.local_addr().unwrap().port());
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let refused = tokio_rustls::TlsAcceptor::from(server.clone()).accept(stream).await.map(drop);
                assert!(refused.is_err(), "the server took a client without a certificate");
            }
        });
        let members = Members::new(&[endpoint], Some(&client)).unwrap();
        for call in 0..50 {
            let request = etcd_client::proto::PbStatusRequest::default();
            let answer: Result<etcd_client::proto::PbStatusResponse, _> =
                members.call_member(0, "/etcdserverpb.Maintenance/Status", request).await;
            let error = base::chain(&*plain(answer.unwrap_err())).to_string();
            assert!(error.contains("it asks for a client certificate"), "call {call}: {error}");
        }
    }
}
