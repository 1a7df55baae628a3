//! The pod's phase (upstream `kubelet_pods.go` `getPhase`).

use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod};

use crate::spec;

/// What a container's status says, as far as the phase is concerned.
enum Seen {
    Missing,
    Running {
        started: bool,
    },
    /// Ended: its exit code, and whether it is waiting to be started again.
    Ended {
        code: i32,
        restarting_all: bool,
        waiting: bool,
    },
    Waiting,
}

fn seen(statuses: &[&ContainerStatus], name: &str) -> Seen {
    let Some(status) = statuses.iter().find(|s| s.name == name) else { return Seen::Missing };
    let Some(state) = &status.state else { return Seen::Missing };
    let ended = |terminated: &k8s_openapi::api::core::v1::ContainerStateTerminated, waiting| Seen::Ended {
        code: terminated.exit_code,
        restarting_all: terminated.reason.as_deref() == Some("RestartingAllContainers"),
        waiting,
    };
    if state.running.is_some() {
        return Seen::Running { started: status.started == Some(true) };
    }
    if let Some(terminated) = &state.terminated {
        return ended(terminated, false);
    }
    if state.waiting.is_none() {
        return Seen::Missing;
    }
    match status.last_state.as_ref().and_then(|s| s.terminated.as_ref()) {
        Some(terminated) => ended(terminated, true),
        None => Seen::Waiting,
    }
}

#[derive(Default)]
struct Counts {
    unknown: usize,
    running: usize,
    waiting: usize,
    stopped: usize,
    stopped_for_good: usize,
    succeeded: usize,
    pending_init: usize,
    pending_sidecars: usize,
}

/// `Pending`, `Running`, `Succeeded` or `Failed`. `initialized`: a regular container was started in the present
/// sandbox.
pub fn of(pod: &Pod, statuses: &[&ContainerStatus], terminal: bool, initialized: bool) -> &'static str {
    let restartable = |c: &Container, code, restarting_all| spec::should_restart(pod, c, code) || restarting_all;
    let mut n = Counts::default();
    for container in spec::init_containers(pod) {
        let seen = seen(statuses, &container.name);
        if spec::is_sidecar(container) {
            match seen {
                Seen::Missing => n.unknown += 1,
                Seen::Running { started } => {
                    n.pending_sidecars += usize::from(!started);
                    n.running += 1;
                }
                Seen::Ended { .. } => {}
                Seen::Waiting => {
                    n.pending_sidecars += 1;
                    n.waiting += 1;
                }
            }
            continue;
        }
        match seen {
            Seen::Missing | Seen::Running { .. } | Seen::Waiting => n.pending_init += 1,
            Seen::Ended { code, restarting_all, .. } => {
                if code != 0 && !restartable(container, code, restarting_all) {
                    return "Failed";
                }
            }
        }
    }
    for container in spec::containers(pod) {
        match seen(statuses, &container.name) {
            Seen::Missing => n.unknown += 1,
            Seen::Running { .. } => n.running += 1,
            Seen::Ended { code, restarting_all, waiting } => {
                n.stopped += 1;
                n.stopped_for_good += usize::from(!restartable(container, code, restarting_all));
                n.succeeded += usize::from(code == 0 && !waiting);
            }
            Seen::Waiting => n.waiting += 1,
        }
    }
    decide(pod, &n, terminal, initialized)
}

fn decide(pod: &Pod, n: &Counts, terminal: bool, initialized: bool) -> &'static str {
    if n.pending_init > 0 || (n.pending_sidecars > 0 && !initialized) || n.waiting > 0 {
        return "Pending";
    }
    if n.running > 0 && n.unknown == 0 {
        return "Running";
    }
    if n.running == 0 && n.stopped > 0 && n.unknown == 0 {
        let ended = if n.stopped == n.succeeded { "Succeeded" } else { "Failed" };
        if terminal && !spec::is_static(pod) {
            return ended;
        }
        if n.stopped != n.stopped_for_good {
            return "Running";
        }
        return ended;
    }
    "Pending"
}
