//! Structural schemas of custom resources (apiextensions-apiserver `pkg/apiserver/schema`): what a CRD's
//! `openAPIV3Schema` says, without texts, in a compact form that is made when a kind is first used.
//!
//! Generic algorithms over it are in the modules below: [`prune`] removes what the schema does not specify, [`defaults`]
//! fills defaults and drops nulls, [`embedded`] minds the metadata of embedded objects, [`types`] makes the table that
//! server-side apply walks.

pub mod defaults;
pub mod embedded;
pub mod formats;
pub mod lists;
pub mod pattern;
pub mod prune;
pub mod rules;
pub mod types;
pub mod values;

use serde_json::{Map, Value};

/// `type` of a schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Ty {
    /// None is given: int-or-string, preserved unknown fields, or a value validation below `anyOf` and the like.
    #[default]
    Any,
    Object,
    Array,
    String,
    Integer,
    Number,
    Boolean,
}

impl Ty {
    pub fn parse(text: &str) -> Self {
        match text {
            "object" => Self::Object,
            "array" => Self::Array,
            "string" => Self::String,
            "integer" => Self::Integer,
            "number" => Self::Number,
            "boolean" => Self::Boolean,
            _ => Self::Any,
        }
    }

    /// As schemas write it; empty for none.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Any => "",
            Self::Object => "object",
            Self::Array => "array",
            Self::String => "string",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Boolean => "boolean",
        }
    }
}

/// `x-kubernetes-list-type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListKind {
    Atomic,
    Set,
    Map,
}

/// `additionalProperties`.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Additional {
    #[default]
    Unset,
    Allowed(bool),
    Schema(Box<Structural>),
}

/// One node of a schema. Below `allOf`, `anyOf`, `oneOf` and `not` it is a value validation: its structure says nothing
/// about pruning or defaults.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Structural {
    pub ty: Ty,
    pub nullable: bool,
    pub preserve_unknown: bool,
    pub embedded: bool,
    pub int_or_string: bool,
    pub list: Option<ListKind>,
    /// `x-kubernetes-map-type: atomic`.
    pub map_atomic: bool,
    /// In order of their names.
    pub properties: Box<[(Box<str>, Structural)]>,
    pub items: Option<Box<Structural>>,
    pub additional: Additional,
    pub list_map_keys: Box<[Box<str>]>,
    /// JSON null is no default.
    pub default: Option<Box<Value>>,
    pub rules: Box<[Rule]>,
    pub checks: Option<Box<Checks>>,
}

/// A rule of `x-kubernetes-validations`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Rule {
    pub rule: String,
    pub message: String,
    pub message_expression: String,
    /// `FieldValueInvalid` and the like; empty for the default.
    pub reason: String,
    pub field_path: String,
    pub optional_old_self: Option<bool>,
}

/// What a schema demands of a value beyond its structure.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Checks {
    /// A `type` that there is not, which no value is of. Only definitions that are refused have one.
    pub unknown_type: Box<str>,
    pub format: Box<str>,
    pub maximum: Option<f64>,
    pub exclusive_maximum: bool,
    pub minimum: Option<f64>,
    pub exclusive_minimum: bool,
    pub max_length: Option<i64>,
    pub min_length: Option<i64>,
    pub pattern: Box<str>,
    pub max_items: Option<i64>,
    pub min_items: Option<i64>,
    pub unique_items: bool,
    pub multiple_of: Option<f64>,
    pub enums: Box<[Value]>,
    pub max_properties: Option<i64>,
    pub min_properties: Option<i64>,
    pub required: Box<[Box<str>]>,
    pub all_of: Box<[Structural]>,
    pub any_of: Box<[Structural]>,
    pub one_of: Box<[Structural]>,
    pub not: Option<Box<Structural>>,
}

impl Structural {
    /// Reads a `JSONSchemaProps` as the API has it. What is not of its shape reads as absent: the CRD was validated.
    pub fn parse(schema: &Value) -> Self {
        let Some(map) = schema.as_object() else { return Self::default() };
        let flag = |name: &str| map.get(name).and_then(Value::as_bool).unwrap_or(false);
        let text = |name: &str| map.get(name).and_then(Value::as_str).unwrap_or_default();
        let mut properties: Vec<(Box<str>, Self)> = map
            .get("properties")
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
            .map(|(name, schema)| (name.as_str().into(), Self::parse(schema)))
            .collect();
        properties.sort_by(|a, b| a.0.cmp(&b.0));
        let additional = match map.get("additionalProperties") {
            Some(Value::Bool(allowed)) => Additional::Allowed(*allowed),
            Some(schema @ Value::Object(_)) => Additional::Schema(Box::new(Self::parse(schema))),
            _ => Additional::Unset,
        };
        let checks = Checks::parse(map);
        Self {
            ty: Ty::parse(text("type")),
            nullable: flag("nullable"),
            preserve_unknown: flag("x-kubernetes-preserve-unknown-fields"),
            embedded: flag("x-kubernetes-embedded-resource"),
            int_or_string: flag("x-kubernetes-int-or-string"),
            list: match text("x-kubernetes-list-type") {
                "atomic" => Some(ListKind::Atomic),
                "set" => Some(ListKind::Set),
                "map" => Some(ListKind::Map),
                _ => None,
            },
            map_atomic: text("x-kubernetes-map-type") == "atomic",
            properties: properties.into(),
            items: map.get("items").filter(|i| i.is_object()).map(|items| Box::new(Self::parse(items))),
            additional,
            list_map_keys: strings(map.get("x-kubernetes-list-map-keys")),
            default: map.get("default").filter(|d| !d.is_null()).map(|d| Box::new(d.clone())),
            rules: list(map.get("x-kubernetes-validations")).iter().map(Rule::parse).collect(),
            checks: (checks != Checks::default()).then(|| Box::new(checks)),
        }
    }

    pub fn property(&self, name: &str) -> Option<&Self> {
        let at = self.properties.binary_search_by(|(n, _)| (**n).cmp(name)).ok()?;
        self.properties.get(at).map(|(_, schema)| schema)
    }

    /// The schema of members that are no properties.
    pub fn additional_schema(&self) -> Option<&Self> {
        match &self.additional {
            Additional::Schema(schema) => Some(schema),
            Additional::Unset | Additional::Allowed(_) => None,
        }
    }

    /// `additionalProperties` is given, in whatever form.
    pub fn has_additional(&self) -> bool {
        self.additional != Additional::Unset
    }

    /// The schema of a member of an object: its property, or what all others have.
    pub fn member(&self, name: &str) -> Option<&Self> {
        self.property(name).or_else(|| self.additional_schema())
    }

    /// Whether this node or one below it in the structure meets a condition.
    pub fn any(&self, test: &dyn Fn(&Self) -> bool) -> bool {
        test(self)
            || self.properties.iter().any(|(_, p)| p.any(test))
            || self.items.as_ref().is_some_and(|i| i.any(test))
            || self.additional_schema().is_some_and(|a| a.any(test))
    }
}

impl Rule {
    fn parse(value: &Value) -> Self {
        let text = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        Self {
            rule: text("rule"),
            message: text("message"),
            message_expression: text("messageExpression"),
            reason: text("reason"),
            field_path: text("fieldPath"),
            optional_old_self: value.get("optionalOldSelf").and_then(Value::as_bool),
        }
    }
}

impl Checks {
    fn parse(map: &Map<String, Value>) -> Self {
        let flag = |name: &str| map.get(name).and_then(Value::as_bool).unwrap_or(false);
        let text = |name: &str| map.get(name).and_then(Value::as_str).unwrap_or_default().into();
        let float = |name: &str| map.get(name).and_then(Value::as_f64);
        let int = |name: &str| map.get(name).and_then(Value::as_i64);
        let nested = |name: &str| list(map.get(name)).iter().map(Structural::parse).collect();
        let ty: Box<str> = text("type");
        Self {
            unknown_type: if Ty::parse(&ty) == Ty::Any { ty } else { Box::default() },
            format: text("format"),
            maximum: float("maximum"),
            exclusive_maximum: flag("exclusiveMaximum"),
            minimum: float("minimum"),
            exclusive_minimum: flag("exclusiveMinimum"),
            max_length: int("maxLength"),
            min_length: int("minLength"),
            pattern: text("pattern"),
            max_items: int("maxItems"),
            min_items: int("minItems"),
            unique_items: flag("uniqueItems"),
            multiple_of: float("multipleOf"),
            enums: list(map.get("enum")).into(),
            max_properties: int("maxProperties"),
            min_properties: int("minProperties"),
            required: strings(map.get("required")),
            all_of: nested("allOf"),
            any_of: nested("anyOf"),
            one_of: nested("oneOf"),
            not: map.get("not").filter(|n| n.is_object()).map(|n| Box::new(Structural::parse(n))),
        }
    }
}

fn list(value: Option<&Value>) -> &[Value] {
    value.and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn strings(value: Option<&Value>) -> Box<[Box<str>]> {
    list(value).iter().filter_map(Value::as_str).map(Into::into).collect()
}

/// Names that every object has, which schemas need not specify at the root and in embedded objects.
pub(crate) fn is_meta_field(name: &str) -> bool {
    matches!(name, "apiVersion" | "kind" | "metadata")
}

/// The way to a value, for the paths of unknown fields (`UnknownFieldPathOptions`): `spec.list[0].name`.
#[derive(Debug, Default)]
pub struct Trail {
    text: String,
}

impl Trail {
    /// Goes one member deeper; the result is for [`Trail::back`].
    pub fn key(&mut self, key: &str) -> usize {
        let length = self.text.len();
        if length > 0 {
            self.text.push('.');
        }
        self.text.push_str(key);
        length
    }

    /// Goes one item deeper.
    pub fn index(&mut self, index: usize) -> usize {
        use std::fmt::Write;
        let length = self.text.len();
        // Writing to a string does not fail.
        let _ = write!(self.text, "[{index}]");
        length
    }

    /// Returns to where a step began.
    pub fn back(&mut self, to: usize) {
        self.text.truncate(to);
    }

    pub fn is_root(&self) -> bool {
        self.text.is_empty()
    }

    pub fn text(&self) -> &str {
        &self.text
    }
}

#[cfg(test)]
mod tests;
