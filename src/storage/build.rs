//! Makes the types and service traits of etcd's interface and of key plugins from `proto/`. Byte fields are shared, not
//! copied.

fn main() -> std::io::Result<()> {
    println!("cargo:rerun-if-changed=proto");
    tonic_prost_build::configure().build_client(false).bytes(".").compile_protos(
        &["proto/etcd.proto", "proto/lock.proto", "proto/election.proto", "proto/health.proto"],
        &["proto"],
    )?;
    // Ordered maps, so that the same annotations always have the same form.
    tonic_prost_build::configure().btree_map(".").bytes(".").compile_protos(&["proto/kms.proto"], &["proto"])
}
