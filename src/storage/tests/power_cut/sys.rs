//! A layer under SQLite's files that remembers what a power cut would leave of them.
//!
//! SQLite's default file system is registered anew with our `xOpen`, and each file that it opens gets a copy of its own
//! table of methods in which writing, truncating, syncing and closing pass through here first. `unsafe` because these
//! are C's function pointers; it is sound because every call is passed on with SQLite's own arguments to the function
//! that SQLite would have called, and buffers are only read within the call that lends them.

use std::collections::HashMap;
use std::ffi::{CStr, c_int, c_void};
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::OnceLock;

use parking_lot::Mutex;
use rand::Rng;
use rand::rngs::StdRng;
use rusqlite::ffi;

/// Disks write whole sectors.
const SECTOR_BYTES: usize = 512;

struct Wrapped {
    vfs: *mut ffi::sqlite3_vfs,
    disk: Mutex<Disk>,
}

// Safety: the pointer is to SQLite's own static description of the file system, which is never changed or freed.
unsafe impl Send for Wrapped {}
// Safety: as above.
unsafe impl Sync for Wrapped {}

static WRAPPED: OnceLock<Wrapped> = OnceLock::new();
/// Tables of methods by the address of SQLite's own (logs have others than databases), with ours.
static TABLES: Mutex<Vec<(usize, Methods, Methods)>> = Mutex::new(Vec::new());
/// SQLite's own methods of each open handle.
static HANDLES: Mutex<Vec<(usize, Methods)>> = Mutex::new(Vec::new());

type Methods = &'static ffi::sqlite3_io_methods;

#[derive(Default)]
struct Disk {
    /// Which file each of SQLite's handles is.
    open: HashMap<usize, PathBuf>,
    files: HashMap<PathBuf, Image>,
}

/// A file as the disk has it, and what it was told since the last sync.
#[derive(Default)]
struct Image {
    durable: Vec<u8>,
    pending: Vec<Change>,
}

enum Change {
    Write { offset: usize, bytes: Vec<u8> },
    Truncate(usize),
}

fn apply(content: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Write { offset, bytes } => {
            let end = offset + bytes.len();
            if content.len() < end {
                content.resize(end, 0);
            }
            content[*offset..end].copy_from_slice(bytes);
        }
        Change::Truncate(size) => content.resize(*size, 0),
    }
}

impl Image {
    fn sync(&mut self) {
        for change in self.pending.drain(..) {
            apply(&mut self.durable, &change);
        }
    }

    /// The file after a cut: each change since the last sync is there, or not, or torn.
    fn after_cut(&self, rng: &mut StdRng) -> (Vec<u8>, usize) {
        let mut content = self.durable.clone();
        let mut lost = 0;
        // Sometimes everything since the sync is gone, sometimes most of it has made it.
        let kept = [0.0, 0.5, 0.9][rng.random_range(0..3)];
        for change in &self.pending {
            if rng.random_bool(kept) {
                apply(&mut content, change);
                continue;
            }
            lost += 1;
            if let Change::Write { offset, bytes } = change
                && bytes.len() > SECTOR_BYTES
                && rng.random_bool(0.5)
            {
                let sectors = rng.random_range(1..bytes.len().div_ceil(SECTOR_BYTES));
                let torn = bytes[..sectors * SECTOR_BYTES].to_vec();
                apply(&mut content, &Change::Write { offset: *offset, bytes: torn });
            }
        }
        (content, lost)
    }
}

fn wrapped() -> &'static Wrapped {
    WRAPPED.get().expect("the files are wrapped")
}

/// Makes every file that SQLite opens from now on pass through here.
pub fn wrap_files() {
    // Safety: SQLite is initialised by the first call of any of its functions; a null name means the default.
    let vfs = unsafe { ffi::sqlite3_vfs_find(ptr::null()) };
    assert!(!vfs.is_null());
    assert!(WRAPPED.set(Wrapped { vfs, disk: Mutex::default() }).is_ok(), "wrapped twice");
    // Safety: `vfs` points to a valid description; the copy lives for ever, as registering demands.
    unsafe {
        let copy = Box::leak(Box::new(*vfs));
        copy.zName = c"power-cut".as_ptr();
        copy.pNext = ptr::null_mut();
        copy.xOpen = Some(open);
        copy.xDelete = Some(delete);
        assert_eq!(ffi::sqlite3_vfs_register(copy, 1), ffi::SQLITE_OK);
    }
}

/// Writes what a power cut at this moment leaves of the files in `from` to `to`; says how many writes were lost or torn.
pub fn cut(from: &Path, to: &Path, rng: &mut StdRng) -> usize {
    std::fs::create_dir_all(to).expect("a folder for what is left");
    let disk = wrapped().disk.lock();
    let mut paths: Vec<&PathBuf> = disk.files.keys().filter(|path| path.starts_with(from)).collect();
    paths.sort();
    let mut lost = 0;
    let mut left = Vec::new();
    for path in paths {
        // The index of the log is memory that the processes share: it does not survive.
        if path.to_string_lossy().ends_with("-shm") {
            continue;
        }
        let (content, gone) = disk.files[path].after_cut(rng);
        lost += gone;
        left.push((to.join(path.file_name().expect("a file")), content));
    }
    drop(disk);
    for (path, content) in left {
        std::fs::write(path, content).expect("what is left");
    }
    lost
}

unsafe extern "C" fn open(
    _: *mut ffi::sqlite3_vfs,
    name: ffi::sqlite3_filename,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out: *mut c_int,
) -> c_int {
    let vfs = wrapped().vfs;
    // Safety: SQLite's own arguments, passed on to the function they are meant for.
    let code = unsafe { (*vfs).xOpen.expect("xOpen")(vfs, name, file, flags, out) };
    if code != ffi::SQLITE_OK || name.is_null() {
        return code;
    }
    // Safety: after a successful open the name is a C string and the handle's methods are one of SQLite's static tables.
    let (path, own) = unsafe {
        let path = PathBuf::from(CStr::from_ptr(name).to_string_lossy().into_owned());
        (path, &*(*file).pMethods)
    };
    let ours = wrapped_methods(own);
    HANDLES.lock().push((file as usize, own));
    // Safety: `ours` lives for ever and differs from SQLite's table only in functions that pass everything on.
    unsafe { (*file).pMethods = ours };
    let mut disk = wrapped().disk.lock();
    disk.open.insert(file as usize, path.clone());
    disk.files.entry(path).or_insert_with_key(|path| Image {
        // What lies there already has been there for long.
        durable: std::fs::read(path).unwrap_or_default(),
        pending: Vec::new(),
    });
    code
}

unsafe extern "C" fn delete(_: *mut ffi::sqlite3_vfs, name: *const std::ffi::c_char, sync: c_int) -> c_int {
    let vfs = wrapped().vfs;
    // Safety: as in `open`; the name is a C string.
    let (code, path) = unsafe {
        let path = PathBuf::from(CStr::from_ptr(name).to_string_lossy().into_owned());
        ((*vfs).xDelete.expect("xDelete")(vfs, name, sync), path)
    };
    wrapped().disk.lock().files.remove(&path);
    code
}

/// SQLite's table with writing, truncating, syncing and closing through here.
fn wrapped_methods(own: Methods) -> Methods {
    let mut tables = TABLES.lock();
    let address = ptr::from_ref(own) as usize;
    if let Some((.., ours)) = tables.iter().find(|(known, ..)| *known == address) {
        return ours;
    }
    let mut ours = *own;
    ours.xWrite = Some(write);
    ours.xTruncate = Some(truncate);
    ours.xSync = Some(sync);
    ours.xClose = Some(close);
    let ours: Methods = Box::leak(Box::new(ours));
    tables.push((address, own, ours));
    ours
}

fn original(file: *mut ffi::sqlite3_file) -> Methods {
    let handles = HANDLES.lock();
    handles.iter().rev().find(|(handle, _)| *handle == file as usize).expect("the handle is open").1
}

/// Notes a change of the file under the same lock as the change itself: a cut sees both or neither.
fn changed(file: *mut ffi::sqlite3_file, change: Change, act: impl FnOnce() -> c_int) -> c_int {
    let mut disk = wrapped().disk.lock();
    let code = act();
    if code == ffi::SQLITE_OK
        && let Some(path) = disk.open.get(&(file as usize)).cloned()
        && let Some(image) = disk.files.get_mut(&path)
    {
        image.pending.push(change);
    }
    code
}

unsafe extern "C" fn write(file: *mut ffi::sqlite3_file, data: *const c_void, size: c_int, offset: i64) -> c_int {
    // Safety: SQLite lends `size` bytes for the time of the call.
    let bytes = unsafe { std::slice::from_raw_parts(data.cast::<u8>(), size as usize) }.to_vec();
    changed(file, Change::Write { offset: offset as usize, bytes }, || {
        // Safety: SQLite's own arguments.
        unsafe { original(file).xWrite.expect("xWrite")(file, data, size, offset) }
    })
}

unsafe extern "C" fn truncate(file: *mut ffi::sqlite3_file, size: i64) -> c_int {
    changed(file, Change::Truncate(size as usize), || {
        // Safety: SQLite's own arguments.
        unsafe { original(file).xTruncate.expect("xTruncate")(file, size) }
    })
}

unsafe extern "C" fn sync(file: *mut ffi::sqlite3_file, _: c_int) -> c_int {
    // The disk is not asked: only what is remembered here counts. Changes that come while a real sync runs are not
    // covered by it, and none can come while the lock is held.
    let mut disk = wrapped().disk.lock();
    if let Some(path) = disk.open.get(&(file as usize)).cloned()
        && let Some(image) = disk.files.get_mut(&path)
    {
        image.sync();
    }
    ffi::SQLITE_OK
}

unsafe extern "C" fn close(file: *mut ffi::sqlite3_file) -> c_int {
    wrapped().disk.lock().open.remove(&(file as usize));
    let own = original(file);
    HANDLES.lock().retain(|(handle, _)| *handle != file as usize);
    // Safety: SQLite's own argument; its close clears the handle's methods.
    unsafe { own.xClose.expect("xClose")(file) }
}
