//! KV.Txn.

use tonic::Status;

use super::errors::{check_size, status};
use super::pb::compare::TargetUnion;
use super::pb::request_op::Request;
use super::pb::response_op::Response;
use super::pb::{self, DeleteRangeResponse, PutResponse, RequestOp, ResponseOp, TxnRequest, TxnResponse};
use super::range::Wanted;
use super::{Service, delete_range, inner_header, key_range, key_value, put};
use crate::store::{
    Compare, CompareResult, CompareTarget, LeaseId, Op, OpResult, Revision, Store, StoreError, Txn, TxnResult,
};

pub(super) async fn txn(service: &Service, request: TxnRequest) -> Result<TxnResponse, Status> {
    check_size(service, &request)?;
    let puts = puts(&request);
    let (txn, shape) = transaction(request)?;
    service.alarms.check(puts)?;
    let result = service.store.txn(txn).await;
    let result = if puts { service.alarms.written(result)? } else { result.map_err(status)? };
    let header = service.header(result.revision);
    // Each answer within has the revision as of its operation: the transaction's from its first write on.
    let mut so_far = Revision(if wrote(&result) { result.revision.0 - 1 } else { result.revision.0 });
    Ok(TxnResponse { header, ..answer(result, &shape, &mut so_far) })
}

/// Whether the request may need room on the disk.
fn puts(request: &TxnRequest) -> bool {
    request.success.iter().chain(&request.failure).any(|op| match &op.request {
        Some(Request::RequestPut(_)) => true,
        Some(Request::RequestTxn(inner)) => puts(inner),
        _ => false,
    })
}

fn wrote(result: &TxnResult) -> bool {
    result.results.iter().any(|result| match result {
        OpResult::Put { .. } => true,
        OpResult::Delete { deleted, .. } => *deleted > 0,
        OpResult::Range(_) => false,
        OpResult::Txn(inner) => wrote(inner),
    })
}

/// What of the request is needed again to shape the answer.
struct Shape {
    success: Vec<Part>,
    failure: Vec<Part>,
}

enum Part {
    Plain,
    Range(Wanted),
    Txn(Shape),
}

fn transaction(request: TxnRequest) -> Result<(Txn, Shape), Status> {
    let compare = request.compare.into_iter().map(comparison).collect::<Result<_, _>>()?;
    let (success, success_shape) = operations(request.success)?;
    let (failure, failure_shape) = operations(request.failure)?;
    let shape = Shape { success: success_shape, failure: failure_shape };
    Ok((Txn { compare, success, failure }, shape))
}

fn operations(requests: Vec<RequestOp>) -> Result<(Vec<Op>, Vec<Part>), Status> {
    let mut ops = Vec::with_capacity(requests.len());
    let mut parts = Vec::with_capacity(requests.len());
    for request in requests {
        let (op, part) = match request.request {
            Some(Request::RequestPut(request)) => (Op::Put(put::operation(request)), Part::Plain),
            Some(Request::RequestDeleteRange(request)) => (delete_range::operation(&request)?, Part::Plain),
            Some(Request::RequestRange(request)) => {
                if request.key.is_empty() {
                    return Err(status(StoreError::EmptyKey));
                }
                let wanted = Wanted::new(&request)?;
                let (range, options) = wanted.read(&request);
                (Op::Range { range, options }, Part::Range(wanted))
            }
            Some(Request::RequestTxn(request)) => {
                let (txn, shape) = transaction(request)?;
                (Op::Txn(Box::new(txn)), Part::Txn(shape))
            }
            // etcd `checkRequestOp`: "empty op / nil request".
            None => return Err(status(StoreError::KeyNotFound)),
        };
        ops.push(op);
        parts.push(part);
    }
    Ok((ops, parts))
}

fn comparison(request: pb::Compare) -> Result<Compare, Status> {
    let range = key_range(&request.key, &request.range_end);
    let result = match request.result {
        0 => CompareResult::Equal,
        1 => CompareResult::Greater,
        2 => CompareResult::Less,
        3 => CompareResult::NotEqual,
        _ => return Err(Status::invalid_argument("etcdserver: unknown comparison")),
    };
    // The target says what to compare; a union that says otherwise counts as unset, as in etcd's `compareKV`.
    let target = match (request.target, request.target_union) {
        (0, Some(TargetUnion::Version(version))) => CompareTarget::Version(version),
        (0, _) => CompareTarget::Version(0),
        (1, Some(TargetUnion::CreateRevision(revision))) => CompareTarget::Create(Revision(revision)),
        (1, _) => CompareTarget::Create(Revision(0)),
        (2, Some(TargetUnion::ModRevision(revision))) => CompareTarget::Mod(Revision(revision)),
        (2, _) => CompareTarget::Mod(Revision(0)),
        (3, Some(TargetUnion::Value(value))) => CompareTarget::Value(value),
        (3, _) => CompareTarget::Value(bytes::Bytes::new()),
        (4, Some(TargetUnion::Lease(lease))) => CompareTarget::Lease(LeaseId(lease)),
        (4, _) => CompareTarget::Lease(LeaseId(0)),
        _ => return Err(Status::invalid_argument("etcdserver: unknown comparison target")),
    };
    Ok(Compare { range, target, result })
}

fn answer(result: TxnResult, shape: &Shape, so_far: &mut Revision) -> TxnResponse {
    let TxnResult { succeeded, revision, results } = result;
    let parts = if succeeded { &shape.success } else { &shape.failure };
    let responses = results
        .into_iter()
        .zip(parts)
        .map(|(result, part)| ResponseOp { response: Some(part_answer(result, part, revision, so_far)) })
        .collect();
    // A nested transaction's own header is empty (server/etcdserver/txn/txn.go `newTxnResp`).
    TxnResponse { header: Some(pb::ResponseHeader::default()), succeeded, responses }
}

fn part_answer(result: OpResult, part: &Part, revision: Revision, so_far: &mut Revision) -> Response {
    match (result, part) {
        (OpResult::Put { prev }, _) => {
            *so_far = revision;
            Response::ResponsePut(PutResponse { header: inner_header(revision), prev_kv: prev.map(key_value) })
        }
        (OpResult::Delete { deleted, prev }, _) => {
            if deleted > 0 {
                *so_far = revision;
            }
            Response::ResponseDeleteRange(DeleteRangeResponse {
                header: inner_header(*so_far),
                deleted: deleted as i64,
                prev_kvs: prev.into_iter().map(key_value).collect(),
            })
        }
        (OpResult::Range(result), Part::Range(wanted)) => {
            let header = inner_header(result.revision);
            Response::ResponseRange(wanted.answer(result, header))
        }
        (OpResult::Txn(mut result), Part::Txn(shape)) => {
            result.revision = revision;
            Response::ResponseTxn(answer(result, shape, so_far))
        }
        (result, _) => unreachable!("the store answered {result:?} to another operation"),
    }
}
