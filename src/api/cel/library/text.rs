//! Texts: the string extensions of cel-go in version 2, regular expressions, `format`.

use std::collections::HashMap;
use std::sync::Arc;

use regex::Regex;

use super::bounded;
use crate::cel::error::EvalError;
use crate::cel::eval::Result;
use crate::cel::value::Value;

pub(super) fn call(name: &str, args: &[Value], regexes: &HashMap<String, Arc<Regex>>) -> Option<Result> {
    Some(match (name, args) {
        ("contains", [Value::String(s), Value::String(part)]) => Ok(Value::Bool(s.contains(&**part))),
        ("startsWith", [Value::String(s), Value::String(part)]) => Ok(Value::Bool(s.starts_with(&**part))),
        ("endsWith", [Value::String(s), Value::String(part)]) => Ok(Value::Bool(s.ends_with(&**part))),
        ("matches", [Value::String(s), Value::String(regex)]) => {
            with_regex(regex, regexes, |regex| Ok(Value::Bool(regex.is_match(s))))
        }
        ("find", [Value::String(s), Value::String(regex)]) => {
            with_regex(regex, regexes, |regex| Ok(regex.find(s).map_or("", |m| m.as_str()).into()))
        }
        ("findAll", [Value::String(s), Value::String(regex), rest @ ..]) => {
            let limit = match rest {
                [] => usize::MAX,
                [Value::Int(n)] => usize::try_from(*n).unwrap_or(usize::MAX),
                _ => return None,
            };
            with_regex(regex, regexes, |regex| {
                let found: Vec<Value> = regex.find_iter(s).take(limit).map(|m| m.as_str().into()).collect();
                Ok(found.into())
            })
        }
        ("charAt", [Value::String(s), Value::Int(at)]) => char_at(s, *at),
        ("indexOf", [Value::String(s), Value::String(part), rest @ ..]) => index_of(s, part, offset(rest)?),
        ("lastIndexOf", [Value::String(s), Value::String(part), rest @ ..]) => last_index_of(s, part, offset(rest)?),
        ("lowerAscii", [Value::String(s)]) => Ok(s.to_ascii_lowercase().into()),
        ("upperAscii", [Value::String(s)]) => Ok(s.to_ascii_uppercase().into()),
        ("trim", [Value::String(s)]) => Ok(s.trim().into()),
        ("reverse", [Value::String(s)]) => Ok(s.chars().rev().collect::<String>().into()),
        ("replace", [Value::String(s), Value::String(from), Value::String(to), rest @ ..]) => {
            let limit = match rest {
                [] => usize::MAX,
                [Value::Int(n)] => usize::try_from(*n).unwrap_or(usize::MAX),
                _ => return None,
            };
            replace(s, from, to, limit)
        }
        ("split", [Value::String(s), Value::String(separator), rest @ ..]) => {
            let limit = match rest {
                [] => -1,
                [Value::Int(n)] => *n,
                _ => return None,
            };
            Ok(split(s, separator, limit))
        }
        ("substring", [Value::String(s), Value::Int(from), rest @ ..]) => {
            let to = match rest {
                [] => None,
                [Value::Int(to)] => Some(*to),
                _ => return None,
            };
            substring(s, *from, to)
        }
        ("join", [Value::List(items), rest @ ..]) => {
            let separator = match rest {
                [] => "",
                [Value::String(separator)] => separator,
                _ => return None,
            };
            join(items, separator)
        }
        ("strings.quote", [Value::String(s)]) => Ok(quote(s).into()),
        ("format", [Value::String(s), Value::List(items)]) => super::formatting::format(s, items).map(Value::from),
        ("jsonpatch.escapeKey", [Value::String(s)]) => Ok(s.replace('~', "~0").replace('/', "~1").into()),
        _ => return None,
    })
}

fn with_regex(pattern: &str, known: &HashMap<String, Arc<Regex>>, run: impl Fn(&Regex) -> Result) -> Result {
    match known.get(pattern) {
        Some(regex) => run(regex),
        None => run(&*crate::structural::pattern::compile(pattern).map_err(EvalError::new)?),
    }
}

fn offset(rest: &[Value]) -> Option<Option<i64>> {
    match rest {
        [] => Some(None),
        [Value::Int(at)] => Some(Some(*at)),
        _ => None,
    }
}

fn out_of_range(at: i64) -> EvalError {
    EvalError::new(format!("index out of range: {at}"))
}

fn char_at(s: &str, at: i64) -> Result {
    let count = s.chars().count() as i64;
    if at < 0 || at > count {
        return Err(out_of_range(at));
    }
    Ok(s.chars().nth(at as usize).map(String::from).unwrap_or_default().into())
}

fn index_of(s: &str, part: &str, from: Option<i64>) -> Result {
    let from = from.unwrap_or(0);
    let Ok(start) = usize::try_from(from) else { return Err(out_of_range(from)) };
    if part.is_empty() {
        return Ok(Value::Int(from.min(s.chars().count() as i64)));
    }
    // What is behind the end is not found.
    let rest = s.char_indices().nth(start).map_or("", |(at, _)| &s[at..]);
    Ok(Value::Int(rest.find(part).map_or(-1, |at| from + rest[..at].chars().count() as i64)))
}

fn last_index_of(s: &str, part: &str, from: Option<i64>) -> Result {
    let count = s.chars().count() as i64;
    if let Some(from) = from.filter(|from| *from < 0) {
        return Err(out_of_range(from));
    }
    if part.is_empty() {
        return Ok(Value::Int(from.unwrap_or(count).min(count)));
    }
    if from.is_some_and(|from| from >= count) {
        return Ok(Value::Int(-1));
    }
    let last = from.unwrap_or(count);
    let mut best = -1;
    for (nth, (at, _)) in s.char_indices().enumerate() {
        if nth as i64 > last {
            break;
        }
        if s[at..].starts_with(part) {
            best = nth as i64;
        }
    }
    Ok(Value::Int(best))
}

fn replace(s: &str, from: &str, to: &str, limit: usize) -> Result {
    let places = if from.is_empty() { s.chars().count() + 1 } else { s.matches(from).count() };
    bounded(s.len().saturating_add(places.min(limit).saturating_mul(to.len())))?;
    Ok(if limit == usize::MAX { s.replace(from, to) } else { s.replacen(from, to, limit) }.into())
}

/// Go's `strings.SplitN`.
fn split(s: &str, separator: &str, limit: i64) -> Value {
    let limit = match limit {
        0 => return Vec::new().into(),
        n if n < 0 => usize::MAX,
        n => n as usize,
    };
    let parts: Vec<Value> = if separator.is_empty() {
        let mut parts: Vec<Value> = Vec::new();
        let mut rest = s;
        while let Some(c) = rest.chars().next() {
            if parts.len() + 1 == limit {
                parts.push(rest.into());
                rest = "";
                break;
            }
            let (one, after) = rest.split_at(c.len_utf8());
            parts.push(one.into());
            rest = after;
        }
        let _ = rest;
        parts
    } else {
        s.splitn(limit, separator).map(Value::from).collect()
    };
    parts.into()
}

fn substring(s: &str, from: i64, to: Option<i64>) -> Result {
    let count = s.chars().count() as i64;
    if let Some(end) = to.filter(|end| from > *end) {
        return Err(EvalError::new(format!("invalid substring range. start: {from}, end: {end}")));
    }
    let end = to.unwrap_or(count);
    if from < 0 || from > count {
        return Err(out_of_range(from));
    }
    if end < 0 || end > count {
        return Err(out_of_range(end));
    }
    Ok(s.chars().skip(from as usize).take((end - from) as usize).collect::<String>().into())
}

fn join(items: &[Value], separator: &str) -> Result {
    let mut texts = Vec::with_capacity(items.len());
    let mut size = 0usize;
    for item in items {
        let Value::String(text) = item else { return Err(EvalError::no_such_overload()) };
        size += text.len() + separator.len();
        bounded(size)?;
        texts.push(&**text);
    }
    Ok(texts.join(separator).into())
}

fn quote(s: &str) -> String {
    let mut out = String::from("\"");
    for c in s.chars() {
        match c {
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// A double as Go's `%g` prints it: as few digits as tell it apart, with an exponent below -4 and from 6 on.
pub(super) fn print_double(number: f64) -> String {
    if number.is_nan() {
        return "NaN".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    let text = format!("{number:e}");
    let exponent = text.split_once('e').and_then(|(_, exponent)| exponent.parse::<i32>().ok()).unwrap_or_default();
    if (-4..6).contains(&exponent) {
        return number.to_string();
    }
    with_go_exponent(text)
}

/// The exponent as Go writes it: always with a sign, and with two digits at least.
fn with_go_exponent(text: String) -> String {
    match text.split_once('e') {
        Some((mantissa, exponent)) => {
            let (sign, digits) = match exponent.strip_prefix('-') {
                Some(digits) => ('-', digits),
                None => ('+', exponent),
            };
            format!("{mantissa}e{sign}{digits:0>2}")
        }
        None => text,
    }
}

/// A value in a message.
pub(in crate::cel) fn shown(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(b) => b.to_string(),
        Value::Int(i) => i.to_string(),
        Value::Uint(u) => u.to_string(),
        Value::Double(d) => print_double(*d),
        Value::String(s) => s.to_string(),
        Value::Bytes(b) => String::from_utf8_lossy(b).into_owned(),
        Value::Timestamp(t) => super::time::print(*t),
        Value::Duration(d) => super::time::print_duration(*d),
        Value::Type(name) => name.to_string(),
        Value::Ip(ip) => ip.to_string(),
        Value::Cidr(cidr) => format!("{}/{}", cidr.address, cidr.bits),
        Value::Quantity(quantity) => quantity.to_string(),
        other => other.type_name().to_string(),
    }
}

/// What is no finite number, as `golang.org/x/text` prints it.
pub(super) fn infinite(number: f64) -> String {
    if number.is_nan() {
        "NaN".to_owned()
    } else if number > 0.0 {
        "∞".to_owned()
    } else {
        "-∞".to_owned()
    }
}

/// Shared with lists: the text of a key that is missing.
pub(super) fn strings(items: impl IntoIterator<Item = String>) -> Value {
    items.into_iter().map(Value::from).collect::<Vec<_>>().into()
}
