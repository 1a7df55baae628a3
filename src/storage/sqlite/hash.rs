//! etcd's `HashKV`: one number over all history that is kept, the same for every store with the same history
//! (server/storage/mvcc/hash.go).

use bytes::BytesMut;

use super::SqliteStore;
use super::etcd_form::{BUCKET, put_key, put_value};
use super::rows::{Row, View, decode, last_id, revision_of};
use super::schema::sql;
use crate::store::{KeyRange, Revision, StoreError};

const READ: &str = "read history";
/// CRC-32C, reflected.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// What [`SqliteStore::hash_kv`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvHash {
    pub hash: u32,
    /// The revision that the hash is as of.
    pub revision: Revision,
    /// History before this one is gone and not in the hash.
    pub compacted: Revision,
    /// The store's newest revision.
    pub current: Revision,
}

impl SqliteStore {
    /// etcd's hash of the history up to `revision` (0: the newest). Reads everything.
    pub async fn hash_kv(&self, revision: Revision) -> Result<KvHash, StoreError> {
        let current = self.shared.current();
        let at = if revision.0 > 0 { revision.0 } else { current };
        if revision.0 > 0 {
            self.shared.check_revision(revision, current, false)?;
        }
        let shared = self.shared.clone();
        self.readers
            .read(move |conn| {
                let compacted = shared.compacted();
                let view = View { conn, ephemeral: &shared.ephemeral, bound: last_id(at) };
                let mut hash = Hasher::new(&view, compacted)?;
                let mut memory = shared.ephemeral.versions(last_id(at)).into_iter().peekable();
                let mut statement = conn
                    .prepare_cached(
                        "SELECT id, key, create_rev, version, lease, prev, value FROM rev WHERE id <= ? ORDER BY id",
                    )
                    .map_err(sql(READ))?;
                let mut rows = statement.query([last_id(at)]).map_err(sql(READ))?;
                while let Some(row) = rows.next().map_err(sql(READ))? {
                    let row = decode(row)?;
                    while let Some(earlier) = memory.next_if(|earlier| earlier.id < row.id) {
                        hash.row(&earlier)?;
                    }
                    hash.row(&row)?;
                }
                for row in memory {
                    hash.row(&row)?;
                }
                if shared.compacted() != compacted {
                    return Err(StoreError::Compacted { compact_revision: Revision(shared.compacted()) });
                }
                let (revision, compacted, current) = (Revision(at), Revision(compacted), Revision(current));
                Ok(KvHash { hash: !hash.crc, revision, compacted, current })
            })
            .await
    }
}

struct Hasher<'a> {
    view: &'a View<'a>,
    table: [u32; 256],
    crc: u32,
    compacted: i64,
    /// Some key exists as of the view. etcd looks for superseded rows only then.
    alive: bool,
    buffer: BytesMut,
}

impl<'a> Hasher<'a> {
    fn new(view: &'a View<'a>, compacted: i64) -> Result<Self, StoreError> {
        let (alive, _) = view.range(&KeyRange::prefix(""), 1, true)?;
        let mut hasher =
            Self { view, table: table(), crc: !0, compacted, alive: !alive.is_empty(), buffer: BytesMut::new() };
        // etcd begins with the name of its bucket of keys.
        hasher.crc = update(&hasher.table, hasher.crc, BUCKET);
        Ok(hasher)
    }

    fn row(&mut self, row: &Row) -> Result<(), StoreError> {
        let revision = revision_of(row.id);
        let deleted = row.kv.version == 0;
        if self.compacted > 0 && revision <= self.compacted {
            let newest =
                || Ok::<_, StoreError>(self.view.newest(&row.kv.key)?.is_some_and(|newest| newest.id == row.id));
            if self.alive && (deleted || !newest()?) || revision == self.compacted && deleted {
                return Ok(());
            }
        }
        self.buffer.clear();
        put_key(&mut self.buffer, row);
        self.crc = update(&self.table, self.crc, &self.buffer);
        self.buffer.clear();
        put_value(&mut self.buffer, row);
        self.crc = update(&self.table, self.crc, &self.buffer);
        Ok(())
    }
}

fn table() -> [u32; 256] {
    let mut table = [0; 256];
    for (byte, entry) in (0_u32..).zip(&mut table) {
        *entry = (0..8).fold(byte, |crc, _| if crc & 1 == 1 { crc >> 1 ^ POLYNOMIAL } else { crc >> 1 });
    }
    table
}

fn update(table: &[u32; 256], crc: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(crc, |crc, byte| crc >> 8 ^ table[((crc ^ u32::from(*byte)) & 0xff) as usize])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_castagnolis() {
        // The check value of CRC-32C in Koopman's and Williams' catalogues.
        assert_eq!(!update(&table(), !0, b"123456789"), 0xe306_9283);
    }
}
