//! KV.Range (etcd server/etcdserver/txn/txn.go `executeRange`).

use etcd_client::proto::{PbRangeRequest, PbRangeResponse, PbResponseHeader};
use etcd_client::{SortOrder, SortTarget};
use tonic::Status;

use super::errors::status;
use super::{Service, key_range, key_value};
use crate::store::{KeyRange, KeyValue, RangeOptions, RangeResult, Revision, Store, StoreError};

pub(super) async fn range(service: &Service, request: PbRangeRequest) -> Result<PbRangeResponse, Status> {
    let wanted = Wanted::new(&request)?;
    if request.key.is_empty() {
        return Err(status(StoreError::EmptyKey));
    }
    let (keys, options) = wanted.read(request.key, request.range_end);
    let result = service.store.range(keys, options).await.map_err(status)?;
    let header = service.header(result.revision);
    Ok(wanted.answer(result, header))
}

/// What a request asks for beyond the read itself.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    order: SortOrder,
    target: SortTarget,
    limit: usize,
    revision: Revision,
    count_only: bool,
    keys_only: bool,
    /// Bounds of mod and create revisions, 0: none.
    mod_revision: (i64, i64),
    create_revision: (i64, i64),
}

impl Wanted {
    pub(super) fn new(request: &PbRangeRequest) -> Result<Self, Status> {
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
        Ok(Self {
            order,
            target,
            limit: usize::try_from(request.limit).unwrap_or(0),
            revision: Revision(request.revision.max(0)),
            count_only: request.count_only,
            keys_only: request.keys_only,
            mod_revision: (request.min_mod_revision, request.max_mod_revision),
            create_revision: (request.min_create_revision, request.max_create_revision),
        })
    }

    /// The read whose result [`Self::answer`] needs.
    pub(super) fn read(&self, key: Vec<u8>, range_end: Vec<u8>) -> (KeyRange, RangeOptions) {
        let options = RangeOptions {
            revision: self.revision,
            limit: if self.whole() { 0 } else { self.limit },
            count_only: self.count_only,
            keys_only: self.keys_only && !matches!(self.target, SortTarget::Value),
        };
        (key_range(key, range_end), options)
    }

    pub(super) fn answer(&self, result: RangeResult, header: Option<PbResponseHeader>) -> PbRangeResponse {
        let RangeResult { mut kvs, count, mut more, .. } = result;
        if self.whole() {
            kvs.retain(|kv| {
                within(kv.mod_revision, self.mod_revision) && within(kv.create_revision, self.create_revision)
            });
            self.sort(&mut kvs);
            if self.limit > 0 && kvs.len() > self.limit {
                kvs.truncate(self.limit);
                more = true;
            }
        }
        let mut kvs: Vec<_> = kvs.into_iter().map(key_value).collect();
        if self.keys_only {
            kvs.iter_mut().for_each(|kv| kv.value = Vec::new());
        }
        PbRangeResponse { header, kvs, more, count: count as i64 }
    }

    /// The whole range must be read before the limit applies.
    fn whole(&self) -> bool {
        !matches!(self.order, SortOrder::None) || self.mod_revision != (0, 0) || self.create_revision != (0, 0)
    }

    fn sort(&self, kvs: &mut [KeyValue]) {
        match self.target {
            SortTarget::Key => kvs.sort_by(|a, b| a.key.cmp(&b.key)),
            SortTarget::Version => kvs.sort_by_key(|kv| kv.version),
            SortTarget::Create => kvs.sort_by_key(|kv| kv.create_revision),
            SortTarget::Mod => kvs.sort_by_key(|kv| kv.mod_revision),
            SortTarget::Value => kvs.sort_by(|a, b| a.value.cmp(&b.value)),
        }
        if matches!(self.order, SortOrder::Descend) {
            kvs.reverse();
        }
    }
}

fn within(revision: Revision, (min, max): (i64, i64)) -> bool {
    revision.0 >= min && (max == 0 || revision.0 <= max)
}
