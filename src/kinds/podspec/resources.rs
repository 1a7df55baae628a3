//! Validation of requests and limits.

use std::collections::BTreeSet;

use api::field::{Error, ErrorList, Path};
use serde_json::Value;

use crate::checks::{invalid_all, label_name, qualified_name};
use crate::json::{Json, amount};

const STANDARD: &[&str] = &[
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "storage",
    "requests.storage",
    "services.nodeports",
    "services.loadbalancers",
];

pub(crate) fn is_huge_page(name: &str) -> bool {
    name.starts_with("hugepages-")
}

/// A plain name that is known (`IsStandardResourceName`).
pub(crate) fn is_standard(name: &str) -> bool {
    STANDARD.contains(&name) || is_huge_page(name)
}

/// `validateResourceName`: a known plain name or a qualified one.
pub(crate) fn resource_name(errors: &mut ErrorList, path: &Path, name: &str) -> bool {
    let problems = qualified_name(name);
    if !problems.is_empty() {
        invalid_all(errors, path, name, problems);
        return false;
    }
    if !name.contains('/') && !is_standard(name) {
        errors.push(Error::invalid(path.clone(), name, "must be a standard resource type or fully qualified"));
        return false;
    }
    true
}

/// `ValidateContainerResourceName`.
pub(crate) fn container_resource_name(errors: &mut ErrorList, path: &Path, name: &str) {
    resource_name(errors, path, name);
    if !name.contains('/') {
        if !matches!(name, "cpu" | "memory" | "ephemeral-storage") && !is_huge_page(name) {
            errors.push(Error::invalid(path.clone(), name, "must be a standard resource for containers"));
        }
    } else if !is_native(name) && !is_extended(name) {
        errors.push(Error::invalid(path.clone(), name, "doesn't follow extended resource name standard"));
    }
}

fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

/// `helper.IsExtendedResourceName`.
fn is_extended(name: &str) -> bool {
    !is_native(name) && !name.starts_with("requests.") && qualified_name(&format!("requests.{name}")).is_empty()
}

/// Resources of which requests may be below limits.
pub(crate) fn overcommits(name: &str) -> bool {
    is_native(name) && !is_huge_page(name)
}

/// `ValidateResourceQuantityValue`.
pub(crate) fn quantity(errors: &mut ErrorList, path: &Path, name: &str, value: &Value) {
    let amount = amount(value);
    if amount.sign() < 0 {
        errors.push(Error::invalid(path.clone(), text(value), "must be greater than or equal to 0"));
    }
    let whole = matches!(
        name,
        "pods"
            | "resourcequotas"
            | "services"
            | "replicationcontrollers"
            | "secrets"
            | "configmaps"
            | "persistentvolumeclaims"
            | "services.nodeports"
            | "services.loadbalancers"
    ) || is_extended(name);
    if whole && amount.milli_value() % 1000 != 0 {
        errors.push(Error::invalid(path.clone(), text(value), "must be an integer"));
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// `validateResourceQuantityHugePageValue`: an amount is a multiple of the page's size, which is in the name.
fn whole_pages(errors: &mut ErrorList, path: &Path, name: &str, value: &Value) {
    let Some(size) = name.strip_prefix("hugepages-") else { return };
    let page = amount(&Value::from(size)).value();
    if page > 0 && (amount(value).milli_value() % 1000 != 0 || amount(value).value() % page != 0) {
        let why = format!("{} is not positive integer multiple of {name}", text(value));
        errors.push(Error::invalid(path.clone(), text(value), why));
    }
}

/// `ValidateContainerResourceRequirements`.
pub(crate) fn requirements(errors: &mut ErrorList, path: &Path, resources: &Value, claims: &BTreeSet<&str>) {
    checked(errors, path, (resources, claims), container_resource_name);
}

/// `validatePodResourceRequirements`, of a pod as a whole.
pub(crate) fn of_pod(errors: &mut ErrorList, path: &Path, resources: &Value, claims: &BTreeSet<&str>) {
    checked(errors, path, (resources, claims), |errors, at, name| {
        let known = resource_name(errors, at, name);
        if known && !super::pod_level::is_supported(name) {
            errors.push(Error::not_supported(at.clone(), name, &["cpu", "hugepages-", "memory"]));
        }
    });
}

fn checked(
    errors: &mut ErrorList,
    path: &Path,
    (resources, claims): (&Value, &BTreeSet<&str>),
    resource: impl Fn(&mut ErrorList, &Path, &str),
) {
    let (limits_path, requests_path) = (path.child("limits"), path.child("requests"));
    let (mut compute, mut huge) = (false, false);
    for (name, value) in resources.entries("limits") {
        let at = limits_path.key(name);
        resource(errors, &at, name);
        quantity(errors, &at, name, value);
        whole_pages(errors, &at, name, value);
        compute |= matches!(name, "cpu" | "memory");
        huge |= is_huge_page(name);
    }
    let limits = resources.at("limits");
    for (name, value) in resources.entries("requests") {
        let at = requests_path.key(name);
        resource(errors, &at, name);
        quantity(errors, &at, name, value);
        compute |= matches!(name, "cpu" | "memory");
        huge |= is_huge_page(name);
        if limits.has(name) {
            let limit = limits.at(name);
            let (request_amount, limit_amount) = (amount(value), amount(limit));
            if request_amount != limit_amount && !overcommits(name) {
                let why = format!("must be equal to {name} limit of {}", text(limit));
                errors.push(Error::invalid(requests_path.clone(), text(value), why));
            } else if request_amount > limit_amount {
                let why = format!("must be less than or equal to {name} limit of {}", text(limit));
                errors.push(Error::invalid(requests_path.clone(), text(value), why));
            }
        } else if !overcommits(name) {
            errors.push(Error::required(limits_path.clone(), "Limit must be set for non overcommitable resources"));
        }
        whole_pages(errors, &at, name, value);
    }
    if huge && !compute {
        errors.push(Error::forbidden(path.clone(), "HugePages require cpu or memory"));
    }
    claim_names(errors, &path.child("claims"), resources.list("claims"), claims);
}

fn claim_names(errors: &mut ErrorList, path: &Path, used: &[Value], known: &BTreeSet<&str>) {
    let mut seen: BTreeSet<String> = BTreeSet::new();
    for (i, claim) in used.iter().enumerate() {
        let (at, name, request) = (path.index(i), claim.text("name"), claim.text("request"));
        if name.is_empty() {
            errors.push(Error::required(at, ""));
            continue;
        }
        let mut key = name.to_owned();
        if !request.is_empty() {
            label_name(errors, &at.child("request"), request);
            key = format!("{name}/{request}");
        }
        if seen.contains(name) || !seen.insert(key.clone()) {
            errors.push(Error::duplicate(at.clone(), key));
        }
        if !known.contains(name) {
            let mut error = Error::not_found(at, name);
            error.detail = if known.is_empty() {
                "must be one of the names in pod.spec.resourceClaims which is empty".to_owned()
            } else {
                let names: Vec<&str> = known.iter().copied().collect();
                format!("must be one of the names in pod.spec.resourceClaims: {}", names.join(", "))
            };
            errors.push(error);
        }
    }
}
