//! Keys that a plugin holds: Kubernetes' KMS v2 (apiserver `server/options/encryptionconfig/config.go`,
//! `storage/value/encrypt/envelope/kmsv2`).
//!
//! The plugin encrypts one seed, from which the keys of all values are made here; so writes need no call. It is asked
//! for its state every minute: when it names another key, a new seed is made. While it does not answer, writes go on
//! for three minutes with what it encrypted last, and reads of values whose seed is known for ever.
//!
//! Decrypted seeds are kept for a day after their last use.

use std::collections::HashMap;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use base::Shutdown;
use bytes::Bytes;
use http::Uri;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use prost::Message;
use sha2::{Digest, Sha256};
use tokio::net::UnixStream;
use tokio::time::Instant;
use tokio_util::sync::DropGuard;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tower::service_fn;

use super::envelope::{self, EnvelopeError, Source, SourceId};
use super::kms_plugin::key_management_service_client::KeyManagementServiceClient;
use super::kms_plugin::{
    DecryptRequest, EncryptRequest, EncryptedDekSourceType, EncryptedObject, StatusRequest, StatusResponse,
};
use super::provider::ValueError;

/// How often a plugin that works is asked for its state (`kmsv2PluginHealthzPositiveInterval`).
const ASK_EVERY: Duration = Duration::from_secs(60);
/// And one that does not (`kmsv2PluginHealthzNegativeInterval`).
const ASK_AGAIN: Duration = Duration::from_secs(10);
/// For how long writes go on after the last good answer (`kmsv2PluginWriteDEKSourceMaxTTL`).
const WRITES_FOR: Duration = Duration::from_secs(3 * 60);
/// For how long an answer is taken for the state now (`kmsPluginHealthzPositiveTTL`, `kmsPluginHealthzNegativeTTL`).
const GOOD_FOR: Duration = Duration::from_secs(20);
const BAD_FOR: Duration = Duration::from_secs(3);
/// How long a decrypted seed that nobody uses is kept (`cacheTTL`).
const KEPT_FOR: Duration = Duration::from_secs(24 * 3600);
/// Between tries to reach a plugin that does not listen yet.
const CONNECT_AGAIN: Duration = Duration::from_millis(100);

/// What is wrong with where a plugin is said to listen (`util.ParseEndpoint`).
#[derive(Debug, thiserror::Error)]
pub enum KmsEndpointError {
    #[error("endpoint is a mandatory field for a kms")]
    Empty,
    #[error("invalid endpoint for kms provider, error: {0:?} is no URL")]
    Invalid(String),
    #[error("unsupported scheme {0:?} for KMS provider, only unix is supported")]
    Scheme(String),
}

/// A plugin in use; it is asked for its state until the value is dropped.
pub struct Kms {
    plugin: Arc<Plugin>,
    _asking: DropGuard,
}

struct Plugin {
    name: String,
    client: KeyManagementServiceClient<Channel>,
    timeout: Duration,
    /// What new values are encrypted with; none before the plugin has answered for the first time.
    writing: ArcSwapOption<Writing>,
    last: tokio::sync::Mutex<Last>,
    sources: Mutex<HashMap<SourceId, Known>>,
}

#[derive(Clone)]
struct Writing {
    source: Source,
    /// All of an object but its data.
    object: EncryptedObject,
    expires: Instant,
}

struct Known {
    source: Source,
    used: Instant,
}

/// The last look at the plugin.
#[derive(Default)]
struct Last {
    answer: Option<(Instant, Result<(), String>)>,
    /// Of the first answer; it must not change.
    version: String,
}

impl Kms {
    /// Connects to the plugin at `endpoint` (`unix:///path`, or `unix:///@name` for an abstract socket), asks it once,
    /// and goes on asking. A plugin that does not answer yet is no error. `timeout` is for each call.
    pub async fn start(
        name: &str,
        endpoint: &str,
        timeout: Duration,
        shutdown: &Shutdown,
    ) -> Result<Arc<Self>, KmsEndpointError> {
        let plugin = Arc::new(Plugin {
            name: name.to_owned(),
            client: KeyManagementServiceClient::new(connect(place(endpoint)?)),
            timeout,
            writing: ArcSwapOption::empty(),
            last: tokio::sync::Mutex::default(),
            sources: Mutex::default(),
        });
        let first = plugin.check().await;
        if let Err(error) = &first {
            tracing::warn!(name, error, "a KMS plugin is not healthy");
        }
        let stop = shutdown.child_token();
        tokio::spawn(plugin.clone().keep_asking(first.is_ok(), stop.clone()));
        Ok(Arc::new(Self { plugin, _asking: stop.drop_guard() }))
    }

    pub fn name(&self) -> &str {
        &self.plugin.name
    }

    /// Whether the plugin works, as of seconds ago; if not, why.
    pub async fn check(&self) -> Result<(), String> {
        self.plugin.check().await
    }

    pub(super) fn encrypt(&self, place: &[u8], value: &[u8]) -> Result<Bytes, ValueError> {
        self.plugin.encrypt(place, value)
    }

    /// The value, and whether it would be written differently now. Needs [`Self::load`] before.
    pub(super) fn decrypt(&self, place: &[u8], stored: Bytes) -> Result<(Bytes, bool), ValueError> {
        self.plugin.decrypt(place, stored)
    }

    /// Has the plugin decrypt the seed of a stored value, unless it is known.
    pub(super) async fn load(&self, stored: Bytes) -> Result<(), ValueError> {
        self.plugin.load(stored).await
    }

    /// Whether [`Self::load`] would ask the plugin.
    pub(super) fn needs_load(&self, stored: Bytes) -> bool {
        envelope::parse(stored).is_ok_and(|object| self.plugin.known(&SourceId::of(&object)).is_none())
    }
}

impl Plugin {
    async fn keep_asking(self: Arc<Self>, mut good: bool, stop: Shutdown) {
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = tokio::time::sleep(if good { ASK_EVERY } else { ASK_AGAIN }) => {}
            }
            let checked = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                checked = self.check() => checked,
            };
            match &checked {
                Ok(()) if !good => tracing::info!(name = self.name, "the KMS plugin is healthy"),
                Err(error) if good => tracing::warn!(name = self.name, error, "a KMS plugin is not healthy"),
                _ => {}
            }
            good = checked.is_ok();
        }
    }

    /// Upstream's `kmsv2PluginProbe.check`: one look at a time, whose answer is good for a while.
    async fn check(&self) -> Result<(), String> {
        let mut last = self.last.lock().await;
        if let Some((at, answer)) = &last.answer {
            let good_for = if answer.is_ok() { GOOD_FOR } else { BAD_FOR };
            if at.elapsed() < good_for {
                return answer.clone();
            }
        }
        let answer = self.look(&mut last.version).await;
        last.answer = Some((Instant::now(), answer.clone()));
        answer
    }

    async fn look(&self, version: &mut String) -> Result<(), String> {
        let name = &self.name;
        let status = self.call(|mut client| async move { client.status(Request::new(StatusRequest {})).await }).await;
        let StatusResponse { version: told, healthz, key_id } = status.map_err(|status| {
            let why = described(&status);
            format!("failed to perform status section of the healthz check for KMS Provider {name}, error: {why}")
        })?;
        let mut errors = Vec::new();
        if healthz != "ok" {
            errors.push(format!("got unexpected healthz status: {healthz}"));
        }
        if !matches!(told.as_str(), "v2" | "v2beta1") {
            errors.push(format!("expected KMSv2 API version v2, got {told}"));
        } else if version.is_empty() {
            version.clone_from(&told);
        } else if *version != told {
            errors.push(format!(
                "KMSv2 API version should not change after the initial status response version {version}, got {told}"
            ));
        }
        match envelope::check_key_id(&key_id) {
            Err(error) => errors.push(format!("got invalid KMSv2 KeyID hash {:?}: {error}", hash(&key_id))),
            Ok(()) => {
                if let Err(error) = self.renew(&key_id).await {
                    errors.push(error);
                }
            }
        }
        match errors.len() {
            0 => Ok(()),
            1 => Err(format!("kmsv2 Provider {name} is not healthy, error: {}", errors[0])),
            _ => Err(format!("kmsv2 Provider {name} is not healthy, error: [{}]", errors.join(", "))),
        }
    }

    /// Upstream's `rotateDEKOnKeyIDChange`: a new seed if the plugin's key is another one, else more time for the old.
    async fn renew(&self, key_id: &str) -> Result<(), String> {
        // From before the call: the time is a limit.
        let expires = Instant::now() + WRITES_FOR;
        let writing = self.writing.load_full();
        if let Some(writing) = writing.as_deref().filter(|writing| writing.object.key_id == key_id) {
            self.writing.store(Some(Arc::new(Writing { expires, ..writing.clone() })));
            return Ok(());
        }
        let uid = uid();
        let old = writing.map(|writing| writing.object.key_id.clone()).unwrap_or_default();
        let failed = |why: String, answered: &str| {
            format!(
                "failed to rotate DEK uid={uid:?}, {why}, statusKeyIDHash={:?}, encryptKeyIDHash={:?}, stateKeyIDHash={:?}",
                hash(key_id),
                hash(answered),
                hash(&old)
            )
        };
        let (source, plaintext) = Source::generate();
        let request = EncryptRequest { plaintext, uid: uid.clone() };
        let encrypted = self
            .call(|mut client| {
                let request = request.clone();
                async move { client.encrypt(Request::new(request)).await }
            })
            .await;
        let encrypted = encrypted
            .map_err(|status| failed(format!("errGen=failed to encrypt DEK, error: {}", described(&status)), ""))?;
        let object = EncryptedObject {
            // Anything, to be checked.
            encrypted_data: Bytes::from_static(&[0]),
            key_id: encrypted.key_id,
            encrypted_dek_source: encrypted.ciphertext,
            annotations: encrypted.annotations,
            encrypted_dek_source_type: EncryptedDekSourceType::HkdfSha256XnonceAesGcmSeed as i32,
        };
        envelope::check(&object).map_err(|error| failed(format!("errGen={error}"), &object.key_id))?;
        if object.key_id != key_id {
            return Err(failed("errGen=<nil>".to_owned(), &object.key_id));
        }
        self.remember(SourceId::of(&object), source.clone());
        let object = EncryptedObject { encrypted_data: Bytes::new(), ..object };
        self.writing.store(Some(Arc::new(Writing { source, object, expires })));
        tracing::info!(name = self.name, key = hash(key_id), "values are encrypted with a new seed");
        Ok(())
    }

    fn encrypt(&self, place: &[u8], value: &[u8]) -> Result<Bytes, ValueError> {
        let Some(writing) = self.writing.load_full() else {
            return Err(ValueError::KmsNotReady { name: self.name.clone() });
        };
        if Instant::now() > writing.expires {
            return Err(ValueError::KmsExpired { name: self.name.clone(), key: hash(&writing.object.key_id) });
        }
        let sealed = writing.source.seal(place, value).ok_or(ValueError::TooLarge)?;
        let object = EncryptedObject { encrypted_data: sealed.into(), ..writing.object.clone() };
        let mut out = prefix(&self.name).into_bytes();
        out.extend_from_slice(&object.encode_to_vec());
        Ok(out.into())
    }

    fn decrypt(&self, place: &[u8], stored: Bytes) -> Result<(Bytes, bool), ValueError> {
        let object = envelope::parse(stored).map_err(|error| self.malformed(error))?;
        let Some(source) = self.known(&SourceId::of(&object)) else {
            return Err(ValueError::KmsNotReady { name: self.name.clone() });
        };
        let value = source.open(place, &object.encrypted_data);
        let value = value.ok_or_else(|| ValueError::Damaged { name: self.name.clone() })?;
        let stale = self.writing.load().as_deref().is_some_and(|writing| {
            writing.object.key_id != object.key_id
                || writing.object.encrypted_dek_source_type != object.encrypted_dek_source_type
        });
        Ok((value.into(), stale))
    }

    async fn load(&self, stored: Bytes) -> Result<(), ValueError> {
        let object = envelope::parse(stored).map_err(|error| self.malformed(error))?;
        let id = SourceId::of(&object);
        if self.known(&id).is_some() {
            return Ok(());
        }
        let request = DecryptRequest {
            ciphertext: object.encrypted_dek_source.clone(),
            uid: uid(),
            key_id: object.key_id.clone(),
            annotations: object.annotations.clone(),
        };
        let decrypted = self
            .call(|mut client| {
                let request = request.clone();
                async move { client.decrypt(Request::new(request)).await }
            })
            .await;
        let decrypted =
            decrypted.map_err(|status| ValueError::KmsDecrypt { name: self.name.clone(), why: described(&status) })?;
        let source = Source::new(&object, &decrypted.plaintext).map_err(|error| self.malformed(error))?;
        self.remember(id, source);
        Ok(())
    }

    fn malformed(&self, error: EnvelopeError) -> ValueError {
        ValueError::Envelope { name: self.name.clone(), error }
    }

    fn known(&self, id: &SourceId) -> Option<Source> {
        let mut sources = self.sources.lock();
        let known = sources.get_mut(id)?;
        known.used = Instant::now();
        Some(known.source.clone())
    }

    fn remember(&self, id: SourceId, source: Source) {
        let mut sources = self.sources.lock();
        sources.retain(|_, known| known.used.elapsed() < KEPT_FOR);
        sources.insert(id, Known { source, used: Instant::now() });
    }

    /// Calls the plugin; one that does not listen yet is waited for within the time of the call, as upstream's
    /// `WaitForReady` does.
    async fn call<T, Fut>(&self, call: impl Fn(KeyManagementServiceClient<Channel>) -> Fut) -> Result<T, Status>
    where
        Fut: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        let deadline = Instant::now() + self.timeout;
        let mut unreachable = None;
        loop {
            match tokio::time::timeout_at(deadline, call(self.client.clone())).await {
                Ok(Ok(answer)) => return Ok(answer.into_inner()),
                Ok(Err(status)) if status.code() == Code::Unavailable => unreachable = Some(status),
                Ok(Err(status)) => return Err(status),
                Err(_) => {
                    return Err(unreachable.unwrap_or_else(|| Status::deadline_exceeded("context deadline exceeded")));
                }
            }
            tokio::time::sleep_until(deadline.min(Instant::now() + CONNECT_AGAIN)).await;
        }
    }
}

/// What values begin with that this plugin helped to encrypt.
pub(super) fn prefix(name: &str) -> String {
    format!("k8s:enc:kms:v2:{name}:")
}

/// A key's name for messages (`GetHashIfNotEmpty`).
fn hash(key_id: &str) -> String {
    if key_id.is_empty() {
        return String::new();
    }
    let digest = Sha256::digest(key_id.as_bytes());
    format!("sha256:{}", digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

/// A random name for a call, for the plugin's log.
fn uid() -> String {
    let [a, b, c, d] = rand::random::<[u32; 4]>();
    format!("{a:08x}-{:04x}-4{:03x}-{:04x}-{:04x}{d:08x}", b >> 16, b & 0xfff, 0x8000 | (c >> 16 & 0x3fff), c & 0xffff)
}

/// A failed call as gRPC's Go library prints it.
fn described(status: &Status) -> String {
    let code = match status.code() {
        Code::Ok => "OK",
        Code::Cancelled => "Canceled",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
        Code::Unknown => "Unknown",
    };
    let mut text = status.message().to_owned();
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        text = error.to_string();
        cause = error.source();
    }
    format!("rpc error: code = {code} desc = {text}")
}

/// Where a plugin listens.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Path(PathBuf),
    /// Linux' sockets without a file.
    Abstract(String),
}

fn place(endpoint: &str) -> Result<Place, KmsEndpointError> {
    if endpoint.is_empty() {
        return Err(KmsEndpointError::Empty);
    }
    let (scheme, rest) = endpoint.split_once(':').unwrap_or(("", endpoint));
    if scheme != "unix" {
        return Err(KmsEndpointError::Scheme(scheme.to_owned()));
    }
    // As Go parses URLs: between two slashes and the third one is a host, which nobody looks at.
    let path = match rest.strip_prefix("//") {
        Some(rest) => rest.find('/').map_or("", |at| &rest[at..]),
        None => rest,
    };
    match path.strip_prefix("/@") {
        Some(name) => Ok(Place::Abstract(name.to_owned())),
        None if path.is_empty() => Err(KmsEndpointError::Invalid(endpoint.to_owned())),
        None => Ok(Place::Path(path.into())),
    }
}

fn connect(place: Place) -> Channel {
    Endpoint::from_static("http://localhost").connect_with_connector_lazy(service_fn(move |_: Uri| {
        let place = place.clone();
        async move {
            let stream = match place {
                Place::Path(path) => UnixStream::connect(path).await?,
                Place::Abstract(name) => {
                    let stream = std::os::unix::net::UnixStream::connect_addr(&SocketAddr::from_abstract_name(name)?)?;
                    stream.set_nonblocking(true)?;
                    UnixStream::from_std(stream)?
                }
            };
            Ok::<_, std::io::Error>(TokioIo::new(stream))
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_unix_sockets() {
        let check = |endpoint: &str, wanted: Result<Place, &str>| match (place(endpoint), wanted) {
            (Ok(found), Ok(wanted)) => assert_eq!(found, wanted, "{endpoint}"),
            (Err(error), Err(wanted)) => assert!(error.to_string().contains(wanted), "{endpoint}: {error}"),
            (found, wanted) => panic!("{endpoint}: {found:?} and not {wanted:?}"),
        };
        check("unix:///run/kms.sock", Ok(Place::Path("/run/kms.sock".into())));
        check("unix:///@kms.sock", Ok(Place::Abstract("kms.sock".to_owned())));
        check("", Err("mandatory"));
        check("tcp://127.0.0.1:1", Err(r#"unsupported scheme "tcp""#));
        check("/run/kms.sock", Err(r#"unsupported scheme """#));
        check("unix://", Err("is no URL"));
    }

    #[test]
    fn calls_have_names_of_their_own() {
        let name = uid();
        assert_eq!(name.split('-').map(str::len).collect::<Vec<_>>(), [8, 4, 4, 4, 12], "{name}");
        assert_ne!(name, uid());
    }
}
