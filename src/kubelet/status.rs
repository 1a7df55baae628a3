//! A pod's status, computed from its spec, what the runtime has, and what was last reported.
//!
//! Follows upstream's `kubelet_pods.go` `generateAPIPodStatus`, `getPhase` and `convertToAPIContainerStatuses`.
//! Pure: [`publish`] talks to the API server.

pub mod conditions;
pub mod containers;
pub mod phase;
pub mod publish;

use std::collections::HashMap;
use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{HostIP, Pod, PodCondition, PodIP, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::observed::Observed;
use crate::plan::any_active_regular_started;
use crate::{resources, spec};

/// Why a container does not run, as its waiting state says it: by container name.
pub type WaitingReasons = HashMap<String, (String, String)>;

/// Whether a container is ready and started, by container name, as probes decide.
#[derive(Debug, Clone, Default)]
pub struct ProbeStates {
    pub ready: HashMap<String, bool>,
    pub started: HashMap<String, bool>,
}

/// What a status is computed from.
pub struct Input<'a> {
    pub pod: &'a Pod,
    pub observed: &'a Observed,
    /// As last reported, or as the API server has it.
    pub previous: &'a PodStatus,
    pub waiting: &'a WaitingReasons,
    pub probes: &'a ProbeStates,
    /// The pod will not run again, whatever its restart policy.
    pub terminal: bool,
    /// A phase, reason and message that overrule the computed ones (eviction, deadline).
    pub overrule: Option<(&'a str, &'a str)>,
    /// Conditions that the node agent adds, such as `DisruptionTarget`.
    pub extra_conditions: &'a [PodCondition],
    pub host_ips: &'a [IpAddr],
    pub now: Timestamp,
}

/// Computes the status to report.
pub fn generate(input: &Input<'_>) -> PodStatus {
    let Input { pod, observed, previous, .. } = *input;
    let mut status = PodStatus { start_time: start_time(input), ..PodStatus::default() };
    let (init, regular, ephemeral) = containers::convert_all(input);
    let all: Vec<_> = init.iter().chain(&regular).collect();
    let mut phase = phase::of(pod, &all, input.terminal, any_active_regular_started(pod, observed)).to_owned();
    if !spec::is_terminal_phase(Some(&phase)) {
        let kept = [previous.phase.as_deref(), spec::status(pod).phase.as_deref()];
        if let Some(terminal) = kept.into_iter().flatten().find(|p| spec::is_terminal_phase(Some(p))) {
            terminal.clone_into(&mut phase);
        }
    }
    if previous.phase.as_deref() == Some(&phase) {
        let api = spec::status(pod);
        status.reason = previous.reason.clone().or_else(|| api.reason.clone());
        status.message = previous.message.clone().or_else(|| api.message.clone());
    }
    if let Some((reason, message)) = input.overrule {
        "Failed".clone_into(&mut phase);
        status.reason = Some(reason.to_owned());
        status.message = Some(message.to_owned());
    }
    if let Some(at_api) = spec::status(pod).phase.as_deref().filter(|p| spec::is_terminal_phase(Some(p))) {
        at_api.clone_into(&mut phase);
    }
    status.conditions = Some(conditions::generate(input, &init, &regular, &phase));
    status.phase = Some(phase);
    status.init_container_statuses = (!init.is_empty()).then_some(init);
    status.container_statuses = (!regular.is_empty()).then_some(regular);
    status.ephemeral_container_statuses = (!ephemeral.is_empty()).then_some(ephemeral);
    status.qos_class = Some(resources::qos(pod).as_str().to_owned());
    status.observed_generation = pod.metadata.generation;
    addresses(input, &mut status);
    let api = spec::status(pod);
    status.nominated_node_name.clone_from(&api.nominated_node_name);
    status.resource_claim_statuses.clone_from(&api.resource_claim_statuses);
    status.extended_resource_claim_status.clone_from(&api.extended_resource_claim_status);
    status
}

fn start_time(input: &Input<'_>) -> Option<Time> {
    let known = input.previous.start_time.clone().or_else(|| spec::status(input.pod).start_time.clone());
    Some(known.unwrap_or_else(|| Time(seconds(input.now))))
}

/// The API keeps whole seconds; comparing finer ones would report changes that are none.
pub fn seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

/// The condition of a pod that the node agent ends for others' sake.
pub fn disruption(previous: &PodStatus, reason: &str, message: &str, now: Timestamp) -> PodCondition {
    let old = previous.conditions.iter().flatten().find(|c| c.type_ == "DisruptionTarget" && c.status == "True");
    PodCondition {
        type_: "DisruptionTarget".to_owned(),
        status: "True".to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_transition_time: old.and_then(|c| c.last_transition_time.clone()).or_else(|| Some(Time(seconds(now)))),
        ..PodCondition::default()
    }
}

fn addresses(input: &Input<'_>, status: &mut PodStatus) {
    if let Some(first) = input.host_ips.first() {
        status.host_ip = Some(first.to_string());
        status.host_ips = Some(input.host_ips.iter().map(|ip| HostIP { ip: ip.to_string() }).collect());
    }
    let mut ips: Vec<String> = if spec::is_host_network(input.pod) {
        let connected = input.observed.sandbox.is_some() || input.previous.pod_ip.is_some();
        if connected { input.host_ips.iter().map(ToString::to_string).collect() } else { Vec::new() }
    } else {
        input.observed.ips.iter().map(ToString::to_string).collect()
    };
    if ips.is_empty() {
        // The addresses stay in the status when the pod is disconnected (upstream keeps the old pod's IPs).
        let kept = input.previous.pod_ips.iter().flatten().map(|p| p.ip.clone());
        ips = kept.collect();
        if ips.is_empty() {
            ips.extend(input.previous.pod_ip.clone());
        }
    }
    status.pod_ip = ips.first().cloned();
    status.pod_ips = (!ips.is_empty()).then(|| ips.into_iter().map(|ip| PodIP { ip }).collect());
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
