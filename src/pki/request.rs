//! Certificate signing requests (PKCS #10).

use base::Clock;
use jiff::SignedDuration;
use rcgen::{CertificateSigningRequestParams, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;

use crate::authority::{self, CertificateAuthority, base_params, offset_date_time};
use crate::{PkiError, blocks};

/// Before the present, for clocks that are behind.
const BACKDATE: SignedDuration = SignedDuration::from_mins(5);
/// Certificates that live shorter lose nothing to the backdating.
const SHORT: SignedDuration = SignedDuration::from_hours(8);

/// What a request asks for, as approvers and signers look at it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RequestSubject {
    pub common_name: String,
    pub organizations: Vec<String>,
    pub dns_names: Vec<String>,
    pub ip_addresses: Vec<std::net::IpAddr>,
    /// Names that are e-mail addresses are present.
    pub emails: bool,
    /// Names that are URIs are present.
    pub uris: bool,
}

/// Why a request is none, in the words of Go's library where it has fixed ones.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    #[error("PEM block type must be CERTIFICATE REQUEST")]
    Block,
    #[error("asn1: structure error: {0}")]
    Structure(String),
    #[error("{0}")]
    Signature(&'static str),
}

/// Checks that a PEM text is a request that its own key has signed (`certificates.ParseCSR`, `CheckSignature`).
///
/// # Errors
/// [`RequestError`].
pub fn check(request_pem: &str) -> Result<(), RequestError> {
    let block = blocks::blocks(request_pem).into_iter().next().filter(|block| block.label == "CERTIFICATE REQUEST");
    let block = block.ok_or(RequestError::Block)?;
    let (rest, request) =
        X509CertificationRequest::from_der(&block.contents).map_err(|e| RequestError::Structure(e.to_string()))?;
    if !rest.is_empty() {
        return Err(RequestError::Structure("trailing data".to_owned()));
    }
    verify(&request)
}

/// Checks a request's own signature: what ring verifies, P-521, and RSA keys that are too short for ring.
///
/// # Errors
/// [`RequestError::Signature`].
pub fn verify(request: &X509CertificationRequest<'_>) -> Result<(), RequestError> {
    let info = &request.certification_request_info.subject_pki;
    let (good, why) = match info.parsed() {
        Ok(PublicKey::EC(point)) if point.key_size() > 384 => {
            (verifies_p521(request).unwrap_or_default(), "x509: ECDSA verification failure")
        }
        Ok(PublicKey::EC(_)) => (request.verify_signature().is_ok(), "x509: ECDSA verification failure"),
        Ok(PublicKey::RSA(key)) if key.key_size() < RING_RSA_MIN => {
            (verifies_short_rsa(request).unwrap_or_default(), "crypto/rsa: verification error")
        }
        Ok(PublicKey::RSA(_)) => (request.verify_signature().is_ok(), "crypto/rsa: verification error"),
        _ => (request.verify_signature().is_ok(), "x509: Ed25519 verification failure"),
    };
    if good { Ok(()) } else { Err(RequestError::Signature(why)) }
}

/// The shortest modulus in bits that ring takes.
const RING_RSA_MIN: usize = 2048;

/// `None`: key or signature cannot be read.
fn verifies_p521(request: &X509CertificationRequest<'_>) -> Option<bool> {
    use p521::ecdsa::signature::Verifier;
    let key = &request.certification_request_info.subject_pki.subject_public_key.data;
    let key = p521::ecdsa::VerifyingKey::from_sec1_bytes(key).ok()?;
    let signature = p521::ecdsa::Signature::from_der(&request.signature_value.data).ok()?;
    Some(key.verify(request.certification_request_info.raw, &signature).is_ok())
}

/// `None`: key or signature cannot be read. Of such keys SHA-256 alone is taken.
fn verifies_short_rsa(request: &X509CertificationRequest<'_>) -> Option<bool> {
    use sha2::Digest;
    /// `DigestInfo` of SHA-256 up to the digest (RFC 8017, 9.2).
    const SHA256: [u8; 19] = [
        0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05, 0x00, 0x04,
        0x20,
    ];
    const SHA256_WITH_RSA: &str = "1.2.840.113549.1.1.11";
    if request.signature_algorithm.algorithm.to_id_string() != SHA256_WITH_RSA {
        return None;
    }
    let PublicKey::RSA(key) = request.certification_request_info.subject_pki.parsed().ok()? else { return None };
    let number = rsa::BigUint::from_bytes_be;
    let key = rsa::RsaPublicKey::new(number(key.modulus), number(key.exponent)).ok()?;
    let digest = sha2::Sha256::digest(request.certification_request_info.raw);
    let scheme = rsa::Pkcs1v15Sign { hash_len: Some(digest.len()), prefix: SHA256.into() };
    Some(key.verify(scheme, &digest, &request.signature_value.data).is_ok())
}

/// Reads a PEM request and checks its own signature.
pub fn parse(request_pem: &str) -> Result<RequestSubject, PkiError> {
    use x509_parser::extensions::{GeneralName, ParsedExtension};
    let bad = |why: String| PkiError::Request(why);
    let der = pem::parse(request_pem).map_err(|e| bad(e.to_string()))?;
    if der.tag() != "CERTIFICATE REQUEST" {
        return Err(bad("PEM block type must be CERTIFICATE REQUEST".to_owned()));
    }
    let (_, request) = X509CertificationRequest::from_der(der.contents()).map_err(|e| bad(e.to_string()))?;
    verify(&request).map_err(|e| bad(e.to_string()))?;
    let info = &request.certification_request_info;
    let text = |value: &x509_parser::x509::AttributeTypeAndValue<'_>| value.as_str().map(str::to_owned).ok();
    let mut subject = RequestSubject {
        common_name: info.subject.iter_common_name().find_map(text).unwrap_or_default(),
        organizations: info.subject.iter_organization().filter_map(text).collect(),
        ..RequestSubject::default()
    };
    for extension in request.requested_extensions().into_iter().flatten() {
        let ParsedExtension::SubjectAlternativeName(names) = extension else { continue };
        for name in &names.general_names {
            match name {
                GeneralName::DNSName(dns) => subject.dns_names.push((*dns).to_owned()),
                GeneralName::IPAddress([a, b, c, d]) => subject.ip_addresses.push([*a, *b, *c, *d].into()),
                GeneralName::IPAddress(bytes) => match <[u8; 16]>::try_from(*bytes) {
                    Ok(bytes) => subject.ip_addresses.push(bytes.into()),
                    Err(_) => return Err(bad("an IP address has neither 4 nor 16 bytes".to_owned())),
                },
                GeneralName::RFC822Name(_) => subject.emails = true,
                GeneralName::URI(_) => subject.uris = true,
                _ => {}
            }
        }
    }
    Ok(subject)
}

impl CertificateAuthority {
    /// Certifies the request's key, subject and names for `usages` (the names of the certificates API) and `ttl`, as
    /// upstream's `PermissiveSigningPolicy` (`pkg/controller/certificates/authority/policies.go`) does.
    ///
    /// # Errors
    /// The request cannot be read or is not signed by its own key, a usage is unknown, or this authority has expired.
    pub fn sign_request(
        &self,
        request_pem: &str,
        usages: &[String],
        ttl: SignedDuration,
        clock: &dyn Clock,
    ) -> Result<String, PkiError> {
        let subject = parse(request_pem)?;
        let parsed =
            CertificateSigningRequestParams::from_pem(request_pem).map_err(|e| PkiError::Request(e.to_string()))?;
        let now = clock.now();
        let authority_end = authority::not_after(self.cert_pem())?;
        if now >= authority_end {
            return Err(PkiError::Request(format!("the signer has expired: NotAfter={authority_end}")));
        }
        let validity = if ttl < SHORT { ttl } else { ttl - BACKDATE };
        let mut params = base_params("", &[], now, validity);
        params.not_before = offset_date_time(now.as_second() - BACKDATE.as_secs());
        params.not_after = params.not_after.min(offset_date_time(authority_end.as_second()));
        params.distinguished_name = parsed.params.distinguished_name;
        params.subject_alt_names = parsed.params.subject_alt_names;
        params.is_ca = IsCa::ExplicitNoCa;
        (params.key_usages, params.extended_key_usages) = key_usages(usages)?;
        params.use_authority_key_identifier_extension = true;
        self.sign(&params, &parsed.public_key, &subject.common_name)
    }
}

/// `keyUsagesFromStrings`.
fn key_usages(usages: &[String]) -> Result<(Vec<KeyUsagePurpose>, Vec<ExtendedKeyUsagePurpose>), PkiError> {
    use ExtendedKeyUsagePurpose as Extended;
    let mut plain = Vec::new();
    let mut extended = Vec::new();
    let mut unknown = Vec::new();
    for usage in usages {
        match usage.as_str() {
            "signing" | "digital signature" => plain.push(KeyUsagePurpose::DigitalSignature),
            "content commitment" => plain.push(KeyUsagePurpose::ContentCommitment),
            "key encipherment" => plain.push(KeyUsagePurpose::KeyEncipherment),
            "key agreement" => plain.push(KeyUsagePurpose::KeyAgreement),
            "data encipherment" => plain.push(KeyUsagePurpose::DataEncipherment),
            "cert sign" => plain.push(KeyUsagePurpose::KeyCertSign),
            "crl sign" => plain.push(KeyUsagePurpose::CrlSign),
            "encipher only" => plain.push(KeyUsagePurpose::EncipherOnly),
            "decipher only" => plain.push(KeyUsagePurpose::DecipherOnly),
            "any" => extended.push(Extended::Any),
            "server auth" => extended.push(Extended::ServerAuth),
            "client auth" => extended.push(Extended::ClientAuth),
            "code signing" => extended.push(Extended::CodeSigning),
            "email protection" | "s/mime" => extended.push(Extended::EmailProtection),
            "ipsec end system" => extended.push(Extended::Other(vec![1, 3, 6, 1, 5, 5, 7, 3, 5])),
            "ipsec tunnel" => extended.push(Extended::Other(vec![1, 3, 6, 1, 5, 5, 7, 3, 6])),
            "ipsec user" => extended.push(Extended::Other(vec![1, 3, 6, 1, 5, 5, 7, 3, 7])),
            "timestamping" => extended.push(Extended::TimeStamping),
            "ocsp signing" => extended.push(Extended::OcspSigning),
            "microsoft sgc" => extended.push(Extended::Other(vec![1, 3, 6, 1, 4, 1, 311, 10, 3, 3])),
            "netscape sgc" => extended.push(Extended::Other(vec![2, 16, 840, 1, 113_730, 4, 1])),
            _ => unknown.push(usage.as_str()),
        }
    }
    if !unknown.is_empty() {
        return Err(PkiError::Request(format!("unrecognized usage values: {unknown:?}")));
    }
    let mut seen = Vec::new();
    plain.retain(|usage| {
        !seen.contains(usage) && {
            seen.push(*usage);
            true
        }
    });
    let mut kept: Vec<Extended> = Vec::new();
    for usage in extended {
        if !kept.contains(&usage) {
            kept.push(usage);
        }
    }
    Ok((plain, kept))
}

#[cfg(test)]
mod tests {
    use base::ManualClock;
    use jiff::Timestamp;
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};

    use super::*;

    #[test]
    fn a_signed_request_keeps_its_subject_and_names() {
        let dir = tempfile::tempdir().unwrap();
        let clock = ManualClock::new(Timestamp::from_second(1_800_000_000).unwrap());
        let ca = CertificateAuthority::load_or_create(dir.path(), "ca", "skiff-ca", &clock).unwrap();
        let mut params = CertificateParams::new(vec!["node-1".to_owned(), "10.1.2.3".to_owned()]).unwrap();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
        params.distinguished_name.push(DnType::CommonName, "system:node:node-1");
        let request = params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap();
        let subject = parse(&request).unwrap();
        assert_eq!(subject.common_name, "system:node:node-1");
        assert_eq!(subject.organizations, ["system:nodes"]);
        assert_eq!(subject.dns_names, ["node-1"]);
        assert_eq!(subject.ip_addresses, ["10.1.2.3".parse::<std::net::IpAddr>().unwrap()]);
        let cert =
            ca.sign_request(&request, &["server auth".to_owned()], SignedDuration::from_hours(1), &clock).unwrap();
        assert_eq!(crate::authority::not_after(&cert).unwrap().as_second(), 1_800_003_600);
    }

    #[test]
    fn usages_are_read_by_their_names() {
        let usages = |names: &[&str]| key_usages(&names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>());
        let (plain, extended) = usages(&["signing", "digital signature", "client auth"]).unwrap();
        assert_eq!(
            (plain, extended),
            (vec![KeyUsagePurpose::DigitalSignature], vec![ExtendedKeyUsagePurpose::ClientAuth])
        );
        assert!(usages(&["client auth", "juggling"]).unwrap_err().to_string().contains("juggling"));
    }

    #[test]
    fn requests_are_signed_by_their_own_keys() {
        for kind in ["ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519"] {
            let mut der = crate::proof::generate(kind).unwrap().request_der;
            let text = |der: &[u8]| pem::encode(&pem::Pem::new("CERTIFICATE REQUEST", der));
            assert_eq!(check(&text(&der)), Ok(()), "{kind}");
            let last = der.len() - 3;
            der[last] ^= 1;
            assert!(matches!(check(&text(&der)), Err(RequestError::Signature(_))), "{kind}");
        }
        assert_eq!(check("-----BEGIN X-----\neHg=\n-----END X-----\n"), Err(RequestError::Block));
        let junk = "-----BEGIN CERTIFICATE REQUEST-----\neHg=\n-----END CERTIFICATE REQUEST-----\n";
        assert!(matches!(check(junk), Err(RequestError::Structure(_))));
    }

    #[test]
    fn garbage_is_refused() {
        assert!(parse("hello").is_err());
        assert!(parse("-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n").is_err());
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig {
            failure_persistence: None,
            ..proptest::prelude::ProptestConfig::default()
        })]

        #[test]
        fn no_request_panics(
            changes in proptest::collection::vec((proptest::prelude::any::<proptest::sample::Index>(), proptest::prelude::any::<u8>()), 0..5),
            cut in proptest::prelude::any::<proptest::sample::Index>(), any in "\\PC{0,60}",
        ) {
            static WHOLE: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
            let whole = WHOLE.get_or_init(|| {
                let params = CertificateParams::new(vec!["a.b".to_owned(), "10.1.2.3".to_owned(), "::1".to_owned()]).unwrap();
                params.serialize_request(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
            });
            let mut der = whole.clone();
            for (at, byte) in changes {
                let at = at.index(der.len());
                der[at] = byte;
            }
            der.truncate(cut.index(der.len() * 3));
            let text = pem::encode(&pem::Pem::new("CERTIFICATE REQUEST", der));
            let _read = (parse(&text), parse(&any));
        }
    }
}
