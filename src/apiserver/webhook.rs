//! Calls webhooks: finds Services' endpoints, keeps connections (apiserver `util/webhook/client.go`,
//! `util/proxy/proxy.go` `ResolveEndpoint`).
//!
//! A Service is resolved to one of its ready endpoints for each call, as `--enable-aggregator-routing` does, so that
//! calls are spread over the endpoints and need no Service rules on this machine. Connections are HTTP/1.1, as there, and
//! kept for [`IDLE_MAX`] by address; at most [`CLIENTS_MAX`] configurations have connections at a time.

use std::error::Error;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use api::selector::LabelSelector;
use api::services::Registry;
use api::webhook::{Asker, Place, Target, WebhookError, Webhooks};
use api::{Gvr, Object, Status};
use async_trait::async_trait;
use base::Shutdown;
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, USER_AGENT};
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioIo, TokioTimer};
use indexmap::IndexMap;
use parking_lot::Mutex;
use rand::seq::IndexedRandom;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::task::TaskTracker;

use crate::cache::view::Selection;
use crate::metrics::requests::Hooks;
use crate::remote::Identity;
use crate::server::ApiServer;

mod identities;

pub use identities::Identities;

/// Go's `http.Transport.IdleConnTimeout` as client-go sets it.
const IDLE_MAX: Duration = Duration::from_secs(90);
/// After how long a silent HTTP/2 connection that carries requests is asked whether it lives, and how long it may take
/// (apimachinery `util/net/http.go` `readIdleTimeoutSeconds`, `pingTimeoutSeconds`).
const SILENT_MAX: Duration = Duration::from_secs(30);
const PING_MAX: Duration = Duration::from_secs(15);
/// `defaultCacheSize`.
const CLIENTS_MAX: usize = 200;
/// Connections kept idle for one address.
const IDLE_PER_ADDRESS: usize = 25;
/// client-go's `maxRetries`.
const RETRIES_MAX: usize = 10;
/// The largest answer that is read.
const ANSWER_MAX: usize = 16 << 20;
/// How much of a failed answer's body becomes text.
const TEXT_MAX: usize = 2 << 10;

type HookClient = Client<Connector, Full<Bytes>>;

/// What a connection is made with: the server's name, whom it is verified by, and as whom the server comes.
type Configuration = (String, Vec<u8>, Option<(Asker, String)>);

/// Connections to webhooks, by configuration. The least lately used configuration goes first.
pub struct Connections {
    clients: Mutex<IndexMap<Configuration, HookClient>>,
    /// The server's own identities, by who calls; set before anybody does.
    identities: OnceLock<Vec<(Asker, Identities)>>,
    tasks: TaskTracker,
    shutdown: Shutdown,
}

impl Connections {
    pub(crate) fn new(tasks: TaskTracker, shutdown: Shutdown) -> Self {
        Self { clients: Mutex::new(IndexMap::new()), identities: OnceLock::new(), tasks, shutdown }
    }

    /// As whom the server comes to `host:port`.
    fn identity(&self, asker: Asker, place: &str) -> Option<(&str, &Identity)> {
        let all = self.identities.get()?;
        all.iter().find(|(other, _)| *other == asker).and_then(|(_, identities)| identities.at(place))
    }

    /// A client that shows `server_name` (a name or an address), verifies the server against the target's bundle and comes
    /// as `identity`.
    fn client(
        &self,
        server_name: &str,
        target: &Target,
        identity: Option<(&str, &Identity)>,
    ) -> Result<HookClient, WebhookError> {
        let bundle = &target.ca_bundle;
        let whose = identity.map(|(name, _)| (target.asker, name.to_owned()));
        let key = (server_name.to_owned(), bundle.clone(), whose);
        let mut clients = self.clients.lock();
        if let Some(found) = clients.shift_remove(&key) {
            clients.insert(key, found.clone());
            return Ok(found);
        }
        let name = ServerName::try_from(server_name.to_owned())
            .map_err(|_| WebhookError::Config(format!("invalid server name {server_name:?}")))?;
        let leaf = identity.and_then(|(_, identity)| identity.leaf.as_ref());
        let config = pki::serving::bundle_client_config_as(bundle, leaf)
            .map_err(|e| WebhookError::Config(base::chain(&e).to_string()))?;
        let client = pooled(self.tasks.clone(), self.shutdown.clone(), Connector::new(name, Arc::new(config)));
        if clients.len() >= CLIENTS_MAX {
            clients.shift_remove_index(0);
        }
        clients.insert(key, client.clone());
        Ok(client)
    }
}

/// A client that keeps idle connections for a while. They are tasks of the server.
pub(crate) fn pooled<B>(tasks: TaskTracker, shutdown: Shutdown, connector: Connector) -> Client<Connector, B>
where
    B: http_body::Body + Send,
    B::Data: Send,
{
    Client::builder(Tasks { tasks, shutdown })
        .timer(TokioTimer::new())
        .http2_keep_alive_interval(SILENT_MAX)
        .http2_keep_alive_timeout(PING_MAX)
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE_MAX)
        .pool_max_idle_per_host(IDLE_PER_ADDRESS)
        .build(connector)
}

/// Runs connections as tasks of the server, which end with it.
#[derive(Clone)]
struct Tasks {
    tasks: TaskTracker,
    shutdown: Shutdown,
}

impl<F> hyper::rt::Executor<F> for Tasks
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, future: F) {
        let shutdown = self.shutdown.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => {}
                _ = future => {}
            }
        });
    }
}

/// Opens TLS connections to the address in the URI, whatever the certificate's name.
#[derive(Clone)]
pub(crate) struct Connector {
    name: ServerName<'static>,
    config: Arc<ClientConfig>,
}

impl Connector {
    pub fn new(name: ServerName<'static>, config: Arc<ClientConfig>) -> Self {
        Self { name, config }
    }
}

impl tower::Service<Uri> for Connector {
    type Response = Secured;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Secured>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let Self { name, config } = self.clone();
        Box::pin(async move {
            let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
            let port = uri.port_u16().unwrap_or(443);
            let stream = TcpStream::connect((host.as_str(), port)).await.map_err(|e| {
                let why = match e.to_string() {
                    text if text.starts_with("failed to lookup address information") => {
                        format!("dial tcp: lookup {host}{}: no such host", name_server())
                    }
                    _ => format!("dial tcp {host}:{port}: connect: {}", crate::connect::go_text(&e)),
                };
                io::Error::new(e.kind(), why)
            })?;
            stream.set_nodelay(true)?;
            let stream = TlsConnector::from(config).connect(name, stream).await.map_err(tls_error)?;
            Ok(Secured(TokioIo::new(stream)))
        })
    }
}

/// Whom Go says that it has asked for a name: the first server of `/etc/resolv.conf`.
fn name_server() -> String {
    let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let server = text.lines().find_map(|line| line.strip_prefix("nameserver")).map(str::trim);
    server.map(|server| format!(" on {server}:53")).unwrap_or_default()
}

/// What Go says of a certificate that it does not trust, where the reason is a common one.
fn tls_error(error: io::Error) -> io::Error {
    use rustls::CertificateError as Bad;
    let found = error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>());
    let why = match found {
        Some(rustls::Error::InvalidCertificate(bad)) => match bad {
            // Another authority of the same name is found by its name and then does not fit.
            Bad::UnknownIssuer | Bad::BadSignature => "x509: certificate signed by unknown authority".to_owned(),
            Bad::Expired | Bad::ExpiredContext { .. } | Bad::NotValidYet | Bad::NotValidYetContext { .. } => {
                "x509: certificate has expired or is not yet valid".to_owned()
            }
            Bad::NotValidForName | Bad::NotValidForNameContext { .. } => {
                "x509: certificate is not valid for the name of the webhook's server".to_owned()
            }
            other => format!("x509: {other:?}"),
        },
        _ => return error,
    };
    io::Error::new(error.kind(), format!("tls: failed to verify certificate: {why}"))
}

/// A TLS connection as hyper's pool wants it.
pub(crate) struct Secured(TokioIo<TlsStream<TcpStream>>);

impl Connection for Secured {
    fn connected(&self) -> Connected {
        match self.0.inner().get_ref().1.alpn_protocol() {
            Some(b"h2") => Connected::new().negotiated_h2(),
            _ => Connected::new(),
        }
    }
}

impl hyper::rt::Read for Secured {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl hyper::rt::Write for Secured {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

impl ApiServer {
    /// As whom the server comes to webhooks, by who calls them. The first time counts.
    pub fn set_webhook_identities(&self, identities: Vec<(Asker, Identities)>) {
        if self.webhooks.identities.set(identities).is_err() {
            tracing::error!("identities at webhooks were set up twice; the first ones stay");
        }
    }
}

#[async_trait]
impl Webhooks for ApiServer {
    async fn post(&self, target: &Target, body: Bytes, timeout: Duration) -> Result<Bytes, WebhookError> {
        let seconds = timeout.as_secs() + u64::from(timeout.subsec_nanos() > 0);
        let url = format!("{}?timeout={seconds}s", target.url());
        let unreachable = |why: String| WebhookError::Unreachable { url: url.clone(), why };
        let _calling = Hooks::calling();
        match tokio::time::timeout(timeout, call(self, target, &url, body)).await {
            Ok(answer) => answer,
            Err(_) => Err(unreachable("context deadline exceeded".to_owned())),
        }
    }
}

async fn call(server: &ApiServer, target: &Target, url: &str, body: Bytes) -> Result<Bytes, WebhookError> {
    let unreachable = |why: String| WebhookError::Unreachable { url: url.to_owned(), why };
    let uri: Uri = url.parse().map_err(|e| WebhookError::Config(format!("Unparsable URL: {e}")))?;
    let (Some(host), Some(authority)) = (uri.host(), uri.authority()) else {
        return Err(WebhookError::Config(format!("Unparsable URL: {url:?} has no host")));
    };
    if uri.scheme_str() != Some("https") {
        return Err(WebhookError::Config("webhooks are called by https only".to_owned()));
    }
    let place = format!("{host}:{}", uri.port_u16().unwrap_or(443));
    let identity = server.webhooks.identity(target.asker, &place);
    let client = server.webhooks.client(host.trim_matches(['[', ']']), target, identity)?;
    let address = match &target.place {
        Place::Url(_) => authority.to_string(),
        Place::Service { namespace, name, port, .. } => {
            resolve(server, namespace, name, *port).await.map_err(unreachable)?
        }
    };
    let path = uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    let mut retries = 0;
    let response = loop {
        let mut request = Request::post(format!("https://{address}{path}"));
        if let Some(authorization) = identity.and_then(|(_, identity)| identity.authorization.as_ref()) {
            let value = authorization.value().await.map_err(|e| WebhookError::Config(base::chain(&e).to_string()))?;
            request = request.header(AUTHORIZATION, value);
        }
        let request = request
            .header(HOST, authority.as_str())
            .header(USER_AGENT, "kube-apiserver-admission")
            .header(ACCEPT, "application/json, */*")
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(body.clone()))
            .map_err(|e| WebhookError::Config(format!("Unparsable URL: {e}")))?;
        let response = client.request(request).await.map_err(|error| unreachable(innermost(&error)))?;
        match retry_after(&response) {
            Some(wait) if retries < RETRIES_MAX => tokio::time::sleep(wait).await,
            _ => break response,
        }
        retries += 1;
    };
    let status = response.status();
    let content_type =
        response.headers().get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    let body = match Limited::new(response.into_body(), ANSWER_MAX).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) if error.is::<LengthLimitError>() => {
            return Err(unreachable(format!("the answer is larger than {ANSWER_MAX} bytes")));
        }
        Err(error) => return Err(unreachable(innermost(error.as_ref()))),
    };
    if status.is_success() && body.is_empty() {
        let code = status.as_u16();
        let text = format!("0-length response with status code: {code} and content type: {content_type}");
        return Err(WebhookError::Config(text));
    }
    if status.is_success() {
        return Ok(body);
    }
    Err(WebhookError::Refused { code: status.as_u16(), text: refusal(status, &content_type, &body) })
}

/// The text of the cause at the end of the chain: what is around it is hyper's.
pub(crate) fn innermost(error: &(dyn Error + 'static)) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    match error.to_string() {
        text if text.contains("connection closed before message completed") => "EOF".to_owned(),
        text if text.contains("without sending TLS close_notify") => "EOF".to_owned(),
        text => text,
    }
}

/// How long an answer asks its caller to wait before asking again (client-go `rest.checkWait`).
fn retry_after<B>(response: &http::Response<B>) -> Option<Duration> {
    let asks = response.status() == StatusCode::TOO_MANY_REQUESTS || response.status().is_server_error();
    let seconds = response.headers().get(http::header::RETRY_AFTER).filter(|_| asks)?;
    seconds.to_str().ok()?.parse().ok().map(Duration::from_secs)
}

/// What client-go makes of an answer that is not a success (`newUnstructuredResponseError`,
/// `errors.NewGenericServerResponse`).
fn refusal(status: StatusCode, content_type: &str, body: &[u8]) -> String {
    // A `Status` speaks for itself.
    if let Ok(document) = serde_json::from_slice::<Value>(body)
        && document.get("kind").and_then(Value::as_str) == Some("Status")
        && let Some(message) = document.get("message").and_then(Value::as_str)
    {
        return message.to_owned();
    }
    let shown = String::from_utf8_lossy(&body[..body.len().min(TEXT_MAX)]);
    let is_text = content_type.is_empty() || content_type.starts_with("text/");
    let shown = if is_text { shown.trim() } else { "unknown" };
    match status.as_u16() {
        400 => "the server rejected our request for an unknown reason".to_owned(),
        401 => "the server has asked for the client to provide credentials".to_owned(),
        403 => shown.to_owned(),
        404 => "the server could not find the requested resource".to_owned(),
        405 => "the server does not allow this method on the requested resource".to_owned(),
        409 => "the server reported a conflict".to_owned(),
        415 => "the server was unable to respond with a content type that the client supports".to_owned(),
        429 => "the server has received too many requests and has asked us to try again later".to_owned(),
        503 => "the server is currently unable to handle the request".to_owned(),
        504 => {
            "the server was unable to return a response in the time allotted, but may still be processing the request"
                .to_owned()
        }
        code if code >= 500 => format!("an error on the server ({shown:?}) has prevented the request from succeeding"),
        code => format!("the server responded with the status code {code} but did not return more information"),
    }
}

/// `host:port` of one of a Service's ready endpoints, at random, those of the first IP family first.
pub(crate) async fn resolve(server: &ApiServer, namespace: &str, name: &str, port: u16) -> Result<String, String> {
    let services = Gvr::new("", "v1", "services");
    let service = Registry::get(server, &services, namespace, name).await.map_err(|status| match status.code {
        404 => format!("service {name:?} not found"),
        _ => status.message,
    })?;
    let kind = service.str(&["spec", "type"]).unwrap_or("ClusterIP");
    if kind == "ExternalName" {
        let external = service.str(&["spec", "externalName"]).unwrap_or_default();
        return Ok(format!("{external}:{port}"));
    }
    if !matches!(kind, "ClusterIP" | "LoadBalancer" | "NodePort") {
        return Err(format!("unsupported service type {kind:?}"));
    }
    let ports = service.array(&["spec", "ports"]);
    let wanted = ports.iter().find(|p| p.get("port").and_then(Value::as_u64) == Some(u64::from(port)));
    let Some(wanted) = wanted else { return Err(format!("no service port {port} found for service {name:?}")) };
    let port_name = wanted.get("name").and_then(Value::as_str).unwrap_or_default();
    let family = service.array(&["spec", "ipFamilies"]).first().and_then(Value::as_str).unwrap_or("IPv4").to_owned();
    let slices = endpoint_slices(server, namespace, name).await.map_err(|status| status.message)?;
    let (preferred, others): (Vec<&Object>, Vec<&Object>) =
        slices.iter().partition(|slice| slice.str(&["addressType"]) == Some(family.as_str()));
    for group in [preferred, others] {
        let ready: Vec<String> = group.into_iter().flat_map(|slice| addresses(slice, port_name)).collect();
        if let Some(address) = ready.choose(&mut rand::rng()) {
            return Ok(address.clone());
        }
    }
    Err(format!("no endpoints available for service {name:?}"))
}

/// The EndpointSlices of a Service.
pub(crate) async fn endpoint_slices(server: &ApiServer, namespace: &str, name: &str) -> Result<Vec<Object>, Status> {
    let served = server.served(&Gvr::new("discovery.k8s.io", "v1", "endpointslices"))?;
    let stored = served.stored()?;
    stored.cache.fresh().await?;
    let mut selection = Selection::everything(Arc::clone(&stored.view), namespace);
    selection.labels = LabelSelector::parse(&format!("kubernetes.io/service-name={name}"))
        .map_err(|why| Status::bad_request(why.to_string()))?;
    let listing = stored.cache.list(&selection, "", 0);
    listing.entries.iter().map(|entry| stored.view.object(entry)).collect()
}

/// The ready addresses of a slice at the port of this name.
fn addresses(slice: &Object, port_name: &str) -> Vec<String> {
    let text = |value: &Value, member: &str| value.get(member).and_then(Value::as_str).unwrap_or_default().to_owned();
    let port = slice.array(&["ports"]).iter().find(|p| text(p, "name") == port_name);
    let Some(port) = port.and_then(|p| p.get("port")).and_then(Value::as_u64) else { return Vec::new() };
    let endpoints = slice.array(&["endpoints"]).iter();
    endpoints
        .filter(|e| e.pointer("/conditions/ready").and_then(Value::as_bool) != Some(false))
        .filter_map(|e| e.pointer("/addresses/0").and_then(Value::as_str))
        .map(|address| if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") })
        .collect()
}
