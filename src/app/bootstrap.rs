//! Objects that every cluster has: brought into being at start, and kept as they must be.

use std::net::IpAddr;
use std::time::Duration;

use api::Object;
use base::{Backoff, Shutdown};
use client::client::resource_path;
use client::k8s_openapi::api::core::v1::Namespace;
use client::{Client, Error, Event, Informers};
use http::Method;
use jiff::Timestamp;
use kinds::bootstrap::Step;
use serde_json::{Value, json};

/// Where the API server is found.
pub struct Addresses {
    pub service_ip: IpAddr,
    /// Of every API server.
    pub advertise: Vec<IpAddr>,
    pub port: u16,
    pub dns_ip: Option<IpAddr>,
}

/// Creates what is missing of `objects` and brings the others up to date as [`kinds::bootstrap::reconcile`] says.
pub async fn apply_all(client: &Client, objects: Vec<Object>) -> Result<(), Error> {
    for object in objects {
        ensure(client, &object).await?;
    }
    Ok(())
}

/// Makes the system's namespaces anew when somebody deletes one, until `shutdown` (upstream
/// `controlplane/controller/systemnamespaces`, which looks once a minute).
pub async fn keep_namespaces(client: Client, informers: Informers, shutdown: Shutdown) {
    let mut wanted = kinds::bootstrap::objects();
    wanted.retain(|object| object.kind() == "Namespace");
    let mut changes = informers.informer::<Namespace>().subscribe();
    loop {
        let changed = tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            changed = changes.recv() => changed,
        };
        let gone = match changed {
            None => return,
            Some(Event::Deleted(namespace)) => namespace.metadata.name.clone(),
            Some(Event::Resync) => None,
            Some(Event::Added(_) | Event::Updated { .. }) => continue,
        };
        for namespace in wanted.iter().filter(|own| gone.as_deref().is_none_or(|gone| own.name() == gone)) {
            let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
            while let Err(error) = ensure(&client, namespace).await {
                tracing::warn!(name = namespace.name(), error = %base::chain(&error), "cannot make a system namespace anew");
                tokio::select! {
                    biased;
                    () = shutdown.cancelled() => return,
                    () = tokio::time::sleep(backoff.step()) => {}
                }
            }
        }
    }
}

/// The Services `kubernetes` and `kube-dns` with their endpoints.
pub async fn publish_services(client: &Client, addresses: &Addresses) -> Result<(), Error> {
    let service = |namespace: &str, name: &str, labels: Value, ip: IpAddr, ports: Value| {
        object(json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"namespace": namespace, "name": name, "labels": labels},
            "spec": {"clusterIP": ip, "clusterIPs": [ip], "type": "ClusterIP", "sessionAffinity": "None", "ports": ports},
        }))
    };
    let labels = json!({"component": "apiserver", "provider": "kubernetes"});
    let ports = json!([{"name": "https", "protocol": "TCP", "port": 443, "targetPort": addresses.port}]);
    ensure(client, &service("default", "kubernetes", labels, addresses.service_ip, ports)).await?;
    let ports = json!([{"name": "https", "protocol": "TCP", "port": addresses.port}]);
    publish_endpoints(client, ("default", "kubernetes"), &addresses.advertise, &ports).await?;
    if let Some(dns_ip) = addresses.dns_ip {
        let labels = json!({
            "k8s-app": "kube-dns", "kubernetes.io/cluster-service": "true", "kubernetes.io/name": "CoreDNS",
        });
        let ports = json!([
            {"name": "dns", "protocol": "UDP", "port": 53, "targetPort": 53},
            {"name": "dns-tcp", "protocol": "TCP", "port": 53, "targetPort": 53},
        ]);
        ensure(client, &service("kube-system", "kube-dns", labels, dns_ip, ports)).await?;
        // Every node answers at this very address, so it is also where the Service's traffic ends.
        let ports = json!([
            {"name": "dns", "protocol": "UDP", "port": 53},
            {"name": "dns-tcp", "protocol": "TCP", "port": 53},
        ]);
        publish_endpoints(client, ("kube-system", "kube-dns"), &[dns_ip], &ports).await?;
    }
    Ok(())
}

/// The endpoints of the Service `kubernetes`: the API servers at these addresses.
pub async fn publish_api_servers(client: &Client, addresses: &[IpAddr], port: u16) -> Result<(), Error> {
    let ports = json!([{"name": "https", "protocol": "TCP", "port": port}]);
    publish_endpoints(client, ("default", "kubernetes"), addresses, &ports).await
}

/// The Endpoints and the EndpointSlice of a Service without selector that these addresses serve.
async fn publish_endpoints(
    client: &Client,
    (namespace, name): (&str, &str),
    addresses: &[IpAddr],
    ports: &Value,
) -> Result<(), Error> {
    let listed: Vec<Value> = addresses.iter().map(|address| json!({"ip": address})).collect();
    let endpoints = object(json!({
        "apiVersion": "v1", "kind": "Endpoints",
        "metadata": {
            "namespace": namespace, "name": name, "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"},
        },
        "subsets": [{"addresses": listed, "ports": ports}],
    }));
    replace(client, &endpoints, "subsets").await?;
    let listed: Vec<Value> =
        addresses.iter().map(|address| json!({"addresses": [address], "conditions": {"ready": true}})).collect();
    let slice = object(json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"namespace": namespace, "name": name, "labels": {"kubernetes.io/service-name": name}},
        "addressType": if addresses.iter().all(IpAddr::is_ipv4) { "IPv4" } else { "IPv6" },
        "endpoints": listed,
        "ports": ports,
    }));
    replace(client, &slice, "endpoints").await
}

/// The ServiceCIDR `kubernetes` with the range that Services get addresses from, ready unless somebody says otherwise
/// (upstream `controlplane/controller/defaultservicecidr`).
pub async fn publish_service_range(client: &Client, range: &str, now: Timestamp) -> Result<(), Error> {
    let wanted = object(json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": "kubernetes"},
        "spec": {"cidrs": [range]},
    }));
    let collection = collection(&wanted);
    let path = format!("{collection}/kubernetes");
    let held = match read(client, &path).await {
        Ok(held) => held,
        Err(error) if error.is_not_found() => match send(client, Method::POST, &collection, &wanted).await {
            Err(error) if !error.is_already_exists() => return Err(error),
            _ => wanted.clone(),
        },
        Err(error) => return Err(error),
    };
    let judged = held.array(&["status", "conditions"]).iter().any(|c| c["type"] == "Ready" && c["status"] != "Unknown");
    if judged || held.is_deleting() || held.get(&["spec", "cidrs"]) != wanted.get(&["spec", "cidrs"]) {
        return Ok(());
    }
    let status = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": "kubernetes"},
        "status": {"conditions": [{
            "type": "Ready", "status": "True", "message": "Kubernetes default Service CIDR is ready",
            "lastTransitionTime": api::codec::print_time(now),
        }]},
    });
    let path = format!("{path}/status?fieldManager=kubernetes-service-cidr-controller&force=true");
    let body = serde_json::to_vec(&status).map_err(Error::Decode)?;
    client.raw(Method::PATCH, &path, "application/apply-patch+yaml", body).await.map(|_| ())
}

fn object(value: Value) -> Object {
    Object::from_value(value).unwrap_or_default()
}

/// URL of the object's collection. The resource name is the lower-case plural, regular for every kind used here.
fn collection(object: &Object) -> String {
    let kind = object.kind().to_lowercase();
    let resource = match kind.as_str() {
        "endpoints" => kind,
        _ if kind.ends_with('s') => format!("{kind}es"),
        _ if kind.ends_with('y') => format!("{}ies", &kind[..kind.len() - 1]),
        _ => format!("{kind}s"),
    };
    let (group, version) = object.api_version().split_once('/').unwrap_or(("", object.api_version()));
    resource_path(group, version, &resource, object.namespace(), "", "")
}

async fn send(client: &Client, method: Method, path: &str, body: &Object) -> Result<(), Error> {
    let body = serde_json::to_vec(body).map_err(Error::Decode)?;
    client.raw(method, path, "application/json", body).await.map(|_| ())
}

async fn read(client: &Client, path: &str) -> Result<Object, Error> {
    let bytes = client.raw(Method::GET, path, "", Vec::new()).await?;
    serde_json::from_slice(&bytes).map_err(Error::Decode)
}

/// A path with the manager that comes to own what is written, where it has a name of its own upstream
/// (`controlplane.apfBootstrapFieldManager`).
fn owned(path: &str, wanted: &Object) -> String {
    match wanted.kind() {
        "FlowSchema" | "PriorityLevelConfiguration" => {
            format!("{path}?fieldManager=api-priority-and-fairness-config-producer-v1")
        }
        _ => path.to_owned(),
    }
}

/// Somebody else changed the object between two steps so often: another server that starts, or a user.
const ATTEMPTS_MAX: usize = 5;

async fn ensure(client: &Client, wanted: &Object) -> Result<(), Error> {
    let mut attempt = 1;
    loop {
        match ensure_once(client, wanted).await {
            Err(error)
                if attempt < ATTEMPTS_MAX
                    && (error.is_conflict() || error.is_already_exists() || error.is_not_found()) =>
            {
                attempt += 1;
            }
            result => return result,
        }
    }
}

async fn ensure_once(client: &Client, wanted: &Object) -> Result<(), Error> {
    let collection = collection(wanted);
    let path = format!("{collection}/{}", wanted.name());
    let held = match read(client, &path).await {
        Ok(held) => held,
        Err(error) if error.is_not_found() => {
            return send(client, Method::POST, &owned(&collection, wanted), wanted).await;
        }
        Err(error) => return Err(error),
    };
    match kinds::bootstrap::reconcile(wanted, &held) {
        Step::Nothing => Ok(()),
        Step::Update(merged) => {
            tracing::info!(kind = wanted.kind(), name = wanted.name(), "brought up to date");
            send(client, Method::PUT, &owned(&path, wanted), &merged).await
        }
        Step::Recreate => {
            tracing::info!(kind = wanted.kind(), name = wanted.name(), "made anew for its role");
            let options = object(json!({
                "kind": "DeleteOptions", "apiVersion": "v1", "preconditions": {"uid": held.uid()},
            }));
            send(client, Method::DELETE, &path, &options).await?;
            send(client, Method::POST, &collection, wanted).await
        }
    }
}

/// Writes the object so that `member` is as wanted.
async fn replace(client: &Client, wanted: &Object, member: &str) -> Result<(), Error> {
    let collection = collection(wanted);
    let path = format!("{collection}/{}", wanted.name());
    match read(client, &path).await {
        Ok(held) if held.get(&[member]) == wanted.get(&[member]) => Ok(()),
        Ok(mut held) => {
            for name in [member, "ports"] {
                if let Some(value) = wanted.get(&[name]) {
                    held.set(&[name], value.clone());
                }
            }
            send(client, Method::PUT, &path, &held).await
        }
        Err(error) if error.is_not_found() => send(client, Method::POST, &collection, wanted).await,
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn collections_have_their_usual_urls() {
        let role = object(json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole"}));
        assert_eq!(collection(&role), "/apis/rbac.authorization.k8s.io/v1/clusterroles");
        let class = object(json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass"}));
        assert_eq!(collection(&class), "/apis/scheduling.k8s.io/v1/priorityclasses");
        let endpoints = object(json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"namespace": "a"}}));
        assert_eq!(collection(&endpoints), "/api/v1/namespaces/a/endpoints");
    }
}
