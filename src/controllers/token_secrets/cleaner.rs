//! Retires generated token Secrets that nobody has used for a year
//! (`pkg/controller/serviceaccount/legacy_serviceaccount_token_cleaner.go`): first a label makes them invalid, a year later
//! they are deleted.

use std::sync::Arc;
use std::time::Duration;

use api::names::ObjectKey;
use async_trait::async_trait;
use client::{DeleteParams, Informer, Patch, Resource, WorkQueue};
use jiff::civil::Date;
use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, ServiceAccount};
use serde_json::json;
use tracing::info;

use super::{ACCOUNT_NAME, ACCOUNT_UID, TOKENS, refers_to};
use crate::error::Error;
use crate::harness::{Context, Parts, Reconcile, all_synced, synced};

const LAST_USED: &str = "kubernetes.io/legacy-token-last-used";
const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";
/// Says since when the use of tokens has been noted.
const TRACKING: &str = "kube-apiserver-legacy-service-account-token-tracking";
const CLEAN_UP_PERIOD: SignedDuration = SignedDuration::from_hours(24 * 365);
const SYNC_INTERVAL: Duration = Duration::from_hours(24);

pub(crate) fn start(context: Context) {
    let secrets = context.informers.informer_with::<Secret>(TOKENS);
    let accounts = context.informers.informer::<ServiceAccount>();
    let pods = context.informers.informer::<Pod>();
    let queue = WorkQueue::new();
    queue.add(ObjectKey::new("", ""));
    let ready = all_synced(vec![synced(&secrets), synced(&accounts), synced(&pods)]);
    let cleaner = Cleaner { secrets, accounts, pods, queue: queue.clone(), context: context.parts() };
    context.work(Arc::new(cleaner), queue, 1, ready);
}

struct Cleaner {
    secrets: Informer<Secret>,
    accounts: Informer<ServiceAccount>,
    pods: Informer<Pod>,
    queue: WorkQueue<ObjectKey>,
    context: Parts,
}

#[async_trait]
impl Reconcile for Cleaner {
    /// Once a day, all of them: a year's limit is not urgent.
    async fn reconcile(&self, key: &ObjectKey) -> Result<(), Error> {
        self.queue.add_after(key.clone(), SYNC_INTERVAL);
        let generated: Vec<_> = self.secrets.list().into_iter().filter(|secret| self.is_generated(secret)).collect();
        if generated.is_empty() {
            return Ok(());
        }
        let now = self.context.clock.now();
        let tracking = self.context.client.get_opt::<ConfigMap>("kube-system", TRACKING).await?;
        let since = tracking.and_then(|map| map.data?.get("since")?.parse::<Date>().ok());
        // The day itself was tracked in part only.
        if since.is_none_or(|since| since.tomorrow().is_ok_and(|day| day > date(now - CLEAN_UP_PERIOD))) {
            return Ok(());
        }
        for secret in generated {
            self.retire(&secret, now).await?;
        }
        Ok(())
    }
}

impl Cleaner {
    /// Whether its account names the Secret: that is what tells a generated one from one that somebody made.
    fn is_generated(&self, secret: &Secret) -> bool {
        let Some(name) = secret.annotation(ACCOUNT_NAME) else { return false };
        let uid = secret.annotation(ACCOUNT_UID).unwrap_or_default();
        self.accounts
            .get(secret.namespace(), name)
            .is_some_and(|account| (uid.is_empty() || account.uid() == uid) && refers_to(&account, secret.name()))
    }

    async fn retire(&self, secret: &Secret, now: Timestamp) -> Result<(), Error> {
        let limit = date(now - CLEAN_UP_PERIOD);
        let created = secret.metadata.creation_timestamp.as_ref().map(|t| t.0);
        if secret.is_deleting()
            || created.is_none_or(|created| created >= now - CLEAN_UP_PERIOD)
            || !is_unused(secret, limit)
            || self.is_mounted(secret)
        {
            return Ok(());
        }
        let client = &self.context.client;
        let result = match secret.label(INVALID_SINCE).and_then(|day| day.parse::<Date>().ok()) {
            None => {
                info!(namespace = secret.namespace(), name = secret.name(), "an unused token becomes invalid");
                let patch = Patch::Merge(json!({"metadata": {
                    "uid": secret.uid(), "labels": {INVALID_SINCE: date(now).to_string()}}}));
                client.patch::<Secret>(secret.namespace(), secret.name(), &patch).await.map(drop)
            }
            Some(since) if since >= limit => return Ok(()),
            Some(_) => {
                info!(namespace = secret.namespace(), name = secret.name(), "deleting an unused token");
                let options = DeleteParams {
                    resource_version: secret.metadata.resource_version.clone(),
                    ..DeleteParams::default()
                };
                client.delete::<Secret>(secret.namespace(), secret.name(), &options).await
            }
        };
        match result {
            Err(error) if !error.is_not_found() && !error.is_conflict() => Err(error.into()),
            _ => Ok(()),
        }
    }

    fn is_mounted(&self, secret: &Secret) -> bool {
        self.pods.namespace(secret.namespace()).iter().any(|pod| {
            let volumes = pod.spec.as_ref().and_then(|s| s.volumes.as_deref()).unwrap_or_default();
            volumes.iter().any(|volume| {
                let named = volume.secret.as_ref().and_then(|s| s.secret_name.as_deref());
                named == Some(secret.name())
            }) || pod.spec.as_ref().is_some_and(|spec| {
                let all = spec.containers.iter().chain(spec.init_containers.iter().flatten());
                all.flat_map(|c| c.env.iter().flatten()).any(|variable| {
                    let from = variable.value_from.as_ref().and_then(|f| f.secret_key_ref.as_ref());
                    from.is_some_and(|reference| reference.name == secret.name())
                })
            })
        })
    }
}

fn date(at: Timestamp) -> Date {
    at.to_zoned(TimeZone::UTC).date()
}

fn is_unused(secret: &Secret, limit: Date) -> bool {
    match secret.label(LAST_USED) {
        None => true,
        // A label that says nothing keeps the Secret.
        Some(day) => day.parse::<Date>().is_ok_and(|day| day < limit),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_unused_after_its_limit() {
        let check = |label: Option<&str>, expected: bool| {
            let mut secret = Secret::default();
            secret.metadata.labels = label.map(|l| [(LAST_USED.to_owned(), l.to_owned())].into());
            assert_eq!(is_unused(&secret, "2026-01-10".parse().unwrap()), expected, "{label:?}");
        };
        check(None, true);
        check(Some("2026-01-09"), true);
        check(Some("2026-01-10"), false);
        check(Some("soon"), false);
    }
}
