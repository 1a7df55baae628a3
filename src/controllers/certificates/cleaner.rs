//! Deletes requests that are settled or forgotten (`pkg/controller/certificates/cleaner`). Upstream looks at all of them
//! every hour; here each has its own time.

use std::sync::Arc;
use std::time::Duration;

use api::names::ObjectKey;
use async_trait::async_trait;
use client::{DeleteParams, Informer, Resource, WorkQueue};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, PodCertificateRequest};
use tracing::info;

use super::is_issued;
use crate::error::Error;
use crate::harness::{Context, Parts, Reconcile, all_synced, synced};

/// After an approval, a denial or a failure.
const SETTLED: SignedDuration = SignedDuration::from_hours(1);
/// Without an answer.
const PENDING: SignedDuration = SignedDuration::from_hours(24);
/// A pod's request is answered sooner, or never.
const POD_REQUEST: SignedDuration = SignedDuration::from_mins(15);

pub(crate) fn start(context: Context) {
    run(&context, |request: &CertificateSigningRequest| deadline(request));
}

pub(crate) fn start_pod_requests(context: Context) {
    run(&context, |request: &PodCertificateRequest| {
        request.metadata.creation_timestamp.as_ref().map(|created| created.0 + POD_REQUEST)
    });
}

fn run<K: Resource>(context: &Context, deadline: fn(&K) -> Option<Timestamp>) {
    let objects = context.informers.informer::<K>();
    let queue = WorkQueue::new();
    context.feed_own(&objects, &queue);
    let cleaner = Cleaner { objects: objects.clone(), deadline, queue: queue.clone(), context: context.parts() };
    context.work(Arc::new(cleaner), queue, 1, all_synced(vec![synced(&objects)]));
}

struct Cleaner<K> {
    objects: Informer<K>,
    deadline: fn(&K) -> Option<Timestamp>,
    queue: WorkQueue<ObjectKey>,
    context: Parts,
}

#[async_trait]
impl<K: Resource> Reconcile for Cleaner<K> {
    async fn reconcile(&self, key: &ObjectKey) -> Result<(), Error> {
        let Some(object) = self.objects.get(&key.namespace, &key.name) else { return Ok(()) };
        let Some(deadline) = (self.deadline)(&object) else { return Ok(()) };
        let left = deadline.duration_since(self.context.clock.now());
        if left.is_positive() {
            let left = Duration::try_from(left).unwrap_or_default();
            self.queue.add_after(key.clone(), left + Duration::from_secs(1));
            return Ok(());
        }
        info!(kind = K::KIND, %key, "deleting a certificate request whose time is over");
        let options = DeleteParams::uid(object.uid());
        match self.context.client.delete::<K>(&key.namespace, &key.name, &options).await {
            Err(error) if !error.is_not_found() => Err(error.into()),
            _ => Ok(()),
        }
    }
}

/// When the first of upstream's reasons to delete a request applies.
fn deadline(request: &CertificateSigningRequest) -> Option<Timestamp> {
    let issued = is_issued(request);
    let conditions = request.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    if conditions.is_empty() {
        return request.metadata.creation_timestamp.as_ref().map(|created| created.0 + PENDING);
    }
    let by_condition = conditions.iter().filter_map(|condition| {
        let since = condition.last_update_time.as_ref()?.0;
        match condition.type_.as_str() {
            "Denied" | "Failed" => Some(since + SETTLED),
            "Approved" if issued => Some(since + SETTLED),
            "Approved" => Some(since + PENDING),
            _ => None,
        }
    });
    let certificate = request.status.as_ref().and_then(|s| s.certificate.as_ref());
    let expires = certificate
        .filter(|_| conditions.iter().any(|c| c.type_ == "Approved"))
        .and_then(|c| std::str::from_utf8(&c.0).ok())
        .and_then(|pem| pki::authority::not_after(pem).ok());
    by_condition.chain(expires).min()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn every_state_has_its_time() {
        let check = |status: Value, expected: Option<&str>| {
            let request: CertificateSigningRequest = serde_json::from_value(json!({
                "metadata": {"name": "r", "creationTimestamp": "2026-01-01T00:00:00Z"},
                "spec": {"request": "", "signerName": "s"}, "status": status}))
            .unwrap();
            assert_eq!(deadline(&request).map(|t| t.to_string()).as_deref(), expected, "{status}");
        };
        let condition =
            |kind: &str| json!([{"type": kind, "status": "True", "lastUpdateTime": "2026-01-01T10:00:00Z"}]);
        check(json!({}), Some("2026-01-02T00:00:00Z"));
        check(json!({"conditions": condition("Denied")}), Some("2026-01-01T11:00:00Z"));
        check(json!({"conditions": condition("Failed")}), Some("2026-01-01T11:00:00Z"));
        check(json!({"conditions": condition("Approved")}), Some("2026-01-02T10:00:00Z"));
        check(json!({"conditions": condition("Approved"), "certificate": "eA=="}), Some("2026-01-01T11:00:00Z"));
    }
}
