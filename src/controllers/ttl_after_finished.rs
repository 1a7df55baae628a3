//! Deletes finished jobs after their time (`pkg/controller/ttlafterfinished`).

use std::sync::Arc;
use std::time::Duration;

use api::names::ObjectKey;
use async_trait::async_trait;
use client::{DeleteParams, Informer, Resource, WorkQueue};
use jiff::SignedDuration;
use k8s_openapi::api::batch::v1::Job;

use crate::error::Error;
use crate::harness::{Context, Parts, Reconcile, all_synced, synced};
use crate::job;

pub(crate) fn start(context: Context) {
    let jobs = context.informers.informer::<Job>();
    let queue = WorkQueue::new();
    context.feed_own(&jobs, &queue);
    let reconciler = Arc::new(Reconciler { jobs: jobs.clone(), queue: queue.clone(), context: context.parts() });
    context.work(reconciler, queue, 1, all_synced(vec![synced(&jobs)]));
}

struct Reconciler {
    jobs: Informer<Job>,
    queue: WorkQueue<ObjectKey>,
    context: Parts,
}

#[async_trait]
impl Reconcile for Reconciler {
    async fn reconcile(&self, key: &ObjectKey) -> Result<(), Error> {
        let Some(job) = self.jobs.get(&key.namespace, &key.name) else { return Ok(()) };
        let Some(left) = self.left(&job) else { return Ok(()) };
        if left > SignedDuration::ZERO {
            self.queue.add_after(key.clone(), Duration::try_from(left).unwrap_or_default());
            return Ok(());
        }
        // The cache may be behind a change of the time to live.
        let Some(fresh) = self.context.client.get_opt::<Job>(&key.namespace, &key.name).await? else { return Ok(()) };
        if fresh.uid() != job.uid() || self.left(&fresh).is_none_or(|left| left > SignedDuration::ZERO) {
            return Ok(());
        }
        let options = DeleteParams {
            propagation_policy: Some("Foreground"),
            uid: Some(fresh.uid().to_owned()),
            resource_version: Some(fresh.resource_version().to_owned()),
            ..DeleteParams::default()
        };
        match self.context.client.delete::<Job>(&key.namespace, &key.name, &options).await {
            Err(error) if !error.is_not_found() => Err(error.into()),
            _ => Ok(()),
        }
    }
}

impl Reconciler {
    /// Until the job is to be deleted; `None` if it is not.
    fn left(&self, job: &Job) -> Option<SignedDuration> {
        let ttl = job.spec.as_ref()?.ttl_seconds_after_finished.filter(|_| !job.is_deleting())?;
        let finished = job::finish(job)?.last_transition_time.as_ref()?.0;
        Some(SignedDuration::from_secs(i64::from(ttl)) - self.context.clock.now().duration_since(finished))
    }
}
