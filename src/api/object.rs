//! A type-erased Kubernetes object.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::names::{Gvk, ObjectKey};

/// A JSON object with the metadata accessors that generic code needs.
///
/// Accessors tolerate missing or ill-typed members (they read as absent): shape is checked by the schema, once,
/// where an object enters.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Object(pub Map<String, Value>);

impl Object {
    /// Wraps a JSON value; `None` unless it is a JSON object.
    pub fn from_value(value: Value) -> Option<Self> {
        match value {
            Value::Object(map) => Some(Self(map)),
            _ => None,
        }
    }

    pub fn into_value(self) -> Value {
        Value::Object(self.0)
    }

    /// A member by path of field names, e.g. `&["spec", "nodeName"]`.
    pub fn get(&self, path: &[&str]) -> Option<&Value> {
        let (first, rest) = path.split_first()?;
        rest.iter().try_fold(self.0.get(*first)?, |value, name| value.as_object()?.get(*name))
    }

    pub fn get_mut(&mut self, path: &[&str]) -> Option<&mut Value> {
        let (first, rest) = path.split_first()?;
        rest.iter().try_fold(self.0.get_mut(*first)?, |value, name| value.as_object_mut()?.get_mut(*name))
    }

    pub fn str(&self, path: &[&str]) -> Option<&str> {
        self.get(path)?.as_str()
    }

    pub fn i64(&self, path: &[&str]) -> Option<i64> {
        self.get(path)?.as_i64()
    }

    pub fn bool(&self, path: &[&str]) -> Option<bool> {
        self.get(path)?.as_bool()
    }

    pub fn array(&self, path: &[&str]) -> &[Value] {
        self.get(path).and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }

    /// Sets a member, making the objects on the way; a non-object on the way is replaced.
    pub fn set(&mut self, path: &[&str], value: impl Into<Value>) {
        let Some((last, parents)) = path.split_last() else { return };
        let mut map = &mut self.0;
        for name in parents {
            let entry = map.entry((*name).to_owned()).or_insert_with(|| Value::Object(Map::new()));
            if !entry.is_object() {
                *entry = Value::Object(Map::new());
            }
            let Value::Object(next) = entry else { return };
            map = next;
        }
        map.insert((*last).to_owned(), value.into());
    }

    /// Removes a member and returns it.
    pub fn remove(&mut self, path: &[&str]) -> Option<Value> {
        let (last, parents) = path.split_last()?;
        if parents.is_empty() {
            return self.0.remove(*last);
        }
        self.get_mut(parents)?.as_object_mut()?.remove(*last)
    }

    pub fn api_version(&self) -> &str {
        self.str(&["apiVersion"]).unwrap_or_default()
    }

    pub fn kind(&self) -> &str {
        self.str(&["kind"]).unwrap_or_default()
    }

    /// Writes `apiVersion` and `kind`.
    pub fn set_gvk(&mut self, gvk: &Gvk) {
        self.set(&["apiVersion"], gvk.api_version());
        self.set(&["kind"], gvk.kind.clone());
    }

    pub fn name(&self) -> &str {
        self.str(&["metadata", "name"]).unwrap_or_default()
    }

    pub fn namespace(&self) -> &str {
        self.str(&["metadata", "namespace"]).unwrap_or_default()
    }

    pub fn key(&self) -> ObjectKey {
        ObjectKey::new(self.namespace(), self.name())
    }

    pub fn uid(&self) -> &str {
        self.str(&["metadata", "uid"]).unwrap_or_default()
    }

    /// The opaque version as the API shows it; empty if unset.
    pub fn resource_version(&self) -> &str {
        self.str(&["metadata", "resourceVersion"]).unwrap_or_default()
    }

    pub fn generation(&self) -> i64 {
        self.i64(&["metadata", "generation"]).unwrap_or_default()
    }

    pub fn label(&self, key: &str) -> Option<&str> {
        self.str(&["metadata", "labels", key])
    }

    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.str(&["metadata", "annotations", key])
    }

    /// Labels in order of their keys.
    pub fn labels(&self) -> impl Iterator<Item = (&str, &str)> {
        self.get(&["metadata", "labels"])
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
            .filter_map(|(key, value)| Some((key.as_str(), value.as_str()?)))
    }

    pub fn finalizers(&self) -> impl Iterator<Item = &str> {
        self.array(&["metadata", "finalizers"]).iter().filter_map(Value::as_str)
    }

    pub fn is_deleting(&self) -> bool {
        self.str(&["metadata", "deletionTimestamp"]).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn set_makes_the_way_and_remove_undoes_it() {
        let mut object = Object::default();
        object.set(&["metadata", "labels", "app"], "web");
        assert_eq!(object.label("app"), Some("web"));
        assert_eq!(object.remove(&["metadata", "labels", "app"]), Some(Value::from("web")));
        assert_eq!(object.label("app"), None);
        assert_eq!(object.remove(&["spec", "missing"]), None);
    }

    #[test]
    fn ill_typed_members_read_as_absent() {
        let object = Object::from_value(serde_json::json!({"metadata": {"name": 3, "labels": []}})).unwrap();
        assert_eq!(object.name(), "");
        assert_eq!(object.labels().count(), 0);
    }
}
