//! Device nodes and the rules that allow them.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use super::SpecError;
use super::oci::{Device, DeviceRule};
use crate::contract;

/// Folders of `/dev` that are mounts of their own (containerd's `pkg/oci/utils_unix.go`, `getDevices`).
const SKIPPED: [&str; 7] = ["pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev"];

/// The device that `path` names, `None` when it is none.
fn device(path: &Path, container_path: &str) -> std::io::Result<Option<Device>> {
    let found = fs::symlink_metadata(path)?;
    let kind = match found.file_type() {
        kind if kind.is_block_device() => "b",
        kind if kind.is_char_device() => "c",
        _ => return Ok(None),
    };
    Ok(Some(Device {
        path: container_path.into(),
        kind,
        major: libc::major(found.rdev()).into(),
        minor: libc::minor(found.rdev()).into(),
        file_mode: found.mode() & !libc::S_IFMT,
        uid: found.uid(),
        gid: found.gid(),
    }))
}

/// Every device of the host, under the same name.
pub fn of_host() -> Vec<Device> {
    let mut devices = Vec::new();
    collect(
        Path::new("/dev"),
        "/dev",
        &|name, is_dir| !(is_dir && SKIPPED.contains(&name)) && name != "console",
        &mut devices,
    );
    devices
}

/// Devices below `dir`. What cannot be read is left out: devices come and go.
fn collect(dir: &Path, container_dir: &str, wanted: &dyn Fn(&str, bool) -> bool, devices: &mut Vec<Device>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let Ok(name) = entry.file_name().into_string() else { continue };
        let Ok(kind) = entry.file_type() else { continue };
        if !wanted(&name, kind.is_dir()) {
            continue;
        }
        let container_path = format!("{container_dir}/{name}");
        if kind.is_dir() {
            collect(&entry.path(), &container_path, wanted, devices);
        } else if let Ok(Some(device)) = device(&entry.path(), &container_path) {
            devices.push(device);
        }
    }
}

/// The nodes and rules for a device that the container asks for: itself, or everything in its folder.
pub fn requested(wanted: &contract::Device) -> Result<(Vec<Device>, Vec<DeviceRule>), SpecError> {
    let failed = |source| SpecError::Device { path: wanted.host_path.clone(), source };
    let path = fs::canonicalize(&wanted.host_path).map_err(failed)?;
    let mut devices = Vec::new();
    if fs::metadata(&path).map_err(failed)?.is_dir() {
        collect(&path, wanted.container_path.trim_end_matches('/'), &|_, _| true, &mut devices);
    } else {
        devices.extend(device(&path, &wanted.container_path).map_err(failed)?);
    }
    if devices.is_empty() {
        return Err(failed(std::io::Error::other("not a device node")));
    }
    let rules = devices.iter().map(|device| DeviceRule {
        allow: true,
        kind: Some(device.kind),
        major: Some(device.major),
        minor: Some(device.minor),
        access: wanted.permissions.clone(),
    });
    let rules = rules.collect();
    Ok((devices, rules))
}
