//! Whether an aggregated server can be used (kube-aggregator
//! `pkg/controllers/status/remote/remote_available_controller.go`).

use api::services::Registry;
use api::{Gvr, Object, UserInfo};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::Remote;
use super::fetch;
use super::remote::ServiceRef;
use crate::server::ApiServer;
use crate::webhook::{endpoint_slices, resolve};

/// Upstream's `attempts`, at once where the first fails.
const ATTEMPTS: usize = 5;

/// The condition that an APIService should have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Verdict {
    pub status: &'static str,
    pub reason: &'static str,
    pub message: String,
}

impl Verdict {
    fn unavailable(reason: &'static str, message: String) -> Self {
        Self { status: "False", reason, message }
    }

    /// What this server serves itself.
    pub fn local() -> Self {
        Self { status: "True", reason: "Local", message: "Local APIServices are always available".to_owned() }
    }

    pub fn is_available(&self) -> bool {
        self.status == "True"
    }

    /// `SetAPIServiceCondition`; whether anything changed.
    pub fn write(&self, object: &mut Object, now: Timestamp) -> bool {
        let mut conditions = object.array(&["status", "conditions"]).to_vec();
        let wanted = json!({
            "type": "Available", "status": self.status, "lastTransitionTime": api::codec::print_time(now),
            "reason": self.reason, "message": self.message,
        });
        let is_it = |c: &Value| c.get("type").and_then(Value::as_str) == Some("Available");
        match conditions.iter_mut().find(|c| is_it(c)) {
            Some(held) => {
                let before = held.clone();
                let mut wanted = wanted;
                if held.get("status") == wanted.get("status") {
                    wanted["lastTransitionTime"] = held["lastTransitionTime"].clone();
                }
                *held = wanted;
                if *held == before {
                    return false;
                }
            }
            None => conditions.push(wanted),
        }
        object.set(&["status", "conditions"], conditions);
        true
    }
}

/// Looks at the Service, its endpoints, and whether the server answers for the version.
pub(super) async fn check(server: &ApiServer, remote: &Remote) -> Verdict {
    let at = &remote.reach.service;
    let services = Gvr::new("", "v1", "services");
    let cannot = |why: &str| format!("service/{} in {:?} cannot be checked due to: {why}", at.name, at.namespace);
    let service = match Registry::get(server, &services, &at.namespace, &at.name).await {
        Ok(service) => service,
        Err(status) if status.is_not_found() => {
            let text = format!("service/{} in {:?} is not present", at.name, at.namespace);
            return Verdict::unavailable("ServiceNotFound", text);
        }
        Err(status) => {
            let message = cannot(&status.message);
            return Verdict { status: "Unknown", reason: "ServiceAccessError", message };
        }
    };
    if service.str(&["spec", "type"]).unwrap_or("ClusterIP") == "ClusterIP" {
        let slices = match endpoint_slices(server, &at.namespace, &at.name).await {
            Ok(slices) => slices,
            Err(status) => {
                let message = cannot(&status.message);
                return Verdict { status: "Unknown", reason: "EndpointsAccessError", message };
            }
        };
        if let Some(verdict) = judge_endpoints(at, &service, &slices) {
            return verdict;
        }
    }
    match answers(server, remote).await {
        Ok(()) => Verdict { status: "True", reason: "Passed", message: "all checks passed".to_owned() },
        Err(why) => Verdict::unavailable("FailedDiscoveryCheck", why),
    }
}

/// What is wrong with a Service of type ClusterIP; `None` if nothing is.
fn judge_endpoints(at: &ServiceRef, service: &Object, slices: &[Object]) -> Option<Verdict> {
    let ports = service.array(&["spec", "ports"]);
    let port = ports.iter().find(|p| p.get("port").and_then(Value::as_u64) == Some(u64::from(at.port)));
    let Some(port) = port else {
        let text = format!("service/{} in {:?} is not listening on port {}", at.name, at.namespace, at.port);
        return Some(Verdict::unavailable("ServicePortError", text));
    };
    let port_name = port.get("name").and_then(Value::as_str).unwrap_or_default();
    if slices.is_empty() {
        let text = format!("cannot find endpointslices for service/{} in {:?}", at.name, at.namespace);
        return Some(Verdict::unavailable("EndpointsNotFound", text));
    }
    let has_ready = |slice: &&Object| {
        let ready = |e: &Value| e.pointer("/conditions/ready").and_then(Value::as_bool) != Some(false);
        let named = |p: &Value| {
            p.get("name").and_then(Value::as_str).unwrap_or_default() == port_name
                && p.get("port").is_some_and(Value::is_number)
        };
        slice.array(&["endpoints"]).iter().any(ready) && slice.array(&["ports"]).iter().any(named)
    };
    if slices.iter().any(|slice| has_ready(&slice)) {
        return None;
    }
    let text = format!(
        "endpointslices for service/{} in {:?} have no addresses with port name {port_name:?}",
        at.name, at.namespace
    );
    Some(Verdict::unavailable("MissingEndpoints", text))
}

/// Whether the server answers for its version at one endpoint at least.
async fn answers(server: &ApiServer, remote: &Remote) -> Result<(), String> {
    if attempt(server, remote).await.is_ok() {
        return Ok(());
    }
    let mut attempts: FuturesUnordered<_> = (1..ATTEMPTS).map(|_| attempt(server, remote)).collect();
    let mut last = String::new();
    while let Some(ended) = attempts.next().await {
        match ended {
            Ok(()) => return Ok(()),
            Err(why) => last = why,
        }
    }
    Err(last)
}

async fn attempt(server: &ApiServer, remote: &Remote) -> Result<(), String> {
    let at = &remote.reach.service;
    let address = resolve(server, &at.namespace, &at.name, at.port).await?;
    let url = format!("https://{address}{}", remote.path());
    // The superusers' group, so that the server always lets us look.
    let user = UserInfo {
        name: "system:kube-aggregator".to_owned(),
        groups: vec![api::user::MASTERS.to_owned()],
        ..UserInfo::default()
    };
    let missing = |why: String| format!("failing or missing response from {url}: {why}");
    let answer = fetch::at(remote, &url, &user, &[]).await.map_err(|why| missing(format!("Get {url:?}: {why}")))?;
    if answer.code.is_success() {
        return Ok(());
    }
    Err(missing(format!("bad status from {url}: {}", answer.code.as_u16())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(value: Value) -> Object {
        Object::from_value(value).unwrap()
    }

    fn check(service: Value, slices: &[Value], want: Option<(&str, &str)>) {
        let at = ServiceRef { namespace: "n".to_owned(), name: "s".to_owned(), port: 443 };
        let slices: Vec<Object> = slices.iter().cloned().map(object).collect();
        let got = judge_endpoints(&at, &object(service), &slices);
        assert_eq!(got.as_ref().map(|v| (v.reason, v.message.as_str())), want);
    }

    #[test]
    fn endpoints_are_judged_with_upstreams_reasons() {
        let service = json!({"spec": {"ports": [{"name": "https", "port": 443}]}});
        check(
            json!({"spec": {"ports": [{"port": 80}]}}),
            &[],
            Some(("ServicePortError", "service/s in \"n\" is not listening on port 443")),
        );
        check(service.clone(), &[], Some(("EndpointsNotFound", "cannot find endpointslices for service/s in \"n\"")));
        let ready = json!({"endpoints": [{"addresses": ["1.2.3.4"]}], "ports": [{"name": "https", "port": 8443}]});
        check(service.clone(), std::slice::from_ref(&ready), None);
        let mut unready = ready.clone();
        unready["endpoints"][0]["conditions"] = json!({"ready": false});
        let missing = "endpointslices for service/s in \"n\" have no addresses with port name \"https\"";
        check(service.clone(), &[unready.clone()], Some(("MissingEndpoints", missing)));
        check(service, &[unready, ready], None);
    }

    #[test]
    fn a_condition_keeps_its_time_while_its_status_stays() {
        let mut service = object(json!({"metadata": {"name": "v1.a"}}));
        let at = |second| Timestamp::from_second(second).unwrap();
        let bad = Verdict::unavailable("ServiceNotFound", "x".to_owned());
        assert!(bad.write(&mut service, at(0)));
        assert!(!bad.write(&mut service, at(10)));
        let worse = Verdict::unavailable("MissingEndpoints", "y".to_owned());
        assert!(worse.write(&mut service, at(20)));
        let held = service.array(&["status", "conditions"]).first().unwrap().clone();
        assert_eq!(held["lastTransitionTime"], "1970-01-01T00:00:00Z");
        assert_eq!(held["reason"], "MissingEndpoints");
        assert!(Verdict::local().write(&mut service, at(30)));
        assert_eq!(service.array(&["status", "conditions"])[0]["lastTransitionTime"], "1970-01-01T00:00:30Z");
    }
}
