//! A copy of the whole store while it runs, and a fingerprint of its contents.

use std::fs::File;
use std::path::Path;

use rusqlite::{Connection, OpenFlags};
use sha2::{Digest, Sha256};

use super::SqliteStore;
use super::recover;
use super::rows::{View, last_id};
use super::schema::{set_meta, sql};
use crate::store::{KeyRange, Revision, StoreError};

const STEP: &str = "copy the database";

impl SqliteStore {
    /// Writes a copy of everything to `target`, which must not exist: a database that [`SqliteStore::open`] opens.
    /// Writers do not wait meanwhile.
    pub async fn backup(&self, target: &Path) -> Result<(), StoreError> {
        let (shared, path, target) = (self.shared.clone(), self.path.clone(), target.to_owned());
        let work = move || {
            // Claims the name, so that nothing that was there before is overwritten or removed. SQLite accepts an
            // empty file.
            File::create_new(&target).map_err(|error| StoreError::Engine {
                step: "create the copy of the database",
                source: Box::new(error),
            })?;
            // What is in memory is read first: a key may then be older in the copy than the disk's newest revision,
            // never newer than the revision that the copy claims.
            let revision = shared.current();
            let rows = shared.ephemeral.dump_as_of(last_id(revision));
            let leases = shared.leases.unpersisted();
            let copied = copy(&path, &target).and_then(|()| complete(&target, revision, &rows, &leases));
            if copied.is_err()
                && let Err(error) = std::fs::remove_file(&target)
            {
                tracing::warn!(path = %target.display(), %error, "could not remove an unfinished copy");
            }
            copied
        };
        blocking(work).await
    }

    /// A fingerprint of all keys as of `revision` (0: now), the revision that it was taken at, and the one before which
    /// history is gone. Two stores with the same keys have the same fingerprint; it is not etcd's.
    pub async fn fingerprint(&self, revision: Revision) -> Result<(u32, Revision, Revision), StoreError> {
        let newest = self.shared.current();
        let at = if revision.0 > 0 { revision } else { Revision(newest) };
        let everything = KeyRange::prefix("");
        if revision.0 > 0 {
            self.shared.check_revision(at, newest, self.shared.touches_lost(&everything))?;
        }
        let shared = self.shared.clone();
        self.readers
            .read(move |conn| {
                let mut hash = Sha256::new();
                let view = View { conn, ephemeral: &shared.ephemeral, bound: last_id(at.0) };
                let mut range = everything;
                loop {
                    let (kvs, more) = view.range(&range, 500, false)?;
                    for kv in &kvs {
                        for number in [
                            kv.key.len() as i64,
                            kv.value.len() as i64,
                            kv.create_revision.0,
                            kv.mod_revision.0,
                            kv.version,
                            kv.lease.0,
                        ] {
                            hash.update(number.to_be_bytes());
                        }
                        hash.update(&kv.key);
                        hash.update(&kv.value);
                    }
                    let Some(last) = kvs.last().filter(|_| more) else { break };
                    range.start = [&last.key[..], &[0]].concat().into();
                }
                let compacted = Revision(shared.compacted());
                if at < compacted {
                    return Err(StoreError::Compacted { compact_revision: compacted });
                }
                let digest = hash.finalize();
                let short = digest.iter().take(4).fold(0, |number, byte| number << 8 | u32::from(*byte));
                Ok((short, at, compacted))
            })
            .await
    }
}

/// Removes copies that a process left when it died.
pub(super) fn remove_stale_copies(path: &Path) {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return };
    let prefix = format!("{}.copy-", name.to_string_lossy());
    let Ok(entries) = std::fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        if entry.file_name().to_string_lossy().starts_with(&prefix)
            && let Err(error) = std::fs::remove_file(entry.path())
        {
            tracing::warn!(path = %entry.path().display(), %error, "could not remove a stale copy");
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| StoreError::Engine { step: STEP, source: Box::new(error) })?
}

fn copy(path: &Path, target: &Path) -> Result<(), StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags).map_err(sql(STEP))?;
    conn.execute("VACUUM INTO ?", [target.to_string_lossy()]).map_err(sql(STEP))?;
    Ok(())
}

/// Adds what was in memory only.
fn complete(target: &Path, revision: i64, rows: &[super::rows::Row], leases: &[(i64, i64)]) -> Result<(), StoreError> {
    let conn = Connection::open_with_flags(target, OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(sql(STEP))?;
    conn.execute_batch("BEGIN IMMEDIATE").map_err(sql(STEP))?;
    recover::save(&conn, rows, leases)?;
    let ceiling = super::schema::meta(&conn, "ceiling")?.unwrap_or(0).max(revision);
    set_meta(&conn, "ceiling", ceiling)?;
    set_meta(&conn, "clean", 1)?;
    conn.execute_batch("COMMIT").map_err(sql(STEP))?;
    conn.close().map_err(|(_, error)| sql(STEP)(error))
}
