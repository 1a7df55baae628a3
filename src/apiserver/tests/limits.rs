//! What clients cannot do: take forever, take too much, ask for too much at once.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::client::TlsStream;

use super::harness::{Events, Harness, WIDGETS, widget_named};
use super::serving::{Served, answer, head};

/// Seconds until the server closes the connection, in paused time: nothing but timers moves it.
async fn closed_after(stream: &mut TlsStream<TcpStream>) -> u64 {
    tokio::time::pause();
    let began = Instant::now();
    let mut rest = Vec::new();
    // How the other end closes does not matter here.
    let _closed = stream.read_to_end(&mut rest).await;
    assert!(rest.is_empty(), "{}", String::from_utf8_lossy(&rest));
    began.elapsed().as_secs()
}

#[tokio::test]
async fn a_head_that_does_not_end_is_not_waited_for() {
    let served = Served::on_one_runtime(b"http/1.1").await;
    let mut stream = served.connect().await.unwrap();
    stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: local").await.unwrap();
    let seconds = closed_after(&mut stream).await;
    assert!((31..=33).contains(&seconds), "{seconds}");
}

#[tokio::test]
async fn a_connection_without_requests_ends_after_a_while() {
    let served = Served::on_one_runtime(b"http/1.1").await;
    let mut stream = served.connect().await.unwrap();
    stream.write_all(head("GET", "/healthz", "authorization: Bearer tester\r\n").as_bytes()).await.unwrap();
    answer(&mut stream).await;
    let seconds = closed_after(&mut stream).await;
    assert!((89..=91).contains(&seconds), "{seconds}");

    tokio::time::resume();
    let served = Served::on_one_runtime(b"h2").await;
    let stream = TokioIo::new(served.connect().await.unwrap());
    let (sender, connection) =
        hyper::client::conn::http2::handshake::<_, _, Full<Bytes>>(TokioExecutor::new(), stream).await.unwrap();
    tokio::time::pause();
    let began = Instant::now();
    // In order: with a GOAWAY, so that no request can be lost.
    connection.await.unwrap();
    assert!((89..=91).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    drop(sender);
}

#[tokio::test]
async fn a_body_that_does_not_come_is_waited_for_as_long_as_a_request_may_take() {
    let served = Served::on_one_runtime(b"http/1.1").await;
    let mut stream = served.connect().await.unwrap();
    let more = "authorization: Bearer tester\r\ncontent-type: application/json\r\ncontent-length: 10\r\n";
    stream.write_all(head("POST", WIDGETS, more).as_bytes()).await.unwrap();
    tokio::time::pause();
    let began = Instant::now();
    let (head, text) = answer(&mut stream).await;
    assert!((59..=61).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    assert!(head.starts_with("http/1.1 504"), "{head}");
    let status: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(status["message"], "Timeout: request did not complete within the allotted timeout");
}

async fn large_widgets(harness: &Harness) {
    for name in ["a", "b", "c"] {
        let mut widget = widget_named(name);
        widget["spec"]["color"] = json!("x".repeat(1 << 20));
        harness.post(WIDGETS, &widget).await.expect(201);
    }
}

#[tokio::test]
async fn an_answer_that_is_not_taken_is_cut_off() {
    let served = Served::on_one_runtime(b"h2").await;
    large_widgets(&served.harness).await;
    let stream = TokioIo::new(served.connect().await.unwrap());
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let get = |path: &str| {
        let request = Request::get(format!("https://localhost{path}")).header("authorization", "Bearer tester");
        request.body(Full::new(Bytes::new())).unwrap()
    };
    let list = sender.send_request(get(WIDGETS)).await.unwrap();
    assert_eq!(list.status(), StatusCode::OK);
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(61)).await;
    tokio::time::resume();
    assert!(list.into_body().collect().await.is_err(), "the whole list came late");
    // Only that stream is gone.
    let health = sender.send_request(get("/healthz")).await.unwrap();
    assert_eq!(health.status(), StatusCode::OK);
    drop((sender, health));
    drop(connection);
}

#[tokio::test]
async fn a_watcher_that_does_not_read_is_closed() {
    let h = Harness::new().await;
    h.widget("a").await;
    let mut events = Events::open(&h, &format!("{WIDGETS}?watch=1")).await;
    assert_eq!(events.step().await, "ADDED a");
    let path = format!("{WIDGETS}/a");
    // Bytes count beyond a usual burst: a hundred changes of 100 kB.
    for n in 0..110 {
        let color = format!("{n}{}", "x".repeat(100 << 10));
        h.patch(&path, "application/merge-patch+json", &json!({"spec": {"color": color}})).await.expect(200);
    }
    let mut seen = 0;
    while events.next().await.is_some() {
        seen += 1;
    }
    assert!(seen < 110, "{seen}");
    let metrics = h.get("/metrics").await.text;
    let cut = "apiserver_terminated_watchers_total{group=\"test.io\",resource=\"widgets\"} 1\n";
    assert!(metrics.contains(cut), "{metrics}");
    // Its client begins again.
    let mut events = Events::open(&h, &format!("{WIDGETS}?watch=1")).await;
    assert_eq!(events.step().await, "ADDED a");
}

/// Frames of HTTP/2 by hand, for what no well-behaved client does.
struct Frames(TlsStream<TcpStream>);

/// `GET /` of localhost: three entries of HPACK's static table and a literal.
const HEADERS: &[u8] = b"\x82\x87\x84\x41\x09localhost";

impl Frames {
    async fn open(served: &Served) -> Self {
        let mut stream = served.connect().await.unwrap();
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        let mut frames = Self(stream);
        frames.send(4, 0, 0, &[]).await;
        frames
    }

    async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        // The server may have closed; what it said before is read.
        let _closed = self.0.write_all(&frame).await;
    }

    /// The next frame of a kind; `None` at the end.
    async fn next(&mut self, kind: u8) -> Option<Vec<u8>> {
        loop {
            let mut head = [0; 9];
            self.0.read_exact(&mut head).await.ok()?;
            let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
            self.0.read_exact(&mut payload).await.ok()?;
            if head[3] == kind {
                return Some(payload);
            }
        }
    }
}

#[tokio::test]
async fn a_connection_has_a_bounded_number_of_streams_and_bytes() {
    let served = Served::on_one_runtime(b"h2").await;
    let mut frames = Frames::open(&served).await;
    let settings = frames.next(4).await.unwrap();
    let setting = |id: u8| {
        let found = settings.chunks(6).find(|s| s[..2] == [0, id]);
        found.map(|s| u32::from_be_bytes([s[2], s[3], s[4], s[5]]))
    };
    // Upstream's numbers: streams, window of a stream, size of a frame, size of heads.
    let told = [3, 4, 5, 6].map(setting);
    assert_eq!(told, [Some(100), Some(256 << 10), Some(256 << 10), Some(1 << 20)]);
}

#[tokio::test]
async fn streams_that_are_reset_as_soon_as_they_are_opened_end_the_connection() {
    let served = Served::on_one_runtime(b"h2").await;
    let mut frames = Frames::open(&served).await;
    for n in 0..500u32 {
        frames.send(1, 0x4 | 0x1, 2 * n + 1, HEADERS).await;
        frames.send(3, 0, 2 * n + 1, &8u32.to_be_bytes()).await;
    }
    const ENHANCE_YOUR_CALM: u8 = 0xb;
    let goaway = frames.next(7).await.expect("the connection goes on");
    assert_eq!(goaway.get(7), Some(&ENHANCE_YOUR_CALM), "{goaway:?}");
}
