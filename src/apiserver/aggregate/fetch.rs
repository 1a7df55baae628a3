//! What aggregated servers are asked for on the server's own account: that they answer, their discovery, their OpenAPI
//! documents (kube-aggregator `pkg/apiserver/handler_discovery.go`, `pkg/controllers/openapi{,v3}/aggregator`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api::UserInfo;
use axum::body::Body;
use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, ETAG, HOST, IF_NONE_MATCH, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode};
use http_body_util::{BodyExt, Limited};
use serde_json::{Value, json};

use super::Remote;
use super::proxy::identify;
use super::remote::Told;
use crate::server::ApiServer;
use crate::webhook::{innermost, resolve};

/// How long a server may take for one answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Larger documents are not read.
const ANSWER_MAX: usize = 16 << 20;
/// `discovery.AcceptV2`.
const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

pub(super) struct Answer {
    pub code: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Answer {
    fn json(&self) -> Option<Value> {
        serde_json::from_slice(&self.body).ok()
    }

    fn etag(&self) -> String {
        self.headers.get(ETAG).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned()
    }
}

/// Gets a URL as `user`. The failure is what Go's client would say after `Get "URL": `.
pub(super) async fn at(
    remote: &Remote,
    url: &str,
    user: &UserInfo,
    headers: &[(HeaderName, &str)],
) -> Result<Answer, String> {
    let client = &remote.clients.as_ref().map_err(Clone::clone)?.requests;
    let mut request = Request::get(url).body(Body::empty()).map_err(|e| e.to_string())?;
    identify(request.headers_mut(), user);
    request.headers_mut().insert(USER_AGENT, HeaderValue::from_static("kube-aggregator"));
    let host = request.uri().authority().and_then(|a| HeaderValue::from_str(a.as_str()).ok());
    if let Some(host) = host {
        request.headers_mut().insert(HOST, host);
    }
    for (name, value) in headers {
        let value = HeaderValue::from_str(value).map_err(|e| e.to_string())?;
        request.headers_mut().insert(name.clone(), value);
    }
    let run = async {
        let response = client.request(request).await.map_err(|error| innermost(&error))?;
        let (parts, body) = response.into_parts();
        let body = Limited::new(body, ANSWER_MAX).collect().await.map_err(|e| innermost(e.as_ref()))?.to_bytes();
        Ok(Answer { code: parts.status, headers: parts.headers, body })
    };
    let late = || "context deadline exceeded (Client.Timeout exceeded while awaiting headers)".to_owned();
    tokio::time::timeout(TIMEOUT, run).await.unwrap_or_else(|_| Err(late()))
}

async fn get(
    server: &ApiServer,
    remote: &Remote,
    path: &str,
    user: &UserInfo,
    headers: &[(HeaderName, &str)],
) -> Result<Answer, String> {
    let at = &remote.reach.service;
    let address = resolve(server, &at.namespace, &at.name, at.port).await?;
    self::at(remote, &format!("https://{address}{path}"), user, headers).await
}

/// Asks for everything that a server tells of its version. What did not change since `before` is kept.
pub(super) async fn tell(server: &ApiServer, remote: &Remote) -> Told {
    let before = remote.told.clone().unwrap_or_default();
    let (current, resources, etag) = match discovery(server, remote, &before).await {
        Ok((resources, etag)) => (true, resources, etag),
        Err(why) => {
            tracing::debug!(name = remote.name, error = why, "an aggregated server does not tell its discovery");
            (false, json!([]), String::new())
        }
    };
    let mut told = Told {
        current,
        resources,
        etag,
        openapi: before.openapi.clone(),
        openapi_v2: before.openapi_v2.clone(),
        openapi_v2_etag: before.openapi_v2_etag.clone(),
    };
    if let Err(why) = openapi(server, remote, &mut told).await {
        tracing::debug!(name = remote.name, error = why, "an aggregated server does not tell its OpenAPI document");
    }
    told
}

fn aggregator(groups: &[&str]) -> UserInfo {
    UserInfo {
        name: "system:kube-aggregator".to_owned(),
        groups: groups.iter().map(|g| (*g).to_owned()).collect(),
        ..UserInfo::default()
    }
}

/// `fetchFreshDiscoveryForService`: the aggregated form, or else the version's list of resources.
async fn discovery(server: &ApiServer, remote: &Remote, before: &Told) -> Result<(Value, String), String> {
    let mut headers = vec![(ACCEPT, AGGREGATED)];
    if before.current && !before.etag.is_empty() {
        headers.push((IF_NONE_MATCH, before.etag.as_str()));
    }
    let answer = get(server, remote, "/apis", &aggregator(&[api::user::MASTERS]), &headers).await?;
    if answer.code == StatusCode::NOT_MODIFIED {
        return Ok((before.resources.clone(), before.etag.clone()));
    }
    if answer.code == StatusCode::SERVICE_UNAVAILABLE {
        return Err("non-success response code: 503".to_owned());
    }
    let media_type = answer.headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let is_aggregated = ["g=apidiscovery.k8s.io", "v=v2", "as=APIGroupDiscoveryList"]
        .iter()
        .all(|wanted| media_type.split(';').any(|part| part.trim() == *wanted));
    if answer.code == StatusCode::OK && is_aggregated {
        let document = answer.json().ok_or("the discovery document is no JSON")?;
        return Ok((resources_of(&document, &remote.group, &remote.version), answer.etag()));
    }
    let path = remote.path();
    let headers = [(ACCEPT, "application/json")];
    let answer = get(server, remote, &path, &aggregator(&[]), &headers).await?;
    if answer.code != StatusCode::OK {
        return Err(format!("failed to download legacy discovery for {path}: {}", answer.code.as_u16()));
    }
    let document = answer.json().ok_or("the discovery document is no JSON")?;
    Ok((from_resource_list(&document), String::new()))
}

/// The resources of one version in an `APIGroupDiscoveryList`; none if it is not there.
fn resources_of(document: &Value, group: &str, version: &str) -> Value {
    let list = |value: &Value, member: &str| value.get(member).and_then(Value::as_array).cloned().unwrap_or_default();
    let found = list(document, "items").into_iter().find(|g| g["metadata"]["name"] == group);
    let found = found.and_then(|g| list(&g, "versions").into_iter().find(|v| v["version"] == version));
    let mut resources = found.map(|v| list(&v, "resources")).unwrap_or_default();
    // Some clients take a kind for granted.
    for resource in &mut resources {
        if let Some(resource) = resource.as_object_mut() {
            resource.entry("responseKind").or_insert_with(|| json!({"group": "", "version": "", "kind": ""}));
        }
        for subresource in resource["subresources"].as_array_mut().into_iter().flatten() {
            if let Some(subresource) = subresource.as_object_mut() {
                subresource.entry("responseKind").or_insert_with(|| json!({"group": "", "version": "", "kind": ""}));
            }
        }
    }
    resources.into()
}

/// `endpoints.ConvertGroupVersionIntoToDiscovery`.
fn from_resource_list(document: &Value) -> Value {
    let mut all: Vec<Value> = Vec::new();
    let text = |value: &Value, member: &str| value.get(member).and_then(Value::as_str).unwrap_or_default().to_owned();
    for resource in document["resources"].as_array().into_iter().flatten() {
        let name = text(resource, "name");
        let scope = if resource["namespaced"] == true { "Namespaced" } else { "Cluster" };
        let kind = json!({
            "group": text(resource, "group"), "version": text(resource, "version"), "kind": text(resource, "kind"),
        });
        let verbs = resource.get("verbs").cloned().unwrap_or_else(|| json!([]));
        let Some((parent, subresource)) = name.split_once('/') else {
            let mut entry = json!({
                "resource": name, "responseKind": kind, "scope": scope,
                "singularResource": text(resource, "singularName"), "verbs": verbs,
            });
            for member in ["shortNames", "categories"] {
                if let Some(value) = resource.get(member).filter(|v| !v.is_null()) {
                    entry[member] = value.clone();
                }
            }
            match all.iter_mut().find(|held| held["resource"] == entry["resource"]) {
                Some(held) => {
                    entry["subresources"] = held["subresources"].take();
                    *held = entry;
                }
                None => all.push(entry),
            }
            continue;
        };
        let entry = json!({"subresource": subresource, "responseKind": kind, "verbs": verbs});
        let at = all.iter().position(|held| held["resource"] == parent).unwrap_or_else(|| {
            let empty = json!({"group": "", "version": "", "kind": ""});
            all.push(json!({"resource": parent, "responseKind": empty, "scope": scope, "verbs": []}));
            all.len() - 1
        });
        match all[at]["subresources"].as_array_mut() {
            Some(list) => list.push(entry),
            None => all[at]["subresources"] = json!([entry]),
        }
    }
    all.into()
}

/// The index of version 3, and the part of the version 2 document.
async fn openapi(server: &ApiServer, remote: &Remote, told: &mut Told) -> Result<(), String> {
    let user = UserInfo { name: "system:aggregator".to_owned(), ..UserInfo::default() };
    let answer = get(server, remote, "/openapi/v3", &user, &[]).await?;
    match answer.code {
        StatusCode::OK => {
            let index = answer.json().ok_or("the index is no JSON")?;
            let paths: Option<BTreeMap<String, Value>> =
                index.get("paths").cloned().and_then(|paths| serde_json::from_value(paths).ok());
            told.openapi = Some(paths.ok_or("the index has no paths")?);
        }
        StatusCode::NOT_FOUND => told.openapi = None,
        code => return Err(format!("unable to retrieve openapi v3 spec: {}", code.as_u16())),
    }
    let mut headers = vec![(ACCEPT, "application/json")];
    if told.openapi_v2.is_some() && !told.openapi_v2_etag.is_empty() {
        headers.push((IF_NONE_MATCH, told.openapi_v2_etag.as_str()));
    }
    let answer = get(server, remote, "/openapi/v2", &user, &headers).await?;
    match answer.code {
        StatusCode::NOT_MODIFIED => {}
        StatusCode::NOT_FOUND => told.openapi_v2 = None,
        StatusCode::OK => {
            let document = answer.json().ok_or("the document is no JSON")?;
            let part = api::openapi::part_of(&document, &format!("{}/", remote.path()));
            told.openapi_v2_etag = answer.etag();
            told.openapi_v2 = Some(Arc::new(part));
        }
        code => return Err(format!("failed to retrieve openAPI spec, http error: {}", code.as_u16())),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_resources_becomes_aggregated_discovery() {
        let list = json!({"resources": [
            {"name": "flunders/status", "singularName": "", "namespaced": true, "kind": "Flunder", "verbs": ["get"]},
            {"name": "flunders", "singularName": "flunder", "namespaced": true, "kind": "Flunder", "verbs": ["list"],
             "shortNames": ["fl"]},
        ]});
        let kind = json!({"group": "", "version": "", "kind": "Flunder"});
        let want = json!([{
            "resource": "flunders", "responseKind": kind, "scope": "Namespaced", "singularResource": "flunder",
            "verbs": ["list"], "shortNames": ["fl"],
            "subresources": [{"subresource": "status", "responseKind": kind, "verbs": ["get"]}],
        }]);
        assert_eq!(from_resource_list(&list), want);
    }

    #[test]
    fn only_the_own_version_is_taken() {
        let document = json!({"items": [{"metadata": {"name": "a.io"}, "versions": [
            {"version": "v1", "resources": [{"resource": "x"}]}, {"version": "v2", "resources": []},
        ]}]});
        let got = resources_of(&document, "a.io", "v1");
        assert_eq!(got[0]["responseKind"]["kind"], "");
        assert_eq!(resources_of(&document, "b.io", "v1"), json!([]));
    }
}
