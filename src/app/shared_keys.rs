//! The certificate authorities and the service-account key that servers of one datastore share.
//!
//! With a token the first server leaves them in the datastore, encrypted with a key made from the token, and the others
//! take them from there, as k3s does. Without one the datastore only remembers which authority its cluster has, so that
//! a server with another one refuses to start instead of spoiling the cluster.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::path::Path;

use anyhow::{Context, bail};
use base::Clock;
use pki::{CertificateAuthority, TokenSigner};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::digest::{SHA256, digest};
use ring::pbkdf2;
use ring::rand::{SecureRandom, SystemRandom};
use storage::{Compare, CompareResult, CompareTarget, KeyRange, Op, Put, RangeOptions, Revision, Store, Txn};

const BUNDLE: &str = "skiff/shared-keys";
const AUTHORITY: &str = "skiff/authority";
/// Work to try one token; a start does it once.
const ROUNDS: NonZeroU32 = NonZeroU32::new(100_000).unwrap();
const SALT_LEN: usize = 16;
const FORM: u8 = 1;

/// Everything that servers share, by file name.
pub type Bundle = BTreeMap<String, String>;

const FILES: [&str; 5] = ["ca.crt", "ca.key", "front-proxy-ca.crt", "front-proxy-ca.key", "service-account.key"];

/// Brings the files in `dir` and the datastore into agreement.
pub async fn agree(store: &dyn Store, dir: &Path, token: Option<&str>, clock: &dyn Clock) -> anyhow::Result<()> {
    if let Some(token) = token {
        agree_by_token(store, dir, token, clock).await?;
    }
    let Some(ca) = pki::files::read_opt(&dir.join("ca.crt"))? else { return Ok(()) };
    remember_authority(store, &ca).await
}

/// Refuses an authority that is not the one of the datastore's cluster; enters it if there is none.
pub async fn remember_authority(store: &dyn Store, ca_pem: &str) -> anyhow::Result<()> {
    let print: String = digest(&SHA256, ca_pem.trim().as_bytes()).as_ref().iter().map(|b| format!("{b:02x}")).collect();
    let held = put_new(store, AUTHORITY, print.clone().into_bytes()).await?;
    if held.as_deref().is_some_and(|held| held != print.as_bytes()) {
        bail!(
            "the datastore belongs to a cluster with another certificate authority: give every server the same --token, \
             or copy the folder tls of the first server's data folder"
        );
    }
    Ok(())
}

async fn agree_by_token(store: &dyn Store, dir: &Path, token: &str, clock: &dyn Clock) -> anyhow::Result<()> {
    let local = read_local(dir)?;
    loop {
        if let Some(sealed) = get(store, BUNDLE).await? {
            let held = open(&sealed, token)?;
            return match &local {
                Some(local) if *local == held => Ok(()),
                Some(_) => bail!(
                    "the datastore's certificate authority is another than the one in {}: this server belonged to \
                     another cluster",
                    dir.display()
                ),
                None => write_local(dir, &held),
            };
        }
        let offered = match &local {
            Some(local) => local.clone(),
            None => generate(clock)?,
        };
        // Whoever is first; all read again.
        put_new(store, BUNDLE, seal(&offered, token)?).await?;
    }
}

/// The files of a server that has started.
pub fn read_files(dir: &Path) -> anyhow::Result<Bundle> {
    read_local(dir)?.with_context(|| format!("{} lacks some of {}", dir.display(), FILES.join(", ")))
}

fn read_local(dir: &Path) -> anyhow::Result<Option<Bundle>> {
    let mut bundle = Bundle::new();
    for name in FILES {
        if let Some(text) = pki::files::read_opt(&dir.join(name))? {
            bundle.insert(name.to_owned(), text);
        }
    }
    // An interrupted first start leaves some of them; they are made anew together.
    Ok((bundle.len() == FILES.len()).then_some(bundle))
}

/// Writes the files that servers share.
pub fn write_local(dir: &Path, bundle: &Bundle) -> anyhow::Result<()> {
    for name in FILES {
        let text = bundle.get(name).with_context(|| format!("the datastore's shared keys lack {name}"))?;
        let mode = if name.ends_with(".crt") { pki::files::PUBLIC } else { pki::files::PRIVATE };
        pki::files::write(&dir.join(name), text, mode)?;
    }
    Ok(())
}

/// New authorities and a new key, made in a folder of their own.
fn generate(clock: &dyn Clock) -> anyhow::Result<Bundle> {
    let name = format!("skiff-keys-{}", uuid::Uuid::new_v4());
    let dir = std::env::temp_dir().join(name);
    let make = || -> anyhow::Result<Option<Bundle>> {
        CertificateAuthority::load_or_create(&dir, "ca", "skiff-ca", clock)?;
        CertificateAuthority::load_or_create(&dir, "front-proxy-ca", "skiff-front-proxy-ca", clock)?;
        TokenSigner::load_or_create(&dir.join("service-account.key"), "https://kubernetes.default.svc")?;
        read_local(&dir)
    };
    std::os::unix::fs::DirBuilderExt::mode(&mut std::fs::DirBuilder::new(), 0o700)
        .create(&dir)
        .with_context(|| format!("cannot make {}", dir.display()))?;
    let made = make();
    std::fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))?;
    made?.context("the new keys could not be read back")
}

async fn get(store: &dyn Store, key: &'static str) -> anyhow::Result<Option<Vec<u8>>> {
    let found = store.range(KeyRange::key(key), RangeOptions::default()).await.context("cannot read the datastore")?;
    Ok(found.kvs.into_iter().next().map(|kv| kv.value.to_vec()))
}

/// Writes a key that does not exist; answers with what it holds if it does.
async fn put_new(store: &dyn Store, key: &'static str, value: Vec<u8>) -> anyhow::Result<Option<Vec<u8>>> {
    let missing =
        Compare { range: KeyRange::key(key), target: CompareTarget::Create(Revision(0)), result: CompareResult::Equal };
    let put = Op::Put(Put { key: key.into(), value: value.into(), ..Put::default() });
    let txn = Txn { compare: vec![missing], success: vec![put], failure: Vec::new() };
    let done = store.txn(txn).await.context("cannot write to the datastore")?;
    if done.succeeded { Ok(None) } else { get(store, key).await }
}

fn key_of(token: &str, salt: &[u8]) -> anyhow::Result<LessSafeKey> {
    let mut key = [0; 32];
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, ROUNDS, salt, token.as_bytes(), &mut key);
    let key = UnboundKey::new(&AES_256_GCM, &key).map_err(|_| anyhow::anyhow!("cannot make a key from the token"))?;
    Ok(LessSafeKey::new(key))
}

/// Encrypts with a key made from the token: a byte for the form, salt, nonce, sealed JSON.
pub fn seal(bundle: &Bundle, token: &str) -> anyhow::Result<Vec<u8>> {
    let mut head = [0; 1 + SALT_LEN + NONCE_LEN];
    SystemRandom::new().fill(&mut head).map_err(|_| anyhow::anyhow!("there are no random numbers"))?;
    head[0] = FORM;
    let mut nonce = [0; NONCE_LEN];
    nonce.copy_from_slice(&head[1 + SALT_LEN..]);
    let mut text = serde_json::to_vec(bundle)?;
    key_of(token, &head[1..=SALT_LEN])?
        .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(BUNDLE), &mut text)
        .map_err(|_| anyhow::anyhow!("cannot encrypt the shared keys"))?;
    Ok([&head[..], &text].concat())
}

/// Undoes [`seal`]; an error if the token is another one.
pub fn open(sealed: &[u8], token: &str) -> anyhow::Result<Bundle> {
    let (head, text) =
        sealed.split_at_checked(1 + SALT_LEN + NONCE_LEN).context("the datastore's shared keys are damaged")?;
    if head[0] != FORM {
        bail!("the datastore's shared keys were written by a newer version of skiff");
    }
    let mut nonce = [0; NONCE_LEN];
    nonce.copy_from_slice(&head[1 + SALT_LEN..]);
    let mut text = text.to_vec();
    let plain = key_of(token, &head[1..=SALT_LEN])?
        .open_in_place(Nonce::assume_unique_for_key(nonce), Aad::from(BUNDLE), &mut text)
        .map_err(|_| anyhow::anyhow!("the token is not the one of the datastore's cluster (--token)"))?;
    serde_json::from_slice(plain).context("the datastore's shared keys are damaged")
}

#[cfg(test)]
mod tests {
    use base::{Shutdown, SystemClock};
    use storage::{SqliteOptions, SqliteStore};

    use super::*;

    #[tokio::test]
    async fn servers_with_one_token_have_one_authority() {
        let dir = tempfile::tempdir().unwrap();
        let shutdown = Shutdown::new();
        let store =
            SqliteStore::open(&dir.path().join("db"), SqliteOptions::default(), shutdown.clone()).await.unwrap();
        let (a, b, c) = (dir.path().join("a"), dir.path().join("b"), dir.path().join("c"));
        agree(&*store, &a, Some("secret"), &SystemClock).await.unwrap();
        agree(&*store, &b, Some("secret"), &SystemClock).await.unwrap();
        assert_eq!(read_local(&a).unwrap().unwrap(), read_local(&b).unwrap().unwrap());
        agree(&*store, &a, Some("secret"), &SystemClock).await.unwrap();
        let error = agree(&*store, &c, Some("guess"), &SystemClock).await.unwrap_err().to_string();
        assert!(error.contains("the token is not the one"), "{error}");
        CertificateAuthority::load_or_create(&c, "ca", "other", &SystemClock).unwrap();
        let error = agree(&*store, &c, None, &SystemClock).await.unwrap_err().to_string();
        assert!(error.contains("another certificate authority"), "{error}");
        let stored = get(&*store, BUNDLE).await.unwrap().unwrap();
        assert!(!String::from_utf8_lossy(&stored).contains("PRIVATE"), "keys lie open in the datastore");
        shutdown.cancel();
        store.closed().await;
    }
}
