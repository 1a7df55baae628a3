//! Images mounted read-only as volumes: a view of the image's layers, under a snapshot of its own.

use std::path::{Path, PathBuf};

use containerd_client::services::v1::snapshots as snapshot_services;
use containerd_client::types;
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::connection::{SNAPSHOTTER, is_not_found};
use super::lifecycle::{GC_ROOT_LABEL, failed};
use super::{ContainerdRuntime, blocking};
use crate::contract::RuntimeError;

impl ContainerdRuntime {
    /// See [`crate::Runtime::mount_image`].
    pub(super) async fn mount_image_at(&self, key: &str, image: &str, target: &Path) -> Result<(), RuntimeError> {
        let found = self.images.find(image).await?;
        let image = found.ok_or_else(|| RuntimeError::NotFound { what: "image", id: image.to_owned() })?;
        let key = snapshot_key(key);
        let mounts = match self.view(&key, &image.chain_id).await {
            Err(status) if is_not_found(&status) => {
                self.images.unpack(&image).await?;
                self.view(&key, &image.chain_id).await
            }
            other => other,
        };
        let mounts = mounts.map_err(|status| self.connection.failed("make a view of the image for", &key, status))?;
        let at = target.to_owned();
        blocking(move || mount_view(&mounts, &at)).await.map_err(|error| failed("mount the image of", &key, error))
    }

    async fn view(&self, key: &str, parent: &str) -> Result<Vec<types::Mount>, tonic::Status> {
        let mut labels = self.labels("");
        labels.insert(GC_ROOT_LABEL.into(), self.clock.now().to_string());
        let request = snapshot_services::ViewSnapshotRequest {
            snapshotter: SNAPSHOTTER.into(),
            key: key.to_owned(),
            parent: parent.to_owned(),
            labels,
        };
        match self.connection.snapshots().view(request).await {
            Ok(view) => Ok(view.into_inner().mounts),
            Err(status) if status.code() == tonic::Code::AlreadyExists => {
                let request = snapshot_services::MountsRequest { snapshotter: SNAPSHOTTER.into(), key: key.to_owned() };
                Ok(self.connection.snapshots().mounts(request).await?.into_inner().mounts)
            }
            Err(status) => Err(status),
        }
    }

    /// See [`crate::Runtime::unmount_image`].
    pub(super) async fn unmount_image_at(&self, key: &str, target: &Path) -> Result<(), RuntimeError> {
        let target: PathBuf = target.to_owned();
        let unmounted = blocking(move || match umount2(&target, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => Ok(()),
            Err(errno) => Err(errno.into()),
        });
        unmounted.await.map_err(|error| failed("unmount the image of", key, error))?;
        self.remove_snapshot(&snapshot_key(key)).await
    }
}

fn snapshot_key(key: &str) -> String {
    format!("skiff-image-volume-{key}")
}

/// Mounts what the snapshotter says, read-only. Does nothing where something is mounted.
fn mount_view(mounts: &[types::Mount], target: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(target)?;
    let [only] = mounts else { return Err(std::io::Error::other("the snapshot is not one mount")) };
    let (flags, data) = mount_options(&only.options);
    let bind = flags.contains(MsFlags::MS_BIND);
    mount(Some(only.source.as_str()), target, Some(only.r#type.as_str()), flags, Some(data.as_str()))?;
    if bind {
        // A bind mount takes its own flags only when it is mounted again.
        mount(None::<&str>, target, None::<&str>, flags | MsFlags::MS_REMOUNT, None::<&str>)?;
    }
    Ok(())
}

/// A snapshot's mount options as flags, read-only whatever they say, and data for the file system.
pub(super) fn mount_options(options: &[String]) -> (MsFlags, String) {
    let mut flags = MsFlags::MS_RDONLY;
    let mut data = Vec::new();
    for option in options {
        match option.as_str() {
            "ro" | "rw" => {}
            "bind" | "rbind" => flags |= MsFlags::MS_BIND,
            other => data.push(other),
        }
    }
    (flags, data.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_are_mounted_read_only() {
        let options = ["rw", "rbind", "lowerdir=/a:/b"].map(str::to_owned);
        let (flags, data) = mount_options(&options);
        assert_eq!(flags, MsFlags::MS_RDONLY | MsFlags::MS_BIND);
        assert_eq!(data, "lowerdir=/a:/b");
    }
}
