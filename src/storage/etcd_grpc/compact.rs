//! KV.Compact.

use etcd_client::proto::{PbCompactionRequest, PbCompactionResponse};
use tonic::Status;

use super::Service;
use super::errors::status;
use crate::store::{Revision, Store};

pub(super) async fn compact(service: &Service, request: PbCompactionRequest) -> Result<PbCompactionResponse, Status> {
    let revision = Revision(request.revision);
    if request.physical {
        service.store.compact_physical(revision).await.map_err(status)?;
    } else {
        service.store.compact(revision).await.map_err(status)?;
    }
    Ok(PbCompactionResponse { header: service.header_now().await? })
}
