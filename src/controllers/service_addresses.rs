//! IPAddresses of Services: an object for each cluster address in use, named after it
//! (`pkg/registry/core/service/ipallocator/controller/repairip.go`).
//!
//! Who has which address is decided by the Services alone, when they are written; these objects show it to those who
//! look, and keep ServiceCIDRs and other owners of addresses informed. A key with a namespace is a Service, one without
//! an IPAddress.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use api::names::ObjectKey;
use async_trait::async_trait;
use client::{DeleteParams, Event, EventType, Informer, Resource, WorkQueue};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::networking::v1::{IPAddress, IPAddressSpec, ParentReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::error::Error;
use crate::harness::{Context, Parts, Reconcile, all_synced, key_of, synced};

const FAMILY: &str = "ipaddress.kubernetes.io/ip-family";
const MANAGED_BY: &str = "ipaddress.kubernetes.io/managed-by";
const ALLOCATOR: &str = "ipallocator.k8s.io";
const WORKERS: usize = 5;

pub(crate) fn start(context: Context) {
    let services = context.informers.informer::<Service>();
    let addresses = context.informers.informer::<IPAddress>();
    let queue = WorkQueue::new();
    let add_all = Context::add_all(&services, &queue);
    context.feed(&services, &add_all, {
        let queue = queue.clone();
        move |event| match event {
            Event::Added(service) => queue.add(key_of(&**service)),
            Event::Updated { old, new } => {
                if !cluster_ips(old).eq(cluster_ips(new)) {
                    cluster_ips(old).for_each(|ip| queue.add(key_of_address(ip)));
                    queue.add(key_of(&**new));
                }
            }
            Event::Deleted(service) => cluster_ips(service).for_each(|ip| queue.add(key_of_address(ip))),
            Event::Resync => {}
        }
    });
    context.feed(&addresses, &add_all, {
        let queue = queue.clone();
        move |event| match event {
            Event::Added(address) => queue.add(ObjectKey::new("", address.name())),
            Event::Updated { new: address, .. } | Event::Deleted(address) => {
                queue.add(ObjectKey::new("", address.name()));
                if let Some(service) = parent(address) {
                    queue.add(service);
                }
            }
            Event::Resync => {}
        }
    });
    let ready = all_synced(vec![synced(&services), synced(&addresses)]);
    let reconciler = Arc::new(Reconciler { services, addresses, context: context.parts() });
    context.work(reconciler, queue, WORKERS, ready);
}

struct Reconciler {
    services: Informer<Service>,
    addresses: Informer<IPAddress>,
    context: Parts,
}

#[async_trait]
impl Reconcile for Reconciler {
    async fn reconcile(&self, key: &ObjectKey) -> Result<(), Error> {
        if key.namespace.is_empty() { self.address(&key.name).await } else { self.service(key).await }
    }
}

impl Reconciler {
    /// An address whose Service is gone, or has another one, is free.
    async fn address(&self, name: &str) -> Result<(), Error> {
        let Some(address) = self.addresses.get("", name) else { return Ok(()) };
        if address.label(MANAGED_BY) != Some(ALLOCATOR) {
            return Ok(());
        }
        let service = parent(&address).and_then(|key| self.services.get(&key.namespace, &key.name));
        if service.is_some_and(|service| cluster_ips(&service).any(|ip| ip.to_string() == name)) {
            return Ok(());
        }
        self.delete(name).await
    }

    async fn service(&self, key: &ObjectKey) -> Result<(), Error> {
        let Some(service) = self.services.get(&key.namespace, &key.name) else { return Ok(()) };
        for ip in cluster_ips(&service) {
            let name = ip.to_string();
            let Some(address) = self.addresses.get("", &name) else {
                self.create(&service, ip).await?;
                continue;
            };
            let owner = parent(&address);
            if owner.as_ref() == Some(key) {
                if !is_labelled(&address, ip) {
                    self.delete(&name).await?;
                    self.create(&service, ip).await?;
                }
                continue;
            }
            let family = family(ip);
            if let Some(owner) = owner {
                let other = self.services.get(&owner.namespace, &owner.name);
                if other.is_some_and(|other| cluster_ips(&other).any(|held| held == ip)) {
                    let message = format!(
                        "Cluster IP [{family}]:{ip} was assigned to multiple services; please recreate service"
                    );
                    self.context.recorder.event(&*service, EventType::Warning, "ClusterIPAlreadyAllocated", &message);
                    continue;
                }
                // The address was another Service's a moment ago.
            } else {
                let message = format!(
                    "the ClusterIP [{family}]: {ip} for Service {}/{} has a wrong reference; repairing",
                    key.namespace, key.name
                );
                self.context.recorder.event(&*service, EventType::Warning, "ClusterIPNotAllocated", &message);
            }
            self.delete(&name).await?;
            self.create(&service, ip).await?;
        }
        Ok(())
    }

    async fn create(&self, service: &Service, ip: IpAddr) -> Result<(), Error> {
        match self.context.client.create(&ip_address(service, ip)).await {
            // Seen before it came through the cache: its event brings the key again if it is another's.
            Err(error) if !error.is_already_exists() => Err(error.into()),
            _ => Ok(()),
        }
    }

    async fn delete(&self, name: &str) -> Result<(), Error> {
        match self.context.client.delete::<IPAddress>("", name, &DeleteParams::default()).await {
            Err(error) if !error.is_not_found() => Err(error.into()),
            _ => Ok(()),
        }
    }
}

fn cluster_ips(service: &Service) -> impl Iterator<Item = IpAddr> {
    let spec = service.spec.as_ref();
    spec.and_then(|spec| spec.cluster_ips.as_ref()).into_iter().flatten().filter_map(|ip| ip.parse().ok())
}

fn key_of_address(ip: IpAddr) -> ObjectKey {
    ObjectKey::new("", ip.to_string())
}

/// The Service that an address refers to.
fn parent(address: &IPAddress) -> Option<ObjectKey> {
    let parent = &address.spec.parent_ref;
    let is_service = parent.group.as_deref().unwrap_or_default().is_empty() && parent.resource == "services";
    is_service.then(|| ObjectKey::new(parent.namespace.as_deref().unwrap_or_default(), &parent.name))
}

fn family(ip: IpAddr) -> &'static str {
    if ip.is_ipv4() { "IPv4" } else { "IPv6" }
}

fn is_labelled(address: &IPAddress, ip: IpAddr) -> bool {
    address.label(FAMILY) == Some(family(ip)) && address.label(MANAGED_BY) == Some(ALLOCATOR)
}

/// `newIPAddress`.
fn ip_address(service: &Service, ip: IpAddr) -> IPAddress {
    let labels = [(FAMILY, family(ip)), (MANAGED_BY, ALLOCATOR)];
    let labels: BTreeMap<String, String> = labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    IPAddress {
        metadata: ObjectMeta { name: Some(ip.to_string()), labels: Some(labels), ..Default::default() },
        spec: IPAddressSpec {
            parent_ref: ParentReference {
                group: Some(String::new()),
                resource: "services".to_owned(),
                namespace: service.metadata.namespace.clone(),
                name: service.name().to_owned(),
            },
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_address_refers_to_its_service() {
        let service: Service = serde_json::from_value(json!({
            "metadata": {"namespace": "n", "name": "s"}, "spec": {"clusterIPs": ["10.0.0.1", "fd00::1", "None"]}}))
        .unwrap();
        let made: Vec<_> = cluster_ips(&service).map(|ip| (ip, ip_address(&service, ip))).collect();
        assert_eq!(made.len(), 2);
        for (ip, address) in made {
            assert_eq!(address.name(), ip.to_string());
            assert!(is_labelled(&address, ip));
            assert_eq!(parent(&address), Some(ObjectKey::new("n", "s")));
        }
        let gateway: IPAddress = serde_json::from_value(json!({"metadata": {"name": "10.0.0.2"},
            "spec": {"parentRef": {"group": "gateway.networking.k8s.io", "resource": "gateways", "name": "g"}}}))
        .unwrap();
        assert_eq!(parent(&gateway), None);
    }
}
