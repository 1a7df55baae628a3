//! Certificate authorities, leaves, service-account keys and tokens, kubeconfigs.
//!
//! Invariants: private keys are written with mode 0600 and never logged; a file is replaced by rename, so that it is
//! whole or absent; every certificate is valid from the Unix epoch on, because a box without a real-time clock starts
//! there (the end of validity is what protects).

pub mod authority;
pub mod blocks;
pub mod files;
pub mod jwks;
mod keys;
pub mod kubeconfig;
pub mod proof;
pub mod request;
pub mod serving;
pub mod token;

pub use authority::{CertificateAuthority, Leaf, LeafSpec, Usage};
pub use serving::ServingCertificate;
pub use token::{Claims, TokenSigner};

/// Why a key, certificate or token could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    #[error("cannot {step} {path}")]
    File {
        step: &'static str,
        path: std::path::PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("cannot {step} the certificate of {subject:?}")]
    Certificate {
        step: &'static str,
        subject: String,
        #[source]
        source: rcgen::Error,
    },
    #[error("{path} holds no usable {what}: {why}")]
    Malformed { path: std::path::PathBuf, what: &'static str, why: String },
    #[error("cannot {step} a private key: {why}")]
    Key { step: &'static str, why: String },
    #[error("invalid certificate request: {0}")]
    Request(String),
    #[error("cannot sign a token")]
    Sign(#[source] jsonwebtoken::errors::Error),
    #[error("cannot build a TLS configuration")]
    Tls(#[source] rustls::Error),
}
