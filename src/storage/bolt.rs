//! The file format of bbolt, etcd's storage engine: written in one go from sorted input, and read.
//!
//! A file is pages of one size. The first two are the metas: both name the root bucket's page, the page of the free
//! list and how many pages there are; the one with the higher transaction and a good checksum counts. A bucket is a B+
//! tree of branch and leaf pages; the root bucket's leaves hold the other buckets by name. A page that is too small for
//! its contents goes on over the following ones. Numbers are little-endian, as on every machine that etcd supports.
//! (bbolt's `internal/common/page.go`, `meta.go`, `bucket.go`.)
//!
//! Neither half knows what the buckets hold. There is no crate for this that only writes or reads: the port of bbolt to
//! Rust maps the file into memory and changes it in place, with the unsafe code that this takes.

mod reader;
mod writer;

use std::io;

pub use reader::{Bucket, Cursor, Reader};
pub use writer::Writer;

/// Bytes of the pages that are written; those that are read may have other sizes.
const PAGE_BYTES: usize = 4096;
/// Bytes at the beginning of a page, and of each of its elements.
const PAGE_HEAD: usize = 16;
const ELEMENT_HEAD: usize = 16;
/// Bytes of a meta, its checksum included.
const META_BYTES: usize = 64;
/// Bytes of a bucket beside its contents: the page of its root, 0 if the contents follow, and a sequence.
const BUCKET_HEAD: usize = 16;

const MAGIC: u32 = 0xED0C_DAED;
const VERSION: u32 = 2;

/// What a page is.
const BRANCH: u16 = 0x01;
const LEAF: u16 = 0x02;
const META: u16 = 0x04;
const FREE_LIST: u16 = 0x10;
/// Flag of a leaf's element: the value is a bucket.
const IS_BUCKET: u32 = 0x01;

/// Why a file could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum BoltError {
    #[error("cannot {step} the file")]
    File {
        step: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("it is no file of etcd's storage engine")]
    Foreign,
    #[error("page {page} is damaged: {why}")]
    Damaged { page: u64, why: &'static str },
    #[error("the keys of a bucket were not given in order")]
    Order,
}

fn file(step: &'static str) -> impl Fn(io::Error) -> BoltError {
    move |source| BoltError::File { step, source }
}

/// The checksum of a meta.
fn checksum(bytes: &[u8]) -> u64 {
    base::fnv64a(bytes)
}
