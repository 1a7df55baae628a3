//! Webhooks over real TLS: what the caller sends, trusts and says of failures.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use api::webhook::{Asker, Place, Target, WebhookError, Webhooks};
use base::SystemClock;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use pki::{CertificateAuthority, LeafSpec, ServingCertificate};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::harness::Harness;

/// A webhook server for `localhost` that says its request back, and fails at some paths.
struct Hook {
    address: SocketAddr,
    ca: Vec<u8>,
    connections: Arc<AtomicUsize>,
    server: tokio::task::JoinHandle<()>,
    _dir: TempDir,
}

impl Drop for Hook {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let (code, text) = match parts.uri.path() {
        "/broken" => (500, "it broke".to_owned()),
        "/slow" => {
            std::future::pending::<()>().await;
            (200, String::new())
        }
        path => {
            let kind = parts.headers.get("content-type").and_then(|v| v.to_str().ok()).unwrap_or_default();
            let query = parts.uri.query().unwrap_or_default();
            (200, format!("{} {path} {query} {kind} {}", parts.method, String::from_utf8_lossy(&body)))
        }
    };
    Ok(Response::builder().status(code).body(Full::from(text)).expect("a plain response"))
}

impl Hook {
    async fn start() -> Self {
        let dir = TempDir::new().expect("a folder");
        let ca = CertificateAuthority::load_or_create(dir.path(), "ca", "hooks", &SystemClock).expect("an authority");
        let leaf = ca.issue(&LeafSpec::server("hook", vec!["localhost".to_owned()]), &SystemClock).expect("a leaf");
        let serving = ServingCertificate::new(&leaf).expect("a serving certificate");
        let config = serving.server_config(&[], &[b"http/1.1"]).expect("a configuration");
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        let server = tokio::spawn(async move {
            let mut open = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                count.fetch_add(1, Ordering::SeqCst);
                open.spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let http = hyper::server::conn::http1::Builder::new();
                    // A client that goes away is no failure of the test's server.
                    let _ = http.serve_connection(TokioIo::new(stream), service_fn(answer)).await;
                });
            }
        });
        Self { address, ca: ca.cert_pem().as_bytes().to_vec(), connections, server, _dir: dir }
    }

    fn target(&self, path: &str) -> Target {
        let url = format!("https://localhost:{}{path}", self.address.port());
        Target { asker: Asker::Other, place: Place::Url(url), ca_bundle: self.ca.clone() }
    }
}

const LONG: Duration = Duration::from_secs(10);

#[tokio::test]
async fn webhooks_are_called_over_tls_on_kept_connections() {
    let (harness, hook) = (Harness::new().await, Hook::start().await);
    for _ in 0..3 {
        let body =
            harness.server.post(&hook.target("/path"), Bytes::from_static(b"{}"), LONG).await.expect("an answer");
        assert_eq!(body, "POST /path timeout=10s application/json {}");
    }
    assert_eq!(hook.connections.load(Ordering::SeqCst), 1);
    harness.shutdown.cancel();
}

#[tokio::test]
async fn failures_of_webhooks_read_as_upstream() {
    let (harness, hook) = (Harness::new().await, Hook::start().await);
    let port = hook.address.port();
    let failure = async |target: &Target, timeout| {
        harness.server.post(target, Bytes::from_static(b"{}"), timeout).await.expect_err("a failure")
    };
    let broken = failure(&hook.target("/broken"), LONG).await;
    let text = "an error on the server (\"it broke\") has prevented the request from succeeding";
    assert_eq!(broken, WebhookError::Refused { code: 500, text: text.to_owned() });
    let slow = failure(&hook.target("/slow"), Duration::from_millis(50)).await;
    let url = format!("https://localhost:{port}/slow?timeout=1s");
    assert_eq!(slow.to_string(), format!("Post {url:?}: context deadline exceeded"));
    let stranger = Hook::start().await;
    let foreign = Target { ca_bundle: stranger.ca.clone(), ..hook.target("/path") };
    let text = failure(&foreign, LONG).await.to_string();
    assert!(
        text.ends_with("tls: failed to verify certificate: x509: certificate signed by unknown authority"),
        "{text}"
    );
    let place = Place::Service { namespace: "ns".to_owned(), name: "svc".to_owned(), path: "/p".to_owned(), port: 443 };
    let missing = Target { asker: Asker::Other, place, ca_bundle: Vec::new() };
    let text = failure(&missing, LONG).await.to_string();
    assert!(text.starts_with("Post \"https://svc.ns.svc:443/p?timeout=10s\": "), "{text}");
    harness.shutdown.cancel();
}
