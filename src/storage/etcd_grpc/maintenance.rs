//! The Maintenance service.

use tonic::{Request, Response, Status, async_trait};

use super::errors::status;
use super::pb::maintenance_server::Maintenance;
use super::pb::{
    AlarmMember, AlarmRequest, AlarmResponse, DefragmentRequest, DefragmentResponse, DowngradeRequest,
    DowngradeResponse, HashKvRequest, HashKvResponse, HashRequest, HashResponse, MoveLeaderRequest, MoveLeaderResponse,
    SnapshotRequest, StatusRequest, StatusResponse,
};
use super::{Service, hash, snapshot, status as member_status};

/// etcd `AlarmRequest.AlarmAction`.
const GET: i32 = 0;
const ACTIVATE: i32 = 1;
const DEACTIVATE: i32 = 2;
/// etcd `DowngradeRequest.DowngradeAction`.
const VALIDATE: i32 = 0;
const ENABLE: i32 = 1;
const CANCEL: i32 = 2;
/// The version of the cluster, and the only one that etcd could be downgraded to.
pub(super) const CLUSTER_VERSION: &str = "3.6";
const VERSION_BELOW: (u32, u32) = (3, 5);

#[async_trait]
impl Maintenance for Service {
    async fn alarm(&self, request: Request<AlarmRequest>) -> Result<Response<AlarmResponse>, Status> {
        let AlarmRequest { action, member_id, alarm } = request.into_inner();
        let own = self.store.identity().member;
        let alarms = match action {
            GET => self.alarms.list(alarm),
            ACTIVATE if (member_id == 0 || member_id == own) && self.alarms.raise(alarm) => vec![alarm],
            DEACTIVATE if (member_id == 0 || member_id == own) && self.alarms.clear(alarm) => vec![alarm],
            ACTIVATE | DEACTIVATE => Vec::new(),
            _ => return Err(Status::unknown("etcdserver: unknown method")),
        };
        let alarms = alarms.into_iter().map(|alarm| AlarmMember { member_id: own, alarm }).collect();
        Ok(Response::new(AlarmResponse { header: self.header_now().await?, alarms }))
    }

    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        member_status::status(self).await.map(Response::new)
    }

    async fn defragment(&self, _: Request<DefragmentRequest>) -> Result<Response<DefragmentResponse>, Status> {
        self.store.defragment().await.map_err(status)?;
        Ok(Response::new(DefragmentResponse { header: None }))
    }

    async fn hash(&self, _: Request<HashRequest>) -> Result<Response<HashResponse>, Status> {
        hash::hash(self).await.map(Response::new)
    }

    async fn hash_kv(&self, request: Request<HashKvRequest>) -> Result<Response<HashKvResponse>, Status> {
        hash::hash_kv(self, request.into_inner()).await.map(Response::new)
    }

    type SnapshotStream = snapshot::Blobs;

    async fn snapshot(&self, _: Request<SnapshotRequest>) -> Result<Response<Self::SnapshotStream>, Status> {
        snapshot::snapshot(self).await.map(Response::new)
    }

    async fn move_leader(&self, _: Request<MoveLeaderRequest>) -> Result<Response<MoveLeaderResponse>, Status> {
        Err(Status::failed_precondition("etcdserver: bad leader transferee"))
    }

    /// There is one version of the file's layout that matters to clients, and nothing to downgrade it to.
    async fn downgrade(&self, request: Request<DowngradeRequest>) -> Result<Response<DowngradeResponse>, Status> {
        let DowngradeRequest { action, version } = request.into_inner();
        let validated = || match target(&version) {
            None => Err(Status::invalid_argument("etcdserver: wrong downgrade target version format")),
            Some(VERSION_BELOW) => Ok(()),
            Some(_) => Err(Status::invalid_argument("etcdserver: invalid downgrade target version")),
        };
        match action {
            VALIDATE => validated()?,
            ENABLE => {
                validated()?;
                return Err(Status::unimplemented("etcdserver: this store has no layout of an older etcd"));
            }
            // etcd takes it whether there is one or not.
            CANCEL => {}
            _ => return Err(Status::unknown("etcdserver: unknown method")),
        }
        let header = self.header_now().await?;
        Ok(Response::new(DowngradeResponse { header, version: CLUSTER_VERSION.to_owned() }))
    }
}

/// Major and minor of `3.5` or `3.5.0` (server/etcdserver/v3_server.go `convertToClusterVersion`).
fn target(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split('.').map(|part| part.parse().ok());
    let (major, minor) = (parts.next()??, parts.next()??);
    match (parts.next(), parts.next()) {
        (None | Some(Some(_)), None) => Some((major, minor)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::target;

    #[test]
    fn versions_have_two_or_three_numbers() {
        let check = |version: &str, wanted| assert_eq!(target(version), wanted, "{version}");
        check("3.5", Some((3, 5)));
        check("3.5.0", Some((3, 5)));
        check("3", None);
        check("3.x", None);
        check("3.5.0.1", None);
        check("", None);
    }
}
