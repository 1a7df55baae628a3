//! The gRPC channel to containerd and its services, in one namespace.

use std::path::{Path, PathBuf};
use std::time::Duration;

use containerd_client::services::v1::containers_client::ContainersClient;
use containerd_client::services::v1::content_client::ContentClient;
use containerd_client::services::v1::diff_client::DiffClient;
use containerd_client::services::v1::events_client::EventsClient;
use containerd_client::services::v1::images_client::ImagesClient;
use containerd_client::services::v1::leases_client::LeasesClient;
use containerd_client::services::v1::snapshots::snapshots_client::SnapshotsClient;
use containerd_client::services::v1::tasks_client::TasksClient;
use containerd_client::services::v1::version_client::VersionClient;
use hyper_util::rt::TokioIo;
use tonic::metadata::AsciiMetadataValue;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use crate::contract::RuntimeError;

/// The namespace that Kubernetes' objects live in; stock tools look there too.
pub const NAMESPACE: &str = "k8s.io";
/// The one snapshotter used.
pub const SNAPSHOTTER: &str = "overlayfs";
/// Lists of containers carry their specifications.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// What every call goes through.
pub type Service = InterceptedService<Channel, Scope>;

/// Adds the namespace, and a lease when objects being made must survive garbage collection.
#[derive(Debug, Clone, Default)]
pub struct Scope {
    lease: Option<AsciiMetadataValue>,
}

impl Interceptor for Scope {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("containerd-namespace", AsciiMetadataValue::from_static(NAMESPACE));
        if let Some(lease) = &self.lease {
            request.metadata_mut().insert("containerd-lease", lease.clone());
        }
        Ok(request)
    }
}

/// Connects on use and again after containerd was away.
#[derive(Debug, Clone)]
pub struct Connection {
    channel: Channel,
    socket: PathBuf,
    scope: Scope,
}

impl Connection {
    /// A connection to the socket. Nothing is dialled before the first call.
    pub fn new(socket: &Path) -> Self {
        let path = socket.to_owned();
        let connector = tower::service_fn(move |_| {
            let path = path.clone();
            async move { Ok::<_, std::io::Error>(TokioIo::new(tokio::net::UnixStream::connect(path).await?)) }
        });
        // The URI is not used: the connector above always dials the socket.
        let endpoint = Endpoint::from_static("http://containerd").connect_timeout(Duration::from_secs(10));
        let channel = endpoint.connect_with_connector_lazy(connector);
        Self { channel, socket: socket.into(), scope: Scope::default() }
    }

    /// The same connection with objects made under a lease.
    pub fn with_lease(&self, lease: &str) -> Result<Self, RuntimeError> {
        let lease = lease.parse().map_err(|error: tonic::metadata::errors::InvalidMetadataValue| {
            RuntimeError::Failed { step: "use lease", id: lease.into(), source: error.into() }
        })?;
        Ok(Self { scope: Scope { lease: Some(lease) }, ..self.clone() })
    }

    pub fn containers(&self) -> ContainersClient<Service> {
        ContainersClient::with_interceptor(self.channel.clone(), self.scope.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    pub fn tasks(&self) -> TasksClient<Service> {
        TasksClient::with_interceptor(self.channel.clone(), self.scope.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    pub fn content(&self) -> ContentClient<Service> {
        ContentClient::with_interceptor(self.channel.clone(), self.scope.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    pub fn images(&self) -> ImagesClient<Service> {
        ImagesClient::with_interceptor(self.channel.clone(), self.scope.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    pub fn snapshots(&self) -> SnapshotsClient<Service> {
        SnapshotsClient::with_interceptor(self.channel.clone(), self.scope.clone())
    }

    pub fn diff(&self) -> DiffClient<Service> {
        DiffClient::with_interceptor(self.channel.clone(), self.scope.clone())
    }

    pub fn leases(&self) -> LeasesClient<Service> {
        LeasesClient::with_interceptor(self.channel.clone(), self.scope.clone())
    }

    pub fn events(&self) -> EventsClient<Service> {
        EventsClient::with_interceptor(self.channel.clone(), self.scope.clone())
    }

    pub fn version(&self) -> VersionClient<Service> {
        VersionClient::with_interceptor(self.channel.clone(), self.scope.clone())
    }

    /// The error of a call that was a `step` for `id`.
    pub fn failed(&self, step: &'static str, id: &str, status: Status) -> RuntimeError {
        match status.code() {
            // tonic says Unavailable for a socket that nobody listens on.
            Code::Unavailable => RuntimeError::Unreachable(self.socket.clone(), CallError::from(status).into()),
            _ => RuntimeError::Failed { step, id: id.into(), source: CallError::from(status).into() },
        }
    }
}

/// A call's failure with containerd's own text.
#[derive(Debug, thiserror::Error)]
#[error("{}", native_text(.code, .message))]
pub struct CallError {
    pub code: Code,
    pub message: String,
}

impl From<Status> for CallError {
    fn from(status: Status) -> Self {
        Self { code: status.code(), message: status.message().to_owned() }
    }
}

/// The text as a Go client prints it, kind of error last (containerd's `errdefs/pkg/errgrpc`, `ToNative`).
pub fn native_text(code: &Code, message: &str) -> String {
    let kind = match code {
        Code::InvalidArgument => "invalid argument",
        Code::NotFound => "not found",
        Code::AlreadyExists => "already exists",
        Code::FailedPrecondition => "failed precondition",
        Code::Unavailable => "unavailable",
        Code::Unimplemented => "not implemented",
        Code::DeadlineExceeded => "context deadline exceeded",
        Code::Cancelled => "context canceled",
        _ => "unknown",
    };
    if message.ends_with(kind) { message.to_owned() } else { format!("{message}: {kind}") }
}

/// True for calls about something that is not there.
pub fn is_not_found(status: &Status) -> bool {
    status.code() == Code::NotFound
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_end_with_the_kind_once() {
        assert_eq!(native_text(&Code::Unknown, "exec failed"), "exec failed: unknown");
        assert_eq!(native_text(&Code::NotFound, "task x not found"), "task x not found");
    }
}
