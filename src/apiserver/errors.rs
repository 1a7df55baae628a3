//! Where failures of other rooms become `Status`es, each once.

use api::Status;
use api::status::{Cause, Details};
use base::chain;
use storage::StoreError;

/// The server is on its way down.
pub fn stopping() -> Status {
    Status::service_unavailable("the server is stopping")
}

/// A failed store as the API tells it. Conflicts never come here: they are answers, not errors.
pub fn store(error: StoreError) -> Status {
    match error {
        StoreError::Compacted { .. } => Status::expired("The resourceVersion for the provided list is too old."),
        StoreError::FutureRevision => Status::timeout("Too large resource version", 1),
        StoreError::TooLarge => Status::too_large("etcdserver: request is too large"),
        StoreError::DiskFull => Status::new(507, "InternalError", error.to_string()),
        StoreError::Timeout => Status::timeout("the store did not answer in time", 1),
        StoreError::Stopped => stopping(),
        StoreError::LeaseNotFound
        | StoreError::LeaseExists
        | StoreError::EmptyKey
        | StoreError::KeyNotFound
        | StoreError::DuplicateKey
        | StoreError::ValueProvided
        | StoreError::LeaseProvided
        | StoreError::TooManyOps
        | StoreError::Engine { .. } => {
            tracing::error!(error = %chain(&error), "store failed");
            Status::internal(error)
        }
    }
}

/// `storage.NewTooLargeResourceVersionError`.
pub fn too_large_resource_version(wanted: i64, current: i64) -> Status {
    let message = format!("Too large resource version: {wanted}, current: {current}");
    let cause = Cause {
        reason: "ResourceVersionTooLarge".to_owned(),
        message: "Too large resource version".to_owned(),
        field: String::new(),
    };
    let mut status = Status::timeout(message, 1);
    status.details = Some(Box::new(Details { retry_after_seconds: 1, causes: vec![cause], ..Details::default() }));
    status
}

/// The answer to a watch from a revision that is no longer kept.
pub fn too_old_resource_version(wanted: i64, oldest: i64) -> Status {
    Status::expired(format!("too old resource version: {wanted} ({oldest})"))
}
