//! Puts `metadata.resourceVersion` into stored JSON without parsing it into values.
//!
//! The store's bytes carry no resourceVersion (it is the key's revision); clients want it inside. One scan finds the
//! metadata object; afterwards the number can be exchanged without looking again.

use bytes::Bytes;

const FIELD: &[u8] = b"\"resourceVersion\":\"";

/// JSON with its resourceVersion in it.
pub struct Spliced {
    pub bytes: Bytes,
    /// Where the digits stand.
    at: u32,
    len: u8,
}

impl Spliced {
    /// `None` unless `stored` begins as a JSON object with a `metadata` object. Revision 0 is that of an object that is
    /// not stored, which has no version.
    pub fn new(stored: &[u8], revision: i64) -> Option<Self> {
        let inside = metadata_start(stored)?;
        if revision == 0 {
            return Some(Self { bytes: Bytes::copy_from_slice(stored), at: u32::try_from(inside).ok()?, len: 0 });
        }
        let digits = revision.to_string();
        let empty = stored[inside..].iter().find(|b| !b.is_ascii_whitespace()) == Some(&b'}');
        let mut out = Vec::with_capacity(stored.len() + FIELD.len() + digits.len() + 2);
        out.extend_from_slice(&stored[..inside]);
        out.extend_from_slice(FIELD);
        let at = u32::try_from(out.len()).ok()?;
        out.extend_from_slice(digits.as_bytes());
        out.push(b'"');
        if !empty {
            out.push(b',');
        }
        out.extend_from_slice(&stored[inside..]);
        Some(Self { bytes: out.into(), at, len: digits.len() as u8 })
    }

    /// A copy that says another revision.
    pub fn at(&self, revision: i64) -> Self {
        if self.len == 0 {
            let same = || Self { bytes: self.bytes.clone(), at: self.at, len: 0 };
            return Self::new(&self.bytes, revision).unwrap_or_else(same);
        }
        let digits = revision.to_string();
        let (from, to) = (self.at as usize, self.at as usize + self.len as usize);
        let mut out = Vec::with_capacity(self.bytes.len() + digits.len());
        out.extend_from_slice(&self.bytes[..from]);
        out.extend_from_slice(digits.as_bytes());
        out.extend_from_slice(&self.bytes[to..]);
        Self { bytes: out.into(), at: self.at, len: digits.len() as u8 }
    }
}

/// Index just after the brace that opens the top-level `metadata` object.
fn metadata_start(json: &[u8]) -> Option<usize> {
    let mut at = skip_space(json, 0);
    if json.get(at) != Some(&b'{') {
        return None;
    }
    at += 1;
    loop {
        at = skip_space(json, at);
        let key_end = skip_string(json, at)?;
        let key = &json[at..key_end];
        at = skip_space(json, key_end);
        if json.get(at) != Some(&b':') {
            return None;
        }
        at = skip_space(json, at + 1);
        if key == b"\"metadata\"" {
            return (json.get(at) == Some(&b'{')).then_some(at + 1);
        }
        at = skip_space(json, skip_value(json, at)?);
        if json.get(at) != Some(&b',') {
            return None;
        }
        at += 1;
    }
}

fn skip_space(json: &[u8], mut at: usize) -> usize {
    while json.get(at).is_some_and(u8::is_ascii_whitespace) {
        at += 1;
    }
    at
}

fn skip_string(json: &[u8], at: usize) -> Option<usize> {
    if json.get(at) != Some(&b'"') {
        return None;
    }
    let mut at = at + 1;
    loop {
        match json.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

fn skip_value(json: &[u8], mut at: usize) -> Option<usize> {
    let mut depth = 0usize;
    loop {
        match json.get(at)? {
            b'"' => {
                at = skip_string(json, at)?;
                if depth == 0 {
                    return Some(at);
                }
                continue;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' if depth == 0 => return Some(at),
            b'}' | b']' => {
                depth -= 1;
                if depth == 0 {
                    return Some(at + 1);
                }
            }
            b',' if depth == 0 => return Some(at),
            _ => {}
        }
        at += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(stored: &str, want: &str) {
        let spliced = Spliced::new(stored.as_bytes(), 42).expect(stored);
        assert_eq!(spliced.bytes, want.as_bytes());
        let again = spliced.at(7).at(123_456).at(42);
        assert_eq!(again.bytes, want.as_bytes());
    }

    #[test]
    fn the_version_goes_into_the_outer_metadata() {
        check(r#"{"metadata":{}}"#, r#"{"metadata":{"resourceVersion":"42"}}"#);
        check(
            r#"{"data":{"metadata":"{\"x"},"n":1, "metadata" : {"name":"a"},"spec":[{"metadata":{}}]}"#,
            r#"{"data":{"metadata":"{\"x"},"n":1, "metadata" : {"resourceVersion":"42","name":"a"},"spec":[{"metadata":{}}]}"#,
        );
    }

    #[test]
    fn other_bytes_are_refused() {
        for bad in ["", "[]", "{}", r#"{"metadata":3}"#, r#"{"a":"#, "\u{0}k8s"] {
            assert!(Spliced::new(bad.as_bytes(), 1).is_none(), "{bad}");
        }
    }
}
