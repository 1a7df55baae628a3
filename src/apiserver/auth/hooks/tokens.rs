//! Tokens that a webhook knows (`plugin/pkg/authenticator/token/webhook/webhook.go`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api::UserInfo;
use async_trait::async_trait;
use serde::Deserialize;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::{Believed, ask};
use crate::auth::bearer::{Bearer, Identified};
use crate::remote::Remote;

/// Upstream sets no limit of its own and gives up with the request.
const TIMEOUT: Duration = Duration::from_secs(30);
const CACHE_MAX: usize = 4096;

/// Asks a webhook with `TokenReview`s.
pub struct TokenWebhook {
    remote: Arc<Remote>,
    version: String,
    /// The API server's audiences.
    own: Vec<String>,
    /// How long answers are believed (`--authentication-token-webhook-cache-ttl`).
    ttl: Duration,
    believed: Believed<[u8; 32], Result<Option<Identified>, String>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Answer {
    status: Status,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Status {
    authenticated: bool,
    user: User,
    audiences: Option<Vec<String>>,
    error: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct User {
    username: String,
    uid: String,
    groups: Option<Vec<String>>,
    extra: Option<BTreeMap<String, Vec<String>>>,
}

impl TokenWebhook {
    /// `version` is that of `TokenReview`: `v1` or `v1beta1`.
    pub fn new(remote: Remote, version: &str, own: Vec<String>, ttl: Duration) -> Self {
        let believed = Believed::new(CACHE_MAX);
        Self { remote: Arc::new(remote), version: version.to_owned(), own, ttl, believed }
    }

    async fn review(&self, token: &str, audiences: &[String]) -> Result<Result<Option<Identified>, String>, String> {
        let review = json!({
            "kind": "TokenReview", "apiVersion": format!("authentication.k8s.io/{}", self.version),
            "metadata": {},
            "spec": {"token": token, "audiences": audiences}, "status": {"user": {}},
        });
        let answer = ask(&self.remote, &review, TIMEOUT).await.and_then(|answer| Ok(serde_json::from_value(answer)?));
        let Answer { status } = answer.map_err(|error| {
            let text = base::chain(&error).to_string();
            tracing::error!(error = text, "the authentication webhook failed");
            text
        })?;
        Ok(self.judge(status, audiences))
    }

    fn judge(&self, status: Status, audiences: &[String]) -> Result<Option<Identified>, String> {
        let good_for = status.audiences.filter(|audiences| !audiences.is_empty());
        let good_for = good_for.as_ref().unwrap_or(&self.own);
        let shared: Vec<String> = audiences.iter().filter(|a| good_for.contains(a)).cloned().collect();
        if shared.is_empty() {
            return Ok(None);
        }
        if !status.authenticated {
            return if status.error.is_empty() { Ok(None) } else { Err(status.error) };
        }
        let User { username, uid, groups, extra } = status.user;
        let user =
            UserInfo { name: username, uid, groups: groups.unwrap_or_default(), extra: extra.unwrap_or_default() };
        Ok(Some((user, shared)))
    }
}

#[async_trait]
impl Bearer for TokenWebhook {
    async fn authenticate(&self, token: &str, audiences: &[String]) -> Result<Option<Identified>, String> {
        let mut hash = Sha256::new();
        for part in std::iter::once(token).chain(audiences.iter().map(String::as_str)) {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        let key: [u8; 32] = hash.finalize().into();
        if let Some(known) = self.believed.get(&key) {
            return known;
        }
        // A webhook that does not answer says nothing of the token: only answers are kept.
        let answer = self.review(token, audiences).await?;
        self.believed.put(key, answer.clone(), self.ttl);
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_as_upstream_reads_them() {
        let own = vec!["api".to_owned()];
        let remote = Remote::trusting("https://hook.example", b"-").unwrap();
        let hook = TokenWebhook::new(remote, "v1", own.clone(), Duration::ZERO);
        let check = |status: serde_json::Value, audiences: &[&str], want: Result<Option<&[&str]>, &str>| {
            let audiences: Vec<String> = audiences.iter().map(|a| (*a).to_owned()).collect();
            let got = hook.judge(serde_json::from_value(status.clone()).unwrap(), &audiences);
            let got = got.map(|found| found.map(|(_, audiences)| audiences));
            let want = want.map(|w| w.map(|w| w.iter().map(|a| (*a).to_owned()).collect())).map_err(str::to_owned);
            assert_eq!(got, want, "{status}");
        };
        check(json!({"authenticated": true, "user": {"username": "a"}}), &["api"], Ok(Some(&["api"])));
        check(json!({"authenticated": true, "user": {"username": "a"}}), &["vault"], Ok(None));
        check(json!({"authenticated": true, "audiences": ["vault"]}), &["api", "vault"], Ok(Some(&["vault"])));
        check(json!({"authenticated": false}), &["api"], Ok(None));
        check(json!({"authenticated": false, "error": "gone"}), &["api"], Err("gone"));
    }
}
