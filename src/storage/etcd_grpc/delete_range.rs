//! KV.DeleteRange.

use tonic::Status;

use super::errors::{check_size, status};
use super::pb::{DeleteRangeRequest, DeleteRangeResponse};
use super::{Service, key_range, key_value};
use crate::store::{Op, OpResult, Store, StoreError, Txn};

pub(super) async fn delete_range(
    service: &Service,
    request: DeleteRangeRequest,
) -> Result<DeleteRangeResponse, Status> {
    let op = operation(&request)?;
    check_size(service, &request)?;
    service.alarms.check(false)?;
    let txn = Txn { success: vec![op], ..Txn::default() };
    let result = service.store.txn(txn).await.map_err(status)?;
    let (deleted, prev) = match result.results.into_iter().next() {
        Some(OpResult::Delete { deleted, prev }) => (deleted, prev),
        _ => (0, Vec::new()),
    };
    let prev_kvs = prev.into_iter().map(key_value).collect();
    Ok(DeleteRangeResponse { header: service.header(result.revision), deleted: deleted as i64, prev_kvs })
}

pub(super) fn operation(request: &DeleteRangeRequest) -> Result<Op, Status> {
    if request.key.is_empty() {
        return Err(status(StoreError::EmptyKey));
    }
    Ok(Op::Delete { range: key_range(&request.key, &request.range_end), prev_kv: request.prev_kv })
}
