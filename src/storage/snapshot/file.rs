//! The form of a snapshot: a line that names it, compressed records, and the SHA-256 of everything before it.
//!
//! Numbers are big-endian. A record is a byte that says what it is, the length of its content in four bytes, and the
//! content. Nothing in the form depends on an engine. Snapshots of etcd's own form are read as well ([`super::etcd_source`]).

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::etcd_source::{EtcdSource, has_hash};
use crate::bolt::BoltError;
use crate::store::{KeyValue, LeaseId, Revision};

const MAGIC: &[u8] = b"skiff-snapshot 1\n";
const HASH_LEN: usize = 32;
/// Fast, and a fifth of the size for typical objects.
const LEVEL: i32 = 3;
/// No record is larger: a key with its value, and etcd's and our limits on a request with room to spare.
const RECORD_BYTES_MAX: u32 = 256 * 1024 * 1024;

const HEADER: u8 = 1;
const LEASE: u8 = 2;
const KEY: u8 = 3;
const END: u8 = 4;

/// What is wrong with a snapshot file.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    #[error("cannot {step} {path}")]
    File {
        step: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path} is no snapshot")]
    Foreign { path: PathBuf },
    #[error("{path} is damaged: {why}")]
    Damaged { path: PathBuf, why: &'static str },
    #[error("cannot read the etcd snapshot {path}")]
    Etcd {
        path: PathBuf,
        #[source]
        source: BoltError,
    },
    #[error(
        "{path} is a file of an etcd member and has no hash at its end, so that nobody can say whether it is whole: \
         take a snapshot with `etcdctl snapshot save`"
    )]
    NoHash { path: PathBuf },
}

/// What a snapshot says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotHeader {
    /// Everything is as of this revision.
    pub revision: i64,
    /// Seconds since 1970, by the clock of the machine that made it.
    pub created: i64,
    /// `sqlite` or `etcd`.
    pub engine: String,
}

/// One thing in a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// A lease and its whole time in seconds.
    Lease(LeaseId, i64),
    Key(KeyValue),
}

/// Counts what a writer lets through into a hash.
struct Hashing<W> {
    inner: W,
    hash: Sha256,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Writes a snapshot beside its name, which it gets at the end. Blocks.
pub struct SnapshotWriter {
    path: PathBuf,
    unfinished: PathBuf,
    encoder: zstd::Encoder<'static, Hashing<BufWriter<File>>>,
    keys: u64,
    done: bool,
}

impl SnapshotWriter {
    pub fn create(path: &Path, header: &SnapshotHeader) -> Result<Self, SnapshotError> {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".unfinished");
        let unfinished = path.with_file_name(name);
        let open = || -> io::Result<zstd::Encoder<'static, Hashing<BufWriter<File>>>> {
            if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
                std::fs::create_dir_all(parent)?;
            }
            // It holds every Secret of the cluster.
            let file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
            let mut hashing = Hashing { inner: BufWriter::new(file), hash: Sha256::new() };
            hashing.write_all(MAGIC)?;
            zstd::Encoder::new(hashing, LEVEL)
        };
        let encoder = open().map_err(|source| failed("write", &unfinished, source))?;
        let mut writer = Self { path: path.to_owned(), unfinished, encoder, keys: 0, done: false };
        let header = serde_json::to_vec(header).map_err(|error| failed("write", path, error.into()))?;
        writer.record(HEADER, &[&header])?;
        Ok(writer)
    }

    pub fn write(&mut self, record: &Record) -> Result<(), SnapshotError> {
        match record {
            Record::Lease(id, ttl) => self.record(LEASE, &[&id.0.to_be_bytes(), &ttl.to_be_bytes()]),
            Record::Key(kv) => {
                self.keys += 1;
                let key_len = (kv.key.len() as u32).to_be_bytes();
                self.record(
                    KEY,
                    &[
                        &kv.create_revision.0.to_be_bytes(),
                        &kv.mod_revision.0.to_be_bytes(),
                        &kv.version.to_be_bytes(),
                        &kv.lease.0.to_be_bytes(),
                        &key_len,
                        &kv.key,
                        &kv.value,
                    ],
                )
            }
        }
    }

    fn record(&mut self, kind: u8, parts: &[&[u8]]) -> Result<(), SnapshotError> {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        let mut write = || -> io::Result<()> {
            self.encoder.write_all(&[kind])?;
            self.encoder.write_all(&(length as u32).to_be_bytes())?;
            parts.iter().try_for_each(|part| self.encoder.write_all(part))
        };
        write().map_err(|source| failed("write", &self.unfinished, source))
    }

    /// Makes the snapshot durable under its name; answers with its size in bytes and how many keys it has.
    pub fn finish(mut self) -> Result<(u64, u64), SnapshotError> {
        let keys = self.keys;
        self.record(END, &[&keys.to_be_bytes()])?;
        let finish = |writer: &mut Self| -> io::Result<u64> {
            writer.encoder.do_finish()?;
            let hashing = writer.encoder.get_mut();
            let hash = hashing.hash.clone().finalize();
            hashing.inner.write_all(&hash)?;
            hashing.inner.flush()?;
            let file = hashing.inner.get_ref();
            file.sync_all()?;
            let size = file.metadata()?.len();
            std::fs::rename(&writer.unfinished, &writer.path)?;
            let parent = writer.path.parent().filter(|parent| !parent.as_os_str().is_empty());
            File::open(parent.unwrap_or(Path::new(".")))?.sync_all()?;
            Ok(size)
        };
        let size = finish(&mut self).map_err(|source| failed("write", &self.unfinished, source))?;
        self.done = true;
        Ok((size, keys))
    }
}

impl Drop for SnapshotWriter {
    fn drop(&mut self) {
        if !self.done
            && let Err(error) = std::fs::remove_file(&self.unfinished)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.unfinished.display(), %error, "could not remove an unfinished snapshot");
        }
    }
}

pub(super) fn damaged(path: &Path, why: &'static str) -> SnapshotError {
    SnapshotError::Damaged { path: path.to_owned(), why }
}

fn failed(step: &'static str, path: &Path, source: io::Error) -> SnapshotError {
    SnapshotError::File { step, path: path.to_owned(), source }
}

/// Reads a snapshot, of this form or of etcd's. Blocks.
pub struct SnapshotReader {
    source: Source,
}

enum Source {
    Own(OwnSource),
    Etcd(Box<EtcdSource>),
}

/// A snapshot of this form.
struct OwnSource {
    path: PathBuf,
    header: SnapshotHeader,
    decoder: zstd::Decoder<'static, BufReader<io::Take<File>>>,
    keys: u64,
    ended: bool,
}

impl SnapshotReader {
    /// Opens a snapshot, reading no more than its header.
    pub fn open(path: &Path) -> Result<Self, SnapshotError> {
        let read = |source| failed("read", path, source);
        let mut file = File::open(path).map_err(read)?;
        let meta = file.metadata().map_err(read)?;
        let mut magic = Vec::with_capacity(MAGIC.len());
        (&mut file).take(MAGIC.len() as u64).read_to_end(&mut magic).map_err(read)?;
        let source = if magic == MAGIC {
            Source::Own(OwnSource::open(path, file, meta.len())?)
        } else {
            let created = meta.modified().ok().and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
            let created = created.and_then(|since| i64::try_from(since.as_secs()).ok()).unwrap_or_default();
            let opened = EtcdSource::open(path, file, meta.len(), created)?;
            let opened = opened.ok_or_else(|| SnapshotError::Foreign { path: path.to_owned() })?;
            Source::Etcd(Box::new(opened))
        };
        Ok(Self { source })
    }

    /// Opens a snapshot after reading all of it to check its hash.
    pub fn open_checked(path: &Path) -> Result<Self, SnapshotError> {
        let mut reader = Self::open(path)?;
        let is_etcd = matches!(reader.source, Source::Etcd(_));
        let read = || -> io::Result<Option<bool>> {
            let mut file = File::open(path)?;
            let length = file.metadata()?.len();
            if is_etcd && !has_hash(length) {
                return Ok(None);
            }
            let content = length.saturating_sub(HASH_LEN as u64);
            let mut hash = Sha256::new();
            io::copy(&mut (&file).take(content), &mut hash)?;
            let mut wanted = [0; HASH_LEN];
            file.seek(SeekFrom::Start(content))?;
            file.read_exact(&mut wanted)?;
            Ok(Some(hash.finalize()[..] == wanted))
        };
        match read().map_err(|source| failed("read", path, source))? {
            None => return Err(SnapshotError::NoHash { path: path.to_owned() }),
            Some(false) => return Err(damaged(path, "its hash does not match")),
            Some(true) => {}
        }
        if let Source::Etcd(source) = &mut reader.source {
            source.look()?;
        }
        Ok(reader)
    }

    pub fn header(&self) -> &SnapshotHeader {
        match &self.source {
            Source::Own(source) => &source.header,
            Source::Etcd(source) => source.header(),
        }
    }

    /// The next record; `None` at the proper end.
    pub fn next_record(&mut self) -> Result<Option<Record>, SnapshotError> {
        match &mut self.source {
            Source::Own(source) => source.next_record(),
            Source::Etcd(source) => source.next_record(),
        }
    }
}

impl OwnSource {
    /// `file` has been read up to the end of what names it.
    fn open(path: &Path, file: File, length: u64) -> Result<Self, SnapshotError> {
        let content = length.checked_sub((MAGIC.len() + HASH_LEN) as u64);
        let content = content.ok_or_else(|| SnapshotError::Foreign { path: path.to_owned() })?;
        let decoder = zstd::Decoder::new(file.take(content)).map_err(|source| failed("read", path, source))?;
        let header = SnapshotHeader { revision: 0, created: 0, engine: String::new() };
        let mut reader = Self { path: path.to_owned(), header, decoder, keys: 0, ended: false };
        let (kind, content) = reader.record()?;
        if kind != HEADER {
            return Err(reader.damaged("it does not begin with its header"));
        }
        reader.header = serde_json::from_slice(&content).map_err(|_| reader.damaged("its header cannot be read"))?;
        Ok(reader)
    }

    /// The next record; `None` at the proper end.
    fn next_record(&mut self) -> Result<Option<Record>, SnapshotError> {
        if self.ended {
            return Ok(None);
        }
        let (kind, content) = self.record()?;
        let number = |at: usize| -> Option<i64> { Some(i64::from_be_bytes(content.get(at..at + 8)?.try_into().ok()?)) };
        let record = match kind {
            LEASE => number(0).zip(number(8)).map(|(id, ttl)| Record::Lease(LeaseId(id), ttl)),
            KEY => key_value(&content).map(Record::Key),
            END if number(0) == i64::try_from(self.keys).ok() => {
                self.ended = true;
                return Ok(None);
            }
            END => return Err(self.damaged("keys are missing")),
            _ => None,
        };
        self.keys += u64::from(matches!(record, Some(Record::Key(_))));
        record.map(Some).ok_or_else(|| self.damaged("a record cannot be read"))
    }

    fn record(&mut self) -> Result<(u8, Bytes), SnapshotError> {
        let mut read = || -> io::Result<Option<(u8, Bytes)>> {
            let mut head = [0; 5];
            self.decoder.read_exact(&mut head)?;
            let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
            if length > RECORD_BYTES_MAX {
                return Ok(None);
            }
            let mut content = vec![0; length as usize];
            self.decoder.read_exact(&mut content)?;
            Ok(Some((head[0], content.into())))
        };
        match read() {
            Ok(Some(record)) => Ok(record),
            Ok(None) => Err(self.damaged("a record is too large")),
            // What cannot be decompressed, or ends too early, was not written so.
            Err(_) => Err(self.damaged("it cannot be decompressed")),
        }
    }

    fn damaged(&self, why: &'static str) -> SnapshotError {
        damaged(&self.path, why)
    }
}

fn key_value(content: &Bytes) -> Option<KeyValue> {
    let number = |at: usize| -> Option<i64> { Some(i64::from_be_bytes(content.get(at..at + 8)?.try_into().ok()?)) };
    let key_len = u32::from_be_bytes(content.get(32..36)?.try_into().ok()?) as usize;
    let value_at = 36usize.checked_add(key_len)?;
    if value_at > content.len() {
        return None;
    }
    Some(KeyValue {
        key: content.slice(36..value_at),
        value: content.slice(value_at..),
        create_revision: Revision(number(0)?),
        mod_revision: Revision(number(8)?),
        version: number(16)?,
        lease: LeaseId(number(24)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(path: &Path, keys: i64) -> u64 {
        let header = SnapshotHeader { revision: 99, created: 5, engine: "sqlite".to_owned() };
        let mut writer = SnapshotWriter::create(path, &header).unwrap();
        writer.write(&Record::Lease(LeaseId(7), 60)).unwrap();
        for n in 0..keys {
            writer.write(&Record::Key(kv(n))).unwrap();
        }
        writer.finish().unwrap().0
    }

    fn kv(n: i64) -> KeyValue {
        KeyValue {
            key: format!("/k/{n}").into(),
            value: vec![n as u8; n as usize].into(),
            create_revision: Revision(n),
            mod_revision: Revision(n + 1),
            version: 2,
            lease: LeaseId(n % 2 * 7),
        }
    }

    fn read(path: &Path) -> Result<Vec<Record>, SnapshotError> {
        let mut reader = SnapshotReader::open_checked(path)?;
        let mut records = Vec::new();
        while let Some(record) = reader.next_record()? {
            records.push(record);
        }
        Ok(records)
    }

    #[test]
    fn what_is_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/one");
        let size = sample(&path, 300);
        assert_eq!(std::fs::metadata(&path).unwrap().len(), size);
        let records = read(&path).unwrap();
        assert_eq!(records[0], Record::Lease(LeaseId(7), 60));
        assert_eq!(records[1..].to_vec(), (0..300).map(kv).map(Record::Key).collect::<Vec<_>>());
        assert_eq!(SnapshotReader::open(&path).unwrap().header().revision, 99);
        let header = SnapshotHeader { revision: 1, created: 1, engine: "sqlite".to_owned() };
        drop(SnapshotWriter::create(&dir.path().join("deep/two"), &header).unwrap());
        assert_eq!(std::fs::read_dir(dir.path().join("deep")).unwrap().count(), 1, "an unfinished one stays");
    }

    #[test]
    fn every_damage_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("one");
        let size = sample(&path, 40) as usize;
        let whole = std::fs::read(&path).unwrap();
        for at in (0..size).step_by(7) {
            let mut torn = whole.clone();
            torn[at] ^= 0x20;
            std::fs::write(&path, &torn).unwrap();
            assert!(read(&path).is_err(), "a changed byte at {at} went unnoticed");
            std::fs::write(&path, &whole[..at]).unwrap();
            assert!(read(&path).is_err(), "a cut at {at} went unnoticed");
        }
    }
}
