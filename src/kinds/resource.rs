//! `resource.k8s.io`: devices, and the claims for them (upstream's `pkg/apis/resource/validation`).

mod admin;
mod claim;
mod devices;
mod slice;
mod status_access;

use std::sync::Arc;

use api::Object;
use api::field::{Error, ErrorList, ErrorType, Path};
use serde_json::Value;

use crate::checks::{immutable_as, immutable_hidden};
use crate::columns::{age, field, name, string, text};
use crate::define::Extra;
use crate::duration::since;
use crate::json::{Json, dig, existing, existing_at, fill, fill_zero, items_mut, same};
use crate::rules::Rules;
use crate::timestamp;

/// What is special about a kind of this group.
pub(crate) fn extra(kind: &str) -> Option<Extra> {
    Some(match kind {
        "DeviceClass" => Extra::new(class(), vec![name(), age()]).with_generation(),
        "ResourceClaimTemplate" => {
            let mut extra = Extra::new(template(), vec![name(), age()]);
            let requests = &["spec", "spec", "devices", "requests"];
            extra.hook = Some(Arc::new(admin::Guard { kind: "ResourceClaimTemplate", requests, rest: template_spec }));
            extra
        }
        "ResourceClaim" => {
            let columns = vec![name(), text("State", |o, _| claim_state(o).into()), age()];
            let mut extra = Extra::new(claim(), columns);
            let requests = &["spec", "devices", "requests"];
            extra.hook = Some(Arc::new(admin::Guard { kind: "ResourceClaim", requests, rest: claim_spec }));
            extra
        }
        "ResourceSlice" => slice(),
        "DeviceTaintRule" => taint_rule(),
        _ => return None,
    })
}

fn class() -> Rules {
    Rules {
        validate: |object| claim::class(object.at("spec"), None),
        validate_update: Some(|object, old| claim::class(object.at("spec"), Some(old.at("spec")))),
        // Declarative validation looks at the name alone.
        name: |name, prefix| if prefix { Vec::new() } else { api::validation::long_name(name) },
        ..Rules::GENERIC
    }
}

fn template() -> Rules {
    Rules {
        default: |object| {
            if let Some(devices) = existing_at(&mut object.0, &["spec", "spec", "devices"]) {
                device_requests(devices);
            }
        },
        create: |_, object| drop_derived(object, &["spec", "spec", "devices"]),
        update: |_, object, _| drop_derived(object, &["spec", "spec", "devices"]),
        validate: template_spec,
        validate_update: Some(|object, old| {
            // What declarative validation says of lists and choices comes after the rest.
            let declared = |e: &Error| matches!(e.kind, ErrorType::Duplicate | ErrorType::NotSupported);
            let (last, mut errors): (ErrorList, ErrorList) = template_spec(object).into_iter().partition(declared);
            let (spec, before) = (object.at("spec"), old.at("spec"));
            immutable_as(&mut errors, Path::new("spec"), "resource.ResourceClaimTemplateSpec", spec, before);
            errors.extend(last);
            errors
        }),
        ..Rules::GENERIC
    }
}

/// `ValidateResourceClaimTemplate`.
fn template_spec(object: &Object) -> ErrorList {
    let mut errors = ErrorList::new();
    let (spec, at) = (object.at("spec"), Path::new("spec"));
    crate::checks::template_meta(&mut errors, &at.child("metadata"), spec.at("metadata"));
    claim::spec(&mut errors, &at.child("spec").child("devices"), spec.at("spec").at("devices"));
    errors
}

fn claim() -> Rules {
    Rules {
        default: |object| {
            if let Some(devices) = existing_at(&mut object.0, &["spec", "devices"]) {
                device_requests(devices);
            }
        },
        create: |_, object| drop_derived(object, &["spec", "devices"]),
        update: |_, object, _| drop_derived(object, &["spec", "devices"]),
        validate: claim_spec,
        validate_update: Some(|object, old| {
            let mut errors = ErrorList::new();
            immutable_hidden(&mut errors, Path::new("spec"), object.at("spec"), old.at("spec"));
            errors
        }),
        // `DRAOptionalNodeOperations` is off (`dropDisabledStatusFields`).
        status_update: |_, object, old| {
            claim::drop_deallocated(object, old);
            if let Some(devices) = existing_at(&mut object.0, &["status", "allocation", "devices"]) {
                for result in items_mut(devices, "results") {
                    result.remove("skipNodeOperations");
                }
            }
        },
        validate_status: claim::status,
        status_has_table: false,
        ..Rules::GENERIC
    }
}

/// `ValidateResourceClaim`.
fn claim_spec(object: &Object) -> ErrorList {
    let mut errors = ErrorList::new();
    claim::spec(&mut errors, &Path::new("spec").child("devices"), object.at("spec").at("devices"));
    errors
}

fn slice() -> Extra {
    let rules = Rules {
        default_at: |object, now| {
            let Some(spec) = existing(&mut object.0, "spec") else { return };
            for device in items_mut(spec, "devices") {
                items_mut(device, "taints").for_each(|taint| default_taint(taint, now));
            }
        },
        create: |_, object| prepare_slice(object),
        update: |_, object, _| prepare_slice(object),
        validate: |object| slice::spec(object.at("spec"), None),
        validate_update: Some(|object, old| slice::spec(object.at("spec"), Some(old.at("spec")))),
        warnings: |object, _| {
            let driver = object.at("spec").text("driver");
            let upper = (driver.to_lowercase() != driver).then(|| {
                format!("spec.driver: driver names should be lowercase; {driver:?} contains uppercase characters")
            });
            upper.into_iter().collect()
        },
        field_refusal: |path| {
            Some(format!("field label not supported for resource.k8s.io/v1, Kind=ResourceSlice: {path}"))
        },
        ..Rules::GENERIC
    };
    let columns = vec![
        name(),
        text("Node", |o, _| string(o, &["spec", "nodeName"])),
        text("Driver", |o, _| string(o, &["spec", "driver"])),
        text("Pool", |o, _| string(o, &["spec", "pool", "name"])),
        age(),
    ];
    Extra::new(rules, columns).with_generation().with_fields(vec![
        field("spec.nodeName", |o| o.at("spec").text("nodeName").to_owned()),
        field("spec.driver", |o| o.at("spec").text("driver").to_owned()),
    ])
}

/// `SetDefaults_DeviceTaint`: a taint is there since it was told.
fn default_taint(taint: &mut crate::json::Members, now: jiff::Timestamp) {
    fill(taint, "timeAdded", timestamp(now).as_str());
}

/// Drops what features that are off would use (`dropDisabledFields` of the slice's strategy).
fn prepare_slice(object: &mut Object) {
    let Some(spec) = existing(&mut object.0, "spec") else { return };
    for member in ["partitionTypeAttribute", "skipNodeOperations"] {
        spec.remove(member);
    }
    for device in items_mut(spec, "devices") {
        device.remove("nodeAllocatableResources");
        if let Some(attributes) = existing(device, "attributes") {
            for attribute in attributes.values_mut().filter_map(Value::as_object_mut) {
                for list in ["bools", "ints", "strings", "versions"] {
                    attribute.remove(list);
                }
            }
        }
        for consumed in items_mut(device, "consumesCounters") {
            consumed.remove("compatibilityGroups");
        }
    }
}

fn taint_rule() -> Extra {
    let rules = Rules {
        default_at: |object, now| {
            if let Some(taint) = existing_at(&mut object.0, &["spec", "taint"]) {
                default_taint(taint, now);
            }
        },
        update: |ctx, object, old| {
            let before = dig(old, &["spec", "taint"]);
            let Some(taint) = existing_at(&mut object.0, &["spec", "taint"]) else { return };
            // Another effect is another taint, unless the writer says since when.
            if taint.text("effect") != before.text("effect") && taint.text("timeAdded") == before.text("timeAdded") {
                taint.insert("timeAdded".to_owned(), timestamp(ctx.now).into());
            }
        },
        status_has_table: false,
        validate: |object| devices::taint_rule(object.at("spec"), None),
        validate_update: Some(|object, old| devices::taint_rule(object.at("spec"), Some(old.at("spec")))),
        validate_status: |object, _| {
            let mut errors = ErrorList::new();
            let (list, at) = (object.array(&["status", "conditions"]), Path::new("status").child("conditions"));
            crate::conditions::validate(&mut errors, &at, list);
            if list.len() > 8 {
                errors.push(Error::too_many(at, list.len(), 8));
            }
            errors
        },
        ..Rules::GENERIC
    };
    let columns = vec![
        name(),
        text("Key", |o, _| string(o, &["spec", "taint", "key"])),
        text("Value", |o, _| string(o, &["spec", "taint", "value"])),
        text("Effect", |o, _| string(o, &["spec", "taint", "effect"])),
        text("TimeAdded", |o, now| match dig(o, &["spec", "taint", "timeAdded"]) {
            Value::Null => "".into(),
            time => since(time, now).into(),
        }),
        age(),
    ];
    Extra::new(rules, columns).with_generation()
}

/// `DRADerivedAttributes` is off (`resourceclaimspec.DropDisabledFields`).
fn drop_derived(object: &mut Object, devices: &[&str]) {
    let Some(devices) = existing_at(&mut object.0, devices) else { return };
    for request in items_mut(devices, "requests") {
        if let Some(exactly) = existing(request, "exactly") {
            exactly.remove("derivedAttributes");
        }
        for sub in items_mut(request, "firstAvailable") {
            sub.remove("derivedAttributes");
        }
    }
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

/// Whether a part of the spec is as it was; new objects have no old part.
fn unchanged(spec: &Value, old: Option<&Value>, member: &str) -> bool {
    old.is_some_and(|old| same(spec.at(member), old.at(member)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn taints_say_since_when_they_are_there() {
        let check = |extra: Extra, object: Value, path: &str, want: &str| {
            let mut object = Object::from_value(object).unwrap_or_default();
            extra.strategy.default_at(&mut object, jiff::Timestamp::UNIX_EPOCH);
            let object = object.into_value();
            assert_eq!(object.pointer(path), Some(&json!(want)), "{object}");
        };
        let rule = |taint: Value| json!({"spec": {"taint": taint}});
        check(taint_rule(), rule(json!({"key": "a"})), "/spec/taint/timeAdded", "1970-01-01T00:00:00Z");
        let given = json!({"timeAdded": "2020-01-01T00:00:00Z"});
        check(taint_rule(), rule(given), "/spec/taint/timeAdded", "2020-01-01T00:00:00Z");
        let devices = json!([{"name": "a", "taints": [{"key": "a"}]}]);
        let place = "/spec/devices/0/taints/0/timeAdded";
        check(slice(), json!({"spec": {"devices": devices}}), place, "1970-01-01T00:00:00Z");
    }
}
