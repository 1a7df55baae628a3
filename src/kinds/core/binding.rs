//! `pods/binding` and the old `bindings`: a pod gets its node (`pkg/registry/core/pod/storage/storage.go`).

use api::field::{Error, Path};
use api::kind::Action;
use api::services::ActionContext;
use api::{GroupResource, Gvr, Object, Status};
use async_trait::async_trait;
use serde_json::{Value, json};

use crate::json::{Json, child, dig};
use crate::timestamp;

pub(super) struct Binding;

#[async_trait]
impl Action for Binding {
    async fn run(&self, ctx: &ActionContext<'_>, namespace: &str, name: &str, body: Object) -> Result<Object, Status> {
        // The old resource has the name in its body alone.
        let name = if name.is_empty() { body.name().to_owned() } else { name.to_owned() };
        if body.name() != name {
            return Err(Status::bad_request("name in URL does not match name in Binding object"));
        }
        check(&body)?;
        let pods = Gvr::new("", "v1", "pods");
        let now = timestamp(ctx.now);
        let change = |pod: &mut Object| assign(pod, &body, &now, ctx.dry_run);
        if ctx.dry_run {
            let mut pod = ctx.registry.get(&pods, namespace, &name).await?;
            change(&mut pod)?;
        } else {
            ctx.registry.update(&pods, namespace, &name, &change).await?;
        }
        Ok(success())
    }
}

/// `metav1.Status` for actions that answer nothing else.
pub(super) fn success() -> Object {
    let mut status = Object::default();
    status.set(&["kind"], "Status");
    status.set(&["apiVersion"], "v1");
    status.set(&["metadata"], json!({}));
    status.set(&["status"], "Success");
    status
}

/// `ValidatePodBinding`.
fn check(body: &Object) -> Result<(), Status> {
    let target = body.at("target");
    let at = Path::new("target");
    let mut errors = Vec::new();
    if !matches!(target.text("kind"), "" | "Node") {
        let supported = &["Node", "<empty>"];
        errors.push(Error::not_supported(at.child("kind"), target.text("kind"), supported));
    }
    if target.text("name").is_empty() {
        errors.push(Error::required(at.child("name"), ""));
    }
    // Nobody makes an invalid object of it.
    let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
    match texts.as_slice() {
        [] => Ok(()),
        [one] => Err(Status::new(500, "", one.as_str())),
        many => Err(Status::new(500, "", format!("[{}]", many.join(", ")))),
    }
}

fn assign(pod: &mut Object, body: &Object, now: &str, dry_run: bool) -> Result<(), Status> {
    let name = pod.name().to_owned();
    // A dry run asks before the store does, which knows the prefix.
    let prefix = if dry_run { "" } else { "/registry" };
    let key = format!("{prefix}/pods/{}/{name}", pod.namespace());
    for (member, own) in [("uid", pod.uid()), ("resourceVersion", pod.resource_version())] {
        let wanted = dig(body, &["metadata", member]).as_str().unwrap_or_default();
        if !wanted.is_empty() && wanted != own {
            let noun = if member == "uid" { "UID" } else { "ResourceVersion" };
            let why = format!(
                "StorageError: invalid object, Code: 4, Key: {key}, ResourceVersion: 0, AdditionalErrorMsg: Precondition \
                 failed: {noun} in precondition: {wanted}, {noun} in object meta: {own}"
            );
            return Err(Status::conflict(&super::connect::pods(), &name, why));
        }
    }
    let conflict = |why: String| Status::conflict(&GroupResource::new("", "pods/binding"), &name, why);
    if pod.is_deleting() {
        return Err(conflict(format!("pod {name} is being deleted, cannot be assigned to a host")));
    }
    let assigned = pod.at("spec").text("nodeName");
    if !assigned.is_empty() {
        return Err(conflict(format!("pod {name} is already assigned to node {assigned:?}")));
    }
    if pod.at("spec").count("schedulingGates") > 0 {
        return Err(conflict(format!("pod {name} has non-empty .spec.schedulingGates")));
    }
    pod.set(&["spec", "nodeName"], body.at("target").text("name"));
    pod.remove(&["status", "nominatedNodeName"]);
    for member in ["annotations", "labels"] {
        for (key, value) in body.at("metadata").entries(member) {
            pod.set(&["metadata", member, key], value.clone());
        }
    }
    set_condition(pod, json!({"type": "PodScheduled", "status": "True"}), now);
    Ok(())
}

/// `UpdatePodCondition`: replaces the condition of that type; its transition time moves only with its status.
pub(super) fn set_condition(pod: &mut Object, condition: Value, now: &str) {
    let Some(status) = child(&mut pod.0, "status") else { return };
    let list = status.entry("conditions").or_insert_with(|| Value::Array(Vec::new()));
    let Some(list) = list.as_array_mut() else { return };
    let kind = condition.text("type").to_owned();
    let mut condition = condition;
    let old = list.iter().position(|c| c.text("type") == kind);
    let since = match old.map(|at| &list[at]) {
        Some(old) if old.text("status") == condition.text("status") => old.at("lastTransitionTime").clone(),
        _ => now.into(),
    };
    condition["lastProbeTime"] = Value::Null;
    condition["lastTransitionTime"] = since;
    match old {
        Some(at) => list[at] = condition,
        None => list.push(condition),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(value: Value) -> Object {
        Object::from_value(value).unwrap()
    }

    #[test]
    fn a_free_pod_gets_its_node() {
        let mut pod = object(json!({"metadata": {"name": "p", "uid": "1"}, "spec": {}}));
        let body = object(
            json!({"metadata": {"name": "p", "annotations": {"a": "b"}}, "target": {"kind": "Node", "name": "n"}}),
        );
        assign(&mut pod, &body, "2026-01-01T00:00:00Z", false).unwrap();
        assert_eq!(pod.str(&["spec", "nodeName"]), Some("n"));
        assert_eq!(pod.annotation("a"), Some("b"));
        assert_eq!(pod.array(&["status", "conditions"])[0].text("status"), "True");
    }

    #[test]
    fn a_pod_is_bound_once() {
        let mut pod = object(json!({"metadata": {"name": "p"}, "spec": {"nodeName": "m"}}));
        let body = object(json!({"metadata": {"name": "p"}, "target": {"name": "n"}}));
        let status = assign(&mut pod, &body, "", false).unwrap_err();
        assert_eq!(status.code, 409);
        assert_eq!(
            status.message,
            "Operation cannot be fulfilled on pods/binding \"p\": pod p is already assigned to node \"m\""
        );
    }
}
