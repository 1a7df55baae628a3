//! Jobs: pods that run to completion (`pkg/controller/job`).
//!
//! A pod counts once: it has a finalizer until its end is in the job's status. The status first names the pods that ended
//! (`uncountedTerminatedPods`), then the finalizers go, then the counts go up.

mod context;
mod indexes;
mod policy;
mod track;

use std::collections::HashMap;
use std::sync::Arc;

use api::names::ObjectKey;
use async_trait::async_trait;
use client::{Event, EventType, Informer, Patch, Resource, WorkQueue, controller_of};
use futures::future::join_all;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use serde_json::json;

use crate::claim::claim;
use crate::error::Error;
use crate::expectations::Expectations;
use crate::harness::{Context, Parts, Reconcile, all_synced, key_of, synced};
use crate::pod_owners::PodOwners;
use crate::pods;
use crate::selector::Selector;
use crate::written::Written;
use context::Pass;
use policy::Backoff;

const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
const OURS: &str = "kubernetes.io/job-controller";
const WORKERS: usize = 5;
/// Keys of pods whose job is gone: this and the namespace. No namespace is called so.
const ORPHAN: &str = "/orphan/";

pub(crate) fn start(context: Context) {
    let jobs = context.informers.informer::<Job>();
    let pods = context.informers.informer::<Pod>();
    // Upstream's limiter for this controller: 1 s up to 6 min.
    let queue = WorkQueue::with_backoff(std::time::Duration::from_secs(1), std::time::Duration::from_secs(360));
    let expectations = Arc::new(Expectations::default());

    let add_all = Context::add_all(&jobs, &queue);
    context.feed(&jobs, &add_all, {
        let (pods, queue) = (pods.clone(), queue.clone());
        move |event| {
            if let Event::Deleted(job) = event {
                for pod in pods.by_owner(job.uid()) {
                    add_orphan(&queue, &pod);
                }
            }
            if let Some(job) = crate::harness::current(event) {
                queue.add(key_of(&**job));
            }
        }
    });
    let handler = PodOwners {
        owners: jobs.clone(),
        queue: queue.clone(),
        expectations: Arc::clone(&expectations),
        selector,
        min_ready_seconds: |_: &Job| 0,
    };
    context.feed(&pods, &add_all, {
        let (jobs, queue) = (jobs.clone(), queue.clone());
        move |event| {
            handler.handle(event);
            if let Event::Added(pod) | Event::Updated { new: pod, .. } = event
                && has_finalizer(pod)
                && jobs.has_synced()
                && owner_of(&jobs, pod).is_none()
            {
                add_orphan(&queue, pod);
            }
        }
    });

    let ready = all_synced(vec![synced(&jobs), synced(&pods)]);
    let reconciler = Arc::new(Reconciler {
        jobs,
        pods,
        queue: queue.clone(),
        expectations,
        written_jobs: Written::default(),
        written_pods: Written::default(),
        backoffs: Mutex::new(HashMap::new()),
        context: context.parts(),
    });
    context.work(reconciler, queue, WORKERS, ready);
}

fn add_orphan(queue: &WorkQueue<ObjectKey>, pod: &Pod) {
    queue.add(ObjectKey::new(format!("{ORPHAN}{}", pod.namespace()), pod.name()));
}

fn owner_of(jobs: &Informer<Job>, pod: &Pod) -> Option<Arc<Job>> {
    let owner = controller_of(&pod.metadata).filter(|owner| owner.kind == "Job")?;
    jobs.get(pod.namespace(), &owner.name).filter(|job| job.uid() == owner.uid)
}

fn has_finalizer(pod: &Pod) -> bool {
    pod.metadata.finalizers.iter().flatten().any(|f| f == FINALIZER)
}

fn selector(job: &Job) -> Option<Selector> {
    Selector::new(job.spec.as_ref()?.selector.as_ref()?)
}

/// Complete or failed.
pub(crate) fn is_finished(job: &Job) -> bool {
    finish(job).is_some()
}

/// The condition that ended the job.
pub(crate) fn finish(job: &Job) -> Option<&k8s_openapi::api::batch::v1::JobCondition> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|c| matches!(c.type_.as_str(), "Complete" | "Failed") && c.status == "True")
}

struct Reconciler {
    jobs: Informer<Job>,
    pods: Informer<Pod>,
    queue: WorkQueue<ObjectKey>,
    expectations: Arc<Expectations>,
    written_jobs: Written,
    written_pods: Written,
    /// Failures in a row, by job.
    backoffs: Mutex<HashMap<ObjectKey, Backoff>>,
    context: Parts,
}

#[async_trait]
impl Reconcile for Reconciler {
    /// `syncJob`.
    async fn reconcile(&self, key: &ObjectKey) -> Result<(), Error> {
        if let Some(namespace) = key.namespace.strip_prefix(ORPHAN) {
            return self.release_orphan(namespace, &key.name).await;
        }
        let Some(job) = self.jobs.get(&key.namespace, &key.name) else {
            self.expectations.forget(key);
            self.backoffs.lock().remove(key);
            return Ok(());
        };
        let Some(spec) = &job.spec else { return Ok(()) };
        if spec.managed_by.as_deref().is_some_and(|by| by != OURS) {
            return Ok(());
        }
        if is_finished(&job) {
            self.backoffs.lock().remove(key);
            return Ok(());
        }
        if !matches!(spec.completion_mode.as_deref(), None | Some("NonIndexed" | "Indexed")) {
            let message = "Skipped Job sync because completion mode is unknown";
            self.context.recorder.event(&*job, EventType::Warning, "UnknownCompletionMode", message);
            return Ok(());
        }
        self.written_jobs.check(key, &self.jobs)?;
        self.written_pods.check(key, &self.pods)?;
        let Some(selector) = selector(&job) else { return Ok(()) };
        let caught_up = self.expectations.satisfied(key);
        let mut candidates = self.pods.by_owner(job.uid());
        candidates.extend(self.pods.orphans(&key.namespace));
        let pods = claim(&self.context.client, &*job, &selector, candidates).await?;

        let backoff = self.backoffs.lock().get(key).cloned().unwrap_or_default();
        let now = self.context.clock.now();
        let mut pass = Pass::new((*job).clone(), pods, backoff, now);
        pass.decide();
        if let Some(delay) = pass.until_deadline() {
            self.queue.add_after(key.clone(), delay);
        }
        let managed = if pass.finished.is_some() {
            let active = pass.active_pods.clone();
            let (deleted, result) = self.delete_pods(key, &job, &active, false).await;
            pass.note_deleted(&deleted);
            if deleted.len() != active.len() || !caught_up {
                pass.finished = None;
            }
            result
        } else {
            let result = if caught_up && !job.is_deleting() { self.manage(key, &mut pass).await } else { Ok(()) };
            pass.complete_if_done();
            if pass.finished.is_none()
                && caught_up
                && !job.is_deleting()
                && let Some((reason, message)) = pass.note_suspension()
            {
                self.context.recorder.event(&*job, EventType::Normal, reason, message);
            }
            result
        };
        self.track(key, pass).await?;
        managed
    }
}

impl Reconciler {
    /// Takes the finalizer off a pod that no job counts any more.
    async fn release_orphan(&self, namespace: &str, name: &str) -> Result<(), Error> {
        let Some(pod) = self.pods.get(namespace, name).filter(|pod| has_finalizer(pod)) else { return Ok(()) };
        if let Some(owner) = controller_of(&pod.metadata).filter(|owner| owner.kind == "Job") {
            let job = self.context.client.get_opt::<Job>(namespace, &owner.name).await?;
            if job.is_some_and(|job| job.uid() == owner.uid) {
                return Ok(());
            }
        }
        match self.remove_finalizer(&pod).await {
            Err(error) if !error.is_not_found() => Err(error.into()),
            _ => Ok(()),
        }
    }

    async fn remove_finalizer(&self, pod: &Pod) -> Result<Option<Pod>, client::Error> {
        if !has_finalizer(pod) {
            return Ok(None);
        }
        let patch = Patch::Strategic(json!({"metadata": {
            "uid": pod.uid(),
            "$deleteFromPrimitiveList/finalizers": [FINALIZER],
        }}));
        self.context.client.patch::<Pod>(pod.namespace(), pod.name(), &patch).await.map(Some)
    }

    /// Deletes pods; with `release`, they are not to be counted. Returns those deleted.
    async fn delete_pods(
        &self,
        key: &ObjectKey,
        job: &Job,
        doomed: &[Arc<Pod>],
        release: bool,
    ) -> (Vec<Arc<Pod>>, Result<(), Error>) {
        let results = join_all(doomed.iter().map(|pod| async move {
            let observed = |result: Result<(), Error>| match result {
                Err(Error::Api(error)) if error.is_not_found() => Ok(()),
                other => other,
            };
            if release && let Err(error) = observed(self.remove_finalizer(pod).await.map(drop).map_err(Error::from)) {
                self.expectations.deletion_observed(key, &key_of(&**pod));
                return Err(error);
            }
            let result = pods::delete(&self.context.client, &self.context.recorder, job, pod).await;
            if result.is_err() {
                self.expectations.deletion_observed(key, &key_of(&**pod));
            }
            observed(result).map(|()| Arc::clone(pod))
        }))
        .await;
        let mut deleted = Vec::new();
        let mut failure = Ok(());
        for result in results {
            match result {
                Ok(pod) => deleted.push(pod),
                Err(error) => failure = Err(error),
            }
        }
        (deleted, failure)
    }

    /// `manageJob`: as many active pods as there should be.
    async fn manage(&self, key: &ObjectKey, pass: &mut Pass) -> Result<(), Error> {
        let doomed = pass.to_delete();
        if !doomed.is_empty() || pass.is_suspended() {
            if doomed.is_empty() {
                return Ok(());
            }
            self.expectations.expect_deletions(key, doomed.iter().map(|pod| key_of(&**pod)));
            let job = pass.job.clone();
            let (deleted, result) = self.delete_pods(key, &job, &doomed, true).await;
            pass.note_deleted(&deleted);
            return result;
        }
        let planned = match pass.to_create() {
            context::Creation::None => return Ok(()),
            context::Creation::Wait(delay) => {
                self.queue.add_after(key.clone(), delay);
                return Ok(());
            }
            context::Creation::Pods(pods) => pods,
        };
        let wanted = planned.len();
        self.expectations.expect_creations(key, wanted);
        let next = Mutex::new(planned.into_iter());
        let job = pass.job.clone();
        let (made, result) = crate::replicaset::slow_start(wanted, || {
            let pod = next.lock().next();
            let job = &job;
            async move {
                let Some(pod) = pod else { return Ok(false) };
                match pods::create(&self.context.client, &self.context.recorder, job, &pod).await {
                    Err(Error::Api(error)) if error.is_namespace_terminating() => Ok(false),
                    result => result.map(|_| true),
                }
            }
        })
        .await;
        for _ in made..wanted {
            self.expectations.creation_observed(key);
        }
        pass.active += i32::try_from(made).unwrap_or(0);
        result
    }
}
