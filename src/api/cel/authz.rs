//! The authoriser in expressions: `authorizer.group('').resource('pods').check('list').allowed()` (apiserver
//! `cel/library/authz.go`).
//!
//! Authorisers are asynchronous and evaluation is not: an evaluation that needs an answer which is not there ends with
//! [`EvalError::Unanswered`]; the caller gets the answer and evaluates again. A check costs so much that there are no more
//! than two in an expression.

use std::sync::Arc;

use super::error::EvalError;
use super::value::Value;
use crate::services::{AuthorizationAttributes, Decision};
use crate::user::UserInfo;

/// Answers an expression's questions.
pub trait Authorize {
    /// The decision; `None` if it is not known yet.
    fn authorize(&self, user: &UserInfo, attributes: &AuthorizationAttributes) -> Option<Decision>;
}

/// A value on the way from the authoriser to a decision.
#[derive(Debug, Clone)]
pub enum Authz {
    Authorizer { user: Arc<UserInfo> },
    Path { user: Arc<UserInfo>, path: String },
    Group { user: Arc<UserInfo>, group: String },
    Resource { user: Arc<UserInfo>, attributes: Box<AuthorizationAttributes> },
    Decision(Decision),
}

impl Authz {
    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Self::Authorizer { .. } => "kubernetes.authorization.Authorizer",
            Self::Path { .. } => "kubernetes.authorization.PathCheck",
            Self::Group { .. } => "kubernetes.authorization.GroupCheck",
            Self::Resource { .. } => "kubernetes.authorization.ResourceCheck",
            Self::Decision(_) => "kubernetes.authorization.Decision",
        }
    }
}

impl Value {
    /// The variable `authorizer`, for the user who makes the request.
    pub fn authorizer(user: UserInfo) -> Self {
        Self::Authz(Arc::new(Authz::Authorizer { user: Arc::new(user) }))
    }

    /// The variable `authorizer.requestResource`: `attributes` without a verb.
    pub fn request_resource(user: UserInfo, attributes: AuthorizationAttributes) -> Self {
        Self::Authz(Arc::new(Authz::Resource { user: Arc::new(user), attributes: Box::new(attributes) }))
    }
}

/// The functions of these values; `None` if this is none of them.
pub(super) fn call(name: &str, args: &[Value], authorizer: Option<&dyn Authorize>) -> Option<Result<Value, EvalError>> {
    let [Value::Authz(target), rest @ ..] = args else { return None };
    let text = |i: usize| match rest.get(i) {
        Some(Value::String(text)) => Some(text.to_string()),
        _ => None,
    };
    let made = |authz: Authz| Ok(Value::Authz(Arc::new(authz)));
    Some(match (&**target, name, text(0)) {
        (Authz::Authorizer { user }, "path", Some(path)) => {
            if path.trim().is_empty() {
                return Some(Err(EvalError::new("path must not be empty")));
            }
            made(Authz::Path { user: Arc::clone(user), path })
        }
        (Authz::Authorizer { user }, "group", Some(group)) => made(Authz::Group { user: Arc::clone(user), group }),
        (Authz::Authorizer { .. }, "serviceAccount", Some(namespace)) => match text(1) {
            Some(name) => service_account(&namespace, &name),
            None => Err(EvalError::no_such_overload()),
        },
        (Authz::Group { user, group }, "resource", Some(resource)) => {
            if resource.trim().is_empty() {
                return Some(Err(EvalError::new("resource must not be empty")));
            }
            let attributes = AuthorizationAttributes {
                is_resource: true,
                group: group.clone(),
                version: "*".to_owned(),
                resource,
                ..AuthorizationAttributes::default()
            };
            made(Authz::Resource { user: Arc::clone(user), attributes: Box::new(attributes) })
        }
        (Authz::Resource { user, attributes }, "check", Some(verb)) => {
            let attributes = AuthorizationAttributes { verb, ..(**attributes).clone() };
            decide(authorizer, user, &attributes)
        }
        (Authz::Path { user, path }, "check", Some(verb)) => {
            let attributes = AuthorizationAttributes { verb, path: path.clone(), ..AuthorizationAttributes::default() };
            decide(authorizer, user, &attributes)
        }
        (Authz::Resource { user, attributes }, _, Some(text)) => {
            let mut attributes = attributes.clone();
            match name {
                "subresource" => attributes.subresource = text,
                "namespace" => attributes.namespace = text,
                "name" => attributes.name = text,
                "fieldSelector" => attributes.field_selector = text,
                "labelSelector" => attributes.label_selector = text,
                _ => return Some(Err(EvalError::no_such_overload())),
            }
            made(Authz::Resource { user: Arc::clone(user), attributes })
        }
        (Authz::Decision(decision), "allowed", _) => Ok(Value::Bool(decision.allowed())),
        (Authz::Decision(decision), "reason", _) => Ok(decision.reason().into()),
        // Authorisers here decide or have no opinion; they do not fail.
        (Authz::Decision(_), "errored", _) => Ok(Value::Bool(false)),
        (Authz::Decision(_), "error", _) => Ok("".into()),
        _ => Err(EvalError::no_such_overload()),
    })
}

fn decide(
    authorizer: Option<&dyn Authorize>,
    user: &UserInfo,
    attributes: &AuthorizationAttributes,
) -> Result<Value, EvalError> {
    let Some(authorizer) = authorizer else { return Err(EvalError::new("no authorizer here")) };
    let decision = authorizer.authorize(user, attributes).ok_or(EvalError::Unanswered)?;
    Ok(Value::Authz(Arc::new(Authz::Decision(decision))))
}

fn service_account(namespace: &str, name: &str) -> Result<Value, EvalError> {
    if !crate::validation::dns1123_subdomain(name, false).is_empty() {
        return Err(EvalError::new("Invalid service account name"));
    }
    if !crate::validation::dns1123_label(namespace, false).is_empty() {
        return Err(EvalError::new("Invalid service account namespace"));
    }
    let groups = ["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")];
    let groups: Vec<&str> = groups.iter().map(String::as_str).collect();
    let user = UserInfo::new(format!("system:serviceaccount:{namespace}:{name}"), &groups);
    Ok(Value::authorizer(user))
}
