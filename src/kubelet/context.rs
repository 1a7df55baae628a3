//! What every task of the node agent shares.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use base::{SharedClock, Shutdown};
use client::{Client, Informer, Informers};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, Service};
use runtime::Runtime;
use tokio::sync::Notify;
use tokio_util::task::TaskTracker;

use crate::cgroups::Cgroups;
use crate::config::KubeletConfig;
use crate::csi::Drivers;
use crate::events::Events;
use crate::eviction::Pressures;
use crate::images::Images;
use crate::machine::Machine;
use crate::network::PodNetwork;
use crate::objects::Objects;
use crate::observed::Cache;
use crate::probes::Probes;
use crate::runtime_class::RuntimeClasses;
use crate::table::PodTable;
use crate::volumes::certificates::Certificates;
use crate::volumes::persistent::Claims;
use crate::volumes::tokens::Tokens;
use crate::volumes::trust::Trust;

/// Shared by every task; nothing in it is held locked across an await.
pub struct Context {
    pub config: Arc<KubeletConfig>,
    pub client: Client,
    pub runtime: Arc<dyn Runtime>,
    pub network: Arc<dyn PodNetwork>,
    pub clock: SharedClock,
    pub events: Events,
    pub cache: Cache,
    pub table: Arc<PodTable>,
    pub images: Images,
    pub config_maps: Objects<ConfigMap>,
    pub secrets: Objects<Secret>,
    pub tokens: Tokens,
    pub trust: Trust,
    pub certificates: Certificates,
    pub claims: Claims,
    pub runtime_classes: RuntimeClasses,
    pub csi: Drivers,
    pub probes: Arc<Probes>,
    pub cgroups: Cgroups,
    pub machine: Machine,
    /// For kinds that are watched only once a pod needs them.
    pub informers: Informers,
    pub services: Informer<Service>,
    /// Pods of this node in the API, mirrors of static pods among them.
    pub pods: Informer<Pod>,
    /// What the node runs short of.
    pub pressures: Pressures,
    /// The node goes down: no more pods are taken.
    pub shutting_down: AtomicBool,
    /// The node's status is to be looked at now.
    pub node_changed: Notify,
    /// A mirror pod was made, changed or deleted.
    pub mirrors_changed: Notify,
    /// Tasks that outlive the call that started them; waited for at the end.
    pub tasks: TaskTracker,
    pub shutdown: Shutdown,
}
