//! One client's watch on a cache.

use std::sync::Arc;

use super::entry::{Change, Entry};
use super::queue::{Receiver, Sender};
use super::view::Selection;

/// What the client is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    Added,
    Modified,
    Deleted,
}

impl EventKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }
}

/// A change as one watcher sees it.
pub struct Event {
    pub kind: EventKind,
    pub entry: Arc<Entry>,
    /// The object before the change, if the selection wants to know.
    pub previous: Option<Arc<Entry>>,
}

impl Event {
    /// How a change looks through a selection: an object that begins or ceases to match is added or deleted. A deletion
    /// shows the object as it last matched, at the revision of the change (etcd3 `watcher.go` `transform`).
    pub fn of(change: &Change, selection: &Selection) -> Option<Self> {
        let before = change.previous.as_ref().is_some_and(|p| selection.matches(p));
        let now = !change.deleted && selection.matches(&change.entry);
        let kind = match (before, now) {
            (false, false) => return None,
            (false, true) => EventKind::Added,
            (true, true) => EventKind::Modified,
            (true, false) => EventKind::Deleted,
        };
        let entry = match (&change.previous, kind == EventKind::Deleted && !change.deleted) {
            (Some(previous), true) => Arc::new(previous.at(change.revision)),
            _ => Arc::clone(&change.entry),
        };
        let previous = change.previous.clone().filter(|_| selection.tells_previous);
        Some(Self { kind, entry, previous })
    }

    /// The change through a narrower selection than the one it was seen through, whose served forms have been prepared
    /// ([`super::view::View::prepare`]).
    pub fn narrowed(self, selection: &Selection) -> Option<Self> {
        let deleted = self.kind == EventKind::Deleted;
        let entry = Arc::clone(&self.entry);
        let change = Change { revision: entry.revision, entry, previous: self.previous, deleted };
        Self::of(&change, selection)
    }
}

/// The cache's end of a watch.
pub(super) struct Slot {
    pub selection: Selection,
    pub sender: Sender,
}

/// The client's end. `receiver` ends when the client was too slow or the cache had to begin again.
pub struct Watcher {
    pub receiver: Receiver,
    /// The cache's revision when the watch was registered.
    pub revision: i64,
}
