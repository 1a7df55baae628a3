//! A real etcd for one test.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A running etcd; ends with the value.
pub struct EtcdProcess {
    pub endpoint: String,
    child: Child,
}

/// Where etcd is, if it is anywhere; else a word that it is not.
pub fn binary() -> Option<PathBuf> {
    let given = std::env::var_os("ETCD").map(PathBuf::from);
    let kit = std::env::var_os("KIT_WORK").map_or_else(|| PathBuf::from("/var/tmp/k8s-kit"), PathBuf::from);
    let found =
        given.into_iter().chain([kit.join("bin/etcd"), PathBuf::from("/usr/bin/etcd")]).find(|path| path.is_file());
    if found.is_none() {
        eprintln!("skipped: no etcd here; build it with `e2e/kit/build-tools.sh tools`, or name it in ETCD");
    }
    found
}

pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl EtcdProcess {
    /// `None`, with a word why, where there is no etcd.
    pub async fn start(dir: &Path) -> Option<Self> {
        let binary = binary()?;
        let (endpoint, peer) =
            (format!("http://127.0.0.1:{}", free_port()), format!("http://127.0.0.1:{}", free_port()));
        let child = Command::new(binary)
            .args(["--name", "test", "--log-level", "error", "--unsafe-no-fsync"])
            .arg("--data-dir")
            .arg(dir.join("etcd"))
            .args(["--listen-client-urls", &endpoint, "--advertise-client-urls", &endpoint])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("test={peer}")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let started = Self { endpoint, child };
        let address = started.endpoint.trim_start_matches("http://").to_owned();
        let listening = async {
            while tokio::net::TcpStream::connect(&address).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), listening).await.expect("etcd did not start");
        Some(started)
    }
}

impl Drop for EtcdProcess {
    fn drop(&mut self) {
        let _killed = self.child.kill();
        let _ended = self.child.wait();
    }
}
