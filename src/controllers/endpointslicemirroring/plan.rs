//! Which slices mirror an Endpoints object (`endpointslicemirroring/reconciler.go`). Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use client::{Resource, owner_ref};
use k8s_openapi::api::core::v1::{EndpointAddress, EndpointSubset, Endpoints};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use super::CONTROLLER;
use crate::endpoints::{AddressesByPort, TRIGGER_TIME, repack};
use crate::endpointslice::{MANAGED_BY, SERVICE_NAME};

/// Addresses of a subset that are mirrored (`--mirroring-max-endpoints-per-subset`).
pub(super) const SUBSET_MAX: usize = 1000;
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

#[derive(Default)]
pub(super) struct Plan {
    pub create: Vec<EndpointSlice>,
    pub update: Vec<EndpointSlice>,
    pub delete: Vec<Arc<EndpointSlice>>,
    /// Addresses that are no IP addresses.
    pub invalid: usize,
    /// Addresses that are not mirrored, with the invalid ones.
    pub skipped: usize,
}

/// What slices are told apart by: the family and the ports.
type Key = (&'static str, Vec<(String, i32, String, Option<String>)>);
type Labels = BTreeMap<String, String>;

/// What to write so that `existing`, the slices of this controller for the object, mirror it.
pub(super) fn mirror(endpoints: &Endpoints, existing: Vec<Arc<EndpointSlice>>) -> Plan {
    let mut plan = Plan::default();
    let mut wanted: BTreeMap<Key, Vec<Endpoint>> = BTreeMap::new();
    for subset in canonical(endpoints.subsets.as_deref().unwrap_or_default()) {
        add_subset(&mut plan, &mut wanted, &subset);
    }
    let mut held: BTreeMap<Key, Vec<Arc<EndpointSlice>>> = BTreeMap::new();
    for slice in existing {
        held.entry(key_of_slice(&slice)).or_default().push(slice);
    }
    for (key, desired) in wanted {
        let mut slices = held.remove(&key).unwrap_or_default().into_iter();
        let first = slices.next();
        plan.delete.extend(slices);
        if first.as_deref().is_some_and(|slice| says(slice, endpoints, &desired)) {
            continue;
        }
        let mut slice = new_slice(endpoints, &key, desired);
        match first {
            Some(first) => {
                slice.metadata.name.clone_from(&first.metadata.name);
                plan.update.push(slice);
            }
            None => {
                slice.metadata.generate_name = Some(format!("{}-", endpoints.name()));
                plan.create.push(slice);
            }
        }
    }
    plan.delete.extend(held.into_values().flatten());
    recycle(&mut plan);
    plan
}

/// The subsets with each address once for a port; unready counts if it is said both ways.
fn canonical(subsets: &[EndpointSubset]) -> Vec<EndpointSubset> {
    let mut by_port = AddressesByPort::new();
    let mut addresses: BTreeMap<(String, String), EndpointAddress> = BTreeMap::new();
    for subset in subsets {
        let ready = subset.addresses.iter().flatten().map(|address| (address, true));
        let unready = subset.not_ready_addresses.iter().flatten().map(|address| (address, false));
        for (address, ready) in ready.chain(unready) {
            let uid = address.target_ref.as_ref().and_then(|target| target.uid.clone()).unwrap_or_default();
            let key = (address.ip.clone(), uid);
            addresses.entry(key.clone()).or_insert_with(|| address.clone());
            let named = subset.ports.iter().flatten().map(|port| {
                let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
                Some((port.name.clone().unwrap_or_default(), port.port, protocol, port.app_protocol.clone()))
            });
            let portless = subset.ports.as_ref().is_none_or(Vec::is_empty).then_some(None);
            for port in named.chain(portless) {
                let entry = by_port.entry(port).or_default().entry(key.clone()).or_insert(ready);
                *entry &= ready;
            }
        }
    }
    repack(by_port, &addresses)
}

fn add_subset(plan: &mut Plan, wanted: &mut BTreeMap<Key, Vec<Endpoint>>, subset: &EndpointSubset) {
    let mut ports: Vec<_> = subset
        .ports
        .iter()
        .flatten()
        .map(|p| {
            let protocol = p.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
            (p.name.clone().unwrap_or_default(), p.port, protocol, p.app_protocol.clone())
        })
        .collect();
    ports.sort();
    let ready = subset.addresses.iter().flatten().map(|address| (address, true));
    let unready = subset.not_ready_addresses.iter().flatten().map(|address| (address, false));
    let mut added = 0;
    for (address, ready) in ready.chain(unready) {
        if added == SUBSET_MAX {
            plan.skipped += 1;
            continue;
        }
        let Ok(ip) = address.ip.parse::<IpAddr>() else {
            plan.invalid += 1;
            plan.skipped += 1;
            continue;
        };
        added += 1;
        let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
        wanted.entry((family, ports.clone())).or_default().push(Endpoint {
            addresses: vec![ip.to_string()],
            conditions: Some(EndpointConditions { ready: Some(ready), ..Default::default() }),
            hostname: address.hostname.clone().filter(|hostname| !hostname.is_empty()),
            node_name: address.node_name.clone(),
            target_ref: address.target_ref.clone(),
            ..Default::default()
        });
    }
}

fn key_of_slice(slice: &EndpointSlice) -> Key {
    let mut ports: Vec<_> = slice
        .ports
        .iter()
        .flatten()
        .map(|p| {
            let protocol = p.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
            (p.name.clone().unwrap_or_default(), p.port.unwrap_or(0), protocol, p.app_protocol.clone())
        })
        .collect();
    ports.sort();
    (if slice.address_type == "IPv6" { "IPv6" } else { "IPv4" }, ports)
}

/// Whether the slice says this already.
fn says(slice: &EndpointSlice, endpoints: &Endpoints, desired: &[Endpoint]) -> bool {
    let held = slice.endpoints.as_deref().unwrap_or_default();
    let remade = |owner: &OwnerReference| {
        owner.kind == "Endpoints" && owner.name == endpoints.name() && owner.uid != endpoints.uid()
    };
    held.len() == desired.len()
        && desired.iter().all(|wanted| held.iter().any(|endpoint| same(endpoint, wanted)))
        && slice.metadata.labels.as_ref() == Some(&labels(endpoints))
        && slice.metadata.annotations.clone().unwrap_or_default() == annotations(endpoints)
        && !slice.metadata.owner_references.iter().flatten().any(remade)
}

fn same(a: &Endpoint, b: &Endpoint) -> bool {
    let ready = |e: &Endpoint| e.conditions.as_ref().and_then(|c| c.ready);
    a.addresses == b.addresses
        && a.hostname == b.hostname
        && a.node_name == b.node_name
        && ready(a) == ready(b)
        && a.target_ref.as_ref().map(|t| &t.uid) == b.target_ref.as_ref().map(|t| &t.uid)
}

fn labels(endpoints: &Endpoints) -> Labels {
    let mut labels = endpoints.metadata.labels.clone().unwrap_or_default();
    labels.insert(SERVICE_NAME.to_owned(), endpoints.name().to_owned());
    labels.insert(MANAGED_BY.to_owned(), CONTROLLER.to_owned());
    labels
}

fn annotations(endpoints: &Endpoints) -> Labels {
    let mut annotations = endpoints.metadata.annotations.clone().unwrap_or_default();
    annotations.remove(TRIGGER_TIME);
    annotations.remove(LAST_APPLIED);
    annotations
}

fn new_slice(endpoints: &Endpoints, (family, ports): &Key, desired: Vec<Endpoint>) -> EndpointSlice {
    let ports = ports.iter().map(|(name, port, protocol, app_protocol)| EndpointPort {
        name: Some(name.clone()),
        port: Some(*port),
        protocol: Some(protocol.clone()),
        app_protocol: app_protocol.clone(),
    });
    EndpointSlice {
        metadata: ObjectMeta {
            namespace: endpoints.metadata.namespace.clone(),
            labels: Some(labels(endpoints)),
            annotations: Some(annotations(endpoints)).filter(|a| !a.is_empty()),
            owner_references: Some(vec![owner_ref(endpoints)]),
            ..Default::default()
        },
        address_type: (*family).to_owned(),
        ports: Some(ports.collect()),
        endpoints: Some(desired),
    }
}

/// A slice to delete becomes one to create, so that consumers see one change instead of two (`recycleSlices`).
fn recycle(plan: &mut Plan) {
    let (update, create) = (&mut plan.update, &mut plan.create);
    plan.delete.retain(|old| {
        let Some(at) = create.iter().position(|new| new.address_type == old.address_type) else { return true };
        let mut new = create.remove(at);
        new.metadata.generate_name = None;
        new.metadata.name.clone_from(&old.metadata.name);
        update.push(new);
        false
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn endpoints(subsets: serde_json::Value) -> Endpoints {
        serde_json::from_value(json!({
            "metadata": {"namespace": "n", "name": "db", "uid": "u", "labels": {"l": "v"}, "annotations": {"a": "b"}},
            "subsets": subsets,
        }))
        .unwrap()
    }

    fn named(slices: Vec<EndpointSlice>) -> Vec<Arc<EndpointSlice>> {
        let name = |(at, mut slice): (usize, EndpointSlice)| {
            slice.metadata.name = Some(format!("db-{at}"));
            Arc::new(slice)
        };
        slices.into_iter().enumerate().map(name).collect()
    }

    fn counts(plan: &Plan) -> (usize, usize, usize) {
        (plan.create.len(), plan.update.len(), plan.delete.len())
    }

    #[test]
    fn each_family_has_a_slice_and_nothing_is_written_twice() {
        let endpoints = endpoints(json!([{
            "addresses": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}], "notReadyAddresses": [{"ip": "10.0.0.2"}],
            "ports": [{"name": "sql", "port": 5432}],
        }]));
        let plan = mirror(&endpoints, Vec::new());
        assert_eq!(counts(&plan), (2, 0, 0));
        let v4 = plan.create.iter().find(|s| s.address_type == "IPv4").unwrap();
        let ready: Vec<_> = v4.endpoints.iter().flatten().map(|e| e.conditions.as_ref().unwrap().ready).collect();
        assert_eq!(ready, [Some(true), Some(false)]);
        assert_eq!(v4.metadata.labels.as_ref().unwrap()["l"], "v");
        assert_eq!(counts(&mirror(&endpoints, named(plan.create))), (0, 0, 0));
    }

    #[test]
    fn changed_ports_reuse_the_slice_that_nobody_needs_any_more() {
        let subsets = |port: i32| json!([{"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": port}]}]);
        let existing = named(mirror(&endpoints(subsets(1)), Vec::new()).create);
        let plan = mirror(&endpoints(subsets(2)), existing);
        assert_eq!(counts(&plan), (0, 1, 0));
        assert_eq!(plan.update[0].metadata.name.as_deref(), Some("db-0"));
    }

    #[test]
    fn without_addresses_the_slices_go() {
        let existing = named(mirror(&endpoints(json!([{"addresses": [{"ip": "10.0.0.1"}]}])), Vec::new()).create);
        assert_eq!(existing.len(), 1);
        assert_eq!(counts(&mirror(&endpoints(json!([])), existing)), (0, 0, 1));
    }

    #[test]
    fn what_is_no_address_is_counted_and_left_out() {
        let addresses: Vec<_> =
            (0..SUBSET_MAX + 3).map(|n| json!({"ip": format!("10.0.{}.{}", n / 250, n % 250)})).collect();
        let plan = mirror(
            &endpoints(json!([{"addresses": addresses}, {"addresses": [{"ip": "x"}], "ports": [{"port": 1}]}])),
            Vec::new(),
        );
        assert_eq!((plan.invalid, plan.skipped), (1, 4));
        assert_eq!(plan.create[0].endpoints.as_ref().unwrap().len(), SUBSET_MAX);
    }
}
