//! Access that a webhook decides (`plugin/pkg/authorizer/webhook/webhook.go`).

use std::sync::Arc;
use std::time::Duration;

use api::UserInfo;
use api::cel::{Bindings, Budget, Decl, Env, Program, Type, Value as Cel};
use api::selector::{FieldSelector, LabelSelector};
use api::services::{AuthorizationAttributes, Authorizer, Decision};
use async_trait::async_trait;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{AskError, Believed, ask};
use crate::remote::Remote;

/// Questions whose texts are longer together are not kept (`maxControlledAttrCacheSize`).
const KEPT_TEXT_MAX: usize = 10_000;
const CACHE_MAX: usize = 8192;

/// What is answered for a webhook that gives no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnError {
    NoOpinion,
    Deny,
}

/// How a webhook is asked.
#[derive(Debug, Clone)]
pub struct AccessOptions {
    /// In logs.
    pub name: String,
    /// The version of `SubjectAccessReview`.
    pub version: String,
    /// How long answers are believed; zero: they are not.
    pub allowed_ttl: Duration,
    pub refused_ttl: Duration,
    pub timeout: Duration,
    pub on_error: OnError,
}

/// Asks a webhook with `SubjectAccessReview`s.
pub struct AccessWebhook {
    remote: Arc<Remote>,
    options: AccessOptions,
    conditions: Vec<Program>,
    believed: Believed<String, Answered>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Answered {
    allowed: bool,
    denied: bool,
    reason: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Answer {
    status: Answered,
}

impl AccessWebhook {
    /// `conditions` are from [`compile`].
    pub fn new(remote: Remote, options: AccessOptions, conditions: Vec<Program>) -> Self {
        Self { remote: Arc::new(remote), options, conditions, believed: Believed::new(CACHE_MAX) }
    }

    fn on_error(&self) -> Decision {
        let reason = String::new();
        match self.options.on_error {
            OnError::NoOpinion => Decision::NoOpinion { reason },
            OnError::Deny => Decision::Deny { reason },
        }
    }

    async fn answer(&self, spec: &Value, request: &AuthorizationAttributes) -> Result<Answered, AskError> {
        let key = spec.to_string();
        if let Some(known) = self.believed.get(&key) {
            return Ok(known);
        }
        let review = json!({
            "kind": "SubjectAccessReview", "apiVersion": format!("authorization.k8s.io/{}", self.options.version),
            "metadata": {}, "spec": spec, "status": {"allowed": false},
        });
        let Answer { status } = serde_json::from_value(ask(&self.remote, &review, self.options.timeout).await?)?;
        let text = [&request.namespace, &request.verb, &request.group, &request.version, &request.resource]
            .into_iter()
            .chain([&request.subresource, &request.name, &request.path])
            .map(String::len)
            .sum::<usize>();
        if text < KEPT_TEXT_MAX {
            let ttl = if status.allowed { self.options.allowed_ttl } else { self.options.refused_ttl };
            self.believed.put(key, status.clone(), ttl);
        }
        Ok(status)
    }
}

#[async_trait]
impl Authorizer for AccessWebhook {
    async fn authorize(&self, user: &UserInfo, attributes: &AuthorizationAttributes) -> Decision {
        self.authorize_or_fail(user, attributes).await.0
    }

    async fn authorize_or_fail(
        &self,
        user: &UserInfo,
        attributes: &AuthorizationAttributes,
    ) -> (Decision, Option<String>) {
        let spec = spec(user, attributes, &self.options.version);
        match matches(&self.conditions, &spec) {
            Ok(true) => {}
            Ok(false) => return (Decision::NoOpinion { reason: String::new() }, None),
            Err(why) => return (self.on_error(), Some(why)),
        }
        let Answered { allowed, denied, reason } = match self.answer(&spec, attributes).await {
            Ok(answered) => answered,
            Err(error) => {
                let text = base::chain(&error).to_string();
                tracing::error!(webhook = self.options.name, error = text, "an authorisation webhook failed");
                return (self.on_error(), Some(text));
            }
        };
        match (denied, allowed) {
            (true, true) => {
                let why = "webhook subject access review returned both allow and deny response";
                (Decision::Deny { reason }, Some(why.to_owned()))
            }
            (true, false) => (Decision::Deny { reason }, None),
            (false, true) => (Decision::Allow { reason }, None),
            (false, false) => (Decision::NoOpinion { reason }, None),
        }
    }

    async fn rules(&self, _: &UserInfo, _: &str) -> (Vec<Value>, Vec<Value>, bool) {
        (Vec::new(), Vec::new(), true)
    }

    fn rules_error(&self, _: &UserInfo) -> Option<String> {
        Some("webhook authorizer does not support user rule resolution".to_owned())
    }
}

/// The `spec` of the review of a question.
fn spec(user: &UserInfo, attributes: &AuthorizationAttributes, version: &str) -> Value {
    let mut spec = Map::new();
    let mut put = |name: &str, value: Value, is_empty: bool| {
        if !is_empty {
            spec.insert(name.to_owned(), value);
        }
    };
    if attributes.is_resource {
        put("resourceAttributes", resource(attributes), false);
    } else {
        put("nonResourceAttributes", texts(&[("path", &attributes.path), ("verb", &attributes.verb)]), false);
    }
    put("user", user.name.clone().into(), user.name.is_empty());
    put(if version == "v1" { "groups" } else { "group" }, json!(user.groups), user.groups.is_empty());
    put("extra", json!(user.extra), user.extra.is_empty());
    put("uid", user.uid.clone().into(), user.uid.is_empty());
    Value::Object(spec)
}

fn texts(members: &[(&str, &String)]) -> Value {
    let members = members.iter().filter(|(_, text)| !text.is_empty());
    Value::Object(members.map(|(name, text)| ((*name).to_owned(), Value::from(text.as_str()))).collect())
}

fn resource(attributes: &AuthorizationAttributes) -> Value {
    let mut value = texts(&[
        ("namespace", &attributes.namespace),
        ("verb", &attributes.verb),
        ("group", &attributes.group),
        ("version", &attributes.version),
        ("resource", &attributes.resource),
        ("subresource", &attributes.subresource),
        ("name", &attributes.name),
    ]);
    // A selector that cannot be read narrows nothing: the question is then the broader one.
    if let Ok(selector) = FieldSelector::parse(&attributes.field_selector)
        && !selector.is_empty()
    {
        let requirements: Vec<Value> = selector
            .requirements()
            .iter()
            .map(|r| json!({"key": r.field, "operator": if r.negated { "NotIn" } else { "In" }, "values": [r.value]}))
            .collect();
        value["fieldSelector"] = json!({"requirements": requirements});
    }
    if let Ok(selector) = LabelSelector::parse(&attributes.label_selector)
        && !selector.is_empty()
    {
        let requirements: Vec<Value> = selector.requirements().iter().filter_map(label_requirement).collect();
        if !requirements.is_empty() {
            value["labelSelector"] = json!({"requirements": requirements});
        }
    }
    value
}

/// `None` for operators that the API of authorisation does not have.
fn label_requirement(requirement: &api::selector::LabelRequirement) -> Option<Value> {
    use api::selector::Operator;
    let operator = match requirement.operator() {
        Operator::Equals | Operator::DoubleEquals | Operator::In => "In",
        Operator::NotEquals | Operator::NotIn => "NotIn",
        Operator::Exists => "Exists",
        Operator::DoesNotExist => "DoesNotExist",
        Operator::GreaterThan | Operator::LessThan => return None,
    };
    let mut value = json!({"key": requirement.key(), "operator": operator});
    if !requirement.values().is_empty() {
        value["values"] = json!(requirement.values());
    }
    Some(value)
}

/// The declaration of `request` (apiserver `authorization/cel/compile.go` `buildRequestType`).
fn request_decl() -> Decl {
    let text = || Decl::new(Type::String);
    let texts = || Decl::list(text(), None);
    let named = |name: &str, fields: Vec<(&str, Decl)>| {
        Decl::object(name, fields.into_iter().map(|(name, decl)| (name.to_owned(), decl)))
    };
    let selector = |name: &str, requirement: &str| {
        let requirement = named(requirement, vec![("key", text()), ("operator", text()), ("values", texts())]);
        named(name, vec![("rawSelector", text()), ("requirements", Decl::list(requirement, None))])
    };
    let resource = named(
        "kubernetes.ResourceAttributes",
        vec![
            ("namespace", text()),
            ("verb", text()),
            ("group", text()),
            ("version", text()),
            ("resource", text()),
            ("subresource", text()),
            ("name", text()),
            ("fieldSelector", selector("kubernetes.FieldSelectorAttributes", "kubernetes.SelectorRequirement")),
            ("labelSelector", selector("kubernetes.LabelSelectorAttributes", "kubernetes.SelectorRequirement")),
        ],
    );
    let path = named("kubernetes.NonResourceAttributes", vec![("path", text()), ("verb", text())]);
    named(
        "kubernetes.SubjectAccessReviewSpec",
        vec![
            ("resourceAttributes", resource),
            ("nonResourceAttributes", path),
            ("user", text()),
            ("groups", texts()),
            ("extra", Decl::map(texts(), None)),
            ("uid", text()),
        ],
    )
}

/// Compiles match conditions.
///
/// # Errors
/// The problem of one, in cel-go's words.
pub fn compile(expressions: &[String]) -> Result<Vec<Program>, String> {
    let env = Env::new().declare("request", request_decl());
    expressions.iter().map(|source| api::cel::policy::compile(&env, source.trim(), &[Type::Bool])).collect()
}

/// Whether all conditions are true; an error if one fails and none is false (`CELMatcher.Eval`).
fn matches(conditions: &[Program], spec: &Value) -> Result<bool, String> {
    if conditions.is_empty() {
        return Ok(true);
    }
    let mut spec = spec.clone();
    if let Some(groups) = spec.as_object_mut().and_then(|spec| spec.remove("group")) {
        spec["groups"] = groups;
    }
    // Members that are empty are there, as Go's structs have them.
    if let Some(members) = spec.as_object_mut() {
        for (name, empty) in [("user", json!("")), ("uid", json!("")), ("groups", json!([])), ("extra", json!({}))] {
            members.entry(name).or_insert(empty);
        }
    }
    if let Some(resource) = spec.get_mut("resourceAttributes").and_then(Value::as_object_mut) {
        for name in ["namespace", "verb", "group", "version", "resource", "subresource", "name"] {
            resource.entry(name).or_insert(json!(""));
        }
    }
    // Names stand as they are: `namespace` is a reserved word only where schemas make types.
    let bindings = Bindings::new().set("request", Cel::from_json(&spec));
    let mut budget = Budget::new(api::cel::MATCH_CONDITIONS_BUDGET);
    let mut errors = Vec::new();
    for condition in conditions {
        match condition.evaluate(&bindings, &mut budget) {
            Ok(value) if value.equals(&true.into()) => {}
            Ok(_) => return Ok(false),
            Err(error) => errors
                .push(format!("cel evaluation error: expression '{}' resulted in error: {error}", condition.source())),
        }
    }
    match errors.as_slice() {
        [] => Ok(true),
        [one] => Err(one.clone()),
        many => Err(format!("[{}]", many.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question() -> AuthorizationAttributes {
        AuthorizationAttributes {
            verb: "list".into(),
            is_resource: true,
            version: "v1".into(),
            resource: "pods".into(),
            namespace: "shop".into(),
            field_selector: "spec.nodeName=a".into(),
            label_selector: "app in (x),!y".into(),
            ..AuthorizationAttributes::default()
        }
    }

    #[test]
    fn a_question_is_a_review() {
        let spec = spec(&UserInfo::new("ann", &["clerks"]), &question(), "v1");
        assert_eq!(
            spec,
            json!({
                "resourceAttributes": {
                    "namespace": "shop", "verb": "list", "version": "v1", "resource": "pods",
                    "fieldSelector": {"requirements": [
                        {"key": "spec.nodeName", "operator": "In", "values": ["a"]},
                    ]},
                    "labelSelector": {"requirements": [
                        {"key": "app", "operator": "In", "values": ["x"]}, {"key": "y", "operator": "DoesNotExist"},
                    ]},
                },
                "user": "ann", "groups": ["clerks", "system:authenticated"],
            })
        );
    }

    #[test]
    fn conditions_say_whether_the_webhook_is_asked() {
        let check = |expressions: &[&str], want: Result<bool, &str>| {
            let expressions: Vec<String> = expressions.iter().map(|e| (*e).to_owned()).collect();
            let conditions = compile(&expressions).unwrap();
            let got = matches(&conditions, &spec(&UserInfo::new("ann", &[]), &question(), "v1"));
            match want {
                Ok(want) => assert_eq!(got, Ok(want), "{expressions:?}"),
                Err(why) => assert!(got.unwrap_err().contains(why), "{expressions:?}"),
            }
        };
        check(&[], Ok(true));
        check(&["has(request.resourceAttributes)", "request.resourceAttributes.namespace == 'shop'"], Ok(true));
        check(&["request.user == 'bob'"], Ok(false));
        check(&["request.nonResourceAttributes.path == '/x'"], Err("cel evaluation error"));
        check(&["request.nonResourceAttributes.path == '/x'", "request.user == 'bob'"], Ok(false));
        assert!(compile(&["request.nothing".to_owned()]).unwrap_err().contains("undefined field 'nothing'"));
    }
}
