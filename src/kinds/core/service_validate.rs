//! Validation of Services (`validateService` and what it calls).

use std::net::IpAddr;

use api::Object;
use api::field::{Error, ErrorList, Path};
use serde_json::Value;

use crate::checks::{IMMUTABLE, cidr, invalid_all, ip, label_name, labels, one_of, port, port_number, qualified_name};
use crate::json::Json;
use crate::printed::Printed;

use super::service::{externally_accessible, is_headless, kind, needs_health_check};

const FAMILIES: &[&str] = &["IPv4", "IPv6"];

/// `validateService`.
pub(super) fn service(object: &Object, old: Option<&Object>) -> ErrorList {
    let mut errors = ErrorList::new();
    let (spec, at) = (object.at("spec"), Path::new("spec"));
    let headless = is_headless(spec);
    if spec.count("ports") == 0 && !headless && kind(spec) != "ExternalName" {
        errors.push(Error::required(at.child("ports"), ""));
    }
    match kind(spec) {
        kind @ ("LoadBalancer" | "NodePort") if headless => {
            let text = format!("may not be set to 'None' for {kind} services");
            errors.push(Error::invalid(at.child("clusterIPs").index(0), "None", text));
        }
        "ExternalName" => external_name(&mut errors, &at, spec),
        _ => {}
    }
    ports(&mut errors, &at.child("ports"), spec);
    labels(&mut errors, &at.child("selector"), spec.at("selector"));
    one_of(&mut errors, at.child("sessionAffinity"), spec.text("sessionAffinity"), &["ClientIP", "None"]);
    affinity(&mut errors, &at.child("sessionAffinityConfig"), spec);
    cluster_ips(&mut errors, &at, spec, old.map_or(&Value::Null, |old| old.at("spec")));
    for (i, address) in spec.list("externalIPs").iter().enumerate() {
        let address = address.as_str().unwrap_or_default();
        let at = at.child("externalIPs").index(i);
        let before = errors.len();
        ip(&mut errors, at.clone(), address);
        if errors.len() == before {
            endpoint_ip(&mut errors, &at, address);
        }
    }
    one_of(&mut errors, at.child("type"), kind(spec), &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"]);
    source_ranges(&mut errors, &at, spec);
    if kind(spec) != "LoadBalancer" {
        if spec.has("allocateLoadBalancerNodePorts") {
            let text = "may only be used when `type` is 'LoadBalancer'";
            errors.push(Error::forbidden(at.child("allocateLoadBalancerNodePorts"), text));
        }
        if spec.has("loadBalancerClass") {
            let text = "may only be used when `type` is 'LoadBalancer'";
            errors.push(Error::forbidden(at.child("loadBalancerClass"), text));
        }
    } else if spec.has("loadBalancerClass") {
        let class = spec.text("loadBalancerClass");
        invalid_all(&mut errors, &at.child("loadBalancerClass"), class, qualified_name(class));
    }
    traffic(&mut errors, &at, spec);
    errors
}

fn external_name(errors: &mut ErrorList, at: &Path, spec: &Value) {
    for member in ["clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
        if spec.has(member) && (member == "ipFamilyPolicy" || spec.count(member) > 0) {
            errors.push(Error::forbidden(at.child(member), "may not be set for ExternalName services"));
        }
    }
    let name = spec.text("externalName");
    match name.strip_suffix('.').unwrap_or(name) {
        "" => errors.push(Error::required(at.child("externalName"), "")),
        name => crate::checks::subdomain(errors, &at.child("externalName"), name),
    }
}

fn ports(errors: &mut ErrorList, at: &Path, spec: &Value) {
    let list = spec.list("ports");
    let mut names: Vec<&str> = Vec::new();
    for (i, item) in list.iter().enumerate() {
        let (at, name) = (at.index(i), item.text("name"));
        if name.is_empty() {
            if list.len() > 1 {
                errors.push(Error::required(at.child("name"), ""));
            }
        } else {
            label_name(errors, &at.child("name"), name);
            if names.contains(&name) {
                errors.push(Error::duplicate(at.child("name"), name));
            }
            names.push(name);
        }
        port_number(errors, at.child("port"), item.int("port").unwrap_or_default());
        one_of(errors, at.child("protocol"), item.text("protocol"), &["SCTP", "TCP", "UDP"]);
        port(errors, &at.child("targetPort"), item.at("targetPort"));
        if item.has("appProtocol") {
            let protocol = item.text("appProtocol");
            invalid_all(errors, &at.child("appProtocol"), protocol, qualified_name(protocol));
        }
        if kind(spec) == "ClusterIP" && item.int("nodePort").unwrap_or_default() != 0 {
            errors.push(Error::forbidden(at.child("nodePort"), "may not be used when `type` is 'ClusterIP'"));
        }
    }
    for (i, item) in list.iter().enumerate() {
        let earlier = |member: &str| {
            list[..i].iter().any(|p| p.text("protocol") == item.text("protocol") && p.at(member) == item.at(member))
        };
        let node = item.int("nodePort").unwrap_or_default();
        if node != 0 && earlier("nodePort") {
            errors.push(Error::duplicate(at.index(i).child("nodePort"), node));
        }
        if earlier("port") {
            let key = serde_json::json!({"port": item.at("port"), "protocol": item.at("protocol")});
            errors.push(Error::duplicate(at.index(i), key).printed("core.ServicePort"));
        }
    }
}

fn affinity(errors: &mut ErrorList, at: &Path, spec: &Value) {
    let config = spec.at("sessionAffinityConfig");
    match spec.text("sessionAffinity") {
        "ClientIP" => {
            let need = "when session affinity type is ClientIP";
            match config.at("clientIP").int("timeoutSeconds") {
                _ if config.is_null() => errors.push(Error::required(at.clone(), need)),
                _ if !config.has("clientIP") => errors.push(Error::required(at.child("clientIP"), need)),
                None => errors.push(Error::required(at.child("clientIP").child("timeoutSeconds"), need)),
                Some(1..=86_400) => {}
                Some(seconds) => {
                    let at = at.child("clientIP").child("timeoutSeconds");
                    errors.push(Error::invalid(at, seconds, "must be greater than 0 and less than 86400"));
                }
            }
        }
        "None" if !config.is_null() => {
            errors.push(Error::forbidden(at.clone(), "must not be set when session affinity is None"));
        }
        _ => {}
    }
}

fn family(address: &str) -> &'static str {
    match address.parse::<IpAddr>() {
        Ok(IpAddr::V6(_)) => "IPv6",
        _ => "IPv4",
    }
}

/// `ValidateServiceClusterIPsRelatedFields`. Addresses of the spec before may stay, whatever they are.
pub(super) fn cluster_ips(errors: &mut ErrorList, at: &Path, spec: &Value, before: &Value) {
    if kind(spec) == "ExternalName" {
        return;
    }
    let list: Vec<&str> = spec.list("clusterIPs").iter().filter_map(Value::as_str).collect();
    let families: Vec<&str> = spec.list("ipFamilies").iter().filter_map(Value::as_str).collect();
    let (ips, one) = (at.child("clusterIPs"), spec.text("clusterIP"));
    let whole = |errors: &mut ErrorList, text: &str| {
        errors.push(Error::invalid(ips.clone(), spec.at("clusterIPs").clone(), text));
    };
    match (one.is_empty(), list.first()) {
        (false, None) => errors.push(Error::required(ips.clone(), "")),
        (false, Some(first)) if *first != one => whole(errors, "first value must match `clusterIP`"),
        (true, Some(_)) => whole(errors, "must be empty when `clusterIP` is not specified"),
        _ => {}
    }
    for (i, family) in families.iter().enumerate() {
        if !FAMILIES.contains(family) {
            errors.push(Error::not_supported(at.child("ipFamilies").index(i), *family, FAMILIES));
        }
        if families[..i].contains(family) {
            errors.push(Error::duplicate(at.child("ipFamilies").index(i), *family));
        }
    }
    crate::checks::one_of_if_set(
        errors,
        at.child("ipFamilyPolicy"),
        spec.at("ipFamilyPolicy"),
        &["PreferDualStack", "RequireDualStack", "SingleStack"],
    );
    let known: Vec<&str> = before.list("clusterIPs").iter().filter_map(Value::as_str).collect();
    let headless = list.first() == Some(&"None");
    let mut bad = false;
    if headless && list.len() > 1 {
        whole(errors, "'None' must be the first and only value");
        bad = true;
    }
    for (i, address) in list.iter().enumerate().skip(usize::from(headless)) {
        let problems = api::validation::ip_legacy(&ips.index(i), address, &known);
        bad |= !problems.is_empty();
        errors.extend(problems);
    }
    if list.len() > 2 {
        whole(errors, "may only hold up to 2 values");
    }
    // What is no address would only confuse what follows.
    if bad {
        return;
    }
    if list.len() > 1 && !(list.len() == 2 && family(list[0]) != family(list[1])) {
        whole(errors, "may specify no more than one IP for each IP family");
    }
    if headless {
        return;
    }
    for (i, (address, wanted)) in list.iter().zip(&families).enumerate() {
        if FAMILIES.contains(wanted) && *wanted != family(address) {
            let text = format!("expected an {wanted} value as indicated by `ipFamilies[{i}]`");
            errors.push(Error::invalid(ips.index(i), *address, text));
        }
    }
}

/// `ValidateEndpointIP`.
pub(crate) fn endpoint_ip(errors: &mut ErrorList, at: &Path, address: &str) {
    let Some(parsed) = api::validation::parse_ip_sloppy(address) else {
        errors.push(Error::invalid(at.clone(), address, "must be a valid IP address"));
        return;
    };
    let mut say = |text: &str| errors.push(Error::invalid(at.clone(), address, text));
    if parsed.is_unspecified() {
        say(&format!("may not be unspecified ({address})"));
    }
    if parsed.is_loopback() {
        say("may not be in the loopback range (127.0.0.0/8, ::1/128)");
    }
    match parsed {
        IpAddr::V4(ip) if ip.is_link_local() => say("may not be in the link-local range (169.254.0.0/16, fe80::/10)"),
        IpAddr::V6(ip) if ip.is_unicast_link_local() => {
            say("may not be in the link-local range (169.254.0.0/16, fe80::/10)");
        }
        IpAddr::V4(ip) if ip.octets()[..3] == [224, 0, 0] => {
            say("may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)");
        }
        _ => {}
    }
}

fn source_ranges(errors: &mut ErrorList, at: &Path, spec: &Value) {
    let at = at.child("LoadBalancerSourceRanges");
    let list = spec.list("loadBalancerSourceRanges");
    if !list.is_empty() && kind(spec) != "LoadBalancer" {
        errors.push(Error::forbidden(at.clone(), "may only be used when `type` is 'LoadBalancer'"));
    }
    for (i, range) in list.iter().enumerate() {
        cidr(errors, at.index(i), range.as_str().unwrap_or_default().trim());
    }
}

fn traffic(errors: &mut ErrorList, at: &Path, spec: &Value) {
    let external = spec.text("externalTrafficPolicy");
    let field = at.child("externalTrafficPolicy");
    if externally_accessible(spec) {
        one_of(errors, field, external, &["Cluster", "Local"]);
    } else if !external.is_empty() {
        errors.push(Error::invalid(field, external, "may only be set for externally-accessible services"));
    }
    let health = spec.int("healthCheckNodePort").unwrap_or_default();
    let field = at.child("healthCheckNodePort");
    if needs_health_check(spec) {
        if health != 0 {
            port_number(errors, field, health);
        }
    } else if health != 0 {
        let text = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
        errors.push(Error::invalid(field, health, text));
    }
    let supported = &["Cluster", "Local"];
    crate::checks::one_of_if_set(
        errors,
        at.child("internalTrafficPolicy"),
        spec.at("internalTrafficPolicy"),
        supported,
    );
    crate::checks::one_of_if_set(
        errors,
        at.child("trafficDistribution"),
        spec.at("trafficDistribution"),
        &["PreferClose", "PreferSameZone", "PreferSameNode"],
    );
}

/// `ValidateServiceUpdate`.
pub(super) fn service_update(object: &Object, old: &Object) -> ErrorList {
    let mut errors = ErrorList::new();
    let (spec, before, at) = (object.at("spec"), old.at("spec"), Path::new("spec"));
    if kind(spec) != "ExternalName" && kind(before) != "ExternalName" {
        // Addresses and families may be added or removed at the end, never changed.
        for (member, noun) in [("clusterIPs", "primary clusterIP"), ("ipFamilies", "primary ipFamily")] {
            let (new, old) = (spec.list(member), before.list(member));
            if old.is_empty() {
                continue;
            }
            match new.first() {
                None => {
                    let value = spec.at(member).clone();
                    errors.push(Error::invalid(at.child(member).index(0), value, format!("{noun} can not be unset")));
                }
                Some(first) if *first != old[0] => {
                    let text = "may not change once set";
                    // Upstream shows all addresses, sometimes instead of families.
                    let shown = if new.len() == old.len() { member } else { "clusterIPs" };
                    errors.push(Error::invalid(at.child(member).index(0), spec.at(shown).clone(), text));
                }
                _ => {}
            }
            if let ([_, old_second, ..], [_, new_second, ..]) = (old, new)
                && old_second != new_second
            {
                let text = "may not change once set";
                let index = usize::from(member == "clusterIPs");
                errors.push(Error::invalid(at.child(member).index(index), spec.at(member).clone(), text));
            }
        }
    }
    if kind(spec) == "LoadBalancer"
        && kind(before) == "LoadBalancer"
        && spec.at("loadBalancerClass") != before.at("loadBalancerClass")
    {
        let value = spec.at("loadBalancerClass").clone();
        errors.push(Error::invalid(at.child("loadBalancerClass"), value, "may not change once set"));
    }
    if needs_health_check(spec)
        && needs_health_check(before)
        && before.int("healthCheckNodePort").unwrap_or_default() != 0
        && spec.at("healthCheckNodePort") != before.at("healthCheckNodePort")
    {
        errors.push(Error::forbidden(at.child("healthCheckNodePort"), IMMUTABLE));
    }
    errors.extend(service(object, Some(old)));
    errors
}

/// `ValidateLoadBalancerStatus`.
pub(super) fn status(object: &Object, _: &Object) -> ErrorList {
    let mut errors = ErrorList::new();
    let at = Path::new("status").child("loadBalancer").child("ingress");
    let list = object.at("status").at("loadBalancer").list("ingress");
    if kind(object.at("spec")) != "LoadBalancer" && !list.is_empty() {
        errors.push(Error::forbidden(at, "may only be used when `spec.type` is 'LoadBalancer'"));
        return errors;
    }
    for (i, ingress) in list.iter().enumerate() {
        let at = at.index(i);
        let (address, name) = (ingress.text("ip"), ingress.text("hostname"));
        if !address.is_empty() {
            ip(&mut errors, at.child("ip"), address);
        }
        let mode = at.child("ipMode");
        match (ingress.has("ipMode"), address.is_empty()) {
            (false, false) => errors.push(Error::required(mode, "must be specified when `ip` is set")),
            (true, true) => errors.push(Error::forbidden(mode, "may not be specified when `ip` is not set")),
            _ => crate::checks::one_of_if_set(&mut errors, mode, ingress.at("ipMode"), &["Proxy", "VIP"]),
        }
        if !name.is_empty() {
            crate::checks::subdomain(&mut errors, &at.child("hostname"), name);
            if api::validation::parse_ip_sloppy(name).is_some() {
                errors.push(Error::invalid(at.child("hostname"), name, "must be a DNS name, not an IP address"));
            }
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn problems_read_as_upstream() {
        let check = |spec: Value, want: &[&str]| {
            let object = Object::from_value(json!({"spec": spec})).unwrap();
            let texts: Vec<String> = service(&object, None).iter().map(ToString::to_string).collect();
            assert_eq!(texts, want);
        };
        check(json!({"type": "ClusterIP", "sessionAffinity": "None"}), &["spec.ports: Required value"]);
        check(
            json!({"type": "ClusterIP", "sessionAffinity": "None", "clusterIP": "None", "clusterIPs": ["None"]}),
            &[],
        );
        check(json!({"type": "ExternalName", "sessionAffinity": "None"}), &["spec.externalName: Required value"]);
        check(
            json!({"type": "ClusterIP", "sessionAffinity": "None", "ports": [
                {"port": 80, "protocol": "TCP", "targetPort": 80}, {"port": 81, "protocol": "TCP", "targetPort": 80}]}),
            &["spec.ports[0].name: Required value", "spec.ports[1].name: Required value"],
        );
    }

    #[test]
    fn the_first_address_stays() {
        let object = |ip: &str| {
            Object::from_value(json!({"spec": {"type": "ClusterIP", "sessionAffinity": "None", "clusterIP": ip,
                "clusterIPs": [ip], "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}]}}))
            .unwrap()
        };
        let texts: Vec<String> =
            service_update(&object("10.0.0.2"), &object("10.0.0.1")).iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["spec.clusterIPs[0]: Invalid value: [\"10.0.0.2\"]: may not change once set"]);
    }
}
