//! `emptyDir`: a folder of the pod's, or memory (upstream `pkg/volume/emptydir`).

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::EmptyDirVolumeSource;

use super::{VolumeError, ownership};
use crate::config::KubeletConfig;
use crate::{mounts, resources};

pub fn path(config: &KubeletConfig, uid: &str, name: &str) -> PathBuf {
    config.pod_dir(uid).join("volumes/kubernetes.io~empty-dir").join(name)
}

pub fn set_up(
    path: &Path,
    source: &EmptyDirVolumeSource,
    fs_group: Option<i64>,
    node_memory: u64,
) -> Result<(), VolumeError> {
    // Marks that the ownership was set: it is not touched again while the pod lives.
    let ready =
        path.with_file_name(format!(".{}.ready", path.file_name().and_then(|n| n.to_str()).unwrap_or_default()));
    if ready.exists() && path.exists() {
        return Ok(());
    }
    std::fs::create_dir_all(path).map_err(VolumeError::io("cannot make", path))?;
    if source.medium.as_deref() == Some("Memory") {
        let limit = source.size_limit.as_ref().and_then(resources::value).filter(|n| *n > 0);
        let half = i64::try_from(node_memory / 2).unwrap_or(i64::MAX);
        mounts::tmpfs(path, Some(limit.unwrap_or(half)))?;
    }
    let mode = source.mode.and_then(|m| u32::try_from(m).ok()).unwrap_or(0o777);
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
        .map_err(VolumeError::io("cannot change the mode of", path))?;
    if let Some(group) = fs_group {
        ownership::apply(path, group, false)?;
    }
    std::fs::write(&ready, b"").map_err(VolumeError::io("cannot write", &ready))
}
