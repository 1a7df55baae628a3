//! What follows a decision: binding, eviction of victims, and telling the pod's owner.

use std::collections::BTreeSet;
use std::sync::Arc;

use client::k8s_openapi::api::core::v1::{Pod, PodCondition};
use client::{DeleteParams, EventType, Patch, Resource};
use serde_json::{Value, json};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::{Scheduler, key};
use crate::SCHEDULER_NAME;
use crate::cycle::Nomination;
use crate::framework::{Change, ClusterEvent};
use crate::plugins::volume_binding::{self, Plan};
use crate::pod_info::{PodInfo, nominated_node};

/// The longest note that an event takes (`validation.NoteLengthLimit`).
const NOTE_LENGTH_MAX: usize = 1024;

impl Scheduler {
    /// Binds the pod's volumes, then the pod (`bindingCycle`).
    pub(super) async fn bind(&self, info: &Arc<PodInfo>, node: &str, plan: Option<Plan>, permit: OwnedSemaphorePermit) {
        let (namespace, name) = key(&info.pod);
        let mut permit = Some(permit);
        if let Some(plan) = &plan {
            // Volumes take their time: others may write meanwhile. Until then the nomination says where the pod goes.
            self.write_status(&info.pod, json!({"nominatedNodeName": node})).await;
            drop(permit.take());
            let changes = self.volumes_changed.subscribe();
            let bound = tokio::select! {
                biased;
                () = self.shutdown.cancelled() => return,
                bound = volume_binding::bind(&self.client, &self.listers, &info.pod, plan, changes) => bound,
            };
            if let Err(error) = bound {
                let message = format!("running PreBind plugin \"VolumeBinding\": {}", base::chain(&error));
                return self.unbind(info, &message).await;
            }
            permit = self.writes.clone().acquire_owned().await.ok();
        }
        let body = json!({
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": name, "namespace": namespace, "uid": info.pod.uid()},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        });
        match self.client.create_subresource::<Pod>(namespace, name, "binding", &body).await {
            Ok(_) => {
                self.state.lock().queue.remove(&info.uid);
                let message = format!("Successfully assigned {namespace}/{name} to {node}");
                self.recorder.event(&*info.pod, EventType::Normal, "Scheduled", &message);
            }
            Err(error) => {
                if let Some(plan) = &plan {
                    plan.revert(&self.listers);
                }
                let message = format!("running Bind plugin \"DefaultBinder\": {}", base::chain(&error));
                self.unbind(info, &message).await;
            }
        }
        drop(permit);
    }

    /// Takes an assumption back and tries the pod again later (`handleBindingCycleError`).
    async fn unbind(&self, info: &Arc<PodInfo>, message: &str) {
        let (namespace, name) = key(&info.pod);
        let seen = self.listers.pods.get(namespace, name).filter(|seen| seen.uid() == info.pod.uid());
        {
            let mut state = self.state.lock();
            let now = Instant::now();
            state.cache.forget(&info.uid);
            state.queue.put_back(&info.uid, BTreeSet::new(), now, &self.listers);
            // For the others it is as if a running pod had ended.
            let event = ClusterEvent::AssignedPod(Change::Deleted(info.pod.clone()));
            state.queue.wake(&event, now, &self.listers);
            // The informer may have shown the pod bound (by another scheduler) before it was forgotten here.
            match &seen {
                Some(seen) => state.pod(None, seen, &self.listers),
                None => state.queue.remove(&info.uid),
            }
        }
        self.wake.notify_one();
        if seen.is_some_and(|seen| crate::pod_info::assigned_node(&seen).is_none()) {
            tracing::warn!(namespace, name, error = message, "cannot bind a pod");
            self.report(info, "SchedulerError", message, &Nomination::Clear).await;
        }
    }

    /// Tells the victims to end, then lets the preemptor be tried again (`prepareCandidateAsync`).
    pub(super) async fn evict(&self, preemptor: &Arc<PodInfo>, node: &str, victims: &[Arc<PodInfo>]) {
        let lesser: Vec<Arc<PodInfo>> = {
            let state = self.state.lock();
            state.nominator.on(node).iter().filter(|p| p.priority < preemptor.priority).cloned().collect()
        };
        // What they were promised is taken by the preemptor.
        for other in lesser.iter().filter(|other| other.nominated_node().is_some()) {
            self.write_status(&other.pod, json!({"nominatedNodeName": null})).await;
        }
        let mut failed = false;
        for victim in victims.iter().filter(|victim| !victim.pod.is_deleting()) {
            if let Err(error) = self.evict_one(preemptor, node, &victim.pod).await {
                let (namespace, name) = key(&victim.pod);
                tracing::warn!(namespace, name, node, error = %base::chain(&error), "cannot preempt a pod");
                failed = true;
                break;
            }
        }
        self.state.lock().queue.preempted(&preemptor.uid, failed, Instant::now());
        self.wake.notify_one();
    }

    async fn evict_one(&self, preemptor: &PodInfo, node: &str, victim: &Pod) -> Result<(), client::Error> {
        let (namespace, name) = key(victim);
        let condition = PodCondition {
            type_: "DisruptionTarget".to_owned(),
            status: "True".to_owned(),
            reason: Some("PreemptionByScheduler".to_owned()),
            message: Some(format!("{SCHEDULER_NAME}: preempting to accommodate a higher priority pod")),
            observed_generation: victim.metadata.generation,
            ..PodCondition::default()
        };
        if let Some(condition) = self.changed(victim, &condition) {
            let patch = Patch::Strategic(json!({"status": {"conditions": [condition]}}));
            match self.client.patch_status::<Pod>(namespace, name, &patch).await {
                Err(error) if error.is_not_found() => return Ok(()),
                result => result.map(|_| ())?,
            }
        }
        match self.client.delete::<Pod>(namespace, name, &DeleteParams::uid(victim.uid())).await {
            Err(error) if error.is_not_found() || error.is_conflict() => return Ok(()),
            result => result?,
        }
        let message = format!("Preempted by pod {} on node {node}", preemptor.uid);
        self.recorder.event(victim, EventType::Normal, "Preempted", &message);
        Ok(())
    }

    /// Tells the pod's owner why it waits: an event, and the `PodScheduled` condition when it says something new
    /// (`handleSchedulingFailure`).
    pub(super) async fn report(&self, info: &PodInfo, reason: &str, message: &str, nomination: &Nomination) {
        let (namespace, name) = key(&info.pod);
        let seen = self.listers.pods.get(namespace, name).filter(|seen| seen.uid() == info.pod.uid());
        let Some(pod) = seen.filter(|seen| crate::pod_info::assigned_node(seen).is_none()) else { return };
        self.recorder.event(&*pod, EventType::Warning, "FailedScheduling", &truncated(message));
        let mut status = json!({});
        let condition = PodCondition {
            type_: "PodScheduled".to_owned(),
            status: "False".to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            observed_generation: pod.metadata.generation,
            ..PodCondition::default()
        };
        if let Some(condition) = self.changed(&pod, &condition) {
            status["conditions"] = json!([condition]);
        }
        match (nomination, nominated_node(&pod)) {
            (Nomination::Clear, Some(_)) => status["nominatedNodeName"] = Value::Null,
            (Nomination::Node(node), held) if held != Some(node) => status["nominatedNodeName"] = json!(node),
            _ => {}
        }
        self.write_status(&pod, status).await;
    }

    /// The condition as it is to be written, with the time of its transition; `None` if the pod says so already
    /// (`podutil.UpdatePodCondition`).
    fn changed(&self, pod: &Pod, wanted: &PodCondition) -> Option<Value> {
        let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
        let held = conditions.iter().find(|c| c.type_ == wanted.type_);
        let same = |c: &PodCondition| {
            (&c.status, &c.reason, &c.message, c.observed_generation)
                == (&wanted.status, &wanted.reason, &wanted.message, wanted.observed_generation)
        };
        if held.is_some_and(same) {
            return None;
        }
        let mut condition = json!({
            "type": wanted.type_,
            "status": wanted.status,
            "reason": wanted.reason,
            "message": wanted.message,
            "observedGeneration": wanted.observed_generation,
        });
        if held.is_none_or(|c| c.status != wanted.status) {
            condition["lastTransitionTime"] = format!("{:.0}", self.clock.now()).into();
        }
        Some(condition)
    }

    /// Writes part of a pod's status, if there is any.
    async fn write_status(&self, pod: &Pod, status: Value) {
        if status.as_object().is_none_or(serde_json::Map::is_empty) {
            return;
        }
        let (namespace, name) = key(pod);
        let patch = Patch::Strategic(json!({"metadata": {"uid": pod.uid()}, "status": status}));
        if let Err(error) = self.client.patch_status::<Pod>(namespace, name, &patch).await
            && !error.is_not_found()
            && !error.is_conflict()
        {
            tracing::warn!(namespace, name, error = %base::chain(&error), "cannot write a pod's scheduling status");
        }
    }
}

/// `truncateMessage`.
fn truncated(message: &str) -> String {
    const SUFFIX: &str = " ...";
    if message.len() <= NOTE_LENGTH_MAX {
        return message.to_owned();
    }
    let end = (0..=NOTE_LENGTH_MAX - SUFFIX.len()).rev().find(|at| message.is_char_boundary(*at)).unwrap_or_default();
    format!("{}{SUFFIX}", &message[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_messages_are_cut_for_events() {
        assert_eq!(truncated("short"), "short");
        let cut = truncated(&"x".repeat(2000));
        assert_eq!(cut.len(), NOTE_LENGTH_MAX);
        assert!(cut.ends_with(" ..."));
    }
}
