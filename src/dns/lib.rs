//! The cluster's DNS, answered by every node from the shared informers.
//!
//! The names are those of the Kubernetes DNS specification 1.1.0; where it leaves a choice, CoreDNS' `kubernetes` plugin
//! is matched. Names of other zones go to the nameservers of the node's resolv.conf,
//! whose answers are kept for at most half a minute.

mod cache;
mod follow;
mod forward;
mod index;
mod lookup;
mod message;
mod server;

use std::net::Ipv4Addr;
use std::path::PathBuf;

use base::Shutdown;
use client::Informers;
use ipnet::Ipv4Net;

pub use index::{Index, Zone};
pub use lookup::{Answer, records};

/// Where and for what to answer.
#[derive(Debug, Clone)]
pub struct DnsConfig {
    /// Address to listen on; must become local to this machine, not necessarily before the start.
    pub address: Ipv4Addr,
    /// DNS domain of the cluster, without a dot at its end.
    pub cluster_domain: String,
    /// The file that names the servers for everything outside the cluster. Its changes are noticed.
    pub resolv_conf: PathBuf,
    /// Ranges whose reverse zones are answered here.
    pub cluster_cidr: Ipv4Net,
    pub service_cidr: Ipv4Net,
}

/// Answers on port 53 (UDP and TCP) of the configured address until `shutdown`.
pub async fn run(config: DnsConfig, informers: Informers, shutdown: Shutdown) {
    shutdown.run_until_cancelled(server::serve(config, &informers, &shutdown)).await;
}
