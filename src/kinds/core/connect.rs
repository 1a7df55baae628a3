//! Where connections to pods, nodes and services go (`pkg/registry/core/{pod,node,service}`).

use std::net::IpAddr;

use api::kind::{Connect, ConnectRequest, ConnectTarget, Tls};
use api::services::ActionContext;
use api::{GroupResource, Gvr, Object, Status};
use async_trait::async_trait;
use serde_json::Value;

use crate::json::{Json, dig};
use crate::podspec::all_containers;

/// The members of a raw query, decoded.
fn parameters(query: &str) -> Vec<(String, String)> {
    query
        .split('&')
        .filter(|part| !part.is_empty())
        .map(|part| {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            (base::percent_decode(key, true), base::percent_decode(value, true))
        })
        .collect()
}

/// Go's `url.QueryEscape`.
fn encode(text: &str) -> String {
    base::percent_encode(text, b"-_.~ ").replace(' ', "+")
}

fn join(pairs: &[(&str, String)]) -> String {
    pairs.iter().map(|(key, value)| format!("{key}={}", encode(value))).collect::<Vec<_>>().join("&")
}

/// Go reads `true`, `1`, `t` … as true.
fn truth(text: &str) -> bool {
    matches!(text, "1" | "t" | "T" | "true" | "TRUE" | "True")
}

/// Host and port of a node's kubelet (`NodeConnectionInfoGetter`).
async fn kubelet(ctx: &ActionContext<'_>, node: &str, port: u16) -> Result<(String, u16), Status> {
    let node = ctx.registry.get(&Gvr::new("", "v1", "nodes"), "", node).await?;
    kubelet_of(&node, port)
}

fn kubelet_of(node: &Object, port: u16) -> Result<(String, u16), Status> {
    let addresses = node.array(&["status", "addresses"]);
    // Upstream's default --kubelet-preferred-address-types.
    let order = ["Hostname", "InternalDNS", "InternalIP", "ExternalDNS", "ExternalIP"];
    // A host name of a node need not resolve where the server runs, so its address goes first here.
    let found = ["InternalIP"].iter().chain(&order).find_map(|kind| {
        addresses.iter().find(|a| a.text("type") == *kind && a.count("address") > 0).map(|a| a.text("address"))
    });
    let Some(host) = found else {
        return Err(Status::internal(format!("no preferred addresses found; known addresses: {}", addresses.len())));
    };
    let own = dig(node, &["status", "daemonEndpoints", "kubeletEndpoint"]).int("Port").unwrap_or_default();
    Ok((host.to_owned(), u16::try_from(own).ok().filter(|p| *p != 0).unwrap_or(port)))
}

/// `validateContainer`: the only container, or the one that is named.
fn container<'o>(pod: &'o Object, wanted: &'o str) -> Result<&'o str, Status> {
    let spec = pod.at("spec");
    if !wanted.is_empty() {
        if all_containers(spec).any(|c| c.text("name") == wanted) {
            return Ok(wanted);
        }
        return Err(Status::bad_request(format!("container {wanted} is not valid for pod {}", pod.name())));
    }
    match spec.list("containers") {
        [] => Err(Status::bad_request(format!("a container name must be specified for pod {}", pod.name()))),
        [only] => Ok(only.text("name")),
        _ => {
            let names: Vec<&str> = all_containers(spec).map(|c| c.text("name")).collect();
            Err(Status::bad_request(format!(
                "a container name must be specified for pod {}, choose one of: [{}]",
                pod.name(),
                names.join(" ")
            )))
        }
    }
}

fn node_name(pod: &Object) -> Result<&str, Status> {
    match dig(pod, &["spec", "nodeName"]).as_str() {
        None | Some("") => Err(Status::bad_request(format!("pod {} does not have a host assigned", pod.name()))),
        Some(node) => Ok(node),
    }
}

/// `pods/exec` and `pods/attach`.
pub(super) struct Stream {
    /// `exec` or `attach`.
    pub verb: &'static str,
    pub port: u16,
}

#[async_trait]
impl Connect for Stream {
    async fn target(
        &self,
        ctx: &ActionContext<'_>,
        object: &Object,
        request: &ConnectRequest<'_>,
    ) -> Result<ConnectTarget, Status> {
        let given = parameters(request.query);
        let wanted = given.iter().find(|(key, _)| key == "container").map_or("", |(_, value)| value);
        let container = container(object, wanted)?;
        let (host, port) = kubelet(ctx, node_name(object)?, self.port).await?;
        // Keys in order, as Go encodes a query.
        let mut query: Vec<(&str, String)> = Vec::new();
        let commands = given.iter().filter(|(key, _)| self.verb == "exec" && key == "command");
        query.extend(commands.map(|(_, value)| ("command", value.clone())));
        for (flag, name) in [("stderr", "error"), ("stdin", "input"), ("stdout", "output"), ("tty", "tty")] {
            let value = given.iter().find(|(key, _)| key == flag).map(|(_, value)| value.as_str());
            // Upstream's defaults: output and errors are on unless turned off.
            let on = value.map_or(matches!(flag, "stdout" | "stderr"), truth);
            if on {
                query.push((name, "1".to_owned()));
            }
        }
        let path = format!("/{}/{}/{}/{container}?{}", self.verb, object.namespace(), object.name(), join(&query));
        Ok(ConnectTarget { tls: Tls::Kubelet, host, port, path_and_query: path, rewrite_locations: false })
    }
}

/// `pods/portforward`.
pub(super) struct PortForward {
    pub port: u16,
}

#[async_trait]
impl Connect for PortForward {
    async fn target(
        &self,
        ctx: &ActionContext<'_>,
        object: &Object,
        request: &ConnectRequest<'_>,
    ) -> Result<ConnectTarget, Status> {
        let (host, port) = kubelet(ctx, node_name(object)?, self.port).await?;
        let ports: Vec<String> =
            parameters(request.query).into_iter().filter(|(key, _)| key == "ports").map(|(_, value)| value).collect();
        let mut path = format!("/portForward/{}/{}", object.namespace(), object.name());
        if !ports.is_empty() {
            path = format!("{path}?{}", join(&[("port", ports.join(","))]));
        }
        Ok(ConnectTarget { tls: Tls::Kubelet, host, port, path_and_query: path, rewrite_locations: false })
    }
}

/// `pods/log`.
pub(super) struct Log {
    pub port: u16,
}

#[async_trait]
impl Connect for Log {
    async fn target(
        &self,
        ctx: &ActionContext<'_>,
        object: &Object,
        request: &ConnectRequest<'_>,
    ) -> Result<ConnectTarget, Status> {
        let given = parameters(request.query);
        let value = |name: &str| given.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        check_log_options(object.name(), &value)?;
        let container = container(object, value("container").unwrap_or_default())?;
        if node_name(object).is_err() {
            // Nothing has run, and there is nothing to say (`LogLocation`).
            return Err(Status::new(204, "", ""));
        }
        let (host, port) = kubelet(ctx, node_name(object)?, self.port).await?;
        let mut query: Vec<(&str, String)> = Vec::new();
        for name in
            ["follow", "limitBytes", "previous", "sinceSeconds", "sinceTime", "stream", "tailLines", "timestamps"]
        {
            match (name, value(name)) {
                ("follow" | "previous" | "timestamps", Some(text)) if truth(text) => {
                    query.push((name, "true".to_owned()))
                }
                ("follow" | "previous" | "timestamps", _) => {}
                ("stream", text) => query.push((name, text.filter(|t| !t.is_empty()).unwrap_or("All").to_owned())),
                (_, Some(text)) => query.push((name, text.to_owned())),
                (_, None) => {}
            }
        }
        let path = format!("/containerLogs/{}/{}/{container}?{}", object.namespace(), object.name(), join(&query));
        let tls = if value("insecureSkipTLSVerifyBackend").is_some_and(truth) { Tls::Insecure } else { Tls::Kubelet };
        Ok(ConnectTarget { tls, host, port, path_and_query: path, rewrite_locations: false })
    }
}

/// `ValidatePodLogOptions`.
fn check_log_options<'v>(pod: &str, value: &impl Fn(&str) -> Option<&'v str>) -> Result<(), Status> {
    use api::field::{Error, Path};
    let mut errors = Vec::new();
    let number = |name: &str| value(name).map(|text| (text.to_owned(), text.parse::<i64>().ok()));
    for (name, least, text) in [
        ("tailLines", 0, "must be greater than or equal to 0"),
        ("limitBytes", 1, "must be greater than 0"),
        ("sinceSeconds", 1, "must be greater than 0"),
    ] {
        match number(name) {
            Some((given, None)) => {
                return Err(Status::bad_request(format!(
                    "strconv.ParseInt: parsing {given:?}: invalid syntax for {name}"
                )));
            }
            Some((_, Some(n))) if n < least => errors.push(Error::invalid(Path::new(name), n, text)),
            _ => {}
        }
    }
    if value("sinceSeconds").is_some() && value("sinceTime").is_some() {
        let text = "at most one of `sinceTime` or `sinceSeconds` may be specified";
        errors.push(Error::forbidden(Path::default(), text));
    }
    if let Some(stream) = value("stream").filter(|s| !s.is_empty()) {
        let supported = &["All", "Stderr", "Stdout"];
        if !supported.contains(&stream) {
            errors.push(Error::not_supported(Path::new("stream"), stream, supported));
        }
        if stream != "All" && value("tailLines").is_some() {
            let text = "`tailLines` and specific `stream` are mutually exclusive for now";
            errors.push(Error::forbidden(Path::default(), text));
        }
    }
    if errors.is_empty() { Ok(()) } else { Err(Status::invalid("", "PodLogOptions", pod, &errors)) }
}

/// `name`, `name:port` or `scheme:name:port` (apimachinery `net.SplitSchemeNamePort`).
fn split(segment: &str) -> Option<(&str, &str, &str)> {
    let parts: Vec<&str> = segment.split(':').collect();
    match parts.as_slice() {
        [name] => Some(("", *name, "")),
        [name, port] => Some(("", *name, *port)),
        [scheme @ ("" | "http" | "https"), name, port] => Some((*scheme, *name, *port)),
        _ => None,
    }
    .filter(|(_, name, _)| !name.is_empty())
}

fn middle(segment: &str) -> &str {
    split(segment).map_or(segment, |(_, name, _)| name)
}

fn path_and_query(request: &ConnectRequest<'_>) -> String {
    let path = if request.path.is_empty() { "/" } else { request.path };
    if request.query.is_empty() { path.to_owned() } else { format!("{path}?{}", request.query) }
}

fn tls_of(scheme: &str) -> Tls {
    if scheme == "https" { Tls::Insecure } else { Tls::Plain }
}

fn port_or_default(port: &str, scheme: &str) -> Result<u16, Status> {
    match port {
        "" => Ok(if scheme == "https" { 443 } else { 80 }),
        number => number.parse().map_err(|_| Status::bad_request(format!("invalid port {number:?}"))),
    }
}

/// Whether the API server may connect to an address on somebody's behalf.
fn proxyable(host: &str) -> bool {
    host.parse::<IpAddr>().is_ok_and(|ip| match ip {
        IpAddr::V4(ip) => {
            !(ip.is_loopback() || ip.is_link_local() || ip.is_unspecified() || ip.is_multicast() || ip.is_broadcast())
        }
        IpAddr::V6(ip) => !(ip.is_loopback() || ip.is_unicast_link_local() || ip.is_unspecified() || ip.is_multicast()),
    })
}

/// `pods/proxy`.
pub(super) struct PodProxy;

#[async_trait]
impl Connect for PodProxy {
    fn parent_name<'s>(&self, segment: &'s str) -> &'s str {
        middle(segment)
    }

    async fn target(
        &self,
        _ctx: &ActionContext<'_>,
        object: &Object,
        request: &ConnectRequest<'_>,
    ) -> Result<ConnectTarget, Status> {
        let invalid = || Status::bad_request(format!("invalid pod request {:?}", request.segment));
        let (scheme, _, port) = split(request.segment).ok_or_else(invalid)?;
        let first = object
            .array(&["spec", "containers"])
            .iter()
            .find_map(|c| c.list("ports").first())
            .and_then(|p| p.int("containerPort"));
        let port = match (port, first) {
            ("", Some(number)) => number.to_string(),
            (port, _) => port.to_owned(),
        };
        let ip = object.array(&["status", "podIPs"]).first().map_or("", |ip| ip.text("ip"));
        if !proxyable(ip) {
            return Err(Status::bad_request("address not allowed"));
        }
        Ok(ConnectTarget {
            tls: tls_of(scheme),
            host: ip.to_owned(),
            port: port_or_default(&port, scheme)?,
            path_and_query: path_and_query(request),
            rewrite_locations: true,
        })
    }
}

/// `nodes/proxy`.
pub(super) struct NodeProxy {
    pub port: u16,
}

#[async_trait]
impl Connect for NodeProxy {
    fn parent_name<'s>(&self, segment: &'s str) -> &'s str {
        middle(segment)
    }

    async fn target(
        &self,
        _ctx: &ActionContext<'_>,
        object: &Object,
        request: &ConnectRequest<'_>,
    ) -> Result<ConnectTarget, Status> {
        let invalid = || Status::bad_request(format!("invalid node request {:?}", request.segment));
        let (scheme, _, wanted) = split(request.segment).ok_or_else(invalid)?;
        let (host, own) = kubelet_of(object, self.port)?;
        let (tls, port) = if wanted.is_empty() || wanted == own.to_string() {
            (Tls::Kubelet, own)
        } else {
            (tls_of(scheme), port_or_default(wanted, scheme)?)
        };
        if tls != Tls::Kubelet && !proxyable(&host) {
            return Err(Status::bad_request("address not allowed"));
        }
        Ok(ConnectTarget { tls, host, port, path_and_query: path_and_query(request), rewrite_locations: true })
    }
}

/// `services/proxy`: one of the Service's ready pods.
pub(super) struct ServiceProxy;

#[async_trait]
impl Connect for ServiceProxy {
    fn parent_name<'s>(&self, segment: &'s str) -> &'s str {
        middle(segment)
    }

    async fn target(
        &self,
        ctx: &ActionContext<'_>,
        object: &Object,
        request: &ConnectRequest<'_>,
    ) -> Result<ConnectTarget, Status> {
        let invalid = || Status::bad_request(format!("invalid service request {:?}", request.segment));
        let (scheme, name, wanted) = split(request.segment).ok_or_else(invalid)?;
        let ports = object.array(&["spec", "ports"]);
        let port_name = match wanted.parse::<i64>() {
            Ok(number) => match ports.iter().find(|p| p.int("port") == Some(number)) {
                Some(port) => port.text("name"),
                None => {
                    let text = format!("no service port {number} found for service {name:?}");
                    return Err(Status::service_unavailable(text));
                }
            },
            Err(_) => wanted,
        };
        let none = || Status::service_unavailable(format!("no endpoints available for service {name:?}"));
        let slices =
            ctx.registry.list(&Gvr::new("discovery.k8s.io", "v1", "endpointslices"), object.namespace()).await?;
        let mut choices: Vec<(String, u16)> = Vec::new();
        for slice in slices.iter().filter(|s| s.label("kubernetes.io/service-name") == Some(name)) {
            let Some(port) = slice.array(&["ports"]).iter().find(|p| p.text("name") == port_name) else { continue };
            let Some(number) = port.int("port").and_then(|n| u16::try_from(n).ok()) else { continue };
            for endpoint in slice.array(&["endpoints"]) {
                let ready = endpoint.at("conditions").at("ready").as_bool() != Some(false);
                let pod = endpoint.at("targetRef").text("kind") == "Pod";
                if let Some(ip) = endpoint.list("addresses").first().and_then(Value::as_str)
                    && ready
                    && pod
                    && proxyable(ip)
                {
                    choices.push((ip.to_owned(), number));
                }
            }
        }
        if choices.is_empty() {
            return Err(none());
        }
        let (host, port) = choices.swap_remove(rand::random_range(0..choices.len()));
        Ok(ConnectTarget {
            tls: tls_of(scheme),
            host,
            port,
            path_and_query: path_and_query(request),
            rewrite_locations: true,
        })
    }
}

/// `pods`, for error texts.
pub(super) fn pods() -> GroupResource {
    GroupResource::new("", "pods")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_container_must_be_named_where_there_are_several() {
        let pod = |names: &[&str]| {
            let list: Vec<Value> = names.iter().map(|n| json!({"name": n})).collect();
            Object::from_value(json!({"metadata": {"name": "x"}, "spec": {"containers": list}})).unwrap()
        };
        assert_eq!(container(&pod(&["a"]), "").unwrap(), "a");
        assert_eq!(
            container(&pod(&["a", "b"]), "").unwrap_err().message,
            "a container name must be specified for pod x, choose one of: [a b]"
        );
        assert_eq!(container(&pod(&["a"]), "c").unwrap_err().message, "container c is not valid for pod x");
    }

    #[test]
    fn queries_survive_the_way_there_and_back() {
        assert_eq!(
            parameters("command=sh&command=-c&command=echo+%22a%26b%22"),
            [
                ("command".to_owned(), "sh".to_owned()),
                ("command".to_owned(), "-c".to_owned()),
                ("command".to_owned(), "echo \"a&b\"".to_owned()),
            ]
        );
        assert_eq!(encode("echo \"a&b\""), "echo+%22a%26b%22");
    }

    #[test]
    fn segments_split() {
        assert_eq!(split("web"), Some(("", "web", "")));
        assert_eq!(split("web:80"), Some(("", "web", "80")));
        assert_eq!(split("https:web:443"), Some(("https", "web", "443")));
        assert_eq!(split("ftp:web:443"), None);
        assert_eq!(middle("https:web:"), "web");
    }
}
