//! `metav1.Condition`s of a status (apimachinery's `pkg/apis/meta/v1/validation`, `ValidateConditions`).

use std::sync::LazyLock;

use api::field::{Error, ErrorList, Path};
use regex::Regex;
use serde_json::Value;

use crate::checks::{invalid_all, qualified_name};
use crate::json::Json;

const REASON: &str = "[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?";
const REASON_BYTES_MAX: usize = 1024;
const MESSAGE_BYTES_MAX: usize = 32 * 1024;

/// Checks a list of conditions.
pub(crate) fn validate(errors: &mut ErrorList, at: &Path, conditions: &[Value]) {
    let mut seen: Vec<&str> = Vec::new();
    for (i, condition) in conditions.iter().enumerate() {
        let (at, kind) = (at.index(i), condition.text("type"));
        if seen.contains(&kind) {
            errors.push(Error::duplicate(at.clone(), kind));
        }
        seen.push(kind);
        one(errors, &at, condition);
    }
}

/// [`validate`] of kinds without declarative validation, which says numbers in words.
pub(crate) fn validate_in_words(errors: &mut ErrorList, at: &Path, conditions: &[Value]) {
    let before = errors.len();
    validate(errors, at, conditions);
    for error in errors.iter_mut().skip(before) {
        error.detail = error.detail.replace("greater than or equal to 0", "greater than or equal to zero");
    }
}

fn one(errors: &mut ErrorList, at: &Path, condition: &Value) {
    match condition.text("type") {
        "" => errors.push(Error::required(at.child("type"), "is required")),
        kind => invalid_all(errors, &at.child("type"), kind, qualified_name(kind)),
    }
    match condition.text("status") {
        "" => errors.push(Error::required(at.child("status"), "")),
        "True" | "False" | "Unknown" => {}
        other => errors.push(Error::not_supported(at.child("status"), other, &["False", "True", "Unknown"])),
    }
    if let Some(generation) = condition.int("observedGeneration")
        && generation < 0
    {
        let text = "must be greater than or equal to 0";
        errors.push(Error::invalid(at.child("observedGeneration"), generation, text));
    }
    if !condition.has("lastTransitionTime") {
        errors.push(Error::required(at.child("lastTransitionTime"), ""));
    }
    let reason = condition.text("reason");
    if reason.is_empty() {
        errors.push(Error::required(at.child("reason"), ""));
    } else {
        if !is_reason(reason) {
            let message = "a condition reason must start with alphabetic character, optionally followed by a string of \
                alphanumeric characters or '_,:', and must end with an alphanumeric character or '_'";
            let examples = &["my_name", "MY_NAME", "MyName", "ReasonA,ReasonB", "ReasonA:ReasonB"];
            let text = api::validation::regex_error(message, REASON, examples);
            errors.push(Error::invalid(at.child("reason"), reason, text));
        }
        if reason.len() > REASON_BYTES_MAX {
            errors.push(Error::too_long(at.child("reason"), REASON_BYTES_MAX));
        }
    }
    if condition.count("message") > MESSAGE_BYTES_MAX {
        errors.push(Error::too_long(at.child("message"), MESSAGE_BYTES_MAX));
    }
}

fn is_reason(text: &str) -> bool {
    static FORM: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(&format!("^(?:{REASON})$")).ok());
    FORM.as_ref().is_some_and(|form| form.is_match(text))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn conditions_are_complete_and_there_once() {
        let check = |list: Value, want: &[&str]| {
            let mut errors = ErrorList::new();
            validate(&mut errors, &Path::new("c"), list.as_array().map_or(&[], Vec::as_slice));
            assert_eq!(errors.iter().map(ToString::to_string).collect::<Vec<_>>(), want);
        };
        let good =
            json!({"type": "A", "status": "True", "reason": "A:b", "lastTransitionTime": "2026-01-01T00:00:00Z"});
        check(json!([good]), &[]);
        check(json!([good, good]), &["c[1]: Duplicate value: \"A\""]);
        check(
            json!([{"type": "A", "status": "x", "reason": "R", "lastTransitionTime": "2026-01-01T00:00:00Z"}]),
            &["c[0].status: Unsupported value: \"x\": supported values: \"False\", \"True\", \"Unknown\""],
        );
    }
}
