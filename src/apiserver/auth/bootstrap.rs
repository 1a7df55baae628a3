//! Bootstrap tokens: what a machine that is to become a node shows until it has a certificate
//! (`plugin/pkg/auth/authenticator/token/bootstrap/bootstrap.go`).
//!
//! Each is a Secret `kube-system/bootstrap-token-ID`. A token that is no good is as unknown as one that never was.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};

use api::services::Registry;
use api::{Gvr, Object, UserInfo};
use async_trait::async_trait;
use base::SharedClock;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use sha2::{Digest, Sha256};

use super::bearer::{Bearer, Identified};

const SECRET_TYPE: &str = "bootstrap.kubernetes.io/token";
const USER_PREFIX: &str = "system:bootstrap:";
const DEFAULT_GROUP: &str = "system:bootstrappers";

/// Knows the tokens of Secrets.
pub struct BootstrapTokens {
    registry: OnceLock<Arc<dyn Registry>>,
    clock: SharedClock,
}

impl BootstrapTokens {
    pub fn new(clock: SharedClock) -> Self {
        Self { registry: OnceLock::new(), clock }
    }

    /// Where Secrets are; until it is set, no token is known.
    pub fn set_registry(&self, registry: Arc<dyn Registry>) {
        if self.registry.set(registry).is_err() {
            tracing::error!("the registry of the bootstrap tokens was set twice; the first one stays");
        }
    }
}

#[async_trait]
impl Bearer for Arc<BootstrapTokens> {
    async fn authenticate(&self, token: &str, audiences: &[String]) -> Result<Option<Identified>, String> {
        let Some((id, secret)) = parse(token) else { return Ok(None) };
        let Some(registry) = self.registry.get() else { return Ok(None) };
        let name = format!("bootstrap-token-{id}");
        let found = match registry.get(&Gvr::new("", "v1", "secrets"), "kube-system", &name).await {
            Ok(found) => found,
            Err(status) if status.is_not_found() => return Ok(None),
            Err(status) => return Err(status.message),
        };
        Ok(match user_of(&found, id, secret, self.clock.now()) {
            Ok(user) => Some((user, audiences.to_vec())),
            Err(why) => {
                tracing::debug!(secret = name, why, "the Secret of a bootstrap token is no good");
                None
            }
        })
    }
}

/// `ID.SECRET` of a token (`BootstrapTokenPattern`: six and sixteen lower-case letters or digits).
fn parse(token: &str) -> Option<(&str, &str)> {
    let (id, secret) = token.split_once('.')?;
    let plain = |text: &str, length: usize| {
        text.len() == length && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
    };
    (plain(id, 6) && plain(secret, 16)).then_some((id, secret))
}

/// The user of a token, or why the Secret does not make one.
fn user_of(found: &Object, id: &str, secret: &str, now: Timestamp) -> Result<UserInfo, String> {
    if found.is_deleting() {
        return Err("it is deleted and awaiting removal".to_owned());
    }
    if found.str(&["type"]) != Some(SECRET_TYPE) {
        return Err(format!("it has invalid type, expected {SECRET_TYPE}"));
    }
    let data = |key: &str| {
        let held = found.str(&["data", key]).and_then(|text| STANDARD.decode(text).ok()).unwrap_or_default();
        String::from_utf8(held).unwrap_or_default()
    };
    let invalid = |key: &str| format!("it has invalid value for key {key}");
    // Hashes compare in a time that says nothing about the token.
    if Sha256::digest(data("token-secret")) != Sha256::digest(secret) {
        return Err(invalid("token-secret"));
    }
    if data("token-id") != id {
        return Err(invalid("token-id"));
    }
    // `secrets.HasExpired`: a time that cannot be read has passed.
    let expiration = data("expiration");
    if !expiration.is_empty() && expiration.parse::<Timestamp>().map_or(true, |at| at <= now) {
        return Err("it has expired".to_owned());
    }
    if data("usage-bootstrap-authentication") != "true" {
        return Err("it is not marked usage-bootstrap-authentication=true".to_owned());
    }
    let mut groups = BTreeSet::from([DEFAULT_GROUP.to_owned()]);
    let extra = data("auth-extra-groups");
    for group in extra.split(',').filter(|_| !extra.is_empty()) {
        if !is_bootstrap_group(group) {
            return Err(invalid("auth-extra-groups"));
        }
        groups.insert(group.to_owned());
    }
    Ok(UserInfo { name: format!("{USER_PREFIX}{id}"), groups: groups.into_iter().collect(), ..UserInfo::default() })
}

/// `BootstrapGroupPattern`: `\Asystem:bootstrappers:[a-z0-9:-]{0,255}[a-z0-9]\z`.
fn is_bootstrap_group(group: &str) -> bool {
    let Some(rest) = group.strip_prefix("system:bootstrappers:") else { return false };
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    matches!(rest.len(), 1..=256)
        && rest.bytes().all(|b| plain(b) || matches!(b, b':' | b'-'))
        && rest.bytes().next_back().is_some_and(plain)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const TOKEN: (&str, &str) = ("abcdef", "0123456789abcdef");

    fn secret(change: &[(&str, &str)]) -> Object {
        let usual =
            [("token-id", "abcdef"), ("token-secret", "0123456789abcdef"), ("usage-bootstrap-authentication", "true")];
        let data: serde_json::Map<String, Value> =
            usual.iter().chain(change).map(|(k, v)| ((*k).to_owned(), STANDARD.encode(v).into())).collect();
        Object::from_value(json!({"type": SECRET_TYPE, "data": data})).unwrap()
    }

    #[test]
    fn a_good_token_is_a_bootstrapper() {
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        let check = |change: &[(&str, &str)], want: Result<&[&str], &str>| {
            let got = user_of(&secret(change), TOKEN.0, TOKEN.1, now);
            match want {
                Ok(groups) => {
                    let user = got.unwrap();
                    assert_eq!(
                        (user.name.as_str(), user.groups),
                        ("system:bootstrap:abcdef", own(groups)),
                        "{change:?}"
                    );
                }
                Err(why) => assert!(got.unwrap_err().contains(why), "{change:?}"),
            }
        };
        check(&[], Ok(&["system:bootstrappers"]));
        check(
            &[("auth-extra-groups", "system:bootstrappers:kubeadm:default-node-token")],
            Ok(&["system:bootstrappers", "system:bootstrappers:kubeadm:default-node-token"]),
        );
        check(&[("auth-extra-groups", "system:masters")], Err("auth-extra-groups"));
        check(&[("auth-extra-groups", "system:bootstrappers:A")], Err("auth-extra-groups"));
        check(&[("token-secret", "fedcba9876543210")], Err("token-secret"));
        check(&[("token-id", "zzzzzz")], Err("token-id"));
        check(&[("usage-bootstrap-authentication", "false")], Err("not marked"));
        check(&[("expiration", "2026-01-01T00:00:00Z")], Err("expired"));
        check(&[("expiration", "soon")], Err("expired"));
        check(&[("expiration", "2026-01-01T00:00:01Z")], Ok(&["system:bootstrappers"]));
    }

    fn own(list: &[&str]) -> Vec<String> {
        list.iter().map(|item| (*item).to_owned()).collect()
    }

    #[test]
    fn other_tokens_are_left_to_others() {
        assert_eq!(parse("abcdef.0123456789abcdef"), Some(TOKEN));
        for text in ["", "abcdef", "abcdef.", "ABCDEF.0123456789abcdef", "abcdef.0123456789abcde", "a.b.c"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
