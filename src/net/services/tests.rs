use serde_json::{Value, json};

use super::*;

fn parse<T: serde::de::DeserializeOwned>(value: Value) -> Arc<T> {
    Arc::new(serde_json::from_value(value).unwrap())
}

fn service(spec: Value) -> Arc<Service> {
    parse(json!({"metadata": {"namespace": "shop", "name": "web"}, "spec": spec}))
}

fn slice(endpoints: Value) -> Arc<EndpointSlice> {
    parse(json!({
        "metadata": {"namespace": "shop", "name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
    }))
}

fn endpoint(address: &str, node: &str, conditions: Value) -> Value {
    json!({"addresses": [address], "nodeName": node, "conditions": conditions})
}

fn plan(spec: Value, endpoints: Value) -> Rules {
    plan_rules(&Input {
        node_name: "a",
        zone: "z",
        services: &[service(spec)],
        slices: &[slice(endpoints)],
        pods: &[],
        local: &[],
    })
}

fn lead(rules: &Rules, place: Place, port: u16) -> Option<Vec<String>> {
    let policy = rules.frontends.get(&(place, Protocol::Tcp, port))?;
    let id = match policy {
        Policy::Plain { backend, .. } => backend,
        Policy::PreferLocal { local, .. } => local,
        Policy::Drop => return Some(Vec::new()),
    };
    Some(rules.backends[id].endpoints.iter().map(|(address, port)| format!("{address}:{port}")).collect())
}

const CLUSTER_IP: Place = Place::Address(Ipv4Addr::new(10, 43, 0, 7));

fn spec(more: Value) -> Value {
    let mut spec = json!({
        "clusterIP": "10.43.0.7", "type": "NodePort",
        "ports": [{"name": "http", "port": 80, "nodePort": 30080, "protocol": "TCP"}],
    });
    for (key, value) in more.as_object().unwrap() {
        spec[key] = value.clone();
    }
    spec
}

#[test]
fn ready_endpoints_are_used_and_terminating_ones_only_for_want_of_them() {
    let ready = endpoint("10.42.0.2", "a", json!({"ready": true}));
    let unready = endpoint("10.42.0.3", "a", json!({"ready": false}));
    let leaving = endpoint("10.42.0.4", "a", json!({"ready": false, "serving": true, "terminating": true}));
    let rules = plan(spec(json!({})), json!([ready, unready, leaving]));
    assert_eq!(lead(&rules, CLUSTER_IP, 80).unwrap(), ["10.42.0.2:8080"]);
    assert_eq!(lead(&rules, Place::Node, 30080).unwrap(), ["10.42.0.2:8080"]);
    let rules = plan(spec(json!({})), json!([unready, leaving]));
    assert_eq!(lead(&rules, CLUSTER_IP, 80).unwrap(), ["10.42.0.4:8080"]);
    let rules = plan(spec(json!({})), json!([unready]));
    assert!(!rules.answers(rules.frontends[&(CLUSTER_IP, Protocol::Tcp, 80)]));
}

#[test]
fn local_policy_keeps_to_this_node() {
    let endpoints = json!([endpoint("10.42.0.2", "a", json!({})), endpoint("10.42.1.2", "b", json!({}))]);
    let rules = plan(spec(json!({"externalTrafficPolicy": "Local"})), endpoints.clone());
    assert_eq!(lead(&rules, Place::Node, 30080).unwrap(), ["10.42.0.2:8080"]);
    assert_eq!(lead(&rules, CLUSTER_IP, 80).unwrap().len(), 2);
    let rules = plan(spec(json!({"internalTrafficPolicy": "Local"})), endpoints);
    assert_eq!(lead(&rules, CLUSTER_IP, 80).unwrap(), ["10.42.0.2:8080"]);
    assert_eq!(lead(&rules, Place::Node, 30080).unwrap().len(), 2);
}

#[test]
fn headless_and_external_names_have_no_rules() {
    for spec in [json!({"clusterIP": "None"}), json!({"type": "ExternalName", "externalName": "x"})] {
        assert_eq!(plan(spec, json!([])), Rules::default());
    }
}

#[test]
fn host_ports_lead_to_their_pod() {
    let pod: Arc<Pod> = parse(json!({
        "metadata": {"uid": "u"},
        "spec": {"containers": [{"name": "c", "ports": [
            {"containerPort": 80, "hostPort": 8080},
            {"containerPort": 81, "hostPort": 8081, "hostIP": "192.0.2.1"},
        ]}]},
        "status": {"podIP": "10.42.0.9", "phase": "Running"},
    }));
    let rules = plan_rules(&Input { node_name: "a", zone: "z", services: &[], slices: &[], pods: &[pod], local: &[] });
    assert_eq!(lead(&rules, Place::Node, 8080).unwrap(), ["10.42.0.9:80"]);
    assert_eq!(lead(&rules, Place::Address(Ipv4Addr::new(192, 0, 2, 1)), 8081).unwrap(), ["10.42.0.9:81"]);
}

#[test]
fn backends_keep_their_ids() {
    let one = plan(spec(json!({})), json!([endpoint("10.42.0.2", "a", json!({}))]));
    let two = plan(spec(json!({})), json!([endpoint("10.42.0.3", "a", json!({}))]));
    assert_eq!(one.frontends, two.frontends);
}

#[test]
fn addresses_that_this_machine_answers_are_left_alone() {
    let services = [service(spec(json!({"type": "ClusterIP"})))];
    let plan = |local: &[Ipv4Addr]| {
        plan_rules(&Input { node_name: "a", zone: "z", services: &services, slices: &[], pods: &[], local })
    };
    assert!(plan(&[]).frontends.contains_key(&(CLUSTER_IP, Protocol::Tcp, 80)));
    assert!(plan(&[Ipv4Addr::new(10, 43, 0, 7)]).frontends.is_empty());
}

#[test]
fn with_internal_local_policy_and_endpoints_elsewhere_only_packets_vanish() {
    let elsewhere = json!([endpoint("10.42.1.2", "b", json!({}))]);
    let rules = plan(spec(json!({"internalTrafficPolicy": "Local"})), elsewhere);
    assert_eq!(rules.frontends[&(CLUSTER_IP, Protocol::Tcp, 80)], Policy::Drop);
    let rules = plan(spec(json!({"internalTrafficPolicy": "Local"})), json!([]));
    assert!(!rules.answers(rules.frontends[&(CLUSTER_IP, Protocol::Tcp, 80)]), "refused without any endpoint");
}

#[test]
fn hints_of_the_node_come_before_those_of_the_zone() {
    let hinted = |address: &str, node: &str, zone: &str| {
        let mut endpoint = endpoint(address, node, json!({}));
        endpoint["hints"] = json!({"forNodes": [{"name": node}], "forZones": [{"name": zone}]});
        endpoint
    };
    let check = |endpoints: Value, expected: &[&str]| {
        assert_eq!(lead(&plan(spec(json!({})), endpoints), CLUSTER_IP, 80).unwrap(), expected);
    };
    let (here, near, far) =
        (hinted("10.42.0.2", "a", "z"), hinted("10.42.1.2", "b", "z"), hinted("10.42.2.2", "c", "y"));
    check(json!([here, near, far]), &["10.42.0.2:8080"]);
    check(json!([near, far]), &["10.42.1.2:8080"]);
    check(json!([far]), &["10.42.2.2:8080"]);
    check(
        json!([near, far, endpoint("10.42.3.2", "d", json!({}))]),
        &["10.42.1.2:8080", "10.42.2.2:8080", "10.42.3.2:8080"],
    );
}

#[test]
fn a_balancers_address_is_for_its_sources_and_its_health_is_told() {
    let service: Arc<Service> = parse(json!({
        "metadata": {"namespace": "shop", "name": "web"},
        "spec": {
            "clusterIP": "10.43.0.7", "type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 32000,
            "loadBalancerSourceRanges": ["198.51.100.0/24 "], "externalIPs": ["192.0.2.9"],
            "ports": [{"name": "http", "port": 80, "protocol": "TCP"}],
        },
        "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.8"}]}},
    }));
    let endpoints = json!([endpoint("10.42.0.2", "a", json!({})), endpoint("10.42.1.2", "b", json!({}))]);
    let rules = plan_rules(&Input {
        node_name: "a",
        zone: "",
        services: &[service],
        slices: &[slice(endpoints)],
        pods: &[],
        local: &[],
    });
    let balancer = (Place::Address(Ipv4Addr::new(192, 0, 2, 8)), Protocol::Tcp, 80);
    assert!(rules.frontends.contains_key(&balancer));
    assert_eq!(rules.sources[&balancer], ["198.51.100.0/24".parse().unwrap()]);
    assert_eq!(rules.sources.len(), 1, "no other address is guarded");
    assert_eq!(rules.health[&32000].local_endpoints, 1);
}

#[test]
fn connections_by_udp_may_go_on_with_every_endpoint_that_serves() {
    let service: Arc<Service> = parse(json!({
        "metadata": {"namespace": "shop", "name": "web"},
        "spec": {"clusterIP": "10.43.0.7", "ports": [{"name": "http", "port": 53, "protocol": "UDP"}]},
    }));
    let slice: Arc<EndpointSlice> = parse(json!({
        "metadata": {"namespace": "shop", "name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "endpoints": [
            endpoint("10.42.0.2", "a", json!({})),
            endpoint("10.42.0.3", "a", json!({"ready": false, "serving": true, "terminating": true})),
            endpoint("10.42.0.4", "a", json!({"ready": false})),
        ],
        "ports": [{"name": "http", "port": 5353, "protocol": "UDP"}],
    }));
    let (services, slices) = ([service], [slice]);
    let input = Input { node_name: "a", zone: "", services: &services, slices: &slices, pods: &[], local: &[] };
    let serving = &plan_rules(&input).serving[&(CLUSTER_IP, 53)];
    let expected = [[10, 42, 0, 2], [10, 42, 0, 3]].map(|address| (Ipv4Addr::from(address), 5353));
    assert_eq!(*serving, BTreeSet::from(expected));
}

#[test]
fn services_and_slices_of_another_proxy_are_left_alone() {
    let labelled = |object: &str, label: &str| -> Rules {
        let mut service = serde_json::to_value(&*service(spec(json!({})))).unwrap();
        let mut slice = serde_json::to_value(&*slice(json!([endpoint("10.42.0.2", "a", json!({}))]))).unwrap();
        let chosen = if object == "service" { &mut service } else { &mut slice };
        chosen["metadata"]["labels"][label] = json!("");
        let (services, slices) = ([parse(service)], [parse(slice)]);
        plan_rules(&Input { node_name: "a", zone: "", services: &services, slices: &slices, pods: &[], local: &[] })
    };
    for label in NOT_OURS {
        assert_eq!(labelled("service", label), Rules::default());
        assert_eq!(lead(&labelled("slice", label), CLUSTER_IP, 80).unwrap(), Vec::<String>::new());
    }
    assert_eq!(lead(&labelled("slice", "other"), CLUSTER_IP, 80).unwrap().len(), 1);
}
