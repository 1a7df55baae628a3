//! Revisions that go on above those of another datastore.
//!
//! Clients remember revisions: they must not come again with other contents. When a cluster takes over what another
//! datastore held, its own revisions are usually far below the other's, and a cluster gives them out one at a time. So
//! such a cluster keeps one number, under [`KEY`], which this engine adds to every revision that it reads from the
//! cluster and takes from every one that it sends. A cluster without the key is as it is.
//!
//! etcdctl and stock API servers on the same cluster see the cluster's own, lower revisions.

use bytes::Bytes;
use etcd_client::proto::{PbRangeResponse, PbTxnResponse};

use super::convert;
use super::wire::{CallError, Effect, Members};
use super::{EtcdOptions, revision};
use crate::store::{CompareResult, KeyRange, Op, Put, RangeOptions, Revision, StoreError, Txn};

/// Holds the number, in decimal. No part of what snapshots keep: it belongs to the cluster.
pub const KEY: &str = "skiff/revisions";

/// What is added to the cluster's revisions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Shift(i64);

impl Shift {
    /// Our revision for the cluster's. 0 stays what it means: none.
    pub(super) fn ours(self, theirs: i64) -> Revision {
        Revision(if theirs > 0 { theirs.saturating_add(self.0) } else { theirs })
    }

    /// The cluster's revision for ours, which it must have given out or have yet to give out.
    pub(super) fn theirs(self, ours: Revision) -> Result<i64, StoreError> {
        match ours.0 {
            0 => Ok(0),
            old if old <= self.0 && old > 0 => Err(StoreError::Compacted { compact_revision: Revision(self.0 + 1) }),
            ours => Ok(ours - self.0),
        }
    }

    /// What a condition on a key's revision compares with. No key has a revision of the time before, but a missing one
    /// has 0, and the answer for both must be the same as if nothing were added.
    pub(super) fn compared(self, ours: Revision, result: CompareResult) -> i64 {
        if ours.0 <= 0 || ours.0 > self.0 {
            return if ours.0 > 0 { ours.0 - self.0 } else { ours.0 };
        }
        match result {
            CompareResult::Equal | CompareResult::NotEqual => -1,
            CompareResult::Greater => 0,
            CompareResult::Less => 1,
        }
    }
}

/// The cluster's newest revision, and what is added to it.
pub(super) async fn read(members: &Members) -> Result<(i64, Shift), CallError> {
    let request = convert::range_request(&KeyRange::key(KEY), &RangeOptions::default(), 0);
    let answer: PbRangeResponse = members.call("/etcdserverpb.KV/Range", Effect::Reads, request).await?;
    let newest = revision(answer.header.as_ref());
    let text = answer.kvs.first().map(|kv| String::from_utf8_lossy(&kv.value).into_owned());
    let Some(text) = text else { return Ok((newest, Shift::default())) };
    match text.parse() {
        Ok(number) if number >= 0 => Ok((newest, Shift(number))),
        _ => Err(CallError::Refused(tonic::Status::data_loss(format!(
            "the key {KEY} holds {text:?}, which is no number"
        )))),
    }
}

/// Makes every revision that the cluster gives out from now on higher than `revision`. No server may be using the
/// cluster. Interrupted, it has happened or not.
pub async fn go_on_above(options: &EtcdOptions, above: Revision) -> Result<(), StoreError> {
    let members = Members::new(&options.endpoints, options.tls.as_ref())
        .map_err(|error| StoreError::Engine { step: "use the datastore's endpoints", source: Box::new(error) })?;
    let failed = |step| move |error| convert::error(step, error, Revision(0));
    let (newest, shift) = read(&members).await.map_err(failed("read the newest revision"))?;
    if shift.ours(newest) >= above {
        return Ok(());
    }
    // What the cluster holds now keeps its place below everything that comes.
    let value = Bytes::from((above.0 - newest).to_string());
    let put = Op::Put(Put { key: KEY.into(), value, ..Put::default() });
    let request = convert::txn_request(&Txn { success: vec![put], ..Txn::default() }, shift)?;
    let call = members.call("/etcdserverpb.KV/Txn", Effect::Writes, request);
    let _written: PbTxnResponse = call.await.map_err(failed("set where revisions go on"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn revisions_are_shifted_both_ways() {
        let shift = Shift(1000);
        assert_eq!((shift.ours(5), shift.ours(0)), (Revision(1005), Revision(0)));
        assert_eq!(shift.theirs(Revision(1005)).unwrap(), 5);
        assert_eq!(shift.theirs(Revision(0)).unwrap(), 0);
        assert!(matches!(
            shift.theirs(Revision(1000)),
            Err(StoreError::Compacted { compact_revision: Revision(1001) })
        ));
    }

    #[test]
    fn conditions_answer_as_if_nothing_were_added() {
        // Keys with their own revisions in the cluster; 0 is a missing one.
        let holds = |left: i64, right: i64, result| match result {
            CompareResult::Equal => left == right,
            CompareResult::NotEqual => left != right,
            CompareResult::Greater => left > right,
            CompareResult::Less => left < right,
        };
        let shift = Shift(10);
        for key in [0, 1, 2, 7] {
            for asked in 0..20 {
                for result in
                    [CompareResult::Equal, CompareResult::NotEqual, CompareResult::Greater, CompareResult::Less]
                {
                    let wanted = holds(shift.ours(key).0, asked, result);
                    let found = holds(key, shift.compared(Revision(asked), result), result);
                    assert_eq!(found, wanted, "key {key}, {result:?} {asked}");
                }
            }
        }
    }
}
