//! Reading (and, for a pod's init, joining) cgroups of both versions by their files.
//!
//! Paths are below the root of the hierarchy, e.g. `/kubepods/burstable/pod<uid>/<container>`.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::contract::ContainerStats;

const ROOT: &str = "/sys/fs/cgroup";

/// Whether version 2 is the only one here. A machine does not change that while it runs.
pub fn is_unified() -> bool {
    static UNIFIED: OnceLock<bool> = OnceLock::new();
    *UNIFIED.get_or_init(|| {
        nix::sys::statfs::statfs(ROOT)
            .is_ok_and(|found| found.filesystem_type() == nix::sys::statfs::CGROUP2_SUPER_MAGIC)
    })
}

/// Whether swap can be limited, as containerd's `internal/cri/opts` `SwapControllerAvailable` finds it.
pub fn has_swap_controller() -> bool {
    static SWAP: OnceLock<bool> = OnceLock::new();
    *SWAP.get_or_init(|| match is_unified() {
        false => Path::new(ROOT).join("memory/memory.memsw.limit_in_bytes").exists(),
        true => {
            let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
            let path = own.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/");
            directory("memory", Path::new(path)).join("memory.swap.max").exists()
        }
    })
}

/// Whether huge pages can be limited.
pub fn has_hugetlb_controller() -> bool {
    match is_unified() {
        false => Path::new(ROOT).join("hugetlb").exists(),
        true => std::fs::read_to_string(Path::new(ROOT).join("cgroup.controllers"))
            .is_ok_and(|controllers| controllers.split_whitespace().any(|name| name == "hugetlb")),
    }
}

fn directory(controller: &str, path: &Path) -> PathBuf {
    let relative = path.strip_prefix("/").unwrap_or(path);
    match is_unified() {
        true => Path::new(ROOT).join(relative),
        false => Path::new(ROOT).join(controller).join(relative),
    }
}

/// Every hierarchy's directory of `path`; one with version 2.
fn directories(path: &Path) -> Vec<PathBuf> {
    if is_unified() {
        return vec![directory("", path)];
    }
    let Ok(entries) = std::fs::read_dir(ROOT) else { return Vec::new() };
    let hierarchies = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    hierarchies.map(|entry| directory(&entry.file_name().to_string_lossy(), path)).collect()
}

/// Puts a process into the cgroup `path`, made where its parent exists. cpuset is left out: it would need values of its
/// own, and a process that idles needs no CPUs of its own.
pub fn add_process(path: &Path, pid: i32) -> io::Result<()> {
    for dir in directories(path) {
        let parent_exists = dir.parent().is_some_and(|parent| parent.join("cgroup.procs").exists());
        if !parent_exists || dir.starts_with(Path::new(ROOT).join("cpuset")) {
            continue;
        }
        match std::fs::create_dir(&dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => std::fs::write(dir.join("cgroup.procs"), pid.to_string())?,
        }
    }
    Ok(())
}

/// Removes the empty cgroup `path` wherever it is.
pub fn remove(path: &Path) {
    for dir in directories(path) {
        match std::fs::remove_dir(&dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::debug!(cgroup = %dir.display(), %error, "cannot remove a cgroup");
            }
            _ => {}
        }
    }
}

/// How many processes of the cgroup the kernel has killed for its memory limit. `None`: the cgroup is gone.
pub fn oom_kills(path: &Path) -> Option<u64> {
    let file = if is_unified() { "memory.events" } else { "memory.oom_control" };
    let text = std::fs::read_to_string(directory("memory", path).join(file)).ok()?;
    field(&text, "oom_kill")
}

/// The counters of a cgroup, without those of a root file system. A counter that the kernel lacks stays 0.
pub fn stats(path: &Path) -> io::Result<ContainerStats> {
    match is_unified() {
        true => stats_v2(&directory("", path)),
        false => stats_v1(path),
    }
}

fn stats_v2(dir: &Path) -> io::Result<ContainerStats> {
    let cpu = std::fs::read_to_string(dir.join("cpu.stat"))?;
    let memory = std::fs::read_to_string(dir.join("memory.stat")).unwrap_or_default();
    let usage = number(&dir.join("memory.current"));
    Ok(ContainerStats {
        cpu_usage_ns: field(&cpu, "usage_usec").unwrap_or(0).saturating_mul(1000),
        memory_usage_bytes: usage,
        memory_working_set_bytes: usage.saturating_sub(field(&memory, "inactive_file").unwrap_or(0)),
        memory_rss_bytes: field(&memory, "anon").unwrap_or(0),
        page_faults: field(&memory, "pgfault").unwrap_or(0),
        major_page_faults: field(&memory, "pgmajfault").unwrap_or(0),
        pids: number(&dir.join("pids.current")),
        ..Default::default()
    })
}

fn stats_v1(path: &Path) -> io::Result<ContainerStats> {
    let memory_dir = directory("memory", path);
    let memory = std::fs::read_to_string(memory_dir.join("memory.stat"))?;
    let usage = number(&memory_dir.join("memory.usage_in_bytes"));
    Ok(ContainerStats {
        cpu_usage_ns: number(&directory("cpuacct", path).join("cpuacct.usage")),
        memory_usage_bytes: usage,
        memory_working_set_bytes: usage.saturating_sub(field(&memory, "total_inactive_file").unwrap_or(0)),
        memory_rss_bytes: field(&memory, "total_rss").unwrap_or(0),
        page_faults: field(&memory, "total_pgfault").unwrap_or(0),
        major_page_faults: field(&memory, "total_pgmajfault").unwrap_or(0),
        pids: number(&directory("pids", path).join("pids.current")),
        ..Default::default()
    })
}

fn number(path: &Path) -> u64 {
    std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

/// The value after `name` in lines of `name value`.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let text = "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n";
        assert_eq!(field(text, "oom_kill"), Some(3));
        assert_eq!(field(text, "oom"), None);
    }

    #[test]
    fn version_two_files_are_read() {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in [
            ("cpu.stat", "usage_usec 1500\nuser_usec 1000\n"),
            ("memory.stat", "anon 4096\ninactive_file 1000\npgfault 7\npgmajfault 1\n"),
            ("memory.current", "9000\n"),
            ("pids.current", "2\n"),
        ] {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        let stats = stats_v2(dir.path()).unwrap();
        assert_eq!((stats.cpu_usage_ns, stats.memory_working_set_bytes), (1_500_000, 8000));
        assert_eq!((stats.memory_rss_bytes, stats.page_faults, stats.major_page_faults, stats.pids), (4096, 7, 1, 2));
    }
}
