//! Errors of compilation and evaluation, in cel-go's words.

use std::fmt::Write;

/// One problem of an expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issue {
    /// Offset in characters.
    pub at: u32,
    pub message: String,
}

/// Why an expression does not compile: its problems, in the order of their places.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.text())]
pub struct CompileError {
    source_text: String,
    pub issues: Vec<Issue>,
    pub stage: Stage,
}

/// How far an expression got. After [`Stage::Check`] the text is the one issue's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// It does not read, or its types do not fit.
    Check,
    /// It is sound, but of another type than is wanted.
    Result,
    /// A part of it that is constant has no value.
    Program,
}

impl CompileError {
    pub(super) fn new(source_text: &str, mut issues: Vec<Issue>) -> Self {
        issues.sort_by_key(|issue| issue.at);
        issues.dedup();
        Self { source_text: source_text.to_owned(), issues, stage: Stage::Check }
    }

    /// With the one issue of a later stage.
    pub(super) fn later(source_text: &str, stage: Stage, message: String) -> Self {
        Self { source_text: source_text.to_owned(), issues: vec![Issue { at: 0, message }], stage }
    }

    /// As `cel.Issues.String()` prints it: each problem with the line and a mark under its place.
    pub fn text(&self) -> String {
        if self.stage != Stage::Check {
            return self.issues.iter().map(|issue| issue.message.as_str()).collect();
        }
        let mut out = String::new();
        for (i, issue) in self.issues.iter().enumerate() {
            if i > 0 {
                out.push('\n');
            }
            let (mut line, mut column) = (1, 0);
            for c in self.source_text.chars().take(issue.at as usize) {
                if c == '\n' {
                    line += 1;
                    column = 0;
                } else {
                    column += 1;
                }
            }
            let snippet = self.source_text.split('\n').nth(line - 1).unwrap_or_default().replace('\t', " ");
            // Writing to a string cannot fail.
            let _ = write!(out, "ERROR: <input>:{line}:{}: {}\n | {snippet}\n | ", column + 1, issue.message);
            // Characters outside of ASCII are marked as wide ones.
            let mut chars = snippet.chars();
            out.extend(chars.by_ref().take(column).map(|c| if c.is_ascii() { '.' } else { '．' }));
            out.push(if chars.next().is_none_or(|c| c.is_ascii()) { '^' } else { '＾' });
        }
        out
    }
}

/// Why an evaluation gave no value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EvalError {
    /// The expression's own failure: `no such key: x`, `division by zero` …
    #[error("{0}")]
    Failed(String),
    /// The expression's own limit ([`super::Budget::per_call`]).
    #[error("operation cancelled: actual cost limit exceeded")]
    CostLimit,
    /// The question to the authoriser has no answer yet ([`super::authz`]).
    #[error("the authorizer has not answered yet")]
    Unanswered,
}

impl EvalError {
    pub(super) fn new(text: impl Into<String>) -> Self {
        Self::Failed(text.into())
    }

    pub(super) fn no_such_overload() -> Self {
        Self::new("no such overload")
    }

    /// Whether the evaluation must end, whatever `||` and `&&` around it say.
    pub fn is_fatal(&self) -> bool {
        !matches!(self, Self::Failed(_))
    }
}
