//! What `build.rs` made of `proto/`: messages and service traits as they travel.

pub(super) mod etcdserverpb {
    #![allow(clippy::all, reason = "generated")]
    tonic::include_proto!("etcdserverpb");
}

pub(super) mod v3lockpb {
    #![allow(clippy::all, reason = "generated")]
    tonic::include_proto!("v3lockpb");
}

pub(super) mod v3electionpb {
    #![allow(clippy::all, reason = "generated")]
    tonic::include_proto!("v3electionpb");
}

pub(super) mod health {
    #![allow(clippy::all, reason = "generated")]
    tonic::include_proto!("grpc.health.v1");
}

pub(super) use etcdserverpb::*;
