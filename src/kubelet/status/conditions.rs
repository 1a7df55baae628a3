//! The pod's conditions (upstream `kubelet/status/generate.go`).

use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodCondition, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{Input, seconds};
use crate::{plan, spec};

/// Conditions that the node agent decides; all others are left to whoever set them.
pub const OWNED: &[&str] = &[
    "PodReadyToStartContainers",
    "Initialized",
    "Ready",
    "ContainersReady",
    "PodScheduled",
    "PodResizePending",
    "PodResizeInProgress",
    "AllContainersRestarting",
];

/// All conditions of the pod: others' as the API server has them, ours as computed.
pub fn generate(
    input: &Input<'_>,
    init: &[ContainerStatus],
    regular: &[ContainerStatus],
    phase: &str,
) -> Vec<PodCondition> {
    let pod = input.pod;
    let api = spec::status(pod).conditions.iter().flatten();
    let mut conditions: Vec<PodCondition> = api.filter(|c| !OWNED.contains(&c.type_.as_str())).cloned().collect();
    for extra in input.extra_conditions {
        conditions.retain(|c| c.type_ != extra.type_);
        conditions.push(extra.clone());
    }
    let all: Vec<&ContainerStatus> = init.iter().chain(regular).collect();
    let mut own = vec![ready_to_start(input), initialized(input, &all, phase)];
    let containers_ready = containers_ready(pod, &all, phase);
    own.push(ready(pod, &conditions, &containers_ready));
    own.push(containers_ready);
    own.push(condition("PodScheduled", true, "", String::new()));
    for mut new in own {
        transition(&mut new, input.previous, pod, input);
        conditions.push(new);
    }
    conditions
}

/// Keeps the transition time of a condition whose status did not change.
fn transition(new: &mut PodCondition, previous: &PodStatus, pod: &Pod, input: &Input<'_>) {
    let find = |status: &PodStatus| status.conditions.iter().flatten().find(|c| c.type_ == new.type_).cloned();
    let old = find(previous).or_else(|| find(spec::status(pod)));
    new.last_transition_time = match old {
        Some(old) if old.status == new.status => old.last_transition_time,
        _ => None,
    }
    .or_else(|| Some(Time(seconds(input.now))));
    new.observed_generation = pod.metadata.generation;
}

fn condition(type_: &str, status: bool, reason: &str, message: String) -> PodCondition {
    PodCondition {
        type_: type_.to_owned(),
        status: if status { "True" } else { "False" }.to_owned(),
        reason: (!reason.is_empty()).then(|| reason.to_owned()),
        message: (!message.is_empty()).then_some(message),
        ..PodCondition::default()
    }
}

fn ready_to_start(input: &Input<'_>) -> PodCondition {
    const TYPE: &str = "PodReadyToStartContainers";
    match plan::sandbox_change(input.pod, input.observed) {
        None => condition(TYPE, true, "", String::new()),
        Some((_, why)) => condition(TYPE, false, "PodSandboxNotReady", why.to_owned()),
    }
}

/// Go's `%s` of a string slice.
fn go_list(names: &[&str]) -> String {
    format!("[{}]", names.join(" "))
}

fn find<'a>(statuses: &[&'a ContainerStatus], name: &str) -> Option<&'a ContainerStatus> {
    statuses.iter().find(|s| s.name == name).copied()
}

fn initialized(input: &Input<'_>, statuses: &[&ContainerStatus], phase: &str) -> PodCondition {
    const TYPE: &str = "Initialized";
    let pod = input.pod;
    let mut unknown = Vec::new();
    let mut incomplete = Vec::new();
    for container in spec::init_containers(pod) {
        match find(statuses, &container.name) {
            None => unknown.push(container.name.as_str()),
            Some(s) => {
                let done = if spec::is_sidecar(container) { s.started == Some(true) } else { s.ready };
                if !done {
                    incomplete.push(container.name.as_str());
                }
            }
        }
    }
    if phase == "Succeeded" && unknown.is_empty() {
        return condition(TYPE, true, "PodCompleted", String::new());
    }
    let started = |name: &str| {
        find(statuses, name).is_some_and(|s| {
            let ended = |state: &Option<k8s_openapi::api::core::v1::ContainerState>| {
                state.as_ref().is_some_and(|s| s.terminated.is_some())
            };
            s.state.as_ref().is_some_and(|s| s.running.is_some()) || ended(&s.state) || ended(&s.last_state)
        })
    };
    if spec::containers(pod).iter().any(|c| started(&c.name)) {
        return condition(TYPE, true, "", String::new());
    }
    let mut messages = Vec::new();
    if !unknown.is_empty() {
        messages.push(format!("containers with unknown status: {}", go_list(&unknown)));
    }
    if !incomplete.is_empty() {
        messages.push(format!("containers with incomplete status: {}", go_list(&incomplete)));
    }
    let before = input.previous.conditions.iter().flatten().any(|c| c.type_ == TYPE && c.status == "True");
    if messages.is_empty() || (before && spec::could_restart_all(pod)) {
        return condition(TYPE, true, "", String::new());
    }
    condition(TYPE, false, "ContainersNotInitialized", messages.join(", "))
}

fn containers_ready(pod: &Pod, statuses: &[&ContainerStatus], phase: &str) -> PodCondition {
    const TYPE: &str = "ContainersReady";
    let mut unknown = Vec::new();
    let mut unready = Vec::new();
    let sidecars = spec::init_containers(pod).iter().filter(|c| spec::is_sidecar(c));
    for container in sidecars.chain(spec::containers(pod)) {
        match find(statuses, &container.name) {
            None => unknown.push(container.name.as_str()),
            Some(s) if !s.ready => unready.push(container.name.as_str()),
            Some(_) => {}
        }
    }
    if phase == "Succeeded" && unknown.is_empty() {
        return condition(TYPE, false, "PodCompleted", String::new());
    }
    if phase == "Failed" {
        return condition(TYPE, false, "PodFailed", String::new());
    }
    let mut messages = Vec::new();
    if !unknown.is_empty() {
        messages.push(format!("containers with unknown status: {}", go_list(&unknown)));
    }
    if !unready.is_empty() {
        messages.push(format!("containers with unready status: {}", go_list(&unready)));
    }
    if messages.is_empty() {
        return condition(TYPE, true, "", String::new());
    }
    condition(TYPE, false, "ContainersNotReady", messages.join(", "))
}

fn ready(pod: &Pod, others: &[PodCondition], containers_ready: &PodCondition) -> PodCondition {
    const TYPE: &str = "Ready";
    if containers_ready.status != "True" {
        return PodCondition { type_: TYPE.to_owned(), ..containers_ready.clone() };
    }
    let mut messages = Vec::new();
    for gate in spec::spec(pod).readiness_gates.iter().flatten() {
        let name = &gate.condition_type;
        match others.iter().find(|c| c.type_ == *name) {
            None => {
                messages.push(format!("corresponding condition of pod readiness gate {name:?} does not exist."));
            }
            Some(c) if c.status != "True" => {
                let status = &c.status;
                messages.push(format!("the status of pod readiness gate {name:?} is not \"True\", but {status}"));
            }
            Some(_) => {}
        }
    }
    if messages.is_empty() {
        return condition(TYPE, true, "", String::new());
    }
    condition(TYPE, false, "ReadinessGatesNotReady", messages.join(", "))
}
