//! Header blocks: names and values with lengths, compressed by zlib with one state for each direction.

use std::collections::HashMap;
use std::io;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};

use super::dictionary::DICTIONARY;

/// Bytes that a header block may unpack to.
const MAX_BLOCK: usize = 1 << 20;
const ZLIB_HEADER: usize = 2;
const DICTIONARY_ID: usize = 4;

fn bad(why: impl ToString) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.to_string())
}

/// Reads the peer's blocks.
pub(super) struct Decompressor {
    inflate: Decompress,
    started: bool,
}

impl Decompressor {
    pub fn new() -> Self {
        // Raw: the zlib header is read by hand, because it says whether the dictionary counts.
        Self { inflate: Decompress::new(false), started: false }
    }

    pub fn read(&mut self, block: &[u8]) -> io::Result<HashMap<String, String>> {
        let mut block = block;
        if !self.started {
            block = self.start(block)?;
        }
        let plain = self.inflate(block)?;
        parse(&plain)
    }

    fn start<'a>(&mut self, block: &'a [u8]) -> io::Result<&'a [u8]> {
        const FDICT: u8 = 0x20;
        self.started = true;
        let flags = *block.get(1).ok_or_else(|| bad("header block is empty"))?;
        if flags & FDICT == 0 {
            return Ok(&block[ZLIB_HEADER..]);
        }
        // A stored block fills the window with the dictionary, as if it had just been read.
        let length = u16::try_from(DICTIONARY.len()).map_err(bad)?;
        let mut stored = vec![0];
        stored.extend_from_slice(&length.to_le_bytes());
        stored.extend_from_slice(&(!length).to_le_bytes());
        stored.extend_from_slice(DICTIONARY);
        self.inflate(&stored)?;
        block.get(ZLIB_HEADER + DICTIONARY_ID..).ok_or_else(|| bad("header block is too short"))
    }

    fn inflate(&mut self, mut input: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        let mut buffer = vec![0; 4096];
        loop {
            let (before_in, before_out) = (self.inflate.total_in(), self.inflate.total_out());
            self.inflate.decompress(input, &mut buffer, FlushDecompress::Sync).map_err(bad)?;
            let consumed = usize::try_from(self.inflate.total_in() - before_in).map_err(bad)?;
            let produced = usize::try_from(self.inflate.total_out() - before_out).map_err(bad)?;
            input = &input[consumed..];
            out.extend_from_slice(&buffer[..produced]);
            if out.len() > MAX_BLOCK {
                return Err(bad("header block is too long"));
            }
            if input.is_empty() && produced < buffer.len() {
                return Ok(out);
            }
            if consumed == 0 && produced == 0 {
                return Err(bad("header block is broken"));
            }
        }
    }
}

fn parse(plain: &[u8]) -> io::Result<HashMap<String, String>> {
    let mut rest = plain;
    let word = |rest: &mut &[u8]| -> io::Result<usize> {
        let (head, tail) = rest.split_at_checked(4).ok_or_else(|| bad("header block is too short"))?;
        *rest = tail;
        usize::try_from(u32::from_be_bytes(head.try_into().map_err(bad)?)).map_err(bad)
    };
    let count = word(&mut rest)?;
    let mut headers = HashMap::new();
    for _ in 0..count {
        let mut text = || -> io::Result<String> {
            let length = word(&mut rest)?;
            let (head, tail) = rest.split_at_checked(length).ok_or_else(|| bad("header block is too short"))?;
            rest = tail;
            String::from_utf8(head.to_vec()).map_err(bad)
        };
        let (name, value) = (text()?.to_ascii_lowercase(), text()?);
        headers.insert(name, value);
    }
    Ok(headers)
}

/// Writes our blocks. They name no dictionary: a reader takes that as well, and ours are almost empty.
pub(super) struct Compressor {
    deflate: Compress,
}

impl Compressor {
    pub fn new() -> Self {
        Self { deflate: Compress::new(Compression::fast(), true) }
    }

    pub fn compress(&mut self, headers: &[(&str, &str)]) -> io::Result<Vec<u8>> {
        let mut plain = Vec::new();
        let word = |plain: &mut Vec<u8>, n: usize| -> io::Result<()> {
            plain.extend_from_slice(&u32::try_from(n).map_err(bad)?.to_be_bytes());
            Ok(())
        };
        word(&mut plain, headers.len())?;
        for (name, value) in headers {
            for text in [name, value] {
                word(&mut plain, text.len())?;
                plain.extend_from_slice(text.as_bytes());
            }
        }
        let mut out = Vec::with_capacity(plain.len() + 64);
        let mut input = plain.as_slice();
        loop {
            let before = self.deflate.total_in();
            out.reserve(64);
            self.deflate.compress_vec(input, &mut out, FlushCompress::Sync).map_err(bad)?;
            input = &input[usize::try_from(self.deflate.total_in() - before).map_err(bad)?..];
            if input.is_empty() && out.len() < out.capacity() {
                return Ok(out);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_come_back_in_order() {
        let (mut out, mut back) = (Compressor::new(), Decompressor::new());
        for headers in [vec![("a", "1")], vec![], vec![("streamtype", "stdin"), ("b", "2")]] {
            let block = out.compress(&headers).unwrap();
            let read = back.read(&block).unwrap();
            let expected = headers.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            assert_eq!(read, expected);
        }
    }

    #[test]
    fn broken_blocks_are_refused() {
        for block in [&b""[..], b"x", b"xy", &[0x78, 0xbb, 1, 2, 3, 4, 0xff, 0xff, 0xff]] {
            assert!(Decompressor::new().read(block).is_err(), "{block:?}");
        }
    }
}
