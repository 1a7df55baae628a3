//! The functions, by what they are about. Which of a function's overloads runs is decided by the values.

pub(crate) mod format;
pub(super) mod formatting;
mod lists;
mod net;
pub(crate) mod semver;
pub(super) mod standard;
pub(super) mod text;
pub(super) mod time;

use super::authz;
use super::error::EvalError;
use super::eval::{Machine, Result};
use super::value::Value;

/// The largest text or list that a function makes. What is charged afterwards cannot have cost more than this.
const RESULT_MAX: usize = 16 << 20;

/// Calls a function; the first argument of a member function is its target.
pub(super) fn call(name: &str, member: bool, args: &[Value], machine: &Machine<'_>) -> Result {
    if let Some(result) = authz::call(name, args, machine.context.authorizer) {
        return result;
    }
    let found = standard::call(name, args)
        .or_else(|| time::call(name, args))
        .or_else(|| text::call(name, args, machine.regexes))
        .or_else(|| lists::call(name, args))
        .or_else(|| net::call(name, member, args))
        .or_else(|| quantity(name, args))
        .or_else(|| semver::call(name, args))
        .or_else(|| format::call(name, args));
    found.unwrap_or_else(|| Err(EvalError::no_such_overload()))
}

/// Refuses what would be too large to be made.
fn bounded(size: usize) -> Result<()> {
    if size > RESULT_MAX { Err(EvalError::CostLimit) } else { Ok(()) }
}

/// Kubernetes' quantities (`cel/library/quantity.go`).
fn quantity(name: &str, args: &[Value]) -> Option<Result> {
    use crate::quantity::Quantity;
    use std::cmp::Ordering;
    use std::sync::Arc;
    let made = |quantity: Quantity| Ok(Value::Quantity(Arc::new(quantity)));
    Some(match (name, args) {
        ("quantity", [Value::String(text)]) => match Quantity::parse(text) {
            Ok(quantity) => made(quantity),
            Err(error) => Err(EvalError::new(error.to_string())),
        },
        ("isQuantity", [Value::String(text)]) => Ok(Value::Bool(Quantity::parse(text).is_ok())),
        ("sign", [Value::Quantity(q)]) => Ok(Value::Int(q.sign().into())),
        ("isGreaterThan", [Value::Quantity(a), Value::Quantity(b)]) => Ok(Value::Bool(a > b)),
        ("isLessThan", [Value::Quantity(a), Value::Quantity(b)]) => Ok(Value::Bool(a < b)),
        ("compareTo", [Value::Quantity(a), Value::Quantity(b)]) => Ok(Value::Int(match a.cmp(b) {
            Ordering::Less => -1,
            Ordering::Equal => 0,
            Ordering::Greater => 1,
        })),
        ("asApproximateFloat", [Value::Quantity(q)]) => Ok(Value::Double(q.as_f64())),
        ("isInteger", [Value::Quantity(q)]) => Ok(Value::Bool(q.as_i64().is_some())),
        ("asInteger", [Value::Quantity(q)]) => {
            q.as_i64().map(Value::Int).ok_or_else(|| EvalError::new("cannot convert value to integer"))
        }
        ("add" | "sub", [Value::Quantity(q), other]) => {
            let other = match other {
                Value::Quantity(other) => (**other).clone(),
                Value::Int(number) => Quantity::new(*number, crate::quantity::Format::DecimalExponent),
                _ => return None,
            };
            let mut sum = (**q).clone();
            if name == "add" {
                sum.add(&other)
            } else {
                sum.sub(&other)
            };
            made(sum)
        }
        _ => return None,
    })
}
