//! Tokens that are kept in Secrets and never expire (upstream `pkg/serviceaccount/legacy.go`).

use api::{Gvr, UserInfo};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use pki::token::{LegacyClaims, Ref};
use sha2::{Digest, Sha256};

use super::{BELIEVED_SECONDS, Bound, Checked, ServiceAccountTokens};

const LAST_USED: &str = "kubernetes.io/legacy-token-last-used";
const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";

/// `legacyValidator.Validate`: the Secret must still hold the token, and its account be the same.
pub(super) async fn check(
    tokens: &ServiceAccountTokens,
    token: &str,
    claims: &LegacyClaims,
) -> Result<Checked, String> {
    let (namespace, account) = (&claims.namespace, &claims.account);
    let name = format!("system:serviceaccount:{namespace}:{account}");
    if claims.sub != name || account.is_empty() || claims.account_uid.is_empty() || claims.secret.is_empty() {
        return Err("sub claim is invalid".to_owned());
    }
    let secrets = Gvr::new("", "v1", "secrets");
    let invalidated = || "Token has been invalidated".to_owned();
    let secret = tokens.registry()?.get(&secrets, namespace, &claims.secret).await.map_err(|_| invalidated())?;
    if secret.str(&["metadata", "deletionTimestamp"]).is_some() {
        return Err(invalidated());
    }
    let held = secret.str(&["data", "token"]).and_then(|text| STANDARD.decode(text).ok()).unwrap_or_default();
    // Hashes compare in a time that says nothing about the token.
    if Sha256::digest(&held) != Sha256::digest(token) {
        return Err("Token does not match server's copy".to_owned());
    }
    let reference = Ref { name: account.clone(), uid: claims.account_uid.clone() };
    tokens.same("serviceaccounts", namespace, &reference, &Bound::Account).await?;
    let today = tokens.clock.now().to_zoned(TimeZone::UTC).date();
    let used = secret.str(&["metadata", "labels", LAST_USED]).and_then(|day| day.parse::<Date>().ok());
    if used != Some(today) && used != today.tomorrow().ok() {
        note_use(tokens, namespace, &claims.secret, today).await;
    }
    if secret.str(&["metadata", "labels", INVALID_SINCE]).is_some_and(|since| !since.is_empty()) {
        return Err(format!(
            "the token in secret {namespace}/{} for service account {namespace}/{account} has been marked invalid. Use \
             tokens from the TokenRequest API or manually created secret-based tokens, or remove the '{INVALID_SINCE}' \
             label from the secret to temporarily allow use of this token",
            claims.secret
        ));
    }
    let mut user = UserInfo::new(name, &["system:serviceaccounts", &format!("system:serviceaccounts:{namespace}")]);
    user.uid.clone_from(&claims.account_uid);
    let until = tokens.clock.now().as_second() + BELIEVED_SECONDS;
    Ok(Checked { user, audiences: tokens.audiences.clone(), until })
}

/// The day of its last use keeps a token from being retired. A failure costs no one the access.
async fn note_use(tokens: &ServiceAccountTokens, namespace: &str, name: &str, today: Date) {
    let Ok(registry) = tokens.registry() else { return };
    let day = today.to_string();
    let label = move |secret: &mut api::Object| {
        secret.set(&["metadata", "labels", LAST_USED], day.clone());
        Ok(())
    };
    if let Err(status) = registry.update(&Gvr::new("", "v1", "secrets"), namespace, name, &label).await {
        tracing::warn!(namespace, name, error = %status, "cannot note the use of a service account token");
    }
}
