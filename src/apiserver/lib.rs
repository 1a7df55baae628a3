//! apiserver
pub mod auth;
