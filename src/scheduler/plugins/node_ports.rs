//! `NodePorts`: two pods of a node cannot have the same host port on the same address.

use client::k8s_openapi::api::core::v1::Pod;

use crate::cache::NodeInfo;
use crate::framework::{ClusterEvent, Plugin, Rejection, Snapshot};

pub(super) struct NodePorts;

impl Plugin for NodePorts {
    fn name(&self) -> &'static str {
        "NodePorts"
    }

    fn filter(&self, pod: &Pod, node: &NodeInfo, _: &Snapshot) -> Result<(), Rejection> {
        let wanted = host_ports(pod);
        if wanted.is_empty() {
            return Ok(());
        }
        let taken = node
            .pods
            .values()
            .flat_map(|other| host_ports(other))
            .any(|held| wanted.iter().any(|want| want.conflicts(&held)));
        if taken { Err(Rejection::new("node(s) didn't have free ports for the requested pod ports")) } else { Ok(()) }
    }

    fn wakes_on(&self, event: ClusterEvent) -> bool {
        matches!(event, ClusterEvent::PodRemoved | ClusterEvent::NodeAdded)
    }
}

#[derive(Debug, PartialEq, Eq)]
struct HostPort {
    address: String,
    protocol: String,
    port: i32,
}

impl HostPort {
    fn conflicts(&self, other: &Self) -> bool {
        const EVERY: &str = "0.0.0.0";
        self.port == other.port
            && self.protocol == other.protocol
            && (self.address == other.address || self.address == EVERY || other.address == EVERY)
    }
}

fn host_ports(pod: &Pod) -> Vec<HostPort> {
    let Some(spec) = &pod.spec else { return Vec::new() };
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
