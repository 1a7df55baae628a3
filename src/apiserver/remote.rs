//! Services that the server asks by a kubeconfig file: webhooks of authentication, authorisation and audit (apiserver
//! `util/webhook/webhook.go`), and identity providers.

use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::StatusCode;
use pki::Leaf;
use pki::serving::RemoteTrust;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use serde::Deserialize;

/// The largest answer that is read.
const ANSWER_MAX: usize = 16 << 20;
/// How much of a failed answer's body becomes text.
const TEXT_MAX: usize = 2 << 10;

/// Why a service cannot be asked, or did not answer.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    #[error("cannot read {path}")]
    File {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{path} is no usable kubeconfig: {why}")]
    Config { path: PathBuf, why: String },
    #[error("cannot set up TLS")]
    Tls(#[source] pki::PkiError),
    #[error("cannot set up a client")]
    Client(#[source] reqwest::Error),
    #[error("cannot ask {url}")]
    Unreachable {
        url: String,
        #[source]
        source: reqwest::Error,
    },
    #[error("{url} answered {code}: {text}")]
    Refused { url: String, code: u16, text: String, retry_after: Option<Duration> },
    #[error("the answer of {url} is larger than {ANSWER_MAX} bytes")]
    TooLarge { url: String },
}

impl RemoteError {
    /// Whether asking again may help (`webhook.DefaultShouldRetry`; client-go's own `checkWait`).
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Unreachable { source, .. } => is_reset(source),
            Self::Refused { code, retry_after, .. } => {
                matches!(code, 429 | 500 | 504) || (*code > 500 && retry_after.is_some())
            }
            Self::File { .. } | Self::Config { .. } | Self::Tls(_) | Self::Client(_) | Self::TooLarge { .. } => false,
        }
    }
}

/// Whether a connection was there and broke.
fn is_reset(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(error), |error| error.source()).any(|error| {
        error.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::ConnectionReset)
    })
}

/// A service and how to talk to it.
pub struct Remote {
    client: reqwest::Client,
    url: String,
    authorization: Option<Authorization>,
}

/// What goes into the header of this name.
pub(crate) enum Authorization {
    Fixed(HeaderValue),
    /// A file with a bearer token, read for each request, as it may be replaced.
    TokenFile(PathBuf),
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct Kubeconfig {
    clusters: Vec<Named>,
    pub users: Vec<Named>,
    contexts: Vec<Named>,
    #[serde(rename = "current-context")]
    current_context: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct Named {
    pub name: String,
    cluster: Cluster,
    pub user: User,
    context: Context,
}

#[derive(Default, Clone, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct Cluster {
    server: String,
    certificate_authority: PathBuf,
    certificate_authority_data: String,
    insecure_skip_tls_verify: bool,
    tls_server_name: String,
}

#[derive(Default, Clone, Deserialize)]
#[serde(default)]
pub(crate) struct User {
    #[serde(rename = "client-certificate")]
    client_certificate: PathBuf,
    #[serde(rename = "client-certificate-data")]
    client_certificate_data: String,
    #[serde(rename = "client-key")]
    client_key: PathBuf,
    #[serde(rename = "client-key-data")]
    client_key_data: String,
    token: String,
    #[serde(rename = "tokenFile")]
    token_file: PathBuf,
    username: String,
    password: String,
}

#[derive(Default, Clone, Deserialize)]
#[serde(default)]
struct Context {
    cluster: String,
    user: String,
}

/// The server's own identity at a service.
#[derive(Default)]
pub(crate) struct Identity {
    pub leaf: Option<Leaf>,
    pub authorization: Option<Authorization>,
}

impl Kubeconfig {
    /// Reads a file.
    ///
    /// # Errors
    /// [`RemoteError::File`] or [`RemoteError::Config`].
    pub fn load(path: &Path) -> Result<Self, RemoteError> {
        let text = String::from_utf8(read(path)?).map_err(|e| wrong(path, e.to_string()))?;
        serde_saphyr::from_str(&text)
            .map_err(|e| wrong(path, e.to_string().lines().next().unwrap_or_default().to_owned()))
    }

    /// The user of the current context, if there is one.
    pub fn current_user(&self) -> Option<&str> {
        let context = self.contexts.iter().find(|context| context.name == self.current_context)?;
        Some(context.context.user.as_str()).filter(|name| !name.is_empty())
    }
}

impl User {
    /// The certificate and what the header says; files are named relative to the kubeconfig at `path`.
    ///
    /// # Errors
    /// [`RemoteError::File`] or [`RemoteError::Config`].
    pub fn identity(&self, path: &Path) -> Result<Identity, RemoteError> {
        let folder = path.parent().unwrap_or(Path::new(""));
        let cert = material(path, &self.client_certificate_data, &self.client_certificate, "client-certificate-data")?;
        let key = material(path, &self.client_key_data, &self.client_key, "client-key-data")?;
        let pem = |bytes: Vec<u8>| String::from_utf8(bytes).map_err(|e| wrong(path, e.to_string()));
        let leaf = if cert.is_empty() { None } else { Some(Leaf { cert_pem: pem(cert)?, key_pem: pem(key)? }) };
        let secret = |text: String| {
            let mut value = HeaderValue::from_str(&text).map_err(|e| wrong(path, e.to_string()))?;
            value.set_sensitive(true);
            Ok::<_, RemoteError>(Authorization::Fixed(value))
        };
        let authorization = if !self.token.is_empty() {
            Some(secret(format!("Bearer {}", self.token))?)
        } else if !self.token_file.as_os_str().is_empty() {
            Some(Authorization::TokenFile(folder.join(&self.token_file)))
        } else if !self.username.is_empty() {
            Some(secret(format!("Basic {}", STANDARD.encode(format!("{}:{}", self.username, self.password))))?)
        } else {
            None
        };
        Ok(Identity { leaf, authorization })
    }
}

impl Authorization {
    /// The header's value now.
    ///
    /// # Errors
    /// [`RemoteError::File`], or [`RemoteError::Config`] if a token is none.
    pub async fn value(&self) -> Result<HeaderValue, RemoteError> {
        match self {
            Self::Fixed(value) => Ok(value.clone()),
            Self::TokenFile(path) => {
                let token = tokio::fs::read_to_string(path)
                    .await
                    .map_err(|source| RemoteError::File { path: path.clone(), source })?;
                let mut value = HeaderValue::from_str(&format!("Bearer {}", token.trim()))
                    .map_err(|e| wrong(path, e.to_string()))?;
                value.set_sensitive(true);
                Ok(value)
            }
        }
    }
}

fn wrong(path: &Path, why: String) -> RemoteError {
    RemoteError::Config { path: path.to_owned(), why }
}

/// What stands in a kubeconfig itself or in a file that it names.
fn material(path: &Path, data: &str, file: &Path, what: &str) -> Result<Vec<u8>, RemoteError> {
    match (data, file.as_os_str().is_empty()) {
        ("", true) => Ok(Vec::new()),
        ("", false) => read(&path.parent().unwrap_or(Path::new("")).join(file)),
        (data, _) => STANDARD.decode(data).map_err(|e| wrong(path, format!("{what}: {e}"))),
    }
}

impl Remote {
    /// Reads a kubeconfig: the cluster is the service, the user is the server's own identity there.
    ///
    /// # Errors
    /// [`RemoteError::File`], [`RemoteError::Config`] or [`RemoteError::Tls`].
    pub fn load(path: &Path) -> Result<Self, RemoteError> {
        let wrong = |why: String| wrong(path, why);
        let config = Kubeconfig::load(path)?;
        let find = |list: &[Named], name: &str| list.iter().position(|item| item.name == name);
        let context = find(&config.contexts, &config.current_context)
            .map(|at| config.contexts[at].context.clone())
            .ok_or_else(|| wrong(format!("there is no context {:?}", config.current_context)))?;
        let cluster = find(&config.clusters, &context.cluster)
            .map(|at| config.clusters[at].cluster.clone())
            .ok_or_else(|| wrong(format!("there is no cluster {:?}", context.cluster)))?;
        let user = find(&config.users, &context.user).map(|at| config.users[at].user.clone()).unwrap_or_default();
        if !cluster.server.starts_with("https://") && !cluster.server.starts_with("http://") {
            return Err(wrong(format!("{:?} is no URL of a server", cluster.server)));
        }
        let (data, file) = (&cluster.certificate_authority_data, &cluster.certificate_authority);
        let bundle = material(path, data, file, "certificate-authority-data")?;
        let Identity { leaf, authorization } = user.identity(path)?;
        let trust = RemoteTrust {
            bundle: &bundle,
            insecure: cluster.insecure_skip_tls_verify,
            server_name: (!cluster.tls_server_name.is_empty()).then_some(cluster.tls_server_name.as_str()),
        };
        Ok(Self { client: client(&trust, leaf.as_ref())?, url: cluster.server, authorization })
    }

    /// Asks by URL, trusting the bundle (PEM), or the system's roots if it is empty.
    ///
    /// # Errors
    /// [`RemoteError::Tls`] or [`RemoteError::Client`].
    pub fn trusting(url: &str, bundle: &[u8]) -> Result<Self, RemoteError> {
        let trust = RemoteTrust { bundle, insecure: false, server_name: None };
        Ok(Self { client: client(&trust, None)?, url: url.to_owned(), authorization: None })
    }

    /// Posts JSON and reads the answer.
    ///
    /// # Errors
    /// [`RemoteError::Unreachable`], [`RemoteError::Refused`] or [`RemoteError::TooLarge`].
    pub async fn post(&self, body: Bytes, timeout: Duration) -> Result<Bytes, RemoteError> {
        // client-go tells a server how long it waits, which is the same for all of these (`webhook.LoadKubeconfig`).
        let url = format!("{}{}timeout=30s", self.url, if self.url.contains('?') { '&' } else { '?' });
        let request = self.client.post(url).header(CONTENT_TYPE, "application/json").body(body);
        self.send(request, &self.url, timeout).await
    }

    /// Gets a document at any URL of this service.
    ///
    /// # Errors
    /// As [`Self::post`].
    pub async fn get(&self, url: &str, timeout: Duration) -> Result<Bytes, RemoteError> {
        self.send(self.client.get(url), url, timeout).await
    }

    /// As [`Self::get`], with a bearer token of its own; an empty one is none.
    ///
    /// # Errors
    /// As [`Self::post`].
    pub async fn get_with(&self, url: &str, token: &str, timeout: Duration) -> Result<Bytes, RemoteError> {
        let request = self.client.get(url);
        self.send(if token.is_empty() { request } else { request.bearer_auth(token) }, url, timeout).await
    }

    async fn send(
        &self,
        mut request: reqwest::RequestBuilder,
        url: &str,
        timeout: Duration,
    ) -> Result<Bytes, RemoteError> {
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization.value().await?);
        }
        let unreachable = |source| RemoteError::Unreachable { url: url.to_owned(), source };
        let mut response =
            request.header(ACCEPT, "application/json, */*").timeout(timeout).send().await.map_err(unreachable)?;
        let code = response.status();
        let retry_after = response.headers().get(http::header::RETRY_AFTER).and_then(|v| v.to_str().ok()?.parse().ok());
        let retry_after = retry_after.map(Duration::from_secs);
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(unreachable)? {
            if body.len() + chunk.len() > ANSWER_MAX {
                return Err(RemoteError::TooLarge { url: url.to_owned() });
            }
            body.extend_from_slice(&chunk);
        }
        if code.is_success() {
            return Ok(body.into());
        }
        let shown = String::from_utf8_lossy(&body[..body.len().min(TEXT_MAX)]).trim().to_owned();
        Err(RemoteError::Refused { url: url.to_owned(), code: code.as_u16(), text: refusal(code, shown), retry_after })
    }
}

fn refusal(code: StatusCode, shown: String) -> String {
    if shown.is_empty() { code.canonical_reason().unwrap_or_default().to_owned() } else { shown }
}

fn read(path: &Path) -> Result<Vec<u8>, RemoteError> {
    std::fs::read(path).map_err(|source| RemoteError::File { path: path.to_owned(), source })
}

fn client(trust: &RemoteTrust<'_>, leaf: Option<&Leaf>) -> Result<reqwest::Client, RemoteError> {
    let tls = pki::serving::remote_client_config(trust, leaf).map_err(RemoteError::Tls)?;
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .user_agent("kube-apiserver")
        .build()
        .map_err(RemoteError::Client)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kubeconfig_names_the_service() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config");
        let load = |text: &str| {
            std::fs::write(&path, text).unwrap();
            Remote::load(&path)
        };
        let good = "clusters: [{name: a, cluster: {server: 'https://hook.example/x'}}]\ncontexts: [{name: c, context: \
                    {cluster: a, user: u}}]\ncurrent-context: c\nusers: [{name: u, user: {token: secret}}]\n";
        let remote = load(good).unwrap();
        assert_eq!(remote.url, "https://hook.example/x");
        assert!(matches!(remote.authorization, Some(Authorization::Fixed(_))));
        let why = |text: &str| load(text).err().unwrap().to_string();
        assert!(why("current-context: c").contains("there is no context \"c\""));
        assert!(why(&good.replace("https://hook.example/x", "hook")).contains("is no URL"));
        assert!(
            why(&good.replace("token: secret", "client-certificate-data: '*'")).contains("client-certificate-data")
        );
    }
}
