//! One look at a job and its pods, and what follows from it (`job_controller.go` `syncJob`, `manageJob`). Pure.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use client::{Resource, owner_ref};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobSpec, JobStatus};
use k8s_openapi::api::core::v1::{Container, EnvVar, EnvVarSource, ObjectFieldSelector, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::indexes::Indexes;
use super::policy::{self, Backoff, Verdict};
use super::{FINALIZER, has_finalizer};
use crate::pods;

const INDEX: &str = "batch.kubernetes.io/job-completion-index";
const FAILURE_COUNT: &str = "batch.kubernetes.io/job-index-failure-count";
const IGNORED_COUNT: &str = "batch.kubernetes.io/job-index-ignored-failure-count";
const INDEX_ENV: &str = "JOB_COMPLETION_INDEX";
/// Pods created or deleted in one pass.
const BURST: usize = 500;
/// Characters of a generated name before the random ones.
const PREFIX_MAX: usize = 58;

pub(super) struct Pass {
    pub job: Job,
    pub pods: Vec<Arc<Pod>>,
    pub active_pods: Vec<Arc<Pod>>,
    pub active: i32,
    pub ready: i32,
    pub terminating: i32,
    succeeded: i32,
    failed: i32,
    /// Indexes in the status, and those with pods that have just ended.
    pub counted_indexes: Indexes,
    pub succeeded_indexes: Indexes,
    pub failed_indexes: Option<Indexes>,
    /// The last failed pod of indexes that will be tried again: they stay until their successor is there.
    delayed: BTreeMap<i32, Arc<Pod>>,
    pub backoff: Backoff,
    /// How the job is about to end.
    pub finished: Option<JobCondition>,
    pub changed: bool,
    pub now: Timestamp,
}

pub(super) enum Creation {
    None,
    Wait(Duration),
    Pods(Vec<Pod>),
}

pub(super) fn condition(kind: &str, status: &str, reason: &str, message: &str, now: Timestamp) -> JobCondition {
    JobCondition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_probe_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    }
}

/// The index that a pod is for.
pub(super) fn index_of(pod: &Pod) -> Option<i32> {
    pod.annotation(INDEX)?.parse().ok().filter(|i| *i >= 0)
}

fn count_annotation(pod: &Pod, key: &str) -> u32 {
    pod.annotation(key).and_then(|v| v.parse().ok()).unwrap_or(0)
}

impl Pass {
    pub(super) fn new(mut job: Job, pods: Vec<Arc<Pod>>, backoff: Backoff, now: Timestamp) -> Self {
        job.status.get_or_insert_default().uncounted_terminated_pods.get_or_insert_default();
        job.spec.get_or_insert_default();
        let active_pods: Vec<Arc<Pod>> = pods.iter().filter(|p| pods::is_active(p)).cloned().collect();
        let count = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
        Self {
            active: count(active_pods.len()),
            ready: count(active_pods.iter().filter(|p| pods::is_ready(p)).count()),
            terminating: count(pods.iter().filter(|p| pods::is_terminating(p)).count()),
            job,
            pods,
            active_pods,
            succeeded: 0,
            failed: 0,
            counted_indexes: Indexes::default(),
            succeeded_indexes: Indexes::default(),
            failed_indexes: None,
            delayed: BTreeMap::new(),
            backoff,
            finished: None,
            changed: false,
            now,
        }
    }

    pub(super) fn spec(&self) -> &JobSpec {
        // `new` put one in.
        static NONE: std::sync::LazyLock<JobSpec> = std::sync::LazyLock::new(JobSpec::default);
        self.job.spec.as_ref().unwrap_or(&NONE)
    }

    pub(super) fn status(&mut self) -> &mut JobStatus {
        self.job.status.get_or_insert_default()
    }

    pub(super) fn is_suspended(&self) -> bool {
        self.spec().suspend == Some(true)
    }

    pub(super) fn is_indexed(&self) -> bool {
        self.spec().completion_mode.as_deref() == Some("Indexed")
    }

    fn completions(&self) -> i32 {
        self.spec().completions.unwrap_or(i32::MAX)
    }

    fn only_replaces_failed(&self) -> bool {
        let spec = self.spec();
        spec.pod_replacement_policy.as_deref() == Some("Failed") || spec.pod_failure_policy.is_some()
    }

    pub(super) fn is_failed(&self, pod: &Pod) -> bool {
        match pods::phase(pod) {
            "Failed" => true,
            "Succeeded" => false,
            // It may never get to a final phase.
            _ => !self.only_replaces_failed() && pod.is_deleting(),
        }
    }

    /// The index if it is one of this job's.
    pub(super) fn valid_index(&self, pod: &Pod) -> Option<i32> {
        index_of(pod).filter(|i| *i < self.completions())
    }

    pub(super) fn judge(&self, pod: &Pod) -> Verdict {
        policy::judge(self.spec().pod_failure_policy.as_ref(), pod)
    }

    fn uncounted(&self) -> (HashSet<String>, HashSet<String>) {
        let uncounted = self.job.status.as_ref().and_then(|s| s.uncounted_terminated_pods.as_ref());
        let set = |list: Option<&Vec<String>>| -> HashSet<String> { list.into_iter().flatten().cloned().collect() };
        (set(uncounted.and_then(|u| u.succeeded.as_ref())), set(uncounted.and_then(|u| u.failed.as_ref())))
    }

    /// Counts, and decides whether the job ends.
    pub(super) fn decide(&mut self) {
        let (counted_succeeded, counted_failed) = self.uncounted();
        let eligible = |pod: &&Arc<Pod>| has_finalizer(pod) && (!self.is_indexed() || self.valid_index(pod).is_some());
        let new_succeeded: Vec<Arc<Pod>> = self
            .pods
            .iter()
            .filter(eligible)
            .filter(|p| pods::phase(p) == "Succeeded" && !counted_succeeded.contains(p.uid()))
            .cloned()
            .collect();
        let new_failed: Vec<Arc<Pod>> = self
            .pods
            .iter()
            .filter(eligible)
            .filter(|p| self.is_failed(p) && !counted_failed.contains(p.uid()))
            .cloned()
            .collect();
        let counting = new_failed.iter().filter(|p| self.judge(p) != Verdict::Ignore).count();
        let status = self.job.status.clone().unwrap_or_default();
        let count = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
        self.succeeded = status.succeeded.unwrap_or(0) + count(new_succeeded.len() + counted_succeeded.len());
        self.failed = status.failed.unwrap_or(0) + count(counting + counted_failed.len());
        self.backoff = self.backoff.with(&new_succeeded, &new_failed);
        if status.start_time.is_none() && !self.is_suspended() {
            let now = Time(self.now);
            self.status().start_time = Some(now);
        }
        self.finished = self.known_end(&status).or_else(|| self.limits());
        if self.is_indexed() {
            self.count_indexes(&status);
        }
    }

    /// An end that the status, or a pod's failure, already says.
    fn known_end(&self, status: &JobStatus) -> Option<JobCondition> {
        let find = |kind: &str| {
            let conditions = status.conditions.as_deref().unwrap_or_default();
            conditions.iter().find(|c| c.type_ == kind && c.status == "True").cloned()
        };
        if let Some(met) = find("SuccessCriteriaMet") {
            return Some(met);
        }
        if let Some(target) = find("FailureTarget") {
            return Some(self.failed_after(&target));
        }
        let failed = self.pods.iter().filter(|p| self.is_failed(p));
        failed
            .filter_map(|pod| match self.judge(pod) {
                Verdict::FailJob(message) => {
                    Some(condition("FailureTarget", "True", "PodFailurePolicy", &message, self.now))
                }
                _ => None,
            })
            .next()
    }

    /// The final condition that follows a failure target.
    pub(super) fn failed_after(&self, target: &JobCondition) -> JobCondition {
        let text = |t: &Option<String>| t.clone().unwrap_or_default();
        condition("Failed", "True", &text(&target.reason), &text(&target.message), self.now)
    }

    fn limits(&self) -> Option<JobCondition> {
        let limit = self.spec().backoff_limit.unwrap_or(6);
        let target = |reason: &str, message: &str| Some(condition("FailureTarget", "True", reason, message, self.now));
        if self.failed > limit || self.restarted_too_often(limit) {
            return target("BackoffLimitExceeded", "Job has reached the specified backoff limit");
        }
        if self.deadline_left().is_some_and(|left| left <= SignedDuration::ZERO) {
            return target("DeadlineExceeded", "Job was active longer than specified deadline");
        }
        None
    }

    /// Restarts within pods count for jobs whose pods restart (`pastBackoffLimitOnFailure`).
    fn restarted_too_often(&self, limit: i32) -> bool {
        let policy = self.spec().template.spec.as_ref().and_then(|s| s.restart_policy.as_deref());
        if policy != Some("OnFailure") {
            return false;
        }
        let restarts: i32 = self
            .pods
            .iter()
            .filter(|p| matches!(pods::phase(p), "Running" | "Pending"))
            .filter_map(|p| p.status.as_ref())
            .flat_map(|s| s.init_container_statuses.iter().flatten().chain(s.container_statuses.iter().flatten()))
            .map(|c| c.restart_count)
            .sum();
        if limit == 0 { restarts > 0 } else { restarts >= limit }
    }

    fn deadline_left(&self) -> Option<SignedDuration> {
        let deadline = self.spec().active_deadline_seconds?;
        let start = self.job.status.as_ref()?.start_time.as_ref()?.0;
        (!self.is_suspended()).then(|| SignedDuration::from_secs(deadline) - self.now.duration_since(start))
    }

    /// When to look again because of the deadline.
    pub(super) fn until_deadline(&self) -> Option<Duration> {
        if self.finished.is_some() {
            return None;
        }
        Duration::try_from(self.deadline_left()?).ok()
    }

    fn count_indexes(&mut self, status: &JobStatus) {
        let completions = self.completions();
        self.counted_indexes = Indexes::parse(status.completed_indexes.as_deref().unwrap_or_default(), completions);
        let ended = |p: &&Arc<Pod>| has_finalizer(p) && pods::phase(p) == "Succeeded";
        let now = self.pods.iter().filter(ended).filter_map(|p| self.valid_index(p));
        let succeeded = self.counted_indexes.with(now);
        self.succeeded = succeeded.len();
        self.succeeded_indexes = succeeded;
        if let Some(limit) = self.spec().backoff_limit_per_index {
            let mut ended = Vec::new();
            for pod in self.pods.iter().filter(|p| has_finalizer(p) && self.is_failed(p)) {
                let Some(index) = self.valid_index(pod) else { continue };
                let over = count_annotation(pod, FAILURE_COUNT) >= u32::try_from(limit).unwrap_or(0);
                let verdict = self.judge(pod);
                if verdict == Verdict::FailIndex || (over && verdict != Verdict::Ignore) {
                    ended.push(index);
                }
            }
            let known = Indexes::parse(status.failed_indexes.as_deref().unwrap_or_default(), completions);
            let failed = known.with(ended);
            if self.finished.is_none() {
                self.finished = self.index_limits(&failed);
            }
            self.delayed = self.delayed_pods(&failed);
            self.failed_indexes = Some(failed);
        }
        if self.finished.is_none()
            && let Some(message) =
                policy::success(self.spec().success_policy.as_ref(), completions, &self.succeeded_indexes)
        {
            self.finished = Some(condition("SuccessCriteriaMet", "True", "SuccessPolicy", &message, self.now));
        }
    }

    fn index_limits(&self, failed: &Indexes) -> Option<JobCondition> {
        let target = |reason: &str, message: &str| Some(condition("FailureTarget", "True", reason, message, self.now));
        if self.spec().max_failed_indexes.is_some_and(|max| failed.len() > max) {
            return target(
                "MaxFailedIndexesExceeded",
                "Job has exceeded the specified maximal number of failed indexes",
            );
        }
        if !failed.is_empty() && failed.len().saturating_add(self.succeeded_indexes.len()) >= self.completions() {
            return target("FailedIndexes", "Job has failed indexes");
        }
        None
    }

    fn delayed_pods(&self, failed: &Indexes) -> BTreeMap<i32, Arc<Pod>> {
        let active: BTreeSet<i32> = self.active_pods.iter().filter_map(|p| index_of(p)).collect();
        let mut delayed: BTreeMap<i32, Arc<Pod>> = BTreeMap::new();
        for pod in self.pods.iter().filter(|p| has_finalizer(p) && self.is_failed(p)) {
            let Some(index) = self.valid_index(pod) else { continue };
            if self.succeeded_indexes.has(index) || failed.has(index) || active.contains(&index) {
                continue;
            }
            let tries = |p: &Pod| count_annotation(p, FAILURE_COUNT) + count_annotation(p, IGNORED_COUNT);
            if delayed.get(&index).is_none_or(|known| tries(known) <= tries(pod)) {
                delayed.insert(index, Arc::clone(pod));
            }
        }
        delayed
    }

    /// Pods that are too many (`activePodsForRemoval`).
    pub(super) fn to_delete(&self) -> Vec<Arc<Pod>> {
        if self.is_suspended() {
            return self.active_pods.clone();
        }
        let excess = usize::try_from((self.active - self.wanted()).max(0)).unwrap_or(0);
        let mut rest = self.active_pods.clone();
        pods::sort_for_deletion(&mut rest, &std::collections::HashMap::new(), self.now);
        let mut doomed = Vec::new();
        if self.is_indexed() {
            // Of pods with the same index the last in the order stays.
            let mut seen = BTreeSet::new();
            let mut kept = Vec::new();
            for pod in rest.into_iter().rev() {
                match self.valid_index(&pod) {
                    Some(index) if seen.insert(index) => kept.push(pod),
                    _ => doomed.push(pod),
                }
            }
            kept.reverse();
            rest = kept;
        }
        let more = excess.saturating_sub(doomed.len());
        doomed.extend(rest.into_iter().take(more));
        doomed.truncate(BURST);
        doomed
    }

    fn wanted(&self) -> i32 {
        let parallelism = self.spec().parallelism.unwrap_or(1);
        match self.spec().completions {
            None if self.succeeded > 0 => self.active,
            None => parallelism,
            Some(completions) => (completions - self.succeeded).min(parallelism).max(0),
        }
    }

    /// Pods that are missing.
    pub(super) fn to_create(&self) -> Creation {
        let replaced = if self.only_replaces_failed() { self.terminating } else { 0 };
        let missing = usize::try_from(self.wanted() - replaced - self.active).unwrap_or(0).min(BURST);
        if missing == 0 {
            return Creation::None;
        }
        let per_index = self.spec().backoff_limit_per_index.is_some();
        if !per_index && let Some(wait) = self.backoff.remaining(self.now) {
            return Creation::Wait(wait);
        }
        if !self.is_indexed() {
            return Creation::Pods(vec![self.pod(None); missing]);
        }
        let mut wait: Option<Duration> = None;
        let mut ready = Vec::new();
        for index in self.pending_indexes(missing) {
            let tries = |p: &Pod| count_annotation(p, FAILURE_COUNT) + count_annotation(p, IGNORED_COUNT);
            let left = self
                .delayed
                .get(&index)
                .filter(|_| per_index)
                .and_then(|p| policy::index_remaining(tries(p), p, self.now));
            match left {
                None => ready.push(index),
                Some(left) => wait = Some(wait.map_or(left, |w| w.min(left))),
            }
        }
        match (ready.is_empty(), wait) {
            (true, Some(wait)) => Creation::Wait(wait),
            (true, None) => Creation::None,
            (false, _) => Creation::Pods(ready.into_iter().map(|i| self.pod(Some(i))).collect()),
        }
    }

    fn pending_indexes(&self, count: usize) -> Vec<i32> {
        let mut taken = self.succeeded_indexes.with(self.active_pods.iter().filter_map(|p| index_of(p)));
        if self.only_replaces_failed() {
            taken = taken.with(self.pods.iter().filter(|p| pods::is_terminating(p)).filter_map(|p| index_of(p)));
        }
        if let Some(failed) = &self.failed_indexes {
            taken = taken.union(failed);
        }
        taken.missing(self.completions()).take(count).collect()
    }

    fn pod(&self, index: Option<i32>) -> Pod {
        let job = &self.job;
        let mut pod = pods::from_template(&self.spec().template, job.namespace(), job.name(), owner_ref(job));
        let finalizers = pod.metadata.finalizers.get_or_insert_default();
        if !finalizers.iter().any(|f| f == FINALIZER) {
            finalizers.push(FINALIZER.to_owned());
        }
        let Some(index) = index else { return pod };
        let suffix = format!("-{index}-");
        let mut end = job.name().len().min(PREFIX_MAX.saturating_sub(suffix.len()));
        while !job.name().is_char_boundary(end) {
            end -= 1;
        }
        pod.metadata.generate_name = Some(format!("{}{suffix}", &job.name()[..end]));
        pod.metadata.labels.get_or_insert_default().insert(INDEX.to_owned(), index.to_string());
        let annotations = pod.metadata.annotations.get_or_insert_default();
        annotations.insert(INDEX.to_owned(), index.to_string());
        if self.spec().backoff_limit_per_index.is_some() {
            let (failures, ignored) = match self.delayed.get(&index) {
                None => (0, 0),
                Some(last) => {
                    let ignored = self.judge(last) == Verdict::Ignore;
                    (
                        count_annotation(last, FAILURE_COUNT) + u32::from(!ignored),
                        count_annotation(last, IGNORED_COUNT) + u32::from(ignored),
                    )
                }
            };
            annotations.insert(FAILURE_COUNT.to_owned(), failures.to_string());
            if ignored > 0 {
                annotations.insert(IGNORED_COUNT.to_owned(), ignored.to_string());
            }
        }
        if let Some(spec) = &mut pod.spec {
            spec.hostname = Some(format!("{}-{index}", job.name()));
            spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()).for_each(add_index_variable);
        }
        pod
    }

    pub(super) fn note_deleted(&mut self, deleted: &[Arc<Pod>]) {
        let count = |n: usize| i32::try_from(n).unwrap_or(0);
        self.active -= count(deleted.len());
        self.terminating += count(deleted.len());
        self.ready -= count(deleted.iter().filter(|p| pods::is_ready(p)).count());
    }

    /// Whether the last pod that the job needs has succeeded.
    pub(super) fn complete_if_done(&mut self) {
        let done = match self.spec().completions {
            None => self.succeeded > 0,
            Some(completions) => self.succeeded >= completions,
        };
        if done && self.active == 0 {
            let message = "Reached expected number of succeeded pods";
            self.finished = Some(condition("SuccessCriteriaMet", "True", "CompletionsReached", message, self.now));
        }
    }

    /// Keeps the Suspended condition; the event to record if it changed.
    pub(super) fn note_suspension(&mut self) -> Option<(&'static str, &'static str)> {
        let now = self.now;
        let suspended = self.is_suspended();
        let status = self.status();
        let conditions = status.conditions.get_or_insert_default();
        let known = conditions.iter_mut().find(|c| c.type_ == "Suspended");
        let (state, reason, message, event) = if suspended {
            ("True", "JobSuspended", "Job suspended", "Suspended")
        } else {
            ("False", "JobResumed", "Job resumed", "Resumed")
        };
        match known {
            Some(c) if c.status == state => return None,
            Some(c) => *c = condition("Suspended", state, reason, message, now),
            None if suspended => conditions.push(condition("Suspended", state, reason, message, now)),
            None => return None,
        }
        status.start_time = (!suspended).then_some(Time(now));
        self.changed = true;
        Some((event, message))
    }

    /// Whether the finalizer of a pod may go (`canRemoveFinalizer`).
    pub(super) fn may_release(&self, pod: &Pod, failed: bool) -> bool {
        if self.job.is_deleting() || self.finished.is_some() || pods::phase(pod) == "Succeeded" {
            return true;
        }
        let kept = index_of(pod).and_then(|i| self.delayed.get(&i)).is_some_and(|d| d.uid() == pod.uid());
        failed && !kept
    }
}

fn add_index_variable(container: &mut Container) {
    let variables = container.env.get_or_insert_default();
    if variables.iter().any(|v| v.name == INDEX_ENV) {
        return;
    }
    variables.push(EnvVar {
        name: INDEX_ENV.to_owned(),
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector {
                field_path: format!("metadata.labels['{INDEX}']"),
                api_version: None,
            }),
            ..Default::default()
        }),
        ..Default::default()
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn job(spec: serde_json::Value, status: serde_json::Value) -> Job {
        let mut full = json!({"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c"}]}}, "parallelism": 2, "backoffLimit": 1});
        for (key, value) in spec.as_object().unwrap() {
            full[key] = value.clone();
        }
        serde_json::from_value(
            json!({"metadata": {"name": "j", "namespace": "n", "uid": "u"}, "spec": full, "status": status}),
        )
        .unwrap()
    }

    fn pod(name: &str, phase: &str, index: Option<i32>) -> Arc<Pod> {
        let annotations = index.map_or(json!({}), |i| json!({INDEX: i.to_string()}));
        Arc::new(
            serde_json::from_value(json!({
                "metadata": {"name": name, "namespace": "n", "uid": name, "finalizers": [FINALIZER], "annotations": annotations,
                    "creationTimestamp": "2026-01-01T00:00:00Z"},
                "status": {"phase": phase},
            }))
            .unwrap(),
        )
    }

    fn pass(spec: serde_json::Value, status: serde_json::Value, pods: Vec<Arc<Pod>>) -> Pass {
        let mut pass = Pass::new(job(spec, status), pods, Backoff::default(), "2026-01-01T01:00:00Z".parse().unwrap());
        pass.decide();
        pass.complete_if_done();
        pass
    }

    fn created(pass: &Pass) -> usize {
        match pass.to_create() {
            Creation::Pods(pods) => pods.len(),
            _ => 0,
        }
    }

    #[test]
    fn pods_are_created_up_to_the_parallelism_and_what_is_left() {
        assert_eq!(created(&pass(json!({"completions": 5}), json!({}), vec![])), 2);
        assert_eq!(created(&pass(json!({"completions": 5}), json!({"succeeded": 4}), vec![])), 1);
        assert_eq!(created(&pass(json!({}), json!({}), vec![pod("a", "Running", None)])), 1);
        let done = pass(json!({"completions": 1}), json!({}), vec![pod("a", "Succeeded", None)]);
        assert_eq!(done.finished.unwrap().type_, "SuccessCriteriaMet");
    }

    #[test]
    fn too_many_failures_and_a_deadline_end_a_job() {
        let failed = pass(json!({}), json!({"failed": 1}), vec![pod("a", "Failed", None)]);
        assert_eq!(failed.finished.unwrap().reason.as_deref(), Some("BackoffLimitExceeded"));
        let late = pass(json!({"activeDeadlineSeconds": 60}), json!({"startTime": "2026-01-01T00:00:00Z"}), vec![]);
        assert_eq!(late.finished.unwrap().reason.as_deref(), Some("DeadlineExceeded"));
    }

    #[test]
    fn indexes_are_filled_from_the_first_and_duplicates_go() {
        let indexed =
            |pods| pass(json!({"completionMode": "Indexed", "completions": 3}), json!({"completedIndexes": "0"}), pods);
        let Creation::Pods(made) = indexed(vec![]).to_create() else { panic!() };
        let indexes: Vec<_> = made.iter().map(|p| index_of(p).unwrap()).collect();
        assert_eq!(indexes, [1, 2]);
        assert_eq!(made[0].metadata.generate_name.as_deref(), Some("j-1-"));
        assert_eq!(made[0].spec.as_ref().unwrap().hostname.as_deref(), Some("j-1"));
        let twice = indexed(vec![pod("a", "Running", Some(1)), pod("b", "Running", Some(1))]);
        assert_eq!(twice.to_delete().len(), 1);
    }

    #[test]
    fn suspension_removes_pods_and_resets_the_start() {
        let mut suspended = pass(
            json!({"suspend": true}),
            json!({"startTime": "2026-01-01T00:00:00Z"}),
            vec![pod("a", "Running", None)],
        );
        assert_eq!(suspended.to_delete().len(), 1);
        assert_eq!(suspended.note_suspension(), Some(("Suspended", "Job suspended")));
        assert_eq!(suspended.note_suspension(), None);
        assert!(suspended.job.status.unwrap().start_time.is_none());
    }
}
