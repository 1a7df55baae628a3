//! Groups of few kinds, most of which are no more than their columns.

mod policies;
pub(crate) mod webhooks;

use api::field::{Error, ErrorList, Path};
use serde_json::Value;

use crate::checks::non_negative;
use crate::columns::{age, column, field, integer, name, name_as, number, string, string_or, text};
use crate::core::event;
use crate::define::Extra;
use crate::duration::since;
use crate::json::{Json, dig, existing, fill, fill_zero, items_mut};
use crate::rules::Rules;

/// `events.k8s.io`.
pub(crate) fn events(kind: &str) -> Option<Extra> {
    (kind == "Event").then(event::new_style)
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
        create: |_, object| {
            // What coordinated leader election would use is off.
            for member in ["strategy", "preferredHolder"] {
                object.remove(&["spec", member]);
            }
        },
        create_on_update: true,
        unconditional_update: false,
        ..Rules::GENERIC
    };
    let columns = vec![name(), text("Holder", |o, _| string(o, &["spec", "holderIdentity"])), age()];
    (kind == "Lease").then(|| Extra::new(rules, columns))
}

/// `node.k8s.io`.
pub(crate) fn node(kind: &str) -> Option<Extra> {
    let rules = Rules {
        validate: |object| {
            let mut errors = ErrorList::new();
            crate::checks::label_name(&mut errors, &Path::new("handler"), object.text("handler"));
            errors
        },
        validate_update: Some(|object, old| {
            let mut errors = ErrorList::new();
            crate::checks::immutable(&mut errors, Path::new("handler"), object.at("handler"), old.at("handler"));
            errors
        }),
        create_on_update: true,
        unconditional_update: false,
        ..Rules::GENERIC
    };
    let columns = vec![name(), text("Handler", |o, _| string(o, &["handler"])), age()];
    (kind == "RuntimeClass").then(|| Extra::new(rules, columns))
}

/// `flowcontrol.apiserver.k8s.io`.
pub(crate) fn flow_control(kind: &str) -> Option<Extra> {
    Some(match kind {
        "FlowSchema" => {
            let rules = Rules {
                default: |object| {
                    if let Some(spec) = existing(&mut object.0, "spec") {
                        fill_zero(spec, "matchingPrecedence", 1000);
                    }
                },
                ..Rules::GENERIC
            };
            let columns = vec![
                name(),
                text("PriorityLevel", |o, _| string(o, &["spec", "priorityLevelConfiguration", "name"])),
                text("MatchingPrecedence", |o, _| number(o, &["spec", "matchingPrecedence"])),
                text("DistinguisherMethod", |o, _| string_or(o, &["spec", "distinguisherMethod", "type"], "<none>")),
                age(),
                text("MissingPL", |o, _| {
                    let conditions = o.array(&["status", "conditions"]);
                    let dangling = conditions.iter().find(|c| c.text("type") == "Dangling");
                    dangling.map_or("?", |c| c.text("status")).into()
                }),
            ];
            Extra::new(rules, columns).with_generation()
        }
        "PriorityLevelConfiguration" => priority_level(),
        _ => return None,
    })
}

fn priority_level() -> Extra {
    let rules = Rules {
        default: |object| {
            let Some(spec) = existing(&mut object.0, "spec") else { return };
            if let Some(exempt) = existing(spec, "exempt") {
                fill(exempt, "nominalConcurrencyShares", 0);
                fill(exempt, "lendablePercent", 0);
            }
            if let Some(limited) = existing(spec, "limited") {
                fill(limited, "nominalConcurrencyShares", 30);
                fill(limited, "lendablePercent", 0);
                if let Some(queuing) = crate::json::existing_at(limited, &["limitResponse", "queuing"]) {
                    fill_zero(queuing, "handSize", 8);
                    fill_zero(queuing, "queues", 64);
                    fill_zero(queuing, "queueLengthLimit", 50);
                }
            }
        },
        ..Rules::GENERIC
    };
    fn or_none(value: &Value) -> Value {
        if value.is_null() { "<none>".into() } else { value.clone() }
    }
    const QUEUING: [&str; 4] = ["spec", "limited", "limitResponse", "queuing"];
    let columns = vec![
        name(),
        text("Type", |o, _| string(o, &["spec", "type"])),
        text("NominalConcurrencyShares", |o, _| or_none(dig(o, &["spec", "limited", "nominalConcurrencyShares"]))),
        text("Queues", |o, _| or_none(dig(o, &QUEUING).at("queues"))),
        text("HandSize", |o, _| or_none(dig(o, &QUEUING).at("handSize"))),
        text("QueueLengthLimit", |o, _| or_none(dig(o, &QUEUING).at("queueLengthLimit"))),
        age(),
    ];
    Extra::new(rules, columns).with_generation()
}

/// `admissionregistration.k8s.io`.
pub(crate) fn admission_registration(kind: &str) -> Option<Extra> {
    let webhooks = Rules {
        default: |object| {
            for webhook in items_mut(&mut object.0, "webhooks") {
                fill(webhook, "failurePolicy", "Fail");
                fill(webhook, "timeoutSeconds", 10);
                match_defaults(webhook);
                if let Some(service) = crate::json::existing_at(webhook, &["clientConfig", "service"]) {
                    fill(service, "port", 443);
                }
                for rule in items_mut(webhook, "rules") {
                    fill(rule, "scope", "*");
                }
            }
        },
        validate: webhooks::validate,
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
                            fill(webhook, "reinvocationPolicy", "Never");
                        }
                    },
                    validate: webhooks::validate,
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

fn match_defaults(target: &mut crate::json::Members) {
    fill(target, "matchPolicy", "Equivalent");
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
            fill(spec, "failurePolicy", "Fail");
            if let Some(constraints) = existing(spec, "matchConstraints") {
                match_defaults(constraints);
                for list in ["resourceRules", "excludeResourceRules"] {
                    for rule in items_mut(constraints, list) {
                        fill(rule, "scope", "*");
                    }
                }
            }
        },
        validate,
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
                        fill(rule, "scope", "*");
                    }
                }
            }
        },
        validate,
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

/// `resource.k8s.io`.
pub(crate) fn resource(kind: &str) -> Option<Extra> {
    let (columns, generation) = match kind {
        "DeviceClass" => (vec![name(), age()], true),
        "ResourceClaimTemplate" => (vec![name(), age()], false),
        "ResourceClaim" => (vec![name(), text("State", |o, _| claim_state(o).into()), age()], false),
        "ResourceSlice" => (
            vec![
                name(),
                text("Node", |o, _| string(o, &["spec", "nodeName"])),
                text("Driver", |o, _| string(o, &["spec", "driver"])),
                text("Pool", |o, _| string(o, &["spec", "pool", "name"])),
                age(),
            ],
            true,
        ),
        "DeviceTaintRule" => (
            vec![
                name(),
                text("Key", |o, _| string(o, &["spec", "taint", "key"])),
                text("Value", |o, _| string(o, &["spec", "taint", "value"])),
                text("Effect", |o, _| string(o, &["spec", "taint", "effect"])),
                text("TimeAdded", |o, now| match dig(o, &["spec", "taint", "timeAdded"]) {
                    Value::Null => "".into(),
                    time => since(time, now).into(),
                }),
                age(),
            ],
            true,
        ),
        _ => return None,
    };
    let rules = Rules {
        default: |object| {
            if let Some(devices) = crate::json::existing_at(&mut object.0, &["spec", "devices"]) {
                device_requests(devices);
            }
            if let Some(devices) = crate::json::existing_at(&mut object.0, &["spec", "spec", "devices"]) {
                device_requests(devices);
            }
        },
        ..Rules::GENERIC
    };
    let mut extra = Extra::new(rules, columns);
    extra.generation = generation;
    if kind == "ResourceSlice" {
        extra = extra.with_fields(vec![
            field("spec.nodeName", |o| o.at("spec").text("nodeName").to_owned()),
            field("spec.driver", |o| o.at("spec").text("driver").to_owned()),
        ]);
    }
    Some(extra)
}

/// `SetDefaults_ExactDeviceRequest` and `SetDefaults_DeviceSubRequest`.
fn device_requests(devices: &mut crate::json::Members) {
    fn count(request: &mut crate::json::Members) {
        fill(request, "allocationMode", "ExactCount");
        if request.text("allocationMode") == "ExactCount" {
            fill_zero(request, "count", 1);
        }
    }
    for request in items_mut(devices, "requests") {
        if let Some(exactly) = existing(request, "exactly") {
            count(exactly);
        }
        for sub in items_mut(request, "firstAvailable") {
            count(sub);
        }
    }
}

fn claim_state(object: &api::Object) -> String {
    let status = object.at("status");
    let mut states = Vec::new();
    if object.is_deleting() {
        states.push("deleted");
    }
    if status.has("allocation") {
        states.push("allocated");
        if status.count("reservedFor") > 0 {
            states.push("reserved");
        }
    } else if !object.is_deleting() {
        states.push("pending");
    }
    states.join(",")
}

/// `storagemigration.k8s.io`.
pub(crate) fn storage_migration(kind: &str) -> Option<Extra> {
    let columns = vec![
        name_as(|o, _| o.name().into()),
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
    (kind == "StorageVersionMigration").then(|| Extra::new(Rules::GENERIC, columns))
}

/// `apiregistration.k8s.io`.
pub(crate) fn extensions(kind: &str) -> Option<Extra> {
    Some(match kind {
        "APIService" => {
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
                ..Rules::GENERIC
            };
            Extra::new(rules, columns)
        }
        _ => return None,
    })
}

fn available(object: &api::Object) -> String {
    let conditions = object.array(&["status", "conditions"]);
    match conditions.iter().find(|c| c.text("type") == "Available") {
        None => "Unknown".to_owned(),
        Some(c) if c.text("status") == "True" => "True".to_owned(),
        Some(c) => format!("{} ({})", c.text("status"), c.text("reason")),
    }
}
