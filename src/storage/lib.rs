//! etcd's data model (revisions, MVCC, leases, watches, transactions, compaction) behind one small contract.
//!
//! Never sees a Kubernetes type: keys and values are bytes.

pub mod bolt;
pub mod encryption;
pub mod etcd;
pub mod etcd_grpc;
pub mod hub;
pub mod process;
pub mod snapshot;
pub mod sqlite;
pub mod store;

pub use etcd::{EtcdOptions, EtcdStore};
pub use sqlite::{SqliteOptions, SqliteStore};
pub use store::*;
