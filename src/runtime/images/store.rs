//! The images that containerd has, and how they get their snapshots.
//!
//! As containerd's CRI does, every image has up to three names: its tag, its digest, and its id (the digest of its
//! configuration), so that each of them finds it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use base::SharedClock;
use containerd_client::services::v1 as services;
use containerd_client::services::v1::snapshots as snapshot_services;
use containerd_client::types;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tonic::Code;

use super::config::ConfigFile;
use super::content;
use super::manifest::{self, Descriptor, Document, Manifest, ManifestError};
use crate::containerd::connection::{Connection, SNAPSHOTTER, is_not_found};
use crate::contract::{Image, RuntimeError};
use crate::reference::{Reference, is_digest};

/// On every image name of ours.
const MANAGED_LABEL: &str = "io.skiff/image";
/// On images that garbage collection must leave; containerd's CRI uses the same.
const PINNED_LABEL: &str = "io.cri-containerd.pinned";
const PINNED: &str = "pinned";
const GC_SNAPSHOT_LABEL: &str = "containerd.io/gc.ref.snapshot.overlayfs";
const GC_CONTENT_LABEL: &str = "containerd.io/gc.ref.content";

/// An image that is there with everything needed to run it.
#[derive(Debug)]
pub struct StoredImage {
    /// One of its names in containerd.
    pub name: String,
    /// Digest of the configuration.
    pub id: String,
    /// What its names point at: a manifest or an index.
    pub target: Descriptor,
    pub manifest: Manifest,
    pub config: ConfigFile,
    /// Name of the topmost snapshot; empty without layers.
    pub chain_id: String,
    /// Bytes of manifest, configuration and layers.
    pub size: u64,
}

/// Names, content and snapshots of images.
pub struct ImageStore {
    pub(super) connection: Connection,
    pub(super) clock: SharedClock,
    /// By digest of the target. What a digest names never changes.
    parsed: Mutex<HashMap<String, Arc<Parsed>>>,
    /// One writer at a time for a blob: containerd refuses a second one.
    locks: Mutex<HashMap<String, std::sync::Weak<tokio::sync::Mutex<()>>>>,
}

struct Parsed {
    id: String,
    manifest: Manifest,
    config: ConfigFile,
    chain_id: String,
    size: u64,
}

impl ImageStore {
    /// The images of the containerd behind `socket`, for use beside a running [`crate::ContainerdRuntime`] too.
    pub fn at(socket: &std::path::Path, clock: SharedClock) -> Self {
        Self::new(Connection::new(socket), clock)
    }

    /// The images behind `connection`.
    pub fn new(connection: Connection, clock: SharedClock) -> Self {
        Self { connection, clock, parsed: Mutex::default(), locks: Mutex::default() }
    }

    /// The image that a reference, an id or a prefix-less id names, when it is complete.
    pub async fn find(&self, reference: &str) -> Result<Option<StoredImage>, RuntimeError> {
        for name in names_to_try(reference)? {
            let request = services::GetImageRequest { name: name.clone() };
            match self.connection.images().get(request).await {
                Ok(found) => {
                    if let Some(image) = found.into_inner().image
                        && let Some(stored) = self.stored(&self.connection, &image).await?
                    {
                        return Ok(Some(stored));
                    }
                }
                Err(status) if is_not_found(&status) => {}
                Err(status) => return Err(self.connection.failed("find image", &name, status)),
            }
        }
        // An id whose own name is missing: the image was made by other tools.
        if !is_digest(reference) {
            return Ok(None);
        }
        for image in self.list().await? {
            if let Some(stored) = self.stored(&self.connection, &image).await?
                && stored.id == reference
            {
                return Ok(Some(stored));
            }
        }
        Ok(None)
    }

    /// One image by reference or id, in the contract's form.
    pub async fn image(&self, reference: &str) -> Result<Option<Image>, RuntimeError> {
        let Some(found) = self.find(reference).await? else { return Ok(None) };
        let all = self.images().await?;
        Ok(all.into_iter().find(|image| image.id == found.id))
    }

    async fn parse_record(
        &self,
        connection: &Connection,
        image: &services::Image,
    ) -> Result<Option<(Descriptor, Arc<Parsed>)>, RuntimeError> {
        let Some(target) = &image.target else { return Ok(None) };
        let target = Descriptor {
            media_type: target.media_type.clone(),
            digest: target.digest.clone(),
            size: target.size,
            ..Default::default()
        };
        Ok(self.parse(connection, &target).await?.map(|parsed| (target, parsed)))
    }

    /// All complete images, by id.
    pub async fn images(&self) -> Result<Vec<Image>, RuntimeError> {
        let mut by_id: BTreeMap<String, Image> = BTreeMap::new();
        for record in self.list().await? {
            let Some((_, stored)) = self.parse_record(&self.connection, &record).await? else { continue };
            let user = stored.config.config.as_ref().and_then(|config| config.user.clone()).unwrap_or_default();
            let image = by_id.entry(stored.id.clone()).or_insert_with(|| Image {
                id: stored.id.clone(),
                size: stored.size,
                // The group after a colon is not the user's (upstream's getUserFromImage).
                user: user.split(':').next().unwrap_or_default().to_owned(),
                ..Default::default()
            });
            image.pinned |= record.labels.get(PINNED_LABEL).is_some_and(|value| value == PINNED);
            match Reference::parse(&record.name) {
                Ok(reference) if reference.digest.is_some() => image.digests.push(record.name),
                Ok(_) if !is_digest(&record.name) => image.tags.push(record.name),
                _ => {}
            }
        }
        Ok(by_id.into_values().collect())
    }

    async fn list(&self) -> Result<Vec<services::Image>, RuntimeError> {
        let listed = self.connection.images().list(services::ListImagesRequest::default()).await;
        Ok(listed.map_err(|status| self.connection.failed("list", "images", status))?.into_inner().images)
    }

    /// `None` when some of the content is missing.
    async fn stored(
        &self,
        connection: &Connection,
        image: &services::Image,
    ) -> Result<Option<StoredImage>, RuntimeError> {
        let Some((target, parsed)) = self.parse_record(connection, image).await? else { return Ok(None) };
        Ok(Some(StoredImage {
            name: image.name.clone(),
            id: parsed.id.clone(),
            target,
            manifest: parsed.manifest.clone(),
            config: parsed.config.clone(),
            chain_id: parsed.chain_id.clone(),
            size: parsed.size,
        }))
    }

    async fn parse(&self, connection: &Connection, target: &Descriptor) -> Result<Option<Arc<Parsed>>, RuntimeError> {
        if let Some(parsed) = self.parsed.lock().get(&target.digest) {
            return Ok(Some(parsed.clone()));
        }
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| RuntimeError::Failed {
            step: "read image",
            id: target.digest.clone(),
            source,
        };
        let mut digest = target.digest.clone();
        let mut size = 0;
        // An index may hold an index; a third level is nothing we know.
        for _ in 0..3 {
            let Some(bytes) = content::read(connection, &digest).await.map_err(|e| failed(e.into()))? else {
                return Ok(None);
            };
            size += bytes.len() as u64;
            match manifest::parse(&bytes) {
                Ok(Document::Manifest(manifest)) => {
                    let config = content::read(connection, &manifest.config.digest).await;
                    let Some(config) = config.map_err(|e| failed(e.into()))? else { return Ok(None) };
                    // Artifacts that are no images (charts, signatures) have another kind of configuration.
                    let Ok(config) = serde_json::from_slice::<ConfigFile>(&config) else { return Ok(None) };
                    let layers = manifest.layers.iter().map(|layer| layer.size).sum::<i64>() + manifest.config.size;
                    let parsed = Arc::new(Parsed {
                        id: manifest.config.digest.clone(),
                        chain_id: chain_ids(&config.rootfs.diff_ids).pop().unwrap_or_default(),
                        size: size + u64::try_from(layers).unwrap_or(0),
                        manifest,
                        config,
                    });
                    self.parsed.lock().insert(target.digest.clone(), parsed.clone());
                    return Ok(Some(parsed));
                }
                Ok(Document::Index(index)) => match manifest::select(&index) {
                    Ok(entry) => digest = entry.digest.clone(),
                    Err(_) => return Ok(None),
                },
                Err(_) => return Ok(None),
            }
        }
        Ok(None)
    }

    /// Whether `name` already means `target`, pinned and unpacked: importing an archive again has nothing to do then.
    pub(super) async fn is_ready(
        &self,
        connection: &Connection,
        name: &str,
        target: &Descriptor,
    ) -> Result<bool, RuntimeError> {
        let request = services::GetImageRequest { name: name.into() };
        let record = match connection.images().get(request).await {
            Ok(found) => found.into_inner().image.unwrap_or_default(),
            Err(status) if is_not_found(&status) => return Ok(false),
            Err(status) => return Err(connection.failed("find image", name, status)),
        };
        let pinned = record.labels.get(PINNED_LABEL).is_some_and(|value| value == PINNED);
        let same = record.target.as_ref().is_some_and(|found| found.digest == target.digest);
        let Some((_, parsed)) = self.parse_record(connection, &record).await?.filter(|_| pinned && same) else {
            return Ok(false);
        };
        if parsed.chain_id.is_empty() {
            return Ok(true);
        }
        let stat =
            snapshot_services::StatSnapshotRequest { snapshotter: SNAPSHOTTER.into(), key: parsed.chain_id.clone() };
        match connection.snapshots().stat(stat).await {
            Ok(_) => Ok(true),
            Err(status) if is_not_found(&status) => Ok(false),
            Err(status) => Err(connection.failed("find snapshot", &parsed.chain_id, status)),
        }
    }

    /// Sets what a manifest, an index and a configuration refer to, so that containerd keeps it with them.
    pub(super) fn references(children: &[(String, &Descriptor)]) -> HashMap<String, String> {
        children.iter().map(|(key, child)| (format!("{GC_CONTENT_LABEL}.{key}"), child.digest.clone())).collect()
    }

    pub(super) fn manifest_references(manifest: &Manifest) -> HashMap<String, String> {
        let mut children = vec![("config".to_owned(), &manifest.config)];
        children.extend(manifest.layers.iter().enumerate().map(|(n, layer)| (format!("l.{n}"), layer)));
        Self::references(&children)
    }

    /// Makes the snapshots of an image whose content is complete.
    pub async fn unpack(&self, image: &StoredImage) -> Result<(), RuntimeError> {
        self.unpack_with(&self.connection, &image.name, &image.manifest, &image.config).await
    }

    pub(super) async fn unpack_with(
        &self,
        connection: &Connection,
        name: &str,
        manifest: &Manifest,
        config: &ConfigFile,
    ) -> Result<(), RuntimeError> {
        let diff_ids = &config.rootfs.diff_ids;
        if diff_ids.len() != manifest.layers.len() {
            return Err(unpack_failed(name, "mismatched image rootfs and manifest layers".into()));
        }
        let chains = chain_ids(diff_ids);
        let mut parent = String::new();
        for ((layer, diff_id), chain) in manifest.layers.iter().zip(diff_ids).zip(&chains) {
            let _alone = self.lock(chain).await;
            self.apply(connection, name, layer, Step { diff_id, chain, parent: &parent }).await?;
            parent = chain.clone();
        }
        if let Some(chain) = chains.last() {
            let labels = [(GC_SNAPSHOT_LABEL.to_owned(), chain.clone())].into();
            content::label(connection, &manifest.config.digest, labels)
                .await
                .map_err(|error| unpack_failed(name, error.into()))?;
        }
        Ok(())
    }

    async fn apply(
        &self,
        connection: &Connection,
        name: &str,
        layer: &Descriptor,
        step: Step<'_>,
    ) -> Result<(), RuntimeError> {
        let snapshotter = SNAPSHOTTER.to_owned();
        let stat = snapshot_services::StatSnapshotRequest { snapshotter: snapshotter.clone(), key: step.chain.into() };
        match connection.snapshots().stat(stat).await {
            Ok(_) => return Ok(()),
            Err(status) if is_not_found(&status) => {}
            Err(status) => return Err(connection.failed("find snapshot", step.chain, status)),
        }
        let key = format!("extract-{} {}", uuid::Uuid::new_v4().simple(), step.chain);
        let prepare = snapshot_services::PrepareSnapshotRequest {
            snapshotter: snapshotter.clone(),
            key: key.clone(),
            parent: step.parent.into(),
            labels: HashMap::new(),
        };
        let mounts = connection.snapshots().prepare(prepare).await;
        let mounts = mounts.map_err(|status| connection.failed("prepare snapshot", step.chain, status))?;
        let diff = types::Descriptor {
            media_type: layer.media_type.clone(),
            digest: layer.digest.clone(),
            size: layer.size,
            ..Default::default()
        };
        let request =
            services::ApplyRequest { diff: Some(diff), mounts: mounts.into_inner().mounts, ..Default::default() };
        let applied = match connection.diff().apply(request).await {
            Ok(applied) => {
                let applied = applied.into_inner().applied.map(|applied| applied.digest).unwrap_or_default();
                match applied == step.diff_id {
                    true => Ok(()),
                    false => {
                        Err(unpack_failed(name, format!("wrong diff id calculated on extraction {applied:?}").into()))
                    }
                }
            }
            Err(status) => Err(unpack_failed(name, crate::containerd::connection::CallError::from(status).into())),
        };
        if let Err(error) = applied {
            let remove = snapshot_services::RemoveSnapshotRequest { snapshotter, key };
            if let Err(status) = connection.snapshots().remove(remove).await {
                tracing::warn!(chain = step.chain, error = status.message(), "cannot remove a half-made snapshot");
            }
            return Err(error);
        }
        let commit = snapshot_services::CommitSnapshotRequest {
            snapshotter,
            name: step.chain.into(),
            key,
            labels: HashMap::new(),
        };
        match connection.snapshots().commit(commit).await {
            Err(status) if status.code() != Code::AlreadyExists => {
                Err(connection.failed("commit snapshot", step.chain, status))
            }
            _ => Ok(()),
        }
    }

    /// Gives `target` a name, replacing what had it before.
    pub(super) async fn name(
        &self,
        connection: &Connection,
        name: &str,
        target: &Descriptor,
        pinned: bool,
    ) -> Result<(), RuntimeError> {
        let mut labels = HashMap::from([(MANAGED_LABEL.to_owned(), "true".to_owned())]);
        if pinned {
            labels.insert(PINNED_LABEL.into(), PINNED.into());
        }
        let image = services::Image {
            name: name.into(),
            labels: labels.clone(),
            target: Some(types::Descriptor {
                media_type: target.media_type.clone(),
                digest: target.digest.clone(),
                size: target.size,
                ..Default::default()
            }),
            ..Default::default()
        };
        let request = services::CreateImageRequest { image: Some(image.clone()), source_date_epoch: None };
        match connection.images().create(request).await {
            Ok(_) => Ok(()),
            Err(status) if status.code() == Code::AlreadyExists => {
                let mut paths = vec!["target".to_owned()];
                paths.extend(labels.keys().map(|key| format!("labels.{key}")));
                let request = services::UpdateImageRequest {
                    image: Some(image),
                    update_mask: Some(prost_types::FieldMask { paths }),
                    source_date_epoch: None,
                };
                let updated = connection.images().update(request).await;
                updated.map_err(|status| connection.failed("update image", name, status))?;
                Ok(())
            }
            Err(status) => Err(connection.failed("create image", name, status)),
        }
    }

    /// Removes every name of the image that `reference` names; containerd collects what nothing else uses. Idempotent.
    pub async fn remove(&self, reference: &str) -> Result<(), RuntimeError> {
        let Some(found) = self.find(reference).await? else { return Ok(()) };
        for record in self.list().await? {
            let parsed = self.parse_record(&self.connection, &record).await?;
            if parsed.is_none_or(|(_, parsed)| parsed.id != found.id) {
                continue;
            }
            let request = services::DeleteImageRequest { name: record.name.clone(), sync: true, ..Default::default() };
            match self.connection.images().delete(request).await {
                Err(status) if !is_not_found(&status) => {
                    return Err(self.connection.failed("remove image", &record.name, status));
                }
                _ => {}
            }
        }
        self.parsed.lock().retain(|_, parsed| parsed.id != found.id);
        Ok(())
    }

    /// Waits until nobody else works on `key`.
    pub(super) async fn lock(&self, key: &str) -> tokio::sync::OwnedMutexGuard<()> {
        let lock = {
            let mut locks = self.locks.lock();
            locks.retain(|_, lock| lock.strong_count() > 0);
            match locks.get(key).and_then(std::sync::Weak::upgrade) {
                Some(lock) => lock,
                None => {
                    let lock = Arc::new(tokio::sync::Mutex::new(()));
                    locks.insert(key.into(), Arc::downgrade(&lock));
                    lock
                }
            }
        };
        lock.lock_owned().await
    }

    /// Runs with a lease that keeps what is being made from garbage collection.
    pub(super) async fn under_lease<T, F>(&self, work: impl FnOnce(Connection) -> F) -> Result<T, RuntimeError>
    where
        F: Future<Output = Result<T, RuntimeError>>,
    {
        let id = format!("skiff-{}", uuid::Uuid::new_v4());
        // A crash leaves the lease behind; containerd drops it a day later.
        let expire = self.clock.now() + jiff::SignedDuration::from_hours(24);
        let labels = HashMap::from([("containerd.io/gc.expire".to_owned(), expire.to_string())]);
        let created = self.connection.leases().create(services::CreateRequest { id: id.clone(), labels }).await;
        created.map_err(|status| self.connection.failed("create lease", &id, status))?;
        let result = work(self.connection.with_lease(&id)?).await;
        let deleted = self.connection.leases().delete(services::DeleteRequest { id: id.clone(), sync: false }).await;
        if let Err(status) = deleted {
            tracing::warn!(lease = id, error = status.message(), "cannot delete a lease");
        }
        result
    }

    /// The manifest for this machine, and the configuration, of content that is there.
    pub(super) async fn complete(
        &self,
        connection: &Connection,
        target: &Descriptor,
    ) -> Result<(String, Manifest, ConfigFile), RuntimeError> {
        let parsed = self.parse(connection, target).await?;
        let parsed = parsed.ok_or_else(|| unpack_failed(&target.digest, ManifestError::NoPlatform.into()))?;
        Ok((parsed.id.clone(), parsed.manifest.clone(), parsed.config.clone()))
    }
}

struct Step<'a> {
    diff_id: &'a str,
    chain: &'a str,
    parent: &'a str,
}

fn unpack_failed(name: &str, source: Box<dyn std::error::Error + Send + Sync>) -> RuntimeError {
    RuntimeError::Failed { step: "unpack image", id: name.into(), source }
}

/// The names under which containerd may have what `reference` means.
fn names_to_try(reference: &str) -> Result<Vec<String>, RuntimeError> {
    if is_digest(reference) {
        return Ok(vec![reference.into()]);
    }
    if reference.len() == 64 && is_digest(&format!("sha256:{reference}")) {
        return Ok(vec![format!("sha256:{reference}")]);
    }
    Ok(vec![Reference::parse(reference)?.to_string()])
}

/// Names of the snapshots, lowest first: each is the digest of the one below and the layer's own.
pub fn chain_ids(diff_ids: &[String]) -> Vec<String> {
    let mut chains: Vec<String> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        let chain = match chains.last() {
            None => diff_id.clone(),
            Some(parent) => sha256(format!("{parent} {diff_id}").as_bytes()),
        };
        chains.push(chain);
    }
    chains
}

/// `sha256:…` of bytes.
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// `sha256:…` from a finished hash.
pub fn hex(hash: &[u8]) -> String {
    use std::fmt::Write;
    let mut text = String::from("sha256:");
    for byte in hash {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_follow_the_image_specification() {
        let diffs = ["sha256:a".to_owned(), "sha256:b".to_owned()];
        assert_eq!(chain_ids(&diffs), ["sha256:a".to_owned(), sha256(b"sha256:a sha256:b")]);
        assert!(chain_ids(&[]).is_empty());
    }
}
