//! Documents made when asked for and kept compressed.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::sync::Arc;

use bytes::Bytes;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use parking_lot::Mutex;
use serde_json::{Value, json};
use sha2::{Digest, Sha512};

use super::{Builder, Resource, Texts};
use crate::names::GroupVersion;
use crate::schema::Types;

/// `info.version`.
pub const VERSION: &str = "v1.37.0";

/// One encoded document.
#[derive(Debug)]
pub struct Document {
    /// As it is sent with `Content-Encoding: gzip`.
    pub gzip: Bytes,
    /// Upper-case hex SHA-512 of the document, for `ETag` and the index's `hash`.
    pub hash: String,
}

impl Document {
    fn new(body: &[u8]) -> Self {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        // Writing to memory does not fail.
        let _ = encoder.write_all(body);
        let gzip = encoder.finish().unwrap_or_default().into();
        Self { gzip, hash: hex(&Sha512::digest(body)) }
    }

    /// The document uncompressed.
    pub fn plain(&self) -> Bytes {
        let mut body = Vec::new();
        // What `new` compressed decompresses.
        let _ = GzDecoder::new(self.gzip.as_ref()).read_to_end(&mut body);
        body.into()
    }
}

/// The version 2 document of what is served here and elsewhere.
fn whole(builder: &Builder<'_>, groups: &[(GroupVersion, Vec<Resource>)], others: &[Arc<Value>]) -> Value {
    let mut document = builder.v2(groups);
    others.iter().for_each(|part| super::merge(&mut document, part));
    document
}

fn encode_v3(document: &Value, protobuf: bool) -> Vec<u8> {
    if protobuf { super::encode_v3(document) } else { serde_json::to_vec(document).unwrap_or_default() }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02X}")).collect()
}

#[derive(Debug, PartialEq, Eq, Hash, Clone)]
enum Key {
    V3(GroupVersion, bool),
    V2Json,
    V2Protobuf,
}

/// Makes and keeps documents. The caller says with a generation when what is served has changed.
pub struct Documents {
    meta: Arc<Types>,
    texts: fn() -> Texts,
    kept: Mutex<HashMap<Key, (u64, Arc<Document>)>>,
}

impl Documents {
    /// `meta` is the table of built-in types; `texts` gives the descriptions, called when a document is made and not
    /// kept.
    pub fn new(meta: Arc<Types>, texts: fn() -> Texts) -> Self {
        Self { meta, texts, kept: Mutex::default() }
    }

    /// `/openapi/v3`: the index. Paths are `api/v1`, `apis/apps/v1`; each entry's hash may be anything that changes
    /// when its resources do.
    pub fn v3_index<'a>(entries: impl IntoIterator<Item = (&'a GroupVersion, String)>) -> Value {
        let paths: serde_json::Map<String, Value> = entries
            .into_iter()
            .map(|(gv, hash)| {
                let path = if gv.group.is_empty() { format!("api/{gv}") } else { format!("apis/{gv}") };
                let url = format!("/openapi/v3/{path}?hash={hash}");
                (path, json!({"serverRelativeURL": url}))
            })
            .collect();
        json!({"paths": paths})
    }

    /// `/openapi/v3/apis/GROUP/VERSION`, as JSON or as `application/com.github.proto-openapi.spec.v3.v1.0+protobuf`.
    pub fn v3(
        &self,
        gv: &GroupVersion,
        generation: u64,
        protobuf: bool,
        resources: impl FnOnce() -> Vec<Resource>,
    ) -> Arc<Document> {
        self.get(Key::V3(gv.clone(), protobuf), generation, |builder| {
            encode_v3(&builder.v3(gv, &resources()), protobuf)
        })
    }

    /// `/openapi/v3/apis/GROUP/VERSION` of another server, from its part of a version 2 document.
    pub fn v3_of_part(&self, gv: &GroupVersion, generation: u64, protobuf: bool, part: &Value) -> Arc<Document> {
        self.get(Key::V3(gv.clone(), protobuf), generation, |_| encode_v3(&super::to_v3(part), protobuf))
    }

    /// `/openapi/v2` as JSON, with the parts of other servers.
    pub fn v2_json(
        &self,
        generation: u64,
        groups: impl FnOnce() -> Vec<(GroupVersion, Vec<Resource>)>,
        others: &[Arc<Value>],
    ) -> Arc<Document> {
        self.get(Key::V2Json, generation, |builder| {
            serde_json::to_vec(&whole(builder, &groups(), others)).unwrap_or_default()
        })
    }

    /// [`Documents::v2_json`] as `application/com.github.proto-openapi.spec.v2.v1.0+protobuf`.
    pub fn v2_protobuf(
        &self,
        generation: u64,
        groups: impl FnOnce() -> Vec<(GroupVersion, Vec<Resource>)>,
        others: &[Arc<Value>],
    ) -> Arc<Document> {
        self.get(Key::V2Protobuf, generation, |builder| super::encode_v2(&whole(builder, &groups(), others)))
    }

    fn get(&self, key: Key, generation: u64, make: impl FnOnce(&Builder<'_>) -> Vec<u8>) -> Arc<Document> {
        if let Some((made, document)) = self.kept.lock().get(&key)
            && *made == generation
        {
            return document.clone();
        }
        // Made without the lock: two callers may make the same document, and the later one stays.
        let texts = (self.texts)();
        let document = Arc::new(Document::new(&make(&Builder { meta: &self.meta, texts: &texts })));
        self.kept.lock().insert(key, (generation, document.clone()));
        document
    }
}
