//! The Maintenance service.

use etcd_client::proto::{
    PbAlarmRequest, PbAlarmResponse, PbDefragmentRequest, PbDefragmentResponse, PbDowngradeRequest,
    PbDowngradeResponse, PbHashKvRequest, PbHashKvResponse, PbHashRequest, PbHashResponse, PbMaintenanceService,
    PbMoveLeaderRequest, PbMoveLeaderResponse, PbSnapshotRequest, PbStatusRequest, PbStatusResponse,
};
use tonic::{Request, Response, Status, async_trait};

use super::errors::{one_member, status};
use super::{Service, hash, snapshot, status as member_status};

/// etcd `AlarmRequest.AlarmAction.ACTIVATE`.
const ACTIVATE: i32 = 1;

#[async_trait]
impl PbMaintenanceService for Service {
    async fn alarm(&self, request: Request<PbAlarmRequest>) -> Result<Response<PbAlarmResponse>, Status> {
        if request.into_inner().action == ACTIVATE {
            return Err(Status::unimplemented("etcdserver: this store raises no alarms"));
        }
        // A full disk is told to the request that needs it and ends by itself: there is never an alarm to list or clear.
        Ok(Response::new(PbAlarmResponse { header: self.header_now().await?, alarms: Vec::new() }))
    }

    async fn status(&self, _: Request<PbStatusRequest>) -> Result<Response<PbStatusResponse>, Status> {
        member_status::status(self).await.map(Response::new)
    }

    async fn defragment(&self, _: Request<PbDefragmentRequest>) -> Result<Response<PbDefragmentResponse>, Status> {
        self.store.defragment().await.map_err(status)?;
        Ok(Response::new(PbDefragmentResponse { header: self.header_now().await? }))
    }

    async fn hash(&self, _: Request<PbHashRequest>) -> Result<Response<PbHashResponse>, Status> {
        hash::hash(self).await.map(Response::new)
    }

    async fn hash_kv(&self, request: Request<PbHashKvRequest>) -> Result<Response<PbHashKvResponse>, Status> {
        hash::hash_kv(self, request.into_inner()).await.map(Response::new)
    }

    type SnapshotStream = snapshot::Blobs;

    async fn snapshot(&self, _: Request<PbSnapshotRequest>) -> Result<Response<Self::SnapshotStream>, Status> {
        snapshot::snapshot(self).await.map(Response::new)
    }

    async fn move_leader(&self, _: Request<PbMoveLeaderRequest>) -> Result<Response<PbMoveLeaderResponse>, Status> {
        Err(Status::failed_precondition("etcdserver: bad leader transferee"))
    }

    async fn downgrade(&self, _: Request<PbDowngradeRequest>) -> Result<Response<PbDowngradeResponse>, Status> {
        Err(one_member())
    }
}
