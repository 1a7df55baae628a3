//! Mandatory and suggested flow control (apiserver `pkg/apis/flowcontrol/bootstrap/default.go`).

use api::Object;
use serde_json::{Value, json};

use super::{FLOW_AUTO, object};

const API: &str = "flowcontrol.apiserver.k8s.io/v1";

pub(crate) fn objects() -> Vec<Object> {
    // name, shares, percent that may be lent, (queues, hand size)
    let levels: [(&str, i32, i32, Option<(i32, i32)>); 7] = [
        ("catch-all", 5, 0, None),
        ("system", 30, 33, Some((64, 6))),
        ("node-high", 40, 25, Some((64, 6))),
        ("leader-election", 10, 0, Some((16, 4))),
        ("workload-high", 40, 50, Some((128, 6))),
        ("workload-low", 100, 90, Some((128, 6))),
        ("global-default", 20, 50, Some((128, 6))),
    ];
    let mut all = vec![level(
        "exempt",
        json!({
            "type": "Exempt", "exempt": {"nominalConcurrencyShares": 0, "lendablePercent": 0},
        }),
    )];
    for (name, shares, lendable, queues) in levels {
        let response = match queues {
            None => json!({"type": "Reject"}),
            Some((queues, hand)) => {
                json!({"type": "Queue", "queuing": {"queues": queues, "handSize": hand, "queueLengthLimit": 50}})
            }
        };
        let limited =
            json!({"nominalConcurrencyShares": shares, "lendablePercent": lendable, "limitResponse": response});
        all.push(level(name, json!({"type": "Limited", "limited": limited})));
    }
    let (everything, nodes) = (rules(&["*"], &["*"], &["*"], true), groups(&["system:nodes"]));
    let everybody = groups(&["system:unauthenticated", "system:authenticated"]);
    let kube_system = json!([{"kind": "ServiceAccount", "serviceAccount": {"name": "*", "namespace": "kube-system"}}]);
    let mut leaders = users(&["system:kube-controller-manager", "system:kube-scheduler"]);
    if let (Some(all), Some(more)) = (leaders.as_array_mut(), kube_system.as_array()) {
        all.extend(more.iter().cloned());
    }
    let node_rules = json!([
        rule(&["*"], &[""], &["nodes", "nodes/status"], true),
        rule(&["*"], &["coordination.k8s.io"], &["leases"], false),
    ]);
    let leases = rules(&["get", "create", "update"], &["coordination.k8s.io"], &["leases"], false);
    let (by_user, by_namespace) = (Some("ByUser"), Some("ByNamespace"));
    all.extend([
        schema("exempt", "exempt", 1, None, groups(&["system:masters"]), everything.clone(), &["*"]),
        schema("probes", "exempt", 2, None, everybody.clone(), Value::Null, &["/healthz", "/readyz", "/livez"]),
        schema("system-leader-election", "leader-election", 100, by_user, leaders, leases, &[]),
        schema("system-node-high", "node-high", 400, by_user, nodes.clone(), node_rules, &[]),
        schema("system-nodes", "system", 500, by_user, nodes, everything.clone(), &["*"]),
        schema(
            "kube-controller-manager",
            "workload-high",
            800,
            by_namespace,
            users(&["system:kube-controller-manager"]),
            everything.clone(),
            &["*"],
        ),
        schema(
            "kube-scheduler",
            "workload-high",
            800,
            by_namespace,
            users(&["system:kube-scheduler"]),
            everything.clone(),
            &["*"],
        ),
        schema(
            "kube-system-service-accounts",
            "workload-high",
            900,
            by_namespace,
            kube_system,
            everything.clone(),
            &["*"],
        ),
        schema(
            "service-accounts",
            "workload-low",
            9000,
            by_user,
            groups(&["system:serviceaccounts"]),
            everything.clone(),
            &["*"],
        ),
        schema("global-default", "global-default", 9900, by_user, everybody.clone(), everything.clone(), &["*"]),
        schema("catch-all", "catch-all", 10000, by_user, everybody, everything, &["*"]),
    ]);
    all
}

fn level(name: &str, spec: Value) -> Object {
    object(json!({
        "apiVersion": API, "kind": "PriorityLevelConfiguration",
        "metadata": {"name": name, "annotations": {FLOW_AUTO: "true"}}, "spec": spec,
    }))
}

fn groups(names: &[&str]) -> Value {
    names.iter().map(|name| json!({"kind": "Group", "group": {"name": name}})).collect()
}

fn users(names: &[&str]) -> Value {
    names.iter().map(|name| json!({"kind": "User", "user": {"name": name}})).collect()
}

fn rule(verbs: &[&str], groups: &[&str], resources: &[&str], cluster: bool) -> Value {
    let mut rule = json!({"verbs": verbs, "apiGroups": groups, "resources": resources, "namespaces": ["*"]});
    if cluster {
        rule["clusterScope"] = true.into();
    }
    rule
}

fn rules(verbs: &[&str], groups: &[&str], resources: &[&str], cluster: bool) -> Value {
    json!([rule(verbs, groups, resources, cluster)])
}

fn schema(
    name: &str,
    level: &str,
    precedence: i32,
    distinguisher: Option<&str>,
    subjects: Value,
    resource_rules: Value,
    urls: &[&str],
) -> Object {
    let mut rules = json!({"subjects": subjects});
    if !resource_rules.is_null() {
        rules["resourceRules"] = resource_rules;
    }
    if !urls.is_empty() {
        let verb = if name == "probes" { "get" } else { "*" };
        rules["nonResourceRules"] = json!([{"verbs": [verb], "nonResourceURLs": urls}]);
    }
    let mut spec = json!({
        "priorityLevelConfiguration": {"name": level}, "matchingPrecedence": precedence, "rules": [rules],
    });
    if let Some(distinguisher) = distinguisher {
        spec["distinguisherMethod"] = json!({"type": distinguisher});
    }
    object(json!({
        "apiVersion": API, "kind": "FlowSchema",
        "metadata": {"name": name, "annotations": {FLOW_AUTO: "true"}}, "spec": spec,
    }))
}
