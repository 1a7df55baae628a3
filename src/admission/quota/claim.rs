//! What claims for devices count against quotas (kubernetes `pkg/quota/v1/evaluator/core/resource_claims.go`): how many
//! devices of each class they may get. Names of extended resources that stand for a class are not looked up.

use std::collections::BTreeMap;

use api::Object;
use serde_json::Value;

use super::number;
use crate::attributes::text;
use crate::limits::Amounts;

const COUNT: &str = "count/resourceclaims.resource.k8s.io";
/// After the name of a class (`ResourceClaimsPerClass`).
const DEVICES_SUFFIX: &str = ".deviceclass.resource.k8s.io/devices";
/// Before the name of a class, for pods that ask for it by its extended resource.
const IMPLICIT_PREFIX: &str = "requests.deviceclass.resource.kubernetes.io/";
/// On claims that the scheduler makes for pods, which have counted for them already.
const FOR_EXTENDED_RESOURCES: &str = "resource.kubernetes.io/extended-resource-claim";
/// Most devices that a claim for all of them gets (`AllocationResultsMaxSize`).
const ALL_MAX: i64 = 32;

/// Whether a quota's resource is one that claims use.
pub(super) fn counts(name: &str) -> bool {
    name == COUNT || name.ends_with(DEVICES_SUFFIX)
}

pub(super) fn usage(claim: &Object) -> Amounts {
    let mut devices: BTreeMap<&str, i64> = BTreeMap::new();
    for request in claim.array(&["spec", "devices", "requests"]) {
        let alternatives = request.get("firstAvailable").and_then(Value::as_array).filter(|all| !all.is_empty());
        // Of alternatives the worst counts, for each class.
        let mut most: BTreeMap<&str, i64> = BTreeMap::new();
        let exactly = request.get("exactly").into_iter().filter(|_| alternatives.is_none());
        for one in alternatives.into_iter().flatten().chain(exactly) {
            let wanted = match text(one, "allocationMode") {
                "ExactCount" => one.get("count").and_then(Value::as_i64).unwrap_or_default(),
                "All" => ALL_MAX,
                // Modes that are not known here count nothing.
                _ => 0,
            };
            let most = most.entry(text(one, "deviceClassName")).or_default();
            *most = wanted.max(*most);
        }
        for (class, wanted) in most {
            *devices.entry(class).or_default() += wanted;
        }
    }
    let mut usage = Amounts::from([(COUNT.to_owned(), number(1))]);
    for (class, wanted) in devices {
        usage.insert(format!("{class}{DEVICES_SUFFIX}"), number(wanted));
        if wanted > 0 && !class.is_empty() && claim.annotation(FOR_EXTENDED_RESOURCES).is_none() {
            usage.insert(format!("{IMPLICIT_PREFIX}{class}"), number(wanted));
        }
    }
    usage
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn devices_are_counted_by_class() {
        let check = |requests: Value, want: &[(&str, &str)]| {
            let claim = Object::from_value(json!({"spec": {"devices": {"requests": requests}}})).unwrap();
            let found = usage(&claim);
            let devices =
                found.iter().filter_map(|(name, q)| Some((name.strip_suffix(DEVICES_SUFFIX)?, q.to_string())));
            let want: Vec<(&str, String)> = want.iter().map(|(name, count)| (*name, (*count).to_owned())).collect();
            assert_eq!(devices.collect::<Vec<_>>(), want);
            assert_eq!(found[COUNT].to_string(), "1");
        };
        let exact =
            |class: &str, count: i64| json!({"deviceClassName": class, "allocationMode": "ExactCount", "count": count});
        check(json!([]), &[]);
        check(json!([{"exactly": exact("gpu", 2)}, {"exactly": exact("gpu", 1)}]), &[("gpu", "3")]);
        check(json!([{"exactly": {"deviceClassName": "gpu", "allocationMode": "All"}}]), &[("gpu", "32")]);
        check(
            json!([{"firstAvailable": [exact("a", 1), exact("b", 2), exact("a", 4)]}, {"exactly": exact("b", 1)}]),
            &[("a", "4"), ("b", "3")],
        );
        assert!(counts("gpu.deviceclass.resource.k8s.io/devices") && !counts("count/pods"));
    }
}
