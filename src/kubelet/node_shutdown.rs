//! Ending the pods in good order when the node goes down (upstream `kubelet/nodeshutdown`).
//!
//! Only when `shutdown-grace-period` is set: otherwise pods go on running while skiff restarts. The order to stop is the
//! signal that the process gets; systemd's own delay is not asked for.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::context::Context;
use crate::spec;
use crate::table::{Eviction, Slot};

/// Upstream's `nodeShutdownReason` and `nodeShutdownMessage`.
const REASON: &str = "Terminated";
const MESSAGE: &str = "Pod was terminated in response to imminent node shutdown.";

/// Ends all pods: the ordinary ones first, then the critical ones, each within its share of the grace period.
pub async fn run(ctx: &Arc<Context>) {
    let whole = ctx.config.shutdown_grace;
    let critical_share = ctx.config.shutdown_grace_critical.min(whole);
    tracing::info!(seconds = whole.as_secs(), "the node shuts down: ending its pods");
    ctx.shutting_down.store(true, Ordering::Relaxed);
    ctx.node_changed.notify_one();
    let (critical, ordinary): (Vec<_>, Vec<_>) =
        ctx.table.taken().into_iter().partition(|slot| spec::is_critical(&slot.pod()));
    end(ordinary, whole - critical_share).await;
    end(critical, critical_share).await;
}

async fn end(slots: Vec<Arc<Slot>>, within: Duration) {
    if slots.is_empty() {
        return;
    }
    let most = i64::try_from(within.as_secs()).unwrap_or(i64::MAX);
    for slot in &slots {
        let own = spec::spec(&slot.pod()).termination_grace_period_seconds.unwrap_or(most);
        slot.evict(Eviction {
            reason: REASON.to_owned(),
            message: MESSAGE.to_owned(),
            grace_seconds: Some(own.min(most)),
            disruption: Some(("TerminationByKubelet".to_owned(), MESSAGE.to_owned())),
        });
    }
    let all_ended = async {
        for slot in &slots {
            slot.ended().await;
        }
    };
    if tokio::time::timeout(within, all_ended).await.is_err() {
        let left = slots.iter().filter(|slot| !slot.has_ended()).count();
        tracing::warn!(left, "pods did not end within the grace period of the node's shutdown");
    }
}
