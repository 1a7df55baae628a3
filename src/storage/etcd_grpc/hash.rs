//! Maintenance.Hash and Maintenance.HashKV. HashKV is etcd's number: stores with the same history have the same one,
//! whichever program they belong to. Hash covers the file's layout in etcd; here it compares copies of this store.

use tonic::Status;

use super::Service;
use super::errors::status;
use super::pb::{HashKvRequest, HashKvResponse, HashResponse};
use crate::store::Revision;

pub(super) async fn hash(service: &Service) -> Result<HashResponse, Status> {
    let (hash, revision, _) = service.store.fingerprint(Revision(0)).await.map_err(status)?;
    Ok(HashResponse { header: service.header(revision), hash })
}

pub(super) async fn hash_kv(service: &Service, request: HashKvRequest) -> Result<HashKvResponse, Status> {
    let wanted = Revision(request.revision.max(0));
    let found = service.store.hash_kv(wanted).await.map_err(status)?;
    // etcd says -1 until the first compaction.
    let compact_revision = if found.compacted.0 == 0 { -1 } else { found.compacted.0 };
    Ok(HashKvResponse {
        header: service.header(found.current),
        hash: found.hash,
        compact_revision,
        hash_revision: found.revision.0,
    })
}
