//! Quality of service of a pod (`pkg/apis/core/v1/helper/qos/qos.go`).

use api::quantity::Quantity;
use serde_json::Value;

use crate::json::{Json, amount};

/// `Guaranteed`, `Burstable` or `BestEffort`: the class that all containers share, or `Burstable`. What the pod says of
/// itself as a whole takes their place.
pub(crate) fn class(spec: &Value) -> &'static str {
    let whole = spec.at("resources");
    if whole.count("requests") + whole.count("limits") > 0 {
        return of(whole);
    }
    let containers = spec.list("initContainers").iter().chain(spec.list("containers"));
    shared(containers.map(|container| of(container.at("resources"))))
}

/// `requirementsQOS`.
fn of(resources: &Value) -> &'static str {
    shared(["cpu", "memory"].into_iter().map(|name| {
        let get = |list| match resources.at(list).at(name) {
            Value::Null => Quantity::default(),
            value => amount(value),
        };
        match (get("requests"), get("limits")) {
            (request, limit) if request != limit => "Burstable",
            (request, _) if request.sign() == 0 => "BestEffort",
            _ => "Guaranteed",
        }
    }))
}

fn shared(mut classes: impl Iterator<Item = &'static str>) -> &'static str {
    let first = classes.next().unwrap_or("BestEffort");
    if classes.all(|class| class == first) { first } else { "Burstable" }
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
