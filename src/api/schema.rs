//! One structural schema model for every kind, built in or from a CRD.
//!
//! A [`Types`] table holds the struct types of one origin (the built-in table, or one CRD version); a [`Schema`] is a
//! handle to one of them. Generic code (decoding, pruning, defaulting, patches, server-side apply, protobuf, OpenAPI)
//! walks [`Type`]s and never asks which kind it sees.

pub mod facts;
pub mod walk;

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use serde_json::Value;

/// A name that is `'static` for built-in types and owned for CRDs.
pub type Str = Cow<'static, str>;

/// Index of a struct type in its [`Types`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TypeId(pub u32);

/// A table of struct types.
#[derive(Debug, Default)]
pub struct Types {
    defs: Vec<StructDef>,
    by_name: HashMap<Str, TypeId>,
    /// Whether defaults are found in a struct or what it reaches.
    has_defaults: Vec<bool>,
}

impl Types {
    /// `StructDef::printed` is computed here.
    pub fn new(mut defs: Vec<StructDef>) -> Self {
        for def in &mut defs {
            let printed = def.fields.iter().enumerate().filter(|(_, f)| walk::is_printed(f));
            def.printed = printed.map(|(i, _)| i as u16).collect();
        }
        let by_name = defs.iter().enumerate().map(|(i, d)| (d.name.clone(), TypeId(i as u32))).collect();
        let has_defaults = vec![false; defs.len()];
        let mut types = Self { defs, by_name, has_defaults };
        types.find_defaults();
        types
    }

    /// Marks structs until nothing changes: types may reach each other in circles.
    fn find_defaults(&mut self) {
        loop {
            let leads = |f: &Field| f.default.is_some() || walk::leads_to_defaults(self, &f.ty);
            let unmarked = self.defs.iter().enumerate().filter(|(i, _)| !self.has_defaults[*i]);
            let found: Vec<usize> = unmarked.filter(|(_, d)| d.fields.iter().any(leads)).map(|(i, _)| i).collect();
            if found.is_empty() {
                return;
            }
            found.into_iter().for_each(|index| self.has_defaults[index] = true);
        }
    }

    /// Whether the schema has defaults in this struct or in what it reaches.
    pub fn has_defaults(&self, id: TypeId) -> bool {
        self.has_defaults.get(id.0 as usize).copied().unwrap_or(false)
    }

    /// The type with this id. Ids come from this table's own [`Type::Struct`]s and [`Types::id`], so they are in range.
    pub fn def(&self, id: TypeId) -> &StructDef {
        &self.defs[id.0 as usize]
    }

    /// The type with this OpenAPI name, e.g. `io.k8s.api.core.v1.Pod`.
    pub fn id(&self, name: &str) -> Option<TypeId> {
        self.by_name.get(name).copied()
    }

    pub fn iter(&self) -> impl Iterator<Item = (TypeId, &StructDef)> {
        self.defs.iter().enumerate().map(|(i, d)| (TypeId(i as u32), d))
    }
}

/// A struct type: a JSON object with known members.
#[derive(Debug, Clone, Default)]
pub struct StructDef {
    /// OpenAPI definition name.
    pub name: Str,
    /// In the order of their protobuf field numbers.
    pub fields: Vec<Field>,
    /// `x-kubernetes-map-type: atomic`: server-side apply treats the object as one value.
    pub atomic: bool,
    /// Members beyond `fields` are kept (`x-kubernetes-preserve-unknown-fields`), else unknown.
    pub preserve_unknown: bool,
    /// Indexes of the fields whose zero value Go's JSON encoder prints; set by [`Types::new`].
    pub printed: Vec<u16>,
}

impl StructDef {
    pub fn field(&self, json_name: &str) -> Option<&Field> {
        self.fields.iter().find(|f| f.name == json_name)
    }
}

/// A member of a struct.
#[derive(Debug, Clone)]
pub struct Field {
    /// JSON name.
    pub name: Str,
    pub ty: Type,
    /// Protobuf field number; 0 where the field has no protobuf form.
    pub proto: u32,
    /// Numbers of the messages around this field, outermost first, unused ones 0: Go inlines some structs in JSON
    /// (`Volume` has the members of `VolumeSource`) that are messages of their own in protobuf.
    pub wrap: [u16; 2],
    /// Protobuf wraps the list in a message with the items as its field 1 (`Verbs`, `ExtraValue`). Always so for a list
    /// that is a map's value.
    pub list_message: bool,
    /// Go holds a pointer: protobuf and JSON leave it out when nil. A non-pointer scalar or struct is always on the
    /// protobuf wire.
    pub pointer: bool,
    pub presence: Presence,
    /// OpenAPI `required`.
    pub required: bool,
    /// OpenAPI `default` (from `+default`).
    pub default: Option<Value>,
    /// How a list or map merges under server-side apply.
    pub list: ListType,
    /// The list type is written out (it is atomic without a word too).
    pub list_declared: bool,
    /// Keys of a [`ListType::Map`].
    pub list_map_keys: Vec<Str>,
    /// `x-kubernetes-map-type: atomic` on a map or struct field.
    pub atomic: bool,
    /// `x-kubernetes-map-type: granular` on a field: its members merge one by one even if its struct is atomic.
    pub granular: bool,
    /// `patchStrategy` tags.
    pub patch: PatchStrategy,
    /// `patchMergeKey` tag.
    pub patch_merge_key: Option<Str>,
    /// What only texts and documents need; `None` for most fields.
    pub extra: Option<Box<FieldExtra>>,
}

impl Default for Field {
    fn default() -> Self {
        Self {
            name: Str::default(),
            ty: Type::Json,
            proto: 0,
            wrap: [0, 0],
            list_message: false,
            pointer: false,
            presence: Presence::default(),
            required: false,
            default: None,
            list: ListType::default(),
            list_declared: false,
            list_map_keys: Vec::new(),
            atomic: false,
            granular: false,
            patch: PatchStrategy::default(),
            patch_merge_key: None,
            extra: None,
        }
    }
}

impl Field {
    /// The default that Go's generator of OpenAPI writes down: `+default`, or the zero value of a field that is always
    /// printed.
    pub fn documented_default(&self) -> Option<Value> {
        if self.default.is_some() {
            return self.default.clone();
        }
        match &self.ty {
            _ if self.pointer => None,
            Type::Struct(_) => Some(Value::Object(serde_json::Map::new())),
            _ if self.presence != Presence::Always => None,
            Type::Bool => Some(false.into()),
            Type::String => Some("".into()),
            Type::Int32 | Type::Int64 | Type::Double => Some(0.into()),
            _ => None,
        }
    }
}

/// Facts of a field that texts and documents need.
#[derive(Debug, Clone, Default)]
pub struct FieldExtra {
    /// Go's name of the (innermost) scalar where it has one, as error texts print it: `v1.PullPolicy`.
    pub go_name: Str,
    /// `enum` of the OpenAPI document, sorted.
    pub enums: Vec<Str>,
}

/// How Go's JSON encoder treats the zero value of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Presence {
    /// `omitempty`: false, 0, "", nil and empty lists and maps are left out; a struct never is.
    #[default]
    OmitEmpty,
    /// `omitzero`: left out when wholly zero.
    OmitZero,
    /// Neither: always printed, `null` for nil pointers, slices and maps.
    Always,
    /// Kept as it was given, null and zero values too: fields of custom resources, which no Go struct holds.
    AsGiven,
}

/// `x-kubernetes-list-type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ListType {
    #[default]
    Atomic,
    Set,
    Map,
}

/// `patchStrategy` of strategic merge patch. Without any, lists are replaced and structs and maps merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PatchStrategy {
    pub merge: bool,
    pub retain_keys: bool,
    /// A struct or map is replaced as a whole.
    pub replace: bool,
}

/// What a value is.
#[derive(Debug, Clone, PartialEq)]
pub enum Type {
    Bool,
    Int32,
    Int64,
    /// `float64` (and the rare `float32`).
    Double,
    String,
    /// Base64 text in JSON.
    Bytes,
    /// `resource.Quantity`.
    Quantity,
    /// `intstr.IntOrString`.
    IntOrString,
    /// `metav1.Time`: RFC 3339 in seconds.
    Time,
    /// `metav1.MicroTime`: RFC 3339 in microseconds.
    MicroTime,
    /// `metav1.Duration`: Go's text form.
    Duration,
    /// `runtime.RawExtension`: any object, embedded.
    RawExtension,
    /// `metav1.FieldsV1`: the managed field set.
    FieldsV1,
    /// `apiextensions.JSON` and anything else without structure.
    Json,
    /// `JSONSchemaPropsOrArray`, `…OrBool`, `…OrStringArray` of CRDs: a JSON schema (this struct) or something simpler.
    SchemaOr(SchemaOr, TypeId),
    Struct(TypeId),
    List(Box<Type>),
    /// String keys.
    Map(Box<Type>),
}

/// The simpler alternative to a JSON schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SchemaOr {
    /// A list of schemas.
    Array,
    Bool,
    /// A list of property names.
    Strings,
}

/// A handle to the schema of a kind.
#[derive(Debug, Clone)]
pub struct Schema {
    pub types: Arc<Types>,
    pub root: TypeId,
}

impl Schema {
    pub fn def(&self) -> &StructDef {
        self.types.def(self.root)
    }
}
