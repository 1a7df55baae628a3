//! etcd's v3 gRPC interface over the SQLite engine, so that etcdctl, etcd's client libraries and a stock
//! kube-apiserver work on it.
//!
//! It answers as etcd 3.6 does: the same fields, codes and error texts. There is one member, no authentication of
//! etcd's own (a TLS listener may ask for client certificates) and no downgrade. `/health`, `/version` and `/metrics`
//! are served over HTTP on the same listeners.

mod alarms;
mod auth;
mod calls;
mod cluster;
mod compact;
mod delete_range;
mod election;
mod errors;
mod hash;
mod health;
mod http;
mod kv;
mod lease;
mod lease_keep_alive;
mod listen;
mod lock;
mod maintenance;
mod ownership;
mod pb;
mod put;
mod range;
mod snapshot;
mod status;
mod txn;
mod watch;

use std::sync::Arc;

use bytes::Bytes;
use futures::future::join_all;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::Routes;
use tonic::transport::Server;

use base::Shutdown;

pub use listen::{EtcdListen, ListenError};

use crate::sqlite::{Identity, SqliteStore};
use crate::store::{KeyRange, KeyValue, Revision, Store};
use listen::{Listener, accept};

/// The version that is told to clients: the newest of etcd whose interface this is.
const VERSION: &str = "3.6.13";
/// etcd's term after its first election; without raft it never changes.
const RAFT_TERM: u64 = 2;
/// Bytes that a request may have beyond its keys and values (etcd `grpcOverheadBytes`).
const OVERHEAD_BYTES: usize = 512 * 1024;
/// Connections that wait to be served.
const ACCEPT_QUEUE: usize = 64;

/// The gRPC server with its sockets open, not yet serving.
pub struct EtcdServer {
    service: Service,
    listeners: Vec<Listener>,
}

/// How the one member presents itself.
#[derive(Debug, Clone, Default)]
pub struct EtcdMember {
    pub name: String,
    /// URLs under which clients reach it.
    pub client_urls: Vec<String>,
}

/// What every call is given.
#[derive(Clone)]
struct Service {
    store: Arc<SqliteStore>,
    member: Arc<EtcdMember>,
    alarms: Arc<alarms::Alarms>,
    calls: Arc<calls::Calls>,
    shutdown: Shutdown,
}

impl EtcdServer {
    /// Opens the sockets. After `shutdown` no connection is taken and running calls end.
    pub async fn bind(
        store: Arc<SqliteStore>,
        listen: Vec<EtcdListen>,
        member: EtcdMember,
        shutdown: Shutdown,
    ) -> Result<Self, ListenError> {
        let mut listeners = Vec::with_capacity(listen.len());
        for place in listen {
            listeners.push(Listener::bind(place).await?);
        }
        let service =
            Service { store, member: Arc::new(member), alarms: Arc::default(), calls: Arc::default(), shutdown };
        Ok(Self { service, listeners })
    }

    /// The TCP addresses that were bound.
    pub fn addresses(&self) -> Vec<std::net::SocketAddr> {
        self.listeners.iter().filter_map(Listener::address).collect()
    }

    /// Serves until the shutdown.
    pub async fn run(self) {
        let servers = self.listeners.into_iter().map(|listener| serve(self.service.clone(), listener));
        join_all(servers).await;
    }
}

async fn serve(service: Service, listener: Listener) {
    let (connections, incoming) = mpsc::channel(ACCEPT_QUEUE);
    let shutdown = service.shutdown.clone();
    let server = Server::builder()
        .accept_http1(true)
        .initial_stream_window_size(1024 * 1024)
        .initial_connection_window_size(4 * 1024 * 1024)
        .add_routes(routes(service))
        .serve_with_incoming_shutdown(ReceiverStream::new(incoming), shutdown.clone().cancelled_owned());
    let (served, ()) = tokio::join!(server, accept(listener, connections, shutdown));
    if let Err(error) = served {
        tracing::error!(error = %base::chain(&error), "the etcd interface ended");
    }
}

fn routes(service: Service) -> Routes {
    let limit = service.store.options().request_bytes_max + OVERHEAD_BYTES;
    let grpc = Routes::new(pb::kv_server::KvServer::new(service.clone()).max_decoding_message_size(limit))
        .add_service(pb::watch_server::WatchServer::new(service.clone()).max_decoding_message_size(limit))
        .add_service(pb::lease_server::LeaseServer::new(service.clone()))
        .add_service(pb::maintenance_server::MaintenanceServer::new(service.clone()))
        .add_service(pb::cluster_server::ClusterServer::new(service.clone()))
        .add_service(pb::v3lockpb::lock_server::LockServer::new(service.clone()))
        .add_service(pb::v3electionpb::election_server::ElectionServer::new(service.clone()))
        .add_service(pb::health::health_server::HealthServer::new(service.clone()))
        .add_service(auth::AuthDisabled(service.clone()));
    http::routes(service, grpc.into_axum_router()).into()
}

impl Service {
    /// The header of an answer at `revision`.
    fn header(&self, revision: Revision) -> Option<pb::ResponseHeader> {
        let Identity { cluster, member } = self.store.identity();
        Some(pb::ResponseHeader { cluster_id: cluster, member_id: member, revision: revision.0, raft_term: RAFT_TERM })
    }

    /// The header of an answer that has no revision of its own.
    async fn header_now(&self) -> Result<Option<pb::ResponseHeader>, tonic::Status> {
        Ok(self.header(self.store.revision().await.map_err(errors::status)?))
    }
}

/// etcd's pair of keys: no end is one key, an end of one zero byte is the end of the key space. Copied, because a range
/// may be kept for long and the bytes of a request share one buffer.
fn key_range(key: &Bytes, range_end: &Bytes) -> KeyRange {
    let end = match &range_end[..] {
        [] => None,
        [0] => Some(Bytes::new()),
        end => Some(Bytes::copy_from_slice(end)),
    };
    KeyRange { start: Bytes::copy_from_slice(key), end }
}

fn key_value(kv: KeyValue) -> pb::KeyValue {
    pb::KeyValue {
        key: kv.key,
        create_revision: kv.create_revision.0,
        mod_revision: kv.mod_revision.0,
        version: kv.version,
        value: kv.value,
        lease: kv.lease.0,
    }
}

/// The header of an answer within a transaction, which in etcd has nothing but the revision.
fn inner_header(revision: Revision) -> Option<pb::ResponseHeader> {
    Some(pb::ResponseHeader { revision: revision.0, ..pb::ResponseHeader::default() })
}
