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
    /// Operators and punctuation.
    Op(&'static str),
    End,
}

impl Token {
    /// As error texts show it.
    pub fn text(&self) -> String {
        match self {
            Self::Int(text) | Self::Ident(text) => text.clone(),
            Self::Uint(text) => format!("{text}u"),
            Self::Double(number) => number.to_string(),
            Self::String(text) => format!("{text:?}"),
            Self::Bytes(_) => "b\"…\"".to_owned(),
            Self::Op(op) => (*op).to_owned(),
            Self::End => "<EOF>".to_owned(),
        }
    }
}

#[derive(Debug, Clone)]
pub(super) struct Lexeme {
    pub token: Token,
    /// Offset in characters.
    pub at: u32,
}

/// Longest first, so that the first match is the longest.
const OPERATORS: &[&str] = &[
    "==", "!=", "<=", ">=", "&&", "||", "<", ">", "+", "-", "*", "/", "%", "!", "?", ":", ".", ",", "(", ")", "[", "]",
    "{", "}",
];

struct Lexer<'s> {
    text: &'s [char],
    at: usize,
}

/// All tokens; the last is [`Token::End`].
pub(super) fn lex(text: &[char]) -> Result<Vec<Lexeme>, Issue> {
    let mut lexer = Lexer { text, at: 0 };
    let mut lexemes = Vec::new();
    loop {
        lexer.skip_blank();
        let at = lexer.at as u32;
        let token = lexer.token().map_err(|message| Issue { at, message: format!("Syntax error: {message}") })?;
        let end = token == Token::End;
        lexemes.push(Lexeme { token, at });
        if end {
            return Ok(lexemes);
        }
    }
}

fn is_ident(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

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

    fn token(&mut self) -> Result<Token, String> {
        let Some(c) = self.peek(0) else { return Ok(Token::End) };
        if c.is_ascii_digit() || (c == '.' && self.peek(1).is_some_and(|c| c.is_ascii_digit())) {
            return self.number();
        }
        if let Some((raw, bytes, prefix)) = self.string_prefix() {
            self.at += prefix;
            return self.string(raw, bytes);
        }
        if c.is_ascii_alphabetic() || c == '_' {
            let from = self.at;
            while self.peek(0).is_some_and(is_ident) {
                self.at += 1;
            }
            return Ok(Token::Ident(self.text[from..self.at].iter().collect()));
        }
        for op in OPERATORS {
            if op.chars().enumerate().all(|(i, o)| self.peek(i) == Some(o)) {
                self.at += op.len();
                return Ok(Token::Op(op));
            }
        }
        Err(format!("token recognition error at: '{c}'"))
    }

    fn number(&mut self) -> Result<Token, String> {
        let from = self.at;
        let text = |lexer: &Self| lexer.text[from..lexer.at].iter().collect::<String>();
        if self.peek(0) == Some('0') && matches!(self.peek(1), Some('x' | 'X')) {
            self.at += 2;
            while self.peek(0).is_some_and(|c| c.is_ascii_hexdigit()) {
                self.at += 1;
            }
            return Ok(self.integer(text(self)));
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
        if double {
            let parsed = text(self).parse().ok().filter(|number: &f64| number.is_finite());
            return parsed.map(Token::Double).ok_or_else(|| "invalid double literal".to_owned());
        }
        let text = text(self);
        Ok(self.integer(text))
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
                'b' | 'B' if !bytes => bytes = true,
                _ => return None,
            }
        }
        None
    }

    fn string(&mut self, raw: bool, bytes: bool) -> Result<Token, String> {
        let Some(quote) = self.peek(0) else { return Err("unterminated string".to_owned()) };
        let triple = self.peek(1) == Some(quote) && self.peek(2) == Some(quote);
        let width = if triple { 3 } else { 1 };
        self.at += width;
        let mut text = String::new();
        let mut octets = Vec::new();
        loop {
            let Some(c) = self.peek(0) else {
                return Err("token recognition error: unterminated string literal".to_owned());
            };
            if c == quote && (!triple || (self.peek(1) == Some(quote) && self.peek(2) == Some(quote))) {
                self.at += width;
                break;
            }
            if !triple && matches!(c, '\n' | '\r') {
                return Err("token recognition error: newline in string literal".to_owned());
            }
            self.at += 1;
            if c == '\\' && !raw {
                self.escape(bytes, &mut text, &mut octets)?;
            } else if bytes {
                octets.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            } else {
                text.push(c);
            }
        }
        Ok(if bytes { Token::Bytes(octets) } else { Token::String(text) })
    }

    /// What follows a backslash.
    fn escape(&mut self, bytes: bool, text: &mut String, octets: &mut Vec<u8>) -> Result<(), String> {
        let Some(c) = self.peek(0) else { return Err("unterminated escape".to_owned()) };
        self.at += 1;
        let (digits, radix) = match c {
            'x' | 'X' => (2, 16),
            'u' if !bytes => (4, 16),
            'U' if !bytes => (8, 16),
            '0'..='3' => {
                self.at -= 1;
                (3, 8)
            }
            _ => {
                let plain = match c {
                    'a' => '\u{7}',
                    'b' => '\u{8}',
                    'f' => '\u{c}',
                    'n' => '\n',
                    'r' => '\r',
                    't' => '\t',
                    'v' => '\u{b}',
                    '\\' | '\'' | '"' | '`' | '?' => c,
                    other => return Err(format!("unable to unescape string: '\\{other}'")),
                };
                text.push(plain);
                octets.push(plain as u8);
                return Ok(());
            }
        };
        let mut value = 0u32;
        for _ in 0..digits {
            let digit = self.peek(0).and_then(|c| c.to_digit(radix));
            let Some(digit) = digit else { return Err("unable to unescape string: bad digit".to_owned()) };
            value = value * radix + digit;
            self.at += 1;
        }
        if bytes {
            octets.push(u8::try_from(value).map_err(|_| "unable to unescape string: too large".to_owned())?);
        } else {
            let c = char::from_u32(value).ok_or_else(|| "unable to unescape string: no such character".to_owned())?;
            text.push(c);
        }
        Ok(())
    }
}
