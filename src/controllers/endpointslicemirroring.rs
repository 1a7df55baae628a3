//! EndpointSlices for Endpoints that somebody else than the control plane keeps (`pkg/controller/endpointslicemirroring`).
//!
//! Endpoints of a service without selector are copied, so that consumers need to read slices only.

mod plan;

use std::sync::Arc;
use std::time::Duration;

use api::names::ObjectKey;
use async_trait::async_trait;
use client::{DeleteParams, Event, EventType, Informer, Resource, WorkQueue};
use k8s_openapi::api::core::v1::{Endpoints, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::endpointslice::{SERVICE_NAME, is_managed_by, on_slice};
use crate::error::Error;
use crate::harness::{Context, Parts, Reconcile, all_synced, key_of, synced};
use crate::written::Written;

const CONTROLLER: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP_MIRROR: &str = "endpointslice.kubernetes.io/skip-mirror";
/// Endpoints objects that old clients use as a lock.
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
const WORKERS: usize = 5;

pub(crate) fn start(context: Context) {
    let services = context.informers.informer::<Service>();
    let endpoints = context.informers.informer::<Endpoints>();
    let slices = context.informers.informer::<EndpointSlice>();
    let queue = WorkQueue::with_backoff(Duration::from_secs(1), Duration::from_secs(100));

    let add_all = Context::add_all(&endpoints, &queue);
    context.feed(&endpoints, &add_all, {
        let queue = queue.clone();
        move |event| {
            let (object, mirrored) = match event {
                Event::Added(object) | Event::Deleted(object) => (object, is_mirrored(object)),
                Event::Updated { old, new } => (new, is_mirrored(old) || is_mirrored(new)),
                Event::Resync => return,
            };
            if mirrored {
                queue.add(key_of(&**object));
            }
        }
    });
    context.feed(&services, &add_all, {
        let queue = queue.clone();
        move |event| {
            let concerned = match event {
                Event::Added(service) | Event::Deleted(service) => (!has_selector(service)).then_some(service),
                Event::Updated { old, new } => (has_selector(old) != has_selector(new)).then_some(new),
                Event::Resync => None,
            };
            if let Some(service) = concerned {
                queue.add(key_of(&**service));
            }
        }
    });
    context.feed(&slices, &add_all, {
        let queue = queue.clone();
        move |event| on_slice(CONTROLLER, &queue, event)
    });

    let ready = all_synced(vec![synced(&services), synced(&endpoints), synced(&slices)]);
    let reconciler =
        Arc::new(Reconciler { services, endpoints, slices, written: Written::default(), context: context.parts() });
    context.work(reconciler, queue, WORKERS, ready);
}

fn is_mirrored(endpoints: &Endpoints) -> bool {
    endpoints.label(SKIP_MIRROR) != Some("true") && endpoints.annotation(LEADER).is_none()
}

fn has_selector(service: &Service) -> bool {
    service.spec.as_ref().is_some_and(|spec| spec.selector.as_ref().is_some_and(|s| !s.is_empty()))
}

struct Reconciler {
    services: Informer<Service>,
    endpoints: Informer<Endpoints>,
    slices: Informer<EndpointSlice>,
    written: Written,
    context: Parts,
}

#[async_trait]
impl Reconcile for Reconciler {
    async fn reconcile(&self, key: &ObjectKey) -> Result<(), Error> {
        self.written.check(key, &self.slices)?;
        let mut existing = self.slices.namespace(&key.namespace);
        existing
            .retain(|slice| is_managed_by(slice, CONTROLLER) && slice.label(SERVICE_NAME) == Some(key.name.as_str()));
        let endpoints = self.endpoints.get(&key.namespace, &key.name).filter(|e| is_mirrored(e));
        let service = self.services.get(&key.namespace, &key.name).filter(|s| !has_selector(s));
        let (Some(endpoints), Some(_)) = (endpoints, service) else {
            for slice in &existing {
                self.delete(slice).await?;
            }
            return Ok(());
        };
        let plan = plan::mirror(&endpoints, existing);
        if plan.invalid > 0 {
            let message = format!("Skipped {} invalid IP addresses when mirroring to EndpointSlices", plan.invalid);
            self.context.recorder.event(&*endpoints, EventType::Warning, "InvalidIPAddress", &message);
        }
        if plan.skipped > plan.invalid {
            let message = format!(
                "A max of {} addresses can be mirrored to EndpointSlices per Endpoints subset. {} addresses were skipped",
                plan::SUBSET_MAX,
                plan.skipped
            );
            self.context.recorder.event(&*endpoints, EventType::Warning, "TooManyAddressesToMirror", &message);
        }
        self.apply(key, &endpoints, plan).await
    }
}

impl Reconciler {
    async fn apply(&self, key: &ObjectKey, endpoints: &Endpoints, plan: plan::Plan) -> Result<(), Error> {
        if !endpoints.is_deleting() {
            for slice in &plan.create {
                match self.context.client.create(slice).await {
                    Ok(created) => self.written.note(key, &created),
                    Err(error) if error.is_namespace_terminating() => return Ok(()),
                    Err(error) => return Err(error.into()),
                }
            }
        }
        for slice in &plan.update {
            self.written.note(key, &self.context.client.update(slice).await?);
        }
        for slice in &plan.delete {
            self.delete(slice).await?;
        }
        Ok(())
    }

    async fn delete(&self, slice: &EndpointSlice) -> Result<(), client::Error> {
        let options = DeleteParams::default();
        match self.context.client.delete::<EndpointSlice>(slice.namespace(), slice.name(), &options).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }
}
