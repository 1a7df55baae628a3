//! Lists of stored objects: made piece by piece, so that other requests get their turn while a large one is made, and no
//! list is in memory as a whole for longer than its client needs to take it.

use std::collections::VecDeque;
use std::sync::Arc;

use axum::body::Body;
use bytes::{BufMut, Bytes, BytesMut};
use serde_json::{Value, json};

use api::{Object, Status};

use super::{Response, bytes, failure, go_package, partial_metadata, partial_protobuf, protobuf_of, value};
use crate::cache::entry::Entry;
use crate::negotiate::{Accept, Format, Shape};
use crate::served::{Served, Stored};
use crate::table::Table;

/// Lists up to this size are sent in one piece with a Content-Length; larger ones are made as they are sent.
const WHOLE_MAX: usize = 256 << 10;
const CHUNK: usize = 64 << 10;
/// After so many bytes somebody else has a turn.
const TURN: usize = 64 << 10;

/// `metadata` of a list.
#[derive(Default)]
pub struct ListMeta {
    pub revision: i64,
    pub continue_token: String,
    pub remaining: Option<usize>,
}

impl ListMeta {
    /// As lists of this kind say it: those of custom resources, which upstream keeps as maps, always have the token.
    fn value_for(&self, served: &Served) -> Value {
        let mut meta = self.to_value();
        if served.def.custom.is_some() && self.continue_token.is_empty() {
            meta["continue"] = "".into();
        }
        meta
    }

    pub fn to_value(&self) -> Value {
        // What is not stored has no version.
        let mut meta = match self.revision {
            0 => json!({}),
            revision => json!({"resourceVersion": revision.to_string()}),
        };
        if !self.continue_token.is_empty() {
            meta["continue"] = self.continue_token.as_str().into();
        }
        if let Some(remaining) = self.remaining {
            meta["remainingItemCount"] = remaining.into();
        }
        meta
    }
}

/// Work done since others had a turn, in bytes of what was read or made.
#[derive(Default)]
pub(crate) struct Turns(usize);

impl Turns {
    /// So much has been done: lets others run if it was much.
    pub async fn after(&mut self, bytes: usize) {
        self.0 += bytes;
        if self.0 >= TURN {
            self.0 = 0;
            tokio::task::yield_now().await;
        }
    }
}

/// A list of stored objects.
pub async fn list(
    served: &Served,
    stored: &Stored,
    accept: Accept,
    meta: &ListMeta,
    entries: Vec<Arc<Entry>>,
    table: impl FnOnce() -> Table,
) -> Result<Response, Status> {
    let gvk = &served.def.gvk;
    let mut turns = Turns::default();
    match (accept.shape, accept.format, accept.pretty) {
        (Shape::PartialMetadata, ..) => {
            let kind = match &served.def.custom {
                Some(_) => "unstructured.UnstructuredList".to_owned(),
                None => format!("{}.{}", go_package(gvk), served.def.list_kind),
            };
            let why = "you requested PartialObjectMetadata, but the requested object is a list";
            return Err(Status::new(406, "NotAcceptable", format!("{why} (*{kind})")));
        }
        (Shape::Table, ..) => {
            let mut table = table();
            for entry in &entries {
                table.push(stored.view.object(entry)?);
                turns.after(entry.size()).await;
            }
            return value(200, accept, &table.finish(meta.to_value()));
        }
        (Shape::Object, Format::Json, false) => {
            let head = format!(
                "{{\"kind\":\"{}\",\"apiVersion\":\"{}\",\"metadata\":{},\"items\":[",
                served.def.list_kind,
                gvk.api_version(),
                meta.value_for(served)
            );
            let stored = stored.clone();
            return Ok(joined(head, entries, move |out, entry| stored.view.put_item(out, entry)));
        }
        (Shape::Object, Format::Protobuf, _) => {
            let mut items = VecDeque::with_capacity(entries.len());
            for entry in &entries {
                items.push_back(protobuf_of(served, stored, entry)?);
                turns.after(entry.size()).await;
            }
            let gvk = api::Gvk { kind: served.def.list_kind.clone(), ..gvk.clone() };
            return Ok(concatenated(crate::codec::ListPieces::new(&gvk, meta, items)));
        }
        (Shape::PartialMetadataList, Format::Json, false) if !entries.is_empty() => {
            let head = format!(
                "{{\"kind\":\"PartialObjectMetadataList\",\"apiVersion\":\"{}\",\"metadata\":{},\"items\":[",
                accept.meta_version(),
                meta.to_value()
            );
            let stored = stored.clone();
            return Ok(joined(head, entries, move |out, entry| {
                out.put_slice(&partial_metadata(&stored, entry, accept.beta)?);
                Ok(())
            }));
        }
        _ => {}
    }
    let partial = accept.shape != Shape::Object;
    let mut items = Vec::with_capacity(entries.len());
    for entry in &entries {
        let json = if partial { partial_metadata(stored, entry, accept.beta)? } else { stored.view.json(entry)? };
        let mut item = serde_json::from_slice::<Value>(&json).map_err(Status::internal)?;
        if let Some(members) = item.as_object_mut().filter(|_| !partial && !stored.view.items_say_type()) {
            members.remove("apiVersion");
            members.remove("kind");
        }
        items.push(item);
        turns.after(entry.size()).await;
    }
    let (kind, version) = if partial {
        ("PartialObjectMetadataList", accept.meta_version().to_owned())
    } else {
        (served.def.list_kind.as_str(), gvk.api_version())
    };
    let metadata = if partial { meta.to_value() } else { meta.value_for(served) };
    let mut list = json!({"kind": kind, "apiVersion": version, "metadata": metadata, "items": items});
    if partial && accept.format != Format::Protobuf && entries.is_empty() {
        // Upstream appends to a list that nobody made (`asPartialObjectMetadataList`).
        list["items"] = Value::Null;
    }
    if accept.format == Format::Protobuf {
        return partial_protobuf(
            200,
            &served.def.schema.types,
            accept,
            "PartialObjectMetadataList",
            Object::from_value(list),
        );
    }
    value(200, accept, &list)
}

/// A protobuf list, in one piece or as it is sent.
fn concatenated(mut pieces: crate::codec::ListPieces) -> Response {
    let media_type = Format::Protobuf.media_type();
    if pieces.size() <= WHOLE_MAX {
        return bytes(200, media_type, pieces.next_chunk(usize::MAX).unwrap_or_default());
    }
    let stream = futures::stream::unfold((pieces, Turns::default()), |(mut pieces, mut turns)| async move {
        let chunk = pieces.next_chunk(CHUNK)?;
        turns.after(chunk.len()).await;
        Some((Ok::<_, std::convert::Infallible>(chunk), (pieces, turns)))
    });
    bytes(200, media_type, Body::from_stream(stream))
}

/// `head` + items, which `put` adds, joined by commas + `]}`; in one piece if small, else made chunk by chunk while it is sent.
fn joined(
    head: String,
    entries: Vec<Arc<Entry>>,
    put: impl Fn(&mut BytesMut, &Entry) -> Result<(), Status> + Send + 'static,
) -> Response {
    let size: usize = head.len() + entries.iter().map(|e| e.size() + 1).sum::<usize>();
    let mut pieces = Pieces { head: Some(head), entries: entries.into_iter(), put, first: true, done: false };
    let media_type = Format::Json.media_type();
    if size > WHOLE_MAX {
        let stream = futures::stream::unfold((pieces, Turns::default()), |(mut pieces, mut turns)| async move {
            let chunk = pieces.next_chunk(CHUNK, CHUNK + (CHUNK >> 2))?;
            turns.after(chunk.as_ref().map_or(0, Bytes::len)).await;
            Some((chunk, (pieces, turns)))
        });
        return bytes(200, media_type, Body::from_stream(stream));
    }
    match pieces.next_chunk(usize::MAX, size + 2) {
        Some(Ok(body)) => bytes(200, media_type, body),
        Some(Err(status)) => failure(&status, Accept::JSON),
        None => bytes(200, media_type, Body::empty()),
    }
}

struct Pieces<P> {
    head: Option<String>,
    entries: std::vec::IntoIter<Arc<Entry>>,
    put: P,
    first: bool,
    done: bool,
}

impl<P: Fn(&mut BytesMut, &Entry) -> Result<(), Status>> Pieces<P> {
    /// `room`: bytes that are usually enough for it.
    fn next_chunk(&mut self, size: usize, room: usize) -> Option<Result<Bytes, Status>> {
        if self.done {
            return None;
        }
        let mut out = BytesMut::with_capacity(room);
        if let Some(head) = self.head.take() {
            out.put_slice(head.as_bytes());
        }
        while out.len() < size {
            let Some(entry) = self.entries.next() else {
                out.put_slice(b"]}");
                self.done = true;
                break;
            };
            if !std::mem::take(&mut self.first) {
                out.put_u8(b',');
            }
            if let Err(status) = (self.put)(&mut out, &entry) {
                self.done = true;
                return Some(Err(status));
            }
        }
        Some(Ok(out.freeze()))
    }
}
