//! Packets walk through the rules as through the kernel's chains.

use serde_json::{Value, json};

use super::*;

fn parse_as<T: serde::de::DeserializeOwned>(value: Value) -> Arc<T> {
    Arc::new(serde_json::from_value(value).unwrap())
}

/// Pods of two namespaces: `x` (labelled `team=x`) and `y`; all but `y/far` are on node `a`.
fn plan(policies: &[Value]) -> PolicyRules {
    let pod = |namespace: &str, name: &str, address: &str, node: &str, port: u16| {
        parse_as::<Pod>(json!({
            "metadata": {"namespace": namespace, "name": name, "labels": {"pod": name}},
            "spec": {"nodeName": node, "containers": [
                {"name": "c", "ports": [{"name": "serve", "containerPort": port, "protocol": "TCP"}]}]},
            "status": {"podIP": address, "phase": "Running"},
        }))
    };
    let namespace = |name: &str| parse_as::<Namespace>(json!({"metadata": {"name": name, "labels": {"team": name}}}));
    let policies: Vec<Arc<NetworkPolicy>> = policies
        .iter()
        .enumerate()
        .map(|(at, spec)| parse_as(json!({"metadata": {"namespace": "x", "name": format!("p{at}")}, "spec": spec})))
        .collect();
    plan_policies(&Input {
        node_name: "a",
        policies: &policies,
        pods: &[
            pod("x", "a", X_A, "a", 80),
            pod("x", "b", X_B, "a", 81),
            pod("y", "a", Y_A, "a", 80),
            pod("y", "far", Y_FAR, "b", 80),
        ],
        given: &BTreeMap::new(),
        namespaces: &[namespace("x"), namespace("y")],
    })
}

const X_A: &str = "10.42.0.2";
const X_B: &str = "10.42.0.3";
const Y_A: &str = "10.42.0.4";
const Y_FAR: &str = "10.42.1.4";
const OUTSIDE: &str = "198.51.100.7";

/// The first packet of a connection.
#[derive(Debug, Clone, Copy)]
struct Packet {
    from: Ipv4Addr,
    to: Ipv4Addr,
    protocol: Option<Protocol>,
    port: u16,
}

fn tcp(from: &str, to: &str, port: u16) -> Packet {
    Packet { from: from.parse().unwrap(), to: to.parse().unwrap(), protocol: Some(Protocol::Tcp), port }
}

/// Whether the packet gets to where it goes, by way of the sender's chain and then the receiver's.
fn passes(rules: &PolicyRules, packet: Packet) -> bool {
    packet.from == packet.to
        || [(&rules.egress, packet.from), (&rules.ingress, packet.to)].into_iter().all(|(isolated, pod)| {
            let Some(group) = isolated.get(&pod) else { return true };
            rules.groups[group].rules.iter().any(|rule| allows(rules, &rules.rules[rule], group, packet))
        })
}

fn allows(rules: &PolicyRules, rule: &Allow, group: &u32, packet: Packet) -> bool {
    let other = match rules.groups[group].direction {
        Direction::Ingress => packet.from,
        Direction::Egress => packet.to,
    };
    let peer = rule.peers.iter().any(|peer| match peer {
        Peer::Any => true,
        Peer::Pods(pods) => pods.contains(&other),
        Peer::Block { range, except } => range.contains(&other) && !except.iter().any(|e| e.contains(&other)),
    });
    peer && rule.ports.iter().any(|ports| match ports {
        Ports::Any => true,
        Ports::Range(protocol, range) => packet.protocol == Some(*protocol) && range.contains(&packet.port),
        Ports::Named(found) => packet.protocol.is_some_and(|p| found.contains(&(packet.to, p, packet.port))),
    })
}

fn check(policies: &[Value], expected: &[(Packet, bool)]) {
    let rules = plan(policies);
    for (packet, passed) in expected {
        assert_eq!(passes(&rules, *packet), *passed, "{packet:?} under {policies:?}: {rules:?}");
    }
}

#[test]
fn without_policies_everything_passes() {
    check(&[], &[(tcp(X_A, Y_A, 80), true), (tcp(OUTSIDE, X_A, 1), true)]);
    assert_eq!(plan(&[]), PolicyRules::default());
}

#[test]
fn a_policy_without_rules_denies_its_direction_only() {
    let ingress = json!({"podSelector": {}, "policyTypes": ["Ingress"]});
    check(
        &[ingress],
        &[
            (tcp(Y_A, X_A, 80), false),
            (tcp(X_B, X_A, 80), false),
            (tcp(X_A, Y_A, 80), true),
            (tcp(X_A, X_A, 80), true),
            (tcp(Y_A, Y_FAR, 80), true),
        ],
    );
    let egress = json!({"podSelector": {"matchLabels": {"pod": "a"}}, "policyTypes": ["Egress"]});
    check(
        &[egress],
        &[
            (tcp(X_A, Y_A, 80), false),
            (tcp(X_A, OUTSIDE, 80), false),
            (tcp(X_B, Y_A, 80), true),
            (tcp(Y_A, X_A, 80), true),
        ],
    );
}

#[test]
fn an_empty_rule_allows_everything() {
    let open = json!({"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{}]});
    let ping = Packet { protocol: None, ..tcp(OUTSIDE, X_A, 0) };
    check(&[open], &[(tcp(Y_A, X_A, 80), true), (ping, true)]);
}

#[test]
fn peers_are_chosen_by_the_labels_of_pods_and_namespaces() {
    let from = |peers: Value| json!({"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{"from": peers}]});
    let pod_b = json!({"podSelector": {"matchLabels": {"pod": "b"}}});
    check(&[from(json!([pod_b]))], &[(tcp(X_B, X_A, 80), true), (tcp(Y_A, X_A, 80), false)]);
    let team_y = json!({"namespaceSelector": {"matchLabels": {"team": "y"}}});
    check(
        &[from(json!([team_y]))],
        &[
            (tcp(X_B, X_A, 80), false),
            (tcp(Y_A, X_A, 80), true),
            (tcp(Y_FAR, X_A, 80), true),
            (tcp(OUTSIDE, X_A, 80), false),
        ],
    );
    let both =
        json!({"namespaceSelector": {"matchLabels": {"team": "y"}}, "podSelector": {"matchLabels": {"pod": "a"}}});
    check(&[from(json!([both]))], &[(tcp(Y_A, X_A, 80), true), (tcp(Y_FAR, X_A, 80), false)]);
    check(&[from(json!([pod_b, team_y]))], &[(tcp(X_B, X_A, 80), true), (tcp(Y_FAR, X_A, 80), true)]);
    let nobody = json!({"podSelector": {"matchExpressions": [{"key": "pod", "operator": "DoesNotExist"}]}});
    check(&[from(json!([nobody]))], &[(tcp(X_B, X_A, 80), false)]);
}

#[test]
fn blocks_have_exceptions() {
    let to = json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": [
        {"to": [{"ipBlock": {"cidr": "10.42.0.0/16", "except": ["10.42.1.0/24"]}}]}]});
    check(&[to], &[(tcp(X_A, Y_A, 80), true), (tcp(X_A, Y_FAR, 80), false), (tcp(X_A, OUTSIDE, 80), false)]);
}

#[test]
fn policies_add_up() {
    let deny = json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]});
    let allow = json!({"podSelector": {"matchLabels": {"pod": "a"}}, "policyTypes": ["Ingress"], "ingress": [{}]});
    check(
        &[deny, allow],
        &[
            (tcp(Y_A, X_A, 80), true),
            (tcp(Y_A, X_B, 80), false),
            (tcp(X_A, Y_A, 80), false),
            (tcp(X_B, X_A, 80), false),
        ],
    );
}

#[test]
fn ports_are_numbers_ranges_names_or_whole_protocols() {
    let at = |ports: Value| json!({"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{"ports": ports}]});
    let udp = |packet: Packet| Packet { protocol: Some(Protocol::Udp), ..packet };
    check(
        &[at(json!([{"port": 80}]))],
        &[(tcp(Y_A, X_A, 80), true), (tcp(Y_A, X_A, 81), false), (udp(tcp(Y_A, X_A, 80)), false)],
    );
    check(
        &[at(json!([{"port": 80, "endPort": 90, "protocol": "UDP"}]))],
        &[(udp(tcp(Y_A, X_A, 90)), true), (udp(tcp(Y_A, X_A, 91)), false), (tcp(Y_A, X_A, 85), false)],
    );
    check(
        &[at(json!([{"port": "serve"}]))],
        &[(tcp(Y_A, X_A, 80), true), (tcp(Y_A, X_B, 81), true), (tcp(Y_A, X_B, 80), false)],
    );
    check(&[at(json!([{"port": "nothing"}]))], &[(tcp(Y_A, X_A, 80), false)]);
    check(&[at(json!([{"protocol": "TCP"}]))], &[(tcp(Y_A, X_A, 9), true), (udp(tcp(Y_A, X_A, 9)), false)]);
}

#[test]
fn a_name_in_egress_is_a_port_of_the_other_end() {
    let to = json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": [
        {"to": [{"podSelector": {"matchLabels": {"pod": "b"}}}], "ports": [{"port": "serve"}]}]});
    check(&[to], &[(tcp(X_A, X_B, 81), true), (tcp(X_A, X_B, 80), false), (tcp(X_A, Y_A, 80), false)]);
}

#[test]
fn pods_of_other_nodes_are_peers_and_not_isolated_here() {
    let deny = json!({"podSelector": {}, "policyTypes": ["Ingress"]});
    let policy: Arc<NetworkPolicy> = parse_as(json!({"metadata": {"namespace": "y", "name": "p"}, "spec": deny}));
    let plan = |pod: Value, given: &[(&str, &str)]| {
        let given = given.iter().map(|(uid, address)| ((*uid).to_owned(), address.parse().unwrap())).collect();
        let (policies, pods) = ([Arc::clone(&policy)], [parse_as(pod)]);
        plan_policies(&Input { node_name: "a", policies: &policies, pods: &pods, given: &given, namespaces: &[] })
    };
    let far = json!({
        "metadata": {"namespace": "y", "name": "far"}, "spec": {"nodeName": "b", "containers": []},
        "status": {"podIP": Y_FAR}});
    assert_eq!(plan(far, &[]), PolicyRules::default());
    let new =
        json!({"metadata": {"namespace": "y", "name": "new", "uid": "u"}, "spec": {"nodeName": "a", "containers": []}});
    assert!(plan(new.clone(), &[]).ingress.is_empty());
    let rules = plan(new, &[("u", Y_A)]);
    assert!(!passes(&rules, tcp(X_A, Y_A, 80)), "before its status tells the address");
}
