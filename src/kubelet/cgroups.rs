//! The cgroups of pods: `kubepods`, a folder for each lower quality class, one for each pod; versions 1 and 2.
//!
//! Containers' own cgroups below a pod's are the runtime's. Upstream: `cm/pod_container_manager_linux.go`,
//! `cm/qos_container_manager_linux.go`, `cm/helpers_linux.go` `ResourceConfigForPod`.

use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Pod;

use crate::resources::{self, Qos};
use crate::spec;

const ROOT: &str = "/sys/fs/cgroup";

#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    #[error("cannot make cgroup {0}")]
    Create(PathBuf, #[source] std::io::Error),
    #[error("cannot remove cgroup {0}")]
    Remove(PathBuf, #[source] std::io::Error),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    /// One hierarchy per controller.
    One,
    Two,
}

/// The node's cgroup tree for pods.
pub struct Cgroups {
    mount: PathBuf,
    version: Version,
    /// Below the mount, e.g. `/kubepods`.
    kubepods: String,
    /// Hierarchies in which pods get folders (version 1); empty for version 2.
    controllers: Vec<PathBuf>,
}

/// What one cgroup is limited to; `None` leaves it alone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    pub cpu_shares: Option<u64>,
    pub cpu_quota_us: Option<i64>,
    pub memory_bytes: Option<i64>,
    pub pids: Option<i64>,
}

impl Cgroups {
    /// Finds the machine's hierarchies. `root` is the folder under which `kubepods` goes, empty for the top.
    pub fn detect(root: &str) -> Self {
        Self::at(Path::new(ROOT), root)
    }

    /// The hierarchies below `mount`.
    pub fn at(mount: &Path, root: &str) -> Self {
        let kubepods = format!("{}/kubepods", root.trim_end_matches('/'));
        if mount.join("cgroup.controllers").exists() {
            return Self { mount: mount.to_owned(), version: Version::Two, kubepods, controllers: Vec::new() };
        }
        let names = ["cpu", "cpuacct", "cpuset", "memory", "pids", "devices", "freezer", "blkio", "hugetlb", "systemd"];
        let mut controllers: Vec<PathBuf> = Vec::new();
        for name in names {
            // `cpu` and `cpuacct` may be links to one hierarchy.
            let Ok(path) = mount.join(name).canonicalize() else { continue };
            if !controllers.contains(&path) {
                controllers.push(path);
            }
        }
        Self { mount: mount.to_owned(), version: Version::One, kubepods, controllers }
    }

    /// Path of a pod's cgroup below the mount, e.g. `/kubepods/burstable/pod<uid>`.
    pub fn pod_path(&self, pod: &Pod) -> String {
        format!("{}/pod{}", self.class_path(resources::qos(pod)), spec::uid(pod))
    }

    fn class_path(&self, qos: Qos) -> String {
        match qos {
            Qos::Guaranteed => self.kubepods.clone(),
            Qos::Burstable => format!("{}/burstable", self.kubepods),
            Qos::BestEffort => format!("{}/besteffort", self.kubepods),
        }
    }

    pub fn is_v2(&self) -> bool {
        self.version == Version::Two
    }

    /// Makes the folders that pods are put under. Best-effort pods get the least CPU share.
    pub fn setup(&self) -> Result<(), CgroupError> {
        self.create(&self.kubepods, &Limits::default())?;
        self.create(&self.class_path(Qos::Burstable), &Limits::default())?;
        self.create(&self.class_path(Qos::BestEffort), &Limits { cpu_shares: Some(2), ..Limits::default() })
    }

    /// Makes a pod's cgroup, or brings its limits up to date.
    pub fn ensure_pod(&self, pod: &Pod) -> Result<(), CgroupError> {
        self.create(&self.pod_path(pod), &pod_limits(pod))
    }

    /// Removes a pod's cgroup, whichever class it was in. Idempotent; its processes must be gone.
    pub fn remove_pod(&self, uid: &str) -> Result<(), CgroupError> {
        for class in [Qos::Guaranteed, Qos::Burstable, Qos::BestEffort] {
            let path = format!("{}/pod{uid}", self.class_path(class));
            for folder in self.folders(&path) {
                if folder.exists() {
                    remove_tree(&folder).map_err(|e| CgroupError::Remove(folder, e))?;
                }
            }
        }
        Ok(())
    }

    /// Uids of pods that have cgroups.
    pub fn pods(&self) -> Vec<String> {
        let classes = [Qos::Guaranteed, Qos::Burstable, Qos::BestEffort];
        let folders = classes.iter().flat_map(|class| self.folders(&self.class_path(*class)));
        let mut uids: Vec<String> = folders
            .filter_map(|folder| std::fs::read_dir(folder).ok())
            .flatten()
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.strip_prefix("pod").map(str::to_owned))
            .collect();
        uids.sort();
        uids.dedup();
        uids
    }

    /// Folder of a pod's cgroup in the hierarchy of one controller.
    pub fn controller_path(&self, controller: &str, path: &str) -> PathBuf {
        let path = path.trim_start_matches('/');
        match self.version {
            Version::Two => self.mount.join(path),
            Version::One => self.mount.join(controller).join(path),
        }
    }

    fn folders(&self, path: &str) -> Vec<PathBuf> {
        let path = path.trim_start_matches('/');
        match self.version {
            Version::Two => vec![self.mount.join(path)],
            Version::One => self.controllers.iter().map(|c| c.join(path)).collect(),
        }
    }

    fn create(&self, path: &str, limits: &Limits) -> Result<(), CgroupError> {
        match self.version {
            Version::Two => self.create_v2(path)?,
            Version::One => self.create_v1(path)?,
        }
        let write = |controller: &str, file: &str, value: String| {
            let target = self.controller_path(controller, path).join(file);
            if let Err(error) = std::fs::write(&target, &value) {
                // The limits are a second fence: those of the containers hold without them.
                tracing::debug!(path = %target.display(), value, error = %error, "cannot set cgroup limit");
            }
        };
        for (controller, file, value) in settings(self.version, limits) {
            write(controller, file, value);
        }
        Ok(())
    }

    fn create_v1(&self, path: &str) -> Result<(), CgroupError> {
        for controller in &self.controllers {
            let mut folder = controller.clone();
            for part in path.split('/').filter(|p| !p.is_empty()) {
                let parent = folder.clone();
                folder.push(part);
                make_folder(&folder)?;
                if controller.ends_with("cpuset") {
                    inherit_cpuset(&parent, &folder);
                }
            }
        }
        Ok(())
    }

    fn create_v2(&self, path: &str) -> Result<(), CgroupError> {
        let mut folder = self.mount.clone();
        for part in path.split('/').filter(|p| !p.is_empty()) {
            enable_controllers(&folder);
            folder.push(part);
            make_folder(&folder)?;
        }
        enable_controllers(&folder);
        Ok(())
    }
}

fn make_folder(folder: &Path) -> Result<(), CgroupError> {
    match std::fs::create_dir(folder) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(CgroupError::Create(folder.to_owned(), error)),
    }
}

/// A new cpuset is empty, and nothing can run in it, until it has CPUs and memory nodes.
fn inherit_cpuset(parent: &Path, folder: &Path) {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let own = std::fs::read_to_string(folder.join(file)).unwrap_or_default();
        if !own.trim().is_empty() {
            continue;
        }
        let copied =
            std::fs::read_to_string(parent.join(file)).and_then(|value| std::fs::write(folder.join(file), value));
        if let Err(error) = copied {
            tracing::debug!(path = %folder.display(), file, error = %error, "cannot set up cpuset");
        }
    }
}

fn enable_controllers(folder: &Path) {
    let available = std::fs::read_to_string(folder.join("cgroup.controllers")).unwrap_or_default();
    for controller in available.split_whitespace() {
        if let Err(error) = std::fs::write(folder.join("cgroup.subtree_control"), format!("+{controller}")) {
            tracing::debug!(path = %folder.display(), controller, error = %error, "cannot enable controller");
        }
    }
}

/// The files that limits are written to: controller, file, value.
fn settings(version: Version, limits: &Limits) -> Vec<(&'static str, &'static str, String)> {
    let mut out = Vec::new();
    match version {
        Version::One => {
            out.extend(limits.cpu_shares.map(|n| ("cpu", "cpu.shares", n.to_string())));
            out.extend(limits.cpu_quota_us.map(|n| ("cpu", "cpu.cfs_quota_us", n.to_string())));
            out.extend(limits.memory_bytes.map(|n| ("memory", "memory.limit_in_bytes", n.to_string())));
            out.extend(limits.pids.map(|n| ("pids", "pids.max", n.to_string())));
        }
        Version::Two => {
            out.extend(limits.cpu_shares.map(|n| ("", "cpu.weight", weight(n).to_string())));
            let max = |n: i64| if n < 0 { "max".to_owned() } else { n.to_string() };
            out.extend(limits.cpu_quota_us.map(|n| ("", "cpu.max", format!("{} 100000", max(n)))));
            out.extend(limits.memory_bytes.map(|n| ("", "memory.max", max(n))));
            out.extend(limits.pids.map(|n| ("", "pids.max", n.to_string())));
        }
    }
    out
}

/// cgroup v2's weight for v1's shares (upstream `getCPUWeight`).
fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

/// Limits of a pod's cgroup (upstream `ResourceConfigForPod`): limits count only when every container has one.
pub fn pod_limits(pod: &Pod) -> Limits {
    let pod_level = spec::spec(pod).resources.as_ref();
    let all = || spec::containers(pod).iter().chain(spec::init_containers(pod));
    let everyone = |name: &str| {
        resources::limit(pod_level, name).is_some()
            || all().all(|c| resources::limit(c.resources.as_ref(), name).is_some())
    };
    let cpu_request = resources::pod_total(pod, "cpu", resources::cpu_request_milli);
    let cpu_limit = resources::pod_total(pod, "cpu", resources::cpu_limit_milli);
    let memory_limit = resources::pod_total(pod, "memory", resources::limit_value);
    let mut limits = Limits { cpu_shares: Some(resources::shares(cpu_request)), ..Limits::default() };
    match resources::qos(pod) {
        Qos::BestEffort => limits.cpu_shares = Some(2),
        Qos::Guaranteed | Qos::Burstable => {
            limits.cpu_quota_us = Some(match everyone("cpu") {
                true => resources::quota_us(cpu_limit).unwrap_or(-1),
                false => -1,
            });
            limits.memory_bytes = Some(if everyone("memory") && memory_limit > 0 { memory_limit } else { -1 });
        }
    }
    limits
}

/// `rmdir` from the leaves up: files of a cgroup cannot be removed, its folders can.
fn remove_tree(folder: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    match std::fs::remove_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pod_from;
    use serde_json::json;

    #[test]
    fn a_pod_without_a_limit_on_every_container_is_not_limited() {
        let pod = pod_from(json!({"metadata": {"name": "p"}, "spec": {"containers": [
            {"name": "a", "resources": {"limits": {"memory": "1Mi"}, "requests": {"cpu": "250m", "memory": "1Mi"}}},
            {"name": "b"}]}}));
        let limits = pod_limits(&pod);
        assert_eq!(limits.memory_bytes, Some(-1));
        assert_eq!(limits.cpu_quota_us, Some(-1));
        assert_eq!(limits.cpu_shares, Some(256));
    }

    #[test]
    fn weights_follow_shares() {
        assert_eq!((weight(2), weight(1024), weight(262_144)), (1, 39, 10_000));
    }
}
