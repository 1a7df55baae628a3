//! Containers and images of the node, behind one trait.
//!
//! Knows containerd and OCI, never Kubernetes: a "sandbox" is a set of pinned namespaces with labels.

pub mod contract;

pub use contract::*;
