//! API aggregation: groups and versions that other API servers serve behind this one (upstream's kube-aggregator).
//!
//! APIService objects say which. One task ([`run`]) follows them and keeps three things: the [`Snapshot`] by which
//! requests are routed and discovery is told, the `Available` condition of remote APIServices (told by changes of
//! Services and EndpointSlices, and looked at again every half minute), and the APIServices of what this server serves
//! itself ([`local`]). Another ([`trust`]) tells aggregated servers whom to trust. A server without remote APIServices follows nothing but the APIService objects.

mod availability;
mod catalog;
mod fetch;
mod follower;
mod local;
pub(crate) mod openapi;
pub mod priorities;
pub(crate) mod proxy;
mod remote;
pub mod trust;

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use crate::discovery::Documents;
use crate::served::KindTable;
use priorities::Priority;

pub(crate) use catalog::{Catalog, Group, Source, Version};
pub use follower::run;
#[cfg(test)]
pub(crate) use remote::ProxyClients;
pub(crate) use remote::Remote;

/// What the server knows of API aggregation. One task writes, requests read.
pub struct Aggregator {
    snapshot: ArcSwap<Snapshot>,
    /// What the server shows to aggregated servers; `None`: nothing.
    identity: Option<pki::Leaf>,
    /// Times that an APIService became unavailable, by name and reason.
    lost: Mutex<BTreeMap<(String, String), u64>>,
    /// Aggregated discovery of one table and one snapshot, by their generations.
    discovery: Mutex<((u64, u64), Arc<Documents>)>,
}

/// The APIServices at one time.
#[derive(Default)]
pub(crate) struct Snapshot {
    /// Grows with every change.
    pub generation: u64,
    /// By group and version.
    pub remotes: HashMap<String, HashMap<String, Arc<Remote>>>,
    /// Of every APIService object, by group and version.
    pub priorities: HashMap<(String, String), Priority>,
}

impl Snapshot {
    pub fn remote(&self, group: &str, version: &str) -> Option<&Arc<Remote>> {
        self.remotes.get(group)?.get(version)
    }

    pub fn all(&self) -> impl Iterator<Item = &Arc<Remote>> {
        self.remotes.values().flat_map(HashMap::values)
    }
}

impl Aggregator {
    /// `identity` is the front proxy's client certificate.
    pub(crate) fn new(identity: Option<pki::Leaf>) -> Self {
        Self {
            snapshot: ArcSwap::from_pointee(Snapshot::default()),
            identity,
            lost: Mutex::default(),
            discovery: Mutex::default(),
        }
    }

    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// The aggregated server of a path, if it is below `/apis/GROUP/VERSION` of one or its OpenAPI document.
    pub(crate) fn route(&self, path: &str) -> Option<Arc<Remote>> {
        let snapshot = self.snapshot.load();
        if snapshot.remotes.is_empty() {
            return None;
        }
        if let Some(rest) = path.strip_prefix("/openapi/v3/apis/") {
            let (group, version) = rest.split_once('/')?;
            let remote = snapshot.remote(group, version)?;
            return matches!(remote.document(), Some(openapi::Place::Served)).then(|| Arc::clone(remote));
        }
        let mut parts = path.strip_prefix("/apis/")?.split('/');
        snapshot.remote(parts.next()?, parts.next()?).cloned()
    }

    /// The aggregated discovery documents of a table and a snapshot.
    pub(crate) fn documents(&self, table: &KindTable, snapshot: &Snapshot) -> Arc<Documents> {
        let wanted = (table.generation, snapshot.generation);
        let mut kept = self.discovery.lock();
        if kept.0 != wanted {
            *kept = (wanted, Arc::default());
        }
        Arc::clone(&kept.1)
    }

    /// Metrics of upstream's `availabilitymetrics`.
    pub(crate) fn metrics(&self, out: &mut String) -> std::fmt::Result {
        let name = "aggregator_unavailable_apiservice";
        writeln!(
            out,
            "# HELP {name} [ALPHA] Gauge of APIServices which are marked as unavailable broken down by APIService name.\n# TYPE {name} gauge"
        )?;
        for remote in self.snapshot.load().all() {
            writeln!(out, "{name}{{name=\"{}\"}} {}", remote.name, u8::from(!remote.available))?;
        }
        let name = "aggregator_unavailable_apiservice_total";
        writeln!(
            out,
            "# HELP {name} [ALPHA] Counter of APIServices which are marked as unavailable broken down by APIService name and reason.\n# TYPE {name} counter"
        )?;
        for ((service, reason), count) in self.lost.lock().iter() {
            writeln!(out, "{name}{{name=\"{service}\",reason=\"{reason}\"}} {count}")?;
        }
        Ok(())
    }
}
