//! ResourceQuotas.

use api::Object;
use api::field::{Error, ErrorList, Path};
use serde_json::Value;

use crate::checks::immutable;
use crate::columns::{age, name, text};
use crate::define::Extra;
use crate::json::{Json, dig};
use crate::podspec::resources::{quantity, resource_name};
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
            immutable(&mut errors, at, dig(object, &["spec", "scopes"]), dig(old, &["spec", "scopes"]));
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
        let counted = name.starts_with("count/") || name.starts_with("requests.") || name.contains(".storageclass.");
        if !counted {
            resource_name(errors, &at, name);
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
    }
    for (i, term) in spec.at("scopeSelector").list("matchExpressions").iter().enumerate() {
        let at = at.child("scopeSelector").child("matchExpressions").index(i);
        let name = term.text("scopeName");
        if !SCOPES.contains(&name) {
            errors.push(Error::invalid(at.child("scopeName"), name, "unsupported scope"));
        }
        let values = term.count("values");
        match term.text("operator") {
            "In" | "NotIn" => {
                if values == 0 {
                    let text = "must be atleast one value when `operator` is 'In' or 'NotIn' for scope selector";
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
