//! A container runtime in memory, for tests of those who use [`Runtime`].
//!
//! It keeps the contract's promises (ids, events, idempotence, errors) and does what a test tells it: containers run
//! until [`FakeRuntime::exit`] or a stop, pulls succeed unless [`FakeRuntime::fail_pull`] says otherwise, and execs
//! answer through a handler. Every call is noted in order, see [`FakeRuntime::calls`].

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use base::SharedClock;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;
use tokio::sync::{mpsc, oneshot};

use crate::contract::*;
use crate::events::EventHub;

/// What a fake exec or attach prints and returns.
#[derive(Debug, Clone, Default)]
pub struct FakeOutput {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub code: i32,
}

/// Decides what an exec does.
pub type ExecHandler = dyn Fn(&ContainerId, &ExecSpec) -> Result<FakeOutput, RuntimeError> + Send + Sync;

/// The runtime in memory.
pub struct FakeRuntime {
    clock: SharedClock,
    hub: EventHub,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    images: BTreeMap<String, Image>,
    sandboxes: BTreeMap<SandboxId, Sandbox>,
    containers: BTreeMap<ContainerId, Entry>,
    failing_pulls: HashMap<String, String>,
    failing_starts: HashMap<String, String>,
    /// Images whose process ends by itself as soon as it is started, with this code.
    exit_at_once: HashMap<String, i32>,
    ignores_signal: HashSet<ContainerId>,
    exec: Option<Arc<ExecHandler>>,
    stats: HashMap<ContainerId, ContainerStats>,
    next_id: u64,
    calls: Vec<String>,
}

struct Entry {
    container: Container,
    spec: ContainerSpec,
    resources: Resources,
}

impl FakeRuntime {
    /// An empty runtime whose timestamps come from `clock`.
    pub fn new(clock: SharedClock) -> Arc<Self> {
        Arc::new(Self { clock, hub: EventHub::default(), state: Mutex::new(State::default()) })
    }

    /// Makes `image` present under each of its tags.
    pub fn add_image(&self, image: Image) {
        let mut state = self.state.lock();
        for tag in &image.tags {
            state.images.insert(tag.clone(), image.clone());
        }
    }

    /// Pulls of `reference` fail with [`RuntimeError::Pull`] and `why` until [`FakeRuntime::allow_pull`].
    pub fn fail_pull(&self, reference: &str, why: &str) {
        self.state.lock().failing_pulls.insert(reference.into(), why.into());
    }

    /// Pulls of `reference` succeed again.
    pub fn allow_pull(&self, reference: &str) {
        self.state.lock().failing_pulls.remove(reference);
    }

    /// Starts of containers of `image` (as in [`ContainerSpec::image`]) fail with [`RuntimeError::Start`] and `why`.
    pub fn fail_start(&self, image: &str, why: &str) {
        self.state.lock().failing_starts.insert(image.into(), why.into());
    }

    /// Containers of `image` end with `code` as soon as they are started.
    pub fn exit_at_once(&self, image: &str, code: i32) {
        self.state.lock().exit_at_once.insert(image.into(), code);
    }

    /// The container does not end on its stop signal, only when it is killed after its grace.
    pub fn ignore_stop_signal(&self, id: &ContainerId) {
        self.state.lock().ignores_signal.insert(id.clone());
    }

    /// Decides what execs do; without a handler they print nothing and return 0.
    pub fn on_exec(
        &self,
        handler: impl Fn(&ContainerId, &ExecSpec) -> Result<FakeOutput, RuntimeError> + Send + Sync + 'static,
    ) {
        self.state.lock().exec = Some(Arc::new(handler));
    }

    /// What [`Runtime::stats`] answers for a container.
    pub fn set_stats(&self, id: &ContainerId, stats: ContainerStats) {
        self.state.lock().stats.insert(id.clone(), stats);
    }

    /// The container's process ends by itself with `code`.
    pub fn exit(&self, id: &ContainerId, code: i32) {
        self.end(id, code, 0, false);
    }

    /// The kernel kills the container for its memory limit.
    pub fn oom_kill(&self, id: &ContainerId) {
        self.hub.publish(&RuntimeEvent::OomKilled(id.clone()));
        self.end(id, 137, 9, true);
    }

    /// As after containerd went away and came back.
    pub fn resync(&self) {
        self.hub.publish(&RuntimeEvent::Resync);
    }

    /// Every call so far, in order: the method and what it was about, e.g. `start_container 0…1`.
    pub fn calls(&self) -> Vec<String> {
        self.state.lock().calls.clone()
    }

    /// Forgets the calls so far.
    pub fn clear_calls(&self) {
        self.state.lock().calls.clear();
    }

    /// The spec a container was created with.
    pub fn spec(&self, id: &ContainerId) -> Option<ContainerSpec> {
        self.state.lock().containers.get(id).map(|entry| entry.spec.clone())
    }

    /// The resources a container has now.
    pub fn resources(&self, id: &ContainerId) -> Option<Resources> {
        self.state.lock().containers.get(id).map(|entry| entry.resources.clone())
    }

    fn note(&self, call: &str, subject: &str) {
        self.state.lock().calls.push(format!("{call} {subject}"));
    }

    fn end(&self, id: &ContainerId, code: i32, signal: i32, oom_killed: bool) {
        let finished = self.clock.now();
        {
            let mut state = self.state.lock();
            let Some(entry) = state.containers.get_mut(id) else { return };
            let ContainerStatus::Running { started, .. } = entry.container.status else { return };
            entry.container.status =
                ContainerStatus::Exited { code, signal, oom_killed, started: Some(started), finished };
        }
        self.hub.publish(&RuntimeEvent::Exited(id.clone()));
    }

    fn running(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        let state = self.state.lock();
        match state.containers.get(id).map(|entry| &entry.container.status) {
            None => Err(not_found("container", &id.0)),
            Some(ContainerStatus::Running { .. }) => Ok(()),
            Some(_) => Err(failed("exec in container", &id.0, "container is not running")),
        }
    }
}

fn not_found(what: &'static str, id: &str) -> RuntimeError {
    RuntimeError::NotFound { what, id: id.into() }
}

fn failed(step: &'static str, id: &str, why: &str) -> RuntimeError {
    RuntimeError::Failed { step, id: id.into(), source: why.into() }
}

fn image_named(reference: &str) -> Image {
    let digest: String = Sha256::digest(reference.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
    let name = reference.split('@').next().unwrap_or(reference);
    Image {
        id: format!("sha256:{digest}"),
        tags: vec![reference.into()],
        digests: vec![format!("{name}@sha256:{digest}")],
        size: 1024,
        user: String::new(),
        pinned: false,
    }
}

fn session(output: FakeOutput, spec: &ExecSpec) -> Session {
    let (resize, _) = mpsc::channel(1);
    let (exit_sender, exit) = oneshot::channel();
    let (mut stdout_writer, stdout) = tokio::io::duplex(64 * 1024);
    let (mut stderr_writer, stderr) = tokio::io::duplex(64 * 1024);
    tokio::spawn(async move {
        // A reader that went away early does not change how the process ends.
        let _ = stdout_writer.write_all(&output.stdout).await;
        let _ = stderr_writer.write_all(&output.stderr).await;
        drop((stdout_writer, stderr_writer));
        let _ = exit_sender.send(output.code);
    });
    Session {
        stdin: spec.stdin.then(|| Box::pin(tokio::io::sink()) as Writer),
        stdout: spec.stdout.then(|| Box::pin(stdout) as Reader),
        stderr: (spec.stderr && !spec.tty).then(|| Box::pin(stderr) as Reader),
        resize,
        exit,
    }
}

#[async_trait]
impl Runtime for FakeRuntime {
    async fn version(&self) -> Result<(String, String), RuntimeError> {
        Ok(("fake".into(), "v1.0.0".into()))
    }

    fn events(&self) -> mpsc::Receiver<RuntimeEvent> {
        self.hub.subscribe()
    }

    async fn image(&self, reference: &str) -> Result<Option<Image>, RuntimeError> {
        let state = self.state.lock();
        let found = state.images.get(reference).or_else(|| {
            state.images.values().find(|image| image.id == reference || image.digests.iter().any(|d| d == reference))
        });
        Ok(found.cloned())
    }

    async fn images(&self) -> Result<Vec<Image>, RuntimeError> {
        let state = self.state.lock();
        let mut by_id: BTreeMap<&str, Image> = BTreeMap::new();
        for image in state.images.values() {
            by_id.insert(&image.id, image.clone());
        }
        Ok(by_id.into_values().collect())
    }

    async fn pull_image(&self, reference: &str, _auth: &[RegistryAuth]) -> Result<Image, RuntimeError> {
        self.note("pull_image", reference);
        let mut state = self.state.lock();
        if let Some(why) = state.failing_pulls.get(reference) {
            return Err(RuntimeError::Pull { reference: reference.into(), why: why.clone(), source: None });
        }
        Ok(state.images.entry(reference.into()).or_insert_with(|| image_named(reference)).clone())
    }

    async fn import_images(&self, archive: &Path) -> Result<Vec<String>, RuntimeError> {
        self.note("import_images", &archive.display().to_string());
        let name = archive.file_stem().and_then(|stem| stem.to_str()).unwrap_or("archive").to_owned();
        let mut image = image_named(&name);
        image.pinned = true;
        self.state.lock().images.insert(name.clone(), image);
        Ok(vec![name])
    }

    async fn remove_image(&self, reference: &str) -> Result<(), RuntimeError> {
        self.note("remove_image", reference);
        self.state.lock().images.retain(|name, image| name != reference && image.id != reference);
        Ok(())
    }

    async fn mount_image(&self, key: &str, image: &str, target: &Path) -> Result<(), RuntimeError> {
        self.note("mount_image", key);
        if self.image(image).await?.is_none() {
            return Err(RuntimeError::NotFound { what: "image", id: image.to_owned() });
        }
        std::fs::create_dir_all(target).map_err(|source| RuntimeError::Failed {
            step: "mount the image of",
            id: key.to_owned(),
            source: source.into(),
        })
    }

    async fn unmount_image(&self, key: &str, _target: &Path) -> Result<(), RuntimeError> {
        self.note("unmount_image", key);
        Ok(())
    }

    async fn create_sandbox(&self, spec: &SandboxSpec) -> Result<Sandbox, RuntimeError> {
        self.note("create_sandbox", &spec.id);
        let created = self.clock.now();
        let id = SandboxId(spec.id.clone());
        let sandbox = Sandbox {
            id: id.clone(),
            netns: (!spec.host_network).then(|| PathBuf::from("/fake/netns").join(&spec.id)),
            created,
            spec: spec.clone(),
        };
        Ok(self.state.lock().sandboxes.entry(id).or_insert(sandbox).clone())
    }

    async fn remove_sandbox(&self, id: &SandboxId) -> Result<(), RuntimeError> {
        self.note("remove_sandbox", &id.0);
        let mut state = self.state.lock();
        if state.containers.values().any(|entry| &entry.container.sandbox == id) {
            return Err(failed("remove sandbox", &id.0, "it still has containers"));
        }
        state.sandboxes.remove(id);
        Ok(())
    }

    async fn sandboxes(&self) -> Result<Vec<Sandbox>, RuntimeError> {
        Ok(self.state.lock().sandboxes.values().cloned().collect())
    }

    async fn create_container(&self, spec: &ContainerSpec) -> Result<ContainerId, RuntimeError> {
        self.note("create_container", &spec.image);
        let created = self.clock.now();
        let mut state = self.state.lock();
        let sandbox = SandboxId(spec.sandbox.clone());
        if !state.sandboxes.contains_key(&sandbox) {
            return Err(not_found("sandbox", &spec.sandbox));
        }
        let found = state.images.iter().find(|(name, image)| **name == spec.image || image.id == spec.image);
        let Some((name, image_id)) =
            found.map(|(name, image)| (name.clone(), image.digests.first().unwrap_or(&image.id).clone()))
        else {
            return Err(not_found("image", &spec.image));
        };
        state.next_id += 1;
        let id = ContainerId(format!("{:064x}", state.next_id));
        let container = Container {
            id: id.clone(),
            sandbox,
            created,
            status: ContainerStatus::Created,
            image: name,
            image_id,
            log_path: spec.log_path.clone(),
            labels: spec.labels.clone(),
            annotations: spec.annotations.clone(),
            user: spec
                .security
                .run_as_user
                .map(|uid| (uid, spec.security.run_as_group.unwrap_or(0), spec.security.supplemental_groups.clone())),
        };
        let entry = Entry { container, spec: spec.clone(), resources: spec.resources.clone() };
        state.containers.insert(id.clone(), entry);
        Ok(id)
    }

    async fn start_container(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        self.note("start_container", &id.0);
        let started = self.clock.now();
        let exit_code = {
            let mut guard = self.state.lock();
            let state = &mut *guard;
            let pid = 1000 + state.next_id as u32;
            let entry = state.containers.get_mut(id).ok_or_else(|| not_found("container", &id.0))?;
            if entry.container.status != ContainerStatus::Created {
                return Err(failed("start container", &id.0, "container is not in created state"));
            }
            if let Some(why) = state.failing_starts.get(&entry.spec.image) {
                entry.container.status = ContainerStatus::Exited {
                    code: 128,
                    signal: 0,
                    oom_killed: false,
                    started: None,
                    finished: started,
                };
                return Err(RuntimeError::Start(why.clone()));
            }
            entry.container.status = ContainerStatus::Running { pid, started };
            state.exit_at_once.get(&entry.spec.image).copied()
        };
        self.hub.publish(&RuntimeEvent::Started(id.clone()));
        if let Some(code) = exit_code {
            self.exit(id, code);
        }
        Ok(())
    }

    async fn stop_container(&self, id: &ContainerId, grace: Duration) -> Result<(), RuntimeError> {
        self.note("stop_container", &format!("{} {}s", id.0, grace.as_secs()));
        let ignores = {
            let state = self.state.lock();
            if !state.containers.contains_key(id) {
                return Err(not_found("container", &id.0));
            }
            state.ignores_signal.contains(id)
        };
        if ignores {
            tokio::time::sleep(grace).await;
        }
        match ignores || grace.is_zero() {
            true => self.end(id, 137, 9, false),
            false => self.end(id, 143, 15, false),
        }
        Ok(())
    }

    async fn remove_container(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        self.note("remove_container", &id.0);
        let mut state = self.state.lock();
        if let Some(entry) = state.containers.get(id)
            && matches!(entry.container.status, ContainerStatus::Running { .. })
        {
            return Err(failed("remove container", &id.0, "container is running"));
        }
        state.containers.remove(id);
        Ok(())
    }

    async fn containers(&self) -> Result<Vec<Container>, RuntimeError> {
        Ok(self.state.lock().containers.values().map(|entry| entry.container.clone()).collect())
    }

    async fn container(&self, id: &ContainerId) -> Result<Option<Container>, RuntimeError> {
        Ok(self.state.lock().containers.get(id).map(|entry| entry.container.clone()))
    }

    async fn update_resources(&self, id: &ContainerId, resources: &Resources) -> Result<(), RuntimeError> {
        self.note("update_resources", &id.0);
        let mut state = self.state.lock();
        let entry = state.containers.get_mut(id).ok_or_else(|| not_found("container", &id.0))?;
        entry.resources = resources.clone();
        Ok(())
    }

    async fn stats(&self, id: &ContainerId) -> Result<ContainerStats, RuntimeError> {
        let state = self.state.lock();
        if !state.containers.contains_key(id) {
            return Err(not_found("container", &id.0));
        }
        Ok(state.stats.get(id).cloned().unwrap_or_default())
    }

    async fn exec(&self, id: &ContainerId, spec: &ExecSpec) -> Result<Session, RuntimeError> {
        self.note("exec", &format!("{} {}", id.0, spec.command.join(" ")));
        self.running(id)?;
        let handler = self.state.lock().exec.clone();
        let output = match handler {
            Some(handler) => handler(id, spec)?,
            None => FakeOutput::default(),
        };
        Ok(session(output, spec))
    }

    async fn attach(&self, id: &ContainerId) -> Result<Session, RuntimeError> {
        self.note("attach", &id.0);
        self.running(id)?;
        let (stdin, tty) = {
            let state = self.state.lock();
            state.containers.get(id).map_or((false, false), |entry| (entry.spec.stdin, entry.spec.tty))
        };
        let spec = ExecSpec { command: Vec::new(), stdin, stdout: true, stderr: !tty, tty };
        Ok(session(FakeOutput::default(), &spec))
    }

    async fn reopen_log(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        self.note("reopen_log", &id.0);
        self.running(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::ManualClock;
    use jiff::Timestamp;
    use tokio::io::AsyncReadExt;

    fn fake() -> Arc<FakeRuntime> {
        FakeRuntime::new(Arc::new(ManualClock::new(Timestamp::UNIX_EPOCH)))
    }

    async fn created(runtime: &FakeRuntime) -> ContainerId {
        runtime.create_sandbox(&SandboxSpec { id: "pod".into(), ..Default::default() }).await.unwrap();
        let image = runtime.pull_image("busybox", &[]).await.unwrap();
        let spec = ContainerSpec { sandbox: "pod".into(), image: image.id, ..Default::default() };
        runtime.create_container(&spec).await.unwrap()
    }

    #[tokio::test]
    async fn a_container_lives_from_created_to_exited_with_events() {
        let runtime = fake();
        let mut events = runtime.events();
        let id = created(&runtime).await;
        runtime.start_container(&id).await.unwrap();
        assert_eq!(events.try_recv(), Ok(RuntimeEvent::Started(id.clone())));
        assert!(runtime.remove_container(&id).await.is_err());
        runtime.stop_container(&id, Duration::from_secs(30)).await.unwrap();
        assert_eq!(events.try_recv(), Ok(RuntimeEvent::Exited(id.clone())));
        let container = runtime.container(&id).await.unwrap().unwrap();
        assert!(matches!(container.status, ContainerStatus::Exited { code: 143, .. }), "{:?}", container.status);
        assert!(runtime.remove_sandbox(&SandboxId("pod".into())).await.is_err());
        runtime.remove_container(&id).await.unwrap();
        runtime.remove_sandbox(&SandboxId("pod".into())).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_container_that_ignores_its_signal_is_killed_after_the_grace() {
        let runtime = fake();
        let id = created(&runtime).await;
        runtime.start_container(&id).await.unwrap();
        runtime.ignore_stop_signal(&id);
        runtime.stop_container(&id, Duration::from_secs(30)).await.unwrap();
        let container = runtime.container(&id).await.unwrap().unwrap();
        assert!(matches!(container.status, ContainerStatus::Exited { code: 137, signal: 9, .. }));
    }

    #[tokio::test]
    async fn exec_prints_what_the_handler_says() {
        let runtime = fake();
        let id = created(&runtime).await;
        runtime.start_container(&id).await.unwrap();
        runtime.on_exec(|_, _| Ok(FakeOutput { stdout: b"hello".to_vec(), stderr: vec![], code: 3 }));
        let spec = ExecSpec { command: vec!["x".into()], stdout: true, ..Default::default() };
        let session = runtime.exec(&id, &spec).await.unwrap();
        let mut out = String::new();
        session.stdout.unwrap().read_to_string(&mut out).await.unwrap();
        assert_eq!((out.as_str(), session.exit.await), ("hello", Ok(3)));
    }
}
