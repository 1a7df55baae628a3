//! Deployments: one ReplicaSet per pod template, rolled out at the pace asked for (`pkg/controller/deployment`).

mod plan;
mod rollout;
mod status;

use std::sync::Arc;

use api::names::ObjectKey;
use async_trait::async_trait;
use client::Resource as _;
use client::{Event, EventType, Informer, WorkQueue, controller_of};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;

use crate::claim::claim;
use crate::error::Error;
use crate::harness::{Context, Parts, Reconcile, all_synced, current, key_of, synced};
use crate::selector::Selector;
use crate::written::Written;
use rollout::Rollout;

const WORKERS: usize = 5;

pub(crate) fn start(context: Context) {
    let deployments = context.informers.informer::<Deployment>();
    let sets = context.informers.informer::<ReplicaSet>();
    let pods = context.informers.informer::<Pod>();
    let queue = WorkQueue::new();

    let add_all = context.feed_own(&deployments, &queue);
    context.feed(&sets, &add_all, {
        let (deployments, queue) = (deployments.clone(), queue.clone());
        move |event| on_replicaset(&deployments, &queue, event)
    });
    context.feed(&pods, &add_all, {
        let (deployments, sets, queue) = (deployments.clone(), sets.clone(), queue.clone());
        move |event| on_pod(&deployments, &sets, &queue, event)
    });

    let ready = all_synced(vec![synced(&deployments), synced(&sets), synced(&pods)]);
    let reconciler = Arc::new(Reconciler {
        deployments,
        sets,
        pods,
        queue: queue.clone(),
        writes: Writes::default(),
        context: context.parts(),
    });
    context.work(reconciler, queue, WORKERS, ready);
}

fn owner_of(deployments: &Informer<Deployment>, set: &ReplicaSet) -> Option<Arc<Deployment>> {
    let owner = controller_of(&set.metadata).filter(|owner| owner.kind == "Deployment")?;
    deployments.get(set.namespace(), &owner.name).filter(|d| d.uid() == owner.uid)
}

fn on_replicaset(deployments: &Informer<Deployment>, queue: &WorkQueue<ObjectKey>, event: &Event<ReplicaSet>) {
    let Some(set) = current(event) else { return };
    if let Some(owner) = owner_of(deployments, set) {
        queue.add(key_of(&*owner));
    }
    let mut orphaned = matches!(event, Event::Added(_)) && !set.is_deleting();
    if let Event::Updated { old, new } = event {
        let owner_changed = controller_of(&old.metadata) != controller_of(&new.metadata);
        if owner_changed && let Some(owner) = owner_of(deployments, old) {
            queue.add(key_of(&*owner));
        }
        orphaned = owner_changed || old.metadata.labels != new.metadata.labels;
    }
    if orphaned && controller_of(&set.metadata).is_none() {
        for deployment in deployments.namespace(set.namespace()) {
            let selector = Selector::new(&deployment.spec.selector);
            if selector.is_some_and(|s| !s.is_empty() && s.matches(set.metadata.labels.as_ref())) {
                queue.add(key_of(&*deployment));
            }
        }
    }
}

/// A Recreate rollout goes on when the last old pod is gone.
fn on_pod(
    deployments: &Informer<Deployment>,
    sets: &Informer<ReplicaSet>,
    queue: &WorkQueue<ObjectKey>,
    event: &Event<Pod>,
) {
    let Event::Deleted(pod) = event else { return };
    let Some(owner) = controller_of(&pod.metadata).filter(|owner| owner.kind == "ReplicaSet") else { return };
    let set = sets.get(pod.namespace(), &owner.name).filter(|set| set.uid() == owner.uid);
    let Some(deployment) = set.and_then(|set| owner_of(deployments, &set)) else { return };
    if plan::is_recreate(&deployment) {
        queue.add(key_of(&*deployment));
    }
}

struct Reconciler {
    deployments: Informer<Deployment>,
    sets: Informer<ReplicaSet>,
    pods: Informer<Pod>,
    queue: WorkQueue<ObjectKey>,
    writes: Writes,
    context: Parts,
}

/// What was written for a deployment.
#[derive(Default)]
struct Writes {
    deployments: Written,
    sets: Written,
}

#[async_trait]
impl Reconcile for Reconciler {
    /// `deployment_controller.go` `syncDeployment`.
    async fn reconcile(&self, key: &ObjectKey) -> Result<(), Error> {
        let Some(deployment) = self.deployments.get(&key.namespace, &key.name) else { return Ok(()) };
        self.writes.deployments.check(key, &self.deployments)?;
        self.writes.sets.check(key, &self.sets)?;
        let Some(selector) = Selector::new(&deployment.spec.selector) else { return Ok(()) };
        if selector.is_empty() {
            return self.selects_all(&deployment).await;
        }
        let mut candidates = self.sets.by_owner(deployment.uid());
        candidates.extend(self.sets.orphans(&key.namespace));
        let owned = claim(&self.context.client, &*deployment, &selector, candidates).await?;

        let mut rollout = Rollout::new(
            &self.context,
            &self.writes,
            &self.pods,
            (*deployment).clone(),
            owned.iter().map(|set| (**set).clone()).collect(),
        );
        rollout.run().await?;
        if let Some(delay) = rollout.look_again {
            if delay.is_zero() {
                self.queue.add_rate_limited(key.clone());
            } else {
                self.queue.add_after(key.clone(), delay);
            }
        }
        Ok(())
    }
}

impl Reconciler {
    async fn selects_all(&self, deployment: &Deployment) -> Result<(), Error> {
        self.context.recorder.event(
            deployment,
            EventType::Warning,
            "SelectingAll",
            "This deployment is selecting all pods. A non-empty selector is required.",
        );
        let mut deployment = deployment.clone();
        let generation = deployment.metadata.generation;
        let status = deployment.status.get_or_insert_default();
        if status.observed_generation < generation {
            status.observed_generation = generation;
            self.context.client.update_status(&deployment).await?;
        }
        Ok(())
    }
}
