//! `image` volumes: the files of an OCI image, read-only (upstream KEP-4639, `kuberuntime_image.go`).

use std::path::PathBuf;

use k8s_openapi::api::core::v1::{Container, ImageVolumeSource, Pod};

use super::{VolumeError, blocking};
use crate::context::Context;
use crate::{images, mounts, spec};

pub(super) const PLUGIN: &str = "image";

fn key(uid: &str, name: &str) -> String {
    format!("{uid}-{name}")
}

/// Pulls the image as the policy says and mounts it. Its events are those of a container's image.
pub async fn set_up(ctx: &Context, pod: &Pod, name: &str, source: &ImageVolumeSource) -> Result<PathBuf, VolumeError> {
    let target = super::folder(&ctx.config, pod, PLUGIN, name);
    let at = target.clone();
    let mounted = blocking(move || {
        std::fs::create_dir_all(&at).map_err(VolumeError::io("cannot make", &at))?;
        let real = at.canonicalize().map_err(VolumeError::io("cannot resolve", &at))?;
        mounts::is_mount_point(&real).map_err(VolumeError::io("cannot read the mounts for", &at))
    });
    if mounted.await? {
        return Ok(target);
    }
    let wanted = Container {
        name: name.to_owned(),
        image: source.reference.clone(),
        image_pull_policy: source.pull_policy.clone(),
        ..Container::default()
    };
    let image = images::ensure(ctx, pod, &wanted).await.map_err(VolumeError::Image)?;
    ctx.runtime.mount_image(&key(spec::uid(pod), name), &image.id, &target).await?;
    Ok(target)
}

/// Unmounts the pod's images and gives their layers back.
pub async fn tear_down(ctx: &Context, uid: &str) -> Result<(), VolumeError> {
    let folder = ctx.config.pod_dir(uid).join("volumes").join(format!("kubernetes.io~{PLUGIN}"));
    let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
    for entry in entries {
        let name = entry.file_name().to_string_lossy().into_owned();
        ctx.runtime.unmount_image(&key(uid, &name), &entry.path()).await?;
    }
    Ok(())
}
