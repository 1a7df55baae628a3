//! The typed client.

use std::path::Path;

use bytes::Bytes;
use http::{Method, Request, Response, header};
use http_body_util::BodyExt;
use kube::client::Body;
use serde_json::Value;
use tower::{BoxError, Service, ServiceExt};

use crate::error::Error;
use crate::params::{DeleteParams, ListParams, Patch, Query};
use crate::resource::Resource;

/// Speaks to one API server as one user. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    kube: kube::Client,
}

/// The program that acts as a user in a stock cluster, as its requests name it.
fn user_agent(user: &str) -> http::HeaderValue {
    let program: &'static str = match user {
        "system:apiserver" => "kube-apiserver",
        "system:kube-scheduler" => "kube-scheduler",
        "system:kube-proxy" => "kube-proxy",
        _ if user.starts_with("system:node:") => "kubelet",
        _ if user == "system:kube-controller-manager" || user.starts_with("system:serviceaccount:kube-system:") => {
            "kube-controller-manager"
        }
        _ => "skiff",
    };
    http::HeaderValue::from_static(program)
}

impl Client {
    pub fn from_kube(kube: kube::Client) -> Self {
        Self { kube }
    }

    /// A client whose transport is the API server's own service. `user` rides in every request's extensions as
    /// [`api::UserInfo`], where only code of this process can put it.
    ///
    /// Requests carry the name of upstream's program for that user as their user agent, because it is under that name
    /// that the fields which they change are owned.
    ///
    /// Must be called within a tokio runtime (it starts the task that owns the service).
    pub fn in_memory<S, B>(service: S, user: api::UserInfo) -> Self
    where
        S: Service<Request<Body>, Response = Response<B>> + Send + 'static,
        S::Future: Send + 'static,
        S::Error: Into<BoxError>,
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let agent = user_agent(&user.name);
        let service = service.map_request(move |mut request: Request<Body>| {
            request.extensions_mut().insert(user.clone());
            request.headers_mut().entry(header::USER_AGENT).or_insert_with(|| agent.clone());
            request
        });
        Self { kube: kube::Client::new(service, "default") }
    }

    /// A client from a kubeconfig file, with its current context.
    ///
    /// # Errors
    /// The file cannot be read, or what it says cannot be used.
    pub async fn remote(kubeconfig: &Path) -> Result<Self, Error> {
        let kubeconfig = kube::config::Kubeconfig::read_from(kubeconfig).map_err(|e| Error::Config(Box::new(e)))?;
        Self::from_kubeconfig(kubeconfig).await
    }

    /// A client from the text of a kubeconfig.
    ///
    /// # Errors
    /// What it says cannot be used.
    pub async fn remote_from_yaml(kubeconfig: &str) -> Result<Self, Error> {
        let kubeconfig = kube::config::Kubeconfig::from_yaml(kubeconfig).map_err(|e| Error::Config(Box::new(e)))?;
        Self::from_kubeconfig(kubeconfig).await
    }

    async fn from_kubeconfig(kubeconfig: kube::config::Kubeconfig) -> Result<Self, Error> {
        let options = kube::config::KubeConfigOptions::default();
        let config =
            kube::Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(|e| Error::Config(Box::new(e)))?;
        let kube = kube::Client::try_from(config).map_err(|e| Error::Config(Box::new(e)))?;
        Ok(Self { kube })
    }

    pub fn kube(&self) -> &kube::Client {
        &self.kube
    }

    /// Reads one object. `namespace` is empty for cluster-scoped kinds.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn get<K: Resource>(&self, namespace: &str, name: &str) -> Result<K, Error> {
        decode(&self.send(Method::GET, &path::<K>(namespace, name, ""), "", Vec::new()).await?)
    }

    /// Like [`Client::get`], but an object that does not exist is `None`.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn get_opt<K: Resource>(&self, namespace: &str, name: &str) -> Result<Option<K>, Error> {
        match self.get(namespace, name).await {
            Ok(object) => Ok(Some(object)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reads all objects of a namespace, or of all namespaces if it is empty.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn list<K: Resource>(&self, namespace: &str, params: &ListParams) -> Result<Vec<K>, Error> {
        let url = format!("{}{}", path::<K>(namespace, "", ""), params.query().as_str());
        K::decode_list(&self.send(Method::GET, &url, "", Vec::new()).await?).map_err(Error::Decode)
    }

    /// Creates an object in the namespace that its metadata names.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn create<K: Resource>(&self, object: &K) -> Result<K, Error> {
        self.write(Method::POST, path::<K>(object.namespace(), "", ""), object).await
    }

    /// Replaces an object; its `resourceVersion`, if set, must be the newest.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn update<K: Resource>(&self, object: &K) -> Result<K, Error> {
        self.write(Method::PUT, path::<K>(object.namespace(), object.name(), ""), object).await
    }

    /// Replaces an object's status.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn update_status<K: Resource>(&self, object: &K) -> Result<K, Error> {
        self.write(Method::PUT, path::<K>(object.namespace(), object.name(), "status"), object).await
    }

    async fn write<K: Resource>(&self, method: Method, url: String, object: &K) -> Result<K, Error> {
        let body = object.encode().map_err(Error::Decode)?;
        decode(&self.send(method, &url, JSON, body).await?)
    }

    /// Changes an object.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn patch<K: Resource>(&self, namespace: &str, name: &str, patch: &Patch) -> Result<K, Error> {
        decode(&self.send_patch(&path::<K>(namespace, name, ""), patch).await?)
    }

    /// Changes an object's status.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn patch_status<K: Resource>(&self, namespace: &str, name: &str, patch: &Patch) -> Result<K, Error> {
        decode(&self.send_patch(&path::<K>(namespace, name, "status"), patch).await?)
    }

    /// Sends a patch to a path and returns the answer undecoded.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn send_patch(&self, path: &str, patch: &Patch) -> Result<Bytes, Error> {
        let body = serde_json::to_vec(patch.body()).map_err(Error::Decode)?;
        let url = format!("{path}{}", patch.query().as_str());
        self.send(Method::PATCH, &url, patch.content_type(), body).await
    }

    /// Deletes an object.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn delete<K: Resource>(&self, namespace: &str, name: &str, options: &DeleteParams) -> Result<(), Error> {
        let body = serde_json::to_vec(&options.body()).map_err(Error::Decode)?;
        self.send(Method::DELETE, &path::<K>(namespace, name, ""), JSON, body).await.map(drop)
    }

    /// Posts to a subresource (`binding`, `eviction`, `token`) and returns its answer.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn create_subresource<K: Resource>(
        &self,
        namespace: &str,
        name: &str,
        subresource: &str,
        body: &Value,
    ) -> Result<Value, Error> {
        let body = serde_json::to_vec(body).map_err(Error::Decode)?;
        let answer = self.send(Method::POST, &path::<K>(namespace, name, subresource), JSON, body).await?;
        serde_json::from_slice(&answer).map_err(Error::Decode)
    }

    /// Any request. An empty `content_type` sends none. `path_and_query` begins with a slash and is sent as it is.
    ///
    /// # Errors
    /// See [`Error`]; a status of 400 or more is [`Error::Api`].
    pub async fn raw(
        &self,
        method: Method,
        path_and_query: &str,
        content_type: &str,
        body: Vec<u8>,
    ) -> Result<Bytes, Error> {
        self.send(method, path_and_query, content_type, body).await
    }

    async fn send(&self, method: Method, url: &str, content_type: &str, body: Vec<u8>) -> Result<Bytes, Error> {
        let answer = self.open(method, url, JSON, content_type, body).await?;
        collect(answer.into_body()).await
    }

    /// Sends a request and hands out the answer's body as it comes.
    ///
    /// # Errors
    /// See [`Error`]; a status of 400 or more is [`Error::Api`].
    pub async fn open(
        &self,
        method: Method,
        url: &str,
        accept: &str,
        content_type: &str,
        body: Vec<u8>,
    ) -> Result<Response<Body>, Error> {
        let mut request = Request::builder()
            .method(method)
            .uri(url)
            .header(header::ACCEPT, accept)
            // Watches are compressed one member an event, which the HTTP stack does not read; nor is it worth it here.
            .header(header::ACCEPT_ENCODING, "identity");
        if !content_type.is_empty() {
            request = request.header(header::CONTENT_TYPE, content_type);
        }
        let request = request.body(Body::from(body)).map_err(Error::Request)?;
        let answer = self.kube.send(request).await.map_err(|e| Error::Transport(Box::new(e)))?;
        let status = answer.status();
        if !status.is_client_error() && !status.is_server_error() {
            return Ok(answer);
        }
        let retry_after = answer.headers().get(header::RETRY_AFTER).and_then(|v| v.to_str().ok()?.parse().ok());
        let body = collect(answer.into_body()).await?;
        Err(Error::from_answer(status.as_u16(), retry_after, &body))
    }
}

pub(crate) const JSON: &str = "application/json";

async fn collect(body: Body) -> Result<Bytes, Error> {
    Ok(body.collect().await.map_err(|e| Error::Transport(Box::new(e)))?.to_bytes())
}

fn decode<K: Resource>(bytes: &[u8]) -> Result<K, Error> {
    K::decode(bytes).map_err(Error::Decode)
}

fn path<K: Resource>(namespace: &str, name: &str, subresource: &str) -> String {
    let namespace = if K::NAMESPACED { namespace } else { "" };
    resource_path(K::GROUP, K::VERSION, K::RESOURCE, namespace, name, subresource)
}

/// What Go's clients leave as it is in a part of a path, beside letters and digits (`url.URL.EscapedPath`, less the slash).
const IN_PATH: &[u8] = b"-._~$&+,:;=@";

/// The URL path of a resource: of all objects, of a namespace's, of one, or of a subresource, by which parts are empty.
pub fn resource_path(
    group: &str,
    version: &str,
    resource: &str,
    namespace: &str,
    name: &str,
    subresource: &str,
) -> String {
    let mut path = String::with_capacity(96);
    if group.is_empty() {
        path.push_str("/api/");
    } else {
        path.push_str("/apis/");
        path.push_str(group);
        path.push('/');
    }
    path.push_str(version);
    if !namespace.is_empty() {
        path.push_str("/namespaces/");
        path.push_str(&base::percent_encode(namespace, IN_PATH));
    }
    path.push('/');
    path.push_str(resource);
    if !name.is_empty() {
        path.push('/');
        path.push_str(&base::percent_encode(name, IN_PATH));
    }
    if !subresource.is_empty() {
        path.push('/');
        path.push_str(subresource);
    }
    path
}

/// The list path of a kind, cluster-wide, with a field selector if it is not empty.
pub(crate) fn list_query(field_selector: &str) -> Query {
    let mut query = Query::default();
    query.add_nonempty("fieldSelector", field_selector);
    query
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{ConfigMap, Node};
    use std::convert::Infallible;
    use std::sync::Arc;

    use parking_lot::Mutex;

    /// What a request was: method, path with query, body, user.
    #[derive(Debug, Clone, PartialEq)]
    pub(crate) struct Seen {
        pub method: Method,
        pub url: String,
        pub body: Value,
        pub user: String,
    }

    type Answer = (u16, Vec<Bytes>, bool);

    /// A client on a service that answers each request by `answer` (status, chunks, whether the body stays open) and
    /// notes what it saw.
    pub(crate) fn fake<F>(answer: F) -> (Client, Arc<Mutex<Vec<Seen>>>)
    where
        F: Fn(&Seen) -> Answer + Send + Sync + 'static,
    {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&seen);
        let answer = Arc::new(answer);
        let service = tower::service_fn(move |request: Request<Body>| {
            let (log, answer) = (Arc::clone(&log), Arc::clone(&answer));
            async move {
                let (parts, body) = request.into_parts();
                let body = body.collect_bytes().await.unwrap_or_default();
                let entry = Seen {
                    method: parts.method,
                    url: parts.uri.to_string(),
                    body: serde_json::from_slice(&body).unwrap_or(Value::Null),
                    user: parts.extensions.get::<api::UserInfo>().map(|u| u.name.clone()).unwrap_or_default(),
                };
                let (status, chunks, open) = answer(&entry);
                log.lock().push(entry);
                let chunks =
                    futures::stream::iter(chunks.into_iter().map(|c| Ok::<_, Infallible>(http_body::Frame::data(c))));
                let body: futures::stream::BoxStream<'static, _> = if open {
                    Box::pin(futures::StreamExt::chain(chunks, futures::stream::pending()))
                } else {
                    Box::pin(chunks)
                };
                Ok::<_, Infallible>(
                    Response::builder().status(status).body(http_body_util::StreamBody::new(body)).unwrap(),
                )
            }
        });
        (Client::in_memory(service, api::UserInfo::new("tester", &[])), seen)
    }

    #[tokio::test]
    async fn requests_carry_path_body_and_user() {
        let (client, seen) = fake(|seen| (200, vec![Bytes::from(seen.body.to_string())], false));
        let mut map = ConfigMap::default();
        map.metadata.name = Some("a".into());
        map.metadata.namespace = Some("n".into());
        let made = client.create(&map).await.unwrap();
        assert_eq!(made, map);
        client.update_status(&Node::default()).await.unwrap();
        let seen = seen.lock();
        assert_eq!(seen[0].url, "/api/v1/namespaces/n/configmaps");
        assert_eq!((seen[0].method.clone(), seen[0].user.as_str()), (Method::POST, "tester"));
        assert_eq!(seen[1].method, Method::PUT);
    }

    #[tokio::test]
    async fn a_missing_object_is_none() {
        let (client, _) = fake(|_| (404, vec![Bytes::from_static(br#"{"reason":"NotFound","message":"no"}"#)], false));
        assert!(client.get_opt::<ConfigMap>("n", "a").await.unwrap().is_none());
        assert!(client.delete::<ConfigMap>("n", "a", &DeleteParams::default()).await.unwrap_err().is_not_found());
    }

    #[test]
    fn paths() {
        assert_eq!(resource_path("", "v1", "nodes", "", "", ""), "/api/v1/nodes");
        assert_eq!(
            resource_path("rbac.authorization.k8s.io", "v1", "clusterroles", "", "a:b c%2F/d?e#ü", ""),
            "/apis/rbac.authorization.k8s.io/v1/clusterroles/a:b%20c%252F%2Fd%3Fe%23%C3%BC",
        );
        assert_eq!(
            resource_path("apps", "v1", "deployments", "n", "d", "scale"),
            "/apis/apps/v1/namespaces/n/deployments/d/scale"
        );
    }
}
