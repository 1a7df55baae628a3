//! What `build.rs` made of `proto/kms.proto`: the interface of key plugins, also for tests that are one.

#![allow(clippy::all, missing_docs, reason = "generated")]

tonic::include_proto!("v2");
