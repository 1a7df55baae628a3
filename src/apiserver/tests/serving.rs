//! Serving over real connections: early answers, the end of the server.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use pki::{CertificateAuthority, LeafSpec, ServingCertificate};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::harness::{Events, Harness, WIDGETS, widget_named};
use crate::serve::{Lanes, Tls, listen, listen_on};

pub(super) struct Served {
    pub harness: Harness,
    address: std::net::SocketAddr,
    connector: TlsConnector,
    listening: JoinHandle<()>,
}

impl Served {
    /// `protocol`: what the client wants to speak, as in ALPN.
    async fn new(protocol: &[u8]) -> Self {
        Self::start(protocol, false).await
    }

    /// Everything on the runtime of the test, whose time can be paused.
    pub async fn on_one_runtime(protocol: &[u8]) -> Self {
        Self::start(protocol, true).await
    }

    async fn start(protocol: &[u8], one: bool) -> Self {
        let harness = Harness::new().await;
        let dir = tempfile::tempdir().unwrap();
        let ca = CertificateAuthority::load_or_create(dir.path(), "ca", "test-ca", &base::SystemClock).unwrap();
        let spec = LeafSpec::server("test", vec!["localhost".to_owned()]);
        let leaf = ca.load_or_issue(dir.path(), "server", &spec, &base::SystemClock).unwrap();
        let authority = ca.cert_der().clone();
        let config = ServingCertificate::new(&leaf)
            .unwrap()
            .server_config(std::slice::from_ref(&authority), &[b"h2", b"http/1.1"])
            .unwrap();
        let mut client = pki::serving::client_config(std::slice::from_ref(&authority), None).unwrap();
        client.alpn_protocols = vec![protocol.to_vec()];
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let tls = Tls { config: Arc::new(config), client_authority: authority, front_proxy: None };
        let (service, shutdown) = (harness.server.service(), harness.shutdown.clone());
        let listening = match one {
            true => tokio::spawn(listen_on(listener, tls, service, shutdown, Lanes::one())),
            false => tokio::spawn(listen(listener, tls, service, shutdown)),
        };
        Self { harness, address, connector: TlsConnector::from(Arc::new(client)), listening }
    }

    pub async fn connect(&self) -> io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(self.address).await?;
        self.connector.connect("localhost".try_into().unwrap(), stream).await
    }
}

pub(super) fn head(method: &str, path: &str, more: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\n{more}\r\n")
}

/// The head of the next answer and its body, which has a length.
pub(super) async fn answer(stream: &mut TlsStream<TcpStream>) -> (String, String) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.expect("the connection ended before the answer"));
    }
    let head = String::from_utf8(head).unwrap().to_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).expect("no length");
    let mut body = vec![0; length.parse().unwrap()];
    stream.read_exact(&mut body).await.unwrap();
    (head, String::from_utf8(body).unwrap())
}

#[tokio::test]
async fn the_rest_of_a_body_that_was_not_wanted_is_read() {
    let served = Served::new(b"http/1.1").await;
    let mut stream = served.connect().await.unwrap();
    // Twice: the connection is as good as before.
    for _ in 0..2 {
        let body = vec![b'x'; 200 << 10];
        let length = format!("content-length: {}\r\n", body.len());
        stream.write_all(head("POST", WIDGETS, &length).as_bytes()).await.unwrap();
        // In two pieces, the second one after the answer.
        stream.write_all(&body[..100]).await.unwrap();
        let (head, text) = answer(&mut stream).await;
        assert!(head.starts_with("http/1.1 401"), "{head}");
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap()["reason"], "Unauthorized");
        stream.write_all(&body[100..]).await.unwrap();
    }
}

#[tokio::test]
async fn a_client_that_sends_before_it_reads_finds_the_answer_to_a_long_body() {
    let served = Served::new(b"http/1.1").await;
    let mut stream = served.connect().await.unwrap();
    let body = vec![b'x'; 700 << 10];
    let length = format!("content-length: {}\r\n", body.len());
    stream.write_all(head("POST", WIDGETS, &length).as_bytes()).await.unwrap();
    for piece in body.chunks(64 << 10) {
        stream.write_all(piece).await.expect("the connection was reset while the client was sending");
        tokio::task::yield_now().await;
    }
    let (head, _) = answer(&mut stream).await;
    assert!(head.starts_with("http/1.1 401") && head.contains("connection: close"), "{head}");
    assert_eq!(stream.read(&mut [0; 8]).await.unwrap(), 0, "the connection goes on");
}

#[tokio::test]
async fn an_early_answer_leaves_the_other_streams_of_a_connection_alone() {
    let served = Served::new(b"h2").await;
    let stream = TokioIo::new(served.connect().await.unwrap());
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    let connection = tokio::spawn(connection);
    for size in [10, 200 << 10, 4 << 20] {
        let body = Full::new(Bytes::from(vec![b'x'; size]));
        let request = Request::post(format!("https://localhost{WIDGETS}")).body(body).unwrap();
        let answer = sender.send_request(request).await.unwrap();
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "{size}");
        let text = answer.into_body().collect().await.unwrap().to_bytes();
        assert!(String::from_utf8_lossy(&text).contains("Unauthorized"), "{size}");
    }
    drop(sender);
    connection.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_connection_that_began_with_a_health_check_takes_other_requests() {
    let served = Served::new(b"http/1.1").await;
    let mut stream = served.connect().await.unwrap();
    for path in ["/healthz", "/readyz", WIDGETS, "/livez/ping", WIDGETS] {
        stream.write_all(head("GET", path, "authorization: Bearer tester\r\n").as_bytes()).await.unwrap();
        let (head, _) = answer(&mut stream).await;
        assert!(head.starts_with("http/1.1 200"), "{path}: {head}");
    }
    let served = Served::new(b"h2").await;
    let stream = TokioIo::new(served.connect().await.unwrap());
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    let connection = tokio::spawn(connection);
    for path in ["/healthz", WIDGETS, "/readyz", WIDGETS] {
        let request = Request::get(format!("https://localhost{path}")).header("authorization", "Bearer tester");
        let answer = sender.send_request(request.body(Full::new(Bytes::new())).unwrap()).await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK, "{path}");
        answer.into_body().collect().await.unwrap();
    }
    drop(sender);
    connection.await.unwrap().unwrap();
}

#[tokio::test]
async fn watches_end_in_order_when_the_server_stops() {
    let served = Served::new(b"http/1.1").await;
    served.harness.widget("a").await;
    let mut stream = served.connect().await.unwrap();
    let watch = head("GET", &format!("{WIDGETS}?watch=1"), "authorization: Bearer tester\r\n");
    stream.write_all(watch.as_bytes()).await.unwrap();
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).contains("ADDED") {
        assert_ne!(stream.read_buf(&mut seen).await.unwrap(), 0, "{}", String::from_utf8_lossy(&seen));
    }
    let mut idle = served.connect().await.unwrap();
    idle.write_all(head("GET", "/healthz", "authorization: Bearer tester\r\n").as_bytes()).await.unwrap();
    answer(&mut idle).await;
    served.harness.shutdown.cancel();
    stream.read_to_end(&mut seen).await.unwrap();
    let text = String::from_utf8_lossy(&seen);
    assert!(text.ends_with("\r\n0\r\n\r\n"), "the stream was cut: {text}");
    assert_eq!(idle.read(&mut [0; 8]).await.unwrap(), 0, "a connection without requests goes on");
    drop((stream, idle));
    let mut served = served;
    (&mut served.listening).await.unwrap();
    assert!(served.connect().await.is_err(), "connections are still taken");
}

#[tokio::test]
async fn a_server_that_is_about_to_stop_is_not_ready_and_serves() {
    let harness = Harness::new().await;
    harness.get("/readyz").await.expect_code(200);
    harness.server.begin_stop();
    harness.get("/readyz").await.expect_code(500);
    harness.get("/readyz/shutdown").await.expect_code(500);
    harness.get("/livez").await.expect_code(200);
    harness.post(WIDGETS, &widget_named("late")).await.expect(201);
}

#[tokio::test]
async fn requests_that_run_when_the_server_stops_end_and_later_ones_are_sent_away() {
    let served = Served::new(b"http/1.1").await;
    let mut running = served.connect().await.unwrap();
    let body = widget_named("acknowledged").to_string();
    let more =
        format!("authorization: Bearer tester\r\ncontent-type: application/json\r\ncontent-length: {}\r\n", body.len());
    running.write_all(head("POST", WIDGETS, &more).as_bytes()).await.unwrap();
    running.write_all(&body.as_bytes()[..10]).await.unwrap();
    while served.harness.server.in_flight.writes.load(std::sync::atomic::Ordering::Relaxed) == 0 {
        tokio::task::yield_now().await;
    }
    let server = Arc::clone(&served.harness.server);
    let ending = tokio::spawn(async move { server.refuse_new_requests().await });
    let mut late = served.connect().await.unwrap();
    let (said, text) = loop {
        late.write_all(head("GET", WIDGETS, "authorization: Bearer tester\r\n").as_bytes()).await.unwrap();
        let answer = answer(&mut late).await;
        if !answer.0.starts_with("http/1.1 200") {
            break answer;
        }
    };
    assert!(said.starts_with("http/1.1 429") && said.contains("retry-after: 5"), "{said}");
    assert!(said.contains("connection: close") && text.contains("shutting down"), "{said}{text}");
    assert_eq!(late.read(&mut [0; 8]).await.unwrap(), 0, "the connection goes on");
    // Whoever looks at the server, and what runs in this process, is still served.
    let mut probe = served.connect().await.unwrap();
    probe.write_all(head("GET", "/readyz", "authorization: Bearer tester\r\n").as_bytes()).await.unwrap();
    assert!(answer(&mut probe).await.0.starts_with("http/1.1 200"));
    served.harness.get(WIDGETS).await.expect(200);
    assert!(!ending.is_finished(), "a request still runs");
    running.write_all(&body.as_bytes()[10..]).await.unwrap();
    assert!(answer(&mut running).await.0.starts_with("http/1.1 201"));
    ending.await.unwrap();
    served.harness.get(&format!("{WIDGETS}/acknowledged")).await.expect(200);
}

#[tokio::test]
async fn watches_are_ended_one_by_one_before_the_server_stops() {
    let harness = Harness::new().await;
    harness.widget("a").await;
    let mut watches = Vec::new();
    for _ in 0..5 {
        let mut events = Events::open(&harness, &format!("{WIDGETS}?watch=1")).await;
        assert_eq!(events.step().await, "ADDED a");
        watches.push(events);
    }
    let began = tokio::time::Instant::now();
    harness.server.drain_watches(std::time::Duration::from_secs(10)).await;
    assert!(began.elapsed().as_secs() < 5, "few watches need little of the time");
    for mut events in watches {
        assert!(events.next().await.is_none(), "the watch goes on");
    }
    harness.get(WIDGETS).await.expect(200);
}
