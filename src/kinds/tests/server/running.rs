//! A server of the built-in kinds with a store of its own, and requests to it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use api::services::{Authorizer, TokenRequest, Tokens};
use api::webhook::Webhooks;
use api::{Status, UserInfo};
use apiserver::{ApiServer, Authenticate, Config};
use async_trait::async_trait;
use axum::body::Body;
use base::{Shutdown, SystemClock};
use http::{Method, Request};
use http_body_util::BodyExt;
use kinds::apiextensions::CustomResources;
use serde_json::Value;
use storage::{SqliteOptions, SqliteStore};
use tower::ServiceExt;

pub const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

/// Knows no tokens.
pub struct NoTokens;

#[async_trait]
impl Tokens for NoTokens {
    async fn issue(&self, _: TokenRequest) -> Result<(String, jiff::Timestamp), Status> {
        Err(Status::internal("no tokens here"))
    }

    fn audiences(&self) -> Vec<String> {
        Vec::new()
    }

    async fn review(&self, _: &str, _: &[String]) -> Result<(UserInfo, Vec<String>), String> {
        Err("no tokens here".to_owned())
    }
}

/// Ends with its value.
pub struct Running {
    pub server: Arc<ApiServer>,
    pub shutdown: Shutdown,
    _dir: tempfile::TempDir,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

impl Running {
    /// Serves custom resources, too; `webhooks` are asked to convert them.
    pub async fn start(
        authenticator: Arc<dyn Authenticate>,
        authorizer: Arc<dyn Authorizer>,
        front_proxy: Option<pki::Leaf>,
        webhooks: Option<Arc<dyn Webhooks>>,
    ) -> Self {
        let dir = tempfile::TempDir::new().unwrap();
        let shutdown = Shutdown::new();
        let store =
            SqliteStore::open(&dir.path().join("db"), SqliteOptions::default(), shutdown.clone()).await.unwrap();
        let server = ApiServer::new(Config {
            store,
            types: Arc::clone(kinds::facts::types()),
            kinds: kinds::all(&kinds::Config {
                service_cidrs: vec!["10.43.0.0/16".parse().unwrap()],
                node_ports: (30000, 32767),
                cluster_dns: Vec::new(),
                kubelet_port: 10250,
            }),
            authenticator,
            authorizer,
            decisions: Arc::default(),
            tokens: Arc::new(NoTokens),
            clock: Arc::new(SystemClock),
            shutdown: shutdown.clone(),
            advertise: "127.0.0.1:6443".to_owned(),
            kubelets: None,
            documents: Vec::new(),
            texts: Default::default,
            limits: apiserver::Limits::default(),
            front_proxy,
            flags: Vec::new(),
        });
        let (sender, ready) = tokio::sync::oneshot::channel();
        let definitions = Arc::new(CustomResources { webhooks });
        tokio::spawn(apiserver::extensions::run(server.clone(), definitions, sender, shutdown.clone()));
        ready.await.unwrap();
        Self { server, shutdown, _dir: dir }
    }

    /// The answer's code and its document, or its text if it is none. No content type: an empty one.
    pub async fn call(
        &self,
        user: &str,
        method: Method,
        path: &str,
        content_type: &str,
        body: Vec<u8>,
    ) -> (u16, Value) {
        let mut request = Request::new(Body::from(body));
        *request.method_mut() = method;
        *request.uri_mut() = path.parse().unwrap();
        if !content_type.is_empty() {
            request.headers_mut().insert(http::header::CONTENT_TYPE, content_type.parse().unwrap());
        }
        request.extensions_mut().insert(UserInfo::new(user, &[]));
        let answer = tokio::time::timeout(Duration::from_secs(20), self.server.service().oneshot(request));
        let (parts, body) = answer.await.expect("no answer in time").unwrap().into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let value = serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| Value::from(String::from_utf8_lossy(&bytes).into_owned()));
        (parts.status.as_u16(), value)
    }

    pub async fn get(&self, path: &str) -> (u16, Value) {
        self.call("tester", Method::GET, path, "", Vec::new()).await
    }

    /// Asks until the answer is as wanted.
    pub async fn until(&self, path: &str, wanted: impl Fn(u16, &Value) -> bool) -> Value {
        let last = Mutex::new((0, Value::Null));
        let asking = async {
            loop {
                let (code, value) = self.get(path).await;
                if wanted(code, &value) {
                    return value;
                }
                *last.lock().unwrap() = (code, value);
                tokio::task::yield_now().await;
            }
        };
        match tokio::time::timeout(Duration::from_secs(30), asking).await {
            Ok(value) => value,
            Err(_) => panic!("{path} did not become as wanted: {:#?}", last.lock().unwrap()),
        }
    }
}
