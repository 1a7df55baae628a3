//! Runs checked expressions, counting their cost as cel-go does (`interpreter/runtimecost.go`).

use std::collections::HashMap;
use std::sync::Arc;

use indexmap::IndexMap;
use regex::Regex;

use super::ast::{ACCUMULATOR, Call, Expr, Fold, Kind, Select};
use super::authz::Authorize;
use super::cost;
use super::error::EvalError;
use super::library;
use super::value::{Key, Struct, Value};

pub(super) type Result<T = Value> = std::result::Result<T, EvalError>;

/// Variables that are computed when they are first used: `variables.x` of policies.
pub trait Lazy {
    /// The value of `NAME.FIELD` and what it cost to compute it now; `None` if there is no such variable.
    fn get(&self, name: &str, field: &str) -> Option<std::result::Result<(Value, u64), EvalError>>;
}

/// The values of an environment's variables.
#[derive(Default, Clone, Copy)]
pub struct Context<'a> {
    pub lazy: Option<&'a dyn Lazy>,
    pub authorizer: Option<&'a dyn Authorize>,
}

pub(super) struct Machine<'a> {
    pub variables: &'a HashMap<String, Value>,
    pub context: Context<'a>,
    pub regexes: &'a HashMap<String, Arc<Regex>>,
    /// An accumulator may hold an error that a later element makes good.
    scopes: Vec<(Arc<str>, Result)>,
    pub cost: u64,
    limit: u64,
}

impl<'a> Machine<'a> {
    pub fn new(
        variables: &'a HashMap<String, Value>,
        context: Context<'a>,
        regexes: &'a HashMap<String, Arc<Regex>>,
        limit: u64,
    ) -> Self {
        Self { variables, context, regexes, scopes: Vec::new(), cost: 0, limit }
    }

    fn charge(&mut self, cost: u64) -> Result<()> {
        self.cost = self.cost.saturating_add(cost);
        if self.cost > self.limit { Err(EvalError::CostLimit) } else { Ok(()) }
    }

    pub fn eval(&mut self, expr: &Expr) -> Result {
        match &expr.kind {
            Kind::Literal(value) => Ok(value.clone()),
            Kind::Ident(name) => {
                self.charge(1)?;
                self.lookup(name)
            }
            Kind::Select(select) => self.select(select),
            Kind::Call(_) | Kind::List(_) | Kind::Map(_) if expr.is_constant() => {
                let spent = self.cost;
                let value = self.made(expr);
                self.cost = spent;
                value
            }
            Kind::Call(_) | Kind::List(_) | Kind::Map(_) => self.made(expr),
            Kind::Logic { and, terms } => self.logic(*and, terms),
            Kind::Conditional(parts) => self.conditional(parts),
            Kind::Struct { name, fields } => self.structure(name, fields),
            Kind::Fold(fold) => self.fold(fold),
            Kind::Bind { variable, value, body } => {
                let value = self.eval(value);
                fatal(&value)?;
                self.scopes.push((Arc::clone(variable), value));
                let result = self.eval(body);
                self.scopes.pop();
                result
            }
        }
    }

    fn made(&mut self, expr: &Expr) -> Result {
        match &expr.kind {
            Kind::Call(call) => self.call(call),
            Kind::List(elements) => self.list(elements),
            Kind::Map(entries) => self.map(entries),
            _ => Err(EvalError::no_such_overload()),
        }
    }

    fn lookup(&self, name: &str) -> Result {
        if let Some((_, value)) = self.scopes.iter().rev().find(|(known, _)| **known == *name) {
            return value.clone();
        }
        let found = self.variables.get(name).cloned();
        found.ok_or_else(|| EvalError::new(format!("no such attribute(s): {name}")))
    }

    fn is_local(&self, name: &str) -> bool {
        self.scopes.iter().any(|(known, _)| **known == *name)
    }

    fn select(&mut self, select: &Select) -> Result {
        if let Some(lazy) = self.context.lazy
            && let Kind::Ident(name) = &select.operand.kind
            && !self.is_local(name)
            && let Some(found) = lazy.get(name, &select.field)
        {
            self.charge(2)?;
            let (value, cost) = found?;
            self.charge(cost)?;
            return Ok(match (select.test, select.optional) {
                (true, _) => Value::Bool(true),
                (false, true) => Value::some(value),
                (false, false) => value,
            });
        }
        let operand = self.eval(&select.operand)?;
        self.charge(u64::from(!select.test) + begins_attribute(&select.operand))?;
        let (operand, through_optional) = match operand {
            Value::Optional(None) if select.test => return Ok(Value::Bool(false)),
            Value::Optional(None) => return Ok(Value::Optional(None)),
            Value::Optional(Some(inner)) => ((*inner).clone(), true),
            other => (other, false),
        };
        let found = match &operand {
            Value::Map(entries) => entries.get(&Key::String(Arc::clone(&select.field))).cloned(),
            Value::Struct(made) => made.fields.get(&select.field).cloned(),
            // Nothing else has fields, and may be asked whether it has.
            _ => None,
        };
        if select.test {
            return Ok(Value::Bool(found.is_some()));
        }
        match (found, select.optional || through_optional) {
            (Some(value), true) => Ok(Value::some(value)),
            (None, true) => Ok(Value::Optional(None)),
            (Some(value), false) => Ok(value),
            (None, false) => Err(EvalError::new(format!("no such key: {}", select.field))),
        }
    }

    /// `&&` and `||`: a term that decides makes errors of others good.
    fn logic(&mut self, and: bool, terms: &[Expr]) -> Result {
        let mut failed = None;
        for term in terms {
            match self.eval(term) {
                Ok(Value::Bool(b)) if b != and => return Ok(Value::Bool(b)),
                Ok(Value::Bool(_)) => {}
                Ok(_) => {
                    failed.get_or_insert_with(EvalError::no_such_overload);
                }
                Err(error) if error.is_fatal() => return Err(error),
                Err(error) => {
                    failed.get_or_insert(error);
                }
            }
        }
        failed.map_or(Ok(Value::Bool(and)), Err)
    }

    fn conditional(&mut self, parts: &[Expr; 3]) -> Result {
        let [condition, yes, no] = parts;
        match self.eval(condition)? {
            Value::Bool(true) => self.eval(yes),
            Value::Bool(false) => self.eval(no),
            _ => Err(EvalError::no_such_overload()),
        }
    }

    fn list(&mut self, elements: &[(Expr, bool)]) -> Result {
        let mut items = Vec::with_capacity(elements.len());
        for (element, optional) in elements {
            match (self.eval(element)?, optional) {
                (Value::Optional(inner), true) => items.extend(inner.map(|v| (*v).clone())),
                (_, true) => return Err(EvalError::no_such_overload()),
                (value, false) => items.push(value),
            }
        }
        self.charge(cost::LIST_CREATE)?;
        Ok(items.into())
    }

    fn map(&mut self, entries: &[super::ast::MapEntry]) -> Result {
        let mut map = IndexMap::with_capacity(entries.len());
        for entry in entries {
            let key = self.eval(&entry.key)?;
            let key = Key::from_value(&key).ok_or_else(|| EvalError::new("unsupported key type"))?;
            let value = match (self.eval(&entry.value)?, entry.optional) {
                (Value::Optional(None), true) => continue,
                (Value::Optional(Some(inner)), true) => (*inner).clone(),
                (_, true) => return Err(EvalError::no_such_overload()),
                (value, false) => value,
            };
            if map.insert(key, value).is_some() {
                return Err(EvalError::new("Failed with repeated key"));
            }
        }
        self.charge(cost::MAP_CREATE)?;
        Ok(Value::Map(Arc::new(map)))
    }

    fn structure(&mut self, name: &Arc<str>, fields: &[super::ast::StructField]) -> Result {
        let mut made = IndexMap::with_capacity(fields.len());
        for field in fields {
            let value = match (self.eval(&field.value)?, field.optional) {
                (Value::Optional(None), true) => continue,
                (Value::Optional(Some(inner)), true) => (*inner).clone(),
                (value, _) => value,
            };
            made.insert(Arc::clone(&field.name), value);
        }
        self.charge(cost::STRUCT_CREATE)?;
        Ok(Value::Struct(Arc::new(Struct { name: Arc::clone(name), fields: made })))
    }

    fn call(&mut self, call: &Call) -> Result {
        match (&*call.function, call.args.as_slice()) {
            ("@not_strictly_false", [arg]) => {
                let value = self.eval(arg);
                fatal(&value)?;
                self.charge(1)?;
                return Ok(Value::Bool(!matches!(value, Ok(Value::Bool(false)))));
            }
            // The second is evaluated only if the first has nothing.
            ("or" | "orValue", [other]) => {
                let Some(target) = &call.target else { return Err(EvalError::no_such_overload()) };
                return match self.eval(target)? {
                    Value::Optional(Some(inner)) if &*call.function == "orValue" => Ok((*inner).clone()),
                    found @ Value::Optional(Some(_)) => Ok(found),
                    Value::Optional(None) => self.eval(other),
                    _ => Err(EvalError::no_such_overload()),
                };
            }
            // Indexing is a step of an attribute, whatever the container's size.
            ("_[_]", [container, index]) => {
                let begun = begins_attribute(container);
                let container = self.eval(container)?;
                let index = self.eval(index)?;
                self.charge(1 + begun)?;
                return library::standard::index(&container, &index);
            }
            ("_[?_]", [container, index]) => {
                let container = self.eval(container)?;
                let index = self.eval(index)?;
                self.charge(1)?;
                return library::standard::optional_index(&container, &index);
            }
            _ => {}
        }
        let mut args = Vec::with_capacity(call.args.len() + 1);
        for arg in call.target.iter().chain(&call.args) {
            args.push(self.eval(arg)?);
        }
        if let ("@in", [_, list]) = (&*call.function, call.args.as_slice())
            && matches!(&list.kind, Kind::List(elements) if elements.iter().all(|(e, _)| is_member(e)))
        {
            // cel-go looks into a set that it made when it planned (`maybeOptimizeSetMembership`).
            return library::call(&call.function, false, &args, self);
        }
        // Costs of some grow with their arguments: those are charged first, so that nothing large is begun in vain.
        let before = cost::of_call(&call.function, &args, None);
        self.charge(before)?;
        let result = library::call(&call.function, call.target.is_some(), &args, self)?;
        let after = cost::of_call(&call.function, &args, Some(&result));
        self.charge(after.saturating_sub(before))?;
        Ok(result)
    }

    fn fold(&mut self, fold: &Fold) -> Result {
        let range = self.eval(&fold.range)?;
        let init = self.eval(&fold.init)?;
        let entries: Vec<(Value, Value)> = match &range {
            Value::List(items) if fold.second.is_some() => {
                items.iter().enumerate().map(|(i, item)| (Value::Int(i as i64), item.clone())).collect()
            }
            Value::List(items) => items.iter().map(|item| (item.clone(), Value::Null)).collect(),
            Value::Map(entries) => entries.iter().map(|(k, v)| (k.to_value(), v.clone())).collect(),
            _ => return Err(EvalError::no_such_overload()),
        };
        let base = self.scopes.len();
        self.scopes.push((ACCUMULATOR.into(), Ok(init)));
        let looped = self.run_loop(fold, base, entries);
        let result = looped.and_then(|()| self.eval(&fold.result));
        self.scopes.truncate(base);
        result
    }

    fn run_loop(&mut self, fold: &Fold, base: usize, entries: Vec<(Value, Value)>) -> Result<()> {
        for (first, second) in entries {
            self.scopes.truncate(base + 1);
            self.scopes.push((Arc::clone(&fold.variable), Ok(first)));
            if let Some(name) = &fold.second {
                self.scopes.push((Arc::clone(name), Ok(second)));
            }
            let go_on = self.eval(&fold.condition)?;
            if !matches!(go_on, Value::Bool(true)) {
                break;
            }
            let next = self.step(&fold.step, base);
            fatal(&next)?;
            if let Some(slot) = self.scopes.get_mut(base) {
                slot.1 = next;
            }
        }
        self.scopes.truncate(base + 1);
        Ok(())
    }

    /// A step of a comprehension. Appending to the accumulator happens in place.
    fn step(&mut self, step: &Expr, base: usize) -> Result {
        match &step.kind {
            Kind::Conditional(parts) => {
                let [condition, yes, no] = &**parts;
                match self.eval(condition)? {
                    Value::Bool(true) => self.step(yes, base),
                    Value::Bool(false) => self.step(no, base),
                    _ => Err(EvalError::no_such_overload()),
                }
            }
            Kind::Ident(name) if **name == *ACCUMULATOR => {
                self.charge(1)?;
                self.take(base)
            }
            Kind::Call(call) if &*call.function == "_+_" => match call.args.as_slice() {
                [Expr { kind: Kind::Ident(name), .. }, Expr { kind: Kind::List(elements), .. }]
                    if **name == *ACCUMULATOR =>
                {
                    self.charge(1)?;
                    let more = self.list(elements)?;
                    self.charge(1)?;
                    match (self.take(base)?, more) {
                        (Value::List(mut all), Value::List(more)) => {
                            Arc::make_mut(&mut all).extend(more.iter().cloned());
                            Ok(Value::List(all))
                        }
                        (all, more) => library::call("_+_", false, &[all, more], self),
                    }
                }
                _ => self.eval(step),
            },
            Kind::Call(call) if &*call.function == "cel.@mapInsert" => {
                self.charge(1)?;
                let mut args = Vec::with_capacity(2);
                for arg in call.args.iter().skip(1) {
                    args.push(self.eval(arg)?);
                }
                self.charge(1)?;
                let Value::Map(mut map) = self.take(base)? else { return Err(EvalError::no_such_overload()) };
                insert(Arc::make_mut(&mut map), args)?;
                Ok(Value::Map(map))
            }
            _ => self.eval(step),
        }
    }

    /// The accumulator's value, out of its place.
    fn take(&mut self, base: usize) -> Result {
        match self.scopes.get_mut(base) {
            Some(slot) => std::mem::replace(&mut slot.1, Ok(Value::Null)),
            None => Err(EvalError::no_such_overload()),
        }
    }
}

/// An error that ends everything.
fn fatal(result: &Result) -> Result<()> {
    match result {
        Err(error) if error.is_fatal() => Err(error.clone()),
        _ => Ok(()),
    }
}

/// `cel.@mapInsert`: one entry, or the entries of a map, none of which may be there.
fn insert(map: &mut IndexMap<Key, Value>, args: Vec<Value>) -> Result<()> {
    let mut args = args.into_iter();
    let added: Vec<(Key, Value)> = match (args.next(), args.next()) {
        (Some(key), Some(value)) => {
            let key = Key::from_value(&key).ok_or_else(|| EvalError::new("unsupported key type"))?;
            vec![(key, value)]
        }
        (Some(Value::Map(entries)), None) => entries.iter().map(|(k, v)| (k.clone(), v.clone())).collect(),
        _ => return Err(EvalError::no_such_overload()),
    };
    for (key, value) in added {
        if map.contains_key(&key) {
            let shown = library::text::shown(&key.to_value());
            return Err(EvalError::new(format!("insert failed: key {shown} already exists")));
        }
        map.insert(key, value);
    }
    Ok(())
}

/// The cost of an attribute that begins at a value and not at a variable (cel-go's relative attributes).
fn begins_attribute(operand: &Expr) -> u64 {
    let goes_on = match &operand.kind {
        Kind::Ident(_) | Kind::Select(_) => true,
        Kind::Call(call) => matches!(&*call.function, "_[_]" | "_[?_]"),
        _ => false,
    };
    u64::from(!goes_on)
}

/// What a set of constants may hold.
fn is_member(expr: &Expr) -> bool {
    let scalar = |value: &Value| {
        matches!(value, Value::Bool(_) | Value::Int(_) | Value::Uint(_) | Value::Double(_) | Value::String(_))
    };
    matches!(&expr.kind, Kind::Literal(value) if scalar(value))
}
