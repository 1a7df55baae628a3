//! CronJobs: a Job at every scheduled time (`pkg/controller/cronjob`).

pub(crate) mod schedule;

use std::sync::Arc;
use std::time::Duration;

use api::names::ObjectKey;
use async_trait::async_trait;
use client::{DeleteParams, EventType, Informer, ObjectRef, Resource, WorkQueue, controller_of, owner_ref};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

use crate::error::Error;
use crate::harness::{Context, Parts, Reconcile, all_synced, current, synced};
use crate::job;
use crate::written::Written;
use schedule::Schedule;

const WORKERS: usize = 5;
const SCHEDULED_AT: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";
/// More missed times than this, and the user is told (`nextScheduleTime`).
const MISSED_MAX: usize = 100;
/// So that the clock is past the time when the timer fires (`nextScheduleDelta`).
const LATE: Duration = Duration::from_millis(100);

pub(crate) fn start(context: Context) {
    let crons = context.informers.informer::<CronJob>();
    let jobs = context.informers.informer::<Job>();
    let queue = WorkQueue::new();
    let add_all = context.feed_own(&crons, &queue);
    context.feed(&jobs, &add_all, {
        let queue = queue.clone();
        move |event| {
            let Some(job) = current(event) else { return };
            if let Some(owner) = controller_of(&job.metadata).filter(|owner| owner.kind == "CronJob") {
                queue.add(ObjectKey::new(job.namespace(), &owner.name));
            }
        }
    });
    let ready = all_synced(vec![synced(&crons), synced(&jobs)]);
    let reconciler = Arc::new(Reconciler {
        crons,
        jobs,
        queue: queue.clone(),
        written: Written::default(),
        written_jobs: Written::default(),
        context: context.parts(),
    });
    context.work(reconciler, queue, WORKERS, ready);
}

struct Reconciler {
    crons: Informer<CronJob>,
    jobs: Informer<Job>,
    queue: WorkQueue<ObjectKey>,
    written: Written,
    written_jobs: Written,
    context: Parts,
}

#[async_trait]
impl Reconcile for Reconciler {
    async fn reconcile(&self, key: &ObjectKey) -> Result<(), Error> {
        let Some(cached) = self.crons.get(&key.namespace, &key.name) else { return Ok(()) };
        self.written.check(key, &self.crons)?;
        self.written_jobs.check(key, &self.jobs)?;
        let jobs = self.jobs.by_owner(cached.uid());
        let mut cron = (*cached).clone();
        self.clean_up(&mut cron, &jobs).await?;
        let result = self.sync(key, &mut cron, &jobs).await;
        if cron.status != cached.status {
            let updated = self.context.client.update_status(&cron).await?;
            self.written.note(key, &updated);
        }
        if let Some(next) = result? {
            let left = next.duration_since(self.context.clock.now());
            let delay = Duration::try_from(left).unwrap_or_default() + LATE;
            self.queue.add_after(key.clone(), delay);
        }
        Ok(())
    }
}

fn is_active(cron: &CronJob, uid: &str) -> bool {
    let active = cron.status.as_ref().and_then(|s| s.active.as_deref()).unwrap_or_default();
    active.iter().any(|reference| reference.uid.as_deref() == Some(uid))
}

fn forget(cron: &mut CronJob, uid: &str) {
    if let Some(active) = cron.status.as_mut().and_then(|s| s.active.as_mut()) {
        active.retain(|reference| reference.uid.as_deref() != Some(uid));
    }
    if let Some(status) = &mut cron.status
        && status.active.as_ref().is_some_and(Vec::is_empty)
    {
        status.active = None;
    }
}

impl Reconciler {
    fn event(&self, cron: &CronJob, kind: EventType, reason: &str, message: &str) {
        self.context.recorder.event(cron, kind, reason, message);
    }

    /// `syncCronJob`; returns the next time to look.
    async fn sync(&self, key: &ObjectKey, cron: &mut CronJob, jobs: &[Arc<Job>]) -> Result<Option<Timestamp>, Error> {
        self.follow(cron, jobs);
        self.find_missing(cron, jobs).await?;
        if cron.is_deleting() || cron.spec.suspend == Some(true) {
            return Ok(None);
        }
        let now = self.context.clock.now();
        if let Some(zone) = &cron.spec.time_zone
            && schedule::time_zone(zone).is_none()
        {
            let message = format!("invalid timeZone: \"{zone}\": unknown time zone {zone}");
            self.event(cron, EventType::Warning, "UnknownTimeZone", &message);
            return Ok(None);
        }
        let schedule = match Schedule::parse(&cron.spec.schedule, cron.spec.time_zone.as_deref()) {
            Ok(schedule) => schedule,
            Err(error) => {
                let message = format!("unparseable schedule: \"{}\" : {error}", cron.spec.schedule);
                self.event(cron, EventType::Warning, "UnparseableSchedule", &message);
                return Ok(None);
            }
        };
        let next = schedule.next(now);
        let Some((due, missed)) = most_recent(cron, &schedule, now) else { return Ok(next) };
        if missed > MISSED_MAX {
            let message = format!(
                "too many missed start times: {missed}. Set or decrease .spec.startingDeadlineSeconds or check clock skew"
            );
            self.event(cron, EventType::Warning, "TooManyMissedTimes", &message);
        }
        let deadline = cron.spec.starting_deadline_seconds.map(SignedDuration::from_secs);
        if deadline.is_some_and(|deadline| now.duration_since(due) > deadline) {
            let message = format!("Missed scheduled time to start a job: {due}");
            self.event(cron, EventType::Warning, "MissSchedule", &message);
            return Ok(next);
        }
        let name = format!("{}-{}", cron.name(), due.as_second() / 60);
        let status = cron.status.get_or_insert_default();
        let active = status.active.clone().unwrap_or_default();
        if active.iter().any(|r| r.name.as_deref() == Some(&name))
            || status.last_schedule_time.as_ref().map(|t| t.0) == Some(due)
        {
            return Ok(next);
        }
        match cron.spec.concurrency_policy.as_deref() {
            Some("Forbid") if !active.is_empty() => {
                let message = "Not starting job because prior execution is running and concurrency policy is Forbid";
                self.event(cron, EventType::Normal, "JobAlreadyActive", message);
                return Ok(next);
            }
            Some("Replace") => {
                let running: Vec<_> = jobs.iter().filter(|j| is_active(cron, j.uid())).collect();
                for job in running {
                    self.delete(cron, job).await?;
                }
            }
            _ => {}
        }
        self.create(key, cron, due, name).await?;
        Ok(next)
    }

    /// Takes note of jobs that ended, and of any it did not start.
    fn follow(&self, cron: &mut CronJob, jobs: &[Arc<Job>]) {
        for job in jobs {
            let known = is_active(cron, job.uid());
            match job::finish(job) {
                None if !known => {
                    let message = format!("Saw a job that the controller did not create or forgot: {}", job.name());
                    self.event(cron, EventType::Warning, "UnexpectedJob", &message);
                }
                Some(finish) if known => {
                    forget(cron, job.uid());
                    let message = format!("Saw completed job: {}, condition: {}", job.name(), finish.type_);
                    self.event(cron, EventType::Normal, "SawCompletedJob", &message);
                }
                _ => {}
            }
            let succeeded = job::finish(job).is_some_and(|f| f.type_ == "Complete");
            if let Some(at) = job.status.as_ref().and_then(|s| s.completion_time.clone()).filter(|_| succeeded) {
                let status = cron.status.get_or_insert_default();
                if status.last_successful_time.as_ref().is_none_or(|last| at > *last) {
                    status.last_successful_time = Some(at);
                }
            }
        }
    }

    async fn find_missing(&self, cron: &mut CronJob, jobs: &[Arc<Job>]) -> Result<(), Error> {
        let active = cron.status.as_ref().and_then(|s| s.active.clone()).unwrap_or_default();
        for reference in active {
            let uid = reference.uid.unwrap_or_default();
            let name = reference.name.unwrap_or_default();
            if jobs.iter().any(|job| job.uid() == uid) {
                continue;
            }
            if self.context.client.get_opt::<Job>(cron.namespace(), &name).await?.is_none() {
                forget(cron, &uid);
                self.event(cron, EventType::Normal, "MissingJob", &format!("Active job went missing: {name}"));
            }
        }
        Ok(())
    }

    async fn create(&self, key: &ObjectKey, cron: &mut CronJob, due: Timestamp, name: String) -> Result<(), Error> {
        let template = cron.spec.job_template.clone();
        let metadata = template.metadata.unwrap_or_default();
        let mut annotations = metadata.annotations.unwrap_or_default();
        let zone = cron.spec.time_zone.as_deref().and_then(schedule::time_zone);
        let shown = due.to_zoned(zone.unwrap_or(jiff::tz::TimeZone::UTC));
        annotations
            .insert(SCHEDULED_AT.to_owned(), shown.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string().replace("+00:00", "Z"));
        let job = Job {
            metadata: ObjectMeta {
                name: Some(name),
                namespace: cron.metadata.namespace.clone(),
                labels: metadata.labels,
                annotations: Some(annotations),
                creation_timestamp: None,
                owner_references: Some(vec![owner_ref(cron)]),
                ..Default::default()
            },
            spec: template.spec,
            status: None,
        };
        let made = match self.context.client.create(&job).await {
            Ok(made) => {
                self.written_jobs.note(key, &made);
                let message = format!("Created job {}", made.name());
                self.event(cron, EventType::Normal, "SuccessfulCreate", &message);
                made
            }
            Err(error) if error.is_already_exists() => {
                let made = self.context.client.get::<Job>(cron.namespace(), job.name()).await?;
                if !client::is_controlled_by(&made.metadata, cron.uid()) || is_active(cron, made.uid()) {
                    return Ok(());
                }
                made
            }
            Err(error) if error.is_namespace_terminating() => return Err(error.into()),
            Err(error) => {
                let message = format!("Error creating job: {}", base::chain(&error));
                self.event(cron, EventType::Warning, "FailedCreate", &message);
                return Err(error.into());
            }
        };
        let status = cron.status.get_or_insert_default();
        status.active.get_or_insert_default().push(made.object_ref());
        status.last_schedule_time = Some(Time(due));
        Ok(())
    }

    async fn delete(&self, cron: &mut CronJob, job: &Job) -> Result<(), Error> {
        match self.context.client.delete::<Job>(job.namespace(), job.name(), &DeleteParams::background()).await {
            Err(error) if !error.is_not_found() => {
                let message = format!("Deleted job: {}", base::chain(&error));
                self.event(cron, EventType::Warning, "FailedDelete", &message);
                Err(error.into())
            }
            _ => {
                forget(cron, job.uid());
                self.event(cron, EventType::Normal, "SuccessfulDelete", &format!("Deleted job {}", job.name()));
                Ok(())
            }
        }
    }

    /// Deletes the oldest finished jobs beyond the limits (`cleanupFinishedJobs`).
    async fn clean_up(&self, cron: &mut CronJob, jobs: &[Arc<Job>]) -> Result<(), Error> {
        for (kind, limit) in
            [("Complete", cron.spec.successful_jobs_history_limit), ("Failed", cron.spec.failed_jobs_history_limit)]
        {
            let Some(limit) = limit.and_then(|l| usize::try_from(l).ok()) else { continue };
            let ended = |job: &&Arc<Job>| !job.is_deleting() && job::finish(job).is_some_and(|f| f.type_ == kind);
            let mut finished: Vec<&Arc<Job>> = jobs.iter().filter(ended).collect();
            finished.sort_by_key(|job| job.status.as_ref().and_then(|s| s.start_time.clone()));
            let excess = finished.len().saturating_sub(limit);
            for job in finished.into_iter().take(excess) {
                self.delete(cron, job).await?;
            }
        }
        Ok(())
    }
}

/// The latest time that is due and was not served, and how many there were (`mostRecentScheduleTime`).
fn most_recent(cron: &CronJob, schedule: &Schedule, now: Timestamp) -> Option<(Timestamp, usize)> {
    let status = cron.status.as_ref();
    let mut from = match status.and_then(|s| s.last_schedule_time.as_ref()) {
        Some(last) => last.0,
        None => cron.metadata.creation_timestamp.as_ref()?.0,
    };
    if let Some(deadline) = cron.spec.starting_deadline_seconds
        && let Ok(begin) = now.checked_sub(SignedDuration::from_secs(deadline))
    {
        from = from.max(begin);
    }
    let (mut found, mut missed) = (None, 0);
    let first = schedule.next(from)?;
    let mut at = first;
    // Most of a long gap is skipped by its regular step.
    let second = schedule.next(at)?;
    let step = second.duration_since(at).as_secs().max(1);
    let gap = now.duration_since(at).as_secs() / step;
    if gap > 1000 {
        let near = SignedDuration::from_secs((gap - 1).saturating_mul(step));
        at = schedule.next(first.checked_add(near).ok()?)?;
        missed = usize::try_from(gap).unwrap_or(usize::MAX);
        // A schedule with long pauses may have had its last time before that: looked for further and further back, so
        // that not all the times of many years are counted.
        let mut back = SignedDuration::from_secs(step);
        while at > now {
            back = back.checked_mul(2)?;
            let begin = now.checked_sub(back).map_or(from, |begin| begin.max(from));
            at = schedule.next(begin)?;
            if begin == from {
                break;
            }
        }
    }
    while at <= now {
        found = Some(at);
        missed += 1;
        at = schedule.next(at)?;
    }
    Some((found?, missed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_latest_of_many_years_is_found_at_once() {
        // Every minute of January, since the epoch.
        let mut cron: CronJob = serde_json::from_value(json!({
            "metadata": {"name": "c", "creationTimestamp": "1970-01-01T00:00:00Z"},
            "spec": {"schedule": "* * * 1 *", "startingDeadlineSeconds": i64::MAX, "jobTemplate": {}},
        }))
        .unwrap();
        let now: Timestamp = "2026-11-30T12:00:30Z".parse().unwrap();
        let schedule = Schedule::parse("* * * 1 *", None).unwrap();
        let began = std::time::Instant::now();
        let (at, missed) = most_recent(&cron, &schedule, now).unwrap();
        assert_eq!(at, "2026-01-31T23:59:00Z".parse().unwrap());
        assert!(missed > MISSED_MAX && began.elapsed() < Duration::from_secs(5));
        // What repeats in steps of its own keeps its steps.
        let schedule = Schedule::parse("@every 7s", None).unwrap();
        let created: Timestamp = "2026-11-01T00:00:00Z".parse().unwrap();
        cron.metadata.creation_timestamp = Some(Time(created));
        let (at, _) = most_recent(&cron, &schedule, now).unwrap();
        assert_eq!(at.duration_since(created).as_secs() % 7, 0);
        assert!(now.duration_since(at).as_secs() < 7);
    }

    #[test]
    fn the_latest_missed_time_is_served() {
        let check = |last: Option<&str>, deadline: Option<i64>, now: &str, expected: Option<(&str, usize)>| {
            let mut cron: CronJob = serde_json::from_value(json!({
                "metadata": {"name": "c", "creationTimestamp": "2026-01-01T00:00:00Z"},
                "spec": {"schedule": "*/5 * * * *", "jobTemplate": {}},
            }))
            .unwrap();
            cron.spec.starting_deadline_seconds = deadline;
            cron.status.get_or_insert_default().last_schedule_time = last.map(|l| Time(l.parse().unwrap()));
            let schedule = Schedule::parse("*/5 * * * *", None).unwrap();
            let found = most_recent(&cron, &schedule, now.parse().unwrap());
            assert_eq!(found, expected.map(|(at, missed)| (at.parse().unwrap(), missed)), "{last:?} {now}");
        };
        check(None, None, "2026-01-01T00:04:00Z", None);
        check(None, None, "2026-01-01T00:05:00Z", Some(("2026-01-01T00:05:00Z", 1)));
        check(Some("2026-01-01T00:05:00Z"), None, "2026-01-01T00:09:00Z", None);
        check(Some("2026-01-01T00:05:00Z"), None, "2026-01-01T00:21:00Z", Some(("2026-01-01T00:20:00Z", 3)));
        check(Some("2026-01-01T00:05:00Z"), Some(60), "2026-01-01T00:23:00Z", None);
        let (at, missed) = ("2026-03-01T00:00:00Z", 16992);
        check(None, None, "2026-03-01T00:01:00Z", Some((at, missed)));
    }
}
