//! Service-account tokens: signing, checking and publishing the keys (KEP-1205, RFC 7519, RFC 7517).

use std::path::{Path, PathBuf};

use base::Clock;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::KeyPair;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::jwks::no_claims;
use crate::keys::{SigningKey, VerifyingKey};
use crate::{PkiError, files};

/// The claims of a bound service-account token.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    #[serde(default)]
    pub aud: Vec<String>,
    /// Seconds since the epoch.
    pub exp: i64,
    pub iat: i64,
    pub nbf: i64,
    pub iss: String,
    pub jti: String,
    pub sub: String,
    #[serde(rename = "kubernetes.io")]
    pub kubernetes: Private,
}

/// The `kubernetes.io` claim.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Private {
    pub namespace: String,
    pub serviceaccount: Ref,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Ref>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<Ref>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Ref>,
    /// When a client should have asked for a new token, seconds since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warnafter: Option<i64>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ref {
    pub name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
}

/// The issuer of tokens that are kept in Secrets and never expire (upstream `pkg/serviceaccount/legacy.go`).
const LEGACY_ISSUER: &str = "kubernetes/serviceaccount";

/// The claims of a token that is kept in a Secret.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LegacyClaims {
    iss: String,
    #[serde(rename = "kubernetes.io/serviceaccount/namespace")]
    pub namespace: String,
    #[serde(rename = "kubernetes.io/serviceaccount/secret.name")]
    pub secret: String,
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.name")]
    pub account: String,
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.uid")]
    pub account_uid: String,
    pub sub: String,
}

impl LegacyClaims {
    /// The claims of a service account's token in a Secret of its namespace.
    pub fn new(namespace: &str, account: &str, account_uid: &str, secret: &str) -> Self {
        Self {
            iss: LEGACY_ISSUER.to_owned(),
            namespace: namespace.to_owned(),
            secret: secret.to_owned(),
            account: account.to_owned(),
            account_uid: account_uid.to_owned(),
            sub: format!("system:serviceaccount:{namespace}:{account}"),
        }
    }
}

/// Signs a text with a bootstrap token, the text left out of the result (cluster-bootstrap
/// `token/jws.ComputeDetachedSignature`).
///
/// # Errors
/// [`PkiError::Sign`].
pub fn detached_signature(content: &str, token_id: &str, token_secret: &str) -> Result<String, PkiError> {
    let header = serde_json::json!({"alg": "HS256", "kid": token_id}).to_string();
    let header = URL_SAFE_NO_PAD.encode(header);
    let message = format!("{header}.{}", URL_SAFE_NO_PAD.encode(content));
    let key = EncodingKey::from_secret(token_secret.as_bytes());
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::HS256).map_err(PkiError::Sign)?;
    Ok(format!("{header}..{signature}"))
}

/// Why a token is no good. The texts are for logs and `TokenReview.status.error`, never with the token in them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Made by somebody else: another authenticator may know it.
    #[error("the token is not from this issuer")]
    ForeignIssuer,
    #[error("invalid bearer token")]
    Malformed,
    /// In the words of upstream's library.
    #[error("go-jose/go-jose: error in cryptographic primitive")]
    Signature,
    #[error("service account token has expired")]
    Expired,
    #[error("service account token is not valid yet")]
    NotYetValid,
}

/// Signs with one key and checks with several, so that keys can be replaced while old tokens are still good.
pub struct TokenSigner {
    /// The first is in the tokens that are made here.
    issuers: Vec<String>,
    encoding: EncodingKey,
    /// What is signed with, and what is checked with; the signing key's is the first.
    keys: Vec<VerifyingKey>,
    jwks: serde_json::Value,
}

impl TokenSigner {
    /// Reads the key in `path`, or makes one. `issuer` is the `iss` claim, an HTTPS URL.
    pub fn load_or_create(path: &Path, issuer: &str) -> Result<Self, PkiError> {
        let text = match files::read_opt(path)? {
            Some(text) => text,
            None => {
                let key = KeyPair::generate().map_err(|source| PkiError::Certificate {
                    step: "make a key for",
                    subject: "service accounts".to_owned(),
                    source,
                })?;
                let text = key.serialize_pem();
                files::write(path, &text, files::PRIVATE)?;
                text
            }
        };
        let SigningKey { encoding, public } = SigningKey::parse(path, &text)?;
        Ok(Self {
            issuers: vec![issuer.to_owned()],
            encoding,
            jwks: jwks(std::slice::from_ref(&public)),
            keys: vec![public],
        })
    }

    /// Takes tokens that were signed with the keys in these files too (public or private keys or certificates, PEM).
    ///
    /// # Errors
    /// [`PkiError::File`] or [`PkiError::Malformed`].
    pub fn with_keys(mut self, paths: &[PathBuf]) -> Result<Self, PkiError> {
        for path in paths {
            for key in VerifyingKey::read_all(path)? {
                if self.keys.iter().all(|known| known.id != key.id) {
                    self.keys.push(key);
                }
            }
        }
        self.jwks = jwks(&self.keys);
        Ok(self)
    }

    /// Signs as the first of these issuers and takes tokens of all of them. None: as before.
    #[must_use]
    pub fn with_issuers(mut self, issuers: &[String]) -> Self {
        if !issuers.is_empty() {
            self.issuers = issuers.to_vec();
        }
        self
    }

    /// The issuer of tokens that are made here.
    pub fn issuer(&self) -> &str {
        self.issuers.first().map_or("", String::as_str)
    }

    /// Every issuer whose tokens are taken.
    pub fn issuers(&self) -> &[String] {
        &self.issuers
    }

    /// The JSON Web Key Set of `/openid/v1/jwks`.
    pub fn jwks(&self) -> &serde_json::Value {
        &self.jwks
    }

    /// The names of the algorithms that the keys are for.
    pub fn algorithms(&self) -> Vec<String> {
        let mut names: Vec<String> = self.keys.iter().map(|key| format!("{:?}", key.algorithm)).collect();
        names.sort();
        names.dedup();
        names
    }

    /// Signs; `iss` is set here.
    pub fn sign(&self, mut claims: Claims) -> Result<String, PkiError> {
        claims.iss = self.issuer().to_owned();
        self.encode(&claims)
    }

    /// Signs a token that is kept in a Secret and never expires.
    ///
    /// # Errors
    /// [`PkiError::Sign`].
    pub fn sign_legacy(&self, claims: &LegacyClaims) -> Result<String, PkiError> {
        self.encode(claims)
    }

    fn encode(&self, claims: &impl Serialize) -> Result<String, PkiError> {
        let own = self.keys.first();
        let mut header = Header::new(own.map_or(Algorithm::ES256, |key| key.algorithm));
        header.typ = None;
        header.kid = own.map(|key| key.id.clone());
        jsonwebtoken::encode(&header, claims, &self.encoding).map_err(PkiError::Sign)
    }

    /// The claims of a token that one of the keys has signed: the one that the token names, if it names one.
    fn decode<T: DeserializeOwned>(&self, token: &str) -> Result<T, TokenError> {
        let header = jsonwebtoken::decode_header(token).map_err(|_| TokenError::Malformed)?;
        let validation = no_claims(header.alg);
        self.keys
            .iter()
            .filter(|key| key.algorithm == header.alg && header.kid.as_ref().is_none_or(|kid| *kid == key.id))
            .find_map(|key| jsonwebtoken::decode::<T>(token, &key.decoding, &validation).ok())
            .map(|decoded| decoded.claims)
            .ok_or(TokenError::Signature)
    }

    /// Checks signature and issuer of a token that is kept in a Secret. Whether the Secret still holds it is the
    /// caller's business.
    ///
    /// # Errors
    /// See [`TokenError`].
    pub fn verify_legacy(&self, token: &str) -> Result<LegacyClaims, TokenError> {
        if unverified_issuer(token).as_deref() != Some(LEGACY_ISSUER) {
            return Err(TokenError::ForeignIssuer);
        }
        self.decode(token)
    }

    /// Checks signature, issuer and times. Audiences and bound objects are the caller's business.
    pub fn verify(&self, token: &str, clock: &dyn Clock) -> Result<Claims, TokenError> {
        if !unverified_issuer(token).is_some_and(|issuer| self.issuers.contains(&issuer)) {
            return Err(TokenError::ForeignIssuer);
        }
        // Times are checked here against the injected clock.
        let claims: Claims = self.decode(token)?;
        let now: Timestamp = clock.now();
        if now.as_second() > claims.exp {
            return Err(TokenError::Expired);
        }
        // A minute of leeway, as go-jose gives.
        if now.as_second() + 60 < claims.nbf {
            return Err(TokenError::NotYetValid);
        }
        Ok(claims)
    }
}

fn jwks(keys: &[VerifyingKey]) -> serde_json::Value {
    serde_json::json!({"keys": keys.iter().map(|key| &key.jwk).collect::<Vec<_>>()})
}

/// The `iss` claim before any check, to tell our tokens from others'.
fn unverified_issuer(token: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Issuer {
        iss: String,
    }
    let payload = token.split('.').nth(1)?;
    let bytes = URL_SAFE_NO_PAD.decode(payload).ok()?;
    serde_json::from_slice::<Issuer>(&bytes).ok().map(|i| i.iss)
}

#[cfg(test)]
mod tests {
    use base::ManualClock;
    use jiff::SignedDuration;

    use super::*;

    fn signer(dir: &Path, name: &str) -> TokenSigner {
        TokenSigner::load_or_create(&dir.join(name), "https://kubernetes.default.svc.cluster.local").unwrap()
    }

    fn claims() -> Claims {
        Claims {
            aud: vec!["api".into()],
            exp: 2000,
            iat: 1000,
            nbf: 1000,
            sub: "system:serviceaccount:default:default".into(),
            ..Claims::default()
        }
    }

    #[test]
    fn a_token_is_good_until_it_expires() {
        let dir = tempfile::tempdir().unwrap();
        let clock = ManualClock::new(Timestamp::from_second(1500).unwrap());
        let token = signer(dir.path(), "sa.key").sign(claims()).unwrap();
        // Read back from the file: the same key.
        let signer = signer(dir.path(), "sa.key");
        assert_eq!(signer.verify(&token, &clock).unwrap().sub, claims().sub);
        clock.advance(SignedDuration::from_secs(501));
        assert_eq!(signer.verify(&token, &clock), Err(TokenError::Expired));
        clock.set(Timestamp::from_second(900).unwrap());
        assert_eq!(signer.verify(&token, &clock), Err(TokenError::NotYetValid));
    }

    #[test]
    fn a_forged_token_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let clock = ManualClock::new(Timestamp::from_second(1500).unwrap());
        let forged = signer(dir.path(), "other.key").sign(claims()).unwrap();
        let signer = signer(dir.path(), "sa.key");
        assert_eq!(signer.verify(&forged, &clock), Err(TokenError::Signature));
        for text in ["", "a.b.c", "not a token"] {
            assert_eq!(signer.verify(text, &clock), Err(TokenError::ForeignIssuer), "{text}");
        }
    }

    #[test]
    fn tokens_of_an_old_key_are_good_while_it_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let clock = ManualClock::new(Timestamp::from_second(1500).unwrap());
        let old = signer(dir.path(), "old.key").sign(claims()).unwrap();
        let new = || signer(dir.path(), "new.key");
        assert_eq!(new().verify(&old, &clock), Err(TokenError::Signature));
        let both = new().with_keys(&[dir.path().join("old.key")]).unwrap();
        assert_eq!(both.verify(&old, &clock).unwrap().sub, claims().sub);
        assert_eq!(both.jwks()["keys"].as_array().unwrap().len(), 2);
        let renamed = both.with_issuers(&["https://new".to_owned(), old_issuer()]);
        assert_eq!(renamed.verify(&old, &clock).unwrap().sub, claims().sub);
        assert_eq!(renamed.verify(&renamed.sign(claims()).unwrap(), &clock).unwrap().iss, "https://new");
        assert!(new().with_keys(&[dir.path().join("none.key")]).is_err());
    }

    fn old_issuer() -> String {
        "https://kubernetes.default.svc.cluster.local".to_owned()
    }

    #[test]
    fn keys_of_every_usual_form_sign() {
        use rsa::pkcs1::EncodeRsaPrivateKey;
        let dir = tempfile::tempdir().unwrap();
        let clock = ManualClock::new(Timestamp::from_second(1500).unwrap());
        let check = |text: &str, algorithm: &str| {
            let path = dir.path().join("sa.key");
            files::write(&path, text, files::PRIVATE).unwrap();
            let signer = TokenSigner::load_or_create(&path, "https://issuer").unwrap();
            assert_eq!(signer.algorithms(), [algorithm]);
            let token = signer.sign(claims()).unwrap();
            assert_eq!(signer.verify(&token, &clock).unwrap().sub, claims().sub, "{algorithm}");
        };
        check(&KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap().serialize_pem(), "ES384");
        let rsa = rsa::RsaPrivateKey::new(&mut rsa::rand_core::OsRng, 2048).unwrap();
        check(&rsa.to_pkcs1_pem(rsa::pkcs8::LineEnding::LF).unwrap(), "RS256");
        let sec1 = "-----BEGIN EC PRIVATE KEY-----\n\
                    MHcCAQEEIICa1ZharUjWhg6PmWLO653qvV4XBAg8Lx4jnatqjE03oAoGCCqGSM49\n\
                    AwEHoUQDQgAE4UG+JRCZQahzWqGyorR2NSZWQM5zUYFjbxYTx1TTWnrAwY2MU0WR\n\
                    8DuerKRYHTU3SektgxneABQgKsgOOIgMPA==\n-----END EC PRIVATE KEY-----\n";
        check(sec1, "ES256");
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig {
            failure_persistence: None,
            ..proptest::prelude::ProptestConfig::default()
        })]

        #[test]
        fn no_token_panics(text in "[A-Za-z0-9_=.-]{0,200}", at in proptest::prelude::any::<proptest::sample::Index>(), letter in "[ -~]") {
            let dir = tempfile::tempdir().unwrap();
            let clock = ManualClock::new(Timestamp::from_second(1500).unwrap());
            let signer = signer(dir.path(), "sa.key");
            let mut token = signer.sign(claims()).unwrap();
            let at = at.index(token.len());
            token.replace_range(at..at + 1, &letter);
            for token in [text, token] {
                let _claims = signer.verify(&token, &clock);
                let _legacy = signer.verify_legacy(&token);
            }
        }
    }
}
