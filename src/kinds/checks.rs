//! Field checks that push onto an error list, over the grammars of `api::validation`.

use api::field::{Error, ErrorList, Path};
use api::selector::LabelSelector;
use api::validation;
use serde_json::Value;

use crate::json::{Json, same};
use crate::printed::Printed;

pub(crate) use api::validation::{config_map_key as config_key, label_key as qualified_name, label_value, port_name};
pub(crate) use api::validation::{http_header_name as header_name, relaxed_env_var_name as env_name};

/// `field is immutable`
pub(crate) const IMMUTABLE: &str = "field is immutable";

/// One error for each text.
pub(crate) fn invalid_all(errors: &mut ErrorList, path: &Path, value: &str, texts: Vec<String>) {
    errors.extend(texts.into_iter().map(|text| Error::invalid(path.clone(), value, text)));
}

/// Reports a change of `new` against `old`.
pub(crate) fn immutable(errors: &mut ErrorList, path: Path, new: &Value, old: &Value) {
    if !same(new, old) {
        errors.push(Error::invalid(path, new.clone(), IMMUTABLE));
    }
}

/// Reports a change of a value that Go prints as one of the type `ty` (see [`crate::printed`]).
pub(crate) fn immutable_as(errors: &mut ErrorList, path: Path, ty: &str, new: &Value, old: &Value) {
    if !crate::printed::equal(ty, new, old) {
        errors.push(Error::invalid(path, new.clone(), IMMUTABLE).printed(ty));
    }
}

/// Reports a change as declarative validation does (`validate.Immutable`), whose error has no value.
pub(crate) fn immutable_hidden(errors: &mut ErrorList, path: Path, new: &Value, old: &Value) {
    if !same(new, old) {
        errors.push(Error::invalid(path, Value::Null, IMMUTABLE));
    }
}

/// Reports a negative number.
pub(crate) fn non_negative(errors: &mut ErrorList, path: Path, value: &Value) {
    if let Some(number) = value.as_i64() {
        errors.extend(validation::nonnegative(number, path));
    }
}

/// Reports a value that is not one of `supported`; an empty one is `Required`.
pub(crate) fn one_of(errors: &mut ErrorList, path: Path, value: &str, supported: &[&str]) {
    if value.is_empty() {
        errors.push(Error::required(path, ""));
    } else if !supported.contains(&value) {
        errors.push(Error::not_supported(path, value, supported));
    }
}

/// Reports a set value that is not one of `supported`.
pub(crate) fn one_of_if_set(errors: &mut ErrorList, path: Path, value: &Value, supported: &[&str]) {
    if let Some(value) = value.as_str()
        && !supported.contains(&value)
    {
        errors.push(Error::not_supported(path, value, supported));
    }
}

/// `ValidateLabels` of a map of labels.
pub(crate) fn labels(errors: &mut ErrorList, path: &Path, map: &Value) {
    errors.extend(validation::labels(Some(map), path));
}

/// `ValidateLabelSelector`.
pub(crate) fn label_selector(errors: &mut ErrorList, path: &Path, selector: &Value) {
    errors.extend(validation::label_selector(Some(selector), false, path));
}

/// Whether a label selector is null or selects everything.
pub(crate) fn selects_everything(selector: &Value) -> bool {
    selector.count("matchLabels") + selector.count("matchExpressions") == 0
}

/// Whether a `LabelSelector` matches labels. Null matches nothing, an empty one everything; an invalid one nothing.
pub(crate) fn selector_matches(selector: &Value, labels: &Value) -> bool {
    LabelSelector::from_object(selector)
        .is_ok_and(|selector| selector.matches(|key| labels.get(key).and_then(Value::as_str)))
}

/// Whether Go's `LabelSelectorAsSelector` makes a selector of it.
pub(crate) fn is_selector(selector: &Value) -> bool {
    LabelSelector::from_object(selector).is_ok()
}

/// `ValidateDNS1123Label` of a field.
pub(crate) fn label_name(errors: &mut ErrorList, path: &Path, value: &str) {
    invalid_all(errors, path, value, validation::dns1123_label(value, false));
}

/// `ValidateDNS1123Subdomain` of a field.
pub(crate) fn subdomain(errors: &mut ErrorList, path: &Path, value: &str) {
    invalid_all(errors, path, value, validation::dns1123_subdomain(value, false));
}

/// `ValidateCSIDriverName`: a subdomain in any case, of at most 63 bytes.
pub(crate) fn csi_driver_name(errors: &mut ErrorList, path: &Path, name: &str) {
    if name.is_empty() {
        errors.push(Error::required(path.clone(), ""));
        return;
    }
    if name.len() > 63 {
        errors.push(Error::too_long(path.clone(), 63));
    }
    invalid_all(errors, path, name, validation::dns1123_subdomain(&name.to_lowercase(), false));
}

/// A driver's name in the words of declarative validation, which takes letters of any case.
pub(crate) fn driver_name(errors: &mut ErrorList, path: &Path, name: &str) {
    if name.is_empty() {
        errors.push(Error::required(path.clone(), ""));
        return;
    }
    let texts = validation::dns1123_subdomain(&name.to_lowercase(), false).into_iter().map(|text| {
        text.replace(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric",
            "an RFC 1123 subdomain must consist of alphanumeric",
        )
        .replace("'example.com'", "'Example.com'")
        .replace("253 characters", "253 bytes")
    });
    invalid_all(errors, path, name, texts.collect());
    if name.chars().count() > 63 {
        // `MaxLength` counts characters.
        let mut error = Error::too_long(path.clone(), 63);
        error.detail = error.detail.replace("bytes", "characters");
        errors.push(error);
    }
}

/// `ValidateNodeName`.
pub(crate) fn node_name(errors: &mut ErrorList, path: &Path, name: &str) {
    subdomain(errors, path, name);
}

/// A name that can be part of a URL's path (`IsPathSegmentName`); an empty one is `Required`, or of no matter.
pub(crate) fn segment(errors: &mut ErrorList, path: &Path, name: &str, required: bool) {
    if !name.is_empty() {
        invalid_all(errors, path, name, validation::path_segment(name, false));
    } else if required {
        errors.push(Error::required(path.clone(), ""));
    }
}

/// `ValidateTemplateObjectMeta`: a template's metadata has labels and annotations, and nothing else.
pub(crate) fn template_meta(errors: &mut ErrorList, path: &Path, metadata: &Value) {
    errors.extend(api::meta::validate_annotations(metadata.get("annotations"), &path.child("annotations")));
    labels(errors, &path.child("labels"), metadata.at("labels"));
    for (member, value) in metadata.as_object().into_iter().flatten() {
        // An empty list is one: Go compares with the zero value of its field.
        let zero = value.is_null() || value.as_str() == Some("") || member == "generation" && value.as_i64() == Some(0);
        if zero || matches!(member.as_str(), "annotations" | "labels") {
            continue;
        }
        // Upstream takes the name of Go's field and lowers its first letter.
        let shown = if member == "uid" { "uID" } else { member };
        errors.push(Error::forbidden(path.child(shown), "cannot be set"));
    }
}

/// `IsDecremented` of a status' count of collisions.
pub(crate) fn not_decremented(errors: &mut ErrorList, object: &api::Object, old: &api::Object) {
    let (new, old) = (object.at("status").int("collisionCount"), old.at("status").int("collisionCount"));
    if old.is_some() && new.unwrap_or_default() < old.unwrap_or_default() || old.is_some() && new.is_none() {
        let at = Path::new("status").child("collisionCount");
        errors.push(Error::invalid(at, new.unwrap_or_default(), "cannot be decremented"));
    }
}

/// `IsValidPortNum`.
pub(crate) fn port_number(errors: &mut ErrorList, path: Path, port: i64) {
    errors.extend(validation::port_number(port).into_iter().map(|text| Error::invalid(path.clone(), port, text)));
}

/// `ValidatePortNumOrName`.
pub(crate) fn port(errors: &mut ErrorList, path: &Path, value: &Value) {
    match value {
        Value::String(name) => invalid_all(errors, path, name, port_name(name)),
        other => port_number(errors, path.clone(), other.as_i64().unwrap_or_default()),
    }
}

/// `IsValidIPForLegacyField`.
pub(crate) fn ip(errors: &mut ErrorList, path: Path, value: &str) {
    errors.extend(validation::ip_legacy(&path, value, &[]));
}

/// `IsValidCIDRForLegacyField`.
pub(crate) fn cidr(errors: &mut ErrorList, path: Path, value: &str) {
    errors.extend(validation::cidr_legacy(&path, value, &[]));
}

/// `validateLocalDescendingPath`: relative and without `..`.
pub(crate) fn descending_path(errors: &mut ErrorList, path: &Path, value: &str) {
    errors.extend(validation::local_descending_path(value, path));
}

/// `validatePathNoBacksteps`.
pub(crate) fn no_backsteps(errors: &mut ErrorList, path: &Path, value: &str) {
    errors.extend(validation::no_backsteps(value, path));
}

/// A whole percentage (`25%`) as a number.
pub(crate) fn percent(value: &Value) -> Option<i64> {
    value.as_str().and_then(validation::percent_value)
}

/// `getIntOrPercentValue`: what is neither counts as nothing.
pub(crate) fn count_or_percent(value: &Value) -> i64 {
    let number = || value.as_str().and_then(|text| text.parse().ok());
    value.as_i64().or_else(|| percent(value)).or_else(number).unwrap_or_default()
}

/// `ValidatePositiveIntOrPercent`.
pub(crate) fn int_or_percent(errors: &mut ErrorList, path: Path, value: &Value) {
    match value {
        Value::String(text) => invalid_all(errors, &path, text, validation::percent(text)),
        number => non_negative(errors, path, number),
    }
}

/// `IsNotMoreThan100Percent`.
pub(crate) fn at_most_100_percent(errors: &mut ErrorList, path: Path, value: &Value) {
    if percent(value).is_some_and(|p| p > 100) {
        errors.push(Error::invalid(path, value.clone(), "must not be greater than 100%"));
    }
}
