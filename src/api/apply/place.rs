//! What the schema says of a value for server-side apply: a leaf, or a list or map whose parts have owners of their own.

use serde_json::{Map, Value};

use super::set::Element;
use crate::schema::{Field, ListType, Schema, Str, StructDef, Type, Types};

/// A place in the schema.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) types: &'a Types,
    pub(super) kind: Kind<'a>,
    /// Whether objects and lists that have one owner as a whole have parts all the same: validation looks at them.
    parts: bool,
}

#[derive(Clone, Copy)]
pub(super) enum Kind<'a> {
    /// A scalar, or an object or list that has one owner as a whole.
    Leaf(Leaf),
    Struct(&'a StructDef),
    Map(&'a Type),
    /// A list that has one owner as a whole, where such lists have parts.
    Items(&'a Type),
    /// A list of scalars.
    Set(&'a Type),
    /// A list of objects with these keys.
    Keyed(&'a [Str], &'a Type),
    /// No structure: maps are granular, all else is a leaf.
    Deduced,
}

/// What a leaf may be, as far as apply checks it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Leaf {
    String,
    Number,
    Bool,
    /// Any of the three.
    Scalar,
    List,
    Map,
    Any,
}

impl<'a> Place<'a> {
    pub(super) fn root(schema: &'a Schema) -> Self {
        Self { types: &schema.types, kind: Kind::Struct(schema.def()), parts: false }
    }

    /// The same place, where objects and lists that have one owner as a whole have parts too.
    pub(super) fn with_all_parts(self) -> Self {
        Self { parts: true, ..self }
    }

    fn of(self, ty: &'a Type, field: Option<&'a Field>) -> Self {
        let Self { types, parts, .. } = self;
        let kind = match ty {
            Type::Bool => Kind::Leaf(Leaf::Bool),
            Type::Int32 | Type::Int64 | Type::Double => Kind::Leaf(Leaf::Number),
            Type::String | Type::Bytes | Type::Duration => Kind::Leaf(Leaf::String),
            Type::Quantity | Type::Time | Type::MicroTime => Kind::Leaf(Leaf::Scalar),
            Type::RawExtension | Type::IntOrString => Kind::Leaf(Leaf::Any),
            Type::FieldsV1 | Type::Json | Type::SchemaOr(..) => Kind::Deduced,
            Type::Struct(id) => {
                let def = types.def(*id);
                let whole = (def.atomic && !field.is_some_and(|f| f.granular)) || field.is_some_and(|f| f.atomic);
                if whole && !parts { Kind::Leaf(Leaf::Map) } else { Kind::Struct(def) }
            }
            Type::Map(_) if !parts && field.is_some_and(|f| f.atomic) => Kind::Leaf(Leaf::Map),
            Type::Map(item) => Kind::Map(item),
            Type::List(item) => match field.map(|f| (f.list, f.list_map_keys.as_slice())) {
                Some((ListType::Set, _)) => Kind::Set(item),
                Some((ListType::Map, keys)) => Kind::Keyed(keys, item),
                _ if parts => Kind::Items(item),
                _ => Kind::Leaf(Leaf::List),
            },
        };
        Self { kind, ..self }
    }

    pub(super) fn deduced(self) -> Self {
        Self { kind: Kind::Deduced, ..self }
    }

    /// The place of an item of a list or map.
    pub(super) fn item(self, ty: &'a Type) -> Self {
        self.of(ty, None)
    }

    /// The place of a member; `None` if the schema has no such member.
    pub(super) fn member(self, name: &str) -> Option<Self> {
        match self.kind {
            Kind::Struct(def) => match def.field(name) {
                Some(field) => Some(self.of(&field.ty, Some(field))),
                None => def.preserve_unknown.then(|| self.deduced()),
            },
            Kind::Map(item) => Some(self.item(item)),
            Kind::Deduced => Some(self),
            _ => None,
        }
    }

    /// Whether `name` is a declared member, not just a key of a map.
    pub(super) fn declares(self, name: &str) -> bool {
        matches!(self.kind, Kind::Struct(def) if def.field(name).is_some())
    }

    /// The kind that applies to a value: places without structure take it from the value.
    pub(super) fn for_value(self, value: &Value) -> Kind<'a> {
        match (self.kind, value) {
            (Kind::Deduced, Value::Object(_)) => Kind::Deduced,
            (Kind::Deduced, _) => Kind::Leaf(Leaf::Any),
            (kind, _) => kind,
        }
    }

    /// The path element of a list's item; the error text is upstream's.
    pub(super) fn list_element(self, item: &Value) -> Result<Element, String> {
        match self.kind {
            Kind::Set(_) => match item {
                Value::Object(_) => Err("associative list without keys has an element that's a map type".to_owned()),
                Value::Array(_) => Err("not supported: associative list with lists as elements".to_owned()),
                Value::Null => Err("associative list without keys has an element that's an explicit null".to_owned()),
                scalar => Ok(Element::value(scalar)),
            },
            Kind::Keyed(keys, ty) => {
                let members = match item {
                    Value::Object(members) => members,
                    Value::Null => return Err("associative list with keys may not have a null element".to_owned()),
                    _ => return Err("associative list with keys may not have non-map elements".to_owned()),
                };
                let mut found = Map::new();
                for key in keys {
                    if let Some(value) = members.get(key.as_ref()).cloned().or_else(|| self.key_default(ty, key)) {
                        found.insert(key.to_string(), value);
                    }
                }
                if found.is_empty() {
                    let keys: Vec<String> = keys.iter().map(|k| format!("{k:?}")).collect();
                    return Err(format!(
                        "associative list with keys has an element that omits all key fields [{}] (and doesn't have \
                         default values for any key fields)",
                        keys.join(" ")
                    ));
                }
                Ok(Element::key(&found))
            }
            _ => Err("invalid indexing of non-associative list".to_owned()),
        }
    }

    /// The default of a key, as the OpenAPI document has it (`getAssociativeKeyDefault`).
    fn key_default(self, ty: &Type, key: &str) -> Option<Value> {
        match ty {
            Type::Struct(id) => self.types.def(*id).field(key)?.documented_default().filter(|v| !v.is_null()),
            _ => None,
        }
    }
}
