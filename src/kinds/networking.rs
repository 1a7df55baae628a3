//! `networking.k8s.io`.

mod ingress;
mod network_policy;

use api::field::{Error, ErrorList, Path};
use serde_json::Value;

use crate::checks::{IMMUTABLE, immutable_as, label_name, segment, subdomain};
use crate::columns::{age, name, name_as, string, text};
use crate::define::Extra;
use crate::json::{Json, dig, existing_at};
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
                // An empty text is no nil pointer.
                if !parameters.has("scope") {
                    parameters.insert("scope".to_owned(), "Cluster".into());
                }
            }
        },
        validate: class_spec,
        validate_update: Some(|object, old| {
            let mut errors = ErrorList::new();
            let at = Path::new("spec").child("controller");
            let controller = ["spec", "controller"];
            immutable_as(&mut errors, at, "string", dig(object, &controller), dig(old, &controller));
            errors.extend(class_spec(object));
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
        adds_to_names: false,
        validate: parent,
        validate_update: Some(|object, old| {
            let mut errors = self::parent(object);
            let (at, parent) = (Path::new("spec").child("parentRef"), dig(object, &["spec", "parentRef"]));
            if !crate::json::same(parent, dig(old, &["spec", "parentRef"])) {
                // Upstream's declarative checks do not print pointers.
                errors.push(Error::invalid(at, Value::Null, IMMUTABLE));
            }
            errors
        }),
        name: |name, _| api::validation::ip(&Path::new("name"), name).into_iter().map(|error| error.detail).collect(),
        ..Rules::GENERIC
    };
    // Upstream shows no age of these.
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
    Extra::new(rules, columns)
}

/// `validateIPAddressParentReference`.
fn parent(object: &api::Object) -> ErrorList {
    let mut errors = ErrorList::new();
    let (parent, at) = (dig(object, &["spec", "parentRef"]), Path::new("spec").child("parentRef"));
    if parent.is_null() {
        errors.push(Error::required(at, ""));
        return errors;
    }
    let group = parent.text("group");
    if !group.is_empty() {
        subdomain(&mut errors, &at.child("group"), group);
    }
    segment(&mut errors, &at.child("resource"), parent.text("resource"), true);
    segment(&mut errors, &at.child("name"), parent.text("name"), true);
    segment(&mut errors, &at.child("namespace"), parent.text("namespace"), false);
    errors
}

fn service_cidr() -> Extra {
    let rules = Rules {
        validate: |object| {
            let mut errors = ErrorList::new();
            let at = Path::new("spec").child("cidrs");
            networks(&mut errors, &at, object.array(&["spec", "cidrs"]));
            errors
        },
        validate_update: Some(|object, old| {
            let mut errors = ErrorList::new();
            let at = Path::new("spec").child("cidrs");
            let (new, before) = (object.array(&["spec", "cidrs"]), old.array(&["spec", "cidrs"]));
            match (before, new) {
                ([before], [first, _]) => {
                    if first != before {
                        errors.push(Error::invalid(at.index(0), first.clone(), IMMUTABLE));
                    }
                    networks(&mut errors, &at, new);
                }
                (before, new) if before.len() == new.len() => {
                    for (i, (network, _)) in new.iter().zip(before).enumerate().filter(|(_, (a, b))| a != b) {
                        errors.push(Error::invalid(at.index(i), network.clone(), IMMUTABLE));
                    }
                }
                _ => errors.push(Error::invalid(at, Value::from(new), IMMUTABLE)),
            }
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

/// `validateIngressClassSpec`.
fn class_spec(object: &api::Object) -> ErrorList {
    let mut errors = ErrorList::new();
    let (spec, at) = (object.at("spec"), Path::new("spec"));
    let controller = spec.text("controller");
    if controller.len() > 250 {
        errors.push(Error::too_long(at.child("controller"), 250));
    }
    errors.extend(api::validation::domain_prefixed_path(&at.child("controller"), controller));
    let (parameters, at) = (spec.at("parameters"), at.child("parameters"));
    if parameters.is_null() {
        return errors;
    }
    if let Some(group) = parameters.at("apiGroup").as_str() {
        subdomain(&mut errors, &at.child("apiGroup"), group);
    }
    segment(&mut errors, &at.child("kind"), parameters.text("kind"), true);
    segment(&mut errors, &at.child("name"), parameters.text("name"), true);
    let namespace = at.child("namespace");
    match (parameters.text("scope"), parameters.at("namespace").as_str()) {
        ("Namespace", None) => errors.push(Error::required(namespace, "`parameters.scope` is set to 'Namespace'")),
        ("Namespace", Some(name)) => label_name(&mut errors, &namespace, name),
        ("Cluster", Some(_)) => errors.push(Error::forbidden(namespace, "`parameters.scope` is set to 'Cluster'")),
        ("Cluster", None) => {}
        (other, _) => errors.push(Error::not_supported(at.child("scope"), other, &["Cluster", "Namespace"])),
    }
    errors
}

/// `validateServiceCIDRSpec`.
fn networks(errors: &mut ErrorList, at: &Path, networks: &[Value]) {
    if networks.is_empty() {
        errors.push(Error::required(at.clone(), "at least one CIDR required"));
        return;
    }
    if networks.len() > 2 {
        let spec = serde_json::json!({ "CIDRs": networks });
        errors.push(Error::invalid(at.clone(), spec, "may only hold up to 2 values"));
        return;
    }
    for (i, network) in networks.iter().enumerate() {
        errors.extend(api::validation::cidr(&at.index(i), network.as_str().unwrap_or_default()));
    }
    let family = |network: &Value| {
        api::validation::parse_cidr_sloppy(network.as_str().unwrap_or_default()).map(|(address, _)| address.is_ipv4())
    };
    if let [a, b] = networks
        && family(a).is_some()
        && family(a) == family(b)
    {
        let text = "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64";
        errors.push(Error::invalid(at.clone(), Value::from(networks), text));
    }
}
