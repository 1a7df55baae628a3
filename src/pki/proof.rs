//! A new private key and the proof that its maker has it: a certificate request that asks for nothing else (upstream
//! `kubelet/podcertificate/podcertificatemanager.go` `generateKeyAndProof`).

use p521::ecdsa::signature::Signer;
use p521::pkcs8::{EncodePrivateKey, EncodePublicKey};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};

use crate::PkiError;

/// A private key in PKCS #8 as PEM, and a self-signed PKCS #10 request as DER. The key is secret.
pub struct KeyAndProof {
    pub key_pem: String,
    pub request_der: Vec<u8>,
}

fn failed(step: &'static str, why: impl std::fmt::Display) -> PkiError {
    PkiError::Key { step, why: why.to_string() }
}

/// Makes a key of a `keyType` of `PodCertificateProjection`. RSA keys take seconds: not for an async thread.
///
/// # Errors
/// [`PkiError::Key`] for a type that is none of them, or when the machine has no randomness.
pub fn generate(key_type: &str) -> Result<KeyAndProof, PkiError> {
    let key = match key_type {
        "ECDSAP256" => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256),
        "ECDSAP384" => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384),
        "ED25519" => KeyPair::generate_for(&rcgen::PKCS_ED25519),
        "ECDSAP521" => return p521_proof(),
        "RSA3072" => return rsa_proof(3072),
        "RSA4096" => return rsa_proof(4096),
        other => return Err(failed("generate", format!("unknown key type {other:?}"))),
    };
    proof(&key.map_err(|e| failed("generate", e))?)
}

fn proof(key: &KeyPair) -> Result<KeyAndProof, PkiError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let request = params.serialize_request(key).map_err(|e| failed("prove possession of", e))?;
    Ok(KeyAndProof { key_pem: key.serialize_pem(), request_der: request.der().to_vec() })
}

/// ring signs with RSA keys but makes none.
fn rsa_proof(bits: usize) -> Result<KeyAndProof, PkiError> {
    let key = rsa::RsaPrivateKey::new(&mut rsa::rand_core::OsRng, bits).map_err(|e| failed("generate", e))?;
    let der = rsa::pkcs8::EncodePrivateKey::to_pkcs8_der(&key).map_err(|e| failed("encode", e))?;
    let der = rustls_pki_types::PrivatePkcs8KeyDer::from(der.as_bytes());
    let pair = KeyPair::from_pkcs8_der_and_sign_algo(&der, &rcgen::PKCS_RSA_SHA256);
    proof(&pair.map_err(|e| failed("encode", e))?)
}

/// Neither ring nor rcgen on it know this curve: the request, which is almost empty, is put together here.
fn p521_proof() -> Result<KeyAndProof, PkiError> {
    const ECDSA_WITH_SHA512: &[u8] = &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x04];
    let secret = p521::SecretKey::random(&mut rsa::rand_core::OsRng);
    let key_der = secret.to_pkcs8_der().map_err(|e| failed("encode", e))?;
    let public = secret.public_key().to_public_key_der().map_err(|e| failed("encode", e))?;
    // Version 0, an empty name, the key, no attributes.
    let info = der(0x30, &[&[0x02, 0x01, 0x00, 0x30, 0x00], public.as_bytes(), &[0xa0, 0x00]]);
    let signer = p521::ecdsa::SigningKey::from_slice(&secret.to_bytes()).map_err(|e| failed("use", e))?;
    let signature: p521::ecdsa::Signature = signer.sign(&info);
    let signature = der(0x03, &[&[0x00], signature.to_der().as_bytes()]);
    let request_der = der(0x30, &[&info, &der(0x30, &[ECDSA_WITH_SHA512]), &signature]);
    Ok(KeyAndProof { key_pem: pem_text("PRIVATE KEY", key_der.as_bytes()), request_der })
}

/// One DER element: tag, length, the parts one after the other.
fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let mut out = vec![tag];
    match length {
        0..0x80 => out.push(length as u8),
        0x80..0x100 => out.extend([0x81, length as u8]),
        // Nothing here comes near 64 KiB.
        _ => out.extend([0x82, (length >> 8) as u8, length as u8]),
    }
    parts.iter().for_each(|part| out.extend_from_slice(part));
    out
}

/// A PEM block as Go writes it: lines of 64 characters that end in a line feed.
pub fn pem_text(tag: &str, contents: &[u8]) -> String {
    let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    pem::encode_config(&pem::Pem::new(tag, contents), config)
}

/// The contents of every PEM block of a text, in order; what is between the blocks and their headers are left out, as
/// Go's `pem.Decode` in a loop does.
pub fn pem_blocks(text: &str) -> Vec<Vec<u8>> {
    let mut blocks = Vec::new();
    let mut rest = text;
    while let Some(begin) = rest.find("-----BEGIN ") {
        let from = &rest[begin..];
        let Some(end) = from.find("-----END ") else { break };
        let Some(length) = from[end + 9..].find("-----").map(|close| end + 9 + close + 5) else { break };
        if let Ok(block) = pem::parse(&from[..length]) {
            blocks.push(block.into_contents());
        }
        rest = &from[length..];
    }
    blocks
}

#[cfg(test)]
mod tests {
    use x509_parser::prelude::FromDer;

    use super::*;

    #[test]
    fn every_kind_of_key_proves_itself() {
        // RSA is left out: without optimisation its keys take minutes.
        for key_type in ["ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519"] {
            let made = generate(key_type).unwrap();
            assert!(made.key_pem.starts_with("-----BEGIN PRIVATE KEY-----\n"), "{key_type}");
            let (rest, request) =
                x509_parser::certification_request::X509CertificationRequest::from_der(&made.request_der).unwrap();
            assert!(rest.is_empty(), "{key_type}");
            assert_eq!(request.certification_request_info.subject.iter().count(), 0, "{key_type}");
            if key_type != "ECDSAP521" {
                // The parser's verifier has no P-521.
                request.verify_signature().unwrap();
            }
        }
        assert!(generate("DSA").is_err());
    }

    #[test]
    fn text_between_blocks_is_dropped() {
        let text = format!("junk\n{}more\n{}", pem_text("A", b"one"), pem_text("B", b"two"));
        assert_eq!(pem_blocks(&text), [b"one".to_vec(), b"two".to_vec()]);
        assert!(pem_blocks("-----BEGIN X-----\n").is_empty());
    }
}
