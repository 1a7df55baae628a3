//! `skiff check`: what would keep this machine from being a node, each with the one line that mends it.

use std::path::{Path, PathBuf};

use crate::options::CheckOptions;

/// How a check ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Good(String),
    /// Works, but something is lost; says what.
    Reduced {
        what: String,
        fix: String,
    },
    /// Does not work.
    Bad {
        what: String,
        fix: String,
    },
}

/// One thing looked at.
pub struct Check {
    pub name: &'static str,
    pub outcome: Outcome,
}

/// Looks at everything and prints a line for each. `false` if a node cannot run here.
pub fn run(options: &CheckOptions) -> bool {
    let checks = [
        Check { name: "root", outcome: root() },
        Check { name: "containerd", outcome: containerd(options.containerd.as_deref()) },
        Check { name: "runc", outcome: program("runc", "apt-get install runc") },
        Check { name: "cgroups", outcome: cgroups(Path::new("/sys/fs/cgroup"), Path::new("/proc/cgroups")) },
        Check { name: "overlayfs", outcome: filesystem("overlay") },
        Check { name: "nf_tables", outcome: nf_tables() },
        Check { name: "capabilities", outcome: sys_resource(Path::new("/proc/self/status")) },
        Check { name: "disk", outcome: disk(&options.data_dir) },
    ];
    let mut good = true;
    for Check { name, outcome } in checks {
        match outcome {
            Outcome::Good(what) => println!("ok      {name}: {what}"),
            Outcome::Reduced { what, fix } => println!("reduced {name}: {what} ({fix})"),
            Outcome::Bad { what, fix } => {
                good = false;
                println!("bad     {name}: {what} (fix: {fix})");
            }
        }
    }
    good
}

fn bad(what: impl Into<String>, fix: impl Into<String>) -> Outcome {
    Outcome::Bad { what: what.into(), fix: fix.into() }
}

fn root() -> Outcome {
    if nix::unistd::geteuid().is_root() {
        Outcome::Good("running as root".to_owned())
    } else {
        bad("not running as root", "sudo skiff check")
    }
}

fn containerd(socket: Option<&Path>) -> Outcome {
    match socket {
        None => match runtime::containerd::child::find(None) {
            Ok(path) => Outcome::Good(path.display().to_string()),
            Err(_) => bad("containerd is not installed", "apt-get install containerd"),
        },
        Some(socket) => match std::os::unix::net::UnixStream::connect(socket) {
            Ok(_) => Outcome::Good(format!("answers at {}", socket.display())),
            Err(error) => {
                bad(format!("{}: {error}", socket.display()), "systemctl start containerd, or leave out --containerd")
            }
        },
    }
}

/// The folders that programs are looked for in.
fn search_path() -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> =
        std::env::var_os("PATH").map(|path| std::env::split_paths(&path).collect()).unwrap_or_default();
    folders.extend(["/usr/bin", "/usr/sbin", "/usr/local/bin"].map(PathBuf::from));
    folders
}

fn program(name: &str, fix: &str) -> Outcome {
    match search_path().into_iter().map(|folder| folder.join(name)).find(|path| path.is_file()) {
        Some(path) => Outcome::Good(path.display().to_string()),
        None => bad(format!("{name} is not installed"), fix),
    }
}

fn cgroups(mount: &Path, controllers: &Path) -> Outcome {
    let unified = std::fs::read_to_string(mount.join("cgroup.controllers")).unwrap_or_default();
    if unified.split_whitespace().any(|c| c == "memory") {
        return Outcome::Good("version 2".to_owned());
    }
    let table = std::fs::read_to_string(controllers).unwrap_or_default();
    let enabled = |name: &str| {
        table
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>())
            .any(|columns| matches!(columns.as_slice(), [controller, _, _, "1"] if *controller == name))
    };
    if !enabled("memory") {
        return bad(
            "the memory controller is switched off",
            "add cgroup_enable=memory cgroup_memory=1 to the kernel's command line and reboot",
        );
    }
    if mount.join("memory").is_dir() {
        Outcome::Good("version 1".to_owned())
    } else {
        bad("no cgroup hierarchy is mounted", "mount -t cgroup2 none /sys/fs/cgroup")
    }
}

fn filesystem(name: &str) -> Outcome {
    let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if known.split_whitespace().any(|word| word == name) {
        Outcome::Good("known to the kernel".to_owned())
    } else {
        bad(format!("the kernel does not know {name}"), format!("modprobe {name}"))
    }
}

fn nf_tables() -> Outcome {
    use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
    match socket(AddressFamily::Netlink, SockType::Raw, SockFlag::empty(), SockProtocol::NetlinkNetFilter) {
        Ok(_) => Outcome::Good("netfilter's netlink answers".to_owned()),
        Err(error) => bad(format!("netfilter's netlink does not answer: {error}"), "modprobe nf_tables"),
    }
}

/// Without `CAP_SYS_RESOURCE` `oom_score_adj` cannot be lowered, so critical pods are not protected.
fn sys_resource(status: &Path) -> Outcome {
    const CAP_SYS_RESOURCE: u32 = 24;
    let text = std::fs::read_to_string(status).unwrap_or_default();
    let effective = text
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or_default();
    if effective & (1 << CAP_SYS_RESOURCE) != 0 {
        Outcome::Good("complete".to_owned())
    } else {
        Outcome::Reduced {
            what: "CAP_SYS_RESOURCE is missing: oom_score_adj cannot be lowered".to_owned(),
            fix: "run with full capabilities".to_owned(),
        }
    }
}

fn disk(data_dir: &Path) -> Outcome {
    const LEAST_FREE: u64 = 1 << 30;
    let existing = data_dir.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    match nix::sys::statvfs::statvfs(existing) {
        Ok(stat) => {
            let free = stat.blocks_available() * stat.fragment_size();
            if free >= LEAST_FREE {
                Outcome::Good(format!("{} MiB free below {}", free >> 20, data_dir.display()))
            } else {
                bad(
                    format!("only {} MiB free below {}", free >> 20, data_dir.display()),
                    "free some space, or choose another --data-dir",
                )
            }
        }
        Err(error) => bad(format!("{}: {error}", existing.display()), "choose another --data-dir"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_switched_off_memory_controller_is_named_with_its_fix() {
        let dir = tempfile::tempdir().unwrap();
        let table = dir.path().join("cgroups");
        std::fs::write(&table, "#subsys_name hierarchy num_cgroups enabled\nmemory 0 1 0\n").unwrap();
        match cgroups(dir.path(), &table) {
            Outcome::Bad { fix, .. } => assert!(fix.contains("cgroup_enable=memory")),
            other => panic!("{other:?}"),
        }
        std::fs::write(&table, "memory 4 1 1\n").unwrap();
        std::fs::create_dir(dir.path().join("memory")).unwrap();
        assert_eq!(cgroups(dir.path(), &table), Outcome::Good("version 1".to_owned()));
        std::fs::write(dir.path().join("cgroup.controllers"), "cpu memory pids\n").unwrap();
        assert_eq!(cgroups(dir.path(), &table), Outcome::Good("version 2".to_owned()));
    }
}
