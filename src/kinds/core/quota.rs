//! ResourceQuotas.

use api::Object;
use api::field::{Error, ErrorList, Path};
use serde_json::Value;

use crate::checks::immutable;
use crate::columns::{age, name, text};
use crate::define::Extra;
use crate::json::{Json, dig};
use crate::podspec::resources::{is_huge_page, is_standard, quantity, resource_name};
use crate::printed::Printed;
use crate::rules::Rules;

const SCOPES: &[&str] = &[
    "BestEffort",
    "CrossNamespacePodAffinity",
    "NotBestEffort",
    "NotTerminating",
    "PriorityClass",
    "Terminating",
    "VolumeAttributesClass",
];

pub(super) fn extra() -> Extra {
    let rules = Rules {
        validate,
        validate_update: Some(|object, old| {
            let mut errors = validate(object);
            let at = Path::new("spec").child("scopes");
            let (new, before) = (object.at("spec").list("scopes"), old.at("spec").list("scopes"));
            if !new.iter().all(|scope| before.contains(scope)) || !before.iter().all(|scope| new.contains(scope)) {
                immutable(&mut errors, at, dig(object, &["spec", "scopes"]), dig(old, &["spec", "scopes"]));
            }
            errors
        }),
        validate_status: |object, _| {
            let mut errors = ErrorList::new();
            for list in ["hard", "used"] {
                amounts(&mut errors, &Path::new("status").child(list), object.at("status").at(list));
            }
            errors
        },
        ..Rules::GENERIC
    };
    let columns = vec![
        name(),
        text("Request", |o, _| usage(o, false).into()),
        text("Limit", |o, _| usage(o, true).into()),
        age(),
    ];
    Extra::new(rules, columns)
}

/// `name: used/hard` of limits or of everything else (`printResourceQuota`).
fn usage(object: &Object, limits: bool) -> String {
    let used = object.at("status").at("used");
    let plain = |value: &Value| match value {
        Value::Null => "0".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    object
        .at("status")
        .entries("hard")
        .filter(|(name, _)| name.starts_with("limits.") == limits)
        .map(|(name, hard)| format!("{name}: {}/{}", plain(used.at(name)), plain(hard)))
        .collect::<Vec<_>>()
        .join(", ")
}

fn amounts(errors: &mut ErrorList, at: &Path, list: &Value) {
    for (name, value) in list.as_object().into_iter().flatten() {
        let at = at.key(name);
        let huge = name.strip_prefix("requests.").is_some_and(is_huge_page);
        if !huge {
            resource_name(errors, &at, name);
        }
        if !name.contains('/') && !huge && (name == "storage" || !is_standard(name)) {
            errors.push(Error::invalid(at.clone(), name.as_str(), "must be a standard resource for quota"));
        }
        quantity(errors, &at, name, value);
    }
}

fn validate(object: &Object) -> ErrorList {
    let mut errors = ErrorList::new();
    let (spec, at) = (object.at("spec"), Path::new("spec"));
    amounts(&mut errors, &at.child("hard"), spec.at("hard"));
    for scope in spec.list("scopes") {
        let scope_name = scope.as_str().unwrap_or_default();
        if !SCOPES.contains(&scope_name) {
            let value = spec.at("scopes").clone();
            errors.push(Error::invalid(at.child("scopes"), value, "unsupported scope"));
        }
        for _ in spec.entries("hard").filter(|(name, _)| !applies(scope_name, name)) {
            let text = "unsupported scope applied to resource";
            errors.push(Error::invalid(at.child("scopes"), spec.at("scopes").clone(), text));
        }
    }
    let scopes = |a: &str| spec.list("scopes").iter().any(|s| s.as_str() == Some(a));
    for (a, b) in [("BestEffort", "NotBestEffort"), ("Terminating", "NotTerminating")] {
        if scopes(a) && scopes(b) {
            errors.push(Error::invalid(at.child("scopes"), spec.at("scopes").clone(), "conflicting scopes"));
        }
    }
    for term in spec.at("scopeSelector").list("matchExpressions") {
        let at = at.child("scopeSelector").child("matchExpressions");
        let name = term.text("scopeName");
        if !SCOPES.contains(&name) {
            errors.push(Error::invalid(at.child("scopeName"), name, "unsupported scope"));
        }
        for _ in spec.entries("hard").filter(|(resource, _)| !applies(name, resource)) {
            let text = "unsupported scope applied to resource";
            let error = Error::invalid(at.clone(), spec.at("scopeSelector").clone(), text);
            errors.push(error.printed("core.ScopeSelector"));
        }
        if !matches!(name, "PriorityClass" | "VolumeAttributesClass")
            && SCOPES.contains(&name)
            && term.text("operator") != "Exists"
        {
            let text = "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, \
                ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or \
                ResourceQuotaScopeCrossNamespacePodAffinity";
            errors.push(Error::invalid(at.child("operator"), term.text("operator"), text));
        }
        let values = term.count("values");
        match term.text("operator") {
            "In" | "NotIn" => {
                if values == 0 {
                    let text = "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector";
                    errors.push(Error::required(at.child("values"), text));
                }
            }
            "Exists" | "DoesNotExist" => {
                if values > 0 {
                    let text = "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector";
                    errors.push(Error::invalid(at.child("values"), term.at("values").clone(), text));
                }
            }
            other => errors.push(Error::invalid(at.child("operator"), other, "not a valid selector operator")),
        }
    }
    errors
}

/// Whether a scope can narrow what is counted of a resource (`IsResourceQuotaScopeValidForResource`); resources that are
/// not standard ones are left to their owners.
fn applies(scope: &str, resource: &str) -> bool {
    if resource.contains('/') || resource == "storage" || !is_standard(resource) {
        return true;
    }
    let compute = ["cpu", "memory", "limits.cpu", "limits.memory", "requests.cpu", "requests.memory"];
    match scope {
        "Terminating" | "NotTerminating" | "NotBestEffort" | "PriorityClass" | "CrossNamespacePodAffinity" => {
            resource == "pods" || compute.contains(&resource)
        }
        "BestEffort" => resource == "pods",
        "VolumeAttributesClass" => matches!(resource, "persistentvolumeclaims" | "requests.storage"),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn scopes_narrow_what_they_can_be_counted_by() {
        for (scope, resource, expected) in [
            ("BestEffort", "pods", true),
            ("BestEffort", "cpu", false),
            ("NotBestEffort", "limits.memory", true),
            ("Terminating", "services", false),
            ("PriorityClass", "requests.ephemeral-storage", false),
            ("VolumeAttributesClass", "requests.storage", true),
            ("VolumeAttributesClass", "pods", false),
            ("BestEffort", "count/deployments.apps", true),
            ("BestEffort", "example.com/thing", true),
        ] {
            assert_eq!(applies(scope, resource), expected, "{scope} {resource}");
        }
    }

    #[test]
    fn an_unfit_scope_is_named_for_each_resource() {
        let object = Object::from_value(json!({"spec": {
            "hard": {"pods": "1", "services": "1"},
            "scopeSelector": {"matchExpressions": [{"scopeName": "Terminating", "operator": "Exists"}]},
        }}));
        let errors: Vec<String> = validate(&object.unwrap()).iter().map(ToString::to_string).collect();
        let expected = "spec.scopeSelector.matchExpressions: Invalid value: {\"MatchExpressions\":[{\"ScopeName\":\
            \"Terminating\",\"Operator\":\"Exists\",\"Values\":null}]}: unsupported scope applied to resource";
        assert_eq!(errors, [expected]);
    }
}
