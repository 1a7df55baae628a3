//! Service-account tokens bound to live objects (upstream `pkg/serviceaccount/claims.go`, KEP-1205).

mod legacy;
pub mod tracking;

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use api::services::{Registry, TokenRequest, Tokens};
use api::{Gvr, Status, UserInfo};
use async_trait::async_trait;
use base::SharedClock;
use jiff::Timestamp;
use parking_lot::Mutex;
use pki::token::{Private, Ref, TokenError};
use pki::{Claims, TokenSigner};
use sha2::{Digest, Sha256};

use super::bearer::{Bearer, Identified, quoted};

/// What the kubelet asks for when a pod does not say: such tokens are really good for a year, so that old clients that
/// never read the file again go on working (upstream `WarnOnlyBoundTokenExpiration`).
const WARN_ONLY_SECONDS: i64 = 60 * 60 + 7;
const EXTENDED_SECONDS: i64 = 365 * 24 * 60 * 60;
/// How long a checked token is believed without looking at its objects again (upstream's token cache TTL).
const BELIEVED_SECONDS: i64 = 10;
/// Checked tokens kept; on overflow all are forgotten and checked again.
const CACHE_SIZE: usize = 4096;

/// Issues and reviews tokens.
pub struct ServiceAccountTokens {
    signer: Arc<TokenSigner>,
    /// Audiences of the API server itself; the first is used for requests that name none.
    audiences: Vec<String>,
    clock: SharedClock,
    registry: OnceLock<Arc<dyn Registry>>,
    checked: Mutex<HashMap<[u8; 32], Checked>>,
    uses: Uses,
}

/// Tokens that were checked, one after the other, by their kind (`pkg/serviceaccount/metrics.go`).
#[derive(Default)]
struct Uses {
    legacy: AtomicU64,
    /// Good for longer than they say, and used after that.
    stale: AtomicU64,
    /// The same, used before.
    valid: AtomicU64,
}

const INVALIDATED: &str = "service account token has been invalidated";

/// What a token dies with.
enum Bound {
    Account,
    /// With the word that texts have for it.
    Object(&'static str),
}

#[derive(Clone)]
struct Checked {
    user: UserInfo,
    audiences: Vec<String>,
    until: i64,
}

impl ServiceAccountTokens {
    /// `audiences` must not be empty; the issuer is the usual one.
    pub fn new(signer: Arc<TokenSigner>, audiences: Vec<String>, clock: SharedClock) -> Arc<Self> {
        Arc::new(Self {
            signer,
            audiences,
            clock,
            registry: OnceLock::new(),
            checked: Mutex::default(),
            uses: Uses::default(),
        })
    }

    /// The registry exists only after the server that authenticates with this; until it is set, no token is good.
    pub fn set_registry(&self, registry: Arc<dyn Registry>) {
        if self.registry.set(registry).is_err() {
            tracing::error!("the registry of the token service was set twice; the first one stays");
        }
    }

    /// Appends counts of the tokens that were checked, in the text format.
    pub(crate) fn metrics(&self, out: &mut String) {
        let all = [
            ("legacy", "legacy service account tokens", &self.uses.legacy),
            ("stale", "stale projected service account tokens", &self.uses.stale),
            ("valid", "valid projected service account tokens", &self.uses.valid),
        ];
        for (name, what, count) in all {
            let (name, count) = (format!("serviceaccount_{name}_tokens_total"), count.load(Ordering::Relaxed));
            // Writing to a string does not fail.
            let _ = writeln!(out, "# HELP {name} [BETA] Cumulative {what} used\n# TYPE {name} counter\n{name} {count}");
        }
    }

    /// The audiences of the API server itself.
    pub fn audiences(&self) -> &[String] {
        &self.audiences
    }

    fn registry(&self) -> Result<&Arc<dyn Registry>, String> {
        self.registry.get().ok_or_else(|| "the server is starting".to_owned())
    }

    /// Fails unless the object exists with this uid, in the words of `validator.Validate`.
    async fn same(&self, resource: &str, namespace: &str, reference: &Ref, what: &Bound) -> Result<(), String> {
        let found = self.registry()?.get(&Gvr::new("", "v1", resource), namespace, &reference.name).await;
        let found = found.map_err(|status| match what {
            Bound::Account => status.message,
            Bound::Object(_) => INVALIDATED.to_owned(),
        })?;
        if found.uid() != reference.uid {
            let (uid, claimed) = (found.uid(), &reference.uid);
            return Err(match what {
                Bound::Account => format!("service account UID ({uid}) does not match claim ({claimed})"),
                Bound::Object(noun) => {
                    format!("{noun} UID ({uid}) does not match service account {noun} ref claim ({claimed})")
                }
            });
        }
        // Upstream gives up on objects that were asked to go more than a minute ago.
        let deleted = found.str(&["metadata", "deletionTimestamp"]).and_then(|t| t.parse::<Timestamp>().ok());
        if deleted.is_some_and(|at| at.as_second() + 60 < self.clock.now().as_second()) {
            return Err(match what {
                Bound::Account => format!("service account {namespace}/{} has been deleted", reference.name),
                Bound::Object(_) => INVALIDATED.to_owned(),
            });
        }
        Ok(())
    }

    /// `None`: the token is another issuer's.
    async fn check(&self, token: &str, asked: &[String]) -> Result<Option<Checked>, String> {
        let claims = match self.signer.verify(token, self.clock.as_ref()) {
            Ok(claims) => claims,
            Err(TokenError::ForeignIssuer) => {
                return match self.signer.verify_legacy(token) {
                    Ok(claims) => {
                        self.uses.legacy.fetch_add(1, Ordering::Relaxed);
                        legacy::check(self, token, &claims).await.map(Some)
                    }
                    Err(TokenError::ForeignIssuer) => Ok(None),
                    Err(error) => Err(error.to_string()),
                };
            }
            Err(error) => return Err(error.to_string()),
        };
        // Whom a token is for is looked at before its objects.
        shared(&claims.aud, asked)?;
        let private = &claims.kubernetes;
        let (namespace, account) = (&private.namespace, &private.serviceaccount);
        let name = format!("system:serviceaccount:{namespace}:{}", account.name);
        if claims.sub != name {
            return Err("the token's subject is not its service account".to_owned());
        }
        self.same("serviceaccounts", namespace, account, &Bound::Account).await?;
        let mut extra = BTreeMap::new();
        let mut note = |key: &str, value: &str| {
            extra.insert(format!("authentication.kubernetes.io/{key}"), vec![value.to_owned()]);
        };
        if let Some(secret) = &private.secret {
            self.same("secrets", namespace, secret, &Bound::Object("secret")).await?;
        }
        if let Some(pod) = &private.pod {
            self.same("pods", namespace, pod, &Bound::Object("pod")).await?;
            note("pod-name", &pod.name);
            note("pod-uid", &pod.uid);
        }
        if let Some(node) = &private.node {
            // Only a token bound to the node alone dies with it (KEP-4193).
            if private.pod.is_none() {
                self.same("nodes", "", node, &Bound::Object("node")).await?;
            }
            note("node-name", &node.name);
            if !node.uid.is_empty() {
                note("node-uid", &node.uid);
            }
        }
        if let Some(warn_after) = private.warnafter.filter(|at| *at != 0) {
            let is_stale = self.clock.now().as_second() > warn_after;
            let uses = if is_stale { &self.uses.stale } else { &self.uses.valid };
            uses.fetch_add(1, Ordering::Relaxed);
        }
        if !claims.jti.is_empty() {
            note("credential-id", &format!("JTI={}", claims.jti));
        }
        let mut user = UserInfo::new(name, &["system:serviceaccounts", &format!("system:serviceaccounts:{namespace}")]);
        user.uid.clone_from(&account.uid);
        user.extra = extra;
        let until = claims.exp.min(self.clock.now().as_second() + BELIEVED_SECONDS);
        Ok(Some(Checked { user, audiences: claims.aud, until }))
    }
}

#[async_trait]
impl Tokens for ServiceAccountTokens {
    async fn issue(&self, request: TokenRequest) -> Result<(String, Timestamp), Status> {
        let now = self.clock.now().as_second();
        let to_server = request.audiences.is_empty() || request.audiences == self.audiences;
        let audiences = if request.audiences.is_empty() { self.audiences.clone() } else { request.audiences };
        let expires = now + request.expiration_seconds;
        let mut private = Private {
            namespace: request.namespace.clone(),
            serviceaccount: Ref { name: request.service_account.clone(), uid: request.service_account_uid },
            ..Private::default()
        };
        let mut bound_to_pod = false;
        if let Some((kind, name, uid)) = request.bound_object {
            let reference = Some(Ref { name, uid });
            match kind.as_str() {
                "Pod" => {
                    bound_to_pod = true;
                    private.pod = reference;
                }
                "Secret" => private.secret = reference,
                "Node" => private.node = reference,
                other => return Err(Status::bad_request(format!("cannot bind token to object of type {other}"))),
            }
        }
        if let Some((name, uid)) = request.node {
            private.node = Some(Ref { name, uid });
        }
        let mut signed_until = expires;
        if bound_to_pod && to_server && request.expiration_seconds == WARN_ONLY_SECONDS {
            private.warnafter = Some(expires);
            signed_until = now + EXTENDED_SECONDS;
        }
        let claims = Claims {
            aud: audiences,
            exp: signed_until,
            iat: now,
            nbf: now,
            iss: String::new(),
            jti: uuid::Uuid::new_v4().to_string(),
            sub: format!("system:serviceaccount:{}:{}", request.namespace, request.service_account),
            kubernetes: private,
        };
        let credential = format!("JTI={}", claims.jti);
        let token = self.signer.sign(claims).map_err(|e| Status::internal(base::chain(&e)))?;
        crate::filters::audited::annotate("authentication.kubernetes.io/issued-credential-id", &credential);
        Ok((token, Timestamp::from_second(expires).map_err(Status::internal)?))
    }

    fn audiences(&self) -> Vec<String> {
        self.audiences.clone()
    }

    async fn review(&self, token: &str, audiences: &[String]) -> Result<Identified, String> {
        let audiences = if audiences.is_empty() { &self.audiences } else { audiences };
        self.authenticate(token, audiences).await?.ok_or_else(|| "invalid bearer token".to_owned())
    }
}

#[async_trait]
impl Bearer for ServiceAccountTokens {
    async fn authenticate(&self, token: &str, audiences: &[String]) -> Result<Option<Identified>, String> {
        let key: [u8; 32] = Sha256::digest(token).into();
        let now = self.clock.now().as_second();
        let known = self.checked.lock().get(&key).filter(|c| now < c.until).cloned();
        let checked = match known {
            Some(checked) => checked,
            None => {
                let Some(checked) = self.check(token, audiences).await? else { return Ok(None) };
                let mut cache = self.checked.lock();
                if cache.len() >= CACHE_SIZE {
                    cache.clear();
                }
                cache.insert(key, checked.clone());
                checked
            }
        };
        let shared = shared(&checked.audiences, audiences)?;
        Ok(Some((checked.user, shared)))
    }
}

/// The asked audiences that a token is for; there must be one.
fn shared(own: &[String], asked: &[String]) -> Result<Vec<String>, String> {
    let shared: Vec<String> = own.iter().filter(|audience| asked.contains(audience)).cloned().collect();
    if shared.is_empty() {
        return Err(format!("token audiences {} is invalid for the target audiences {}", quoted(own), quoted(asked)));
    }
    Ok(shared)
}

#[cfg(test)]
mod tests {
    use api::Object;
    use base::ManualClock;
    use jiff::SignedDuration;
    use serde_json::json;

    use super::*;

    /// Holds one service account and one pod, each with a uid.
    struct Objects(Mutex<HashMap<String, Object>>);

    #[async_trait]
    impl Registry for Objects {
        async fn get(&self, resource: &Gvr, namespace: &str, name: &str) -> Result<Object, Status> {
            let key = format!("{}/{namespace}/{name}", resource.resource);
            self.0.lock().get(&key).cloned().ok_or_else(|| Status::not_found(&resource.group_resource(), name))
        }
        async fn list(&self, _: &Gvr, _: &str) -> Result<Vec<Object>, Status> {
            Ok(Vec::new())
        }
        async fn create(&self, _: &Gvr, _: &str, _: Object) -> Result<Object, Status> {
            Err(Status::internal("not part of this test"))
        }
        async fn update(
            &self,
            _: &Gvr,
            _: &str,
            _: &str,
            _: &(dyn for<'o> Fn(&'o mut Object) -> Result<(), Status> + Send + Sync),
        ) -> Result<Object, Status> {
            Err(Status::internal("not part of this test"))
        }
        async fn delete(&self, _: &Gvr, _: &str, _: &str, _: Object) -> Result<Object, Status> {
            Err(Status::internal("not part of this test"))
        }
    }

    fn fixture() -> (tempfile::TempDir, Arc<ManualClock>, Arc<Objects>, Arc<ServiceAccountTokens>) {
        let dir = tempfile::tempdir().unwrap();
        let signer = TokenSigner::load_or_create(&dir.path().join("sa.key"), "https://issuer").unwrap();
        let clock = Arc::new(ManualClock::new(Timestamp::from_second(1_800_000_000).unwrap()));
        let tokens = ServiceAccountTokens::new(Arc::new(signer), vec!["https://issuer".into()], clock.clone());
        let object = |uid: &str| Object::from_value(json!({"metadata": {"uid": uid}})).unwrap();
        let objects = Arc::new(Objects(Mutex::new(HashMap::from([
            ("serviceaccounts/shop/till".to_owned(), object("u1")),
            ("pods/shop/till-0".to_owned(), object("u2")),
        ]))));
        tokens.set_registry(objects.clone());
        (dir, clock, objects, tokens)
    }

    fn request() -> TokenRequest {
        TokenRequest {
            namespace: "shop".into(),
            service_account: "till".into(),
            service_account_uid: "u1".into(),
            expiration_seconds: 3607,
            bound_object: Some(("Pod".into(), "till-0".into(), "u2".into())),
            node: Some(("box".into(), "u3".into())),
            ..TokenRequest::default()
        }
    }

    #[tokio::test]
    async fn a_token_names_its_pod_and_node() {
        let (_dir, clock, _, tokens) = fixture();
        let (token, expires) = tokens.issue(request()).await.unwrap();
        assert_eq!(expires.as_second(), 1_800_003_607);
        let (user, audiences) = tokens.review(&token, &[]).await.unwrap();
        assert_eq!(user.name, "system:serviceaccount:shop:till");
        assert_eq!(audiences, ["https://issuer"]);
        assert_eq!(user.extra["authentication.kubernetes.io/node-name"], ["box"]);
        // The kubelet's usual request is good for longer than it says.
        clock.advance(SignedDuration::from_hours(48));
        assert!(tokens.review(&token, &[]).await.is_ok());
        let mut figures = String::new();
        tokens.metrics(&mut figures);
        for line in [
            "serviceaccount_valid_tokens_total 1",
            "serviceaccount_stale_tokens_total 1",
            "serviceaccount_legacy_tokens_total 0",
        ] {
            assert!(figures.lines().any(|l| l == line), "{line}: {figures}");
        }
    }

    #[tokio::test]
    async fn a_token_dies_with_its_pod() {
        let (_dir, clock, objects, tokens) = fixture();
        let (token, _) = tokens.issue(request()).await.unwrap();
        assert!(tokens.review(&token, &[]).await.is_ok());
        objects.0.lock().remove("pods/shop/till-0");
        clock.advance(SignedDuration::from_secs(BELIEVED_SECONDS + 1));
        assert!(tokens.review(&token, &[]).await.unwrap_err() == INVALIDATED);
    }

    #[tokio::test]
    async fn a_token_for_another_audience_is_refused() {
        let (_dir, _, _, tokens) = fixture();
        let (token, _) = tokens.issue(TokenRequest { audiences: vec!["vault".into()], ..request() }).await.unwrap();
        assert!(tokens.review(&token, &[]).await.is_err());
        assert!(tokens.review(&token, &["vault".into()]).await.is_ok());
    }
}
