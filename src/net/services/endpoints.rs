//! Which endpoints a packet may go to (kube-proxy's `pkg/proxy/topology.go` `CategorizeEndpoints`).

use std::net::Ipv4Addr;

use client::k8s_openapi::api::core::v1::ServicePort;
use client::k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

use super::{Input, Protocol, text};

/// An endpoint that traffic may go to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Target {
    pub address: Ipv4Addr,
    pub port: u16,
    pub local: bool,
    pub ready: bool,
    pub serving: bool,
    pub terminating: bool,
    /// Whether the `forNodes` hints name this node; `None` without hints.
    for_node: Option<bool>,
    /// The same of `forZones` and this node's zone.
    for_zone: Option<bool>,
}

/// The endpoints of one Service port, each once.
pub(super) fn targets(
    input: &Input<'_>,
    slices: &[&EndpointSlice],
    port: &ServicePort,
    protocol: Protocol,
) -> Vec<Target> {
    let mut found = Vec::new();
    for slice in slices {
        let matching = slice.ports.iter().flatten().find(|p| {
            text(&p.name) == text(&port.name)
                && Protocol::parse(p.protocol.as_deref().unwrap_or("TCP")) == Some(protocol)
        });
        let Some(number) = matching.and_then(|p| p.port).and_then(|p| u16::try_from(p).ok()) else { continue };
        for endpoint in slice.endpoints.iter().flatten() {
            let Some(address) = endpoint.addresses.first().and_then(|a| a.parse().ok()) else { continue };
            found.push(target(input, endpoint, address, number));
        }
    }
    // Of the same address in two slices the one that says ready counts: a pod moves from slice to slice.
    found.sort_by(|a: &Target, b| (a.address, a.port, !a.ready, a).cmp(&(b.address, b.port, !b.ready, b)));
    found.dedup_by(|a, b| (a.address, a.port) == (b.address, b.port));
    found
}

fn target(input: &Input<'_>, endpoint: &Endpoint, address: Ipv4Addr, port: u16) -> Target {
    let conditions = endpoint.conditions.as_ref();
    let ready = conditions.and_then(|c| c.ready).unwrap_or(true);
    let hints = endpoint.hints.as_ref();
    let nodes = hints.and_then(|h| h.for_nodes.as_ref()).filter(|nodes| !nodes.is_empty());
    let zones = hints.and_then(|h| h.for_zones.as_ref()).filter(|zones| !zones.is_empty());
    Target {
        address,
        port,
        local: endpoint.node_name.as_deref() == Some(input.node_name),
        ready,
        serving: conditions.and_then(|c| c.serving).unwrap_or(ready),
        terminating: conditions.and_then(|c| c.terminating).unwrap_or(false),
        for_node: nodes.map(|nodes| nodes.iter().any(|node| node.name == input.node_name)),
        for_zone: zones.map(|zones| zones.iter().any(|zone| zone.name == input.zone)),
    }
}

/// The endpoints to use: ready ones, or, if there are none, those that still serve while they terminate
/// (KEP-1669).
pub(super) fn select(targets: &[Target], local_only: bool) -> Vec<(Ipv4Addr, u16)> {
    let candidates: Vec<&Target> = targets.iter().filter(|t| !local_only || t.local).collect();
    let mut usable: Vec<&Target> = candidates.iter().filter(|t| t.ready).copied().collect();
    if usable.is_empty() {
        usable = candidates.into_iter().filter(|t| t.serving && t.terminating).collect();
    } else if !local_only {
        // Hints count when every ready endpoint has one and some name this node, or else its zone.
        let hints: [fn(&Target) -> Option<bool>; 2] = [|t| t.for_node, |t| t.for_zone];
        let heeded = hints
            .into_iter()
            .find(|hint| usable.iter().all(|t| hint(t).is_some()) && usable.iter().any(|t| hint(t) == Some(true)));
        if let Some(hint) = heeded {
            usable.retain(|t| hint(t) == Some(true));
        }
    }
    usable.into_iter().map(|t| (t.address, t.port)).collect()
}
