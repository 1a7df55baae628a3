//! Keeps the nft table in step with Services, EndpointSlices and the node's pods.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use base::{Backoff, Shutdown};
use client::k8s_openapi::api::core::v1::{Pod, Service};
use client::k8s_openapi::api::discovery::v1::EndpointSlice;
use client::{Event, Informer, Informers, Resource, Subscription};

use crate::nft::{self, NftError, Socket, TableConfig};
use crate::services::{Input, Rules, plan_rules};

/// Changes come in bursts; they are taken together.
const SETTLE: Duration = Duration::from_millis(10);

/// What routing needs to know.
#[derive(Debug, Clone)]
pub struct ProxyConfig {
    pub node_name: String,
    pub table: TableConfig,
    /// Service addresses that this machine answers itself, such as the cluster's DNS.
    pub local: Vec<Ipv4Addr>,
}

/// Routes until `shutdown`. The table stays, so that a restart interrupts nothing.
pub async fn run(config: ProxyConfig, informers: Informers, shutdown: Shutdown) {
    let services = informers.informer::<Service>();
    let slices = informers.informer::<EndpointSlice>();
    let pods = informers.informer_with::<Pod>(&format!("spec.nodeName={}", config.node_name));
    let all_synced = async {
        services.synced().await;
        slices.synced().await;
        pods.synced().await;
    };
    tokio::select! {
        biased;
        () = shutdown.cancelled() => return,
        () = all_synced => {}
    }
    let mut service_events = services.subscribe();
    let mut slice_events = slices.subscribe();
    let mut pod_events = pods.subscribe();
    let mut table = Table { config: config.table, chains: BTreeSet::new(), applied: None, fresh: true };
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(30));
    loop {
        let (listed_services, listed_slices, listed_pods) = (sorted(&services), slices.list(), pods.list());
        let rules = plan_rules(&Input {
            node_name: &config.node_name,
            services: &listed_services,
            slices: &listed_slices,
            pods: &listed_pods,
            local: &config.local,
        });
        let wait = match table.apply(rules) {
            Ok(()) => {
                backoff.reset();
                None
            }
            Err(error) => {
                tracing::error!(error = %base::chain(&error), "cannot program the Service rules; trying again");
                // Another program may have changed the table: begin anew.
                table.fresh = true;
                Some(backoff.step())
            }
        };
        let changed = async {
            loop {
                let relevant = tokio::select! {
                    () = changed(&mut service_events, |_, _| true) => true,
                    () = changed(&mut slice_events, |_, _| true) => true,
                    () = changed(&mut pod_events, has_host_ports) => true,
                };
                if relevant {
                    return;
                }
            }
        };
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            () = changed => tokio::time::sleep(SETTLE).await,
            () = async { match wait { Some(delay) => tokio::time::sleep(delay).await, None => std::future::pending().await } } => {}
        }
    }
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
    let state = |pod: &Pod| pod.status.as_ref().map(|s| (s.pod_ip.clone(), s.phase.clone()));
    ports && old.is_none_or(|old| state(old) != state(pod))
}

struct Table {
    config: TableConfig,
    /// Chains of policies that the table has.
    chains: BTreeSet<String>,
    applied: Option<Rules>,
    /// The table must be made from nothing.
    fresh: bool,
}

impl Table {
    fn apply(&mut self, rules: Rules) -> Result<(), NftError> {
        if !self.fresh && self.applied.as_ref() == Some(&rules) {
            return Ok(());
        }
        let (batch, chains) = nft::transaction(&self.config, &rules, &self.chains, self.fresh);
        Socket::open()?.send(batch)?;
        self.chains = chains;
        self.applied = Some(rules);
        self.fresh = false;
        Ok(())
    }
}
