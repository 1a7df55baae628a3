//! StatefulSets: pods with a name, a place in an order, and storage of their own (`pkg/controller/statefulset`).

mod claims;
mod plan;

use std::sync::Arc;

use api::names::ObjectKey;
use async_trait::async_trait;
use client::{DeleteParams, EventType, Informer, Resource, WorkQueue};
use futures::future::join_all;
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet, StatefulSetStatus};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};

use crate::claim::claim;
use crate::error::Error;
use crate::expectations::Expectations;
use crate::harness::{Context, Parts, Reconcile, all_synced, synced};
use crate::history;
use crate::pod_owners::PodOwners;
use crate::selector::Selector;
use crate::written::Written;
use claims::Claims;
use plan::Slot;

const WORKERS: usize = 5;

pub(crate) fn start(context: Context) {
    let sets = context.informers.informer::<StatefulSet>();
    let pods = context.informers.informer::<Pod>();
    let volumes = context.informers.informer::<PersistentVolumeClaim>();
    let revisions = context.informers.informer::<ControllerRevision>();
    let queue = WorkQueue::new();

    let add_all = context.feed_own(&sets, &queue);
    let handler = PodOwners {
        owners: sets.clone(),
        queue: queue.clone(),
        // Pods are created one by one under known names: nothing to expect.
        expectations: Arc::new(Expectations::default()),
        selector: |set: &StatefulSet| Selector::new(&set.spec.selector),
        min_ready_seconds: plan::min_ready_seconds,
    };
    context.feed(&pods, &add_all, move |event| handler.handle(event));

    let ready = all_synced(vec![synced(&sets), synced(&pods), synced(&volumes), synced(&revisions)]);
    let reconciler = Arc::new(Reconciler {
        sets,
        pods,
        revisions,
        queue: queue.clone(),
        written: Written::default(),
        written_revisions: Written::default(),
        claims: Claims { volumes, written: Written::default(), context: context.parts() },
        context: context.parts(),
    });
    context.work(reconciler, queue, WORKERS, ready);
}

struct Reconciler {
    sets: Informer<StatefulSet>,
    pods: Informer<Pod>,
    revisions: Informer<ControllerRevision>,
    queue: WorkQueue<ObjectKey>,
    written: Written,
    written_revisions: Written,
    claims: Claims,
    context: Parts,
}

/// What a step over one pod says.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flow {
    Continue,
    /// The pods after this one have to wait.
    Wait,
}

#[async_trait]
impl Reconcile for Reconciler {
    async fn reconcile(&self, key: &ObjectKey) -> Result<(), Error> {
        let Some(set) = self.sets.get(&key.namespace, &key.name) else { return Ok(()) };
        let Some(selector) = Selector::new(&set.spec.selector) else { return Ok(()) };
        self.written.check(key, &self.pods)?;
        self.written_revisions.check(key, &self.revisions)?;
        self.claims.written.check(key, &self.claims.volumes)?;
        let client = &self.context.client;
        let revisions = history::list(client, &self.revisions, &*set, &selector).await?;
        let mut candidates = self.pods.by_owner(set.uid());
        let orphans = self.pods.orphans(&key.namespace);
        candidates.extend(orphans.into_iter().filter(|pod| plan::is_member(&set, pod)));
        let pods = claim(client, &*set, &selector, candidates).await?;

        let mut collisions = set.status.as_ref().and_then(|s| s.collision_count).unwrap_or(0);
        let update = history::sync(client, &*set, &set.spec.template, &revisions, &mut collisions).await?;
        self.written_revisions.note(key, &update);
        let wanted = set.status.as_ref().and_then(|s| s.current_revision.as_deref()).unwrap_or_default();
        let current =
            revisions.iter().find(|r| r.name() == wanted).map_or_else(|| update.clone(), |found| (**found).clone());

        let versions = plan::Versions::new(&set, &current, &update);
        let now = self.context.clock.now();
        let (mut replicas, condemned) = plan::split(&set, &versions, &pods);
        let result =
            if set.is_deleting() { Ok(()) } else { self.roll(key, &set, &versions, &mut replicas, &condemned).await };
        let mut status = plan::status(&set, &versions, &replicas, &condemned, now);
        status.collision_count = Some(collisions);
        self.write_status(&set, status).await?;
        result?;
        let live = |r: &ControllerRevision| {
            r.name() == current.name()
                || r.name() == update.name()
                || pods.iter().any(|p| p.label(history::REVISION_HASH) == Some(r.name()))
        };
        let limit = set.spec.revision_history_limit.unwrap_or(10);
        history::truncate(client, &revisions, limit, live).await?;
        if let Some(delay) = plan::next_check(&set, &pods, now) {
            self.queue.add_after(key.clone(), delay);
        }
        Ok(())
    }
}

impl Reconciler {
    /// `updateStatefulSet`: makes the pods there should be in order, then removes those there should not be in reverse,
    /// then replaces those of an old revision in reverse.
    async fn roll(
        &self,
        key: &ObjectKey,
        set: &Arc<StatefulSet>,
        versions: &plan::Versions,
        replicas: &mut [Slot],
        condemned: &[Arc<Pod>],
    ) -> Result<(), Error> {
        let ordered = set.spec.pod_management_policy.as_deref() != Some("Parallel");
        let first_unavailable = plan::first_unavailable(set, replicas, condemned, self.context.clock.now());
        if ordered {
            for slot in replicas.iter_mut() {
                if self.step(key, set, slot, true).await? == Flow::Wait {
                    return Ok(());
                }
            }
            for pod in condemned {
                self.claims.keep_policy(key, set, pod).await?;
            }
            for pod in condemned {
                if self.condemn(key, set, pod, true, first_unavailable.as_deref()).await? == Flow::Wait {
                    return Ok(());
                }
            }
        } else {
            // In growing parts, so that what fails for all is not tried for all (`slowStartBatch`).
            let (mut rest, mut size) = (replicas.iter_mut(), 1);
            while rest.len() > 0 {
                let steps = join_all(rest.by_ref().take(size).map(|slot| self.step(key, set, slot, false))).await;
                steps.into_iter().collect::<Result<Vec<_>, _>>()?;
                size *= 2;
            }
            for pod in condemned {
                self.claims.keep_policy(key, set, pod).await?;
            }
            let steps = join_all(condemned.iter().map(|pod| self.condemn(key, set, pod, false, None))).await;
            steps.into_iter().collect::<Result<Vec<_>, _>>()?;
        }
        for pod in plan::to_replace(set, versions, replicas, self.context.clock.now()) {
            self.delete(key, set, &pod).await?;
        }
        Ok(())
    }

    /// `processReplica`.
    async fn step(
        &self,
        key: &ObjectKey,
        set: &Arc<StatefulSet>,
        slot: &mut Slot,
        ordered: bool,
    ) -> Result<Flow, Error> {
        let pod = Arc::clone(&slot.pod);
        if slot.exists && crate::pods::is_terminal(&pod) {
            if !pod.is_deleting() {
                self.delete(key, set, &pod).await?;
            }
            // It is made anew when it is gone.
            return Ok(Flow::Wait);
        }
        if !slot.exists {
            if self.claims.are_stale(set, &pod) {
                return Ok(Flow::Wait);
            }
            let made = self.create(key, set, &pod).await?;
            slot.pod = Arc::new(made);
            slot.exists = true;
            return Ok(Flow::Wait);
        }
        if crate::pods::phase(&pod) == "Pending" {
            self.claims.create(key, set, &pod).await?;
            self.claims.keep_policy(key, set, &pod).await?;
        }
        if ordered {
            let now = self.context.clock.now();
            if pod.is_deleting() || !plan::is_running_and_available(set, &pod, now) {
                return Ok(Flow::Wait);
            }
        }
        self.claims.keep_policy(key, set, &pod).await?;
        if !plan::identity_matches(set, &pod) {
            let updated = plan::with_identity(set, &pod);
            self.written.note(key, &self.context.client.update(&updated).await?);
        }
        Ok(Flow::Continue)
    }

    /// `processCondemned`.
    async fn condemn(
        &self,
        key: &ObjectKey,
        set: &Arc<StatefulSet>,
        pod: &Arc<Pod>,
        ordered: bool,
        first_unavailable: Option<&str>,
    ) -> Result<Flow, Error> {
        if pod.is_deleting() {
            return Ok(if ordered { Flow::Wait } else { Flow::Continue });
        }
        let available = plan::is_running_and_available(set, pod, self.context.clock.now());
        if ordered && !available && first_unavailable != Some(pod.name()) {
            return Ok(Flow::Wait);
        }
        self.delete(key, set, pod).await?;
        Ok(Flow::Wait)
    }

    async fn create(&self, key: &ObjectKey, set: &StatefulSet, pod: &Pod) -> Result<Pod, Error> {
        self.claims.create(key, set, pod).await?;
        match self.context.client.create(pod).await {
            Ok(made) => {
                self.written.note(key, &made);
                self.pod_event(set, pod, "Create", None);
                self.claims.keep_policy(key, set, &made).await?;
                Ok(made)
            }
            Err(error) => {
                // Its predecessor of the same name is still going.
                if !error.is_already_exists() && !error.is_namespace_terminating() {
                    self.pod_event(set, pod, "Create", Some(&error));
                }
                Err(error.into())
            }
        }
    }

    async fn delete(&self, key: &ObjectKey, set: &StatefulSet, pod: &Pod) -> Result<(), Error> {
        let options = DeleteParams::uid(pod.uid());
        match self.context.client.delete::<Pod>(&key.namespace, pod.name(), &options).await {
            Ok(()) => self.pod_event(set, pod, "Delete", None),
            Err(error) if error.is_not_found() || error.is_conflict() => {}
            Err(error) => {
                self.pod_event(set, pod, "Delete", Some(&error));
                return Err(error.into());
            }
        }
        Ok(())
    }

    fn pod_event(&self, set: &StatefulSet, pod: &Pod, verb: &str, error: Option<&client::Error>) {
        let recorder = &self.context.recorder;
        match error {
            None => {
                let message = format!("{verb} Pod {} in StatefulSet {} successful", pod.name(), set.name());
                recorder.event(set, EventType::Normal, &format!("Successful{verb}"), &message);
            }
            Some(error) => {
                let message = format!(
                    "{verb} Pod {} in StatefulSet {} failed error: {}",
                    pod.name(),
                    set.name(),
                    base::chain(error)
                );
                recorder.event(set, EventType::Warning, &format!("Failed{verb}"), &message);
            }
        }
    }

    async fn write_status(&self, set: &StatefulSet, mut status: StatefulSetStatus) -> Result<(), Error> {
        plan::complete_update(set, &mut status);
        if !plan::differs(set.status.as_ref(), &status) {
            return Ok(());
        }
        let mut updated = set.clone();
        updated.status = Some(status);
        match self.context.client.update_status(&updated).await {
            Err(error) if !error.is_not_found() => Err(error.into()),
            _ => Ok(()),
        }
    }
}
