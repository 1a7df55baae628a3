//! Endpoints.

use api::Object;
use api::field::{Error, ErrorList, Path};
use serde_json::Value;

use crate::checks::{invalid_all, ip, label_name, one_of, port_number, qualified_name, subdomain};
use crate::columns::{age, name, text};
use crate::define::Extra;
use crate::json::{Json, fill, items_mut};
use crate::rules::Rules;

use super::service_validate::endpoint_ip;

/// Addresses that a table shows.
const SHOWN: usize = 3;

pub(super) fn extra() -> Extra {
    let rules = Rules {
        default: |object| {
            for subset in items_mut(&mut object.0, "subsets") {
                for port in items_mut(subset, "ports") {
                    fill(port, "protocol", "TCP");
                }
            }
        },
        validate,
        create_on_update: true,
        ..Rules::GENERIC
    };
    Extra::new(rules, vec![name(), text("Endpoints", |o, _| endpoints(o).into()), age()])
}

/// `formatEndpoints`.
fn endpoints(object: &Object) -> String {
    let mut shown: Vec<String> = Vec::new();
    let mut count = 0;
    let subsets = object.list("subsets");
    if subsets.is_empty() {
        return "<none>".to_owned();
    }
    for subset in subsets {
        let addresses = subset.list("addresses");
        let ports: Vec<Option<i64>> = match subset.list("ports") {
            [] => vec![None],
            ports => ports.iter().map(|p| p.int("port")).collect(),
        };
        for port in ports {
            count += addresses.len();
            for address in addresses.iter().take(SHOWN.saturating_sub(shown.len())) {
                let ip = address.text("ip");
                shown.push(match port {
                    None => ip.to_owned(),
                    Some(port) if ip.contains(':') => format!("[{ip}]:{port}"),
                    Some(port) => format!("{ip}:{port}"),
                });
            }
        }
    }
    let text = shown.join(",");
    if count > SHOWN { format!("{text} + {} more...", count - SHOWN) } else { text }
}

/// `ValidateEndpoints`.
fn validate(object: &Object) -> ErrorList {
    let mut errors = ErrorList::new();
    for (i, subset) in object.list("subsets").iter().enumerate() {
        let at = Path::new("subsets").index(i);
        if subset.count("addresses") + subset.count("notReadyAddresses") == 0 {
            errors.push(Error::required(at.clone(), "must specify `addresses` or `notReadyAddresses`"));
        }
        for list in ["addresses", "notReadyAddresses"] {
            for (j, item) in subset.list(list).iter().enumerate() {
                address(&mut errors, &at.child(list).index(j), item);
            }
        }
        let ports = subset.list("ports");
        for (j, port) in ports.iter().enumerate() {
            let (at, name) = (at.child("ports").index(j), port.text("name"));
            if !name.is_empty() {
                label_name(&mut errors, &at.child("name"), name);
            } else if ports.len() > 1 {
                errors.push(Error::required(at.child("name"), ""));
            }
            port_number(&mut errors, at.child("port"), port.int("port").unwrap_or_default());
            one_of(&mut errors, at.child("protocol"), port.text("protocol"), &["SCTP", "TCP", "UDP"]);
            if let Some(protocol) = port.at("appProtocol").as_str() {
                invalid_all(&mut errors, &at.child("appProtocol"), protocol, qualified_name(protocol));
            }
        }
    }
    errors
}

fn address(errors: &mut ErrorList, at: &Path, item: &Value) {
    ip(errors, at.child("ip"), item.text("ip"));
    endpoint_ip(errors, &at.child("ip"), item.text("ip"));
    if item.count("hostname") > 0 {
        label_name(errors, &at.child("hostname"), item.text("hostname"));
    }
    if item.has("nodeName") {
        subdomain(errors, &at.child("nodeName"), item.text("nodeName"));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn three_addresses_are_shown() {
        let check = |subsets: Value, want: &str| {
            assert_eq!(endpoints(&Object::from_value(json!({"subsets": subsets})).unwrap()), want);
        };
        check(json!([]), "<none>");
        check(json!([{"addresses": [{"ip": "1.2.3.4"}], "ports": [{"port": 80}]}]), "1.2.3.4:80");
        let four: Vec<Value> = (1..=4).map(|n| json!({"ip": format!("10.0.0.{n}")})).collect();
        check(json!([{"addresses": four, "ports": [{"port": 80}]}]), "10.0.0.1:80,10.0.0.2:80,10.0.0.3:80 + 1 more...");
    }
}
