//! The Lease service.

use tonic::{Request, Response, Status, Streaming, async_trait};

use super::errors::status;
use super::pb::lease_server::Lease;
use super::pb::{
    LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseLeasesRequest, LeaseLeasesResponse,
    LeaseRevokeRequest, LeaseRevokeResponse, LeaseStatus, LeaseTimeToLiveRequest, LeaseTimeToLiveResponse,
};
use super::{Service, lease_keep_alive};
use crate::sqlite::TTL_MAX;
use crate::store::{LeaseId, Store};

#[async_trait]
impl Lease for Service {
    async fn lease_grant(&self, request: Request<LeaseGrantRequest>) -> Result<Response<LeaseGrantResponse>, Status> {
        let LeaseGrantRequest { ttl, id } = request.into_inner();
        self.alarms.check(true)?;
        if ttl > TTL_MAX {
            return Err(Status::out_of_range("etcdserver: too large lease TTL"));
        }
        let lease = self.store.lease_grant(LeaseId(id), ttl).await.map_err(status)?;
        let header = self.header_now().await?;
        Ok(Response::new(LeaseGrantResponse { header, id: lease.id.0, ttl: lease.ttl }))
    }

    async fn lease_revoke(
        &self,
        request: Request<LeaseRevokeRequest>,
    ) -> Result<Response<LeaseRevokeResponse>, Status> {
        self.alarms.check(false)?;
        self.store.lease_revoke(LeaseId(request.into_inner().id)).await.map_err(status)?;
        Ok(Response::new(LeaseRevokeResponse { header: self.header_now().await? }))
    }

    type LeaseKeepAliveStream = lease_keep_alive::Answers;

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<LeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        Ok(Response::new(lease_keep_alive::lease_keep_alive(self.clone(), request.into_inner())))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<LeaseTimeToLiveRequest>,
    ) -> Result<Response<LeaseTimeToLiveResponse>, Status> {
        let LeaseTimeToLiveRequest { id, keys } = request.into_inner();
        let lease = self.store.lease_status(LeaseId(id), keys).await.map_err(status)?;
        Ok(Response::new(LeaseTimeToLiveResponse {
            header: self.header_now().await?,
            id,
            ttl: lease.ttl,
            granted_ttl: lease.granted_ttl,
            keys: lease.keys,
        }))
    }

    async fn lease_leases(&self, _: Request<LeaseLeasesRequest>) -> Result<Response<LeaseLeasesResponse>, Status> {
        let leases = self.store.leases().await.map_err(status)?;
        let leases = leases.into_iter().map(|lease| LeaseStatus { id: lease.0 }).collect();
        Ok(Response::new(LeaseLeasesResponse { header: self.header_now().await?, leases }))
    }
}
