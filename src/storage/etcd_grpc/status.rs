//! Maintenance.Status.

use etcd_client::proto::{PbDowngradeInfo, PbStatusResponse};
use tonic::Status;

use super::{RAFT_TERM, Service, VERSION, errors};
use crate::store::Store;

pub(super) async fn status(service: &Service) -> Result<PbStatusResponse, Status> {
    let revision = service.store.revision().await.map_err(errors::status)?;
    let (size, in_use) = service.store.size().await.map_err(errors::status)?;
    // There is no raft log: a revision is as far as one can have come.
    let index = revision.0 as u64;
    Ok(PbStatusResponse {
        header: service.header(revision),
        version: VERSION.to_owned(),
        db_size: size as i64,
        leader: service.store.identity().member,
        raft_index: index,
        raft_term: RAFT_TERM,
        raft_applied_index: index,
        errors: Vec::new(),
        db_size_in_use: in_use as i64,
        is_learner: false,
        storage_version: "3.6.0".to_owned(),
        db_size_quota: 0,
        downgrade_info: Some(PbDowngradeInfo { enabled: false, target_version: String::new() }),
    })
}
