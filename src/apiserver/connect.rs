//! Connections that the API server carries: exec, attach, port-forward, logs and proxied requests.
//!
//! The kind's [`Connect`] says where; upgrades (SPDY/3.1, WebSocket) are tunnelled as raw bytes, the rest is proxied as
//! HTTP (apimachinery `util/proxy/upgradeaware.go`, `transport.go`; apiserver `endpoints/handlers/rest.go`
//! `ConnectResource`).

mod html;
mod transport;

use api::admission::Operation;
use api::kind::{Connect, ConnectRequest, ConnectTarget, Subresource};
use api::services::AuthorizationAttributes;
use api::{GroupResource, Object, Status};
use axum::body::Body;
use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HOST, LOCATION, TE, TRANSFER_ENCODING,
    UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Version};
use http_body_util::BodyExt;
use hyper::upgrade::OnUpgrade;
use serde_json::Value;

use crate::respond::{self, Response};
use crate::served::method_not_allowed;
use crate::verbs::Verb;
use crate::verbs::admit::Admission;

pub use transport::Kubelets;
pub(crate) use transport::go_text;

/// HTML pages up to this size have their links rewritten; larger ones pass as they are.
const HTML_MAX: usize = 4 << 20;
/// How much of a failed log request's body becomes the error's text.
const ERROR_TEXT_MAX: usize = 10 << 10;

/// Answers a request to a subresource that is a connection.
pub(crate) async fn serve(verb: Verb, subresource: &Subresource, connect: &dyn Connect) -> Result<Response, Status> {
    let info = &verb.call.info;
    // What proxies with all methods proxies OPTIONS too, which is no verb of the API (`proxyMethods`).
    let options = verb.call.parts.method == Method::OPTIONS && subresource.verbs.contains(&"delete");
    if !options && !subresource.verbs.contains(&info.verb.as_str()) {
        return Err(method_not_allowed());
    }
    let stored = verb.served.stored()?;
    let name = connect.parent_name(&info.name);
    let key = verb.served.key(&info.namespace, name);
    let is_read = subresource.verbs == ["get"];
    let is_stream = !is_read && subresource.verbs.iter().all(|v| matches!(*v, "create" | "get"));
    let query = verb.call.parts.uri.query().unwrap_or_default();
    if is_stream && info.verb == "get" {
        // A WebSocket begins with GET; what it does is still a creation
        // (`AuthorizePodWebsocketUpgradeCreatePermission`).
        let attributes = AuthorizationAttributes {
            verb: "create".to_owned(),
            is_resource: true,
            group: info.group.clone(),
            version: info.version.clone(),
            resource: info.resource.clone(),
            subresource: info.subresource.clone(),
            namespace: info.namespace.clone(),
            name: info.name.clone(),
            ..AuthorizationAttributes::default()
        };
        crate::filters::check(&verb.server, &verb.call.user, &attributes).await?;
    }
    if !is_read {
        let admission = Admission {
            server: &verb.server,
            user: &verb.call.user,
            gvk: subresource.gvk.clone(),
            resource: verb.served.gvr(),
            subresource: subresource.name,
            namespace: &info.namespace,
            name: &info.name,
            dry_run: false,
            warnings: &verb.call.warnings,
        };
        let options = options_object(subresource, &verb.call.query, &info.rest);
        admission.both(Operation::Connect, Some(&options), None, &Object::default()).await?;
    }
    // As upstream after admission, which may say no to what is not there.
    let current = verb.server.objects.load(stored, &key).await?.ok_or_else(|| verb.served.not_found(name))?;
    let ctx = verb.server.action_context(&verb.call.user, false);
    let request = ConnectRequest { segment: &info.name, path: &info.rest, query };
    let target = match connect.target(&ctx, &current.object, &request).await {
        // Nothing to connect to, and no failure.
        Err(status) if status.code == 204 => {
            let mut response = crate::respond::bytes(204, crate::negotiate::JSON, Body::empty());
            response.headers_mut().remove(http::header::CONTENT_TYPE);
            return Ok(response);
        }
        // A node that is not there is blamed on the resource of the request (`qualifiedResourceFromContext`).
        Err(status) if status.code == 404 => {
            let node = status.details.as_ref().filter(|details| details.kind == "nodes");
            return Err(node.map_or_else(|| status.clone(), |details| verb.served.not_found(&details.name)));
        }
        target => target?,
    };
    if target.rewrite_locations
        && info.rest.is_empty()
        && matches!(verb.call.parts.method, Method::GET | Method::HEAD)
        && !is_upgrade(&verb.call.parts.headers)
    {
        return Ok(redirect_to_slash(&verb.call.parts.uri));
    }
    let carrier = Carrier { verb, target, is_read };
    carrier.run().await
}

/// `proxyRedirectsforRootPath`.
fn redirect_to_slash(uri: &http::Uri) -> Response {
    let query = uri.query().map(|q| format!("?{q}")).unwrap_or_default();
    let mut response = respond::text(301, "");
    if let Ok(value) = HeaderValue::from_str(&format!("{}/{query}", uri.path())) {
        response.headers_mut().insert(LOCATION, value);
    }
    response
}

/// The options of a connection (`PodExecOptions` …) from the query, for admission.
fn options_object(subresource: &Subresource, query: &crate::query::Query, path: &str) -> Object {
    let mut options = Object::default();
    options.set_gvk(&subresource.gvk);
    for field in &subresource.schema.def().fields {
        let name = field.name.as_ref();
        let value = match &field.ty {
            api::schema::Type::List(item) => {
                let numbers = matches!(**item, api::schema::Type::Int32 | api::schema::Type::Int64);
                let value = |text: &str| match text.parse::<i64>() {
                    Ok(number) if numbers => Value::from(number),
                    _ => Value::from(text),
                };
                let all: Vec<Value> = query.all(name).map(value).collect();
                if all.is_empty() { continue } else { Value::Array(all) }
            }
            api::schema::Type::Bool => match query.optional_flag(name) {
                Some(flag) => flag.into(),
                None => continue,
            },
            _ if name == "path" && !path.is_empty() => path.into(),
            _ => match query.get(name) {
                Some(text) if name != "kind" && name != "apiVersion" => text.into(),
                _ => continue,
            },
        };
        options.set(&[name], value);
    }
    options
}

pub(crate) fn is_upgrade(headers: &HeaderMap) -> bool {
    headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .any(|v| v.trim().eq_ignore_ascii_case("upgrade"))
}

/// Carries one request to its target.
struct Carrier {
    verb: Verb,
    target: ConnectTarget,
    /// A log: a plain body, whose failure becomes a `Status`.
    is_read: bool,
}

impl Carrier {
    async fn run(mut self) -> Result<Response, Status> {
        let upgrade = is_upgrade(&self.verb.call.parts.headers) && !self.is_read;
        let own = upgrade.then(|| self.verb.call.parts.extensions.remove::<OnUpgrade>()).flatten();
        if upgrade && own.is_none() {
            return Err(Status::bad_request("upgrade requests need HTTP/1.1"));
        }
        let server = std::sync::Arc::clone(&self.verb.server);
        let mut sender = transport::connect(&server, &self.target).await.map_err(|error| self.unreachable(&error))?;
        let request = self.request(upgrade)?;
        let mut response = sender.send_request(request).await.map_err(|error| self.unreachable(&error))?;
        // The connection lives as long as somebody may send or receive on it.
        drop(sender);
        if upgrade && response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let other = hyper::upgrade::on(&mut response);
            let Some(own) = own else { return Err(Status::bad_request("upgrade requests need HTTP/1.1")) };
            crate::tunnel::join(&server, own, other);
            return Ok(response.map(|_| Body::empty()));
        }
        if self.is_read {
            let answer = self.read(response).await?;
            if crate::websocket::is_websocket(&self.verb.call.parts.headers) {
                return crate::websocket::body(&mut self.verb.call.parts, answer.into_body()).await;
            }
            return Ok(answer);
        }
        self.proxied(response).await
    }

    fn unreachable(&self, error: &dyn std::fmt::Display) -> Status {
        if self.target.rewrite_locations {
            Status::service_unavailable(format!("error trying to reach service: {error}"))
        } else if self.is_read {
            Status::internal(format_args!("Get {:?}: {error}", self.url()))
        } else {
            Status::internal(format_args!("error dialing backend: {error}"))
        }
    }

    fn url(&self) -> String {
        let scheme = if self.target.tls == api::kind::Tls::Plain { "http" } else { "https" };
        format!("{scheme}://{}{}", self.authority(), self.target.path_and_query)
    }

    fn authority(&self) -> String {
        let host = &self.target.host;
        if host.contains(':') {
            format!("[{host}]:{}", self.target.port)
        } else {
            format!("{host}:{}", self.target.port)
        }
    }

    /// The request as it goes out: the client's, without its credentials and what belongs to its connection.
    fn request(&mut self, upgrade: bool) -> Result<Request<Body>, Status> {
        let call = &mut self.verb.call;
        let body = std::mem::replace(call.body.get_mut(), Body::empty());
        let mut headers = call.parts.headers.clone();
        let protocol = headers.get(UPGRADE).cloned();
        let incoming_host =
            headers.get(HOST).cloned().or_else(|| HeaderValue::from_str(call.parts.uri.authority()?.as_str()).ok());
        remove_hop_by_hop(&mut headers);
        headers.remove(AUTHORIZATION);
        if self.is_read {
            // The other end sends a plain body, whatever becomes of it here.
            headers.clear();
        }
        if upgrade {
            headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
            if let Some(protocol) = protocol {
                headers.insert(UPGRADE, protocol);
            }
        }
        let uri: http::Uri = self
            .target
            .path_and_query
            .parse()
            .map_err(|e| Status::bad_request(format!("invalid path {:?}: {e}", self.target.path_and_query)))?;
        let own_host = HeaderValue::from_str(&self.authority()).map_err(Status::internal)?;
        let call = &self.verb.call;
        if self.target.rewrite_locations {
            // `proxyutil.Transport.RoundTrip`.
            if let Ok(value) = HeaderValue::from_str(call.parts.uri.path()) {
                headers.insert(HeaderName::from_static("x-forwarded-uri"), value);
            }
            if let Some(host) = &incoming_host {
                headers.insert(HeaderName::from_static("x-forwarded-host"), host.clone());
            }
            headers.insert(HeaderName::from_static("x-forwarded-proto"), HeaderValue::from_static("https"));
        }
        let host = if self.target.rewrite_locations { incoming_host.unwrap_or(own_host) } else { own_host };
        headers.insert(HOST, host);
        let mut request = Request::new(body);
        *request.method_mut() = call.parts.method.clone();
        *request.uri_mut() = uri;
        *request.version_mut() = Version::HTTP_11;
        *request.headers_mut() = headers;
        Ok(request)
    }

    /// A log: what the other end says, or its failure as a `Status`
    /// (`registry/generic/rest/response_checker.go`).
    async fn read(&self, response: http::Response<hyper::body::Incoming>) -> Result<Response, Status> {
        let code = response.status().as_u16();
        if (200..=206).contains(&code) {
            let media_type = response.headers().get(CONTENT_TYPE).cloned();
            let mut answer = respond::bytes(200, "text/plain", Body::new(response.into_body()));
            if let Some(media_type) = media_type {
                answer.headers_mut().insert(CONTENT_TYPE, media_type);
            }
            return Ok(answer);
        }
        let limited = http_body_util::Limited::new(response.into_body(), ERROR_TEXT_MAX);
        let text =
            limited.collect().await.map(|b| String::from_utf8_lossy(&b.to_bytes()).into_owned()).unwrap_or_default();
        Err(match code {
            400 => Status::bad_request(text),
            404 => {
                let resource = &self.verb.served.resource;
                let name = &self.verb.call.info.name;
                let message = format!("the server could not find the requested resource ( {resource} {name})");
                Status::not_found(&GroupResource::new("", resource.resource.clone()), name).with_message(message)
            }
            _ => Status::internal(text),
        })
    }

    /// A proxied answer, with locations and links under the proxy's URL.
    async fn proxied(&self, response: http::Response<hyper::body::Incoming>) -> Result<Response, Status> {
        let (mut parts, body) = response.into_parts();
        remove_hop_by_hop(&mut parts.headers);
        if !self.target.rewrite_locations {
            return Ok(Response::from_parts(parts, Body::new(body)));
        }
        let rewriter = self.rewriter();
        if let Some(location) = parts.headers.get(LOCATION).and_then(|v| v.to_str().ok())
            && let Ok(value) = HeaderValue::from_str(&rewriter.rewrite(location))
        {
            parts.headers.insert(LOCATION, value);
        }
        let is_html = parts
            .headers
            .get(CONTENT_TYPE)
            .and_then(|v| v.to_str().ok())
            .is_some_and(|t| t.split(';').next().unwrap_or_default().trim() == "text/html");
        let is_plain = !parts.headers.contains_key(CONTENT_ENCODING);
        let small = http_body::Body::size_hint(&body).upper().is_some_and(|size| size <= HTML_MAX as u64);
        if !is_html || !is_plain || !small {
            return Ok(Response::from_parts(parts, Body::new(body)));
        }
        let page = body
            .collect()
            .await
            .map_err(|e| Status::service_unavailable(format!("error trying to reach service: {e}")))?
            .to_bytes();
        let page = html::rewrite_links(&page, |url| rewriter.rewrite(url));
        parts.headers.remove(CONTENT_LENGTH);
        Ok(Response::from_parts(parts, Body::from(page)))
    }

    fn rewriter(&self) -> html::Rewriter {
        let call = &self.verb.call;
        let path = call.parts.uri.path();
        let prefix = path.strip_suffix(&call.info.rest).unwrap_or(path).to_owned();
        let host = call.parts.headers.get(HOST).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
        html::Rewriter { prefix, target: self.authority(), host }
    }
}

/// What belongs to one connection (RFC 9110 §7.6.1).
pub(crate) fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .filter_map(|n| n.trim().parse().ok())
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in [CONNECTION, TE, TRANSFER_ENCODING, UPGRADE] {
        headers.remove(name);
    }
    for name in ["keep-alive", "proxy-connection", "proxy-authenticate", "proxy-authorization", "trailer"] {
        headers.remove(name);
    }
}
