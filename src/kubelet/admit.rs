//! Whether this node takes a new pod at all: a scheduler may be wrong, or a pod may name its node itself (upstream
//! `kubelet/lifecycle/predicate.go`).

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Pod;

use crate::config::KubeletConfig;
use crate::machine::Machine;
use crate::{resources, security, spec};

/// Why a pod is not taken: reason and message of its status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    pub reason: String,
    pub message: String,
}

fn reject(reason: &str, why: impl std::fmt::Display) -> Result<(), Rejection> {
    Err(Rejection { reason: reason.to_owned(), message: format!("Pod was rejected: {why}") })
}

/// `others`: the pods that this node has taken and that have not ended.
pub fn admit(config: &KubeletConfig, machine: &Machine, others: &[&Pod], pod: &Pod) -> Result<(), Rejection> {
    if spec::spec(pod).os.as_ref().is_some_and(|os| os.name != "linux") {
        return reject("PodOSNotSupported", "Failed to admit pod as the OS field doesn't match node OS");
    }
    if let Err(error) = security::check_sysctls(config, pod) {
        return reject("SysctlForbidden", format!("forbidden sysctl: {error}"));
    }
    if !spec::is_critical(pod) {
        resources_fit(config, machine, others, pod)?;
    }
    let taken: BTreeSet<_> = others.iter().flat_map(|p| host_ports(p)).collect();
    if host_ports(pod).iter().any(|port| conflicts(&taken, port)) {
        return reject(
            "NodePorts",
            "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports",
        );
    }
    Ok(())
}

/// Whether the pod's requests fit beside those of others.
pub fn resources_fit(config: &KubeletConfig, machine: &Machine, others: &[&Pod], pod: &Pod) -> Result<(), Rejection> {
    let insufficient = |name: &str, requested: i64, used: i64, capacity: i64| {
        let why = format!(
            "Node didn't have enough resource: {name}, requested: {requested}, used: {used}, capacity: {capacity}"
        );
        reject(&format!("OutOf{name}"), why)
    };
    let used = i64::try_from(others.len()).unwrap_or(i64::MAX);
    let pods = i64::from(config.max_pods);
    if used + 1 > pods {
        return insufficient("pods", 1, used, pods);
    }
    let huge = machine.hugepages.keys().map(|size| format!("hugepages-{size}"));
    for name in ["cpu", "memory", "ephemeral-storage"].into_iter().map(str::to_owned).chain(huge) {
        let of = if name == "cpu" { resources::cpu_request_milli } else { resources::request_value };
        let requested = resources::pod_total(pod, &name, of);
        if requested == 0 {
            continue;
        }
        let used: i64 = others.iter().map(|p| resources::pod_total(p, &name, of)).sum();
        let capacity = machine.allocatable(config, &name);
        if requested > capacity - used {
            return insufficient(&name, requested, used, capacity);
        }
    }
    Ok(())
}

type Port = (i32, String, String);

/// Port, protocol and address of the ports that a pod takes on the node.
fn host_ports(pod: &Pod) -> Vec<Port> {
    let all = spec::containers(pod).iter().chain(spec::init_containers(pod).iter().filter(|c| spec::is_sidecar(c)));
    all.flat_map(|c| c.ports.iter().flatten())
        .filter_map(|port| {
            let number = port.host_port.filter(|n| *n > 0)?;
            let any = |ip: &&str| !ip.is_empty() && *ip != "0.0.0.0" && *ip != "::";
            let ip = port.host_ip.as_deref().filter(any).unwrap_or_default();
            Some((number, port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()), ip.to_owned()))
        })
        .collect()
}

fn conflicts(taken: &BTreeSet<Port>, (number, protocol, ip): &Port) -> bool {
    taken.iter().any(|(n, p, other)| n == number && p == protocol && (ip.is_empty() || other.is_empty() || ip == other))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pod_from;
    use serde_json::json;

    fn pod(container: serde_json::Value) -> Pod {
        pod_from(json!({"metadata": {"name": "p"}, "spec": {"containers": [container]}}))
    }

    #[test]
    fn what_does_not_fit_is_rejected_with_upstreams_words() {
        let mut config = KubeletConfig::new("n", [10, 0, 0, 1].into(), "/k".into(), "/l".into());
        config.max_pods = 2;
        let machine = Machine { cpus: 1, memory_bytes: 1 << 30, ..Machine::default() };
        let other = pod(json!({"name": "a", "resources": {"requests": {"cpu": "600m"}},
            "ports": [{"containerPort": 80, "hostPort": 8080}]}));
        let check = |others: &[&Pod], container: serde_json::Value, expected: Option<(&str, &str)>| {
            let result = admit(&config, &machine, others, &pod(container.clone())).err();
            let found = result.as_ref().map(|r| (r.reason.as_str(), r.message.as_str()));
            assert_eq!(found, expected, "{container}");
        };
        check(&[&other], json!({"name": "b"}), None);
        check(
            &[&other, &other],
            json!({"name": "b"}),
            Some((
                "OutOfpods",
                "Pod was rejected: Node didn't have enough resource: pods, requested: 1, used: 2, capacity: 2",
            )),
        );
        check(
            &[&other],
            json!({"name": "b", "resources": {"requests": {"cpu": "500m"}}}),
            Some((
                "OutOfcpu",
                "Pod was rejected: Node didn't have enough resource: cpu, requested: 500, used: 600, capacity: 1000",
            )),
        );
        let ports = "Pod was rejected: Predicate NodePorts failed: node(s) didn't have free ports for the requested \
                     pod ports";
        let taken = json!({"name": "b", "ports": [{"containerPort": 1, "hostPort": 8080, "hostIP": "10.0.0.1"}]});
        check(&[&other], taken, Some(("NodePorts", ports)));
        check(
            &[&other],
            json!({"name": "b", "ports": [{"containerPort": 1, "hostPort": 8080, "protocol": "UDP"}]}),
            None,
        );
    }
}
