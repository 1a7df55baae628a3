//! A containerd of our own, when the machine's is not to be used.
//!
//! It has private root, state, socket and configuration, is the leader of its own session, and outlives us with its
//! shims: a restart of ours finds it by its socket. It is started again when it ends.

use std::fs::OpenOptions;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use base::{Backoff, Shutdown};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::net::UnixStream;

use super::connection::Connection;
use crate::process::{ProcessEnd, reap};
use crate::sys;

/// How long a new containerd may take until it answers: it opens its database and walks its snapshots first.
const START_PATIENCE: Duration = Duration::from_secs(60);
/// A log larger than this makes room for a new one at the next start.
const LOG_BYTES_MAX: u64 = 16 << 20;
const STOP_PATIENCE: Duration = Duration::from_secs(30);

/// Where a containerd of ours lives.
#[derive(Debug, Clone)]
pub struct ChildOptions {
    /// Folder with `containerd` and its shim; `None`: PATH, then the usual folders.
    pub binary_dir: Option<PathBuf>,
    /// Images and snapshots; persistent.
    pub root: PathBuf,
    /// Socket and state of running containers; a socket's path has at most 107 bytes.
    pub state: PathBuf,
    /// Its log, appended to.
    pub log: PathBuf,
}

/// Why there is no containerd.
#[derive(Debug, thiserror::Error)]
pub enum ChildError {
    #[error(
        "containerd is not installed: apt-get install containerd, or name the socket of a running one (looked in {0})"
    )]
    NotFound(String),
    #[error("cannot {step} {path:?}")]
    Io {
        step: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot tell the version of {0:?} from {1:?}")]
    Version(PathBuf, String),
    #[error("containerd ended or did not answer within {0:?}; its log is {1:?}")]
    NoAnswer(Duration, PathBuf),
}

fn at<'a>(step: &'static str, path: &'a Path) -> impl Fn(io::Error) -> ChildError + 'a {
    move |source| ChildError::Io { step, path: path.into(), source }
}

impl ChildOptions {
    /// The socket that it listens on.
    pub fn socket(&self) -> PathBuf {
        self.state.join("containerd.sock")
    }
}

/// Makes sure that a containerd of ours runs, and keeps it running until `shutdown`, which leaves it running. Its socket.
pub async fn ensure(options: ChildOptions, shutdown: Shutdown) -> Result<PathBuf, ChildError> {
    let socket = options.socket();
    let pid = match answering(&socket).await {
        Some(pid) => {
            tracing::info!(pid, socket = %socket.display(), "found our containerd running");
            pid
        }
        None => start(&options).await?,
    };
    tokio::spawn(supervise(options, pid, shutdown));
    Ok(socket)
}

/// Ends the containerd that listens on the socket. Its containers go on.
pub async fn stop(options: &ChildOptions) -> Result<(), ChildError> {
    let socket = options.socket();
    let Some(pid) = answering(&socket).await else { return Ok(()) };
    let process = ProcessEnd::of(pid).map_err(at("watch the containerd of", &socket))?;
    kill(Pid::from_raw(pid), Signal::SIGTERM).map_err(|errno| at("end the containerd of", &socket)(errno.into()))?;
    let gone = tokio::time::timeout(STOP_PATIENCE, process.ended()).await;
    gone.map_err(|_| ChildError::NoAnswer(STOP_PATIENCE, options.log.clone()))?;
    Ok(())
}

async fn supervise(options: ChildOptions, mut pid: i32, shutdown: Shutdown) {
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(30));
    loop {
        let watched = match ProcessEnd::of(pid) {
            Ok(process) => {
                tokio::select! {
                    biased;
                    () = shutdown.cancelled() => return,
                    () = process.ended() => {}
                }
                reap(pid);
                Ok(())
            }
            Err(error) => Err(error),
        };
        match watched {
            Ok(()) => tracing::error!(pid, log = %options.log.display(), "containerd ended, starting it again"),
            Err(error) => tracing::debug!(pid, %error, "containerd ended before it could be watched"),
        }
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(backoff.step()) => {}
            }
            match start(&options).await {
                Ok(started) => {
                    pid = started;
                    backoff.reset();
                    break;
                }
                Err(error) => tracing::error!(error = %base::chain(&error), "cannot start containerd"),
            }
        }
    }
}

/// Starts it and waits until it answers.
async fn start(options: &ChildOptions) -> Result<i32, ChildError> {
    let binary = find(options.binary_dir.as_deref())?;
    let major = major_version(&binary)?;
    for dir in [&options.root, &options.state] {
        std::fs::create_dir_all(dir).map_err(at("make the folder", dir))?;
    }
    if let Some(dir) = options.log.parent() {
        std::fs::create_dir_all(dir).map_err(at("make the folder", dir))?;
    }
    let config = options.state.join("config.toml");
    std::fs::write(&config, configuration(options, major)).map_err(at("write", &config))?;
    keep_small(&options.log).map_err(at("rotate the log", &options.log))?;
    let log = OpenOptions::new().create(true).append(true).open(&options.log);
    let log = log.map_err(at("open the log", &options.log))?;
    let errors = log.try_clone().map_err(at("open the log", &options.log))?;
    let mut command = Command::new(&binary);
    command.arg("--config").arg(&config).stdin(Stdio::null()).stdout(log).stderr(errors);
    command.env("PATH", search_path(&binary)).env_remove("NOTIFY_SOCKET").current_dir("/");
    sys::detach(&mut command);
    let child = command.spawn().map_err(at("start", &binary))?;
    let pid = i32::try_from(child.id()).unwrap_or(i32::MAX);
    // `Child` neither waits nor kills when dropped; the supervisor reaps by pid.
    drop(child);
    tracing::info!(pid, binary = %binary.display(), major, "started containerd");
    let process = ProcessEnd::of(pid).map_err(at("watch", &binary))?;
    let socket = options.socket();
    let answer = async {
        let mut pause = Backoff::new(Duration::from_millis(10), Duration::from_millis(200));
        while answering(&socket).await.is_none() {
            tokio::time::sleep(pause.step()).await;
        }
    };
    tokio::select! {
        biased;
        () = process.ended() => {
            reap(pid);
            Err(ChildError::NoAnswer(START_PATIENCE, options.log.clone()))
        }
        answered = tokio::time::timeout(START_PATIENCE, answer) => match answered {
            Ok(()) => Ok(pid),
            Err(_) => Err(ChildError::NoAnswer(START_PATIENCE, options.log.clone())),
        }
    }
}

/// One old log is kept. Only a containerd that is being started has none open.
fn keep_small(log: &Path) -> io::Result<()> {
    match std::fs::metadata(log) {
        Ok(found) if found.len() > LOG_BYTES_MAX => std::fs::rename(log, log.with_extension("log.1")),
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The pid of a containerd that answers on `socket`.
async fn answering(socket: &Path) -> Option<i32> {
    let stream = UnixStream::connect(socket).await.ok()?;
    let pid = stream.peer_cred().ok()?.pid()?;
    drop(stream);
    let asked = Connection::new(socket);
    let mut client = asked.version();
    let answer = tokio::time::timeout(Duration::from_secs(5), client.version(()));
    answer.await.ok()?.ok()?;
    Some(pid)
}

/// The binary that would be started: in `dir`, or with `None` on `PATH` and in the usual folders.
pub fn find(dir: Option<&Path>) -> Result<PathBuf, ChildError> {
    let dirs: Vec<PathBuf> = match dir {
        Some(dir) => vec![dir.into()],
        None => {
            let path = std::env::var_os("PATH").unwrap_or_default();
            let usual = ["/usr/local/bin", "/usr/bin", "/usr/local/sbin", "/usr/sbin"].map(PathBuf::from);
            std::env::split_paths(&path).chain(usual).collect()
        }
    };
    let found = dirs.iter().map(|dir| dir.join("containerd")).find(|path| path.is_file());
    found.ok_or_else(|| {
        let searched: Vec<String> = dirs.iter().map(|dir| dir.display().to_string()).collect();
        ChildError::NotFound(searched.join(":"))
    })
}

/// The folder of the binary comes first: its shim has to be of the same version.
fn search_path(binary: &Path) -> std::ffi::OsString {
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/sbin:/usr/bin:/sbin:/bin".into());
    let own = binary.parent().map(Path::to_owned);
    let joined = std::env::join_paths(own.into_iter().chain(std::env::split_paths(&path)));
    joined.unwrap_or(path)
}

fn major_version(binary: &Path) -> Result<u32, ChildError> {
    let output = Command::new(binary).arg("--version").stdin(Stdio::null()).output().map_err(at("run", binary))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    parse_major(&text).ok_or_else(|| ChildError::Version(binary.into(), text.clone()))
}

/// `containerd github.com/containerd/containerd/v2 v2.3.7 <revision>`, `containerd … 1.6.20~ds1 …`.
fn parse_major(text: &str) -> Option<u32> {
    text.split_whitespace().skip(2).find_map(|word| {
        let (major, rest) = word.trim_start_matches('v').split_once('.')?;
        rest.starts_with(|c: char| c.is_ascii_digit()).then(|| major.parse().ok())?
    })
}

fn configuration(options: &ChildOptions, major: u32) -> String {
    // What we have no use for costs memory, and the CRI would look after our containers too.
    let (version, disabled): (u32, &[&str]) = match major {
        0 | 1 => (2, &["io.containerd.grpc.v1.cri"]),
        _ => (
            3,
            &[
                "io.containerd.grpc.v1.cri",
                "io.containerd.cri.v1.images",
                "io.containerd.cri.v1.runtime",
                "io.containerd.nri.v1.nri",
                "io.containerd.sandbox.controller.v1.shim",
                "io.containerd.podsandbox.controller.v1.podsandbox",
            ],
        ),
    };
    let unused = ["aufs", "btrfs", "devmapper", "zfs", "blockfile", "erofs"];
    let unused = unused.map(|name| format!("io.containerd.snapshotter.v1.{name}"));
    let disabled: Vec<String> = disabled
        .iter()
        .map(|name| (*name).to_owned())
        .chain(unused)
        .chain(["io.containerd.internal.v1.opt".to_owned()])
        .map(|name| format!("{name:?}"))
        .collect();
    format!(
        "# Written at each start.\nversion = {version}\nroot = {:?}\nstate = {:?}\ndisabled_plugins = [{}]\n\n[grpc]\naddress = {:?}\n\n[debug]\nlevel = \"warn\"\n",
        options.root.join("root"),
        options.state.join("state"),
        disabled.join(", "),
        options.socket(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_what_it_prints() {
        fn check(text: &str, major: Option<u32>) {
            assert_eq!(parse_major(text), major, "{text}");
        }
        check("containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+deb12u3", Some(1));
        check("containerd github.com/containerd/containerd/v2 v2.3.7 abcdef", Some(2));
        check("nonsense", None);
    }

    #[test]
    fn a_missing_binary_says_where_it_was_looked_for() {
        let dir = tempfile::tempdir().unwrap();
        let error = find(Some(dir.path())).unwrap_err().to_string();
        assert!(error.contains(&dir.path().display().to_string()), "{error}");
    }
}
