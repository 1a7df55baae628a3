//! What the metrics of an autoscaler propose (`horizontal.go` `computeReplicasForMetrics`).

use api::quantity::{Format, Quantity};
use api::selector::LabelSelector;
use client::Resource;
use k8s_openapi::api::autoscaling::v2::{
    ContainerResourceMetricStatus, ExternalMetricSource, ExternalMetricStatus, HPAScalingRules, MetricIdentifier,
    MetricSpec, MetricStatus, MetricTarget, MetricValueStatus, ObjectMetricSource, ObjectMetricStatus,
    PodsMetricSource, PodsMetricStatus, ResourceMetricStatus,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;

use super::Pass;
use super::replicas::{Target, Tolerances, by_share};
use super::scale::Scale;

/// `--horizontal-pod-autoscaler-tolerance`.
const TOLERANCE: f64 = 0.1;

/// Replicas, the name of the metric for events, and what the status shows.
type Proposal = (i32, String, MetricStatus);

/// A failure: the reason of the condition, and the text.
struct Failure {
    reason: &'static str,
    message: String,
}

impl Pass<'_> {
    /// The largest of all proposals.
    pub(super) async fn propose(
        &mut self,
        scale: &Scale,
    ) -> Result<(i32, String, Vec<MetricStatus>), (String, Vec<MetricStatus>)> {
        let selector = self.selector(scale).map_err(|problem| (problem, Vec::new()))?;
        let specs = self.object.spec.metrics.clone().unwrap_or_default();
        let namespace = self.key.namespace.clone();
        let target = Target {
            namespace: &namespace,
            selector_text: &scale.selector,
            selector: &selector,
            current: scale.replicas,
            tolerances: self.tolerances(),
        };
        let mut statuses = Vec::with_capacity(specs.len());
        let mut best: Option<(i32, String)> = None;
        let mut failures = 0;
        let mut first = None;
        for spec in &specs {
            match self.by_metric(spec, target, scale.status_replicas).await {
                Ok((replicas, name, status)) => {
                    statuses.push(status);
                    if best.as_ref().is_none_or(|(count, _)| replicas > *count) {
                        best = Some((replicas, name));
                    }
                }
                Err((failure, message)) => {
                    statuses.push(MetricStatus::default());
                    failures += 1;
                    first.get_or_insert((failure, message));
                }
            }
        }
        let proposed = best.as_ref().map_or(0, |(count, _)| *count);
        match (first, best) {
            (Some((failure, message)), best) if best.is_none() || proposed < scale.replicas => {
                let text = format!("the HPA was unable to compute the replica count: {}", failure.message);
                self.condition("ScalingActive", false, failure.reason, &text);
                let text =
                    format!("invalid metrics ({failures} invalid out of {}), first error is: {message}", specs.len());
                Err((text, statuses))
            }
            (_, Some((count, name))) => {
                let text = format!("the HPA was able to successfully calculate a replica count from {name}");
                self.condition("ScalingActive", true, "ValidMetricFound", &text);
                Ok((count, name, statuses))
            }
            (_, None) => Err(("no metrics are given".to_owned(), statuses)),
        }
    }

    /// `validateAndParseSelector`.
    fn selector(&mut self, scale: &Scale) -> Result<LabelSelector, String> {
        if scale.selector.is_empty() {
            self.warn("SelectorRequired", "selector is required");
            let message = "the HPA target's scale is missing a selector";
            self.condition("ScalingActive", false, "InvalidSelector", message);
            return Err("selector is required".to_owned());
        }
        let selector = match LabelSelector::parse(&scale.selector) {
            Ok(selector) => selector,
            Err(error) => {
                let message =
                    format!("couldn't convert selector into a corresponding internal selector object: {error}");
                self.warn("InvalidSelector", &message);
                self.condition("ScalingActive", false, "InvalidSelector", &message);
                return Err(message);
            }
        };
        let pods = self.controller.calculator.selected(&self.key.namespace, &selector);
        let mut both: Vec<String> = {
            let mut selectors = self.controller.selectors.lock();
            selectors.insert(self.key.clone(), selector.clone());
            selectors
                .iter()
                .filter(|(key, _)| key.namespace == self.key.namespace)
                .filter(|(_, s)| pods.iter().any(|pod| s.matches(|label| pod.label(label))))
                .map(|(key, _)| format!("{}/{}", key.namespace, key.name))
                .collect()
        };
        if both.len() > 1 {
            both.sort();
            both.truncate(2);
            let message = format!(
                "pods by selector {} are controlled by more than one HPA (e.g. [{}])",
                scale.selector,
                both.join(" ")
            );
            self.warn("AmbiguousSelector", &message);
            self.condition("ScalingActive", false, "AmbiguousSelector", &message);
            return Err(message);
        }
        Ok(selector)
    }

    fn tolerances(&self) -> Tolerances {
        let behavior = self.object.spec.behavior.as_ref();
        let of = |rules: Option<&HPAScalingRules>| {
            let text = rules.and_then(|r| r.tolerance.as_ref());
            text.and_then(|t| Quantity::parse(&t.0).ok()).map_or(TOLERANCE, |q| q.as_f64())
        };
        Tolerances {
            down: of(behavior.and_then(|b| b.scale_down.as_ref())),
            up: of(behavior.and_then(|b| b.scale_up.as_ref())),
        }
    }

    /// One metric's proposal; a failure is an event too.
    async fn by_metric(
        &self,
        spec: &MetricSpec,
        target: Target<'_>,
        status_replicas: i32,
    ) -> Result<Proposal, (Failure, String)> {
        let (result, reason, what) = match spec.type_.as_str() {
            "Resource" => {
                let source = spec.resource.clone().unwrap_or_default();
                let what = format!("{} resource metric", source.name);
                let found = self.by_resource(target, &source.name, "", &source.target).await;
                let found = found.map(|(count, name, current)| {
                    let status = ResourceMetricStatus { name: source.name, current };
                    (count, name, MetricStatus { resource: Some(status), ..kind("Resource") })
                });
                (found, "FailedGetResourceMetric", what)
            }
            "ContainerResource" => {
                let source = spec.container_resource.clone().unwrap_or_default();
                let what = format!("{} container metric", source.container);
                let found = self.by_resource(target, &source.name, &source.container, &source.target).await;
                let found = found.map(|(count, name, current)| {
                    let status =
                        ContainerResourceMetricStatus { name: source.name, container: source.container, current };
                    (count, name, MetricStatus { container_resource: Some(status), ..kind("ContainerResource") })
                });
                (found, "FailedGetContainerResourceMetric", what)
            }
            "Pods" => {
                let found = self.by_pods(target, &spec.pods.clone().unwrap_or_default()).await;
                (found, "FailedGetPodsMetric", "pods metric".to_owned())
            }
            "Object" => {
                let source = spec.object.clone().unwrap_or_default();
                (
                    self.by_object(target, status_replicas, &source).await,
                    "FailedGetObjectMetric",
                    "object metric".to_owned(),
                )
            }
            "External" => {
                let source = spec.external.clone().unwrap_or_default();
                let what = format!("{} external metric", source.metric.name);
                (self.by_external(target, status_replicas, &source).await, "FailedGetExternalMetric", what)
            }
            other => {
                let message = format!("unknown metric source type {other:?}");
                self.warn("InvalidMetricSourceType", &message);
                return Err((Failure { reason: "InvalidMetricSourceType", message: message.clone() }, message));
            }
        };
        result.map_err(|message| {
            self.warn(reason, &message);
            let text = format!("failed to get {what} value: {message}");
            (Failure { reason, message }, text)
        })
    }

    async fn by_resource(
        &self,
        target: Target<'_>,
        resource: &str,
        container: &str,
        wanted: &MetricTarget,
    ) -> Result<(i32, String, MetricValueStatus), String> {
        let format = if resource == "memory" { Format::BinarySi } else { Format::DecimalSi };
        let calculator = &self.controller.calculator;
        if let Some(average) = thousandths(wanted.average_value.as_ref()) {
            let (count, usage) = calculator
                .by_usage(target, resource, container, average)
                .await
                .map_err(|e| format!("failed to get {resource} usage: {e}"))?;
            let status = MetricValueStatus { average_value: Some(text(usage, format)), ..Default::default() };
            return Ok((count, format!("{resource} resource"), status));
        }
        let Some(utilization) = wanted.average_utilization else {
            return Err("invalid resource metric source: neither an average utilization target nor an average value \
                        (usage) target was set"
                .to_owned());
        };
        let (count, percent, usage) = calculator
            .by_utilization(target, resource, container, utilization)
            .await
            .map_err(|e| format!("failed to get {resource} utilization: {e}"))?;
        let status = MetricValueStatus {
            average_utilization: Some(percent),
            average_value: Some(text(usage, format)),
            value: None,
        };
        let of = if container.is_empty() { "" } else { "container " };
        Ok((count, format!("{resource} {of}resource utilization (percentage of request)"), status))
    }

    async fn by_pods(&self, target: Target<'_>, source: &PodsMetricSource) -> Result<Proposal, String> {
        let metric = &source.metric;
        let wanted = thousandths(source.target.average_value.as_ref()).unwrap_or(0);
        let calculator = &self.controller.calculator;
        let found = calculator
            .metrics
            .pods(target.namespace, target.selector_text, &metric.name, &selector_text(metric)?)
            .await
            .map_err(|e| format!("unable to get metric {}: {e}", metric.name))?;
        let (count, usage) = calculator.by_average(target, "", found, wanted)?;
        let current = MetricValueStatus { average_value: Some(text(usage, Format::DecimalSi)), ..Default::default() };
        let status = PodsMetricStatus { metric: metric.clone(), current };
        Ok((count, format!("pods metric {}", metric.name), MetricStatus { pods: Some(status), ..kind("Pods") }))
    }

    async fn by_object(
        &self,
        target: Target<'_>,
        status_replicas: i32,
        source: &ObjectMetricSource,
    ) -> Result<Proposal, String> {
        let (metric, object) = (&source.metric, &source.described_object);
        let calculator = &self.controller.calculator;
        let api_version = object.api_version.as_deref().unwrap_or_default();
        let named = (metric.name.as_str(), selector_text(metric)?);
        let usage =
            calculator.metrics.object(target.namespace, api_version, &object.kind, &object.name, (named.0, &named.1));
        let failed = |e: String| {
            format!("unable to get metric {} on {} {}/{}: {e}", metric.name, object.kind, target.namespace, object.name)
        };
        let wanted = (thousandths(source.target.value.as_ref()), thousandths(source.target.average_value.as_ref()));
        let (count, name, current) = match (source.target.type_.as_str(), wanted) {
            ("Value", (Some(wanted), _)) => {
                let usage = usage.await.map_err(failed)?;
                let count = calculator.by_value(target, usage, wanted)?;
                let value = Some(text(usage, Format::DecimalSi));
                (
                    count,
                    format!("{} metric {}", object.kind, metric.name),
                    MetricValueStatus { value, ..Default::default() },
                )
            }
            ("AverageValue", (_, Some(wanted))) => {
                let failed = |e| format!("failed to get {} object metric: {}", metric.name, failed(e));
                let usage = usage.await.map_err(failed)?;
                let (count, each) = by_share(status_replicas, target.tolerances, usage, wanted);
                let average_value = Some(text(each, Format::DecimalSi));
                (count, external_name(metric), MetricValueStatus { average_value, ..Default::default() })
            }
            _ => {
                return Err("invalid object metric source: neither a value target nor an average value target was set"
                    .to_owned());
            }
        };
        let status = ObjectMetricStatus { current, described_object: object.clone(), metric: metric.clone() };
        Ok((count, name, MetricStatus { object: Some(status), ..kind("Object") }))
    }

    async fn by_external(
        &self,
        target: Target<'_>,
        status_replicas: i32,
        source: &ExternalMetricSource,
    ) -> Result<Proposal, String> {
        let metric = &source.metric;
        let calculator = &self.controller.calculator;
        let selector = selector_text(metric)?;
        let values = calculator.metrics.external(target.namespace, &metric.name, &selector);
        let failed = |e: String| format!("unable to get external metric {}/{}: {e}", target.namespace, metric.name);
        let sum = |values: Vec<i64>| values.into_iter().fold(0_i64, i64::saturating_add);
        let (count, current) = if let Some(wanted) = thousandths(source.target.average_value.as_ref()) {
            let failed = |e| format!("failed to get {} external metric: {}", metric.name, failed(e));
            let usage = sum(values.await.map_err(failed)?);
            let (count, each) = by_share(status_replicas, target.tolerances, usage, wanted);
            (count, MetricValueStatus { average_value: Some(text(each, Format::DecimalSi)), ..Default::default() })
        } else if let Some(wanted) = thousandths(source.target.value.as_ref()) {
            let failed = |e| format!("failed to get external metric {}: {}", metric.name, failed(e));
            let usage = sum(values.await.map_err(failed)?);
            let count = calculator.by_value(target, usage, wanted)?;
            (count, MetricValueStatus { value: Some(text(usage, Format::DecimalSi)), ..Default::default() })
        } else {
            return Err(
                "invalid external metric source: neither a value target nor an average value target was set".to_owned()
            );
        };
        let status = ExternalMetricStatus { metric: metric.clone(), current };
        Ok((count, external_name(metric), MetricStatus { external: Some(status), ..kind("External") }))
    }
}

fn kind(kind: &str) -> MetricStatus {
    MetricStatus { type_: kind.to_owned(), ..MetricStatus::default() }
}

fn thousandths(text: Option<&Text>) -> Option<i64> {
    Some(Quantity::parse(&text?.0).ok()?.milli_value())
}

fn text(thousandths: i64, format: Format) -> Text {
    Text(Quantity::milli(thousandths, format).to_string())
}

/// A metric's own selector, as a query says it.
fn selector_text(metric: &MetricIdentifier) -> Result<String, String> {
    let Some(selector) = &metric.selector else { return Ok(String::new()) };
    let value = serde_json::to_value(selector).map_err(|e| e.to_string())?;
    Ok(LabelSelector::from_object(&value).map_err(|e| e.to_string())?.to_string())
}

fn external_name(metric: &MetricIdentifier) -> String {
    // Go prints a missing selector as this.
    let selector = selector_text(metric).ok().filter(|s| !s.is_empty()).unwrap_or_else(|| "nil".to_owned());
    format!("external metric {}(&LabelSelector{{{selector}}})", metric.name).replace("&LabelSelector{nil}", "nil")
}
