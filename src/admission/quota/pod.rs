//! What pods count against quotas (kubernetes `pkg/quota/v1/evaluator/core/pods.go`).

use std::collections::{BTreeMap, BTreeSet};

use api::Object;
use api::admission::Attributes;
use api::quantity::Quantity;
use client::k8s_openapi::api::core::v1::ScopedResourceSelectorRequirement;
use serde_json::Value;

use super::{matches_values, number};
use crate::attributes::{containers, text};
use crate::limits::{Amounts, add, amounts, container_amounts, pod_amounts};

const RESOURCES: &[&str] = &[
    "count/pods",
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
];
/// A quota on one of these wants every container to say how much it needs.
const MUST_BE_SAID: &[&str] = &["cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory"];
const DEVICE_CLASS: &str = "deviceclass.resource.kubernetes.io/";

/// Whether a quota's resource is one that pods use.
pub(super) fn counts(name: &str) -> bool {
    let extended = name
        .strip_prefix("requests.")
        .is_some_and(|rest| rest.starts_with(DEVICE_CLASS) || (name.contains('/') && !name.contains("kubernetes.io/")));
    RESOURCES.contains(&name) || name.starts_with("hugepages-") || name.starts_with("requests.hugepages-") || extended
}

/// A pod's scope changes with its deadline.
pub(super) fn scope_changed(attributes: &Attributes) -> bool {
    match (&attributes.object, &attributes.old_object) {
        (Some(new), Some(old)) => is_terminating(new) != is_terminating(old),
        _ => false,
    }
}

fn is_terminating(pod: &Object) -> bool {
    pod.i64(&["spec", "activeDeadlineSeconds"]).is_some_and(|seconds| seconds >= 0)
}

pub(super) fn matches_scope(scope: &ScopedResourceSelectorRequirement, pod: &Object) -> bool {
    match scope.scope_name.as_str() {
        "Terminating" => is_terminating(pod),
        "NotTerminating" => !is_terminating(pod),
        "BestEffort" => is_best_effort(pod),
        "NotBestEffort" => !is_best_effort(pod),
        "PriorityClass" => {
            let class = pod.str(&["spec", "priorityClassName"]).filter(|name| !name.is_empty());
            matches_values(scope, class)
        }
        "CrossNamespacePodAffinity" => crosses_namespaces(pod),
        _ => false,
    }
}

/// No container asks for or is limited in CPU or memory.
pub(crate) fn is_best_effort(pod: &Object) -> bool {
    let none = |amounts: Amounts| {
        amounts.iter().all(|(name, amount)| !matches!(name.as_str(), "cpu" | "memory") || amount.sign() <= 0)
    };
    let all = containers(pod, "containers").iter().chain(containers(pod, "initContainers"));
    ["requests", "limits"].into_iter().all(|which| {
        none(amounts(pod.get(&["spec", "resources", which])))
            && all.clone().all(|container| none(container_amounts(container, which)))
    })
}

fn crosses_namespaces(pod: &Object) -> bool {
    let crosses = |term: &Value| {
        let named = term.get("namespaces").and_then(Value::as_array).is_some_and(|n| !n.is_empty());
        named || term.get("namespaceSelector").is_some_and(Value::is_object)
    };
    ["podAffinity", "podAntiAffinity"].into_iter().any(|kind| {
        let terms = |when: &str| pod.array(&["spec", "affinity", kind, when]);
        terms("requiredDuringSchedulingIgnoredDuringExecution").iter().any(crosses)
            || terms("preferredDuringSchedulingIgnoredDuringExecution")
                .iter()
                .any(|weighted| weighted.get("podAffinityTerm").is_some_and(crosses))
    })
}

/// `Constraints`: with a quota on CPU or memory, each container must say what it needs.
pub(super) fn constraints(required: &[&str], pod: &Object) -> Result<(), String> {
    let pod_level = ["requests", "limits"].into_iter().any(|which| {
        amounts(pod.get(&["spec", "resources", which])).keys().any(|name| matches!(name.as_str(), "cpu" | "memory"))
    });
    if pod_level {
        return Ok(());
    }
    let mut missing: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for container in containers(pod, "containers").iter().chain(containers(pod, "initContainers")) {
        let said = compute(&container_amounts(container, "requests"), &container_amounts(container, "limits"));
        for name in required.iter().filter(|name| MUST_BE_SAID.contains(name) && !said.contains_key(**name)) {
            missing.entry(name).or_default().insert(text(container, "name"));
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let list = |names: BTreeSet<&str>| names.into_iter().collect::<Vec<_>>().join(",");
    let parts: Vec<String> = missing.into_iter().map(|(name, who)| format!("{name} for: {}", list(who))).collect();
    Err(format!("must specify {}", parts.join("; ")))
}

/// `podComputeUsageHelper`.
fn compute(requests: &Amounts, limits: &Amounts) -> Amounts {
    let mut usage = Amounts::from([("pods".to_owned(), number(1))]);
    for name in ["cpu", "memory", "ephemeral-storage"] {
        if let Some(request) = requests.get(name) {
            usage.insert(name.to_owned(), request.clone());
            usage.insert(format!("requests.{name}"), request.clone());
        }
        if let Some(limit) = limits.get(name) {
            usage.insert(format!("limits.{name}"), limit.clone());
        }
    }
    for (name, request) in requests {
        let huge = name.starts_with("hugepages-");
        let extended = name.starts_with(DEVICE_CLASS)
            || (name.contains('/') && !name.contains("kubernetes.io/") && !name.starts_with("requests."));
        if huge {
            usage.insert(name.clone(), request.clone());
        }
        if huge || extended {
            usage.insert(format!("requests.{name}"), request.clone());
        }
    }
    usage
}

/// `PodUsageFunc`: a pod that has ended counts as an object only.
pub(super) fn usage(pod: &Object) -> Amounts {
    let mut usage = Amounts::from([("count/pods".to_owned(), number(1))]);
    if matches!(pod.str(&["status", "phase"]), Some("Failed" | "Succeeded")) {
        return usage;
    }
    let (mut requests, mut limits) = (pod_amounts(pod, "requests"), pod_amounts(pod, "limits"));
    let overhead = amounts(pod.get(&["spec", "overhead"]));
    add(&mut requests, &overhead);
    let limited: BTreeMap<String, Quantity> =
        overhead.into_iter().filter(|(name, _)| limits.get(name).is_some_and(|l| !l.is_zero())).collect();
    add(&mut limits, &limited);
    usage.extend(compute(&requests, &limits));
    usage
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(spec: Value) -> Object {
        Object::from_value(json!({"spec": spec})).unwrap()
    }

    #[test]
    fn containers_must_say_what_is_counted() {
        let pod = pod(json!({"containers": [{"name": "a"}, {"name": "b", "resources": {"requests": {"cpu": "1"}}}]}));
        assert_eq!(
            constraints(&["cpu", "requests.cpu", "limits.memory", "pods"], &pod).unwrap_err(),
            "must specify cpu for: a; limits.memory for: a,b; requests.cpu for: a"
        );
        assert_eq!(constraints(&["pods", "requests.x.io/gpu"], &pod), Ok(()));
    }

    #[test]
    fn scopes_pick_pods() {
        let scope = |name: &str, operator: &str, values: Option<Vec<String>>| ScopedResourceSelectorRequirement {
            scope_name: name.to_owned(),
            operator: operator.to_owned(),
            values,
        };
        let ends = pod(json!({"activeDeadlineSeconds": 5, "priorityClassName": "high", "containers": [{"name": "a"}]}));
        for (scope, expected) in [
            (scope("Terminating", "Exists", None), true),
            (scope("NotTerminating", "Exists", None), false),
            (scope("BestEffort", "Exists", None), true),
            (scope("PriorityClass", "Exists", None), true),
            (scope("PriorityClass", "In", Some(vec!["high".to_owned()])), true),
            (scope("PriorityClass", "NotIn", Some(vec!["high".to_owned()])), false),
            (scope("CrossNamespacePodAffinity", "Exists", None), false),
        ] {
            assert_eq!(matches_scope(&scope, &ends), expected, "{scope:?}");
        }
    }
}
