//! Follows a key prefix of the store and hands every change to a closure: what RBAC and the Node authoriser index.

use std::sync::Arc;
use std::time::Duration;

use base::{Backoff, Shutdown};
use storage::{EventKind, KeyRange, RangeOptions, Revision, Store, StoreError, WatchMessage, WatchOptions};

/// A change to an indexed object. The key is without the prefix: `namespace/name` or `name`.
pub enum Change<'a> {
    /// The index starts over; every object follows as a `Put`.
    Reset,
    Put {
        key: &'a str,
        value: &'a [u8],
    },
    Delete {
        key: &'a str,
    },
}

/// Applies everything under `prefix` and its changes to `apply`, until `shutdown`. `reached` is told the revision up to
/// which everything has been applied, whenever that is known.
pub async fn follow(
    store: Arc<dyn Store>,
    prefix: String,
    apply: impl Fn(Change<'_>) + Send,
    reached: impl Fn(Revision) + Send,
    shutdown: Shutdown,
) {
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(5)).with_jitter(0.2);
    loop {
        let result = tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            result = pass(store.as_ref(), &prefix, &apply, &reached) => result,
        };
        if let Err(error) = result {
            tracing::warn!(prefix, error = %base::chain(&error), "cannot follow the store; trying again");
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(backoff.step()) => {}
            }
        } else {
            backoff.reset();
        }
    }
}

/// One list and the watch from it; returns when the watch ends and the list must be taken again.
async fn pass(
    store: &dyn Store,
    prefix: &str,
    apply: &(impl Fn(Change<'_>) + Send),
    reached: &(impl Fn(Revision) + Send),
) -> Result<(), StoreError> {
    let range = KeyRange::prefix(prefix.to_owned());
    let listed = store.range(range.clone(), RangeOptions::default()).await?;
    apply(Change::Reset);
    for kv in &listed.kvs {
        if let Some(key) = relative(&kv.key, prefix) {
            apply(Change::Put { key, value: &kv.value });
        }
    }
    reached(listed.revision);
    let start = Revision(listed.revision.0 + 1);
    let mut watch = store.watch(range, WatchOptions { start, prev_kv: false }).await?;
    while let Some(message) = watch.messages.recv().await {
        match message {
            WatchMessage::Events { events, revision } => {
                for event in events.iter() {
                    let Some(key) = relative(&event.kv.key, prefix) else { continue };
                    match event.kind {
                        EventKind::Put => apply(Change::Put { key, value: &event.kv.value }),
                        EventKind::Delete => apply(Change::Delete { key }),
                    }
                }
                reached(revision);
            }
            WatchMessage::Progress(revision) => reached(revision),
            WatchMessage::Compacted(_) | WatchMessage::Lagged => break,
        }
    }
    Ok(())
}

fn relative<'k>(key: &'k [u8], prefix: &str) -> Option<&'k str> {
    std::str::from_utf8(key).ok()?.strip_prefix(prefix)
}
