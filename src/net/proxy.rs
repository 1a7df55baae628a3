//! Keeps the nft table in step with Services, EndpointSlices, NetworkPolicies and the node's pods.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use base::{Backoff, Shutdown};
use client::k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
use client::k8s_openapi::api::discovery::v1::EndpointSlice;
use client::k8s_openapi::api::networking::v1::NetworkPolicy;
use client::{Event, Informer, Informers, Resource, Subscription};
use futures::{FutureExt, TryStreamExt};
use netlink_packet_route::address::AddressAttribute;

use crate::conntrack;
use crate::gate::Gate;
use crate::health::HealthServers;
use crate::nft::{self, Change, NftError, Socket, TableConfig};
use crate::policy::{self, PolicyRules, plan_policies};
use crate::services::{Input, Rules, plan_rules};

/// Changes come in bursts; they are taken together.
const SETTLE: Duration = Duration::from_millis(10);
const ZONE: &str = "topology.kubernetes.io/zone";

/// What routing needs to know.
#[derive(Clone)]
pub struct ProxyConfig {
    pub node_name: String,
    pub table: TableConfig,
    /// Service addresses that this machine answers itself, such as the cluster's DNS.
    pub local: Vec<Ipv4Addr>,
    /// Where pods wait until they are guarded.
    pub gate: Gate,
}

/// Routes until `shutdown`. The table stays, so that a restart interrupts nothing.
pub async fn run(config: ProxyConfig, informers: Informers, shutdown: Shutdown) {
    let sources = Sources::new(&informers, &config.node_name);
    tokio::select! {
        biased;
        () = shutdown.cancelled() => return,
        () = sources.synced() => {}
    }
    let mut follow = Follow::new(&sources);
    let mut peers: Option<Peers> = None;
    let mut table = Table::new(config.table);
    let mut health = HealthServers::default();
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(30));
    loop {
        let policies = sources.policies.list();
        // Watching every pod of the cluster is worth it only for somebody who has policies.
        if !policies.is_empty() && peers.is_none() {
            let all = Peers::new(&informers);
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                () = all.synced() => {}
            }
            peers = Some(all);
        }
        let rules = sources.rules(&config.node_name, &config.local);
        let (version, given) = config.gate.addresses();
        let policies = peers.as_ref().map_or_else(PolicyRules::default, |peers| {
            let (pods, namespaces) = (peers.all_pods(&sources, &config.node_name), peers.namespaces.list());
            let (node_name, pods, namespaces) = (&config.node_name, &pods, &namespaces);
            plan_policies(&policy::Input { node_name, policies: &policies, pods, given: &given, namespaces })
        });
        health.set(&rules.health, &shutdown);
        let wait = match table.apply(rules, policies).await {
            Ok(()) => {
                backoff.reset();
                config.gate.open(version);
                None
            }
            Err(error) => {
                tracing::error!(error = %base::chain(&error), "cannot program the network rules; trying again");
                // Another program may have changed the table: begin anew.
                table.fresh = true;
                Some(backoff.step())
            }
        };
        let mut version = version;
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                () = config.gate.changed(version) => {
                    if peers.is_some() {
                        break;
                    }
                    // Without policies there is nothing to wait for.
                    version = config.gate.addresses().0;
                    config.gate.open(version);
                }
                () = follow.changed(peers.as_mut()) => {
                    tokio::time::sleep(SETTLE).await;
                    while follow.changed(peers.as_mut()).now_or_never().is_some() {}
                    break;
                }
                () = async { match wait { Some(delay) => tokio::time::sleep(delay).await, None => std::future::pending().await } } => break,
            }
        }
    }
}

/// The objects that are always read.
struct Sources {
    services: Informer<Service>,
    slices: Informer<EndpointSlice>,
    /// Of this node.
    pods: Informer<Pod>,
    /// This node alone.
    nodes: Informer<Node>,
    policies: Informer<NetworkPolicy>,
}

impl Sources {
    fn new(informers: &Informers, node_name: &str) -> Self {
        Self {
            services: informers.informer(),
            slices: informers.informer(),
            pods: informers.informer_with(&format!("spec.nodeName={node_name}")),
            nodes: informers.informer_with(&format!("metadata.name={node_name}")),
            policies: informers.informer(),
        }
    }

    async fn synced(&self) {
        self.services.synced().await;
        self.slices.synced().await;
        self.pods.synced().await;
        self.nodes.synced().await;
        self.policies.synced().await;
    }

    fn rules(&self, node_name: &str, local: &[Ipv4Addr]) -> Rules {
        let (services, slices, pods) = (sorted(&self.services), self.slices.list(), self.pods.list());
        let nodes = self.nodes.list();
        let zone = nodes.first().and_then(|node| zone(node)).unwrap_or_default();
        plan_rules(&Input { node_name, zone, services: &services, slices: &slices, pods: &pods, local })
    }
}

/// Their changes.
struct Follow {
    services: Subscription<Service>,
    slices: Subscription<EndpointSlice>,
    pods: Subscription<Pod>,
    nodes: Subscription<Node>,
    policies: Subscription<NetworkPolicy>,
}

impl Follow {
    fn new(sources: &Sources) -> Self {
        Self {
            services: sources.services.subscribe(),
            slices: sources.slices.subscribe(),
            pods: sources.pods.subscribe(),
            nodes: sources.nodes.subscribe(),
            policies: sources.policies.subscribe(),
        }
    }

    /// Returns when something has changed that the rules are made from.
    async fn changed(&mut self, peers: Option<&mut Peers>) {
        tokio::select! {
            () = changed(&mut self.services, |_, _| true) => {}
            () = changed(&mut self.slices, |_, _| true) => {}
            () = changed(&mut self.pods, has_host_ports) => {}
            () = changed(&mut self.nodes, |old, node| old.and_then(zone) != zone(node)) => {}
            () = changed(&mut self.policies, |_, _| true) => {}
            () = async { match peers { Some(peers) => peers.changed().await, None => std::future::pending().await } } => {}
        }
    }
}

/// What NetworkPolicies choose from: all pods and namespaces.
struct Peers {
    pods: Informer<Pod>,
    namespaces: Informer<Namespace>,
    pod_events: Subscription<Pod>,
    namespace_events: Subscription<Namespace>,
}

impl Peers {
    fn new(informers: &Informers) -> Self {
        let (pods, namespaces) = (informers.informer::<Pod>(), informers.informer::<Namespace>());
        let (pod_events, namespace_events) = (pods.subscribe(), namespaces.subscribe());
        Self { pods, namespaces, pod_events, namespace_events }
    }

    async fn synced(&self) {
        self.pods.synced().await;
        self.namespaces.synced().await;
    }

    /// The pods of this node are taken from where the node agent sees them, so that none is missing that it starts.
    fn all_pods(&self, sources: &Sources, node_name: &str) -> Vec<Arc<Pod>> {
        let elsewhere = |pod: &Arc<Pod>| pod.spec.as_ref().is_none_or(|s| s.node_name.as_deref() != Some(node_name));
        let mut pods = self.pods.list();
        pods.retain(elsewhere);
        pods.extend(sources.pods.list());
        pods
    }

    async fn changed(&mut self) {
        let labels =
            |old: Option<&Namespace>, new: &Namespace| old.is_none_or(|old| old.metadata.labels != new.metadata.labels);
        let place = |old: Option<&Pod>, new: &Pod| {
            old.is_none_or(|old| old.metadata.labels != new.metadata.labels || address(old) != address(new))
        };
        tokio::select! {
            () = changed(&mut self.pod_events, place) => {}
            () = changed(&mut self.namespace_events, labels) => {}
        }
    }
}

/// What makes a pod reachable: its address and whether it still has it.
fn address(pod: &Pod) -> Option<(Option<&str>, Option<&str>)> {
    pod.status.as_ref().map(|status| (status.pod_ip.as_deref(), status.phase.as_deref()))
}

fn zone(node: &Node) -> Option<&str> {
    node.metadata.labels.as_ref()?.get(ZONE).map(String::as_str)
}

/// Services in the order of their names, so that of two with one address always the same one wins.
fn sorted(services: &Informer<Service>) -> Vec<Arc<Service>> {
    let mut all = services.list();
    all.sort_by(|a, b| {
        let key = |s: &Service| {
            (s.metadata.creation_timestamp.clone().map(|t| t.0), s.metadata.namespace.clone(), s.metadata.name.clone())
        };
        key(a).cmp(&key(b))
    });
    all
}

/// Returns at the first event that `matters`; at shutdown, never.
async fn changed<K: Resource>(events: &mut Subscription<K>, matters: impl Fn(Option<&K>, &K) -> bool) {
    loop {
        let relevant = match events.recv().await {
            None => std::future::pending().await,
            Some(Event::Added(object) | Event::Deleted(object)) => matters(None, &object),
            Some(Event::Updated { old, new }) => matters(Some(&old), &new),
            Some(Event::Resync) => true,
        };
        if relevant {
            return;
        }
    }
}

/// Whether the pod's change concerns its host ports.
fn has_host_ports(old: Option<&Pod>, pod: &Pod) -> bool {
    let spec = pod.spec.as_ref();
    let ports = spec.is_some_and(|spec| {
        let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
        containers.flat_map(|c| c.ports.iter().flatten()).any(|port| port.host_port.is_some_and(|p| p > 0))
    });
    ports && old.is_none_or(|old| address(old) != address(pod))
}

/// The table as it is.
struct Table {
    config: TableConfig,
    /// Chains of rules that it has.
    chains: BTreeSet<String>,
    services: Rules,
    policies: PolicyRules,
    /// It must be made from nothing.
    fresh: bool,
}

impl Table {
    fn new(config: TableConfig) -> Self {
        let (services, policies) = (Rules::default(), PolicyRules::default());
        Self { config, chains: BTreeSet::new(), services, policies, fresh: true }
    }

    /// Makes the table say this, and ends the UDP connections that lead elsewhere.
    async fn apply(&mut self, services: Rules, policies: PolicyRules) -> Result<(), NftError> {
        let change = Change {
            services: (self.fresh || self.services != services).then_some(&services),
            policies: (self.fresh || self.policies != policies).then_some(&policies),
            fresh: self.fresh,
        };
        if change.services.is_none() && change.policies.is_none() {
            return Ok(());
        }
        let (batch, chains) = nft::transaction(&self.config, change, &self.chains);
        Socket::open()?.send(batch)?;
        // After the new rules: a packet in between must not make the old connection again.
        if self.fresh || self.services.serving != services.serving {
            self.clear_stale(&services).await;
        }
        self.chains = chains;
        self.services = services;
        self.policies = policies;
        self.fresh = false;
        Ok(())
    }

    async fn clear_stale(&self, services: &Rules) {
        let own = match own_addresses().await {
            Ok(own) => own,
            Err(error) => {
                tracing::warn!(%error, "cannot read the node's addresses: UDP connections to node ports may be stale");
                BTreeSet::new()
            }
        };
        match conntrack::clear_stale(services, &own) {
            Ok(0) => {}
            Ok(count) => tracing::debug!(count, "UDP connections to endpoints that are gone were ended"),
            Err(error) => tracing::warn!(error = %base::chain(&error), "cannot end stale UDP connections"),
        }
    }
}

/// Every IPv4 address of this machine.
async fn own_addresses() -> std::io::Result<BTreeSet<Ipv4Addr>> {
    let (connection, handle, _messages) = rtnetlink::new_connection()?;
    let connection = tokio::spawn(connection);
    let held: Result<Vec<_>, _> = handle.address().get().execute().try_collect().await;
    connection.abort();
    let held = held.map_err(std::io::Error::other)?;
    let addresses = held.iter().flat_map(|message| &message.attributes).filter_map(|attribute| match attribute {
        AddressAttribute::Local(IpAddr::V4(address)) | AddressAttribute::Address(IpAddr::V4(address)) => Some(*address),
        _ => None,
    });
    Ok(addresses.collect())
}
