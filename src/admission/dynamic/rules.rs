//! Which requests a webhook or policy is about: rules, selectors, match policy (apiserver
//! `admission/plugin/webhook/predicates`, `admission/plugin/policy/matching`).

use api::admission::{Attributes, Operation};
use api::selector::LabelSelector;
use api::services::Kinds;
use api::{Gvk, Gvr, Object, Status};
use client::Resource;
use client::k8s_openapi::api::core::v1::Namespace;
use serde_json::Value;

use crate::cluster::Cluster;

/// One rule: operations on resources.
#[derive(Debug, Clone)]
pub(crate) struct Rule {
    operations: Vec<String>,
    groups: Vec<String>,
    versions: Vec<String>,
    resources: Vec<String>,
    scope: String,
    /// `resourceNames` of policies; empty: any.
    names: Vec<String>,
}

fn strings(value: &Value, member: &str) -> Vec<String> {
    let items = value.get(member).and_then(Value::as_array).into_iter().flatten();
    items.filter_map(Value::as_str).map(ToOwned::to_owned).collect()
}

fn exact_or_wildcard(items: &[String], wanted: &str) -> bool {
    items.iter().any(|item| item == "*" || item == wanted)
}

impl Rule {
    pub(crate) fn new(rule: &Value) -> Self {
        Self {
            operations: strings(rule, "operations"),
            groups: strings(rule, "apiGroups"),
            versions: strings(rule, "apiVersions"),
            resources: strings(rule, "resources"),
            scope: rule.get("scope").and_then(Value::as_str).unwrap_or("*").to_owned(),
            names: strings(rule, "resourceNames"),
        }
    }

    /// The rules of a list member.
    pub(crate) fn list(value: &Value, member: &str) -> Vec<Self> {
        value.get(member).and_then(Value::as_array).into_iter().flatten().map(Self::new).collect()
    }

    fn matches(&self, attributes: &Attributes, resource: &Gvr) -> bool {
        self.in_scope(attributes, resource)
            && exact_or_wildcard(&self.operations, attributes.operation.as_str())
            && exact_or_wildcard(&self.groups, &resource.group)
            && exact_or_wildcard(&self.versions, &resource.version)
            && self.matches_resource(&resource.resource, &attributes.subresource)
            && (self.names.is_empty() || self.names.contains(&attributes.name))
    }

    fn in_scope(&self, attributes: &Attributes, resource: &Gvr) -> bool {
        // A namespace is cluster-scoped, though its requests carry its own name as their namespace.
        let cluster = is_namespaces(resource) || attributes.namespace.is_empty();
        match self.scope.as_str() {
            "*" => true,
            "Namespaced" => !cluster,
            "Cluster" => cluster,
            _ => false,
        }
    }

    fn matches_resource(&self, resource: &str, subresource: &str) -> bool {
        self.resources.iter().any(|item| {
            let (res, sub) = item.split_once('/').unwrap_or((item, ""));
            (res == "*" || res == resource) && (sub == "*" || sub == subresource)
        })
    }
}

fn is_namespaces(resource: &Gvr) -> bool {
    resource.group.is_empty() && resource.resource == "namespaces"
}

/// The version of the request that a webhook or policy wants to see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Matched {
    pub resource: Gvr,
    pub kind: Gvk,
}

/// Which requests something is about.
#[derive(Debug, Clone)]
pub(crate) struct Criteria {
    rules: Vec<Rule>,
    excluded: Vec<Rule>,
    /// No rules at all match everything (bindings of policies).
    empty_matches_all: bool,
    equivalent: bool,
    /// An error text for a selector that cannot be read.
    namespaces: Result<LabelSelector, String>,
    objects: Result<LabelSelector, String>,
}

fn selector(value: &Value, member: &str) -> Result<LabelSelector, String> {
    match value.get(member) {
        None | Some(Value::Null) => Ok(LabelSelector::everything()),
        Some(selector) => LabelSelector::from_object(selector).map_err(|e| e.to_string()),
    }
}

impl Criteria {
    /// Of a webhook.
    pub(crate) fn of_webhook(webhook: &Value) -> Self {
        Self {
            rules: Rule::list(webhook, "rules"),
            excluded: Vec::new(),
            empty_matches_all: false,
            equivalent: webhook.get("matchPolicy").and_then(Value::as_str) == Some("Equivalent"),
            namespaces: selector(webhook, "namespaceSelector"),
            objects: selector(webhook, "objectSelector"),
        }
    }

    /// Of a policy or binding (`MatchResources`).
    pub(crate) fn of_resources(resources: &Value) -> Self {
        Self {
            rules: Rule::list(resources, "resourceRules"),
            excluded: Rule::list(resources, "excludeResourceRules"),
            empty_matches_all: true,
            equivalent: resources.get("matchPolicy").and_then(Value::as_str) == Some("Equivalent"),
            namespaces: selector(resources, "namespaceSelector"),
            objects: selector(resources, "objectSelector"),
        }
    }

    /// Whether the request is meant, and in which version it is to be shown. An error counts only where the rest
    /// matches.
    pub(crate) async fn matches(
        &self,
        cluster: &Cluster,
        kinds: &dyn Kinds,
        attributes: &Attributes,
    ) -> Result<Option<Matched>, Status> {
        // The rules first: they are cheap, and the order makes no difference to the answer.
        let own = Matched { resource: attributes.resource.clone(), kind: attributes.gvk.clone() };
        if self.find(&self.excluded, kinds, attributes).is_some() {
            return Ok(None);
        }
        let matched = if self.rules.is_empty() && self.empty_matches_all {
            own
        } else {
            match self.find(&self.rules, kinds, attributes) {
                Some(matched) => matched,
                None => return Ok(None),
            }
        };
        let objects = match &self.objects {
            Err(why) => Err(Status::internal(why)),
            Ok(selector) if selector.is_empty() => Ok(true),
            Ok(selector) => Ok([&attributes.object, &attributes.old_object]
                .into_iter()
                .flatten()
                .any(|object| selector.matches(|key| object.label(key)))),
        };
        if matches!(objects, Ok(false)) {
            return Ok(None);
        }
        let namespaces = self.matches_namespace(cluster, attributes).await;
        if matches!(namespaces, Ok(false)) {
            return Ok(None);
        }
        namespaces.and(objects).map(|_| Some(matched))
    }

    /// The first rule that matches the request, or an equivalent of it.
    fn find(&self, rules: &[Rule], kinds: &dyn Kinds, attributes: &Attributes) -> Option<Matched> {
        if rules.iter().any(|rule| rule.matches(attributes, &attributes.resource)) {
            return Some(Matched { resource: attributes.resource.clone(), kind: attributes.gvk.clone() });
        }
        if !self.equivalent || rules.is_empty() {
            return None;
        }
        let equivalents = kinds.equivalents(&attributes.resource, &attributes.subresource);
        rules.iter().find_map(|rule| {
            let found = equivalents.iter().find(|(resource, _)| rule.matches(attributes, resource))?;
            Some(Matched { resource: found.0.clone(), kind: found.1.clone() })
        })
    }

    async fn matches_namespace(&self, cluster: &Cluster, attributes: &Attributes) -> Result<bool, Status> {
        if attributes.namespace.is_empty() && attributes.resource.resource != "namespaces" {
            return Ok(true);
        }
        let selector = self.namespaces.as_ref().map_err(Status::internal)?;
        if selector.is_empty() {
            return Ok(true);
        }
        // The informer does not have the latest namespace yet while that is being written.
        if attributes.resource.resource == "namespaces"
            && attributes.subresource.is_empty()
            && matches!(attributes.operation, Operation::Create | Operation::Update)
        {
            let object = attributes.object.as_ref();
            return Ok(object.is_some_and(|object| selector.matches(|key| object.label(key))));
        }
        match cluster.get::<Namespace>("", &attributes.namespace).await? {
            Some(namespace) => Ok(selector.matches(|key| namespace.label(key))),
            None => Err(Status::not_found(&api::GroupResource::new("", "namespaces"), &attributes.namespace)),
        }
    }
}

/// `object` in the version that was matched.
pub(crate) async fn in_version(
    kinds: &dyn Kinds,
    object: Option<&Object>,
    attributes: &Attributes,
    matched: &Matched,
) -> Result<Option<Object>, Status> {
    match object {
        None => Ok(None),
        Some(object) if matched.kind == attributes.gvk => Ok(Some(object.clone())),
        Some(object) => kinds.convert(object.clone(), &matched.kind).await.map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn attributes(operation: Operation, namespace: &str, resource: &str, subresource: &str) -> Attributes {
        Attributes {
            operation,
            gvk: Gvk::new("apps", "v1", "Any"),
            resource: Gvr::new("apps", "v1", resource),
            subresource: subresource.to_owned(),
            namespace: namespace.to_owned(),
            name: "n".to_owned(),
            object: None,
            old_object: None,
            options: None,
            user: api::UserInfo::default(),
            dry_run: false,
            warnings: Vec::new(),
            notes: Default::default(),
            reinvocation: Default::default(),
        }
    }

    #[test]
    fn rules_match_as_upstream() {
        let check = |rule: Value, request: &Attributes, want: bool| {
            assert_eq!(Rule::new(&rule).matches(request, &request.resource), want, "{rule}");
        };
        let base = |patch: Value| {
            let mut rule =
                json!({"operations": ["*"], "apiGroups": ["apps"], "apiVersions": ["*"], "resources": ["*"]});
            for (key, value) in patch.as_object().into_iter().flatten() {
                rule[key] = value.clone();
            }
            rule
        };
        let create = attributes(Operation::Create, "ns", "deployments", "");
        check(base(json!({})), &create, true);
        check(base(json!({"operations": ["UPDATE"]})), &create, false);
        check(base(json!({"apiGroups": [""]})), &create, false);
        check(base(json!({"scope": "Cluster"})), &create, false);
        check(base(json!({"scope": "Namespaced"})), &create, true);
        check(base(json!({"resourceNames": ["other"]})), &create, false);
        check(base(json!({"resourceNames": ["n"]})), &create, true);
        let scale = attributes(Operation::Update, "ns", "deployments", "scale");
        check(base(json!({})), &scale, false);
        check(base(json!({"resources": ["*/*"]})), &scale, true);
        check(base(json!({"resources": ["deployments/scale"]})), &scale, true);
        check(base(json!({"resources": ["*/scale"]})), &scale, true);
        check(base(json!({"resources": ["deployments"]})), &scale, false);
        let cluster = attributes(Operation::Update, "", "things", "");
        check(base(json!({"scope": "Cluster"})), &cluster, true);
    }
}
