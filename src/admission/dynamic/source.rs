//! Configurations from the informer, compiled once per version of the object.

use std::collections::HashMap;
use std::sync::Arc;

use api::Status;
use client::Resource;
use parking_lot::Mutex;
use serde_json::Value;

use crate::cluster::Cluster;

/// What the objects of a kind mean, in the order of their names.
pub(crate) struct Source<K, C> {
    cluster: Cluster,
    compile: fn(&str, &Value) -> C,
    /// By name: the object's uid and resourceVersion, and what was made of it.
    compiled: Mutex<HashMap<String, (String, Arc<C>)>>,
    kind: std::marker::PhantomData<fn() -> K>,
}

impl<K: Resource, C> Source<K, C> {
    /// `compile` gets the object's name and the object; it must not fail: what cannot be understood is an error when it
    /// is used.
    pub(crate) fn new(cluster: Cluster, compile: fn(&str, &Value) -> C) -> Self {
        Self { cluster, compile, compiled: Mutex::new(HashMap::new()), kind: std::marker::PhantomData }
    }

    /// Whether there may be any object.
    pub(crate) fn may_have_any(&self) -> bool {
        self.cluster.may_have_any::<K>()
    }

    /// All of them, ordered by name.
    pub(crate) async fn all(&self) -> Result<Vec<Arc<C>>, Status> {
        let mut objects = self.cluster.list::<K>().await?;
        objects.sort_by(|a, b| a.name().cmp(b.name()));
        let mut compiled = self.compiled.lock();
        if compiled.len() > objects.len() {
            compiled.retain(|name, _| objects.iter().any(|o| o.name() == name));
        }
        let mut all = Vec::with_capacity(objects.len());
        for object in objects {
            let version = format!("{}/{}", object.uid(), object.resource_version());
            if let Some((known, made)) = compiled.get(object.name())
                && *known == version
            {
                all.push(Arc::clone(made));
                continue;
            }
            let bytes = object.encode().map_err(Status::internal)?;
            let value: Value = serde_json::from_slice(&bytes).map_err(Status::internal)?;
            let made = Arc::new((self.compile)(object.name(), &value));
            compiled.insert(object.name().to_owned(), (version, Arc::clone(&made)));
            all.push(made);
        }
        Ok(all)
    }
}
