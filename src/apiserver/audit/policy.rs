//! The audit policy: which requests are told of, and how much (`audit.k8s.io/v1` `Policy`; apiserver
//! `audit/policy/{checker,reader}.go`, `apis/audit/validation`).

use api::UserInfo;
use api::services::AuthorizationAttributes;
use serde::{Deserialize, Serialize};

use super::AuditError;

/// How much of a request is told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Level {
    #[default]
    None,
    Metadata,
    Request,
    RequestResponse,
}

/// When in a request's life an event is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stage {
    RequestReceived,
    ResponseStarted,
    ResponseComplete,
    Panic,
}

/// The rules, in order; the first that matches decides.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Policy {
    api_version: String,
    kind: String,
    rules: Vec<Rule>,
    omit_stages: Vec<Stage>,
    omit_managed_fields: bool,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Rule {
    level: Option<Level>,
    users: Vec<String>,
    user_groups: Vec<String>,
    verbs: Vec<String>,
    resources: Vec<GroupResources>,
    namespaces: Vec<String>,
    #[serde(rename = "nonResourceURLs")]
    non_resource_urls: Vec<String>,
    omit_stages: Vec<Stage>,
    omit_managed_fields: Option<bool>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct GroupResources {
    group: String,
    resources: Vec<String>,
    resource_names: Vec<String>,
}

/// What a rule says of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict<'a> {
    pub level: Level,
    /// Stages without events: the policy's and the rule's.
    pub omit_stages: [&'a [Stage]; 2],
    pub omit_managed_fields: bool,
}

impl Policy {
    /// Reads a policy file's text.
    ///
    /// # Errors
    /// [`AuditError::Policy`] with upstream's text.
    pub fn parse(text: &str) -> Result<Self, AuditError> {
        let refuse = |why: String| AuditError::Policy { why };
        let policy: Self = serde_saphyr::from_str(text)
            .map_err(|e| refuse(format!("failed decoding: {}", e.to_string().lines().next().unwrap_or_default())))?;
        if policy.api_version != "audit.k8s.io/v1" || policy.kind != "Policy" {
            let (version, kind) = (&policy.api_version, &policy.kind);
            return Err(refuse(format!("unknown group version field {version}, Kind={kind} in policy")));
        }
        let mut problems = Vec::new();
        for (index, rule) in policy.rules.iter().enumerate() {
            rule.validate(&format!("rules[{index}]"), &mut problems);
        }
        match problems.as_slice() {
            [] if policy.rules.is_empty() => Err(refuse("loaded illegal policy with 0 rules".to_owned())),
            [] => Ok(policy),
            [one] => Err(refuse(one.clone())),
            many => Err(refuse(format!("[{}]", many.join(", ")))),
        }
    }

    /// `EvaluatePolicyRule`; `user` is `None` for a request that failed to authenticate.
    pub fn evaluate(&self, user: Option<&UserInfo>, request: &AuthorizationAttributes) -> Verdict<'_> {
        match self.rules.iter().find(|rule| rule.matches(user, request)) {
            Some(rule) => Verdict {
                level: rule.level.unwrap_or_default(),
                omit_stages: [&self.omit_stages, &rule.omit_stages],
                omit_managed_fields: rule.omit_managed_fields.unwrap_or(self.omit_managed_fields),
            },
            None => Verdict {
                level: Level::None,
                omit_stages: [&self.omit_stages, &[]],
                omit_managed_fields: self.omit_managed_fields,
            },
        }
    }
}

impl Rule {
    fn validate(&self, at: &str, problems: &mut Vec<String>) {
        if self.level.is_none() {
            problems.push(format!("{at}.level: Required value"));
        }
        for (index, url) in self.non_resource_urls.iter().enumerate().filter(|(_, url)| *url != "*") {
            let at = format!("{at}.nonResourceURLs[{index}]: Invalid value: {url:?}:");
            if !url.starts_with('/') {
                problems.push(format!("{at} non-resource URL rules must begin with a '/' character"));
            }
            if url.find('*').is_some_and(|star| star + 1 < url.len()) {
                problems.push(format!("{at} non-resource URL wildcards '*' must be the final character of the rule"));
            }
        }
        for resources in &self.resources {
            let group = resources.group.as_str();
            if !matches!(group, "" | "*") {
                let errors = api::validation::dns1123_subdomain(group, false);
                if !errors.is_empty() {
                    problems.push(format!("{at}.resources.group: Invalid value: {group:?}: {}", errors.join(",")));
                }
            }
            if !resources.resource_names.is_empty() && resources.resources.is_empty() {
                let names = &resources.resource_names;
                problems.push(format!(
                    "{at}.resources.resourceNames: Invalid value: {names:?}: using resourceNames requires at least one \
                     resource"
                ));
            }
        }
        let has_resources = !self.resources.is_empty() || !self.namespaces.is_empty();
        if !self.non_resource_urls.is_empty() && has_resources {
            let urls = &self.non_resource_urls;
            problems.push(format!(
                "{at}.nonResourceURLs: Invalid value: {urls:?}: rules cannot apply to both regular resources and \
                 non-resource URLs"
            ));
        }
    }

    /// `ruleMatches`.
    fn matches(&self, user: Option<&UserInfo>, request: &AuthorizationAttributes) -> bool {
        let has = |list: &[String], wanted: &str| list.iter().any(|item| item == wanted);
        if !self.users.is_empty() && !user.is_some_and(|user| has(&self.users, &user.name)) {
            return false;
        }
        if !self.user_groups.is_empty()
            && !user.is_some_and(|user| user.groups.iter().any(|group| has(&self.user_groups, group)))
        {
            return false;
        }
        if !self.verbs.is_empty() && !has(&self.verbs, &request.verb) {
            return false;
        }
        if !self.namespaces.is_empty() || !self.resources.is_empty() {
            return request.is_resource
                && (self.namespaces.is_empty() || has(&self.namespaces, &request.namespace))
                && (self.resources.is_empty() || self.resources.iter().any(|resources| resources.matches(request)));
        }
        if !self.non_resource_urls.is_empty() {
            return !request.is_resource
                && self.non_resource_urls.iter().any(|pattern| path_matches(&request.path, pattern));
        }
        true
    }
}

impl GroupResources {
    fn matches(&self, request: &AuthorizationAttributes) -> bool {
        if self.group != request.group && self.group != "*" {
            return false;
        }
        if self.resources.is_empty() {
            return true;
        }
        if !self.resource_names.is_empty() && !self.resource_names.contains(&request.name) {
            return false;
        }
        let (resource, subresource) = (request.resource.as_str(), request.subresource.as_str());
        self.resources.iter().any(|pattern| match pattern.split_once('/') {
            _ if pattern == "*" => true,
            None => subresource.is_empty() && pattern == resource,
            Some((of, "*")) if of == resource => true,
            Some(("*", sub)) => !subresource.is_empty() && sub == subresource,
            Some((of, sub)) => !subresource.is_empty() && of == resource && sub == subresource,
        })
    }
}

fn path_matches(path: &str, pattern: &str) -> bool {
    pattern == "*" || pattern == path || (pattern.ends_with('*') && path.starts_with(pattern.trim_end_matches('*')))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(rules: &str) -> Result<Policy, AuditError> {
        Policy::parse(&format!("apiVersion: audit.k8s.io/v1\nkind: Policy\n{rules}"))
    }

    fn request(verb: &str, namespace: &str, resource: &str, name: &str) -> AuthorizationAttributes {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        AuthorizationAttributes {
            verb: verb.into(),
            is_resource: true,
            resource: resource.into(),
            subresource: subresource.into(),
            namespace: namespace.into(),
            name: name.into(),
            ..AuthorizationAttributes::default()
        }
    }

    #[test]
    fn the_first_matching_rule_decides() {
        let policy = policy(
            "omitStages: [RequestReceived]\nomitManagedFields: true\nrules:\n\
             - {level: None, users: [spam]}\n\
             - {level: RequestResponse, resources: [{group: '', resources: [pods], resourceNames: [one]}]}\n\
             - {level: Request, resources: [{group: '', resources: ['*/status', 'nodes/*']}], omitStages: [Panic]}\n\
             - {level: Metadata, namespaces: [shop], omitManagedFields: false}\n\
             - {level: Metadata, nonResourceURLs: ['/healthz*']}\n\
             - {level: Request, userGroups: [clerks], verbs: [list]}\n",
        )
        .unwrap();
        let check = |user: &UserInfo, request: &AuthorizationAttributes, level: Level| {
            assert_eq!(policy.evaluate(Some(user), request).level, level, "{} {request:?}", user.name);
        };
        let ann = UserInfo::new("ann", &["clerks"]);
        check(&UserInfo::new("spam", &[]), &request("get", "", "pods", "one"), Level::None);
        check(&ann, &request("get", "bank", "pods", "one"), Level::RequestResponse);
        check(&ann, &request("get", "bank", "pods", "two"), Level::None);
        check(&ann, &request("get", "bank", "pods/status", "two"), Level::Request);
        check(&ann, &request("get", "", "nodes/proxy", "two"), Level::Request);
        // As upstream: `resource/*` stands for the resource too.
        check(&ann, &request("get", "", "nodes", "two"), Level::Request);
        check(&ann, &request("list", "bank", "pods", ""), Level::Request);
        let verdict = policy.evaluate(None, &request("get", "shop", "secrets", "x"));
        assert_eq!((verdict.level, verdict.omit_managed_fields), (Level::Metadata, false));
        assert_eq!(verdict.omit_stages, [&[Stage::RequestReceived][..], &[]]);
        let path = AuthorizationAttributes { verb: "get".into(), path: "/healthz/ping".into(), ..Default::default() };
        check(&ann, &path, Level::Metadata);
    }

    #[test]
    fn a_policy_that_makes_no_sense_is_refused() {
        let check = |text: &str, why: &str| {
            let error = policy(text).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        };
        check("rules: []", "loaded illegal policy with 0 rules");
        check("rules: [{users: [a]}]", "rules[0].level: Required value");
        check("rules: [{level: Metadata, nonResourceURLs: [a]}]", "must begin with a '/'");
        check("rules: [{level: Metadata, nonResourceURLs: ['/a*b']}]", "must be the final character");
        check("rules: [{level: Metadata, resources: [{resourceNames: [a]}]}]", "requires at least one");
        check("rules: [{level: Metadata, nonResourceURLs: [/a], namespaces: [b]}]", "cannot apply to both");
        check("rules: [{level: Some}]", "failed decoding");
        assert!(Policy::parse("kind: Policy").unwrap_err().to_string().contains("unknown group version"));
    }
}
