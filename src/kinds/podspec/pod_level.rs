//! Resources of a pod as a whole (KEP-2837): what is filled in from its containers, and how both must fit together.

use api::amounts::containers_amounts;
use api::field::{Error, ErrorList, Path};
use api::quantity::Quantity;
use serde_json::{Map, Value};

use super::resources::{is_huge_page, overcommits};
use crate::json::{Json, Members, amount};

/// `resourcehelper.IsSupportedPodLevelResource`.
pub(super) fn is_supported(name: &str) -> bool {
    matches!(name, "cpu" | "memory") || is_huge_page(name)
}

/// `DefaultPodLevelResources`: fills what a pod that says something of itself as a whole leaves out.
pub(crate) fn defaults(spec: &mut Members) {
    let resources = spec.at("resources");
    if resources.count("requests") == 0 && resources.count("limits") == 0 {
        return;
    }
    let spec_value = Value::Object(spec.clone());
    let mut requests = resources.at("requests").as_object().cloned().unwrap_or_default();
    let mut limits = resources.at("limits").as_object().cloned().unwrap_or_default();
    let all_limits = containers_amounts(spec, "limits");
    for (name, limit) in &all_limits {
        if is_huge_page(name) && !requests.contains_key(name) {
            limits.entry(name.clone()).or_insert_with(|| limit.canonical().into());
        }
    }
    for (name, request) in containers_amounts(spec, "requests") {
        if is_supported(&name) && overcommits(&name) {
            requests.entry(name).or_insert_with(|| request.canonical().into());
        }
    }
    for (name, limit) in limits.iter().filter(|(name, _)| is_supported(name)) {
        requests.entry(name.clone()).or_insert_with(|| limit.clone());
    }
    // Limits come from the containers only if each of them has one.
    let everywhere = |name: &str| {
        super::all_containers(&spec_value).all(|container| container.at("resources").at("limits").has(name))
    };
    for (name, request) in &requests {
        if !is_supported(name) || limits.contains_key(name) || !everywhere(name) {
            continue;
        }
        if let Some(limit) = all_limits.get(name) {
            let request = amount(request);
            let limit = if request > *limit { &request } else { limit };
            limits.insert(name.clone(), limit.canonical().into());
        }
    }
    if let Some(resources) = spec.get_mut("resources").and_then(Value::as_object_mut) {
        let mut put = |which: &str, amounts: Map<String, Value>| {
            if !amounts.is_empty() {
                resources.insert(which.to_owned(), Value::Object(amounts));
            }
        };
        put("requests", requests);
        put("limits", limits);
    }
}

/// `validatePodResourceConsistency`: the containers fit into the pod.
pub(crate) fn consistency(errors: &mut ErrorList, at: &Path, spec: &Value) {
    let resources = spec.at("resources");
    let mut must_hold = |which: &str, name: &str, all: &Quantity| {
        let whole = resources.at(which).at(name);
        if !whole.is_null() && *all > amount(whole) {
            let text = format!("must be greater than or equal to aggregate container {which} of {}", all.canonical());
            errors.push(Error::invalid(at.child(which).key(name), amount(whole).canonical(), text));
        }
    };
    let together = |which| spec.as_object().map(|spec| containers_amounts(spec, which)).unwrap_or_default();
    for (name, all) in together("requests") {
        must_hold("requests", &name, &all);
    }
    for (name, all) in together("limits").iter().filter(|(name, _)| is_huge_page(name)) {
        must_hold("limits", name, all);
    }
    for (i, container) in spec.list("containers").iter().enumerate() {
        for (name, limit) in container.at("resources").entries("limits") {
            let whole = resources.at("limits").at(name);
            if !whole.is_null() && amount(limit) > amount(whole) {
                let text = format!("must be less than or equal to pod limits of {}", amount(whole).canonical());
                let at = at.child("containers").index(i).key(name).child("limits");
                errors.push(Error::invalid(at, amount(limit).canonical(), text));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_the_pod_leaves_out_comes_from_its_containers() {
        let check = |spec: Value, want: Value| {
            let Value::Object(mut spec) = spec else { return };
            defaults(&mut spec);
            assert_eq!(spec.get("resources"), Some(&want));
        };
        let limited = json!([{"resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "2"}}},
            {"resources": {"requests": {"cpu": "500m"}, "limits": {"cpu": "1"}}}]);
        check(
            json!({"containers": limited, "resources": {"requests": {"memory": "1Gi"}}}),
            json!({"requests": {"memory": "1Gi", "cpu": "1500m"}, "limits": {"cpu": "3"}}),
        );
        check(
            json!({"containers": [{}], "resources": {"limits": {"cpu": "1"}}}),
            json!({"requests": {"cpu": "1"}, "limits": {"cpu": "1"}}),
        );
        check(
            json!({"containers": [{"resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "1"}}}],
                "resources": {"requests": {"cpu": "2"}}}),
            json!({"requests": {"cpu": "2"}, "limits": {"cpu": "2"}}),
        );
        check(json!({"containers": [{}], "resources": {}}), json!({}));
    }

    #[test]
    fn containers_fit_into_their_pod() {
        let check = |spec: Value, want: &[&str]| {
            let mut errors = ErrorList::new();
            consistency(&mut errors, &Path::new("spec").child("resources"), &spec);
            assert_eq!(errors.iter().map(ToString::to_string).collect::<Vec<_>>(), want);
        };
        check(
            json!({"containers": [{"resources": {"requests": {"memory": "100Mi"}, "limits": {"cpu": "3"}}}],
                "resources": {"requests": {"memory": "50Mi"}, "limits": {"cpu": "1"}}}),
            &[
                "spec.resources.requests[memory]: Invalid value: \"50Mi\": must be greater than or equal to aggregate \
                 container requests of 100Mi",
                "spec.resources.containers[0][cpu].limits: Invalid value: \"3\": must be less than or equal to pod \
                 limits of 1",
            ],
        );
        check(json!({"containers": [{}], "resources": {"limits": {"cpu": "1"}}}), &[]);
    }
}
