//! Validation of what decides where a pod goes: affinity, tolerations, spread.

use api::field::{Error, ErrorList, Path};
use api::validation::{dns1123_label, dns1123_subdomain};
use serde_json::Value;

use crate::checks::{invalid_all, label_selector, label_value, qualified_name};
use crate::json::Json;

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
const EFFECTS: &[&str] = &["NoSchedule", "PreferNoSchedule", "NoExecute"];

/// `validateAffinity`.
pub(crate) fn affinity(errors: &mut ErrorList, path: &Path, affinity: &Value) {
    let node = affinity.at("nodeAffinity");
    if node.has(REQUIRED) {
        node_selector(errors, &path.child("nodeAffinity").child(REQUIRED), node.at(REQUIRED));
    }
    for (i, term) in node.list(PREFERRED).iter().enumerate() {
        let at = path.child("nodeAffinity").child(PREFERRED).index(i);
        weight(errors, at.child("weight"), term);
        node_selector_term(errors, &at.child("preference"), term.at("preference"), false);
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        let body = affinity.at(kind);
        for (i, term) in body.list(REQUIRED).iter().enumerate() {
            pod_term(errors, &path.child(kind).child(REQUIRED).index(i), term);
        }
        for (i, term) in body.list(PREFERRED).iter().enumerate() {
            let at = path.child(kind).child(PREFERRED).index(i);
            weight(errors, at.child("weight"), term);
            pod_term(errors, &at.child("podAffinityTerm"), term.at("podAffinityTerm"));
        }
    }
}

fn weight(errors: &mut ErrorList, path: Path, term: &Value) {
    let weight = term.int("weight").unwrap_or_default();
    if !(1..=100).contains(&weight) {
        errors.push(Error::invalid(path, weight, "must be in the range 1-100"));
    }
}

/// `ValidateNodeSelector`.
pub(crate) fn node_selector(errors: &mut ErrorList, path: &Path, selector: &Value) {
    let at = path.child("nodeSelectorTerms");
    if selector.count("nodeSelectorTerms") == 0 {
        errors.push(Error::required(at, "must have at least one node selector term"));
        return;
    }
    for (i, term) in selector.list("nodeSelectorTerms").iter().enumerate() {
        node_selector_term(errors, &at.index(i), term, true);
    }
}

fn node_selector_term(errors: &mut ErrorList, path: &Path, term: &Value, check_values: bool) {
    for (i, requirement) in term.list("matchExpressions").iter().enumerate() {
        let at = path.child("matchExpressions").index(i);
        let count = requirement.count("values");
        let values = at.child("values");
        match requirement.text("operator") {
            "In" | "NotIn" if count == 0 => {
                errors.push(Error::required(values, "must be specified when `operator` is 'In' or 'NotIn'"));
            }
            "Exists" | "DoesNotExist" if count > 0 => {
                let text = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                errors.push(Error::forbidden(values, text));
            }
            "Gt" | "Lt" if count != 1 => {
                let text = "must be specified single value when `operator` is 'Lt' or 'Gt'";
                errors.push(Error::required(values, text));
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
            other => errors.push(Error::invalid(at.child("operator"), other, "not a valid selector operator")),
        }
        let key = requirement.text("key");
        invalid_all(errors, &at.child("key"), key, qualified_name(key));
        if check_values {
            for (j, value) in requirement.list("values").iter().enumerate() {
                let value = value.as_str().unwrap_or_default();
                invalid_all(errors, &at.child("values").index(j), value, label_value(value));
            }
        }
    }
    for (i, requirement) in term.list("matchFields").iter().enumerate() {
        let at = path.child("matchFields").index(i);
        match requirement.text("operator") {
            "In" | "NotIn" => {
                if requirement.count("values") != 1 {
                    let text = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
                    errors.push(Error::required(at.child("values"), text));
                }
            }
            other => errors.push(Error::invalid(at.child("operator"), other, "not a valid selector operator")),
        }
        match requirement.text("key") {
            "metadata.name" => {
                for (j, value) in requirement.list("values").iter().enumerate() {
                    let value = value.as_str().unwrap_or_default();
                    invalid_all(errors, &at.child("values").index(j), value, dns1123_subdomain(value, false));
                }
            }
            other => errors.push(Error::invalid(at.child("key"), other, "not a valid field selector key")),
        }
    }
}

fn pod_term(errors: &mut ErrorList, path: &Path, term: &Value) {
    label_selector(errors, &path.child("labelSelector"), term.at("labelSelector"));
    label_selector(errors, &path.child("namespaceSelector"), term.at("namespaceSelector"));
    for name in term.list("namespaces") {
        let name = name.as_str().unwrap_or_default();
        invalid_all(errors, &path.child("namespace"), name, dns1123_label(name, false));
    }
    label_keys(errors, path, term);
    let key = term.text("topologyKey");
    if key.is_empty() {
        errors.push(Error::required(path.child("topologyKey"), "can not be empty"));
    }
    invalid_all(errors, &path.child("topologyKey"), key, qualified_name(key));
}

/// `matchLabelKeys` and `mismatchLabelKeys`, which need a selector (`ValidateMatchLabelKeysAndMismatchLabelKeys`).
fn label_keys(errors: &mut ErrorList, path: &Path, term: &Value) {
    for member in ["matchLabelKeys", "mismatchLabelKeys"] {
        if term.count(member) > 0 && !term.has("labelSelector") {
            errors.push(Error::forbidden(path.child(member), "must not be specified when labelSelector is not set"));
            continue;
        }
        for (i, key) in term.list(member).iter().enumerate() {
            let key = key.as_str().unwrap_or_default();
            invalid_all(errors, &path.child(member).index(i), key, qualified_name(key));
        }
    }
    // What these keys demand stands in the selector already, so a key that is there twice was given in both.
    let (keys, selector) = (term.list("matchLabelKeys"), term.at("labelSelector"));
    let mut selected: Vec<&str> = selector.entries("matchLabels").map(|(key, _)| key).collect();
    for expression in selector.list("matchExpressions") {
        let key = expression.text("key");
        if let Some(i) = keys.iter().rposition(|k| k.as_str() == Some(key))
            && selected.contains(&key)
        {
            // Upstream's index stands behind the term itself.
            let error = Error::invalid(path.index(i), key, "exists in both matchLabelKeys and labelSelector");
            errors.push(error);
        }
        selected.push(key);
    }
    for (i, key) in keys.iter().enumerate().filter(|(_, key)| term.list("mismatchLabelKeys").contains(key)) {
        let (at, key) = (path.child("matchLabelKeys").index(i), key.as_str().unwrap_or_default());
        errors.push(Error::invalid(at, key, "exists in both matchLabelKeys and mismatchLabelKeys"));
    }
}

/// `ValidateTolerations`.
pub(crate) fn tolerations(errors: &mut ErrorList, path: &Path, list: &[Value]) {
    for (i, toleration) in list.iter().enumerate() {
        let at = path.index(i);
        let (key, operator) = (toleration.text("key"), toleration.text("operator"));
        let (value, effect) = (toleration.text("value"), toleration.text("effect"));
        if !key.is_empty() {
            invalid_all(errors, &at.child("key"), key, qualified_name(key));
        } else if operator != "Exists" {
            let text = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            errors.push(Error::invalid(at.child("operator"), operator, text));
        }
        if toleration.has("tolerationSeconds") && effect != "NoExecute" {
            let text = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            errors.push(Error::invalid(at.child("effect"), effect, text));
        }
        match operator {
            "Equal" | "" => {
                let problems = label_value(value);
                if !problems.is_empty() {
                    errors.push(Error::invalid(at.child("operator"), value, problems.join(";")));
                }
            }
            "Exists" => {
                if !value.is_empty() {
                    let text = "value must be empty when `operator` is 'Exists'";
                    errors.push(Error::invalid(at.child("operator"), value, text));
                }
            }
            // Comparison is off (`TaintTolerationComparisonOperators`).
            "Lt" | "Gt" => {
                let known = &["Equal", "Exists", "Lt", "Gt"];
                errors.push(Error::not_supported(at.child("operator"), operator, known));
            }
            other => errors.push(Error::not_supported(at.child("operator"), other, &["Equal", "Exists"])),
        }
        if !effect.is_empty() && !EFFECTS.contains(&effect) {
            errors.push(Error::not_supported(at.child("effect"), effect, EFFECTS));
        }
    }
}

/// `validateTopologySpreadConstraints`.
pub(crate) fn spread(errors: &mut ErrorList, path: &Path, list: &[Value]) {
    for (i, constraint) in list.iter().enumerate() {
        let at = path.index(i);
        let skew = constraint.int("maxSkew").unwrap_or_default();
        if skew <= 0 {
            errors.push(Error::invalid(at.child("maxSkew"), skew, "must be greater than zero"));
        }
        let (key, action) = (constraint.text("topologyKey"), constraint.text("whenUnsatisfiable"));
        if key.is_empty() {
            errors.push(Error::required(at.child("topologyKey"), "can not be empty"));
        }
        let supported = &["DoNotSchedule", "ScheduleAnyway"];
        if !supported.contains(&action) {
            errors.push(Error::not_supported(at.child("whenUnsatisfiable"), action, supported));
        }
        let repeats = |other: &Value| other.text("topologyKey") == key && other.text("whenUnsatisfiable") == action;
        if list[i + 1..].iter().any(repeats) {
            let value = format!("{{{key}, {action}}}");
            errors.push(Error::duplicate(at.child("{topologyKey, whenUnsatisfiable}"), value));
        }
        if let Some(domains) = constraint.int("minDomains") {
            if domains <= 0 {
                errors.push(Error::invalid(at.child("minDomains"), domains, "must be greater than zero"));
            }
            if action != "DoNotSchedule" {
                let text = format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}");
                errors.push(Error::invalid(at.child("minDomains"), domains, text));
            }
        }
        for member in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            if constraint.has(member) && !matches!(constraint.text(member), "Ignore" | "Honor") {
                errors.push(Error::not_supported(at.child(member), constraint.text(member), &["Honor", "Ignore"]));
            }
        }
        label_keys(errors, &at, constraint);
        label_selector(errors, &at.child("labelSelector"), constraint.at("labelSelector"));
    }
}
