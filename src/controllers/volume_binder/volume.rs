//! What is done about a volume (`pv_controller.go` `syncVolume`).

use api::names::ObjectKey;
use client::{EventType, Resource};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use tracing::info;

use super::{BOUND_BY_CONTROLLER, Binder, PROVISIONED_BY, claim_ref, claim_volume, matching, migration};
use crate::error::Error;

fn phase(volume: &PersistentVolume) -> &str {
    volume.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or_default()
}

fn policy(volume: &PersistentVolume) -> &str {
    let policy = volume.spec.as_ref().and_then(|s| s.persistent_volume_reclaim_policy.as_deref());
    policy.unwrap_or_default()
}

impl Binder {
    pub(super) async fn sync_volume(&self, volume: PersistentVolume) -> Result<(), Error> {
        let volume = self.migrate(volume).await?;
        let Some(reference) = claim_ref(&volume).cloned() else {
            return self.set_phase(volume, "Available", None).await.map(drop);
        };
        let uid = reference.uid.as_deref().unwrap_or_default();
        if uid.is_empty() {
            // Reserved; the claim does the rest.
            return self.set_phase(volume, "Available", None).await.map(drop);
        }
        let namespace = reference.namespace.as_deref().unwrap_or_default();
        let name = reference.name.as_deref().unwrap_or_default();
        let Some(claim) = self.claim_of(&volume, namespace, name, uid).await? else {
            return self.release(volume).await;
        };
        if claim_volume(&claim).is_empty() {
            if !matching::same_mode(&volume, &claim) {
                self.mode_events(&volume, &claim);
                return Ok(());
            }
            self.queue.add(ObjectKey::new(namespace, name));
            return Ok(());
        }
        if claim_volume(&claim) == volume.name() {
            return self.set_phase(volume, "Bound", None).await.map(drop);
        }
        // The claim has another volume.
        if volume.annotation(PROVISIONED_BY).is_some() && policy(&volume) == "Delete" {
            return self.release(volume).await;
        }
        self.unbind(volume).await
    }

    async fn migrate(&self, mut volume: PersistentVolume) -> Result<PersistentVolume, Error> {
        let annotated = migration::annotate(&mut volume.metadata.annotations, &[PROVISIONED_BY]);
        let known = volume.metadata.finalizers.clone().unwrap_or_default();
        let finalizers =
            volume.annotation(PROVISIONED_BY).and_then(|plugin| migration::finalizers(&known, plugin, policy(&volume)));
        if !annotated && finalizers.is_none() {
            return Ok(volume);
        }
        if finalizers.is_some() {
            volume.metadata.finalizers = finalizers;
        }
        self.update_volume(&volume).await
    }

    /// The claim that the volume is bound to. A volume is never released because a cache is behind.
    async fn claim_of(
        &self,
        volume: &PersistentVolume,
        namespace: &str,
        name: &str,
        uid: &str,
    ) -> Result<Option<PersistentVolumeClaim>, Error> {
        let claim = match self.claims.get(namespace, name) {
            Some(claim) if claim.uid() == uid => return Ok(Some((*claim).clone())),
            None if matches!(phase(volume), "Released" | "Failed") => None,
            _ => self.context.client.get_opt::<PersistentVolumeClaim>(namespace, name).await?,
        };
        Ok(claim.filter(|claim| claim.uid() == uid))
    }

    fn mode_events(&self, volume: &PersistentVolume, claim: &PersistentVolumeClaim) {
        let recorder = &self.context.recorder;
        let message = format!(
            "Cannot bind PersistentVolume to requested PersistentVolumeClaim {:?} due to incompatible volumeMode.",
            claim.name()
        );
        recorder.event(volume, EventType::Warning, "VolumeMismatch", &message);
        let message = format!(
            "Cannot bind PersistentVolume {:?} to requested PersistentVolumeClaim due to incompatible volumeMode.",
            volume.name()
        );
        recorder.event(claim, EventType::Warning, "VolumeMismatch", &message);
    }

    async fn release(&self, mut volume: PersistentVolume) -> Result<(), Error> {
        if !matches!(phase(&volume), "Released" | "Failed") {
            info!(volume = volume.name(), policy = policy(&volume), "a volume is released");
            volume = self.set_phase(volume, "Released", None).await?;
        }
        self.reclaim(volume).await
    }

    /// `reclaimVolume`. Upstream's only recyclers and deleters are in-tree plugins, of which none is built in here.
    async fn reclaim(&self, volume: PersistentVolume) -> Result<(), Error> {
        if migration::is_migrated(volume.metadata.annotations.as_ref()) {
            return Ok(());
        }
        let (reason, message) = match policy(&volume) {
            "Retain" => return Ok(()),
            "Recycle" => ("VolumeFailedRecycle", "No recycler plugin found for the volume!".to_owned()),
            "Delete" => match no_deleter(&volume) {
                Some(message) => ("VolumeFailedDelete", message),
                None => return Ok(()),
            },
            _ => ("VolumeUnknownReclaimPolicy", "Volume has unrecognized PersistentVolumeReclaimPolicy".to_owned()),
        };
        if phase(&volume) == "Failed" {
            return Ok(());
        }
        let volume = self.set_phase(volume, "Failed", Some(&message)).await?;
        self.context.recorder.event(&volume, EventType::Warning, reason, &message);
        Ok(())
    }

    /// `unbindVolume`.
    async fn unbind(&self, mut volume: PersistentVolume) -> Result<(), Error> {
        if volume.annotation(BOUND_BY_CONTROLLER).is_some() {
            if let Some(annotations) = &mut volume.metadata.annotations {
                annotations.remove(BOUND_BY_CONTROLLER);
            }
            volume.spec.get_or_insert_default().claim_ref = None;
        } else if let Some(reference) = volume.spec.as_mut().and_then(|s| s.claim_ref.as_mut()) {
            reference.uid = None;
        }
        let volume = self.update_volume(&volume).await?;
        self.set_phase(volume, "Available", None).await.map(drop)
    }
}

/// `findDeletablePlugin`: why the volume cannot be deleted; `None` if that is an external provisioner's task.
fn no_deleter(volume: &PersistentVolume) -> Option<String> {
    if let Some(plugin) = volume.annotation(PROVISIONED_BY).filter(|p| !p.is_empty()) {
        let in_tree = plugin.starts_with("kubernetes.io/");
        return in_tree.then(|| format!("no deletable volume plugin matched name: {plugin}"));
    }
    if volume.spec.as_ref().is_some_and(|s| s.csi.is_some()) {
        return None;
    }
    Some(format!(
        "error getting deleter volume plugin for volume {:?}: no deletable volume plugin matched",
        volume.name()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn only_volumes_of_nobody_cannot_be_deleted() {
        let check = |annotations: Value, spec: Value, expected: Option<&str>| {
            let object = json!({"metadata": {"name": "v", "annotations": annotations}, "spec": spec});
            let volume: PersistentVolume = serde_json::from_value(object).unwrap();
            assert_eq!(no_deleter(&volume).as_deref(), expected);
        };
        let no_plugin = "error getting deleter volume plugin for volume \"v\": no deletable volume plugin matched";
        check(json!({}), json!({"local": {"path": "/x"}}), Some(no_plugin));
        check(json!({}), json!({"csi": {"driver": "d", "volumeHandle": "h"}}), None);
        check(json!({PROVISIONED_BY: "example.com/x"}), json!({}), None);
        let in_tree = "no deletable volume plugin matched name: kubernetes.io/nfs";
        check(json!({PROVISIONED_BY: "kubernetes.io/nfs"}), json!({}), Some(in_tree));
    }
}
