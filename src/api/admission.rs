//! The contract of admission plugins.

use async_trait::async_trait;

use crate::names::{Gvk, Gvr};
use crate::object::Object;
use crate::status::Status;
use crate::user::UserInfo;

/// What is being admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    Create,
    Update,
    Delete,
    Connect,
}

impl Operation {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
        }
    }
}

/// A request as admission sees it.
#[derive(Debug, Clone)]
pub struct Attributes {
    pub operation: Operation,
    pub gvk: Gvk,
    pub resource: Gvr,
    /// Empty for the main resource.
    pub subresource: String,
    pub namespace: String,
    /// Empty while `generateName` has not been resolved.
    pub name: String,
    /// The new object; `None` for deletions.
    pub object: Option<Object>,
    pub old_object: Option<Object>,
    /// `CreateOptions`, `UpdateOptions` … as sent.
    pub options: Option<Object>,
    pub user: UserInfo,
    pub dry_run: bool,
    /// `Warning` headers that plugins add.
    pub warnings: Vec<String>,
}

impl Attributes {
    /// Whether this is `operation` on `group`'s `resource` itself, no subresource.
    pub fn is(&self, operation: Operation, group: &str, resource: &str) -> bool {
        self.operation == operation
            && self.subresource.is_empty()
            && self.resource.group == group
            && self.resource.resource == resource
    }
}

/// One admission plugin. Both phases do nothing unless overridden.
#[async_trait]
pub trait AdmissionPlugin: Send + Sync {
    /// Upstream's plugin name.
    fn name(&self) -> &'static str;

    /// Cheap check, made before either phase, so that a plugin costs nothing where it has nothing to say.
    fn handles(&self, operation: Operation, resource: &Gvr, subresource: &str) -> bool;

    /// May change `object`. Runs before validation.
    async fn admit(&self, _attributes: &mut Attributes) -> Result<(), Status> {
        Ok(())
    }

    /// May only refuse. Runs after mutation, defaulting and validation.
    async fn validate(&self, _attributes: &Attributes) -> Result<(), Status> {
        Ok(())
    }
}
