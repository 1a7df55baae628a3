//! Operators, conversions and what works on values of any kind.

use std::cmp::Ordering;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::time;
use crate::cel::error::EvalError;
use crate::cel::eval::Result;
use crate::cel::value::{Key, Value};

fn overflow(what: &str) -> EvalError {
    EvalError::new(format!("{what} overflow"))
}

pub(super) fn call(name: &str, args: &[Value]) -> Option<Result> {
    Some(match (name, args) {
        ("_==_", [a, b]) => Ok(Value::Bool(a.equals(b))),
        ("_!=_", [a, b]) => Ok(Value::Bool(!a.equals(b))),
        ("_<_", [a, b]) => order(a, b, Ordering::is_lt),
        ("_<=_", [a, b]) => order(a, b, Ordering::is_le),
        ("_>_", [a, b]) => order(a, b, Ordering::is_gt),
        ("_>=_", [a, b]) => order(a, b, Ordering::is_ge),
        ("!_", [Value::Bool(b)]) => Ok(Value::Bool(!b)),
        ("-_", [Value::Int(i)]) => i.checked_neg().map(Value::Int).ok_or_else(|| overflow("integer")),
        ("-_", [Value::Double(d)]) => Ok(Value::Double(-d)),
        ("_+_", [a, b]) => add(a, b),
        ("_-_", [a, b]) => subtract(a, b),
        ("_*_", [Value::Int(a), Value::Int(b)]) => a.checked_mul(*b).map(Value::Int).ok_or_else(|| overflow("integer")),
        ("_*_", [Value::Uint(a), Value::Uint(b)]) => {
            a.checked_mul(*b).map(Value::Uint).ok_or_else(|| overflow("unsigned integer"))
        }
        ("_*_", [Value::Double(a), Value::Double(b)]) => Ok(Value::Double(a * b)),
        ("_/_", [Value::Int(_), Value::Int(0)] | [Value::Uint(_), Value::Uint(0)]) => {
            Err(EvalError::new("division by zero"))
        }
        ("_/_", [Value::Int(a), Value::Int(b)]) => a.checked_div(*b).map(Value::Int).ok_or_else(|| overflow("integer")),
        ("_/_", [Value::Uint(a), Value::Uint(b)]) => Ok(Value::Uint(a / b)),
        ("_/_", [Value::Double(a), Value::Double(b)]) => Ok(Value::Double(a / b)),
        ("_%_", [Value::Int(_), Value::Int(0)] | [Value::Uint(_), Value::Uint(0)]) => {
            Err(EvalError::new("modulus by zero"))
        }
        ("_%_", [Value::Int(a), Value::Int(b)]) => a.checked_rem(*b).map(Value::Int).ok_or_else(|| overflow("integer")),
        ("_%_", [Value::Uint(a), Value::Uint(b)]) => Ok(Value::Uint(a % b)),
        ("@in", [value, Value::List(items)]) => Ok(Value::Bool(items.iter().any(|item| item.equals(value)))),
        ("@in", [value, Value::Map(entries)]) => {
            Ok(Value::Bool(Key::from_value(value).is_some_and(|key| entries.contains_key(&key))))
        }
        ("size", [Value::String(s)]) => Ok(Value::Int(s.chars().count() as i64)),
        ("size", [Value::Bytes(b)]) => Ok(Value::Int(b.len() as i64)),
        ("size", [Value::List(items)]) => Ok(Value::Int(items.len() as i64)),
        ("size", [Value::Map(entries)]) => Ok(Value::Int(entries.len() as i64)),
        ("type", [value]) => Ok(Value::Type(value.type_name())),
        ("dyn", [value]) => Ok(value.clone()),
        ("bool" | "int" | "uint" | "double" | "string" | "bytes", [value]) => convert(name, value),
        ("optional.of", [value]) => Ok(Value::some(value.clone())),
        ("optional.ofNonZeroValue", [value]) if value.is_zero() => Ok(Value::Optional(None)),
        ("optional.ofNonZeroValue", [value]) => Ok(Value::some(value.clone())),
        ("optional.none", []) => Ok(Value::Optional(None)),
        ("hasValue", [Value::Optional(inner)]) => Ok(Value::Bool(inner.is_some())),
        ("value", [Value::Optional(inner)]) => match inner {
            Some(inner) => Ok((**inner).clone()),
            None => Err(EvalError::new("optional.none() dereference")),
        },
        _ => return None,
    })
}

fn order(a: &Value, b: &Value, wanted: fn(Ordering) -> bool) -> Result {
    match a.compare(b) {
        Some(found) => Ok(Value::Bool(wanted(found))),
        None if is_nan(a) || is_nan(b) => Ok(Value::Bool(false)),
        None => Err(EvalError::no_such_overload()),
    }
}

fn is_nan(value: &Value) -> bool {
    matches!(value, Value::Double(d) if d.is_nan())
}

fn add(a: &Value, b: &Value) -> Result {
    Ok(match (a, b) {
        (Value::Int(a), Value::Int(b)) => Value::Int(a.checked_add(*b).ok_or_else(|| overflow("integer"))?),
        (Value::Uint(a), Value::Uint(b)) => Value::Uint(a.checked_add(*b).ok_or_else(|| overflow("unsigned integer"))?),
        (Value::Double(a), Value::Double(b)) => Value::Double(a + b),
        (Value::String(a), Value::String(b)) => {
            super::bounded(a.len() + b.len())?;
            Value::String(format!("{a}{b}").into())
        }
        (Value::Bytes(a), Value::Bytes(b)) => {
            super::bounded(a.len() + b.len())?;
            Value::Bytes([&**a, &**b].concat().into())
        }
        (Value::List(a), Value::List(b)) => {
            super::bounded((a.len() + b.len()) * size_of::<Value>())?;
            Value::List(Arc::new(a.iter().chain(b.iter()).cloned().collect()))
        }
        (Value::Timestamp(t), Value::Duration(d)) | (Value::Duration(d), Value::Timestamp(t)) => {
            Value::Timestamp(shift(*t, *d)?)
        }
        (Value::Duration(a), Value::Duration(b)) => {
            Value::Duration(a.checked_add(*b).ok_or_else(|| overflow("duration"))?)
        }
        _ => return Err(EvalError::no_such_overload()),
    })
}

fn subtract(a: &Value, b: &Value) -> Result {
    Ok(match (a, b) {
        (Value::Int(a), Value::Int(b)) => Value::Int(a.checked_sub(*b).ok_or_else(|| overflow("integer"))?),
        (Value::Uint(a), Value::Uint(b)) => Value::Uint(a.checked_sub(*b).ok_or_else(|| overflow("unsigned integer"))?),
        (Value::Double(a), Value::Double(b)) => Value::Double(a - b),
        (Value::Timestamp(a), Value::Timestamp(b)) => Value::Duration(a.duration_since(*b)),
        (Value::Timestamp(t), Value::Duration(d)) => {
            Value::Timestamp(shift(*t, d.checked_neg().ok_or_else(|| overflow("timestamp"))?)?)
        }
        (Value::Duration(a), Value::Duration(b)) => {
            Value::Duration(a.checked_sub(*b).ok_or_else(|| overflow("duration"))?)
        }
        _ => return Err(EvalError::no_such_overload()),
    })
}

fn shift(time: Timestamp, by: SignedDuration) -> Result<Timestamp> {
    time.checked_add(by).map_err(|_| overflow("timestamp"))
}

fn convert(to: &str, value: &Value) -> Result {
    let failed = || EvalError::new(format!("type conversion error from '{}' to '{to}'", value.type_name()));
    let range = |what: &str| EvalError::new(format!("{what} overflow"));
    Ok(match (to, value) {
        ("bool", Value::Bool(_))
        | ("int", Value::Int(_))
        | ("uint", Value::Uint(_))
        | ("double", Value::Double(_))
        | ("string", Value::String(_))
        | ("bytes", Value::Bytes(_)) => value.clone(),
        ("bool", Value::String(text)) => match &**text {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Value::Bool(true),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Value::Bool(false),
            _ => return Err(EvalError::new(format!("type conversion error from '{text}' to 'bool'"))),
        },
        ("int", Value::Uint(u)) => Value::Int(i64::try_from(*u).map_err(|_| range("integer"))?),
        ("int", Value::Double(d)) if *d > i64::MIN as f64 && *d < i64::MAX as f64 => Value::Int(*d as i64),
        ("int", Value::Double(_)) => return Err(range("integer")),
        ("int", Value::String(s)) => Value::Int(
            s.parse().map_err(|_| EvalError::new(format!("strconv.ParseInt: parsing {s:?}: invalid syntax")))?,
        ),
        ("int", Value::Timestamp(t)) => Value::Int(t.as_second()),
        ("int", Value::Duration(d)) => Value::Int(i64::try_from(d.as_nanos()).map_err(|_| range("integer"))?),
        ("uint", Value::Int(i)) => Value::Uint(u64::try_from(*i).map_err(|_| range("unsigned integer"))?),
        ("uint", Value::Double(d)) if *d >= 0.0 && *d < u64::MAX as f64 => Value::Uint(*d as u64),
        ("uint", Value::Double(_)) => return Err(range("unsigned integer")),
        ("uint", Value::String(s)) => Value::Uint(
            s.parse().map_err(|_| EvalError::new(format!("strconv.ParseUint: parsing {s:?}: invalid syntax")))?,
        ),
        ("double", Value::Int(i)) => Value::Double(*i as f64),
        ("double", Value::Uint(u)) => Value::Double(*u as f64),
        ("double", Value::String(s)) => Value::Double(
            s.parse().map_err(|_| EvalError::new(format!("strconv.ParseFloat: parsing {s:?}: invalid syntax")))?,
        ),
        ("string", Value::Bool(b)) => b.to_string().into(),
        ("string", Value::Int(i)) => i.to_string().into(),
        ("string", Value::Uint(u)) => u.to_string().into(),
        ("string", Value::Double(d)) => super::text::print_double(*d).into(),
        ("string", Value::Bytes(b)) => match std::str::from_utf8(b) {
            Ok(text) => text.into(),
            Err(_) => return Err(EvalError::new("invalid UTF-8 in bytes, cannot convert to string")),
        },
        ("string", Value::Timestamp(t)) => time::print(*t).into(),
        ("string", Value::Duration(d)) => time::print_duration(*d).into(),
        ("string", Value::Ip(ip)) => ip.to_string().into(),
        ("string", Value::Cidr(cidr)) => format!("{}/{}", cidr.address, cidr.bits).into(),
        ("bytes", Value::String(s)) => Value::Bytes(s.as_bytes().into()),
        _ => return Err(failed()),
    })
}

/// What a list or map has at an index; an error if it is nothing.
pub(in crate::cel) fn index(container: &Value, index: &Value) -> Result {
    match container {
        Value::Optional(None) => Ok(Value::Optional(None)),
        Value::Optional(Some(inner)) => optional_index(inner, index),
        _ => find(container, index)?.ok_or_else(|| match container {
            Value::List(_) => EvalError::new(format!("index out of bounds: {}", super::text::shown(index))),
            _ => EvalError::new(format!("no such key: {}", super::text::shown(index))),
        }),
    }
}

/// `container[?index]`.
pub(in crate::cel) fn optional_index(container: &Value, index: &Value) -> Result {
    match container {
        Value::Optional(None) => Ok(Value::Optional(None)),
        Value::Optional(Some(inner)) => optional_index(inner, index),
        _ => Ok(Value::Optional(find(container, index)?.map(Arc::new))),
    }
}

fn find(container: &Value, index: &Value) -> Result<Option<Value>> {
    match container {
        Value::List(items) => {
            let at = match index {
                Value::Int(i) => usize::try_from(*i).ok(),
                Value::Uint(u) => usize::try_from(*u).ok(),
                Value::Double(d) if d.fract() == 0.0 && *d >= 0.0 => Some(*d as usize),
                _ => return Err(EvalError::no_such_overload()),
            };
            Ok(at.and_then(|at| items.get(at)).cloned())
        }
        Value::Map(entries) => match Key::from_value(index) {
            Some(key) => Ok(entries.get(&key).cloned()),
            None => Err(EvalError::no_such_overload()),
        },
        _ => Err(EvalError::no_such_overload()),
    }
}
