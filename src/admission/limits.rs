//! Amounts of resources: reading them from objects and adding them up over a pod.

use std::collections::BTreeMap;

use api::Object;
use api::quantity::Quantity;
use client::k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use serde_json::Value;

use crate::attributes::{containers, text};

/// Amounts by resource name.
pub(crate) type Amounts = BTreeMap<String, Quantity>;

/// Amounts of a typed object. Ill-formed ones, which validation refuses, count as zero.
pub(crate) fn amounts_of(list: Option<&BTreeMap<String, Text>>) -> Amounts {
    list.into_iter().flatten().map(|(name, q)| (name.clone(), Quantity::parse(&q.0).unwrap_or_default())).collect()
}

/// Amounts of a JSON object.
pub(crate) fn amounts(list: Option<&Value>) -> Amounts {
    let members = list.and_then(Value::as_object).into_iter().flatten();
    members.map(|(name, q)| (name.clone(), Quantity::from_json(q).and_then(Result::ok).unwrap_or_default())).collect()
}

/// `requests` or `limits` of a container.
pub(crate) fn container_amounts(container: &Value, which: &str) -> Amounts {
    amounts(container.get("resources").and_then(|r| r.get(which)))
}

/// What a pod asks for as a whole: all containers together, or as much as its init containers need at once
/// (`podRequests`, `podLimits` of the LimitRanger). Amounts at pod level take precedence. Overhead is not counted.
pub(crate) fn pod_amounts(pod: &Object, which: &str) -> Amounts {
    let mut total = Amounts::new();
    for container in containers(pod, "containers") {
        add(&mut total, &container_amounts(container, which));
    }
    let mut sidecars = Amounts::new();
    let mut init = Amounts::new();
    for container in containers(pod, "initContainers") {
        let mut needed = container_amounts(container, which);
        if text(container, "restartPolicy") == "Always" {
            add(&mut total, &needed);
            add(&mut sidecars, &needed);
            needed = sidecars.clone();
        } else {
            add(&mut needed, &sidecars);
        }
        raise(&mut init, &needed);
    }
    raise(&mut total, &init);
    for (name, amount) in amounts(pod.get(&["spec", "resources", which])) {
        if name == "cpu" || name == "memory" {
            total.insert(name, amount);
        }
    }
    total
}

pub(crate) fn add(total: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        total.entry(name.clone()).and_modify(|t| t.add(amount)).or_insert_with(|| amount.clone());
    }
}

fn raise(least: &mut Amounts, to: &Amounts) {
    for (name, amount) in to {
        let entry = least.entry(name.clone()).or_insert_with(|| amount.clone());
        if amount > entry {
            *entry = amount.clone();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pod_needs_its_containers_or_its_largest_init_container() {
        let container = |cpu: &str| json!({"resources": {"requests": {"cpu": cpu}}});
        let sidecar = |cpu: &str| json!({"restartPolicy": "Always", "resources": {"requests": {"cpu": cpu}}});
        let check = |spec: Value, expected: &str| {
            let pod = Object::from_value(json!({"spec": spec})).unwrap();
            assert_eq!(pod_amounts(&pod, "requests")["cpu"], Quantity::parse(expected).unwrap());
        };
        check(json!({"containers": [container("1"), container("500m")]}), "1500m");
        check(json!({"containers": [container("1")], "initContainers": [container("3"), container("2")]}), "3");
        check(json!({"containers": [container("1")], "initContainers": [sidecar("1"), container("2")]}), "3");
        check(json!({"containers": [container("1")], "resources": {"requests": {"cpu": "5"}}}), "5");
    }
}
