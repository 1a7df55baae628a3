//! The node's parts: containerd, the pods' network, Service routing, DNS and the node agent.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use async_trait::async_trait;
use base::{SharedClock, Shutdown};
use client::k8s_openapi::api::core::v1::{Node, Taint};
use client::{Client, Event, Informer, Informers};
use dns::DnsConfig;
use kubelet::network::{AttachRequest, NetworkError, PodNetwork as Contract};
use kubelet::{Kubelet, KubeletConfig};
use net::gate::Gate;
use net::nft::TableConfig;
use net::pods::{PodNetwork, PodNetworkConfig};
use net::proxy::ProxyConfig;
use runtime::Runtime;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tokio::task::JoinSet;

use crate::layout::Layout;
use crate::options::ServerOptions;
use crate::server::Identity;

/// What the node is made from.
pub struct Parts<'a> {
    pub options: &'a ServerOptions,
    pub identity: &'a Identity,
    pub layout: &'a Layout,
    pub tls: NodeTls,
    /// With the node's own identity.
    pub client: Client,
    /// What the node agent sees.
    pub informers: &'a Informers,
    /// What Service routing and DNS see: Services and endpoints of the whole cluster.
    pub services: &'a Informers,
    pub clock: &'a SharedClock,
}

/// How the node agent's HTTPS server shows itself, and whom it trusts.
pub struct NodeTls {
    pub server: rustls::ServerConfig,
    pub client_ca: Vec<CertificateDer<'static>>,
}

impl NodeTls {
    /// A serving certificate from its file, for clients that the authority in `client_ca` certified.
    pub fn read(cert: &Path, key: &Path, client_ca: &Path) -> anyhow::Result<Self> {
        let read = |path: &Path| {
            std::fs::read_to_string(path).with_context(|| format!("cannot read the certificate {}", path.display()))
        };
        let leaf = pki::Leaf { cert_pem: read(cert)?, key_pem: read(key)? };
        let authorities: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(read(client_ca)?.as_bytes()).collect();
        let client_ca = authorities.with_context(|| format!("{} holds no certificate", client_ca.display()))?;
        let server = pki::serving::ServingCertificate::new(&leaf)?.server_config(&client_ca, ALPN)?;
        Ok(Self { server, client_ca })
    }
}

/// What the node agent's HTTPS server speaks.
pub const ALPN: &[&[u8]] = &[b"h2", b"http/1.1"];

/// Starts everything; the tasks end with `shutdown`, pods go on running. Returns how long pods have to end where they are
/// ended with the node.
pub async fn start(parts: Parts<'_>, tasks: &mut JoinSet<()>, shutdown: &Shutdown) -> anyhow::Result<Duration> {
    let Parts { options, identity, layout, tls, client, informers, services, clock } = parts;
    let runtime =
        crate::containers::connect(options.containerd.as_deref(), &options.private_registry, layout, clock, shutdown)
            .await?;
    tasks.spawn(import_archives(layout.images(), runtime.clone()));

    let pods = Arc::new(PodNetwork::new(PodNetworkConfig {
        bridge: options.bridge.clone(),
        mtu: options.mtu,
        state_dir: layout.network_state(),
    })?);
    let nodes = informers.informer_with::<Node>(&format!("metadata.name={}", identity.node_name));
    tasks.spawn(configure_network(pods.clone(), nodes, shutdown.clone()));

    let serves_dns = !options.disable.iter().any(|part| part == "dns");
    if serves_dns {
        let config = DnsConfig {
            address: identity.dns_ip,
            cluster_domain: options.cluster_domain.clone(),
            resolv_conf: options.resolv_conf.clone(),
            cluster_cidr: options.cluster_cidr,
            service_cidr: options.service_cidr,
        };
        tasks.spawn(serve_dns(config, Informers::clone(services), shutdown.clone()));
    }

    let mut gate = None;
    if !options.disable_kube_proxy {
        let table = TableConfig {
            table: options.bridge.clone(),
            cluster_cidr: options.cluster_cidr,
            service_cidr: options.service_cidr,
        };
        let local = if serves_dns { vec![identity.dns_ip] } else { Vec::new() };
        let opened = gate.insert(Gate::default()).clone();
        let config = ProxyConfig { node_name: identity.node_name.clone(), table, local, gate: opened };
        tasks.spawn(net::proxy::run(config, Informers::clone(services), shutdown.clone()));
    }

    let mut config = KubeletConfig::new(&identity.node_name, identity.node_ip, layout.kubelet(), layout.pod_logs());
    config.cluster_dns = vec![IpAddr::V4(identity.dns_ip)];
    config.cluster_domain.clone_from(&options.cluster_domain);
    config.resolv_conf.clone_from(&options.resolv_conf);
    config.listen = SocketAddr::new(options.bind_address, options.kubelet_port);
    config.tls = Some(Arc::new(tls.server));
    config.client_ca = tls.client_ca;
    config.max_pods = options.max_pods;
    config.cgroup_root = format!("/{}", options.bridge);
    config.node_labels = labels(&options.node_label)?;
    config.eviction_hard.extend(thresholds(&options.eviction_hard)?);
    let flags = options.kubelet_arg.iter().map(|flag| {
        let flag = flag.trim_start_matches("--");
        flag.split_once('=').with_context(|| format!("--kubelet-arg {flag}: must be name=value"))
    });
    config.apply_flags(flags.collect::<anyhow::Result<Vec<_>>>()?).context("--kubelet-arg")?;
    let grace = config.shutdown_grace;
    config.register_with_taints = taints(&options.node_taint)?;
    let agent =
        Kubelet::new(config, client, informers.clone(), runtime, Arc::new(Network { pods, gate }), clock.clone());
    tasks.spawn(agent.run(shutdown.clone()));
    Ok(grace)
}

/// Makes the DNS address one of this machine's, answers there, and gives the address up at an orderly stop.
async fn serve_dns(config: DnsConfig, informers: Informers, shutdown: Shutdown) {
    if let Err(error) = net::local_address::ensure(config.address).await {
        // An administrator may have given this machine the address; the server waits for it.
        tracing::error!(address = %config.address, error = %base::chain(&error), "cannot take the DNS address");
    }
    let address = config.address;
    dns::run(config, informers, shutdown).await;
    // What is asked there from now on is refused at once by the Service rules, or goes to a server elsewhere.
    if let Err(error) = net::local_address::release(address).await {
        tracing::warn!(%address, error = %base::chain(&error), "cannot give up the DNS address");
    }
}

/// Takes in the archives of the images folder, so that a box without a registry has them.
async fn import_archives(dir: std::path::PathBuf, runtime: Arc<dyn Runtime>) {
    let entries = match std::fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return,
        Err(error) => {
            tracing::warn!(dir = %dir.display(), %error, "cannot read the folder of image archives");
            return;
        }
    };
    for entry in entries.flatten() {
        let path = entry.path();
        match runtime.import_images(&path).await {
            Ok(names) => tracing::info!(archive = %path.display(), images = names.len(), "images imported"),
            Err(error) => {
                tracing::warn!(archive = %path.display(), error = %base::chain(&error), "cannot import an image archive");
            }
        }
    }
}

/// Keeps the bridge at the range that the node has been given.
async fn configure_network(pods: Arc<PodNetwork>, nodes: Informer<Node>, shutdown: Shutdown) {
    let mut events = nodes.subscribe();
    loop {
        let event = tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            event = events.recv() => event,
        };
        let node = match event {
            None => return,
            Some(Event::Added(node) | Event::Updated { new: node, .. }) => Some(node),
            Some(Event::Resync) => nodes.list().pop(),
            Some(Event::Deleted(_)) => None,
        };
        let range = node.as_ref().and_then(|n| n.spec.as_ref()).and_then(|s| s.pod_cidr.as_deref());
        let Some(range) = range else { continue };
        match range.parse() {
            Ok(range) => {
                if let Err(error) = pods.configure(range).await {
                    tracing::error!(%range, error = %base::chain(&error), "cannot set up the pods' bridge");
                }
            }
            Err(_) => tracing::error!(range, "the node's pod CIDR is not an IPv4 range"),
        }
    }
}

/// The node agent's view of the pods' network.
struct Network {
    pods: Arc<PodNetwork>,
    /// If this process is the one that enforces NetworkPolicies.
    gate: Option<Gate>,
}

#[async_trait]
impl Contract for Network {
    async fn attach(&self, request: &AttachRequest) -> Result<Vec<IpAddr>, NetworkError> {
        let address = self.pods.attach(&request.uid, &request.netns).await.map_err(|e| network_error(&e))?;
        if let Some(gate) = &self.gate {
            gate.admit(&request.uid, address).await.map_err(|e| NetworkError(e.to_string()))?;
        }
        Ok(vec![IpAddr::V4(address)])
    }

    async fn detach(&self, uid: &str) -> Result<(), NetworkError> {
        self.pods.detach(uid).await.map_err(|e| network_error(&e))?;
        if let Some(gate) = &self.gate {
            gate.forget(uid);
        }
        Ok(())
    }

    async fn ready(&self) -> Result<(), String> {
        self.pods.ready().map_err(|error| error.to_string())
    }

    async fn attached(&self) -> Result<Vec<String>, NetworkError> {
        Ok(self.pods.attachments().into_iter().map(|a| a.uid).collect())
    }
}

fn network_error(error: &net::pods::PodNetworkError) -> NetworkError {
    NetworkError(base::chain(error).to_string())
}

/// `key=value` pairs of `--node-label`.
fn labels(given: &[String]) -> anyhow::Result<BTreeMap<String, String>> {
    given
        .iter()
        .map(|label| {
            let (key, value) =
                label.split_once('=').with_context(|| format!("--node-label {label}: must be key=value"))?;
            Ok((key.to_owned(), value.to_owned()))
        })
        .collect()
}

/// `signal<value` pairs of `--eviction-hard`.
fn thresholds(given: &[String]) -> anyhow::Result<BTreeMap<String, String>> {
    given
        .iter()
        .map(|threshold| {
            let pair = threshold.split_once('<');
            let (signal, value) = pair.with_context(|| format!("--eviction-hard {threshold}: must be signal<value"))?;
            Ok((signal.to_owned(), value.to_owned()))
        })
        .collect()
}

/// `key=value:effect` or `key:effect` of `--node-taint`.
fn taints(given: &[String]) -> anyhow::Result<Vec<Taint>> {
    given
        .iter()
        .map(|taint| {
            let (pair, effect) =
                taint.rsplit_once(':').with_context(|| format!("--node-taint {taint}: must be key=value:effect"))?;
            if !matches!(effect, "NoSchedule" | "PreferNoSchedule" | "NoExecute") {
                bail!("--node-taint {taint}: the effect must be NoSchedule, PreferNoSchedule or NoExecute");
            }
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok(Taint {
                key: key.to_owned(),
                value: (!value.is_empty()).then(|| value.to_owned()),
                effect: effect.to_owned(),
                ..Taint::default()
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_and_taints_are_read() {
        assert_eq!(labels(&["a=b".into()]).unwrap()["a"], "b");
        assert!(labels(&["a".into()]).is_err());
        let taints = taints(&["dedicated=gpu:NoSchedule".into(), "x:NoExecute".into()]).unwrap();
        assert_eq!((taints[0].key.as_str(), taints[0].value.as_deref()), ("dedicated", Some("gpu")));
        assert_eq!((taints[1].key.as_str(), taints[1].value.as_deref()), ("x", None));
        assert!(super::taints(&["x:Sometimes".into()]).is_err());
    }
}
