//! Ending pods when the node runs short of memory, disk or process ids, and pods that outgrow their own limits on disk
//! (upstream `kubelet/eviction/eviction_manager.go`).

pub mod thresholds;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use client::EventType;
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::admit::Rejection;
use crate::context::Context;
use crate::machine::{disk, meminfo};
use crate::resources::{Qos, qos};
use crate::table::{Eviction, Slot};
use crate::{execute, image_gc, resources, spec, volumes};
use thresholds::{Observation, Observations, Pressure, Signal, Threshold, Watch};

/// How often the node is looked at (upstream `monitoringInterval`).
const PERIOD: Duration = Duration::from_secs(10);
/// Time for an evicted pod to go, and for the kernel to notice, before the next one is chosen.
const SETTLE: Duration = Duration::from_secs(30);

/// The node's pressure as last seen.
#[derive(Default)]
pub struct Pressures(Mutex<Pressure>);

impl Pressures {
    pub fn now(&self) -> Pressure {
        *self.0.lock()
    }
}

/// Looks after the node until cancelled.
pub async fn run(ctx: &Arc<Context>) {
    let limits = thresholds::configured(&ctx.config);
    let mut watch = Watch::default();
    let mut interval = tokio::time::interval(PERIOD);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        let observations = observe(ctx);
        let transition = ctx.config.eviction_pressure_transition_period;
        let (act, pressure) = watch.look(&limits, &observations, transition, Instant::now());
        let changed = std::mem::replace(&mut *ctx.pressures.0.lock(), pressure) != pressure;
        if changed {
            ctx.node_changed.notify_one();
        }
        if local_limits(ctx).await {
            continue;
        }
        let Some(first) = act.first() else { continue };
        if reclaim(ctx, first, &observations).await {
            tokio::time::sleep(SETTLE).await;
        }
    }
}

/// What there is now. The images' file system counts as the node's own.
fn observe(ctx: &Context) -> Observations {
    let mut out = Observations::new();
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    if !text.is_empty() {
        let (capacity, available) = (meminfo(&text, "MemTotal"), meminfo(&text, "MemAvailable"));
        out.insert(Signal::MemoryAvailable, Observation { available, capacity });
    }
    if let Some(space) = disk(&ctx.config.root_dir) {
        let bytes = Observation { available: space.available, capacity: space.capacity };
        out.insert(Signal::NodefsAvailable, bytes);
        out.insert(Signal::ImagefsAvailable, bytes);
        if space.inodes > 0 {
            let inodes = Observation { available: space.inodes_free, capacity: space.inodes };
            out.insert(Signal::NodefsInodesFree, inodes);
            out.insert(Signal::ImagefsInodesFree, inodes);
        }
    }
    if let Some((capacity, running)) = pids() {
        out.insert(Signal::PidAvailable, Observation { available: capacity.saturating_sub(running), capacity });
    }
    out
}

fn pids() -> Option<(u64, u64)> {
    let max = std::fs::read_to_string("/proc/sys/kernel/pid_max").ok()?.trim().parse().ok()?;
    let load = std::fs::read_to_string("/proc/loadavg").ok()?;
    let running = load.split_whitespace().nth(3)?.split('/').nth(1)?.parse().ok()?;
    Some((max, running))
}

/// Whether a node under pressure takes a pod (upstream `managerImpl.Admit`).
pub fn admit(pressure: Pressure, pod: &Pod) -> Result<(), Rejection> {
    if !pressure.any() || spec::is_critical(pod) {
        return Ok(());
    }
    let only_memory = pressure == Pressure { memory: true, ..Pressure::default() };
    if only_memory && (qos(pod) != Qos::BestEffort || tolerates_memory_pressure(pod)) {
        return Ok(());
    }
    Err(Rejection {
        reason: "Evicted".to_owned(),
        message: format!("Pod was rejected: The node had condition: [{}]. ", pressure.names().join(" ")),
    })
}

fn tolerates_memory_pressure(pod: &Pod) -> bool {
    spec::spec(pod).tolerations.iter().flatten().any(|t| {
        let key = t.key.as_deref().unwrap_or_default();
        let operator = t.operator.as_deref().unwrap_or("Equal");
        let effect = t.effect.as_deref().unwrap_or_default();
        let value = t.value.as_deref().unwrap_or_default();
        (key == "node.kubernetes.io/memory-pressure" || (key.is_empty() && operator == "Exists"))
            && (operator == "Exists" || value.is_empty())
            && (effect.is_empty() || effect == "NoSchedule")
    })
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

/// Frees what the node can spare, or ends the pod that upstream would end first. Returns whether a pod is ending.
async fn reclaim(ctx: &Context, threshold: &Threshold, observations: &Observations) -> bool {
    let resource = threshold.signal.resource();
    let text = format!("Attempting to reclaim {resource}");
    ctx.events.node(EventType::Warning, "EvictionThresholdMet", &text);
    if threshold.signal.is_disk() {
        for slot in ctx.table.all() {
            execute::collect_dead(ctx, &ctx.cache.pod(&slot.uid)).await;
        }
        image_gc::remove_unused(ctx).await;
        let still = observe(ctx).get(&threshold.signal).is_some_and(|o| o.available < threshold.limit(o.capacity));
        if !still {
            tracing::info!(resource, "the node has enough again without ending a pod");
            return false;
        }
    }
    evict_one(ctx, threshold, observations).await
}

/// What uses more than it asked for goes first, then low priority, then how much more (`rankMemoryPressure` and others).
async fn evict_one(ctx: &Context, threshold: &Threshold, observations: &Observations) -> bool {
    let resource = threshold.signal.resource();
    let mut ranked = Vec::new();
    for slot in alive(ctx) {
        let pod = slot.pod();
        if spec::is_critical(&pod) {
            continue;
        }
        let usage = match threshold.signal {
            Signal::MemoryAvailable => stats_sum(ctx, &slot, |s| s.memory_working_set_bytes).await,
            Signal::PidAvailable => stats_sum(ctx, &slot, |s| s.pids).await,
            _ => disk_usage(ctx, &slot).await,
        };
        let request = resources::pod_total(&pod, resource, resources::request_value);
        let excess = i64::try_from(usage).unwrap_or(i64::MAX) - request;
        // Processes and inodes have no requests: there only priority and usage count.
        let exceeds = excess > 0 || matches!(resource, "pids" | "inodes");
        ranked.push((exceeds, spec::spec(&pod).priority.unwrap_or(0), excess, slot));
    }
    ranked.sort_by(|a, b| (b.0, a.1, b.2).cmp(&(a.0, b.1, a.2)));
    let Some((.., slot)) = ranked.into_iter().next() else {
        tracing::warn!(resource, "the node runs short, and no pod may be ended");
        return false;
    };
    let pod = slot.pod();
    let message = low_message(ctx, &slot, threshold, observations).await;
    let grace = match threshold.grace {
        None => 0,
        Some(_) => {
            let most = ctx.config.eviction_max_pod_grace_period;
            spec::spec(&pod).termination_grace_period_seconds.map_or(most, |own| own.min(most))
        }
    };
    tracing::warn!(pod = spec::full_name(&pod), resource, "ending a pod: the node runs short");
    evict(ctx, &slot, message, Some(grace));
    true
}

/// Upstream `evictionMessage`.
async fn low_message(ctx: &Context, slot: &Slot, threshold: &Threshold, observations: &Observations) -> String {
    let resource = threshold.signal.resource();
    let mut message = format!("The node was low on resource: {resource}. ");
    if let Some(seen) = observations.get(&threshold.signal) {
        let limit = threshold.limit(seen.capacity);
        message += &format!("Threshold quantity: {}, available: {}. ", binary(limit), binary(seen.available));
    }
    let pod = slot.pod();
    for container in ctx.cache.pod(&slot.uid).containers.iter().filter(|c| c.is_running()) {
        let Ok(stats) = ctx.runtime.stats(&container.id).await else { continue };
        let used = match resource {
            "memory" => stats.memory_working_set_bytes,
            "ephemeral-storage" => stats.rootfs_used_bytes,
            _ => continue,
        };
        let own = spec::find(&pod, &container.name).and_then(|(_, c)| c.resources);
        let request = resources::request(own.as_ref(), resource);
        let asked = request.and_then(resources::value).unwrap_or(0);
        if i64::try_from(used).unwrap_or(i64::MAX) > asked {
            let shown = request.map_or("0", |q| q.0.as_str());
            message += &format!(
                "Container {} was using {}, request is {shown}, has larger consumption of {resource}. ",
                container.name,
                binary(used),
            );
        }
    }
    message
}

/// As `resource.Quantity` prints bytes.
fn binary(n: u64) -> String {
    for (unit, suffix) in [(1 << 40, "Ti"), (1 << 30, "Gi"), (1 << 20, "Mi"), (1 << 10, "Ki")] {
        if n >= unit && n.is_multiple_of(unit) {
            return format!("{}{suffix}", n / unit);
        }
    }
    n.to_string()
}

async fn stats_sum(ctx: &Context, slot: &Slot, of: fn(&runtime::ContainerStats) -> u64) -> u64 {
    let mut sum = 0;
    for container in ctx.cache.pod(&slot.uid).containers.iter().filter(|c| c.is_running()) {
        if let Ok(stats) = ctx.runtime.stats(&container.id).await {
            sum += of(&stats);
        }
    }
    sum
}

fn evict(ctx: &Context, slot: &Slot, message: String, grace_seconds: Option<i64>) {
    ctx.events.pod(&slot.pod(), EventType::Warning, "Evicted", &message);
    let disruption = Some(("TerminationByKubelet".to_owned(), message.clone()));
    slot.evict(Eviction { reason: "Evicted".to_owned(), message, grace_seconds, disruption });
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
pub fn disk_used(folder: &Path) -> u64 {
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

/// `sizeLimit` of emptyDirs and limits on `ephemeral-storage` (upstream `localStorageEviction`). Returns whether a pod is
/// ending.
async fn local_limits(ctx: &Context) -> bool {
    let mut any = false;
    for slot in alive(ctx) {
        let pod = slot.pod();
        let mut why = over_volume_limit(ctx, &pod).await;
        if why.is_none() {
            why = over_pod_limit(ctx, &slot, &pod).await;
        }
        if why.is_none() {
            why = over_container_limit(ctx, &slot, &pod).await;
        }
        if let Some(message) = why {
            // Upstream gives such a pod a second.
            evict(ctx, &slot, message, Some(1));
            any = true;
        }
    }
    any
}

async fn over_pod_limit(ctx: &Context, slot: &Slot, pod: &Pod) -> Option<String> {
    let limit = resources::pod_total(pod, "ephemeral-storage", resources::limit_value);
    let everyone =
        spec::containers(pod).iter().all(|c| resources::limit(c.resources.as_ref(), "ephemeral-storage").is_some());
    if !everyone || limit <= 0 {
        return None;
    }
    let used = i64::try_from(disk_usage(ctx, slot).await).unwrap_or(i64::MAX);
    let shown = binary(u64::try_from(limit).unwrap_or(0));
    (used > limit).then(|| format!("Pod ephemeral local storage usage exceeds the total limit of containers {shown}. "))
}

async fn over_container_limit(ctx: &Context, slot: &Slot, pod: &Pod) -> Option<String> {
    for container in spec::containers(pod).iter().chain(spec::init_containers(pod)) {
        let Some(limit) = resources::limit(container.resources.as_ref(), "ephemeral-storage") else { continue };
        let bytes = resources::value(limit).filter(|n| *n > 0)?;
        let observed = ctx.cache.pod(&slot.uid);
        let Some(running) = observed.latest(&container.name).filter(|c| c.is_running()) else { continue };
        let Ok(stats) = ctx.runtime.stats(&running.id).await else { continue };
        let logs = ctx.config.pod_log_dir(spec::namespace(pod), spec::name(pod), &slot.uid).join(&container.name);
        let sum = stats.rootfs_used_bytes + used(vec![logs]).await;
        if i64::try_from(sum).unwrap_or(i64::MAX) > bytes {
            let name = &container.name;
            return Some(format!("Container {name} exceeded its local ephemeral storage limit {:?}. ", limit.0));
        }
    }
    None
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pod_from;
    use serde_json::json;

    #[test]
    fn a_node_under_pressure_takes_only_what_it_must() {
        let plain = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c"}]}});
        let mut asks = plain.clone();
        asks["spec"]["containers"][0]["resources"] = json!({"requests": {"memory": "1Mi"}});
        let mut tolerates = plain.clone();
        tolerates["spec"]["tolerations"] = json!([{"key": "node.kubernetes.io/memory-pressure", "operator": "Exists"}]);
        let mut critical = plain.clone();
        critical["spec"]["priority"] = 2_000_001_000.into();
        let memory = Pressure { memory: true, ..Pressure::default() };
        let disk = Pressure { disk: true, ..Pressure::default() };
        let check = |pressure, pod: &serde_json::Value, ok| {
            assert_eq!(admit(pressure, &pod_from(pod.clone())).is_ok(), ok, "{pressure:?} {pod}");
        };
        check(Pressure::default(), &plain, true);
        check(memory, &plain, false);
        check(memory, &asks, true);
        check(memory, &tolerates, true);
        check(disk, &asks, false);
        check(disk, &critical, true);
    }

    #[test]
    fn bytes_print_as_quantities() {
        assert_eq!((binary(1 << 20), binary(1536), binary(1000)), ("1Mi".into(), "1536".into(), "1000".into()));
    }
}
