//! `certificates.k8s.io`.

mod pod_request;

use std::sync::Arc;

use api::Object;
use api::field::{Error, ErrorList, Path};
use api::kind::{RequestContext, Strategy, SubresourceKind};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use crate::checks::{immutable, immutable_as};
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

/// What is special about a kind of this group.
pub(crate) fn extra(kind: &str) -> Option<Extra> {
    Some(match kind {
        "CertificateSigningRequest" => signing_request(),
        "ClusterTrustBundle" => {
            let rules = Rules {
                // The signer decides about the name: it is checked with the rest.
                name: |_, _| Vec::new(),
                validate: |object| signers::bundle(object, true),
                validate_update: Some(|object, old| {
                    let text = |o: &Object| o.at("spec").text("trustBundle").to_owned();
                    let mut errors = signers::bundle(object, text(object) != text(old));
                    let (at, new, old) = (Path::new("spec").child("signerName"), object.at("spec"), old.at("spec"));
                    immutable_as(&mut errors, at, "string", new.at("signerName"), old.at("signerName"));
                    errors
                }),
                unconditional_update: false,
                ..Rules::GENERIC
            };
            let columns = vec![name(), text("SignerName", |o, _| string_or(o, &["spec", "signerName"], "<none>"))];
            Extra::new(rules, columns)
                .with_fields(vec![field("spec.signerName", |o| o.at("spec").text("signerName").to_owned())])
        }
        "PodCertificateRequest" => pod_request::extra(),
        _ => return None,
    })
}

fn signing_request() -> Extra {
    let rules = Rules {
        create,
        update: |_, object, old| {
            restore(&mut object.0, "spec", old);
            restore(&mut object.0, "status", old);
        },
        status_update: |ctx, object, old| {
            // Approval has a subresource of its own.
            let mut wanted: Vec<Value> = object.array(&["status", "conditions"]).to_vec();
            wanted.retain(|c| !decides(c));
            let mut list: Vec<Value> =
                old.array(&["status", "conditions"]).iter().filter(|c| decides(c)).cloned().collect();
            list.extend(wanted);
            if !list.is_empty() || object.at("status").has("conditions") {
                object.set(&["status", "conditions"], list);
            }
            stamp(object, ctx);
        },
        validate,
        validate_update: Some(|_, _| ErrorList::new()),
        validate_status: |object, old| {
            let mut errors = conditions(object);
            if old.at("status").count("certificate") > 0 {
                let at = Path::new("status").child("certificate");
                immutable(
                    &mut errors,
                    at,
                    dig(object, &["status", "certificate"]),
                    dig(old, &["status", "certificate"]),
                );
            }
            errors
        },
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

fn decides(condition: &Value) -> bool {
    matches!(condition.text("type"), "Approved" | "Denied")
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

/// Times of new and changed conditions.
fn stamp(object: &mut Object, ctx: &RequestContext<'_>) {
    let now = timestamp(ctx.now);
    if let Some(status) = existing(&mut object.0, "status") {
        for condition in items_mut(status, "conditions") {
            fill(condition, "status", "True");
            fill(condition, "lastUpdateTime", now.as_str());
            fill(condition, "lastTransitionTime", now.as_str());
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

/// The core of `validateCertificateSigningRequest`.
fn validate(object: &Object) -> ErrorList {
    let mut errors = ErrorList::new();
    let (spec, at) = (object.at("spec"), Path::new("spec"));
    let request = STANDARD.decode(spec.text("request")).unwrap_or_default();
    if !String::from_utf8_lossy(&request).contains("-----BEGIN CERTIFICATE REQUEST-----") {
        errors.push(Error::invalid(
            at.child("request"),
            spec.at("request").clone(),
            "PEM block type must be CERTIFICATE REQUEST",
        ));
    }
    if spec.count("usages") == 0 {
        errors.push(Error::required(at.child("usages"), ""));
    }
    let usages: Vec<&str> = spec.list("usages").iter().map(|usage| usage.as_str().unwrap_or_default()).collect();
    for (i, usage) in usages.iter().enumerate().filter(|(_, usage)| !USAGES.contains(usage)) {
        errors.push(Error::not_supported(at.child("usages").index(i), *usage, USAGES));
    }
    for (i, usage) in usages.iter().enumerate().filter(|(i, usage)| usages[..*i].contains(usage)) {
        errors.push(Error::duplicate(at.child("usages").index(i), *usage));
    }
    match spec.text("signerName") {
        "kubernetes.io/legacy-unknown" => {
            let text = "the legacy signerName is not allowed via this API version";
            errors.push(Error::invalid(at.child("signerName"), "kubernetes.io/legacy-unknown", text));
        }
        name => signers::signer_name(&mut errors, &at.child("signerName"), name),
    }
    if let Some(seconds) = spec.int("expirationSeconds")
        && seconds < 600
    {
        let text = "may not specify a duration less than 600 seconds (10 minutes)";
        errors.push(Error::invalid(at.child("expirationSeconds"), seconds, text));
    }
    errors.extend(conditions(object));
    errors
}

fn conditions(object: &Object) -> ErrorList {
    let mut errors = ErrorList::new();
    let at = Path::new("status").child("conditions");
    let list = object.array(&["status", "conditions"]);
    for (i, condition) in list.iter().enumerate() {
        let (at, kind) = (at.index(i), condition.text("type"));
        if kind.is_empty() {
            errors.push(Error::required(at.child("type"), ""));
        }
        if list[..i].iter().any(|c| c.text("type") == kind) {
            errors.push(Error::duplicate(at.child("type"), kind));
        }
    }
    let has = |kind: &str| list.iter().any(|c| c.text("type") == kind);
    if has("Approved") && has("Denied") {
        errors.push(Error::invalid(at, "Denied", "Approved and Denied conditions are mutually exclusive"));
    }
    errors
}

/// `certificatesigningrequests/approval`: the conditions, and of those only additions.
struct Approval;

impl Strategy for Approval {
    fn prepare_for_update(&self, ctx: &RequestContext<'_>, object: &mut Object, old: &Object) {
        let wanted = dig(object, &["status", "conditions"]).clone();
        restore(&mut object.0, "spec", old);
        restore(&mut object.0, "status", old);
        if wanted.is_array() {
            object.set(&["status", "conditions"], wanted);
        }
        stamp(object, ctx);
    }

    fn validate_update(&self, _: &RequestContext<'_>, object: &Object, old: &Object) -> ErrorList {
        let mut errors = conditions(object);
        let list = object.array(&["status", "conditions"]);
        let at = Path::new("status").child("conditions");
        for condition in old.array(&["status", "conditions"]).iter().filter(|c| decides(c)) {
            let kind = condition.text("type");
            let now = list.iter().find(|c| c.text("type") == kind);
            if now.is_none_or(|c| !same(c.at("status"), condition.at("status"))) {
                errors
                    .push(Error::forbidden(at.clone(), format!("updates may not remove a condition of type {kind:?}")));
            }
        }
        errors
    }

    fn validate_name(&self, _: &str, _: bool) -> Vec<String> {
        Vec::new()
    }
}
