//! The Lock service (server/etcdserver/api/v3lock/lock.go).

use bytes::Bytes;
use tonic::{Request, Response, Status, async_trait};

use super::Service;
use super::ownership::{Withdraw, claim, prefix, unknown, wait_until_oldest};
use super::pb::v3lockpb::lock_server::Lock;
use super::pb::v3lockpb::{LockRequest, LockResponse, UnlockRequest, UnlockResponse};
use crate::store::{KeyRange, Op, RangeOptions, Revision, Store, Txn};

#[async_trait]
impl Lock for Service {
    /// Returns when the caller's lease holds the lock.
    async fn lock(&self, request: Request<LockRequest>) -> Result<Response<LockResponse>, Status> {
        let LockRequest { name, lease } = request.into_inner();
        let prefix = prefix(&name);
        let claim = claim(self, &prefix, lease, Bytes::new()).await?;
        let withdraw = Withdraw::new(self, &claim);
        wait_until_oldest(self, &prefix, claim.revision).await?;
        // The lease may have ended while it waited.
        let held = self.store.range(KeyRange::key(claim.key.clone()), RangeOptions::default()).await;
        let held = held.map_err(unknown)?;
        withdraw.keep();
        if held.kvs.is_empty() {
            return Err(Status::unknown("mutex: session is expired"));
        }
        let revision = Revision(held.revision.0.max(claim.answered.0));
        Ok(Response::new(LockResponse { header: self.header(revision), key: claim.key }))
    }

    async fn unlock(&self, request: Request<UnlockRequest>) -> Result<Response<UnlockResponse>, Status> {
        let UnlockRequest { key } = request.into_inner();
        let delete = Op::Delete { range: KeyRange::key(key), prev_kv: false };
        let result = self.store.txn(Txn { success: vec![delete], ..Txn::default() }).await.map_err(unknown)?;
        Ok(Response::new(UnlockResponse { header: self.header(result.revision) }))
    }
}
