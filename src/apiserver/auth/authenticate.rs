//! Who makes a request.

use std::sync::Arc;

use api::services::Tokens;
use api::{Status, UserInfo};
use arc_swap::ArcSwap;
use base::SharedClock;
use http::request::Parts;
use http::{HeaderMap, header};

use super::certificate::ConnectionIdentity;
use super::front_proxy;
use super::oidc::config::Anonymous;

/// Turns a request's credentials into a user.
pub struct Authenticator {
    tokens: Arc<dyn Tokens>,
    clock: SharedClock,
    anonymous: AnonymousAccess,
}

/// Who may come without credentials; can be replaced while requests are served.
#[derive(Clone)]
pub struct AnonymousAccess(Arc<ArcSwap<Anonymous>>);

impl AnonymousAccess {
    pub fn new(anonymous: Anonymous) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(anonymous)))
    }

    pub fn replace(&self, anonymous: Anonymous) {
        self.0.store(Arc::new(anonymous));
    }
}

impl Authenticator {
    pub fn new(tokens: Arc<dyn Tokens>, clock: SharedClock) -> Self {
        Self { tokens, clock, anonymous: AnonymousAccess::new(Anonymous::all(true)) }
    }

    /// Without this everybody may come without credentials.
    #[must_use]
    pub fn with_anonymous(mut self, anonymous: AnonymousAccess) -> Self {
        self.anonymous = anonymous;
        self
    }

    /// The identity of an in-memory caller, of whom a front proxy names, of a client certificate or of a bearer token, in this order; without any
    /// credentials the anonymous user. Credentials that are present and no good are a 401.
    pub async fn authenticate(&self, parts: &Parts) -> Result<UserInfo, Status> {
        if let Some(user) = parts.extensions.get::<UserInfo>() {
            return Ok(user.clone());
        }
        let now = self.clock.now().as_second();
        let identity = parts.extensions.get::<ConnectionIdentity>();
        if identity.is_some_and(|identity| identity.is_proxy(now))
            && let Some(user) = front_proxy::user(&parts.headers)
        {
            return Ok(user);
        }
        if let Some(user) = identity.and_then(|identity| identity.user(now)) {
            return Ok(user.clone());
        }
        match bearer_token(&parts.headers) {
            None => {}
            Some(token) => {
                return match self.tokens.review(token, &[]).await {
                    Ok((user, _)) => Ok(user),
                    Err(why) => {
                        tracing::debug!(why, "bearer token refused");
                        Err(Status::unauthorized(""))
                    }
                };
            }
        }
        // Other schemes than bearer tokens are nobody's credentials here, as upstream.
        if identity.is_some_and(ConnectionIdentity::was_refused) {
            return Err(Status::unauthorized(""));
        }
        if !self.anonymous.0.load().admits(parts.uri.path()) {
            return Err(Status::unauthorized(""));
        }
        Ok(UserInfo::anonymous())
    }
}

/// The token of an `Authorization: Bearer` header, or of the WebSocket subprotocol that browsers use for want of one
/// (upstream `request/websocket/protocol.go`; the encoded form is left to the header's own decoder there).
fn bearer_token(headers: &HeaderMap) -> Option<&str> {
    bearer(headers)?.next().filter(|token| !token.is_empty())
}

/// Whether a token is not looked at because more than one space stands before it (`request/bearertoken/bearertoken.go`).
pub fn is_token_after_spaces(headers: &HeaderMap) -> bool {
    bearer(headers).is_some_and(|mut parts| parts.next() == Some("") && parts.next().is_some())
}

/// What follows `Bearer`, cut at each space.
fn bearer(headers: &HeaderMap) -> Option<std::str::Split<'_, char>> {
    let mut parts = headers.get(header::AUTHORIZATION)?.to_str().ok()?.trim().split(' ');
    parts.next()?.eq_ignore_ascii_case("bearer").then_some(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_bearer_credentials_are_tokens() {
        let header = |value: &str| HeaderMap::from_iter([(header::AUTHORIZATION, value.parse().unwrap())]);
        assert_eq!(bearer_token(&header("Bearer abc")), Some("abc"));
        assert_eq!(bearer_token(&header("bearer abc ")), Some("abc"));
        assert_eq!(bearer_token(&header("Bearer abc def")), Some("abc"));
        assert_eq!(bearer_token(&header("bearer  abc ")), None);
        assert!(is_token_after_spaces(&header("bearer  abc ")));
        assert!(!is_token_after_spaces(&header("Bearer abc")) && !is_token_after_spaces(&header("Bearer ")));
        assert_eq!(bearer_token(&header("Basic abc")), None);
        assert_eq!(bearer_token(&header("Bearer")), None);
        assert_eq!(bearer_token(&HeaderMap::new()), None);
    }
}
