//! What is served: `/api`, `/apis`, their versions and resources, and the aggregated form (`apidiscovery.k8s.io`).

use std::sync::{Arc, OnceLock};

use api::GroupVersion;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use http::header::{ACCEPT, ETAG, IF_NONE_MATCH, VARY};
use serde_json::{Value, json};
use sha2::{Digest, Sha256, Sha512};

use crate::aggregate::{Catalog, Group, Snapshot, Source, Version};
use crate::filters::Call;
use crate::negotiate::{self, Format};
use crate::respond::{self, Response};
use crate::served::{KindTable, Served};
use crate::server::ApiServer;

/// Aggregated documents of one table and one snapshot of aggregated servers, made on first use: core and the rest, as JSON
/// and as protobuf.
#[derive(Default)]
pub struct Documents([[OnceLock<Document>; 2]; 2]);

/// A form of the aggregated document.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    V2,
    V2Protobuf,
}

impl Form {
    const fn media_type(self) -> &'static str {
        match self {
            Self::V2 => "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
            Self::V2Protobuf => {
                "application/vnd.kubernetes.protobuf;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
            }
        }
    }
}

struct Document {
    body: bytes::Bytes,
    etag: String,
}

/// What discovery is told from.
struct Seen {
    table: Arc<KindTable>,
    snapshot: Arc<Snapshot>,
    catalog: Catalog,
}

/// Answers the discovery paths; `None` for a path that names nothing.
pub fn serve(server: &ApiServer, call: &Call, parts: &[&str]) -> Option<Response> {
    let (table, snapshot) = (server.table.load_full(), server.aggregator.snapshot());
    let see =
        || Seen { catalog: Catalog::new(&table, &snapshot), table: Arc::clone(&table), snapshot: snapshot.clone() };
    let value = match parts {
        ["api"] | ["apis"] => {
            if let Some(form) = wants_aggregated(call) {
                let documents = server.aggregator.documents(&table, &snapshot);
                return Some(aggregated(server, &documents, see, call, parts == ["apis"], form));
            }
            if parts == ["api"] { core_versions(server) } else { group_list(&see()) }
        }
        ["api", version] => resources(&table, "", version)?,
        ["apis", group] => group_value(&see(), group)?,
        ["apis", group, version] => resources(&table, group, version)?,
        _ => return None,
    };
    Some(answer(server, call, &value))
}

/// The forms that discovery has, by name alone, as upstream's router looks at them.
const OFFERED: [&str; 3] = [negotiate::JSON, negotiate::YAML, negotiate::PROTOBUF];

/// The form that the version of the server has.
const VERSION_OFFERED: [&str; 1] = [negotiate::JSON];

/// The forms of a document of discovery.
pub(crate) fn offered(parts: &[&str]) -> &'static [&'static str] {
    if parts == ["version"] { &VERSION_OFFERED } else { &OFFERED }
}

/// Whether the router finds a form that the client takes.
pub(crate) fn is_offered(call: &Call, offered: &[&str]) -> bool {
    let accept = call.parts.headers.get(ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    accept.is_empty()
        || accept
            .split(',')
            .map(|clause| clause.split(';').next().unwrap_or_default().trim())
            .any(|name| name == "*/*" || offered.contains(&name))
}

/// The answer where [`is_offered`] finds none.
pub(crate) fn not_offered(offered: &[&str]) -> api::Status {
    let message = format!("406: Not Acceptable\n\nAvailable representations: {}", offered.join(", "));
    api::Status::new(406, "NotAcceptable", message).with_details(api::status::Details::default())
}

fn answer(server: &ApiServer, call: &Call, value: &Value) -> Response {
    let accept =
        negotiate::negotiate(&call.parts.headers, &call.query, negotiate::Shapes::None, true).and_then(|accept| {
            let mut typed = value.clone();
            if typed.get("apiVersion").is_none() {
                typed["apiVersion"] = "v1".into();
            }
            match crate::codec::protobuf_document(&server.types, &typed).filter(|_| accept.format == Format::Protobuf) {
                Some(body) => Ok(respond::bytes(200, negotiate::PROTOBUF, body)),
                None => respond::value(200, accept, value),
            }
        });
    accept.unwrap_or_else(|status| respond::refuse(server, &call.parts.headers, &call.query, &status))
}

fn core_versions(server: &ApiServer) -> Value {
    json!({
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": server.advertise}],
    })
}

fn group_list(seen: &Seen) -> Value {
    let groups: Vec<Value> = seen.catalog.listed().into_iter().map(group_entry).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

fn group_entry(group: &Group) -> Value {
    let entry = |version: &Version| json!({"groupVersion": format!("{}/{}", group.name, version.name), "version": version.name});
    let versions: Vec<Value> = group.versions.iter().map(entry).collect();
    json!({"name": group.name, "preferredVersion": versions.first(), "versions": versions})
}

fn group_value(seen: &Seen, group: &str) -> Option<Value> {
    if group.is_empty() {
        return None;
    }
    let mut value = group_entry(seen.catalog.group(group)?);
    value["kind"] = "APIGroup".into();
    value["apiVersion"] = "v1".into();
    Some(value)
}

fn of_version<'t>(table: &'t KindTable, group: &'t str, version: &'t str) -> impl Iterator<Item = &'t Arc<Served>> {
    table.all.iter().filter(move |s| s.def.gvk.group == group && s.def.gvk.version == version)
}

fn resources(table: &KindTable, group: &str, version: &str) -> Option<Value> {
    let mut resources = Vec::new();
    let mut all: Vec<&Arc<Served>> = of_version(table, group, version).collect();
    if all.is_empty() {
        return None;
    }
    all.sort_by(|a, b| a.def.resource.cmp(&b.def.resource));
    for served in all {
        let def = &served.def;
        let mut entry = json!({
            "name": def.resource, "singularName": def.singular, "namespaced": def.namespaced, "kind": def.gvk.kind,
            "verbs": verbs(def),
        });
        if !def.short_names.is_empty() {
            entry["shortNames"] = json!(def.short_names);
        }
        if !def.categories.is_empty() {
            entry["categories"] = json!(def.categories);
        }
        // What cannot be written has no version of storage.
        if let Some(storage) = def.storage.as_ref().filter(|_| def.verbs.contains(&"create")) {
            entry["storageVersionHash"] = storage_hash(&storage.gvk).into();
        }
        resources.push(entry);
        let mut subresources: Vec<_> = def.subresources.iter().collect();
        if def.custom.is_none() {
            subresources.sort_by_key(|s| s.name);
        }
        for subresource in subresources {
            let mut entry = json!({
                "name": format!("{}/{}", def.resource, subresource.name), "singularName": "",
                "namespaced": def.namespaced, "kind": subresource.gvk.kind, "verbs": subresource.verbs,
            });
            if subresource.gvk.group != group || subresource.gvk.version != version {
                entry["group"] = subresource.gvk.group.as_str().into();
                entry["version"] = subresource.gvk.version.as_str().into();
            }
            resources.push(entry);
        }
    }
    let mut value = json!({
        "kind": "APIResourceList", "groupVersion": GroupVersion::new(group, version).to_string(),
        "resources": resources,
    });
    if !group.is_empty() {
        value["apiVersion"] = "v1".into();
    }
    Some(value)
}

/// What discovery says may be done; a definition on its way out takes nothing new, though updates still end finalizers.
fn verbs(def: &api::kind::KindDef) -> Vec<&'static str> {
    let terminating = def.custom.as_ref().is_some_and(|c| c.terminating);
    def.verbs.iter().copied().filter(|v| !terminating || !matches!(*v, "create" | "patch" | "update")).collect()
}

/// `discovery.StorageVersionHash`.
fn storage_hash(gvk: &api::Gvk) -> String {
    let sum = Sha256::digest(format!("{}/{}/{}", gvk.group, gvk.version, gvk.kind));
    STANDARD.encode(&sum[..8])
}

/// Whether the client takes the aggregated document first, and in which form.
fn wants_aggregated(call: &Call) -> Option<Form> {
    let accept = call.parts.headers.get(ACCEPT)?.to_str().ok()?;
    for clause in accept.split(',') {
        let mut parts = clause.split(';').map(str::trim);
        let protobuf = match parts.next() {
            Some(negotiate::JSON) => false,
            Some(negotiate::PROTOBUF) => true,
            _ => return None,
        };
        let parameters: Vec<&str> = parts.collect();
        if !parameters.contains(&"as=APIGroupDiscoveryList") {
            return None;
        }
        if parameters.contains(&"g=apidiscovery.k8s.io") {
            match parameters.iter().find_map(|p| p.strip_prefix("v=")) {
                Some("v2") if protobuf => return Some(Form::V2Protobuf),
                Some("v2") => return Some(Form::V2),
                _ => {}
            }
        }
    }
    None
}

fn aggregated(
    server: &ApiServer,
    documents: &Documents,
    see: impl Fn() -> Seen,
    call: &Call,
    named: bool,
    form: Form,
) -> Response {
    let document = documents.0[usize::from(named)][form as usize].get_or_init(|| {
        let value = aggregated_value(&see(), named);
        let text = value.to_string();
        let etag = format!("\"{}\"", upper_hex(&Sha512::digest(&text)));
        let encoded = (form == Form::V2Protobuf).then(|| protobuf(server, value)).flatten();
        Document { body: encoded.map_or_else(|| text.into(), Into::into), etag }
    });
    let media_type = form.media_type();
    let known = call.parts.headers.get(IF_NONE_MATCH).is_some_and(|v| v.as_bytes() == document.etag.as_bytes());
    let mut response = if known {
        respond::bytes(304, media_type, axum::body::Body::empty())
    } else {
        respond::bytes(200, media_type, document.body.clone())
    };
    let headers = response.headers_mut();
    headers.insert(VARY, HeaderValue::from_static("Accept"));
    headers.insert(http::header::CACHE_CONTROL, HeaderValue::from_static("public"));
    if let Ok(etag) = HeaderValue::from_str(&document.etag) {
        headers.insert(ETAG, etag);
    }
    if known { response } else { crate::compress::maybe(&call.parts.headers, response) }
}

/// The protobuf form; `None` if the tables lack its type.
fn protobuf(server: &ApiServer, value: Value) -> Option<Vec<u8>> {
    let root = server.types.id("io.k8s.api.apidiscovery.v2.APIGroupDiscoveryList")?;
    let schema = api::schema::Schema { types: Arc::clone(&server.types), root };
    let raw = crate::codec::encode_protobuf(&schema, &api::Object::from_value(value)?);
    let gvk = api::Gvk::new("apidiscovery.k8s.io", "v2", "APIGroupDiscoveryList");
    Some(crate::codec::protobuf_envelope(&gvk, &raw))
}

pub(crate) fn upper_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02X}")).collect()
}

fn aggregated_value(seen: &Seen, named: bool) -> Value {
    let mut items = Vec::new();
    for group in seen.catalog.groups.iter().filter(|g| g.name.is_empty() != named) {
        let versions: Vec<Value> = group.versions.iter().map(|v| aggregated_version(seen, &group.name, v)).collect();
        let metadata = if group.name.is_empty() { json!({}) } else { json!({"name": group.name}) };
        items.push(json!({"metadata": metadata, "versions": versions}));
    }
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items})
}

fn aggregated_version(seen: &Seen, group: &str, version: &Version) -> Value {
    let name = &version.name;
    if matches!(version.source, Source::Remote) {
        let told = seen.snapshot.remote(group, name).and_then(|remote| remote.told.clone()).unwrap_or_default();
        let freshness = if told.current { "Current" } else { "Stale" };
        let mut value = json!({"version": name, "freshness": freshness});
        if told.resources.as_array().is_some_and(|list| !list.is_empty()) {
            value["resources"] = told.resources.clone();
        }
        return value;
    }
    let mut all: Vec<&Arc<Served>> = of_version(&seen.table, group, name).collect();
    all.sort_by(|a, b| a.def.resource.cmp(&b.def.resource));
    let resources: Vec<Value> = all.into_iter().map(|s| aggregated_resource(s)).collect();
    json!({"version": name, "resources": resources, "freshness": "Current"})
}

fn aggregated_resource(served: &Served) -> Value {
    let def = &served.def;
    // Of built-in kinds upstream says the group and version only where they are not those of the document.
    let kind = |gvk: &api::Gvk| {
        let own = def.custom.is_none() && gvk.group == def.gvk.group && gvk.version == def.gvk.version;
        let (group, version) = if own { ("", "") } else { (gvk.group.as_str(), gvk.version.as_str()) };
        json!({"group": group, "version": version, "kind": gvk.kind})
    };
    let mut value = json!({
        "resource": def.resource,
        "responseKind": kind(&def.gvk),
        "scope": if def.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": def.singular,
        "verbs": verbs(def),
    });
    if !def.short_names.is_empty() {
        value["shortNames"] = json!(def.short_names);
    }
    if !def.categories.is_empty() {
        value["categories"] = json!(def.categories);
    }
    if !def.subresources.is_empty() {
        let mut subresources: Vec<_> = def.subresources.iter().collect();
        if def.custom.is_none() {
            subresources.sort_by_key(|s| s.name);
        }
        let entries = subresources
            .into_iter()
            .map(|s| json!({"subresource": s.name, "responseKind": kind(&s.gvk), "verbs": s.verbs}));
        value["subresources"] = entries.collect();
    }
    value
}
