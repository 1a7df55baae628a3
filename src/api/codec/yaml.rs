//! YAML as Kubernetes reads it: go-yaml v2 with YAML 1.1 words and octal numbers, then as if it were JSON.
//!
//! Upstream: sigs.k8s.io/yaml `YAMLToJSON`, go-yaml `resolve.go`.

use std::borrow::Cow;
use std::collections::HashMap;

use granit_parser::{Event, Parser, ScalarStyle, Span};

use super::node::{MAX_DEPTH, Node};

/// Nodes that aliases may add to a document.
const MAX_ALIASED_NODES: usize = 100_000;

/// A document and what is wrong with it short of failing.
pub struct Document<'a> {
    pub node: Node<'a>,
    /// Keys that come twice in a mapping, as go-yaml words them, in the order of the text.
    pub duplicates: Vec<String>,
}

/// Reads the first document of a stream. Members are sorted by name and, of equal names, only the last is kept, as in
/// the JSON that upstream makes of it.
pub fn parse(text: &str) -> Result<Document<'_>, String> {
    let mut composer = Composer {
        events: Parser::new_from_str(text),
        anchors: HashMap::new(),
        duplicates: Vec::new(),
        aliased: 0,
        depth: 0,
    };
    let node = loop {
        match composer.next()? {
            Some((Event::StreamEnd, _)) | None => break Node::Null,
            Some((Event::StreamStart | Event::DocumentStart(..) | Event::DocumentEnd, _)) => {}
            Some((event, span)) => break composer.node(event, &span)?.0,
        }
    };
    Ok(Document { node, duplicates: composer.duplicates })
}

struct Composer<'a> {
    events: Parser<'a, granit_parser::StrInput<'a>>,
    anchors: HashMap<usize, Node<'a>>,
    duplicates: Vec<String>,
    aliased: usize,
    depth: usize,
}

/// Whether a scalar was the merge key `<<`.
type IsMerge = bool;

impl<'a> Composer<'a> {
    fn next(&mut self) -> Result<Option<(Event<'a>, Span)>, String> {
        loop {
            match self.events.next() {
                None => return Ok(None),
                Some(Err(e)) => return Err(format!("yaml: line {}: {}", e.marker().line(), e.info())),
                #[allow(unreachable_patterns)] // reason: comments are events only with a feature of the parser
                Some(Ok((event, span))) => match event {
                    Event::Alias(_)
                    | Event::Scalar(..)
                    | Event::SequenceStart(..)
                    | Event::SequenceEnd
                    | Event::MappingStart(..)
                    | Event::MappingEnd
                    | Event::StreamStart
                    | Event::StreamEnd
                    | Event::DocumentStart(..)
                    | Event::DocumentEnd => return Ok(Some((event, span))),
                    _ => {}
                },
            }
        }
    }

    fn node(&mut self, event: Event<'a>, span: &Span) -> Result<(Node<'a>, IsMerge), String> {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let plain = style == ScalarStyle::Plain;
                let tag = tag.map(|t| t.to_string()).unwrap_or_default();
                let node = scalar(text.clone(), plain, &tag);
                self.keep(anchor, &node);
                Ok((node, plain && text == "<<"))
            }
            Event::SequenceStart(_, anchor, _) => {
                let node = self.nested(Self::sequence)?;
                self.keep(anchor, &node);
                Ok((node, false))
            }
            Event::MappingStart(_, anchor, _) => {
                let node = self.nested(Self::mapping)?;
                self.keep(anchor, &node);
                Ok((node, false))
            }
            Event::Alias(id) => Ok((self.alias(id, span)?, false)),
            _ => Err(format!("yaml: line {}: did not find expected node content", span.start.line())),
        }
    }

    fn nested(&mut self, read: fn(&mut Self) -> Result<Node<'a>, String>) -> Result<Node<'a>, String> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err("yaml: exceeded max depth".to_owned());
        }
        let node = read(self);
        self.depth -= 1;
        node
    }

    fn keep(&mut self, anchor: usize, node: &Node<'a>) {
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
    }

    fn alias(&mut self, id: usize, span: &Span) -> Result<Node<'a>, String> {
        let Some(node) = self.anchors.get(&id) else {
            return Err(format!("yaml: line {}: anchor value contains itself", span.start.line()));
        };
        self.aliased += size(node);
        if self.aliased > MAX_ALIASED_NODES || self.depth + depth(node) > MAX_DEPTH {
            return Err("yaml: document contains excessive aliasing".to_owned());
        }
        Ok(node.clone())
    }

    fn sequence(&mut self) -> Result<Node<'a>, String> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                Some((Event::SequenceEnd, _)) | None => return Ok(Node::Array(items)),
                Some((event, span)) => items.push(self.node(event, &span)?.0),
            }
        }
    }

    fn mapping(&mut self) -> Result<Node<'a>, String> {
        let mut members: Vec<(Cow<'a, str>, Node<'a>)> = Vec::new();
        let mut index: HashMap<String, usize> = HashMap::new();
        let mut merges = Vec::new();
        while let Some((event, span)) = self.next()? {
            if event == Event::MappingEnd {
                break;
            }
            let (key, is_merge) = self.node(event, &span)?;
            let Some((event, value_span)) = self.next()? else { break };
            let (value, _) = self.node(event, &value_span)?;
            if is_merge {
                merges.push((value, span.start.line()));
                continue;
            }
            let key = key_text(key, span.start.line())?;
            if let Some(at) = index.get(key.as_ref()) {
                // go-yaml's strict mode; the text is that of its TypeError.
                let line = span.start.line();
                self.duplicates.push(format!("line {line}: key {} already set in map", super::scalars::quote(&key)));
                members[*at].1 = value;
            } else {
                index.insert(key.to_string(), members.len());
                members.push((key, value));
            }
        }
        for (merged, line) in merges {
            merge(&mut members, &mut index, merged, line)?;
        }
        members.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(Node::Object(members))
    }
}

/// `<<: *base` or `<<: [*a, *b]`: members that are not there yet.
fn merge<'a>(
    members: &mut Vec<(Cow<'a, str>, Node<'a>)>,
    index: &mut HashMap<String, usize>,
    merged: Node<'a>,
    line: usize,
) -> Result<(), String> {
    let sources = match merged {
        Node::Object(_) => vec![merged],
        Node::Array(items) => items,
        _ => return Err(format!("yaml: line {line}: map merge requires map or sequence of maps as the value")),
    };
    for source in sources {
        let Node::Object(found) = source else {
            return Err(format!("yaml: line {line}: map merge requires map or sequence of maps as the value"));
        };
        for (key, value) in found {
            if !index.contains_key(key.as_ref()) {
                index.insert(key.to_string(), members.len());
                members.push((key, value));
            }
        }
    }
    Ok(())
}

fn size(node: &Node<'_>) -> usize {
    1 + match node {
        Node::Array(items) => items.iter().map(size).sum(),
        Node::Object(members) => members.iter().map(|(_, v)| size(v)).sum(),
        _ => 0,
    }
}

fn depth(node: &Node<'_>) -> usize {
    match node {
        Node::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Node::Object(members) => 1 + members.iter().map(|(_, v)| depth(v)).max().unwrap_or(0),
        _ => 0,
    }
}

/// The JSON member name of a mapping key (sigs.k8s.io/yaml `convertToJSONableObject`).
fn key_text(key: Node<'_>, line: usize) -> Result<Cow<'_, str>, String> {
    match key {
        Node::String(text) | Node::Number(text) => Ok(text),
        Node::Bool(value) => Ok(Cow::Borrowed(if value { "true" } else { "false" })),
        Node::Null => Ok(Cow::Borrowed("null")),
        Node::Array(_) | Node::Object(_) => Err(format!("yaml: line {line}: invalid map key")),
    }
}

fn scalar<'a>(text: Cow<'a, str>, plain: bool, tag: &str) -> Node<'a> {
    let is_string = tag.ends_with(":str") || tag == "!!str" || tag == "!" || tag.ends_with(":binary");
    if is_string || (!plain && tag.is_empty()) {
        return Node::String(text);
    }
    match text.as_ref() {
        "" | "~" | "null" | "Null" | "NULL" => return Node::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => return Node::Bool(true),
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            return Node::Bool(false);
        }
        _ => {}
    }
    match resolve_number(&text) {
        Some(number) => Node::Number(Cow::Owned(number)),
        None => Node::String(text),
    }
}

/// go-yaml `resolve`: the JSON text of the number that a plain scalar is.
fn resolve_number(text: &str) -> Option<String> {
    let first = *text.as_bytes().first()?;
    if first == b'.' {
        return float(text);
    }
    if !matches!(first, b'+' | b'-' | b'0'..=b'9') {
        return None;
    }
    let plain = text.replace('_', "");
    if let Some(integer) = integer(&plain) {
        return Some(integer);
    }
    is_float(&plain).then(|| float(&plain)).flatten()
}

/// Go's `strconv.ParseInt(s, 0, 64)`, then `ParseUint`.
fn integer(text: &str) -> Option<String> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let lower = digits.to_ascii_lowercase();
    let (radix, digits) = if let Some(hex) = lower.strip_prefix("0x") {
        (16, hex)
    } else if let Some(binary) = lower.strip_prefix("0b") {
        (2, binary)
    } else if let Some(octal) = lower.strip_prefix("0o") {
        (8, octal)
    } else if lower.len() > 1 && lower.starts_with('0') {
        (8, &lower[1..])
    } else {
        (10, lower.as_str())
    };
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return None;
    }
    let value = i128::from_str_radix(digits, radix).ok()?;
    let value = if negative { -value } else { value };
    let fits = i64::try_from(value).is_ok() || (u64::try_from(value).is_ok() && !text.starts_with('+'));
    fits.then(|| value.to_string())
}

/// `^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$`
fn is_float(text: &str) -> bool {
    let text = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (mantissa, exponent) = match text.find(['e', 'E']) {
        Some(at) => (&text[..at], Some(&text[at + 1..])),
        None => (text, None),
    };
    let digits = |t: &str| t.bytes().all(|b| b.is_ascii_digit());
    let mantissa_fits = match mantissa.split_once('.') {
        None => !mantissa.is_empty() && digits(mantissa),
        Some(("", fraction)) => !fraction.is_empty() && digits(fraction),
        Some((whole, fraction)) => digits(whole) && digits(fraction),
    };
    let exponent_fits = exponent.is_none_or(|e| {
        let e = e.strip_prefix(['-', '+']).unwrap_or(e);
        !e.is_empty() && digits(e)
    });
    mantissa_fits && exponent_fits
}

/// JSON has no infinities: a float out of range stays text.
fn float(text: &str) -> Option<String> {
    let value: f64 = text.parse().ok().filter(|f: &f64| f.is_finite())?;
    Some(if value.fract() == 0.0 && value.abs() < 1e15 { format!("{value:.0}") } else { value.to_string() })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn check(text: &str, want: Value) {
        assert_eq!(parse(text).unwrap().node.into_value(), want, "{text}");
    }

    #[test]
    fn scalars_are_those_of_yaml_1_1() {
        check("a: yes\nb: off\nc: ~\nd:\n", json!({"a": true, "b": false, "c": null, "d": null}));
        check(
            "a: 0755\nb: 0x1f\nc: 1_000\nd: 1.50\ne: 1e3\n",
            json!({"a": 493, "b": 31, "c": 1000, "d": 1.5, "e": 1000}),
        );
        check("a: '0755'\nb: \"yes\"\nc: !!str 12\n", json!({"a": "0755", "b": "yes", "c": "12"}));
        check(
            "a: 2024-01-02T03:04:05Z\nb: 1.2.3\nc: 100m\n",
            json!({"a": "2024-01-02T03:04:05Z", "b": "1.2.3", "c": "100m"}),
        );
        check("80: x\ntrue: y\n", json!({"80": "x", "true": true}));
    }

    #[test]
    fn aliases_and_merges_are_expanded() {
        check(
            "base: &b {x: 1, z: 2}\nother:\n  <<: *b\n  z: 3\n",
            json!({"base": {"x": 1, "z": 2}, "other": {"x": 1, "z": 3}}),
        );
    }

    #[test]
    fn an_alias_bomb_is_refused() {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for i in 1..9 {
            let items = vec![format!("*a{}", i - 1); 10].join(", ");
            text.push_str(&format!("a{i}: &a{i} [{items}]\n"));
        }
        assert_eq!(parse(&text).err().unwrap(), "yaml: document contains excessive aliasing");
    }

    #[test]
    fn a_key_that_comes_twice_is_named_with_its_line() {
        let document = parse("a: 1\nspec:\n  foo: x\n  foo: z\n").unwrap();
        assert_eq!(document.duplicates, ["line 4: key \"foo\" already set in map"]);
        assert_eq!(document.node.into_value(), json!({"a": 1, "spec": {"foo": "z"}}));
    }

    proptest! {
        #[test]
        fn never_panics(text in ".{0,200}") {
            let _ = parse(&text);
        }

        #[test]
        fn never_panics_on_yaml_like_text(text in "[-a:&*{}\\[\\]!|>,#'\" \n0-9]{0,80}") {
            let _ = parse(&text);
        }
    }
}
