//! The Lease service.

use etcd_client::proto::{
    PbLeaseGrantRequest, PbLeaseGrantResponse, PbLeaseKeepAliveRequest, PbLeaseLeasesRequest, PbLeaseLeasesResponse,
    PbLeaseRevokeRequest, PbLeaseRevokeResponse, PbLeaseService, PbLeaseStatus, PbLeaseTimeToLiveRequest,
    PbLeaseTimeToLiveResponse,
};
use tonic::{Request, Response, Status, Streaming, async_trait};

use super::errors::status;
use super::{Service, lease_keep_alive};
use crate::sqlite::TTL_MAX;
use crate::store::{LeaseId, Store};

#[async_trait]
impl PbLeaseService for Service {
    async fn lease_grant(
        &self,
        request: Request<PbLeaseGrantRequest>,
    ) -> Result<Response<PbLeaseGrantResponse>, Status> {
        let PbLeaseGrantRequest { ttl, id } = request.into_inner();
        if ttl > TTL_MAX {
            return Err(Status::out_of_range("etcdserver: too large lease TTL"));
        }
        let lease = self.store.lease_grant(LeaseId(id), ttl).await.map_err(status)?;
        let header = self.header_now().await?;
        let (id, ttl) = (lease.id.0, lease.ttl);
        Ok(Response::new(PbLeaseGrantResponse { header, id, ttl, error: String::new() }))
    }

    async fn lease_revoke(
        &self,
        request: Request<PbLeaseRevokeRequest>,
    ) -> Result<Response<PbLeaseRevokeResponse>, Status> {
        self.store.lease_revoke(LeaseId(request.into_inner().id)).await.map_err(status)?;
        Ok(Response::new(PbLeaseRevokeResponse { header: self.header_now().await? }))
    }

    type LeaseKeepAliveStream = lease_keep_alive::Answers;

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<PbLeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        Ok(Response::new(lease_keep_alive::lease_keep_alive(self.clone(), request.into_inner())))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<PbLeaseTimeToLiveRequest>,
    ) -> Result<Response<PbLeaseTimeToLiveResponse>, Status> {
        let PbLeaseTimeToLiveRequest { id, keys } = request.into_inner();
        let lease = self.store.lease_status(LeaseId(id), keys).await.map_err(status)?;
        Ok(Response::new(PbLeaseTimeToLiveResponse {
            header: self.header_now().await?,
            id,
            ttl: lease.ttl,
            granted_ttl: lease.granted_ttl,
            keys: lease.keys.into_iter().map(Vec::from).collect(),
        }))
    }

    async fn lease_leases(&self, _: Request<PbLeaseLeasesRequest>) -> Result<Response<PbLeaseLeasesResponse>, Status> {
        let leases = self.store.leases().await.map_err(status)?;
        let leases = leases.into_iter().map(|lease| PbLeaseStatus { id: lease.0 }).collect();
        Ok(Response::new(PbLeaseLeasesResponse { header: self.header_now().await?, leases }))
    }
}
