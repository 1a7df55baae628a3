//! The API server: accept, request info, filters, verbs, watch cache, discovery, OpenAPI, proxying.
//!
//! Invariants: it never sees `kinds` — everything that is particular to a kind arrives as a [`api::kind::KindDef`];
//! every request, from a socket or in memory, goes through the one chain in [`filters`]; stored bytes are copied, not
//! encoded again.

pub mod aggregate;
pub mod audit;
pub mod auth;
pub mod cache;
pub mod codec;
mod component_status;
pub mod compress;
pub mod connect;
mod content;
pub mod discovery;
pub mod errors;
pub mod extensions;
pub mod filters;
pub mod flow;
pub mod health;
mod kinds;
pub mod limits;
pub mod metrics;
pub mod negotiate;
pub mod openapi;
pub(crate) mod own_maps;
pub mod query;
pub mod registry;
pub mod remote;
pub mod request;
pub mod respond;
pub mod router;
pub mod serve;
pub mod served;
pub mod server;
pub mod table;
pub mod verbs;
pub mod webhook;
pub mod zpages;

mod local;
mod tunnel;
mod websocket;

#[cfg(test)]
mod tests;

pub use filters::Authenticate;
pub use filters::deadline::parse as parse_duration;
pub use limits::Limits;
pub use server::{ApiServer, ApiService, Config};
