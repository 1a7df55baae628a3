//! What a webhook configuration may say (`ValidateValidatingWebhookConfiguration`, `ValidateMutatingWebhookConfiguration`).

use std::collections::BTreeSet;

use api::Object;
use api::field::{Error, ErrorList, Path};
use api::validation::{dns1035_label, dns1123_subdomain, fully_qualified_name, in_range, port_number};
use serde_json::Value;

use crate::checks::{invalid_all, label_selector, one_of_if_set};
use crate::json::Json;

/// Seconds that a webhook may be waited for.
const TIMEOUT_MAX: i64 = 30;
const REVIEW_VERSIONS: &[&str] = &["v1", "v1beta1"];

pub(super) fn validate(object: &Object) -> ErrorList {
    let mut errors = ErrorList::new();
    let mut names = BTreeSet::new();
    for (i, hook) in object.list("webhooks").iter().enumerate() {
        let at = Path::new("webhooks").index(i);
        webhook(&mut errors, &at, hook);
        review_versions(&mut errors, &at.child("admissionReviewVersions"), hook.at("admissionReviewVersions"));
        let name = hook.text("name");
        if !name.is_empty() && !names.insert(name) {
            errors.push(Error::duplicate(at.child("name"), name));
        }
    }
    errors
}

/// What no webhook is asked about (`kubeapiserver/admission/exclusion`).
const EXCLUDED: &[(&str, &str)] = &[
    ("authentication.k8s.io", "selfsubjectreviews"),
    ("authentication.k8s.io", "tokenreviews"),
    ("authorization.k8s.io", "localsubjectaccessreviews"),
    ("authorization.k8s.io", "selfsubjectaccessreviews"),
    ("authorization.k8s.io", "selfsubjectrulesreviews"),
    ("authorization.k8s.io", "subjectaccessreviews"),
];

/// `WarningsForValidatingWebhookRules`: of rules that name what no webhook is asked about.
pub(super) fn warnings(object: &Object) -> Vec<String> {
    let mut all = Vec::new();
    for (i, hook) in object.list("webhooks").iter().enumerate() {
        for (j, rule) in hook.list("rules").iter().enumerate() {
            let texts = |name: &str| rule.list(name).iter().filter_map(Value::as_str).collect::<Vec<_>>();
            let (groups, resources) = (texts("apiGroups"), texts("resources"));
            if groups.contains(&"*") || resources.contains(&"*") {
                continue;
            }
            let mut seen = BTreeSet::new();
            for named in groups.iter().flat_map(|group| resources.iter().map(move |resource| (*group, *resource))) {
                if EXCLUDED.contains(&named) && seen.insert(named) {
                    let (group, resource) = named;
                    all.push(format!(
                        "webhooks[{i}].rules[{j}]: {resource}.{group} is excluded from admission webhooks; this rule will have no effect"
                    ));
                }
            }
        }
    }
    all
}

fn webhook(errors: &mut ErrorList, at: &Path, hook: &Value) {
    errors.extend(fully_qualified_name(&at.child("name"), hook.text("name")));
    for (i, rule) in hook.list("rules").iter().enumerate() {
        self::rule(errors, &at.child("rules").index(i), rule);
    }
    one_of_if_set(errors, at.child("failurePolicy"), hook.at("failurePolicy"), &["Fail", "Ignore"]);
    one_of_if_set(errors, at.child("matchPolicy"), hook.at("matchPolicy"), &["Equivalent", "Exact"]);
    if hook.has("sideEffects") {
        one_of_if_set(errors, at.child("sideEffects"), hook.at("sideEffects"), &["None", "NoneOnDryRun"]);
    } else {
        errors.push(Error::required(at.child("sideEffects"), "must specify one of None, NoneOnDryRun"));
    }
    if let Some(seconds) = hook.int("timeoutSeconds")
        && !in_range(seconds, 1, TIMEOUT_MAX).is_empty()
    {
        let text = "the timeout value must be between 1 and 30 seconds";
        errors.push(Error::invalid(at.child("timeoutSeconds"), seconds, text));
    }
    for member in ["namespaceSelector", "objectSelector"] {
        label_selector(errors, &at.child(member), hook.at(member));
    }
    one_of_if_set(errors, at.child("reinvocationPolicy"), hook.at("reinvocationPolicy"), &["IfNeeded", "Never"]);
    client(errors, &at.child("clientConfig"), hook.at("clientConfig"));
    super::policies::match_conditions(errors, &at.child("matchConditions"), hook.at("matchConditions"), false);
}

pub(super) fn rule(errors: &mut ErrorList, at: &Path, rule: &Value) {
    let operations = rule.list("operations");
    required(errors, &at.child("operations"), rule.at("operations"), "operations");
    for (i, operation) in operations.iter().enumerate() {
        let supported = &["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
        one_of_if_set(errors, at.child("operations").index(i), operation, supported);
    }
    required(errors, &at.child("apiGroups"), rule.at("apiGroups"), "API groups");
    required(errors, &at.child("apiVersions"), rule.at("apiVersions"), "API versions");
    for (i, version) in rule.list("apiVersions").iter().enumerate() {
        if version.as_str() == Some("") {
            errors.push(Error::required(at.child("apiVersions").index(i), ""));
        }
    }
    resources(errors, &at.child("resources"), rule.at("resources"));
    one_of_if_set(errors, at.child("scope"), rule.at("scope"), &["*", "Cluster", "Namespaced"]);
}

/// `validateResources`: resources and subresources, of which a wildcard covers no other.
fn resources(errors: &mut ErrorList, at: &Path, list: &Value) {
    let all: Vec<&str> = list.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if all.is_empty() {
        errors.push(Error::required(at.clone(), ""));
    }
    let (mut of_all_subresources, mut of_all_resources) = (BTreeSet::new(), BTreeSet::new());
    let (mut everything, mut any, mut plain) = (false, false, false);
    for (i, entry) in all.iter().enumerate() {
        if entry.is_empty() {
            errors.push(Error::required(at.index(i), ""));
            continue;
        }
        everything |= *entry == "*/*";
        any |= *entry == "*";
        let Some((resource, subresource)) = entry.split_once('/') else {
            // The last one decides, as upstream has it.
            plain = *entry != "*";
            continue;
        };
        if of_all_subresources.contains(resource) {
            let text = format!("if '{resource}/*' is present, must not specify {entry}");
            errors.push(Error::invalid(at.index(i), *entry, text));
        }
        if of_all_resources.contains(subresource) {
            let text = format!("if '*/{subresource}' is present, must not specify {entry}");
            errors.push(Error::invalid(at.index(i), *entry, text));
        }
        if subresource == "*" {
            of_all_subresources.insert(resource);
        }
        if resource == "*" {
            of_all_resources.insert(subresource);
        }
    }
    if all.len() > 1 && everything {
        let text = "if '*/*' is present, must not specify other resources";
        errors.push(Error::invalid(at.clone(), list.clone(), text));
    }
    if any && plain {
        let text = "if '*' is present, must not specify other resources without subresources";
        errors.push(Error::invalid(at.clone(), list.clone(), text));
    }
}

/// A list that has something, or `*` and nothing else.
fn required(errors: &mut ErrorList, at: &Path, list: &Value, noun: &str) {
    let entries = list.as_array().map_or(&[][..], Vec::as_slice);
    if entries.is_empty() {
        errors.push(Error::required(at.clone(), ""));
    } else if entries.len() > 1 && entries.iter().any(|e| e.as_str() == Some("*")) {
        let text = format!("if '*' is present, must not specify other {noun}");
        errors.push(Error::invalid(at.clone(), list.clone(), text));
    }
}

fn review_versions(errors: &mut ErrorList, at: &Path, list: &Value) {
    let versions: Vec<&str> = list.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if versions.is_empty() {
        errors.push(Error::required(at.clone(), "must specify one of v1, v1beta1"));
        return;
    }
    let mut seen = BTreeSet::new();
    for (i, version) in versions.iter().enumerate() {
        if !seen.insert(version) {
            errors.push(Error::invalid(at.index(i), *version, "duplicate version"));
            continue;
        }
        invalid_all(errors, &at.index(i), version, dns1035_label(version, false));
    }
    if !versions.iter().any(|version| REVIEW_VERSIONS.contains(version)) {
        errors.push(Error::invalid(at.clone(), list.clone(), "must include at least one of v1, v1beta1"));
    }
}

/// Where the webhook is: a URL or a service, not both.
fn client(errors: &mut ErrorList, at: &Path, client: &Value) {
    let service = client.at("service");
    if client.has("url") == service.is_object() {
        errors.push(Error::required(at.clone(), "exactly one of url or service is required"));
    } else if client.has("url") {
        url(errors, &at.child("url"), client.text("url"));
    } else {
        let at = at.child("service");
        // Stock hands name and namespace over in the wrong order, and so says the one for the other.
        for (member, blamed) in [("namespace", "name"), ("name", "namespace")] {
            if service.count(member) == 0 {
                errors.push(Error::required(at.child(blamed), ""));
            }
        }
        let port = service.int("port").unwrap_or_default();
        for text in port_number(port) {
            errors.push(Error::invalid(at.child("port"), port, format!("port is not valid: {text}")));
        }
        service_path(errors, &at.child("path"), service.text("path"));
    }
}

/// The path of a service (`webhook.ValidateWebhookService`).
pub(crate) fn service_path(errors: &mut ErrorList, at: &Path, path: &str) {
    match path {
        "" | "/" => return,
        "//" => return errors.push(Error::invalid(at.clone(), path, "segment[0] may not be empty")),
        _ => {}
    }
    if !path.starts_with('/') {
        errors.push(Error::invalid(at.clone(), path, "must start with a '/'"));
    }
    let inner: String = path.chars().skip(1).collect();
    for (index, step) in inner.strip_suffix('/').unwrap_or(&inner).split('/').enumerate() {
        if step.is_empty() {
            errors.push(Error::invalid(at.clone(), path, format!("segment[{index}] may not be empty")));
            continue;
        }
        for text in dns1123_subdomain(step, false) {
            errors.push(Error::invalid(at.clone(), path, format!("segment[{index}]: {text}")));
        }
    }
}

/// `webhook.ValidateWebhookURL`.
pub(crate) fn url(errors: &mut ErrorList, at: &Path, text: &str) {
    const FORM: &str = "; desired format: https://host[/path]";
    let url = match api::url::parse(text) {
        Ok(url) => url,
        Err(why) => return errors.push(Error::required(at.clone(), format!("url must be a valid URL: {why}{FORM}"))),
    };
    if url.scheme != "https" {
        let text = format!("'https' is the only allowed URL scheme{FORM}");
        errors.push(Error::invalid(at.clone(), url.scheme.as_str(), text));
    }
    if url.host.is_empty() {
        errors.push(Error::invalid(at.clone(), url.host.as_str(), format!("host must be specified{FORM}")));
    }
    if let Some(user) = &url.user {
        errors.push(Error::invalid(at.clone(), user.as_str(), "user information is not permitted in the URL"));
    }
    if !url.fragment.is_empty() {
        errors.push(Error::invalid(at.clone(), url.fragment.as_str(), "fragments are not permitted in the URL"));
    }
    if !url.query.is_empty() {
        errors.push(Error::invalid(at.clone(), url.query.as_str(), "query parameters are not permitted in the URL"));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn webhooks_say_where_they_are() {
        let check = |client: Value, want: usize| {
            let hook = json!({"name": "a.b.c", "sideEffects": "None", "admissionReviewVersions": ["v1"],
                "timeoutSeconds": 10, "clientConfig": client});
            let object = Object::from_value(json!({"webhooks": [hook]})).unwrap();
            assert_eq!(validate(&object).len(), want, "{:?}", validate(&object));
        };
        check(json!({"url": "https://host:8443/path"}), 0);
        check(json!({"service": {"namespace": "n", "name": "s", "port": 443}}), 0);
        check(json!({}), 1);
        check(json!({"url": "http://u@host/path?x=1"}), 3);
        check(json!({"service": {"namespace": "n", "name": "s", "port": 0, "path": "x"}}), 3);
    }

    #[test]
    fn rules_for_what_no_webhook_is_asked_about_are_warned_of() {
        let warned = |groups: &[&str], resources: &[&str]| {
            let rules = serde_json::json!([{"apiGroups": groups, "resources": resources}]);
            warnings(&Object::from_value(serde_json::json!({"webhooks": [{}, {"rules": rules}]})).unwrap())
        };
        let text = "webhooks[1].rules[0]: tokenreviews.authentication.k8s.io is excluded from admission webhooks; this rule will have no effect";
        assert_eq!(warned(&["authentication.k8s.io", "apps"], &["tokenreviews", "tokenreviews"]), [text]);
        assert!(warned(&["authentication.k8s.io"], &["*"]).is_empty());
        assert!(warned(&["*"], &["tokenreviews"]).is_empty());
    }
}
