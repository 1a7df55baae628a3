//! Kubernetes' expression language: the Common Expression Language with Kubernetes' libraries, as v1.37 has it.
//!
//! ```
//! use api::cel::{Bindings, Budget, Decl, Env, Type};
//!
//! let schema = serde_json::json!({"type": "object", "properties": {"replicas": {"type": "integer"}}});
//! let decl = Decl::from_json_schema(&schema, false).expect("a visible schema");
//! let env = Env::new().declare("self", decl.clone());
//! let program = env.compile("self.replicas <= 5", &[Type::Bool]).expect("it compiles");
//! let object = serde_json::json!({"replicas": 3});
//! let bindings = Bindings::new().set("self", api::cel::Value::from_json_typed(&object, &decl));
//! let value = program.evaluate(&bindings, &mut Budget::new(10_000_000)).expect("a value");
//! assert!(value.equals(&true.into()));
//! ```
//!
//! An [`Env`] declares variables; [`Env::compile`] parses, expands macros and checks types, with cel-go's error texts;
//! [`Program::estimate`] says what it may cost at most by the sizes that schemas allow; [`Program::evaluate`] runs it within
//! a [`Budget`].
//!
//! The engine is written from cel-spec and cel-go rather than over the `cel` crate, because types, static costs and the
//! exact count of costs must be known for each node of the tree. Invariants: no input panics; parsing is linear in the
//! source, whose length and depth are bounded; evaluation is bounded by its budget, which is charged before work is
//! done that grows with its input.

mod ast;
pub mod authz;
mod check;
mod cost;
mod error;
mod eval;
mod functions;
mod lexer;
mod library;
mod list;
mod macros;
mod parser;
pub mod policy;
mod types;
mod value;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;

use regex::Regex;

use crate::structural::pattern;
pub use authz::Authorize;
pub use cost::Range as CostRange;
pub use error::{CompileError, EvalError, Issue, Stage};
pub use eval::{Context, Lazy};
pub use library::time::Time;
pub use types::{Decl, ObjectType, Type, escape};
pub use value::{Cidr, Key, List, ListKind, Struct, Value};

/// What one evaluation may cost (`celconfig.PerCallLimit`).
pub const PER_CALL_LIMIT: u64 = 1_000_000;
/// What the rules of one object or policy may cost together (`celconfig.RuntimeCELCostBudget`).
pub const RUNTIME_BUDGET: u64 = 10_000_000;
/// What the match conditions of one object may cost together (`celconfig.RuntimeCELCostBudgetMatchConditions`).
pub const MATCH_CONDITIONS_BUDGET: u64 = 2_500_000;

/// The variables that expressions may use.
#[derive(Debug, Clone, Default)]
pub struct Env {
    variables: HashMap<String, Arc<Decl>>,
    structs: bool,
}

impl Env {
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a variable, or replaces it.
    #[must_use]
    pub fn declare(mut self, name: &str, decl: Decl) -> Self {
        self.variables.insert(name.to_owned(), Arc::new(decl));
        self
    }

    /// Expressions may make `Object{…}` and `JSONPatch{…}` (mutating policies).
    #[must_use]
    pub fn with_mutations(mut self) -> Self {
        self.structs = true;
        self
    }

    /// Compiles an expression whose type must be exactly one of `wanted`, and `dyn` is none of them; any if that is empty.
    ///
    /// # Errors
    /// The expression's problems, in cel-go's words.
    pub fn compile(&self, source: &str, wanted: &[Type]) -> Result<Program, CompileError> {
        let (mut expr, ids) = parser::parse(source)?;
        let fail = |issues| CompileError::new(source, issues);
        let (ty, checked) = check::check(&mut expr, ids, &self.variables, self.structs).map_err(fail)?;
        let issues = validate(&expr, &checked.types);
        if !issues.is_empty() {
            return Err(CompileError::new(source, issues));
        }
        if !wanted.is_empty() && !wanted.contains(&ty) {
            // Types of results have the names of their Go values.
            let name = |ty: &Type| if *ty == Type::Null { "null_type".to_owned() } else { ty.to_string() };
            let names: Vec<String> = wanted.iter().map(name).collect();
            let ty = name(&ty);
            let message = match names.as_slice() {
                [one] => format!("must evaluate to {one} but got {ty}"),
                many => {
                    format!("must evaluate to one of [{}] but got {ty}", many.join(" "))
                }
            };
            return Err(CompileError::later(source, Stage::Result, message));
        }
        let mut regexes = HashMap::new();
        plan(&expr, &mut regexes).map_err(|why| CompileError::later(source, Stage::Program, why))?;
        let estimate = cost::estimate(&expr, &checked, &self.variables);
        Ok(Program { expr, ty, regexes, estimate, source: source.to_owned() })
    }
}

/// A literal text.
fn literal(expr: &ast::Expr) -> Option<&str> {
    match &expr.kind {
        ast::Kind::Literal(Value::String(text)) => Some(text),
        _ => None,
    }
}

/// What cel-go's AST validators refuse: literal regular expressions, times, durations and formats that are none, and lists
/// and maps of mixed types, unless they are to be printed.
fn validate(expr: &ast::Expr, types: &[Type]) -> Vec<Issue> {
    let mut issues = Vec::new();
    let mut open = vec![(expr, false)];
    while let Some((expr, printed)) = open.pop() {
        let prints =
            matches!(&expr.kind, ast::Kind::Call(call) if call.target.is_some() && &*call.function == "format");
        macros::children(expr, &mut |child| open.push((child, printed || prints)));
        if !printed {
            issues.extend(mixed(expr, types));
        }
        let ast::Kind::Call(call) = &expr.kind else { continue };
        let (arg, good) = match (&*call.function, &call.target, call.args.as_slice()) {
            // Of the global form it is the text, which upstream takes for the expression.
            ("matches", Some(_), [arg]) | ("matches", None, [arg, _]) => {
                (arg, literal(arg).is_none_or(|text| pattern::compile(text).is_ok()))
            }
            ("duration", None, [arg]) => (arg, literal(arg).is_none_or(|text| library::time::duration(text).is_some())),
            ("timestamp", None, [arg @ ast::Expr { kind: ast::Kind::Literal(Value::Int(seconds)), .. }]) => {
                (arg, library::time::Time::new(*seconds, 0, 0).is_some())
            }
            ("timestamp", None, [arg]) => (arg, literal(arg).is_none_or(|text| library::time::timestamp(text).is_ok())),
            ("format", Some(_), [_]) => {
                issues.extend(library::formatting::check(expr.at, call, types));
                continue;
            }
            _ => continue,
        };
        if !good {
            issues.push(Issue { at: arg.at, message: format!("invalid {} argument", call.function) });
        }
    }
    issues
}

/// The first elements of a literal that are of another type than those before them (`homogeneousAggregateLiteralValidator`).
fn mixed(expr: &ast::Expr, types: &[Type]) -> Vec<Issue> {
    let of = |expr: &ast::Expr, optional: bool| match types.get(expr.id as usize) {
        Some(Type::Optional(inner)) if optional => (**inner).clone(),
        Some(ty) => ty.clone(),
        None => Type::Dyn,
    };
    let first_other = |all: &mut dyn Iterator<Item = (&ast::Expr, bool)>| {
        let first = all.next().map(|(expr, optional)| of(expr, optional))?;
        let (expr, found) = all.map(|(expr, optional)| (expr, of(expr, optional))).find(|(_, ty)| *ty != first)?;
        Some(Issue { at: expr.at, message: format!("expected type '{first}' but found '{found}'") })
    };
    match &expr.kind {
        ast::Kind::List(elements) => {
            first_other(&mut elements.iter().map(|(e, optional)| (e, *optional))).into_iter().collect()
        }
        ast::Kind::Map(entries) => {
            let keys = first_other(&mut entries.iter().map(|e| (&e.key, false)));
            let values = first_other(&mut entries.iter().map(|e| (&e.value, e.optional)));
            keys.into_iter().chain(values).collect()
        }
        _ => Vec::new(),
    }
}

/// Computes what does not depend on variables, as cel-go does when it plans an expression: conversions of constants and
/// literal regular expressions, which are kept.
fn plan(expr: &ast::Expr, regexes: &mut HashMap<String, Arc<Regex>>) -> Result<(), String> {
    let mut children = Vec::new();
    macros::children(expr, &mut |child| children.push(child));
    for child in children {
        plan(child, regexes)?;
    }
    let ast::Kind::Call(call) = &expr.kind else { return Ok(()) };
    let text = match (&*call.function, &call.target, call.args.as_slice()) {
        ("matches" | "find" | "findAll", Some(_), [text, ..]) | ("matches", None, [_, text]) => literal(text),
        _ => None,
    };
    if let Some(text) = text {
        regexes.insert(text.to_owned(), pattern::compile(text)?);
    } else if expr.is_constant() {
        let nothing = HashMap::new();
        let mut machine = eval::Machine::new(&nothing, Context::default(), regexes, PER_CALL_LIMIT);
        machine.eval(expr).map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// A compiled expression. Immutable: shared between threads.
#[derive(Debug, Clone)]
pub struct Program {
    expr: ast::Expr,
    ty: Type,
    regexes: HashMap<String, Arc<Regex>>,
    estimate: CostRange,
    source: String,
}

impl Program {
    /// The expression's text.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The type of the value.
    pub fn ty(&self) -> &Type {
        &self.ty
    }

    /// What an evaluation costs at least and at most; `u64::MAX` if there is no bound.
    pub fn estimate(&self) -> CostRange {
        self.estimate
    }

    /// Whether the expression mentions a variable.
    pub fn uses(&self, variable: &str) -> bool {
        let mut open = vec![&self.expr];
        while let Some(expr) = open.pop() {
            if matches!(&expr.kind, ast::Kind::Ident(name) if **name == *variable) {
                return true;
            }
            macros::children(expr, &mut |child| open.push(child));
        }
        false
    }

    /// The fields of a variable that the expression mentions: `a` of `variables.a`.
    pub fn fields_of(&self, variable: &str) -> Vec<String> {
        let mut fields = Vec::new();
        let mut open = vec![&self.expr];
        while let Some(expr) = open.pop() {
            if let ast::Kind::Select(select) = &expr.kind
                && matches!(&select.operand.kind, ast::Kind::Ident(name) if **name == *variable)
            {
                fields.push(select.field.to_string());
            }
            macros::children(expr, &mut |child| open.push(child));
        }
        fields
    }

    /// Runs the expression.
    ///
    /// # Errors
    /// See [`EvalError`]. [`EvalError::CostLimit`] with [`Budget::exhausted`]: what all expressions together may cost is
    /// spent.
    pub fn evaluate(&self, bindings: &Bindings<'_>, budget: &mut Budget) -> Result<Value, EvalError> {
        let limit = budget.per_call.min(budget.remaining);
        let mut machine = eval::Machine::new(&bindings.variables, bindings.context, &self.regexes, limit);
        let result = machine.eval(&self.expr);
        budget.last = machine.cost;
        if machine.cost > budget.remaining {
            budget.exhausted = true;
        }
        budget.remaining = budget.remaining.saturating_sub(machine.cost);
        result
    }
}

/// The values of an environment's variables.
#[derive(Default, Clone)]
pub struct Bindings<'a> {
    variables: HashMap<String, Value>,
    pub context: Context<'a>,
}

impl<'a> Bindings<'a> {
    pub fn new() -> Self {
        Self::default()
    }

    #[must_use]
    pub fn set(mut self, name: &str, value: Value) -> Self {
        self.variables.insert(name.to_owned(), value);
        self
    }

    /// Variables that are computed when used.
    #[must_use]
    pub fn with_lazy(mut self, lazy: &'a dyn Lazy) -> Self {
        self.context.lazy = Some(lazy);
        self
    }

    /// Who answers `authorizer`'s questions.
    #[must_use]
    pub fn with_authorizer(mut self, authorizer: &'a dyn Authorize) -> Self {
        self.context.authorizer = Some(authorizer);
        self
    }
}

/// What evaluations may cost.
#[derive(Debug, Clone)]
pub struct Budget {
    /// All of them together, from now on.
    pub remaining: u64,
    /// One of them.
    pub per_call: u64,
    /// What the last one cost.
    pub last: u64,
    /// More was needed than `remaining`.
    pub exhausted: bool,
}

impl Budget {
    /// So much for all, [`PER_CALL_LIMIT`] for each.
    pub fn new(total: u64) -> Self {
        Self { remaining: total, per_call: PER_CALL_LIMIT, last: 0, exhausted: false }
    }
}
