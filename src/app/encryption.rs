//! Encryption at rest: Kubernetes' EncryptionConfiguration (apiserver `server/options/encryptionconfig/config.go`), and
//! keys that skiff makes itself.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use base::{Clock, Shutdown};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use parking_lot::Mutex;
use rand::RngCore;
use serde::{Deserialize, Serialize};
use storage::encryption::{Census, Cipher, EncryptedStore, Kms, ProviderSpec, Rules};
use storage::{KeyRange, RangeOptions, Revision, Store};

use crate::addons;
use crate::layout::Layout;
use crate::options::SafetyOptions;
use crate::shared_encryption::{self, Held, SharedConfiguration};

/// How long a call of a KMS plugin may take (`defaultTimeout`).
const KMS_TIMEOUT: Duration = Duration::from_secs(3);
/// An editor writes a file in several steps; they are taken together.
const SETTLE: Duration = Duration::from_millis(200);
const ROOT: &str = "/registry/";

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Configuration {
    kind: String,
    api_version: String,
    resources: Vec<ResourceRule>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ResourceRule {
    resources: Vec<String>,
    providers: Vec<ProviderRule>,
}

/// Exactly one is set.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct ProviderRule {
    #[serde(skip_serializing_if = "Option::is_none")]
    aescbc: Option<Keys>,
    #[serde(skip_serializing_if = "Option::is_none")]
    aesgcm: Option<Keys>,
    #[serde(skip_serializing_if = "Option::is_none")]
    secretbox: Option<Keys>,
    #[serde(skip_serializing_if = "Option::is_none")]
    identity: Option<Nothing>,
    #[serde(skip_serializing)]
    kms: Option<KmsRule>,
}

/// A plugin that holds the key.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct KmsRule {
    #[serde(default = "kms_v1")]
    api_version: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    endpoint: String,
    #[serde(rename = "cachesize")]
    cache_size: Option<i64>,
    /// As Go writes durations.
    timeout: Option<String>,
}

/// The version of a plugin that names none.
fn kms_v1() -> String {
    "v1".to_owned()
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys {
    keys: Vec<Key>,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Key {
    name: String,
    /// Base64.
    secret: String,
}

impl std::fmt::Debug for Key {
    /// Without the secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Key").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Storage prefixes by resource, `plural` or `plural.group`.
pub type Prefixes = BTreeMap<String, String>;

/// Where each resource of the built-in kinds is kept.
pub fn prefixes(kinds: &[Arc<api::kind::KindDef>]) -> Prefixes {
    let name = |kind: &api::kind::KindDef| match kind.gvk.group.as_str() {
        "" => kind.resource.clone(),
        group => format!("{}.{group}", kind.resource),
    };
    kinds.iter().filter_map(|kind| Some((name(kind), kind.storage.as_ref()?.prefix.clone()))).collect()
}

/// The encryption of a running server.
pub struct Encryption {
    file: PathBuf,
    /// skiff made the file and may change it.
    own: bool,
    prefixes: Prefixes,
    /// Where the file's text lies for all servers of the datastore.
    shared: Option<SharedConfiguration>,
    /// When what is used was written there.
    applied: Mutex<Revision>,
    pub store: Arc<EncryptedStore>,
    /// Until when plugins are asked for their state.
    shutdown: Shutdown,
}

/// How the servers of one datastore share the keys that skiff makes; `None` if they do not.
pub async fn sharing(
    options: &SafetyOptions,
    layout: &Layout,
    store: Arc<dyn Store>,
    token: Option<&str>,
    own: IpAddr,
) -> anyhow::Result<Option<SharedConfiguration>> {
    let there = shared_encryption::is_there(&*store).await?;
    if options.encryption_provider_config.is_some() {
        if there {
            bail!("the servers of this datastore share keys that skiff made: leave out --encryption-provider-config");
        }
        return Ok(None);
    }
    match token {
        Some(token) => Ok(Some(SharedConfiguration::new(store, token, own))),
        None if there => {
            bail!(
                "the datastore's Secrets are encrypted with keys that its servers share: give this server their --token"
            )
        }
        None if options.secrets_encryption && !layout.encryption().exists() => bail!(
            "--secrets-encryption with --datastore-endpoint needs --token, by which servers share the keys; or give every \
             server the same --encryption-provider-config"
        ),
        None => Ok(None),
    }
}

/// Refuses a datastore whose Secrets this server cannot read.
pub async fn refuse_unreadable(store: Arc<dyn Store>, encryption: Option<&Encryption>) -> anyhow::Result<()> {
    let readable = match encryption {
        Some(encryption) => encryption.store.clone(),
        None => EncryptedStore::new(store, Rules::default()),
    };
    let options = RangeOptions { limit: 1, ..RangeOptions::default() };
    let found = readable.range(KeyRange::prefix(format!("{ROOT}secrets/")), options).await;
    found.map(drop).context(
        "cannot read the datastore's Secrets: every server needs the same --token, or the same \
         --encryption-provider-config",
    )
}

impl Encryption {
    /// Puts the encryption that the options ask for in front of `store`; `None` if they ask for none.
    pub async fn open(
        options: &SafetyOptions,
        layout: &Layout,
        prefixes: impl FnOnce() -> Prefixes,
        store: Arc<dyn Store>,
        shared: Option<SharedConfiguration>,
        clock: &dyn Clock,
        shutdown: &Shutdown,
    ) -> anyhow::Result<Option<Arc<Self>>> {
        let (file, own) = match (&options.encryption_provider_config, options.secrets_encryption) {
            (Some(file), _) => (file.clone(), false),
            // Once values are encrypted they must stay readable, also when the flag is gone. Where servers share keys,
            // another one may begin to use them.
            (None, asked) if asked || shared.is_some() || layout.encryption().exists() => (layout.encryption(), true),
            (None, _) => return Ok(None),
        };
        if own && shared.is_none() && !file.exists() {
            write(&file, &configuration(vec![new_key(clock)]))?;
        }
        let encryption = Self {
            file,
            own,
            prefixes: prefixes(),
            shared: shared.filter(|_| own),
            applied: Mutex::new(Revision(0)),
            store: EncryptedStore::new(store, Rules::default()),
            shutdown: shutdown.clone(),
        };
        match &encryption.shared {
            Some(shared) => encryption.join(shared, options.secrets_encryption, clock).await?,
            None => encryption.store.replace(encryption.load().await?),
        }
        Ok(Some(Arc::new(encryption)))
    }

    /// Brings this server and the others of the datastore to one configuration. `asked`: there is to be one.
    async fn join(&self, shared: &SharedConfiguration, asked: bool, clock: &dyn Clock) -> anyhow::Result<()> {
        let wanted = asked || self.file.exists();
        let mut failed: Option<anyhow::Error> = None;
        loop {
            let held = shared.read().await?;
            let (text, done) = match &held {
                Some(held) => {
                    self.apply(held)?;
                    let keys = own_keys(&parse(&held.text)?);
                    // An interrupted start leaves one by which nothing is encrypted yet.
                    let done = !wanted || held.text != print(&reading(keys.clone()))?;
                    (print(&configuration(keys))?, done)
                }
                None if wanted => {
                    let keys = if self.file.exists() { own_keys(&read(&self.file)?) } else { vec![new_key(clock)] };
                    (print(&reading(keys))?, false)
                }
                None => return Ok(()),
            };
            if done {
                return Ok(());
            }
            if let Some(error) = failed.take() {
                return Err(error);
            }
            // Another server that starts may have been first: then it has what we wanted.
            failed = shared.replace(held.as_ref(), &text, |held| self.apply(held)).await.err();
        }
    }

    /// Uses what the servers share, unless something newer is used already.
    fn apply(&self, held: &Held) -> anyhow::Result<()> {
        let mut applied = self.applied.lock();
        if held.revision <= *applied {
            return Ok(());
        }
        shared_encryption::keep(&self.file, &held.text)?;
        self.store.replace(load_own(&self.file, &self.prefixes)?);
        *applied = held.revision;
        tracing::info!("took over the encryption keys that the servers share");
        Ok(())
    }

    /// Whether anything is encrypted.
    pub fn is_on(&self) -> bool {
        !self.own || self.file.exists()
    }

    /// Takes over changes until `shutdown`: of the file, or of what the servers share. A configuration that cannot be
    /// used changes nothing.
    pub async fn follow(self: Arc<Self>, shutdown: Shutdown) {
        match &self.shared {
            Some(shared) => shared.follow(|held| self.apply(held), shutdown).await,
            None => self.follow_file(shutdown).await,
        }
    }

    async fn follow_file(&self, shutdown: Shutdown) {
        let folder = self.file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let watch = match addons::watch(folder) {
            Ok(watch) => watch,
            Err(error) => {
                tracing::error!(folder = %folder.display(), %error, "cannot watch the encryption configuration");
                return;
            }
        };
        let mut text = std::fs::read_to_string(&self.file).unwrap_or_default();
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                changed = addons::changed(&watch) => if changed.is_err() { return },
            }
            tokio::time::sleep(SETTLE).await;
            let Ok(now) = std::fs::read_to_string(&self.file) else { continue };
            if now == text {
                continue;
            }
            text = now;
            match self.load().await {
                Ok(rules) => {
                    self.store.replace(rules);
                    tracing::info!(file = %self.file.display(), "took over the encryption configuration");
                }
                Err(error) => {
                    tracing::error!(error = format!("{error:#}"), "the encryption configuration stays as it was");
                }
            }
        }
    }

    async fn load(&self) -> anyhow::Result<Rules> {
        load(&self.file, &self.prefixes, &self.shutdown).await
    }

    /// How many values are encrypted as they should be.
    pub async fn census(&self) -> anyhow::Result<Census> {
        Ok(self.store.census().await?)
    }

    /// Writes values anew that are not; answers with how many.
    pub async fn reencrypt(&self) -> anyhow::Result<u64> {
        self.store.replace(self.load().await?);
        Ok(self.store.rewrite().await?)
    }

    /// Puts a new key first, writes everything anew and drops the old keys. May be interrupted at any point and run
    /// again: old keys go only when nothing needs them.
    pub async fn rotate(&self, clock: &dyn Clock) -> anyhow::Result<u64> {
        if !self.own {
            bail!(
                "{} is yours: put a new key first in it, run `skiff secrets-encrypt reencrypt`, then remove the old one",
                self.file.display()
            );
        }
        if let Some(shared) = &self.shared {
            return self.rotate_shared(shared, clock).await;
        }
        let mut keys = vec![new_key(clock)];
        keys.extend(own_keys(&read(&self.file)?));
        write(&self.file, &configuration(keys.clone()))?;
        let written = self.reencrypt().await?;
        keys.truncate(1);
        write(&self.file, &configuration(keys))?;
        self.store.replace(self.load().await?);
        Ok(written)
    }

    /// [`Encryption::rotate`] with other servers, which must be able to read what any of them writes at any time.
    async fn rotate_shared(&self, shared: &SharedConfiguration, clock: &dyn Clock) -> anyhow::Result<u64> {
        let held = shared.read().await?.context("the servers share no keys yet")?;
        let old = own_keys(&parse(&held.text)?);
        let new = new_key(clock);
        let readable = [&old[..], std::slice::from_ref(&new)].concat();
        let mut keys = vec![new];
        keys.extend(old);
        let apply = |held: &Held| self.apply(held);
        let held = shared.replace(Some(&held), &print(&configuration(readable))?, apply).await?;
        let held = shared.replace(Some(&held), &print(&configuration(keys.clone()))?, apply).await?;
        let mut written = self.store.rewrite().await?;
        // A write that a server had begun with the old key may still be on its way to the datastore.
        tokio::time::sleep(shared.writes_arrive).await;
        written += self.store.rewrite().await?;
        keys.truncate(1);
        shared.replace(Some(&held), &print(&configuration(keys))?, apply).await?;
        Ok(written)
    }
}

fn new_key(clock: &dyn Clock) -> Key {
    let mut secret = [0; 32];
    rand::rng().fill_bytes(&mut secret);
    Key { name: format!("key{}", clock.now().as_millisecond()), secret: STANDARD.encode(secret) }
}

/// Secrets by secretbox, which upstream calls strong, with `identity` behind it so that older values are read.
fn configuration(keys: Vec<Key>) -> Configuration {
    let provider = ProviderRule { secretbox: Some(Keys { keys }), ..ProviderRule::default() };
    let plain = ProviderRule { identity: Some(Nothing {}), ..ProviderRule::default() };
    Configuration {
        kind: "EncryptionConfiguration".to_owned(),
        api_version: "apiserver.config.k8s.io/v1".to_owned(),
        resources: vec![ResourceRule { resources: vec!["secrets".to_owned()], providers: vec![provider, plain] }],
    }
}

/// The same, while some servers may not know the keys yet: nothing is written with them.
fn reading(keys: Vec<Key>) -> Configuration {
    let mut configuration = configuration(keys);
    configuration.resources.iter_mut().for_each(|rule| rule.providers.reverse());
    configuration
}

fn own_keys(configuration: &Configuration) -> Vec<Key> {
    let providers = configuration.resources.iter().flat_map(|rule| &rule.providers);
    providers.filter_map(|provider| provider.secretbox.as_ref()).flat_map(|keys| keys.keys.clone()).collect()
}

fn write(file: &Path, configuration: &Configuration) -> anyhow::Result<()> {
    Ok(pki::files::write(file, &print(configuration)?, pki::files::PRIVATE)?)
}

fn print(configuration: &Configuration) -> anyhow::Result<String> {
    // JSON is YAML, and needs no other writer.
    Ok(serde_json::to_string_pretty(configuration)?)
}

fn read(file: &Path) -> anyhow::Result<Configuration> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    parse(&text).with_context(|| format!("{} is not valid", file.display()))
}

async fn load(file: &Path, prefixes: &Prefixes, shutdown: &Shutdown) -> anyhow::Result<Rules> {
    let configuration = read(file)?;
    let made = async {
        let plugins = start_plugins(&configuration, shutdown).await?;
        rules(configuration, prefixes, plugins)
    };
    made.await.with_context(|| format!("{} is not valid", file.display()))
}

/// As [`load`], for a file with nothing but keys that skiff made.
fn load_own(file: &Path, prefixes: &Prefixes) -> anyhow::Result<Rules> {
    rules(read(file)?, prefixes, BTreeMap::new()).with_context(|| format!("{} is not valid", file.display()))
}

fn parse(text: &str) -> anyhow::Result<Configuration> {
    let configuration: Configuration = serde_saphyr::from_str(text)
        .map_err(|error| anyhow::anyhow!("{}", error.to_string().lines().next().unwrap_or_default()))?;
    let (kind, version) = (configuration.kind.as_str(), configuration.api_version.as_str());
    if kind != "EncryptionConfiguration" || !matches!(version, "apiserver.config.k8s.io/v1" | "apiserver.k8s.io/v1") {
        bail!("it must be an EncryptionConfiguration of apiserver.config.k8s.io/v1, and is {version} {kind}");
    }
    Ok(configuration)
}

/// `plugins`: those of the configuration, by their names.
fn rules(
    configuration: Configuration,
    prefixes: &Prefixes,
    mut plugins: BTreeMap<String, Arc<Kms>>,
) -> anyhow::Result<Rules> {
    let mut rules = Rules::default();
    for (at, rule) in configuration.resources.into_iter().enumerate() {
        let place = format!("resources[{at}]");
        if rule.resources.is_empty() || rule.providers.is_empty() {
            bail!("{place} needs resources and providers");
        }
        let mut covered = Vec::new();
        for resource in &rule.resources {
            covered.extend(places(resource, prefixes).with_context(|| place.clone())?);
        }
        let mut specs = Vec::new();
        for provider in rule.providers {
            specs.push(spec(provider, &mut plugins).with_context(|| place.clone())?);
        }
        rules.add(covered, specs).with_context(|| place.clone())?;
    }
    Ok(rules)
}

/// Storage prefixes of `secrets`, `deployments.apps`, `things.example.com`, `*.apps`, `*.` (the core group) or `*.*`.
fn places(resource: &str, prefixes: &Prefixes) -> anyhow::Result<Vec<Bytes>> {
    let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
    if resource != resource.to_lowercase() {
        bail!("resource names are lower-case: {resource:?}");
    }
    let found: Vec<Bytes> = match resource.split_once('.') {
        Some(("*", "*")) => vec![bytes(ROOT)],
        Some(("*", group)) => {
            let of_group = |name: &str| name.split_once('.').map_or("", |(_, group)| group) == group;
            let built_in = prefixes.iter().filter(|(name, _)| of_group(name)).map(|(_, prefix)| bytes(prefix));
            // Custom resources lie below their group.
            let custom = (!group.is_empty()).then(|| bytes(&format!("{ROOT}{group}/")));
            built_in.chain(custom).collect()
        }
        _ => match (prefixes.get(resource), resource.split_once('.')) {
            (Some(prefix), _) => vec![bytes(prefix)],
            (None, Some((plural, group))) => vec![bytes(&format!("{ROOT}{group}/{plural}/"))],
            (None, None) => bail!("there is no resource {resource:?}"),
        },
    };
    if found.is_empty() {
        bail!("there is no resource {resource:?}");
    }
    Ok(found)
}

/// Refuses what no plugin could be asked for, before any is (apiserver `validateKMSConfiguration`,
/// `kmsPrefixTransformer`).
fn check_plugins(configuration: &Configuration) -> anyhow::Result<()> {
    let mut names = BTreeSet::new();
    for rule in configuration.resources.iter().flat_map(|rule| &rule.providers).filter_map(|rule| rule.kms.as_ref()) {
        let KmsRule { api_version, name, endpoint, cache_size, .. } = rule;
        match api_version.as_str() {
            "v1" => bail!(
                "KMSv1 is deprecated and will only receive security updates going forward. Use KMSv2 instead.  Set \
                 --feature-gates=KMSv1=true to use the deprecated KMSv1 feature."
            ),
            "v2" => {}
            other => bail!("unsupported apiVersion {other} for KMS provider, only v1 and v2 are supported"),
        }
        if name.is_empty() {
            bail!("name is a mandatory field for a provider");
        }
        if name.contains(':') {
            bail!("invalid KMS provider name {name}, must not contain ':'");
        }
        if !names.insert(name) {
            bail!("duplicate KMS provider name {name}, names must be unique");
        }
        if endpoint.is_empty() {
            bail!("endpoint is a mandatory field for a kms");
        }
        if cache_size.is_some() {
            bail!("cachesize is not supported in v2");
        }
        timeout(rule)?;
    }
    Ok(())
}

/// Starts every plugin of the configuration.
async fn start_plugins(
    configuration: &Configuration,
    shutdown: &Shutdown,
) -> anyhow::Result<BTreeMap<String, Arc<Kms>>> {
    check_plugins(configuration)?;
    let mut plugins = BTreeMap::new();
    for rule in configuration.resources.iter().flat_map(|rule| &rule.providers).filter_map(|rule| rule.kms.as_ref()) {
        let plugin = Kms::start(&rule.name, &rule.endpoint, timeout(rule)?, shutdown).await?;
        plugins.insert(rule.name.clone(), plugin);
    }
    Ok(plugins)
}

fn timeout(rule: &KmsRule) -> anyhow::Result<Duration> {
    let Some(text) = &rule.timeout else { return Ok(KMS_TIMEOUT) };
    let timeout =
        apiserver::filters::deadline::parse(text).with_context(|| format!("time: invalid duration {text:?}"))?;
    if timeout.is_zero() {
        bail!("timeout should be a positive value");
    }
    Ok(timeout)
}

fn spec(rule: ProviderRule, plugins: &mut BTreeMap<String, Arc<Kms>>) -> anyhow::Result<ProviderSpec> {
    let given = [
        rule.aescbc.is_some(),
        rule.aesgcm.is_some(),
        rule.secretbox.is_some(),
        rule.identity.is_some(),
        rule.kms.is_some(),
    ];
    if given.iter().filter(|given| **given).count() != 1 {
        bail!("a provider is exactly one of kms, aescbc, aesgcm, secretbox and identity");
    }
    if let Some(kms) = &rule.kms {
        let plugin =
            plugins.remove(&kms.name).with_context(|| format!("the KMS plugin {:?} is not started", kms.name))?;
        return Ok(ProviderSpec::Kms(plugin));
    }
    let (cipher, keys) = match rule {
        ProviderRule { aescbc: Some(keys), .. } => (Cipher::AesCbc, keys),
        ProviderRule { aesgcm: Some(keys), .. } => (Cipher::AesGcm, keys),
        ProviderRule { secretbox: Some(keys), .. } => (Cipher::Secretbox, keys),
        _ => return Ok(ProviderSpec::Identity),
    };
    if keys.keys.is_empty() {
        bail!("a provider needs keys");
    }
    let mut decoded = Vec::new();
    for Key { name, secret } in keys.keys {
        if name.is_empty() || name.contains(':') {
            bail!("a key needs a name without a colon");
        }
        if decoded.iter().any(|(other, _)| *other == name) {
            bail!("two keys are named {name:?}");
        }
        let secret =
            STANDARD.decode(secret.trim()).ok().with_context(|| format!("the secret of {name:?} is not base64"))?;
        decoded.push((name, secret));
    }
    Ok(ProviderSpec::Keys(cipher, decoded))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known() -> Prefixes {
        [
            ("secrets", "/registry/secrets/"),
            ("nodes", "/registry/minions/"),
            ("deployments.apps", "/registry/deployments/"),
            ("replicasets.apps", "/registry/replicasets/"),
        ]
        .map(|(name, prefix)| (name.to_owned(), prefix.to_owned()))
        .into()
    }

    #[test]
    fn resources_have_their_storage_prefixes() {
        let check = |resource: &str, wanted: &[&str]| {
            let found = places(resource, &known()).unwrap_or_default();
            assert_eq!(found.iter().map(|b| String::from_utf8_lossy(b).into_owned()).collect::<Vec<_>>(), wanted);
        };
        check("secrets", &["/registry/secrets/"]);
        check("deployments.apps", &["/registry/deployments/"]);
        check("*.apps", &["/registry/deployments/", "/registry/replicasets/", "/registry/apps/"]);
        check("*.", &["/registry/minions/", "/registry/secrets/"]);
        check("*.*", &["/registry/"]);
        check("things.example.com", &["/registry/example.com/things/"]);
        check("nothing", &[]);
    }

    #[tokio::test]
    async fn mistakes_are_named() {
        let check = async |providers: &str, wanted: &str| {
            let text = format!(
                "kind: EncryptionConfiguration\napiVersion: apiserver.config.k8s.io/v1\nresources:\n- resources: \
                 [secrets]\n  providers: {providers}\n"
            );
            let found = match parse(&text) {
                Ok(parsed) => match start_plugins(&parsed, &Shutdown::new()).await {
                    Ok(plugins) => rules(parsed, &known(), plugins).map(drop),
                    Err(error) => Err(error),
                },
                Err(error) => Err(error),
            };
            let text = found.err().map(|error| format!("{error:#}")).unwrap_or_default();
            assert!(text.contains(wanted) && text.is_empty() == wanted.is_empty(), "{providers}: {text}");
        };
        let key = STANDARD.encode([1; 32]);
        check(&format!("[{{aesgcm: {{keys: [{{name: a, secret: {key}}}]}}}}, {{identity: {{}}}}]"), "").await;
        check("[{aesgcm: {keys: [{name: a, secret: c2hvcnQ=}]}}]", "must have 16, 24 or 32 bytes and has 5").await;
        check("[{aescbc: {keys: [{name: 'a:b', secret: c2hvcnQ=}]}}]", "without a colon").await;
        check("[{aescbc: {keys: []}}]", "needs keys").await;
        check("[{kms: {name: x, endpoint: 'unix:///x'}}]", "KMSv1 is deprecated and will only receive").await;
        check("[{kms: {apiVersion: v3, name: x, endpoint: 'unix:///x'}}]", "unsupported apiVersion v3").await;
        check("[{kms: {apiVersion: v2, name: 'x:y', endpoint: 'unix:///x'}}]", "must not contain ':'").await;
        check("[{kms: {apiVersion: v2, endpoint: 'unix:///x'}}]", "name is a mandatory field").await;
        check("[{kms: {apiVersion: v2, name: x}}]", "endpoint is a mandatory field").await;
        check("[{kms: {apiVersion: v2, name: x, endpoint: 'tcp://x'}}]", "only unix is supported").await;
        check("[{kms: {apiVersion: v2, name: x, endpoint: 'unix:///x', timeout: 0s}}]", "positive value").await;
        check(
            "[{kms: {apiVersion: v2, name: x, endpoint: 'unix:///x', cachesize: 5}}]",
            "cachesize is not supported in v2",
        )
        .await;
        let twice = "{kms: {apiVersion: v2, name: x, endpoint: 'unix:///x'}}";
        check(&format!("[{twice}, {twice}]"), "duplicate KMS provider name x").await;
        check("[{rot13: {}}]", "rot13").await;
        check("[]", "needs resources and providers").await;
    }

    #[tokio::test]
    async fn keys_of_our_own_are_a_valid_configuration() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("encryption.json");
        write(&file, &configuration(vec![new_key(&base::SystemClock)])).unwrap();
        load(&file, &known(), &Shutdown::new()).await.unwrap();
        assert_eq!(own_keys(&read(&file).unwrap()).len(), 1);
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig {
            failure_persistence: None,
            ..proptest::prelude::ProptestConfig::default()
        })]

        #[test]
        fn no_configuration_panics(words in proptest::collection::vec(proptest::sample::select(vec![
            "- resources: [secrets]\n", "- resources: ['*.*', '*.', '.', 'a.b', '*.apps']\n", "  providers:\n", "  - identity: {}\n",
            "  - aesgcm: {keys: [{name: a, secret: MDEyMzQ1Njc4OWFiY2RlZg==}]}\n", "  - aescbc: {keys: [{name: a, secret: '!'}]}\n",
            "  - secretbox: {keys: [{name: '', secret: ''}]}\n", "  - secretbox: {keys: []}\n",
            "  - kms: {apiVersion: v2, name: k, endpoint: 'unix:///x', timeout: 3s}\n", "  - kms: {apiVersion: v2, timeout: 1e9h}\n",
            "&a ", "*a", "[", "}", "null\n", "\t",
        ]), 0..10), any in "\\PC{0,80}") {
            let text = format!("kind: EncryptionConfiguration\napiVersion: apiserver.config.k8s.io/v1\nresources:\n{}", words.concat());
            for text in [text, any] {
                if let Ok(read) = parse(&text) {
                    let _checked = check_plugins(&read);
                    let _rules = rules(read, &known(), BTreeMap::new());
                }
            }
        }
    }
}
