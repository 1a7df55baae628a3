//! The arithmetic of rollouts (`deployment/util/deployment_util.go`). Pure.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use client::Resource;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::hash::equal_ignoring_hash;
use crate::intstr::scaled;

pub(super) const REVISION: &str = "deployment.kubernetes.io/revision";
pub(super) const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
pub(super) const DESIRED_REPLICAS: &str = "deployment.kubernetes.io/desired-replicas";
pub(super) const MAX_REPLICAS: &str = "deployment.kubernetes.io/max-replicas";
pub(super) const ROLLBACK_TO: &str = "deprecated.deployment.rollback.to";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// Characters of the revision history annotation.
const HISTORY_MAX: usize = 2000;

pub(super) fn replicas(deployment: &Deployment) -> i32 {
    deployment.spec.replicas.unwrap_or(1)
}

pub(super) fn set_replicas(set: &ReplicaSet) -> i32 {
    set.spec.replicas.unwrap_or(1)
}

pub(super) fn available(set: &ReplicaSet) -> i32 {
    set.status.as_ref().and_then(|s| s.available_replicas).unwrap_or(0)
}

pub(super) fn is_recreate(deployment: &Deployment) -> bool {
    strategy(deployment) == "Recreate"
}

pub(super) fn strategy(deployment: &Deployment) -> &str {
    deployment.spec.strategy.as_ref().and_then(|s| s.type_.as_deref()).unwrap_or("RollingUpdate")
}

pub(super) fn is_paused(deployment: &Deployment) -> bool {
    deployment.spec.paused.unwrap_or(false)
}

/// Pods above and below the wanted number that a rolling update may have; not both zero.
fn fenceposts(deployment: &Deployment) -> (i32, i32) {
    if strategy(deployment) != "RollingUpdate" {
        return (0, 0);
    }
    let rolling = deployment.spec.strategy.as_ref().and_then(|s| s.rolling_update.as_ref());
    let total = replicas(deployment);
    let zero = IntOrString::Int(0);
    let surge = scaled(rolling.and_then(|r| r.max_surge.as_ref()).unwrap_or(&zero), total, true).unwrap_or(0);
    let unavailable =
        scaled(rolling.and_then(|r| r.max_unavailable.as_ref()).unwrap_or(&zero), total, false).unwrap_or(0);
    if surge == 0 && unavailable == 0 { (0, 1) } else { (surge, unavailable) }
}

pub(super) fn max_surge(deployment: &Deployment) -> i32 {
    fenceposts(deployment).0
}

pub(super) fn max_unavailable(deployment: &Deployment) -> i32 {
    if replicas(deployment) == 0 { 0 } else { fenceposts(deployment).1.min(replicas(deployment)) }
}

/// Sum of the sizes asked of the sets.
pub(super) fn total<'s>(sets: impl IntoIterator<Item = &'s ReplicaSet>) -> i32 {
    sets.into_iter().map(set_replicas).sum()
}

/// The size of the new set that the surge allows (`NewRSNewReplicas`).
pub(super) fn new_set_size(deployment: &Deployment, all_total: i32, new_size: i32) -> i32 {
    if is_recreate(deployment) {
        return replicas(deployment);
    }
    let limit = replicas(deployment) + max_surge(deployment);
    if all_total >= limit {
        return new_size;
    }
    new_size + (limit - all_total).min(replicas(deployment) - new_size)
}

/// Oldest first, then by name (`ReplicaSetsByCreationTimestamp`).
pub(super) fn by_creation(a: &ReplicaSet, b: &ReplicaSet) -> Ordering {
    a.metadata.creation_timestamp.cmp(&b.metadata.creation_timestamp).then_with(|| a.name().cmp(b.name()))
}

/// The set with the deployment's template; the oldest if there are several.
pub(super) fn find_new(deployment: &Deployment, sets: &[ReplicaSet]) -> Option<usize> {
    let template = &deployment.spec.template;
    let mut order: Vec<usize> = (0..sets.len()).collect();
    order.sort_by(|a, b| by_creation(&sets[*a], &sets[*b]));
    order.into_iter().find(|at| sets[*at].spec.template.as_ref().is_some_and(|t| equal_ignoring_hash(t, template)))
}

/// The revision of a set or deployment; `None` if its annotation is no number.
pub(super) fn revision(metadata: &ObjectMeta) -> Option<i64> {
    match metadata.annotations.as_ref().and_then(|a| a.get(REVISION)) {
        None => Some(0),
        Some(text) => text.parse().ok(),
    }
}

pub(super) fn max_revision<'s>(sets: impl IntoIterator<Item = &'s ReplicaSet>) -> i64 {
    sets.into_iter().filter_map(|set| revision(&set.metadata)).max().unwrap_or(0)
}

/// The second highest revision, or 0 (`LastRevision`).
pub(super) fn last_revision<'s>(sets: impl IntoIterator<Item = &'s ReplicaSet>) -> i64 {
    let mut revisions: Vec<i64> = sets.into_iter().filter_map(|set| revision(&set.metadata)).collect();
    revisions.sort_unstable_by(|a, b| b.cmp(a));
    revisions.get(1).copied().unwrap_or(0)
}

/// Annotations that belong to the deployment or to the set alone.
pub(super) fn is_private_annotation(key: &str) -> bool {
    matches!(key, LAST_APPLIED | REVISION | REVISION_HISTORY | DESIRED_REPLICAS | MAX_REPLICAS | ROLLBACK_TO)
}

/// Brings the new set's annotations up to date; true if that changed something (`SetNewReplicaSetAnnotations`).
pub(super) fn annotate_new_set(deployment: &Deployment, set: &mut ReplicaSet, revision: i64, exists: bool) -> bool {
    let annotations = set.metadata.annotations.get_or_insert_default();
    let mut changed = false;
    for (key, value) in deployment.metadata.annotations.iter().flatten() {
        if !is_private_annotation(key) && annotations.get(key) != Some(value) {
            annotations.insert(key.clone(), value.clone());
            changed = true;
        }
    }
    let old = annotations.get(REVISION).cloned();
    let old_number = match old.as_deref().unwrap_or_default() {
        "" => 0,
        text => match text.parse::<i64>() {
            Ok(number) => number,
            Err(_) => return false,
        },
    };
    if old_number < revision {
        annotations.insert(REVISION.to_owned(), revision.to_string());
        changed = true;
        if let Some(old) = old {
            append_history(annotations, &old);
        }
    }
    let limits =
        set_size_annotations(annotations, replicas(deployment), replicas(deployment) + max_surge(deployment), !exists);
    changed || limits
}

fn append_history(annotations: &mut BTreeMap<String, String>, old: &str) {
    let history = annotations.get(REVISION_HISTORY).map(String::as_str).unwrap_or_default();
    let mut revisions: Vec<&str> = history.split(',').filter(|r| !r.is_empty()).collect();
    revisions.push(old);
    let mut joined = revisions.join(",");
    while joined.len() > HISTORY_MAX && revisions.len() > 1 {
        revisions.remove(0);
        joined = revisions.join(",");
    }
    annotations.insert(REVISION_HISTORY.to_owned(), joined);
}

/// Notes the sizes that the deployment had when the set was last scaled; true if they differ. Writes only if told.
pub(super) fn set_size_annotations(
    annotations: &mut BTreeMap<String, String>,
    desired: i32,
    max: i32,
    write: bool,
) -> bool {
    let mut differ = false;
    for (key, value) in [(DESIRED_REPLICAS, desired.to_string()), (MAX_REPLICAS, max.to_string())] {
        if annotations.get(key) != Some(&value) {
            differ = true;
            if write {
                annotations.insert(key.to_owned(), value);
            }
        }
    }
    differ && write
}

pub(super) fn size_annotation(set: &ReplicaSet, key: &str) -> Option<i32> {
    set.annotation(key)?.parse::<i32>().ok().filter(|n| *n >= 0)
}

/// How much of a change in size this set takes (`GetReplicaSetProportion`).
pub(super) fn proportion(set: &ReplicaSet, deployment: &Deployment, to_add: i32, added: i32) -> i32 {
    if set_replicas(set) == 0 || to_add == 0 || to_add == added {
        return 0;
    }
    let fraction = fraction(set, deployment);
    let allowed = to_add - added;
    if to_add > 0 { fraction.min(allowed) } else { fraction.max(allowed) }
}

fn fraction(set: &ReplicaSet, deployment: &Deployment) -> i32 {
    let size = set_replicas(set);
    if replicas(deployment) == 0 {
        return -size;
    }
    let max_now = replicas(deployment) + max_surge(deployment);
    let max_before = match size_annotation(set, MAX_REPLICAS) {
        Some(max) if max != 0 => max,
        _ => deployment.status.as_ref().and_then(|s| s.replicas).unwrap_or(0),
    };
    if max_before == 0 {
        return 0;
    }
    let new_size = f64::from(size) * f64::from(max_now) / f64::from(max_before);
    #[allow(clippy::cast_possible_truncation)] // reason: bounded by the sum of two i32 sizes; `as` saturates
    let rounded = new_size.round() as i32;
    rounded - size
}

/// Whether the new set alone serves the whole deployment (`IsSaturated`).
pub(super) fn is_saturated(deployment: &Deployment, set: &ReplicaSet) -> bool {
    let wanted = replicas(deployment);
    size_annotation(set, DESIRED_REPLICAS) == Some(wanted) && set_replicas(set) == wanted && available(set) == wanted
}

/// A ReplicaSet's name: the deployment's, cut to what a name may have, and the hash.
pub(super) fn set_name(deployment: &str, hash: &str) -> String {
    let max = 253 - 1 - hash.len();
    let mut end = deployment.len().min(max);
    while !deployment.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}-{hash}", &deployment[..end])
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn deployment(replicas: i32, surge: serde_json::Value, unavailable: serde_json::Value) -> Deployment {
        serde_json::from_value(json!({
            "metadata": {"name": "d", "annotations": {"a": "b", "deployment.kubernetes.io/revision": "9"}},
            "spec": {"replicas": replicas, "selector": {}, "template": {},
                "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}}},
        }))
        .unwrap()
    }

    #[test]
    fn surge_and_unavailability_are_never_both_zero() {
        let d = deployment(10, json!("25%"), json!("25%"));
        assert_eq!((max_surge(&d), max_unavailable(&d)), (3, 2));
        let d = deployment(1, json!(0), json!("25%"));
        assert_eq!((max_surge(&d), max_unavailable(&d)), (0, 1));
    }

    #[test]
    fn the_new_set_grows_into_the_surge() {
        let d = deployment(10, json!(3), json!(2));
        assert_eq!(new_set_size(&d, 10, 0), 3);
        assert_eq!(new_set_size(&d, 13, 3), 3);
        assert_eq!(new_set_size(&d, 11, 9), 10);
    }

    #[test]
    fn annotations_are_copied_and_the_revision_history_grows() {
        let d = deployment(2, json!(1), json!(0));
        let mut set = ReplicaSet::default();
        assert!(annotate_new_set(&d, &mut set, 1, false));
        let get = |set: &ReplicaSet, key: &str| set.annotation(key).map(str::to_owned);
        assert_eq!(get(&set, "a").as_deref(), Some("b"));
        assert_eq!(get(&set, REVISION).as_deref(), Some("1"));
        assert_eq!(get(&set, MAX_REPLICAS).as_deref(), Some("3"));
        assert!(!annotate_new_set(&d, &mut set, 1, true));
        assert!(annotate_new_set(&d, &mut set, 4, true));
        assert!(annotate_new_set(&d, &mut set, 6, true));
        assert_eq!(get(&set, REVISION_HISTORY).as_deref(), Some("1,4"));
    }

    #[test]
    fn scaling_is_shared_in_proportion() {
        let d = deployment(15, json!(3), json!(2));
        let set = |size: i32| -> ReplicaSet {
            serde_json::from_value(json!({
                "metadata": {"annotations": {"deployment.kubernetes.io/max-replicas": "13"}},
                "spec": {"replicas": size, "selector": {}},
            }))
            .unwrap()
        };
        // From 10 + 3 to 15 + 3 pods: 5 more, of which the set of 8 takes 3.
        assert_eq!(proportion(&set(8), &d, 5, 0), 3);
        assert_eq!(proportion(&set(5), &d, 5, 3), 2);
        assert_eq!(proportion(&set(0), &d, 5, 0), 0);
    }
}
