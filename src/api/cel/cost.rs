//! What expressions cost: estimated from sizes that schemas allow (cel-go `checker/cost.go`), and counted while they run
//! (`interpreter/runtimecost.go`), both with Kubernetes' prices (apiserver `cel/library/cost.go`).
//!
//! The estimates decide which rules may be written to a CRD; they are upstream's.

use std::collections::HashMap;
use std::sync::Arc;

use super::ast::{ACCUMULATOR, Call, Expr, Fold, Id, Kind};
use super::check::Checked;
use super::types::{Decl, Type};
use super::value::Value;

pub(super) const LIST_CREATE: u64 = 10;
pub(super) const MAP_CREATE: u64 = 30;
pub(super) const STRUCT_CREATE: u64 = 40;
const TRAVERSAL: f64 = 0.1;
const REGEX: f64 = 0.25;
/// A question to the authoriser: two fit into an expression.
const AUTHORIZATION: u64 = 350_000;
/// `cel.MaxNameFormatRegexSize`.
const FORMAT_REGEX_MAX: f64 = 128.0;

fn scale(size: u64, factor: f64) -> u64 {
    // Saturates: what is unbounded stays so.
    (size as f64 * factor).ceil() as u64
}

/// The cost of a call that has happened (`result`), or that is about to with these arguments.
pub(super) fn of_call(function: &str, args: &[Value], result: Option<&Value>) -> u64 {
    let size = |i: usize| args.get(i).map_or(1, Value::size);
    let regex = |text: u64, pattern: u64| scale(1 + text, TRAVERSAL).saturating_mul(scale(pattern, REGEX));
    match function {
        "check" => AUTHORIZATION,
        "fieldSelector" | "labelSelector" if args.len() == 2 => selector(size(1), scale),
        "isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf" | "includes" => {
            args.first().map_or(0, traversal)
        }
        "url"
        | "lowerAscii"
        | "upperAscii"
        | "substring"
        | "trim"
        | "jsonpatch.escapeKey"
        | "cidr"
        | "isIP"
        | "isCIDR"
        | "quantity"
        | "isQuantity"
        | "semver"
        | "isSemver" => scale(size(0), TRAVERSAL),
        "ip" if matches!(args.first(), Some(Value::Cidr(_))) => 1,
        "ip" => scale(size(0), TRAVERSAL),
        "replace" | "split" | "ip.isCanonical" => scale(size(0), 2.0 * TRAVERSAL),
        // Only the result tells.
        "join" => result.map_or(0, |result| scale(result.size(), 2.0 * TRAVERSAL)),
        "find" | "findAll" | "matches" => regex(size(0), size(1)),
        "containsIP" => {
            let parse = if matches!(args.get(1), Some(Value::String(_))) { scale(size(1), TRAVERSAL) } else { 0 };
            scale(size(0) * 2, TRAVERSAL) + parse
        }
        "containsCIDR" => {
            let parse = if matches!(args.get(1), Some(Value::String(_))) { scale(size(1), TRAVERSAL) } else { 0 };
            scale(size(0) * 2, TRAVERSAL) + scale(size(0), TRAVERSAL) + 1 + parse
        }
        "validate" => match args.first() {
            Some(Value::Format(format)) => regex(size(1), format.regex_size),
            _ => 1,
        },
        "_==_" | "_!=_" => match args.first() {
            Some(
                Value::Quantity(_)
                | Value::Ip(_)
                | Value::Cidr(_)
                | Value::Format(_)
                | Value::Url(_)
                | Value::Semver(_)
                | Value::Authz(_),
            ) if function == "_==_" => 1,
            _ => scale(size(0).min(size(1)), TRAVERSAL),
        },
        "_<_" | "_<=_" | "_>_" | "_>=_" if matches!(args.first(), Some(Value::String(_) | Value::Bytes(_))) => {
            scale(size(0).min(size(1)), TRAVERSAL)
        }
        "startsWith" | "endsWith" => scale(size(1), TRAVERSAL),
        "strings.quote" | "format" => scale(size(0), TRAVERSAL),
        "bytes" if matches!(args.first(), Some(Value::String(_))) => scale(size(0), TRAVERSAL),
        "string" if matches!(args.first(), Some(Value::Bytes(_))) => scale(size(0), TRAVERSAL),
        "@in" if matches!(args.get(1), Some(Value::List(_))) => size(1),
        "_+_" if matches!(args.first(), Some(Value::String(_) | Value::Bytes(_))) => {
            scale(size(0).saturating_add(size(1)), TRAVERSAL)
        }
        "contains" => scale(size(0), TRAVERSAL).saturating_mul(scale(size(1), TRAVERSAL)),
        "sets.contains" | "sets.intersects" => size(0).saturating_mul(size(1)).saturating_add(1),
        "sets.equivalent" => size(0).saturating_mul(size(1)).saturating_mul(2).saturating_add(1),
        // Where the elements' type is not known before, upstream charges 1 for sorting.
        "distinct" | "sort" => self_comparison(args.first()),
        "@sortByAssociatedKeys" => self_comparison(args.get(1)),
        "slice" => result.map_or(1, |result| made_list(1.0, result.size())),
        "reverse" if matches!(args.first(), Some(Value::List(_))) => made_list(1.0, size(0)),
        "flatten" => match args.get(1) {
            Some(Value::Int(depth)) => made_list(*depth as f64, size(0)),
            _ => made_list(1.0, size(0)),
        },
        "lists.range" => match args.first() {
            Some(Value::Int(n)) => made_list(1.0, u64::try_from(*n).unwrap_or(0)),
            _ => 1,
        },
        _ => 1,
    }
}

/// `trackAllocatingListCall` of cel-go's list library: the call, the new list, and what its elements took.
fn made_list(factor: f64, size: u64) -> u64 {
    let factor = if factor < 0.0 { 1.0 } else { factor };
    ((size as f64 * factor) as u64).saturating_add(1 + LIST_CREATE)
}

/// `trackListSelfCompare`: every element may be compared with every other.
fn self_comparison(list: Option<&Value>) -> u64 {
    let Some(list @ Value::List(items)) = list else { return 1 };
    let texts = matches!(items.first(), Some(Value::String(_) | Value::Bytes(_)));
    made_list(if texts { 2.0 + TRAVERSAL } else { 2.0 }, list.size().saturating_mul(list.size()))
}

fn selector(length: u64, scale: fn(u64, f64) -> u64) -> u64 {
    let requirement = (LIST_CREATE + STRUCT_CREATE) as f64;
    LIST_CREATE + scale(length, TRAVERSAL) + scale(scale(length, 0.5), requirement)
}

/// `traversalCost`.
fn traversal(value: &Value) -> u64 {
    match value {
        Value::String(s) => (s.len() as f64 * TRAVERSAL) as u64,
        Value::Bytes(b) => (b.len() as f64 * TRAVERSAL) as u64,
        Value::List(items) => items.iter().map(traversal).sum(),
        Value::Map(entries) => entries.iter().map(|(k, v)| traversal(&k.to_value()) + traversal(v)).sum(),
        _ => 1,
    }
}

/// The least and the most that something costs, or that it is long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Range {
    pub min: u64,
    pub max: u64,
}

impl Range {
    const UNKNOWN: Self = Self { min: 0, max: u64::MAX };

    const fn fixed(value: u64) -> Self {
        Self { min: value, max: value }
    }

    fn add(self, other: Self) -> Self {
        Self { min: self.min.saturating_add(other.min), max: self.max.saturating_add(other.max) }
    }

    fn multiply(self, other: Self) -> Self {
        Self { min: self.min.saturating_mul(other.min), max: self.max.saturating_mul(other.max) }
    }

    fn scale(self, factor: f64) -> Self {
        Self { min: scale(self.min, factor), max: scale(self.max, factor) }
    }

    fn union(self, other: Self) -> Self {
        Self { min: self.min.min(other.min), max: self.max.max(other.max) }
    }
}

/// What is known of an expression's value: where it comes from and how large it is.
#[derive(Debug, Clone, Default)]
struct Known {
    place: Place,
    /// The size of what a function returned.
    size: Option<Range>,
    /// The size of what a local variable stands for, if its place does not tell.
    local: Option<Range>,
    /// Sizes of keys and values of lists and maps that the expression makes itself.
    entries: Option<(Range, Range)>,
}

/// Where in the schema a value stands, as cel-go's paths tell it to Kubernetes' estimator
/// (apiextensions-apiserver `sizeEstimator.EstimateSize`).
#[derive(Debug, Clone, Default)]
enum Place {
    /// It has no path. The first step from it leads to the schema's root, whatever the step is, because the estimator
    /// takes the first step of every path for the root's name.
    #[default]
    Nowhere,
    /// A path that leads nowhere.
    Lost,
    At(Arc<Decl>),
}

pub(super) struct Coster<'c> {
    checked: &'c Checked,
    variables: &'c HashMap<String, Arc<Decl>>,
    scopes: Vec<(Arc<str>, Known)>,
}

/// Estimates an expression.
pub(super) fn estimate(expr: &Expr, checked: &Checked, variables: &HashMap<String, Arc<Decl>>) -> Range {
    Coster { checked, variables, scopes: Vec::new() }.expr(expr).0
}

const IDENT: Range = Range::fixed(1);

impl Coster<'_> {
    fn ty(&self, id: Id) -> &Type {
        self.checked.types.get(id as usize).unwrap_or(&Type::Dyn)
    }

    fn is_scalar(ty: &Type) -> bool {
        match ty {
            Type::Bool | Type::Int | Type::Uint | Type::Double | Type::Timestamp | Type::Duration => true,
            Type::Optional(inner) => Self::is_scalar(inner),
            _ => false,
        }
    }

    /// One step of a path: `next` tells where it leads from a declaration.
    fn step(&self, place: &Place, next: impl Fn(&Decl) -> Option<Arc<Decl>>) -> Place {
        let found = match place {
            Place::Nowhere => self.variables.get("self").cloned(),
            Place::Lost => None,
            Place::At(decl) => next(decl),
        };
        found.map_or(Place::Lost, Place::At)
    }

    /// `@items` and `@values`.
    fn items(&self, place: &Place) -> Place {
        self.step(place, |decl| decl.items.clone())
    }

    /// The size of an expression's value as far as it is known (`computeSize`).
    fn size_of(&self, expr: &Expr, known: &Known) -> Option<Range> {
        if known.size.is_some() {
            return known.size;
        }
        match &expr.kind {
            Kind::Literal(Value::String(s)) => return Some(Range::fixed(s.chars().count() as u64)),
            Kind::Literal(Value::Bytes(b)) => return Some(Range::fixed(b.len() as u64)),
            // A type's name is a path of one step.
            Kind::Literal(Value::Type(_)) => {
                if let Some(max) = self.variables.get("self").and_then(|decl| decl.max) {
                    return Some(Range { min: 0, max });
                }
            }
            Kind::Literal(_) => return Some(Range::fixed(1)),
            Kind::List(elements) => return Some(Range::fixed(elements.len() as u64)),
            Kind::Map(entries) => return Some(Range::fixed(entries.len() as u64)),
            _ => {}
        }
        if let Place::At(decl) = &known.place
            && let Some(max) = decl.max
        {
            return Some(Range { min: 0, max });
        }
        if Self::is_scalar(self.ty(expr.id)) { Some(Range::fixed(1)) } else { known.local }
    }

    fn sized(&self, expr: &Expr, known: &Known) -> Range {
        self.size_of(expr, known).unwrap_or(Range::UNKNOWN)
    }

    fn lookup(&self, name: &str) -> Known {
        if let Some((_, known)) = self.scopes.iter().rev().find(|(other, _)| **other == *name) {
            return known.clone();
        }
        let place = self.variables.get(name).map_or(Place::Lost, |decl| Place::At(Arc::clone(decl)));
        Known { place, ..Known::default() }
    }

    fn expr(&mut self, expr: &Expr) -> (Range, Known) {
        match &expr.kind {
            // Types are identifiers.
            Kind::Literal(Value::Type(_)) => (IDENT, Known::default()),
            Kind::Literal(_) => (Range::default(), Known::default()),
            Kind::Ident(name) => (IDENT, self.lookup(name)),
            Kind::Select(select) => {
                let (cost, known) = self.expr(&select.operand);
                if select.test {
                    return (cost, Known::default());
                }
                if select.optional {
                    return (cost.add(IDENT), Known::default());
                }
                let step = match self.ty(select.operand.id) {
                    Type::Map(..) | Type::Object(_) | Type::Named(_) | Type::Param(_) => IDENT,
                    _ => Range::default(),
                };
                let place = self.step(&known.place, |decl| match &decl.ty {
                    Type::Object(object) => object.fields.get(&*select.field).cloned(),
                    _ => None,
                });
                (cost.add(step), Known { place, ..Known::default() })
            }
            Kind::Call(call) => self.call(expr, call),
            Kind::Logic { terms, .. } => {
                let mut total = Range::default();
                for (i, term) in terms.iter().enumerate() {
                    let (cost, _) = self.expr(term);
                    // Only the first is sure to be evaluated.
                    total = total.add(Range { min: if i == 0 { cost.min } else { 0 }, max: cost.max });
                }
                (total, Known::default())
            }
            Kind::Conditional(parts) => {
                let [condition, yes, no] = &**parts;
                let (cost, _) = self.expr(condition);
                let (yes_cost, yes_known) = self.expr(yes);
                let (no_cost, no_known) = self.expr(no);
                let size = self.sized(yes, &yes_known).union(self.sized(no, &no_known));
                let entries = match (yes_known.entries, no_known.entries) {
                    (Some((ak, av)), Some((bk, bv))) => Some((ak.union(bk), av.union(bv))),
                    _ => None,
                };
                (cost.add(yes_cost.union(no_cost)), Known { size: Some(size), entries, ..Known::default() })
            }
            Kind::List(elements) => {
                let mut cost = Range::fixed(LIST_CREATE);
                let mut item = if elements.is_empty() { Range::default() } else { Range { min: u64::MAX, max: 0 } };
                for (element, _) in elements {
                    let (one, known) = self.expr(element);
                    cost = cost.add(one);
                    item = item.union(self.sized(element, &known));
                }
                (cost, Known { entries: Some((Range::fixed(1), item)), ..Known::default() })
            }
            Kind::Map(entries) => {
                let mut cost = Range::fixed(MAP_CREATE);
                let nothing = if entries.is_empty() { Range::default() } else { Range { min: u64::MAX, max: 0 } };
                let (mut keys, mut values) = (nothing, nothing);
                for entry in entries {
                    let (key_cost, key) = self.expr(&entry.key);
                    let (value_cost, value) = self.expr(&entry.value);
                    cost = cost.add(key_cost).add(value_cost);
                    keys = keys.union(self.sized(&entry.key, &key));
                    values = values.union(self.sized(&entry.value, &value));
                }
                (cost, Known { entries: Some((keys, values)), ..Known::default() })
            }
            Kind::Struct { fields, .. } => {
                let cost = fields.iter().fold(Range::fixed(STRUCT_CREATE), |sum, f| sum.add(self.expr(&f.value).0));
                (cost, Known::default())
            }
            Kind::Fold(fold) => self.fold(fold),
            Kind::Bind { variable, value, body } => {
                let (value_cost, known) = self.expr(value);
                self.scopes.push((Arc::clone(variable), self.local(value, known)));
                let (body_cost, result) = self.expr(body);
                self.scopes.pop();
                let size = self.size_of(body, &result);
                // cel-go keeps the cost of the empty range that a binding is made of.
                let cost = value_cost.add(body_cost).add(Range::fixed(LIST_CREATE));
                (cost, Known { size, entries: result.entries, ..Known::default() })
            }
        }
    }

    /// What a local variable stands for (`pushLocalVar`).
    fn local(&self, value: &Expr, known: Known) -> Known {
        let local = self.size_of(value, &known);
        Known { local, size: None, ..known }
    }

    fn fold(&mut self, fold: &Fold) -> (Range, Known) {
        let (range_cost, range) = self.expr(&fold.range);
        let (init_cost, init) = self.expr(&fold.init);
        let init_size = self.size_of(&fold.init, &init);
        let init = self.local(&fold.init, init);
        let count = self.sized(&fold.range, &range);
        let is_list = matches!(self.ty(fold.range.id), Type::List(_))
            || range.entries.is_some_and(|_| matches!(fold.range.kind, Kind::List(_)));
        let value = Known {
            place: self.items(&range.place),
            local: range.entries.map(|(_, values)| values),
            ..Known::default()
        };
        // Map keys have no declared length upstream either; indices have no place.
        let keys = |decl: &Decl| (!is_list && matches!(decl.ty, Type::Map(..))).then(|| Arc::new(Decl::key()));
        let key = Known {
            place: self.step(&range.place, keys),
            local: range.entries.map(|(keys, _)| keys),
            ..Known::default()
        };
        let depth = self.scopes.len();
        self.scopes.push((ACCUMULATOR.into(), init));
        match &fold.second {
            Some(second) => {
                self.scopes.push((Arc::clone(&fold.variable), key));
                self.scopes.push((Arc::clone(second), value));
            }
            None => self.scopes.push((Arc::clone(&fold.variable), if is_list { value } else { key })),
        }
        let (condition_cost, _) = self.expr(&fold.condition);
        let (step_cost, step) = self.expr(&fold.step);
        self.scopes.truncate(depth + 1);
        let (result_cost, _) = self.expr(&fold.result);
        self.scopes.truncate(depth);
        let looped = count.multiply(step_cost.add(condition_cost));
        let cost = range_cost.add(init_cost).add(result_cost).add(looped);
        let known = match &fold.init.kind {
            Kind::Literal(_) => Known { size: init_size, ..Known::default() },
            Kind::List(_) | Kind::Map(_) => Known { size: Some(count), entries: step.entries, ..Known::default() },
            _ => Known::default(),
        };
        (cost, known)
    }

    fn call(&mut self, expr: &Expr, call: &Call) -> (Range, Known) {
        let target = call.target.as_ref().map(|target| (target, self.expr(target)));
        let args: Vec<(&Expr, (Range, Known))> = call.args.iter().map(|arg| (arg, self.expr(arg))).collect();
        let mut spent = target.as_ref().map_or(Range::default(), |(_, (cost, _))| *cost);
        for (_, (cost, _)) in &args {
            spent = spent.add(*cost);
        }
        let mut all: Vec<(&Expr, &Known)> = Vec::with_capacity(args.len() + 1);
        all.extend(target.as_ref().map(|(e, (_, known))| (*e, known)));
        all.extend(args.iter().map(|(e, (_, known))| (*e, known)));
        let (cost, known) = self.function(expr, &call.function, &all);
        (spent.add(cost), known)
    }

    /// The cost of the function itself, and what it returns.
    fn function(&self, expr: &Expr, name: &str, args: &[(&Expr, &Known)]) -> (Range, Known) {
        let size = |i: usize| args.get(i).map_or(Range::UNKNOWN, |(e, known)| self.sized(e, known));
        let ty = |i: usize| args.get(i).map_or(&Type::Dyn, |(e, _)| self.ty(e.id));
        let one = Range::fixed(1);
        let plain = |cost: Range| (cost, Known::default());
        let with = |cost: Range, size: Range| (cost, Known { size: Some(size), ..Known::default() });
        let regex = |text: Range, pattern: Range| text.add(one).scale(TRAVERSAL).multiply(pattern.scale(REGEX));
        match name {
            "check" => plain(Range::fixed(AUTHORIZATION)),
            "dyn" => match args.first() {
                Some((arg, known)) => {
                    (one, Known { size: self.size_of(arg, known), entries: known.entries, ..Known::default() })
                }
                None => plain(one),
            },
            "fieldSelector" | "labelSelector" => {
                let length = size(1);
                plain(Range { min: selector(length.min, scale), max: selector(length.max, scale) })
            }
            "isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf" | "includes" => plain(match ty(0) {
                Type::List(item) => {
                    let mut each = one;
                    if matches!(**item, Type::String | Type::Bytes) {
                        each = each.add(self.item_size(args).scale(TRAVERSAL));
                    }
                    size(0).multiply(each)
                }
                _ if name == "includes" => size(0),
                _ => size(0).scale(TRAVERSAL),
            }),
            "url" | "jsonpatch.escapeKey" | "lowerAscii" | "upperAscii" | "substring" | "trim" => {
                with(size(0).scale(TRAVERSAL), size(0))
            }
            "replace" if args.len() >= 3 => with(size(0).scale(2.0 * TRAVERSAL), replaced(size(0), size(1), size(2))),
            "split" => {
                let limit = match args.get(2) {
                    Some((Expr { kind: Kind::Literal(Value::Int(n)), .. }, _)) => *n as u64,
                    _ => size(0).max,
                };
                with(size(0).scale(2.0 * TRAVERSAL), Range { min: 0, max: limit })
            }
            "join" => {
                let count = size(0);
                let mut length = count.multiply(self.item_size(args));
                if args.len() > 1 {
                    let gaps = Range { min: count.min.saturating_sub(1), max: count.max.saturating_sub(1) };
                    length = length.add(size(1).multiply(gaps));
                }
                with(length.scale(TRAVERSAL), length)
            }
            "find" | "findAll" => with(regex(size(0), size(1)), Range { min: 0, max: size(0).max }),
            "matches" => plain(regex(size(0), size(1))),
            "ip" if matches!(ty(0), Type::Named(_)) => plain(one),
            "cidr" | "isIP" | "isCIDR" | "ip" | "quantity" | "isQuantity" | "semver" | "isSemver" => {
                plain(size(0).scale(TRAVERSAL))
            }
            "ip.isCanonical" => plain(size(0).scale(2.0 * TRAVERSAL)),
            "containsIP" | "containsCIDR" => {
                let bytes = Range { min: 4, max: 16 };
                let mut cost = bytes.add(bytes).scale(TRAVERSAL);
                if name == "containsCIDR" {
                    cost = cost.add(bytes.scale(TRAVERSAL)).add(one);
                }
                if matches!(ty(1), Type::String) {
                    cost = cost.add(size(1).scale(TRAVERSAL));
                }
                plain(cost)
            }
            "validate" => plain(size(1).scale(TRAVERSAL).scale(FORMAT_REGEX_MAX * REGEX)),
            "_==_" if ty(0) == ty(1) && matches!(ty(0), Type::Named(_)) => plain(match ty(0) {
                Type::Named("kubernetes.NamedFormat") => Range { min: 1, max: 64 }.scale(TRAVERSAL),
                Type::Named("kubernetes.URL") => Range { min: 1, max: size(0).max.max(1) }.scale(TRAVERSAL),
                _ => one,
            }),
            "_==_" | "_!=_" => plain(self.comparison(size(0), size(1))),
            "_<_" | "_<=_" | "_>_" | "_>=_" if matches!(ty(0), Type::String | Type::Bytes | Type::Dyn | Type::Any) => {
                plain(self.comparison(size(0), size(1)))
            }
            "startsWith" | "endsWith" => plain(size(1).scale(TRAVERSAL)),
            "format" => plain(size(0).scale(TRAVERSAL)),
            "strings.quote" => {
                let s = size(0);
                let longest = s.max.saturating_mul(2).saturating_add(2);
                with(s.scale(TRAVERSAL), Range { min: s.min.saturating_add(2), max: longest })
            }
            "bytes" if matches!(ty(0), Type::String) => {
                with(size(0).scale(TRAVERSAL), Range { min: size(0).min, max: size(0).max.saturating_mul(4) })
            }
            "string" if matches!(ty(0), Type::Bytes) => {
                with(size(0).scale(TRAVERSAL), Range { min: size(0).min / 4, max: size(0).max })
            }
            "@in" if matches!(ty(1), Type::List(_) | Type::Dyn | Type::Any) => plain(size(1)),
            "contains" => plain(size(0).scale(TRAVERSAL).multiply(size(1).scale(TRAVERSAL))),
            "_+_" => self.addition(expr, args, size(0).add(size(1))),
            "_[_]" if !matches!(ty(0), Type::Optional(_)) => match args.first() {
                Some((_, known)) => {
                    let size = known.entries.map(|(_, values)| values);
                    (one, Known { place: self.items(&known.place), size, ..Known::default() })
                }
                None => plain(one),
            },
            "sets.contains" | "sets.intersects" => plain(size(0).multiply(size(1)).add(one)),
            "sets.equivalent" => plain(size(0).multiply(size(1)).scale(2.0).add(one)),
            "slice" | "flatten" | "lists.range" | "reverse" | "distinct" | "sort" | "@sortByAssociatedKeys" => {
                self.list(name, args)
            }
            _ => plain(one),
        }
    }

    /// cel-go's list library in version 3 (`ext/lists.go`).
    fn list(&self, name: &str, args: &[(&Expr, &Known)]) -> (Range, Known) {
        let size = |i: usize| args.get(i).map_or(Range::UNKNOWN, |(e, known)| self.sized(e, known));
        let ty = |i: usize| args.get(i).map_or(&Type::Dyn, |(e, _)| self.ty(e.id));
        let literal = |i: usize, other: u64| match args.get(i).map(|(e, _)| &e.kind) {
            Some(Kind::Literal(Value::Int(n))) => u64::try_from(*n).unwrap_or(0),
            _ => other,
        };
        let made = |factor: f64, size: Range| {
            let cost = size.scale(factor).add(Range::fixed(1 + LIST_CREATE));
            (cost, Known { size: Some(size), ..Known::default() })
        };
        let square = |size: Range| size.multiply(size);
        let sorted = |by: usize| {
            let (cost, known) = made(2.0, square(size(by)));
            let (texts, _) = made(2.0 + TRAVERSAL, square(size(by)));
            match ty(by) {
                Type::List(item) if matches!(**item, Type::String | Type::Bytes) => (texts, known),
                Type::List(item) if !matches!(**item, Type::Dyn | Type::Any) => (cost, known),
                // It may be a list of anything.
                _ => (cost.union(texts), known),
            }
        };
        match name {
            "slice" => made(1.0, Range::fixed(literal(2, size(0).max).wrapping_sub(literal(1, 0)))),
            "flatten" if args.len() > 1 => made(literal(1, u64::MAX) as f64, size(0)),
            "flatten" | "reverse" if matches!(ty(0), Type::List(_) | Type::Dyn | Type::Any) => made(1.0, size(0)),
            "lists.range" => made(1.0, Range::fixed(literal(0, u64::MAX))),
            "distinct" => made(2.0, square(size(0))),
            "sort" => sorted(0),
            "@sortByAssociatedKeys" => sorted(1),
            _ => (Range::fixed(1), Known::default()),
        }
    }

    fn comparison(&self, a: Range, b: Range) -> Range {
        let max = a.max.min(b.max);
        Range { min: u64::from(max > 0), max }.scale(TRAVERSAL)
    }

    fn addition(&self, expr: &Expr, args: &[(&Expr, &Known)], size: Range) -> (Range, Known) {
        let entries = match args {
            [(_, a), (_, b)] => match (a.entries, b.entries) {
                (Some((ak, av)), Some((bk, bv))) => Some((ak.union(bk), av.union(bv))),
                _ => None,
            },
            _ => None,
        };
        match self.ty(expr.id) {
            Type::List(_) => (Range::fixed(1), Known { size: Some(size), entries, ..Known::default() }),
            Type::String | Type::Bytes => (size.scale(TRAVERSAL), Known { size: Some(size), ..Known::default() }),
            // It may be a text or a number.
            Type::Dyn | Type::Any => {
                let cost = size.scale(TRAVERSAL).union(Range::fixed(1));
                (cost, Known { size: Some(size), entries, ..Known::default() })
            }
            _ => (Range::fixed(1), Known::default()),
        }
    }

    /// The size of a list's elements as far as the schema says it: Kubernetes' functions don't look into literals.
    fn item_size(&self, args: &[(&Expr, &Known)]) -> Range {
        let max = match args.first() {
            Some((_, Known { place: Place::At(decl), .. })) => decl.items.as_ref().and_then(|items| items.max),
            _ => None,
        };
        max.map_or(Range::UNKNOWN, |max| Range { min: 0, max })
    }
}

/// How long a text gets by a replacement.
fn replaced(text: Range, from: Range, to: Range) -> Range {
    let divide = |a: u64, b: u64| (a as f64 / b as f64).ceil() as u64;
    let (mut count, mut kept) = (Range::default(), Range::default());
    if from.min == 0 {
        count.max = text.max.saturating_add(1);
        kept.max = text.max;
    } else if to.max <= from.min {
        kept.max = text.max;
    } else {
        count.max = divide(text.max, from.min);
    }
    if from.max == 0 {
        count.min = text.min.saturating_add(1);
        kept.min = text.min;
    } else if from.max <= to.min {
        kept.min = text.min;
    } else {
        count.min = divide(text.min, from.max);
    }
    count.multiply(to).add(kept)
}
