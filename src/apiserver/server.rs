//! The API server as one value, and the tower service in front of it.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use api::admission::AdmissionPlugin;
use api::kind::KindDef;
use api::openapi::{Documents, Texts};
use api::schema::Types;
use api::services::{ActionContext, Authorizer, Services, Tokens};
use api::{Gvr, Status, UserInfo};
use arc_swap::ArcSwap;
use axum::body::Body;
use base::{SharedClock, Shutdown};
use bytes::Bytes;
use http::{Request, Response};
use serde_json::Value;
use storage::Store;
use tokio::sync::{Notify, watch};
use tokio_util::task::TaskTracker;

use crate::aggregate::Aggregator;
use crate::audit::{Audit, PeerAddress};
use crate::auth::decisions::Decisions;
use crate::auth::tokens::ServiceAccountTokens;
use crate::connect::Kubelets;
use crate::extensions::Settling;
use crate::filters::Authenticate;
use crate::filters::impersonation::LastModes;
use crate::flow::Flow;
use crate::limits::{Limits, Stopping};
use crate::metrics::Metrics;
use crate::metrics::reloads::Reloads;
use crate::registry::Objects;
use crate::router;
use crate::served::{KindTable, Served};
use crate::webhook::Connections;

/// What a server is made of.
pub struct Config {
    pub store: Arc<dyn Store>,
    pub kinds: Vec<Arc<KindDef>>,
    /// The built-in types, for OpenAPI and for documents of the API machinery.
    pub types: Arc<Types>,
    /// Descriptions of types, for OpenAPI; called when a document is made.
    pub texts: fn() -> Texts,
    pub authenticator: Arc<dyn Authenticate>,
    pub authorizer: Arc<dyn Authorizer>,
    /// Counts what the authoriser and the authenticator say.
    pub decisions: Arc<Decisions>,
    pub tokens: Arc<dyn Tokens>,
    pub clock: SharedClock,
    pub shutdown: Shutdown,
    /// `host:port` at which clients reach the server, as discovery tells it.
    pub advertise: String,
    /// How kubelets are reached for exec, logs and the like; `None`: they are not.
    pub kubelets: Option<Kubelets>,
    /// Documents at fixed paths that other rooms make (`/openid/v1/jwks`).
    pub documents: Vec<(String, Value)>,
    pub limits: Limits,
    /// What is shown to aggregated API servers; `None`: nothing.
    pub front_proxy: Option<pki::Leaf>,
    /// The configuration by flag, in order, for `/flagz`; secrets are not told.
    pub flags: Vec<(String, String)>,
}

/// The server. Shared by its services, its registry and its plugins.
pub struct ApiServer {
    pub(crate) objects: Objects,
    pub(crate) table: ArcSwap<KindTable>,
    pub(crate) admission: ArcSwap<Vec<Arc<dyn AdmissionPlugin>>>,
    pub(crate) types: Arc<Types>,
    pub(crate) authenticator: Arc<dyn Authenticate>,
    pub(crate) authorizer: Arc<dyn Authorizer>,
    pub(crate) decisions: Arc<Decisions>,
    /// The mode of impersonation that each user was allowed last.
    pub(crate) impersonations: LastModes,
    pub(crate) tokens: Arc<dyn Tokens>,
    pub(crate) clock: SharedClock,
    pub(crate) shutdown: Shutdown,
    pub(crate) limits: Limits,
    /// See [`ApiServer::begin_stop`].
    pub(crate) stopping: Stopping,
    pub(crate) tasks: TaskTracker,
    pub(crate) in_flight: InFlight,
    pub(crate) advertise: String,
    pub(crate) kubelets: Option<Kubelets>,
    pub(crate) metrics: Metrics,
    pub(crate) openapi: Arc<Documents>,
    /// Of OpenAPI documents, by path.
    pub(crate) documents_since: crate::content::Ages,
    pub(crate) documents: Vec<(String, Value)>,
    pub(crate) audit: std::sync::OnceLock<Arc<Audit>>,
    components: std::sync::OnceLock<Vec<&'static str>>,
    /// Whether the start that is expected is done.
    started: std::sync::OnceLock<AtomicBool>,
    /// Connections to webhooks; see [`api::webhook::Webhooks`], which the server implements.
    pub(crate) webhooks: Connections,
    /// Groups and versions that other servers serve.
    pub(crate) aggregator: Aggregator,
    pub(crate) flow: Flow,
    pub(crate) flags: Vec<(String, String)>,
    /// Generation of `table`.
    tables: watch::Sender<u64>,
    /// Kinds of `table` that discovery does not tell of yet.
    pub(crate) settling: Settling,
}

/// Requests being served.
pub(crate) struct InFlight {
    pub reads: AtomicUsize,
    pub writes: AtomicUsize,
    /// All that ever entered.
    entered: AtomicUsize,
    burst: Notify,
    /// One has ended.
    left: Notify,
}

/// Requests that make a burst, see [`ApiServer::burst`].
const BURST: usize = 256;

/// One request's place; given back when dropped.
pub(crate) struct Place<'a> {
    count: &'a AtomicUsize,
    left: &'a Notify,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if self.count.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.left.notify_waiters();
        }
    }
}

impl InFlight {
    pub fn enter(&self, mutating: bool) -> Place<'_> {
        if self.entered.fetch_add(1, Ordering::Relaxed) % BURST == BURST - 1 {
            self.burst.notify_one();
        }
        let count = if mutating { &self.writes } else { &self.reads };
        count.fetch_add(1, Ordering::Relaxed);
        Place { count, left: &self.left }
    }

    fn is_empty(&self) -> bool {
        self.reads.load(Ordering::Relaxed) + self.writes.load(Ordering::Relaxed) == 0
    }
}

impl ApiServer {
    pub fn new(config: Config) -> Arc<Self> {
        let tasks = TaskTracker::new();
        let table = KindTable::new(&config.kinds, &KindTable::default(), &config.store, &tasks, &config.shutdown);
        let metrics = Metrics::default();
        metrics.set_start(config.clock.now().as_duration().as_secs_f64());
        Arc::new(Self {
            webhooks: Connections::new(tasks.clone(), config.shutdown.clone()),
            aggregator: Aggregator::new(config.front_proxy),
            flow: Flow::new(&config.limits),
            limits: config.limits,
            flags: config.flags,
            tables: watch::Sender::new(table.generation),
            settling: Settling::default(),
            advertise: config.advertise,
            kubelets: config.kubelets,
            metrics,
            documents: config.documents,
            audit: std::sync::OnceLock::new(),
            components: std::sync::OnceLock::new(),
            started: std::sync::OnceLock::new(),
            documents_since: crate::content::Ages::default(),
            openapi: Arc::new(Documents::new(Arc::clone(&config.types), config.texts)),
            objects: Objects::new(config.store),
            table: ArcSwap::from_pointee(table),
            admission: ArcSwap::from_pointee(Vec::new()),
            types: config.types,
            authenticator: config.authenticator,
            authorizer: config.authorizer,
            decisions: config.decisions,
            impersonations: LastModes::default(),
            tokens: config.tokens,
            clock: config.clock,
            shutdown: config.shutdown,
            stopping: Stopping::default(),
            tasks,
            in_flight: InFlight {
                reads: AtomicUsize::new(0),
                writes: AtomicUsize::new(0),
                entered: AtomicUsize::new(0),
                burst: Notify::new(),
                left: Notify::new(),
            },
        })
    }

    /// Completes when a few hundred requests came in since it last completed: time to give memory back.
    pub async fn burst(&self) {
        self.in_flight.burst.notified().await;
    }

    /// Makes `/readyz` say that the process is going away, so that balancers turn to other servers, while everything is
    /// still served to those parts of the process that stop first.
    pub fn begin_stop(&self) {
        self.stopping.announce();
    }

    /// Sends new requests from other processes away, so that their clients turn to another server at once, and waits
    /// until those that run have ended; at most as long as a request may take.
    pub async fn refuse_new_requests(&self) {
        self.stopping.refuse();
        // Whoever ends a request tells; in between nothing needs to be looked at.
        let ended = async {
            loop {
                // From here on none that ends is missed.
                let mut left = std::pin::pin!(self.in_flight.left.notified());
                left.as_mut().enable();
                if self.in_flight.is_empty() {
                    return;
                }
                left.await;
            }
        };
        if tokio::time::timeout(self.limits.request_timeout, ended).await.is_err() {
            tracing::info!("requests are still under way");
        }
    }

    /// Ends all watches within about this time, one after the other.
    pub async fn drain_watches(&self, grace: Duration) {
        let count = || self.table.load().all.iter().filter_map(|s| s.stored.as_ref()).map(|s| s.cache.watchers()).sum();
        let watches: usize = count();
        self.stopping.drain(watches, grace);
        let all = Duration::from_secs_f64(watches as f64 / 200.0).min(grace);
        tracing::info!(watches, "ending watches");
        tokio::time::sleep(all).await;
    }

    /// Sets the admission plugins, in their order. They need a client of this server, so they come after it.
    pub fn set_admission(&self, plugins: Vec<Arc<dyn AdmissionPlugin>>) {
        self.admission.store(Arc::new(plugins));
    }

    /// Replaces the kinds that are served beside the built-in ones. A built-in kind is never replaced.
    ///
    /// One task calls this; the table is built from the one before.
    pub(crate) fn set_custom(&self, custom: &[Arc<KindDef>]) {
        let old = self.table.load_full();
        let mut kinds: Vec<Arc<KindDef>> = old.all.iter().map(|s| Arc::clone(&s.def)).collect();
        kinds.retain(|def| def.custom.is_none());
        let own: std::collections::HashSet<Gvr> = kinds.iter().map(|def| def.gvr()).collect();
        kinds.extend(custom.iter().filter(|def| !own.contains(&def.gvr())).cloned());
        let table = Arc::new(KindTable::new(&kinds, &old, &self.objects.store, &self.tasks, &self.shutdown));
        self.table.store(Arc::clone(&table));
        old.retire(&table);
        self.tables.send_replace(table.generation);
    }

    /// Tells when the table of kinds has changed.
    pub(crate) fn table_changes(&self) -> watch::Receiver<u64> {
        self.tables.subscribe()
    }

    /// A cache of a prefix that no served kind has.
    pub(crate) fn new_cache(&self, prefix: &str) -> Arc<crate::cache::Cache> {
        let shutdown = self.shutdown.child_token();
        crate::cache::Cache::new(prefix, Arc::clone(&self.objects.store), self.tasks.clone(), shutdown)
    }

    /// The tower service: behind a listener, or in memory with an [`UserInfo`] in the request's extensions.
    pub fn service(self: &Arc<Self>) -> ApiService {
        ApiService { server: Arc::clone(self), peer: None }
    }

    /// Lets `/metrics` tell of the configuration files that were taken over and of service account tokens, too.
    pub fn tell_of(&self, reloads: Arc<Reloads>, tokens: Arc<ServiceAccountTokens>) {
        self.metrics.tell_of(reloads, tokens);
    }

    /// From now on requests are told of.
    pub fn set_audit(&self, audit: Arc<Audit>) {
        if self.audit.set(audit).is_err() {
            tracing::error!("auditing was set up twice; the first one stays");
        }
    }

    /// Which parts of the control plane belong to this process, by the names of their Leases.
    pub fn set_components(&self, names: Vec<&'static str>) {
        if self.components.set(names).is_err() {
            tracing::error!("the parts of the control plane were named twice; the first ones stay");
        }
    }

    /// The server is not well before [`ApiServer::set_started`].
    pub fn expect_start(&self) {
        self.started.get_or_init(AtomicBool::default);
    }

    /// Everything is there that a cluster has from its first moment.
    pub fn set_started(&self) {
        self.started.get_or_init(AtomicBool::default).store(true, Ordering::Release);
    }

    /// `None` if no start is expected, as in a server that serves nothing but its API.
    pub(crate) fn started(&self) -> Option<bool> {
        self.started.get().map(|done| done.load(Ordering::Acquire))
    }

    pub(crate) fn runs(&self, component: &str) -> bool {
        self.components.get().is_some_and(|names| names.contains(&component))
    }

    /// The handles that long-lived code gets.
    pub fn services(self: &Arc<Self>) -> Services {
        Services {
            registry: Arc::clone(self) as _,
            authorizer: Arc::clone(&self.authorizer),
            tokens: Arc::clone(&self.tokens),
            webhooks: Arc::clone(self) as _,
            kinds: Arc::clone(self) as _,
        }
    }

    /// Waits for the server's own tasks after shutdown was asked for.
    pub async fn closed(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    pub(crate) fn served(&self, gvr: &Gvr) -> Result<Arc<Served>, Status> {
        self.table.load().get(gvr).cloned().ok_or_else(Status::page_not_found)
    }

    pub(crate) fn action_context<'a>(&'a self, user: &'a UserInfo, dry_run: bool) -> ActionContext<'a> {
        ActionContext {
            user,
            now: self.clock.now(),
            dry_run,
            registry: self,
            authorizer: &*self.authorizer,
            tokens: &*self.tokens,
        }
    }
}

/// See [`ApiServer::service`].
#[derive(Clone)]
pub struct ApiService {
    server: Arc<ApiServer>,
    peer: Option<PeerAddress>,
}

impl ApiService {
    pub(crate) fn limits(&self) -> &Limits {
        &self.server.limits
    }

    /// A connection ended before its handshake did.
    pub(crate) fn handshake_failed(&self) {
        self.server.metrics.handshake_failed();
    }

    /// The service for a connection from this address.
    pub fn for_peer(&self, address: std::net::IpAddr) -> Self {
        Self { peer: Some(PeerAddress(address)), ..self.clone() }
    }
}

impl<B> tower::Service<Request<B>> for ApiService
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let server = Arc::clone(&self.server);
        let mut request = request.map(Body::new);
        let peer = self.peer;
        if let Some(peer) = peer {
            request.extensions_mut().insert(peer);
        }
        Box::pin(async move {
            // What comes from this process itself is served to the end.
            let refusal = peer.and_then(|_| server.stopping.refusal(request.uri().path(), request.headers()));
            match refusal {
                Some(response) => Ok(response),
                None => Ok(router::handle(server, request).await),
            }
        })
    }
}
