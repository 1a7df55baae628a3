//! Ciphers and their form on disk, which is upstream's (apiserver `storage/value/encrypt`): a prefix that names provider
//! and key, a random nonce, and what the cipher makes of the value.

use std::sync::Arc;

use aes::cipher::block_padding::Pkcs7;
use aes::cipher::{BlockDecryptMut, BlockEncryptMut, KeyIvInit};
use aes::{Aes128, Aes192, Aes256};
use aes_gcm::AesGcm;
use aes_gcm::aead::consts::U12;
use aes_gcm::aead::{Aead, KeyInit, Payload};
use bytes::Bytes;
use crypto_secretbox::XSalsa20Poly1305;
use rand::RngCore;

use super::envelope::EnvelopeError;
use super::kms::Kms;

/// What every encrypted value begins with.
const ENCRYPTED: &[u8] = b"k8s:enc:";

/// A way to encrypt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cipher {
    /// AES in CBC mode with PKCS#7 padding.
    AesCbc,
    /// AES in Galois counter mode; the value is bound to its key's name in the store.
    AesGcm,
    /// XSalsa20 and Poly1305, keys of 32 bytes.
    Secretbox,
}

/// Why a value could not be written or read. Never holds key material.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    #[error("key {name:?} must have {wanted} bytes and has {found}")]
    KeyLength { name: String, wanted: &'static str, found: usize },
    #[error("no provider of the encryption configuration matches the value's prefix {prefix:?}")]
    NoProvider { prefix: String },
    #[error("the value does not decrypt with key {name:?}: the key is another one, or the value is damaged")]
    Damaged { name: String },
    #[error("the value is too large to encrypt")]
    TooLarge,
    #[error("the KMS plugin {name:?} has not answered yet")]
    KmsNotReady { name: String },
    #[error("the KMS plugin {name:?} has not answered for minutes: encryptedDEKSource with keyID hash {key:?} expired")]
    KmsExpired { name: String, key: String },
    #[error("failed to decrypt DEK with the KMS plugin {name:?}, error: {why}")]
    KmsDecrypt { name: String, why: String },
    #[error("the KMS plugin {name:?} cannot have encrypted this")]
    Envelope {
        name: String,
        #[source]
        error: EnvelopeError,
    },
}

impl ValueError {
    /// What clients are told, in upstream's words where it has them
    /// (apiserver `server/options/encryptionconfig/config.go`).
    pub(super) fn told(&self) -> String {
        match self {
            Self::NoProvider { .. } => "no matching prefix found".to_owned(),
            Self::KeyLength { .. }
            | Self::Damaged { .. }
            | Self::TooLarge
            | Self::KmsNotReady { .. }
            | Self::KmsExpired { .. }
            | Self::KmsDecrypt { .. }
            | Self::Envelope { .. } => base::chain(self).to_string(),
        }
    }
}

/// A provider with one key; `Plain` leaves values as they are.
#[derive(Clone)]
pub(super) enum Provider {
    Plain,
    Keyed(Keyed),
    /// A plugin, and the prefix of its values.
    Kms(Arc<Kms>, Vec<u8>),
}

#[derive(Clone)]
pub(super) struct Keyed {
    /// With the colon at its end.
    prefix: Vec<u8>,
    name: String,
    cipher: Cipher,
    secret: Secret,
}

/// A key of some cipher.
#[derive(Clone)]
struct Secret(Vec<u8>);

impl Provider {
    /// Checks the key's length, which is all that can be wrong with a key.
    pub(super) fn keyed(cipher: Cipher, name: &str, secret: Vec<u8>) -> Result<Self, ValueError> {
        let (good, wanted) = match cipher {
            Cipher::AesCbc | Cipher::AesGcm => (matches!(secret.len(), 16 | 24 | 32), "16, 24 or 32"),
            Cipher::Secretbox => (secret.len() == 32, "32"),
        };
        if !good {
            return Err(ValueError::KeyLength { name: name.to_owned(), wanted, found: secret.len() });
        }
        let kind = match cipher {
            Cipher::AesCbc => "aescbc",
            Cipher::AesGcm => "aesgcm",
            Cipher::Secretbox => "secretbox",
        };
        let prefix = format!("k8s:enc:{kind}:v1:{name}:").into_bytes();
        Ok(Self::Keyed(Keyed { prefix, name: name.to_owned(), cipher, secret: Secret(secret) }))
    }

    /// Whether this one wrote `stored`.
    pub(super) fn wrote(&self, stored: &[u8]) -> bool {
        match self {
            Self::Plain => !stored.starts_with(ENCRYPTED),
            Self::Keyed(keyed) => stored.starts_with(&keyed.prefix),
            Self::Kms(_, prefix) => stored.starts_with(prefix),
        }
    }

    /// `place`: the key in the store, which some ciphers bind the value to.
    pub(super) fn encrypt(&self, place: &[u8], value: &[u8]) -> Result<Bytes, ValueError> {
        match self {
            Self::Plain => Ok(Bytes::copy_from_slice(value)),
            Self::Keyed(keyed) => keyed.encrypt(place, value),
            Self::Kms(kms, _) => kms.encrypt(place, value),
        }
    }

    /// The value, and whether this provider would write it differently now.
    pub(super) fn decrypt(&self, place: &[u8], stored: &Bytes) -> Result<(Bytes, bool), ValueError> {
        match self {
            Self::Plain => Ok((stored.clone(), false)),
            Self::Keyed(keyed) => keyed
                .decrypt(place, &stored[keyed.prefix.len()..])
                .map(|value| (Bytes::from(value), false))
                .ok_or_else(|| ValueError::Damaged { name: keyed.name.clone() }),
            Self::Kms(kms, prefix) => kms.decrypt(place, stored.slice(prefix.len()..)),
        }
    }

    /// Whether [`Self::load`] has to come before [`Self::decrypt`].
    pub(super) fn needs_load(&self, stored: &Bytes) -> bool {
        match self {
            Self::Plain | Self::Keyed(_) => false,
            Self::Kms(kms, prefix) => self.wrote(stored) && kms.needs_load(stored.slice(prefix.len()..)),
        }
    }

    /// Has whoever holds the key of a value make it known.
    pub(super) async fn load(&self, stored: &Bytes) -> Result<(), ValueError> {
        match self {
            Self::Plain | Self::Keyed(_) => Ok(()),
            Self::Kms(kms, prefix) => kms.load(stored.slice(prefix.len()..)).await,
        }
    }
}

/// The part of a value that says who wrote it, for messages.
pub(super) fn described_prefix(stored: &[u8]) -> String {
    if !stored.starts_with(ENCRYPTED) {
        return String::new();
    }
    let end = stored.iter().enumerate().filter(|(_, byte)| **byte == b':').nth(4).map_or(ENCRYPTED.len(), |(at, _)| at);
    String::from_utf8_lossy(&stored[..end.min(128)]).into_owned()
}

impl Keyed {
    fn encrypt(&self, place: &[u8], value: &[u8]) -> Result<Bytes, ValueError> {
        let mut out = self.prefix.clone();
        let mut nonce = [0; 24];
        let nonce = &mut nonce[..self.nonce_len()];
        rand::rng().fill_bytes(nonce);
        out.extend_from_slice(nonce);
        let secret = &self.secret.0;
        let sealed = match (self.cipher, secret.len()) {
            (Cipher::AesGcm, 16) => seal::<AesGcm<Aes128, U12>>(secret, nonce, place, value),
            (Cipher::AesGcm, 24) => seal::<AesGcm<Aes192, U12>>(secret, nonce, place, value),
            (Cipher::AesGcm, _) => seal::<AesGcm<Aes256, U12>>(secret, nonce, place, value),
            (Cipher::AesCbc, 16) => cbc_encrypt::<Aes128>(secret, nonce, value),
            (Cipher::AesCbc, 24) => cbc_encrypt::<Aes192>(secret, nonce, value),
            (Cipher::AesCbc, _) => cbc_encrypt::<Aes256>(secret, nonce, value),
            (Cipher::Secretbox, _) => XSalsa20Poly1305::new_from_slice(secret)
                .ok()
                .and_then(|cipher| cipher.encrypt((&*nonce).into(), value).ok()),
        };
        out.extend_from_slice(&sealed.ok_or(ValueError::TooLarge)?);
        Ok(out.into())
    }

    fn decrypt(&self, place: &[u8], stored: &[u8]) -> Option<Vec<u8>> {
        let (nonce, sealed) = stored.split_at_checked(self.nonce_len())?;
        let secret = &self.secret.0;
        match (self.cipher, secret.len()) {
            (Cipher::AesGcm, 16) => open::<AesGcm<Aes128, U12>>(secret, nonce, place, sealed),
            (Cipher::AesGcm, 24) => open::<AesGcm<Aes192, U12>>(secret, nonce, place, sealed),
            (Cipher::AesGcm, _) => open::<AesGcm<Aes256, U12>>(secret, nonce, place, sealed),
            (Cipher::AesCbc, 16) => cbc_decrypt::<Aes128>(secret, nonce, sealed),
            (Cipher::AesCbc, 24) => cbc_decrypt::<Aes192>(secret, nonce, sealed),
            (Cipher::AesCbc, _) => cbc_decrypt::<Aes256>(secret, nonce, sealed),
            (Cipher::Secretbox, _) => XSalsa20Poly1305::new_from_slice(secret).ok()?.decrypt(nonce.into(), sealed).ok(),
        }
    }

    fn nonce_len(&self) -> usize {
        match self.cipher {
            Cipher::AesCbc => 16,
            Cipher::AesGcm => 12,
            Cipher::Secretbox => 24,
        }
    }
}

pub(super) fn seal<C: Aead<NonceSize = U12> + KeyInit>(
    secret: &[u8],
    nonce: &[u8],
    place: &[u8],
    value: &[u8],
) -> Option<Vec<u8>> {
    let cipher = C::new_from_slice(secret).ok()?;
    cipher.encrypt(nonce.into(), Payload { msg: value, aad: place }).ok()
}

pub(super) fn open<C: Aead<NonceSize = U12> + KeyInit>(
    secret: &[u8],
    nonce: &[u8],
    place: &[u8],
    sealed: &[u8],
) -> Option<Vec<u8>> {
    let cipher = C::new_from_slice(secret).ok()?;
    cipher.decrypt(nonce.into(), Payload { msg: sealed, aad: place }).ok()
}

fn cbc_encrypt<C>(secret: &[u8], iv: &[u8], value: &[u8]) -> Option<Vec<u8>>
where
    C: aes::cipher::BlockEncryptMut + aes::cipher::BlockCipher + aes::cipher::KeyInit,
{
    let cipher = cbc::Encryptor::<C>::new_from_slices(secret, iv).ok()?;
    Some(cipher.encrypt_padded_vec_mut::<Pkcs7>(value))
}

fn cbc_decrypt<C>(secret: &[u8], iv: &[u8], sealed: &[u8]) -> Option<Vec<u8>>
where
    C: aes::cipher::BlockDecryptMut + aes::cipher::BlockCipher + aes::cipher::KeyInit,
{
    let cipher = cbc::Decryptor::<C>::new_from_slices(secret, iv).ok()?;
    cipher.decrypt_padded_vec_mut::<Pkcs7>(sealed).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_back_and_carry_upstream_prefixes() {
        for (cipher, length, prefix) in [
            (Cipher::AesCbc, 16, "k8s:enc:aescbc:v1:one:"),
            (Cipher::AesCbc, 24, "k8s:enc:aescbc:v1:one:"),
            (Cipher::AesCbc, 32, "k8s:enc:aescbc:v1:one:"),
            (Cipher::AesGcm, 16, "k8s:enc:aesgcm:v1:one:"),
            (Cipher::AesGcm, 24, "k8s:enc:aesgcm:v1:one:"),
            (Cipher::AesGcm, 32, "k8s:enc:aesgcm:v1:one:"),
            (Cipher::Secretbox, 32, "k8s:enc:secretbox:v1:one:"),
        ] {
            let provider = Provider::keyed(cipher, "one", vec![7; length]).unwrap();
            for value in [&b""[..], b"x", b"sixteen bytes ok", &[9; 5000]] {
                let stored = provider.encrypt(b"/registry/secrets/a/b", value).unwrap();
                assert!(stored.starts_with(prefix.as_bytes()) && provider.wrote(&stored));
                assert_ne!(stored, provider.encrypt(b"/registry/secrets/a/b", value).unwrap(), "nonces repeat");
                assert_eq!(provider.decrypt(b"/registry/secrets/a/b", &stored).unwrap().0, value);
                let mut torn = stored.to_vec();
                let last = torn.len() - 1;
                torn[last] ^= 1;
                let read = provider.decrypt(b"/registry/secrets/a/b", &torn.into());
                // CBC has no checksum: a changed byte is only sometimes seen.
                assert!(cipher == Cipher::AesCbc || read.is_err(), "{cipher:?}");
            }
        }
        let provider = Provider::keyed(Cipher::AesGcm, "one", vec![7; 32]).unwrap();
        let stored = provider.encrypt(b"/registry/secrets/a/b", b"v").unwrap();
        assert!(provider.decrypt(b"/registry/secrets/a/c", &stored).is_err(), "a value was moved to another key");
        assert!(Provider::keyed(Cipher::Secretbox, "one", vec![7; 16]).is_err());
        assert!(Provider::Plain.wrote(b"{}") && !Provider::Plain.wrote(&stored));
        assert_eq!(described_prefix(&stored), "k8s:enc:aesgcm:v1:one");
    }

    #[test]
    fn what_upstream_wrote_is_read() {
        // Made by the Go libraries that apiserver's `storage/value/encrypt/aes` and `secretbox` use, with 32 times 0x01 as
        // key, for `/registry/secrets/default/a` and the value `hello`; the nonces are zero but for the last byte.
        let check = |cipher: Cipher, stored: &str| {
            let provider = Provider::keyed(cipher, "key1", vec![1; 32]).unwrap();
            let bytes: Vec<u8> =
                (0..stored.len() / 2).map(|at| u8::from_str_radix(&stored[2 * at..2 * at + 2], 16).unwrap()).collect();
            let mut whole = match &provider {
                Provider::Keyed(keyed) => keyed.prefix.clone(),
                _ => Vec::new(),
            };
            whole.extend(bytes);
            let read = provider.decrypt(b"/registry/secrets/default/a", &whole.into());
            assert_eq!(read, Ok((Bytes::from_static(b"hello"), false)), "{cipher:?}");
        };
        check(Cipher::AesCbc, CBC);
        check(Cipher::AesGcm, GCM);
        check(Cipher::Secretbox, BOX);
    }

    const CBC: &str = "00000000000000000000000000000001bf63b56504ddd3cc7bb97fbc1b875efe";
    const GCM: &str = "000000000000000000000001d3bffcebb3e484b14c97b1f39d32091c720f4c5cb7";
    const BOX: &str = "000000000000000000000000000000000000000000000001e9255c9dfa8e9e2779c56f2ebaec03b37cdcb107dc";
}
