//! What a service's slices should hold and how to get there with few writes (`endpointslice/reconciler.go`). Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use client::{Resource, owner_ref};
use k8s_openapi::api::core::v1::{Node, ObjectReference, Pod, Service};
use k8s_openapi::api::discovery::v1::{
    Endpoint, EndpointConditions, EndpointHints, EndpointPort, EndpointSlice, ForNode, ForZone,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{AddressTypes, CONTROLLER, MANAGED_BY, SERVICE_NAME};
use crate::pods;
use crate::service_pods::{self, HEADLESS_LABEL};

/// Endpoints in a slice (`--max-endpoints-per-slice`).
const SLICE_MAX: usize = 100;
const ZONE: &str = "topology.kubernetes.io/zone";
const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// Endpoints by the ports that their pods serve. The key orders and compares ports.
pub(super) type ByPorts = BTreeMap<String, (Vec<EndpointPort>, Vec<Endpoint>)>;

pub(super) struct Found {
    pub by_ports: ByPorts,
    /// A node that a pod names and the cache does not have.
    pub missing_node: Option<String>,
}

#[derive(Default)]
pub(super) struct Changes {
    pub create: Vec<EndpointSlice>,
    pub update: Vec<EndpointSlice>,
    pub delete: Vec<Arc<EndpointSlice>>,
}

impl Changes {
    pub(super) fn extend(&mut self, other: Self) {
        self.create.extend(other.create);
        self.update.extend(other.update);
        self.delete.extend(other.delete);
    }
}

/// `getAddressTypesForService`.
pub(super) fn address_types(service: &Service) -> AddressTypes {
    let families = service.spec.as_ref().and_then(|s| s.ip_families.as_ref());
    let types: AddressTypes = families
        .into_iter()
        .flatten()
        .filter_map(|family| match family.as_str() {
            "IPv4" => Some("IPv4"),
            "IPv6" => Some("IPv6"),
            _ => None,
        })
        .collect();
    if !types.is_empty() {
        return types;
    }
    match service_pods::cluster_ip(service).parse::<std::net::IpAddr>() {
        Ok(ip) if ip.is_ipv6() => AddressTypes::from(["IPv6"]),
        Ok(_) => AddressTypes::from(["IPv4"]),
        Err(_) => AddressTypes::from(["IPv4", "IPv6"]),
    }
}

pub(super) fn zone(node: &Node) -> Option<&str> {
    node.label(ZONE).filter(|zone| !zone.is_empty())
}

pub(super) fn is_owned_by(slice: &EndpointSlice, service: &Service) -> bool {
    slice.metadata.owner_references.iter().flatten().any(|o| o.uid == service.uid() && o.kind == "Service")
}

/// The endpoints that the pods make.
pub(super) fn endpoints(
    service: &Service,
    pods: &[Arc<Pod>],
    family: &str,
    node_of: impl Fn(&str) -> Option<Arc<Node>>,
) -> Found {
    let mut found = Found { by_ports: ByPorts::new(), missing_node: None };
    for pod in pods {
        if !service_pods::belongs(pod, true) {
            continue;
        }
        let ports = ports(service, pod);
        let node = node_of(pods::node(pod));
        if node.is_none() && !service_pods::publishes_not_ready(service) {
            found.missing_node = Some(pods::node(pod).to_owned());
            continue;
        }
        let addresses: Vec<String> = service_pods::addresses(pod)
            .filter(|ip| ip.is_ipv6() == (family == "IPv6"))
            .map(|ip| ip.to_string())
            .collect();
        if addresses.is_empty() {
            continue;
        }
        let entry = found.by_ports.entry(ports_key(&ports)).or_insert_with(|| (ports, Vec::new()));
        entry.1.push(endpoint(service, pod, node.as_deref(), addresses));
    }
    found
}

fn endpoint(service: &Service, pod: &Pod, node: Option<&Node>, addresses: Vec<String>) -> Endpoint {
    let serving = pods::is_ready(pod);
    let terminating = pod.is_deleting();
    Endpoint {
        addresses,
        conditions: Some(EndpointConditions {
            ready: Some(service_pods::publishes_not_ready(service) || (serving && !terminating)),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".to_owned()),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            ..Default::default()
        }),
        node_name: pod.node_name().filter(|n| !n.is_empty()).map(str::to_owned),
        zone: node.and_then(zone).map(str::to_owned),
        hostname: service_pods::hostname(pod, service),
        ..Default::default()
    }
}

fn ports(service: &Service, pod: &Pod) -> Vec<EndpointPort> {
    service_pods::ports(service)
        .iter()
        .filter_map(|port| {
            Some(EndpointPort {
                name: Some(port.name.clone().unwrap_or_default()),
                port: Some(service_pods::find_port(pod, port)?),
                protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".to_owned())),
                app_protocol: port.app_protocol.clone(),
            })
        })
        .collect()
}

fn ports_key(ports: &[EndpointPort]) -> String {
    let mut keys: Vec<String> = ports
        .iter()
        .map(|p| {
            format!(
                "{}/{}/{}/{}",
                p.name.as_deref().unwrap_or_default(),
                p.port.unwrap_or(0),
                p.protocol.as_deref().unwrap_or("TCP"),
                p.app_protocol.as_deref().unwrap_or_default()
            )
        })
        .collect();
    keys.sort();
    keys.join(",")
}

/// What to write so that the slices of one family hold these endpoints.
pub(super) fn slices(
    service: &Service,
    family: &'static str,
    desired: ByPorts,
    existing: Vec<Arc<EndpointSlice>>,
) -> Changes {
    let mut changes = Changes::default();
    let mut by_ports: BTreeMap<String, Vec<Arc<EndpointSlice>>> = BTreeMap::new();
    let count = existing.len();
    for slice in existing {
        if is_owned_by(&slice, service) {
            by_ports.entry(ports_key(slice.ports.as_deref().unwrap_or_default())).or_default().push(slice);
        } else {
            changes.delete.push(slice);
        }
    }
    for (key, (ports, mut endpoints)) in desired {
        add_hints(service, &mut endpoints);
        let slices = by_ports.remove(&key).unwrap_or_default();
        changes.extend(pack(service, family, ports, endpoints, slices));
    }
    changes.delete.extend(by_ports.into_values().flatten());
    if count == changes.delete.len() && changes.create.is_empty() {
        // A service without endpoints has one slice that says so.
        let empty = new_slice(service, family, Vec::new());
        let only = (changes.delete.len() == 1).then(|| Arc::clone(&changes.delete[0]));
        match only {
            Some(slice) if is_placeholder(&slice, &empty, service) => changes.delete.clear(),
            _ => changes.create.push(empty),
        }
    }
    changes
}

fn is_placeholder(slice: &EndpointSlice, empty: &EndpointSlice, service: &Service) -> bool {
    slice.endpoints.as_ref().is_none_or(Vec::is_empty)
        && slice.ports.as_ref().is_none_or(Vec::is_empty)
        && slice.metadata.labels == empty.metadata.labels
        && is_owned_by(slice, service)
}

/// `reconcileByPortMapping`: keeps endpoints where they are, fills slices that change anyway, then the fullest slice that
/// has room for all of the rest, then new slices.
fn pack(
    service: &Service,
    family: &'static str,
    ports: Vec<EndpointPort>,
    desired: Vec<Endpoint>,
    existing: Vec<Arc<EndpointSlice>>,
) -> Changes {
    let labels = labels(service);
    let mut left: BTreeMap<String, Endpoint> = desired.into_iter().map(|e| (identity(&e), e)).collect();
    let mut changes = Changes::default();
    let mut changed: Vec<EndpointSlice> = Vec::new();
    let mut unchanged: Vec<Arc<EndpointSlice>> = Vec::new();
    for slice in existing {
        let old = slice.endpoints.as_deref().unwrap_or_default();
        let kept: Vec<Endpoint> = old.iter().filter_map(|e| left.remove(&identity(e))).collect();
        if kept.is_empty() && !old.is_empty() {
            changes.delete.push(slice);
        } else if kept.len() == old.len()
            && kept.iter().zip(old).all(|(a, b)| same(a, b))
            && has_labels(&slice, &labels)
        {
            unchanged.push(slice);
        } else {
            let mut slice = (*slice).clone();
            slice.endpoints = Some(kept);
            changed.push(slice);
        }
    }
    let mut left: Vec<Endpoint> = left.into_values().collect();
    changed.sort_by_key(|slice| std::cmp::Reverse(slice.endpoints.as_ref().map_or(0, Vec::len)));
    for slice in &mut changed {
        fill(slice, &mut left);
    }
    while !left.is_empty() {
        let room = |s: &EndpointSlice| SLICE_MAX.checked_sub(s.endpoints.as_ref().map_or(0, Vec::len) + left.len());
        let best = if left.len() < SLICE_MAX {
            (0..unchanged.len())
                .filter_map(|at| Some((room(&unchanged[at])?, at)))
                .filter(|(room, _)| *room < SLICE_MAX)
                .min()
        } else {
            None
        };
        match best {
            Some((_, at)) => {
                let mut slice = (*unchanged.swap_remove(at)).clone();
                fill(&mut slice, &mut left);
                changed.push(slice);
            }
            None => {
                let mut slice = new_slice(service, family, ports.clone());
                fill(&mut slice, &mut left);
                changes.create.push(slice);
            }
        }
    }
    for slice in &mut changed {
        slice.metadata.labels = Some(labels.clone());
        if let Some(annotations) = &mut slice.metadata.annotations {
            annotations.remove(TRIGGER_TIME);
        }
    }
    changes.update = changed;
    changes
}

fn fill(slice: &mut EndpointSlice, left: &mut Vec<Endpoint>) {
    let endpoints = slice.endpoints.get_or_insert_default();
    let room = SLICE_MAX.saturating_sub(endpoints.len()).min(left.len());
    endpoints.extend(left.drain(..room));
}

/// Two endpoints with the same identity are the same pod at the same address.
fn identity(endpoint: &Endpoint) -> String {
    let target = endpoint.target_ref.as_ref();
    format!(
        "{}|{}|{}|{}",
        endpoint.addresses.join(","),
        endpoint.hostname.as_deref().unwrap_or_default(),
        target.and_then(|t| t.name.as_deref()).unwrap_or_default(),
        target.and_then(|t| t.uid.as_deref()).unwrap_or_default()
    )
}

fn same(a: &Endpoint, b: &Endpoint) -> bool {
    a.node_name == b.node_name && a.zone == b.zone && a.conditions == b.conditions && a.hints == b.hints
}

fn has_labels(slice: &EndpointSlice, labels: &BTreeMap<String, String>) -> bool {
    slice.metadata.labels.as_ref() == Some(labels)
}

fn labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS_LABEL);
    if !service_pods::has_cluster_ip(service) {
        labels.insert(HEADLESS_LABEL.to_owned(), String::new());
    }
    labels.insert(SERVICE_NAME.to_owned(), service.name().to_owned());
    labels.insert(MANAGED_BY.to_owned(), CONTROLLER.to_owned());
    labels
}

fn new_slice(service: &Service, family: &str, ports: Vec<EndpointPort>) -> EndpointSlice {
    EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", service.name())),
            namespace: service.metadata.namespace.clone(),
            labels: Some(labels(service)),
            owner_references: Some(vec![owner_ref(service)]),
            ..Default::default()
        },
        address_type: family.to_owned(),
        ports: Some(ports),
        endpoints: Some(Vec::new()),
    }
}

/// `trafficdist.ReconcileHints`: each ready endpoint is for its own zone (and node).
fn add_hints(service: &Service, endpoints: &mut [Endpoint]) {
    let distribution = service.spec.as_ref().and_then(|s| s.traffic_distribution.as_deref()).unwrap_or_default();
    let by_node = distribution == "PreferSameNode";
    if !by_node && !matches!(distribution, "PreferClose" | "PreferSameZone") {
        return;
    }
    for endpoint in endpoints {
        let ready = endpoint.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true);
        if !ready {
            continue;
        }
        let for_zones = endpoint.zone.clone().map(|name| vec![ForZone { name }]);
        let for_nodes = endpoint.node_name.clone().filter(|_| by_node).map(|name| vec![ForNode { name }]);
        if for_zones.is_some() || for_nodes.is_some() {
            endpoint.hints = Some(EndpointHints { for_nodes, for_zones });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn service() -> Service {
        serde_json::from_value(json!({
            "metadata": {"name": "s", "namespace": "n", "uid": "su", "labels": {"l": "v"}},
            "spec": {"clusterIP": "10.0.0.1", "ipFamilies": ["IPv4"], "selector": {"a": "b"},
                "ports": [{"name": "web", "port": 80, "targetPort": 8080, "protocol": "TCP"}]},
        }))
        .unwrap()
    }

    fn pod(number: usize, ready: bool) -> Arc<Pod> {
        Arc::new(
            serde_json::from_value(json!({
                "metadata": {"name": format!("p{number}"), "namespace": "n", "uid": format!("u{number}")},
                "spec": {"nodeName": "node", "containers": []},
                "status": {"phase": "Running", "podIPs": [{"ip": format!("10.1.{}.{}", number / 250, number % 250 + 1)}],
                    "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]},
            }))
            .unwrap(),
        )
    }

    fn compute(pods: &[Arc<Pod>], existing: Vec<Arc<EndpointSlice>>) -> Changes {
        let found = endpoints(&service(), pods, "IPv4", |_| Some(Arc::new(Node::default())));
        slices(&service(), "IPv4", found.by_ports, existing)
    }

    /// As if the changes had been applied.
    fn named(slices: Vec<EndpointSlice>) -> Vec<Arc<EndpointSlice>> {
        slices
            .into_iter()
            .enumerate()
            .map(|(at, mut slice)| {
                slice.metadata.name = Some(format!("s-{at}"));
                Arc::new(slice)
            })
            .collect()
    }

    #[test]
    fn a_service_without_pods_has_one_empty_slice_and_keeps_it() {
        let changes = compute(&[], Vec::new());
        assert_eq!(changes.create.len(), 1);
        assert_eq!(changes.create[0].metadata.labels.as_ref().unwrap()[MANAGED_BY], CONTROLLER);
        let again = compute(&[], named(changes.create));
        assert_eq!((again.create.len(), again.update.len(), again.delete.len()), (0, 0, 0));
    }

    #[test]
    fn endpoints_are_packed_by_hundreds_and_stay_where_they_are() {
        let pods: Vec<_> = (0..150).map(|n| pod(n, true)).collect();
        let changes = compute(&pods, Vec::new());
        let sizes: Vec<_> = changes.create.iter().map(|s| s.endpoints.as_ref().unwrap().len()).collect();
        assert_eq!(sizes, [100, 50]);
        let existing = named(changes.create);
        let again = compute(&pods, existing.clone());
        assert!(again.create.is_empty() && again.update.is_empty() && again.delete.is_empty());
        let mut more = pods.clone();
        more.push(pod(150, true));
        let grown = compute(&more, existing);
        assert_eq!((grown.create.len(), grown.update.len()), (0, 1));
        assert_eq!(grown.update[0].endpoints.as_ref().unwrap().len(), 51);
    }

    #[test]
    fn readiness_changes_one_slice() {
        let existing = named(compute(&[pod(1, false)], Vec::new()).create);
        let changes = compute(&[pod(1, true)], existing);
        assert_eq!((changes.create.len(), changes.update.len(), changes.delete.len()), (0, 1, 0));
        let conditions = changes.update[0].endpoints.as_ref().unwrap()[0].conditions.clone().unwrap();
        assert_eq!(
            (conditions.ready, conditions.serving, conditions.terminating),
            (Some(true), Some(true), Some(false))
        );
    }

    #[test]
    fn a_pod_without_a_known_node_is_left_out() {
        let found = endpoints(&service(), &[pod(1, true)], "IPv4", |_| None);
        assert!(found.by_ports.is_empty());
        assert_eq!(found.missing_node.as_deref(), Some("node"));
    }
}
