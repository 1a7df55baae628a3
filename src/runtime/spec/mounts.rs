//! The mounts of a container: the default ones and those asked for (containerd's `internal/cri/opts`, `withMounts`).

use std::path::{Path, PathBuf};

use super::SpecError;
use super::oci::Mount;
use crate::contract::{self, ContainerSpec, Propagation};
use crate::sandbox::SandboxPaths;

fn mount(destination: &str, kind: &'static str, source: &str, options: &[&str]) -> Mount {
    let options = options.iter().map(|option| (*option).to_owned()).collect();
    Mount { destination: destination.into(), kind, source: source.into(), options }
}

fn defaults(privileged: bool) -> Vec<Mount> {
    let access = if privileged { "rw" } else { "ro" };
    vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", access]),
        mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", access]),
    ]
}

fn clean(path: &str) -> PathBuf {
    Path::new("/").join(path.trim_start_matches('/')).components().collect()
}

/// The mounts, and the propagation that the root file system needs for them. Makes host folders that do not exist.
pub fn resolve(spec: &ContainerSpec, sandbox: &SandboxPaths) -> Result<(Vec<Mount>, Option<&'static str>), SpecError> {
    let mut wanted: Vec<contract::Mount> = spec.mounts.clone();
    let asked = |path: &str| spec.mounts.iter().any(|mount| clean(&mount.container_path) == Path::new(path));
    if !asked("/etc/hostname") {
        wanted.push(contract::Mount {
            host_path: sandbox.hostname.clone(),
            container_path: "/etc/hostname".into(),
            read_only: spec.security.read_only_rootfs,
            ..Default::default()
        });
    }
    if !asked("/dev/shm") {
        wanted.push(contract::Mount {
            host_path: sandbox.shm.clone(),
            container_path: "/dev/shm".into(),
            ..Default::default()
        });
    }
    // Fewer parts first, so that an outer mount does not hide an inner one.
    wanted.sort_by_key(|mount| clean(&mount.container_path).components().count());
    let destinations: Vec<PathBuf> = wanted.iter().map(|mount| clean(&mount.container_path)).collect();
    let own_dev = destinations.iter().any(|path| path == Path::new("/dev"));
    let mut mounts = defaults(spec.security.privileged);
    mounts.retain(|mount| {
        let destination = Path::new(&mount.destination);
        let hidden = own_dev && destination.starts_with("/dev");
        !hidden && !destinations.iter().any(|path| path == destination)
    });
    let mut propagation = None;
    for wanted in &wanted {
        mounts.push(bind(wanted)?);
        propagation = match (wanted.propagation, propagation) {
            (Propagation::Bidirectional, _) => Some("rshared"),
            (Propagation::HostToContainer, None) => Some("rslave"),
            (_, before) => before,
        };
    }
    Ok((mounts, propagation))
}

fn bind(wanted: &contract::Mount) -> Result<Mount, SpecError> {
    let failed = |source| SpecError::Mount { path: wanted.host_path.clone(), source };
    if !wanted.host_path.try_exists().map_err(failed)? {
        std::fs::create_dir_all(&wanted.host_path).map_err(failed)?;
    }
    let source = std::fs::canonicalize(&wanted.host_path).map_err(failed)?;
    let propagation = match wanted.propagation {
        Propagation::Private => "rprivate",
        Propagation::HostToContainer => "rslave",
        Propagation::Bidirectional => "rshared",
    };
    let access = match (wanted.read_only, wanted.recursive_read_only) {
        (true, true) if wanted.propagation != Propagation::Private => {
            return Err(SpecError::RecursiveReadOnly(wanted.host_path.clone(), "it needs private propagation"));
        }
        (true, true) => "rro",
        (true, false) => "ro",
        (false, true) => return Err(SpecError::RecursiveReadOnly(wanted.host_path.clone(), "it is writable")),
        (false, false) => "rw",
    };
    let source = source.to_string_lossy();
    Ok(mount(&wanted.container_path, "bind", &source, &["rbind", propagation, access]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(dir: &Path) -> SandboxPaths {
        let hostname = dir.join("hostname");
        std::fs::write(&hostname, "h\n").unwrap();
        SandboxPaths { net: None, ipc: None, uts: None, pid: None, shm: dir.join("shm"), hostname }
    }

    fn wanted(dir: &Path, container_path: &str) -> contract::Mount {
        contract::Mount {
            host_path: dir.join("made/on/demand"),
            container_path: container_path.into(),
            ..Default::default()
        }
    }

    #[test]
    fn asked_mounts_replace_defaults_and_are_ordered_by_depth() {
        let dir = tempfile::tempdir().unwrap();
        let mounts = vec![wanted(dir.path(), "/data/inner"), wanted(dir.path(), "/data"), wanted(dir.path(), "/dev/")];
        let spec = ContainerSpec { mounts, ..Default::default() };
        let (mounts, propagation) = resolve(&spec, &paths(dir.path())).unwrap();
        let destinations: Vec<&str> = mounts.iter().map(|mount| mount.destination.as_str()).collect();
        assert_eq!(
            destinations,
            ["/proc", "/sys", "/sys/fs/cgroup", "/data", "/dev/", "/data/inner", "/etc/hostname", "/dev/shm"]
        );
        assert_eq!(propagation, None);
        assert!(dir.path().join("made/on/demand").is_dir());
    }

    #[test]
    fn propagation_and_read_only_become_options() {
        let dir = tempfile::tempdir().unwrap();
        let mut slave = wanted(dir.path(), "/slave");
        slave.propagation = Propagation::HostToContainer;
        slave.read_only = true;
        let mut recursive = wanted(dir.path(), "/rro");
        (recursive.read_only, recursive.recursive_read_only) = (true, true);
        let spec = ContainerSpec { mounts: vec![slave, recursive.clone()], ..Default::default() };
        let (mounts, propagation) = resolve(&spec, &paths(dir.path())).unwrap();
        let options = |path: &str| mounts.iter().find(|mount| mount.destination == path).unwrap().options.clone();
        assert_eq!(options("/slave"), ["rbind", "rslave", "ro"]);
        assert_eq!(options("/rro"), ["rbind", "rprivate", "rro"]);
        assert_eq!(propagation, Some("rslave"));
        recursive.read_only = false;
        assert!(resolve(&ContainerSpec { mounts: vec![recursive], ..Default::default() }, &paths(dir.path())).is_err());
    }
}
