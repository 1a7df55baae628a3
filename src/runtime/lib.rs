//! Containers and images of the node, behind one trait.
//!
//! Knows containerd and OCI, never Kubernetes: a "sandbox" is a set of pinned namespaces with labels.

pub mod cgroup;
pub mod containerd;
pub mod contract;
pub mod events;
pub mod fake;
mod files;
pub mod images;
pub mod init;
pub mod logs;
pub mod process;
pub mod reference;
pub mod sandbox;
pub mod spec;
mod sys;

pub use containerd::{ContainerdRuntime, Options};
pub use contract::*;
pub use fake::FakeRuntime;
pub use images::pull::{RegistryConfig, RegistryTls};
pub use images::store::ImageStore;
