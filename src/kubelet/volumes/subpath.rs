//! `subPath`: a folder or file inside a volume, reached without following links out of it.
//!
//! Upstream's `pkg/volume/util/subpath`: the path is opened one component at a time without following links, and what
//! was opened is bind-mounted, so that a container cannot swap it for a link in between.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::{Mode, mkdirat};

use super::VolumeError;
use crate::mounts;

fn parts(path: &str) -> Result<Vec<&str>, VolumeError> {
    let mut out = Vec::new();
    for component in Path::new(path).components() {
        match component {
            Component::Normal(part) => out.push(part.to_str().ok_or_else(|| VolumeError::BadPath(path.to_owned()))?),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => {
                return Err(VolumeError::BadPath(path.to_owned()));
            }
        }
    }
    Ok(out)
}

fn open_root(root: &Path) -> io::Result<OwnedFd> {
    Ok(open(root, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?)
}

fn open_child(parent: &OwnedFd, name: &str) -> nix::Result<OwnedFd> {
    openat(parent, name, OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())
}

/// The real path of a sub path, links inside the volume followed as long as they stay in it.
pub fn resolve_existing(root: &Path, sub_path: &str) -> io::Result<PathBuf> {
    let bad = |_| io::Error::other("path leaves the volume");
    let joined = parts(sub_path).map_err(bad)?.iter().fold(root.to_owned(), |path, part| path.join(part));
    let (real, real_root) = (joined.canonicalize()?, root.canonicalize()?);
    if real.starts_with(&real_root) { Ok(real) } else { Err(io::Error::other("path leaves the volume")) }
}

/// Bind-mounts the sub path of a volume at `target` (in the pod's own folder), making the folders that are missing.
/// Returns `target`. Idempotent.
pub fn mount(volume: &Path, sub_path: &str, target: &Path, mode: u32) -> Result<PathBuf, VolumeError> {
    let fail = |step| VolumeError::io(step, &volume.join(sub_path));
    let opened = open_sub_path(volume, sub_path, mode)?;
    let source = PathBuf::from(format!("/proc/self/fd/{}", opened.as_raw_fd()));
    let found = std::fs::metadata(&source).map_err(fail("cannot read"))?;
    let is_dir = found.is_dir();
    if let Ok(mounted) = std::fs::metadata(target)
        && mounts::is_mount_point(target).map_err(fail("cannot read the mounts for"))?
    {
        if (mounted.dev(), mounted.ino()) == (found.dev(), found.ino()) {
            return Ok(target.to_owned());
        }
        // The volume's content was replaced since: a restarted container gets the new file.
        mounts::unmount(target).map_err(VolumeError::io("cannot unmount", target))?;
    }
    if let Some(parent) = target.parent() {
        std::fs::create_dir_all(parent).map_err(VolumeError::io("cannot make", parent))?;
    }
    if is_dir {
        std::fs::create_dir_all(target).map_err(VolumeError::io("cannot make", target))?;
    } else {
        std::fs::File::create(target).map_err(VolumeError::io("cannot make", target))?;
    }
    mounts::bind(&source, target).map_err(VolumeError::io("cannot bind-mount", target))?;
    Ok(target.to_owned())
}

/// Opens the sub path below the volume without leaving it. Links in it are followed only when they stay inside.
fn open_sub_path(volume: &Path, sub_path: &str, mode: u32) -> Result<OwnedFd, VolumeError> {
    let parts = parts(sub_path)?;
    let full = volume.join(sub_path);
    let fail = |step| VolumeError::io(step, &full);
    // Links that the node agent itself made (`..data`) and links inside the volume are resolved first; the walk below
    // then refuses any that appeared since.
    let real_root = volume.canonicalize().map_err(fail("cannot resolve"))?;
    let relative: Vec<String> = match resolve_existing(volume, sub_path) {
        Ok(real) => {
            let inside = real.strip_prefix(&real_root).map_err(|_| VolumeError::BadPath(sub_path.to_owned()))?;
            inside.components().map(|c| c.as_os_str().to_string_lossy().into_owned()).collect()
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => parts.iter().map(|p| (*p).to_owned()).collect(),
        Err(error) => return Err(fail("cannot resolve")(error)),
    };
    let mut current = open_root(&real_root).map_err(fail("cannot open"))?;
    for part in &relative {
        let next = match open_child(&current, part) {
            Err(Errno::ENOENT) => {
                match mkdirat(&current, part.as_str(), Mode::from_bits_truncate(mode)) {
                    Ok(()) | Err(Errno::EEXIST) => {}
                    Err(error) => return Err(fail("cannot make")(error.into())),
                }
                open_child(&current, part)
            }
            other => other,
        };
        let next = next.map_err(|e| fail("cannot open")(e.into()))?;
        let link = std::fs::metadata(format!("/proc/self/fd/{}", next.as_raw_fd())).is_err();
        if link {
            return Err(VolumeError::BadPath(sub_path.to_owned()));
        }
        current = next;
    }
    Ok(current)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sub_paths_stay_inside_the_volume() {
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path().join("volume");
        std::fs::create_dir_all(volume.join("a")).unwrap();
        std::os::unix::fs::symlink("/etc", volume.join("out")).unwrap();
        std::os::unix::fs::symlink("a", volume.join("in")).unwrap();
        let check = |path: &str, ok: bool| {
            assert_eq!(open_sub_path(&volume, path, 0o755).is_ok(), ok, "{path}");
        };
        check("a", true);
        check("in", true);
        check("new/deep", true);
        check("out", false);
        check("out/passwd", false);
        check("../volume", false);
        check("/etc", false);
        assert!(volume.join("new/deep").is_dir());
    }
}
