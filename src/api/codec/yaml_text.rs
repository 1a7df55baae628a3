//! Values as YAML, in the form that sigs.k8s.io/yaml gives them: go-yaml v2's emitter (`emitterc.go`, `encode.go`,
//! `sorter.go`) writing block style, two spaces deep, lines folded behind 80 columns.

use std::cmp::Ordering;

use serde_json::{Map, Value};

/// Lines are folded at the first space behind this column.
const WIDTH: usize = 80;
const INDENT: usize = 2;
/// Longer keys are written with a `?` before them.
const SIMPLE_KEY_BYTES_MAX: usize = 128;

/// A document.
pub fn to_yaml(value: &Value) -> String {
    let mut out = Emitter { text: String::new(), column: 0 };
    match value {
        Value::Object(members) if !members.is_empty() => out.mapping(members, 0),
        Value::Array(items) if !items.is_empty() => out.sequence(items, 0),
        leaf => out.leaf(leaf, INDENT),
    }
    if out.column > 0 || out.text.is_empty() {
        out.text.push('\n');
    }
    out.text
}

struct Emitter {
    text: String,
    /// Characters since the last end of a line.
    column: usize,
}

#[derive(Clone, Copy, PartialEq)]
enum Style {
    Plain,
    Single,
    Double,
    Literal,
}

impl Emitter {
    fn put(&mut self, c: char) {
        self.text.push(c);
        self.column = if c == '\n' { 0 } else { self.column + 1 };
    }

    fn write(&mut self, text: &str) {
        text.chars().for_each(|c| self.put(c));
    }

    fn pad(&mut self, indent: usize) {
        while self.column < indent {
            self.put(' ');
        }
    }

    fn fresh_line(&mut self, indent: usize) {
        if self.column > 0 {
            self.put('\n');
        }
        self.pad(indent);
    }

    /// Where the next entry of a collection begins: behind the dash that it follows, or on a line of its own.
    fn entry(&mut self, first: bool, indent: usize) {
        if first && (self.text.is_empty() || (self.text.ends_with('-') && self.column < indent)) {
            self.pad(indent);
        } else {
            self.fresh_line(indent);
        }
    }

    fn mapping(&mut self, members: &Map<String, Value>, indent: usize) {
        let mut sorted: Vec<(&String, &Value)> = members.iter().collect();
        sorted.sort_by(|(a, _), (b, _)| natural(a, b));
        for (index, (key, value)) in sorted.into_iter().enumerate() {
            self.entry(index == 0, indent);
            if key.len() > SIMPLE_KEY_BYTES_MAX || key.chars().any(is_break) {
                self.put('?');
                self.put(' ');
                self.scalar(key, indent + INDENT, false);
                self.fresh_line(indent);
            } else {
                self.scalar(key, indent + INDENT, true);
            }
            self.put(':');
            match value {
                Value::Object(members) if !members.is_empty() => {
                    self.put('\n');
                    self.mapping(members, indent + INDENT);
                }
                Value::Array(items) if !items.is_empty() => {
                    self.put('\n');
                    self.sequence(items, indent);
                }
                leaf => {
                    self.put(' ');
                    self.leaf(leaf, indent + INDENT);
                }
            }
        }
    }

    fn sequence(&mut self, items: &[Value], indent: usize) {
        for (index, item) in items.iter().enumerate() {
            self.entry(index == 0, indent);
            self.put('-');
            match item {
                Value::Object(members) if !members.is_empty() => self.mapping(members, indent + INDENT),
                Value::Array(items) if !items.is_empty() => self.sequence(items, indent + INDENT),
                leaf => {
                    self.put(' ');
                    self.leaf(leaf, indent + INDENT);
                }
            }
        }
    }

    fn leaf(&mut self, value: &Value, indent: usize) {
        match value {
            Value::Null => self.write("null"),
            Value::Bool(b) => self.write(if *b { "true" } else { "false" }),
            Value::Number(number) => self.write(&number_text(number)),
            Value::String(text) => self.scalar(text, indent, false),
            Value::Array(_) => self.write("[]"),
            Value::Object(_) => self.write("{}"),
        }
    }

    fn scalar(&mut self, text: &str, indent: usize, key: bool) {
        match style(text, key) {
            Style::Plain => self.folded(text, indent, key, |_| None),
            Style::Single => {
                self.put('\'');
                self.folded(text, indent, key, |c| (c == '\'').then_some('\''));
                self.put('\'');
            }
            Style::Double => self.double(text, indent, key),
            Style::Literal => self.literal(text, indent),
        }
    }

    /// Plain and single-quoted text on one line or more; `escape`: what goes before a character.
    fn folded(&mut self, text: &str, indent: usize, key: bool, escape: impl Fn(char) -> Option<char>) {
        let chars: Vec<char> = text.chars().collect();
        let mut after_space = false;
        for (i, c) in chars.iter().enumerate() {
            let alone = *c == ' ' && !after_space && chars.get(i + 1).is_some_and(|next| *next != ' ');
            if alone && !key && i > 0 && self.column > WIDTH {
                self.fresh_line(indent);
            } else {
                if let Some(before) = escape(*c) {
                    self.put(before);
                }
                self.put(*c);
            }
            after_space = *c == ' ';
        }
    }

    fn double(&mut self, text: &str, indent: usize, key: bool) {
        self.put('"');
        let chars: Vec<char> = text.chars().collect();
        let mut after_space = false;
        for (i, c) in chars.iter().enumerate() {
            if !is_printable(*c) || is_break(*c) || matches!(c, '"' | '\\') {
                self.write(&escaped(*c));
            } else if *c == ' ' && !key && !after_space && self.column > WIDTH && i > 0 && i + 1 < chars.len() {
                self.fresh_line(indent);
                if chars.get(i + 1) == Some(&' ') {
                    self.put('\\');
                }
            } else {
                self.put(*c);
            }
            after_space = *c == ' ';
        }
        self.put('"');
    }

    fn literal(&mut self, text: &str, indent: usize) {
        self.put('|');
        if text.starts_with([' ', '\n']) {
            self.put('2');
        }
        if !text.ends_with('\n') {
            self.put('-');
        } else if text == "\n" || text.ends_with("\n\n") {
            self.put('+');
        }
        self.put('\n');
        for line in text.split_inclusive('\n') {
            if line != "\n" {
                self.pad(indent);
            }
            self.write(line);
        }
    }
}

/// go-yaml `encoder.stringv` and `yaml_emitter_select_scalar_style`.
fn style(text: &str, key: bool) -> Style {
    let analysis = Analysis::new(text);
    let mut style = match text.contains('\n') {
        true => Style::Literal,
        false if is_text(text) => Style::Plain,
        false => Style::Double,
    };
    if key && analysis.breaks {
        style = Style::Double;
    }
    if style == Style::Plain && !analysis.plain {
        style = Style::Single;
    }
    if style == Style::Single && !analysis.single {
        style = Style::Double;
    }
    if style == Style::Literal && (key || !analysis.block) {
        style = Style::Double;
    }
    style
}

/// In which styles a text can be written (`yaml_emitter_analyze_scalar`).
struct Analysis {
    breaks: bool,
    plain: bool,
    single: bool,
    block: bool,
}

impl Analysis {
    fn new(text: &str) -> Self {
        let chars: Vec<char> = text.chars().collect();
        let mut indicators = text.starts_with("---") || text.starts_with("...");
        let (mut breaks, mut special, mut break_space, mut space_break) = (false, false, false, false);
        let mut before = None;
        for (i, c) in chars.iter().copied().enumerate() {
            let last = chars.get(i + 1).is_none_or(|next| matches!(next, ' ' | '\t'));
            indicators |= match c {
                '#' => before.is_none_or(|b| matches!(b, ' ' | '\t') || is_break(b)),
                ',' | '[' | ']' | '{' | '}' | '&' | '*' | '!' | '|' | '>' | '\'' | '"' | '%' | '@' | '`' => i == 0,
                '?' | '-' => i == 0 && last,
                ':' => last,
                _ => false,
            };
            special |= !is_printable(c);
            breaks |= is_break(c);
            break_space |= c == ' ' && before.is_some_and(is_break);
            space_break |= is_break(c) && before == Some(' ');
            before = Some(c);
        }
        let edge = |c: Option<&char>| c.is_some_and(|c| *c == ' ' || is_break(*c));
        let edges = edge(chars.first()) || edge(chars.last());
        Self {
            breaks,
            plain: !(indicators || special || breaks || break_space || space_break || edges),
            single: !(special || break_space || space_break),
            block: !(special || space_break || chars.is_empty() || chars.last() == Some(&' ')),
        }
    }
}

fn is_break(c: char) -> bool {
    matches!(c, '\n' | '\r' | '\u{85}' | '\u{2028}' | '\u{2029}')
}

fn is_printable(c: char) -> bool {
    matches!(c, '\n' | ' '..='~' | '\u{a0}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}') && c != '\u{feff}'
}

fn escaped(c: char) -> String {
    let short = match c {
        '\0' => "\\0",
        '\u{7}' => "\\a",
        '\u{8}' => "\\b",
        '\t' => "\\t",
        '\n' => "\\n",
        '\u{b}' => "\\v",
        '\u{c}' => "\\f",
        '\r' => "\\r",
        '\u{1b}' => "\\e",
        '"' => "\\\"",
        '\\' => "\\\\",
        '\u{85}' => "\\N",
        '\u{a0}' => "\\_",
        '\u{2028}' => "\\L",
        '\u{2029}' => "\\P",
        _ => {
            let code = u32::from(c);
            return match code {
                0..=0xff => format!("\\x{code:02X}"),
                0x100..=0xffff => format!("\\u{code:04X}"),
                _ => format!("\\U{code:08X}"),
            };
        }
    };
    short.to_owned()
}

/// Whether a plain scalar is read back as the text that it is (go-yaml `resolve` and `isBase60Float`).
fn is_text(text: &str) -> bool {
    const WORDS: [&str; 36] = [
        "", "y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON", "n", "N", "no", "No", "NO",
        "false", "False", "FALSE", "off", "Off", "OFF", "~", "null", "Null", "NULL", ".nan", ".NaN", ".NAN", ".inf",
        ".Inf", ".INF", "+.inf", "+.Inf", "+.INF",
    ];
    if WORDS.contains(&text) || matches!(text, "-.inf" | "-.Inf" | "-.INF") {
        return false;
    }
    match text.as_bytes().first() {
        Some(b'.') => !is_float(text),
        Some(b'+' | b'-' | b'0'..=b'9') => {
            let plain = text.replace('_', "");
            !(is_timestamp(text) || is_integer(&plain) || is_float(&plain) || is_base_60(text))
        }
        _ => true,
    }
}

/// `strconv.ParseInt` and `ParseUint` of base 0.
fn is_integer(text: &str) -> bool {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let lower = digits.to_ascii_lowercase();
    let (radix, digits) = match lower.as_bytes() {
        [b'0', b'x', ..] => (16, &lower[2..]),
        [b'0', b'o', ..] => (8, &lower[2..]),
        [b'0', b'b', ..] => (2, &lower[2..]),
        [b'0', _, ..] => (8, &lower[1..]),
        _ => (10, lower.as_str()),
    };
    if digits.is_empty() || !digits.chars().all(|c| c.is_digit(radix)) {
        return false;
    }
    match u64::from_str_radix(digits, radix) {
        Ok(number) if negative => number <= 1 << 63,
        // A sign in front is for signed numbers only.
        Ok(number) => !text.starts_with('+') || i64::try_from(number).is_ok(),
        Err(_) => false,
    }
}

/// `yamlStyleFloat`, if the number is one that a double holds.
fn is_float(text: &str) -> bool {
    let digits = |t: &str| t.bytes().take_while(u8::is_ascii_digit).count();
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let whole = digits(unsigned);
    let mut rest = &unsigned[whole..];
    if let Some(after) = rest.strip_prefix('.') {
        let fraction = digits(after);
        if whole == 0 && fraction == 0 {
            return false;
        }
        rest = &after[fraction..];
    } else if whole == 0 {
        return false;
    }
    if let Some(exponent) = rest.strip_prefix(['e', 'E']) {
        let exponent = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
        if exponent.is_empty() || digits(exponent) != exponent.len() {
            return false;
        }
    } else if !rest.is_empty() {
        return false;
    }
    text.parse::<f64>().is_ok_and(f64::is_finite)
}

/// Numbers such as `190:20:30`, which older readers take for seconds.
fn is_base_60(text: &str) -> bool {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let (head, tail) = match unsigned.split_once('.') {
        Some((head, tail)) => (head, tail),
        None => (unsigned, ""),
    };
    let mut parts = head.split(':');
    let first = parts.next().unwrap_or_default();
    let figures = |t: &str| t.bytes().all(|b| b.is_ascii_digit() || b == b'_');
    let rest: Vec<&str> = parts.collect();
    first.starts_with(|c: char| c.is_ascii_digit())
        && figures(first)
        && figures(tail)
        && !rest.is_empty()
        && rest.iter().all(|part| match part.as_bytes() {
            [b] => b.is_ascii_digit(),
            [a, b] => (b'0'..=b'5').contains(a) && b.is_ascii_digit(),
            _ => false,
        })
}

/// go-yaml `parseTimestamp`.
fn is_timestamp(text: &str) -> bool {
    fn number(rest: &mut &str, most: usize, least: usize, range: std::ops::RangeInclusive<u32>) -> bool {
        let digits = rest.bytes().take(most).take_while(u8::is_ascii_digit).count();
        let good = digits >= least && rest[..digits].parse().is_ok_and(|n: u32| range.contains(&n));
        *rest = &rest[digits..];
        good
    }
    fn sign(rest: &mut &str, signs: &[char]) -> bool {
        let after = rest.strip_prefix(signs);
        *rest = after.unwrap_or(rest);
        after.is_some()
    }
    let mut rest = text;
    if !(number(&mut rest, 4, 4, 0..=9999)
        && sign(&mut rest, &['-'])
        && number(&mut rest, 2, 1, 1..=12)
        && sign(&mut rest, &['-'])
        && number(&mut rest, 2, 1, 1..=31))
    {
        return false;
    }
    if rest.is_empty() {
        return true;
    }
    let zoned = rest.starts_with(['T', 't']);
    if !(sign(&mut rest, &['T', 't', ' '])
        && number(&mut rest, 2, 1, 0..=23)
        && sign(&mut rest, &[':'])
        && number(&mut rest, 2, 1, 0..=59)
        && sign(&mut rest, &[':'])
        && number(&mut rest, 2, 1, 0..=59))
    {
        return false;
    }
    if let Some(fraction) = rest.strip_prefix(['.', ',']) {
        let digits = fraction.bytes().take_while(u8::is_ascii_digit).count();
        if digits == 0 {
            return false;
        }
        rest = &fraction[digits..];
    }
    if !zoned {
        return rest.is_empty();
    }
    rest == "Z"
        || (sign(&mut rest, &['+', '-'])
            && number(&mut rest, 2, 2, 0..=24)
            && sign(&mut rest, &[':'])
            && number(&mut rest, 2, 2, 0..=60)
            && rest.is_empty())
}

/// `strconv.FormatFloat(f, 'g', -1, 64)`.
fn number_text(number: &serde_json::Number) -> String {
    if number.is_i64() || number.is_u64() {
        return number.to_string();
    }
    let Some(float) = number.as_f64() else { return number.to_string() };
    let text = format!("{float:e}");
    let Some((digits, exponent)) = text.split_once('e') else { return text };
    let Ok(exponent) = exponent.parse::<i32>() else { return text };
    if (-4..6).contains(&exponent) {
        return format!("{float}");
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

/// The order of keys (go-yaml `keyList.Less`): figures before letters, numbers by value.
fn natural(a: &str, b: &str) -> Ordering {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let Some(i) = a.iter().zip(&b).position(|(x, y)| x != y) else { return a.len().cmp(&b.len()) };
    let (x, y) = (a[i], b[i]);
    match (x.is_alphabetic(), y.is_alphabetic()) {
        (true, true) => return x.cmp(&y),
        (true, false) => return Ordering::Greater,
        (false, true) => return Ordering::Less,
        (false, false) => {}
    }
    let (mut m, mut n) = (0u64, 0u64);
    if x == '0' || y == '0' {
        let before = a[..i].iter().rev().take_while(|c| c.is_ascii_digit());
        if before.into_iter().any(|c| *c != '0') {
            (m, n) = (1, 1);
        }
    }
    let read = |chars: &[char], number: &mut u64| {
        let digits: Vec<u32> = chars[i..].iter().map_while(|c| c.to_digit(10)).collect();
        for digit in &digits {
            *number = number.wrapping_mul(10).wrapping_add(u64::from(*digit));
        }
        digits.len()
    };
    let (p, q) = (read(&a, &mut m), read(&b, &mut n));
    m.cmp(&n).then(p.cmp(&q)).then(x.cmp(&y))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn documents_look_as_go_yaml_writes_them() {
        let check = |value: Value, want: &str| assert_eq!(to_yaml(&value), want);
        check(
            json!({"f:metadata": {".": {}, "f:labels": {"f:a": {}}}, "items": [{"b": 1, "a": [[1, "x"], []]}, null], "e": ""}),
            "e: \"\"\nf:metadata:\n  .: {}\n  f:labels:\n    f:a: {}\nitems:\n- a:\n  - - 1\n    - x\n  - []\n  b: 1\n- null\n",
        );
        check(
            json!({"k": "2026-01-01T00:00:00Z", "l": "a\nb\n", "m": "a\nb", "n": "no", "o": "1e3", "p": "a: b", "q": " x", "r": "\t"}),
            "k: \"2026-01-01T00:00:00Z\"\nl: |\n  a\n  b\nm: |-\n  a\n  b\n\"n\": \"no\"\no: \"1e3\"\np: 'a: b'\nq: ' x'\nr: \"\\t\"\n",
        );
        check(
            json!({"a10": 1, "a9": 2, "aa": 0.5, "k:{\"x\":1}": 1e30}),
            "a9: 2\na10: 1\naa: 0.5\nk:{\"x\":1}: 1e+30\n",
        );
        check(json!({}), "{}\n");
        check(json!(["a", {"b": {}}]), "- a\n- b: {}\n");
        let long = "word ".repeat(20);
        check(
            json!({"text": long.trim()}),
            "text: word word word word word word word word word word word word word word word word\n  word word word word\n",
        );
    }

    #[test]
    fn only_text_stays_plain() {
        for text in ["1", "0x1f", "1_000", ".5", "1e3", "12:30", "2026-1-2", "2026-01-02 10:11:12", "yes", "~", ""] {
            assert!(!is_text(text), "{text}");
        }
        for text in ["1.2.3", "1e999", "a", "-", ".", "12:70", "2026-13-01", "v1", "0x", "1Gi", "100m", "-a"] {
            assert!(is_text(text), "{text}");
        }
    }
}
