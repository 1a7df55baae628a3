//! PEM as Go's `encoding/pem` reads it: what is no block is passed over.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

const BEGIN: &str = "-----BEGIN ";
const END: &str = "-----END ";
const DASHES: &str = "-----";

/// One block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    pub label: String,
    /// There are header lines before the contents.
    pub has_headers: bool,
    pub contents: Vec<u8>,
}

/// The blocks of a text, in order.
pub fn blocks(text: &str) -> Vec<Block> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(start) = begin(rest) {
        let body = rest.get(start..).unwrap_or_default();
        match block(body) {
            Some((block, after)) => {
                found.push(block);
                rest = after;
            }
            // The next line that begins a block may do better.
            None => rest = body,
        }
    }
    found
}

/// Where the text goes on after the next `-----BEGIN ` at the beginning of a line.
fn begin(text: &str) -> Option<usize> {
    if text.starts_with(BEGIN) {
        return Some(BEGIN.len());
    }
    text.find(&format!("\n{BEGIN}")).map(|at| at + 1 + BEGIN.len())
}

fn line(text: &str) -> (&str, &str) {
    let (line, rest) = text.split_once('\n').unwrap_or((text, ""));
    (line.trim_end_matches([' ', '\t', '\r']), rest)
}

/// A block after its `-----BEGIN `, and what follows it.
fn block(text: &str) -> Option<(Block, &str)> {
    let (first, mut rest) = line(text);
    let label = first.strip_suffix(DASHES)?;
    let mut has_headers = false;
    while let (header, after) = line(rest)
        && header.contains(':')
        && !after.is_empty()
    {
        has_headers = true;
        rest = after;
    }
    let end = format!("{END}{label}{DASHES}");
    let (body, after) = match rest.strip_prefix(&end) {
        Some(after) => ("", after),
        None => rest.split_once(&format!("\n{end}"))?,
    };
    let (trailing, after) = line(after);
    if !trailing.is_empty() {
        return None;
    }
    let body: String = body.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    let contents = STANDARD.decode(body).ok()?;
    Some((Block { label: label.to_owned(), has_headers, contents }, after))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_block_is_passed_over() {
        let check = |text: &str, want: &[(&str, bool, &[u8])]| {
            let found = blocks(text);
            let found: Vec<_> =
                found.iter().map(|b| (b.label.as_str(), b.has_headers, b.contents.as_slice())).collect();
            assert_eq!(found, want, "{text}");
        };
        let one = "-----BEGIN A-----\neHg=\n-----END A-----\n";
        check(one, &[("A", false, b"xx")]);
        check(&format!("text\n{one}more\n{one}"), &[("A", false, b"xx"), ("A", false, b"xx")]);
        check("-----BEGIN A-----\nh: v\n\neHg=\n-----END A-----", &[("A", true, b"xx")]);
        check("-----BEGIN A-----\n-----END A-----\n", &[("A", false, b"")]);
        check(&format!("-----BEGIN A-----\n*\n-----END A-----\n{one}"), &[("A", false, b"xx")]);
        check("-----BEGIN A-----\neHg=\n-----END B-----\n", &[]);
        check("x-----BEGIN A-----\neHg=\n-----END A-----\n", &[]);
    }
}
