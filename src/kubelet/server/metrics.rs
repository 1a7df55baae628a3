//! Metrics in Prometheus' text format: `/metrics`, `/metrics/resource` (what metrics-server reads), `/metrics/probes`
//! and `/metrics/cadvisor`.

use std::fmt::Write as _;

use axum::response::{IntoResponse, Response};
use http::header;

use super::stats::{Usage, node_usage, usages};
use crate::context::Context;
use crate::observed::PodRef;

fn answer(text: String) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    // Writing to a string cannot fail.
    let _ = write!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
}

fn line(out: &mut String, name: &str, labels: &[(&str, &str)], value: f64) {
    let labels: Vec<String> = labels.iter().map(|(k, v)| format!("{k}=\"{v}\"")).collect();
    let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
    let _ = writeln!(out, "{name}{labels} {value}");
}

fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

/// The node agent's own metrics.
pub(super) fn own(ctx: &Context) -> Response {
    let mut out = String::new();
    head(&mut out, "kubelet_node_name", "gauge", "[ALPHA] The node's name. The count is always 1.");
    line(&mut out, "kubelet_node_name", &[("node", &ctx.config.node_name)], 1.0);
    let (mut pods, mut running) = (0, 0);
    for pod in ctx.cache.pods() {
        let count = ctx.cache.pod(&pod.uid).containers.iter().filter(|c| c.is_running()).count();
        running += count;
        pods += usize::from(count > 0);
    }
    head(&mut out, "kubelet_running_pods", "gauge", "[ALPHA] Number of pods that have a running pod sandbox");
    line(&mut out, "kubelet_running_pods", &[], pods as f64);
    head(&mut out, "kubelet_running_containers", "gauge", "[ALPHA] Number of containers currently running");
    line(&mut out, "kubelet_running_containers", &[("container_state", "running")], running as f64);
    answer(out)
}

/// Upstream `prober/prober_manager.go`, `ProberResults`.
pub(super) fn probes(ctx: &Context) -> Response {
    let mut out = String::new();
    let name = "prober_probe_total";
    let help = "[BETA] Cumulative number of a liveness, readiness or startup probe for a container by result.";
    head(&mut out, name, "counter", help);
    let mut counts = ctx.probes.counts();
    counts.sort_by(|a, b| {
        (&a.namespace, &a.pod, &a.container, a.kind).cmp(&(&b.namespace, &b.pod, &b.container, b.kind))
    });
    for count in counts {
        let results = [("successful", count.successful), ("failed", count.failed), ("unknown", count.unknown)];
        for (result, n) in results.into_iter().filter(|(_, n)| *n > 0) {
            let labels = [
                ("container", count.container.as_str()),
                ("namespace", count.namespace.as_str()),
                ("pod", count.pod.as_str()),
                ("pod_uid", count.uid.as_str()),
                ("probe_type", count.kind),
                ("result", result),
            ];
            line(&mut out, name, &labels, n as f64);
        }
    }
    answer(out)
}

fn pod_labels(pod: &PodRef) -> [(&'static str, &str); 2] {
    [("namespace", pod.namespace.as_str()), ("pod", pod.name.as_str())]
}

/// Upstream `metrics/collectors/resource_metrics.go`.
pub(super) async fn resource(ctx: &Context) -> Response {
    let usages = usages(ctx).await;
    let node = node_usage(ctx);
    let mut out = String::new();
    let labels = |u: &Usage| {
        vec![("container", u.container.clone()), ("namespace", u.pod.namespace.clone()), ("pod", u.pod.name.clone())]
    };
    let mut each = |name: &str, kind: &str, help: &str, of: &dyn Fn(&Usage) -> f64| {
        head(&mut out, name, kind, help);
        for usage in &usages {
            let owned = labels(usage);
            let labels: Vec<(&str, &str)> = owned.iter().map(|(k, v)| (*k, v.as_str())).collect();
            line(&mut out, name, &labels, of(usage));
        }
    };
    each(
        "container_cpu_usage_seconds_total",
        "counter",
        "[STABLE] Cumulative cpu time consumed by the container in core-seconds",
        &|u| seconds(u.stats.cpu_usage_ns),
    );
    each(
        "container_memory_working_set_bytes",
        "gauge",
        "[STABLE] Current working set of the container in bytes",
        &|u| u.stats.memory_working_set_bytes as f64,
    );
    each(
        "container_start_time_seconds",
        "gauge",
        "[STABLE] Start time of the container since unix epoch in seconds",
        &|u| u.started.as_millisecond() as f64 / 1e3,
    );
    let name = "node_cpu_usage_seconds_total";
    head(&mut out, name, "counter", "[STABLE] Cumulative cpu time consumed by the node in core-seconds");
    line(&mut out, name, &[], seconds(node.cpu_ns));
    let name = "node_memory_working_set_bytes";
    head(&mut out, name, "gauge", "[STABLE] Current working set of the node in bytes");
    line(&mut out, name, &[], node.memory_working_set as f64);
    let mut sums: std::collections::BTreeMap<String, (PodRef, u64, u64)> = Default::default();
    for usage in &usages {
        let sum = sums.entry(usage.pod.uid.clone()).or_insert_with(|| (usage.pod.clone(), 0, 0));
        sum.1 += usage.stats.cpu_usage_ns;
        sum.2 += usage.stats.memory_working_set_bytes;
    }
    let name = "pod_cpu_usage_seconds_total";
    head(&mut out, name, "counter", "[STABLE] Cumulative cpu time consumed by the pod in core-seconds");
    for (pod, cpu, _) in sums.values() {
        line(&mut out, name, &pod_labels(pod), seconds(*cpu));
    }
    let name = "pod_memory_working_set_bytes";
    head(&mut out, name, "gauge", "[STABLE] Current working set of the pod in bytes");
    for (pod, _, memory) in sums.values() {
        line(&mut out, name, &pod_labels(pod), *memory as f64);
    }
    let name = "resource_scrape_error";
    head(&mut out, name, "gauge", "[STABLE] 1 if there was an error while getting container metrics, 0 otherwise");
    line(&mut out, name, &[], 0.0);
    answer(out)
}

/// The counters of containers under cAdvisor's names.
pub(super) async fn cadvisor(ctx: &Context) -> Response {
    let usages = usages(ctx).await;
    let mut out = String::new();
    let mut each = |name: &str, kind: &str, help: &str, of: &dyn Fn(&Usage) -> f64| {
        head(&mut out, name, kind, help);
        for u in &usages {
            let labels = [
                ("container", u.container.as_str()),
                ("id", u.id.as_str()),
                ("image", u.image.as_str()),
                ("name", u.id.as_str()),
                ("namespace", u.pod.namespace.as_str()),
                ("pod", u.pod.name.as_str()),
            ];
            line(&mut out, name, &labels, of(u));
        }
    };
    each("container_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed in seconds.", &|u| {
        seconds(u.stats.cpu_usage_ns)
    });
    each("container_memory_usage_bytes", "gauge", "Current memory usage in bytes, including all memory.", &|u| {
        u.stats.memory_usage_bytes as f64
    });
    each("container_memory_working_set_bytes", "gauge", "Current working set in bytes.", &|u| {
        u.stats.memory_working_set_bytes as f64
    });
    each("container_memory_rss", "gauge", "Size of RSS in bytes.", &|u| u.stats.memory_rss_bytes as f64);
    each("container_processes", "gauge", "Number of processes running inside the container.", &|u| u.stats.pids as f64);
    each("container_start_time_seconds", "gauge", "Start time of the container since unix epoch in seconds.", &|u| {
        u.started.as_millisecond() as f64 / 1e3
    });
    answer(out)
}
