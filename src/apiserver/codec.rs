//! Where the verbs meet the codecs of `api`: bodies in, documents out.

use api::kind::KindDef;
use api::schema::{Schema, Types};
use api::{Gvk, Object, Status};
use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use serde_json::Value;

use crate::filters::Warnings;
use crate::negotiate::{JSON, YAML};
use crate::respond::ListMeta;
use crate::verbs::options::FieldValidation;

/// A request body's encoding, from its Content-Type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyFormat {
    Json,
    Yaml,
}

impl BodyFormat {
    /// JSON unless the client says something else.
    pub fn of(headers: &HeaderMap) -> Result<Self, Status> {
        let text = headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
        match text.split(';').next().unwrap_or_default().trim() {
            "" | JSON => Ok(Self::Json),
            YAML | "application/x-yaml" | "text/yaml" => Ok(Self::Yaml),
            _ => Err(Status::unsupported_media_type(&[JSON, YAML])),
        }
    }
}

/// Decodes a body into an object of `gvk`'s schema.
pub fn decode(
    format: BodyFormat,
    body: &[u8],
    default: &Gvk,
    _schema: &Schema,
    _validation: FieldValidation,
    _warnings: &Warnings,
) -> Result<Object, Status> {
    let mut object = parse(format, body)?;
    if object.kind().is_empty() {
        object.set(&["kind"], default.kind.clone());
    }
    if object.api_version().is_empty() {
        object.set(&["apiVersion"], default.api_version());
    }
    Ok(object)
}

fn parse(format: BodyFormat, body: &[u8]) -> Result<Object, Status> {
    let value: Value = match format {
        BodyFormat::Json => serde_json::from_slice(body)
            .map_err(|e| Status::bad_request(format!("couldn't get version/kind; json parse error: {e}")))?,
        BodyFormat::Yaml => {
            let text = std::str::from_utf8(body).map_err(|e| Status::bad_request(format!("yaml: {e}")))?;
            serde_saphyr::from_str(text)
                .map_err(|e| Status::bad_request(format!("error converting YAML to JSON: {e}")))?
        }
    };
    Object::from_value(value)
        .ok_or_else(|| Status::bad_request("couldn't get version/kind; json parse error: the body is no JSON object"))
}

/// Decodes an options document of the API machinery.
pub fn decode_options(format: BodyFormat, body: &[u8], _kind: &str, _types: &Types) -> Result<Object, Status> {
    parse(format, body)
}

pub fn to_yaml(value: &Value) -> Result<Vec<u8>, Status> {
    serde_saphyr::to_string(value).map(String::into_bytes).map_err(Status::internal)
}

fn no_protobuf() -> Status {
    Status::not_acceptable(&[JSON, YAML])
}

/// Whether protobuf bodies and answers are offered for a kind.
pub fn offers_protobuf(_def: &KindDef) -> bool {
    false
}

pub fn encode_protobuf(_schema: &Schema, _object: &Object) -> Result<Bytes, Status> {
    Err(no_protobuf())
}

pub fn protobuf_document(_value: &Value) -> Result<Vec<u8>, Status> {
    Err(no_protobuf())
}

pub fn protobuf_any(_def: &KindDef, _value: &Value) -> Result<Bytes, Status> {
    Err(no_protobuf())
}

pub fn protobuf_envelope(_gvk: &Gvk, raw: &[u8]) -> Vec<u8> {
    raw.to_vec()
}

pub fn list_meta_protobuf(_meta: &ListMeta) -> Vec<u8> {
    Vec::new()
}

pub fn push_list_item(list: &mut Vec<u8>, item: &[u8]) {
    list.extend_from_slice(item);
}

pub fn push_watch_frame(out: &mut BytesMut, _kind: &str, object: &[u8]) {
    out.extend_from_slice(object);
}

/// Decodes a patched document.
pub fn decode_value(
    value: Object,
    _gvk: &Gvk,
    _schema: &Schema,
    _validation: FieldValidation,
    _warnings: &Warnings,
) -> Result<Object, Status> {
    Ok(value)
}
