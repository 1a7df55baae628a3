//! Snapshots of a server: their names, the folder and the bucket that they lie in, the schedule.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use base::{SharedClock, Shutdown};
use controllers::Schedule;
use storage::Store;
use storage::snapshot::{self, SnapshotReader};

use crate::layout::Layout;
use crate::options::SnapshotPlace;
use crate::s3::S3;

/// Beginning of the names of scheduled snapshots.
pub const SCHEDULED: &str = "scheduled";
/// The longest sleep towards the next snapshot: the wall clock may be set meanwhile.
const SLEEP_MAX: Duration = Duration::from_secs(3600);

/// Where snapshots lie.
pub struct Place {
    pub folder: PathBuf,
    pub s3: Option<S3>,
}

/// One snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub name: String,
    /// Where it lies, for people.
    pub location: String,
    pub size: u64,
    /// Seconds since 1970, from the name.
    pub created: i64,
    /// `None` for one in a bucket, which is not opened to list it.
    pub revision: Option<i64>,
    local: bool,
}

impl Place {
    pub fn of(place: &SnapshotPlace, layout: &Layout) -> anyhow::Result<Self> {
        let folder = place.snapshot_dir.clone().unwrap_or_else(|| layout.snapshots());
        Ok(Self { folder, s3: S3::of(place)? })
    }

    /// Every snapshot, oldest first; one that is in the folder and in the bucket comes twice.
    pub async fn list(&self) -> anyhow::Result<Vec<Entry>> {
        let mut found = Vec::new();
        match std::fs::read_dir(&self.folder) {
            Ok(entries) => {
                for path in entries.flatten().map(|entry| entry.path()) {
                    let (Some(name), Ok(reader)) = (path.file_name(), SnapshotReader::open(&path)) else { continue };
                    let name = name.to_string_lossy().into_owned();
                    found.push(Entry {
                        created: created(&name).unwrap_or(reader.header().created),
                        name,
                        location: path.display().to_string(),
                        size: path.metadata().map_or(0, |meta| meta.len()),
                        revision: Some(reader.header().revision),
                        local: true,
                    });
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("cannot list {}", self.folder.display())),
        }
        if let Some(s3) = &self.s3 {
            for (name, size) in s3.list().await? {
                let Some(created) = created(&name) else { continue };
                found.push(Entry { created, location: s3.location(&name), name, size, revision: None, local: false });
            }
        }
        found.sort_by(|a, b| (a.created, &a.name).cmp(&(b.created, &b.name)));
        Ok(found)
    }

    /// Removes all but the `keep` newest snapshots whose names begin with `name`; answers with where they were.
    pub async fn prune(&self, name: &str, keep: usize) -> anyhow::Result<Vec<String>> {
        let listed = self.list().await?;
        let mut removed = Vec::new();
        for local in [true, false] {
            let ours = |entry: &&Entry| entry.local == local && stem(&entry.name) == Some(name);
            let mut of_name: Vec<&Entry> = listed.iter().filter(ours).collect();
            // Where revisions are known they say what is newer, whatever became of the clock.
            of_name.sort_by_key(|entry| (entry.revision, entry.created));
            for entry in &of_name[..of_name.len().saturating_sub(keep)] {
                self.remove(entry).await?;
                removed.push(entry.location.clone());
            }
        }
        Ok(removed)
    }

    /// Removes a snapshot wherever it lies; answers with where that was.
    pub async fn delete(&self, name: &str) -> anyhow::Result<Vec<String>> {
        let mut removed = Vec::new();
        for entry in self.list().await?.into_iter().filter(|entry| entry.name == name) {
            self.remove(&entry).await?;
            removed.push(entry.location);
        }
        Ok(removed)
    }

    async fn remove(&self, entry: &Entry) -> anyhow::Result<()> {
        match &self.s3 {
            Some(s3) if !entry.local => s3.delete(&entry.name).await,
            _ => {
                let path = self.folder.join(&entry.name);
                std::fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))
            }
        }
    }

    /// The file of a snapshot that is named by its name or path; fetched from the bucket if it is only there.
    pub async fn find(&self, name: &str) -> anyhow::Result<PathBuf> {
        for path in [PathBuf::from(name), self.folder.join(name)] {
            if path.is_file() {
                return Ok(path);
            }
        }
        let Some(s3) = &self.s3 else {
            anyhow::bail!("there is no snapshot {name:?} in {}", self.folder.display());
        };
        std::fs::create_dir_all(&self.folder).with_context(|| format!("cannot make {}", self.folder.display()))?;
        let path = self.folder.join(name);
        s3.get(name, &path).await?;
        Ok(path)
    }
}

/// `scheduled-node-1700000000` was made at its last number.
fn created(name: &str) -> Option<i64> {
    name.rsplit_once('-')?.1.parse().ok()
}

/// The part of a name before the node's.
fn stem(name: &str) -> Option<&str> {
    created(name)?;
    ["on-demand", SCHEDULED]
        .into_iter()
        .find(|stem| name.strip_prefix(stem).is_some_and(|rest| rest.starts_with('-')))
        .or_else(|| name.split('-').next())
}

/// Makes snapshots of one store.
pub struct Snapshots {
    pub place: Place,
    pub store: Arc<dyn Store>,
    pub engine: &'static str,
    pub node: String,
    pub clock: SharedClock,
}

impl Snapshots {
    /// Makes a snapshot; answers with its name and what it holds.
    pub async fn save(&self, name: &str) -> anyhow::Result<(String, snapshot::Copied)> {
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_' || b == b'.') {
            anyhow::bail!("a snapshot's name has letters, digits, dots, dashes and underscores only");
        }
        let now = self.clock.now().as_second();
        let name = format!("{name}-{}-{now}", self.node);
        let path = self.place.folder.join(&name);
        let copied = snapshot::save(&*self.store, &path, self.engine, now)
            .await
            .with_context(|| format!("cannot make the snapshot {}", path.display()))?;
        if let Some(s3) = &self.place.s3 {
            s3.put(&name, &path).await?;
        }
        Ok((name, copied))
    }

    /// Makes snapshots by a schedule and keeps the `keep` newest, until `shutdown`.
    pub async fn run(self: Arc<Self>, schedule: Schedule, keep: usize, shutdown: Shutdown) {
        let mut last = self.clock.now();
        loop {
            let Some(due) = schedule.next(last) else { return };
            loop {
                let left = self.clock.now().duration_until(due);
                let Ok(left) = Duration::try_from(left) else { break };
                if left.is_zero() {
                    break;
                }
                tokio::select! {
                    biased;
                    () = shutdown.cancelled() => return,
                    () = tokio::time::sleep(left.min(SLEEP_MAX)) => {}
                }
            }
            last = self.clock.now().max(due);
            let made = async {
                let (name, copied) = self.save(SCHEDULED).await?;
                tracing::info!(name, keys = copied.keys, bytes = copied.size, "made a snapshot");
                self.place.prune(SCHEDULED, keep).await
            };
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                made = made => if let Err(error) = made {
                    tracing::error!(error = format!("{error:#}"), "the scheduled snapshot failed");
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use base::SystemClock;
    use storage::{SqliteOptions, SqliteStore};

    use super::*;

    #[tokio::test]
    async fn the_newest_of_a_name_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let shutdown = Shutdown::new();
        let store =
            SqliteStore::open(&dir.path().join("db"), SqliteOptions::default(), shutdown.clone()).await.unwrap();
        let folder = dir.path().join("snapshots");
        for name in ["scheduled-a-b-100", "scheduled-a-b-300", "scheduled-a-b-200", "on-demand-a-b-50"] {
            snapshot::save(&*store, &folder.join(name), "sqlite", 1).await.unwrap();
        }
        std::fs::write(folder.join("notes.txt"), "mine").unwrap();
        let place = Place { folder: folder.clone(), s3: None };
        assert_eq!(place.prune(SCHEDULED, 2).await.unwrap(), [folder.join("scheduled-a-b-100").display().to_string()]);
        let names: Vec<String> = place.list().await.unwrap().into_iter().map(|entry| entry.name).collect();
        assert_eq!(names, ["on-demand-a-b-50", "scheduled-a-b-200", "scheduled-a-b-300"]);
        assert_eq!(place.find("on-demand-a-b-50").await.unwrap(), folder.join("on-demand-a-b-50"));
        assert!(place.find("none").await.is_err());
        let snapshots = Snapshots {
            place,
            store: store.clone(),
            engine: "sqlite",
            node: "n".to_owned(),
            clock: Arc::new(SystemClock),
        };
        assert!(snapshots.save("../x").await.is_err());
        assert!(snapshots.save("mine").await.unwrap().0.starts_with("mine-n-"));
        shutdown.cancel();
        store.closed().await;
    }
}
