//! Gives every node its pod address ranges out of the cluster's (`pkg/controller/nodeipam/ipam/range_allocator.go`).

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use api::names::ObjectKey;
use async_trait::async_trait;
use client::{EventType, Informer, Patch, Resource, WorkQueue};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use k8s_openapi::api::core::v1::Node;
use parking_lot::Mutex;
use serde_json::json;
use tracing::info;

use crate::error::Error;
use crate::harness::{Context, Parts, Reconcile, all_synced, synced};
use crate::node_lifecycle::node_event;

pub(crate) fn start(context: Context) {
    if context.settings.cluster_cidrs.is_empty() {
        return;
    }
    let nodes = context.informers.informer::<Node>();
    let queue = WorkQueue::new();
    context.feed_own(&nodes, &queue);
    let ready = all_synced(vec![synced(&nodes)]);
    let state = Mutex::new(State { pending: HashMap::new(), next: vec![0; context.settings.cluster_cidrs.len()] });
    let reconciler = Arc::new(Allocator { nodes, state, context: context.parts() });
    // One worker: two allocations at once could take the same range.
    context.work(reconciler, queue, 1, ready);
}

struct Allocator {
    nodes: Informer<Node>,
    state: Mutex<State>,
    context: Parts,
}

struct State {
    /// Given out, not yet in the cache.
    pending: HashMap<String, Vec<IpNet>>,
    /// Where to look first in each cluster range, so that a freed range rests.
    next: Vec<u128>,
}

#[async_trait]
impl Reconcile for Allocator {
    async fn reconcile(&self, key: &ObjectKey) -> Result<(), Error> {
        let Some(node) = self.nodes.get("", &key.name).filter(|n| !n.is_deleting()) else {
            self.state.lock().pending.remove(&key.name);
            return Ok(());
        };
        if node.spec.as_ref().and_then(|s| s.pod_cidrs.as_ref()).is_some_and(|c| !c.is_empty()) {
            self.state.lock().pending.remove(&key.name);
            return Ok(());
        }
        let Some(ranges) = self.allocate(&key.name) else {
            let message = format!("Node {} status is now: CIDRNotAvailable", key.name);
            node_event(&self.context.recorder, &node, EventType::Normal, "CIDRNotAvailable", &message);
            return Err(Error::Object {
                kind: "Node",
                key: key.name.clone(),
                problem: "the cluster's address range is used up".to_owned(),
            });
        };
        let texts: Vec<String> = ranges.iter().map(IpNet::to_string).collect();
        let patch = Patch::Strategic(json!({"spec": {"podCIDR": texts.first(), "podCIDRs": texts}}));
        match self.context.client.patch::<Node>("", &key.name, &patch).await {
            Ok(_) => {
                info!(node = %key.name, ranges = ?texts, "gave a node its address ranges");
                Ok(())
            }
            Err(error) => {
                self.state.lock().pending.remove(&key.name);
                let message = format!("Node {} status is now: CIDRAssignmentFailed", key.name);
                node_event(&self.context.recorder, &node, EventType::Normal, "CIDRAssignmentFailed", &message);
                Err(error.into())
            }
        }
    }
}

impl Allocator {
    /// A free range in each cluster range; the same again for a node that has one pending.
    fn allocate(&self, node: &str) -> Option<Vec<IpNet>> {
        let mut state = self.state.lock();
        if let Some(ranges) = state.pending.get(node) {
            return Some(ranges.clone());
        }
        let mut used: HashSet<IpNet> = state.pending.values().flatten().copied().collect();
        for other in self.nodes.list() {
            let cidrs = other.spec.as_ref().and_then(|s| s.pod_cidrs.as_ref()).into_iter().flatten();
            used.extend(cidrs.filter_map(|c| c.parse::<IpNet>().ok()).map(|net| net.trunc()));
        }
        let settings = &self.context.settings;
        let mut ranges = Vec::with_capacity(settings.cluster_cidrs.len());
        let mut next = state.next.clone();
        for (at, cluster) in settings.cluster_cidrs.iter().enumerate() {
            let mask = if cluster.addr().is_ipv4() { settings.node_mask_v4 } else { settings.node_mask_v6 };
            let (range, index) = first_free(cluster, mask, next[at], &used, &settings.service_cidrs)?;
            next[at] = index + 1;
            ranges.push(range);
        }
        state.next = next;
        state.pending.insert(node.to_owned(), ranges.clone());
        Some(ranges)
    }
}

/// The first free range of the given length, from the `start`th on and around; and its number.
fn first_free(
    cluster: &IpNet,
    mask: u8,
    start: u128,
    used: &HashSet<IpNet>,
    excluded: &[IpNet],
) -> Option<(IpNet, u128)> {
    let bits = mask.checked_sub(cluster.prefix_len())?;
    // More nodes than 2^16 there will not be; it bounds the search.
    let count = 1_u128 << bits.min(16);
    (0..count).find_map(|step| {
        let index = (start + step) % count;
        let range = nth(cluster, mask, index)?;
        let overlaps = |other: &IpNet| other.contains(&range) || range.contains(other);
        (!used.contains(&range) && !excluded.iter().any(overlaps)).then_some((range, index))
    })
}

fn nth(cluster: &IpNet, mask: u8, index: u128) -> Option<IpNet> {
    match cluster.network() {
        IpAddr::V4(base) => {
            let offset = u32::try_from(index).ok()?.checked_shl(32_u32.checked_sub(u32::from(mask))?)?;
            Ipv4Net::new(u32::from(base).checked_add(offset)?.into(), mask).ok().map(IpNet::V4)
        }
        IpAddr::V6(base) => {
            let offset = index.checked_shl(128_u32.checked_sub(u32::from(mask))?)?;
            Ipv6Net::new(u128::from(base).checked_add(offset)?.into(), mask).ok().map(IpNet::V6)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_given_in_turn_and_not_twice() {
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        let check = |cluster: &str, mask: u8, start: u128, used: &[&str], excluded: &[&str], expected: Option<&str>| {
            let used = used.iter().map(|u| net(u)).collect();
            let excluded: Vec<_> = excluded.iter().map(|e| net(e)).collect();
            let found = first_free(&net(cluster), mask, start, &used, &excluded).map(|(range, _)| range);
            assert_eq!(found, expected.map(net), "{cluster} {start}");
        };
        check("10.244.0.0/16", 24, 0, &[], &[], Some("10.244.0.0/24"));
        check("10.244.0.0/16", 24, 0, &["10.244.0.0/24"], &[], Some("10.244.1.0/24"));
        check("10.244.0.0/16", 24, 255, &["10.244.255.0/24"], &[], Some("10.244.0.0/24"));
        check("10.0.0.0/8", 24, 0, &[], &["10.0.0.0/16"], Some("10.1.0.0/24"));
        check("10.244.0.0/24", 24, 0, &["10.244.0.0/24"], &[], None);
        check("fd00::/48", 64, 1, &[], &[], Some("fd00:0:0:1::/64"));
        check("10.244.0.0/24", 16, 0, &[], &[], None);
    }
}
