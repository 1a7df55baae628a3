//! Label selectors of typed objects as `api`'s checked ones.

use std::collections::BTreeMap;

use api::selector::{LabelRequirement, LabelSelector, Operator};
use client::k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector as Typed;

pub type Labels = BTreeMap<String, String>;

/// `metav1.LabelSelectorAsSelector`: none selects nothing, an empty one everything. One that is not valid (the API
/// server admits none) selects nothing.
pub fn selector(typed: Option<&Typed>) -> LabelSelector {
    let Some(typed) = typed else { return LabelSelector::nothing() };
    requirements(typed).map_or_else(LabelSelector::nothing, LabelSelector::new)
}

fn requirements(typed: &Typed) -> Option<Vec<LabelRequirement>> {
    let mut all = Vec::new();
    for (key, value) in typed.match_labels.iter().flatten() {
        all.push(LabelRequirement::new(key, Operator::Equals, vec![value.clone()]).ok()?);
    }
    for expression in typed.match_expressions.iter().flatten() {
        let operator = match expression.operator.as_str() {
            "In" => Operator::In,
            "NotIn" => Operator::NotIn,
            "Exists" => Operator::Exists,
            "DoesNotExist" => Operator::DoesNotExist,
            _ => return None,
        };
        let values = expression.values.clone().unwrap_or_default();
        all.push(LabelRequirement::new(&expression.key, operator, values).ok()?);
    }
    Some(all)
}

/// Both must hold.
pub fn and(a: &LabelSelector, b: &LabelSelector) -> LabelSelector {
    if a.is_nothing() || b.is_nothing() {
        return LabelSelector::nothing();
    }
    LabelSelector::new(a.requirements().iter().chain(b.requirements()).cloned().collect())
}

/// Exactly these labels.
pub fn from_labels(labels: &Labels) -> LabelSelector {
    LabelSelector::from_labels(labels.iter().map(|(key, value)| (key.as_str(), value.as_str())))
}

pub fn matches(selector: &LabelSelector, labels: Option<&Labels>) -> bool {
    selector.matches(|key| labels.and_then(|labels| labels.get(key)).map(String::as_str))
}
