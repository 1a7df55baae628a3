//! Which form of an answer the client wants (apiserver `endpoints/handlers/negotiation`).

use api::Status;
use http::HeaderMap;
use http::header::{ACCEPT, USER_AGENT};

use crate::query::Query;

pub const JSON: &str = "application/json";
pub const YAML: &str = "application/yaml";
pub const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Json,
    Yaml,
    Protobuf,
}

impl Format {
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Json => JSON,
            Self::Yaml => YAML,
            Self::Protobuf => PROTOBUF,
        }
    }
}

/// What answers may be turned into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shapes {
    None,
    /// Their metadata alone: what has no table convertor.
    Metadata,
    All,
}

/// What an object is turned into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    Object,
    Table,
    PartialMetadata,
    PartialMetadataList,
}

/// The form that was agreed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accept {
    pub format: Format,
    pub shape: Shape,
    /// `v1` or `v1beta1` of a shape.
    pub beta: bool,
    pub pretty: bool,
}

impl Accept {
    pub const JSON: Self = Self { format: Format::Json, shape: Shape::Object, beta: false, pretty: false };

    /// `apiVersion` of a table or metadata object.
    pub fn meta_version(self) -> &'static str {
        if self.beta { "meta.k8s.io/v1beta1" } else { "meta.k8s.io/v1" }
    }
}

/// Agrees on a form; `protobuf`: the kind has that form.
pub fn negotiate(headers: &HeaderMap, query: &Query, shapes: Shapes, protobuf: bool) -> Result<Accept, Status> {
    let pretty = wants_pretty(headers, query);
    let all: Vec<&str> = headers.get_all(ACCEPT).iter().filter_map(|v| v.to_str().ok()).collect();
    let accept = all.join(",");
    if accept.trim().is_empty() {
        return Ok(Accept { pretty, ..Accept::JSON });
    }
    let mut clauses: Vec<(u32, &str)> = accept.split(',').map(|c| (quality(c), c)).collect();
    // The sort is stable: equal qualities keep the client's order.
    clauses.sort_by_key(|(quality, _)| std::cmp::Reverse(*quality));
    clauses
        .into_iter()
        .find_map(|(_, clause)| accept_clause(clause, shapes, protobuf))
        .map(|a| Accept { pretty: pretty || a.pretty, ..a })
        .ok_or_else(|| Status::not_acceptable(&[JSON, YAML, PROTOBUF]))
}

/// The parameters of a clause of `Accept`.
pub(crate) fn parameters(clause: &str) -> impl Iterator<Item = (&str, &str)> {
    clause
        .split(';')
        .skip(1)
        .filter_map(|p| p.trim().split_once('='))
        .map(|(k, v)| (k.trim(), v.trim().trim_matches('"')))
}

/// How much a clause of `Accept` is wanted, in thousandths.
pub(crate) fn quality(clause: &str) -> u32 {
    parameters(clause)
        .find(|(k, _)| *k == "q")
        .and_then(|(_, v)| v.parse::<f32>().ok())
        .map_or(1000, |q| (q * 1000.0) as u32)
}

fn accept_clause(clause: &str, shapes: Shapes, protobuf: bool) -> Option<Accept> {
    let format = match clause.split(';').next().unwrap_or_default().trim() {
        JSON | "*/*" | "application/*" => Format::Json,
        YAML => Format::Yaml,
        PROTOBUF if protobuf => Format::Protobuf,
        // Metadata has that form whatever the kind has.
        PROTOBUF
            if shapes != Shapes::None && parameters(clause).any(|(k, v)| k == "as" && v.starts_with("Partial")) =>
        {
            Format::Protobuf
        }
        _ => return None,
    };
    let (mut kind, mut group, mut version, mut pretty) = ("", "", "", false);
    for (key, value) in parameters(clause) {
        match key {
            "as" => kind = value,
            "g" => group = value,
            "v" => version = value,
            "pretty" => pretty = value == "1",
            // `EndpointRestrictions.AllowsStreamSchema`; YAML has no stream.
            "stream" if !value.is_empty() && (value != "watch" || format == Format::Yaml) => return None,
            _ => {}
        }
    }
    let plain = Accept { format, pretty, ..Accept::JSON };
    if kind.is_empty() {
        return Some(plain);
    }
    let beta = match (group, version) {
        _ if shapes == Shapes::None => return None,
        ("meta.k8s.io", "v1") => false,
        ("meta.k8s.io", "v1beta1") => true,
        _ => return None,
    };
    let shape = match kind {
        "Table" if format != Format::Protobuf && shapes == Shapes::All => Shape::Table,
        "PartialObjectMetadata" => Shape::PartialMetadata,
        "PartialObjectMetadataList" => Shape::PartialMetadataList,
        _ => return None,
    };
    Some(Accept { shape, beta, ..plain })
}

fn wants_pretty(headers: &HeaderMap, query: &Query) -> bool {
    if let Some(pretty) = query.get("pretty") {
        // Go's `strconv.ParseBool`.
        return matches!(pretty, "1" | "t" | "T" | "true" | "TRUE" | "True");
    }
    let agent = headers.get(USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    ["curl", "Wget", "Mozilla/5.0"].iter().any(|a| agent.starts_with(a))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(accept: &str, want: Option<(Format, Shape, bool)>) {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, accept.parse().unwrap());
        let got = negotiate(&headers, &Query::default(), Shapes::All, true).ok().map(|a| (a.format, a.shape, a.beta));
        assert_eq!(got, want, "{accept}");
    }

    #[test]
    fn the_first_form_the_server_has_wins() {
        check(
            "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json",
            Some((Format::Json, Shape::Table, false)),
        );
        check(
            "application/json;as=Table;v=v2;g=meta.k8s.io, application/json",
            Some((Format::Json, Shape::Object, false)),
        );
        check("application/vnd.kubernetes.protobuf,application/json", Some((Format::Protobuf, Shape::Object, false)));
        check("application/yaml", Some((Format::Yaml, Shape::Object, false)));
        check("text/html, */*;q=0.8", Some((Format::Json, Shape::Object, false)));
        check("application/json;q=0.5, application/yaml", Some((Format::Yaml, Shape::Object, false)));
        check("text/html", None);
        check("application/json;stream=watch", Some((Format::Json, Shape::Object, false)));
        check("application/json;stream=bogus", None);
    }
}
