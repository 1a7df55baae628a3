//! Identity providers and webhooks of identity over real TLS: made here, asked by the server's own code.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use api::UserInfo;
use api::services::{AuthorizationAttributes, Authorizer, Decision};
use base::{ManualClock, SystemClock};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use pki::{CertificateAuthority, Claims, LeafSpec, ServingCertificate, TokenSigner};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::auth::bearer::Bearer;
use crate::auth::hooks::access::{AccessOptions, AccessWebhook, OnError, compile};
use crate::auth::hooks::tokens::TokenWebhook;
use crate::auth::oidc::JwtAuthenticator;
use crate::auth::oidc::config::Configuration;
use crate::remote::Remote;

type Answer = Arc<dyn Fn(&str, Value) -> (u16, Value) + Send + Sync>;

/// An HTTPS server for `localhost` that answers as the test says.
struct Service {
    address: SocketAddr,
    ca: String,
    asked: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
    dir: TempDir,
}

impl Drop for Service {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Service {
    async fn start(answer: Answer) -> Self {
        let dir = TempDir::new().unwrap();
        let ca = CertificateAuthority::load_or_create(dir.path(), "ca", "services", &SystemClock).unwrap();
        let leaf = ca.issue(&LeafSpec::server("service", vec!["localhost".to_owned()]), &SystemClock).unwrap();
        let config = ServingCertificate::new(&leaf).unwrap().server_config(&[], &[b"http/1.1"]).unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(AtomicUsize::new(0));
        let count = asked.clone();
        let task = tokio::spawn(async move {
            let mut open = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, answer, count) = (acceptor.clone(), answer.clone(), count.clone());
                open.spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let serve = service_fn(move |request: Request<Incoming>| {
                        let (answer, count) = (answer.clone(), count.clone());
                        async move {
                            let (parts, body) = request.into_parts();
                            let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
                            let document = serde_json::from_slice(&body).unwrap_or_default();
                            count.fetch_add(1, Ordering::SeqCst);
                            let (code, answer) = answer(parts.uri.path(), document);
                            // A text is the answer as it is.
                            let text = answer.as_str().map_or_else(|| answer.to_string(), str::to_owned);
                            let body: Full<Bytes> = Full::from(text);
                            Ok::<_, Infallible>(Response::builder().status(code).body(body).expect("a plain response"))
                        }
                    });
                    // A client that goes away is no failure of the test's server.
                    let _ =
                        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), serve).await;
                });
            }
        });
        Self { address, ca: ca.cert_pem().to_owned(), asked, task, dir }
    }

    fn url(&self) -> String {
        format!("https://localhost:{}", self.address.port())
    }

    /// A kubeconfig that leads to the service.
    fn kubeconfig(&self) -> PathBuf {
        let authority = self.dir.path().join("authority.crt");
        std::fs::write(&authority, &self.ca).unwrap();
        let path = self.dir.path().join("kubeconfig");
        let text = json!({
            "clusters": [{"name": "a", "cluster": {
                "server": format!("{}/review", self.url()), "certificate-authority": "authority.crt",
            }}],
            "users": [], "contexts": [{"name": "c", "context": {"cluster": "a", "user": ""}}], "current-context": "c",
        });
        std::fs::write(&path, text.to_string()).unwrap();
        path
    }
}

fn own(list: &[&str]) -> Vec<String> {
    list.iter().map(|item| (*item).to_owned()).collect()
}

#[tokio::test]
async fn tokens_of_a_provider_are_known_also_after_it_has_changed_its_keys() {
    let keys = TempDir::new().unwrap();
    let published = Arc::new(Mutex::new((String::new(), Value::Null)));
    let state = published.clone();
    let provider = Service::start(Arc::new(move |path, _| {
        let (issuer, jwks) = state.lock().clone();
        match path {
            "/.well-known/openid-configuration" => {
                (200, json!({"issuer": issuer, "jwks_uri": format!("{issuer}/keys")}))
            }
            "/keys" => (200, jwks),
            _ => (404, Value::Null),
        }
    }))
    .await;
    let signer = |name: &str| TokenSigner::load_or_create(&keys.path().join(name), &provider.url()).unwrap();
    let (first, second) = (signer("first"), signer("second"));
    *published.lock() = (provider.url(), first.jwks().clone());
    let text = json!({
        "apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthenticationConfiguration",
        "jwt": [{
            "issuer": {"url": provider.url(), "certificateAuthority": provider.ca, "audiences": ["kubernetes"]},
            "claimMappings": {
                "username": {"expression": "'idp:' + claims.sub"}, "groups": {"expression": "claims.aud"},
            },
            "userValidationRules": [{"expression": "user.username != 'idp:mallory'", "message": "never"}],
        }],
    });
    let configuration = Configuration::parse(&text.to_string()).unwrap();
    let (issuer, mapping) = configuration.compile(&[]).unwrap().remove(0);
    let clock = Arc::new(ManualClock::new(jiff::Timestamp::from_second(1_800_000_000).unwrap()));
    let known = JwtAuthenticator::new(issuer, own(&["ES256"]), mapping, clock.clone()).unwrap();
    let token = |signer: &TokenSigner, subject: &str, audience: &str| {
        let claims = Claims {
            aud: own(&[audience]),
            exp: 1_800_000_100,
            sub: subject.to_owned(),
            jti: "t".to_owned(),
            ..Claims::default()
        };
        signer.sign(claims).unwrap()
    };
    let api = own(&["api"]);
    let early = known.authenticate(&token(&first, "ann", "kubernetes"), &api).await;
    assert_eq!(early, Err("oidc: authenticator not initialized".to_owned()));
    known.discover().await.unwrap();
    let (user, audiences) = known.authenticate(&token(&first, "ann", "kubernetes"), &api).await.unwrap().unwrap();
    assert_eq!((user.name.as_str(), user.groups, audiences), ("idp:ann", own(&["kubernetes"]), api.clone()));
    assert_eq!(user.extra["authentication.kubernetes.io/credential-id"], ["JTI=t"]);
    let why = async |token: String| known.authenticate(&token, &api).await.unwrap_err();
    assert!(why(token(&first, "ann", "other")).await.contains("expected audience \"kubernetes\" got [\"other\"]"));
    assert!(why(token(&first, "mallory", "kubernetes")).await.ends_with("failed: never"));
    assert_eq!(known.authenticate("a.b.c", &api).await, Ok(None));
    // Another key signs: the set is fetched again, though not at once.
    published.lock().1 = second.jwks().clone();
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(2)).await;
    tokio::time::resume();
    assert!(known.authenticate(&token(&second, "ann", "kubernetes"), &api).await.unwrap().is_some());
    assert!(why(token(&first, "ann", "kubernetes")).await.contains("failed to verify signature"));
    clock.advance(jiff::SignedDuration::from_secs(101));
    assert!(why(token(&second, "ann", "kubernetes")).await.contains("token is expired"));
}

#[tokio::test]
async fn groups_may_be_somewhere_else() {
    let folder = TempDir::new().unwrap();
    let published = Arc::new(Mutex::new((String::new(), Value::Null, String::new())));
    let state = published.clone();
    let provider = Service::start(Arc::new(move |path, _| {
        let (issuer, jwks, claims) = state.lock().clone();
        match path {
            "/.well-known/openid-configuration" => {
                (200, json!({"issuer": issuer, "jwks_uri": format!("{issuer}/keys")}))
            }
            "/keys" => (200, jwks),
            "/claims" => (200, claims.into()),
            _ => (404, Value::Null),
        }
    }))
    .await;
    let (key, url) = (folder.path().join("key"), provider.url());
    let signer = TokenSigner::load_or_create(&key, &url).unwrap();
    let key = jsonwebtoken::EncodingKey::from_ec_pem(&std::fs::read(key).unwrap()).unwrap();
    let sign = |mut claims: Value| {
        let mut header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::ES256);
        header.kid = signer.jwks()["keys"][0]["kid"].as_str().map(str::to_owned);
        claims["iss"] = url.as_str().into();
        claims["exp"] = 1_800_000_100.into();
        jsonwebtoken::encode(&header, &claims, &key).unwrap()
    };
    let text = json!({
        "apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthenticationConfiguration",
        "jwt": [{
            "issuer": {"url": url, "certificateAuthority": provider.ca, "audiences": ["kubernetes"]},
            "claimMappings": {"username": {"claim": "sub", "prefix": ""}, "groups": {"claim": "groups", "prefix": ""}},
        }],
    });
    let (issuer, mapping) = Configuration::parse(&text.to_string()).unwrap().compile(&[]).unwrap().remove(0);
    let clock = Arc::new(ManualClock::new(jiff::Timestamp::from_second(1_800_000_000).unwrap()));
    let known = JwtAuthenticator::new(issuer, own(&["ES256"]), mapping, clock).unwrap();
    *published.lock() = (url.clone(), signer.jwks().clone(), String::new());
    known.discover().await.unwrap();
    let token = |endpoint: &str| {
        let sources = json!({"there": {"endpoint": endpoint, "access_token": "t"}});
        sign(json!({"aud": "kubernetes", "sub": "ann", "_claim_names": {"groups": "there"}, "_claim_sources": sources}))
    };
    let ask = async |endpoint: &str, claims: String| {
        published.lock().2 = claims;
        let found = known.authenticate(&token(endpoint), &own(&["api"])).await?;
        Ok::<_, String>(found.map(|(user, _)| user.groups).unwrap_or_default())
    };
    let there = format!("{url}/claims");
    let groups = sign(json!({"aud": "kubernetes", "groups": ["clerks"]}));
    assert_eq!(ask(&there, groups.clone()).await, Ok(own(&["clerks"])));
    assert_eq!(ask("", groups).await, Ok(Vec::new()));
    let why = async |endpoint: &str, claims: String| ask(endpoint, claims).await.unwrap_err();
    let what = "oidc: could not expand distributed claims: ";
    let other = sign(json!({"aud": "other", "groups": ["clerks"]}));
    assert!(
        why(&there, other).await.starts_with(&format!("{what}verify distributed claim token: oidc: expected audience"))
    );
    let none = sign(json!({"aud": "kubernetes"}));
    assert!(why(&there, none).await.ends_with("did not contain claim: groups"));
    assert!(why(&format!("{url}/nothing"), String::new()).await.contains("while getting distributed claim \"groups\""));
    assert!(why(&there, "x".to_owned()).await.contains("malformed jwt"));
}

#[tokio::test]
async fn a_webhook_knows_tokens_and_is_asked_once() {
    let hook = Service::start(Arc::new(|_, review| {
        let known = review["spec"]["token"] == "good";
        (201, json!({"status": {"authenticated": known, "user": {"username": "ann", "groups": ["clerks"]}}}))
    }))
    .await;
    let remote = Remote::load(&hook.kubeconfig()).unwrap();
    let known = TokenWebhook::new(remote, "v1", own(&["api"]), Duration::from_secs(100));
    for _ in 0..3 {
        let (user, audiences) = known.authenticate("good", &own(&["api"])).await.unwrap().unwrap();
        assert_eq!((user.name.as_str(), user.groups, audiences), ("ann", own(&["clerks"]), own(&["api"])));
    }
    assert_eq!(hook.asked.load(Ordering::SeqCst), 1);
    assert_eq!(known.authenticate("bad", &own(&["api"])).await, Ok(None));
}

#[tokio::test]
async fn a_webhook_decides_or_fails() {
    let hook = Service::start(Arc::new(|_, review| {
        let spec = &review["spec"];
        if spec["user"] == "broken" {
            return (400, Value::Null);
        }
        let allowed = spec["resourceAttributes"]["verb"] == "get";
        (200, json!({"status": {"allowed": allowed, "denied": !allowed, "reason": "because"}}))
    }))
    .await;
    let make = |on_error| {
        let options = AccessOptions {
            name: "hook".to_owned(),
            version: "v1".to_owned(),
            allowed_ttl: Duration::from_secs(10),
            refused_ttl: Duration::ZERO,
            timeout: Duration::from_secs(10),
            on_error,
        };
        let conditions = compile(&own(&["request.user != 'skipped'"])).unwrap();
        AccessWebhook::new(Remote::load(&hook.kubeconfig()).unwrap(), options, conditions)
    };
    let question = |verb: &str| AuthorizationAttributes {
        verb: verb.to_owned(),
        is_resource: true,
        resource: "pods".to_owned(),
        ..AuthorizationAttributes::default()
    };
    let access = make(OnError::NoOpinion);
    let ann = UserInfo::new("ann", &[]);
    let reason = || "because".to_owned();
    assert_eq!(access.authorize(&ann, &question("get")).await, Decision::Allow { reason: reason() });
    assert_eq!(access.authorize(&ann, &question("list")).await, Decision::Deny { reason: reason() });
    assert_eq!(access.authorize(&ann, &question("get")).await, Decision::Allow { reason: reason() });
    assert_eq!(hook.asked.load(Ordering::SeqCst), 2);
    let skipped = UserInfo::new("skipped", &[]);
    assert_eq!(access.authorize(&skipped, &question("get")).await, Decision::NoOpinion { reason: String::new() });
    let broken = UserInfo::new("broken", &[]);
    let (decision, error) = access.authorize_or_fail(&broken, &question("get")).await;
    assert!(matches!(decision, Decision::NoOpinion { .. }) && error.is_some_and(|e| e.contains("answered 400")));
    let (decision, _) = make(OnError::Deny).authorize_or_fail(&broken, &question("get")).await;
    assert_eq!(decision, Decision::Deny { reason: String::new() });
}
