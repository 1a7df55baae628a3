//! Who may ask the node agent what (upstream `kubelet/server/auth.go`, `cmd/kubelet/app/auth.go`): the API server's
//! certificate or a token names the user, the API server's authorizer decides.

use std::collections::HashMap;
use std::time::Duration;

use axum::extract::Request;
use axum::response::Response;
use http::{Method, StatusCode, header};
use parking_lot::Mutex;
use rustls_pki_types::CertificateDer;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use super::text;
use crate::context::Context;

const TOKEN_TTL: Duration = Duration::from_secs(120);
const ALLOWED_TTL: Duration = Duration::from_secs(300);
const DENIED_TTL: Duration = Duration::from_secs(30);
/// Answers kept; when full, the stale ones go, and then all.
const MAX_KEPT: usize = 1000;

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
struct User {
    name: String,
    uid: String,
    groups: Vec<String>,
}

type Question = (User, &'static str, String);

#[derive(Default)]
struct Kept {
    /// By the token's digest: tokens themselves are not kept.
    tokens: HashMap<[u8; 32], (Instant, User)>,
    decisions: HashMap<Question, (Instant, bool)>,
}

/// What a request asks for, and with which token.
pub(super) struct Asked {
    token: Option<String>,
    verb: &'static str,
    subresources: Vec<&'static str>,
}

impl Asked {
    pub fn of(request: &Request) -> Self {
        Self {
            token: bearer(request).map(str::to_owned),
            verb: verb(request.method()),
            subresources: subresources(request.uri().path()),
        }
    }
}

/// Answers of the API server, kept for a while.
#[derive(Default)]
pub(super) struct Auth {
    kept: Mutex<Kept>,
}

impl Auth {
    /// The answer to send instead when the request is refused.
    pub async fn check(
        &self,
        ctx: &Context,
        certificate: Option<&CertificateDer<'static>>,
        asked: Asked,
    ) -> Result<(), Response> {
        let unauthorized = || text(StatusCode::UNAUTHORIZED, "Unauthorized");
        let user = match from_certificate(ctx, certificate) {
            Some(user) => user,
            None => {
                let token = asked.token.ok_or_else(unauthorized)?;
                self.from_token(ctx, &token).await?.ok_or_else(unauthorized)?
            }
        };
        let Asked { verb, subresources, .. } = asked;
        for subresource in &subresources {
            if self.is_allowed(ctx, &user, verb, subresource).await? {
                return Ok(());
            }
        }
        let message = format!(
            "Forbidden (user={}, verb={verb}, resource=nodes, subresource(s)=[{}])\n",
            user.name,
            subresources.join(" ")
        );
        Err(text(StatusCode::FORBIDDEN, message))
    }

    async fn from_token(&self, ctx: &Context, token: &str) -> Result<Option<User>, Response> {
        let key: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        if let Some((until, user)) = self.kept.lock().tokens.get(&key)
            && *until > Instant::now()
        {
            return Ok(Some(user.clone()));
        }
        let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}});
        let answer = post(ctx, "/apis/authentication.k8s.io/v1/tokenreviews", &review).await?;
        let status = &answer["status"];
        if status["authenticated"] != true {
            return Ok(None);
        }
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        let groups = status["user"]["groups"].as_array();
        let user = User {
            name: text(&status["user"]["username"]),
            uid: text(&status["user"]["uid"]),
            groups: groups.into_iter().flatten().map(text).collect(),
        };
        let mut kept = self.kept.lock();
        if kept.tokens.len() >= MAX_KEPT {
            kept.tokens.clear();
        }
        kept.tokens.insert(key, (Instant::now() + TOKEN_TTL, user.clone()));
        Ok(Some(user))
    }

    async fn is_allowed(
        &self,
        ctx: &Context,
        user: &User,
        verb: &'static str,
        subresource: &str,
    ) -> Result<bool, Response> {
        let question = (user.clone(), verb, subresource.to_owned());
        if let Some((until, allowed)) = self.kept.lock().decisions.get(&question)
            && *until > Instant::now()
        {
            return Ok(*allowed);
        }
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
            "spec": {
                "user": user.name, "uid": user.uid, "groups": user.groups,
                "resourceAttributes": {
                    "verb": verb, "version": "v1", "resource": "nodes", "subresource": subresource,
                    "name": ctx.config.node_name,
                },
            },
        });
        let answer = post(ctx, "/apis/authorization.k8s.io/v1/subjectaccessreviews", &review).await?;
        let allowed = answer["status"]["allowed"] == true;
        let mut kept = self.kept.lock();
        if kept.decisions.len() >= MAX_KEPT {
            kept.decisions.clear();
        }
        let until = Instant::now() + if allowed { ALLOWED_TTL } else { DENIED_TTL };
        kept.decisions.insert(question, (until, allowed));
        Ok(allowed)
    }
}

async fn post(ctx: &Context, path: &str, review: &Value) -> Result<Value, Response> {
    let failed = |error: String| {
        tracing::warn!(path, error, "the API server did not review a request");
        text(StatusCode::INTERNAL_SERVER_ERROR, format!("Internal Server Error: {error}\n"))
    };
    let answer = ctx.client.raw(Method::POST, path, "application/json", review.to_string().into_bytes()).await;
    let bytes = answer.map_err(|e| failed(base::chain(&e).to_string()))?;
    serde_json::from_slice(&bytes).map_err(|e| failed(e.to_string()))
}

fn from_certificate(ctx: &Context, certificate: Option<&CertificateDer<'static>>) -> Option<User> {
    let certificate = certificate?;
    let now = ctx.clock.now().as_second();
    let subject = ctx.config.client_ca.iter().find_map(|ca| match pki::authority::verify_client(certificate, ca) {
        Ok(subject) => Some(subject),
        Err(why) => {
            tracing::debug!(why, "client certificate refused");
            None
        }
    })?;
    if now < subject.not_before || now > subject.not_after {
        return None;
    }
    Some(User { name: subject.common_name, uid: String::new(), groups: with_authenticated(subject.organizations) })
}

fn with_authenticated(mut groups: Vec<String>) -> Vec<String> {
    groups.push(api::user::AUTHENTICATED.to_owned());
    groups
}

fn bearer(request: &Request) -> Option<&str> {
    let value = request.headers().get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token.trim())
}

fn verb(method: &Method) -> &'static str {
    match method.as_str() {
        "POST" => "create",
        "GET" => "get",
        "PUT" => "update",
        "PATCH" => "patch",
        "DELETE" => "delete",
        _ => "",
    }
}

/// Subresources of the node, one of which the user must be allowed (upstream `GetRequestAttributes`).
fn subresources(path: &str) -> Vec<&'static str> {
    let below = |prefix: &str| path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    if below("/stats") {
        return vec!["stats"];
    }
    if below("/metrics") {
        return vec!["metrics"];
    }
    if below("/logs") {
        return vec!["log"];
    }
    if below("/checkpoint") {
        return vec!["checkpoint"];
    }
    let fine = [("/pods", "pods"), ("/healthz", "healthz"), ("/configz", "configz"), ("/runningpods", "pods")];
    let first = fine.into_iter().find(|(prefix, _)| below(prefix)).map(|(_, name)| name);
    first.into_iter().chain(["proxy"]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_the_subresource_that_is_asked_for() {
        let check = |path: &str, expected: &[&str]| assert_eq!(subresources(path), expected, "{path}");
        check("/stats/summary", &["stats"]);
        check("/metrics/cadvisor", &["metrics"]);
        check("/pods", &["pods", "proxy"]);
        check("/exec/ns/p/c", &["proxy"]);
        check("/healthz", &["healthz", "proxy"]);
    }
}
