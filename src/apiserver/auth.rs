//! Who asks, and whether they may.
//!
//! [`authenticate`] turns certificates and tokens into a user; [`Union`] asks the authorisers in turn: the superuser
//! group, the Node authoriser, RBAC. Nothing here writes to the store.

pub mod authenticate;
pub mod certificate;
mod feed;
pub mod front_proxy;
pub mod node;
pub mod rbac;
pub mod rules;
pub mod tokens;

use std::sync::Arc;

use api::UserInfo;
use api::services::{AuthorizationAttributes, Authorizer, Decision};
use async_trait::async_trait;
use serde_json::{Value, json};

pub use authenticate::Authenticator;
pub use certificate::ConnectionIdentity;

/// Asks authorisers in turn until one allows or denies.
pub struct Union {
    authorizers: Vec<Arc<dyn Authorizer>>,
}

impl Union {
    pub fn new(authorizers: Vec<Arc<dyn Authorizer>>) -> Self {
        Self { authorizers }
    }
}

#[async_trait]
impl Authorizer for Union {
    async fn authorize(&self, user: &UserInfo, attributes: &AuthorizationAttributes) -> Decision {
        if user.in_group(api::user::MASTERS) {
            return Decision::Allow { reason: String::new() };
        }
        let mut reasons = Vec::new();
        for authorizer in &self.authorizers {
            match authorizer.authorize(user, attributes).await {
                Decision::NoOpinion { reason } if reason.is_empty() => {}
                Decision::NoOpinion { reason } => reasons.push(reason),
                decided => return decided,
            }
        }
        Decision::NoOpinion { reason: reasons.join("\n") }
    }

    async fn rules(&self, user: &UserInfo, namespace: &str) -> (Vec<Value>, Vec<Value>, bool) {
        let (mut resources, mut urls, mut incomplete) = (Vec::new(), Vec::new(), false);
        if user.in_group(api::user::MASTERS) {
            resources.push(json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}));
            urls.push(json!({"verbs": ["*"], "nonResourceURLs": ["*"]}));
        }
        for authorizer in &self.authorizers {
            let (more_resources, more_urls, partial) = authorizer.rules(user, namespace).await;
            resources.extend(more_resources);
            urls.extend(more_urls);
            incomplete |= partial;
        }
        (resources, urls, incomplete)
    }
}

/// Why a request is refused, in upstream's words (`endpoints/handlers/responsewriters/errors.go` `ForbiddenMessage`).
pub fn forbidden_message(user: &UserInfo, attributes: &AuthorizationAttributes) -> String {
    let name = &user.name;
    let verb = &attributes.verb;
    if !attributes.is_resource {
        return format!("User {name:?} cannot {verb} path {:?}", attributes.path);
    }
    let mut resource = attributes.resource.clone();
    if !attributes.subresource.is_empty() {
        resource = format!("{resource}/{}", attributes.subresource);
    }
    let group = &attributes.group;
    if attributes.namespace.is_empty() {
        format!("User {name:?} cannot {verb} resource {resource:?} in API group {group:?} at the cluster scope")
    } else {
        let namespace = &attributes.namespace;
        format!(
            "User {name:?} cannot {verb} resource {resource:?} in API group {group:?} in the namespace {namespace:?}"
        )
    }
}
