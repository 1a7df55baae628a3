//! A parsed document that still has the order and the duplicates of its text.

use std::borrow::Cow;

use serde_json::{Map, Number, Value};

/// How deep documents may nest. Everything read later, from the store too, goes through parsers with a limit of 128,
/// so what is deeper must not come in. (Go's limit is 10,000; no kind needs more than about 60.)
pub const MAX_DEPTH: usize = 120;

/// How many structs one object may consist of. A few bytes of a body can stand for a struct of a kilobyte; real objects
/// have hundreds of them, the largest some ten thousand.
pub const MAX_STRUCTS: usize = 100_000;

/// One value of a document.
#[derive(Debug, Clone, PartialEq)]
pub enum Node<'a> {
    Null,
    Bool(bool),
    /// The text of a JSON number.
    Number(Cow<'a, str>),
    String(Cow<'a, str>),
    Array(Vec<Node<'a>>),
    /// Members in the order of the text; a name may come twice.
    Object(Vec<(Cow<'a, str>, Node<'a>)>),
}

impl<'a> Node<'a> {
    /// Go's word for it in `json.UnmarshalTypeError.Value`.
    pub fn go_word(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "bool",
            Self::Number(_) => "number",
            Self::String(_) => "string",
            Self::Array(_) => "array",
            Self::Object(_) => "object",
        }
    }

    /// A view of a value.
    pub fn from_value(value: &'a Value) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Bool(b) => Self::Bool(*b),
            Value::Number(n) => Self::Number(Cow::Owned(n.to_string())),
            Value::String(s) => Self::String(Cow::Borrowed(s)),
            Value::Array(items) => Self::Array(items.iter().map(Self::from_value).collect()),
            Value::Object(map) => Self::Object(Self::members(map)),
        }
    }

    pub fn members(map: &'a Map<String, Value>) -> Vec<(Cow<'a, str>, Self)> {
        map.iter().map(|(k, v)| (Cow::Borrowed(k.as_str()), Self::from_value(v))).collect()
    }

    /// The value without any schema; of equal names the last counts.
    pub fn into_value(self) -> Value {
        match self {
            Self::Null => Value::Null,
            Self::Bool(b) => Value::Bool(b),
            Self::Number(text) => Value::Number(number(&text)),
            Self::String(s) => Value::String(s.into_owned()),
            Self::Array(items) => Value::Array(items.into_iter().map(Self::into_value).collect()),
            Self::Object(members) => {
                Value::Object(members.into_iter().map(|(k, v)| (k.into_owned(), v.into_value())).collect())
            }
        }
    }

    /// The last member of this name.
    pub fn member(&self, name: &str) -> Option<&Self> {
        match self {
            Self::Object(members) => members.iter().rev().find(|(k, _)| k == name).map(|(_, v)| v),
            _ => None,
        }
    }
}

/// A number as untyped Go fields hold it (sigs.k8s.io/json with preserved integers): an integer if it reads as one,
/// else a float.
pub fn number(text: &str) -> Number {
    if let Ok(n) = text.parse::<i64>() {
        return n.into();
    }
    // Out of range reads as infinite, which JSON has no number for.
    let float = text.parse::<f64>().unwrap_or_default();
    Number::from_f64(float).unwrap_or_else(|| Number::from(0))
}

/// Floats without a fraction become integers, as Go prints them (`2.0` is `2`) and upstream therefore stores them where
/// no schema says what they are.
pub fn settle_numbers(value: &mut Value) {
    match value {
        Value::Number(n) => {
            // Beyond this not every integer is a float, and Go prints an exponent from 1e21 on.
            const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
            if n.is_f64()
                && let Some(float) = n.as_f64()
                && float.fract() == 0.0
                && float.abs() <= EXACT_MAX
            {
                *value = Value::from(float as i64);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(settle_numbers),
        Value::Object(map) => map.values_mut().for_each(settle_numbers),
        _ => {}
    }
}
