//! What upstream's router of built-in resources refuses before a verb is asked: methods, the types of patches, and forms of
//! answers by their name alone (go-restful's `detectRoute`; the routes are those of apiserver `endpoints/installer.go`).

use api::Status;
use api::kind::{KindDef, SubresourceKind};
use api::status::Details;
use http::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, Method};

use crate::filters::Call;
use crate::negotiate::{JSON, PROTOBUF, YAML};
use crate::served::method_not_allowed;

const PATCHES: [&str; 4] = [
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];
const JSON_WATCH: &str = "application/json;stream=watch";
const PROTOBUF_WATCH: &str = "application/vnd.kubernetes.protobuf;stream=watch";

/// Why a request goes nowhere.
pub(super) enum Refused {
    /// There is nothing at this path.
    Unknown,
    With(Status),
}

/// Whether a route of a built-in kind takes the request.
pub(super) fn check(def: &KindDef, call: &Call) -> Result<(), Refused> {
    let info = &call.info;
    // Proxying by a path of its own is long gone.
    if info.name.contains('/') || info.verb == "proxy" {
        return Err(Refused::Unknown);
    }
    let subresource = def.subresource(&info.subresource);
    if subresource.is_none() && !info.subresource.is_empty() {
        return Err(Refused::Unknown);
    }
    if subresource.is_some_and(|s| matches!(s.kind, SubresourceKind::Connect(_))) && info.subresource != "log" {
        // Connections take any form; their methods are the connector's.
        return Ok(());
    }
    let verbs: Vec<&str> = subresource.map_or_else(|| def.verbs.to_vec(), |s| s.verbs.to_vec());
    let named = info.names_object() || subresource.is_some();
    let has = |verb: &str| verbs.contains(&verb);
    let route = |method: &Method| match (method, named) {
        (&Method::GET, true) => has("get"),
        (&Method::GET, false) => has("list"),
        (&Method::POST, true) => subresource.is_some() && has("create"),
        (&Method::POST, false) => has("create") && (!def.namespaced || !info.namespace.is_empty()),
        (&Method::PUT, true) => has("update"),
        (&Method::PATCH, true) => has("patch"),
        (&Method::DELETE, true) => has("delete"),
        (&Method::DELETE, false) => has("deletecollection") && (!def.namespaced || !info.namespace.is_empty()),
        _ => false,
    };
    let methods = [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE];
    if !methods.iter().any(&route) {
        return Err(Refused::Unknown);
    }
    if info.legacy_verb && !has("watch") {
        return Err(Refused::Unknown);
    }
    let method = &call.parts.method;
    if !route(method) || (info.legacy_verb && method != Method::GET) {
        return Err(Refused::With(method_not_allowed()));
    }
    let headers = &call.parts.headers;
    if method == Method::PATCH && !named_in(&PATCHES, content_type(headers)) {
        return Err(Refused::With(refused(415, "UnsupportedMediaType", "415: Unsupported Media Type".to_owned())));
    }
    accepts(headers, method, &produced(def, &info.subresource, method, named))
}

fn content_type(headers: &HeaderMap) -> &str {
    headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default()
}

/// Whether one of the listed types is wanted, parameters aside.
fn named_in(known: &[&str], wanted: &str) -> bool {
    wanted.split(',').map(|one| one.split(';').next().unwrap_or_default().trim()).any(|one| known.contains(&one))
}

/// The forms that a route says it has.
fn produced(def: &KindDef, subresource: &str, method: &Method, named: bool) -> Vec<&'static str> {
    let mut types = vec![JSON, YAML];
    if crate::codec::offers_protobuf(def) {
        types.push(PROTOBUF);
    }
    match (method, named) {
        (&Method::GET, _) if subresource == "log" => types.insert(0, "text/plain"),
        (&Method::GET, false) => types.extend([JSON_WATCH, PROTOBUF_WATCH]),
        _ => {}
    }
    types
}

fn accepts(headers: &HeaderMap, method: &Method, types: &[&str]) -> Result<(), Refused> {
    // Go's `Header.Get`: the first line of that name.
    let accept = headers.get(ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    if accept.is_empty() || named_in(&["*/*"], accept) || named_in(types, accept) {
        return Ok(());
    }
    let empty = headers.get(CONTENT_LENGTH).is_none_or(|length| length == "0");
    let writes = matches!(*method, Method::POST | Method::PUT | Method::PATCH);
    let (code, reason, title) = if writes && empty {
        (415, "UnsupportedMediaType", "415: Unsupported Media Type")
    } else {
        (406, "NotAcceptable", "406: Not Acceptable")
    };
    let message = format!("{title}\n\nAvailable representations: {}", types.join(", "));
    Err(Refused::With(refused(code, reason, message)))
}

fn refused(code: u16, reason: &'static str, message: String) -> Status {
    Status::new(code, reason, message).with_details(Details::default())
}
