//! The three metrics APIs (`podautoscaler/metrics`). What is not registered says so, in upstream's words.

use std::collections::HashMap;

use api::quantity::Quantity;
use client::Client;
use http::Method;
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde_json::Value;

use crate::discovery;

/// Of metrics that do not say it.
const DEFAULT_WINDOW: SignedDuration = SignedDuration::from_mins(1);

/// One pod's value, in thousandths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PodMetric {
    pub at: Timestamp,
    pub window: SignedDuration,
    pub value: i64,
}

/// By pod name.
pub(super) type PodMetrics = HashMap<String, PodMetric>;

pub(super) struct MetricsClient(Client);

impl MetricsClient {
    pub(super) fn new(client: Client) -> Self {
        Self(client)
    }

    /// A resource's use by the selected pods, or by one container of each.
    pub(super) async fn resource(
        &self,
        namespace: &str,
        selector: &str,
        resource: &str,
        container: &str,
    ) -> Result<PodMetrics, String> {
        let failed = |why: String| format!("unable to fetch metrics from resource metrics API: {why}");
        let path =
            format!("/apis/metrics.k8s.io/v1beta1/namespaces/{namespace}/pods?labelSelector={}", encode(selector));
        let list: List<ResourceMetrics> = self.get(&path, "get pods.metrics.k8s.io").await.map_err(failed)?;
        if list.items.is_empty() {
            return Err("no metrics returned from resource metrics API".to_owned());
        }
        Ok(list.items.into_iter().filter_map(|item| item.metric(resource, container)).collect())
    }

    /// A custom metric of each selected pod.
    pub(super) async fn pods(
        &self,
        namespace: &str,
        selector: &str,
        metric: &str,
        metric_selector: &str,
    ) -> Result<PodMetrics, String> {
        let failed = |why: String| format!("unable to fetch metrics from custom metrics API: {why}");
        let version = self.version("custom.metrics.k8s.io", "custom metrics API").await.map_err(failed)?;
        let path = format!(
            "/apis/custom.metrics.k8s.io/{version}/namespaces/{namespace}/pods/%2A/{metric}?labelSelector={}&metricLabelSelector={}",
            encode(selector),
            encode(metric_selector)
        );
        let list: List<ObjectMetric> = self.get(&path, "get pods.custom.metrics.k8s.io").await.map_err(failed)?;
        if list.items.is_empty() {
            return Err("no metrics returned from custom metrics API".to_owned());
        }
        Ok(list
            .items
            .into_iter()
            .filter_map(|item| Some((item.described_object.name.clone(), item.metric()?)))
            .collect())
    }

    /// A custom metric of one object, in thousandths.
    pub(super) async fn object(
        &self,
        namespace: &str,
        api_version: &str,
        kind: &str,
        name: &str,
        metric: (&str, &str),
    ) -> Result<i64, String> {
        let failed = |why: String| format!("unable to fetch metrics from custom metrics API: {why}");
        let version = self.version("custom.metrics.k8s.io", "custom metrics API").await.map_err(failed)?;
        let (metric, selector) = (metric.0, encode(metric.1));
        let group = api_version.split_once('/').map_or("", |(group, _)| group);
        let base = format!("/apis/custom.metrics.k8s.io/{version}");
        let path = if kind == "Namespace" && group.is_empty() {
            format!("{base}/namespaces/{namespace}/metrics/{metric}?metricLabelSelector={selector}")
        } else {
            let found = discovery::group(&self.0, group).await.map_err(|e| failed(base::chain(&e).to_string()))?;
            let Some(resource) = found.iter().find(|r| r.kind == kind) else {
                return Err(failed(format!("no matches for kind {kind:?} in group {group:?}")));
            };
            let resource =
                if group.is_empty() { resource.resource.clone() } else { format!("{}.{group}", resource.resource) };
            format!("{base}/namespaces/{namespace}/{resource}/{name}/{metric}?metricLabelSelector={selector}")
        };
        let list: List<ObjectMetric> = self.get(&path, "get custom.metrics.k8s.io").await.map_err(failed)?;
        match list.items.into_iter().next().and_then(|item| item.metric()) {
            Some(metric) => Ok(metric.value),
            None => Err(failed("the custom metrics API server returned no metrics".to_owned())),
        }
    }

    /// All values of an external metric, in thousandths.
    pub(super) async fn external(&self, namespace: &str, metric: &str, selector: &str) -> Result<Vec<i64>, String> {
        let failed = |why: String| format!("unable to fetch metrics from external metrics API: {why}");
        let path = format!(
            "/apis/external.metrics.k8s.io/v1beta1/namespaces/{namespace}/{metric}?labelSelector={}",
            encode(selector)
        );
        let action = format!("get {metric}.external.metrics.k8s.io");
        let list: List<ExternalMetric> = self.get(&path, &action).await.map_err(failed)?;
        if list.items.is_empty() {
            return Err("no metrics returned from external metrics API".to_owned());
        }
        Ok(list.items.iter().filter_map(|item| Some(Quantity::parse(&item.value).ok()?.milli_value())).collect())
    }

    /// The version that a group prefers.
    async fn version(&self, group: &str, api: &str) -> Result<String, String> {
        let answer = self.0.raw(Method::GET, &format!("/apis/{group}"), "", Vec::new()).await;
        let body = match answer {
            Ok(body) => body,
            Err(error) if error.is_not_found() => return Err(format!("no {api} ({group}) registered")),
            Err(error) => return Err(base::chain(&error).to_string()),
        };
        let group: Value = serde_json::from_slice(&body).map_err(|e| e.to_string())?;
        Ok(group["preferredVersion"]["version"].as_str().unwrap_or("v1beta1").to_owned())
    }

    async fn get<T: for<'de> Deserialize<'de>>(&self, path: &str, action: &str) -> Result<T, String> {
        let body = match self.0.raw(Method::GET, path, "", Vec::new()).await {
            Ok(body) => body,
            // As client-go says it.
            Err(error) if error.is_not_found() => {
                return Err(format!("the server could not find the requested resource ({action})"));
            }
            Err(error) => return Err(base::chain(&error).to_string()),
        };
        serde_json::from_slice(&body).map_err(|e| e.to_string())
    }
}

/// For a query.
fn encode(text: &str) -> String {
    base::percent_encode(text, b"-._~")
}

#[derive(Deserialize)]
struct List<T> {
    #[serde(default = "Vec::new")]
    items: Vec<T>,
}

#[derive(Deserialize)]
struct Named {
    #[serde(default)]
    name: String,
}

#[derive(Deserialize)]
struct ResourceMetrics {
    metadata: Named,
    timestamp: Timestamp,
    #[serde(default)]
    window: String,
    #[serde(default)]
    containers: Vec<ContainerMetrics>,
}

#[derive(Deserialize)]
struct ContainerMetrics {
    name: String,
    #[serde(default)]
    usage: HashMap<String, String>,
}

impl ResourceMetrics {
    /// `getPodMetrics`, `getContainerMetrics`: a pod without a value for each container says nothing.
    fn metric(&self, resource: &str, container: &str) -> Option<(String, PodMetric)> {
        let value = |c: &ContainerMetrics| Some(Quantity::parse(c.usage.get(resource)?).ok()?.milli_value());
        let value = if container.is_empty() {
            if self.containers.is_empty() {
                return None;
            }
            self.containers.iter().map(value).sum::<Option<i64>>()?
        } else {
            value(self.containers.iter().find(|c| c.name == container)?)?
        };
        let window = go_duration(&self.window).unwrap_or(DEFAULT_WINDOW);
        Some((self.metadata.name.clone(), PodMetric { at: self.timestamp, window, value }))
    }
}

/// Seconds, minutes and hours as Go writes them: `1m0.5s`.
fn go_duration(text: &str) -> Option<SignedDuration> {
    let mut total = 0.0;
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..end].parse().ok()?;
        rest = &rest[end..];
        let end = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        total += number
            * match &rest[..end] {
                "h" => 3600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 1e-3,
                "us" | "µs" => 1e-6,
                "ns" => 1e-9,
                _ => return None,
            };
        rest = &rest[end..];
    }
    if text.is_empty() { None } else { SignedDuration::try_from_secs_f64(total).ok() }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ObjectMetric {
    described_object: Named,
    timestamp: Timestamp,
    window_seconds: Option<i64>,
    value: String,
}

impl ObjectMetric {
    fn metric(&self) -> Option<PodMetric> {
        let window = self.window_seconds.map_or(DEFAULT_WINDOW, SignedDuration::from_secs);
        Some(PodMetric { at: self.timestamp, window, value: Quantity::parse(&self.value).ok()?.milli_value() })
    }
}

#[derive(Deserialize)]
struct ExternalMetric {
    value: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pod_without_a_value_for_each_container_says_nothing() {
        let metrics = |b: Value| -> ResourceMetrics {
            serde_json::from_value(json!({"metadata": {"name": "p"}, "timestamp": "2026-01-01T00:00:00Z",
                "window": "1m0.5s", "containers": [{"name": "a", "usage": {"cpu": "250m"}}, {"name": "b", "usage": b}]}))
            .unwrap()
        };
        let full = metrics(json!({"cpu": "1"}));
        let (name, metric) = full.metric("cpu", "").unwrap();
        assert_eq!((name.as_str(), metric.value, metric.window), ("p", 1250, SignedDuration::from_millis(60_500)));
        assert_eq!(full.metric("cpu", "a").unwrap().1.value, 250);
        assert!(full.metric("memory", "").is_none());
        assert!(metrics(json!({})).metric("cpu", "").is_none());
        assert!(full.metric("cpu", "c").is_none());
    }

    #[test]
    fn selectors_are_safe_in_a_query() {
        assert_eq!(encode("a in (b,c),d!=e"), "a%20in%20%28b%2Cc%29%2Cd%21%3De");
    }
}
