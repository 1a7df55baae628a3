//! Ingresses.

use api::Object;
use api::field::{Error, ErrorList, Path};
use api::validation::{dns1123_label, dns1123_subdomain, parse_ip_sloppy, wildcard_dns1123_subdomain};
use serde_json::Value;

use crate::checks::{invalid_all, ip, port_name, port_number, subdomain};
use crate::columns::{age, name, string_or, text};
use crate::core::service::balancer_addresses;
use crate::define::Extra;
use crate::json::Json;
use crate::rules::Rules;

/// Hosts that a table shows.
const SHOWN: usize = 3;
const CLASS: &str = "kubernetes.io/ingress.class";

pub(super) fn extra() -> Extra {
    let rules = Rules {
        validate: |object| {
            let mut errors = validate(object);
            let class = object.at("spec").at("ingressClassName").as_str();
            if let (Some(old_way), Some(class)) = (object.annotation(CLASS), class)
                && old_way != class
            {
                let text = "must match `ingressClassName` when both are specified";
                errors.push(Error::invalid(Path::new("annotations").child(CLASS), old_way, text));
            }
            errors
        },
        validate_update: Some(|object, _| validate(object)),
        validate_status: |object, _| {
            let mut errors = ErrorList::new();
            for (i, ingress) in object.at("status").at("loadBalancer").list("ingress").iter().enumerate() {
                let at = Path::new("status").child("loadBalancer").child("ingress").index(i);
                if ingress.count("ip") > 0 {
                    ip(&mut errors, at.child("ip"), ingress.text("ip"));
                }
                if ingress.count("hostname") > 0 {
                    let (at, name) = (at.child("hostname"), ingress.text("hostname"));
                    invalid_all(&mut errors, &at, name, dns1123_subdomain(name, false));
                    if parse_ip_sloppy(name).is_some() {
                        errors.push(Error::invalid(at, name, "must be a DNS name, not an IP address"));
                    }
                }
            }
            errors
        },
        warnings: |object, _| match object.annotation(CLASS) {
            Some(_) => {
                vec!["annotation \"kubernetes.io/ingress.class\" is deprecated, please use 'spec.ingressClassName' instead".to_owned()]
            }
            None => Vec::new(),
        },
        ..Rules::GENERIC
    };
    let columns = vec![
        name(),
        text("Class", |o, _| string_or(o, &["spec", "ingressClassName"], "<none>")),
        text("Hosts", |o, _| hosts(o).into()),
        text("Address", |o, _| balancer_addresses(o.at("status").at("loadBalancer")).join(",").into()),
        text("Ports", |o, _| if o.at("spec").count("tls") > 0 { "80, 443".into() } else { "80".into() }),
        age(),
    ];
    Extra::new(rules, columns).with_generation()
}

/// `formatHosts`.
fn hosts(object: &Object) -> String {
    let rules = object.array(&["spec", "rules"]);
    let named: Vec<&str> = rules.iter().map(|r| r.text("host")).filter(|h| !h.is_empty()).take(SHOWN).collect();
    let all_named = rules.iter().filter(|r| r.count("host") > 0).count();
    if named.is_empty() {
        return "*".to_owned();
    }
    let text = named.join(",");
    if all_named >= SHOWN && rules.len() > SHOWN { format!("{text} + {} more...", rules.len() - SHOWN) } else { text }
}

/// A host name, with or without a wildcard in front.
fn host(errors: &mut ErrorList, at: &Path, name: &str) {
    if parse_ip_sloppy(name).is_some() {
        errors.push(Error::invalid(at.clone(), name, "must be a DNS name, not an IP address"));
    }
    let texts = if name.contains('*') { wildcard_dns1123_subdomain(name) } else { dns1123_subdomain(name, false) };
    invalid_all(errors, at, name, texts);
}

/// `ValidateIngressSpec`.
fn validate(object: &Object) -> ErrorList {
    let mut errors = ErrorList::new();
    let (spec, at) = (object.at("spec"), Path::new("spec"));
    if spec.count("rules") == 0 && !spec.has("defaultBackend") {
        let text = "either `defaultBackend` or `rules` must be specified";
        errors.push(Error::invalid(at.clone(), spec.at("rules").clone(), text));
    }
    if spec.has("defaultBackend") {
        backend(&mut errors, &at.child("defaultBackend"), spec.at("defaultBackend"));
    }
    for (i, rule) in spec.list("rules").iter().enumerate() {
        let at = at.child("rules").index(i);
        if rule.count("host") > 0 {
            host(&mut errors, &at.child("host"), rule.text("host"));
        }
        if !rule.has("http") {
            continue;
        }
        let (paths, at) = (rule.at("http").list("paths"), at.child("http").child("paths"));
        if paths.is_empty() {
            errors.push(Error::required(at.clone(), ""));
        }
        for (j, path) in paths.iter().enumerate() {
            http_path(&mut errors, &at.index(j), path);
        }
    }
    for (i, tls) in spec.list("tls").iter().enumerate() {
        let at = at.child("tls").index(i);
        for (j, name) in tls.list("hosts").iter().enumerate() {
            let name = name.as_str().unwrap_or_default();
            let at = at.child("hosts").index(j);
            let texts =
                if name.contains('*') { wildcard_dns1123_subdomain(name) } else { dns1123_subdomain(name, false) };
            invalid_all(&mut errors, &at, name, texts);
        }
        if tls.count("secretName") > 0 {
            subdomain(&mut errors, &at.child("secretName"), tls.text("secretName"));
        }
    }
    if spec.has("ingressClassName") {
        subdomain(&mut errors, &at.child("ingressClassName"), spec.text("ingressClassName"));
    }
    errors
}

fn http_path(errors: &mut ErrorList, at: &Path, item: &Value) {
    if !item.has("pathType") {
        errors.push(Error::required(at.child("pathType"), "pathType must be specified"));
        return;
    }
    let (field, path) = (at.child("path"), item.text("path"));
    match item.text("pathType") {
        "Exact" | "Prefix" => {
            if !path.starts_with('/') {
                errors.push(Error::invalid(field.clone(), path, "must be an absolute path"));
            }
            for bad in ["//", "/./", "/../", "%2f", "%2F"] {
                if path.contains(bad) {
                    errors.push(Error::invalid(field.clone(), path, format!("must not contain '{bad}'")));
                }
            }
            for bad in ["/..", "/."] {
                if path.ends_with(bad) {
                    errors.push(Error::invalid(field.clone(), path, format!("cannot end with '{bad}'")));
                }
            }
        }
        "ImplementationSpecific" => {
            if !path.is_empty() && !path.starts_with('/') {
                errors.push(Error::invalid(field, path, "must be an absolute path"));
            }
        }
        other => {
            let supported = &["Exact", "ImplementationSpecific", "Prefix"];
            errors.push(Error::not_supported(at.child("pathType"), other, supported));
        }
    }
    backend(errors, &at.child("backend"), item.at("backend"));
}

/// `validateIngressBackend`.
fn backend(errors: &mut ErrorList, at: &Path, backend: &Value) {
    let service = backend.at("service");
    match (backend.has("resource"), !service.is_null()) {
        (true, true) => {
            errors.push(Error::invalid(at.clone(), "", "cannot set both resource and service backends"));
        }
        (true, false) => {
            let (resource, at) = (backend.at("resource"), at.child("resource"));
            if let Some(group) = resource.at("apiGroup").as_str() {
                crate::checks::subdomain(errors, &at.child("apiGroup"), group);
            }
            for member in ["kind", "name"] {
                crate::checks::segment(errors, &at.child(member), resource.text(member), true);
            }
        }
        (false, true) => {
            let field = at.child("service").child("name");
            match service.text("name") {
                "" => errors.push(Error::required(field, "")),
                name => invalid_all(errors, &field, name, dns1123_label(name, false)),
            }
            let port = service.at("port");
            let (name, number) = (port.text("name"), port.int("number").unwrap_or_default());
            let field = at.child("service").child("port");
            match (name, number) {
                ("", 0) => errors.push(Error::required(at.clone(), "port name or number is required")),
                ("", number) => port_number(errors, field.child("number"), number),
                (name, 0) => invalid_all(errors, &field.child("name"), name, port_name(name)),
                _ => errors.push(Error::invalid(at.clone(), "", "cannot set both port name & port number")),
            }
        }
        (false, false) => {
            errors.push(Error::invalid(at.clone(), "", "resource or service backend is required"));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn problems_read_as_upstream() {
        let check = |spec: Value, want: &[&str]| {
            let object = Object::from_value(json!({"spec": spec})).unwrap();
            let texts: Vec<String> = validate(&object).iter().map(ToString::to_string).collect();
            assert_eq!(texts, want);
        };
        let good = json!({"service": {"name": "s", "port": {"number": 80}}});
        check(json!({"defaultBackend": good}), &[]);
        check(
            json!({"defaultBackend": {}}),
            &["spec.defaultBackend: Invalid value: \"\": resource or service backend is required"],
        );
        check(
            json!({"rules": [{"http": {"paths": [{"path": "x", "pathType": "Prefix", "backend": good}]}}]}),
            &["spec.rules[0].http.paths[0].path: Invalid value: \"x\": must be an absolute path"],
        );
    }
}
