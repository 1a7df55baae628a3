//! Service account tokens for pods, asked for by TokenRequest and renewed in time (upstream `kubelet/token`).

use std::collections::HashMap;
use std::time::Duration;

use base::Backoff;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount, ServiceAccountTokenProjection};
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::VolumeError;
use crate::context::Context;
use crate::spec;

/// Requests that may be refused before the refusal counts.
const FORBIDDEN_RETRIES: u32 = 6;
const MAX_TTL: SignedDuration = SignedDuration::from_hours(24);

/// A token and how long it may be used before a new one is due.
#[derive(Clone)]
pub struct Token {
    pub text: String,
    pub expires: Timestamp,
    pub refresh_after: Duration,
}

struct Held {
    text: String,
    issued: Timestamp,
    expires: Timestamp,
}

impl Held {
    /// Renewed after 80 % of its life or a day, whichever is first (upstream `requiresRefresh`).
    fn refresh_at(&self) -> Timestamp {
        let life = self.expires.duration_since(self.issued);
        self.issued + (life * 8 / 10).min(MAX_TTL)
    }
}

type Key = (String, String, i64);

/// Tokens by pod, audience and life; in memory only.
#[derive(Default)]
pub struct Tokens {
    held: Mutex<HashMap<Key, Held>>,
}

impl Tokens {
    pub async fn get(
        &self,
        ctx: &Context,
        pod: &Pod,
        source: &ServiceAccountTokenProjection,
    ) -> Result<Token, VolumeError> {
        let audience = source.audience.clone().unwrap_or_default();
        let seconds = source.expiration_seconds.unwrap_or(3600);
        let key = (spec::uid(pod).to_owned(), audience.clone(), seconds);
        let now = ctx.clock.now();
        if let Some(held) = self.held.lock().get(&key)
            && held.refresh_at() > now
        {
            return Ok(token(held, now));
        }
        let account = spec::spec(pod).service_account_name.as_deref().filter(|n| !n.is_empty()).unwrap_or("default");
        let audiences = if audience.is_empty() { vec![] } else { vec![audience] };
        let mut request = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": {
                "audiences": audiences,
                "expirationSeconds": seconds,
                "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": spec::name(pod), "uid": spec::uid(pod)},
            },
        });
        if request["spec"]["audiences"].as_array().is_some_and(Vec::is_empty)
            && let Some(map) = request["spec"].as_object_mut()
        {
            map.remove("audiences");
        }
        let answer = ask(ctx, spec::namespace(pod), account, &request).await?;
        let status = &answer["status"];
        let text = status["token"].as_str().filter(|t| !t.is_empty());
        let expires = status["expirationTimestamp"].as_str().and_then(|t| t.parse::<Timestamp>().ok());
        let (Some(text), Some(expires)) = (text, expires) else {
            return Err(VolumeError::Token("the server's answer has no token".to_owned()));
        };
        let held = Held { text: text.to_owned(), issued: now, expires };
        let token = token(&held, now);
        self.held.lock().insert(key, held);
        Ok(token)
    }

    /// Forgets the pod's tokens.
    pub fn release(&self, pod_uid: &str) {
        self.held.lock().retain(|(uid, _, _), _| uid != pod_uid);
    }
}

/// The authorizer may not have seen yet that the pod is on this node: a refusal is not believed at once.
async fn ask(ctx: &Context, namespace: &str, account: &str, request: &Value) -> Result<Value, VolumeError> {
    let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(320));
    for attempt in 0.. {
        match ctx.client.create_subresource::<ServiceAccount>(namespace, account, "token", request).await {
            Ok(answer) => return Ok(answer),
            Err(error) if error.is_forbidden() && attempt < FORBIDDEN_RETRIES => {
                tokio::time::sleep(backoff.step()).await;
            }
            Err(error) => return Err(VolumeError::Token(base::chain(&error).to_string())),
        }
    }
    Err(VolumeError::Token("no answer".to_owned()))
}

fn token(held: &Held, now: Timestamp) -> Token {
    let left = held.refresh_at().duration_since(now);
    Token {
        text: held.text.clone(),
        expires: held.expires,
        refresh_after: Duration::try_from(left).unwrap_or_default(),
    }
}
