//! Values: what expressions compute with, and JSON's way in and out.

use std::cmp::Ordering;
use std::hash::{Hash, Hasher};
use std::net::IpAddr;
use std::sync::Arc;

use indexmap::IndexMap;
use jiff::SignedDuration;
use serde_json::{Map, Number};

use super::authz::Authz;
pub use super::list::{List, ListKind};
use super::types::{Decl, Type};
use crate::quantity::Quantity;

/// A value. Cheap to clone.
#[derive(Debug, Clone)]
pub enum Value {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(Arc<str>),
    Bytes(Arc<[u8]>),
    List(Arc<List>),
    Map(Arc<IndexMap<Key, Value>>),
    Timestamp(super::library::time::Time),
    Duration(SignedDuration),
    /// A type as a value: `type(1) == int`.
    Type(Arc<str>),
    Optional(Option<Arc<Value>>),
    Quantity(Arc<Quantity>),
    Ip(IpAddr),
    Cidr(Cidr),
    Url(Arc<crate::url::Url>),
    Semver(Arc<super::library::semver::Semver>),
    Format(&'static super::library::format::Format),
    Authz(Arc<Authz>),
    /// A structure that the expression made: `Object{}`, `JSONPatch{}`.
    Struct(Arc<Struct>),
}

/// An address with its prefix, as it was written: host bits are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    pub address: IpAddr,
    pub bits: u8,
}

/// See [`Value::Struct`].
#[derive(Debug, Clone)]
pub struct Struct {
    pub name: Arc<str>,
    pub fields: IndexMap<Arc<str>, Value>,
}

/// A key of a map.
#[derive(Debug, Clone)]
pub enum Key {
    Bool(bool),
    Int(i64),
    Uint(u64),
    String(Arc<str>),
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Bool(a), Self::Bool(b)) => a == b,
            (Self::Int(a), Self::Int(b)) => a == b,
            (Self::Uint(a), Self::Uint(b)) => a == b,
            // Numbers are the same whatever their type.
            (Self::Int(a), Self::Uint(b)) | (Self::Uint(b), Self::Int(a)) => u64::try_from(*a) == Ok(*b),
            (Self::String(a), Self::String(b)) => a == b,
            _ => false,
        }
    }
}

impl Eq for Key {}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self {
            Self::Bool(b) => b.hash(state),
            Self::Int(i) => (*i as u64).hash(state),
            Self::Uint(u) => u.hash(state),
            Self::String(s) => s.hash(state),
        }
    }
}

impl Key {
    /// The key that a value is; `None` if a value of its type can be no key.
    pub fn from_value(value: &Value) -> Option<Self> {
        Some(match value {
            Value::Bool(b) => Self::Bool(*b),
            Value::Int(i) => Self::Int(*i),
            Value::Uint(u) => Self::Uint(*u),
            Value::String(s) => Self::String(Arc::clone(s)),
            // Whole numbers only.
            Value::Double(d) if d.fract() == 0.0 && *d >= i64::MIN as f64 && *d < i64::MAX as f64 => {
                Self::Int(*d as i64)
            }
            _ => return None,
        })
    }

    pub fn to_value(&self) -> Value {
        match self {
            Self::Bool(b) => Value::Bool(*b),
            Self::Int(i) => Value::Int(*i),
            Self::Uint(u) => Value::Uint(*u),
            Self::String(s) => Value::String(Arc::clone(s)),
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::String(text.into())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::String(text.into())
    }
}

impl From<bool> for Value {
    fn from(flag: bool) -> Self {
        Self::Bool(flag)
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Int(number)
    }
}

impl From<Vec<Value>> for Value {
    fn from(items: Vec<Value>) -> Self {
        Self::List(Arc::new(items.into()))
    }
}

impl Value {
    pub(super) fn some(value: Value) -> Self {
        Self::Optional(Some(Arc::new(value)))
    }

    /// JSON without a schema: whole numbers become `int` (`double` if they do not fit), others `double`.
    pub fn from_json(json: &serde_json::Value) -> Self {
        use serde_json::Value as Json;
        match json {
            Json::Null => Self::Null,
            Json::Bool(b) => Self::Bool(*b),
            Json::Number(n) => n.as_i64().map_or_else(|| Self::Double(n.as_f64().unwrap_or_default()), Self::Int),
            Json::String(s) => Self::String(s.as_str().into()),
            Json::Array(items) => items.iter().map(Self::from_json).collect::<Vec<_>>().into(),
            Json::Object(members) => Self::from_members(members),
        }
    }

    /// A JSON object without a schema.
    pub fn from_members(members: &Map<String, serde_json::Value>) -> Self {
        let entries = members.iter().map(|(k, v)| (Key::String(k.as_str().into()), Self::from_json(v)));
        Self::Map(Arc::new(entries.collect()))
    }

    /// JSON by its declaration: names of properties are escaped, times and bytes are what they are. What does not fit
    /// its declaration is taken as it is.
    pub fn from_json_typed(json: &serde_json::Value, decl: &Decl) -> Self {
        use serde_json::Value as Json;
        match (json, &decl.ty) {
            (Json::Array(items), Type::List(_)) => match &decl.items {
                Some(items_decl) => {
                    let items = items.iter().map(|item| Self::from_json_typed(item, items_decl)).collect();
                    Self::List(Arc::new(List { items, kind: decl.list.clone() }))
                }
                None => Self::from_json(json),
            },
            (Json::Object(members), Type::Map(..)) => match &decl.items {
                Some(items) => {
                    let entry =
                        |(k, v): (&String, &Json)| (Key::String(k.as_str().into()), Self::from_json_typed(v, items));
                    Self::Map(Arc::new(members.iter().map(entry).collect()))
                }
                None => Self::from_json(json),
            },
            (Json::Object(members), Type::Object(object)) => {
                // What is null counts as absent (`unstructuredMap.Find`).
                let entries = members.iter().filter(|(_, value)| !value.is_null()).filter_map(|(name, value)| {
                    let escaped = super::types::escape(name)?;
                    // What the schema does not know is not visible.
                    let field = object.fields.get(escaped.as_ref())?;
                    Some((Key::String(escaped.as_ref().into()), Self::from_json_typed(value, field)))
                });
                Self::Map(Arc::new(entries.collect()))
            }
            (Json::Number(n), Type::Double) => Self::Double(n.as_f64().unwrap_or_default()),
            (Json::Number(n), Type::Int) => match (n.as_i64(), n.as_f64()) {
                (Some(i), _) => Self::Int(i),
                (None, Some(d)) if d.fract() == 0.0 => Self::Int(d as i64),
                _ => Self::from_json(json),
            },
            (Json::String(s), Type::Timestamp) => super::library::time::timestamp(s)
                .ok()
                .or_else(|| super::library::time::date(s))
                .map_or_else(|| Self::from_json(json), Self::Timestamp),
            (Json::String(s), Type::Duration) => {
                super::library::time::duration(s).map_or_else(|| Self::from_json(json), Self::Duration)
            }
            (Json::String(s), Type::Bytes) => {
                use base64::Engine;
                match base64::engine::general_purpose::STANDARD.decode(s) {
                    Ok(bytes) => Self::Bytes(bytes.into()),
                    Err(_) => Self::from_json(json),
                }
            }
            _ => Self::from_json(json),
        }
    }

    /// As JSON.
    ///
    /// # Errors
    /// The name of a type that JSON cannot hold.
    pub fn to_json(&self) -> Result<serde_json::Value, String> {
        use serde_json::Value as Json;
        Ok(match self {
            Self::Null | Self::Optional(None) => Json::Null,
            Self::Bool(b) => Json::Bool(*b),
            Self::Int(i) => (*i).into(),
            Self::Uint(u) => (*u).into(),
            Self::Double(d) => {
                let number = if d.fract() == 0.0 && d.abs() < 9e15 {
                    Some(Number::from(*d as i64))
                } else {
                    Number::from_f64(*d)
                };
                number.map_or(Json::Null, Json::Number)
            }
            Self::String(s) => Json::String(s.to_string()),
            Self::Bytes(bytes) => {
                use base64::Engine;
                Json::String(base64::engine::general_purpose::STANDARD.encode(bytes))
            }
            Self::List(items) => Json::Array(items.iter().map(Self::to_json).collect::<Result<_, _>>()?),
            Self::Map(entries) => {
                let mut map = Map::new();
                for (key, value) in entries.iter() {
                    let key = match key {
                        Key::String(s) => s.to_string(),
                        Key::Bool(b) => b.to_string(),
                        Key::Int(i) => i.to_string(),
                        Key::Uint(u) => u.to_string(),
                    };
                    map.insert(key, value.to_json()?);
                }
                Json::Object(map)
            }
            Self::Struct(made) => {
                let mut map = Map::new();
                for (name, value) in &made.fields {
                    map.insert(name.to_string(), value.to_json()?);
                }
                Json::Object(map)
            }
            Self::Timestamp(time) => Json::String(super::library::time::print(*time)),
            Self::Duration(duration) => Json::String(super::library::time::print_duration(*duration)),
            Self::Optional(Some(inner)) => inner.to_json()?,
            Self::Quantity(quantity) => Json::String(quantity.to_string()),
            other => return Err(other.type_name().to_string()),
        })
    }

    /// The name of the value's type, as `type()` shows it.
    pub fn type_name(&self) -> Arc<str> {
        let name = match self {
            Self::Null => "null_type",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Uint(_) => "uint",
            Self::Double(_) => "double",
            Self::String(_) => "string",
            Self::Bytes(_) => "bytes",
            Self::List(_) => "list",
            Self::Map(_) => "map",
            Self::Timestamp(_) => "google.protobuf.Timestamp",
            Self::Duration(_) => "google.protobuf.Duration",
            Self::Type(_) => "type",
            Self::Optional(_) => "optional_type",
            Self::Quantity(_) => "kubernetes.Quantity",
            Self::Ip(_) => "net.IP",
            Self::Cidr(_) => "net.CIDR",
            Self::Url(_) => "kubernetes.URL",
            Self::Semver(_) => "kubernetes.Semver",
            Self::Format(_) => "kubernetes.NamedFormat",
            Self::Authz(authz) => authz.type_name(),
            Self::Struct(made) => return Arc::clone(&made.name),
        };
        name.into()
    }

    /// `traits.Sizer` for cost: characters, bytes, elements; 1 for everything else.
    pub(super) fn size(&self) -> u64 {
        match self {
            Self::String(s) => s.chars().count() as u64,
            Self::Bytes(b) => b.len() as u64,
            Self::List(items) => items.len() as u64,
            Self::Map(entries) => entries.len() as u64,
            Self::Ip(IpAddr::V4(_)) => 4,
            Self::Ip(IpAddr::V6(_)) => 16,
            Self::Cidr(cidr) => u64::from(cidr.bits).div_ceil(8),
            Self::Optional(Some(inner)) => inner.size(),
            _ => 1,
        }
    }

    /// Equality as `==` has it: numbers of different types compare by value; different types are not equal.
    pub fn equals(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Null, Self::Null) => true,
            (Self::Bool(a), Self::Bool(b)) => a == b,
            (Self::String(a), Self::String(b)) => a == b,
            (Self::Bytes(a), Self::Bytes(b)) => a == b,
            (Self::List(a), Self::List(b)) => a.equals(b),
            (Self::Map(a), Self::Map(b)) => {
                a.len() == b.len() && a.iter().all(|(k, v)| b.get(k).is_some_and(|w| v.equals(w)))
            }
            (Self::Timestamp(a), Self::Timestamp(b)) => a == b,
            (Self::Duration(a), Self::Duration(b)) => a == b,
            (Self::Type(a), Self::Type(b)) => a == b,
            (Self::Optional(a), Self::Optional(b)) => match (a, b) {
                (None, None) => true,
                (Some(a), Some(b)) => a.equals(b),
                _ => false,
            },
            (Self::Quantity(a), Self::Quantity(b)) => a.cmp(b) == Ordering::Equal,
            (Self::Ip(a), Self::Ip(b)) => a == b,
            (Self::Cidr(a), Self::Cidr(b)) => a == b,
            (Self::Url(a), Self::Url(b)) => a == b,
            (Self::Semver(a), Self::Semver(b)) => a.compare(b) == Ordering::Equal,
            (Self::Format(a), Self::Format(b)) => a.name == b.name,
            (Self::Authz(a), Self::Authz(b)) => Arc::ptr_eq(a, b),
            (Self::Struct(a), Self::Struct(b)) => {
                a.name == b.name
                    && a.fields.len() == b.fields.len()
                    && a.fields.iter().all(|(k, v)| b.fields.get(k).is_some_and(|w| v.equals(w)))
            }
            (a, b) => a.is_number() && b.is_number() && a.compare(b) == Some(Ordering::Equal),
        }
    }

    fn is_number(&self) -> bool {
        matches!(self, Self::Int(_) | Self::Uint(_) | Self::Double(_))
    }

    /// Order, where the two have one; `None` for NaN too.
    pub fn compare(&self, other: &Self) -> Option<Ordering> {
        Some(match (self, other) {
            (Self::Bool(a), Self::Bool(b)) => a.cmp(b),
            (Self::Int(a), Self::Int(b)) => a.cmp(b),
            (Self::Uint(a), Self::Uint(b)) => a.cmp(b),
            (Self::Double(a), Self::Double(b)) => return a.partial_cmp(b),
            (Self::Int(a), Self::Uint(b)) => i128::from(*a).cmp(&i128::from(*b)),
            (Self::Uint(a), Self::Int(b)) => i128::from(*a).cmp(&i128::from(*b)),
            (Self::Int(a), Self::Double(b)) => return compare_with_double(i128::from(*a), *b),
            (Self::Uint(a), Self::Double(b)) => return compare_with_double(i128::from(*a), *b),
            (Self::Double(a), Self::Int(b)) => return compare_with_double(i128::from(*b), *a).map(Ordering::reverse),
            (Self::Double(a), Self::Uint(b)) => return compare_with_double(i128::from(*b), *a).map(Ordering::reverse),
            (Self::String(a), Self::String(b)) => a.cmp(b),
            (Self::Bytes(a), Self::Bytes(b)) => a.cmp(b),
            (Self::Timestamp(a), Self::Timestamp(b)) => a.cmp(b),
            (Self::Duration(a), Self::Duration(b)) => a.cmp(b),
            _ => return None,
        })
    }

    /// `traits.Zeroer`: what `optional.ofNonZeroValue` leaves out.
    pub(super) fn is_zero(&self) -> bool {
        match self {
            Self::Null => true,
            Self::Bool(b) => !b,
            Self::Int(i) => *i == 0,
            Self::Uint(u) => *u == 0,
            Self::Double(d) => *d == 0.0,
            Self::String(s) => s.is_empty(),
            Self::Bytes(b) => b.is_empty(),
            Self::List(items) => items.is_empty(),
            Self::Map(entries) => entries.is_empty(),
            Self::Duration(d) => d.is_zero(),
            Self::Timestamp(time) => time.is_zero(),
            Self::Optional(inner) => inner.is_none(),
            Self::Struct(made) => made.fields.is_empty(),
            _ => false,
        }
    }
}

/// An integer against a double, without losing digits.
fn compare_with_double(integer: i128, double: f64) -> Option<Ordering> {
    if double.is_nan() {
        return None;
    }
    if double >= 2e19 {
        return Some(Ordering::Less);
    }
    if double <= -1e19 {
        return Some(Ordering::Greater);
    }
    let whole = double.trunc();
    Some(match integer.cmp(&(whole as i128)) {
        Ordering::Equal if double > whole => Ordering::Less,
        Ordering::Equal if double < whole => Ordering::Greater,
        order => order,
    })
}
