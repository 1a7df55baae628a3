//! A JSON parser that keeps order and duplicates and words its errors as Go's `encoding/json` does.

use std::borrow::Cow;

use super::node::{MAX_DEPTH, Node};

/// Reads one JSON value and nothing after it.
pub fn parse(text: &[u8]) -> Result<Node<'_>, String> {
    let mut parser = Parser { text, at: 0, depth: 0 };
    let node = parser.value()?;
    parser.space();
    match parser.peek() {
        None => Ok(node),
        Some(c) => Err(unexpected(c, "after top-level value")),
    }
}

const END: &str = "unexpected end of JSON input";

struct Parser<'a> {
    text: &'a [u8],
    at: usize,
    depth: usize,
}

fn unexpected(c: u8, context: &str) -> String {
    // encoding/json quoteChar
    let shown = match c {
        b'\'' => r"\'".to_owned(),
        b'"' => "\"".to_owned(),
        b'\n' => r"\n".to_owned(),
        b'\t' => r"\t".to_owned(),
        b'\r' => r"\r".to_owned(),
        b'\\' => r"\\".to_owned(),
        0x20..=0x7e => char::from(c).to_string(),
        0..=0x1f | 0x7f => format!("\\x{c:02x}"),
        _ => char::from(c).to_string(),
    };
    format!("invalid character '{shown}' {context}")
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }

    fn value(&mut self) -> Result<Node<'a>, String> {
        self.space();
        match self.peek() {
            None => Err(END.to_owned()),
            Some(b'{') => self.nested(Self::object),
            Some(b'[') => self.nested(Self::array),
            Some(b'"') => Ok(Node::String(self.string()?)),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.literal("true", Node::Bool(true)),
            Some(b'f') => self.literal("false", Node::Bool(false)),
            Some(b'n') => self.literal("null", Node::Null),
            Some(c) => Err(unexpected(c, "looking for beginning of value")),
        }
    }

    fn nested(&mut self, read: fn(&mut Self) -> Result<Node<'a>, String>) -> Result<Node<'a>, String> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(self.peek().map_or_else(|| END.to_owned(), |c| unexpected(c, "exceeded max depth")));
        }
        self.at += 1;
        let node = read(self);
        self.depth -= 1;
        node
    }

    fn object(&mut self) -> Result<Node<'a>, String> {
        let mut members = Vec::new();
        self.space();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(Node::Object(members));
        }
        loop {
            self.space();
            match self.peek() {
                Some(b'"') => {}
                Some(c) => return Err(unexpected(c, "looking for beginning of object key string")),
                None => return Err(END.to_owned()),
            }
            let key = self.string()?;
            self.space();
            match self.peek() {
                Some(b':') => self.at += 1,
                Some(c) => return Err(unexpected(c, "after object key")),
                None => return Err(END.to_owned()),
            }
            members.push((key, self.value()?));
            self.space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => {
                    self.at += 1;
                    return Ok(Node::Object(members));
                }
                Some(c) => return Err(unexpected(c, "after object key:value pair")),
                None => return Err(END.to_owned()),
            }
        }
    }

    fn array(&mut self) -> Result<Node<'a>, String> {
        let mut items = Vec::new();
        self.space();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(Node::Array(items));
        }
        loop {
            items.push(self.value()?);
            self.space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b']') => {
                    self.at += 1;
                    return Ok(Node::Array(items));
                }
                Some(c) => return Err(unexpected(c, "after array element")),
                None => return Err(END.to_owned()),
            }
        }
    }

    fn literal(&mut self, word: &str, node: Node<'a>) -> Result<Node<'a>, String> {
        for expected in word.bytes() {
            match self.peek() {
                Some(c) if c == expected => self.at += 1,
                Some(c) => {
                    let context = format!("in literal {word} (expecting '{}')", char::from(expected));
                    return Err(unexpected(c, &context));
                }
                None => return Err(END.to_owned()),
            }
        }
        Ok(node)
    }

    fn digits(&mut self, context: &str) -> Result<(), String> {
        match self.peek() {
            Some(b'0'..=b'9') => {}
            Some(c) => return Err(unexpected(c, context)),
            None => return Err(END.to_owned()),
        }
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        Ok(())
    }

    fn number(&mut self) -> Result<Node<'a>, String> {
        let start = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        if self.peek() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits("in numeric literal")?;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits("after decimal point in numeric literal")?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits("in exponent of numeric literal")?;
        }
        Ok(Node::Number(String::from_utf8_lossy(&self.text[start..self.at])))
    }

    /// At the opening quote. Bytes that are no UTF-8 become U+FFFD, as in Go.
    fn string(&mut self) -> Result<Cow<'a, str>, String> {
        self.at += 1;
        let start = self.at;
        loop {
            match self.peek() {
                None => return Err(END.to_owned()),
                Some(b'"') => {
                    let text = String::from_utf8_lossy(&self.text[start..self.at]);
                    self.at += 1;
                    return Ok(text);
                }
                Some(b'\\') => break,
                Some(c @ 0..=0x1f) => return Err(unexpected(c, "in string literal")),
                Some(_) => self.at += 1,
            }
        }
        let mut bytes = self.text[start..self.at].to_vec();
        loop {
            match self.peek() {
                None => return Err(END.to_owned()),
                Some(b'"') => {
                    self.at += 1;
                    return Ok(Cow::Owned(match String::from_utf8(bytes) {
                        Ok(text) => text,
                        Err(e) => String::from_utf8_lossy(e.as_bytes()).into_owned(),
                    }));
                }
                Some(b'\\') => self.escape(&mut bytes)?,
                Some(c @ 0..=0x1f) => return Err(unexpected(c, "in string literal")),
                Some(c) => {
                    bytes.push(c);
                    self.at += 1;
                }
            }
        }
    }

    fn escape(&mut self, out: &mut Vec<u8>) -> Result<(), String> {
        self.at += 1;
        let Some(c) = self.peek() else { return Err(END.to_owned()) };
        self.at += 1;
        let plain = match c {
            b'"' | b'\\' | b'/' => c,
            b'b' => 8,
            b'f' => 12,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'u' => {
                let decoded = self.unicode()?;
                out.extend_from_slice(decoded.encode_utf8(&mut [0; 4]).as_bytes());
                return Ok(());
            }
            _ => return Err(unexpected(c, "in string escape code")),
        };
        out.push(plain);
        Ok(())
    }

    /// After `\u`. A lone surrogate becomes U+FFFD.
    fn unicode(&mut self) -> Result<char, String> {
        let first = self.hex4()?;
        if (0xd800..0xdc00).contains(&first) && self.text[self.at..].starts_with(b"\\u") {
            let back = self.at;
            self.at += 2;
            let second = self.hex4()?;
            if (0xdc00..0xe000).contains(&second) {
                let joined = 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00);
                return Ok(char::from_u32(joined).unwrap_or(char::REPLACEMENT_CHARACTER));
            }
            self.at = back;
        }
        Ok(char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER))
    }

    fn hex4(&mut self) -> Result<u32, String> {
        let mut value = 0;
        for _ in 0..4 {
            let Some(c) = self.peek() else { return Err(END.to_owned()) };
            let Some(digit) = char::from(c).to_digit(16) else {
                return Err(unexpected(c, "in \\u hexadecimal character escape"));
            };
            value = value * 16 + digit;
            self.at += 1;
        }
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    #[test]
    fn errors_read_as_gos() {
        for (text, want) in [
            ("", "unexpected end of JSON input"),
            ("x", "invalid character 'x' looking for beginning of value"),
            ("{\"a\":1,}", "invalid character '}' looking for beginning of object key string"),
            ("[1,]", "invalid character ']' looking for beginning of value"),
            ("{\"a\" 1}", "invalid character '1' after object key"),
            ("{\"a\":01}", "invalid character '1' after object key:value pair"),
            ("[1 2]", "invalid character '2' after array element"),
            ("tru ", "invalid character ' ' in literal true (expecting 'e')"),
            ("{} {}", "invalid character '{' after top-level value"),
            ("\"\\x\"", "invalid character 'x' in string escape code"),
            ("1.", "unexpected end of JSON input"),
        ] {
            assert_eq!(parse(text.as_bytes()).unwrap_err(), want, "{text}");
        }
        assert_eq!(parse("[".repeat(5000).as_bytes()).unwrap_err(), "invalid character '[' exceeded max depth");
    }

    #[test]
    fn strings_are_read_as_go_reads_them() {
        for (text, want) in [
            (&b"\"a\\u00e9\\n\""[..], "aé\n"),
            (b"\"\\ud83d\\ude00\"", "😀"),
            (b"\"\\ud83dx\"", "\u{fffd}x"),
            (b"\"\xff\"", "\u{fffd}"),
        ] {
            assert_eq!(parse(text).unwrap(), Node::String(want.into()));
        }
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            ".*".prop_map(Value::from),
        ];
        leaf.prop_recursive(5, 64, 8, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..8).prop_map(Value::from),
                prop::collection::btree_map(".*", inner, 0..8).prop_map(|m| Value::Object(m.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn reads_what_was_written(value in json()) {
            let text = serde_json::to_vec(&value).unwrap();
            prop_assert_eq!(parse(&text).unwrap().into_value(), value);
        }

        #[test]
        fn never_panics(text in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&text);
        }
    }
}
