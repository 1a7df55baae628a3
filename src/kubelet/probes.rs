//! Liveness, readiness and startup probes: one task for each probe of each running container.
//!
//! Follows upstream's `kubelet/prober` (`worker.go` `doProbe`, `prober.go` `probe`). Results are kept by container id,
//! so a restarted container starts with none.

pub mod exec;
pub mod grpc;
pub mod http;
pub mod tcp;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use base::Shutdown;
use client::EventType;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Pod, Probe};
use parking_lot::Mutex;
use runtime::ContainerId;

use crate::context::Context;
use crate::observed::{Observed, ObservedContainer, State};
use crate::plan::{ProbeFacts, ProbeResult};
use crate::spec;
use crate::status::ProbeStates;

const MAX_RETRIES: usize = 3;
/// Bytes of a probe's answer that are kept.
pub const MAX_OUTPUT: usize = 10 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProbeKind {
    Liveness,
    Readiness,
    Startup,
}

impl ProbeKind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
            Self::Startup => "Startup",
        }
    }

    fn of(self, container: &Container) -> Option<&Probe> {
        match self {
            Self::Liveness => container.liveness_probe.as_ref(),
            Self::Readiness => container.readiness_probe.as_ref(),
            Self::Startup => container.startup_probe.as_ref(),
        }
    }

    fn initial(self) -> ProbeResult {
        match self {
            Self::Liveness => ProbeResult::Success,
            Self::Readiness => ProbeResult::Failure,
            Self::Startup => ProbeResult::Unknown,
        }
    }
}

const KINDS: [ProbeKind; 3] = [ProbeKind::Liveness, ProbeKind::Readiness, ProbeKind::Startup];

/// What one try of a probe found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Success,
    /// Good, with something to tell.
    Warning(String),
    Failure(String),
    /// The probe itself could not be carried out.
    Error(String),
}

type Key = (ContainerId, ProbeKind);

struct Task {
    uid: String,
    stop: Shutdown,
}

#[derive(Default)]
struct Inner {
    results: HashMap<Key, ProbeResult>,
    tasks: HashMap<Key, Task>,
    counts: HashMap<(String, String, ProbeKind), Count>,
}

/// How often a probe of a container was tried, by what it found (upstream `prober_probe_total`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Count {
    pub namespace: String,
    pub pod: String,
    pub uid: String,
    pub container: String,
    /// `Liveness`, `Readiness` or `Startup`.
    pub kind: &'static str,
    pub successful: u64,
    pub failed: u64,
    pub unknown: u64,
}

/// Results of probes and the tasks that bring them.
pub struct Probes {
    started_at: Timestamp,
    inner: Mutex<Inner>,
}

impl Probes {
    pub fn new(now: Timestamp) -> Self {
        Self { started_at: now, inner: Mutex::default() }
    }

    /// When this agent began to probe.
    pub fn started_at(&self) -> Timestamp {
        self.started_at
    }

    /// Tries of the probes of all pods that are here.
    pub fn counts(&self) -> Vec<Count> {
        self.inner.lock().counts.values().cloned().collect()
    }

    fn count(&self, worker: &Worker, outcome: &Outcome) {
        let pod = &worker.pod;
        let key = (spec::uid(pod).to_owned(), worker.container.name.clone(), worker.kind);
        let mut inner = self.inner.lock();
        let count = inner.counts.entry(key).or_insert_with(|| Count {
            namespace: spec::namespace(pod).to_owned(),
            pod: spec::name(pod).to_owned(),
            uid: spec::uid(pod).to_owned(),
            container: worker.container.name.clone(),
            kind: worker.kind.as_str(),
            successful: 0,
            failed: 0,
            unknown: 0,
        });
        match outcome {
            Outcome::Success | Outcome::Warning(_) => count.successful += 1,
            Outcome::Failure(_) => count.failed += 1,
            Outcome::Error(_) => count.unknown += 1,
        }
    }

    /// Starts the probes of containers that run, and stops those of containers that don't.
    pub fn sync(&self, ctx: &Arc<Context>, pod: &Arc<Pod>, observed: &Observed) {
        let uid = spec::uid(pod);
        let mut wanted: HashSet<Key> = HashSet::new();
        let sidecars = spec::init_containers(pod).iter().filter(|c| spec::is_sidecar(c));
        for container in spec::containers(pod).iter().chain(sidecars) {
            let Some(running) = observed.latest(&container.name).filter(|c| c.is_running()) else { continue };
            for kind in KINDS {
                if kind.of(container).is_some() {
                    wanted.insert((running.id.clone(), kind));
                    self.start(ctx, pod, container, running, kind);
                }
            }
        }
        let mut inner = self.inner.lock();
        inner.tasks.retain(|key, task| {
            let keep = task.uid != uid || wanted.contains(key);
            if !keep {
                task.stop.cancel();
            }
            keep
        });
        let known: HashSet<&ContainerId> = observed.containers.iter().map(|c| &c.id).collect();
        let Inner { results, tasks, .. } = &mut *inner;
        results.retain(|key, _| tasks.contains_key(key) || known.contains(&key.0));
    }

    fn start(
        &self,
        ctx: &Arc<Context>,
        pod: &Arc<Pod>,
        container: &Container,
        running: &ObservedContainer,
        kind: ProbeKind,
    ) {
        let key = (running.id.clone(), kind);
        let mut inner = self.inner.lock();
        if inner.tasks.contains_key(&key) {
            return;
        }
        let initial = self.remembered(pod, running, kind).unwrap_or_else(|| kind.initial());
        inner.results.entry(key.clone()).or_insert(initial);
        let stop = ctx.shutdown.child_token();
        inner.tasks.insert(key, Task { uid: spec::uid(pod).to_owned(), stop: stop.clone() });
        drop(inner);
        let State::Running { started } = running.state else { return };
        let worker = Worker {
            ctx: ctx.clone(),
            pod: pod.clone(),
            container: container.clone(),
            id: running.id.clone(),
            started,
            kind,
        };
        ctx.tasks.spawn(async move {
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = worker.run() => {}
            }
        });
    }

    /// What was reported of a container that has been running since before the node agent started.
    fn remembered(&self, pod: &Pod, running: &ObservedContainer, kind: ProbeKind) -> Option<ProbeResult> {
        let State::Running { started } = running.state else { return None };
        if started >= self.started_at {
            return None;
        }
        let id = format!("{}{}", crate::names::RUNTIME_SCHEME, running.id.0);
        let status = spec::status(pod);
        let lists = [&status.container_statuses, &status.init_container_statuses];
        let old = lists.into_iter().flatten().flatten().find(|s| s.container_id.as_deref() == Some(&id))?;
        let good = match kind {
            ProbeKind::Liveness => return None,
            ProbeKind::Readiness => old.ready,
            ProbeKind::Startup => old.started == Some(true),
        };
        good.then_some(ProbeResult::Success)
    }

    /// The pod is about to end: only readiness matters from now on.
    pub fn stop_liveness(&self, uid: &str) {
        let mut inner = self.inner.lock();
        inner.tasks.retain(|(_, kind), task| {
            let keep = task.uid != uid || *kind == ProbeKind::Readiness;
            if !keep {
                task.stop.cancel();
            }
            keep
        });
    }

    /// Stops all of the pod's probes and forgets their results.
    pub fn release(&self, uid: &str) {
        let mut inner = self.inner.lock();
        let Inner { results, tasks, counts } = &mut *inner;
        counts.retain(|(of, _, _), _| of != uid);
        tasks.retain(|key, task| {
            let keep = task.uid != uid;
            if !keep {
                task.stop.cancel();
                results.remove(key);
            }
            keep
        });
    }

    fn result(&self, id: &ContainerId, kind: ProbeKind) -> Option<ProbeResult> {
        self.inner.lock().results.get(&(id.clone(), kind)).copied()
    }

    /// Returns whether the result is a new one.
    fn set(&self, id: &ContainerId, kind: ProbeKind, result: ProbeResult) -> bool {
        self.inner.lock().results.insert((id.clone(), kind), result) != Some(result)
    }

    /// What the plan needs to know about the pod's containers.
    pub fn facts(&self, observed: &Observed) -> ProbeFacts {
        let mut facts = ProbeFacts::default();
        for container in &observed.containers {
            if let Some(result) = self.result(&container.id, ProbeKind::Liveness) {
                facts.liveness.insert(container.id.clone(), result);
            }
            if let Some(result) = self.result(&container.id, ProbeKind::Startup) {
                facts.startup.insert(container.id.clone(), result);
            }
        }
        facts
    }

    /// What the status needs to know about the pod's containers.
    pub fn states(&self, pod: &Pod, observed: &Observed) -> ProbeStates {
        let mut states = ProbeStates::default();
        for container in spec::containers(pod).iter().chain(spec::init_containers(pod)) {
            let latest = observed.latest(&container.name);
            let good = |kind| latest.is_some_and(|c| self.result(&c.id, kind) == Some(ProbeResult::Success));
            if container.startup_probe.is_some() {
                states.started.insert(container.name.clone(), good(ProbeKind::Startup));
            }
            if container.readiness_probe.is_some() {
                states.ready.insert(container.name.clone(), good(ProbeKind::Readiness));
            }
        }
        states
    }
}

struct Worker {
    ctx: Arc<Context>,
    pod: Arc<Pod>,
    container: Container,
    id: ContainerId,
    started: Timestamp,
    kind: ProbeKind,
}

fn seconds(value: Option<i32>, default: u64) -> Duration {
    Duration::from_secs(value.and_then(|n| u64::try_from(n).ok()).filter(|n| *n > 0).unwrap_or(default))
}

impl Worker {
    async fn run(&self) {
        let Some(probe) = self.kind.of(&self.container) else { return };
        let period = seconds(probe.period_seconds, 10);
        let delay = SignedDuration::from_secs(i64::from(probe.initial_delay_seconds.unwrap_or(0)));
        let now = self.ctx.clock.now();
        let left = delay - now.duration_since(self.started);
        if left.is_positive() {
            tokio::time::sleep(Duration::try_from(left).unwrap_or_default()).await;
        } else if self.started < self.ctx.probes.started_at {
            // Many containers were found running: their probes must not all begin at once.
            tokio::time::sleep(period.mul_f64(rand::random::<f64>())).await;
        }
        let mut interval = tokio::time::interval(period);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (mut last, mut run) = (None, 0);
        loop {
            interval.tick().await;
            if !self.is_due() {
                continue;
            }
            let outcome = self.probe_with_retries(probe).await;
            self.ctx.probes.count(self, &outcome);
            let result = self.report(&outcome);
            let Some(result) = result else { continue };
            if last == Some(result) {
                run += 1;
            } else {
                (last, run) = (Some(result), 1);
            }
            let threshold = match result {
                ProbeResult::Failure => probe.failure_threshold.unwrap_or(3),
                _ => probe.success_threshold.unwrap_or(1),
            };
            if run < threshold {
                continue;
            }
            if self.ctx.probes.set(&self.id, self.kind, result) {
                self.ctx.table.wake(spec::uid(&self.pod));
            }
            let over = match self.kind {
                ProbeKind::Startup => true,
                // The container will be restarted; until then the result stands.
                ProbeKind::Liveness => result == ProbeResult::Failure,
                ProbeKind::Readiness => false,
            };
            if over {
                return;
            }
        }
    }

    /// Liveness and readiness count only once the container has started.
    fn is_due(&self) -> bool {
        self.kind == ProbeKind::Startup
            || self.container.startup_probe.is_none()
            || self.ctx.probes.result(&self.id, ProbeKind::Startup) == Some(ProbeResult::Success)
    }

    async fn probe_with_retries(&self, probe: &Probe) -> Outcome {
        let mut outcome = Outcome::Error("no handler".to_owned());
        for _ in 0..MAX_RETRIES {
            outcome = self.probe_once(probe).await;
            if !matches!(outcome, Outcome::Error(_)) {
                break;
            }
        }
        outcome
    }

    async fn probe_once(&self, probe: &Probe) -> Outcome {
        let timeout = seconds(probe.timeout_seconds, 1);
        let (ctx, pod, container) = (&self.ctx, &self.pod, &self.container);
        if let Some(action) = &probe.exec {
            let command = action.command.clone().unwrap_or_default();
            return exec::probe(ctx, &self.id, command, timeout).await;
        }
        if let Some(action) = &probe.http_get {
            return match http::Target::new(ctx, pod, container, action) {
                Ok(target) => http::probe(&target, timeout).await,
                Err(error) => Outcome::Error(error),
            };
        }
        if let Some(action) = &probe.tcp_socket {
            return match http::port(container, &action.port) {
                Ok(port) => tcp::probe(&http::host(ctx, pod, action.host.as_deref()), port, timeout).await,
                Err(error) => Outcome::Error(error),
            };
        }
        if let Some(action) = &probe.grpc {
            let host = http::host(ctx, pod, None);
            let service = action.service.clone().unwrap_or_default();
            return match u16::try_from(action.port) {
                Ok(port) => grpc::probe(&host, port, &service, timeout).await,
                Err(_) => Outcome::Error(format!("invalid port number: {}", action.port)),
            };
        }
        Outcome::Error(format!("missing probe handler for {}:{}", spec::full_name(pod), container.name))
    }

    /// Records what there is to record; `None` for an outcome that does not count (upstream ignores probe errors).
    fn report(&self, outcome: &Outcome) -> Option<ProbeResult> {
        let event = |reason: &str, text: String| {
            self.ctx.events.container(&self.pod, &self.container.name, EventType::Warning, reason, &text);
        };
        let kind = self.kind.as_str();
        match outcome {
            Outcome::Success => Some(ProbeResult::Success),
            Outcome::Warning(text) => {
                event("ProbeWarning", format!("{kind} probe warning: {text}"));
                Some(ProbeResult::Success)
            }
            Outcome::Failure(text) => {
                event("Unhealthy", format!("{kind} probe failed: {text}"));
                Some(ProbeResult::Failure)
            }
            Outcome::Error(text) => {
                event("Unhealthy", format!("{kind} probe errored and resulted in unknown state: {text}"));
                None
            }
        }
    }
}
