//! Tokens of identity providers (apiserver `plugin/pkg/authenticator/token/oidc/oidc.go`).
//!
//! A provider's keys are fetched when the server starts, and again when a token names a key that is not among them.

pub mod claims;
pub mod config;

use std::sync::Arc;
use std::time::Duration;

use api::UserInfo;
use arc_swap::ArcSwapOption;
use async_trait::async_trait;
use base::{SharedClock, Shutdown};
use jiff::Timestamp;
use pki::jwks::{KeySet, unverified_claim};
use serde::Deserialize;
use serde_json::{Map, Value};
use tokio::time::Instant;

use super::bearer::{Bearer, Identified, quoted};
use crate::remote::{Remote, RemoteError};
use claims::Mapping;
use config::Issuer;

const TIMEOUT: Duration = Duration::from_secs(30);
/// How long a provider that cannot be reached is left alone.
const RETRY: Duration = Duration::from_secs(10);
/// Keys are fetched no more often than this, whatever tokens say.
const REFETCH: Duration = Duration::from_secs(1);
/// go-oidc's leeway for `nbf`.
const NOT_BEFORE_LEEWAY: i64 = 5 * 60;

/// Why a provider's keys cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    #[error(transparent)]
    Remote(#[from] RemoteError),
    #[error("failed to decode provider discovery object")]
    Discovery(#[from] serde_json::Error),
    #[error(
        "oidc: issuer URL provided to client ({expected:?}) did not match the issuer URL returned by provider ({found:?})"
    )]
    Issuer { expected: String, found: String },
    #[error("provider did not return JWKS URL")]
    NoKeysUrl,
    #[error("failed to decode keys")]
    Keys(#[from] pki::jwks::KeySetError),
}

/// What a provider told of itself, and its keys.
struct Provider {
    keys_url: String,
    keys: KeySet,
    fetched: Instant,
}

/// Knows the tokens of one provider.
pub struct JwtAuthenticator {
    issuer: Issuer,
    algorithms: Vec<String>,
    mapping: Mapping,
    remote: Remote,
    clock: SharedClock,
    provider: ArcSwapOption<Provider>,
    /// One fetch at a time.
    fetching: tokio::sync::Mutex<()>,
}

#[derive(Deserialize)]
struct Discovery {
    #[serde(default)]
    issuer: String,
    #[serde(default)]
    jwks_uri: String,
}

impl JwtAuthenticator {
    /// Sets up one provider; nothing is fetched yet.
    ///
    /// # Errors
    /// [`RemoteError`] if its certificates are none.
    pub fn new(
        issuer: Issuer,
        algorithms: Vec<String>,
        mapping: Mapping,
        clock: SharedClock,
    ) -> Result<Self, RemoteError> {
        let remote = Remote::trusting(&issuer.url, issuer.certificate_authority.as_bytes())?;
        Ok(Self {
            issuer,
            algorithms,
            mapping,
            remote,
            clock,
            provider: ArcSwapOption::empty(),
            fetching: tokio::sync::Mutex::new(()),
        })
    }

    /// Fetches the provider's document and keys.
    ///
    /// # Errors
    /// [`ProviderError`].
    pub async fn discover(&self) -> Result<(), ProviderError> {
        let own = format!("{}/.well-known/openid-configuration", self.issuer.url.trim_end_matches('/'));
        let url = if self.issuer.discovery_url.is_empty() { &own } else { &self.issuer.discovery_url };
        let found: Discovery = serde_json::from_slice(&self.remote.get(url, TIMEOUT).await?)?;
        if found.issuer != self.issuer.url {
            return Err(ProviderError::Issuer { expected: self.issuer.url.clone(), found: found.issuer });
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

    /// [`Self::discover`] until it succeeds.
    pub async fn initialize(self: Arc<Self>, shutdown: Shutdown) {
        while let Err(error) = self.discover().await {
            let error = base::chain(&error).to_string();
            tracing::warn!(issuer = self.issuer.url, error, "cannot reach an identity provider; trying again");
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(RETRY) => {}
            }
        }
    }

    /// The claims of a token, its signature checked.
    async fn verified(&self, token: &str) -> Result<Map<String, Value>, String> {
        let Some(provider) = self.provider.load_full() else {
            return Err("oidc: authenticator not initialized".to_owned());
        };
        match provider.keys.verify(token, &self.algorithms) {
            Err(pki::jwks::JwtError::Signature) => {}
            result => return result.map_err(|e| format!("oidc: verify token: oidc: {e}")),
        }
        // The provider may have new keys.
        let _one = self.fetching.lock().await;
        if let Some(now) = self.provider.load_full()
            && Arc::ptr_eq(&now, &provider)
            && provider.fetched.elapsed() >= REFETCH
            && let Err(error) = self.fetch(provider.keys_url.clone()).await
        {
            return Err(format!(
                "oidc: verify token: failed to verify signature: fetching keys {}",
                base::chain(&error)
            ));
        }
        let provider = self.provider.load_full().unwrap_or(provider);
        provider.keys.verify(token, &self.algorithms).map_err(|e| format!("oidc: verify token: {e}"))
    }

    /// Audiences and times (go-oidc `IDTokenVerifier.Verify`).
    fn check(&self, claims: &Map<String, Value>) -> Result<(), String> {
        let audiences: Vec<String> = match claims.get("aud") {
            Some(Value::String(one)) => vec![one.clone()],
            Some(Value::Array(many)) => many.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
            _ => Vec::new(),
        };
        if !self.issuer.audiences.iter().any(|audience| audiences.contains(audience)) {
            let got = quoted(&audiences);
            return Err(match self.issuer.audiences.as_slice() {
                [one] => format!("oidc: verify token: oidc: expected audience {one:?} got {got}"),
                many => format!("oidc: verify token: oidc: expected audience in {} got {got}", quoted(many)),
            });
        }
        let time = |claim: &str| claims.get(claim).and_then(Value::as_f64);
        let now = self.clock.now();
        #[allow(clippy::cast_possible_truncation, reason = "seconds; `as` saturates, and what is no time is the epoch")]
        let at = |seconds: f64| Timestamp::from_second(seconds as i64).unwrap_or_default();
        let expires = at(time("exp").unwrap_or_default());
        if now > expires {
            return Err(format!("oidc: verify token: oidc: token is expired (Token Expiry: {expires})"));
        }
        if let Some(begins) = time("nbf").map(at)
            && now.as_second() + NOT_BEFORE_LEEWAY < begins.as_second()
        {
            return Err(format!(
                "oidc: verify token: oidc: current time {now} before the nbf (not before) time: {begins}"
            ));
        }
        Ok(())
    }
}

#[async_trait]
impl Bearer for JwtAuthenticator {
    async fn authenticate(&self, token: &str, audiences: &[String]) -> Result<Option<Identified>, String> {
        let issuer = unverified_claim(token, "iss");
        // What Google's tokens said once.
        let issuer = match issuer.as_ref().and_then(Value::as_str) {
            Some("accounts.google.com") => "https://accounts.google.com",
            Some(issuer) => issuer,
            None => return Ok(None),
        };
        if issuer != self.issuer.url {
            return Ok(None);
        }
        let claims = self.verified(token).await?;
        self.check(&claims)?;
        let user: UserInfo = self.mapping.user(&claims)?;
        Ok(Some((user, audiences.to_vec())))
    }
}

/// All providers; replaced as a whole when the configuration changes.
#[derive(Default)]
pub struct Providers(arc_swap::ArcSwap<Vec<Arc<JwtAuthenticator>>>);

impl Providers {
    pub fn replace(&self, providers: Vec<Arc<JwtAuthenticator>>) {
        self.0.store(Arc::new(providers));
    }
}

#[async_trait]
impl Bearer for Arc<Providers> {
    /// The first that knows the token decides, also against it.
    async fn authenticate(&self, token: &str, audiences: &[String]) -> Result<Option<Identified>, String> {
        for provider in self.0.load_full().iter() {
            if let Some(found) = provider.authenticate(token, audiences).await? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }
}
