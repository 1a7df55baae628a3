//! Percent-encoding (RFC 3986, section 2.1).

use std::borrow::Cow;

/// Every byte that is neither an ASCII letter or digit nor in `kept` as an escape.
pub fn percent_encode(text: &str, kept: &[u8]) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || (byte.is_ascii() && kept.contains(&byte)) {
            out.push(char::from(byte));
        } else {
            out.push_str(percent_encoding::percent_encode_byte(byte));
        }
    }
    out
}

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
    fn what_is_not_kept_is_escaped_and_comes_back() {
        assert_eq!(percent_encode("a b/c~", b"~"), "a%20b%2Fc~");
        assert_eq!(percent_encode("ö", "ö".as_bytes()), "%C3%B6");
        assert_eq!(percent_decode(&percent_encode("100% ö+/", b""), false), "100% ö+/");
    }

    #[test]
    fn escapes_are_undone_and_ill_formed_ones_stay() {
        assert_eq!(percent_decode("no%20such+volume%2B", false), "no such+volume+");
        assert_eq!(percent_decode("a+b%2Bc", true), "a b+c");
        assert_eq!(percent_decode("100%, %zz, %+1, %4", false), "100%, %zz, %+1, %4");
        assert_eq!(percent_decode("%ff", false), "\u{fffd}");
    }
}
