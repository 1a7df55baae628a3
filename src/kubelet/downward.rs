//! Facts about the pod for its own environment and files (upstream `pkg/fieldpath`, `api/v1/resource`).

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceFieldSelector};

use crate::context::Context;
use crate::{resources, spec};

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DownwardError {
    #[error("unsupported fieldPath: {0}")]
    UnsupportedField(String),
    #[error("unsupported container resource : {0}")]
    UnsupportedResource(String),
    #[error("container {0} not found")]
    NoContainer(String),
    #[error("invalid divisor {0:?}")]
    Divisor(String),
}

/// Value of a field path, as `fieldRef` names them.
pub fn field(ctx: &Context, pod: &Pod, ips: &[IpAddr], path: &str) -> Result<String, DownwardError> {
    let joined = |ips: &[IpAddr]| ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let node_ips = &ctx.config.node_ips;
    let pod_ips = if spec::is_host_network(pod) { node_ips.as_slice() } else { ips };
    let first = |ips: &[IpAddr]| ips.first().map(ToString::to_string).unwrap_or_default();
    Ok(match path {
        "spec.nodeName" => ctx.config.node_name.clone(),
        "spec.serviceAccountName" => spec::spec(pod).service_account_name.clone().unwrap_or_default(),
        "status.hostIP" => first(node_ips),
        "status.hostIPs" => joined(node_ips),
        "status.podIP" => first(pod_ips),
        "status.podIPs" => joined(pod_ips),
        _ => metadata(pod, path)?,
    })
}

/// Value of a field path under `metadata` (upstream `ExtractFieldPathAsString`).
pub fn metadata(pod: &Pod, path: &str) -> Result<String, DownwardError> {
    let meta = &pod.metadata;
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    if let Some((map, key)) = subscript(path) {
        let map = match map {
            "metadata.annotations" => &meta.annotations,
            "metadata.labels" => &meta.labels,
            _ => return Err(DownwardError::UnsupportedField(path.to_owned())),
        };
        return Ok(map.as_ref().and_then(|m| m.get(key)).cloned().unwrap_or_default());
    }
    Ok(match path {
        "metadata.annotations" => format_map(meta.annotations.as_ref()),
        "metadata.labels" => format_map(meta.labels.as_ref()),
        "metadata.name" => text(&meta.name),
        "metadata.namespace" => text(&meta.namespace),
        "metadata.uid" => text(&meta.uid),
        _ => return Err(DownwardError::UnsupportedField(path.to_owned())),
    })
}

/// `a['b']` as `(a, b)`.
fn subscript(path: &str) -> Option<(&str, &str)> {
    let inner = path.strip_suffix("']")?;
    inner.split_once("['")
}

/// `key="value"` lines, sorted.
fn format_map(map: Option<&BTreeMap<String, String>>) -> String {
    let lines: Vec<String> = map.into_iter().flatten().map(|(k, v)| format!("{k}={}", go_quote(v))).collect();
    lines.join("\n")
}

/// Go's `%q`.
pub fn go_quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            c if u32::from(c) < 0x20 || c == '\u{7f}' => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// A container's request or limit, by divisor; a missing limit is what the node has to give.
pub fn resource(
    ctx: &Context,
    pod: &Pod,
    own: Option<&Container>,
    selector: &ResourceFieldSelector,
) -> Result<String, DownwardError> {
    let named = selector.container_name.as_deref().filter(|n| !n.is_empty());
    let container = match (named, own) {
        (Some(name), _) => {
            spec::find(pod, name).map(|(_, c)| c).ok_or_else(|| DownwardError::NoContainer(name.to_owned()))?
        }
        (None, Some(own)) => own.clone(),
        (None, None) => return Err(DownwardError::NoContainer(String::new())),
    };
    let (list, name) = selector
        .resource
        .split_once('.')
        .ok_or_else(|| DownwardError::UnsupportedResource(selector.resource.clone()))?;
    let known = matches!(name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-");
    let is_limit = match list {
        "limits" => true,
        "requests" => false,
        _ => return Err(DownwardError::UnsupportedResource(selector.resource.clone())),
    };
    if !known {
        return Err(DownwardError::UnsupportedResource(selector.resource.clone()));
    }
    let of = if is_limit { resources::limit } else { resources::request };
    let quantity = of(container.resources.as_ref(), name);
    let milli = quantity.and_then(|q| if name == "cpu" { resources::milli(q) } else { resources::value(q) });
    let amount = match milli.filter(|n| *n != 0) {
        Some(n) => n,
        None if is_limit && !name.starts_with("hugepages-") => ctx.machine.allocatable(&ctx.config, name),
        None => 0,
    };
    let divisor = selector.divisor.as_ref().map(|d| d.0.as_str()).filter(|d| *d != "0").unwrap_or("1");
    let bad = || DownwardError::Divisor(divisor.to_owned());
    let quantity = k8s_openapi::apimachinery::pkg::api::resource::Quantity(divisor.to_owned());
    let divisor_number =
        if name == "cpu" { resources::milli(&quantity) } else { resources::value(&quantity) }.ok_or_else(bad)?;
    if divisor_number <= 0 {
        return Err(bad());
    }
    let (whole, rest) = (amount / divisor_number, amount % divisor_number);
    Ok((whole + i64::from(rest > 0)).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pod_from;
    use serde_json::json;

    #[test]
    fn metadata_fields_read_as_upstream_prints_them() {
        let pod = pod_from(json!({"metadata": {"name": "p", "labels": {"b": "x\"y", "a": "1\n"}}, "spec": {}}));
        let check = |path: &str, expected: &str| assert_eq!(metadata(&pod, path).as_deref(), Ok(expected), "{path}");
        check("metadata.name", "p");
        check("metadata.labels", "a=\"1\\n\"\nb=\"x\\\"y\"");
        check("metadata.labels['a']", "1\n");
        check("metadata.annotations['none']", "");
        assert!(metadata(&pod, "metadata.nothing").is_err());
    }
}
