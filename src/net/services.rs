//! Services as routing rules: a pure function from objects to [`Rules`].
//!
//! Behaviour is kube-proxy's (`pkg/proxy/nftables/proxier.go`): which
//! endpoints a packet may go to, when its source is masqueraded, and what is refused.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use client::k8s_openapi::api::core::v1::{Pod, Service, ServiceSpec};
use client::k8s_openapi::api::discovery::v1::EndpointSlice;
use client::k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use ipnet::Ipv4Net;

pub use rules::{Backend, Frontend, Health, Key, Masquerade, Place, Policy, Protocol, Rules};

mod endpoints;
mod rules;

/// Label of an EndpointSlice that names its Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Labels of Services and slices that kube-proxy leaves alone (`cmd/kube-proxy/app/server.go`): another proxy's, and those
/// of headless Services.
const NOT_OURS: [&str; 2] = ["service.kubernetes.io/service-proxy-name", "service.kubernetes.io/headless"];

/// What the rules are made from.
pub struct Input<'a> {
    pub node_name: &'a str,
    /// The node's `topology.kubernetes.io/zone`, empty if it has none.
    pub zone: &'a str,
    pub services: &'a [Arc<Service>],
    pub slices: &'a [Arc<EndpointSlice>],
    /// Pods of this node, for their host ports.
    pub pods: &'a [Arc<Pod>],
    /// Service addresses that this machine answers itself: nothing is routed or refused there.
    pub local: &'a [Ipv4Addr],
}

/// Computes the rules.
pub fn plan_rules(input: &Input<'_>) -> Rules {
    let mut slices: BTreeMap<(&str, &str), Vec<&EndpointSlice>> = BTreeMap::new();
    for slice in input.slices.iter().filter(|slice| is_ours(&slice.metadata)) {
        let metadata = &slice.metadata;
        let service = metadata.labels.as_ref().and_then(|labels| labels.get(SERVICE_NAME));
        if let Some(service) = service
            && slice.address_type == "IPv4"
        {
            slices.entry((text(&metadata.namespace), service)).or_default().push(slice);
        }
    }
    let mut rules = Rules::default();
    for service in input.services.iter().filter(|service| is_ours(&service.metadata)) {
        let key = (text(&service.metadata.namespace), text(&service.metadata.name));
        let slices = slices.get(&key).map(Vec::as_slice).unwrap_or_default();
        add_service(&mut rules, input, service, key, slices);
    }
    for pod in input.pods {
        add_host_ports(&mut rules, pod);
    }
    rules
}

fn is_ours(metadata: &ObjectMeta) -> bool {
    metadata.labels.as_ref().is_none_or(|labels| NOT_OURS.iter().all(|label| !labels.contains_key(*label)))
}

fn add_service(rules: &mut Rules, input: &Input<'_>, service: &Service, key: (&str, &str), slices: &[&EndpointSlice]) {
    let Some(spec) = &service.spec else { return };
    let cluster_ip = text(&spec.cluster_ip).parse::<Ipv4Addr>().ok();
    // Headless, ExternalName, or of a family that this node does not route.
    let Some(cluster_ip) = cluster_ip else { return };
    if text(&spec.type_) == "ExternalName" || input.local.contains(&cluster_ip) {
        return;
    }
    let balancer = Balancer::of(service);
    let external_ips: Vec<Ipv4Addr> =
        spec.external_ips.iter().flatten().filter_map(|address| address.parse().ok()).collect();
    let external_local = text(&spec.external_traffic_policy) == "Local";
    let mut local_endpoints = 0;
    for port in spec.ports.iter().flatten() {
        let Some(protocol) = Protocol::parse(port.protocol.as_deref().unwrap_or("TCP")) else { continue };
        let Ok(front_port) = u16::try_from(port.port) else { continue };
        let targets = endpoints::targets(input, slices, port, protocol);
        local_endpoints += targets.iter().filter(|t| t.local && t.ready).count();
        let serving: BTreeSet<_> = targets.iter().filter(|t| t.serving).map(|t| (t.address, t.port)).collect();
        let name = format!("{}/{}:{}", key.0, key.1, text(&port.name));
        let (internal, external) = policies(rules, spec, &name, &targets);
        let frontend = |place, port, policy| Frontend { place, protocol, port, policy };
        rules.add(frontend(Place::Address(cluster_ip), front_port, internal), &serving);
        for address in &external_ips {
            rules.add(frontend(Place::Address(*address), front_port, external), &serving);
        }
        for address in &balancer.addresses {
            let added = rules.add(frontend(Place::Address(*address), front_port, external), &serving);
            if let (Some(added), Some(sources)) = (added, &balancer.sources) {
                rules.sources.insert(added, sources.clone());
            }
        }
        if let Some(node_port) = port.node_port.and_then(|p| u16::try_from(p).ok()).filter(|p| *p > 0) {
            rules.add(frontend(Place::Node, node_port, external), &serving);
        }
    }
    let health_port = spec.health_check_node_port.and_then(|p| u16::try_from(p).ok()).filter(|p| *p > 0);
    if let (true, Some(port)) = (external_local, health_port) {
        let (namespace, name) = (key.0.to_owned(), key.1.to_owned());
        rules.health.entry(port).or_insert(Health { namespace, name, local_endpoints });
    }
}

/// How packets for one port are treated: those from inside at the cluster address, and all others.
fn policies(rules: &mut Rules, spec: &ServiceSpec, name: &str, targets: &[endpoints::Target]) -> (Policy, Policy) {
    let affinity = (text(&spec.session_affinity) == "ClientIP").then(|| {
        let config = spec.session_affinity_config.as_ref().and_then(|c| c.client_ip.as_ref());
        config.and_then(|c| c.timeout_seconds).and_then(|s| u32::try_from(s).ok()).unwrap_or(10_800)
    });
    let cluster = rules.backend(&format!("{name}/cluster"), endpoints::select(targets, false), affinity);
    let plain = |backend, masquerade| Policy::Plain { backend, masquerade };
    let internal = if text(&spec.internal_traffic_policy) == "Local" {
        let local = endpoints::select(targets, true);
        if local.is_empty() && !rules.backends[&cluster].endpoints.is_empty() {
            Policy::Drop
        } else {
            plain(rules.backend(&format!("{name}/internal"), local, affinity), Masquerade::Outside)
        }
    } else {
        plain(cluster, Masquerade::Outside)
    };
    let external = if text(&spec.external_traffic_policy) == "Local" {
        let local = rules.backend(&format!("{name}/local"), endpoints::select(targets, true), affinity);
        Policy::PreferLocal { local, cluster }
    } else {
        plain(cluster, Masquerade::Always)
    };
    (internal, external)
}

/// What a load balancer in front does to the packets.
#[derive(Default)]
struct Balancer {
    addresses: Vec<Ipv4Addr>,
    /// Who may use it; `None` for everybody.
    sources: Option<Vec<Ipv4Net>>,
}

impl Balancer {
    fn of(service: &Service) -> Self {
        let Some(spec) = service.spec.as_ref().filter(|spec| text(&spec.type_) == "LoadBalancer") else {
            return Self::default();
        };
        let status = service.status.as_ref().and_then(|s| s.load_balancer.as_ref()).and_then(|l| l.ingress.as_ref());
        let addresses = status
            .into_iter()
            .flatten()
            // `Proxy` mode means that the balancer wants its traffic unaltered.
            .filter(|ingress| ingress.ip_mode.as_deref() != Some("Proxy"))
            .filter_map(|ingress| ingress.ip.as_deref()?.parse().ok());
        let ranges = spec.load_balancer_source_ranges.as_ref().filter(|ranges| !ranges.is_empty());
        // Ranges of the other family allow nobody of this one.
        let sources = ranges.map(|ranges| ranges.iter().filter_map(|range| range.trim().parse().ok()).collect());
        Self { addresses: addresses.collect(), sources }
    }
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
        rules.add(Frontend { place, protocol, port: host, policy }, &BTreeSet::from([(address, inside)]));
    }
}

fn text(field: &Option<String>) -> &str {
    field.as_deref().unwrap_or_default()
}

#[cfg(test)]
mod tests;
