//! Why a reconcile failed.

/// A failed reconcile: its key comes back later.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A request to the API server failed.
    #[error(transparent)]
    Api(#[from] client::Error),
    /// Several requests failed; the first one's text.
    #[error("{failed} of {tried} requests failed: {first}")]
    Several { failed: usize, tried: usize, first: String },
    /// The object says something that cannot be acted on.
    #[error("{kind} {key}: {problem}")]
    Object { kind: &'static str, key: String, problem: String },
    /// Something in a namespace has yet to go; not a fault. The text is upstream's, which conditions show.
    #[error("unexpected items still remain in namespace: {namespace} for gvr: {group}/{version}, Resource={resource}")]
    Remaining { namespace: String, group: String, version: String, resource: String },
    /// What has to happen first has not happened yet; not a fault.
    #[error("waiting for {0}")]
    NotYet(&'static str),
    /// JSON that the API server sent, or that we were to send.
    #[error("cannot handle JSON")]
    Json(#[from] serde_json::Error),
}

impl Error {
    /// Whether this happens in normal operation and needs no attention.
    pub(crate) fn is_expected(&self) -> bool {
        match self {
            Self::Api(error) => error.is_conflict() || error.is_namespace_terminating() || error.is_not_found(),
            Self::NotYet(_) | Self::Remaining { .. } => true,
            Self::Several { .. } | Self::Object { .. } | Self::Json(_) => false,
        }
    }
}
