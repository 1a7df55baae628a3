//! Volumes that come through a PersistentVolumeClaim, the pod's own ephemeral ones among them (upstream
//! `volumemanager/populator/desired_state_of_world_populator.go`, `volume/local`, `volume/hostpath`).

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use client::Resource;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, PersistentVolumeSpec, Pod, Volume};
use parking_lot::Mutex;

use super::{VolumeError, blocking, csi, fs_group, fs_group_on_mismatch, host_path, nfs, ownership};
use crate::context::Context;
use crate::{mounts, spec};

/// What a claim's volume is on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// Folder, or device node of a block volume.
    pub path: PathBuf,
    pub read_only: bool,
    pub block: bool,
    /// Asked for again once in a while.
    pub republish: bool,
}

/// Claims' volumes that are set up, by pod and volume: a running pod asks the API about them no more.
#[derive(Default)]
pub struct Claims {
    resolved: Mutex<HashMap<(String, String), Held>>,
}

/// A claim's name and what is behind it.
type Held = (String, Resolved);

impl Claims {
    pub fn get(&self, pod_uid: &str, volume: &str) -> Option<Resolved> {
        let key = (pod_uid.to_owned(), volume.to_owned());
        self.resolved.lock().get(&key).map(|(_, resolved)| resolved.clone())
    }

    /// Takes note of what is behind a volume; `claim` is empty for one that the pod itself describes.
    pub fn set(&self, pod_uid: &str, volume: &str, claim: String, resolved: Resolved) {
        self.resolved.lock().insert((pod_uid.to_owned(), volume.to_owned()), (claim, resolved));
    }

    /// The pod's volumes of this kind: name, claim, place.
    pub fn of(&self, pod_uid: &str) -> Vec<(String, String, Resolved)> {
        let all = self.resolved.lock();
        let own = all.iter().filter(|((uid, _), _)| uid == pod_uid);
        own.map(|((_, name), (claim, resolved))| (name.clone(), claim.clone(), resolved.clone())).collect()
    }

    /// Forgets the pod's volumes.
    pub fn release(&self, pod_uid: &str) {
        self.resolved.lock().retain(|(uid, _), _| uid != pod_uid);
    }
}

/// A bound PersistentVolume as a pod uses it.
pub struct Bound {
    pub name: String,
    pub spec: PersistentVolumeSpec,
    /// The pod or the volume's source asks for read-only access.
    pub read_only: bool,
}

fn refused(why: String) -> VolumeError {
    VolumeError::Claim(why)
}

/// Name of the claim behind a volume, and whether the pod reads only.
fn claim_of(pod: &Pod, volume: &Volume) -> Option<(String, bool)> {
    if let Some(source) = &volume.persistent_volume_claim {
        return Some((source.claim_name.clone(), source.read_only == Some(true)));
    }
    volume.ephemeral.as_ref().map(|_| (format!("{}-{}", spec::name(pod), volume.name), false))
}

/// Waits for nothing: a claim that is not bound yet is an error, and the pod's step is tried again.
pub async fn set_up(ctx: &Context, pod: &Pod, volume: &Volume) -> Result<Resolved, VolumeError> {
    if let Some(known) = ctx.claims.get(spec::uid(pod), &volume.name).filter(|known| !known.republish) {
        return Ok(known);
    }
    let Some((claim, read_only)) = claim_of(pod, volume) else { return Err(VolumeError::Unsupported) };
    let bound = resolve(ctx, pod, volume, &claim, read_only).await?;
    let block = bound.spec.volume_mode.as_deref() == Some("Block");
    check_use(pod, &volume.name, block)?;
    let csi::Published { path, again } = mount(ctx, pod, &bound, block).await?;
    let resolved = Resolved { path, read_only: bound.read_only, block, republish: again };
    ctx.claims.set(spec::uid(pod), &volume.name, claim, resolved.clone());
    Ok(resolved)
}

/// The volume behind a claim (`getPVCExtractPV`, `getPVSpec`).
async fn resolve(ctx: &Context, pod: &Pod, volume: &Volume, name: &str, read_only: bool) -> Result<Bound, VolumeError> {
    let namespace = spec::namespace(pod);
    let failed = |why: String| refused(format!("error processing PVC {namespace}/{name}: {why}"));
    let found = ctx.client.get::<PersistentVolumeClaim>(namespace, name).await;
    let claim = found.map_err(|e| failed(format!("failed to fetch PVC from API server: {}", base::chain(&e))))?;
    if volume.ephemeral.is_some() {
        let ours = claim.metadata.owner_references.iter().flatten().any(|o| o.uid == spec::uid(pod));
        if !ours {
            return Err(failed(format!(
                "PVC {namespace}/{name} was not created for pod {namespace}/{} (pod is not owner)",
                spec::name(pod)
            )));
        }
    }
    if claim.is_deleting() {
        return Err(failed("PVC is being deleted".to_owned()));
    }
    if claim.status.as_ref().and_then(|s| s.phase.as_deref()) != Some("Bound") {
        return Err(failed("PVC is not bound".to_owned()));
    }
    let volume_name = claim.spec.as_ref().and_then(|s| s.volume_name.clone()).filter(|n| !n.is_empty());
    let volume_name = volume_name.ok_or_else(|| failed("PVC has empty pvc.Spec.VolumeName".to_owned()))?;
    let found = ctx.client.get::<PersistentVolume>("", &volume_name).await;
    let found =
        found.map_err(|e| failed(format!("failed to fetch PV {volume_name} from API server: {}", base::chain(&e))))?;
    let pv = found.spec.clone().unwrap_or_default();
    let Some(owner) = &pv.claim_ref else {
        return Err(failed(format!(
            "found PV object {volume_name} but it has a nil pvc.Spec.ClaimRef indicating it is not yet bound to the \
             claim"
        )));
    };
    if owner.uid.as_deref() != Some(claim.uid()) {
        return Err(failed(format!(
            "found PV object {volume_name} but its pvc.Spec.ClaimRef.UID {:?} does not point to claim.UID {:?}",
            owner.uid.as_deref().unwrap_or_default(),
            claim.uid()
        )));
    }
    let source_reads = pv.nfs.as_ref().and_then(|s| s.read_only) == Some(true)
        || pv.csi.as_ref().and_then(|s| s.read_only) == Some(true);
    Ok(Bound { name: volume_name, spec: pv, read_only: read_only || source_reads })
}

/// A block volume is given as a device, a file system as a mount (`populator.createVolumeSpec`).
fn check_use(pod: &Pod, volume: &str, block: bool) -> Result<(), VolumeError> {
    let all = || spec::init_containers(pod).iter().chain(spec::containers(pod));
    let mounted = all().any(|c| c.volume_mounts.iter().flatten().any(|m| m.name == volume));
    let given = all().any(|c| c.volume_devices.iter().flatten().any(|d| d.name == volume));
    match (block, mounted, given) {
        (true, true, _) => {
            Err(refused(format!("volume {volume} has volumeMode Block, but is specified in volumeMounts")))
        }
        (false, _, true) => {
            Err(refused(format!("volume {volume} has volumeMode Filesystem, but is specified in volumeDevices")))
        }
        _ => Ok(()),
    }
}

async fn mount(ctx: &Context, pod: &Pod, bound: &Bound, block: bool) -> Result<csi::Published, VolumeError> {
    if bound.spec.csi.is_some() {
        return csi::set_up_bound(ctx, pod, bound, block).await;
    }
    let path = mount_plain(ctx, pod, bound, block).await?;
    Ok(csi::Published { path, again: false })
}

async fn mount_plain(ctx: &Context, pod: &Pod, bound: &Bound, block: bool) -> Result<PathBuf, VolumeError> {
    let spec = &bound.spec;
    if let Some(source) = &spec.host_path {
        return if block { device(Path::new(&source.path)) } else { host_path::set_up(source) };
    }
    if let Some(source) = &spec.local {
        let source = PathBuf::from(&source.path);
        return if block { device(&source) } else { local(ctx, pod, bound, source).await };
    }
    if let Some(source) = &spec.nfs {
        let export = nfs::Export {
            server: &source.server,
            path: &source.path,
            read_only: bound.read_only,
            options: spec.mount_options.as_deref().unwrap_or_default(),
        };
        return nfs::set_up(ctx, pod, &bound.name, export).await;
    }
    Err(VolumeError::Unsupported)
}

/// Checks that a path is a block device.
fn device(path: &Path) -> Result<PathBuf, VolumeError> {
    use std::os::unix::fs::FileTypeExt;
    let found = std::fs::metadata(path).map_err(VolumeError::io("cannot read", path))?;
    if !found.file_type().is_block_device() {
        return Err(refused(format!("{} is not a block device", path.display())));
    }
    Ok(path.to_owned())
}

/// A `local` volume: a folder of the node, bind-mounted for the pod (`local.go` `SetUpAt`).
async fn local(ctx: &Context, pod: &Pod, bound: &Bound, source: PathBuf) -> Result<PathBuf, VolumeError> {
    let target = super::folder(&ctx.config, pod, "local-volume", &bound.name);
    let read_only = bound.read_only;
    let group = fs_group(pod).filter(|_| !read_only);
    let lazily = fs_group_on_mismatch(pod);
    let at = target.clone();
    blocking(move || {
        let found = std::fs::metadata(&source)
            .map_err(|_| refused(format!("path {:?} does not exist", source.display().to_string())))?;
        if !found.is_dir() {
            return Err(refused(format!(
                "{} is no folder: format and mount the device there, or use volumeMode Block",
                source.display()
            )));
        }
        std::fs::create_dir_all(&at).map_err(VolumeError::io("cannot make", &at))?;
        let real = at.canonicalize().map_err(VolumeError::io("cannot resolve", &at))?;
        if mounts::is_mount_point(&real).map_err(VolumeError::io("cannot read the mounts for", &at))? {
            return Ok(());
        }
        mounts::bind(&source, &real).map_err(VolumeError::io("cannot bind-mount", &source))?;
        if read_only {
            mounts::make_read_only(&real).map_err(VolumeError::io("cannot make read-only", &at))?;
        }
        match group {
            Some(group) => ownership::apply_to_volume(&real, group, lazily),
            None => Ok(()),
        }
    })
    .await?;
    Ok(target)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pod_from;
    use serde_json::json;

    #[test]
    fn ephemeral_claims_are_named_after_pod_and_volume() {
        let pod = pod_from(json!({"metadata": {"name": "web"}, "spec": {"containers": [], "volumes": [
            {"name": "a", "ephemeral": {}}, {"name": "b", "persistentVolumeClaim": {"claimName": "c", "readOnly": true}},
            {"name": "d", "emptyDir": {}}]}}));
        let volumes = spec::spec(&pod).volumes.clone().unwrap_or_default();
        let names: Vec<_> = volumes.iter().map(|v| claim_of(&pod, v)).collect();
        assert_eq!(names, [Some(("web-a".into(), false)), Some(("c".into(), true)), None]);
    }

    #[test]
    fn block_volumes_are_devices_and_file_systems_are_mounts() {
        let pod = pod_from(json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c",
            "volumeMounts": [{"name": "m", "mountPath": "/m"}],
            "volumeDevices": [{"name": "d", "devicePath": "/dev/x"}]}]}}));
        let check = |name: &str, block, ok| assert_eq!(check_use(&pod, name, block).is_ok(), ok, "{name} {block}");
        check("m", false, true);
        check("m", true, false);
        check("d", true, true);
        check("d", false, false);
        check("unused", true, true);
    }
}
