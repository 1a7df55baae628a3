//! Pods.

use std::sync::Arc;

use api::Object;
use api::field::{Error, ErrorList, Path};
use api::kind::{RequestContext, Strategy, SubresourceKind};
use serde_json::{Map, Value, json};

use crate::Config;
use crate::columns::field;
use crate::define::Extra;
use crate::json::{Json, Members, child, dig, existing, items_mut, restore};
use crate::podspec::{annotations, defaults, pod_level, qos, update, validate};
use crate::printed::Printed;
use crate::rules::Rules;

use super::binding::Binding;
use super::connect::{Log, PodProxy, PortForward, Stream};
use super::eviction::Eviction;
use super::pod_columns::{columns, phase};

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
        status_update,
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
        validate_status,
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
fn status_update(_: &RequestContext<'_>, object: &mut Object, old: &Object) {
    if let Some(metadata) = existing(&mut object.0, "metadata") {
        restore(metadata, "ownerReferences", old.at("metadata"));
        restore(metadata, "deletionTimestamp", old.at("metadata"));
    }
    let before = old.at("status");
    let Some(status) = child(&mut object.0, "status") else { return };
    for member in ["qosClass", "observedGeneration"] {
        if !status.has(member)
            || status.int(member) == Some(0)
            || status.text(member).is_empty() && member == "qosClass"
        {
            restore(status, member, before);
        }
    }
    for member in ["resourceClaimStatuses", "extendedResourceClaimStatus", "nodeAllocatableResourceClaimStatuses"] {
        if !status.has(member) {
            restore(status, member, before);
        }
    }
    for condition in items_mut(status, "conditions") {
        if condition.int("observedGeneration").unwrap_or_default() == 0 {
            let kind = condition.text("type").to_owned();
            let same_kind = before.list("conditions").iter().find(|c| c.text("type") == kind);
            if let Some(generation) = same_kind.and_then(|c| c.int("observedGeneration")) {
                condition.insert("observedGeneration".to_owned(), generation.into());
            }
        }
    }
}

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

/// `ValidatePodStatusUpdate`.
fn validate_status(object: &Object, old: &Object) -> ErrorList {
    let mut errors = ErrorList::new();
    let (status, before, at) = (object.at("status"), old.at("status"), Path::new("status"));
    for (i, condition) in status.list("conditions").iter().enumerate() {
        let (at, kind) = (at.child("conditions").index(i), condition.text("type"));
        if let Some(generation @ ..0) = condition.int("observedGeneration") {
            errors.push(Error::invalid(at.child("observedGeneration"), generation, "must be a non-negative integer"));
        }
        if !matches!(kind, "PodScheduled" | "Ready" | "Initialized") {
            let texts = crate::checks::qualified_name(kind);
            crate::checks::invalid_all(&mut errors, &at.child("Type"), kind, texts);
        }
    }
    let nominated = status.text("nominatedNodeName");
    if !nominated.is_empty() && nominated != before.text("nominatedNodeName") {
        let at = at.child("nominatedNodeName");
        crate::checks::subdomain(&mut errors, &at, nominated);
        if old.at("spec").count("nodeName") > 0 {
            errors.push(Error::forbidden(at, "may not be set on pods that are already bound to a node"));
        }
    }
    if let Some(generation @ ..0) = status.int("observedGeneration") {
        errors.push(Error::invalid(at.child("observedGeneration"), generation, "must be a non-negative integer"));
    }
    if before.has("qosClass") && status.text("qosClass") != before.text("qosClass") {
        crate::checks::immutable(&mut errors, at.child("qosClass"), status.at("qosClass"), before.at("qosClass"));
    }
    let spec = old.at("spec");
    transitions(&mut errors, &at, "containerStatuses", status, before, spec);
    pod_addresses(&mut errors, &at, status, before);
    host_addresses(&mut errors, &at, status, before);
    for (statuses, containers) in [
        ("containerStatuses", "containers"),
        ("initContainerStatuses", "initContainers"),
        ("ephemeralContainerStatuses", "ephemeralContainers"),
    ] {
        for (i, one) in status.list(statuses).iter().enumerate() {
            let container = spec.list(containers).iter().find(|c| c.text("name") == one.text("name"));
            allocated_resources(&mut errors, &at.child(statuses).index(i), one, container);
        }
    }
    errors
}

/// `validateContainerStatusAllocatedResourcesStatus`, of one container. A status of none that there is may say anything
/// of resources; those that a claim stands for as an extended resource are not known here.
fn allocated_resources(errors: &mut ErrorList, at: &Path, status: &Value, container: Option<&Value>) {
    for (j, allocated) in status.list("allocatedResourcesStatus").iter().enumerate() {
        let (at, name) = (at.child("allocatedResourcesStatus").index(j), allocated.text("name"));
        if let Some(resources) = container.map(|container| container.at("resources"))
            && !name.starts_with("claim:")
            && !resources.at("requests").has(name)
        {
            let text = "must match one of the container's resource requests";
            errors.push(Error::invalid(at.child("name"), name, text));
        }
        let all = allocated.list("resources");
        for (k, resource) in all.iter().enumerate() {
            let at = at.child("resources").index(k);
            if !matches!(resource.text("health"), "Healthy" | "Unhealthy" | "Unknown") {
                let known = &["Healthy", "Unhealthy", "Unknown"];
                errors.push(Error::not_supported(at.child("health"), resource.text("health"), known));
            }
            if resource.at("message").as_str() == Some("") {
                errors.push(Error::required(at.child("message"), "must be non-empty if specified"));
            }
            if all[..k].iter().any(|earlier| earlier.text("resourceID") == resource.text("resourceID")) {
                errors.push(Error::duplicate(at.child("resourceID"), resource.text("resourceID")));
            }
        }
    }
}

/// `validatePodIPs`.
fn pod_addresses(errors: &mut ErrorList, at: &Path, status: &Value, before: &Value) {
    addresses(errors, &at.child("podIPs"), status.list("podIPs"), before.list("podIPs"), "[]core.PodIP");
    let (one, many, path) = (status.text("podIP"), status.list("podIPs"), at.child("podIPs"));
    if one.is_empty() != many.is_empty() {
        let text = "podIP and podIPs must either both be set or both be unset";
        errors.push(Error::invalid(path, status.at("podIPs").clone(), text).printed("[]core.PodIP"));
    } else if let Some(first) = many.first().map(|ip| ip.text("ip"))
        && one != first
    {
        errors.push(Error::invalid(path.index(0).child("ip"), first, "must be equal to `podIP`"));
    }
}

/// `validateHostIPs`.
fn host_addresses(errors: &mut ErrorList, at: &Path, status: &Value, before: &Value) {
    let (list, path) = (status.list("hostIPs"), at.child("hostIPs"));
    if let Some(first) = list.first().map(|ip| ip.text("ip"))
        && status.text("hostIP") != first
    {
        errors.push(Error::invalid(path.index(0).child("ip"), first, "must be equal to `hostIP`"));
    }
    addresses(errors, &path, list, before.list("hostIPs"), "[]core.HostIP");
}

/// New addresses are good, and there is at most one of each family.
fn addresses(errors: &mut ErrorList, at: &Path, list: &[Value], before: &[Value], ty: &str) {
    for (i, ip) in list.iter().enumerate().filter(|(_, ip)| !before.contains(ip)) {
        crate::checks::ip(errors, at.index(i), ip.text("ip"));
    }
    if list.len() < 2 {
        return;
    }
    let ips: Option<Vec<_>> = list.iter().map(|ip| api::validation::parse_ip_sloppy(ip.text("ip"))).collect();
    let dual = ips.is_some_and(|ips| ips.len() == 2 && ips[0].is_ipv4() != ips[1].is_ipv4());
    if !dual {
        let text = "may specify no more than one IP for each IP family";
        errors.push(Error::invalid(at.clone(), list.to_vec(), text).printed(ty));
    }
}

/// A container that ended and is not to restart stays ended (`ValidateContainerStateTransition`).
fn transitions(errors: &mut ErrorList, at: &Path, list: &str, new: &Value, old: &Value, spec: &Value) {
    let pod_policy = spec.text("restartPolicy");
    for (i, before) in old.list(list).iter().enumerate() {
        let ended = before.at("state").at("terminated");
        if ended.is_null() {
            continue;
        }
        let name = before.text("name");
        let Some(container) = spec.list("containers").iter().find(|c| c.text("name") == name) else { continue };
        if container.count("restartPolicyRules") > 0 {
            continue;
        }
        let policy = match container.text("restartPolicy") {
            "" => pod_policy,
            own => own,
        };
        let failed = ended.int("exitCode").unwrap_or_default() != 0;
        if policy == "Always" || policy == "OnFailure" && failed {
            continue;
        }
        let now = new.list(list).iter().find(|c| c.text("name") == name);
        if now.is_some_and(|c| !c.at("state").has("terminated")) {
            let text = "may not be transitioned to non-terminated state";
            errors.push(Error::forbidden(at.child(list).index(i).child("state"), text));
        }
    }
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
