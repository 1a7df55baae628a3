//! Role-based access control (upstream `plugin/pkg/auth/authorizer/rbac`).
//!
//! Roles and bindings are indexed as they are written: a decision looks up the user's subjects and never scans.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use api::UserInfo;
use api::services::{AuthorizationAttributes, Authorizer, Decision};
use async_trait::async_trait;
use base::Shutdown;
use parking_lot::RwLock;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use storage::{Store, StoreError};
use tokio::sync::watch;

use super::feed::{Change, follow};
use super::rules::PolicyRule;

/// Decides by Roles and ClusterRoles.
pub struct Rbac {
    index: Arc<RwLock<Index>>,
    /// Up to which revision each feed has been applied; -1 before its first pass.
    reached: watch::Receiver<[i64; FEEDS]>,
}

/// How many prefixes are followed.
const FEEDS: usize = 4;
/// How often feeds that are still reading history are asked how far they are.
const ASK_EVERY: Duration = Duration::from_millis(100);

#[derive(Default)]
struct Index {
    cluster_roles: HashMap<String, Arc<[PolicyRule]>>,
    /// By `namespace/name`.
    roles: HashMap<String, Arc<[PolicyRule]>>,
    cluster_bindings: Bindings,
    bindings: Bindings,
}

/// Bindings by their key and by subject.
#[derive(Default)]
struct Bindings {
    by_key: HashMap<String, Binding>,
    by_subject: HashMap<SubjectKey, Vec<String>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum SubjectKey {
    User(String),
    Group(String),
}

struct Binding {
    role: RoleRef,
    subjects: Vec<(SubjectKey, Subject)>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RoleRef {
    kind: String,
    name: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Subject {
    kind: String,
    name: String,
    namespace: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct StoredBinding {
    role_ref: RoleRef,
    subjects: Option<Vec<Subject>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct StoredRole {
    rules: Option<Vec<PolicyRule>>,
}

impl Rbac {
    /// Indexes and follows the store in tasks that end with `shutdown`.
    pub fn start(store: &Arc<dyn Store>, shutdown: &Shutdown) -> (Arc<Self>, tokio::task::JoinSet<()>) {
        let index = Arc::new(RwLock::new(Index::default()));
        let (progress, reached) = watch::channel([-1; FEEDS]);
        let progress = Arc::new(progress);
        let mut tasks = tokio::task::JoinSet::new();
        let mut feeds = 0;
        let mut feed = |prefix: &str, apply: fn(&mut Index, Change<'_>)| {
            let index = index.clone();
            let progress = progress.clone();
            let feed = feeds;
            feeds += 1;
            tasks.spawn(follow(
                store.clone(),
                prefix.to_owned(),
                move |change| apply(&mut index.write(), change),
                move |revision| progress.send_modify(|reached| reached[feed] = revision.0),
                shutdown.clone(),
            ));
        };
        feed("/registry/clusterroles/", |index, change| apply_role(&mut index.cluster_roles, change));
        feed("/registry/roles/", |index, change| apply_role(&mut index.roles, change));
        feed("/registry/clusterrolebindings/", |index, change| index.cluster_bindings.apply(change));
        feed("/registry/rolebindings/", |index, change| index.bindings.apply(change));
        (Arc::new(Self { index, reached }), tasks)
    }

    /// Returns when the index holds what the store held at start.
    pub async fn synced(&self) {
        self.reach(0).await;
    }

    /// Returns when the index holds everything that was written before the call.
    pub async fn caught_up(&self, store: &dyn Store) -> Result<(), StoreError> {
        let newest = store.revision().await?;
        loop {
            store.request_progress().await?;
            if tokio::time::timeout(ASK_EVERY, self.reach(newest.0)).await.is_ok() {
                return Ok(());
            }
        }
    }

    async fn reach(&self, revision: i64) {
        let mut reached = self.reached.clone();
        // The sender lives as long as the feeds; an error means that they were stopped.
        let _stopped = reached.wait_for(|feeds| feeds.iter().all(|reached| *reached >= revision)).await;
    }

    /// Calls `visit` for every rule that applies to the user in the namespace (empty: cluster scope) until it returns
    /// true. `describe` tells which binding it came from.
    fn visit(
        &self,
        user: &UserInfo,
        namespace: &str,
        mut visit: impl FnMut(&PolicyRule, &dyn Fn() -> String) -> bool,
    ) -> bool {
        let index = self.index.read();
        let subjects = || {
            std::iter::once(SubjectKey::User(user.name.clone()))
                .chain(user.groups.iter().map(|g| SubjectKey::Group(g.clone())))
        };
        for key in subjects() {
            for binding_name in index.cluster_bindings.by_subject.get(&key).into_iter().flatten() {
                let Some(binding) = index.cluster_bindings.by_key.get(binding_name) else { continue };
                let describe = || {
                    format!(
                        "ClusterRoleBinding {binding_name:?} of ClusterRole {:?} to {}",
                        binding.role.name,
                        binding.describe_subject(&key)
                    )
                };
                let rules = index.cluster_roles.get(&binding.role.name);
                if rules.into_iter().flat_map(|r| r.iter()).any(|rule| visit(rule, &describe)) {
                    return true;
                }
            }
            if namespace.is_empty() {
                continue;
            }
            for binding_key in index.bindings.by_subject.get(&key).into_iter().flatten() {
                let Some((binding_namespace, name)) = binding_key.split_once('/') else { continue };
                if binding_namespace != namespace {
                    continue;
                }
                let Some(binding) = index.bindings.by_key.get(binding_key) else { continue };
                let describe = || {
                    format!(
                        "RoleBinding {:?} of {} {:?} to {}",
                        format!("{name}/{namespace}"),
                        binding.role.kind,
                        binding.role.name,
                        binding.describe_subject(&key)
                    )
                };
                let rules = if binding.role.kind == "ClusterRole" {
                    index.cluster_roles.get(&binding.role.name)
                } else {
                    index.roles.get(&format!("{namespace}/{}", binding.role.name))
                };
                if rules.into_iter().flat_map(|r| r.iter()).any(|rule| visit(rule, &describe)) {
                    return true;
                }
            }
        }
        false
    }
}

#[async_trait]
impl Authorizer for Rbac {
    async fn authorize(&self, user: &UserInfo, attributes: &AuthorizationAttributes) -> Decision {
        let mut reason = String::new();
        let namespace = if attributes.is_resource { attributes.namespace.as_str() } else { "" };
        let allowed = self.visit(user, namespace, |rule, describe| {
            let allows = rule.allows(attributes);
            if allows {
                reason = format!("RBAC: allowed by {}", describe());
            }
            allows
        });
        if allowed { Decision::Allow { reason } } else { Decision::NoOpinion { reason: String::new() } }
    }

    async fn rules(&self, user: &UserInfo, namespace: &str) -> (Vec<Value>, Vec<Value>, bool) {
        let (mut resources, mut urls) = (Vec::new(), Vec::new());
        self.visit(user, namespace, |rule, _| {
            let (is_resource, rule) = rule.review();
            if is_resource {
                resources.push(rule)
            } else {
                urls.push(rule)
            }
            false
        });
        (resources, urls, false)
    }
}

fn decode<T: DeserializeOwned + Default>(key: &str, value: &[u8]) -> T {
    serde_json::from_slice(value).unwrap_or_else(|error| {
        // Only reachable if another program wrote to the store: such an object grants nothing.
        tracing::warn!(key, %error, "ignoring an unreadable role or binding");
        T::default()
    })
}

fn apply_role(roles: &mut HashMap<String, Arc<[PolicyRule]>>, change: Change<'_>) {
    match change {
        Change::Reset => roles.clear(),
        Change::Put { key, value } => {
            let role: StoredRole = decode(key, value);
            roles.insert(key.to_owned(), role.rules.unwrap_or_default().into());
        }
        Change::Delete { key } => {
            roles.remove(key);
        }
    }
}

impl Bindings {
    fn apply(&mut self, change: Change<'_>) {
        match change {
            Change::Reset => *self = Self::default(),
            Change::Put { key, value } => {
                self.remove(key);
                let stored: StoredBinding = decode(key, value);
                // Accounts without a namespace are of the binding's (`appliesToUser`).
                let own = key.split_once('/').map_or("", |(namespace, _)| namespace);
                let subjects: Vec<_> = stored
                    .subjects
                    .unwrap_or_default()
                    .into_iter()
                    .map(|subject| subject.within(own))
                    .filter_map(|subject| Some((subject.key()?, subject)))
                    .collect();
                for (subject, _) in &subjects {
                    self.by_subject.entry(subject.clone()).or_default().push(key.to_owned());
                }
                self.by_key.insert(key.to_owned(), Binding { role: stored.role_ref, subjects });
            }
            Change::Delete { key } => self.remove(key),
        }
    }

    fn remove(&mut self, key: &str) {
        let Some(binding) = self.by_key.remove(key) else { return };
        for (subject, _) in binding.subjects {
            if let Some(keys) = self.by_subject.get_mut(&subject) {
                keys.retain(|k| k != key);
                if keys.is_empty() {
                    self.by_subject.remove(&subject);
                }
            }
        }
    }
}

impl Binding {
    fn describe_subject(&self, key: &SubjectKey) -> String {
        let Some((_, subject)) = self.subjects.iter().find(|(k, _)| k == key) else { return String::new() };
        match subject.kind.as_str() {
            "ServiceAccount" => format!("ServiceAccount {:?}", format!("{}/{}", subject.name, subject.namespace)),
            kind => format!("{kind} {:?}", subject.name),
        }
    }
}

impl Subject {
    fn within(mut self, namespace: &str) -> Self {
        if self.namespace.is_empty() {
            namespace.clone_into(&mut self.namespace);
        }
        self
    }

    fn key(&self) -> Option<SubjectKey> {
        match self.kind.as_str() {
            "User" => Some(SubjectKey::User(self.name.clone())),
            "Group" => Some(SubjectKey::Group(self.name.clone())),
            "ServiceAccount" if !self.namespace.is_empty() => {
                Some(SubjectKey::User(format!("system:serviceaccount:{}:{}", self.namespace, self.name)))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rbac(changes: &[(&str, &str, Value)]) -> Rbac {
        let mut index = Index::default();
        for (resource, key, value) in changes {
            let value = serde_json::to_vec(value).unwrap();
            let change = Change::Put { key, value: &value };
            match *resource {
                "clusterroles" => apply_role(&mut index.cluster_roles, change),
                "roles" => apply_role(&mut index.roles, change),
                "clusterrolebindings" => index.cluster_bindings.apply(change),
                _ => index.bindings.apply(change),
            }
        }
        let (_, reached) = watch::channel([0; FEEDS]);
        Rbac { index: Arc::new(RwLock::new(index)), reached }
    }

    fn get_pods(namespace: &str) -> AuthorizationAttributes {
        AuthorizationAttributes {
            verb: "get".into(),
            is_resource: true,
            resource: "pods".into(),
            namespace: namespace.into(),
            ..AuthorizationAttributes::default()
        }
    }

    fn example() -> Rbac {
        rbac(&[
            ("clusterroles", "view", json!({"rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]})),
            (
                "bindings",
                "shop/viewers",
                json!({
                    "roleRef": {"kind": "ClusterRole", "name": "view"},
                    "subjects": [
                        {"kind": "ServiceAccount", "name": "till", "namespace": "shop"},
                        {"kind": "Group", "name": "clerks"},
                    ],
                }),
            ),
        ])
    }

    #[tokio::test]
    async fn a_role_binding_grants_in_its_namespace_only() {
        let rbac = example();
        let till = UserInfo::new("system:serviceaccount:shop:till", &[]);
        let decision = rbac.authorize(&till, &get_pods("shop")).await;
        assert_eq!(
            decision.reason(),
            "RBAC: allowed by RoleBinding \"viewers/shop\" of ClusterRole \"view\" to ServiceAccount \"till/shop\""
        );
        assert!(!rbac.authorize(&till, &get_pods("bank")).await.allowed());
        assert!(!rbac.authorize(&till, &get_pods("")).await.allowed());
        assert!(rbac.authorize(&UserInfo::new("ann", &["clerks"]), &get_pods("shop")).await.allowed());
    }

    #[tokio::test]
    async fn an_account_without_a_namespace_is_of_the_bindings() {
        let binding = |kind: &str| json!({"roleRef": {"kind": "ClusterRole", "name": kind}, "subjects": [{"kind": "ServiceAccount", "name": "till"}]});
        let rules = json!({"rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]});
        let rbac = rbac(&[
            ("clusterroles", "view", rules),
            ("bindings", "shop/viewers", binding("view")),
            ("clusterrolebindings", "viewers", binding("view")),
        ]);
        let till = UserInfo::new("system:serviceaccount:shop:till", &[]);
        let decision = rbac.authorize(&till, &get_pods("shop")).await;
        assert_eq!(
            decision.reason(),
            "RBAC: allowed by RoleBinding \"viewers/shop\" of ClusterRole \"view\" to ServiceAccount \"till/shop\""
        );
        assert!(!rbac.authorize(&till, &get_pods("bank")).await.allowed());
        let other = UserInfo::new("system:serviceaccount:bank:till", &[]);
        assert!(!rbac.authorize(&other, &get_pods("shop")).await.allowed());
        assert!(!rbac.authorize(&UserInfo::new("system:serviceaccount::till", &[]), &get_pods("shop")).await.allowed());
    }

    #[tokio::test]
    async fn a_deleted_binding_grants_no_more() {
        let rbac = example();
        rbac.index.write().bindings.apply(Change::Delete { key: "shop/viewers" });
        assert!(!rbac.authorize(&UserInfo::new("ann", &["clerks"]), &get_pods("shop")).await.allowed());
        assert!(rbac.index.read().bindings.by_subject.is_empty());
    }
}
