//! DaemonSets: a pod on every node that fits (`pkg/controller/daemon`).

mod plan;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use api::names::ObjectKey;
use async_trait::async_trait;
use client::{Event, EventType, Informer, Resource, WorkQueue, controller_of, owner_ref};
use futures::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet};
use k8s_openapi::api::core::v1::{Node, Pod};
use parking_lot::Mutex;

use crate::claim::claim;
use crate::error::Error;
use crate::expectations::Expectations;
use crate::harness::{Context, Parts, Reconcile, all_synced, current, key_of, synced};
use crate::pod_owners::PodOwners;
use crate::replicaset::slow_start;
use crate::selector::Selector;
use crate::written::Written;
use crate::{history, pods};

/// Pods created or deleted in one pass.
const BURST: usize = 250;
const WORKERS: usize = 2;

pub(crate) fn start(context: Context) {
    let sets = context.informers.informer::<DaemonSet>();
    let pods = context.informers.informer::<Pod>();
    let nodes = context.informers.informer::<Node>();
    let revisions = context.informers.informer::<ControllerRevision>();
    let queue = WorkQueue::new();
    let expectations = Arc::new(Expectations::default());

    let add_all = context.feed_own(&sets, &queue);
    let handler = PodOwners {
        owners: sets.clone(),
        queue: queue.clone(),
        expectations: Arc::clone(&expectations),
        selector: |set: &DaemonSet| Selector::new(&set.spec.selector),
        min_ready_seconds,
    };
    context.feed(&pods, &add_all, move |event| handler.handle(event));
    context.feed(&nodes, &add_all, {
        let add_all = Arc::clone(&add_all);
        move |event| {
            if let Event::Updated { old, new } = event
                && old.metadata.labels == new.metadata.labels
                && old.spec.as_ref().map(|s| &s.taints) == new.spec.as_ref().map(|s| &s.taints)
            {
                return;
            }
            add_all();
        }
    });
    context.feed(&revisions, &add_all, {
        let queue = queue.clone();
        move |event| {
            let Some(revision) = current(event) else { return };
            if let Some(owner) = controller_of(&revision.metadata).filter(|owner| owner.kind == "DaemonSet") {
                queue.add(ObjectKey::new(revision.namespace(), &owner.name));
            }
        }
    });

    let ready = all_synced(vec![synced(&sets), synced(&pods), synced(&nodes), synced(&revisions)]);
    let reconciler = Arc::new(Reconciler {
        sets,
        pods,
        nodes,
        revisions,
        queue: queue.clone(),
        expectations,
        written: Written::default(),
        failures: Mutex::new(HashMap::new()),
        context: context.parts(),
    });
    context.work(reconciler, queue, WORKERS, ready);
}

fn min_ready_seconds(set: &DaemonSet) -> i32 {
    set.spec.min_ready_seconds.unwrap_or(0)
}

struct Reconciler {
    sets: Informer<DaemonSet>,
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    revisions: Informer<ControllerRevision>,
    queue: WorkQueue<ObjectKey>,
    expectations: Arc<Expectations>,
    written: Written,
    /// When a failed pod of a set on a node was last replaced, and for how long the next one is left alone.
    failures: Mutex<HashMap<(String, String), (Timestamp, Duration)>>,
    context: Parts,
}

#[async_trait]
impl Reconcile for Reconciler {
    async fn reconcile(&self, key: &ObjectKey) -> Result<(), Error> {
        let Some(set) = self.sets.get(&key.namespace, &key.name) else {
            self.expectations.forget(key);
            return Ok(());
        };
        let Some(selector) = Selector::new(&set.spec.selector) else { return Ok(()) };
        if selector.is_empty() {
            let message = "This daemon set is selecting all pods. A non-empty selector is required.";
            self.context.recorder.event(&*set, EventType::Warning, "SelectingAll", message);
            return Ok(());
        }
        if set.is_deleting() {
            return Ok(());
        }
        self.written.check(key, &self.revisions)?;
        let client = &self.context.client;
        let revisions = history::list(client, &self.revisions, &*set, &selector).await?;
        let before = set.status.as_ref().and_then(|s| s.collision_count).unwrap_or(0);
        let mut collisions = before;
        let current = history::sync(client, &*set, &set.spec.template, &revisions, &mut collisions).await?;
        self.written.note(key, &current);
        let hash = current.label(history::REVISION_HASH).unwrap_or_default().to_owned();

        let mut candidates = self.pods.by_owner(set.uid());
        candidates.extend(self.pods.orphans(&key.namespace));
        let pods = claim(client, &*set, &selector, candidates).await?;
        let nodes = self.nodes.list();
        let mut result = Ok(());
        if self.expectations.satisfied(key) {
            result = self.manage(key, &set, &hash, &nodes, &pods).await;
            if result.is_ok() {
                let limit = set.spec.revision_history_limit.unwrap_or(10);
                let live = |r: &ControllerRevision| {
                    let hash = r.label(history::REVISION_HASH);
                    r.name() == current.name() || pods.iter().any(|p| p.label(history::REVISION_HASH) == hash)
                };
                result = history::truncate(client, &revisions, limit, live).await;
            }
        }
        self.update_status(&set, &hash, &nodes, &pods, (collisions != before).then_some(collisions)).await?;
        result
    }
}

impl Reconciler {
    async fn manage(
        &self,
        key: &ObjectKey,
        set: &Arc<DaemonSet>,
        hash: &str,
        nodes: &[Arc<Node>],
        pods: &[Arc<Pod>],
    ) -> Result<(), Error> {
        let now = self.context.clock.now();
        let by_node = plan::by_node(pods);
        let mut plan = plan::placement(set, hash, nodes, &by_node, now);
        self.hold_back_failed(key, set, &mut plan);
        for (pod, failed) in &plan.ended {
            let (kind, reason, what) = if *failed {
                (EventType::Warning, "FailedDaemonPod", "failed daemon pod")
            } else {
                (EventType::Normal, "SucceededDaemonPod", "succeeded daemon pod")
            };
            let verb = if *failed { "kill" } else { "delete" };
            let message = format!(
                "Found {what} {}/{} on node {}, will try to {verb} it",
                pod.namespace(),
                pod.name(),
                plan::target_node(pod)
            );
            self.context.recorder.event(&**set, kind, reason, &message);
            plan.delete.push(Arc::clone(pod));
        }
        // A rolling update goes on only when every node has its pod.
        if plan.create.is_empty() && plan.delete.is_empty() && plan::is_rolling(set) {
            plan = plan::rolling_update(set, hash, nodes, &by_node, now);
        }
        self.apply(key, set, hash, plan.create, plan.delete).await
    }

    /// A pod that fails again and again is replaced later and later, from 1 s up to 15 min.
    fn hold_back_failed(&self, key: &ObjectKey, set: &DaemonSet, plan: &mut plan::Placement) {
        let now = self.context.clock.now();
        let mut failures = self.failures.lock();
        plan.ended.retain(|(pod, failed)| {
            if !failed {
                return true;
            }
            let entry = failures.entry((set.uid().to_owned(), plan::target_node(pod)));
            let (since, delay) = entry.or_insert((Timestamp::UNIX_EPOCH, Duration::ZERO));
            let elapsed = Duration::try_from(now.duration_since(*since)).unwrap_or_default();
            if elapsed < *delay {
                self.queue.add_after(key.clone(), *delay - elapsed);
                return false;
            }
            // Twice the ceiling without a failure, and the count starts over.
            let fresh = delay.is_zero() || elapsed > Duration::from_secs(1800);
            *delay = if fresh { Duration::from_secs(1) } else { (*delay * 2).min(Duration::from_secs(900)) };
            *since = now;
            true
        });
    }

    async fn apply(
        &self,
        key: &ObjectKey,
        set: &Arc<DaemonSet>,
        hash: &str,
        mut create: Vec<String>,
        mut delete: Vec<Arc<Pod>>,
    ) -> Result<(), Error> {
        create.truncate(BURST);
        delete.truncate(BURST);
        if create.is_empty() && delete.is_empty() {
            return Ok(());
        }
        self.expectations.expect(key, create.len(), delete.iter().map(|pod| key_of(&**pod)));
        let wanted = create.len();
        let next = Mutex::new(create.into_iter());
        let (client, recorder) = (&self.context.client, &self.context.recorder);
        let (made, created) = slow_start(wanted, || {
            let node = next.lock().next();
            async {
                let Some(node) = node else { return Ok(false) };
                let pod = plan::pod_for(set, hash, &node, owner_ref(&**set));
                match pods::create(client, recorder, &**set, &pod).await {
                    Err(Error::Api(error)) if error.is_namespace_terminating() => Ok(false),
                    result => result.map(|_| true),
                }
            }
        })
        .await;
        for _ in made..wanted {
            self.expectations.creation_observed(key);
        }
        let deleted = join_all(delete.iter().map(|pod| async move {
            let result = pods::delete(client, recorder, &**set, pod).await;
            if result.is_err() {
                self.expectations.deletion_observed(key, &key_of(&**pod));
            }
            match result {
                Err(Error::Api(error)) if error.is_not_found() => Ok(()),
                result => result,
            }
        }))
        .await;
        created?;
        deleted.into_iter().collect()
    }

    async fn update_status(
        &self,
        set: &Arc<DaemonSet>,
        hash: &str,
        nodes: &[Arc<Node>],
        pods: &[Arc<Pod>],
        collisions: Option<i32>,
    ) -> Result<(), Error> {
        let mut status = plan::status(set, hash, nodes, &plan::by_node(pods), self.context.clock.now());
        if collisions.is_some() {
            status.collision_count = collisions;
        }
        let ready_not_available = status.number_ready != status.number_available.unwrap_or(0);
        if set.status.as_ref().map(plan::numbers) != Some(plan::numbers(&status)) {
            let mut updated = (**set).clone();
            updated.status = Some(status);
            match self.context.client.update_status(&updated).await {
                Err(error) if !error.is_not_found() => return Err(error.into()),
                _ => {}
            }
        }
        let seconds = min_ready_seconds(set);
        if seconds > 0 && ready_not_available {
            self.queue.add_after(key_of(&**set), Duration::from_secs(u64::try_from(seconds).unwrap_or(0)));
        }
        Ok(())
    }
}

/// Pods by the node that they are on or meant for.
pub(crate) type ByNode = BTreeMap<String, Vec<Arc<Pod>>>;
