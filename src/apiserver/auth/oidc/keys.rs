//! The keys of one issuer of tokens: fetched once, and again when a token names a key that is not among them.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use pki::jwks::{JwtError, KeySet};
use serde::Deserialize;
use serde_json::{Map, Value};
use tokio::time::Instant;

use super::{ProviderError, TIMEOUT};
use crate::remote::Remote;

/// Keys are fetched no more often than this, whatever tokens say.
const REFETCH: Duration = Duration::from_secs(1);

/// What a provider told of itself, and its keys.
struct Provider {
    keys_url: String,
    keys: KeySet,
    fetched: Instant,
}

#[derive(Deserialize)]
struct Discovery {
    #[serde(default)]
    issuer: String,
    #[serde(default)]
    jwks_uri: String,
}

/// See the module.
pub(super) struct IssuerKeys {
    url: String,
    /// Of its document.
    discovery_url: String,
    remote: Arc<Remote>,
    provider: ArcSwapOption<Provider>,
    /// One fetch at a time.
    fetching: tokio::sync::Mutex<()>,
}

impl IssuerKeys {
    /// Of the issuer with this URL; its document is at the usual place if no other is named.
    pub fn new(url: &str, discovery_url: &str, remote: Arc<Remote>) -> Self {
        let own = || format!("{}/.well-known/openid-configuration", url.trim_end_matches('/'));
        Self {
            url: url.to_owned(),
            discovery_url: if discovery_url.is_empty() { own() } else { discovery_url.to_owned() },
            remote,
            provider: ArcSwapOption::empty(),
            fetching: tokio::sync::Mutex::new(()),
        }
    }

    /// Whether they have been fetched.
    pub fn are_known(&self) -> bool {
        self.provider.load().is_some()
    }

    /// Fetches the issuer's document and keys.
    pub async fn discover(&self) -> Result<(), ProviderError> {
        let found: Discovery = serde_json::from_slice(&self.remote.get(&self.discovery_url, TIMEOUT).await?)?;
        if found.issuer != self.url {
            return Err(ProviderError::Issuer { expected: self.url.clone(), found: found.issuer });
        }
        if found.jwks_uri.is_empty() {
            return Err(ProviderError::NoKeysUrl);
        }
        self.fetch(found.jwks_uri).await
    }

    async fn fetch(&self, keys_url: String) -> Result<(), ProviderError> {
        let keys = KeySet::parse(&self.remote.get(&keys_url, TIMEOUT).await?)?;
        self.provider.store(Some(Arc::new(Provider { keys_url, keys, fetched: Instant::now() })));
        Ok(())
    }

    /// The claims of a token, its signature checked; in go-oidc's words why there are none.
    pub async fn verified(&self, token: &str, algorithms: &[String]) -> Result<Map<String, Value>, String> {
        let Some(provider) = self.provider.load_full() else { return Err("the keys are not known yet".to_owned()) };
        match provider.keys.verify(token, algorithms) {
            Err(JwtError::Signature) => {}
            result => return result.map_err(|e| format!("oidc: {e}")),
        }
        // The provider may have new keys.
        let _one = self.fetching.lock().await;
        if let Some(now) = self.provider.load_full()
            && Arc::ptr_eq(&now, &provider)
            && provider.fetched.elapsed() >= REFETCH
            && let Err(error) = self.fetch(provider.keys_url.clone()).await
        {
            return Err(format!("failed to verify signature: fetching keys {}", base::chain(&error)));
        }
        let provider = self.provider.load_full().unwrap_or(provider);
        provider.keys.verify(token, algorithms).map_err(|e| e.to_string())
    }
}
