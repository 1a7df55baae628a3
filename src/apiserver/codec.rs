//! Where the verbs meet the codecs of `api`: bodies in, documents out.

use std::collections::VecDeque;

use api::codec::protobuf;
use api::codec::{self, FieldValidation, MediaType};
use api::kind::KindDef;
use api::schema::{Schema, Types, walk};
use api::{Gvk, Object, Status};
use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use serde_json::Value;

use crate::filters::Warnings;
use crate::respond::ListMeta;

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";

/// A request body's encoding, from its Content-Type.
pub fn body_format(headers: &HeaderMap) -> Result<MediaType, Status> {
    MediaType::of_body(headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default())
}

/// Decodes a body as `gvk` by its schema and fills the schema's defaults.
pub fn decode(
    format: MediaType,
    body: &[u8],
    gvk: &Gvk,
    schema: &Schema,
    validation: FieldValidation,
    warnings: &Warnings,
) -> Result<Object, Status> {
    let decoded = codec::decode(body, format, schema, gvk, validation)?;
    warnings.extend(decoded.warnings);
    let mut object = decoded.object;
    walk::default(schema, &mut object);
    Ok(object)
}

/// [`decode`] of a document that was parsed already: the result of a patch.
pub fn decode_value(
    value: &Object,
    gvk: &Gvk,
    schema: &Schema,
    validation: FieldValidation,
    warnings: &Warnings,
) -> Result<Object, Status> {
    let decoded = codec::decode_value(&value.0, schema, gvk, validation)?;
    warnings.extend(decoded.warnings);
    let mut object = decoded.object;
    walk::default(schema, &mut object);
    Ok(object)
}

/// As [`decode_value`], where upstream reads the value by its converter from maps: what strategic merge patches and
/// applied objects come to.
pub fn convert_value(
    value: &Object,
    gvk: &Gvk,
    schema: &Schema,
    validation: FieldValidation,
    warnings: &Warnings,
) -> Result<Object, Status> {
    let refused = match decode_value(value, gvk, schema, validation, warnings) {
        Err(status) => status,
        decoded => return decoded,
    };
    let mut fitted = value.clone();
    match codec::fit(schema, &mut fitted) {
        Err(why) => {
            let (kind, version) = (&gvk.kind, &gvk.version);
            Err(Status::bad_request(format!("{kind} in version \"{version}\" cannot be handled as a {kind}: {why}")))
        }
        Ok(()) if fitted != *value => decode_value(&fitted, gvk, schema, validation, warnings),
        Ok(()) => Err(refused),
    }
}

/// Decodes an options document of the API machinery, e.g. `DeleteOptions`.
pub fn decode_options(
    format: MediaType,
    body: &[u8],
    kind: &str,
    types: &std::sync::Arc<Types>,
) -> Result<Object, Status> {
    match meta_schema(types, kind) {
        // Nobody wraps what the decoder says here (apiserver `handlers/delete.go`).
        Some(schema) => codec::decode_options(body, format, &schema, kind).map_err(|status| {
            let sent = codec::decode_unstructured(body, format, &Gvk::new("meta.k8s.io", "v1", kind)).ok();
            let version = sent.map(|sent| sent.object.api_version().to_owned()).filter(|version| !version.is_empty());
            let version = version.unwrap_or_else(|| "meta.k8s.io/v1".to_owned());
            Status::bad_request(bare_refusal(&status.message, kind, &version))
        }),
        // A table without the machinery's types (tests): the shape is checked where the members are read.
        None => Ok(codec::decode_unstructured(body, format, &Gvk::new("", "v1", kind))?.object),
    }
}

/// A decoder's refusal without what handlers put around it; `version` is that of the body.
fn bare_refusal(message: &str, kind: &str, version: &str) -> String {
    let unrecognised = format!("the object provided is unrecognized (must be of type {kind}): ");
    if let Some(why) = message.strip_prefix(&unrecognised) {
        return why.rsplit_once(" (").map_or(why, |(why, _)| why).to_owned();
    }
    let Some((found, why)) = message.split_once(&format!(" cannot be handled as a {kind}: ")) else {
        return message.to_owned();
    };
    match found.split_once(" in version ") {
        Some((found, _)) if why.ends_with("unknown conversion") => {
            format!(
                "no kind \"{found}\" is registered for version \"{version}\" in scheme \"pkg/runtime/scheme.go:111\""
            )
        }
        _ => why.to_owned(),
    }
}

/// The schema of one of the API machinery's own types.
pub fn meta_schema(types: &std::sync::Arc<Types>, kind: &str) -> Option<Schema> {
    Some(Schema { types: std::sync::Arc::clone(types), root: types.id(&format!("{META}{kind}"))? })
}

/// Whether protobuf bodies and answers are offered for a kind: it has a message of its own.
pub fn offers_protobuf(def: &KindDef) -> bool {
    def.custom.is_none() && def.schema.def().fields.iter().any(|f| f.proto != 0)
}

/// The message of an object, without envelope.
pub fn encode_protobuf(schema: &Schema, object: &Object) -> Bytes {
    protobuf::encode(schema, object).into()
}

pub fn protobuf_envelope(gvk: &Gvk, raw: &[u8]) -> Vec<u8> {
    protobuf::envelope(gvk, raw)
}

/// A `Status`, or another document of the API machinery, as a protobuf body. `None` if the tables lack its type.
pub fn protobuf_document(types: &std::sync::Arc<Types>, value: &Value) -> Option<Vec<u8>> {
    let object = Object::from_value(value.clone())?;
    let schema = meta_schema(types, object.kind())?;
    let version = api::GroupVersion::parse(object.api_version())?;
    let gvk = Gvk::new(version.group, version.version, object.kind());
    Some(protobuf::envelope(&gvk, &protobuf::encode(&schema, &object)))
}

/// An object of a served kind or a document of the API machinery.
pub fn protobuf_any(def: &KindDef, value: &Value) -> Result<Bytes, Status> {
    let object = Object::from_value(value.clone()).unwrap_or_default();
    if object.kind() == def.gvk.kind && object.api_version() == def.gvk.api_version() {
        return Ok(protobuf::envelope(&def.gvk, &protobuf::encode(&def.schema, &object)).into());
    }
    protobuf_document(&def.schema.types, value)
        .map(Bytes::from)
        .ok_or_else(|| Status::internal(format_args!("{} has no protobuf form", object.kind())))
}

pub fn list_meta_protobuf(meta: &ListMeta) -> Vec<u8> {
    // What is not stored has no version.
    let version = if meta.revision == 0 { String::new() } else { meta.revision.to_string() };
    protobuf::list_meta(&protobuf::ListMeta {
        resource_version: &version,
        continue_token: &meta.continue_token,
        remaining_item_count: meta.remaining.and_then(|r| i64::try_from(r).ok()),
    })
}

pub fn push_watch_frame(out: &mut BytesMut, kind: &str, object: &[u8]) {
    out.extend_from_slice(&protobuf::frame(&protobuf::watch_event(kind, object)));
}

/// The body of a protobuf list, piece by piece: the envelope says the length of everything before it begins.
pub struct ListPieces {
    head: Vec<u8>,
    items: VecDeque<Bytes>,
    size: usize,
    done: bool,
}

/// What follows the message in `runtime.Unknown`: contentEncoding and contentType, both empty.
const ENVELOPE_TAIL: &[u8] = &[0x1a, 0, 0x22, 0];
/// An empty message in it.
const EMPTY_MESSAGE: &[u8] = &[0x12, 0];

impl ListPieces {
    /// `items` are messages of the list's items.
    pub fn new(gvk: &Gvk, meta: &ListMeta, items: VecDeque<Bytes>) -> Self {
        let meta = list_meta_protobuf(meta);
        let field = |item: &Bytes| 1 + prost::encoding::encoded_len_varint(item.len() as u64) + item.len();
        let message: usize = meta.len() + items.iter().map(field).sum::<usize>();
        let mut head = protobuf::envelope(gvk, &[]);
        head.truncate(head.len().saturating_sub(EMPTY_MESSAGE.len() + ENVELOPE_TAIL.len()));
        head.push(EMPTY_MESSAGE[0]);
        prost::encoding::encode_varint(message as u64, &mut head);
        let size = head.len() + message + ENVELOPE_TAIL.len();
        head.extend_from_slice(&meta);
        Self { head, items, size, done: false }
    }

    /// Bytes of everything.
    pub fn size(&self) -> usize {
        self.size
    }

    /// The next bytes: about so many, or less at the end.
    pub fn next_chunk(&mut self, about: usize) -> Option<Bytes> {
        if self.done {
            return None;
        }
        let mut out = Vec::with_capacity(self.size.min(about.saturating_add(about >> 2)));
        out.append(&mut self.head);
        while out.len() < about {
            let Some(item) = self.items.pop_front() else {
                out.extend_from_slice(ENVELOPE_TAIL);
                self.done = true;
                break;
            };
            protobuf::push_list_item(&mut out, &item);
        }
        Some(out.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_a_list_make_what_one_envelope_makes() {
        let check = |items: &[usize], chunk: usize| {
            let items: VecDeque<Bytes> = items.iter().map(|size| vec![7; *size].into()).collect();
            let gvk = Gvk::new("apps", "v1", "DeploymentList");
            let meta = ListMeta { revision: 42, continue_token: "next".to_owned(), remaining: Some(3) };
            let mut message = list_meta_protobuf(&meta);
            items.iter().for_each(|item| protobuf::push_list_item(&mut message, item));
            let whole = protobuf::envelope(&gvk, &message);
            let mut pieces = ListPieces::new(&gvk, &meta, items);
            assert_eq!(pieces.size(), whole.len());
            let joined: Vec<u8> = std::iter::from_fn(|| pieces.next_chunk(chunk)).flatten().collect();
            assert_eq!(joined, whole, "{chunk}");
        };
        for chunk in [1, 100, usize::MAX] {
            check(&[], chunk);
            check(&[0, 1, 200, 20_000, 3], chunk);
        }
    }
}
