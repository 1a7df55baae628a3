//! Bearer tokens: who knows a token, in upstream's order (`pkg/kubeapiserver/authenticator/config.go` `New`).

use std::sync::Arc;

use api::services::{TokenRequest, Tokens};
use api::user::AUTHENTICATED;
use api::{Status, UserInfo};
use async_trait::async_trait;
use jiff::Timestamp;

use super::tokens::ServiceAccountTokens;

/// The user behind a token, and for which of the asked audiences it is good.
pub type Identified = (UserInfo, Vec<String>);

/// One way to know a token.
#[async_trait]
pub trait Bearer: Send + Sync {
    /// The user and the audiences among `audiences` (never empty) that the token is good for; `None` if the token is not
    /// one of this kind.
    ///
    /// # Errors
    /// Why a token of this kind is no good. The token is never part of the text.
    async fn authenticate(&self, token: &str, audiences: &[String]) -> Result<Option<Identified>, String>;
}

/// Service account tokens first, then the others in their order. Local ones come before those that ask elsewhere.
pub struct TokenUnion {
    service_accounts: Arc<ServiceAccountTokens>,
    others: Vec<Arc<dyn Bearer>>,
}

impl TokenUnion {
    pub fn new(service_accounts: Arc<ServiceAccountTokens>, others: Vec<Arc<dyn Bearer>>) -> Arc<Self> {
        Arc::new(Self { service_accounts, others })
    }
}

#[async_trait]
impl Tokens for TokenUnion {
    async fn issue(&self, request: TokenRequest) -> Result<(String, Timestamp), Status> {
        self.service_accounts.issue(request).await
    }

    fn audiences(&self) -> Vec<String> {
        self.service_accounts.audiences().to_vec()
    }

    async fn review(&self, token: &str, audiences: &[String]) -> Result<Identified, String> {
        let audiences = if audiences.is_empty() { self.service_accounts.audiences() } else { audiences };
        let mut errors: Vec<String> = Vec::new();
        let own = std::iter::once(&*self.service_accounts as &dyn Bearer);
        for method in own.chain(self.others.iter().map(|method| &**method)) {
            match method.authenticate(token, audiences).await {
                Ok(Some((mut user, audiences))) => {
                    if !user.in_group(AUTHENTICATED) && user.name != api::user::ANONYMOUS {
                        user.groups.push(AUTHENTICATED.to_owned());
                    }
                    return Ok((user, audiences));
                }
                Ok(None) => {}
                Err(why) if errors.contains(&why) => {}
                Err(why) => errors.push(why),
            }
        }
        // The authenticator of the API server's own clients comes first and knows no token of others
        // (`server/config.go` `AuthorizeClientBearerToken`).
        let unknown = "invalid bearer token".to_owned();
        errors.retain(|error| *error != unknown);
        Err(if errors.is_empty() { unknown } else { format!("[{unknown}, {}]", errors.join(", ")) })
    }
}

/// Tokens that are good for the API server itself and say nothing of audiences
/// (`authenticator.WrapAudienceAgnosticToken`).
pub struct AudienceAgnostic<B> {
    inner: B,
    /// The API server's audiences.
    own: Vec<String>,
}

impl<B> AudienceAgnostic<B> {
    pub fn new(inner: B, own: Vec<String>) -> Self {
        Self { inner, own }
    }
}

#[async_trait]
impl<B: Bearer> Bearer for AudienceAgnostic<B> {
    async fn authenticate(&self, token: &str, audiences: &[String]) -> Result<Option<Identified>, String> {
        let shared: Vec<String> = audiences.iter().filter(|a| self.own.contains(a)).cloned().collect();
        if shared.is_empty() {
            return Ok(None);
        }
        let found = self.inner.authenticate(token, &shared).await?;
        Ok(found.map(|(user, _)| (user, shared)))
    }
}

/// Texts of a list as Go's `%q` writes them.
pub(crate) fn quoted(list: &[String]) -> String {
    let items: Vec<String> = list.iter().map(|item| format!("{item:?}")).collect();
    format!("[{}]", items.join(" "))
}
