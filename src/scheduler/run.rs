//! The loop: events in, decisions out.

mod follow;
mod outcome;

use std::sync::Arc;

use base::{SharedClock, Shutdown};
use client::k8s_openapi::api::core::v1::Pod;
use client::{Client, Informers, Recorder, Resource};
use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::SCHEDULER_NAME;
use crate::cache::{Cache, Snapshot};
use crate::cycle::{Decision, Input, Nomination, Rejected, decide};
use crate::framework::World;
use crate::listers::Listers;
use crate::nominator::Nominator;
use crate::plugins::{self, volume_binding};
use crate::pod_info::PodInfo;
use crate::queue::Queue;

/// Bindings, status writes and evictions under way at once; the next decision waits when there are as many.
const WRITES_MAX: usize = 32;

/// What the scheduler works with.
pub struct SchedulerConfig {
    pub client: Client,
    pub informers: Informers,
    pub clock: SharedClock,
}

struct Scheduler {
    client: Client,
    recorder: Recorder,
    clock: SharedClock,
    listers: Arc<Listers>,
    state: Mutex<State>,
    /// Something was queued.
    wake: Notify,
    /// Counts changes of volumes and claims, for bindings that wait for them.
    volumes_changed: watch::Sender<u64>,
    writes: Arc<Semaphore>,
    shutdown: Shutdown,
}

#[derive(Default)]
struct State {
    queue: Queue,
    cache: Cache,
    nominator: Nominator,
}

/// What the loop keeps between decisions.
#[derive(Default)]
struct View {
    snapshot: Snapshot,
    nominator: Nominator,
    /// Where the next search of nodes starts.
    start: usize,
    decisions: usize,
}

/// Runs until `shutdown`; writes under way are finished first.
pub async fn run(config: SchedulerConfig, shutdown: Shutdown) {
    let SchedulerConfig { client, informers, clock } = config;
    let scheduler = Arc::new(Scheduler {
        recorder: Recorder::new(client.clone(), SCHEDULER_NAME, "", clock.clone()),
        listers: Arc::new(Listers::new(&informers)),
        client,
        clock,
        state: Mutex::default(),
        wake: Notify::new(),
        volumes_changed: watch::Sender::new(0),
        writes: Arc::new(Semaphore::new(WRITES_MAX)),
        shutdown: shutdown.clone(),
    });
    let mut tasks = JoinSet::new();
    scheduler.follow(&mut tasks, &shutdown);
    tokio::select! {
        biased;
        () = shutdown.cancelled() => {}
        () = scheduler.listers.synced() => scheduler.decide_all(&shutdown).await,
    }
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            tracing::error!(%error, "a task of the scheduler panicked");
        }
    }
}

impl Scheduler {
    async fn decide_all(self: &Arc<Self>, shutdown: &Shutdown) {
        let mut writes = JoinSet::new();
        let mut view = View::default();
        while !shutdown.is_cancelled() {
            let permit = tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                permit = self.writes.clone().acquire_owned() => permit.ok(),
            };
            let (popped, deadline) = {
                let mut state = self.state.lock();
                (state.queue.pop(Instant::now()), state.queue.next_deadline())
            };
            let (Some(pod), Some(permit)) = (popped, permit) else {
                tokio::select! {
                    biased;
                    () = shutdown.cancelled() => break,
                    () = self.wake.notified() => {}
                    () = sleep_until(deadline) => {}
                }
                continue;
            };
            self.schedule_one(&pod, &mut view, permit, &mut writes);
            while writes.try_join_next().is_some() {}
            // A burst of pods must not keep this worker from the tasks that bring the news.
            tokio::task::yield_now().await;
        }
        while writes.join_next().await.is_some() {}
    }

    fn schedule_one(
        self: &Arc<Self>,
        pod: &Arc<PodInfo>,
        view: &mut View,
        permit: OwnedSemaphorePermit,
        writes: &mut JoinSet<()>,
    ) {
        {
            let mut state = self.state.lock();
            state.cache.update(&mut view.snapshot);
            view.nominator = state.nominator.clone();
        }
        let decision = decide(&Input {
            pod,
            world: World { snapshot: &view.snapshot, listers: &self.listers },
            nominator: &view.nominator,
            plugins: plugins::ALL,
            start: view.start,
            tie: view.decisions,
        });
        view.decisions = view.decisions.wrapping_add(1);
        match decision {
            Decision::Node { name, evaluated } => {
                view.start = (view.start + evaluated) % view.snapshot.len().max(1);
                self.place(pod, &name, view, permit, writes);
            }
            Decision::Rejected(rejected) => self.reject(pod, rejected, permit, writes),
            Decision::Failed(error) => self.fail(pod, error, permit, writes),
        }
    }

    /// Assumes the pod on its node and binds it beside the next decisions.
    fn place(
        self: &Arc<Self>,
        pod: &Arc<PodInfo>,
        node: &str,
        view: &View,
        permit: OwnedSemaphorePermit,
        writes: &mut JoinSet<()>,
    ) {
        let plan = match view.snapshot.get(node).map(|info| volume_binding::plan(pod, info, &self.listers)) {
            None | Some(Ok(None)) => None,
            Some(Ok(Some(plan))) => Some(plan),
            Some(Err(rejection)) => return self.fail(pod, rejection.reasons.join(", "), permit, writes),
        };
        {
            let mut state = self.state.lock();
            if !state.queue.decided(&pod.uid) {
                return;
            }
            state.cache.assume(node, pod.clone());
            state.nominator.remove(&pod.uid);
            if let Some(plan) = &plan {
                plan.assume(&self.listers);
            }
        }
        let (scheduler, pod, node) = (self.clone(), pod.clone(), node.to_owned());
        writes.spawn(async move { scheduler.bind(&pod, &node, plan, permit).await });
    }

    fn reject(
        self: &Arc<Self>,
        pod: &Arc<PodInfo>,
        rejected: Rejected,
        permit: OwnedSemaphorePermit,
        writes: &mut JoinSet<()>,
    ) {
        let Rejected { message, plugins, nomination, victims } = rejected;
        {
            let mut state = self.state.lock();
            if !state.queue.contains(&pod.uid) {
                return;
            }
            match &nomination {
                Nomination::Keep => {}
                Nomination::Clear => state.nominator.remove(&pod.uid),
                Nomination::Node(node) => state.nominator.nominate(pod.clone(), node),
            }
            state.queue.put_back(&pod.uid, plugins, Instant::now(), &self.listers);
            if victims.iter().any(|victim| !victim.pod.is_deleting()) {
                state.queue.preempting(&pod.uid);
            }
        }
        let (scheduler, pod) = (self.clone(), pod.clone());
        writes.spawn(async move {
            let _permit = permit;
            if let Nomination::Node(node) = &nomination {
                scheduler.evict(&pod, node, &victims).await;
            }
            scheduler.report(&pod, "Unschedulable", &message, &nomination).await;
        });
    }

    fn fail(
        self: &Arc<Self>,
        pod: &Arc<PodInfo>,
        error: String,
        permit: OwnedSemaphorePermit,
        writes: &mut JoinSet<()>,
    ) {
        {
            let mut state = self.state.lock();
            state.nominator.remove(&pod.uid);
            state.queue.put_back(&pod.uid, std::collections::BTreeSet::new(), Instant::now(), &self.listers);
        }
        let (scheduler, pod) = (self.clone(), pod.clone());
        writes.spawn(async move {
            let _permit = permit;
            scheduler.report(&pod, "SchedulerError", &error, &Nomination::Clear).await;
        });
    }
}

fn key(pod: &Pod) -> (&str, &str) {
    (pod.namespace(), pod.name())
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
