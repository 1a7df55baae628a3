//! NetworkPolicies as [`PolicyRules`]: a pure function from objects.
//!
//! A pod that a policy selects takes only what one of its policies allows, and what belongs to a connection that is
//! there already. Never held up, as the API documents it (`networking/v1` `NetworkPolicySpec` and the concept page):
//! connections between a pod and its own node, and of a pod to itself. Addresses are compared after Services are
//! resolved, so that a rule names pods and never their Service.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use api::selector::LabelSelector as Selector;
use client::k8s_openapi::api::core::v1::{Namespace, Pod};
use client::k8s_openapi::api::networking::v1::{NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort};
use client::k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use client::k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use ipnet::Ipv4Net;

pub use rules::{Allow, Direction, Group, Peer, PolicyRules, Ports};

use crate::services::Protocol;

mod rules;

/// What the rules are made from: all objects of the cluster.
pub struct Input<'a> {
    pub node_name: &'a str,
    pub policies: &'a [Arc<NetworkPolicy>],
    pub pods: &'a [Arc<Pod>],
    /// Addresses that pods of this node have been given, by uid: their status may not say so yet.
    pub given: &'a BTreeMap<String, Ipv4Addr>,
    pub namespaces: &'a [Arc<Namespace>],
}

/// A pod that has an address of its own.
struct Place<'a> {
    address: Ipv4Addr,
    namespace: &'a str,
    local: bool,
    pod: &'a Pod,
}

/// Computes the rules.
pub fn plan_policies(input: &Input<'_>) -> PolicyRules {
    let mut planner = Planner {
        places: input.pods.iter().filter_map(|pod| place(input, pod)).collect(),
        namespaces: input.namespaces,
        rules: PolicyRules::default(),
    };
    let mut policies: Vec<&NetworkPolicy> = input.policies.iter().map(|policy| &**policy).collect();
    let name = |p: &NetworkPolicy| (p.metadata.namespace.clone(), p.metadata.name.clone());
    policies.sort_by_cached_key(|policy| name(policy));
    // For each pod and direction the rules of all its policies; a policy may have none.
    let mut allowed: BTreeMap<(Direction, Ipv4Addr), Vec<u32>> = BTreeMap::new();
    for policy in policies {
        for (direction, isolated, rules) in planner.policy(policy) {
            for address in isolated {
                allowed.entry((direction, address)).or_default().extend(&rules);
            }
        }
    }
    planner.group(allowed);
    planner.rules
}

/// `None` for pods that share their node's address, have none yet, or have given it back.
fn place<'a>(input: &Input<'_>, pod: &'a Pod) -> Option<Place<'a>> {
    let spec = pod.spec.as_ref()?;
    let status = pod.status.as_ref();
    let ended = status.is_some_and(|status| matches!(text(&status.phase), "Succeeded" | "Failed"));
    if spec.host_network == Some(true) || ended {
        return None;
    }
    let given = input.given.get(text(&pod.metadata.uid)).copied();
    let address = given.or_else(|| status?.pod_ip.as_deref()?.parse().ok())?;
    let local = spec.node_name.as_deref() == Some(input.node_name);
    Some(Place { address, namespace: text(&pod.metadata.namespace), local, pod })
}

struct Planner<'a> {
    places: Vec<Place<'a>>,
    namespaces: &'a [Arc<Namespace>],
    rules: PolicyRules,
}

/// One direction of a policy: the pods of this node that it isolates, and the rules that it has for them.
type Half = (Direction, Vec<Ipv4Addr>, Vec<u32>);

impl Planner<'_> {
    fn policy(&mut self, policy: &NetworkPolicy) -> Vec<Half> {
        let Some(spec) = &policy.spec else { return Vec::new() };
        let namespace = text(&policy.metadata.namespace);
        let selector = spec.pod_selector.as_ref().map_or_else(Selector::everything, parse);
        let chosen: Vec<&Place<'_>> =
            self.places.iter().filter(|p| p.namespace == namespace && matches(&selector, p.pod)).collect();
        let isolated: Vec<Ipv4Addr> = chosen.iter().filter(|place| place.local).map(|place| place.address).collect();
        if isolated.is_empty() {
            return Vec::new();
        }
        // The API server fills in the types; without them the rules say which are meant.
        let named = |kind: &str| spec.policy_types.as_ref().map(|types| types.iter().any(|t| t == kind));
        let mut halves = Vec::new();
        if named("Ingress").unwrap_or(true) {
            let mut rules = Vec::new();
            for rule in spec.ingress.iter().flatten() {
                let peers = self.peers(namespace, rule.from.as_deref().unwrap_or_default());
                let ports = rule.ports.as_deref().unwrap_or_default();
                let ports = ports_of(ports, |protocol, name| {
                    named_ports(self.places.iter().filter(|place| isolated.contains(&place.address)), protocol, name)
                });
                rules.extend(self.allow(peers, ports));
            }
            halves.push((Direction::Ingress, isolated.clone(), rules));
        }
        if named("Egress").unwrap_or(spec.egress.as_ref().is_some_and(|rules| !rules.is_empty())) {
            let mut rules = Vec::new();
            for rule in spec.egress.iter().flatten() {
                let peers = self.peers(namespace, rule.to.as_deref().unwrap_or_default());
                let ports = rule.ports.as_deref().unwrap_or_default();
                // A name stands for a port of the other end; the peers narrow it down when packets are matched.
                let ports = ports_of(ports, |protocol, name| named_ports(self.places.iter(), protocol, name));
                rules.extend(self.allow(peers, ports));
            }
            halves.push((Direction::Egress, isolated, rules));
        }
        halves
    }

    /// Notes a rule; `None` if it allows nothing at the moment.
    fn allow(&mut self, peers: Vec<Peer>, ports: Vec<Ports>) -> Option<u32> {
        if peers.is_empty() || ports.is_empty() {
            return None;
        }
        let id = u32::try_from(self.rules.rules.len()).ok()?;
        self.rules.rules.insert(id, Allow { peers, ports });
        Some(id)
    }

    /// The peers of a rule; a rule without any is for everybody.
    fn peers(&self, own_namespace: &str, peers: &[NetworkPolicyPeer]) -> Vec<Peer> {
        if peers.is_empty() {
            return vec![Peer::Any];
        }
        let mut pods = BTreeSet::new();
        let mut found = Vec::new();
        for peer in peers {
            if let Some(block) = &peer.ip_block {
                // Blocks of the other family hold no address of this one.
                let Ok(range) = block.cidr.parse::<Ipv4Net>() else { continue };
                let except = block.except.iter().flatten().filter_map(|range| range.parse().ok()).collect();
                found.push(Peer::Block { range, except });
                continue;
            }
            let namespaces: BTreeSet<&str> = match &peer.namespace_selector {
                None => BTreeSet::from([own_namespace]),
                Some(selector) => {
                    let selector = parse(selector);
                    let labelled = self.namespaces.iter().filter(|namespace| {
                        let labels = namespace.metadata.labels.as_ref();
                        selector.matches(|key| labels?.get(key).map(String::as_str))
                    });
                    labelled.map(|namespace| text(&namespace.metadata.name)).collect()
                }
            };
            let selector = peer.pod_selector.as_ref().map_or_else(Selector::everything, parse);
            let places = self.places.iter();
            let chosen = places.filter(|p| namespaces.contains(p.namespace) && matches(&selector, p.pod));
            pods.extend(chosen.map(|place| place.address));
        }
        if !pods.is_empty() {
            found.push(Peer::Pods(pods));
        }
        found
    }

    /// Puts pods with the same rules into one group.
    fn group(&mut self, allowed: BTreeMap<(Direction, Ipv4Addr), Vec<u32>>) {
        let mut ids: BTreeMap<(Direction, Vec<u32>), u32> = BTreeMap::new();
        for ((direction, address), rules) in allowed {
            let next = u32::try_from(ids.len()).unwrap_or(u32::MAX);
            let id = *ids.entry((direction, rules.clone())).or_insert(next);
            self.rules.groups.entry(id).or_insert(Group { direction, rules });
            let pods = match direction {
                Direction::Ingress => &mut self.rules.ingress,
                Direction::Egress => &mut self.rules.egress,
            };
            pods.insert(address, id);
        }
    }
}

/// The ports of a rule; a rule without any is for everything. `named` finds the ports with a name.
fn ports_of(
    ports: &[NetworkPolicyPort],
    named: impl Fn(Protocol, &str) -> BTreeSet<(Ipv4Addr, Protocol, u16)>,
) -> Vec<Ports> {
    if ports.is_empty() {
        return vec![Ports::Any];
    }
    let one = |port: &NetworkPolicyPort| {
        let protocol = Protocol::parse(port.protocol.as_deref().unwrap_or("TCP"))?;
        match &port.port {
            None => Some(Ports::Range(protocol, 0..=u16::MAX)),
            Some(IntOrString::Int(first)) => {
                let first = u16::try_from(*first).ok()?;
                let last = port.end_port.and_then(|last| u16::try_from(last).ok()).unwrap_or(first);
                Some(Ports::Range(protocol, first..=last))
            }
            Some(IntOrString::String(name)) => {
                let found = named(protocol, name);
                (!found.is_empty()).then_some(Ports::Named(found))
            }
        }
    };
    ports.iter().filter_map(one).collect()
}

/// Where pods have a port of this name.
fn named_ports<'a>(
    places: impl Iterator<Item = &'a Place<'a>>,
    protocol: Protocol,
    name: &str,
) -> BTreeSet<(Ipv4Addr, Protocol, u16)> {
    let mut found = BTreeSet::new();
    for place in places {
        let Some(spec) = &place.pod.spec else { continue };
        let sidecars = spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
        for port in spec.containers.iter().chain(sidecars).flat_map(|c| c.ports.iter().flatten()) {
            let same = Protocol::parse(port.protocol.as_deref().unwrap_or("TCP")) == Some(protocol);
            if same
                && port.name.as_deref() == Some(name)
                && let Ok(number) = u16::try_from(port.container_port)
            {
                found.insert((place.address, protocol, number));
            }
        }
    }
    found
}

/// A selector that cannot be read, which the API server does not admit, selects nothing.
fn parse(selector: &LabelSelector) -> Selector {
    serde_json::to_value(selector)
        .ok()
        .and_then(|value| Selector::from_object(&value).ok())
        .unwrap_or_else(Selector::nothing)
}

fn matches(selector: &Selector, pod: &Pod) -> bool {
    let labels = pod.metadata.labels.as_ref();
    selector.matches(|key| labels?.get(key).map(String::as_str))
}

fn text(field: &Option<String>) -> &str {
    field.as_deref().unwrap_or_default()
}

#[cfg(test)]
mod tests;
