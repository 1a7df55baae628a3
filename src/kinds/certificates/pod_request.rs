//! PodCertificateRequests: what kubelets ask of signers for pods.

use api::Object;
use api::field::{Error, ErrorList, Path};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::checks::{IMMUTABLE, invalid_all};
use crate::columns::{field, labels, name, string, text};
use crate::define::Extra;
use crate::json::{Json, dig, same};
use crate::printed::Printed;
use crate::rules::Rules;
use crate::signers;

/// The conditions that end a request.
const STATES: [&str; 3] = ["Issued", "Denied", "Failed"];
/// Bytes of keys, proofs and stubs.
const SIZE_MAX: usize = 10 * 1024;
const UID_MAX: usize = 128;

pub(super) fn extra() -> Extra {
    let rules = Rules {
        validate,
        validate_update: Some(|object, old| {
            let mut errors = ErrorList::new();
            if !same(object.at("spec"), old.at("spec")) {
                let error = Error::invalid(Path::new("spec"), object.at("spec").clone(), IMMUTABLE);
                errors.push(error.printed("certificates.PodCertificateRequestSpec"));
            }
            errors
        }),
        validate_status,
        validate_status_at: Some(|object, old, now| {
            let is_issued = |object: &Object| has(object.at("status"), "Issued");
            if is_issued(object) && !STATES.iter().any(|state| has(old.at("status"), state)) {
                return super::issued::validate(object, old, now);
            }
            ErrorList::new()
        }),
        unconditional_update: false,
        // The conversion function forgot the namespace.
        field_refusal: |path| Some(format!("field label not supported: {path}")),
        ..Rules::GENERIC
    };
    let columns = vec![
        name(),
        text("PodName", |o, _| string(o, &["spec", "podName"])),
        text("ServiceAccountName", |o, _| string(o, &["spec", "serviceAccountName"])),
        text("NodeName", |o, _| string(o, &["spec", "nodeName"])),
        text("SignerName", |o, _| string(o, &["spec", "signerName"])),
        text("State", |o, _| {
            let conditions = o.array(&["status", "conditions"]);
            conditions
                .iter()
                .rev()
                .find(|c| STATES.contains(&c.text("type")))
                .map_or("Pending", |c| c.text("type"))
                .into()
        }),
        text("UnverifiedUserAnnotations", |o, _| labels(dig(o, &["spec", "unverifiedUserAnnotations"]))),
    ];
    Extra::new(rules, columns).with_fields(vec![
        field("spec.signerName", |o| o.at("spec").text("signerName").to_owned()),
        field("spec.podName", |o| o.at("spec").text("podName").to_owned()),
        field("spec.nodeName", |o| o.at("spec").text("nodeName").to_owned()),
    ])
}

/// `ValidatePodCertificateRequestCreate`.
fn validate(object: &Object) -> ErrorList {
    let mut errors = ErrorList::new();
    let (spec, at) = (object.at("spec"), Path::new("spec"));
    let signer = spec.text("signerName");
    signers::signer_name(&mut errors, &at.child("signerName"), signer);
    annotations(&mut errors, &at.child("unverifiedUserAnnotations"), spec.at("unverifiedUserAnnotations"));
    for (named, uid) in [("podName", "podUID"), ("serviceAccountName", "serviceAccountUID"), ("nodeName", "nodeUID")] {
        let name = spec.text(named);
        invalid_all(&mut errors, &at.child(named), name, api::validation::dns1123_subdomain(name, false));
        if spec.count(uid) == 0 {
            errors.push(Error::invalid(at.child(uid), "", "must not be empty"));
        }
        if spec.count(uid) > UID_MAX {
            errors.push(Error::too_long(at.child(uid), UID_MAX));
        }
    }
    let Some(seconds) = spec.int("maxExpirationSeconds") else {
        errors.push(Error::required(at.child("maxExpirationSeconds"), "must be set"));
        return errors;
    };
    let (least, most) = signers::expirations(signer);
    if !(least..=most).contains(&seconds) {
        let text = format!("must be in the range [{least}, {most}]");
        errors.push(Error::invalid(at.child("maxExpirationSeconds"), seconds, text));
    }
    let bytes = |member: &str| STANDARD.decode(spec.text(member)).unwrap_or_default();
    let (stub, key, proof) = (bytes("stubPKCS10Request"), bytes("pkixPublicKey"), bytes("proofOfPossession"));
    match (stub.is_empty(), key.is_empty(), proof.is_empty()) {
        (false, true, true) => self::stub(&mut errors, at.child("stubPKCS10Request"), &stub),
        (true, false, false) => possession(&mut errors, &at, &key, &proof, spec),
        _ => {
            let text = "exactly one of (stubPKCS10Request) or (pkixPublicKey, proofOfPossession) must be set";
            errors.push(Error::invalid(at, "", text).hidden());
        }
    }
    errors
}

/// `ValidateUserAnnotations`.
fn annotations(errors: &mut ErrorList, at: &Path, map: &Value) {
    const BYTES_MAX: usize = 256 * 1024;
    let mut bytes = 0;
    for (key, value) in map.as_object().into_iter().flatten() {
        errors.extend(api::validation::domain_prefixed_key(at, &key.to_lowercase()));
        bytes += key.len() + value.as_str().unwrap_or_default().len();
    }
    if bytes > BYTES_MAX {
        errors.push(Error::too_long(at.clone(), BYTES_MAX));
    }
}

/// `validateStubPKCS10Request`.
fn stub(errors: &mut ErrorList, at: Path, der: &[u8]) {
    if der.len() > SIZE_MAX {
        errors.push(Error::too_long(at, SIZE_MAX));
        return;
    }
    let Ok((_, request)) = X509CertificationRequest::from_der(der) else {
        errors.push(Error::invalid(at, "", "must be a valid PKCS#10 CSR").hidden());
        return;
    };
    let info = &request.certification_request_info.subject_pki;
    if let Some((value, text)) = unfit(info, "P256, P384, or P521") {
        let error = Error::invalid(at, value.clone(), text);
        errors.push(if value.is_empty() { error.hidden() } else { error });
    } else if pki::request::verify(&request).is_err() {
        errors.push(Error::invalid(at, "", "invalid signature").hidden());
    }
}

const P521: &str = "1.3.132.0.35";

/// The named curve of an elliptic key.
fn curve(info: &SubjectPublicKeyInfo<'_>) -> Option<String> {
    let parameters = info.algorithm.parameters.as_ref()?;
    parameters.as_oid().ok().map(|oid| oid.to_id_string())
}

/// What is wrong with the kind or size of a key: the value that is shown, none if empty, and why.
fn unfit(info: &SubjectPublicKeyInfo<'_>, curves: &str) -> Option<(String, String)> {
    const ED25519: &str = "1.3.101.112";
    const CURVES: [&str; 3] = ["1.2.840.10045.3.1.7", "1.3.132.0.34", P521];
    let unknown = "unknown public key type; supported types are Ed25519, ECDSA, and RSA";
    if info.algorithm.algorithm.to_id_string() == ED25519 {
        return None;
    }
    match info.parsed() {
        Ok(PublicKey::EC(_)) => {
            let curve = curve(info);
            let known = curve.as_deref().is_some_and(|curve| CURVES.contains(&curve));
            let shown = format!("curve {}", if curve.as_deref() == Some("1.3.132.0.33") { "P-224" } else { "unknown" });
            (!known).then(|| (shown, format!("elliptic public keys must use curve {curves}")))
        }
        Ok(PublicKey::RSA(key)) => {
            let bits = key.key_size();
            let text = "RSA keys must have modulus size 3072 or 4096";
            (!matches!(bits, 3072 | 4096)).then(|| (format!("{bits}-bit modulus"), text.to_owned()))
        }
        _ => Some((String::new(), unknown.to_owned())),
    }
}

/// `validateDeprecatedPKIXPublicKey`: the key signed the pod's uid.
fn possession(errors: &mut ErrorList, at: &Path, key: &[u8], proof: &[u8], spec: &Value) {
    let (key_at, proof_at) = (at.child("pkixPublicKey"), at.child("proofOfPossession"));
    for (bytes, at) in [(key, &key_at), (proof, &proof_at)] {
        if bytes.len() > SIZE_MAX {
            errors.push(Error::too_long(at.clone(), SIZE_MAX));
            return;
        }
    }
    let Ok((_, info)) = SubjectPublicKeyInfo::from_der(key) else {
        let text = "must be a valid PKIX-serialized public key";
        errors.push(Error::invalid(key_at, spec.at("pkixPublicKey").clone(), text));
        return;
    };
    if let Some((value, text)) = unfit(&info, "P256 or P384") {
        let value = if value.is_empty() { spec.at("pkixPublicKey").clone() } else { value.into() };
        errors.push(Error::invalid(key_at, value, text));
    } else if !signed(&info, spec.text("podUID").as_bytes(), proof) {
        errors.push(Error::invalid(proof_at, "", "could not verify proof-of-possession signature").hidden());
    }
}

fn signed(info: &SubjectPublicKeyInfo<'_>, message: &[u8], proof: &[u8]) -> bool {
    use ring::signature::{
        ECDSA_P256_SHA256_ASN1, ECDSA_P384_SHA256_ASN1, ED25519, RSA_PSS_2048_8192_SHA256, UnparsedPublicKey,
        VerificationAlgorithm,
    };
    let algorithm: &dyn VerificationAlgorithm = match info.parsed() {
        Ok(PublicKey::EC(point)) if point.key_size() == 256 => &ECDSA_P256_SHA256_ASN1,
        Ok(PublicKey::EC(point)) if point.key_size() == 384 => &ECDSA_P384_SHA256_ASN1,
        Ok(PublicKey::RSA(_)) => &RSA_PSS_2048_8192_SHA256,
        _ => &ED25519,
    };
    UnparsedPublicKey::new(algorithm, &info.subject_public_key.data).verify(message, proof).is_ok()
}

/// Whether a status has a condition of this type.
fn has(status: &Value, kind: &str) -> bool {
    status.list("conditions").iter().any(|condition| condition.text("type") == kind)
}

/// The conditions of `ValidatePodCertificateRequestStatusUpdate`, and that a request ends once.
fn validate_status(object: &Object, old: &Object) -> ErrorList {
    let mut errors = ErrorList::new();
    let (status, before, at) = (object.at("status"), old.at("status"), Path::new("status"));
    let mut known = 0;
    for (i, condition) in status.list("conditions").iter().enumerate() {
        // The index is a name in upstream's path.
        let at = at.child("conditions").child(&format!("[{i}]"));
        let kind = condition.text("type");
        if !STATES.contains(&kind) {
            errors.push(Error::not_supported(at.child("type"), kind, &STATES));
            continue;
        }
        known += 1;
        if known > 1 {
            let text = "There may be at most one condition with type \"Issued\", \"Denied\", or \"Failed\"";
            errors.push(Error::invalid(at.child("type"), kind, text));
        }
        if condition.text("status") != "True" {
            errors.push(Error::not_supported(at.child("status"), condition.text("status"), &["True"]));
        }
    }
    crate::conditions::validate(&mut errors, &at.child("conditions"), status.list("conditions"));
    if !errors.is_empty() {
        return errors;
    }
    let ended = STATES.iter().any(|state| has(before, state));
    let refused = has(status, "Denied") || has(status, "Failed");
    let wrong = if ended {
        (!same(status, before)).then_some("immutable after PodCertificateRequest is issued, denied, or failed")
    } else if refused {
        let only = status.as_object().is_none_or(|s| s.iter().all(|(name, v)| name == "conditions" || v.is_null()));
        (!only).then_some("non-condition status fields must be empty when denying or failing the PodCertificateRequest")
    } else if has(status, "Issued") {
        None
    } else {
        (!same(status, before))
            .then_some("status is immutable unless transitioning to \"Issued\", \"Denied\", or \"Failed\"")
    };
    if let Some(text) = wrong {
        // Upstream leaves the value out here (`validateSemanticEquality`).
        errors.push(Error::invalid(at, "", text).hidden());
    }
    errors
}
