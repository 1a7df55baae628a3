//! Status of PodDisruptionBudgets (`pkg/controller/disruption`).

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use api::names::ObjectKey;
use async_trait::async_trait;
use client::{Event, EventType, Informer, Resource, WorkQueue, controller_of};
use http::Method;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, OwnerReference, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::error::Error;
use crate::harness::{Context, Parts, Reconcile, all_synced, key_of, synced};
use crate::selector::Selector;
use crate::{intstr, pods};

/// A pod whose eviction was granted is gone by then, or it was not evicted after all (`DeletionTimeout`).
const DELETION_TIMEOUT: SignedDuration = SignedDuration::from_secs(120);
/// A pod that was to be disrupted and still runs (`stalePodDisruptionTimeout`).
const STALE_TIMEOUT: SignedDuration = SignedDuration::from_secs(120);
/// Keys of pods: this and the namespace. No namespace is called so.
const STALE: &str = "/stale/";

pub(crate) fn start(context: Context) {
    let budgets = context.informers.informer::<PodDisruptionBudget>();
    let pods = context.informers.informer::<Pod>();
    let queue = WorkQueue::new();
    let add_all = context.feed_own(&budgets, &queue);
    context.feed(&pods, &add_all, {
        let (budgets, queue) = (budgets.clone(), queue.clone());
        move |event| on_pod(&budgets, &queue, event)
    });
    let owners = Owners {
        replica_sets: context.informers.informer(),
        stateful_sets: context.informers.informer(),
        controllers: context.informers.informer(),
        deployments: context.informers.informer(),
    };
    let ready = all_synced(vec![
        synced(&budgets),
        synced(&pods),
        synced(&owners.replica_sets),
        synced(&owners.stateful_sets),
        synced(&owners.controllers),
        synced(&owners.deployments),
    ]);
    let reconciler = Arc::new(Reconciler { budgets, pods, owners, queue: queue.clone(), context: context.parts() });
    context.work(reconciler, queue, 1, ready);
}

fn on_pod(budgets: &Informer<PodDisruptionBudget>, queue: &WorkQueue<ObjectKey>, event: &Event<Pod>) {
    let looked_at: Vec<&Arc<Pod>> = match event {
        Event::Added(pod) | Event::Deleted(pod) => vec![pod],
        Event::Updated { old, new } => {
            let same = old.metadata.labels == new.metadata.labels
                && pods::is_ready(old) == pods::is_ready(new)
                && pods::phase(old) == pods::phase(new)
                && old.is_deleting() == new.is_deleting();
            if pods::condition(new, "DisruptionTarget").is_some_and(|c| c.status == "True") {
                queue.add(ObjectKey::new(format!("{STALE}{}", new.namespace()), new.name()));
            }
            if same {
                return;
            }
            vec![old, new]
        }
        Event::Resync => return,
    };
    for budget in budgets.namespace(looked_at[0].namespace()) {
        let Some(selector) = selector(&budget) else { continue };
        if looked_at.iter().any(|pod| selector.matches(pod.metadata.labels.as_ref())) {
            queue.add(key_of(&*budget));
        }
    }
}

/// `None` selects nothing (`policy/v1`: a missing selector).
fn selector(budget: &PodDisruptionBudget) -> Option<Selector> {
    Selector::new(budget.spec.as_ref()?.selector.as_ref()?)
}

struct Owners {
    replica_sets: Informer<ReplicaSet>,
    stateful_sets: Informer<StatefulSet>,
    controllers: Informer<ReplicationController>,
    deployments: Informer<k8s_openapi::api::apps::v1::Deployment>,
}

struct Reconciler {
    budgets: Informer<PodDisruptionBudget>,
    pods: Informer<Pod>,
    owners: Owners,
    queue: WorkQueue<ObjectKey>,
    context: Parts,
}

#[async_trait]
impl Reconcile for Reconciler {
    async fn reconcile(&self, key: &ObjectKey) -> Result<(), Error> {
        if let Some(namespace) = key.namespace.strip_prefix(STALE) {
            return self.clear_stale(key, namespace).await;
        }
        let Some(budget) = self.budgets.get(&key.namespace, &key.name) else { return Ok(()) };
        let mut pods = self.pods.namespace(&key.namespace);
        match selector(&budget) {
            Some(selector) => pods.retain(|p| selector.matches(p.metadata.labels.as_ref()) && !pods::is_terminal(p)),
            None => pods.clear(),
        }
        let recorder = &self.context.recorder;
        if pods.is_empty() {
            recorder.event(&*budget, EventType::Normal, "NoPods", "No matching pods found");
        }
        let now = self.context.clock.now();
        let status = match self.expected(&budget, &pods).await {
            Ok((expected, desired)) => {
                let disrupted = self.disrupted(key, &budget, &pods, now);
                compute(&budget, &pods, expected, desired, disrupted, now)
            }
            Err(error) => {
                let text = base::chain(&error).to_string();
                let message = format!("Failed to calculate the number of expected pods: {text}");
                recorder.event(&*budget, EventType::Warning, "CalculateExpectedPodCountFailed", &message);
                // Nothing may be disrupted that cannot be counted.
                let mut status = budget.status.clone().unwrap_or_default();
                status.disruptions_allowed = Some(0);
                set_allowed(&mut status, "False", "SyncFailed", &text, now);
                status
            }
        };
        if budget.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let mut updated = (*budget).clone();
        updated.status = Some(status);
        match self.context.client.update_status(&updated).await {
            Err(error) if !error.is_not_found() => Err(error.into()),
            _ => Ok(()),
        }
    }
}

impl Reconciler {
    /// A pod that was to be disrupted, but was not, is an ordinary one again.
    async fn clear_stale(&self, key: &ObjectKey, namespace: &str) -> Result<(), Error> {
        let Some(pod) = self.pods.get(namespace, &key.name) else { return Ok(()) };
        if pod.is_deleting() || pods::is_terminal(&pod) {
            return Ok(());
        }
        let Some(condition) = pods::condition(&pod, "DisruptionTarget").filter(|c| c.status == "True") else {
            return Ok(());
        };
        if condition.reason.as_deref() == Some("TerminationByKubelet") {
            return Ok(());
        }
        let now = self.context.clock.now();
        let since = condition.last_transition_time.as_ref().map_or(now, |t| t.0);
        let left = STALE_TIMEOUT - now.duration_since(since);
        if left > SignedDuration::ZERO {
            self.queue.add_after(key.clone(), Duration::try_from(left).unwrap_or_default());
            return Ok(());
        }
        let mut condition = condition.clone();
        condition.status = "False".to_owned();
        condition.reason = Some(String::new());
        condition.message = Some(String::new());
        condition.last_transition_time = Some(Time(now));
        match pods::patch_status(&self.context.client, &pod, None, Some(condition)).await {
            Err(error) if !error.is_not_found() => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// How many pods there should be, and how many of them healthy (`getExpectedPodCount`).
    async fn expected(&self, budget: &PodDisruptionBudget, pods: &[Arc<Pod>]) -> Result<(i32, i32), Error> {
        let Some(spec) = &budget.spec else { return Ok((0, 0)) };
        let count = i32::try_from(pods.len()).unwrap_or(i32::MAX);
        let bad = || Error::Object {
            kind: "PodDisruptionBudget",
            key: key_of(budget).to_string(),
            problem: "invalid value for IntOrString".to_owned(),
        };
        if let Some(unavailable) = &spec.max_unavailable {
            let expected = self.scale(pods).await?;
            let unavailable = intstr::scaled(unavailable, expected, true).ok_or_else(bad)?;
            return Ok((expected, (expected - unavailable).max(0)));
        }
        match &spec.min_available {
            Some(IntOrString::Int(desired)) => Ok((count, *desired)),
            Some(percent) => {
                let expected = self.scale(pods).await?;
                Ok((expected, intstr::scaled(percent, expected, true).ok_or_else(bad)?))
            }
            None => Ok((count, 0)),
        }
    }

    /// The sizes of all controllers of the pods together.
    async fn scale(&self, pods: &[Arc<Pod>]) -> Result<i32, Error> {
        let mut scales: HashMap<String, i32> = HashMap::new();
        for pod in pods {
            let Some(owner) = controller_of(&pod.metadata) else { continue };
            if scales.contains_key(&owner.uid) {
                continue;
            }
            match self.scale_of(owner, pod.namespace()).await? {
                Some((uid, scale)) => {
                    // The owner is known now, even if what counts is above it.
                    scales.entry(owner.uid.clone()).or_insert(0);
                    scales.insert(uid, scale);
                }
                None => {
                    return Err(Error::Object {
                        kind: "Pod",
                        key: key_of(&**pod).to_string(),
                        problem: format!("found no controllers for pod \"{}\"", pod.name()),
                    });
                }
            }
        }
        Ok(scales.values().sum())
    }

    /// The size of a controller, or of the Deployment above a ReplicaSet, and its uid.
    async fn scale_of(&self, owner: &OwnerReference, namespace: &str) -> Result<Option<(String, i32)>, Error> {
        let owners = &self.owners;
        let uid = owner.uid.clone();
        match (owner.kind.as_str(), owner.api_version.split('/').next()) {
            ("ReplicaSet", Some("apps")) => {
                let set = owners.replica_sets.get(namespace, &owner.name).filter(|s| s.uid() == uid);
                Ok(set.map(|set| deployment_scale(&set, &owners.deployments)))
            }
            ("StatefulSet", Some("apps")) => {
                let set = owners.stateful_sets.get(namespace, &owner.name).filter(|s| s.uid() == uid);
                Ok(set.map(|set| (uid, set.spec.replicas.unwrap_or(1))))
            }
            ("ReplicationController", _) => {
                let set = owners.controllers.get(namespace, &owner.name).filter(|s| s.uid() == uid);
                Ok(set.map(|set| (uid, set.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1))))
            }
            _ => self.custom_scale(owner, namespace).await,
        }
    }

    /// Anything else that has a scale subresource.
    async fn custom_scale(&self, owner: &OwnerReference, namespace: &str) -> Result<Option<(String, i32)>, Error> {
        let found = crate::discovery::discover(&self.context.client).await?;
        let Some(resource) = found.by_kind.get(&(owner.api_version.clone(), owner.kind.clone())) else {
            return Ok(None);
        };
        let path = format!("{}/scale", resource.path(namespace, &owner.name));
        let body = match self.context.client.raw(Method::GET, &path, "", Vec::new()).await {
            Ok(body) => body,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let scale: serde_json::Value = serde_json::from_slice(&body)?;
        let replicas = scale.pointer("/spec/replicas").and_then(serde_json::Value::as_i64).unwrap_or(0);
        Ok(Some((owner.uid.clone(), i32::try_from(replicas).unwrap_or(i32::MAX))))
    }

    /// Evictions that were granted and not yet seen; queues the budget for when the first of them is too old.
    fn disrupted(
        &self,
        key: &ObjectKey,
        budget: &PodDisruptionBudget,
        pods: &[Arc<Pod>],
        now: Timestamp,
    ) -> BTreeMap<String, Time> {
        let known = budget.status.as_ref().and_then(|s| s.disrupted_pods.as_ref());
        let mut left = BTreeMap::new();
        for pod in pods.iter().filter(|p| !p.is_deleting()) {
            let Some(at) = known.and_then(|k| k.get(pod.name())) else { continue };
            let wait = DELETION_TIMEOUT - now.duration_since(at.0);
            if wait < SignedDuration::ZERO {
                let message = format!("Pod was expected by PDB {key} to be deleted but it wasn't");
                self.context.recorder.event(&**pod, EventType::Warning, "NotDeleted", &message);
            } else {
                self.queue.add_after(key.clone(), Duration::try_from(wait).unwrap_or_default());
                left.insert(pod.name().to_owned(), at.clone());
            }
        }
        left
    }
}

/// The size of the Deployment that manages a ReplicaSet, else its own.
fn deployment_scale(set: &ReplicaSet, deployments: &Informer<k8s_openapi::api::apps::v1::Deployment>) -> (String, i32) {
    let owner = controller_of(&set.metadata).filter(|o| o.kind == "Deployment");
    let deployment = owner.and_then(|o| deployments.get(set.namespace(), &o.name).filter(|d| d.uid() == o.uid));
    match deployment {
        Some(deployment) => (deployment.uid().to_owned(), deployment.spec.replicas.unwrap_or(1)),
        None => (set.uid().to_owned(), set.spec.replicas.unwrap_or(1)),
    }
}

fn compute(
    budget: &PodDisruptionBudget,
    pods: &[Arc<Pod>],
    expected: i32,
    desired: i32,
    disrupted: BTreeMap<String, Time>,
    now: Timestamp,
) -> PodDisruptionBudgetStatus {
    let healthy = pods.iter().filter(|p| !p.is_deleting() && !disrupted.contains_key(p.name()) && pods::is_ready(p));
    let healthy = i32::try_from(healthy.count()).unwrap_or(i32::MAX);
    let allowed = if expected <= 0 { 0 } else { (healthy - desired).max(0) };
    let mut status = PodDisruptionBudgetStatus {
        current_healthy: Some(healthy),
        desired_healthy: Some(desired),
        expected_pods: Some(expected),
        disruptions_allowed: Some(allowed),
        disrupted_pods: (!disrupted.is_empty()).then_some(disrupted),
        observed_generation: budget.metadata.generation,
        conditions: budget.status.as_ref().and_then(|s| s.conditions.clone()),
    };
    let (state, reason) = if allowed > 0 { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
    set_allowed(&mut status, state, reason, "", now);
    status
}

/// Sets the DisruptionAllowed condition; its time only moves with its status.
fn set_allowed(status: &mut PodDisruptionBudgetStatus, state: &str, reason: &str, message: &str, now: Timestamp) {
    let generation = status.observed_generation;
    let conditions = status.conditions.get_or_insert_default();
    let known = conditions.iter_mut().find(|c| c.type_ == "DisruptionAllowed");
    let since = known.as_ref().filter(|c| c.status == state).map(|c| c.last_transition_time.clone());
    let condition = Condition {
        type_: "DisruptionAllowed".to_owned(),
        status: state.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        last_transition_time: since.unwrap_or(Time(now)),
        observed_generation: generation,
    };
    match known {
        Some(known) => *known = condition,
        None => conditions.push(condition),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_healthy_beyond_the_wanted_may_be_disrupted() {
        let pod = |name: &str, ready: bool| -> Arc<Pod> {
            Arc::new(
                serde_json::from_value(json!({"metadata": {"name": name},
                    "status": {"conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]}}))
                .unwrap(),
            )
        };
        let pods = [pod("a", true), pod("b", true), pod("c", true), pod("d", false)];
        let now = Timestamp::UNIX_EPOCH;
        let evicted = BTreeMap::from([("a".to_owned(), Time(now))]);
        let budget = PodDisruptionBudget::default();
        let status = compute(&budget, &pods, 4, 1, evicted, now);
        assert_eq!((status.current_healthy, status.disruptions_allowed), (Some(2), Some(1)));
        let mut budget = budget;
        budget.status = Some(status.clone());
        let later = compute(&budget, &pods, 4, 1, status.disrupted_pods.clone().unwrap(), Timestamp::MAX);
        assert_eq!(later, status, "nothing changes, so nothing is written");
        let none = compute(&budget, &pods, 4, 3, BTreeMap::new(), now);
        assert_eq!(none.disruptions_allowed, Some(0));
        assert_eq!(none.conditions.unwrap()[0].reason, "InsufficientPods");
    }
}
