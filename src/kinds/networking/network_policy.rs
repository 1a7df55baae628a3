//! NetworkPolicies.

use api::Object;
use api::field::{Error, ErrorList, Path};
use ipnet::IpNet;
use serde_json::{Value, json};

use crate::checks::{cidr, invalid_all, label_selector, one_of_if_set, port_name, port_number};
use crate::columns::{age, name, selector, text};
use crate::define::Extra;
use crate::json::{Json, absent, dig, existing, items_mut};
use crate::rules::Rules;

pub(super) fn extra() -> Extra {
    let rules = Rules { default, validate, counts_empty: true, ..Rules::GENERIC };
    let columns = vec![name(), text("Pod-Selector", |o, _| selector(dig(o, &["spec", "podSelector"]))), age()];
    Extra::new(rules, columns).with_generation()
}

/// `SetDefaults_NetworkPolicy`, `SetDefaults_NetworkPolicyPort`.
fn default(object: &mut Object) {
    let Some(spec) = existing(&mut object.0, "spec") else { return };
    for list in ["ingress", "egress"] {
        for rule in items_mut(spec, list) {
            for port in items_mut(rule, "ports") {
                absent(port, "protocol", "TCP");
            }
        }
    }
    if spec.count("policyTypes") == 0 {
        let types = if spec.count("egress") > 0 { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) };
        spec.insert("policyTypes".to_owned(), types);
    }
}

/// `ValidateNetworkPolicySpec`.
fn validate(object: &Object) -> ErrorList {
    let mut errors = ErrorList::new();
    let (spec, at) = (object.at("spec"), Path::new("spec"));
    label_selector(&mut errors, &at.child("podSelector"), spec.at("podSelector"));
    for (list, peers) in [("ingress", "from"), ("egress", "to")] {
        for (i, rule) in spec.list(list).iter().enumerate() {
            let at = at.child(list).index(i);
            for (j, port) in rule.list("ports").iter().enumerate() {
                self::port(&mut errors, &at.child("ports").index(j), port);
            }
            for (j, peer) in rule.list(peers).iter().enumerate() {
                self::peer(&mut errors, &at.child(peers).index(j), peer);
            }
        }
    }
    let types = spec.list("policyTypes");
    if types.len() > 2 {
        let text = "may not specify more than two policyTypes";
        errors.push(Error::invalid(at.child("policyTypes"), spec.at("policyTypes").clone(), text));
        return errors;
    }
    for (i, kind) in types.iter().enumerate() {
        let kind = kind.as_str().unwrap_or_default();
        if !matches!(kind, "Ingress" | "Egress") {
            let at = at.child("policyTypes").index(i);
            errors.push(Error::not_supported(at, kind, &["Ingress", "Egress"]));
        }
    }
    errors
}

fn port(errors: &mut ErrorList, at: &Path, port: &Value) {
    one_of_if_set(errors, at.child("protocol"), port.at("protocol"), &["TCP", "UDP", "SCTP"]);
    let end = port.int("endPort");
    match port.at("port") {
        Value::Null => {
            if let Some(end) = end {
                let text = "may not be specified when `port` is not specified";
                errors.push(Error::invalid(at.child("endPort"), end, text));
            }
        }
        Value::String(name) => {
            if let Some(end) = end {
                let text = "may not be specified when `port` is non-numeric";
                errors.push(Error::invalid(at.child("endPort"), end, text));
            }
            invalid_all(errors, &at.child("port"), name, port_name(name));
        }
        number => {
            let number = number.as_i64().unwrap_or_default();
            port_number(errors, at.child("port"), number);
            if let Some(end) = end {
                if end < number {
                    let text = "must be greater than or equal to `port`";
                    errors.push(Error::invalid(at.child("endPort"), end, text));
                }
                port_number(errors, at.child("endPort"), end);
            }
        }
    }
}

fn peer(errors: &mut ErrorList, at: &Path, peer: &Value) {
    let mut kinds = 0;
    for member in ["podSelector", "namespaceSelector"] {
        if peer.has(member) {
            kinds += 1;
            label_selector(errors, &at.child(member), peer.at(member));
        }
    }
    let block = peer.at("ipBlock");
    if !block.is_null() {
        kinds += 1;
        // That a network is needed is declared: it comes last.
        let declared = block.text("cidr").is_empty();
        if !declared {
            ip_block(errors, &at.child("ipBlock"), block);
        }
        if kinds > 1 {
            errors.push(Error::forbidden(at.clone(), "may not specify both ipBlock and another peer"));
        }
        if declared {
            ip_block(errors, &at.child("ipBlock"), block);
        }
    }
    if kinds == 0 {
        errors.push(Error::required(at.clone(), "must specify a peer"));
    }
}

/// `ValidateIPBlock`.
fn ip_block(errors: &mut ErrorList, at: &Path, block: &Value) {
    let whole = block.text("cidr");
    if whole.is_empty() {
        errors.push(Error::required(at.child("cidr"), ""));
        return;
    }
    cidr(errors, at.child("cidr"), whole);
    let Ok(network) = whole.parse::<IpNet>() else { return };
    for (i, except) in block.list("except").iter().enumerate() {
        let (at, except) = (at.child("except").index(i), except.as_str().unwrap_or_default());
        cidr(errors, at.clone(), except);
        let Ok(part) = except.parse::<IpNet>() else { continue };
        if !network.contains(&part.network()) || network.prefix_len() >= part.prefix_len() {
            errors.push(Error::invalid(at, except, "must be a strict subset of `cidr`"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_says_what_it_is_about() {
        let check = |spec: Value, want: Value| {
            let mut object = Object::from_value(json!({"spec": spec})).unwrap();
            default(&mut object);
            assert_eq!(*dig(&object, &["spec", "policyTypes"]), want);
        };
        check(json!({"podSelector": {}}), json!(["Ingress"]));
        check(json!({"podSelector": {}, "egress": [{}]}), json!(["Ingress", "Egress"]));
    }

    #[test]
    fn exceptions_lie_inside_their_block() {
        let check = |except: &str, good: bool| {
            let mut errors = ErrorList::new();
            ip_block(&mut errors, &Path::new("b"), &json!({"cidr": "10.0.0.0/8", "except": [except]}));
            assert_eq!(errors.is_empty(), good, "{except}");
        };
        check("10.1.0.0/16", true);
        check("10.0.0.0/8", false);
        check("192.168.0.0/16", false);
    }
}
