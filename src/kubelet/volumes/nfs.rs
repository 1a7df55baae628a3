//! `nfs`, mounted by the kernel's own client (upstream `pkg/volume/nfs`, which runs `mount.nfs`).

use std::net::IpAddr;
use std::path::PathBuf;

use k8s_openapi::api::core::v1::Pod;
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};

use super::{VolumeError, blocking};
use crate::context::Context;
use crate::mounts;

/// Versions tried, the newest first, when the options name none.
const VERSIONS: [&str; 4] = ["4.2", "4.1", "4.0", "3"];

/// What to mount.
pub struct Export<'a> {
    pub server: &'a str,
    pub path: &'a str,
    pub read_only: bool,
    pub options: &'a [String],
}

/// Mounts the export for the pod, unless it is mounted. `name` is the volume's.
pub async fn set_up(ctx: &Context, pod: &Pod, name: &str, export: Export<'_>) -> Result<PathBuf, VolumeError> {
    let target = super::folder(&ctx.config, pod, "nfs", name);
    std::fs::create_dir_all(&target).map_err(VolumeError::io("cannot make", &target))?;
    let real = target.canonicalize().map_err(VolumeError::io("cannot resolve", &target))?;
    if mounts::is_mount_point(&real).map_err(VolumeError::io("cannot read the mounts for", &target))? {
        return Ok(target);
    }
    let address = address(export.server).await?;
    let source = format!("{}:{}", export.server.trim_matches(['[', ']']), export.path);
    let (flags, plain) = mounts::split_options(export.options);
    let flags = if export.read_only { flags | MsFlags::MS_RDONLY } else { flags };
    blocking(move || {
        let mut last = Errno::EINVAL;
        for version in versions(&plain) {
            let data = data(&plain, version, address);
            match mount(Some(source.as_str()), &real, Some("nfs"), flags, Some(data.as_str())) {
                Ok(()) => return Ok(()),
                // The server, or the kernel, does not speak this version.
                Err(errno @ (Errno::EPROTONOSUPPORT | Errno::EINVAL | Errno::ENOENT)) => last = errno,
                Err(Errno::ENODEV) => {
                    return Err(VolumeError::Claim(format!(
                        "cannot mount {source}: this kernel has no NFS client (module nfs)"
                    )));
                }
                Err(errno) => {
                    last = errno;
                    break;
                }
            }
        }
        Err(VolumeError::io("cannot mount an NFS export at", &real)(last.into()))
    })
    .await?;
    Ok(target)
}

/// The kernel wants an address: it does not look up names.
async fn address(server: &str) -> Result<IpAddr, VolumeError> {
    let server = server.trim_matches(['[', ']']);
    if let Ok(address) = server.parse() {
        return Ok(address);
    }
    let found = tokio::net::lookup_host((server, 2049)).await;
    let found = found.map_err(|e| VolumeError::Claim(format!("cannot resolve the NFS server {server:?}: {e}")))?;
    let first = found.map(|a| a.ip()).next();
    first.ok_or_else(|| VolumeError::Claim(format!("the NFS server {server:?} has no address")))
}

/// The versions to try: the one that the options name, or all.
fn versions(options: &[String]) -> Vec<Option<&'static str>> {
    let named = options.iter().any(|o| o.starts_with("vers=") || o.starts_with("nfsvers="));
    if named { vec![None] } else { VERSIONS.into_iter().map(Some).collect() }
}

fn data(options: &[String], version: Option<&str>, address: IpAddr) -> String {
    let mut data: Vec<String> = options.to_vec();
    data.extend(version.map(|v| format!("vers={v}")));
    data.push(format!("addr={address}"));
    if version == Some("3") || options.iter().any(|o| o == "vers=3" || o == "nfsvers=3") {
        data.push(format!("mountaddr={address}"));
    }
    data.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_in_the_options_is_the_only_one_tried() {
        let named = ["nfsvers=4.1".to_owned()];
        assert_eq!(versions(&named), [None]);
        assert_eq!(versions(&[]).len(), VERSIONS.len());
        let address: IpAddr = [10, 0, 0, 1].into();
        assert_eq!(data(&named, None, address), "nfsvers=4.1,addr=10.0.0.1");
        assert_eq!(data(&[], Some("3"), address), "vers=3,addr=10.0.0.1,mountaddr=10.0.0.1");
    }
}
