//! Leases for objects that expire, reused by neighbours in time (apiserver `etcd3/lease_manager.go`).

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use storage::{LeaseId, Store, StoreError};
use tokio::time::Instant;

/// A lease serves writes of this long, and lives that much longer than asked.
const REUSE: Duration = Duration::from_secs(60);
/// Keys on one lease, so that an expiry is no storm.
const KEYS_MAX: u32 = 1000;

pub struct Leases {
    store: Arc<dyn Store>,
    current: Mutex<Option<Current>>,
}

struct Current {
    id: LeaseId,
    ttl: Duration,
    until: Instant,
    keys: u32,
}

impl Leases {
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store, current: Mutex::new(None) }
    }

    /// A lease that lives at least `ttl` from now.
    pub async fn lease(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        let now = Instant::now();
        {
            let mut current = self.current.lock();
            if let Some(current) = &mut *current
                && current.ttl == ttl
                && current.until > now
                && current.keys < KEYS_MAX
            {
                current.keys += 1;
                return Ok(current.id);
            }
        }
        let seconds = (ttl + REUSE).as_secs();
        let granted = self.store.lease_grant(LeaseId(0), i64::try_from(seconds).unwrap_or(i64::MAX)).await?;
        *self.current.lock() = Some(Current { id: granted.id, ttl, until: now + REUSE, keys: 1 });
        Ok(granted.id)
    }
}
