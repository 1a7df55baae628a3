//! A disk that is really full, in the middle of writes: what was acknowledged stays, what was refused has not happened,
//! and everything works again when there is space. Needs root for a small file system of its own; says so and passes
//! without it.

use std::path::Path;
use std::process::Command;

use base::Shutdown;
use storage::{KeyRange, Op, Put, RangeOptions, SqliteOptions, SqliteStore, Store, StoreError, Txn};

/// A file system of a few megabytes.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount(megabytes: u32) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let done = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={megabytes}m"), "tmpfs"])
            .arg(dir.path())
            .output();
        if !done.is_ok_and(|output| output.status.success()) {
            eprintln!("skipped: a file system can only be mounted by root");
            return None;
        }
        Some(Self(dir))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _unmounted = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

async fn write(store: &dyn Store, key: u32, bytes: usize) -> Result<i64, StoreError> {
    let put = |part: u32| {
        let key = format!("/k/{key}/{part}").into();
        Op::Put(Put { key, value: vec![b'x'; bytes].into(), ..Put::default() })
    };
    Ok(store.txn(Txn { success: (0..4).map(put).collect(), ..Txn::default() }).await?.revision.0)
}

/// One at a time: between fork and exec, a child that another test starts holds this process's files, and so its locks.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

#[tokio::test]
async fn writing_goes_on_when_there_is_space_again() {
    let _alone = ALONE.lock().await;
    let Some(disk) = SmallDisk::mount(24) else { return };
    let path = disk.path().join("db");
    let options = || SqliteOptions { wal_bytes: 1024 * 1024, ..SqliteOptions::default() };
    let shutdown = Shutdown::new();
    let store = SqliteStore::open(&path, options(), shutdown.clone()).await.unwrap();
    let ballast = disk.path().join("ballast");
    std::fs::write(&ballast, vec![0; 12 * 1024 * 1024]).unwrap();
    let mut kept = 0;
    let error = loop {
        match write(&*store, kept, 20_000).await {
            Ok(_) => kept += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, StoreError::DiskFull), "{error:?}");
    assert!(kept > 10, "only {kept} transactions fitted");
    let newest = store.revision().await.unwrap();
    let count = async |store: &SqliteStore| {
        store.range(KeyRange::prefix("/k/"), RangeOptions { count_only: true, ..RangeOptions::default() }).await
    };
    assert_eq!(count(&store).await.unwrap().count, u64::from(kept) * 4, "half a transaction stayed");
    assert!(write(&*store, kept, 20_000).await.is_err());

    std::fs::remove_file(&ballast).unwrap();
    assert_eq!(write(&*store, kept, 20_000).await.unwrap(), newest.0 + 1);
    shutdown.cancel();
    store.closed().await;
    let shutdown = Shutdown::new();
    let store = SqliteStore::open(&path, options(), shutdown.clone()).await.unwrap();
    assert_eq!(count(&store).await.unwrap().count, u64::from(kept + 1) * 4);
    shutdown.cancel();
    store.closed().await;
}

#[tokio::test]
async fn a_disk_that_cannot_be_written_is_named() {
    let _alone = ALONE.lock().await;
    let Some(disk) = SmallDisk::mount(24) else { return };
    let path = disk.path().join("db");
    let shutdown = Shutdown::new();
    let store = SqliteStore::open(&path, SqliteOptions::default(), shutdown.clone()).await.unwrap();
    write(&*store, 1, 100).await.unwrap();
    shutdown.cancel();
    store.closed().await;
    let remount = |mode: &str| {
        let done = Command::new("mount").args(["-o", &format!("remount,{mode}")]).arg(disk.path()).status();
        assert!(done.unwrap().success());
    };
    remount("ro");
    let error = SqliteStore::open(&path, SqliteOptions::default(), Shutdown::new()).await.err().unwrap();
    let text = base::chain(&error).to_string();
    assert!(text.contains("no permission to read and write ") && !text.contains('\n'), "{text}");
    remount("rw");
    let shutdown = Shutdown::new();
    let store = SqliteStore::open(&path, SqliteOptions::default(), shutdown.clone()).await.unwrap();
    write(&*store, 2, 100).await.unwrap();
    shutdown.cancel();
    store.closed().await;
}
