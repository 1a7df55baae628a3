//! Values encrypted with keys that a plugin encrypts in turn (apiserver `storage/value/encrypt/envelope/kmsv2`): the
//! form on disk, and the keys of values.

use std::sync::Arc;

use aes::{Aes128, Aes192, Aes256};
use aes_gcm::AesGcm;
use aes_gcm::aead::consts::U12;
use bytes::Bytes;
use hkdf::Hkdf;
use prost::Message;
use rand::RngCore;
use sha2::Sha256;

use super::kms_plugin::{EncryptedDekSourceType, EncryptedObject};
use super::provider::{open, seal};

/// Bytes of a seed, of a key made from it, and of what the key is made with (`commonSize`).
const SIZE: usize = 32;
const NONCE: usize = 12;
/// Upstream's limits, in bytes.
const ANNOTATIONS_MAX: usize = 32 * 1024;
const KEY_ID_MAX: usize = 1024;
const SOURCE_MAX: usize = 1024;

/// What is wrong with a plugin's answer or a stored value, in upstream's words (`ValidateEncryptedObject`).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    #[error("the value has not the form of one that a KMS plugin helped to encrypt")]
    Form,
    #[error("unknown encryptedDEKSourceType: {0}")]
    SourceType(i32),
    #[error("encrypted data is empty")]
    NoData,
    #[error("failed to validate encrypted DEK source: encrypted DEK source is empty")]
    NoSource,
    #[error(
        "failed to validate encrypted DEK source: encrypted DEK source is {0} bytes, which exceeds the max size of {SOURCE_MAX}"
    )]
    SourceSize(usize),
    #[error("failed to validate key id: {0}")]
    KeyId(#[from] KeyIdError),
    #[error(
        "failed to validate annotations: annotations: Invalid value: {0:?}: should be a domain with at least two segments separated by dots"
    )]
    Annotation(String),
    #[error(
        "failed to validate annotations: total size of annotations is {0}, which exceeds the max size of {ANNOTATIONS_MAX}"
    )]
    AnnotationsSize(usize),
    #[error("invalid seed length {0} used for key generation")]
    Seed(usize),
}

/// Upstream's `ValidateKeyID`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyIdError {
    #[error("keyID is empty")]
    Empty,
    #[error("keyID is {0} bytes, which exceeds the max size of {KEY_ID_MAX}")]
    TooLong(usize),
}

pub(super) fn check_key_id(id: &str) -> Result<(), KeyIdError> {
    match id.len() {
        0 => Err(KeyIdError::Empty),
        1..=KEY_ID_MAX => Ok(()),
        length => Err(KeyIdError::TooLong(length)),
    }
}

pub(super) fn check(object: &EncryptedObject) -> Result<(), EnvelopeError> {
    if EncryptedDekSourceType::try_from(object.encrypted_dek_source_type).is_err() {
        return Err(EnvelopeError::SourceType(object.encrypted_dek_source_type));
    }
    if object.encrypted_data.is_empty() {
        return Err(EnvelopeError::NoData);
    }
    match object.encrypted_dek_source.len() {
        0 => return Err(EnvelopeError::NoSource),
        1..=SOURCE_MAX => {}
        length => return Err(EnvelopeError::SourceSize(length)),
    }
    check_key_id(&object.key_id)?;
    if let Some(name) = object.annotations.keys().find(|name| !is_domain(name)) {
        return Err(EnvelopeError::Annotation(name.clone()));
    }
    let size = object.annotations.iter().map(|(name, value)| name.len() + value.len()).sum();
    if size > ANNOTATIONS_MAX { Err(EnvelopeError::AnnotationsSize(size)) } else { Ok(()) }
}

/// Upstream's `IsFullyQualifiedDomainName`: DNS labels, two at least, with or without a dot at the end.
fn is_domain(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    let label = |label: &str| {
        let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        (1..=63).contains(&label.len()) && label.chars().all(inner) && !label.starts_with('-') && !label.ends_with('-')
    };
    name.len() <= 253 && name.contains('.') && name.split('.').all(label)
}

/// A stored value without its prefix.
pub(super) fn parse(stored: Bytes) -> Result<EncryptedObject, EnvelopeError> {
    let object = EncryptedObject::decode(stored).map_err(|_| EnvelopeError::Form)?;
    check(&object)?;
    Ok(object)
}

/// What tells the key of one value from that of another: everything that the plugin needs to decrypt it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct SourceId(Vec<u8>);

impl SourceId {
    pub(super) fn of(object: &EncryptedObject) -> Self {
        Self(EncryptedObject { encrypted_data: Bytes::new(), ..object.clone() }.encode_to_vec())
    }
}

/// What values are encrypted with, decrypted by the plugin.
#[derive(Clone)]
pub(super) enum Source {
    /// Each value has its own key, made from this seed and random bytes before the value.
    Seed(Arc<[u8]>),
    /// The key itself; what older API servers wrote.
    Key(Arc<[u8]>),
}

impl Source {
    /// A new seed, and its bytes for the plugin to encrypt.
    pub(super) fn generate() -> (Self, Bytes) {
        let mut seed = [0; SIZE];
        rand::rng().fill_bytes(&mut seed);
        (Self::Seed(Arc::from(&seed[..])), Bytes::copy_from_slice(&seed))
    }

    pub(super) fn new(object: &EncryptedObject, plain: &[u8]) -> Result<Self, EnvelopeError> {
        let seed = object.encrypted_dek_source_type == EncryptedDekSourceType::HkdfSha256XnonceAesGcmSeed as i32;
        match (seed, plain.len()) {
            (true, length) if length < SIZE => Err(EnvelopeError::Seed(length)),
            (true, _) => Ok(Self::Seed(plain.into())),
            (false, 16 | 24 | 32) => Ok(Self::Key(plain.into())),
            (false, length) => Err(EnvelopeError::Seed(length)),
        }
    }

    /// `place`: the key in the store, which the value is bound to. `None`: the value is too large.
    pub(super) fn seal(&self, place: &[u8], value: &[u8]) -> Option<Vec<u8>> {
        let mut random = [0; SIZE + NONCE];
        rand::rng().fill_bytes(&mut random);
        let (info, nonce) = random.split_at(SIZE);
        match self {
            Self::Seed(seed) => {
                let sealed = seal::<AesGcm<Aes256, U12>>(&derive(seed, info)?, nonce, place, value)?;
                Some([info, nonce, &sealed].concat())
            }
            // Only read: a key of its own would need a nonce that never comes again.
            Self::Key(_) => None,
        }
    }

    pub(super) fn open(&self, place: &[u8], stored: &[u8]) -> Option<Vec<u8>> {
        match self {
            Self::Seed(seed) => {
                let (info, rest) = stored.split_at_checked(SIZE)?;
                let (nonce, sealed) = rest.split_at_checked(NONCE)?;
                open::<AesGcm<Aes256, U12>>(&derive(seed, info)?, nonce, place, sealed)
            }
            Self::Key(key) => {
                let (nonce, sealed) = stored.split_at_checked(NONCE)?;
                match key.len() {
                    16 => open::<AesGcm<Aes128, U12>>(key, nonce, place, sealed),
                    24 => open::<AesGcm<Aes192, U12>>(key, nonce, place, sealed),
                    _ => open::<AesGcm<Aes256, U12>>(key, nonce, place, sealed),
                }
            }
        }
    }
}

/// HKDF's second half (`sha256KDFExpandOnly`).
fn derive(seed: &[u8], info: &[u8]) -> Option<[u8; SIZE]> {
    let mut key = [0; SIZE];
    Hkdf::<Sha256>::from_prk(seed).ok()?.expand(info, &mut key).ok()?;
    Some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object() -> EncryptedObject {
        EncryptedObject {
            encrypted_data: Bytes::from_static(b"x"),
            key_id: "1".to_owned(),
            encrypted_dek_source: Bytes::from_static(b"x"),
            annotations: [("a.example.com".to_owned(), Bytes::from_static(b"v"))].into(),
            encrypted_dek_source_type: 1,
        }
    }

    #[test]
    fn objects_are_checked_as_upstream_checks_them() {
        let refused = |change: fn(&mut EncryptedObject), wanted: &str| {
            let mut object = object();
            change(&mut object);
            let found = check(&object).map_err(|error| error.to_string());
            match wanted {
                "" => assert_eq!(found, Ok(())),
                wanted => assert!(found.as_ref().is_err_and(|text| text.contains(wanted)), "{found:?} {wanted}"),
            }
        };
        refused(|_| {}, "");
        refused(|object| object.encrypted_dek_source_type = 7, "unknown encryptedDEKSourceType: 7");
        refused(|object| object.encrypted_data = Bytes::new(), "encrypted data is empty");
        refused(|object| object.encrypted_dek_source = Bytes::new(), "encrypted DEK source is empty");
        refused(|object| object.encrypted_dek_source = vec![0; 1025].into(), "is 1025 bytes, which exceeds");
        refused(|object| object.key_id = String::new(), "keyID is empty");
        refused(|object| object.key_id = "k".repeat(1025), "keyID is 1025 bytes");
        refused(|object| drop(object.annotations.insert("plain".to_owned(), Bytes::new())), "at least two segments");
        refused(
            |object| drop(object.annotations.insert("b.example.com".to_owned(), vec![0; 33_000].into())),
            "exceeds the max size of 32768",
        );
    }

    #[test]
    fn what_upstream_wrote_is_read() {
        // Made with Go's standard library as upstream does it: seed 32 times 0x01, info 32 times 0x02, nonce 12 times
        // 0x03, for `/registry/secrets/default/a` and the value `hello`.
        let stored = [&[2; 32][..], &[3; 12], &hex(SEALED)].concat();
        let source = Source::Seed(Arc::from(&[1; 32][..]));
        assert_eq!(source.open(b"/registry/secrets/default/a", &stored).as_deref(), Some(&b"hello"[..]));
        assert_eq!(source.open(b"/registry/secrets/default/b", &stored), None, "a value was moved to another key");
        let again = source.seal(b"/p", b"value").unwrap();
        assert_eq!(source.open(b"/p", &again).as_deref(), Some(&b"value"[..]));
        assert_eq!(source.open(b"/p", &again[..40]), None);
    }

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len() / 2).map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap()).collect()
    }

    const SEALED: &str = "782f88de0dc44bb2e2b732c1d2c0509df0ea32efb3";

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig {
            failure_persistence: None,
            ..proptest::prelude::ProptestConfig::default()
        })]

        #[test]
        fn no_stored_value_panics(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            let _read = parse(Bytes::from(bytes));
        }
    }
}
