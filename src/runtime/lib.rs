//! Containers and images of the node, behind one trait.
//!
//! Knows containerd and OCI, never Kubernetes: a "sandbox" is a set of pinned namespaces with labels.

pub mod contract;
pub mod events;
pub mod fake;

pub use contract::*;
pub use fake::FakeRuntime;
