//! What admission policies and their bindings may say, and the match conditions of webhooks
//! (`pkg/apis/admissionregistration/validation`).

use std::collections::BTreeSet;

use api::Object;
use api::cel::policy::{self, Declarations};
use api::cel::{Env, Type};
use api::field::{Error, ErrorList, Path};
use api::validation::{dns1035_label, dns1123_subdomain, label_key, path_segment};
use serde_json::Value;

use crate::checks::{invalid_all, label_selector, one_of_if_set};
use crate::json::Json;

const CONDITIONS_MAX: usize = 64;
const ANNOTATIONS_MAX: usize = 20;
/// `maxAuditAnnotationValueExpressionLength`.
const ANNOTATION_EXPRESSION_MAX: usize = 5 * 1024;

/// Compiles an expression; a problem becomes an error of the field.
fn expression(errors: &mut ErrorList, at: &Path, env: &Env, source: &str, wanted: &[Type]) -> Option<Type> {
    match env.compile(source, wanted) {
        Ok(program) => Some(program.ty().clone()),
        Err(error) => {
            errors.push(Error::invalid(at.clone(), source, policy::describe(&error)));
            None
        }
    }
}

/// `validateMatchConditions`.
pub(super) fn match_conditions(errors: &mut ErrorList, at: &Path, conditions: &Value, params: bool) {
    let conditions = conditions.as_array().map_or(&[][..], Vec::as_slice);
    if conditions.is_empty() {
        return;
    }
    if conditions.len() > CONDITIONS_MAX {
        errors.push(Error::too_many(at.clone(), conditions.len(), CONDITIONS_MAX));
    }
    let env = policy::env(Declarations { params, authorizer: true, mutations: false }, &[]);
    let mut names = BTreeSet::new();
    for (i, condition) in conditions.iter().enumerate() {
        let at = at.index(i);
        match condition.text("expression").trim() {
            "" => errors.push(Error::required(at.child("expression"), "")),
            source => drop(expression(errors, &at.child("expression"), &env, source, &[Type::Bool])),
        }
        match condition.text("name") {
            "" => errors.push(Error::required(at.child("name"), "")),
            name => {
                invalid_all(errors, &at.child("name"), name, label_key(name));
                if !names.insert(name) {
                    errors.push(Error::duplicate(at.child("name"), name));
                }
            }
        }
    }
}

/// What policies of both kinds have.
struct Spec<'o> {
    spec: &'o Value,
    at: Path,
    declarations: Declarations,
    /// Those that were seen, in their order.
    variables: Vec<(String, Type)>,
}

impl<'o> Spec<'o> {
    fn new(object: &'o Object) -> Self {
        let spec = object.at("spec");
        let declarations = Declarations { params: spec.has("paramKind"), authorizer: true, mutations: false };
        Self { spec, at: Path::new("spec"), declarations, variables: Vec::new() }
    }

    fn env(&self, change: impl FnOnce(&mut Declarations)) -> Env {
        let mut declarations = self.declarations;
        change(&mut declarations);
        policy::env(declarations, &self.variables)
    }

    /// Everything before validations and mutations.
    fn head(&mut self, errors: &mut ErrorList, operations: Option<&[&str]>) {
        let (spec, at) = (self.spec, &self.at);
        if spec.has("failurePolicy") {
            one_of_if_set(errors, at.child("failurePolicy"), spec.at("failurePolicy"), &["Fail", "Ignore"]);
        } else {
            errors.push(Error::required(at.child("failurePolicy"), ""));
        }
        if spec.has("paramKind") {
            param_kind(errors, &at.child("paramKind"), spec.at("paramKind"));
        }
        let constraints = spec.at("matchConstraints");
        if constraints.is_object() {
            let at = at.child("matchConstraints");
            match_resources(errors, &at, constraints);
            if constraints.count("resourceRules") == 0 {
                errors.push(Error::required(at.child("resourceRules"), ""));
            }
            if let Some(supported) = operations {
                only_operations(errors, &at, constraints, supported);
            }
        } else {
            errors.push(Error::required(at.child("matchConstraints"), ""));
        }
        match_conditions(errors, &at.child("matchConditions"), spec.at("matchConditions"), self.declarations.params);
        if spec.count("variables") > 0 {
            // A policy with variables has an object of them from the first on, even if none is good: no field of it has
            // this name.
            self.variables.push((String::new(), Type::Dyn));
        }
        for (i, variable) in spec.list("variables").iter().enumerate() {
            let at = self.at.child("variables").index(i);
            let name = variable.text("name");
            if name.trim().is_empty() {
                errors.push(Error::required(at.child("name"), "name is not specified"));
            } else if !is_identifier(name) {
                errors.push(Error::invalid(at.child("name"), name, "must be a valid CEL identifier"));
            }
            let source = variable.text("expression");
            if source.trim().is_empty() {
                errors.push(Error::required(at.child("expression"), "expression is not specified"));
            } else {
                // One that does not compile may be anything to those that use it.
                let ty = expression(errors, &at.child("expression"), &self.env(|_| {}), source, &[]);
                self.variables.push((name.to_owned(), ty.unwrap_or(Type::Dyn)));
            }
        }
    }
}

/// `isCELIdentifier`.
fn is_identifier(name: &str) -> bool {
    let mut chars = name.chars();
    let first = chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
    let reserved = api::cel::escape(name).is_some_and(|escaped| escaped != name && !name.contains("__"));
    first && chars.all(|c| c.is_ascii_alphanumeric() || c == '_') && !reserved
}

fn param_kind(errors: &mut ErrorList, at: &Path, kind: &Value) {
    let version = kind.text("apiVersion");
    if version.is_empty() {
        errors.push(Error::required(at.child("apiVersion"), ""));
    } else {
        let at = at.child("apiVersion");
        match api::GroupVersion::parse(version) {
            None => {
                let text = format!("unexpected GroupVersion string: {version}");
                errors.push(Error::invalid(at, version, text));
            }
            Some(parsed) => {
                if !parsed.group.is_empty() {
                    let texts = dns1123_subdomain(&parsed.group, false);
                    if !texts.is_empty() {
                        errors.push(Error::invalid(at.clone(), parsed.group.as_str(), texts.join(",")));
                    }
                }
                let texts = dns1035_label(&parsed.version, false);
                if !texts.is_empty() {
                    errors.push(Error::invalid(at, parsed.version.as_str(), texts.join(",")));
                }
            }
        }
    }
    match kind.text("kind") {
        "" => errors.push(Error::required(at.child("kind"), "")),
        name => {
            let texts = dns1035_label(&name.to_lowercase(), false);
            if !texts.is_empty() {
                let text = format!("may have mixed case, but should otherwise match: {}", texts.join(","));
                errors.push(Error::invalid(at.child("kind"), name, text));
            }
        }
    }
}

/// `validateMatchResources`.
fn match_resources(errors: &mut ErrorList, at: &Path, resources: &Value) {
    if resources.has("matchPolicy") {
        one_of_if_set(errors, at.child("matchPolicy"), resources.at("matchPolicy"), &["Equivalent", "Exact"]);
    } else {
        errors.push(Error::required(at.child("matchPolicy"), ""));
    }
    for member in ["namespaceSelector", "objectSelector"] {
        if resources.has(member) {
            label_selector(errors, &at.child(member), resources.at(member));
        } else {
            errors.push(Error::required(at.child(member), ""));
        }
    }
    for list in ["resourceRules", "excludeResourceRules"] {
        for (i, rule) in resources.list(list).iter().enumerate() {
            let at = at.child(list).index(i);
            let mut names = BTreeSet::new();
            for (j, name) in rule.list("resourceNames").iter().enumerate() {
                let (at, name) = (at.child("resourceNames").index(j), name.as_str().unwrap_or_default());
                invalid_all(errors, &at, name, path_segment(name, false));
                if !names.insert(name) {
                    errors.push(Error::duplicate(at, name));
                }
            }
            super::webhooks::rule(errors, &at, rule);
        }
    }
}

/// Only creations and updates can be changed.
fn only_operations(errors: &mut ErrorList, at: &Path, resources: &Value, supported: &[&str]) {
    for rule in resources.list("resourceRules") {
        for operation in rule.list("operations").iter().filter_map(Value::as_str) {
            if !supported.contains(&operation) {
                let at = at.child("resourceRules").child("operations");
                errors.push(Error::not_supported(at, operation, supported));
            }
        }
    }
}

/// `validateValidatingAdmissionPolicySpec`.
pub(super) fn validating_policy(object: &Object) -> ErrorList {
    let mut errors = ErrorList::new();
    let mut spec = Spec::new(object);
    spec.head(&mut errors, None);
    let (validations, annotations) = (spec.spec.list("validations"), spec.spec.list("auditAnnotations"));
    if validations.is_empty() && annotations.is_empty() {
        let text = "validations or auditAnnotations must contain at least one item";
        errors.push(Error::required(spec.at.child("validations"), text));
        errors.push(Error::required(spec.at.child("auditAnnotations"), text));
        return errors;
    }
    let env = spec.env(|_| {});
    let message_env = spec.env(|declarations| declarations.authorizer = false);
    for (i, item) in validations.iter().enumerate() {
        validation(&mut errors, &spec.at.child("validations").index(i), item, &env, &message_env);
    }
    let at = spec.at.child("auditAnnotations");
    if annotations.len() > ANNOTATIONS_MAX {
        let text = format!("must not have more than {ANNOTATIONS_MAX} auditAnnotations");
        errors.push(Error::invalid(at.clone(), spec.spec.at("auditAnnotations").clone(), text));
    }
    let mut keys = BTreeSet::new();
    for (i, item) in annotations.iter().enumerate() {
        audit_annotation(&mut errors, &at.index(i), item, object.name(), &env);
        if !keys.insert(item.text("key")) {
            errors.push(Error::duplicate(at.index(i).child("key"), item.text("key")));
        }
    }
    errors
}

fn validation(errors: &mut ErrorList, at: &Path, item: &Value, env: &Env, message_env: &Env) {
    match item.text("expression") {
        source if source.trim().is_empty() => {
            errors.push(Error::required(at.child("expression"), "expression is not specified"));
        }
        source => drop(expression(errors, &at.child("expression"), env, source, &[Type::Bool])),
    }
    let message_expression = item.text("messageExpression");
    if !message_expression.is_empty() {
        let at = at.child("messageExpression");
        if message_expression.trim().is_empty() {
            errors.push(Error::invalid(at, message_expression, "must be non-empty if specified"));
        } else {
            expression(errors, &at, message_env, message_expression, &[Type::String]);
        }
    }
    let message = item.text("message");
    if !message.is_empty() {
        if message.trim().is_empty() {
            errors.push(Error::invalid(at.child("message"), message, "must be non-empty if specified"));
        } else if message.trim().contains(['\n', '\r']) {
            errors.push(Error::invalid(at.child("message"), message, "must not contain line breaks"));
        }
    }
    let reasons = &["Forbidden", "Invalid", "RequestEntityTooLarge"];
    one_of_if_set(errors, at.child("reason"), item.at("reason"), reasons);
}

fn audit_annotation(errors: &mut ErrorList, at: &Path, item: &Value, policy: &str, env: &Env) {
    let key = item.text("key");
    if policy.is_empty() {
        errors.push(Error::invalid(at.child("key"), key, "requires metadata.name be non-empty"));
    } else {
        let full = format!("{policy}/{key}");
        invalid_all(errors, &at.child("key"), &full, label_key(&full));
    }
    let at = at.child("valueExpression");
    match item.text("valueExpression").trim() {
        "" => errors.push(Error::required(at, "valueExpression is not specified")),
        source if source.len() > ANNOTATION_EXPRESSION_MAX => {
            let text = format!("must not exceed {ANNOTATION_EXPRESSION_MAX} bytes in length");
            errors.push(Error::required(at, text));
        }
        source => drop(expression(errors, &at, env, source, &[Type::String, Type::Null])),
    }
}

/// `validateMutatingAdmissionPolicySpec`.
pub(super) fn mutating_policy(object: &Object) -> ErrorList {
    let mut errors = ErrorList::new();
    let mut spec = Spec::new(object);
    spec.head(&mut errors, Some(&["*", "CONNECT", "CREATE", "UPDATE"]));
    let at = spec.at.child("mutations");
    let mutations = spec.spec.list("mutations");
    if mutations.is_empty() {
        errors.push(Error::required(at.clone(), "mutations must contain at least one item"));
    }
    let env = spec.env(|declarations| declarations.mutations = true);
    for (i, item) in mutations.iter().enumerate() {
        mutation(&mut errors, &at.index(i), item, &env);
    }
    let at = spec.at.child("reinvocationPolicy");
    if spec.spec.text("reinvocationPolicy").is_empty() {
        errors.push(Error::required(at, ""));
    } else {
        one_of_if_set(&mut errors, at, spec.spec.at("reinvocationPolicy"), &["IfNeeded", "Never"]);
    }
    errors
}

fn mutation(errors: &mut ErrorList, at: &Path, item: &Value, env: &Env) {
    let (kind, own, other, wanted) = match item.text("patchType") {
        "" => return errors.push(Error::required(at.child("patchType"), "")),
        "JSONPatch" => ("JSONPatch", "jsonPatch", "applyConfiguration", policy::json_patch_type()),
        "ApplyConfiguration" => ("ApplyConfiguration", "applyConfiguration", "jsonPatch", policy::object_type()),
        unknown => {
            let supported = &["ApplyConfiguration", "JSONPatch"];
            return errors.push(Error::not_supported(at.child("patchType"), unknown, supported));
        }
    };
    if !item.has(own) {
        errors.push(Error::required(at.child(own), format!("must be specified when patchType is {kind}")));
    } else {
        let at = at.child(own).child("expression");
        match item.at(own).text("expression").trim() {
            "" => errors.push(Error::required(at, "")),
            source => drop(expression(errors, &at, env, source, &[wanted])),
        }
    }
    if item.has(other) {
        let text = format!("must not be specified when patchType is {kind}");
        errors.push(Error::invalid(at.child(other), format!("{{{other}}}"), text));
    }
}

/// `validateValidatingAdmissionPolicyBindingSpec`.
pub(super) fn validating_binding(object: &Object) -> ErrorList {
    let mut errors = ErrorList::new();
    binding(&mut errors, object, None);
    let at = Path::new("spec").child("validationActions");
    let list = object.at("spec").at("validationActions");
    let mut actions = BTreeSet::new();
    for (i, action) in list.as_array().into_iter().flatten().enumerate() {
        one_of_if_set(&mut errors, at.index(i), action, &["Audit", "Deny", "Warn"]);
        let action = action.as_str().unwrap_or_default();
        if !actions.insert(action) {
            errors.push(Error::duplicate(at.index(i), action));
        }
    }
    if actions.contains("Deny") && actions.contains("Warn") {
        let text = "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)";
        errors.push(Error::invalid(at.clone(), list.clone(), text));
    }
    if actions.is_empty() {
        errors.push(Error::required(at, ""));
    }
    errors
}

/// `validateMutatingAdmissionPolicyBindingSpec`.
pub(super) fn mutating_binding(object: &Object) -> ErrorList {
    let mut errors = ErrorList::new();
    binding(&mut errors, object, Some(&["*", "CONNECT", "CREATE", "UPDATE"]));
    errors
}

fn binding(errors: &mut ErrorList, object: &Object, operations: Option<&[&str]>) {
    let (spec, at) = (object.at("spec"), Path::new("spec"));
    match spec.text("policyName") {
        "" => errors.push(Error::required(at.child("policyName"), "")),
        name => invalid_all(errors, &at.child("policyName"), name, dns1123_subdomain(name, false)),
    }
    if spec.has("paramRef") {
        param_ref(errors, &at.child("paramRef"), spec.at("paramRef"));
    }
    if spec.has("matchResources") {
        let at = at.child("matchResources");
        match_resources(errors, &at, spec.at("matchResources"));
        if let Some(supported) = operations {
            only_operations(errors, &at, spec.at("matchResources"), supported);
        }
    }
}

/// `validateParamRef`.
fn param_ref(errors: &mut ErrorList, at: &Path, reference: &Value) {
    let (name, has_selector) = (reference.text("name"), reference.has("selector"));
    let exclusive = "name and selector are mutually exclusive";
    if !name.is_empty() {
        invalid_all(errors, &at.child("name"), name, path_segment(name, false));
        if has_selector {
            errors.push(Error::forbidden(at.child("name"), exclusive));
        }
    }
    if has_selector {
        label_selector(errors, &at.child("selector"), reference.at("selector"));
        if !name.is_empty() {
            errors.push(Error::forbidden(at.child("selector"), exclusive));
        }
    }
    if name.is_empty() && !has_selector {
        errors.push(Error::required(at.clone(), "one of name or selector must be specified"));
    }
    let at = at.child("parameterNotFoundAction");
    match reference.text("parameterNotFoundAction") {
        "" => errors.push(Error::required(at, "")),
        "Deny" | "Allow" => {}
        other => errors.push(Error::not_supported(at, other, &["Deny", "Allow"])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn policy(patch: Value) -> Object {
        let mut spec = json!({
            "failurePolicy": "Fail",
            "matchConstraints": {
                "matchPolicy": "Equivalent", "namespaceSelector": {}, "objectSelector": {},
                "resourceRules": [{"operations": ["CREATE"], "apiGroups": ["apps"], "apiVersions": ["v1"],
                    "resources": ["deployments"], "scope": "*"}],
            },
        });
        for (key, value) in patch.as_object().into_iter().flatten() {
            spec[key] = value.clone();
        }
        Object::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).expect("an object")
    }

    fn check(errors: &ErrorList, want: &[&str]) {
        let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(texts.len(), want.len(), "{texts:?}");
        for (text, want) in texts.iter().zip(want) {
            assert!(text.contains(want), "{text}");
        }
    }

    #[test]
    fn expressions_of_policies_must_compile() {
        let of = |patch: Value| validating_policy(&policy(patch));
        check(&of(json!({"validations": [{"expression": "object.spec.replicas < 5"}]})), &[]);
        check(
            &of(json!({
                "variables": [{"name": "foo", "expression": "object.spec"}],
                "validations": [{"expression": "variables.foo.replicas < 5 && params == null"}],
            })),
            &["undeclared reference to 'params'"],
        );
        check(
            &of(json!({"validations": [{"expression": "object.x + 'a'"}, {"expression": "variables.y"}]})),
            &["must evaluate to bool but got string", "undeclared reference to 'variables'"],
        );
        check(
            &of(json!({"validations": [{"expression": "1", "messageExpression": "authorizer.path('/x')"}]})),
            &["must evaluate to bool but got int", "undeclared reference to 'authorizer'"],
        );
        check(&of(json!({})), &["spec.validations: Required value", "spec.auditAnnotations: Required value"]);
    }

    #[test]
    fn mutations_make_objects_or_patches() {
        let of =
            |mutation: Value| mutating_policy(&policy(json!({"reinvocationPolicy": "Never", "mutations": [mutation]})));
        let apply =
            |source: &str| json!({"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": source}});
        check(&of(apply("Object{spec: Object.spec{replicas: object.spec.replicas + 1}}")), &[]);
        check(&of(apply("object")), &["must evaluate to Object but got dyn"]);
        check(&of(apply("{'a': 1}")), &["must evaluate to Object but got map(string, int)"]);
        let patch = |source: &str| json!({"patchType": "JSONPatch", "jsonPatch": {"expression": source}});
        check(&of(patch("[JSONPatch{op: 'add', path: '/a', value: 1}]")), &[]);
        check(&of(patch("[JSONPatch{operation: 'add'}]")), &["undefined field 'operation'"]);
        check(&of(json!({"patchType": "JSONPatch"})), &["must be specified when patchType is JSONPatch"]);
    }
}
