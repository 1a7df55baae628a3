//! ReplicaSets and ReplicationControllers: as many pods as asked for (`pkg/controller/replicaset`).

mod kind;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use api::names::ObjectKey;
use async_trait::async_trait;
use client::{Event, Informer, WorkQueue, controller_of, owner_ref};
use futures::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use crate::claim::claim;
use crate::error::Error;
use crate::expectations::Expectations;
use crate::harness::{Context, Reconcile, all_synced, current, key_of, synced};
use crate::pod_owners::PodOwners;
use crate::pods;
use crate::selector::Selector;
pub(crate) use kind::{Observed, ReplicaCondition, Replicated};

/// Pods created or deleted in one pass (`BurstReplicas`).
const BURST: usize = 500;
/// The first batch of creations; each that succeeds doubles the next (`SlowStartInitialBatchSize`).
const FIRST_BATCH: usize = 1;
const STATUS_UPDATES_MAX: usize = 2;
const WORKERS: usize = 5;

pub(crate) fn start_replicaset(context: Context) {
    start::<k8s_openapi::api::apps::v1::ReplicaSet>(context);
}

pub(crate) fn start_replicationcontroller(context: Context) {
    start::<k8s_openapi::api::core::v1::ReplicationController>(context);
}

fn start<K: Replicated>(context: Context) {
    let sets = context.informers.informer::<K>();
    let pods = context.informers.informer::<Pod>();
    let queue = WorkQueue::new();
    let expectations = Arc::new(Expectations::default());

    let add_all = Context::add_all(&sets, &queue);
    context.feed(&sets, &add_all, {
        let (queue, expectations) = (queue.clone(), Arc::clone(&expectations));
        move |event| {
            if let Event::Deleted(set) = event {
                expectations.forget(&key_of(&**set));
            }
            if let Some(set) = current(event) {
                queue.add(key_of(&**set));
            }
        }
    });
    let handler = PodOwners {
        owners: sets.clone(),
        queue: queue.clone(),
        expectations: Arc::clone(&expectations),
        selector: K::selector,
        min_ready_seconds: K::min_ready_seconds,
    };
    context.feed(&pods, &add_all, move |event| handler.handle(event));

    let ready = all_synced(vec![synced(&sets), synced(&pods)]);
    let reconciler = Arc::new(Reconciler { sets, pods, queue: queue.clone(), expectations, context: context.parts() });
    context.work(reconciler, queue, WORKERS, ready);
}

struct Reconciler<K> {
    sets: Informer<K>,
    pods: Informer<Pod>,
    queue: WorkQueue<ObjectKey>,
    expectations: Arc<Expectations>,
    context: crate::harness::Parts,
}

#[async_trait]
impl<K: Replicated> Reconcile for Reconciler<K> {
    async fn reconcile(&self, key: &ObjectKey) -> Result<(), Error> {
        let Some(set) = self.sets.get(&key.namespace, &key.name) else {
            self.expectations.forget(key);
            return Ok(());
        };
        let Some(selector) = set.selector() else { return Ok(()) };
        let caught_up = self.expectations.satisfied(key);
        let mut candidates = self.pods.by_owner(set.uid());
        let terminating = candidates
            .iter()
            .filter(|pod| pods::is_terminating(pod) && selector.matches(pod.metadata.labels.as_ref()))
            .count();
        candidates.extend(self.pods.orphans(&key.namespace));
        candidates.retain(|pod| pods::is_active(pod));
        let active = claim(&self.context.client, &*set, &selector, candidates).await?;

        let managed = if caught_up && !set.is_deleting() { self.manage(key, &set, &active).await } else { Ok(()) };
        let now = self.context.clock.now();
        let observed = plan_status(&*set, &active, terminating, managed.as_ref().err(), now);
        self.update_status(&set, observed.clone()).await?;
        managed?;

        if set.min_ready_seconds() > 0 && observed.ready != observed.available {
            let left = pods::next_availability(&active, set.min_ready_seconds(), now);
            let delay = left.and_then(|left| Duration::try_from(left).ok());
            let whole = Duration::from_secs(u64::try_from(set.min_ready_seconds()).unwrap_or(0));
            self.queue.add_after(key.clone(), delay.unwrap_or(whole));
        }
        Ok(())
    }
}

impl<K: Replicated> Reconciler<K> {
    async fn manage(&self, key: &ObjectKey, set: &Arc<K>, active: &[Arc<Pod>]) -> Result<(), Error> {
        let wanted = usize::try_from(set.replicas()).unwrap_or(0);
        if active.len() < wanted {
            self.create(key, set, (wanted - active.len()).min(BURST)).await
        } else if active.len() > wanted {
            self.delete(key, set, active, (active.len() - wanted).min(BURST)).await
        } else {
            Ok(())
        }
    }

    async fn create(&self, key: &ObjectKey, set: &Arc<K>, count: usize) -> Result<(), Error> {
        let Some(template) = set.template() else { return Ok(()) };
        let pod = pods::from_template(template, set.namespace(), set.name(), owner_ref(&**set));
        self.expectations.expect_creations(key, count);
        let (made, result) = slow_start(count, || async {
            match pods::create(&self.context.client, &self.context.recorder, &**set, &pod).await {
                // Nothing can be done in a namespace that goes away; the set goes with it.
                Err(Error::Api(error)) if error.is_namespace_terminating() => Ok(false),
                result => result.map(|_| true),
            }
        })
        .await;
        for _ in made..count {
            self.expectations.creation_observed(key);
        }
        result
    }

    async fn delete(&self, key: &ObjectKey, set: &Arc<K>, active: &[Arc<Pod>], count: usize) -> Result<(), Error> {
        let mut ranked = active.to_vec();
        if count < ranked.len() {
            pods::sort_for_deletion(&mut ranked, &self.related_on_nodes(set), self.context.clock.now());
        }
        ranked.truncate(count);
        self.expectations.expect_deletions(key, ranked.iter().map(|pod| key_of(&**pod)));
        let results = join_all(ranked.iter().map(|pod| async move {
            let result = pods::delete(&self.context.client, &self.context.recorder, &**set, pod).await;
            if result.is_err() {
                self.expectations.deletion_observed(key, &key_of(&**pod));
            }
            match result {
                Err(Error::Api(error)) if error.is_not_found() => Ok(()),
                result => result,
            }
        }))
        .await;
        results.into_iter().collect()
    }

    /// Active pods by node of all sets with the same owner, such as a Deployment's.
    fn related_on_nodes(&self, set: &Arc<K>) -> HashMap<String, usize> {
        let siblings = match controller_of(set.metadata()) {
            Some(owner) => self.sets.by_owner(&owner.uid),
            None => Vec::new(),
        };
        let mut seen = HashSet::new();
        let mut nodes = HashMap::new();
        for sibling in siblings {
            for pod in self.pods.by_owner(sibling.uid()) {
                if pods::is_active(&pod) && seen.insert(client::Resource::uid(&*pod).to_owned()) {
                    *nodes.entry(pods::node(&pod).to_owned()).or_insert(0) += 1;
                }
            }
        }
        nodes
    }

    async fn update_status(&self, set: &Arc<K>, mut observed: Observed) -> Result<(), Error> {
        let current = set.observed();
        let generation = set.metadata().generation.unwrap_or(0);
        observed.generation = current.generation;
        if observed == current && generation == current.generation {
            return Ok(());
        }
        observed.generation = generation;
        let mut base = (**set).clone();
        for attempt in 0.. {
            match self.context.client.update_status(&base.with_observed(&observed)).await {
                Ok(_) => return Ok(()),
                Err(error) if error.is_not_found() => return Ok(()),
                Err(error) if attempt + 1 >= STATUS_UPDATES_MAX => return Err(error.into()),
                Err(_) => base = self.context.client.get::<K>(set.namespace(), set.name()).await?,
            }
        }
        Ok(())
    }
}

/// Calls `make` `count` times in batches that double as long as all succeed; returns how many made something and the
/// first failure.
pub(crate) async fn slow_start<F, Fut>(count: usize, make: F) -> (usize, Result<(), Error>)
where
    F: Fn() -> Fut,
    Fut: Future<Output = Result<bool, Error>>,
{
    let (mut left, mut made, mut batch) = (count, 0, FIRST_BATCH);
    while left > 0 {
        let size = batch.min(left);
        let mut failure = None;
        for result in join_all((0..size).map(|_| make())).await {
            match result {
                Ok(true) => made += 1,
                Ok(false) => {}
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        if let Some(error) = failure {
            return (made, Err(error));
        }
        left -= size;
        batch *= 2;
    }
    (made, Ok(()))
}

/// `replica_set_utils.go` `calculateStatus`.
fn plan_status<K: Replicated>(
    set: &K,
    active: &[Arc<Pod>],
    terminating: usize,
    failure: Option<&Error>,
    now: Timestamp,
) -> Observed {
    let count = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
    let labels = set.template().and_then(|t| t.metadata.as_ref()?.labels.as_ref()).map(Selector::from_map);
    let ready: Vec<_> = active.iter().filter(|pod| pods::is_ready(pod)).collect();
    let mut observed = set.observed();
    observed.replicas = count(active.len());
    observed.fully_labeled =
        count(active.iter().filter(|p| labels.as_ref().is_none_or(|l| l.matches(p.metadata.labels.as_ref()))).count());
    observed.ready = count(ready.len());
    observed.available =
        count(ready.iter().filter(|pod| pods::is_available(pod, set.min_ready_seconds(), now)).count());
    observed.terminating = K::REPORTS_TERMINATING.then(|| count(terminating));
    let known = observed.conditions.iter().any(|c| c.kind == "ReplicaFailure");
    match failure {
        Some(error) if !known => {
            let wanted = usize::try_from(set.replicas()).unwrap_or(0);
            let reason = match active.len().cmp(&wanted) {
                std::cmp::Ordering::Less => "FailedCreate",
                std::cmp::Ordering::Greater => "FailedDelete",
                std::cmp::Ordering::Equal => "",
            };
            observed.conditions.push(ReplicaCondition {
                kind: "ReplicaFailure".to_owned(),
                status: "True".to_owned(),
                reason: reason.to_owned(),
                message: base::chain(error).to_string(),
                since: Some(now),
            });
        }
        None if known => observed.conditions.retain(|c| c.kind != "ReplicaFailure"),
        _ => {}
    }
    observed
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[tokio::test]
    async fn batches_double_and_a_failure_ends_them() {
        let calls = AtomicUsize::new(0);
        let (made, result) = slow_start(10, || async {
            let call = calls.fetch_add(1, Ordering::Relaxed);
            if call == 4 { Err(Error::NotYet("x")) } else { Ok(true) }
        })
        .await;
        // 1 + 2 + 4 calls, one of which failed.
        assert_eq!((made, calls.into_inner(), result.is_err()), (6, 7, true));
    }
}
