//! Stopping containers: hooks, order, grace (upstream `kuberuntime_container.go` `killContainer`,
//! `kuberuntime_termination_order.go`).

use std::collections::HashMap;
use std::time::Duration;

use client::EventType;
use futures::future::join_all;
use k8s_openapi::api::core::v1::{Container, Pod};
use runtime::{ContainerId, RuntimeError};
use tokio::sync::watch;
use tokio::time::Instant;

use super::container::refresh;
use super::hooks;
use crate::context::Context;
use crate::observed::{Observed, State};
use crate::plan::KillReason;
use crate::spec;

/// Seconds that a container always has (upstream `minimumGracePeriodInSeconds`).
const MIN_GRACE: i64 = 2;

/// Why and how a container is stopped.
pub struct Request<'a> {
    /// The event's text; empty for the usual one.
    pub message: &'a str,
    pub reason: KillReason,
    /// Seconds that overrule the pod's.
    pub grace_override: Option<i64>,
}

/// Seconds a container has to stop by itself.
fn grace_seconds(pod: &Pod, container: Option<&Container>, reason: KillReason) -> i64 {
    if let Some(seconds) = pod.metadata.deletion_grace_period_seconds {
        return seconds;
    }
    let Some(pod_seconds) = spec::spec(pod).termination_grace_period_seconds else { return MIN_GRACE };
    let probe = container.and_then(|c| match reason {
        KillReason::Liveness => c.liveness_probe.as_ref(),
        KillReason::Startup => c.startup_probe.as_ref(),
        KillReason::Changed | KillReason::Unknown | KillReason::Pod => None,
    });
    probe.and_then(|p| p.termination_grace_period_seconds).unwrap_or(pod_seconds)
}

/// Stops one container; returns when it is gone.
pub async fn container(
    ctx: &Context,
    pod: &Pod,
    id: &ContainerId,
    name: &str,
    request: Request<'_>,
    turn: Option<&Order>,
) -> Result<(), RuntimeError> {
    let found = spec::find(pod, name).map(|(_, c)| c);
    let text =
        if request.message.is_empty() { format!("Stopping container {name}") } else { request.message.to_owned() };
    ctx.events.container(pod, name, EventType::Normal, "Killing", &text);
    let mut left = request.grace_override.unwrap_or_else(|| grace_seconds(pod, found.as_ref(), request.reason));
    let hook = found.as_ref().and_then(|c| Some((c, c.lifecycle.as_ref()?.pre_stop.as_ref()?)));
    if let Some((container, hook)) = hook.filter(|_| left > 0) {
        let begin = Instant::now();
        let run = hooks::run(ctx, pod, container, id, hook, "PreStop");
        match tokio::time::timeout(seconds(left), run).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::debug!(container = id.0, error, "preStop hook failed");
                ctx.events.container(pod, name, EventType::Warning, "FailedPreStopHook", "PreStopHook failed");
            }
            Err(_) => tracing::debug!(container = id.0, "preStop hook not completed in grace period"),
        }
        left -= whole_seconds(begin.elapsed());
    }
    if let Some(order) = turn.filter(|_| left > 0) {
        let begin = Instant::now();
        let _in_time = tokio::time::timeout(seconds(left), order.wait_for_turn(name)).await;
        left -= whole_seconds(begin.elapsed());
    }
    let result = ctx.runtime.stop_container(id, seconds(left.max(MIN_GRACE))).await;
    refresh(ctx, id).await;
    if let Some(order) = turn {
        order.terminated(name);
    }
    match result {
        Err(RuntimeError::NotFound { .. }) | Ok(()) => Ok(()),
        Err(error) => Err(error),
    }
}

fn seconds(n: i64) -> Duration {
    Duration::from_secs(u64::try_from(n).unwrap_or(0))
}

fn whole_seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}

/// Stops every container of the pod that may still run, all at a time but for sidecars, which go after the containers
/// they serve. Returns whether all are gone.
pub async fn pod(ctx: &Context, pod: &Pod, observed: &Observed, grace_override: Option<i64>) -> bool {
    let alive: Vec<_> = observed.containers.iter().filter(|c| !matches!(c.state, State::Exited(_))).collect();
    if alive.is_empty() {
        return true;
    }
    let running: Vec<&str> = alive.iter().map(|c| c.name.as_str()).collect();
    let has_sidecars = spec::init_containers(pod).iter().any(spec::is_sidecar);
    let order = has_sidecars.then(|| Order::new(pod, &running));
    let stops = alive.iter().map(|c| {
        let request = Request { message: "", reason: KillReason::Pod, grace_override };
        let order = order.as_ref();
        async move { (c, container(ctx, pod, &c.id, &c.name, request, order).await) }
    });
    let mut all = true;
    for (stopped, result) in join_all(stops).await {
        if let Err(error) = result {
            let text = format!(
                "error killing pod: failed to \"KillContainer\" for {:?}: {}",
                stopped.name,
                base::chain(&error)
            );
            ctx.events.pod(pod, EventType::Warning, "FailedKillPod", &text);
            tracing::warn!(container = stopped.id.0, error = %base::chain(&error), "cannot stop container");
            all = false;
        }
    }
    all
}

/// In which order containers of a pod with sidecars end.
pub struct Order {
    gone: HashMap<String, watch::Sender<bool>>,
    /// Whom each container waits for.
    waits_for: HashMap<String, Vec<String>>,
}

impl Order {
    fn new(pod: &Pod, running: &[&str]) -> Self {
        let mut gone = HashMap::new();
        let mut waits_for: HashMap<String, Vec<String>> = HashMap::new();
        let is_running = |name: &str| running.contains(&name);
        let mut before: Vec<String> =
            spec::containers(pod).iter().map(|c| c.name.clone()).filter(|n| is_running(n)).collect();
        for sidecar in spec::init_containers(pod).iter().rev().filter(|c| spec::is_sidecar(c)) {
            waits_for.insert(sidecar.name.clone(), before.clone());
            if is_running(&sidecar.name) {
                before.push(sidecar.name.clone());
            }
        }
        for name in running {
            gone.insert((*name).to_owned(), watch::Sender::new(false));
        }
        Self { gone, waits_for }
    }

    async fn wait_for_turn(&self, name: &str) {
        for other in self.waits_for.get(name).into_iter().flatten() {
            if let Some(gone) = self.gone.get(other) {
                // The sender lives as long as `self`.
                let mut gone = gone.subscribe();
                let _gone = gone.wait_for(|gone| *gone).await;
            }
        }
    }

    fn terminated(&self, name: &str) {
        if let Some(gone) = self.gone.get(name) {
            gone.send_replace(true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pod_from;
    use serde_json::json;

    #[tokio::test(start_paused = true)]
    async fn sidecars_wait_for_containers_and_for_later_sidecars() {
        let pod = pod_from(json!({"metadata": {"name": "p"}, "spec": {
            "initContainers": [{"name": "s1", "restartPolicy": "Always"}, {"name": "i"},
                {"name": "s2", "restartPolicy": "Always"}],
            "containers": [{"name": "a"}]}}));
        let order = Order::new(&pod, &["s1", "s2", "a"]);
        assert_eq!(order.waits_for["s2"], ["a"]);
        assert_eq!(order.waits_for["s1"], ["a", "s2"]);
        order.wait_for_turn("a").await;
        let early = tokio::time::timeout(Duration::from_secs(1), order.wait_for_turn("s2")).await;
        assert!(early.is_err());
        order.terminated("a");
        order.wait_for_turn("s2").await;
    }

    #[test]
    fn probes_may_have_a_grace_period_of_their_own() {
        let pod = pod_from(json!({"metadata": {"name": "p"}, "spec": {"terminationGracePeriodSeconds": 30,
            "containers": [{"name": "a", "livenessProbe": {"terminationGracePeriodSeconds": 5}}]}}));
        let container = &spec::containers(&pod)[0];
        assert_eq!(grace_seconds(&pod, Some(container), KillReason::Liveness), 5);
        assert_eq!(grace_seconds(&pod, Some(container), KillReason::Changed), 30);
    }
}
