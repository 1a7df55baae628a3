//! Reading one's own writes (upstream's `pkg/controller/util/consistency`).
//!
//! A reconcile that follows its own write too closely sees a cache without it, and does its work twice.

use std::collections::HashMap;

use api::names::ObjectKey;
use client::{Informer, Resource};
use parking_lot::Mutex;

use crate::error::Error;

/// The newest version that was written for each key.
#[derive(Default)]
pub(crate) struct Written(Mutex<HashMap<ObjectKey, u64>>);

impl Written {
    /// Notes what the server answered to a write.
    pub(crate) fn note<K: Resource>(&self, key: &ObjectKey, answer: &K) {
        if let Ok(version) = answer.resource_version().parse::<u64>() {
            let mut written = self.0.lock();
            let newest = written.entry(key.clone()).or_insert(0);
            *newest = version.max(*newest);
        }
    }

    /// # Errors
    /// [`Error::NotYet`] as long as the informer has not seen what was written for the key.
    pub(crate) fn check<K: Resource>(&self, key: &ObjectKey, informer: &Informer<K>) -> Result<(), Error> {
        let mut written = self.0.lock();
        match written.get(key) {
            Some(version) if informer.version() < *version && informer.version() > 0 => {
                Err(Error::NotYet("the cache to show the last write"))
            }
            Some(_) => {
                written.remove(key);
                Ok(())
            }
            None => Ok(()),
        }
    }
}
