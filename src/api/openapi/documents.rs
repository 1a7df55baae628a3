//! Documents made when asked for and kept compressed.

use std::collections::HashMap;
use std::io::Read;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use flate2::read::GzDecoder;
use flate2::{Compress, Compression, Crc, FlushCompress};
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha512};

use super::{Builder, Definition, META, Plain, Resource, Texts};
use crate::names::GroupVersion;
use crate::schema::Types;

/// `info.version`.
pub const VERSION: &str = "1.37";

/// One encoded document.
#[derive(Debug)]
pub struct Document {
    /// A gzip stream in parts, which documents share.
    parts: Vec<Bytes>,
    /// Upper-case hex SHA-512, for `ETag` and the index's `hash`: of the document, or of what it is put together from.
    pub hash: String,
}

impl Document {
    fn new(body: &[u8]) -> Self {
        Self::joined(&[Segment::new(body)], hex(&Sha512::digest(body)))
    }

    /// One stream from segments that were compressed apart.
    fn joined(segments: &[Segment], hash: String) -> Self {
        let mut crc = Crc::new();
        let mut parts = vec![Bytes::from_static(&GZIP_HEADER)];
        for segment in segments {
            crc.combine(&segment.crc);
            parts.push(segment.deflated.clone());
        }
        let mut end = LAST_BLOCK.to_vec();
        end.extend_from_slice(&crc.sum().to_le_bytes());
        end.extend_from_slice(&crc.amount().to_le_bytes());
        parts.push(end.into());
        Self { parts, hash }
    }

    /// The document as it is sent with `Content-Encoding: gzip`.
    pub fn gzip(&self) -> Bytes {
        self.parts.concat().into()
    }

    /// The document uncompressed.
    pub fn plain(&self) -> Bytes {
        let mut body = Vec::new();
        // What was compressed here decompresses.
        let _ = GzDecoder::new(self.gzip().as_ref()).read_to_end(&mut body);
        body.into()
    }
}

/// A gzip member without a name, of no particular time and system.
const GZIP_HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
/// A last block of nothing, after segments that end at whole bytes.
const LAST_BLOCK: [u8; 2] = [3, 0];

/// A piece of a document, compressed so that others may stand before and after it.
#[derive(Debug, Clone)]
struct Segment {
    deflated: Bytes,
    crc: Arc<Crc>,
}

impl Segment {
    fn new(text: &[u8]) -> Self {
        let mut crc = Crc::new();
        crc.update(text);
        let mut compress = Compress::new(Compression::default(), false);
        let mut out = Vec::with_capacity(text.len() / 8 + 64);
        loop {
            let at = usize::try_from(compress.total_in()).unwrap_or(text.len());
            let rest = text.get(at..).unwrap_or_default();
            // Compression into memory fails only where the state is misused, which it is not.
            if compress.compress_vec(rest, &mut out, FlushCompress::Full).is_err() {
                break;
            }
            if usize::try_from(compress.total_in()).is_ok_and(|done| done >= text.len()) && out.len() < out.capacity() {
                break;
            }
            out.reserve(out.capacity().max(64));
        }
        out.shrink_to_fit();
        Self { deflated: out.into(), crc: Arc::new(crc) }
    }
}

/// Beginnings of the names of types that documents without built-in kinds describe.
const MINOR: &[&str] = &[META, "io.k8s.apimachinery.pkg.version.", "io.k8s.api.autoscaling.v1.Scale"];

/// What of a version 2 document stays as it is whatever CRDs come and go.
struct Fixed {
    /// The document up to where definitions and paths of others follow.
    segments: Vec<Segment>,
    hash: String,
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
    Plain(String, bool),
    V2Json,
    V2Protobuf,
}

/// Resources by group and version.
type Groups = Vec<(GroupVersion, Vec<Resource>)>;

/// Makes and keeps documents. The caller says with a generation when what is served has changed.
pub struct Documents {
    meta: Arc<Types>,
    texts: fn() -> Texts,
    /// Those of the types that documents of CRDs need, kept from the first such document on.
    meta_texts: OnceLock<Texts>,
    kept: Mutex<HashMap<Key, (u64, Arc<Document>)>>,
    fixed: Mutex<HashMap<Key, Arc<Fixed>>>,
}

impl Documents {
    /// `meta` is the table of built-in types; `texts` gives the descriptions, called when a document is made and not
    /// kept.
    pub fn new(meta: Arc<Types>, texts: fn() -> Texts) -> Self {
        Self { meta, texts, meta_texts: OnceLock::new(), kept: Mutex::default(), fixed: Mutex::default() }
    }

    /// `/openapi/v3`: the index. Paths are `api/v1`, `apis/apps/v1`; each entry's hash may be anything that changes
    /// when its resources do.
    pub fn v3_index(entries: impl IntoIterator<Item = (String, String)>) -> Value {
        let paths: serde_json::Map<String, Value> = entries
            .into_iter()
            .map(|(path, hash)| {
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
        self.get(Key::V3(gv.clone(), protobuf), generation, || {
            let resources = resources();
            let body = if resources.iter().all(is_custom) {
                self.custom_builder().v3(gv, &resources)
            } else {
                Builder { meta: &self.meta, texts: &(self.texts)() }.v3(gv, &resources)
            };
            Document::new(&encode_v3(&body, protobuf))
        })
    }

    /// `/openapi/v3` documents of what is served beside resources.
    pub fn v3_plain(&self, place: Plain, protobuf: bool) -> Arc<Document> {
        self.get(Key::Plain(place.path(), protobuf), 0, || {
            let body = self.custom_builder().v3_plain(&place);
            Document::new(&encode_v3(&body, protobuf))
        })
    }

    /// `/openapi/v3/apis/GROUP/VERSION` of another server, from its part of a version 2 document.
    pub fn v3_of_part(&self, gv: &GroupVersion, generation: u64, protobuf: bool, part: &Value) -> Arc<Document> {
        self.get(Key::V3(gv.clone(), protobuf), generation, || Document::new(&encode_v3(&super::to_v3(part), protobuf)))
    }

    /// The version 2 document of what is served here and elsewhere.
    fn whole(&self, groups: &[(GroupVersion, Vec<Resource>)], others: &[Arc<Value>]) -> Value {
        let texts = (self.texts)();
        let mut document = Builder { meta: &self.meta, texts: &texts }.v2(groups);
        others.iter().for_each(|part| super::merge(&mut document, part));
        document
    }

    /// `/openapi/v2` as JSON, with the parts of other servers.
    pub fn v2_json(&self, generation: u64, groups: impl FnOnce() -> Groups, others: &[Arc<Value>]) -> Arc<Document> {
        self.get(Key::V2Json, generation, || {
            if !others.is_empty() {
                return Document::new(&serde_json::to_vec(&self.whole(&groups(), others)).unwrap_or_default());
            }
            let (built_in, custom) = split(groups());
            let fixed = self.fixed(Key::V2Json, built_in, |mut document| {
                let mut take = |name: &str| match document[name].take() {
                    Value::Object(map) => map,
                    _ => Map::new(),
                };
                let (definitions, paths) = (take("definitions"), take("paths"));
                if let Some(map) = document.as_object_mut() {
                    map.remove("definitions");
                    map.remove("paths");
                }
                let head = document.to_string();
                let head = head.strip_suffix('}').unwrap_or(&head);
                vec![
                    format!("{head},\"definitions\":{{{}", members(&definitions)).into_bytes(),
                    format!("}},\"paths\":{{{}", members(&paths)).into_bytes(),
                ]
            });
            let (paths, definitions) = self.custom_builder().v2_custom(&custom);
            let more = |map: &Map<String, Value>| match members(map) {
                text if text.is_empty() => text,
                text => format!(",{text}"),
            };
            let (definitions, end) = (more(&definitions), format!("{}}}}}", more(&paths)));
            let mut segments = Vec::with_capacity(4);
            let mut own = [definitions.as_bytes(), end.as_bytes()].into_iter();
            for segment in &fixed.segments {
                segments.push(segment.clone());
                segments.extend(own.next().map(Segment::new));
            }
            Document::joined(&segments, joined_hash(&fixed.hash, &[definitions.as_bytes(), end.as_bytes()]))
        })
    }

    /// [`Documents::v2_json`] as `application/com.github.proto-openapi.spec.v2.v1.0+protobuf`.
    pub fn v2_protobuf(
        &self,
        generation: u64,
        groups: impl FnOnce() -> Groups,
        others: &[Arc<Value>],
    ) -> Arc<Document> {
        self.get(Key::V2Protobuf, generation, || {
            if !others.is_empty() {
                return Document::new(&super::encode_v2(&self.whole(&groups(), others)));
            }
            let (built_in, custom) = split(groups());
            let fixed = self.fixed(Key::V2Protobuf, built_in, |document| vec![super::encode_v2(&document)]);
            let (paths, definitions) = self.custom_builder().v2_custom(&custom);
            // A message that comes twice is merged.
            let own = super::gnostic::encode_more(&paths, &definitions);
            let mut segments = fixed.segments.clone();
            segments.push(Segment::new(&own));
            Document::joined(&segments, joined_hash(&fixed.hash, &[&own]))
        })
    }

    fn custom_builder(&self) -> Builder<'_> {
        let texts = self.meta_texts.get_or_init(|| {
            let all = (self.texts)();
            all.into_iter().filter(|(name, _)| MINOR.iter().any(|start| name.starts_with(start))).collect()
        });
        Builder { meta: &self.meta, texts }
    }

    /// The part of built-in kinds, which is made once: `cut` gives its pieces.
    fn fixed(&self, key: Key, built_in: Groups, cut: impl FnOnce(Value) -> Vec<Vec<u8>>) -> Arc<Fixed> {
        if let Some(fixed) = self.fixed.lock().get(&key) {
            return Arc::clone(fixed);
        }
        let texts = (self.texts)();
        let pieces = cut(Builder { meta: &self.meta, texts: &texts }.v2(&built_in));
        let pieces: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
        let segments = pieces.iter().map(|piece| Segment::new(piece)).collect();
        let fixed = Arc::new(Fixed { segments, hash: joined_hash("", &pieces) });
        self.fixed.lock().insert(key, Arc::clone(&fixed));
        fixed
    }

    fn get(&self, key: Key, generation: u64, make: impl FnOnce() -> Document) -> Arc<Document> {
        if let Some((made, document)) = self.kept.lock().get(&key)
            && *made == generation
        {
            return Arc::clone(document);
        }
        // Made without the lock: two callers may make the same document, and the later one stays.
        let document = Arc::new(make());
        self.kept.lock().insert(key, (generation, Arc::clone(&document)));
        document
    }
}

fn is_custom(resource: &Resource) -> bool {
    matches!(resource.definition, Definition::Custom(_))
}

/// Built-in kinds and those of CRDs.
fn split(groups: Groups) -> (Groups, Groups) {
    let (mut built_in, mut custom) = (Groups::new(), Groups::new());
    for (gv, resources) in groups {
        let (theirs, ours): (Vec<Resource>, Vec<Resource>) = resources.into_iter().partition(is_custom);
        for (resources, all) in [(ours, &mut built_in), (theirs, &mut custom)] {
            if !resources.is_empty() {
                all.push((gv.clone(), resources));
            }
        }
    }
    (built_in, custom)
}

/// The members of an object as JSON, without the braces.
fn members(map: &Map<String, Value>) -> String {
    // Values always serialise.
    let text = serde_json::to_string(map).unwrap_or_default();
    text.strip_prefix('{').and_then(|t| t.strip_suffix('}')).unwrap_or_default().to_owned()
}

fn joined_hash(first: &str, pieces: &[&[u8]]) -> String {
    let mut hash = Sha512::new();
    hash.update(first);
    for piece in pieces {
        hash.update(piece);
    }
    hex(&hash.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_compressed_apart_are_one_stream() {
        let pieces: Vec<Vec<u8>> = vec![b"{".to_vec(), vec![b'a'; 100_000], Vec::new(), (0..=255).collect()];
        let segments: Vec<Segment> = pieces.iter().map(|p| Segment::new(p)).collect();
        let document = Document::joined(&segments, String::new());
        assert_eq!(document.plain(), pieces.concat());
        assert!(document.gzip().len() < 2_000);
    }
}
