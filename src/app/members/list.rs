//! Which members the cluster has, told to every server when it changes.
//!
//! etcd tells nobody when its members change, so whoever changes them (a server that joins, a learner that gets its vote,
//! `skiff datastore remove-member`) writes a key, which every server watches. What the key holds does not matter: who is
//! told asks the cluster.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use base::{Backoff, Shutdown};
use storage::etcd::EtcdCluster;
use storage::{EtcdStore, KeyRange, Revision, Store, WatchMessage, WatchOptions};

use crate::datastore;
use crate::options::DatastoreOptions;

const CHANGED: &str = "skiff/members";

/// Tells every server that the members are others now.
pub(crate) async fn tell(cluster: &EtcdCluster) -> anyhow::Result<()> {
    let names: Vec<String> = cluster.list().await?.into_iter().map(|member| member.name).collect();
    cluster.put(CHANGED, &names.join(",")).await.context("cannot tell the other servers which members there are")
}

/// Keeps `store` able to fail over between the members there are.
pub(super) struct MemberList {
    pub datastore: DatastoreOptions,
    /// The own member's endpoint on this machine, which is asked first.
    pub local: String,
    /// Its endpoint for others.
    pub own: String,
    /// Where the others' endpoints are kept for the next start.
    pub file: PathBuf,
}

impl MemberList {
    /// Follows the members until `shutdown`.
    pub async fn follow(self, store: Arc<EtcdStore>, shutdown: Shutdown) {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(30)).with_jitter(0.2);
        let mut from = Revision(0);
        loop {
            let followed = tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                followed = self.follow_once(&store, &mut from, || backoff.reset()) => followed,
            };
            if let Err(error) = followed {
                tracing::warn!(error = format!("{error:#}"), "cannot tell which members the datastore has");
            }
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(backoff.step()) => {}
            }
        }
    }

    /// Until the watch ends.
    async fn follow_once(
        &self,
        store: &Arc<EtcdStore>,
        from: &mut Revision,
        mut good: impl FnMut(),
    ) -> anyhow::Result<()> {
        let options = WatchOptions { start: Revision(0), prev_kv: false };
        let mut watch = store.watch(KeyRange::key(CHANGED), options).await?;
        // What changed while nobody watched.
        self.take(store).await?;
        good();
        while let Some(message) = watch.messages.recv().await {
            match message {
                WatchMessage::Events { revision, .. } if revision > *from => {
                    *from = revision;
                    self.take(store).await?;
                }
                WatchMessage::Events { .. } | WatchMessage::Progress(_) => {}
                WatchMessage::Compacted(_) | WatchMessage::Lagged => break,
            }
        }
        Ok(())
    }

    /// Asks the cluster for its members and takes them over.
    async fn take(&self, store: &Arc<EtcdStore>) -> anyhow::Result<()> {
        let found = endpoints(&self.datastore).await?;
        // A server that has not joined completely is told again.
        if found.is_empty() {
            return Ok(());
        }
        let mut all = vec![self.local.clone()];
        all.extend(found.iter().filter(|endpoint| **endpoint != self.own).cloned());
        if store.set_endpoints(&all)? {
            tracing::info!(endpoints = found.join(","), "the datastore's members are others now");
        }
        let text = found.join(",");
        if pki::files::read_opt(&self.file)?.as_deref() != Some(&text) {
            pki::files::write(&self.file, &text, pki::files::PRIVATE)?;
        }
        Ok(())
    }
}

/// Client addresses of all members, in order.
pub(super) async fn endpoints(options: &DatastoreOptions) -> anyhow::Result<Vec<String>> {
    let tls = datastore::client_tls(options)?;
    let cluster = EtcdCluster::new(&options.datastore_endpoint, tls.as_ref())?;
    let mut found: Vec<String> = cluster.list().await?.into_iter().flat_map(|member| member.client_urls).collect();
    found.sort();
    Ok(found)
}
