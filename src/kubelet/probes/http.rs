//! Probing and hooks by HTTP (upstream `pkg/probe/http`).

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use http::{Request, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Container, HTTPGetAction, Pod};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{MAX_OUTPUT, Outcome, tcp};
use crate::context::Context;
use crate::spec;

const MAX_REDIRECTS: usize = 10;

/// Where a request goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub https: bool,
    pub host: String,
    pub port: u16,
    pub path: String,
    pub headers: Vec<(String, String)>,
}

/// The address that probes of a pod use.
pub fn host(ctx: &Context, pod: &Pod, named: Option<&str>) -> String {
    if let Some(host) = named.filter(|h| !h.is_empty()) {
        return host.to_owned();
    }
    let ip = if spec::is_host_network(pod) {
        ctx.config.node_ips.first().copied()
    } else {
        ctx.cache.pod(spec::uid(pod)).ips.first().copied()
    };
    ip.map(|ip| ip.to_string()).unwrap_or_default()
}

/// A number, or the name of one of the container's ports (upstream `ResolveContainerPort`).
pub fn port(container: &Container, port: &IntOrString) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(n) => *n,
        IntOrString::String(name) => {
            let named = container.ports.iter().flatten().find(|p| p.name.as_deref() == Some(name));
            match (named, name.parse()) {
                (Some(port), _) => port.container_port,
                (None, Ok(number)) => number,
                (None, Err(_)) => {
                    return Err(format!("couldn't find port: {name:?} in container {:?}", container.name));
                }
            }
        }
    };
    u16::try_from(number).ok().filter(|n| *n > 0).ok_or_else(|| format!("invalid port number: {number}"))
}

impl Target {
    pub fn new(ctx: &Context, pod: &Pod, container: &Container, action: &HTTPGetAction) -> Result<Self, String> {
        let path = action.path.as_deref().unwrap_or("/");
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        let headers = action.http_headers.iter().flatten().map(|h| (h.name.clone(), h.value.clone())).collect();
        Ok(Self {
            https: action.scheme.as_deref().is_some_and(|s| s.eq_ignore_ascii_case("https")),
            host: host(ctx, pod, action.host.as_deref()),
            port: port(container, &action.port)?,
            path,
            headers,
        })
    }

    fn url(&self) -> String {
        let scheme = if self.https { "https" } else { "http" };
        format!("{scheme}://{}{}", tcp::address(&self.host, self.port), self.path)
    }
}

/// Status, redirect target and the beginning of the body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub location: Option<String>,
    pub body: String,
}

/// One GET.
///
/// # Errors
/// The text that Go's client gives.
pub async fn get(target: &Target, agent: &str) -> Result<Answer, String> {
    let fail = |why: String| format!("Get {:?}: {why}", target.url());
    let stream = tcp::connect(&target.host, target.port).await.map_err(fail)?;
    if !target.https {
        return exchange(stream, target, agent).await.map_err(fail);
    }
    let name = rustls::pki_types::ServerName::try_from(target.host.clone()).map_err(|e| fail(e.to_string()))?;
    let connector = tokio_rustls::TlsConnector::from(TRUSTING.clone().map_err(fail)?);
    let stream = connector.connect(name, stream).await.map_err(|e| fail(e.to_string()))?;
    exchange(stream, target, agent).await.map_err(fail)
}

async fn exchange<S>(stream: S, target: &Target, agent: &str) -> Result<Answer, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    let request = request(target, agent)?;
    let exchange = async move {
        let response = sender.send_request(request).await.map_err(|e| base::chain(&e).to_string())?;
        let status = response.status().as_u16();
        let location = response.headers().get(header::LOCATION).and_then(|v| v.to_str().ok()).map(str::to_owned);
        let body = Limited::new(response.into_body(), MAX_OUTPUT).collect().await;
        // A longer body is cut: its beginning was not kept, its status counts.
        let body = body.map(|b| String::from_utf8_lossy(&b.to_bytes()).into_owned()).unwrap_or_default();
        Ok(Answer { status, location, body })
    };
    tokio::pin!(exchange);
    tokio::select! {
        biased;
        answer = &mut exchange => answer,
        ended = connection => match ended {
            Ok(()) => exchange.await,
            Err(error) => Err(base::chain(&error).to_string()),
        },
    }
}

fn request(target: &Target, agent: &str) -> Result<Request<Empty<Bytes>>, String> {
    let default_port = if target.https { 443 } else { 80 };
    let host = if target.port == default_port && !target.host.contains(':') {
        target.host.clone()
    } else {
        tcp::address(&target.host, target.port)
    };
    let uri: Uri = target.path.parse().map_err(|e: http::uri::InvalidUri| e.to_string())?;
    let mut builder = Request::get(uri);
    let given = |name: &str| target.headers.iter().any(|(n, _)| n.eq_ignore_ascii_case(name));
    for (name, default) in [("Host", host.as_str()), ("User-Agent", agent), ("Accept", "*/*"), ("Connection", "close")]
    {
        if !given(name) {
            builder = builder.header(name, default);
        }
    }
    for (name, value) in &target.headers {
        builder = builder.header(name, value);
    }
    builder.body(Empty::new()).map_err(|e| e.to_string())
}

pub async fn probe(target: &Target, timeout: Duration) -> Outcome {
    match tokio::time::timeout(timeout, follow(target)).await {
        Ok(outcome) => outcome,
        Err(_) => Outcome::Failure(format!(
            "Get {:?}: context deadline exceeded (Client.Timeout exceeded while awaiting headers)",
            target.url()
        )),
    }
}

/// Follows redirects on the same host; one to another host counts as good, with a warning.
async fn follow(first: &Target) -> Outcome {
    let mut target = first.clone();
    for _ in 0..MAX_REDIRECTS {
        let answer = match get(&target, "kube-probe/1.37").await {
            Ok(answer) => answer,
            Err(error) => return Outcome::Failure(error),
        };
        if !(300..400).contains(&answer.status) {
            return match answer.status {
                200..=299 => Outcome::Success,
                status => Outcome::Failure(format!("HTTP probe failed with statuscode: {status}")),
            };
        }
        match answer.location.as_deref().and_then(|l| redirect(&target, l)) {
            Some(next) if next.host == first.host => target = next,
            _ => {
                return Outcome::Warning(format!("Probe terminated redirects, Response body: {}", answer.body));
            }
        }
    }
    Outcome::Failure(format!("Get {:?}: stopped after 10 redirects", first.url()))
}

fn redirect(from: &Target, location: &str) -> Option<Target> {
    let uri: Uri = location.parse().ok()?;
    let path = uri.path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string);
    let Some(host) = uri.host() else {
        let path = if path.starts_with('/') { path } else { format!("/{path}") };
        return Some(Target { path, ..from.clone() });
    };
    let https = uri.scheme_str() == Some("https");
    let port = uri.port_u16().unwrap_or(if https { 443 } else { 80 });
    Some(Target { https, host: host.trim_matches(['[', ']']).to_owned(), port, path, headers: from.headers.clone() })
}

/// Upstream's probes don't verify certificates: the probed is the pod, whoever signed for it.
static TRUSTING: LazyLock<Result<Arc<rustls::ClientConfig>, String>> =
    LazyLock::new(|| pki::serving::unverified_client_config(None).map(Arc::new).map_err(|e| e.to_string()));

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn serve(answer: &'static str) -> u16 {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut buffer = [0; 1024];
                let _ = stream.read(&mut buffer).await;
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        port
    }

    #[tokio::test]
    async fn statuses_decide() {
        let check = async |answer: &'static str, expected: Outcome| {
            let port = serve(answer).await;
            let target = Target { https: false, host: "127.0.0.1".into(), port, path: "/".into(), headers: Vec::new() };
            assert_eq!(probe(&target, Duration::from_secs(5)).await, expected, "{answer}");
        };
        check("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", Outcome::Success).await;
        let failed = Outcome::Failure("HTTP probe failed with statuscode: 500".into());
        check("HTTP/1.1 500 X\r\ncontent-length: 0\r\n\r\n", failed).await;
        let away = Outcome::Warning("Probe terminated redirects, Response body: b".into());
        check("HTTP/1.1 302 F\r\nlocation: http://other/\r\ncontent-length: 1\r\n\r\nb", away).await;
    }

    #[tokio::test]
    async fn a_closed_port_reads_as_in_go() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let target = Target { https: false, host: "127.0.0.1".into(), port, path: "/x".into(), headers: Vec::new() };
        let text = format!("Get \"http://127.0.0.1:{port}/x\": dial tcp 127.0.0.1:{port}: connect: connection refused");
        assert_eq!(probe(&target, Duration::from_secs(5)).await, Outcome::Failure(text));
    }
}
