//! Policies of a file, one a line: `--authorization-mode=ABAC` (upstream `pkg/auth/authorizer/abac`).

use std::path::Path;

use api::UserInfo;
use api::services::{AuthorizationAttributes, Authorizer, Decision};
use api::user::AUTHENTICATED;
use async_trait::async_trait;
use serde::Deserialize;
use serde_json::{Value, json};

const VERSION: &str = "abac.authorization.kubernetes.io/v1beta1";

/// Why a policy file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AbacError {
    #[error("cannot read {file}")]
    Read { file: String, source: std::io::Error },
    #[error("error reading policy file {file}, line {line}")]
    Line {
        file: String,
        /// From one.
        line: usize,
        source: serde_json::Error,
    },
    #[error("error reading policy file {file}, line {line}: no kind {kind:?} is registered for version {version:?}")]
    Kind { file: String, line: usize, kind: String, version: String },
}

/// What one line allows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Policy {
    user: String,
    group: String,
    readonly: bool,
    api_group: String,
    resource: String,
    namespace: String,
    non_resource_path: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Versioned {
    api_version: Option<String>,
    kind: Option<String>,
    #[serde(default)]
    spec: Policy,
}

/// The policies of a file, read once.
#[derive(Debug)]
pub struct Policies(Vec<Policy>);

impl Policies {
    /// Reads a file (`NewFromFile`).
    ///
    /// # Errors
    /// [`AbacError`].
    pub fn load(file: &Path) -> Result<Self, AbacError> {
        let name = file.display().to_string();
        let text = std::fs::read_to_string(file).map_err(|source| AbacError::Read { file: name.clone(), source })?;
        Self::parse(&text, &name)
    }

    fn parse(text: &str, file: &str) -> Result<Self, AbacError> {
        let lines = text.lines().map(str::trim).enumerate();
        let lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
        lines.map(|(index, line)| Policy::parse(line, file, index + 1)).collect::<Result<_, _>>().map(Self)
    }
}

impl Policy {
    fn parse(text: &str, file: &str, line: usize) -> Result<Self, AbacError> {
        let file = file.to_owned();
        let wrong = |source| AbacError::Line { file: file.clone(), line, source };
        let read: Versioned = serde_json::from_str(text).map_err(wrong)?;
        match (read.api_version.as_deref(), read.kind.as_deref()) {
            (Some(VERSION), Some("Policy")) => Ok(read.spec.for_everybody()),
            (None | Some(""), _) | (_, None | Some("")) => {
                serde_json::from_str::<Self>(text).map(Self::from_unversioned).map_err(wrong)
            }
            (version, kind) => {
                let owned = |text: Option<&str>| text.unwrap_or_default().to_owned();
                Err(AbacError::Kind { file: file.clone(), line, kind: owned(kind), version: owned(version) })
            }
        }
    }

    /// A star is everybody who is known (`Convert_v1beta1_Policy_To_abac_Policy`).
    fn for_everybody(mut self) -> Self {
        if self.user == "*" || self.group == "*" {
            AUTHENTICATED.clone_into(&mut self.group);
            self.user.clear();
        }
        self
    }

    /// In lines without a version what is left out is everything (`Convert_v0_Policy_To_abac_Policy`).
    fn from_unversioned(mut self) -> Self {
        self.non_resource_path.clear();
        if self.namespace.is_empty() && self.resource.is_empty() {
            "*".clone_into(&mut self.non_resource_path);
        }
        if self.user.is_empty() && self.group.is_empty() {
            AUTHENTICATED.clone_into(&mut self.group);
        }
        for all in [&mut self.namespace, &mut self.resource] {
            if all.is_empty() {
                "*".clone_into(all);
            }
        }
        "*".clone_into(&mut self.api_group);
        self.for_everybody()
    }

    fn is_about(&self, user: &UserInfo) -> bool {
        let named = !self.user.is_empty() || !self.group.is_empty();
        named
            && (self.user.is_empty() || self.user == user.name)
            && (self.group.is_empty() || user.in_group(&self.group))
    }

    fn allows(&self, request: &AuthorizationAttributes) -> bool {
        let reads = matches!(request.verb.as_str(), "get" | "list" | "watch");
        if self.readonly && !reads {
            return false;
        }
        let is = |own: &str, asked: &str| own == "*" || own == asked;
        if request.is_resource {
            return is(&self.namespace, &request.namespace)
                && is(&self.resource, &request.resource)
                && is(&self.api_group, &request.group);
        }
        let path = &self.non_resource_path;
        is(path, &request.path) || (path.ends_with('*') && request.path.starts_with(path.trim_end_matches('*')))
    }

    fn verbs(&self) -> Value {
        if self.readonly { json!(["get", "list", "watch"]) } else { json!(["*"]) }
    }
}

#[async_trait]
impl Authorizer for Policies {
    async fn authorize(&self, user: &UserInfo, attributes: &AuthorizationAttributes) -> Decision {
        if self.0.iter().any(|policy| policy.is_about(user) && policy.allows(attributes)) {
            Decision::Allow { reason: String::new() }
        } else {
            Decision::NoOpinion { reason: "No policy matched.".to_owned() }
        }
    }

    async fn rules(&self, user: &UserInfo, namespace: &str) -> (Vec<Value>, Vec<Value>, bool) {
        let (mut resources, mut urls) = (Vec::new(), Vec::new());
        let about =
            |policy: &&Policy| policy.is_about(user) && matches!(&*policy.namespace, n if n == "*" || n == namespace);
        for policy in self.0.iter().filter(about) {
            if !policy.resource.is_empty() {
                resources.push(json!({
                    "verbs": policy.verbs(), "apiGroups": [policy.api_group], "resources": [policy.resource],
                }));
            }
            if !policy.non_resource_path.is_empty() {
                urls.push(json!({"verbs": policy.verbs(), "nonResourceURLs": [policy.non_resource_path]}));
            }
        }
        (resources, urls, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
# comment
{"apiVersion": "abac.authorization.kubernetes.io/v1beta1", "kind": "Policy", "spec": {"user": "ann", "namespace": "*", "resource": "*", "apiGroup": "*"}}
{"apiVersion": "abac.authorization.kubernetes.io/v1beta1", "kind": "Policy", "spec": {"group": "readers", "namespace": "shop", "resource": "pods", "readonly": true}}
{"apiVersion": "abac.authorization.kubernetes.io/v1beta1", "kind": "Policy", "spec": {"user": "*", "nonResourcePath": "/api*", "readonly": true}}
{"user": "old", "namespace": "shop"}
"#;

    #[tokio::test]
    async fn the_first_line_that_fits_allows() {
        let policies = Policies::parse(FILE, "f").unwrap();
        let check = async |user: &str, groups: &[&str], verb: &str, what: &str, allowed: bool| {
            let mut request = AuthorizationAttributes { verb: verb.to_owned(), ..AuthorizationAttributes::default() };
            match what.split_once(':') {
                None => what.clone_into(&mut request.path),
                Some((namespace, resource)) => {
                    request.is_resource = true;
                    (request.namespace, request.resource) = (namespace.to_owned(), resource.to_owned());
                }
            }
            let decision = policies.authorize(&UserInfo::new(user, groups), &request).await;
            assert_eq!(decision.allowed(), allowed, "{user} {verb} {what}");
        };
        check("ann", &[], "delete", "any:secrets", true).await;
        check("ann", &[], "get", "/metrics", false).await;
        check("bob", &["readers"], "list", "shop:pods", true).await;
        check("bob", &["readers"], "create", "shop:pods", false).await;
        check("bob", &["readers"], "list", "other:pods", false).await;
        check("bob", &[AUTHENTICATED], "get", "/apis/apps", true).await;
        check("bob", &[AUTHENTICATED], "update", "/apis/apps", false).await;
        check("old", &[], "update", "shop:deployments", true).await;
        check("old", &[], "update", "other:deployments", false).await;
        let (resources, urls, incomplete) = policies.rules(&UserInfo::new("ann", &[AUTHENTICATED]), "shop").await;
        assert_eq!((resources.len(), urls.len(), incomplete), (1, 0, false));
    }

    #[test]
    fn lines_that_are_none_are_named() {
        let check = |text: &str, want: &str| {
            let error = Policies::parse(text, "f").unwrap_err().to_string();
            assert!(error.contains(want), "{error}");
        };
        check("\n{", "policy file f, line 2");
        check(r#"{"apiVersion": "v7", "kind": "Policy"}"#, "no kind \"Policy\" is registered for version \"v7\"");
    }
}
