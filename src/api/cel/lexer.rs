//! Source text to tokens (the lexical part of cel-spec `langdef.md`).

use super::error::Issue;

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Token {
    Int(String),
    Uint(String),
    Double(f64),
    String(String),
    Bytes(Vec<u8>),
    Ident(String),
    /// A field's name between backticks.
    Escaped(String),
    /// Operators and punctuation.
    Op(&'static str),
    /// A literal that has the form of one but no value, and why.
    Bad(&'static str),
    End,
}

#[derive(Debug, Clone)]
pub(super) struct Lexeme {
    pub token: Token,
    /// Offset in characters.
    pub at: u32,
    /// Offset of the character after it.
    pub end: u32,
}

/// Longest first, so that the first match is the longest.
const OPERATORS: &[&str] = &[
    "==", "!=", "<=", ">=", "&&", "||", "<", ">", "+", "-", "*", "/", "%", "!", "?", ":", ".", ",", "(", ")", "[", "]",
    "{", "}",
];

/// How many problems are told of (`errorReportingLimit`).
const ISSUES_MAX: usize = 100;

struct Lexer<'s> {
    text: &'s [char],
    at: usize,
}

/// All tokens, the last of which is [`Token::End`], and what is none: upstream's lexer leaves that out and goes on.
pub(super) fn lex(text: &[char]) -> (Vec<Lexeme>, Vec<Issue>) {
    let mut lexer = Lexer { text, at: 0 };
    let (mut lexemes, mut issues) = (Vec::new(), Vec::new());
    loop {
        lexer.skip_blank();
        let at = lexer.at;
        match lexer.token() {
            Ok(token) => {
                let end = token == Token::End;
                lexemes.push(Lexeme { token, at: at as u32, end: lexer.at as u32 });
                if end {
                    return (lexemes, issues);
                }
            }
            Err(dead) => {
                // What was looked at, the character with which nothing goes on included.
                let to = (dead + 1).min(text.len());
                lexer.at = to;
                if issues.len() < ISSUES_MAX {
                    let message = format!("Syntax error: token recognition error at: {}", quoted(&text[at..to]));
                    issues.push(Issue { at: at as u32, message });
                }
            }
        }
    }
}

/// Source as error texts show it.
pub(super) fn quoted(text: &[char]) -> String {
    let text: String = text.iter().collect();
    format!("'{}'", text.replace('\n', "\\n").replace('\r', "\\r").replace('\t', "\\t"))
}

fn is_ident(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// Where no token can go on.
type Dead = usize;

impl Lexer<'_> {
    fn peek(&self, ahead: usize) -> Option<char> {
        self.text.get(self.at + ahead).copied()
    }

    fn skip_blank(&mut self) {
        loop {
            match self.peek(0) {
                Some(' ' | '\t' | '\n' | '\r' | '\u{c}') => self.at += 1,
                Some('/') if self.peek(1) == Some('/') => {
                    while self.peek(0).is_some_and(|c| c != '\n') {
                        self.at += 1;
                    }
                }
                _ => return,
            }
        }
    }

    fn token(&mut self) -> Result<Token, Dead> {
        let Some(c) = self.peek(0) else { return Ok(Token::End) };
        if c.is_ascii_digit() || (c == '.' && self.peek(1).is_some_and(|c| c.is_ascii_digit())) {
            return Ok(self.number());
        }
        if let Some((raw, bytes, prefix)) = self.string_prefix() {
            match self.string(raw, bytes, prefix) {
                // What stands before the quote is a name then.
                Err(_) if prefix > 0 => {}
                done => return done,
            }
        }
        if c.is_ascii_alphabetic() || c == '_' {
            let from = self.at;
            while self.peek(0).is_some_and(is_ident) {
                self.at += 1;
            }
            return Ok(Token::Ident(self.text[from..self.at].iter().collect()));
        }
        if c == '`' {
            return self.escaped();
        }
        for op in OPERATORS {
            if op.chars().enumerate().all(|(i, o)| self.peek(i) == Some(o)) {
                self.at += op.len();
                return Ok(Token::Op(op));
            }
        }
        // The first halves of `==`, `&&` and `||` want another character.
        Err(self.at + usize::from(matches!(c, '=' | '&' | '|')))
    }

    fn escaped(&mut self) -> Result<Token, Dead> {
        let from = self.at + 1;
        let mut to = from;
        while self.text.get(to).is_some_and(|c| is_ident(*c) || matches!(c, '.' | '-' | '/' | ' ')) {
            to += 1;
        }
        if to == from || self.text.get(to) != Some(&'`') {
            return Err(to);
        }
        self.at = to + 1;
        Ok(Token::Escaped(self.text[from..to].iter().collect()))
    }

    fn number(&mut self) -> Token {
        let from = self.at;
        let text = |lexer: &Self| lexer.text[from..lexer.at].iter().collect::<String>();
        if self.peek(0) == Some('0') && self.peek(1) == Some('x') && self.peek(2).is_some_and(|c| c.is_ascii_hexdigit())
        {
            self.at += 2;
            while self.peek(0).is_some_and(|c| c.is_ascii_hexdigit()) {
                self.at += 1;
            }
            return self.integer(text(self));
        }
        let digits = |lexer: &mut Self| {
            while lexer.peek(0).is_some_and(|c| c.is_ascii_digit()) {
                lexer.at += 1;
            }
        };
        digits(self);
        let mut double = false;
        if self.peek(0) == Some('.') && self.peek(1).is_some_and(|c| c.is_ascii_digit()) {
            double = true;
            self.at += 1;
            digits(self);
        }
        if matches!(self.peek(0), Some('e' | 'E')) {
            let sign = usize::from(matches!(self.peek(1), Some('+' | '-')));
            if self.peek(1 + sign).is_some_and(|c| c.is_ascii_digit()) {
                double = true;
                self.at += 1 + sign;
                digits(self);
            }
        }
        let text = text(self);
        if double {
            let parsed = text.parse().ok().filter(|number: &f64| number.is_finite());
            return parsed.map_or(Token::Bad("invalid double literal"), Token::Double);
        }
        self.integer(text)
    }

    fn integer(&mut self, text: String) -> Token {
        if matches!(self.peek(0), Some('u' | 'U')) {
            self.at += 1;
            return Token::Uint(text);
        }
        Token::Int(text)
    }

    /// `(raw, bytes, length)` of what stands before a quote, if a string begins here.
    fn string_prefix(&self) -> Option<(bool, bool, usize)> {
        let (mut raw, mut bytes) = (false, false);
        for ahead in 0..3 {
            match self.peek(ahead)? {
                '"' | '\'' => return Some((raw, bytes, ahead)),
                'r' | 'R' if !raw => raw = true,
                'b' | 'B' if !bytes && !raw => bytes = true,
                _ => return None,
            }
        }
        None
    }

    /// A string's token; it is taken only if there is one.
    fn string(&mut self, raw: bool, bytes: bool, prefix: usize) -> Result<Token, Dead> {
        let open = self.at + prefix;
        let char_at = |at: usize| self.text.get(at).copied();
        let quote = char_at(open).ok_or(open)?;
        let empty = char_at(open + 1) == Some(quote);
        let triple = empty && char_at(open + 2) == Some(quote);
        let (width, end) = match triple.then(|| self.string_end(open + 3, quote, true, raw)) {
            Some(Ok(end)) => (3, end),
            // Three quotes that nothing closes are an empty string and the beginning of another.
            _ if empty => (1, open + 1),
            _ => (1, self.string_end(open + 1, quote, false, raw)?),
        };
        let content = &self.text[open + width..end];
        self.at = end + width;
        Ok(value(content, raw, bytes))
    }

    /// Where the closing quotes begin.
    fn string_end(&self, from: usize, quote: char, triple: bool, raw: bool) -> Result<usize, Dead> {
        let char_at = |at: usize| self.text.get(at).copied();
        let mut at = from;
        loop {
            let c = char_at(at).ok_or(at)?;
            if c == quote && (!triple || (char_at(at + 1) == Some(quote) && char_at(at + 2) == Some(quote))) {
                return Ok(at);
            }
            if !triple && matches!(c, '\n' | '\r') {
                return Err(at);
            }
            at += 1;
            if c != '\\' || raw {
                continue;
            }
            // What may follow a backslash (`ESC_SEQ`).
            let (digits, radix) = match char_at(at).ok_or(at)? {
                'x' | 'X' => (2, 16),
                'u' => (4, 16),
                'U' => (8, 16),
                '0'..='3' => (2, 8),
                'a' | 'b' | 'f' | 'n' | 'r' | 't' | 'v' | '"' | '\'' | '\\' | '?' | '`' => (0, 8),
                _ => return Err(at),
            };
            at += 1;
            for _ in 0..digits {
                if !char_at(at).ok_or(at)?.is_digit(radix) {
                    return Err(at);
                }
                at += 1;
            }
        }
    }
}

/// What a string's content means (cel-go `parser/unescape.go`).
fn value(content: &[char], raw: bool, bytes: bool) -> Token {
    let (mut text, mut octets) = (String::new(), Vec::new());
    let mut rest = content.iter().copied().peekable();
    let mut push = |c: char, octets: &mut Vec<u8>| {
        if bytes {
            octets.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
        } else {
            text.push(c);
        }
    };
    while let Some(c) = rest.next() {
        if c == '\r' {
            // All strings have their lines end alike.
            rest.next_if_eq(&'\n');
            push('\n', &mut octets);
            continue;
        }
        if c != '\\' || raw {
            push(c, &mut octets);
            continue;
        }
        let Some(kind) = rest.next() else { return Token::Bad("unable to unescape string") };
        let (digits, radix, first) = match kind {
            'x' | 'X' => (2, 16, 0),
            'u' | 'U' if bytes => return Token::Bad("unable to unescape string"),
            'u' => (4, 16, 0),
            'U' => (8, 16, 0),
            '0'..='3' => (2, 8, kind.to_digit(8).unwrap_or_default()),
            _ => {
                let plain = match kind {
                    'a' => '\u{7}',
                    'b' => '\u{8}',
                    'f' => '\u{c}',
                    'n' => '\n',
                    'r' => '\r',
                    't' => '\t',
                    'v' => '\u{b}',
                    other => other,
                };
                push(plain, &mut octets);
                continue;
            }
        };
        let mut number = first;
        for _ in 0..digits {
            let Some(digit) = rest.next().and_then(|c| c.to_digit(radix)) else {
                return Token::Bad("unable to unescape string");
            };
            number = (number << if radix == 8 { 3 } else { 4 }) | digit;
        }
        if bytes {
            // Octal and hexadecimal escapes are bytes; three octal digits below 0400 fit.
            octets.push(number as u8);
        } else {
            let Some(c) = char::from_u32(number) else { return Token::Bad("invalid unicode code point") };
            push(c, &mut octets);
        }
    }
    if bytes { Token::Bytes(octets) } else { Token::String(text) }
}
