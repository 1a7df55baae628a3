//! Named formats: `format.dns1123Label().validate(name)` (apiserver `cel/library/format.go`).

use crate::cel::error::EvalError;
use crate::cel::eval::Result;
use crate::cel::value::Value;
use crate::validation;

/// A format that texts are checked against.
#[derive(Debug)]
pub struct Format {
    /// By which expressions ask for it.
    pub name: &'static str,
    /// What is wrong with a text; empty if nothing.
    check: fn(&str) -> Vec<String>,
    /// What its regular expression counts as in cost.
    pub regex_size: u64,
}

/// Lengths of upstream's expressions for the formats that are not Kubernetes' own.
const URI: u64 = 976;
const UUID: u64 = 70;
const BASE64: u64 = 85;
const DATE_TIME: u64 = 64;

static FORMATS: &[Format] = &[
    Format { name: "dns1123Label", check: |s| validation::dns1123_label(s, false), regex_size: 30 },
    Format { name: "dns1123Subdomain", check: |s| validation::dns1123_subdomain(s, false), regex_size: 60 },
    Format { name: "dns1035Label", check: |s| validation::dns1035_label(s, false), regex_size: 30 },
    Format { name: "qualifiedName", check: validation::label_key, regex_size: 60 },
    Format { name: "dns1123LabelPrefix", check: |s| validation::dns1123_label(s, true), regex_size: 30 },
    Format { name: "dns1123SubdomainPrefix", check: |s| validation::dns1123_subdomain(s, true), regex_size: 60 },
    Format { name: "dns1035LabelPrefix", check: |s| validation::dns1035_label(s, true), regex_size: 30 },
    Format { name: "labelValue", check: validation::label_value, regex_size: 40 },
    Format { name: "uri", check: uri, regex_size: URI },
    Format { name: "uuid", check: uuid, regex_size: UUID },
    Format { name: "byte", check: byte, regex_size: BASE64 },
    Format { name: "date", check: date, regex_size: DATE_TIME },
    Format { name: "datetime", check: datetime, regex_size: DATE_TIME },
];

fn problem(bad: bool, text: impl Into<String>) -> Vec<String> {
    if bad { vec![text.into()] } else { Vec::new() }
}

fn uri(s: &str) -> Vec<String> {
    match super::net::parse_url(s) {
        Ok(_) => Vec::new(),
        Err(why) => vec![why],
    }
}

fn uuid(s: &str) -> Vec<String> {
    problem(uuid::Uuid::parse_str(s).is_err() || !(s.len() == 36 || s.len() == 32), "does not match the UUID format")
}

fn byte(s: &str) -> Vec<String> {
    use base64::Engine;
    // Nothing is no base64 to `strfmt`.
    problem(s.is_empty() || base64::engine::general_purpose::STANDARD.decode(s).is_err(), "invalid base64")
}

fn date(s: &str) -> Vec<String> {
    problem(super::time::date(s).is_none(), "invalid date")
}

fn datetime(s: &str) -> Vec<String> {
    problem(super::time::timestamp(s).is_err(), "invalid datetime")
}

fn named(name: &str) -> Option<&'static Format> {
    FORMATS.iter().find(|format| format.name == name)
}

pub(super) fn call(name: &str, args: &[Value]) -> Option<Result> {
    Some(match (name, args) {
        ("format.named", [Value::String(name)]) => {
            Ok(named(name).map_or(Value::Optional(None), |format| Value::some(Value::Format(format))))
        }
        ("validate", [Value::Format(format), Value::String(text)]) => {
            let problems = (format.check)(text);
            Ok(if problems.is_empty() { Value::Optional(None) } else { Value::some(super::text::strings(problems)) })
        }
        (name, []) => match named(name.strip_prefix("format.")?) {
            Some(format) => Ok(Value::Format(format)),
            None => Err(EvalError::no_such_overload()),
        },
        _ => return None,
    })
}
