//! `discovery.k8s.io`: EndpointSlices.

use api::Object;
use api::field::{Error, ErrorList, Path};
use api::validation::dns1123_subdomain;
use serde_json::Value;

use crate::checks::{immutable_hidden, invalid_all, ip, label_name, label_value, one_of, qualified_name, subdomain};
use crate::columns::{age, name, string, text};
use crate::core::service_validate::endpoint_ip;
use crate::define::Extra;
use crate::json::{Json, items_mut};
use crate::rules::Rules;

const ENDPOINTS_MAX: usize = 1000;
const ADDRESSES_MAX: usize = 100;
const PORTS_MAX: usize = 20_000;
const HINTS_MAX: usize = 8;
/// Items that a table shows.
const SHOWN: usize = 3;

/// What is special about a kind of this group.
pub(crate) fn extra(kind: &str) -> Option<Extra> {
    (kind == "EndpointSlice").then(slice)
}

fn slice() -> Extra {
    let rules = Rules {
        default: |object| {
            for port in items_mut(&mut object.0, "ports") {
                if !port.has("name") {
                    port.insert("name".to_owned(), "".into());
                }
                if !port.has("protocol") {
                    port.insert("protocol".to_owned(), "TCP".into());
                }
            }
        },
        create: |_, object| drop_topology(object),
        validate,
        validate_update: Some(|object, old| {
            let mut errors = validate(object);
            if crate::json::same(object.at("endpoints"), old.at("endpoints")) {
                // What is as it was may stay, whatever it is.
                errors.retain(|error| !error.path.to_string().starts_with("endpoints["));
            }
            let at = Path::new("addressType");
            immutable_hidden(&mut errors, at, object.at("addressType"), old.at("addressType"));
            errors
        }),
        warnings: |object, old| {
            let mut out = Vec::new();
            if old.is_none() && object.text("addressType") == "FQDN" {
                out.push("spec.addressType: FQDN endpoints are deprecated".to_owned());
            }
            // Those of upstream's own controllers are good.
            const OWN: [&str; 2] = ["endpointslice-controller.k8s.io", "endpointslicemirroring-controller.k8s.io"];
            if object.label("endpointslice.kubernetes.io/managed-by").is_some_and(|by| OWN.contains(&by)) {
                return out;
            }
            for (i, endpoint) in object.list("endpoints").iter().enumerate() {
                for (j, address) in endpoint.list("addresses").iter().enumerate() {
                    let at = Path::new("endpoints").index(i).child("addresses").index(j);
                    out.extend(api::validation::ip_warnings(&at, address.as_str().unwrap_or_default()));
                }
            }
            out
        },
        // Labels say which Service the slice is of: they count (`endpointSliceStrategy.PrepareForUpdate`).
        update: |_, object, old| {
            drop_topology(object);
            if object.at("metadata").at("labels") != old.at("metadata").at("labels") {
                object.set(&["metadata", "generation"], old.generation() + 1);
            }
        },
        ..Rules::GENERIC
    };
    let columns = vec![
        name(),
        text("AddressType", |o, _| string(o, &["addressType"])),
        text("Ports", |o, _| ports(o).into()),
        text("Endpoints", |o, _| {
            let all = o.list("endpoints").iter().flat_map(|e| e.list("addresses")).filter_map(Value::as_str);
            some_of(all.map(str::to_owned)).into()
        }),
        age(),
    ];
    Extra::new(rules, columns).with_generation()
}

fn ports(object: &Object) -> String {
    some_of(object.list("ports").iter().map(|port| match port.int("port") {
        Some(number) => number.to_string(),
        None if port.has("name") => port.text("name").to_owned(),
        None => "*".to_owned(),
    }))
}

/// `listWithMoreString`.
fn some_of(items: impl Iterator<Item = String>) -> String {
    let all: Vec<String> = items.collect();
    let text = all[..all.len().min(SHOWN)].join(",");
    if all.len() > SHOWN {
        format!("{text} + {} more...", all.len() - SHOWN)
    } else if text.is_empty() {
        "<unset>".to_owned()
    } else {
        text
    }
}

/// `dropTopologyOnV1`: what v1beta1 had as topology is not written through v1.
fn drop_topology(object: &mut Object) {
    for endpoint in items_mut(&mut object.0, "endpoints") {
        endpoint.remove("deprecatedTopology");
    }
}

/// `ValidateEndpointSlice`.
fn validate(object: &Object) -> ErrorList {
    let mut errors = ErrorList::new();
    let kind = object.text("addressType");
    one_of(&mut errors, Path::new("addressType"), kind, &["FQDN", "IPv4", "IPv6"]);
    port_list(&mut errors, &Path::new("ports"), object.list("ports"));
    let endpoints = object.list("endpoints");
    if endpoints.len() > ENDPOINTS_MAX {
        errors.push(Error::too_many(Path::new("endpoints"), endpoints.len(), ENDPOINTS_MAX));
        return errors;
    }
    for (i, endpoint) in endpoints.iter().enumerate() {
        self::endpoint(&mut errors, &Path::new("endpoints").index(i), endpoint, kind);
    }
    errors
}

fn port_list(errors: &mut ErrorList, at: &Path, list: &[Value]) {
    if list.len() > PORTS_MAX {
        errors.push(Error::too_many(at.clone(), list.len(), PORTS_MAX));
        return;
    }
    for (i, port) in list.iter().enumerate() {
        let (at, name) = (at.index(i), port.text("name"));
        if !name.is_empty() {
            label_name(errors, &at.child("name"), name);
        }
        if list[..i].iter().any(|p| p.text("name") == name) {
            errors.push(Error::duplicate(at.child("name"), name));
        }
        // A pointer in Go, which an empty text is not.
        let (protocol, known) = (port.at("protocol"), &["SCTP", "TCP", "UDP"]);
        match protocol.as_str() {
            None => errors.push(Error::required(at.child("protocol"), "")),
            Some(text) if known.contains(&text) => {}
            Some(text) => errors.push(Error::not_supported(at.child("protocol"), text, known)),
        }
        if port.has("appProtocol") {
            let protocol = port.text("appProtocol");
            invalid_all(errors, &at.child("appProtocol"), protocol, qualified_name(protocol));
        }
    }
}

fn endpoint(errors: &mut ErrorList, at: &Path, endpoint: &Value, kind: &str) {
    let (field, addresses) = (at.child("addresses"), endpoint.list("addresses"));
    if addresses.is_empty() {
        errors.push(Error::required(field.clone(), ""));
    } else if addresses.len() > ADDRESSES_MAX {
        errors.push(Error::too_many(field.clone(), addresses.len(), ADDRESSES_MAX));
    }
    for (i, address) in addresses.iter().enumerate() {
        let (at, address) = (field.index(i), address.as_str().unwrap_or_default());
        if kind == "FQDN" {
            errors.extend(api::validation::fully_qualified_domain_name(&at, address));
            continue;
        }
        if !matches!(kind, "IPv4" | "IPv6") {
            continue;
        }
        let before = errors.len();
        ip(errors, at.clone(), address);
        if errors.len() == before {
            if address.contains(':') != (kind == "IPv6") {
                errors.push(Error::invalid(field.clone(), address, format!("must be an {kind} address")));
            }
            endpoint_ip(errors, &at, address);
        }
    }
    if endpoint.has("nodeName") {
        subdomain(errors, &at.child("nodeName"), endpoint.text("nodeName"));
    }
    if endpoint.has("hostname") {
        label_name(errors, &at.child("hostname"), endpoint.text("hostname"));
    }
    for (member, rule) in
        [("forZones", label_value as fn(&str) -> Vec<String>), ("forNodes", |name| dns1123_subdomain(name, false))]
    {
        let hints = endpoint.at("hints").list(member);
        let field = at.child("hints").child(member);
        if hints.len() > HINTS_MAX {
            errors.push(Error::too_many(field, hints.len(), HINTS_MAX));
            return;
        }
        for (i, hint) in hints.iter().enumerate() {
            let (at, name) = (field.index(i).child("name"), hint.text("name"));
            if hints[..i].iter().any(|other| other.text("name") == name) {
                errors.push(Error::duplicate(at.clone(), name));
            }
            invalid_all(errors, &at, name, rule(name));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn tables_show_some() {
        let object = Object::from_value(json!({"ports": [{"port": 80}, {"name": "x"}, {}]})).unwrap();
        assert_eq!(ports(&object), "80,x,*");
        assert_eq!(some_of((1..=5).map(|n| n.to_string())), "1,2,3 + 2 more...");
        assert_eq!(some_of(std::iter::empty()), "<unset>");
    }

    #[test]
    fn addresses_are_checked() {
        let check = |value: Value, count: usize| {
            let object = Object::from_value(json!({"addressType": "IPv4", "endpoints": [value]})).unwrap();
            assert_eq!(validate(&object).len(), count, "{value}", value = object.at("endpoints"));
        };
        check(json!({"addresses": ["10.0.0.1"]}), 0);
        check(json!({"addresses": []}), 1);
        check(json!({"addresses": ["fd00::1"]}), 1);
        check(json!({"addresses": ["127.0.0.1"]}), 1);
    }
}
