//! The task that fills a cache from the store: list, then watch from there.

use std::collections::{BTreeMap, HashMap};
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use base::{Backoff, chain};
use bytes::Bytes;
use storage::{KeyRange, RangeOptions, Revision, StoreError, WatchOptions};
use tokio::time::Instant;

use super::Cache;
use super::entry::Entry;
use super::unreadable::{Unreadable, UnreadableKeys};

/// Keys in one read of the first list, so that the store's answers stay small.
const PAGE: usize = 1000;
/// How long after a value could not be read it is tried again.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

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
            let began = Instant::now();
            self.first_list().await?;
            self.stats.initialized(began.elapsed());
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
        let (mut entries, mut unreadable) = (BTreeMap::new(), UnreadableKeys::new());
        let mut range = KeyRange::prefix(self.prefix.clone().into_bytes());
        let mut revision = Revision(0);
        loop {
            let options = RangeOptions { revision, limit: PAGE, ..RangeOptions::default() };
            let (page, failed) = self.store.range_readable(range.clone(), options).await?;
            let failed: HashMap<Bytes, String> = failed.into_iter().map(|f| (f.key, f.why)).collect();
            if revision.0 == 0 {
                revision = page.revision;
            }
            if let Some(last) = page.kvs.last() {
                let mut next = last.key.to_vec();
                next.push(0);
                range.start = next.into();
            }
            for kv in page.kvs {
                let Some(key) = kv.key.strip_prefix(self.prefix.as_bytes()).and_then(|k| std::str::from_utf8(k).ok())
                else {
                    tracing::error!(key = %String::from_utf8_lossy(&kv.key), "a key is no text; it is left out");
                    continue;
                };
                let revision = kv.mod_revision.0;
                let found = match failed.get(&kv.key) {
                    Some(why) => Err(Unreadable::untransformable(revision, why)),
                    None => {
                        Entry::new(key, &kv.value, revision).ok_or_else(|| Unreadable::undecodable(revision, &kv.value))
                    }
                };
                match found {
                    Ok(entry) => drop(entries.insert(entry.key.clone(), Arc::new(entry))),
                    Err(found) => drop(unreadable.insert(key.into(), found)),
                }
            }
            if !page.more {
                break;
            }
        }
        let mut state = self.state.lock();
        for (key, found) in &unreadable {
            if state.unreadable.get(key) != Some(found) {
                self.tell_unreadable(key, found);
            }
        }
        state.install(entries, unreadable, revision);
        Ok(())
    }

    /// Says once what cannot be read and what helps.
    pub(super) fn tell_unreadable(&self, key: &str, found: &Unreadable) {
        tracing::error!(
            prefix = self.prefix,
            key,
            revision = found.revision,
            error = found.why,
            "a stored value cannot be read: give its provider and key back in the encryption configuration, or delete \
             it with ignoreStoreReadErrorWithClusterBreakingPotential"
        );
    }

    /// Whether the first of the values that could not be read can be, or is gone: a key has come back, or a plugin
    /// answers.
    async fn readable_again(&self) -> bool {
        let first = self.state.lock().unreadable.keys().next().cloned();
        let Some(key) = first else { return true };
        let range = KeyRange::key(format!("{}{key}", self.prefix).into_bytes());
        match self.store.range_readable(range, RangeOptions::default()).await {
            Ok((found, failed)) => {
                failed.is_empty() && found.kvs.first().is_none_or(|kv| Entry::new(&key, &kv.value, 1).is_some())
            }
            // The feed finds out by itself when the store has gone.
            Err(_) => false,
        }
    }

    /// Applies messages as they come, until the queue closes.
    async fn follow(&self, backoff: &mut Backoff) {
        let mut look_at = None;
        loop {
            let some = !self.state.lock().unreadable.is_empty();
            look_at = some.then(|| look_at.unwrap_or_else(|| Instant::now() + LOOK_AGAIN));
            let look = async {
                match look_at {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
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
            });
            let message = tokio::select! {
                biased;
                message = message => message,
                () = look => {
                    look_at = None;
                    if self.readable_again().await {
                        let mut state = self.state.lock();
                        state.synced = false;
                        state.queue = None;
                        return;
                    }
                    continue;
                }
            };
            match message {
                Some(()) => backoff.reset(),
                None => return,
            }
        }
    }
}
