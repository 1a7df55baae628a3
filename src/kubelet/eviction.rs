//! Ending pods when the node runs short of memory or disk, and pods that outgrow their own limits on disk (upstream
//! `kubelet/eviction/eviction_manager.go`).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use client::EventType;
use k8s_openapi::api::core::v1::Pod;

use crate::context::Context;
use crate::node::build::{Pressure, pressure};
use crate::table::{Eviction, Slot};
use crate::{resources, spec, volumes};

/// How often the node is looked at (upstream `monitoringInterval`).
const PERIOD: Duration = Duration::from_secs(10);
/// Time for an evicted pod to go, and for the kernel to notice, before the next one is chosen.
const SETTLE: Duration = Duration::from_secs(30);

/// Looks after the node until cancelled.
pub async fn run(ctx: &Arc<Context>) {
    let mut interval = tokio::time::interval(PERIOD);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        local_limits(ctx).await;
        let now = pressure(ctx);
        if (now.memory || now.disk) && evict_one(ctx, now).await {
            tokio::time::sleep(SETTLE).await;
        }
    }
}

fn alive(ctx: &Context) -> Vec<Arc<Slot>> {
    let mut slots = ctx.table.all();
    slots.retain(|slot| {
        let pod = slot.pod();
        let over = spec::is_deleted(&pod) || spec::is_terminal_phase(spec::status(&pod).phase.as_deref());
        !over && !slot.is_gone() && slot.eviction().is_none()
    });
    slots
}

/// Ends the pod that upstream would end first: what uses more than it asked for, then low priority, then how much more.
async fn evict_one(ctx: &Context, pressure: Pressure) -> bool {
    let (resource, reason) = if pressure.memory { ("memory", "memory") } else { ("ephemeral-storage", "disk") };
    let mut ranked = Vec::new();
    for slot in alive(ctx) {
        let pod = slot.pod();
        if spec::is_critical(&pod) {
            continue;
        }
        let usage = if pressure.memory { memory_usage(ctx, &slot).await } else { disk_usage(ctx, &slot).await };
        let request = resources::pod_total(&pod, resource, resources::request_value);
        let excess = i64::try_from(usage).unwrap_or(i64::MAX) - request;
        ranked.push((excess > 0, spec::spec(&pod).priority.unwrap_or(0), excess, usage, slot));
    }
    ranked.sort_by(|a, b| (b.0, a.1, b.2).cmp(&(a.0, b.1, a.2)));
    let Some((_, _, _, usage, slot)) = ranked.into_iter().next() else {
        tracing::warn!(resource, "the node runs short, and no pod may be ended");
        return false;
    };
    let message = format!("The node was low on resource: {resource}. Pod was using {usage} bytes.");
    tracing::warn!(
        pod = spec::full_name(&slot.pod()),
        resource,
        usage,
        "ending a pod: the node runs short of {reason}"
    );
    evict(ctx, &slot, message, Some(0));
    true
}

fn evict(ctx: &Context, slot: &Slot, message: String, grace_seconds: Option<i64>) {
    ctx.events.pod(&slot.pod(), EventType::Warning, "Evicted", &message);
    let disruption = Some(("TerminationByKubelet".to_owned(), message.clone()));
    slot.evict(Eviction { reason: "Evicted".to_owned(), message, grace_seconds, disruption });
}

async fn memory_usage(ctx: &Context, slot: &Slot) -> u64 {
    let mut sum = 0;
    for container in ctx.cache.pod(&slot.uid).containers.iter().filter(|c| c.is_running()) {
        if let Ok(stats) = ctx.runtime.stats(&container.id).await {
            sum += stats.memory_working_set_bytes;
        }
    }
    sum
}

async fn disk_usage(ctx: &Context, slot: &Slot) -> u64 {
    let pod = slot.pod();
    let folders = vec![
        ctx.config.pod_dir(&slot.uid).join("volumes/kubernetes.io~empty-dir"),
        ctx.config.pod_log_dir(spec::namespace(&pod), spec::name(&pod), &slot.uid),
    ];
    let mut sum = used(folders).await;
    for container in &ctx.cache.pod(&slot.uid).containers {
        if let Ok(stats) = ctx.runtime.stats(&container.id).await {
            sum += stats.rootfs_used_bytes;
        }
    }
    sum
}

async fn used(folders: Vec<PathBuf>) -> u64 {
    let count = tokio::task::spawn_blocking(move || folders.iter().map(|f| disk_used(f)).sum());
    count.await.unwrap_or(0)
}

/// Bytes on disk below a folder; what vanishes meanwhile is not counted.
fn disk_used(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => meta.blocks() * 512 + disk_used(&entry.path()),
            Ok(meta) => meta.blocks() * 512,
            Err(_) => 0,
        })
        .sum()
}

/// `sizeLimit` of emptyDirs and limits on `ephemeral-storage` (upstream `localStorageEviction`).
async fn local_limits(ctx: &Context) {
    for slot in alive(ctx) {
        let pod = slot.pod();
        if let Some(message) = over_volume_limit(ctx, &pod).await {
            evict(ctx, &slot, message, None);
            continue;
        }
        let limit = resources::pod_total(&pod, "ephemeral-storage", resources::limit_value);
        let everyone = spec::containers(&pod)
            .iter()
            .all(|c| resources::limit(c.resources.as_ref(), "ephemeral-storage").is_some());
        if !everyone || limit <= 0 {
            continue;
        }
        if i64::try_from(disk_usage(ctx, &slot).await).unwrap_or(i64::MAX) > limit {
            let message = format!("Pod ephemeral local storage usage exceeds the total limit of containers {limit}. ");
            evict(ctx, &slot, message, None);
        }
    }
}

async fn over_volume_limit(ctx: &Context, pod: &Pod) -> Option<String> {
    for volume in spec::spec(pod).volumes.iter().flatten() {
        let Some(limit) = volume.empty_dir.as_ref().and_then(|e| e.size_limit.as_ref()) else { continue };
        let Some(bytes) = resources::value(limit).filter(|n| *n > 0) else { continue };
        let folder = volumes::empty_dir::path(&ctx.config, spec::uid(pod), &volume.name);
        if i64::try_from(used(vec![folder]).await).unwrap_or(i64::MAX) > bytes {
            return Some(format!("Usage of EmptyDir volume {:?} exceeds the limit {:?}. ", volume.name, limit.0));
        }
    }
    None
}
