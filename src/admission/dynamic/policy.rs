//! Policies and their bindings, compiled, and what the two kinds of policy have in common: which bindings are meant,
//! and their parameters (apiserver `admission/plugin/policy/generic`).

use std::sync::Arc;

use api::admission::Attributes;
use api::cel::{Env, Type, policy as names};
use api::selector::LabelSelector;
use api::services::{Authorizer, Kinds, Registry};
use api::{GroupVersion, Gvk, Gvr, Object, Status};
use serde_json::Value;

use super::expressions::{Condition, Expression, Variables};
use super::rules::{Criteria, Matched};
use crate::cluster::Cluster;

/// What the plugins that evaluate policies share.
#[derive(Clone)]
pub(crate) struct Evaluator {
    pub cluster: Cluster,
    pub kinds: Arc<dyn Kinds>,
    pub registry: Arc<dyn Registry>,
    pub authorizer: Arc<dyn Authorizer>,
    pub metrics: super::metrics::Metrics,
}

fn text<'v>(value: &'v Value, name: &str) -> &'v str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn member<'v>(value: &'v Value, name: &str) -> &'v Value {
    value.get(name).unwrap_or(&Value::Null)
}

fn items<'v>(value: &'v Value, name: &str) -> impl Iterator<Item = &'v Value> {
    value.get(name).and_then(Value::as_array).into_iter().flatten()
}

/// A policy of either kind.
#[derive(Debug)]
pub(crate) struct Policy {
    pub name: String,
    /// `None`: it has no constraints, which is a mistake.
    criteria: Option<Criteria>,
    /// Failures of the policy itself are ignored.
    pub fails_open: bool,
    /// `apiVersion` and `kind` of its parameters.
    param_kind: Option<(String, String)>,
    pub conditions: Vec<Condition>,
    pub variables: Variables,
    pub validations: Vec<Validation>,
    pub audit_annotations: Vec<(String, Expression)>,
    pub mutations: Vec<Mutation>,
    /// It runs again if a later one changes the object.
    pub reinvoke: bool,
}

#[derive(Debug)]
pub(crate) struct Validation {
    pub expression: Expression,
    pub message: String,
    pub message_expression: Option<Expression>,
    /// As given; empty if not.
    pub reason: String,
}

/// How an object is changed.
#[derive(Debug)]
pub(crate) enum Mutation {
    Apply(Expression),
    JsonPatch(Expression),
}

/// Compiles a policy of either kind.
pub(crate) fn compile(name: &str, object: &Value) -> Policy {
    let spec = member(object, "spec");
    let param_kind = member(spec, "paramKind");
    let param_kind = param_kind
        .is_object()
        .then(|| (text(param_kind, "apiVersion").to_owned(), text(param_kind, "kind").to_owned()));
    let params = param_kind.is_some();
    let declarations = names::Declarations { params, authorizer: true, mutations: false };
    let variables = Variables::new(spec, declarations);
    let types = variables.types();
    let env = names::env(declarations, &types);
    // Messages may not ask the authoriser.
    let message_env = names::env(names::Declarations { authorizer: false, ..declarations }, &types);
    let constraints = member(spec, "matchConstraints");
    Policy {
        name: name.to_owned(),
        criteria: constraints.is_object().then(|| Criteria::of_resources(constraints)),
        fails_open: text(spec, "failurePolicy") == "Ignore",
        param_kind,
        conditions: Condition::list(spec, params, &types),
        validations: items(spec, "validations").map(|v| validation(v, &env, &message_env)).collect(),
        audit_annotations: items(spec, "auditAnnotations")
            .map(|annotation| {
                let wanted = &[Type::String, Type::Null];
                let expression = Expression::new(&env, text(annotation, "valueExpression").trim(), wanted);
                (text(annotation, "key").to_owned(), expression)
            })
            .collect(),
        mutations: mutations(spec, declarations, &types),
        reinvoke: text(spec, "reinvocationPolicy") == "IfNeeded",
        variables,
    }
}

fn validation(validation: &Value, env: &Env, message_env: &Env) -> Validation {
    let message_expression = text(validation, "messageExpression");
    Validation {
        expression: Expression::new(env, text(validation, "expression"), &[Type::Bool]),
        message: text(validation, "message").trim().to_owned(),
        message_expression: (!message_expression.is_empty())
            .then(|| Expression::new(message_env, message_expression, &[Type::String])),
        reason: text(validation, "reason").to_owned(),
    }
}

fn mutations(spec: &Value, declarations: names::Declarations, types: &[(String, Type)]) -> Vec<Mutation> {
    let env = names::env(names::Declarations { mutations: true, ..declarations }, types);
    let expression = |mutation: &Value, name: &str, wanted: Type| {
        Expression::new(&env, text(member(mutation, name), "expression"), &[wanted])
    };
    items(spec, "mutations")
        .map(|mutation| match text(mutation, "patchType") {
            "JSONPatch" => Mutation::JsonPatch(expression(mutation, "jsonPatch", names::json_patch_type())),
            _ => Mutation::Apply(expression(mutation, "applyConfiguration", names::object_type())),
        })
        .collect()
}

/// A binding of either kind.
#[derive(Debug)]
pub(crate) struct Binding {
    pub name: String,
    pub policy: String,
    criteria: Option<Criteria>,
    /// `paramRef`, if there is one.
    params: Option<Value>,
    /// `validationActions`.
    pub actions: Vec<String>,
}

pub(crate) fn compile_binding(name: &str, object: &Value) -> Binding {
    let spec = member(object, "spec");
    let resources = member(spec, "matchResources");
    let params = member(spec, "paramRef");
    Binding {
        name: name.to_owned(),
        policy: text(spec, "policyName").to_owned(),
        criteria: resources.is_object().then(|| Criteria::of_resources(resources)),
        params: params.is_object().then(|| params.clone()),
        actions: items(spec, "validationActions").filter_map(Value::as_str).map(ToOwned::to_owned).collect(),
    }
}

/// A policy that is meant, by one of its bindings, with one of the binding's parameters.
pub(crate) struct Invocation<'p> {
    pub policy: &'p Policy,
    pub binding: &'p Binding,
    pub matched: Matched,
    pub params: Option<Object>,
}

/// A policy or binding that cannot be used.
pub(crate) struct Misconfigured<'p> {
    pub policy: &'p Policy,
    /// `None`: it is the policy's own fault.
    pub binding: Option<&'p Binding>,
    pub message: String,
    /// So many invocations come before it.
    pub before: usize,
}

impl Evaluator {
    /// What the request means to policies and bindings, of one source after the other: policies of files have bindings
    /// of files.
    pub(crate) async fn select<'p>(
        &self,
        policies: &'p [Vec<Arc<Policy>>],
        bindings: &'p [Vec<Arc<Binding>>],
        attributes: &Attributes,
    ) -> (Vec<Invocation<'p>>, Vec<Misconfigured<'p>>) {
        let (mut invocations, mut errors) = (Vec::new(), Vec::new());
        let mut sources = Vec::new();
        for (policies, bindings) in policies.iter().zip(bindings) {
            sources.extend(policies.iter().map(|policy| (policy, bindings)));
        }
        for (policy, bindings) in sources {
            let own: Vec<&Arc<Binding>> = bindings.iter().filter(|binding| binding.policy == policy.name).collect();
            if own.is_empty() {
                continue;
            }
            let matched = match &policy.criteria {
                None => Err(Status::internal("policy contained no match constraints, a required field")),
                Some(criteria) => criteria.matches(&self.cluster, &*self.kinds, attributes).await,
            };
            let matched = match matched {
                Ok(Some(matched)) => matched,
                Ok(None) => continue,
                Err(status) => {
                    let message = format!("failed to configure policy: {status}");
                    errors.push(Misconfigured { policy, binding: None, message, before: invocations.len() });
                    continue;
                }
            };
            for binding in own {
                match self.params_of(policy, binding, attributes).await {
                    Ok(None) => {}
                    Ok(Some(params)) => invocations.extend(params.into_iter().map(|params| Invocation {
                        policy,
                        binding,
                        matched: matched.clone(),
                        params,
                    })),
                    Err(why) => {
                        let message = format!("failed to configure binding: {why}");
                        let before = invocations.len();
                        errors.push(Misconfigured { policy, binding: Some(binding), message, before });
                    }
                }
            }
        }
        (invocations, errors)
    }

    /// The parameters of a binding that is meant; `None` if it is not.
    async fn params_of(
        &self,
        policy: &Policy,
        binding: &Binding,
        attributes: &Attributes,
    ) -> Result<Option<Vec<Option<Object>>>, String> {
        if let Some(criteria) = &binding.criteria {
            let matched = criteria.matches(&self.cluster, &*self.kinds, attributes).await;
            if matched.map_err(|status| status.message)?.is_none() {
                return Ok(None);
            }
        }
        let (Some((api_version, kind)), Some(reference)) = (&policy.param_kind, &binding.params) else {
            // Without the one the other says nothing.
            return Ok(Some(vec![None]));
        };
        self.collect(api_version, kind, reference, &attributes.namespace).await.map(Some)
    }

    /// `CollectParams`.
    async fn collect(
        &self,
        api_version: &str,
        kind: &str,
        reference: &Value,
        namespace: &str,
    ) -> Result<Vec<Option<Object>>, String> {
        let unknown = || format!("paramKind kind `&ParamKind{{APIVersion:{api_version},Kind:{kind},}}` not known");
        let version = GroupVersion::parse(api_version).ok_or_else(unknown)?;
        let served = self.kinds.kind(&Gvk::new(version.group, version.version, kind)).ok_or_else(unknown)?;
        let own_namespace = text(reference, "namespace");
        let namespace = match (served.namespaced, own_namespace.is_empty()) {
            (false, true) => "",
            (false, false) => {
                return Err("paramRef.namespace must not be provided for a cluster-scoped `paramKind`".to_owned());
            }
            (true, false) => own_namespace,
            (true, true) if namespace.is_empty() => {
                let why = "cannot use namespaced paramRef in policy binding that matches cluster-scoped resources";
                return Err(why.to_owned());
            }
            (true, true) => namespace,
        };
        let selector = member(reference, "selector");
        let name = text(reference, "name");
        let found = if !name.is_empty() {
            if selector.is_object() {
                return Err("paramRef.name and paramRef.selector are mutually exclusive".to_owned());
            }
            match self.registry.get(&served.resource, namespace, name).await {
                Ok(object) => vec![object],
                Err(status) if status.is_not_found() => Vec::new(),
                Err(status) => return Err(status.message),
            }
        } else if selector.is_object() {
            let selector = LabelSelector::from_object(selector).map_err(|e| e.to_string())?;
            let all = self.registry.list(&served.resource, namespace).await.map_err(|status| status.message)?;
            all.into_iter().filter(|object| selector.matches(|key| object.label(key))).collect()
        } else {
            return Err("one of name or selector must be provided".to_owned());
        };
        if found.is_empty() && text(reference, "parameterNotFoundAction") == "Deny" {
            return Err("no params found for policy binding with `Deny` parameterNotFoundAction".to_owned());
        }
        Ok(found
            .into_iter()
            .map(|mut object| {
                object.set_gvk(&served.gvk);
                Some(object)
            })
            .collect())
    }

    /// The namespace that the request is in; `None` for cluster-scoped objects and namespaces.
    pub(crate) async fn namespace(&self, attributes: &Attributes) -> Result<Option<Object>, Status> {
        let is_namespace = attributes.gvk == Gvk::new("", "v1", "Namespace");
        if attributes.namespace.is_empty() || is_namespace {
            return Ok(None);
        }
        self.registry.get(&Gvr::new("", "v1", "namespaces"), "", &attributes.namespace).await.map(Some)
    }
}
