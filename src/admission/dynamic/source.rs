//! Configurations from the informer and from files, compiled once per version of the object.

use std::collections::HashMap;
use std::sync::Arc;

use api::{Gvr, Status};
use client::Resource;
use parking_lot::Mutex;
use serde_json::Value;

use super::is_configuration;
use super::manifests::Manifests;
use crate::cluster::Cluster;

/// What the objects of a kind mean, in the order of their names.
pub(crate) struct Source<K, C> {
    cluster: Cluster,
    compile: fn(&str, &Value) -> C,
    /// By name: the object's uid and resourceVersion, and what was made of it.
    compiled: Mutex<HashMap<String, (String, Arc<C>)>>,
    /// Those of files, if there is a folder, and what was made of them, with the hash of their text.
    files: Option<Arc<Manifests>>,
    of_files: Mutex<(String, Vec<Arc<C>>)>,
    kind: std::marker::PhantomData<fn() -> K>,
}

impl<K: Resource, C> Source<K, C> {
    /// `compile` gets the object's name and the object; it must not fail: what cannot be understood is an error when it
    /// is used.
    pub(crate) fn new(cluster: Cluster, files: Option<Arc<Manifests>>, compile: fn(&str, &Value) -> C) -> Self {
        Self {
            cluster,
            compile,
            compiled: Mutex::new(HashMap::new()),
            files,
            of_files: Mutex::default(),
            kind: std::marker::PhantomData,
        }
    }

    /// Whether there may be any object that is asked about `resource`: only files are about configurations.
    pub(crate) fn may_concern(&self, resource: &Gvr) -> bool {
        self.files.is_some() || (!is_configuration(resource) && self.cluster.may_have_any::<K>())
    }

    /// Those that are asked about `resource`: first those of files, then those of the API.
    pub(crate) async fn concerning(&self, resource: &Gvr) -> Result<[Vec<Arc<C>>; 2], Status> {
        let own = if is_configuration(resource) { Vec::new() } else { self.all().await? };
        Ok([self.of_files(), own])
    }

    fn of_files(&self) -> Vec<Arc<C>> {
        let Some(files) = &self.files else { return Vec::new() };
        let content = files.content();
        let mut made = self.of_files.lock();
        if made.0 != content.hash {
            let compile =
                |object: &api::Object| Arc::new((self.compile)(object.name(), &Value::Object(object.0.clone())));
            *made = (content.hash.clone(), content.of(K::KIND).map(compile).collect());
        }
        made.1.clone()
    }

    /// All of the API, ordered by name.
    async fn all(&self) -> Result<Vec<Arc<C>>, Status> {
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
