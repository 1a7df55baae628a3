//! What Lock and Election have in common: keys under one prefix, each bound to a lease, of which the oldest owns
//! (client/v3/concurrency: `Mutex`, `Election`, `waitDeletes`).

use bytes::Bytes;
use tonic::Status;

use super::Service;
use super::errors::status;
use crate::store::{
    Compare, CompareResult, CompareTarget, EventKind, KeyRange, KeyValue, LeaseId, Op, OpResult, Put, RangeOptions,
    Revision, Store, StoreError, Txn, TxnResult, WatchMessage, WatchOptions,
};

/// Seconds of a lease that is granted because the caller named none (concurrency `defaultSessionTTL`).
const SESSION_TTL: i64 = 60;

/// A contender's key.
pub(super) struct Claim {
    pub key: Bytes,
    pub lease: LeaseId,
    /// The revision at which the key came to be.
    pub revision: Revision,
    /// The revision of the answer.
    pub answered: Revision,
    /// The value that was there already, if the key was.
    pub found: Option<Bytes>,
}

/// Errors of etcd's own services come from its client and carry no code (`rpctypes.EtcdError`).
pub(super) fn unknown(error: StoreError) -> Status {
    Status::unknown(status(error).message().to_owned())
}

/// The prefix of the keys of a name.
pub(super) fn prefix(name: &[u8]) -> Bytes {
    [name, b"/"].concat().into()
}

/// Puts the key of a lease under the prefix unless it is there; grants a lease if `lease` is 0.
pub(super) async fn claim(service: &Service, prefix: &[u8], lease: i64, value: Bytes) -> Result<Claim, Status> {
    let lease = match lease {
        0 => service.store.lease_grant(LeaseId(0), SESSION_TTL).await.map_err(unknown)?.id,
        lease => LeaseId(lease),
    };
    let key = Bytes::from([prefix, format!("{:x}", lease.0).as_bytes()].concat());
    let put = Put { key: key.clone(), value, lease, ..Put::default() };
    let get = Op::Range { range: KeyRange::key(key.clone()), options: RangeOptions::default() };
    let txn = Txn { compare: vec![created(&key, Revision(0))], success: vec![Op::Put(put)], failure: vec![get] };
    let TxnResult { revision, mut results, .. } = service.store.txn(txn).await.map_err(unknown)?;
    let held = match results.pop() {
        Some(OpResult::Range(range)) => range.kvs.into_iter().next(),
        _ => None,
    };
    let (created, found) = match held {
        Some(kv) => (kv.create_revision, Some(kv.value)),
        None => (revision, None),
    };
    Ok(Claim { key, lease, revision: created, answered: revision, found })
}

/// The condition that a key came to be at this revision; 0: that it does not exist.
pub(super) fn created(key: &Bytes, revision: Revision) -> Compare {
    let range = KeyRange::key(key.clone());
    Compare { range, target: CompareTarget::Create(revision), result: CompareResult::Equal }
}

/// The keys of a prefix, oldest first.
async fn contenders(service: &Service, prefix: &Bytes) -> Result<(Vec<KeyValue>, Revision), Status> {
    let found =
        service.store.range(KeyRange::prefix(prefix.clone()), RangeOptions::default()).await.map_err(unknown)?;
    let mut kvs = found.kvs;
    kvs.sort_by_key(|kv| kv.create_revision);
    Ok((kvs, found.revision))
}

/// The owner of a prefix, and the revision as of which it is.
pub(super) async fn owner(service: &Service, prefix: &Bytes) -> Result<(Option<KeyValue>, Revision), Status> {
    let (kvs, revision) = contenders(service, prefix).await?;
    Ok((kvs.into_iter().next(), revision))
}

/// Returns when every key of the prefix that came to be before `revision` is gone.
pub(super) async fn wait_until_oldest(service: &Service, prefix: &Bytes, revision: Revision) -> Result<(), Status> {
    loop {
        let (kvs, at) = contenders(service, prefix).await?;
        // The youngest of the older ones is the last to go if each waits for the one before it.
        let Some(before) = kvs.into_iter().rfind(|kv| kv.create_revision < revision) else { return Ok(()) };
        let options = WatchOptions { start: Revision(at.0 + 1), prev_kv: false };
        let mut watch = service.store.watch(KeyRange::key(before.key), options).await.map_err(unknown)?;
        while let Some(message) = watch.messages.recv().await {
            match message {
                WatchMessage::Events { events, .. } if events.iter().all(|event| event.kind == EventKind::Put) => {}
                WatchMessage::Progress(_) => {}
                // Gone, or no longer known: look again.
                WatchMessage::Events { .. } | WatchMessage::Compacted(_) | WatchMessage::Lagged => break,
            }
        }
        if service.shutdown.is_cancelled() {
            return Err(status(StoreError::Stopped));
        }
    }
}

/// Deletes a claim when its caller goes before it has become the owner.
pub(super) struct Withdraw {
    service: Service,
    key: Option<(Bytes, Revision)>,
}

impl Withdraw {
    pub(super) fn new(service: &Service, claim: &Claim) -> Self {
        Self { service: service.clone(), key: Some((claim.key.clone(), claim.revision)) }
    }

    /// The caller has got what it wanted.
    pub(super) fn keep(mut self) {
        self.key = None;
    }
}

impl Drop for Withdraw {
    fn drop(&mut self) {
        let Some((key, revision)) = self.key.take() else { return };
        let service = self.service.clone();
        // The call has been dropped with its client's stream. The task ends with one answer of the store, and if the
        // store stops first the lease takes the key along.
        tokio::spawn(async move {
            if let Err(error) = resign(&service, &key, revision).await {
                tracing::debug!(%error, "could not withdraw a claim");
            }
        });
    }
}

/// Deletes the key if it is still the one that came to be at `revision`.
pub(super) async fn resign(service: &Service, key: &Bytes, revision: Revision) -> Result<Revision, Status> {
    let delete = Op::Delete { range: KeyRange::key(key.clone()), prev_kv: false };
    let txn = Txn { compare: vec![created(key, revision)], success: vec![delete], ..Txn::default() };
    Ok(service.store.txn(txn).await.map_err(unknown)?.revision)
}
