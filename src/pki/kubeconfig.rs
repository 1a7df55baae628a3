//! kubeconfig files with a client certificate inside.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use sec1::der::Document;
use sec1::der::pem::PemLabel;
use sec1::pkcs8::PrivateKeyInfo;
use sec1::{EcParameters, EcPrivateKey, LineEnding};

use crate::{Leaf, PkiError};

/// A kubeconfig for `server` (an `https://` URL) whose one context is called `name`. The text holds a private key.
pub fn render(name: &str, server: &str, ca_pem: &str, leaf: &Leaf) -> Result<String, PkiError> {
    let key = traditional(&leaf.key_pem).map_err(|error| PkiError::Key { step: "write", why: error.to_string() })?;
    Ok(format!(
        "apiVersion: v1\nkind: Config\nclusters:\n- name: {name}\n  cluster:\n    server: {server}\n    \
         certificate-authority-data: {}\nusers:\n- name: {name}\n  user:\n    client-certificate-data: {}\n    \
         client-key-data: {}\ncontexts:\n- name: {name}\n  context:\n    cluster: {name}\n    user: {name}\n\
         current-context: {name}\n",
        STANDARD.encode(ca_pem),
        STANDARD.encode(&leaf.cert_pem),
        STANDARD.encode(key),
    ))
}

/// A key on an elliptic curve as `EC PRIVATE KEY` (RFC 5915), which is how kubeadm and others write it: there are clients
/// that tell the algorithm by the label and take every `PRIVATE KEY` (PKCS #8) for one of RSA.
fn traditional(pkcs8_pem: &str) -> Result<String, sec1::Error> {
    let (_, document) = Document::from_pem(pkcs8_pem)?;
    let info = PrivateKeyInfo::try_from(document.as_bytes())?;
    let mut key = EcPrivateKey::try_from(info.private_key)?;
    // Beside PKCS #8 the curve is said once, around the key; alone, the key has to say it.
    key.parameters = Some(EcParameters::NamedCurve(info.algorithm.parameters_oid().map_err(sec1::pkcs8::Error::from)?));
    Ok(Document::encode_msg(&key)?.to_pem(EcPrivateKey::PEM_LABEL, LineEnding::LF)?)
}

#[cfg(test)]
mod tests {
    use rustls_pki_types::pem::PemObject;
    use rustls_pki_types::{CertificateDer, PrivateKeyDer};

    use super::*;
    use crate::{CertificateAuthority, LeafSpec};

    #[test]
    fn the_key_is_labelled_by_its_curve_and_still_the_one_of_the_certificate() {
        let dir = tempfile::tempdir().unwrap();
        let ca = CertificateAuthority::load_or_create(dir.path(), "ca", "test", &base::SystemClock).unwrap();
        let leaf = ca.issue(&LeafSpec::client("admin", &[]), &base::SystemClock).unwrap();
        let text = render("skiff", "https://127.0.0.1:6443", ca.cert_pem(), &leaf).unwrap();
        let data = text.lines().find_map(|line| line.trim().strip_prefix("client-key-data: ")).unwrap();
        let pem = String::from_utf8(STANDARD.decode(data).unwrap()).unwrap();
        assert!(pem.starts_with("-----BEGIN EC PRIVATE KEY-----\n"), "another label");
        let key = PrivateKeyDer::from_pem_slice(pem.as_bytes()).unwrap();
        assert!(matches!(key, PrivateKeyDer::Sec1(_)));
        // prime256v1
        assert!(key.secret_der().windows(8).any(|part| part == [0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7]), "no curve");
        let signer = rustls::crypto::ring::sign::any_supported_type(&key).unwrap();
        let chain = vec![CertificateDer::from_pem_slice(leaf.cert_pem.as_bytes()).unwrap()];
        rustls::sign::CertifiedKey::new(chain, signer).keys_match().unwrap();
    }
}
