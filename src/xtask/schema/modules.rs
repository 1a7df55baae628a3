//! The Go modules that are read, fetched by the go command and pinned by hash.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, bail, ensure};
use serde::Deserialize;

/// Module, version and the `h1:` hash of its content as go.sum has it.
const PINS: &[(&str, &str, &str)] = &[
    ("k8s.io/kubernetes", "v1.37.0", "h1:TDSD+Izz9inqs7SmtJCAu7L5/DuYW9hAZ3GBdF6Ddkw="),
    ("k8s.io/api", "v0.37.0", "h1:Z//Vj9N7RA/yS2sDmxyeo7h+RR4zbUrd2vrd3Z0TbB4="),
    ("k8s.io/apimachinery", "v0.37.0", "h1:Np2AbDtf8x6RDHiD8T9LbKJ9gaegeVNa8yNm5FuGKm0="),
    ("k8s.io/apiextensions-apiserver", "v0.37.0", "h1:zRMQ3+/LIE5oZ0tVvXwYHC+dIkSP5cjNWju7AZU1LOI="),
    ("k8s.io/kube-aggregator", "v0.37.0", "h1:XCCpIDBzwM1s+FdQEiTuyFcPtByVLfJ7NyVrj8YDbTw="),
];

/// Directories of the modules by module path.
pub struct Modules(BTreeMap<&'static str, PathBuf>);

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Download {
    #[serde(default)]
    dir: PathBuf,
    #[serde(default)]
    sum: String,
    #[serde(default)]
    error: String,
}

impl Modules {
    /// Asks the go command for each module (from its cache, or the module proxy) and compares the hash.
    pub fn fetch() -> anyhow::Result<Self> {
        let mut dirs = BTreeMap::new();
        for (module, version, hash) in PINS {
            let output = Command::new("go")
                .args(["mod", "download", "-json", &format!("{module}@{version}")])
                .current_dir(std::env::temp_dir())
                .output()
                .context("run the go command (is Go installed?)")?;
            let download: Download = serde_json::from_slice(&output.stdout)
                .with_context(|| format!("{module}: {}", String::from_utf8_lossy(&output.stderr)))?;
            ensure!(download.error.is_empty(), "{module}@{version}: {}", download.error);
            ensure!(download.sum == *hash, "{module}@{version} has hash {}, pinned is {hash}", download.sum);
            dirs.insert(*module, download.dir);
        }
        Ok(Self(dirs))
    }

    /// The directory of a Go package, e.g. `k8s.io/api/core/v1`. `None` if it is in none of the modules.
    pub fn package(&self, path: &str) -> Option<PathBuf> {
        self.0.iter().find_map(|(module, dir)| {
            let rest = path.strip_prefix(module)?;
            (rest.is_empty() || rest.starts_with('/')).then(|| dir.join(rest.trim_start_matches('/')))
        })
    }

    /// The text of a file of `k8s.io/kubernetes`.
    pub fn kubernetes_file(&self, path: &str) -> anyhow::Result<String> {
        let Some(dir) = self.0.get("k8s.io/kubernetes") else { bail!("k8s.io/kubernetes is not pinned") };
        let path = dir.join(path);
        std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
    }
}
