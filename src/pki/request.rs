//! Certificate signing requests (PKCS #10).

use base::Clock;
use jiff::SignedDuration;
use rcgen::{CertificateSigningRequestParams, ExtendedKeyUsagePurpose, KeyUsagePurpose};
use x509_parser::prelude::FromDer;

use crate::authority::{CertificateAuthority, base_params};
use crate::{PkiError, Usage};

/// What a request asks for, as approvers and signers look at it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RequestSubject {
    pub common_name: String,
    pub organizations: Vec<String>,
    pub dns_names: Vec<String>,
    pub ip_addresses: Vec<std::net::IpAddr>,
    /// Names of kinds that Kubernetes' signers never allow (e-mail, URI) are present.
    pub other_names: bool,
}

/// Reads a PEM request and checks its own signature.
pub fn parse(request_pem: &str) -> Result<RequestSubject, PkiError> {
    use x509_parser::extensions::{GeneralName, ParsedExtension};
    let bad = |why: String| PkiError::Request(why);
    let der = pem::parse(request_pem).map_err(|e| bad(e.to_string()))?;
    if der.tag() != "CERTIFICATE REQUEST" {
        return Err(bad("PEM block type must be CERTIFICATE REQUEST".to_owned()));
    }
    let (_, request) = x509_parser::certification_request::X509CertificationRequest::from_der(der.contents())
        .map_err(|e| bad(e.to_string()))?;
    request.verify_signature().map_err(|e| bad(e.to_string()))?;
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
                _ => subject.other_names = true,
            }
        }
    }
    Ok(subject)
}

impl CertificateAuthority {
    /// Certifies the request's key and subject for `usage` and `validity`.
    pub fn sign_request(
        &self,
        request_pem: &str,
        usage: Usage,
        validity: SignedDuration,
        clock: &dyn Clock,
    ) -> Result<String, PkiError> {
        let subject = parse(request_pem)?;
        let parsed =
            CertificateSigningRequestParams::from_pem(request_pem).map_err(|e| PkiError::Request(e.to_string()))?;
        let mut params = base_params(&subject.common_name, &subject.organizations, clock.now(), validity);
        params.subject_alt_names = parsed.params.subject_alt_names;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = match usage {
            Usage::Client => vec![ExtendedKeyUsagePurpose::ClientAuth],
            Usage::Server => vec![ExtendedKeyUsagePurpose::ServerAuth],
            Usage::Both => vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
        };
        params.use_authority_key_identifier_extension = true;
        self.sign(&params, &parsed.public_key, &subject.common_name)
    }
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
        let cert = ca.sign_request(&request, Usage::Server, SignedDuration::from_hours(1), &clock).unwrap();
        assert_eq!(crate::authority::not_after(&cert).unwrap().as_second(), 1_800_003_600);
    }

    #[test]
    fn garbage_is_refused() {
        assert!(parse("hello").is_err());
        assert!(parse("-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n").is_err());
    }
}
