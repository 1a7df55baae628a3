//! Writes a file from sorted keys. Pages are filled and written one after the other; of a bucket no more is in memory
//! than one page, or two, of each level of its tree.

use std::fs::File;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;

use super::{
    BRANCH, BUCKET_HEAD, BoltError, ELEMENT_HEAD, FREE_LIST, IS_BUCKET, LEAF, MAGIC, META, META_BYTES, PAGE_BYTES,
    PAGE_HEAD, VERSION, checksum, file,
};

const WRITE: &str = "write";
/// The first page after the metas.
const FIRST: u64 = 2;

/// A file in the making.
pub struct Writer {
    file: BufWriter<File>,
    /// The next page to be written.
    next: u64,
    /// Names of the finished buckets, and what the root bucket says of them.
    buckets: Vec<(Vec<u8>, Vec<u8>)>,
    /// The tree of the bucket that is being written, leaves first.
    levels: Vec<Level>,
    last_key: Option<Vec<u8>>,
}

/// The pages of one height that are not yet written.
#[derive(Default)]
struct Level {
    /// A full branch, held back until the one after it has two children: bbolt wants no branch with one.
    held: Option<Page>,
    open: Page,
    /// Some page of this height has been written.
    written: bool,
}

/// A page's contents.
#[derive(Default)]
struct Page {
    elements: Vec<Element>,
    data: Vec<u8>,
}

struct Element {
    key_len: usize,
    data_len: usize,
    /// Of a leaf: its flags. Of a branch: the child.
    number: u64,
}

impl Page {
    fn bytes(&self) -> usize {
        PAGE_HEAD + ELEMENT_HEAD * self.elements.len() + self.data.len()
    }

    fn has_room(&self, bytes: usize) -> bool {
        self.bytes() + ELEMENT_HEAD + bytes <= PAGE_BYTES
    }

    fn push(&mut self, key: &[u8], value: &[u8], number: u64) {
        self.elements.push(Element { key_len: key.len(), data_len: key.len() + value.len(), number });
        self.data.extend_from_slice(key);
        self.data.extend_from_slice(value);
    }

    /// Takes the last element of a branch: its key and its child.
    fn pop(&mut self) -> Option<(Vec<u8>, u64)> {
        let element = self.elements.pop()?;
        Some((self.data.split_off(self.data.len() - element.data_len), element.number))
    }

    fn first_key(&self) -> Vec<u8> {
        self.elements.first().map(|first| self.data[..first.key_len].to_vec()).unwrap_or_default()
    }

    /// The page as it lies in the file, which may be several pages long.
    fn encode(&self, id: u64, kind: u16) -> Vec<u8> {
        let used = self.bytes();
        let pages = used.div_ceil(PAGE_BYTES);
        let mut bytes = Vec::with_capacity(pages * PAGE_BYTES);
        head(&mut bytes, id, kind, self.elements.len() as u16, (pages - 1) as u32);
        let mut at = 0;
        for (index, element) in self.elements.iter().enumerate() {
            // Counted from the element itself.
            let position = (ELEMENT_HEAD * (self.elements.len() - index) + at) as u32;
            if kind == LEAF {
                bytes.extend_from_slice(&(element.number as u32).to_le_bytes());
                bytes.extend_from_slice(&position.to_le_bytes());
                bytes.extend_from_slice(&(element.key_len as u32).to_le_bytes());
                bytes.extend_from_slice(&((element.data_len - element.key_len) as u32).to_le_bytes());
            } else {
                bytes.extend_from_slice(&position.to_le_bytes());
                bytes.extend_from_slice(&(element.key_len as u32).to_le_bytes());
                bytes.extend_from_slice(&element.number.to_le_bytes());
            }
            at += element.data_len;
        }
        bytes.extend_from_slice(&self.data);
        bytes.resize(pages * PAGE_BYTES, 0);
        bytes
    }
}

fn head(bytes: &mut Vec<u8>, id: u64, kind: u16, count: u16, overflow: u32) {
    bytes.extend_from_slice(&id.to_le_bytes());
    bytes.extend_from_slice(&kind.to_le_bytes());
    bytes.extend_from_slice(&count.to_le_bytes());
    bytes.extend_from_slice(&overflow.to_le_bytes());
}

fn bucket(root: u64) -> Vec<u8> {
    let mut bytes = vec![0; BUCKET_HEAD];
    bytes[..8].copy_from_slice(&root.to_le_bytes());
    bytes
}

impl Writer {
    /// Begins a file; what it held is overwritten.
    pub fn new(target: File) -> Result<Self, BoltError> {
        target.set_len(0).map_err(file(WRITE))?;
        let mut target = BufWriter::with_capacity(64 * 1024, target);
        target.seek(SeekFrom::Start(FIRST * PAGE_BYTES as u64)).map_err(file(WRITE))?;
        Ok(Self { file: target, next: FIRST, buckets: Vec::new(), levels: Vec::new(), last_key: None })
    }

    /// Adds a key to the bucket that the next [`Self::end_bucket`] names. Keys come in order; none is empty.
    pub fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), BoltError> {
        if key.is_empty() || self.last_key.as_deref().is_some_and(|last| last >= key) {
            return Err(BoltError::Order);
        }
        self.last_key = Some(key.to_vec());
        self.push(0, key, value, 0)
    }

    /// Gives what was put since the last bucket its name.
    pub fn end_bucket(&mut self, name: &[u8]) -> Result<(), BoltError> {
        let value = if self.levels.is_empty() {
            // An empty bucket is an empty leaf, within the element.
            let mut inline = bucket(0);
            head(&mut inline, 0, LEAF, 0, 0);
            inline
        } else {
            bucket(self.end_tree()?)
        };
        self.buckets.push((name.to_vec(), value));
        self.last_key = None;
        Ok(())
    }

    /// Writes what is left and makes the file durable; answers with it, at its beginning, and its size in bytes.
    pub fn finish(mut self) -> Result<(File, u64), BoltError> {
        let mut buckets = std::mem::take(&mut self.buckets);
        buckets.sort();
        if buckets.windows(2).any(|pair| pair[0].0 == pair[1].0) {
            return Err(BoltError::Order);
        }
        let mut root = Page::default();
        for (name, value) in &buckets {
            root.push(name, value, IS_BUCKET.into());
        }
        let root = self.write(&root, LEAF)?;
        let free_list = self.write(&Page::default(), FREE_LIST)?;
        let pages = self.next;
        let mut written = self.file.into_inner().map_err(|error| file(WRITE)(error.into_error()))?;
        for transaction in 0..FIRST {
            let meta = meta(transaction, root, free_list, pages);
            written.write_all_at(&meta, transaction * PAGE_BYTES as u64).map_err(file(WRITE))?;
        }
        written.sync_all().map_err(file(WRITE))?;
        written.rewind().map_err(file(WRITE))?;
        Ok((written, pages * PAGE_BYTES as u64))
    }

    fn write(&mut self, page: &Page, kind: u16) -> Result<u64, BoltError> {
        let id = self.next;
        let bytes = page.encode(id, kind);
        self.file.write_all(&bytes).map_err(file(WRITE))?;
        self.next += (bytes.len() / PAGE_BYTES) as u64;
        Ok(id)
    }

    /// Adds an element to the open page of a level.
    fn push(&mut self, at: usize, key: &[u8], value: &[u8], number: u64) -> Result<(), BoltError> {
        if at == self.levels.len() {
            self.levels.push(Level::default());
        }
        let is_branch = at > 0;
        let least = if is_branch { 2 } else { 1 };
        let level = &mut self.levels[at];
        if level.open.elements.len() >= least && !level.open.has_room(key.len() + value.len()) {
            let full = std::mem::take(&mut level.open);
            if is_branch {
                level.held = Some(full);
            } else {
                self.emit(at, &full)?;
            }
        }
        let level = &mut self.levels[at];
        level.open.push(key, value, number);
        if level.open.elements.len() >= 2
            && let Some(full) = level.held.take()
        {
            self.emit(at, &full)?;
        }
        Ok(())
    }

    /// Writes a page and tells the level above of it.
    fn emit(&mut self, at: usize, page: &Page) -> Result<(), BoltError> {
        let id = self.write(page, if at > 0 { BRANCH } else { LEAF })?;
        self.levels[at].written = true;
        self.push(at + 1, &page.first_key(), &[], id)
    }

    /// Writes what is left of a tree; answers with its root.
    fn end_tree(&mut self) -> Result<u64, BoltError> {
        let mut at = 0;
        loop {
            let Level { held, mut open, written } = std::mem::take(&mut self.levels[at]);
            let mut earlier = held;
            if let Some(full) = &mut earlier {
                // Only held back while the page after it has one child.
                if full.elements.len() > 2
                    && let Some((key, child)) = full.pop()
                {
                    let alone = std::mem::take(&mut open);
                    open.push(&key, &[], child);
                    open.push(&alone.data, &[], alone.elements.first().map_or(0, |element| element.number));
                } else if let Some((key, child)) = open.pop() {
                    full.push(&key, &[], child);
                    open = std::mem::take(full);
                    earlier = None;
                }
            }
            if !written && earlier.is_none() {
                self.levels.clear();
                return self.write(&open, if at > 0 { BRANCH } else { LEAF });
            }
            if let Some(full) = earlier {
                self.emit(at, &full)?;
            }
            self.emit(at, &open)?;
            at += 1;
        }
    }
}

/// The page of a meta.
fn meta(transaction: u64, root: u64, free_list: u64, pages: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(PAGE_BYTES);
    head(&mut bytes, transaction, META, 0, 0);
    for number in [MAGIC, VERSION, PAGE_BYTES as u32, 0] {
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    // The root bucket has a sequence too, which nobody asks for.
    for number in [root, 0, free_list, pages, transaction] {
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    let sum = checksum(&bytes[PAGE_HEAD..PAGE_HEAD + META_BYTES - 8]);
    bytes.extend_from_slice(&sum.to_le_bytes());
    bytes.resize(PAGE_BYTES, 0);
    bytes
}
