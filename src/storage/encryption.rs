//! Encryption at rest: a [`Store`] in front of another that encrypts the values of chosen keys.
//!
//! Which keys, by prefix, and how is a [`Rules`] value that can be replaced while the store runs. A value is read with
//! whichever provider wrote it and written with the first one of its rule, so keys are rotated by putting a new one
//! first, [rewriting](EncryptedStore::rewrite) what is stored, and taking the old one away.

mod envelope;
mod kms;
pub mod kms_plugin;
mod provider;

use std::sync::Arc;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::Bytes;
use tokio_util::sync::ReusableBoxFuture;

pub use envelope::{EnvelopeError, KeyIdError};
pub use kms::{Kms, KmsEndpointError};
pub use provider::{Cipher, ValueError};

use crate::store::{
    Compare, CompareResult, CompareTarget, Decoded, Event, KeyRange, KeyValue, LeaseId, LeaseStatus, Op, OpResult, Put,
    RangeOptions, RangeResult, Revision, Store, StoreError, Txn, TxnResult, Unreadable, Watch, WatchMessage,
    WatchOptions,
};
use provider::{Provider, described_prefix};

/// Upstream's health check of all plugins together (`kmsReloadHealthCheckName`).
const KMS_CHECK: &str = "kms-providers";
/// Keys looked at in one read when values are written anew.
const PAGE: usize = 200;

/// Which keys' values are encrypted, and how.
#[derive(Clone, Default)]
pub struct Rules {
    rules: Vec<Rule>,
}

#[derive(Clone)]
struct Rule {
    prefixes: Vec<KeyRange>,
    providers: Vec<Provider>,
}

/// One provider of a rule.
#[derive(Clone)]
pub enum ProviderSpec {
    /// Values as they are.
    Identity,
    /// A cipher with its keys, name and secret; the first one writes.
    Keys(Cipher, Vec<(String, Vec<u8>)>),
    /// A plugin that holds the key.
    Kms(Arc<Kms>),
}

impl std::fmt::Debug for ProviderSpec {
    /// Without the secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Identity => f.write_str("Identity"),
            Self::Keys(cipher, keys) => f
                .debug_tuple("Keys")
                .field(cipher)
                .field(&keys.iter().map(|(name, _)| name).collect::<Vec<_>>())
                .finish(),
            Self::Kms(kms) => f.debug_tuple("Kms").field(&kms.name()).finish(),
        }
    }
}

impl Rules {
    /// Adds a rule for keys with any of `prefixes` that no earlier rule covers.
    pub fn add(&mut self, prefixes: Vec<Bytes>, providers: Vec<ProviderSpec>) -> Result<(), ValueError> {
        let mut flat = Vec::new();
        for spec in providers {
            match spec {
                ProviderSpec::Identity => flat.push(Provider::Plain),
                ProviderSpec::Kms(kms) => {
                    let prefix = kms::prefix(kms.name()).into_bytes();
                    flat.push(Provider::Kms(kms, prefix));
                }
                ProviderSpec::Keys(cipher, keys) => {
                    for (name, secret) in keys {
                        flat.push(Provider::keyed(cipher, &name, secret)?);
                    }
                }
            }
        }
        let prefixes = prefixes.into_iter().map(KeyRange::prefix).collect();
        self.rules.push(Rule { prefixes, providers: flat });
        Ok(())
    }

    /// Every prefix of every rule, in their order.
    fn prefixes(&self) -> Vec<KeyRange> {
        self.rules.iter().flat_map(|rule| rule.prefixes.iter().cloned()).collect()
    }

    fn providers(&self, key: &[u8]) -> &[Provider] {
        let rule = self.rules.iter().find(|rule| rule.prefixes.iter().any(|prefix| prefix.contains(key)));
        rule.map_or(&[Provider::Plain][..], |rule| &rule.providers)
    }

    fn encode(&self, key: &[u8], value: &Bytes) -> Result<Bytes, ValueError> {
        match self.providers(key).first() {
            None | Some(Provider::Plain) => Ok(value.clone()),
            Some(provider) => provider.encrypt(key, value),
        }
    }

    /// The plugins, in their order.
    fn plugins(&self) -> impl Iterator<Item = &Arc<Kms>> {
        self.rules.iter().flat_map(|rule| &rule.providers).filter_map(|provider| match provider {
            Provider::Kms(kms, _) => Some(kms),
            Provider::Plain | Provider::Keyed(_) => None,
        })
    }

    /// The provider that holds the key of a stored value and has yet to make it known.
    fn to_load(&self, key: &[u8], stored: &Bytes) -> Option<&Provider> {
        self.providers(key).iter().find(|provider| provider.needs_load(stored))
    }

    /// Makes the keys of stored values known that are not. Where that fails, reading the value says so.
    async fn load(&self, kvs: impl Iterator<Item = &KeyValue>) {
        for kv in kvs {
            if let Some(provider) = self.to_load(&kv.key, &kv.value)
                && let Err(error) = provider.load(&kv.value).await
            {
                tracing::warn!(error = %base::chain(&error), "cannot decrypt with a KMS plugin");
            }
        }
    }

    /// The value, and whether it would be written differently now.
    fn decode(&self, key: &[u8], stored: &Bytes) -> Result<(Bytes, bool), ValueError> {
        for (at, provider) in self.providers(key).iter().enumerate() {
            if provider.wrote(stored) {
                let (value, stale) = provider.decrypt(key, stored)?;
                return Ok((value, stale || at > 0));
            }
        }
        Err(ValueError::NoProvider { prefix: described_prefix(stored) })
    }
}

/// A [`Store`] whose chosen values are encrypted in the one behind it.
pub struct EncryptedStore {
    inner: Arc<dyn Store>,
    rules: Arc<ArcSwap<Rules>>,
}

/// What a look at the stored values found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Census {
    /// Values that the rules' first providers wrote.
    pub current: u64,
    /// Values that are still to be written anew.
    pub stale: u64,
    /// Values that no provider reads.
    pub unreadable: u64,
}

impl EncryptedStore {
    pub fn new(inner: Arc<dyn Store>, rules: Rules) -> Arc<Self> {
        Arc::new(Self { inner, rules: Arc::new(ArcSwap::from_pointee(rules)) })
    }

    /// From now on these rules hold.
    pub fn replace(&self, rules: Rules) {
        self.rules.store(Arc::new(rules));
    }

    /// Counts which of the values under the rules are written as the rules say.
    pub async fn census(&self) -> Result<Census, StoreError> {
        let mut census = Census::default();
        let mut walk = Walk::new(&self.rules.load());
        while let Some(page) = walk.next_page(&*self.inner).await? {
            let rules = self.rules.load_full();
            rules.load(page.iter()).await;
            for kv in page {
                match rules.decode(&kv.key, &kv.value) {
                    Ok((_, false)) => census.current += 1,
                    Ok((_, true)) => census.stale += 1,
                    Err(_) => census.unreadable += 1,
                }
            }
        }
        Ok(census)
    }

    /// Writes every value anew that another provider than the first one wrote; answers with how many. A value that
    /// somebody else changes meanwhile is written as it must be by them.
    pub async fn rewrite(&self) -> Result<u64, StoreError> {
        let mut written = 0;
        let mut walk = Walk::new(&self.rules.load());
        while let Some(page) = walk.next_page(&*self.inner).await? {
            for kv in page {
                written += u64::from(self.rewrite_one(kv).await?);
            }
        }
        Ok(written)
    }

    async fn rewrite_one(&self, kv: KeyValue) -> Result<bool, StoreError> {
        let rules = self.rules.load_full();
        rules.load(std::iter::once(&kv)).await;
        let (value, stale) = rules.decode(&kv.key, &kv.value).map_err(|error| failed(&kv.key, error))?;
        if !stale {
            return Ok(false);
        }
        let value = rules.encode(&kv.key, &value).map_err(|error| failed(&kv.key, error))?;
        let unchanged = Compare {
            range: KeyRange::key(kv.key.clone()),
            target: CompareTarget::Mod(kv.mod_revision),
            result: CompareResult::Equal,
        };
        let put = Put { key: kv.key, value, lease: kv.lease, ..Put::default() };
        let txn = Txn { compare: vec![unchanged], success: vec![Op::Put(put)], failure: Vec::new() };
        Ok(self.inner.txn(txn).await?.succeeded)
    }
}

/// A walk over every stored key under the rules, a page at a time.
struct Walk {
    prefixes: Vec<KeyRange>,
    /// The prefix that is walked, and what is left of it.
    at: usize,
    rest: Option<KeyRange>,
}

impl Walk {
    fn new(rules: &Rules) -> Self {
        let prefixes = rules.prefixes();
        Self { rest: prefixes.first().cloned(), prefixes, at: 0 }
    }

    async fn next_page(&mut self, store: &dyn Store) -> Result<Option<Vec<KeyValue>>, StoreError> {
        let Some(mut range) = self.rest.take() else { return Ok(None) };
        let options = RangeOptions { limit: PAGE, ..RangeOptions::default() };
        let mut page = store.range(range.clone(), options).await?;
        match page.kvs.last().filter(|_| page.more) {
            Some(last) => {
                range.start = [&last.key[..], &[0]].concat().into();
                self.rest = Some(range);
            }
            None => {
                self.rest = self.prefixes.get(self.at + 1).cloned();
            }
        }
        // An earlier prefix has had the others.
        page.kvs.retain(|kv| !self.prefixes[..self.at].iter().any(|earlier| earlier.contains(&kv.key)));
        self.at += usize::from(!page.more);
        Ok(Some(page.kvs))
    }
}

/// Names the key whose value could not be written or read.
#[derive(Debug, thiserror::Error)]
#[error("unable to transform key {key:?}")]
struct KeyError {
    key: String,
    #[source]
    source: ValueError,
}

fn failed(key: &[u8], source: ValueError) -> StoreError {
    let key = String::from_utf8_lossy(key).into_owned();
    StoreError::Engine { step: "encrypt or decrypt", source: Box::new(KeyError { key, source }) }
}

fn decode_kv(rules: &Rules, kv: &mut KeyValue) -> Result<(), StoreError> {
    let (value, _) = rules.decode(&kv.key, &kv.value).map_err(|error| failed(&kv.key, error))?;
    kv.value = value;
    Ok(())
}

fn decode_results(rules: &Rules, results: &mut [OpResult]) -> Result<(), StoreError> {
    for result in results {
        match result {
            OpResult::Put { prev } => prev.iter_mut().try_for_each(|kv| decode_kv(rules, kv))?,
            OpResult::Delete { prev, .. } => prev.iter_mut().try_for_each(|kv| decode_kv(rules, kv))?,
            OpResult::Range(range) => decode_range(rules, range)?,
            OpResult::Txn(inner) => decode_results(rules, &mut inner.results)?,
        }
    }
    Ok(())
}

/// Every value in the answers of a transaction.
fn values_of(results: &[OpResult]) -> Vec<&KeyValue> {
    let mut found = Vec::new();
    for result in results {
        match result {
            OpResult::Put { prev } => found.extend(prev),
            OpResult::Delete { prev, .. } => found.extend(prev),
            OpResult::Range(range) => found.extend(&range.kvs),
            OpResult::Txn(inner) => found.extend(values_of(&inner.results)),
        }
    }
    found
}

fn decode_range(rules: &Rules, range: &mut RangeResult) -> Result<(), StoreError> {
    range.kvs.iter_mut().filter(|kv| !kv.value.is_empty()).try_for_each(|kv| decode_kv(rules, kv))
}

fn encode_ops(rules: &Rules, ops: &mut [Op]) -> Result<(), StoreError> {
    for op in ops {
        match op {
            Op::Put(put) if !put.ignore_value => {
                put.value = rules.encode(&put.key, &put.value).map_err(|error| failed(&put.key, error))?;
            }
            Op::Txn(inner) => {
                encode_ops(rules, &mut inner.success)?;
                encode_ops(rules, &mut inner.failure)?;
            }
            Op::Put(_) | Op::Delete { .. } | Op::Range { .. } => {}
        }
    }
    Ok(())
}

/// The values of a message.
fn values_told(events: &[Event]) -> impl Iterator<Item = &KeyValue> {
    events.iter().flat_map(|event| std::iter::once(&event.kv).chain(&event.prev))
}

/// A message with its values decrypted, at once if their keys are known, as they are but for the first one of a key
/// that another server made.
fn decode_later(rules: Arc<Rules>, message: WatchMessage) -> Decoded {
    if let WatchMessage::Events { events, .. } = &message
        && values_told(events).any(|kv| rules.to_load(&kv.key, &kv.value).is_some())
    {
        let events = events.clone();
        return Decoded::Later(ReusableBoxFuture::new(async move {
            rules.load(values_told(&events)).await;
            decode_message(&rules, message)
        }));
    }
    Decoded::Now(decode_message(&rules, message))
}

/// A message with its values decrypted. A value that cannot be read is said loudly and passed on as it is: the events
/// of others must not suffer.
fn decode_message(rules: &Rules, message: WatchMessage) -> WatchMessage {
    let WatchMessage::Events { revision, events } = message else { return message };
    let encrypted = |event: &Event| {
        let touched = |kv: &KeyValue| !matches!(rules.providers(&kv.key), [Provider::Plain]) && !kv.value.is_empty();
        touched(&event.kv) || event.prev.as_ref().is_some_and(touched)
    };
    if !events.iter().any(encrypted) {
        return WatchMessage::Events { revision, events };
    }
    let decoded: Vec<Event> = events
        .iter()
        .map(|event| {
            let mut event = event.clone();
            for kv in std::iter::once(&mut event.kv).chain(event.prev.as_mut()) {
                if !kv.value.is_empty()
                    && let Err(error) = decode_kv(rules, kv)
                {
                    tracing::error!(error = %base::chain(&error), "cannot read a changed value");
                }
            }
            event
        })
        .collect();
    WatchMessage::Events { revision, events: decoded.into() }
}

#[async_trait]
impl Store for EncryptedStore {
    async fn range(&self, range: KeyRange, options: RangeOptions) -> Result<RangeResult, StoreError> {
        let mut result = self.inner.range(range, options).await?;
        let rules = self.rules.load_full();
        rules.load(result.kvs.iter()).await;
        decode_range(&rules, &mut result)?;
        Ok(result)
    }

    async fn range_readable(
        &self,
        range: KeyRange,
        options: RangeOptions,
    ) -> Result<(RangeResult, Vec<Unreadable>), StoreError> {
        let mut result = self.inner.range(range, options).await?;
        let rules = self.rules.load_full();
        rules.load(result.kvs.iter()).await;
        let mut unreadable = Vec::new();
        for kv in result.kvs.iter_mut().filter(|kv| !kv.value.is_empty()) {
            match rules.decode(&kv.key, &kv.value) {
                Ok((value, _)) => kv.value = value,
                Err(error) => unreadable.push(Unreadable { key: kv.key.clone(), why: error.told() }),
            }
        }
        Ok((result, unreadable))
    }

    async fn txn(&self, mut txn: Txn) -> Result<TxnResult, StoreError> {
        let rules = self.rules.load_full();
        encode_ops(&rules, &mut txn.success)?;
        encode_ops(&rules, &mut txn.failure)?;
        let mut result = self.inner.txn(txn).await?;
        rules.load(values_of(&result.results).into_iter()).await;
        decode_results(&rules, &mut result.results)?;
        Ok(result)
    }

    async fn watch(&self, range: KeyRange, options: WatchOptions) -> Result<Watch, StoreError> {
        let watch = self.inner.watch(range, options).await?;
        let rules = self.rules.clone();
        let messages = watch.messages.decoded(move |message| decode_later(rules.load_full(), message));
        Ok(Watch { messages, revision: watch.revision })
    }

    async fn request_progress(&self) -> Result<(), StoreError> {
        self.inner.request_progress().await
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        self.inner.revision().await
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.inner.compact(revision).await
    }

    async fn lease_grant(&self, id: LeaseId, ttl: i64) -> Result<LeaseStatus, StoreError> {
        self.inner.lease_grant(id, ttl).await
    }

    async fn lease_revoke(&self, id: LeaseId) -> Result<(), StoreError> {
        self.inner.lease_revoke(id).await
    }

    async fn lease_keep_alive(&self, id: LeaseId) -> Result<i64, StoreError> {
        self.inner.lease_keep_alive(id).await
    }

    async fn lease_status(&self, id: LeaseId, keys: bool) -> Result<LeaseStatus, StoreError> {
        self.inner.lease_status(id, keys).await
    }

    async fn leases(&self) -> Result<Vec<LeaseId>, StoreError> {
        self.inner.leases().await
    }

    async fn size(&self) -> Result<(u64, u64), StoreError> {
        self.inner.size().await
    }

    async fn metrics(&self, page: &mut String) -> Result<(), StoreError> {
        self.inner.metrics(page).await
    }

    fn checks(&self) -> Vec<&'static str> {
        let mut checks = self.inner.checks();
        if self.rules.load().plugins().next().is_some() {
            checks.push(KMS_CHECK);
        }
        checks
    }

    async fn check(&self, name: &str) -> Result<(), String> {
        if name != KMS_CHECK {
            return self.inner.check(name).await;
        }
        let plugins: Vec<Arc<Kms>> = self.rules.load().plugins().cloned().collect();
        let mut errors = Vec::new();
        for (at, plugin) in plugins.iter().enumerate() {
            if let Err(error) = plugin.check().await {
                errors.push(format!("kms-provider-{at}: {error}"));
            }
        }
        match errors.len() {
            0 => Ok(()),
            1 => Err(errors.remove(0)),
            _ => Err(format!("[{}]", errors.join(", "))),
        }
    }
}
