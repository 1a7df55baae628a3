//! Which volume fits a claim (component-helpers `storage/volume/pv_helpers.go`, `persistentvolume/index.go`).

use std::sync::Arc;

use api::quantity::Quantity;
use client::Resource;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;

use super::{claim_ref, refers_to};
use crate::selector::Selector;

const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";
const DEFAULT_CLASS: [&str; 2] =
    ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];

/// The claim's class, empty if it has none (`GetPersistentVolumeClaimClass`).
pub(super) fn claim_class(claim: &PersistentVolumeClaim) -> &str {
    claim
        .annotation(CLASS_ANNOTATION)
        .or_else(|| claim.spec.as_ref()?.storage_class_name.as_deref())
        .unwrap_or_default()
}

/// Whether a class is named at all, if only the empty one.
pub(super) fn has_class(claim: &PersistentVolumeClaim) -> bool {
    claim.annotation(CLASS_ANNOTATION).is_some() || claim.spec.as_ref().is_some_and(|s| s.storage_class_name.is_some())
}

pub(super) fn volume_class(volume: &PersistentVolume) -> &str {
    volume
        .annotation(CLASS_ANNOTATION)
        .or_else(|| volume.spec.as_ref()?.storage_class_name.as_deref())
        .unwrap_or_default()
}

/// The newest of the default classes (`GetDefaultClass`).
pub(super) fn default_class(classes: &[Arc<StorageClass>]) -> Option<&Arc<StorageClass>> {
    let is_default = |class: &&Arc<StorageClass>| DEFAULT_CLASS.iter().any(|a| class.annotation(a) == Some("true"));
    classes.iter().filter(is_default).min_by(|a, b| {
        let created = |c: &StorageClass| c.metadata.creation_timestamp.as_ref().map(|t| t.0);
        created(b).cmp(&created(a)).then_with(|| a.name().cmp(b.name()))
    })
}

/// Reserved for the claim, or bound to it (`IsVolumeBoundToClaim`).
pub(super) fn is_bound_to(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    claim_ref(volume).is_some_and(|reference| {
        let uid = reference.uid.as_deref().unwrap_or_default();
        refers_to(reference, claim) && (uid.is_empty() || uid == claim.uid())
    })
}

fn requested(claim: &PersistentVolumeClaim) -> Quantity {
    let requests = claim.spec.as_ref().and_then(|s| s.resources.as_ref()).and_then(|r| r.requests.as_ref());
    requests.and_then(|r| r.get("storage")).and_then(|q| Quantity::parse(&q.0).ok()).unwrap_or_default()
}

fn capacity(volume: &PersistentVolume) -> Quantity {
    let capacity = volume.spec.as_ref().and_then(|s| s.capacity.as_ref());
    capacity.and_then(|c| c.get("storage")).and_then(|q| Quantity::parse(&q.0).ok()).unwrap_or_default()
}

/// `CheckVolumeModeMismatches`, negated.
pub(super) fn same_mode(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let mode = |mode: Option<&String>| mode.map_or("Filesystem", String::as_str).to_owned();
    mode(claim.spec.as_ref().and_then(|s| s.volume_mode.as_ref()))
        == mode(volume.spec.as_ref().and_then(|s| s.volume_mode.as_ref()))
}

fn same_attributes(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let wanted = claim.spec.as_ref().and_then(|s| s.volume_attributes_class_name.as_deref()).unwrap_or_default();
    let has = volume.spec.as_ref().and_then(|s| s.volume_attributes_class_name.as_deref()).unwrap_or_default();
    wanted == has
}

fn modes(volume: &PersistentVolume) -> &[String] {
    volume.spec.as_ref().and_then(|s| s.access_modes.as_deref()).unwrap_or_default()
}

/// Whether the volume can be accessed in all ways that the claim asks for.
fn has_modes(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let wanted = claim.spec.as_ref().and_then(|s| s.access_modes.as_deref()).unwrap_or_default();
    wanted.iter().all(|mode| modes(volume).contains(mode))
}

/// Why a volume that the user named does not do (`checkVolumeSatisfyClaim`).
pub(super) fn check(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Result<(), String> {
    let problem = if volume.is_deleting() {
        return Err(format!("the volume is marked for deletion {:?}", volume.name()));
    } else if capacity(volume).value() < requested(claim).value() {
        "requested PV is too small"
    } else if volume_class(volume) != claim_class(claim) {
        "storageClassName does not match"
    } else if !same_attributes(volume, claim) {
        "volumeAttributesClassName does not match"
    } else if !same_mode(volume, claim) {
        "incompatible volumeMode"
    } else if !has_modes(volume, claim) {
        "incompatible accessMode"
    } else {
        return Ok(());
    };
    Err(problem.to_owned())
}

/// The volume that is reserved for the claim, or else the smallest that fits among those with the fewest access modes
/// (`findByClaim`, `FindMatchingVolume`). With `delay` only a reserved one: the rest is the scheduler's choice.
pub(super) fn find<'v>(
    volumes: &'v [Arc<PersistentVolume>],
    claim: &PersistentVolumeClaim,
    delay: bool,
) -> Option<&'v Arc<PersistentVolume>> {
    let wanted = requested(claim);
    let selector = match claim.spec.as_ref().and_then(|s| s.selector.as_ref()) {
        Some(selector) => Some(Selector::new(selector)?),
        None => None,
    };
    let eligible = |volume: &&Arc<PersistentVolume>| {
        (claim_ref(volume).is_none() || is_bound_to(volume, claim))
            && has_modes(volume, claim)
            && capacity(volume) >= wanted
            && same_mode(volume, claim)
            && same_attributes(volume, claim)
            && !volume.is_deleting()
    };
    let mut fitting: Vec<_> = volumes.iter().filter(eligible).collect();
    fitting.sort_by(|a, b| {
        let order = modes(a).len().cmp(&modes(b).len());
        order.then_with(|| capacity(a).cmp(&capacity(b))).then_with(|| a.name().cmp(b.name()))
    });
    if let Some(reserved) = fitting.iter().find(|volume| is_bound_to(volume, claim)) {
        return Some(reserved);
    }
    fitting.into_iter().filter(|_| !delay).find(|volume| {
        volume.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Available")
            && selector.as_ref().is_none_or(|s| s.matches(volume.metadata.labels.as_ref()))
            && volume_class(volume) == claim_class(claim)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn volume(name: &str, size: &str, modes: &[&str], more: &Value) -> Arc<PersistentVolume> {
        let mut spec = json!({"capacity": {"storage": size}, "accessModes": modes});
        for (key, value) in more.as_object().into_iter().flatten() {
            spec[key] = value.clone();
        }
        let object = json!({"metadata": {"name": name, "labels": {"disk": name}}, "spec": spec,
            "status": {"phase": "Available"}});
        Arc::new(serde_json::from_value(object).unwrap())
    }

    fn claim(more: &Value) -> PersistentVolumeClaim {
        let mut spec = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
        for (key, value) in more.as_object().into_iter().flatten() {
            spec[key] = value.clone();
        }
        serde_json::from_value(json!({"metadata": {"name": "c", "namespace": "n", "uid": "u"}, "spec": spec})).unwrap()
    }

    #[test]
    fn the_smallest_volume_that_fits_is_found() {
        let (once, both) = (&["ReadWriteOnce"][..], &["ReadWriteOnce", "ReadOnlyMany"][..]);
        let volumes = [
            volume("small", "1Mi", once, &json!({})),
            volume("many", "1Gi", both, &json!({})),
            volume("big", "5Gi", once, &json!({})),
            volume("fit", "2Gi", once, &json!({})),
            volume("block", "1Gi", once, &json!({"volumeMode": "Block"})),
            volume("class", "1Gi", once, &json!({"storageClassName": "fast"})),
            volume("taken", "1Gi", once, &json!({"claimRef": {"name": "other", "namespace": "n"}})),
            volume("reserved", "9Gi", once, &json!({"claimRef": {"name": "mine", "namespace": "n"}})),
        ];
        let check = |more: Value, name: &str, delay: bool, expected: Option<&str>| {
            let mut claim = claim(&more);
            claim.metadata.name = Some(name.to_owned());
            assert_eq!(find(&volumes, &claim, delay).map(|v| v.name()), expected, "{more} {name} {delay}");
        };
        check(json!({}), "c", false, Some("fit"));
        check(json!({}), "c", true, None);
        check(json!({}), "mine", true, Some("reserved"));
        check(json!({"volumeMode": "Block"}), "c", false, Some("block"));
        check(json!({"storageClassName": "fast"}), "c", false, Some("class"));
        check(json!({"accessModes": ["ReadOnlyMany"]}), "c", false, Some("many"));
        check(json!({"selector": {"matchLabels": {"disk": "big"}}}), "c", false, Some("big"));
        check(json!({"resources": {"requests": {"storage": "6Gi"}}}), "c", false, None);
        check(json!({"volumeAttributesClassName": "gold"}), "c", false, None);
    }

    #[test]
    fn a_named_volume_is_refused_with_upstreams_words() {
        let check = |more: Value, expected: Result<(), &str>| {
            let volume = volume("v", "1Gi", &["ReadWriteOnce"], &json!({}));
            assert_eq!(super::check(&volume, &claim(&more)), expected.map_err(str::to_owned), "{more}");
        };
        check(json!({}), Ok(()));
        check(json!({"resources": {"requests": {"storage": "2Gi"}}}), Err("requested PV is too small"));
        check(json!({"storageClassName": "x"}), Err("storageClassName does not match"));
        check(json!({"volumeMode": "Block"}), Err("incompatible volumeMode"));
        check(json!({"accessModes": ["ReadWriteMany"]}), Err("incompatible accessMode"));
    }

    #[test]
    fn the_newest_default_class_counts() {
        let class = |name: &str, created: &str, default: &str| -> Arc<StorageClass> {
            let metadata = json!({"name": name, "creationTimestamp": created,
                "annotations": {"storageclass.kubernetes.io/is-default-class": default}});
            Arc::new(serde_json::from_value(json!({"metadata": metadata, "provisioner": "p"})).unwrap())
        };
        let classes = [
            class("old", "2026-01-01T00:00:00Z", "true"),
            class("new", "2026-02-01T00:00:00Z", "true"),
            class("newer", "2026-03-01T00:00:00Z", "false"),
        ];
        assert_eq!(default_class(&classes).map(|c| c.name()), Some("new"));
    }
}
