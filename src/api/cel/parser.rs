//! Tokens to a syntax tree, by recursive descent; macros are expanded on the way.
//!
//! Time and memory are linear in the source, whose length is bounded; so is the depth of the tree, because everything
//! that walks it recurses.

mod recovery;

use std::sync::Arc;

use super::ast::{Call, Expr, Id, Kind, MapEntry, Select, StructField};
use super::error::{CompileError, Issue};
use super::lexer::{Lexeme, Token, lex};
use super::macros;
use super::types::RESERVED;
use super::value::Value;
use recovery::{ARGUMENT, ELEMENT, ENTRY, INDEX, OPERAND, WORDS};

/// The longest source, in characters (cel-go's `ExpressionSizeCodePointLimit`).
pub(super) const SOURCE_MAX: usize = 100_000;
/// The deepest tree. cel-go stops at 250 recursions of its grammar.
pub(super) const DEPTH_MAX: u32 = 250;
/// The deepest nesting of brackets and conditionals, each of which takes many frames of the parser.
const NESTING_MAX: usize = 100;

pub(super) struct Parser {
    text: Vec<char>,
    lexemes: Vec<Lexeme>,
    next: usize,
    /// Problems after which parsing went on.
    issues: Vec<Issue>,
    /// What may end the operand that is being read, by the brackets around it, innermost last; nothing: the end of the source.
    closers: Vec<&'static [&'static str]>,
    nesting: usize,
    too_deep: bool,
    ids: Id,
}

/// Parses a whole expression. Also returns how many ids there are.
pub(super) fn parse(source: &str) -> Result<(Expr, Id), CompileError> {
    let text: Vec<char> = source.chars().collect();
    if text.len() > SOURCE_MAX {
        let message = format!("expression code point size exceeds limit: size: {}, limit {SOURCE_MAX}", text.len());
        return Err(CompileError::new("", vec![Issue { at: 0, message }]));
    }
    let (lexemes, issues) = lex(&text);
    let mut parser =
        Parser { text, lexemes, next: 0, issues, closers: Vec::new(), nesting: 0, too_deep: false, ids: 0 };
    let parsed = parser.expression().and_then(|expr| match parser.peek() {
        Token::End => Ok(expr),
        // One token too many, or more.
        _ if matches!(parser.ahead(1), Some(Token::End)) => Err(parser.extraneous("<EOF>")),
        _ => Err(parser.mismatched("<EOF>")),
    });
    let mut issues = std::mem::take(&mut parser.issues);
    match parsed {
        Ok(expr) if issues.is_empty() => Ok((expr, parser.ids)),
        Ok(_) => Err(CompileError::new(source, issues)),
        Err(issue) => {
            issues.push(issue);
            Err(CompileError::new(source, issues))
        }
    }
}

fn recursion() -> String {
    format!("expression recursion limit exceeded: {DEPTH_MAX}")
}

type Parsed<T = Expr> = Result<T, Issue>;

impl Parser {
    fn peek(&self) -> &Token {
        &self.lexemes[self.next.min(self.lexemes.len() - 1)].token
    }

    fn at(&self) -> u32 {
        self.lexemes[self.next.min(self.lexemes.len() - 1)].at
    }

    fn take(&mut self) -> Token {
        let token = self.peek().clone();
        self.next += 1;
        token
    }

    fn is(&self, op: &str) -> bool {
        matches!(self.peek(), Token::Op(found) if *found == op)
    }

    fn eat(&mut self, op: &str) -> bool {
        let found = self.is(op);
        if found {
            self.next += 1;
        }
        found
    }

    pub(super) fn node(&mut self, at: u32, kind: Kind) -> Expr {
        let id = self.ids;
        self.ids += 1;
        let mut expr = Expr { id, at, depth: 1, kind };
        let mut below = 0;
        macros::children(&expr, &mut |child| below = below.max(child.depth));
        expr.depth = below + 1;
        // The loops that make trees deeper look at this after each step.
        self.too_deep |= expr.depth > DEPTH_MAX;
        expr
    }

    pub(super) fn call(&mut self, at: u32, function: &str, args: Vec<Expr>) -> Expr {
        self.node(at, Kind::Call(Box::new(Call { target: None, function: function.into(), args })))
    }

    fn check_depth(&self) -> Parsed<()> {
        if self.too_deep || self.nesting > NESTING_MAX {
            return Err(Issue { at: self.at(), message: recursion() });
        }
        Ok(())
    }

    fn expression(&mut self) -> Parsed {
        self.nesting += 1;
        self.check_depth()?;
        let condition = self.or()?;
        let at = self.at();
        let expr = if self.eat("?") {
            self.closers.push(&[":"]);
            let yes = self.or();
            self.closers.pop();
            let yes = yes?;
            self.expect(":")?;
            let no = self.expression()?;
            self.node(at, Kind::Conditional(Box::new([condition, yes, no])))
        } else {
            condition
        };
        self.nesting -= 1;
        self.check_depth()?;
        Ok(expr)
    }

    fn or(&mut self) -> Parsed {
        let at = self.at();
        let mut terms = vec![self.and()?];
        let mut first_op = at;
        while self.is("||") {
            if terms.len() == 1 {
                first_op = self.at();
            }
            self.next += 1;
            terms.push(self.and()?);
        }
        Ok(self.logic(first_op, false, terms))
    }

    fn and(&mut self) -> Parsed {
        let mut terms = vec![self.relation()?];
        let mut first_op = self.at();
        while self.is("&&") {
            if terms.len() == 1 {
                first_op = self.at();
            }
            self.next += 1;
            terms.push(self.relation()?);
        }
        Ok(self.logic(first_op, true, terms))
    }

    pub(super) fn logic(&mut self, at: u32, and: bool, mut terms: Vec<Expr>) -> Expr {
        match terms.len() {
            1 => terms.swap_remove(0),
            _ => self.node(at, Kind::Logic { and, terms }),
        }
    }

    /// Left-associative binary operators, one level of precedence each.
    fn binary(&mut self, ops: &[(&str, &str)], operand: fn(&mut Self) -> Parsed) -> Parsed {
        let mut left = operand(self)?;
        loop {
            let at = self.at();
            let found = ops.iter().find(|(op, _)| match self.peek() {
                Token::Op(found) => found == op,
                Token::Ident(word) => *op == "in" && word == "in",
                _ => false,
            });
            let Some((_, function)) = found else { return Ok(left) };
            self.next += 1;
            let right = operand(self)?;
            left = self.call(at, function, vec![left, right]);
            self.check_depth()?;
        }
    }

    fn relation(&mut self) -> Parsed {
        const OPS: &[(&str, &str)] = &[
            ("<=", "_<=_"),
            (">=", "_>=_"),
            ("==", "_==_"),
            ("!=", "_!=_"),
            ("<", "_<_"),
            (">", "_>_"),
            ("in", "@in"),
        ];
        self.binary(OPS, Self::sum)
    }

    fn sum(&mut self) -> Parsed {
        self.binary(&[("+", "_+_"), ("-", "_-_")], Self::product)
    }

    fn product(&mut self) -> Parsed {
        self.binary(&[("*", "_*_"), ("/", "_/_"), ("%", "_%_")], Self::unary)
    }

    fn unary(&mut self) -> Parsed {
        self.operand_or(&[], OPERAND)?;
        let at = self.at();
        let mut count = 0;
        if self.is("!") {
            while self.eat("!") {
                count += 1;
            }
            let operand = self.member()?;
            // Two make none.
            return Ok(if count % 2 == 1 { self.call(at, "!_", vec![operand]) } else { operand });
        }
        if self.is("-") {
            if let Some(Lexeme { token: Token::Int(_) | Token::Double(_), .. }) = self.lexemes.get(self.next + 1) {
                return self.member();
            }
            while self.eat("-") {
                count += 1;
            }
            let operand = self.member()?;
            return Ok(if count % 2 == 1 { self.call(at, "-_", vec![operand]) } else { operand });
        }
        self.member()
    }

    fn member(&mut self) -> Parsed {
        let mut expr = self.primary()?;
        loop {
            let at = self.at();
            if self.eat(".") {
                let optional = self.eat("?");
                let from = if optional { self.at() } else { at };
                let named = matches!(self.peek(), Token::Ident(_));
                let field = self.name(from)?;
                if !optional && named && self.is("(") {
                    let open = self.at();
                    self.next += 1;
                    let args = self.arguments()?;
                    expr = self.member_call(open, expr, field, args)?;
                } else {
                    let select = Select { operand: expr, field, test: false, optional };
                    expr = self.node(at, Kind::Select(Box::new(select)));
                }
            } else if self.eat("[") {
                self.operand_or(&["?"], INDEX)?;
                let optional = self.eat("?");
                let index = self.within(&["]"])?;
                self.expect("]")?;
                let function = if optional { "_[?_]" } else { "_[_]" };
                expr = self.call(at, function, vec![expr, index]);
            } else {
                return Ok(expr);
            }
            self.check_depth()?;
        }
    }

    /// A field's or function's name after a dot: any word will do but `in` and the literals. `from`: where what it belongs to
    /// begins.
    fn name(&mut self, from: u32) -> Parsed<Arc<str>> {
        let name = match self.peek() {
            Token::Ident(word) if !matches!(word.as_str(), "in" | "true" | "false" | "null") => word.as_str().into(),
            Token::Escaped(name) => name.as_str().into(),
            _ => return Err(self.not_viable(from)),
        };
        self.next += 1;
        Ok(name)
    }

    /// What stands between parentheses, the closing one taken.
    fn arguments(&mut self) -> Parsed<Vec<Expr>> {
        let mut args = Vec::new();
        self.operand_or(&[")"], ARGUMENT)?;
        if self.eat(")") {
            return Ok(args);
        }
        loop {
            args.push(self.within(&[")", ","])?);
            if !self.eat(",") {
                self.expect(")")?;
                return Ok(args);
            }
        }
    }

    fn member_call(&mut self, at: u32, target: Expr, function: Arc<str>, args: Vec<Expr>) -> Parsed {
        match macros::expand_member(self, at, target, &function, args) {
            Ok(macros::Expansion::Done(expr)) => Ok(expr),
            Ok(macros::Expansion::Plain(target, args)) => {
                let target = Some(target);
                Ok(self.node(at, Kind::Call(Box::new(Call { target, function, args }))))
            }
            Err(issue) => Ok(self.wrong(issue)),
        }
    }

    fn primary(&mut self) -> Parsed {
        let at = self.at();
        if self.eat("(") {
            let expr = self.within(&[")"])?;
            self.expect(")")?;
            return Ok(expr);
        }
        if self.eat("[") {
            return self.list(at);
        }
        if self.eat("{") {
            return self.map(at);
        }
        if self.eat("-") {
            let literal = match self.take() {
                Token::Int(text) => int(at, &text, true),
                Token::Double(number) => Ok(Value::Double(-number)),
                _ => {
                    self.next -= 1;
                    return Err(self.mismatched("{NUM_FLOAT, NUM_INT}"));
                }
            };
            return Ok(self.literal(at, literal));
        }
        let absolute = self.eat(".");
        match self.peek().clone() {
            Token::Ident(word) => self.word(at, &word, absolute),
            _ if absolute => Err(self.not_viable(at)),
            token => {
                self.next += 1;
                let value = match token {
                    Token::Int(text) => int(at, &text, false),
                    Token::Uint(text) => {
                        let parsed = match text.strip_prefix("0x") {
                            Some(hex) => u64::from_str_radix(hex, 16),
                            None => text.parse(),
                        };
                        parsed.map(Value::Uint).map_err(|_| Issue { at, message: "invalid uint literal".to_owned() })
                    }
                    Token::Double(number) => Ok(Value::Double(number)),
                    Token::String(text) => Ok(Value::String(text.into())),
                    Token::Bytes(bytes) => Ok(Value::Bytes(bytes.into())),
                    Token::Bad(why) => Err(Issue { at, message: why.to_owned() }),
                    _ => {
                        self.next -= 1;
                        return Err(self.mismatched(&format!("{OPERAND}{WORDS}")));
                    }
                };
                Ok(self.literal(at, value))
            }
        }
    }

    fn literal(&mut self, at: u32, value: Result<Value, Issue>) -> Expr {
        match value {
            Ok(value) => self.node(at, Kind::Literal(value)),
            Err(issue) => self.wrong(issue),
        }
    }

    /// An identifier, a call, a structure or a literal that is a word.
    fn word(&mut self, at: u32, word: &str, absolute: bool) -> Parsed {
        self.next += 1;
        let literal = match word {
            "true" => Some(Value::Bool(true)),
            "false" => Some(Value::Bool(false)),
            "null" => Some(Value::Null),
            _ => None,
        };
        if let Some(literal) = literal
            && !absolute
        {
            return Ok(self.node(at, Kind::Literal(literal)));
        }
        if word == "in" {
            self.next -= 1;
            return Err(self.mismatched(&format!("{OPERAND}{WORDS}")));
        }
        if self.is("(") {
            let open = self.at();
            self.next += 1;
            let args = self.arguments()?;
            if RESERVED.contains(&word) {
                return Ok(self.wrong(Issue { at, message: format!("reserved identifier: {word}") }));
            }
            return match macros::expand_global(self, open, word, args) {
                Ok(macros::Expansion::Done(expr)) => Ok(expr),
                Ok(macros::Expansion::Plain(_, args)) => Ok(self.call(open, word, args)),
                Err(issue) => Ok(self.wrong(issue)),
            };
        }
        if let Some(name) = self.struct_name(word) {
            // Upstream blames the brace.
            let brace = self.next.checked_sub(1).and_then(|i| self.lexemes.get(i)).map_or(at, |lexeme| lexeme.at);
            return self.structure(brace, &name);
        }
        if RESERVED.contains(&word) {
            return Ok(self.wrong(Issue { at, message: format!("reserved identifier: {word}") }));
        }
        Ok(self.node(at, Kind::Ident(word.into())))
    }

    /// `A.b.C` if a structure's brace follows; the tokens are then taken.
    fn struct_name(&mut self, first: &str) -> Option<String> {
        let mut name = first.to_owned();
        let mut ahead = self.next;
        loop {
            match (&self.lexemes.get(ahead)?.token, self.lexemes.get(ahead + 1).map(|l| &l.token)) {
                (Token::Op("{"), _) => {
                    self.next = ahead + 1;
                    return Some(name);
                }
                (Token::Op("."), Some(Token::Ident(word))) => {
                    name.push('.');
                    name.push_str(word);
                    ahead += 2;
                }
                _ => return None,
            }
        }
    }

    /// What follows the elements of a list, map or structure: perhaps a comma, and the end.
    fn close(&mut self, end: &'static str) -> Parsed<()> {
        let good = |token: Option<&Token>| matches!(token, Some(Token::Op(op)) if *op == end || *op == ",");
        if !good(self.ahead(0)) {
            let wanted = format!("{{'{end}', ','}}");
            if !good(self.ahead(1)) {
                return Err(self.mismatched(&wanted));
            }
            let issue = self.extraneous(&wanted);
            self.issues.push(issue);
            self.next += 1;
        }
        self.eat(",");
        self.expect(end)
    }

    /// Whether a comma and another element follow; the comma is then taken.
    fn another(&mut self) -> bool {
        let more =
            self.is(",") && (self.begins(1) || matches!(self.ahead(1), Some(Token::Op("?") | Token::Escaped(_))));
        self.next += usize::from(more);
        more
    }

    fn structure(&mut self, at: u32, name: &str) -> Parsed {
        let mut fields = Vec::new();
        if !matches!(self.peek(), Token::Op("}" | ",")) {
            loop {
                let optional = self.eat("?");
                let field_at = self.at();
                let name = self.name(field_at)?;
                self.expect(":")?;
                let value = self.within(&["}", ","])?;
                fields.push(StructField { name, at: field_at, value, optional });
                if !self.another() {
                    break;
                }
            }
        }
        self.close("}")?;
        Ok(self.node(at, Kind::Struct { name: name.into(), fields }))
    }

    fn list(&mut self, at: u32) -> Parsed {
        let mut elements = Vec::new();
        self.operand_or(&["]", ",", "?"], ELEMENT)?;
        if !matches!(self.peek(), Token::Op("]" | ",")) {
            loop {
                let optional = self.eat("?");
                elements.push((self.within(&["]", ","])?, optional));
                if !self.another() {
                    break;
                }
            }
        }
        self.close("]")?;
        Ok(self.node(at, Kind::List(elements)))
    }

    fn map(&mut self, at: u32) -> Parsed {
        let mut entries = Vec::new();
        self.operand_or(&["}", ",", "?"], ENTRY)?;
        if !matches!(self.peek(), Token::Op("}" | ",")) {
            loop {
                let optional = self.eat("?");
                let key = self.within(&[":"])?;
                self.expect(":")?;
                let value = self.within(&["}", ","])?;
                entries.push(MapEntry { key, value, optional });
                if !self.another() {
                    break;
                }
            }
        }
        self.close("}")?;
        Ok(self.node(at, Kind::Map(entries)))
    }
}

fn int(at: u32, text: &str, negative: bool) -> Result<Value, Issue> {
    let magnitude = match text.strip_prefix("0x") {
        Some(hex) => i128::from_str_radix(hex, 16),
        None => text.parse(),
    };
    let signed = magnitude.map(|m| if negative { -m } else { m });
    match signed.map(i64::try_from) {
        Ok(Ok(number)) => Ok(Value::Int(number)),
        _ => Err(Issue { at, message: "invalid int literal".to_owned() }),
    }
}
