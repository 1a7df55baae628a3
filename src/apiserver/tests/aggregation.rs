//! Connections to aggregated servers, over real TLS.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::Body;
use base::{Shutdown, SystemClock};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use pki::{CertificateAuthority, LeafSpec, ServingCertificate};
use rustls::pki_types::ServerName;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;

use crate::aggregate::ProxyClients;

/// What protocols a request and one that could be upgraded go out with, to a server that speaks `protocols`.
async fn spoken(protocols: &[&[u8]]) -> [String; 2] {
    let dir = tempfile::tempdir().expect("a folder");
    let ca = CertificateAuthority::load_or_create(dir.path(), "ca", "test", &SystemClock).expect("an authority");
    let leaf = ca.issue(&LeafSpec::server("api", vec!["api.shop.svc".to_owned()]), &SystemClock).expect("a leaf");
    let serving = ServingCertificate::new(&leaf).expect("a serving certificate");
    let acceptor = TlsAcceptor::from(Arc::new(serving.server_config(&[], protocols).expect("a configuration")));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let mut server = JoinSet::new();
    server.spawn(async move {
        let mut open = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            open.spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let answer = |request: Request<Incoming>| async move {
                    let text = format!("{:?} {}", request.version(), request.uri().path());
                    Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(text))))
                };
                // A client that goes away is no failure of the test's server.
                let _ =
                    Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service_fn(answer)).await;
            });
        }
    });
    let config = pki::serving::bundle_client_config_as(ca.cert_pem().as_bytes(), None).expect("a configuration");
    let name = ServerName::try_from("api.shop.svc").expect("a name");
    let clients = ProxyClients::new(&TaskTracker::new(), &Shutdown::new(), &name, &config);
    let mut said = [String::new(), String::new()];
    for (client, said) in [&clients.requests, &clients.upgrades].into_iter().zip(&mut said) {
        let request = Request::get(format!("https://{address}/apis")).body(Body::empty()).expect("a request");
        let body = client.request(request).await.expect("an answer").into_body().collect().await.expect("a body");
        *said = String::from_utf8_lossy(&body.to_bytes()).into_owned();
    }
    said
}

#[tokio::test]
async fn requests_go_out_as_http_2_where_the_server_speaks_it_and_upgrades_never_do() {
    assert_eq!(spoken(&[b"h2", b"http/1.1"]).await, ["HTTP/2.0 /apis", "HTTP/1.1 /apis"]);
    assert_eq!(spoken(&[b"http/1.1"]).await, ["HTTP/1.1 /apis", "HTTP/1.1 /apis"]);
}
