//! Service account tokens for pods, asked for by TokenRequest and renewed in time (upstream `kubelet/token`).

use std::collections::HashMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount, ServiceAccountTokenProjection};
use parking_lot::Mutex;
use serde_json::json;

use super::VolumeError;
use crate::context::Context;
use crate::spec;

const MAX_TTL: SignedDuration = SignedDuration::from_hours(24);

/// A token and how long it may be used before a new one is due.
#[derive(Clone)]
pub struct Token {
    pub text: String,
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
        let answer = ctx
            .client
            .create_subresource::<ServiceAccount>(spec::namespace(pod), account, "token", &request)
            .await
            .map_err(|e| VolumeError::Token(base::chain(&e).to_string()))?;
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

fn token(held: &Held, now: Timestamp) -> Token {
    let left = held.refresh_at().duration_since(now);
    Token { text: held.text.clone(), refresh_after: Duration::try_from(left).unwrap_or_default() }
}
