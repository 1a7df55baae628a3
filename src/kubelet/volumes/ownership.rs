//! `fsGroup`: the group owns the volume's files (upstream `pkg/volume/volume_linux.go`).

use std::os::unix::fs::{PermissionsExt, lchown};
use std::path::Path;

use super::VolumeError;

/// Gives the tree to the group. Read-only volumes get `r--r-----`, others `rw-rw----`, added to what the files have;
/// folders hand the group on to new files.
pub fn apply(root: &Path, group: i64, read_only: bool) -> Result<(), VolumeError> {
    let gid = u32::try_from(group).map_err(|_| VolumeError::BadPath(group.to_string()))?;
    walk(root, gid, read_only)
}

/// [`apply`] to a volume that pods write to. `on_mismatch` leaves a tree alone whose top folder shows the group and its
/// rights already (`volume_linux.go` `skipPermissionChange`).
pub fn apply_to_volume(root: &Path, group: i64, on_mismatch: bool) -> Result<(), VolumeError> {
    if on_mismatch && shows(root, group)? {
        return Ok(());
    }
    apply(root, group, false)
}

fn shows(root: &Path, group: i64) -> Result<bool, VolumeError> {
    use std::os::unix::fs::MetadataExt;
    const NEEDED: u32 = 0o2770 & !0o700;
    let meta = std::fs::metadata(root).map_err(VolumeError::io("cannot read", root))?;
    Ok(i64::from(meta.gid()) == group && meta.mode() & NEEDED == NEEDED)
}

fn walk(path: &Path, gid: u32, read_only: bool) -> Result<(), VolumeError> {
    let meta = std::fs::symlink_metadata(path).map_err(VolumeError::io("cannot read", path))?;
    lchown(path, None, Some(gid)).map_err(VolumeError::io("cannot change the group of", path))?;
    if meta.file_type().is_symlink() {
        return Ok(());
    }
    let mut mode = if read_only { 0o440 } else { 0o660 };
    if meta.is_dir() {
        mode |= 0o2110;
    }
    let permissions = std::fs::Permissions::from_mode(meta.permissions().mode() | mode);
    std::fs::set_permissions(path, permissions).map_err(VolumeError::io("cannot change the mode of", path))?;
    if meta.is_dir() {
        for entry in std::fs::read_dir(path).map_err(VolumeError::io("cannot list", path))? {
            let entry = entry.map_err(VolumeError::io("cannot list", path))?;
            walk(&entry.path(), gid, read_only)?;
        }
    }
    Ok(())
}
