//! The controllers of Kubernetes' controller manager: one file each, one harness, one table.
//!
//! Each runs as its own service account, reads from the shared informers and writes through its own client. Behaviour,
//! conditions, events and reasons are upstream's (`pkg/controller`). When nothing changes, nothing here writes.

mod attributes_class_protection;
mod autoscaler;
mod bootstrap_tokens;
mod certificates;
mod claim;
mod clusterrole;
mod cronjob;
mod daemonset;
mod deployment;
mod discovery;
mod disruption;
mod endpoints;
mod endpointslice;
mod endpointslicemirroring;
mod ephemeral_volume;
mod error;
mod expectations;
mod gc;
mod harness;
mod hash;
mod history;
mod intstr;
mod job;
mod metadata;
mod namespace;
mod node_affinity;
mod node_ipam;
mod node_lifecycle;
mod node_ttl;
mod pod_gc;
mod pod_owners;
mod pods;
mod replicaset;
mod resource_claim;
mod resource_quota;
mod root_ca;
mod selector;
mod service_addresses;
mod service_cidr;
mod service_pods;
mod serviceaccount;
mod statefulset;
mod storage_migration;
mod taint_eviction;
mod taints;
mod token_secrets;
mod trust_bundle;
mod ttl_after_finished;
mod volume_binder;
mod volume_expander;
mod volume_protection;
mod written;

use std::collections::BTreeMap;
use std::sync::Arc;

use api::names::GroupResource;
use api::object::Object;
use api::quantity::Quantity;

use base::{SharedClock, Shutdown};
use client::{Client, Informers, Recorder};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::ResourceQuota;
use pki::{CertificateAuthority, TokenSigner};
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

pub use cronjob::schedule::{BadSchedule, Schedule};
use discovery::KindsChanged;
pub use error::Error;
use harness::Context;
pub use harness::Metrics;

/// Makes the client of a service account in `kube-system`, by its name: user
/// `system:serviceaccount:kube-system:<name>`, groups `system:serviceaccounts`,
/// `system:serviceaccounts:kube-system` and `system:authenticated`. A name that begins with `system:` is a user's: the
/// token controller has no account of its own. The empty name stands for the API server itself.
pub type ClientFor = Arc<dyn Fn(&str) -> Client + Send + Sync>;

/// What the controllers need to know.
#[derive(Clone)]
pub struct ControllersConfig {
    pub client_for: ClientFor,
    pub informers: Informers,
    pub clock: SharedClock,
    pub settings: Settings,
    /// Names of controllers to run, as of kube-controller-manager's `--controllers`: `*` is all, `-name` takes one out.
    pub enabled: Vec<String>,
}

/// What an object counts against a quota, by the quota's resource names; `None` if it does not fall under it. The
/// quota's `status.hard` says which resources matter.
pub type QuotaUsage = fn(&ResourceQuota, &GroupResource, &Object) -> Option<BTreeMap<String, Quantity>>;

/// Facts about the cluster.
#[derive(Clone, Default)]
pub struct Settings {
    /// What `kube-root-ca.crt` publishes.
    pub root_ca_pem: String,
    /// Where pods get their addresses from: at most one of each family; empty if something else gives out node ranges.
    pub cluster_cidrs: Vec<IpNet>,
    /// Ranges that no node may get.
    pub service_cidrs: Vec<IpNet>,
    /// Length of a node's prefix, IPv4 and IPv6 (upstream's defaults are 24 and 64).
    pub node_mask_v4: u8,
    pub node_mask_v6: u8,
    /// What signs certificate signing requests of the built-in signers. Without it nothing signs them.
    pub authority: Option<Arc<CertificateAuthority>>,
    /// What signs the tokens of service account token Secrets. Without it they are not filled.
    pub tokens: Option<Arc<TokenSigner>>,
    /// How quotas are measured: admission's own. Without it quotas are not counted anew.
    pub quota_usage: Option<QuotaUsage>,
}

impl Settings {
    /// Upstream's defaults, without ranges.
    pub fn new(root_ca_pem: impl Into<String>) -> Self {
        Self { root_ca_pem: root_ca_pem.into(), node_mask_v4: 24, node_mask_v6: 64, ..Self::default() }
    }
}

/// A controller: its name (kube-controller-manager's), its service account, and what starts it. Without an account it
/// acts as the API server itself: upstream has it in there.
struct Entry {
    name: &'static str,
    account: &'static str,
    start: fn(Context),
}

const TABLE: &[Entry] = &[
    Entry { name: "deployment-controller", account: "deployment-controller", start: deployment::start },
    Entry { name: "replicaset-controller", account: "replicaset-controller", start: replicaset::start_replicaset },
    Entry {
        name: "replicationcontroller-controller",
        account: "replication-controller",
        start: replicaset::start_replicationcontroller,
    },
    Entry { name: "endpointslice-controller", account: "endpointslice-controller", start: endpointslice::start },
    Entry {
        name: "endpointslice-mirroring-controller",
        account: "endpointslicemirroring-controller",
        start: endpointslicemirroring::start,
    },
    Entry { name: "service-cluster-ip-repair-controller", account: "", start: service_addresses::start },
    Entry { name: "endpoints-controller", account: "endpoint-controller", start: endpoints::start },
    Entry { name: "namespace-controller", account: "namespace-controller", start: namespace::start },
    Entry { name: "garbage-collector-controller", account: "generic-garbage-collector", start: gc::start },
    Entry { name: "node-lifecycle-controller", account: "node-controller", start: node_lifecycle::start },
    Entry { name: "taint-eviction-controller", account: "node-controller", start: taint_eviction::start },
    Entry { name: "node-ipam-controller", account: "node-controller", start: node_ipam::start },
    Entry { name: "pod-garbage-collector-controller", account: "pod-garbage-collector", start: pod_gc::start },
    Entry { name: "serviceaccount-controller", account: "service-account-controller", start: serviceaccount::start },
    Entry {
        name: "root-ca-certificate-publisher-controller",
        account: "root-ca-cert-publisher",
        start: root_ca::start,
    },
    Entry { name: "daemonset-controller", account: "daemon-set-controller", start: daemonset::start },
    Entry { name: "statefulset-controller", account: "statefulset-controller", start: statefulset::start },
    Entry {
        name: "clusterrole-aggregation-controller",
        account: "clusterrole-aggregation-controller",
        start: clusterrole::start,
    },
    Entry { name: "job-controller", account: "job-controller", start: job::start },
    Entry { name: "cronjob-controller", account: "cronjob-controller", start: cronjob::start },
    Entry {
        name: "ttl-after-finished-controller",
        account: "ttl-after-finished-controller",
        start: ttl_after_finished::start,
    },
    Entry { name: "disruption-controller", account: "disruption-controller", start: disruption::start },
    Entry {
        name: "persistentvolumeclaim-protection-controller",
        account: "pvc-protection-controller",
        start: volume_protection::start_claims,
    },
    Entry {
        name: "persistentvolume-protection-controller",
        account: "pv-protection-controller",
        start: volume_protection::start_volumes,
    },
    Entry {
        name: "persistentvolume-binder-controller",
        account: "persistent-volume-binder",
        start: volume_binder::start,
    },
    Entry {
        name: "certificatesigningrequest-approving-controller",
        account: "certificate-controller",
        start: certificates::start_approver,
    },
    Entry {
        name: "certificatesigningrequest-signing-controller",
        account: "certificate-controller",
        start: certificates::start_signer,
    },
    Entry {
        name: "certificatesigningrequest-cleaner-controller",
        account: "certificate-controller",
        start: certificates::start_cleaner,
    },
    Entry {
        name: "podcertificaterequest-cleaner-controller",
        account: "podcertificaterequestcleaner",
        start: certificates::start_pod_cleaner,
    },
    Entry {
        name: "horizontal-pod-autoscaler-controller",
        account: "horizontal-pod-autoscaler",
        start: autoscaler::start,
    },
    Entry {
        name: "storage-version-migrator-controller",
        account: "storage-version-migrator-controller",
        start: storage_migration::start,
    },
    Entry { name: "resourceclaim-controller", account: "resource-claim-controller", start: resource_claim::start },
    Entry {
        name: "ephemeral-volume-controller",
        account: "ephemeral-volume-controller",
        start: ephemeral_volume::start,
    },
    Entry { name: "persistentvolume-expander-controller", account: "expand-controller", start: volume_expander::start },
    Entry {
        name: "volumeattributesclass-protection-controller",
        account: "volumeattributesclass-protection-controller",
        start: attributes_class_protection::start,
    },
    Entry {
        name: "serviceaccount-token-controller",
        account: "system:kube-controller-manager",
        start: token_secrets::start,
    },
    Entry {
        name: "legacy-serviceaccount-token-cleaner-controller",
        account: "legacy-service-account-token-cleaner",
        start: token_secrets::start_cleaner,
    },
    Entry { name: "bootstrap-signer-controller", account: "bootstrap-signer", start: bootstrap_tokens::start_signer },
    Entry { name: "token-cleaner-controller", account: "token-cleaner", start: bootstrap_tokens::start_cleaner },
    Entry {
        name: "kube-apiserver-serving-clustertrustbundle-publisher-controller",
        account: "kube-apiserver-serving-clustertrustbundle-publisher",
        start: trust_bundle::start,
    },
    Entry { name: "ttl-controller", account: "ttl-controller", start: node_ttl::start },
    Entry { name: "service-cidr-controller", account: "service-cidrs-controller", start: service_cidr::start },
    Entry { name: "resourcequota-controller", account: "resourcequota-controller", start: resource_quota::start },
];

/// Names of all controllers.
pub fn names() -> impl Iterator<Item = &'static str> {
    TABLE.iter().map(|entry| entry.name)
}

fn is_enabled(name: &str, enabled: &[String]) -> bool {
    let mut all = enabled.is_empty();
    for entry in enabled {
        if entry == name {
            return true;
        }
        if entry.strip_prefix('-') == Some(name) {
            return false;
        }
        all |= entry == "*";
    }
    all
}

/// Runs the enabled controllers until shutdown; returns when all have stopped.
pub async fn run(config: ControllersConfig, shutdown: Shutdown) {
    let tasks = TaskTracker::new();
    let settings = Arc::new(config.settings);
    let mut count = 0;
    for unknown in config.enabled.iter().filter(|e| {
        let name = e.strip_prefix('-').unwrap_or(e);
        name != "*" && !TABLE.iter().any(|entry| entry.name == name)
    }) {
        warn!(controller = %unknown, "no such controller");
    }
    let kinds = KindsChanged::default();
    for entry in TABLE.iter().filter(|entry| is_enabled(entry.name, &config.enabled)) {
        let client = (config.client_for)(entry.account);
        let component = if entry.account.is_empty() { entry.name } else { entry.account };
        let context = Context {
            name: entry.name,
            recorder: Recorder::new(client.clone(), component, "", Arc::clone(&config.clock)),
            client,
            informers: config.informers.clone(),
            clock: Arc::clone(&config.clock),
            settings: Arc::clone(&settings),
            tasks: tasks.clone(),
            shutdown: shutdown.clone(),
            metrics: Arc::new(Metrics::default()),
            kinds: kinds.clone(),
        };
        (entry.start)(context);
        count += 1;
    }
    info!(count, "controllers started");
    tasks.close();
    tasks.wait().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controllers_are_picked_by_name() {
        let check = |enabled: &[&str], name: &str, expected: bool| {
            let enabled: Vec<String> = enabled.iter().map(|e| (*e).to_owned()).collect();
            assert_eq!(is_enabled(name, &enabled), expected, "{enabled:?} {name}");
        };
        check(&[], "a", true);
        check(&["*"], "a", true);
        check(&["*", "-a"], "a", false);
        check(&["*", "-a"], "b", true);
        check(&["a"], "b", false);
    }
}
