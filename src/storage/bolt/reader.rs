//! Reads a file, a page at a time. Nothing in it is trusted: whatever it holds, reading ends, with an error or without.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;

use super::{
    BRANCH, BUCKET_HEAD, BoltError, ELEMENT_HEAD, IS_BUCKET, LEAF, MAGIC, META, META_BYTES, PAGE_HEAD, VERSION,
    checksum, file,
};

const READ: &str = "read";
/// Sizes that pages may have, as powers of two.
const PAGE_SIZES: std::ops::RangeInclusive<u32> = 9..=16;
/// No page is larger, with what it goes on over: etcd's limits on a request, and ours, with room to spare.
const PAGE_BYTES_MAX: u64 = 512 * 1024 * 1024;
/// A tree of so many levels has more leaves than any disk has bytes.
const LEVELS_MAX: usize = 64;

/// An open file.
#[derive(Clone)]
pub struct Reader {
    file: Arc<File>,
    page_bytes: u64,
    /// Pages there are.
    pages: u64,
    root: u64,
}

/// Where the contents of a bucket lie.
pub struct Bucket(Root);

#[derive(Clone)]
enum Root {
    Page(u64),
    Inline(Bytes),
}

/// Goes over the keys of a bucket, in order.
pub struct Cursor {
    reader: Reader,
    root: Option<Root>,
    /// The way to the next element: pages, and the index in each.
    way: Vec<(Page, usize)>,
    last_key: Bytes,
    /// Pages that may still be read: more than there are means that they go round in a circle.
    left: u64,
}

struct Page {
    id: u64,
    bytes: Bytes,
    kind: u16,
    count: usize,
}

struct Element {
    key: Bytes,
    value: Bytes,
    /// Of a leaf: its flags. Of a branch: the child.
    number: u64,
}

impl Reader {
    /// Opens the file, whose first `length` bytes are the pages.
    pub fn open(source: File, length: u64) -> Result<Self, BoltError> {
        let places = std::iter::once(0).chain(PAGE_SIZES.map(|power| 1 << power));
        let source = Arc::new(source);
        let mut newest: Option<(u64, Self)> = None;
        for place in places.filter(|place| place + (PAGE_HEAD + META_BYTES) as u64 <= length) {
            let mut bytes = [0; PAGE_HEAD + META_BYTES];
            source.read_exact_at(&mut bytes, place).map_err(file(READ))?;
            let Some((transaction, page_bytes, root, pages)) = meta(&bytes, place) else { continue };
            if newest.as_ref().is_some_and(|(other, _)| *other >= transaction) {
                continue;
            }
            if pages.checked_mul(page_bytes).is_none_or(|bytes| bytes > length) {
                return Err(BoltError::Damaged { page: place / page_bytes, why: "the file is shorter than it says" });
            }
            newest = Some((transaction, Self { file: source.clone(), page_bytes, pages, root }));
        }
        newest.map(|(_, reader)| reader).ok_or(BoltError::Foreign)
    }

    /// The bucket of this name.
    pub fn bucket(&self, name: &[u8]) -> Result<Option<Bucket>, BoltError> {
        let mut cursor = self.cursor(&Bucket(Root::Page(self.root)));
        while let Some(element) = cursor.next_element()? {
            if element.key == name && element.number & u64::from(IS_BUCKET) != 0 {
                return bucket(&element.value).map(Some).ok_or_else(|| self.damaged(self.root, "a bucket is cut off"));
            }
        }
        Ok(None)
    }

    /// The keys of a bucket from the first one on.
    pub fn cursor(&self, bucket: &Bucket) -> Cursor {
        let (reader, left) = (self.clone(), self.pages + 1);
        Cursor { reader, root: Some(bucket.0.clone()), way: Vec::new(), last_key: Bytes::new(), left }
    }

    /// The last key of a bucket with its value.
    pub fn last(&self, bucket: &Bucket) -> Result<Option<(Bytes, Bytes)>, BoltError> {
        let mut page = self.root(&bucket.0)?;
        for _ in 0..LEVELS_MAX {
            let Some(last) = page.count.checked_sub(1) else { return Ok(None) };
            let element = page.element(last)?;
            if page.kind == LEAF {
                return Ok(Some((element.key, element.value)));
            }
            page = self.page(element.number)?;
        }
        Err(self.damaged(page.id, "the tree goes round in a circle"))
    }

    fn root(&self, root: &Root) -> Result<Page, BoltError> {
        match root {
            Root::Page(id) => self.page(*id),
            Root::Inline(bytes) => Page::new(0, bytes.clone()),
        }
    }

    fn page(&self, id: u64) -> Result<Page, BoltError> {
        if id >= self.pages {
            return Err(self.damaged(id, "it is behind the end of the file"));
        }
        let mut head = [0; PAGE_HEAD];
        let at = id * self.page_bytes;
        self.file.read_exact_at(&mut head, at).map_err(file(READ))?;
        if number(&head, 0) != Some(id) {
            return Err(self.damaged(id, "it has another page's number"));
        }
        let over = u64::from(u32::from_le_bytes([head[12], head[13], head[14], head[15]]));
        let bytes = (over + 1) * self.page_bytes;
        if id + over >= self.pages || bytes > PAGE_BYTES_MAX {
            return Err(self.damaged(id, "it is longer than the file"));
        }
        let mut whole = vec![0; bytes as usize];
        self.file.read_exact_at(&mut whole, at).map_err(file(READ))?;
        Page::new(id, whole.into())
    }

    fn damaged(&self, page: u64, why: &'static str) -> BoltError {
        BoltError::Damaged { page, why }
    }
}

impl Page {
    fn new(id: u64, bytes: Bytes) -> Result<Self, BoltError> {
        let Some(&[kind_low, kind_high, count_low, count_high]) = bytes.get(8..12) else {
            return Err(BoltError::Damaged { page: id, why: "it is cut off" });
        };
        let kind = u16::from_le_bytes([kind_low, kind_high]);
        if kind != LEAF && kind != BRANCH {
            return Err(BoltError::Damaged { page: id, why: "it is neither a branch nor a leaf" });
        }
        let count = u16::from_le_bytes([count_low, count_high]).into();
        Ok(Self { id, bytes, kind, count })
    }

    fn element(&self, index: usize) -> Result<Element, BoltError> {
        self.read_element(index).ok_or(BoltError::Damaged { page: self.id, why: "an element is outside of it" })
    }

    fn read_element(&self, index: usize) -> Option<Element> {
        let at = PAGE_HEAD + ELEMENT_HEAD * index;
        let head = self.bytes.get(at..at + ELEMENT_HEAD)?;
        let word = |at: usize| Some(u32::from_le_bytes(head.get(at..at + 4)?.try_into().ok()?) as usize);
        let (position, key_len, value_len, number) = match self.kind {
            LEAF => (word(4)?, word(8)?, word(12)?, word(0)? as u64),
            _ => (word(0)?, word(4)?, 0, number(head, 8)?),
        };
        let key_at = at.checked_add(position)?;
        let value_at = key_at.checked_add(key_len)?;
        let end = value_at.checked_add(value_len)?;
        (end <= self.bytes.len() && key_len > 0).then(|| Element {
            key: self.bytes.slice(key_at..value_at),
            value: self.bytes.slice(value_at..end),
            number,
        })
    }
}

impl Cursor {
    /// The next key and its value; `None` at the end. What is a bucket itself is passed over.
    pub fn next_entry(&mut self) -> Result<Option<(Bytes, Bytes)>, BoltError> {
        while let Some(element) = self.next_element()? {
            if element.number & u64::from(IS_BUCKET) == 0 {
                return Ok(Some((element.key, element.value)));
            }
        }
        Ok(None)
    }

    fn next_element(&mut self) -> Result<Option<Element>, BoltError> {
        if let Some(root) = self.root.take() {
            let page = self.reader.root(&root)?;
            self.enter(page)?;
        }
        loop {
            let Some((page, index)) = self.way.last_mut() else { return Ok(None) };
            if *index == page.count {
                self.way.pop();
                continue;
            }
            let element = page.element(*index)?;
            *index += 1;
            if page.kind == BRANCH {
                let child = self.reader.page(element.number)?;
                self.enter(child)?;
                continue;
            }
            if element.key <= self.last_key {
                return Err(BoltError::Damaged { page: page.id, why: "its keys are not in order" });
            }
            self.last_key = element.key.clone();
            return Ok(Some(element));
        }
    }

    fn enter(&mut self, page: Page) -> Result<(), BoltError> {
        if self.left == 0 || self.way.len() == LEVELS_MAX {
            return Err(BoltError::Damaged { page: page.id, why: "the tree goes round in a circle" });
        }
        self.left -= 1;
        self.way.push((page, 0));
        Ok(())
    }
}

fn number(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

fn bucket(value: &Bytes) -> Option<Bucket> {
    let root = number(value, 0)?;
    if root != 0 {
        return Some(Bucket(Root::Page(root)));
    }
    (value.len() >= BUCKET_HEAD + PAGE_HEAD).then(|| Bucket(Root::Inline(value.slice(BUCKET_HEAD..))))
}

/// The transaction, the page size, the root and the number of pages of a good meta at `place`.
fn meta(bytes: &[u8], place: u64) -> Option<(u64, u64, u64, u64)> {
    let meta = bytes.get(PAGE_HEAD..PAGE_HEAD + META_BYTES)?;
    let word = |at: usize| Some(u32::from_le_bytes(meta.get(at..at + 4)?.try_into().ok()?));
    let kind = u16::from_le_bytes(bytes.get(8..10)?.try_into().ok()?);
    let good = kind == META
        && word(0)? == MAGIC
        && word(4)? == VERSION
        && number(meta, META_BYTES - 8)? == checksum(&meta[..META_BYTES - 8]);
    let page_bytes = u64::from(word(8)?);
    let sized = page_bytes.is_power_of_two() && PAGE_SIZES.contains(&page_bytes.ilog2());
    if !good || !sized || (place != 0 && place != page_bytes) {
        return None;
    }
    Some((number(meta, 48)?, page_bytes, number(meta, 16)?, number(meta, 40)?))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::super::Writer;
    use super::*;

    type Contents = BTreeMap<Vec<u8>, Vec<u8>>;

    fn written(buckets: &BTreeMap<String, Contents>) -> (File, u64) {
        let mut writer = Writer::new(tempfile::tempfile().unwrap()).unwrap();
        for (name, contents) in buckets {
            contents.iter().for_each(|(key, value)| writer.put(key, value).unwrap());
            writer.end_bucket(name.as_bytes()).unwrap();
        }
        writer.finish().unwrap()
    }

    fn read(source: &File, length: u64, name: &str) -> Result<Option<Contents>, BoltError> {
        let reader = Reader::open(source.try_clone().unwrap(), length)?;
        let Some(bucket) = reader.bucket(name.as_bytes())? else { return Ok(None) };
        let mut cursor = reader.cursor(&bucket);
        let mut contents = Contents::new();
        while let Some((key, value)) = cursor.next_entry()? {
            contents.insert(key.to_vec(), value.to_vec());
        }
        drop(reader.last(&bucket)?);
        Ok(Some(contents))
    }

    /// What bbolt asserts of every branch: two children at least, of one height, under their first keys.
    fn check_shape(reader: &Reader, id: u64, is_root: bool) -> (usize, Bytes) {
        let page = reader.page(id).unwrap();
        let keys: Vec<Element> = (0..page.count).map(|index| page.element(index).unwrap()).collect();
        let first = keys.first().map(|element| element.key.clone()).unwrap_or_default();
        if page.kind == LEAF {
            assert!(is_root || page.count > 0, "page {id} is an empty leaf");
            return (1, first);
        }
        assert!(page.count >= 2, "the branch {id} has {} children", page.count);
        let below: Vec<(usize, Bytes)> = keys.iter().map(|child| check_shape(reader, child.number, false)).collect();
        assert!(below.iter().all(|(height, _)| *height == below[0].0), "the branch {id} leans");
        assert!(below.iter().zip(&keys).all(|((_, first), element)| *first == element.key));
        (below[0].0 + 1, first)
    }

    fn check(buckets: &BTreeMap<String, Contents>) {
        let (source, length) = written(buckets);
        assert_eq!(source.metadata().unwrap().len(), length);
        let reader = Reader::open(source.try_clone().unwrap(), length).unwrap();
        for (name, contents) in buckets {
            assert_eq!(read(&source, length, name).unwrap().as_ref(), Some(contents), "bucket {name}");
            let bucket = reader.bucket(name.as_bytes()).unwrap().unwrap();
            let last = reader.last(&bucket).unwrap().map(|(key, value)| (key.to_vec(), value.to_vec()));
            assert_eq!(last, contents.last_key_value().map(|(key, value)| (key.clone(), value.clone())));
            if let Bucket(Root::Page(root)) = bucket {
                check_shape(&reader, root, true);
            }
        }
        assert!(read(&source, length, "none").unwrap().is_none());
    }

    fn numbered(keys: usize, bytes: usize) -> Contents {
        (0..keys).map(|n| ((n as u64).to_be_bytes().to_vec(), vec![n as u8; bytes])).collect()
    }

    #[test]
    fn trees_of_every_height_and_rest_are_well_formed() {
        // A leaf takes 102 of these, a branch 170: the last leaf, or the last branch, has a few, one or none.
        for keys in [0, 1, 2, 102, 103, 204, 17_339, 17_340, 17_341, 17_342, 17_500, 40_000] {
            check(&BTreeMap::from([("key".to_owned(), numbered(keys, 16))]));
        }
    }

    #[test]
    fn large_values_and_keys_go_on_over_pages() {
        let mut contents = numbered(40, 3);
        contents.insert(b"m".to_vec(), vec![7; 1_600_000]);
        contents.extend((0..9).map(|n| (vec![200 + n; 3000 + usize::from(n)], vec![1; 5000])));
        check(&BTreeMap::from([("a".to_owned(), contents), ("b".to_owned(), numbered(2, 0))]));
    }

    #[test]
    fn keys_out_of_order_are_refused() {
        let mut writer = Writer::new(tempfile::tempfile().unwrap()).unwrap();
        writer.put(b"b", b"").unwrap();
        for key in [&b"b"[..], b"a", b""] {
            assert!(matches!(writer.put(key, b""), Err(BoltError::Order)), "{key:?}");
        }
        writer.end_bucket(b"one").unwrap();
        writer.put(b"a", b"").unwrap();
        writer.end_bucket(b"one").unwrap();
        assert!(matches!(writer.finish(), Err(BoltError::Order)));
    }

    #[test]
    fn other_files_are_told_apart() {
        let source = tempfile::tempfile().unwrap();
        assert!(matches!(Reader::open(source.try_clone().unwrap(), 0), Err(BoltError::Foreign)));
        source.write_all_at(&[7; 9000], 0).unwrap();
        assert!(matches!(Reader::open(source, 9000), Err(BoltError::Foreign)));
    }

    proptest! {
        // Each case writes files.
        #![proptest_config(ProptestConfig {
            cases: ProptestConfig::default().cases / 5,
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn what_is_written_is_read(
            buckets in prop::collection::btree_map(
                "[a-z]{1,6}",
                prop::collection::btree_map(
                    prop::collection::vec(any::<u8>(), 1..40),
                    prop_oneof![
                        8 => prop::collection::vec(any::<u8>(), 0..60),
                        1 => prop::collection::vec(any::<u8>(), 3000..9000),
                    ],
                    0..300,
                ),
                0..5,
            ),
        ) {
            check(&buckets);
        }

        #[test]
        fn damage_is_an_error_or_harmless(at in 0_usize..60_000, bits in 1_u8.., cut in 0_u64..60_000) {
            let (source, length) = written(&BTreeMap::from([("key".to_owned(), numbered(1500, 10))]));
            // Whatever comes of it: it ends, and nothing panics.
            drop(read(&source, length.min(cut), "key"));
            let at = at as u64 % length;
            let mut byte = [0];
            source.read_exact_at(&mut byte, at).unwrap();
            source.write_all_at(&[byte[0] ^ bits], at).unwrap();
            drop(read(&source, length, "key"));
        }
    }
}
