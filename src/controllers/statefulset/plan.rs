//! Which pods there should be, and which go next (`stateful_set_control.go`, `stateful_set_utils.go`). Pure.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use client::{Resource, owner_ref};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet, StatefulSetStatus};
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, PodTemplateSpec, Volume,
};

use crate::history::{REVISION_HASH, template_of};
use crate::{intstr, pods};

const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
const POD_INDEX: &str = "apps.kubernetes.io/pod-index";

/// Pods that are made in one pass at most. The next pass, which the first of them cause, makes more: a set may ask for
/// two billion.
const MISSING_MAX: usize = 500;

/// The two revisions that pods may be of.
pub(super) struct Versions {
    current: String,
    update: String,
    current_template: PodTemplateSpec,
    update_template: PodTemplateSpec,
}

impl Versions {
    pub(super) fn new(set: &StatefulSet, current: &ControllerRevision, update: &ControllerRevision) -> Self {
        Self {
            current: current.name().to_owned(),
            update: update.name().to_owned(),
            current_template: template_of(current).unwrap_or_else(|| set.spec.template.clone()),
            update_template: set.spec.template.clone(),
        }
    }
}

/// A pod that should be there; if it is not, how it will be made.
#[derive(Clone)]
pub(super) struct Slot {
    pub pod: Arc<Pod>,
    pub exists: bool,
}

pub(super) fn min_ready_seconds(set: &StatefulSet) -> i32 {
    set.spec.min_ready_seconds.unwrap_or(0)
}

pub(super) fn replicas(set: &StatefulSet) -> i32 {
    set.spec.replicas.unwrap_or(1)
}

fn start(set: &StatefulSet) -> i32 {
    set.spec.ordinals.as_ref().and_then(|o| o.start).unwrap_or(0)
}

/// The set's name and the number in a pod's name.
fn parent_and_ordinal(name: &str) -> Option<(&str, i32)> {
    let (parent, digits) = name.rsplit_once('-')?;
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some((parent, digits.parse().ok()?))
}

pub(super) fn ordinal(pod: &Pod) -> Option<i32> {
    parent_and_ordinal(pod.name()).map(|(_, ordinal)| ordinal)
}

pub(super) fn is_member(set: &StatefulSet, pod: &Pod) -> bool {
    parent_and_ordinal(pod.name()).is_some_and(|(parent, _)| parent == set.name())
}

pub(super) fn in_range(set: &StatefulSet, pod: &Pod) -> bool {
    ordinal(pod).is_some_and(|o| o >= start(set) && o < start(set).saturating_add(replicas(set)))
}

/// The pods there should be, in order, and those there should not be, the last first. Of those that are missing only the
/// first are listed; [`unlisted`] counts the others.
pub(super) fn split(set: &StatefulSet, versions: &Versions, pods: &[Arc<Pod>]) -> (Vec<Slot>, Vec<Arc<Pod>>) {
    let mut wanted: BTreeMap<i32, Slot> = BTreeMap::new();
    for pod in pods.iter().filter(|p| is_member(set, p) && in_range(set, p)) {
        let Some(ordinal) = ordinal(pod) else { continue };
        wanted.entry(ordinal).or_insert_with(|| Slot { pod: Arc::clone(pod), exists: true });
    }
    let range = start(set)..start(set).saturating_add(replicas(set));
    let missing: Vec<i32> = range.filter(|ordinal| !wanted.contains_key(ordinal)).take(MISSING_MAX).collect();
    for ordinal in missing {
        let pod = Arc::new(versioned_pod(set, versions, ordinal));
        wanted.insert(ordinal, Slot { pod, exists: false });
    }
    let wanted = wanted.into_values().collect();
    let mut condemned: Vec<Arc<Pod>> =
        pods.iter().filter(|p| ordinal(p).is_some() && !in_range(set, p)).cloned().collect();
    condemned.sort_by_key(|pod| std::cmp::Reverse(ordinal(pod)));
    (wanted, condemned)
}

/// Pods that are missing beyond those that [`split`] lists.
fn unlisted(set: &StatefulSet, slots: &[Slot]) -> usize {
    usize::try_from(replicas(set)).unwrap_or(0).saturating_sub(slots.len())
}

/// `newVersionedStatefulSetPod`.
fn versioned_pod(set: &StatefulSet, versions: &Versions, ordinal: i32) -> Pod {
    let strategy = set.spec.update_strategy.as_ref();
    let rolling = strategy.and_then(|s| s.rolling_update.as_ref());
    let is_rolling = strategy.and_then(|s| s.type_.as_deref()).unwrap_or("RollingUpdate") == "RollingUpdate";
    let current_replicas = set.status.as_ref().and_then(|s| s.current_replicas).unwrap_or(0);
    let old = match rolling {
        None => is_rolling && ordinal < start(set).saturating_add(current_replicas),
        Some(rolling) => ordinal < start(set).saturating_add(rolling.partition.unwrap_or(0)),
    };
    let (template, revision) = if old {
        (&versions.current_template, &versions.current)
    } else {
        (&versions.update_template, &versions.update)
    };
    let mut pod = pods::from_template(template, set.namespace(), set.name(), owner_ref(set));
    pod.metadata.generate_name = None;
    pod.metadata.name = Some(format!("{}-{ordinal}", set.name()));
    pod.metadata.labels.get_or_insert_default().insert(REVISION_HASH.to_owned(), revision.clone());
    let mut pod = with_identity(set, &pod);
    let name = pod.metadata.name.clone();
    if let Some(spec) = &mut pod.spec {
        spec.hostname = name;
        spec.subdomain = set.spec.service_name.clone().filter(|s| !s.is_empty());
    }
    pod
}

/// The claims of a pod: the volume's name and the claim.
pub(super) fn claims(set: &StatefulSet, pod: &Pod) -> Vec<(String, PersistentVolumeClaim)> {
    let Some(ordinal) = ordinal(pod) else { return Vec::new() };
    set.spec
        .volume_claim_templates
        .iter()
        .flatten()
        .map(|template| {
            let volume = template.name().to_owned();
            let mut claim = template.clone();
            claim.metadata.name = Some(format!("{volume}-{}-{ordinal}", set.name()));
            claim.metadata.namespace = set.metadata.namespace.clone();
            claim.status = None;
            let labels = claim.metadata.labels.get_or_insert_default();
            labels.extend(set.spec.selector.match_labels.clone().unwrap_or_default());
            (volume, claim)
        })
        .collect()
}

/// The pod with its labels and volumes as the set wants them (`updateIdentity`, `updateStorage`).
pub(super) fn with_identity(set: &StatefulSet, pod: &Pod) -> Pod {
    let mut updated = pod.clone();
    let labels = updated.metadata.labels.get_or_insert_default();
    labels.insert(POD_NAME.to_owned(), pod.name().to_owned());
    if let Some(ordinal) = ordinal(pod) {
        labels.insert(POD_INDEX.to_owned(), ordinal.to_string());
    }
    let claims = claims(set, pod);
    if let Some(spec) = &mut updated.spec
        && !claims.is_empty()
    {
        let old = spec.volumes.take().unwrap_or_default();
        let others = old.into_iter().filter(|v| !claims.iter().any(|(name, _)| *name == v.name));
        let volumes = claims.iter().map(|(name, claim)| Volume {
            name: name.clone(),
            persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                claim_name: claim.name().to_owned(),
                read_only: None,
            }),
            ..Default::default()
        });
        spec.volumes = Some(volumes.chain(others).collect());
    }
    updated
}

pub(super) fn identity_matches(set: &StatefulSet, pod: &Pod) -> bool {
    let volumes = pod.spec.as_ref().and_then(|s| s.volumes.as_deref()).unwrap_or_default();
    pod.label(POD_NAME) == Some(pod.name())
        && claims(set, pod).iter().all(|(name, claim)| {
            volumes.iter().any(|v| {
                v.name == *name && v.persistent_volume_claim.as_ref().is_some_and(|c| c.claim_name == claim.name())
            })
        })
}

fn is_available(set: &StatefulSet, pod: &Pod, now: Timestamp) -> bool {
    pods::is_available(pod, min_ready_seconds(set), now)
}

pub(super) fn is_running_and_available(set: &StatefulSet, pod: &Pod, now: Timestamp) -> bool {
    pods::phase(pod) == "Running" && is_available(set, pod, now)
}

fn is_unavailable(set: &StatefulSet, pod: &Pod, now: Timestamp) -> bool {
    !is_available(set, pod, now) || pod.is_deleting()
}

/// Name of the first pod that does not serve, those to be removed coming last.
pub(super) fn first_unavailable(
    set: &StatefulSet,
    replicas: &[Slot],
    condemned: &[Arc<Pod>],
    now: Timestamp,
) -> Option<String> {
    let wanted = replicas.iter().map(|slot| &slot.pod);
    wanted.chain(condemned.iter().rev()).find(|pod| is_unavailable(set, pod, now)).map(|pod| pod.name().to_owned())
}

/// The pods that a rolling update deletes now (`updateStatefulSetAfterInvariantEstablished`).
pub(super) fn to_replace(set: &StatefulSet, versions: &Versions, replicas: &[Slot], now: Timestamp) -> Vec<Arc<Pod>> {
    let strategy = set.spec.update_strategy.as_ref();
    if matches!(strategy.and_then(|s| s.type_.as_deref()), Some("OnDelete" | "Recreate")) {
        return Vec::new();
    }
    let rolling = strategy.and_then(|s| s.rolling_update.as_ref());
    let partition = start(set).saturating_add(rolling.and_then(|r| r.partition).unwrap_or(0));
    let total = self::replicas(set);
    let max_unavailable = rolling
        .and_then(|r| r.max_unavailable.as_ref())
        .and_then(|m| intstr::scaled(m, total, true))
        .map_or(1, |n| usize::try_from(n).unwrap_or(0).max(1));
    let parallel = set.spec.pod_management_policy.as_deref() == Some("Parallel");
    let is_old = |slot: &Slot| slot.pod.label(REVISION_HASH) != Some(versions.update.as_str());
    let unavailable = |slot: &Slot| !slot.exists || is_unavailable(set, &slot.pod, now);
    let out = unlisted(set, replicas) + replicas.iter().filter(|slot| unavailable(slot)).count();
    // From the partition on, the last first.
    let beyond = |slot: &&Slot| ordinal(&slot.pod).is_some_and(|ordinal| ordinal >= partition);
    let replaceable = |slot: &&Slot| slot.exists && is_old(slot) && !slot.pod.is_deleting();
    let candidates = || replicas.iter().filter(beyond).rev().filter(replaceable);
    let mut delete: Vec<Arc<Pod>> = Vec::new();
    if parallel {
        // Those that do not serve anyway.
        delete.extend(candidates().filter(|s| unavailable(s)).map(|s| Arc::clone(&s.pod)));
        let budget = max_unavailable.saturating_sub(out);
        delete.extend(candidates().filter(|s| !unavailable(s)).take(budget).map(|s| Arc::clone(&s.pod)));
        return delete;
    }
    if out >= max_unavailable {
        return delete;
    }
    candidates().take(max_unavailable - out).map(|s| Arc::clone(&s.pod)).collect()
}

/// `updateStatus`.
pub(super) fn status(
    set: &StatefulSet,
    versions: &Versions,
    replicas: &[Slot],
    condemned: &[Arc<Pod>],
    now: Timestamp,
) -> StatefulSetStatus {
    let there: Vec<&Arc<Pod>> =
        replicas.iter().filter(|slot| slot.exists).map(|slot| &slot.pod).chain(condemned).collect();
    let count =
        |matches: &dyn Fn(&Pod) -> bool| i32::try_from(there.iter().filter(|p| matches(p)).count()).unwrap_or(i32::MAX);
    let of = |revision: &str| count(&|p: &Pod| !p.is_deleting() && p.label(REVISION_HASH) == Some(revision));
    let ready = |p: &Pod| pods::phase(p) == "Running" && pods::is_ready(p);
    StatefulSetStatus {
        observed_generation: set.metadata.generation,
        replicas: i32::try_from(there.len()).unwrap_or(i32::MAX),
        ready_replicas: Some(count(&ready)),
        available_replicas: Some(count(&|p: &Pod| ready(p) && is_available(set, p, now))),
        current_replicas: Some(of(&versions.current)),
        updated_replicas: Some(of(&versions.update)),
        current_revision: Some(versions.current.clone()),
        update_revision: Some(versions.update.clone()),
        collision_count: None,
        conditions: set.status.as_ref().and_then(|s| s.conditions.clone()),
    }
}

/// When every pod is of the update revision and ready, that becomes the current one (`completeUpdate`).
pub(super) fn complete_update(set: &StatefulSet, status: &mut StatefulSetStatus) {
    let strategy = set.spec.update_strategy.as_ref().and_then(|s| s.type_.as_deref());
    if matches!(strategy, None | Some("RollingUpdate"))
        && status.updated_replicas == Some(status.replicas)
        && status.ready_replicas == Some(status.replicas)
    {
        status.current_replicas = status.updated_replicas;
        status.current_revision.clone_from(&status.update_revision);
    }
}

pub(super) fn differs(before: Option<&StatefulSetStatus>, now: &StatefulSetStatus) -> bool {
    let Some(before) = before else { return true };
    let number = |n: Option<i32>| n.unwrap_or(0);
    before.observed_generation != now.observed_generation
        || before.replicas != now.replicas
        || number(before.ready_replicas) != number(now.ready_replicas)
        || number(before.available_replicas) != number(now.available_replicas)
        || number(before.current_replicas) != number(now.current_replicas)
        || number(before.updated_replicas) != number(now.updated_replicas)
        || number(before.collision_count) != number(now.collision_count)
        || before.current_revision != now.current_revision
        || before.update_revision != now.update_revision
}

/// When the next pod becomes available.
pub(super) fn next_check(set: &StatefulSet, pods: &[Arc<Pod>], now: Timestamp) -> Option<Duration> {
    if min_ready_seconds(set) == 0 {
        return None;
    }
    let left = pods::next_availability(pods, min_ready_seconds(set), now)?;
    Duration::try_from(left).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn set(extra: serde_json::Value) -> StatefulSet {
        let mut spec = json!({
            "replicas": 3, "serviceName": "svc", "selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": []}},
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {}}],
        });
        for (key, value) in extra.as_object().unwrap() {
            spec[key] = value.clone();
        }
        serde_json::from_value(json!({"metadata": {"name": "web", "namespace": "n", "uid": "u"}, "spec": spec}))
            .unwrap()
    }

    fn versions(set: &StatefulSet) -> Versions {
        let revision = |name: &str| ControllerRevision {
            metadata: k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
                name: Some(name.into()),
                ..Default::default()
            },
            ..Default::default()
        };
        Versions::new(set, &revision("old"), &revision("new"))
    }

    fn pod(name: &str, revision: &str, ready: bool) -> Arc<Pod> {
        Arc::new(
            serde_json::from_value(json!({
                "metadata": {"name": name, "namespace": "n", "labels": {"controller-revision-hash": revision}},
                "spec": {"containers": []},
                "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]},
            }))
            .unwrap(),
        )
    }

    #[test]
    fn pods_have_names_claims_and_order() {
        let set = set(json!({"ordinals": {"start": 5}}));
        let (wanted, condemned) = split(
            &set,
            &versions(&set),
            &[pod("web-6", "new", true), pod("web-2", "old", true), pod("web-9", "old", true)],
        );
        let names: Vec<_> = wanted.iter().map(|s| (s.pod.name().to_owned(), s.exists)).collect();
        assert_eq!(names, [("web-5".into(), false), ("web-6".into(), true), ("web-7".into(), false)]);
        assert_eq!(condemned.iter().map(|p| p.name()).collect::<Vec<_>>(), ["web-9", "web-2"]);
        let made = &wanted[0].pod;
        assert!(identity_matches(&set, made));
        assert_eq!(claims(&set, made)[0].1.name(), "data-web-5");
        let spec = made.spec.as_ref().unwrap();
        assert_eq!((spec.hostname.as_deref(), spec.subdomain.as_deref()), (Some("web-5"), Some("svc")));
    }

    #[test]
    fn a_huge_number_of_replicas_is_made_in_parts() {
        let set = set(json!({"replicas": i32::MAX, "podManagementPolicy": "Parallel"}));
        let there: Vec<_> = ["web-1", "web-3", "web-700"].iter().map(|name| pod(name, "old", true)).collect();
        let (slots, condemned) = split(&set, &versions(&set), &there);
        assert_eq!((slots.len(), condemned.len()), (MISSING_MAX + 3, 0));
        let names: Vec<_> = slots.iter().map(|s| s.pod.name()).collect();
        assert_eq!(names[..4], ["web-0", "web-1", "web-2", "web-3"]);
        assert_eq!(names[MISSING_MAX + 1..], ["web-501", "web-700"]);
        assert_eq!(slots.len() + unlisted(&set, &slots), i32::MAX as usize);
        let replaced = to_replace(&set, &versions(&set), &slots, Timestamp::UNIX_EPOCH);
        assert!(replaced.is_empty(), "so many are missing that none that serves is taken away");
    }

    #[test]
    fn an_update_goes_from_the_last_to_the_partition_one_at_a_time() {
        let check = |extra: serde_json::Value, pods: [Arc<Pod>; 3], expected: &[&str]| {
            let set = set(extra);
            let (slots, _) = split(&set, &versions(&set), &pods);
            let names: Vec<_> = to_replace(&set, &versions(&set), &slots, Timestamp::UNIX_EPOCH)
                .iter()
                .map(|p| p.name().to_owned())
                .collect();
            assert_eq!(names, expected);
        };
        let all_old = || [pod("web-0", "old", true), pod("web-1", "old", true), pod("web-2", "old", true)];
        check(json!({}), all_old(), &["web-2"]);
        check(json!({}), [pod("web-0", "old", true), pod("web-1", "old", true), pod("web-2", "new", false)], &[]);
        check(json!({}), [pod("web-0", "old", true), pod("web-1", "old", true), pod("web-2", "new", true)], &["web-1"]);
        check(json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 3}}}), all_old(), &[]);
        check(json!({"updateStrategy": {"type": "OnDelete"}}), all_old(), &[]);
        check(
            json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 2}}}),
            all_old(),
            &["web-2", "web-1"],
        );
    }
}
