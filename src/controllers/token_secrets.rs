//! Long-lived service account tokens in Secrets (`pkg/controller/serviceaccount`): filled for those that ask, deleted with
//! their accounts, and retired when nobody has used them for a year.

mod cleaner;

pub(crate) use cleaner::start as start_cleaner;

use std::collections::BTreeMap;
use std::sync::Arc;

use api::names::ObjectKey;
use async_trait::async_trait;
use client::{DeleteParams, Event, Informer, Resource, WorkQueue};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use pki::TokenSigner;
use pki::token::LegacyClaims;

use crate::error::Error;
use crate::harness::{Context, Parts, Reconcile, all_synced, key_of, synced};

/// Only these Secrets: the others are nobody's business here and would fill the memory.
const TOKENS: &str = "type=kubernetes.io/service-account-token";
const ACCOUNT_NAME: &str = "kubernetes.io/service-account.name";
const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";

pub(crate) fn start(context: Context) {
    let Some(signer) = context.settings.tokens.clone() else { return };
    let secrets = context.informers.informer_with::<Secret>(TOKENS);
    let accounts = context.informers.informer::<ServiceAccount>();
    let queue = WorkQueue::new();
    let add_all = context.feed_own(&secrets, &queue);
    context.feed(&accounts, &add_all, {
        let (secrets, queue) = (secrets.clone(), queue.clone());
        move |event| {
            let Event::Deleted(account) = event else { return };
            for secret in secrets.namespace(account.namespace()) {
                if secret.annotation(ACCOUNT_NAME) == Some(account.name()) {
                    queue.add(key_of(&*secret));
                }
            }
        }
    });
    let ready = all_synced(vec![synced(&secrets), synced(&accounts)]);
    let reconciler = Reconciler { secrets, accounts, signer, context: context.parts() };
    context.work(Arc::new(reconciler), queue, 5, ready);
}

struct Reconciler {
    secrets: Informer<Secret>,
    accounts: Informer<ServiceAccount>,
    signer: Arc<TokenSigner>,
    context: Parts,
}

#[async_trait]
impl Reconcile for Reconciler {
    /// `syncSecret`.
    async fn reconcile(&self, key: &ObjectKey) -> Result<(), Error> {
        let Some(secret) = self.secrets.get(&key.namespace, &key.name) else {
            return self.remove_references(key).await;
        };
        let name = secret.annotation(ACCOUNT_NAME).unwrap_or_default();
        let uid = secret.annotation(ACCOUNT_UID).unwrap_or_default();
        match self.account(&key.namespace, name, uid).await? {
            Some(account) => self.fill(&secret, &account).await,
            None => {
                let options = DeleteParams::uid(secret.uid());
                match self.context.client.delete::<Secret>(&key.namespace, &key.name, &options).await {
                    Err(error) if !error.is_not_found() && !error.is_conflict() => Err(error.into()),
                    _ => Ok(()),
                }
            }
        }
    }
}

impl Reconciler {
    /// A token is never deleted because a cache is behind.
    async fn account(&self, namespace: &str, name: &str, uid: &str) -> Result<Option<ServiceAccount>, Error> {
        let fits = |account: &ServiceAccount| uid.is_empty() || account.uid() == uid;
        if let Some(account) = self.accounts.get(namespace, name).filter(|a| fits(a)) {
            return Ok(Some((*account).clone()));
        }
        if name.is_empty() {
            return Ok(None);
        }
        let live = self.context.client.get_opt::<ServiceAccount>(namespace, name).await?;
        Ok(live.filter(fits))
    }

    /// `generateTokenIfNeeded`.
    async fn fill(&self, secret: &Secret, account: &ServiceAccount) -> Result<(), Error> {
        let root_ca = &self.context.settings.root_ca_pem;
        if missing(secret, root_ca).is_empty() {
            return Ok(());
        }
        let mut changed = secret.clone();
        let data = changed.data.get_or_insert_default();
        for name in missing(secret, root_ca) {
            let value = match name {
                "ca.crt" => root_ca.clone().into_bytes(),
                "namespace" => secret.namespace().as_bytes().to_vec(),
                _ => self.token(secret, account)?.into_bytes(),
            };
            data.insert(name.to_owned(), ByteString(value));
        }
        let annotations = changed.metadata.annotations.get_or_insert_default();
        annotations.insert(ACCOUNT_NAME.to_owned(), account.name().to_owned());
        annotations.insert(ACCOUNT_UID.to_owned(), account.uid().to_owned());
        match self.context.client.update(&changed).await {
            // Somebody changed it; that is an event of its own.
            Err(error) if !error.is_conflict() && !error.is_not_found() => Err(error.into()),
            _ => Ok(()),
        }
    }

    fn token(&self, secret: &Secret, account: &ServiceAccount) -> Result<String, Error> {
        let claims = LegacyClaims::new(account.namespace(), account.name(), account.uid(), secret.name());
        self.signer.sign_legacy(&claims).map_err(|error| Error::Object {
            kind: "Secret",
            key: format!("{}/{}", secret.namespace(), secret.name()),
            problem: base::chain(&error).to_string(),
        })
    }

    /// `removeSecretReference`: a deleted Secret is no longer its account's.
    async fn remove_references(&self, key: &ObjectKey) -> Result<(), Error> {
        for account in self.accounts.namespace(&key.namespace) {
            if !refers_to(&account, &key.name) {
                continue;
            }
            let mut changed = (*account).clone();
            changed.secrets.get_or_insert_default().retain(|s| s.name.as_deref() != Some(key.name.as_str()));
            match self.context.client.update(&changed).await {
                Err(error) if !error.is_not_found() => return Err(error.into()),
                _ => {}
            }
        }
        Ok(())
    }
}

fn refers_to(account: &ServiceAccount, secret: &str) -> bool {
    account.secrets.iter().flatten().any(|s| s.name.as_deref() == Some(secret))
}

/// The keys of a token Secret that have to be written (`secretUpdateNeeded`).
fn missing(secret: &Secret, root_ca: &str) -> Vec<&'static str> {
    let empty = BTreeMap::new();
    let data = secret.data.as_ref().unwrap_or(&empty);
    let lacks = |name: &str| data.get(name).is_none_or(|value| value.0.is_empty());
    let mut missing = Vec::new();
    if !root_ca.is_empty() && data.get("ca.crt").is_none_or(|value| value.0 != root_ca.as_bytes()) {
        missing.push("ca.crt");
    }
    for name in ["namespace", "token"] {
        if lacks(name) {
            missing.push(name);
        }
    }
    missing
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_missing_is_written() {
        let check = |data: &[(&str, &str)], expected: &[&str]| {
            let data = data.iter().map(|(k, v)| ((*k).to_owned(), ByteString(v.as_bytes().to_vec()))).collect();
            let secret = Secret { data: Some(data), ..Secret::default() };
            assert_eq!(missing(&secret, "CA"), expected);
        };
        check(&[], &["ca.crt", "namespace", "token"]);
        check(&[("token", "t"), ("namespace", "n")], &["ca.crt"]);
        check(&[("token", "t"), ("namespace", "n"), ("ca.crt", "CA")], &[]);
        check(&[("token", "t"), ("namespace", "n"), ("ca.crt", "old")], &["ca.crt"]);
    }
}
