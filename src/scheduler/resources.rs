//! What pods ask for and nodes offer.

use std::collections::BTreeMap;

use api::quantity::Quantity;
use client::k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use client::k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;

pub const CPU: &str = "cpu";
pub const MEMORY: &str = "memory";
pub const PODS: &str = "pods";

/// What the least-allocated score takes for a container that asks for nothing (upstream
/// `util.DefaultMilliCPURequest`, `DefaultMemoryRequest`).
const DEFAULT_MILLI_CPU: i64 = 100;
const DEFAULT_MEMORY: i64 = 200 * 1024 * 1024;

/// Amounts by resource name: CPU in thousandths, everything else in its own unit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resources(BTreeMap<String, i64>);

impl Resources {
    pub fn get(&self, name: &str) -> i64 {
        self.0.get(name).copied().unwrap_or_default()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, i64)> {
        self.0.iter().map(|(name, amount)| (name.as_str(), *amount))
    }

    pub fn set(&mut self, name: &str, amount: i64) {
        self.0.insert(name.to_owned(), amount);
    }

    pub fn add(&mut self, other: &Self) {
        for (name, amount) in &other.0 {
            let total = self.0.entry(name.clone()).or_default();
            *total = total.saturating_add(*amount);
        }
    }

    pub fn sub(&mut self, other: &Self) {
        for (name, amount) in &other.0 {
            let total = self.0.entry(name.clone()).or_default();
            *total = total.saturating_sub(*amount);
        }
    }

    /// Each amount at least as large as in `other`.
    fn raise_to(&mut self, other: &Self) {
        for (name, amount) in &other.0 {
            let held = self.0.entry(name.clone()).or_default();
            *held = (*held).max(*amount);
        }
    }

    /// Reads a `ResourceList`. Quantities were validated by the API server; one that does not parse counts as zero.
    pub fn from_list(list: Option<&BTreeMap<String, Text>>) -> Self {
        let amount = |name: &str, text: &Text| {
            Quantity::parse(&text.0).map_or(0, |q| if name == CPU { q.milli_value() } else { q.value() })
        };
        Self(list.into_iter().flatten().map(|(name, text)| (name.clone(), amount(name, text))).collect())
    }
}

/// What a pod asks for (upstream `component-helpers/resource` `PodRequests`): the larger of what runs together and of
/// each init container's turn, sidecars counted from where they start, plus overhead; pod-level requests win.
pub fn requests(pod: &Pod) -> Resources {
    total(pod, &|container| from_requirements(container.resources.as_ref()))
}

/// [`requests`] with defaults for containers that ask for neither CPU nor memory, for scoring.
pub fn nonzero_requests(pod: &Pod) -> Resources {
    total(pod, &|container| {
        let mut asked = from_requirements(container.resources.as_ref());
        for (name, default) in [(CPU, DEFAULT_MILLI_CPU), (MEMORY, DEFAULT_MEMORY)] {
            if !asked.0.contains_key(name) {
                asked.set(name, default);
            }
        }
        asked
    })
}

fn from_requirements(resources: Option<&ResourceRequirements>) -> Resources {
    Resources::from_list(resources.and_then(|r| r.requests.as_ref()))
}

fn total(pod: &Pod, of: &dyn Fn(&Container) -> Resources) -> Resources {
    let Some(spec) = &pod.spec else { return Resources::default() };
    let mut together = Resources::default();
    for container in &spec.containers {
        together.add(&of(container));
    }
    let mut sidecars = Resources::default();
    let mut peak = Resources::default();
    for container in spec.init_containers.iter().flatten() {
        let asked = of(container);
        if container.restart_policy.as_deref() == Some("Always") {
            together.add(&asked);
            sidecars.add(&asked);
            peak.raise_to(&sidecars);
        } else {
            let mut turn = sidecars.clone();
            turn.add(&asked);
            peak.raise_to(&turn);
        }
    }
    together.raise_to(&peak);
    for (name, amount) in from_requirements(spec.resources.as_ref()).0 {
        together.0.insert(name, amount);
    }
    together.add(&Resources::from_list(spec.overhead.as_ref()));
    together
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap()
    }

    fn asks(cpu: &str) -> serde_json::Value {
        json!({"name": "c", "resources": {"requests": {"cpu": cpu}}})
    }

    fn check(spec: serde_json::Value, milli_cpu: i64) {
        assert_eq!(requests(&pod(spec.clone())).get(CPU), milli_cpu, "{spec}");
    }

    #[test]
    fn the_larger_of_init_and_running_containers_counts() {
        check(json!({"containers": [asks("100m"), asks("200m")]}), 300);
        check(json!({"containers": [asks("100m")], "initContainers": [asks("1")]}), 1000);
        check(json!({"containers": [asks("100m")], "overhead": {"cpu": "50m"}}), 150);
        check(json!({"containers": [asks("100m")], "resources": {"requests": {"cpu": "2"}}}), 2000);
    }

    #[test]
    fn sidecars_run_beside_later_init_containers() {
        let mut sidecar = asks("300m");
        sidecar["restartPolicy"] = "Always".into();
        check(json!({"containers": [asks("100m")], "initContainers": [sidecar, asks("500m")]}), 800);
        check(json!({"containers": [asks("600m")], "initContainers": [sidecar, asks("500m")]}), 900);
    }

    #[test]
    fn scoring_assumes_a_little_for_those_who_ask_for_nothing() {
        let pod = pod(json!({"containers": [{"name": "c"}, asks("1")]}));
        assert_eq!(nonzero_requests(&pod).get(CPU), 1100);
        assert_eq!(nonzero_requests(&pod).get(MEMORY), 2 * DEFAULT_MEMORY);
    }
}
