//! What does not parse: told in the words of upstream's generated parser, and gone over where that goes on too (ANTLR's
//! `DefaultErrorStrategy`).

use super::{Parsed, Parser};
use crate::cel::ast::{Expr, Kind};
use crate::cel::error::Issue;
use crate::cel::lexer::{Lexeme, Token, quoted};
use crate::cel::value::Value;

/// What an operand begins with, as errors list it; other sets have more before the words.
pub(super) const WORDS: &str = "'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}";
pub(super) const OPERAND: &str = "{'[', '{', '(', '.', '-', '!', ";
pub(super) const ARGUMENT: &str = "{'[', '{', '(', ')', '.', '-', '!', ";
pub(super) const INDEX: &str = "{'[', '{', '(', '.', '-', '!', '?', ";
pub(super) const ELEMENT: &str = "{'[', ']', '{', '(', '.', ',', '-', '!', '?', ";
pub(super) const ENTRY: &str = "{'[', '{', '}', '(', '.', ',', '-', '!', '?', ";

impl Parser {
    pub(super) fn ahead(&self, n: usize) -> Option<&Token> {
        self.lexemes.get(self.next + n).map(|lexeme| &lexeme.token)
    }

    /// The next token as error texts show it.
    pub(super) fn found(&self) -> String {
        match self.lexemes.get(self.next) {
            Some(Lexeme { token: Token::End, .. }) | None => "'<EOF>'".to_owned(),
            Some(lexeme) => quoted(&self.text[lexeme.at as usize..lexeme.end as usize]),
        }
    }

    pub(super) fn syntax(&self, message: &str) -> Issue {
        Issue { at: self.at(), message: format!("Syntax error: {message}") }
    }

    pub(super) fn mismatched(&self, wanted: &str) -> Issue {
        self.syntax(&format!("mismatched input {} expecting {wanted}", self.found()))
    }

    pub(super) fn extraneous(&self, wanted: &str) -> Issue {
        self.syntax(&format!("extraneous input {} expecting {wanted}", self.found()))
    }

    /// Nothing begins with the tokens since `from`.
    pub(super) fn not_viable(&self, from: u32) -> Issue {
        let end = match self.lexemes.get(self.next) {
            Some(Lexeme { token: Token::End, .. }) | None => self.text.len(),
            Some(lexeme) => lexeme.end as usize,
        };
        let input = quoted(&self.text[from as usize..end]);
        match input.as_str() {
            "'.true'" | "'.false'" | "'.null'" => self.mismatched("IDENTIFIER"),
            _ => self.syntax(&format!("no viable alternative at input {input}")),
        }
    }

    /// Notes a problem that leaves parsing possible; the node stands for what is wrong.
    pub(super) fn wrong(&mut self, issue: Issue) -> Expr {
        let at = issue.at;
        self.issues.push(issue);
        self.node(at, Kind::Literal(Value::Null))
    }

    /// Whether an operand may begin with a token.
    pub(super) fn begins(&self, ahead: usize) -> bool {
        match self.ahead(ahead) {
            Some(Token::Op(op)) => matches!(*op, "[" | "{" | "(" | "." | "-" | "!"),
            Some(Token::Ident(word)) => word != "in",
            Some(Token::Escaped(_) | Token::End) | None => false,
            Some(_) => true,
        }
    }

    /// Goes over one token that should not be there if what should be follows it (`DefaultErrorStrategy.Sync`); `also`: what may
    /// come instead of an operand.
    pub(super) fn operand_or(&mut self, also: &[&str], wanted: &str) -> Parsed<()> {
        let good =
            |parser: &Self, n| parser.begins(n) || matches!(parser.ahead(n), Some(Token::Op(op)) if also.contains(op));
        if good(self, 0) {
            return Ok(());
        }
        let wanted = format!("{wanted}{WORDS}");
        if !good(self, 1) {
            return Err(self.mismatched(&wanted));
        }
        let issue = self.extraneous(&wanted);
        self.issues.push(issue);
        self.next += 1;
        Ok(())
    }

    /// Takes a token, or tells that it is missing or comes one too late if all goes on well then
    /// (`DefaultErrorStrategy.RecoverInline`).
    pub(super) fn expect(&mut self, op: &'static str) -> Parsed<()> {
        if self.eat(op) {
            return Ok(());
        }
        if matches!(self.ahead(1), Some(Token::Op(next)) if *next == op) {
            let issue = self.extraneous(&format!("'{op}'"));
            self.issues.push(issue);
            self.next += 2;
            return Ok(());
        }
        let follows = match self.peek() {
            _ if op == ":" => self.begins(0),
            Token::End => self.closers.is_empty(),
            Token::Ident(word) => word == "in",
            Token::Op(found) => {
                const AFTER: [&str; 16] =
                    [".", "[", "*", "/", "%", "+", "-", "==", "!=", "<", "<=", ">", ">=", "&&", "||", "?"];
                AFTER.contains(found) || self.closers.last().is_some_and(|closers| closers.contains(found))
            }
            _ => false,
        };
        if !follows {
            return Err(self.mismatched(&format!("'{op}'")));
        }
        let issue = self.syntax(&format!("missing '{op}' at {}", self.found()));
        self.issues.push(issue);
        Ok(())
    }

    /// An expression between brackets.
    pub(super) fn within(&mut self, closers: &'static [&'static str]) -> Parsed {
        self.closers.push(closers);
        let expr = self.expression();
        self.closers.pop();
        expr
    }
}
