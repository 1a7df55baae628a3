//! Makes the types and service traits of etcd's interface from `proto/`. Byte fields are shared, not copied.

fn main() -> std::io::Result<()> {
    println!("cargo:rerun-if-changed=proto");
    tonic_prost_build::configure().build_client(false).bytes(".").compile_protos(
        &["proto/etcd.proto", "proto/lock.proto", "proto/election.proto", "proto/health.proto"],
        &["proto"],
    )
}
