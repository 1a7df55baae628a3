//! A pod with what plugins read off it again and again, worked out once (upstream `framework.PodInfo`).

use std::collections::BTreeSet;
use std::sync::Arc;

use api::selector::LabelSelector;
use client::Resource;
use client::k8s_openapi::api::core::v1::{Pod, PodAffinityTerm, PodSpec, Volume, WeightedPodAffinityTerm};

use crate::labels::{self, Labels};
use crate::resources::{self, Requests};

/// A pod, decoded for scheduling.
#[derive(Debug, Clone)]
pub struct PodInfo {
    pub pod: Arc<Pod>,
    pub uid: Arc<str>,
    pub priority: i32,
    pub requests: Requests,
    pub ports: Vec<HostPort>,
    pub required_affinity: Vec<AffinityTerm>,
    pub required_anti_affinity: Vec<AffinityTerm>,
    pub preferred_affinity: Vec<WeightedTerm>,
    pub preferred_anti_affinity: Vec<WeightedTerm>,
}

impl PodInfo {
    pub fn new(pod: Arc<Pod>) -> Self {
        let spec = pod.spec.as_ref();
        let affinity = spec.and_then(|s| s.affinity.as_ref());
        let (with, against) =
            (affinity.and_then(|a| a.pod_affinity.as_ref()), affinity.and_then(|a| a.pod_anti_affinity.as_ref()));
        let required = |terms: Option<&Vec<PodAffinityTerm>>| -> Vec<AffinityTerm> {
            terms.into_iter().flatten().map(|term| AffinityTerm::new(pod.namespace(), term)).collect()
        };
        let preferred = |terms: Option<&Vec<WeightedPodAffinityTerm>>| -> Vec<WeightedTerm> {
            let weighted = |term: &WeightedPodAffinityTerm| WeightedTerm {
                weight: i64::from(term.weight),
                term: AffinityTerm::new(pod.namespace(), &term.pod_affinity_term),
            };
            terms.into_iter().flatten().map(weighted).collect()
        };
        Self {
            uid: pod.uid().into(),
            priority: spec.and_then(|s| s.priority).unwrap_or_default(),
            requests: resources::requests(&pod),
            ports: host_ports(spec),
            required_affinity: required(
                with.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref()),
            ),
            required_anti_affinity: required(
                against.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref()),
            ),
            preferred_affinity: preferred(
                with.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref()),
            ),
            preferred_anti_affinity: preferred(
                against.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref()),
            ),
            pod,
        }
    }

    pub fn namespace(&self) -> &str {
        self.pod.namespace()
    }

    pub fn labels(&self) -> Option<&Labels> {
        self.pod.metadata.labels.as_ref()
    }

    pub fn has_affinity(&self) -> bool {
        self.has_required_anti_affinity()
            || !self.required_affinity.is_empty()
            || !self.preferred_affinity.is_empty()
            || !self.preferred_anti_affinity.is_empty()
    }

    pub fn has_required_anti_affinity(&self) -> bool {
        !self.required_anti_affinity.is_empty()
    }

    pub fn volumes(&self) -> &[Volume] {
        self.pod.spec.as_ref().and_then(|s| s.volumes.as_deref()).unwrap_or_default()
    }

    /// `status.nominatedNodeName`, if any.
    pub fn nominated_node(&self) -> Option<&str> {
        nominated_node(&self.pod)
    }
}

/// `status.nominatedNodeName`, if any.
pub fn nominated_node(pod: &Pod) -> Option<&str> {
    pod.status.as_ref()?.nominated_node_name.as_deref().filter(|name| !name.is_empty())
}

/// `spec.nodeName`, if any.
pub fn assigned_node(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|name| !name.is_empty())
}

/// The claim that a volume stands for (`ephemeral.VolumeClaimName` for generic ephemeral volumes), and whether the pod
/// owns it.
pub fn claim_name(pod: &Pod, volume: &Volume) -> Option<(String, bool)> {
    if let Some(claim) = &volume.persistent_volume_claim {
        return Some((claim.claim_name.clone(), false));
    }
    volume.ephemeral.as_ref().map(|_| (format!("{}-{}", pod.name(), volume.name), true))
}

/// A term of pod affinity or anti-affinity with its selectors checked.
#[derive(Debug, Clone)]
pub struct AffinityTerm {
    pub namespaces: BTreeSet<String>,
    pub namespace_selector: LabelSelector,
    pub selector: LabelSelector,
    pub topology_key: String,
}

impl AffinityTerm {
    /// `framework.newAffinityTerm`: with neither namespaces nor a selector of them, the owner's namespace is meant.
    fn new(namespace: &str, term: &PodAffinityTerm) -> Self {
        let mut namespaces: BTreeSet<String> = term.namespaces.iter().flatten().cloned().collect();
        if namespaces.is_empty() && term.namespace_selector.is_none() {
            namespaces.insert(namespace.to_owned());
        }
        Self {
            namespaces,
            namespace_selector: labels::selector(term.namespace_selector.as_ref()),
            selector: labels::selector(term.label_selector.as_ref()),
            topology_key: term.topology_key.clone(),
        }
    }

    /// Whether the term means the pod, whose namespace has these labels (`AffinityTerm.Matches`).
    pub fn matches(&self, pod: &Pod, namespace_labels: Option<&Labels>) -> bool {
        (self.namespaces.contains(pod.namespace()) || labels::matches(&self.namespace_selector, namespace_labels))
            && labels::matches(&self.selector, pod.metadata.labels.as_ref())
    }
}

/// A preference with its weight, 1 to 100.
#[derive(Debug, Clone)]
pub struct WeightedTerm {
    pub weight: i64,
    pub term: AffinityTerm,
}

/// A port of the host that a pod takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    pub address: String,
    pub protocol: String,
    pub port: i32,
}

impl HostPort {
    pub fn conflicts(&self, other: &Self) -> bool {
        const EVERY: &str = "0.0.0.0";
        self.port == other.port
            && self.protocol == other.protocol
            && (self.address == other.address || self.address == EVERY || other.address == EVERY)
    }
}

fn host_ports(spec: Option<&PodSpec>) -> Vec<HostPort> {
    let Some(spec) = spec else { return Vec::new() };
    let sidecars = spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let or = |text: &Option<String>, default: &str| match text.as_deref() {
        None | Some("") => default.to_owned(),
        Some(text) => text.to_owned(),
    };
    spec.containers
        .iter()
        .chain(sidecars)
        .flat_map(|container| container.ports.iter().flatten())
        .filter_map(|port| {
            Some(HostPort {
                port: port.host_port.filter(|p| *p > 0)?,
                protocol: or(&port.protocol, "TCP"),
                address: or(&port.host_ip, "0.0.0.0"),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_conflict_on_the_same_or_every_address() {
        let port =
            |address: &str, protocol: &str| HostPort { address: address.into(), protocol: protocol.into(), port: 80 };
        assert!(port("0.0.0.0", "TCP").conflicts(&port("10.0.0.1", "TCP")));
        assert!(port("10.0.0.1", "TCP").conflicts(&port("10.0.0.1", "TCP")));
        assert!(!port("10.0.0.1", "TCP").conflicts(&port("10.0.0.2", "TCP")));
        assert!(!port("0.0.0.0", "TCP").conflicts(&port("0.0.0.0", "UDP")));
    }
}
