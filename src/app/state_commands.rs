//! `skiff snapshot`, `skiff datastore` and `skiff secrets-encrypt`.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail};
use base::{Clock, SharedClock, Shutdown, SystemClock};
use storage::etcd::EtcdCluster;
use storage::snapshot::{self, SnapshotReader};
use storage::sqlite::{self, SqliteStore};
use storage::{Revision, Store};

use crate::control::{self, Request};
use crate::datastore::{self, in_memory};
use crate::import::{self, Imported};
use crate::layout::Layout;
use crate::members;
use crate::node_address;
use crate::options::{
    DatastoreCommand, DatastoreCommandOptions, DatastoreKind, DatastoreOptions, SecretsEncryptCommand,
    SecretsEncryptOptions, SnapshotCommand, SnapshotOptions,
};
use crate::snapshots::{Place, Snapshots};

/// `skiff snapshot`.
pub async fn snapshot(options: SnapshotOptions) -> anyhow::Result<()> {
    let layout = Layout::new(&options.state.data_dir);
    let place = Place::of(&options.place, &layout)?;
    match options.command {
        SnapshotCommand::Save { name } => {
            let request = Request::SnapshotSave { name: name.clone() };
            if let Some(done) = control::ask(&layout.control_socket(), &request).await? {
                println!("{done}");
                return Ok(());
            }
            let stopped = Stopped::open(&options.datastore, &layout).await?;
            let snapshots = Snapshots {
                place,
                store: stopped.store.clone(),
                engine: stopped.engine,
                node: node_address::host_name()?,
                clock: Arc::new(SystemClock) as SharedClock,
            };
            let (name, copied) = snapshots.save(&name).await?;
            println!("{name}: {} keys at revision {}, {} bytes", copied.keys, copied.revision.0, copied.size);
            stopped.close().await;
        }
        SnapshotCommand::List => {
            for entry in place.list().await? {
                let created = jiff::Timestamp::from_second(entry.created).map(|at| at.to_string()).unwrap_or_default();
                let revision = entry.revision.map(|revision| revision.to_string()).unwrap_or_else(|| "-".to_owned());
                println!("{}  {created}  {} bytes  revision {revision}  {}", entry.name, entry.size, entry.location);
            }
        }
        SnapshotCommand::Restore { snapshot } => {
            let path = place.find(&snapshot).await?;
            restore(&options.datastore, &layout, &path).await?;
        }
        SnapshotCommand::Prune { name, snapshot_retention } => {
            place.prune(&name, snapshot_retention).await?.iter().for_each(|gone| println!("removed {gone}"));
        }
        SnapshotCommand::Delete { names } => {
            for name in names {
                let removed = place.delete(&name).await?;
                if removed.is_empty() {
                    bail!("there is no snapshot {name:?}");
                }
                removed.iter().for_each(|gone| println!("removed {gone}"));
            }
        }
    }
    Ok(())
}

async fn restore(options: &DatastoreOptions, layout: &Layout, path: &Path) -> anyhow::Result<()> {
    let _lock = layout.lock().context("stop the server first")?;
    // Lives as long as the restore: its file goes with it.
    let imported = match SnapshotReader::open(path)?.header().engine.as_str() {
        "etcd" => Some(convert(layout, path).await?),
        _ => None,
    };
    let path = imported.as_ref().map_or(path, |imported| imported.path.as_path());
    if !options.datastore_endpoint.is_empty() {
        return restore_cluster(options, path).await;
    }
    let seen = newest_revision(options, layout).await;
    let tag = format!("replaced-{}", SystemClock.now().as_second());
    let (database, source, in_memory) = (layout.database(), path.to_owned(), in_memory(options));
    let work = move || sqlite::restore(&database, &source, &in_memory, seen, &tag);
    let done = tokio::task::spawn_blocking(work).await.context("the restore died")??;
    println!("restored {} keys; the database goes on from revision {}", done.keys, done.revision.0);
    if let Some(replaced) = done.replaced {
        println!("what was there before is in {}", replaced.display());
    }
    Ok(())
}

/// A snapshot of an etcd, which may hold what a stock API server wrote, in the form that ours reads.
async fn convert(layout: &Layout, path: &Path) -> anyhow::Result<Imported> {
    let target = layout.snapshots().join(format!("imported-{}", SystemClock.now().as_second()));
    let source = path.to_owned();
    let work = tokio::task::spawn_blocking(move || import::convert(&source, &target));
    let imported = work.await.context("the conversion died")??;
    if imported.summary.converted > 0 {
        println!("converted {} objects from protobuf to JSON", imported.summary.converted);
    }
    for (kind, count) in &imported.summary.left {
        println!("left as they are, because this version does not serve the kind: {count} of {kind}");
    }
    Ok(imported)
}

async fn restore_cluster(options: &DatastoreOptions, path: &Path) -> anyhow::Result<()> {
    let done = snapshot::restore_into(datastore::cluster_options(options)?, path, |step| println!("{step}")).await;
    let done = done.context("the restore did not end: run it again")?;
    println!("restored {} keys; the datastore is at revision {}", done.keys, done.revision.0);
    Ok(())
}

/// The newest revision that clients of the database in the data folder may have seen; `None` if it cannot be opened.
async fn newest_revision(options: &DatastoreOptions, layout: &Layout) -> Option<Revision> {
    if !layout.database().exists() {
        return Some(Revision(0));
    }
    let shutdown = Shutdown::new();
    let file = datastore::file_options(options);
    let store = SqliteStore::open(&layout.database(), file, shutdown.clone()).await.ok()?;
    let revision = store.revision().await.ok();
    shutdown.cancel();
    store.closed().await;
    revision
}

/// A datastore that no server uses.
struct Stopped {
    store: Arc<dyn Store>,
    engine: &'static str,
    file: Option<Arc<SqliteStore>>,
    shutdown: Shutdown,
}

impl Stopped {
    async fn open(options: &DatastoreOptions, layout: &Layout) -> anyhow::Result<Self> {
        if options.datastore_endpoint.is_empty() {
            return Self::open_file(options, layout).await;
        }
        let shutdown = Shutdown::new();
        let store = datastore::open_cluster(options, &shutdown).await?;
        Ok(Self { store, engine: "etcd", file: None, shutdown })
    }

    async fn open_file(options: &DatastoreOptions, layout: &Layout) -> anyhow::Result<Self> {
        let path = layout.database();
        if !path.exists() {
            bail!("there is no database {}: has a server run with this --data-dir?", path.display());
        }
        let shutdown = Shutdown::new();
        let store = SqliteStore::open(&path, datastore::file_options(options), shutdown.clone())
            .await
            .with_context(|| format!("cannot open the database {}", path.display()))?;
        Ok(Self { store: store.clone(), engine: "sqlite", file: Some(store), shutdown })
    }

    async fn close(self) {
        self.shutdown.cancel();
        if let Some(file) = self.file {
            file.closed().await;
        }
    }
}

/// `skiff datastore`.
pub async fn datastore(options: DatastoreCommandOptions) -> anyhow::Result<()> {
    let layout = Layout::new(&options.state.data_dir);
    let (from, to) = match options.command {
        DatastoreCommand::Migrate { from, to } => (from, to),
        DatastoreCommand::Members => {
            members::print_health(&own_cluster(&layout).await?).await?;
            return Ok(());
        }
        DatastoreCommand::RemoveMember { name } => {
            let cluster = own_cluster(&layout).await?;
            let listed = cluster.list().await?;
            let found = listed.iter().find(|member| member.name == name);
            let found = found.with_context(|| format!("there is no etcd member {name:?}"))?;
            cluster.remove(found.id).await.with_context(|| format!("cannot remove the etcd member {name:?}"))?;
            println!("removed the etcd member {name}");
            members::list::tell(&cluster).await?;
            return Ok(());
        }
    };
    if from == to {
        bail!("--from and --to are the same");
    }
    if options.datastore.datastore_endpoint.is_empty() {
        bail!("give the cluster's --datastore-endpoint");
    }
    let _lock = layout.lock().context("stop the server first")?;
    let now = SystemClock.now().as_second();
    let path = layout.snapshots().join(format!("migration-{}-{now}", node_address::host_name()?));
    let source = match from {
        DatastoreKind::Sqlite => Stopped::open_file(&options.datastore, &layout).await?,
        DatastoreKind::Etcd => Stopped::open(&options.datastore, &layout).await?,
    };
    let copied = snapshot::save(&*source.store, &path, source.engine, now).await;
    source.close().await;
    let copied = copied.context("cannot copy the datastore")?;
    println!("copied {} keys at revision {} to {}", copied.keys, copied.revision.0, path.display());
    match to {
        DatastoreKind::Etcd => restore_cluster(&options.datastore, &path).await?,
        DatastoreKind::Sqlite => {
            let seen = newest_revision(&options.datastore, &layout).await.unwrap_or_default().max(copied.revision);
            let tag = format!("replaced-{now}");
            let (database, source) = (layout.database(), path.clone());
            let in_memory = in_memory(&options.datastore);
            let work = move || sqlite::restore(&database, &source, &in_memory, Some(seen), &tag);
            let done = tokio::task::spawn_blocking(work).await.context("the restore died")??;
            println!("wrote {} keys; the database goes on from revision {}", done.keys, done.revision.0);
        }
    }
    let target = match to {
        DatastoreKind::Sqlite => Stopped::open_file(&options.datastore, &layout).await?,
        DatastoreKind::Etcd => Stopped::open(&options.datastore, &layout).await?,
    };
    let checked = compare(&*target.store, &path).await;
    target.close().await;
    println!("checked: all {} keys are there", checked?);
    Ok(())
}

async fn own_cluster(layout: &Layout) -> anyhow::Result<EtcdCluster> {
    let cluster = members::cluster_of(layout).await?;
    cluster.with_context(|| format!("the server of {} runs no etcd member", layout.root().display()))
}

/// Reads every key back; answers with how many there are.
async fn compare(store: &dyn Store, path: &Path) -> anyhow::Result<u64> {
    let mut reader = SnapshotReader::open_checked(path)?;
    let mut keys = 0;
    while let Some(record) = reader.next_record()? {
        let snapshot::Record::Key(wanted) = record else { continue };
        keys += 1;
        let found = store.range(storage::KeyRange::key(wanted.key.clone()), storage::RangeOptions::default()).await?;
        if found.kvs.first().is_none_or(|kv| kv.value != wanted.value) {
            bail!("the key {:?} did not arrive: run the migration again", String::from_utf8_lossy(&wanted.key));
        }
    }
    Ok(keys)
}

/// `skiff secrets-encrypt`.
pub async fn secrets_encrypt(options: SecretsEncryptOptions) -> anyhow::Result<()> {
    let socket = Layout::new(&options.state.data_dir).control_socket();
    let request = match options.command {
        SecretsEncryptCommand::Status => Request::EncryptionStatus,
        SecretsEncryptCommand::Rotate => Request::EncryptionRotate,
        SecretsEncryptCommand::Reencrypt => Request::EncryptionReencrypt,
    };
    match control::ask(&socket, &request).await? {
        Some(done) => println!("{done}"),
        None => bail!("no server runs with {}: start it first", options.state.data_dir.display()),
    }
    Ok(())
}
