//! The type checker (cel-go `checker/checker.go`): finds each node's type, resolves names, reports what cannot be right.

use std::collections::HashMap;
use std::sync::Arc;

use super::ast::{Call, Expr, Fold, Id, Kind, Select};
use super::error::Issue;
use super::functions::{self, Overload};
use super::macros::dotted;
use super::types::{Decl, RESERVED, Type, type_by_name};
use super::value::Value;

/// What the checker found, by node.
#[derive(Debug, Default, Clone)]
pub(super) struct Checked {
    pub types: Vec<Type>,
}

pub(super) struct Checker<'e> {
    variables: &'e HashMap<String, Arc<Decl>>,
    /// Names of structures that may be made, besides those that begin with `Object`.
    structs: bool,
    scopes: Vec<(Arc<str>, Type)>,
    bound: Vec<Option<Type>>,
    types: Vec<Type>,
    issues: Vec<Issue>,
}

/// Checks an expression, resolving names in place.
///
/// `structs`: whether `Object{…}` and `JSONPatch{…}` may be made. Returns the type of the whole.
pub(super) fn check(
    expr: &mut Expr,
    ids: Id,
    variables: &HashMap<String, Arc<Decl>>,
    structs: bool,
) -> Result<(Type, Checked), Vec<Issue>> {
    let mut checker = Checker {
        variables,
        structs,
        scopes: Vec::new(),
        bound: Vec::new(),
        types: vec![Type::Dyn; ids as usize],
        issues: Vec::new(),
    };
    checker.expr(expr);
    if !checker.issues.is_empty() {
        return Err(checker.issues);
    }
    let mut types = std::mem::take(&mut checker.types);
    for ty in &mut types {
        *ty = checker.resolve(ty, true);
    }
    let ty = types.get(expr.id as usize).cloned().unwrap_or(Type::Dyn);
    Ok((ty, Checked { types }))
}

impl Checker<'_> {
    fn issue(&mut self, at: u32, message: String) {
        self.issues.push(Issue { at, message });
    }

    fn fresh(&mut self) -> Type {
        self.bound.push(None);
        Type::Var(self.bound.len() as u32 - 1)
    }

    /// The type with what is known of its parameters put in; `last`: unknown ones become `dyn`.
    fn resolve(&self, ty: &Type, last: bool) -> Type {
        match ty {
            Type::Var(n) => match self.bound.get(*n as usize) {
                Some(Some(found)) => self.resolve(found, last),
                _ if last => Type::Dyn,
                _ => ty.clone(),
            },
            Type::List(item) => Type::List(Arc::new(self.resolve(item, last))),
            Type::Optional(item) => Type::Optional(Arc::new(self.resolve(item, last))),
            Type::Map(key, value) => Type::Map(Arc::new(self.resolve(key, last)), Arc::new(self.resolve(value, last))),
            other => other.clone(),
        }
    }

    fn set(&mut self, expr: &Expr, ty: Type) -> Type {
        if let Some(slot) = self.types.get_mut(expr.id as usize) {
            *slot = ty.clone();
        }
        ty
    }

    fn expr(&mut self, expr: &mut Expr) -> Type {
        let ty = match &mut expr.kind {
            Kind::Literal(value) => literal_type(value),
            Kind::Ident(_) => self.ident(expr),
            Kind::Select(_) => self.select(expr),
            Kind::Call(_) => self.call(expr),
            Kind::Logic { terms, .. } => self.logic(terms),
            Kind::Conditional(parts) => self.conditional(expr.at, parts),
            Kind::List(elements) => {
                let mut item = None;
                for (element, optional) in elements.iter_mut() {
                    let mut ty = self.expr(element);
                    if *optional {
                        ty = self.unwrap_optional(element.at, ty);
                    }
                    item = Some(self.join(item, ty));
                }
                let item = item.unwrap_or_else(|| self.fresh());
                Type::List(Arc::new(item))
            }
            Kind::Map(entries) => {
                let (mut key, mut value) = (None, None);
                for entry in entries.iter_mut() {
                    let ty = self.expr(&mut entry.key);
                    key = Some(self.join(key, ty));
                    let mut ty = self.expr(&mut entry.value);
                    if entry.optional {
                        ty = self.unwrap_optional(entry.value.at, ty);
                    }
                    value = Some(self.join(value, ty));
                }
                let key = key.unwrap_or_else(|| self.fresh());
                let value = value.unwrap_or_else(|| self.fresh());
                Type::Map(Arc::new(key), Arc::new(value))
            }
            Kind::Struct { name, fields } => {
                let name = Arc::clone(name);
                for field in fields.iter_mut() {
                    let ty = self.expr(&mut field.value);
                    if field.optional {
                        self.unwrap_optional(field.value.at, ty);
                    }
                }
                let fields: Vec<(u32, Arc<str>)> = fields.iter().map(|f| (f.at, Arc::clone(&f.name))).collect();
                self.structure(expr.at, &name, &fields)
            }
            Kind::Fold(fold) => self.fold(fold),
            Kind::Bind { variable, value, body } => {
                let ty = self.expr(value);
                self.scopes.push((Arc::clone(variable), ty));
                let result = self.expr(body);
                self.scopes.pop();
                result
            }
        };
        self.set(expr, ty)
    }

    fn structure(&mut self, at: u32, name: &str, fields: &[(u32, Arc<str>)]) -> Type {
        let known = self.structs && (name == "Object" || name.starts_with("Object.") || name == "JSONPatch");
        if !known {
            self.issue(at, format!("undeclared reference to '{name}' (in container '')"));
            return Type::Error;
        }
        if name == "JSONPatch" {
            for (at, field) in fields {
                if !matches!(&**field, "op" | "path" | "from" | "value") {
                    self.issue(*at, format!("undefined field '{field}'"));
                }
            }
            return Type::Named("JSONPatch");
        }
        let object = super::types::ObjectType { name: name.to_owned(), ..Default::default() };
        Type::Object(Arc::new(object))
    }

    fn lookup(&self, name: &str) -> Option<Type> {
        let local = self.scopes.iter().rev().find(|(known, _)| **known == *name);
        local.map(|(_, ty)| ty.clone()).or_else(|| self.variables.get(name).map(|decl| decl.ty.clone()))
    }

    fn ident(&mut self, expr: &mut Expr) -> Type {
        let Kind::Ident(name) = &expr.kind else { return Type::Dyn };
        if let Some(ty) = self.lookup(name) {
            return ty;
        }
        if let Some(known) = type_by_name(name) {
            expr.kind = Kind::Literal(Value::Type(known.into()));
            return Type::Type;
        }
        let message = format!("undeclared reference to '{name}' (in container '')");
        self.issue(expr.at, message);
        Type::Error
    }

    fn select(&mut self, expr: &mut Expr) -> Type {
        // A qualified name may be a type.
        if let Some(name) = dotted(expr)
            && let Some(root) = name.split('.').next()
            && self.lookup(root).is_none()
            && let Some(known) = type_by_name(&name)
        {
            expr.kind = Kind::Literal(Value::Type(known.into()));
            return Type::Type;
        }
        // So may a variable's, such as `authorizer.requestResource`.
        if let Some(name) = dotted(expr)
            && let Some(decl) = self.variables.get(&name)
        {
            expr.kind = Kind::Ident(name.into());
            return decl.ty.clone();
        }
        let at = expr.at;
        let Kind::Select(select) = &mut expr.kind else { return Type::Dyn };
        let Select { operand, field, test, optional } = &mut **select;
        let operand = self.expr(operand);
        let operand = self.resolve(&operand, false);
        let (inner, through_optional) = match &operand {
            Type::Optional(inner) => (self.resolve(inner, false), true),
            other => (other.clone(), false),
        };
        let found = match &inner {
            Type::Map(_, value) => (**value).clone(),
            Type::Object(object) if object.name.starts_with("Object") && self.structs && object.fields.is_empty() => {
                Type::Dyn
            }
            Type::Object(object) => match object.fields.get(&**field) {
                Some(decl) => decl.ty.clone(),
                // Names that need no escaping may be written as they are: `self.namespace`.
                None if RESERVED.contains(&&**field) && object.fields.contains_key(&format!("__{field}__")) => {
                    *field = format!("__{field}__").into();
                    object.fields.get(&**field).map_or(Type::Dyn, |decl| decl.ty.clone())
                }
                None => {
                    let message = format!("undefined field '{field}'");
                    self.issue(at, message);
                    Type::Error
                }
            },
            Type::Var(_) => {
                self.unify(&inner, &Type::Dyn);
                Type::Dyn
            }
            Type::Dyn | Type::Any | Type::Error => Type::Dyn,
            other => {
                let message = format!("type '{other}' does not support field selection");
                self.issue(at, message);
                Type::Dyn
            }
        };
        if *test {
            return Type::Bool;
        }
        if *optional || through_optional { Type::Optional(Arc::new(found)) } else { found }
    }

    fn logic(&mut self, terms: &mut [Expr]) -> Type {
        let mut result = Type::Bool;
        for term in terms.iter_mut() {
            let ty = self.expr(term);
            if !self.expect_bool(term, &ty) {
                result = Type::Error;
            }
        }
        result
    }

    fn conditional(&mut self, at: u32, parts: &mut [Expr; 3]) -> Type {
        let [condition, yes, no] = parts;
        let condition = self.expr(condition);
        let yes = self.expr(yes);
        let no = self.expr(no);
        let fits = self.unify(&condition, &Type::Bool);
        if let Some(joined) = self.try_join(&yes, &no)
            && fits
        {
            return joined;
        }
        let shown: Vec<String> = [&condition, &yes, &no].map(|ty| self.resolve(ty, true).to_string()).to_vec();
        self.issue(at, format!("found no matching overload for '_?_:_' applied to '({})'", shown.join(", ")));
        Type::Error
    }

    fn unwrap_optional(&mut self, at: u32, ty: Type) -> Type {
        match self.resolve(&ty, false) {
            Type::Optional(inner) => (*inner).clone(),
            Type::Dyn | Type::Any => Type::Dyn,
            other => {
                let message = format!("expected type 'optional_type({other})' but found '{other}'");
                self.issue(at, message);
                Type::Dyn
            }
        }
    }

    /// The type that holds both; `None` if there is none but `dyn`.
    fn try_join(&mut self, a: &Type, b: &Type) -> Option<Type> {
        let (ra, rb) = (self.resolve(a, false), self.resolve(b, false));
        if let Some(unknown) = [&ra, &rb].into_iter().find(|ty| matches!(ty, Type::Dyn | Type::Any)) {
            return Some(unknown.clone());
        }
        // The more general of the two.
        if self.unify(&rb, &ra) {
            return Some(if matches!(ra, Type::Null) { rb } else { ra });
        }
        None
    }

    /// The type of a literal's elements so far; whether they must have one is looked at when all types are known.
    fn join(&mut self, so_far: Option<Type>, next: Type) -> Type {
        let Some(so_far) = so_far else { return next };
        if let Some(joined) = self.try_join(&so_far, &next) {
            return joined;
        }
        Type::Dyn
    }

    fn fold(&mut self, fold: &mut Fold) -> Type {
        let range = self.expr(&mut fold.range);
        let init = self.expr(&mut fold.init);
        let two = fold.second.is_some();
        let (first, second) = match self.resolve(&range, false) {
            Type::List(item) if two => (Type::Int, (*item).clone()),
            Type::List(item) => ((*item).clone(), Type::Dyn),
            Type::Map(key, value) => ((*key).clone(), (*value).clone()),
            Type::Dyn | Type::Error => (Type::Dyn, Type::Dyn),
            unknown @ Type::Var(_) => {
                self.unify(&unknown, &Type::Dyn);
                (Type::Dyn, Type::Dyn)
            }
            other => {
                let message = format!(
                    "expression of type '{other}' cannot be range of a comprehension (must be list, map, or dynamic)"
                );
                self.issue(fold.range.at, message);
                (Type::Error, Type::Error)
            }
        };
        let accumulator: Arc<str> = super::ast::ACCUMULATOR.into();
        self.scopes.push((Arc::clone(&accumulator), init.clone()));
        self.scopes.push((Arc::clone(&fold.variable), first));
        if let Some(name) = &fold.second {
            self.scopes.push((Arc::clone(name), second));
        }
        let condition = self.expr(&mut fold.condition);
        self.expect_bool(&fold.condition, &condition);
        let step = self.expr(&mut fold.step);
        if !self.unify(&step, &init) {
            let (wanted, found) = (self.resolve(&init, false), self.resolve(&step, false));
            self.issue(fold.step.at, format!("expected type '{wanted}' but found '{found}'"));
        }
        self.scopes.pop();
        if two {
            self.scopes.pop();
        }
        let result = self.expr(&mut fold.result);
        self.scopes.pop();
        self.resolve(&result, false)
    }

    fn expect_bool(&mut self, expr: &Expr, ty: &Type) -> bool {
        let good = self.unify(ty, &Type::Bool);
        if !good {
            let found = self.resolve(ty, false);
            self.issue(expr.at, format!("expected type 'bool' but found '{found}'"));
        }
        good
    }

    fn call(&mut self, expr: &mut Expr) -> Type {
        let at = expr.at;
        let Kind::Call(call) = &mut expr.kind else { return Type::Dyn };
        // `optional.of(x)` is written like a member call, but the target is part of the name.
        if let Some(target) = &call.target
            && let Some(name) = dotted(target)
        {
            let root = name.split('.').next().unwrap_or_default();
            let qualified = format!("{name}.{}", call.function);
            if self.lookup(root).is_none()
                // Only policies that make patches have that library.
                && (self.structs || root != "jsonpatch")
                && let Some(known) = functions::interned(&qualified)
            {
                call.target = None;
                call.function = known.into();
            }
        }
        let Call { target, function, args } = &mut **call;
        let mut types = Vec::with_capacity(args.len() + 1);
        let has_target = target.is_some();
        if let Some(target) = target {
            types.push(self.expr(target));
        }
        for arg in args.iter_mut() {
            types.push(self.expr(arg));
        }
        let function = Arc::clone(function);
        let Some(overloads) = functions::overloads(&function) else {
            self.issue(at, format!("undeclared reference to '{function}' (in container '')"));
            return Type::Error;
        };
        match self.resolve_overload(overloads, has_target, &types) {
            Some(ty) => ty,
            None => {
                let shown: Vec<String> = types.iter().map(|ty| self.resolve(ty, true).to_string()).collect();
                let shown = match shown.split_first() {
                    Some((target, args)) if has_target => format!("{target}.({})", args.join(", ")),
                    _ => format!("({})", shown.join(", ")),
                };
                self.issue(at, format!("found no matching overload for '{function}' applied to '{shown}'"));
                Type::Error
            }
        }
    }

    fn resolve_overload(&mut self, overloads: &[Overload], member: bool, args: &[Type]) -> Option<Type> {
        let mut result: Option<Type> = None;
        for overload in overloads.iter().filter(|o| o.member == member && o.args.len() == args.len()) {
            let saved = self.bound.clone();
            let mut params = Vec::new();
            let formal: Vec<Type> = overload.args.iter().map(|ty| self.instantiate(ty, &mut params)).collect();
            let fits = args.iter().zip(&formal).all(|(actual, formal)| self.unify(actual, formal));
            if !fits {
                self.bound = saved;
                continue;
            }
            let ty = self.instantiate(&overload.result, &mut params);
            let ty = self.resolve(&ty, false);
            result = Some(match result {
                None => ty,
                Some(known) if known == ty => known,
                // Which of them it is will be known when it runs.
                Some(_) => Type::Dyn,
            });
        }
        result
    }

    fn instantiate(&mut self, ty: &Type, params: &mut Vec<(&'static str, Type)>) -> Type {
        match ty {
            Type::Param(name) => match params.iter().find(|(known, _)| known == name) {
                Some((_, ty)) => ty.clone(),
                None => {
                    let fresh = self.fresh();
                    params.push((name, fresh.clone()));
                    fresh
                }
            },
            Type::List(item) => Type::List(Arc::new(self.instantiate(item, params))),
            Type::Optional(item) => Type::Optional(Arc::new(self.instantiate(item, params))),
            Type::Map(key, value) => {
                let key = self.instantiate(key, params);
                Type::Map(Arc::new(key), Arc::new(self.instantiate(value, params)))
            }
            other => other.clone(),
        }
    }

    /// Whether a value of `actual` may stand where `formal` is wanted; learns parameters on the way.
    fn unify(&mut self, actual: &Type, formal: &Type) -> bool {
        let (actual, formal) = (self.resolve(actual, false), self.resolve(formal, false));
        match (&actual, &formal) {
            (Type::Var(a), Type::Var(b)) if a == b => true,
            (other, Type::Var(n)) | (Type::Var(n), other) => {
                if occurs(*n, other) {
                    return false;
                }
                if let Some(slot) = self.bound.get_mut(*n as usize) {
                    *slot = Some(other.clone());
                }
                true
            }
            (Type::Dyn | Type::Any | Type::Error, _) | (_, Type::Dyn | Type::Any | Type::Error) => true,
            (Type::Null, Type::Null) => true,
            (Type::Null, other) | (other, Type::Null) => nullable(other),
            (Type::List(a), Type::List(b)) | (Type::Optional(a), Type::Optional(b)) => self.unify(a, b),
            (Type::Map(a, b), Type::Map(c, d)) => self.unify(a, c) && self.unify(b, d),
            (a, b) => a == b,
        }
    }
}

/// Whether `null` may stand for a value of the type.
fn nullable(ty: &Type) -> bool {
    matches!(ty, Type::Object(_) | Type::Timestamp | Type::Duration | Type::Optional(_) | Type::Named(_))
}

fn occurs(variable: u32, ty: &Type) -> bool {
    match ty {
        Type::Var(n) => *n == variable,
        Type::List(item) | Type::Optional(item) => occurs(variable, item),
        Type::Map(key, value) => occurs(variable, key) || occurs(variable, value),
        _ => false,
    }
}

fn literal_type(value: &Value) -> Type {
    match value {
        Value::Null => Type::Null,
        Value::Bool(_) => Type::Bool,
        Value::Int(_) => Type::Int,
        Value::Uint(_) => Type::Uint,
        Value::Double(_) => Type::Double,
        Value::String(_) => Type::String,
        Value::Bytes(_) => Type::Bytes,
        Value::Type(_) => Type::Type,
        _ => Type::Dyn,
    }
}
