//! Container statuses (upstream `kubelet_pods.go` `convertToAPIContainerStatuses` and the prober's `UpdatePodStatus`).

use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus,
    ContainerUser, LinuxContainerUser, ResourceRequirements, VolumeMountStatus,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{Input, seconds};
use crate::names::RUNTIME_SCHEME;
use crate::observed::{ObservedContainer, State};
use crate::spec::{self, Kind};
use crate::{plan, resize};

type Lists = (Vec<ContainerStatus>, Vec<ContainerStatus>, Vec<ContainerStatus>);

/// Statuses of init, regular and ephemeral containers.
pub fn convert_all(input: &Input<'_>) -> Lists {
    let pod = input.pod;
    let previous = input.previous;
    let old = |list: &Option<Vec<ContainerStatus>>| list.clone().unwrap_or_default();
    let ephemeral: Vec<Container> = spec::ephemeral_containers(pod).iter().map(spec::as_container).collect();
    let init_list = spec::init_containers(pod);
    let mut init = convert(input, Kind::Init, init_list, &old(&previous.init_container_statuses));
    let mut regular = convert(input, Kind::Regular, spec::containers(pod), &old(&previous.container_statuses));
    let mut ephemeral = convert(input, Kind::Ephemeral, &ephemeral, &old(&previous.ephemeral_container_statuses));
    // Ephemeral containers that have no container yet are not shown as creating before initialisation ends.
    for status in &mut ephemeral {
        status.ready = false;
    }
    apply_probes(input, &mut regular);
    apply_init_readiness(input, &mut init);
    (init, regular, ephemeral)
}

fn is_running(status: &ContainerStatus) -> bool {
    status.state.as_ref().is_some_and(|s| s.running.is_some())
}

/// Readiness and `started` of regular containers (upstream `prober_manager.go` `UpdatePodStatus`).
fn apply_probes(input: &Input<'_>, statuses: &mut [ContainerStatus]) {
    for status in statuses {
        let running = is_running(status);
        let started = running && *input.probes.started.get(&status.name).unwrap_or(&true);
        status.started = Some(started);
        status.ready = started && *input.probes.ready.get(&status.name).unwrap_or(&true);
    }
}

/// An init container is ready when it has succeeded; a sidecar as a regular container.
fn apply_init_readiness(input: &Input<'_>, statuses: &mut [ContainerStatus]) {
    for container in spec::init_containers(input.pod) {
        let Some(status) = statuses.iter_mut().find(|s| s.name == container.name) else { continue };
        if spec::is_sidecar(container) {
            apply_probes(input, std::slice::from_mut(status));
            continue;
        }
        let ended = status.state.as_ref().and_then(|s| s.terminated.as_ref());
        status.ready = ended.is_some_and(|t| t.exit_code == 0);
        status.started = Some(is_running(status));
    }
}

fn waiting(reason: &str, message: &str) -> ContainerState {
    let text = |s: &str| (!s.is_empty()).then(|| s.to_owned());
    ContainerState {
        waiting: Some(ContainerStateWaiting { reason: text(reason), message: text(message) }),
        ..ContainerState::default()
    }
}

fn convert(input: &Input<'_>, kind: Kind, list: &[Container], previous: &[ContainerStatus]) -> Vec<ContainerStatus> {
    let has_init = !spec::init_containers(input.pod).is_empty();
    let default_reason = if has_init { "PodInitializing" } else { "ContainerCreating" };
    let mut statuses: Vec<ContainerStatus> = list
        .iter()
        .map(|container| {
            let old = previous.iter().find(|s| s.name == container.name);
            one(input, kind, container, old, default_reason)
        })
        .collect();
    // Upstream sorts by name for regular containers, and init containers by their order in the spec.
    if kind != Kind::Init {
        statuses.sort_by(|a, b| a.name.cmp(&b.name));
    }
    statuses
}

fn one(
    input: &Input<'_>,
    kind: Kind,
    container: &Container,
    old: Option<&ContainerStatus>,
    default_reason: &str,
) -> ContainerStatus {
    let mut seen = input.observed.containers.iter().filter(|c| c.name == container.name);
    let mut status = match seen.next() {
        Some(newest) => {
            let mut status = from_observed(newest, container, old);
            if let Some(before) = seen.next() {
                status.last_state = Some(state_of(before, old));
            } else if let Some(old) = old {
                // The container before was collected: its end is remembered by the status alone.
                let same = old.container_id == status.container_id;
                let ended = |s: &Option<ContainerState>| s.clone().filter(|s| s.terminated.is_some());
                status.last_state = if same { None } else { ended(&old.state) }.or_else(|| ended(&old.last_state));
            }
            status
        }
        None => never_seen(input, container, old, default_reason),
    };
    status.volume_mounts = volume_mounts(container);
    failed_to_start(input, kind, container, &mut status);
    status
}

fn never_seen(
    input: &Input<'_>,
    container: &Container,
    old: Option<&ContainerStatus>,
    default_reason: &str,
) -> ContainerStatus {
    let mut status = ContainerStatus {
        name: container.name.clone(),
        image: container.image.clone().unwrap_or_default(),
        state: Some(waiting(default_reason, "")),
        last_state: Some(ContainerState::default()),
        ..ContainerStatus::default()
    };
    let Some(old) = old else { return status };
    let old_state = old.state.clone().unwrap_or_default();
    if old_state.terminated.is_some() {
        return old.clone();
    }
    status.restart_count = old.restart_count;
    status.last_state.clone_from(&old.last_state);
    let ended_before = old.last_state.as_ref().is_some_and(|s| s.terminated.is_some());
    if old_state.running.is_some() && !ended_before {
        // It ran, and is gone without a trace: the pod must not fall back to Pending.
        status.last_state = Some(ContainerState {
            terminated: Some(ContainerStateTerminated {
                exit_code: 137,
                reason: Some("ContainerStatusUnknown".to_owned()),
                message: Some(
                    "The container could not be located when the pod was deleted.  The container used to be Running"
                        .to_owned(),
                ),
                ..ContainerStateTerminated::default()
            }),
            ..ContainerState::default()
        });
        if !spec::is_deleted(input.pod) {
            status.restart_count += 1;
        }
    }
    status
}

fn state_of(observed: &ObservedContainer, old: Option<&ContainerStatus>) -> ContainerState {
    let time = |t: jiff::Timestamp| Some(Time(seconds(t)));
    match &observed.state {
        State::Created => waiting("", ""),
        State::Running { started } => ContainerState {
            running: Some(ContainerStateRunning { started_at: time(*started) }),
            ..ContainerState::default()
        },
        State::Exited(exit) => ContainerState {
            terminated: Some(ContainerStateTerminated {
                exit_code: exit.code,
                signal: (exit.signal != 0).then_some(exit.signal),
                reason: (!exit.reason.is_empty()).then(|| exit.reason.clone()),
                message: (!exit.message.is_empty()).then(|| exit.message.clone()),
                started_at: time(exit.started.unwrap_or(jiff::Timestamp::UNIX_EPOCH)),
                finished_at: time(exit.finished),
                container_id: Some(format!("{RUNTIME_SCHEME}{}", observed.id.0)),
            }),
            ..ContainerState::default()
        },
        State::Unknown if old.is_some_and(is_running) => ContainerState {
            terminated: Some(ContainerStateTerminated {
                exit_code: 137,
                reason: Some("ContainerStatusUnknown".to_owned()),
                message: Some("The container could not be located when the pod was terminated".to_owned()),
                ..ContainerStateTerminated::default()
            }),
            ..ContainerState::default()
        },
        State::Unknown => waiting("", ""),
    }
}

fn from_observed(
    observed: &ObservedContainer,
    container: &Container,
    old: Option<&ContainerStatus>,
) -> ContainerStatus {
    let restarts = i32::try_from(observed.restart_count).unwrap_or(i32::MAX);
    ContainerStatus {
        name: container.name.clone(),
        restart_count: restarts.max(old.map_or(0, |o| o.restart_count)),
        image: observed.image.clone(),
        image_id: observed.image_id.clone(),
        container_id: Some(format!("{RUNTIME_SCHEME}{}", observed.id.0)),
        state: Some(state_of(observed, old)),
        last_state: Some(ContainerState::default()),
        resources: actual_resources(observed, container),
        allocated_resources: container.resources.as_ref().and_then(|r| r.requests.clone()),
        user: observed.user.as_ref().map(|(uid, gid, groups)| ContainerUser {
            linux: Some(LinuxContainerUser {
                uid: *uid,
                gid: *gid,
                supplemental_groups: (!groups.is_empty()).then(|| groups.clone()),
            }),
        }),
        stop_signal: container.lifecycle.as_ref().and_then(|l| l.stop_signal.clone()),
        ..ContainerStatus::default()
    }
}

/// The spec's resources with what the running container really got.
fn actual_resources(observed: &ObservedContainer, container: &Container) -> Option<ResourceRequirements> {
    let mut resources = container.resources.clone().unwrap_or_default();
    let Some(record) = observed.actuated.as_deref().filter(|_| observed.is_running()) else {
        return Some(resources);
    };
    if resize::changed(record, container.resources.as_ref()).is_empty() {
        return Some(resources);
    }
    for (name, is_limit, number) in resize::actual(record) {
        let list = if is_limit { &mut resources.limits } else { &mut resources.requests };
        let text = if name == "cpu" { format!("{number}m") } else { number.to_string() };
        list.get_or_insert_default().insert(name.to_owned(), Quantity(text));
    }
    Some(resources)
}

fn volume_mounts(container: &Container) -> Option<Vec<VolumeMountStatus>> {
    let mounts: Vec<VolumeMountStatus> = container
        .volume_mounts
        .iter()
        .flatten()
        .map(|mount| {
            let read_only = mount.read_only == Some(true);
            let recursive = matches!(mount.recursive_read_only.as_deref(), Some("Enabled" | "IfPossible"));
            VolumeMountStatus {
                name: mount.name.clone(),
                mount_path: mount.mount_path.clone(),
                read_only: read_only.then_some(true),
                recursive_read_only: read_only.then(|| if recursive { "Enabled" } else { "Disabled" }.to_owned()),
                ..VolumeMountStatus::default()
            }
        })
        .collect();
    (!mounts.is_empty()).then_some(mounts)
}

/// A container that is to be started, and could not be, waits with the reason.
fn failed_to_start(input: &Input<'_>, kind: Kind, container: &Container, status: &mut ContainerStatus) {
    let latest = input.observed.latest(&container.name);
    if kind == Kind::Init {
        if latest.is_some_and(|c| matches!(&c.state, State::Exited(exit) if exit.code == 0)) {
            return;
        }
        let is_waiting = status.state.as_ref().is_some_and(|s| s.waiting.is_some());
        let initialized = plan::any_regular_created(input.pod, input.observed);
        if latest.is_none() && !spec::is_sidecar(container) && is_waiting && initialized {
            status.state = Some(ContainerState {
                terminated: Some(ContainerStateTerminated {
                    reason: Some("Completed".to_owned()),
                    message: Some(
                        "Unable to get init container status from container runtime and pod has been initialized, \
                         treat it as exited normally"
                            .to_owned(),
                    ),
                    ..ContainerStateTerminated::default()
                }),
                ..ContainerState::default()
            });
            return;
        }
    }
    if !plan::should_be_started(input.pod, container, input.observed) {
        return;
    }
    let Some((reason, message)) = input.waiting.get(&container.name) else { return };
    if status.state.as_ref().is_some_and(|s| s.terminated.is_some()) {
        status.last_state = status.state.take();
    }
    status.state = Some(waiting(reason, message));
}
