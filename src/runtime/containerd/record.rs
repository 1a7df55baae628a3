//! What we keep about a container: what never changes goes into containerd, beside the container; its state goes into a
//! file of ours, because containerd forgets a task when it is deleted.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use jiff::Timestamp;
use parking_lot::Mutex;
use prost_types::Any;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::contract::{Container, ContainerId, ContainerStatus, Labels, SandboxId};
use crate::files;
use crate::logs::ContainerLog;

/// Label on every object of ours: whose it is, by the folder of its state. Several of us can use one containerd.
pub const INSTANCE_LABEL: &str = "io.skiff/instance";
/// Label on containers and their snapshots: the sandbox's id.
pub const SANDBOX_LABEL: &str = "io.skiff/sandbox";
/// Extension of a containerd container that holds [`Info`].
pub const EXTENSION: &str = "io.skiff.container";
const EXTENSION_TYPE: &str = "io.skiff/container/v1";

/// What is known at creation. Stored as JSON in containerd.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Info {
    pub id: String,
    pub sandbox: String,
    pub created: Timestamp,
    pub image: String,
    pub image_id: String,
    pub log_path: PathBuf,
    pub labels: Labels,
    pub annotations: Labels,
    pub user: (u32, u32, Vec<u32>),
    pub stdin: bool,
    pub stdin_once: bool,
    pub tty: bool,
    pub stop_signal: u32,
    pub cgroup: PathBuf,
}

impl Info {
    pub fn to_any(&self) -> Result<Any, serde_json::Error> {
        Ok(Any { type_url: EXTENSION_TYPE.into(), value: serde_json::to_vec(self)? })
    }

    /// `None` for something that is not ours.
    pub fn from_any(any: &Any) -> Option<Self> {
        (any.type_url == EXTENSION_TYPE).then(|| serde_json::from_slice(&any.value).ok())?
    }
}

/// How far a container is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    Created,
    Running { pid: u32, started: Timestamp },
    Exited { code: i32, oom_killed: bool, started: Option<Timestamp>, finished: Timestamp },
    Unknown,
}

impl State {
    pub fn is_running(&self) -> bool {
        matches!(self, Self::Running { .. })
    }

    /// The contract's form. containerd folds a signal into the code (128 + signal), and so does the CRI.
    pub fn status(&self) -> ContainerStatus {
        match *self {
            Self::Created => ContainerStatus::Created,
            Self::Running { pid, started } => ContainerStatus::Running { pid, started },
            Self::Exited { code, oom_killed, started, finished } => {
                ContainerStatus::Exited { code, signal: 0, oom_killed, started, finished }
            }
            Self::Unknown => ContainerStatus::Unknown,
        }
    }
}

/// One container in memory.
pub struct Entry {
    pub info: Info,
    /// Folder with the state file and the FIFOs.
    pub dir: PathBuf,
    state: watch::Sender<State>,
    /// Held by whoever changes the container: create, start, exit and remove exclude each other.
    pub changing: tokio::sync::Mutex<()>,
    pub io: Mutex<Option<Io>>,
    /// Bytes and inodes of the writable layer, and when they were counted.
    pub usage: Mutex<Option<(tokio::time::Instant, u64, u64)>>,
    oom: AtomicBool,
}

/// What reads a running container's output.
pub struct Io {
    pub log: Arc<ContainerLog>,
    pub pumps: tokio_util::task::TaskTracker,
    /// Ends the pumps when the pipes' writers do not.
    pub stop: base::Shutdown,
}

impl Entry {
    pub fn new(info: Info, dir: PathBuf, state: State) -> Arc<Self> {
        let (state, _) = watch::channel(state);
        Arc::new(Self {
            info,
            dir,
            state,
            changing: Default::default(),
            io: Default::default(),
            usage: Default::default(),
            oom: Default::default(),
        })
    }

    /// containerd reported that the kernel killed a process of the container for its memory limit. That event can come
    /// after the one that the container ended.
    pub fn note_oom(&self) {
        self.oom.store(true, Ordering::Relaxed);
        if let State::Exited { code, oom_killed: false, started, finished } = self.state() {
            self.set_state(State::Exited { code, oom_killed: true, started, finished });
        }
    }

    pub fn oom_seen(&self) -> bool {
        self.oom.load(Ordering::Relaxed)
    }

    pub fn id(&self) -> ContainerId {
        ContainerId(self.info.id.clone())
    }

    pub fn state(&self) -> State {
        self.state.borrow().clone()
    }

    pub fn watch(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    /// Sets the state in memory and on disk. When the disk fails the state still counts, until a restart.
    pub fn set_state(&self, state: State) {
        if let Err(error) = files::write_json(&state_path(&self.dir), &state) {
            tracing::error!(container = self.info.id, %error, "cannot keep a container's state");
        }
        self.state.send_replace(state);
    }

    pub fn load_state(dir: &Path) -> State {
        match files::read_json(&state_path(dir)) {
            Ok(Some(state)) => state,
            Ok(None) => State::Unknown,
            Err(error) => {
                tracing::error!(dir = %dir.display(), %error, "cannot read a container's state");
                State::Unknown
            }
        }
    }

    pub fn container(&self) -> Container {
        let info = &self.info;
        let groups = info.user.2.iter().map(|gid| i64::from(*gid)).collect();
        Container {
            id: self.id(),
            sandbox: SandboxId(info.sandbox.clone()),
            created: info.created,
            status: self.state().status(),
            image: info.image.clone(),
            image_id: info.image_id.clone(),
            log_path: info.log_path.clone(),
            labels: info.labels.clone(),
            annotations: info.annotations.clone(),
            user: Some((info.user.0.into(), info.user.1.into(), groups)),
        }
    }
}

fn state_path(dir: &Path) -> PathBuf {
    dir.join("state.json")
}
