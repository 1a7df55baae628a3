//! CSI volumes of pods: attached, staged on the node, published into the pod's folder; and back (upstream
//! `pkg/volume/csi`: `csi_attacher.go`, `csi_mounter.go`, `csi_block.go`).
//!
//! What is published is written down in the pod's folder (`vol_data.json`), so that a restarted node agent can undo it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base::Backoff;
use k8s_openapi::api::core::v1::{
    CSIPersistentVolumeSource, CSIVolumeSource, PersistentVolumeSpec, Pod, Secret, ServiceAccountTokenProjection,
};
use k8s_openapi::api::storage::v1::{CSIDriver, CSIDriverSpec, VolumeAttachment};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::persistent::Bound;
use super::{VolumeError, blocking, fs_group, fs_group_on_mismatch, ownership};
use crate::context::Context;
use crate::csi::proto::{
    AccessMode, Empty, MountVolume, NodePublishVolumeRequest, NodeStageVolumeRequest, NodeUnpublishVolumeRequest,
    NodeUnstageVolumeRequest, VolumeCapability, access_mode, capability,
};
use crate::csi::{Driver, call};
use crate::grpc::GrpcError;
use crate::spec;

const DATA: &str = "vol_data.json";
/// How long one step of a pod waits for an attachment before it fails and is tried again.
const ATTACH_WAIT: Duration = Duration::from_secs(15);

type Map = HashMap<String, String>;

/// What undoing needs to know (upstream `volData`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    driver_name: String,
    volume_handle: String,
    node_name: String,
    /// PersistentVolume, or volume of the pod.
    #[serde(rename = "specVolID")]
    spec_name: String,
    /// `Persistent` or `Ephemeral`.
    volume_lifecycle_mode: String,
    #[serde(default, rename = "attachmentID")]
    attachment: String,
    /// Where it is staged; empty when it is not.
    #[serde(default)]
    staging_path: String,
    /// Where it is published.
    #[serde(default)]
    target_path: String,
}

/// Where a volume is published.
pub struct Published {
    pub path: PathBuf,
    /// The driver wants to be called now and then, to bring the content up to date (`requiresRepublish`).
    pub again: bool,
}

/// A volume to publish, from either kind of source.
struct Wanted<'a> {
    driver: &'a str,
    handle: String,
    spec_name: &'a str,
    fs_type: &'a str,
    read_only: bool,
    block: bool,
    inline: bool,
    access_modes: &'a [String],
    mount_options: &'a [String],
    attributes: Map,
    /// Namespace and name.
    publish_secret: Option<(String, String)>,
    stage_secret: Option<(String, String)>,
}

fn failed(why: String) -> VolumeError {
    VolumeError::Claim(why)
}

fn rpc(error: GrpcError) -> VolumeError {
    VolumeError::Claim(error.to_string())
}

fn hex(text: &str) -> String {
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn plugin_dir(ctx: &Context) -> PathBuf {
    ctx.config.root_dir.join("plugins/kubernetes.io/csi")
}

/// Publishes the volume of a claim.
pub async fn set_up_bound(ctx: &Context, pod: &Pod, bound: &Bound, block: bool) -> Result<Published, VolumeError> {
    let PersistentVolumeSpec { csi: Some(source), access_modes, mount_options, .. } = &bound.spec else {
        return Err(VolumeError::Unsupported);
    };
    let CSIPersistentVolumeSource { driver, fs_type, volume_attributes, volume_handle, .. } = source;
    let secret = |reference: &Option<k8s_openapi::api::core::v1::SecretReference>| {
        let reference = reference.as_ref()?;
        Some((reference.namespace.clone().unwrap_or_default(), reference.name.clone()?))
    };
    let wanted = Wanted {
        driver,
        handle: volume_handle.clone(),
        spec_name: &bound.name,
        fs_type: fs_type.as_deref().unwrap_or_default(),
        read_only: bound.read_only,
        block,
        inline: false,
        access_modes: access_modes.as_deref().unwrap_or_default(),
        mount_options: mount_options.as_deref().unwrap_or_default(),
        attributes: volume_attributes.iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect(),
        publish_secret: secret(&source.node_publish_secret_ref),
        stage_secret: secret(&source.node_stage_secret_ref),
    };
    publish(ctx, pod, &wanted).await
}

/// Publishes a volume that is written into the pod itself.
pub async fn set_up_inline(
    ctx: &Context,
    pod: &Pod,
    name: &str,
    source: &CSIVolumeSource,
) -> Result<Published, VolumeError> {
    let secret = source.node_publish_secret_ref.as_ref();
    let read_write_once = ["ReadWriteOnce".to_owned()];
    let wanted = Wanted {
        driver: &source.driver,
        handle: format!("csi-{}", hex(&format!("{}{name}", spec::uid(pod)))),
        spec_name: name,
        fs_type: source.fs_type.as_deref().unwrap_or_default(),
        read_only: source.read_only == Some(true),
        block: false,
        inline: true,
        access_modes: &read_write_once,
        mount_options: &[],
        attributes: source.volume_attributes.iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect(),
        publish_secret: secret.map(|s| (spec::namespace(pod).to_owned(), s.name.clone())),
        stage_secret: None,
    };
    publish(ctx, pod, &wanted).await
}

async fn publish(ctx: &Context, pod: &Pod, wanted: &Wanted<'_>) -> Result<Published, VolumeError> {
    let driver = ctx.csi.get(wanted.driver).ok_or_else(|| {
        failed(format!(
            "kubernetes.io/csi: mounter.SetUpAt failed to get CSI client: driver name {} not found in the list of \
             registered CSI drivers",
            wanted.driver
        ))
    })?;
    let object: Option<CSIDriver> = ctx
        .client
        .get_opt("", wanted.driver)
        .await
        .map_err(|e| failed(format!("failed to get CSIDriver {}: {}", wanted.driver, base::chain(&e))))?;
    let known = object.is_some();
    let rules = object.map(|o| o.spec).unwrap_or_default();
    check_mode(&rules, known, wanted)?;
    let folder = super::folder(&ctx.config, pod, "csi", wanted.spec_name);
    let target = match wanted.block {
        false => folder.join("mount"),
        true => plugin_dir(ctx).join("volumeDevices/publish").join(wanted.spec_name).join(spec::uid(pod)),
    };
    let mut record = Record {
        driver_name: wanted.driver.to_owned(),
        volume_handle: wanted.handle.clone(),
        node_name: ctx.config.node_name.clone(),
        spec_name: wanted.spec_name.to_owned(),
        volume_lifecycle_mode: if wanted.inline { "Ephemeral" } else { "Persistent" }.to_owned(),
        attachment: String::new(),
        staging_path: String::new(),
        target_path: target.display().to_string(),
    };
    let attach = !wanted.inline && rules.attach_required != Some(false);
    let mut publish_context = Map::new();
    if attach {
        ctx.csi.note_in_use(spec::uid(pod), format!("kubernetes.io/csi/{}^{}", wanted.driver, wanted.handle));
        record.attachment =
            format!("csi-{}", hex(&format!("{}{}{}", wanted.handle, wanted.driver, ctx.config.node_name)));
        publish_context = attached(ctx, &record.attachment, wanted).await?;
    }
    let stages = !wanted.inline && driver.has(capability::STAGE_UNSTAGE_VOLUME).await.map_err(rpc)?;
    if stages {
        record.staging_path = staging_path(ctx, wanted).display().to_string();
    }
    // Written first: whatever happens from here on can be undone.
    write_record(&folder, &record).await?;
    let group = group_for(&rules, wanted, fs_group(pod));
    let by_driver = group.is_some() && driver.has(capability::VOLUME_MOUNT_GROUP).await.map_err(rpc)?;
    let mount_group = group.filter(|_| by_driver).map(|g| g.to_string()).unwrap_or_default();
    let capability = volume_capability(&driver, wanted, mount_group).await?;
    let lock = ctx.csi.staging_lock(wanted.driver, &wanted.handle);
    let _alone = lock.lock().await;
    if stages {
        stage(ctx, &driver, wanted, &record, (&publish_context, &capability)).await?;
    }
    let parent = if wanted.block { target.parent().map(Path::to_owned) } else { Some(folder) };
    if let Some(parent) = parent {
        std::fs::create_dir_all(&parent).map_err(VolumeError::io("cannot make", &parent))?;
    }
    let request = NodePublishVolumeRequest {
        volume_id: wanted.handle.clone(),
        publish_context,
        staging_target_path: record.staging_path.clone(),
        target_path: record.target_path.clone(),
        volume_capability: Some(capability),
        readonly: wanted.read_only,
        secrets: secrets(ctx, wanted.publish_secret.as_ref()).await?,
        volume_context: volume_context(ctx, pod, wanted, &rules).await?,
    };
    let _done: Empty = call(&driver.endpoint, "/csi.v1.Node/NodePublishVolume", &request).await.map_err(rpc)?;
    if let Some(group) = group.filter(|_| !by_driver) {
        let (path, lazily) = (target.clone(), fs_group_on_mismatch(pod));
        blocking(move || ownership::apply_to_volume(&path, group, lazily)).await?;
    }
    Ok(Published { path: target, again: rules.requires_republish == Some(true) && !wanted.block })
}

/// Whether the driver serves volumes of this life cycle (`csi_plugin.go` `getVolumeLifecycleMode`, `supportsVolumeMode`).
fn check_mode(rules: &CSIDriverSpec, known: bool, wanted: &Wanted<'_>) -> Result<(), VolumeError> {
    let mode = if wanted.inline { "Ephemeral" } else { "Persistent" };
    let modes = rules.volume_lifecycle_modes.as_deref().unwrap_or_default();
    let served = match (known, modes) {
        (_, []) => !wanted.inline,
        (true, modes) => modes.iter().any(|m| m == mode),
        (false, _) => !wanted.inline,
    };
    if served {
        return Ok(());
    }
    Err(failed(format!(
        "kubernetes.io/csi: mounter.SetUpAt failed to check volume lifecycle mode: volume mode {mode:?} not supported by \
         driver {} (only supports {modes:?})",
        wanted.driver
    )))
}

/// The group that is to own the volume's files, where the driver's policy lets the node agent see to that
/// (`csi_mounter.go` `supportsFSGroup`).
fn group_for(rules: &CSIDriverSpec, wanted: &Wanted<'_>, group: Option<i64>) -> Option<i64> {
    let group = group.filter(|_| !wanted.block)?;
    let supported = match rules.fs_group_policy.as_deref().unwrap_or("ReadWriteOnceWithFSType") {
        "None" => false,
        "File" => true,
        _ => {
            let once = wanted.access_modes.iter().any(|m| m == "ReadWriteOnce" || m == "ReadWriteOncePod");
            !wanted.fs_type.is_empty() && once && !wanted.read_only
        }
    };
    supported.then_some(group)
}

/// Waits until the attacher has attached the volume; returns what it says about that.
async fn attached(ctx: &Context, name: &str, wanted: &Wanted<'_>) -> Result<Map, VolumeError> {
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(2));
    let deadline = tokio::time::Instant::now() + ATTACH_WAIT;
    loop {
        let found: Option<VolumeAttachment> = match ctx.client.get_opt("", name).await {
            Ok(found) => found,
            // The authorizer learns of the attachment a moment after it was made.
            Err(error) if error.is_forbidden() => None,
            Err(error) => {
                return Err(failed(format!("volume attachment {name} cannot be read: {}", base::chain(&error))));
            }
        };
        let status = found.and_then(|attachment| attachment.status);
        if let Some(status) = status {
            if status.attached {
                return Ok(status.attachment_metadata.unwrap_or_default().into_iter().collect());
            }
            if let Some(message) = status.attach_error.and_then(|e| e.message) {
                return Err(failed(format!("volume {} has attach error: {message}", wanted.handle)));
            }
        }
        let pause = backoff.step();
        if tokio::time::Instant::now() + pause > deadline {
            return Err(failed(format!(
                "timed out waiting for external-attacher of {} CSI driver to attach volume {}",
                wanted.driver, wanted.handle
            )));
        }
        tokio::time::sleep(pause).await;
    }
}

fn staging_path(ctx: &Context, wanted: &Wanted<'_>) -> PathBuf {
    match wanted.block {
        true => plugin_dir(ctx).join("volumeDevices/staging").join(wanted.spec_name),
        false => plugin_dir(ctx).join(wanted.driver).join(hex(&wanted.handle)).join("globalmount"),
    }
}

async fn stage(
    ctx: &Context,
    driver: &Driver,
    wanted: &Wanted<'_>,
    record: &Record,
    (publish_context, capability): (&Map, &VolumeCapability),
) -> Result<(), VolumeError> {
    let path = PathBuf::from(&record.staging_path);
    std::fs::create_dir_all(&path).map_err(VolumeError::io("cannot make", &path))?;
    let request = NodeStageVolumeRequest {
        volume_id: wanted.handle.clone(),
        publish_context: publish_context.clone(),
        staging_target_path: record.staging_path.clone(),
        volume_capability: Some(capability.clone()),
        secrets: secrets(ctx, wanted.stage_secret.as_ref()).await?,
        volume_context: wanted.attributes.clone(),
    };
    let _done: Empty = call(&driver.endpoint, "/csi.v1.Node/NodeStageVolume", &request).await.map_err(rpc)?;
    Ok(())
}

async fn volume_capability(
    driver: &Driver,
    wanted: &Wanted<'_>,
    volume_mount_group: String,
) -> Result<VolumeCapability, VolumeError> {
    let precise = driver.has(capability::SINGLE_NODE_MULTI_WRITER).await.map_err(rpc)?;
    let mount = MountVolume {
        fs_type: wanted.fs_type.to_owned(),
        mount_flags: wanted.mount_options.to_vec(),
        volume_mount_group,
    };
    Ok(VolumeCapability {
        block: wanted.block.then_some(Empty {}),
        mount: (!wanted.block).then_some(mount),
        access_mode: Some(AccessMode { mode: mode(wanted.access_modes, precise) }),
    })
}

/// `csi_client.go` `asSingleNodeMultiWriterCapableCSIAccessModeV1`: the first of the volume's modes counts.
fn mode(modes: &[String], precise: bool) -> i32 {
    match (modes.first().map(String::as_str), precise) {
        (Some("ReadOnlyMany"), _) => access_mode::MULTI_NODE_READER_ONLY,
        (Some("ReadWriteMany"), _) => access_mode::MULTI_NODE_MULTI_WRITER,
        (Some("ReadWriteOncePod"), true) => access_mode::SINGLE_NODE_SINGLE_WRITER,
        (_, true) => access_mode::SINGLE_NODE_MULTI_WRITER,
        (_, false) => access_mode::SINGLE_NODE_WRITER,
    }
}

async fn secrets(ctx: &Context, reference: Option<&(String, String)>) -> Result<Map, VolumeError> {
    let Some((namespace, name)) = reference else { return Ok(Map::new()) };
    let secret: Secret = ctx
        .client
        .get(namespace, name)
        .await
        .map_err(|e| failed(format!("failed to get secret {namespace}/{name}: {}", base::chain(&e))))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok(secret.data.iter().flatten().map(|(k, v)| (k.clone(), text(&v.0))).collect())
}

/// The volume's attributes and, where the driver asks for that, facts and tokens of the pod.
async fn volume_context(
    ctx: &Context,
    pod: &Pod,
    wanted: &Wanted<'_>,
    rules: &CSIDriverSpec,
) -> Result<Map, VolumeError> {
    let mut out = wanted.attributes.clone();
    if rules.pod_info_on_mount == Some(true) {
        let account = spec::spec(pod).service_account_name.clone().unwrap_or_default();
        for (key, value) in [
            ("pod.name", spec::name(pod)),
            ("pod.namespace", spec::namespace(pod)),
            ("pod.uid", spec::uid(pod)),
            ("serviceAccount.name", &account),
            ("ephemeral", if wanted.inline { "true" } else { "false" }),
        ] {
            out.insert(format!("csi.storage.k8s.io/{key}"), value.to_owned());
        }
    }
    let mut tokens = serde_json::Map::new();
    for request in rules.token_requests.iter().flatten() {
        let source = ServiceAccountTokenProjection {
            audience: Some(request.audience.clone()),
            expiration_seconds: request.expiration_seconds,
            ..ServiceAccountTokenProjection::default()
        };
        let token = ctx.tokens.get(ctx, pod, &source).await?;
        let value = serde_json::json!({"token": token.text, "expirationTimestamp": token.expires.to_string()});
        tokens.insert(request.audience.clone(), value);
    }
    if !tokens.is_empty() {
        let text = serde_json::Value::Object(tokens).to_string();
        out.insert("csi.storage.k8s.io/serviceAccount.tokens".to_owned(), text);
    }
    Ok(out)
}

async fn write_record(folder: &Path, record: &Record) -> Result<(), VolumeError> {
    let text = serde_json::to_vec(record).map_err(|e| failed(e.to_string()))?;
    let folder = folder.to_owned();
    blocking(move || {
        std::fs::create_dir_all(&folder).map_err(VolumeError::io("cannot make", &folder))?;
        let file = folder.join(DATA);
        std::fs::write(&file, text).map_err(VolumeError::io("cannot write", &file))
    })
    .await
}

/// The records below a pod's folder, with the folders they are in.
fn records(pod_dir: &Path) -> Vec<(PathBuf, Record)> {
    let folders = std::fs::read_dir(pod_dir.join("volumes/kubernetes.io~csi")).into_iter().flatten().flatten();
    folders
        .filter_map(|entry| {
            let text = std::fs::read(entry.path().join(DATA)).ok()?;
            Some((entry.path(), serde_json::from_slice(&text).ok()?))
        })
        .collect()
}

/// Unpublishes the pod's volumes, and unstages those that no other pod uses.
pub async fn tear_down(ctx: &Context, uid: &str) -> Result<(), VolumeError> {
    for (folder, record) in records(&ctx.config.pod_dir(uid)) {
        let driver = ctx.csi.get(&record.driver_name).ok_or_else(|| {
            failed(format!(
                "kubernetes.io/csi: Unmounter.TearDownAt failed to get CSI client: driver name {} not found in the list \
                 of registered CSI drivers",
                record.driver_name
            ))
        })?;
        let lock = ctx.csi.staging_lock(&record.driver_name, &record.volume_handle);
        let _alone = lock.lock().await;
        let request = NodeUnpublishVolumeRequest {
            volume_id: record.volume_handle.clone(),
            target_path: record.target_path.clone(),
        };
        undo(call(&driver.endpoint, "/csi.v1.Node/NodeUnpublishVolume", &request).await)?;
        let shared = !record.staging_path.is_empty() && used_elsewhere(ctx, uid, &record);
        if !record.staging_path.is_empty() && !shared {
            let request = NodeUnstageVolumeRequest {
                volume_id: record.volume_handle.clone(),
                staging_target_path: record.staging_path.clone(),
            };
            undo(call(&driver.endpoint, "/csi.v1.Node/NodeUnstageVolume", &request).await)?;
            let staged = Path::new(&record.staging_path);
            remove_empty(staged);
            if let Some(own) = staged.parent().filter(|_| staged.ends_with("globalmount")) {
                remove_empty(own);
            }
        }
        remove_empty(Path::new(&record.target_path));
        let file = folder.join(DATA);
        std::fs::remove_file(&file).map_err(VolumeError::io("cannot remove", &file))?;
    }
    Ok(())
}

/// A volume that the driver does not know any more is undone.
fn undo(result: Result<Empty, GrpcError>) -> Result<(), VolumeError> {
    match result {
        Ok(_) => Ok(()),
        Err(error) if error.code() == Some(GrpcError::NOT_FOUND) => Ok(()),
        Err(error) => Err(rpc(error)),
    }
}

fn used_elsewhere(ctx: &Context, uid: &str, record: &Record) -> bool {
    let pods = std::fs::read_dir(ctx.config.root_dir.join("pods")).into_iter().flatten().flatten();
    pods.filter(|pod| pod.file_name().to_string_lossy() != uid).any(|pod| {
        records(&pod.path())
            .iter()
            .any(|(_, other)| other.driver_name == record.driver_name && other.volume_handle == record.volume_handle)
    })
}

/// Drivers remove what they made, or leave empty folders or files behind; anything else stays and is named.
fn remove_empty(path: &Path) {
    let removed = match std::fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => std::fs::remove_dir(path),
        Ok(_) => std::fs::remove_file(path),
        Err(_) => return,
    };
    if let Err(error) = removed {
        tracing::warn!(path = %path.display(), %error, "a storage plugin left something behind");
    }
}

#[cfg(test)]
#[path = "csi_tests.rs"]
mod tests;
