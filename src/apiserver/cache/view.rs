//! One served version of what a storage prefix holds, and which objects a request selects.

use std::sync::Arc;

use api::kind::KindDef;
use api::selector::{FieldSelector, LabelSelector};
use api::{GroupResource, Object, Status};
use bytes::{BufMut, Bytes, BytesMut};

use super::entry::Entry;
use super::splice::TypeMembers;

/// A served version over a cache.
pub struct View {
    pub def: Arc<KindDef>,
    /// Tells the versions of one storage apart in [`Entry::encoded`].
    pub index: usize,
    /// Stored bytes are what is served.
    pub direct: bool,
}

impl View {
    pub fn new(def: Arc<KindDef>, index: usize) -> Self {
        let direct =
            def.custom.is_none() && def.storage.as_ref().is_some_and(|s| s.gvk == def.gvk && s.conversion.is_none());
        Self { def, index, direct }
    }

    /// The object in the served version, with its resourceVersion.
    pub fn object(&self, entry: &Entry) -> Result<Object, Status> {
        if self.def.custom.as_ref().is_some_and(|c| c.has_webhook()) {
            return serde_json::from_slice(&self.json(entry)?).map_err(Status::internal);
        }
        self.from_stored(entry.object()?)
    }

    pub fn from_stored(&self, object: Object) -> Result<Object, Status> {
        if self.direct {
            return Ok(object);
        }
        if let Some(custom) = &self.def.custom {
            return custom.from_stored(object);
        }
        let mut object = match self.def.storage.as_ref().and_then(|s| s.conversion.as_ref()) {
            Some(conversion) => {
                let mut object = conversion.from_stored(object)?;
                // Which zero values Go prints differs from version to version.
                api::codec::normalize(&self.def.schema, &mut object).map_err(Status::internal)?;
                object
            }
            None => object,
        };
        object.set_gvk(&self.def.gvk);
        Ok(object)
    }

    /// Makes the served form of objects that a webhook converts, in one call, so that [`View::json`] and
    /// [`View::object`] find it. Others need no preparation.
    ///
    /// # Errors
    /// What the webhook did wrong.
    pub async fn prepare(&self, entries: &[Arc<Entry>]) -> Result<(), Status> {
        let Some(custom) = self.def.custom.as_ref().filter(|c| c.has_webhook()) else { return Ok(()) };
        let which = ("json", self.index);
        let wanting: Vec<&Arc<Entry>> = entries.iter().filter(|e| !e.has_encoded(which)).collect();
        let objects = wanting.iter().map(|e| custom.read(e.object()?)).collect::<Result<Vec<_>, Status>>()?;
        let converted = custom.convert_all(objects, &self.def.gvk.version).await?;
        for (entry, object) in wanting.into_iter().zip(converted) {
            let bytes = serde_json::to_vec(&object).map(Bytes::from).map_err(Status::internal)?;
            entry.encoded(which, || Ok(bytes))?;
        }
        Ok(())
    }

    /// The object as the store keeps it, without resourceVersion.
    pub async fn to_stored(&self, mut object: Object) -> Result<Object, Status> {
        let Some(storage) = &self.def.storage else { return Err(Status::internal("this kind is not stored")) };
        object.remove(&["metadata", "resourceVersion"]);
        object.remove(&["metadata", "selfLink"]);
        if let Some(custom) = &self.def.custom {
            return custom.to_stored(object).await;
        }
        let mut object = match &storage.conversion {
            Some(conversion) => conversion.to_stored(object)?,
            None => object,
        };
        object.set_gvk(&storage.gvk);
        Ok(object)
    }

    /// The served JSON.
    pub fn json(&self, entry: &Entry) -> Result<Bytes, Status> {
        if self.direct {
            return Ok(entry.json().clone());
        }
        entry.encoded(("json", self.index), || {
            let stored = entry.object()?;
            let object = self.from_stored(stored.clone())?;
            if object == stored {
                // Most custom resources are served as they are stored.
                return Ok(entry.json().clone());
            }
            serde_json::to_vec(&object).map(Bytes::from).map_err(Status::internal)
        })
    }
}

impl View {
    /// Whether the items of lists say their type: those of custom resources do, Go's typed ones leave it to the list.
    pub fn items_say_type(&self) -> bool {
        self.def.custom.is_some()
    }

    /// Adds the served JSON as an item of a list.
    pub fn put_item(&self, out: &mut BytesMut, entry: &Entry) -> Result<(), Status> {
        if self.items_say_type() {
            out.put_slice(&self.json(entry)?);
        } else if self.direct {
            entry.type_members().without(entry.json()).into_iter().for_each(|piece| out.put_slice(piece));
        } else {
            let json = self.json(entry)?;
            TypeMembers::find(&json).without(&json).into_iter().for_each(|piece| out.put_slice(piece));
        }
        Ok(())
    }
}

/// What a list or watch wants of a resource.
#[derive(Clone)]
pub struct Selection {
    pub view: Arc<View>,
    /// Empty: all namespaces.
    pub namespace: String,
    /// Empty: all names. With a namespace (or a cluster-scoped kind) it is a single key.
    pub name: String,
    pub labels: LabelSelector,
    pub fields: FieldSelector,
    /// Events tell the object before the change too.
    pub tells_previous: bool,
}

impl Selection {
    pub fn everything(view: Arc<View>, namespace: &str) -> Self {
        Self {
            view,
            namespace: namespace.to_owned(),
            name: String::new(),
            labels: LabelSelector::everything(),
            fields: FieldSelector::everything(),
            tells_previous: false,
        }
    }

    /// The same without field selectors, where these look at what only a webhook can tell of an object in another version:
    /// then [`View::prepare`] comes before [`Selection::matches`].
    pub fn before_conversion(&self) -> Option<Self> {
        let converts = self.view.def.custom.as_ref().is_some_and(api::custom::CustomKind::has_webhook)
            && !self.fields.requirements().iter().all(|r| is_own_field(&r.field));
        converts.then(|| Self { fields: FieldSelector::everything(), tells_previous: true, ..self.clone() })
    }

    /// Whether selectors (beyond the namespace) narrow the result.
    pub fn is_filtered(&self) -> bool {
        !self.labels.is_empty() || !self.fields.is_empty() || !self.name.is_empty()
    }

    /// The one key that can match, if the selection names it.
    pub fn single_key(&self) -> Option<String> {
        match (self.name.is_empty(), self.view.def.namespaced, self.namespace.is_empty()) {
            (true, ..) | (false, true, true) => None,
            (false, true, false) => Some(format!("{}/{}", self.namespace, self.name)),
            (false, false, _) => Some(self.name.clone()),
        }
    }

    /// What is selected from.
    pub fn resource(&self) -> GroupResource {
        let def = &self.view.def;
        GroupResource::new(def.gvk.group.clone(), def.resource.clone())
    }

    /// Prefix of the keys that can match.
    pub fn key_prefix(&self) -> String {
        if self.view.def.namespaced && !self.namespace.is_empty() {
            format!("{}/", self.namespace)
        } else {
            String::new()
        }
    }

    pub fn matches(&self, entry: &Entry) -> bool {
        if self.view.def.namespaced && !self.namespace.is_empty() && entry.namespace() != self.namespace {
            return false;
        }
        if !self.name.is_empty() && entry.name() != self.name {
            return false;
        }
        if !self.labels.is_empty() && !self.labels.matches(|key| entry.label(key)) {
            return false;
        }
        if self.fields.is_empty() {
            return true;
        }
        if self.fields.requirements().iter().all(|r| is_own_field(&r.field)) {
            return self.fields.matches(|path| own_field(entry, path));
        }
        entry.with_fields(&self.view, |values| {
            self.fields.matches(|path| {
                own_field(entry, path).or_else(|| {
                    let index = self.view.def.selectable_fields.iter().position(|f| f.path == path)?;
                    values.get(index).map(|v| &**v)
                })
            })
        })
    }
}

/// Whether every object has the field, in every version alike.
fn is_own_field(path: &str) -> bool {
    matches!(path, "metadata.name" | "metadata.namespace")
}

fn own_field<'e>(entry: &'e Entry, path: &str) -> Option<&'e str> {
    match path {
        "metadata.name" => Some(entry.name()),
        "metadata.namespace" => Some(entry.namespace()),
        _ => None,
    }
}
