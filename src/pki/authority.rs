//! Certificate authorities and the leaves they issue.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use base::Clock;
use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls_pki_types::CertificateDer;

use crate::{PkiError, files};

/// Validity of an authority: ten years, as upstream's tools give.
const AUTHORITY_VALIDITY: SignedDuration = SignedDuration::from_hours(24 * 3650);
/// Validity of a leaf. Leaves are renewed in process after two thirds of it.
pub const LEAF_VALIDITY: SignedDuration = SignedDuration::from_hours(24 * 365);
/// No clock that shows an earlier moment than this can be right: 2026-11-01, when this was written.
const EARLIEST: i64 = 1_793_491_200;

/// What a leaf may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usage {
    Client,
    Server,
    Both,
}

/// What to certify.
#[derive(Debug, Clone)]
pub struct LeafSpec {
    pub common_name: String,
    /// Groups of a client.
    pub organizations: Vec<String>,
    /// DNS names and IP addresses of a server.
    pub names: Vec<String>,
    pub usage: Usage,
}

impl LeafSpec {
    /// A client certificate for a user in groups.
    pub fn client(user: &str, groups: &[&str]) -> Self {
        Self {
            common_name: user.to_owned(),
            organizations: groups.iter().map(|g| (*g).to_owned()).collect(),
            names: Vec::new(),
            usage: Usage::Client,
        }
    }

    /// A serving certificate for DNS names and addresses.
    pub fn server(common_name: &str, names: Vec<String>) -> Self {
        Self { common_name: common_name.to_owned(), organizations: Vec::new(), names, usage: Usage::Server }
    }
}

/// A certificate with its private key, in PEM.
#[derive(Clone)]
pub struct Leaf {
    pub cert_pem: String,
    pub key_pem: String,
}

impl Leaf {
    /// The end of validity.
    pub fn not_after(&self) -> Result<Timestamp, PkiError> {
        not_after(&self.cert_pem)
    }
}

/// A signing key with its self-signed certificate.
pub struct CertificateAuthority {
    cert_pem: String,
    cert_der: CertificateDer<'static>,
    key_pem: String,
    issuer: Issuer<'static, KeyPair>,
    path: PathBuf,
}

impl CertificateAuthority {
    /// Reads `<dir>/<name>.crt` and `.key`, or makes them with `common_name`.
    pub fn load_or_create(dir: &Path, name: &str, common_name: &str, clock: &dyn Clock) -> Result<Self, PkiError> {
        let cert_path = dir.join(format!("{name}.crt"));
        let key_path = dir.join(format!("{name}.key"));
        if let (Some(cert_pem), Some(key_pem)) = (files::read_opt(&cert_path)?, files::read_opt(&key_path)?) {
            return Self::from_pem(cert_path, cert_pem, key_pem);
        }
        let key = KeyPair::generate().map_err(|source| failed("make a key for", common_name, source))?;
        let mut params = base_params(common_name, &[], clock.now(), AUTHORITY_VALIDITY);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        let cert = params.self_signed(&key).map_err(|source| failed("sign", common_name, source))?;
        let (cert_pem, key_pem) = (cert.pem(), key.serialize_pem());
        // The key first: a certificate without its key would be taken for damage, a lone key is overwritten.
        files::write(&key_path, &key_pem, files::PRIVATE)?;
        files::write(&cert_path, &cert_pem, files::PUBLIC)?;
        Self::from_pem(cert_path, cert_pem, key_pem)
    }

    fn from_pem(path: PathBuf, cert_pem: String, key_pem: String) -> Result<Self, PkiError> {
        let malformed = |what, why: String| PkiError::Malformed { path: path.clone(), what, why };
        let key = KeyPair::from_pem(&key_pem).map_err(|e| malformed("private key", e.to_string()))?;
        let der = pem::parse(&cert_pem).map_err(|e| malformed("certificate", e.to_string()))?.into_contents();
        let cert_der = CertificateDer::from(der);
        let issuer = Issuer::from_ca_cert_der(&cert_der, key).map_err(|e| malformed("certificate", e.to_string()))?;
        Ok(Self { cert_pem, cert_der, key_pem, issuer, path })
    }

    pub fn cert_pem(&self) -> &str {
        &self.cert_pem
    }

    pub fn cert_der(&self) -> &CertificateDer<'static> {
        &self.cert_der
    }

    pub fn key_pem(&self) -> &str {
        &self.key_pem
    }

    /// Where the certificate lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A new key and a certificate for it.
    pub fn issue(&self, spec: &LeafSpec, clock: &dyn Clock) -> Result<Leaf, PkiError> {
        let key = KeyPair::generate().map_err(|source| failed("make a key for", &spec.common_name, source))?;
        let params = leaf_params(spec, clock.now())?;
        let cert = params.signed_by(&key, &self.issuer).map_err(|source| failed("sign", &spec.common_name, source))?;
        Ok(Leaf { cert_pem: cert.pem(), key_pem: key.serialize_pem() })
    }

    /// The leaf kept in `<dir>/<name>.crt` and `.key`, issued anew if it is absent, not from this authority, past two
    /// thirds of its life, or for other names than `spec`.
    pub fn load_or_issue(&self, dir: &Path, name: &str, spec: &LeafSpec, clock: &dyn Clock) -> Result<Leaf, PkiError> {
        let cert_path = dir.join(format!("{name}.crt"));
        let key_path = dir.join(format!("{name}.key"));
        if let (Some(cert_pem), Some(key_pem)) = (files::read_opt(&cert_path)?, files::read_opt(&key_path)?) {
            let leaf = Leaf { cert_pem, key_pem };
            if self.is_current(&leaf, spec, clock) {
                return Ok(leaf);
            }
        }
        let leaf = self.issue(spec, clock)?;
        files::write(&key_path, &leaf.key_pem, files::PRIVATE)?;
        files::write(&cert_path, &leaf.cert_pem, files::PUBLIC)?;
        Ok(leaf)
    }

    /// Whether `leaf` need not be issued anew for `spec`.
    pub fn is_current(&self, leaf: &Leaf, spec: &LeafSpec, clock: &dyn Clock) -> bool {
        let Ok(cert) = pem::parse(&leaf.cert_pem) else { return false };
        let Ok((_, cert)) = x509_parser::parse_x509_certificate(cert.contents()) else { return false };
        let Ok((_, authority)) = x509_parser::parse_x509_certificate(&self.cert_der) else { return false };
        let Ok(key) = KeyPair::from_pem(&leaf.key_pem) else { return false };
        let left = cert.validity().not_after.timestamp() - effective(clock.now()).as_second();
        cert.verify_signature(Some(authority.public_key())).is_ok()
            && cert.public_key().subject_public_key.data == key.public_key_raw()
            && left > LEAF_VALIDITY.as_secs() / 3
            && has_names(&cert, spec)
    }

    /// Signs another's public key (a certificate signing request) with the given subject; see [`crate::request`].
    pub(crate) fn sign(
        &self,
        params: &CertificateParams,
        key: &impl rcgen::PublicKeyData,
        subject: &str,
    ) -> Result<String, PkiError> {
        let cert = params.signed_by(key, &self.issuer).map_err(|source| failed("sign", subject, source))?;
        Ok(cert.pem())
    }
}

fn has_names(cert: &x509_parser::certificate::X509Certificate<'_>, spec: &LeafSpec) -> bool {
    use x509_parser::extensions::GeneralName;
    let Ok(extension) = cert.subject_alternative_name() else { return false };
    let held: Vec<String> = extension
        .iter()
        .flat_map(|e| &e.value.general_names)
        .filter_map(|name| match name {
            GeneralName::DNSName(dns) => Some((*dns).to_owned()),
            GeneralName::IPAddress([a, b, c, d]) => Some(IpAddr::from([*a, *b, *c, *d]).to_string()),
            GeneralName::IPAddress(bytes) => <[u8; 16]>::try_from(*bytes).ok().map(|b| IpAddr::from(b).to_string()),
            _ => None,
        })
        .collect();
    spec.names.iter().all(|name| held.contains(name))
}

fn leaf_params(spec: &LeafSpec, now: Timestamp) -> Result<CertificateParams, PkiError> {
    let mut params = base_params(&spec.common_name, &spec.organizations, now, LEAF_VALIDITY);
    for name in &spec.names {
        params.subject_alt_names.push(match name.parse::<IpAddr>() {
            Ok(ip) => SanType::IpAddress(ip),
            Err(_) => {
                SanType::DnsName(name.as_str().try_into().map_err(|source| failed("name", &spec.common_name, source))?)
            }
        });
    }
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages = match spec.usage {
        Usage::Client => vec![ExtendedKeyUsagePurpose::ClientAuth],
        Usage::Server => vec![ExtendedKeyUsagePurpose::ServerAuth],
        Usage::Both => vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
    };
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

pub(crate) fn base_params(
    common_name: &str,
    organizations: &[String],
    now: Timestamp,
    validity: SignedDuration,
) -> CertificateParams {
    let mut subject = DistinguishedName::new();
    for organization in organizations {
        subject.push(DnType::OrganizationName, organization.as_str());
    }
    if !common_name.is_empty() {
        subject.push(DnType::CommonName, common_name);
    }
    let mut params = CertificateParams::default();
    params.distinguished_name = subject;
    let end = effective(now).as_second() + validity.as_secs();
    params.not_before = offset_date_time(0);
    params.not_after = offset_date_time(end);
    params
}

/// `rcgen` speaks `time`; its own constructor is the only one it exports.
pub(crate) fn offset_date_time(second: i64) -> time_of::OffsetDateTime {
    rcgen::date_time_ymd(1970, 1, 1) + std::time::Duration::from_secs(second.max(0).unsigned_abs())
}

mod time_of {
    /// The type of `CertificateParams::not_before`, which `rcgen` does not name in its own exports.
    pub(crate) type OffsetDateTime = time::OffsetDateTime;
}

/// The present, or the earliest believable moment if the clock is not set.
fn effective(now: Timestamp) -> Timestamp {
    let earliest = Timestamp::from_second(EARLIEST).unwrap_or(Timestamp::UNIX_EPOCH);
    now.max(earliest)
}

/// What a trusted client certificate says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientSubject {
    pub common_name: String,
    pub organizations: Vec<String>,
    /// Seconds since the epoch; the caller compares them with its clock.
    pub not_before: i64,
    pub not_after: i64,
}

/// Checks that `leaf` was signed by `authority` and may authenticate clients, and reads its subject.
///
/// # Errors
/// The plain reason why it is refused.
pub fn verify_client(leaf: &CertificateDer<'_>, authority: &CertificateDer<'_>) -> Result<ClientSubject, &'static str> {
    let (_, leaf) = x509_parser::parse_x509_certificate(leaf).map_err(|_| "it cannot be parsed")?;
    let (_, authority) = x509_parser::parse_x509_certificate(authority).map_err(|_| "the authority is unreadable")?;
    if leaf.issuer() != authority.subject() {
        return Err("it is from another authority");
    }
    leaf.verify_signature(Some(authority.public_key())).map_err(|_| "its signature is not the authority's")?;
    match leaf.extended_key_usage() {
        Ok(Some(usage)) if usage.value.client_auth || usage.value.any => {}
        _ => return Err("it is not meant for clients"),
    }
    let text = |value: &x509_parser::x509::AttributeTypeAndValue<'_>| value.as_str().map(str::to_owned).ok();
    let common_name = leaf.subject().iter_common_name().find_map(text).unwrap_or_default();
    if common_name.is_empty() {
        return Err("it has no common name");
    }
    Ok(ClientSubject {
        common_name,
        organizations: leaf.subject().iter_organization().filter_map(text).collect(),
        not_before: leaf.validity().not_before.timestamp(),
        not_after: leaf.validity().not_after.timestamp(),
    })
}

/// Whether a text holds PEM certificates and nothing else of that form that cannot be read.
pub fn is_bundle(text: &str) -> bool {
    let Ok(blocks) = pem::parse_many(text) else { return false };
    let mut certificates = blocks.iter().filter(|block| block.tag() == "CERTIFICATE").peekable();
    certificates.peek().is_some()
        && certificates.all(|block| x509_parser::parse_x509_certificate(block.contents()).is_ok())
}

/// The end of validity of a PEM certificate.
pub fn not_after(cert_pem: &str) -> Result<Timestamp, PkiError> {
    let malformed = |why: String| PkiError::Malformed { path: PathBuf::new(), what: "certificate", why };
    let der = pem::parse(cert_pem).map_err(|e| malformed(e.to_string()))?;
    let (_, cert) = x509_parser::parse_x509_certificate(der.contents()).map_err(|e| malformed(e.to_string()))?;
    Timestamp::from_second(cert.validity().not_after.timestamp()).map_err(|e| malformed(e.to_string()))
}

fn failed(step: &'static str, subject: &str, source: rcgen::Error) -> PkiError {
    PkiError::Certificate { step, subject: subject.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use base::ManualClock;

    use super::*;

    fn at(second: i64) -> ManualClock {
        ManualClock::new(Timestamp::from_second(second).unwrap())
    }

    #[test]
    fn an_authority_is_made_once_and_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let clock = at(1_800_000_000);
        let first = CertificateAuthority::load_or_create(dir.path(), "ca", "skiff-ca", &clock).unwrap();
        let second = CertificateAuthority::load_or_create(dir.path(), "ca", "other", &clock).unwrap();
        assert_eq!(first.cert_pem(), second.cert_pem());
    }

    #[test]
    fn a_leaf_is_kept_until_it_is_old_or_lacks_a_name() {
        let dir = tempfile::tempdir().unwrap();
        let clock = at(1_800_000_000);
        let ca = CertificateAuthority::load_or_create(dir.path(), "ca", "skiff-ca", &clock).unwrap();
        let mut spec = LeafSpec::server("kube-apiserver", vec!["localhost".into(), "10.0.0.1".into()]);
        let first = ca.load_or_issue(dir.path(), "server", &spec, &clock).unwrap();
        let again = ca.load_or_issue(dir.path(), "server", &spec, &clock).unwrap();
        assert_eq!(first.cert_pem, again.cert_pem);
        spec.names.push("10.0.0.2".into());
        let renamed = ca.load_or_issue(dir.path(), "server", &spec, &clock).unwrap();
        assert_ne!(first.cert_pem, renamed.cert_pem);
        clock.advance(SignedDuration::from_hours(24 * 250));
        let renewed = ca.load_or_issue(dir.path(), "server", &spec, &clock).unwrap();
        assert_ne!(renamed.cert_pem, renewed.cert_pem);
    }

    #[test]
    fn a_client_certificate_is_read_and_a_foreign_one_refused() {
        let dir = tempfile::tempdir().unwrap();
        let clock = at(1_800_000_000);
        let ca = CertificateAuthority::load_or_create(dir.path(), "ca", "skiff-ca", &clock).unwrap();
        let other = CertificateAuthority::load_or_create(dir.path(), "other", "skiff-ca", &clock).unwrap();
        let der = |leaf: &Leaf| CertificateDer::from(pem::parse(&leaf.cert_pem).unwrap().into_contents());
        let leaf = der(&ca.issue(&LeafSpec::client("ann", &["clerks"]), &clock).unwrap());
        let subject = verify_client(&leaf, ca.cert_der()).unwrap();
        assert_eq!((subject.common_name.as_str(), subject.organizations.as_slice()), ("ann", &["clerks".into()][..]));
        assert_eq!(verify_client(&leaf, other.cert_der()), Err("its signature is not the authority's"));
        let server = der(&ca.issue(&LeafSpec::server("x", vec!["x".into()]), &clock).unwrap());
        assert_eq!(verify_client(&server, ca.cert_der()), Err("it is not meant for clients"));
    }

    #[test]
    fn a_clock_at_the_epoch_still_gives_useful_certificates() {
        let dir = tempfile::tempdir().unwrap();
        let clock = at(0);
        let ca = CertificateAuthority::load_or_create(dir.path(), "ca", "skiff-ca", &clock).unwrap();
        let leaf = ca.issue(&LeafSpec::client("admin", &["system:masters"]), &clock).unwrap();
        assert!(leaf.not_after().unwrap().as_second() > EARLIEST);
    }
}
