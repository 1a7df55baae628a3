//! Pods.

use std::sync::Arc;

use api::Object;
use api::field::{Error, ErrorList, Path};
use api::kind::{RequestContext, Strategy, SubresourceKind};
use serde_json::{Map, Value, json};

use crate::Config;
use crate::columns::field;
use crate::define::Extra;
use crate::json::{Json, Members, dig, existing, items_mut, restore};
use crate::podspec::{annotations, defaults, pod_level, qos, update, validate};
use crate::rules::Rules;

use super::binding::Binding;
use super::connect::{Log, PodProxy, PortForward, Stream};
use super::eviction::Eviction;
use super::pod_columns::{columns, phase};
use super::pod_status;

pub(super) fn extra(config: &Config) -> Extra {
    let rules = Rules {
        default,
        create,
        update: |_, object, old| {
            restore(&mut object.0, "status", old);
            // Clients that do not know of the pod's own resources leave them out.
            if let Some(resources) = old.get(&["spec", "resources"])
                && let Some(spec) = existing(&mut object.0, "spec")
            {
                spec.entry("resources").or_insert_with(|| resources.clone());
            }
        },
        status_update: pod_status::prepare,
        validate: |object| {
            let (spec, at) = (object.at("spec"), Path::new("spec"));
            let mut errors = ErrorList::new();
            annotations::specific(&mut errors, &annotations_at(), object.at("metadata").at("annotations"), spec);
            errors.extend(checked(object));
            if spec.count("ephemeralContainers") > 0 {
                errors.push(Error::forbidden(at.child("ephemeralContainers"), "cannot be set on create"));
            }
            if spec.count("nodeName") > 0 && spec.count("schedulingGates") > 0 {
                let text = "cannot be set until all schedulingGates have been cleared";
                errors.push(Error::forbidden(at.child("nodeName"), text));
            }
            errors
        },
        validate_update: Some(|object, old| {
            let mut errors = ErrorList::new();
            let map = |object: &'_ Object| object.at("metadata").at("annotations").clone();
            let both = (&map(object), &map(old));
            annotations::changed(&mut errors, &annotations_at(), both, object.at("spec"));
            errors.extend(checked(object));
            update::pod(&mut errors, &Path::new("spec"), object.at("spec"), old.at("spec"));
            errors
        }),
        validate_status: pod_status::validate,
        graceful,
        warnings: |object, old| {
            // Nobody updates pods by hand, upstream says.
            if old.is_some() {
                return Vec::new();
            }
            let mut out = name_warnings(object);
            let pod = serde_json::json!({"metadata": object.at("metadata"), "spec": object.at("spec")});
            out.extend(crate::podspec::warnings::warnings(&Path::default(), &pod, false));
            out
        },
        ..Rules::GENERIC
    };
    let port = config.kubelet_port;
    let connect = SubresourceKind::Connect;
    Extra::new(rules, columns())
        .with_generation()
        .with_fields(vec![
            field("spec.nodeName", |o| spec_text(o, "nodeName")),
            field("spec.restartPolicy", |o| spec_text(o, "restartPolicy")),
            field("spec.schedulerName", |o| spec_text(o, "schedulerName")),
            field("spec.serviceAccountName", |o| spec_text(o, "serviceAccountName")),
            field("spec.hostNetwork", |o| o.at("spec").flag("hostNetwork").to_string()),
            field("status.phase", |o| phase(o).to_owned()),
            field("status.podIP", first_ip),
            field("status.podIPs", first_ip),
            field("status.nominatedNodeName", |o| {
                dig(o, &["status", "nominatedNodeName"]).as_str().unwrap_or_default().to_owned()
            }),
        ])
        .with_subresource("attach", connect(Arc::new(Stream { verb: "attach", port })))
        .with_subresource("exec", connect(Arc::new(Stream { verb: "exec", port })))
        .with_subresource("portforward", connect(Arc::new(PortForward { port })))
        .with_subresource("log", connect(Arc::new(Log { port })))
        .with_subresource("proxy", connect(Arc::new(PodProxy)))
        .with_subresource("binding", SubresourceKind::Action(Arc::new(Binding)))
        .with_subresource("eviction", SubresourceKind::Action(Arc::new(Eviction)))
        .with_subresource("ephemeralcontainers", SubresourceKind::View(Arc::new(EphemeralContainers)))
        .with_subresource("resize", SubresourceKind::View(Arc::new(Resize)))
}

fn spec_text(object: &Object, member: &str) -> String {
    object.at("spec").text(member).to_owned()
}

fn first_ip(object: &Object) -> String {
    object.array(&["status", "podIPs"]).first().map(|ip| ip.text("ip").to_owned()).unwrap_or_default()
}

fn default(object: &mut Object) {
    if let Some(spec) = existing(&mut object.0, "spec") {
        defaults::pod_spec(spec);
        defaults::pod(spec);
    }
    if let Some(status) = existing(&mut object.0, "status") {
        defaults::pod_status(status);
    }
}

/// `podStrategy.PrepareForCreate`.
fn create(ctx: &RequestContext<'_>, object: &mut Object) {
    if let Some(spec) = existing(&mut object.0, "spec") {
        pod_level::defaults(spec);
    }
    let mut status = json!({"phase": "Pending", "qosClass": qos::class(object.at("spec"))});
    if object.at("spec").count("schedulingGates") > 0 {
        status["conditions"] = json!([{
            "type": "PodScheduled", "status": "False", "reason": "SchedulingGated",
            "message": "Scheduling is blocked due to non-empty scheduling gates", "lastProbeTime": null,
            "lastTransitionTime": crate::timestamp(ctx.now),
        }]);
    }
    let labels = dig(object, &["metadata", "labels"]).clone();
    if let Some(spec) = existing(&mut object.0, "spec") {
        merge_label_keys(spec, &labels);
    }
    let told = annotations::take_profiles(object);
    if let Some(warn) = ctx.warn {
        told.into_iter().for_each(|text| warn.warn(text));
    }
    object.set(&["status"], status);
}

/// `matchLabelKeys` become requirements on the pod's own labels (`mutatePodAffinity`,
/// `mutateTopologySpreadConstraints`).
fn merge_label_keys(spec: &mut Members, labels: &Value) {
    for constraint in items_mut(spec, "topologySpreadConstraints") {
        add_requirements(constraint, labels);
    }
    let Some(affinity) = existing(spec, "affinity") else { return };
    for kind in ["podAffinity", "podAntiAffinity"] {
        let Some(affinity) = existing(affinity, kind) else { continue };
        for term in items_mut(affinity, "requiredDuringSchedulingIgnoredDuringExecution") {
            add_requirements(term, labels);
        }
        for weighted in items_mut(affinity, "preferredDuringSchedulingIgnoredDuringExecution") {
            if let Some(term) = existing(weighted, "podAffinityTerm") {
                add_requirements(term, labels);
            }
        }
    }
}

fn add_requirements(term: &mut Members, labels: &Value) {
    let mut added = Vec::new();
    for (member, operator) in [("matchLabelKeys", "In"), ("mismatchLabelKeys", "NotIn")] {
        for key in term.list(member).iter().filter_map(Value::as_str) {
            if let Some(value) = labels.at(key).as_str() {
                added.push(json!({"key": key, "operator": operator, "values": [value]}));
            }
        }
    }
    if added.is_empty() {
        return;
    }
    if let Some(selector) = existing(term, "labelSelector") {
        let list = selector.entry("matchExpressions").or_insert_with(|| Value::Array(Vec::new()));
        if let Some(list) = list.as_array_mut() {
            list.extend(added);
        }
    }
}

/// `podStatusStrategy.PrepareForUpdate`.
fn annotations_at() -> Path {
    Path::new("metadata").child("annotations")
}

fn checked(object: &Object) -> ErrorList {
    let mut errors = ErrorList::new();
    let (spec, at) = (object.at("spec"), Path::new("spec"));
    validate::pod_spec(&mut errors, &at, spec, object.name(), true);
    validate::pod_only(&mut errors, &at, spec);
    errors
}

/// `CheckGracefulDelete`: pods that run nowhere and pods that ended go at once.
fn graceful(object: &Object, requested: Option<i64>) -> Option<i64> {
    let spec = object.at("spec");
    let mut seconds = requested.or_else(|| spec.int("terminationGracePeriodSeconds")).unwrap_or_default();
    if spec.text("nodeName").is_empty() || matches!(phase(object), "Failed" | "Succeeded") {
        seconds = 0;
    }
    Some(if seconds < 0 { 1 } else { seconds })
}

fn name_warnings(object: &Object) -> Vec<String> {
    let problems = api::validation::dns1123_label(object.name(), false);
    if problems.is_empty() || object.name().is_empty() {
        return Vec::new();
    }
    vec![format!(
        "metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is \
         recommended: [{}]",
        problems.join(" ")
    )]
}

/// Takes the stored pod, but for what `keep` copies from the request's spec (`dropPodUpdates`).
fn only(object: &mut Object, old: &Object, keep: impl FnOnce(&mut Members, &Value)) {
    let given = object.at("spec").clone();
    let metadata = object.at("metadata").clone();
    restore(&mut object.0, "metadata", old);
    if let Some(kept) = existing(&mut object.0, "metadata") {
        for member in ["name", "namespace", "resourceVersion", "uid", "managedFields"] {
            restore(kept, member, &metadata);
        }
    }
    restore(&mut object.0, "spec", old);
    restore(&mut object.0, "status", old);
    if let Some(spec) = existing(&mut object.0, "spec") {
        keep(spec, &given);
    }
}

struct EphemeralContainers;

impl Strategy for EphemeralContainers {
    fn default(&self, object: &mut Object) {
        default(object);
    }

    fn prepare_for_update(&self, _: &RequestContext<'_>, object: &mut Object, old: &Object) {
        only(object, old, |spec, given| restore(spec, "ephemeralContainers", given));
        crate::podspec::gated::drop_from(object);
    }

    fn validate_update(&self, _: &RequestContext<'_>, object: &Object, old: &Object) -> ErrorList {
        if old.annotation("kubernetes.io/config.mirror").is_some() {
            return vec![Error::forbidden(Path::default(), "static pods do not support ephemeral containers")];
        }
        let mut errors = checked(object);
        let at = Path::new("spec").child("ephemeralContainers");
        update::ephemeral(&mut errors, &at, object.at("spec"), old.at("spec"));
        errors
    }
}

struct Resize;

impl Strategy for Resize {
    fn default(&self, object: &mut Object) {
        default(object);
    }

    fn prepare_for_update(&self, _: &RequestContext<'_>, object: &mut Object, old: &Object) {
        only(object, old, |spec, given| {
            // Clients that do not know of the pod's own resources leave them out.
            if given.has("resources") {
                restore(spec, "resources", given);
            }
            for list in ["containers", "initContainers"] {
                let wanted = given.list(list);
                for container in items_mut(spec, list) {
                    let name = container.text("name").to_owned();
                    if let Some(wanted) = wanted.iter().find(|c| c.text("name") == name) {
                        restore(container, "resources", wanted);
                        restore(container, "resizePolicy", wanted);
                    }
                    container.entry("resources").or_insert_with(|| Value::Object(Map::new()));
                }
            }
            pod_level::defaults(spec);
        });
    }

    fn validate_update(&self, _: &RequestContext<'_>, object: &Object, old: &Object) -> ErrorList {
        let refused = |text: &str| vec![Error::forbidden(Path::default(), text)];
        if old.annotation("kubernetes.io/config.mirror").is_some() {
            return refused("static pods cannot be resized");
        }
        if dig(old, &["spec", "os"]).text("name") == "windows" {
            return refused("windows pods cannot be resized");
        }
        let mut errors = checked(object);
        update::resize(&mut errors, &Path::new("spec"), object, old);
        errors
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(value: Value) -> Object {
        let mut object = Object::from_value(value).unwrap();
        default(&mut object);
        object
    }

    #[test]
    fn a_plain_pod_is_valid() {
        let object = pod(json!({"metadata": {"name": "a", "namespace": "n"},
            "spec": {"containers": [{"name": "c", "image": "nginx"}]}}));
        assert_eq!(checked(&object), ErrorList::new());
    }

    #[test]
    fn problems_read_as_upstream() {
        let check = |spec: Value, want: &[&str]| {
            let texts: Vec<String> = checked(&pod(json!({"metadata": {"name": "a"}, "spec": spec})))
                .iter()
                .map(ToString::to_string)
                .collect();
            assert_eq!(texts, want);
        };
        check(json!({}), &["spec.containers: Required value"]);
        check(json!({"containers": [{"name": "c"}]}), &["spec.containers[0].image: Required value"]);
        check(
            json!({"containers": [{"name": "c", "image": "i", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}]}),
            &["spec.containers[0].volumeMounts[0].name: Not found: \"v\""],
        );
        check(
            json!({"restartPolicy": "x", "containers": [{"name": "c", "image": "i"}]}),
            &["spec.restartPolicy: Unsupported value: \"x\": supported values: \"Always\", \"OnFailure\", \"Never\""],
        );
        check(
            json!({"containers": [{"name": "c", "image": "i", "resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "2"}}}]}),
            &[
                "spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
            ],
        );
    }

    #[test]
    fn grace_follows_node_and_phase() {
        let check = |value: Value, requested: Option<i64>, want: Option<i64>| {
            assert_eq!(graceful(&Object::from_value(value).unwrap(), requested), want);
        };
        let running = json!({"spec": {"nodeName": "n", "terminationGracePeriodSeconds": 30}});
        check(running.clone(), None, Some(30));
        check(running.clone(), Some(0), Some(0));
        check(running, Some(-1), Some(1));
        check(json!({"spec": {"terminationGracePeriodSeconds": 30}}), None, Some(0));
        check(
            json!({"spec": {"nodeName": "n", "terminationGracePeriodSeconds": 30}, "status": {"phase": "Failed"}}),
            None,
            Some(0),
        );
    }
}
