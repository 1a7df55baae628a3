//! Ownership of `replicas` through the scale subresource (apimachinery `managedfields/scalehandler.go`).
//!
//! A scale is another document than its parent, with entries of its own: those of the parent that own its replicas. What
//! a write leaves of them goes back to the parent, under the scale's identity; upstream thereby loses the times of
//! entries whose identity has a version, and so does this.

use std::collections::BTreeMap;

use super::managed::{self, Manager, Managers, Owned};
use super::set::{Element, FieldSet};
use crate::object::Object;

/// The version in which entries of a scale are.
const SCALE_VERSION: &str = "autoscaling/v1";

/// Where the versions of the parent keep their replicas: `None` for versions without the subresource.
pub type Paths = BTreeMap<String, Option<Vec<String>>>;

fn elements(path: &[String]) -> Vec<Element> {
    path.iter().map(|name| Element::field(name)).collect()
}

fn of_path(path: &[Element]) -> FieldSet {
    let mut set = FieldSet::default();
    set.insert(path);
    set
}

fn in_scale() -> Vec<Element> {
    vec![Element::field("spec"), Element::field("replicas")]
}

/// Gives a scale the entries of its parent that own its replicas (`ToSubresource`).
///
/// # Errors
/// What makes the parent's entries unreadable.
pub fn to_scale(parent: &Object, paths: &Paths, scale: &mut Object) -> Result<(), String> {
    let mut entries = Managers::new();
    for (manager, owned) in managed::decode(parent)? {
        let Some(Some(path)) = paths.get(&owned.api_version) else { continue };
        if owned.set.has(&elements(path)) {
            let set = of_path(&in_scale());
            entries.insert(manager, Owned { set, api_version: SCALE_VERSION.to_owned(), time: owned.time });
        }
    }
    managed::encode(scale, entries);
    Ok(())
}

/// Takes the entries of a written scale over into its parent, which is written in `api_version` (`ToParent`).
///
/// # Errors
/// What makes the entries unreadable.
pub fn to_parent(parent: &mut Object, paths: &Paths, scale: &Object, api_version: &str) -> Result<(), String> {
    let before = managed::decode(parent)?;
    let mut of_scale = managed::decode(scale)?;
    let mut entries: BTreeMap<Manager, Owned> = BTreeMap::new();
    for (manager, owned) in &before {
        let Some(path) = paths.get(&owned.api_version) else { continue };
        let Some(path) = path.as_ref().map(|p| elements(p)).filter(|p| owned.set.has(p)) else {
            entries.insert(manager.clone(), owned.clone());
            continue;
        };
        if of_scale.remove(manager).is_some() {
            entries.insert(manager.clone(), owned.clone());
            continue;
        }
        // The replicas are the scale's writer's now.
        let set = owned.set.difference(&of_path(&path));
        if !set.is_empty() {
            entries.insert(manager.clone(), Owned { set, ..owned.clone() });
        }
    }
    let own = paths.get(api_version).and_then(Option::as_ref).map(|p| elements(p));
    for (manager, owned) in of_scale {
        let Some(path) = own.as_ref().filter(|_| owned.set.has(&in_scale())) else { continue };
        let time = before.get(&manager).and_then(|owned| owned.time.clone());
        entries.insert(manager, Owned { set: of_path(path), api_version: api_version.to_owned(), time });
    }
    managed::encode(parent, entries);
    Ok(())
}
