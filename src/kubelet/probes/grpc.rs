//! Probing by the gRPC health protocol (`grpc.health.v1.Health/Check`), one unary call over plain HTTP/2.

use std::time::Duration;

use http::{Request, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;

use super::{Outcome, tcp};

#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

const SERVING: i32 = 1;
/// Compression flag and length before each message.
const PREFIX: usize = 5;

pub async fn probe(host: &str, port: u16, service: &str, timeout: Duration) -> Outcome {
    let address = tcp::address(host, port);
    let stream = match tokio::time::timeout(timeout, tcp::connect(host, port)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(_)) | Err(_) => {
            let within = timeout.as_secs();
            return Outcome::Failure(format!(
                "timeout: failed to connect service {address:?} within {within}s: context deadline exceeded"
            ));
        }
    };
    match tokio::time::timeout(timeout, check(stream, &address, service)).await {
        Ok(outcome) => outcome,
        Err(_) => Outcome::Failure(format!("timeout: health rpc did not complete within {}s", timeout.as_secs())),
    }
}

async fn check(stream: tokio::net::TcpStream, address: &str, service: &str) -> Outcome {
    match call(stream, address, service).await {
        Ok(Call::Answer(SERVING)) => Outcome::Success,
        Ok(Call::Answer(status)) => {
            let name = match status {
                0 => "UNKNOWN".to_owned(),
                2 => "NOT_SERVING".to_owned(),
                3 => "SERVICE_UNKNOWN".to_owned(),
                other => other.to_string(),
            };
            Outcome::Failure(format!("service unhealthy (responded with {name:?})"))
        }
        Ok(Call::Unimplemented) => Outcome::Failure(
            "this server does not implement the grpc health protocol (grpc.health.v1.Health)".to_owned(),
        ),
        Ok(Call::Status(code, message)) => Outcome::Failure(format!("rpc error: code = {code} desc = {message}")),
        Err(error) => Outcome::Failure(format!("error: health rpc probe failed: {error}")),
    }
}

enum Call {
    Answer(i32),
    Unimplemented,
    Status(u32, String),
}

async fn call(stream: tokio::net::TcpStream, address: &str, service: &str) -> Result<Call, String> {
    let text = |e: hyper::Error| base::chain(&e).to_string();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.map_err(text)?;
    let message = HealthCheckRequest { service: service.to_owned() }.encode_to_vec();
    let mut frame = vec![0];
    frame.extend_from_slice(&u32::try_from(message.len()).unwrap_or(0).to_be_bytes());
    frame.extend_from_slice(&message);
    let request = Request::post(format!("http://{address}/grpc.health.v1.Health/Check"))
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .header(header::USER_AGENT, "kube-probe/1.37")
        .body(Full::new(Bytes::from(frame)))
        .map_err(|e| e.to_string())?;
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
            12 => return Ok(Call::Unimplemented),
            code => return Ok(Call::Status(code, get("grpc-message").to_owned())),
        }
        let bytes = body.to_bytes();
        let payload = bytes.get(PREFIX..).ok_or("the answer has no message")?;
        let answer = HealthCheckResponse::decode(payload).map_err(|e| e.to_string())?;
        Ok(Call::Answer(answer.status))
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
