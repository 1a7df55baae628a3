//! The contract of admission plugins.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;

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
    /// What plugins say in either phase.
    pub notes: Notes,
    /// Whether and why the mutating phase runs a second time.
    pub reinvocation: Reinvocation,
}

/// What plugins say besides yes and no; kept even if the request is refused. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Notes(Arc<Mutex<Noted>>);

/// See [`Notes::take`].
#[derive(Debug, Default)]
pub struct Noted {
    /// Texts of `Warning` headers.
    pub warnings: Vec<String>,
    /// Annotations of the audit event, in the order they came.
    pub annotations: Vec<(String, String)>,
}

impl Notes {
    /// Adds a `Warning` header.
    pub fn warn(&self, text: impl Into<String>) {
        self.0.lock().warnings.push(text.into());
    }

    /// Annotates the audit event; the first value of a key stays.
    pub fn annotate(&self, key: impl Into<String>, value: impl Into<String>) {
        let key = key.into();
        let mut noted = self.0.lock();
        if noted.annotations.iter().all(|(known, _)| *known != key) {
            noted.annotations.push((key, value.into()));
        }
    }

    /// What has been said since the last call.
    pub fn take(&self) -> Noted {
        std::mem::take(&mut *self.0.lock())
    }
}

/// The second run of the mutating phase (apiserver `admission/reinvocation.go`): it happens once, if a webhook or policy
/// has changed the object after plugins that would like to see the change.
#[derive(Debug, Clone, Default)]
pub struct Reinvocation {
    /// This is the second run.
    pub is_reinvoke: bool,
    /// A plugin asks for a second run.
    pub should_reinvoke: bool,
    /// What plugins remember from the first run, by plugin.
    pub plugins: BTreeMap<&'static str, Invocations>,
}

/// Webhooks or policies of one plugin that have run (`webhookReinvokeContext`).
#[derive(Debug, Clone, Default)]
pub struct Invocations {
    last_output: Option<Object>,
    invoked: BTreeSet<String>,
    reinvoke: BTreeSet<String>,
}

impl Invocations {
    /// Whether something else changed the object since the plugin's last run.
    pub fn changed_since(&self, object: Option<&Object>) -> bool {
        self.last_output.as_ref() != object
    }

    /// Remembers the plugin's result.
    pub fn set_output(&mut self, object: Option<&Object>) {
        self.last_output = object.cloned();
    }

    /// Whether this one runs in the second run.
    pub fn should_reinvoke(&self, id: &str) -> bool {
        self.reinvoke.contains(id)
    }

    /// This one has run, and is to run again if a later one changes the object.
    pub fn add_invoked(&mut self, id: &str) {
        self.invoked.insert(id.to_owned());
    }

    /// The object has changed: those that have run are to run again.
    pub fn require_reinvoking(&mut self) {
        self.reinvoke.append(&mut self.invoked);
    }
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

    /// Appends the plugin's own metrics in the text format.
    fn metrics(&self, _out: &mut String) {}
}
