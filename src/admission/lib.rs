//! Admission plugins: one per file, in upstream's order.
//!
//! Plugins read the cluster through the shared informers and, where those do not know yet (or have not synced), ask the
//! API server itself. No plugin waits for an informer: the control plane creates its own first objects through them.

mod attributes;
mod cluster;
mod dynamic;
mod limits;
mod plugins;
mod quota;
mod signers;
mod type_checking;

use std::sync::Arc;

use api::admission::AdmissionPlugin;
use api::services::Services;
use client::{Client, Informers};

use crate::cluster::Cluster;
use crate::dynamic::metrics::Metrics;
use crate::dynamic::policy::Evaluator;
use crate::dynamic::webhook::Caller;

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

/// Every plugin that is on by default, in upstream's order (`AllOrderedPlugins`).
///
/// `client` is for questions that the informers cannot answer yet; it and the informers should act as a user who may
/// read everything. Of the API server's `services`, the authoriser decides which tokens a node may ask for and who may
/// act for a signer of certificates.
pub fn plugins(client: Client, informers: Informers, services: Services) -> Vec<Arc<dyn AdmissionPlugin>> {
    let cluster = Cluster::new(client, informers);
    let authorizer = &services.authorizer;
    let metrics = Metrics::default();
    let caller = Caller {
        cluster: cluster.clone(),
        kinds: Arc::clone(&services.kinds),
        webhooks: services.webhooks,
        authorizer: Arc::clone(authorizer),
        metrics: metrics.clone(),
    };
    let evaluator = Evaluator {
        cluster: cluster.clone(),
        kinds: services.kinds,
        registry: services.registry,
        authorizer: Arc::clone(authorizer),
        metrics,
    };
    vec![
        Arc::new(plugins::NamespaceLifecycle::new(cluster.clone())),
        Arc::new(plugins::LimitRanger::new(cluster.clone())),
        Arc::new(plugins::ServiceAccount::new(cluster.clone())),
        Arc::new(plugins::NodeRestriction::new(cluster.clone(), Arc::clone(authorizer))),
        Arc::new(plugins::TaintNodesByCondition),
        Arc::new(plugins::PodSecurity::new(cluster.clone())),
        Arc::new(plugins::Priority::new(cluster.clone())),
        Arc::new(plugins::DefaultTolerationSeconds),
        Arc::new(plugins::DefaultStorageClass::new(cluster.clone())),
        Arc::new(plugins::StorageObjectInUseProtection),
        Arc::new(plugins::PersistentVolumeClaimResize::new(cluster.clone())),
        Arc::new(plugins::RuntimeClass::new(cluster.clone())),
        Arc::new(plugins::CertificateApproval::new(Arc::clone(authorizer))),
        Arc::new(plugins::CertificateSigning::new(Arc::clone(authorizer))),
        Arc::new(plugins::CertificateSubjectRestriction),
        Arc::new(plugins::DefaultIngressClass::new(cluster.clone())),
        Arc::new(plugins::PodTopologyLabels::new(cluster.clone())),
        Arc::new(plugins::MutatingAdmissionPolicy::new(evaluator.clone())),
        Arc::new(plugins::MutatingAdmissionWebhook::new(caller.clone())),
        Arc::new(plugins::ValidatingAdmissionPolicy::new(evaluator)),
        Arc::new(plugins::ValidatingAdmissionWebhook::new(caller)),
        // Last, so that nothing is charged that another plugin refuses.
        Arc::new(plugins::ResourceQuota::new(cluster)),
    ]
}
