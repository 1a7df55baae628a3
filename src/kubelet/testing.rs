//! Helpers of this crate's unit tests: a node agent around a fake runtime and a small API server in memory.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use async_trait::async_trait;
use base::{Clock, Shutdown};
use client::{Body, Client, Informer, Recorder, Resource};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use runtime::{FakeRuntime, Runtime};
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio_util::task::TaskTracker;

use crate::cgroups::Cgroups;
use crate::config::KubeletConfig;
use crate::context::Context;
use crate::csi::Drivers;
use crate::events::Events;
use crate::eviction::Pressures;
use crate::images::Images;
use crate::machine::Machine;
use crate::network::{AttachRequest, NetworkError, PodNetwork};
use crate::objects::Objects;
use crate::observed::Cache;
use crate::probes::Probes;
use crate::runtime_class::RuntimeClasses;
use crate::table::PodTable;
use crate::volumes::certificates::Certificates;
use crate::volumes::persistent::Claims;
use crate::volumes::tokens::Tokens;
use crate::volumes::trust::Trust;

/// A pod from JSON; panics on what is no pod.
pub fn pod_from(mut value: Value) -> Pod {
    value["apiVersion"] = "v1".into();
    value["kind"] = "Pod".into();
    if value["metadata"]["namespace"].is_null() {
        value["metadata"]["namespace"] = "default".into();
    }
    if value["metadata"]["uid"].is_null() {
        value["metadata"]["uid"] = "uid-1".into();
    }
    Pod::decode(value.to_string().as_bytes()).expect("a pod")
}

/// Timestamps that follow tokio's (paused) time.
pub struct TokioClock(tokio::time::Instant);

impl Clock for TokioClock {
    fn now(&self) -> Timestamp {
        let elapsed = jiff::SignedDuration::try_from(self.0.elapsed()).expect("a short test");
        Timestamp::from_second(1_000_000).expect("a time") + elapsed
    }
}

/// What the API server was asked: method, path, body.
pub type Requests = Arc<Mutex<Vec<(String, String, Value)>>>;

struct FakeNetwork;

#[async_trait]
impl PodNetwork for FakeNetwork {
    async fn attach(&self, _: &AttachRequest) -> Result<Vec<IpAddr>, NetworkError> {
        Ok(vec![[10, 1, 1, 1].into()])
    }

    async fn detach(&self, _: &str) -> Result<(), NetworkError> {
        Ok(())
    }

    async fn ready(&self) -> Result<(), String> {
        Ok(())
    }

    async fn attached(&self) -> Result<Vec<String>, NetworkError> {
        Ok(Vec::new())
    }
}

/// A node agent under test.
pub struct Harness {
    pub ctx: Arc<Context>,
    pub runtime: Arc<FakeRuntime>,
    pub requests: Requests,
    statuses: Arc<Mutex<BTreeMap<String, Value>>>,
    folder: Arc<tempfile::TempDir>,
}

/// Merges a status patch the way the tests need it: fields replaced, conditions by type.
fn merge(status: &mut Value, patch: &Value) {
    for (key, value) in patch.as_object().into_iter().flatten() {
        if key != "conditions" {
            status[key] = value.clone();
            continue;
        }
        for condition in value.as_array().into_iter().flatten() {
            let list = status["conditions"].as_array().cloned().unwrap_or_default();
            let mut list: Vec<Value> = list.into_iter().filter(|c| c["type"] != condition["type"]).collect();
            list.push(condition.clone());
            status["conditions"] = list.into();
        }
    }
}

impl Harness {
    pub async fn new() -> Self {
        let clock = Arc::new(TokioClock(tokio::time::Instant::now()));
        let runtime = FakeRuntime::new(clock);
        Self::around(runtime, Arc::new(tempfile::tempdir().expect("a folder"))).await
    }

    /// Another agent on the same runtime and folder, as after a restart.
    pub async fn restarted(&self) -> Self {
        self.ctx.shutdown.cancel();
        Self::around(self.runtime.clone(), self.folder.clone()).await
    }

    async fn around(runtime: Arc<FakeRuntime>, folder: Arc<tempfile::TempDir>) -> Self {
        let clock = Arc::new(TokioClock(tokio::time::Instant::now()));
        let requests: Requests = Requests::default();
        let statuses: Arc<Mutex<BTreeMap<String, Value>>> = Arc::default();
        let client = Client::in_memory(server(requests.clone(), statuses.clone()), api::UserInfo::default());
        let shutdown = Shutdown::new();
        let table = Arc::new(PodTable::default());
        let path = folder.path();
        let config = KubeletConfig::new("n", [10, 0, 0, 1].into(), path.join("kubelet"), path.join("logs"));
        let ctx = Context {
            events: Events::new(Recorder::new(client.clone(), "kubelet", "n", clock.clone()), "n".into()),
            cache: Cache::new(runtime.clone()),
            images: Images::default(),
            config_maps: Objects::new(client.clone(), table.clone(), shutdown.clone()),
            secrets: Objects::new(client.clone(), table.clone(), shutdown.clone()),
            tokens: Tokens::default(),
            trust: Trust::default(),
            certificates: Certificates::default(),
            claims: Claims::default(),
            runtime_classes: RuntimeClasses::default(),
            csi: Drivers::default(),
            probes: Arc::new(Probes::new(clock.now())),
            cgroups: Cgroups::at(path, ""),
            machine: Machine { memory_bytes: 1 << 30, cpus: 2, ..Machine::default() },
            services: Informer::fake(Vec::new()),
            pods: Informer::fake(Vec::new()),
            informers: client::Informers::new(client.clone(), shutdown.clone()),
            pressures: Pressures::default(),
            shutting_down: AtomicBool::new(false),
            node_changed: Notify::new(),
            mirrors_changed: Notify::new(),
            tasks: TaskTracker::new(),
            config: Arc::new(config),
            client,
            runtime: runtime.clone(),
            network: Arc::new(FakeNetwork),
            clock,
            table,
            shutdown,
        };
        let ctx = Arc::new(ctx);
        ctx.cache.resync().await.expect("the fake answers");
        let events = runtime.events();
        let follower = ctx.clone();
        tokio::spawn(async move { crate::agent::follow_runtime(&follower, events).await });
        Self { ctx, runtime, requests, statuses, folder }
    }

    /// The status as the API server has it.
    pub fn status(&self, name: &str) -> Value {
        self.statuses.lock().get(name).cloned().unwrap_or_default()
    }

    /// Waits until the published status is as wanted; paused time moves on meanwhile.
    pub async fn until(&self, name: &str, what: &str, test: impl Fn(&Value) -> bool) {
        for _ in 0..20_000 {
            if test(&self.status(name)) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{name}: {what} did not come: {:#}", self.status(name));
    }

    /// Waits until a request was made.
    pub async fn until_request(&self, method: &str, path: &str) -> Value {
        for _ in 0..20_000 {
            let found = self.requests.lock().iter().find(|(m, p, _)| m == method && p == path).cloned();
            if let Some((_, _, body)) = found {
                return body;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{method} {path} did not come: {:?}", self.requests.lock());
    }

    /// Reasons of the events so far.
    pub fn events(&self) -> Vec<String> {
        let requests = self.requests.lock();
        let posts = requests.iter().filter(|(m, p, _)| m == "POST" && p.ends_with("/events"));
        posts.map(|(_, _, body)| body["reason"].as_str().unwrap_or_default().to_owned()).collect()
    }

    pub async fn container(&self, name: &str) -> runtime::Container {
        let all = self.runtime.containers().await.expect("the fake answers");
        let mut named: Vec<_> =
            all.into_iter().filter(|c| c.labels.get(crate::names::CONTAINER_NAME).is_some_and(|n| n == name)).collect();
        named.sort_by_key(|c| c.created);
        named.pop().expect("a container")
    }
}

type Answer = Result<Response<Full<bytes::Bytes>>, std::convert::Infallible>;

fn server(
    requests: Requests,
    statuses: Arc<Mutex<BTreeMap<String, Value>>>,
) -> impl tower::Service<
    Request<Body>,
    Response = Response<Full<bytes::Bytes>>,
    Error = std::convert::Infallible,
    Future = futures::future::BoxFuture<'static, Answer>,
> + Send
+ 'static {
    tower::service_fn(move |request: Request<Body>| {
        let (requests, statuses) = (requests.clone(), statuses.clone());
        let answer: futures::future::BoxFuture<'static, Answer> = Box::pin(async move {
            let (parts, body) = request.into_parts();
            let bytes = body.collect().await.map(|b| b.to_bytes()).unwrap_or_default();
            let body: Value = serde_json::from_slice(&bytes).unwrap_or_default();
            let path = parts.uri.path().to_owned();
            requests.lock().push((parts.method.to_string(), path.clone(), body.clone()));
            let answer = match path.strip_suffix("/status") {
                Some(pod) => {
                    let name = pod.rsplit('/').next().unwrap_or_default().to_owned();
                    let mut statuses = statuses.lock();
                    let status = statuses.entry(name.clone()).or_insert_with(|| json!({}));
                    merge(status, &body["status"]);
                    let version = requests.lock().len().to_string();
                    json!({"apiVersion": "v1", "kind": "Pod",
                        "metadata": {"name": name, "namespace": "default", "uid": "uid-1", "resourceVersion": version},
                        "status": strip(status)})
                }
                None if parts.method == http::Method::POST => body,
                None => json!({"kind": "Status", "apiVersion": "v1", "status": "Success"}),
            };
            Ok(Response::new(Full::from(answer.to_string())))
        });
        answer
    })
}

/// Without the directives of a strategic merge.
fn strip(status: &Value) -> Value {
    let mut status = status.clone();
    for (_, value) in status.as_object_mut().into_iter().flatten() {
        if let Some(list) = value.as_array_mut() {
            list.retain(|item| item.get("$patch").is_none());
        }
    }
    status
}
