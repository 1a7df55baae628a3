//! Regular expressions as Go's `regexp` reads them, by the `regex` crate: classes are ASCII, brackets do not nest.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use parking_lot::Mutex;
use regex::Regex;

/// Compiled expressions that are kept; all are dropped when there are more.
const KEPT_MAX: usize = 500;

static KEPT: LazyLock<Mutex<HashMap<String, Arc<Regex>>>> = LazyLock::new(Mutex::default);

/// Compiles an expression, or finds it compiled.
///
/// # Errors
/// Why it is no good, in Go's words where it is simple.
pub fn compile(pattern: &str) -> Result<Arc<Regex>, String> {
    if let Some(found) = KEPT.lock().get(pattern) {
        return Ok(Arc::clone(found));
    }
    repetitions(pattern)?;
    let made = Regex::new(&translate(pattern)).map(Arc::new).map_err(|error| go_error(pattern, &error))?;
    let mut kept = KEPT.lock();
    if kept.len() >= KEPT_MAX {
        kept.clear();
    }
    kept.insert(pattern.to_owned(), Arc::clone(&made));
    Ok(made)
}

/// Repetitions that Go refuses and the crate takes: of repetitions, and more than 1,000.
fn repetitions(pattern: &str) -> Result<(), String> {
    let bytes = pattern.as_bytes();
    let (mut at, mut class, mut last) = (0, false, None);
    while at < bytes.len() {
        let begin = at;
        at += 1;
        let repeated = match bytes[begin] {
            b'\\' if pattern[at..].starts_with('Q') => {
                at = pattern[at..].find("\\E").map_or(bytes.len(), |end| at + end + 2);
                false
            }
            b'\\' => {
                at += pattern[at..].chars().next().map_or(0, char::len_utf8);
                false
            }
            b'[' if !class => {
                class = true;
                at += usize::from(bytes.get(at) == Some(&b'^'));
                at += usize::from(bytes.get(at) == Some(&b']'));
                false
            }
            b']' if class => {
                class = false;
                false
            }
            _ if class => false,
            b'(' if bytes.get(at) == Some(&b'?') => {
                at += 1;
                false
            }
            b'*' | b'+' | b'?' => true,
            b'{' => match counts(&pattern[at..]) {
                Some((length, least, most)) => {
                    at += length;
                    let many = |n: Option<u32>| n.is_none_or(|n| n > 1000);
                    if many(least) || most.is_some_and(many) || most.flatten() < least && most.is_some() {
                        return Err(format!("error parsing regexp: invalid repeat count: `{}`", &pattern[begin..at]));
                    }
                    true
                }
                None => false,
            },
            _ => false,
        };
        if !repeated {
            last = None;
            continue;
        }
        if let Some(first) = last {
            let both = &pattern[first..at];
            return Err(format!("error parsing regexp: invalid nested repetition operator: `{both}`"));
        }
        last = Some(begin);
        at += usize::from(bytes.get(at) == Some(&b'?'));
    }
    Ok(())
}

/// `n}`, `n,}` or `n,m}`: its length, and the counts; one that is too large for any is `None`.
fn counts(text: &str) -> Option<(usize, Option<u32>, Option<Option<u32>>)> {
    let (inner, _) = text.split_once('}')?;
    let (least, most) = inner.split_once(',').map_or((inner, None), |(least, most)| (least, Some(most)));
    let plain = |digits: &str| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    if !plain(least) || most.is_some_and(|most| !most.is_empty() && !plain(most)) {
        return None;
    }
    let most = most.filter(|most| !most.is_empty()).map(|most| most.parse().ok());
    Some((inner.len() + 1, least.parse().ok(), most))
}

/// `regexp/syntax.Error` for the usual mistakes.
fn go_error(pattern: &str, error: &regex::Error) -> String {
    let text = error.to_string();
    let last = text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
    let why = if last.contains("unclosed group") {
        format!("missing closing ): `{pattern}`")
    } else if last.contains("unopened group") {
        format!("unexpected ): `{pattern}`")
    } else if last.contains("unclosed character class") {
        let from = pattern.find('[').unwrap_or_default();
        format!("missing closing ]: `{}`", &pattern[from..])
    } else if last.contains("repetition operator missing expression") {
        let operator = pattern.find(['*', '+', '?']).unwrap_or_default();
        format!("missing argument to repetition operator: `{}`", &pattern[operator..(operator + 1).min(pattern.len())])
    } else if last.contains("backreferences") || last.contains("unrecognized escape") {
        let at = pattern.match_indices('\\').map(|(at, _)| at).find(|at| {
            let next = pattern[at + 1..].chars().next();
            next.is_some_and(|c| c.is_ascii_digit() && c != '0' || c.is_ascii_alphabetic() && !GO_ESCAPES.contains(c))
        });
        let shown = at.map_or("", |at| pattern.get(at..at + 2).unwrap_or_default());
        format!("invalid escape sequence: `{shown}`")
    } else if last.contains("look-around") {
        let at = pattern.find("(?").unwrap_or_default();
        let end = pattern[at..].char_indices().nth(3).map_or(pattern.len(), |(i, _)| at + i);
        format!("invalid or unsupported Perl syntax: `{}`", &pattern[at..end])
    } else {
        format!("{last}: `{pattern}`")
    };
    format!("error parsing regexp: {why}")
}

/// Letters that mean something after a backslash.
const GO_ESCAPES: &str = "abdfnprstvwxzABCDEPQSW";
const DIGIT: &str = "0-9";
const WORD: &str = "0-9A-Za-z_";
const SPACE: &str = "\\t\\n\\f\\r ";

/// The same expression in the crate's dialect.
fn translate(pattern: &str) -> String {
    let mut out = String::with_capacity(pattern.len() + 16);
    let mut chars = pattern.chars().peekable();
    let mut class = false;
    let mut first = false;
    while let Some(c) = chars.next() {
        let at_first = std::mem::replace(&mut first, false);
        match c {
            '\\' => match chars.next() {
                Some('d') if class => out.push_str(DIGIT),
                Some('w') if class => out.push_str(WORD),
                Some('s') if class => out.push_str(SPACE),
                Some('d') => out.push_str(&format!("[{DIGIT}]")),
                Some('w') => out.push_str(&format!("[{WORD}]")),
                Some('s') => out.push_str(&format!("[{SPACE}]")),
                Some('D') => out.push_str(&format!("[^{DIGIT}]")),
                Some('W') => out.push_str(&format!("[^{WORD}]")),
                Some('S') => out.push_str(&format!("[^{SPACE}]")),
                Some('b') if !class => out.push_str("(?-u:\\b)"),
                Some('B') if !class => out.push_str("(?:(?-u:\\B))"),
                Some('Q') => {
                    // Literal up to \E.
                    let mut literal = String::new();
                    while let Some(c) = chars.next() {
                        if c == '\\' && chars.peek() == Some(&'E') {
                            chars.next();
                            break;
                        }
                        literal.push(c);
                    }
                    out.push_str(&regex::escape(&literal));
                }
                // Go takes an escaped punctuation character as itself, and so does the crate but for some.
                Some(c @ ('/' | '"' | '\'' | '`' | ',' | ':' | ';' | '=' | '@' | '!' | '%' | '_' | '<' | '>')) => {
                    out.push(c);
                }
                Some(c) => {
                    out.push('\\');
                    out.push(c);
                }
                None => out.push('\\'),
            },
            '[' if class => {
                if chars.peek() == Some(&':') {
                    out.push('[');
                    // [:alpha:] goes through as it is.
                    while let Some(c) = chars.next() {
                        out.push(c);
                        if c == ':' && chars.peek() == Some(&']') {
                            out.push(']');
                            chars.next();
                            break;
                        }
                    }
                } else {
                    out.push_str("\\[");
                }
            }
            '[' => {
                class = true;
                first = true;
                out.push('[');
                if chars.peek() == Some(&'^') {
                    chars.next();
                    out.push('^');
                }
            }
            ']' if class && at_first => out.push_str("\\]"),
            ']' if class => {
                class = false;
                out.push(']');
            }
            // Set operations of the crate.
            '&' | '~' if class => {
                out.push('\\');
                out.push(c);
            }
            '-' if class && chars.peek() == Some(&'-') => out.push_str("\\-"),
            _ => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_those_of_go() {
        let check = |pattern: &str, text: &str, want: bool| {
            assert_eq!(compile(pattern).unwrap().is_match(text), want, "{pattern} {text}");
        };
        check(r"^\d+$", "12", true);
        check(r"^\d+$", "١٢", false);
        check(r"^[\w.-]+$", "a_b.c-d", true);
        check(r"^[a[]$", "[", true);
        check(r"^[^]]$", "]", false);
        check(r"^[&&]$", "&", true);
        check(r"^\Qa.b\E$", "a.b", true);
        check(r"^\Qa.b\E$", "axb", false);
        check(r"\bfoo\b", "a foo b", true);
        check(r"^\/a$", "/a", true);
        check(r"^[[:alpha:]]+$", "abc", true);
        check("^é$", "é", true);
    }

    #[test]
    fn errors_read_as_gos() {
        let check = |pattern: &str, want: &str| {
            assert_eq!(compile(pattern).unwrap_err(), format!("error parsing regexp: {want}"));
        };
        check("([a-z]", "missing closing ): `([a-z]`");
        check("[a-z", "missing closing ]: `[a-z`");
        check("+", "missing argument to repetition operator: `+`");
        check(r"a\1", r"invalid escape sequence: `\1`");
        check(r"\d\y", r"invalid escape sequence: `\y`");
        check("a**", "invalid nested repetition operator: `**`");
        check("a+?*", "invalid nested repetition operator: `+?*`");
        check("a{2}{3}", "invalid nested repetition operator: `{2}{3}`");
        check("a{2,1}", "invalid repeat count: `{2,1}`");
        check("a{1001}", "invalid repeat count: `{1001}`");
        for fine in ["a{,1}", "a{x}", "[**]", r"\**", "(?i)a", "a*?b", r"\Q**\E", "a{2,}"] {
            assert!(repetitions(fine).is_ok(), "{fine}");
        }
    }
}
