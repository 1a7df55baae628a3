//! `apiregistration.k8s.io`: API services (kube-aggregator `pkg/registry/apiservice`,
//! `pkg/apis/apiregistration/validation`).

use api::Object;
use api::field::{Error, ErrorList, Path};
use api::kind::RequestContext;
use serde_json::{Value, json};

use crate::checks::one_of;
use crate::columns::{age, column, name, text};
use crate::define::Extra;
use crate::json::{Json, dig, fill};
use crate::rules::Rules;

/// What is special about a kind of this group.
pub(crate) fn extra(kind: &str) -> Option<Extra> {
    if kind != "APIService" {
        return None;
    }
    let columns = vec![
        name(),
        text("Service", |o, _| {
            let service = dig(o, &["spec", "service"]);
            if service.is_null() {
                return "Local".into();
            }
            format!("{}/{}", service.text("namespace"), service.text("name")).into()
        }),
        column("Available", "string", "", "", 0, |o, _| available(o).into()),
        age(),
    ];
    let rules = Rules {
        default: |object| {
            if let Some(service) = crate::json::existing_at(&mut object.0, &["spec", "service"]) {
                fill(service, "port", 443);
            }
        },
        create: available_if_local,
        status_update: |_, object, old| {
            // `apiServerStatusStrategy.PrepareForUpdate`: only the status is the caller's.
            for member in ["labels", "annotations", "finalizers", "ownerReferences"] {
                match old.get(&["metadata", member]) {
                    Some(value) => object.set(&["metadata", member], value.clone()),
                    None => drop(object.remove(&["metadata", member])),
                }
            }
        },
        validate,
        // The validator of updates calls that of creations, metadata and all.
        validate_update: Some(|object, _| {
            let mut errors = api::meta::validate_object_meta(object, false, &|_, _| Vec::new(), &Path::new("metadata"));
            errors.extend(validate(object));
            errors
        }),
        validate_status: |object, _| {
            let mut errors = ErrorList::new();
            for (index, condition) in object.array(&["status", "conditions"]).iter().enumerate() {
                let path = Path::new("status").child("conditions").index(index).child("status");
                one_of(&mut errors, path, condition.text("status"), &["False", "True", "Unknown"]);
            }
            errors
        },
        name: api::validation::path_segment,
        any_finalizers: true,
        unconditional_update: false,
        ..Rules::GENERIC
    };
    Some(Extra::new(rules, columns))
}

fn available(object: &Object) -> String {
    let conditions = object.array(&["status", "conditions"]);
    match conditions.iter().find(|c| c.text("type") == "Available") {
        None => "Unknown".to_owned(),
        Some(c) if c.text("status") == "True" => "True".to_owned(),
        Some(c) => format!("{} ({})", c.text("status"), c.text("reason")),
    }
}

/// `NewLocalAvailableAPIServiceCondition`: what this server serves itself is available at once.
fn available_if_local(ctx: &RequestContext<'_>, object: &mut Object) {
    if dig(object, &["spec", "service"]).is_null() {
        let condition = json!({
            "type": "Available", "status": "True", "lastTransitionTime": crate::timestamp(ctx.now),
            "reason": "Local", "message": "Local APIServices are always available",
        });
        object.set(&["status", "conditions"], json!([condition]));
    }
}

/// `ValidateAPIService`.
fn validate(object: &Object) -> ErrorList {
    let mut errors = ErrorList::new();
    let spec = object.at("spec");
    let path = Path::new("spec");
    let (group, version) = (spec.text("group"), spec.text("version"));
    let required = format!("{version}.{group}");
    for name in ["generateName", "name"] {
        let at = Path::new("metadata").child(name);
        match object.at("metadata").text(name) {
            "" => {}
            text if text == required => {}
            // What is no part of a path is not looked at further.
            text if !api::validation::path_segment(text, false).is_empty() => {}
            text => {
                let problem = format!("must be `spec.version+\".\"+spec.group`: {required:?}");
                errors.push(Error::invalid(at, text, problem));
            }
        }
    }
    if group.is_empty() && version != "v1" {
        let text = "only v1 may have an empty group and it better be legacy kube";
        errors.push(Error::required(path.child("group"), text));
    }
    if !group.is_empty() {
        for text in api::validation::dns1123_subdomain(group, false) {
            errors.push(Error::invalid(path.child("group"), group, text));
        }
    }
    for text in api::validation::dns1035_label(version, false) {
        errors.push(Error::invalid(path.child("version"), version, text));
    }
    for (member, limit) in [("groupPriorityMinimum", 20_000), ("versionPriority", 1000)] {
        let value = spec.int(member).unwrap_or_default();
        if value <= 0 || value > limit {
            let text = format!("must be positive and less than {limit}");
            errors.push(Error::invalid(path.child(member), value, text));
        }
    }
    let bundle = bundle_bytes(spec);
    let insecure = spec.flag("insecureSkipTLSVerify");
    let service = spec.at("service");
    if service.is_null() {
        if bundle > 0 {
            let text = "local APIServices may not have a caBundle";
            errors.push(Error::invalid(path.child("caBundle"), format!("{bundle} bytes"), text));
        }
        if insecure {
            let text = "local APIServices may not have insecureSkipTLSVerify";
            errors.push(Error::invalid(path.child("insecureSkipTLSVerify"), true, text));
        }
        return errors;
    }
    let at = path.child("service");
    for member in ["namespace", "name"] {
        if service.text(member).is_empty() {
            errors.push(Error::required(at.child(member), ""));
        }
    }
    let port = service.int("port").unwrap_or_default();
    let problems = api::validation::port_number(port);
    if !problems.is_empty() {
        let text = format!("port is not valid: {}", problems.join(", "));
        errors.push(Error::invalid(at.child("port"), port, text));
    }
    if insecure && bundle > 0 {
        let text = "may not be true if caBundle is present";
        errors.push(Error::invalid(path.child("insecureSkipTLSVerify"), true, text));
    }
    errors
}

/// Size of the decoded bundle.
fn bundle_bytes(spec: &Value) -> usize {
    let text = spec.text("caBundle").trim_end_matches('=');
    text.len() * 3 / 4
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, spec: Value, want: &[&str]) {
        let object = Object::from_value(json!({"metadata": {"name": name}, "spec": spec})).unwrap();
        let got: Vec<String> = validate(&object).iter().map(ToString::to_string).collect();
        assert_eq!(got, want);
    }

    #[test]
    fn specs_are_checked_as_upstream_does() {
        let spec = json!({"group": "a.b", "version": "v1", "groupPriorityMinimum": 1000, "versionPriority": 15});
        check("v1.a.b", spec.clone(), &[]);
        check(
            "v1.c",
            spec.clone(),
            &["metadata.name: Invalid value: \"v1.c\": must be `spec.version+\".\"+spec.group`: \"v1.a.b\""],
        );
        let mut high = spec.clone();
        high["groupPriorityMinimum"] = 20_001.into();
        check(
            "v1.a.b",
            high,
            &["spec.groupPriorityMinimum: Invalid value: 20001: must be positive and less than 20000"],
        );
        let mut remote = spec;
        remote["service"] = json!({"name": "s", "port": 443});
        remote["caBundle"] = "QUJD".into();
        remote["insecureSkipTLSVerify"] = true.into();
        check(
            "v1.a.b",
            remote,
            &[
                "spec.service.namespace: Required value",
                "spec.insecureSkipTLSVerify: Invalid value: true: may not be true if caBundle is present",
            ],
        );
    }
}
