//! One task for each pod: it is woken by changes, brings the pod one step closer to what is wanted, and sleeps.
//!
//! A pod goes through three states, as upstream's `pod_workers.go` has them: syncing, terminating (its containers are
//! being stopped; nothing is started any more) and terminated (all that it had is given back).

mod end;
mod sync;

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use k8s_openapi::api::core::v1::Pod;

use crate::context::Context;
use crate::execute::Memory;
use crate::spec;
use crate::status::publish::Published;
use crate::table::Slot;

/// Longest sleep of a pod's task: a full look backs up the events.
const RESYNC: Duration = Duration::from_secs(600);

/// The pod is wanted as given: starts its task unless there is one.
pub fn dispatch(ctx: &Arc<Context>, pod: Arc<Pod>) {
    if let Some(slot) = ctx.table.upsert(pod) {
        let ctx = ctx.clone();
        let tasks = ctx.tasks.clone();
        tasks.spawn(async move {
            let uid = slot.uid.clone();
            let run = std::panic::AssertUnwindSafe(run(ctx.clone(), slot)).catch_unwind().await;
            if run.is_err() {
                tracing::error!(uid, "the task of a pod panicked");
            }
            ctx.table.remove(&uid);
        });
    }
}

/// Whether the pod is to end: because it was deleted, has ended, or is evicted.
fn must_end(slot: &Slot) -> bool {
    let pod = slot.pod();
    slot.is_gone()
        || slot.eviction().is_some()
        || spec::is_deleted(&pod)
        || spec::is_terminal_phase(spec::status(&pod).phase.as_deref())
}

async fn run(ctx: Arc<Context>, slot: Arc<Slot>) {
    let mut published = Published::default();
    tokio::select! {
        biased;
        () = ctx.shutdown.cancelled() => return,
        () = live(&ctx, &slot) => {}
        () = publish_loop(&ctx, &slot, &mut published) => {}
    }
    // What is left to do for a pod that is over.
    tokio::select! {
        biased;
        () = ctx.shutdown.cancelled() => {}
        () = end::finish(&ctx, &slot, &mut published) => {}
    }
}

/// Returns when the pod has ended, was deleted, and everything it had on this node is gone.
async fn live(ctx: &Arc<Context>, slot: &Arc<Slot>) {
    let mut memory = Memory::default();
    while !must_end(slot) {
        // A step that waits (a pull, a hook) is left when the pod is to end.
        let step = sync::step(ctx, slot, &mut memory);
        tokio::select! {
            biased;
            () = until_must_end(slot) => {
                // The step may have been in the middle of making a container.
                if let Err(error) = ctx.cache.resync().await {
                    tracing::debug!(error = %base::chain(&error), "cannot read containers again");
                }
                break;
            }
            over = step => if over { break },
        }
        let pause = memory.retry_after.take().unwrap_or(RESYNC);
        tokio::select! {
            biased;
            () = slot.changed.notified() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
    end::terminate(ctx, slot, &memory).await;
    end::clean_up(ctx, slot).await;
}

/// Resolves once the pod is to end. Leaves other wake-ups for later.
async fn until_must_end(slot: &Slot) {
    let mut woken = false;
    loop {
        if must_end(slot) {
            break;
        }
        slot.changed.notified().await;
        woken = true;
        if !must_end(slot) {
            // The step under way reads the newest state only at its start: it has to run again.
            slot.again.store(true, std::sync::atomic::Ordering::Relaxed);
        }
    }
    if woken {
        slot.changed.notify_one();
    }
}

/// Sends the status whenever it changed; tries again when the API server cannot take it.
async fn publish_loop(ctx: &Context, slot: &Slot, published: &mut Published) {
    let mut backoff = base::Backoff::new(Duration::from_millis(200), Duration::from_secs(10)).with_jitter(0.2);
    loop {
        slot.status_changed.notified().await;
        while let Err(error) = publish(ctx, slot, published).await {
            if error.is_not_found() || error.is_conflict() {
                // Deleted meanwhile, or deleted and made anew: the informer will say so.
                break;
            }
            tracing::warn!(pod = spec::full_name(&slot.pod()), error = %base::chain(&error), "cannot publish status");
            tokio::time::sleep(backoff.step()).await;
        }
        backoff.reset();
    }
}

async fn publish(ctx: &Context, slot: &Slot, published: &mut Published) -> Result<(), client::Error> {
    let pod = slot.pod();
    let Some(status) = slot.status() else { return Ok(()) };
    if slot.is_gone() {
        return Ok(());
    }
    let target = if spec::is_static(&pod) {
        match ctx.pods.get(spec::namespace(&pod), spec::name(&pod)).filter(|m| spec::is_mirror(m)) {
            Some(mirror) => mirror,
            // It is published once its mirror is there.
            None => return Ok(()),
        }
    } else {
        pod
    };
    published.note(&target);
    published.publish(&ctx.client, &target, &status).await.map(drop)
}

#[cfg(test)]
#[path = "workers_tests.rs"]
mod tests;
