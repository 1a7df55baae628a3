//! The volume claims of a set's pods, and who owns them (`stateful_pod_control.go`, claim parts of
//! `stateful_set_utils.go`).

use api::names::ObjectKey;
use client::{EventType, Informer, Resource, owner_ref};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use super::plan;
use crate::error::Error;
use crate::harness::Parts;
use crate::written::Written;

pub(super) struct Claims {
    pub volumes: Informer<PersistentVolumeClaim>,
    pub written: Written,
    pub context: Parts,
}

impl Claims {
    /// Makes the claims of a pod that are missing.
    pub(super) async fn create(&self, key: &ObjectKey, set: &StatefulSet, pod: &Pod) -> Result<(), Error> {
        for (_, claim) in plan::claims(set, pod) {
            match self.volumes.get(&key.namespace, claim.name()) {
                Some(existing) if existing.is_deleting() => {
                    return Err(Error::NotYet("a volume claim of the same name to be gone"));
                }
                Some(_) => {}
                None => self.create_one(key, set, pod, &claim).await?,
            }
        }
        Ok(())
    }

    async fn create_one(
        &self,
        key: &ObjectKey,
        set: &StatefulSet,
        pod: &Pod,
        claim: &PersistentVolumeClaim,
    ) -> Result<(), Error> {
        let what = format!("Claim {} Pod {} in StatefulSet {}", claim.name(), pod.name(), set.name());
        let recorder = &self.context.recorder;
        match self.context.client.create(claim).await {
            Ok(made) => {
                self.written.note(key, &made);
                recorder.event(set, EventType::Normal, "SuccessfulCreate", &format!("Create {what} success"));
                Ok(())
            }
            Err(error) if error.is_already_exists() => Ok(()),
            Err(error) => {
                let message = format!("Create {what} failed error: {}", base::chain(&error));
                recorder.event(set, EventType::Warning, "FailedCreate", &message);
                Err(error.into())
            }
        }
    }

    /// Whether a claim still belongs to an earlier pod of the same name, and goes with it.
    pub(super) fn are_stale(&self, set: &StatefulSet, pod: &Pod) -> bool {
        let (_, scaled) = policy(set);
        scaled
            && plan::claims(set, pod).iter().any(|(_, claim)| {
                let existing = self.volumes.get(set.namespace(), claim.name());
                existing.is_some_and(|c| {
                    c.metadata.owner_references.iter().flatten().any(|o| names_pod(o, pod) && o.uid != pod.uid())
                })
            })
    }

    /// Makes the owners of a pod's claims what the retention policy says.
    pub(super) async fn keep_policy(&self, key: &ObjectKey, set: &StatefulSet, pod: &Pod) -> Result<(), Error> {
        for (_, claim) in plan::claims(set, pod) {
            let Some(existing) = self.volumes.get(&key.namespace, claim.name()) else { continue };
            let Some(owners) = wanted_owners(set, pod, &existing) else { continue };
            let mut updated = (*existing).clone();
            updated.metadata.owner_references = Some(owners);
            self.written.note(key, &self.context.client.update(&updated).await?);
        }
        Ok(())
    }
}

fn names_set(owner: &OwnerReference, set: &StatefulSet) -> bool {
    owner.kind == "StatefulSet" && owner.api_version == "apps/v1" && owner.name == set.name()
}

fn names_pod(owner: &OwnerReference, pod: &Pod) -> bool {
    owner.kind == "Pod" && owner.api_version == "v1" && owner.name == pod.name()
}

/// Whether claims go when the set is deleted, and when it is scaled down.
fn policy(set: &StatefulSet) -> (bool, bool) {
    let policy = set.spec.persistent_volume_claim_retention_policy.as_ref();
    let deletes = |p: Option<&String>| p.is_some_and(|p| p == "Delete");
    (deletes(policy.and_then(|p| p.when_deleted.as_ref())), deletes(policy.and_then(|p| p.when_scaled.as_ref())))
}

/// The owners that a claim should have; `None` if it has them, or is not ours to change.
fn wanted_owners(set: &StatefulSet, pod: &Pod, claim: &PersistentVolumeClaim) -> Option<Vec<OwnerReference>> {
    let owners = claim.metadata.owner_references.clone().unwrap_or_default();
    let stale =
        |o: &OwnerReference| (names_set(o, set) && o.uid != set.uid()) || (names_pod(o, pod) && o.uid != pod.uid());
    if owners.iter().any(stale) {
        return None;
    }
    let (on_delete, on_scale) = policy(set);
    let mut wanted: Vec<OwnerReference> =
        owners.iter().filter(|o| !names_set(o, set) && !names_pod(o, pod)).cloned().collect();
    let foreign_controller = (on_delete || on_scale) && wanted.iter().any(|o| o.controller == Some(true));
    if !foreign_controller {
        let scaled_down = !plan::in_range(set, pod);
        if on_scale && scaled_down {
            wanted.push(owner_ref(pod));
        } else if on_delete {
            wanted.push(owner_ref(set));
        }
    }
    let same = wanted.len() == owners.len()
        && wanted.iter().all(|w| owners.iter().any(|o| o.uid == w.uid && o.controller == w.controller));
    (!same).then_some(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn owners_follow_the_retention_policy() {
        let check = |deleted: &str, scaled: &str, pod: &str, expected: Option<&[&str]>| {
            let set: StatefulSet = serde_json::from_value(json!({
                "metadata": {"name": "web", "uid": "set"},
                "spec": {"replicas": 1, "selector": {}, "template": {},
                    "persistentVolumeClaimRetentionPolicy": {"whenDeleted": deleted, "whenScaled": scaled}},
            }))
            .unwrap();
            let pod: Pod = serde_json::from_value(json!({"metadata": {"name": pod, "uid": "pod"}})).unwrap();
            let owners = wanted_owners(&set, &pod, &PersistentVolumeClaim::default());
            let uids: Option<Vec<String>> = owners.map(|o| o.into_iter().map(|o| o.uid).collect());
            assert_eq!(
                uids.as_deref(),
                expected.map(|e| e.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>()).as_deref()
            );
        };
        check("Retain", "Retain", "web-0", None);
        check("Delete", "Retain", "web-0", Some(&["set"]));
        check("Retain", "Delete", "web-0", None);
        check("Retain", "Delete", "web-1", Some(&["pod"]));
        check("Delete", "Delete", "web-1", Some(&["pod"]));
        check("Delete", "Delete", "web-0", Some(&["set"]));
    }
}
