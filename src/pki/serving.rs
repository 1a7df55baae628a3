//! Server-side TLS whose certificate can be replaced while connections are served.

use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring::default_provider;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};

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

    /// A server configuration that asks for client certificates, naming `client_roots`, and takes connections without
    /// one. Protocols are offered by ALPN in the order given.
    ///
    /// Whether a certificate is trusted is for the caller to decide per request ([`crate::authority::verify_client`]):
    /// the handshake only proves that the peer holds its key, so that a bad certificate gets an HTTP 401.
    pub fn server_config(
        self: &Arc<Self>,
        client_roots: &[CertificateDer<'static>],
        alpn: &[&[u8]],
    ) -> Result<ServerConfig, PkiError> {
        let provider = Arc::new(default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(PkiError::Tls)?;
        let builder = if client_roots.is_empty() {
            builder.with_no_client_auth()
        } else {
            builder.with_client_cert_verifier(Arc::new(ProofOfPossession::new(client_roots, provider)?))
        };
        Ok(self.serving(builder, alpn))
    }

    /// A server configuration that takes only connections with a certificate signed by one of `client_roots`.
    pub fn mutual_config(
        self: &Arc<Self>,
        client_roots: &[CertificateDer<'static>],
        alpn: &[&[u8]],
    ) -> Result<ServerConfig, PkiError> {
        let provider = Arc::new(default_provider());
        let roots = Arc::new(trusted(client_roots)?);
        let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider.clone())
            .build()
            .map_err(|e| PkiError::Tls(rustls::Error::General(e.to_string())))?;
        let builder = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(PkiError::Tls)?
            .with_client_cert_verifier(verifier);
        Ok(self.serving(builder, alpn))
    }

    fn serving(
        self: &Arc<Self>,
        builder: rustls::ConfigBuilder<ServerConfig, rustls::server::WantsServerCert>,
        alpn: &[&[u8]],
    ) -> ServerConfig {
        let mut config = builder.with_cert_resolver(self.clone());
        config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
        config
    }
}

fn trusted(roots: &[CertificateDer<'static>]) -> Result<RootCertStore, PkiError> {
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(root.clone()).map_err(PkiError::Tls)?;
    }
    Ok(store)
}

/// What every verifier here has in common: the peer proves that it holds the key of its certificate.
macro_rules! proves_key {
    ($verifier:ident . $provider:tt) => {
        fn verify_tls12_signature(
            &$verifier,
            message: &[u8],
            cert: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            let algorithms = &$verifier.$provider.signature_verification_algorithms;
            verify_tls12_signature(message, cert, signature, algorithms)
        }

        fn verify_tls13_signature(
            &$verifier,
            message: &[u8],
            cert: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            let algorithms = &$verifier.$provider.signature_verification_algorithms;
            verify_tls13_signature(message, cert, signature, algorithms)
        }

        fn supported_verify_schemes(&$verifier) -> Vec<SignatureScheme> {
            $verifier.$provider.signature_verification_algorithms.supported_schemes()
        }
    };
}

/// Accepts every client certificate whose key the peer proves to hold.
#[derive(Debug)]
struct ProofOfPossession {
    subjects: Vec<DistinguishedName>,
    provider: Arc<CryptoProvider>,
}

impl ProofOfPossession {
    fn new(roots: &[CertificateDer<'static>], provider: Arc<CryptoProvider>) -> Result<Self, PkiError> {
        Ok(Self { subjects: trusted(roots)?.subjects(), provider })
    }
}

impl ClientCertVerifier for ProofOfPossession {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.subjects
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    proves_key!(self.provider);
}

impl ResolvesServerCert for ServingCertificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

/// A client configuration that trusts `roots` and shows `leaf`, if given.
pub fn client_config(roots: &[CertificateDer<'static>], leaf: Option<&Leaf>) -> Result<rustls::ClientConfig, PkiError> {
    let builder = rustls::ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(PkiError::Tls)?
        .with_root_certificates(trusted(roots)?);
    showing(builder, leaf)
}

/// [`bundle_client_config_as`] without a certificate of one's own.
pub fn bundle_client_config(bundle: &[u8]) -> Result<rustls::ClientConfig, PkiError> {
    bundle_client_config_as(bundle, None)
}

/// A client configuration that trusts the certificates of a PEM bundle, or the system's roots if it is empty, and shows
/// `leaf`, if given.
///
/// As Go does, a certificate that is itself in the bundle is trusted, authority or not: self-signed serving
/// certificates are common.
pub fn bundle_client_config_as(bundle: &[u8], leaf: Option<&Leaf>) -> Result<rustls::ClientConfig, PkiError> {
    let provider = Arc::new(default_provider());
    verified_by(Arc::new(bundle_verifier(bundle, provider.clone())?), provider, leaf)
}

fn bundle_verifier(bundle: &[u8], provider: Arc<CryptoProvider>) -> Result<BundleVerifier, PkiError> {
    let mut roots = RootCertStore::empty();
    let mut pinned = Vec::new();
    if bundle.is_empty() {
        // Certificates that cannot be read are left out; without any nothing is trusted.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    } else {
        pinned = CertificateDer::pem_slice_iter(bundle).filter_map(Result::ok).collect();
        roots.add_parsable_certificates(pinned.iter().cloned());
    }
    let webpki =
        match rustls::client::WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build() {
            Ok(verifier) => Some(verifier),
            // No roots at all: every server is unknown.
            Err(rustls::client::VerifierBuilderError::NoRootAnchors) => None,
            Err(error) => return Err(PkiError::Tls(rustls::Error::General(error.to_string()))),
        };
    Ok(BundleVerifier { webpki, pinned, name: None, provider })
}

/// What a client believes of a service that it asks.
#[derive(Debug, Clone, Copy)]
pub struct RemoteTrust<'a> {
    /// PEM certificates; empty: the system's roots.
    pub bundle: &'a [u8],
    /// Believes any certificate.
    pub insecure: bool,
    /// The name that the certificate must have, if it is another than the URL's.
    pub server_name: Option<&'a str>,
}

/// A client configuration for a service of which a kubeconfig tells; shows `leaf`, if given.
///
/// # Errors
/// [`PkiError`] for keys and names that are none.
pub fn remote_client_config(trust: &RemoteTrust<'_>, leaf: Option<&Leaf>) -> Result<rustls::ClientConfig, PkiError> {
    if trust.insecure {
        return unverified_client_config(leaf);
    }
    let Some(name) = trust.server_name else { return bundle_client_config_as(trust.bundle, leaf) };
    let name = rustls_pki_types::ServerName::try_from(name.to_owned())
        .map_err(|e| PkiError::Tls(rustls::Error::General(e.to_string())))?;
    let provider = Arc::new(default_provider());
    let verifier = BundleVerifier { name: Some(name), ..bundle_verifier(trust.bundle, provider.clone())? };
    verified_by(Arc::new(verifier), provider, leaf)
}

/// A client configuration that takes any server certificate and shows `leaf`, if given.
pub fn unverified_client_config(leaf: Option<&Leaf>) -> Result<rustls::ClientConfig, PkiError> {
    let provider = Arc::new(default_provider());
    verified_by(Arc::new(Unverified(provider.clone())), provider, leaf)
}

fn verified_by(
    verifier: Arc<dyn ServerCertVerifier>,
    provider: Arc<CryptoProvider>,
    leaf: Option<&Leaf>,
) -> Result<rustls::ClientConfig, PkiError> {
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(PkiError::Tls)?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    showing(builder, leaf)
}

/// Shows `leaf` to servers that ask, if given.
fn showing(
    builder: rustls::ConfigBuilder<rustls::ClientConfig, rustls::client::WantsClientCert>,
    leaf: Option<&Leaf>,
) -> Result<rustls::ClientConfig, PkiError> {
    match leaf {
        None => Ok(builder.with_no_client_auth()),
        Some(leaf) => {
            let (chain, key) = parse(leaf)?;
            builder.with_client_auth_cert(chain, key).map_err(PkiError::Tls)
        }
    }
}

/// The certificates of a leaf, its own first.
pub fn certificates(leaf: &Leaf) -> Result<Vec<CertificateDer<'static>>, PkiError> {
    parse(leaf).map(|(chain, _)| chain)
}

/// Takes any certificate: for servers that users told us not to verify.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &rustls_pki_types::ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    proves_key!(self.0);
}

/// The usual verification, and certificates that are in the bundle themselves.
#[derive(Debug)]
struct BundleVerifier {
    webpki: Option<Arc<rustls::client::WebPkiServerVerifier>>,
    pinned: Vec<CertificateDer<'static>>,
    /// The name that the certificate must have, if it is another than the URL's.
    name: Option<rustls_pki_types::ServerName<'static>>,
    provider: Arc<CryptoProvider>,
}

/// Whether the certificate may sign others. webpki takes none of these for a server's; Go does.
fn is_authority(certificate: &CertificateDer<'_>) -> bool {
    x509_parser::parse_x509_certificate(certificate).is_ok_and(|(_, parsed)| parsed.is_ca())
}

impl BundleVerifier {
    /// Whether an authority of the bundle has signed the certificate itself.
    fn signs(&self, end_entity: &CertificateDer<'_>, now: UnixTime) -> bool {
        let Ok((_, leaf)) = x509_parser::parse_x509_certificate(end_entity) else { return false };
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        self.pinned.iter().any(|known| {
            x509_parser::parse_x509_certificate(known).is_ok_and(|(_, authority)| {
                let validity = authority.validity();
                authority.is_ca()
                    && authority.subject() == leaf.issuer()
                    && (validity.not_before.timestamp()..=validity.not_after.timestamp()).contains(&now)
                    && leaf.verify_signature(Some(authority.public_key())).is_ok()
            })
        })
    }

    /// A certificate of the bundle: its name and its time must still be right.
    fn verify_pinned(
        end_entity: &CertificateDer<'_>,
        name: &rustls_pki_types::ServerName<'_>,
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let bad = |_| rustls::Error::InvalidCertificate(rustls::CertificateError::BadEncoding);
        let (_, parsed) = x509_parser::parse_x509_certificate(end_entity).map_err(bad)?;
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let validity = parsed.validity();
        if now < validity.not_before.timestamp() || now > validity.not_after.timestamp() {
            return Err(rustls::Error::InvalidCertificate(rustls::CertificateError::Expired));
        }
        rustls::client::verify_server_name(&rustls::server::ParsedCertificate::try_from(end_entity)?, name)?;
        Ok(ServerCertVerified::assertion())
    }
}

impl ServerCertVerifier for BundleVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &rustls_pki_types::ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let name = self.name.as_ref().unwrap_or(name);
        if self.pinned.iter().any(|known| known == end_entity) {
            return Self::verify_pinned(end_entity, name, now);
        }
        match &self.webpki {
            _ if is_authority(end_entity) => match self.signs(end_entity, now) {
                true => Self::verify_pinned(end_entity, name, now),
                false => Err(rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer)),
            },
            Some(webpki) => webpki.verify_server_cert(end_entity, intermediates, name, ocsp, now),
            None => Err(rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer)),
        }
    }

    proves_key!(self.provider);
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

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

    use super::*;

    /// An authority, and a serving certificate of `hook` signed by it that may or may not sign others.
    fn signed(name: &str, is_authority: bool) -> (String, CertificateDer<'static>) {
        let authority = |name: &str| {
            let mut params = CertificateParams::new(vec!["hook".to_owned()]).unwrap();
            params.distinguished_name.push(rcgen::DnType::CommonName, name);
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params
        };
        let key = KeyPair::generate().unwrap();
        let params = authority(name);
        let root = params.self_signed(&key).unwrap();
        let mut leaf = authority("hook");
        if !is_authority {
            leaf.is_ca = IsCa::NoCa;
        }
        let own = KeyPair::generate().unwrap();
        let leaf = leaf.signed_by(&own, &Issuer::new(params, key)).unwrap();
        (root.pem(), leaf.der().clone())
    }

    #[test]
    fn servers_may_show_authorities_as_in_go() {
        let check = |bundle: &str, certificate: &CertificateDer<'_>, name: &str, want: Result<(), &str>| {
            let verifier = bundle_verifier(bundle.as_bytes(), Arc::new(default_provider())).unwrap();
            let name = name.to_owned().try_into().unwrap();
            let got = verifier.verify_server_cert(certificate, &[], &name, &[], UnixTime::now());
            match want {
                Ok(()) => drop(got.unwrap()),
                Err(why) => assert!(format!("{:?}", got.unwrap_err()).contains(why)),
            }
        };
        let (root, authority) = signed("a", true);
        check(&root, &authority, "hook", Ok(()));
        check(&root, &authority, "other", Err("NotValidForName"));
        check(&signed("a", true).0, &authority, "hook", Err("UnknownIssuer"));
        let (root, plain) = signed("a", false);
        check(&root, &plain, "hook", Ok(()));
    }
}
