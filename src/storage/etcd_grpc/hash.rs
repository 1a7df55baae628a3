//! Maintenance.Hash and Maintenance.HashKV. The numbers compare copies of this store with each other, not with etcd.

use etcd_client::proto::{PbHashKvRequest, PbHashKvResponse, PbHashResponse};
use tonic::Status;

use super::Service;
use super::errors::status;
use crate::store::Revision;

pub(super) async fn hash(service: &Service) -> Result<PbHashResponse, Status> {
    let (hash, revision, _) = service.store.fingerprint(Revision(0)).await.map_err(status)?;
    Ok(PbHashResponse { header: service.header(revision), hash })
}

pub(super) async fn hash_kv(service: &Service, request: PbHashKvRequest) -> Result<PbHashKvResponse, Status> {
    let wanted = Revision(request.revision.max(0));
    let (hash, at, compacted) = service.store.fingerprint(wanted).await.map_err(status)?;
    Ok(PbHashKvResponse {
        header: service.header_now().await?,
        hash,
        compact_revision: compacted.0,
        hash_revision: at.0,
    })
}
