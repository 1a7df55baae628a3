//! Key sets of identity providers (RFC 7517), and tokens that are checked with them (RFC 7515, RFC 7519).

use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, Validation};
use serde_json::{Map, Value};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// Why a token does not verify. Never with the token in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JwtError {
    #[error("malformed jwt")]
    Malformed,
    #[error("id token signed with unsupported algorithm, expected {expected} got \"{found}\"")]
    Algorithm { expected: String, found: String },
    /// None of the keys fits: the set may be old.
    #[error("failed to verify signature: failed to verify id token signature")]
    Signature,
}

/// Why a document is no key set.
#[derive(Debug, thiserror::Error)]
#[error("the document is no JSON Web Key Set")]
pub struct KeySetError(#[from] serde_json::Error);

/// Public keys with their ids.
pub struct KeySet(Vec<(Option<String>, DecodingKey)>);

impl KeySet {
    /// Reads a set. Keys of kinds that are not known here are left out, as RFC 7517 says.
    ///
    /// # Errors
    /// [`KeySetError`].
    pub fn parse(document: &[u8]) -> Result<Self, KeySetError> {
        let mut document: Value = serde_json::from_slice(document)?;
        // One key that cannot be read does not make the others useless.
        if let Some(keys) = document.get_mut("keys").and_then(Value::as_array_mut) {
            keys.retain(|key| serde_json::from_value::<jsonwebtoken::jwk::Jwk>(key.clone()).is_ok());
        }
        let set: JwkSet = serde_json::from_value(document)?;
        let usable = |jwk: &jsonwebtoken::jwk::Jwk| {
            let key = DecodingKey::from_jwk(jwk).ok()?;
            // A secret key in a public set proves nothing.
            (key.family() != AlgorithmFamily::Hmac).then(|| (jwk.common.key_id.clone(), key))
        };
        Ok(Self(set.keys.iter().filter_map(usable).collect()))
    }

    /// The claims of a token that one of the keys has signed with one of the algorithms. Times, issuer and audiences are
    /// the caller's business.
    ///
    /// # Errors
    /// [`JwtError`].
    pub fn verify(&self, token: &str, algorithms: &[String]) -> Result<Map<String, Value>, JwtError> {
        let found = header_algorithm(token).ok_or(JwtError::Malformed)?;
        if !algorithms.contains(&found) {
            let expected: Vec<String> = algorithms.iter().map(|name| format!("{name:?}")).collect();
            return Err(JwtError::Algorithm { expected: format!("[{}]", expected.join(" ")), found });
        }
        let header = jsonwebtoken::decode_header(token).map_err(|_| JwtError::Malformed)?;
        let validation = no_claims(header.alg);
        let unnamed = header.kid.as_deref().is_none_or(str::is_empty);
        let fits = |id: &Option<String>| unnamed || *id == header.kid;
        self.0
            .iter()
            .filter(|(id, key)| fits(id) && family(header.alg) == Some(key.family()))
            .find_map(|(_, key)| jsonwebtoken::decode::<Map<String, Value>>(token, key, &validation).ok())
            .map(|decoded| decoded.claims)
            .ok_or(JwtError::Signature)
    }
}

/// Checks nothing but the signature.
pub(crate) fn no_claims(algorithm: Algorithm) -> Validation {
    let mut validation = Validation::new(algorithm);
    validation.validate_exp = false;
    validation.validate_aud = false;
    validation.required_spec_claims.clear();
    validation
}

pub(crate) fn family(algorithm: Algorithm) -> Option<AlgorithmFamily> {
    Some(match algorithm {
        Algorithm::RS256
        | Algorithm::RS384
        | Algorithm::RS512
        | Algorithm::PS256
        | Algorithm::PS384
        | Algorithm::PS512 => AlgorithmFamily::Rsa,
        Algorithm::ES256 | Algorithm::ES384 => AlgorithmFamily::Ec,
        Algorithm::EdDSA => AlgorithmFamily::Ed,
        _ => return None,
    })
}

/// The `alg` of a compact token's header, also of one that is not known here.
fn header_algorithm(token: &str) -> Option<String> {
    let mut parts = token.split('.');
    let header = URL_SAFE_NO_PAD.decode(parts.next()?).ok()?;
    if parts.count() != 2 {
        return None;
    }
    let header: Value = serde_json::from_slice(&header).ok()?;
    header.get("alg")?.as_str().map(str::to_owned)
}

/// A claim of a compact token before any check.
pub fn unverified_claim(token: &str, claim: &str) -> Option<Value> {
    let mut parts = token.split('.');
    let payload = parts.nth(1)?;
    parts.next()?;
    if parts.next().is_some() {
        return None;
    }
    let mut claims: Map<String, Value> = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()?;
    claims.remove(claim)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::TokenSigner;

    #[test]
    fn only_keys_of_the_set_are_believed() {
        let dir = tempfile::tempdir().unwrap();
        let signer = |name: &str| TokenSigner::load_or_create(&dir.path().join(name), "https://issuer").unwrap();
        let (ours, other) = (signer("a.key"), signer("b.key"));
        let claims = crate::Claims { sub: "ann".to_owned(), exp: 1, ..crate::Claims::default() };
        let set = KeySet::parse(ours.jwks().to_string().as_bytes()).unwrap();
        let algorithms = ["ES256".to_owned()];
        let token = ours.sign(claims.clone()).unwrap();
        assert_eq!(set.verify(&token, &algorithms).unwrap()["sub"], "ann");
        assert_eq!(unverified_claim(&token, "iss"), Some("https://issuer".into()));
        assert_eq!(set.verify(&other.sign(claims).unwrap(), &algorithms), Err(JwtError::Signature));
        let error = set.verify(&token, &["RS256".to_owned()]).unwrap_err();
        assert_eq!(error.to_string(), "id token signed with unsupported algorithm, expected [\"RS256\"] got \"ES256\"");
        assert_eq!(set.verify("a.b", &algorithms), Err(JwtError::Malformed));
        assert!(KeySet::parse(b"{}").is_err());
        assert!(KeySet::parse(br#"{"keys":[{"kty":"new"}]}"#).unwrap().0.is_empty());
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig {
            failure_persistence: None,
            ..proptest::prelude::ProptestConfig::default()
        })]

        #[test]
        fn no_key_set_panics(
            text in "[{}\\[\\]\":,a-zA-Z0-9_=-]{0,80}",
            kind in proptest::sample::select(vec!["RSA", "EC", "oct", "OKP", ""]),
            fields in proptest::collection::vec(("n|e|x|y|k|crv|alg|use|kid", "[A-Za-z0-9_=-]{0,60}"), 0..6),
            token in "[A-Za-z0-9_=.-]{0,120}",
        ) {
            let mut key = serde_json::Map::from_iter(fields.into_iter().map(|(k, v)| (k, Value::from(v))));
            key.insert("kty".to_owned(), kind.into());
            for document in [text, serde_json::json!({"keys": [key]}).to_string()] {
                if let Ok(keys) = KeySet::parse(document.as_bytes()) {
                    let _claims = keys.verify(&token, &["RS256".to_owned(), "ES256".to_owned()]);
                }
            }
        }
    }
}
