//! What controllers of pods have in common (`pkg/controller/controller_utils.go`).

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;

use client::{Client, DeleteParams, EventType, Patch, Recorder, Resource};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, PodCondition, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use serde_json::json;

use crate::error::Error;

const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

pub(crate) fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or_default()
}

/// Names of the claims of a pod, those of its ephemeral volumes too.
pub(crate) fn claims(pod: &Pod) -> impl Iterator<Item = String> {
    let volumes = pod.spec.as_ref().and_then(|s| s.volumes.as_deref()).unwrap_or_default();
    volumes.iter().filter_map(|volume| {
        let named = volume.persistent_volume_claim.as_ref().map(|c| c.claim_name.clone());
        named.or_else(|| volume.ephemeral.as_ref().map(|_| format!("{}-{}", pod.name(), volume.name)))
    })
}

/// Succeeded or failed.
pub(crate) fn is_terminal(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

pub(crate) fn is_active(pod: &Pod) -> bool {
    !is_terminal(pod) && !pod.is_deleting()
}

/// Being deleted and not yet finished.
pub(crate) fn is_terminating(pod: &Pod) -> bool {
    !is_terminal(pod) && pod.is_deleting()
}

pub(crate) fn condition<'p>(pod: &'p Pod, kind: &str) -> Option<&'p PodCondition> {
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(|c| c.type_ == kind)
}

pub(crate) fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|c| c.status == "True")
}

/// Ready for at least `min_ready_seconds`.
pub(crate) fn is_available(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> bool {
    let Some(ready) = condition(pod, "Ready").filter(|c| c.status == "True") else { return false };
    if min_ready_seconds == 0 {
        return true;
    }
    let Some(since) = &ready.last_transition_time else { return false };
    now.duration_since(since.0) >= SignedDuration::from_secs(i64::from(min_ready_seconds))
}

/// When the next of the pods becomes available (`FindMinNextPodAvailabilityCheck`).
pub(crate) fn next_availability(pods: &[Arc<Pod>], min_ready_seconds: i32, now: Timestamp) -> Option<SignedDuration> {
    pods.iter()
        .filter_map(|pod| {
            let ready = condition(pod, "Ready").filter(|c| c.status == "True")?;
            let since = ready.last_transition_time.as_ref()?.0;
            let left = SignedDuration::from_secs(i64::from(min_ready_seconds)) - now.duration_since(since);
            (left > SignedDuration::ZERO).then_some(left)
        })
        .min()
}

pub(crate) fn node(pod: &Pod) -> &str {
    pod.node_name().unwrap_or_default()
}

/// A pod of a template (`GetPodFromTemplate`).
pub(crate) fn from_template(template: &PodTemplateSpec, namespace: &str, parent: &str, owner: OwnerReference) -> Pod {
    let metadata = template.metadata.clone().unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            namespace: Some(namespace.to_owned()),
            generate_name: Some(format!("{parent}-")),
            labels: metadata.labels,
            annotations: metadata.annotations,
            finalizers: metadata.finalizers,
            owner_references: Some(vec![owner]),
            ..Default::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

/// Creates a pod and tells the owner's events about it.
pub(crate) async fn create<O: Resource>(
    client: &Client,
    recorder: &Recorder,
    owner: &O,
    pod: &Pod,
) -> Result<Pod, Error> {
    match client.create(pod).await {
        Ok(made) => {
            recorder.event(owner, EventType::Normal, "SuccessfulCreate", &format!("Created pod: {}", made.name()));
            Ok(made)
        }
        Err(error) => {
            if !error.is_namespace_terminating() {
                recorder.event(
                    owner,
                    EventType::Warning,
                    "FailedCreate",
                    &format!("Error creating: {}", base::chain(&error)),
                );
            }
            Err(error.into())
        }
    }
}

/// Deletes a pod and tells the owner's events about it. A pod that is gone already counts as deleted.
pub(crate) async fn delete<O: Resource>(
    client: &Client,
    recorder: &Recorder,
    owner: &O,
    pod: &Pod,
) -> Result<(), Error> {
    match client.delete::<Pod>(pod.namespace(), pod.name(), &DeleteParams::default()).await {
        Ok(()) => {
            recorder.event(owner, EventType::Normal, "SuccessfulDelete", &format!("Deleted pod: {}", pod.name()));
            Ok(())
        }
        Err(error) if error.is_not_found() => Err(error.into()),
        Err(error) => {
            recorder.event(
                owner,
                EventType::Warning,
                "FailedDelete",
                &format!("Error deleting: {}", base::chain(&error)),
            );
            Err(error.into())
        }
    }
}

/// The condition that says why a pod is being deleted by the control plane.
pub(crate) fn disruption_target(pod: &Pod, reason: &str, message: &str, now: Timestamp) -> PodCondition {
    PodCondition {
        type_: "DisruptionTarget".to_owned(),
        status: "True".to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_transition_time: Some(Time(now)),
        observed_generation: pod.metadata.generation,
        ..Default::default()
    }
}

/// Changes the phase and one condition of a pod; nothing if they are so already.
pub(crate) async fn patch_status(
    client: &Client,
    pod: &Pod,
    phase: Option<&str>,
    condition: Option<PodCondition>,
) -> Result<(), client::Error> {
    let same_phase = phase.is_none_or(|phase| self::phase(pod) == phase);
    let same_condition = condition.as_ref().is_none_or(|wanted| {
        self::condition(pod, &wanted.type_)
            .is_some_and(|c| c.status == wanted.status && c.reason == wanted.reason && c.message == wanted.message)
    });
    if same_phase && same_condition {
        return Ok(());
    }
    let mut status = serde_json::Map::new();
    if let Some(phase) = phase {
        status.insert("phase".to_owned(), phase.into());
    }
    if let Some(condition) = condition {
        status.insert("conditions".to_owned(), json!([condition]));
    }
    let patch = Patch::Strategic(json!({"metadata": {"uid": pod.uid()}, "status": status}));
    client.patch_status::<Pod>(pod.namespace(), pod.name(), &patch).await.map(drop)
}

/// Sorts pods so that those to delete come first (`ActivePodsWithRanks.Less`). `related` counts the active pods of the
/// same owner's owner on each node.
pub(crate) fn sort_for_deletion(pods: &mut [Arc<Pod>], related: &HashMap<String, usize>, now: Timestamp) {
    pods.sort_by(|a, b| deletion_order(a, b, related, now));
}

fn deletion_order(a: &Pod, b: &Pod, related: &HashMap<String, usize>, now: Timestamp) -> Ordering {
    let phase_rank = |pod: &Pod| match phase(pod) {
        "Pending" => 0,
        "Unknown" => 1,
        _ => 2,
    };
    let cost = |pod: &Pod| pod.annotation(DELETION_COST).and_then(|c| c.parse::<i32>().ok()).unwrap_or(0);
    let rank = |pod: &Pod| related.get(node(pod)).copied().unwrap_or(0);
    let ready_since =
        |pod: &Pod| condition(pod, "Ready").filter(|c| c.status == "True")?.last_transition_time.as_ref().map(|t| t.0);
    let created = |pod: &Pod| pod.metadata.creation_timestamp.as_ref().map(|t| t.0);
    (!node(a).is_empty())
        .cmp(&!node(b).is_empty())
        .then_with(|| phase_rank(a).cmp(&phase_rank(b)))
        .then_with(|| is_ready(a).cmp(&is_ready(b)))
        .then_with(|| cost(a).cmp(&cost(b)))
        .then_with(|| rank(b).cmp(&rank(a)))
        .then_with(|| {
            if is_ready(a) && is_ready(b) {
                younger_first(ready_since(a), ready_since(b), a, b, now)
            } else {
                Ordering::Equal
            }
        })
        .then_with(|| restarts(b).cmp(&restarts(a)))
        .then_with(|| younger_first(created(a), created(b), a, b, now))
}

/// Ages count by their order of magnitude, so that equally old pods are picked at random (by uid).
fn younger_first(a: Option<Timestamp>, b: Option<Timestamp>, pod_a: &Pod, pod_b: &Pod, now: Timestamp) -> Ordering {
    match (a, b) {
        (a, b) if a == b => Ordering::Equal,
        (None, _) => Ordering::Less,
        (_, None) => Ordering::Greater,
        (Some(a), Some(b)) => {
            let magnitude = |t: Timestamp| {
                let age = now.duration_since(t).as_nanos();
                if age > 0 { i64::from(age.ilog2()) } else { -1 }
            };
            magnitude(a).cmp(&magnitude(b)).then_with(|| pod_a.uid().cmp(pod_b.uid()))
        }
    }
}

fn restarts(pod: &Pod) -> i32 {
    let status = pod.status.as_ref();
    status
        .and_then(|s| s.container_statuses.as_ref())
        .into_iter()
        .flatten()
        .map(|container| container.restart_count)
        .max()
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, node: &str, phase: &str, ready: bool, extra: serde_json::Value) -> Arc<Pod> {
        let mut pod = json!({
            "metadata": {"name": name, "uid": name, "creationTimestamp": "2026-01-01T00:00:00Z", "annotations": extra},
            "spec": {"nodeName": node, "containers": []},
            "status": {"phase": phase, "conditions": [
                {"type": "Ready", "status": if ready { "True" } else { "False" }, "lastTransitionTime": "2026-01-01T00:00:05Z"}]},
        });
        if node.is_empty() {
            pod["spec"].as_object_mut().unwrap().remove("nodeName");
        }
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    #[test]
    fn deletion_prefers_what_serves_least() {
        let now: Timestamp = "2026-01-01T01:00:00Z".parse().unwrap();
        let related = HashMap::from([("crowded".to_owned(), 3), ("n".to_owned(), 1)]);
        let none = json!({});
        let mut pods = vec![
            pod("ready", "n", "Running", true, none.clone()),
            pod("crowded", "crowded", "Running", true, none.clone()),
            pod("cheap", "n", "Running", true, json!({"controller.kubernetes.io/pod-deletion-cost": "-5"})),
            pod("unready", "n", "Running", false, none.clone()),
            pod("pending", "n", "Pending", false, none.clone()),
            pod("unassigned", "", "Pending", false, none),
        ];
        sort_for_deletion(&mut pods, &related, now);
        let names: Vec<_> = pods.iter().map(|p| p.name()).collect();
        assert_eq!(names, ["unassigned", "pending", "unready", "cheap", "crowded", "ready"]);
    }

    #[test]
    fn availability_waits_for_the_minimum() {
        let pod = pod("p", "n", "Running", true, json!({}));
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        assert!(is_available(&pod, 0, at("2026-01-01T00:00:05Z")));
        assert!(!is_available(&pod, 10, at("2026-01-01T00:00:14Z")));
        assert!(is_available(&pod, 10, at("2026-01-01T00:00:15Z")));
        assert_eq!(next_availability(&[pod], 10, at("2026-01-01T00:00:12Z")), Some(SignedDuration::from_secs(3)));
    }
}
