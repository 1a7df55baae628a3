//! The rules of `x-kubernetes-validations`: compiling them, and holding objects against them (apiextensions-apiserver
//! `schema/cel/compilation.go`, `schema/cel/validation.go`).

use std::sync::Arc;

use serde_json::Value;

use super::{ListKind, Rule, Structural};
use crate::cel::{self, Bindings, Budget, CompileError, Decl, Env, EvalError, Program, Stage, Type};
use crate::field::{Error, ErrorList, ErrorType, Path};

/// The longest message that an expression may make, in bytes.
const MESSAGE_BYTES_MAX: usize = 5 * 1024;
const OUT_OF_BUDGET: &str =
    "validation failed due to running out of cost budget, no further validation rules will be run";

/// A rule with its programs.
pub struct Compiled {
    pub rule: Rule,
    /// The text of the problem where it does not compile.
    pub program: Result<Program, String>,
    pub message: Option<Result<Program, String>>,
    pub uses_old: bool,
    /// The steps of `fieldPath`, and whether each is the key of a map.
    path: Vec<(String, bool)>,
}

impl Compiled {
    /// Compiles a rule at a schema that is declared as `decl`.
    pub fn new(rule: &Rule, decl: &Decl, path: Vec<(String, bool)>) -> Self {
        let old = match rule.optional_old_self {
            Some(true) => Decl::new(Type::Optional(Arc::new(decl.ty.clone()))),
            _ => decl.clone(),
        };
        let env = Env::new().declare("self", decl.clone()).declare("oldSelf", old);
        let fail = |error: CompileError, message: bool| match (error.stage, message) {
            (Stage::Check, false) => format!("compilation failed: {}", error.text()),
            (Stage::Check, true) => format!("messageExpression compilation failed: {}", error.text()),
            (Stage::Result, false) => "cel expression must evaluate to a bool".to_owned(),
            (Stage::Result, true) => "messageExpression must evaluate to a string".to_owned(),
            (Stage::Program, false) => format!("program instantiation failed: {}", error.text()),
            (Stage::Program, true) => format!("messageExpression instantiation failed: {}", error.text()),
        };
        let program = env.compile(&rule.rule, &[Type::Bool]).map_err(|error| fail(error, false));
        let message = (!rule.message_expression.is_empty())
            .then(|| env.compile(&rule.message_expression, &[Type::String]).map_err(|error| fail(error, true)));
        let uses_old = program.as_ref().is_ok_and(|p| p.uses("oldSelf"));
        Self { rule: rule.clone(), program, message, uses_old, path }
    }
}

/// The compiled rules of a schema and of those below it.
pub struct Rules {
    decl: Option<Decl>,
    compiled: Vec<Compiled>,
    /// `type` of the schema, which stands for values in some errors.
    ty: &'static str,
    list_map: bool,
    list_map_keys: Box<[Box<str>]>,
    properties: Vec<(Box<str>, Rules)>,
    items: Option<Box<Rules>>,
    additional: Option<Box<Rules>>,
}

/// A value and the one before it in the same place, for ratcheting.
#[derive(Clone, Copy)]
struct Pair<'a> {
    new: &'a Value,
    old: &'a Value,
}

#[derive(Clone, Copy, Default)]
struct Ratchet<'a> {
    current: Option<Pair<'a>>,
    parent: Option<Pair<'a>>,
}

impl<'a> Ratchet<'a> {
    /// Whether what is wrong was so before: nothing has changed here, or above where nobody can tell.
    fn forgives(&self) -> bool {
        self.current.or(self.parent).is_some_and(|pair| pair.new == pair.old)
    }

    fn key(self, name: &str) -> Self {
        let Some(current) = self.current else { return self };
        if self.parent.is_none() && matches!(name, "apiVersion" | "kind") {
            return Self::default();
        }
        let pair = || Some(Pair { new: current.new.get(name)?, old: current.old.get(name)? });
        Self { current: pair(), parent: Some(current) }
    }

    fn index(self, new: &'a Value, old: Option<&'a Value>) -> Self {
        let Some(current) = self.current else { return self };
        Self { current: old.map(|old| Pair { new, old }), parent: Some(current) }
    }
}

impl Rules {
    /// Compiles the rules of a schema; `None` if there are none. `json` is the schema as it was written.
    pub fn compile(schema: &Structural, json: &Value, root: bool) -> Option<Self> {
        if !schema.any(&|s| !s.rules.is_empty()) {
            return None;
        }
        let root = root || schema.embedded;
        let decl = if schema.rules.is_empty() { None } else { Decl::from_json_schema(json, root) };
        let compiled = match &decl {
            Some(decl) => {
                let path = |rule: &Rule| match field_path(schema, &rule.field_path, true) {
                    Ok((names, _)) => steps(schema, names),
                    Err(_) => Vec::new(),
                };
                // A rule that says nothing is refused elsewhere.
                let rules = schema.rules.iter().filter(|rule| !rule.rule.is_empty());
                rules.map(|rule| Compiled::new(rule, decl, path(rule))).collect()
            }
            None => Vec::new(),
        };
        let nested = |schema: &Structural, json: &Value| Self::compile(schema, json, false);
        let properties = schema
            .properties
            .iter()
            .filter_map(|(name, property)| Some((name.clone(), nested(property, &json["properties"][&**name])?)))
            .collect();
        Some(Self {
            decl,
            compiled,
            ty: schema.ty.as_str(),
            list_map: schema.list == Some(ListKind::Map),
            list_map_keys: schema.list_map_keys.clone(),
            properties,
            items: schema.items.as_ref().and_then(|items| nested(items, &json["items"])).map(Box::new),
            additional: schema
                .additional_schema()
                .and_then(|inner| nested(inner, &json["additionalProperties"]))
                .map(Box::new),
        })
    }

    /// What rules say against a value. `old` is the value before; with `ratchet`, what was wrong before and has not
    /// changed is forgiven.
    pub fn validate(&self, value: &Value, old: Option<&Value>, ratchet: bool, path: &Path) -> Verdict {
        let mut walk = Walk {
            errors: ErrorList::new(),
            forgiven: ErrorList::new(),
            budget: Budget::new(cel::RUNTIME_BUDGET),
            ended: false,
        };
        let current = old.filter(|_| ratchet).map(|old| Pair { new: value, old });
        walk.node(self, value, old, Ratchet { current, parent: None }, path);
        Verdict { errors: walk.errors, forgiven: walk.forgiven }
    }
}

/// What rules say against a value.
#[derive(Debug, Default)]
pub struct Verdict {
    pub errors: ErrorList,
    /// What was wrong before and has not changed.
    pub forgiven: ErrorList,
}

struct Walk {
    errors: ErrorList,
    forgiven: ErrorList,
    budget: Budget,
    /// No rule is run any more.
    ended: bool,
}

impl Walk {
    fn node(&mut self, rules: &Rules, value: &Value, old: Option<&Value>, ratchet: Ratchet<'_>, path: &Path) {
        if self.ended || value.is_null() {
            return;
        }
        self.expressions(rules, value, old.filter(|o| !o.is_null()), ratchet, path);
        match value {
            Value::Object(map) => {
                for (name, value) in map {
                    if self.ended {
                        return;
                    }
                    let old = old.and_then(|old| old.get(name));
                    if let Some(additional) = &rules.additional {
                        self.node(additional, value, old, ratchet.key(name), &path.key(name));
                    }
                    if let Some((_, property)) = rules.properties.iter().find(|(n, _)| **n == **name) {
                        self.node(property, value, old, ratchet.key(name), &path.child(name));
                    }
                }
            }
            Value::Array(items) => {
                let Some(inner) = &rules.items else { return };
                for (index, item) in items.iter().enumerate() {
                    let before = old.and_then(Value::as_array).filter(|_| rules.list_map).and_then(|old| {
                        old.iter().find(|o| rules.list_map_keys.iter().all(|k| o.get(&**k) == item.get(&**k)))
                    });
                    self.node(inner, item, before, ratchet.index(item, before), &path.index(index));
                }
            }
            _ => {}
        }
    }

    fn end(&mut self, error: Error) {
        self.errors.push(error);
        self.ended = true;
    }

    /// `validateExpressions`.
    fn expressions(&mut self, rules: &Rules, value: &Value, old: Option<&Value>, ratchet: Ratchet<'_>, path: &Path) {
        let Some(decl) = rules.decl.as_ref().filter(|_| !rules.compiled.is_empty()) else { return };
        if self.budget.remaining == 0 {
            return self.end(Error::invalid(path.clone(), rules.ty, OUT_OF_BUDGET));
        }
        let this = cel::Value::from_json_typed(value, decl);
        let before = old.map(|old| cel::Value::from_json_typed(old, decl));
        for compiled in &rules.compiled {
            let rule = &compiled.rule;
            let program = match &compiled.program {
                Ok(program) => program,
                Err(text) => {
                    let text = format!("rule compile error: {text}");
                    self.errors.push(Error::invalid(path.clone(), rules.ty, text));
                    continue;
                }
            };
            let optional = rule.optional_old_self == Some(true);
            if compiled.uses_old && before.is_none() && !optional {
                continue;
            }
            let mut bindings = Bindings::new().set("self", this.clone());
            if optional {
                bindings = bindings.set("oldSelf", cel::Value::Optional(before.clone().map(Arc::new)));
            } else if let Some(before) = &before {
                bindings = bindings.set("oldSelf", before.clone());
            }
            let shown = if rule.message.is_empty() { rule.rule.trim() } else { rule.message.trim() };
            let result = program.evaluate(&bindings, &mut self.budget);
            if self.budget.exhausted {
                return self.end(Error::invalid(path.clone(), rules.ty, OUT_OF_BUDGET));
            }
            match result {
                Ok(cel::Value::Bool(true)) => continue,
                Ok(_) => {}
                Err(EvalError::CostLimit) => {
                    let text = format!(
                        "'{}': no further validation rules will be run due to call cost exceeds limit for rule: {shown}",
                        EvalError::CostLimit
                    );
                    return self.end(Error::invalid(path.clone(), rules.ty, text));
                }
                Err(error) => {
                    let text = error.to_string();
                    let text = if text.starts_with("no such overload") {
                        format!(
                            "'{text}': call arguments did not match a supported operator, function or macro signature \
                             for rule: {shown}"
                        )
                    } else {
                        format!("{text} evaluating rule: {shown}")
                    };
                    self.errors.push(Error::invalid(path.clone(), rules.ty, text));
                    continue;
                }
            }
            let step = |path: Path, (name, key): &(String, bool)| if *key { path.key(name) } else { path.child(name) };
            let at = compiled.path.iter().fold(path.clone(), step);
            let forgiven = !compiled.uses_old && ratchet.forgives();
            let detail = match &compiled.message {
                Some(Ok(message)) => match self.message(message, rule, &bindings) {
                    Ok(detail) => detail,
                    Err(text) => {
                        let list = if forgiven { &mut self.forgiven } else { &mut self.errors };
                        list.push(Error::invalid(at, rules.ty, text));
                        self.ended = true;
                        return;
                    }
                },
                _ => None,
            };
            let detail = detail.unwrap_or_else(|| match rule.message.trim() {
                "" => format!("failed rule: {shown}"),
                message => message.to_owned(),
            });
            let list = if forgiven { &mut self.forgiven } else { &mut self.errors };
            list.push(error_for(rule, at, value, detail));
        }
    }

    /// `evalMessageExpression`: `None` where the rule's own message must do.
    fn message(&mut self, program: &Program, rule: &Rule, bindings: &Bindings<'_>) -> Result<Option<String>, String> {
        let result = program.evaluate(bindings, &mut self.budget);
        if self.budget.exhausted {
            let text = "messageExpression evaluation failed due to running out of cost budget, no further validation \
                        rules will be run";
            return Err(text.to_owned());
        }
        match result {
            Err(EvalError::CostLimit) => Err(format!(
                "no further validation rules will be run due to call cost exceeds limit for messageExpression: {:?}",
                rule.message_expression
            )),
            Ok(cel::Value::String(text)) => {
                let text = text.trim();
                let good = !text.is_empty() && text.len() <= MESSAGE_BYTES_MAX && !text.contains('\n');
                Ok(good.then(|| text.to_owned()))
            }
            Ok(_) | Err(_) => Ok(None),
        }
    }
}

/// `fieldErrorForReason`. Objects and lists are not shown.
fn error_for(rule: &Rule, path: Path, value: &Value, detail: String) -> Error {
    let shown = (!value.is_object() && !value.is_array()).then(|| value.clone());
    let kind = match rule.reason.as_str() {
        "FieldValueForbidden" => return Error::forbidden(path, detail),
        "FieldValueRequired" => return Error::required(path, detail),
        "FieldValueDuplicate" => {
            return Error { kind: ErrorType::Duplicate, path, value: shown, shown: None, detail: String::new() };
        }
        _ => ErrorType::Invalid,
    };
    Error { kind, path, value: shown, shown: None, detail }
}

/// The names of a good path, and whether each is the key of a map.
fn steps(mut schema: &Structural, names: Vec<String>) -> Vec<(String, bool)> {
    let mut steps = Vec::with_capacity(names.len());
    for name in names {
        let key = schema.properties.is_empty();
        let Some(next) = (if key { schema.additional_schema() } else { schema.property(&name) }) else { break };
        schema = next;
        steps.push((name, key));
    }
    steps
}

/// `cel.ValidFieldPath`: the names of a path such as `.spec.a` or `['a.b']`, and the schema there.
///
/// # Errors
/// Upstream's text.
pub fn field_path<'s>(
    schema: &'s Structural,
    path: &str,
    arrays: bool,
) -> Result<(Vec<String>, &'s Structural), String> {
    let (mut schema, mut names, mut rest) = (schema, Vec::new(), path);
    let end = || "unexpected end of JSON path".to_owned();
    while !rest.is_empty() {
        let name;
        if let Some(inner) = rest.strip_prefix('[') {
            if !arrays {
                return Err("array notation is not allowed".to_owned());
            }
            if inner.is_empty() {
                return Err(end());
            }
            let quoted = inner.strip_prefix('\'').and_then(|q| {
                let close = q.char_indices().find(|(i, c)| *c == '\'' && !q[..*i].ends_with('\\'))?.0;
                Some((&q[..close], &q[close + 1..]))
            });
            let Some((text, after)) = quoted else {
                let token = inner.split(['.', '[', ']']).next().unwrap_or_default();
                return Err(format!("expected single quoted string but got {token}"));
            };
            name = text.replace("\\'", "'").replace("\\\\", "\\");
            rest = match after.strip_prefix(']') {
                Some(after) => after,
                None if after.is_empty() => return Err(end()),
                None => return Err(format!("expected ] but got {after}")),
            };
        } else if let Some(inner) = rest.strip_prefix('.') {
            let length = inner.find(['.', '[', ']']).unwrap_or(inner.len());
            if inner.is_empty() {
                return Err(end());
            }
            name = inner[..length].to_owned();
            rest = &inner[length..];
        } else {
            let token = rest.split(['.', '[', ']']).next().unwrap_or_default();
            return Err(format!("expected [ or . but got: {token}"));
        }
        let next = if schema.properties.is_empty() { schema.additional_schema() } else { schema.property(&name) };
        schema = next.ok_or("does not refer to a valid field")?;
        names.push(name);
    }
    Ok((names, schema))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(schema: Value, value: Value, old: Option<Value>, want: &[&str]) {
        let rules = Rules::compile(&Structural::parse(&schema), &schema, true).unwrap();
        let found = rules.validate(&value, old.as_ref(), true, &Path::default()).errors;
        let found: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert_eq!(found, want);
    }

    fn spec(rules: Value) -> Value {
        json!({"type": "object", "properties": {"spec": {"type": "object", "x-kubernetes-validations": rules,
            "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}, "s": {"type": "string"}}}}})
    }

    #[test]
    fn rules_are_told_in_upstreams_words() {
        let plain = spec(json!([{"rule": "self.a <= self.b"}]));
        check(plain.clone(), json!({"spec": {"a": 1, "b": 2}}), None, &[]);
        let want = "spec: Invalid value: failed rule: self.a <= self.b";
        check(plain.clone(), json!({"spec": {"a": 3, "b": 2}}), None, &[want]);
        let missing = "spec: Invalid value: \"object\": no such key: b evaluating rule: self.a <= self.b";
        check(plain, json!({"spec": {"a": 3}}), None, &[missing]);
        let rich = spec(json!([{"rule": "self.a < 3", "messageExpression": "'a is ' + string(self.a)",
            "reason": "FieldValueForbidden", "fieldPath": ".a"}]));
        check(rich, json!({"spec": {"a": 3}}), None, &["spec.a: Forbidden: a is 3"]);
    }

    #[test]
    fn transition_rules_see_what_was_before() {
        let rule = spec(json!([{"rule": "self.a >= oldSelf.a", "message": "may not shrink"}]));
        check(rule.clone(), json!({"spec": {"a": 1}}), None, &[]);
        let old = || Some(json!({"spec": {"a": 2}}));
        check(rule, json!({"spec": {"a": 1}}), old(), &["spec: Invalid value: may not shrink"]);
        let optional = spec(json!([{"rule": "oldSelf.hasValue() || self.a == 0", "message": "begins at 0",
            "optionalOldSelf": true}]));
        check(optional.clone(), json!({"spec": {"a": 1}}), None, &["spec: Invalid value: begins at 0"]);
        check(optional, json!({"spec": {"a": 1}}), old(), &[]);
    }

    #[test]
    fn what_was_wrong_before_is_forgiven() {
        let rule = spec(json!([{"rule": "self.a < 3", "message": "too much"}]));
        let old = || Some(json!({"spec": {"a": 9}}));
        check(rule.clone(), json!({"spec": {"a": 9}, "x": 1}), old(), &[]);
        check(rule, json!({"spec": {"a": 8}}), old(), &["spec: Invalid value: too much"]);
    }
}
