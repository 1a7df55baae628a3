//! Ends leases when their time is over.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use base::{Backoff, Shutdown};

use super::desk::Desk;
use super::state::Shared;
use super::writer::Command;
use crate::store::StoreError;

/// Leases ended in one round.
const ROUND: usize = 512;

/// Sleeps until the next lease ends, and has the writer delete its keys.
pub(super) async fn expire(shared: Arc<Shared>, desk: Weak<Desk>, shutdown: Shutdown) {
    let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
    loop {
        let next = shared.leases.next_expiry();
        let due = async {
            match next {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            () = shared.leases.changed.notified() => continue,
            () = due => {}
        }
        match revoke_due(&shared, &desk).await {
            Ok(()) => backoff.reset(),
            Err(StoreError::Stopped) => return,
            Err(error) => {
                tracing::warn!(error = %base::chain(&error), "could not end leases");
                let again = Instant::now() + backoff.step();
                tokio::select! {
                    biased;
                    () = shutdown.cancelled() => return,
                    () = tokio::time::sleep_until(again) => {}
                }
            }
        }
    }
}

async fn revoke_due(shared: &Shared, desk: &Weak<Desk>) -> Result<(), StoreError> {
    for id in shared.leases.due(ROUND) {
        let (reply, answer) = oneshot::channel();
        let desk = desk.upgrade().ok_or(StoreError::Stopped)?;
        desk.leave(Command::Revoke { id, due_only: true, reply }).await?;
        drop(desk);
        match answer.await.map_err(|_| StoreError::Stopped)? {
            Ok(_) => tracing::debug!(lease = id.0, "lease expired"),
            // Kept alive or revoked in the meantime.
            Err(StoreError::LeaseNotFound) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
