//! Watches and logs over WebSocket (apimachinery `util/httpstream/wsstream`).

use std::future::Future;

use api::Status;
use axum::body::Body;
use axum::extract::FromRequestParts;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::StreamExt;
use http::HeaderMap;
use http::header::UPGRADE;
use http::request::Parts;

use crate::respond::Response;
use crate::verbs::watch::Frames;

/// Sub-protocol whose messages are base64 text.
const BASE64: &str = "base64.binary.k8s.io";
const BINARY: &str = "binary.k8s.io";

/// Whether the client asks for a WebSocket.
pub fn is_websocket(headers: &HeaderMap) -> bool {
    headers.get(UPGRADE).and_then(|v| v.to_str().ok()).is_some_and(|v| v.eq_ignore_ascii_case("websocket"))
}

async fn upgrade<F>(
    parts: &mut Parts,
    protocols: &[&'static str],
    run: impl FnOnce(WebSocket) -> F + Send + 'static,
) -> Result<Response, Status>
where
    F: Future<Output = ()> + Send + 'static,
{
    let upgrade =
        WebSocketUpgrade::from_request_parts(parts, &()).await.map_err(|e| Status::bad_request(e.to_string()))?;
    Ok(upgrade.protocols(protocols.iter().copied()).on_upgrade(run))
}

/// Sends every event of a watch as a text message of its own.
pub async fn watch(parts: &mut Parts, mut frames: Frames) -> Result<Response, Status> {
    upgrade(parts, &[], move |mut socket| async move {
        loop {
            tokio::select! {
                biased;
                batch = frames.next() => {
                    let Some(batch) = batch else { break };
                    for line in batch.split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
                        let text = String::from_utf8_lossy(line).into_owned();
                        // The client has gone: so has its watch.
                        if socket.send(Message::Text(text.into())).await.is_err() {
                            return;
                        }
                    }
                }
                // Nothing the client says matters, but its going does.
                message = socket.recv() => if !matches!(message, Some(Ok(_))) {
                    return;
                }
            }
        }
        // A client that has gone already needs no farewell.
        drop(socket.send(Message::Close(None)).await);
    })
    .await
}

/// Sends a body as messages, in the encoding that the client's sub-protocol names.
pub async fn body(parts: &mut Parts, body: Body) -> Result<Response, Status> {
    upgrade(parts, &[BINARY, BASE64], move |mut socket| async move {
        let base64 = socket.protocol().is_some_and(|p| p.as_bytes() == BASE64.as_bytes());
        let message = |chunk: Bytes| {
            if base64 { Message::Text(STANDARD.encode(&chunk).into()) } else { Message::Binary(chunk) }
        };
        // Upstream begins with an empty message, so that clients see that they are connected.
        if socket.send(message(Bytes::new())).await.is_err() {
            return;
        }
        let mut stream = body.into_data_stream();
        loop {
            tokio::select! {
                biased;
                chunk = stream.next() => match chunk {
                    Some(Ok(chunk)) => if socket.send(message(chunk)).await.is_err() {
                        return;
                    },
                    Some(Err(error)) => {
                        tracing::debug!(%error, "stream ended with an error");
                        break;
                    }
                    None => break,
                },
                message = socket.recv() => if !matches!(message, Some(Ok(_))) {
                    return;
                }
            }
        }
        drop(socket.send(Message::Close(None)).await);
    })
    .await
}
