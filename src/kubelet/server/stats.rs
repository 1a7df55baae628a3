//! `/stats/summary` (upstream `k8s.io/kubelet/pkg/apis/stats/v1alpha1`): what the node and its containers use.

use std::sync::Arc;

use axum::response::Response;
use futures::stream::{self, StreamExt};
use runtime::ContainerStats;
use serde_json::{Value, json};

use super::json_bytes;
use crate::context::Context;
use crate::eviction::disk_used;
use crate::machine::{Disk, disk, meminfo};
use crate::observed::{PodRef, State};

/// Containers asked at a time.
const PARALLEL: usize = 8;

/// Counters of one running container.
pub(super) struct Usage {
    pub pod: PodRef,
    pub container: String,
    pub id: String,
    pub image: String,
    pub started: jiff::Timestamp,
    pub stats: ContainerStats,
}

/// Counters of every running container; those that end meanwhile are left out.
pub(super) async fn usages(ctx: &Context) -> Vec<Usage> {
    let mut running = Vec::new();
    for pod in ctx.cache.pods() {
        for container in ctx.cache.pod(&pod.uid).containers {
            if let State::Running { started } = container.state {
                running.push((pod.clone(), container.name, container.id, container.image, started));
            }
        }
    }
    stream::iter(running)
        .map(|(pod, container, id, image, started)| async move {
            let stats = ctx.runtime.stats(&id).await.ok()?;
            Some(Usage { pod, container, id: id.0, image, started, stats })
        })
        .buffer_unordered(PARALLEL)
        .filter_map(|usage| async { usage })
        .collect()
        .await
}

/// The node's own counters.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct NodeUsage {
    pub cpu_ns: u64,
    pub memory_available: u64,
    pub memory_usage: u64,
    pub memory_working_set: u64,
    pub memory_rss: u64,
    pub disk: Disk,
}

pub(super) fn node_usage(ctx: &Context) -> NodeUsage {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let (total, available) = (meminfo(&text, "MemTotal"), meminfo(&text, "MemAvailable"));
    NodeUsage {
        cpu_ns: cpu_ns(&std::fs::read_to_string("/proc/stat").unwrap_or_default()),
        memory_available: available,
        memory_usage: total.saturating_sub(meminfo(&text, "MemFree")),
        memory_working_set: total.saturating_sub(available),
        memory_rss: meminfo(&text, "AnonPages"),
        disk: disk(&ctx.config.root_dir).unwrap_or_default(),
    }
}

/// Busy time of all CPUs, from the first line of `/proc/stat` (hundredths of seconds).
fn cpu_ns(text: &str) -> u64 {
    const TICK_NS: u64 = 10_000_000;
    let fields: Vec<u64> =
        text.lines().next().unwrap_or_default().split_whitespace().skip(1).filter_map(|f| f.parse().ok()).collect();
    let busy = |i: usize| fields.get(i).copied().unwrap_or(0);
    // user, nice, system, irq, softirq, steal.
    [0, 1, 2, 5, 6, 7].into_iter().map(busy).sum::<u64>() * TICK_NS
}

pub(super) async fn summary(ctx: &Arc<Context>) -> Response {
    let now = ctx.clock.now().to_string();
    let node = node_usage(ctx);
    let fs = json!({
        "time": now, "availableBytes": node.disk.available, "capacityBytes": node.disk.capacity,
        "usedBytes": node.disk.capacity.saturating_sub(node.disk.available),
        "inodesFree": node.disk.inodes_free, "inodes": node.disk.inodes,
        "inodesUsed": node.disk.inodes.saturating_sub(node.disk.inodes_free),
    });
    let mut pods: std::collections::BTreeMap<String, (PodRef, Vec<Usage>)> = Default::default();
    for usage in usages(ctx).await {
        pods.entry(usage.pod.uid.clone()).or_insert_with(|| (usage.pod.clone(), Vec::new())).1.push(usage);
    }
    let pods: Vec<Value> = pods.into_values().map(|(pod, list)| pod_value(ctx, &pod, &list, &now)).collect();
    let summary = json!({
        "node": {
            "nodeName": ctx.config.node_name,
            "startTime": ctx.probes.started_at().to_string(),
            "cpu": {"time": now, "usageCoreNanoSeconds": node.cpu_ns},
            "memory": {
                "time": now, "availableBytes": node.memory_available, "usageBytes": node.memory_usage,
                "workingSetBytes": node.memory_working_set, "rssBytes": node.memory_rss,
            },
            "fs": fs,
            "runtime": {"imageFs": fs, "containerFs": fs},
        },
        "pods": pods,
    });
    json_bytes(summary.to_string().into_bytes())
}

fn pod_value(ctx: &Context, pod: &PodRef, list: &[Usage], now: &str) -> Value {
    let sum = |of: fn(&ContainerStats) -> u64| list.iter().map(|u| of(&u.stats)).sum::<u64>();
    let containers: Vec<Value> = list
        .iter()
        .map(|usage| {
            let s = &usage.stats;
            json!({
                "name": usage.container,
                "startTime": usage.started.to_string(),
                "cpu": {"time": now, "usageCoreNanoSeconds": s.cpu_usage_ns},
                "memory": {
                    "time": now, "usageBytes": s.memory_usage_bytes, "workingSetBytes": s.memory_working_set_bytes,
                    "rssBytes": s.memory_rss_bytes, "pageFaults": s.page_faults, "majorPageFaults": s.major_page_faults,
                },
                "rootfs": {"time": now, "usedBytes": s.rootfs_used_bytes, "inodesUsed": s.rootfs_inodes},
            })
        })
        .collect();
    let started = ctx.table.get(&pod.uid).and_then(|slot| slot.status()?.start_time);
    let mut value = json!({
        "podRef": {"name": pod.name, "namespace": pod.namespace, "uid": pod.uid},
        "containers": containers,
        "cpu": {"time": now, "usageCoreNanoSeconds": sum(|s| s.cpu_usage_ns)},
        "memory": {
            "time": now, "usageBytes": sum(|s| s.memory_usage_bytes),
            "workingSetBytes": sum(|s| s.memory_working_set_bytes), "rssBytes": sum(|s| s.memory_rss_bytes),
            "pageFaults": sum(|s| s.page_faults), "majorPageFaults": sum(|s| s.major_page_faults),
        },
        "ephemeral-storage": ephemeral_storage(ctx, pod, sum(|s| s.rootfs_used_bytes), now),
        "volume": volumes(ctx, pod, now),
        "process_stats": {"process_count": sum(|s| s.pids)},
    });
    if let Some(started) = started {
        value["startTime"] = started.0.to_string().into();
    }
    value
}

/// What the pod's containers, logs and emptyDirs take of the node's disk.
fn ephemeral_storage(ctx: &Context, pod: &PodRef, rootfs: u64, now: &str) -> Value {
    let space = disk(&ctx.config.root_dir).unwrap_or_default();
    let logs = disk_used(&ctx.config.pod_log_dir(&pod.namespace, &pod.name, &pod.uid));
    let volumes = disk_used(&ctx.config.pod_dir(&pod.uid).join("volumes/kubernetes.io~empty-dir"));
    json!({
        "time": now, "availableBytes": space.available, "capacityBytes": space.capacity,
        "usedBytes": rootfs + logs + volumes, "inodesFree": space.inodes_free, "inodes": space.inodes,
    })
}

/// The file systems of the pod's claims (upstream `server/stats/volume_stat_calculator.go`).
fn volumes(ctx: &Context, pod: &PodRef, now: &str) -> Vec<Value> {
    let all = ctx.claims.of(&pod.uid).into_iter();
    let claims = all.filter(|(_, claim, resolved)| !claim.is_empty() && !resolved.block);
    claims
        .filter_map(|(name, claim, resolved)| {
            let space = disk(&resolved.path)?;
            Some(json!({
                "time": now, "name": name,
                "pvcRef": {"name": claim, "namespace": pod.namespace},
                "availableBytes": space.available, "capacityBytes": space.capacity,
                "usedBytes": space.capacity.saturating_sub(space.available),
                "inodesFree": space.inodes_free, "inodes": space.inodes,
                "inodesUsed": space.inodes.saturating_sub(space.inodes_free),
            }))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn busy_time_leaves_idle_out() {
        assert_eq!(super::cpu_ns("cpu  1 2 3 100 100 4 5 6 0 0\n"), 21 * 10_000_000);
    }
}
