//! `PodSecurity`: the pod security standards that a namespace's labels ask for (`pod-security-admission`).
//!
//! Everything is looked at after all changes of the object: what is enforced is refused, the rest is warned of or noted in
//! the audit event.

mod checks;
mod configuration;
mod counts;
mod policy;

use std::collections::BTreeMap;

use api::admission::{AdmissionPlugin, Attributes, Operation};
use api::field::ErrorList;
use api::{Gvr, Object, Status};
use async_trait::async_trait;
use client::k8s_openapi::api::core::v1::Namespace;
use serde_json::Value;

pub(crate) use self::configuration::Configuration;
use self::counts::{Counts, Mode};
use self::policy::{LevelVersion, Policy};
use crate::attributes::{containers, text};
use crate::cluster::Cluster;
use crate::configuration::go_list;

/// More pods of a namespace are not looked at when its labels change.
const PODS_MAX: usize = 3000;

pub(crate) struct PodSecurity {
    cluster: Cluster,
    configuration: Configuration,
    counts: Counts,
}

/// Where a kind has its pod template; `None` if it has none.
fn template(resource: &Gvr) -> Option<&'static [&'static str]> {
    match (resource.group.as_str(), resource.resource.as_str()) {
        ("", "podtemplates") => Some(&["template"]),
        ("", "replicationcontrollers") | ("apps", "replicasets" | "deployments" | "statefulsets" | "daemonsets") => {
            Some(&["spec", "template"])
        }
        ("batch", "jobs") => Some(&["spec", "template"]),
        ("batch", "cronjobs") => Some(&["spec", "jobTemplate", "spec", "template"]),
        _ => None,
    }
}

fn is_core(resource: &Gvr, name: &str) -> bool {
    resource.group.is_empty() && resource.resource == name
}

impl PodSecurity {
    pub(crate) fn new(cluster: Cluster, configuration: Configuration) -> Self {
        Self { cluster, configuration, counts: Counts::default() }
    }

    fn policy_of(&self, labels: &BTreeMap<&str, &str>) -> (Policy, ErrorList) {
        self.configuration.defaults.with_labels(labels)
    }

    /// Why nobody looks at this request's pods (`exemptNamespace`, `exemptUser`).
    fn exemption(&self, attributes: &Attributes) -> Option<&'static str> {
        let exemptions = &self.configuration.exemptions;
        let has = |list: &[String], name: &str| !name.is_empty() && list.iter().any(|other| other == name);
        if has(&exemptions.namespaces, &attributes.namespace) {
            return Some("namespace");
        }
        has(&exemptions.usernames, &attributes.user.name).then_some("user")
    }

    /// Lets a request pass without a look.
    fn let_off(&self, attributes: &Attributes, why: &'static str) {
        annotate(attributes, "exempt", why.to_owned());
        self.counts.exempted(attributes);
    }

    /// The namespace's policy, and what is wrong with its labels.
    async fn policy(&self, namespace: &str) -> Result<(Policy, ErrorList), Status> {
        let found = self.cluster.get::<Namespace>("", namespace).await.ok().flatten();
        let Some(found) = found else {
            return Err(Status::internal(format!("failed to lookup namespace {namespace:?}")));
        };
        let labels: BTreeMap<&str, &str> =
            found.metadata.labels.iter().flatten().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        // Labels that say nothing sensible fail closed where they are enforced.
        Ok(self.policy_of(&labels))
    }

    /// What enforcing a new level would say of the pods that are there (`EvaluatePodsInNamespace`).
    async fn existing_pods(&self, namespace: &str, enforce: LevelVersion) -> Vec<String> {
        let path = format!("/api/v1/namespaces/{namespace}/pods");
        let Ok(list) = self.cluster.live_json(&path).await else {
            return vec!["failed to list pods while checking new PodSecurity enforce level".to_owned()];
        };
        let mut pods: Vec<Object> = list
            .get("items")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .cloned()
            .filter_map(Object::from_value)
            .collect();
        let total = pods.len();
        let mut warnings = Vec::new();
        if total > PODS_MAX {
            // One of each controller's goes first.
            let mut seen = std::collections::BTreeSet::new();
            pods.sort_by_cached_key(|pod| {
                let owner = api::meta::controller_of(pod).map(|o| text(o, "uid").to_owned());
                owner.is_some_and(|uid| !seen.insert(uid))
            });
            pods.truncate(PODS_MAX);
            warnings.push(format!(
                "new PodSecurity enforce level only checked against the first {PODS_MAX} of {total} existing pods"
            ));
        }
        // By reason: the first name and how many.
        let mut bad: BTreeMap<String, (String, usize)> = BTreeMap::new();
        for pod in &pods {
            let reasons: Vec<&str> = checks::evaluate(enforce, pod).iter().map(|v| v.reason).collect();
            if reasons.is_empty() {
                continue;
            }
            let name = pod.name().to_owned();
            let entry = bad.entry(reasons.join(", ")).or_insert_with(|| (name.clone(), 0));
            entry.0 = std::mem::take(&mut entry.0).min(name);
            entry.1 += 1;
        }
        if bad.is_empty() {
            return warnings;
        }
        warnings.push(format!(
            "existing pods in namespace {namespace:?} violate the new PodSecurity enforce level \"{enforce}\""
        ));
        let mut lines: Vec<String> = bad
            .into_iter()
            .map(|(reason, (name, count))| match count {
                1 => format!("{name}: {reason}"),
                2 => format!("{name} (and 1 other pod): {reason}"),
                many => format!("{name} (and {} other pods): {reason}", many - 1),
            })
            .collect();
        lines.sort();
        warnings.extend(lines);
        warnings
    }

    /// Warnings about a namespace that is made, or whose labels change (`ValidateNamespace`).
    async fn namespace_warnings(&self, attributes: &Attributes) -> Vec<String> {
        let Some(new) = &attributes.object else { return Vec::new() };
        let labels: BTreeMap<&str, &str> = new.labels().collect();
        let (policy, errors) = self.policy_of(&labels);
        // What the labels say wrongly is refused: nobody looks at pods by it.
        if !errors.is_empty() {
            return Vec::new();
        }
        let is_exempt = self.configuration.exemptions.namespaces.contains(&attributes.namespace);
        if let Some(old) = attributes.old_object.as_ref().filter(|_| attributes.operation == Operation::Update) {
            let (level, before) = (policy.enforce, self.policy_of(&old.labels().collect()).0.enforce);
            let tighter = level != before
                && level.level != policy::Level::Privileged
                && (level.version != before.version || level.level > before.level);
            if !tighter {
                return Vec::new();
            }
            if !is_exempt {
                return self.existing_pods(new.name(), level).await;
            }
        }
        if !is_exempt || policy.is_open() || policy.is_like(&self.configuration.defaults) {
            return Vec::new();
        }
        vec![format!(
            "namespace {:?} is exempt from Pod Security, and the policy ({}) will be ignored",
            new.name(),
            policy.set_by(&labels)
        )]
    }

    /// Labels that make no sense are refused, unless they were there before.
    fn check_labels(&self, attributes: &Attributes) -> Result<(), Status> {
        let Some(new) = &attributes.object else { return Ok(()) };
        let errors = self.policy_of(&new.labels().collect()).1;
        let before = attributes.old_object.as_ref().map(|old| self.policy_of(&old.labels().collect()).1);
        if errors.is_empty() || before.is_some_and(|before| before == errors) {
            return Ok(());
        }
        Err(Status::invalid(&attributes.gvk.group, &attributes.gvk.kind, &attributes.name, &errors))
    }

    /// `EvaluatePod`: the modes in their order; a request that is refused is not warned of.
    fn evaluate(&self, attributes: &Attributes, policy: &Policy, pod: &Object, enforced: bool) -> Result<(), Status> {
        let found = |mode: LevelVersion| {
            let violations = checks::evaluate(mode, pod);
            (!violations.is_empty()).then(|| checks::details(&violations))
        };
        let mut refusal = None;
        if enforced {
            annotate(attributes, "enforce-policy", policy.enforce.to_string());
            refusal = found(policy.enforce);
            self.counts.evaluated(refusal.is_none(), policy.enforce, Mode::Enforce, attributes);
        }
        if let Some(details) = found(policy.audit) {
            let text = format!("would violate PodSecurity \"{}\": {details}", policy.audit);
            annotate(attributes, "audit-violations", text);
            self.counts.evaluated(false, policy.audit, Mode::Audit, attributes);
        }
        if let Some(details) = refusal {
            let why = format!("violates PodSecurity \"{}\": {details}", policy.enforce);
            return Err(Status::forbidden(&attributes.resource.group_resource(), &attributes.name, why));
        }
        if let Some(details) = found(policy.warn) {
            attributes.notes.warn(format!("would violate PodSecurity \"{}\": {details}", policy.warn));
            self.counts.evaluated(false, policy.warn, Mode::Warn, attributes);
        }
        Ok(())
    }
}

#[async_trait]
impl AdmissionPlugin for PodSecurity {
    fn name(&self) -> &'static str {
        "PodSecurity"
    }

    fn handles(&self, operation: Operation, resource: &Gvr, subresource: &str) -> bool {
        if !matches!(operation, Operation::Create | Operation::Update) {
            return false;
        }
        if is_core(resource, "pods") {
            return matches!(subresource, "" | "ephemeralcontainers" | "resize");
        }
        subresource.is_empty() && (is_core(resource, "namespaces") || template(resource).is_some())
    }

    async fn validate(&self, attributes: &Attributes) -> Result<(), Status> {
        if is_core(&attributes.resource, "namespaces") {
            self.check_labels(attributes)?;
            for warning in self.namespace_warnings(attributes).await {
                attributes.notes.warn(warning);
            }
            return Ok(());
        }
        if let Some(why) = self.exemption(attributes) {
            self.let_off(attributes, why);
            return Ok(());
        }
        let enforced = is_core(&attributes.resource, "pods");
        let (policy, errors) = match self.policy(&attributes.namespace).await {
            Ok(found) => found,
            Err(status) => {
                self.counts.failed(true, attributes);
                if enforced {
                    return Err(status);
                }
                annotate(attributes, "error", status.message);
                return Ok(());
            }
        };
        if errors.is_empty() && enforced && policy.is_open() {
            annotate(attributes, "enforce-policy", policy.enforce.to_string());
            self.counts.evaluated(true, policy.enforce, Mode::Enforce, attributes);
            return Ok(());
        }
        if errors.is_empty() && !enforced && (Policy { enforce: policy.warn, ..policy }).is_open() {
            return Ok(());
        }
        let Some(pod) = pod_of(attributes) else { return Ok(()) };
        let class = pod.str(&["spec", "runtimeClassName"]).filter(|class| !class.is_empty());
        if class.is_some_and(|class| self.configuration.exemptions.runtime_classes.iter().any(|name| name == class)) {
            self.let_off(attributes, "runtimeClass");
            return Ok(());
        }
        if !errors.is_empty() {
            annotate(attributes, "error", format!("Failed to parse policy: {}", go_list(&errors)));
            self.counts.failed(false, attributes);
        }
        self.evaluate(attributes, &policy, &pod, enforced)
    }

    fn metrics(&self, out: &mut String) {
        self.counts.write(out);
    }
}

/// Says something in the audit event.
fn annotate(attributes: &Attributes, key: &str, value: String) {
    attributes.notes.annotate(format!("pod-security.kubernetes.io/{key}"), value);
}

/// The pod, or the pod that a template describes; `None` if there is nothing to look at.
fn pod_of(attributes: &Attributes) -> Option<Object> {
    let object = attributes.object.as_ref()?;
    if let Some(path) = template(&attributes.resource) {
        return object.get(path).cloned().and_then(Object::from_value);
    }
    match &attributes.old_object {
        Some(old) if attributes.operation == Operation::Update && !is_significant(object, old) => None,
        _ => Some(object.clone()),
    }
}

/// Whether an update changes what is run (`isSignificantPodUpdate`).
fn is_significant(new: &Object, old: &Object) -> bool {
    for list in ["containers", "initContainers"] {
        let (new, old) = (containers(new, list), containers(old, list));
        if new.len() != old.len() || new.iter().zip(old).any(|(a, b)| text(a, "image") != text(b, "image")) {
            return true;
        }
    }
    let before = containers(old, "ephemeralContainers");
    containers(new, "ephemeralContainers").iter().any(|container| {
        let same = before.iter().find(|other| text(other, "name") == text(container, "name"));
        same.is_none_or(|other| text(other, "image") != text(container, "image"))
    })
}
