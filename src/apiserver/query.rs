//! The query part of a URL, with Go's conversions of single values.

use api::Status;

/// Decoded pairs in the order of the URL.
#[derive(Debug, Clone, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    pub fn parse(raw: &str) -> Self {
        let pairs = raw.split('&').filter(|p| !p.is_empty() && is_readable(p)).map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (base::percent_decode(key, true), base::percent_decode(value, true))
        });
        Self(pairs.collect())
    }

    /// The first value of `key`.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    /// The first value of `key`, empty if there is none.
    pub fn text(&self, key: &str) -> &str {
        self.get(key).unwrap_or_default()
    }

    pub fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    /// As apimachinery's `Convert_Slice_string_To_bool`: present means true unless it says `false` or `0`.
    pub fn flag(&self, key: &str) -> bool {
        self.optional_flag(key).unwrap_or(false)
    }

    /// [`Query::flag`], telling absence from `false`.
    pub fn optional_flag(&self, key: &str) -> Option<bool> {
        self.get(key).map(|v| !(v == "0" || v.eq_ignore_ascii_case("false")))
    }

    /// A decimal number; absence is `None`, anything else a bad request in Go's words.
    pub fn number(&self, key: &str) -> Result<Option<i64>, Status> {
        let Some(text) = self.get(key) else { return Ok(None) };
        text.parse().map(Some).map_err(|e: std::num::ParseIntError| {
            let why = match e.kind() {
                std::num::IntErrorKind::PosOverflow | std::num::IntErrorKind::NegOverflow => "value out of range",
                _ => "invalid syntax",
            };
            Status::bad_request(format!("strconv.ParseInt: parsing {text:?}: {why}"))
        })
    }
}

/// Whether Go reads a pair: others are left out without a word (`url.ParseQuery`).
fn is_readable(pair: &str) -> bool {
    let digits = |after: &str| after.len() >= 2 && after.bytes().take(2).all(|b| b.is_ascii_hexdigit());
    !pair.contains(';') && pair.split('%').skip(1).all(digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_decoded_and_flags_read_as_go_does() {
        let query = Query::parse("labelSelector=app%3Dweb+x&watch=1&dry=false&limit=5&bare");
        assert_eq!(query.get("labelSelector"), Some("app=web x"));
        assert!(query.flag("watch") && query.flag("bare") && !query.flag("dry") && !query.flag("none"));
        assert_eq!(query.number("limit").unwrap(), Some(5));
        assert_eq!(Query::parse("a=%zz&b=%&c=1;d=2&e=%41").0, [("e".to_owned(), "A".to_owned())]);
        let error = Query::parse("limit=a").number("limit").unwrap_err();
        assert_eq!(error.message, "strconv.ParseInt: parsing \"a\": invalid syntax");
    }
}
