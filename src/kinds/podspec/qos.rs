//! Quality of service of a pod (`pkg/apis/core/v1/helper/qos/qos.go`).

use std::collections::BTreeMap;

use api::quantity::Quantity;
use serde_json::Value;

use crate::json::{Json, amount};

/// `Guaranteed`, `Burstable` or `BestEffort`.
pub(crate) fn class(spec: &Value) -> &'static str {
    let mut requests: BTreeMap<&str, Quantity> = BTreeMap::new();
    let mut limits: BTreeMap<&str, Quantity> = BTreeMap::new();
    let mut guaranteed = true;
    if spec.has("resources") {
        let resources = spec.at("resources");
        guaranteed &= collect(resources, &mut requests, &mut limits);
    } else {
        for container in spec.list("containers").iter().chain(spec.list("initContainers")) {
            guaranteed &= collect(container.at("resources"), &mut requests, &mut limits);
        }
    }
    if requests.is_empty() && limits.is_empty() {
        return "BestEffort";
    }
    if guaranteed
        && requests.len() == limits.len()
        && requests.iter().all(|(name, amount)| limits.get(name) == Some(amount))
    {
        return "Guaranteed";
    }
    "Burstable"
}

/// Adds the CPU and memory of one set of resources; says whether it limits both.
fn collect<'r>(
    resources: &'r Value,
    requests: &mut BTreeMap<&'r str, Quantity>,
    limits: &mut BTreeMap<&'r str, Quantity>,
) -> bool {
    let mut limited = 0;
    for (list, sums) in [("requests", &mut *requests), ("limits", &mut *limits)] {
        for (name, value) in resources.entries(list) {
            let amount = amount(value);
            if matches!(name, "cpu" | "memory") && amount.sign() > 0 {
                sums.entry(name).and_modify(|sum| sum.add(&amount)).or_insert(amount);
                limited += usize::from(list == "limits");
            }
        }
    }
    limited == 2
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn classes_are_upstreams() {
        let check = |containers: Value, want: &str| assert_eq!(class(&json!({"containers": containers})), want);
        check(json!([{}]), "BestEffort");
        check(json!([{"resources": {"requests": {"cpu": "1"}}}]), "Burstable");
        let full = json!({"resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m", "memory": "1Gi"}}});
        check(json!([full]), "Guaranteed");
        check(json!([full, {}]), "Burstable");
        check(
            json!([{"resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1", "memory": "1Mi"}}}]),
            "Burstable",
        );
        check(json!([{"resources": {"requests": {"example.com/gpu": "1"}}}]), "BestEffort");
    }
}
