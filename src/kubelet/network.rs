//! The pod network as the node agent sees it. The wiring implements it; this room never programs the kernel's network.

use std::net::IpAddr;
use std::path::PathBuf;

use async_trait::async_trait;

/// A pod whose network namespace is to be connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachRequest {
    pub uid: String,
    pub namespace: String,
    pub name: String,
    /// The pinned network namespace.
    pub netns: PathBuf,
    pub host_ports: Vec<HostPort>,
    /// `kubernetes.io/ingress-bandwidth` and egress annotations and other metadata a network may read.
    pub annotations: std::collections::BTreeMap<String, String>,
}

/// A port of the node that leads to the pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    pub host_ip: Option<IpAddr>,
    pub host_port: u16,
    pub container_port: u16,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
}

/// Why the network did not connect or disconnect a pod. The text goes into the pod's events.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct NetworkError(pub String);

/// The node's pod network.
#[async_trait]
pub trait PodNetwork: Send + Sync {
    /// Connects the pod, or finds it connected: the addresses, the primary first. Idempotent by uid.
    async fn attach(&self, request: &AttachRequest) -> Result<Vec<IpAddr>, NetworkError>;
    /// Disconnects the pod and gives its addresses back. Idempotent.
    async fn detach(&self, uid: &str) -> Result<(), NetworkError>;
    /// Whether pods can be connected now; the text goes into the node's Ready condition.
    async fn ready(&self) -> Result<(), String>;
    /// Uids of the pods that are connected, so that what a crash left behind is given back.
    async fn attached(&self) -> Result<Vec<String>, NetworkError>;
}
