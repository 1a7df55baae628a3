//! One step of a pod that is to run (upstream `kubelet.go` `SyncPod`).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use client::EventType;
use k8s_openapi::api::core::v1::{Pod, PodStatus};

use crate::context::Context;
use crate::execute::{self, Memory, RETRY};
use crate::observed::Observed;
use crate::plan;
use crate::resize::allocation;
use crate::status;
use crate::table::{Eviction, Slot};
use crate::{admit, eviction, spec, volumes};

/// Brings the pod a step further. Returns whether it has ended by itself.
pub(super) async fn step(ctx: &Arc<Context>, slot: &Arc<Slot>, memory: &mut Memory) -> bool {
    loop {
        slot.again.store(false, Ordering::Relaxed);
        memory.retry_after = None;
        let pod = slot.pod();
        if let Some(over) = deadline(ctx, slot, &pod, memory) {
            return over;
        }
        if !admitted(ctx, slot, &pod) {
            return true;
        }
        let pod = allocation::allocate(ctx, slot, &pod);
        advance(ctx, slot, &pod, memory).await;
        allocation::note_progress(ctx, slot, &pod);
        if let Some(after) = slot.allocation().and_then(|a| a.retry_after()) {
            memory.retry_after = Some(memory.retry_after.map_or(after, |known| known.min(after)));
        }
        let observed = ctx.cache.pod(&slot.uid);
        ctx.probes.sync(ctx, &pod, &observed);
        let status = report(ctx, slot, &pod, &observed, memory, false);
        if spec::is_terminal_phase(status.phase.as_deref()) {
            return true;
        }
        let due = memory.retry_after == Some(Duration::ZERO);
        if !due && !slot.again.load(Ordering::Relaxed) {
            return false;
        }
        if due {
            memory.retry_after = None;
        }
        // Others get their turn between two steps.
        tokio::task::yield_now().await;
    }
}

/// Whether the node takes the pod; one that was taken before stays taken.
fn admitted(ctx: &Context, slot: &Slot, pod: &Pod) -> bool {
    let observed = ctx.cache.pod(&slot.uid);
    let known = observed.sandbox.is_some() || !observed.containers.is_empty() || slot.status().is_some();
    if known || spec::status(pod).start_time.is_some() {
        return true;
    }
    let taken = ctx.table.taken();
    let others: Vec<Arc<Pod>> = taken.iter().filter(|o| o.uid != slot.uid).map(|o| o.granted_pod()).collect();
    let others: Vec<&Pod> = others.iter().map(AsRef::as_ref).collect();
    if ctx.shutting_down.load(Ordering::Relaxed) {
        let message = "Pod was rejected as the node is shutting down.".to_owned();
        ctx.events.pod(pod, EventType::Warning, "NodeShutdown", &message);
        let reason = "NodeShutdown".to_owned();
        slot.evict(Eviction { reason, message, grace_seconds: None, disruption: None });
        return false;
    }
    let admitted =
        eviction::admit(ctx.pressures.now(), pod).and_then(|()| admit::admit(&ctx.config, &ctx.machine, &others, pod));
    let Err(rejection) = admitted else { return true };
    ctx.events.pod(pod, EventType::Warning, &rejection.reason, &rejection.message);
    tracing::info!(pod = spec::full_name(pod), reason = rejection.reason, "pod rejected");
    let admit::Rejection { reason, message } = rejection;
    slot.evict(Eviction { reason, message, grace_seconds: None, disruption: None });
    false
}

/// `activeDeadlineSeconds`: ends the pod, or sets the alarm.
fn deadline(ctx: &Context, slot: &Slot, pod: &Pod, memory: &mut Memory) -> Option<bool> {
    let seconds = spec::spec(pod).active_deadline_seconds?;
    let started = slot.status().and_then(|s| s.start_time).or_else(|| spec::status(pod).start_time.clone())?;
    let ends = started.0 + jiff::SignedDuration::from_secs(seconds);
    let left = ends.duration_since(ctx.clock.now());
    if left.is_positive() {
        memory.retry_after = Some(Duration::try_from(left).unwrap_or_default());
        return None;
    }
    let message = "Pod was active on the node longer than the specified deadline".to_owned();
    ctx.events.pod(pod, EventType::Normal, "DeadlineExceeded", &message);
    slot.evict(Eviction { reason: "DeadlineExceeded".to_owned(), message, grace_seconds: None, disruption: None });
    Some(true)
}

async fn advance(ctx: &Arc<Context>, slot: &Slot, pod: &Arc<Pod>, memory: &mut Memory) {
    let alarm = memory.retry_after.take();
    let retry = |memory: &mut Memory, after: Duration| {
        memory.retry_after = Some(memory.retry_after.map_or(after, |known| known.min(after)));
    };
    if let Some(alarm) = alarm {
        retry(memory, alarm);
    }
    if !spec::is_host_network(pod)
        && let Err(why) = network_if_new(ctx, pod).await
    {
        let text = format!("network is not ready: {why}");
        ctx.events.pod(pod, EventType::Warning, "NetworkNotReady", &text);
        retry(memory, Duration::from_millis(500));
        return;
    }
    if let Err(error) = ctx.cgroups.ensure_pod(pod) {
        let text = format!("unable to ensure pod container exists: {}", base::chain(&error));
        ctx.events.pod(pod, EventType::Warning, "FailedCreatePodContainer", &text);
        retry(memory, RETRY);
        return;
    }
    let found = reconnect(ctx, pod).await;
    let observed = ctx.cache.pod(&slot.uid);
    if observed.containers.is_empty() && observed.sandbox.is_none() {
        // The status says that the pod was seen, before the long work begins.
        report(ctx, slot, pod, &observed, memory, false);
    }
    if let Err(text) = found {
        ctx.events.pod(pod, EventType::Warning, "FailedCreatePodSandBox", &text);
    }
    let is_new = observed.sandbox.is_none() && observed.containers.is_empty() && memory.volume_failures == 0;
    let prepare = async {
        if is_new {
            execute::prepare_sandbox(ctx, pod).await;
        }
    };
    let (mounted, ()) = tokio::join!(volumes::set_up(ctx, pod, &observed.ips), prepare);
    let mounted = match mounted {
        Ok(mounted) => mounted,
        Err(error) => {
            let text = format!("{error} : {}", base::chain(&error.source));
            ctx.events.pod(pod, EventType::Warning, "FailedMount", &text);
            tracing::info!(pod = spec::full_name(pod), error = text, "cannot set up volumes");
            // Upstream `goroutinemap/exponentialbackoff`: half a second, doubled up to about two minutes.
            let after = Duration::from_millis(500 << memory.volume_failures.min(8));
            memory.volume_failures += 1;
            retry(memory, after);
            return;
        }
    };
    memory.volume_failures = 0;
    if let Some(after) = mounted.refresh_after {
        retry(memory, after);
    }
    let actions = plan::compute_pod_actions(pod, &observed, &ctx.probes.facts(&observed));
    tracing::debug!(pod = spec::full_name(pod), ?actions, "planned");
    execute::collect_dead(ctx, &observed).await;
    let applied = execute::apply(ctx, pod, &actions, &mounted, memory).await;
    if applied.is_ok() && !actions.init_to_start.is_empty() && memory.retry_after.is_none() {
        // A sidecar that just started may let the next container start.
        retry(memory, Duration::ZERO);
    }
    if applied.is_err() && memory.retry_after.is_none() {
        retry(memory, RETRY);
    }
}

/// A pod that has nothing yet waits for the network; one that runs already does not care.
async fn network_if_new(ctx: &Context, pod: &Pod) -> Result<(), String> {
    if ctx.cache.pod(spec::uid(pod)).sandbox.is_some() {
        return Ok(());
    }
    ctx.network.ready().await
}

/// After a restart of the node agent: learns the addresses of a pod that is connected already.
async fn reconnect(ctx: &Context, pod: &Pod) -> Result<(), String> {
    let observed = ctx.cache.pod(spec::uid(pod));
    let Some(sandbox) = &observed.sandbox else { return Ok(()) };
    let done = spec::containers(pod)
        .iter()
        .all(|c| observed.latest(&c.name).is_some() && !plan::should_be_started(pod, c, &observed))
        && observed.running().next().is_none();
    if sandbox.ready || done {
        return Ok(());
    }
    execute::connect(ctx, pod).await.map(drop)
}

/// Computes the status and hands it to the publisher.
pub(super) fn report(
    ctx: &Context,
    slot: &Slot,
    pod: &Pod,
    observed: &Observed,
    memory: &Memory,
    terminal: bool,
) -> PodStatus {
    let previous = slot.status().or_else(|| pod.status.clone()).unwrap_or_default();
    let probes = ctx.probes.states(pod, observed);
    let eviction = slot.eviction();
    let now = ctx.clock.now();
    let mut extra_conditions: Vec<_> = eviction
        .iter()
        .filter_map(|e| e.disruption.as_ref())
        .map(|(reason, message)| status::disruption(&previous, reason, message, now))
        .collect();
    if !terminal {
        extra_conditions.extend(slot.allocation().iter().flat_map(|a| a.conditions()));
    }
    let computed = status::generate(&status::Input {
        pod,
        observed,
        previous: &previous,
        waiting: &memory.waiting,
        probes: &probes,
        terminal,
        overrule: eviction.as_ref().map(|e| (e.reason.as_str(), e.message.as_str())),
        extra_conditions: &extra_conditions,
        host_ips: &ctx.config.node_ips,
        now,
    });
    slot.set_status(computed.clone());
    computed
}
