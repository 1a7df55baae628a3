//! The command line, the environment and the configuration file, which share one set of names.
//!
//! Precedence: flag, `SKIFF_*` variable, configuration file, default. Names are k3s's where the meaning is the same.

mod access;
mod admission;
mod booleans;
mod serving;
mod storage;

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use clap::parser::ValueSource;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};

pub use access::{
    AuditFlags, AuditFormat, AuditMode, AuthenticationOptions, AuthorizationOptions, ServiceAccountOptions,
};
pub use admission::AdmissionFlags;
pub use serving::ServingOptions;
pub use storage::{
    ClusterOptions, DatastoreCommand, DatastoreCommandOptions, DatastoreKind, DatastoreOptions, SafetyOptions,
    SecretsEncryptCommand, SecretsEncryptOptions, SnapshotCommand, SnapshotOptions, SnapshotPlace,
};

/// A whole Kubernetes in one binary.
#[derive(Debug, Parser)]
#[command(name = "skiff", version, about, args_override_self = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Runs the control plane and, unless switched off, a node.
    Server(Box<ServerOptions>),
    /// Works on the node's container images.
    Image(ImageOptions),
    /// Tells how the server and its node are.
    Status(ClientOptions),
    /// Looks for what would keep this machine from being a node, and names the fix.
    Check(CheckOptions),
    /// Prints the administrator's kubeconfig.
    Kubeconfig(ClientOptions),
    /// Saves and restores the cluster's state.
    Snapshot(Box<SnapshotOptions>),
    /// Works on the datastore while no server runs.
    Datastore(Box<DatastoreCommandOptions>),
    /// Works on the encryption of the running server's datastore.
    SecretsEncrypt(SecretsEncryptOptions),
    /// Runs one part beside an API server that runs elsewhere.
    #[command(subcommand)]
    Component(ComponentCommand),
}

#[derive(Debug, Subcommand)]
pub enum ComponentCommand {
    /// In the place of kube-scheduler.
    Scheduler(RemoteOptions),
    /// In the place of kube-controller-manager.
    Controllers(ControllersOptions),
    /// In the place of kubelet, kube-proxy and, unless switched off, the cluster's DNS.
    Agent(Box<AgentOptions>),
}

#[derive(Debug, Clone, Args)]
pub struct RemoteOptions {
    /// How to reach the API server, and as whom.
    #[arg(long, env = "SKIFF_KUBECONFIG")]
    pub kubeconfig: PathBuf,
    /// Works only while it holds the lease that the stock program of this role holds, too.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
    pub leader_elect: bool,
}

#[derive(Debug, Clone, Args)]
pub struct ControllersOptions {
    #[command(flatten)]
    pub remote: RemoteOptions,
    /// Certificate of the cluster's authority, which every namespace gets.
    #[arg(long)]
    pub root_ca_file: PathBuf,
    /// Ranges that nodes get their pods' ranges from; if none is given, nodes get none.
    #[arg(long, value_delimiter = ',')]
    pub cluster_cidr: Vec<ipnet::IpNet>,
    /// Ranges of Services, which no node gets.
    #[arg(long, value_delimiter = ',')]
    pub service_cidr: Vec<ipnet::IpNet>,
    /// Names of controllers, as kube-controller-manager's flag: * is all, -name takes one out.
    #[arg(long, value_delimiter = ',', default_value = "*", allow_hyphen_values = true)]
    pub controllers: Vec<String>,
}

#[derive(Debug, Clone, Args)]
pub struct AgentOptions {
    /// How to reach the API server, as this node.
    #[arg(long, env = "SKIFF_KUBECONFIG")]
    pub kubeconfig: PathBuf,
    /// How Service routing and DNS reach it; as this node if not given.
    #[arg(long)]
    pub proxy_kubeconfig: Option<PathBuf>,
    /// Certificate that the node agent serves with.
    #[arg(long)]
    pub tls_cert_file: PathBuf,
    /// Key of that certificate.
    #[arg(long)]
    pub tls_private_key_file: PathBuf,
    /// Authority of those who may call the node agent.
    #[arg(long)]
    pub client_ca_file: PathBuf,
    /// The node's own settings are the server's.
    #[command(flatten)]
    pub node: ServerOptions,
}

#[derive(Debug, Clone, Args)]
pub struct ServerOptions {
    /// Every flag with its value, for `/flagz`; secrets are not told.
    #[arg(skip)]
    pub flags: Vec<(String, String)>,
    /// YAML file with the names of these flags as keys.
    #[arg(long, short = 'c', env = "SKIFF_CONFIG", default_value = "/etc/skiff/config.yaml")]
    pub config: PathBuf,
    /// Folder of everything that skiff keeps.
    #[arg(long, short = 'd', env = "SKIFF_DATA_DIR", default_value = "/var/lib/skiff")]
    pub data_dir: PathBuf,
    /// Address that the API server listens on.
    #[arg(long, env = "SKIFF_BIND_ADDRESS", default_value = "0.0.0.0")]
    pub bind_address: IpAddr,
    /// Port that the API server listens on.
    #[arg(long, env = "SKIFF_HTTPS_LISTEN_PORT", default_value_t = 6443)]
    pub https_listen_port: u16,
    /// Address that other nodes and pods reach the API server at; the node's address if not given.
    #[arg(long, env = "SKIFF_ADVERTISE_ADDRESS")]
    pub advertise_address: Option<IpAddr>,
    /// More names and addresses for the API server's certificate.
    #[arg(long, env = "SKIFF_TLS_SAN", value_delimiter = ',')]
    pub tls_san: Vec<String>,
    /// Writes the administrator's kubeconfig here too.
    #[arg(long, short = 'o', env = "SKIFF_WRITE_KUBECONFIG")]
    pub write_kubeconfig: Option<PathBuf>,
    /// Mode of that file, octal.
    #[arg(long, env = "SKIFF_WRITE_KUBECONFIG_MODE", default_value = "600", value_parser = parse_mode)]
    pub write_kubeconfig_mode: u32,
    /// Range that pods get addresses from.
    #[arg(long, env = "SKIFF_CLUSTER_CIDR", default_value = "10.42.0.0/16")]
    pub cluster_cidr: ipnet::Ipv4Net,
    /// Range that Services get addresses from.
    #[arg(long, env = "SKIFF_SERVICE_CIDR", default_value = "10.43.0.0/16")]
    pub service_cidr: ipnet::Ipv4Net,
    /// Ports that NodePort Services get, first-last.
    #[arg(long, env = "SKIFF_SERVICE_NODE_PORT_RANGE", default_value = "30000-32767", value_parser = parse_port_range)]
    pub service_node_port_range: (u16, u16),
    /// Address of the cluster's DNS; the tenth of the Service range if not given.
    #[arg(long, env = "SKIFF_CLUSTER_DNS")]
    pub cluster_dns: Option<std::net::Ipv4Addr>,
    /// DNS domain of the cluster.
    #[arg(long, env = "SKIFF_CLUSTER_DOMAIN", default_value = "cluster.local")]
    pub cluster_domain: String,
    /// Name of this node; the host's name if not given.
    #[arg(long, env = "SKIFF_NODE_NAME")]
    pub node_name: Option<String>,
    /// Address of this node; the one of the default route, or the first global one, if not given.
    #[arg(long, short = 'i', env = "SKIFF_NODE_IP")]
    pub node_ip: Option<IpAddr>,
    /// Labels that the node registers with, key=value.
    #[arg(long, env = "SKIFF_NODE_LABEL", value_delimiter = ',')]
    pub node_label: Vec<String>,
    /// Taints that the node registers with, key=value:effect.
    #[arg(long, env = "SKIFF_NODE_TAINT", value_delimiter = ',')]
    pub node_taint: Vec<String>,
    /// Packaged parts not to run: dns.
    #[arg(long, env = "SKIFF_DISABLE", value_delimiter = ',')]
    pub disable: Vec<String>,
    /// Runs no node on this machine.
    #[arg(long, env = "SKIFF_DISABLE_AGENT")]
    pub disable_agent: bool,
    /// Runs no scheduler.
    #[arg(long, env = "SKIFF_DISABLE_SCHEDULER")]
    pub disable_scheduler: bool,
    /// Runs no controllers.
    #[arg(long, env = "SKIFF_DISABLE_CONTROLLER_MANAGER")]
    pub disable_controller_manager: bool,
    /// Routes no Services on this node.
    #[arg(long, env = "SKIFF_DISABLE_KUBE_PROXY")]
    pub disable_kube_proxy: bool,
    /// Socket of a running containerd; without it skiff starts one of its own.
    #[arg(long, env = "SKIFF_CONTAINERD")]
    pub containerd: Option<PathBuf>,
    #[command(flatten)]
    pub datastore: DatastoreOptions,
    #[command(flatten)]
    pub cluster: ClusterOptions,
    /// Secret that the servers of one cluster share: with it they get each other's certificates and keys. Servers that run
    /// etcd members make one if it is not given.
    #[arg(long, short = 't', env = "SKIFF_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    #[command(flatten)]
    pub snapshots: SnapshotPlace,
    #[command(flatten)]
    pub safety: SafetyOptions,
    #[command(flatten)]
    pub authentication: AuthenticationOptions,
    #[command(flatten)]
    pub service_accounts: ServiceAccountOptions,
    #[command(flatten)]
    pub authorization: AuthorizationOptions,
    #[command(flatten)]
    pub admission: AdmissionFlags,
    #[command(flatten)]
    pub audit: AuditFlags,
    #[command(flatten)]
    pub serving: ServingOptions,
    /// Serves etcd's API on `unix:///path` or `http://address:port`; repeatable.
    #[arg(long, env = "SKIFF_ETCD_LISTEN", value_delimiter = ',')]
    pub etcd_listen: Vec<String>,
    /// Port of the node agent's HTTPS server.
    #[arg(long, env = "SKIFF_KUBELET_PORT", default_value_t = 10250)]
    pub kubelet_port: u16,
    /// Name of the pods' bridge and of the nft table; tells several servers on one machine apart.
    #[arg(long, env = "SKIFF_BRIDGE", default_value = "skiff0")]
    pub bridge: String,
    /// MTU of pods' interfaces.
    #[arg(long, env = "SKIFF_MTU", default_value_t = 1450)]
    pub mtu: u32,
    /// resolv.conf that names the upstream DNS servers.
    #[arg(long, env = "SKIFF_RESOLV_CONF", default_value = "/etc/resolv.conf")]
    pub resolv_conf: PathBuf,
    /// Registries, mirrors and credentials.
    #[arg(long, env = "SKIFF_PRIVATE_REGISTRY", default_value = "/etc/skiff/registries.yaml")]
    pub private_registry: PathBuf,
    /// Thresholds below which the node takes no pods and evicts some, as the kubelet's flag of this name:
    /// signal<quantity or percentage, such as nodefs.available<10%.
    #[arg(long, env = "SKIFF_EVICTION_HARD", value_delimiter = ',')]
    pub eviction_hard: Vec<String>,
    /// Flags of the kubelet, as name=value: eviction-soft, system-reserved, shutdown-grace-period, …; may be repeated.
    #[arg(long, env = "SKIFF_KUBELET_ARG", value_delimiter = ';')]
    pub kubelet_arg: Vec<String>,
    /// Most pods on this node.
    #[arg(long, env = "SKIFF_MAX_PODS", default_value_t = 110)]
    pub max_pods: u32,
}

#[derive(Debug, Clone, Args)]
pub struct ClientOptions {
    /// Folder of the server's data.
    #[arg(long, short = 'd', env = "SKIFF_DATA_DIR", default_value = "/var/lib/skiff")]
    pub data_dir: PathBuf,
}

#[derive(Debug, Clone, Args)]
pub struct CheckOptions {
    /// Folder that the server's data is to lie in.
    #[arg(long, short = 'd', env = "SKIFF_DATA_DIR", default_value = "/var/lib/skiff")]
    pub data_dir: PathBuf,
    /// Socket of a running containerd, if one is to be used.
    #[arg(long, env = "SKIFF_CONTAINERD")]
    pub containerd: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct ImageOptions {
    /// Folder of the server's data.
    #[arg(long, short = 'd', env = "SKIFF_DATA_DIR", default_value = "/var/lib/skiff", global = true)]
    pub data_dir: PathBuf,
    /// Socket of containerd; the one that the server of the data folder started if not given.
    #[arg(long, env = "SKIFF_CONTAINERD", global = true)]
    pub containerd: Option<PathBuf>,
    /// Registries, mirrors and credentials.
    #[arg(long, env = "SKIFF_PRIVATE_REGISTRY", default_value = "/etc/skiff/registries.yaml", global = true)]
    pub private_registry: PathBuf,
    #[command(subcommand)]
    pub command: ImageCommand,
}

#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// Takes in OCI layouts and `docker save` archives.
    Import { archives: Vec<PathBuf> },
    /// Lists images.
    List,
    /// Pulls images from their registries.
    Pull { references: Vec<String> },
    /// Removes images.
    Remove { references: Vec<String> },
}

/// Why the options make no sense.
#[derive(Debug, thiserror::Error)]
pub enum OptionsError {
    #[error(transparent)]
    Usage(#[from] clap::Error),
    #[error("cannot read the configuration file {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the configuration file {path} is not valid: {why}")]
    Invalid { path: PathBuf, why: String },
}

impl Cli {
    /// Reads arguments (the program's name first), environment and configuration file.
    pub fn load(arguments: &[String]) -> Result<Self, OptionsError> {
        let matches = command().try_get_matches_from(arguments)?;
        let Some((name @ ("server" | "snapshot" | "datastore"), server)) = matches.subcommand() else {
            return Ok(Self::from_arg_matches(&matches)?);
        };
        let path = server.get_one::<PathBuf>("config").cloned().unwrap_or_default();
        let given =
            |id: &str| matches!(server.value_source(id), Some(ValueSource::CommandLine | ValueSource::EnvVariable));
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !given("config") => String::new(),
            Err(source) => return Err(OptionsError::Read { path, source }),
        };
        let mut arguments = arguments.to_vec();
        let from_file = file_arguments(name, &path, &text, |id| given(id))?;
        // Behind the command's name, because a command of the command may follow.
        let place = arguments.iter().position(|argument| argument == name).map_or(arguments.len(), |at| at + 1);
        arguments.splice(place..place, from_file);
        let matches = command().try_get_matches_from(&arguments)?;
        let mut cli = Self::from_arg_matches(&matches)?;
        if let (Command::Server(options), Some((_, server))) = (&mut cli.command, matches.subcommand()) {
            options.flags = flags_of(name, server);
        }
        Ok(cli)
    }
}

/// The command line.
fn command() -> clap::Command {
    booleans::as_pflag(Cli::command())
}

/// Every flag of a command with its value, in order; secrets are not told.
fn flags_of(command_name: &str, matches: &clap::ArgMatches) -> Vec<(String, String)> {
    let command = command();
    let arguments = command.find_subcommand(command_name).into_iter().flat_map(clap::Command::get_arguments);
    let mut flags: Vec<(String, String)> = arguments
        .filter_map(|argument| {
            let name = argument.get_long().filter(|name| *name != "help")?;
            let values = matches.try_get_raw(argument.get_id().as_str()).ok()?;
            let values: Vec<String> = values.into_iter().flatten().map(|v| v.to_string_lossy().into_owned()).collect();
            let secret = ["token", "access-key", "secret-key"].iter().any(|word| name.ends_with(word));
            let value = if secret && !values.is_empty() { "CLASSIFIED".to_owned() } else { values.join(",") };
            Some((name.to_owned(), value))
        })
        .collect();
    flags.sort();
    flags
}

/// The flags that a configuration file stands for, without those that are `given` otherwise.
fn file_arguments(
    command_name: &str,
    path: &Path,
    text: &str,
    given: impl Fn(&str) -> bool,
) -> Result<Vec<String>, OptionsError> {
    use serde_json::Value;
    let invalid = |why: String| OptionsError::Invalid { path: path.to_owned(), why };
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    let settings: serde_json::Map<String, Value> = serde_saphyr::from_str(text)
        .map_err(|e| invalid(e.to_string().lines().next().unwrap_or_default().to_owned()))?;
    let command = command();
    let Some(server) = command.find_subcommand("server") else { return Ok(Vec::new()) };
    let Some(own) = command.find_subcommand(command_name) else { return Ok(Vec::new()) };
    let mut arguments = Vec::new();
    for (key, value) in settings {
        let Some(argument) = server.get_arguments().find(|a| a.get_long() == Some(key.as_str())) else {
            return Err(invalid(format!("unknown setting {key:?}")));
        };
        // Another command than the server takes from the server's file what it knows.
        if !own.get_arguments().any(|a| a.get_long() == Some(key.as_str())) {
            continue;
        }
        if given(argument.get_id().as_str()) {
            continue;
        }
        let is_flag = booleans::is_boolean(argument);
        let scalar = |value: &Value| match value {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            Value::Bool(yes) => Some(yes.to_string()),
            _ => None,
        };
        match &value {
            value if is_flag && !matches!(value, Value::Bool(_) | Value::String(_)) => {
                return Err(invalid(format!("{key} must be true or false")));
            }
            Value::Array(items) => {
                for item in items {
                    let item = scalar(item).ok_or_else(|| invalid(format!("{key} must be a list of plain values")))?;
                    arguments.push(format!("--{key}={item}"));
                }
            }
            value => {
                let value = scalar(value).ok_or_else(|| invalid(format!("{key} must be a plain value or a list")))?;
                arguments.push(format!("--{key}={value}"));
            }
        }
    }
    Ok(arguments)
}

fn parse_mode(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o777 => Ok(mode),
        _ => Err("must be an octal file mode such as 644".to_owned()),
    }
}

fn parse_port_range(text: &str) -> Result<(u16, u16), String> {
    let range = text.split_once('-').and_then(|(first, last)| Some((first.parse().ok()?, last.parse().ok()?)));
    match range {
        Some((first, last)) if 0 < first && first <= last => Ok((first, last)),
        _ => Err("must be two ports such as 30000-32767".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::strategy::Strategy;

    use super::*;

    #[test]
    fn components_take_a_kubeconfig_and_the_nodes_settings() {
        let parse = |line: &str| {
            let arguments: Vec<String> = line.split(' ').map(str::to_owned).collect();
            match Cli::load(&arguments).unwrap().command {
                Command::Component(command) => command,
                other => panic!("{other:?}"),
            }
        };
        let agent =
            "skiff component agent --kubeconfig k --tls-cert-file c --tls-private-key-file p --client-ca-file a";
        match parse(&format!("{agent} --node-name n --bridge b0")) {
            ComponentCommand::Agent(options) => assert_eq!(options.node.node_name.as_deref(), Some("n")),
            other => panic!("{other:?}"),
        }
        match parse("skiff component controllers --kubeconfig k --root-ca-file c --controllers *,-job-controller") {
            ComponentCommand::Controllers(options) => assert_eq!(options.controllers, ["*", "-job-controller"]),
            other => panic!("{other:?}"),
        }
    }

    fn load(arguments: &[&str], file: &str) -> Result<ServerOptions, OptionsError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.yaml");
        std::fs::write(&path, file).unwrap();
        let mut all = vec!["skiff".to_owned(), "server".to_owned(), format!("--config={}", path.display())];
        all.extend(arguments.iter().map(|a| (*a).to_owned()));
        match Cli::load(&all)?.command {
            Command::Server(options) => Ok(*options),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_file_sets_what_flags_do_not() {
        let file = "https-listen-port: 7443\nnode-name: from-file\ntls-san: [a, b]\ndisable-agent: true\n";
        let options = load(&["--node-name=from-flag"], file).unwrap();
        assert_eq!(options.https_listen_port, 7443);
        assert_eq!(options.node_name.as_deref(), Some("from-flag"));
        assert_eq!(options.tls_san, ["a", "b"]);
        assert!(options.disable_agent);
        assert!(!options.disable_scheduler);
    }

    #[test]
    fn flags_are_told_but_no_secrets() {
        let options = load(&["--token=abc", "--tls-san=a", "--tls-san=b"], "node-name: box\n").unwrap();
        let flag = |name: &str| options.flags.iter().find(|(flag, _)| flag == name).map(|(_, value)| value.as_str());
        assert_eq!(flag("token"), Some("CLASSIFIED"));
        assert_eq!(flag("tls-san"), Some("a,b"));
        assert_eq!(flag("node-name"), Some("box"));
        assert_eq!(flag("https-listen-port"), Some("6443"));
    }

    #[test]
    fn mistakes_in_the_file_are_named() {
        let why = |file: &str| load(&[], file).unwrap_err().to_string();
        assert!(why("nod-name: x").contains("unknown setting \"nod-name\""));
        assert!(why("disable-agent: 3").contains("disable-agent must be true or false"));
        assert!(why("node-name: {a: b}").contains("node-name must be a plain value or a list"));
        assert!(why("cluster-cidr: hello").contains("invalid value 'hello'"));
        assert!(why("a: [").contains("is not valid"));
    }

    #[test]
    fn ranges_and_modes_are_checked() {
        assert_eq!(parse_port_range("30000-32767"), Ok((30000, 32767)));
        assert!(parse_port_range("5-4").is_err());
        assert_eq!(parse_mode("644"), Ok(0o644));
        assert!(parse_mode("9").is_err());
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig {
            failure_persistence: None,
            ..proptest::prelude::ProptestConfig::default()
        })]
        #[test]
        fn no_configuration_file_panics(settings in proptest::collection::vec((
            proptest::sample::select(vec!["data-dir", "https-listen-port", "bind-address", "node-ip", "cluster-cidr", "service-node-port-range",
                "write-kubeconfig-mode", "disable", "kubelet-arg", "tls-san", "snapshot-schedule-cron", "audit-log-maxage", "request-timeout",
                "goaway-chance", "token", "&a", "<<", "x"]),
            proptest::prop_oneof![
                proptest::sample::select(vec!["true", "null", "[a, b]", "[[a]]", "{a: b}", "-1", "1e99", "0x10", "10.0.0.0/99", "::/0", "*a", "'", "1-2"])
                    .prop_map(str::to_owned),
                "[a-z0-9./:,=-]{0,16}".prop_map(|text| text),
            ],
        ), 0..5), any in "\\PC{0,60}") {
            let text: String = settings.iter().map(|(key, value)| format!("{key}: {value}\n")).collect();
            for text in [text, any] {
                if let Ok(mut arguments) = file_arguments("server", Path::new("x"), &text, |_| false) {
                    arguments.splice(0..0, ["skiff".to_owned(), "server".to_owned()]);
                    let _read = command().try_get_matches_from(&arguments).map(|m| Cli::from_arg_matches(&m).map(drop));
                }
            }
        }
    }
}
