//! Maintenance.Status.

use tonic::Status;

use super::alarms::{CORRUPT, NOSPACE};
use super::pb::{DowngradeInfo, StatusResponse};
use super::{RAFT_TERM, Service, VERSION, errors};
use crate::store::Store;

/// etcd `DefaultQuotaBytes`, which its status tells when no quota is set.
pub(super) const QUOTA_BYTES: u64 = 2 * 1024 * 1024 * 1024;

pub(super) async fn status(service: &Service) -> Result<StatusResponse, Status> {
    let revision = service.store.revision().await.map_err(errors::status)?;
    let (size, in_use) = service.store.size().await.map_err(errors::status)?;
    let member = service.store.identity().member;
    // There is no raft log: a revision is as far as one can have come.
    let index = revision.0 as u64;
    let alarms = service.alarms.list(0).into_iter().map(|alarm| {
        let name = match alarm {
            NOSPACE => "NOSPACE",
            CORRUPT => "CORRUPT",
            _ => "NONE",
        };
        format!("memberID:{member} alarm:{name} ")
    });
    Ok(StatusResponse {
        header: service.header(revision),
        version: VERSION.to_owned(),
        db_size: size as i64,
        leader: member,
        raft_index: index,
        raft_term: RAFT_TERM,
        raft_applied_index: index,
        errors: alarms.collect(),
        db_size_in_use: in_use as i64,
        is_learner: false,
        storage_version: "3.6.0".to_owned(),
        db_size_quota: service.store.options().bytes_max.unwrap_or(QUOTA_BYTES) as i64,
        downgrade_info: Some(DowngradeInfo { enabled: false, target_version: String::new() }),
    })
}
