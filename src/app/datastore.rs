//! Where the cluster's state lies: the file of the data folder, or an external etcd cluster.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail};
use base::{Clock, Shutdown};
use bytes::Bytes;
use pki::Leaf;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use storage::etcd::EtcdTls;
use storage::snapshot::{SnapshotReader, is_half_restored};
use storage::sqlite::{OpenError, SqliteOptions, SqliteStore, restore};
use storage::{EtcdOptions, EtcdStore, Store, StoreError};

use crate::layout::Layout;
use crate::options::DatastoreOptions;

/// Heartbeats, leader election and which servers there are: their state is renewed within seconds of a start, and keeping
/// it off the disk is what lets an idle node write nothing.
const IN_MEMORY: [&str; 3] = ["/registry/leases/", "/registry/masterleases/", "/registry/peerserverleases/"];

/// The prefixes of keys that an engine in the data folder keeps in memory.
pub fn in_memory(options: &DatastoreOptions) -> Vec<Bytes> {
    let kept: &[&'static str] = if options.keep_all_on_disk { &[] } else { &IN_MEMORY };
    kept.iter().map(|prefix| Bytes::from_static(prefix.as_bytes())).collect()
}

/// The engine of a server.
pub enum Datastore {
    Sqlite(Arc<SqliteStore>),
    Etcd(Arc<EtcdStore>),
}

impl Datastore {
    /// Opens what the options say. A damaged file is put aside and the newest good snapshot takes its place.
    pub async fn open(
        options: &DatastoreOptions,
        layout: &Layout,
        snapshots: &Path,
        clock: &dyn Clock,
        shutdown: &Shutdown,
    ) -> anyhow::Result<Self> {
        if options.datastore_endpoint.is_empty() {
            return Ok(Self::Sqlite(open_file(options, layout, snapshots, clock, shutdown).await?));
        }
        let store = open_cluster(options, shutdown).await?;
        if is_half_restored(&*store).await.context("cannot read the datastore")? {
            bail!("a restore into the datastore was interrupted: run it again before starting a server");
        }
        Ok(Self::Etcd(store))
    }

    pub fn store(&self) -> Arc<dyn Store> {
        match self {
            Self::Sqlite(store) => store.clone(),
            Self::Etcd(store) => store.clone(),
        }
    }

    /// As snapshots name it.
    pub fn engine(&self) -> &'static str {
        match self {
            Self::Sqlite(_) => "sqlite",
            Self::Etcd(_) => "etcd",
        }
    }

    /// Several servers may work on it.
    pub fn is_shared(&self) -> bool {
        matches!(self, Self::Etcd(_))
    }

    /// Returns when it cannot be used any more and the server should end.
    pub async fn failed(&self) {
        match self {
            Self::Sqlite(store) => store.failed().await,
            // Members that do not answer come back.
            Self::Etcd(_) => std::future::pending().await,
        }
    }

    /// Returns when it has stopped, after its shutdown.
    pub async fn closed(&self) {
        match self {
            Self::Sqlite(store) => store.closed().await,
            Self::Etcd(store) => store.closed().await,
        }
    }
}

/// Connects to the cluster of the options.
pub async fn open_cluster(options: &DatastoreOptions, shutdown: &Shutdown) -> anyhow::Result<Arc<EtcdStore>> {
    EtcdStore::open(cluster_options(options)?, shutdown.clone())
        .await
        .context("cannot use the datastore (--datastore-endpoint)")
}

/// How the cluster of the options is reached.
pub fn cluster_options(options: &DatastoreOptions) -> anyhow::Result<EtcdOptions> {
    Ok(EtcdOptions::new(options.datastore_endpoint.clone(), client_tls(options)?))
}

/// Trust and identity for `https` endpoints; `None` if no authority is given.
pub fn client_tls(options: &DatastoreOptions) -> anyhow::Result<Option<EtcdTls>> {
    let Some(ca) = &options.datastore_cafile else {
        if options.datastore_certfile.is_some() {
            bail!("--datastore-certfile needs --datastore-cafile");
        }
        return Ok(None);
    };
    let read = |path: &Path| std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()));
    let authorities = CertificateDer::pem_slice_iter(read(ca)?.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .with_context(|| format!("{} holds no certificate", ca.display()))?;
    let leaf = match (&options.datastore_certfile, &options.datastore_keyfile) {
        (Some(cert), Some(key)) => Some(Leaf { cert_pem: read(cert)?, key_pem: read(key)? }),
        (None, None) => None,
        _ => bail!("--datastore-certfile and --datastore-keyfile belong together"),
    };
    let mut config =
        pki::serving::client_config(&authorities, leaf.as_ref()).context("cannot use the datastore's certificates")?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Some(Arc::new(config)))
}

/// Settings of the engine in the data folder.
pub fn file_options(options: &DatastoreOptions) -> SqliteOptions {
    SqliteOptions {
        ephemeral_prefixes: in_memory(options),
        leases_on_disk: options.keep_all_on_disk,
        ..SqliteOptions::default()
    }
}

async fn open_file(
    options: &DatastoreOptions,
    layout: &Layout,
    snapshots: &Path,
    clock: &dyn Clock,
    shutdown: &Shutdown,
) -> anyhow::Result<Arc<SqliteStore>> {
    let path = layout.database();
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let named = || format!("cannot open the database {}", path.display());
    let error = match SqliteStore::open(&path, file_options(options), shutdown.clone()).await {
        Ok(store) => return Ok(store),
        Err(error) => error,
    };
    if !is_damaged(&error) {
        return Err(error).with_context(named);
    }
    let Some(snapshot) = newest_good(snapshots) else {
        return Err(error).with_context(|| {
            format!(
                "there is no good snapshot in {}: restore one from elsewhere (skiff snapshot restore FILE), or move {} \
                 away to begin anew",
                snapshots.display(),
                path.display()
            )
        });
    };
    tracing::error!(
        error = %base::chain(&error),
        snapshot = %snapshot.display(),
        "THE DATABASE IS DAMAGED: going back to the newest good snapshot; what was written after it is lost"
    );
    let tag = format!("damaged-{}", clock.now().as_second());
    let (target, source, in_memory) = (path.clone(), snapshot.clone(), in_memory(options));
    let work = move || restore(&target, &source, &in_memory, None, &tag);
    let done = tokio::task::spawn_blocking(work).await.context("the restore died")?.with_context(|| {
        format!("cannot put the snapshot {} in the place of the damaged database", snapshot.display())
    })?;
    tracing::error!(
        keys = done.keys,
        damaged = done.replaced.map(|path| path.display().to_string()),
        "the snapshot is in place; the damaged file is kept"
    );
    SqliteStore::open(&path, file_options(options), shutdown.clone()).await.with_context(named)
}

fn is_damaged(error: &StoreError) -> bool {
    match OpenError::of(error) {
        Some(OpenError::Damaged { .. } | OpenError::Foreign { .. }) => true,
        Some(
            OpenError::InUse { .. }
            | OpenError::Permission { .. }
            | OpenError::File { .. }
            | OpenError::Newer { .. }
            | OpenError::Sqlite { .. },
        )
        | None => false,
    }
}

/// The newest snapshot whose hash is right.
fn newest_good(folder: &Path) -> Option<std::path::PathBuf> {
    let mut found: Vec<_> = std::fs::read_dir(folder)
        .ok()?
        .flatten()
        .map(|entry| entry.path())
        .filter_map(|path| {
            let header = SnapshotReader::open(&path).ok()?.header().clone();
            // Revisions never go back; the clock may have been set.
            Some((header.revision, header.created, path))
        })
        .collect();
    found.sort();
    while let Some((.., path)) = found.pop() {
        match SnapshotReader::open_checked(&path) {
            Ok(_) => return Some(path),
            Err(error) => tracing::warn!(error = %base::chain(&error), "a snapshot cannot be used"),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use base::SystemClock;
    use storage::{KeyRange, Op, Put, RangeOptions, Txn};

    use super::*;

    #[tokio::test]
    async fn a_damaged_database_gives_way_to_the_newest_good_snapshot() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        let snapshots = dir.path().join("snapshots");
        let open = async |shutdown: &Shutdown| {
            Datastore::open(&DatastoreOptions::default(), &layout, &snapshots, &SystemClock, shutdown).await
        };
        let shutdown = Shutdown::new();
        let datastore = open(&shutdown).await.unwrap();
        let put = |value: &'static str| Txn {
            success: vec![Op::Put(Put { key: "/registry/x".into(), value: value.into(), ..Put::default() })],
            ..Txn::default()
        };
        datastore.store().txn(put("saved")).await.unwrap();
        storage::snapshot::save(&*datastore.store(), &snapshots.join("good"), "sqlite", 1).await.unwrap();
        std::fs::write(snapshots.join("broken"), b"skiff-snapshot 1\nrubbish").unwrap();
        datastore.store().txn(put("lost")).await.unwrap();
        shutdown.cancel();
        datastore.closed().await;
        std::fs::write(layout.database(), vec![b'x'; 9000]).unwrap();

        let shutdown = Shutdown::new();
        let datastore = open(&shutdown).await.unwrap();
        let found = datastore.store().range(KeyRange::key("/registry/x"), RangeOptions::default()).await.unwrap();
        assert_eq!(found.kvs[0].value, "saved");
        let kept = std::fs::read_dir(dir.path().join("db")).unwrap().flatten();
        assert!(kept.into_iter().any(|entry| entry.file_name().to_string_lossy().contains("damaged-")));
        shutdown.cancel();
        datastore.closed().await;

        std::fs::write(layout.database(), vec![b'x'; 9000]).unwrap();
        std::fs::remove_dir_all(&snapshots).unwrap();
        let error = open(&Shutdown::new()).await.err().map(|error| format!("{error:#}")).unwrap_or_default();
        assert!(error.contains("no good snapshot"), "{error}");
    }
}
