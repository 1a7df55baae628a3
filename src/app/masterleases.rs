//! Which API servers of a shared datastore are alive, and the endpoints of the Service `kubernetes` made from that
//! (`pkg/controlplane/reconcilers/lease.go`): each server keeps a key that ends with its lease.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use base::Shutdown;
use client::Client;
use serde_json::json;
use storage::{KeyRange, LeaseId, Op, Put, RangeOptions, Store, StoreError, Txn};

use crate::bootstrap;

/// Upstream's `DefaultEndpointReconcilerInterval` and `DefaultEndpointReconcilerTTL`.
const EVERY: Duration = Duration::from_secs(10);
const TTL_SECONDS: i64 = 15;
const PREFIX: &str = "/registry/masterleases/";

/// The addresses of the servers that are alive, in order.
pub async fn alive(store: &dyn Store) -> Result<Vec<IpAddr>, StoreError> {
    let options = RangeOptions { keys_only: true, ..RangeOptions::default() };
    let found = store.range(KeyRange::prefix(PREFIX), options).await?;
    let address = |key: &[u8]| std::str::from_utf8(&key[PREFIX.len()..]).ok()?.parse::<IpAddr>().ok();
    let mut all: Vec<IpAddr> = found.kvs.iter().filter_map(|kv| address(&kv.key)).collect();
    all.sort();
    Ok(all)
}

/// This server's entry.
pub struct MasterLease {
    store: Arc<dyn Store>,
    own: IpAddr,
    port: u16,
    lease: LeaseId,
    /// What was published last.
    published: Vec<IpAddr>,
}

impl MasterLease {
    /// Enters this server; answers with the addresses of all.
    pub async fn enter(store: Arc<dyn Store>, own: IpAddr, port: u16) -> Result<(Self, Vec<IpAddr>), StoreError> {
        let mut entry = Self { store, own, port, lease: LeaseId(0), published: Vec::new() };
        let all = entry.renew().await?;
        entry.published.clone_from(&all);
        Ok((entry, all))
    }

    async fn renew(&mut self) -> Result<Vec<IpAddr>, StoreError> {
        let renewed = match self.lease {
            LeaseId(0) => Err(StoreError::LeaseNotFound),
            lease => self.store.lease_keep_alive(lease).await,
        };
        match renewed {
            Ok(_) => {}
            Err(StoreError::LeaseNotFound) => {
                self.lease = self.store.lease_grant(LeaseId(0), TTL_SECONDS).await?.id;
                // Upstream keeps an Endpoints object there, and reads the address out of it.
                let value = json!({
                    "kind": "Endpoints", "apiVersion": "v1", "metadata": {},
                    "subsets": [{"addresses": [{"ip": self.own}]}],
                });
                let key = format!("{PREFIX}{}", self.own).into();
                let put = Put { key, value: value.to_string().into(), lease: self.lease, ..Put::default() };
                self.store.txn(Txn { success: vec![Op::Put(put)], ..Txn::default() }).await?;
            }
            Err(error) => return Err(error),
        }
        alive(&*self.store).await
    }

    /// Keeps the entry and the published endpoints up to date, until `shutdown`; then takes the entry back.
    pub async fn run(mut self, client: Client, shutdown: Shutdown) {
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                () = tokio::time::sleep(EVERY) => {}
            }
            match self.renew().await {
                Ok(all) => self.publish(&client, all).await,
                Err(error) => {
                    tracing::warn!(error = %base::chain(&error), "cannot renew this server's entry in the datastore");
                }
            }
        }
        if let Err(error) = self.store.lease_revoke(self.lease).await {
            tracing::warn!(error = %base::chain(&error), "cannot take this server's entry back");
        }
        let others: Vec<IpAddr> = self.published.iter().copied().filter(|address| *address != self.own).collect();
        if !others.is_empty() {
            self.publish(&client, others).await;
        }
    }

    async fn publish(&mut self, client: &Client, all: Vec<IpAddr>) {
        if all == self.published || all.is_empty() {
            return;
        }
        match bootstrap::publish_api_servers(client, &all, self.port).await {
            Ok(()) => self.published = all,
            Err(error) => tracing::warn!(error = %base::chain(&error), "cannot publish the API servers' addresses"),
        }
    }
}
