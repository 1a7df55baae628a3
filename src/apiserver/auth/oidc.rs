//! Tokens of identity providers (apiserver `plugin/pkg/authenticator/token/oidc/oidc.go`).
//!
//! A provider's keys are fetched when the server starts, and again when a token names a key that is not among them.

pub mod claims;
pub mod config;
mod keys;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api::UserInfo;
use async_trait::async_trait;
use base::{SharedClock, Shutdown};
use jiff::Timestamp;
use parking_lot::Mutex;
use pki::jwks::unverified_claim;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::bearer::{Bearer, Identified, quoted};
use crate::remote::{Remote, RemoteError};
use claims::{Mapping, Source};
use config::Issuer;
use keys::IssuerKeys;

const TIMEOUT: Duration = Duration::from_secs(30);
/// How long a provider that cannot be reached is left alone.
const RETRY: Duration = Duration::from_secs(10);
/// go-oidc's leeway for `nbf`.
const NOT_BEFORE_LEEWAY: i64 = 5 * 60;

/// Issuers of distributed claims whose keys are kept.
const OTHERS_MAX: usize = 16;

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

/// Knows the tokens of one provider.
pub struct JwtAuthenticator {
    issuer: Issuer,
    algorithms: Vec<String>,
    mapping: Mapping,
    remote: Arc<Remote>,
    clock: SharedClock,
    keys: IssuerKeys,
    /// Of issuers that sign distributed claims, by their URLs; at most [`OTHERS_MAX`].
    others: Mutex<BTreeMap<String, Arc<IssuerKeys>>>,
}

/// Where a claim is that a token does not have itself (OpenID Connect Core 1.0, section 5.6.2).
#[derive(Default, Deserialize)]
#[serde(default)]
struct ClaimSource {
    endpoint: String,
    access_token: String,
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
        let remote = Arc::new(Remote::trusting(&issuer.url, issuer.certificate_authority.as_bytes())?);
        let keys = IssuerKeys::new(&issuer.url, &issuer.discovery_url, Arc::clone(&remote));
        Ok(Self { issuer, algorithms, mapping, remote, clock, keys, others: Mutex::default() })
    }

    /// Fetches the provider's document and keys.
    ///
    /// # Errors
    /// [`ProviderError`].
    pub async fn discover(&self) -> Result<(), ProviderError> {
        self.keys.discover().await
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

    /// Fetches the groups from where the token says that they are (`claimResolver.expand`).
    async fn expand(&self, claims: &mut Map<String, Value>) -> Result<(), String> {
        let Some(Source::Claim { name, .. }) = &self.mapping.groups else { return Ok(()) };
        let Some(names) = claims.get("_claim_names").filter(|_| !claims.contains_key(name)) else { return Ok(()) };
        let names: BTreeMap<String, String> = serde_json::from_value(names.clone())
            .map_err(|why| format!("oidc: error parsing distributed claim names: {why}"))?;
        let sources = claims.get("_claim_sources").ok_or("oidc: no claim sources")?;
        let mut sources: BTreeMap<String, ClaimSource> = serde_json::from_value(sources.clone())
            .map_err(|why| format!("oidc: could not parse claim sources: {why}"))?;
        let Some(source) = names.get(name) else { return Ok(()) };
        let found = sources
            .remove(source)
            .ok_or_else(|| format!("id token _claim_names contained a source {source} missing in _claims_sources"))?;
        // Without an endpoint the claim may be in a token beside it, which nobody takes.
        if !found.endpoint.is_empty() {
            let value = self.resolve(name, &found).await?;
            claims.insert(name.clone(), value);
        }
        Ok(())
    }

    /// The claim in the token that its source gives out (`claimResolver.resolve`).
    async fn resolve(&self, claim: &str, source: &ClaimSource) -> Result<Value, String> {
        let url = &source.endpoint;
        let token = self.remote.get_with(url, &source.access_token, TIMEOUT).await;
        let token = token.map_err(|e| format!("while getting distributed claim {claim:?}: {}", base::chain(&e)))?;
        let token = String::from_utf8_lossy(&token);
        let issuer = unverified_claim(&token, "iss");
        let issuer = issuer.as_ref().and_then(Value::as_str).ok_or_else(|| {
            format!("getting untrusted issuer from endpoint {url} failed for claim {claim:?}: malformed jwt")
        })?;
        let keys = self.keys_of(issuer);
        if !keys.are_known() {
            let known = keys.discover().await;
            known.map_err(|e| format!("verifying untrusted issuer {issuer} failed: {}", base::chain(&e)))?;
        }
        let failed = |why: String| format!("verify distributed claim token: {why}");
        let mut claims = keys.verified(&token, &self.algorithms).await.map_err(failed)?;
        self.check(&claims).map_err(failed)?;
        claims
            .remove(claim)
            .ok_or_else(|| format!("jwt returned by distributed claim endpoint {url:?} did not contain claim: {claim}"))
    }

    /// The keys of an issuer of distributed claims, who is asked with the provider's own trust.
    fn keys_of(&self, issuer: &str) -> Arc<IssuerKeys> {
        let mut others = self.others.lock();
        if others.len() >= OTHERS_MAX && !others.contains_key(issuer) {
            others.clear();
        }
        let make = || Arc::new(IssuerKeys::new(issuer, "", Arc::clone(&self.remote)));
        Arc::clone(others.entry(issuer.to_owned()).or_insert_with(make))
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
                [one] => format!("oidc: expected audience {one:?} got {got}"),
                many => format!("oidc: expected audience in {} got {got}", quoted(many)),
            });
        }
        let time = |claim: &str| claims.get(claim).and_then(Value::as_f64);
        let now = self.clock.now();
        #[allow(clippy::cast_possible_truncation, reason = "seconds; `as` saturates, and what is no time is the epoch")]
        let at = |seconds: f64| Timestamp::from_second(seconds as i64).unwrap_or_default();
        let expires = at(time("exp").unwrap_or_default());
        if now > expires {
            // What does not expire is Go's zero time.
            let shown =
                if time("exp").is_some() { go_time(expires) } else { "0001-01-01 00:00:00 +0000 UTC".to_owned() };
            return Err(format!("oidc: token is expired (Token Expiry: {shown})"));
        }
        if let Some(begins) = time("nbf").map(at)
            && now.as_second() + NOT_BEFORE_LEEWAY < begins.as_second()
        {
            return Err(format!(
                "oidc: current time {} before the nbf (not before) time: {}",
                go_time(now),
                go_time(begins)
            ));
        }
        Ok(())
    }
}

/// A time as Go prints it.
fn go_time(time: Timestamp) -> String {
    let text = time.to_string();
    format!("{} +0000 UTC", text.trim_end_matches('Z').replacen('T', " ", 1))
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
        let failed = |why: String| format!("oidc: verify token: {why}");
        let mut claims = match self.keys.are_known() {
            true => self.keys.verified(token, &self.algorithms).await.map_err(failed)?,
            false => return Err("oidc: authenticator not initialized".to_owned()),
        };
        self.check(&claims).map_err(failed)?;
        self.expand(&mut claims).await.map_err(|why| format!("oidc: could not expand distributed claims: {why}"))?;
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
