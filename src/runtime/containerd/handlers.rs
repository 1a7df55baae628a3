//! Runtime handlers: which shim or OCI runtime runs a pod's containers, by the name that a RuntimeClass gives.
//!
//! There is nothing to configure: a handler is there when its program is in the PATH of the search, as k3s finds its
//! alternative runtimes.

use std::path::{Path, PathBuf};

/// The shim of runc and of what is called as runc is.
pub const RUNC_SHIM: &str = "io.containerd.runc.v2";
/// OCI runtimes with runc's command line.
const LIKE_RUNC: [&str; 5] = ["crun", "youki", "nvidia-container-runtime", "nvidia-container-runtime-cdi", "runc"];
const PLACES: [&str; 6] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// How containerd is to run a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handler {
    /// Name of the shim, e.g. `io.containerd.runc.v2`.
    pub shim: String,
    /// The OCI runtime that runc's shim runs; `None`: the configured one.
    pub binary: Option<PathBuf>,
}

/// The handler of a name; empty and `runc` are the default. `None`: there is no such handler here.
pub fn find(name: &str) -> Option<Handler> {
    find_in(name, &PLACES.map(PathBuf::from))
}

fn find_in(name: &str, places: &[PathBuf]) -> Option<Handler> {
    if name.is_empty() || name == "runc" {
        return Some(Handler { shim: RUNC_SHIM.to_owned(), binary: None });
    }
    // The name becomes part of a file's: a RuntimeClass' handler is a DNS label, others are none of ours.
    if !name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
        return None;
    }
    let program = |file: &str| places.iter().map(|place| place.join(file)).find(|path| is_program(path));
    let alias = if name == "nvidia" { "nvidia-container-runtime" } else { name };
    if LIKE_RUNC.contains(&alias) {
        return program(alias).map(|binary| Handler { shim: RUNC_SHIM.to_owned(), binary: Some(binary) });
    }
    let versions = ["v2", "v1"];
    let version = versions.iter().find(|v| program(&format!("containerd-shim-{name}-{v}")).is_some())?;
    Some(Handler { shim: format!("io.containerd.{name}.{version}"), binary: None })
}

fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn handlers_are_what_is_installed() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["crun", "containerd-shim-kata-v2", "containerd-shim-runsc-v1"] {
            let path = dir.path().join(name);
            std::fs::write(&path, "").unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        let places = [dir.path().to_owned()];
        let check = |name: &str, shim: Option<&str>, binary: Option<&str>| {
            let found = find_in(name, &places);
            assert_eq!(found.as_ref().map(|h| h.shim.as_str()), shim, "{name}");
            assert_eq!(found.and_then(|h| h.binary), binary.map(|b| dir.path().join(b)), "{name}");
        };
        check("", Some(RUNC_SHIM), None);
        check("runc", Some(RUNC_SHIM), None);
        check("crun", Some(RUNC_SHIM), Some("crun"));
        check("kata", Some("io.containerd.kata.v2"), None);
        check("runsc", Some("io.containerd.runsc.v1"), None);
        check("youki", None, None);
        check("../etc", None, None);
    }
}
