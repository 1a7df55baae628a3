//! The node agent: a task for each pod of this node, from the API to containers and back.
//!
//! Invariants: a pod's next step is decided by [`plan`], which is pure, and carried out by [`execute`]; everything that
//! must outlive a restart is in the runtime's labels, in the pod's folder or in the API, so that a restart disturbs no
//! pod. This room never sees the network's code: it has [`PodNetwork`].

pub mod admit;
pub mod agent;
pub mod cgroups;
pub mod config;
pub mod context;
pub mod csi;
pub mod downward;
pub mod env;
pub mod events;
pub mod eviction;
pub mod execute;
pub mod files;
pub mod grpc;
pub mod image_gc;
pub mod images;
pub mod logs;
pub mod machine;
pub mod mounts;
pub mod names;
pub mod network;
pub mod node;
pub mod node_shutdown;
pub mod objects;
pub mod observed;
pub mod plan;
pub mod probes;
pub mod resize;
pub mod resources;
pub mod rotation;
pub mod runtime_class;
pub mod security;
pub mod server;
pub mod spdy;
pub mod spec;
pub mod static_pods;
pub mod status;
pub mod table;
pub mod termination;
#[cfg(test)]
mod testing;
pub mod volumes;
pub mod workers;

pub use agent::Kubelet;
pub use config::KubeletConfig;
pub use network::{AttachRequest, HostPort, NetworkError, PodNetwork};
