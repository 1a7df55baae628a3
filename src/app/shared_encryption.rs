//! Keys for stored values that all servers of one datastore use.
//!
//! The configuration that skiff makes itself (`--secrets-encryption`) lies in the datastore, encrypted with a key made
//! from the token. Every server follows it, and says which one it has taken over. Before values are written with a new
//! key, every server that is alive must be able to read them: so a change goes out first in a form that only reads with
//! the new key, and is used when all have said that they have it.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use base::{Backoff, Shutdown};
use ring::digest::{SHA256, digest};
use storage::{
    Compare, CompareResult, CompareTarget, KeyRange, Op, Put, RangeOptions, Revision, Store, Txn, WatchMessage,
    WatchOptions,
};

use crate::masterleases;
use crate::shared_keys::{self, Bundle};

const KEY: &str = "skiff/encryption";
/// By the address of a server: which configuration it has.
const TAKEN: &str = "skiff/encryption-taken/";
const NAME: &str = "encryption";
/// An etcd member answers a write within this time, or never.
const WRITES_ARRIVE: Duration = Duration::from_secs(6);
const TAKEN_WITHIN: Duration = Duration::from_secs(40);
/// How often it is looked whether the servers that have not answered are still alive.
const ALIVE_EVERY: Duration = Duration::from_secs(1);

/// This server's access to what the servers share.
pub struct SharedConfiguration {
    store: Arc<dyn Store>,
    token: String,
    /// As the servers that are alive are listed.
    own: IpAddr,
    /// How long the other servers may take to take a configuration over.
    patience: Duration,
    /// How long a write that a server has begun may take to arrive.
    pub writes_arrive: Duration,
}

/// What the datastore holds: the configuration, and when it was written.
pub struct Held {
    pub text: String,
    pub revision: Revision,
}

impl SharedConfiguration {
    pub fn new(store: Arc<dyn Store>, token: &str, own: IpAddr) -> Self {
        Self { store, token: token.to_owned(), own, patience: TAKEN_WITHIN, writes_arrive: WRITES_ARRIVE }
    }

    /// The configuration of the datastore, if it has one.
    pub async fn read(&self) -> anyhow::Result<Option<Held>> {
        let Some((sealed, revision)) = sealed(&*self.store).await? else { return Ok(None) };
        let mut bundle = shared_keys::open(&sealed, &self.token)?;
        let text = bundle.remove(NAME).context("the datastore's encryption configuration is damaged")?;
        Ok(Some(Held { text, revision }))
    }

    /// Replaces what was `held`, and returns when all servers that are alive have taken it over. `apply` takes it over
    /// here.
    ///
    /// # Errors
    /// Somebody else has changed it; or a server does not take it over, which is named.
    pub async fn replace(
        &self,
        held: Option<&Held>,
        text: &str,
        apply: impl FnOnce(&Held) -> anyhow::Result<()>,
    ) -> anyhow::Result<Held> {
        let sealed = shared_keys::seal(&Bundle::from([(NAME.to_owned(), text.to_owned())]), &self.token)?;
        let unchanged = Compare {
            range: KeyRange::key(KEY),
            target: CompareTarget::Mod(held.map_or(Revision(0), |held| held.revision)),
            result: CompareResult::Equal,
        };
        let put = Op::Put(Put { key: KEY.into(), value: sealed.into(), ..Put::default() });
        let txn = Txn { compare: vec![unchanged], success: vec![put], failure: Vec::new() };
        let done = self.store.txn(txn).await.context("cannot write to the datastore")?;
        if !done.succeeded {
            bail!("another server changes the encryption's keys at this moment: try again");
        }
        let held = Held { text: text.to_owned(), revision: done.revision };
        apply(&held)?;
        self.say_taken(text).await?;
        self.all_taken(text).await?;
        Ok(held)
    }

    async fn say_taken(&self, text: &str) -> anyhow::Result<()> {
        let key = format!("{TAKEN}{}", self.own);
        let put = Op::Put(Put { key: key.into(), value: print(text).into(), ..Put::default() });
        let txn = Txn { success: vec![put], ..Txn::default() };
        self.store.txn(txn).await.context("cannot write to the datastore")?;
        Ok(())
    }

    /// Returns when no server that is alive has another configuration.
    async fn all_taken(&self, text: &str) -> anyhow::Result<()> {
        let wanted = print(text);
        let deadline = tokio::time::Instant::now() + self.patience;
        loop {
            let options = WatchOptions { start: Revision(0), prev_kv: false };
            let mut watch = self.store.watch(KeyRange::prefix(TAKEN), options).await?;
            let found = self.store.range(KeyRange::prefix(TAKEN), RangeOptions::default()).await?;
            let have: BTreeSet<IpAddr> = found
                .kvs
                .iter()
                .filter(|kv| kv.value == wanted)
                .filter_map(|kv| std::str::from_utf8(&kv.key).ok()?.strip_prefix(TAKEN)?.parse().ok())
                .collect();
            let alive = masterleases::alive(&*self.store).await?;
            let lacking: Vec<String> = alive
                .iter()
                .filter(|server| **server != self.own && !have.contains(server))
                .map(IpAddr::to_string)
                .collect();
            if lacking.is_empty() {
                return Ok(());
            }
            if tokio::time::Instant::now() >= deadline {
                bail!(
                    "these servers have not taken the encryption's keys over: {}; nothing is written with new keys. Is \
                     their skiff older? Stop or update them, and try again",
                    lacking.join(", ")
                );
            }
            // One more has answered, or one has gone.
            let _told = tokio::time::timeout(ALIVE_EVERY, watch.messages.recv()).await;
        }
    }

    /// Takes over what other servers change, until `shutdown`.
    pub async fn follow(&self, apply: impl Fn(&Held) -> anyhow::Result<()>, shutdown: Shutdown) {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10)).with_jitter(0.2);
        loop {
            let followed = tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                followed = self.follow_once(&apply, || backoff.reset()) => followed,
            };
            if let Err(error) = followed {
                tracing::error!(error = format!("{error:#}"), "cannot take the datastore's encryption keys over");
            }
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(backoff.step()) => {}
            }
        }
    }

    async fn follow_once(
        &self,
        apply: impl Fn(&Held) -> anyhow::Result<()>,
        mut good: impl FnMut(),
    ) -> anyhow::Result<()> {
        let options = WatchOptions { start: Revision(0), prev_kv: false };
        let mut watch = self.store.watch(KeyRange::key(KEY), options).await?;
        loop {
            if let Some(held) = self.read().await? {
                apply(&held)?;
                self.say_taken(&held.text).await?;
            }
            good();
            loop {
                match watch.messages.recv().await {
                    Some(WatchMessage::Events { .. }) => break,
                    Some(WatchMessage::Progress(_)) => {}
                    Some(WatchMessage::Compacted(_) | WatchMessage::Lagged) | None => return Ok(()),
                }
            }
        }
    }
}

/// Whether the datastore's servers share an encryption configuration.
pub async fn is_there(store: &dyn Store) -> anyhow::Result<bool> {
    Ok(sealed(store).await?.is_some())
}

async fn sealed(store: &dyn Store) -> anyhow::Result<Option<(Vec<u8>, Revision)>> {
    let found = store.range(KeyRange::key(KEY), RangeOptions::default()).await.context("cannot read the datastore")?;
    Ok(found.kvs.into_iter().next().map(|kv| (kv.value.to_vec(), kv.mod_revision)))
}

/// Names a configuration without telling it.
fn print(text: &str) -> String {
    digest(&SHA256, text.as_bytes()).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Writes the configuration to `file`, so that the next start finds it without the datastore. What it replaces is kept
/// beside it: it may hold keys that the servers never shared.
pub fn keep(file: &Path, text: &str) -> anyhow::Result<()> {
    match pki::files::read_opt(file)? {
        Some(held) if held == text => return Ok(()),
        Some(held) => pki::files::write(&file.with_extension("json.replaced"), &held, pki::files::PRIVATE)?,
        None => {}
    }
    Ok(pki::files::write(file, text, pki::files::PRIVATE)?)
}

#[cfg(test)]
mod tests {
    use base::SystemClock;
    use storage::{SqliteOptions, SqliteStore};
    use tempfile::TempDir;

    use super::*;
    use crate::encryption::{self, Encryption};
    use crate::layout::Layout;
    use crate::options::SafetyOptions;

    struct Datastore {
        dir: TempDir,
        store: Arc<SqliteStore>,
        shutdown: Shutdown,
    }

    impl Datastore {
        async fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let shutdown = Shutdown::new();
            let path = dir.path().join("db");
            let store = SqliteStore::open(&path, SqliteOptions::default(), shutdown.clone()).await.unwrap();
            Self { dir, store, shutdown }
        }

        async fn put(&self, store: &dyn Store, key: &str, value: &str) {
            let put = Put { key: key.to_owned().into(), value: value.to_owned().into(), ..Put::default() };
            store.txn(Txn { success: vec![Op::Put(put)], ..Txn::default() }).await.unwrap();
        }

        /// A server that lives: the last number of its address.
        async fn server(&self, number: u8, asked: bool) -> anyhow::Result<Arc<Encryption>> {
            let own = IpAddr::from([10, 0, 0, number]);
            let layout = Layout::new(&self.dir.path().join(number.to_string()));
            let options = SafetyOptions {
                snapshot_schedule_cron: String::new(),
                snapshot_retention: 1,
                encryption_provider_config: None,
                secrets_encryption: asked,
            };
            let store = self.store.clone() as Arc<dyn Store>;
            let mut shared = encryption::sharing(&options, &layout, store.clone(), Some("token"), own).await?;
            if let Some(shared) = &mut shared {
                shared.patience = Duration::from_millis(300);
                shared.writes_arrive = Duration::ZERO;
            }
            let prefixes = || [("secrets".to_owned(), "/registry/secrets/".to_owned())].into();
            let opened =
                Encryption::open(&options, &layout, prefixes, store, shared, &SystemClock, &Shutdown::new()).await?;
            let opened = opened.context("no encryption")?;
            tokio::spawn(opened.clone().follow(self.shutdown.clone()));
            self.put(&*self.store, &format!("/registry/masterleases/{own}"), "{}").await;
            Ok(opened)
        }

        async fn read(&self, store: &dyn Store, key: &str) -> String {
            let found = store.range(KeyRange::key(key.to_owned()), RangeOptions::default()).await.unwrap();
            String::from_utf8_lossy(&found.kvs[0].value).into_owned()
        }
    }

    #[tokio::test]
    async fn what_one_server_encrypts_the_others_read_and_rotate() {
        const KEY: &str = "/registry/secrets/a/b";
        let datastore = Datastore::new().await;
        // One that knows nothing of encryption when it starts.
        let first = datastore.server(1, false).await.unwrap();
        assert!(!first.is_on());
        datastore.put(&*first.store, KEY, "one").await;
        let second = datastore.server(2, true).await.unwrap();
        assert!(first.is_on());
        datastore.put(&*first.store, KEY, "two").await;
        assert!(datastore.read(&*datastore.store, KEY).await.starts_with("k8s:enc:secretbox:"));
        assert_eq!(datastore.read(&*second.store, KEY).await, "two");
        let before = datastore.read(&*datastore.store, KEY).await;
        assert_eq!(first.rotate(&SystemClock).await.unwrap(), 1);
        assert_ne!(datastore.read(&*datastore.store, KEY).await, before);
        assert_eq!(datastore.read(&*second.store, KEY).await, "two");
        assert_eq!(second.census().await.unwrap().current, 1);
        let third = datastore.server(3, false).await.unwrap();
        assert_eq!(datastore.read(&*third.store, KEY).await, "two");

        // A server that does not hear of new keys: nothing is written with them.
        datastore.put(&*datastore.store, "/registry/masterleases/10.0.0.9", "{}").await;
        let error = second.rotate(&SystemClock).await.unwrap_err().to_string();
        assert!(error.contains("10.0.0.9") && !error.contains("10.0.0.1,"), "{error}");
        datastore.put(&*third.store, KEY, "three").await;
        assert_eq!(datastore.read(&*first.store, KEY).await, "three");

        let layout = Layout::new(&datastore.dir.path().join("1"));
        let held = std::fs::read_to_string(layout.encryption()).unwrap();
        assert!(held.contains("secretbox"));
        datastore.shutdown.cancel();
    }

    #[tokio::test]
    async fn servers_that_cannot_share_are_told_so() {
        let datastore = Datastore::new().await;
        datastore.server(1, true).await.unwrap();
        let layout = Layout::new(&datastore.dir.path().join("x"));
        let store = || datastore.store.clone() as Arc<dyn Store>;
        let check = async |token: Option<&str>, file: bool, wanted: &str| {
            let options = SafetyOptions {
                snapshot_schedule_cron: String::new(),
                snapshot_retention: 1,
                encryption_provider_config: file.then(|| "/x".into()),
                secrets_encryption: !file,
            };
            let own = IpAddr::from([10, 0, 0, 7]);
            let shared = match encryption::sharing(&options, &layout, store(), token, own).await {
                Ok(Some(shared)) => shared.read().await.map(drop),
                other => other.map(drop),
            };
            let error = format!("{:#}", shared.unwrap_err());
            assert!(error.contains(wanted), "{error}");
        };
        check(None, false, "give this server their --token").await;
        check(Some("guess"), false, "the token is not the one").await;
        check(Some("token"), true, "leave out --encryption-provider-config").await;
        datastore.put(&*datastore.store, "/registry/secrets/a/b", "k8s:enc:aescbc:v1:x:y").await;
        let error = encryption::refuse_unreadable(store(), None).await.unwrap_err().to_string();
        assert!(error.contains("the same --token"), "{error}");
        datastore.shutdown.cancel();
    }
}
