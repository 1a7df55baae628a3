//! Service-account tokens: signing, checking and publishing the keys (KEP-1205, RFC 7519, RFC 7517).

use std::path::Path;

use base::Clock;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use rcgen::{KeyPair, PublicKeyData};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

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
    #[error("service account token has expired")]
    Expired,
    #[error("service account token is not valid yet")]
    NotYetValid,
}

/// Signs with one key (ES256) and checks with it.
pub struct TokenSigner {
    issuer: String,
    key_id: String,
    encoding: EncodingKey,
    decoding: DecodingKey,
    jwks: serde_json::Value,
}

impl TokenSigner {
    /// Reads the key in `path`, or makes one. `issuer` is the `iss` claim, an HTTPS URL.
    pub fn load_or_create(path: &Path, issuer: &str) -> Result<Self, PkiError> {
        let malformed = |why: String| PkiError::Malformed { path: path.to_owned(), what: "service-account key", why };
        let key = match files::read_opt(path)? {
            Some(text) => KeyPair::from_pem(&text).map_err(|e| malformed(e.to_string()))?,
            None => {
                let key = KeyPair::generate().map_err(|source| PkiError::Certificate {
                    step: "make a key for",
                    subject: "service accounts".to_owned(),
                    source,
                })?;
                files::write(path, &key.serialize_pem(), files::PRIVATE)?;
                key
            }
        };
        // An uncompressed P-256 point: 0x04, then 32 bytes each of x and y.
        let point = key.public_key_raw();
        let [4, coordinates @ ..] = point else { return Err(malformed("not a P-256 key".to_owned())) };
        if coordinates.len() != 64 {
            return Err(malformed("not a P-256 key".to_owned()));
        }
        let (x, y) = coordinates.split_at(32);
        let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
        // The key id is the hash of the public key, as upstream's keyIDFromPublicKey makes it.
        let key_id = URL_SAFE_NO_PAD.encode(Sha256::digest(key.subject_public_key_info()));
        let jwks = serde_json::json!({"keys": [{
            "use": "sig", "kty": "EC", "kid": key_id, "crv": "P-256", "alg": "ES256", "x": x, "y": y,
        }]});
        let encoding = EncodingKey::from_ec_pem(key.serialize_pem().as_bytes()).map_err(PkiError::Sign)?;
        let decoding = DecodingKey::from_ec_components(&x, &y).map_err(PkiError::Sign)?;
        Ok(Self { issuer: issuer.to_owned(), key_id, encoding, decoding, jwks })
    }

    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The JSON Web Key Set of `/openid/v1/jwks`.
    pub fn jwks(&self) -> &serde_json::Value {
        &self.jwks
    }

    /// Signs; `iss` is set here.
    pub fn sign(&self, mut claims: Claims) -> Result<String, PkiError> {
        claims.iss.clone_from(&self.issuer);
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
        let mut header = Header::new(Algorithm::ES256);
        header.typ = None;
        header.kid = Some(self.key_id.clone());
        jsonwebtoken::encode(&header, claims, &self.encoding).map_err(PkiError::Sign)
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
        let mut validation = Validation::new(Algorithm::ES256);
        validation.validate_exp = false;
        validation.validate_aud = false;
        validation.required_spec_claims.clear();
        let decoded = jsonwebtoken::decode::<LegacyClaims>(token, &self.decoding, &validation);
        Ok(decoded.map_err(|_| TokenError::Malformed)?.claims)
    }

    /// Checks signature, issuer and times. Audiences and bound objects are the caller's business.
    pub fn verify(&self, token: &str, clock: &dyn Clock) -> Result<Claims, TokenError> {
        if unverified_issuer(token).as_deref() != Some(self.issuer.as_str()) {
            return Err(TokenError::ForeignIssuer);
        }
        let mut validation = Validation::new(Algorithm::ES256);
        // Times are checked below against the injected clock.
        validation.validate_exp = false;
        validation.validate_aud = false;
        validation.required_spec_claims.clear();
        let claims = jsonwebtoken::decode::<Claims>(token, &self.decoding, &validation)
            .map_err(|_| TokenError::Malformed)?
            .claims;
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
        assert_eq!(signer.verify(&forged, &clock), Err(TokenError::Malformed));
        for text in ["", "a.b.c", "not a token"] {
            assert_eq!(signer.verify(text, &clock), Err(TokenError::ForeignIssuer), "{text}");
        }
    }
}
