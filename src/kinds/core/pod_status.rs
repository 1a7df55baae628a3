//! What may be said of the state of a pod (`podStatusStrategy`, `ValidatePodStatusUpdate`).

use api::Object;
use api::field::{Error, ErrorList, Path};
use api::kind::RequestContext;
use serde_json::Value;

use crate::checks::{label_name, subdomain};
use crate::json::{Json, Members, amount, child, existing, items_mut, restore};
use crate::printed::Printed;

/// `podStatusStrategy.PrepareForUpdate`.
pub(super) fn prepare(_: &RequestContext<'_>, object: &mut Object, old: &Object) {
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
    // There may be several conditions of a type: the first keeps what the first had.
    let mut earlier: Vec<&Value> = before.list("conditions").iter().collect();
    for condition in items_mut(status, "conditions") {
        let kind = condition.text("type").to_owned();
        let Some(i) = earlier.iter().position(|c| c.text("type") == kind) else { continue };
        let generation = earlier.remove(i).int("observedGeneration").unwrap_or_default();
        if generation != 0 && condition.int("observedGeneration").unwrap_or_default() == 0 {
            condition.insert("observedGeneration".to_owned(), generation.into());
        }
    }
    drop_disabled(status, before);
}

/// What belongs to features that v1.37 has switched off (`dropDisabledPodStatusFields`): `ImageVolumeWithDigest`,
/// `DRANodeAllocatableResources` and `CSIVolumeHealth`. What was there stays in use.
fn drop_disabled(status: &mut Members, before: &Value) {
    const LISTS: [&str; 3] = ["containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"];
    let mounts = |status: &Value| status.list("volumeMounts").iter().any(|mount| mount.has("volumeStatus"));
    if !LISTS.iter().any(|list| before.list(list).iter().any(mounts)) {
        for list in LISTS {
            for container in items_mut(status, list) {
                for mount in items_mut(container, "volumeMounts") {
                    mount.remove("volumeStatus");
                }
            }
        }
    }
    for member in ["nodeAllocatableResourceClaimStatuses", "volumeHealth"] {
        if before.count(member) == 0 {
            status.remove(member);
        }
    }
}

/// `ValidatePodStatusUpdate`.
pub(super) fn validate(object: &Object, old: &Object) -> ErrorList {
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
    for (statuses, containers) in LISTS {
        transitions(&mut errors, &at.child(statuses), (status.list(statuses), before.list(statuses)), spec, containers);
    }
    claims(&mut errors, &at.child("resourceClaimStatuses"), status, object.at("spec"));
    extended(&mut errors, &at.child("extendedResourceClaimStatus"), status, object.at("spec"));
    pod_addresses(&mut errors, &at, status, before);
    host_addresses(&mut errors, &at, status, before);
    let windows = object.at("spec").at("os").text("name") == "windows";
    for (statuses, _) in LISTS {
        for (i, one) in status.list(statuses).iter().enumerate() {
            user(&mut errors, &at.child(statuses).index(i).child("user").child("linux"), one.at("user"), windows);
        }
    }
    for (statuses, containers) in LISTS {
        for (i, one) in status.list(statuses).iter().enumerate() {
            let at = at.child(statuses).index(i);
            if statuses == "ephemeralContainerStatuses" {
                if one.count("allocatedResourcesStatus") > 0 {
                    let text = "must not be specified in container status";
                    errors.push(Error::forbidden(at.child("allocatedResourcesStatus"), text));
                }
                continue;
            }
            let container = spec.list(containers).iter().find(|c| c.text("name") == one.text("name"));
            allocated_resources(&mut errors, &at, one, container, status.at("extendedResourceClaimStatus"));
        }
    }
    errors
}

/// Statuses with the containers that they are of.
const LISTS: [(&str, &str); 3] = [
    ("containerStatuses", "containers"),
    ("initContainerStatuses", "initContainers"),
    ("ephemeralContainerStatuses", "ephemeralContainers"),
];

/// `validatePodResourceClaimStatuses`.
fn claims(errors: &mut ErrorList, at: &Path, status: &Value, spec: &Value) {
    let list = status.list("resourceClaimStatuses");
    for (i, one) in list.iter().enumerate() {
        let (at, name) = (at.index(i), one.text("name"));
        if !spec.list("resourceClaims").iter().any(|claim| claim.text("name") == name) {
            let text = "must match the name of an entry in `spec.resourceClaims`";
            errors.push(Error::invalid(at.child("name"), name, text));
        }
        if list[..i].iter().any(|earlier| earlier.text("name") == name) {
            errors.push(Error::duplicate(at.child("name"), name));
        }
        if one.has("resourceClaimName") {
            subdomain(errors, &at.child("resourceClaimName"), one.text("resourceClaimName"));
        }
    }
}

/// `validatePodExtendedResourceClaimStatus`.
fn extended(errors: &mut ErrorList, at: &Path, status: &Value, spec: &Value) {
    const UNKNOWN: &str = "must match the name of an entry in spec.initContainers.name or spec.containers.name";
    const NOT_ASKED: &str = "must match the extended resource name of an entry in \
        spec.initContainers.resources.requests or spec.containers.resources.requests";
    let extended = status.at("extendedResourceClaimStatus");
    if extended.is_null() {
        return;
    }
    let mappings = extended.list("requestMappings");
    if mappings.is_empty() {
        errors.push(Error::required(at.child("requestMappings"), "at least one request mapping is required"));
    }
    let parts = |mapping: &Value| ["containerName", "resourceName", "requestName"].map(|m| mapping.text(m).to_owned());
    for (i, mapping) in mappings.iter().enumerate() {
        let to = at.child("requestMappings").index(i);
        let (name, resource, request) =
            (mapping.text("containerName"), mapping.text("resourceName"), mapping.text("requestName"));
        let mut containers = spec.list("containers").iter().chain(spec.list("initContainers"));
        match containers.find(|c| c.text("name") == name) {
            None => errors.push(Error::invalid(to.child("containerName"), name, UNKNOWN)),
            Some(container) if !container.at("resources").at("requests").has(resource) => {
                errors.push(Error::invalid(to.child("resourceName"), resource, NOT_ASKED));
            }
            Some(_) => {}
        }
        label_name(errors, &at.child("requestName"), request);
        if mappings[..i].iter().any(|earlier| parts(earlier) == parts(mapping)) {
            for (member, value) in [("containerName", name), ("resourceName", resource), ("requestName", request)] {
                errors.push(Error::duplicate(to.child(member), value));
            }
        }
    }
    match extended.text("resourceClaimName") {
        "" => errors.push(Error::required(at.child("resourceClaimName"), "")),
        name => subdomain(errors, &at.child("resourceClaimName"), name),
    }
}

/// `validateContainerStatusUsers`, of one container.
fn user(errors: &mut ErrorList, at: &Path, user: &Value, windows: bool) {
    let linux = user.at("linux");
    if linux.is_null() {
        return;
    }
    if windows {
        errors.push(Error::forbidden(at.clone(), "cannot be set for a windows pod"));
        return;
    }
    let mut id = |at: Path, value: &Value, most: i64| {
        let id = value.as_i64().unwrap_or_default();
        if !(0..=most).contains(&id) {
            errors.push(Error::invalid(at, id, format!("must be between 0 and {most}, inclusive")));
        }
    };
    id(at.child("uid"), linux.at("uid"), i64::from(u32::MAX));
    id(at.child("gid"), linux.at("gid"), i64::from(i32::MAX));
    for (i, group) in linux.list("supplementalGroups").iter().enumerate() {
        id(at.child("supplementalGroups").index(i), group, i64::from(i32::MAX));
    }
}

/// `validateContainerStatusAllocatedResourcesStatus`, of one container. A status of none that there is may say anything
/// of resources.
fn allocated_resources(errors: &mut ErrorList, at: &Path, status: &Value, container: Option<&Value>, extended: &Value) {
    const CLAIM: &str = "must match one of the container's resource claims as 'claim:<claimName>/<requestName>' when \
        container.resources.claims[*].request is set or 'claim:<claimName>' when it is empty";
    for (j, allocated) in status.list("allocatedResourcesStatus").iter().enumerate() {
        let (at, name) = (at.child("allocatedResourcesStatus").index(j), allocated.text("name"));
        let known = |container: &Value| match name.strip_prefix("claim:") {
            None => container.at("resources").at("requests").has(name),
            Some(claim) => is_claimed(container, claim) || stands_for(extended, container, claim),
        };
        if container.is_some_and(|container| !known(container)) {
            let text = match name.starts_with("claim:") {
                true => CLAIM,
                false => "must match one of the container's resource requests",
            };
            errors.push(Error::invalid(at.child("name"), name, text));
        }
        let all = allocated.list("resources");
        for (k, resource) in all.iter().enumerate() {
            let at = at.child("resources").index(k);
            let health = &["Healthy", "Unhealthy", "Unknown"];
            if !health.contains(&resource.text("health")) {
                errors.push(Error::not_supported(at.child("health"), resource.text("health"), health));
            }
            match resource.at("message").as_str() {
                Some("") => errors.push(Error::required(at.child("message"), "must be non-empty if specified")),
                Some(text) if text.len() > MESSAGE_BYTES_MAX => {
                    errors.push(Error::too_long(at.child("message"), MESSAGE_BYTES_MAX));
                }
                _ => {}
            }
            if all[..k].iter().any(|earlier| earlier.text("resourceID") == resource.text("resourceID")) {
                errors.push(Error::duplicate(at.child("resourceID"), resource.text("resourceID")));
            }
        }
    }
}

/// `ResourceHealthMessageMaxLength`.
const MESSAGE_BYTES_MAX: usize = 1024;

fn is_claimed(container: &Value, name: &str) -> bool {
    container.at("resources").list("claims").iter().any(|claim| match claim.text("request") {
        "" => claim.text("name") == name,
        request => format!("{}/{request}", claim.text("name")) == name,
    })
}

/// Whether a request of the claim made for the pod stands for an extended resource that the container asks for.
fn stands_for(extended: &Value, container: &Value, name: &str) -> bool {
    let Some((claim, request)) = name.split_once('/') else { return false };
    claim == extended.text("resourceClaimName")
        && extended.list("requestMappings").iter().any(|mapping| {
            let asked = container.at("resources").at("requests").at(mapping.text("resourceName"));
            mapping.text("containerName") == container.text("name")
                && mapping.text("requestName") == request
                && !asked.is_null()
                && amount(asked).sign() != 0
        })
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

/// A container that ended and is not to restart stays ended (`ValidateContainerStateTransition` and its siblings).
fn transitions(errors: &mut ErrorList, at: &Path, (new, old): (&[Value], &[Value]), spec: &Value, containers: &str) {
    let all = |rule: &Value| rule.text("action") == "RestartAllContainers";
    let restarts_all = |list| spec.list(list).iter().any(|c| c.list("restartPolicyRules").iter().any(all));
    let ephemeral = containers == "ephemeralContainers";
    if !ephemeral && (restarts_all("initContainers") || restarts_all("containers")) {
        return;
    }
    for (i, before) in old.iter().enumerate().filter(|(_, status)| status.at("state").has("terminated")) {
        let (name, code) = (before.text("name"), before.at("state").at("terminated").int("exitCode"));
        let now = new.iter().find(|status| status.text("name") == name);
        if now.is_none_or(|status| status.at("state").has("terminated")) {
            continue;
        }
        let container = spec.list(containers).iter().find(|c| c.text("name") == name).filter(|_| !ephemeral);
        if !container.is_some_and(|c| restarts(c, spec.text("restartPolicy"), code.unwrap_or_default())) {
            let text = "may not be transitioned to non-terminated state";
            errors.push(Error::forbidden(at.index(i).child("state"), text));
        }
    }
}

/// `ContainerShouldRestart`.
fn restarts(container: &Value, pod_policy: &str, code: i64) -> bool {
    if container.has("restartPolicy") {
        let matches = |rule: &&Value| {
            let codes = rule.at("exitCodes");
            let listed = codes.list("values").iter().any(|value| value.as_i64() == Some(code));
            codes.text("operator") == "In" && listed || codes.text("operator") == "NotIn" && !listed
        };
        let rule = container.list("restartPolicyRules").iter().find(matches);
        if rule.is_some_and(|rule| matches!(rule.text("action"), "Restart" | "RestartAllContainers")) {
            return true;
        }
    }
    match (container.text("restartPolicy"), pod_policy) {
        ("Always", _) => true,
        ("Never", _) => false,
        ("OnFailure", _) | (_, "OnFailure") => code != 0,
        (_, policy) => policy != "Never",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told(status: Value, before: Value, spec: Value) -> Vec<String> {
        let object = |status: Value| {
            let Value::Object(object) = json!({"spec": spec, "status": status}) else { unreachable!() };
            Object(object)
        };
        validate(&object(status), &object(before)).iter().map(|e| e.path.to_string()).collect()
    }

    #[test]
    fn what_ended_stays_ended_unless_it_restarts() {
        let check = |container: Value, policy: &str, code: i64, good: bool| {
            let status = |state: Value| json!({"containerStatuses": [{"name": "c", "state": state}]});
            let found = told(
                status(json!({"running": {}})),
                status(json!({"terminated": {"exitCode": code}})),
                json!({"restartPolicy": policy, "containers": [container]}),
            );
            assert_eq!(found.is_empty(), good, "{container} {policy} {code}");
        };
        check(json!({"name": "c"}), "Always", 0, true);
        check(json!({"name": "c"}), "Never", 1, false);
        check(json!({"name": "c"}), "OnFailure", 1, true);
        check(json!({"name": "c"}), "OnFailure", 0, false);
        check(json!({"name": "d"}), "Always", 0, false);
        let rules = json!([{"action": "Restart", "exitCodes": {"operator": "In", "values": [7]}}]);
        check(json!({"name": "c", "restartPolicy": "Never", "restartPolicyRules": rules}), "Always", 7, true);
        check(json!({"name": "c", "restartPolicy": "Never", "restartPolicyRules": rules}), "Always", 8, false);
    }

    #[test]
    fn statuses_of_claims_are_those_of_the_pod() {
        let spec = json!({"resourceClaims": [{"name": "a"}],
            "containers": [{"name": "c", "resources": {"requests": {"example.com/gpu": "1"}}}]});
        let check = |status: Value, want: &[&str]| assert_eq!(told(status, json!({}), spec.clone()), want);
        check(json!({"resourceClaimStatuses": [{"name": "a", "resourceClaimName": "b"}]}), &[]);
        check(json!({"resourceClaimStatuses": [{"name": "b"}]}), &["status.resourceClaimStatuses[0].name"]);
        let mapping = json!({"containerName": "c", "resourceName": "example.com/gpu", "requestName": "r"});
        check(json!({"extendedResourceClaimStatus": {"resourceClaimName": "x", "requestMappings": [mapping]}}), &[]);
        check(
            json!({"extendedResourceClaimStatus": {"requestMappings": [{"containerName": "d", "requestName": "r"}]}}),
            &[
                "status.extendedResourceClaimStatus.requestMappings[0].containerName",
                "status.extendedResourceClaimStatus.resourceClaimName",
            ],
        );
    }
}
