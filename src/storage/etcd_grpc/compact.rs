//! KV.Compact.

use tonic::Status;

use super::Service;
use super::errors::status;
use super::pb::{CompactionRequest, CompactionResponse};
use crate::store::{Revision, Store};

pub(super) async fn compact(service: &Service, request: CompactionRequest) -> Result<CompactionResponse, Status> {
    service.alarms.check(false)?;
    let revision = Revision(request.revision);
    if request.physical {
        service.store.compact_physical(revision).await.map_err(status)?;
    } else {
        service.store.compact(revision).await.map_err(status)?;
    }
    Ok(CompactionResponse { header: service.header_now().await? })
}
