//! Reading pod specs: the few questions that every module asks.

use std::sync::OnceLock;

use k8s_openapi::api::core::v1::{Container, EphemeralContainer, Pod, PodSpec, PodStatus};

/// Which list of the spec a container comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    Init,
    Regular,
    Ephemeral,
}

pub fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

pub fn name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}

pub fn namespace(pod: &Pod) -> &str {
    pod.metadata.namespace.as_deref().unwrap_or_default()
}

/// `name_namespace(uid)`, as upstream's messages print a pod (`format.Pod`).
pub fn full_name(pod: &Pod) -> String {
    format!("{}_{}({})", name(pod), namespace(pod), uid(pod))
}

/// The spec; an empty one when a pod has none, which the API server does not let happen.
pub fn spec(pod: &Pod) -> &PodSpec {
    static EMPTY: OnceLock<PodSpec> = OnceLock::new();
    pod.spec.as_ref().unwrap_or_else(|| EMPTY.get_or_init(PodSpec::default))
}

/// The status as the API server has it.
pub fn status(pod: &Pod) -> &PodStatus {
    static EMPTY: OnceLock<PodStatus> = OnceLock::new();
    pod.status.as_ref().unwrap_or_else(|| EMPTY.get_or_init(PodStatus::default))
}

pub fn containers(pod: &Pod) -> &[Container] {
    &spec(pod).containers
}

pub fn init_containers(pod: &Pod) -> &[Container] {
    spec(pod).init_containers.as_deref().unwrap_or_default()
}

pub fn ephemeral_containers(pod: &Pod) -> &[EphemeralContainer] {
    spec(pod).ephemeral_containers.as_deref().unwrap_or_default()
}

/// An ephemeral container read as an ordinary one (upstream casts `EphemeralContainerCommon`).
pub fn as_container(ephemeral: &EphemeralContainer) -> Container {
    let e = ephemeral.clone();
    Container {
        args: e.args,
        command: e.command,
        env: e.env,
        env_from: e.env_from,
        image: e.image,
        image_pull_policy: e.image_pull_policy,
        lifecycle: e.lifecycle,
        liveness_probe: e.liveness_probe,
        name: e.name,
        ports: e.ports,
        readiness_probe: e.readiness_probe,
        resize_policy: e.resize_policy,
        resources: e.resources,
        restart_policy: e.restart_policy,
        restart_policy_rules: e.restart_policy_rules,
        security_context: e.security_context,
        startup_probe: e.startup_probe,
        stdin: e.stdin,
        stdin_once: e.stdin_once,
        termination_message_path: e.termination_message_path,
        termination_message_policy: e.termination_message_policy,
        tty: e.tty,
        volume_devices: e.volume_devices,
        volume_mounts: e.volume_mounts,
        working_dir: e.working_dir,
    }
}

/// The container of this name, from whichever list.
pub fn find(pod: &Pod, name: &str) -> Option<(Kind, Container)> {
    if let Some(c) = containers(pod).iter().find(|c| c.name == name) {
        return Some((Kind::Regular, c.clone()));
    }
    if let Some(c) = init_containers(pod).iter().find(|c| c.name == name) {
        return Some((Kind::Init, c.clone()));
    }
    ephemeral_containers(pod).iter().find(|c| c.name == name).map(|c| (Kind::Ephemeral, as_container(c)))
}

/// `spec.containers{name}` and so on: the field path of a container's events (upstream `GenerateContainerRef`).
pub fn field_path(pod: &Pod, container: &str) -> String {
    let list = if containers(pod).iter().any(|c| c.name == container) {
        "containers"
    } else if init_containers(pod).iter().any(|c| c.name == container) {
        "initContainers"
    } else {
        "ephemeralContainers"
    };
    format!("spec.{list}{{{container}}}")
}

/// A restartable init container.
pub fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

pub fn restart_policy(pod: &Pod) -> &str {
    spec(pod).restart_policy.as_deref().unwrap_or("Always")
}

pub fn is_deleted(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

pub fn is_host_network(pod: &Pod) -> bool {
    spec(pod).host_network == Some(true)
}

/// Read from a file on this node.
pub fn is_static(pod: &Pod) -> bool {
    annotation(pod, crate::names::CONFIG_SOURCE).is_some_and(|s| s != "api")
}

/// The API's reflection of a static pod.
pub fn is_mirror(pod: &Pod) -> bool {
    annotation(pod, crate::names::CONFIG_MIRROR).is_some()
}

pub fn annotation<'a>(pod: &'a Pod, key: &str) -> Option<&'a str> {
    pod.metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

/// Upstream `types.IsNodeCriticalPod` and `IsCriticalPod` for the case of `system-node-critical`.
pub fn is_node_critical(pod: &Pod) -> bool {
    is_critical(pod) && spec(pod).priority_class_name.as_deref() == Some("system-node-critical")
}

/// Static, mirror, or of system priority (upstream `types.IsCriticalPod`).
pub fn is_critical(pod: &Pod) -> bool {
    const SYSTEM_CRITICAL: i32 = 2_000_000_000;
    is_static(pod) || is_mirror(pod) || spec(pod).priority.is_some_and(|p| p >= SYSTEM_CRITICAL)
}

pub fn is_terminal_phase(phase: Option<&str>) -> bool {
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// What a restart rule does, when one matches (upstream `podutil.FindMatchingContainerRestartRule`).
fn matching_rule(container: &Container, exit_code: i32) -> Option<&str> {
    container.restart_policy_rules.iter().flatten().find_map(|rule| {
        let codes = rule.exit_codes.as_ref()?;
        let listed = codes.values.iter().flatten().any(|v| *v == exit_code);
        let matches = match codes.operator.as_str() {
            "In" => listed,
            "NotIn" => !listed,
            _ => false,
        };
        matches.then_some(rule.action.as_str())
    })
}

/// Whether this exit asks for the restart of the whole pod.
pub fn restarts_all(container: &Container, exit_code: i32) -> bool {
    matching_rule(container, exit_code) == Some("RestartAllContainers")
}

/// Whether any container has a rule that restarts the whole pod (upstream `AllContainersCouldRestart`).
pub fn could_restart_all(pod: &Pod) -> bool {
    containers(pod)
        .iter()
        .chain(init_containers(pod))
        .any(|c| c.restart_policy_rules.iter().flatten().any(|r| r.action == "RestartAllContainers"))
}

/// Whether a container that exited so is started again (upstream `podutil.ContainerShouldRestart`).
pub fn should_restart(pod: &Pod, container: &Container, exit_code: i32) -> bool {
    if let Some(policy) = container.restart_policy.as_deref() {
        if matches!(matching_rule(container, exit_code), Some("Restart" | "RestartAllContainers")) {
            return true;
        }
        match policy {
            "Always" => return true,
            "OnFailure" => return exit_code != 0,
            "Never" => return false,
            _ => {}
        }
    }
    match restart_policy(pod) {
        "OnFailure" => exit_code != 0,
        "Never" => false,
        _ => true,
    }
}

/// Changes when a change of the spec must restart the container: its name and image (upstream `HashContainer`).
pub fn hash(container: &Container) -> String {
    let hashed = format!("{}\0{}", container.name, container.image.as_deref().unwrap_or_default());
    format!("{:x}", base::fnv32a(hashed.as_bytes()))
}
