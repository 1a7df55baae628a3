//! `/statusz` and `/flagz`: what runs here, and how it was told to (apiserver `server/statusz`, `server/flagz`).

use std::sync::Arc;

use http::HeaderValue;
use http::header::{ACCEPT, CONTENT_TYPE, WARNING};
use rand::seq::IndexedRandom;
use serde_json::{Map, Value, json};

use crate::filters::Call;
use crate::negotiate::{Accept, Format, Shapes};
use crate::respond::{self, Response};
use crate::server::ApiServer;

/// So that nobody takes the text for a format.
const DELIMITERS: [&str; 4] = [":", ": ", "=", " "];
const WARNING_TEXT: &str = "Warning: This endpoint is not meant to be machine parseable, has no formatting compatibility guarantees and is for debugging purposes only.";
const COMPONENT: &str = "kube-apiserver";
/// Paths that `/statusz` leaves out.
const NO_DEBUGGING: [&str; 5] = ["/apis", "/api", "/openid", "/openapi", "/.well-known"];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Page {
    Status,
    Flags,
}

/// The form that a client wants.
enum Wanted {
    Text,
    Document(Format, &'static str),
}

/// Answers `/statusz` or `/flagz`.
pub fn serve(server: &Arc<ApiServer>, call: &Call, page: &str) -> Response {
    let page = if page == "statusz" { Page::Status } else { Page::Flags };
    let kind = if page == Page::Status { "Statusz" } else { "Flagz" };
    let accept = call.parts.headers.get(ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let Some(wanted) = negotiate(accept, kind) else {
        let types = ["application/json", "application/yaml", "text/plain"];
        let status = api::Status::not_acceptable(&types);
        // There is no protobuf here, of failures neither.
        return match crate::negotiate::negotiate(&call.parts.headers, &call.query, Shapes::None, false) {
            Ok(accept) => respond::failure(&status, accept),
            Err(_) => respond::raw_json(status.code, &status.to_value()),
        };
    };
    match wanted {
        Wanted::Text => respond::bytes(
            200,
            "text/plain; charset=utf-8",
            if page == Page::Status { status_text(server) } else { flags_text(server) },
        ),
        Wanted::Document(format, version) => {
            let mut value = json!({
                "kind": kind, "apiVersion": format!("config.k8s.io/{version}"), "metadata": {"name": COMPONENT},
            });
            let more = if page == Page::Status { status_value(server) } else { flags_value(server) };
            if let (Some(value), Value::Object(more)) = (value.as_object_mut(), more) {
                value.extend(more);
            }
            let accept = Accept { format, ..Accept::JSON };
            let mut response =
                respond::value(200, accept, &value).unwrap_or_else(|status| respond::failure(&status, Accept::JSON));
            let form = format!("{};g=config.k8s.io;v={version};as={kind}", format.media_type());
            if let Ok(form) = HeaderValue::from_str(&form) {
                response.headers_mut().insert(CONTENT_TYPE, form);
            }
            if version == "v1alpha1" {
                let page = kind.to_lowercase();
                let text =
                    format!("299 - \"This version of the {page} endpoint is deprecated. Please use a newer version.\"");
                if let Ok(value) = HeaderValue::from_str(&text) {
                    response.headers_mut().insert(WARNING, value);
                }
            }
            response
        }
    }
}

/// The first form that the client takes and there is. Documents must be asked for by their kind.
fn negotiate(accept: &str, kind: &str) -> Option<Wanted> {
    if accept.trim().is_empty() {
        return Some(Wanted::Text);
    }
    accept.split(',').find_map(|clause| {
        let mut parts = clause.split(';').map(str::trim);
        let name = parts.next()?;
        let parameters: Vec<&str> = parts.collect();
        let format = match name {
            "application/json" => Format::Json,
            "application/yaml" => Format::Yaml,
            "text/plain" | "text/*" | "*/*" => {
                return (!parameters.iter().any(|p| p.starts_with("as="))).then_some(Wanted::Text);
            }
            _ => return None,
        };
        let asked = |name: &str| parameters.iter().find_map(|p| p.strip_prefix(name)).unwrap_or_default();
        let version = match asked("v=") {
            "v1beta1" => "v1beta1",
            "v1alpha1" => "v1alpha1",
            _ => return None,
        };
        (asked("as=") == kind && asked("g=") == "config.k8s.io").then_some(Wanted::Document(format, version))
    })
}

/// Seconds since the epoch at which the process began, and since then.
fn times(server: &ApiServer) -> (jiff::Timestamp, i64) {
    let started = server.metrics.started();
    (started, (server.clock.now().as_second() - started.as_second()).max(0))
}

fn paths(server: &ApiServer) -> Vec<String> {
    let mut paths = crate::router::paths(server);
    paths.retain(|path| !NO_DEBUGGING.iter().any(|left_out| path.starts_with(left_out)));
    paths
}

fn status_value(server: &ApiServer) -> Value {
    let (started, up) = times(server);
    json!({
        "startTime": api::codec::print_time(started), "uptimeSeconds": up, "goVersion": "none",
        "binaryVersion": "1.37.0", "emulationVersion": "1.37", "paths": paths(server),
    })
}

fn status_text(server: &ApiServer) -> String {
    let delimiter = DELIMITERS.choose(&mut rand::rng()).copied().unwrap_or(":");
    let (started, up) = times(server);
    let up = format!("{} hr {:02} min {:02} sec", up / 3600, up / 60 % 60, up % 60);
    let lines = [
        ("Started", started.strftime("%a %b %e %H:%M:%S UTC %Y").to_string()),
        ("Up", up),
        ("Go version", "none".to_owned()),
        ("Binary version", "1.37.0".to_owned()),
        ("Emulation version", "1.37".to_owned()),
        ("Paths", paths(server).join(" ")),
    ];
    let lines: String = lines.iter().map(|(name, value)| format!("{name}{delimiter} {value}\n")).collect();
    format!("\n{COMPONENT} statusz\n{WARNING_TEXT}\n\n{lines}")
}

fn flags_value(server: &ApiServer) -> Value {
    let flags: Map<String, Value> = server.flags.iter().map(|(k, v)| (k.clone(), v.as_str().into())).collect();
    json!({"flags": flags})
}

fn flags_text(server: &ApiServer) -> String {
    let delimiter = DELIMITERS.choose(&mut rand::rng()).copied().unwrap_or(":");
    let lines: String = server.flags.iter().map(|(name, value)| format!("{name}{delimiter}{value}\n")).collect();
    format!("\n{COMPONENT} flagz\n{WARNING_TEXT}\n{lines}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(accept: &str, want: Option<&str>) {
        let got = negotiate(accept, "Flagz").map(|wanted| match wanted {
            Wanted::Text => "text",
            Wanted::Document(_, version) => version,
        });
        assert_eq!(got, want, "{accept}");
    }

    #[test]
    fn documents_are_asked_for_by_their_kind() {
        check("", Some("text"));
        check("*/*", Some("text"));
        check("application/json", None);
        check("application/json;as=Flagz;v=v1beta1;g=config.k8s.io", Some("v1beta1"));
        check("application/json;as=Statusz;v=v1beta1;g=config.k8s.io, text/plain", Some("text"));
        check("application/yaml;v=v1alpha1;g=config.k8s.io;as=Flagz", Some("v1alpha1"));
        check("application/cbor", None);
    }
}
