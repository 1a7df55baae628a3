//! Stored values that cannot be read: no key decrypts them, or they are no objects.
//!
//! Such a value must not look like a missing object. Reading it fails, and so does a list or a watch that would leave it
//! out; objects beside it are served (apiserver `storage/etcd3/corrupt_obj_deleter.go`,
//! `registry/generic/registry/corrupt_obj_deleter.go`). It goes by the right key, or by a deletion with
//! `ignoreStoreReadErrorWithClusterBreakingPotential`.

use std::collections::BTreeMap;
use std::ops::Bound;

use api::status::{Cause, Details};
use api::{GroupResource, Status};

/// Upstream's `ErrCodeCorruptObj` and `ErrCodeInvalidObj`.
const CORRUPT: u32 = 7;
const INVALID: u32 = 4;
/// Causes that one answer lists (`maxCorruptObjErrsToAggregate`).
const CAUSES_MAX: usize = 100;
/// What begins an encrypted value.
const ENCRYPTED: &[u8] = b"k8s:enc:";
/// Upstream's keys are told without the folder of all of them, where one object is asked for.
const ROOT: &str = "/registry";

/// One such value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    pub revision: i64,
    /// In upstream's words.
    pub why: String,
}

impl Unreadable {
    /// A value that could not be decrypted.
    pub fn untransformable(revision: i64, why: &str) -> Self {
        Self { revision, why: format!("data from the storage is not transformable revision=0: {why}") }
    }

    /// A value that is no object, or that was not decrypted for a watch, which does not say why.
    pub fn undecodable(revision: i64, value: &[u8]) -> Self {
        if value.starts_with(ENCRYPTED) {
            return Self::untransformable(revision, "no matching prefix found");
        }
        let why = "the value is no JSON object with metadata";
        Self { revision, why: format!("object not decodable revision={revision}: {why}") }
    }

    /// The answer to a write of the object.
    pub fn not_writable(&self) -> Status {
        Status::internal(&self.why)
    }

    /// The answer to whoever asks for the object at `key`.
    pub fn not_readable(&self, key: &str) -> Status {
        Status::internal(storage_error("corrupt object", CORRUPT, key.strip_prefix(ROOT).unwrap_or(key), &self.why))
    }
}

/// The answer to an unsafe deletion of what can be read.
pub fn is_readable(resource: &GroupResource, name: &str, key: &str) -> Status {
    let why = "unsafe deletion is not allowed because the object is decodable from storage";
    Status::conflict(resource, name, storage_error("invalid object", INVALID, key, why))
}

/// Upstream's `StorageError`.
fn storage_error(what: &str, code: u32, key: &str, why: &str) -> String {
    format!("StorageError: {what}, Code: {code}, Key: {key}, ResourceVersion: 0, AdditionalErrorMsg: {why}")
}

/// By key without the prefix of the resource.
pub type UnreadableKeys = BTreeMap<Box<str>, Unreadable>;

/// The answer to a list or a watch of the keys that begin with `part`, if some of them cannot be read
/// (`aggregatedStorageError.NewAPIStatusError`).
pub fn failed_list(keys: &UnreadableKeys, prefix: &str, part: &str, resource: &GroupResource) -> Option<Status> {
    let found = keys.range::<str, _>((Bound::Included(part), Bound::Unbounded));
    let found: Vec<_> = found.take_while(|(key, _)| key.starts_with(part)).take(CAUSES_MAX).collect();
    let mut causes: Vec<Cause> = found
        .iter()
        .map(|(key, unreadable)| {
            let field = format!("{prefix}{key}");
            let message = storage_error("corrupt object", CORRUPT, &field, &unreadable.why);
            Cause { reason: "UnexpectedServerResponse".to_owned(), message, field }
        })
        .collect();
    let mut message = format!("failed to read one or more {resource} from the storage: {}", causes.first()?.message);
    if causes.len() > 1 {
        message += &format!(" (and {} more)", causes.len() - 1);
    }
    if causes.len() == CAUSES_MAX {
        causes.push(Cause {
            reason: "FieldValueTooMany".to_owned(),
            message: "too many errors, the list is truncated".to_owned(),
            field: String::new(),
        });
    }
    let details = Details {
        group: resource.group.clone(),
        kind: resource.resource.clone(),
        name: "list".to_owned(),
        causes,
        ..Details::default()
    };
    Some(Status::new(500, "StorageReadError", message).with_details(details))
}
