//! Types, and the declarations of variables: a type with the sizes that a schema allows.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, LazyLock};

use serde_json::Value as Json;

use super::value::ListKind;
use crate::schema::{self, Schema, TypeId};

/// The type of an expression.
#[derive(Debug, Clone)]
pub enum Type {
    Dyn,
    /// As [`Self::Dyn`], but nothing that can be gone through (`google.protobuf.Any`).
    Any,
    /// Of what cannot be right; whatever it is used for raises no more problems.
    Error,
    Null,
    Bool,
    Int,
    Uint,
    Double,
    String,
    Bytes,
    Timestamp,
    Duration,
    List(Arc<Type>),
    Map(Arc<Type>, Arc<Type>),
    /// An object with known fields.
    Object(Arc<ObjectType>),
    Optional(Arc<Type>),
    /// A type of a library: `kubernetes.Quantity`, `net.IP` …
    Named(&'static str),
    /// The type of a type.
    Type,
    /// A parameter of a function's declaration.
    Param(&'static str),
    /// A parameter of one call, to be found.
    Var(u32),
}

/// See [`Type::Object`].
#[derive(Debug, Default)]
pub struct ObjectType {
    pub name: String,
    /// By escaped name ([`escape`]).
    pub fields: BTreeMap<String, Arc<Decl>>,
}

impl PartialEq for Type {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::List(a), Self::List(b)) | (Self::Optional(a), Self::Optional(b)) => a == b,
            (Self::Map(a, b), Self::Map(c, d)) => a == c && b == d,
            (Self::Object(a), Self::Object(b)) => Arc::ptr_eq(a, b) || a.name == b.name,
            (Self::Named(a), Self::Named(b)) | (Self::Param(a), Self::Param(b)) => a == b,
            (Self::Var(a), Self::Var(b)) => a == b,
            (a, b) => std::mem::discriminant(a) == std::mem::discriminant(b),
        }
    }
}

impl Type {
    /// cel-go's `TypeName`: without parameters.
    pub(super) fn go_name(&self) -> String {
        match self {
            Self::Null => "null_type".to_owned(),
            Self::List(_) => "list".to_owned(),
            Self::Map(..) => "map".to_owned(),
            Self::Optional(_) => "optional_type".to_owned(),
            Self::Timestamp => "google.protobuf.Timestamp".to_owned(),
            Self::Duration => "google.protobuf.Duration".to_owned(),
            other => other.to_string(),
        }
    }
}

impl fmt::Display for Type {
    /// As cel-go prints it in errors.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dyn => f.write_str("dyn"),
            Self::Any => f.write_str("any"),
            Self::Error => f.write_str("!error!"),
            Self::Null => f.write_str("null"),
            Self::Bool => f.write_str("bool"),
            Self::Int => f.write_str("int"),
            Self::Uint => f.write_str("uint"),
            Self::Double => f.write_str("double"),
            Self::String => f.write_str("string"),
            Self::Bytes => f.write_str("bytes"),
            Self::Timestamp => f.write_str("timestamp"),
            Self::Duration => f.write_str("duration"),
            Self::List(item) => write!(f, "list({item})"),
            Self::Map(key, value) => write!(f, "map({key}, {value})"),
            Self::Object(object) => f.write_str(&object.name),
            Self::Optional(inner) => write!(f, "optional_type({inner})"),
            Self::Named(name) | Self::Param(name) => f.write_str(name),
            Self::Type => f.write_str("type"),
            Self::Var(n) => write!(f, "_var{n}"),
        }
    }
}

/// A declared variable, field or element: its type, and what its schema says of sizes.
#[derive(Debug, Clone)]
pub struct Decl {
    pub ty: Type,
    /// The most characters, bytes, items or entries there can be; `None` if nobody knows.
    pub max: Option<u64>,
    /// Of lists and maps: the element or value.
    pub items: Option<Arc<Decl>>,
    /// Of lists: what tells their elements apart.
    pub list: ListKind,
    /// The least that it takes up in JSON.
    min_serialized: u64,
}

/// Bytes that a request can have (`celconfig.MaxRequestSizeBytes`).
const REQUEST_MAX: u64 = 3 * 1024 * 1024;
const MIN_STRING: u64 = 2;
const MIN_BOOL: u64 = 4;
const MIN_NUMBER: u64 = 1;
const MIN_DURATION: u64 = 4;
const MAX_DURATION: u64 = 32;
const DATE_SIZE: u64 = 12;
const MIN_DATETIME: u64 = 21;
const MAX_DATETIME: u64 = 37;

impl Decl {
    /// A variable of a type about whose size nothing is known.
    pub fn new(ty: Type) -> Self {
        Self { ty, max: None, items: None, list: ListKind::Atomic, min_serialized: 0 }
    }

    /// A variable that anything may be in.
    pub fn dynamic() -> Self {
        Self::new(Type::Dyn)
    }

    fn sized(ty: Type, max: Option<u64>, min_serialized: u64) -> Self {
        Self { ty, max, items: None, list: ListKind::Atomic, min_serialized }
    }

    /// An object with these fields (by their escaped names).
    pub fn object(name: &str, fields: impl IntoIterator<Item = (String, Decl)>) -> Self {
        let fields = fields.into_iter().map(|(name, decl)| (name, Arc::new(decl))).collect();
        Self::sized(Type::Object(Arc::new(ObjectType { name: name.to_owned(), fields })), None, 2)
    }

    pub fn list(items: Decl, max: Option<u64>) -> Self {
        let ty = Type::List(Arc::new(items.ty.clone()));
        Self { ty, max, items: Some(Arc::new(items)), list: ListKind::Atomic, min_serialized: 2 }
    }

    /// A map with string keys.
    pub fn map(values: Decl, max: Option<u64>) -> Self {
        let ty = Type::Map(Arc::new(Type::String), Arc::new(values.ty.clone()));
        Self { ty, max, items: Some(Arc::new(values)), list: ListKind::Atomic, min_serialized: 2 }
    }

    /// How many values of this kind one request can hold, by the least that each takes up (apiextensions-apiserver
    /// `cel.maxCardinality`).
    pub fn max_cardinality(&self) -> u64 {
        REQUEST_MAX / (self.min_serialized + 1)
    }

    /// A key of a map, to which upstream gives the size 0.
    pub(super) fn key() -> Self {
        Self::sized(Type::String, Some(0), MIN_STRING)
    }

    /// A field by its escaped name.
    pub fn field(&self, name: &str) -> Option<&Arc<Decl>> {
        match &self.ty {
            Type::Object(object) => object.fields.get(name),
            Type::Map(..) => self.items.as_ref(),
            _ => None,
        }
    }

    /// The declaration that an OpenAPI v3 (structural) schema means; `None` if it is not visible to expressions.
    /// `root`: of a resource, which has `apiVersion`, `kind` and `metadata` (`SchemaDeclType`).
    pub fn from_json_schema(schema: &Json, root: bool) -> Option<Self> {
        // Upstream puts the clock's nanoseconds behind it, so that no two environments have the same name.
        json_schema(schema, root, "selfType0")
    }

    /// The declaration of a kind that is built in (for type-checking policies).
    pub fn from_schema(schema: &Schema) -> Self {
        let mut path = Vec::new();
        struct_decl(&schema.types, schema.root, &mut path)
    }
}

fn member<'v>(schema: &'v Json, name: &str) -> Option<&'v Json> {
    schema.get(name).filter(|v| !v.is_null())
}

fn number(schema: &Json, name: &str) -> Option<u64> {
    member(schema, name).and_then(Json::as_i64).map(|n| u64::try_from(n).unwrap_or(0))
}

fn flag(schema: &Json, name: &str) -> bool {
    member(schema, name).and_then(Json::as_bool).unwrap_or(false)
}

fn json_schema(schema: &Json, root: bool, path: &str) -> Option<Decl> {
    if flag(schema, "x-kubernetes-int-or-string") {
        let max = number(schema, "maxLength").map_or(REQUEST_MAX - 2, |n| n.saturating_mul(4));
        return Some(Decl::sized(Type::Dyn, Some(max), 1));
    }
    let kind = if root { "object" } else { member(schema, "type").and_then(Json::as_str).unwrap_or_default() };
    let embedded = |schema: &Json| flag(schema, "x-kubernetes-embedded-resource");
    Some(match kind {
        "array" => {
            let items = member(schema, "items")?;
            let items = json_schema(items, embedded(items), &format!("{path}.@idx"))?;
            let max = number(schema, "maxItems").unwrap_or((REQUEST_MAX - 2) / (items.min_serialized + 1));
            Decl { list: list_kind(schema), ..Decl::list(items, Some(max)) }
        }
        "object" => {
            if let Some(values) = member(schema, "additionalProperties").filter(|v| v.is_object()) {
                let values = json_schema(values, embedded(values), &format!("{path}.@elem"))?;
                let max = number(schema, "maxProperties").unwrap_or((REQUEST_MAX - 2) / (values.min_serialized + 6));
                return Some(Decl::map(values, Some(max)));
            }
            object_schema(schema, root, path)
        }
        "string" => {
            let max_length = number(schema, "maxLength");
            match member(schema, "format").and_then(Json::as_str).unwrap_or_default() {
                "byte" => Decl::sized(Type::Bytes, Some(max_length.unwrap_or(REQUEST_MAX - 2)), MIN_STRING),
                "duration" => Decl::sized(Type::Duration, Some(MAX_DURATION), MIN_DURATION),
                "date" => Decl::sized(Type::Timestamp, Some(DATE_SIZE), DATE_SIZE),
                "date-time" => Decl::sized(Type::Timestamp, Some(MAX_DATETIME), MIN_DATETIME),
                _ => {
                    let enums = member(schema, "enum").and_then(Json::as_array).filter(|e| !e.is_empty());
                    let longest = |all: &Vec<Json>| {
                        all.iter().filter_map(Json::as_str).map(|s| s.len() as u64).max().unwrap_or(0)
                    };
                    // Up to four bytes for a character.
                    let max = match (max_length, enums) {
                        (Some(n), _) => n.saturating_mul(4),
                        (None, Some(all)) => longest(all),
                        (None, None) => REQUEST_MAX - 2,
                    };
                    Decl::sized(Type::String, Some(max), MIN_STRING)
                }
            }
        }
        "boolean" => Decl::sized(Type::Bool, Some(0), MIN_BOOL),
        "number" => Decl::sized(Type::Double, Some(0), MIN_NUMBER),
        "integer" => Decl::sized(Type::Int, Some(0), MIN_NUMBER),
        _ => return None,
    })
}

/// `x-kubernetes-list-type` with its keys, as expressions name them.
fn list_kind(schema: &Json) -> ListKind {
    match member(schema, "x-kubernetes-list-type").and_then(Json::as_str) {
        Some("set") => ListKind::Set,
        Some("map") => {
            let keys = member(schema, "x-kubernetes-list-map-keys").and_then(Json::as_array);
            let keys = keys.into_iter().flatten().filter_map(Json::as_str);
            ListKind::Map(keys.map(|key| escape(key).map_or_else(|| key.into(), |key| (*key).into())).collect())
        }
        _ => ListKind::Atomic,
    }
}

fn object_schema(schema: &Json, root: bool, path: &str) -> Decl {
    let required: Vec<&str> =
        member(schema, "required").and_then(Json::as_array).into_iter().flatten().filter_map(Json::as_str).collect();
    let mut fields = BTreeMap::new();
    // An object takes up `{}` at least.
    let mut min_serialized = 2;
    let mut add = |name: &str, decl: Decl, needed: bool| {
        if needed {
            min_serialized += name.len() as u64 + decl.min_serialized + 4;
        }
        if let Some(escaped) = escape(name) {
            fields.insert(escaped.into_owned(), Arc::new(decl));
        }
    };
    if root {
        let text = || Decl::sized(Type::String, Some(REQUEST_MAX - 2), MIN_STRING);
        add("kind", text(), false);
        add("apiVersion", text(), false);
        let named = [("name".to_owned(), text()), ("generateName".to_owned(), text())];
        let metadata = Decl::object(&format!("{path}.metadata"), named);
        add("metadata", Decl { max: Some(0), ..metadata }, false);
    }
    for (name, property) in member(schema, "properties").and_then(Json::as_object).into_iter().flatten() {
        if root && matches!(name.as_str(), "kind" | "apiVersion" | "metadata") {
            continue;
        }
        let embedded = flag(property, "x-kubernetes-embedded-resource");
        let Some(decl) = json_schema(property, embedded, &format!("{path}.{name}")) else { continue };
        let needed = required.contains(&name.as_str()) && member(property, "default").is_none();
        add(name, decl, needed);
    }
    let ty = Type::Object(Arc::new(ObjectType { name: path.to_owned(), fields }));
    // Upstream gives objects and numbers the size 0.
    Decl::sized(ty, Some(0), min_serialized)
}

/// A built-in struct. Types that contain themselves (JSON schemas) end as `dyn`.
fn struct_decl(types: &schema::Types, id: TypeId, path: &mut Vec<TypeId>) -> Decl {
    if path.contains(&id) {
        return Decl::dynamic();
    }
    path.push(id);
    let def = types.def(id);
    let fields: Vec<(String, Decl)> = def
        .fields
        .iter()
        .filter_map(|field| Some((escape(&field.name)?.into_owned(), type_decl(types, &field.ty, path))))
        .collect();
    path.pop();
    Decl::object(&def.name, fields)
}

fn type_decl(types: &schema::Types, ty: &schema::Type, path: &mut Vec<TypeId>) -> Decl {
    use schema::Type as T;
    match ty {
        T::Bool => Decl::new(Type::Bool),
        T::Int32 | T::Int64 => Decl::new(Type::Int),
        T::Double => Decl::new(Type::Double),
        T::String => Decl::new(Type::String),
        T::Bytes => Decl::new(Type::Bytes),
        // `IntOrString` and `Quantity` are of more than one JSON type, or shown as text.
        T::Quantity | T::IntOrString => Decl::dynamic(),
        T::Time | T::MicroTime => Decl::new(Type::Timestamp),
        T::Duration => Decl::new(Type::String),
        T::RawExtension | T::FieldsV1 | T::Json | T::SchemaOr(..) => Decl::dynamic(),
        T::Struct(id) => struct_decl(types, *id, path),
        T::List(item) => Decl::list(type_decl(types, item, path), None),
        T::Map(value) => Decl::map(type_decl(types, value, path), None),
    }
}

/// Words that identifiers may not be.
pub(super) const RESERVED: &[&str] = &[
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

/// The identifier by which expressions name a property; `None` if they cannot (`apiservercel.Escape`).
pub fn escape(name: &str) -> Option<Cow<'_, str>> {
    let first = name.chars().next()?;
    if first.is_ascii_digit() {
        return None;
    }
    if RESERVED.contains(&name) {
        return Some(Cow::Owned(format!("__{name}__")));
    }
    if name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') && !name.contains("__") {
        return Some(Cow::Borrowed(name));
    }
    let mut out = String::new();
    let mut rest = name;
    while let Some(c) = rest.chars().next() {
        if let Some(after) = rest.strip_prefix("__") {
            out.push_str("__underscores__");
            rest = after;
            continue;
        }
        match c {
            '.' => out.push_str("__dot__"),
            '-' => out.push_str("__dash__"),
            '/' => out.push_str("__slash__"),
            c if c.is_ascii_alphanumeric() || c == '_' => out.push(c),
            _ => return None,
        }
        rest = &rest[c.len_utf8()..];
    }
    Some(Cow::Owned(out))
}

/// Type names that are identifiers of their own.
pub(super) fn type_by_name(name: &str) -> Option<&'static str> {
    static NAMES: LazyLock<Vec<&'static str>> = LazyLock::new(|| {
        vec![
            "bool",
            "bytes",
            "double",
            "int",
            "list",
            "map",
            "null_type",
            "string",
            "type",
            "uint",
            "optional_type",
            "google.protobuf.Timestamp",
            "google.protobuf.Duration",
            "net.IP",
            "net.CIDR",
        ]
    });
    NAMES.iter().find(|known| **known == name).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_are_escaped_as_upstream_does() {
        let check = |name: &str, want: Option<&str>| assert_eq!(escape(name).as_deref(), want, "{name}");
        check("plain", Some("plain"));
        check("a.b-c/d", Some("a__dot__b__dash__c__slash__d"));
        check("a__b", Some("a__underscores__b"));
        check("namespace", Some("__namespace__"));
        check("1st", None);
        check("a b", None);
        check("", None);
    }

    #[test]
    fn schemas_say_how_large_things_get() {
        let schema = json!({"type": "object", "properties": {
            "short": {"type": "string", "maxLength": 10},
            "list": {"type": "array", "items": {"type": "integer"}},
            "few": {"type": "array", "maxItems": 3, "items": {"type": "string"}},
            "map": {"type": "object", "additionalProperties": {"type": "string"}},
        }});
        let decl = Decl::from_json_schema(&schema, false).unwrap();
        let check = |field: &str, want: u64| assert_eq!(decl.field(field).unwrap().max, Some(want), "{field}");
        check("short", 40);
        check("list", (REQUEST_MAX - 2) / 2);
        check("few", 3);
        check("map", (REQUEST_MAX - 2) / 8);
    }
}
