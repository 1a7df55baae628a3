//! Amounts of resources: reading them from objects and adding them up over a pod.

use std::collections::BTreeMap;

use api::Object;
use api::amounts::containers_amounts;
pub(crate) use api::amounts::{Amounts, add, amounts, container_amounts};
use api::quantity::Quantity;
use client::k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use serde_json::Value;

/// Amounts of a typed object. Ill-formed ones, which validation refuses, count as zero.
pub(crate) fn amounts_of(list: Option<&BTreeMap<String, Text>>) -> Amounts {
    list.into_iter().flatten().map(|(name, q)| (name.clone(), Quantity::parse(&q.0).unwrap_or_default())).collect()
}

/// What a pod asks for as a whole: all containers together, or as much as its init containers need at once
/// (`podRequests`, `podLimits` of the LimitRanger). Amounts at pod level take precedence. Overhead is not counted.
pub(crate) fn pod_amounts(pod: &Object, which: &str) -> Amounts {
    let spec = pod.get(&["spec"]).and_then(Value::as_object);
    let mut total = spec.map(|spec| containers_amounts(spec, which)).unwrap_or_default();
    for (name, amount) in amounts(pod.get(&["spec", "resources", which])) {
        if name == "cpu" || name == "memory" {
            total.insert(name, amount);
        }
    }
    total
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
