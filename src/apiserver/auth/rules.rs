//! RBAC policy rules (`rbac.authorization.k8s.io/v1` `PolicyRule`) and how they match
//! (upstream `pkg/apis/rbac/v1/evaluation_helpers.go`).

use api::services::AuthorizationAttributes;
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PolicyRule {
    pub verbs: Vec<String>,
    pub api_groups: Vec<String>,
    pub resources: Vec<String>,
    pub resource_names: Vec<String>,
    #[serde(rename = "nonResourceURLs")]
    pub non_resource_urls: Vec<String>,
}

const ALL: &str = "*";

impl PolicyRule {
    pub fn allows(&self, request: &AuthorizationAttributes) -> bool {
        if !has(&self.verbs, &request.verb) {
            return false;
        }
        if request.is_resource {
            has(&self.api_groups, &request.group) && self.names_resource(request) && self.names_object(&request.name)
        } else {
            self.non_resource_urls.iter().any(|pattern| url_matches(pattern, &request.path))
        }
    }

    fn names_resource(&self, request: &AuthorizationAttributes) -> bool {
        let AuthorizationAttributes { resource, subresource, .. } = request;
        self.resources.iter().any(|rule| {
            if rule == ALL {
                return true;
            }
            if subresource.is_empty() {
                return rule == resource;
            }
            match rule.split_once('/') {
                Some((rule_resource, rule_subresource)) => {
                    (rule_resource == resource || rule_resource == ALL) && rule_subresource == subresource
                }
                None => false,
            }
        })
    }

    fn names_object(&self, name: &str) -> bool {
        self.resource_names.is_empty() || self.resource_names.iter().any(|n| n == name)
    }

    /// As an item of `SelfSubjectRulesReview.status`: whether it is a resource rule, and the rule.
    pub fn review(&self) -> (bool, Value) {
        if self.resources.is_empty() {
            return (false, json!({"verbs": self.verbs, "nonResourceURLs": self.non_resource_urls}));
        }
        let mut rule = json!({"verbs": self.verbs, "apiGroups": self.api_groups, "resources": self.resources});
        if !self.resource_names.is_empty() {
            rule["resourceNames"] = self.resource_names.clone().into();
        }
        (true, rule)
    }
}

fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|item| item == ALL || item == wanted)
}

fn url_matches(pattern: &str, path: &str) -> bool {
    pattern == ALL
        || pattern == path
        || pattern.strip_suffix(ALL).is_some_and(|_| path.starts_with(pattern.trim_end_matches(ALL)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(value: Value) -> PolicyRule {
        serde_json::from_value(value).unwrap()
    }

    fn request(verb: &str, resource: &str, subresource: &str, name: &str) -> AuthorizationAttributes {
        AuthorizationAttributes {
            verb: verb.into(),
            is_resource: true,
            resource: resource.into(),
            subresource: subresource.into(),
            name: name.into(),
            ..AuthorizationAttributes::default()
        }
    }

    #[test]
    fn subresources_need_their_own_rule() {
        let rule = rule(json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods", "*/scale"]}));
        assert!(rule.allows(&request("get", "pods", "", "a")));
        assert!(!rule.allows(&request("get", "pods", "log", "a")));
        assert!(rule.allows(&request("get", "deployments", "scale", "a")));
        assert!(!rule.allows(&request("list", "pods", "", "")));
    }

    #[test]
    fn resource_names_limit_to_named_objects() {
        let rule = rule(json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "resourceNames": ["one"]}));
        assert!(rule.allows(&request("get", "pods", "", "one")));
        assert!(!rule.allows(&request("get", "pods", "", "two")));
        assert!(!rule.allows(&request("create", "pods", "", "")));
    }

    #[test]
    fn urls_match_by_prefix_only_with_a_star() {
        let rule = rule(json!({"verbs": ["get"], "nonResourceURLs": ["/healthz", "/api/*"]}));
        let url = |path: &str| AuthorizationAttributes {
            verb: "get".into(),
            path: path.into(),
            ..AuthorizationAttributes::default()
        };
        assert!(rule.allows(&url("/healthz")));
        assert!(!rule.allows(&url("/healthz/ping")));
        assert!(rule.allows(&url("/api/v1")));
        assert!(!rule.allows(&url("/apis")));
    }
}
