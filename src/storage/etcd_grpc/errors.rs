//! The store's errors in etcd's codes and words (api/v3rpc/rpctypes/error.go).

use prost::Message;
use tonic::{Code, Status};

use super::Service;
use crate::store::StoreError;

pub(super) fn status(error: StoreError) -> Status {
    let (code, text) = match &error {
        StoreError::Compacted { .. } => (Code::OutOfRange, "mvcc: required revision has been compacted"),
        StoreError::FutureRevision => (Code::OutOfRange, "mvcc: required revision is a future revision"),
        StoreError::LeaseNotFound => (Code::NotFound, "requested lease not found"),
        StoreError::LeaseExists => (Code::FailedPrecondition, "lease already exists"),
        StoreError::EmptyKey => (Code::InvalidArgument, "key is not provided"),
        StoreError::KeyNotFound => (Code::InvalidArgument, "key not found"),
        StoreError::DuplicateKey => (Code::InvalidArgument, "duplicate key given in txn request"),
        StoreError::ValueProvided => (Code::InvalidArgument, "value is provided"),
        StoreError::LeaseProvided => (Code::InvalidArgument, "lease is provided"),
        StoreError::TooManyOps => (Code::InvalidArgument, "too many operations in txn request"),
        StoreError::TooLarge => (Code::InvalidArgument, "request is too large"),
        StoreError::DiskFull => (Code::ResourceExhausted, "mvcc: database space exceeded"),
        StoreError::Stopped => (Code::Unavailable, "server stopped"),
        StoreError::Timeout => (Code::Unavailable, "request timed out"),
        StoreError::Engine { .. } => {
            tracing::error!(error = %base::chain(&error), "the store failed a request");
            return Status::unknown(format!("etcdserver: {}", base::chain(&error)));
        }
    };
    Status::new(code, format!("etcdserver: {text}"))
}

/// What only a cluster of several members has.
pub(super) fn one_member() -> Status {
    Status::unimplemented("etcdserver: this store has one member")
}

/// Bytes that etcd's proposal to raft has beyond the request (`InternalRaftRequest` with its header).
const PROPOSAL_BYTES: usize = 18;

/// etcd measures the request as it travels (server/etcdserver/v3_server.go `processInternalRaftRequestOnce`).
pub(super) fn check_size(service: &Service, request: &impl Message) -> Result<(), Status> {
    if request.encoded_len() + PROPOSAL_BYTES > service.store.options().request_bytes_max {
        return Err(status(StoreError::TooLarge));
    }
    Ok(())
}
