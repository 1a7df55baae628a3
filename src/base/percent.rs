//! Percent-encoding (RFC 3986, section 2.1), undone.

use std::borrow::Cow;

/// Undoes percent-encoding; with `plus`, as in a query, `+` is a space. Ill-formed escapes stay as they are, bytes that
/// are no UTF-8 become the replacement character.
pub fn percent_decode(text: &str, plus: bool) -> String {
    let spaced = if plus { Cow::Owned(text.replace('+', " ")) } else { Cow::Borrowed(text) };
    percent_encoding::percent_decode_str(&spaced).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_undone_and_ill_formed_ones_stay() {
        assert_eq!(percent_decode("no%20such+volume%2B", false), "no such+volume+");
        assert_eq!(percent_decode("a+b%2Bc", true), "a b+c");
        assert_eq!(percent_decode("100%, %zz, %+1, %4", false), "100%, %zz, %+1, %4");
        assert_eq!(percent_decode("%ff", false), "\u{fffd}");
    }
}
