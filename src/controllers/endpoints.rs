//! Endpoints of services with a selector (`pkg/controller/endpoint`): what EndpointSlices replaced, and old clients read.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api::names::ObjectKey;
use async_trait::async_trait;
use client::{DeleteParams, Event, EventType, Informer, Resource, WorkQueue};
use k8s_openapi::api::core::v1::{
    EndpointAddress, EndpointPort, EndpointSubset, Endpoints, ObjectReference, Pod, Service,
};

use crate::error::Error;
use crate::harness::{Context, Parts, Reconcile, all_synced, current, key_of, synced};
use crate::pods;
use crate::service_pods::{self, HEADLESS_LABEL};
use crate::written::Written;

const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const CONTROLLER: &str = "endpoint-controller";
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
pub(crate) const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";
/// Addresses in one object.
const CAPACITY: usize = 1000;
const WORKERS: usize = 5;

pub(crate) fn start(context: Context) {
    let services = context.informers.informer::<Service>();
    let pods = context.informers.informer::<Pod>();
    let endpoints = context.informers.informer::<Endpoints>();
    let queue = WorkQueue::new();

    let add_all = context.feed_own(&services, &queue);
    context.feed(&pods, &add_all, {
        let (services, queue) = (services.clone(), queue.clone());
        move |event| service_pods::on_pod(&services, &queue, Duration::ZERO, event)
    });
    context.feed(&endpoints, &add_all, {
        let (services, queue) = (services.clone(), queue.clone());
        move |event| {
            let Some(endpoints) = current(event) else { return };
            // Deleted by somebody, or left over from before the start.
            let left_over = matches!(event, Event::Added(_)) && services.has_synced();
            if matches!(event, Event::Deleted(_)) || left_over {
                queue.add(key_of(&**endpoints));
            }
        }
    });

    let ready = all_synced(vec![synced(&services), synced(&pods), synced(&endpoints)]);
    let reconciler =
        Arc::new(Reconciler { services, pods, endpoints, written: Written::default(), context: context.parts() });
    context.work(reconciler, queue, WORKERS, ready);
}

struct Reconciler {
    services: Informer<Service>,
    pods: Informer<Pod>,
    endpoints: Informer<Endpoints>,
    written: Written,
    context: Parts,
}

#[async_trait]
impl Reconcile for Reconciler {
    async fn reconcile(&self, key: &ObjectKey) -> Result<(), Error> {
        self.written.check(key, &self.endpoints)?;
        let current = self.endpoints.get(&key.namespace, &key.name);
        let Some(service) = self.services.get(&key.namespace, &key.name) else {
            let ours = current.is_some_and(|e| e.label(MANAGED_BY) == Some(CONTROLLER));
            if !ours {
                return Ok(());
            }
            let options = DeleteParams::default();
            return match self.context.client.delete::<Endpoints>(&key.namespace, &key.name, &options).await {
                Err(error) if !error.is_not_found() => Err(error.into()),
                _ => Ok(()),
            };
        };
        let Some(selector) = service_pods::selector(&service) else { return Ok(()) };
        let mut pods = self.pods.namespace(&key.namespace);
        pods.retain(|pod| selector.matches(pod.metadata.labels.as_ref()));
        let mut subsets = plan_subsets(&service, &pods);
        let truncated = truncate(&mut subsets);
        let labels = labels(&service);
        if let Some(current) = &current {
            let same = subsets_of(current) == subsets_of_plan(&subsets)
                && current.metadata.labels.as_ref() == Some(&labels)
                && (current.annotation(OVER_CAPACITY).is_some() == truncated);
            if same {
                return Ok(());
            }
        }
        self.write(&service, current.as_deref(), subsets, labels, truncated).await
    }
}

impl Reconciler {
    async fn write(
        &self,
        service: &Service,
        current: Option<&Endpoints>,
        subsets: Vec<EndpointSubset>,
        labels: BTreeMap<String, String>,
        truncated: bool,
    ) -> Result<(), Error> {
        let mut endpoints = current.cloned().unwrap_or_default();
        endpoints.metadata.name.clone_from(&service.metadata.name);
        endpoints.metadata.namespace.clone_from(&service.metadata.namespace);
        endpoints.metadata.labels = Some(labels);
        let annotations = endpoints.metadata.annotations.get_or_insert_default();
        annotations.remove(TRIGGER_TIME);
        annotations.remove(OVER_CAPACITY);
        if truncated {
            annotations.insert(OVER_CAPACITY.to_owned(), "truncated".to_owned());
        }
        endpoints.subsets = Some(subsets);
        let (result, reason, what) = if current.is_none() {
            let what = format!("Failed to create endpoint for service {}/{}", service.namespace(), service.name());
            (self.context.client.create(&endpoints).await, "FailedToCreateEndpoint", what)
        } else {
            let what = format!("Failed to update endpoint {}/{}", service.namespace(), service.name());
            (self.context.client.update(&endpoints).await, "FailedToUpdateEndpoint", what)
        };
        match result {
            Ok(answer) => {
                self.written.note(&key_of(service), &answer);
                Ok(())
            }
            Err(error) if error.is_namespace_terminating() => Ok(()),
            Err(error) if error.is_conflict() => Err(error.into()),
            Err(error) => {
                let message = format!("{what}: {}", base::chain(&error));
                self.context.recorder.event(service, EventType::Warning, reason, &message);
                Err(error.into())
            }
        }
    }
}

fn labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS_LABEL);
    if !service_pods::has_cluster_ip(service) {
        labels.insert(HEADLESS_LABEL.to_owned(), String::new());
    }
    labels.insert(MANAGED_BY.to_owned(), CONTROLLER.to_owned());
    labels
}

/// Ports by the addresses that serve them, as few subsets as possible .
fn plan_subsets(service: &Service, pods: &[Arc<Pod>]) -> Vec<EndpointSubset> {
    let v6 = prefers_ipv6(service);
    let publish = service_pods::publishes_not_ready(service);
    let mut by_port = AddressesByPort::new();
    let mut addresses: BTreeMap<AddressKey, EndpointAddress> = BTreeMap::new();
    for pod in pods.iter().filter(|pod| service_pods::belongs(pod, publish)) {
        let Some(ip) = service_pods::addresses(pod).find(|ip| ip.is_ipv6() == v6) else { continue };
        let address = address(service, pod, ip.to_string());
        let key = (address.ip.clone(), pod.uid().to_owned());
        let ready = publish || pods::is_ready(pod);
        let mut add = |port: PortKey| {
            by_port.entry(port).or_default().insert(key.clone(), ready);
        };
        if service_pods::ports(service).is_empty() {
            if service_pods::cluster_ip(service) == "None" {
                add(None);
            }
        } else {
            for port in service_pods::ports(service) {
                let Some(number) = service_pods::find_port(pod, port) else { continue };
                let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
                let name = port.name.clone().unwrap_or_default();
                add(Some((name, number, protocol, port.app_protocol.clone())));
            }
        }
        addresses.insert(key, address);
    }
    repack(by_port, &addresses)
}

/// The fewest subsets that say which addresses have which ports (`endpoints.RepackSubsets`).
pub(crate) fn repack(
    by_port: AddressesByPort,
    addresses: &BTreeMap<AddressKey, EndpointAddress>,
) -> Vec<EndpointSubset> {
    let mut by_addresses: BTreeMap<Vec<(AddressKey, bool)>, Vec<EndpointPort>> = BTreeMap::new();
    for (port, keys) in by_port {
        let ports = by_addresses.entry(keys.into_iter().collect()).or_default();
        if let Some((name, port, protocol, app_protocol)) = port {
            let name = Some(name).filter(|n| !n.is_empty());
            ports.push(EndpointPort { name, port, protocol: Some(protocol), app_protocol });
        }
    }
    by_addresses
        .into_iter()
        .map(|(keys, ports)| {
            let pick = |wanted: bool| -> Option<Vec<EndpointAddress>> {
                let picked: Vec<_> = keys
                    .iter()
                    .filter(|(_, ready)| *ready == wanted)
                    .filter_map(|(key, _)| addresses.get(key).cloned())
                    .collect();
                (!picked.is_empty()).then_some(picked)
            };
            EndpointSubset {
                addresses: pick(true),
                not_ready_addresses: pick(false),
                ports: (!ports.is_empty()).then_some(ports),
            }
        })
        .collect()
}

/// For each port the addresses that have it, each ready or not.
pub(crate) type AddressesByPort = BTreeMap<PortKey, BTreeMap<AddressKey, bool>>;
/// Name, number, protocol, application protocol; `None` if the subset names no ports.
pub(crate) type PortKey = Option<(String, i32, String, Option<String>)>;
/// Address and the pod's uid.
pub(crate) type AddressKey = (String, String);

fn address(service: &Service, pod: &Pod, ip: String) -> EndpointAddress {
    EndpointAddress {
        ip,
        hostname: service_pods::hostname(pod, service),
        node_name: pod.node_name().map(str::to_owned),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".to_owned()),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            ..Default::default()
        }),
    }
}

fn prefers_ipv6(service: &Service) -> bool {
    let family = service.spec.as_ref().and_then(|s| s.ip_families.as_ref()?.first());
    match family {
        Some(family) => family == "IPv6",
        None => service_pods::cluster_ip(service).contains(':'),
    }
}

/// Cuts to the capacity, ready addresses first; true if something was cut (`truncateEndpoints`).
fn truncate(subsets: &mut [EndpointSubset]) -> bool {
    let count = |list: &Option<Vec<EndpointAddress>>| list.as_ref().map_or(0, Vec::len);
    let ready: usize = subsets.iter().map(|s| count(&s.addresses)).sum();
    let total: usize = ready + subsets.iter().map(|s| count(&s.not_ready_addresses)).sum::<usize>();
    if total <= CAPACITY {
        return false;
    }
    let mut room = CAPACITY;
    for subset in subsets.iter_mut() {
        if let Some(list) = &mut subset.addresses {
            list.truncate(room);
            room -= list.len();
        }
    }
    for subset in subsets.iter_mut() {
        if let Some(list) = &mut subset.not_ready_addresses {
            list.truncate(room);
            room -= list.len();
        }
    }
    true
}

/// Comparable whatever order the server returned, and without versions of targets.
fn subsets_of(endpoints: &Endpoints) -> Vec<String> {
    subsets_of_plan(endpoints.subsets.as_deref().unwrap_or_default())
}

fn subsets_of_plan(subsets: &[EndpointSubset]) -> Vec<String> {
    let address = |a: &EndpointAddress| {
        let uid = a.target_ref.as_ref().and_then(|t| t.uid.clone());
        format!("{}/{:?}/{:?}/{uid:?}", a.ip, a.hostname, a.node_name)
    };
    let list = |addresses: &Option<Vec<EndpointAddress>>| {
        let mut list: Vec<String> = addresses.iter().flatten().map(address).collect();
        list.sort();
        list.join(",")
    };
    let mut all: Vec<String> = subsets
        .iter()
        .map(|subset| {
            let mut ports: Vec<String> = subset
                .ports
                .iter()
                .flatten()
                .map(|p| format!("{:?}/{}/{:?}/{:?}", p.name, p.port, p.protocol, p.app_protocol))
                .collect();
            ports.sort();
            format!("{}|{}|{}", list(&subset.addresses), list(&subset.not_ready_addresses), ports.join(","))
        })
        .collect();
    all.sort();
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(name: &str, ip: &str, ready: bool, port: i32) -> Arc<Pod> {
        Arc::new(
            serde_json::from_value(json!({
                "metadata": {"name": name, "namespace": "n", "uid": name},
                "spec": {"nodeName": "x", "containers": [{"name": "c", "ports": [{"name": "web", "containerPort": port}]}]},
                "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}],
                    "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]},
            }))
            .unwrap(),
        )
    }

    #[test]
    fn pods_with_the_same_ports_share_a_subset() {
        let service: Service = serde_json::from_value(json!({
            "metadata": {"name": "s", "namespace": "n"},
            "spec": {"clusterIP": "10.0.0.1", "ports": [{"port": 80, "targetPort": "web"}, {"name": "m", "port": 9}]},
        }))
        .unwrap();
        let pods =
            [pod("a", "10.1.0.1", true, 8080), pod("b", "10.1.0.2", false, 8080), pod("c", "10.1.0.3", true, 9090)];
        let subsets = plan_subsets(&service, &pods);
        let shape: Vec<_> = subsets
            .iter()
            .map(|s| {
                let ips =
                    |l: &Option<Vec<EndpointAddress>>| l.iter().flatten().map(|a| a.ip.clone()).collect::<Vec<_>>();
                let ports = s.ports.iter().flatten().map(|p| p.port).collect::<Vec<_>>();
                (ips(&s.addresses), ips(&s.not_ready_addresses), ports)
            })
            .collect();
        assert!(shape.contains(&(vec!["10.1.0.1".into()], vec!["10.1.0.2".into()], vec![8080])), "{shape:?}");
        assert!(shape.contains(&(vec!["10.1.0.3".into()], vec![], vec![9090])), "{shape:?}");
        assert!(
            shape.contains(&(vec!["10.1.0.1".into(), "10.1.0.3".into()], vec!["10.1.0.2".into()], vec![9])),
            "{shape:?}"
        );
    }

    #[test]
    fn more_than_the_capacity_is_cut_ready_first() {
        let address = |ip: usize| EndpointAddress { ip: ip.to_string(), ..Default::default() };
        let mut subsets = vec![EndpointSubset {
            addresses: Some((0..900).map(address).collect()),
            not_ready_addresses: Some((0..200).map(address).collect()),
            ports: None,
        }];
        assert!(truncate(&mut subsets));
        assert_eq!(subsets[0].addresses.as_ref().unwrap().len(), 900);
        assert_eq!(subsets[0].not_ready_addresses.as_ref().unwrap().len(), 100);
    }
}
