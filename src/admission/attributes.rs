//! Words that all plugins use: refusals, and the way into a pod.

use std::fmt::Display;

use api::admission::Attributes;
use api::{Gvr, Object, Status};
use serde_json::Value;

/// `admission.NewForbidden`: names the object as far as it has a name.
pub(crate) fn forbidden(attributes: &Attributes, why: impl Display) -> Status {
    Status::forbidden(&attributes.resource.group_resource(), &shown_name(attributes), why)
}

fn shown_name(attributes: &Attributes) -> String {
    if !attributes.name.is_empty() {
        return attributes.name.clone();
    }
    // The request of a creation does not say the name, and a generated one is not made yet.
    match &attributes.object {
        Some(object) if !object.name().is_empty() => object.name().to_owned(),
        Some(object) => {
            let generate = object.str(&["metadata", "generateName"]).unwrap_or_default();
            if generate.is_empty() { "Unknown" } else { generate }.to_owned()
        }
        None => "Unknown".to_owned(),
    }
}

/// Whether this is the resource itself, not a subresource.
pub(crate) fn is_resource(resource: &Gvr, subresource: &str, group: &str, name: &str) -> bool {
    subresource.is_empty() && resource.group == group && resource.resource == name
}

/// The containers under one of a pod's lists (`containers`, `initContainers`, `ephemeralContainers`).
pub(crate) fn containers<'a>(pod: &'a Object, list: &str) -> &'a [Value] {
    pod.array(&["spec", list])
}

/// A list of an object for changing; made if it is not there.
pub(crate) fn list_mut<'a>(object: &'a mut Object, path: &[&str]) -> Option<&'a mut Vec<Value>> {
    if !object.get(path).is_some_and(Value::is_array) {
        object.set(path, Vec::<Value>::new());
    }
    object.get_mut(path)?.as_array_mut()
}

/// A string member, empty if absent.
pub(crate) fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// A mirror pod stands for a pod that a node runs on its own.
pub(crate) fn is_mirror_pod(pod: &Object) -> bool {
    pod.annotation("kubernetes.io/config.mirror").is_some()
}
