//! Kubernetes' protobuf by schema: what gogo-generated Go code writes and reads.
//!
//! A message is written from a JSON object and the protobuf numbers of its schema. Go leaves out nil pointers, slices and
//! maps and nothing else: a scalar or struct without a pointer is on the wire even when zero. Fields come in the order
//! of their numbers, map entries in the order of their keys.

mod read;
mod wire;
mod write;

use serde_json::{Map, Value};

pub(crate) use self::wire::Forward;
use self::write::Writer;
use crate::names::{GroupVersion, Gvk};
use crate::object::Object;
use crate::schema::Schema;
use crate::status::Status;

/// What every protobuf body starts with.
pub const MAGIC: &[u8; 4] = b"k8s\0";

/// Why a body was not decoded.
#[derive(Debug)]
pub enum Error {
    /// It is something else than was asked for.
    Refused(Box<Status>),
    /// Go's text.
    Malformed(String),
}

impl From<String> for Error {
    fn from(text: String) -> Self {
        Self::Malformed(text)
    }
}

/// The message of an object, without envelope: a stored object's bytes in lists, or what [`envelope`] wraps.
pub fn encode(schema: &Schema, object: &Object) -> Vec<u8> {
    let mut writer = Writer::default();
    writer.structure(&schema.types, schema.root, Some(&object.0));
    writer.finish()
}

/// A whole body: `runtime.Unknown` with the message in it.
pub fn envelope(gvk: &Gvk, message: &[u8]) -> Vec<u8> {
    let api_version = gvk.api_version();
    let mut writer = Writer::default();
    // contentType and contentEncoding are always empty.
    writer.bytes(4, b"");
    writer.bytes(3, b"");
    writer.bytes(2, message);
    writer.message(1, |writer| {
        writer.bytes(2, gvk.kind.as_bytes());
        writer.bytes(1, api_version.as_bytes());
    });
    writer.raw(MAGIC);
    writer.finish()
}

/// `metav1.ListMeta` of a list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListMeta<'a> {
    pub resource_version: &'a str,
    /// Empty on the last page.
    pub continue_token: &'a str,
    pub remaining_item_count: Option<i64>,
}

/// The start of a list's message: its metadata. Items follow with [`push_list_item`].
pub fn list_meta(meta: &ListMeta<'_>) -> Vec<u8> {
    let mut writer = Writer::default();
    writer.message(1, |writer| {
        if let Some(count) = meta.remaining_item_count {
            writer.varint_field(4, count as u64);
        }
        writer.bytes(3, meta.continue_token.as_bytes());
        writer.bytes(2, meta.resource_version.as_bytes());
        writer.bytes(1, b"");
    });
    writer.finish()
}

/// Appends one item's message to a list's.
pub fn push_list_item(list: &mut Vec<u8>, item: &[u8]) {
    list.push(2 << 3 | wire::LEN);
    wire::push_varint(list, item.len() as u64);
    list.extend_from_slice(item);
}

/// The message of a `metav1.WatchEvent` around an enveloped object. On a stream it comes without an envelope of its own
/// (apimachinery `protobuf.NewRawSerializer`), after its length: see [`frame`].
pub fn watch_event(event_type: &str, enveloped: &[u8]) -> Vec<u8> {
    let mut writer = Writer::default();
    writer.message(2, |writer| writer.bytes(1, enveloped));
    writer.bytes(1, event_type.as_bytes());
    writer.finish()
}

/// One frame of a protobuf stream: the length in four bytes, then the message.
pub fn frame(message: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(message.len() + 4);
    out.extend_from_slice(&(message.len() as u32).to_be_bytes());
    out.extend_from_slice(message);
    out
}

/// Opens an envelope: the kind it names and the message in it.
pub fn open(body: &[u8]) -> Result<(Option<GroupVersion>, String, &[u8]), String> {
    if body.is_empty() {
        return Err("empty data".to_owned());
    }
    let Some(rest) = body.strip_prefix(MAGIC) else {
        return Err("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]".to_owned());
    };
    let (mut api_version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    for field in wire::fields(rest) {
        match field? {
            (1, wire::Field::Len(meta)) => {
                for field in wire::fields(meta) {
                    match field? {
                        (1, wire::Field::Len(text)) => api_version = String::from_utf8_lossy(text).into_owned(),
                        (2, wire::Field::Len(text)) => kind = String::from_utf8_lossy(text).into_owned(),
                        _ => {}
                    }
                }
            }
            (2, wire::Field::Len(message)) => raw = message,
            _ => {}
        }
    }
    if matches!(api_version.as_str(), "" | "/") {
        return Ok((None, kind, raw));
    }
    match GroupVersion::read(&api_version) {
        Some(gv) => Ok((Some(gv), kind, raw)),
        None => Err(format!("unexpected GroupVersion string: {api_version}")),
    }
}

/// Decodes a body; `check` looks at what it says it is before the message is read.
pub(super) fn decode(
    body: &[u8],
    schema: &Schema,
    default: &Gvk,
    check: impl FnOnce(&Gvk) -> Result<(), Status>,
) -> Result<(Gvk, Map<String, Value>), Error> {
    let (gv, kind, raw) = open(body)?;
    let kind = if kind.is_empty() { default.kind.clone() } else { kind };
    let gvk = match gv {
        Some(gv) => Gvk::new(gv.group, gv.version, kind),
        None => Gvk { kind, ..default.clone() },
    };
    check(&gvk).map_err(|status| Error::Refused(Box::new(status)))?;
    let map = read::message(&schema.types, schema.root, raw)?;
    Ok((gvk, map))
}

/// Decodes a message without envelope.
pub fn decode_message(schema: &Schema, message: &[u8]) -> Result<Object, String> {
    read::message(&schema.types, schema.root, message).map(Object)
}
