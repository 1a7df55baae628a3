//! KV.Txn.

use etcd_client::proto::{
    PbCompare, PbDeleteResponse, PbPutResponse, PbResponseOp, PbTargetUnion, PbTxnOpRequest, PbTxnOpResponse,
    PbTxnRequest, PbTxnRequestOp, PbTxnResponse,
};
use tonic::Status;

use super::errors::status;
use super::range::Wanted;
use super::{Service, delete_range, inner_header, key_range, key_value, put};
use crate::store::{
    Compare, CompareResult, CompareTarget, LeaseId, Op, OpResult, Revision, Store, StoreError, Txn, TxnResult,
};

pub(super) async fn txn(service: &Service, request: PbTxnRequest) -> Result<PbTxnResponse, Status> {
    let (txn, shape) = transaction(request)?;
    let result = service.store.txn(txn).await.map_err(status)?;
    let header = service.header(result.revision);
    Ok(PbTxnResponse { header, ..answer(result, &shape) })
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

fn transaction(request: PbTxnRequest) -> Result<(Txn, Shape), Status> {
    let compare = request.compare.into_iter().map(comparison).collect::<Result<_, _>>()?;
    let (success, success_shape) = operations(request.success)?;
    let (failure, failure_shape) = operations(request.failure)?;
    let shape = Shape { success: success_shape, failure: failure_shape };
    Ok((Txn { compare, success, failure }, shape))
}

fn operations(requests: Vec<PbTxnRequestOp>) -> Result<(Vec<Op>, Vec<Part>), Status> {
    let mut ops = Vec::with_capacity(requests.len());
    let mut parts = Vec::with_capacity(requests.len());
    for request in requests {
        let (op, part) = match request.request {
            Some(PbTxnOpRequest::RequestPut(request)) => (Op::Put(put::operation(request)), Part::Plain),
            Some(PbTxnOpRequest::RequestDeleteRange(request)) => (delete_range::operation(request)?, Part::Plain),
            Some(PbTxnOpRequest::RequestRange(request)) => {
                if request.key.is_empty() {
                    return Err(status(StoreError::EmptyKey));
                }
                let wanted = Wanted::new(&request)?;
                let (range, options) = wanted.read(request.key, request.range_end);
                (Op::Range { range, options }, Part::Range(wanted))
            }
            Some(PbTxnOpRequest::RequestTxn(request)) => {
                let (txn, shape) = transaction(request)?;
                (Op::Txn(Box::new(txn)), Part::Txn(shape))
            }
            // etcd `checkRequestOp`: "empty op / nil request".
            None => return Err(Status::invalid_argument("etcdserver: key not found")),
        };
        ops.push(op);
        parts.push(part);
    }
    Ok((ops, parts))
}

fn comparison(request: PbCompare) -> Result<Compare, Status> {
    let result = match request.result {
        0 => CompareResult::Equal,
        1 => CompareResult::Greater,
        2 => CompareResult::Less,
        3 => CompareResult::NotEqual,
        _ => return Err(Status::invalid_argument("etcdserver: unknown comparison")),
    };
    // The target says what to compare; a union that says otherwise counts as unset, as in etcd's `compareKV`.
    let target = match (request.target, request.target_union) {
        (0, Some(PbTargetUnion::Version(version))) => CompareTarget::Version(version),
        (0, _) => CompareTarget::Version(0),
        (1, Some(PbTargetUnion::CreateRevision(revision))) => CompareTarget::Create(Revision(revision)),
        (1, _) => CompareTarget::Create(Revision(0)),
        (2, Some(PbTargetUnion::ModRevision(revision))) => CompareTarget::Mod(Revision(revision)),
        (2, _) => CompareTarget::Mod(Revision(0)),
        (3, Some(PbTargetUnion::Value(value))) => CompareTarget::Value(value.into()),
        (3, _) => CompareTarget::Value(bytes::Bytes::new()),
        (4, Some(PbTargetUnion::Lease(lease))) => CompareTarget::Lease(LeaseId(lease)),
        (4, _) => CompareTarget::Lease(LeaseId(0)),
        _ => return Err(Status::invalid_argument("etcdserver: unknown comparison target")),
    };
    Ok(Compare { range: key_range(request.key, request.range_end), target, result })
}

fn answer(result: TxnResult, shape: &Shape) -> PbTxnResponse {
    let TxnResult { succeeded, revision, results } = result;
    let parts = if succeeded { &shape.success } else { &shape.failure };
    let responses = results
        .into_iter()
        .zip(parts)
        .map(|(result, part)| PbResponseOp { response: Some(part_answer(result, part, revision)) })
        .collect();
    PbTxnResponse { header: inner_header(revision), succeeded, responses }
}

fn part_answer(result: OpResult, part: &Part, revision: Revision) -> PbTxnOpResponse {
    let header = inner_header(revision);
    match (result, part) {
        (OpResult::Put { prev }, _) => {
            PbTxnOpResponse::ResponsePut(PbPutResponse { header, prev_kv: prev.map(key_value) })
        }
        (OpResult::Delete { deleted, prev }, _) => PbTxnOpResponse::ResponseDeleteRange(PbDeleteResponse {
            header,
            deleted: deleted as i64,
            prev_kvs: prev.into_iter().map(key_value).collect(),
        }),
        (OpResult::Range(result), Part::Range(wanted)) => {
            let header = inner_header(result.revision);
            PbTxnOpResponse::ResponseRange(wanted.answer(result, header))
        }
        (OpResult::Txn(result), Part::Txn(shape)) => PbTxnOpResponse::ResponseTxn(answer(result, shape)),
        (result, _) => unreachable!("the store answered {result:?} to another operation"),
    }
}
