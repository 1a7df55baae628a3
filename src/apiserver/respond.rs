//! Turns results into HTTP responses in the agreed form.

use api::schema::{Schema, Types};
use api::{Gvk, Object, Status};
use axum::body::Body;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Response as HttpResponse, StatusCode};
use http_body_util::BodyExt;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use std::sync::Arc;

use crate::cache::entry::Entry;
use crate::negotiate::{self, Accept, Format, Shape};
use crate::query::Query;
use crate::served::{Served, Stored};
use crate::server::ApiServer;
use crate::table::{Table, hide_annotations};

mod list;

pub(crate) use list::Turns;
pub use list::{ListMeta, list};

pub type Response = HttpResponse<Body>;

/// A response with headers that every API answer has.
pub fn bytes(code: u16, media_type: &'static str, body: impl Into<Body>) -> Response {
    let mut response = HttpResponse::new(body.into());
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

/// Keeps a value until the body is sent or given up.
pub fn keep<T: Send + 'static>(response: Response, kept: T) -> Response {
    response.map(|body| {
        Body::new(body.map_frame(move |frame| {
            let _ = &kept;
            frame
        }))
    })
}

pub fn text(code: u16, body: impl Into<String>) -> Response {
    let mut response = bytes(code, "text/plain; charset=utf-8", Body::from(body.into()));
    response.headers_mut().insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    response
}

/// What upstream's mux says to a path it does not know.
pub fn page_not_found() -> Response {
    text(404, "404 page not found\n")
}

/// A document for people, indented whatever was asked for (upstream's `WriteRawJSON`).
pub fn raw_json(code: u16, value: &Value) -> Response {
    // A value always serialises.
    bytes(code, Format::Json.media_type(), pretty(value).unwrap_or_default())
}

/// A failure in the form that the client asks for (upstream's `ErrorNegotiated`).
pub fn refuse(server: &ApiServer, headers: &HeaderMap, query: &Query, status: &Status) -> Response {
    Refusal::new(headers, query).respond(server, status)
}

/// The form of a failure, agreed on before it is known.
pub struct Refusal(Option<Accept>);

impl Refusal {
    /// Failures have no shapes: who takes nothing else gets what people read.
    pub fn new(headers: &HeaderMap, query: &Query) -> Self {
        Self(negotiate::negotiate(headers, query, negotiate::Shapes::None, true).ok())
    }

    pub fn respond(&self, server: &ApiServer, status: &Status) -> Response {
        if let Some(accept) = self.0 {
            return failure_as(server, status, accept);
        }
        let mut response = raw_json(status.code, &status.to_value());
        retry_after(status, &mut response);
        response
    }
}

/// A failure in a form that was agreed on.
fn failure_as(server: &ApiServer, status: &Status, accept: Accept) -> Response {
    if accept.format == Format::Protobuf
        && let Some(body) = crate::codec::protobuf_document(&server.types, &status.to_value())
    {
        let mut response = bytes(status.code, Format::Protobuf.media_type(), body);
        retry_after(status, &mut response);
        return response;
    }
    failure(status, accept)
}

/// A failure, in JSON unless YAML was agreed on. Protobuf clients take JSON too: the content type tells.
pub fn failure(status: &Status, accept: Accept) -> Response {
    let format = if accept.format == Format::Protobuf { Format::Json } else { accept.format };
    let accept = Accept { shape: Shape::Object, format, ..accept };
    let mut response = match value(status.code, accept, &status.to_value()) {
        Ok(response) => response,
        Err(_) => bytes(status.code, Format::Json.media_type(), Body::from(status.to_value().to_string())),
    };
    retry_after(status, &mut response);
    response
}

fn retry_after(status: &Status, response: &mut Response) {
    if let Some(details) = &status.details
        && details.retry_after_seconds > 0
    {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(details.retry_after_seconds));
    }
}

/// Any document that is no object of a served kind (`Status`, discovery, tables).
pub fn value(code: u16, accept: Accept, value: &Value) -> Result<Response, Status> {
    let body = match accept.format {
        Format::Yaml => yaml(value),
        // Only kinds and what is made of them have protobuf forms; clients of that form take JSON too.
        Format::Protobuf => return self::value(code, Accept { format: Format::Json, ..accept }, value),
        Format::Json if accept.pretty => pretty(value)?,
        Format::Json => serde_json::to_vec(value).map_err(Status::internal)?,
    };
    Ok(bytes(code, accept.format.media_type(), body))
}

fn pretty(value: &Value) -> Result<Vec<u8>, Status> {
    serde_json::to_vec_pretty(value).map_err(Status::internal)
}

fn yaml(value: &Value) -> Vec<u8> {
    api::codec::to_yaml(value).into_bytes()
}

/// A stored object.
pub fn entry(
    code: u16,
    served: &Served,
    stored: &Stored,
    accept: Accept,
    entry: &Entry,
    table: impl FnOnce() -> Table,
) -> Result<Response, Status> {
    match (accept.shape, accept.format, accept.pretty) {
        (Shape::Object, Format::Json, false) => Ok(bytes(code, Format::Json.media_type(), stored.view.json(entry)?)),
        (Shape::Object, Format::Protobuf, _) => {
            let raw = protobuf_of(served, stored, entry)?;
            let body = crate::codec::protobuf_envelope(&served.def.gvk, &raw);
            Ok(bytes(code, Format::Protobuf.media_type(), body))
        }
        (Shape::PartialMetadata, Format::Protobuf, _) => {
            let object = Object::from_value(
                serde_json::from_slice(&partial_metadata(stored, entry, accept.beta)?).map_err(Status::internal)?,
            );
            partial_protobuf(code, &served.def.schema.types, accept, "PartialObjectMetadata", object)
        }
        (Shape::PartialMetadata, Format::Json, false) => {
            let body = partial_metadata(stored, entry, accept.beta)?;
            Ok(bytes(code, Format::Json.media_type(), body))
        }
        _ => object(code, served, accept, stored.view.object(entry)?, table),
    }
}

/// A stored object as a protobuf document, envelope and all.
pub fn protobuf_document(served: &Served, stored: &Stored, entry: &Entry) -> Result<Bytes, Status> {
    let raw = protobuf_of(served, stored, entry)?;
    Ok(crate::codec::protobuf_envelope(&served.def.gvk, &raw).into())
}

/// A `Status` that is no failure, in protobuf too.
pub fn status(server: &ApiServer, code: u16, accept: Accept, document: &Value) -> Result<Response, Status> {
    if accept.format == Format::Protobuf
        && let Some(body) = crate::codec::protobuf_document(&server.types, document)
    {
        return Ok(bytes(code, Format::Protobuf.media_type(), body));
    }
    value(code, accept, document)
}

/// A document of a kind that has a schema of its own (actions, scales). `go_package`: that of the type it has in upstream's
/// handlers.
pub fn document(
    code: u16,
    accept: Accept,
    (gvk, schema): (&Gvk, &Schema),
    object: Object,
    go_package: &str,
    table: impl FnOnce() -> Table,
) -> Result<Response, Status> {
    if accept.shape != Shape::Object {
        let kind = format!("{go_package}.{}", object.kind());
        return shaped(code, accept, &schema.types, object, || not_a_list(&kind), table);
    }
    if accept.format == Format::Protobuf {
        let raw = crate::codec::encode_protobuf(schema, &object);
        return Ok(bytes(code, Format::Protobuf.media_type(), crate::codec::protobuf_envelope(gvk, &raw)));
    }
    value(code, accept, &object.into_value())
}

/// The protobuf message of a stored object, without the envelope; kept beside the JSON.
fn protobuf_of(served: &Served, stored: &Stored, entry: &Entry) -> Result<Bytes, Status> {
    entry.encoded(("protobuf", stored.view.index), || {
        Ok(crate::codec::encode_protobuf(&served.def.schema, &stored.view.object(entry)?))
    })
}

/// An object that is not (or not as such) stored.
pub fn object(
    code: u16,
    served: &Served,
    accept: Accept,
    object: Object,
    table: impl FnOnce() -> Table,
) -> Result<Response, Status> {
    match accept.shape {
        Shape::Object if accept.format == Format::Protobuf => {
            let raw = crate::codec::encode_protobuf(&served.def.schema, &object);
            let body = crate::codec::protobuf_envelope(&served.def.gvk, &raw);
            Ok(bytes(code, Format::Protobuf.media_type(), body))
        }
        Shape::Object => value(code, accept, &object.into_value()),
        _ => {
            let kind = format!("{}.{}", go_package(&served.def.gvk), object.kind());
            let refused = || match &served.def.custom {
                Some(_) => Status::new(500, "", "content is not a list"),
                None => not_a_list(&kind),
            };
            let object = match accept.shape {
                Shape::PartialMetadata => without_hidden(object, served),
                _ => object,
            };
            shaped(code, accept, &served.def.schema.types, object, refused, table)
        }
    }
}

/// Without annotations that are fields of the internal type.
fn without_hidden(mut object: Object, served: &Served) -> Object {
    let hidden = served.def.strategy.hidden_annotations();
    if let Some(metadata) = object.0.get_mut("metadata").filter(|_| !hidden.is_empty()) {
        hide_annotations(metadata, hidden);
    }
    object
}

fn not_a_list(go_type: &str) -> Status {
    let why = "you requested PartialObjectMetadataList, but the requested object is not a list";
    Status::new(406, "NotAcceptable", format!("{why} (*{go_type})"))
}

/// Something made of an object (`transformResponseObject`).
fn shaped(
    code: u16,
    accept: Accept,
    types: &Arc<Types>,
    object: Object,
    not_a_list: impl FnOnce() -> Status,
    table: impl FnOnce() -> Table,
) -> Result<Response, Status> {
    match accept.shape {
        // Upstream leaves a Status as it is.
        _ if object.kind() == "Status" => value(code, accept, &object.into_value()),
        Shape::Object => value(code, accept, &object.into_value()),
        Shape::Table => {
            let mut table = table();
            let version = object.resource_version().to_owned();
            table.push(object);
            let metadata = if version.is_empty() { json!({}) } else { json!({"resourceVersion": version}) };
            value(code, accept, &table.finish(metadata))
        }
        Shape::PartialMetadata => {
            let metadata = object.get(&["metadata"]).cloned().unwrap_or_else(|| json!({}));
            let partial = json!({
                "kind": "PartialObjectMetadata", "apiVersion": accept.meta_version(), "metadata": metadata,
            });
            if accept.format == Format::Protobuf {
                return partial_protobuf(code, types, accept, "PartialObjectMetadata", Object::from_value(partial));
            }
            value(code, accept, &partial)
        }
        Shape::PartialMetadataList => Err(not_a_list()),
    }
}

/// `PartialObjectMetadata` JSON with the metadata as it stands in the stored bytes.
pub fn partial_metadata(stored: &Stored, entry: &Entry, beta: bool) -> Result<Bytes, Status> {
    #[derive(Deserialize)]
    struct Outer<'a> {
        #[serde(borrow)]
        metadata: &'a RawValue,
    }
    let which = if beta { "metadata-v1beta1" } else { "metadata" };
    entry.encoded((which, 0), || {
        let json = stored.view.json(entry)?;
        let outer: Outer<'_> = serde_json::from_slice(&json).map_err(Status::internal)?;
        let version = if beta { "v1beta1" } else { "v1" };
        let hidden = stored.view.def.strategy.hidden_annotations();
        if hidden.iter().any(|name| outer.metadata.get().contains(name)) {
            let mut metadata = serde_json::from_str(outer.metadata.get()).map_err(Status::internal)?;
            hide_annotations(&mut metadata, hidden);
            let kind = "PartialObjectMetadata";
            let api_version = format!("meta.k8s.io/{version}");
            let partial = json!({"kind": kind, "apiVersion": api_version, "metadata": metadata});
            return Ok(partial.to_string().into());
        }
        let text = format!(
            "{{\"kind\":\"PartialObjectMetadata\",\"apiVersion\":\"meta.k8s.io/{version}\",\"metadata\":{}}}",
            outer.metadata.get()
        );
        Ok(text.into())
    })
}

/// The Go package of a kind's internal type.
pub(crate) fn go_package(gvk: &Gvk) -> &str {
    if gvk.group == "events.k8s.io" {
        // Events of both groups are one type.
        return "core";
    }
    gvk.group.split('.').next().filter(|group| !group.is_empty()).unwrap_or("core")
}

fn partial_protobuf(
    code: u16,
    types: &Arc<Types>,
    accept: Accept,
    kind: &str,
    object: Option<Object>,
) -> Result<Response, Status> {
    let schema = crate::codec::meta_schema(types, kind);
    let (Some(schema), Some(object)) = (schema, object) else {
        return Err(Status::not_acceptable(&[Format::Json.media_type(), Format::Yaml.media_type()]));
    };
    let version = if accept.beta { "v1beta1" } else { "v1" };
    let raw = crate::codec::encode_protobuf(&schema, &object);
    let body = crate::codec::protobuf_envelope(&Gvk::new("meta.k8s.io", version, kind), &raw);
    Ok(bytes(code, Format::Protobuf.media_type(), body))
}
