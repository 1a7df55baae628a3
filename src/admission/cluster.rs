//! Reading the cluster: the informers first, the API server where they do not know.

use std::sync::Arc;

use api::Status;
use client::{Client, Error, Informers, ListParams, Resource};
use http::Method;

/// What plugins read from. Clones share the informers.
#[derive(Clone)]
pub(crate) struct Cluster {
    client: Client,
    informers: Informers,
}

impl Cluster {
    pub(crate) fn new(client: Client, informers: Informers) -> Self {
        Self { client, informers }
    }

    /// What the informer knows.
    pub(crate) fn known<K: Resource>(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        self.informers.informer::<K>().get(namespace, name)
    }

    /// What the API server has.
    pub(crate) async fn live<K: Resource>(&self, namespace: &str, name: &str) -> Result<Option<Arc<K>>, Status> {
        // Names come from the user's object, which is validated only later: no object has a name that is not one segment
        // of a URL path, nor could such a name be asked for.
        if !is_segment(name) {
            return Ok(None);
        }
        Ok(self.client.get_opt::<K>(namespace, name).await.map_err(status)?.map(Arc::new))
    }

    /// What the informer knows, or else what the API server has.
    pub(crate) async fn get<K: Resource>(&self, namespace: &str, name: &str) -> Result<Option<Arc<K>>, Status> {
        match self.known(namespace, name) {
            Some(found) => Ok(Some(found)),
            None => self.live(namespace, name).await,
        }
    }

    /// All of a cluster-scoped kind; from the API server until the informer has synced.
    pub(crate) async fn list<K: Resource>(&self) -> Result<Vec<Arc<K>>, Status> {
        let informer = self.informers.informer::<K>();
        if informer.has_synced() { Ok(informer.list()) } else { self.live_list("").await }
    }

    /// Whether there may be an object of a kind: `false` only if the informer has synced and knows none.
    pub(crate) fn may_have_any<K: Resource>(&self) -> bool {
        let informer = self.informers.informer::<K>();
        !informer.has_synced() || !informer.is_empty()
    }

    /// All of a namespace as the informer knows; `None` until it has synced.
    pub(crate) fn known_in_namespace<K: Resource>(&self, namespace: &str) -> Option<Vec<Arc<K>>> {
        let informer = self.informers.informer::<K>();
        informer.has_synced().then(|| informer.namespace(namespace))
    }

    /// Any document that the API server has at a path.
    pub(crate) async fn live_json(&self, path: &str) -> Result<serde_json::Value, Status> {
        let bytes = self.client.raw(Method::GET, path, "", Vec::new()).await.map_err(status)?;
        serde_json::from_slice(&bytes).map_err(Status::internal)
    }

    /// Makes an object.
    pub(crate) async fn create<K: Resource>(&self, object: &K) -> Result<(), Status> {
        self.client.create(object).await.map(drop).map_err(status)
    }

    /// Writes the status of an object as it is here; fails with a conflict if somebody else wrote it.
    pub(crate) async fn update_status<K: Resource>(&self, object: &K) -> Result<(), Status> {
        self.client.update_status(object).await.map(drop).map_err(status)
    }

    pub(crate) async fn live_list<K: Resource>(&self, namespace: &str) -> Result<Vec<Arc<K>>, Status> {
        let list = self.client.list::<K>(namespace, &ListParams::default()).await.map_err(status)?;
        Ok(list.into_iter().map(Arc::new).collect())
    }
}

/// Whether a name is one segment of a URL path and has no escapes (`pchar` of RFC 3986, section 3.3).
fn is_segment(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@".contains(&byte);
    !matches!(name, "" | "." | "..") && name.bytes().all(plain)
}

/// A question that failed, as an answer to the client's own request.
fn status(error: Error) -> Status {
    match error {
        Error::Api { code, reason, message, .. } => {
            // Reasons of answers are a closed set; anything else is shown by its code alone.
            let reason = [
                "NotFound",
                "AlreadyExists",
                "Conflict",
                "Forbidden",
                "Unauthorized",
                "Timeout",
                "TooManyRequests",
                "ServiceUnavailable",
            ]
            .into_iter()
            .find(|known| *known == reason)
            .unwrap_or("InternalError");
            Status::new(code, reason, message)
        }
        other => Status::internal(base::chain(&other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_no_path_can_carry_are_not_asked_for() {
        for name in ["gvisor", "a.b-c", "system:node:a", "~"] {
            assert!(is_segment(name), "{name}");
        }
        for name in ["", ".", "..", "a b", "a/b", "a%20b", "a?b", "a#b", "\u{e9}"] {
            assert!(!is_segment(name), "{name}");
        }
    }
}
