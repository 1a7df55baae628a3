//! The runtime over containerd's own gRPC API, version 1.6 and later.
//!
//! Invariants: every object of ours in containerd carries a label; what must survive our restart is in containerd, in
//! a state file or in the kernel, and [`ContainerdRuntime::connect`] reads it back; containers are never touched by our
//! coming or going.

pub mod child;
pub mod connection;
pub mod handlers;
mod image_mounts;
mod lifecycle;
mod record;
mod streams;
mod watch;

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use base::{SharedClock, Shutdown};
use containerd_client::services::v1 as services;
use containerd_client::services::v1::snapshots as snapshot_services;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use parking_lot::{Mutex, RwLock};
use prost::Message;
use prost_types::Any;
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

use crate::contract::*;
use crate::events::EventHub;
use crate::images::pull::RegistryConfig;
use crate::images::store::{ImageStore, sha256};
use crate::sandbox::SandboxStore;
use crate::{cgroup, init, spec};
use connection::{Connection, SNAPSHOTTER};
use lifecycle::failed;
use record::Entry;

/// How long the size of a writable layer counts as fresh: containerd walks the layer to find it.
const USAGE_FRESH: Duration = Duration::from_secs(30);

/// How the runtime is set up, beside where it is.
pub struct Options {
    pub clock: SharedClock,
    /// How this binary is run as a pod's init, see [`crate::init`].
    pub init_command: Vec<String>,
    /// The OCI runtime that the shim runs; `None`: `runc` of the shim's PATH.
    pub runc: Option<PathBuf>,
    pub registries: RegistryConfig,
    /// Where what may be large goes: volumes that images declare, archives being unpacked. `None`: beside the state,
    /// which may be in memory.
    pub data_dir: Option<PathBuf>,
}

impl Options {
    /// The machine's clock, this binary as init, runc, and no registry settings.
    pub fn new() -> Self {
        Self {
            clock: Arc::new(base::SystemClock),
            init_command: vec!["/proc/self/exe".into(), init::COMMAND.into()],
            runc: None,
            registries: RegistryConfig::default(),
            data_dir: None,
        }
    }
}

impl Default for Options {
    fn default() -> Self {
        Self::new()
    }
}

/// containerd as a [`Runtime`].
pub struct ContainerdRuntime {
    connection: Connection,
    socket: PathBuf,
    state_dir: PathBuf,
    data_dir: PathBuf,
    /// Tells our objects from those of others that use the same containerd.
    instance: String,
    /// Held as long as we are: two of us on one state would read each other's pipes empty.
    lock: Mutex<Option<Flock<File>>>,
    clock: SharedClock,
    sandboxes: Arc<SandboxStore>,
    images: ImageStore,
    registries: RegistryConfig,
    runc: Option<PathBuf>,
    containers: RwLock<HashMap<ContainerId, Arc<Entry>>>,
    hub: EventHub,
    shutdown: Shutdown,
    tasks: TaskTracker,
}

/// The shim's options, which containerd's crate does not have (`api/types/runc/options/oci.proto`).
#[derive(Clone, PartialEq, Message)]
struct RuncOptions {
    #[prost(string, tag = "6")]
    binary_name: String,
}

impl ContainerdRuntime {
    /// Connects to the containerd that listens on `socket`, and takes over the containers that `state_dir` and containerd
    /// know from before. `state_dir` must survive restarts. Tasks end with `shutdown`; containers do not.
    pub async fn connect(
        socket: PathBuf,
        state_dir: PathBuf,
        options: Options,
        shutdown: Shutdown,
    ) -> Result<Arc<Self>, RuntimeError> {
        let at_dir = |error: std::io::Error| failed("make the folder", &state_dir.display().to_string(), error);
        let state_dir = std::path::absolute(&state_dir).map_err(at_dir)?;
        std::fs::create_dir_all(&state_dir).map_err(at_dir)?;
        let lock = File::create(state_dir.join("lock")).map_err(at_dir)?;
        let lock = Flock::lock(lock, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
            Errno::EWOULDBLOCK => {
                failed("use the state in", &state_dir.display().to_string(), "another process uses it")
            }
            other => at_dir(other.into()),
        })?;
        let data_dir = options.data_dir.unwrap_or_else(|| state_dir.clone());
        // Execs do not outlive us as far as we can serve them: their pipes are of no more use.
        crate::files::remove_dir_all(&state_dir.join("exec")).map_err(at_dir)?;
        for name in ["containers", "exec"] {
            std::fs::create_dir_all(state_dir.join(name)).map_err(at_dir)?;
        }
        let sandboxes = SandboxStore::new(state_dir.join("sandboxes"), options.clock.clone(), options.init_command);
        let sandboxes =
            sandboxes.map_err(|error| failed("keep sandboxes in", &state_dir.display().to_string(), error))?;
        let connection = Connection::new(&socket);
        let runtime = Arc::new(Self {
            images: ImageStore::new(connection.clone(), options.clock.clone()),
            connection,
            socket,
            instance: sha256(state_dir.as_os_str().as_encoded_bytes())["sha256:".len()..][..16].to_owned(),
            state_dir,
            data_dir,
            lock: Mutex::new(Some(lock)),
            clock: options.clock,
            sandboxes: Arc::new(sandboxes),
            registries: options.registries,
            runc: options.runc,
            containers: RwLock::default(),
            hub: EventHub::default(),
            shutdown,
            tasks: TaskTracker::new(),
        });
        let (name, version) = runtime.ask_version().await?;
        tracing::info!(name, version, socket = %runtime.socket.display(), "connected to the container runtime");
        runtime.load().await?;
        runtime.reconcile().await?;
        runtime.tasks.spawn(runtime.clone().watch());
        Ok(runtime)
    }

    /// Waits, after shutdown, until every task has ended and all output read so far is in the logs.
    pub async fn stopped(&self) {
        let pumps: Vec<_> = {
            let containers = self.containers.read();
            containers.values().filter_map(|entry| entry.io.lock().as_ref().map(|io| io.pumps.clone())).collect()
        };
        for pump in pumps {
            pump.wait().await;
        }
        self.release();
    }

    /// What runs the containers of a sandbox, as containerd takes it.
    fn runtime_of(&self, handler: &str) -> Result<services::container::Runtime, RuntimeError> {
        let found = handlers::find(handler).ok_or_else(|| RuntimeError::NoHandler(handler.to_owned()))?;
        let binary = found.binary.or_else(|| self.runc.clone()).filter(|_| found.shim == handlers::RUNC_SHIM);
        let options = binary.map(|binary| Any {
            type_url: "containerd.runc.v1.Options".into(),
            value: RuncOptions { binary_name: binary.to_string_lossy().into_owned() }.encode_to_vec(),
        });
        Ok(services::container::Runtime { name: found.shim, options })
    }

    /// Gives up the state, so that another runtime can take it over. Only after shutdown.
    pub fn release(&self) {
        drop(self.lock.lock().take());
    }

    async fn usage(&self, entry: &Entry) -> (u64, u64) {
        if let Some((counted, bytes, inodes)) = *entry.usage.lock()
            && counted.elapsed() < USAGE_FRESH
        {
            return (bytes, inodes);
        }
        let request = snapshot_services::UsageRequest { snapshotter: SNAPSHOTTER.into(), key: entry.info.id.clone() };
        let (bytes, inodes) = match self.connection.snapshots().usage(request).await {
            Ok(usage) => {
                let usage = usage.into_inner();
                (u64::try_from(usage.size).unwrap_or(0), u64::try_from(usage.inodes).unwrap_or(0))
            }
            Err(status) => {
                tracing::debug!(container = entry.info.id, error = status.message(), "cannot count a writable layer");
                return (0, 0);
            }
        };
        *entry.usage.lock() = Some((tokio::time::Instant::now(), bytes, inodes));
        (bytes, inodes)
    }
}

/// Runs blocking work on the pool for it; a panic there is an error here.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> std::io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(std::io::Error::other)?
}

#[async_trait]
impl Runtime for ContainerdRuntime {
    async fn version(&self) -> Result<(String, String), RuntimeError> {
        self.ask_version().await
    }

    fn events(&self) -> mpsc::Receiver<RuntimeEvent> {
        self.hub.subscribe()
    }

    async fn image(&self, reference: &str) -> Result<Option<Image>, RuntimeError> {
        self.images.image(reference).await
    }

    async fn images(&self) -> Result<Vec<Image>, RuntimeError> {
        self.images.images().await
    }

    async fn pull_image(&self, reference: &str, auth: &[RegistryAuth]) -> Result<Image, RuntimeError> {
        self.images.pull(reference, auth, &self.registries).await
    }

    async fn import_images(&self, archive: &Path) -> Result<Vec<String>, RuntimeError> {
        self.images.import(archive, &self.data_dir.join("scratch")).await
    }

    async fn remove_image(&self, reference: &str) -> Result<(), RuntimeError> {
        self.images.remove(reference).await
    }

    async fn mount_image(&self, key: &str, image: &str, target: &Path) -> Result<(), RuntimeError> {
        self.mount_image_at(key, image, target).await
    }

    async fn unmount_image(&self, key: &str, target: &Path) -> Result<(), RuntimeError> {
        self.unmount_image_at(key, target).await
    }

    async fn create_sandbox(&self, wanted: &SandboxSpec) -> Result<Sandbox, RuntimeError> {
        if handlers::find(&wanted.runtime_handler).is_none() {
            return Err(RuntimeError::NoHandler(wanted.runtime_handler.clone()));
        }
        let (store, spec) = (self.sandboxes.clone(), wanted.clone());
        let made = blocking(move || Ok(store.create(&spec))).await;
        let made = made.map_err(|error| failed("create sandbox", &wanted.id, error))?;
        made.map_err(|error| failed("create sandbox", &wanted.id, error))
    }

    async fn remove_sandbox(&self, id: &SandboxId) -> Result<(), RuntimeError> {
        if self.containers.read().values().any(|entry| entry.info.sandbox == id.0) {
            return Err(failed("remove sandbox", &id.0, "it still has containers"));
        }
        let (store, sandbox) = (self.sandboxes.clone(), id.clone());
        let removed = blocking(move || Ok(store.remove(&sandbox))).await;
        let removed = removed.map_err(|error| failed("remove sandbox", &id.0, error))?;
        removed.map_err(|error| failed("remove sandbox", &id.0, error))
    }

    async fn sandboxes(&self) -> Result<Vec<Sandbox>, RuntimeError> {
        let store = self.sandboxes.clone();
        let listed = blocking(move || Ok(store.list())).await;
        let listed = listed.map_err(|error| failed("list", "sandboxes", error))?;
        listed.map_err(|error| failed("list", "sandboxes", error))
    }

    async fn create_container(&self, spec: &ContainerSpec) -> Result<ContainerId, RuntimeError> {
        self.create(spec).await
    }

    async fn start_container(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        self.start(id).await
    }

    async fn stop_container(&self, id: &ContainerId, grace: Duration) -> Result<(), RuntimeError> {
        self.stop(id, grace).await
    }

    async fn remove_container(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        self.remove(id).await
    }

    async fn containers(&self) -> Result<Vec<Container>, RuntimeError> {
        Ok(self.containers.read().values().map(|entry| entry.container()).collect())
    }

    async fn container(&self, id: &ContainerId) -> Result<Option<Container>, RuntimeError> {
        Ok(self.containers.read().get(id).map(|entry| entry.container()))
    }

    async fn update_resources(&self, id: &ContainerId, resources: &Resources) -> Result<(), RuntimeError> {
        let entry = self.entry(id)?;
        let _changing = entry.changing.lock().await;
        if !entry.state().is_running() {
            return Err(failed("update the resources of", &id.0, "container is not running"));
        }
        let resources = spec::resources(resources).map_err(|error| failed("update the resources of", &id.0, error))?;
        let value = serde_json::to_vec(&resources).map_err(|error| failed("update the resources of", &id.0, error))?;
        let request = services::UpdateTaskRequest {
            container_id: id.0.clone(),
            resources: Some(Any { type_url: spec::RESOURCES_TYPE_URL.into(), value }),
            ..Default::default()
        };
        let updated = self.connection.tasks().update(request).await;
        updated.map_err(|status| self.connection.failed("update the resources of", &id.0, status))?;
        Ok(())
    }

    async fn stats(&self, id: &ContainerId) -> Result<ContainerStats, RuntimeError> {
        let entry = self.entry(id)?;
        if !entry.state().is_running() {
            return Err(failed("read the counters of", &id.0, "container is not running"));
        }
        let path = entry.info.cgroup.clone();
        let counters = blocking(move || cgroup::stats(&path)).await;
        let mut stats = counters.map_err(|error| failed("read the counters of", &id.0, error))?;
        stats.timestamp_ns = i64::try_from(self.clock.now().as_nanosecond()).unwrap_or(i64::MAX);
        (stats.rootfs_used_bytes, stats.rootfs_inodes) = self.usage(&entry).await;
        Ok(stats)
    }

    async fn exec(&self, id: &ContainerId, spec: &ExecSpec) -> Result<Session, RuntimeError> {
        self.start_exec(id, spec).await
    }

    async fn attach(&self, id: &ContainerId) -> Result<Session, RuntimeError> {
        self.start_attach(id).await
    }

    async fn reopen_log(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        let entry = self.entry(id)?;
        let log = entry.io.lock().as_ref().map(|io| io.log.clone());
        match log {
            Some(log) => log.reopen().map_err(|error| failed("reopen the log of", &id.0, error)),
            None => Err(failed("reopen the log of", &id.0, "container is not running")),
        }
    }
}
