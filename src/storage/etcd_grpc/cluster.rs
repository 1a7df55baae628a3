//! The Cluster service: one member, for ever.

use tonic::{Request, Response, Status, async_trait};

use super::Service;
use super::errors::one_member;
use super::pb::cluster_server::Cluster;
use super::pb::{Member, MemberAddRequest, MemberChangeResponse, MemberListRequest, MemberListResponse, MemberRequest};
use crate::store::Revision;

#[async_trait]
impl Cluster for Service {
    async fn member_add(&self, _: Request<MemberAddRequest>) -> Result<Response<MemberChangeResponse>, Status> {
        Err(one_member())
    }

    async fn member_remove(&self, _: Request<MemberRequest>) -> Result<Response<MemberChangeResponse>, Status> {
        Err(one_member())
    }

    async fn member_update(&self, _: Request<MemberRequest>) -> Result<Response<MemberChangeResponse>, Status> {
        Err(one_member())
    }

    async fn member_list(&self, _: Request<MemberListRequest>) -> Result<Response<MemberListResponse>, Status> {
        let member = Member {
            id: self.store.identity().member,
            name: self.member.name.clone(),
            peer_urls: Vec::new(),
            client_urls: self.member.client_urls.clone(),
            is_learner: false,
        };
        Ok(Response::new(MemberListResponse { header: self.header(Revision(0)), members: vec![member] }))
    }

    async fn member_promote(&self, _: Request<MemberRequest>) -> Result<Response<MemberChangeResponse>, Status> {
        Err(one_member())
    }
}
