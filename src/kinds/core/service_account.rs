//! ServiceAccounts and their tokens.

use std::sync::Arc;

use api::field::{Error, Path};
use api::kind::{Action, SubresourceKind};
use api::services::{ActionContext, TokenRequest};
use api::{GroupResource, Gvr, Object, Status};
use async_trait::async_trait;
use serde_json::{Value, json};

use crate::columns::{age, name};
use crate::define::Extra;
use crate::json::{Json, dig, items_mut};
use crate::rules::Rules;
use crate::timestamp;

/// The longest life that a token may be asked for: 2^32 seconds.
const LONGEST: i64 = 1 << 32;
const SHORTEST: i64 = 600;
const ENFORCE_MOUNTABLE: &str = "kubernetes.io/enforce-mountable-secrets";
/// `SetDefaults_TokenRequestSpec`.
const DEFAULT: i64 = 3600;

pub(super) fn extra() -> Extra {
    let rules = Rules {
        warnings: |object, old| match (
            old.and_then(|old| old.annotation(ENFORCE_MOUNTABLE)),
            object.annotation(ENFORCE_MOUNTABLE),
        ) {
            (None, Some(_)) => vec![format!(
                "metadata.annotations[{ENFORCE_MOUNTABLE}]: deprecated in v1.32+; prefer separate namespaces to isolate \
                 access to mounted secrets"
            )],
            _ => Vec::new(),
        },
        create: |_, object| secret_names(object),
        update: |_, object, _| secret_names(object),
        ..Rules::GENERIC
    };
    // Upstream's table shows Secrets no more: bound tokens took their place.
    Extra::new(rules, vec![name(), age()]).with_subresource("token", SubresourceKind::Action(Arc::new(Token)))
}

/// `cleanSecretReferences`: of the Secrets nothing but their names is kept.
fn secret_names(object: &mut Object) {
    for secret in items_mut(&mut object.0, "secrets") {
        secret.retain(|member, _| member == "name");
    }
}

/// `serviceaccounts/token` (`pkg/registry/core/serviceaccount/storage/token.go`).
struct Token;

#[async_trait]
impl Action for Token {
    fn default(&self, body: &mut Object) {
        if body.at("spec").int("expirationSeconds").is_none() {
            body.set(&["spec", "expirationSeconds"], DEFAULT);
        }
    }

    async fn run(
        &self,
        ctx: &ActionContext<'_>,
        namespace: &str,
        name: &str,
        mut body: Object,
    ) -> Result<Object, Status> {
        let invalid = |at: &str, value: &str, text: &str| {
            let errors = [Error::invalid(Path::new("metadata").child(at), value, text)];
            Status::invalid("authentication.k8s.io", "TokenRequest", name, &errors)
        };
        for (member, own) in [("name", name), ("namespace", namespace)] {
            let given = dig(&body, &["metadata", member]).as_str().unwrap_or_default();
            if !given.is_empty() && given != own {
                return Err(invalid(member, given, &format!("must match the service account {member} if specified")));
            }
        }
        let accounts = Gvr::new("", "v1", "serviceaccounts");
        let account = ctx.registry.get(&accounts, namespace, name).await?;
        let (uid, own) = (body.uid().to_owned(), account.uid());
        if !uid.is_empty() && uid != own {
            let why =
                format!("the UID in the token request ({uid}) does not match the UID of the service account ({own})");
            return Err(Status::conflict(&GroupResource::new("authentication.k8s.io", "TokenRequest"), name, why));
        }
        if body.at("spec").count("audiences") == 0 {
            body.set(&["spec", "audiences"], json!(ctx.tokens.audiences()));
        }
        let spec = body.at("spec").clone();
        let seconds = spec.int("expirationSeconds").unwrap_or(DEFAULT);
        let at = Path::new("spec").child("expirationSeconds");
        let problem = match seconds {
            ..SHORTEST => Some("may not specify a duration less than 10 minutes"),
            SHORTEST..=LONGEST => None,
            _ => Some("may not specify a duration larger than 2^32 seconds"),
        };
        if let Some(text) = problem {
            let errors = [Error::invalid(at, seconds, text)];
            return Err(Status::invalid("authentication.k8s.io", "TokenRequest", "", &errors));
        }
        let (bound_object, node) = bound(ctx, namespace, name, spec.at("boundObjectRef")).await?;
        let audiences = spec.list("audiences").iter().filter_map(Value::as_str).map(str::to_owned).collect();
        let request = TokenRequest {
            namespace: namespace.to_owned(),
            service_account: name.to_owned(),
            service_account_uid: account.uid().to_owned(),
            audiences,
            expiration_seconds: seconds,
            bound_object,
            node,
        };
        let (token, expires) = ctx.tokens.issue(request).await?;
        body.set(&["metadata", "name"], name);
        body.set(&["metadata", "namespace"], namespace);
        body.set(&["metadata", "uid"], account.uid());
        body.set(&["metadata", "creationTimestamp"], timestamp(ctx.now));
        body.set(&["spec", "expirationSeconds"], seconds);
        body.set(&["status"], json!({"token": token, "expirationTimestamp": timestamp(expires)}));
        Ok(body)
    }
}

type Bound = (Option<(String, String, String)>, Option<(String, String)>);

/// The object that a token is bound to, and its node if it is a pod.
async fn bound(ctx: &ActionContext<'_>, namespace: &str, account: &str, reference: &Value) -> Result<Bound, Status> {
    if reference.is_null() {
        return Ok((None, None));
    }
    let (kind, name) = (reference.text("kind"), reference.text("name"));
    let (group, version) = match reference.text("apiVersion") {
        version if version.contains('/') => version.split_once('/').unwrap_or_default(),
        version => ("", version),
    };
    // The version counts for nothing, as upstream has it.
    let (resource, namespace) = match (group, kind) {
        ("", "Pod") => ("pods", namespace),
        ("", "Secret") => ("secrets", namespace),
        ("", "Node") => ("nodes", ""),
        _ => {
            let text = format!("cannot bind token to object of type {group}/{version}, Kind={kind}");
            return Err(Status::bad_request(text));
        }
    };
    if name.is_empty() {
        return Err(Status::bad_request("Name parameter required."));
    }
    let object = ctx.registry.get(&Gvr::new("", "v1", resource), namespace, name).await?;
    let mut node = None;
    if kind == "Pod" {
        let own = dig(&object, &["spec", "serviceAccountName"]).as_str().unwrap_or_default();
        if own != account {
            let text = format!(
                "cannot bind token for serviceaccount {account:?} to pod running with different \
                serviceaccount name."
            );
            return Err(Status::bad_request(text));
        }
        let node_name = dig(&object, &["spec", "nodeName"]).as_str().unwrap_or_default();
        if !node_name.is_empty() {
            // A pod whose node object is gone still gets its token, without the node's uid.
            let uid = match ctx.registry.get(&Gvr::new("", "v1", "nodes"), "", node_name).await {
                Ok(found) => found.uid().to_owned(),
                Err(status) if status.is_not_found() => String::new(),
                Err(status) => return Err(status),
            };
            node = Some((node_name.to_owned(), uid));
        }
    }
    let uid = reference.text("uid");
    if !uid.is_empty() && uid != object.uid() {
        let why = format!(
            "the UID in the bound object reference ({uid}) does not match the UID in record. The object \
            might have been deleted and then recreated"
        );
        return Err(Status::conflict(&GroupResource::new("", kind), name, why));
    }
    Ok((Some((kind.to_owned(), name.to_owned(), object.uid().to_owned())), node))
}
