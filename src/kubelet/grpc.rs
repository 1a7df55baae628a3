//! One unary gRPC call over a fresh connection, plain HTTP/2: what probes and CSI plugins need of gRPC.

use http::{Request, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};

/// Compression flag and length before each message.
const PREFIX: usize = 5;

/// Why a call gave no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GrpcError {
    /// The server's own word.
    #[error("rpc error: code = {} desc = {message}", code_name(*code))]
    Status { code: u32, message: String },
    #[error("{0}")]
    Transport(String),
}

impl GrpcError {
    /// The server does not know the method.
    pub const UNIMPLEMENTED: u32 = 12;
    pub const NOT_FOUND: u32 = 5;

    pub fn code(&self) -> Option<u32> {
        match self {
            Self::Status { code, .. } => Some(*code),
            Self::Transport(_) => None,
        }
    }
}

/// As Go's `codes.Code` prints.
fn code_name(code: u32) -> &'static str {
    usize::try_from(code).ok().and_then(|i| base::grpc::CODES.get(i)).copied().unwrap_or("Unknown")
}

/// Calls `path` (`/package.Service/Method`) on a connection of its own. `authority` names the server to itself.
///
/// # Errors
/// [`GrpcError`]; time limits are the caller's.
pub async fn unary<S, A>(
    stream: S,
    authority: &str,
    (path, user_agent): (&str, &'static str),
    request: &impl Message,
) -> Result<A, GrpcError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    A: Message + Default,
{
    let text = |e: hyper::Error| GrpcError::Transport(base::chain(&e).to_string());
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.map_err(text)?;
    let message = request.encode_to_vec();
    let mut frame = Vec::with_capacity(PREFIX + message.len());
    frame.push(0);
    frame.extend_from_slice(&u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes());
    frame.extend_from_slice(&message);
    let request = Request::post(format!("http://{authority}{path}"))
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .header(header::USER_AGENT, user_agent)
        .body(Full::new(Bytes::from(frame)))
        .map_err(|e| GrpcError::Transport(e.to_string()))?;
    let exchange = async move {
        let response = sender.send_request(request).await.map_err(text)?;
        let mut headers = response.headers().clone();
        let body = response.into_body().collect().await.map_err(text)?;
        if let Some(trailers) = body.trailers() {
            headers.extend(trailers.clone());
        }
        let get = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
        match get("grpc-status").parse().unwrap_or(0) {
            0 => {}
            code => return Err(GrpcError::Status { code, message: base::percent_decode(get("grpc-message"), false) }),
        }
        let bytes = body.to_bytes();
        let payload =
            bytes.get(PREFIX..).ok_or_else(|| GrpcError::Transport("the answer has no message".to_owned()))?;
        A::decode(payload).map_err(|e| GrpcError::Transport(e.to_string()))
    };
    tokio::pin!(exchange);
    tokio::select! {
        biased;
        answer = &mut exchange => answer,
        ended = connection => match ended {
            Ok(()) => exchange.await,
            Err(error) => Err(text(error)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_read_as_gos() {
        let error = GrpcError::Status { code: 5, message: base::percent_decode("no%20such volume", false) };
        assert_eq!(error.to_string(), "rpc error: code = NotFound desc = no such volume");
        assert_eq!(code_name(99), "Unknown");
    }
}
