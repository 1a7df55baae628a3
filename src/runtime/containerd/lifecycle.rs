//! Creating, starting, stopping and removing containers.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use containerd_client::services::v1 as services;
use containerd_client::services::v1::snapshots as snapshot_services;
use containerd_client::types;
use jiff::Timestamp;
use nix::mount::{MntFlags, mount, umount2};
use nix::sys::stat::Mode;
use prost_types::Any;
use tokio::net::unix::pipe;

use super::connection::{CallError, SNAPSHOTTER, is_not_found};
use super::image_mounts::mount_options;
use super::record::{EXTENSION, Entry, INSTANCE_LABEL, Info, Io, SANDBOX_LABEL, State};
use super::{ContainerdRuntime, blocking};
use crate::contract::*;
use crate::images::store::StoredImage;
use crate::images::volumes;
use crate::logs::{self, ContainerLog, Stream};
use crate::spec::{self, user};
use crate::{cgroup, files};

/// A snapshot with this label is not collected as garbage. It is removed with its container.
pub(super) const GC_ROOT_LABEL: &str = "containerd.io/gc.root";
/// Exit code of a container that could not be started, and of one that nobody saw end, as in containerd's CRI.
const CODE_START_FAILED: i32 = 128;
pub(super) const CODE_UNKNOWN: i32 = 255;
/// How long a killed container may take to be gone: uninterruptible I/O does not end at once.
const KILL_PATIENCE: Duration = Duration::from_secs(120);
/// How long the end of a container's output is waited for.
const DRAIN_PATIENCE: Duration = Duration::from_secs(5);
const SIGKILL: u32 = 9;

impl ContainerdRuntime {
    pub(super) async fn create(&self, spec: &ContainerSpec) -> Result<ContainerId, RuntimeError> {
        let sandbox =
            self.sandboxes.get(&spec.sandbox).map_err(|error| failed("find sandbox", &spec.sandbox, error))?;
        let (sandbox, paths) =
            sandbox.ok_or_else(|| RuntimeError::NotFound { what: "sandbox", id: spec.sandbox.clone() })?;
        let image = self.images.find(&spec.image).await?;
        let image = image.ok_or_else(|| RuntimeError::NotFound { what: "image", id: spec.image.clone() })?;
        let id = format!("{}{}", uuid::Uuid::new_v4().simple(), uuid::Uuid::new_v4().simple());
        let (image_name, image_digest) = self.image_names(&image).await?;
        let config = image.config.config.clone().unwrap_or_default();
        let stop_signal = spec.stop_signal.as_deref().or(config.stop_signal.as_deref()).filter(|name| !name.is_empty());
        let stop_signal = spec::signal_number(stop_signal.unwrap_or("SIGTERM")).map_err(start_error)?;
        let pid_target = match &spec.pid_target {
            Some(target) => Some(self.pid_namespace_of(target)?),
            None => None,
        };
        let dir = self.container_dir(&id);
        std::fs::create_dir_all(&dir).map_err(|error| failed("make the folder of container", &id, error))?;
        let made = async {
            let mounts = self.prepare_snapshot(&id, &spec.sandbox, &image).await?;
            let rootfs = dir.join("rootfs");
            let taken: Vec<String> = spec.mounts.iter().map(|mount| mount.container_path.clone()).collect();
            let volumes =
                volumes::plan(config.volumes.iter().flat_map(|all| all.keys()), &taken, &self.volumes_dir(&id));
            let accounts = blocking({
                let (rootfs, volumes) = (rootfs.clone(), volumes.clone());
                move || read_rootfs(&rootfs, &mounts, &volumes)
            });
            let accounts = accounts.await.map_err(|error| failed("read the root file system of", &id, error))?;
            let mut spec = spec.clone();
            spec.mounts.extend(volumes.into_iter().map(|volume| Mount {
                host_path: volume.host_path,
                container_path: volume.container_path,
                ..Default::default()
            }));
            let spec = &spec;
            let image_user = config.user.as_deref().unwrap_or_default();
            let user = user::resolve(&spec.security, image_user, &accounts).map_err(start_error)?;
            let input = spec::Input {
                id: &id,
                container: spec,
                sandbox: &sandbox.spec,
                paths: &paths,
                image: &config,
                user: user.clone(),
                pid_target,
            };
            let oci = spec::build(&input).map_err(start_error)?;
            let info = Info {
                id: id.clone(),
                sandbox: spec.sandbox.clone(),
                created: self.clock.now(),
                image: image_name,
                image_id: image_digest,
                log_path: spec.log_path.clone(),
                labels: spec.labels.clone(),
                annotations: spec.annotations.clone(),
                user: (user.uid, user.gid, user.additional_gids),
                stdin: spec.stdin,
                stdin_once: spec.stdin_once,
                tty: spec.tty,
                stop_signal,
                cgroup: spec::cgroup_path(&sandbox.spec, &id),
            };
            self.create_in_containerd(&info, &image, (&oci, &sandbox.spec.runtime_handler)).await?;
            Ok(info)
        };
        match made.await {
            Ok(info) => {
                let entry = Entry::new(info, dir, State::Created);
                entry.set_state(State::Created);
                self.containers.write().insert(entry.id(), entry);
                Ok(ContainerId(id))
            }
            Err(error) => {
                self.remove_leftovers(&id).await;
                Err(error)
            }
        }
    }

    /// What a container's status calls its image: a tag and a digest, or what there is (containerd's
    /// `internal/cri/server/container_status.go`).
    async fn image_names(&self, image: &StoredImage) -> Result<(String, String), RuntimeError> {
        let known = self.images.image(&image.id).await?.unwrap_or_default();
        let digest = known.digests.first();
        let name = known.tags.first().or(digest).cloned();
        Ok((name.unwrap_or_else(|| image.name.clone()), digest.cloned().unwrap_or_else(|| image.id.clone())))
    }

    async fn create_in_containerd(
        &self,
        info: &Info,
        image: &StoredImage,
        (oci, handler): (&spec::oci::Spec, &str),
    ) -> Result<(), RuntimeError> {
        let encode = |error: serde_json::Error| failed("encode container", &info.id, error);
        let container = services::Container {
            id: info.id.clone(),
            labels: self.labels(&info.sandbox),
            image: image.name.clone(),
            runtime: Some(self.runtime_of(handler)?),
            spec: Some(Any { type_url: spec::SPEC_TYPE_URL.into(), value: serde_json::to_vec(oci).map_err(encode)? }),
            snapshotter: SNAPSHOTTER.into(),
            snapshot_key: info.id.clone(),
            extensions: [(EXTENSION.to_owned(), info.to_any().map_err(encode)?)].into(),
            ..Default::default()
        };
        let request = services::CreateContainerRequest { container: Some(container) };
        let created = self.connection.containers().create(request).await;
        created.map_err(|status| self.connection.failed("create container", &info.id, status))?;
        Ok(())
    }

    async fn prepare_snapshot(
        &self,
        id: &str,
        sandbox: &str,
        image: &StoredImage,
    ) -> Result<Vec<types::Mount>, RuntimeError> {
        let mut labels = self.labels(sandbox);
        labels.insert(GC_ROOT_LABEL.into(), self.clock.now().to_string());
        let request = snapshot_services::PrepareSnapshotRequest {
            snapshotter: SNAPSHOTTER.into(),
            key: id.into(),
            parent: image.chain_id.clone(),
            labels,
        };
        let prepared = match self.connection.snapshots().prepare(request.clone()).await {
            Err(status) if is_not_found(&status) => {
                // The image was imported by somebody else, or its snapshots were removed.
                self.images.unpack(image).await?;
                self.connection.snapshots().prepare(request).await
            }
            other => other,
        };
        let prepared = prepared.map_err(|status| self.connection.failed("prepare a snapshot for", id, status))?;
        Ok(prepared.into_inner().mounts)
    }

    pub(super) fn labels(&self, sandbox: &str) -> HashMap<String, String> {
        [(INSTANCE_LABEL, self.instance.as_str()), (SANDBOX_LABEL, sandbox)]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into()
    }

    fn pid_namespace_of(&self, target: &ContainerId) -> Result<PathBuf, RuntimeError> {
        match self.entry(target)?.state() {
            State::Running { pid, .. } => Ok(PathBuf::from(format!("/proc/{pid}/ns/pid"))),
            _ => Err(RuntimeError::Start(format!("invalid target container: container {:?} is not running", target.0))),
        }
    }

    /// Removes what a failed creation may have left. Failures are only logged: the sweep at the next start repeats it.
    async fn remove_leftovers(&self, id: &str) {
        if let Err(error) = self.remove_from_containerd(id).await {
            tracing::warn!(container = id, error = %base::chain(&error), "cannot remove a half-made container");
        }
        for dir in [self.container_dir(id), self.volumes_dir(id)] {
            if let Err(error) = files::remove_dir_all(&dir) {
                tracing::warn!(container = id, %error, "cannot remove a half-made container's folder");
            }
        }
    }

    async fn remove_from_containerd(&self, id: &str) -> Result<(), RuntimeError> {
        let request = services::DeleteContainerRequest { id: id.into() };
        match self.connection.containers().delete(request).await {
            Err(status) if !is_not_found(&status) => {
                return Err(self.connection.failed("delete container", id, status));
            }
            _ => {}
        }
        self.remove_snapshot(id).await
    }

    pub(super) async fn remove_snapshot(&self, key: &str) -> Result<(), RuntimeError> {
        let request = snapshot_services::RemoveSnapshotRequest { snapshotter: SNAPSHOTTER.into(), key: key.into() };
        match self.connection.snapshots().remove(request).await {
            Err(status) if !is_not_found(&status) => Err(self.connection.failed("remove snapshot", key, status)),
            _ => Ok(()),
        }
    }

    pub(super) async fn start(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        let entry = self.entry(id)?;
        let _changing = entry.changing.lock().await;
        if entry.state() != State::Created {
            return Err(failed("start container", &id.0, "it was started before"));
        }
        match self.start_task(&entry).await {
            Ok(pid) => {
                entry.set_state(State::Running { pid, started: self.clock.now() });
                self.hub.publish(&RuntimeEvent::Started(id.clone()));
                Ok(())
            }
            // Nothing was tried: the container can be started later.
            Err(error @ RuntimeError::Unreachable(..)) => {
                self.close_io(&entry).await;
                Err(error)
            }
            Err(error) => {
                self.close_io(&entry).await;
                entry.set_state(State::Exited {
                    code: CODE_START_FAILED,
                    oom_killed: false,
                    started: None,
                    finished: self.clock.now(),
                });
                Err(error)
            }
        }
    }

    async fn start_task(&self, entry: &Arc<Entry>) -> Result<u32, RuntimeError> {
        let id = &entry.info.id;
        let request = snapshot_services::MountsRequest { snapshotter: SNAPSHOTTER.into(), key: id.clone() };
        let mounts = self.connection.snapshots().mounts(request).await;
        let rootfs =
            mounts.map_err(|status| self.connection.failed("mount the root of", id, status))?.into_inner().mounts;
        make_fifos(entry).map_err(|error| failed("make the pipes of container", id, error))?;
        self.open_io(entry, false).map_err(|error| failed("open the log of container", id, error))?;
        let fifo = |name: &str, wanted: bool| if wanted { path_text(&entry.dir.join(name)) } else { String::new() };
        let request = services::CreateTaskRequest {
            container_id: id.clone(),
            rootfs,
            stdin: fifo("stdin", entry.info.stdin),
            stdout: fifo("stdout", true),
            stderr: fifo("stderr", !entry.info.tty),
            terminal: entry.info.tty,
            ..Default::default()
        };
        let created = self.connection.tasks().create(request).await;
        created.map_err(|status| self.start_failed("failed to create containerd task", status))?;
        let request = services::StartRequest { container_id: id.clone(), exec_id: String::new() };
        match self.connection.tasks().start(request).await {
            Ok(started) => Ok(started.into_inner().pid),
            Err(status) => {
                self.discard_task(id).await;
                Err(self.start_failed(&format!("failed to start containerd task {id:?}"), status))
            }
        }
    }

    /// The text that containerd's CRI gives the kubelet for it.
    pub(super) fn start_failed(&self, what: &str, status: tonic::Status) -> RuntimeError {
        match self.connection.failed("start container", "", status) {
            RuntimeError::Failed { source, .. } => RuntimeError::Start(format!("{what}: {source}")),
            other => other,
        }
    }

    /// Kills and deletes a task that must not be.
    pub(super) async fn discard_task(&self, id: &str) {
        let kill = services::KillRequest { container_id: id.into(), signal: SIGKILL, ..Default::default() };
        // A process that is gone already is what is wanted.
        let _ = self.connection.tasks().kill(kill).await;
        let wait = services::WaitRequest { container_id: id.into(), exec_id: String::new() };
        let _ = tokio::time::timeout(DRAIN_PATIENCE, self.connection.tasks().wait(wait)).await;
        let delete = services::DeleteTaskRequest { container_id: id.into() };
        if let Err(status) = self.connection.tasks().delete(delete).await
            && !is_not_found(&status)
        {
            tracing::warn!(container = id, error = %CallError::from(status), "cannot delete a task");
        }
    }

    /// Opens the log and reads the FIFOs into it, at the start or again after a restart.
    pub(super) fn open_io(&self, entry: &Arc<Entry>, adopted: bool) -> std::io::Result<()> {
        let log = ContainerLog::open(&entry.info.log_path, self.clock.clone())?;
        let pumps = tokio_util::task::TaskTracker::new();
        let stop = self.shutdown.child_token();
        for (stream, name) in [(Stream::Stdout, "stdout"), (Stream::Stderr, "stderr")] {
            if stream == Stream::Stderr && entry.info.tty {
                continue;
            }
            let fifo = pipe::OpenOptions::new().open_receiver(entry.dir.join(name))?;
            pumps.spawn(logs::pump(log.clone(), stream, fifo, stop.clone(), adopted));
        }
        pumps.close();
        *entry.io.lock() = Some(Io { log, pumps, stop });
        Ok(())
    }

    /// Waits until all output is in the log, and closes it.
    async fn close_io(&self, entry: &Arc<Entry>) {
        let Some(io) = entry.io.lock().take() else { return };
        if matches!(entry.state(), State::Created)
            || tokio::time::timeout(DRAIN_PATIENCE, io.pumps.wait()).await.is_err()
        {
            // Nobody wrote yet, or a process that left the container holds the pipe.
            io.stop.cancel();
            io.pumps.wait().await;
        }
    }

    /// The first process of a container is gone: notes how, deletes the task, and tells.
    pub(super) async fn finish(&self, entry: &Arc<Entry>, seen: Option<(u32, Timestamp)>) {
        let _changing = entry.changing.lock().await;
        let State::Running { started, .. } = entry.state() else { return };
        let id = &entry.info.id;
        let killed = cgroup::oom_kills(&entry.info.cgroup).unwrap_or(0) > 0;
        let delete = services::DeleteTaskRequest { container_id: id.clone() };
        let ended = match self.connection.tasks().delete(delete).await {
            Ok(deleted) => {
                let deleted = deleted.into_inner();
                Some((deleted.exit_status, self.time(deleted.exited_at)))
            }
            Err(status) => {
                if !is_not_found(&status) {
                    tracing::warn!(container = id, error = %CallError::from(status), "cannot delete a task that ended");
                }
                seen
            }
        };
        let (code, finished) = ended.map_or_else(
            || (CODE_UNKNOWN, self.clock.now()),
            |(code, finished)| (i32::try_from(code).unwrap_or(CODE_UNKNOWN), finished),
        );
        self.close_io(entry).await;
        let oom_killed = killed || entry.oom_seen();
        // A process can end before the reply that says it started: time must not run backwards.
        let finished = finished.max(started);
        entry.set_state(State::Exited { code, oom_killed, started: Some(started), finished });
        self.hub.publish(&RuntimeEvent::Exited(entry.id()));
    }

    pub(super) async fn stop(&self, id: &ContainerId, grace: Duration) -> Result<(), RuntimeError> {
        let entry = self.entry(id)?;
        let mut state = entry.watch();
        if entry.state() == State::Unknown {
            let _changing = entry.changing.lock().await;
            self.discard_task(&id.0).await;
            entry.set_state(State::Exited {
                code: CODE_UNKNOWN,
                oom_killed: false,
                started: None,
                finished: self.clock.now(),
            });
            return Ok(());
        }
        if !entry.state().is_running() {
            return Ok(());
        }
        if !grace.is_zero() {
            self.kill(&entry.info.id, entry.info.stop_signal).await?;
            let gone = state.wait_for(|state| !state.is_running());
            if tokio::time::timeout(grace, gone).await.is_ok() {
                return Ok(());
            }
        }
        self.kill(&entry.info.id, SIGKILL).await?;
        let gone = state.wait_for(|state| !state.is_running());
        match tokio::time::timeout(KILL_PATIENCE, gone).await {
            Ok(_) => Ok(()),
            Err(_) => Err(failed("stop container", &id.0, "it was killed but is not gone")),
        }
    }

    async fn kill(&self, id: &str, signal: u32) -> Result<(), RuntimeError> {
        let request = services::KillRequest { container_id: id.into(), signal, ..Default::default() };
        match self.connection.tasks().kill(request).await {
            Ok(_) => Ok(()),
            Err(status) if is_not_found(&status) => {
                // It ended just now, or containerd lost it: whichever, it does not run.
                if let Ok(entry) = self.entry(&ContainerId(id.into())) {
                    self.finish(&entry, None).await;
                }
                Ok(())
            }
            Err(status) => Err(self.connection.failed("signal container", id, status)),
        }
    }

    pub(super) async fn remove(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        let Ok(entry) = self.entry(id) else { return Ok(()) };
        let _changing = entry.changing.lock().await;
        if entry.state().is_running() {
            return Err(failed("remove container", &id.0, "it is running"));
        }
        let delete = services::DeleteTaskRequest { container_id: id.0.clone() };
        if let Err(status) = self.connection.tasks().delete(delete).await
            && !is_not_found(&status)
        {
            return Err(self.connection.failed("delete the task of", &id.0, status));
        }
        self.remove_from_containerd(&id.0).await?;
        for dir in [&entry.dir, &self.volumes_dir(&id.0)] {
            files::remove_dir_all(dir).map_err(|error| failed("remove the folder of container", &id.0, error))?;
        }
        self.containers.write().remove(id);
        Ok(())
    }

    pub(super) fn entry(&self, id: &ContainerId) -> Result<Arc<Entry>, RuntimeError> {
        let found = self.containers.read().get(id).cloned();
        found.ok_or_else(|| RuntimeError::NotFound { what: "container", id: id.0.clone() })
    }

    pub(super) fn container_dir(&self, id: &str) -> PathBuf {
        self.state_dir.join("containers").join(id)
    }

    /// Where the volumes are that a container's image declares.
    pub(super) fn volumes_dir(&self, id: &str) -> PathBuf {
        self.data_dir.join("volumes").join(id)
    }

    pub(super) fn time(&self, time: Option<prost_types::Timestamp>) -> Timestamp {
        time.and_then(|time| Timestamp::new(time.seconds, time.nanos).ok()).unwrap_or_else(|| self.clock.now())
    }
}

pub(super) fn failed(
    step: &'static str,
    id: &str,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> RuntimeError {
    RuntimeError::Failed { step, id: id.into(), source: source.into() }
}

fn start_error(error: spec::SpecError) -> RuntimeError {
    RuntimeError::Start(format!("failed to generate container spec: {}", base::chain(&error)))
}

pub(super) fn path_text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// Makes the FIFOs that the container's specification asks for; old ones go.
fn make_fifos(entry: &Entry) -> std::io::Result<()> {
    let wanted = [("stdin", entry.info.stdin), ("stdout", true), ("stderr", !entry.info.tty)];
    for (name, _) in wanted.iter().filter(|(_, wanted)| *wanted) {
        make_fifo(&entry.dir.join(name))?;
    }
    Ok(())
}

pub(super) fn make_fifo(path: &Path) -> std::io::Result<()> {
    files::remove_file(path)?;
    nix::unistd::mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR).map_err(std::io::Error::from)
}

/// Mounts the root file system for a moment, read-only so that unmounting need not flush anything, reads its users and
/// fills the volumes that the image declares.
fn read_rootfs(rootfs: &Path, mounts: &[types::Mount], volumes: &[volumes::Volume]) -> std::io::Result<user::Accounts> {
    std::fs::create_dir_all(rootfs)?;
    let [only] = mounts else { return Err(std::io::Error::other("the snapshot is not one mount")) };
    let (flags, data) = mount_options(&only.options);
    mount(Some(only.source.as_str()), rootfs, Some(only.r#type.as_str()), flags, Some(data.as_str()))?;
    let filled = volumes.iter().try_for_each(|volume| volumes::fill(rootfs, volume));
    let accounts = filled.and_then(|()| user::Accounts::read(rootfs));
    umount2(rootfs, MntFlags::MNT_DETACH)?;
    std::fs::remove_dir(rootfs)?;
    accounts
}
