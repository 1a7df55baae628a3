//! Who asks, and whether they may.
//!
//! [`authenticate`] turns certificates and tokens into a user; [`Union`] asks the authorisers in turn: the superuser
//! group, the Node authoriser, RBAC. Nothing here writes to the store.

pub mod abac;
pub mod authenticate;
pub mod bearer;
pub mod bootstrap;
pub mod certificate;
mod config_file;
pub mod decisions;
mod feed;
pub mod front_proxy;
pub mod hooks;
pub mod modes;
pub mod node;
pub mod oidc;
pub mod rbac;
pub mod rules;
pub mod tokens;

use std::sync::Arc;

use api::UserInfo;
use api::services::{AuthorizationAttributes, Authorizer, Decision};
use async_trait::async_trait;
use serde_json::Value;

pub use authenticate::{AnonymousAccess, Authenticator};
pub use certificate::ConnectionIdentity;

/// One authoriser of a [`Union`].
pub struct Named {
    /// As the configuration names it: before its reasons.
    pub name: String,
    /// Its type, as `--authorization-mode` calls it.
    pub kind: &'static str,
    pub authorizer: Arc<dyn Authorizer>,
}

/// Asks authorisers in turn until one allows or denies.
pub struct Union {
    authorizers: Vec<Named>,
    decisions: Arc<decisions::Decisions>,
}

impl Union {
    /// `decisions` counts what they say.
    pub fn new(authorizers: Vec<Named>, decisions: Arc<decisions::Decisions>) -> Self {
        Self { authorizers, decisions }
    }
}

#[async_trait]
impl Authorizer for Union {
    async fn authorize(&self, user: &UserInfo, attributes: &AuthorizationAttributes) -> Decision {
        self.authorize_or_fail(user, attributes).await.0
    }

    /// `unionAuthzHandler.Authorize`.
    async fn authorize_or_fail(
        &self,
        user: &UserInfo,
        attributes: &AuthorizationAttributes,
    ) -> (Decision, Option<String>) {
        if user.in_group(api::user::MASTERS) {
            return (Decision::Allow { reason: String::new() }, None);
        }
        let (mut reasons, mut errors) = (Vec::new(), Vec::new());
        for Named { name, kind, authorizer } in &self.authorizers {
            let (decision, error) = authorizer.authorize_or_fail(user, attributes).await;
            match decision {
                Decision::NoOpinion { reason } => {
                    reasons.extend((!reason.is_empty()).then(|| format!("{name}: {reason}")));
                    errors.extend(error);
                }
                decided => {
                    self.decisions.count(kind, name, decided.allowed());
                    return (decided, error);
                }
            }
        }
        let error = match errors.as_slice() {
            [] => None,
            [one] => Some(one.clone()),
            many => Some(format!("[{}]", many.join(", "))),
        };
        (Decision::NoOpinion { reason: reasons.join("\n") }, error)
    }

    async fn rules(&self, user: &UserInfo, namespace: &str) -> (Vec<Value>, Vec<Value>, bool) {
        let (mut resources, mut urls, mut incomplete) = (Vec::new(), Vec::new(), false);
        // The group of masters, which asks nobody, has no rules of its own (`authorizer/reload.go`).
        for Named { authorizer, .. } in &self.authorizers {
            let (more_resources, more_urls, partial) = authorizer.rules(user, namespace).await;
            resources.extend(more_resources);
            urls.extend(more_urls);
            incomplete |= partial;
        }
        (resources, urls, incomplete)
    }

    fn rules_error(&self, user: &UserInfo) -> Option<String> {
        let errors: Vec<String> =
            self.authorizers.iter().filter_map(|named| named.authorizer.rules_error(user)).collect();
        (!errors.is_empty()).then(|| errors.join(", "))
    }
}
