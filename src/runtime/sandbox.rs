//! Sandboxes: the namespaces that a pod's containers share.
//!
//! Each has a folder `sandboxes/<id>` with a state file and one file per namespace, onto which the namespace is
//! bind-mounted, so that it lives without any process and is found again after a restart. After a reboot the mounts are
//! gone: such a sandbox is still listed, and [`SandboxStore::create`] makes its namespaces anew.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base::SharedClock;
use jiff::Timestamp;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::contract::{Sandbox, SandboxId, SandboxSpec};
use crate::{cgroup, files, sys};

/// Why a sandbox could not be made or removed.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    #[error("{0:?} cannot be the id of a sandbox")]
    InvalidId(String),
    #[error("cannot {step}")]
    Io {
        step: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("cannot set sysctl {name:?} to {value:?}")]
    Sysctl {
        name: String,
        value: String,
        #[source]
        source: io::Error,
    },
    #[error("the pod's init did not start: {0}")]
    Init(String),
}

fn at(step: &'static str) -> impl Fn(io::Error) -> SandboxError {
    move |source| SandboxError::Io { step, source }
}

/// What the state file holds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SandboxState {
    pub spec: SandboxSpec,
    pub created: Timestamp,
    boot_id: String,
    init: Option<InitProcess>,
}

/// The process that holds a shared PID namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct InitProcess {
    pid: i32,
    /// In clock ticks since boot: together with the pid it names one process for ever.
    start_ticks: u64,
}

/// Files of one sandbox that its containers' specs point at.
#[derive(Debug, Clone)]
pub struct SandboxPaths {
    pub net: Option<PathBuf>,
    pub ipc: Option<PathBuf>,
    pub uts: Option<PathBuf>,
    /// PID namespace of a pod that shares it.
    pub pid: Option<PathBuf>,
    /// The tmpfs for `/dev/shm`; the host's own with the host's IPC namespace.
    pub shm: PathBuf,
    /// File for `/etc/hostname`.
    pub hostname: PathBuf,
}

/// All sandboxes below one folder.
pub struct SandboxStore {
    root: PathBuf,
    boot_id: String,
    clock: SharedClock,
    init_command: Vec<String>,
}

impl SandboxStore {
    /// Sandboxes below `root`. `init_command` is how this binary is run as a pod's init, see [`crate::init`].
    pub fn new(root: PathBuf, clock: SharedClock, init_command: Vec<String>) -> Result<Self, SandboxError> {
        std::fs::create_dir_all(&root).map_err(at("make the folder of sandboxes"))?;
        let boot_id =
            std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map_err(at("read the machine's boot id"))?;
        Ok(Self { root, boot_id: boot_id.trim().into(), clock, init_command })
    }

    /// Makes the namespaces of `spec`, or finds them again. Blocks.
    pub fn create(&self, spec: &SandboxSpec) -> Result<Sandbox, SandboxError> {
        let dir = self.dir(&spec.id)?;
        if let Some(state) = self.load(&spec.id)?
            && self.alive(&state, &dir)
        {
            return Ok(self.sandbox(&state));
        }
        self.tear_down(&dir)?;
        std::fs::create_dir_all(&dir).map_err(at("make the sandbox's folder"))?;
        let made = self.make(spec, &dir);
        if made.is_err()
            && let Err(error) = self.tear_down(&dir)
        {
            tracing::warn!(sandbox = spec.id, error = %base::chain(&error), "cannot remove a half-made sandbox");
        }
        made
    }

    fn make(&self, spec: &SandboxSpec, dir: &Path) -> Result<Sandbox, SandboxError> {
        make_namespaces(spec, dir)?;
        if !spec.host_ipc {
            let shm = dir.join("shm");
            std::fs::create_dir_all(&shm).map_err(at("make the folder of /dev/shm"))?;
            let flags = MsFlags::MS_NOEXEC | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
            // 64 MiB as in containerd's internal/cri/server/podsandbox/helpers.go (defaultShmSize).
            mount(Some("shm"), &shm, Some("tmpfs"), flags, Some("mode=1777,size=67108864"))
                .map_err(|errno| at("mount the pod's /dev/shm")(errno.into()))?;
        }
        std::fs::write(dir.join("hostname"), format!("{}\n", hostname(spec)))
            .map_err(at("write the pod's hostname"))?;
        let init = match spec.share_process_namespace && !spec.host_pid {
            true => Some(self.start_init(spec, dir)?),
            false => None,
        };
        let state = SandboxState { spec: spec.clone(), created: self.clock.now(), boot_id: self.boot_id.clone(), init };
        files::write_json(&dir.join("sandbox.json"), &state).map_err(at("write the sandbox's state"))?;
        Ok(self.sandbox(&state))
    }

    fn start_init(&self, spec: &SandboxSpec, dir: &Path) -> Result<InitProcess, SandboxError> {
        let Some((program, arguments)) = self.init_command.split_first() else {
            return Err(SandboxError::Init("no command is configured for it".into()));
        };
        let namespaces = ["net", "ipc", "uts"].map(|kind| dir.join(kind));
        let output = Command::new(program)
            .args(arguments)
            .args(namespaces.iter().filter(|path| path.exists()))
            .stdin(Stdio::null())
            .output()
            .map_err(at("run the pod's init"))?;
        let pid = String::from_utf8_lossy(&output.stdout).trim().parse::<i32>();
        let (true, Ok(pid)) = (output.status.success(), pid) else {
            return Err(SandboxError::Init(String::from_utf8_lossy(&output.stderr).trim().into()));
        };
        let start_ticks = start_ticks(pid).ok_or_else(|| SandboxError::Init("it ended at once".into()))?;
        cgroup::add_process(&init_cgroup(spec), pid).map_err(at("put the pod's init into the pod's cgroup"))?;
        Ok(InitProcess { pid, start_ticks })
    }

    /// Unpins the namespaces and removes the folder. Idempotent. Blocks.
    pub fn remove(&self, id: &SandboxId) -> Result<(), SandboxError> {
        let dir = self.dir(&id.0)?;
        if let Some(state) = self.load(&id.0)? {
            if let Some(init) = state.init.filter(InitProcess::alive) {
                kill(Pid::from_raw(init.pid), Signal::SIGKILL)
                    .map_err(|errno| at("end the pod's init")(errno.into()))?;
                init.wait_gone();
            }
            if state.init.is_some() {
                cgroup::remove(&init_cgroup(&state.spec));
            }
        }
        self.tear_down(&dir)
    }

    /// Every sandbox whose state file is readable.
    pub fn list(&self) -> Result<Vec<Sandbox>, SandboxError> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&self.root).map_err(at("list the sandboxes"))? {
            let entry = entry.map_err(at("list the sandboxes"))?;
            let state = files::read_json::<SandboxState>(&entry.path().join("sandbox.json"));
            if let Some(state) = state.map_err(at("read a sandbox's state"))? {
                found.push(self.sandbox(&state));
            }
        }
        Ok(found)
    }

    /// The state of one sandbox and the paths that its containers need.
    pub fn get(&self, id: &str) -> Result<Option<(SandboxState, SandboxPaths)>, SandboxError> {
        let dir = self.dir(id)?;
        let Some(state) = self.load(id)? else { return Ok(None) };
        let spec = &state.spec;
        let paths = SandboxPaths {
            net: (!spec.host_network).then(|| dir.join("net")),
            ipc: (!spec.host_ipc).then(|| dir.join("ipc")),
            uts: (!spec.host_network).then(|| dir.join("uts")),
            pid: state.init.map(|init| PathBuf::from(format!("/proc/{}/ns/pid", init.pid))),
            shm: if spec.host_ipc { PathBuf::from("/dev/shm") } else { dir.join("shm") },
            hostname: dir.join("hostname"),
        };
        Ok(Some((state, paths)))
    }

    fn dir(&self, id: &str) -> Result<PathBuf, SandboxError> {
        if id.is_empty() || id.starts_with('.') || id.contains('/') {
            return Err(SandboxError::InvalidId(id.into()));
        }
        Ok(self.root.join(id))
    }

    fn load(&self, id: &str) -> Result<Option<SandboxState>, SandboxError> {
        files::read_json(&self.dir(id)?.join("sandbox.json")).map_err(at("read a sandbox's state"))
    }

    fn sandbox(&self, state: &SandboxState) -> Sandbox {
        Sandbox {
            id: SandboxId(state.spec.id.clone()),
            netns: (!state.spec.host_network).then(|| self.root.join(&state.spec.id).join("net")),
            created: state.created,
            spec: state.spec.clone(),
        }
    }

    fn alive(&self, state: &SandboxState, dir: &Path) -> bool {
        state.boot_id == self.boot_id
            && (state.spec.host_network || is_namespace(&dir.join("net")))
            && (state.spec.host_ipc || is_namespace(&dir.join("ipc")))
            && state.init.is_none_or(|init| init.alive())
    }

    fn tear_down(&self, dir: &Path) -> Result<(), SandboxError> {
        for name in ["net", "ipc", "uts", "shm"] {
            let path = dir.join(name);
            // One mount may lie over another after a failed attempt; EINVAL says that none is left.
            while path.exists() && umount2(&path, MntFlags::MNT_DETACH).is_ok() {}
        }
        files::remove_dir_all(dir).map_err(at("remove the sandbox's folder"))
    }
}

/// The name containers see: the pod's, or the host's on the host's network, whose UTS namespace it has.
pub fn hostname(spec: &SandboxSpec) -> String {
    match spec.hostname.is_empty() || spec.host_network {
        false => spec.hostname.clone(),
        true => nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
    }
}

/// The init has a cgroup of its own below the pod's, because a v2 cgroup with children holds no processes.
fn init_cgroup(spec: &SandboxSpec) -> PathBuf {
    Path::new(&spec.cgroup_parent).join("init")
}

impl InitProcess {
    fn alive(&self) -> bool {
        start_ticks(self.pid) == Some(self.start_ticks)
    }

    /// Waits until a killed init is reaped; it is a child of the machine's init, which does that at once.
    fn wait_gone(&self) {
        for _ in 0..100 {
            if !self.alive() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
}

/// Start time of a live process: field 22 of `/proc/<pid>/stat`, counted after the command's closing bracket.
fn start_ticks(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat[stat.rfind(')')? + 2..].split(' ').collect();
    if matches!(fields.first(), Some(&"Z" | &"X")) {
        return None;
    }
    fields.get(19)?.parse().ok()
}

fn is_namespace(path: &Path) -> bool {
    nix::sys::statfs::statfs(path).is_ok_and(|found| found.filesystem_type() == nix::sys::statfs::NSFS_MAGIC)
}

/// Makes the namespaces on a thread of its own, which joins them alone and then ends.
fn make_namespaces(spec: &SandboxSpec, dir: &Path) -> Result<(), SandboxError> {
    let mut flags = CloneFlags::empty();
    let mut kinds = Vec::new();
    if !spec.host_network {
        // As in the CRI, a pod on the host's network has the host's UTS namespace too.
        flags |= CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWUTS;
        kinds.extend(["net", "uts"]);
    }
    if !spec.host_ipc {
        flags |= CloneFlags::CLONE_NEWIPC;
        kinds.push("ipc");
    }
    for kind in &kinds {
        File::create(dir.join(kind)).map_err(at("make a namespace's file"))?;
    }
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("sandbox".into());
        let made = thread.spawn_scoped(scope, || {
            unshare(flags).map_err(|errno| at("make the pod's namespaces")(errno.into()))?;
            if !spec.host_network {
                nix::unistd::sethostname(hostname(spec)).map_err(|errno| at("set the pod's hostname")(errno.into()))?;
                sys::loopback_up().map_err(at("bring up the pod's loopback interface"))?;
            }
            set_sysctls(spec)?;
            for kind in &kinds {
                let source = PathBuf::from(format!("/proc/thread-self/ns/{kind}"));
                mount(Some(&source), &dir.join(kind), None::<&str>, MsFlags::MS_BIND, None::<&str>)
                    .map_err(|errno| at("pin a namespace")(errno.into()))?;
            }
            Ok(())
        });
        let thread = made.map_err(at("start a thread"))?;
        thread.join().map_err(|_| at("make the pod's namespaces")(io::Error::other("the thread panicked")))?
    })
}

/// containerd 2's defaults for pods with a network of their own: low ports and ping need no privilege
/// (`internal/cri/config/config_unix.go`, `EnableUnprivilegedPorts` and `EnableUnprivilegedICMP`).
const DEFAULT_SYSCTLS: [(&str, &str); 2] =
    [("net.ipv4.ip_unprivileged_port_start", "0"), ("net.ipv4.ping_group_range", "0 2147483647")];

fn set_sysctls(spec: &SandboxSpec) -> Result<(), SandboxError> {
    if !spec.host_network {
        for (name, value) in DEFAULT_SYSCTLS {
            if let Err(error) = std::fs::write(sysctl_path(name), value) {
                tracing::debug!(name, %error, "the kernel does not take a default sysctl");
            }
        }
    }
    for (name, value) in &spec.sysctls {
        std::fs::write(sysctl_path(name), value).map_err(|source| SandboxError::Sysctl {
            name: name.clone(),
            value: value.clone(),
            source,
        })?;
    }
    Ok(())
}

/// `net.ipv4.x` and `net/ipv4/x` name the same file; with slashes, dots belong to the names.
fn sysctl_path(name: &str) -> PathBuf {
    let relative = if name.contains('/') { name.to_owned() } else { name.replace('.', "/") };
    let relative: PathBuf =
        Path::new(&relative).components().filter(|part| matches!(part, std::path::Component::Normal(_))).collect();
    Path::new("/proc/sys").join(relative)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sysctl_names_become_paths_below_proc_sys() {
        fn check(name: &str, path: &str) {
            assert_eq!(sysctl_path(name), Path::new(path), "{name}");
        }
        check("kernel.shm_rmid_forced", "/proc/sys/kernel/shm_rmid_forced");
        check("net/ipv4/conf/eth0.1/forwarding", "/proc/sys/net/ipv4/conf/eth0.1/forwarding");
        check("../../etc/passwd", "/proc/sys/etc/passwd");
    }

    #[test]
    fn ids_that_leave_the_folder_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let store = SandboxStore::new(dir.path().into(), std::sync::Arc::new(base::SystemClock), vec![]).unwrap();
        for id in ["", "..", "a/b", "/etc"] {
            assert!(matches!(store.remove(&SandboxId(id.into())), Err(SandboxError::InvalidId(_))), "{id}");
        }
        store.remove(&SandboxId("absent".into())).unwrap();
    }

    #[test]
    fn own_start_time_is_read() {
        assert!(start_ticks(std::process::id() as i32).is_some_and(|ticks| ticks > 0));
        assert_eq!(start_ticks(i32::MAX), None);
    }
}
