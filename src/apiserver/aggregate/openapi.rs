//! OpenAPI documents of aggregated servers in ours.

use std::sync::Arc;

use serde_json::Value;

use super::{Remote, Snapshot};

/// Where a version's version 3 document is.
pub(crate) enum Place {
    /// The server has it: requests go there.
    Served,
    /// It is made from the version 2 document.
    Made(Arc<Value>),
}

impl Remote {
    /// The path that names the version in the index: `apis/GROUP/VERSION`.
    fn index_path(&self) -> String {
        self.path().trim_start_matches('/').to_owned()
    }

    pub(crate) fn document(&self) -> Option<Place> {
        let told = self.told.as_ref()?;
        match &told.openapi {
            Some(index) => index.contains_key(&self.index_path()).then_some(Place::Served),
            None => told.openapi_v2.clone().map(Place::Made),
        }
    }
}

/// Adds the versions of aggregated servers to the index of version 3.
pub(crate) fn extend_index(snapshot: &Snapshot, index: &mut Value) {
    let Some(paths) = index["paths"].as_object_mut() else { return };
    for remote in snapshot.all() {
        let path = remote.index_path();
        match (remote.document(), &remote.told) {
            (Some(Place::Served), Some(told)) => {
                if let Some(entry) = told.openapi.as_ref().and_then(|index| index.get(&path)) {
                    paths.insert(path, entry.clone());
                }
            }
            (Some(Place::Made(ref part)), _) => {
                let url = format!("/openapi/v3/{path}?hash={:016X}", fingerprint(part));
                paths.insert(path, serde_json::json!({"serverRelativeURL": url}));
            }
            _ => drop(paths.remove(&path)),
        }
    }
}

/// Changes when the document does.
pub(crate) fn fingerprint(part: &Value) -> u64 {
    base::hash::fnv64a(part.to_string().as_bytes())
}

/// Changes when the document of everything does.
pub(crate) fn generation(table: u64, parts: &[Arc<Value>]) -> u64 {
    parts.iter().fold(table, |sum, part| sum.rotate_left(7) ^ fingerprint(part))
}

/// The version 2 parts of all aggregated servers, in their order by name.
pub(crate) fn parts(snapshot: &Snapshot) -> Vec<Arc<Value>> {
    let mut remotes: Vec<&Arc<Remote>> = snapshot.all().collect();
    remotes.sort_by(|a, b| a.name.cmp(&b.name));
    remotes.iter().filter_map(|r| r.told.as_ref()?.openapi_v2.clone()).collect()
}
