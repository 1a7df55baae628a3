//! Kubernetes' built-in kinds: for each its names, storage place, rules, table columns and subresources.
//!
//! [`all`] makes the [`KindDef`]s from the generated facts ([`facts`]) and from one file per kind, found by group:
//! `core/pod.rs`, `apps/deployment.rs`. A kind without a file has the generic rules. Nothing here does I/O of its own;
//! what actions and hooks need of other objects they ask of [`api::services::Registry`].

pub mod apiextensions;
mod apiregistration;
mod apps;
mod autoscaling;
mod batch;
pub mod bootstrap;
mod certificates;
mod checks;
mod columns;
mod conditions;
mod core;
mod define;
mod discovery;
pub mod duration;
pub mod facts;
mod flow_control;
mod groups;
mod json;
mod networking;
mod podspec;
mod policy;
mod printed;
mod rbac;
mod resource;
mod reviews;
mod rules;
mod scheduling;
mod signers;
mod storage;

use std::sync::Arc;

use api::kind::KindDef;
use api::schema::facts::ResourceFacts;

use define::{Extra, define};

/// What the kinds must know of the cluster.
#[derive(Debug, Clone)]
pub struct Config {
    /// Service addresses: one network, or one of each family, the first being the default.
    pub service_cidrs: Vec<ipnet::IpNet>,
    /// First and last port of NodePorts.
    pub node_ports: (u16, u16),
    /// The cluster's DNS addresses, kept free for the Service that asks for them.
    pub cluster_dns: Vec<std::net::IpAddr>,
    /// The kubelets' port where a node's status does not say.
    pub kubelet_port: u16,
}

/// Every built-in resource that v1.37 serves by default.
pub fn all(config: &Config) -> Vec<Arc<KindDef>> {
    facts::resources()
        .iter()
        .filter_map(|facts| {
            let definition = define(facts, extra(facts, config));
            if definition.is_none() {
                tracing::error!(kind = %facts.gvk, "built-in kind without a schema");
            }
            definition.map(Arc::new)
        })
        .collect()
}

fn extra(facts: &ResourceFacts, config: &Config) -> Extra {
    let kind = facts.gvk.kind.as_str();
    let extra = match facts.gvk.group.as_str() {
        "" => core::extra(kind, config),
        "admissionregistration.k8s.io" => groups::admission_registration(kind),
        "apiextensions.k8s.io" => apiextensions::extra(kind),
        "apiregistration.k8s.io" => apiregistration::extra(kind),
        "apps" => apps::extra(kind),
        "authentication.k8s.io" | "authorization.k8s.io" => reviews::extra(kind),
        "autoscaling" => autoscaling::extra(kind, &facts.gvk.version),
        "batch" => batch::extra(kind),
        "certificates.k8s.io" => certificates::extra(kind),
        "coordination.k8s.io" => groups::coordination(kind),
        "discovery.k8s.io" => discovery::extra(kind),
        "events.k8s.io" => groups::events(kind),
        "flowcontrol.apiserver.k8s.io" => flow_control::extra(kind),
        "networking.k8s.io" => networking::extra(kind),
        "node.k8s.io" => groups::node(kind),
        "policy" => policy::extra(kind),
        "rbac.authorization.k8s.io" => rbac::extra(kind),
        "resource.k8s.io" => resource::extra(kind),
        "scheduling.k8s.io" => scheduling::extra(kind),
        "storage.k8s.io" => storage::extra(kind),
        "storagemigration.k8s.io" => groups::storage_migration(kind),
        _ => None,
    };
    extra.unwrap_or_default()
}

/// A time as `metav1.Time` prints it: in whole seconds.
pub(crate) fn timestamp(time: jiff::Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        Config {
            service_cidrs: vec!["10.43.0.0/16".parse().unwrap()],
            node_ports: (30000, 32767),
            cluster_dns: vec!["10.43.0.10".parse().unwrap()],
            kubelet_port: 10250,
        }
    }

    #[test]
    fn every_resource_is_defined_with_its_subresources() {
        let kinds = all(&config());
        assert_eq!(kinds.len(), facts::resources().len());
        for (kind, facts) in kinds.iter().zip(facts::resources()) {
            let names: Vec<&str> = kind.subresources.iter().map(|s| s.name).collect();
            let want: Vec<&str> = facts.subresources.iter().map(|s| s.name).collect();
            assert_eq!(names, want, "{}", kind.gvk);
            assert!(kind.storage.is_some() || kind.action.is_some(), "{} has nothing behind it", kind.gvk);
        }
    }

    #[test]
    fn keys_are_those_of_a_stock_cluster() {
        let kinds = all(&config());
        let check = |kind: &str, prefix: &str| {
            let found = kinds.iter().find(|k| k.gvk.kind == kind).and_then(|k| k.storage.as_ref());
            assert_eq!(found.map(|s| s.prefix.as_str()), Some(prefix));
        };
        check("Pod", "/registry/pods/");
        check("Node", "/registry/minions/");
        check("Service", "/registry/services/specs/");
        check("Endpoints", "/registry/services/endpoints/");
        check("ReplicationController", "/registry/controllers/");
        check("Ingress", "/registry/ingress/");
        check("Deployment", "/registry/deployments/");
        check("CustomResourceDefinition", "/registry/apiextensions.k8s.io/customresourcedefinitions/");
    }
}
