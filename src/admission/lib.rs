//! Admission plugins: one per file, in upstream's order.
//!
//! Plugins read the cluster through the shared informers and, where those do not know yet (or have not synced), ask the
//! API server itself. No plugin waits for an informer: the control plane creates its own first objects through them.

mod attributes;
mod chain;
mod cluster;
mod configuration;
mod dynamic;
mod limits;
mod lru;
mod plugins;
mod quota;
mod signers;
mod tolerations;
mod type_checking;

use std::sync::Arc;

use api::Status;
use api::admission::AdmissionPlugin;
use api::services::Services;
use client::{Client, Informers};

use crate::chain::Parts;
use crate::cluster::Cluster;
use crate::dynamic::metrics::Metrics;
use crate::dynamic::policy::Evaluator;
use crate::dynamic::webhook::Caller;

pub use chain::{Chain, ChainOptions};
pub use configuration::ChainError;
pub use dynamic::manifests::Manifests;
pub use plugins::{ImageReviewer, NoAnswer};
pub use type_checking::run as run_type_checking;

/// What an object counts against a quota, by the quota's resource names; `None` if it does not fall under it. Reads the
/// quota's `status.hard`. The controller that counts quotas anew measures by this too.
pub fn quota_usage(
    quota: &client::k8s_openapi::api::core::v1::ResourceQuota,
    resource: &api::GroupResource,
    object: &api::Object,
) -> Option<std::collections::BTreeMap<String, api::quantity::Quantity>> {
    let measure = quota::Measure::of(resource);
    measure.falls_under(quota, resource, object).then(|| measure.usage(resource, object))
}

/// A chain at work.
pub struct Admission {
    /// In upstream's order.
    pub plugins: Vec<Arc<dyn AdmissionPlugin>>,
    /// Folders that some of them read; whoever holds them tells of changes.
    pub manifests: Vec<Arc<Manifests>>,
}

/// The plugins of a chain. `server` is the server's name, for metrics.
///
/// `client` is for questions that the informers cannot answer yet; it and the informers should act as a user who may
/// read everything. Of the API server's `services`, the authoriser decides which tokens a node may ask for and who may
/// act for a signer of certificates.
///
/// # Errors
/// [`ChainError::Manifests`].
pub fn plugins(
    chain: &Chain,
    (client, informers): (Client, Informers),
    services: Services,
    (server, now): (&str, jiff::Timestamp),
) -> Result<Admission, ChainError> {
    let cluster = Cluster::new(client, informers);
    let mut manifests = Vec::new();
    for (plugin, folder) in &chain.settings().manifests {
        let loaded = Manifests::load(plugin, folder, Arc::clone(&services.kinds), (server, now));
        manifests.push((*plugin, Arc::new(loaded.map_err(|why| ChainError::Manifests { plugin, why })?)));
    }
    let folders: Vec<Arc<Manifests>> = manifests.iter().map(|(_, folder)| Arc::clone(folder)).collect();
    let metrics = Metrics::new(folders.clone());
    let caller = Caller {
        cluster: cluster.clone(),
        kinds: Arc::clone(&services.kinds),
        webhooks: services.webhooks,
        authorizer: Arc::clone(&services.authorizer),
        metrics: metrics.clone(),
    };
    let evaluator = Evaluator {
        cluster: cluster.clone(),
        kinds: Arc::clone(&services.kinds),
        registry: services.registry,
        authorizer: Arc::clone(&services.authorizer),
        metrics,
    };
    let (authorizer, kinds) = (services.authorizer, services.kinds);
    let parts = Parts { cluster, authorizer, kinds, caller, evaluator, manifests, settings: chain.settings() };
    Ok(Admission { plugins: chain.make(&parts), manifests: folders })
}

/// An error without a reason: what Go's servers make of one that is no `Status`.
fn plain_error(why: impl std::fmt::Display) -> Status {
    Status::new(500, "", why.to_string())
}
