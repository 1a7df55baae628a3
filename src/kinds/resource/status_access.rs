//! Who may write which part of a claim's status (KEP-4817, `DRAResourceClaimGranularStatusAuthorization`; upstream
//! `pkg/registry/resource/utils.go`): allocations need a permission of their own, and statuses of devices one for each driver.

use api::field::{Error, ErrorList, Path};
use api::services::{ActionContext, AuthorizationAttributes};
use api::{GroupResource, Object, Status};
use serde_json::Value;

use crate::json::{Json, same};

use super::claim::device_id;

const NODE_NAME: &str = "authentication.kubernetes.io/node-name";

/// `AuthorizedForBinding` and `AuthorizedForDeviceStatus`; `verb` is the request's.
pub(super) async fn check(ctx: &ActionContext<'_>, verb: &str, object: &Object, old: &Object) -> ErrorList {
    let mut errors = ErrorList::new();
    let (status, before, at) = (object.at("status"), old.at("status"), Path::new("status"));
    if ["allocation", "reservedFor"].iter().any(|member| !same(status.at(member), before.at(member)))
        && let Some(why) = refused(ctx, &asked(verb, "binding", "", "")).await
    {
        let text = format!(
            "changing status.allocation or status.reservedFor requires resource=\"resourceclaims/binding\", \
             verb=\"{verb}\" permission: {why}"
        );
        errors.push(Error::forbidden(at.child("allocation"), text));
    }
    if !status.has("allocation") {
        // The statuses of devices go with the allocation.
        return errors;
    }
    let mut verbs = vec![format!("arbitrary-node:{verb}")];
    if is_on_node(ctx, allocated_node(status.at("allocation"))) {
        verbs.insert(0, format!("associated-node:{verb}"));
    }
    for driver in changed_drivers(status.list("devices"), before.list("devices")) {
        let mut first = None;
        for verb in &verbs {
            match refused(ctx, &asked(verb, "driver", object.namespace(), driver)).await {
                None => {
                    first = None;
                    break;
                }
                Some(why) => first = first.or(Some(why)),
            }
        }
        if let Some(why) = first {
            let text = format!(
                "changing status.devices requires resource=\"resourceclaims/driver\", verb=\"[{}]\" permission: {why}",
                verbs.join(" ")
            );
            errors.push(Error::forbidden(at.child("devices"), text));
        }
    }
    errors
}

fn asked(verb: &str, subresource: &str, namespace: &str, name: &str) -> AuthorizationAttributes {
    AuthorizationAttributes {
        verb: verb.to_owned(),
        is_resource: true,
        group: "resource.k8s.io".to_owned(),
        version: "v1".to_owned(),
        resource: "resourceclaims".to_owned(),
        subresource: subresource.to_owned(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        ..AuthorizationAttributes::default()
    }
}

/// Why the user may not; `None` for one who may.
async fn refused(ctx: &ActionContext<'_>, asked: &AuthorizationAttributes) -> Option<String> {
    let (decision, failure) = ctx.authorizer.authorize_or_fail(ctx.user, asked).await;
    if decision.allowed() {
        return None;
    }
    let mut why = asked.refusal(ctx.user);
    let reason = match (failure, decision.reason()) {
        (Some(failure), "") => failure,
        (Some(failure), reason) => format!("{failure}: {reason}"),
        (None, reason) => reason.to_owned(),
    };
    if !reason.is_empty() {
        why = format!("{why}: {reason}");
    }
    Some(Status::forbidden(&GroupResource::new("resource.k8s.io", "resourceclaims"), &asked.name, why).message)
}

/// Drivers of devices whose statuses came, went or changed, in order (`getModifiedDrivers`).
fn changed_drivers<'v>(new: &'v [Value], old: &'v [Value]) -> Vec<&'v str> {
    let unchanged = |device: &Value, others: &[Value]| {
        // Of several of one device the last counts.
        others.iter().rfind(|other| device_id(other) == device_id(device)).is_some_and(|other| same(other, device))
    };
    let mut drivers: Vec<&str> = new
        .iter()
        .filter(|device| !unchanged(device, old))
        .chain(old.iter().filter(|device| !new.iter().any(|other| device_id(other) == device_id(device))))
        .map(|device| device.text("driver"))
        .collect();
    drivers.sort_unstable();
    drivers.dedup();
    drivers
}

/// The one node that an allocation names (`nodeNameFromAllocation`).
fn allocated_node(allocation: &Value) -> &str {
    let [term] = allocation.at("nodeSelector").list("nodeSelectorTerms") else { return "" };
    let ([], [field]) = (term.list("matchExpressions"), term.list("matchFields")) else { return "" };
    match field.list("values") {
        [name] if field.text("key") == "metadata.name" && field.text("operator") == "In" => {
            name.as_str().unwrap_or_default()
        }
        _ => "",
    }
}

/// Whether the user is a service account of a pod on that node (`saAssociatedWithAllocatedNode`).
fn is_on_node(ctx: &ActionContext<'_>, node: &str) -> bool {
    let account = ctx.user.name.strip_prefix("system:serviceaccount:");
    let is_account = account.is_some_and(|rest| rest.split(':').filter(|part| !part.is_empty()).count() == 2);
    let on = ctx.user.extra.get(NODE_NAME).map(Vec::as_slice);
    !node.is_empty()
        && is_account
        && api::validation::dns1123_subdomain(node, false).is_empty()
        && matches!(on, Some([name]) if name == node)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_node_of_an_allocation_is_the_only_one() {
        let check = |terms: Value, want: &str| {
            assert_eq!(allocated_node(&json!({"nodeSelector": {"nodeSelectorTerms": terms}})), want);
        };
        let field = json!({"key": "metadata.name", "operator": "In", "values": ["n"]});
        check(json!([{"matchFields": [field]}]), "n");
        check(json!([{"matchFields": [field]}, {"matchFields": [field]}]), "");
        check(json!([{"matchFields": [field], "matchExpressions": [{"key": "a", "operator": "Exists"}]}]), "");
        check(json!([]), "");
    }

    #[test]
    fn drivers_whose_statuses_change_are_asked_about() {
        let device =
            |driver: &str, data: i64| json!({"driver": driver, "pool": "p", "device": "d", "data": {"n": data}});
        let check = |new: &[Value], old: &[Value], want: &[&str]| assert_eq!(changed_drivers(new, old), want);
        check(&[device("a", 1)], &[device("a", 1)], &[]);
        check(&[device("b", 2), device("a", 1)], &[device("b", 1)], &["a", "b"]);
        check(&[], &[device("c", 1)], &["c"]);
    }
}
