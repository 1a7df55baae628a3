//! Services: defaults, rules, columns. Addresses and ports are given out by [`super::service_alloc`].

use std::sync::Arc;

use api::Object;
use api::field::Path;
use api::kind::{RequestContext, SubresourceKind};
use api::validation::{cidr_warnings, ip_warnings};
use serde_json::{Value, json};

use crate::Config;
use crate::columns::{age, field, labels, name, string, text, wide};
use crate::define::Extra;
use crate::json::{Json, Members, existing, fill, fill_zero, items_mut, restore, same};
use crate::rules::Rules;

use super::connect::ServiceProxy;
use super::{service_alloc, service_validate};

pub(super) fn extra(config: &Config) -> Extra {
    let rules = Rules {
        default,
        create: |_, object| {
            object.set(&["status"], json!({"loadBalancer": {}}));
            drop_unread(object);
        },
        update,
        validate: |object| service_validate::service(object, None),
        validate_update: Some(service_validate::service_update),
        validate_status: service_validate::status,
        name: api::validation::dns1123_label,
        create_on_update: true,
        warnings,
        ..Rules::GENERIC
    };
    let columns = vec![
        name(),
        text("Type", |o, _| string(o, &["spec", "type"])),
        text("Cluster-IP", |o, _| match o.array(&["spec", "clusterIPs"]).first() {
            Some(ip) => ip.clone(),
            None => "<none>".into(),
        }),
        text("External-IP", |o, _| external_ip(o).into()),
        text("Port(s)", |o, _| ports(o).into()),
        age(),
        wide("Selector", |o, _| labels(o.at("spec").at("selector"))),
    ];
    let mut extra = Extra::new(rules, columns)
        .with_fields(vec![
            field("spec.clusterIP", |o| o.at("spec").text("clusterIP").to_owned()),
            field("spec.type", |o| o.at("spec").text("type").to_owned()),
        ])
        .with_subresource("proxy", SubresourceKind::Connect(Arc::new(ServiceProxy)));
    extra.hook = Some(Arc::new(service_alloc::Allocator::new(config)));
    extra
}

pub(super) fn kind(spec: &impl Json) -> &str {
    spec.text("type")
}

pub(super) fn needs_cluster_ip(spec: &impl Json) -> bool {
    kind(spec) != "ExternalName"
}

pub(super) fn needs_node_port(spec: &impl Json) -> bool {
    matches!(kind(spec), "NodePort" | "LoadBalancer")
}

/// `apiservice.NeedsHealthCheck`.
pub(super) fn needs_health_check(spec: &impl Json) -> bool {
    kind(spec) == "LoadBalancer" && spec.text("externalTrafficPolicy") == "Local"
}

/// `apiservice.ExternallyAccessible`.
pub(super) fn externally_accessible(spec: &impl Json) -> bool {
    needs_node_port(spec) || kind(spec) == "ClusterIP" && spec.count("externalIPs") > 0
}

pub(super) fn is_headless(spec: &impl Json) -> bool {
    spec.list("clusterIPs").first().and_then(Value::as_str) == Some("None") || spec.text("clusterIP") == "None"
}

/// `SetDefaults_Service`.
fn default(object: &mut Object) {
    let Some(spec) = existing(&mut object.0, "spec") else { return };
    fill(spec, "sessionAffinity", "None");
    match spec.text("sessionAffinity") {
        "None" => {
            spec.remove("sessionAffinityConfig");
        }
        "ClientIP" => {
            if !spec.at("sessionAffinityConfig").at("clientIP").has("timeoutSeconds") {
                spec.insert("sessionAffinityConfig".to_owned(), json!({"clientIP": {"timeoutSeconds": 10800}}));
            }
        }
        _ => {}
    }
    fill(spec, "type", "ClusterIP");
    for port in items_mut(spec, "ports") {
        fill(port, "protocol", "TCP");
        let vacant = match port.at("targetPort") {
            Value::Null => true,
            Value::String(text) => text.is_empty(),
            number => number.as_i64() == Some(0),
        };
        if vacant {
            let number = port.at("port").clone();
            port.insert("targetPort".to_owned(), number);
        }
    }
    if externally_accessible(spec) {
        fill(spec, "externalTrafficPolicy", "Cluster");
    }
    if matches!(kind(spec), "ClusterIP" | "NodePort" | "LoadBalancer") {
        crate::json::absent(spec, "internalTrafficPolicy", "Cluster");
    }
    if kind(spec) == "LoadBalancer" {
        fill(spec, "allocateLoadBalancerNodePorts", true);
        if let Some(balancer) = crate::json::existing_at(&mut object.0, &["status", "loadBalancer"]) {
            for ingress in items_mut(balancer, "ingress") {
                if ingress.count("ip") > 0 {
                    crate::json::absent(ingress, "ipMode", "VIP");
                }
            }
        }
    }
}

fn update(_: &RequestContext<'_>, object: &mut Object, old: &Object) {
    restore(&mut object.0, "status", old);
    carry_over(object, old);
    drop_unread(object);
}

/// What upstream's store leaves out whenever it reads (`defaultOnReadInternalTrafficPolicy`).
fn drop_unread(object: &mut Object) {
    let Some(spec) = existing(&mut object.0, "spec") else { return };
    if kind(spec) == "ExternalName" && matches!(spec.text("internalTrafficPolicy"), "Cluster" | "Local") {
        spec.remove("internalTrafficPolicy");
    }
}

/// Keeps what was given to the Service before and what the new body does not mention; drops what its type no longer
/// uses (`patchAllocatedValues`, `NormalizeClusterIPs`, `dropTypeDependentFields`). Idempotent.
pub(super) fn carry_over(object: &mut Object, old: &Object) {
    let before = old.at("spec");
    let Some(spec) = existing(&mut object.0, "spec") else { return };
    if needs_cluster_ip(before) && needs_cluster_ip(spec) {
        for member in ["clusterIP", "clusterIPs"] {
            if spec.count(member) == 0 {
                restore(spec, member, before);
            }
        }
    }
    normalize_cluster_ips(spec, Some(before));
    if needs_node_port(before)
        && needs_node_port(spec)
        && spec.at("allocateLoadBalancerNodePorts").as_bool() != Some(false)
    {
        keep_node_ports(spec, before);
    }
    if needs_health_check(before) && needs_health_check(spec) {
        let number = before.int("healthCheckNodePort").unwrap_or_default();
        if number != 0 {
            fill_zero(spec, "healthCheckNodePort", number);
        }
    }
    drop_unused(spec, before);
    if kind(spec) != "LoadBalancer" && old.at("status").has("loadBalancer") {
        object.set(&["status", "loadBalancer"], json!({}));
    }
}

fn keep_node_ports(spec: &mut Members, before: &Value) {
    let in_new: Vec<i64> = spec.list("ports").iter().filter_map(|p| p.int("nodePort")).collect();
    for port in items_mut(spec, "ports") {
        if port.int("nodePort").unwrap_or_default() != 0 {
            continue;
        }
        let name = port.text("name").to_owned();
        let known = before.list("ports").iter().find(|p| p.text("name") == name).and_then(|p| p.int("nodePort"));
        if let Some(number) = known.filter(|n| *n != 0 && !in_new.contains(n)) {
            port.insert("nodePort".to_owned(), number.into());
        }
    }
}

/// One address in two fields: whichever the client changed decides (`NormalizeClusterIPs`).
pub(super) fn normalize_cluster_ips(spec: &mut Members, before: Option<&Value>) {
    let one = spec.text("clusterIP").to_owned();
    match before {
        None => {
            if !one.is_empty() && spec.count("clusterIPs") == 0 {
                spec.insert("clusterIPs".to_owned(), json!([one]));
            }
        }
        Some(before) => {
            let same_list = same(spec.at("clusterIPs"), before.at("clusterIPs"));
            let old_one = before.text("clusterIP");
            if one != old_one {
                if one.is_empty() && same_list {
                    spec.remove("clusterIPs");
                } else if same_list {
                    spec.insert("clusterIPs".to_owned(), json!([one]));
                }
            } else if !one.is_empty() && spec.count("clusterIPs") == 0 {
                spec.insert("clusterIPs".to_owned(), json!([one]));
            }
        }
    }
}

fn drop_unused(spec: &mut Members, before: &Value) {
    if needs_cluster_ip(before) && !needs_cluster_ip(spec) {
        if same(spec.at("clusterIPs"), before.at("clusterIPs")) && spec.text("clusterIP") == before.text("clusterIP") {
            spec.remove("clusterIP");
            spec.remove("clusterIPs");
        }
        for member in ["ipFamilies", "ipFamilyPolicy"] {
            if same(spec.at(member), before.at(member)) {
                spec.remove(member);
            }
        }
    }
    if needs_node_port(before) && !needs_node_port(spec) {
        let old: Vec<i64> = before.list("ports").iter().filter_map(|p| p.int("nodePort")).collect();
        if spec.list("ports").iter().filter_map(|p| p.int("nodePort")).all(|n| old.contains(&n)) {
            for port in items_mut(spec, "ports") {
                port.remove("nodePort");
            }
        }
    }
    if needs_health_check(before) && !needs_health_check(spec) {
        drop_if_same(spec, before, "healthCheckNodePort");
    }
    if kind(before) == "LoadBalancer" && kind(spec) != "LoadBalancer" {
        drop_if_same(spec, before, "allocateLoadBalancerNodePorts");
        drop_if_same(spec, before, "loadBalancerClass");
    }
    if externally_accessible(before) && !externally_accessible(spec) {
        drop_if_same(spec, before, "externalTrafficPolicy");
    }
    if kind(before) != "ExternalName" && kind(spec) == "ExternalName" {
        drop_if_same(spec, before, "internalTrafficPolicy");
    }
}

fn drop_if_same(spec: &mut Members, before: &Value, member: &str) {
    if same(spec.at(member), before.at(member)) {
        spec.remove(member);
    }
}

/// The core of `GetWarningsForService`.
fn warnings(object: &Object, _: Option<&Object>) -> Vec<String> {
    let (spec, at) = (object.at("spec"), Path::new("spec"));
    let mut texts = Vec::new();
    if object.at("metadata").at("annotations").has("service.kubernetes.io/topology-aware-hints") {
        texts.push(
            "annotation service.kubernetes.io/topology-aware-hints is deprecated, please use \
             service.kubernetes.io/topology-mode instead"
                .to_owned(),
        );
    }
    let ips = |texts: &mut Vec<String>, list: &str| {
        for (i, ip) in spec.list(list).iter().enumerate() {
            texts.extend(ip_warnings(&at.child(list).index(i), ip.as_str().unwrap_or_default()));
        }
    };
    let headless = is_headless(spec);
    if !headless && kind(spec) != "ExternalName" {
        ips(&mut texts, "clusterIPs");
    }
    let say = |texts: &mut Vec<String>, text: &str| texts.push(text.to_owned());
    let external = spec.count("externalIPs") > 0;
    if headless {
        if spec.count("loadBalancerIP") > 0 {
            say(&mut texts, "spec.loadBalancerIP is ignored for headless services");
        }
        if external {
            say(&mut texts, "spec.externalIPs is ignored for headless services");
        }
        if spec.text("sessionAffinity") != "None" {
            say(&mut texts, "spec.SessionAffinity is ignored for headless services");
        }
    }
    ips(&mut texts, "externalIPs");
    if external && !headless && kind(spec) != "ExternalName" {
        say(&mut texts, "spec.externalIPs is deprecated and may no longer be implemented in some clusters");
    }
    if spec.count("loadBalancerIP") > 0 {
        texts.extend(ip_warnings(&at.child("loadBalancerIP"), spec.text("loadBalancerIP")));
    }
    for (i, range) in spec.list("loadBalancerSourceRanges").iter().enumerate() {
        let at = at.child("loadBalancerSourceRanges").index(i);
        texts.extend(cidr_warnings(&at, range.as_str().unwrap_or_default()));
    }
    if kind(spec) == "ExternalName" && external {
        say(&mut texts, "spec.externalIPs is ignored when spec.type is \"ExternalName\"");
    }
    if kind(spec) != "ExternalName" && spec.count("externalName") > 0 {
        say(&mut texts, "spec.externalName is ignored when spec.type is not \"ExternalName\"");
    }
    if spec.text("trafficDistribution") == "PreferClose" {
        say(&mut texts, "spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"");
    }
    texts
}

/// `getServiceExternalIP`.
fn external_ip(object: &Object) -> String {
    let spec = object.at("spec");
    let external: Vec<&str> = spec.list("externalIPs").iter().filter_map(Value::as_str).collect();
    match kind(spec) {
        "ClusterIP" | "NodePort" if external.is_empty() => "<none>".to_owned(),
        "ClusterIP" | "NodePort" => external.join(","),
        "LoadBalancer" => {
            let mut all = balancer_addresses(object.at("status").at("loadBalancer"));
            all.extend(external);
            if all.is_empty() { "<pending>".to_owned() } else { all.join(",") }
        }
        "ExternalName" => spec.text("externalName").to_owned(),
        _ => "<unknown>".to_owned(),
    }
}

/// Addresses and names of a load balancer's ingress points, in order and once each.
pub(crate) fn balancer_addresses(balancer: &Value) -> Vec<&str> {
    let mut all: Vec<&str> = balancer
        .list("ingress")
        .iter()
        .map(|i| if i.count("ip") > 0 { i.text("ip") } else { i.text("hostname") })
        .filter(|a| !a.is_empty())
        .collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// `makePortString`.
fn ports(object: &Object) -> String {
    let text: Vec<String> = object
        .array(&["spec", "ports"])
        .iter()
        .map(|p| {
            let (port, protocol) = (p.int("port").unwrap_or_default(), p.text("protocol"));
            match p.int("nodePort") {
                Some(node @ 1..) => format!("{port}:{node}/{protocol}"),
                _ => format!("{port}/{protocol}"),
            }
        })
        .collect();
    if text.is_empty() { "<none>".to_owned() } else { text.join(",") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(spec: Value) -> Object {
        let mut object = Object::from_value(json!({"metadata": {"name": "s"}, "spec": spec})).unwrap();
        default(&mut object);
        object
    }

    #[test]
    fn defaults_are_upstreams() {
        let object = service(json!({"ports": [{"port": 80}]}));
        assert_eq!(
            *object.at("spec"),
            json!({"type": "ClusterIP", "sessionAffinity": "None", "internalTrafficPolicy": "Cluster",
                "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}]})
        );
    }

    #[test]
    fn an_update_without_addresses_keeps_them() {
        let old = service(json!({"type": "NodePort", "clusterIP": "10.0.0.5", "clusterIPs": ["10.0.0.5"],
            "ports": [{"name": "a", "port": 80, "nodePort": 30001}]}));
        let mut new = service(json!({"type": "NodePort", "ports": [{"name": "a", "port": 81}]}));
        carry_over(&mut new, &old);
        assert_eq!(new.str(&["spec", "clusterIP"]), Some("10.0.0.5"));
        assert_eq!(new.array(&["spec", "ports"])[0].int("nodePort"), Some(30001));
    }

    #[test]
    fn a_change_of_type_drops_what_it_does_not_use() {
        let old = service(json!({"type": "NodePort", "clusterIP": "10.0.0.5", "clusterIPs": ["10.0.0.5"],
            "ports": [{"port": 80, "nodePort": 30001}]}));
        let mut new = old.clone();
        new.set(&["spec", "type"], "ClusterIP");
        carry_over(&mut new, &old);
        assert_eq!(new.array(&["spec", "ports"])[0].int("nodePort"), None);
        assert!(!new.at("spec").has("externalTrafficPolicy"));
        let mut new = old.clone();
        new.set(&["spec", "type"], "ExternalName");
        carry_over(&mut new, &old);
        assert!(!new.at("spec").has("clusterIP") && !new.at("spec").has("clusterIPs"));
    }

    #[test]
    fn columns_read_as_upstream() {
        let object = service(
            json!({"type": "LoadBalancer", "ports": [{"port": 80, "nodePort": 30001}, {"port": 53, "protocol": "UDP"}]}),
        );
        assert_eq!(ports(&object), "80:30001/TCP,53/UDP");
        assert_eq!(external_ip(&object), "<pending>");
        assert_eq!(ports(&service(json!({}))), "<none>");
    }
}
