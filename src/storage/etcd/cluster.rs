//! The members of the cluster, for whoever starts and supervises them.

use etcd_client::proto::{
    PbMember, PbMemberAddRequest, PbMemberAddResponse, PbMemberListRequest, PbMemberListResponse,
    PbMemberPromoteRequest, PbMemberPromoteResponse, PbMemberRemoveRequest, PbMemberRemoveResponse, PbStatusRequest,
    PbStatusResponse, PbTxnResponse,
};

use super::shift::Shift;
use super::wire::{CallError, Effect, Members, plain};
use super::{EtcdTls, convert};
use crate::store::{Op, Put, Revision, StoreError, Txn};

/// A member of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdMemberInfo {
    pub id: u64,
    /// Empty until the member has started for the first time.
    pub name: String,
    pub peer_urls: Vec<String>,
    pub client_urls: Vec<String>,
    /// Receives everything and has no vote.
    pub learner: bool,
}

/// What one member says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdHealth {
    pub endpoint: String,
    pub member: u64,
    pub leader: u64,
    pub version: String,
    /// Bytes of its database on disk.
    pub size: u64,
    pub revision: Revision,
    pub learner: bool,
    /// Alarms and other troubles, in etcd's words.
    pub errors: Vec<String>,
}

/// A client of the cluster's own affairs.
pub struct EtcdCluster {
    members: Members,
}

impl From<PbMember> for EtcdMemberInfo {
    fn from(member: PbMember) -> Self {
        Self {
            id: member.id,
            name: member.name,
            peer_urls: member.peer_ur_ls,
            client_urls: member.client_ur_ls,
            learner: member.is_learner,
        }
    }
}

impl EtcdCluster {
    /// Talks to whichever of `endpoints` answers.
    pub fn new(endpoints: &[String], tls: Option<&EtcdTls>) -> Result<Self, StoreError> {
        let members = Members::new(endpoints, tls)
            .map_err(|error| StoreError::Engine { step: "use the endpoints", source: Box::new(error) })?;
        Ok(Self { members })
    }

    /// All members, as the cluster has agreed.
    pub async fn list(&self) -> Result<Vec<EtcdMemberInfo>, StoreError> {
        let request = PbMemberListRequest { linearizable: true };
        let answer: Result<PbMemberListResponse, _> =
            self.members.call("/etcdserverpb.Cluster/MemberList", Effect::Reads, request).await;
        Ok(answer.map_err(failed("list the members"))?.members.into_iter().map(EtcdMemberInfo::from).collect())
    }

    /// Adds a member without a vote; answers with all members.
    pub async fn add_learner(&self, peer_url: &str) -> Result<(EtcdMemberInfo, Vec<EtcdMemberInfo>), StoreError> {
        let request = PbMemberAddRequest { peer_ur_ls: vec![peer_url.to_owned()], is_learner: true };
        let answer: PbMemberAddResponse = self
            .members
            .call("/etcdserverpb.Cluster/MemberAdd", Effect::Writes, request)
            .await
            .map_err(failed("add a member"))?;
        let added = answer
            .member
            .map(EtcdMemberInfo::from)
            .ok_or(StoreError::Engine { step: "add a member", source: "the answer names no member".into() })?;
        Ok((added, answer.members.into_iter().map(EtcdMemberInfo::from).collect()))
    }

    /// Gives a learner its vote; refused until it has caught up with the leader.
    pub async fn promote(&self, id: u64) -> Result<(), StoreError> {
        let request = PbMemberPromoteRequest { id };
        let answer: Result<PbMemberPromoteResponse, _> =
            self.members.call("/etcdserverpb.Cluster/MemberPromote", Effect::Writes, request).await;
        answer.map(drop).map_err(failed("promote a member"))
    }

    /// Removes a member from the cluster.
    pub async fn remove(&self, id: u64) -> Result<(), StoreError> {
        let request = PbMemberRemoveRequest { id };
        let answer: Result<PbMemberRemoveResponse, _> =
            self.members.call("/etcdserverpb.Cluster/MemberRemove", Effect::Writes, request).await;
        answer.map(drop).map_err(failed("remove a member"))
    }

    /// Writes a key, for programs that have no store open: servers watch it.
    pub async fn put(&self, key: &str, value: &str) -> Result<(), StoreError> {
        let put = Put { key: key.to_owned().into(), value: value.to_owned().into(), ..Put::default() };
        let request = convert::txn_request(&Txn { success: vec![Op::Put(put)], ..Txn::default() }, Shift::default())?;
        let answer: Result<PbTxnResponse, _> = self.members.call("/etcdserverpb.KV/Txn", Effect::Writes, request).await;
        answer.map(drop).map_err(failed("write"))
    }

    /// Asks every endpoint how it is.
    pub async fn health(&self) -> Vec<Result<EtcdHealth, (String, StoreError)>> {
        let asked = (0..self.members.len()).map(|member| async move {
            let endpoint = self.members.endpoint(member);
            let call = self.members.call_member(member, "/etcdserverpb.Maintenance/Status", PbStatusRequest::default());
            let answer: Result<PbStatusResponse, _> = call.await;
            match answer {
                Ok(status) => Ok(EtcdHealth {
                    endpoint,
                    member: status.header.as_ref().map_or(0, |header| header.member_id),
                    leader: status.leader,
                    version: status.version,
                    size: u64::try_from(status.db_size).unwrap_or(0),
                    revision: Revision(status.header.map_or(0, |header| header.revision)),
                    learner: status.is_learner,
                    errors: status.errors,
                }),
                Err(status) => Err((endpoint, StoreError::Engine { step: "ask a member", source: plain(status) })),
            }
        });
        futures::future::join_all(asked).await
    }
}

fn failed(step: &'static str) -> impl Fn(CallError) -> StoreError {
    move |error| convert::error(step, error, Revision(0))
}
