//! `hostPath` and its types (upstream `pkg/volume/hostpath`).

use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::HostPathVolumeSource;

use super::VolumeError;

/// Checks the path, and makes it where the type asks for that.
pub fn set_up(source: &HostPathVolumeSource) -> Result<PathBuf, VolumeError> {
    let path = PathBuf::from(&source.path);
    let kind = source.type_.as_deref().unwrap_or_default();
    let found = std::fs::metadata(&path).ok();
    let exists = found.is_some();
    let fail = |text: String| Err(VolumeError::HostPath(text));
    match kind {
        "" => {}
        "DirectoryOrCreate" if !exists => {
            std::fs::create_dir_all(&path).map_err(VolumeError::io("cannot make", &path))?;
            set_mode(&path, 0o755)?;
        }
        "FileOrCreate" if !exists => {
            std::fs::File::create(&path).map_err(VolumeError::io("cannot make", &path))?;
            set_mode(&path, 0o644)?;
        }
        _ => {
            let matches = |test: fn(&std::fs::FileType) -> bool| found.as_ref().is_some_and(|m| test(&m.file_type()));
            let (ok, what) = match kind {
                "Directory" | "DirectoryOrCreate" => (matches(std::fs::FileType::is_dir), "directory"),
                "File" | "FileOrCreate" => (matches(std::fs::FileType::is_file), "file"),
                "Socket" => (matches(FileTypeExt::is_socket), "socket file"),
                "CharDevice" => (matches(FileTypeExt::is_char_device), "character device"),
                "BlockDevice" => (matches(FileTypeExt::is_block_device), "block device"),
                other => return fail(format!("{other} is an invalid volume type")),
            };
            if !ok {
                return fail(format!("hostPath type check failed: {} is not a {what}", source.path));
            }
        }
    }
    Ok(path)
}

fn set_mode(path: &Path, mode: u32) -> Result<(), VolumeError> {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
        .map_err(VolumeError::io("cannot change the mode of", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_checked_and_made() {
        let dir = tempfile::tempdir().unwrap();
        let check = |name: &str, kind: &str, expected: Result<(), String>| {
            let path = dir.path().join(name).display().to_string();
            let source = HostPathVolumeSource { path: path.clone(), type_: Some(kind.to_owned()) };
            let result = set_up(&source).map(|_| ()).map_err(|e| e.to_string().replace(&path, "P"));
            assert_eq!(result, expected, "{name} {kind}");
        };
        check("none", "", Ok(()));
        check("none", "Directory", Err("hostPath type check failed: P is not a directory".into()));
        check("made", "DirectoryOrCreate", Ok(()));
        check("made", "Directory", Ok(()));
        check("made", "File", Err("hostPath type check failed: P is not a file".into()));
        check("file", "FileOrCreate", Ok(()));
        check("file", "File", Ok(()));
        check("file", "Socket", Err("hostPath type check failed: P is not a socket file".into()));
    }
}
