//! Holds a new pod back until NetworkPolicies are in force for its address, so that none of its containers runs
//! unguarded: its status, from which the other rules learn addresses, is published later.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;

/// How long rules may take; the pod's start is tried again after that.
const PATIENCE: Duration = Duration::from_secs(10);

/// The rules do not cover the pod yet.
#[derive(Debug, thiserror::Error)]
#[error("the network policies are not in force yet")]
pub struct NotGuarded;

/// Shared by those who connect pods and the one who programs the rules.
#[derive(Clone)]
pub struct Gate(Arc<Inner>);

struct Inner {
    /// By uid of the pod.
    addresses: Mutex<BTreeMap<String, Ipv4Addr>>,
    /// Counts the changes of the addresses.
    version: watch::Sender<u64>,
    /// The last version that the rules were made from.
    in_force: watch::Sender<u64>,
}

impl Default for Gate {
    fn default() -> Self {
        Self(Arc::new(Inner {
            addresses: Mutex::default(),
            version: watch::Sender::new(0),
            in_force: watch::Sender::new(0),
        }))
    }
}

impl Gate {
    /// Tells the address of a pod that is to start, and waits until the rules know it.
    ///
    /// # Errors
    /// They do not after ten seconds.
    pub async fn admit(&self, uid: &str, address: Ipv4Addr) -> Result<(), NotGuarded> {
        let wanted = {
            let mut addresses = self.0.addresses.lock();
            if addresses.insert(uid.to_owned(), address) == Some(address) {
                *self.0.version.borrow()
            } else {
                self.0.version.send_modify(|version| *version += 1);
                *self.0.version.borrow()
            }
        };
        let mut in_force = self.0.in_force.subscribe();
        match tokio::time::timeout(PATIENCE, in_force.wait_for(|version| *version >= wanted)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(NotGuarded),
        }
    }

    /// The pod has given its address back.
    pub fn forget(&self, uid: &str) {
        self.0.addresses.lock().remove(uid);
    }

    /// The addresses and their version.
    pub(crate) fn addresses(&self) -> (u64, BTreeMap<String, Ipv4Addr>) {
        let addresses = self.0.addresses.lock();
        (*self.0.version.borrow(), addresses.clone())
    }

    /// Returns when there is another version than this.
    pub(crate) async fn changed(&self, seen: u64) {
        // An error means that the sender is gone, which `self` prevents.
        if self.0.version.subscribe().wait_for(|version| *version != seen).await.is_err() {
            std::future::pending().await
        }
    }

    /// The rules are made from this version.
    pub(crate) fn open(&self, version: u64) {
        self.0.in_force.send_replace(version);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 42, 0, 2);

    #[tokio::test(start_paused = true)]
    async fn a_pod_waits_for_the_rules_with_its_address() {
        let gate = Gate::default();
        let rules = async {
            gate.changed(0).await;
            let (version, addresses) = gate.addresses();
            assert_eq!(addresses["u"], ADDRESS);
            gate.open(version);
        };
        let (admitted, ()) = tokio::join!(gate.admit("u", ADDRESS), rules);
        assert!(admitted.is_ok());
        assert!(gate.admit("u", ADDRESS).await.is_ok(), "is known");
        gate.forget("u");
        assert!(gate.addresses().1.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn without_rules_it_does_not_start() {
        assert!(Gate::default().admit("u", ADDRESS).await.is_err());
    }
}
