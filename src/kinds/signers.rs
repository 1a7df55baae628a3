//! Names of signers, and what trust bundles and pod certificates have to look like (upstream
//! `apis/core/validation/names.go`, `apis/certificates/validation`).

use std::collections::BTreeMap;

use api::Object;
use api::field::{Error, ErrorList, Path};
use api::validation;
use serde_json::Value;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::checks::{invalid_all, label_selector};
use crate::json::Json;
use crate::printed::{LABEL_SELECTOR, Printed};

const SUBDOMAIN_MAX: usize = 253;
const LABEL_MAX: usize = 63;
const TRUST_BUNDLE_MAX: usize = 1 << 20;
const KEY_TYPES: &[&str] = &["RSA3072", "RSA4096", "ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519"];
/// Seconds.
const MIN_EXPIRATION: i64 = 3600;
const MAX_EXPIRATION: i64 = 91 * 24 * 60 * 60;
const MAX_EXPIRATION_KUBERNETES: i64 = 24 * 60 * 60;

/// `ValidateSignerName`: a domain, a slash, a path.
pub(crate) fn signer_name(errors: &mut ErrorList, at: &Path, name: &str) {
    if name.is_empty() {
        errors.push(Error::required(at.clone(), ""));
        return;
    }
    let parts: Vec<&str> = name.split('/').collect();
    let [domain, path] = parts.as_slice() else {
        let text = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
        errors.push(Error::invalid(at.clone(), name, text));
        return;
    };
    if domain.len() > SUBDOMAIN_MAX {
        errors.push(Error::too_long(at.clone(), SUBDOMAIN_MAX));
    }
    let mut labels = |whole: &str, check: fn(&str, bool) -> Vec<String>| {
        for label in whole.split('.') {
            let texts = check(label, false);
            if !texts.is_empty() {
                let texts = texts.into_iter().map(|text| format!("validating label {label:?}: {text}")).collect();
                invalid_all(errors, at, whole, texts);
                break;
            }
        }
    };
    labels(domain, validation::dns1123_label);
    labels(path, validation::dns1123_subdomain);
    if !domain.contains('.') {
        let text = "should be a domain with at least two segments separated by dots";
        errors.push(Error::invalid(at.clone(), *domain, text));
    }
    let most = SUBDOMAIN_MAX + SUBDOMAIN_MAX + LABEL_MAX + 2;
    if name.len() > most {
        errors.push(Error::too_long(at.clone(), most));
    }
}

/// `ValidateClusterTrustBundleName`: the bundles of a signer carry its name.
pub(crate) fn bundle_name(signer: &str, name: &str) -> Vec<String> {
    if signer.is_empty() {
        if name.contains(':') {
            return vec!["ClusterTrustBundle without signer name must not have \":\" in its name".to_owned()];
        }
        return validation::dns1123_subdomain(name, false);
    }
    let prefix = format!("{}:", signer.replace('/', ":"));
    match name.strip_prefix(&prefix) {
        Some(rest) => validation::dns1123_subdomain(rest, false),
        None => vec![format!("ClusterTrustBundle for signerName {signer} must be named with prefix {prefix}")],
    }
}

/// A ClusterTrustBundle. `parse`: also its certificates.
pub(crate) fn bundle(object: &Object, parse: bool) -> ErrorList {
    let mut errors = ErrorList::new();
    let (spec, at) = (object.at("spec"), Path::new("spec"));
    let signer = spec.text("signerName");
    let base = object.at("metadata").text("generateName");
    if !base.is_empty() {
        // As Go masks the dash that generated names end with.
        let masked = base.strip_suffix('-').map_or_else(|| base.to_owned(), |head| format!("{head}a"));
        let texts = bundle_name(signer, &masked);
        invalid_all(&mut errors, &Path::new("metadata").child("generateName"), base, texts);
    }
    let name = object.at("metadata").text("name");
    if !name.is_empty() {
        invalid_all(&mut errors, &Path::new("metadata").child("name"), name, bundle_name(signer, name));
    }
    if !signer.is_empty() {
        signer_name(&mut errors, &at.child("signerName"), signer);
    }
    if parse {
        anchors(&mut errors, &at.child("trustBundle"), spec.text("trustBundle"));
    }
    errors
}

/// `validateTrustBundle`.
fn anchors(errors: &mut ErrorList, at: &Path, text: &str) {
    if text.len() > TRUST_BUNDLE_MAX {
        errors.push(Error::too_long(at.clone(), TRUST_BUNDLE_MAX));
        return;
    }
    let mut bad = |text: String| errors.push(Error::invalid(at.clone(), "<value omitted>", text));
    let mut seen: BTreeMap<Vec<u8>, Vec<String>> = BTreeMap::new();
    let mut good = true;
    // What is no block is passed over, as Go's decoder does.
    for (i, block) in pki::blocks::blocks(text).into_iter().enumerate() {
        match anchor(&block) {
            Ok(()) => seen.entry(block.contents).or_default().push(i.to_string()),
            Err(why) => {
                good = false;
                bad(format!("entry {i} {why}"));
            }
        }
    }
    if !good {
        return;
    }
    if seen.is_empty() {
        bad("at least one trust anchor must be provided".to_owned());
    }
    for indices in seen.values().filter(|indices| indices.len() > 1) {
        bad(format!("duplicate trust anchor (indices [{}])", indices.join(" ")));
    }
}

fn anchor(block: &pki::blocks::Block) -> Result<(), String> {
    if block.label != "CERTIFICATE" {
        return Err(format!("has bad block type: {}", block.label));
    }
    if block.has_headers {
        return Err("has PEM block headers".to_owned());
    }
    let (_, certificate) =
        X509Certificate::from_der(&block.contents).map_err(|_| "does not parse as X.509".to_owned())?;
    let constraints = certificate.basic_constraints().map_err(|_| "has invalid basic constraints".to_owned())?;
    if !constraints.is_some_and(|c| c.value.ca) {
        return Err("does not have the CA bit set".to_owned());
    }
    Ok(())
}

/// A `clusterTrustBundle` projection's choice of bundles.
pub(crate) fn bundle_projection(errors: &mut ErrorList, at: &Path, part: &Value) {
    match (part.has("name"), part.has("signerName")) {
        (true, true) => {
            let error = Error::invalid(at.clone(), part.clone(), "only one of name and signerName may be used");
            errors.push(error.printed("core.ClusterTrustBundleProjection"));
        }
        (true, false) => {
            let name = part.text("name");
            if name.is_empty() {
                errors.push(Error::required(at.child("name"), "must be a valid object name"));
            }
            let signer = name.rsplit_once(':').map(|(signer, _)| signer.replace(':', "/")).unwrap_or_default();
            let texts = bundle_name(&signer, name);
            let texts = texts.into_iter().map(|t| format!("not a valid clustertrustbundlename: {t}")).collect();
            invalid_all(errors, &at.child("name"), name, texts);
            if part.has("labelSelector") {
                let text = "labelSelector must be unset if name is specified";
                let error = Error::invalid(at.child("labelSelector"), part.at("labelSelector").clone(), text);
                errors.push(error.printed(LABEL_SELECTOR));
            }
        }
        (false, true) => {
            if part.text("signerName").is_empty() {
                errors.push(Error::required(at.child("signerName"), "must be a valid signer name"));
            }
            signer_name(errors, &at.child("signerName"), part.text("signerName"));
            label_selector(errors, &at.child("labelSelector"), part.at("labelSelector"));
        }
        (false, false) => {
            errors.push(Error::required(at.clone(), "either name or signerName must be specified"));
        }
    }
}

/// A `podCertificate` projection, but for its paths.
pub(crate) fn pod_certificate(errors: &mut ErrorList, at: &Path, part: &Value) {
    let signer = part.text("signerName");
    signer_name(errors, &at.child("signerName"), signer);
    let annotations = part.at("userAnnotations").as_object();
    for key in annotations.into_iter().flatten().map(|(key, _)| key) {
        errors.extend(validation::domain_prefixed_key(&at.child("userAnnotations"), &key.to_lowercase()));
    }
    if !KEY_TYPES.contains(&part.text("keyType")) {
        errors.push(Error::not_supported(at.child("keyType"), part.text("keyType"), KEY_TYPES));
    }
    let Some(seconds) = part.int("maxExpirationSeconds") else { return };
    let at = at.child("maxExpirationSeconds");
    let (_, most) = expirations(signer);
    if seconds < MIN_EXPIRATION {
        let text = format!("if provided, maxExpirationSeconds must be >= {MIN_EXPIRATION}");
        errors.push(Error::invalid(at.clone(), seconds, text));
    }
    if seconds > most {
        let text = format!("if provided, maxExpirationSeconds must be <= {most}");
        errors.push(Error::invalid(at, seconds, text));
    }
}

/// The least and the most seconds that a pod's certificate of this signer may be asked for.
pub(crate) fn expirations(signer: &str) -> (i64, i64) {
    let host = signer.split('/').next().unwrap_or_default();
    let kubernetes = host == "kubernetes.io" || host.ends_with(".kubernetes.io");
    (MIN_EXPIRATION, if kubernetes { MAX_EXPIRATION_KUBERNETES } else { MAX_EXPIRATION })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn signers_are_a_domain_and_a_path() {
        let check = |name: &str, ok: bool| {
            let mut errors = ErrorList::new();
            signer_name(&mut errors, &Path::new("signerName"), name);
            assert_eq!(errors.is_empty(), ok, "{name}");
        };
        check("example.com/signer", true);
        check("example.com/a.b", true);
        check("", false);
        check("example.com", false);
        check("example/signer", false);
        check("example.com/a/b", false);
        check("Example.com/a", false);
    }

    #[test]
    fn bundles_of_a_signer_carry_its_name() {
        assert!(bundle_name("a.b/c", "a.b:c:one").is_empty());
        assert!(bundle_name("", "one").is_empty());
        for (signer, name) in [("a.b/c", "one"), ("", "a:b"), ("a.b/c", "a.b:c:ONE")] {
            assert!(!bundle_name(signer, name).is_empty(), "{signer} {name}");
        }
    }

    #[test]
    fn lives_of_pod_certificates_have_bounds() {
        let check = |signer: &str, seconds: i64, expected: &str| {
            let mut errors = ErrorList::new();
            let part = json!({"signerName": signer, "keyType": "ECDSAP256", "maxExpirationSeconds": seconds});
            pod_certificate(&mut errors, &Path::new("p"), &part);
            let text = errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
            assert!(if expected.is_empty() { text.is_empty() } else { text.contains(expected) }, "{text}");
        };
        check("a.b/c", 3600, "");
        check("a.b/c", 3599, "must be >= 3600");
        check("a.b/c", MAX_EXPIRATION + 1, "must be <= 7862400");
        check("kubernetes.io/c", 86_401, "must be <= 86400");
    }

    #[test]
    fn trust_bundles_are_certificates_of_authorities() {
        let check = |text: &str, expected: &str| {
            let mut errors = ErrorList::new();
            anchors(&mut errors, &Path::new("trustBundle"), text);
            let found = errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
            assert!(found.contains(expected), "{found}");
        };
        check("", "at least one trust anchor must be provided");
        check("-----BEGIN KEY-----\nAAAA\n-----END KEY-----\n", "entry 0 has bad block type: KEY");
        check("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "entry 0 does not parse as X.509");
    }
}
