//! What to do next for a pod, decided from its spec and what the runtime has: pure, and tested against a model.
//!
//! Follows upstream's `kuberuntime_manager.go` `computePodActions` and `kuberuntime_container.go`
//! `computeInitContainerActions`.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::{Container, Pod};
use runtime::ContainerId;

use crate::observed::{Observed, ObservedContainer, State};
use crate::spec;

/// What a probe last decided about a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProbeResult {
    Success,
    Failure,
    Unknown,
}

/// The probe results that matter for a pod, by container.
#[derive(Debug, Clone, Default)]
pub struct ProbeFacts {
    pub liveness: HashMap<ContainerId, ProbeResult>,
    pub startup: HashMap<ContainerId, ProbeResult>,
}

/// Why a container is stopped; decides which grace period counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KillReason {
    Liveness,
    Startup,
    Changed,
    Unknown,
    Pod,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kill {
    pub id: ContainerId,
    pub name: String,
    /// The event's text.
    pub message: String,
    pub reason: KillReason,
}

/// Indexes are into the spec's lists.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Actions {
    /// Stop everything: before a new sandbox, or because the pod is done.
    pub kill_pod: bool,
    pub create_sandbox: bool,
    pub attempt: u32,
    pub init_to_start: Vec<usize>,
    pub to_start: Vec<usize>,
    pub ephemeral_to_start: Vec<usize>,
    pub to_kill: Vec<Kill>,
    /// Containers to stop and remove, in this order, so that the whole pod starts again.
    pub to_reset: Vec<ContainerId>,
    /// Running containers whose limits changed in place.
    pub to_resize: Vec<ContainerId>,
}

/// Whether a new sandbox is needed: its attempt number and why (upstream `runtimeutil.PodSandboxChanged`).
pub fn sandbox_change(pod: &Pod, observed: &Observed) -> Option<(u32, &'static str)> {
    let Some(sandbox) = &observed.sandbox else {
        // Containers without a sandbox: the node was restarted.
        let attempt = u32::from(!observed.containers.is_empty());
        return Some((attempt, "No pod sandbox for pod can be found. Need to start a new one"));
    };
    if sandbox.host_network != spec::is_host_network(pod) {
        return Some((
            sandbox.attempt + 1,
            "Pod network namespace mode does not match sandbox. Need to start a new one",
        ));
    }
    if !sandbox.ready {
        return Some((sandbox.attempt + 1, "No ready sandbox for pod can be found. Need to start a new one"));
    }
    None
}

/// Whether a container that is not running is to be started (upstream `ShouldContainerBeRestarted`).
pub fn should_be_started(pod: &Pod, container: &Container, observed: &Observed) -> bool {
    if spec::is_deleted(pod) {
        return false;
    }
    match observed.latest(&container.name).map(|c| &c.state) {
        None | Some(State::Unknown | State::Created) => true,
        Some(State::Running { .. }) => false,
        Some(State::Exited(exit)) => spec::should_restart(pod, container, exit.code),
    }
}

/// Whether a regular container was ever created.
pub fn any_regular_created(pod: &Pod, observed: &Observed) -> bool {
    spec::containers(pod).iter().any(|c| observed.latest(&c.name).is_some_and(|status| status.state != State::Unknown))
}

/// Whether a regular container was started in the present sandbox.
pub fn any_active_regular_started(pod: &Pod, observed: &Observed) -> bool {
    spec::containers(pod).iter().any(|c| {
        observed.active(&c.name).is_some_and(|status| matches!(status.state, State::Running { .. } | State::Exited(_)))
    })
}

fn restarts_on_failure(pod: &Pod) -> bool {
    spec::restart_policy(pod) != "Never"
}

/// Decides the next step for a pod that is neither deleted nor done.
pub fn compute_pod_actions(pod: &Pod, observed: &Observed, probes: &ProbeFacts) -> Actions {
    if let Some(to_reset) = reset_all(pod, observed) {
        return Actions { to_reset, ..Actions::default() };
    }
    if let Some((attempt, _)) = sandbox_change(pod, observed) {
        return new_sandbox(pod, observed, attempt);
    }
    let mut actions = Actions { attempt: observed.sandbox.as_ref().map_or(0, |s| s.attempt), ..Actions::default() };
    for (i, ephemeral) in spec::ephemeral_containers(pod).iter().enumerate() {
        // Never restarted.
        if observed.latest(&ephemeral.name).is_none() {
            actions.ephemeral_to_start.push(i);
        }
    }
    let initialized = plan_init(pod, observed, probes, &mut actions);
    if actions.kill_pod || !initialized {
        return actions;
    }
    plan_regular(pod, observed, probes, &mut actions);
    actions
}

/// A container whose exit restarts the whole pod: everything goes, what exited last goes last.
fn reset_all(pod: &Pod, observed: &Observed) -> Option<Vec<ContainerId>> {
    if !spec::could_restart_all(pod) {
        return None;
    }
    let is_source = |list: &[Container], status: &ObservedContainer| match &status.state {
        State::Exited(exit) => list.iter().any(|c| c.name == status.name && spec::restarts_all(c, exit.code)),
        _ => false,
    };
    let lists = [spec::containers(pod), spec::init_containers(pod)];
    let triggered = lists
        .iter()
        .any(|list| list.iter().filter_map(|c| observed.latest(&c.name)).any(|status| is_source(list, status)));
    if !triggered {
        return None;
    }
    let mut targets = Vec::new();
    let mut sources = Vec::new();
    for list in lists {
        for status in observed.containers.iter().filter(|s| list.iter().any(|c| c.name == s.name)) {
            if is_source(list, status) { &mut sources } else { &mut targets }.push(status.id.clone());
        }
    }
    targets.append(&mut sources);
    Some(targets)
}

fn new_sandbox(pod: &Pod, observed: &Observed, attempt: u32) -> Actions {
    let mut actions = Actions { kill_pod: true, create_sandbox: true, attempt, ..Actions::default() };
    if !restarts_on_failure(pod) && attempt != 0 && !observed.containers.is_empty() {
        actions.create_sandbox = false;
        return actions;
    }
    let succeeded = |c: &Container| {
        observed.latest(&c.name).is_some_and(|s| matches!(&s.state, State::Exited(exit) if exit.code == 0))
    };
    let to_start: Vec<usize> = (0..)
        .zip(spec::containers(pod))
        .filter(|(_, c)| {
            let policy = c.restart_policy.as_deref().unwrap_or_else(|| spec::restart_policy(pod));
            !(policy == "OnFailure" && succeeded(c))
        })
        .map(|(i, _)| i)
        .collect();
    if to_start.is_empty() && any_regular_created(pod, observed) {
        actions.create_sandbox = false;
        return actions;
    }
    if spec::init_containers(pod).is_empty() {
        actions.to_start = to_start;
    } else {
        actions.init_to_start = vec![0];
    }
    actions
}

fn kill(container: &ObservedContainer, message: String, reason: KillReason) -> Kill {
    Kill { id: container.id.clone(), name: container.name.clone(), message, reason }
}

/// Walks the init containers from the last: the last one that has a status tells how far initialisation got. Returns
/// whether the pod is initialized.
fn plan_init(pod: &Pod, observed: &Observed, probes: &ProbeFacts, actions: &mut Actions) -> bool {
    let list = spec::init_containers(pod);
    if list.is_empty() {
        return true;
    }
    let mut initialized = any_active_regular_started(pod, observed);
    let mut previously = initialized;
    for (i, container) in list.iter().enumerate().rev() {
        let sidecar = spec::is_sidecar(container);
        let Some(status) = observed.active(&container.name) else {
            if previously && sidecar {
                actions.init_to_start.push(i);
            }
            continue;
        };
        if previously && !sidecar {
            continue;
        }
        let last = i + 1 == list.len();
        match &status.state {
            State::Created => actions.init_to_start.push(i),
            State::Running { .. } if !sidecar => {}
            State::Running { .. } => {
                plan_running_sidecar(container, status, probes, (i, last, previously), &mut initialized, actions);
            }
            State::Exited(_) if sidecar => actions.init_to_start.push(i),
            State::Exited(exit) if exit.code != 0 || exit.reason == "OOMKilled" => {
                if !spec::should_restart(pod, container, exit.code) {
                    actions.kill_pod = true;
                    actions.init_to_start.clear();
                    return false;
                }
                actions.init_to_start.push(i);
            }
            State::Exited(_) if last => initialized = true,
            State::Exited(_) => actions.init_to_start.push(i + 1),
            State::Unknown => {
                let restart = sidecar
                    || container
                        .restart_policy
                        .as_deref()
                        .map_or_else(|| restarts_on_failure(pod), |policy| policy != "Never");
                if !restart {
                    actions.kill_pod = true;
                    actions.init_to_start.clear();
                    return false;
                }
                let text = "Init container is in \"unknown\" state, try killing it before restart".to_owned();
                actions.to_kill.push(kill(status, text, KillReason::Unknown));
                actions.init_to_start.push(i);
            }
        }
        previously = true;
    }
    if !previously {
        actions.init_to_start.push(0);
    }
    actions.init_to_start.reverse();
    initialized
}

fn plan_running_sidecar(
    container: &Container,
    status: &ObservedContainer,
    probes: &ProbeFacts,
    (i, last, previously): (usize, bool, bool),
    initialized: &mut bool,
    actions: &mut Actions,
) {
    if container.startup_probe.is_some() {
        match probes.startup.get(&status.id) {
            Some(ProbeResult::Success) => {}
            Some(ProbeResult::Failure) => {
                let text = format!("Init container {} failed startup probe", container.name);
                actions.to_kill.push(kill(status, text, KillReason::Startup));
                actions.init_to_start.push(i);
                return;
            }
            Some(ProbeResult::Unknown) | None => return,
        }
    }
    if last {
        *initialized = true;
    } else if !previously {
        actions.init_to_start.push(i + 1);
    }
    if spec::hash(container) != status.hash {
        let text = format!("Init container {} definition changed", container.name);
        actions.to_kill.push(kill(status, text, KillReason::Changed));
        actions.init_to_start.push(i);
    } else if container.liveness_probe.is_some() && probes.liveness.get(&status.id) == Some(&ProbeResult::Failure) {
        let text = format!("Init container {} failed liveness probe", container.name);
        actions.to_kill.push(kill(status, text, KillReason::Liveness));
        actions.init_to_start.push(i);
    } else {
        plan_resize(container, status, i, true, actions);
    }
}

fn plan_regular(pod: &Pod, observed: &Observed, probes: &ProbeFacts, actions: &mut Actions) {
    let mut kept = 0;
    for (i, container) in spec::containers(pod).iter().enumerate() {
        let status = observed.latest(&container.name);
        let Some(status) = status.filter(|s| s.is_running()) else {
            if should_be_started(pod, container, observed) {
                actions.to_start.push(i);
                if let Some(status) = status.filter(|s| s.state == State::Unknown) {
                    let text = "Container is in \"unknown\" state, try killing it before restart".to_owned();
                    actions.to_kill.push(kill(status, text, KillReason::Unknown));
                }
            }
            continue;
        };
        let mut restart =
            container.restart_policy.as_deref().map_or_else(|| restarts_on_failure(pod), |p| p != "Never");
        let failed =
            |results: &HashMap<ContainerId, ProbeResult>| results.get(&status.id) == Some(&ProbeResult::Failure);
        let (mut message, reason) = if spec::hash(container) != status.hash {
            restart = true;
            (format!("Container {} definition changed", container.name), KillReason::Changed)
        } else if failed(&probes.liveness) {
            (format!("Container {} failed liveness probe", container.name), KillReason::Liveness)
        } else if failed(&probes.startup) {
            (format!("Container {} failed startup probe", container.name), KillReason::Startup)
        } else {
            kept += usize::from(plan_resize(container, status, i, false, actions));
            continue;
        };
        if restart {
            message.push_str(", will be restarted");
            actions.to_start.push(i);
        }
        actions.to_kill.push(kill(status, message, reason));
    }
    if kept == 0 && actions.to_start.is_empty() {
        actions.kill_pod = true;
        // Sidecars must not keep a finished pod alive.
        actions.init_to_start.clear();
    }
}

/// Changed limits of a running container: in place, or by a restart where its resize policy says so. Returns whether
/// the container is kept.
fn plan_resize(container: &Container, status: &ObservedContainer, i: usize, init: bool, actions: &mut Actions) -> bool {
    let Some(actuated) = status.actuated.as_deref() else { return true };
    let changed = crate::resize::changed(actuated, container.resources.as_ref());
    if changed.is_empty() {
        return true;
    }
    let restarts = |resource: &str| {
        container
            .resize_policy
            .iter()
            .flatten()
            .any(|p| p.resource_name == resource && p.restart_policy == "RestartContainer")
    };
    if !changed.iter().any(|resource| restarts(resource)) {
        actions.to_resize.push(status.id.clone());
        return true;
    }
    let what = if init { "Init container" } else { "Container" };
    let text = format!("{what} {} resize requires restart", container.name);
    actions.to_kill.push(kill(status, text, KillReason::Changed));
    if init { &mut actions.init_to_start } else { &mut actions.to_start }.push(i);
    false
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
