//! What a controller did that its informers have not shown yet (`pkg/controller/controller_utils.go`
//! `UIDTrackingControllerExpectations`).
//!
//! Until the pods that were created or deleted for a key have been seen, another pass over that key would count wrongly.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use api::names::ObjectKey;
use parking_lot::Mutex;
use tokio::time::Instant;

/// Seen or not, after so long the key is looked at again.
const TIMEOUT: Duration = Duration::from_secs(300);

#[derive(Default)]
pub(crate) struct Expectations {
    keys: Mutex<HashMap<ObjectKey, Expected>>,
}

struct Expected {
    creations: i64,
    /// Namespaced names of pods.
    deletions: HashSet<ObjectKey>,
    since: Instant,
}

impl Expectations {
    pub(crate) fn expect_creations(&self, key: &ObjectKey, count: usize) {
        let creations = i64::try_from(count).unwrap_or(i64::MAX);
        let expected = Expected { creations, deletions: HashSet::new(), since: Instant::now() };
        self.keys.lock().insert(key.clone(), expected);
    }

    pub(crate) fn expect_deletions(&self, key: &ObjectKey, pods: impl IntoIterator<Item = ObjectKey>) {
        let expected = Expected { creations: 0, deletions: pods.into_iter().collect(), since: Instant::now() };
        self.keys.lock().insert(key.clone(), expected);
    }

    /// Both at once: controllers that create and delete in one pass.
    pub(crate) fn expect(&self, key: &ObjectKey, creations: usize, deletions: impl IntoIterator<Item = ObjectKey>) {
        let creations = i64::try_from(creations).unwrap_or(i64::MAX);
        let expected = Expected { creations, deletions: deletions.into_iter().collect(), since: Instant::now() };
        self.keys.lock().insert(key.clone(), expected);
    }

    pub(crate) fn creation_observed(&self, key: &ObjectKey) {
        if let Some(expected) = self.keys.lock().get_mut(key) {
            expected.creations -= 1;
        }
    }

    pub(crate) fn deletion_observed(&self, key: &ObjectKey, pod: &ObjectKey) {
        if let Some(expected) = self.keys.lock().get_mut(key) {
            expected.deletions.remove(pod);
        }
    }

    pub(crate) fn forget(&self, key: &ObjectKey) {
        self.keys.lock().remove(key);
    }

    /// Whether the informers have caught up with what was done for a key.
    pub(crate) fn satisfied(&self, key: &ObjectKey) -> bool {
        self.keys.lock().get(key).is_none_or(|expected| {
            (expected.creations <= 0 && expected.deletions.is_empty()) || expected.since.elapsed() > TIMEOUT
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn are_satisfied_when_seen_or_too_old() {
        let expectations = Expectations::default();
        let (key, pod) = (ObjectKey::new("n", "rs"), ObjectKey::new("n", "p"));
        assert!(expectations.satisfied(&key));
        expectations.expect_creations(&key, 2);
        expectations.creation_observed(&key);
        assert!(!expectations.satisfied(&key));
        expectations.creation_observed(&key);
        assert!(expectations.satisfied(&key));
        expectations.expect_deletions(&key, [pod.clone()]);
        assert!(!expectations.satisfied(&key));
        expectations.deletion_observed(&key, &pod);
        assert!(expectations.satisfied(&key));
        expectations.expect_creations(&key, 1);
        tokio::time::advance(Duration::from_secs(301)).await;
        assert!(expectations.satisfied(&key));
    }
}
