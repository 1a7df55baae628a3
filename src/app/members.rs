//! etcd members that the server starts and supervises itself (`--cluster-init`, or `--server` with `--token`).
//!
//! The first server makes the certificates and starts the first member. It leaves what another server needs (every
//! authority's key, the members' addresses) as the ConfigMap `kube-public/skiff-join`, encrypted with a key made from the
//! token: who knows the token can join, others see noise. A joining server takes it from there, adds itself as a
//! learner, starts its member and promotes it when it has caught up. From then on the etcd cluster is the datastore of
//! all of them.

pub(crate) mod list;
mod process;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use base::{Backoff, Clock, Shutdown};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use client::Client;
use http::Method;
use pki::{CertificateAuthority, LeafSpec, Usage};
use serde_json::{Value, json};
use storage::etcd::{EtcdCluster, EtcdMemberInfo};
use storage::{EtcdStore, KeyRange, RangeOptions, Store, StoreError, snapshot};
use tokio::task::JoinSet;

use crate::datastore;
use crate::layout::Layout;
use crate::options::{ClusterOptions, DatastoreOptions};
use crate::shared_keys::{self, Bundle};
use list::MemberList;
use process::MemberProcess;

/// Where a binary of etcd is looked for besides PATH.
const PLACES: [&str; 3] = ["/usr/bin/etcd", "/usr/local/bin/etcd", "/usr/sbin/etcd"];
/// How long a server that joins waits for others that join.
const JOIN_WITHIN: Duration = Duration::from_secs(120);
/// What etcd says while its members change (etcd `server/etcdserver/api/membership` and `errors`).
const BUSY: [&str; 3] = ["too many learner members", "unhealthy cluster", "not enough started members"];
/// The others may take so long to say whether they know this member.
const ASK_WITHIN: Duration = Duration::from_secs(5);
/// How often a learner asks for its vote.
const PROMOTE_EVERY: Duration = Duration::from_secs(2);
const JOIN_NAMESPACE: &str = "kube-public";
const JOIN_NAME: &str = "skiff-join";
/// In the bundle, beside the files: the members' client addresses, with commas.
const ENDPOINTS: &str = "endpoints";
const ETCD_FILES: [&str; 2] = ["etcd/ca.crt", "etcd/ca.key"];

/// The member of this server.
pub struct OwnMember {
    /// The datastore that it makes with the others.
    pub datastore: DatastoreOptions,
    pub token: String,
    dir: PathBuf,
    /// Its endpoint for clients on other machines.
    client_url: String,
}

/// Facts about this server.
pub struct Host<'a> {
    pub layout: &'a Layout,
    pub node_name: &'a str,
    pub ip: IpAddr,
    pub clock: &'a dyn Clock,
}

/// Starts this server's member if the options ask for one, or if there has been one; `None` otherwise.
pub async fn start(
    options: &ClusterOptions,
    token: Option<&str>,
    host: &Host<'_>,
    tasks: &mut JoinSet<()>,
    shutdown: &Shutdown,
) -> anyhow::Result<Option<OwnMember>> {
    let data = host.layout.etcd();
    let has_member = data.join("member").exists();
    if !options.cluster_init && options.server.is_none() && !has_member {
        return Ok(None);
    }
    let binary = binary(options)?;
    let token = agreed_token(host.layout, token, options)?;
    let dir = host.layout.tls();
    let url = |port: u16| match host.ip {
        IpAddr::V4(v4) => format!("https://{v4}:{port}"),
        IpAddr::V6(v6) => format!("https://[{v6}]:{port}"),
    };
    let (client_url, peer_url) = (url(options.etcd_client_port), url(options.etcd_peer_port));
    pki::files::write(&host.layout.etcd_port(), &options.etcd_client_port.to_string(), pki::files::PRIVATE)?;
    let local = format!("https://127.0.0.1:{}", options.etcd_client_port);
    let mut others: Vec<String>;
    let mut cluster = Cluster { state: "new", members: format!("{}={peer_url}", host.node_name) };
    if let (Some(server), false) = (&options.server, has_member) {
        let bundle = fetch(server, &token).await?;
        write_files(&dir, &bundle)?;
        others = bundle.get(ENDPOINTS).map(|list| list.split(',').map(str::to_owned).collect()).unwrap_or_default();
        make_certificates(&dir, host)?;
        cluster = join(&others, &dir, &peer_url, host.node_name).await?;
    } else {
        make_certificates(&dir, host)?;
        others = pki::files::read_opt(&host.layout.etcd_endpoints())?
            .map(|list| {
                list.split(',').filter(|url| !url.is_empty() && **url != *client_url).map(str::to_owned).collect()
            })
            .unwrap_or_default();
    }
    let names = Names { binary, node_name: host.node_name, data: &data, dir: &dir, local: &local };
    let arguments = arguments(&names, &client_url, &peer_url, &cluster);
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&data)
        .with_context(|| format!("cannot make {}", data.display()))?;
    let process = MemberProcess {
        binary: names.binary.clone(),
        arguments,
        log: data.join("etcd.log"),
        pid_file: host.layout.etcd_pid(),
        data: data.clone(),
    };
    let mut endpoints = vec![local];
    endpoints.append(&mut others);
    let datastore = datastore_options(&dir, endpoints);
    let (asked, own_url) = (datastore.clone(), peer_url.clone());
    let removed = move || {
        let (asked, own_url) = (asked.clone(), own_url.clone());
        async move { is_removed(&asked, &own_url).await }
    };
    tasks.spawn(process.supervise(removed, shutdown.clone()));
    tasks.spawn(promote(datastore.clone(), peer_url, shutdown.clone()));
    Ok(Some(OwnMember { datastore, token, dir, client_url }))
}

/// Flags as if the user had named an external cluster.
fn datastore_options(dir: &Path, endpoints: Vec<String>) -> DatastoreOptions {
    let file = |name: &str| Some(dir.join("etcd").join(name));
    DatastoreOptions {
        datastore_endpoint: endpoints,
        datastore_cafile: file("ca.crt"),
        datastore_certfile: file("client.crt"),
        datastore_keyfile: file("client.key"),
        ..DatastoreOptions::default()
    }
}

fn binary(options: &ClusterOptions) -> anyhow::Result<PathBuf> {
    if let Some(binary) = &options.etcd_binary {
        if !binary.is_file() {
            bail!("there is no etcd at {} (--etcd-binary)", binary.display());
        }
        return Ok(binary.clone());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let in_path = std::env::split_paths(&path).map(|folder| folder.join("etcd"));
    in_path.chain(PLACES.iter().map(PathBuf::from)).find(|path| path.is_file()).context(
        "there is no etcd on this machine: install it (apt install etcd-server), or name it with --etcd-binary",
    )
}

/// The token given, or the one of an earlier start, or a new one.
fn agreed_token(layout: &Layout, given: Option<&str>, options: &ClusterOptions) -> anyhow::Result<String> {
    let path = layout.token();
    let held = pki::files::read_opt(&path)?.map(|text| text.trim().to_owned());
    let token = match (given, held) {
        (Some(given), _) => given.to_owned(),
        (None, Some(held)) => held,
        (None, None) if options.server.is_some() => {
            bail!("--server needs the --token of the first server, which lies in its {}", path.display())
        }
        (None, None) => {
            let random: [u8; 24] = rand::random();
            random.iter().map(|byte| format!("{byte:02x}")).collect()
        }
    };
    pki::files::write(&path, &token, pki::files::PRIVATE)?;
    Ok(token)
}

fn make_certificates(dir: &Path, host: &Host<'_>) -> anyhow::Result<()> {
    let dir = dir.join("etcd");
    let ca = CertificateAuthority::load_or_create(&dir, "ca", "skiff-etcd-ca", host.clock)?;
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), host.ip.to_string(), host.node_name.to_owned()];
    let spec = LeafSpec { usage: Usage::Both, ..LeafSpec::server("etcd-member", names) };
    ca.load_or_issue(&dir, "member", &spec, host.clock)?;
    ca.load_or_issue(&dir, "client", &LeafSpec::client("etcd-client", &[]), host.clock)?;
    Ok(())
}

/// Who makes up the cluster when a member starts for the first time.
struct Cluster {
    state: &'static str,
    /// As etcd's `--initial-cluster`.
    members: String,
}

/// Adds this server as a learner, unless an interrupted start has done so.
async fn join(others: &[String], dir: &Path, peer_url: &str, name: &str) -> anyhow::Result<Cluster> {
    let options = datastore_options(dir, others.to_vec());
    let tls = datastore::client_tls(&options)?;
    let cluster = EtcdCluster::new(others, tls.as_ref())?;
    let listed = cluster.list().await.context("cannot reach the cluster's etcd members")?;
    let members = match is_among(&listed, peer_url) {
        true => listed,
        false => add(&cluster, peer_url).await?,
    };
    let entry = |member: &EtcdMemberInfo| -> Option<String> {
        let url = member.peer_urls.first()?;
        let name = if url == peer_url { name } else { member.name.as_str() };
        (!name.is_empty()).then(|| format!("{name}={url}"))
    };
    Ok(Cluster { state: "existing", members: members.iter().filter_map(entry).collect::<Vec<_>>().join(",") })
}

fn is_among(members: &[EtcdMemberInfo], peer_url: &str) -> bool {
    members.iter().any(|member| member.peer_urls.iter().any(|url| url == peer_url))
}

/// Adds the member. While another one is joining, etcd takes none or has no leader for a moment: that is waited for.
async fn add(cluster: &EtcdCluster, peer_url: &str) -> anyhow::Result<Vec<EtcdMemberInfo>> {
    let deadline = tokio::time::Instant::now() + JOIN_WITHIN;
    let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(5)).with_jitter(0.2);
    loop {
        let error = match cluster.add_learner(peer_url).await {
            Ok((_, members)) => return Ok(members),
            Err(error) => error,
        };
        let unknown = matches!(error, StoreError::Timeout);
        if unknown
            && let Ok(listed) = cluster.list().await
            && is_among(&listed, peer_url)
        {
            return Ok(listed);
        }
        let text = base::chain(&error).to_string();
        let busy = unknown || BUSY.iter().any(|busy| text.contains(busy));
        if !busy || tokio::time::Instant::now() >= deadline {
            return Err(error).context("the cluster does not take this member");
        }
        tracing::info!(why = text, "waiting until the cluster takes this member");
        tokio::time::sleep(backoff.step()).await;
    }
}

struct Names<'a> {
    binary: PathBuf,
    node_name: &'a str,
    data: &'a Path,
    dir: &'a Path,
    local: &'a str,
}

fn arguments(names: &Names<'_>, client_url: &str, peer_url: &str, cluster: &Cluster) -> Vec<String> {
    let file = |name: &str| names.dir.join("etcd").join(name).display().to_string();
    let (ca, cert, key) = (file("ca.crt"), file("member.crt"), file("member.key"));
    [
        ("name", names.node_name.to_owned()),
        ("data-dir", names.data.display().to_string()),
        ("listen-client-urls", format!("{},{client_url}", names.local)),
        ("advertise-client-urls", client_url.to_owned()),
        ("listen-peer-urls", peer_url.to_owned()),
        ("initial-advertise-peer-urls", peer_url.to_owned()),
        ("initial-cluster", cluster.members.clone()),
        ("initial-cluster-state", cluster.state.to_owned()),
        ("client-cert-auth", "true".to_owned()),
        ("trusted-ca-file", ca.clone()),
        ("cert-file", cert.clone()),
        ("key-file", key.clone()),
        ("peer-client-cert-auth", "true".to_owned()),
        ("peer-trusted-ca-file", ca),
        ("peer-cert-file", cert),
        ("peer-key-file", key),
        ("log-level", "warn".to_owned()),
        // Kubernetes compacts by itself.
        ("auto-compaction-retention", "0".to_owned()),
        ("snapshot-count", "10000".to_owned()),
    ]
    .into_iter()
    .map(|(name, value)| format!("--{name}={value}"))
    .collect()
}

/// Whether the others say that there is no member with this address. Nobody who answers is no answer.
async fn is_removed(options: &DatastoreOptions, peer_url: &str) -> bool {
    let asked = async {
        let tls = datastore::client_tls(options)?;
        let members = EtcdCluster::new(&options.datastore_endpoint, tls.as_ref())?.list().await?;
        anyhow::Ok(!members.iter().any(|member| member.peer_urls.iter().any(|url| url == peer_url)))
    };
    matches!(tokio::time::timeout(ASK_WITHIN, asked).await, Ok(Ok(true)))
}

/// Asks for the vote; `true` if the member has it.
async fn promote_once(options: &DatastoreOptions, peer_url: &str) -> anyhow::Result<bool> {
    let tls = datastore::client_tls(options)?;
    let cluster = EtcdCluster::new(&options.datastore_endpoint, tls.as_ref())?;
    let own = cluster.list().await?.into_iter().find(|member| member.peer_urls.iter().any(|url| url == peer_url));
    let Some(own) = own else { return Ok(false) };
    if own.learner {
        cluster.promote(own.id).await?;
        list::tell(&cluster).await?;
        tracing::info!(member = own.name, "the etcd member has its vote");
    }
    Ok(true)
}

/// Gets this server's member its vote once it has caught up.
async fn promote(options: DatastoreOptions, peer_url: String, shutdown: Shutdown) {
    loop {
        let done = tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            done = promote_once(&options, &peer_url) => done,
        };
        match done {
            Ok(true) => return,
            Ok(false) => {}
            Err(error) => tracing::debug!(error = format!("{error:#}"), "the etcd member has no vote yet"),
        }
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(PROMOTE_EVERY) => {}
        }
    }
}

/// Moves what a single server kept in its file into the new cluster, once: while the cluster is empty, or a move was
/// interrupted.
pub async fn take_over_file(options: &DatastoreOptions, layout: &Layout, clock: &dyn Clock) -> anyhow::Result<()> {
    let path = layout.database();
    if !path.exists() {
        return Ok(());
    }
    let shutdown = Shutdown::new();
    let store = datastore::open_cluster(options, &shutdown).await?;
    let needed = async {
        let options = RangeOptions { count_only: true, ..RangeOptions::default() };
        let empty = store.range(KeyRange::prefix("/registry/"), options).await?.count == 0;
        Ok::<_, storage::StoreError>(empty || snapshot::is_half_restored(&*store).await?)
    };
    let needed = needed.await;
    shutdown.cancel();
    store.closed().await;
    if !needed.context("cannot read the etcd cluster")? {
        tracing::warn!(file = %path.display(), "the etcd cluster holds the state; this file of a single server is left alone");
        return Ok(());
    }
    let now = clock.now().as_second();
    let shutdown = Shutdown::new();
    let file = storage::SqliteStore::open(&path, datastore::file_options(options), shutdown.clone())
        .await
        .with_context(|| format!("cannot open the database {}", path.display()))?;
    let copy = layout.snapshots().join(format!("migration-sqlite-{now}"));
    let saved = snapshot::save(&*file, &copy, "sqlite", now).await;
    shutdown.cancel();
    file.closed().await;
    let saved = saved.context("cannot copy the database")?;
    tracing::info!(keys = saved.keys, "moving the database into the etcd cluster");
    let options = datastore::cluster_options(options)?;
    let done = snapshot::restore_into(options, &copy, |step| tracing::info!("{step}")).await;
    done.context("the move into the etcd cluster did not end: start again")?;
    let kept = path.with_extension(format!("db.moved-{now}"));
    std::fs::rename(&path, &kept).with_context(|| format!("cannot rename {}", path.display()))?;
    tracing::info!(kept = %kept.display(), "the etcd cluster holds everything now");
    Ok(())
}

impl OwnMember {
    /// Leaves for joining servers what they need, and for the next start where the other members are.
    pub async fn publish(&self, client: &Client, layout: &Layout) -> anyhow::Result<()> {
        let mut bundle = shared_keys::read_files(&self.dir)?;
        let endpoints = list::endpoints(&self.datastore).await?;
        pki::files::write(&layout.etcd_endpoints(), &endpoints.join(","), pki::files::PRIVATE)?;
        bundle.insert(ENDPOINTS.to_owned(), endpoints.join(","));
        for name in ETCD_FILES {
            let path = self.dir.join(name);
            let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            bundle.insert(name.to_owned(), text);
        }
        let sealed = STANDARD.encode(shared_keys::seal(&bundle, &self.token)?);
        let metadata = json!({"name": JOIN_NAME, "namespace": JOIN_NAMESPACE});
        let group = "rbac.authorization.k8s.io";
        let objects = [
            (
                "/api/v1",
                "configmaps",
                json!({
                    "apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"bundle": sealed},
                }),
            ),
            (
                "/apis/rbac.authorization.k8s.io/v1",
                "roles",
                json!({
                    "apiVersion": format!("{group}/v1"), "kind": "Role", "metadata": metadata,
                    "rules": [{
                        "apiGroups": [""], "resources": ["configmaps"], "resourceNames": [JOIN_NAME], "verbs": ["get"],
                    }],
                }),
            ),
            (
                "/apis/rbac.authorization.k8s.io/v1",
                "rolebindings",
                json!({
                    "apiVersion": format!("{group}/v1"), "kind": "RoleBinding", "metadata": metadata,
                    "roleRef": {"apiGroup": group, "kind": "Role", "name": JOIN_NAME},
                    "subjects": [{"apiGroup": group, "kind": "User", "name": "system:anonymous"}],
                }),
            ),
        ];
        for (root, resource, object) in objects {
            let path = format!(
                "{root}/namespaces/{JOIN_NAMESPACE}/{resource}/{JOIN_NAME}?fieldManager=skiff-members&force=true"
            );
            let body = serde_json::to_vec(&object)?;
            client.raw(Method::PATCH, &path, "application/apply-patch+yaml", body).await?;
        }
        let tls = datastore::client_tls(&self.datastore)?;
        list::tell(&EtcdCluster::new(&self.datastore.datastore_endpoint, tls.as_ref())?).await
    }

    /// Keeps `store` able to fail over to members that join later, until `shutdown`.
    pub fn follow_members(
        &self,
        store: Arc<EtcdStore>,
        layout: &Layout,
        shutdown: Shutdown,
    ) -> impl Future<Output = ()> + Send + use<> {
        let followed = MemberList {
            local: self.datastore.datastore_endpoint.first().cloned().unwrap_or_default(),
            datastore: self.datastore.clone(),
            own: self.client_url.clone(),
            file: layout.etcd_endpoints(),
        };
        followed.follow(store, shutdown)
    }
}

/// Fetches what a joining server needs. The server need not be trusted: only who knows the token can have made it.
async fn fetch(server: &str, token: &str) -> anyhow::Result<Bundle> {
    let url = format!("{}/api/v1/namespaces/{JOIN_NAMESPACE}/configmaps/{JOIN_NAME}", server.trim_end_matches('/'));
    let client = reqwest::Client::builder()
        .danger_accept_invalid_certs(true)
        .connect_timeout(Duration::from_secs(5))
        .timeout(Duration::from_secs(30))
        .build()
        .context("cannot make a client")?;
    let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(5));
    let deadline = tokio::time::Instant::now() + Duration::from_secs(120);
    let object: Value = loop {
        let asked = async {
            let answer = client.get(&url).send().await.map_err(reqwest::Error::without_url)?.error_for_status()?;
            answer.json().await
        };
        match asked.await {
            Ok(object) => break object,
            Err(error) if tokio::time::Instant::now() >= deadline => {
                return Err(error.without_url()).with_context(|| format!("cannot join at {server} (--server)"));
            }
            Err(error) => {
                tracing::info!(server, error = %error.without_url(), "waiting for the first server");
                tokio::time::sleep(backoff.step()).await;
            }
        }
    };
    let sealed = object["data"]["bundle"].as_str().and_then(|text| STANDARD.decode(text).ok());
    let sealed = sealed
        .with_context(|| format!("{server} has nothing for joining servers: was it started with --cluster-init?"))?;
    shared_keys::open(&sealed, token)
}

fn write_files(dir: &Path, bundle: &BTreeMap<String, String>) -> anyhow::Result<()> {
    shared_keys::write_local(dir, bundle)?;
    for name in ETCD_FILES {
        let text = bundle.get(name).with_context(|| format!("what the first server offers lacks {name}"))?;
        let mode = if name.ends_with(".crt") { pki::files::PUBLIC } else { pki::files::PRIVATE };
        pki::files::write(&dir.join(name), text, mode)?;
    }
    Ok(())
}

/// A client of the cluster that the server of `layout` is a member of; `None` if it is of none.
pub async fn cluster_of(layout: &Layout) -> anyhow::Result<Option<EtcdCluster>> {
    if !layout.etcd().join("member").exists() {
        return Ok(None);
    }
    let port = std::fs::read_to_string(layout.etcd_port()).ok().and_then(|text| text.trim().parse().ok());
    let mut known = vec![format!("https://127.0.0.1:{}", port.unwrap_or(2379u16))];
    // The others answer when this server's own member does not.
    known.extend(
        pki::files::read_opt(&layout.etcd_endpoints())?.iter().flat_map(|list| list.split(',')).map(str::to_owned),
    );
    known.retain(|endpoint| !endpoint.is_empty());
    let tls = datastore::client_tls(&datastore_options(&layout.tls(), known.clone()))?;
    let members = EtcdCluster::new(&known, tls.as_ref())?.list().await.context("no etcd member answers")?;
    let endpoints: Vec<String> = members.into_iter().flat_map(|member| member.client_urls).collect();
    Ok(Some(EtcdCluster::new(&endpoints, tls.as_ref())?))
}

/// Prints how every member is; `false` if one is not well.
pub async fn print_health(cluster: &EtcdCluster) -> anyhow::Result<bool> {
    let mut good = true;
    let members = cluster.list().await?;
    for member in members.iter().filter(|member| member.client_urls.is_empty()) {
        good = false;
        println!("etcd     {}: added, and has not started yet", member.peer_urls.join(","));
    }
    for health in cluster.health().await {
        match health {
            Ok(health) => {
                let name = members.iter().find(|member| member.id == health.member).map_or("", |m| m.name.as_str());
                let role = match (health.learner, health.leader == health.member) {
                    (true, _) => "learner",
                    (false, true) => "leader",
                    (false, false) => "follower",
                };
                good &= health.errors.is_empty() && health.leader != 0;
                let troubles =
                    if health.errors.is_empty() { String::new() } else { format!(", {}", health.errors.join(", ")) };
                println!(
                    "etcd     {name}: {role}, version {}, {} KiB, revision {}{troubles}",
                    health.version,
                    health.size >> 10,
                    health.revision.0
                );
            }
            Err((endpoint, error)) => {
                good = false;
                println!("etcd     {endpoint}: does not answer: {}", base::chain(&error));
            }
        }
    }
    Ok(good)
}
