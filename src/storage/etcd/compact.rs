//! Forgetting history as Kubernetes' API servers do (apiserver `storage/etcd3/compact.go`): whoever of several servers
//! is first in an interval compacts, by a key whose version they all compare.

use std::sync::Arc;
use std::time::Duration;

use base::Shutdown;
use bytes::Bytes;

use super::Shared;
use crate::store::{
    Compare, CompareResult, CompareTarget, KeyRange, Op, OpResult, Put, RangeOptions, Revision, StoreError, Txn,
};

/// Upstream's key, so that stock API servers on the same cluster take turns with us.
const KEY: &[u8] = b"compact_rev_key";

/// Compacts every `interval` to the revision of the interval before, until `shutdown`. Writes nothing while nothing
/// else is written.
pub(super) async fn keep_history(shared: Arc<Shared>, interval: Duration, shutdown: Shutdown) {
    let mut turn = Turn::default();
    loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(interval) => {}
        }
        if shared.hub.revision() == turn.seen {
            continue;
        }
        match turn.take(&shared).await {
            Ok(Some(revision)) => tracing::debug!(revision = revision.0, "compacted the datastore"),
            Ok(None) | Err(StoreError::Compacted { .. }) => {}
            Err(error) => tracing::warn!(error = %base::chain(&error), "could not compact the datastore"),
        }
    }
}

/// What one server knows of the turns.
#[derive(Default)]
struct Turn {
    /// How often anyone has compacted: the version of the key.
    times: i64,
    /// The newest revision at the last turn.
    seen: Revision,
}

impl Turn {
    /// Takes a turn unless another server has been faster; says what was compacted.
    async fn take(&mut self, shared: &Arc<Shared>) -> Result<Option<Revision>, StoreError> {
        let key = KeyRange::key(Bytes::from_static(KEY));
        // The cluster's own revision: stock API servers read it.
        let value = shared.shift.theirs(self.seen).unwrap_or(0).to_string().into();
        let result = shared
            .txn(&Txn {
                compare: vec![Compare {
                    range: key.clone(),
                    target: CompareTarget::Version(self.times),
                    result: CompareResult::Equal,
                }],
                success: vec![Op::Put(Put { key: key.start.clone(), value, ..Put::default() })],
                failure: vec![Op::Range { range: key, options: RangeOptions::default() }],
            })
            .await?;
        if !result.succeeded {
            if let Some(OpResult::Range(found)) = result.results.first()
                && let Some(kv) = found.kvs.first()
            {
                self.times = kv.version;
                let compacted = std::str::from_utf8(&kv.value).ok().and_then(|text| text.parse().ok());
                shared.compacted(shared.shift.ours(compacted.unwrap_or(0)));
            }
            self.seen = result.revision;
            return Ok(None);
        }
        self.times += 1;
        let target = std::mem::replace(&mut self.seen, result.revision);
        // Upstream does not compact in its first turn: it does not know how old what it sees is.
        if target.0 == 0 {
            return Ok(None);
        }
        shared.compact(target).await?;
        Ok(Some(target))
    }
}
