//! Kubernetes' built-in kinds: data and strategies.

pub mod facts;
