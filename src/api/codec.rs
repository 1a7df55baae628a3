//! Bodies to objects and back: JSON, YAML and protobuf by schema.
//!
//! Decoding leaves an object as Go prints it after reading the same body into the kind's struct, so that what is stored
//! does not depend on the encoding of the request. The errors are upstream's (apimachinery `runtime/serializer`,
//! apiserver `endpoints/handlers`).

mod conform;
mod convert;
mod json;
mod node;
pub mod protobuf;
mod scalars;
mod yaml;
mod yaml_text;

use serde_json::{Map, Value};

use self::node::Node;
pub use self::node::{MAX_DEPTH, settle_numbers};
pub use self::scalars::quote as go_quote;
pub use self::scalars::{parse_civil, parse_time, print_micro_time, print_time};
pub use self::yaml_text::to_yaml;
use crate::names::{GroupVersion, Gvk};
use crate::object::Object;
use crate::schema::Schema;
use crate::status::Status;

pub const JSON: &str = "application/json";
pub const YAML: &str = "application/yaml";
pub const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

/// How a body is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MediaType {
    Json,
    Yaml,
    Protobuf,
}

impl MediaType {
    /// Reads a Content-Type; parameters do not matter, none at all means JSON.
    pub fn of_body(content_type: &str) -> Result<Self, Status> {
        match content_type.split(';').next().unwrap_or_default().trim() {
            "" | JSON => Ok(Self::Json),
            YAML | "application/x-yaml" | "text/yaml" => Ok(Self::Yaml),
            PROTOBUF => Ok(Self::Protobuf),
            _ => Err(Status::unsupported_media_type(&[JSON, YAML, PROTOBUF])),
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Json => JSON,
            Self::Yaml => YAML,
            Self::Protobuf => PROTOBUF,
        }
    }
}

/// `?fieldValidation=`: what becomes of unknown and duplicate fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FieldValidation {
    Ignore,
    /// The server's default.
    #[default]
    Warn,
    Strict,
}

impl FieldValidation {
    /// `None` for a word that upstream refuses. Empty means the default.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "" | "Warn" => Some(Self::Warn),
            "Ignore" => Some(Self::Ignore),
            "Strict" => Some(Self::Strict),
            _ => None,
        }
    }
}

/// A decoded body.
#[derive(Debug, Clone, PartialEq)]
pub struct Decoded {
    pub object: Object,
    /// `Warning` headers (field validation `Warn`).
    pub warnings: Vec<String>,
}

/// Decodes a body of a kind. A body without `apiVersion` or `kind` is taken for `gvk`; other values are refused.
///
/// # Errors
/// 400, in upstream's words: syntax, types, another kind or version, strict field errors.
pub fn decode(
    body: &[u8],
    media: MediaType,
    schema: &Schema,
    gvk: &Gvk,
    validation: FieldValidation,
) -> Result<Decoded, Status> {
    decode_as(body, media, schema, gvk, validation, true)
}

/// Decodes options (`DeleteOptions` …), which clients send under any group and version.
pub fn decode_options(body: &[u8], media: MediaType, schema: &Schema, kind: &str) -> Result<Object, Status> {
    let gvk = Gvk::new("", "v1", kind);
    Ok(decode_as(body, media, schema, &gvk, FieldValidation::Ignore, false)?.object)
}

fn decode_as(
    body: &[u8],
    media: MediaType,
    schema: &Schema,
    gvk: &Gvk,
    validation: FieldValidation,
    same_version: bool,
) -> Result<Decoded, Status> {
    let unrecognised = |error: String| {
        let kind = &gvk.kind;
        let summary = summarise(body);
        Status::bad_request(format!(
            "the object provided is unrecognized (must be of type {kind}): {error} ({summary})"
        ))
    };
    let mut yaml_duplicates = Vec::new();
    let node = match media {
        MediaType::Protobuf => {
            let (found, map) = protobuf::decode(body, schema, gvk, |found| check_gvk(found, schema, gvk, same_version))
                .map_err(|e| match e {
                    protobuf::Error::Refused(status) => *status,
                    protobuf::Error::Malformed(text) => unrecognised(text),
                })?;
            let mut object = Object(map);
            object.set_gvk(&found);
            return Ok(Decoded { object, warnings: Vec::new() });
        }
        MediaType::Json => {
            json::parse(body).map_err(|e| unrecognised(format!("couldn't get version/kind; json parse error: {e}")))?
        }
        MediaType::Yaml => {
            let text =
                std::str::from_utf8(body).map_err(|_| unrecognised("yaml: invalid leading UTF-8 octet".to_owned()))?;
            let document = yaml::parse(text).map_err(&unrecognised)?;
            yaml_duplicates = document.duplicates;
            document.node
        }
    };
    let found = interpret(&node, gvk).map_err(unrecognised)?;
    check_gvk(&found, schema, gvk, same_version)?;
    let members = match node {
        Node::Object(members) => members,
        _ => Vec::new(),
    };
    let duplicates = yaml_error(yaml_duplicates);
    finish(members, duplicates, schema, gvk, &found, validation)
}

/// Conforms an object that was already parsed (the result of a patch).
pub fn decode_value(
    map: &Map<String, Value>,
    schema: &Schema,
    gvk: &Gvk,
    validation: FieldValidation,
) -> Result<Decoded, Status> {
    let node = Node::Object(Node::members(map));
    let found = interpret(&node, gvk).map_err(Status::bad_request)?;
    check_gvk(&found, schema, gvk, true)?;
    finish(Node::members(map), None, schema, gvk, &found, validation)
}

/// Decodes a body without a schema, telling kind and version apart from the body or else from `gvk` (options of the API
/// machinery, apply patches).
pub fn decode_unstructured(body: &[u8], media: MediaType, gvk: &Gvk) -> Result<Unstructured, Status> {
    let parse_error = |error: String| Status::bad_request(format!("error decoding object: {error}"));
    let (node, mut strict) = match media {
        MediaType::Protobuf => return Err(Status::unsupported_media_type(&[JSON, YAML])),
        MediaType::Json => {
            let node = json::parse(body)
                .map_err(|e| parse_error(format!("couldn't get version/kind; json parse error: {e}")))?;
            (node, Vec::new())
        }
        MediaType::Yaml => {
            let text = std::str::from_utf8(body).map_err(|e| parse_error(format!("yaml: {e}")))?;
            let document = yaml::parse(text).map_err(|e| parse_error(format!("error converting YAML to JSON: {e}")))?;
            (document.node, yaml_error(document.duplicates).into_iter().collect())
        }
    };
    let found = interpret(&node, gvk).map_err(parse_error)?;
    strict.extend(conform::duplicates(&node));
    let mut value = node.into_value();
    settle_numbers(&mut value);
    let mut object = Object::from_value(value).unwrap_or_default();
    object.set_gvk(&found);
    Ok(Unstructured { object, strict })
}

/// Decodes a custom resource, whose shape its structural schema checks later. `strict` in the result are the duplicate
/// fields, whatever the validation; the caller adds unknown ones and decides.
///
/// # Errors
/// 400 in upstream's words for what is no object with a kind; 415 for protobuf.
pub fn decode_custom(body: &[u8], media: MediaType, gvk: &Gvk) -> Result<Unstructured, Status> {
    let kind = &gvk.kind;
    let unrecognised = |error: String| {
        let summary = summarise(body);
        Status::bad_request(format!(
            "the object provided is unrecognized (must be of type {kind}): {error} ({summary})"
        ))
    };
    let (node, mut strict) = match media {
        MediaType::Protobuf => return Err(Status::unsupported_media_type(&[JSON, YAML])),
        MediaType::Json => {
            let node = json::parse(body)
                .map_err(|e| unrecognised(format!("couldn't get version/kind; json parse error: {e}")))?;
            (node, Vec::new())
        }
        MediaType::Yaml => {
            let text =
                std::str::from_utf8(body).map_err(|_| unrecognised("yaml: invalid leading UTF-8 octet".to_owned()))?;
            let document = yaml::parse(text).map_err(&unrecognised)?;
            (document.node, yaml_error(document.duplicates).into_iter().collect())
        }
    };
    interpret(&node, gvk).map_err(unrecognised)?;
    let named = |name: &str| matches!(node.member(name), Some(Node::String(text)) if !text.is_empty());
    if !named("kind") {
        let text = String::from_utf8_lossy(body);
        return Err(unrecognised(format!("Object 'Kind' is missing in '{text}'")));
    }
    strict.extend(conform::duplicates(&node));
    let mut value = node.into_value();
    settle_numbers(&mut value);
    Ok(Unstructured { object: Object::from_value(value).unwrap_or_default(), strict })
}

/// A body decoded without a schema.
#[derive(Debug, Clone, PartialEq)]
pub struct Unstructured {
    pub object: Object,
    /// `duplicate field "…"` and YAML's form of it.
    pub strict: Vec<String>,
}

/// Brings an object into the form that Go prints, by its schema: members that the schema does not know are dropped,
/// scalars become canonical, zero values are dropped or added.
///
/// # Errors
/// Go's text for a member of the wrong type; the object is then unchanged.
pub fn normalize(schema: &Schema, object: &mut Object) -> Result<(), String> {
    let conformed = conform::conform(schema, Node::members(&object.0));
    match conformed.error {
        Some(error) => Err(error),
        None => {
            object.0 = conformed.map;
            Ok(())
        }
    }
}

/// Conforms the members of a struct that stands alone (`ObjectMeta` of a custom resource): the members as Go prints
/// them, and the paths of those that the schema does not know.
///
/// # Errors
/// Go's text for a member of the wrong type.
pub fn conform_members(
    schema: &Schema,
    members: &Map<String, Value>,
) -> Result<(Map<String, Value>, Vec<String>), String> {
    let conformed = conform::conform(schema, Node::members(members));
    match conformed.error {
        Some(error) => Err(error),
        None => {
            let path = |text: &String| Some(text.strip_prefix("unknown field \"")?.strip_suffix('"')?.to_owned());
            let unknown = conformed.strict.iter().filter_map(path).collect();
            Ok((conformed.map, unknown))
        }
    }
}

fn finish(
    members: Vec<(std::borrow::Cow<'_, str>, Node<'_>)>,
    duplicates: Option<String>,
    schema: &Schema,
    gvk: &Gvk,
    found: &Gvk,
    validation: FieldValidation,
) -> Result<Decoded, Status> {
    let conformed = conform::conform(schema, members);
    let refused = |why: &str| {
        let (kind, version) = (&found.kind, &found.version);
        Status::bad_request(format!("{kind} in version \"{version}\" cannot be handled as a {}: {why}", gvk.kind))
    };
    if let Some(error) = &conformed.error {
        return Err(refused(error));
    }
    let strict: Vec<String> = duplicates.into_iter().chain(conformed.strict).collect();
    let warnings = match validation {
        FieldValidation::Ignore => Vec::new(),
        FieldValidation::Warn => strict,
        FieldValidation::Strict if strict.is_empty() => strict,
        FieldValidation::Strict => return Err(refused(&strict_error(&strict))),
    };
    let mut object = Object(conformed.map);
    object.set_gvk(found);
    Ok(Decoded { object, warnings })
}

/// What [`decode_value`] takes where upstream reads a document by its converter from maps: its numbers are made fit.
///
/// # Errors
/// The converter's text for a value of the wrong type.
pub fn fit(schema: &Schema, object: &mut Object) -> Result<(), String> {
    convert::fit(schema, &mut object.0)
}

/// One JSON value and nothing after it.
///
/// # Errors
/// Go's text of what is wrong with it.
pub fn json_value(text: &[u8]) -> Result<Value, String> {
    json::parse(text).map(node::Node::into_value)
}

/// The first document of YAML.
///
/// # Errors
/// Why it cannot be read.
pub fn yaml_value(text: &[u8]) -> Result<Value, String> {
    let text = std::str::from_utf8(text).map_err(|error| error.to_string())?;
    yaml::parse(text).map(|document| document.node.into_value())
}

/// Fields that a JSON document has twice, worded as strict decoding does; nothing for what is no JSON.
pub fn duplicates(body: &[u8]) -> Vec<String> {
    json::parse(body).map(|node| conform::duplicates(&node)).unwrap_or_default()
}

/// Go's word for a value in errors of decoding (`json.UnmarshalTypeError.Value`).
pub fn go_word(value: &Value) -> &'static str {
    Node::from_value(value).go_word()
}

/// `runtime.strictDecodingError`.
pub fn strict_error(strict: &[String]) -> String {
    format!("strict decoding error: {}", strict.join(", "))
}

/// go-yaml's `TypeError` of duplicate keys.
fn yaml_error(duplicates: Vec<String>) -> Option<String> {
    let lines: Vec<String> = duplicates.into_iter().map(|line| format!("  {line}")).collect();
    (!lines.is_empty()).then(|| format!("yaml: unmarshal errors:\n{}", lines.join("\n")))
}

/// What a body says it is (apimachinery `SimpleMetaFactory.Interpret`), with defaults for what it does not say.
fn interpret(node: &Node<'_>, default: &Gvk) -> Result<Gvk, String> {
    // Go's own decoder, which looks at these two, takes letters of any case.
    let member = |name: &str| match node {
        Node::Object(members) => {
            members.iter().rev().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
        }
        _ => None,
    };
    let text = |name: &str, go: &str| match member(name) {
        None | Some(Node::Null) => Ok(String::new()),
        Some(Node::String(text)) => Ok(text.to_string()),
        Some(other) => Err(format!(
            "couldn't get version/kind; json parse error: json: cannot unmarshal {} into Go struct field .{go} of type string",
            other.go_word()
        )),
    };
    if !matches!(node, Node::Object(_) | Node::Null) {
        return Err(format!(
            "couldn't get version/kind; json parse error: json: cannot unmarshal {} into Go value of type struct \
             {{ APIVersion string \"json:\\\"apiVersion,omitempty\\\"\"; Kind string \"json:\\\"kind,omitempty\\\"\" }}",
            node.go_word()
        ));
    }
    let (api_version, kind) = (text("apiVersion", "apiVersion")?, text("kind", "kind")?);
    let kind = if kind.is_empty() { default.kind.clone() } else { kind };
    if matches!(api_version.as_str(), "" | "/") {
        return Ok(Gvk { kind, ..default.clone() });
    }
    match GroupVersion::read(&api_version) {
        Some(gv) => Ok(Gvk::new(gv.group, gv.version, kind)),
        None => Err(format!("unexpected GroupVersion string: {api_version}")),
    }
}

fn check_gvk(found: &Gvk, schema: &Schema, gvk: &Gvk, same_version: bool) -> Result<(), Status> {
    if found == gvk {
        return Ok(());
    }
    let known = is_registered(schema, found);
    if found.kind != gvk.kind || !known && same_version {
        let why = if known {
            let package = gvk.group.split('.').next().filter(|g| !g.is_empty()).unwrap_or("core");
            format!("converting ({}.{}) to ({package}.{}): unknown conversion", found.version, found.kind, gvk.kind)
        } else {
            format!(
                "no kind \"{}\" is registered for version \"{}\" in scheme \"pkg/api/legacyscheme/scheme.go:30\"",
                found.kind,
                found.api_version()
            )
        };
        let (kind, version) = (&found.kind, &found.version);
        let text = format!("{kind} in version \"{version}\" cannot be handled as a {}: {why}", gvk.kind);
        return Err(Status::bad_request(text));
    }
    if same_version && (found.group != gvk.group || found.version != gvk.version) {
        return Err(Status::bad_request(format!(
            "the API version in the data ({}) does not match the expected API version ({})",
            found.api_version(),
            gvk.api_version()
        )));
    }
    Ok(())
}

/// Whether the table has a type of this group, version and kind.
fn is_registered(schema: &Schema, gvk: &Gvk) -> bool {
    let group = gvk.group.split('.').next().filter(|group| !group.is_empty()).unwrap_or("core");
    schema.types.iter().any(|(_, def)| {
        let mut parts = def.name.rsplit('.');
        let (kind, version, package) = (parts.next(), parts.next(), parts.next());
        // rbac.authorization.k8s.io is the package rbac, but authorization.k8s.io authorization: the first label each.
        kind == Some(gvk.kind.as_str()) && version == Some(gvk.version.as_str()) && package == Some(group)
    })
}

/// apiserver `summarizeData(body, 30)`.
fn summarise(body: &[u8]) -> String {
    let head = &body[..body.len().min(30)];
    let more = if body.len() > 30 { " ..." } else { "" };
    match body.first() {
        None => "<empty>".to_owned(),
        Some(b'{') => format!("{}{more}", String::from_utf8_lossy(head)),
        Some(_) => {
            use std::fmt::Write;
            let mut hex = String::with_capacity(64);
            for byte in head {
                let _ = write!(hex, "{byte:02x}");
            }
            hex + more
        }
    }
}
