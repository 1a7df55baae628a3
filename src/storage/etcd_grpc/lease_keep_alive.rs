//! Lease.LeaseKeepAlive.

use std::pin::Pin;

use futures::{Stream, StreamExt, stream};
use tonic::{Status, Streaming};

use super::Service;
use super::errors::status;
use super::pb::{LeaseKeepAliveRequest, LeaseKeepAliveResponse};
use crate::store::{LeaseId, Store, StoreError};

pub(super) type Answers = Pin<Box<dyn Stream<Item = Result<LeaseKeepAliveResponse, Status>> + Send>>;

/// Answers each request in turn; a lease that does not exist has a TTL of 0.
pub(super) fn lease_keep_alive(service: Service, requests: Streaming<LeaseKeepAliveRequest>) -> Answers {
    let shutdown = service.shutdown.clone();
    let answers = stream::unfold((service, requests), |(service, mut requests)| async move {
        let answer = match requests.message().await {
            Ok(Some(request)) => keep_alive(&service, request.id).await,
            Ok(None) => return None,
            Err(error) => Err(error),
        };
        Some((answer, (service, requests)))
    });
    answers.take_until(shutdown.cancelled_owned()).boxed()
}

/// The header is made before the renewal, so that a lease that is revoked at the revision told is not told alive
/// (server/etcdserver/api/v3rpc/lease.go `leaseKeepAlive`).
async fn keep_alive(service: &Service, id: i64) -> Result<LeaseKeepAliveResponse, Status> {
    let header = service.header_now().await?;
    let ttl = match service.store.lease_keep_alive(LeaseId(id)).await {
        Ok(ttl) => ttl,
        Err(StoreError::LeaseNotFound) => 0,
        Err(error) => return Err(status(error)),
    };
    Ok(LeaseKeepAliveResponse { header, id, ttl })
}
