//! What is done about a claim (`pv_controller.go` `syncClaim`).

use api::quantity::Quantity;
use client::{EventType, Resource};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;

use super::{BOUND_BY_CONTROLLER, Binder, SELECTED_NODE, claim_ref, claim_volume, is_unbound, matching, migration};
use crate::error::Error;
use crate::pods;

const PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";
const BETA_PROVISIONER: &str = "volume.beta.kubernetes.io/storage-provisioner";
/// The size that a claim keeps until the file system on its volume has grown.
const PRE_RESIZE_CAPACITY: &str = "volume.alpha.kubernetes.io/pre-resize-capacity";

impl Binder {
    pub(super) async fn sync_claim(&self, mut claim: PersistentVolumeClaim) -> Result<(), Error> {
        if migration::annotate(&mut claim.metadata.annotations, &[PROVISIONER, BETA_PROVISIONER]) {
            claim = self.update_claim(&claim).await?;
        }
        match (is_unbound(&claim), claim_volume(&claim).is_empty()) {
            (true, true) => self.find_volume(claim).await,
            (true, false) => self.take_named(claim).await,
            (false, _) => self.keep_bound(claim).await,
        }
    }

    /// A claim that takes any volume.
    async fn find_volume(&self, mut claim: PersistentVolumeClaim) -> Result<(), Error> {
        let class = self.classes.get("", matching::claim_class(&claim));
        let delay = class.as_ref().is_some_and(|c| c.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"));
        let volumes = self.volumes.list();
        if let Some(volume) = matching::find(&volumes, &claim, delay) {
            return self.bind((**volume).clone(), claim).await;
        }
        if !matching::has_class(&claim)
            && let Some(default) = matching::default_class(&self.classes.list())
        {
            // `assignDefaultStorageClass`: the change queues the claim again.
            claim.spec.get_or_insert_default().storage_class_name = Some(default.name().to_owned());
            return self.update_claim(&claim).await.map(drop);
        }
        if delay && claim.annotation(SELECTED_NODE).is_none() {
            self.waiting_event(&claim);
        } else if !matching::claim_class(&claim).is_empty() {
            return self.provision(claim, class.as_deref()).await;
        } else {
            let message = "no persistent volumes available for this claim and no storage class is set";
            self.context.recorder.event(&claim, EventType::Normal, "FailedBinding", message);
        }
        self.set_claim_status(claim, "Pending", None).await.map(drop)
    }

    /// `emitEventForUnboundDelayBindingClaim`.
    fn waiting_event(&self, claim: &PersistentVolumeClaim) {
        let mut names: Vec<String> = self
            .pods
            .namespace(claim.namespace())
            .iter()
            .filter(|pod| !pods::is_terminal(pod) && pods::node(pod).is_empty())
            .filter(|pod| pods::claims(pod).any(|name| name == claim.name()))
            .map(|pod| pod.name().to_owned())
            .collect();
        names.sort();
        let (reason, message) = match names.as_slice() {
            [] => ("WaitForFirstConsumer", "waiting for first consumer to be created before binding".to_owned()),
            [one] => ("WaitForPodScheduled", format!("waiting for pod {one} to be scheduled")),
            many => ("WaitForPodScheduled", format!("waiting for pods {} to be scheduled", many.join(","))),
        };
        self.context.recorder.event(claim, EventType::Normal, reason, &message);
    }

    /// `provisionClaim`: no plugin is built in, so the class names an external provisioner, which waits for the
    /// annotation.
    async fn provision(&self, claim: PersistentVolumeClaim, class: Option<&StorageClass>) -> Result<(), Error> {
        let failed = |message: &str| {
            self.context.recorder.event(&claim, EventType::Warning, "ProvisioningFailed", message);
        };
        let Some(class) = class else {
            failed(&format!("storageclass.storage.k8s.io {:?} not found", matching::claim_class(&claim)));
            return Ok(());
        };
        let provisioner = migration::driver_of(&class.provisioner).unwrap_or(&class.provisioner);
        if provisioner.starts_with("kubernetes.io/") {
            failed(&format!("no volume plugin matched name: {provisioner}"));
            return Ok(());
        }
        let known = claim.annotation(PROVISIONER) == Some(provisioner);
        let claim = if known {
            claim
        } else {
            let mut changed = claim.clone();
            let annotations = changed.metadata.annotations.get_or_insert_default();
            annotations.insert(BETA_PROVISIONER.to_owned(), provisioner.to_owned());
            annotations.insert(PROVISIONER.to_owned(), provisioner.to_owned());
            migration::annotate(&mut changed.metadata.annotations, &[PROVISIONER, BETA_PROVISIONER]);
            match self.update_claim(&changed).await {
                Ok(changed) => changed,
                Err(error) => {
                    if !error.is_expected() {
                        failed(&format!("Error saving claim: {}", base::chain(&error)));
                    }
                    return Err(error);
                }
            }
        };
        let message = format!(
            "Waiting for a volume to be created either by the external provisioner '{provisioner}' or manually by the \
             system administrator. If volume creation is delayed, please verify that the provisioner is running and \
             correctly registered."
        );
        self.context.recorder.event(&claim, EventType::Normal, "ExternalProvisioning", &message);
        Ok(())
    }

    /// A claim whose user, or an earlier pass, named the volume.
    async fn take_named(&self, claim: PersistentVolumeClaim) -> Result<(), Error> {
        let Some(volume) = self.volumes.get("", claim_volume(&claim)) else {
            return self.set_claim_status(claim, "Pending", None).await.map(drop);
        };
        if let Some(reference) = claim_ref(&volume) {
            if matching::is_bound_to(&volume, &claim) {
                return self.bind((*volume).clone(), claim).await;
            }
            let message = format!("volume {:?} already bound to a different claim.", volume.name());
            self.context.recorder.event(&claim, EventType::Warning, "FailedBinding", &message);
            if claim.annotation(BOUND_BY_CONTROLLER).is_none() {
                return self.set_claim_status(claim, "Pending", None).await.map(drop);
            }
            let holder = format!(
                "{}/{}",
                reference.namespace.as_deref().unwrap_or_default(),
                reference.name.as_deref().unwrap_or_default()
            );
            return Err(Error::Object {
                kind: "PersistentVolumeClaim",
                key: format!("{}/{}", claim.namespace(), claim.name()),
                problem: format!(
                    "invalid binding to volume {:?}: volume already claimed by {holder:?}",
                    claim_volume(&claim)
                ),
            });
        }
        match matching::check(&volume, &claim) {
            Ok(()) => self.bind((*volume).clone(), claim).await,
            Err(problem) => {
                let message = format!("Cannot bind to requested volume {:?}: {problem}", volume.name());
                self.context.recorder.event(&claim, EventType::Warning, "VolumeMismatch", &message);
                self.set_claim_status(claim, "Pending", None).await.map(drop)
            }
        }
    }

    /// `syncBoundClaim`.
    async fn keep_bound(&self, claim: PersistentVolumeClaim) -> Result<(), Error> {
        let volume = self.volumes.get("", claim_volume(&claim));
        let (reason, message) = match volume {
            _ if claim_volume(&claim).is_empty() => {
                ("ClaimLost", "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!")
            }
            None => ("ClaimLost", "Bound claim has lost its PersistentVolume. Data on the volume is lost!"),
            Some(volume) => match claim_ref(&volume) {
                Some(reference) if reference.uid.as_deref() != Some(claim.uid()) => {
                    ("ClaimMisbound", "Two claims are bound to the same volume, this one is bound incorrectly")
                }
                _ => return self.bind((*volume).clone(), claim).await,
            },
        };
        if claim.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Lost") {
            return Ok(());
        }
        let claim = self.set_claim_status(claim, "Lost", None).await?;
        self.context.recorder.event(&claim, EventType::Warning, reason, message);
        Ok(())
    }

    /// `updateClaimStatus`: phase, and what the volume gives.
    pub(super) async fn set_claim_status(
        &self,
        claim: PersistentVolumeClaim,
        phase: &str,
        volume: Option<&PersistentVolume>,
    ) -> Result<PersistentVolumeClaim, Error> {
        let mut changed = claim.clone();
        apply_status(&mut changed, phase, volume)?;
        if changed.status == claim.status {
            return Ok(claim);
        }
        self.put_claim_status(&changed).await
    }
}

fn apply_status(
    claim: &mut PersistentVolumeClaim,
    phase: &str,
    volume: Option<&PersistentVolume>,
) -> Result<(), Error> {
    let status = claim.status.get_or_insert_default();
    let before = status.phase.replace(phase.to_owned()).unwrap_or_default();
    let Some(volume) = volume else {
        status.access_modes = None;
        status.capacity = None;
        status.current_volume_attributes_class_name = None;
        return Ok(());
    };
    let spec = volume.spec.clone().unwrap_or_default();
    status.access_modes = spec.access_modes;
    if before == phase {
        // While it is bound, the size is the resizer's business.
        return Ok(());
    }
    let capacity = spec.capacity.unwrap_or_default();
    let Some(size) = capacity.get("storage") else {
        return Err(Error::Object {
            kind: "PersistentVolume",
            key: volume.name().to_owned(),
            problem: "it has no storage capacity".to_owned(),
        });
    };
    if let Some(before_resize) = volume.annotation(PRE_RESIZE_CAPACITY) {
        let kept = Quantity::parse(before_resize).map_or_else(|_| size.clone(), |_| Text(before_resize.to_owned()));
        status.capacity.get_or_insert_default().insert("storage".to_owned(), kept);
    } else {
        let amount = |text: &Text| Quantity::parse(&text.0).ok();
        let known = status.capacity.as_ref().and_then(|c| c.get("storage")).and_then(amount);
        if known.is_none() || known != amount(size) {
            status.capacity = Some(capacity);
        }
    }
    if before == "Pending" {
        status.current_volume_attributes_class_name = spec.volume_attributes_class_name;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_status_says_what_the_volume_gives_when_the_claim_becomes_bound() {
        let volume: PersistentVolume = serde_json::from_value(json!({"metadata": {"name": "v"}, "spec": {
            "capacity": {"storage": "5Gi"}, "accessModes": ["ReadWriteOnce"], "volumeAttributesClassName": "gold"}}))
        .unwrap();
        let check =
            |status: serde_json::Value, phase: &str, volume: Option<&PersistentVolume>, expected: serde_json::Value| {
                let mut claim: PersistentVolumeClaim = serde_json::from_value(json!({"status": status})).unwrap();
                apply_status(&mut claim, phase, volume).unwrap();
                assert_eq!(serde_json::to_value(claim.status).unwrap(), expected);
            };
        let bound = json!({"phase": "Bound", "capacity": {"storage": "5Gi"}, "accessModes": ["ReadWriteOnce"],
            "currentVolumeAttributesClassName": "gold"});
        check(json!({"phase": "Pending"}), "Bound", Some(&volume), bound.clone());
        check(bound, "Lost", None, json!({"phase": "Lost"}));
        let resized = json!({"phase": "Bound", "capacity": {"storage": "3Gi"}, "accessModes": ["ReadWriteOnce"]});
        check(resized.clone(), "Bound", Some(&volume), resized);
    }
}
