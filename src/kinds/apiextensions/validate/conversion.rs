//! Validation of `spec.conversion` of a CustomResourceDefinition (apiextensions-apiserver `validation.go`).

use std::collections::BTreeSet;

use api::field::{Error, ErrorList, Path};
use api::validation::{dns1035_label, port_number};
use serde_json::Value;

use super::Options;
use crate::groups::webhooks;
use crate::json::Json;

/// Whether a CA bundle (base64 of PEM) holds certificates. None at all is good: the system's are used.
pub(crate) fn ca_bundle_is_good(bundle: &str) -> bool {
    use base64::Engine as _;
    if bundle.is_empty() {
        return true;
    }
    let decoded = base64::engine::general_purpose::STANDARD.decode(bundle).unwrap_or_default();
    let text = String::from_utf8_lossy(&decoded);
    text.contains("-----BEGIN CERTIFICATE-----") && text.contains("-----END CERTIFICATE-----")
}

/// Whether we can speak a version of ConversionReview.
pub(super) fn is_known_review(version: &Value) -> bool {
    matches!(version.as_str(), Some("v1" | "v1beta1"))
}

/// `validateCustomResourceConversion`.
pub(super) fn problems(spec: &Value, options: &Options) -> ErrorList {
    let mut errors = ErrorList::new();
    let conversion = spec.at("conversion");
    if conversion.is_null() {
        return errors;
    }
    let at = Path::new("spec").child("conversion");
    let strategy = conversion.text("strategy");
    if strategy != "None" && spec.flag("preserveUnknownFields") {
        let text = "must be None if spec.preserveUnknownFields is true";
        errors.push(Error::invalid(at.child("strategy"), strategy, text));
    }
    crate::checks::one_of(&mut errors, at.child("strategy"), strategy, &["None", "Webhook"]);
    let webhook = conversion.at("webhook");
    let client = webhook.at("clientConfig");
    let at_client = at.child("webhookClientConfig");
    let reviews = webhook.list("conversionReviewVersions");
    let at_reviews = at.child("conversionReviewVersions");
    if strategy != "Webhook" {
        let text = "should not be set when strategy is not set to Webhook";
        if !client.is_null() {
            errors.push(Error::forbidden(at_client, text));
        }
        if !reviews.is_empty() {
            errors.push(Error::forbidden(at_reviews, text));
        }
        return errors;
    }
    if client.is_null() {
        errors.push(Error::required(at_client, "required when strategy is set to Webhook"));
    } else {
        match (client.at("url").as_str(), client.at("service")) {
            (Some(url), Value::Null) => webhooks::url(&mut errors, &at_client.child("url"), url),
            (None, service @ Value::Object(_)) => service_problems(&mut errors, &at_client.child("service"), service),
            _ => errors.push(Error::required(at_client.clone(), "exactly one of url or service is required")),
        }
        let bundle = client.text("caBundle");
        if !options.bad_ca_bundle && !ca_bundle_is_good(bundle) {
            let text = "unable to load root certificates: unable to parse bytes as PEM block";
            errors.push(Error::invalid(at_client.child("caBundle"), bundle, text));
        }
    }
    if reviews.is_empty() {
        errors.push(Error::required(at_reviews, ""));
        return errors;
    }
    let mut seen = BTreeSet::new();
    for (index, version) in reviews.iter().filter_map(Value::as_str).enumerate() {
        if !seen.insert(version) {
            errors.push(Error::invalid(at_reviews.index(index), version, "duplicate version"));
            continue;
        }
        for text in dns1035_label(version, false) {
            errors.push(Error::invalid(at_reviews.index(index), version, text));
        }
    }
    if options.review_version && !reviews.iter().any(is_known_review) {
        let text = "must include at least one of v1, v1beta1";
        errors.push(Error::invalid(at_reviews, Value::from(reviews.to_vec()), text));
    }
    errors
}

/// `webhook.ValidateWebhookService`. Upstream hands name and namespace over in the wrong order.
fn service_problems(errors: &mut ErrorList, at: &Path, service: &Value) {
    for (member, blamed) in [("namespace", "name"), ("name", "namespace")] {
        if service.text(member).is_empty() {
            errors.push(Error::required(at.child(blamed), ""));
        }
    }
    let port = service.int("port").unwrap_or(443);
    let problems = port_number(port);
    if !problems.is_empty() {
        errors.push(Error::invalid(at.child("port"), port, format!("port is not valid: {}", problems.join(", "))));
    }
    webhooks::service_path(errors, &at.child("path"), service.text("path"));
}
