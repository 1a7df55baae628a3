//! Which authorisers there are, in which order: `--authorization-mode`, or the file of `--authorization-config`
//! (`AuthorizationConfiguration` of `apiserver.config.k8s.io`; apiserver `apis/apiserver/validation`,
//! `pkg/kubeapiserver/authorizer`).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use api::UserInfo;
use api::cel::Program;
use api::services::{AuthorizationAttributes, Authorizer, Decision};
use arc_swap::ArcSwap;
use async_trait::async_trait;
use serde::Deserialize;
use serde_json::{Value, json};

use super::config_file::{self, ConfigFile};
use super::decisions::Decisions;
use super::hooks::access::{AccessOptions, AccessWebhook, OnError, compile};
use super::{Named, Union};
use crate::remote::{Remote, RemoteError};

const TYPES: [&str; 6] = ["ABAC", "AlwaysAllow", "AlwaysDeny", "Node", "RBAC", "Webhook"];

/// Why a list of authorisers makes no sense.
#[derive(Debug, thiserror::Error)]
pub enum ModesError {
    #[error("{}", .0.join(", "))]
    Problems(Vec<String>),
    #[error(transparent)]
    Remote(#[from] RemoteError),
    #[error("authorizer type ABAC is not allowed if it was not enabled at initial server startup")]
    NoPolicies,
}

/// One authoriser.
#[derive(Debug, Clone)]
pub enum Mode {
    Node,
    Rbac,
    /// The policies of `--authorization-policy-file`.
    Abac,
    AlwaysAllow,
    AlwaysDeny,
    Webhook(Box<WebhookMode>),
}

/// A webhook and how it is asked.
#[derive(Debug, Clone)]
pub struct WebhookMode {
    pub kubeconfig: PathBuf,
    pub options: AccessOptions,
    pub conditions: Vec<Program>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
struct Configuration {
    api_version: String,
    kind: String,
    authorizers: Vec<Entry>,
}

impl ConfigFile for Configuration {
    const KIND: &'static str = "AuthorizationConfiguration";

    fn type_meta(&self) -> (&str, &str) {
        (&self.api_version, &self.kind)
    }
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Entry {
    #[serde(rename = "type")]
    kind: String,
    name: String,
    webhook: Option<Webhook>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
struct Webhook {
    #[serde(rename = "authorizedTTL")]
    authorized_ttl: Option<String>,
    cache_authorized_requests: Option<bool>,
    #[serde(rename = "unauthorizedTTL")]
    unauthorized_ttl: Option<String>,
    cache_unauthorized_requests: Option<bool>,
    timeout: String,
    subject_access_review_version: String,
    match_condition_subject_access_review_version: String,
    failure_policy: String,
    connection_info: ConnectionInfo,
    match_conditions: Vec<MatchCondition>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
struct ConnectionInfo {
    #[serde(rename = "type")]
    kind: String,
    kube_config_file: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct MatchCondition {
    expression: String,
}

impl Mode {
    /// Reads the text of a configuration file: each authoriser with its name. Upstream's default times to live are filled in.
    ///
    /// # Errors
    /// Every problem there is.
    pub fn parse_file(text: &str) -> Result<Vec<(String, Self)>, ModesError> {
        let read: Configuration = config_file::read(text).map_err(|why| ModesError::Problems(vec![why]))?;
        let mut problems = Vec::new();
        let mut modes = Vec::new();
        if read.authorizers.is_empty() {
            problems.push("authorizers: Required value: at least one authorization mode must be defined".to_owned());
        }
        let (mut types, mut names) = (BTreeSet::new(), BTreeSet::new());
        for (index, entry) in read.authorizers.iter().enumerate() {
            let at = format!("authorizers[{index}]");
            if entry.kind.is_empty() {
                problems.push(format!("{at}.type: Required value"));
                continue;
            }
            if !TYPES.contains(&entry.kind.as_str()) {
                let supported = TYPES.map(|name| format!("{name:?}")).join(", ");
                problems.push(format!("{at}.type: Unsupported value: {:?}: supported values: {supported}", entry.kind));
                continue;
            }
            if !types.insert(entry.kind.as_str()) && entry.kind != "Webhook" {
                problems.push(format!("{at}.type: Duplicate value: {:?}", entry.kind));
                continue;
            }
            let wrong = api::validation::dns1123_subdomain(&entry.name, false);
            if entry.name.is_empty() {
                problems.push(format!("{at}.name: Required value"));
            } else if !names.insert(entry.name.as_str()) {
                problems.push(format!("{at}.name: Duplicate value: {:?}", entry.name));
            } else if !wrong.is_empty() {
                let why = wrong.join(", ");
                let name = &entry.name;
                problems.push(format!("{at}.name: Invalid value: {name:?}: authorizer name is invalid: {why}"));
            }
            match (entry.kind.as_str(), &entry.webhook) {
                ("Webhook", None) => problems.push(format!("{at}.webhook: Required value: required when type=Webhook")),
                ("Webhook", Some(webhook)) => {
                    let read = webhook.read(&entry.name, &at, &mut problems);
                    modes.extend(read.map(|mode| (entry.name.clone(), mode)));
                }
                (_, Some(_)) => problems.push(format!(
                    "{at}.webhook: Invalid value: \"non-null\": may only be specified when type=Webhook"
                )),
                (kind, None) => modes.extend(Self::plain(kind).map(|mode| (entry.name.clone(), mode))),
            }
        }
        if problems.is_empty() { Ok(modes) } else { Err(ModesError::Problems(problems)) }
    }

    /// As `--authorization-mode` calls it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Node => "Node",
            Self::Rbac => "RBAC",
            Self::Abac => "ABAC",
            Self::AlwaysAllow => "AlwaysAllow",
            Self::AlwaysDeny => "AlwaysDeny",
            Self::Webhook(_) => "Webhook",
        }
    }

    /// A mode that needs nothing but its name.
    pub fn plain(name: &str) -> Option<Self> {
        Some(match name {
            "Node" => Self::Node,
            "RBAC" => Self::Rbac,
            "ABAC" => Self::Abac,
            "AlwaysAllow" => Self::AlwaysAllow,
            "AlwaysDeny" => Self::AlwaysDeny,
            _ => return None,
        })
    }
}

impl Webhook {
    fn read(&self, name: &str, at: &str, problems: &mut Vec<String>) -> Option<Mode> {
        let before = problems.len();
        let mut duration = |text: &str, member: &str, limit: Option<Duration>| -> Duration {
            let at = format!("{at}.{member}");
            let rule = if limit.is_some() { "must be > 0s and <= 30s" } else { "must be > 0s" };
            if text.is_empty() {
                problems.push(format!("{at}: Required value"));
            }
            match crate::filters::deadline::parse(text) {
                Some(time) if !time.is_zero() && limit.is_none_or(|limit| time <= limit) => time,
                _ if text.is_empty() => Duration::ZERO,
                _ => {
                    problems.push(format!("{at}: Invalid value: {text:?}: {rule}"));
                    Duration::ZERO
                }
            }
        };
        let timeout = duration(&self.timeout, "timeout", Some(Duration::from_secs(30)));
        let mut allowed_ttl = duration(self.authorized_ttl.as_deref().unwrap_or("5m"), "authorizedTTL", None);
        let mut refused_ttl = duration(self.unauthorized_ttl.as_deref().unwrap_or("30s"), "unauthorizedTTL", None);
        if self.cache_authorized_requests == Some(false) {
            allowed_ttl = Duration::ZERO;
        }
        if self.cache_unauthorized_requests == Some(false) {
            refused_ttl = Duration::ZERO;
        }
        let mut one_of = |value: &str, member: &str, known: &[&str]| {
            if value.is_empty() {
                problems.push(format!("{at}.{member}: Required value"));
            } else if !known.contains(&value) {
                let known = known.iter().map(|k| format!("{k:?}")).collect::<Vec<_>>().join(", ");
                problems.push(format!("{at}.{member}: Unsupported value: {value:?}: supported values: {known}"));
            }
        };
        one_of(&self.subject_access_review_version, "subjectAccessReviewVersion", &["v1", "v1beta1"]);
        one_of(&self.failure_policy, "failurePolicy", &["NoOpinion", "Deny"]);
        match self.match_condition_subject_access_review_version.as_str() {
            "" if self.match_conditions.is_empty() => {}
            "" => problems.push(format!(
                "{at}.matchConditionSubjectAccessReviewVersion: Required value: required if match conditions are \
                 specified"
            )),
            version => one_of(version, "matchConditionSubjectAccessReviewVersion", &["v1"]),
        }
        let kubeconfig = self.connection_info.read(at, problems);
        let conditions = self.conditions(at, problems);
        let on_error = if self.failure_policy == "Deny" { OnError::Deny } else { OnError::NoOpinion };
        let options = AccessOptions {
            name: name.to_owned(),
            version: self.subject_access_review_version.clone(),
            allowed_ttl,
            refused_ttl,
            timeout,
            on_error,
        };
        (problems.len() == before).then(|| Mode::Webhook(Box::new(WebhookMode { kubeconfig, options, conditions })))
    }

    fn conditions(&self, at: &str, problems: &mut Vec<String>) -> Vec<Program> {
        if self.match_conditions.len() > 64 {
            let count = self.match_conditions.len();
            problems.push(format!("{at}.matchConditions: Too many: {count}: must have at most 64 items"));
            return Vec::new();
        }
        let mut seen = BTreeSet::new();
        let mut programs = Vec::new();
        for (index, condition) in self.match_conditions.iter().enumerate() {
            let at = format!("{at}.matchConditions[{index}].expression");
            let source = &condition.expression;
            if source.trim().is_empty() {
                problems.push(format!("{at}: Required value"));
            } else if !seen.insert(source) {
                problems.push(format!("{at}: Duplicate value: {source:?}"));
            } else {
                match compile(std::slice::from_ref(source)) {
                    Ok(compiled) => programs.extend(compiled),
                    Err(why) => problems.push(format!("{at}: Invalid value: {source:?}: {why}")),
                }
            }
        }
        programs
    }
}

impl ConnectionInfo {
    fn read(&self, at: &str, problems: &mut Vec<String>) -> PathBuf {
        let at_file = format!("{at}.connectionInfo.kubeConfigFile");
        let file = self.kube_config_file.as_deref().unwrap_or_default();
        match self.kind.as_str() {
            "" => problems.push(format!("{at}.connectionInfo.type: Required value")),
            "InClusterConfig" => problems.push(format!(
                "{at}.connectionInfo.type: Invalid value: \"InClusterConfig\": the server is no pod, use KubeConfigFile"
            )),
            "KubeConfigFile" if file.is_empty() => problems.push(format!("{at_file}: Required value")),
            "KubeConfigFile" if !Path::new(file).is_absolute() => {
                problems.push(format!("{at_file}: Invalid value: {file:?}: must be an absolute path"));
            }
            "KubeConfigFile" => match std::fs::metadata(file) {
                Ok(found) if found.is_file() => {}
                Ok(_) => problems.push(format!("{at_file}: Invalid value: {file:?}: must be a regular file")),
                Err(error) => {
                    problems.push(format!("{at_file}: Invalid value: {file:?}: error loading file: {error}"));
                }
            },
            kind => problems.push(format!(
                "{at}.connectionInfo.type: Unsupported value: {kind:?}: supported values: \"InClusterConfig\", \
                 \"KubeConfigFile\""
            )),
        }
        PathBuf::from(file)
    }
}

/// The authorisers of a list of modes; those of the server's own are shared by every list.
pub struct Own {
    pub node: Arc<dyn Authorizer>,
    pub rbac: Arc<dyn Authorizer>,
    /// With `--authorization-policy-file`.
    pub abac: Option<Arc<dyn Authorizer>>,
    pub decisions: Arc<Decisions>,
}

impl Own {
    /// Sets the modes up, each with its name.
    ///
    /// # Errors
    /// [`ModesError::Remote`] if a webhook's kubeconfig is none, [`ModesError::NoPolicies`].
    pub fn union(&self, modes: &[(String, Mode)]) -> Result<Union, ModesError> {
        let mut all = Vec::with_capacity(modes.len());
        for (name, mode) in modes {
            let authorizer: Arc<dyn Authorizer> = match mode {
                Mode::Node => Arc::clone(&self.node),
                Mode::Rbac => Arc::clone(&self.rbac),
                Mode::Abac => self.abac.clone().ok_or(ModesError::NoPolicies)?,
                Mode::AlwaysAllow => Arc::new(Always(true)),
                Mode::AlwaysDeny => Arc::new(Always(false)),
                Mode::Webhook(hook) => {
                    let remote = Remote::load(&hook.kubeconfig)?;
                    Arc::new(AccessWebhook::new(remote, hook.options.clone(), hook.conditions.clone()))
                }
            };
            all.push(Named { name: name.clone(), kind: mode.kind(), authorizer });
        }
        Ok(Union::new(all, self.decisions.clone()))
    }
}

/// Says always the same (apiserver `authorization/authorizerfactory`).
struct Always(bool);

#[async_trait]
impl Authorizer for Always {
    async fn authorize(&self, _: &UserInfo, _: &AuthorizationAttributes) -> Decision {
        if self.0 {
            Decision::Allow { reason: String::new() }
        } else {
            Decision::NoOpinion { reason: "Everything is forbidden.".to_owned() }
        }
    }

    async fn rules(&self, _: &UserInfo, _: &str) -> (Vec<Value>, Vec<Value>, bool) {
        if !self.0 {
            return (Vec::new(), Vec::new(), false);
        }
        let resources = json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]});
        (vec![resources], vec![json!({"verbs": ["*"], "nonResourceURLs": ["*"]})], false)
    }
}

/// Authorisers that can be replaced while requests are decided.
pub struct Replaceable(ArcSwap<Union>);

impl Replaceable {
    pub fn new(union: Union) -> Arc<Self> {
        Arc::new(Self(ArcSwap::from_pointee(union)))
    }

    pub fn replace(&self, union: Union) {
        self.0.store(Arc::new(union));
    }
}

#[async_trait]
impl Authorizer for Replaceable {
    async fn authorize(&self, user: &UserInfo, attributes: &AuthorizationAttributes) -> Decision {
        self.0.load_full().authorize(user, attributes).await
    }

    async fn authorize_or_fail(
        &self,
        user: &UserInfo,
        attributes: &AuthorizationAttributes,
    ) -> (Decision, Option<String>) {
        self.0.load_full().authorize_or_fail(user, attributes).await
    }

    async fn rules(&self, user: &UserInfo, namespace: &str) -> (Vec<Value>, Vec<Value>, bool) {
        self.0.load_full().rules(user, namespace).await
    }

    fn rules_error(&self, user: &UserInfo) -> Option<String> {
        self.0.load().rules_error(user)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configurations_are_checked_as_upstream_does() {
        let dir = tempfile::tempdir().unwrap();
        let kubeconfig = dir.path().join("config");
        std::fs::write(&kubeconfig, "").unwrap();
        let good = format!(
            "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthorizationConfiguration\nauthorizers:\n- type: Webhook\n  \
             name: first\n  webhook:\n    timeout: 3s\n    subjectAccessReviewVersion: v1\n    \
             matchConditionSubjectAccessReviewVersion: v1\n    failurePolicy: Deny\n    connectionInfo: {{type: \
             KubeConfigFile, kubeConfigFile: {}}}\n    matchConditions:\n    - expression: request.user != 'a'\n- type: \
             Node\n  name: node\n- type: RBAC\n  name: rbac\n",
            kubeconfig.display()
        );
        let modes = Mode::parse_file(&good).unwrap();
        let [(_, Mode::Webhook(hook)), (node, Mode::Node), (_, Mode::Rbac)] = modes.as_slice() else {
            panic!("{modes:?}")
        };
        assert_eq!(node, "node");
        assert_eq!((hook.options.on_error, hook.options.allowed_ttl.as_secs()), (OnError::Deny, 300));
        let check = |from: &str, to: &str, want: &str| {
            let error = Mode::parse_file(&good.replace(from, to)).unwrap_err().to_string();
            assert!(error.contains(want), "{error}");
        };
        check("timeout: 3s", "timeout: 31s", "authorizers[0].timeout: Invalid value: \"31s\": must be > 0s and <= 30s");
        check("timeout: 3s", "cacheAuthorizedRequests: false", "authorizers[0].timeout: Required value");
        check("name: node", "name: rbac", "authorizers[2].name: Duplicate value: \"rbac\"");
        check("type: Node", "type: RBAC", "authorizers[2].type: Duplicate value: \"RBAC\"");
        check("type: Node", "type: ABACus", "Unsupported value: \"ABACus\"");
        check("Deny", "Maybe", "authorizers[0].failurePolicy: Unsupported value: \"Maybe\"");
        check("request.user", "request.nobody", "undefined field 'nobody'");
        check("kubeConfigFile: /", "kubeConfigFile: ", "must be an absolute path");
        check("timeout: 3s", "timeuot: 3s", "failed decoding");
    }
}
