//! Volumes that an image declares: each container gets folders of its own for them, with what the image has there
//! (containerd's `internal/cri/server/container_create.go`, `volumeMounts`, and `customopts.WithVolumes`).

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, lchown};
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};

/// A declared volume and the folder that stands for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    pub container_path: String,
    pub host_path: PathBuf,
}

/// The volumes of `declared` that nothing asked for mounts over, each with a folder below `dir`.
pub fn plan<'a>(declared: impl Iterator<Item = &'a String>, taken: &[String], dir: &Path) -> Vec<Volume> {
    let clean = |path: &str| path.trim_end_matches('/').to_owned();
    declared
        .filter(|path| path.starts_with('/') && !clean(path).is_empty())
        .filter(|path| !taken.iter().any(|other| clean(other) == clean(path)))
        .enumerate()
        .map(|(n, path)| Volume { container_path: path.clone(), host_path: dir.join(n.to_string()) })
        .collect()
}

/// Makes a volume's folder and copies into it what the image has at its path.
pub fn fill(rootfs: &Path, volume: &Volume) -> io::Result<()> {
    fs::create_dir_all(&volume.host_path)?;
    let root: OwnedFd = File::open(rootfs)?.into();
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let relative = volume.container_path.trim_start_matches('/');
    match openat2(&root, relative, how) {
        // The path of the open folder leads to it however it was found.
        Ok(found) => copy_dir(Path::new(&format!("/proc/self/fd/{}/", found.as_raw_fd())), &volume.host_path),
        Err(nix::errno::Errno::ENOENT | nix::errno::Errno::ENOTDIR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Copies a folder that nobody changes meanwhile. Devices, sockets and pipes are left out.
fn copy_dir(from: &Path, to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let found = fs::symlink_metadata(&source)?;
        if found.is_dir() {
            fs::create_dir(&target)?;
            copy_dir(&source, &target)?;
            continue;
        }
        if found.is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(&source)?, &target)?;
            lchown(&target, Some(found.uid()), Some(found.gid()))?;
        } else if found.is_file() {
            fs::copy(&source, &target)?;
            lchown(&target, Some(found.uid()), Some(found.gid()))?;
            // After the owner, because changing that drops set-id bits.
            fs::set_permissions(&target, found.permissions())?;
        }
    }
    let found = fs::metadata(from)?;
    lchown(to, Some(found.uid()), Some(found.gid()))?;
    fs::set_permissions(to, found.permissions())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn asked_mounts_take_the_place_of_declared_volumes() {
        let declared = ["/data".to_owned(), "/var/lib/x/".to_owned(), "relative".to_owned(), "/".to_owned()];
        let volumes = plan(declared.iter(), &["/data/".to_owned()], Path::new("/d"));
        assert_eq!(volumes, [Volume { container_path: "/var/lib/x/".into(), host_path: "/d/0".into() }]);
    }

    #[test]
    fn the_images_files_are_copied_and_links_stay_inside() {
        let dir = tempfile::tempdir().unwrap();
        let rootfs = dir.path().join("rootfs");
        fs::create_dir_all(rootfs.join("real/sub")).unwrap();
        fs::write(rootfs.join("real/sub/file"), "text").unwrap();
        fs::set_permissions(rootfs.join("real"), fs::Permissions::from_mode(0o750)).unwrap();
        symlink("/etc/passwd", rootfs.join("real/link")).unwrap();
        symlink("/../../real", rootfs.join("data")).unwrap();
        let volume = Volume { container_path: "/data".into(), host_path: dir.path().join("volume") };
        fill(&rootfs, &volume).unwrap();
        assert_eq!(fs::read_to_string(volume.host_path.join("sub/file")).unwrap(), "text");
        assert_eq!(fs::read_link(volume.host_path.join("link")).unwrap(), Path::new("/etc/passwd"));
        assert_eq!(fs::metadata(&volume.host_path).unwrap().permissions().mode() & 0o777, 0o750);
        let absent = Volume { container_path: "/absent".into(), host_path: dir.path().join("absent") };
        fill(&rootfs, &absent).unwrap();
        assert!(absent.host_path.is_dir());
    }
}
