//! Channels over a WebSocket: the first byte (or digit) of a message names the channel (upstream `httpstream/wsstream`
//! and `remotecommand/websocket.go`).

use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use axum::extract::{FromRequestParts, Request};
use axum::response::{IntoResponse, Response};
use base::Shutdown;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::stream::SplitSink;
use futures::{SinkExt, StreamExt};
use http::{HeaderMap, header};
use tokio::sync::mpsc;

use super::remote::{LINGER, Out, Streams, Wanted};

/// Subprotocols of exec and attach; those with `base64` carry text.
const PROTOCOLS: [&str; 6] = [
    "v5.channel.k8s.io",
    "v4.channel.k8s.io",
    "v4.base64.channel.k8s.io",
    "channel.k8s.io",
    "base64.channel.k8s.io",
    "",
];
const QUEUE: usize = 64;
const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
/// v5: the channel named next has ended.
const CLOSE: u8 = 255;

/// Whether the request asks for a WebSocket.
pub(super) fn is_wanted(headers: &HeaderMap) -> bool {
    headers.get(header::UPGRADE).and_then(|v| v.to_str().ok()).is_some_and(|v| v.eq_ignore_ascii_case("websocket"))
}

/// Sends on one channel.
#[derive(Clone)]
pub(super) struct ChannelWriter {
    channel: u8,
    base64: bool,
    out: mpsc::Sender<Message>,
}

impl ChannelWriter {
    pub fn new(channel: u8, base64: bool, out: mpsc::Sender<Message>) -> Self {
        Self { channel, base64, out }
    }

    /// Returns whether the connection still takes data.
    pub async fn send(&self, data: Bytes) -> bool {
        let message = if self.base64 {
            let digit = char::from(b'0' + self.channel);
            Message::text(format!("{digit}{}", STANDARD.encode(&data)))
        } else {
            let mut bytes = Vec::with_capacity(data.len() + 1);
            bytes.push(self.channel);
            bytes.extend_from_slice(&data);
            Message::binary(bytes)
        };
        self.out.send(message).await.is_ok()
    }
}

/// Takes the upgrade of a request; `Err` is the answer to a request that is no proper one.
pub(super) async fn accept(request: Request) -> Result<WebSocketUpgrade, Response> {
    let (mut parts, _) = request.into_parts();
    WebSocketUpgrade::from_request_parts(&mut parts, &()).await.map_err(IntoResponse::into_response)
}

/// Sends queued messages; closes the WebSocket when the queue ends.
pub(super) async fn write_all(mut sink: SplitSink<WebSocket, Message>, mut queue: mpsc::Receiver<Message>) {
    while let Some(message) = queue.recv().await {
        if sink.feed(message).await.is_err() {
            return;
        }
        if queue.is_empty() && sink.flush().await.is_err() {
            return;
        }
    }
    let close = Message::Close(Some(CloseFrame { code: 1000, reason: "".into() }));
    // The peer may have closed first.
    let _sent = sink.send(close).await;
    let _closed = sink.close().await;
}

/// Answers an exec or attach over a WebSocket; `serve` runs the session.
pub(super) async fn upgrade_remote<F, Fut>(request: Request, wanted: Wanted, serve: F) -> Response
where
    F: FnOnce(Streams) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send,
{
    let upgrade = match accept(request).await {
        Ok(upgrade) => upgrade,
        Err(refused) => return refused,
    };
    let upgrade = upgrade.protocols(PROTOCOLS);
    upgrade.on_upgrade(move |socket| async move {
        let protocol = socket.protocol().and_then(|p| p.to_str().ok()).unwrap_or_default().to_owned();
        let base64 = protocol.contains("base64");
        let status = protocol.starts_with("v4") || protocol.starts_with("v5");
        let (sink, mut source) = socket.split();
        let (out, queue) = mpsc::channel(QUEUE);
        let writer = |channel| Out::WebSocket(ChannelWriter::new(channel, base64, out.clone()));
        let (stdin, stdin_receiver) = mpsc::channel(QUEUE);
        let (resize, resize_receiver) = mpsc::channel(QUEUE);
        let closed = Shutdown::new();
        let streams = Streams {
            stdin: wanted.stdin.then_some(stdin_receiver),
            resize: wanted.tty.then_some(resize_receiver),
            stdout: wanted.stdout.then(|| writer(STDOUT)),
            stderr: wanted.stderr.then(|| writer(STDERR)),
            error: Some(writer(ERROR)),
            status,
            closed: closed.clone(),
        };
        // Tells the client that the connection stands (upstream `createWebSocketStreams`).
        let greeting = if wanted.stdout {
            STDOUT
        } else if wanted.stderr {
            STDERR
        } else {
            ERROR
        };
        ChannelWriter::new(greeting, base64, out.clone()).send(Bytes::new()).await;
        drop(out);
        let session = serve(streams);
        let read = async {
            let mut inputs = Inputs { stdin: Some(stdin), resize: Some(resize) };
            while let Some(Ok(message)) = source.next().await {
                inputs.take(message, base64).await;
            }
            drop(inputs);
            closed.cancel();
            std::future::pending::<()>().await;
        };
        let write = write_all(sink, queue);
        tokio::pin!(session, read, write);
        let mut writes = true;
        loop {
            tokio::select! {
                biased;
                () = &mut session => break,
                () = &mut write, if writes => {
                    writes = false;
                    closed.cancel();
                }
                () = &mut read => {}
            }
        }
        if writes {
            write.await;
            // The client closes the connection when it has read the end.
            let left = async {
                tokio::select! {
                    biased;
                    () = closed.cancelled() => {}
                    () = read => {}
                }
            };
            let _left = tokio::time::timeout(LINGER, left).await;
        }
    })
}

/// Where the client's messages go.
struct Inputs {
    stdin: Option<mpsc::Sender<Bytes>>,
    resize: Option<mpsc::Sender<Bytes>>,
}

impl Inputs {
    async fn take(&mut self, message: Message, base64: bool) {
        let Some((channel, data)) = split(message, base64) else { return };
        let to = match channel {
            STDIN => &self.stdin,
            RESIZE => &self.resize,
            CLOSE => {
                if data.first() == Some(&STDIN) {
                    self.stdin = None;
                }
                return;
            }
            _ => return,
        };
        if let Some(to) = to
            && !data.is_empty()
        {
            // The session may have ended: then nobody reads.
            let _read = to.send(data).await;
        }
    }
}

/// A message as channel and data.
pub(super) fn split(message: Message, base64: bool) -> Option<(u8, Bytes)> {
    let bytes = match message {
        Message::Binary(bytes) => bytes,
        Message::Text(text) => Bytes::copy_from_slice(text.as_bytes()),
        Message::Ping(_) | Message::Pong(_) | Message::Close(_) => return None,
    };
    let first = *bytes.first()?;
    let rest = bytes.slice(1..);
    if !base64 {
        return Some((first, rest));
    }
    let decoded = STANDARD.decode(&rest).ok()?;
    Some((first.checked_sub(b'0')?, Bytes::from(decoded)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_name_their_channel() {
        assert_eq!(split(Message::binary(vec![0, b'a']), false), Some((0, Bytes::from("a"))));
        assert_eq!(split(Message::text("0YQ=="), true), Some((0, Bytes::from("a"))));
        assert_eq!(split(Message::binary(Vec::new()), false), None);
    }

    /// A session over a WebSocket of which the client sends these bytes after the handshake. It ends; what it read is
    /// bounded by what was sent.
    async fn serve_bytes(sent: &[u8], protocol: &str) {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let (client, server) = tokio::io::duplex(1 << 10);
        let service = hyper::service::service_fn(|request: http::Request<hyper::body::Incoming>| async move {
            let wanted = Wanted { stdin: true, stdout: true, stderr: true, tty: true };
            let request = request.map(axum::body::Body::new);
            let answer = upgrade_remote(request, wanted, |mut streams: Streams| async move {
                let (stdin, resize) = (streams.stdin.take(), streams.resize.take());
                let drain = |queue: Option<mpsc::Receiver<Bytes>>| async move {
                    let Some(mut queue) = queue else { return };
                    while queue.recv().await.is_some() {}
                };
                tokio::join!(drain(stdin), drain(resize));
            });
            Ok::<_, std::convert::Infallible>(answer.await)
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .serve_connection(hyper_util::rt::TokioIo::new(server), service)
            .with_upgrades();
        let head = format!(
            "GET /exec HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
             sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-protocol: {protocol}\r\n\r\n"
        );
        let talk = async move {
            let (mut read, mut write) = tokio::io::split(client);
            let mut answer = Vec::new();
            let _head = write.write_all(head.as_bytes()).await;
            while !answer.windows(4).any(|end| end == b"\r\n\r\n")
                && read.read_buf(&mut answer).await.is_ok_and(|count| count > 0)
            {}
            assert!(answer.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&answer));
            let send = async {
                // The server may have closed before everything was sent.
                let _frames = write.write_all(sent).await;
                let _end = write.shutdown().await;
            };
            // How the connection ends does not matter here, but that it does.
            let (_, _end) = tokio::join!(send, read.read_to_end(&mut answer));
        };
        let both = futures::future::join(connection, talk);
        assert!(
            tokio::time::timeout(std::time::Duration::from_secs(30), both).await.is_ok(),
            "the session does not end"
        );
    }

    fn run(sent: &[u8], protocol: &str) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(serve_bytes(sent, protocol));
    }

    fn protocols() -> impl proptest::strategy::Strategy<Value = &'static str> {
        proptest::sample::select(PROTOCOLS[..5].to_vec())
    }

    /// Frames that are masked as a client's are, mostly, and whose lengths are right, mostly.
    fn frames() -> impl proptest::strategy::Strategy<Value = Vec<u8>> {
        use proptest::prelude::*;
        let channel = prop_oneof![0u8..6, Just(CLOSE), b'0'..=b'9'];
        let data = prop_oneof![
            prop::collection::vec(any::<u8>(), 0..40),
            prop::sample::select(vec!["YQ==", "{\"Width\":80,\"Height\":24}", "\0", "=", ""])
                .prop_map(|text| text.as_bytes().to_vec()),
        ];
        let lie = prop_oneof![9 => Just(0i8), 1 => -3i8..4];
        let frame = (any::<[bool; 2]>(), 0u8..16, prop::bool::weighted(0.9), channel, data, any::<[u8; 4]>(), lie);
        prop::collection::vec(frame, 0..8).prop_map(|frames| {
            let mut out = Vec::new();
            for ([last, extended], opcode, masked, channel, data, mask, lie) in frames {
                let mut payload = vec![channel];
                payload.extend(data);
                out.push(u8::from(last) << 7 | opcode);
                let length = payload.len().saturating_add_signed(isize::from(lie));
                if extended {
                    out.push(u8::from(masked) << 7 | 126);
                    out.extend_from_slice(&u16::try_from(length).unwrap().to_be_bytes());
                } else {
                    out.push(u8::from(masked) << 7 | u8::try_from(length).unwrap().min(125));
                }
                if masked {
                    out.extend_from_slice(&mask);
                    payload.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
                }
                out.extend_from_slice(&payload);
            }
            out
        })
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig {
            failure_persistence: None,
            ..proptest::prelude::ProptestConfig::default()
        })]

        #[test]
        fn no_bytes_after_the_handshake_panic(
            bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200), protocol in protocols(),
        ) {
            run(&bytes, protocol);
        }

        #[test]
        fn no_frames_panic(bytes in frames(), protocol in protocols()) {
            run(&bytes, protocol);
        }

        #[test]
        fn no_message_panics(text in "\\PC{0,20}", bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..40)) {
            for base64 in [true, false] {
                let _text = split(Message::text(text.clone()), base64);
                let _binary = split(Message::binary(bytes.clone()), base64);
            }
        }
    }
}
