//! Which flow a request belongs to (apiserver `util/flowcontrol/rule.go`).

use std::sync::Arc;

use api::{Object, UserInfo};
use serde_json::Value;

use super::level::Level;
use super::metrics::Counters;
use crate::request::RequestInfo;

/// One FlowSchema with the priority level that it leads to.
pub(crate) struct Schema {
    pub name: Arc<str>,
    pub uid: Arc<str>,
    /// Lower comes first.
    pub precedence: i64,
    rules: Vec<Rule>,
    distinguisher: Distinguisher,
    pub level: Arc<Level>,
    /// Of the level's object now: it may have been made anew.
    pub level_uid: Arc<str>,
    pub counters: Arc<Counters>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Distinguisher {
    None,
    ByUser,
    ByNamespace,
}

struct Rule {
    subjects: Vec<Subject>,
    resources: Vec<ResourceRule>,
    urls: Vec<UrlRule>,
}

enum Subject {
    User(String),
    Group(String),
    /// Namespace and name.
    ServiceAccount(String, String),
}

struct ResourceRule {
    verbs: Vec<String>,
    groups: Vec<String>,
    resources: Vec<String>,
    namespaces: Vec<String>,
    cluster_scope: bool,
}

struct UrlRule {
    verbs: Vec<String>,
    urls: Vec<String>,
}

fn text(value: &Value, member: &str) -> String {
    value.get(member).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn list<'v>(value: &'v Value, member: &str) -> &'v [Value] {
    value.get(member).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn texts(value: &Value, member: &str) -> Vec<String> {
    list(value, member).iter().filter_map(Value::as_str).map(ToOwned::to_owned).collect()
}

fn holds(list: &[String], wanted: &str) -> bool {
    list.iter().any(|item| item == "*" || item == wanted)
}

impl Schema {
    /// Reads a FlowSchema.
    pub fn of(object: &Object, level: Arc<Level>, level_uid: Arc<str>, counters: Arc<Counters>) -> Self {
        let distinguisher = match object.str(&["spec", "distinguisherMethod", "type"]) {
            Some("ByUser") => Distinguisher::ByUser,
            Some("ByNamespace") => Distinguisher::ByNamespace,
            _ => Distinguisher::None,
        };
        Self {
            name: object.name().into(),
            uid: object.uid().into(),
            precedence: object.i64(&["spec", "matchingPrecedence"]).unwrap_or(1000),
            rules: object.array(&["spec", "rules"]).iter().map(Rule::of).collect(),
            distinguisher,
            level,
            level_uid,
            counters,
        }
    }

    pub fn matches(&self, info: &RequestInfo, user: &UserInfo) -> bool {
        self.rules.iter().any(|rule| rule.matches(info, user))
    }

    /// What tells this flow from others of the schema.
    pub fn distinguisher<'r>(&self, info: &'r RequestInfo, user: &'r UserInfo) -> &'r str {
        match self.distinguisher {
            Distinguisher::None => "",
            Distinguisher::ByUser => &user.name,
            Distinguisher::ByNamespace => &info.namespace,
        }
    }
}

impl Rule {
    fn of(value: &Value) -> Self {
        let resources = list(value, "resourceRules").iter().map(|rule| ResourceRule {
            verbs: texts(rule, "verbs"),
            groups: texts(rule, "apiGroups"),
            resources: texts(rule, "resources"),
            namespaces: texts(rule, "namespaces"),
            cluster_scope: rule.get("clusterScope").and_then(Value::as_bool).unwrap_or_default(),
        });
        let urls = list(value, "nonResourceRules").iter();
        Self {
            subjects: list(value, "subjects").iter().filter_map(Subject::of).collect(),
            resources: resources.collect(),
            urls: urls
                .map(|rule| UrlRule { verbs: texts(rule, "verbs"), urls: texts(rule, "nonResourceURLs") })
                .collect(),
        }
    }

    fn matches(&self, info: &RequestInfo, user: &UserInfo) -> bool {
        if !self.subjects.iter().any(|subject| subject.matches(user)) {
            return false;
        }
        if info.is_resource {
            self.resources.iter().any(|rule| rule.matches(info))
        } else {
            self.urls.iter().any(|rule| rule.matches(info))
        }
    }
}

impl Subject {
    fn of(value: &Value) -> Option<Self> {
        let kind = text(value, "kind");
        let name = |member: &str| value.get(member).map(|v| text(v, "name"));
        Some(match kind.as_str() {
            "User" => Self::User(name("user")?),
            "Group" => Self::Group(name("group")?),
            "ServiceAccount" => {
                let account = value.get("serviceAccount")?;
                Self::ServiceAccount(text(account, "namespace"), text(account, "name"))
            }
            _ => return None,
        })
    }

    fn matches(&self, user: &UserInfo) -> bool {
        match self {
            Self::User(name) => name == "*" || *name == user.name,
            Self::Group(name) => name == "*" || user.in_group(name),
            Self::ServiceAccount(namespace, name) => {
                let account = user.name.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':'));
                account.is_some_and(|(n, a)| n == namespace && (name == "*" || a == name))
            }
        }
    }
}

impl ResourceRule {
    fn matches(&self, info: &RequestInfo) -> bool {
        let resource = |wanted: &String| match wanted.split_once('/') {
            _ if wanted == "*" => true,
            Some((resource, subresource)) => resource == info.resource && subresource == info.subresource,
            None => *wanted == info.resource && info.subresource.is_empty(),
        };
        holds(&self.verbs, &info.verb)
            && self.resources.iter().any(resource)
            && holds(&self.groups, &info.group)
            && if info.namespace.is_empty() { self.cluster_scope } else { holds(&self.namespaces, &info.namespace) }
    }
}

impl UrlRule {
    fn matches(&self, info: &RequestInfo) -> bool {
        let path = |url: &String| {
            if url == "*" || *url == info.path {
                return true;
            }
            let prefix = url.strip_suffix('*').unwrap_or(url);
            let rest = info.path.strip_prefix(prefix);
            rest.is_some_and(|rest| prefix.ends_with('/') || rest.starts_with('/'))
        };
        holds(&self.verbs, &info.verb) && self.urls.iter().any(path)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(rule: Value, user: &str, url: &str, want: bool) {
        let rule = Rule::of(&rule);
        let info = RequestInfo::parse(&http::Method::GET, url, &crate::query::Query::default()).unwrap();
        assert_eq!(rule.matches(&info, &UserInfo::new(user, &[])), want, "{user} {url}");
    }

    #[test]
    fn rules_match_as_upstreams() {
        let account = json!({"kind": "ServiceAccount", "serviceAccount": {"namespace": "a", "name": "*"}});
        let rule = json!({
            "subjects": [account],
            "resourceRules": [{
                "verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods", "pods/status"], "namespaces": ["n"],
            }],
            "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["/healthz", "/metrics/*"]}],
        });
        let user = "system:serviceaccount:a:b";
        check(rule.clone(), user, "/api/v1/namespaces/n/pods/p", true);
        check(rule.clone(), user, "/api/v1/namespaces/n/pods/p/status", true);
        check(rule.clone(), user, "/api/v1/namespaces/n/pods/p/log", false);
        check(rule.clone(), user, "/api/v1/namespaces/m/pods/p", false);
        check(rule.clone(), user, "/api/v1/pods", false);
        check(rule.clone(), "system:serviceaccount:aa:b", "/api/v1/namespaces/n/pods/p", false);
        check(rule.clone(), user, "/healthz", true);
        check(rule.clone(), user, "/healthz/etcd", true);
        check(rule.clone(), user, "/healthzz", false);
        check(rule.clone(), user, "/metrics/slis", true);
        check(rule, user, "/version", false);
        let group = json!({"subjects": [{"kind": "Group", "group": {"name": "system:authenticated"}}],
            "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "clusterScope": true}]});
        check(group.clone(), "ann", "/api/v1/nodes", true);
        check(group, "ann", "/api/v1/namespaces/n/pods", false);
    }
}
