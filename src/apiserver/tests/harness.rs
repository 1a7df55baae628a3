//! A server with one kind, `Widget`, called in memory.

use std::sync::Arc;
use std::time::Duration;

use api::kind::{
    Column, ColumnValue, FieldValue, KindDef, RequestContext, ScalePaths, SelectableField, StorageDef, Strategy,
    Subresource, SubresourceKind,
};
use api::schema::{Field, Schema, StructDef, Type, TypeId, Types};
use api::services::{AuthorizationAttributes, Authorizer, Decision, TokenRequest, Tokens};
use api::{Gvk, Object, Status, UserInfo};
use async_trait::async_trait;
use axum::body::Body;
use base::{Shutdown, SystemClock};
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use storage::{Op, Put, SqliteOptions, SqliteStore, Store, Txn};
use tempfile::TempDir;
use tower::ServiceExt;

use crate::{ApiServer, Authenticate, Config};

pub struct Harness {
    pub server: Arc<ApiServer>,
    pub shutdown: Shutdown,
    _dir: TempDir,
}

struct AllowAll;

#[async_trait]
impl Authorizer for AllowAll {
    async fn authorize(&self, user: &UserInfo, _: &AuthorizationAttributes) -> Decision {
        match user.name.as_str() {
            "nobody" => Decision::NoOpinion { reason: String::new() },
            _ => Decision::Allow { reason: String::new() },
        }
    }

    async fn rules(&self, _: &UserInfo, _: &str) -> (Vec<Value>, Vec<Value>, bool) {
        (Vec::new(), Vec::new(), false)
    }
}

#[async_trait]
impl Authenticate for AllowAll {
    /// Whoever comes over a connection with any credentials is the tester.
    async fn authenticate(&self, parts: &http::request::Parts) -> Result<UserInfo, Status> {
        match parts.headers.contains_key(http::header::AUTHORIZATION) {
            true => Ok(UserInfo::new("tester", &[])),
            false => Err(Status::unauthorized("")),
        }
    }
}

#[async_trait]
impl Tokens for AllowAll {
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

/// Grace of 30 seconds for widgets that are labelled `graceful`.
struct WidgetStrategy;

impl Strategy for WidgetStrategy {
    fn validate(&self, _: &RequestContext<'_>, object: &Object) -> api::field::ErrorList {
        match object.i64(&["spec", "size"]) {
            Some(size) if size < 0 => {
                let path = api::field::Path::new("spec").child("size");
                vec![api::field::Error::invalid(path, size, "must be greater than or equal to 0")]
            }
            _ => Vec::new(),
        }
    }

    fn graceful_delete(&self, object: &Object, requested: Option<i64>) -> Option<i64> {
        object.label("graceful").map(|_| requested.unwrap_or(30))
    }
}

fn string_field(name: &'static str, ty: Type) -> Field {
    Field { name: name.into(), ty, ..Field::default() }
}

fn widget() -> Arc<KindDef> {
    let types = Arc::new(Types::new(vec![
        StructDef {
            name: "Widget".into(),
            fields: vec![
                string_field("kind", Type::String),
                string_field("apiVersion", Type::String),
                string_field("metadata", Type::Json),
                string_field("spec", Type::Struct(TypeId(1))),
                string_field("status", Type::Json),
            ],
            ..StructDef::default()
        },
        StructDef {
            name: "WidgetSpec".into(),
            // The scale is decoded by this schema too.
            fields: vec![
                string_field("size", Type::Int64),
                string_field("color", Type::String),
                string_field("replicas", Type::Int32),
            ],
            ..StructDef::default()
        },
    ]));
    let schema = Schema { types, root: TypeId(0) };
    let gvk = Gvk::new("test.io", "v1", "Widget");
    let view = |name, kind| Subresource {
        name,
        kind,
        gvk: gvk.clone(),
        schema: schema.clone(),
        verbs: &["get", "update", "patch"],
    };
    let paths = ScalePaths {
        spec_replicas: vec!["spec".into(), "size".into()],
        status_replicas: vec!["status".into(), "size".into()],
        selector: vec!["spec".into(), "selector".into()],
    };
    Arc::new(KindDef {
        list_kind: "WidgetList".to_owned(),
        resource: "widgets".to_owned(),
        singular: "widget".to_owned(),
        short_names: vec!["wd".into()],
        categories: Vec::new(),
        namespaced: true,
        storage: Some(StorageDef {
            prefix: "/registry/test.io/widgets/".to_owned(),
            gvk: gvk.clone(),
            conversion: None,
        }),
        verbs: &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"],
        action: None,
        strategy: Arc::new(WidgetStrategy),
        columns: vec![Column {
            name: "Name".into(),
            kind: "string".into(),
            format: "name".into(),
            description: "Name".into(),
            priority: 0,
            value: ColumnValue::Compute(|object, _| object.name().into()),
        }],
        selectable_fields: vec![SelectableField {
            path: "spec.color".into(),
            value: FieldValue::Path(vec!["spec".to_owned(), "color".to_owned()]),
        }],
        subresources: vec![
            view("status", SubresourceKind::Status),
            Subresource { gvk: Gvk::new("autoscaling", "v1", "Scale"), ..view("scale", SubresourceKind::Scale(paths)) },
        ],
        has_generation: true,
        ttl: None,
        hook: None,
        rechecks_names: false,
        deprecation: None,
        status_keeps: api::kind::StatusKeeps::Nothing,
        returns_deleted: false,
        custom: None,
        schema,
        gvk,
    })
}

/// An answer, read to its end.
pub struct Answer {
    pub code: u16,
    pub text: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("not JSON: {}", self.text))
    }

    #[track_caller]
    pub fn expect_code(self, code: u16) {
        assert_eq!(self.code, code, "{}", self.text);
    }

    #[track_caller]
    pub fn expect(self, code: u16) -> Value {
        assert_eq!(self.code, code, "{}", self.text);
        self.json()
    }
}

pub const WIDGETS: &str = "/apis/test.io/v1/namespaces/ns/widgets";

pub fn widget_named(name: &str) -> Value {
    json!({"apiVersion": "test.io/v1", "kind": "Widget", "metadata": {"name": name}, "spec": {"size": 1}})
}

impl Harness {
    pub async fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let shutdown = Shutdown::new();
        let store =
            SqliteStore::open(&dir.path().join("db"), SqliteOptions::default(), shutdown.clone()).await.unwrap();
        for n in 0..3u8 {
            // So that there is a past the cache has not seen.
            let put = Put { key: "/registry/other".into(), value: vec![n].into(), ..Put::default() };
            store.txn(Txn { success: vec![Op::Put(put)], ..Txn::default() }).await.unwrap();
        }
        let kind = widget();
        let server = ApiServer::new(Config {
            store,
            types: Arc::clone(&kind.schema.types),
            kinds: vec![kind],
            authenticator: Arc::new(AllowAll),
            authorizer: Arc::new(AllowAll),
            decisions: Arc::default(),
            tokens: Arc::new(AllowAll),
            clock: Arc::new(SystemClock),
            shutdown: shutdown.clone(),
            advertise: "127.0.0.1:6443".to_owned(),
            kubelets: None,
            documents: Vec::new(),
            texts: Default::default,
            limits: crate::Limits::default(),
            front_proxy: None,
            flags: Vec::new(),
        });
        Self { server, shutdown, _dir: dir }
    }

    pub async fn send(&self, request: Request<Body>) -> http::Response<Body> {
        let answer = self.server.service().oneshot(request);
        tokio::time::timeout(Duration::from_secs(20), answer).await.expect("no answer in time").unwrap()
    }

    pub fn request(method: Method, path: &str, content_type: &str, body: Vec<u8>) -> Request<Body> {
        let mut request = Request::new(Body::from(body));
        *request.method_mut() = method;
        *request.uri_mut() = path.parse().unwrap();
        if !content_type.is_empty() {
            request.headers_mut().insert(http::header::CONTENT_TYPE, content_type.parse().unwrap());
        }
        request.extensions_mut().insert(UserInfo::new("tester", &[]));
        request
    }

    pub async fn call(&self, method: Method, path: &str, content_type: &str, body: Vec<u8>) -> Answer {
        Self::read(self.send(Self::request(method, path, content_type, body)).await).await
    }

    pub async fn read(response: http::Response<Body>) -> Answer {
        let (parts, body) = response.into_parts();
        let bytes: Bytes = body.collect().await.unwrap().to_bytes();
        Answer { code: parts.status.as_u16(), text: String::from_utf8_lossy(&bytes).into_owned() }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.call(Method::GET, path, "", Vec::new()).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.call(Method::POST, path, "application/json", body.to_string().into_bytes()).await
    }

    pub async fn put(&self, path: &str, body: &Value) -> Answer {
        self.call(Method::PUT, path, "application/json", body.to_string().into_bytes()).await
    }

    pub async fn patch(&self, path: &str, content_type: &str, body: &Value) -> Answer {
        self.call(Method::PATCH, path, content_type, body.to_string().into_bytes()).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.call(Method::DELETE, path, "", Vec::new()).await
    }

    pub async fn widget(&self, name: &str) -> Value {
        self.post(WIDGETS, &widget_named(name)).await.expect(201)
    }
}

/// A running watch, frame by frame.
pub struct Events {
    body: Body,
    buffer: Vec<u8>,
}

impl Events {
    pub async fn open(harness: &Harness, path: &str) -> Self {
        let response = harness.send(Harness::request(Method::GET, path, "", Vec::new())).await;
        assert_eq!(response.status(), 200);
        Self { body: response.into_body(), buffer: Vec::new() }
    }

    /// `TYPE name` or the whole event of an error; `None` at the end.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let frame =
                tokio::time::timeout(Duration::from_secs(20), self.body.frame()).await.expect("no event in time")?;
            self.buffer.extend_from_slice(&frame.unwrap().into_data().unwrap_or_default());
        }
    }

    pub async fn step(&mut self) -> String {
        let event = self.next().await.expect("the watch ended");
        let name = event["object"]["metadata"]["name"].as_str().unwrap_or_default();
        format!("{} {name}", event["type"].as_str().unwrap_or_default())
    }
}
