//! Quantities, requests and limits of pods, quality of service, and the numbers the kernel gets for them.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::spec;

pub type ResourceList = BTreeMap<String, Quantity>;

const MIN_SHARES: u64 = 2;
const MAX_SHARES: u64 = 262_144;
const MIN_QUOTA_US: i64 = 1_000;
pub const QUOTA_PERIOD_US: u64 = 100_000;

/// A quantity in thousandths, rounded up; `None` when it is no quantity.
pub fn milli(quantity: &Quantity) -> Option<i64> {
    scaled(&quantity.0, 1_000)
}

/// A quantity in whole units, rounded up; `None` when it is no quantity.
pub fn value(quantity: &Quantity) -> Option<i64> {
    scaled(&quantity.0, 1)
}

/// [`value`] of a text.
pub fn parse(text: &str) -> Option<i64> {
    scaled(text, 1)
}

fn scaled(text: &str, unit: i128) -> Option<i64> {
    let (negative, text) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') || number.len() > 30 {
        return None;
    }
    let mut numerator: i128 = format!("{whole}{fraction}").parse().ok()?;
    let mut denominator: i128 = 10i128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let (up, down) = suffix_scale(suffix)?;
    numerator = numerator.checked_mul(up)?.checked_mul(unit)?;
    denominator = denominator.checked_mul(down)?;
    let rounded = numerator.div_euclid(denominator) + i128::from(numerator.rem_euclid(denominator) != 0);
    let signed = if negative { -rounded } else { rounded };
    Some(i64::try_from(signed).unwrap_or(if negative { i64::MIN } else { i64::MAX }))
}

fn suffix_scale(suffix: &str) -> Option<(i128, i128)> {
    Some(match suffix {
        "" => (1, 1),
        "n" => (1, 1_000_000_000),
        "u" => (1, 1_000_000),
        "m" => (1, 1_000),
        "k" => (1_000, 1),
        "M" => (1_000_000, 1),
        "G" => (1_000_000_000, 1),
        "T" => (1_000_000_000_000, 1),
        "P" => (1_000_000_000_000_000, 1),
        "E" => (1_000_000_000_000_000_000, 1),
        "Ki" => (1 << 10, 1),
        "Mi" => (1 << 20, 1),
        "Gi" => (1 << 30, 1),
        "Ti" => (1 << 40, 1),
        "Pi" => (1 << 50, 1),
        "Ei" => (1 << 60, 1),
        _ => {
            let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            let power = 10i128.checked_pow(exponent.unsigned_abs())?;
            if exponent >= 0 { (power, 1) } else { (1, power) }
        }
    })
}

pub fn request<'a>(resources: Option<&'a ResourceRequirements>, name: &str) -> Option<&'a Quantity> {
    resources?.requests.as_ref()?.get(name)
}

pub fn limit<'a>(resources: Option<&'a ResourceRequirements>, name: &str) -> Option<&'a Quantity> {
    resources?.limits.as_ref()?.get(name)
}

/// Quality of service class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Qos {
    Guaranteed,
    Burstable,
    BestEffort,
}

impl Qos {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }
}

/// The class in the pod's status, or as computed (upstream `apis/core/v1/helper/qos` `GetPodQOS`).
pub fn qos(pod: &Pod) -> Qos {
    match pod.status.as_ref().and_then(|s| s.qos_class.as_deref()) {
        Some("Guaranteed") => Qos::Guaranteed,
        Some("Burstable") => Qos::Burstable,
        Some("BestEffort") => Qos::BestEffort,
        _ => compute_qos(pod),
    }
}

fn compute_qos(pod: &Pod) -> Qos {
    let mut requests: BTreeMap<&str, i64> = BTreeMap::new();
    let mut limits: BTreeMap<&str, i64> = BTreeMap::new();
    let mut guaranteed = true;
    let pod_level = pod.spec.as_ref().and_then(|s| s.resources.as_ref());
    let sets: Vec<Option<&ResourceRequirements>> = match pod_level {
        Some(r) if has_cpu_or_memory(r) => vec![Some(r)],
        _ => spec::containers(pod).iter().chain(spec::init_containers(pod)).map(|c| c.resources.as_ref()).collect(),
    };
    for resources in sets {
        let mut limits_here = 0;
        for name in ["cpu", "memory"] {
            if let Some(n) = request(resources, name).and_then(milli).filter(|n| *n > 0) {
                *requests.entry(name).or_default() += n;
            }
            if let Some(n) = limit(resources, name).and_then(milli).filter(|n| *n > 0) {
                limits_here += 1;
                *limits.entry(name).or_default() += n;
            }
        }
        guaranteed &= limits_here == 2;
    }
    if requests.is_empty() && limits.is_empty() {
        return Qos::BestEffort;
    }
    let equal = requests.iter().all(|(name, n)| limits.get(name) == Some(n));
    if guaranteed && equal && requests.len() == limits.len() { Qos::Guaranteed } else { Qos::Burstable }
}

fn has_cpu_or_memory(resources: &ResourceRequirements) -> bool {
    [&resources.requests, &resources.limits]
        .into_iter()
        .flatten()
        .any(|list| list.contains_key("cpu") || list.contains_key("memory"))
}

/// CPU shares for a request (upstream `cm.MilliCPUToShares`).
pub fn shares(milli_cpu: i64) -> u64 {
    match u64::try_from(milli_cpu) {
        Err(_) | Ok(0) => MIN_SHARES,
        Ok(n) => (n * 1024 / 1000).clamp(MIN_SHARES, MAX_SHARES),
    }
}

/// CFS quota per [`QUOTA_PERIOD_US`] for a limit (upstream `cm.MilliCPUToQuota`).
pub fn quota_us(milli_cpu: i64) -> Option<i64> {
    (milli_cpu > 0).then(|| (milli_cpu.saturating_mul(100_000) / 1000).max(MIN_QUOTA_US))
}

/// `oom_score_adj` of a container (upstream `qos.GetContainerOOMScoreAdjust`).
pub fn oom_score_adj(pod: &Pod, container: &Container, memory_capacity: i64) -> i32 {
    const GUARANTEED: i32 = -997;
    if spec::is_node_critical(pod) {
        return GUARANTEED;
    }
    match qos(pod) {
        Qos::Guaranteed => return GUARANTEED,
        Qos::BestEffort => return 1000,
        Qos::Burstable => {}
    }
    let request_of = |c: &Container| {
        let r = c.resources.as_ref();
        request(r, "memory").or_else(|| limit(r, "memory")).and_then(value).unwrap_or(0)
    };
    let adjust = |bytes: i64| {
        let scaled = 1000 - i128::from(bytes) * 1000 / i128::from(memory_capacity.max(1));
        let adjust = i32::try_from(scaled).unwrap_or(0);
        // A burstable pod stays between guaranteed and best-effort ones.
        match adjust {
            n if n < 1000 + GUARANTEED => 1000 + GUARANTEED,
            1000 => 999,
            n => n,
        }
    };
    let own = adjust(request_of(container));
    let is_sidecar = spec::init_containers(pod).iter().any(|c| c.name == container.name && spec::is_sidecar(c));
    if !is_sidecar {
        return own;
    }
    // A sidecar must not be killed before the containers it serves (upstream KEP-753).
    spec::containers(pod).iter().map(|c| adjust(request_of(c))).min().map_or(own, |least| own.min(least))
}

/// Sum over a pod as the scheduler counts it: the larger of the running containers with their sidecars and of each
/// init container with the sidecars before it, plus overhead (upstream `resourcehelper.PodRequests`).
pub fn pod_total(pod: &Pod, name: &str, of: fn(Option<&ResourceRequirements>, &str) -> Option<i64>) -> i64 {
    if let Some(n) = of(pod.spec.as_ref().and_then(|s| s.resources.as_ref()), name) {
        return n + overhead(pod, name);
    }
    let get = |c: &Container| of(c.resources.as_ref(), name).unwrap_or(0);
    let mut running: i64 = spec::containers(pod).iter().map(get).sum();
    let mut sidecars = 0;
    let mut init_max = 0;
    for container in spec::init_containers(pod) {
        if spec::is_sidecar(container) {
            sidecars += get(container);
            init_max = init_max.max(sidecars);
        } else {
            init_max = init_max.max(sidecars + get(container));
        }
    }
    running += sidecars;
    running.max(init_max) + overhead(pod, name)
}

fn overhead(pod: &Pod, name: &str) -> i64 {
    let quantity = pod.spec.as_ref().and_then(|s| s.overhead.as_ref()).and_then(|o| o.get(name));
    quantity.and_then(|q| if name == "cpu" { milli(q) } else { value(q) }).unwrap_or(0)
}

pub fn cpu_request_milli(resources: Option<&ResourceRequirements>, name: &str) -> Option<i64> {
    request(resources, name).and_then(milli)
}

pub fn cpu_limit_milli(resources: Option<&ResourceRequirements>, name: &str) -> Option<i64> {
    limit(resources, name).and_then(milli)
}

pub fn request_value(resources: Option<&ResourceRequirements>, name: &str) -> Option<i64> {
    request(resources, name).and_then(value)
}

pub fn limit_value(resources: Option<&ResourceRequirements>, name: &str) -> Option<i64> {
    limit(resources, name).and_then(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pod_from;

    #[test]
    fn quantities_round_up() {
        let check = |text: &str, whole: Option<i64>, thousandths: Option<i64>| {
            let q = Quantity(text.to_owned());
            assert_eq!((value(&q), milli(&q)), (whole, thousandths), "{text}");
        };
        check("100m", Some(1), Some(100));
        check("1.5", Some(2), Some(1500));
        check("128Mi", Some(134_217_728), Some(134_217_728_000));
        check("1e3", Some(1000), Some(1_000_000));
        check("0", Some(0), Some(0));
        check("12x", None, None);
        check("", None, None);
        check("1n", Some(1), Some(1));
    }

    #[test]
    fn quality_of_service_follows_requests_and_limits() {
        let check = |resources: serde_json::Value, expected: Qos| {
            let pod = pod_from(serde_json::json!({"metadata": {"name": "p"},
                "spec": {"containers": [{"name": "c", "image": "i", "resources": resources}]}}));
            assert_eq!(compute_qos(&pod), expected, "{resources}");
        };
        check(serde_json::json!({}), Qos::BestEffort);
        check(serde_json::json!({"requests": {"cpu": "100m"}}), Qos::Burstable);
        check(
            serde_json::json!({"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "1", "memory": "1Gi"}}),
            Qos::Guaranteed,
        );
        check(
            serde_json::json!({"requests": {"cpu": "500m", "memory": "1Gi"}, "limits": {"cpu": "1", "memory": "1Gi"}}),
            Qos::Burstable,
        );
    }

    #[test]
    fn shares_and_quota_as_upstream() {
        assert_eq!((shares(0), shares(1), shares(1000), shares(500)), (2, 2, 1024, 512));
        assert_eq!((quota_us(0), quota_us(5), quota_us(1500)), (None, Some(1000), Some(150_000)));
    }
}
