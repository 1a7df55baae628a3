//! A containerd for the tests, and short ways to use the runtime on it.

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use base::Shutdown;
use runtime::containerd::child::{self, ChildOptions};
use runtime::*;
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;

/// A test gets a node with one sandbox.
pub type Test = fn(Node) -> Pin<Box<dyn Future<Output = ()> + Send>>;

const PATIENCE: Duration = Duration::from_secs(60);

/// Runs the tests one after another, each with a node of its own on one containerd.
pub fn run(tests: Vec<(&'static str, Test)>) {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: needs root");
        return;
    }
    let filter = std::env::var("SKIFF_TEST_FILTER").unwrap_or_default();
    let root = tempfile::Builder::new().prefix("skrt").tempdir_in("/tmp").unwrap();
    let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let options = ChildOptions {
        binary_dir: std::env::var_os("SKIFF_TEST_CONTAINERD_DIR").map(PathBuf::from),
        root: root.path().join("root"),
        state: root.path().join("run"),
        log: root.path().join("containerd.log"),
    };
    let stop = Shutdown::new();
    let begun = std::time::Instant::now();
    let socket = match tokio.block_on(child::ensure(options.clone(), stop.clone())) {
        Ok(socket) => socket,
        Err(error @ child::ChildError::NotFound(_)) => {
            println!("skipped: {error}");
            return;
        }
        Err(error) => panic!("{}", base::chain(&error)),
    };
    println!("containerd answers after {:.1?}", begun.elapsed());
    let Some(archive) = archive(root.path()) else {
        println!("skipped: no static busybox at /bin/busybox and no SKIFF_TEST_ARCHIVE");
        tokio.block_on(child::stop(&options)).unwrap();
        return;
    };
    let mut failures = Vec::new();
    for (name, test) in tests.into_iter().filter(|(name, _)| name.contains(&filter)) {
        let begun = std::time::Instant::now();
        let (root, archive, socket) = (root.path().to_owned(), archive.clone(), socket.clone());
        let outcome = tokio.block_on(async {
            let whole = async move { test(Node::new(root, archive, socket).await).await };
            tokio::spawn(tokio::time::timeout(PATIENCE * 2, whole)).await
        });
        let passed = matches!(outcome, Ok(Ok(())));
        println!("test {name} ... {} ({:.1?})", if passed { "ok" } else { "FAILED" }, begun.elapsed());
        if !passed {
            failures.push(name);
        }
        let cleaned = tokio.block_on(async { tokio::spawn(clean_up(root_of(&options), socket_of(&options))).await });
        if cleaned.is_err() {
            failures.push("cleaning up");
        }
    }
    stop.cancel();
    tokio.block_on(child::stop(&options)).unwrap();
    if !failures.is_empty() && std::env::var_os("SKIFF_TEST_CONTAINERD_LOG").is_some() {
        println!("{}", std::fs::read_to_string(&options.log).unwrap_or_default());
    }
    assert!(failures.is_empty(), "failed: {failures:?}");
}

fn root_of(options: &ChildOptions) -> PathBuf {
    options.root.parent().unwrap().into()
}

fn socket_of(options: &ChildOptions) -> PathBuf {
    options.socket()
}

/// Removes what a test left, whether it passed or not.
async fn clean_up(root: PathBuf, socket: PathBuf) {
    let shutdown = Shutdown::new();
    let runtime = connect(&root, &socket, Options::new(), shutdown.clone()).await;
    for container in runtime.containers().await.unwrap() {
        runtime.stop_container(&container.id, Duration::ZERO).await.unwrap();
        runtime.remove_container(&container.id).await.unwrap();
    }
    for sandbox in runtime.sandboxes().await.unwrap() {
        runtime.remove_sandbox(&sandbox.id).await.unwrap();
        runtime::cgroup::remove(Path::new(&sandbox.spec.cgroup_parent));
    }
    runtime::cgroup::remove(Path::new("/skiff-runtime-test"));
    shutdown.cancel();
    runtime.stopped().await;
}

async fn connect(root: &Path, socket: &Path, options: Options, shutdown: Shutdown) -> Arc<ContainerdRuntime> {
    let connected = ContainerdRuntime::connect(socket.into(), root.join("state"), options, shutdown).await;
    match connected {
        Ok(runtime) => runtime,
        Err(error) => panic!("{}", base::chain(&error)),
    }
}

/// One runtime with a sandbox and an image.
pub struct Node {
    root: PathBuf,
    pub archive: PathBuf,
    socket: PathBuf,
    shutdown: Shutdown,
    pub runtime: Arc<ContainerdRuntime>,
    pub image: String,
    sandbox: String,
    made: u32,
    /// False for those made by [`Node::beside`].
    owner: bool,
}

impl Drop for Node {
    fn drop(&mut self) {
        if self.owner {
            self.shutdown.cancel();
            self.runtime.release();
        }
    }
}

impl Node {
    async fn new(root: PathBuf, archive: PathBuf, socket: PathBuf) -> Self {
        let shutdown = Shutdown::new();
        let runtime = connect(&root, &socket, Options::new(), shutdown.clone()).await;
        let mut node = Self {
            root,
            archive,
            socket,
            shutdown,
            runtime,
            image: String::new(),
            sandbox: String::new(),
            made: 0,
            owner: true,
        };
        node.import().await;
        let pod = node.pod("pod");
        node.use_sandbox(&pod).await;
        node
    }

    /// One more runtime on the same containerd.
    pub async fn try_connect(&self, state: &str) -> Result<Arc<ContainerdRuntime>, RuntimeError> {
        let state = self.root.join(state);
        ContainerdRuntime::connect(self.socket.clone(), state, Options::new(), self.shutdown.child_token()).await
    }

    /// The same runtime, to be used from another task.
    pub fn beside(&self) -> Self {
        Self {
            root: self.root.clone(),
            archive: self.archive.clone(),
            socket: self.socket.clone(),
            shutdown: self.shutdown.clone(),
            runtime: self.runtime.clone(),
            image: self.image.clone(),
            sandbox: self.sandbox.clone(),
            made: 0,
            owner: false,
        }
    }

    pub async fn import(&mut self) {
        let names = self.runtime.import_images(&self.archive).await;
        self.image = names.map_err(|error| base::chain(&error).to_string()).unwrap().remove(0);
    }

    pub fn pod(&self, id: &str) -> SandboxSpec {
        SandboxSpec {
            id: format!("{id}-{}", std::process::id()),
            hostname: "the-host".into(),
            cgroup_parent: format!("/skiff-runtime-test/{id}-{}", std::process::id()),
            ..Default::default()
        }
    }

    pub async fn use_sandbox(&mut self, spec: &SandboxSpec) {
        let made = self.runtime.create_sandbox(spec).await;
        let made = made.map_err(|error| base::chain(&error).to_string()).unwrap();
        assert_eq!(self.runtime.create_sandbox(spec).await.unwrap(), made);
        self.sandbox = spec.id.clone();
    }

    pub async fn create(&mut self, change: impl FnOnce(&mut ContainerSpec)) -> ContainerId {
        self.made += 1;
        let mut spec = ContainerSpec {
            sandbox: self.sandbox.clone(),
            image: self.image.clone(),
            command: vec!["/bin/sh".into(), "-c".into()],
            log_path: self.scratch("logs").join(format!("{}-{}.log", self.sandbox, uuid::Uuid::new_v4())),
            ..Default::default()
        };
        change(&mut spec);
        let made = self.runtime.create_container(&spec).await;
        made.map_err(|error| base::chain(&error).to_string()).unwrap()
    }

    pub async fn start(&mut self, script: &str, change: impl FnOnce(&mut ContainerSpec)) -> ContainerId {
        let id = self
            .create(|spec| {
                spec.args = vec![script.into()];
                change(spec);
            })
            .await;
        let started = self.runtime.start_container(&id).await;
        started.map_err(|error| base::chain(&error).to_string()).unwrap();
        id
    }

    pub async fn exec(&mut self, id: &ContainerId, script: &str) -> (i32, String, String) {
        let spec = ExecSpec {
            command: vec!["/bin/sh".into(), "-c".into(), script.into()],
            stdout: true,
            stderr: true,
            ..Default::default()
        };
        let mut session = self.runtime.exec(id, &spec).await.unwrap();
        let (out, err) =
            tokio::join!(read_all(session.stdout.take().unwrap()), read_all(session.stderr.take().unwrap()));
        (deadline(session.exit).await.unwrap(), out, err)
    }

    pub async fn exit_code(&mut self, id: &ContainerId) -> i32 {
        let mut code = None;
        for _ in 0..600 {
            if let ContainerStatus::Exited { code: found, .. } =
                self.runtime.container(id).await.unwrap().unwrap().status
            {
                code = Some(found);
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        code.expect("the container does not end")
    }

    pub async fn running(&self, id: &ContainerId) -> bool {
        matches!(self.runtime.container(id).await.unwrap().unwrap().status, ContainerStatus::Running { .. })
    }

    pub async fn log_path(&self, id: &ContainerId) -> PathBuf {
        self.runtime.container(id).await.unwrap().unwrap().log_path
    }

    pub async fn log(&self, id: &ContainerId) -> String {
        std::fs::read_to_string(self.log_path(id).await).unwrap()
    }

    /// Gives processes in containers time to get where the test wants them.
    pub async fn settle(&self) {
        tokio::time::sleep(Duration::from_millis(700)).await;
    }

    /// Waits until no exec is left.
    pub async fn without_execs(&self) {
        let left = || std::fs::read_dir(self.state_dir().join("exec")).unwrap().count();
        for _ in 0..100 {
            if left() == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{} execs are left", left());
    }

    /// Ends a container and deletes its task behind the runtime's back.
    pub async fn kill_task(&self, id: &ContainerId) {
        use containerd_client::services::v1 as services;
        let connection = runtime::containerd::connection::Connection::new(&self.socket);
        let kill = services::KillRequest { container_id: id.0.clone(), signal: 9, ..Default::default() };
        let wait = services::WaitRequest { container_id: id.0.clone(), exec_id: String::new() };
        let (_, waited) = tokio::join!(async { connection.tasks().kill(kill).await.unwrap() }, async {
            connection.tasks().wait(wait).await.unwrap()
        });
        drop(waited);
        let delete = services::DeleteTaskRequest { container_id: id.0.clone() };
        connection.tasks().delete(delete).await.unwrap();
    }

    pub fn state_dir(&self) -> PathBuf {
        self.root.join("state")
    }

    pub fn scratch(&self, name: &str) -> PathBuf {
        let dir = self.root.join("scratch").join(name);
        std::fs::create_dir_all(&dir).unwrap();
        dir
    }

    pub async fn disconnect(&mut self) {
        self.shutdown.cancel();
        self.runtime.stopped().await;
    }

    pub async fn reconnect(&mut self) {
        self.reconnect_with(Options::new()).await;
    }

    pub async fn reconnect_with(&mut self, options: Options) {
        self.shutdown = Shutdown::new();
        self.runtime = connect(&self.root, &self.socket, options, self.shutdown.clone()).await;
    }

    pub async fn restart(&mut self) {
        self.disconnect().await;
        self.reconnect().await;
    }

    /// Ends containerd hard; its supervisor starts it again.
    pub async fn kill_containerd(&self) {
        let stream = tokio::net::UnixStream::connect(&self.socket).await.unwrap();
        let pid = stream.peer_cred().unwrap().pid().unwrap();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
    }

    /// How many shims our containerd has.
    pub fn shims(&self) -> usize {
        let ours = self.socket.to_string_lossy().into_owned();
        let lines = std::fs::read_dir("/proc")
            .unwrap()
            .flatten()
            .filter_map(|entry| std::fs::read_to_string(entry.path().join("cmdline")).ok());
        lines.filter(|line| line.contains("containerd-shim-runc-v2") && line.contains(&ours)).count()
    }

    /// CPU time of this process in hundredths of a second.
    pub fn cpu_ticks(&self) -> u64 {
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
        let fields: Vec<&str> = stat[stat.rfind(')').unwrap() + 2..].split(' ').collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    }

    /// This process's resident memory.
    pub fn memory(&self) -> String {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        status.lines().filter(|line| line.starts_with("Rss") || line.starts_with("VmRSS")).collect::<Vec<_>>().join(" ")
    }

    pub fn cgroup_file(&self, id: &ContainerId, controller: &str, v1: &str, v2: &str) -> PathBuf {
        let relative = Path::new("skiff-runtime-test").join(&self.sandbox).join(&id.0);
        let root = Path::new("/sys/fs/cgroup");
        match runtime::cgroup::is_unified() {
            true => root.join(relative).join(v2),
            false => root.join(controller).join(relative).join(v1),
        }
    }
}

pub async fn next(events: &mut mpsc::Receiver<RuntimeEvent>) -> RuntimeEvent {
    deadline(events.recv()).await.expect("the runtime ended")
}

pub async fn deadline<T>(work: impl IntoFuture<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.expect("too slow")
}

pub async fn read_all(mut reader: Reader) -> String {
    let mut bytes = Vec::new();
    deadline(reader.read_to_end(&mut bytes)).await.unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// An archive with a shell: the one that is named, or one made from the machine's static busybox.
fn archive(root: &Path) -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("SKIFF_TEST_ARCHIVE") {
        return Some(path.into());
    }
    let busybox = std::fs::read("/bin/busybox").ok()?;
    let path = root.join("busybox.tar");
    make_archive(&path, &busybox);
    Some(path)
}

fn digest(bytes: &[u8]) -> String {
    runtime::images::store::sha256(bytes)
}

fn make_archive(path: &Path, busybox: &[u8]) {
    let mut layer = tar::Builder::new(Vec::new());
    for dir in ["bin", "etc", "tmp", "proc", "sys", "dev"] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mode(0o755);
        header.set_size(0);
        layer.append_data(&mut header, format!("{dir}/"), std::io::empty()).unwrap();
    }
    let file = |layer: &mut tar::Builder<Vec<u8>>, name: &str, mode, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_mode(mode);
        header.set_size(bytes.len() as u64);
        layer.append_data(&mut header, name, bytes).unwrap();
    };
    file(&mut layer, "bin/busybox", 0o755, busybox);
    file(&mut layer, "etc/passwd", 0o644, b"root:x:0:0::/:/bin/sh\n");
    file(&mut layer, "etc/group", 0o644, b"root:x:0:\n");
    let commands = std::process::Command::new("/bin/busybox").arg("--list").output().unwrap();
    for command in String::from_utf8(commands.stdout).unwrap().lines().filter(|command| *command != "busybox") {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        layer.append_link(&mut header, format!("bin/{command}"), "busybox").unwrap();
    }
    let layer = layer.into_inner().unwrap();
    let config = serde_json::json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "config": {"Cmd": ["/bin/sh"]},
        "rootfs": {"type": "layers", "diff_ids": [digest(&layer)]},
    });
    let config = serde_json::to_vec(&config).unwrap();
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest(&config), "size": config.len()},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest(&layer), "size": layer.len()}],
    });
    let manifest = serde_json::to_vec(&manifest).unwrap();
    let index = serde_json::json!({
        "schemaVersion": 2,
        "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": digest(&manifest),
            "size": manifest.len(),
            "annotations": {"io.containerd.image.name": "example.org/test/busybox:1"},
        }],
    });
    let mut archive = tar::Builder::new(std::fs::File::create(path).unwrap());
    let mut add = |name: &str, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(bytes.len() as u64);
        archive.append_data(&mut header, name, bytes).unwrap();
    };
    add("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#);
    add("index.json", &serde_json::to_vec(&index).unwrap());
    for blob in [&layer, &config, &manifest] {
        add(&format!("blobs/{}", digest(blob).replacen(':', "/", 1)), blob);
    }
    archive.finish().unwrap();
}
