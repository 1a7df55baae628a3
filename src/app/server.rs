//! `skiff server`: the whole wiring, read from top to bottom. Parts start in the order storage, API server, clients,
//! controllers, node; they stop in the reverse order, each with a shutdown token of its own.

use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use api::UserInfo;
use apiserver::aggregate::trust::Trust;
use apiserver::auth::decisions::Decisions;
use apiserver::auth::front_proxy::{self, FrontProxy};
use apiserver::auth::modes::Own;
use apiserver::auth::node::NodeAuthorizer;
use apiserver::auth::rbac::Rbac;
use apiserver::auth::tokens::ServiceAccountTokens;
use apiserver::connect::Kubelets;
use apiserver::metrics::reloads::Reloads;
use apiserver::serve::Tls;
use apiserver::{ApiServer, ApiService};
use base::{SharedClock, Shutdown, SystemClock};
use client::{Client, Informers, LeaderConfig, LeaderElector};
use nix::fcntl::Flock;
use storage::Store;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

use crate::access;
use crate::bootstrap;
use crate::control::{self, Control};
use crate::credentials::{Credentials, Names};
use crate::datastore::Datastore;
use crate::encryption::{self, Encryption};
use crate::joining;
use crate::layout::Layout;
use crate::masterleases::MasterLease;
use crate::members::{self, Host};
use crate::options::ServerOptions;
use crate::snapshots::{Place, Snapshots};
use crate::{addons, admission_chain, clock_check, etcd, node, node_address, shared_keys};

/// A server that was killed holds its data until the kernel has ended its last thread.
const LOCK_WITHIN: Duration = Duration::from_secs(5);
/// How long parts may take to stop before the process ends without them.
const STOP_WITHIN: Duration = Duration::from_secs(20);
/// How long the tasks of the API server's caches and tunnels may take, which end with its listener.
const CLOSE_WITHIN: Duration = Duration::from_secs(2);

/// Addresses and names that everything else is made from.
pub struct Identity {
    pub node_name: String,
    pub node_ip: IpAddr,
    pub advertise: IpAddr,
    pub service_ip: IpAddr,
    pub dns_ip: std::net::Ipv4Addr,
}

impl Identity {
    pub fn of(options: &ServerOptions) -> anyhow::Result<Self> {
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
    let chain = admission_chain::read(&options.admission.chain())?;
    let webhook_identities = admission_chain::identities(&chain)?;
    let layout = Layout::new(&options.data_dir);
    if let Some(written) = clock_check::set_back(&layout, clock.now()) {
        tracing::error!(now = %clock.now(), %written, "THE CLOCK WAS SET BACK: the cluster's files are newer; nothing is lost, set it right");
    }
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;

    let lock = tokio::select! {
        biased;
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
        lock = layout.lock_within(LOCK_WITHIN) => lock?,
    };

    // Storage.
    let mut storing = Stage::new("storage");
    let place = Place::of(&options.snapshots, &layout)?;
    let host = Host { layout: &layout, node_name: &identity.node_name, ip: identity.advertise, clock: clock.as_ref() };
    let token = options.token.as_deref();
    let opening = async {
        let member = members::start(&options.cluster, token, &host, &mut storing.tasks, &storing.shutdown).await?;
        if let Some(member) = &member {
            members::take_over_file(&member.datastore, &layout, clock.as_ref()).await?;
        }
        let chosen = member.as_ref().map_or(&options.datastore, |member| &member.datastore);
        let datastore = Datastore::open(chosen, &layout, &place.folder, clock.as_ref(), &storing.shutdown).await?;
        anyhow::Ok((member, datastore))
    };
    // Members of a datastore may be waited for long.
    let (member, datastore) = tokio::select! {
        biased;
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
        opened = opening => opened?,
    };
    if datastore.is_shared() {
        let token = member.as_ref().map(|member| member.token.as_str()).or(token);
        shared_keys::agree(&*datastore.store(), &layout.tls(), token, clock.as_ref()).await?;
    }

    // Keys and certificates.
    let names = Names {
        node_name: identity.node_name.clone(),
        node_ip: identity.node_ip,
        advertise_address: identity.advertise,
        service_ip: identity.service_ip,
        cluster_domain: options.cluster_domain.clone(),
        extra: options.tls_san.clone(),
    };
    let credentials = Credentials::load_or_create(layout.tls(), &names, clock.clone())?;
    let credentials = Arc::new(credentials.with_service_accounts(&options.service_accounts)?);

    if datastore.is_shared() {
        shared_keys::remember_authority(&*datastore.store(), credentials.ca.cert_pem()).await?;
    }

    // What stands in front of the storage, and what looks after it.
    etcd::serve(&options.etcd_listen, &layout, &datastore, &clock, &mut storing.tasks, &storing.shutdown).await?;
    let prefixes = || encryption::prefixes(&make_kinds(&options));
    let token = member.as_ref().map(|member| member.token.as_str()).or(token);
    let sharing = match datastore.is_shared() {
        true => encryption::sharing(&options.safety, &layout, datastore.store(), token, identity.advertise).await?,
        false => None,
    };
    let stop = &storing.shutdown;
    let encryption =
        Encryption::open(&options.safety, &layout, prefixes, datastore.store(), sharing, clock.as_ref(), stop).await?;
    if datastore.is_shared() {
        encryption::refuse_unreadable(datastore.store(), encryption.as_deref()).await?;
    }
    let shared: Arc<dyn Store> = match &encryption {
        Some(encryption) => encryption.store.clone(),
        None => datastore.store(),
    };
    look_after(&options, &identity, &layout, place, &datastore, encryption, &clock, &mut storing)?;

    // The API server.
    let mut serving = Stage::new("API server");
    let (api, rbac) = make_api_server(&options, &identity, &shared, &credentials, &clock, &mut serving)?;
    api.set_webhook_identities(webhook_identities);
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
    let front_proxy = FrontProxy {
        authority: credentials.front_proxy_ca.cert_der().clone(),
        allowed_names: vec![front_proxy::ALLOWED_NAME.to_owned()],
    };
    let asked_for = [authority.clone(), front_proxy.authority.clone()];
    let config = credentials.serving.server_config(&asked_for, &[b"h2", b"http/1.1"])?;
    let tls = Tls { config: Arc::new(config), client_authority: authority, front_proxy: Some(front_proxy) };
    api.expect_start();
    // Ends before what open requests need: webhooks' connections, caches, roles.
    let mut listening = Stage::new("listener");
    listening.tasks.spawn(apiserver::serve::listen(listener, tls, api.service(), listening.shutdown.clone()));
    serving.tasks.spawn(crate::memory::trim_after_bursts(Arc::clone(&api), serving.shutdown.clone()));
    serving.tasks.spawn(credentials.clone().renew(serving.shutdown.clone()));

    serving.tasks.spawn(apiserver::aggregate::run(api.clone(), serving.shutdown.clone()));

    // What every cluster has.
    let connect = Clients { service: api.service() };
    let loopback = connect.superuser();
    rbac.synced().await;
    bootstrap::apply_all(&loopback, kinds::bootstrap::objects()).await.context("cannot create the first objects")?;
    serving.tasks.spawn(apiserver::flow::run(api.clone(), kinds::bootstrap::flow_control(), serving.shutdown.clone()));
    let trust = Trust {
        client_ca: credentials.ca.cert_pem().to_owned(),
        front_proxy_ca: credentials.front_proxy_ca.cert_pem().to_owned(),
    };
    serving.tasks.spawn(apiserver::aggregate::trust::run(api.clone(), trust, serving.shutdown.clone()));
    serving.tasks.spawn(apiserver::auth::tokens::tracking::run(api.clone(), serving.shutdown.clone()));
    // Whoever starts now finds the rights that were just written.
    rbac.caught_up(&*shared).await.context("cannot read the roles")?;
    let mut advertise = vec![identity.advertise];
    let mut entry = None;
    if datastore.is_shared() {
        let entered = MasterLease::enter(shared.clone(), identity.advertise, options.https_listen_port).await;
        let (own, all) = entered.context("cannot enter this server in the datastore")?;
        advertise = all;
        entry = Some(own);
    }
    let addresses = bootstrap::Addresses {
        service_ip: identity.service_ip,
        advertise,
        port: options.https_listen_port,
        dns_ip: (!options.disable.iter().any(|d| d == "dns")).then_some(IpAddr::V4(identity.dns_ip)),
    };
    bootstrap::publish_services(&loopback, &addresses).await.context("cannot publish the API server's Service")?;
    let place = joining::Place {
        addresses: &addresses.advertise,
        port: options.https_listen_port,
        ca_pem: credentials.ca.cert_pem(),
    };
    joining::prepare(&loopback, &place).await.context("cannot publish what joining nodes need")?;
    // Nothing here depends on that object, so its failure is told and not fatal, as upstream.
    if let Err(error) =
        bootstrap::publish_service_range(&loopback, &options.service_cidr.to_string(), clock.now()).await
    {
        tracing::warn!(error = %error, "cannot publish the range of Services");
    }
    write_kubeconfigs(&options, &layout, &credentials)?;
    if let Some(member) = &member {
        member.publish(&loopback, &layout).await.context("cannot leave what joining servers need")?;
        if let Datastore::Etcd(store) = &datastore {
            storing.tasks.spawn(member.follow_members(store.clone(), &layout, storing.shutdown.clone()));
        }
    }

    // Clients: admission, scheduler, controllers, add-ons.
    let mut controlling = Stage::new("controllers");
    let informers = Informers::new(loopback.clone(), controlling.shutdown.clone());
    let reading = (loopback.clone(), informers.clone());
    let admission = admission::plugins(&chain, reading, api.services(), (&identity.node_name, clock.now()));
    let admission = admission.context("cannot set up admission")?;
    for folder in admission.manifests {
        controlling.tasks.spawn(admission_chain::follow(folder, clock.clone(), controlling.shutdown.clone()));
    }
    api.set_admission(admission.plugins);
    if let Some(entry) = entry {
        controlling.tasks.spawn(entry.run(loopback.clone(), controlling.shutdown.clone()));
    }
    let keeping = bootstrap::keep_namespaces(loopback.clone(), informers.clone(), controlling.shutdown.clone());
    controlling.tasks.spawn(keeping);
    // Of several servers one schedules, and one runs the controllers.
    let election = Election { needed: datastore.is_shared(), node_name: &identity.node_name, clock: &clock };
    let disabled = [
        ("kube-scheduler", options.disable_scheduler),
        ("kube-controller-manager", options.disable_controller_manager),
    ];
    api.set_components(disabled.into_iter().filter_map(|(name, off)| (!off).then_some(name)).collect());
    if !options.disable_scheduler {
        let client = connect.user("system:kube-scheduler");
        let (informers, clock) = (informers.clone(), clock.clone());
        let run = move |client: Client, term| {
            let config = scheduler::SchedulerConfig { client, informers: informers.clone(), clock: clock.clone() };
            scheduler::run(config, term)
        };
        election.spawn("kube-scheduler", client, run, &mut controlling);
    }
    if !options.disable_controller_manager {
        let client = connect.user("system:kube-controller-manager");
        let config = controllers_config(&options, &credentials, &connect, &informers, &clock);
        let run = move |_: Client, term| controllers::run(config(), term);
        election.spawn("kube-controller-manager", client, run, &mut controlling);
        let kinds = api.services().kinds;
        let checking =
            admission::run_type_checking(loopback.clone(), informers.clone(), kinds, controlling.shutdown.clone());
        controlling.tasks.spawn(checking);
    }
    controlling.tasks.spawn(addons::run(layout.manifests(), loopback.clone(), controlling.shutdown.clone()));

    api.set_started();

    // The node.
    let mut running = Stage::new("node");
    if !options.disable_agent {
        let client_ca = vec![credentials.ca.cert_der().clone()];
        let server = credentials.kubelet_serving.server_config(&client_ca, node::ALPN)?;
        let parts = node::Parts {
            options: &options,
            identity: &identity,
            layout: &layout,
            tls: node::NodeTls { server, client_ca },
            client: connect.user_in(&format!("system:node:{}", identity.node_name), &[api::user::NODES]),
            informers: &informers,
            services: &informers,
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
        () = datastore.failed() => true,
    };
    tracing::info!("stopping");
    api.begin_stop();
    let ending = &options.serving;
    if !failed {
        tokio::select! {
            biased;
            // Asked twice: now.
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            () = tokio::time::sleep(ending.shutdown_delay_duration) => {}
        }
        if ending.shutdown_send_retry_after {
            api.refuse_new_requests().await;
        }
        if !ending.shutdown_watch_termination_grace_period.is_zero() {
            api.drain_watches(ending.shutdown_watch_termination_grace_period).await;
        }
    }
    running.stop().await;
    controlling.stop().await;
    informers.stopped().await;
    api.drain_watches(Duration::ZERO).await;
    // Requests that are open have the time that requests have.
    listening.within = ending.request_timeout.max(STOP_WITHIN) + CLOSE_WITHIN;
    tokio::select! {
        biased;
        () = listening.stop() => {}
        _ = terminate.recv() => tracing::warn!("asked again to stop: open requests are cut"),
        _ = interrupt.recv() => tracing::warn!("asked again to stop: open requests are cut"),
    }
    serving.stop().await;
    if tokio::time::timeout(CLOSE_WITHIN, api.closed()).await.is_err() {
        tracing::warn!(part = "API server", "tasks of requests did not stop in time");
    }
    storing.shutdown.cancel();
    datastore.closed().await;
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

/// Runs what only one of several servers may do.
struct Election<'a> {
    /// There may be several servers.
    needed: bool,
    node_name: &'a str,
    clock: &'a SharedClock,
}

impl Election<'_> {
    /// Runs `run` while this server holds the Lease `name`, or at once if there is nobody else.
    fn spawn<F, Fut>(&self, name: &str, client: Client, run: F, stage: &mut Stage)
    where
        F: Fn(Client, Shutdown) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let shutdown = stage.shutdown.clone();
        if !self.needed {
            stage.tasks.spawn(run(client, shutdown));
            return;
        }
        // As upstream's components name themselves: a restarted server is another candidate.
        let identity = format!("{}_{}", self.node_name, uuid::Uuid::new_v4());
        let config = LeaderConfig::new("kube-system", name, &identity);
        let elector = LeaderElector::new(client.clone(), config, self.clock.clone());
        stage.tasks.spawn(async move {
            elector.run(shutdown, move |term| run(client.clone(), term)).await;
        });
    }
}

/// Starts what looks after the stored state: snapshots, the encryption's configuration, the socket of commands.
fn look_after(
    options: &ServerOptions,
    identity: &Identity,
    layout: &Layout,
    place: Place,
    datastore: &Datastore,
    encryption: Option<Arc<Encryption>>,
    clock: &SharedClock,
    stage: &mut Stage,
) -> anyhow::Result<()> {
    let snapshots = Arc::new(Snapshots {
        place,
        // Values stay encrypted in snapshots.
        store: datastore.store(),
        engine: datastore.engine(),
        node: identity.node_name.clone(),
        clock: clock.clone(),
    });
    if !options.safety.snapshot_schedule_cron.is_empty() {
        let schedule = controllers::Schedule::parse(&options.safety.snapshot_schedule_cron, None)
            .context("--snapshot-schedule-cron is no schedule")?;
        let keep = options.safety.snapshot_retention;
        stage.tasks.spawn(snapshots.clone().run(schedule, keep, stage.shutdown.clone()));
    }
    if let Some(encryption) = &encryption {
        stage.tasks.spawn(encryption.clone().follow(stage.shutdown.clone()));
    }
    let socket = layout.control_socket();
    let listener = control::listen(&socket)?;
    let control = Control { snapshots, encryption, clock: clock.clone() };
    stage.tasks.spawn(control::serve(listener, socket, control, stage.shutdown.clone()));
    Ok(())
}

/// Every built-in kind, set up for this cluster.
fn make_kinds(options: &ServerOptions) -> Vec<Arc<api::kind::KindDef>> {
    kinds::all(&kinds::Config {
        service_cidrs: vec![options.service_cidr.into()],
        node_ports: options.service_node_port_range,
        cluster_dns: Vec::new(),
        kubelet_port: options.kubelet_port,
    })
}

fn make_api_server(
    options: &ServerOptions,
    identity: &Identity,
    store: &Arc<dyn Store>,
    credentials: &Credentials,
    clock: &SharedClock,
    stage: &mut Stage,
) -> anyhow::Result<(Arc<ApiServer>, Arc<Rbac>)> {
    let issuers = credentials.tokens.issuers();
    let own = match options.service_accounts.api_audiences.as_slice() {
        [] => issuers.to_vec(),
        given => given.to_vec(),
    };
    let tokens = ServiceAccountTokens::new(credentials.tokens.clone(), own.clone(), clock.clone());
    let (rbac, mut feeds) = Rbac::start(store, &stage.shutdown);
    let (nodes, mut node_feeds) = NodeAuthorizer::start(store, &stage.shutdown);
    stage.tasks.spawn(async move { while feeds.join_next().await.is_some() {} });
    stage.tasks.spawn(async move { while node_feeds.join_next().await.is_some() {} });
    let shutdown = stage.shutdown.clone();
    let reloads = Arc::new(Reloads::new(&identity.node_name));
    let mut run = access::Tasks { clock, tasks: &mut stage.tasks, shutdown: &shutdown, reloads: &reloads };
    let known = access::authentication(&options.authentication, tokens.clone(), &own, issuers, &mut run)?;
    let decisions = Arc::new(Decisions::default());
    let deciding = Own { node: nodes, rbac: rbac.clone(), abac: None, decisions: decisions.clone() };
    let authorizer = access::authorization(&options.authorization, deciding, &mut run)?;
    let audit = access::audit(&options.audit, &mut run)?;
    let kubelet_tls =
        pki::serving::client_config(&[credentials.ca.cert_der().clone()], Some(&credentials.kubelet_client))?;
    let api = ApiServer::new(apiserver::Config {
        store: store.clone(),
        kinds: make_kinds(options),
        types: kinds::facts::types().clone(),
        texts: descriptions::load,
        authenticator: Arc::new(known.authenticator),
        authorizer,
        decisions,
        tokens: known.tokens,
        clock: clock.clone(),
        shutdown: stage.shutdown.clone(),
        advertise: SocketAddr::new(identity.advertise, options.https_listen_port).to_string(),
        kubelets: Some(Kubelets { tls: Arc::new(kubelet_tls) }),
        documents: issuer_documents(credentials.tokens.as_ref()),
        limits: options.serving.limits(),
        front_proxy: Some(credentials.front_proxy_client.clone()),
        flags: options.flags.clone(),
    });
    tokens.set_registry(api.services().registry);
    if let Some(audit) = audit {
        api.set_audit(audit);
    }
    api.tell_of(reloads, tokens.clone());
    known.bootstrap.set_registry(api.services().registry);
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
        "id_token_signing_alg_values_supported": signer.algorithms(),
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
) -> impl Fn() -> controllers::ControllersConfig + Send + Sync + 'static {
    let mut settings = controllers::Settings::new(credentials.ca.cert_pem());
    settings.cluster_cidrs = vec![options.cluster_cidr.into()];
    settings.service_cidrs = vec![options.service_cidr.into()];
    settings.quota_usage = Some(admission::quota_usage);
    settings.authority = Some(credentials.ca.clone());
    settings.tokens = Some(credentials.tokens.clone());
    let connect = Clients { service: connect.service.clone() };
    let client_for: controllers::ClientFor = Arc::new(move |name| match name {
        "" => connect.superuser(),
        name if name.starts_with("system:") => connect.user(name),
        name => connect.service_account(name),
    });
    let (informers, clock) = (informers.clone(), clock.clone());
    move || controllers::ControllersConfig {
        client_for: client_for.clone(),
        informers: informers.clone(),
        clock: clock.clone(),
        settings: settings.clone(),
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
    let text = pki::kubeconfig::render("skiff", &server, credentials.ca.cert_pem(), &credentials.admin)?;
    pki::files::write(&layout.admin_kubeconfig(), &text, pki::files::PRIVATE)?;
    if let Some(path) = &options.write_kubeconfig {
        pki::files::write(path, &text, options.write_kubeconfig_mode)?;
        // The umask may have taken bits that were asked for.
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(options.write_kubeconfig_mode))
            .with_context(|| format!("cannot set the mode of {}", path.display()))?;
    }
    Ok(())
}
