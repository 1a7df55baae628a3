//! Validation of claims for devices, and of the classes that they name.

use std::collections::BTreeMap;

use api::Object;
use api::field::{Error, ErrorList, Path};
use api::validation::long_name;
use serde_json::Value;

use crate::checks::{invalid_all, label_name, subdomain};
use crate::json::{Json, existing, same};
use crate::podspec::affinity::node_selector;
use crate::printed::Printed;

use super::devices::{
    binding, configuration, driver, fully_qualified, pool, raw, selectors, toleration, toleration_declared, unique,
    within,
};
use super::unchanged;

/// Most requests, constraints, configurations and results of a claim.
const MOST: usize = 32;
/// Most consumers of a claim.
const RESERVED_MAX: usize = 256;
const NOT_A_REQUEST: &str =
    "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";

/// The names of requests with those of their subrequests.
type Names<'v> = BTreeMap<&'v str, Vec<&'v str>>;

fn names(devices: &Value) -> Names<'_> {
    let mut names = Names::new();
    for request in devices.list("requests") {
        names.insert(request.text("name"), request.list("firstAvailable").iter().map(|s| s.text("name")).collect());
    }
    names
}

/// `validateDeviceClassSpec`.
pub(super) fn class(spec: &Value, old: Option<&Value>) -> ErrorList {
    let mut errors = ErrorList::new();
    let at = Path::new("spec");
    selectors(&mut errors, &at.child("selectors"), spec.list("selectors"), unchanged(spec, old, "selectors"));
    let stored = unchanged(spec, old, "config");
    if within(&mut errors, &at.child("config"), spec.count("config"), MOST) {
        for (i, config) in spec.list("config").iter().enumerate() {
            configuration(&mut errors, &at.child("config").index(i), config, stored);
        }
    }
    if let Some(name) = spec.at("extendedResourceName").as_str() {
        extended(&mut errors, &at.child("extendedResourceName"), name);
    }
    errors
}

/// The format `k8s-extended-resource-name`.
fn extended(errors: &mut ErrorList, at: &Path, name: &str) {
    let mut wrong = |text: String| errors.push(Error::invalid(at.clone(), name, text));
    if !name.contains('/') {
        wrong("a name must be a domain-prefixed path, such as 'example.com/my-prop'".to_owned());
    } else if name.contains("kubernetes.io/") {
        wrong("must not have \"kubernetes.io/\" domain".to_owned());
    }
    if name.starts_with("requests.") {
        wrong("must not have \"requests.\" prefix".to_owned());
    }
    api::validation::label_key(&format!("requests.{name}")).into_iter().for_each(wrong);
}

/// `validateDeviceClaim`.
pub(super) fn spec(errors: &mut ErrorList, at: &Path, devices: &Value) {
    let known = names(devices);
    let requests = devices.list("requests");
    let mut late = ErrorList::new();
    if within(errors, &at.child("requests"), requests.len(), MOST) {
        for (i, one) in requests.iter().enumerate() {
            request(errors, &mut late, &at.child("requests").index(i), one);
        }
        alike(errors, &at.child("requests"), requests, "@io.k8s.api.resource.v1.DeviceRequest");
    }
    if within(errors, &at.child("constraints"), devices.count("constraints"), MOST) {
        for (i, constraint) in devices.list("constraints").iter().enumerate() {
            let at = at.child("constraints").index(i);
            references(errors, &at.child("requests"), constraint.list("requests"), &known);
            for member in ["matchAttribute", "distinctAttribute"] {
                if let Some(name) = constraint.at(member).as_str() {
                    fully_qualified(errors, &at.child(member), name);
                }
            }
            if !constraint.has("matchAttribute") && !constraint.has("distinctAttribute") {
                let text = "exactly one of \"matchAttribute\" or \"distinctAttribute\" is required, but multiple fields are set";
                errors.push(Error::required(at, text));
            }
        }
    }
    if within(errors, &at.child("config"), devices.count("config"), MOST) {
        for (i, config) in devices.list("config").iter().enumerate() {
            let at = at.child("config").index(i);
            references(errors, &at.child("requests"), config.list("requests"), &known);
            configuration(errors, &at, config, false);
        }
    }
    errors.extend(late);
}

/// What declarative validation demands of a request, or of a subrequest (`Validate_DeviceSubRequest`).
fn declared(errors: &mut ErrorList, at: &Path, request: &Value, is_sub: bool) {
    let class = request.text("deviceClassName");
    if is_sub && class.is_empty() {
        errors.push(Error::required(at.child("deviceClassName"), ""));
    } else if is_sub {
        invalid_all(errors, &at.child("deviceClassName"), class, long_name(class));
    }
    within(errors, &at.child("selectors"), request.count("selectors"), 32);
    mode(errors, at, request.text("allocationMode"));
    for (i, one) in request.list("tolerations").iter().enumerate() {
        toleration_declared(errors, &at.child("tolerations").index(i), one);
    }
}

fn mode(errors: &mut ErrorList, at: &Path, mode: &str) {
    if !mode.is_empty() && !matches!(mode, "All" | "ExactCount") {
        errors.push(Error::not_supported(at.child("allocationMode"), mode, &["All", "ExactCount"]));
    }
}

/// `validateDeviceRequest`.
fn request(errors: &mut ErrorList, late: &mut ErrorList, at: &Path, request: &Value) {
    label_name(errors, &at.child("name"), request.text("name"));
    let (exactly, first) = (request.at("exactly"), request.list("firstAvailable"));
    match (exactly.is_object(), !first.is_empty()) {
        (false, false) => {
            let text = "exactly one of `exactly` or `firstAvailable` is required";
            errors.push(Error::required(at.clone(), text));
        }
        (true, true) => {
            let text = "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set";
            errors.push(Error::invalid(at.clone(), Value::Null, text));
            // Declarative validation looks into both.
            declared(late, &at.child("exactly"), exactly, false);
            let at = at.child("firstAvailable");
            if within(late, &at, first.len(), 8) {
                alike(late, &at, first, "@io.k8s.api.resource.v1.DeviceSubRequest");
                for (i, sub) in first.iter().enumerate() {
                    declared(late, &at.index(i), sub, true);
                }
            }
        }
        (true, false) => kind(errors, &at.child("exactly"), exactly, false),
        (false, true) => {
            let at = at.child("firstAvailable");
            if within(errors, &at, first.len(), 8) {
                for (i, sub) in first.iter().enumerate() {
                    label_name(errors, &at.index(i).child("name"), sub.text("name"));
                    kind(errors, &at.index(i), sub, true);
                }
                alike(errors, &at, first, "@io.k8s.api.resource.v1.DeviceSubRequest");
            }
        }
    }
}

/// What a request and a subrequest ask for (`validateExactDeviceRequest`).
fn kind(errors: &mut ErrorList, at: &Path, request: &Value, is_sub: bool) {
    match request.text("deviceClassName") {
        "" => errors.push(Error::required(at.child("deviceClassName"), "")),
        class if is_sub => invalid_all(errors, &at.child("deviceClassName"), class, long_name(class)),
        class => subdomain(errors, &at.child("deviceClassName"), class),
    }
    selectors(errors, &at.child("selectors"), request.list("selectors"), false);
    let count = request.int("count").unwrap_or_default();
    match request.text("allocationMode") {
        "All" if count != 0 => {
            let text = "must not be specified when allocationMode is 'All'";
            errors.push(Error::invalid(at.child("count"), count, text));
        }
        "ExactCount" if count <= 0 => {
            errors.push(Error::invalid(at.child("count"), count, "must be greater than zero"));
        }
        "All" | "ExactCount" => {}
        other => errors.push(Error::not_supported(at.child("allocationMode"), other, &["All", "ExactCount"])),
    }
    for (i, one) in request.list("tolerations").iter().enumerate() {
        toleration(errors, &at.child("tolerations").index(i), one);
    }
}

fn references(errors: &mut ErrorList, at: &Path, list: &[Value], known: &Names<'_>) {
    if !within(errors, at, list.len(), MOST) {
        return;
    }
    let texts: Vec<&str> = list.iter().map(|v| v.as_str().unwrap_or_default()).collect();
    for (i, name) in texts.iter().enumerate() {
        reference(errors, &at.index(i), name, known);
    }
    unique(errors, at, &texts);
}

/// `validateRequestNameRef`.
fn reference(errors: &mut ErrorList, at: &Path, name: &str, known: &Names<'_>) {
    let parts: Vec<&str> = name.split('/').collect();
    if parts.len() > 2 {
        errors.push(Error::invalid(at.clone(), name, NOT_A_REQUEST));
        return;
    }
    for part in &parts {
        label_name(errors, at, part);
    }
    let found = match parts.as_slice() {
        [request, sub] => known.get(request).is_some_and(|subs| subs.contains(sub)),
        _ => known.contains_key(name),
    };
    if !found {
        errors.push(Error::invalid(at.clone(), name, NOT_A_REQUEST));
    }
}

/// `validateResourceClaimStatusUpdate`.
pub(super) fn status(object: &Object, old: &Object) -> ErrorList {
    let mut errors = ErrorList::new();
    let (status, before, at) = (object.at("status"), old.at("status"), Path::new("status"));
    let known = names(object.at("spec").at("devices"));
    let reserved = status.list("reservedFor");
    let to = at.child("reservedFor");
    if within(&mut errors, &to, reserved.len(), RESERVED_MAX) {
        for (i, consumer) in reserved.iter().enumerate() {
            for member in ["resource", "name", "uid"] {
                if consumer.count(member) == 0 {
                    errors.push(Error::required(to.index(i).child(member), ""));
                }
            }
        }
    }
    // Declarative validation: it comes last.
    let mut late = ErrorList::new();
    let uid = |consumer: &Value| consumer.text("uid").to_owned();
    if reserved.len() <= RESERVED_MAX && !same(status.at("reservedFor"), before.at("reservedFor")) {
        same_key(&mut late, &to, reserved, uid, "@io.k8s.api.resource.v1.ResourceClaimConsumerReference");
    }
    if !same(status.at("devices"), before.at("devices")) {
        let ty = "@io.k8s.api.resource.v1.AllocatedDeviceStatus";
        same_key(&mut late, &at.child("devices"), status.list("devices"), device_id, ty);
    }
    let allocation = status.at("allocation");
    let results = allocation.at("devices").list("results");
    for (i, one) in status.list("devices").iter().enumerate() {
        device(&mut errors, &at.child("devices").index(i), one, results);
    }
    if !reserved.is_empty() && allocation.is_null() {
        errors.push(Error::forbidden(to.clone(), "may not be specified when `allocated` is not set"));
    } else if object.is_deleting() && reserved.iter().any(|r| !before.list("reservedFor").contains(r)) {
        let text = "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set";
        errors.push(Error::forbidden(to, text));
    }
    if before.has("allocation") && !allocation.is_null() {
        if !same(allocation, before.at("allocation")) {
            // Declarative validation, which prints no structs and hides what the devices are then blamed for.
            errors.retain(|error| !error.detail.starts_with(NOT_ALLOCATED));
            let text = "field cannot be modified once set";
            errors.push(Error::invalid(at.child("allocation"), Value::Null, text));
        }
    } else if !allocation.is_null() {
        self::allocation(&mut errors, &at.child("allocation"), allocation, &known);
    }
    errors.extend(late);
    errors
}

/// What tells devices apart in a status and in an allocation.
pub(super) fn device_id(device: &Value) -> [String; 4] {
    ["driver", "pool", "device", "shareID"].map(|member| device.text(member).to_owned())
}

/// The statuses of devices that are no longer allocated go with them (`dropDeallocatedStatusDevices`).
pub(super) fn drop_deallocated(object: &mut Object, old: &Object) {
    let allocated = |object: &Object| -> Vec<_> {
        object.at("status").at("allocation").at("devices").list("results").iter().map(device_id).collect()
    };
    let (before, now) = (allocated(old), allocated(object));
    let Some(status) = existing(&mut object.0, "status") else { return };
    if let Some(Value::Array(devices)) = status.get_mut("devices") {
        devices.retain(|device| now.contains(&device_id(device)) || !before.contains(&device_id(device)));
        if devices.is_empty() {
            status.remove("devices");
        }
    }
}

/// Reports items that have an earlier one's name, whole as declarative validation prints them.
fn alike(errors: &mut ErrorList, at: &Path, items: &[Value], ty: &str) {
    same_key(errors, at, items, |item| item.text("name").to_owned(), ty);
}

fn same_key<K: PartialEq>(errors: &mut ErrorList, at: &Path, items: &[Value], key: impl Fn(&Value) -> K, ty: &str) {
    for (i, item) in items.iter().enumerate() {
        if items[..i].iter().any(|earlier| key(earlier) == key(item)) {
            errors.push(Error::duplicate(at.index(i), item.clone()).printed(ty));
        }
    }
}

/// `validateAllocationResult`.
fn allocation(errors: &mut ErrorList, at: &Path, allocation: &Value, known: &Names<'_>) {
    let (devices, to) = (allocation.at("devices"), at.child("devices"));
    if within(errors, &to.child("results"), devices.count("results"), MOST) {
        for (i, result) in devices.list("results").iter().enumerate() {
            let at = to.child("results").index(i);
            reference(errors, &at.child("request"), result.text("request"), known);
            driver(errors, &at.child("driver"), result.text("driver"));
            segments(errors, &at.child("pool"), result.text("pool"));
            label_name(errors, &at.child("device"), result.text("device"));
            share(errors, &at, result);
            binding(errors, &at, result);
            for (j, one) in result.list("tolerations").iter().enumerate() {
                toleration(errors, &at.child("tolerations").index(j), one);
            }
        }
    }
    if within(errors, &to.child("config"), devices.count("config"), 2 * MOST) {
        for (i, config) in devices.list("config").iter().enumerate() {
            let at = to.child("config").index(i);
            match config.text("source") {
                "FromClaim" | "FromClass" => {}
                "" => errors.push(Error::required(at.child("source"), "")),
                other => errors.push(Error::not_supported(at.child("source"), other, &["FromClaim", "FromClass"])),
            }
            references(errors, &at.child("requests"), config.list("requests"), known);
            configuration(errors, &at, config, false);
        }
    }
    if allocation.has("nodeSelector") {
        node_selector(errors, &at.child("nodeSelector"), allocation.at("nodeSelector"));
    }
}

const NOT_ALLOCATED: &str = "must be an allocated device in the claim";

/// Groups of lower-case hexadecimal digits.
fn is_uuid(text: &str) -> bool {
    let groups: Vec<&str> = text.split('-').collect();
    let digits = |group: &&str| group.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    groups.iter().map(|group| group.len()).eq([8, 4, 4, 4, 12]) && groups.iter().all(digits)
}

/// A pool's name as declarative validation words it (`validate.ResourcePoolName`).
fn segments(errors: &mut ErrorList, at: &Path, name: &str) {
    if name.split('/').all(|part| !part.is_empty()) || name.is_empty() {
        return pool(errors, at, name);
    }
    for (i, part) in name.split('/').enumerate() {
        let problems = match part {
            "" => vec!["must not be empty".to_owned()],
            part => api::validation::dns1123_subdomain(part, false),
        };
        errors.extend(problems.into_iter().map(|p| Error::invalid(at.clone(), name, format!("segment {i}: {p}"))));
    }
}

fn share(errors: &mut ErrorList, at: &Path, device: &Value) {
    if let Some(id) = device.at("shareID").as_str()
        && !is_uuid(id)
    {
        errors.push(Error::invalid(at.child("shareID"), id, "must be a lowercase UUID in 8-4-4-4-12 format"));
    }
}

/// `validateDeviceStatus`.
fn device(errors: &mut ErrorList, at: &Path, device: &Value, allocated: &[Value]) {
    crate::checks::csi_driver_name(errors, &at.child("driver"), device.text("driver"));
    pool(errors, &at.child("pool"), device.text("pool"));
    label_name(errors, &at.child("device"), device.text("device"));
    let alike =
        |result: &Value| ["driver", "pool", "device", "shareID"].iter().all(|m| result.text(m) == device.text(m));
    if !allocated.iter().any(alike) {
        let text = |member: &str| Value::from(device.text(member));
        let id = format!(
            "{{\"Driver\":{},\"Pool\":{},\"Device\":{},\"ShareID\":{}}}",
            text("driver"),
            text("pool"),
            text("device"),
            text("shareID")
        );
        errors.push(Error::invalid(at.clone(), Value::Null, NOT_ALLOCATED).showing(id));
    }
    share(errors, at, device);
    if device.count("conditions") > 8 {
        errors.push(Error::too_many(at.child("conditions"), device.count("conditions"), 8));
    }
    crate::conditions::validate_in_words(errors, &at.child("conditions"), device.list("conditions"));
    if device.has("data") {
        raw(errors, &at.child("data"), device.at("data"), false);
    }
    let (network, at) = (device.at("networkData"), at.child("networkData"));
    for (member, most) in [("interfaceName", 256), ("hardwareAddress", 128)] {
        if network.count(member) > most {
            errors.push(Error::too_long(at.child(member), most));
        }
    }
    if within(errors, &at.child("ips"), network.count("ips"), 16) {
        let texts: Vec<&str> = network.list("ips").iter().map(|v| v.as_str().unwrap_or_default()).collect();
        for (i, text) in texts.iter().enumerate() {
            errors.extend(api::validation::interface_address(&at.child("ips").index(i), text));
        }
        unique(errors, &at.child("ips"), &texts);
    }
}
