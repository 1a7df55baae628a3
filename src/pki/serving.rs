//! Server-side TLS whose certificate can be replaced while connections are served.

use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::crypto::ring::default_provider;
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::{Leaf, PkiError};

/// The certificate that new connections get.
#[derive(Debug)]
pub struct ServingCertificate(ArcSwap<CertifiedKey>);

impl ServingCertificate {
    pub fn new(leaf: &Leaf) -> Result<Arc<Self>, PkiError> {
        Ok(Arc::new(Self(ArcSwap::from_pointee(certified_key(leaf)?))))
    }

    /// New handshakes use `leaf`; established connections go on.
    pub fn replace(&self, leaf: &Leaf) -> Result<(), PkiError> {
        self.0.store(Arc::new(certified_key(leaf)?));
        Ok(())
    }

    /// A server configuration that asks for client certificates of `client_roots` and takes connections without one.
    /// Protocols are offered by ALPN in the order given.
    pub fn server_config(
        self: &Arc<Self>,
        client_roots: &[CertificateDer<'static>],
        alpn: &[&[u8]],
    ) -> Result<ServerConfig, PkiError> {
        let provider = Arc::new(default_provider());
        let mut roots = RootCertStore::empty();
        for root in client_roots {
            roots.add(root.clone()).map_err(PkiError::Tls)?;
        }
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(PkiError::Tls)?;
        let builder = if client_roots.is_empty() {
            builder.with_no_client_auth()
        } else {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .allow_unauthenticated()
                .build()
                .map_err(|e| PkiError::Tls(rustls::Error::General(e.to_string())))?;
            builder.with_client_cert_verifier(verifier)
        };
        let mut config = builder.with_cert_resolver(self.clone());
        config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
        Ok(config)
    }
}

impl ResolvesServerCert for ServingCertificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

/// A client configuration that trusts `roots` and shows `leaf`, if given.
pub fn client_config(roots: &[CertificateDer<'static>], leaf: Option<&Leaf>) -> Result<rustls::ClientConfig, PkiError> {
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(root.clone()).map_err(PkiError::Tls)?;
    }
    let builder = rustls::ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(PkiError::Tls)?
        .with_root_certificates(store);
    match leaf {
        None => Ok(builder.with_no_client_auth()),
        Some(leaf) => {
            let (chain, key) = parse(leaf)?;
            builder.with_client_auth_cert(chain, key).map_err(PkiError::Tls)
        }
    }
}

fn parse(leaf: &Leaf) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), PkiError> {
    let malformed =
        |what, why: String| PkiError::Malformed { path: std::path::PathBuf::from("the given PEM"), what, why };
    let chain = CertificateDer::pem_slice_iter(leaf.cert_pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| malformed("certificate", e.to_string()))?;
    let key =
        PrivateKeyDer::from_pem_slice(leaf.key_pem.as_bytes()).map_err(|e| malformed("private key", e.to_string()))?;
    Ok((chain, key))
}

fn certified_key(leaf: &Leaf) -> Result<CertifiedKey, PkiError> {
    let (chain, key) = parse(leaf)?;
    CertifiedKey::from_der(chain, key, &default_provider()).map_err(PkiError::Tls)
}
