//! The end of a pod: stopping its containers, giving back what it had, deleting it from the API (upstream
//! `kubelet.go` `SyncTerminatingPod` and `SyncTerminatedPod`, `status_manager.go` `canBeDeleted`).

use std::sync::Arc;
use std::time::Duration;

use base::Backoff;
use client::DeleteParams;
use k8s_openapi::api::core::v1::Pod;

use super::{publish, sync};
use crate::context::Context;
use crate::execute::{self, Memory, kill};
use crate::observed::State;
use crate::resize::allocation;
use crate::status::publish::Published;
use crate::table::Slot;
use crate::{spec, volumes};

fn backoff() -> Backoff {
    Backoff::new(Duration::from_millis(100), Duration::from_secs(10)).with_jitter(0.2)
}

/// Seconds the pod still has, when something overrules what its containers would get.
fn grace_override(slot: &Slot) -> Option<i64> {
    let pod = slot.pod();
    let evicted = slot.eviction().and_then(|e| e.grace_seconds);
    let deleted = pod.metadata.deletion_grace_period_seconds;
    match (evicted, deleted) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// Stops all containers; a shorter grace period that comes meanwhile counts.
pub(super) async fn terminate(ctx: &Arc<Context>, slot: &Arc<Slot>, memory: &Memory) {
    let mut backoff = backoff();
    ctx.probes.stop_liveness(&slot.uid);
    loop {
        let pod = slot.pod();
        let observed = ctx.cache.pod(&slot.uid);
        sync::report(ctx, slot, &pod, &observed, memory, false);
        let grace = grace_override(slot);
        let stop = kill::pod(ctx, &pod, &observed, grace);
        let done = tokio::select! {
            biased;
            () = shorter(ctx, slot, grace, memory) => continue,
            done = stop => done,
        };
        if done && ctx.cache.pod(&slot.uid).containers.iter().all(|c| !matches!(c.state, State::Running { .. })) {
            break;
        }
        tokio::time::sleep(backoff.step()).await;
        refresh_all(ctx, slot).await;
    }
    // No more probes: the containers are gone.
    let observed = ctx.cache.pod(&slot.uid);
    ctx.probes.release(&slot.uid);
    execute::disconnect(ctx, &slot.pod()).await;
    sync::report(ctx, slot, &slot.pod(), &ctx.cache.pod(&slot.uid), memory, true);
    drop(observed);
}

async fn refresh_all(ctx: &Context, slot: &Slot) {
    for container in ctx.cache.pod(&slot.uid).containers {
        execute::container::refresh(ctx, &container.id).await;
    }
}

/// Resolves when the pod's grace period became shorter; reports the status on other changes.
async fn shorter(ctx: &Context, slot: &Slot, grace: Option<i64>, memory: &Memory) {
    loop {
        slot.changed.notified().await;
        let now = grace_override(slot);
        if now.is_some_and(|n| grace.is_none_or(|g| n < g)) {
            return;
        }
        sync::report(ctx, slot, &slot.pod(), &ctx.cache.pod(&slot.uid), memory, false);
    }
}

/// Gives back volumes, cgroup and watches; then waits until the pod is deleted, and removes the rest.
pub(super) async fn clean_up(ctx: &Arc<Context>, slot: &Arc<Slot>) {
    let mut backoff = backoff();
    while let Err(error) = volumes::tear_down(ctx, &slot.uid).await {
        tracing::warn!(uid = slot.uid, error = %base::chain(&error), "cannot tear down volumes");
        tokio::time::sleep(backoff.step()).await;
    }
    ctx.config_maps.release(&slot.uid);
    ctx.secrets.release(&slot.uid);
    ctx.tokens.release(&slot.uid);
    ctx.certificates.release(&slot.uid);
    ctx.claims.release(&slot.uid);
    ctx.csi.release(&slot.uid);
    ctx.images.release(&slot.uid);
    remove_cgroup(ctx, &slot.uid).await;
    allocation::wake_deferred(ctx, &slot.uid);
    slot.set_ended();
    while !slot.is_gone() && !spec::is_deleted(&slot.pod()) {
        slot.changed.notified().await;
        slot.status_changed.notify_one();
    }
    remove_all(ctx, &slot.uid).await;
}

/// Removes the pod's containers and namespaces, and its cgroup with what may be left in it.
async fn remove_all(ctx: &Context, uid: &str) {
    let mut backoff = backoff();
    loop {
        let mut left = false;
        for container in ctx.cache.pod(uid).containers {
            left |= !execute::remove_container(ctx, &container.id).await;
        }
        if !left {
            match execute::remove_sandbox(ctx, uid).await {
                Ok(()) => break,
                Err(error) => {
                    tracing::warn!(uid, error = %base::chain(&error), "cannot remove pod sandbox");
                }
            }
        }
        tokio::time::sleep(backoff.step()).await;
        if let Err(error) = ctx.cache.resync().await {
            tracing::debug!(error = %base::chain(&error), "cannot read containers again");
        }
    }
    remove_cgroup(ctx, uid).await;
}

async fn remove_cgroup(ctx: &Context, uid: &str) {
    let mut backoff = backoff();
    for attempt in 0..5 {
        match ctx.cgroups.remove_pod(uid) {
            Ok(()) => return,
            // The kernel takes a moment to let go of a process that has ended.
            Err(error) if attempt == 4 => {
                tracing::warn!(uid, error = %base::chain(&error), "cannot remove the pod's cgroup");
            }
            Err(_) => tokio::time::sleep(backoff.step()).await,
        }
    }
}

/// Publishes the last status and deletes the pod from the API; removes its logs.
pub(super) async fn finish(ctx: &Context, slot: &Slot, published: &mut Published) {
    let mut backoff = backoff();
    while !slot.is_gone() {
        let pod = slot.pod();
        let result = match publish(ctx, slot, published).await {
            // Its mirror follows the manifest.
            Ok(()) if spec::is_static(&pod) => break,
            Ok(()) => delete(ctx, &pod).await,
            Err(error) if error.is_invalid() || error.is_forbidden() => {
                // The last status is lost, but the pod must not stay for ever.
                tracing::warn!(pod = spec::full_name(&pod), error = %base::chain(&error), "last status refused");
                delete(ctx, &pod).await
            }
            Err(error) => Err(error),
        };
        match result {
            Ok(()) => break,
            Err(error) if error.is_not_found() || error.is_conflict() => break,
            Err(error) => {
                tracing::warn!(pod = spec::full_name(&pod), error = %base::chain(&error), "cannot delete pod");
                tokio::time::sleep(backoff.step()).await;
            }
        }
    }
    remove_logs(ctx, &slot.pod()).await;
}

/// The node agent's word that nothing of the pod is left here.
async fn delete(ctx: &Context, pod: &Pod) -> Result<(), client::Error> {
    let options = DeleteParams::uid(spec::uid(pod)).grace(0);
    ctx.client.delete::<Pod>(spec::namespace(pod), spec::name(pod), &options).await
}

async fn remove_logs(ctx: &Context, pod: &Pod) {
    let folder = ctx.config.pod_log_dir(spec::namespace(pod), spec::name(pod), spec::uid(pod));
    if let Err(error) = tokio::fs::remove_dir_all(&folder).await
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(path = %folder.display(), error = %error, "cannot remove logs");
    }
    let Some(links) = ctx.config.container_log_dir.clone() else { return };
    let prefix = format!("{}_{}_", spec::name(pod), spec::namespace(pod));
    let Ok(mut entries) = tokio::fs::read_dir(&links).await else { return };
    while let Ok(Some(entry)) = entries.next_entry().await {
        let ours = entry.file_name().to_string_lossy().starts_with(&prefix);
        // Links of another pod of this name lead to logs that are there.
        if ours && tokio::fs::metadata(entry.path()).await.is_err() {
            let removed = tokio::fs::remove_file(entry.path()).await;
            if let Err(error) = removed {
                tracing::debug!(path = %entry.path().display(), error = %error, "cannot remove log link");
            }
        }
    }
}
