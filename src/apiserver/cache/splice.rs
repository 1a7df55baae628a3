//! Puts `metadata.resourceVersion` into stored JSON without parsing it into values.
//!
//! The store's bytes carry no resourceVersion (it is the key's revision); clients want it inside. One scan finds the
//! metadata object; afterwards the number can be exchanged without looking again.

use bytes::Bytes;

const FIELD: &[u8] = b"\"resourceVersion\":\"";

/// JSON with its resourceVersion in it.
pub struct Spliced {
    pub bytes: Bytes,
    /// Where the object says its type: before the number, so it stays where it is.
    pub type_members: TypeMembers,
    /// Where the digits stand.
    at: u32,
    len: u8,
}

/// Where `apiVersion` and `kind` stand in an object's JSON, with the comma after each: what Go's typed lists leave out of
/// their items. Only what comes before `metadata` is found, which is everything in sorted JSON and in Go's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TypeMembers([(u32, u32); 2]);

impl TypeMembers {
    /// The members of `json`; none if it is no object with metadata.
    pub fn find(json: &[u8]) -> Self {
        scan(json).map(|(_, members)| members).unwrap_or_default()
    }

    /// `json` without these members, in pieces.
    pub fn without(self, json: &[u8]) -> [&[u8]; 3] {
        let [first, second] = self.0.map(|(from, to)| (from as usize, to as usize));
        let piece = |from: usize, to: usize| json.get(from..to).unwrap_or_default();
        [piece(0, first.0), piece(first.1, second.0.max(first.1)), piece(second.1.max(first.1), json.len())]
    }
}

impl Spliced {
    /// `None` unless `stored` begins as a JSON object with a `metadata` object. Revision 0 is that of an object that is
    /// not stored, which has no version.
    pub fn new(stored: &[u8], revision: i64) -> Option<Self> {
        let (inside, type_members) = scan(stored)?;
        if revision == 0 {
            let at = u32::try_from(inside).ok()?;
            return Some(Self { bytes: Bytes::copy_from_slice(stored), type_members, at, len: 0 });
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
        Some(Self { bytes: out.into(), type_members, at, len: digits.len() as u8 })
    }

    /// A copy that says another revision.
    pub fn at(&self, revision: i64) -> Self {
        let type_members = self.type_members;
        if self.len == 0 {
            let same = || Self { bytes: self.bytes.clone(), type_members, at: self.at, len: 0 };
            return Self::new(&self.bytes, revision).unwrap_or_else(same);
        }
        let digits = revision.to_string();
        let (from, to) = (self.at as usize, self.at as usize + self.len as usize);
        let mut out = Vec::with_capacity(self.bytes.len() + digits.len());
        out.extend_from_slice(&self.bytes[..from]);
        out.extend_from_slice(digits.as_bytes());
        out.extend_from_slice(&self.bytes[to..]);
        Self { bytes: out.into(), type_members, at: self.at, len: digits.len() as u8 }
    }
}

/// Index just after the brace that opens the top-level `metadata` object, and what says the type before it.
fn scan(json: &[u8]) -> Option<(usize, TypeMembers)> {
    let mut at = skip_space(json, 0);
    if json.get(at) != Some(&b'{') {
        return None;
    }
    at += 1;
    let mut members = [(0, 0); 2];
    let mut found = 0;
    loop {
        at = skip_space(json, at);
        let start = at;
        let key_end = skip_string(json, at)?;
        let key = &json[at..key_end];
        at = skip_space(json, key_end);
        if json.get(at) != Some(&b':') {
            return None;
        }
        at = skip_space(json, at + 1);
        if key == b"\"metadata\"" {
            if found == 1 {
                members[1] = (members[0].1, members[0].1);
            }
            return (json.get(at) == Some(&b'{')).then_some((at + 1, TypeMembers(members)));
        }
        at = skip_space(json, skip_value(json, at)?);
        if json.get(at) != Some(&b',') {
            return None;
        }
        at += 1;
        if (key == b"\"apiVersion\"" || key == b"\"kind\"") && found < members.len() {
            members[found] = (u32::try_from(start).ok()?, u32::try_from(at).ok()?);
            found += 1;
        }
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
    fn what_says_the_type_can_be_left_out() {
        let check = |json: &str, want: &str| {
            let spliced = Spliced::new(json.as_bytes(), 7).expect(json);
            let left = spliced.type_members.without(&spliced.bytes).concat();
            let want = want.replacen("{}", "{\"resourceVersion\":\"7\"}", 1);
            assert_eq!(String::from_utf8_lossy(&left), want);
            assert_eq!(TypeMembers::find(&spliced.bytes), spliced.type_members);
        };
        check(
            r#"{"apiVersion":"v1","data":{"kind":"x"},"kind":"A","metadata":{}}"#,
            r#"{"data":{"kind":"x"},"metadata":{}}"#,
        );
        check(r#"{"kind":"A","apiVersion":"v1","metadata":{},"spec":1}"#, r#"{"metadata":{},"spec":1}"#);
        check(r#"{"data":1, "kind" : "A", "metadata":{}}"#, r#"{"data":1,  "metadata":{}}"#);
        check(r#"{"metadata":{}}"#, r#"{"metadata":{}}"#);
        assert_eq!(TypeMembers::find(b"[]").without(b"[]").concat(), b"[]");
    }

    #[test]
    fn other_bytes_are_refused() {
        for bad in ["", "[]", "{}", r#"{"metadata":3}"#, r#"{"a":"#, "\u{0}k8s"] {
            assert!(Spliced::new(bad.as_bytes(), 1).is_none(), "{bad}");
        }
    }
}
