//! Users whom a front proxy names in headers (apiserver `authentication/request/headerrequest`).
//!
//! Another API server's aggregator is one: it shows a certificate of the front proxy's authority and says for whom it
//! asks.

use std::collections::BTreeMap;

use api::UserInfo;
use http::{HeaderMap, HeaderName};
use rustls::pki_types::CertificateDer;

/// Names of headers, as upstream's tools configure them.
pub const USER: &str = "X-Remote-User";
pub const UID: &str = "X-Remote-Uid";
pub const GROUP: &str = "X-Remote-Group";
pub const EXTRA_PREFIX: &str = "X-Remote-Extra-";
/// The common name of proxies.
pub const ALLOWED_NAME: &str = "front-proxy-client";

/// Whose word is taken.
#[derive(Debug, Clone)]
pub struct FrontProxy {
    pub authority: CertificateDer<'static>,
    /// Common names; none: all.
    pub allowed_names: Vec<String>,
}

/// When a proxy's certificate is valid, in seconds since the epoch.
#[derive(Debug, Clone, Copy)]
pub(super) struct Validity {
    pub not_before: i64,
    pub not_after: i64,
}

impl FrontProxy {
    /// The validity of a proxy's certificate; `None` for a certificate that is no proxy's.
    pub(super) fn recognise(&self, leaf: &CertificateDer<'_>) -> Option<Validity> {
        let subject = pki::authority::verify_client(leaf, &self.authority).ok()?;
        let allowed = self.allowed_names.is_empty() || self.allowed_names.contains(&subject.common_name);
        if !allowed {
            tracing::debug!(name = subject.common_name, "a front proxy's certificate with a name that is not allowed");
        }
        allowed.then_some(Validity { not_before: subject.not_before, not_after: subject.not_after })
    }
}

/// The user that a request's headers name; `None` if they name none.
pub fn user(headers: &HeaderMap) -> Option<UserInfo> {
    let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).filter(|v| !v.is_empty());
    let mut user = UserInfo { name: text(USER)?.to_owned(), ..UserInfo::default() };
    user.uid = text(UID).unwrap_or_default().to_owned();
    let groups = headers.get_all(GROUP).iter().filter_map(|v| v.to_str().ok()).filter(|v| !v.is_empty());
    user.groups = groups.map(ToOwned::to_owned).collect();
    let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in headers {
        if let Some(key) = extra_key(name)
            && let Ok(value) = value.to_str()
        {
            extra.entry(key).or_default().push(value.to_owned());
        }
    }
    user.extra = extra;
    // `group.AuthenticatedGroupAdder`.
    let known = [api::user::AUTHENTICATED, api::user::UNAUTHENTICATED];
    if user.name != api::user::ANONYMOUS && !user.groups.iter().any(|g| known.contains(&g.as_str())) {
        user.groups.push(api::user::AUTHENTICATED.to_owned());
    }
    Some(user)
}

/// What follows the prefix, decoded.
fn extra_key(name: &HeaderName) -> Option<String> {
    let name = name.as_str();
    let (prefix, key) = (name.get(..EXTRA_PREFIX.len())?, name.get(EXTRA_PREFIX.len()..)?);
    prefix.eq_ignore_ascii_case(EXTRA_PREFIX).then(|| base::percent_decode(key, false))
}

/// Takes the headers out, so that nobody behind takes their word (`ClearAuthenticationHeaders`).
pub fn clear(headers: &mut HeaderMap) {
    let ours = |name: &&HeaderName| {
        [USER, UID, GROUP].iter().any(|n| name.as_str().eq_ignore_ascii_case(n)) || extra_key(name).is_some()
    };
    let names: Vec<HeaderName> = headers.keys().filter(ours).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn headers_name_a_user() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("x-remote-user", "ann"),
            ("x-remote-group", "clerks"),
            ("x-remote-group", "staff"),
            ("x-remote-uid", "7"),
            ("x-remote-extra-a.io%2fb", "c"),
            ("accept", "*/*"),
        ] {
            headers.append(name.parse::<HeaderName>().unwrap(), HeaderValue::from_static(value));
        }
        let user = user(&headers).unwrap();
        assert_eq!((user.name.as_str(), user.uid.as_str()), ("ann", "7"));
        assert_eq!(user.groups, ["clerks", "staff", api::user::AUTHENTICATED]);
        assert_eq!(user.extra.get("a.io/b"), Some(&vec!["c".to_owned()]));
        clear(&mut headers);
        assert_eq!(headers.len(), 1);
        assert!(super::user(&headers).is_none());
    }

    #[test]
    fn only_certificates_of_the_proxy_are_recognised() {
        let dir = tempfile::tempdir().unwrap();
        let clock = base::ManualClock::new(jiff::Timestamp::from_second(1_800_000_000).unwrap());
        let load = |name: &str| pki::CertificateAuthority::load_or_create(dir.path(), name, name, &clock).unwrap();
        let (proxies, clients) = (load("front-proxy-ca"), load("ca"));
        let leaf = |ca: &pki::CertificateAuthority, name: &str| {
            let leaf = ca.issue(&pki::LeafSpec::client(name, &[]), &clock).unwrap();
            pki::serving::certificates(&leaf).unwrap().remove(0)
        };
        let trust = FrontProxy { authority: proxies.cert_der().clone(), allowed_names: vec![ALLOWED_NAME.to_owned()] };
        assert!(trust.recognise(&leaf(&proxies, ALLOWED_NAME)).is_some());
        assert!(trust.recognise(&leaf(&proxies, "somebody")).is_none());
        assert!(trust.recognise(&leaf(&clients, ALLOWED_NAME)).is_none());
    }
}
