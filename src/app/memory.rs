//! Keeps the process small. glibc's allocator gives each thread an arena of its own and holds on to what was freed: after a burst of
//! requests several times of what is in use stays with the process.

use std::sync::Arc;
use std::time::Duration;

use apiserver::ApiServer;
use base::Shutdown;

use crate::sys;

/// How long after a burst memory is given back, so that a burst that goes on pays for it rarely.
const TRIM_AFTER: Duration = Duration::from_secs(5);

/// Bounds the number of arenas. To be called before the first thread is started.
pub fn configure() {
    sys::limit_arenas();
}

/// Gives freed memory back to the system after each burst of requests, and once after the start.
pub async fn trim_after_bursts(api: Arc<ApiServer>, shutdown: Shutdown) {
    loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(TRIM_AFTER) => {}
        }
        // A blocking thread, because arenas are locked while they are walked.
        if let Err(error) = tokio::task::spawn_blocking(sys::trim).await {
            tracing::error!(error = &error as &dyn std::error::Error, "giving memory back failed");
        }
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            () = api.burst() => {}
        }
    }
}
