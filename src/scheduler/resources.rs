//! What pods ask for and nodes offer.

use std::collections::BTreeMap;

use api::quantity::Quantity;
use client::k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod, ResourceRequirements};
use client::k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;

pub const CPU: &str = "cpu";
pub const MEMORY: &str = "memory";
pub const EPHEMERAL_STORAGE: &str = "ephemeral-storage";
pub const PODS: &str = "pods";

/// What the least-allocated score takes for a container that asks for nothing (upstream
/// `util.DefaultMilliCPURequest`, `DefaultMemoryRequest`).
const DEFAULT_MILLI_CPU: i64 = 100;
const DEFAULT_MEMORY: i64 = 200 * 1024 * 1024;

/// Amounts by resource name: CPU in thousandths, everything else in its own unit. The common ones have a field, because
/// every decision adds and compares them for every node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resources {
    pub milli_cpu: i64,
    pub memory: i64,
    pub ephemeral_storage: i64,
    pub pods: i64,
    /// Extended resources and huge pages.
    pub scalars: BTreeMap<String, i64>,
}

impl Resources {
    pub fn get(&self, name: &str) -> i64 {
        match name {
            CPU => self.milli_cpu,
            MEMORY => self.memory,
            EPHEMERAL_STORAGE => self.ephemeral_storage,
            PODS => self.pods,
            _ => self.scalars.get(name).copied().unwrap_or_default(),
        }
    }

    /// In upstream's order of reasons; `pods` is left out.
    pub fn iter(&self) -> impl Iterator<Item = (&str, i64)> {
        [(CPU, self.milli_cpu), (MEMORY, self.memory), (EPHEMERAL_STORAGE, self.ephemeral_storage)]
            .into_iter()
            .chain(self.scalars.iter().map(|(name, amount)| (name.as_str(), *amount)))
    }

    fn slot(&mut self, name: &str) -> &mut i64 {
        match name {
            CPU => &mut self.milli_cpu,
            MEMORY => &mut self.memory,
            EPHEMERAL_STORAGE => &mut self.ephemeral_storage,
            PODS => &mut self.pods,
            _ => self.scalars.entry(name.to_owned()).or_default(),
        }
    }

    pub fn set(&mut self, name: &str, amount: i64) {
        *self.slot(name) = amount;
    }

    /// Whether nothing is asked for.
    pub fn is_zero(&self) -> bool {
        self.iter().all(|(_, amount)| amount == 0)
    }

    pub fn add(&mut self, other: &Self) {
        self.merge(other, i64::saturating_add);
    }

    pub fn sub(&mut self, other: &Self) {
        self.merge(other, i64::saturating_sub);
    }

    /// Each amount at least as large as in `other`.
    fn raise_to(&mut self, other: &Self) {
        self.merge(other, i64::max);
    }

    fn merge(&mut self, other: &Self, with: fn(i64, i64) -> i64) {
        self.milli_cpu = with(self.milli_cpu, other.milli_cpu);
        self.memory = with(self.memory, other.memory);
        self.ephemeral_storage = with(self.ephemeral_storage, other.ephemeral_storage);
        self.pods = with(self.pods, other.pods);
        for (name, amount) in &other.scalars {
            let held = self.slot(name);
            *held = with(*held, *amount);
        }
    }

    /// Reads a `ResourceList`. Quantities were validated by the API server; one that does not parse counts as zero.
    pub fn from_list(list: Option<&BTreeMap<String, Text>>) -> Self {
        let mut read = Self::default();
        for (name, text) in list.into_iter().flatten() {
            let amount = Quantity::parse(&text.0).map_or(0, |q| if name == CPU { q.milli_value() } else { q.value() });
            read.set(name, amount);
        }
        read
    }
}

/// What a pod asks for, and the same with defaults for containers that ask for neither CPU nor memory (for scoring).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Requests {
    pub exact: Resources,
    pub nonzero: Resources,
}

/// Upstream `component-helpers/resource` `PodRequests` with `UseStatusResources`: the larger of what runs together and
/// of each init container's turn, sidecars counted from where they start, plus overhead; pod-level requests win. While a
/// pod is being resized in place, the largest of what is wanted, allocated and in force counts.
pub fn requests(pod: &Pod) -> Requests {
    Requests { exact: total(pod, false), nonzero: total(pod, true) }
}

fn from_requirements(resources: Option<&ResourceRequirements>) -> Resources {
    Resources::from_list(resources.and_then(|r| r.requests.as_ref()))
}

/// Whose word about a container's requests is taken.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    Spec,
    Allocated,
    Actuated,
}

fn total(pod: &Pod, defaults: bool) -> Resources {
    let Some(spec) = &pod.spec else { return Resources::default() };
    let infeasible = resize_infeasible(pod);
    let mut asked = if infeasible { Resources::default() } else { containers(pod, Source::Spec, infeasible, defaults) };
    if infeasible || has_status_resources(pod) {
        asked.raise_to(&containers(pod, Source::Allocated, infeasible, defaults));
        asked.raise_to(&containers(pod, Source::Actuated, infeasible, defaults));
    }
    if let Some(list) = spec.resources.as_ref().and_then(|r| r.requests.as_ref()) {
        let mut pod_level = if infeasible { Resources::default() } else { Resources::from_list(Some(list)) };
        if let Some(status) = pod.status.as_ref().filter(|s| s.resources.is_some()) {
            pod_level.raise_to(&from_requirements(status.resources.as_ref()));
            pod_level.raise_to(&Resources::from_list(status.allocated_resources.as_ref()));
        }
        for name in list.keys().filter(|name| is_pod_level(name)) {
            asked.set(name, pod_level.get(name));
        }
    }
    asked.add(&Resources::from_list(spec.overhead.as_ref()));
    asked
}

/// `resource.IsSupportedPodLevelResource`.
fn is_pod_level(name: &str) -> bool {
    name == CPU || name == MEMORY || name.starts_with("hugepages-")
}

fn resize_infeasible(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|c| c.type_ == "PodResizePending" && c.reason.as_deref() == Some("Infeasible"))
}

fn statuses(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    let status = pod.status.as_ref();
    let running = status.and_then(|s| s.container_statuses.as_deref()).unwrap_or_default();
    running.iter().chain(status.and_then(|s| s.init_container_statuses.as_deref()).unwrap_or_default())
}

fn has_status_resources(pod: &Pod) -> bool {
    statuses(pod).any(|s| s.allocated_resources.is_some() || s.resources.is_some())
}

fn containers(pod: &Pod, source: Source, infeasible: bool, defaults: bool) -> Resources {
    let Some(spec) = &pod.spec else { return Resources::default() };
    let of = |container: &Container| -> Resources {
        let asked = asks(pod, container, source, infeasible);
        let mut read = Resources::from_list(asked);
        if defaults {
            for (name, default) in [(CPU, DEFAULT_MILLI_CPU), (MEMORY, DEFAULT_MEMORY)] {
                if !asked.is_some_and(|list| list.contains_key(name)) {
                    read.set(name, default);
                }
            }
        }
        read
    };
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
    together
}

/// `containerSpecRequests`, `containerAllocatedRequests`, `containerActuatedRequests`.
fn asks<'a>(
    pod: &'a Pod,
    container: &'a Container,
    source: Source,
    infeasible: bool,
) -> Option<&'a BTreeMap<String, Text>> {
    let spec = container.resources.as_ref().and_then(|r| r.requests.as_ref());
    if source == Source::Spec {
        return spec;
    }
    let status = statuses(pod).find(|s| s.name == container.name);
    let allocated = status.and_then(|s| s.allocated_resources.as_ref());
    let actuated = status.and_then(|s| s.resources.as_ref()).and_then(|r| r.requests.as_ref());
    let told = if source == Source::Actuated { actuated.or(allocated) } else { allocated };
    told.or(if infeasible { None } else { spec })
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
        assert_eq!(requests(&pod(spec.clone())).exact.get(CPU), milli_cpu, "{spec}");
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
        assert_eq!(requests(&pod).nonzero.get(CPU), 1100);
        assert_eq!(requests(&pod).nonzero.get(MEMORY), 2 * DEFAULT_MEMORY);
    }

    #[test]
    fn a_resize_under_way_counts_the_largest_of_wanted_and_in_force() {
        let mut resized = pod(json!({"containers": [asks("1")]}));
        let in_force = json!({"containerStatuses": [{
            "name": "c", "image": "", "imageID": "", "ready": true, "restartCount": 0,
            "allocatedResources": {"cpu": "3"}, "resources": {"requests": {"cpu": "2"}},
        }]});
        resized.status = serde_json::from_value(in_force).unwrap();
        assert_eq!(requests(&resized).exact.get(CPU), 3000);
    }
}
