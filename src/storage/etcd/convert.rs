//! Our words in etcd's and back.

use bytes::Bytes;
use etcd_client::proto::{
    PbCompare, PbDeleteRequest, PbEvent, PbKeyValue, PbPutRequest, PbRangeRequest, PbRangeResponse, PbTargetUnion,
    PbTxnOpRequest, PbTxnOpResponse, PbTxnRequest, PbTxnRequestOp, PbTxnResponse,
};
use tonic::Code;

use super::shift::Shift;
use super::wire::{CallError, plain};
use crate::store::{
    Compare, CompareResult, CompareTarget, Event, EventKind, KeyRange, KeyValue, LeaseId, Op, OpResult, RangeOptions,
    RangeResult, Revision, StoreError, Txn, TxnResult,
};

/// `range_end` of a request; one zero byte is the end of the key space.
pub(super) fn range_end(range: &KeyRange) -> Vec<u8> {
    match &range.end {
        None => Vec::new(),
        Some(end) if end.is_empty() => vec![0],
        Some(end) => end.to_vec(),
    }
}

/// The first key of a request; etcd writes "from the beginning" as one zero byte.
pub(super) fn range_start(range: &KeyRange) -> Vec<u8> {
    if range.start.is_empty() && range.end.is_some() { vec![0] } else { range.start.to_vec() }
}

/// `revision`: the cluster's, 0 for the newest.
pub(super) fn range_request(range: &KeyRange, options: &RangeOptions, revision: i64) -> PbRangeRequest {
    PbRangeRequest {
        key: range_start(range),
        range_end: range_end(range),
        limit: i64::try_from(options.limit).unwrap_or(i64::MAX),
        revision,
        keys_only: options.keys_only,
        count_only: options.count_only,
        ..PbRangeRequest::default()
    }
}

/// `revision`: ours.
pub(super) fn range_result(answer: PbRangeResponse, revision: Revision, shift: Shift) -> RangeResult {
    RangeResult {
        kvs: answer.kvs.into_iter().map(|kv| key_value(kv, shift)).collect(),
        count: u64::try_from(answer.count).unwrap_or(0),
        more: answer.more,
        revision,
    }
}

fn key_value(kv: PbKeyValue, shift: Shift) -> KeyValue {
    KeyValue {
        key: kv.key.into(),
        value: kv.value.into(),
        create_revision: shift.ours(kv.create_revision),
        mod_revision: shift.ours(kv.mod_revision),
        version: kv.version,
        lease: LeaseId(kv.lease),
    }
}

fn event(event: PbEvent, shift: Shift) -> Option<Event> {
    // `mvccpb.Event.EventType`: 0 is a put, 1 a deletion.
    let kind = if event.r#type == 0 { EventKind::Put } else { EventKind::Delete };
    let key_value = |kv| key_value(kv, shift);
    Some(Event { kind, kv: key_value(event.kv?), prev: event.prev_kv.map(key_value) })
}

/// An error if it asks for a revision that the cluster never had.
pub(super) fn txn_request(txn: &Txn, shift: Shift) -> Result<PbTxnRequest, StoreError> {
    let operations = |ops: &[Op]| ops.iter().map(|op| operation(op, shift)).collect::<Result<_, _>>();
    Ok(PbTxnRequest {
        compare: txn.compare.iter().map(|condition| compare(condition, shift)).collect(),
        success: operations(&txn.success)?,
        failure: operations(&txn.failure)?,
    })
}

fn compare(compare: &Compare, shift: Shift) -> PbCompare {
    let (target, union) = match &compare.target {
        CompareTarget::Version(version) => (0, PbTargetUnion::Version(*version)),
        CompareTarget::Create(revision) => {
            (1, PbTargetUnion::CreateRevision(shift.compared(*revision, compare.result)))
        }
        CompareTarget::Mod(revision) => (2, PbTargetUnion::ModRevision(shift.compared(*revision, compare.result))),
        CompareTarget::Value(value) => (3, PbTargetUnion::Value(value.to_vec())),
        CompareTarget::Lease(lease) => (4, PbTargetUnion::Lease(lease.0)),
    };
    let result = match compare.result {
        CompareResult::Equal => 0,
        CompareResult::Greater => 1,
        CompareResult::Less => 2,
        CompareResult::NotEqual => 3,
    };
    PbCompare {
        result,
        target,
        key: range_start(&compare.range),
        range_end: range_end(&compare.range),
        target_union: Some(union),
    }
}

fn operation(op: &Op, shift: Shift) -> Result<PbTxnRequestOp, StoreError> {
    let request = match op {
        Op::Put(put) => PbTxnOpRequest::RequestPut(PbPutRequest {
            key: put.key.to_vec(),
            value: put.value.to_vec(),
            lease: put.lease.0,
            prev_kv: put.prev_kv,
            ignore_value: put.ignore_value,
            ignore_lease: put.ignore_lease,
        }),
        Op::Delete { range, prev_kv } => PbTxnOpRequest::RequestDeleteRange(PbDeleteRequest {
            key: range_start(range),
            range_end: range_end(range),
            prev_kv: *prev_kv,
        }),
        Op::Range { range, options } => {
            PbTxnOpRequest::RequestRange(range_request(range, options, shift.theirs(options.revision)?))
        }
        Op::Txn(inner) => PbTxnOpRequest::RequestTxn(txn_request(inner, shift)?),
    };
    Ok(PbTxnRequestOp { request: Some(request) })
}

/// `revision`: ours, of the whole answer, because etcd's inner headers may lack it.
pub(super) fn txn_result(answer: PbTxnResponse, revision: Revision, shift: Shift) -> TxnResult {
    let key_value = |kv| key_value(kv, shift);
    let results = answer
        .responses
        .into_iter()
        .filter_map(|response| response.response)
        .map(|response| match response {
            PbTxnOpResponse::ResponsePut(put) => OpResult::Put { prev: put.prev_kv.map(key_value) },
            PbTxnOpResponse::ResponseDeleteRange(delete) => OpResult::Delete {
                deleted: u64::try_from(delete.deleted).unwrap_or(0),
                prev: delete.prev_kvs.into_iter().map(key_value).collect(),
            },
            PbTxnOpResponse::ResponseRange(range) => OpResult::Range(range_result(range, revision, shift)),
            PbTxnOpResponse::ResponseTxn(inner) => OpResult::Txn(txn_result(inner, revision, shift)),
        })
        .collect();
    TxnResult { succeeded: answer.succeeded, revision, results }
}

/// Whether a transaction can have written anything.
pub(super) fn writes(result: &TxnResult) -> bool {
    result.results.iter().any(|result| match result {
        OpResult::Put { .. } => true,
        OpResult::Delete { deleted, .. } => *deleted > 0,
        OpResult::Range(_) => false,
        OpResult::Txn(inner) => writes(inner),
    })
}

/// A member's refusal in our words. `compacted`: what is known to be gone.
pub(super) fn error(step: &'static str, failed: CallError, compacted: Revision) -> StoreError {
    let status = match failed {
        CallError::NoAnswer(status) => {
            tracing::warn!(step, error = %base::chain(&*plain(status)), "no member of the datastore answered");
            return StoreError::Timeout;
        }
        CallError::Refused(status) => status,
    };
    let text = status.message().strip_prefix("etcdserver: ").unwrap_or(status.message());
    match (status.code(), text) {
        (Code::OutOfRange, "mvcc: required revision has been compacted") => {
            StoreError::Compacted { compact_revision: compacted }
        }
        (Code::OutOfRange, "mvcc: required revision is a future revision") => StoreError::FutureRevision,
        (Code::NotFound, "requested lease not found") => StoreError::LeaseNotFound,
        (Code::FailedPrecondition, "lease already exists") => StoreError::LeaseExists,
        (Code::InvalidArgument, "key is not provided") => StoreError::EmptyKey,
        (Code::InvalidArgument, "key not found") => StoreError::KeyNotFound,
        (Code::InvalidArgument, "duplicate key given in txn request") => StoreError::DuplicateKey,
        (Code::InvalidArgument, "value is provided") => StoreError::ValueProvided,
        (Code::InvalidArgument, "lease is provided") => StoreError::LeaseProvided,
        (Code::InvalidArgument, "too many operations in txn request") => StoreError::TooManyOps,
        (Code::InvalidArgument, "request is too large") => StoreError::TooLarge,
        (Code::ResourceExhausted, "mvcc: database space exceeded") => StoreError::DiskFull,
        // gRPC's own limit, a little above etcd's: `trying to send message larger than max`.
        (Code::ResourceExhausted, _) => StoreError::TooLarge,
        _ => StoreError::Engine { step, source: plain(status) },
    }
}

/// Events of one answer, by revision, in order.
pub(super) fn by_revision(events: Vec<PbEvent>, shift: Shift) -> Vec<(Revision, Vec<Event>)> {
    let mut revisions: Vec<(Revision, Vec<Event>)> = Vec::new();
    for event in events.into_iter().filter_map(|told| event(told, shift)) {
        let revision = event.kv.mod_revision;
        match revisions.last_mut() {
            Some((last, events)) if *last == revision => events.push(event),
            _ => revisions.push((revision, vec![event])),
        }
    }
    revisions
}

/// Everything.
pub(super) fn everything() -> KeyRange {
    KeyRange { start: Bytes::new(), end: Some(Bytes::new()) }
}
