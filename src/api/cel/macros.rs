//! Macros: `has`, the comprehensions of one and two variables, those of optionals and of lists (cel-go
//! `parser/macro.go`, `ext/comprehensions.go`, `cel/library.go`, `ext/lists.go`).

use std::sync::Arc;

use super::ast::{ACCUMULATOR, Call, Expr, Fold, Kind, Select};
use super::error::Issue;
use super::parser::Parser;
use super::value::Value;

pub(super) enum Expansion {
    Done(Expr),
    /// No macro: the parts come back. (For global calls the target is not looked at.)
    Plain(Expr, Vec<Expr>),
}

/// Calls `visit` with each direct part of a node.
pub(super) fn children<'e>(expr: &'e Expr, visit: &mut dyn FnMut(&'e Expr)) {
    match &expr.kind {
        Kind::Literal(_) | Kind::Ident(_) => {}
        Kind::Select(select) => visit(&select.operand),
        Kind::Call(call) => call.target.iter().chain(&call.args).for_each(visit),
        Kind::Logic { terms, .. } => terms.iter().for_each(visit),
        Kind::Conditional(parts) => parts.iter().for_each(visit),
        Kind::List(elements) => elements.iter().for_each(|(e, _)| visit(e)),
        Kind::Map(entries) => entries.iter().for_each(|e| {
            visit(&e.key);
            visit(&e.value);
        }),
        Kind::Struct { fields, .. } => fields.iter().for_each(|f| visit(&f.value)),
        Kind::Fold(fold) => {
            [&fold.range, &fold.init, &fold.condition, &fold.step, &fold.result].into_iter().for_each(visit);
        }
        Kind::Bind { value, body, .. } => {
            visit(value);
            visit(body);
        }
    }
}

/// `has(a.b)`.
pub(super) fn expand_global(
    parser: &mut Parser,
    at: u32,
    function: &str,
    mut args: Vec<Expr>,
) -> Result<Expansion, Issue> {
    if function != "has" || args.len() != 1 {
        let nothing = parser.node(at, Kind::Literal(Value::Null));
        return Ok(Expansion::Plain(nothing, args));
    }
    let arg = args.swap_remove(0);
    match arg.kind {
        Kind::Select(mut select) if !select.test && !select.optional => {
            select.test = true;
            // What a macro makes stands where its parenthesis does.
            Ok(Expansion::Done(parser.node(at, Kind::Select(select))))
        }
        _ => Err(Issue { at: arg.at, message: "invalid argument to has() macro".to_owned() }),
    }
}

/// The variable that an argument names.
fn variable(arg: &Expr, what: &str) -> Result<Arc<str>, Issue> {
    match &arg.kind {
        Kind::Ident(name) if matches!(&**name, ACCUMULATOR | "__result__") => {
            Err(Issue { at: arg.at, message: "iteration variable overwrites accumulator variable".to_owned() })
        }
        Kind::Ident(name) => Ok(Arc::clone(name)),
        _ => Err(Issue { at: arg.at, message: what.to_owned() }),
    }
}

struct Expander<'p> {
    parser: &'p mut Parser,
    at: u32,
}

impl Expander<'_> {
    fn accumulator(&mut self) -> Expr {
        self.parser.node(self.at, Kind::Ident(ACCUMULATOR.into()))
    }

    fn literal(&mut self, value: Value) -> Expr {
        self.parser.node(self.at, Kind::Literal(value))
    }

    fn call(&mut self, function: &str, args: Vec<Expr>) -> Expr {
        self.parser.call(self.at, function, args)
    }

    fn conditional(&mut self, condition: Expr, yes: Expr, no: Expr) -> Expr {
        self.parser.node(self.at, Kind::Conditional(Box::new([condition, yes, no])))
    }

    fn logic(&mut self, and: bool, terms: Vec<Expr>) -> Expr {
        self.parser.logic(self.at, and, terms)
    }

    fn member(&mut self, target: Expr, function: &str) -> Expr {
        let call = Call { target: Some(target), function: function.into(), args: Vec::new() };
        self.parser.node(self.at, Kind::Call(Box::new(call)))
    }

    fn list(&mut self, elements: Vec<Expr>) -> Expr {
        let elements = elements.into_iter().map(|e| (e, false)).collect();
        self.parser.node(self.at, Kind::List(elements))
    }

    fn fold(&mut self, fold: Fold) -> Expr {
        self.parser.node(self.at, Kind::Fold(Box::new(fold)))
    }

    fn all(&mut self, range: Expr, variable: Arc<str>, second: Option<Arc<str>>, predicate: Expr) -> Expr {
        let init = self.literal(Value::Bool(true));
        let accumulator = self.accumulator();
        let condition = self.call("@not_strictly_false", vec![accumulator]);
        let accumulator = self.accumulator();
        let step = self.logic(true, vec![accumulator, predicate]);
        let result = self.accumulator();
        self.fold(Fold { range, variable, second, init, condition, step, result })
    }

    fn exists(&mut self, range: Expr, variable: Arc<str>, second: Option<Arc<str>>, predicate: Expr) -> Expr {
        let init = self.literal(Value::Bool(false));
        let accumulator = self.accumulator();
        let negated = self.call("!_", vec![accumulator]);
        let condition = self.call("@not_strictly_false", vec![negated]);
        let accumulator = self.accumulator();
        let step = self.logic(false, vec![accumulator, predicate]);
        let result = self.accumulator();
        self.fold(Fold { range, variable, second, init, condition, step, result })
    }

    fn exists_one(&mut self, range: Expr, variable: Arc<str>, second: Option<Arc<str>>, predicate: Expr) -> Expr {
        let init = self.literal(Value::Int(0));
        let condition = self.literal(Value::Bool(true));
        let (accumulator, one) = (self.accumulator(), self.literal(Value::Int(1)));
        let counted = self.call("_+_", vec![accumulator, one]);
        let same = self.accumulator();
        let step = self.conditional(predicate, counted, same);
        let (accumulator, one) = (self.accumulator(), self.literal(Value::Int(1)));
        let result = self.call("_==_", vec![accumulator, one]);
        self.fold(Fold { range, variable, second, init, condition, step, result })
    }

    /// Each element's `value`, of those that `filter` lets through.
    fn collect(
        &mut self,
        range: Expr,
        variable: Arc<str>,
        second: Option<Arc<str>>,
        filter: Option<Expr>,
        value: Expr,
    ) -> Expr {
        let init = self.list(Vec::new());
        let condition = self.literal(Value::Bool(true));
        let accumulator = self.accumulator();
        let one = self.list(vec![value]);
        let mut step = self.call("_+_", vec![accumulator, one]);
        if let Some(filter) = filter {
            let same = self.accumulator();
            step = self.conditional(filter, step, same);
        }
        let result = self.accumulator();
        self.fold(Fold { range, variable, second, init, condition, step, result })
    }

    /// A map with one more entry for each element: `insert` is `cel.@mapInsert`'s arguments after the map.
    fn collect_map(
        &mut self,
        range: Expr,
        variable: Arc<str>,
        second: Arc<str>,
        filter: Option<Expr>,
        insert: Vec<Expr>,
    ) -> Expr {
        let init = self.parser.node(self.at, Kind::Map(Vec::new()));
        let condition = self.literal(Value::Bool(true));
        let mut args = vec![self.accumulator()];
        args.extend(insert);
        let mut step = self.call("cel.@mapInsert", args);
        if let Some(filter) = filter {
            let same = self.accumulator();
            step = self.conditional(filter, step, same);
        }
        let result = self.accumulator();
        self.fold(Fold { range, variable, second: Some(second), init, condition, step, result })
    }

    /// `target.optMap(v, e)`, or with `flat` `optFlatMap`.
    fn opt_map(&mut self, target: Expr, variable: Arc<str>, body: Expr, flat: bool) -> Expr {
        // The target is evaluated once, and named so that no expression can mean it.
        let name: Arc<str> = "@optional".into();
        let held = self.parser.node(self.at, Kind::Ident(Arc::clone(&name)));
        let present = self.member(held, "hasValue");
        let held = self.parser.node(self.at, Kind::Ident(Arc::clone(&name)));
        let value = self.member(held, "value");
        let bound = Kind::Bind { variable, value: Box::new(value), body: Box::new(body) };
        let mut bound = self.parser.node(self.at, bound);
        if !flat {
            bound = self.call("optional.of", vec![bound]);
        }
        let none = self.call("optional.none", Vec::new());
        let chosen = self.conditional(present, bound, none);
        let held = Kind::Bind { variable: name, value: Box::new(target), body: Box::new(chosen) };
        self.parser.node(self.at, held)
    }
}

/// Takes the next argument.
fn next(args: &mut std::vec::IntoIter<Expr>, at: u32) -> Result<Expr, Issue> {
    args.next().ok_or_else(|| Issue { at, message: "missing argument of a macro".to_owned() })
}

pub(super) fn expand_member(
    parser: &mut Parser,
    at: u32,
    target: Expr,
    function: &str,
    args: Vec<Expr>,
) -> Result<Expansion, Issue> {
    let known = matches!(
        (function, args.len()),
        ("all" | "exists" | "exists_one" | "filter" | "optMap" | "optFlatMap" | "sortBy", 2)
            | (
                "map"
                    | "all"
                    | "exists"
                    | "exists_one"
                    | "existsOne"
                    | "transformList"
                    | "transformMap"
                    | "transformMapEntry",
                3
            )
            | ("transformList" | "transformMap" | "transformMapEntry", 4)
    );
    if !known {
        if function == "map" && args.len() == 2 {
            return expand_known(parser, at, target, function, args).map(Expansion::Done);
        }
        return Ok(Expansion::Plain(target, args));
    }
    expand_known(parser, at, target, function, args).map(Expansion::Done)
}

fn expand_known(parser: &mut Parser, at: u32, target: Expr, function: &str, args: Vec<Expr>) -> Result<Expr, Issue> {
    let count = args.len();
    let mut args = args.into_iter();
    let mut expander = Expander { parser, at };
    let first_at = next(&mut args, at)?;
    let name = match function {
        "optMap" => "optMap() variable name must be a simple identifier",
        "optFlatMap" => "optFlatMap() variable name must be a simple identifier",
        "map" | "filter" => "argument is not an identifier",
        _ => "argument must be a simple name",
    };
    let first = variable(&first_at, name)?;
    let two = matches!(function, "transformList" | "transformMap" | "transformMapEntry")
        || (count == 3 && matches!(function, "all" | "exists" | "exists_one" | "existsOne"));
    let second = if two {
        let arg = next(&mut args, at)?;
        let second = variable(&arg, name)?;
        if second == first {
            return Err(Issue { at: arg.at, message: format!("duplicate variable name: {second}") });
        }
        Some(second)
    } else {
        None
    };
    let body = next(&mut args, at)?;
    let last = args.next();
    Ok(match (function, second, last) {
        ("all", second, _) => expander.all(target, first, second, body),
        ("exists", second, _) => expander.exists(target, first, second, body),
        ("exists_one" | "existsOne", second, _) => expander.exists_one(target, first, second, body),
        ("filter", _, _) => {
            let value = expander.parser.node(first_at.at, Kind::Ident(Arc::clone(&first)));
            expander.collect(target, first, None, Some(body), value)
        }
        ("map", _, None) => expander.collect(target, first, None, None, body),
        ("map", _, Some(value)) => expander.collect(target, first, None, Some(body), value),
        ("transformList", second, None) => expander.collect(target, first, second, None, body),
        ("transformList", second, Some(value)) => expander.collect(target, first, second, Some(body), value),
        ("transformMap", Some(second), last) => {
            let (filter, value) = match last {
                None => (None, body),
                Some(value) => (Some(body), value),
            };
            let key = expander.parser.node(first_at.at, Kind::Ident(Arc::clone(&first)));
            expander.collect_map(target, first, second, filter, vec![key, value])
        }
        ("transformMapEntry", Some(second), last) => {
            let (filter, entry) = match last {
                None => (None, body),
                Some(entry) => (Some(body), entry),
            };
            expander.collect_map(target, first, second, filter, vec![entry])
        }
        ("optMap" | "optFlatMap", _, _) => expander.opt_map(target, first, body, function == "optFlatMap"),
        // `l.sortBy(v, key)`: the keys are computed, then the list is sorted by them.
        (_, _, _) => {
            let held: Arc<str> = "@sortBy".into();
            let range = expander.parser.node(at, Kind::Ident(Arc::clone(&held)));
            let keys = expander.collect(range, first, None, None, body);
            let range = expander.parser.node(at, Kind::Ident(Arc::clone(&held)));
            let sorted = expander.call("@sortByAssociatedKeys", vec![range, keys]);
            let bound = Kind::Bind { variable: held, value: Box::new(target), body: Box::new(sorted) };
            expander.parser.node(at, bound)
        }
    })
}

/// The dotted name that a chain of selections of an identifier is.
pub(super) fn dotted(expr: &Expr) -> Option<String> {
    match &expr.kind {
        Kind::Ident(name) => Some(name.to_string()),
        Kind::Select(select) => {
            let Select { operand, field, test: false, optional: false } = &**select else { return None };
            Some(format!("{}.{field}", dotted(operand)?))
        }
        _ => None,
    }
}
