//! The rules of a custom resource (apiextensions-apiserver `registry/customresource`).

use std::sync::Arc;

use api::custom::Definition;
use api::field::{Error, ErrorList, ErrorType, Path};
use api::kind::{RequestContext, Strategy};
use api::structural::{Structural, embedded, lists, values};
use api::{Gvk, Object};
use serde_json::Value;

use crate::checks::qualified_name;

/// Paths of the scale subresource as the CRD writes them; an empty selector path is none.
pub(super) struct Scale {
    pub spec_replicas: String,
    pub status_replicas: String,
    pub selector: String,
}

pub(super) struct CustomRules {
    gvk: Gvk,
    definition: Arc<Definition>,
    has_status: bool,
    scale: Option<Scale>,
}

impl CustomRules {
    pub fn new(gvk: Gvk, definition: Arc<Definition>, has_status: bool, scale: Option<Scale>) -> Self {
        Self { gvk, definition, has_status, scale }
    }

    fn schema(&self) -> Option<&Structural> {
        self.definition.structural(&self.gvk.version)
    }

    /// `ValidateTypeMeta`.
    fn type_meta(&self, object: &Object) -> ErrorList {
        let mut errors = ErrorList::new();
        let Gvk { kind, .. } = &self.gvk;
        if object.kind() != kind {
            errors.push(Error::invalid(Path::new("kind"), object.kind(), format!("must be {kind}")));
        }
        let version = self.gvk.api_version();
        if object.api_version() != version {
            errors.push(Error::invalid(Path::new("apiVersion"), object.api_version(), format!("must be {version}")));
        }
        errors
    }

    /// `ValidateScaleSpec`, `ValidateScaleStatus`.
    fn scale(&self, object: &Object, with_spec: bool) -> ErrorList {
        let mut errors = ErrorList::new();
        let Some(scale) = &self.scale else { return errors };
        let paths = [(with_spec, &scale.spec_replicas), (true, &scale.status_replicas)];
        for (_, path) in paths.into_iter().filter(|(wanted, _)| *wanted) {
            match nested(object, path) {
                Err(text) => errors.push(Error::invalid(Path::new(path), 0, text)),
                Ok(None) => {}
                Ok(Some(value)) => match value.as_i64() {
                    None => {
                        let text = accessor_error(path, value, "int64");
                        errors.push(Error::invalid(Path::new(path), 0, text));
                    }
                    Some(n) if n < 0 => {
                        errors.push(Error::invalid(Path::new(path), n, "should be a non-negative integer"));
                    }
                    Some(n) if n > i64::from(i32::MAX) => {
                        let text = format!("should be less than or equal to {}", i32::MAX);
                        errors.push(Error::invalid(Path::new(path), n, text));
                    }
                    Some(_) => {}
                },
            }
        }
        if !scale.selector.is_empty() {
            let path = &scale.selector;
            match nested(object, path) {
                Err(text) => errors.push(Error::invalid(Path::new(path), "", text)),
                Ok(Some(value)) if !value.is_string() => {
                    let text = accessor_error(path, value, "string");
                    errors.push(Error::invalid(Path::new(path), "", text));
                }
                Ok(_) => {}
            }
        }
        errors
    }

    /// `x-kubernetes-validations`, unless what was found already makes them meaningless (`hasBlockingErr`).
    fn rules(&self, ctx: &RequestContext<'_>, object: &Object, old: Option<&Value>, errors: &mut ErrorList) {
        use ErrorType::{NotSupported, Required, TooLong, TooMany, TypeInvalid};
        let Some(rules) = self.definition.rules(&self.gvk.version) else { return };
        let blocking = |e: &Error| matches!(e.kind, NotSupported | Required | TooLong | TooMany | TypeInvalid);
        let metadata = || {
            // Its names and namespaces are looked at before and are never missing here but for a name.
            let rule = |_: &str, _: bool| Vec::new();
            api::meta::validate_object_meta(object, !object.namespace().is_empty(), &rule, &Path::new("metadata"))
        };
        if errors.iter().any(blocking) || metadata().iter().any(blocking) {
            let text = "some validation rules were not checked because the object was invalid; correct the existing \
                        errors to complete validation";
            errors.push(Error::invalid(Path::default(), Value::Null, text));
        } else {
            let value = Value::Object(object.0.clone());
            let verdict = rules.validate(&value, old, true, &Path::default());
            if let Some(warn) = ctx.warn {
                verdict.forgiven.iter().for_each(|error| warn.warn(error.to_string()));
            }
            errors.extend(verdict.errors);
        }
    }

    fn list_types(&self, object: &Object) -> ErrorList {
        match self.schema() {
            Some(schema) => lists::validate(&Value::Object(object.0.clone()), schema),
            None => ErrorList::new(),
        }
    }
}

/// `NestedFieldNoCopy`'s error of a value that is not of the type it should be.
fn accessor_error(path: &str, value: &Value, expected: &str) -> String {
    let found = api::patch::go_value(value);
    format!("{path} accessor error: {found} is of the type {}, expected {expected}", go_type(value))
}

fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(n) if n.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

/// `NestedFieldNoCopy`: the value at a path such as `.spec.replicas`; the text of an error for something in the way.
fn nested<'o>(object: &'o Object, path: &str) -> Result<Option<&'o Value>, String> {
    let names: Vec<&str> = path.trim_start_matches('.').split('.').collect();
    let Some((first, rest)) = names.split_first() else { return Ok(None) };
    let Some(mut value) = object.0.get(*first) else { return Ok(None) };
    for (index, name) in rest.iter().enumerate() {
        let Value::Object(map) = value else {
            let so_far: Vec<String> = names.iter().take(index + 2).map(|n| format!(".{n}")).collect();
            return Err(accessor_error(&so_far.concat(), value, "map[string]interface{}"));
        };
        match map.get(*name) {
            Some(next) => value = next,
            None => return Ok(None),
        }
    }
    Ok(Some(value))
}

impl Strategy for CustomRules {
    fn prepare_for_status_update(&self, _ctx: &RequestContext<'_>, object: &mut Object, old: &Object) {
        // All but the status is as it was, the object's type too (`statusStrategy.PrepareForUpdate`).
        for member in ["apiVersion", "kind"] {
            if let Some(was) = old.get(&[member]) {
                object.set(&[member], was.clone());
            }
        }
    }

    fn validate(&self, ctx: &RequestContext<'_>, object: &Object) -> ErrorList {
        let mut errors = self.type_meta(object);
        if !errors.is_empty() {
            return errors;
        }
        let value = Value::Object(object.0.clone());
        if let Some(schema) = self.schema() {
            errors.extend(values::validate(&value, schema, &Path::default()));
        }
        errors.extend(self.scale(object, true));
        errors.extend(embedded::validate(&value, self.schema(), self.definition.meta()));
        errors.extend(self.list_types(object));
        self.rules(ctx, object, None, &mut errors);
        errors
    }

    fn validate_update(&self, ctx: &RequestContext<'_>, object: &Object, old: &Object) -> ErrorList {
        let mut errors = self.type_meta(object);
        if !errors.is_empty() {
            return errors;
        }
        let value = Value::Object(object.0.clone());
        let before = Value::Object(old.0.clone());
        if let Some(schema) = self.schema() {
            errors.extend(values::validate_update(&value, Some(&before), schema, &Path::default()));
        }
        errors.extend(self.scale(object, true));
        errors.extend(embedded::validate(&value, self.schema(), self.definition.meta()));
        if self.list_types(old).is_empty() {
            errors.extend(self.list_types(object));
        }
        self.rules(ctx, object, Some(&before), &mut errors);
        errors
    }

    fn validate_status_update(&self, ctx: &RequestContext<'_>, object: &Object, old: &Object) -> ErrorList {
        let mut errors = self.type_meta(object);
        if !errors.is_empty() || !self.has_status {
            return errors;
        }
        if let Some(status) = object.0.get("status")
            && let Some(schema) = self.schema().and_then(|s| s.property("status"))
        {
            let at = Path::new("status");
            errors.extend(values::validate_update(status, old.0.get("status"), schema, &at));
        }
        errors.extend(self.scale(object, false));
        let lists = self.list_types(object);
        if !lists.is_empty() && self.list_types(old).is_empty() {
            errors.extend(lists);
        }
        let before = Value::Object(old.0.clone());
        self.rules(ctx, object, Some(&before), &mut errors);
        errors
    }

    fn warnings(&self, object: &Object, old: Option<&Object>) -> Vec<String> {
        let mut added: Vec<&str> =
            object.finalizers().filter(|f| !old.is_some_and(|old| old.finalizers().any(|o| o == *f))).collect();
        added.sort_unstable();
        added.dedup();
        added.into_iter().flat_map(finalizer_warnings).collect()
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }
}

/// `validateKubeFinalizerName`.
fn finalizer_warnings(name: &str) -> Vec<String> {
    let mut all: Vec<String> =
        qualified_name(name).into_iter().map(|text| format!("metadata.finalizers: {name:?}: {text}")).collect();
    if !name.contains('/') && !matches!(name, "orphan" | "foregroundDeletion" | "kubernetes") {
        let including = if name.contains('.') { " including a path (/)" } else { "" };
        all.push(format!(
            "metadata.finalizers: {name:?}: prefer a domain-qualified finalizer name{including} to avoid accidental \
             conflicts with other finalizer writers"
        ));
    }
    all
}
