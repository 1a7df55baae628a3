//! The syntax tree of an expression, macros expanded.

use std::sync::Arc;

use super::value::Value;

/// Names a node in the tables that the type checker makes.
pub(super) type Id = u32;

/// The name of the accumulator in expanded macros. No expression can name it.
pub(super) const ACCUMULATOR: &str = "@result";

#[derive(Debug, Clone)]
pub(super) struct Expr {
    pub id: Id,
    /// Offset into the source, in characters.
    pub at: u32,
    /// Of the tree below, this node included.
    pub depth: u32,
    pub kind: Kind,
}

#[derive(Debug, Clone)]
pub(super) enum Kind {
    Literal(Value),
    Ident(Arc<str>),
    Select(Box<Select>),
    Call(Box<Call>),
    /// `&&` or `||` of two terms or more.
    Logic {
        and: bool,
        terms: Vec<Expr>,
    },
    Conditional(Box<[Expr; 3]>),
    /// The elements; those marked are optional (`[?x]`).
    List(Vec<(Expr, bool)>),
    Map(Vec<MapEntry>),
    Struct {
        name: Arc<str>,
        fields: Vec<StructField>,
    },
    Fold(Box<Fold>),
    /// `variable` has `value`'s value in `body` (what `optMap` needs).
    Bind {
        variable: Arc<str>,
        value: Box<Expr>,
        body: Box<Expr>,
    },
}

#[derive(Debug, Clone)]
pub(super) struct Select {
    pub operand: Expr,
    pub field: Arc<str>,
    /// `has(operand.field)`.
    pub test: bool,
    /// `operand.?field`.
    pub optional: bool,
}

#[derive(Debug, Clone)]
pub(super) struct Call {
    pub target: Option<Expr>,
    pub function: Arc<str>,
    pub args: Vec<Expr>,
}

#[derive(Debug, Clone)]
pub(super) struct MapEntry {
    pub key: Expr,
    pub value: Expr,
    pub optional: bool,
}

#[derive(Debug, Clone)]
pub(super) struct StructField {
    pub name: Arc<str>,
    pub at: u32,
    pub value: Expr,
    pub optional: bool,
}

/// A comprehension, as cel-go has it.
#[derive(Debug, Clone)]
pub(super) struct Fold {
    pub range: Expr,
    pub variable: Arc<str>,
    /// Of two-variable comprehensions.
    pub second: Option<Arc<str>>,
    pub init: Expr,
    pub condition: Expr,
    pub step: Expr,
    pub result: Expr,
}

/// Functions of one constant that planning evaluates (`overloads.IsTypeConversionFunction`).
const CONVERSIONS: [&str; 10] =
    ["bool", "bytes", "double", "duration", "dyn", "int", "string", "timestamp", "type", "uint"];

impl Expr {
    /// Whether cel-go's planner makes a constant of it (`decOptimize`), so that it costs nothing when it is run.
    pub(super) fn is_constant(&self) -> bool {
        match &self.kind {
            Kind::Literal(_) => true,
            Kind::List(elements) => elements.iter().all(|(element, optional)| !optional && element.is_constant()),
            Kind::Map(entries) => {
                entries.iter().all(|entry| !entry.optional && entry.key.is_constant() && entry.value.is_constant())
            }
            Kind::Call(call) => match call.args.as_slice() {
                [arg] => call.target.is_none() && CONVERSIONS.contains(&&*call.function) && arg.is_constant(),
                _ => false,
            },
            _ => false,
        }
    }
}
