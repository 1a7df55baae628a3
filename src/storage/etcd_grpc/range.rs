//! KV.Range (etcd server/etcdserver/txn/txn.go `executeRange`).

use bytes::Bytes;
use tonic::Status;

use super::errors::status;
use super::pb::{RangeRequest, RangeResponse, ResponseHeader};
use super::{Service, key_range, key_value};
use crate::store::{KeyRange, KeyValue, RangeOptions, RangeResult, Revision, Store, StoreError};

pub(super) async fn range(service: &Service, request: RangeRequest) -> Result<RangeResponse, Status> {
    let wanted = Wanted::new(&request)?;
    if request.key.is_empty() {
        return Err(status(StoreError::EmptyKey));
    }
    service.alarms.check(false)?;
    let (keys, options) = wanted.read(&request);
    let result = service.store.range(keys, options).await.map_err(status)?;
    let header = service.header(result.revision);
    Ok(wanted.answer(result, header))
}

/// etcd `RangeRequest.SortOrder`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SortOrder {
    None,
    Ascend,
    Descend,
}

/// etcd `RangeRequest.SortTarget`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SortTarget {
    Key,
    Version,
    Create,
    Mod,
    Value,
}

/// What a request asks for beyond the read itself.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    order: SortOrder,
    target: SortTarget,
    /// The whole range must be read before the limit applies.
    whole: bool,
    limit: usize,
    revision: Revision,
    count_only: bool,
    keys_only: bool,
    /// Bounds of mod and create revisions, 0: none.
    mod_revision: (i64, i64),
    create_revision: (i64, i64),
}

impl Wanted {
    pub(super) fn new(request: &RangeRequest) -> Result<Self, Status> {
        let invalid = || Status::invalid_argument("etcdserver: invalid sort option");
        let target = match request.sort_target {
            0 => SortTarget::Key,
            1 => SortTarget::Version,
            2 => SortTarget::Create,
            3 => SortTarget::Mod,
            4 => SortTarget::Value,
            _ => return Err(invalid()),
        };
        let order = match request.sort_order {
            // Keys come ascending anyway; another target without an order means ascending.
            0 if target == SortTarget::Key => SortOrder::None,
            1 if target == SortTarget::Key => SortOrder::None,
            0 | 1 => SortOrder::Ascend,
            2 => SortOrder::Descend,
            _ => return Err(invalid()),
        };
        let filtered = [
            request.min_mod_revision,
            request.max_mod_revision,
            request.min_create_revision,
            request.max_create_revision,
        ];
        Ok(Self {
            order,
            target,
            whole: request.sort_order != 0 || filtered != [0; 4],
            limit: usize::try_from(request.limit).unwrap_or(0),
            revision: Revision(request.revision.max(0)),
            count_only: request.count_only,
            keys_only: request.keys_only,
            mod_revision: (request.min_mod_revision, request.max_mod_revision),
            create_revision: (request.min_create_revision, request.max_create_revision),
        })
    }

    /// The read whose result [`Self::answer`] needs. An order by something else than the key that is not asked for
    /// expressly is one of the first keys only, one more than the limit, as in etcd.
    pub(super) fn read(&self, request: &RangeRequest) -> (KeyRange, RangeOptions) {
        let options = RangeOptions {
            revision: self.revision,
            limit: match self.limit {
                _ if self.whole => 0,
                0 => 0,
                limit if self.order == SortOrder::None => limit,
                limit => limit + 1,
            },
            count_only: self.count_only,
            keys_only: self.keys_only && !matches!(self.target, SortTarget::Value),
        };
        (key_range(&request.key, &request.range_end), options)
    }

    pub(super) fn answer(&self, result: RangeResult, header: Option<ResponseHeader>) -> RangeResponse {
        let RangeResult { mut kvs, count, mut more, .. } = result;
        if self.whole || self.order != SortOrder::None {
            kvs.retain(|kv| {
                within(kv.mod_revision, self.mod_revision) && within(kv.create_revision, self.create_revision)
            });
            self.sort(&mut kvs);
            more = self.limit > 0 && kvs.len() > self.limit;
            if more {
                kvs.truncate(self.limit);
            }
        }
        let mut kvs: Vec<_> = kvs.into_iter().map(key_value).collect();
        if self.keys_only {
            kvs.iter_mut().for_each(|kv| kv.value = Bytes::new());
        }
        RangeResponse { header, kvs, more, count: count as i64 }
    }

    /// Equal keys keep their order, also in descending order.
    fn sort(&self, kvs: &mut [KeyValue]) {
        let compare = |a: &KeyValue, b: &KeyValue| match self.target {
            SortTarget::Key => a.key.cmp(&b.key),
            SortTarget::Version => a.version.cmp(&b.version),
            SortTarget::Create => a.create_revision.cmp(&b.create_revision),
            SortTarget::Mod => a.mod_revision.cmp(&b.mod_revision),
            SortTarget::Value => a.value.cmp(&b.value),
        };
        match self.order {
            SortOrder::None => {}
            SortOrder::Ascend => kvs.sort_by(compare),
            SortOrder::Descend => kvs.sort_by(|a, b| compare(b, a)),
        }
    }
}

fn within(revision: Revision, (min, max): (i64, i64)) -> bool {
    revision.0 >= min && (max == 0 || revision.0 <= max)
}
