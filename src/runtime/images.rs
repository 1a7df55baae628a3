//! Images: names, manifests, and how their content gets into containerd.

pub mod config;
pub mod content;
pub mod import;
pub mod manifest;
pub mod pull;
pub mod store;
pub mod volumes;
