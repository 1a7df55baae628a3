//! What the wiring tells the node agent.

pub mod flags;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Taint;

/// Settings of one node agent. Names follow upstream's `KubeletConfiguration` where it has them.
#[derive(Clone)]
pub struct KubeletConfig {
    pub node_name: String,
    /// Value of the node's `kubernetes.io/hostname` label and `Hostname` address.
    pub hostname: String,
    /// Addresses of this node, the primary first; one per family.
    pub node_ips: Vec<IpAddr>,
    /// Volumes and other files of pods, as `/var/lib/kubelet` is laid out.
    pub root_dir: PathBuf,
    /// Logs of pods, as `/var/log/pods` is laid out.
    pub log_dir: PathBuf,
    /// Where symbolic links to logs are made for log shippers (`/var/log/containers`); `None` makes none.
    pub container_log_dir: Option<PathBuf>,
    pub cluster_dns: Vec<IpAddr>,
    pub cluster_domain: String,
    /// The node's own resolver configuration, merged into pods' by `dnsPolicy`.
    pub resolv_conf: PathBuf,
    /// Address of the HTTPS server (10250).
    pub listen: SocketAddr,
    /// Serving certificate and client verification (client certificates optional); `None` starts no server.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// Authorities that client certificates of the HTTPS server are checked against.
    pub client_ca: Vec<rustls_pki_types::CertificateDer<'static>>,
    pub max_pods: u32,
    /// cgroup under which `kubepods` is made: empty, or an absolute path such as `/skiff`.
    pub cgroup_root: String,
    pub node_labels: BTreeMap<String, String>,
    pub register_with_taints: Vec<Taint>,
    /// Folder of static pods' manifests.
    pub static_pod_dir: Option<PathBuf>,
    /// Resources kept from pods (`kubeReserved` and `systemReserved` added), by resource name, as quantities.
    pub reserved: BTreeMap<String, String>,
    /// Hard eviction thresholds, by signal, as a quantity or a percentage.
    pub eviction_hard: BTreeMap<String, String>,
    /// Soft eviction thresholds, by signal; each needs a grace period.
    pub eviction_soft: BTreeMap<String, String>,
    /// How long a soft threshold has to be met before pods are ended, by signal.
    pub eviction_soft_grace_period: BTreeMap<String, Duration>,
    /// What has to be free beyond a threshold before pressure ends, by signal.
    pub eviction_minimum_reclaim: BTreeMap<String, String>,
    /// Most seconds that a pod ended for a soft threshold is given.
    pub eviction_max_pod_grace_period: i64,
    /// How long a pressure condition stays after it was last seen.
    pub eviction_pressure_transition_period: Duration,
    /// Sysctls outside the safe set that pods may set; a trailing `*` matches by prefix.
    pub allowed_unsafe_sysctls: Vec<String>,
    /// Reported as the kubelet's version, e.g. `v1.37.0`.
    pub version: String,
    pub provider_id: Option<String>,
    /// Bytes of a container's log before it is rotated.
    pub container_log_max_size: u64,
    /// Files kept of one container's log, the current one counted.
    pub container_log_max_files: usize,
    /// Percent of disk usage above which unused images are removed, and down to which.
    pub image_gc_high_percent: u32,
    pub image_gc_low_percent: u32,
    pub node_status_report: Duration,
    pub lease_duration: Duration,
    /// `seccompDefault`: pods without a profile run with the runtime's.
    pub seccomp_default: bool,
    /// Longest that the node waits for pods when it shuts down; zero: pods are left running.
    pub shutdown_grace: Duration,
    /// The part of it that is kept for critical pods.
    pub shutdown_grace_critical: Duration,
}

impl KubeletConfig {
    /// Upstream's defaults for a node of this name, address and folders.
    pub fn new(node_name: impl Into<String>, node_ip: IpAddr, root_dir: PathBuf, log_dir: PathBuf) -> Self {
        let node_name = node_name.into();
        Self {
            hostname: node_name.clone(),
            node_name,
            node_ips: vec![node_ip],
            root_dir,
            log_dir,
            container_log_dir: None,
            cluster_dns: Vec::new(),
            cluster_domain: "cluster.local".to_owned(),
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
            listen: SocketAddr::from(([0, 0, 0, 0], 10250)),
            tls: None,
            client_ca: Vec::new(),
            max_pods: 110,
            cgroup_root: String::new(),
            node_labels: BTreeMap::new(),
            register_with_taints: Vec::new(),
            static_pod_dir: None,
            reserved: BTreeMap::new(),
            eviction_hard: [("memory.available", "100Mi"), ("nodefs.available", "10%"), ("nodefs.inodesFree", "5%")]
                .into_iter()
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .collect(),
            eviction_soft: BTreeMap::new(),
            eviction_soft_grace_period: BTreeMap::new(),
            eviction_minimum_reclaim: BTreeMap::new(),
            eviction_max_pod_grace_period: 0,
            eviction_pressure_transition_period: Duration::from_secs(300),
            allowed_unsafe_sysctls: Vec::new(),
            version: "v1.37.0".to_owned(),
            provider_id: None,
            container_log_max_size: 10 << 20,
            container_log_max_files: 5,
            image_gc_high_percent: 85,
            image_gc_low_percent: 80,
            node_status_report: Duration::from_secs(300),
            lease_duration: Duration::from_secs(40),
            seccomp_default: false,
            shutdown_grace: Duration::ZERO,
            shutdown_grace_critical: Duration::ZERO,
        }
    }

    /// Folder of one pod's files.
    pub fn pod_dir(&self, uid: &str) -> PathBuf {
        self.root_dir.join("pods").join(uid)
    }

    /// Folder of one pod's logs (upstream `BuildPodLogsDirectory`).
    pub fn pod_log_dir(&self, namespace: &str, name: &str, uid: &str) -> PathBuf {
        self.log_dir.join(format!("{namespace}_{name}_{uid}"))
    }
}
