//! Field selectors (apimachinery `fields/selector.go`).

use std::fmt;

use super::SelectorError;

/// One term of a [`FieldSelector`]: the field is (or, negated, is not) this value.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FieldRequirement {
    pub field: String,
    pub negated: bool,
    /// Without escapes.
    pub value: String,
}

/// A conjunction of requirements on fields.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct FieldSelector(Vec<FieldRequirement>);

impl FieldSelector {
    pub fn everything() -> Self {
        Self::default()
    }

    /// The field has this value.
    pub fn equal(field: &str, value: &str) -> Self {
        Self(vec![FieldRequirement { field: field.to_owned(), negated: false, value: value.to_owned() }])
    }

    /// Reads the text form, e.g. `spec.nodeName=a,status.phase!=Failed`. The error text is upstream's.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut terms = split_terms(text);
        terms.sort_unstable();
        let mut requirements = Vec::new();
        for term in terms.into_iter().filter(|t| !t.is_empty()) {
            let Some((field, operator, value)) = split_term(term) else {
                return Err(SelectorError(format!("invalid selector: '{text}'; can't understand '{term}'")));
            };
            let value = unescape(value)?;
            // `hasTerm.Transform` makes everything of nothing.
            if field.is_empty() && value.is_empty() {
                continue;
            }
            requirements.push(FieldRequirement { field: field.to_owned(), negated: operator == "!=", value });
        }
        Ok(Self(requirements))
    }

    /// The terms in the order of their text.
    pub fn requirements(&self) -> &[FieldRequirement] {
        &self.0
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether fields, asked one by one through `get`, satisfy every requirement. A field that is not there is empty.
    pub fn matches<'a>(&self, get: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.0.iter().all(|r| (get(&r.field).unwrap_or_default() == r.value) != r.negated)
    }

    /// The one value that this field must have, if the selector says so.
    pub fn requires_exact(&self, field: &str) -> Option<&str> {
        self.0.iter().find(|r| r.field == field && !r.negated).map(|r| r.value.as_str())
    }
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, r) in self.0.iter().enumerate() {
            let comma = if i > 0 { "," } else { "" };
            let operator = if r.negated { "!=" } else { "=" };
            write!(f, "{comma}{}{operator}{}", r.field, escape(&r.value))?;
        }
        Ok(())
    }
}

/// Makes any text a value of a field selector.
pub(super) fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\=")
}

fn split_terms(text: &str) -> Vec<&str> {
    let mut terms = Vec::new();
    let (mut start, mut escaped) = (0, false);
    for (i, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                terms.push(&text[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    terms.push(&text[start..]);
    terms
}

fn split_term(term: &str) -> Option<(&str, &str, &str)> {
    term.char_indices().find_map(|(i, _)| {
        let rest = &term[i..];
        let operator = ["!=", "==", "="].into_iter().find(|o| rest.starts_with(o))?;
        Some((&term[..i], operator, &rest[operator.len()..]))
    })
}

fn unescape(value: &str) -> Result<String, SelectorError> {
    let bad_escape = |c: &str| SelectorError(format!("invalid field selector: invalid escape sequence: \\{c}"));
    let mut plain = String::with_capacity(value.len());
    let mut escaped = false;
    for c in value.chars() {
        match c {
            '\\' | ',' | '=' if escaped => {
                plain.push(c);
                escaped = false;
            }
            _ if escaped => return Err(bad_escape(&c.to_string())),
            '\\' => escaped = true,
            // Upstream prints the character's number.
            ',' | '=' => {
                let text = format!("invalid field selector: unescaped character in value: {}", u32::from(c));
                return Err(SelectorError(text));
            }
            _ => plain.push(c),
        }
    }
    if escaped { Err(bad_escape("")) } else { Ok(plain) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_and_prints_as_go() {
        for (text, printed) in [
            ("", ""),
            ("a=b", "a=b"),
            ("a==b", "a=b"),
            ("x!=y,a=b", "a=b,x!=y"),
            ("a=b\\,c\\=d\\\\", "a=b\\,c\\=d\\\\"),
            ("a=", "a="),
            ("a=b,,", "a=b"),
        ] {
            assert_eq!(FieldSelector::parse(text).map(|s| s.to_string()), Ok(printed.to_owned()), "{text}");
        }
    }

    #[test]
    fn refuses_with_upstreams_texts() {
        for (text, error) in [
            ("a", "invalid selector: 'a'; can't understand 'a'"),
            ("a=b=c", "invalid field selector: unescaped character in value: 61"),
            ("a=\\b", "invalid field selector: invalid escape sequence: \\b"),
            ("a=\\", "invalid field selector: invalid escape sequence: \\"),
        ] {
            assert_eq!(FieldSelector::parse(text).unwrap_err().0, error);
        }
    }

    #[test]
    fn a_missing_field_is_empty() {
        let selector = FieldSelector::parse("spec.nodeName=,status.phase!=Failed").unwrap();
        assert!(selector.matches(|_| None));
        assert!(!selector.matches(|f| (f == "status.phase").then_some("Failed")));
        assert_eq!(selector.requires_exact("spec.nodeName"), Some(""));
        assert_eq!(selector.requires_exact("status.phase"), None);
    }
}
