//! Starting one container (upstream `kuberuntime_container.go` `startContainer`, `generateContainerConfig`).

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use client::EventType;
use k8s_openapi::api::core::v1::{Container, Pod, VolumeMount};
use runtime::{ContainerId, ContainerSpec, Device, Image, Labels, Mount, Propagation, Resources, RuntimeError};

use super::{RETRY, Start, hooks, kill};
use crate::context::Context;
use crate::plan::KillReason;
use crate::volumes::{self, Mounted};
use crate::{env, files, images, names, resize, resources, security, spec};

/// Why a container did not start: reason and message of its waiting state.
#[derive(Debug)]
pub struct Failure {
    pub reason: &'static str,
    pub message: String,
    pub retry_after: Duration,
}

fn config_error(message: String) -> Failure {
    Failure { reason: "CreateContainerConfigError", message, retry_after: RETRY }
}

/// Pulls the image, makes the container, starts it and runs its `postStart` hook.
pub async fn start(ctx: &Context, pod: &Pod, start: &Start<'_>) -> Result<(), Failure> {
    let container = start.container;
    let warn = |text: &str| {
        ctx.events.container(pod, &container.name, EventType::Warning, "Failed", &format!("Error: {text}"));
    };
    let mut steps = Steps::new();
    let image = images::ensure(ctx, pod, container).await.map_err(|error| {
        warn(error.reason);
        Failure { reason: error.reason, message: error.message, retry_after: error.retry_after }
    })?;
    steps.done("image");
    let spec = prepare(ctx, pod, start, &image).await.inspect_err(|failure| warn(&failure.message))?;
    steps.done("prepare");
    let id = ctx.runtime.create_container(&spec).await.map_err(|error| {
        let message = start_text(&error);
        warn(&message);
        Failure { reason: "CreateContainerError", message, retry_after: RETRY }
    })?;
    let normal = |reason: &str, text: &str| {
        ctx.events.container(pod, &container.name, EventType::Normal, reason, text);
    };
    steps.done("create");
    normal("Created", "Container created");
    let started = ctx.runtime.start_container(&id).await;
    refresh(ctx, &id).await;
    if let Err(error) = started {
        let message = start_text(&error);
        warn(&message);
        ctx.cache.start_failed(&id, message.clone(), ctx.clock.now());
        return Err(Failure { reason: "RunContainerError", message, retry_after: Duration::ZERO });
    }
    steps.done("start");
    tracing::debug!(pod = spec::full_name(pod), container = container.name, steps_ms = ?steps.list(), "container started");
    normal("Started", "Container started");
    link_log(ctx, pod, container, &id, &spec.log_path);
    let Some(hook) = container.lifecycle.as_ref().and_then(|l| l.post_start.as_ref()) else { return Ok(()) };
    if let Err(error) = hooks::run(ctx, pod, container, &id, hook, "PostStart").await {
        // Not the hook's own words: an event must not carry what the hook may have printed.
        let text = "PostStartHook failed";
        ctx.events.container(pod, &container.name, EventType::Warning, "FailedPostStartHook", text);
        let order = kill::Request { message: "FailedPostStartHook", reason: KillReason::Unknown, grace_override: None };
        if let Err(error) = kill::container(ctx, pod, &id, &container.name, order, None).await {
            tracing::warn!(container = id.0, error = %base::chain(&error), "cannot stop container");
        }
        return Err(Failure { reason: "PostStartHookError", message: error, retry_after: Duration::ZERO });
    }
    Ok(())
}

/// How long each step of something took, for the log.
pub(super) struct Steps(Vec<(&'static str, u128)>, tokio::time::Instant);

impl Steps {
    pub(super) fn new() -> Self {
        Self(Vec::new(), tokio::time::Instant::now())
    }

    pub(super) fn done(&mut self, step: &'static str) {
        let now = tokio::time::Instant::now();
        self.0.push((step, now.duration_since(self.1).as_millis()));
        self.1 = now;
    }

    pub(super) fn list(&self) -> &[(&'static str, u128)] {
        &self.0
    }
}

/// Errors that the runtime means for users are shown as they are.
fn start_text(error: &RuntimeError) -> String {
    base::chain(error).to_string()
}

/// Reads the container's state again now, instead of waiting for the runtime's event.
pub async fn refresh(ctx: &Context, id: &ContainerId) {
    if let Err(error) = ctx.cache.refresh(id).await {
        tracing::debug!(container = id.0, error = %base::chain(&error), "cannot read container");
    }
}

async fn prepare(ctx: &Context, pod: &Pod, start: &Start<'_>, image: &Image) -> Result<ContainerSpec, Failure> {
    let container = start.container;
    let text = |e: &(dyn std::error::Error + 'static)| config_error(base::chain(e).to_string());
    let restart_count = restart_count(ctx, pod, &container.name);
    let pid_target = match start.kind {
        Some(target) => Some(pid_target(ctx, pod, target)?),
        None => None,
    };
    let env = env::make(ctx, pod, container, start.ips).await.map_err(|e| text(&e))?;
    let security = security::of(&ctx.config, pod, container, image).map_err(|e| text(&e))?;
    let lookup = |name: &str| env.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone());
    let mut room = env::EXPANDED_MAX;
    let mut expanded = |list: &Option<Vec<String>>| -> Result<Vec<String>, env::TooLong> {
        list.iter().flatten().map(|text| env::expand(text, &mut room, lookup)).collect()
    };
    let command = expanded(&container.command).map_err(|e| text(&e))?;
    let args = expanded(&container.args).map_err(|e| text(&e))?;
    let mut mounts = volume_mounts(ctx, pod, container, start.mounted, &env).await?;
    let devices = volume_devices(container, start.mounted)?;
    let termination_file = termination_log(ctx, pod, container, &mut mounts)?;
    pod_files(ctx, pod, start.ips, security.read_only_rootfs, &mut mounts).map_err(|e| text(&e))?;
    // Parents before what is mounted inside them.
    mounts.sort_by_key(|m| Path::new(&m.container_path).components().count());
    let log_path = ctx
        .config
        .pod_log_dir(spec::namespace(pod), spec::name(pod), spec::uid(pod))
        .join(&container.name)
        .join(format!("{restart_count}.log"));
    if let Some(folder) = log_path.parent() {
        std::fs::create_dir_all(folder).map_err(|e| {
            config_error(format!("create container log directory for container {} failed: {e}", container.name))
        })?;
    }
    Ok(ContainerSpec {
        sandbox: spec::uid(pod).to_owned(),
        image: image.id.clone(),
        command,
        args,
        env,
        working_dir: container.working_dir.clone().filter(|d| !d.is_empty()),
        mounts,
        devices,
        resources: limits(ctx, pod, container),
        security,
        stdin: container.stdin == Some(true),
        stdin_once: container.stdin_once == Some(true),
        tty: container.tty == Some(true),
        log_path,
        labels: labels(pod, container),
        annotations: annotations(pod, container, restart_count, &termination_file),
        stop_signal: container.lifecycle.as_ref().and_then(|l| l.stop_signal.clone()),
        pid_target,
    })
}

fn pid_target(ctx: &Context, pod: &Pod, target: &str) -> Result<ContainerId, Failure> {
    let observed = ctx.cache.pod(spec::uid(pod));
    match observed.latest(target) {
        Some(container) if container.is_running() => Ok(container.id.clone()),
        Some(_) => Err(config_error(format!("target container {target:?} is not running"))),
        None => Err(config_error(format!("unable to find target container {target}"))),
    }
}

/// One more than the newest container's; or than the newest log's, when all containers are gone.
fn restart_count(ctx: &Context, pod: &Pod, name: &str) -> u32 {
    if let Some(newest) = ctx.cache.pod(spec::uid(pod)).latest(name) {
        return newest.restart_count + 1;
    }
    let folder = ctx.config.pod_log_dir(spec::namespace(pod), spec::name(pod), spec::uid(pod)).join(name);
    let logs = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let counts = logs.filter_map(|e| e.file_name().to_str()?.split('.').next()?.parse::<u32>().ok());
    counts.max().map_or(0, |n| n + 1)
}

fn labels(pod: &Pod, container: &Container) -> Labels {
    [
        (names::POD_NAME, spec::name(pod)),
        (names::POD_NAMESPACE, spec::namespace(pod)),
        (names::POD_UID, spec::uid(pod)),
        (names::CONTAINER_NAME, &container.name),
    ]
    .into_iter()
    .map(|(k, v)| (k.to_owned(), v.to_owned()))
    .collect()
}

fn annotations(pod: &Pod, container: &Container, restart_count: u32, termination_file: &Path) -> Labels {
    let mut out = Labels::new();
    let mut put = |key: &str, value: String| {
        out.insert(key.to_owned(), value);
    };
    put(names::CONTAINER_HASH, spec::hash(container));
    put(names::CONTAINER_RESTART_COUNT, restart_count.to_string());
    put(names::TERMINATION_MESSAGE_PATH, container.termination_message_path.clone().unwrap_or_default());
    put(names::TERMINATION_MESSAGE_POLICY, container.termination_message_policy.clone().unwrap_or_default());
    put(names::TERMINATION_LOG_FILE, termination_file.display().to_string());
    put(names::ACTUATED_RESOURCES, resize::record(container.resources.as_ref()));
    if let Some(seconds) = spec::spec(pod).termination_grace_period_seconds {
        put(names::POD_TERMINATION_GRACE_PERIOD, seconds.to_string());
    }
    out
}

/// The kernel's limits of a container (upstream `generateLinuxContainerResources`).
pub fn limits(ctx: &Context, pod: &Pod, container: &Container) -> Resources {
    let own = container.resources.as_ref();
    let cpu_limit = resources::cpu_limit_milli(own, "cpu").filter(|n| *n > 0);
    // Without a request, the limit counts.
    let cpu_request = resources::cpu_request_milli(own, "cpu").or(cpu_limit).unwrap_or(0);
    let capacity = i64::try_from(ctx.machine.memory_bytes).unwrap_or(i64::MAX);
    let huge = own.and_then(|r| r.limits.as_ref()).into_iter().flatten().filter_map(|(name, quantity)| {
        let size = name.strip_prefix("hugepages-")?;
        Some((size.to_owned(), u64::try_from(resources::value(quantity)?).ok()?))
    });
    Resources {
        cpu_shares: Some(resources::shares(cpu_request)),
        cpu_quota_us: cpu_limit.and_then(resources::quota_us),
        cpu_period_us: cpu_limit.map(|_| resources::QUOTA_PERIOD_US),
        memory_limit_bytes: resources::limit_value(own, "memory").filter(|n| *n > 0),
        oom_score_adj: Some(resources::oom_score_adj(pod, container, capacity)),
        hugepages: huge.collect(),
        ..Resources::default()
    }
}

/// Gives a running container its changed limits.
pub async fn resize(ctx: &Context, pod: &Pod, id: &ContainerId) {
    let observed = ctx.cache.pod(spec::uid(pod));
    let Some(running) = observed.containers.iter().find(|c| c.id == *id) else { return };
    let Some((_, container)) = spec::find(pod, &running.name) else { return };
    if let Err(error) = ctx.cgroups.ensure_pod(pod) {
        tracing::warn!(pod = spec::full_name(pod), error = %base::chain(&error), "cannot resize the pod's cgroup");
    }
    let limits = limits(ctx, pod, &container);
    if let Some(why) = below_usage(ctx, id, &limits).await {
        resize::allocation::note_error(ctx, pod, &why);
        return;
    }
    match ctx.runtime.update_resources(id, &limits).await {
        Ok(()) => ctx.cache.set_actuated(id, resize::record(container.resources.as_ref())),
        Err(error) => {
            let text = format!("failed to resize container {}: {}", container.name, base::chain(&error));
            resize::allocation::note_error(ctx, pod, &text);
        }
    }
}

/// The kernel would kill a container whose limit falls below what it uses (upstream `validateMemoryResizeAction`).
async fn below_usage(ctx: &Context, id: &ContainerId, limits: &Resources) -> Option<String> {
    let limit = u64::try_from(limits.memory_limit_bytes?).ok()?;
    let used = ctx.runtime.stats(id).await.ok()?.memory_usage_bytes;
    (used > limit).then(|| format!("attempting to set container memory limit ({limit}) below current usage ({used})"))
}

fn propagation(mount: &VolumeMount) -> Propagation {
    match mount.mount_propagation.as_deref() {
        Some("HostToContainer") => Propagation::HostToContainer,
        Some("Bidirectional") => Propagation::Bidirectional,
        _ => Propagation::Private,
    }
}

async fn volume_mounts(
    ctx: &Context,
    pod: &Pod,
    container: &Container,
    mounted: &Mounted,
    env: &[(String, String)],
) -> Result<Vec<Mount>, Failure> {
    let mut out = Vec::new();
    for (i, mount) in container.volume_mounts.iter().flatten().enumerate() {
        let Some(volume) = mounted.paths.get(&mount.name) else {
            return Err(config_error(format!(
                "cannot find volume {:?} to mount into container {:?}",
                mount.name, container.name
            )));
        };
        let sub_path = sub_path(mount, env)?;
        let mut host_path = volume.clone();
        if !sub_path.is_empty() {
            let target = ctx
                .config
                .pod_dir(spec::uid(pod))
                .join("volume-subpaths")
                .join(&mount.name)
                .join(&container.name)
                .join(i.to_string());
            let (volume, sub) = (volume.clone(), sub_path.clone());
            let result = volumes::blocking(move || {
                use std::os::unix::fs::PermissionsExt;
                let mode = std::fs::metadata(&volume).map_or(0o755, |m| m.permissions().mode() & 0o7777);
                volumes::subpath::mount(&volume, &sub, &target, mode)
            })
            .await;
            host_path = result.map_err(|e| {
                let error = base::chain(&e).to_string();
                tracing::warn!(pod = spec::full_name(pod), sub_path, error, "cannot prepare subPath");
                config_error(format!(
                    "failed to prepare subPath for volumeMount {:?} of container {:?}",
                    mount.name, container.name
                ))
            })?;
        } else if !host_path.exists() {
            // As containerd does for a hostPath without a type.
            std::fs::create_dir_all(&host_path)
                .map_err(|e| config_error(format!("failed to mkdir {:?}: {e}", host_path.display())))?;
        }
        let read_only = mount.read_only == Some(true) || mounted.read_only.contains(&mount.name);
        out.push(Mount {
            host_path,
            container_path: absolute(&mount.mount_path),
            read_only,
            recursive_read_only: read_only
                && matches!(mount.recursive_read_only.as_deref(), Some("Enabled" | "IfPossible")),
            propagation: propagation(mount),
        });
    }
    Ok(out)
}

/// Block volumes as devices of the container (upstream `makeBlockVolumes`).
fn volume_devices(container: &Container, mounted: &Mounted) -> Result<Vec<Device>, Failure> {
    let one = |device: &k8s_openapi::api::core::v1::VolumeDevice| {
        let host_path = mounted.devices.get(&device.name).cloned().ok_or_else(|| {
            config_error(format!("cannot find volume {:?} to map into container {:?}", device.name, container.name))
        })?;
        let permissions = if mounted.read_only.contains(&device.name) { "r" } else { "mrw" };
        let container_path = device.device_path.clone();
        Ok(Device { host_path, container_path, permissions: permissions.to_owned() })
    };
    container.volume_devices.iter().flatten().map(one).collect()
}

fn absolute(path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}

fn sub_path(mount: &VolumeMount, env: &[(String, String)]) -> Result<String, Failure> {
    if let Some(path) = mount.sub_path.as_deref().filter(|p| !p.is_empty()) {
        return Ok(path.to_owned());
    }
    let Some(expression) = mount.sub_path_expr.as_deref().filter(|p| !p.is_empty()) else { return Ok(String::new()) };
    let missing = std::cell::RefCell::new(None);
    let path = env::expand(expression, &mut { env::EXPANDED_MAX }, |name| {
        let value = env.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone());
        if value.is_none() {
            *missing.borrow_mut() = Some(name.to_owned());
        }
        value
    })
    .map_err(|e| config_error(e.to_string()))?;
    match missing.into_inner() {
        Some(name) => Err(config_error(format!("missing value for {name:?}"))),
        None if path.starts_with('/') => {
            Err(config_error(format!("error SubPath `{path}` must not be an absolute path")))
        }
        None if path.split('/').any(|part| part == "..") => {
            Err(config_error(format!("unable to provision SubPath `{path}`: must not contain '..'")))
        }
        None => Ok(path),
    }
}

/// A file of its own for each start, in which the container leaves its last words.
fn termination_log(
    ctx: &Context,
    pod: &Pod,
    container: &Container,
    mounts: &mut Vec<Mount>,
) -> Result<PathBuf, Failure> {
    let at = container.termination_message_path.as_deref().filter(|p| !p.is_empty()).unwrap_or("/dev/termination-log");
    let folder = ctx.config.pod_dir(spec::uid(pod)).join("containers").join(&container.name);
    let file = folder.join(format!("{:08x}", rand::random::<u32>()));
    let made = std::fs::create_dir_all(&folder)
        .and_then(|()| std::fs::write(&file, b""))
        // Whoever the container runs as may write.
        .and_then(|()| std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o666)));
    made.map_err(|e| config_error(format!("cannot make termination log {}: {e}", file.display())))?;
    mounts.push(Mount { host_path: file.clone(), container_path: at.to_owned(), ..Mount::default() });
    Ok(file)
}

/// `/etc/hosts`, `/etc/resolv.conf` and `/etc/hostname`, unless the spec mounts something there.
fn pod_files(
    ctx: &Context,
    pod: &Pod,
    ips: &[IpAddr],
    read_only_rootfs: bool,
    mounts: &mut Vec<Mount>,
) -> Result<(), files::FileError> {
    let folder = ctx.config.pod_dir(spec::uid(pod));
    let names = files::names(&ctx.config, pod)?;
    let mut add = |name: &str, at: &str, content: String, read_only: bool| {
        if mounts.iter().any(|m| m.container_path == at) {
            return Ok(());
        }
        let host_path = folder.join(name);
        files::write(&host_path, &content)?;
        mounts.push(Mount { host_path, container_path: at.to_owned(), read_only, ..Mount::default() });
        Ok::<(), files::FileError>(())
    };
    add("etc-hosts", "/etc/hosts", files::hosts(pod, &names, ips)?, false)?;
    add("etc-resolv.conf", "/etc/resolv.conf", files::resolv_conf(&ctx.config, pod)?, read_only_rootfs)?;
    if !spec::is_host_network(pod) {
        add("etc-hostname", "/etc/hostname", format!("{}\n", names.uts), read_only_rootfs)?;
    }
    Ok(())
}

/// A link that log shippers look for: `<pod>_<namespace>_<container>-<id>.log`.
fn link_log(ctx: &Context, pod: &Pod, container: &Container, id: &ContainerId, log: &Path) {
    let Some(folder) = &ctx.config.container_log_dir else { return };
    let mut name = format!("{}_{}_{}", spec::name(pod), spec::namespace(pod), container.name);
    name.truncate(255 - "-.log".len() - id.0.len());
    let link = folder.join(format!("{name}-{}.log", id.0));
    let made = std::fs::create_dir_all(folder).and_then(|()| std::os::unix::fs::symlink(log, &link));
    if let Err(error) = made {
        tracing::debug!(path = %link.display(), error = %error, "cannot link log");
    }
}
