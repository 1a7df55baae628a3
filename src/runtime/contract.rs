//! The [`Runtime`] contract, kept by containerd and by the fake that the kubelet's tests use.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::pin::Pin;

use async_trait::async_trait;
use jiff::Timestamp;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot};

/// containerd's id of a container: 64 hexadecimal digits, never reused.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContainerId(pub String);

/// Id of a sandbox; the pod's uid.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SandboxId(pub String);

pub type Labels = BTreeMap<String, String>;

/// Namespaces that the containers of a pod share. Pinned by bind mounts, so that they outlive every process.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct SandboxSpec {
    /// The pod's uid.
    pub id: String,
    pub hostname: String,
    /// Also shares the host's UTS namespace, as in the CRI.
    pub host_network: bool,
    pub host_pid: bool,
    pub host_ipc: bool,
    /// A tiny init holds the pod's PID namespace.
    pub share_process_namespace: bool,
    /// cgroup path of the pod below the root, e.g. `/kubepods/burstable/pod<uid>`.
    pub cgroup_parent: String,
    /// Namespaced sysctls set in the new namespaces.
    pub sysctls: BTreeMap<String, String>,
    /// Which runtime runs the containers; empty: the default one.
    #[serde(default)]
    pub runtime_handler: String,
    /// Kept with the sandbox and given back by [`Runtime::sandboxes`].
    pub labels: Labels,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Sandbox {
    pub id: SandboxId,
    /// The pinned network namespace; `None` on the host's network.
    pub netns: Option<PathBuf>,
    pub created: Timestamp,
    pub spec: SandboxSpec,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Mount {
    pub host_path: PathBuf,
    pub container_path: String,
    pub read_only: bool,
    pub recursive_read_only: bool,
    pub propagation: Propagation,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Propagation {
    #[default]
    Private,
    HostToContainer,
    Bidirectional,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Device {
    pub host_path: PathBuf,
    pub container_path: String,
    /// cgroup permissions: a subset of `rwm`.
    pub permissions: String,
}

/// Limits as the kernel counts them; `None` leaves the kernel's default.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Resources {
    pub cpu_shares: Option<u64>,
    pub cpu_quota_us: Option<i64>,
    pub cpu_period_us: Option<u64>,
    pub memory_limit_bytes: Option<i64>,
    pub memory_swap_limit_bytes: Option<i64>,
    pub pids_limit: Option<i64>,
    pub cpuset_cpus: Option<String>,
    pub hugepages: BTreeMap<String, u64>,
    pub oom_score_adj: Option<i32>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Security {
    pub privileged: bool,
    /// `None`: the image's user.
    pub run_as_user: Option<i64>,
    pub run_as_group: Option<i64>,
    /// Name or `uid[:gid]` of the image, resolved against its passwd file, when `run_as_user` is `None`.
    pub run_as_username: Option<String>,
    pub supplemental_groups: Vec<i64>,
    /// Do not add the groups of the image's `/etc/group` (`supplementalGroupsPolicy: Strict`).
    pub strict_groups: bool,
    pub add_capabilities: Vec<String>,
    pub drop_capabilities: Vec<String>,
    pub read_only_rootfs: bool,
    pub no_new_privileges: bool,
    pub seccomp: Seccomp,
    /// `procMount: Unmasked`.
    pub unmasked_proc: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Seccomp {
    #[default]
    Unconfined,
    RuntimeDefault,
    /// A JSON profile on the node.
    Localhost(PathBuf),
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct ContainerSpec {
    pub sandbox: String,
    /// As [`Image::id`] names it.
    pub image: String,
    /// Empty: the image's entrypoint.
    pub command: Vec<String>,
    /// Empty with an empty `command`: the image's arguments.
    pub args: Vec<String>,
    /// Added to the image's environment, in order; a later one wins.
    pub env: Vec<(String, String)>,
    pub working_dir: Option<String>,
    /// The caller brings `/etc/hosts` and `/etc/resolv.conf`; `/etc/hostname` and `/dev/shm` are added when absent. A
    /// host path that does not exist is made as a folder.
    pub mounts: Vec<Mount>,
    pub devices: Vec<Device>,
    pub resources: Resources,
    pub security: Security,
    pub stdin: bool,
    pub stdin_once: bool,
    pub tty: bool,
    /// CRI-format log file; its folder exists.
    pub log_path: PathBuf,
    pub labels: Labels,
    pub annotations: Labels,
    pub stop_signal: Option<String>,
    /// Container whose PID namespace is joined (ephemeral containers with a target).
    pub pid_target: Option<ContainerId>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContainerStatus {
    Created,
    Running {
        pid: u32,
        started: Timestamp,
    },
    Exited {
        code: i32,
        signal: i32,
        oom_killed: bool,
        started: Option<Timestamp>,
        finished: Timestamp,
    },
    /// containerd knows the container but not how it ended.
    Unknown,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Container {
    pub id: ContainerId,
    pub sandbox: SandboxId,
    pub created: Timestamp,
    pub status: ContainerStatus,
    /// A tag of the image ([`Image::tags`]), or its digest when it has none: what a container's status calls `image`.
    pub image: String,
    /// One of [`Image::digests`], or [`Image::id`] when there is none: what a container's status calls `imageID`.
    pub image_id: String,
    pub log_path: PathBuf,
    pub labels: Labels,
    pub annotations: Labels,
    /// uid, gid and supplemental groups of the first process, when known.
    pub user: Option<(i64, i64, Vec<i64>)>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Image {
    /// `sha256:…` of the image's config.
    pub id: String,
    pub tags: Vec<String>,
    /// `name@sha256:…`.
    pub digests: Vec<String>,
    /// Bytes of the content.
    pub size: u64,
    /// The config's `User`: a number, or a name.
    pub user: String,
    /// Never removed by image collection.
    pub pinned: bool,
}

/// Credentials for one registry.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct RegistryAuth {
    pub username: String,
    pub password: String,
    pub identity_token: String,
}

impl std::fmt::Debug for RegistryAuth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RegistryAuth").field("username", &self.username).finish_non_exhaustive()
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RuntimeEvent {
    Started(ContainerId),
    Exited(ContainerId),
    OomKilled(ContainerId),
    /// Events may have been missed (the runtime went away and came back): look at everything.
    Resync,
}

pub type Reader = Pin<Box<dyn AsyncRead + Send>>;
pub type Writer = Pin<Box<dyn AsyncWrite + Send>>;

/// Streams of an exec or attach. With a TTY, stderr is absent.
pub struct Session {
    pub stdin: Option<Writer>,
    pub stdout: Option<Reader>,
    pub stderr: Option<Reader>,
    /// Columns and rows; bounded, the newest counts.
    pub resize: mpsc::Sender<(u16, u16)>,
    /// The exit code, once the process is gone. Dropped without a value when the runtime went away. Dropping it before that
    /// kills the process of an exec (a probe that timed out, a client that went away); an attached container is left alone.
    pub exit: oneshot::Receiver<i32>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecSpec {
    pub command: Vec<String>,
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub tty: bool,
}

/// Counters of one container, as its cgroup has them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContainerStats {
    pub timestamp_ns: i64,
    pub cpu_usage_ns: u64,
    pub memory_usage_bytes: u64,
    pub memory_working_set_bytes: u64,
    pub memory_rss_bytes: u64,
    pub page_faults: u64,
    pub major_page_faults: u64,
    pub pids: u64,
    pub rootfs_used_bytes: u64,
    pub rootfs_inodes: u64,
}

/// Why the runtime did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    #[error("no such {what}: {id}")]
    NotFound { what: &'static str, id: String },
    #[error("no runtime for {0:?} is configured")]
    NoHandler(String),
    #[error("{what} {id} already exists")]
    AlreadyExists { what: &'static str, id: String },
    #[error("invalid image reference {reference:?}: {why}")]
    InvalidReference { reference: String, why: String },
    #[error("failed to pull image {reference:?}: {why}")]
    Pull {
        reference: String,
        why: String,
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    /// The container's process could not be started (bad command, mount, user). The text goes into the pod's status.
    #[error("{0}")]
    Start(String),
    #[error("containerd does not answer at {0}: is it running?")]
    Unreachable(PathBuf, #[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("cannot {step} {id}")]
    Failed {
        step: &'static str,
        id: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// The node's container runtime.
#[async_trait]
pub trait Runtime: Send + Sync {
    /// Name and version, e.g. `("containerd", "v2.3.7")`.
    async fn version(&self) -> Result<(String, String), RuntimeError>;
    /// Bounded; on overflow the receiver gets [`RuntimeEvent::Resync`].
    fn events(&self) -> mpsc::Receiver<RuntimeEvent>;

    /// By tag, digest or id; [`RuntimeError::InvalidReference`] for what is none of them.
    async fn image(&self, reference: &str) -> Result<Option<Image>, RuntimeError>;
    async fn images(&self) -> Result<Vec<Image>, RuntimeError>;
    async fn pull_image(&self, reference: &str, auth: &[RegistryAuth]) -> Result<Image, RuntimeError>;
    /// OCI layouts and `docker save` archives; the names it now has.
    async fn import_images(&self, archive: &Path) -> Result<Vec<String>, RuntimeError>;
    async fn remove_image(&self, reference: &str) -> Result<(), RuntimeError>;

    /// Mounts an image's files (by [`Image::id`]) read-only at `target`. `key` names the mount: letters, digits, `-`.
    async fn mount_image(&self, key: &str, image: &str, target: &Path) -> Result<(), RuntimeError>;
    /// Undoes [`Runtime::mount_image`]. Idempotent.
    async fn unmount_image(&self, key: &str, target: &Path) -> Result<(), RuntimeError>;

    /// Makes and pins the namespaces, or finds them again.
    /// After a reboot the namespaces are new and [`Sandbox::created`] is later than before.
    async fn create_sandbox(&self, spec: &SandboxSpec) -> Result<Sandbox, RuntimeError>;
    /// Unpins; its containers must be gone. Idempotent.
    async fn remove_sandbox(&self, id: &SandboxId) -> Result<(), RuntimeError>;
    async fn sandboxes(&self) -> Result<Vec<Sandbox>, RuntimeError>;

    async fn create_container(&self, spec: &ContainerSpec) -> Result<ContainerId, RuntimeError>;
    async fn start_container(&self, id: &ContainerId) -> Result<(), RuntimeError>;
    /// Sends the stop signal, waits for `grace`, then kills. Returns when it is gone.
    async fn stop_container(&self, id: &ContainerId, grace: std::time::Duration) -> Result<(), RuntimeError>;
    /// Removes a container that does not run, with its root file system. Idempotent. The log stays.
    async fn remove_container(&self, id: &ContainerId) -> Result<(), RuntimeError>;
    /// Every container of ours, in any state.
    async fn containers(&self) -> Result<Vec<Container>, RuntimeError>;
    async fn container(&self, id: &ContainerId) -> Result<Option<Container>, RuntimeError>;
    async fn update_resources(&self, id: &ContainerId, resources: &Resources) -> Result<(), RuntimeError>;
    async fn stats(&self, id: &ContainerId) -> Result<ContainerStats, RuntimeError>;

    async fn exec(&self, id: &ContainerId, spec: &ExecSpec) -> Result<Session, RuntimeError>;
    async fn attach(&self, id: &ContainerId) -> Result<Session, RuntimeError>;
    /// Starts a new log file under the container's log path (after the old one was renamed).
    async fn reopen_log(&self, id: &ContainerId) -> Result<(), RuntimeError>;
}
