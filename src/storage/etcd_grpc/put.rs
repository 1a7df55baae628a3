//! KV.Put.

use etcd_client::proto::{PbPutRequest, PbPutResponse};
use tonic::Status;

use super::errors::status;
use super::{Service, key_value};
use crate::store::{LeaseId, Op, OpResult, Put, Store, Txn};

pub(super) async fn put(service: &Service, request: PbPutRequest) -> Result<PbPutResponse, Status> {
    let txn = Txn { success: vec![Op::Put(operation(request))], ..Txn::default() };
    let result = service.store.txn(txn).await.map_err(status)?;
    let prev = match result.results.into_iter().next() {
        Some(OpResult::Put { prev }) => prev,
        _ => None,
    };
    Ok(PbPutResponse { header: service.header(result.revision), prev_kv: prev.map(key_value) })
}

pub(super) fn operation(request: PbPutRequest) -> Put {
    Put {
        key: request.key.into(),
        value: request.value.into(),
        lease: LeaseId(request.lease),
        prev_kv: request.prev_kv,
        ignore_value: request.ignore_value,
        ignore_lease: request.ignore_lease,
    }
}
