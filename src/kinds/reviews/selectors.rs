//! The selectors of access reviews (`pkg/apis/authorization/validation`, `pkg/registry/authorization/util/helpers.go`).

use api::field::{Error, ErrorList, Path};
use api::selector::{FieldSelector, LabelRequirement, LabelSelector, Operator};
use serde_json::Value;

use crate::json::Json;

/// `validateFieldSelectorAttributes` and `validateLabelSelectorAttributes`.
pub(super) fn validate(resource: &Value, at: &Path, errors: &mut ErrorList) {
    for (member, labels) in [("fieldSelector", false), ("labelSelector", true)] {
        let (selector, at) = (resource.at(member), at.child(member));
        if selector.is_null() {
            continue;
        }
        let (raw, requirements) = (selector.text("rawSelector"), selector.list("requirements"));
        if !raw.is_empty() && !requirements.is_empty() {
            let text = "may not specified at the same time as requirements";
            errors.push(Error::invalid(at.child("rawSelector"), raw, text));
        }
        if raw.is_empty() && requirements.is_empty() {
            let text = format!("when {at} is specified, requirements or rawSelector is required");
            errors.push(Error::required(at.child("requirements"), text));
        }
        for (index, requirement) in requirements.iter().enumerate() {
            validate_requirement(requirement, labels, &at.child("requirements").index(index), errors);
        }
    }
}

fn validate_requirement(requirement: &Value, labels: bool, at: &Path, errors: &mut ErrorList) {
    let (key, values) = (requirement.text("key"), requirement.list("values"));
    if !labels && key.is_empty() {
        errors.push(Error::required(at.child("key"), "must be specified"));
    }
    match requirement.text("operator") {
        "In" | "NotIn" if values.is_empty() => {
            let text = "must be specified when `operator` is 'In' or 'NotIn'";
            errors.push(Error::required(at.child("values"), text));
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            let text = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
            errors.push(Error::forbidden(at.child("values"), text));
        }
        // Newer clients may know more operators.
        _ => {}
    }
    if labels {
        let key_errors = api::validation::label_key(key).into_iter();
        errors.extend(key_errors.map(|text| Error::invalid(at.child("key"), key, text)));
        for (index, value) in values.iter().filter_map(Value::as_str).enumerate() {
            let value_errors = api::validation::label_value(value).into_iter();
            errors.extend(value_errors.map(|text| Error::invalid(at.child("values").index(index), value, text)));
        }
    }
}

/// The text of a selector, and whether some or all of it cannot be read. What cannot be read is left out: the question
/// is then about more than was meant.
pub(super) struct Text {
    pub selector: String,
    pub unread: bool,
}

impl Text {
    /// What is told of a selector that could not be read as a whole (`BuildEvaluationError`).
    pub fn error(&self, member: &str) -> Option<String> {
        let how = if self.selector.is_empty() { "ignored" } else { "partially ignored" };
        self.unread.then(|| format!("spec.resourceAttributes.{member} {how} due to parse error"))
    }
}

pub(super) fn field_text(resource: &Value) -> Text {
    let selector = resource.at("fieldSelector");
    let requirements = selector.list("requirements");
    if requirements.is_empty() {
        let raw = selector.text("rawSelector");
        return match FieldSelector::parse(raw) {
            Ok(_) => Text { selector: raw.to_owned(), unread: false },
            Err(_) => Text { selector: String::new(), unread: true },
        };
    }
    let one = |requirement: &Value| -> Option<String> {
        let [value] = requirement.list("values") else { return None };
        let equal = FieldSelector::equal(requirement.text("key"), value.as_str()?).to_string();
        match requirement.text("operator") {
            "In" => Some(equal),
            "NotIn" => equal.split_once('=').map(|(key, value)| format!("{key}!={value}")),
            _ => None,
        }
    };
    joined(requirements, one)
}

pub(super) fn label_text(resource: &Value) -> Text {
    let selector = resource.at("labelSelector");
    let requirements = selector.list("requirements");
    if requirements.is_empty() {
        let raw = selector.text("rawSelector");
        return match LabelSelector::parse(raw) {
            Ok(_) => Text { selector: raw.to_owned(), unread: false },
            Err(_) => Text { selector: String::new(), unread: true },
        };
    }
    let one = |requirement: &Value| -> Option<String> {
        let operator = match requirement.text("operator") {
            "In" => Operator::In,
            "NotIn" => Operator::NotIn,
            "Exists" => Operator::Exists,
            "DoesNotExist" => Operator::DoesNotExist,
            _ => return None,
        };
        let values = requirement.list("values").iter().filter_map(Value::as_str).map(str::to_owned).collect();
        let requirement = LabelRequirement::new(requirement.text("key"), operator, values).ok()?;
        Some(LabelSelector::new(vec![requirement]).to_string())
    };
    joined(requirements, one)
}

fn joined(requirements: &[Value], one: impl Fn(&Value) -> Option<String>) -> Text {
    let read: Vec<String> = requirements.iter().filter_map(one).collect();
    Text { unread: read.len() < requirements.len(), selector: read.join(",") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn selectors_become_text() {
        let check = |resource: Value, field: (&str, bool), label: (&str, bool)| {
            let (f, l) = (field_text(&resource), label_text(&resource));
            assert_eq!((f.selector.as_str(), f.unread), field, "{resource}");
            assert_eq!((l.selector.as_str(), l.unread), label, "{resource}");
        };
        check(json!({}), ("", false), ("", false));
        check(
            json!({"fieldSelector": {"rawSelector": "a=b"}, "labelSelector": {"rawSelector": "&"}}),
            ("a=b", false),
            ("", true),
        );
        check(
            json!({
                "fieldSelector": {"requirements": [
                    {"key": "a", "operator": "In", "values": ["x,y"]}, {"key": "b", "operator": "NotIn", "values": ["z"]},
                    {"key": "c", "operator": "Exists"},
                ]},
                "labelSelector": {"requirements": [
                    {"key": "a", "operator": "In", "values": ["x", "y"]}, {"key": "b", "operator": "DoesNotExist"},
                ]},
            }),
            ("a=x\\,y,b!=z", true),
            ("a in (x,y),!b", false),
        );
    }

    #[test]
    fn selectors_are_checked() {
        let check = |resource: Value, want: &[&str]| {
            let mut errors = ErrorList::new();
            validate(&resource, &Path::new("spec.resourceAttributes"), &mut errors);
            assert_eq!(errors.iter().map(|e| e.path.to_string()).collect::<Vec<_>>(), want, "{resource}");
        };
        check(json!({"fieldSelector": {"rawSelector": "a=b"}}), &[]);
        check(json!({"labelSelector": {}}), &["spec.resourceAttributes.labelSelector.requirements"]);
        check(
            json!({"fieldSelector": {"rawSelector": "a", "requirements": [{"key": "a", "operator": "In"}]}}),
            &[
                "spec.resourceAttributes.fieldSelector.rawSelector",
                "spec.resourceAttributes.fieldSelector.requirements[0].values",
            ],
        );
    }
}
