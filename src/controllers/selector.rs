//! Label selectors on typed objects (apimachinery `pkg/labels`).

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

/// A label selector that was checked once and matches often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Selector {
    equal: Vec<(String, String)>,
    rest: Vec<Requirement>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Requirement {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    DoesNotExist(String),
}

impl Selector {
    /// `None` for an operator that does not exist (the API server admits none).
    pub(crate) fn new(selector: &LabelSelector) -> Option<Self> {
        let equal = selector.match_labels.iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect();
        let mut rest = Vec::new();
        for requirement in selector.match_expressions.iter().flatten() {
            let key = requirement.key.clone();
            let values = requirement.values.clone().unwrap_or_default();
            rest.push(match requirement.operator.as_str() {
                "In" => Requirement::In(key, values),
                "NotIn" => Requirement::NotIn(key, values),
                "Exists" => Requirement::Exists(key),
                "DoesNotExist" => Requirement::DoesNotExist(key),
                _ => return None,
            });
        }
        Some(Self { equal, rest })
    }

    /// A plain map, as services and replication controllers have it.
    pub(crate) fn from_map(map: &BTreeMap<String, String>) -> Self {
        Self { equal: map.iter().map(|(k, v)| (k.clone(), v.clone())).collect(), rest: Vec::new() }
    }

    /// Whether it matches everything.
    pub(crate) fn is_empty(&self) -> bool {
        self.equal.is_empty() && self.rest.is_empty()
    }

    pub(crate) fn matches(&self, labels: Option<&BTreeMap<String, String>>) -> bool {
        let get = |key: &str| labels.and_then(|labels| labels.get(key));
        self.equal.iter().all(|(key, value)| get(key) == Some(value))
            && self.rest.iter().all(|requirement| match requirement {
                Requirement::In(key, values) => get(key).is_some_and(|v| values.contains(v)),
                Requirement::NotIn(key, values) => get(key).is_none_or(|v| !values.contains(v)),
                Requirement::Exists(key) => get(key).is_some(),
                Requirement::DoesNotExist(key) => get(key).is_none(),
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn selectors_match_as_upstream() {
        let labels = BTreeMap::from([("app".to_owned(), "web".to_owned())]);
        let check = |selector: serde_json::Value, expected: bool| {
            let selector: LabelSelector = serde_json::from_value(selector).unwrap();
            assert_eq!(Selector::new(&selector).unwrap().matches(Some(&labels)), expected, "{selector:?}");
        };
        check(json!({}), true);
        check(json!({"matchLabels": {"app": "web"}}), true);
        check(json!({"matchLabels": {"app": "db"}}), false);
        check(json!({"matchExpressions": [{"key": "app", "operator": "In", "values": ["db", "web"]}]}), true);
        check(json!({"matchExpressions": [{"key": "tier", "operator": "NotIn", "values": ["x"]}]}), true);
        check(json!({"matchExpressions": [{"key": "app", "operator": "DoesNotExist"}]}), false);
        check(json!({"matchExpressions": [{"key": "app", "operator": "Exists"}]}), true);
    }
}
