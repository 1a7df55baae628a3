//! The task that fills a cache from the store: list, then watch from there.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use base::{Backoff, chain};
use storage::{KeyRange, RangeOptions, Revision, StoreError, WatchOptions};

use super::Cache;
use super::entry::Entry;

/// Keys in one read of the first list, so that the store's answers stay small.
const PAGE: usize = 1000;

impl Cache {
    /// Keeps the cache fed until shutdown.
    pub(super) async fn run(self: Arc<Self>) {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(5)).with_jitter(0.2);
        loop {
            let round = async {
                match self.resume().await {
                    Ok(()) => self.follow(&mut backoff).await,
                    Err(error) => {
                        tracing::warn!(prefix = self.prefix, error = %chain(&error), "cannot read the store for the watch cache");
                        tokio::time::sleep(backoff.step()).await;
                    }
                }
            };
            tokio::select! {
                biased;
                () = self.shutdown.cancelled() => break,
                () = round => {}
            }
        }
        let mut state = self.state.lock();
        state.queue = None;
        state.watchers.clear();
    }

    /// Watches from the last revision seen; watches and then lists if there is none or the store no longer has it.
    ///
    /// A watch from now on is live at once: what the store acknowledges is in its queue. One that begins in the past is
    /// not, until the store says so with a `Progress`.
    async fn resume(&self) -> Result<(), StoreError> {
        let range = KeyRange::prefix(self.prefix.clone().into_bytes());
        let from = {
            let state = self.state.lock();
            state.synced.then_some(state.revision + 1)
        };
        let options = WatchOptions { start: Revision(from.unwrap_or_default()), prev_kv: false };
        let watch = match self.store.watch(range, options).await {
            Ok(watch) => watch,
            Err(StoreError::Compacted { .. }) => {
                self.state.lock().synced = false;
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        if from.is_none() {
            self.first_list().await?;
        }
        let revision = {
            let mut state = self.state.lock();
            state.queue = Some(watch.messages);
            state.live = from.is_none_or(|from| watch.revision.0 < from);
            state.synced = true;
            state.revision
        };
        self.announce(revision);
        Ok(())
    }

    async fn first_list(&self) -> Result<(), StoreError> {
        let mut entries = BTreeMap::new();
        let mut range = KeyRange::prefix(self.prefix.clone().into_bytes());
        let mut revision = Revision(0);
        loop {
            let options = RangeOptions { revision, limit: PAGE, ..RangeOptions::default() };
            let page = self.store.range(range.clone(), options).await?;
            if revision.0 == 0 {
                revision = page.revision;
            }
            if let Some(last) = page.kvs.last() {
                let mut next = last.key.to_vec();
                next.push(0);
                range.start = next.into();
            }
            for kv in page.kvs {
                let key = kv.key.strip_prefix(self.prefix.as_bytes()).and_then(|k| std::str::from_utf8(k).ok());
                let entry = key.and_then(|key| Entry::new(key, &kv.value, kv.mod_revision.0));
                match entry {
                    Some(entry) => drop(entries.insert(entry.key.clone(), Arc::new(entry))),
                    None => tracing::error!(
                        prefix = self.prefix,
                        key = %String::from_utf8_lossy(&kv.key),
                        "stored value is no JSON object; it is left out"
                    ),
                }
            }
            if !page.more {
                break;
            }
        }
        self.state.lock().install(entries, revision);
        Ok(())
    }

    /// Applies messages as they come, until the queue closes.
    async fn follow(&self, backoff: &mut Backoff) {
        loop {
            let message = poll_fn(|cx| {
                let mut state = self.state.lock();
                state.feed = Some(cx.waker().clone());
                let Some(queue) = state.queue.as_mut() else { return Poll::Ready(None) };
                match queue.poll_recv(cx) {
                    Poll::Pending => Poll::Pending,
                    Poll::Ready(None) => {
                        state.queue = None;
                        Poll::Ready(None)
                    }
                    Poll::Ready(Some(message)) => {
                        self.apply(&mut state, message);
                        Poll::Ready(Some(()))
                    }
                }
            })
            .await;
            match message {
                Some(()) => backoff.reset(),
                None => return,
            }
        }
    }
}
