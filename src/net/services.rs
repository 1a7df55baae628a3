//! Services as routing rules: a pure function from objects to [`Rules`].
//!
//! Behaviour is kube-proxy's (`pkg/proxy/topology.go` `CategorizeEndpoints`, `pkg/proxy/nftables/proxier.go`): which
//! endpoints a packet may go to, when its source is masqueraded, and what is refused.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use client::k8s_openapi::api::core::v1::{Pod, Service, ServicePort};
use client::k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

pub use rules::{Backend, Frontend, Masquerade, Place, Policy, Protocol, Rules};

mod rules;

/// Label of an EndpointSlice that names its Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// What the rules are made from.
pub struct Input<'a> {
    pub node_name: &'a str,
    pub services: &'a [Arc<Service>],
    pub slices: &'a [Arc<EndpointSlice>],
    /// Pods of this node, for their host ports.
    pub pods: &'a [Arc<Pod>],
    /// Service addresses that this machine answers itself: nothing is routed or refused there.
    pub local: &'a [Ipv4Addr],
}

/// An endpoint that traffic may go to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Target {
    address: Ipv4Addr,
    port: u16,
    local: bool,
    ready: bool,
    serving: bool,
    terminating: bool,
    /// The `forNodes` and `forZones` hints name this node, or there are none.
    hinted: Option<bool>,
}

/// Computes the rules.
pub fn plan_rules(input: &Input<'_>) -> Rules {
    let mut slices: BTreeMap<(&str, &str), Vec<&EndpointSlice>> = BTreeMap::new();
    for slice in input.slices {
        let metadata = &slice.metadata;
        let service = metadata.labels.as_ref().and_then(|labels| labels.get(SERVICE_NAME));
        if let Some(service) = service
            && slice.address_type == "IPv4"
        {
            slices.entry((text(&metadata.namespace), service)).or_default().push(slice);
        }
    }
    let mut rules = Rules::default();
    for service in input.services {
        let key = (text(&service.metadata.namespace), text(&service.metadata.name));
        let slices = slices.get(&key).map(Vec::as_slice).unwrap_or_default();
        add_service(&mut rules, input, service, key, slices);
    }
    for pod in input.pods {
        add_host_ports(&mut rules, pod);
    }
    rules
}

fn add_service(rules: &mut Rules, input: &Input<'_>, service: &Service, key: (&str, &str), slices: &[&EndpointSlice]) {
    let Some(spec) = &service.spec else { return };
    let cluster_ip = text(&spec.cluster_ip).parse::<Ipv4Addr>().ok();
    // Headless, ExternalName, or of a family that this node does not route.
    let Some(cluster_ip) = cluster_ip else { return };
    if text(&spec.type_) == "ExternalName" || input.local.contains(&cluster_ip) {
        return;
    }
    let external_local = text(&spec.external_traffic_policy) == "Local";
    let internal_local = text(&spec.internal_traffic_policy) == "Local";
    let affinity = (text(&spec.session_affinity) == "ClientIP").then(|| {
        let config = spec.session_affinity_config.as_ref().and_then(|c| c.client_ip.as_ref());
        config.and_then(|c| c.timeout_seconds).and_then(|s| u32::try_from(s).ok()).unwrap_or(10_800)
    });
    let load_balancers: Vec<Ipv4Addr> = service
        .status
        .as_ref()
        .and_then(|s| s.load_balancer.as_ref())
        .and_then(|l| l.ingress.as_ref())
        .into_iter()
        .flatten()
        // `Proxy` mode means that the balancer wants its traffic unaltered.
        .filter(|ingress| ingress.ip_mode.as_deref() != Some("Proxy"))
        .filter_map(|ingress| ingress.ip.as_deref()?.parse().ok())
        .collect();
    let external_ips: Vec<Ipv4Addr> =
        spec.external_ips.iter().flatten().filter_map(|address| address.parse().ok()).collect();
    for port in spec.ports.iter().flatten() {
        let Some(protocol) = Protocol::parse(port.protocol.as_deref().unwrap_or("TCP")) else { continue };
        let Ok(front_port) = u16::try_from(port.port) else { continue };
        let targets = targets(input.node_name, slices, port, protocol);
        let name = format!("{}/{}:{}", key.0, key.1, text(&port.name));
        let cluster = rules.backend(&format!("{name}/cluster"), select(&targets, false), affinity);
        let internal = if internal_local {
            rules.backend(&format!("{name}/internal"), select(&targets, true), affinity)
        } else {
            cluster
        };
        let frontend = |place, port, policy| Frontend { place, protocol, port, policy };
        let outside = Masquerade::Outside;
        rules.add(frontend(
            Place::Address(cluster_ip),
            front_port,
            Policy::Plain { backend: internal, masquerade: outside },
        ));
        let external = if external_local {
            let local = rules.backend(&format!("{name}/local"), select(&targets, true), affinity);
            Policy::PreferLocal { local, cluster }
        } else {
            Policy::Plain { backend: cluster, masquerade: Masquerade::Always }
        };
        for address in external_ips.iter().chain(&load_balancers) {
            rules.add(frontend(Place::Address(*address), front_port, external));
        }
        if let Some(node_port) = port.node_port.and_then(|p| u16::try_from(p).ok()).filter(|p| *p > 0) {
            rules.add(frontend(Place::Node, node_port, external));
        }
    }
}

/// The endpoints of one Service port, each once.
fn targets(node: &str, slices: &[&EndpointSlice], port: &ServicePort, protocol: Protocol) -> Vec<Target> {
    let mut found = Vec::new();
    for slice in slices {
        let matching = slice.ports.iter().flatten().find(|p| {
            text(&p.name) == text(&port.name)
                && Protocol::parse(p.protocol.as_deref().unwrap_or("TCP")) == Some(protocol)
        });
        let Some(number) = matching.and_then(|p| p.port).and_then(|p| u16::try_from(p).ok()) else { continue };
        for endpoint in slice.endpoints.iter().flatten() {
            let Some(address) = endpoint.addresses.first().and_then(|a| a.parse().ok()) else { continue };
            found.push(target(node, endpoint, address, number));
        }
    }
    found.sort();
    found.dedup_by(|a, b| (a.address, a.port) == (b.address, b.port));
    found
}

fn target(node: &str, endpoint: &Endpoint, address: Ipv4Addr, port: u16) -> Target {
    let conditions = endpoint.conditions.as_ref();
    let ready = conditions.and_then(|c| c.ready).unwrap_or(true);
    let for_nodes = endpoint.hints.as_ref().and_then(|h| h.for_nodes.as_ref());
    Target {
        address,
        port,
        local: endpoint.node_name.as_deref() == Some(node),
        ready,
        serving: conditions.and_then(|c| c.serving).unwrap_or(ready),
        terminating: conditions.and_then(|c| c.terminating).unwrap_or(false),
        hinted: for_nodes.map(|nodes| nodes.iter().any(|n| n.name == node)),
    }
}

/// The endpoints to use: ready ones, or, if there are none, those that still serve while they terminate
/// (KEP-1669). Hints count when every ready endpoint has one and some name this node.
fn select(targets: &[Target], local_only: bool) -> Vec<(Ipv4Addr, u16)> {
    let candidates: Vec<&Target> = targets.iter().filter(|t| !local_only || t.local).collect();
    let ready: Vec<&Target> = candidates.iter().filter(|t| t.ready).copied().collect();
    let usable = if ready.is_empty() {
        candidates.into_iter().filter(|t| t.serving && t.terminating).collect()
    } else if !local_only && ready.iter().all(|t| t.hinted.is_some()) && ready.iter().any(|t| t.hinted == Some(true)) {
        ready.into_iter().filter(|t| t.hinted == Some(true)).collect()
    } else {
        ready
    };
    usable.into_iter().map(|t| (t.address, t.port)).collect()
}

fn add_host_ports(rules: &mut Rules, pod: &Pod) {
    let (Some(spec), Some(status)) = (&pod.spec, &pod.status) else { return };
    if spec.host_network == Some(true) || matches!(text(&status.phase), "Succeeded" | "Failed") {
        return;
    }
    let Ok(address) = text(&status.pod_ip).parse::<Ipv4Addr>() else { return };
    let sidecars = spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    for port in spec.containers.iter().chain(sidecars).flat_map(|c| c.ports.iter().flatten()) {
        let Some(protocol) = Protocol::parse(port.protocol.as_deref().unwrap_or("TCP")) else { continue };
        let number = |port: i32| u16::try_from(port).ok().filter(|p| *p > 0);
        let (Some(host), Some(inside)) = (port.host_port.and_then(number), number(port.container_port)) else {
            continue;
        };
        let place = match text(&port.host_ip).parse::<Ipv4Addr>() {
            Ok(address) if !address.is_unspecified() => Place::Address(address),
            _ => Place::Node,
        };
        let name = format!("{}/hostport/{protocol:?}/{host}", text(&pod.metadata.uid));
        let backend = rules.backend(&name, vec![(address, inside)], None);
        let policy = Policy::Plain { backend, masquerade: Masquerade::Never };
        rules.add(Frontend { place, protocol, port: host, policy });
    }
}

fn text(field: &Option<String>) -> &str {
    field.as_deref().unwrap_or_default()
}

#[cfg(test)]
mod tests;
