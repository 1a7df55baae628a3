//! `/openapi/v2` and `/openapi/v3` (kube-openapi `handler` and `handler3`).

use std::collections::BTreeMap;
use std::sync::Arc;

use api::GroupVersion;
use api::openapi::{Document, Documents, Plain, Resource};
use http::HeaderValue;
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_ENCODING, EXPIRES, LAST_MODIFIED, LOCATION, VARY};
use serde_json::Value;
use sha2::{Digest, Sha512};

use crate::aggregate::{self, Snapshot};
use crate::content::{self, State};
use crate::discovery::upper_hex;
use crate::filters::Call;
use crate::negotiate::{self, JSON};
use crate::respond::{self, Response};
use crate::served::KindTable;
use crate::server::ApiServer;

const V2_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
const V3_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v3.v1.0+protobuf";

/// Resources by group and version, as documents describe them.
fn by_version(table: &KindTable) -> BTreeMap<GroupVersion, Vec<Resource>> {
    let mut groups: BTreeMap<GroupVersion, Vec<Resource>> = BTreeMap::new();
    for served in &table.all {
        let gvk = &served.def.gvk;
        let gv = GroupVersion::new(gvk.group.clone(), gvk.version.clone());
        groups.entry(gv).or_default().push(Resource::from(&*served.def));
    }
    groups
}

/// Changes when the resources of a version do, and with the server's own version: what the index names a document with, and its tag in
/// every form. So whoever has a document is told so without its being made.
fn hash(resources: &[Resource]) -> String {
    let mut hash = Sha512::new();
    hash.update(crate::health::GIT_VERSION);
    for r in resources {
        hash.update(format!("{:?} {} {:?} {}", r.gvk, r.resource, r.verbs, r.namespaced));
        if let api::openapi::Definition::Custom(custom) = &r.definition {
            hash.update(custom.definition.fingerprint.to_le_bytes());
        }
        for s in &r.subresources {
            hash.update(format!("{} {:?} {:?}", s.name, s.gvk, s.verbs));
        }
    }
    upper_hex(&hash.finalize())
}

/// Answers an OpenAPI path; `None` for one that names nothing.
pub async fn serve(server: &Arc<ApiServer>, call: &Call, parts: &[&str]) -> Option<Response> {
    let table = server.table.load_full();
    let snapshot = server.aggregator.snapshot();
    if let ["openapi", "v3", path @ ..] = parts
        && !path.is_empty()
    {
        let groups: Vec<(GroupVersion, Vec<Resource>)> = by_version(&table).into_iter().collect();
        if let Some(place) = Plain::all(&groups).into_iter().find(|place| place.path() == path.join("/")) {
            return plain(server, call, place).await;
        }
    }
    match parts {
        ["openapi", "v2"] => Some(v2(server, table, &snapshot, call).await),
        ["openapi", "v3"] => {
            let groups: Vec<(GroupVersion, Vec<Resource>)> = by_version(&table).into_iter().collect();
            let path = |gv: &GroupVersion| if gv.group.is_empty() { format!("api/{gv}") } else { format!("apis/{gv}") };
            let plain = Plain::all(&groups).into_iter().map(|place| (place.path(), hash(&[])));
            let entries = groups.iter().map(|(gv, resources)| (path(gv), hash(resources))).chain(plain);
            let mut index = Documents::v3_index(entries);
            aggregate::openapi::extend_index(&snapshot, &mut index);
            // Nobody upstream says what it is, so Go guesses; nor since when it is so.
            let mut response = respond::bytes(200, "text/plain; charset=utf-8", index.to_string());
            if let Ok(now) = HeaderValue::from_str(&content::text(server.clock.now())) {
                response.headers_mut().insert(LAST_MODIFIED, now);
            }
            Some(response)
        }
        ["openapi", "v3", "api", version] => v3(server, table, call, GroupVersion::new("", *version)).await,
        ["openapi", "v3", "apis", group, version] if snapshot.remote(group, version).is_some() => {
            // Documents that the other server has itself went there before.
            match snapshot.remote(group, version)?.document()? {
                aggregate::openapi::Place::Served => None,
                aggregate::openapi::Place::Made(part) => {
                    made_v3(server, call, GroupVersion::new(*group, *version), part).await
                }
            }
        }
        ["openapi", "v3", "apis", group, version] => v3(server, table, call, GroupVersion::new(*group, *version)).await,
        _ => None,
    }
}

async fn v3(server: &Arc<ApiServer>, table: Arc<KindTable>, call: &Call, gv: GroupVersion) -> Option<Response> {
    let resources = by_version(&table).remove(&gv)?;
    let current = hash(&resources);
    // A document is good as long as its own resources are, whatever comes and goes beside them.
    let generation = current.get(..16).and_then(|hash| u64::from_str_radix(hash, 16).ok()).unwrap_or_default();
    let documents = Arc::clone(&server.openapi);
    Some(version_3(server, call, &current, move |protobuf| documents.v3(&gv, generation, protobuf, || resources)).await)
}

async fn plain(server: &Arc<ApiServer>, call: &Call, place: Plain) -> Option<Response> {
    let documents = Arc::clone(&server.openapi);
    Some(version_3(server, call, &hash(&[]), move |protobuf| documents.v3_plain(place, protobuf)).await)
}

/// A version 3 document made from another server's version 2 document.
async fn made_v3(server: &Arc<ApiServer>, call: &Call, gv: GroupVersion, part: Arc<Value>) -> Option<Response> {
    let fingerprint = aggregate::openapi::fingerprint(&part);
    let documents = Arc::clone(&server.openapi);
    let make = move |protobuf| documents.v3_of_part(&gv, fingerprint, protobuf, &part);
    Some(version_3(server, call, &format!("{fingerprint:016X}"), make).await)
}

/// A version 3 document whose tag is `current`.
async fn version_3(
    server: &Arc<ApiServer>,
    call: &Call,
    current: &str,
    made: impl FnOnce(bool) -> Arc<Document> + Send + 'static,
) -> Response {
    if let Some(elsewhere) = redirected(call, current) {
        return elsewhere;
    }
    let protobuf = match wants(call, V3_PROTOBUF) {
        Ok(protobuf) => protobuf,
        Err(refusal) => return refusal,
    };
    let media_type = if protobuf { V3_PROTOBUF } else { JSON };
    cached(server, call, document(server, call, current, media_type, move || made(protobuf)).await)
}

/// Where the document is now, if another was asked for.
fn redirected(call: &Call, current: &str) -> Option<Response> {
    call.query.get("hash").filter(|asked| *asked != current)?;
    let mut response = respond::bytes(301, JSON, axum::body::Body::empty());
    response.headers_mut().insert(VARY, HeaderValue::from_static("Accept"));
    let url = format!("{}?hash={current}", call.info.path);
    response.headers_mut().insert(LOCATION, HeaderValue::from_str(&url).ok()?);
    Some(response)
}

/// With headers that let a document be kept whose hash was asked for.
fn cached(server: &ApiServer, call: &Call, mut response: Response) -> Response {
    if call.query.get("hash").is_some() {
        let headers = response.headers_mut();
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("public, immutable"));
        // A year: the hash in the URL changes with the document.
        let expires = server.clock.now() + jiff::SignedDuration::from_hours(24 * 365);
        if let Ok(value) = HeaderValue::from_str(&content::text(expires)) {
            headers.insert(EXPIRES, value);
        }
    }
    response
}

async fn v2(server: &Arc<ApiServer>, table: Arc<KindTable>, snapshot: &Snapshot, call: &Call) -> Response {
    let others = aggregate::openapi::parts(snapshot);
    let generation = aggregate::openapi::generation(table.generation, &others);
    let protobuf = match wants(call, V2_PROTOBUF) {
        Ok(protobuf) => protobuf,
        Err(refusal) => return refusal,
    };
    let documents = Arc::clone(&server.openapi);
    let current = {
        let mut all = Sha512::new();
        by_version(&table).values().for_each(|resources| all.update(hash(resources)));
        others.iter().for_each(|part| all.update(aggregate::openapi::fingerprint(part).to_le_bytes()));
        upper_hex(&all.finalize())
    };
    let make = move || {
        let groups = || by_version(&table).into_iter().collect();
        if protobuf {
            documents.v2_protobuf(generation, groups, &others)
        } else {
            documents.v2_json(generation, groups, &others)
        }
    };
    document(server, call, &current, if protobuf { V2_PROTOBUF } else { JSON }, make).await
}

/// Documents take a good part of a second to make the first time: not on a thread that serves others.
async fn make(work: impl FnOnce() -> Arc<Document> + Send + 'static) -> Option<Arc<Document>> {
    match tokio::task::spawn_blocking(work).await {
        Ok(document) => Some(document),
        Err(error) => {
            tracing::error!(%error, "making an OpenAPI document failed");
            None
        }
    }
}

/// Whether the client takes a protobuf form, by its name or by the older one with `@`, before JSON. If it takes
/// neither, the answer says so and nothing else (kube-openapi `handler.go`).
fn wants(call: &Call, media_type: &str) -> Result<bool, Response> {
    let accept = call.parts.headers.get(ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    if accept.is_empty() {
        return Ok(false);
    }
    let mut clauses: Vec<(u32, &str)> = accept
        .split(',')
        .map(|clause| (negotiate::quality(clause), clause.split(';').next().unwrap_or_default().trim()))
        .collect();
    clauses.sort_by_key(|(quality, _)| std::cmp::Reverse(*quality));
    let form = clauses.into_iter().find_map(|(_, name)| match name {
        JSON | "*/*" | "*" | "application/*" => Some(false),
        other if other.replace('@', ".") == media_type => Some(true),
        _ => None,
    });
    form.ok_or_else(|| {
        let mut response = respond::bytes(406, JSON, axum::body::Body::empty());
        let headers = response.headers_mut();
        headers.remove(http::header::CONTENT_TYPE);
        if call.info.path == "/openapi/v2" {
            headers.append(VARY, HeaderValue::from_static("Accept-Encoding"));
        }
        headers.append(VARY, HeaderValue::from_static("Accept"));
        response
    })
}

/// The document with the tag `current`, or that the client has it.
async fn document(
    server: &ApiServer,
    call: &Call,
    current: &str,
    media_type: &'static str,
    work: impl FnOnce() -> Arc<Document> + Send + 'static,
) -> Response {
    let since = server.documents_since.since(&call.info.path, current, server.clock.now());
    let state = State { etag: format!("\"{current}\""), modified: since };
    let gzip = crate::compress::takes_gzip(&call.parts.headers);
    let mut response = match state.answer(&call.parts, media_type) {
        Some(response) => response,
        None => {
            let Some(document) = make(work).await else {
                let status = api::Status::internal("the document could not be made");
                return respond::failure(&status, crate::negotiate::Accept::JSON);
            };
            let body = if gzip { document.gzip() } else { document.plain() };
            let mut response = respond::bytes(200, media_type, body);
            if gzip {
                response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            }
            state.put(response.headers_mut());
            response
        }
    };
    let headers = response.headers_mut();
    if gzip || call.info.path == "/openapi/v2" {
        headers.append(VARY, HeaderValue::from_static("Accept-Encoding"));
    }
    headers.append(VARY, HeaderValue::from_static("Accept"));
    response
}
