//! Mounting and unmounting on the node.

use std::io;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::volumes::VolumeError;

/// Mount points of this process, as the kernel lists them.
fn mount_points() -> io::Result<Vec<PathBuf>> {
    let text = std::fs::read_to_string("/proc/self/mountinfo")?;
    Ok(text.lines().filter_map(|line| line.split(' ').nth(4)).map(|p| PathBuf::from(unescape(p))).collect())
}

/// The kernel writes spaces and the like as `\040`.
fn unescape(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let bytes = text.as_bytes();
    let mut i = 0;
    while i < bytes.len() {
        let code = (bytes[i] == b'\\').then(|| text.get(i + 1..i + 4)).flatten();
        match code.and_then(|c| u8::from_str_radix(c, 8).ok()) {
            Some(byte) => {
                out.push(byte);
                i += 4;
            }
            None => {
                out.push(bytes[i]);
                i += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

pub fn is_mount_point(path: &Path) -> io::Result<bool> {
    Ok(mount_points()?.iter().any(|p| p == path))
}

/// Mounts a tmpfs there unless something is mounted already. Where mounting is not permitted, the folder stays on disk.
pub fn tmpfs(path: &Path, size: Option<i64>) -> Result<(), VolumeError> {
    std::fs::create_dir_all(path).map_err(VolumeError::io("cannot make", path))?;
    let real = path.canonicalize().map_err(VolumeError::io("cannot resolve", path))?;
    if is_mount_point(&real).map_err(VolumeError::io("cannot read the mounts for", path))? {
        return Ok(());
    }
    let options = size.filter(|n| *n > 0).map(|n| format!("size={n}"));
    let flags = MsFlags::empty();
    match mount(Some("tmpfs"), &real, Some("tmpfs"), flags, options.as_deref()) {
        Ok(()) => Ok(()),
        Err(nix::errno::Errno::EPERM) => {
            tracing::warn!(path = %path.display(), "not permitted to mount a tmpfs: the volume is kept on disk");
            Ok(())
        }
        Err(error) => Err(VolumeError::io("cannot mount a tmpfs at", path)(error.into())),
    }
}

/// Bind-mounts `source` at `target`, which exists.
pub fn bind(source: &Path, target: &Path) -> io::Result<()> {
    mount(Some(source), target, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)?;
    Ok(())
}

/// Unmounts one mount point, lazily.
pub fn unmount(path: &Path) -> io::Result<()> {
    match umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) | Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Unmounts everything below a folder, the deepest first.
pub fn unmount_below(folder: &Path) -> io::Result<()> {
    let folder = folder.canonicalize()?;
    let mut points: Vec<PathBuf> =
        mount_points()?.into_iter().filter(|p| p.starts_with(&folder) && *p != folder).collect();
    points.sort_by_key(|p| std::cmp::Reverse(p.components().count()));
    for point in points.iter() {
        unmount(point)?;
    }
    // Whoever removes the folder must not remove what is behind a mount that stayed.
    match mount_points()?.into_iter().find(|p| p.starts_with(&folder) && *p != folder) {
        Some(left) => Err(io::Error::other(format!("{} is still mounted", left.display()))),
        None => Ok(()),
    }
}

/// Makes a bind mount read-only; what is mounted below it is left alone.
pub fn make_read_only(target: &Path) -> io::Result<()> {
    let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    mount(None::<&str>, target, None::<&str>, flags, None::<&str>)?;
    Ok(())
}

/// Mount options as `mount(8)` takes them: those that are flags, and those for the file system.
pub fn split_options(options: &[String]) -> (MsFlags, Vec<String>) {
    let mut flags = MsFlags::empty();
    let mut data = Vec::new();
    for option in options.iter().flat_map(|o| o.split(',')).map(str::trim).filter(|o| !o.is_empty()) {
        match option {
            "ro" => flags |= MsFlags::MS_RDONLY,
            "nosuid" => flags |= MsFlags::MS_NOSUID,
            "nodev" => flags |= MsFlags::MS_NODEV,
            "noexec" => flags |= MsFlags::MS_NOEXEC,
            "noatime" => flags |= MsFlags::MS_NOATIME,
            "nodiratime" => flags |= MsFlags::MS_NODIRATIME,
            "relatime" => flags |= MsFlags::MS_RELATIME,
            "strictatime" => flags |= MsFlags::MS_STRICTATIME,
            "sync" => flags |= MsFlags::MS_SYNCHRONOUS,
            "dirsync" => flags |= MsFlags::MS_DIRSYNC,
            "defaults" | "rw" | "suid" | "dev" | "exec" | "async" | "_netdev" | "nofail" => {}
            other => data.push(other.to_owned()),
        }
    }
    (flags, data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_options_become_flags_and_data() {
        let options = ["ro,noatime".to_owned(), "vers=4.2".to_owned(), "defaults".to_owned()];
        let (flags, data) = split_options(&options);
        assert_eq!(flags, MsFlags::MS_RDONLY | MsFlags::MS_NOATIME);
        assert_eq!(data, ["vers=4.2"]);
    }

    #[test]
    fn the_kernels_escapes_are_read() {
        assert_eq!(unescape("/a\\040b/c"), "/a b/c");
        assert_eq!(unescape("/plain"), "/plain");
        assert_eq!(unescape("/end\\"), "/end\\");
    }
}
