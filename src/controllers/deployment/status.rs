//! A deployment's status and conditions (`deployment/sync.go` `calculateStatus`, `deployment/progress.go`). Pure.

use std::time::Duration;

use client::Resource;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet, ReplicaSetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::plan;

pub(super) const PROGRESSING: &str = "Progressing";
pub(super) const TIMED_OUT: &str = "ProgressDeadlineExceeded";
const NEW_SET_AVAILABLE: &str = "NewReplicaSetAvailable";
const REPLICA_FAILURE: &str = "ReplicaFailure";

pub(super) fn new_condition(
    kind: &str,
    status: &str,
    reason: &str,
    message: &str,
    now: Timestamp,
) -> DeploymentCondition {
    DeploymentCondition {
        type_: Some(kind.to_owned()),
        status: Some(status.to_owned()),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_update_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    }
}

pub(super) fn condition<'s>(status: &'s DeploymentStatus, kind: &str) -> Option<&'s DeploymentCondition> {
    status.conditions.as_ref()?.iter().find(|c| c.type_.as_deref() == Some(kind))
}

/// Replaces a condition unless its status and reason are the same; keeps the time of transition if its status is.
pub(super) fn set_condition(status: &mut DeploymentStatus, mut condition: DeploymentCondition) {
    let kind = condition.type_.clone().unwrap_or_default();
    if let Some(current) = self::condition(status, &kind)
        && current.status == condition.status
    {
        if current.reason == condition.reason {
            return;
        }
        condition.last_transition_time.clone_from(&current.last_transition_time);
    }
    remove_condition(status, &kind);
    status.conditions.get_or_insert_default().push(condition);
}

pub(super) fn remove_condition(status: &mut DeploymentStatus, kind: &str) {
    if let Some(conditions) = &mut status.conditions {
        conditions.retain(|c| c.type_.as_deref() != Some(kind));
    }
}

/// Seconds; `None` if there is no deadline.
pub(super) fn progress_deadline(deployment: &Deployment) -> Option<i32> {
    deployment.spec.progress_deadline_seconds.filter(|s| *s != i32::MAX)
}

/// What the sets say, and whether enough pods are available.
pub(super) fn compute(
    deployment: &Deployment,
    new: Option<&ReplicaSet>,
    old: &[ReplicaSet],
    now: Timestamp,
) -> DeploymentStatus {
    let all = || new.into_iter().chain(old);
    let sum = |count: fn(&ReplicaSetStatus) -> i32| -> i32 { all().filter_map(|s| s.status.as_ref()).map(count).sum() };
    let available = sum(|s| s.available_replicas.unwrap_or(0));
    let some = |n: i32| Some(n).filter(|n| *n != 0);
    let previous = deployment.status.clone().unwrap_or_default();
    let mut status = DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: some(sum(|s| s.replicas)),
        updated_replicas: some(new.and_then(|s| s.status.as_ref()).map_or(0, |s| s.replicas)),
        ready_replicas: some(sum(|s| s.ready_replicas.unwrap_or(0))),
        available_replicas: some(available),
        unavailable_replicas: some((plan::total(all()) - available).max(0)),
        terminating_replicas: terminating(all()),
        collision_count: previous.collision_count,
        conditions: previous.conditions,
    };
    let enough = available >= plan::replicas(deployment) - plan::max_unavailable(deployment);
    set_condition(
        &mut status,
        if enough {
            new_condition("Available", "True", "MinimumReplicasAvailable", "Deployment has minimum availability.", now)
        } else {
            let message = "Deployment does not have minimum availability.";
            new_condition("Available", "False", "MinimumReplicasUnavailable", message, now)
        },
    );
    status
}

/// `None` as long as one of the sets does not know.
fn terminating<'s>(sets: impl Iterator<Item = &'s ReplicaSet>) -> Option<i32> {
    let mut sum = 0;
    for set in sets {
        let status = set.status.as_ref();
        match status.and_then(|s| s.terminating_replicas) {
            Some(terminating) => sum += terminating,
            None if status.and_then(|s| s.observed_generation).unwrap_or(0) == 0 => {}
            None => return None,
        }
    }
    Some(sum)
}

/// Every pod is new and available, and the newest spec was seen.
pub(super) fn is_complete(deployment: &Deployment, status: &DeploymentStatus) -> bool {
    let wanted = plan::replicas(deployment);
    status.updated_replicas.unwrap_or(0) == wanted
        && status.replicas.unwrap_or(0) == wanted
        && status.available_replicas.unwrap_or(0) == wanted
        && status.observed_generation.unwrap_or(0) >= deployment.metadata.generation.unwrap_or(0)
}

fn is_progressing(deployment: &Deployment, status: &DeploymentStatus) -> bool {
    let default = DeploymentStatus::default();
    let before = deployment.status.as_ref().unwrap_or(&default);
    let old = |s: &DeploymentStatus| s.replicas.unwrap_or(0) - s.updated_replicas.unwrap_or(0);
    status.updated_replicas > before.updated_replicas
        || old(status) < old(before)
        || status.ready_replicas > before.ready_replicas
        || status.available_replicas > before.available_replicas
}

fn is_timed_out(status: &DeploymentStatus, deadline: i32, now: Timestamp) -> bool {
    let Some(condition) = condition(status, PROGRESSING) else { return false };
    match condition.reason.as_deref() {
        Some(NEW_SET_AVAILABLE) => false,
        Some(TIMED_OUT) => true,
        _ => condition
            .last_update_time
            .as_ref()
            .is_some_and(|from| now.duration_since(from.0) > SignedDuration::from_secs(i64::from(deadline))),
    }
}

/// Adds what the rollout has come to (`syncRolloutStatus`).
pub(super) fn add_progress(
    deployment: &Deployment,
    new: Option<&ReplicaSet>,
    old: &[ReplicaSet],
    status: &mut DeploymentStatus,
    now: Timestamp,
) {
    let current = deployment.status.as_ref().and_then(|s| condition(s, PROGRESSING)).cloned();
    let deadline = progress_deadline(deployment);
    if deadline.is_none() {
        remove_condition(status, PROGRESSING);
    }
    let was_complete = status.replicas == status.updated_replicas
        && current.as_ref().is_some_and(|c| c.reason.as_deref() == Some(NEW_SET_AVAILABLE));
    if let Some(deadline) = deadline.filter(|_| !was_complete) {
        let subject = match new {
            Some(set) => format!("ReplicaSet \"{}\"", set.name()),
            None => format!("Deployment \"{}\"", deployment.name()),
        };
        if is_complete(deployment, status) {
            let message = format!("{subject} has successfully progressed.");
            set_condition(status, new_condition(PROGRESSING, "True", NEW_SET_AVAILABLE, &message, now));
        } else if is_progressing(deployment, status) {
            let message = format!("{subject} is progressing.");
            let mut condition = new_condition(PROGRESSING, "True", "ReplicaSetUpdated", &message, now);
            if let Some(current) = current {
                if current.status.as_deref() == Some("True") {
                    condition.last_transition_time = current.last_transition_time;
                }
                // The time of the update must move even if status and reason do not.
                remove_condition(status, PROGRESSING);
            }
            set_condition(status, condition);
        } else if is_timed_out(status, deadline, now) {
            let message = format!("{subject} has timed out progressing.");
            set_condition(status, new_condition(PROGRESSING, "False", TIMED_OUT, &message, now));
        }
    }
    match replica_failure(new, old) {
        Some(failure) => set_condition(status, failure),
        None => remove_condition(status, REPLICA_FAILURE),
    }
}

/// The new set's failure, or else any old set's.
fn replica_failure(new: Option<&ReplicaSet>, old: &[ReplicaSet]) -> Option<DeploymentCondition> {
    new.into_iter().chain(old).find_map(|set| {
        let failure =
            set.status.as_ref()?.conditions.as_ref()?.iter().find(|c| c.type_.as_deref() == Some(REPLICA_FAILURE))?;
        Some(DeploymentCondition {
            type_: failure.type_.clone(),
            status: failure.status.clone(),
            reason: failure.reason.clone(),
            message: failure.message.clone(),
            last_update_time: failure.last_transition_time.clone(),
            last_transition_time: failure.last_transition_time.clone(),
        })
    })
}

/// When to check for the deadline although nothing happens; zero means soon, with back-off (`requeueStuckDeployment`).
pub(super) fn next_check(deployment: &Deployment, status: &DeploymentStatus, now: Timestamp) -> Option<Duration> {
    let deadline = progress_deadline(deployment)?;
    let current = condition(status, PROGRESSING)?;
    if is_complete(deployment, status) || current.reason.as_deref() == Some(TIMED_OUT) {
        return None;
    }
    let since = current.last_update_time.as_ref()?.0;
    let left = SignedDuration::from_secs(i64::from(deadline)) - now.duration_since(since);
    if left < SignedDuration::from_secs(1) {
        return Some(Duration::ZERO);
    }
    Duration::try_from(left + SignedDuration::from_secs(1)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn deployment(status: serde_json::Value) -> Deployment {
        serde_json::from_value(json!({
            "metadata": {"name": "d", "generation": 1},
            "spec": {"replicas": 2, "selector": {}, "template": {}, "progressDeadlineSeconds": 600},
            "status": status,
        }))
        .unwrap()
    }

    fn set(available: i32) -> ReplicaSet {
        serde_json::from_value(json!({
            "metadata": {"name": "d-1"}, "spec": {"replicas": 2, "selector": {}},
            "status": {"replicas": 2, "readyReplicas": available, "availableReplicas": available},
        }))
        .unwrap()
    }

    fn progress(deployment: &Deployment, set: &ReplicaSet, now: i64) -> (String, DeploymentStatus) {
        let mut status = compute(deployment, Some(set), &[], at(now));
        add_progress(deployment, Some(set), &[], &mut status, at(now));
        let reason = condition(&status, PROGRESSING).and_then(|c| c.reason.clone()).unwrap_or_default();
        (reason, status)
    }

    #[test]
    fn a_rollout_progresses_completes_and_stays_complete() {
        let (reason, status) = progress(&deployment(json!({})), &set(1), 0);
        assert_eq!((reason.as_str(), status.unavailable_replicas), ("ReplicaSetUpdated", Some(1)));
        let mut d = deployment(json!({}));
        d.status = Some(status);
        assert_eq!(next_check(&d, d.status.as_ref().unwrap(), at(100)), Some(Duration::from_secs(501)));
        let (reason, status) = progress(&d, &set(2), 5);
        assert_eq!(reason, NEW_SET_AVAILABLE);
        assert_eq!(condition(&status, "Available").unwrap().status.as_deref(), Some("True"));
        d.status = Some(status.clone());
        let (_, again) = progress(&d, &set(2), 900);
        assert_eq!(again, status, "nothing changes, so nothing is written");
    }

    #[test]
    fn a_rollout_that_makes_no_progress_times_out() {
        let (_, status) = progress(&deployment(json!({})), &set(1), 0);
        let mut d = deployment(json!({}));
        d.status = Some(status);
        assert_eq!(progress(&d, &set(1), 600).0, "ReplicaSetUpdated");
        let (reason, status) = progress(&d, &set(1), 601);
        assert_eq!(reason, TIMED_OUT);
        assert_eq!(condition(&status, PROGRESSING).unwrap().status.as_deref(), Some("False"));
    }
}
