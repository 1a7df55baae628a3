//! Reads the tables of facts that `cargo run -p xtask -- schema` writes.
//!
//! **Types.** A struct is a line `=NAME [atomic]`; its fields follow, one a line: `JSON-NAME TYPE NUMBER FLAG…`.
//! A type is a word of [`Type`] (`int32`, `quantity` …), a struct's name (with a leading dot: of the same package), and
//! before it `[]` for a list or `{}` for a map. The number is the protobuf number, with those of wrapping messages before
//! it (`2.1`). Flags: `*` pointer; `always` and `zero` for [`Presence`]; `required`; `message` for
//! [`Field::list_message`]; `list=atomic|set|map:KEYS`; `atomic`, `granular`; `patch=`; `key=`; `go=`; `enum=A|B` (`~` is a space);
//! and last `default=` with JSON to the end of the line.
//!
//! **Resources.** `GROUP VERSION RESOURCE SINGULAR KIND SCOPE TYPE VERBS [short=…] [categories=…]`, where `-` is the core
//! group; then, each after a space, its subresources: `NAME GROUP VERSION KIND TYPE VERBS`.
//!
//! The tables are part of the program and covered by tests, so a malformed line is a broken invariant: parsing panics and
//! names the line.

use std::collections::HashMap;

use crate::names::Gvk;
use crate::schema::{Field, FieldExtra, ListType, Presence, SchemaOr, Str, StructDef, Type, TypeId, Types};

/// What discovery says of a built-in resource.
#[derive(Debug, Clone)]
pub struct ResourceFacts {
    pub gvk: Gvk,
    pub list_kind: String,
    /// Plural, as in the URL.
    pub resource: &'static str,
    pub singular: &'static str,
    pub namespaced: bool,
    /// Name of the kind's struct in the table of types.
    pub type_name: &'static str,
    pub verbs: &'static [&'static str],
    pub short_names: Vec<&'static str>,
    pub categories: Vec<&'static str>,
    pub subresources: Vec<SubresourceFacts>,
}

#[derive(Debug, Clone)]
pub struct SubresourceFacts {
    pub name: &'static str,
    /// What its bodies are; the parent's unless it differs (`Scale`, `Eviction`, `PodExecOptions` …).
    pub gvk: Gvk,
    pub type_name: &'static str,
    pub verbs: &'static [&'static str],
}

/// Reads the table of types.
pub fn parse_types(text: &'static str) -> Types {
    let mut ids = HashMap::new();
    for line in text.lines().filter_map(|line| line.strip_prefix('=')) {
        let id = TypeId(ids.len() as u32);
        ids.insert(line.split(' ').next().unwrap_or_default(), id);
    }
    let mut defs: Vec<StructDef> = Vec::with_capacity(ids.len());
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        if let Some(head) = line.strip_prefix('=') {
            if let Some(last) = defs.last_mut() {
                last.fields.shrink_to_fit();
            }
            let (name, flags) = head.split_once(' ').unwrap_or((head, ""));
            defs.push(StructDef { name: Str::Borrowed(name), atomic: flags == "atomic", ..StructDef::default() });
        } else {
            let Some(def) = defs.last_mut() else { panic!("a field before the first struct: {line}") };
            let package = def.name.rsplit_once('.').map_or("", |(package, _)| package).to_owned();
            let field = parse_field(line, &package, &ids);
            def.fields.push(field);
        }
    }
    Types::new(defs)
}

fn parse_field(line: &'static str, package: &str, ids: &HashMap<&'static str, TypeId>) -> Field {
    let mut parts = line.splitn(4, ' ');
    let (Some(name), Some(ty), Some(numbers)) = (parts.next(), parts.next(), parts.next()) else {
        panic!("a field needs a name, a type and a number: {line}")
    };
    let mut field = Field { name: Str::Borrowed(name), ty: parse_type(ty, package, ids), ..Field::default() };
    let numbers: Vec<u16> = numbers.split('.').map(|n| n.parse().unwrap_or_else(|_| panic!("{line}"))).collect();
    match numbers.as_slice() {
        [n] => field.proto = u32::from(*n),
        [a, n] => (field.proto, field.wrap) = (u32::from(*n), [*a, 0]),
        [a, b, n] => (field.proto, field.wrap) = (u32::from(*n), [*a, *b]),
        _ => panic!("too many numbers: {line}"),
    }
    let flags = parts.next().unwrap_or_default();
    let (flags, default) = match flags.split_once("default=") {
        Some((flags, default)) => (flags, Some(default)),
        None => (flags, None),
    };
    if let Some(default) = default {
        field.default = Some(serde_json::from_str(default).unwrap_or_else(|e| panic!("{line}: {e}")));
    }
    for flag in flags.split_ascii_whitespace() {
        apply_flag(&mut field, flag, line);
    }
    field
}

fn apply_flag(field: &mut Field, flag: &'static str, line: &str) {
    match flag.split_once('=') {
        None => match flag {
            "*" => field.pointer = true,
            "always" => field.presence = Presence::Always,
            "zero" => field.presence = Presence::OmitZero,
            "required" => field.required = true,
            "message" => field.list_message = true,
            "atomic" => field.atomic = true,
            "granular" => field.granular = true,
            _ => panic!("unknown flag {flag}: {line}"),
        },
        Some(("list", value)) => {
            field.list_declared = true;
            field.list = match value.split_once(':') {
                Some(("map", keys)) => {
                    field.list_map_keys = keys.split(',').map(Str::Borrowed).collect();
                    ListType::Map
                }
                None if value == "set" => ListType::Set,
                None if value == "atomic" => ListType::Atomic,
                _ => panic!("unknown list type: {line}"),
            };
        }
        Some(("patch", value)) => {
            for strategy in value.split(',') {
                match strategy {
                    "merge" => field.patch.merge = true,
                    "retainKeys" => field.patch.retain_keys = true,
                    "replace" => field.patch.replace = true,
                    _ => panic!("unknown patch strategy: {line}"),
                }
            }
        }
        Some(("key", value)) => field.patch_merge_key = Some(Str::Borrowed(value)),
        Some(("go", value)) => extra(field).go_name = Str::Borrowed(value),
        Some(("enum", value)) => extra(field).enums = value.split('|').map(enum_value).collect(),
        Some(_) => panic!("unknown flag {flag}: {line}"),
    }
}

fn enum_value(text: &'static str) -> Str {
    if text.contains('~') { Str::Owned(text.replace('~', " ")) } else { Str::Borrowed(text) }
}

fn extra(field: &mut Field) -> &mut FieldExtra {
    field.extra.get_or_insert_default()
}

fn parse_type(text: &str, package: &str, ids: &HashMap<&'static str, TypeId>) -> Type {
    let id = |name: &str| ids.get(name).copied().unwrap_or_else(|| panic!("no type {name}"));
    let schema_props = || id(&format!("{package}.JSONSchemaProps"));
    if let Some(inner) = text.strip_prefix("[]") {
        return Type::List(Box::new(parse_type(inner, package, ids)));
    }
    if let Some(inner) = text.strip_prefix("{}") {
        return Type::Map(Box::new(parse_type(inner, package, ids)));
    }
    match text {
        "bool" => Type::Bool,
        "int32" => Type::Int32,
        "int64" => Type::Int64,
        "double" => Type::Double,
        "string" => Type::String,
        "bytes" => Type::Bytes,
        "quantity" => Type::Quantity,
        "intorstring" => Type::IntOrString,
        "time" => Type::Time,
        "microtime" => Type::MicroTime,
        "duration" => Type::Duration,
        "raw" => Type::RawExtension,
        "fieldsv1" => Type::FieldsV1,
        "json" => Type::Json,
        "schemaorarray" => Type::SchemaOr(SchemaOr::Array, schema_props()),
        "schemaorbool" => Type::SchemaOr(SchemaOr::Bool, schema_props()),
        "schemaorstrings" => Type::SchemaOr(SchemaOr::Strings, schema_props()),
        _ => Type::Struct(if text.starts_with('.') { id(&format!("{package}{text}")) } else { id(text) }),
    }
}

/// Reads the table of resources, in discovery's order.
pub fn parse_resources(text: &'static str) -> Vec<ResourceFacts> {
    let mut interned: HashMap<&'static str, &'static [&'static str]> = HashMap::new();
    let mut verbs = |text: &'static str| -> &'static [&'static str] {
        // A handful of distinct lists, kept for the life of the program like the table they come from.
        interned.entry(text).or_insert_with(|| text.split(',').collect::<Vec<_>>().leak())
    };
    let group = |text: &'static str| if text == "-" { "" } else { text };
    let mut resources: Vec<ResourceFacts> = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let words: Vec<&'static str> = line.split_ascii_whitespace().collect();
        if line.starts_with(' ') {
            let (&[name, in_group, version, kind, type_name, list], Some(parent)) =
                (words.as_slice(), resources.last_mut())
            else {
                panic!("not a subresource: {line}")
            };
            let gvk = Gvk::new(group(in_group), version, kind);
            parent.subresources.push(SubresourceFacts { name, gvk, type_name, verbs: verbs(list) });
        } else {
            let &[in_group, version, resource, singular, kind, scope, type_name, list, ref rest @ ..] =
                words.as_slice()
            else {
                panic!("not a resource: {line}")
            };
            let list_of = |key: &str| -> Vec<&'static str> {
                rest.iter().find_map(|w| w.strip_prefix(key)).map(|v| v.split(',').collect()).unwrap_or_default()
            };
            resources.push(ResourceFacts {
                gvk: Gvk::new(group(in_group), version, kind),
                list_kind: format!("{kind}List"),
                resource,
                singular,
                namespaced: scope == "namespaced",
                type_name,
                verbs: verbs(list),
                short_names: list_of("short="),
                categories: list_of("categories="),
                subresources: Vec::new(),
            });
        }
    }
    resources
}
