//! Probing by the gRPC health protocol (`grpc.health.v1.Health/Check`), one unary call over plain HTTP/2.

use std::time::Duration;

use super::{Outcome, tcp};
use crate::grpc::{GrpcError, unary};

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
    let request = HealthCheckRequest { service: service.to_owned() };
    let method = ("/grpc.health.v1.Health/Check", "kube-probe/1.37");
    match unary::<_, HealthCheckResponse>(stream, address, method, &request).await {
        Ok(HealthCheckResponse { status: SERVING }) => Outcome::Success,
        Ok(HealthCheckResponse { status }) => {
            let name = match status {
                0 => "UNKNOWN".to_owned(),
                2 => "NOT_SERVING".to_owned(),
                3 => "SERVICE_UNKNOWN".to_owned(),
                other => other.to_string(),
            };
            Outcome::Failure(format!("service unhealthy (responded with {name:?})"))
        }
        Err(error) if error.code() == Some(GrpcError::UNIMPLEMENTED) => Outcome::Failure(
            "this server does not implement the grpc health protocol (grpc.health.v1.Health)".to_owned(),
        ),
        Err(GrpcError::Status { code, message }) => {
            Outcome::Failure(format!("rpc error: code = {code} desc = {message}"))
        }
        Err(GrpcError::Transport(error)) => Outcome::Failure(format!("error: health rpc probe failed: {error}")),
    }
}
