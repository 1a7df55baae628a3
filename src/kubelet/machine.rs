//! What the machine is: read once at start from `/proc`, `/sys` and `/etc`.

use std::collections::BTreeMap;
use std::path::Path;

use crate::config::KubeletConfig;
use crate::resources;

/// Hardware and system facts of the node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Machine {
    pub cpus: u64,
    pub memory_bytes: u64,
    /// Bytes of the file system that holds the node agent's folder.
    pub disk_bytes: u64,
    /// Size in bytes of all pages, by page size as Kubernetes names it (`2Mi`).
    pub hugepages: BTreeMap<String, u64>,
    pub machine_id: String,
    pub system_uuid: String,
    pub boot_id: String,
    pub kernel: String,
    pub os_image: String,
    /// Go's name of the architecture.
    pub arch: &'static str,
}

impl Machine {
    /// Reads the facts; what cannot be read stays empty.
    pub fn detect(config: &KubeletConfig) -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let first = |paths: &[&str]| paths.iter().map(|p| read(p)).find(|s| !s.is_empty()).unwrap_or_default();
        let machine_id = first(&["/etc/machine-id", "/var/lib/dbus/machine-id"]);
        let boot_id = read("/proc/sys/kernel/random/boot_id");
        let system_uuid = first(&["/sys/class/dmi/id/product_uuid", "/proc/device-tree/system-id"]);
        Self {
            cpus: std::thread::available_parallelism().map_or(1, |n| n.get() as u64),
            memory_bytes: meminfo(&read("/proc/meminfo"), "MemTotal"),
            disk_bytes: disk(&config.root_dir).map_or(0, |d| d.capacity),
            hugepages: hugepages(Path::new("/sys/kernel/mm/hugepages")),
            system_uuid: if system_uuid.is_empty() { machine_id.clone() } else { system_uuid.to_lowercase() },
            machine_id,
            boot_id,
            kernel: read("/proc/sys/kernel/osrelease"),
            os_image: os_image(&read("/etc/os-release")),
            arch: match std::env::consts::ARCH {
                "x86_64" => "amd64",
                "aarch64" => "arm64",
                other => other,
            },
        }
    }

    /// Capacity by resource name: thousandths of CPUs, bytes of others.
    pub fn capacity(&self, config: &KubeletConfig, name: &str) -> i64 {
        let n = match name {
            "cpu" => self.cpus * 1000,
            "memory" => self.memory_bytes,
            "ephemeral-storage" => self.disk_bytes,
            "pods" => u64::from(config.max_pods),
            other => other.strip_prefix("hugepages-").and_then(|s| self.hugepages.get(s)).copied().unwrap_or(0),
        };
        i64::try_from(n).unwrap_or(i64::MAX)
    }

    /// Capacity less what is reserved and kept free by hard eviction thresholds (upstream `GetNodeAllocatable`).
    pub fn allocatable(&self, config: &KubeletConfig, name: &str) -> i64 {
        let capacity = self.capacity(config, name);
        let quantity = |text: &str| {
            let q = k8s_openapi::apimachinery::pkg::api::resource::Quantity(text.to_owned());
            if name == "cpu" { resources::milli(&q) } else { resources::value(&q) }
        };
        let reserved = config.reserved.get(name).and_then(|text| quantity(text)).unwrap_or(0);
        let signal = match name {
            "memory" => "memory.available",
            "ephemeral-storage" => "nodefs.available",
            _ => "",
        };
        let kept = config.eviction_hard.get(signal).map_or(0, |t| threshold(t, capacity));
        let huge: i64 = match name {
            "memory" => self.hugepages.values().map(|n| i64::try_from(*n).unwrap_or(0)).sum(),
            _ => 0,
        };
        (capacity - reserved - kept - huge).max(0)
    }
}

/// A threshold in bytes: a quantity, or a percentage of the capacity.
pub fn threshold(text: &str, capacity: i64) -> i64 {
    match text.strip_suffix('%').and_then(|p| p.parse::<f64>().ok()) {
        Some(percent) => (capacity as f64 * percent / 100.0) as i64,
        None => resources::parse(text).unwrap_or(0),
    }
}

/// Space of a file system.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Disk {
    pub capacity: u64,
    pub available: u64,
    pub inodes: u64,
    pub inodes_free: u64,
}

/// The file system that holds `path`, or its nearest parent that exists.
pub fn disk(path: &Path) -> Option<Disk> {
    let existing = path.ancestors().find(|p| p.exists())?;
    let stat = nix::sys::statvfs::statvfs(existing).ok()?;
    let unit = stat.fragment_size();
    Some(Disk {
        capacity: stat.blocks() * unit,
        available: stat.blocks_available() * unit,
        inodes: stat.files(),
        inodes_free: stat.files_available(),
    })
}

/// A line of `/proc/meminfo`, in bytes.
pub fn meminfo(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'));
    let kib = line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0);
    kib * 1024
}

fn os_image(text: &str) -> String {
    let value = text.lines().find_map(|l| l.strip_prefix("PRETTY_NAME="));
    value.map(|v| v.trim_matches('"').to_owned()).unwrap_or_else(|| "Linux".to_owned())
}

fn hugepages(folder: &Path) -> BTreeMap<String, u64> {
    let mut out = BTreeMap::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let kib = name.strip_prefix("hugepages-").and_then(|n| n.strip_suffix("kB")?.parse::<u64>().ok());
        let count = std::fs::read_to_string(entry.path().join("nr_hugepages")).ok();
        let count = count.and_then(|c| c.trim().parse::<u64>().ok());
        if let (Some(kib), Some(count)) = (kib, count) {
            let size = if kib % (1 << 20) == 0 {
                format!("{}Gi", kib >> 20)
            } else if kib % (1 << 10) == 0 {
                format!("{}Mi", kib >> 10)
            } else {
                format!("{kib}Ki")
            };
            out.insert(size, kib * 1024 * count);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_read_from_the_kernels_texts() {
        assert_eq!(meminfo("MemTotal:  2048 kB\nMemFree: 1 kB", "MemTotal"), 2 << 20);
        assert_eq!(os_image("NAME=x\nPRETTY_NAME=\"Debian 13\"\n"), "Debian 13");
        assert_eq!((threshold("10%", 1000), threshold("100Mi", 1)), (100, 100 << 20));
    }
}
