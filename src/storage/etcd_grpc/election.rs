//! The Election service (server/etcdserver/api/v3election/election.go).

use std::pin::Pin;

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use tonic::{Request, Response, Status, async_trait};

use super::ownership::{Withdraw, claim, created, owner, prefix, resign, unknown, wait_until_oldest};
use super::pb::v3electionpb::election_server::Election;
use super::pb::v3electionpb::{
    CampaignRequest, CampaignResponse, LeaderKey, LeaderRequest, LeaderResponse, ProclaimRequest, ProclaimResponse,
    ResignRequest, ResignResponse,
};
use super::{Service, key_value};
use crate::store::{
    Event, EventKind, KeyRange, LeaseId, Op, Put, Revision, Store, Txn, Watch, WatchMessage, WatchOptions,
};

#[async_trait]
impl Election for Service {
    /// Returns when the caller's lease leads.
    async fn campaign(&self, request: Request<CampaignRequest>) -> Result<Response<CampaignResponse>, Status> {
        let CampaignRequest { name, lease, value } = request.into_inner();
        let prefix = prefix(&name);
        let claim = claim(self, &prefix, lease, value.clone()).await?;
        let withdraw = Withdraw::new(self, &claim);
        if claim.found.as_ref().is_some_and(|found| *found != value) {
            proclaim(self, &claim.key, claim.revision, claim.lease, value).await?;
        }
        wait_until_oldest(self, &prefix, claim.revision).await?;
        withdraw.keep();
        let leader = LeaderKey { name, key: claim.key, rev: claim.revision.0, lease: claim.lease.0 };
        Ok(Response::new(CampaignResponse { header: self.header(claim.answered), leader: Some(leader) }))
    }

    async fn proclaim(&self, request: Request<ProclaimRequest>) -> Result<Response<ProclaimResponse>, Status> {
        let ProclaimRequest { leader, value } = request.into_inner();
        let LeaderKey { key, rev, lease, .. } = leader.ok_or_else(no_leader_key)?;
        let revision = proclaim(self, &key, Revision(rev), LeaseId(lease), value).await?;
        Ok(Response::new(ProclaimResponse { header: self.header(revision) }))
    }

    async fn leader(&self, request: Request<LeaderRequest>) -> Result<Response<LeaderResponse>, Status> {
        let (kv, revision) = owner(self, &prefix(&request.into_inner().name)).await?;
        let Some(kv) = kv else { return Err(Status::unknown("election: no leader")) };
        Ok(Response::new(LeaderResponse { header: self.header(revision), kv: Some(key_value(kv)) }))
    }

    type ObserveStream = Pin<Box<dyn Stream<Item = Result<LeaderResponse, Status>> + Send>>;

    /// Every leader and everything that it proclaims, from now on.
    async fn observe(&self, request: Request<LeaderRequest>) -> Result<Response<Self::ObserveStream>, Status> {
        let prefix = prefix(&request.into_inner().name);
        let observer = Observer { service: self.clone(), prefix, leader: None, ready: Vec::new() };
        let leaders = stream::unfold(Some(observer), |observer| async move {
            let mut observer = observer?;
            match observer.next().await {
                Ok(Some(answer)) => Some((Ok(answer), Some(observer))),
                Ok(None) => None,
                Err(status) => Some((Err(status), None)),
            }
        });
        Ok(Response::new(leaders.take_until(self.shutdown.clone().cancelled_owned()).boxed()))
    }

    async fn resign(&self, request: Request<ResignRequest>) -> Result<Response<ResignResponse>, Status> {
        let LeaderKey { key, rev, .. } = request.into_inner().leader.ok_or_else(no_leader_key)?;
        let revision = resign(self, &key, Revision(rev)).await?;
        Ok(Response::new(ResignResponse { header: self.header(revision) }))
    }
}

fn no_leader_key() -> Status {
    Status::unknown(r#""leader" field must be provided"#)
}

async fn proclaim(
    service: &Service,
    key: &Bytes,
    revision: Revision,
    lease: LeaseId,
    value: Bytes,
) -> Result<Revision, Status> {
    let put = Put { key: Bytes::copy_from_slice(key), value, lease, ..Put::default() };
    let txn = Txn { compare: vec![created(key, revision)], success: vec![Op::Put(put)], ..Txn::default() };
    let result = service.store.txn(txn).await.map_err(unknown)?;
    if !result.succeeded {
        return Err(Status::unknown("election: not leader"));
    }
    Ok(result.revision)
}

/// Follows the leaders of one election (client/v3/concurrency/election.go `observe`).
struct Observer {
    service: Service,
    prefix: Bytes,
    /// The watch of the present leader's key.
    leader: Option<Watch>,
    /// What the leader proclaimed and was not told yet, newest first.
    ready: Vec<Event>,
}

impl Observer {
    async fn next(&mut self) -> Result<Option<LeaderResponse>, Status> {
        loop {
            if let Some(event) = self.ready.pop() {
                if event.kind == EventKind::Delete {
                    self.leader = None;
                    self.ready.clear();
                    continue;
                }
                let header = self.service.header(event.kv.mod_revision);
                return Ok(Some(LeaderResponse { header, kv: Some(key_value(event.kv)) }));
            }
            let Some(watch) = &mut self.leader else {
                match self.find().await? {
                    Some(answer) => return Ok(Some(answer)),
                    None => continue,
                }
            };
            match watch.messages.recv().await {
                Some(WatchMessage::Events { events, .. }) => self.ready = events.iter().rev().cloned().collect(),
                Some(WatchMessage::Progress(_)) => {}
                // What was missed is over: the present leader is told anew.
                Some(WatchMessage::Compacted(_) | WatchMessage::Lagged) => self.leader = None,
                None => return Ok(None),
            }
        }
    }

    /// Tells the present leader and watches its key; without one, waits for a key to appear.
    async fn find(&mut self) -> Result<Option<LeaderResponse>, Status> {
        let (kv, revision) = owner(&self.service, &self.prefix).await?;
        let options = WatchOptions { start: Revision(revision.0 + 1), prev_kv: false };
        let store = &self.service.store;
        let Some(kv) = kv else {
            let mut watch = store.watch(KeyRange::prefix(self.prefix.clone()), options).await.map_err(unknown)?;
            loop {
                match watch.messages.recv().await {
                    Some(WatchMessage::Progress(_)) => {}
                    Some(_) => return Ok(None),
                    None => return Err(Status::unavailable("etcdserver: server stopped")),
                }
            }
        };
        self.leader = Some(store.watch(KeyRange::key(kv.key.clone()), options).await.map_err(unknown)?);
        Ok(Some(LeaderResponse { header: self.service.header(revision), kv: Some(key_value(kv)) }))
    }
}
