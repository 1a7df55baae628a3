//! What a signer says of the certificate that it issued to a pod
//! (`ValidatePodCertificateRequestStatusUpdate`, the part about `Issued`).

use api::Object;
use api::field::{Error, ErrorList, Path};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::json::Json;

/// `MaxCertificateChainSize`.
const CHAIN_BYTES_MAX: usize = 100 * 1024;
/// How far the beginning may be from the present.
const SKEW: SignedDuration = SignedDuration::from_mins(5);
/// How far from either end refreshing may begin.
const MARGIN: SignedDuration = SignedDuration::from_mins(10);

/// The first problem, or those of names together.
pub(super) fn validate(object: &Object, old: &Object, now: Timestamp) -> ErrorList {
    let mut errors = ErrorList::new();
    if let Err(error) = check(&mut errors, object, old, now) {
        errors.push(error);
    }
    errors
}

fn check(errors: &mut ErrorList, object: &Object, old: &Object, now: Timestamp) -> Result<(), Error> {
    let (status, at) = (object.at("status"), Path::new("status"));
    let chain_at = at.child("certificateChain");
    let chain = status.text("certificateChain");
    if chain.len() > CHAIN_BYTES_MAX {
        return Err(Error::too_long(chain_at, CHAIN_BYTES_MAX));
    }
    let wrong = |text: &str| Error::invalid(chain_at.clone(), chain, text);
    let blocks = pki::blocks::blocks(chain);
    let Some((leaf, others)) = blocks.split_first() else {
        return Err(wrong("issued certificate chain must contain at least one certificate"));
    };
    if leaf.label != "CERTIFICATE" {
        return Err(wrong("issued certificate chain must consist entirely of CERTIFICATE PEM blocks"));
    }
    let Some(leaf) = whole(&leaf.contents) else {
        return Err(wrong("leaf certificate does not parse as valid X.509"));
    };
    names(errors, &chain_at, &leaf);
    if !is_key(leaf.public_key(), old.at("spec"))? {
        return Err(wrong("leaf certificate was not issued to the requested public key"));
    }
    let time = |member: &str, text: &str| {
        let time = api::codec::parse_time(status.text(member), false).ok();
        time.ok_or_else(|| Error::required(at.child(member), text))
    };
    let consistent = "must be present and consistent with the issued certificate";
    let range = "must be present and in the range [notbefore+10min, notafter-10min]";
    let times = [time("notBefore", consistent), time("notAfter", consistent), time("beginRefreshAt", range)];
    let (begin, end, refresh) = match times {
        [Ok(begin), Ok(end), Ok(refresh)] => (begin, end, refresh),
        times => {
            errors.extend(times.into_iter().filter_map(Result::err));
            return Ok(());
        }
    };
    if !errors.is_empty() {
        return Ok(());
    }
    let at_time = |member: &str, text: &str| Error::invalid(at.child(member), status.text(member), text);
    let validity = leaf.validity();
    let (from, until) = (validity.not_before.timestamp(), validity.not_after.timestamp());
    if begin.as_second() != from {
        return Err(at_time("notBefore", "must be set to the NotBefore time encoded in the leaf certificate"));
    }
    if begin.duration_since(now).abs() >= SKEW {
        return Err(at_time("notBefore", "must be set to within 5 minutes of kube-apiserver's current time"));
    }
    if end.as_second() != until {
        return Err(at_time("notAfter", "must be set to the NotAfter time encoded in the leaf certificate"));
    }
    let lifetime = until - from;
    // Upstream shows the lifetime in nanoseconds.
    let of_lifetime = |text: &str| Error::invalid(chain_at.clone(), lifetime.saturating_mul(1_000_000_000), text);
    if lifetime < 3600 {
        return Err(of_lifetime("leaf certificate lifetime must be >= 1 hour"));
    }
    let most = object.at("spec").int("maxExpirationSeconds").unwrap_or_default();
    if lifetime > most {
        return Err(of_lifetime(&format!("leaf certificate lifetime must be <= spec.maxExpirationSeconds ({most})")));
    }
    if refresh.duration_since(begin) < MARGIN {
        return Err(at_time("beginRefreshAt", "must be at least 10 minutes after status.notBefore"));
    }
    if end.duration_since(refresh) < MARGIN {
        return Err(at_time("beginRefreshAt", "must be at least 10 minutes before status.notAfter"));
    }
    for block in others {
        if block.label != "CERTIFICATE" {
            return Err(wrong("issued certificate chain must consist entirely of CERTFICATE PEM blocks"));
        }
        if whole(&block.contents).is_none() {
            return Err(wrong("intermediate certificate does not parse as valid X.509"));
        }
    }
    Ok(())
}

/// A certificate with nothing behind it.
fn whole(der: &[u8]) -> Option<X509Certificate<'_>> {
    X509Certificate::from_der(der).ok().filter(|(rest, _)| rest.is_empty()).map(|(_, certificate)| certificate)
}

fn names(errors: &mut ErrorList, at: &Path, leaf: &X509Certificate<'_>) {
    let Ok(Some(names)) = leaf.subject_alternative_name() else { return };
    for name in &names.value.general_names {
        match name {
            GeneralName::DNSName(name) => {
                let mut wrong = |text: &str| errors.push(Error::invalid(at.clone(), *name, text));
                if name.is_empty() {
                    wrong("leaf certificate should not contain empty DNSName");
                }
                if name.contains("..") {
                    wrong("leaf certificate's DNSName should not contain '..'");
                }
                if name.starts_with('.') || name.ends_with('.') {
                    wrong("leaf certificate's DNSName should not start or end with '.'");
                }
            }
            GeneralName::RFC822Name(address) => {
                let good = address.rsplit_once('@').is_some_and(|(local, domain)| {
                    let plain = |c: char| !c.is_whitespace() && !matches!(c, '<' | '>' | '@' | ',' | ';');
                    !local.is_empty() && !domain.is_empty() && local.chars().chain(domain.chars()).all(plain)
                });
                if !good {
                    let text = "leaf certificate should not contain invalid EmailAddress";
                    errors.push(Error::invalid(at.clone(), *address, text));
                }
            }
            _ => {}
        }
    }
}

/// Whether the certificate is for the key that was asked about.
fn is_key(key: &SubjectPublicKeyInfo<'_>, spec: &Value) -> Result<bool, Error> {
    let bytes = |member: &str| STANDARD.decode(spec.text(member)).unwrap_or_default();
    let at = |member: &str| Path::new("spec").child(member);
    let same = |wanted: &SubjectPublicKeyInfo<'_>| {
        wanted.algorithm.algorithm == key.algorithm.algorithm
            && wanted.subject_public_key.data == key.subject_public_key.data
    };
    let stub = bytes("stubPKCS10Request");
    if !stub.is_empty() {
        return match X509CertificationRequest::from_der(&stub) {
            Ok((_, request)) => Ok(same(&request.certification_request_info.subject_pki)),
            Err(_) => Err(Error::invalid(at("stubPKCS10Request"), "", "must be a valid PKCS#10 CSR").hidden()),
        };
    }
    match SubjectPublicKeyInfo::from_der(&bytes("pkixPublicKey")) {
        Ok((_, wanted)) => Ok(same(&wanted)),
        Err(_) => {
            let text = "must be a valid PKIX-serialized public key";
            Err(Error::invalid(at("pkixPublicKey"), "", text).hidden())
        }
    }
}
