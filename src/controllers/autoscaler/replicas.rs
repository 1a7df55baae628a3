//! How many replicas a metric asks for (`replica_calculator.go`).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use api::quantity::Quantity;
use api::selector::LabelSelector;
use base::SharedClock;
use client::{Informer, Resource};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Pod};

use super::behavior::to_i32;
use super::metrics::{MetricsClient, PodMetric, PodMetrics};
use crate::pods;

/// `--horizontal-pod-autoscaler-cpu-initialization-period`.
const CPU_INITIALIZATION: SignedDuration = SignedDuration::from_mins(5);
/// `--horizontal-pod-autoscaler-initial-readiness-delay`.
const READINESS_DELAY: SignedDuration = SignedDuration::from_secs(30);

/// How far from the target is near enough.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tolerances {
    pub down: f64,
    pub up: f64,
}

impl Tolerances {
    fn allow(self, ratio: f64) -> bool {
        1.0 - self.down <= ratio && ratio <= 1.0 + self.up
    }
}

/// The pods that a metric is about, and how many there are to be now.
#[derive(Clone, Copy)]
pub(super) struct Target<'a> {
    pub namespace: &'a str,
    /// As the scale's status says it.
    pub selector_text: &'a str,
    pub selector: &'a LabelSelector,
    pub current: i32,
    pub tolerances: Tolerances,
}

pub(super) struct Calculator {
    pub metrics: MetricsClient,
    pods: Informer<Pod>,
    clock: SharedClock,
}

impl Calculator {
    pub(super) fn new(metrics: MetricsClient, pods: Informer<Pod>, clock: SharedClock) -> Self {
        Self { metrics, pods, clock }
    }

    pub(super) fn selected(&self, namespace: &str, selector: &LabelSelector) -> Vec<Arc<Pod>> {
        let pods = self.pods.namespace(namespace).into_iter();
        pods.filter(|pod| selector.matches(|key| pod.label(key))).collect()
    }

    fn pods_of(&self, target: Target<'_>) -> Result<Vec<Arc<Pod>>, String> {
        let pods = self.selected(target.namespace, target.selector);
        if pods.is_empty() {
            return Err("no pods returned by selector while calculating replica count".to_owned());
        }
        Ok(pods)
    }

    /// By a share of what the pods request, in percent: replicas, the share now, the average use in thousandths.
    pub(super) async fn by_utilization(
        &self,
        target: Target<'_>,
        resource: &str,
        container: &str,
        wanted: i32,
    ) -> Result<(i32, i32, i64), String> {
        let metrics = self.resource_metrics(target, resource, container).await?;
        let pods = self.pods_of(target)?;
        let requests = requests(&pods, container, resource)?;
        let mut share = (0, 0);
        let replicas =
            plan(&pods, metrics, target, resource, self.clock.now(), Fallback::Requests(&requests, wanted), |m| {
                let (ratio, utilization, average) = utilization(m, &requests, wanted)?;
                if share == (0, 0) {
                    share = (utilization, average);
                }
                Ok(ratio)
            })?;
        Ok((replicas, share.0, share.1))
    }

    /// By the average use in thousandths: replicas, and the average now.
    pub(super) async fn by_usage(
        &self,
        target: Target<'_>,
        resource: &str,
        container: &str,
        wanted: i64,
    ) -> Result<(i32, i64), String> {
        let metrics = self.resource_metrics(target, resource, container).await?;
        self.by_average(target, resource, metrics, wanted)
    }

    async fn resource_metrics(
        &self,
        target: Target<'_>,
        resource: &str,
        container: &str,
    ) -> Result<PodMetrics, String> {
        let found = self.metrics.resource(target.namespace, target.selector_text, resource, container).await;
        found.map_err(|e| format!("unable to get metrics for resource {resource}: {e}"))
    }

    /// `calcPlainMetricReplicas`.
    pub(super) fn by_average(
        &self,
        target: Target<'_>,
        resource: &str,
        metrics: PodMetrics,
        wanted: i64,
    ) -> Result<(i32, i64), String> {
        let pods = self.pods_of(target)?;
        let mut usage = None;
        let replicas = plan(&pods, metrics, target, resource, self.clock.now(), Fallback::Value(wanted), |m| {
            let count = i64::try_from(m.len()).unwrap_or(1).max(1);
            let average = m.values().map(|v| v.value).sum::<i64>() / count;
            usage.get_or_insert(average);
            Ok(ratio(average, wanted))
        })?;
        Ok((replicas, usage.unwrap_or(0)))
    }

    /// By one value for all pods (`getUsageRatioReplicaCount`).
    pub(super) fn by_value(&self, target: Target<'_>, usage: i64, wanted: i64) -> Result<i32, String> {
        let ratio = ratio(usage, wanted);
        if target.current == 0 {
            return Ok(to_i32(ratio.ceil()));
        }
        if target.tolerances.allow(ratio) {
            return Ok(target.current);
        }
        let ready = self.pods_of(target)?.iter().filter(|p| pods::phase(p) == "Running" && pods::is_ready(p)).count();
        Ok(to_i32((ratio * to_f64(ready)).ceil()))
    }
}

/// By a value that is shared out among the pods: replicas, and each one's part.
pub(super) fn by_share(replicas: i32, tolerances: Tolerances, usage: i64, wanted: i64) -> (i32, i64) {
    let parts = usage_f64(usage) / usage_f64(wanted);
    let near = tolerances.allow(parts / f64::from(replicas));
    let count = if near { replicas } else { to_i32(parts.ceil()) };
    let each = if replicas > 0 {
        usage.div_euclid(i64::from(replicas)) + i64::from(usage % i64::from(replicas) != 0)
    } else {
        usage
    };
    (count, each)
}

#[expect(clippy::cast_precision_loss, reason = "a ratio needs no more")]
fn usage_f64(value: i64) -> f64 {
    value as f64
}

#[expect(clippy::cast_precision_loss, reason = "a ratio needs no more")]
fn to_f64(count: usize) -> f64 {
    count as f64
}

fn ratio(usage: i64, wanted: i64) -> f64 {
    usage_f64(usage) / usage_f64(wanted)
}

/// What a pod without a metric is taken to use when that keeps the size larger.
enum Fallback<'a> {
    Requests(&'a HashMap<String, i64>, i32),
    Value(i64),
}

/// The steps that both kinds of pod metrics share: pods that do not count yet are taken to use nothing when the size
/// grows, and all of their target when it shrinks.
fn plan(
    pods: &[Arc<Pod>],
    mut metrics: PodMetrics,
    target: Target<'_>,
    resource: &str,
    now: Timestamp,
    fallback: Fallback<'_>,
    mut ratio: impl FnMut(&PodMetrics) -> Result<f64, String>,
) -> Result<i32, String> {
    let Groups { ready, unready, missing, ignored } = group(pods, &metrics, resource, now);
    metrics.retain(|pod, _| !unready.contains(pod) && !ignored.contains(pod));
    if metrics.is_empty() {
        return Err("did not receive metrics for targeted pods (pods might be unready)".to_owned());
    }
    let first = ratio(&metrics)?;
    let count_unready = !unready.is_empty() && first > 1.0;
    if !count_unready && missing.is_empty() {
        let near = target.tolerances.allow(first);
        return Ok(if near { target.current } else { to_i32((first * to_f64(ready)).ceil()) });
    }
    let zero = PodMetric { at: now, window: SignedDuration::ZERO, value: 0 };
    if first < 1.0 {
        for pod in &missing {
            let value = match &fallback {
                Fallback::Requests(requests, wanted) => {
                    requests.get(pod).copied().unwrap_or(0) * i64::from((*wanted).max(100)) / 100
                }
                Fallback::Value(value) => *value,
            };
            metrics.insert(pod.clone(), PodMetric { value, ..zero });
        }
    } else if first > 1.0 {
        metrics.extend(missing.iter().map(|pod| (pod.clone(), zero)));
    }
    if count_unready {
        metrics.extend(unready.iter().map(|pod| (pod.clone(), zero)));
    }
    let second = ratio(&metrics)?;
    if target.tolerances.allow(second) || (first < 1.0 && second > 1.0) || (first > 1.0 && second < 1.0) {
        return Ok(target.current);
    }
    let replicas = to_i32((second * to_f64(metrics.len())).ceil());
    let backwards = (second < 1.0 && replicas > target.current) || (second > 1.0 && replicas < target.current);
    Ok(if backwards { target.current } else { replicas })
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Groups {
    ready: usize,
    unready: HashSet<String>,
    missing: HashSet<String>,
    ignored: HashSet<String>,
}

/// `groupPods`.
fn group(pods: &[Arc<Pod>], metrics: &PodMetrics, resource: &str, now: Timestamp) -> Groups {
    let mut groups = Groups::default();
    for pod in pods {
        let name = pod.name().to_owned();
        if pod.is_deleting() || pods::phase(pod) == "Failed" {
            groups.ignored.insert(name);
        } else if pods::phase(pod) == "Pending" {
            groups.unready.insert(name);
        } else {
            match metrics.get(&name) {
                None => drop(groups.missing.insert(name)),
                Some(metric) if resource == "cpu" && is_starting(pod, metric, now) => {
                    groups.unready.insert(name);
                }
                Some(_) => groups.ready += 1,
            }
        }
    }
    groups
}

/// Whether a pod's processor time is that of its start.
fn is_starting(pod: &Pod, metric: &PodMetric, now: Timestamp) -> bool {
    let started = pod.status.as_ref().and_then(|s| s.start_time.as_ref()).map(|t| t.0);
    let (Some(ready), Some(started)) = (pods::condition(pod, "Ready"), started) else { return true };
    let not_ready = ready.status == "False";
    let since = ready.last_transition_time.as_ref().map_or(Timestamp::UNIX_EPOCH, |t| t.0);
    if started + CPU_INITIALIZATION > now {
        not_ready || metric.at < since + metric.window
    } else {
        not_ready && started + READINESS_DELAY > since
    }
}

/// What each pod requests, in thousandths (`calculateRequests`).
fn requests(pods: &[Arc<Pod>], container: &str, resource: &str) -> Result<HashMap<String, i64>, String> {
    pods.iter().map(|pod| Ok((pod.name().to_owned(), request(pod, container, resource)?))).collect()
}

fn request(pod: &Pod, container: &str, resource: &str) -> Result<i64, String> {
    let Some(spec) = &pod.spec else { return Ok(0) };
    let of_pod = spec.resources.as_ref().and_then(|r| r.requests.as_ref());
    if container.is_empty()
        && let Some(requests) = of_pod.filter(|r| !r.is_empty())
        && let Some(amount) = requests.get(resource)
    {
        return Ok(Quantity::parse(&amount.0).map_or(0, |q| q.milli_value()));
    }
    let sidecars = spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let mut sum = 0;
    for c in spec.containers.iter().chain(sidecars) {
        if container.is_empty() || container == c.name {
            sum += of_container(c, resource).ok_or_else(|| {
                format!("missing request for {resource} in container {} of Pod {}", c.name, pod.name())
            })?;
        }
        if container == c.name {
            return Ok(sum);
        }
    }
    if container.is_empty() { Ok(sum) } else { Err(format!("container {container} not found in Pod {}", pod.name())) }
}

fn of_container(container: &Container, resource: &str) -> Option<i64> {
    let amount = container.resources.as_ref()?.requests.as_ref()?.get(resource)?;
    Some(Quantity::parse(&amount.0).ok()?.milli_value())
}

/// `GetResourceUtilizationRatio`: ratio, percent, and average in thousandths.
fn utilization(metrics: &PodMetrics, requests: &HashMap<String, i64>, wanted: i32) -> Result<(f64, i32, i64), String> {
    let (mut used, mut requested, mut count) = (0_i64, 0_i64, 0_i64);
    for (pod, metric) in metrics {
        if let Some(request) = requests.get(pod) {
            used += metric.value;
            requested += request;
            count += 1;
        }
    }
    if requested == 0 || count == 0 {
        return Err("no metrics returned matched known pods".to_owned());
    }
    let percent = i32::try_from(used * 100 / requested).unwrap_or(i32::MAX);
    Ok((f64::from(percent) / f64::from(wanted), percent, used / count))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const TOLERANCES: Tolerances = Tolerances { down: 0.1, up: 0.1 };

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + second).unwrap()
    }

    fn pod(name: &str, phase: &str) -> Arc<Pod> {
        let object = json!({"metadata": {"name": name, "namespace": "n"},
            "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]},
            "status": {"phase": phase, "startTime": at(-10_000).to_string(),
                "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": at(-9_000).to_string()}]}});
        Arc::new(serde_json::from_value(object).unwrap())
    }

    fn by_utilization(pods: &[Arc<Pod>], values: &[(&str, i64)], current: i32, wanted: i32) -> Result<i32, String> {
        let selector = LabelSelector::everything();
        let target = Target { namespace: "n", selector_text: "", selector: &selector, current, tolerances: TOLERANCES };
        let metric = |value: i64| PodMetric { at: at(0), window: SignedDuration::from_mins(1), value };
        let metrics = values.iter().map(|(name, value)| ((*name).to_owned(), metric(*value))).collect();
        let requests = requests(pods, "", "cpu").unwrap();
        plan(pods, metrics, target, "cpu", at(0), Fallback::Requests(&requests, wanted), |m| {
            Ok(utilization(m, &requests, wanted)?.0)
        })
    }

    #[test]
    fn replicas_follow_the_share_of_requests() {
        let running = [pod("a", "Running"), pod("b", "Running"), pod("c", "Running")];
        let check = |values: &[(&str, i64)], wanted: i32, expected: i32| {
            assert_eq!(by_utilization(&running, values, 3, wanted), Ok(expected), "{values:?} {wanted}");
        };
        check(&[("a", 300), ("b", 500), ("c", 700)], 30, 5);
        check(&[("a", 300), ("b", 500), ("c", 700)], 100, 2);
        // Within a tenth of the target.
        check(&[("a", 1010), ("b", 1030), ("c", 1020)], 100, 3);
        // A missing one is taken to use all it asked for when the size would shrink, and nothing when it would grow.
        check(&[("a", 400), ("b", 400)], 100, 2);
        check(&[("a", 1000), ("b", 1000)], 50, 4);
    }

    #[test]
    fn pending_pods_do_not_count_until_the_size_grows() {
        let pods = [pod("a", "Running"), pod("b", "Running"), pod("c", "Pending")];
        assert_eq!(by_utilization(&pods, &[("a", 500), ("b", 700)], 3, 30), Ok(4));
        assert_eq!(by_utilization(&pods, &[("a", 100), ("b", 100)], 3, 50), Ok(1));
        let none = by_utilization(&[pod("c", "Pending")], &[("c", 1)], 1, 30);
        assert_eq!(none, Err("did not receive metrics for targeted pods (pods might be unready)".to_owned()));
    }

    #[test]
    fn a_shared_value_is_divided() {
        assert_eq!(by_share(4, TOLERANCES, 8600, 2000), (4, 2150));
        assert_eq!(by_share(3, TOLERANCES, 8600, 2000), (5, 2867));
    }

    #[test]
    fn a_container_without_a_request_is_named() {
        let pods = [pod("a", "Running")];
        assert_eq!(requests(&pods, "", "memory").unwrap_err(), "missing request for memory in container c of Pod a");
        assert_eq!(requests(&pods, "x", "cpu").unwrap_err(), "container x not found in Pod a");
    }
}
