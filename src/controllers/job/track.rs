//! Writes a job's status and lets go of the pods that it counts (`trackJobStatusAndRemoveFinalizers`).

use std::collections::HashSet;
use std::sync::Arc;

use api::names::ObjectKey;
use client::{EventType, Resource};
use futures::future::join_all;
use k8s_openapi::api::batch::v1::{Job, JobStatus};
use k8s_openapi::api::core::v1::Pod;

use super::context::{Pass, condition, index_of};
use super::policy::Verdict;
use super::{Reconciler, has_finalizer};
use crate::error::Error;
use crate::pods;

/// Pods named in the status at once (`MaxUncountedPods`).
const UNCOUNTED_MAX: usize = 500;

impl Reconciler {
    pub(super) async fn track(&self, key: &ObjectKey, mut pass: Pass) -> Result<(), Error> {
        let (active, ready, terminating) = (pass.active, pass.ready, pass.terminating);
        let status = pass.status();
        let mut flush = status.active.unwrap_or(0) != active
            || status.ready != Some(ready)
            || status.terminating != Some(terminating);
        status.active = Some(active).filter(|n| *n != 0);
        status.ready = Some(ready);
        status.terminating = Some(terminating);
        flush |= pass.changed;

        let mut with_finalizer: HashSet<String> =
            pass.pods.iter().filter(|p| has_finalizer(p)).map(|p| p.uid().to_owned()).collect();
        flush |= count_released(pass.status(), &with_finalizer);
        let (release, full) = note_ended(&mut pass, &mut flush);
        let finished = name_end(&mut pass, &mut flush);

        let mut job = pass.job;
        if flush {
            job = self.put_status(key, &job).await?;
            self.backoffs.lock().insert(key.clone(), pass.backoff);
        }
        let released = self.release(key, &release).await;
        for pod in release.iter().zip(&released).filter(|(_, r)| r.is_ok()).map(|(pod, _)| pod) {
            with_finalizer.remove(pod.uid());
        }
        let mut failure = released.into_iter().find_map(Result::err);
        let mut flush = count_released(job.status.get_or_insert_default(), &with_finalizer);
        let mut ended = None;
        if failure.is_none()
            && !full
            && let Some(finished) = finished
            && end(&mut job, &finished, terminating)
        {
            flush = true;
            ended = Some(finished);
        }
        if flush && let Err(error) = self.put_status(key, &job).await {
            failure = Some(error);
        }
        if let Some(error) = failure {
            return Err(error);
        }
        if let Some(finished) = ended {
            self.record_end(&job, &finished);
        }
        Ok(())
    }

    async fn put_status(&self, key: &ObjectKey, job: &Job) -> Result<Job, Error> {
        let job = self.context.client.update_status(job).await?;
        self.written_jobs.note(key, &job);
        Ok(job)
    }

    async fn release(&self, key: &ObjectKey, pods: &[Arc<Pod>]) -> Vec<Result<(), Error>> {
        join_all(pods.iter().map(|pod| async move {
            match self.remove_finalizer(pod).await {
                Ok(Some(pod)) => {
                    self.written_pods.note(key, &pod);
                    Ok(())
                }
                Ok(None) => Ok(()),
                Err(error) if error.is_not_found() => Ok(()),
                Err(error) => Err(error.into()),
            }
        }))
        .await
    }

    fn record_end(&self, job: &Job, finished: &k8s_openapi::api::batch::v1::JobCondition) {
        let recorder = &self.context.recorder;
        if finished.type_ != "Complete" {
            let reason = finished.reason.as_deref().unwrap_or_default();
            let message = finished.message.as_deref().unwrap_or_default();
            recorder.event(job, EventType::Warning, reason, message);
            return;
        }
        let wanted = job.spec.as_ref().and_then(|s| s.completions);
        let succeeded = job.status.as_ref().and_then(|s| s.succeeded).unwrap_or(0);
        if wanted.is_some_and(|wanted| succeeded > wanted) {
            let message = "Too many succeeded pods running after completion count reached";
            recorder.event(job, EventType::Warning, "TooManySucceededPods", message);
        }
        recorder.event(job, EventType::Normal, "Completed", "Job completed");
    }
}

/// Counts the named pods whose finalizer is gone; true if there were any.
fn count_released(status: &mut JobStatus, with_finalizer: &HashSet<String>) -> bool {
    let Some(uncounted) = &mut status.uncounted_terminated_pods else { return false };
    let take = |list: &mut Option<Vec<String>>| -> i32 {
        let Some(uids) = list else { return 0 };
        let before = uids.len();
        uids.retain(|uid| with_finalizer.contains(uid));
        let gone = before - uids.len();
        if uids.is_empty() {
            *list = None;
        }
        i32::try_from(gone).unwrap_or(0)
    };
    let (succeeded, failed) = (take(&mut uncounted.succeeded), take(&mut uncounted.failed));
    if succeeded + failed == 0 {
        return false;
    }
    status.succeeded = Some(status.succeeded.unwrap_or(0) + succeeded);
    status.failed = Some(status.failed.unwrap_or(0) + failed);
    true
}

/// Names the pods that have ended in the status. Returns those to let go, and whether there are more.
fn note_ended(pass: &mut Pass, flush: &mut bool) -> (Vec<Arc<Pod>>, bool) {
    let mut release = Vec::new();
    let mut full = false;
    let mut uncounted = pass.status().uncounted_terminated_pods.clone().unwrap_or_default();
    let succeeded = uncounted.succeeded.get_or_insert_default();
    let failed = uncounted.failed.get_or_insert_default();
    let indexed = pass.is_indexed();
    let failing = pass.finished.as_ref().is_some_and(|c| c.type_ != "SuccessCriteriaMet");
    let mut new_indexes = Vec::new();
    let mut all = pass.pods.clone();
    all.sort_by_key(|p| index_of(p).unwrap_or(-1));
    for pod in all.iter().filter(|p| has_finalizer(p)) {
        let is_failed = pass.is_failed(pod);
        if !pass.may_release(pod, is_failed) {
            continue;
        }
        release.push(Arc::clone(pod));
        let uid = pod.uid().to_owned();
        if pods::phase(pod) == "Succeeded" && !failed.contains(&uid) {
            if indexed {
                if let Some(index) = pass.valid_index(pod).filter(|i| !pass.counted_indexes.has(*i)) {
                    new_indexes.push(index);
                    *flush = true;
                }
            } else if !succeeded.contains(&uid) {
                succeeded.push(uid);
                *flush = true;
            }
        } else if (is_failed || failing)
            && !failed.contains(&uid)
            && (!indexed || pass.valid_index(pod).is_some())
            && pass.judge(pod) != Verdict::Ignore
        {
            failed.push(uid);
            *flush = true;
        }
        if new_indexes.len() + succeeded.len() + failed.len() >= UNCOUNTED_MAX {
            full = true;
            break;
        }
    }
    uncounted.succeeded = uncounted.succeeded.filter(|l| !l.is_empty());
    uncounted.failed = uncounted.failed.filter(|l| !l.is_empty());
    pass.status().uncounted_terminated_pods = Some(uncounted);
    if indexed {
        let counted = pass.counted_indexes.with(new_indexes);
        let completed = Some(counted.to_string()).filter(|t| !t.is_empty());
        let failed = pass.failed_indexes.as_ref().map(ToString::to_string);
        let status = pass.status();
        *flush |= status.completed_indexes != completed || status.failed_indexes != failed;
        status.succeeded = Some(counted.len());
        status.completed_indexes = completed;
        status.failed_indexes = failed;
    }
    (release, full)
}

/// Puts the interim condition into the status, and returns the final one.
fn name_end(pass: &mut Pass, flush: &mut bool) -> Option<k8s_openapi::api::batch::v1::JobCondition> {
    let mut finished = pass.finished.clone()?;
    if finished.type_ == "FailureTarget" {
        pass.status().conditions.get_or_insert_default().push(finished.clone());
        *flush = true;
        finished = pass.failed_after(&finished);
    }
    if finished.type_ == "SuccessCriteriaMet" {
        let conditions = pass.status().conditions.get_or_insert_default();
        if !conditions.iter().any(|c| c.type_ == "SuccessCriteriaMet" && c.status == "True") {
            conditions.push(finished.clone());
            *flush = true;
        }
        let text = |t: Option<String>| t.unwrap_or_default();
        finished = condition("Complete", "True", &text(finished.reason), &text(finished.message), pass.now);
    }
    Some(finished)
}

/// Ends the job unless pods are still to be counted or going (`enactJobFinished`).
fn end(job: &mut Job, finished: &k8s_openapi::api::batch::v1::JobCondition, terminating: i32) -> bool {
    let status = job.status.get_or_insert_default();
    let uncounted = status.uncounted_terminated_pods.as_ref();
    let pending = uncounted.is_some_and(|u| u.succeeded.is_some() || u.failed.is_some());
    if pending || terminating > 0 {
        return false;
    }
    let conditions = status.conditions.get_or_insert_default();
    conditions.retain(|c| c.type_ != finished.type_);
    conditions.push(finished.clone());
    if finished.type_ == "Complete" {
        status.completion_time.clone_from(&finished.last_transition_time);
    }
    true
}
