//! A pod's volumes: made before its containers start, brought up to date while it lives, removed after it ended.
//!
//! Each source is one file here. Layout on disk as upstream's:
//! `<root>/pods/<uid>/volumes/kubernetes.io~<plugin>/<name>`.

pub mod atomic;
pub mod certificates;
pub mod csi;
pub mod empty_dir;
pub mod host_path;
pub mod image;
pub mod nfs;
pub mod ownership;
pub mod payload;
pub mod persistent;
pub mod subpath;
pub mod tokens;
pub mod trust;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, Volume};

use crate::config::KubeletConfig;
use crate::context::Context;
use crate::objects::ObjectError;
use crate::{downward, mounts, spec};

#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    #[error(transparent)]
    Object(#[from] ObjectError),
    #[error(transparent)]
    Downward(#[from] downward::DownwardError),
    #[error("references non-existent {kind} key: {key}")]
    MissingKey { kind: &'static str, key: String },
    #[error("{0}")]
    HostPath(String),
    #[error("failed to fetch token: {0}")]
    Token(String),
    #[error("{step} {path}")]
    Io {
        step: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// A claim, or the volume behind it, that cannot be used; in upstream's words.
    #[error("{0}")]
    Claim(String),
    #[error(transparent)]
    Image(#[from] crate::images::ImageError),
    #[error(transparent)]
    Runtime(#[from] runtime::RuntimeError),
    /// A projection that cannot be shown, in upstream's words.
    #[error("{0}")]
    Projection(String),
    #[error("invalid path {0:?} in volume")]
    BadPath(String),
    #[error("no volume plugin matched")]
    Unsupported,
}

impl VolumeError {
    pub fn io(step: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Io { step, path, source }
    }
}

/// How often drivers that want it are asked to publish again (about upstream's `syncFrequency`).
const REPUBLISH: Duration = Duration::from_secs(60);

/// A pod's volumes on this node.
#[derive(Debug, Clone, Default)]
pub struct Mounted {
    /// Path on the node, by volume name.
    pub paths: BTreeMap<String, PathBuf>,
    /// Device nodes of block volumes, by volume name.
    pub devices: BTreeMap<String, PathBuf>,
    /// Names that containers may not write to: the node agent owns the content, or the source is read-only.
    pub read_only: Vec<String>,
    /// When something in them must be renewed.
    pub refresh_after: Option<Duration>,
}

/// A volume that could not be set up.
#[derive(Debug, thiserror::Error)]
#[error("MountVolume.SetUp failed for volume {volume:?}")]
pub struct SetupError {
    pub volume: String,
    #[source]
    pub source: VolumeError,
}

/// Makes all volumes of the pod or brings them up to date. Idempotent. `ips` as known so far.
pub async fn set_up(ctx: &Context, pod: &Pod, ips: &[IpAddr]) -> Result<Mounted, SetupError> {
    let mut mounted = Mounted::default();
    for volume in spec::spec(pod).volumes.iter().flatten() {
        set_up_one(ctx, pod, ips, volume, &mut mounted)
            .await
            .map_err(|source| SetupError { volume: volume.name.clone(), source })?;
    }
    if ctx.claims.of(spec::uid(pod)).iter().any(|(_, _, resolved)| resolved.republish) {
        mounted.refresh_after = Some(mounted.refresh_after.map_or(REPUBLISH, |known| known.min(REPUBLISH)));
    }
    Ok(mounted)
}

fn folder(config: &KubeletConfig, pod: &Pod, plugin: &str, name: &str) -> PathBuf {
    config.pod_dir(spec::uid(pod)).join("volumes").join(format!("kubernetes.io~{plugin}")).join(name)
}

async fn set_up_one(
    ctx: &Context,
    pod: &Pod,
    ips: &[IpAddr],
    volume: &Volume,
    mounted: &mut Mounted,
) -> Result<(), VolumeError> {
    if let Some((path, read_only)) = simple(ctx, pod, volume).await? {
        mounted.paths.insert(volume.name.clone(), path);
        if read_only {
            mounted.read_only.push(volume.name.clone());
        }
        return Ok(());
    }
    if volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some() {
        let found = persistent::set_up(ctx, pod, volume).await?;
        let list = if found.block { &mut mounted.devices } else { &mut mounted.paths };
        list.insert(volume.name.clone(), found.path);
        if found.read_only {
            mounted.read_only.push(volume.name.clone());
        }
        return Ok(());
    }
    let plugin = if volume.config_map.is_some() {
        "configmap"
    } else if volume.secret.is_some() {
        "secret"
    } else if volume.projected.is_some() {
        "projected"
    } else if volume.downward_api.is_some() {
        "downward-api"
    } else {
        return Err(VolumeError::Unsupported);
    };
    let content = payload::collect(ctx, pod, ips, volume).await?;
    let path = folder(&ctx.config, pod, plugin, &volume.name);
    let group = fs_group(pod);
    let in_memory = plugin != "configmap";
    blocking({
        let path = path.clone();
        move || {
            if in_memory {
                mounts::tmpfs(&path, None)?;
            }
            std::fs::create_dir_all(&path).map_err(VolumeError::io("cannot make", &path))?;
            if atomic::write(&path, &content.files)?
                && let Some(group) = group
            {
                ownership::apply(&path, group, true)?;
            }
            Ok(())
        }
    })
    .await?;
    if let Some(after) = content.refresh_after {
        mounted.refresh_after = Some(mounted.refresh_after.map_or(after, |known| known.min(after)));
    }
    mounted.read_only.push(volume.name.clone());
    mounted.paths.insert(volume.name.clone(), path);
    Ok(())
}

/// Volumes that are one folder and need nothing of the API: the folder, and whether it may only be read.
async fn simple(ctx: &Context, pod: &Pod, volume: &Volume) -> Result<Option<(PathBuf, bool)>, VolumeError> {
    if let Some(source) = &volume.host_path {
        return Ok(Some((host_path::set_up(source)?, false)));
    }
    if let Some(source) = &volume.empty_dir {
        let path = empty_dir::path(&ctx.config, spec::uid(pod), &volume.name);
        let (group, source, memory) = (fs_group(pod), source.clone(), ctx.machine.memory_bytes);
        let at = path.clone();
        blocking(move || empty_dir::set_up(&at, &source, group, memory)).await?;
        return Ok(Some((path, false)));
    }
    if let Some(source) = &volume.nfs {
        let read_only = source.read_only == Some(true);
        let export = nfs::Export { server: &source.server, path: &source.path, read_only, options: &[] };
        return Ok(Some((nfs::set_up(ctx, pod, &volume.name, export).await?, read_only)));
    }
    if let Some(source) = &volume.csi {
        let uid = spec::uid(pod);
        if let Some(known) = ctx.claims.get(uid, &volume.name).filter(|known| !known.republish) {
            return Ok(Some((known.path, known.read_only)));
        }
        let csi::Published { path, again } = csi::set_up_inline(ctx, pod, &volume.name, source).await?;
        let read_only = source.read_only == Some(true);
        let resolved = persistent::Resolved { path: path.clone(), read_only, block: false, republish: again };
        ctx.claims.set(uid, &volume.name, String::new(), resolved);
        return Ok(Some((path, read_only)));
    }
    if let Some(source) = &volume.image {
        return Ok(Some((image::set_up(ctx, pod, &volume.name, source).await?, true)));
    }
    Ok(None)
}

/// Group that owns the pod's volumes.
pub fn fs_group(pod: &Pod) -> Option<i64> {
    spec::spec(pod).security_context.as_ref().and_then(|s| s.fs_group)
}

/// Whether the group is applied only to a volume whose top folder does not show it yet (`fsGroupChangePolicy`).
pub fn fs_group_on_mismatch(pod: &Pod) -> bool {
    let context = spec::spec(pod).security_context.as_ref();
    context.and_then(|s| s.fs_group_change_policy.as_deref()) == Some("OnRootMismatch")
}

/// Runs file work off the async threads.
pub async fn blocking<T: Send + 'static, F>(work: F) -> Result<T, VolumeError>
where
    F: FnOnce() -> Result<T, VolumeError> + Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(VolumeError::Io {
            step: "file work ended early in",
            path: PathBuf::new(),
            source: std::io::Error::other(error),
        }),
    }
}

/// Gives the pod's volumes back, unmounts everything below its folder and removes that. Idempotent.
pub async fn tear_down(ctx: &Context, uid: &str) -> Result<(), VolumeError> {
    let folder = ctx.config.pod_dir(uid);
    if !folder.exists() {
        return Ok(());
    }
    csi::tear_down(ctx, uid).await?;
    image::tear_down(ctx, uid).await?;
    blocking(move || {
        mounts::unmount_below(&folder).map_err(VolumeError::io("cannot unmount below", &folder))?;
        match std::fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(VolumeError::io("cannot remove", &folder)(error))
            }
            _ => Ok(()),
        }
    })
    .await
}
