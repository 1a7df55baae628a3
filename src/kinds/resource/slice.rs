//! Validation of what drivers say of their devices.

use std::sync::LazyLock;

use api::field::{Error, ErrorList, Path};
use regex::Regex;
use serde_json::Value;

use crate::checks::{csi_driver_name, immutable, label_name, node_name};
use crate::json::{Json, amount, same};
use crate::podspec::affinity::node_selector;
use crate::printed::Printed;

use super::devices::{binding, pool, qualified, taint, unique, within};

const DEVICES_MAX: usize = 128;
/// Most devices of a slice where some have taints or counters.
const DEVICES_WITH_MORE_MAX: usize = 64;
const ATTRIBUTES_MAX: usize = 32;
const COUNTERS_MAX: usize = 32;
const VALUE_BYTES_MAX: usize = 64;
const WHERE: &str = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";

/// `validateResourceSliceSpec`.
pub(super) fn spec(spec: &Value, old: Option<&Value>) -> ErrorList {
    let mut errors = ErrorList::new();
    let at = Path::new("spec");
    csi_driver_name(&mut errors, &at.child("driver"), spec.text("driver"));
    let (resource_pool, to) = (spec.at("pool"), at.child("pool"));
    pool(&mut errors, &to.child("name"), resource_pool.text("name"));
    let number = |member: &str| resource_pool.int(member).unwrap_or_default();
    if number("resourceSliceCount") <= 0 {
        let value = number("resourceSliceCount");
        errors.push(Error::invalid(to.child("resourceSliceCount"), value, "must be greater than zero"));
    }
    if number("generation") < 0 {
        let value = number("generation");
        errors.push(Error::invalid(to.child("generation"), value, "must be greater than or equal to zero"));
    }
    if let Some(old) = old {
        immutable(&mut errors, to.child("name"), resource_pool.at("name"), old.at("pool").at("name"));
        for member in ["driver", "nodeName"] {
            immutable(&mut errors, at.child(member), spec.at(member), old.at(member));
        }
    }
    place(&mut errors, &at, spec);
    if spec.has("sharedCounters") && spec.has("devices") {
        errors.push(Error::invalid(at.clone(), "", "only one of `sharedCounters` or `devices` is allowed"));
    }
    let devices = spec.list("devices");
    let more = devices.iter().any(|d| d.count("taints") + d.count("consumesCounters") > 0);
    if within(&mut errors, &at.child("devices"), devices.len(), if more { DEVICES_WITH_MORE_MAX } else { DEVICES_MAX })
    {
        for (i, one) in devices.iter().enumerate() {
            let before = old.and_then(|o| o.list("devices").iter().find(|d| d.text("name") == one.text("name")));
            device(&mut errors, &at.child("devices").index(i), one, before, spec.flag("perDeviceNodeSelection"));
        }
        unique(&mut errors, &at.child("devices"), &devices.iter().map(|d| d.text("name")).collect::<Vec<_>>());
    }
    let sets = spec.list("sharedCounters");
    if within(&mut errors, &at.child("sharedCounters"), sets.len(), 8) {
        for (i, set) in sets.iter().enumerate() {
            counters(&mut errors, &at.child("sharedCounters").index(i), set, "name");
        }
        for (i, set) in sets.iter().enumerate() {
            if sets[..i].iter().any(|earlier| earlier.text("name") == set.text("name")) {
                let error = Error::duplicate(at.child("sharedCounters").index(i), set.clone());
                errors.push(error.printed("@io.k8s.api.resource.v1.CounterSet"));
            }
        }
    }
    errors
}

fn place(errors: &mut ErrorList, at: &Path, spec: &Value) {
    let mut given = Vec::new();
    match spec.at("nodeName").as_str() {
        Some("") => {
            let text = "must be either unset or set to a non-empty string";
            errors.push(Error::invalid(at.child("nodeName"), "", text));
        }
        Some(name) => {
            given.push("`nodeName`");
            node_name(errors, &at.child("nodeName"), name);
        }
        None => {}
    }
    let selector = spec.at("nodeSelector");
    if selector.is_object() {
        given.push("`nodeSelector`");
        node_selector(errors, &at.child("nodeSelector"), selector);
        if selector.count("nodeSelectorTerms") != 1 {
            let at = at.child("nodeSelector").child("nodeSelectorTerms");
            let text = "must have exactly one node selector term";
            errors.push(Error::invalid(at, selector.at("nodeSelectorTerms").clone(), text));
        }
    }
    for (member, shown) in [("allNodes", "`allNodes`"), ("perDeviceNodeSelection", "`perDeviceNodeSelection`")] {
        match spec.at(member).as_bool() {
            Some(true) => given.push(shown),
            Some(false) => errors.push(Error::invalid(at.child(member), false, "must be either unset or set to true")),
            None => {}
        }
    }
    match given.len() {
        0 => errors.push(Error::required(at.clone(), WHERE)),
        1 => {}
        _ => {
            let text = format!("{WHERE}, but multiple fields are set");
            errors.push(Error::invalid(at.clone(), format!("{{{}}}", given.join(", ")), text));
        }
    }
}

/// `validateDevice`.
fn device(errors: &mut ErrorList, at: &Path, device: &Value, old: Option<&Value>, own_nodes: bool) {
    label_name(errors, &at.child("name"), device.text("name"));
    let entries = device.count("attributes") + device.count("capacity");
    if entries > ATTRIBUTES_MAX {
        let text = format!("the total number of attributes and capacities must not exceed {ATTRIBUTES_MAX}");
        errors.push(Error::invalid(at.clone(), entries, text));
    }
    for (name, value) in device.entries("attributes") {
        let at = at.child("attributes");
        qualified(errors, &at, name);
        attribute(errors, &at.key(name), value);
    }
    if old.is_none_or(|old| !same(old.at("capacity"), device.at("capacity"))) {
        for (name, value) in device.entries("capacity") {
            let at = at.child("capacity");
            qualified(errors, &at, name);
            capacity(errors, &at.key(name), value, device.flag("allowMultipleAllocations"));
        }
    }
    let taints = device.list("taints");
    let changed = old.is_none_or(|old| !same(old.at("taints"), device.at("taints")));
    if changed && within(errors, &at.child("taints"), taints.len(), 16) {
        for (i, one) in taints.iter().enumerate() {
            taint(errors, &at.child("taints").index(i), one, None);
        }
    }
    let consumed = device.list("consumesCounters");
    if within(errors, &at.child("consumesCounters"), consumed.len(), 2) {
        for (i, one) in consumed.iter().enumerate() {
            counters(errors, &at.child("consumesCounters").index(i), one, "counterSet");
        }
        let names: Vec<&str> = consumed.iter().map(|c| c.text("counterSet")).collect();
        unique(errors, &at.child("consumesCounters"), &names);
    }
    nodes(errors, at, device, own_nodes);
    binding(errors, at, device);
}

fn nodes(errors: &mut ErrorList, at: &Path, device: &Value, own_nodes: bool) {
    if !own_nodes {
        if ["nodeName", "nodeSelector", "allNodes"].iter().any(|member| device.has(member)) {
            let text = "`nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to \
                true in the ResourceSlice spec";
            errors.push(Error::invalid(at.clone(), Value::Null, text));
        }
        return;
    }
    let mut given = Vec::new();
    match device.at("nodeName").as_str() {
        Some("") => errors.push(Error::invalid(at.child("nodeName"), "", "must not be empty")),
        Some(name) => {
            given.push("`nodeName`");
            node_name(errors, &at.child("nodeName"), name);
        }
        None => {}
    }
    if device.has("nodeSelector") {
        given.push("`nodeSelector`");
        node_selector(errors, &at.child("nodeSelector"), device.at("nodeSelector"));
    }
    match device.at("allNodes").as_bool() {
        Some(true) => given.push("`allNodes`"),
        Some(false) => errors.push(Error::invalid(at.child("allNodes"), false, "must be either unset or set to true")),
        None => {}
    }
    let text = "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when `perDeviceNodeSelection` is set \
        to true in the ResourceSlice spec";
    match given.len() {
        0 => errors.push(Error::required(at.clone(), text)),
        1 => {}
        _ => errors.push(Error::invalid(at.clone(), format!("{{{}}}", given.join(", ")), text)),
    }
}

/// `validateDeviceAttribute`.
fn attribute(errors: &mut ErrorList, at: &Path, attribute: &Value) {
    const KINDS: [&str; 8] = ["int", "bool", "string", "version", "ints", "bools", "strings", "versions"];
    let long = |errors: &mut ErrorList, member: &str| {
        if attribute.count(member) > VALUE_BYTES_MAX {
            errors.push(Error::too_long(at.child(member), VALUE_BYTES_MAX));
        }
    };
    long(errors, "string");
    if let Some(version) = attribute.at("version").as_str() {
        if !is_semantic(version) {
            let text = "must be a string compatible with semver.org spec 2.0.0";
            errors.push(Error::invalid(at.child("version"), version, text));
        }
        long(errors, "version");
    }
    let given: Vec<&str> = KINDS.into_iter().filter(|kind| attribute.has(kind)).collect();
    let all = KINDS.map(|kind| format!("`{kind}`")).join(", ");
    match given.len() {
        0 => errors.push(Error::invalid(at.clone(), "", format!("must specify one of: {all}"))),
        1 => {}
        _ => {
            let value = format!("{{{}}}", given.join(", "));
            errors.push(Error::invalid(at.clone(), value, format!("must specify exactly one of: {all}")));
        }
    }
}

fn is_semantic(version: &str) -> bool {
    static FORM: LazyLock<Option<Regex>> = LazyLock::new(|| {
        let number = r"(0|[1-9]\d*)";
        let pre = r"(0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*)";
        let build = "[0-9a-zA-Z-]+";
        Regex::new(&format!(r"^{number}\.{number}\.{number}(-{pre}(\.{pre})*)?(\+{build}(\.{build})*)?$")).ok()
    });
    FORM.as_ref().is_some_and(|form| form.is_match(version))
}

/// `validateMultiAllocatableDeviceCapacity` and `validateSingleAllocatableDeviceCapacity`.
fn capacity(errors: &mut ErrorList, at: &Path, capacity: &Value, shared: bool) {
    let (policy, at) = (capacity.at("requestPolicy"), at.child("requestPolicy"));
    if policy.is_null() {
        return;
    }
    if !shared {
        errors.push(Error::forbidden(at, "allowMultipleAllocations must be true"));
        return;
    }
    let values = policy.list("validValues");
    let range = policy.at("validRange");
    if !values.is_empty() && range.is_object() {
        let text =
            "exactly one policy can be specified, cannot specify \"validValues\" and \"validRange\" at the same time";
        errors.push(Error::forbidden(at, text));
        return;
    }
    let kind = if !values.is_empty() { "validValues" } else { "validRange" };
    if values.is_empty() && !range.is_object() {
        return;
    }
    let default = policy.at("default");
    if default.is_null() {
        errors.push(Error::required(at.child("default"), format!("required when {kind} is defined")));
        return;
    }
    let whole = capacity.at("value");
    if kind == "validValues" {
        listed(errors, &at.child(kind), (default, whole), values);
    } else {
        self::range(errors, &at.child(kind), (default, whole), range);
    }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// `validateRequestPolicyValidValues` of a default and the whole capacity.
fn listed(errors: &mut ErrorList, at: &Path, (default, whole): (&Value, &Value), values: &[Value]) {
    for (i, pair) in values.windows(2).enumerate() {
        if amount(&pair[0]) > amount(&pair[1]) {
            let text = "values must be sorted in ascending order";
            errors.push(Error::invalid(at.index(i + 1), plain(&pair[1]), text));
        }
    }
    if !within(errors, at, values.len(), 10) {
        return;
    }
    for (i, value) in values.iter().enumerate() {
        if amount(value) > amount(whole) {
            let text = format!("option is larger than capacity value: {}", plain(whole));
            errors.push(Error::invalid(at.index(i), plain(value), text));
        }
        if values[..i].iter().any(|earlier| amount(earlier) == amount(value)) {
            errors.push(Error::duplicate(at.index(i), plain(value)));
        }
    }
    if !values.iter().any(|value| amount(value) == amount(default)) {
        let text = "default value is not valid according to the requestPolicy";
        errors.push(Error::invalid(at.clone(), plain(default), text));
    }
}

/// `validateRequestPolicyRange` of a default and the whole capacity.
fn range(errors: &mut ErrorList, at: &Path, (default, whole): (&Value, &Value), range: &Value) {
    let (low, high) = (range.at("min"), range.at("max"));
    if low.is_null() {
        errors.push(Error::required(at.child("min"), "required when validRange is defined"));
        return;
    }
    let mut wrong = |member: &str, value: &Value, text: String| {
        errors.push(Error::invalid(at.child(member), plain(value), text));
    };
    if amount(low) > amount(whole) {
        wrong("min", low, format!("min is larger than capacity value: {}", plain(whole)));
    }
    if amount(default) < amount(low) {
        wrong("default", default, format!("default is less than min: {}", plain(low)));
    }
    if !high.is_null() {
        if amount(low) > amount(high) {
            wrong("max", low, format!("min is larger than max: {}", plain(high)));
        }
        if amount(high) > amount(whole) {
            wrong("max", high, format!("max is larger than capacity value: {}", plain(whole)));
        }
        if amount(default) > amount(high) {
            wrong("default", default, format!("default is more than max: {}", plain(high)));
        }
    }
    let step = range.at("step");
    if !step.is_null() && amount(step).sign() <= 0 {
        wrong("step", step, "must be greater than zero".to_owned());
    } else if !step.is_null() {
        let (from, width) = (amount(low).value(), amount(step).value());
        for value in [default, high].into_iter().filter(|v| !v.is_null()) {
            if width > 0 && (amount(value).value() - from) % width != 0 {
                let text = format!("value is not a multiple of a given step ({}) from ({})", plain(step), plain(low));
                wrong("step", value, text);
            }
        }
    }
}

/// `validateCounterSet` and `validateDeviceCounterConsumption`; `name` is the member that names the set.
fn counters(errors: &mut ErrorList, at: &Path, set: &Value, name: &str) {
    match set.text(name) {
        "" => errors.push(Error::required(at.child(name), "")),
        text => short_name(errors, &at.child(name), text),
    }
    let to = at.child("counters");
    if set.count("counters") == 0 {
        errors.push(Error::required(to, ""));
    } else if within(errors, &to, set.count("counters"), COUNTERS_MAX) {
        for (key, _) in set.entries("counters") {
            short_name(errors, &to, key);
        }
    }
}

/// `validate.ShortName`: a label, whose length is told in bytes.
fn short_name(errors: &mut ErrorList, at: &Path, name: &str) {
    let (told, bytes) = (api::validation::max_len_error(63), "must be no more than 63 bytes".to_owned());
    let problems = api::validation::dns1123_label(name, false);
    let problems = problems.into_iter().map(|problem| if problem == told { bytes.clone() } else { problem });
    errors.extend(problems.map(|problem| Error::invalid(at.clone(), name, problem)));
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn slices_are_checked_as_upstream_does() {
        let check = |change: Value, want: &[&str]| {
            let mut body = json!({"driver": "d.example.com", "nodeName": "n", "pool": {"name": "p", "generation": 1, "resourceSliceCount": 1}});
            body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
            let texts: Vec<String> = spec(&body, None).iter().map(ToString::to_string).collect();
            assert_eq!(texts, want);
        };
        check(json!({}), &[]);
        let long = "x".repeat(64);
        let text = format!("sharedCounters[0].name: Invalid value: \"{long}\": must be no more than 63 bytes");
        check(
            json!({"sharedCounters": [{"name": long, "counters": {"a": {"value": "1"}}}]}),
            &[&format!("spec.{text}")],
        );
        check(
            json!({"devices": [{"name": "d", "attributes": {"v": {"version": "9"}}}]}),
            &[
                "spec.devices[0].attributes[v].version: Invalid value: \"9\": must be a string compatible with semver.org spec 2.0.0",
            ],
        );
        check(
            json!({"allNodes": true}),
            &[
                "spec: Invalid value: \"{`nodeName`, `allNodes`}\": exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required, but multiple fields are set",
            ],
        );
    }
}
