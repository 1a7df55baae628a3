//! `/openapi/v2` and `/openapi/v3` (kube-openapi `handler` and `handler3`).

use std::collections::BTreeMap;
use std::sync::Arc;

use api::GroupVersion;
use api::openapi::{Document, Documents, Plain, Resource};
use http::HeaderValue;
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_ENCODING, ETAG, EXPIRES, IF_NONE_MATCH, LOCATION, VARY};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::aggregate::{self, Snapshot};
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

/// Changes when the resources of a version do, and with the server's own version.
fn hash(resources: &[Resource]) -> String {
    let mut hash = Sha256::new();
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
            // Nobody upstream says what it is, so Go guesses.
            Some(respond::bytes(200, "text/plain; charset=utf-8", index.to_string()))
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
    if let Some(elsewhere) = redirected(call, &current) {
        return Some(elsewhere);
    }
    let documents = Arc::clone(&server.openapi);
    // A document is good as long as its own resources are, whatever comes and goes beside them.
    let generation = current.get(..16).and_then(|hash| u64::from_str_radix(hash, 16).ok()).unwrap_or_default();
    let protobuf = match wants(call, V3_PROTOBUF) {
        Ok(protobuf) => protobuf,
        Err(refusal) => return Some(refusal),
    };
    let made = make(move || documents.v3(&gv, generation, protobuf, || resources)).await;
    Some(cached(server, call, document(call, made, if protobuf { V3_PROTOBUF } else { JSON })))
}

async fn plain(server: &Arc<ApiServer>, call: &Call, place: Plain) -> Option<Response> {
    if let Some(elsewhere) = redirected(call, &hash(&[])) {
        return Some(elsewhere);
    }
    let documents = Arc::clone(&server.openapi);
    let protobuf = match wants(call, V3_PROTOBUF) {
        Ok(protobuf) => protobuf,
        Err(refusal) => return Some(refusal),
    };
    let made = make(move || documents.v3_plain(place, protobuf)).await;
    Some(cached(server, call, document(call, made, if protobuf { V3_PROTOBUF } else { JSON })))
}

/// A version 3 document made from another server's version 2 document.
async fn made_v3(server: &Arc<ApiServer>, call: &Call, gv: GroupVersion, part: Arc<Value>) -> Option<Response> {
    let fingerprint = aggregate::openapi::fingerprint(&part);
    if let Some(elsewhere) = redirected(call, &format!("{fingerprint:016X}")) {
        return Some(elsewhere);
    }
    let documents = Arc::clone(&server.openapi);
    let protobuf = match wants(call, V3_PROTOBUF) {
        Ok(protobuf) => protobuf,
        Err(refusal) => return Some(refusal),
    };
    let made = make(move || documents.v3_of_part(&gv, fingerprint, protobuf, &part)).await;
    Some(cached(server, call, document(call, made, if protobuf { V3_PROTOBUF } else { JSON })))
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
        let text = expires.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
        if let Ok(value) = HeaderValue::from_str(&text) {
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
    let made = make(move || {
        let groups = || by_version(&table).into_iter().collect();
        if protobuf {
            documents.v2_protobuf(generation, groups, &others)
        } else {
            documents.v2_json(generation, groups, &others)
        }
    })
    .await;
    document(call, made, if protobuf { V2_PROTOBUF } else { JSON })
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

fn document(call: &Call, made: Option<Arc<Document>>, media_type: &'static str) -> Response {
    let Some(document) = made else {
        return respond::failure(
            &api::Status::internal("the document could not be made"),
            crate::negotiate::Accept::JSON,
        );
    };
    let etag = format!("\"{}\"", document.hash);
    let known = call.parts.headers.get(IF_NONE_MATCH).is_some_and(|v| v.as_bytes() == etag.as_bytes());
    let gzip = crate::compress::takes_gzip(&call.parts.headers);
    let mut response = match (known, gzip) {
        (true, _) => respond::bytes(304, media_type, axum::body::Body::empty()),
        (false, true) => respond::bytes(200, media_type, document.gzip()),
        (false, false) => respond::bytes(200, media_type, document.plain()),
    };
    let headers = response.headers_mut();
    if gzip && !known {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    if gzip || call.info.path == "/openapi/v2" {
        headers.append(VARY, HeaderValue::from_static("Accept-Encoding"));
    }
    headers.append(VARY, HeaderValue::from_static("Accept"));
    if let Ok(value) = HeaderValue::from_str(&etag) {
        headers.insert(ETAG, value);
    }
    response
}
