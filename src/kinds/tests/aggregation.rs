//! One server behind another: an APIService, whom it names, and what clients of the front one see.

use std::net::SocketAddr;
use std::sync::Arc;

use api::UserInfo;
use api::services::{AuthorizationAttributes, Authorizer, Decision};
use apiserver::auth::Authenticator;
use apiserver::auth::front_proxy::{ALLOWED_NAME, FrontProxy};
use apiserver::serve::Tls;
use async_trait::async_trait;
use base::SystemClock;
use http::Method;
use pki::{CertificateAuthority, LeafSpec, ServingCertificate};
use serde_json::{Value, json};

#[path = "server/running.rs"]
mod running;

use running::{CRDS, NoTokens, Running};

const SERVICES: &str = "/apis/apiregistration.k8s.io/v1/apiservices";
const WIDGETS: &str = "/apis/example.com/v1/namespaces/ns/widgets";

/// Everybody may do everything but `nobody`.
struct Guard;

#[async_trait]
impl Authorizer for Guard {
    async fn authorize(&self, user: &UserInfo, _: &AuthorizationAttributes) -> Decision {
        match user.name.as_str() {
            "nobody" | "system:anonymous" => Decision::NoOpinion { reason: String::new() },
            _ => Decision::Allow { reason: String::new() },
        }
    }

    async fn rules(&self, _: &UserInfo, _: &str) -> (Vec<Value>, Vec<Value>, bool) {
        (Vec::new(), Vec::new(), false)
    }
}

struct Server(Running);

impl Server {
    async fn new(front_proxy: Option<pki::Leaf>) -> Self {
        let authenticator = Authenticator::new(Arc::new(NoTokens), Arc::new(SystemClock));
        let running = Running::start(Arc::new(authenticator), Arc::new(Guard), front_proxy, None).await;
        tokio::spawn(apiserver::aggregate::run(running.server.clone(), running.shutdown.clone()));
        Self(running)
    }

    async fn call(&self, user: &str, method: Method, path: &str, body: &Value) -> (u16, Value) {
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        self.0.call(user, method, path, "application/json", body).await
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        self.0.get(path).await
    }

    async fn post(&self, path: &str, body: &Value) -> Value {
        let (code, value) = self.call("tester", Method::POST, path, body).await;
        assert_eq!(code, 201, "{value:#}");
        value
    }

    async fn until(&self, path: &str, wanted: impl Fn(u16, &Value) -> bool) -> Value {
        self.0.until(path, wanted).await
    }

    /// Listens on a port of its own, for clients of a front proxy.
    async fn listen(&self, name: &str, proxies: &CertificateAuthority) -> (SocketAddr, String) {
        let dir = tempfile::tempdir().unwrap();
        let load = |name: &str| CertificateAuthority::load_or_create(dir.path(), name, name, &SystemClock).unwrap();
        let (authority, clients) = (load("serving-ca"), load("client-ca"));
        let leaf = authority.issue(&LeafSpec::server("api", vec![name.to_owned()]), &SystemClock).unwrap();
        let front_proxy =
            FrontProxy { authority: proxies.cert_der().clone(), allowed_names: vec![ALLOWED_NAME.to_owned()] };
        let asked_for = [clients.cert_der().clone(), proxies.cert_der().clone()];
        let config = ServingCertificate::new(&leaf).unwrap().server_config(&asked_for, &[b"h2", b"http/1.1"]).unwrap();
        let tls = Tls {
            config: Arc::new(config),
            client_authority: clients.cert_der().clone(),
            front_proxy: Some(front_proxy),
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(apiserver::serve::listen(listener, tls, self.0.server.service(), self.0.shutdown.clone()));
        (address, authority.cert_pem().to_owned())
    }

    fn available(value: &Value) -> (String, String) {
        let condition = &value["status"]["conditions"][0];
        let text = |name: &str| condition[name].as_str().unwrap_or_default().to_owned();
        (text("status"), text("reason"))
    }
}

fn widgets() -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.example.com"},
        "spec": {
            "group": "example.com", "scope": "Namespaced",
            "names": {"plural": "widgets", "singular": "widget", "kind": "Widget", "listKind": "WidgetList"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {
                "type": "object", "properties": {"spec": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}},
            }}}],
        },
    })
}

/// A front server, one behind it that has widgets, and the APIService that joins them.
async fn joined() -> (Server, Server) {
    let keys = tempfile::TempDir::new().unwrap();
    let proxies = CertificateAuthority::load_or_create(keys.path(), "proxies", "proxies", &SystemClock).unwrap();
    let leaf = proxies.issue(&LeafSpec::client(ALLOWED_NAME, &[]), &SystemClock).unwrap();
    let (front, behind) = (Server::new(Some(leaf)).await, Server::new(None).await);
    behind.post("/api/v1/namespaces", &json!({"metadata": {"name": "ns"}})).await;
    behind.post(CRDS, &widgets()).await;
    behind.until(WIDGETS, |code, _| code == 200).await;
    let (address, authority) = behind.listen("api.apis.svc", &proxies).await;
    front.post("/api/v1/namespaces", &json!({"metadata": {"name": "apis"}})).await;
    let service = json!({"metadata": {"name": "api"}, "spec": {"type": "ExternalName", "externalName": "localhost"}});
    let registration = json!({"metadata": {"name": "v1.example.com"}, "spec": {
        "group": "example.com", "version": "v1", "groupPriorityMinimum": 2000, "versionPriority": 10,
        "caBundle": base64(authority.as_bytes()), "service": {"namespace": "apis", "name": "api", "port": address.port()},
    }});
    front.post(SERVICES, &registration).await;
    front.until(&format!("{SERVICES}/v1.example.com"), |_, v| Server::available(v).1 == "ServiceNotFound").await;
    front.post("/api/v1/namespaces/apis/services", &service).await;
    front.until(&format!("{SERVICES}/v1.example.com"), |_, v| Server::available(v).1 == "Passed").await;
    // What requests go by follows the object.
    front.until("/apis/example.com/v1", |code, _| code == 200).await;
    (front, behind)
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let number = chunk.iter().fold(0u32, |n, b| n << 8 | u32::from(*b)) << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let digit = ALPHABET[(number >> (18 - 6 * place)) as usize & 63];
            out.push(if place > chunk.len() { '=' } else { char::from(digit) });
        }
    }
    out
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_go_to_the_server_behind_in_the_users_name() {
    let (front, behind) = joined().await;
    let widget = json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "a"}, "spec": {"x": 1}});
    front.post(WIDGETS, &widget).await;
    assert_eq!(behind.get(&format!("{WIDGETS}/a")).await.1["spec"]["x"], 1);
    assert_eq!(front.get(&format!("{WIDGETS}/a")).await.1["spec"]["x"], 1);
    // The front server lets nobody in, and so would the other.
    let (code, refused) = front.call("nobody", Method::GET, WIDGETS, &Value::Null).await;
    assert_eq!((code, refused["message"].as_str().unwrap().contains("nobody")), (403, true));
    let (code, gone) = front.get(&format!("{WIDGETS}/b")).await;
    assert_eq!((code, gone["reason"].as_str()), (404, Some("NotFound")));
}

#[tokio::test(flavor = "multi_thread")]
async fn discovery_and_documents_have_both_servers_kinds() {
    let (front, _behind) = joined().await;
    let (_, groups) = front.get("/apis").await;
    let names: Vec<&str> = groups["groups"].as_array().unwrap().iter().map(|g| g["name"].as_str().unwrap()).collect();
    assert_eq!(names.first(), Some(&"apiregistration.k8s.io"));
    assert_eq!(names.last(), Some(&"example.com"));
    let (_, resources) = front.get("/apis/example.com/v1").await;
    assert_eq!(resources["resources"][0]["name"], "widgets");
    let (_, group) = front.get("/apis/example.com").await;
    assert_eq!(group["preferredVersion"]["version"], "v1");
    let has = |v: &Value| v["paths"].get("apis/example.com/v1").is_some();
    front.until("/openapi/v3", |_, v| has(v)).await;
    let (code, document) = front.get("/openapi/v3/apis/example.com/v1").await;
    assert_eq!(code, 200);
    assert!(document["components"]["schemas"].get("com.example.v1.Widget").is_some());
    // The other server's second document is asked for after its first.
    let joined = |v: &Value| v["definitions"].get("com.example.v1.Widget").is_some();
    front.until("/openapi/v2", |_, v| joined(v)).await;
    let (_, all) = front.get("/openapi/v2").await;
    assert!(all["definitions"].get("com.example.v1.Widget").is_some());
    assert!(all["paths"].get("/apis/example.com/v1/namespaces/{namespace}/widgets").is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_gone_is_unavailable() {
    let (front, behind) = joined().await;
    drop(behind);
    front.call("tester", Method::DELETE, "/api/v1/namespaces/apis/services/api", &Value::Null).await;
    let registered = front.until(&format!("{SERVICES}/v1.example.com"), |_, v| Server::available(v).0 == "False").await;
    assert_eq!(Server::available(&registered).1, "ServiceNotFound");
    let answer = front.until(WIDGETS, |code, _| code == 503).await;
    assert_eq!(answer, Value::from("service unavailable\n"));
    let (code, _) = front.call("tester", Method::DELETE, &format!("{SERVICES}/v1.example.com"), &Value::Null).await;
    assert_eq!(code, 200);
    front.until(WIDGETS, |code, _| code == 404).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_served_here_is_registered_and_comes_back_for_custom_resources() {
    let server = Server::new(None).await;
    let local = |_: u16, v: &Value| Server::available(v) == ("True".to_owned(), "Local".to_owned());
    let apps = server.until(&format!("{SERVICES}/v1.apps"), local).await;
    assert_eq!(apps["spec"]["groupPriorityMinimum"], 17800);
    assert_eq!(apps["metadata"]["labels"]["kube-aggregator.kubernetes.io/automanaged"], "onstart");
    server.post(CRDS, &widgets()).await;
    let path = format!("{SERVICES}/v1.example.com");
    let own = server.until(&path, local).await;
    assert_eq!(own["spec"]["groupPriorityMinimum"], 1000);
    server.call("tester", Method::DELETE, &path, &Value::Null).await;
    let again = server.until(&path, |code, v| code == 200 && v["metadata"]["uid"] != own["metadata"]["uid"]).await;
    assert_eq!(again["spec"], own["spec"]);
    server.call("tester", Method::DELETE, &format!("{CRDS}/widgets.example.com"), &Value::Null).await;
    server.until(&path, |code, _| code == 404).await;
}
