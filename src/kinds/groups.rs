//! Groups of few kinds, most of which are no more than their columns.

mod policies;
pub(crate) mod webhooks;

use api::field::{Error, ErrorList, Path};
use api::kind::Column;
use serde_json::Value;

use crate::checks::non_negative;
use crate::columns::{age, integer, name, string, text};
use crate::core::event;
use crate::define::Extra;
use crate::json::{Json, absent, dig, existing, fill, items_mut};
use crate::printed::Printed;
use crate::rules::Rules;

/// `events.k8s.io`.
pub(crate) fn events(kind: &str) -> Option<Extra> {
    (kind == "Event").then(event::new_style)
}

/// What coordinated leader election would use is off.
fn no_coordination(object: &mut api::Object) {
    for member in ["strategy", "preferredHolder"] {
        object.remove(&["spec", member]);
    }
}

/// `coordination.k8s.io`.
pub(crate) fn coordination(kind: &str) -> Option<Extra> {
    let rules = Rules {
        validate: |object| {
            let mut errors = ErrorList::new();
            let (spec, at) = (object.at("spec"), Path::new("spec"));
            if let Some(seconds) = spec.int("leaseDurationSeconds")
                && seconds <= 0
            {
                errors.push(Error::invalid(at.child("leaseDurationSeconds"), seconds, "must be greater than 0"));
            }
            non_negative(&mut errors, at.child("leaseTransitions"), spec.at("leaseTransitions"));
            if spec.count("preferredHolder") > 0 && spec.count("strategy") == 0 {
                let text = "may only be specified if `strategy` is defined";
                errors.push(Error::forbidden(at.child("preferredHolder"), text));
            }
            errors
        },
        create: |_, object| no_coordination(object),
        update: |_, object, _| no_coordination(object),
        create_on_update: true,
        unconditional_update: false,
        any_finalizers: true,
        ..Rules::GENERIC
    };
    let columns = vec![name(), text("Holder", |o, _| string(o, &["spec", "holderIdentity"])), age()];
    (kind == "Lease").then(|| Extra::new(rules, columns))
}

/// `node.k8s.io`.
pub(crate) fn node(kind: &str) -> Option<Extra> {
    let rules = Rules {
        validate: runtime_class,
        validate_update: Some(|object, old| {
            let (mut errors, mut changed) = (runtime_class(object), ErrorList::new());
            crate::checks::immutable_hidden(
                &mut changed,
                Path::new("handler"),
                object.at("handler"),
                old.at("handler"),
            );
            for error in errors.iter_mut().filter(|error| error.path.to_string() == "handler") {
                // Declarative validation, which counts bytes, ends at the change.
                error.detail = error.detail.replace("63 bytes", "63 characters");
            }
            // An absent handler is told last.
            let last = errors.len() - usize::from(object.count("handler") == 0);
            errors.splice(last..last, changed);
            errors
        }),
        create_on_update: true,
        unconditional_update: false,
        any_finalizers: true,
        ..Rules::GENERIC
    };
    let columns = vec![name(), text("Handler", |o, _| string(o, &["handler"])), age()];
    (kind == "RuntimeClass").then(|| Extra::new(rules, columns))
}

/// `ValidateRuntimeClass`.
fn runtime_class(object: &api::Object) -> ErrorList {
    let mut errors = ErrorList::new();
    if object.has("overhead") {
        let limits = serde_json::json!({"limits": object.at("overhead").at("podFixed")});
        let claims = std::collections::BTreeSet::new();
        crate::podspec::resources::requirements(&mut errors, &Path::new("overhead"), &limits, &claims);
    }
    let (scheduling, at) = (object.at("scheduling"), Path::new("scheduling"));
    crate::checks::labels(&mut errors, &at.child("nodeSelector"), scheduling.at("nodeSelector"));
    let tolerations = scheduling.list("tolerations");
    let at = at.child("tolerations");
    crate::podspec::affinity::tolerations(&mut errors, &at, tolerations);
    let key = |t: &Value| ["key", "operator", "value", "effect"].map(|m| t.text(m).to_owned());
    for (i, toleration) in tolerations.iter().enumerate() {
        if tolerations[..i].iter().any(|earlier| key(earlier) == key(toleration)) {
            errors.push(Error::duplicate(at.index(i), toleration.clone()).printed("core.Toleration"));
        }
    }
    match object.text("handler") {
        "" => errors.push(Error::required(Path::new("handler"), "")),
        handler => {
            // Declarative validation counts bytes.
            let texts = api::validation::dns1123_label(handler, false);
            let texts = texts.into_iter().map(|text| text.replace("63 characters", "63 bytes")).collect();
            crate::checks::invalid_all(&mut errors, &Path::new("handler"), handler, texts);
        }
    }
    errors
}

/// `admissionregistration.k8s.io`.
pub(crate) fn admission_registration(kind: &str) -> Option<Extra> {
    let webhooks = Rules {
        counts_empty: true,
        default: |object| {
            for webhook in items_mut(&mut object.0, "webhooks") {
                absent(webhook, "failurePolicy", "Fail");
                fill(webhook, "timeoutSeconds", 10);
                match_defaults(webhook);
                if let Some(service) = crate::json::existing_at(webhook, &["clientConfig", "service"]) {
                    fill(service, "port", 443);
                }
                for rule in items_mut(webhook, "rules") {
                    absent(rule, "scope", "*");
                }
            }
        },
        validate: webhooks::validate,
        validate_new: not_static,
        warnings: |object, old| [static_warnings(object, old), webhooks::warnings(object)].concat(),
        unconditional_update: false,
        any_finalizers: true,
        ..Rules::GENERIC
    };
    let count = || integer("Webhooks", |o, _| o.count("webhooks").into());
    Some(
        match kind {
            "ValidatingWebhookConfiguration" => Extra::new(webhooks, vec![name(), count(), age()]),
            "MutatingWebhookConfiguration" => {
                let rules = Rules {
                    default: |object| {
                        let Some(generic) = admission_registration("ValidatingWebhookConfiguration") else { return };
                        generic.strategy.default(object);
                        for webhook in items_mut(&mut object.0, "webhooks") {
                            absent(webhook, "reinvocationPolicy", "Never");
                        }
                    },
                    validate: webhooks::validate,
                    validate_new: not_static,
                    warnings: |object, old| [static_warnings(object, old), webhooks::warnings(object)].concat(),
                    unconditional_update: false,
                    any_finalizers: true,
                    ..Rules::GENERIC
                };
                Extra::new(rules, vec![name(), count(), age()])
            }
            "ValidatingAdmissionPolicy" => {
                policy("Validations", policies::validating_policy, |o, _| o.at("spec").count("validations").into())
            }
            "MutatingAdmissionPolicy" => {
                policy("Mutations", policies::mutating_policy, |o, _| o.at("spec").count("mutations").into())
            }
            "ValidatingAdmissionPolicyBinding" => binding(policies::validating_binding),
            "MutatingAdmissionPolicyBinding" => binding(policies::mutating_binding),
            _ => return None,
        }
        .with_generation(),
    )
}

/// Configurations of such names come from files (`static_suffix.go`).
fn is_static(object: &api::Object) -> Option<String> {
    const SUFFIX: &str = ".static.k8s.io";
    let text = || {
        format!(
            "names ending with {SUFFIX:?} are reserved for static manifest-based configurations and cannot be managed via the API"
        )
    };
    object.name().ends_with(SUFFIX).then(text)
}

/// `ValidateStaticSuffix`.
fn not_static(object: &api::Object) -> ErrorList {
    let at = || Path::new("metadata").child("name");
    is_static(object).map(|text| Error::invalid(at(), object.name(), text)).into_iter().collect()
}

/// `WarningsForStaticSuffix`: of objects that are older than the rule.
fn static_warnings(object: &api::Object, old: Option<&api::Object>) -> Vec<String> {
    old.and_then(|_| is_static(object)).map(|text| format!("metadata.name: {text}")).into_iter().collect()
}

fn match_defaults(target: &mut crate::json::Members) {
    absent(target, "matchPolicy", "Equivalent");
    fill(target, "namespaceSelector", serde_json::json!({}));
    fill(target, "objectSelector", serde_json::json!({}));
}

fn policy(
    noun: &'static str,
    validate: fn(&api::Object) -> ErrorList,
    count: fn(&api::Object, jiff::Timestamp) -> Value,
) -> Extra {
    let rules = Rules {
        default: |object| {
            let Some(spec) = existing(&mut object.0, "spec") else { return };
            absent(spec, "failurePolicy", "Fail");
            if let Some(constraints) = existing(spec, "matchConstraints") {
                match_defaults(constraints);
                for list in ["resourceRules", "excludeResourceRules"] {
                    for rule in items_mut(constraints, list) {
                        absent(rule, "scope", "*");
                    }
                }
            }
        },
        validate,
        validate_new: not_static,
        warnings: static_warnings,
        validate_status: |object, _| {
            let mut errors = ErrorList::new();
            let (list, at) = (object.array(&["status", "conditions"]), Path::new("status").child("conditions"));
            crate::conditions::validate_in_words(&mut errors, &at, list);
            errors.extend(type_checking(object));
            errors
        },
        unconditional_update: false,
        any_finalizers: true,
        ..Rules::GENERIC
    };
    let columns = vec![
        name(),
        integer(noun, count),
        text("ParamKind", |o, _| {
            let kind = dig(o, &["spec", "paramKind"]);
            if kind.is_null() {
                return "<unset>".into();
            }
            format!("{}/{}", kind.text("apiVersion"), kind.text("kind")).into()
        }),
        age(),
    ];
    Extra::new(rules, columns)
}

fn binding(validate: fn(&api::Object) -> ErrorList) -> Extra {
    let rules = Rules {
        default: |object| {
            if let Some(resources) = crate::json::existing_at(&mut object.0, &["spec", "matchResources"]) {
                match_defaults(resources);
                for list in ["resourceRules", "excludeResourceRules"] {
                    for rule in items_mut(resources, list) {
                        absent(rule, "scope", "*");
                    }
                }
            }
        },
        validate,
        validate_new: not_static,
        warnings: static_warnings,
        unconditional_update: false,
        any_finalizers: true,
        ..Rules::GENERIC
    };
    let columns = vec![
        name(),
        text("PolicyName", |o, _| string(o, &["spec", "policyName"])),
        text("ParamRef", |o, _| {
            let reference = dig(o, &["spec", "paramRef"]);
            match (reference.text("name"), reference.text("namespace")) {
                ("", _) => "<unset>".into(),
                (name, "") => format!("*/{name}").into(),
                (name, namespace) => format!("{namespace}/{name}").into(),
            }
        }),
        age(),
    ];
    Extra::new(rules, columns)
}

/// `storagemigration.k8s.io`.
pub(crate) fn storage_migration(kind: &str) -> Option<Extra> {
    let columns = vec![
        // Without a format, as upstream's.
        Column { format: "".into(), ..name() },
        text("Resource", |o, _| {
            let resource = o.at("spec").at("resource");
            match resource.text("group") {
                "" => resource.text("resource").into(),
                group => format!("{}.{group}", resource.text("resource")).into(),
            }
        }),
        text("Status", |o, _| {
            let states = ["Running", "Failed", "Succeeded"];
            let conditions = o.array(&["status", "conditions"]);
            let last = conditions.iter().rev().find(|c| c.text("status") == "True" && states.contains(&c.text("type")));
            last.map_or("Unknown", |c| c.text("type")).into()
        }),
    ];
    let rules = Rules {
        validate: migration,
        validate_update: Some(|object, old| {
            let mut errors = migration(object);
            let (spec, before) = (object.at("spec"), old.at("spec"));
            let ty = "storagemigration.StorageVersionMigrationSpec";
            crate::checks::immutable_as(&mut errors, Path::new("spec"), ty, spec, before);
            errors
        }),
        validate_status: migration_status,
        unconditional_update: false,
        ..Rules::GENERIC
    };
    (kind == "StorageVersionMigration").then(|| Extra::new(rules, columns))
}

/// `ValidateStorageVersionMigration`.
fn migration(object: &api::Object) -> ErrorList {
    let mut errors = ErrorList::new();
    let (resource, at) = (dig(object, &["spec", "resource"]), Path::new("spec").child("resource"));
    let mut problems = |at: Path, value: &str, texts: Vec<String>| {
        if !texts.is_empty() {
            errors.push(Error::invalid(at, value, texts.join(",")));
        }
    };
    let name = resource.text("resource");
    if !name.is_empty() {
        problems(at.child("resource"), name, api::validation::dns1035_label(name, false));
    }
    let group = resource.text("group");
    if !group.is_empty() {
        problems(at.child("group"), group, api::validation::dns1123_subdomain(group, false));
    }
    if name.is_empty() {
        errors.insert(0, Error::required(at.child("resource"), "resource is required to be set"));
    }
    errors
}

/// `validateTypeChecking`. Paths are not parsed.
fn type_checking(object: &api::Object) -> ErrorList {
    let mut errors = ErrorList::new();
    let at = Path::new("status").child("typeChecking").child("expressionWarnings");
    for (i, warning) in object.array(&["status", "typeChecking", "expressionWarnings"]).iter().enumerate() {
        if warning.text("warning").is_empty() {
            errors.push(Error::required(at.index(i).child("warning"), ""));
        }
        if warning.text("fieldRef").trim().is_empty() {
            errors.push(Error::required(at.index(i).child("fieldRef"), ""));
        }
    }
    errors
}

/// `ValidateStorageVersionMigrationStatusUpdate`.
fn migration_status(object: &api::Object, old: &api::Object) -> ErrorList {
    let mut errors = ErrorList::new();
    let (status, before, at) = (object.at("status"), old.at("status"), Path::new("status"));
    let (version, previous) = (status.text("resourceVersion"), before.text("resourceVersion"));
    if !version.is_empty() && (version.starts_with('0') || !version.bytes().all(|b| b.is_ascii_digit())) {
        let text = format!("resource version is not well formed: {version}");
        errors.push(Error::invalid(at.child("resourceVersion"), version, text));
    }
    crate::conditions::validate_in_words(&mut errors, &at.child("conditions"), status.list("conditions"));
    if !previous.is_empty() && previous != version {
        errors.push(Error::invalid(at.child("resourceVersion"), version, crate::checks::IMMUTABLE));
    }
    let holds = |status: &Value, kind: &str| {
        status.list("conditions").iter().any(|c| c.text("type") == kind && c.text("status") == "True")
    };
    let mut wrong = |text: &str| {
        let error = Error::invalid(at.child("conditions"), status.at("conditions").clone(), text);
        errors.push(error.printed("[]@io.k8s.apimachinery.pkg.apis.meta.v1.Condition"));
    };
    if holds(status, "Succeeded") && holds(status, "Failed") {
        wrong("Both success and failed conditions cannot be true at the same time");
    }
    if holds(before, "Succeeded") && !holds(status, "Succeeded") {
        wrong("Success condition cannot be set to false once it is true");
    }
    if holds(before, "Failed") && !holds(status, "Failed") {
        wrong("Failed condition cannot be set to false once it is true");
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_configurations_in_files_are_reserved() {
        let named = |name: &str| {
            let object = api::Object::from_value(serde_json::json!({"metadata": {"name": name}})).unwrap();
            let errors: Vec<String> = not_static(&object).iter().map(ToString::to_string).collect();
            (errors.concat(), static_warnings(&object, None).len(), static_warnings(&object, Some(&object)).len())
        };
        let text = "metadata.name: Invalid value: \"a.static.k8s.io\": names ending with \".static.k8s.io\" are reserved for static \
                    manifest-based configurations and cannot be managed via the API";
        assert_eq!(named("a.static.k8s.io"), (text.to_owned(), 0, 1));
        assert_eq!(named("a.static"), (String::new(), 0, 0));
    }
}
