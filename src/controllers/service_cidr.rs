//! Ready conditions of ServiceCIDRs, and their protection while addresses of theirs are in use
//! (`pkg/controller/servicecidrs`).

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use api::names::ObjectKey;
use async_trait::async_trait;
use client::{Event, EventType, Informer, Patch, Resource, WorkQueue};
use ipnet::IpNet;
use k8s_openapi::api::networking::v1::{IPAddress, ServiceCIDR};
use serde_json::json;

use crate::error::Error;
use crate::harness::{Context, Parts, Reconcile, all_synced, current, key_of, synced};
use crate::volume_protection::has_finalizer;

const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";
const MANAGER: &str = "service-cidr-controller";
/// Addresses that were given out while the range went have been seen by then.
const GRACE: Duration = Duration::from_secs(10);

pub(crate) fn start(context: Context) {
    let ranges = context.informers.informer::<ServiceCIDR>();
    let addresses = context.informers.informer::<IPAddress>();
    let queue = WorkQueue::new();
    let add_all = Context::add_all(&ranges, &queue);
    context.feed(&ranges, &add_all, {
        let (ranges, queue) = (ranges.clone(), queue.clone());
        move |event| {
            let Some(range) = current(event) else { return };
            queue.add(key_of(&**range));
            // A range that waits may go now that another one covers it.
            if matches!(event, Event::Added(_)) {
                let nets = nets(range);
                let overlaps = |other: &IpNet| nets.iter().any(|net| net.contains(other) || other.contains(net));
                for other in ranges.list() {
                    if self::nets(&other).iter().any(overlaps) {
                        queue.add(key_of(&*other));
                    }
                }
            }
        }
    });
    context.feed(&addresses, &add_all, {
        let (ranges, queue) = (ranges.clone(), queue.clone());
        move |event| {
            let (Event::Added(address) | Event::Deleted(address)) = event else { return };
            if let Some(ip) = managed(address) {
                for range in containing(&ranges, ip) {
                    queue.add(key_of(&*range));
                }
            }
        }
    });
    let ready = all_synced(vec![synced(&ranges), synced(&addresses)]);
    let reconciler = Reconciler { ranges, addresses, queue: queue.clone(), context: context.parts() };
    context.work(Arc::new(reconciler), queue, 1, ready);
}

fn nets(range: &ServiceCIDR) -> Vec<IpNet> {
    let texts = range.spec.as_ref().and_then(|s| s.cidrs.as_deref()).unwrap_or_default();
    texts.iter().filter_map(|text| text.parse::<IpNet>().ok()).collect()
}

/// The address that the API server's allocator gave out.
fn managed(address: &IPAddress) -> Option<IpAddr> {
    let by = address.label("ipaddress.kubernetes.io/managed-by")?;
    if by == "ipallocator.k8s.io" { address.name().parse().ok() } else { None }
}

/// The ranges in service that contain an address (`servicecidr.ContainsAddress`).
fn containing(ranges: &Informer<ServiceCIDR>, ip: IpAddr) -> Vec<Arc<ServiceCIDR>> {
    ranges.list().into_iter().filter(|range| nets(range).iter().any(|net| usable(net, ip))).collect()
}

/// Neither the network's address nor, in IPv4, the broadcast address.
fn usable(net: &IpNet, ip: IpAddr) -> bool {
    let last = match net {
        IpNet::V4(net) => Some(IpAddr::from(net.broadcast())),
        IpNet::V6(_) => None,
    };
    net.contains(&ip) && ip != net.network() && Some(ip) != last
}

struct Reconciler {
    ranges: Informer<ServiceCIDR>,
    addresses: Informer<IPAddress>,
    queue: WorkQueue<ObjectKey>,
    context: Parts,
}

#[async_trait]
impl Reconcile for Reconciler {
    async fn reconcile(&self, key: &ObjectKey) -> Result<(), Error> {
        let Some(range) = self.ranges.get("", &key.name) else { return Ok(()) };
        let Some(deleted) = range.metadata.deletion_timestamp.as_ref() else {
            if !has_finalizer(&range.metadata, FINALIZER) {
                self.patch(&range, &json!({"metadata": {"finalizers": [FINALIZER]}})).await?;
            }
            let set = self.set_ready(&range, "True", "", "Kubernetes Service CIDR is ready").await;
            if set.is_err() {
                let message = "The ServiceCIDR Status can not be set to Ready=True";
                self.context.recorder.event(&*range, EventType::Warning, "KubernetesServiceCIDRError", message);
            }
            return set;
        };
        if !self.may_go(&range) {
            let message = "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new \
                           ServiceCIDR";
            return self.set_ready(&range, "False", "Terminating", message).await;
        }
        let waited = Duration::try_from(self.context.clock.now().duration_since(deleted.0)).unwrap_or_default();
        if waited < GRACE {
            self.queue.add_after(key.clone(), GRACE.saturating_sub(waited));
            return Ok(());
        }
        if has_finalizer(&range.metadata, FINALIZER) {
            self.patch(&range, &json!({"metadata": {"$deleteFromPrimitiveList/finalizers": [FINALIZER]}})).await?;
        }
        Ok(())
    }
}

impl Reconciler {
    /// `canDeleteCIDR`: another range covers it, or no address is in this one alone.
    fn may_go(&self, range: &ServiceCIDR) -> bool {
        let others: Vec<IpNet> =
            self.ranges.list().iter().filter(|other| other.name() != range.name()).flat_map(|r| nets(r)).collect();
        let nets = nets(range);
        if nets.iter().all(|net| others.iter().any(|other| other.contains(net))) {
            return true;
        }
        !self
            .addresses
            .list()
            .iter()
            .filter_map(|address| managed(address))
            .any(|ip| nets.iter().any(|net| usable(net, ip)) && !others.iter().any(|net| usable(net, ip)))
    }

    async fn patch(&self, range: &ServiceCIDR, patch: &serde_json::Value) -> Result<(), Error> {
        match self.context.client.patch::<ServiceCIDR>("", range.name(), &Patch::Strategic(patch.clone())).await {
            Err(error) if !error.is_not_found() => Err(error.into()),
            _ => Ok(()),
        }
    }

    async fn set_ready(&self, range: &ServiceCIDR, status: &str, reason: &str, message: &str) -> Result<(), Error> {
        let known = range.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
        let same = known
            .iter()
            .any(|c| c.type_ == "Ready" && c.status == status && c.reason == reason && c.message == message);
        if same {
            return Ok(());
        }
        let object = json!({
            "apiVersion": "networking.k8s.io/v1",
            "kind": "ServiceCIDR",
            "metadata": {"name": range.name()},
            "status": {"conditions": [{
                "type": "Ready", "status": status, "reason": reason, "message": message,
                "lastTransitionTime": self.context.clock.now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            }]},
        });
        let patch = Patch::Apply { manager: MANAGER.to_owned(), force: true, object };
        match self.context.client.patch_status::<ServiceCIDR>("", range.name(), &patch).await {
            Err(error) if !error.is_not_found() => Err(error.into()),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_that_can_be_given_out_count() {
        let check = |net: &str, ip: &str, expected: bool| {
            assert_eq!(usable(&net.parse().unwrap(), ip.parse().unwrap()), expected, "{net} {ip}");
        };
        check("10.0.0.0/24", "10.0.0.1", true);
        check("10.0.0.0/24", "10.0.0.0", false);
        check("10.0.0.0/24", "10.0.0.255", false);
        check("10.0.0.0/24", "10.0.1.1", false);
        check("fd00::/120", "fd00::ff", true);
        check("fd00::/120", "fd00::", false);
    }
}
