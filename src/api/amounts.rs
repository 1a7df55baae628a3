//! Amounts of resources by name: read from documents, added up over the containers of a pod.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::quantity::Quantity;

/// Amounts by resource name.
pub type Amounts = BTreeMap<String, Quantity>;

/// Amounts of a JSON object. Ill-formed ones, which validation refuses, count as zero.
pub fn amounts(list: Option<&Value>) -> Amounts {
    let members = list.and_then(Value::as_object).into_iter().flatten();
    members.map(|(name, q)| (name.clone(), Quantity::from_json(q).and_then(Result::ok).unwrap_or_default())).collect()
}

/// `requests` or `limits` of a container.
pub fn container_amounts(container: &Value, which: &str) -> Amounts {
    amounts(container.get("resources").and_then(|r| r.get(which)))
}

/// `requests` or `limits` of all containers of a pod's spec together, or as much as its init containers need at once
/// (component-helpers `AggregateContainerRequests`, `AggregateContainerLimits`).
pub fn containers_amounts(spec: &Map<String, Value>, which: &str) -> Amounts {
    let list = |name: &str| spec.get(name).and_then(Value::as_array).into_iter().flatten();
    let (mut total, mut sidecars, mut init) = (Amounts::new(), Amounts::new(), Amounts::new());
    for container in list("containers") {
        add(&mut total, &container_amounts(container, which));
    }
    for container in list("initContainers") {
        let mut needed = container_amounts(container, which);
        if container.get("restartPolicy").and_then(Value::as_str) == Some("Always") {
            add(&mut total, &needed);
            add(&mut sidecars, &needed);
            needed = sidecars.clone();
        } else {
            add(&mut needed, &sidecars);
        }
        raise(&mut init, &needed);
    }
    raise(&mut total, &init);
    total
}

/// Adds each of `more` to the amount of its name.
pub fn add(total: &mut Amounts, more: &Amounts) {
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
