//! The node agent as a whole: what starts in which order, and who wakes whom.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use base::{Backoff, SharedClock, Shutdown};
use client::{Client, Event, Informers, Recorder};
use k8s_openapi::api::core::v1::{Pod, Service};
use runtime::{Runtime, RuntimeEvent};
use tokio::sync::{Notify, mpsc};
use tokio_util::task::TaskTracker;

use crate::cgroups::Cgroups;
use crate::config::KubeletConfig;
use crate::context::Context;
use crate::csi::Drivers;
use crate::events::Events;
use crate::eviction::Pressures;
use crate::images::Images;
use crate::machine::Machine;
use crate::network::PodNetwork;
use crate::objects::Objects;
use crate::observed::Cache;
use crate::probes::Probes;
use crate::runtime_class::RuntimeClasses;
use crate::table::PodTable;
use crate::volumes::certificates::Certificates;
use crate::volumes::persistent::Claims;
use crate::volumes::tokens::Tokens;
use crate::volumes::trust::Trust;
use crate::{csi, eviction, image_gc, node, node_shutdown, rotation, server, spec, static_pods, volumes, workers};

/// Longest wait for tasks at the end.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// The node agent.
pub struct Kubelet {
    ctx: Arc<Context>,
    events: mpsc::Receiver<RuntimeEvent>,
}

impl Kubelet {
    /// Must be called within a tokio runtime. Nothing starts before [`Kubelet::run`], except the event recorder.
    pub fn new(
        config: KubeletConfig,
        client: Client,
        informers: Informers,
        runtime: Arc<dyn Runtime>,
        network: Arc<dyn PodNetwork>,
        clock: SharedClock,
    ) -> Self {
        let shutdown = Shutdown::new();
        let table = Arc::new(PodTable::default());
        let recorder = Recorder::new(client.clone(), "kubelet", &config.node_name, clock.clone());
        let events = runtime.events();
        let ctx = Context {
            events: Events::new(recorder, config.node_name.clone()),
            cache: Cache::new(runtime.clone()),
            images: Images::default(),
            config_maps: Objects::new(client.clone(), table.clone(), shutdown.clone()),
            secrets: Objects::new(client.clone(), table.clone(), shutdown.clone()),
            tokens: Tokens::default(),
            trust: Trust::default(),
            certificates: Certificates::default(),
            claims: Claims::default(),
            runtime_classes: RuntimeClasses::default(),
            csi: Drivers::default(),
            probes: Arc::new(Probes::new(clock.now())),
            cgroups: Cgroups::detect(&config.cgroup_root),
            machine: Machine::detect(&config),
            services: informers.informer::<Service>(),
            pods: informers.informer_with::<Pod>(&format!("spec.nodeName={}", config.node_name)),
            informers,
            pressures: Pressures::default(),
            shutting_down: AtomicBool::new(false),
            node_changed: Notify::new(),
            mirrors_changed: Notify::new(),
            tasks: TaskTracker::new(),
            config: Arc::new(config),
            client,
            runtime,
            network,
            clock,
            table,
            shutdown,
        };
        Self { ctx: Arc::new(ctx), events }
    }

    /// Runs until shutdown. Containers go on running after it.
    pub async fn run(self, shutdown: Shutdown) {
        let Self { ctx, events } = self;
        let stop = ctx.shutdown.clone();
        let guard = ctx.tasks.spawn({
            let shutdown = shutdown.clone();
            let stop = stop.clone();
            let ctx = ctx.clone();
            async move {
                tokio::select! {
                    biased;
                    () = shutdown.cancelled() => {
                        if !ctx.config.shutdown_grace.is_zero() {
                            node_shutdown::run(&ctx).await;
                        }
                        stop.cancel();
                    }
                    () = stop.cancelled() => {}
                }
            }
        });
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = work(&ctx, events) => {}
        }
        stop.cancel();
        drop(guard);
        ctx.tasks.close();
        if tokio::time::timeout(STOP_TIMEOUT, ctx.tasks.wait()).await.is_err() {
            tracing::warn!("tasks of the node agent did not end in time");
        }
    }

    /// What the node agent shares with its parts; for tests and the wiring's status command.
    pub fn context(&self) -> Arc<Context> {
        self.ctx.clone()
    }
}

async fn work(ctx: &Arc<Context>, events: mpsc::Receiver<RuntimeEvent>) {
    if let Err(error) = ctx.cgroups.setup() {
        tracing::error!(error = %base::chain(&error), "cannot make the cgroups of pods: pods will not start");
    }
    first_look(ctx).await;
    let static_pods = static_pods::start(ctx).await;
    tokio::join!(
        follow_pods(ctx),
        follow_runtime(ctx, events),
        node::run(ctx),
        server::run(ctx),
        static_pods::run(ctx, static_pods),
        rotation::run(ctx),
        image_gc::run(ctx),
        eviction::run(ctx),
        csi::plugins::run(ctx),
    );
}

/// Reads what the runtime has, until it answers.
async fn first_look(ctx: &Context) {
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(5));
    while let Err(error) = ctx.cache.resync().await {
        tracing::warn!(error = %base::chain(&error), "the container runtime does not answer yet");
        tokio::time::sleep(backoff.step()).await;
    }
}

/// Feeds the pods of this node to their tasks.
async fn follow_pods(ctx: &Arc<Context>) {
    let informer = &ctx.pods;
    let mut pods = informer.subscribe();
    informer.synced().await;
    orphans(ctx, informer).await;
    while let Some(event) = pods.recv().await {
        match event {
            Event::Added(pod) | Event::Updated { new: pod, .. } if spec::is_mirror(&pod) => mirror_changed(ctx, &pod),
            Event::Deleted(pod) if spec::is_mirror(&pod) => mirror_changed(ctx, &pod),
            Event::Added(pod) | Event::Updated { new: pod, .. } => workers::dispatch(ctx, pod),
            Event::Deleted(pod) => {
                // The last state counts: it may carry the deletion's grace period.
                workers::dispatch(ctx, pod.clone());
                ctx.table.gone(spec::uid(&pod));
            }
            Event::Resync => {
                let all = informer.list();
                let uids: HashSet<&str> = all.iter().map(|p| spec::uid(p)).collect();
                for slot in ctx.table.all() {
                    if !uids.contains(slot.uid.as_str()) && !spec::is_static(&slot.pod()) {
                        ctx.table.gone(&slot.uid);
                    }
                }
                for pod in all.into_iter().filter(|p| !spec::is_mirror(p)) {
                    workers::dispatch(ctx, pod);
                }
            }
        }
    }
}

/// The static pod's status goes to its mirror; one that was deleted is made again.
fn mirror_changed(ctx: &Context, mirror: &Pod) {
    if let Some(slot) = ctx.table.by_name(spec::namespace(mirror), spec::name(mirror)) {
        slot.status_changed.notify_one();
    }
    ctx.mirrors_changed.notify_one();
}

/// Pods that the runtime, the disk or the cgroups have and the API does not: they were deleted while the node agent
/// was away.
async fn orphans(ctx: &Arc<Context>, informer: &client::Informer<Pod>) {
    let known: HashSet<String> = informer.list().iter().map(|p| spec::uid(p).to_owned()).collect();
    let is_known = |uid: &str| known.contains(uid) || ctx.table.get(uid).is_some();
    for found in ctx.cache.pods() {
        if is_known(&found.uid) {
            continue;
        }
        tracing::info!(uid = found.uid, namespace = found.namespace, name = found.name, "ending an orphaned pod");
        let mut pod = Pod::default();
        pod.metadata.uid = Some(found.uid.clone());
        pod.metadata.name = Some(found.name);
        pod.metadata.namespace = Some(found.namespace);
        let grace = ctx.cache.pod(&found.uid).containers.iter().find_map(|c| c.termination_grace_period);
        pod.spec =
            Some(k8s_openapi::api::core::v1::PodSpec { termination_grace_period_seconds: grace, ..Default::default() });
        workers::dispatch(ctx, Arc::new(pod));
        ctx.table.gone(&found.uid);
    }
    let folders = std::fs::read_dir(ctx.config.root_dir.join("pods")).into_iter().flatten().flatten();
    for folder in folders {
        let uid = folder.file_name().to_string_lossy().into_owned();
        if !is_known(&uid)
            && let Err(error) = volumes::tear_down(ctx, &uid).await
        {
            tracing::warn!(uid, error = %base::chain(&error), "cannot remove what an orphaned pod left");
        }
    }
    for uid in ctx.cgroups.pods() {
        if !is_known(&uid)
            && let Err(error) = ctx.cgroups.remove_pod(&uid)
        {
            tracing::warn!(uid, error = %base::chain(&error), "cannot remove an orphaned pod's cgroup");
        }
    }
    match ctx.network.attached().await {
        Ok(attached) => {
            for uid in attached.iter().filter(|uid| !is_known(uid)) {
                if let Err(error) = ctx.network.detach(uid).await {
                    tracing::warn!(uid, error = %base::chain(&error), "cannot disconnect an orphaned pod");
                }
            }
        }
        Err(error) => tracing::warn!(error = %base::chain(&error), "cannot list connected pods"),
    }
}

/// Wakes pods whose containers changed.
pub(crate) async fn follow_runtime(ctx: &Arc<Context>, mut events: mpsc::Receiver<RuntimeEvent>) {
    while let Some(event) = events.recv().await {
        let id = match event {
            RuntimeEvent::Started(id) | RuntimeEvent::Exited(id) | RuntimeEvent::OomKilled(id) => id,
            RuntimeEvent::Resync => {
                first_look(ctx).await;
                for slot in ctx.table.all() {
                    slot.changed.notify_one();
                }
                continue;
            }
        };
        match ctx.cache.refresh(&id).await {
            Ok(Some(uid)) => ctx.table.wake(&uid),
            Ok(None) => {}
            Err(error) => {
                tracing::debug!(container = id.0, error = %base::chain(&error), "cannot read container");
            }
        }
    }
    // The runtime's events ended: that happens only at its shutdown.
    ctx.shutdown.cancelled().await;
}
