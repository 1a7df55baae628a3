//! Operators, conversions and what works on values of any kind.

use std::cmp::Ordering;
use std::sync::Arc;

use jiff::SignedDuration;

use super::time;
use crate::cel::error::EvalError;
use crate::cel::eval::Result;
use crate::cel::value::{Key, List, Value};
use crate::codec::go_quote as quote;

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
        ("-_", [Value::Duration(d)]) => nanos(in_nanos(*d).checked_neg()),
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
            Value::List(Arc::new(List::sum(a, b)?))
        }
        (Value::Timestamp(t), Value::Duration(d)) | (Value::Duration(d), Value::Timestamp(t)) => {
            Value::Timestamp(t.add(*d)?)
        }
        (Value::Duration(a), Value::Duration(b)) => nanos(in_nanos(*a).checked_add(in_nanos(*b)))?,
        _ => return Err(EvalError::no_such_overload()),
    })
}

fn subtract(a: &Value, b: &Value) -> Result {
    Ok(match (a, b) {
        (Value::Int(a), Value::Int(b)) => Value::Int(a.checked_sub(*b).ok_or_else(|| overflow("integer"))?),
        (Value::Uint(a), Value::Uint(b)) => Value::Uint(a.checked_sub(*b).ok_or_else(|| overflow("unsigned integer"))?),
        (Value::Double(a), Value::Double(b)) => Value::Double(a - b),
        (Value::Timestamp(a), Value::Timestamp(b)) => {
            a.since(*b).map(Value::Duration).ok_or_else(|| overflow("integer"))?
        }
        (Value::Timestamp(t), Value::Duration(d)) => match in_nanos(*d).checked_neg() {
            Some(back) => Value::Timestamp(t.add(SignedDuration::from_nanos(back))?),
            None => return Err(overflow("integer")),
        },
        (Value::Duration(a), Value::Duration(b)) => nanos(in_nanos(*a).checked_sub(in_nanos(*b)))?,
        _ => return Err(EvalError::no_such_overload()),
    })
}

/// A duration of so many nanoseconds.
fn nanos(nanos: Option<i64>) -> Result {
    nanos.map(|nanos| Value::Duration(SignedDuration::from_nanos(nanos))).ok_or_else(|| overflow("integer"))
}

/// The nanoseconds of a duration, all of which fit.
fn in_nanos(duration: SignedDuration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

/// Go's `strconv.Atoi`.
pub(super) fn atoi(text: &str) -> std::result::Result<i64, String> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(format!("strconv.Atoi: parsing {}: invalid syntax", quote(text)));
    }
    text.parse().map_err(|_| format!("strconv.Atoi: parsing {}: value out of range", quote(text)))
}

/// Go's `strconv.ParseFloat`, which reads hexadecimal numbers and refuses what does not fit.
fn parse_double(text: &str) -> Option<f64> {
    if text.contains('_') {
        // They may stand between digits.
        let bytes = text.as_bytes();
        let digit = |at: Option<usize>| at.and_then(|at| bytes.get(at)).is_some_and(u8::is_ascii_hexdigit);
        let fine = text.match_indices('_').all(|(at, _)| digit(at.checked_sub(1)) && digit(Some(at + 1)));
        return if fine { parse_double(&text.replace('_', "")) } else { None };
    }
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if let Some(hex) = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        let (mantissa, exponent) = hex.split_once(['p', 'P'])?;
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let all = format!("{whole}{fraction}");
        if all.is_empty() || !all.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        let exponent =
            exponent.parse::<i32>().ok()?.checked_sub(i32::try_from(fraction.len()).ok()?.checked_mul(4)?)?;
        let mantissa = all.chars().filter_map(|c| c.to_digit(16)).fold(0.0, |sum, digit| sum * 16.0 + f64::from(digit));
        let number = mantissa * 2f64.powi(exponent);
        return number.is_finite().then_some(if text.starts_with('-') { -number } else { number });
    }
    let number: f64 = text.parse().ok()?;
    let named = digits.starts_with(|c: char| c.is_ascii_alphabetic());
    // A sign before NaN is none of Go's.
    ((number.is_finite() || named) && !(number.is_nan() && digits.len() < text.len())).then_some(number)
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
            _ => return Err(failed()),
        },
        ("int", Value::Uint(u)) => Value::Int(i64::try_from(*u).map_err(|_| range("integer"))?),
        ("int", Value::Double(d)) if *d > i64::MIN as f64 && *d < i64::MAX as f64 => Value::Int(*d as i64),
        ("int", Value::Double(_)) => return Err(range("integer")),
        ("int", Value::String(s)) => Value::Int(s.parse().map_err(|_| failed())?),
        ("int", Value::Timestamp(t)) => Value::Int(t.unix()),
        ("int", Value::Duration(d)) => Value::Int(i64::try_from(d.as_nanos()).map_err(|_| range("integer"))?),
        ("uint", Value::Int(i)) => Value::Uint(u64::try_from(*i).map_err(|_| range("unsigned integer"))?),
        ("uint", Value::Double(d)) if *d >= 0.0 && *d < u64::MAX as f64 => Value::Uint(*d as u64),
        ("uint", Value::Double(_)) => return Err(range("unsigned integer")),
        // A sign is refused.
        ("uint", Value::String(s)) if s.starts_with('+') => return Err(failed()),
        ("uint", Value::String(s)) => Value::Uint(s.parse().map_err(|_| failed())?),
        ("double", Value::Int(i)) => Value::Double(*i as f64),
        ("double", Value::Uint(u)) => Value::Double(*u as f64),
        ("double", Value::String(s)) => Value::Double(parse_double(s).ok_or_else(failed)?),
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
