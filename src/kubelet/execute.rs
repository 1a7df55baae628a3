//! Carrying out what [`crate::plan`] decided (upstream `kuberuntime_manager.go` `SyncPod`).

pub mod container;
pub mod hooks;
pub mod kill;

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use client::EventType;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Pod};
use runtime::{ContainerId, SandboxId, SandboxSpec};

use crate::context::Context;
use crate::network::{AttachRequest, HostPort};
use crate::observed::{Observed, PodRef, State};
use crate::plan::{Actions, KillReason};
use crate::status::WaitingReasons;
use crate::volumes::Mounted;
use crate::{files, names, spec};

const INITIAL_BACKOFF: SignedDuration = SignedDuration::from_secs(10);
const MAX_BACKOFF: SignedDuration = SignedDuration::from_secs(300);
/// Pause before a step that failed for no known reason is tried again.
pub const RETRY: Duration = Duration::from_secs(10);

struct CrashBackoff {
    delay: SignedDuration,
    updated: Timestamp,
}

/// What a pod's task remembers between steps. Nothing in it is needed to find the pod again after a restart.
#[derive(Default)]
pub struct Memory {
    /// Why containers wait, for the status.
    pub waiting: WaitingReasons,
    /// Times in a row that the volumes could not be set up.
    pub volume_failures: u32,
    crashes: HashMap<String, CrashBackoff>,
    /// The earliest moment at which trying again makes sense.
    pub retry_after: Option<Duration>,
}

impl Memory {
    fn retry(&mut self, after: Duration) {
        self.retry_after = Some(self.retry_after.map_or(after, |known| known.min(after)));
    }

    fn wait(&mut self, container: &str, reason: &str, message: &str) {
        self.waiting.insert(container.to_owned(), (reason.to_owned(), message.to_owned()));
    }

    /// Time left before a container that ended at `finished` may be started, and its whole delay (upstream
    /// `flowcontrol.Backoff`: `IsInBackOffSince`, then `Next`).
    fn crash_backoff(&mut self, key: &str, finished: Timestamp, now: Timestamp) -> Option<(Duration, SignedDuration)> {
        if let Some(known) = self.crashes.get_mut(key) {
            let stale = finished.duration_since(known.updated) > MAX_BACKOFF * 2;
            if !stale {
                let left = known.delay - now.duration_since(finished);
                if left.is_positive() {
                    return Some((Duration::try_from(left).unwrap_or_default(), known.delay));
                }
                known.delay = (known.delay * 2).min(MAX_BACKOFF);
                known.updated = now;
                return None;
            }
        }
        self.crashes.insert(key.to_owned(), CrashBackoff { delay: INITIAL_BACKOFF, updated: now });
        None
    }
}

/// A step of a pod failed and the rest was left; it is tried again later.
#[derive(Debug)]
pub struct Stopped;

/// Carries out the actions. Failures are written down in `memory`, as events, and lead to a later retry.
pub async fn apply(
    ctx: &Context,
    pod: &Pod,
    actions: &Actions,
    mounted: &Mounted,
    memory: &mut Memory,
) -> Result<(), Stopped> {
    let uid = spec::uid(pod);
    if actions.kill_pod {
        kill::pod(ctx, pod, &ctx.cache.pod(uid), None).await;
        if actions.create_sandbox {
            remove_init_containers(ctx, pod).await;
        } else {
            disconnect(ctx, pod).await;
        }
    }
    for kill in &actions.to_kill {
        let order = kill::Request { message: &kill.message, reason: kill.reason, grace_override: None };
        if let Err(error) = kill::container(ctx, pod, &kill.id, &kill.name, order, None).await {
            tracing::warn!(container = kill.id.0, error = %base::chain(&error), "cannot stop container");
            memory.retry(RETRY);
            return Err(Stopped);
        }
    }
    if !actions.to_reset.is_empty() {
        reset(ctx, pod, &actions.to_reset).await;
        memory.retry(Duration::ZERO);
        return Ok(());
    }
    let mut ips = ctx.cache.pod(uid).ips;
    if actions.create_sandbox {
        ips = create_sandbox(ctx, pod, actions.attempt, memory).await?;
    }
    for id in &actions.to_resize {
        container::resize(ctx, pod, id).await;
    }
    for i in &actions.ephemeral_to_start {
        if let Some(ephemeral) = spec::ephemeral_containers(pod).get(*i) {
            let target = ephemeral.target_container_name.as_deref();
            let container = spec::as_container(ephemeral);
            // Others start whether or not this one does.
            let _started =
                start_one(ctx, pod, &Start { kind: target, container: &container, mounted, ips: &ips }, memory).await;
        }
    }
    for i in &actions.init_to_start {
        let Some(container) = spec::init_containers(pod).get(*i) else { continue };
        prune_init(ctx, pod, container).await;
        if start_one(ctx, pod, &Start { kind: None, container, mounted, ips: &ips }, memory).await.is_err()
            && !spec::is_sidecar(container)
        {
            return Err(Stopped);
        }
    }
    for i in &actions.to_start {
        if let Some(container) = spec::containers(pod).get(*i) {
            let _started = start_one(ctx, pod, &Start { kind: None, container, mounted, ips: &ips }, memory).await;
        }
    }
    Ok(())
}

/// A container to start and what it needs of the pod.
pub struct Start<'a> {
    /// Container whose process namespace an ephemeral container joins.
    pub kind: Option<&'a str>,
    pub container: &'a Container,
    pub mounted: &'a Mounted,
    pub ips: &'a [IpAddr],
}

/// Starts a container unless it is in back-off.
async fn start_one(ctx: &Context, pod: &Pod, start: &Start<'_>, memory: &mut Memory) -> Result<(), Stopped> {
    let container = start.container;
    let observed = ctx.cache.pod(spec::uid(pod));
    let ended = observed.containers.iter().find_map(|c| match &c.state {
        State::Exited(exit) if c.name == container.name => Some(exit.finished),
        _ => None,
    });
    if let Some(finished) = ended {
        let key = format!("{}_{}", container.name, spec::hash(container));
        if let Some((left, delay)) = memory.crash_backoff(&key, finished, ctx.clock.now()) {
            let (name, full) = (&container.name, spec::full_name(pod));
            let text = format!("Back-off restarting failed container {name} in pod {full}");
            ctx.events.container(pod, name, EventType::Warning, "BackOff", &text);
            let delay = go_seconds(delay.as_secs());
            let message = format!("back-off {delay} restarting failed container={name} pod={full}");
            memory.wait(name, "CrashLoopBackOff", &message);
            memory.retry(left);
            return Err(Stopped);
        }
    }
    match container::start(ctx, pod, start).await {
        Ok(()) => {
            memory.waiting.remove(&container.name);
            Ok(())
        }
        Err(failure) => {
            memory.wait(&container.name, failure.reason, &failure.message);
            memory.retry(failure.retry_after);
            Err(Stopped)
        }
    }
}

/// Whole seconds as Go prints a duration: `10s`, `2m40s`, `5m0s`.
fn go_seconds(seconds: i64) -> String {
    if seconds < 60 { format!("{seconds}s") } else { format!("{}m{}s", seconds / 60, seconds % 60) }
}

/// The pod's namespaces, and its place in the network.
async fn create_sandbox(ctx: &Context, pod: &Pod, attempt: u32, memory: &mut Memory) -> Result<Vec<IpAddr>, Stopped> {
    let failed = |memory: &mut Memory, text: String| {
        let text = format!("Failed to create pod sandbox: {text}");
        ctx.events.pod(pod, EventType::Warning, "FailedCreatePodSandBox", &text);
        tracing::warn!(pod = spec::full_name(pod), error = text, "cannot create pod sandbox");
        memory.retry(RETRY);
        Stopped
    };
    let request = match sandbox_spec(ctx, pod, attempt).await {
        Ok(request) => request,
        Err(text) => return Err(failed(memory, text)),
    };
    let mut steps = container::Steps::new();
    let sandbox = match ctx.runtime.create_sandbox(&request).await {
        Ok(sandbox) => sandbox,
        Err(error) => return Err(failed(memory, base::chain(&error).to_string())),
    };
    ctx.cache.set_sandbox(pod_ref(pod), sandbox);
    steps.done("namespaces");
    let connected = connect(ctx, pod).await;
    steps.done("network");
    tracing::debug!(pod = spec::full_name(pod), steps_ms = ?steps.list(), "sandbox made");
    connected.map_err(|text| failed(memory, text))
}

/// Makes the namespaces of a new pod while its volumes are set up. They count only once the pod's sandbox is made, which
/// finds them; what fails here fails there again, and is told then.
pub async fn prepare_sandbox(ctx: &Context, pod: &Pod) {
    let Ok(request) = sandbox_spec(ctx, pod, 0).await else { return };
    if let Err(error) = ctx.runtime.create_sandbox(&request).await {
        tracing::debug!(pod = spec::full_name(pod), error = %base::chain(&error), "cannot prepare a sandbox");
    }
}

/// What the runtime is asked for.
async fn sandbox_spec(ctx: &Context, pod: &Pod, attempt: u32) -> Result<SandboxSpec, String> {
    let names = files::names(&ctx.config, pod).map_err(|e| e.to_string())?;
    let s = spec::spec(pod);
    let sysctls = s.security_context.as_ref().and_then(|c| c.sysctls.clone()).unwrap_or_default();
    if s.host_users == Some(false) {
        // Silence would be a promise of isolation that is not kept.
        return Err("can't set `spec.hostUsers: false`, runtime does not support user namespaces".to_owned());
    }
    let runtime_handler = ctx.runtime_classes.handler(ctx, pod).await?;
    Ok(SandboxSpec {
        id: spec::uid(pod).to_owned(),
        hostname: names.uts,
        host_network: spec::is_host_network(pod),
        host_pid: s.host_pid == Some(true),
        host_ipc: s.host_ipc == Some(true),
        share_process_namespace: s.share_process_namespace == Some(true),
        cgroup_parent: ctx.cgroups.pod_path(pod),
        runtime_handler,
        sysctls: sysctls.into_iter().map(|s| (s.name.replace('/', "."), s.value)).collect(),
        labels: [
            (names::POD_NAME, spec::name(pod).to_owned()),
            (names::POD_NAMESPACE, spec::namespace(pod).to_owned()),
            (names::POD_UID, spec::uid(pod).to_owned()),
            (names::SANDBOX_ATTEMPT, attempt.to_string()),
        ]
        .into_iter()
        .map(|(k, v)| (k.to_owned(), v))
        .collect(),
    })
}

pub fn pod_ref(pod: &Pod) -> PodRef {
    PodRef {
        uid: spec::uid(pod).to_owned(),
        namespace: spec::namespace(pod).to_owned(),
        name: spec::name(pod).to_owned(),
    }
}

/// Connects the pod's sandbox to the network, or finds it connected.
pub async fn connect(ctx: &Context, pod: &Pod) -> Result<Vec<IpAddr>, String> {
    let uid = spec::uid(pod);
    let Some(sandbox) = ctx.cache.pod(uid).sandbox else { return Err("the pod has no sandbox".to_owned()) };
    if sandbox.host_network {
        ctx.cache.set_network(uid, true, Vec::new());
        return Ok(ctx.config.node_ips.clone());
    }
    let Some(netns) = sandbox.netns else { return Err("the sandbox has no network namespace".to_owned()) };
    let request = AttachRequest {
        uid: uid.to_owned(),
        namespace: spec::namespace(pod).to_owned(),
        name: spec::name(pod).to_owned(),
        netns,
        host_ports: host_ports(pod),
        annotations: pod.metadata.annotations.clone().unwrap_or_default(),
    };
    let ips =
        ctx.network.attach(&request).await.map_err(|e| {
            format!("failed to set up the network of pod {:?}: {}", spec::full_name(pod), base::chain(&e))
        })?;
    ctx.cache.set_network(uid, true, ips.clone());
    Ok(ips)
}

fn host_ports(pod: &Pod) -> Vec<HostPort> {
    let all = spec::containers(pod).iter().chain(spec::init_containers(pod).iter().filter(|c| spec::is_sidecar(c)));
    all.flat_map(|c| c.ports.iter().flatten())
        .filter_map(|port| {
            Some(HostPort {
                host_ip: port.host_ip.as_deref().and_then(|ip| ip.parse().ok()),
                host_port: u16::try_from(port.host_port?).ok().filter(|p| *p != 0)?,
                container_port: u16::try_from(port.container_port).ok()?,
                protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
            })
        })
        .collect()
}

/// Gives the pod's addresses back. Its namespaces stay until it is deleted.
pub async fn disconnect(ctx: &Context, pod: &Pod) {
    let uid = spec::uid(pod);
    let observed = ctx.cache.pod(uid);
    if observed.sandbox.as_ref().is_none_or(|s| !s.ready) {
        return;
    }
    if !spec::is_host_network(pod)
        && let Err(error) = ctx.network.detach(uid).await
    {
        tracing::warn!(pod = spec::full_name(pod), error = %base::chain(&error), "cannot disconnect pod");
        return;
    }
    ctx.cache.set_network(uid, false, Vec::new());
}

/// Stops what runs and removes everything, in the given order, for a restart of the whole pod.
async fn reset(ctx: &Context, pod: &Pod, ids: &[ContainerId]) {
    for id in ids {
        let observed = ctx.cache.pod(spec::uid(pod));
        let Some(container) = observed.containers.iter().find(|c| c.id == *id) else { continue };
        if !matches!(container.state, State::Exited(_)) {
            let order = kill::Request { message: "killing", reason: KillReason::Changed, grace_override: Some(0) };
            if let Err(error) = kill::container(ctx, pod, id, &container.name, order, None).await {
                tracing::warn!(container = id.0, error = %base::chain(&error), "cannot stop container");
                return;
            }
        }
        remove_container(ctx, id).await;
    }
}

/// Removes a container that does not run.
pub async fn remove_container(ctx: &Context, id: &ContainerId) -> bool {
    match ctx.runtime.remove_container(id).await {
        Ok(()) => {
            ctx.cache.removed(id);
            true
        }
        Err(error) => {
            tracing::warn!(container = id.0, error = %base::chain(&error), "cannot remove container");
            false
        }
    }
}

async fn remove_init_containers(ctx: &Context, pod: &Pod) {
    let observed = ctx.cache.pod(spec::uid(pod));
    let init = |name: &str| spec::init_containers(pod).iter().any(|c| c.name == name);
    for container in observed.containers.iter().filter(|c| init(&c.name)) {
        remove_container(ctx, &container.id).await;
    }
}

/// Keeps only the newest ended container of an init container about to start.
async fn prune_init(ctx: &Context, pod: &Pod, container: &Container) {
    let observed: Observed = ctx.cache.pod(spec::uid(pod));
    let ended = |c: &&crate::observed::ObservedContainer| {
        c.name == container.name && matches!(c.state, State::Exited(_) | State::Unknown)
    };
    for old in observed.containers.iter().filter(ended).skip(1) {
        remove_container(ctx, &old.id).await;
    }
}

/// Removes ended containers but for the newest and the one before it, of each name, with their logs (upstream
/// `kuberuntime_gc.go`, `MaxPerPodContainer` 1).
pub async fn collect_dead(ctx: &Context, observed: &Observed) {
    let mut seen: HashMap<&str, usize> = HashMap::new();
    for container in &observed.containers {
        let count = seen.entry(&container.name).or_default();
        *count += 1;
        let ended = matches!(container.state, State::Exited(_) | State::Unknown);
        if *count <= 2 || !ended || !remove_container(ctx, &container.id).await {
            continue;
        }
        if let Err(error) = tokio::fs::remove_file(&container.log_path).await
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::debug!(path = %container.log_path.display(), error = %error, "cannot remove a log");
        }
    }
}

/// Removes the pod's namespaces; its containers are gone.
pub async fn remove_sandbox(ctx: &Context, uid: &str) -> Result<(), runtime::RuntimeError> {
    ctx.runtime.remove_sandbox(&SandboxId(uid.to_owned())).await?;
    ctx.cache.sandbox_removed(uid);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crashes_are_held_back_ever_longer_and_forgiven_after_a_while() {
        let mut memory = Memory::default();
        let at = |seconds: i64| Timestamp::from_second(1000 + seconds).unwrap();
        let mut check = |finished, now, expected: Option<u64>| {
            let left = memory.crash_backoff("c", at(finished), at(now)).map(|(left, _)| left.as_secs());
            assert_eq!(left, expected, "{finished} {now}");
        };
        check(0, 0, None);
        check(1, 1, Some(10));
        check(1, 11, None);
        check(12, 12, Some(20));
        check(12, 32, None);
        check(1000, 1000, None);
        check(1001, 1001, Some(10));
        assert_eq!((go_seconds(40), go_seconds(160), go_seconds(300)), ("40s".into(), "2m40s".into(), "5m0s".into()));
    }
}
