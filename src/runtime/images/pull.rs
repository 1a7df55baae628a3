//! Pulling from registries: mirrors, credentials, resuming, and containerd's words for what went wrong.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, TryStreamExt};
use oci_client::client::{BlobResponse, Certificate, CertificateEncoding, ClientConfig, ClientProtocol};
use oci_client::errors::OciDistributionError;
use oci_client::secrets::RegistryAuth as ClientAuth;
use oci_client::{Client, RegistryOperation};

use super::config::ConfigFile;
use super::content::{self, ContentError};
use super::manifest::{self, Descriptor, Document, Manifest, ManifestError};
use super::store::{ImageStore, sha256};
use crate::containerd::connection::Connection;
use crate::contract::{Image, RegistryAuth, RuntimeError};
use crate::reference::Reference;

/// Blobs of one image fetched at once, as containerd's default.
const CONCURRENT_BLOBS: usize = 3;
/// Attempts at one blob; each goes on where the one before broke off.
const BLOB_ATTEMPTS: usize = 4;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// A registry that sends nothing for this long is given up (containerd's `image_pull_progress_timeout`).
const READ_TIMEOUT: Duration = Duration::from_secs(300);

/// Where images come from, beside the hosts in their names.
#[derive(Debug, Clone, Default)]
pub struct RegistryConfig {
    /// Endpoints (`http://127.0.0.1:5000`, `https://mirror.example`) tried in order before the host itself. The host `*`
    /// stands for every host without an entry.
    pub mirrors: HashMap<String, Vec<String>>,
    /// By host of an endpoint or an image; used when the caller of a pull brings none.
    pub auth: HashMap<String, RegistryAuth>,
    /// By host of an endpoint or an image.
    pub tls: HashMap<String, RegistryTls>,
}

/// How one host's certificate is checked.
#[derive(Debug, Clone, Default)]
pub struct RegistryTls {
    /// PEM of an authority trusted beside the built-in ones.
    pub ca_pem: Option<Vec<u8>>,
    pub insecure_skip_verify: bool,
}

/// One place to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Endpoint {
    host: String,
    plain_http: bool,
}

impl RegistryConfig {
    fn endpoints(&self, host: &str) -> Vec<Endpoint> {
        let mirrors = self.mirrors.get(host).or_else(|| self.mirrors.get("*"));
        let mirrors = mirrors.into_iter().flatten().map(|url| endpoint(url));
        let mut endpoints: Vec<Endpoint> = mirrors.collect();
        let own = endpoint(host);
        if !endpoints.iter().any(|endpoint| endpoint.host == own.host) {
            endpoints.push(own);
        }
        endpoints
    }
}

/// A URL or a bare host; a bare one is plain HTTP when it is this machine (containerd's `MatchLocalhost`).
fn endpoint(url: &str) -> Endpoint {
    let (scheme, rest) = url.split_once("://").map_or((None, url), |(scheme, rest)| (Some(scheme), rest));
    let host = rest.split('/').next().unwrap_or(rest).to_owned();
    let plain_http = scheme.map_or_else(|| is_loopback(&host), |scheme| scheme == "http");
    Endpoint { host, plain_http }
}

fn is_loopback(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name.trim_start_matches('[').trim_end_matches(']');
    name == "localhost" || address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Why one endpoint did not give the image.
#[derive(Debug, thiserror::Error)]
enum PullError {
    #[error("{0}: not found")]
    NotFound(String),
    #[error(
        "pull access denied, repository does not exist or may require authorization: server message: insufficient_scope: authorization failed"
    )]
    Denied,
    #[error("failed to do request")]
    Registry(#[source] Box<OciDistributionError>),
    #[error("unexpected digest {found}, expected {expected}")]
    Digest { expected: String, found: String },
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    #[error("cannot read the image's configuration")]
    Config(#[from] serde_json::Error),
    #[error(transparent)]
    Content(#[from] ContentError),
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
}

/// A registry that answered, with the rights we have there.
struct Source {
    client: Arc<Client>,
    host: String,
    path: String,
    auth: ClientAuth,
}

impl ImageStore {
    /// Pulls an image, with each of `auth` in turn while access is denied.
    pub async fn pull(
        &self,
        reference: &str,
        auth: &[RegistryAuth],
        registries: &RegistryConfig,
    ) -> Result<Image, RuntimeError> {
        let wanted = Reference::parse(reference)?;
        let full = wanted.to_string();
        let _alone = self.lock(&full).await;
        let (wanted, full) = (&wanted, &full);
        let result = self.under_lease(|connection| async move {
            let mut last = None;
            for endpoint in registries.endpoints(&wanted.host) {
                for auth in credentials(auth, registries, &endpoint, &wanted.host) {
                    match self.pull_from(&connection, wanted, &endpoint, auth, registries).await {
                        Ok(id) => return Ok(id),
                        // Failures of our own machine are the same everywhere.
                        Err(error @ (PullError::Runtime(_) | PullError::Content(ContentError::Call { .. }))) => {
                            return Err(pull_failed(full, error));
                        }
                        Err(error) => {
                            tracing::debug!(image = full, endpoint = endpoint.host, error = %base::chain(&error), "an endpoint did not give an image");
                            last = Some(error);
                        }
                    }
                }
            }
            Err(pull_failed(full, last.unwrap_or_else(|| PullError::NotFound(full.clone()))))
        });
        let id = result.await?;
        let image = self.image(&id).await?;
        image.ok_or_else(|| pull_failed(full, PullError::NotFound(full.clone())))
    }

    async fn pull_from(
        &self,
        connection: &Connection,
        wanted: &Reference,
        endpoint: &Endpoint,
        auth: ClientAuth,
        registries: &RegistryConfig,
    ) -> Result<String, PullError> {
        let source = Source {
            client: client(endpoint, registries)?,
            host: endpoint.host.clone(),
            path: wanted.path.clone(),
            auth,
        };
        let (bytes, digest) = source.manifest(wanted, wanted.version()).await?;
        if let Some(expected) = &wanted.digest
            && *expected != digest
        {
            return Err(PullError::Digest { expected: expected.clone(), found: digest });
        }
        let (top, index) = match manifest::parse(&bytes)? {
            Document::Manifest(manifest) => (described(&manifest.media_type, manifest::OCI_MANIFEST, &bytes), None),
            Document::Index(index) => {
                (described(&media_type(&bytes), manifest::OCI_INDEX, &bytes), Some((index, bytes.clone())))
            }
        };
        let (manifest_bytes, manifest_descriptor) = match &index {
            None => (bytes, top.clone()),
            Some((index, _)) => {
                let chosen = manifest::select(index)?;
                let (bytes, found) = source.manifest(wanted, &chosen.digest).await?;
                if found != chosen.digest {
                    return Err(PullError::Digest { expected: chosen.digest.clone(), found });
                }
                let descriptor = described(&chosen.media_type, manifest::OCI_MANIFEST, &bytes);
                (bytes, descriptor)
            }
        };
        let Document::Manifest(manifest) = manifest::parse(&manifest_bytes)? else {
            return Err(ManifestError::NoPlatform.into());
        };
        self.fetch_blobs(connection, &source, &manifest).await?;
        let references = Self::manifest_references(&manifest);
        content::write_bytes(connection, &manifest_descriptor, manifest_bytes, references).await?;
        if let Some((_, bytes)) = index {
            let references = Self::references(&[("m.0".to_owned(), &manifest_descriptor)]);
            content::write_bytes(connection, &top, bytes, references).await?;
        }
        let config = content::read(connection, &manifest.config.digest).await?.unwrap_or_default();
        let config: ConfigFile = serde_json::from_slice(&config)?;
        let name = wanted.to_string();
        self.unpack_with(connection, &name, &manifest, &config).await?;
        let id = manifest.config.digest.clone();
        for name in wanted.tagged().into_iter().chain([wanted.with_digest(&top.digest), id.clone()]) {
            self.name(connection, &name, &top, false).await?;
        }
        Ok(id)
    }

    async fn fetch_blobs(
        &self,
        connection: &Connection,
        source: &Source,
        manifest: &Manifest,
    ) -> Result<(), PullError> {
        let blobs = manifest.layers.iter().chain([&manifest.config]);
        // Boxed, because the compiler cannot tell that the unboxed ones may be sent between threads.
        let fetches: Vec<_> = blobs.map(|blob| self.fetch_blob(connection, source, blob).boxed()).collect();
        futures::stream::iter(fetches).buffer_unordered(CONCURRENT_BLOBS).try_collect::<Vec<()>>().await?;
        Ok(())
    }

    async fn fetch_blob(&self, connection: &Connection, source: &Source, blob: &Descriptor) -> Result<(), PullError> {
        let _alone = self.lock(&blob.digest).await;
        let mut attempt = 1;
        loop {
            match content::write(connection, blob, HashMap::new(), |offset| source.blob(blob, offset)).await {
                Err(ContentError::Source { digest, source }) if attempt < BLOB_ATTEMPTS => {
                    tracing::debug!(digest, attempt, %source, "a blob's transfer broke off");
                    attempt += 1;
                }
                other => return Ok(other?),
            }
        }
    }
}

impl Source {
    fn named(&self, version: &str) -> oci_client::Reference {
        let (host, path, version) = (self.host.clone(), self.path.clone(), version.to_owned());
        match version.contains(':') {
            true => oci_client::Reference::with_digest(host, path, version),
            false => oci_client::Reference::with_tag(host, path, version),
        }
    }

    async fn manifest(&self, wanted: &Reference, version: &str) -> Result<(Vec<u8>, String), PullError> {
        let named = self.named(version);
        let accepted = [manifest::OCI_INDEX, manifest::DOCKER_INDEX, manifest::OCI_MANIFEST, manifest::DOCKER_MANIFEST];
        let denied_or = |error| registry_error(error, wanted);
        self.client.auth(&named, &self.auth, RegistryOperation::Pull).await.map_err(denied_or)?;
        let (bytes, _) = self.client.pull_manifest_raw(&named, &self.auth, &accepted).await.map_err(denied_or)?;
        let digest = sha256(&bytes);
        Ok((bytes.to_vec(), digest))
    }

    async fn blob(
        &self,
        blob: &Descriptor,
        offset: u64,
    ) -> Result<BoxStream<'static, std::io::Result<Bytes>>, ContentError> {
        let failed =
            |error: OciDistributionError| ContentError::Source { digest: blob.digest.clone(), source: error.into() };
        let named = self.named(&blob.digest);
        let descriptor = oci_client::manifest::OciDescriptor {
            media_type: blob.media_type.clone(),
            digest: blob.digest.clone(),
            size: blob.size,
            ..Default::default()
        };
        if offset == 0 {
            let stream = self.client.pull_blob_stream(&named, &descriptor).await.map_err(failed)?;
            return Ok(stream.stream);
        }
        match self.client.pull_blob_stream_partial(&named, &descriptor, offset, None).await.map_err(failed)? {
            BlobResponse::Partial(stream) => Ok(stream.stream),
            BlobResponse::Full(stream) => Ok(skip(stream.stream, offset)),
        }
    }
}

/// Leaves out what an earlier attempt wrote, from a registry that cannot begin in the middle.
fn skip(stream: BoxStream<'static, std::io::Result<Bytes>>, offset: u64) -> BoxStream<'static, std::io::Result<Bytes>> {
    let mut left = offset;
    stream
        .map_ok(move |mut chunk| {
            let skipped = chunk.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            left -= skipped as u64;
            chunk.split_off(skipped)
        })
        .boxed()
}

fn registry_error(error: OciDistributionError, wanted: &Reference) -> PullError {
    use oci_client::errors::OciErrorCode as Code;
    match error {
        OciDistributionError::ImageManifestNotFoundError(_) => PullError::NotFound(wanted.to_string()),
        OciDistributionError::ServerError { code: 404, .. } => PullError::NotFound(wanted.to_string()),
        OciDistributionError::UnauthorizedError { .. } | OciDistributionError::AuthenticationFailure(_) => {
            PullError::Denied
        }
        OciDistributionError::ServerError { code: 401 | 403, .. } => PullError::Denied,
        OciDistributionError::RegistryError { ref envelope, .. }
            if envelope
                .errors
                .iter()
                .any(|e| matches!(e.code, Code::ManifestUnknown | Code::NameUnknown | Code::NotFound)) =>
        {
            PullError::NotFound(wanted.to_string())
        }
        OciDistributionError::RegistryError { ref envelope, .. }
            if envelope.errors.iter().any(|e| matches!(e.code, Code::Unauthorized | Code::Denied)) =>
        {
            PullError::Denied
        }
        other => PullError::Registry(Box::new(other)),
    }
}

/// containerd's text for it, which users and upstream's tests know.
fn pull_failed(full: &str, error: PullError) -> RuntimeError {
    let resolving = matches!(error, PullError::NotFound(_) | PullError::Denied | PullError::Registry(_));
    let cause = base::chain(&error).to_string();
    let why = match resolving {
        true => {
            format!("failed to pull and unpack image {full:?}: failed to resolve reference {full:?}: {cause}")
        }
        false => format!("failed to pull and unpack image {full:?}: {cause}"),
    };
    match error {
        PullError::Runtime(error @ RuntimeError::Unreachable(..)) => error,
        _ => RuntimeError::Pull { reference: full.into(), why, source: None },
    }
}

/// What to try at an endpoint, in order; the last is no credentials when nothing else is known.
fn credentials(
    given: &[RegistryAuth],
    registries: &RegistryConfig,
    endpoint: &Endpoint,
    host: &str,
) -> Vec<ClientAuth> {
    let configured = registries.auth.get(&endpoint.host).or_else(|| registries.auth.get(host));
    let mut all: Vec<ClientAuth> = given.iter().chain(configured).map(client_auth).collect();
    if all.is_empty() {
        all.push(ClientAuth::Anonymous);
    }
    all
}

fn client_auth(auth: &RegistryAuth) -> ClientAuth {
    match (auth.identity_token.is_empty(), auth.username.is_empty()) {
        (false, _) => ClientAuth::Bearer(auth.identity_token.clone()),
        (true, true) => ClientAuth::Anonymous,
        (true, false) => ClientAuth::Basic(auth.username.clone(), auth.password.clone()),
    }
}

fn client(endpoint: &Endpoint, registries: &RegistryConfig) -> Result<Arc<Client>, PullError> {
    // The HTTP client wants a process-wide provider; one that is installed already is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let tls = registries.tls.get(&endpoint.host).cloned().unwrap_or_default();
    let certificate = tls.ca_pem.map(|data| Certificate { encoding: CertificateEncoding::Pem, data });
    let config = ClientConfig {
        protocol: if endpoint.plain_http { ClientProtocol::Http } else { ClientProtocol::Https },
        accept_invalid_certificates: tls.insecure_skip_verify,
        extra_root_certificates: certificate.into_iter().collect(),
        connect_timeout: Some(CONNECT_TIMEOUT),
        read_timeout: Some(READ_TIMEOUT),
        user_agent: concat!("skiff/", env!("CARGO_PKG_VERSION")),
        ..Default::default()
    };
    Client::try_from(config).map(Arc::new).map_err(|error| PullError::Registry(Box::new(error)))
}

fn described(media_type: &str, default: &str, bytes: &[u8]) -> Descriptor {
    let media_type = if media_type.is_empty() { default } else { media_type };
    Descriptor { media_type: media_type.into(), digest: sha256(bytes), size: bytes.len() as i64, ..Default::default() }
}

fn media_type(bytes: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Typed {
        #[serde(default)]
        media_type: String,
    }
    serde_json::from_slice::<Typed>(bytes).map(|typed| typed.media_type).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_come_before_the_host_and_loopback_is_plain() {
        let mut registries = RegistryConfig::default();
        registries
            .mirrors
            .insert("docker.io".into(), vec!["http://127.0.0.1:5000".into(), "https://m.example/v2".into()]);
        registries.mirrors.insert("*".into(), vec!["https://all.example".into()]);
        let check = |host: &str, expected: &[(&str, bool)]| {
            let endpoints = registries.endpoints(host);
            let found: Vec<(&str, bool)> = endpoints.iter().map(|e| (e.host.as_str(), e.plain_http)).collect();
            assert_eq!(found, expected, "{host}");
        };
        check("docker.io", &[("127.0.0.1:5000", true), ("m.example", false), ("docker.io", false)]);
        check("localhost:5000", &[("all.example", false), ("localhost:5000", true)]);
        check("[::1]:80", &[("all.example", false), ("[::1]:80", true)]);
    }

    #[tokio::test]
    async fn what_was_written_before_is_skipped() {
        let chunks = ["abc", "def", "ghi"].map(|chunk| Ok(Bytes::from(chunk)));
        let rest: Vec<Bytes> = skip(futures::stream::iter(chunks).boxed(), 4).try_collect().await.unwrap();
        assert_eq!(rest.concat(), b"efghi");
    }

    #[test]
    fn failures_read_like_containerds() {
        let error = pull_failed("docker.io/library/x:1", PullError::NotFound("docker.io/library/x:1".into()));
        let RuntimeError::Pull { why, .. } = error else { panic!("not a pull error") };
        assert_eq!(
            why,
            "failed to pull and unpack image \"docker.io/library/x:1\": failed to resolve reference \"docker.io/library/x:1\": docker.io/library/x:1: not found"
        );
    }
}
