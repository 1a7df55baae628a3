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

use super::remote::{Out, Streams, Wanted};

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
        tokio::pin!(write);
        tokio::select! {
            biased;
            () = session => write.await,
            () = &mut write => closed.cancel(),
            () = read => {}
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
}
