//! `networking.k8s.io`.

mod ingress;
mod network_policy;

use api::field::{Error, ErrorList, Path};
use serde_json::Value;

use crate::checks::{cidr, immutable};
use crate::columns::{age, field, name, name_as, string, text};
use crate::define::Extra;
use crate::json::{Json, dig, existing_at, fill};
use crate::rules::Rules;

/// What is special about a kind of this group.
pub(crate) fn extra(kind: &str) -> Option<Extra> {
    Some(match kind {
        "IPAddress" => ip_address(),
        "Ingress" => ingress::extra(),
        "IngressClass" => ingress_class(),
        "NetworkPolicy" => network_policy::extra(),
        "ServiceCIDR" => service_cidr(),
        _ => return None,
    })
}

fn ingress_class() -> Extra {
    let rules = Rules {
        default: |object| {
            if let Some(parameters) = existing_at(&mut object.0, &["spec", "parameters"]) {
                fill(parameters, "scope", "Cluster");
            }
        },
        validate: |object| {
            let mut errors = ErrorList::new();
            let (spec, at) = (object.at("spec"), Path::new("spec"));
            let controller = spec.text("controller");
            if controller.len() > 250 {
                errors.push(Error::too_long(at.child("controller"), 250));
            }
            errors.extend(api::validation::domain_prefixed_path(&at.child("controller"), controller));
            errors
        },
        validate_update: Some(|object, old| {
            let mut errors = ErrorList::new();
            let at = Path::new("spec").child("controller");
            immutable(&mut errors, at, dig(object, &["spec", "controller"]), dig(old, &["spec", "controller"]));
            errors
        }),
        ..Rules::GENERIC
    };
    let columns = vec![
        name_as(|o, _| match o.annotation("ingressclass.kubernetes.io/is-default-class") {
            Some("true") => format!("{} (default)", o.name()).into(),
            _ => o.name().into(),
        }),
        text("Controller", |o, _| string(o, &["spec", "controller"])),
        text("Parameters", |o, _| {
            let parameters = dig(o, &["spec", "parameters"]);
            if parameters.is_null() {
                return "<none>".into();
            }
            let (kind, name) = (parameters.text("kind"), parameters.text("name"));
            match parameters.at("apiGroup").as_str() {
                Some(group) => format!("{kind}.{group}/{name}").into(),
                None => format!("{kind}/{name}").into(),
            }
        }),
        age(),
    ];
    Extra::new(rules, columns).with_generation()
}

fn ip_address() -> Extra {
    let rules = Rules {
        validate: |object| {
            let mut errors = ErrorList::new();
            let (parent, at) = (dig(object, &["spec", "parentRef"]), Path::new("spec").child("parentRef"));
            if parent.is_null() {
                errors.push(Error::required(at, ""));
                return errors;
            }
            for member in ["resource", "name"] {
                if parent.count(member) == 0 {
                    errors.push(Error::required(at.child(member), ""));
                }
            }
            errors
        },
        validate_update: Some(|object, old| {
            let mut errors = ErrorList::new();
            let at = Path::new("spec").child("parentRef");
            immutable(&mut errors, at, dig(object, &["spec", "parentRef"]), dig(old, &["spec", "parentRef"]));
            errors
        }),
        name: |name, _| match name.parse::<std::net::IpAddr>() {
            Ok(ip) if ip.to_string() == name => Vec::new(),
            Ok(ip) => vec![format!("must be in canonical form ({:?})", ip.to_string())],
            Err(_) => vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".to_owned()],
        },
        ..Rules::GENERIC
    };
    let columns = vec![
        name(),
        text("ParentRef", |o, _| {
            let parent = dig(o, &["spec", "parentRef"]);
            if parent.is_null() {
                return "<none>".into();
            }
            let mut text = parent.text("resource").to_owned();
            for (separator, member) in [(".", "group"), ("/", "namespace"), ("/", "name")] {
                if parent.count(member) > 0 {
                    text = format!("{text}{separator}{}", parent.text(member));
                }
            }
            text.to_lowercase().into()
        }),
    ];
    let parent = |member: &'static str, value: fn(&api::Object) -> String| field(member, value);
    Extra::new(rules, columns).with_fields(vec![parent("spec.parentRef.name", |o| {
        dig(o, &["spec", "parentRef", "name"]).as_str().unwrap_or_default().to_owned()
    })])
}

fn service_cidr() -> Extra {
    let rules = Rules {
        validate: |object| {
            let mut errors = ErrorList::new();
            let at = Path::new("spec").child("cidrs");
            let cidrs = object.array(&["spec", "cidrs"]);
            if cidrs.is_empty() {
                errors.push(Error::required(at.clone(), "at least one CIDR required"));
            }
            if cidrs.len() > 2 {
                let text = "may only hold up to 2 values";
                errors.push(Error::invalid(at.clone(), Value::from(cidrs), text));
            }
            for (i, network) in cidrs.iter().enumerate() {
                cidr(&mut errors, at.index(i), network.as_str().unwrap_or_default());
            }
            errors
        },
        validate_update: Some(|object, old| {
            let mut errors = ErrorList::new();
            let at = Path::new("spec").child("cidrs");
            immutable(&mut errors, at, dig(object, &["spec", "cidrs"]), dig(old, &["spec", "cidrs"]));
            errors
        }),
        ..Rules::GENERIC
    };
    let columns = vec![
        name(),
        text("CIDRs", |o, _| {
            let all = o.array(&["spec", "cidrs"]).iter().filter_map(Value::as_str);
            all.collect::<Vec<_>>().join(",").into()
        }),
        age(),
    ];
    Extra::new(rules, columns)
}
