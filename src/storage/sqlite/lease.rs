//! Leases: which exist, when they end, and which keys end with them.
//!
//! A lease is granted and kept alive in memory. It is written to disk with the first durable key that carries it, so
//! that leases on ephemeral keys cost no disk; after a restart every lease has its whole time again, as with etcd.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::metrics::{Histogram, Page};
use crate::store::{Event, EventKind, LeaseId, LeaseStatus, StoreError};

/// Seconds; etcd's `MaxLeaseTTL`.
pub const TTL_MAX: i64 = 9_000_000_000;
/// Seconds; etcd's `minLeaseTTL` with its default election timeout.
const TTL_MIN: i64 = 2;
/// etcd's bounds of `lease_ttl_total` (server/lease/metrics.go): one second and twice as much, 24 times.
const TTL_SECONDS: [f64; 24] = [
    1., 2., 4., 8., 16., 32., 64., 128., 256., 512., 1024., 2048., 4096., 8192., 16384., 32768., 65536., 131072.,
    262144., 524288., 1048576., 2097152., 4194304., 8388608.,
];

/// The leases of one store.
pub(super) struct Leases {
    state: Mutex<State>,
    /// The next expiry may have become earlier.
    pub changed: Notify,
    counted: Counted,
}

/// What has happened since the start.
struct Counted {
    granted: AtomicU64,
    renewed: AtomicU64,
    revoked: AtomicU64,
    ttls: Histogram,
}

#[derive(Default)]
struct State {
    leases: HashMap<i64, Lease>,
    expiries: BTreeSet<(Instant, i64)>,
}

struct Lease {
    ttl: i64,
    expiry: Instant,
    keys: BTreeSet<Bytes>,
    persisted: bool,
}

impl Leases {
    /// `persisted`: id and TTL of leases on disk. `keys`: lease and key.
    pub(super) fn new(persisted: Vec<(i64, i64)>, keys: Vec<(i64, Bytes)>) -> Self {
        let mut state = State::default();
        for (id, ttl) in persisted {
            state.insert(id, ttl, true);
        }
        for (id, key) in keys {
            if let Some(lease) = state.leases.get_mut(&id) {
                lease.keys.insert(key);
            }
        }
        let counted = Counted {
            granted: AtomicU64::new(0),
            renewed: AtomicU64::new(0),
            revoked: AtomicU64::new(0),
            ttls: Histogram::new(&TTL_SECONDS),
        };
        Self { state: Mutex::new(state), changed: Notify::new(), counted }
    }

    pub(super) fn grant(&self, id: LeaseId, ttl: i64) -> Result<LeaseStatus, StoreError> {
        if ttl > TTL_MAX {
            return Err(StoreError::TooLarge);
        }
        let ttl = ttl.max(TTL_MIN);
        let mut state = self.state.lock();
        let id = if id.0 == 0 { state.free_id() } else { id.0 };
        if state.leases.contains_key(&id) {
            return Err(StoreError::LeaseExists);
        }
        let earliest = state.insert(id, ttl, false);
        drop(state);
        self.counted.granted.fetch_add(1, Ordering::Relaxed);
        self.counted.ttls.observe(ttl as f64);
        if earliest {
            self.changed.notify_one();
        }
        Ok(LeaseStatus { id: LeaseId(id), granted_ttl: ttl, ttl, keys: Vec::new() })
    }

    /// Gives the lease its whole time again; answers with that time in seconds.
    pub(super) fn keep_alive(&self, id: LeaseId) -> Result<i64, StoreError> {
        let now = Instant::now();
        let mut state = self.state.lock();
        let State { leases, expiries } = &mut *state;
        let lease = leases.get_mut(&id.0).filter(|lease| lease.expiry > now).ok_or(StoreError::LeaseNotFound)?;
        expiries.remove(&(lease.expiry, id.0));
        lease.expiry = expiry(now, lease.ttl);
        expiries.insert((lease.expiry, id.0));
        self.counted.renewed.fetch_add(1, Ordering::Relaxed);
        Ok(lease.ttl)
    }

    pub(super) fn status(&self, id: LeaseId, keys: bool) -> LeaseStatus {
        let state = self.state.lock();
        let Some(lease) = state.leases.get(&id.0) else {
            return LeaseStatus { id, granted_ttl: 0, ttl: -1, keys: Vec::new() };
        };
        let left = lease.expiry.saturating_duration_since(Instant::now());
        LeaseStatus {
            id,
            granted_ttl: lease.ttl,
            ttl: left.as_secs() as i64,
            keys: if keys { lease.keys.iter().cloned().collect() } else { Vec::new() },
        }
    }

    /// The leases, first the one that ends first.
    pub(super) fn list(&self) -> Vec<LeaseId> {
        self.state.lock().expiries.iter().map(|(_, id)| LeaseId(*id)).collect()
    }

    pub(super) fn exists(&self, id: LeaseId) -> bool {
        self.state.lock().leases.contains_key(&id.0)
    }

    /// The TTL of a lease that is not on disk yet.
    pub(super) fn unpersisted_ttl(&self, id: LeaseId) -> Option<i64> {
        self.state.lock().leases.get(&id.0).filter(|lease| !lease.persisted).map(|lease| lease.ttl)
    }

    /// The lease is on disk; called after the commit.
    pub(super) fn persisted(&self, id: LeaseId) {
        if let Some(lease) = self.state.lock().leases.get_mut(&id.0) {
            lease.persisted = true;
        }
    }

    /// The keys of a lease that exists; with `due_only`, of one whose time is over.
    pub(super) fn revocable(&self, id: LeaseId, due_only: bool) -> Option<(Vec<Bytes>, bool)> {
        let state = self.state.lock();
        let lease = state.leases.get(&id.0)?;
        if due_only && lease.expiry > Instant::now() {
            return None;
        }
        Some((lease.keys.iter().cloned().collect(), lease.persisted))
    }

    /// Forgets a lease; called after the commit.
    pub(super) fn remove(&self, id: LeaseId) {
        let mut state = self.state.lock();
        if let Some(lease) = state.leases.remove(&id.0) {
            state.expiries.remove(&(lease.expiry, id.0));
            self.counted.revoked.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Notes which keys changed their lease; called after the commit.
    pub(super) fn apply(&self, events: &[Event]) {
        let leased = |event: &Event| event.kv.lease.0 != 0 || event.prev.as_ref().is_some_and(|kv| kv.lease.0 != 0);
        if !events.iter().any(leased) {
            return;
        }
        let mut state = self.state.lock();
        for event in events {
            let before = event.prev.as_ref().map_or(0, |kv| kv.lease.0);
            let after = if event.kind == EventKind::Put { event.kv.lease.0 } else { 0 };
            if before == after {
                continue;
            }
            if let Some(lease) = state.leases.get_mut(&before) {
                lease.keys.remove(&event.kv.key);
            }
            if let Some(lease) = state.leases.get_mut(&after) {
                lease.keys.insert(event.kv.key.clone());
            }
        }
    }

    /// When the next lease ends.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        self.state.lock().expiries.first().map(|(at, _)| *at)
    }

    /// Up to `limit` leases whose time is over.
    pub(super) fn due(&self, limit: usize) -> Vec<LeaseId> {
        let now = Instant::now();
        let state = self.state.lock();
        state.expiries.iter().take_while(|(at, _)| *at <= now).take(limit).map(|(_, id)| LeaseId(*id)).collect()
    }

    /// Appends what is counted to a page.
    pub(super) fn write(&self, page: &mut Page<'_>) {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let Counted { granted, renewed, revoked, ttls } = &self.counted;
        page.gauge("etcd_debugging_lease_total", "Leases.", self.state.lock().leases.len());
        page.counter("etcd_debugging_lease_granted_total", "Leases granted.", count(granted));
        page.counter("etcd_debugging_lease_renewed_total", "Times that leases were kept alive.", count(renewed));
        page.counter("etcd_debugging_lease_revoked_total", "Leases that were revoked or ended.", count(revoked));
        page.histogram("etcd_debugging_lease_ttl_total", "Seconds that leases were granted for.", ttls);
    }

    /// Id and TTL of every lease.
    pub(super) fn granted(&self) -> Vec<(i64, i64)> {
        self.state.lock().leases.iter().map(|(id, lease)| (*id, lease.ttl)).collect()
    }

    /// Id and TTL of leases that are not on disk, for an orderly stop.
    pub(super) fn unpersisted(&self) -> Vec<(i64, i64)> {
        let state = self.state.lock();
        state.leases.iter().filter(|(_, lease)| !lease.persisted).map(|(id, lease)| (*id, lease.ttl)).collect()
    }
}

impl State {
    /// Says whether it is the first to end.
    fn insert(&mut self, id: i64, ttl: i64, persisted: bool) -> bool {
        let expiry = expiry(Instant::now(), ttl);
        self.leases.insert(id, Lease { ttl, expiry, keys: BTreeSet::new(), persisted });
        self.expiries.insert((expiry, id));
        self.expiries.first().is_some_and(|(_, first)| *first == id)
    }

    fn free_id(&self) -> i64 {
        loop {
            let id = rand::random::<i64>() & i64::MAX;
            if id != 0 && !self.leases.contains_key(&id) {
                return id;
            }
        }
    }
}

fn expiry(now: Instant, ttl: i64) -> Instant {
    // tokio's timers end after about two years; a lease of a century is looked at again then.
    let ttl = Duration::from_secs(ttl.clamp(0, TTL_MAX) as u64);
    now.checked_add(ttl).unwrap_or(now + Duration::from_secs(86_400 * 365))
}
