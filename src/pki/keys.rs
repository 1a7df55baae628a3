//! Keys of service account tokens as files hold them: private and public keys and certificates in PEM, RSA or elliptic
//! curves (client-go `util/keyutil`).

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey};
use pem::Pem;
use rcgen::{KeyPair, PublicKeyData};
use rsa::pkcs1::{DecodeRsaPrivateKey, DecodeRsaPublicKey};
use rsa::pkcs8::{EncodePrivateKey, EncodePublicKey};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::{PkiError, files};

/// A key that tokens are checked with.
pub(crate) struct VerifyingKey {
    pub id: String,
    pub decoding: DecodingKey,
    pub algorithm: Algorithm,
    /// As a JSON Web Key.
    pub jwk: Value,
}

/// A key that tokens are signed with.
pub(crate) struct SigningKey {
    pub encoding: EncodingKey,
    pub public: VerifyingKey,
}

impl SigningKey {
    /// Of a private key in PEM.
    pub fn parse(path: &Path, text: &str) -> Result<Self, PkiError> {
        let blocks = pem::parse_many(text).map_err(|e| malformed(path, e.to_string()))?;
        let private = blocks.iter().find_map(|block| private_key(block).transpose());
        let Some(private) = private.transpose().map_err(|why| malformed(path, why))? else {
            return Err(malformed(path, "data does not contain a valid RSA or ECDSA private key".to_owned()));
        };
        let text = pem::encode(&Pem::new("PRIVATE KEY", private));
        let pair = KeyPair::from_pem(&text).map_err(|e| malformed(path, e.to_string()))?;
        let public = VerifyingKey::of_info(&pair.subject_public_key_info()).map_err(|why| malformed(path, why))?;
        let encoding = match public.algorithm {
            Algorithm::RS256 => EncodingKey::from_rsa_pem(text.as_bytes()),
            _ => EncodingKey::from_ec_pem(text.as_bytes()),
        };
        Ok(Self { encoding: encoding.map_err(PkiError::Sign)?, public })
    }
}

impl VerifyingKey {
    /// Every key of a PEM file.
    pub fn read_all(path: &Path) -> Result<Vec<Self>, PkiError> {
        let text = files::read_opt(path)?.ok_or_else(|| PkiError::File {
            step: "read the service account keys",
            path: path.to_owned(),
            source: std::io::ErrorKind::NotFound.into(),
        })?;
        let blocks = pem::parse_many(&text).map_err(|e| malformed(path, e.to_string()))?;
        let mut keys = Vec::new();
        for block in &blocks {
            if let Some(info) = public_info(block).map_err(|why| malformed(path, why))? {
                keys.push(Self::of_info(&info).map_err(|why| malformed(path, why))?);
            }
        }
        if keys.is_empty() {
            return Err(malformed(path, "data does not contain any valid RSA or ECDSA public keys".to_owned()));
        }
        Ok(keys)
    }

    /// Of a `SubjectPublicKeyInfo` in DER.
    fn of_info(info: &[u8]) -> Result<Self, String> {
        // The key id is the hash of the public key, as upstream's keyIDFromPublicKey makes it.
        let id = URL_SAFE_NO_PAD.encode(Sha256::digest(info));
        let (_, parsed) = SubjectPublicKeyInfo::from_der(info).map_err(|e| e.to_string())?;
        let known = |e: jsonwebtoken::errors::Error| e.to_string();
        match parsed.parsed().map_err(|e| e.to_string())? {
            PublicKey::RSA(key) => {
                let number = |bytes: &[u8]| {
                    let start = bytes.iter().position(|b| *b != 0).unwrap_or(bytes.len());
                    URL_SAFE_NO_PAD.encode(&bytes[start..])
                };
                let (n, e) = (number(key.modulus), number(key.exponent));
                let decoding = DecodingKey::from_rsa_components(&n, &e).map_err(known)?;
                let jwk = json!({"use": "sig", "kty": "RSA", "kid": id, "alg": "RS256", "n": n, "e": e});
                Ok(Self { id, decoding, algorithm: Algorithm::RS256, jwk })
            }
            PublicKey::EC(point) => {
                // An uncompressed point: 4, then both coordinates.
                let [4, coordinates @ ..] = point.data() else { return Err("a compressed point".to_owned()) };
                let (curve, algorithm, name) = match coordinates.len() {
                    64 => ("P-256", Algorithm::ES256, "ES256"),
                    96 => ("P-384", Algorithm::ES384, "ES384"),
                    _ => return Err("only the curves P-256 and P-384 can be used".to_owned()),
                };
                let (x, y) = coordinates.split_at(coordinates.len() / 2);
                let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
                let decoding = DecodingKey::from_ec_components(&x, &y).map_err(known)?;
                let jwk = json!({"use": "sig", "kty": "EC", "kid": id, "crv": curve, "alg": name, "x": x, "y": y});
                Ok(Self { id, decoding, algorithm, jwk })
            }
            _ => Err("neither an RSA nor an elliptic curve key".to_owned()),
        }
    }
}

fn malformed(path: &Path, why: String) -> PkiError {
    PkiError::Malformed { path: path.to_owned(), what: "service-account key", why }
}

/// The private key of a block in PKCS #8; `None` if the block is something else.
fn private_key(block: &Pem) -> Result<Option<Vec<u8>>, String> {
    match block.tag() {
        "PRIVATE KEY" => Ok(Some(block.contents().to_vec())),
        "RSA PRIVATE KEY" => {
            let key = rsa::RsaPrivateKey::from_pkcs1_der(block.contents()).map_err(|e| e.to_string())?;
            Ok(Some(key.to_pkcs8_der().map_err(|e| e.to_string())?.as_bytes().to_vec()))
        }
        "EC PRIVATE KEY" => sec1_to_pkcs8(block.contents()).map(Some),
        _ => Ok(None),
    }
}

/// The public key of a block; `None` if the block is something else (parameters of a curve).
fn public_info(block: &Pem) -> Result<Option<Vec<u8>>, String> {
    match block.tag() {
        "PUBLIC KEY" => Ok(Some(block.contents().to_vec())),
        "RSA PUBLIC KEY" => {
            let key = rsa::RsaPublicKey::from_pkcs1_der(block.contents()).map_err(|e| e.to_string())?;
            Ok(Some(key.to_public_key_der().map_err(|e| e.to_string())?.as_bytes().to_vec()))
        }
        "CERTIFICATE" => {
            let (_, parsed) = x509_parser::parse_x509_certificate(block.contents()).map_err(|e| e.to_string())?;
            Ok(Some(parsed.public_key().raw.to_vec()))
        }
        _ => match private_key(block)? {
            None => Ok(None),
            Some(private) => {
                let text = pem::encode(&Pem::new("PRIVATE KEY", private));
                let pair = KeyPair::from_pem(&text).map_err(|e| e.to_string())?;
                Ok(Some(pair.subject_public_key_info()))
            }
        },
    }
}

/// Wraps an `ECPrivateKey` (RFC 5915) that names its curve as PKCS #8 (RFC 5958).
fn sec1_to_pkcs8(key: &[u8]) -> Result<Vec<u8>, String> {
    /// `id-ecPublicKey`.
    const EC_PUBLIC_KEY: &[u8] = &[0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
    const P256: &[u8] = &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
    const P384: &[u8] = &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22];
    let names = |curve: &[u8]| key.windows(curve.len()).any(|window| window == curve);
    let curve = [P256, P384].into_iter().find(|curve| names(curve)).ok_or("the key names no curve that can be used")?;
    let tagged = |tag: u8, content: &[u8]| {
        let length = content.len();
        let mut der = vec![tag];
        match u8::try_from(length) {
            Ok(short) if short < 0x80 => der.push(short),
            Ok(byte) => der.extend([0x81, byte]),
            Err(_) => {
                der.push(0x82);
                der.extend(u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes());
            }
        }
        der.extend_from_slice(content);
        der
    };
    let algorithm = tagged(0x30, &[EC_PUBLIC_KEY, curve].concat());
    Ok(tagged(0x30, &[&[0x02, 0x01, 0x00][..], &algorithm, &tagged(0x04, key)].concat()))
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig {
            failure_persistence: None,
            ..proptest::prelude::ProptestConfig::default()
        })]

        #[test]
        fn no_key_file_panics(
            bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..150),
            tag in proptest::sample::select(vec![
                "PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY", "PUBLIC KEY", "RSA PUBLIC KEY", "CERTIFICATE",
                "CERTIFICATE REQUEST",
            ]),
            any in "\\PC{0,80}",
        ) {
            for text in [pem::encode(&Pem::new(tag, bytes)), any] {
                let _key = SigningKey::parse(Path::new("key"), &text);
                let _request = crate::request::parse(&text);
            }
        }
    }
}
