//! gRPC's health service: etcd serves it for every service name at once (server/etcdserver/api/v3rpc/health.go).

use std::pin::Pin;

use futures::{Stream, StreamExt, stream};
use tonic::{Request, Response, Status, async_trait};

use super::Service;
use super::pb::health::health_check_response::ServingStatus;
use super::pb::health::health_server::Health;
use super::pb::health::{HealthCheckRequest, HealthCheckResponse};

#[async_trait]
impl Health for Service {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        if !request.get_ref().service.is_empty() {
            return Err(Status::not_found("unknown service"));
        }
        Ok(Response::new(HealthCheckResponse { status: ServingStatus::Serving as i32 }))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    /// Serving, until the end.
    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let known = request.get_ref().service.is_empty();
        let first = if known { ServingStatus::Serving } else { ServingStatus::ServiceUnknown };
        let answer = |status: ServingStatus| Ok(HealthCheckResponse { status: status as i32 });
        let ended = self.shutdown.clone().cancelled_owned();
        let last = stream::once(async move {
            ended.await;
            answer(ServingStatus::NotServing)
        });
        Ok(Response::new(stream::once(async move { answer(first) }).chain(last).boxed()))
    }
}
