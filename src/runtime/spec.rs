//! From a [`ContainerSpec`] to an OCI runtime specification, as containerd's CRI makes it
//! (`internal/cri/server/container_create.go`, `buildLinuxSpec`).

pub mod capabilities;
pub mod devices;
pub mod mounts;
pub mod oci;
pub mod seccomp;
pub mod user;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::cgroup;
use crate::contract::{ContainerSpec, Resources, SandboxSpec, Seccomp, Security};
use crate::images::config::ImageConfig;
use crate::sandbox::{SandboxPaths, hostname};
use oci::{DeviceRule, Linux, Namespace, Process, Root, Spec};

/// Type URL under which containerd takes a specification as JSON.
pub const SPEC_TYPE_URL: &str = "types.containerd.io/opencontainers/runtime-spec/1/Spec";
/// The same for one process.
pub const PROCESS_TYPE_URL: &str = "types.containerd.io/opencontainers/runtime-spec/1/Process";
/// The same for limits alone.
pub const RESOURCES_TYPE_URL: &str = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources";

/// Containers with the same value share one shim.
const GROUP_ANNOTATION: &str = "io.containerd.runc.v2.group";
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// upstream's `pkg/securitycontext/util.go`, `defaultMaskedPaths`, which the kubelet hands to every runtime.
const MASKED_PATHS: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
const READONLY_PATHS: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Why a specification could not be made. The texts go into the pod's status.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    #[error("no command specified")]
    NoCommand,
    #[error("invalid USER value {0:?}: {1} out of range")]
    InvalidUser(String, &'static str),
    #[error("unable to find user {0}: no matching entries in passwd file")]
    UnknownUser(String),
    #[error("unable to find group {0}: no matching entries in group file")]
    UnknownGroup(String),
    #[error("cannot read the seccomp profile {path:?}")]
    SeccompProfile {
        path: PathBuf,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("failed to mount {path:?}")]
    Mount {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{0:?} cannot be mounted read-only recursively: {1}")]
    RecursiveReadOnly(PathBuf, &'static str),
    #[error("cannot use device {path:?}")]
    Device {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("huge pages are limited but this machine has no hugetlb cgroup controller")]
    NoHugetlb,
    #[error("invalid stop signal {0:?}")]
    StopSignal(String),
    #[error("cannot encode the specification")]
    Encode(#[from] serde_json::Error),
}

/// Everything that a specification is made from.
pub struct Input<'a> {
    pub id: &'a str,
    pub container: &'a ContainerSpec,
    pub sandbox: &'a SandboxSpec,
    pub paths: &'a SandboxPaths,
    pub image: &'a ImageConfig,
    pub user: oci::User,
    /// PID namespace of the container that an ephemeral container targets.
    pub pid_target: Option<PathBuf>,
}

/// The cgroup of a container, below the hierarchy's root.
pub fn cgroup_path(sandbox: &SandboxSpec, id: &str) -> PathBuf {
    Path::new("/").join(sandbox.cgroup_parent.trim_start_matches('/')).join(id)
}

/// The whole specification.
pub fn build(input: &Input<'_>) -> Result<Spec, SpecError> {
    let Input { id, container, sandbox, paths, image, .. } = input;
    let security = &container.security;
    let held = capabilities::resolve(security, &capabilities::own());
    let (mounts, rootfs_propagation) = mounts::resolve(container, paths)?;
    let mut resources = resources(&container.resources)?;
    resources.devices.push(DeviceRule { allow: false, kind: None, major: None, minor: None, access: "rwm".into() });
    let mut device_nodes = Vec::new();
    if security.privileged {
        device_nodes = devices::of_host();
        resources.devices =
            vec![DeviceRule { allow: true, kind: None, major: None, minor: None, access: "rwm".into() }];
    }
    for wanted in &container.devices {
        let (nodes, rules) = devices::requested(wanted)?;
        device_nodes.retain(|node| !nodes.iter().any(|new| new.path == node.path));
        device_nodes.extend(nodes);
        resources.devices.extend(rules);
    }
    let masked = !security.privileged && !security.unmasked_proc;
    let linux = Linux {
        resources,
        cgroups_path: cgroup_path(sandbox, id).to_string_lossy().into_owned(),
        namespaces: namespaces(input),
        devices: device_nodes,
        seccomp: seccomp_profile(security, &held)?,
        rootfs_propagation,
        masked_paths: if masked { masked_paths() } else { Vec::new() },
        readonly_paths: if masked { READONLY_PATHS.to_vec() } else { Vec::new() },
    };
    let process = Process {
        terminal: container.tty,
        user: input.user.clone(),
        args: arguments(container, image)?,
        env: environment(container, image, &hostname(sandbox)),
        cwd: working_dir(container, image),
        capabilities: oci::Capabilities { bounding: held.clone(), effective: held.clone(), permitted: held },
        no_new_privileges: security.no_new_privileges,
        oom_score_adj: container.resources.oom_score_adj.map(allowed_oom_score_adj),
    };
    let mut annotations: BTreeMap<String, String> = BTreeMap::new();
    annotations.insert(GROUP_ANNOTATION.into(), sandbox.id.clone());
    Ok(Spec {
        oci_version: "1.0.2",
        process,
        root: Root { path: "rootfs", readonly: security.read_only_rootfs },
        mounts,
        annotations,
        linux,
    })
}

fn masked_paths() -> Vec<String> {
    let mut paths = MASKED_PATHS.map(str::to_owned).to_vec();
    for cpu in std::fs::read_dir("/sys/devices/system/cpu").into_iter().flatten().flatten() {
        let throttle = cpu.path().join("thermal_throttle");
        if throttle.exists() {
            paths.push(throttle.to_string_lossy().into_owned());
        }
    }
    paths
}

/// Entrypoint and arguments (`internal/cri/opts/spec_opts.go`, `WithProcessArgs`).
fn arguments(container: &ContainerSpec, image: &ImageConfig) -> Result<Vec<String>, SpecError> {
    let mut command = container.command.clone();
    let mut arguments = container.args.clone();
    if command.is_empty() {
        if arguments.is_empty() {
            arguments = image.cmd.clone().unwrap_or_default();
        }
        command = image.entrypoint.clone().unwrap_or_default();
        if command == [""] {
            command.clear();
        }
    }
    command.append(&mut arguments);
    if command.is_empty() { Err(SpecError::NoCommand) } else { Ok(command) }
}

/// A later entry replaces an earlier one of the same name, in the earlier one's place.
fn environment(container: &ContainerSpec, image: &ImageConfig, hostname: &str) -> Vec<String> {
    let mut environment = vec![DEFAULT_PATH.to_owned()];
    if container.tty {
        environment.push("TERM=xterm".into());
    }
    let image_entries = image.env.iter().flatten().cloned();
    let asked = container.env.iter().map(|(name, value)| format!("{name}={value}"));
    for entry in std::iter::once(format!("HOSTNAME={hostname}")).chain(image_entries).chain(asked) {
        let name = entry.split('=').next().unwrap_or_default();
        match environment.iter_mut().find(|existing| existing.split('=').next() == Some(name)) {
            Some(existing) => *existing = entry,
            None => environment.push(entry),
        }
    }
    environment
}

fn working_dir(container: &ContainerSpec, image: &ImageConfig) -> String {
    let asked = container.working_dir.as_deref().filter(|dir| !dir.is_empty());
    asked.or(image.working_dir.as_deref().filter(|dir| !dir.is_empty())).unwrap_or("/").to_owned()
}

fn namespaces(input: &Input<'_>) -> Vec<Namespace> {
    let namespace = |kind, path: Option<&PathBuf>| Namespace { kind, path: path.map(|p| p.to_string_lossy().into()) };
    let mut namespaces = vec![namespace("mount", None)];
    for (kind, path) in [("network", &input.paths.net), ("ipc", &input.paths.ipc), ("uts", &input.paths.uts)] {
        if path.is_some() {
            namespaces.push(namespace(kind, path.as_ref()));
        }
    }
    match (&input.pid_target, &input.paths.pid) {
        (Some(path), _) | (None, Some(path)) => namespaces.push(namespace("pid", Some(path))),
        (None, None) if !input.sandbox.host_pid => namespaces.push(namespace("pid", None)),
        (None, None) => {}
    }
    if cgroup::is_unified() && !input.container.security.privileged {
        namespaces.push(namespace("cgroup", None));
    }
    namespaces
}

fn seccomp_profile(
    security: &Security,
    bounding: &[String],
) -> Result<Option<Box<serde_json::value::RawValue>>, SpecError> {
    if security.privileged {
        return Ok(None);
    }
    Ok(match &security.seccomp {
        Seccomp::Unconfined => None,
        Seccomp::RuntimeDefault => Some(serde_json::value::to_raw_value(&seccomp::default_profile(bounding))?),
        Seccomp::Localhost(path) => Some(seccomp::load(path)?),
    })
}

/// Limits in OCI's form (`internal/cri/opts/spec_linux_opts.go`, `WithResources`).
pub fn resources(wanted: &Resources) -> Result<oci::Resources, SpecError> {
    let mut resources = oci::Resources {
        cpu: oci::Cpu {
            shares: wanted.cpu_shares.filter(|shares| *shares != 0),
            quota: wanted.cpu_quota_us.filter(|quota| *quota != 0),
            period: wanted.cpu_period_us.filter(|period| *period != 0),
            cpus: wanted.cpuset_cpus.clone().filter(|cpus| !cpus.is_empty()),
        },
        ..Default::default()
    };
    resources.memory.limit = wanted.memory_limit_bytes.filter(|limit| *limit != 0);
    if cgroup::has_swap_controller() {
        // Without a limit of its own, swap is closed: memory and swap together get the memory limit.
        resources.memory.swap = wanted.memory_swap_limit_bytes.filter(|limit| *limit != 0).or(resources.memory.limit);
    }
    resources.pids = wanted.pids_limit.filter(|limit| *limit != 0).map(|limit| oci::Pids { limit });
    if !wanted.hugepages.is_empty() {
        if cgroup::has_hugetlb_controller() {
            let limits = wanted.hugepages.iter();
            resources.hugepage_limits =
                limits.map(|(size, limit)| oci::HugepageLimit { page_size: page_size(size), limit: *limit }).collect();
        } else if wanted.hugepages.values().any(|limit| *limit != 0) {
            return Err(SpecError::NoHugetlb);
        }
    }
    Ok(resources)
}

/// Kubernetes says `2Mi` where cgroups say `2MB`; both mean 2^21 bytes.
fn page_size(size: &str) -> String {
    match size.strip_suffix('i') {
        Some(binary) => format!("{binary}B"),
        None => size.to_owned(),
    }
}

/// Without CAP_SYS_RESOURCE a score below our own cannot be set, and runc dies when it tries.
fn allowed_oom_score_adj(wanted: i32) -> i32 {
    if capabilities::own().contains(&"CAP_SYS_RESOURCE") {
        return wanted;
    }
    let own = std::fs::read_to_string("/proc/self/oom_score_adj").ok();
    wanted.max(own.and_then(|own| own.trim().parse().ok()).unwrap_or(0))
}

/// The number of a signal by name (`SIGTERM`, `TERM`, `SIGRTMIN+3`) or number.
pub fn signal_number(name: &str) -> Result<u32, SpecError> {
    let invalid = || SpecError::StopSignal(name.into());
    if let Ok(number) = name.parse::<u32>() {
        return if (1..=64).contains(&number) { Ok(number) } else { Err(invalid()) };
    }
    let upper = name.to_uppercase();
    let short = upper.strip_prefix("SIG").unwrap_or(&upper);
    for (base, sign, number) in [("RTMIN", '+', 34), ("RTMAX", '-', 64)] {
        if let Some(rest) = short.strip_prefix(base) {
            let offset = match rest.strip_prefix(sign) {
                Some(offset) => offset.parse::<u32>().ok().filter(|offset| *offset <= 30).ok_or_else(invalid)?,
                None if rest.is_empty() => 0,
                None => return Err(invalid()),
            };
            return Ok(if sign == '+' { number + offset } else { number - offset });
        }
    }
    let full = format!("SIG{short}");
    full.parse::<nix::sys::signal::Signal>().map(|signal| signal as u32).map_err(|_| invalid())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(items: &[&str]) -> Vec<String> {
        items.iter().map(|item| (*item).to_owned()).collect()
    }

    #[test]
    fn commands_and_arguments_follow_the_image() {
        fn check(command: &[&str], args: &[&str], expected: &[&str]) {
            let image = ImageConfig {
                entrypoint: Some(list(&["/entry"])),
                cmd: Some(list(&["default"])),
                ..Default::default()
            };
            let container = ContainerSpec { command: list(command), args: list(args), ..Default::default() };
            assert_eq!(arguments(&container, &image).unwrap(), expected, "{command:?} {args:?}");
        }
        check(&[], &[], &["/entry", "default"]);
        check(&[], &["mine"], &["/entry", "mine"]);
        check(&["/cmd"], &[], &["/cmd"]);
        check(&["/cmd"], &["a"], &["/cmd", "a"]);
        assert!(matches!(arguments(&ContainerSpec::default(), &ImageConfig::default()), Err(SpecError::NoCommand)));
    }

    #[test]
    fn later_environment_entries_win() {
        let image = ImageConfig { env: Some(list(&["PATH=/image", "A=1"])), ..Default::default() };
        let env = vec![("A".into(), "2=3".into()), ("HOSTNAME".into(), "mine".into())];
        let container = ContainerSpec { env, ..Default::default() };
        assert_eq!(environment(&container, &image, "pod"), ["PATH=/image", "HOSTNAME=mine", "A=2=3"]);
    }

    #[test]
    fn signals_are_named_in_many_ways() {
        fn check(name: &str, number: u32) {
            assert_eq!(signal_number(name).unwrap(), number, "{name}");
        }
        check("SIGTERM", 15);
        check("term", 15);
        check("9", 9);
        check("SIGRTMIN+3", 37);
        check("SIGRTMAX-1", 63);
        for bad in ["", "SIGNOPE", "0", "65", "SIGRTMIN-3"] {
            assert!(signal_number(bad).is_err(), "{bad}");
        }
    }
}
