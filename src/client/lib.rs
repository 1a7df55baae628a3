//! How every component speaks to the API server: one typed client, one watch per kind, and the tools that
//! reconcilers share (work queue, events, leader election).
//!
//! In the server process the transport is the API server's own service called in memory; elsewhere it is mutual TLS.
//! JSON becomes typed structs in this crate only, so that serde's code is instantiated once.

pub mod client;
pub mod error;
mod events;
mod informer;
pub mod leader;
mod machine;
pub mod owner;
pub mod params;
pub mod queue;
pub mod reflect;
pub mod resource;
mod store;

pub use client::Client;
pub use error::Error;
pub use events::{EventType, ObjectRef, Recorder};
pub use informer::{Event, Informer, Informers, Subscription};
pub use k8s_openapi;
pub use kube::client::Body;
pub use leader::{LeaderConfig, LeaderElector};
pub use owner::{controller_of, is_controlled_by, owner_ref};
pub use params::{DeleteParams, ListParams, Patch};
pub use queue::WorkQueue;
pub use resource::Resource;
