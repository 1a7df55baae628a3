//! Semantic versions (apiserver `cel/library/semverlib.go` over `blang/semver`).

use std::cmp::Ordering;
use std::sync::Arc;

use crate::cel::error::EvalError;
use crate::cel::eval::Result;
use crate::cel::value::Value;
use crate::codec::go_quote as quote;

/// A version by semver 2.0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Semver {
    pub major: u64,
    pub minor: u64,
    pub patch: u64,
    pre: Vec<Part>,
}

/// An identifier of a pre-release.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Number(u64),
    Text(String),
}

impl Semver {
    /// Reads a version, exactly.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> std::result::Result<Self, String> {
        if text.is_empty() {
            return Err("Version string empty".to_owned());
        }
        let mut parts = text.splitn(3, '.');
        let (Some(major), Some(minor), Some(rest)) = (parts.next(), parts.next(), parts.next()) else {
            return Err("No Major.Minor.Patch elements found".to_owned());
        };
        let number = |text: &str, what: &str| {
            if !text.bytes().all(|b| b.is_ascii_digit()) {
                return Err(format!("Invalid character(s) found in {what} number {}", quote(text)));
            }
            if text.len() > 1 && text.starts_with('0') {
                let what = capitalised(what);
                return Err(format!("{what} number must not contain leading zeroes {}", quote(text)));
            }
            parse_uint(text)
        };
        let (major, minor) = (number(major, "major")?, number(minor, "minor")?);
        let (rest, build) = rest.split_once('+').map_or((rest, None), |(rest, build)| (rest, Some(build)));
        let (patch, pre) = rest.split_once('-').map_or((rest, None), |(patch, pre)| (patch, Some(pre)));
        let patch = number(patch, "patch")?;
        let plain = |part: &str| part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        let mut parts = Vec::new();
        for part in pre.map(|pre| pre.split('.')).into_iter().flatten() {
            parts.push(if part.is_empty() {
                return Err("Prerelease is empty".to_owned());
            } else if part.bytes().all(|b| b.is_ascii_digit()) {
                if part.len() > 1 && part.starts_with('0') {
                    let shown = quote(part);
                    return Err(format!("Numeric PreRelease version must not contain leading zeroes {shown}"));
                }
                Part::Number(parse_uint(part)?)
            } else if plain(part) {
                Part::Text(part.to_owned())
            } else {
                return Err(format!("Invalid character(s) found in prerelease {}", quote(part)));
            });
        }
        for part in build.map(|build| build.split('.')).into_iter().flatten() {
            if part.is_empty() {
                return Err("Build meta data is empty".to_owned());
            }
            if !plain(part) {
                return Err(format!("Invalid character(s) found in build meta data {}", quote(part)));
            }
        }
        Ok(Self { major, minor, patch, pre: parts })
    }

    /// Reads a version as people write it: with a `v`, short, with leading zeros.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse_normalized(text: &str) -> std::result::Result<Self, String> {
        let text = text.strip_prefix('v').unwrap_or(text);
        let mut parts: Vec<String> = text.splitn(3, '.').map(ToOwned::to_owned).collect();
        for part in &mut parts {
            if part.len() > 1 {
                let trimmed = part.trim_start_matches('0');
                *part = if trimmed.starts_with(|c: char| c.is_ascii_digit()) {
                    trimmed.to_owned()
                } else {
                    format!("0{trimmed}")
                };
            }
        }
        if parts.len() < 3 {
            if parts.last().is_some_and(|last| last.contains(['+', '-'])) {
                return Err("short version cannot contain PreRelease/Build meta data".to_owned());
            }
            parts.resize(3, "0".to_owned());
        }
        Self::parse(&parts.join("."))
    }

    /// Precedence; what is built does not count.
    pub fn compare(&self, other: &Self) -> Ordering {
        let core = (self.major, self.minor, self.patch).cmp(&(other.major, other.minor, other.patch));
        core.then_with(|| match (self.pre.is_empty(), other.pre.is_empty()) {
            (true, true) => Ordering::Equal,
            (true, false) => Ordering::Greater,
            (false, true) => Ordering::Less,
            (false, false) => {
                let parts = self.pre.iter().zip(&other.pre).map(|(a, b)| match (a, b) {
                    (Part::Number(a), Part::Number(b)) => a.cmp(b),
                    (Part::Text(a), Part::Text(b)) => a.cmp(b),
                    (Part::Number(_), Part::Text(_)) => Ordering::Less,
                    (Part::Text(_), Part::Number(_)) => Ordering::Greater,
                });
                let differ = parts.into_iter().find(|order| order.is_ne());
                differ.unwrap_or_else(|| self.pre.len().cmp(&other.pre.len()))
            }
        })
    }
}

/// Go's `strconv.ParseUint` of digits.
fn parse_uint(digits: &str) -> std::result::Result<u64, String> {
    digits.parse().map_err(|_| {
        let why = if digits.is_empty() { "invalid syntax" } else { "value out of range" };
        format!("strconv.ParseUint: parsing {}: {why}", quote(digits))
    })
}

fn capitalised(word: &str) -> String {
    let mut chars = word.chars();
    chars.next().map(|c| c.to_ascii_uppercase().to_string() + chars.as_str()).unwrap_or_default()
}

pub(super) fn call(name: &str, args: &[Value]) -> Option<Result> {
    let parse = |text: &str, rest: &[Value]| match rest {
        [Value::Bool(true)] => Semver::parse_normalized(text),
        _ => Semver::parse(text),
    };
    Some(match (name, args) {
        ("semver", [Value::String(text), rest @ ..]) => match parse(text, rest) {
            Ok(version) => Ok(Value::Semver(Arc::new(version))),
            Err(why) => Err(EvalError::new(why)),
        },
        ("isSemver", [Value::String(text), rest @ ..]) => Ok(Value::Bool(parse(text, rest).is_ok())),
        (_, [Value::Semver(version)]) => {
            let number = match name {
                "major" => version.major,
                "minor" => version.minor,
                "patch" => version.patch,
                _ => return None,
            };
            Ok(Value::Int(i64::try_from(number).unwrap_or(i64::MAX)))
        }
        (_, [Value::Semver(a), Value::Semver(b)]) => {
            let order = a.compare(b);
            Ok(match name {
                "isGreaterThan" => Value::Bool(order.is_gt()),
                "isLessThan" => Value::Bool(order.is_lt()),
                "compareTo" => Value::Int(order as i64),
                _ => return None,
            })
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_in_order() {
        let all =
            ["1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.beta", "1.0.0-beta.2", "1.0.0-beta.11", "1.0.0", "2.1.1"];
        let all: Vec<Semver> = all.iter().map(|text| Semver::parse(text).unwrap()).collect();
        for pair in all.windows(2) {
            assert_eq!(pair[0].compare(&pair[1]), Ordering::Less, "{pair:?}");
        }
        assert!(Semver::parse("1.0").is_err());
        assert!(Semver::parse("01.0.0").is_err());
        assert_eq!(Semver::parse_normalized("v01.0"), Semver::parse("1.0.0"));
    }
}
