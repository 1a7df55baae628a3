//! Kinds that are asked and never kept: who am I, may I (`pkg/registry/{authentication,authorization}`).

mod selectors;

use std::sync::Arc;

use api::field::{Error, ErrorList, Path};
use api::kind::Action;
use api::services::{ActionContext, AuthorizationAttributes, Decision};
use api::{Object, Status, UserInfo};
use async_trait::async_trait;
use serde_json::{Map, Value, json};

use crate::define::Extra;
use crate::json::{Json, same};
use crate::printed::Printed;
use crate::timestamp;

/// What is special about a kind of these groups.
pub(crate) fn extra(kind: &str) -> Option<Extra> {
    let action: Arc<dyn Action> = match kind {
        "TokenReview" => Arc::new(TokenReview),
        "SelfSubjectReview" => Arc::new(SelfSubjectReview),
        "SubjectAccessReview" => Arc::new(AccessReview { kind: "SubjectAccessReview" }),
        "LocalSubjectAccessReview" => Arc::new(AccessReview { kind: "LocalSubjectAccessReview" }),
        "SelfSubjectAccessReview" => Arc::new(AccessReview { kind: "SelfSubjectAccessReview" }),
        "SelfSubjectRulesReview" => Arc::new(RulesReview),
        _ => return None,
    };
    Some(Extra { action: Some(action), ..Extra::default() })
}

fn user_value(user: &UserInfo) -> Value {
    let mut value = Map::new();
    let mut set = |name: &str, v: Value, empty: bool| {
        if !empty {
            value.insert(name.to_owned(), v);
        }
    };
    set("username", user.name.as_str().into(), user.name.is_empty());
    set("uid", user.uid.as_str().into(), user.uid.is_empty());
    set("groups", json!(user.groups), user.groups.is_empty());
    set("extra", json!(user.extra), user.extra.is_empty());
    Value::Object(value)
}

struct TokenReview;

#[async_trait]
impl Action for TokenReview {
    async fn run(&self, ctx: &ActionContext<'_>, _: &str, _: &str, mut body: Object) -> Result<Object, Status> {
        let spec = body.at("spec");
        let token = spec.text("token");
        if token.is_empty() {
            return Err(Status::bad_request("token is required for TokenReview in authentication"));
        }
        let audiences: Vec<String> =
            spec.list("audiences").iter().filter_map(Value::as_str).map(str::to_owned).collect();
        let status = match ctx.tokens.review(token, &audiences).await {
            Ok((user, audiences)) => {
                let mut status = json!({"authenticated": true, "user": user_value(&user)});
                if !audiences.is_empty() {
                    status["audiences"] = json!(audiences);
                }
                status
            }
            Err(text) => json!({"user": {}, "error": text}),
        };
        body.set(&["status"], status);
        Ok(body)
    }
}

struct SelfSubjectReview;

#[async_trait]
impl Action for SelfSubjectReview {
    async fn run(&self, ctx: &ActionContext<'_>, _: &str, _: &str, mut body: Object) -> Result<Object, Status> {
        body.set(&["metadata"], json!({"creationTimestamp": timestamp(ctx.now)}));
        body.set(&["status"], json!({"userInfo": user_value(ctx.user)}));
        Ok(body)
    }
}

struct RulesReview;

#[async_trait]
impl Action for RulesReview {
    async fn run(&self, ctx: &ActionContext<'_>, _: &str, _: &str, mut body: Object) -> Result<Object, Status> {
        let namespace = body.at("spec").text("namespace").to_owned();
        if namespace.is_empty() {
            return Err(Status::bad_request("no namespace on request"));
        }
        let (resources, paths, incomplete) = ctx.authorizer.rules(ctx.user, &namespace).await;
        body.set(&["spec"], json!({}));
        body.set(&["metadata"], json!({}));
        let mut status = json!({"resourceRules": resources, "nonResourceRules": paths, "incomplete": incomplete});
        if let Some(why) = ctx.authorizer.rules_error(ctx.user) {
            status["evaluationError"] = why.into();
        }
        body.set(&["status"], status);
        Ok(body)
    }
}

/// The three reviews of one question; they differ in whose access is asked after.
struct AccessReview {
    kind: &'static str,
}

#[async_trait]
impl Action for AccessReview {
    async fn run(&self, ctx: &ActionContext<'_>, namespace: &str, _: &str, mut body: Object) -> Result<Object, Status> {
        let errors = self.validate(&body, namespace);
        if !errors.is_empty() {
            return Err(Status::invalid("authorization.k8s.io", "", "", &errors));
        }
        let spec = body.at("spec");
        let user = if self.kind == "SelfSubjectAccessReview" { ctx.user.clone() } else { subject(spec) };
        let (attributes, mut problems) = attributes(spec);
        let (decision, failure) = ctx.authorizer.authorize_or_fail(&user, &attributes).await;
        problems.splice(0..0, failure);
        let mut status = json!({"allowed": decision.allowed()});
        if let Decision::Deny { .. } = decision {
            status["denied"] = true.into();
        }
        if !decision.reason().is_empty() {
            status["reason"] = decision.reason().into();
        }
        if !problems.is_empty() {
            status["evaluationError"] = problems.join("; ").into();
        }
        body.set(&["status"], status);
        Ok(body)
    }
}

impl AccessReview {
    fn validate(&self, body: &Object, namespace: &str) -> ErrorList {
        let mut errors = ErrorList::new();
        let (spec, at) = (body.at("spec"), Path::new("spec"));
        let (resource, path) = (spec.at("resourceAttributes"), spec.at("nonResourceAttributes"));
        if resource.is_null() == path.is_null() {
            let text = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
            errors.push(Error::invalid(at.clone(), path.clone(), text).printed("*authorization.NonResourceAttributes"));
        }
        if self.kind != "SelfSubjectAccessReview" && spec.count("user") + spec.count("groups") == 0 {
            let text = "at least one of user or group must be specified";
            errors.push(Error::invalid(at.child("user"), "", text));
        }
        if !resource.is_null() {
            selectors::validate(resource, &at.child("resourceAttributes"), &mut errors);
        }
        let local = self.kind == "LocalSubjectAccessReview";
        let mut metadata = body.at("metadata").as_object().cloned().unwrap_or_default();
        metadata.remove("managedFields");
        if local {
            metadata.remove("namespace");
        }
        metadata.retain(|_, value| !same(value, &Value::Null));
        if !metadata.is_empty() {
            let text = if local { "must be empty except for namespace" } else { "must be empty" };
            let error = Error::invalid(Path::new("metadata"), body.at("metadata").clone(), text);
            errors.push(error.printed("@io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"));
        }
        if local && !resource.is_null() && resource.text("namespace") != namespace {
            let value = resource.text("namespace");
            let at = Path::new("spec.resourceAttributes.namespace");
            errors.push(Error::invalid(at, value, "must match metadata.namespace"));
        }
        if local && !path.is_null() {
            let at = Path::new("spec.nonResourceAttributes");
            let error = Error::invalid(at, path.clone(), "disallowed on this kind of request");
            errors.push(error.printed("*authorization.NonResourceAttributes"));
        }
        errors
    }
}

fn subject(spec: &Value) -> UserInfo {
    let strings = |list: &[Value]| list.iter().filter_map(Value::as_str).map(str::to_owned).collect();
    UserInfo {
        name: spec.text("user").to_owned(),
        uid: spec.text("uid").to_owned(),
        groups: strings(spec.list("groups")),
        extra: spec
            .entries("extra")
            .map(|(key, value)| (key.to_lowercase(), strings(value.as_array().map_or(&[], Vec::as_slice))))
            .collect(),
    }
}

/// The question, and what of it could not be read.
fn attributes(spec: &Value) -> (AuthorizationAttributes, Vec<String>) {
    let resource = spec.at("resourceAttributes");
    if resource.is_null() {
        let path = spec.at("nonResourceAttributes");
        let attributes = AuthorizationAttributes {
            verb: path.text("verb").to_owned(),
            path: path.text("path").to_owned(),
            ..AuthorizationAttributes::default()
        };
        return (attributes, Vec::new());
    }
    let (fields, labels) = (selectors::field_text(resource), selectors::label_text(resource));
    let problems = fields.error("fieldSelector").into_iter().chain(labels.error("labelSelector")).collect();
    let text = |name: &str| resource.text(name).to_owned();
    let version = if resource.count("version") == 0 { "*".to_owned() } else { text("version") };
    let attributes = AuthorizationAttributes {
        verb: text("verb"),
        is_resource: true,
        group: text("group"),
        version,
        resource: text("resource"),
        subresource: text("subresource"),
        namespace: text("namespace"),
        name: text("name"),
        path: String::new(),
        field_selector: fields.selector,
        label_selector: labels.selector,
    };
    (attributes, problems)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_question_at_a_time() {
        let check = |spec: Value, want: &[&str]| {
            let body = Object::from_value(json!({"spec": spec})).unwrap();
            let errors = AccessReview { kind: "SubjectAccessReview" }.validate(&body, "");
            assert_eq!(errors.iter().map(|e| e.path.to_string()).collect::<Vec<_>>(), want);
        };
        check(json!({"user": "a", "resourceAttributes": {"verb": "get", "resource": "pods"}}), &[]);
        check(json!({"user": "a"}), &["spec"]);
        check(json!({"nonResourceAttributes": {"path": "/x"}}), &["spec.user"]);
    }
}
