//! Requests that go to aggregated servers (kube-aggregator `pkg/apiserver/handler_proxy.go`).

use std::sync::Arc;

use api::UserInfo;
use axum::body::Body;
use http::header::{AUTHORIZATION, CACHE_CONTROL, CONNECTION, HOST, LOCATION, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, Version};
use hyper::upgrade::OnUpgrade;

use super::Remote;
use crate::audit::PeerAddress;
use crate::connect::{is_upgrade, remove_hop_by_hop};
use crate::filters::Call;
use crate::respond::{self, Response};
use crate::server::ApiServer;
use crate::webhook::{innermost, resolve};

const USER: &str = "x-remote-user";
const UID: &str = "x-remote-uid";
const GROUP: &str = "x-remote-group";
const EXTRA: &str = "x-remote-extra-";

/// `http.Error`.
pub(super) fn error(code: u16, text: &str) -> Response {
    respond::text(code, format!("{text}\n"))
}

/// Carries a request to the aggregated server and its answer back.
pub(crate) async fn serve(server: &Arc<ApiServer>, mut call: Call, remote: &Remote) -> Response {
    if !remote.available {
        return error(503, "service unavailable");
    }
    let clients = match &remote.clients {
        Ok(clients) => clients,
        Err(text) => return error(500, text),
    };
    let at = &remote.reach.service;
    let address = match resolve(server, &at.namespace, &at.name, at.port).await {
        Ok(address) => address,
        Err(why) => {
            tracing::warn!(namespace = at.namespace, name = at.name, error = why, "cannot find an aggregated server");
            return error(503, "service unavailable");
        }
    };
    let upgrade = is_upgrade(&call.parts.headers);
    let own = upgrade.then(|| call.parts.extensions.remove::<OnUpgrade>()).flatten();
    if upgrade && own.is_none() {
        return error(400, "upgrade requests need HTTP/1.1");
    }
    let request = match outgoing(&mut call, &address, upgrade) {
        Ok(request) => request,
        Err(text) => return error(500, &text),
    };
    let client = if upgrade { &clients.upgrades } else { &clients.requests };
    let mut response = match client.request(request).await {
        Ok(response) => response,
        Err(failure) => {
            return error(503, &format!("error trying to reach service: {}", innermost(&failure)));
        }
    };
    if let Some(own) = own {
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return error(503, &format!("invalid upgrade response: status code {}", response.status().as_u16()));
        }
        crate::tunnel::join(server, own, hyper::upgrade::on(&mut response));
        return response.map(|_| Body::empty());
    }
    // `RejectForwardingRedirects`.
    if response.status().is_redirection() && response.headers().contains_key(LOCATION) {
        return respond::bytes(
            502,
            "text/plain; charset=utf-8",
            "the backend attempted to redirect this request, which is not permitted",
        );
    }
    remove_hop_by_hop(response.headers_mut());
    // What every answer of ours says comes before what the other server says (`WithCacheControl`).
    let theirs: Vec<HeaderValue> = response.headers().get_all(CACHE_CONTROL).iter().cloned().collect();
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    for value in theirs {
        response.headers_mut().append(CACHE_CONTROL, value);
    }
    response.map(Body::new)
}

/// The request as it goes out: the client's, with the user's name in place of its credentials.
fn outgoing(call: &mut Call, address: &str, upgrade: bool) -> Result<Request<Body>, String> {
    let body = std::mem::replace(call.body.get_mut(), Body::empty());
    let path = call.parts.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    let mut request =
        Request::builder().uri(format!("https://{address}{path}")).body(body).map_err(|e| e.to_string())?;
    *request.method_mut() = call.parts.method.clone();
    *request.version_mut() = Version::HTTP_11;
    let mut headers = call.parts.headers.clone();
    let protocol = headers.get(UPGRADE).cloned();
    let host = headers.remove(HOST);
    remove_hop_by_hop(&mut headers);
    headers.remove(AUTHORIZATION);
    if upgrade {
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        if let Some(protocol) = protocol {
            headers.insert(UPGRADE, protocol);
        }
    }
    // `proxyutil.Transport.RoundTrip`.
    if let Ok(value) = HeaderValue::from_str(call.parts.uri.path()) {
        headers.insert(HeaderName::from_static("x-forwarded-uri"), value);
    }
    let host = host.or_else(|| HeaderValue::from_str(call.parts.uri.authority()?.as_str()).ok());
    if let Some(host) = host {
        headers.insert(HeaderName::from_static("x-forwarded-host"), host);
    }
    headers.insert(HeaderName::from_static("x-forwarded-proto"), HeaderValue::from_static("https"));
    // Who is connected, after those that proxies before us have named (`httputil.ReverseProxy`).
    if let Some(peer) = call.parts.extensions.get::<PeerAddress>() {
        let before = headers.get("x-forwarded-for").and_then(|v| v.to_str().ok()).map(|v| format!("{v}, "));
        if let Ok(value) = HeaderValue::from_str(&format!("{}{}", before.unwrap_or_default(), peer.0)) {
            headers.insert(HeaderName::from_static("x-forwarded-for"), value);
        }
    }
    headers.insert(HOST, HeaderValue::from_str(address).map_err(|e| e.to_string())?);
    identify(&mut headers, &call.user);
    *request.headers_mut() = headers;
    Ok(request)
}

/// `transport.SetAuthProxyHeaders`.
pub(super) fn identify(headers: &mut HeaderMap, user: &UserInfo) {
    crate::auth::front_proxy::clear(headers);
    let mut add = |name: &str, value: &str| {
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_str(value)) {
            headers.append(name, value);
        }
    };
    add(USER, &user.name);
    if !user.uid.is_empty() {
        add(UID, &user.uid);
    }
    for group in &user.groups {
        add(GROUP, group);
    }
    for (key, values) in &user.extra {
        let name = format!("{EXTRA}{}", escape(key));
        values.iter().for_each(|value| add(&name, value));
    }
}

/// `headerKeyEscape`: what cannot stand in a header's name is percent-encoded.
fn escape(key: &str) -> String {
    base::percent_encode(key, b"!#$&'*+-.^_`|~")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_goes_out_in_headers_and_sent_ones_do_not() {
        let mut headers = HeaderMap::new();
        headers.insert(USER, HeaderValue::from_static("root"));
        headers.insert("x-remote-extra-a", HeaderValue::from_static("b"));
        let mut user = UserInfo::new("ann", &["clerks"]);
        user.extra.insert("a.io/b%".to_owned(), vec!["c".to_owned()]);
        identify(&mut headers, &user);
        let mut got: Vec<String> = headers.iter().map(|(k, v)| format!("{k}={}", v.to_str().unwrap())).collect();
        got.sort();
        let want = [
            "x-remote-extra-a.io%2fb%25=c",
            "x-remote-group=clerks",
            "x-remote-group=system:authenticated",
            "x-remote-user=ann",
        ];
        assert_eq!(got, want);
    }
}
