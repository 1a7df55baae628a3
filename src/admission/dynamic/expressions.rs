//! The expressions of webhooks and policies over one request: their variables, match conditions, the authoriser's answers
//! (apiserver `admission/plugin/cel`, `admission/plugin/webhook/matchconditions`).

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use api::admission::Attributes;
use api::cel::{
    Authorize, Bindings, Budget, EvalError, Key, Lazy, MATCH_CONDITIONS_BUDGET, Program, Type, Value, policy,
};
use api::services::{AuthorizationAttributes, Authorizer, Decision};
use api::{Object, UserInfo};
use serde_json::Value as Json;

use super::review;
use super::rules::Matched;

/// A compiled expression, or why it does not compile.
#[derive(Debug)]
pub(crate) struct Expression {
    pub source: String,
    pub program: Result<Program, String>,
}

impl Expression {
    pub(crate) fn new(env: &api::cel::Env, source: &str, wanted: &[Type]) -> Self {
        Self { source: source.to_owned(), program: policy::compile(env, source, wanted) }
    }
}

/// A match condition.
#[derive(Debug)]
pub(crate) struct Condition {
    pub name: String,
    expression: Expression,
}

impl Condition {
    /// The `matchConditions` of a webhook or of a policy's spec.
    pub(crate) fn list(owner: &Json, params: bool, variables: &[(String, Type)]) -> Vec<Self> {
        let declarations = policy::Declarations { params, authorizer: true, mutations: false };
        let env = policy::env(declarations, variables);
        let conditions = owner.get("matchConditions").and_then(Json::as_array).into_iter().flatten();
        let text = |value: &Json, name: &str| value.get(name).and_then(Json::as_str).unwrap_or_default().to_owned();
        conditions
            .map(|condition| Self {
                name: text(condition, "name"),
                expression: Expression::new(&env, text(condition, "expression").trim(), &[Type::Bool]),
            })
            .collect()
    }
}

/// The variables that a policy defines.
#[derive(Debug, Default)]
pub(crate) struct Variables(pub Vec<(String, Expression)>);

impl Variables {
    /// Compiles `spec.variables`; each may use those before it.
    pub(crate) fn new(spec: &Json, declarations: policy::Declarations) -> Self {
        let mut all = Self::default();
        for variable in spec.get("variables").and_then(Json::as_array).into_iter().flatten() {
            let text = |name: &str| variable.get(name).and_then(Json::as_str).unwrap_or_default();
            let env = policy::env(declarations, &all.types());
            all.0.push((text("name").to_owned(), Expression::new(&env, text("expression"), &[])));
        }
        all
    }

    pub(crate) fn types(&self) -> Vec<(String, Type)> {
        let ty = |expression: &Expression| expression.program.as_ref().map_or(Type::Dyn, |p| p.ty().clone());
        self.0.iter().map(|(name, expression)| (name.clone(), ty(expression))).collect()
    }
}

/// What the authoriser has said while one request was looked at.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    known: Vec<(UserInfo, AuthorizationAttributes, Decision)>,
}

/// A question that [`Answers`] does not know.
pub(crate) type Question = (UserInfo, AuthorizationAttributes);

impl Answers {
    /// Runs `evaluate` until it has all the answers that it asks for.
    pub(crate) async fn complete<T>(&mut self, authorizer: &dyn Authorizer, evaluate: impl Fn(&Asked<'_>) -> T) -> T {
        loop {
            let asked = Asked { answers: self, missing: RefCell::new(None) };
            let result = evaluate(&asked);
            let Some((user, attributes)) = asked.missing.into_inner() else { return result };
            let decision = authorizer.authorize(&user, &attributes).await;
            self.known.push((user, attributes, decision));
        }
    }
}

/// The authoriser of one evaluation.
pub(crate) struct Asked<'a> {
    answers: &'a Answers,
    missing: RefCell<Option<Question>>,
}

impl Authorize for Asked<'_> {
    fn authorize(&self, user: &UserInfo, attributes: &AuthorizationAttributes) -> Option<Decision> {
        let found = self.answers.known.iter().find(|(u, a, _)| u == user && a == attributes);
        if found.is_none() {
            *self.missing.borrow_mut() = Some((user.clone(), attributes.clone()));
        }
        found.map(|(_, _, decision)| decision.clone())
    }
}

/// The values of the variables for one request.
pub(crate) struct Inputs {
    object: Value,
    old_object: Value,
    request: Value,
    namespace: Value,
    params: Option<Value>,
    authorizer: Value,
    request_resource: Value,
}

fn object_value(object: Option<&Object>) -> Value {
    object.map_or(Value::Null, |object| Value::from_members(&object.0))
}

impl Inputs {
    /// `object` and `old` are in the matched version.
    pub(crate) fn new(
        attributes: &Attributes,
        matched: &Matched,
        object: Option<&Object>,
        old: Option<&Object>,
    ) -> Self {
        let resource = AuthorizationAttributes {
            is_resource: true,
            group: matched.resource.group.clone(),
            version: "*".to_owned(),
            resource: matched.resource.resource.clone(),
            subresource: attributes.subresource.clone(),
            namespace: attributes.namespace.clone(),
            name: attributes.name.clone(),
            ..AuthorizationAttributes::default()
        };
        Self {
            object: object_value(object),
            old_object: object_value(old),
            request: Value::from_members(&review::request(attributes, matched)),
            namespace: Value::Null,
            params: None,
            authorizer: Value::authorizer(attributes.user.clone()),
            request_resource: Value::request_resource(attributes.user.clone(), resource),
        }
    }

    /// With the namespace that the request is in (`CreateNamespaceObject`).
    pub(crate) fn with_namespace(mut self, namespace: Option<&Object>) -> Self {
        if let Some(namespace) = namespace {
            let mut document = Json::Object(namespace.0.clone());
            if let Some(uid) = document.pointer("/metadata/uid").cloned() {
                document["metadata"]["UID"] = uid;
            }
            self.namespace = Value::from_json_typed(&document, policy::namespace_decl());
        }
        self
    }

    /// With a parameter; `None` is null.
    pub(crate) fn set_params(&mut self, params: Option<&Object>) {
        self.params = Some(object_value(params));
    }

    pub(crate) fn set_object(&mut self, object: Option<&Object>) {
        self.object = object_value(object);
    }

    fn bindings<'a>(&self, asked: &'a Asked<'_>) -> Bindings<'a> {
        Bindings::new()
            .set("object", self.object.clone())
            .set("oldObject", self.old_object.clone())
            .set("request", self.request.clone())
            .set("namespaceObject", self.namespace.clone())
            .set("params", self.params.clone().unwrap_or(Value::Null))
            .set("authorizer", self.authorizer.clone())
            .set(policy::REQUEST_RESOURCE, self.request_resource.clone())
            .with_authorizer(asked)
    }
}

/// How deep variables may be evaluated within each other before they are evaluated in their order instead: each takes
/// its own part of the stack.
const NESTING_MAX: u32 = 4;

/// Expressions over one request's inputs, with the policy's variables, each computed once.
pub(crate) struct Evaluation<'a> {
    bindings: Bindings<'a>,
    variables: &'a Variables,
    computed: RefCell<HashMap<String, Result<Value, EvalError>>>,
    nesting: Cell<u32>,
}

/// Why an expression has no value.
#[derive(Debug)]
pub(crate) enum Failure {
    /// With upstream's text.
    Expression(String),
    /// The budget of all expressions is spent: nothing more runs.
    Budget,
}

/// `ErrOutOfBudget`.
pub(crate) const OUT_OF_BUDGET: &str =
    "validation failed due to running out of cost budget, no further validation rules will be run";

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Expression(text) => f.write_str(text),
            Self::Budget => f.write_str(OUT_OF_BUDGET),
        }
    }
}

impl<'a> Evaluation<'a> {
    pub(crate) fn new(inputs: &Inputs, variables: &'a Variables, asked: &'a Asked<'_>) -> Self {
        Self {
            bindings: inputs.bindings(asked),
            variables,
            computed: RefCell::new(HashMap::new()),
            nesting: Cell::new(0),
        }
    }

    /// Evaluates an expression within a budget.
    pub(crate) fn run(&self, expression: &Expression, budget: &mut Budget) -> Result<Value, Failure> {
        let program = match &expression.program {
            Ok(program) => program,
            Err(why) => return Err(Failure::Expression(format!("compilation error: {why}"))),
        };
        let bindings = self.bindings.clone().with_lazy(self);
        let result = program.evaluate(&bindings, budget);
        if budget.exhausted {
            return Err(Failure::Budget);
        }
        result.map_err(|error| {
            Failure::Expression(format!("expression '{}' resulted in error: {error}", expression.source))
        })
    }

    fn compute(&self, name: &str) -> Option<(Result<Value, EvalError>, u64)> {
        let (_, expression) = self.variables.0.iter().find(|(known, _)| known == name)?;
        let program = match &expression.program {
            Ok(program) => program,
            Err(why) => {
                return Some((
                    Err(EvalError::Failed(format!("composited variable {name:?} fails to compile: {why}"))),
                    0,
                ));
            }
        };
        let mut cost = 0;
        if self.nesting.get() >= NESTING_MAX {
            cost += self.compute_before(name);
        }
        self.nesting.set(self.nesting.get() + 1);
        let mut budget = Budget::new(u64::MAX);
        let result = program.evaluate(&self.bindings.clone().with_lazy(self), &mut budget);
        self.nesting.set(self.nesting.get() - 1);
        let result = match result {
            Err(EvalError::Failed(why)) => {
                Err(EvalError::Failed(format!("composited variable {name:?} fails to evaluate: {why}")))
            }
            other => other,
        };
        Some((result, cost + budget.last))
    }

    /// Computes what a variable needs, in the order of definition, so that none of them has to compute another.
    fn compute_before(&self, name: &str) -> u64 {
        let mut needed = vec![false; self.variables.0.len()];
        let mut open = vec![name.to_owned()];
        while let Some(name) = open.pop() {
            let Some(at) = self.variables.0.iter().position(|(known, _)| *known == name) else { continue };
            if let Ok(program) = &self.variables.0[at].1.program {
                for field in program.fields_of("variables") {
                    let earlier = self.variables.0.iter().take(at).position(|(known, _)| *known == field);
                    if let Some(earlier) = earlier.filter(|earlier| !needed[*earlier]) {
                        needed[earlier] = true;
                        open.push(field);
                    }
                }
            }
        }
        let mut cost = 0;
        for (at, (name, _)) in self.variables.0.iter().enumerate() {
            if needed[at]
                && let Some(Ok((_, spent))) = self.get("variables", name)
            {
                cost += spent;
            }
        }
        cost
    }
}

impl Lazy for Evaluation<'_> {
    fn get(&self, name: &str, field: &str) -> Option<Result<(Value, u64), EvalError>> {
        if name != "variables" {
            return None;
        }
        if let Some(known) = self.computed.borrow().get(field) {
            return Some(known.clone().map(|value| (value, 0)));
        }
        let (result, cost) = self.compute(field)?;
        self.computed.borrow_mut().insert(field.to_owned(), result.clone());
        Some(result.map(|value| (value, cost)))
    }
}

/// The outcome of match conditions (`matcher.Match`).
pub(crate) enum Match {
    Yes,
    No,
    /// With the text of all errors; not with a failure policy of `Ignore`.
    Failed(String),
}

/// Whether all conditions hold. One that is false decides, whatever errors others have.
pub(crate) fn matches(
    conditions: &[Condition],
    inputs: &Inputs,
    variables: &Variables,
    asked: &Asked<'_>,
    fails_open: bool,
) -> Match {
    if conditions.is_empty() {
        return Match::Yes;
    }
    let evaluation = Evaluation::new(inputs, variables, asked);
    let mut budget = Budget::new(MATCH_CONDITIONS_BUDGET);
    let mut errors: Vec<String> = Vec::new();
    for condition in conditions {
        match evaluation.run(&condition.expression, &mut budget) {
            Ok(Value::Bool(false)) => return Match::No,
            Ok(Value::Bool(true)) => {}
            Ok(other) => errors.push(format!("condition {:?} is a {}", condition.name, other.type_name())),
            Err(Failure::Budget) => {
                errors = vec![OUT_OF_BUDGET.to_owned()];
                break;
            }
            Err(failure) => errors.push(failure.to_string()),
        }
    }
    match errors.as_slice() {
        [] => Match::Yes,
        _ if fails_open => Match::No,
        [one] => Match::Failed(one.clone()),
        many => Match::Failed(format!("[{}]", many.join(", "))),
    }
}

/// The member of an object that an expression made, as JSON.
pub(crate) fn member(value: &Value, name: &str) -> Option<Value> {
    match value {
        Value::Struct(made) => made.fields.get(name).cloned(),
        Value::Map(entries) => entries.get(&Key::String(name.into())).cloned(),
        _ => None,
    }
}
