//! Brings a parsed document into the form that Go prints after decoding it into the kind's struct: unknown members
//! reported and dropped, scalars canonical, zero values where Go prints them.
//!
//! Matches sigs.k8s.io/json (case-sensitive, strict errors collected beside the one fatal error) and the
//! `UnmarshalJSON` methods of apimachinery's special types.

use std::borrow::Cow;
use std::fmt::Write;

use serde_json::{Map, Value};

use super::node::{MAX_STRUCTS, Node, number};
use super::scalars::{decode_base64, parse_time, print_micro_time, print_time, quote};
use crate::schema::walk::{add_printed, is_omitted, zero};
use crate::schema::{Field, Presence, Schema, SchemaOr, Type, TypeId, Types};

/// Strict errors beyond this many are not kept, as upstream.
const MAX_STRICT_ERRORS: usize = 100;

/// What came out.
pub struct Conformed {
    pub map: Map<String, Value>,
    /// `unknown field "…"` and `duplicate field "…"`, in the order of the text.
    pub strict: Vec<String>,
    /// The first type mismatch, in Go's words. `map` is then of no use.
    pub error: Option<String>,
}

/// Conforms the members of a document to a schema.
pub fn conform(schema: &Schema, members: Vec<(Cow<'_, str>, Node<'_>)>) -> Conformed {
    let mut walk = Walk { types: &schema.types, strict: Vec::new(), error: None, path: Vec::new(), structs: 0 };
    let map = walk.structure(schema.root, members);
    Conformed { map, strict: walk.strict, error: walk.error }
}

/// Duplicate members anywhere in a document without a schema, worded as for [`conform`].
pub fn duplicates(node: &Node<'_>) -> Vec<String> {
    let types = Types::default();
    let mut walk = Walk { types: &types, strict: Vec::new(), error: None, path: Vec::new(), structs: 0 };
    walk.untyped(node);
    walk.strict
}

enum Step {
    /// A struct that Go embeds: part of the path in errors, not in JSON.
    Embedded(&'static str),
    Field(String),
    Key(String),
    Index(usize),
}

struct Walk<'t> {
    types: &'t Types,
    strict: Vec<String>,
    error: Option<String>,
    path: Vec<Step>,
    structs: usize,
}

/// Where a value sits, for error texts.
#[derive(Clone, Copy)]
struct Place<'a> {
    /// Go's name of the struct.
    owner: &'a str,
    /// The field, for Go's name of its scalar.
    field: &'a Field,
}

impl Walk<'_> {
    fn report(&mut self, what: &str, name: &str) {
        if self.strict.len() >= MAX_STRICT_ERRORS {
            return;
        }
        let mut path = String::new();
        for step in &self.path {
            match step {
                Step::Field(name) | Step::Key(name) => {
                    if !path.is_empty() {
                        path.push('.');
                    }
                    path.push_str(name);
                }
                Step::Index(index) => {
                    let _ = write!(path, "[{index}]");
                }
                Step::Embedded(_) => {}
            }
        }
        if !path.is_empty() {
            path.push('.');
        }
        path.push_str(name);
        let text = format!("{what} field {}", quote(&path));
        if !self.strict.contains(&text) {
            self.strict.push(text);
        }
    }

    fn fail(&mut self, error: impl FnOnce() -> String) {
        if self.error.is_none() {
            self.error = Some(error());
        }
    }

    /// `json.UnmarshalTypeError`.
    fn mismatch(&mut self, found: &str, ty: &Type, place: Place<'_>) {
        let go = go_type(self.types, ty, place.field);
        self.mismatch_as(found, &go, place);
    }

    fn mismatch_as(&mut self, found: &str, go: &str, place: Place<'_>) {
        if self.error.is_some() {
            return;
        }
        let names: Vec<&str> = self
            .path
            .iter()
            .filter_map(|step| match step {
                Step::Field(name) => Some(name.as_str()),
                Step::Embedded(name) => Some(*name),
                Step::Key(_) | Step::Index(_) => None,
            })
            .collect();
        let (owner, path) = (place.owner, names.join("."));
        self.error = Some(format!("json: cannot unmarshal {found} into Go struct field {owner}.{path} of type {go}"));
    }

    fn structure(&mut self, id: TypeId, members: Vec<(Cow<'_, str>, Node<'_>)>) -> Map<String, Value> {
        self.structs += 1;
        if self.structs > MAX_STRUCTS {
            self.fail(|| "exceeded max number of objects".to_owned());
            return Map::new();
        }
        let types = self.types;
        let def = types.def(id);
        let owner = def.name.rsplit('.').next().unwrap_or_default();
        let mut map = Map::new();
        let mut seen = vec![false; def.fields.len()];
        for (name, node) in members {
            let Some(index) = def.fields.iter().position(|f| f.name == name) else {
                if def.preserve_unknown {
                    self.path.push(Step::Field(name.clone().into_owned()));
                    self.untyped(&node);
                    self.path.pop();
                    map.insert(name.into_owned(), node.into_value());
                } else {
                    self.report("unknown", &name);
                }
                continue;
            };
            if std::mem::replace(&mut seen[index], true) {
                self.report("duplicate", &name);
            }
            let field = &def.fields[index];
            let around = embedded(owner, field);
            self.path.extend(around.iter().map(|name| Step::Embedded(name)));
            self.path.push(Step::Field(name.into_owned()));
            let value = self.value(&field.ty, node, Place { owner, field });
            let name = match self.path.pop() {
                Some(Step::Field(name)) => name,
                _ => field.name.clone().into_owned(),
            };
            self.path.truncate(self.path.len() - around.len());
            match value {
                Some(value) if !is_omitted(types, field, &value) => {
                    map.insert(name, value);
                }
                None if field.presence == Presence::AsGiven => {
                    map.insert(name, Value::Null);
                }
                _ => {
                    map.remove(&name);
                }
            }
        }
        add_printed(types, id, &mut map);
        map
    }

    /// `None` for null: absent.
    fn value(&mut self, ty: &Type, node: Node<'_>, place: Place<'_>) -> Option<Value> {
        if matches!(node, Node::Null) {
            return None;
        }
        match ty {
            Type::Struct(id) => match node {
                Node::Object(members) => Some(Value::Object(self.structure(*id, members))),
                other => self.wrong(&other, ty, place),
            },
            Type::List(inner) => match node {
                Node::Array(items) => Some(self.list(inner, items, place)),
                other => self.wrong(&other, ty, place),
            },
            Type::Map(inner) => match node {
                Node::Object(members) => Some(self.map(inner, members, place)),
                other => self.wrong(&other, ty, place),
            },
            Type::Bool => match node {
                Node::Bool(value) => Some(Value::Bool(value)),
                other => self.wrong(&other, ty, place),
            },
            Type::String => match node {
                Node::String(text) => Some(Value::String(text.into_owned())),
                other => self.wrong(&other, ty, place),
            },
            Type::Int32 | Type::Int64 | Type::Double => self.number(ty, &node, place),
            Type::Json | Type::RawExtension | Type::FieldsV1 => Some(node.into_value()),
            Type::SchemaOr(alternative, id) => self.schema_or(*alternative, *id, node, place),
            Type::Bytes | Type::Quantity | Type::IntOrString | Type::Time | Type::MicroTime | Type::Duration => {
                self.special(ty, node, place)
            }
        }
    }

    fn wrong(&mut self, node: &Node<'_>, ty: &Type, place: Place<'_>) -> Option<Value> {
        self.mismatch(node.go_word(), ty, place);
        None
    }

    fn list(&mut self, inner: &Type, items: Vec<Node<'_>>, place: Place<'_>) -> Value {
        let items = items.into_iter().enumerate().map(|(index, item)| {
            self.path.push(Step::Index(index));
            let value = self.value(inner, item, place);
            self.path.pop();
            value.unwrap_or_else(|| zero(self.types, inner))
        });
        Value::Array(items.collect())
    }

    fn map(&mut self, inner: &Type, members: Vec<(Cow<'_, str>, Node<'_>)>, place: Place<'_>) -> Value {
        let mut map = Map::new();
        for (name, node) in members {
            if map.contains_key(name.as_ref()) {
                self.report("duplicate", &name);
            }
            self.path.push(Step::Key(name.clone().into_owned()));
            let value = self.value(inner, node, place);
            self.path.pop();
            map.insert(name.into_owned(), value.unwrap_or_else(|| zero(self.types, inner)));
        }
        Value::Object(map)
    }

    fn number(&mut self, ty: &Type, node: &Node<'_>, place: Place<'_>) -> Option<Value> {
        let Node::Number(text) = node else { return self.wrong(node, ty, place) };
        let parsed = match ty {
            Type::Int32 => text.parse::<i32>().ok().map(Value::from),
            Type::Int64 => text.parse::<i64>().ok().map(Value::from),
            _ => text.parse::<f64>().ok().filter(|f| f.is_finite()).map(|f| {
                // Go prints whole floats without a fraction.
                if f.fract() == 0.0 && f.abs() < 1e15 { Value::from(f as i64) } else { Value::Number(number(text)) }
            }),
        };
        if parsed.is_none() {
            self.mismatch(&format!("number {text}"), ty, place);
        }
        parsed
    }

    /// Types with an `UnmarshalJSON` of their own: of their errors those about types get the field from the decoder
    /// around them.
    fn special(&mut self, ty: &Type, node: Node<'_>, place: Place<'_>) -> Option<Value> {
        let result = match (ty, &node) {
            (Type::Bytes, Node::String(text)) => {
                use base64::Engine as _;
                decode_base64(text).map(|b| Value::from(base64::engine::general_purpose::STANDARD.encode(b)))
            }
            // Go reads a list of numbers too.
            (Type::Bytes, Node::Array(items)) => {
                use base64::Engine as _;
                match bytes_of(items) {
                    Ok(bytes) => Ok(Value::from(base64::engine::general_purpose::STANDARD.encode(bytes))),
                    Err(found) => {
                        self.mismatch_as(&found, "uint8", place);
                        return None;
                    }
                }
            }
            (Type::Bytes, other) => return self.wrong(other, ty, place),
            (Type::Quantity, Node::String(text) | Node::Number(text)) => {
                crate::quantity::canonicalise(text).map(Value::from).map_err(|e| e.to_string())
            }
            (Type::Quantity, _) => crate::quantity::canonicalise("x").map(Value::from).map_err(|e| e.to_string()),
            (Type::IntOrString, Node::String(text)) => Ok(Value::from(text.as_ref())),
            (Type::IntOrString, Node::Number(text)) => match text.parse::<i32>() {
                Ok(number) => Ok(Value::from(number)),
                Err(_) => {
                    self.mismatch_as(&format!("number {text}"), "int32", place);
                    return None;
                }
            },
            (Type::IntOrString, other) => {
                self.mismatch_as(other.go_word(), "int32", place);
                return None;
            }
            (Type::Time, Node::String(text)) => parse_time(text, false).map(|t| Value::from(print_time(t))),
            (Type::MicroTime, Node::String(text)) => parse_time(text, true).map(|t| Value::from(print_micro_time(t))),
            (Type::Duration, Node::String(text)) => Ok(Value::from(text.as_ref())),
            (_, other) => {
                self.mismatch_as(other.go_word(), "string", place);
                return None;
            }
        };
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                self.fail(|| error);
                None
            }
        }
    }

    fn schema_or(&mut self, alternative: SchemaOr, id: TypeId, node: Node<'_>, place: Place<'_>) -> Option<Value> {
        match (alternative, node) {
            (_, Node::Object(members)) => {
                // Its own decoder is not strict.
                let reported = self.strict.len();
                let found = self.structure(id, members);
                self.strict.truncate(reported);
                Some(Value::Object(found))
            }
            (SchemaOr::Bool, Node::Bool(allows)) => Some(Value::Bool(allows)),
            (SchemaOr::Array, Node::Array(items)) => Some(self.list(&Type::Struct(id), items, place)),
            (SchemaOr::Strings, Node::Array(items)) => Some(self.list(&Type::String, items, place)),
            (SchemaOr::Bool, _) => {
                self.fail(|| "boolean or JSON schema expected".to_owned());
                None
            }
            // Go's decoder of the others takes nothing from what it does not know.
            (SchemaOr::Array | SchemaOr::Strings, _) => None,
        }
    }

    fn untyped(&mut self, node: &Node<'_>) {
        match node {
            Node::Object(members) => {
                let mut seen = std::collections::HashSet::new();
                for (name, value) in members {
                    if !seen.insert(name.as_ref()) {
                        self.report("duplicate", name);
                    }
                    self.path.push(Step::Key(name.clone().into_owned()));
                    self.untyped(value);
                    self.path.pop();
                }
            }
            Node::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    self.path.push(Step::Index(index));
                    self.untyped(item);
                    self.path.pop();
                }
            }
            _ => {}
        }
    }
}

/// The structs that Go embeds between a struct and this field of it.
fn embedded(owner: &str, field: &Field) -> &'static [&'static str] {
    if field.wrap[0] == 0 {
        return &[];
    }
    match owner {
        "Volume" => &["VolumeSource"],
        "PersistentVolumeSpec" => &["PersistentVolumeSource"],
        "Probe" => &["ProbeHandler"],
        "EphemeralContainer" => &["EphemeralContainerCommon"],
        "IngressRule" => &["IngressRuleValue"],
        "DeviceClaimConfiguration" | "DeviceClassConfiguration" | "DeviceAllocationConfiguration" => {
            &["DeviceConfiguration"]
        }
        "RuleWithOperations" => &["Rule"],
        "NamedRuleWithOperations" if field.wrap[1] != 0 => &["RuleWithOperations", "Rule"],
        "NamedRuleWithOperations" => &["RuleWithOperations"],
        "ConfigMapEnvSource"
        | "ConfigMapKeySelector"
        | "ConfigMapProjection"
        | "ConfigMapVolumeSource"
        | "SecretEnvSource"
        | "SecretKeySelector"
        | "SecretProjection" => &["LocalObjectReference"],
        _ => &[],
    }
}

/// The bytes that a list of numbers says, or Go's word for the first item that is none.
fn bytes_of(items: &[Node<'_>]) -> Result<Vec<u8>, String> {
    let byte = |item: &Node<'_>| match item {
        Node::Null => Ok(0),
        Node::Number(text) => text.parse().map_err(|_| format!("number {text}")),
        other => Err(other.go_word().to_owned()),
    };
    items.iter().map(byte).collect()
}

/// Go's name of a type (`reflect.Type.String`).
pub(super) fn go_type(types: &Types, ty: &Type, field: &Field) -> String {
    let scalar = |plain: &str| match &field.extra {
        Some(extra) if !extra.go_name.is_empty() => extra.go_name.to_string(),
        _ => plain.to_owned(),
    };
    if let Some(name) = named_type(types, ty, field) {
        return name;
    }
    match ty {
        Type::Bool => scalar("bool"),
        Type::Int32 => scalar("int32"),
        Type::Int64 => scalar("int64"),
        Type::Double => scalar("float64"),
        Type::String => scalar("string"),
        Type::Bytes => "[]uint8".to_owned(),
        Type::Quantity => "resource.Quantity".to_owned(),
        Type::IntOrString => "intstr.IntOrString".to_owned(),
        Type::Time => "v1.Time".to_owned(),
        Type::MicroTime => "v1.MicroTime".to_owned(),
        Type::Duration => "v1.Duration".to_owned(),
        Type::RawExtension => "runtime.RawExtension".to_owned(),
        Type::FieldsV1 => "v1.FieldsV1".to_owned(),
        Type::Json => "v1.JSON".to_owned(),
        Type::SchemaOr(SchemaOr::Array, _) => "v1.JSONSchemaPropsOrArray".to_owned(),
        Type::SchemaOr(SchemaOr::Bool, _) => "v1.JSONSchemaPropsOrBool".to_owned(),
        Type::SchemaOr(SchemaOr::Strings, _) => "v1.JSONSchemaPropsOrStringArray".to_owned(),
        Type::Struct(id) => {
            let name = &types.def(*id).name;
            let mut parts = name.rsplitn(3, '.');
            let (last, package) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
            format!("{package}.{last}")
        }
        Type::List(inner) => format!("[]{}", go_type(types, inner, field)),
        Type::Map(inner) if **inner == Type::Quantity => "v1.ResourceList".to_owned(),
        Type::Map(inner) => format!("map[string]{}", go_type(types, inner, field)),
    }
}

/// Go's name of the lists and maps that have one, or keys that have one.
fn named_type(types: &Types, ty: &Type, field: &Field) -> Option<String> {
    let item = match ty {
        Type::List(item) | Type::Map(item) => item.as_ref(),
        _ => return None,
    };
    // The package and the name of the struct in it.
    let parts = |id: &TypeId| types.def(*id).name.rsplit_once('.').unwrap_or_default();
    let (package, name) = if let Type::Struct(id) = item { parts(id) } else { Default::default() };
    let package = package.rsplit('.').next().unwrap_or_default();
    match (ty, name, field.name.as_ref()) {
        (Type::List(_), "ValidationRule", _) => Some("v1.ValidationRules".to_owned()),
        (Type::Map(_), "JSONSchemaProps", "definitions") => Some("v1.JSONSchemaDefinitions".to_owned()),
        (Type::Map(_), _, "dependencies") => Some("v1.JSONSchemaDependencies".to_owned()),
        (Type::Map(_), "DeviceAttribute" | "DeviceCapacity", _) => {
            Some(format!("map[{package}.QualifiedName]{package}.{name}"))
        }
        (Type::Map(_), _, "allocatedResourceStatuses") => Some("map[v1.ResourceName]v1.ClaimResourceStatus".to_owned()),
        // Lists that are a map's values: `ExtraValue`.
        (Type::Map(_), ..) if matches!(item, Type::List(_)) => Some("map[string]v1.ExtraValue".to_owned()),
        (Type::List(_), ..) if matches!(field.ty, Type::Map(_)) => Some("v1.ExtraValue".to_owned()),
        _ => None,
    }
}
