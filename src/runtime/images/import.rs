//! Importing archives: OCI layouts and `docker save`, plain or compressed with gzip or zstd.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::content;
use super::manifest::{self, Descriptor, Document, Manifest};
use super::store::{ImageStore, hex, sha256};
use crate::containerd::blocking;
use crate::containerd::connection::Connection;
use crate::contract::RuntimeError;
use crate::reference::{Reference, is_digest};

const CHUNK_BYTES: usize = 1 << 20;

/// Why an archive cannot be imported.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    #[error("cannot read the archive")]
    Io(#[from] io::Error),
    #[error("cannot read {0} in the archive")]
    Json(&'static str, #[source] serde_json::Error),
    #[error("{0} is missing in the archive")]
    Missing(String),
    #[error("the archive is neither an OCI layout nor from docker save")]
    Unknown,
}

/// Where the files of a tar archive are.
struct Archive {
    path: PathBuf,
    /// Kept while the archive is a decompressed copy.
    _copy: Option<TemporaryFile>,
    files: HashMap<String, (u64, u64)>,
}

struct TemporaryFile(PathBuf);

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.0) {
            tracing::warn!(path = %self.0.display(), %error, "cannot remove a temporary file");
        }
    }
}

/// One entry of docker save's `manifest.json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

impl ImageStore {
    /// Imports every image of an archive and pins it. `scratch` is a folder for a decompressed copy.
    pub async fn import(&self, path: &Path, scratch: &Path) -> Result<Vec<String>, RuntimeError> {
        let failed = |error: ArchiveError| import_failed(path, error.into());
        let archive = blocking({
            let (path, scratch) = (path.to_owned(), scratch.to_owned());
            move || Archive::open(&path, &scratch)
        });
        let archive = Arc::new(archive.await.map_err(|error| failed(error.into()))?);
        self.under_lease(|connection| async move {
            let index = archive.json::<manifest::Index>("index.json").map_err(failed)?;
            let named = index.as_ref().map(named_entries).unwrap_or_default();
            if !named.is_empty() {
                return self.import_layout(&connection, &archive, named).await.map_err(|e| e.at(path));
            }
            match archive.json::<Vec<Saved>>("manifest.json").map_err(failed)? {
                Some(saved) => self.import_saved(&connection, &archive, saved).await.map_err(|e| e.at(path)),
                None if index.is_some() => Ok(Vec::new()),
                None => Err(failed(ArchiveError::Unknown)),
            }
        })
        .await
    }

    async fn import_layout(
        &self,
        connection: &Connection,
        archive: &Arc<Archive>,
        named: Vec<(String, Descriptor)>,
    ) -> Result<Vec<String>, ImportError> {
        let mut names = Vec::new();
        for (name, target) in named {
            if self.is_ready(connection, &name, &target).await? {
                names.push(name);
                continue;
            }
            self.import_tree(connection, archive, &target).await?;
            self.finish_import(connection, &name, &target).await?;
            names.push(name);
        }
        Ok(names)
    }

    /// Writes the blobs below a descriptor, children first. Of an index only this machine's manifest has to be there.
    async fn import_tree(
        &self,
        connection: &Connection,
        archive: &Arc<Archive>,
        target: &Descriptor,
    ) -> Result<(), ImportError> {
        let bytes = archive.read(&blob_path(&target.digest))?;
        let bytes = bytes.ok_or_else(|| ArchiveError::Missing(target.digest.clone()))?;
        let labels = match manifest::parse(&bytes)? {
            Document::Manifest(manifest) => {
                for child in manifest.layers.iter().chain([&manifest.config]) {
                    self.import_blob(connection, archive, child, &blob_path(&child.digest)).await?;
                }
                Self::manifest_references(&manifest)
            }
            Document::Index(index) => {
                let chosen = manifest::select(&index)?;
                Box::pin(self.import_tree(connection, archive, chosen)).await?;
                Self::references(&[("m.0".to_owned(), chosen)])
            }
        };
        let target = Descriptor { size: bytes.len() as i64, ..target.clone() };
        content::write_bytes(connection, &target, bytes, labels).await?;
        Ok(())
    }

    async fn import_blob(
        &self,
        connection: &Connection,
        archive: &Arc<Archive>,
        descriptor: &Descriptor,
        path: &str,
    ) -> Result<(), ImportError> {
        let _alone = self.lock(&descriptor.digest).await;
        let found = archive.files.get(path).copied();
        let archive_path = archive.path.clone();
        // The blob may be in the store already; then the archive need not have it.
        content::write(connection, descriptor, HashMap::new(), |offset| async move {
            let missing = || content::ContentError::Source {
                digest: descriptor.digest.clone(),
                source: ArchiveError::Missing(path.into()).into(),
            };
            let (start, length) = found.ok_or_else(missing)?;
            let offset = offset.min(length);
            Ok(file_stream(archive_path, start + offset, length - offset))
        })
        .await?;
        Ok(())
    }

    async fn import_saved(
        &self,
        connection: &Connection,
        archive: &Arc<Archive>,
        saved: Vec<Saved>,
    ) -> Result<Vec<String>, ImportError> {
        let mut names = Vec::new();
        for image in saved {
            let config = archive.read(&image.config)?.ok_or_else(|| ArchiveError::Missing(image.config.clone()))?;
            let mut made = Manifest {
                schema_version: 2,
                media_type: manifest::OCI_MANIFEST.into(),
                config: descriptor(manifest::OCI_CONFIG, sha256(&config), config.len() as i64),
                layers: Vec::new(),
            };
            content::write_bytes(connection, &made.config, config, HashMap::new()).await?;
            for layer in &image.layers {
                let measured = {
                    let (archive, layer) = (archive.clone(), layer.clone());
                    blocking(move || archive.measure(&layer)).await.map_err(ArchiveError::Io)?
                };
                let (digest, size, suffix) = measured.ok_or_else(|| ArchiveError::Missing(layer.clone()))?;
                let layer_descriptor = descriptor(&format!("{}{suffix}", manifest::OCI_LAYER), digest, size);
                self.import_blob(connection, archive, &layer_descriptor, layer).await?;
                made.layers.push(layer_descriptor);
            }
            let bytes = serde_json::to_vec(&made).map_err(|error| ArchiveError::Json("the manifest", error))?;
            let target = descriptor(manifest::OCI_MANIFEST, sha256(&bytes), bytes.len() as i64);
            content::write_bytes(connection, &target, bytes, Self::manifest_references(&made)).await?;
            for tag in image.repo_tags.unwrap_or_default() {
                let name = Reference::parse(&tag)?.to_string();
                self.finish_import(connection, &name, &target).await?;
                names.push(name);
            }
        }
        Ok(names)
    }

    /// Unpacks, then names: an image with a name is ready to run.
    async fn finish_import(&self, connection: &Connection, name: &str, target: &Descriptor) -> Result<(), ImportError> {
        let (id, manifest, config) = self.complete(connection, target).await?;
        self.unpack_with(connection, name, &manifest, &config).await?;
        let digest_name = Reference::parse(name)?.with_digest(&target.digest);
        for name in [name, &digest_name, &id] {
            self.name(connection, name, target, true).await?;
        }
        Ok(())
    }
}

/// What stopped an import, before it is known which archive it was.
#[derive(Debug, thiserror::Error)]
enum ImportError {
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error(transparent)]
    Content(#[from] content::ContentError),
    #[error(transparent)]
    Manifest(#[from] manifest::ManifestError),
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
}

impl ImportError {
    fn at(self, path: &Path) -> RuntimeError {
        match self {
            Self::Runtime(error) => error,
            other => import_failed(path, other.into()),
        }
    }
}

fn import_failed(path: &Path, source: Box<dyn std::error::Error + Send + Sync>) -> RuntimeError {
    RuntimeError::Failed { step: "import images from", id: path.display().to_string(), source }
}

fn descriptor(media_type: &str, digest: String, size: i64) -> Descriptor {
    Descriptor { media_type: media_type.into(), digest, size, ..Default::default() }
}

fn blob_path(digest: &str) -> String {
    format!("blobs/{}", digest.replacen(':', "/", 1))
}

/// The images of a layout, by the name that containerd or the OCI annotation gives them.
fn named_entries(index: &manifest::Index) -> Vec<(String, Descriptor)> {
    let mut named = Vec::new();
    for entry in &index.manifests {
        let Some(annotations) = &entry.annotations else { continue };
        let full = annotations.get("io.containerd.image.name");
        // The OCI annotation may be a mere tag, which names nothing.
        let short = annotations.get("org.opencontainers.image.ref.name").filter(|name| name.contains(['/', ':']));
        let Some(name) = full.or(short) else { continue };
        if let Ok(reference) = Reference::parse(name)
            && is_digest(&entry.digest)
        {
            named.push((reference.to_string(), entry.clone()));
        }
    }
    named
}

impl Archive {
    fn open(path: &Path, scratch: &Path) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let mut magic = [0u8; 4];
        let length = file.read(&mut magic)?;
        file.seek(SeekFrom::Start(0))?;
        let decoder: Option<Box<dyn Read>> = match &magic[..length] {
            [0x1f, 0x8b, ..] => Some(Box::new(flate2::read::MultiGzDecoder::new(file))),
            [0x28, 0xb5, 0x2f, 0xfd] => Some(Box::new(zstd::Decoder::new(file)?)),
            _ => None,
        };
        let (path, copy) = match decoder {
            None => (path.to_owned(), None),
            Some(mut decoder) => {
                std::fs::create_dir_all(scratch)?;
                let copy = TemporaryFile(scratch.join(format!("import-{}.tar", uuid::Uuid::new_v4().simple())));
                io::copy(&mut decoder, &mut File::create(&copy.0)?)?;
                (copy.0.clone(), Some(copy))
            }
        };
        let files = index_tar(&path)?;
        Ok(Self { path, _copy: copy, files })
    }

    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, ArchiveError> {
        let Some((start, length)) = self.files.get(name).copied() else { return Ok(None) };
        if length > manifest::MANIFEST_BYTES_MAX {
            return Err(io::Error::other(format!("{name} is too large")).into());
        }
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(start))?;
        let mut bytes = vec![0; length as usize];
        file.read_exact(&mut bytes)?;
        Ok(Some(bytes))
    }

    fn json<T: serde::de::DeserializeOwned>(&self, name: &'static str) -> Result<Option<T>, ArchiveError> {
        let bytes = self.read(name)?;
        bytes.map(|bytes| serde_json::from_slice(&bytes).map_err(|error| ArchiveError::Json(name, error))).transpose()
    }

    /// Digest, size and media type suffix of a layer whose descriptor is not in the archive.
    fn measure(&self, name: &str) -> io::Result<Option<(String, i64, &'static str)>> {
        let Some((start, length)) = self.files.get(name).copied() else { return Ok(None) };
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(start))?;
        let mut hasher = Sha256::new();
        let mut suffix = "";
        let mut buffer = vec![0; CHUNK_BYTES];
        let mut left = length;
        while left > 0 {
            let wanted = buffer.len().min(left as usize);
            let part = &mut buffer[..wanted];
            file.read_exact(part)?;
            if left == length {
                suffix = match &*part {
                    [0x1f, 0x8b, ..] => "+gzip",
                    [0x28, 0xb5, 0x2f, 0xfd, ..] => "+zstd",
                    _ => "",
                };
            }
            hasher.update(&*part);
            left -= wanted as u64;
        }
        Ok(Some((hex(&hasher.finalize()), length as i64, suffix)))
    }
}

/// Position and length of every file, links resolved: old docker saves link equal layers.
fn index_tar(path: &Path) -> io::Result<HashMap<String, (u64, u64)>> {
    let mut archive = tar::Archive::new(File::open(path)?);
    let mut files = HashMap::new();
    let mut links = Vec::new();
    for entry in archive.entries_with_seek()? {
        let entry = entry?;
        let name = clean(&entry.path()?);
        match entry.header().entry_type() {
            kind if kind.is_file() => {
                files.insert(name, (entry.raw_file_position(), entry.size()));
            }
            kind if kind.is_symlink() || kind.is_hard_link() => {
                let Some(target) = entry.link_name()? else { continue };
                let target = match (kind.is_symlink(), Path::new(&name).parent()) {
                    (true, Some(parent)) => clean(&parent.join(target)),
                    _ => clean(&target),
                };
                links.push((name, target));
            }
            _ => {}
        }
    }
    for (name, target) in links {
        if let Some(found) = files.get(&target).copied() {
            files.insert(name, found);
        }
    }
    Ok(files)
}

fn clean(path: &Path) -> String {
    let mut parts: Vec<String> = Vec::new();
    for part in path.components() {
        match part {
            std::path::Component::Normal(part) => parts.push(part.to_string_lossy().into_owned()),
            std::path::Component::ParentDir => drop(parts.pop()),
            _ => {}
        }
    }
    parts.join("/")
}

/// A part of a file, read on the blocking pool.
fn file_stream(path: PathBuf, start: u64, length: u64) -> futures::stream::BoxStream<'static, io::Result<Bytes>> {
    futures::stream::try_unfold((None, length), move |(file, left)| {
        let path = path.clone();
        async move {
            if left == 0 {
                return Ok(None);
            }
            let read = blocking(move || {
                let mut file = match file {
                    Some(file) => file,
                    None => {
                        let mut file = File::open(&path)?;
                        file.seek(SeekFrom::Start(start))?;
                        file
                    }
                };
                let mut chunk = vec![0; CHUNK_BYTES.min(left as usize)];
                file.read_exact(&mut chunk)?;
                Ok((file, chunk))
            });
            let (file, chunk) = read.await?;
            let left = left - chunk.len() as u64;
            Ok(Some((Bytes::from(chunk), (Some(file), left))))
        }
    })
    .boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_in_archives_lead_to_their_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.tar");
        let mut builder = tar::Builder::new(File::create(&path).unwrap());
        let mut header = tar::Header::new_gnu();
        header.set_size(5);
        header.set_cksum();
        builder.append_data(&mut header, "one/layer.tar", &b"hello"[..]).unwrap();
        let mut link = tar::Header::new_gnu();
        link.set_entry_type(tar::EntryType::Symlink);
        link.set_size(0);
        builder.append_link(&mut link, "two/layer.tar", "../one/layer.tar").unwrap();
        builder.finish().unwrap();
        let archive = Archive::open(&path, dir.path()).unwrap();
        assert_eq!(archive.read("two/layer.tar").unwrap().unwrap(), b"hello");
        let (digest, size, suffix) = archive.measure("two/layer.tar").unwrap().unwrap();
        assert_eq!((digest, size, suffix), (sha256(b"hello"), 5, ""));
        assert!(archive.read("three").unwrap().is_none());
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig {
            failure_persistence: None,
            ..proptest::prelude::ProptestConfig::default()
        })]
        #[test]
        fn no_archive_panics(
            name in "(\\.\\./|/|a/|index.json){0,4}", link in "(\\.\\./|/|a){0,4}",
            changes in proptest::collection::vec((proptest::prelude::any::<proptest::sample::Index>(), proptest::prelude::any::<u8>()), 0..6),
            cut in proptest::prelude::any::<proptest::sample::Index>(),
        ) {
            let mut builder = tar::Builder::new(Vec::new());
            let mut header = tar::Header::new_gnu();
            header.set_size(20);
            let _unfit = builder.append_data(&mut header, name, &b"{\"manifests\":[null]}"[..20]);
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_size(0);
            let _unfit = builder.append_link(&mut header, "a/b", link);
            let mut bytes = builder.into_inner().unwrap();
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            bytes.truncate(cut.index(bytes.len() * 2));
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("archive");
            std::fs::write(&path, &bytes).unwrap();
            if let Ok(archive) = Archive::open(&path, folder.path()) {
                let names: Vec<String> = archive.files.keys().cloned().collect();
                for name in names {
                    let _read = archive.read(&name);
                    // What the header says is longer than the file is not read past its end.
                    let _measured = archive.measure(&name);
                }
            }
        }
    }
}
