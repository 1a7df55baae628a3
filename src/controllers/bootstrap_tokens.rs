//! Bootstrap tokens: signs `kube-public/cluster-info` with them, so that joining nodes can trust it, and deletes those
//! that have expired (`pkg/controller/bootstrap`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api::names::ObjectKey;
use async_trait::async_trait;
use client::{DeleteParams, Informer, Resource, WorkQueue};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};

use crate::error::Error;
use crate::harness::{Context, Parts, Reconcile, all_synced, current, synced};

const TOKENS: &str = "type=bootstrap.kubernetes.io/token";
const SYSTEM: &str = "kube-system";
const PUBLIC: &str = "kube-public";
const CLUSTER_INFO: &str = "cluster-info";
const SIGNATURE: &str = "jws-kubeconfig-";

pub(crate) fn start_signer(context: Context) {
    let secrets = context.informers.informer_with::<Secret>(TOKENS);
    let maps = context.informers.informer_with::<ConfigMap>("metadata.name=cluster-info");
    let queue = WorkQueue::new();
    let poke: crate::harness::AddAll = {
        let queue = queue.clone();
        Arc::new(move || queue.add(ObjectKey::new(PUBLIC, CLUSTER_INFO)))
    };
    context.feed(&maps, &poke, {
        let poke = Arc::clone(&poke);
        move |event| {
            if current(event).is_some_and(|map| map.namespace() == PUBLIC) {
                poke();
            }
        }
    });
    context.feed(&secrets, &poke, {
        let poke = Arc::clone(&poke);
        move |event| {
            if current(event).is_some_and(|secret| secret.namespace() == SYSTEM) {
                poke();
            }
        }
    });
    let ready = all_synced(vec![synced(&secrets), synced(&maps)]);
    let signer = Signer { secrets, maps, context: context.parts() };
    context.work(Arc::new(signer), queue, 1, ready);
}

pub(crate) fn start_cleaner(context: Context) {
    let secrets = context.informers.informer_with::<Secret>(TOKENS);
    let queue = WorkQueue::new();
    context.feed_own(&secrets, &queue);
    let ready = all_synced(vec![synced(&secrets)]);
    let cleaner = Cleaner { secrets, queue: queue.clone(), context: context.parts() };
    context.work(Arc::new(cleaner), queue, 1, ready);
}

struct Signer {
    secrets: Informer<Secret>,
    maps: Informer<ConfigMap>,
    context: Parts,
}

#[async_trait]
impl Reconcile for Signer {
    /// `signConfigMap`.
    async fn reconcile(&self, _: &ObjectKey) -> Result<(), Error> {
        let Some(map) = self.maps.get(PUBLIC, CLUSTER_INFO) else { return Ok(()) };
        let Some(content) = map.data.as_ref().and_then(|data| data.get("kubeconfig")) else { return Ok(()) };
        let now = self.context.clock.now();
        let mut data = map.data.clone().unwrap_or_default();
        data.retain(|key, _| !key.starts_with(SIGNATURE));
        let mut tokens = BTreeMap::new();
        for secret in self.secrets.namespace(SYSTEM) {
            if let Some((id, token)) = signing_token(&secret, now) {
                tokens.entry(id).or_insert(token);
            }
        }
        for (id, token) in tokens {
            let signature = pki::token::detached_signature(content, &id, &token).map_err(|error| Error::Object {
                kind: "ConfigMap",
                key: format!("{PUBLIC}/{CLUSTER_INFO}"),
                problem: base::chain(&error).to_string(),
            })?;
            data.insert(format!("{SIGNATURE}{id}"), signature);
        }
        if map.data.as_ref() == Some(&data) {
            return Ok(());
        }
        let mut changed = (*map).clone();
        changed.data = Some(data);
        match self.context.client.update(&changed).await {
            Err(error) if !error.is_not_found() => Err(error.into()),
            _ => Ok(()),
        }
    }
}

struct Cleaner {
    secrets: Informer<Secret>,
    queue: WorkQueue<ObjectKey>,
    context: Parts,
}

#[async_trait]
impl Reconcile for Cleaner {
    /// `evalSecret`.
    async fn reconcile(&self, key: &ObjectKey) -> Result<(), Error> {
        let secret = self.secrets.get(&key.namespace, &key.name).filter(|s| s.namespace() == SYSTEM);
        let Some(secret) = secret else { return Ok(()) };
        match time_left(&secret, self.context.clock.now()) {
            None => Ok(()),
            Some(left) if left > Duration::ZERO => {
                self.queue.add_after(key.clone(), left);
                Ok(())
            }
            Some(_) => {
                let options = DeleteParams::uid(secret.uid());
                match self.context.client.delete::<Secret>(&key.namespace, &key.name, &options).await {
                    Err(error) if !error.is_not_found() && !error.is_conflict() => Err(error.into()),
                    _ => Ok(()),
                }
            }
        }
    }
}

fn text(secret: &Secret, key: &str) -> String {
    let value = secret.data.as_ref().and_then(|data| data.get(key));
    value.map(|v| String::from_utf8_lossy(&v.0).into_owned()).unwrap_or_default()
}

/// Time until a token expires, zero if it has or says nonsense; `None` if it never does (`GetExpiration`).
fn time_left(secret: &Secret, now: Timestamp) -> Option<Duration> {
    let expiration = text(secret, "expiration");
    if expiration.is_empty() {
        return None;
    }
    let left = expiration.parse::<Timestamp>().ok().and_then(|at| Duration::try_from(at.duration_since(now)).ok());
    Some(left.unwrap_or_default())
}

/// Id and secret of a token that may sign (`validateSecretForSigning`).
fn signing_token(secret: &Secret, now: Timestamp) -> Option<(String, String)> {
    let name = secret.name().strip_prefix("bootstrap-token-")?;
    let plain = |text: &str, length: usize| {
        text.len() == length && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
    };
    let (id, token) = (text(secret, "token-id"), text(secret, "token-secret"));
    let usable = plain(name, 6)
        && id == name
        && !token.is_empty()
        && time_left(secret, now).is_none_or(|left| left > Duration::ZERO)
        && text(secret, "usage-bootstrap-signing") == "true";
    usable.then_some((id, token))
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::ByteString;

    #[test]
    fn only_valid_tokens_for_signing_sign() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let check = |name: &str, more: &[(&str, &str)], expected: bool| {
            let usual = [("token-id", "abcdef"), ("token-secret", "s3cret"), ("usage-bootstrap-signing", "true")];
            let data = usual.iter().chain(more).map(|(k, v)| ((*k).to_owned(), ByteString(v.as_bytes().to_vec())));
            let mut secret = Secret { data: Some(data.collect()), ..Secret::default() };
            secret.metadata.name = Some(name.to_owned());
            assert_eq!(signing_token(&secret, now).is_some(), expected, "{name} {more:?}");
        };
        check("bootstrap-token-abcdef", &[], true);
        check("bootstrap-token-abcdeg", &[], false);
        check("token-abcdef", &[], false);
        check("bootstrap-token-abcdef", &[("usage-bootstrap-signing", "false")], false);
        check("bootstrap-token-abcdef", &[("expiration", "2026-01-01T00:00:01Z")], true);
        check("bootstrap-token-abcdef", &[("expiration", "2025-12-31T23:59:59Z")], false);
        check("bootstrap-token-abcdef", &[("expiration", "never")], false);
    }
}
