//! `CertificateSigningRequest` (upstream `apis/certificates/validation`, `registry/certificates/certificates`).

use std::sync::Arc;

use api::Object;
use api::field::{Error, ErrorList, Path};
use api::kind::{RequestContext, Strategy, SubresourceKind};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::columns::{age, field, name, string, string_or, text};
use crate::define::Extra;
use crate::duration::human;
use crate::json::{Json, child, dig, existing, fill, items_mut, restore, same};
use crate::rules::Rules;
use crate::{signers, timestamp};

/// What a certificate may be for, in the alphabet's order (`allValidUsages`).
const USAGES: &[&str] = &[
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];

/// The way by which an update comes: what it may set.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Through {
    Main,
    Status,
    Approval,
}

/// What is special about the kind.
pub(super) fn extra() -> Extra {
    let rules = Rules {
        create,
        update: |_, object, old| {
            restore(&mut object.0, "spec", old);
            restore(&mut object.0, "status", old);
        },
        status_update: |ctx, object, old| {
            for kind in ["Approved", "Denied"] {
                keep_instances(object, old, kind);
            }
            stamp(object, old, ctx);
        },
        validate: |object| validate(object, None),
        validate_update: Some(|object, old| validate_update(object, old, Through::Main)),
        validate_status: |object, old| validate_update(object, old, Through::Status),
        name: |_, _| Vec::new(),
        ..Rules::GENERIC
    };
    let columns = vec![
        name(),
        age(),
        text("SignerName", |o, _| string_or(o, &["spec", "signerName"], "<none>")),
        text("Requestor", |o, _| string(o, &["spec", "username"])),
        text("RequestedDuration", |o, _| match o.at("spec").int("expirationSeconds") {
            Some(seconds) => human(jiff::SignedDuration::from_secs(seconds)).into(),
            None => "<none>".into(),
        }),
        text("Condition", |o, _| state(o).into()),
    ];
    Extra::new(rules, columns)
        .with_fields(vec![field("spec.signerName", |o| o.at("spec").text("signerName").to_owned())])
        .with_subresource("approval", SubresourceKind::View(Arc::new(Approval)))
}

fn of_kind<'a>(object: &'a Object, kind: &str) -> Vec<(usize, &'a Value)> {
    let conditions = object.array(&["status", "conditions"]);
    conditions.iter().enumerate().filter(|(_, condition)| condition.text("type") == kind).collect()
}

/// Conditions of approval are those that were there, unless some were added or removed, which is refused later
/// (`preserveConditionInstances`).
fn keep_instances(object: &mut Object, old: &Object, kind: &str) {
    let (new, before) = (of_kind(object, kind), of_kind(old, kind));
    if new.len() != before.len() {
        return;
    }
    let places: Vec<(usize, Value)> =
        new.iter().zip(&before).map(|((index, _), (_, condition))| (*index, (*condition).clone())).collect();
    let Some(list) =
        existing(&mut object.0, "status").and_then(|s| s.get_mut("conditions")).and_then(Value::as_array_mut)
    else {
        return;
    };
    for (index, condition) in places {
        if let Some(place) = list.get_mut(index) {
            *place = condition;
        }
    }
}

/// Who asks is who is logged in, not who the body says (`csrStrategy.PrepareForCreate`).
fn create(ctx: &RequestContext<'_>, object: &mut Object) {
    if let Some(spec) = child(&mut object.0, "spec") {
        let user = ctx.user;
        for member in ["username", "uid", "groups", "extra"] {
            spec.remove(member);
        }
        spec.insert("username".to_owned(), user.name.as_str().into());
        if !user.uid.is_empty() {
            spec.insert("uid".to_owned(), user.uid.as_str().into());
        }
        if !user.groups.is_empty() {
            spec.insert("groups".to_owned(), json!(user.groups));
        }
        if !user.extra.is_empty() {
            spec.insert("extra".to_owned(), json!(user.extra));
        }
    }
    object.set(&["status"], Value::Object(Map::new()));
}

/// `populateConditionTimestamps`: a condition that stays as it was keeps the time of its transition.
fn stamp(object: &mut Object, old: &Object, ctx: &RequestContext<'_>) {
    let now = timestamp(ctx.now);
    let before = old.array(&["status", "conditions"]);
    if let Some(status) = existing(&mut object.0, "status") {
        for condition in items_mut(status, "conditions") {
            fill(condition, "lastUpdateTime", now.as_str());
            let same = |name: &str, other: &Value| condition.get(name).is_some_and(|own| own == other.at(name));
            let known = before.iter().find(|c| same("type", c) && same("status", c) && c.has("lastTransitionTime"));
            let since = known.map_or_else(|| Value::from(now.as_str()), |c| c.at("lastTransitionTime").clone());
            fill(condition, "lastTransitionTime", since);
        }
    }
}

fn state(object: &Object) -> String {
    let conditions = object.array(&["status", "conditions"]);
    let has = |kind: &str| conditions.iter().any(|c| c.text("type") == kind);
    let mut text = if has("Denied") {
        "Denied"
    } else if has("Approved") {
        "Approved"
    } else {
        "Pending"
    }
    .to_owned();
    if has("Failed") {
        text.push_str(",Failed");
    }
    if object.at("status").count("certificate") > 0 {
        text.push_str(",Issued");
    }
    text
}

/// `validateCertificateSigningRequest`; what was wrong with the old object already is let pass.
fn validate(object: &Object, old: Option<&Object>) -> ErrorList {
    let mut errors = ErrorList::new();
    let (spec, at) = (object.at("spec"), Path::new("spec"));
    let request = STANDARD.decode(spec.text("request")).unwrap_or_default();
    if let Err(why) = pki::request::check(&String::from_utf8_lossy(&request)) {
        errors.push(Error::invalid(at.child("request"), spec.at("request").clone(), why.to_string()));
    }
    if spec.count("usages") == 0 {
        errors.push(Error::required(at.child("usages"), ""));
    }
    let usages = |object: &Object| -> Vec<String> {
        let list = object.at("spec").list("usages").iter();
        list.map(|usage| usage.as_str().unwrap_or_default().to_owned()).collect()
    };
    let unknown = |usages: &[String]| usages.iter().any(|usage| !USAGES.contains(&usage.as_str()));
    let repeated = |usages: &[String]| usages.iter().enumerate().any(|(i, usage)| usages[..i].contains(usage));
    let (own, before) = (usages(object), old.map(usages));
    if !before.as_deref().is_some_and(unknown) {
        for (i, usage) in own.iter().enumerate().filter(|(_, usage)| !USAGES.contains(&usage.as_str())) {
            errors.push(Error::not_supported(at.child("usages").index(i), usage.as_str(), USAGES));
        }
    }
    if !before.as_deref().is_some_and(repeated) {
        for (i, usage) in own.iter().enumerate().filter(|(i, usage)| own[..*i].contains(usage)) {
            errors.push(Error::duplicate(at.child("usages").index(i), usage.as_str()));
        }
    }
    let legacy = "kubernetes.io/legacy-unknown";
    let had_legacy = old.is_some_and(|old| old.at("spec").text("signerName") == legacy);
    match spec.text("signerName") {
        name if name == legacy && !had_legacy => {
            let text = "the legacy signerName is not allowed via this API version";
            errors.push(Error::invalid(at.child("signerName"), legacy, text));
        }
        name => signers::signer_name(&mut errors, &at.child("signerName"), name),
    }
    if let Some(seconds) = spec.int("expirationSeconds")
        && seconds < 600
    {
        let text = "may not specify a duration less than 600 seconds (10 minutes)";
        errors.push(Error::invalid(at.child("expirationSeconds"), seconds, text));
    }
    conditions(&mut errors, object, old);
    let certificate = |object: &Object| certificate(dig(object, &["status", "certificate"]));
    // Arbitrary contents stay if they were there.
    let same_as_before = |old: &Object| {
        same(dig(object, &["status", "certificate"]), dig(old, &["status", "certificate"])) || certificate(old).is_err()
    };
    if let Err(why) = certificate(object)
        && !old.is_some_and(same_as_before)
    {
        errors.push(Error::invalid(Path::new("status").child("certificate"), "<certificate data>", why));
    }
    errors
}

/// `validateCertificate`.
fn certificate(value: &Value) -> Result<(), String> {
    let data = STANDARD.decode(value.as_str().unwrap_or_default()).unwrap_or_default();
    if data.is_empty() {
        return Ok(());
    }
    let blocks = pki::blocks::blocks(&String::from_utf8_lossy(&data));
    for block in &blocks {
        if block.label != "CERTIFICATE" {
            return Err(format!("only CERTIFICATE PEM blocks are allowed, found {:?}", block.label));
        }
        if block.has_headers {
            return Err("no PEM block headers are permitted".to_owned());
        }
        let mut rest = block.contents.as_slice();
        if rest.is_empty() {
            return Err("found CERTIFICATE PEM block containing 0 certificates".to_owned());
        }
        while !rest.is_empty() {
            let malformed = |_| "x509: malformed certificate".to_owned();
            (rest, _) = X509Certificate::from_der(rest).map_err(malformed)?;
        }
    }
    if blocks.is_empty() {
        return Err("must contain at least one CERTIFICATE PEM block".to_owned());
    }
    Ok(())
}

/// `validateConditions`, with the union's error as declarative validation says it.
fn conditions(errors: &mut ErrorList, object: &Object, old: Option<&Object>) {
    let at = Path::new("status").child("conditions");
    let list = |object: &'_ Object| object.array(&["status", "conditions"]).to_vec();
    let (own, before) = (list(object), old.map(list).unwrap_or_default());
    let repeats = |list: &[Value], i: usize| list[..i].iter().any(|c| c.text("type") == list[i].text("type"));
    let nameless = before.iter().any(|c| c.text("type").is_empty());
    let repeated = (0..before.len()).any(|i| repeats(&before, i));
    for (i, condition) in own.iter().enumerate() {
        let (at, kind, status) = (at.index(i), condition.text("type"), condition.text("status"));
        if kind.is_empty() && !nameless {
            errors.push(Error::required(at.child("type"), ""));
        }
        let allowed: &[&str] =
            if matches!(kind, "Approved" | "Denied" | "Failed") { &["True"] } else { &["False", "True", "Unknown"] };
        if status.is_empty() {
            errors.push(Error::required(at.child("status"), ""));
        } else if !allowed.contains(&status) {
            errors.push(Error::not_supported(at.child("status"), status, allowed));
        }
        if repeats(&own, i) && !repeated {
            errors.push(Error::duplicate(at.child("type"), kind));
        }
    }
    let both = |list: &[Value]| ["Approved", "Denied"].iter().all(|kind| list.iter().any(|c| c.text("type") == *kind));
    if both(&own) && !both(&before) {
        let members = ["Approved", "Denied"].map(|kind| format!("conditions[{{\"type\": {kind:?}}}]"));
        let [approved, denied] = &members;
        let text = format!("must specify at most one of: `{approved}`, `{denied}`");
        errors.push(Error::invalid(at, format!("{{{approved}, {denied}}}"), text));
    }
}

/// `validateCertificateSigningRequestUpdate`.
fn validate_update(object: &Object, old: &Object, through: Through) -> ErrorList {
    let mut errors = validate(object, Some(old));
    let status = Path::new("status");
    let counts = |kind: &str| (of_kind(object, kind).len(), of_kind(old, kind).len());
    for kind in ["Approved", "Denied", "Failed"] {
        let (now, before) = counts(kind);
        if now < before {
            let text = format!("updates may not remove a condition of type {kind:?}");
            errors.push(Error::forbidden(status.child("conditions"), text));
        }
    }
    if through != Through::Approval {
        for kind in ["Approved", "Denied"] {
            let (now, before) = counts(kind);
            if now > before {
                let text = format!("updates may not add a condition of type {kind:?}");
                errors.push(Error::forbidden(status.child("conditions"), text));
            }
        }
    }
    let certificate = |object: &Object| dig(object, &["status", "certificate"]).as_str().unwrap_or_default().to_owned();
    let (now, before) = (certificate(object), certificate(old));
    if now != before && through != Through::Status {
        errors.push(Error::forbidden(status.child("certificate"), "updates may not set certificate content"));
    } else if now != before && !before.is_empty() {
        let text = "updates may not modify existing certificate content";
        errors.push(Error::forbidden(status.child("certificate"), text));
    }
    errors
}

/// `certificatesigningrequests/approval`: the conditions and nothing else.
struct Approval;

impl Strategy for Approval {
    fn prepare_for_update(&self, ctx: &RequestContext<'_>, object: &mut Object, old: &Object) {
        stamp(object, old, ctx);
        let wanted = dig(object, &["status", "conditions"]).clone();
        restore(&mut object.0, "spec", old);
        restore(&mut object.0, "status", old);
        if wanted.is_array() {
            object.set(&["status", "conditions"], wanted);
        } else {
            object.remove(&["status", "conditions"]);
        }
    }

    fn validate_update(&self, _: &RequestContext<'_>, object: &Object, old: &Object) -> ErrorList {
        validate_update(object, old, Through::Approval)
    }

    fn validate_name(&self, _: &str, _: bool) -> Vec<String> {
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(status: Value) -> Object {
        let der = pki::proof::generate("ECDSAP256").unwrap().request_der;
        let body = STANDARD.encode(der);
        let text = format!("-----BEGIN CERTIFICATE REQUEST-----\n{body}\n-----END CERTIFICATE REQUEST-----\n");
        let spec = json!({"request": STANDARD.encode(text), "signerName": "example.com/s", "usages": ["client auth"]});
        Object::from_value(json!({"spec": spec, "status": status})).unwrap()
    }

    #[test]
    fn approval_is_given_once_and_not_taken_back() {
        let condition = |kind: &str, status: &str| json!({"type": kind, "status": status});
        let check = |new: Value, old: Value, through: Through, want: &[&str]| {
            let errors =
                validate_update(&request(json!({"conditions": new})), &request(json!({"conditions": old})), through);
            let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
            assert_eq!(texts, want);
        };
        let approved = || json!([condition("Approved", "True")]);
        check(approved(), json!([]), Through::Approval, &[]);
        let removed = "status.conditions: Forbidden: updates may not remove a condition of type \"Approved\"";
        check(json!([]), approved(), Through::Approval, &[removed]);
        let added = "status.conditions: Forbidden: updates may not add a condition of type \"Approved\"";
        check(approved(), json!([]), Through::Status, &[added]);
        let status = "status.conditions[0].status: Unsupported value: \"False\": supported values: \"True\"";
        check(json!([condition("Denied", "False")]), json!([]), Through::Approval, &[status]);
        check(
            json!([condition("Other", "")]),
            json!([]),
            Through::Status,
            &["status.conditions[0].status: Required value"],
        );
        check(json!([condition("Other", "False"), condition("Failed", "True")]), json!([]), Through::Status, &[]);
    }

    #[test]
    fn certificates_are_whole() {
        let check = |text: &str, want: &str| assert_eq!(certificate(&STANDARD.encode(text).into()).unwrap_err(), want);
        check("x", "must contain at least one CERTIFICATE PEM block");
        check("-----BEGIN X-----\neHg=\n-----END X-----\n", "only CERTIFICATE PEM blocks are allowed, found \"X\"");
        check("-----BEGIN CERTIFICATE-----\neHg=\n-----END CERTIFICATE-----\n", "x509: malformed certificate");
        let headers = "-----BEGIN CERTIFICATE-----\na: b\n\neHg=\n-----END CERTIFICATE-----\n";
        check(headers, "no PEM block headers are permitted");
        assert_eq!(certificate(&Value::Null), Ok(()));
    }
}
