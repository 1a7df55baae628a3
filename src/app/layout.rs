//! Where things lie below the data folder.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow};
use nix::fcntl::{Flock, FlockArg};

/// How often a folder that somebody holds is tried again.
const LOCK_EVERY: Duration = Duration::from_millis(100);

/// Paths of one instance.
#[derive(Debug, Clone)]
pub struct Layout {
    root: PathBuf,
    /// For what must not survive a reboot: pinned namespaces, pods' interfaces.
    run: PathBuf,
}

impl Layout {
    /// The folder of this data folder below `/run` has a name made from its path, so that several servers on one machine
    /// keep apart and every command finds the same one.
    pub fn new(data_dir: &Path) -> Self {
        let root = std::path::absolute(data_dir).unwrap_or_else(|_| data_dir.to_owned());
        // Short names matter here, because a socket's path has at most 107 bytes.
        let hash = base::fnv64a(root.as_os_str().as_encoded_bytes());
        Self { root, run: Path::new("/run/skiff").join(format!("{:08x}", hash >> 32)) }
    }

    fn try_lock(&self) -> anyhow::Result<Option<Flock<File>>> {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.root)
            .with_context(|| format!("cannot make the data folder {}", self.root.display()))?;
        let path = self.root.join("lock");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .with_context(|| format!("cannot open {}", path.display()))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => {
                self.link_run()?;
                Ok(Some(lock))
            }
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(None),
            Err((_, error)) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
        }
    }

    /// [`Layout::lock`], and while somebody holds the folder tries again for `patience`.
    pub async fn lock_within(&self, patience: Duration) -> anyhow::Result<Flock<File>> {
        let deadline = tokio::time::Instant::now() + patience;
        loop {
            match self.try_lock()? {
                Some(lock) => return Ok(lock),
                None if tokio::time::Instant::now() >= deadline => return Err(self.in_use()),
                None => tokio::time::sleep(LOCK_EVERY).await,
            }
        }
    }

    /// Makes the data folder (for root only) and locks it against a second server until the result is dropped.
    pub fn lock(&self) -> anyhow::Result<Flock<File>> {
        self.try_lock()?.ok_or_else(|| self.in_use())
    }

    fn in_use(&self) -> anyhow::Error {
        anyhow!("another skiff uses {}: stop it, or choose another --data-dir", self.root.display())
    }

    /// Makes `<data-dir>/run` point to what lies below `/run`, for people and scripts.
    fn link_run(&self) -> anyhow::Result<()> {
        let link = self.root.join("run");
        match std::os::unix::fs::symlink(&self.run, &link) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                Err(error).with_context(|| format!("cannot make the link {}", link.display()))
            }
            _ => Ok(()),
        }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn tls(&self) -> PathBuf {
        self.root.join("tls")
    }

    pub fn database(&self) -> PathBuf {
        self.root.join("db/state.db")
    }

    pub fn snapshots(&self) -> PathBuf {
        self.root.join("snapshots")
    }

    /// Keys for the database's values, when skiff makes them itself.
    pub fn encryption(&self) -> PathBuf {
        self.root.join("encryption/config.json")
    }

    /// An etcd member of our own.
    pub fn etcd(&self) -> PathBuf {
        self.root.join("etcd")
    }

    /// Its client port, for commands.
    pub fn etcd_port(&self) -> PathBuf {
        self.root.join("etcd.port")
    }

    /// Process id of the etcd member.
    pub fn etcd_pid(&self) -> PathBuf {
        self.root.join("etcd.pid")
    }

    /// Client addresses of all members, as the last start saw them.
    pub fn etcd_endpoints(&self) -> PathBuf {
        self.root.join("etcd.endpoints")
    }

    /// Secret that servers join with.
    pub fn token(&self) -> PathBuf {
        self.root.join("token")
    }

    /// Where commands reach the running server.
    pub fn control_socket(&self) -> PathBuf {
        self.run.join("control.sock")
    }

    pub fn admin_kubeconfig(&self) -> PathBuf {
        self.root.join("admin.kubeconfig")
    }

    /// YAML that is applied.
    pub fn manifests(&self) -> PathBuf {
        self.root.join("manifests")
    }

    /// Image archives that are taken in at start.
    pub fn images(&self) -> PathBuf {
        self.root.join("images")
    }

    pub fn kubelet(&self) -> PathBuf {
        self.root.join("kubelet")
    }

    pub fn pod_logs(&self) -> PathBuf {
        self.root.join("log/pods")
    }

    /// Root and log of a containerd of our own.
    pub fn containerd(&self) -> PathBuf {
        self.root.join("containerd")
    }

    /// Its state and socket.
    pub fn containerd_state(&self) -> PathBuf {
        self.run.join("containerd")
    }

    pub fn runtime_state(&self) -> PathBuf {
        self.run.join("runtime")
    }

    pub fn network_state(&self) -> PathBuf {
        self.run.join("network")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_server_is_told_that_the_folder_is_in_use() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(&dir.path().join("data"));
        let held = layout.lock().unwrap();
        let error = layout.lock().unwrap_err().to_string();
        assert!(error.contains("another skiff uses"), "{error}");
        drop(held);
        layout.lock().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_killed_server_is_waited_for_and_a_running_one_is_not_for_long() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(&dir.path().join("data"));
        let held = layout.lock().unwrap();
        let ending = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(1)).await;
            drop(held);
        });
        let lock = layout.lock_within(Duration::from_secs(5)).await.unwrap();
        ending.await.unwrap();
        let began = tokio::time::Instant::now();
        let error = layout.lock_within(Duration::from_secs(5)).await.unwrap_err().to_string();
        assert!(error.contains("another skiff uses"), "{error}");
        assert_eq!(began.elapsed(), Duration::from_secs(5));
        drop(lock);
    }
}
