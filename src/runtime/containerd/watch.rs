//! Keeping in step with containerd: its events, and a look at everything whenever the stream begins anew.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use base::Backoff;
use containerd_client::events::{TaskExit, TaskOom};
use containerd_client::services::v1 as services;
use containerd_client::services::v1::snapshots as snapshot_services;
use containerd_client::types::Envelope;
use containerd_client::types::v1::{Process, Status as TaskStatus};
use prost::Message;
use prost_types::Any;
use tonic::Streaming;

use super::ContainerdRuntime;
use super::connection::{CallError, SNAPSHOTTER};
use super::lifecycle::CODE_UNKNOWN;
use super::record::{EXTENSION, Entry, INSTANCE_LABEL, Info, State};
use crate::contract::*;
use crate::files;

const TOPIC_EXIT: &str = "/tasks/exit";
const TOPIC_OOM: &str = "/tasks/oom";
/// We publish this ourselves until it comes back: containerd answers a subscription only with its first event, and
/// nothing else says from when on events are not missed.
const TOPIC_PROBE: &str = "/skiff/subscribed";

impl ContainerdRuntime {
    /// Follows containerd until shutdown, through its restarts.
    pub(super) async fn watch(self: Arc<Self>) {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(5));
        let mut first = true;
        loop {
            let ended = tokio::select! {
                biased;
                () = self.shutdown.cancelled() => return,
                ended = self.follow(&mut backoff, first) => ended,
            };
            first = false;
            match ended {
                Ok(()) => tracing::info!("containerd ended its stream of events"),
                Err(error) => tracing::warn!(error = %base::chain(&error), "cannot follow containerd"),
            }
            tokio::select! {
                biased;
                () = self.shutdown.cancelled() => return,
                () = tokio::time::sleep(backoff.step()) => {}
            }
        }
    }

    async fn follow(self: &Arc<Self>, backoff: &mut Backoff, first: bool) -> Result<(), RuntimeError> {
        let mut events = self.subscribe().await?;
        backoff.reset();
        self.reconcile().await?;
        if !first {
            self.hub.publish(&RuntimeEvent::Resync);
        }
        loop {
            let next = events.message().await;
            match next.map_err(|status| self.connection.failed("read events of", "containerd", status))? {
                Some(event) => self.handle(event),
                None => return Ok(()),
            }
        }
    }

    async fn subscribe(&self) -> Result<Streaming<Envelope>, RuntimeError> {
        let filter = |topic: &str| format!("namespace=={},topic==\"{topic}\"", super::connection::NAMESPACE);
        let request = services::SubscribeRequest { filters: [TOPIC_EXIT, TOPIC_OOM, TOPIC_PROBE].map(filter).to_vec() };
        let mut client = self.connection.events();
        let subscribed = client.subscribe(request);
        tokio::pin!(subscribed);
        let mut pause = Backoff::new(Duration::from_millis(5), Duration::from_secs(1));
        loop {
            tokio::select! {
                biased;
                stream = &mut subscribed => {
                    let stream = stream.map_err(|status| self.connection.failed("subscribe to", "containerd", status))?;
                    return Ok(stream.into_inner());
                }
                () = tokio::time::sleep(pause.step()) => {
                    let event = Any { type_url: "google.protobuf.Empty".into(), value: Vec::new() };
                    let probe = services::PublishRequest { topic: TOPIC_PROBE.into(), event: Some(event) };
                    let published = self.connection.events().publish(probe).await;
                    published.map_err(|status| self.connection.failed("publish to", "containerd", status))?;
                }
            }
        }
    }

    fn handle(self: &Arc<Self>, event: Envelope) {
        let Some(payload) = event.event else { return };
        match event.topic.as_str() {
            TOPIC_EXIT => {
                let Ok(exit) = TaskExit::decode(payload.value.as_slice()) else {
                    tracing::warn!(topic = event.topic, "containerd sent an event that cannot be read");
                    return;
                };
                // An exec's process has an id of its own; its session waits for it.
                if exit.id != exit.container_id {
                    return;
                }
                let Ok(entry) = self.entry(&ContainerId(exit.container_id)) else { return };
                let seen = (exit.exit_status, self.time(exit.exited_at));
                let runtime = self.clone();
                // Deleting a task takes as long as its output takes to be read, and other exits must not wait for that.
                self.tasks.spawn(async move { runtime.finish(&entry, Some(seen)).await });
            }
            TOPIC_OOM => {
                let Ok(oom) = TaskOom::decode(payload.value.as_slice()) else { return };
                let Ok(entry) = self.entry(&ContainerId(oom.container_id)) else { return };
                entry.note_oom();
                self.hub.publish(&RuntimeEvent::OomKilled(entry.id()));
            }
            _ => {}
        }
    }

    /// Reads all containers of ours from containerd. Called once, at the start.
    pub(super) async fn load(&self) -> Result<(), RuntimeError> {
        let filters = vec![self.filter()];
        let request = services::ListContainersRequest { filters };
        let failed = |status| self.connection.failed("list the containers of", "containerd", status);
        let mut stream = self.connection.containers().list_stream(request).await.map_err(failed)?.into_inner();
        while let Some(message) = stream.message().await.map_err(failed)? {
            let Some(container) = message.container else { continue };
            let Some(info) = container.extensions.get(EXTENSION).and_then(Info::from_any) else {
                tracing::warn!(container = container.id, "a container with our label is not of our making");
                continue;
            };
            let dir = self.container_dir(&info.id);
            std::fs::create_dir_all(&dir)
                .map_err(|error| super::lifecycle::failed("make the folder of container", &info.id, error))?;
            let entry = Entry::new(info, dir.clone(), Entry::load_state(&dir));
            self.containers.write().insert(entry.id(), entry);
        }
        self.sweep().await
    }

    /// What is ours and not another instance's.
    fn filter(&self) -> String {
        format!("labels.\"{INSTANCE_LABEL}\"==\"{}\"", self.instance)
    }

    /// Removes folders and snapshots of containers that are no more: a crash in the middle of something left them.
    async fn sweep(&self) -> Result<(), RuntimeError> {
        let known = |id: &str| self.containers.read().contains_key(&ContainerId(id.into()));
        for folder in [self.state_dir.join("containers"), self.data_dir.join("volumes")] {
            for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                if known(&name) {
                    continue;
                }
                // Its root file system may still be mounted for the reading of accounts.
                let _ = nix::mount::umount2(&entry.path().join("rootfs"), nix::mount::MntFlags::MNT_DETACH);
                if let Err(error) = files::remove_dir_all(&entry.path()) {
                    tracing::warn!(container = name, %error, "cannot remove an old container's folder");
                }
            }
        }
        let request =
            snapshot_services::ListSnapshotsRequest { snapshotter: SNAPSHOTTER.into(), filters: vec![self.filter()] };
        let failed = |status| self.connection.failed("list the snapshots of", "containerd", status);
        let mut stream = self.connection.snapshots().list(request).await.map_err(failed)?.into_inner();
        let mut orphans = Vec::new();
        while let Some(message) = stream.message().await.map_err(failed)? {
            orphans.extend(message.info.into_iter().map(|info| info.name).filter(|name| !known(name)));
        }
        for orphan in orphans {
            if let Err(error) = self.remove_snapshot(&orphan).await {
                tracing::warn!(snapshot = orphan, error = %base::chain(&error), "cannot remove an old snapshot");
            }
        }
        Ok(())
    }

    /// Brings every container's state in line with containerd's tasks.
    pub(super) async fn reconcile(self: &Arc<Self>) -> Result<(), RuntimeError> {
        let listed = self.connection.tasks().list(services::ListTasksRequest::default()).await;
        let listed = listed.map_err(|status| self.connection.failed("list the tasks of", "containerd", status))?;
        // A task's list entry has the container's id in `id`; `container_id` is empty in containerd 1.6.
        let tasks: HashMap<String, Process> =
            listed.into_inner().tasks.into_iter().map(|task| (task.id.clone(), task)).collect();
        let entries: Vec<Arc<Entry>> = self.containers.read().values().cloned().collect();
        for entry in entries {
            self.reconcile_one(&entry, tasks.get(&entry.info.id)).await;
        }
        Ok(())
    }

    async fn reconcile_one(self: &Arc<Self>, entry: &Arc<Entry>, task: Option<&Process>) {
        match (entry.state(), task) {
            (State::Running { .. } | State::Unknown, Some(task)) if task.status() == TaskStatus::Stopped => {
                let seen = (task.exit_status, self.time(task.exited_at));
                self.adopt(entry, task.pid);
                self.finish(entry, Some(seen)).await;
            }
            (State::Running { .. } | State::Unknown, Some(task)) => self.adopt(entry, task.pid),
            (State::Running { started, .. }, None) => {
                let _changing = entry.changing.lock().await;
                // Started in the meantime, after the list was made?
                if !self.task_exists(&entry.info.id).await && entry.state().is_running() {
                    entry.set_state(State::Exited {
                        code: CODE_UNKNOWN,
                        oom_killed: false,
                        started: Some(started),
                        finished: self.clock.now(),
                    });
                    self.hub.publish(&RuntimeEvent::Exited(entry.id()));
                }
            }
            // We ended between creating and starting it; or between its end and the deletion of its task.
            (State::Created | State::Exited { .. }, Some(_)) => {
                if let Ok(_changing) = entry.changing.try_lock()
                    && !entry.state().is_running()
                {
                    self.discard_task(&entry.info.id).await;
                }
            }
            (State::Created | State::Exited { .. } | State::Unknown, None) => {}
        }
    }

    async fn task_exists(&self, id: &str) -> bool {
        let request = services::GetRequest { container_id: id.into(), exec_id: String::new() };
        match self.connection.tasks().get(request).await {
            Ok(_) => true,
            Err(status) => !super::connection::is_not_found(&status),
        }
    }

    /// Takes a running container in hand: reads its output again.
    fn adopt(&self, entry: &Arc<Entry>, pid: u32) {
        if entry.state() == State::Unknown {
            entry.set_state(State::Running { pid, started: entry.info.created });
        }
        let open = entry.io.lock().is_some();
        if !open && let Err(error) = self.open_io(entry, true) {
            tracing::warn!(container = entry.info.id, %error, "cannot read a running container's output");
        }
    }

    /// What containerd says it is.
    pub(super) async fn ask_version(&self) -> Result<(String, String), RuntimeError> {
        let version = self.connection.version().version(()).await;
        let version =
            version.map_err(|status| RuntimeError::Unreachable(self.socket.clone(), CallError::from(status).into()))?;
        let version = version.into_inner().version;
        // Debian's has an epoch-like suffix: "1.6.20~ds1".
        let plain = version.split('~').next().unwrap_or(&version);
        let plain = if plain.starts_with('v') { plain.to_owned() } else { format!("v{plain}") };
        Ok(("containerd".into(), plain))
    }
}
