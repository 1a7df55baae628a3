//! The contract of objects that define kinds at run time (CRDs): what the API server asks of the room that knows them.
//!
//! Everything here is pure: the API server does the reading and writing.

use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;

use crate::kind::KindDef;
use crate::names::Gvr;
use crate::object::Object;

/// What counts of one definition for its neighbours and for what is served.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    pub group: String,
    /// Plural, singular and short names that the definition holds.
    pub names: Vec<String>,
    /// Kind and list kind that it holds.
    pub kinds: Vec<String>,
    /// Not all names that it asks for are its own.
    pub wanting: bool,
    /// Differs when what is served does.
    pub served: u64,
}

/// How the removal of a definition's objects stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cleanup {
    /// It has begun.
    Begun,
    /// There is nothing to remove: why, as reason and message.
    Needless(&'static str, &'static str),
    /// It failed: reason and message.
    Failed(&'static str, String),
    /// All objects are gone.
    Done,
}

/// Definitions of kinds.
pub trait Definitions: Send + Sync {
    /// The resource whose objects are definitions.
    fn resource(&self) -> Gvr;

    fn facts(&self, definition: &Object) -> Facts;

    /// The kinds that a definition makes the server serve, best version first; none if it is not accepted. `bytes` is the
    /// definition as JSON, of which the kinds read their schemas when they are used.
    fn kinds(&self, definition: &Object, bytes: &Bytes) -> Vec<Arc<KindDef>>;

    /// The kind in its storage version, served or not: through it the objects are removed.
    fn stored_kind(&self, definition: &Object, bytes: &Bytes) -> Option<Arc<KindDef>>;

    /// The definition with the status it should have among its `neighbours` of the same group; `None` if that is so.
    fn settle(&self, definition: &Object, neighbours: &[&Facts], now: Timestamp) -> Option<Object>;

    /// What stands in the way of removing a definition's objects, if they are to be removed: `None` if they are not,
    /// `Some(Begun)` if nothing stands in the way.
    fn cleanup(&self, definition: &Object) -> Option<Cleanup>;

    /// Writes down how the removal stands; the last finalizer goes with [`Cleanup::Done`] and [`Cleanup::Needless`].
    fn note_cleanup(&self, definition: &mut Object, how: &Cleanup, now: Timestamp);
}
