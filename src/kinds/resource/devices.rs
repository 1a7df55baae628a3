//! What claims, slices and taint rules have in common.

use std::sync::LazyLock;

use api::cel::{Decl, Env, Type};
use api::field::{Error, ErrorList, Path};
use serde_json::Value;
use std::sync::Arc;

pub(super) use crate::checks::driver_name as driver;
use crate::checks::{csi_driver_name, invalid_all, label_name, label_value, qualified_name, subdomain};
use crate::json::{Json, same};

/// Most bytes of what is opaque to Kubernetes.
const PARAMETER_BYTES_MAX: usize = 10 * 1024;
/// Most bytes of a selector's expression, and the most it may cost.
const EXPRESSION_BYTES_MAX: usize = 10 * 1024;
const EXPRESSION_COST_MAX: u64 = 1_000_000;
/// Most bytes of a name without its domain.
const ID_BYTES_MAX: usize = 32;
const EFFECTS: &[&str] = &["NoExecute", "NoSchedule", "None"];

/// A list that may not be longer than `most`; a longer one is not looked into.
pub(super) fn within(errors: &mut ErrorList, at: &Path, count: usize, most: usize) -> bool {
    if count > most {
        errors.push(Error::too_many(at.clone(), count, most));
    }
    count <= most
}

/// Reports items of a list that are there twice.
pub(super) fn unique(errors: &mut ErrorList, at: &Path, keys: &[&str]) {
    for (i, key) in keys.iter().enumerate() {
        if keys[..i].contains(key) {
            errors.push(Error::duplicate(at.index(i), *key));
        }
    }
}

/// `validatePoolName`.
pub(super) fn pool(errors: &mut ErrorList, at: &Path, name: &str) {
    if name.is_empty() {
        errors.push(Error::required(at.clone(), ""));
        return;
    }
    if name.len() > 253 {
        errors.push(Error::too_long(at.clone(), 253));
    }
    for part in name.split('/') {
        subdomain(errors, at, part);
    }
}

/// `validateQualifiedName`.
pub(super) fn qualified(errors: &mut ErrorList, at: &Path, name: &str) {
    let mut identifier = |id: &str| {
        if id.len() > ID_BYTES_MAX {
            errors.push(Error::too_long(at.clone(), ID_BYTES_MAX));
        }
        invalid_all(errors, at, id, api::validation::c_identifier(id));
    };
    match name.split('/').collect::<Vec<_>>().as_slice() {
        [id] => identifier(id),
        [domain, id] => {
            if !id.is_empty() {
                identifier(id);
            } else {
                errors.push(Error::invalid(at.clone(), "", "the name must not be empty"));
            }
            if domain.is_empty() {
                errors.push(Error::invalid(at.clone(), "", "the domain must not be empty"));
            } else {
                csi_driver_name(errors, at, domain);
            }
        }
        _ => {}
    }
}

/// `validateFullyQualifiedName`.
pub(super) fn fully_qualified(errors: &mut ErrorList, at: &Path, name: &str) {
    qualified(errors, at, name);
    if !name.contains('/') {
        let text = "a fully qualified name must be a domain and a name separated by a slash";
        errors.push(Error::invalid(at.clone(), name, text));
    }
}

/// `validateDeviceConfiguration`.
pub(super) fn configuration(errors: &mut ErrorList, at: &Path, config: &Value, stored: bool) {
    let (opaque, at) = (config.at("opaque"), at.child("opaque"));
    if !opaque.is_object() {
        errors.push(Error::required(at, ""));
        return;
    }
    raw(errors, &at.child("parameters"), opaque.at("parameters"), stored);
    driver(errors, &at.child("driver"), opaque.text("driver"));
}

/// `validateRawExtension`.
pub(super) fn raw(errors: &mut ErrorList, at: &Path, value: &Value, stored: bool) {
    match value {
        Value::Null => errors.push(Error::required(at.clone(), "")),
        value if !stored && value.to_string().len() > PARAMETER_BYTES_MAX => {
            errors.push(Error::too_long(at.clone(), PARAMETER_BYTES_MAX));
        }
        Value::Object(_) => {}
        _ => errors.push(Error::invalid(at.clone(), "<value omitted>", "must be a valid JSON object")),
    }
}

/// `validateSelectorSlice`.
pub(super) fn selectors(errors: &mut ErrorList, at: &Path, list: &[Value], stored: bool) {
    if !within(errors, at, list.len(), 32) {
        return;
    }
    for (i, selector) in list.iter().enumerate() {
        let (cel, at) = (selector.at("cel"), at.index(i).child("cel"));
        if cel.is_object() {
            if !stored {
                expression(errors, &at.child("expression"), cel.text("expression"));
            }
        } else {
            errors.push(Error::required(at, ""));
        }
    }
}

/// The environment of selectors: `device` (`k8s.io/dynamic-resource-allocation/cel`).
static DEVICE: LazyLock<Env> = LazyLock::new(|| {
    let by_id = |ty: Type| Type::Map(Arc::new(Type::String), Arc::new(ty));
    let fields = [
        ("driver", Type::String),
        ("attributes", by_id(by_id(Type::Any))),
        ("capacity", by_id(by_id(Type::Named("kubernetes.Quantity")))),
        ("allowMultipleAllocations", Type::Bool),
    ];
    let fields = fields.into_iter().map(|(name, ty)| (name.to_owned(), Decl::new(ty)));
    Env::new().declare("device", Decl::object("kubernetes.DRADevice", fields))
});

fn expression(errors: &mut ErrorList, at: &Path, source: &str) {
    if source.len() > EXPRESSION_BYTES_MAX {
        errors.push(Error::too_long(at.clone(), EXPRESSION_BYTES_MAX));
        return;
    }
    match DEVICE.compile(source, &[]) {
        Err(error) => errors.push(Error::invalid(at.clone(), source, api::cel::policy::describe(&error))),
        Ok(program) => match program.ty() {
            Type::Bool | Type::Any => {
                if program.estimate().max > EXPRESSION_COST_MAX {
                    errors.push(Error::forbidden(at.clone(), "too complex, exceeds cost limit"));
                }
            }
            other => {
                let text = format!("must evaluate to bool or the unknown type, not {other}");
                errors.push(Error::invalid(at.clone(), source, text));
            }
        },
    }
}

/// `validateDeviceTaint`; an effect that was there stays good.
pub(super) fn taint(errors: &mut ErrorList, at: &Path, taint: &Value, old: Option<&Value>) {
    let (key, value, effect) = (taint.text("key"), taint.text("value"), taint.text("effect"));
    invalid_all(errors, &at.child("key"), key, qualified_name(key));
    if !value.is_empty() {
        invalid_all(errors, &at.child("value"), value, label_value(value));
    }
    if old.is_some_and(|old| old.text("effect") == effect) {
        return;
    }
    if effect.is_empty() {
        errors.push(Error::required(at.child("effect"), ""));
    } else if !EFFECTS.contains(&effect) {
        errors.push(Error::not_supported(at.child("effect"), effect, EFFECTS));
    }
}

/// `validateDeviceToleration`.
pub(super) fn toleration(errors: &mut ErrorList, at: &Path, toleration: &Value) {
    let (key, value, effect) = (toleration.text("key"), toleration.text("value"), toleration.text("effect"));
    match toleration.text("operator") {
        "Exists" if value.is_empty() => {}
        "Exists" => errors.push(Error::invalid(at.child("value"), value, "must be empty for operator `Exists`")),
        "Equal" => invalid_all(errors, &at.child("value"), value, label_value(value)),
        "" => errors.push(Error::required(at.child("operator"), "")),
        other => errors.push(Error::not_supported(at.child("operator"), other, &["Equal", "Exists"])),
    }
    if !key.is_empty() {
        invalid_all(errors, &at.child("key"), key, qualified_name(key));
    }
    if !effect.is_empty() && !EFFECTS.contains(&effect) {
        errors.push(Error::not_supported(at.child("effect"), effect, EFFECTS));
    }
}

/// What declarative validation demands of a toleration (`Validate_DeviceToleration`).
pub(super) fn toleration_declared(errors: &mut ErrorList, at: &Path, toleration: &Value) {
    let (key, operator, effect) = (toleration.text("key"), toleration.text("operator"), toleration.text("effect"));
    if !key.is_empty() {
        invalid_all(errors, &at.child("key"), key, qualified_name(key));
    }
    match operator {
        "Exists" | "Equal" => {}
        "" => errors.push(Error::required(at.child("operator"), "")),
        other => errors.push(Error::not_supported(at.child("operator"), other, &["Equal", "Exists"])),
    }
    if !effect.is_empty() && !EFFECTS.contains(&effect) {
        errors.push(Error::not_supported(at.child("effect"), effect, EFFECTS));
    }
}

/// `validateDeviceBindingParameters`.
pub(super) fn binding(errors: &mut ErrorList, at: &Path, owner: &Value) {
    const GOOD: &str = "bindingConditions";
    const BAD: &str = "bindingFailureConditions";
    let texts = |member: &str| owner.list(member).iter().map(|v| v.as_str().unwrap_or_default()).collect::<Vec<_>>();
    let (good, bad) = (texts(GOOD), texts(BAD));
    for (member, list) in [(GOOD, &good), (BAD, &bad)] {
        let at = at.child(member);
        if within(errors, &at, list.len(), 4) {
            for (i, name) in list.iter().enumerate() {
                invalid_all(errors, &at.index(i), name, qualified_name(name));
            }
        }
    }
    unique(errors, &at.child(GOOD), &good);
    unique(errors, &at.child(BAD), &bad);
    for (i, name) in bad.iter().enumerate().filter(|(_, name)| good.contains(name)) {
        let text = "bindingFailureConditions must not overlap with bindingConditions";
        errors.push(Error::invalid(at.child(BAD).index(i), *name, text));
    }
    for (member, other, missing) in
        [(GOOD, BAD, good.is_empty() && !bad.is_empty()), (BAD, GOOD, bad.is_empty() && !good.is_empty())]
    {
        if missing {
            let text = format!("{member} are required to use {other}");
            errors.push(Error::invalid(at.child(member), owner.at(member).clone(), text));
        }
    }
}

/// `validateDeviceTaintRuleSpec`.
pub(super) fn taint_rule(spec: &Value, old: Option<&Value>) -> ErrorList {
    let mut errors = ErrorList::new();
    let (selector, at) = (spec.at("deviceSelector"), Path::new("spec").child("deviceSelector"));
    if let Some(name) = selector.at("driver").as_str() {
        csi_driver_name(&mut errors, &at.child("driver"), name);
    }
    if let Some(name) = selector.at("pool").as_str() {
        pool(&mut errors, &at.child("pool"), name);
    }
    if let Some(name) = selector.at("device").as_str() {
        label_name(&mut errors, &at.child("device"), name);
    }
    let before = old.map(|o| o.at("taint")).filter(|before| !same(before, &Value::Null));
    taint(&mut errors, &Path::new("spec").child("taint"), spec.at("taint"), before);
    errors
}
