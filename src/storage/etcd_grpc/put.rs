//! KV.Put.

use bytes::Bytes;
use tonic::Status;

use super::errors::check_size;
use super::pb::{PutRequest, PutResponse};
use super::{Service, key_value};
use crate::store::{LeaseId, Op, OpResult, Put, Store, Txn};

pub(super) async fn put(service: &Service, request: PutRequest) -> Result<PutResponse, Status> {
    check_size(service, &request)?;
    service.alarms.check(true)?;
    let txn = Txn { success: vec![Op::Put(operation(request))], ..Txn::default() };
    let result = service.alarms.written(service.store.txn(txn).await)?;
    let prev = match result.results.into_iter().next() {
        Some(OpResult::Put { prev }) => prev,
        _ => None,
    };
    Ok(PutResponse { header: service.header(result.revision), prev_kv: prev.map(key_value) })
}

/// The value stays where the request's bytes are; the key may be kept for long and is copied.
pub(super) fn operation(request: PutRequest) -> Put {
    Put {
        key: Bytes::copy_from_slice(&request.key),
        value: request.value,
        lease: LeaseId(request.lease),
        prev_kv: request.prev_kv,
        ignore_value: request.ignore_value,
        ignore_lease: request.ignore_lease,
    }
}
