//! One remote APIService: where its server is, how it is reached, and what it has told of itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::Object;
use axum::body::Body;
use base::Shutdown;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper_util::client::legacy::Client;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio_util::task::TaskTracker;

use super::priorities::Priority;
use crate::server::ApiServer;
use crate::webhook::{Connector, pooled};

type ProxyClient = Client<Connector, Body>;

/// Connections to one server, by what they may carry.
#[derive(Clone)]
pub(crate) struct ProxyClients {
    /// HTTP/2 where the server knows it, as Go's transport offers: one connection carries all watches.
    pub requests: ProxyClient,
    /// HTTP/1.1, which alone can be upgraded (`proxy.dialURL`).
    pub upgrades: ProxyClient,
}

impl ProxyClients {
    /// Connections that show `name` and are made with `config`, whose protocols are set here.
    pub fn new(tasks: &TaskTracker, shutdown: &Shutdown, name: &ServerName<'static>, config: &ClientConfig) -> Self {
        let speaking = |protocols: &[&[u8]]| {
            let mut config = config.clone();
            config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
            pooled(tasks.clone(), shutdown.clone(), Connector::new(name.clone(), Arc::new(config)))
        };
        Self { requests: speaking(&[b"h2", b"http/1.1"]), upgrades: speaking(&[b"http/1.1"]) }
    }
}

/// A Service's port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServiceRef {
    pub namespace: String,
    pub name: String,
    pub port: u16,
}

/// What of a spec says how the server is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reach {
    pub service: ServiceRef,
    bundle: Vec<u8>,
    insecure: bool,
}

/// A remote APIService.
pub(crate) struct Remote {
    /// Of the object: `VERSION.GROUP`.
    pub name: String,
    pub uid: String,
    pub group: String,
    pub version: String,
    pub priority: Priority,
    pub reach: Reach,
    /// The object's condition says so.
    pub available: bool,
    /// The failure is what requests are answered with.
    pub clients: Result<ProxyClients, String>,
    /// `None`: not asked yet.
    pub told: Option<Arc<Told>>,
}

/// What a server told of one version when it was asked last.
#[derive(Default, PartialEq)]
pub(crate) struct Told {
    /// It could be asked.
    pub current: bool,
    /// `apidiscovery.k8s.io/v2` resources.
    pub resources: Value,
    /// The server's own ETag of its discovery.
    pub etag: String,
    /// Entries of its `/openapi/v3`, by path (`apis/GROUP/VERSION`). `None`: it serves none.
    pub openapi: Option<BTreeMap<String, Value>>,
    /// The version 2 document's part for this version, with its `definitions` and `paths`.
    pub openapi_v2: Option<Arc<Value>>,
    pub openapi_v2_etag: String,
}

impl Reach {
    fn of(object: &Object) -> Option<Self> {
        let service = object.get(&["spec", "service"]).filter(|s| s.is_object())?;
        let text = |name: &str| service.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let port = service.get("port").and_then(Value::as_u64).and_then(|p| u16::try_from(p).ok());
        Some(Self {
            service: ServiceRef { namespace: text("namespace"), name: text("name"), port: port.unwrap_or(443) },
            bundle: object.str(&["spec", "caBundle"]).and_then(|b| STANDARD.decode(b).ok()).unwrap_or_default(),
            insecure: object.get(&["spec", "insecureSkipTLSVerify"]).and_then(Value::as_bool).unwrap_or_default(),
        })
    }

    /// `BuildTransportConfig`: the certificate must be for `NAME.NAMESPACE.svc`.
    fn clients(&self, server: &ApiServer) -> Result<ProxyClients, String> {
        let host = format!("{}.{}.svc", self.service.name, self.service.namespace);
        let name = ServerName::try_from(host).map_err(|e| e.to_string())?;
        let identity = server.aggregator.identity.as_ref();
        let config = if self.insecure {
            pki::serving::unverified_client_config(identity)
        } else {
            pki::serving::bundle_client_config_as(&self.bundle, identity)
        };
        let config = config.map_err(|e| base::chain(&e).to_string())?;
        Ok(ProxyClients::new(&server.tasks, &server.shutdown, &name, &config))
    }
}

/// Group, version and priorities of an APIService.
pub(crate) fn version_of(object: &Object) -> (String, String, Priority) {
    let text = |name: &str| object.str(&["spec", name]).unwrap_or_default().to_owned();
    let number = |name: &str| object.i64(&["spec", name]).unwrap_or_default();
    let priority = Priority { group: number("groupPriorityMinimum"), version: number("versionPriority") };
    (text("group"), text("version"), priority)
}

/// The object's `Available` condition.
pub(crate) fn condition(object: &Object) -> Option<&Value> {
    let conditions = object.array(&["status", "conditions"]);
    conditions.iter().find(|c| c.get("type").and_then(Value::as_str) == Some("Available"))
}

impl Remote {
    /// Reads an APIService; `None` for one that this server serves itself. Connections of `old` are kept if it is
    /// reached in the same way, and what it told.
    pub fn of(server: &ApiServer, object: &Object, old: Option<&Self>) -> Option<Self> {
        let reach = Reach::of(object)?;
        let (group, version, priority) = version_of(object);
        let uid = object.str(&["metadata", "uid"]).unwrap_or_default().to_owned();
        let old = old.filter(|old| old.reach == reach && old.uid == uid);
        Some(Self {
            name: object.name().to_owned(),
            clients: old.map_or_else(|| reach.clients(server), |old| old.clients.clone()),
            told: old.and_then(|old| old.told.clone()),
            available: condition(object).is_some_and(|c| c.get("status").and_then(Value::as_str) == Some("True")),
            uid,
            group,
            version,
            priority,
            reach,
        })
    }

    /// The same, having told something new.
    pub fn having(&self, told: Arc<Told>) -> Self {
        Self {
            name: self.name.clone(),
            uid: self.uid.clone(),
            group: self.group.clone(),
            version: self.version.clone(),
            priority: self.priority,
            reach: self.reach.clone(),
            available: self.available,
            clients: self.clients.clone(),
            told: Some(told),
        }
    }

    /// Path of the version's discovery.
    pub fn path(&self) -> String {
        if self.group.is_empty() {
            format!("/api/{}", self.version)
        } else {
            format!("/apis/{}/{}", self.group, self.version)
        }
    }
}
