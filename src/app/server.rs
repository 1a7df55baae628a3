//! `skiff server`: the whole wiring, read from top to bottom. Parts start in the order storage, API server, clients,
//! controllers, node; they stop in the reverse order, each with a shutdown token of its own.

use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use api::UserInfo;
use apiserver::auth::node::NodeAuthorizer;
use apiserver::auth::rbac::Rbac;
use apiserver::auth::tokens::ServiceAccountTokens;
use apiserver::auth::{Authenticator, Union};
use apiserver::connect::Kubelets;
use apiserver::serve::Tls;
use apiserver::{ApiServer, ApiService};
use base::{SharedClock, Shutdown, SystemClock};
use bytes::Bytes;
use client::{Client, Informers};
use nix::fcntl::Flock;
use storage::Store;
use storage::sqlite::{SqliteOptions, SqliteStore};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

use crate::bootstrap;
use crate::credentials::{Credentials, Names};
use crate::layout::Layout;
use crate::options::ServerOptions;
use crate::{addons, etcd, node, node_address};

/// Upstream's `--max-requests-inflight` and `--max-mutating-requests-inflight`.
const READS_IN_FLIGHT_MAX: usize = 400;
const WRITES_IN_FLIGHT_MAX: usize = 200;
/// How long parts may take to stop before the process ends without them.
const STOP_WITHIN: Duration = Duration::from_secs(20);

/// Addresses and names that everything else is made from.
pub struct Identity {
    pub node_name: String,
    pub node_ip: IpAddr,
    pub advertise: IpAddr,
    pub service_ip: IpAddr,
    pub dns_ip: std::net::Ipv4Addr,
}

impl Identity {
    fn of(options: &ServerOptions) -> anyhow::Result<Self> {
        let node_name = match &options.node_name {
            Some(name) => name.to_lowercase(),
            None => node_address::host_name()?,
        };
        let node_ip = match options.node_ip {
            Some(address) => address,
            None => node_address::node_ip()?,
        };
        let nth = |n: u32| std::net::Ipv4Addr::from(u32::from(options.service_cidr.network()) + n);
        Ok(Self {
            node_name,
            node_ip,
            advertise: options.advertise_address.unwrap_or(node_ip),
            service_ip: IpAddr::V4(nth(1)),
            dns_ip: options.cluster_dns.unwrap_or_else(|| nth(10)),
        })
    }
}

/// A group of tasks that stop together.
struct Stage {
    name: &'static str,
    shutdown: Shutdown,
    tasks: JoinSet<()>,
    /// How long its tasks may take to stop.
    within: Duration,
}

impl Stage {
    fn new(name: &'static str) -> Self {
        Self { name, shutdown: Shutdown::new(), tasks: JoinSet::new(), within: STOP_WITHIN }
    }

    async fn stop(mut self) {
        self.shutdown.cancel();
        let stopped = tokio::time::timeout(self.within, async {
            while let Some(ended) = self.tasks.join_next().await {
                if let Err(error) = ended {
                    tracing::error!(part = self.name, %error, "a task panicked");
                }
            }
        });
        if stopped.await.is_err() {
            tracing::warn!(part = self.name, "did not stop in time");
        }
    }
}

/// Runs until SIGTERM or SIGINT.
pub async fn run(options: ServerOptions) -> anyhow::Result<()> {
    let clock: SharedClock = Arc::new(SystemClock);
    let identity = Identity::of(&options)?;
    if !options.disable_agent && options.containerd.is_none() {
        runtime::containerd::child::find(None)?; // said before anything is made, not in the middle of the start
    }
    let layout = Layout::new(&options.data_dir);
    let lock = layout.lock()?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;

    // Keys and certificates.
    let names = Names {
        node_name: identity.node_name.clone(),
        node_ip: identity.node_ip,
        advertise_address: identity.advertise,
        service_ip: identity.service_ip,
        cluster_domain: options.cluster_domain.clone(),
        extra: options.tls_san.clone(),
    };
    let credentials = Arc::new(Credentials::load_or_create(layout.tls(), &names, clock.clone())?);

    // Storage.
    let mut storing = Stage::new("storage");
    let store = open_store(&layout, &storing.shutdown).await?;
    let shared: Arc<dyn Store> = store.clone();
    etcd::serve(&options.etcd_listen, &layout, &store, &clock, &mut storing.tasks, &storing.shutdown).await?;

    // The API server.
    let mut serving = Stage::new("API server");
    let (api, rbac) = make_api_server(&options, &identity, &shared, &credentials, &clock, &mut serving)?;
    let (served, ready) = tokio::sync::oneshot::channel();
    let webhooks = Some(api.services().webhooks);
    let definitions = Arc::new(kinds::apiextensions::CustomResources { webhooks });
    serving.tasks.spawn(apiserver::extensions::run(api.clone(), definitions, served, serving.shutdown.clone()));
    // Clients that come back after a restart find their kinds.
    ready.await.context("cannot read the custom resource definitions")?;
    let address = SocketAddr::new(options.bind_address, options.https_listen_port);
    let listener = TcpListener::bind(address).await.with_context(|| {
        format!("cannot listen on {address}: is another server running? (--https-listen-port, --bind-address)")
    })?;
    let authority = credentials.ca.cert_der().clone();
    let config = credentials.serving.server_config(std::slice::from_ref(&authority), &[b"h2", b"http/1.1"])?;
    let tls = Tls { config: Arc::new(config), client_authority: authority };
    serving.tasks.spawn(apiserver::serve::listen(listener, tls, api.service(), serving.shutdown.clone()));
    serving.tasks.spawn(crate::memory::trim_after_bursts(Arc::clone(&api), serving.shutdown.clone()));
    serving.tasks.spawn(credentials.clone().renew(serving.shutdown.clone()));

    // What every cluster has.
    let connect = Clients { service: api.service() };
    let loopback = connect.superuser();
    rbac.synced().await;
    bootstrap::apply_all(&loopback, kinds::bootstrap::objects()).await.context("cannot create the first objects")?;
    let addresses = bootstrap::Addresses {
        service_ip: identity.service_ip,
        advertise: identity.advertise,
        port: options.https_listen_port,
        dns_ip: (!options.disable.iter().any(|d| d == "dns")).then_some(IpAddr::V4(identity.dns_ip)),
    };
    bootstrap::publish_services(&loopback, &addresses).await.context("cannot publish the API server's Service")?;
    // Nothing here depends on that object, so its failure is told and not fatal, as upstream.
    if let Err(error) =
        bootstrap::publish_service_range(&loopback, &options.service_cidr.to_string(), clock.now()).await
    {
        tracing::warn!(error = %error, "cannot publish the range of Services");
    }
    write_kubeconfigs(&options, &layout, &credentials)?;

    // Clients: admission, scheduler, controllers, add-ons.
    let mut controlling = Stage::new("controllers");
    let informers = Informers::new(loopback.clone(), controlling.shutdown.clone());
    api.set_admission(admission::plugins(loopback.clone(), informers.clone(), api.services()));
    if !options.disable_scheduler {
        let config = scheduler::SchedulerConfig {
            client: connect.user("system:kube-scheduler"),
            informers: informers.clone(),
            clock: clock.clone(),
        };
        controlling.tasks.spawn(scheduler::run(config, controlling.shutdown.clone()));
    }
    if !options.disable_controller_manager {
        let config = controllers_config(&options, &credentials, &connect, &informers, &clock);
        controlling.tasks.spawn(controllers::run(config, controlling.shutdown.clone()));
    }
    controlling.tasks.spawn(addons::run(layout.manifests(), loopback.clone(), controlling.shutdown.clone()));

    // The node.
    let mut running = Stage::new("node");
    if !options.disable_agent {
        let parts = node::Parts {
            options: &options,
            identity: &identity,
            layout: &layout,
            credentials: &credentials,
            connect: &connect,
            informers: &informers,
            clock: &clock,
        };
        // Pods that are ended with the node get their time on top.
        running.within += node::start(parts, &mut running.tasks, &running.shutdown).await?;
    }
    tracing::info!(version = env!("CARGO_PKG_VERSION"), %address, node = identity.node_name, "skiff is up");

    let failed = tokio::select! {
        biased;
        _ = terminate.recv() => false,
        _ = interrupt.recv() => false,
        () = store.failed() => true,
    };
    tracing::info!("stopping");
    running.stop().await;
    controlling.stop().await;
    informers.stopped().await;
    serving.stop().await;
    storing.shutdown.cancel();
    store.closed().await;
    storing.stop().await;
    drop::<Flock<_>>(lock);
    if failed {
        anyhow::bail!("the database can no longer be written; see the error above");
    }
    Ok(())
}

/// Makes clients that call the API server in memory, each with its own identity.
pub struct Clients {
    service: ApiService,
}

impl Clients {
    /// May do everything: for start-up and for the shared informers.
    pub fn superuser(&self) -> Client {
        self.user_in("system:apiserver", &[api::user::MASTERS])
    }

    pub fn user(&self, name: &str) -> Client {
        self.user_in(name, &[])
    }

    pub fn user_in(&self, name: &str, groups: &[&str]) -> Client {
        Client::in_memory(self.service.clone(), UserInfo::new(name, groups))
    }

    fn service_account(&self, name: &str) -> Client {
        let groups = ["system:serviceaccounts", "system:serviceaccounts:kube-system"];
        self.user_in(&format!("system:serviceaccount:kube-system:{name}"), &groups)
    }
}

async fn open_store(layout: &Layout, shutdown: &Shutdown) -> anyhow::Result<Arc<SqliteStore>> {
    let options = SqliteOptions {
        // Heartbeats and leader election: their state is renewed within seconds of a start, and keeping it off the disk
        // is what lets an idle node write nothing.
        ephemeral_prefixes: vec![Bytes::from_static(b"/registry/leases/")],
        ..SqliteOptions::default()
    };
    let path = layout.database();
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    SqliteStore::open(&path, options, shutdown.clone())
        .await
        .with_context(|| format!("cannot open the database {}", path.display()))
}

fn make_api_server(
    options: &ServerOptions,
    identity: &Identity,
    store: &Arc<dyn Store>,
    credentials: &Credentials,
    clock: &SharedClock,
    stage: &mut Stage,
) -> anyhow::Result<(Arc<ApiServer>, Arc<Rbac>)> {
    let issuer = credentials.tokens.issuer().to_owned();
    let tokens = ServiceAccountTokens::new(credentials.tokens.clone(), vec![issuer], clock.clone());
    let (rbac, mut feeds) = Rbac::start(store, &stage.shutdown);
    let (nodes, mut node_feeds) = NodeAuthorizer::start(store, &stage.shutdown);
    stage.tasks.spawn(async move { while feeds.join_next().await.is_some() {} });
    stage.tasks.spawn(async move { while node_feeds.join_next().await.is_some() {} });
    let kubelet_tls =
        pki::serving::client_config(&[credentials.ca.cert_der().clone()], Some(&credentials.kubelet_client))?;
    let api = ApiServer::new(apiserver::Config {
        store: store.clone(),
        kinds: kinds::all(&kinds::Config {
            service_cidrs: vec![options.service_cidr.into()],
            node_ports: options.service_node_port_range,
            cluster_dns: Vec::new(),
            kubelet_port: options.kubelet_port,
        }),
        types: kinds::facts::types().clone(),
        texts: descriptions::load,
        authenticator: Arc::new(Authenticator::new(tokens.clone(), clock.clone())),
        authorizer: Arc::new(Union::new(vec![nodes, rbac.clone()])),
        tokens: tokens.clone(),
        clock: clock.clone(),
        shutdown: stage.shutdown.clone(),
        advertise: SocketAddr::new(identity.advertise, options.https_listen_port).to_string(),
        kubelets: Some(Kubelets { tls: Arc::new(kubelet_tls) }),
        documents: issuer_documents(credentials.tokens.as_ref()),
        reads_in_flight_max: READS_IN_FLIGHT_MAX,
        writes_in_flight_max: WRITES_IN_FLIGHT_MAX,
    });
    tokens.set_registry(api.services().registry);
    Ok((api, rbac))
}

/// What verifiers of service account tokens read (upstream `pkg/serviceaccount/openidmetadata.go`).
fn issuer_documents(signer: &pki::token::TokenSigner) -> Vec<(String, serde_json::Value)> {
    let issuer = signer.issuer();
    let configuration = serde_json::json!({
        "issuer": issuer,
        "jwks_uri": format!("{issuer}/openid/v1/jwks"),
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256"],
    });
    vec![
        ("/.well-known/openid-configuration".to_owned(), configuration),
        ("/openid/v1/jwks".to_owned(), signer.jwks().clone()),
    ]
}

fn controllers_config(
    options: &ServerOptions,
    credentials: &Credentials,
    connect: &Clients,
    informers: &Informers,
    clock: &SharedClock,
) -> controllers::ControllersConfig {
    let mut settings = controllers::Settings::new(credentials.ca.cert_pem());
    settings.cluster_cidrs = vec![options.cluster_cidr.into()];
    settings.service_cidrs = vec![options.service_cidr.into()];
    settings.quota_usage = Some(admission::quota_usage);
    settings.authority = Some(credentials.ca.clone());
    settings.tokens = Some(credentials.tokens.clone());
    let connect = Clients { service: connect.service.clone() };
    controllers::ControllersConfig {
        client_for: Arc::new(move |name| {
            if name.starts_with("system:") { connect.user(name) } else { connect.service_account(name) }
        }),
        informers: informers.clone(),
        clock: clock.clone(),
        settings,
        enabled: Vec::new(),
    }
}

fn write_kubeconfigs(options: &ServerOptions, layout: &Layout, credentials: &Credentials) -> anyhow::Result<()> {
    let host = if options.bind_address.is_unspecified() {
        "127.0.0.1".to_owned()
    } else {
        match options.bind_address {
            IpAddr::V4(v4) => v4.to_string(),
            IpAddr::V6(v6) => format!("[{v6}]"),
        }
    };
    let server = format!("https://{host}:{}", options.https_listen_port);
    let text = pki::kubeconfig::render("skiff", &server, credentials.ca.cert_pem(), &credentials.admin);
    pki::files::write(&layout.admin_kubeconfig(), &text, pki::files::PRIVATE)?;
    if let Some(path) = &options.write_kubeconfig {
        pki::files::write(path, &text, options.write_kubeconfig_mode)?;
        // The umask may have taken bits that were asked for.
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(options.write_kubeconfig_mode))
            .with_context(|| format!("cannot set the mode of {}", path.display()))?;
    }
    Ok(())
}
