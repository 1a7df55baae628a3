//! What is wrong with the member, as etcd's alarms tell it (server/etcdserver/apply/apply.go `applierV3Capped`,
//! `applierV3Corrupt`).
//!
//! An alarm that a client raises stays until a client takes it back and stops what etcd's stops. A full disk raises
//! `NOSPACE` by itself and the next write that finds room takes it back: unlike etcd's quota, nobody need disarm it.

use std::sync::atomic::{AtomicU32, Ordering};

use tonic::Status;

use super::errors::status;
use crate::store::StoreError;

/// etcd `AlarmType`.
pub(super) const NOSPACE: i32 = 1;
pub(super) const CORRUPT: i32 = 2;

/// Alarms by number, a bit each.
#[derive(Debug, Default)]
pub(super) struct Alarms {
    /// Raised by clients.
    raised: AtomicU32,
    /// The last write found the disk full.
    full: AtomicU32,
}

impl Alarms {
    /// The alarms of this kind, 0: all.
    pub(super) fn list(&self, alarm: i32) -> Vec<i32> {
        let bits = self.raised.load(Ordering::Relaxed) | self.full.load(Ordering::Relaxed);
        [NOSPACE, CORRUPT].into_iter().filter(|kind| bits & 1 << kind != 0 && (alarm == 0 || alarm == *kind)).collect()
    }

    /// Raises an alarm that clients may raise; says whether there is such an alarm.
    pub(super) fn raise(&self, alarm: i32) -> bool {
        let known = [NOSPACE, CORRUPT].contains(&alarm);
        if known {
            self.raised.fetch_or(1 << alarm, Ordering::Relaxed);
        }
        known
    }

    /// Takes an alarm back; says whether it was raised.
    pub(super) fn clear(&self, alarm: i32) -> bool {
        let was = self.list(alarm).contains(&alarm);
        if was {
            self.raised.fetch_and(!(1 << alarm), Ordering::Relaxed);
            self.full.fetch_and(!(1 << alarm), Ordering::Relaxed);
        }
        was
    }

    /// Refuses everything while the store counts as corrupt, and what needs room while a client says there is none.
    pub(super) fn check(&self, needs_room: bool) -> Result<(), Status> {
        let raised = self.raised.load(Ordering::Relaxed);
        if raised == 0 {
            return Ok(());
        }
        if raised & 1 << CORRUPT != 0 {
            return Err(Status::data_loss("etcdserver: corrupt cluster"));
        }
        if needs_room && raised & 1 << NOSPACE != 0 {
            return Err(status(StoreError::DiskFull));
        }
        Ok(())
    }

    /// Notes how a write ended, and passes it on.
    pub(super) fn written<T>(&self, result: Result<T, StoreError>) -> Result<T, Status> {
        match &result {
            Err(StoreError::DiskFull) => self.full.store(1 << NOSPACE, Ordering::Relaxed),
            Ok(_) if self.full.load(Ordering::Relaxed) != 0 => self.full.store(0, Ordering::Relaxed),
            _ => {}
        }
        result.map_err(status)
    }
}
