//! Keeps the index in step with the informers.

use std::sync::Arc;

use client::{Event, Informer, Informers, Resource, Subscription};
use k8s_openapi::api::core::v1::{Namespace, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use parking_lot::RwLock;

use crate::index::Index;

/// The objects that names are made from.
pub struct Source {
    namespaces: Informer<Namespace>,
    services: Informer<Service>,
    slices: Informer<EndpointSlice>,
}

impl Source {
    pub fn new(informers: &Informers) -> Self {
        Self { namespaces: informers.informer(), services: informers.informer(), slices: informers.informer() }
    }

    /// Returns when the first lists are in.
    pub async fn synced(&self) {
        self.namespaces.synced().await;
        self.services.synced().await;
        self.slices.synced().await;
    }

    /// Makes the index say what is known now, from nothing.
    pub fn fill(&self, index: &RwLock<Index>) {
        let mut index = index.write();
        index.clear();
        for namespace in self.namespaces.list() {
            index.set_namespace(namespace.name());
        }
        for service in self.services.list() {
            index.set_service(service);
        }
        for slice in self.slices.list() {
            index.set_slice(slice);
        }
    }

    /// Follows the changes; returns at the informers' shutdown.
    pub async fn follow(&self, index: &RwLock<Index>) {
        let mut namespaces = self.namespaces.subscribe();
        let mut services = self.services.subscribe();
        let mut slices = self.slices.subscribe();
        loop {
            let applied = tokio::select! {
                change = next(&mut namespaces) => change.map(|change| {
                    change.apply(
                        |old| index.write().remove_namespace(old.name()),
                        |new| index.write().set_namespace(new.name()),
                    )
                }),
                change = next(&mut services) => change.map(|change| {
                    // The same name: setting it replaces what was there.
                    let Change { old, new } = change;
                    match (old, new) {
                        (_, Some(new)) => index.write().set_service(new),
                        (Some(old), None) => index.write().remove_service(&old),
                        (None, None) => return false,
                    }
                    true
                }),
                change = next(&mut slices) => change.map(|change| {
                    change.apply(|old| index.write().remove_slice(&old), |new| index.write().set_slice(new))
                }),
            };
            match applied {
                None => return,
                Some(true) => {}
                Some(false) => self.fill(index),
            }
        }
    }
}

/// One change; neither side means that changes were lost.
struct Change<K> {
    old: Option<Arc<K>>,
    new: Option<Arc<K>>,
}

impl<K> Change<K> {
    /// False if everything has to be read anew.
    fn apply(self, remove: impl FnOnce(Arc<K>), set: impl FnOnce(Arc<K>)) -> bool {
        let known = self.old.is_some() || self.new.is_some();
        if let Some(old) = self.old {
            remove(old);
        }
        if let Some(new) = self.new {
            set(new);
        }
        known
    }
}

async fn next<K: Resource>(events: &mut Subscription<K>) -> Option<Change<K>> {
    Some(match events.recv().await? {
        Event::Added(new) => Change { old: None, new: Some(new) },
        Event::Updated { old, new } => Change { old: Some(old), new: Some(new) },
        Event::Deleted(old) => Change { old: Some(old), new: None },
        Event::Resync => Change { old: None, new: None },
    })
}
