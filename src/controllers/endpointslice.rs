//! EndpointSlices of services with a selector (`pkg/controller/endpointslice`, `k8s.io/endpointslice`).

mod plan;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use api::names::ObjectKey;
use async_trait::async_trait;
use client::{DeleteParams, Event, EventType, Informer, Resource, WorkQueue};
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::error::Error;
use crate::harness::{Context, Parts, Reconcile, all_synced, current, synced};
use crate::service_pods;
use crate::written::Written;

pub(crate) const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
pub(crate) const SERVICE_NAME: &str = "kubernetes.io/service-name";
const CONTROLLER: &str = "endpointslice-controller.k8s.io";
const WORKERS: usize = 5;

pub(crate) fn start(context: Context) {
    let services = context.informers.informer::<Service>();
    let pods = context.informers.informer::<Pod>();
    let nodes = context.informers.informer::<Node>();
    let slices = context.informers.informer::<EndpointSlice>();
    // client-go's limiter for this controller: 1 s up to 100 s.
    let queue = WorkQueue::with_backoff(Duration::from_secs(1), Duration::from_secs(100));

    let add_all = context.feed_own(&services, &queue);
    context.feed(&pods, &add_all, {
        let (services, queue) = (services.clone(), queue.clone());
        move |event| service_pods::on_pod(&services, &queue, Duration::ZERO, event)
    });
    context.feed(&slices, &add_all, {
        let queue = queue.clone();
        move |event| on_slice(CONTROLLER, &queue, event)
    });
    context.feed(&nodes, &add_all, {
        let (services, pods, queue) = (services.clone(), pods.clone(), queue.clone());
        move |event| on_node(&services, &pods, &queue, event)
    });

    let ready = all_synced(vec![synced(&services), synced(&pods), synced(&nodes), synced(&slices)]);
    let reconciler =
        Arc::new(Reconciler { services, pods, nodes, slices, written: Written::default(), context: context.parts() });
    context.work(reconciler, queue, WORKERS, ready);
}

/// Whether `controller` keeps a slice.
pub(crate) fn is_managed_by(slice: &EndpointSlice, controller: &str) -> bool {
    slice.label(MANAGED_BY) == Some(controller)
}

/// Queues the Service of a slice that `controller` keeps or kept.
pub(crate) fn on_slice(controller: &str, queue: &WorkQueue<ObjectKey>, event: &Event<EndpointSlice>) {
    let is_ours = |slice: &EndpointSlice| is_managed_by(slice, controller);
    let add = |slice: &EndpointSlice| {
        if let Some(service) = slice.label(SERVICE_NAME) {
            queue.add(ObjectKey::new(slice.namespace(), service));
        }
    };
    match event {
        Event::Updated { old, new } if is_ours(old) || is_ours(new) => {
            add(new);
            if old.label(SERVICE_NAME) != new.label(SERVICE_NAME) {
                add(old);
            }
        }
        Event::Added(slice) | Event::Deleted(slice) if is_ours(slice) => add(slice),
        _ => {}
    }
}

/// A node that comes or moves to another zone concerns the services of its pods.
fn on_node(services: &Informer<Service>, pods: &Informer<Pod>, queue: &WorkQueue<ObjectKey>, event: &Event<Node>) {
    if let Event::Updated { old, new } = event
        && plan::zone(old) == plan::zone(new)
    {
        return;
    }
    let Some(node) = current(event) else { return };
    for pod in pods.by_node(node.name()) {
        service_pods::on_pod(services, queue, Duration::ZERO, &Event::Added(pod));
    }
}

struct Reconciler {
    services: Informer<Service>,
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    slices: Informer<EndpointSlice>,
    written: Written,
    context: Parts,
}

#[async_trait]
impl Reconcile for Reconciler {
    async fn reconcile(&self, key: &ObjectKey) -> Result<(), Error> {
        // Slices of a service that is gone are the garbage collector's.
        let Some(service) = self.services.get(&key.namespace, &key.name) else { return Ok(()) };
        let Some(selector) = service_pods::selector(&service) else { return Ok(()) };
        self.written.check(key, &self.slices)?;
        let pods: Vec<Arc<Pod>> = self
            .pods
            .namespace(&key.namespace)
            .into_iter()
            .filter(|pod| selector.matches(pod.metadata.labels.as_ref()))
            .collect();
        let existing: Vec<Arc<EndpointSlice>> = self
            .slices
            .namespace(&key.namespace)
            .into_iter()
            .filter(|slice| is_managed_by(slice, CONTROLLER) && slice.label(SERVICE_NAME) == Some(key.name.as_str()))
            .collect();
        let families = plan::address_types(&service);
        let mut delete: Vec<Arc<EndpointSlice>> =
            existing.iter().filter(|s| !families.contains(s.address_type.as_str())).cloned().collect();
        let mut missing_node = None;
        let mut changes = plan::Changes::default();
        for family in &families {
            let of_family: Vec<_> = existing.iter().filter(|s| s.address_type == *family).cloned().collect();
            let found = plan::endpoints(&service, &pods, family, |name| self.nodes.get("", name));
            missing_node = missing_node.or(found.missing_node);
            changes.extend(plan::slices(&service, family, found.by_ports, of_family));
        }
        delete.append(&mut changes.delete);
        if let Err(error) = self.apply(key, &service, changes, delete).await {
            if !error.is_namespace_terminating() && !error.is_conflict() {
                let message = format!(
                    "Error updating Endpoint Slices for Service {}/{}: {}",
                    key.namespace,
                    key.name,
                    base::chain(&error)
                );
                self.context.recorder.event(&*service, EventType::Warning, "FailedToUpdateEndpointSlices", &message);
            }
            return Err(error.into());
        }
        match missing_node {
            // The node's event will bring the key again; the back-off covers a node that never comes.
            Some(_) => Err(Error::NotYet("the node of a pod")),
            None => Ok(()),
        }
    }
}

impl Reconciler {
    async fn apply(
        &self,
        key: &ObjectKey,
        service: &Service,
        mut changes: plan::Changes,
        mut delete: Vec<Arc<EndpointSlice>>,
    ) -> Result<(), client::Error> {
        let client = &self.context.client;
        // A slice to delete becomes one to create, so that consumers see one change instead of two.
        delete.retain(|old| {
            let reusable = plan::is_owned_by(old, service);
            let at = changes.create.iter().position(|new| reusable && new.address_type == old.address_type);
            let Some(at) = at else { return true };
            let mut new = changes.create.swap_remove(at);
            new.metadata.name.clone_from(&old.metadata.name);
            new.metadata.resource_version.clone_from(&old.metadata.resource_version);
            new.metadata.generate_name.clone_from(&old.metadata.generate_name);
            changes.update.push(new);
            false
        });
        if !service.is_deleting() {
            for slice in &changes.create {
                self.written.note(key, &client.create(slice).await?);
            }
        }
        for slice in &changes.update {
            self.written.note(key, &client.update(slice).await?);
        }
        for slice in delete {
            match client.delete::<EndpointSlice>(slice.namespace(), slice.name(), &DeleteParams::default()).await {
                Err(error) if !error.is_not_found() => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

/// The families of a service's slices.
pub(crate) type AddressTypes = BTreeSet<&'static str>;
