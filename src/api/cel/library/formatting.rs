//! `'…'.format([…])` (cel-go `ext/formatting.go`): what its clauses print at run time, and which of them are refused when
//! an expression is compiled.

use super::bounded;
use super::text::{infinite, shown};
use crate::cel::ast::{Call, Expr, Kind};
use crate::cel::error::{EvalError, Issue};
use crate::cel::eval::Result;
use crate::cel::types::Type;
use crate::cel::value::{Key, Value};
use crate::codec::go_quote as quote;

/// What follows a `%`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Clause {
    Text,
    Decimal,
    Fixed(usize),
    /// The precision that is asked for becomes the width, as in cel-go.
    Scientific(usize),
    Binary,
    Hex,
    UpperHex,
    Octal,
}

const PRECISION: usize = 6;

/// Goes through a format. `print` gets the number of the argument, of which there are `count` if that is known, and its
/// clause.
fn walk<E: From<EvalError>>(
    text: &str,
    count: usize,
    mut print: impl FnMut(usize, Clause) -> std::result::Result<String, E>,
) -> std::result::Result<(String, usize), E> {
    let mut out = String::new();
    let (mut rest, mut next) = (text, 0);
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('%') {
            out.push('%');
            rest = after;
            continue;
        }
        if rest.is_empty() && next < count {
            return Err(EvalError::new("unexpected end of string").into());
        }
        if next >= count {
            return Err(EvalError::new(format!("index {next} out of range")).into());
        }
        let (clause, after) =
            clause(rest).map_err(|why| EvalError::new(format!("could not parse formatting clause: {why}")))?;
        out.push_str(&print(next, clause)?);
        bounded(out.len())?;
        rest = after;
        next += 1;
    }
    out.push_str(rest);
    Ok((out, next))
}

/// The clause that a text begins with, and what is left of the text.
fn clause(text: &str) -> std::result::Result<(Clause, &str), String> {
    let (mut rest, mut precision) = (text, None);
    if let Some(after) = text.strip_prefix('.') {
        let digits = after.bytes().take_while(u8::is_ascii_digit).count();
        if digits == after.len() {
            return Err("error while parsing precision: could not find end of precision specifier".to_owned());
        }
        let number = super::standard::atoi(&after[..digits]).map_err(|why| {
            format!("error while parsing precision: error while converting precision to integer: {why}")
        })?;
        precision = usize::try_from(number).ok();
        rest = &after[digits..];
    }
    let clause = match rest.as_bytes().first() {
        Some(b's') => Clause::Text,
        Some(b'd') => Clause::Decimal,
        Some(b'f') => Clause::Fixed(precision.unwrap_or(PRECISION)),
        Some(b'e') => Clause::Scientific(precision.unwrap_or(PRECISION)),
        Some(b'b') => Clause::Binary,
        Some(b'x') => Clause::Hex,
        Some(b'X') => Clause::UpperHex,
        Some(b'o') => Clause::Octal,
        other => {
            // Bytes are taken for characters.
            let shown = other.copied().map(char::from).unwrap_or_default();
            return Err(format!("unrecognized formatting clause \"{shown}\""));
        }
    };
    Ok((clause, &rest[1..]))
}

impl Clause {
    /// Why the clause cannot print a value of a type.
    fn refusal(self, given: &str) -> String {
        let what = match self {
            Self::Text => {
                "string clause can only be used on strings, bools, bytes, ints, doubles, maps, lists, types, durations, \
                 and timestamps"
            }
            Self::Decimal => "decimal clause can only be used on integers",
            Self::Fixed(_) => "fixed-point clause can only be used on doubles",
            Self::Scientific(_) => "scientific clause can only be used on doubles",
            Self::Binary => "only integers and bools can be formatted as binary",
            Self::Hex | Self::UpperHex => "only integers, byte buffers, and strings can be formatted as hex",
            Self::Octal => "octal clause can only be used on integers",
        };
        format!("error during formatting: {what}, was given {given}")
    }

    fn print(self, value: &Value) -> Result<String> {
        Ok(match (self, value) {
            (Self::Text, value) => text(value)?.ok_or_else(|| EvalError::new(self.refusal(&value.type_name())))?,
            (Self::Decimal, Value::Int(i)) => i.to_string(),
            (Self::Decimal, Value::Uint(u)) => u.to_string(),
            (Self::Fixed(precision), value) if float(value).is_some() => {
                bounded(precision)?;
                fixed(float(value).unwrap_or_default(), precision)
            }
            (Self::Scientific(width), value) if float(value).is_some() => {
                bounded(width)?;
                let text = scientific(float(value).unwrap_or_default());
                format!("{text:>width$}")
            }
            (Self::Binary, Value::Int(i)) => signed(*i, |m| format!("{m:b}")),
            (Self::Binary, Value::Uint(u)) => format!("{u:b}"),
            (Self::Binary, Value::Bool(b)) => u8::from(*b).to_string(),
            (Self::Octal, Value::Int(i)) => signed(*i, |m| format!("{m:o}")),
            (Self::Octal, Value::Uint(u)) => format!("{u:o}"),
            (Self::Hex, value) => hex(value).ok_or_else(|| EvalError::new(self.refusal(&value.type_name())))?,
            (Self::UpperHex, value) => {
                hex(value).ok_or_else(|| EvalError::new(self.refusal(&value.type_name())))?.to_uppercase()
            }
            (clause, value) => return Err(EvalError::new(clause.refusal(&value.type_name()))),
        })
    }

    /// Whether the clause may print values of a type.
    fn takes(self, ty: &Type) -> bool {
        use Type as T;
        matches!(ty, T::Dyn)
            || match self {
                Self::Text => matches!(
                    ty,
                    T::List(_)
                        | T::Map(..)
                        | T::Int
                        | T::Uint
                        | T::Double
                        | T::Bool
                        | T::String
                        | T::Timestamp
                        | T::Bytes
                        | T::Duration
                        | T::Type
                        | T::Null
                ),
                Self::Decimal | Self::Octal => matches!(ty, T::Int | T::Uint),
                Self::Fixed(_) | Self::Scientific(_) => matches!(ty, T::Double | T::String),
                Self::Binary => matches!(ty, T::Int | T::Uint | T::Bool),
                Self::Hex | Self::UpperHex => matches!(ty, T::Int | T::Uint | T::String | T::Bytes),
            }
    }
}

pub(super) fn format(text: &str, items: &[Value]) -> Result<String> {
    let (out, _) = walk(text, items.len(), |at, clause| clause.print(&items[at]))?;
    Ok(out)
}

/// As `%s` prints a value; `None` if it does not.
fn text(value: &Value) -> Result<Option<String>> {
    Ok(Some(match value {
        Value::List(_) | Value::Map(_) => literal(value)?,
        Value::Bytes(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => text.to_owned(),
            Err(_) => {
                return Err(EvalError::new(
                    "error during formatting: could not convert argument \"invalid UTF-8 in bytes, cannot convert to string\" to string",
                ));
            }
        },
        Value::Null
        | Value::Bool(_)
        | Value::Int(_)
        | Value::Uint(_)
        | Value::Double(_)
        | Value::String(_)
        | Value::Timestamp(_)
        | Value::Duration(_)
        | Value::Type(_) => shown(value),
        _ => return Ok(None),
    }))
}

/// A part of a list or map as an expression would write it (`clauseForType`, `quoteForCEL`).
fn literal(value: &Value) -> Result<String> {
    Ok(match value {
        Value::String(s) => quote(s),
        Value::Double(d) if d.is_finite() => format!("{d:.PRECISION$}"),
        Value::Double(d) if d.is_nan() => "\"NaN\"".to_owned(),
        Value::Double(d) => if *d > 0.0 { "\"+Inf\"" } else { "\"-Inf\"" }.to_owned(),
        Value::Timestamp(_) => format!("timestamp({})", quote(&shown(value))),
        Value::Duration(_) => format!("duration({})", quote(&shown(value))),
        Value::List(items) => {
            let mut out = String::from("[");
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push_str(", ");
                }
                out.push_str(&literal(item)?);
                bounded(out.len())?;
            }
            out.push(']');
            out
        }
        Value::Map(entries) => {
            let mut pairs = Vec::with_capacity(entries.len());
            for (key, value) in entries.iter() {
                let key = match key {
                    Key::String(s) => quote(s),
                    key => shown(&key.to_value()),
                };
                pairs.push((key, literal(value)?));
            }
            pairs.sort_by(|a, b| a.0.cmp(&b.0));
            let pairs: Vec<String> = pairs.into_iter().map(|(key, value)| format!("{key}:{value}")).collect();
            bounded(pairs.iter().map(|pair| pair.len() + 2).sum())?;
            format!("{{{}}}", pairs.join(", "))
        }
        Value::Bytes(_) => {
            let inner = text(value)?.unwrap_or_default();
            format!("b{}", quote(&inner))
        }
        Value::Null | Value::Bool(_) | Value::Int(_) | Value::Uint(_) | Value::Type(_) => shown(value),
        other => {
            let name = other.type_name();
            return Err(EvalError::new(format!("error during formatting: no formatting function for {name}")));
        }
    })
}

/// The number of a clause for doubles: three texts are numbers too.
fn float(value: &Value) -> Option<f64> {
    match value {
        Value::Double(d) => Some(*d),
        Value::String(s) => match &**s {
            "NaN" => Some(f64::NAN),
            "Infinity" => Some(f64::INFINITY),
            "-Infinity" => Some(f64::NEG_INFINITY),
            _ => None,
        },
        _ => None,
    }
}

/// As `golang.org/x/text` prints it for `en_US`: thousands are set apart.
fn fixed(number: f64, precision: usize) -> String {
    if !number.is_finite() {
        return infinite(number);
    }
    let text = format!("{:.precision$}", number.abs());
    let (whole, fraction) = text.split_once('.').map_or((text.as_str(), None), |(w, f)| (w, Some(f)));
    let mut out = String::from(if number < 0.0 { "-" } else { "" });
    for (i, digit) in whole.chars().enumerate() {
        if i > 0 && (whole.len() - i) % 3 == 0 {
            out.push(',');
        }
        out.push(digit);
    }
    if let Some(fraction) = fraction {
        out.push('.');
        out.push_str(fraction);
    }
    out
}

/// The same for `%e`: `1.500000×10⁻⁰⁷`.
fn scientific(number: f64) -> String {
    if !number.is_finite() {
        return infinite(number);
    }
    let text = format!("{:.PRECISION$e}", if number == 0.0 { 0.0 } else { number });
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, digits) = exponent.strip_prefix('-').map_or(("", exponent), |digits| ("⁻", digits));
    let raised: String = format!("{digits:0>2}")
        .chars()
        .filter_map(|c| c.to_digit(10).and_then(|d| "⁰¹²³⁴⁵⁶⁷⁸⁹".chars().nth(d as usize)))
        .collect();
    format!("{mantissa}×10{sign}{raised}")
}

fn signed(number: i64, print: impl Fn(u64) -> String) -> String {
    let sign = if number < 0 { "-" } else { "" };
    format!("{sign}{}", print(number.unsigned_abs()))
}

fn hex(value: &Value) -> Option<String> {
    Some(match value {
        Value::Int(i) => signed(*i, |m| format!("{m:x}")),
        Value::Uint(u) => format!("{u:x}"),
        Value::String(s) => s.bytes().map(|b| format!("{b:02x}")).collect(),
        Value::Bytes(b) => b.iter().map(|b| format!("{b:02x}")).collect(),
        _ => return None,
    })
}

/// Where and why a call of `format` with a literal text and a literal list cannot be right (`stringFormatValidator`).
pub(in crate::cel) fn check(at: u32, call: &Call, types: &[Type]) -> Option<Issue> {
    let (Some(target), [list]) = (&call.target, call.args.as_slice()) else { return None };
    let (Kind::Literal(Value::String(text)), Kind::List(elements)) = (&target.kind, &list.kind) else { return None };
    let of = |expr: &Expr| types.get(expr.id as usize).cloned().unwrap_or(Type::Dyn);
    let walked = walk(text, elements.len(), |index, clause| {
        let element = &elements[index].0;
        let bad = if clause == Clause::Text {
            unprintable(element, &of)
        } else {
            (!clause.takes(&of(element))).then_some(element)
        };
        match bad {
            Some(bad) => Err(Refused { at: Some(bad.at), why: clause.refusal(&of(bad).go_name()) }),
            None => Ok(String::new()),
        }
    });
    match walked {
        Ok((_, seen)) if elements.len() > seen => {
            let given = elements.len();
            let message = format!("too many arguments supplied to string.format (expected {seen}, got {given})");
            Some(Issue { at, message })
        }
        Ok(_) => None,
        Err(refused) => Some(Issue { at: refused.at.unwrap_or(at), message: refused.why }),
    }
}

/// Why a format is refused, and at which of its arguments.
struct Refused {
    at: Option<u32>,
    why: String,
}

impl From<EvalError> for Refused {
    fn from(error: EvalError) -> Self {
        Self { at: None, why: error.to_string() }
    }
}

/// The part of an argument that `%s` cannot print.
fn unprintable<'e>(expr: &'e Expr, of: &impl Fn(&Expr) -> Type) -> Option<&'e Expr> {
    if !Clause::Text.takes(&of(expr)) {
        return Some(expr);
    }
    match &expr.kind {
        Kind::List(elements) => elements.iter().find_map(|(element, _)| unprintable(element, of)),
        Kind::Map(entries) => {
            entries.iter().find_map(|e| unprintable(&e.key, of).or_else(|| unprintable(&e.value, of)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_printed_as_for_american_readers() {
        let check = |clause: Clause, number: f64, want: &str| {
            assert_eq!(clause.print(&Value::Double(number)).as_deref(), Ok(want), "{clause:?} {number}");
        };
        check(Clause::Fixed(6), -1_234_567.891, "-1,234,567.891000");
        check(Clause::Fixed(0), 2.5, "2");
        check(Clause::Fixed(2), 123.0, "123.00");
        check(Clause::Fixed(2), f64::INFINITY, "∞");
        check(Clause::Scientific(6), 1e-7, "1.000000×10⁻⁰⁷");
        check(Clause::Scientific(20), 1e300, "      1.000000×10³⁰⁰");
        check(Clause::Scientific(0), -1.5, "-1.500000×10⁰⁰");
    }

    #[test]
    fn lists_and_maps_are_printed_as_expressions() {
        let list = Value::from(vec!["a\"b".into(), Value::Double(1.5), Value::Null, Value::Bytes((*b"x").into())]);
        assert_eq!(format("%s", &[list]).as_deref(), Ok("[\"a\\\"b\", 1.500000, null, b\"x\"]"));
    }

    #[test]
    fn formats_that_do_not_read_say_why() {
        let check = |text: &str, want: &str| {
            let failed = format(text, &[Value::Int(1)]).expect_err(text).to_string();
            assert_eq!(failed, want, "{text}");
        };
        check("%d %d", "index 1 out of range");
        check("%", "unexpected end of string");
        check("%q", "could not parse formatting clause: unrecognized formatting clause \"q\"");
        check(
            "%.f",
            "could not parse formatting clause: error while parsing precision: error while converting precision to integer: strconv.Atoi: parsing \"\": invalid syntax",
        );
        check(
            "%.3",
            "could not parse formatting clause: error while parsing precision: could not find end of precision specifier",
        );
        check("%f", "error during formatting: fixed-point clause can only be used on doubles, was given int");
    }
}
