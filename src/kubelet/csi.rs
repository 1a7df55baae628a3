//! Storage plugins by the Container Storage Interface: which are registered, and calls to them.
//!
//! Plugins announce themselves by a socket in `<root>/plugins_registry` (upstream `pluginmanager`,
//! `volume/csi/csi_plugin.go`); [`plugins`] follows that folder. A call is one connection, as kubelet's are short.

pub mod plugins;
pub mod proto;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use prost::Message;
use tokio::net::UnixStream;

use crate::grpc::{GrpcError, unary};

/// Longest that one call to a plugin may take (upstream `csiTimeout`).
const TIMEOUT: Duration = Duration::from_secs(120);

/// A plugin that is registered on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Driver {
    pub name: String,
    /// Its CSI socket.
    pub endpoint: PathBuf,
    /// How the driver calls this node.
    pub node_id: String,
}

/// The plugins of this node, by name, and locks by volume.
#[derive(Default)]
pub struct Drivers {
    by_name: Mutex<HashMap<String, Driver>>,
    /// Staging and unstaging of one volume exclude each other.
    staging: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    /// Names of attachable volumes that pods use, by pod: `kubernetes.io/csi/<driver>^<handle>`.
    in_use: Mutex<HashMap<String, Vec<String>>>,
}

impl Drivers {
    pub fn get(&self, name: &str) -> Option<Driver> {
        self.by_name.lock().get(name).cloned()
    }

    fn insert(&self, driver: Driver) {
        self.by_name.lock().insert(driver.name.clone(), driver);
    }

    /// Forgets a driver unless another socket has taken its name over.
    fn remove(&self, driver: &Driver) -> bool {
        let mut all = self.by_name.lock();
        let same = all.get(&driver.name) == Some(driver);
        if same {
            all.remove(&driver.name);
        }
        same
    }

    /// The lock of one volume. Locks that nobody holds are dropped at the next call.
    pub fn staging_lock(&self, driver: &str, handle: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut all = self.staging.lock();
        all.retain(|_, lock| Arc::strong_count(lock) > 1);
        all.entry(format!("{driver}^{handle}")).or_default().clone()
    }

    pub fn note_in_use(&self, pod_uid: &str, volume: String) {
        let mut all = self.in_use.lock();
        let list = all.entry(pod_uid.to_owned()).or_default();
        if !list.contains(&volume) {
            list.push(volume);
        }
    }

    pub fn release(&self, pod_uid: &str) {
        self.in_use.lock().remove(pod_uid);
    }

    /// For `status.volumesInUse` of the node: what must not be detached.
    pub fn in_use(&self) -> Vec<String> {
        let mut all: Vec<String> = self.in_use.lock().values().flatten().cloned().collect();
        all.sort();
        all.dedup();
        all
    }
}

/// Calls a method of the plugin behind a socket.
///
/// # Errors
/// The plugin's word, or why it could not be asked.
pub async fn call<A: Message + Default>(socket: &Path, method: &str, request: &impl Message) -> Result<A, GrpcError> {
    let connect = async {
        let stream = UnixStream::connect(socket).await;
        let stream =
            stream.map_err(|e| GrpcError::Transport(format!("cannot connect to {}: {e}", socket.display())))?;
        unary(stream, "localhost", (method, "kubelet/1.37"), request).await
    };
    match tokio::time::timeout(TIMEOUT, connect).await {
        Ok(answer) => answer,
        Err(_) => Err(GrpcError::Status { code: 4, message: "context deadline exceeded".to_owned() }),
    }
}

impl Driver {
    /// Whether the node service has a capability (`NodeServiceCapability.RPC.Type`).
    ///
    /// # Errors
    /// See [`call`].
    pub async fn has(&self, capability: i32) -> Result<bool, GrpcError> {
        let answer: proto::NodeGetCapabilitiesResponse =
            call(&self.endpoint, "/csi.v1.Node/NodeGetCapabilities", &proto::Empty {}).await?;
        Ok(answer.capabilities.iter().filter_map(|c| c.rpc.as_ref()).any(|rpc| rpc.kind == capability))
    }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::routing::post;

    use super::*;

    /// A message in gRPC's frame.
    fn framed(message: &impl Message) -> Vec<u8> {
        let bytes = message.encode_to_vec();
        let length = u32::try_from(bytes.len()).unwrap().to_be_bytes();
        [&[0][..], &length, &bytes].concat()
    }

    #[tokio::test]
    async fn plugins_are_called_over_their_socket() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("csi.sock");
        let listener = tokio::net::UnixListener::bind(&socket).unwrap();
        let rpc = proto::NodeServiceCapabilityRpc { kind: proto::capability::STAGE_UNSTAGE_VOLUME };
        let capabilities = vec![proto::NodeServiceCapability { rpc: Some(rpc) }];
        let answer = framed(&proto::NodeGetCapabilitiesResponse { capabilities });
        let routes = Router::new()
            .route(
                "/csi.v1.Node/NodeGetCapabilities",
                post(|| async move { ([("grpc-status", "0"), ("content-type", "application/grpc")], answer) }),
            )
            .route(
                "/csi.v1.Node/NodeUnpublishVolume",
                post(|| async { ([("grpc-status", "5"), ("grpc-message", "no%20such volume")], Vec::new()) }),
            );
        let server = tokio::spawn(async move { axum::serve(listener, routes).await });
        let driver = Driver { name: "d".into(), endpoint: socket.clone(), node_id: "n".into() };
        assert!(driver.has(proto::capability::STAGE_UNSTAGE_VOLUME).await.unwrap());
        assert!(!driver.has(proto::capability::VOLUME_MOUNT_GROUP).await.unwrap());
        let error = call::<proto::Empty>(&socket, "/csi.v1.Node/NodeUnpublishVolume", &proto::Empty {}).await;
        assert_eq!(error.unwrap_err().to_string(), "rpc error: code = NotFound desc = no such volume");
        server.abort();
        let gone = call::<proto::Empty>(&dir.path().join("none"), "/x/Y", &proto::Empty {}).await;
        assert!(matches!(gone, Err(GrpcError::Transport(_))));
    }
}
