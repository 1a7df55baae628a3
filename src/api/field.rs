//! Validation errors with field paths (apimachinery `util/validation/field`).

use std::fmt;

use serde_json::Value;

use crate::codec::go_quote;

/// A path to a field as error messages print it: `spec.containers[0].ports[1].name`, `data[key]`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Path(String);

impl Path {
    pub fn new(root: &str) -> Self {
        Self(root.to_owned())
    }

    #[must_use]
    pub fn child(&self, name: &str) -> Self {
        if self.0.is_empty() { Self(name.to_owned()) } else { Self(format!("{}.{name}", self.0)) }
    }

    #[must_use]
    pub fn index(&self, index: usize) -> Self {
        Self(format!("{}[{index}]", self.0))
    }

    #[must_use]
    pub fn key(&self, key: &str) -> Self {
        Self(format!("{}[{key}]", self.0))
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Upstream prints <nil> for the path of the object itself.
        f.write_str(if self.0.is_empty() { "<nil>" } else { &self.0 })
    }
}

/// What is wrong with a field. The display and reason strings are upstream's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorType {
    NotFound,
    Required,
    Duplicate,
    Invalid,
    NotSupported,
    Forbidden,
    TooLong,
    TooMany,
    Internal,
    TypeInvalid,
}

impl ErrorType {
    /// `status.details.causes[].reason`.
    pub fn reason(self) -> &'static str {
        match self {
            Self::NotFound => "FieldValueNotFound",
            Self::Required => "FieldValueRequired",
            Self::Duplicate => "FieldValueDuplicate",
            Self::Invalid => "FieldValueInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Forbidden => "FieldValueForbidden",
            Self::TooLong => "FieldValueTooLong",
            Self::TooMany => "FieldValueTooMany",
            Self::Internal => "InternalError",
            Self::TypeInvalid => "FieldValueTypeInvalid",
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::NotFound => "Not found",
            Self::Required => "Required value",
            Self::Duplicate => "Duplicate value",
            Self::Invalid | Self::TypeInvalid => "Invalid value",
            Self::NotSupported => "Unsupported value",
            Self::Forbidden => "Forbidden",
            Self::TooLong => "Too long",
            Self::TooMany => "Too many",
            Self::Internal => "Internal error",
        }
    }
}

/// One problem with one field.
#[derive(Debug, Clone, PartialEq)]
pub struct Error {
    pub kind: ErrorType,
    pub path: Path,
    /// The offending value, for the kinds that print it.
    pub value: Option<Value>,
    /// How the value is printed if it is not as JSON of the served version: upstream prints its internal types.
    pub shown: Option<String>,
    pub detail: String,
}

/// All problems of one object, in upstream's order.
pub type ErrorList = Vec<Error>;

impl Error {
    pub fn required(path: Path, detail: impl Into<String>) -> Self {
        Self { kind: ErrorType::Required, path, value: None, shown: None, detail: detail.into() }
    }

    pub fn invalid(path: Path, value: impl Into<Value>, detail: impl Into<String>) -> Self {
        Self { kind: ErrorType::Invalid, path, value: Some(value.into()), shown: None, detail: detail.into() }
    }

    pub fn type_invalid(path: Path, value: impl Into<Value>, detail: impl Into<String>) -> Self {
        Self { kind: ErrorType::TypeInvalid, path, value: Some(value.into()), shown: None, detail: detail.into() }
    }

    pub fn duplicate(path: Path, value: impl Into<Value>) -> Self {
        Self { kind: ErrorType::Duplicate, path, value: Some(value.into()), shown: None, detail: String::new() }
    }

    pub fn not_found(path: Path, value: impl Into<Value>) -> Self {
        Self { kind: ErrorType::NotFound, path, value: Some(value.into()), shown: None, detail: String::new() }
    }

    pub fn forbidden(path: Path, detail: impl Into<String>) -> Self {
        Self { kind: ErrorType::Forbidden, path, value: None, shown: None, detail: detail.into() }
    }

    /// `supported values: "A", "B"`, in the given order (upstream sorts where it uses a set).
    pub fn not_supported(path: Path, value: impl Into<Value>, supported: &[&str]) -> Self {
        let list: Vec<String> = supported.iter().map(|s| format!("\"{s}\"")).collect();
        let detail = if list.is_empty() { String::new() } else { format!("supported values: {}", list.join(", ")) };
        Self { kind: ErrorType::NotSupported, path, value: Some(value.into()), shown: None, detail }
    }

    /// Byte limit; the value itself is not printed.
    pub fn too_long(path: Path, limit: usize) -> Self {
        let unit = if limit == 1 { "byte" } else { "bytes" };
        Self {
            kind: ErrorType::TooLong,
            path,
            value: None,
            shown: None,
            detail: format!("may not be more than {limit} {unit}"),
        }
    }

    pub fn too_many(path: Path, actual: usize, limit: usize) -> Self {
        let items = if limit == 1 { "item" } else { "items" };
        Self {
            kind: ErrorType::TooMany,
            path,
            value: Some(Value::from(actual)),
            shown: None,
            detail: format!("must have at most {limit} {items}"),
        }
    }

    /// The same with the value printed in this way.
    #[must_use]
    pub fn showing(mut self, text: String) -> Self {
        self.shown = Some(text);
        self
    }

    /// The same without the value (`field.OmitValueType`).
    #[must_use]
    pub fn hidden(mut self) -> Self {
        self.value = None;
        self
    }

    /// The text without the field path: `causes[].message`.
    pub fn body(&self) -> String {
        let head = match self.kind {
            ErrorType::Required | ErrorType::Forbidden | ErrorType::TooLong | ErrorType::Internal => {
                self.kind.text().to_owned()
            }
            _ => match (&self.shown, &self.value) {
                (Some(shown), _) => format!("{}: {shown}", self.kind.text()),
                (None, Some(Value::String(text))) => format!("{}: {}", self.kind.text(), go_quote(text)),
                (None, Some(value)) => format!("{}: {value}", self.kind.text()),
                // A value that is not to be shown (`field.OmitValueType`).
                (None, None) => self.kind.text().to_owned(),
            },
        };
        if self.detail.is_empty() { head } else { format!("{head}: {}", self.detail) }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.body())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_as_upstream() {
        let path = Path::new("spec").child("containers").index(0).child("image");
        assert_eq!(Error::required(path.clone(), "").to_string(), "spec.containers[0].image: Required value");
        assert_eq!(
            Error::invalid(path, "a b", "must not have leading or trailing whitespace").to_string(),
            "spec.containers[0].image: Invalid value: \"a b\": must not have leading or trailing whitespace"
        );
        assert_eq!(
            Error::not_supported(Path::new("spec").child("type"), "X", &["A", "B"]).to_string(),
            "spec.type: Unsupported value: \"X\": supported values: \"A\", \"B\""
        );
    }
}
