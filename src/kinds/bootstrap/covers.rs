//! Which rules lack in a role (upstream `k8s.io/component-helpers/auth/rbac/validation/policy_comparator.go`).

use serde_json::{Value, json};

use crate::json::Json;

/// The single permissions of `wanted` that no rule of `have` gives, each as a rule.
pub(super) fn missing(have: &[Value], wanted: &[Value]) -> Vec<Value> {
    let mut missing: Vec<Value> = wanted.iter().flat_map(break_down).collect();
    missing.retain(|rule| !have.iter().any(|owner| covers(owner, rule)));
    missing
}

/// Rules with one verb, one group, one resource and at most one name, or one verb and one URL (`BreakdownRule`).
fn break_down(rule: &Value) -> Vec<Value> {
    let mut all = Vec::new();
    let names = rule.list("resourceNames");
    for group in rule.list("apiGroups") {
        for resource in rule.list("resources") {
            for verb in rule.list("verbs") {
                let one = json!({"apiGroups": [group], "resources": [resource], "verbs": [verb]});
                if names.is_empty() {
                    all.push(one);
                    continue;
                }
                for name in names {
                    let mut one = one.clone();
                    one["resourceNames"] = json!([name]);
                    all.push(one);
                }
            }
        }
    }
    for url in rule.list("nonResourceURLs") {
        all.extend(rule.list("verbs").iter().map(|verb| json!({"nonResourceURLs": [url], "verbs": [verb]})));
    }
    all
}

/// Whether `owner` gives the single permission `rule` (`ruleCovers`).
fn covers(owner: &Value, rule: &Value) -> bool {
    let has = |member: &str, text: &str| owner.list(member).iter().any(|item| item == text);
    let all = |member: &str| rule.list(member).iter().filter_map(Value::as_str);
    let verbs = has("verbs", "*") || all("verbs").all(|verb| has("verbs", verb));
    let groups = has("apiGroups", "*") || all("apiGroups").all(|group| has("apiGroups", group));
    let resources = has("resources", "*")
        || all("resources").all(|path| {
            let any = path.split_once('/').is_some_and(|(_, sub)| has("resources", &format!("*/{sub}")));
            any || has("resources", path)
        });
    let urls = all("nonResourceURLs").all(|path| {
        let mut owners = owner.list("nonResourceURLs").iter().filter_map(Value::as_str);
        owners.any(|own| own == path || (own.ends_with('*') && path.starts_with(own.trim_end_matches('*'))))
    });
    let names = owner.list("resourceNames").is_empty()
        || (!rule.list("resourceNames").is_empty() && all("resourceNames").all(|name| has("resourceNames", name)));
    verbs && groups && resources && urls && names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_lacks_is_added() {
        let check = |have: Value, wanted: Value, lacking: Value| {
            let rules = |value: &Value| value.as_array().cloned().unwrap_or_default();
            assert_eq!(json!(missing(&rules(&have), &rules(&wanted))), lacking, "{have} {wanted}");
        };
        let rule = |groups: &[&str], resources: &[&str], verbs: &[&str]| json!({"apiGroups": groups, "resources": resources, "verbs": verbs});
        let pods = rule(&[""], &["pods"], &["get", "list"]);
        check(json!([pods]), json!([pods]), json!([]));
        check(json!([]), json!([pods]), json!([rule(&[""], &["pods"], &["get"]), rule(&[""], &["pods"], &["list"])]));
        // Spread over other rules, and wider ones.
        let get = rule(&["", "x"], &["pods", "nodes"], &["get"]);
        check(json!([get, rule(&[""], &["*"], &["list"])]), json!([pods]), json!([]));
        check(json!([rule(&["*"], &["*"], &["*"])]), json!([pods]), json!([]));
        check(json!([rule(&[""], &["*/scale"], &["get"])]), json!([rule(&[""], &["a/scale"], &["get"])]), json!([]));
        // Names narrow.
        let mut named = rule(&[""], &["pods"], &["get"]);
        named["resourceNames"] = json!(["a"]);
        check(json!([named]), json!([rule(&[""], &["pods"], &["get"])]), json!([rule(&[""], &["pods"], &["get"])]));
        check(json!([rule(&[""], &["pods"], &["get"])]), json!([named]), json!([]));
        let url = |path: &str| json!({"nonResourceURLs": [path], "verbs": ["get"]});
        check(json!([url("/healthz/*")]), json!([url("/healthz/ping")]), json!([]));
        check(json!([url("/healthz")]), json!([url("/livez")]), json!([url("/livez")]));
    }
}
