//! Replacing a volume's content at once: readers see the old or the new files, never a mixture.
//!
//! Upstream's `pkg/volume/util/atomic_writer.go`: files live in a timestamped folder, `..data` points at it, and the
//! names users see point through `..data`.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Component, Path, PathBuf};

use super::VolumeError;

/// One projected file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    pub data: Vec<u8>,
    pub mode: u32,
    /// Owner, when it is not the node agent's user.
    pub user: Option<u32>,
}

/// Files by their path in the volume.
pub type Files = BTreeMap<String, File>;

const DATA: &str = "..data";
const DATA_NEW: &str = "..data_tmp";

/// Brings the volume at `root` to `files`. Returns whether anything changed.
pub fn write(root: &Path, files: &Files) -> Result<bool, VolumeError> {
    for path in files.keys() {
        check_path(path)?;
    }
    let data = root.join(DATA);
    let old = std::fs::read_link(&data).ok();
    let current = root.join(old.as_deref().unwrap_or(Path::new("..none")));
    if old.is_some() && same(&current, files)? {
        return Ok(false);
    }
    let new_name = PathBuf::from(format!("..{}", uuid::Uuid::new_v4().simple()));
    let new = root.join(&new_name);
    std::fs::create_dir(&new).map_err(VolumeError::io("cannot make", &new))?;
    set_mode(&new, 0o755)?;
    for (path, file) in files {
        write_one(&new, path, file)?;
    }
    let next = root.join(DATA_NEW);
    if let Err(error) = std::fs::remove_file(&next)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        return Err(VolumeError::io("cannot remove", &next)(error));
    }
    symlink(&new_name, &next).map_err(VolumeError::io("cannot link", &next))?;
    std::fs::rename(&next, &data).map_err(VolumeError::io("cannot replace", &data))?;
    link_names(root, files)?;
    if old.is_some() && current != new {
        std::fs::remove_dir_all(&current).map_err(VolumeError::io("cannot remove", &current))?;
    }
    Ok(true)
}

fn check_path(path: &str) -> Result<(), VolumeError> {
    let normal = !path.is_empty()
        && Path::new(path).components().all(|c| matches!(c, Component::Normal(_)))
        && !path.starts_with("..");
    if normal { Ok(()) } else { Err(VolumeError::BadPath(path.to_owned())) }
}

/// Whether the folder has exactly these files with these contents.
fn same(folder: &Path, files: &Files) -> Result<bool, VolumeError> {
    let mut seen = BTreeSet::new();
    if collect(folder, folder, &mut seen).is_err() {
        return Ok(false);
    }
    if !seen.iter().eq(files.keys()) {
        return Ok(false);
    }
    for (path, file) in files {
        let target = folder.join(path);
        let data = std::fs::read(&target).map_err(VolumeError::io("cannot read", &target))?;
        if data != file.data {
            return Ok(false);
        }
    }
    Ok(true)
}

fn collect(root: &Path, folder: &Path, seen: &mut BTreeSet<String>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            collect(root, &entry.path(), seen)?;
        } else if let Ok(path) = entry.path().strip_prefix(root) {
            seen.insert(path.to_string_lossy().into_owned());
        }
    }
    Ok(())
}

fn set_mode(path: &Path, mode: u32) -> Result<(), VolumeError> {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
        .map_err(VolumeError::io("cannot change the mode of", path))
}

fn write_one(folder: &Path, path: &str, file: &File) -> Result<(), VolumeError> {
    let target = folder.join(path);
    if let Some(parent) = target.parent() {
        std::fs::create_dir_all(parent).map_err(VolumeError::io("cannot make", parent))?;
    }
    std::fs::write(&target, &file.data).map_err(VolumeError::io("cannot write", &target))?;
    // Set apart from the creation: the process's umask must not count.
    set_mode(&target, file.mode)?;
    if let Some(user) = file.user {
        chown(&target, Some(user), None).map_err(VolumeError::io("cannot change the owner of", &target))?;
    }
    Ok(())
}

/// The names users see: one link for each first part of the paths; links to what is gone are removed.
fn link_names(root: &Path, files: &Files) -> Result<(), VolumeError> {
    let names: BTreeSet<&str> = files.keys().map(|p| p.split('/').next().unwrap_or(p)).collect();
    for name in &names {
        let link = root.join(name);
        if std::fs::symlink_metadata(&link).is_err() {
            symlink(Path::new(DATA).join(name), &link).map_err(VolumeError::io("cannot link", &link))?;
        }
    }
    for entry in std::fs::read_dir(root).map_err(VolumeError::io("cannot list", root))? {
        let entry = entry.map_err(VolumeError::io("cannot list", root))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_link = entry.file_type().is_ok_and(|t| t.is_symlink());
        if is_link && !name.starts_with("..") && !names.contains(name.as_str()) {
            std::fs::remove_file(entry.path()).map_err(VolumeError::io("cannot remove", &entry.path()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(list: &[(&str, &str)]) -> Files {
        let file = |data: &str| File { data: data.into(), mode: 0o644, user: None };
        list.iter().map(|(path, data)| ((*path).to_owned(), file(data))).collect()
    }

    #[test]
    fn content_is_replaced_whole_and_only_when_it_changed() {
        let dir = tempfile::tempdir().unwrap();
        let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).ok();
        assert!(write(dir.path(), &files(&[("a", "1"), ("d/b", "2")])).unwrap());
        assert!(!write(dir.path(), &files(&[("a", "1"), ("d/b", "2")])).unwrap());
        assert_eq!((read("a").as_deref(), read("d/b").as_deref()), (Some("1"), Some("2")));
        assert!(write(dir.path(), &files(&[("a", "3")])).unwrap());
        assert_eq!((read("a").as_deref(), read("d/b")), (Some("3"), None));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 3, "one data folder, its link and one name");
    }

    #[test]
    fn paths_do_not_leave_the_volume() {
        let dir = tempfile::tempdir().unwrap();
        for bad in ["../x", "/x", "", "a/../../x", "..data"] {
            assert!(write(dir.path(), &files(&[(bad, "1")])).is_err(), "{bad}");
        }
    }
}
