//! Binds claims to volumes, asks external provisioners for the missing ones, and reclaims what was released
//! (`pkg/controller/volume/persistentvolume`).
//!
//! Upstream looks at every claim and volume again every 15 s; here each change queues what it may settle. One worker: a
//! decision about a claim reads what the one before wrote.

mod claim;
mod matching;
mod migration;
mod volume;

use std::sync::Arc;

use api::names::ObjectKey;
use async_trait::async_trait;
use client::{Event, Informer, Resource, WorkQueue};
use k8s_openapi::api::core::v1::{ObjectReference, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;

use crate::error::Error;
use crate::harness::{Context, Parts, Reconcile, all_synced, current, key_of, synced};
use crate::written::Written;

/// The binding was made by the controller and not by the user. Its value does not matter.
const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
/// The claim was bound once, for good.
const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// The plugin or driver that made the volume.
const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// The scheduler's choice, which starts the provisioning of a claim that waits for its first consumer.
const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";

pub(crate) fn start(context: Context) {
    let claims = context.informers.informer::<PersistentVolumeClaim>();
    let volumes = context.informers.informer::<PersistentVolume>();
    let classes = context.informers.informer::<StorageClass>();
    let pods = context.informers.informer::<Pod>();
    let queue = WorkQueue::new();
    let add_claims = Context::add_all(&claims, &queue);
    context.feed(&claims, &add_claims, {
        let (volumes, queue) = (volumes.clone(), queue.clone());
        move |event| on_claim(&volumes, &queue, event)
    });
    let add_volumes = Context::add_all(&volumes, &queue);
    context.feed(&volumes, &add_volumes, {
        let (claims, queue) = (claims.clone(), queue.clone());
        move |event| on_volume(&claims, &queue, event)
    });
    context.feed(&classes, &add_claims, {
        let (claims, queue) = (claims.clone(), queue.clone());
        move |event| on_class(&claims, &queue, event)
    });
    let ready = all_synced(vec![synced(&claims), synced(&volumes), synced(&classes), synced(&pods)]);
    let context_parts = context.parts_as("persistentvolume-controller");
    let binder = Binder {
        claims,
        volumes,
        classes,
        pods,
        queue: queue.clone(),
        writes: Writes::default(),
        context: context_parts,
    };
    context.work(Arc::new(binder), queue, 1, ready);
}

fn on_claim(volumes: &Informer<PersistentVolume>, queue: &WorkQueue<ObjectKey>, event: &Event<PersistentVolumeClaim>) {
    let Some(claim) = current(event) else { return };
    queue.add(key_of(&**claim));
    // A volume may be released by this, or may have lost the claim to another one.
    for volume in volumes.list() {
        let named = claim_ref(&volume).is_some_and(|r| refers_to(r, claim));
        if named || claim_volume(claim) == volume.name() {
            queue.add(key_of(&*volume));
        }
    }
}

fn on_volume(claims: &Informer<PersistentVolumeClaim>, queue: &WorkQueue<ObjectKey>, event: &Event<PersistentVolume>) {
    let Some(volume) = current(event) else { return };
    queue.add(key_of(&**volume));
    if let Some(bound) = claim_ref(volume) {
        queue.add(ObjectKey::new(
            bound.namespace.as_deref().unwrap_or_default(),
            bound.name.as_deref().unwrap_or_default(),
        ));
    }
    let free = claim_ref(volume).is_none() && !matches!(event, Event::Deleted(_));
    for claim in claims.list() {
        if claim_volume(&claim) == volume.name() || (free && is_unbound(&claim) && claim_volume(&claim).is_empty()) {
            queue.add(key_of(&*claim));
        }
    }
}

fn on_class(claims: &Informer<PersistentVolumeClaim>, queue: &WorkQueue<ObjectKey>, event: &Event<StorageClass>) {
    let Some(class) = current(event) else { return };
    for claim in claims.list() {
        let wanted = matching::claim_class(&claim);
        if is_unbound(&claim) && (wanted == class.name() || !matching::has_class(&claim)) {
            queue.add(key_of(&*claim));
        }
    }
}

fn claim_ref(volume: &PersistentVolume) -> Option<&ObjectReference> {
    volume.spec.as_ref()?.claim_ref.as_ref()
}

/// By name only.
fn refers_to(reference: &ObjectReference, claim: &PersistentVolumeClaim) -> bool {
    reference.name.as_deref().unwrap_or_default() == claim.name()
        && reference.namespace.as_deref().unwrap_or_default() == claim.namespace()
}

/// `spec.volumeName`, empty if unset.
fn claim_volume(claim: &PersistentVolumeClaim) -> &str {
    claim.spec.as_ref().and_then(|s| s.volume_name.as_deref()).unwrap_or_default()
}

fn is_unbound(claim: &PersistentVolumeClaim) -> bool {
    claim.annotation(BIND_COMPLETED).is_none()
}

struct Binder {
    claims: Informer<PersistentVolumeClaim>,
    volumes: Informer<PersistentVolume>,
    classes: Informer<StorageClass>,
    pods: Informer<Pod>,
    queue: WorkQueue<ObjectKey>,
    writes: Writes,
    context: Parts,
}

/// What was written, under one key a kind: a decision looks at all volumes and claims.
#[derive(Default)]
struct Writes {
    claims: Written,
    volumes: Written,
}

fn any() -> ObjectKey {
    ObjectKey::new("", "")
}

#[async_trait]
impl Reconcile for Binder {
    /// Claims by namespace and name, volumes by name alone.
    async fn reconcile(&self, key: &ObjectKey) -> Result<(), Error> {
        self.writes.claims.check(&any(), &self.claims)?;
        self.writes.volumes.check(&any(), &self.volumes)?;
        if key.namespace.is_empty() {
            match self.volumes.get("", &key.name) {
                Some(volume) => self.sync_volume((*volume).clone()).await,
                None => Ok(()),
            }
        } else {
            match self.claims.get(&key.namespace, &key.name) {
                Some(claim) => self.sync_claim((*claim).clone()).await,
                None => Ok(()),
            }
        }
    }
}

impl Binder {
    async fn update_claim(&self, claim: &PersistentVolumeClaim) -> Result<PersistentVolumeClaim, Error> {
        let claim = self.context.client.update(claim).await?;
        self.writes.claims.note(&any(), &claim);
        Ok(claim)
    }

    async fn put_claim_status(&self, claim: &PersistentVolumeClaim) -> Result<PersistentVolumeClaim, Error> {
        let claim = self.context.client.update_status(claim).await?;
        self.writes.claims.note(&any(), &claim);
        Ok(claim)
    }

    async fn update_volume(&self, volume: &PersistentVolume) -> Result<PersistentVolume, Error> {
        let volume = self.context.client.update(volume).await?;
        self.writes.volumes.note(&any(), &volume);
        Ok(volume)
    }

    /// `updateVolumePhase`.
    async fn set_phase(
        &self,
        mut volume: PersistentVolume,
        phase: &str,
        message: Option<&str>,
    ) -> Result<PersistentVolume, Error> {
        let status = volume.status.get_or_insert_default();
        if status.phase.as_deref() == Some(phase) {
            return Ok(volume);
        }
        status.phase = Some(phase.to_owned());
        status.message = message.map(str::to_owned);
        let volume = self.context.client.update_status(&volume).await?;
        self.writes.volumes.note(&any(), &volume);
        Ok(volume)
    }

    /// `bind`: the volume first, so that no other claim takes it.
    async fn bind(&self, volume: PersistentVolume, claim: PersistentVolumeClaim) -> Result<(), Error> {
        let volume = match bound_volume(&volume, &claim) {
            Some(changed) => self.update_volume(&changed).await?,
            None => volume,
        };
        let volume = self.set_phase(volume, "Bound", None).await?;
        let claim = match bound_claim(&claim, &volume) {
            Some(changed) => self.update_claim(&changed).await?,
            None => claim,
        };
        self.set_claim_status(claim, "Bound", Some(&volume)).await?;
        Ok(())
    }
}

/// `GetBindVolumeToClaim`; `None` if nothing changes.
fn bound_volume(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Option<PersistentVolume> {
    let known = claim_ref(volume);
    let same = known.is_some_and(|r| refers_to(r, claim) && r.uid.as_deref() == Some(claim.uid()));
    let by_user = matching::is_bound_to(volume, claim);
    let annotate = !by_user && volume.annotation(BOUND_BY_CONTROLLER).is_none();
    if same && !annotate {
        return None;
    }
    let mut changed = volume.clone();
    if !same {
        changed.spec.get_or_insert_default().claim_ref = Some(client::ObjectRef::object_ref(claim));
    }
    if annotate {
        let annotations = changed.metadata.annotations.get_or_insert_default();
        annotations.insert(BOUND_BY_CONTROLLER.to_owned(), "yes".to_owned());
    }
    Some(changed)
}

/// `bindClaimToVolume`; `None` if nothing changes.
fn bound_claim(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Option<PersistentVolumeClaim> {
    let named = claim_volume(claim) == volume.name();
    if named && !is_unbound(claim) {
        return None;
    }
    let mut changed = claim.clone();
    let annotations = changed.metadata.annotations.get_or_insert_default();
    annotations.insert(BIND_COMPLETED.to_owned(), "yes".to_owned());
    if !named {
        annotations.entry(BOUND_BY_CONTROLLER.to_owned()).or_insert_with(|| "yes".to_owned());
        changed.spec.get_or_insert_default().volume_name = Some(volume.name().to_owned());
    }
    Some(changed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn claim() -> PersistentVolumeClaim {
        serde_json::from_value(json!({"metadata": {"name": "c", "namespace": "n", "uid": "u"}, "spec": {}})).unwrap()
    }

    #[test]
    fn a_free_volume_is_bound_by_the_controller_and_a_reserved_one_by_its_user() {
        let check = |spec: serde_json::Value, annotated: bool| {
            let volume = serde_json::from_value(json!({"metadata": {"name": "v"}, "spec": spec})).unwrap();
            let bound = bound_volume(&volume, &claim()).unwrap();
            assert_eq!(bound.annotation(BOUND_BY_CONTROLLER).is_some(), annotated);
            let reference = claim_ref(&bound).unwrap();
            assert_eq!(
                (reference.uid.as_deref(), reference.kind.as_deref()),
                (Some("u"), Some("PersistentVolumeClaim"))
            );
            assert!(bound_volume(&bound, &claim()).is_none(), "once is enough");
        };
        check(json!({}), true);
        check(json!({"claimRef": {"name": "c", "namespace": "n"}}), false);
    }

    #[test]
    fn a_claim_that_named_its_volume_is_not_marked_as_bound_by_the_controller() {
        let volume: PersistentVolume = serde_json::from_value(json!({"metadata": {"name": "v"}})).unwrap();
        let bound = bound_claim(&claim(), &volume).unwrap();
        assert_eq!(claim_volume(&bound), "v");
        assert!(bound.annotation(BOUND_BY_CONTROLLER).is_some() && bound_claim(&bound, &volume).is_none());
        let mut named = claim();
        named.spec.get_or_insert_default().volume_name = Some("v".to_owned());
        let bound = bound_claim(&named, &volume).unwrap();
        assert!(bound.annotation(BOUND_BY_CONTROLLER).is_none() && !is_unbound(&bound));
    }
}
