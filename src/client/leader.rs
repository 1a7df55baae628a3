//! Leader election on a Lease (client-go `tools/leaderelection`).

use std::future::Future;
use std::time::Duration;

use base::{SharedClock, Shutdown};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use rand::Rng;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::client::Client;
use crate::error::Error;

/// Who runs for what.
#[derive(Debug, Clone)]
pub struct LeaderConfig {
    /// The Lease's namespace and name.
    pub namespace: String,
    pub name: String,
    /// Unique to this candidate.
    pub identity: String,
    /// A leader not heard from for so long is replaced.
    pub lease_duration: Duration,
    /// A leader that could not renew for so long gives up.
    pub renew_deadline: Duration,
    pub retry_period: Duration,
}

impl LeaderConfig {
    /// With the durations of Kubernetes' own components: 15, 10 and 2 seconds.
    pub fn new(namespace: &str, name: &str, identity: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            identity: identity.to_owned(),
            lease_duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry_period: Duration::from_secs(2),
        }
    }
}

/// Campaigns for one Lease.
pub struct LeaderElector {
    client: Client,
    config: LeaderConfig,
    clock: SharedClock,
    /// What was last read from the server, and when it was first seen by our own clock: times that other machines
    /// wrote are not compared with ours.
    observed: Option<(LeaseSpec, Instant)>,
}

impl LeaderElector {
    pub fn new(client: Client, config: LeaderConfig, clock: SharedClock) -> Self {
        Self { client, config, clock, observed: None }
    }

    /// Waits to become leader, runs `lead` with a token that is cancelled when leadership is lost, and campaigns again,
    /// until shutdown. Releases the Lease at the end.
    pub async fn run<F, Fut>(mut self, shutdown: Shutdown, lead: F)
    where
        F: Fn(Shutdown) -> Fut,
        Fut: Future<Output = ()>,
    {
        while !shutdown.is_cancelled() {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                () = self.acquire() => {}
            }
            info!(lease = %self.config.name, identity = %self.config.identity, "became leader");
            let term = shutdown.child_token();
            let leading = lead(term.clone());
            tokio::pin!(leading);
            tokio::select! {
                biased;
                () = shutdown.cancelled() => {}
                () = &mut leading => {}
                () = self.hold() => {
                    warn!(lease = %self.config.name, "lost the lease");
                    term.cancel();
                    leading.await;
                    continue;
                }
            }
            term.cancel();
            if shutdown.is_cancelled() {
                leading.await;
            }
            self.release().await;
            if !shutdown.is_cancelled() {
                // The work ended by itself: let others have a turn before the next campaign.
                tokio::time::sleep(self.config.retry_period).await;
            }
        }
    }

    async fn acquire(&mut self) {
        loop {
            match self.try_acquire_or_renew().await {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => warn!(lease = %self.config.name, error = %base::chain(&error), "cannot campaign"),
            }
            // client-go's jitter factor of 1.2.
            let jitter = rand::rng().random_range(1.0..=2.2);
            tokio::time::sleep(self.config.retry_period.mul_f64(jitter)).await;
        }
    }

    /// Renews until that has failed for the renew deadline.
    async fn hold(&mut self) {
        let mut renewed = Instant::now();
        loop {
            tokio::time::sleep(self.config.retry_period).await;
            let deadline = renewed + self.config.renew_deadline;
            match tokio::time::timeout_at(deadline, self.try_acquire_or_renew()).await {
                Ok(Ok(true)) => renewed = Instant::now(),
                Ok(Ok(false)) => return,
                Ok(Err(error)) if Instant::now() < deadline => {
                    warn!(lease = %self.config.name, error = %base::chain(&error), "cannot renew");
                }
                Ok(Err(_)) | Err(_) => return,
            }
        }
    }

    async fn try_acquire_or_renew(&mut self) -> Result<bool, Error> {
        let now = self.clock.now();
        let found = self.client.get_opt::<Lease>(&self.config.namespace, &self.config.name).await?;
        let Some(mut lease) = found else {
            let lease = Lease {
                metadata: ObjectMeta {
                    name: Some(self.config.name.clone()),
                    namespace: Some(self.config.namespace.clone()),
                    ..Default::default()
                },
                spec: Some(self.spec(now, now, 0)),
            };
            return match self.client.create(&lease).await {
                Ok(_) => Ok(true),
                Err(error) if error.is_already_exists() => Ok(false),
                Err(error) => Err(error),
            };
        };
        let spec = lease.spec.clone().unwrap_or_default();
        if self.observed.as_ref().is_none_or(|(seen, _)| *seen != spec) {
            self.observed = Some((spec.clone(), Instant::now()));
        }
        let holder = spec.holder_identity.as_deref().unwrap_or_default();
        let ours = holder == self.config.identity;
        let fresh = self.observed.as_ref().is_some_and(|(_, at)| at.elapsed() < self.config.lease_duration);
        if !ours && !holder.is_empty() && fresh {
            return Ok(false);
        }
        let transitions = spec.lease_transitions.unwrap_or(0);
        lease.spec = Some(if ours {
            let acquired = spec.acquire_time.map_or(now, |t| t.0);
            self.spec(acquired, now, transitions)
        } else {
            self.spec(now, now, transitions + 1)
        });
        match self.client.update(&lease).await {
            Ok(lease) => {
                self.observed = Some((lease.spec.unwrap_or_default(), Instant::now()));
                Ok(true)
            }
            Err(error) if error.is_conflict() => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn release(&mut self) {
        let Ok(Some(mut lease)) = self.client.get_opt::<Lease>(&self.config.namespace, &self.config.name).await else {
            return;
        };
        if lease.spec.as_ref().and_then(|s| s.holder_identity.as_deref()) != Some(&self.config.identity) {
            return;
        }
        let now = MicroTime(self.clock.now());
        lease.spec = Some(LeaseSpec {
            holder_identity: Some(String::new()),
            lease_duration_seconds: Some(1),
            lease_transitions: lease.spec.and_then(|s| s.lease_transitions),
            renew_time: Some(now.clone()),
            acquire_time: Some(now),
            ..Default::default()
        });
        if let Err(error) = self.client.update(&lease).await {
            warn!(lease = %self.config.name, error = %base::chain(&error), "cannot release the lease");
        }
    }

    fn spec(&self, acquired: Timestamp, renewed: Timestamp, transitions: i32) -> LeaseSpec {
        let seconds = SignedDuration::try_from(self.config.lease_duration).map_or(15, |d| d.as_secs());
        LeaseSpec {
            holder_identity: Some(self.config.identity.clone()),
            lease_duration_seconds: Some(i32::try_from(seconds).unwrap_or(i32::MAX)),
            acquire_time: Some(MicroTime(acquired)),
            renew_time: Some(MicroTime(renewed)),
            lease_transitions: Some(transitions),
            ..Default::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use bytes::Bytes;
    use parking_lot::Mutex;
    use serde_json::{Value, json};

    use crate::client::tests::fake;

    /// A server that holds one Lease.
    fn server(lease: Option<Value>) -> (Client, Arc<Mutex<Option<Value>>>) {
        let held = Arc::new(Mutex::new(lease));
        let store = Arc::clone(&held);
        let (client, _) = fake(move |request| {
            let mut held = store.lock();
            match request.method.as_str() {
                "POST" | "PUT" => *held = Some(request.body.clone()),
                _ => {}
            }
            match &*held {
                Some(lease) => (200, vec![Bytes::from(lease.to_string())], false),
                None => (404, vec![Bytes::from_static(b"{\"reason\":\"NotFound\"}")], false),
            }
        });
        (client, held)
    }

    fn elector(client: Client) -> LeaderElector {
        LeaderElector::new(client, LeaderConfig::new("n", "l", "me"), Arc::new(base::SystemClock))
    }

    #[tokio::test(start_paused = true)]
    async fn takes_a_lease_that_is_free_and_renews_it() {
        let (client, held) = server(None);
        let mut elector = elector(client);
        assert!(elector.try_acquire_or_renew().await.unwrap());
        assert!(elector.try_acquire_or_renew().await.unwrap());
        let lease = held.lock().clone().unwrap();
        assert_eq!((&lease["spec"]["holderIdentity"], &lease["spec"]["leaseTransitions"]), (&json!("me"), &json!(0)));
    }

    #[tokio::test(start_paused = true)]
    async fn takes_over_only_when_the_holder_was_silent_for_the_lease_duration() {
        let lease = json!({"metadata": {"name": "l", "namespace": "n"}, "spec": {"holderIdentity": "other"}});
        let (client, held) = server(Some(lease));
        let mut elector = elector(client);
        assert!(!elector.try_acquire_or_renew().await.unwrap());
        tokio::time::advance(Duration::from_secs(14)).await;
        assert!(!elector.try_acquire_or_renew().await.unwrap());
        held.lock().as_mut().unwrap()["spec"]["renewTime"] = json!("2026-01-01T00:00:00.000000Z");
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(!elector.try_acquire_or_renew().await.unwrap(), "the holder renewed");
        tokio::time::advance(Duration::from_secs(16)).await;
        assert!(elector.try_acquire_or_renew().await.unwrap());
        assert_eq!(held.lock().as_ref().unwrap()["spec"]["leaseTransitions"], json!(1));
    }
}
