//! `skiff component`: one part of skiff beside an API server that runs elsewhere, ours or a stock one, as
//! kube-scheduler, kube-controller-manager and the kubelet with kube-proxy run beside kube-apiserver.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use base::{SharedClock, Shutdown, SystemClock};
use client::{Client, Informers, LeaderConfig, LeaderElector};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

use crate::layout::Layout;
use crate::options::{AgentOptions, ComponentCommand, ControllersOptions, RemoteOptions};
use crate::server::Identity;
use crate::{node, node_address};

/// Runs until SIGTERM or SIGINT.
pub async fn run(command: ComponentCommand) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let shutdown = Shutdown::new();
    let work = async {
        match command {
            ComponentCommand::Scheduler(options) => run_scheduler(options, &shutdown).await,
            ComponentCommand::Controllers(options) => run_controllers(options, &shutdown).await,
            ComponentCommand::Agent(options) => run_agent(*options, &shutdown).await,
        }
    };
    tokio::pin!(work);
    tokio::select! {
        biased;
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        result = &mut work => return result,
    }
    tracing::info!("stopping");
    shutdown.cancel();
    work.await
}

async fn connect(kubeconfig: &Path) -> anyhow::Result<Client> {
    Client::remote(kubeconfig).await.with_context(|| format!("cannot use the kubeconfig {}", kubeconfig.display()))
}

/// Leads `lease` in `kube-system` while `part` runs, unless that is switched off.
async fn lead<F, Fut>(
    options: &RemoteOptions,
    lease: &str,
    client: &Client,
    shutdown: &Shutdown,
    part: F,
) -> anyhow::Result<()>
where
    F: Fn(Shutdown) -> Fut,
    Fut: Future<Output = ()>,
{
    if !options.leader_elect {
        part(shutdown.clone()).await;
        return Ok(());
    }
    // As upstream: the host's name and something that no other process has.
    let identity = format!("{}_{:x}", node_address::host_name()?, rand::random::<u64>());
    let clock: SharedClock = Arc::new(SystemClock);
    let elector = LeaderElector::new(client.clone(), LeaderConfig::new("kube-system", lease, &identity), clock);
    elector.run(shutdown.clone(), part).await;
    Ok(())
}

async fn run_scheduler(options: RemoteOptions, shutdown: &Shutdown) -> anyhow::Result<()> {
    let client = connect(&options.kubeconfig).await?;
    let part = |term: Shutdown| {
        let client = client.clone();
        async move {
            let informers = Informers::new(client.clone(), term.clone());
            let clock: SharedClock = Arc::new(SystemClock);
            let config = scheduler::SchedulerConfig { client, informers: informers.clone(), clock };
            scheduler::run(config, term).await;
            informers.stopped().await;
        }
    };
    lead(&options, "kube-scheduler", &client, shutdown, part).await
}

async fn run_controllers(options: ControllersOptions, shutdown: &Shutdown) -> anyhow::Result<()> {
    let client = connect(&options.remote.kubeconfig).await?;
    let authority = &options.root_ca_file;
    let authority = std::fs::read_to_string(authority)
        .with_context(|| format!("cannot read the authority's certificate {}", authority.display()))?;
    let mut settings = controllers::Settings::new(authority);
    settings.cluster_cidrs = options.cluster_cidr.clone();
    settings.service_cidrs = options.service_cidr.clone();
    settings.quota_usage = Some(admission::quota_usage);
    let part = |term: Shutdown| {
        let (client, settings, enabled) = (client.clone(), settings.clone(), options.controllers.clone());
        async move {
            let informers = Informers::new(client.clone(), term.clone());
            let config = controllers::ControllersConfig {
                // One credential for all, as kube-controller-manager without --use-service-account-credentials.
                client_for: Arc::new(move |_| client.clone()),
                informers: informers.clone(),
                clock: Arc::new(SystemClock),
                settings,
                enabled,
            };
            controllers::run(config, term).await;
            informers.stopped().await;
        }
    };
    lead(&options.remote, "kube-controller-manager", &client, shutdown, part).await
}

async fn run_agent(options: AgentOptions, shutdown: &Shutdown) -> anyhow::Result<()> {
    let client = connect(&options.kubeconfig).await?;
    let identity = Identity::of(&options.node)?;
    let layout = Layout::new(&options.node.data_dir);
    let _lock = layout.lock()?;
    let clock: SharedClock = Arc::new(SystemClock);
    let informers = Informers::new(client.clone(), shutdown.clone());
    let services = match &options.proxy_kubeconfig {
        Some(kubeconfig) => Informers::new(connect(kubeconfig).await?, shutdown.clone()),
        None => informers.clone(),
    };
    let mut tasks = JoinSet::new();
    let parts = node::Parts {
        options: &options.node,
        identity: &identity,
        layout: &layout,
        tls: node::NodeTls::read(&options.tls_cert_file, &options.tls_private_key_file, &options.client_ca_file)?,
        client,
        informers: &informers,
        services: &services,
        clock: &clock,
    };
    node::start(parts, &mut tasks, shutdown).await?;
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            tracing::error!(%error, "a task of the node panicked");
        }
    }
    informers.stopped().await;
    services.stopped().await;
    Ok(())
}
