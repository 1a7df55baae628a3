//! The objects beside pods and nodes that decisions read.

use std::collections::HashMap;
use std::sync::Arc;

use client::k8s_openapi::api::apps::v1::{ReplicaSet, StatefulSet};
use client::k8s_openapi::api::core::v1::{
    Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod, ReplicationController, Service,
};
use client::k8s_openapi::api::policy::v1::PodDisruptionBudget;
use client::k8s_openapi::api::storage::v1::{CSIDriver, CSINode, CSIStorageCapacity, StorageClass, VolumeAttachment};
use client::{Informer, Informers, Resource};
use parking_lot::Mutex;

/// Informers of everything that plugins ask about.
pub struct Listers {
    pub pods: Informer<Pod>,
    pub nodes: Informer<Node>,
    pub namespaces: Informer<Namespace>,
    pub services: Informer<Service>,
    pub replication_controllers: Informer<ReplicationController>,
    pub replica_sets: Informer<ReplicaSet>,
    pub stateful_sets: Informer<StatefulSet>,
    pub budgets: Informer<PodDisruptionBudget>,
    pub claims: Assumed<PersistentVolumeClaim>,
    pub volumes: Assumed<PersistentVolume>,
    pub classes: Informer<StorageClass>,
    pub csi_nodes: Informer<CSINode>,
    pub csi_drivers: Informer<CSIDriver>,
    pub capacities: Informer<CSIStorageCapacity>,
    pub attachments: Informer<VolumeAttachment>,
}

impl Listers {
    pub fn new(informers: &Informers) -> Self {
        Self {
            pods: informers.informer(),
            nodes: informers.informer(),
            namespaces: informers.informer(),
            services: informers.informer(),
            replication_controllers: informers.informer(),
            replica_sets: informers.informer(),
            stateful_sets: informers.informer(),
            budgets: informers.informer(),
            claims: Assumed::new(informers.informer()),
            volumes: Assumed::new(informers.informer()),
            classes: informers.informer(),
            csi_nodes: informers.informer(),
            csi_drivers: informers.informer(),
            capacities: informers.informer(),
            attachments: informers.informer(),
        }
    }

    /// For tests: nothing there yet.
    pub fn fake() -> Self {
        Self {
            pods: Informer::fake(Vec::new()),
            nodes: Informer::fake(Vec::new()),
            namespaces: Informer::fake(Vec::new()),
            services: Informer::fake(Vec::new()),
            replication_controllers: Informer::fake(Vec::new()),
            replica_sets: Informer::fake(Vec::new()),
            stateful_sets: Informer::fake(Vec::new()),
            budgets: Informer::fake(Vec::new()),
            claims: Assumed::new(Informer::fake(Vec::new())),
            volumes: Assumed::new(Informer::fake(Vec::new())),
            classes: Informer::fake(Vec::new()),
            csi_nodes: Informer::fake(Vec::new()),
            csi_drivers: Informer::fake(Vec::new()),
            capacities: Informer::fake(Vec::new()),
            attachments: Informer::fake(Vec::new()),
        }
    }

    /// Returns when every first list is in.
    pub async fn synced(&self) {
        self.pods.synced().await;
        self.nodes.synced().await;
        self.namespaces.synced().await;
        self.services.synced().await;
        self.replication_controllers.synced().await;
        self.replica_sets.synced().await;
        self.stateful_sets.synced().await;
        self.budgets.synced().await;
        self.claims.informer.synced().await;
        self.volumes.informer.synced().await;
        self.classes.synced().await;
        self.csi_nodes.synced().await;
        self.csi_drivers.synced().await;
        self.capacities.synced().await;
        self.attachments.synced().await;
    }
}

/// An informer with changes on top that were decided but that the API has not shown yet
/// (upstream `util/assumecache`). A newer version from the API replaces an assumed one.
pub struct Assumed<K> {
    pub informer: Informer<K>,
    /// By namespace and name: the version the change was made to, and the object with it.
    changed: Mutex<HashMap<(String, String), (String, Arc<K>)>>,
}

impl<K: Resource> Assumed<K> {
    pub fn new(informer: Informer<K>) -> Self {
        Self { informer, changed: Mutex::new(HashMap::new()) }
    }

    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        self.informer.get(namespace, name).map(|seen| self.overlaid(seen))
    }

    pub fn list(&self) -> Vec<Arc<K>> {
        self.informer.list().into_iter().map(|seen| self.overlaid(seen)).collect()
    }

    fn overlaid(&self, seen: Arc<K>) -> Arc<K> {
        let mut changed = self.changed.lock();
        if changed.is_empty() {
            return seen;
        }
        let key = (seen.namespace().to_owned(), seen.name().to_owned());
        match changed.get(&key) {
            Some((base, object)) if base == seen.resource_version() => object.clone(),
            Some(_) => {
                changed.remove(&key);
                seen
            }
            None => seen,
        }
    }

    /// Shows `object` until the API has something newer than the version it carries.
    pub fn assume(&self, object: Arc<K>) {
        let key = (object.namespace().to_owned(), object.name().to_owned());
        self.changed.lock().insert(key, (object.resource_version().to_owned(), object));
    }

    /// Shows what the API says again.
    pub fn restore(&self, namespace: &str, name: &str) {
        self.changed.lock().remove(&(namespace.to_owned(), name.to_owned()));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn claim(version: &str, volume: &str) -> PersistentVolumeClaim {
        let metadata = json!({"name": "c", "namespace": "n", "resourceVersion": version});
        serde_json::from_value(json!({"metadata": metadata, "spec": {"volumeName": volume}})).unwrap()
    }

    fn volume_of(claims: &Assumed<PersistentVolumeClaim>) -> Option<String> {
        claims.get("n", "c")?.spec.as_ref()?.volume_name.clone()
    }

    #[test]
    fn an_assumed_change_holds_until_the_api_shows_a_newer_version() {
        let claims = Assumed::new(Informer::fake(vec![claim("1", "")]));
        claims.assume(Arc::new(claim("1", "assumed")));
        assert_eq!(volume_of(&claims).as_deref(), Some("assumed"));
        claims.informer.put(claim("2", "seen"));
        assert_eq!(volume_of(&claims).as_deref(), Some("seen"));
        claims.assume(Arc::new(claim("2", "again")));
        claims.restore("n", "c");
        assert_eq!(volume_of(&claims).as_deref(), Some("seen"));
    }
}
