//! Which pods serve a service, and on which ports (`endpointslice/util`, `endpointslice/utils.go`).

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use api::names::ObjectKey;
use client::{Event, Informer, Resource, WorkQueue};
use k8s_openapi::api::core::v1::{Pod, Service, ServicePort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::harness::key_of;
use crate::pods;
use crate::selector::Selector;

pub(crate) const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";

/// The service's selector; `None` if its endpoints are not ours to make.
pub(crate) fn selector(service: &Service) -> Option<Selector> {
    let spec = service.spec.as_ref()?;
    if spec.type_.as_deref() == Some("ExternalName") {
        return None;
    }
    let selector = spec.selector.as_ref().filter(|s| !s.is_empty())?;
    Some(Selector::from_map(selector))
}

pub(crate) fn cluster_ip(service: &Service) -> &str {
    service.spec.as_ref().and_then(|s| s.cluster_ip.as_deref()).unwrap_or_default()
}

pub(crate) fn has_cluster_ip(service: &Service) -> bool {
    !matches!(cluster_ip(service), "" | "None")
}

pub(crate) fn ports(service: &Service) -> &[ServicePort] {
    service.spec.as_ref().and_then(|s| s.ports.as_deref()).unwrap_or_default()
}

pub(crate) fn publishes_not_ready(service: &Service) -> bool {
    service.spec.as_ref().and_then(|s| s.publish_not_ready_addresses).unwrap_or(false)
}

/// `ShouldPodBeInEndpoints`.
pub(crate) fn belongs(pod: &Pod, include_terminating: bool) -> bool {
    !pods::is_terminal(pod) && addresses(pod).next().is_some() && (include_terminating || !pod.is_deleting())
}

/// The pod's addresses, of both families.
pub(crate) fn addresses(pod: &Pod) -> impl Iterator<Item = IpAddr> {
    let status = pod.status.as_ref();
    let many = status.and_then(|s| s.pod_ips.as_ref()).into_iter().flatten().map(|ip| ip.ip.as_str());
    let one = status.and_then(|s| s.pod_ip.as_deref());
    let none_listed = status.and_then(|s| s.pod_ips.as_ref()).is_none_or(Vec::is_empty);
    many.chain(one.filter(|_| none_listed)).filter_map(|ip| ip.parse().ok())
}

/// The hostname by which DNS knows the pod under this service.
pub(crate) fn hostname(pod: &Pod, service: &Service) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let hostname = spec.hostname.as_ref().filter(|h| !h.is_empty())?;
    (spec.subdomain.as_deref() == Some(service.name()) && pod.namespace() == service.namespace())
        .then(|| hostname.clone())
}

/// The pod's port behind a service's; `None` if no container has a port of that name (`FindPort`).
pub(crate) fn find_port(pod: &Pod, port: &ServicePort) -> Option<i32> {
    let name = match &port.target_port {
        None => return Some(port.port),
        Some(IntOrString::Int(number)) => return Some(if *number == 0 { port.port } else { *number }),
        Some(IntOrString::String(name)) => name,
    };
    let spec = pod.spec.as_ref()?;
    let protocol = port.protocol.as_deref().unwrap_or("TCP");
    let sidecars = spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    spec.containers
        .iter()
        .chain(sidecars)
        .flat_map(|container| container.ports.iter().flatten())
        .find(|p| p.name.as_deref() == Some(name) && p.protocol.as_deref().unwrap_or("TCP") == protocol)
        .map(|p| p.container_port)
}

/// Queues the services whose endpoints a pod's change may concern (`GetServicesToUpdate`).
pub(crate) fn on_pod(services: &Informer<Service>, queue: &WorkQueue<ObjectKey>, delay: Duration, event: &Event<Pod>) {
    match event {
        Event::Added(pod) | Event::Deleted(pod) => add_selecting(services, queue, delay, &[pod]),
        Event::Updated { old, new } => {
            let name = |pod: &Pod| pod.spec.as_ref().map(|s| (s.hostname.clone(), s.subdomain.clone()));
            let moved = old.metadata.labels != new.metadata.labels || name(old) != name(new);
            let changed = old.metadata.deletion_timestamp != new.metadata.deletion_timestamp
                || pods::is_ready(old) != pods::is_ready(new)
                || pods::is_terminal(old) != pods::is_terminal(new)
                || !addresses(old).eq(addresses(new));
            match (moved, changed) {
                (true, _) => add_selecting(services, queue, delay, &[old, new]),
                (false, true) => add_selecting(services, queue, delay, &[new]),
                (false, false) => {}
            }
        }
        Event::Resync => {}
    }
}

fn add_selecting(services: &Informer<Service>, queue: &WorkQueue<ObjectKey>, delay: Duration, pods: &[&Arc<Pod>]) {
    let Some(first) = pods.first() else { return };
    for service in services.namespace(first.namespace()) {
        let wanted = service.spec.as_ref().and_then(|s| s.selector.as_ref()).filter(|s| !s.is_empty());
        let Some(wanted) = wanted else { continue };
        let selects = |pod: &Pod| {
            let labels = pod.metadata.labels.as_ref();
            wanted.iter().all(|(key, value)| labels.and_then(|l| l.get(key)) == Some(value))
        };
        if pods.iter().any(|pod| selects(pod)) {
            queue.add_after(key_of(&*service), delay);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn ports_are_found_by_number_and_by_name() {
        let pod: Pod = serde_json::from_value(json!({"spec": {"containers": [
            {"name": "c", "ports": [{"name": "web", "containerPort": 8080, "protocol": "TCP"}]}],
            "initContainers": [{"name": "s", "restartPolicy": "Always", "ports": [{"name": "side", "containerPort": 9}]}]}}))
        .unwrap();
        let check = |port: serde_json::Value, expected: Option<i32>| {
            let port: ServicePort = serde_json::from_value(port).unwrap();
            assert_eq!(find_port(&pod, &port), expected, "{port:?}");
        };
        check(json!({"port": 80, "targetPort": 81}), Some(81));
        check(json!({"port": 80}), Some(80));
        check(json!({"port": 80, "targetPort": "web"}), Some(8080));
        check(json!({"port": 80, "targetPort": "side"}), Some(9));
        check(json!({"port": 80, "targetPort": "web", "protocol": "UDP"}), None);
    }

    #[tokio::test]
    async fn a_relabelled_pod_concerns_the_services_of_both_sets_of_labels() {
        let service = |name: &str| -> Service {
            serde_json::from_value(
                json!({"metadata": {"name": name, "namespace": "n"}, "spec": {"selector": {"app": name}}}),
            )
            .unwrap()
        };
        let pod = |app: &str| -> Arc<Pod> {
            Arc::new(
                serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "labels": {"app": app}}}))
                    .unwrap(),
            )
        };
        let services = Informer::fake(vec![service("a"), service("b"), service("c")]);
        let queue = WorkQueue::new();
        let event = Event::Updated { old: pod("a"), new: pod("b") };
        on_pod(&services, &queue, Duration::ZERO, &event);
        assert_eq!(queue.len(), 2);
        let same = Event::Updated { old: pod("c"), new: pod("c") };
        on_pod(&services, &queue, Duration::ZERO, &same);
        assert_eq!(queue.len(), 2);
    }
}
