use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::index::Zone;

fn parse<T: serde::de::DeserializeOwned>(value: Value) -> Arc<T> {
    Arc::new(serde_json::from_value(value).unwrap())
}

fn service(index: &mut Index, name: &str, spec: Value) {
    index.set_service(parse(json!({"metadata": {"namespace": "shop", "name": name}, "spec": spec})));
}

fn slice(index: &mut Index, service: &str, family: &str, endpoints: Value) {
    index.set_slice(parse(json!({
        "metadata": {
            "namespace": "shop", "name": format!("{service}-{family}"),
            "labels": {"kubernetes.io/service-name": service},
        },
        "addressType": family,
        "endpoints": endpoints,
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
    })));
}

fn index() -> Index {
    let ranges = vec!["10.42.0.0/16".parse().unwrap(), "10.43.0.0/16".parse().unwrap()];
    let mut index = Index::new(Zone::new("cluster.local", ranges, Ipv4Addr::new(10, 43, 0, 10)));
    index.set_namespace("shop");
    let ports = json!([
        {"name": "http", "port": 80, "protocol": "TCP"}, {"name": "dns", "port": 53, "protocol": "UDP"},
    ]);
    let addresses = json!(["10.43.0.7", "fd00::7"]);
    service(&mut index, "web", json!({"clusterIP": "10.43.0.7", "clusterIPs": addresses, "ports": ports}));
    slice(&mut index, "web", "IPv4", json!([{"addresses": ["10.42.0.2"]}]));
    service(&mut index, "db", json!({"clusterIP": "None", "ports": [{"name": "http", "port": 80}]}));
    let endpoints = json!([
        {"addresses": ["10.42.0.3"], "hostname": "db-0", "conditions": {"ready": true}},
        {"addresses": ["10.42.0.4"]},
        {"addresses": ["10.42.0.5"], "hostname": "db-2", "conditions": {"ready": false}},
    ]);
    slice(&mut index, "db", "IPv4", endpoints);
    slice(&mut index, "db", "IPv6", json!([{"addresses": ["fd00::3"], "hostname": "db-0"}]));
    service(&mut index, "none", json!({"clusterIP": "None"}));
    service(&mut index, "away", json!({"type": "ExternalName", "externalName": "www.example.org"}));
    index
}

/// The answer in short: data of the records with additional ones behind `+`, or the kind of nothing.
fn ask(index: &Index, name: &str, kind: &str) -> String {
    let name = Name::from_ascii(name).unwrap();
    let text = |records: &[Record]| {
        let mut all: Vec<String> = records.iter().map(|r| r.data.to_string()).collect();
        all.sort();
        all.join(" | ")
    };
    match records(index, &name, kind.parse().unwrap()).unwrap() {
        Answer::Outside => "outside".to_owned(),
        Answer::NoData(soa) => format!("no data in {}", soa.name),
        Answer::NoName(soa) => format!("no name in {}", soa.name),
        Answer::Alias { record, target } => {
            assert_eq!(record.name.to_ascii(), name.to_ascii());
            format!("alias {target}")
        }
        Answer::Found { answers, additionals } => {
            assert!(answers.iter().all(|r| r.name.to_ascii() == name.to_ascii() && r.ttl == TTL));
            let more = if additionals.is_empty() { String::new() } else { format!(" + {}", text(&additionals)) };
            text(&answers) + &more
        }
    }
}

const NO_DATA: &str = "no data in cluster.local.";
const NO_NAME: &str = "no name in cluster.local.";

fn check(name: &str, kind: &str, expected: &str) {
    assert_eq!(ask(&index(), name, kind), expected, "{name} {kind}");
}

#[test]
fn services_with_an_address() {
    check("web.shop.svc.cluster.local.", "A", "10.43.0.7");
    check("WEB.shop.SVC.cluster.Local.", "A", "10.43.0.7");
    check("web.shop.svc.cluster.local.", "AAAA", "fd00::7");
    check("web.shop.svc.cluster.local.", "TXT", NO_DATA);
    let both = "10.43.0.7 | fd00::7";
    check("_http._tcp.web.shop.svc.cluster.local.", "SRV", &format!("0 100 80 web.shop.svc.cluster.local. + {both}"));
    check("_dns._UDP.web.shop.svc.cluster.local.", "SRV", &format!("0 100 53 web.shop.svc.cluster.local. + {both}"));
    let all = "0 50 53 web.shop.svc.cluster.local. | 0 50 80 web.shop.svc.cluster.local.";
    check("web.shop.svc.cluster.local.", "SRV", &format!("{all} + {both}"));
    check("_http._udp.web.shop.svc.cluster.local.", "SRV", NO_NAME);
    check("_http._tcp.web.shop.svc.cluster.local.", "A", NO_DATA);
    check("_tcp.web.shop.svc.cluster.local.", "A", NO_DATA);
    check("_sctp.web.shop.svc.cluster.local.", "A", NO_NAME);
    check("10-42-0-2.web.shop.svc.cluster.local.", "A", "10.42.0.2");
}

#[test]
fn headless_services() {
    check("db.shop.svc.cluster.local.", "A", "10.42.0.3 | 10.42.0.4");
    check("db.shop.svc.cluster.local.", "AAAA", "fd00::3");
    check("db-0.db.shop.svc.cluster.local.", "A", "10.42.0.3");
    check("10-42-0-4.db.shop.svc.cluster.local.", "A", "10.42.0.4");
    check("10-42-0-4.db.shop.svc.cluster.local.", "AAAA", NO_DATA);
    check("db-2.db.shop.svc.cluster.local.", "A", NO_NAME);
    let (zero, four) = ("8080 db-0.db.shop.svc.cluster.local.", "8080 10-42-0-4.db.shop.svc.cluster.local.");
    let all = format!("0 50 {four} | 0 50 {zero} + 10.42.0.3 | 10.42.0.4 | fd00::3");
    check("_http._tcp.db.shop.svc.cluster.local.", "SRV", &all);
    check("db.shop.svc.cluster.local.", "SRV", &all);
    check("db-0.db.shop.svc.cluster.local.", "SRV", &format!("0 100 {zero} + 10.42.0.3 | fd00::3"));
    check("none.shop.svc.cluster.local.", "A", NO_NAME);
}

#[test]
fn external_names_are_aliases() {
    check("away.shop.svc.cluster.local.", "A", "alias www.example.org.");
    check("away.shop.svc.cluster.local.", "CNAME", "www.example.org.");
    check("x.away.shop.svc.cluster.local.", "A", NO_NAME);
}

#[test]
fn pods_have_names_where_their_namespace_is() {
    check("10-42-0-9.shop.pod.cluster.local.", "A", "10.42.0.9");
    check("10-42-0-9.shop.pod.cluster.local.", "AAAA", NO_DATA);
    check("fd00--9.shop.pod.cluster.local.", "AAAA", "fd00::9");
    check("10-42-0-9.gone.pod.cluster.local.", "A", NO_NAME);
    check("10-42-0.shop.pod.cluster.local.", "A", NO_NAME);
    check("shop.pod.cluster.local.", "A", NO_DATA);
}

#[test]
fn addresses_point_back() {
    check("7.0.43.10.in-addr.arpa.", "PTR", "web.shop.svc.cluster.local.");
    check("7.0.43.10.in-addr.arpa.", "A", "no data in in-addr.arpa.");
    check("3.0.42.10.in-addr.arpa.", "PTR", "db-0.db.shop.svc.cluster.local.");
    check("4.0.42.10.in-addr.arpa.", "PTR", "no name in in-addr.arpa.");
    check("0.42.10.in-addr.arpa.", "PTR", "no data in in-addr.arpa.");
    check("8.8.8.8.in-addr.arpa.", "PTR", "outside");
    check("10.in-addr.arpa.", "PTR", "outside");
}

#[test]
fn the_zone_itself() {
    check("dns-version.cluster.local.", "TXT", "1.1.0");
    check("dns-version.cluster.local.", "A", NO_DATA);
    check("cluster.local.", "NS", "ns.dns.cluster.local. + 10.43.0.10");
    check("ns.dns.cluster.local.", "A", "10.43.0.10");
    let soa = ask(&index(), "cluster.local.", "SOA");
    assert!(soa.starts_with("ns.dns.cluster.local. hostmaster.cluster.local. "), "{soa}");
    check("cluster.local.", "A", NO_DATA);
    check("svc.cluster.local.", "A", NO_DATA);
    check("shop.svc.cluster.local.", "A", NO_DATA);
    check("gone.svc.cluster.local.", "A", NO_NAME);
    check("web.gone.svc.cluster.local.", "A", NO_NAME);
    check("a.b.c.web.shop.svc.cluster.local.", "A", NO_NAME);
    check("web.shop.cluster.local.", "A", NO_NAME);
    check("www.example.org.", "A", "outside");
    check("cluster.localx.", "A", "outside");
    check("local.", "A", "outside");
    check(".", "NS", "outside");
}

#[test]
fn what_is_gone_is_not_found() {
    let mut index = index();
    let serial = index.serial();
    index.remove_service(&parse::<k8s_openapi::api::core::v1::Service>(
        json!({"metadata": {"namespace": "shop", "name": "web"}}),
    ));
    assert_eq!(ask(&index, "web.shop.svc.cluster.local.", "A"), NO_NAME);
    assert_eq!(ask(&index, "7.0.43.10.in-addr.arpa.", "PTR"), "no name in in-addr.arpa.");
    slice(&mut index, "db", "IPv4", json!([{"addresses": ["10.42.0.8"], "hostname": "db-9"}]));
    assert_eq!(ask(&index, "3.0.42.10.in-addr.arpa.", "PTR"), "no name in in-addr.arpa.");
    assert_eq!(ask(&index, "8.0.42.10.in-addr.arpa.", "PTR"), "db-9.db.shop.svc.cluster.local.");
    assert!(index.serial() > serial);
    index.clear();
    assert_eq!(ask(&index, "db.shop.svc.cluster.local.", "A"), NO_NAME);
}
